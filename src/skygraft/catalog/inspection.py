"""Check a catalogue: report its format, dialect, types and bands, and all problems with it."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import QTable, Table

from skygraft.catalog.checks import MAX_LISTED, check_duplicates, find_problems
from skygraft.catalog.column_maps import mapped_names, nearest, rename_columns
from skygraft.catalog.columns import refused
from skygraft.catalog.dialects import Dialect, Source, build_table, carried_columns, choose_dialect
from skygraft.catalog.hats_files import FolderCatalog
from skygraft.catalog.io import file_format, is_streamed, open_stream, read_table, resolve_stamps, stamps_beside
from skygraft.catalog.schema import COLUMNS, MOTION, bands_of, strings, values
from skygraft.errors import CatalogError
from skygraft.place_names import shown_place
from skygraft.places import bring_all, is_place

__all__ = ["BandSummary", "CatalogProblem", "CatalogReport", "inspect_catalog"]

_FAINTEST, _BRIGHTEST = 60.0, -35.0
_CLOSE = 6.2832


@dataclass(frozen=True)
class CatalogProblem:
    """One kind of problem.

    Parameters
    ----------
    text : str
        What it is, of the first row.
    n : int
        Rows that have it; 0 if it is of the whole catalogue.
    rows : tuple of int
        The first of them, from 0.
    ids : tuple of int
        Their injection ids.
    keepable : bool
        Whether ``on_bad="flag"`` keeps these rows, undrawn.
    """

    text: str
    n: int = 0
    rows: tuple[int, ...] = ()
    ids: tuple[int, ...] = ()
    keepable: bool = False


@dataclass(frozen=True)
class BandSummary:
    """Sources of a band: how many have a magnitude, the brightest and the faintest."""

    n: int
    brightest: float
    faintest: float


@dataclass
class CatalogReport:
    """What a catalogue is, and what is wrong with it.

    Parameters
    ----------
    path : str
        The file or folder.
    format : str
        Format of the file, or what the folder is.
    dialect : str
        Dialect; empty if none or several were recognised.
    n_rows : int
        Rows.
    source_types : dict of str to int
        Rows of each type.
    bands : dict of str to BandSummary
        Magnitudes.
    units : dict of str to str
        Columns whose unit the table names.
    contents : dict of str to int
        Rows that have more than a place and a magnitude: that move, vary, belong together, ...
    unused : list of str
        Columns that are not used.
    problems : list of CatalogProblem
        What is wrong.
    notes : list of str
        What may be wrong.
    """

    path: str
    format: str = ""
    dialect: str = ""
    n_rows: int = 0
    source_types: dict[str, int] = field(default_factory=dict)
    bands: dict[str, BandSummary] = field(default_factory=dict)
    units: dict[str, str] = field(default_factory=dict)
    contents: dict[str, int] = field(default_factory=dict)
    unused: list[str] = field(default_factory=list)
    problems: list[CatalogProblem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON types."""
        return asdict(self)


def inspect_catalog(
    path: str | os.PathLike[str],
    *,
    dialect: str = "auto",
    band: str | None = None,
    columns: Mapping[str, str] | None = None,
    hdu: int | str | None = None,
    chunk_rows: int = 500_000,
) -> CatalogReport:
    """Check a catalogue, and report all problems with it; none is raised.

    Parameters
    ----------
    path : path-like
        File or folder, as for `skygraft.read_catalog`.
    dialect, band, columns, hdu
        As for `skygraft.read_catalog`.
    chunk_rows : int
        Rows in memory at a time, of Parquet and HATS.

    Returns
    -------
    CatalogReport
    """
    path = bring_all(path) if is_place(path) else path
    report = CatalogReport(shown_place(path))
    look = _Look(report, band, dict(columns or {}))
    try:
        with ExitStack() as stack:
            names, chunks = _open(Path(path), hdu, chunk_rows, report, stack)
            chosen = choose_dialect(mapped_names(names, look.columns), dialect, origin=os.fspath(path))
            report.dialect = chosen.name
            for raw in chunks:
                look.at(raw, chosen)
        look.finish(chosen)
    except (CatalogError, OSError) as error:
        report.problems.append(CatalogProblem(str(error).removeprefix(f"{report.path}: ")))
    if not report.n_rows and not report.problems:
        report.problems.append(CatalogProblem("the catalogue has no rows"))
    return report


def _open(
    path: Path, hdu: int | str | None, chunk_rows: int, report: CatalogReport, stack: ExitStack
) -> tuple[list[str], Iterator[Table]]:
    if is_streamed(path):
        file = stack.enter_context(open_stream(path))
        report.format = "parquet"
        if isinstance(file, FolderCatalog):
            report.format = "HATS" if file.is_hats else "folder of Parquet files"
        return list(file.names), file.chunks(chunk_rows)
    report.format = file_format(path)
    table = read_table(path, hdu=hdu)
    return [*table.colnames, *refused(table)], iter([table])


class _Look:
    """Goes through the chunks of a catalogue."""

    def __init__(self, report: CatalogReport, band: str | None, columns: dict[str, str]) -> None:
        self.report, self.columns, self._band = report, columns, band
        self._ids: list[Any] = []
        self._found: dict[str, CatalogProblem] = {}
        self._types: Counter[str] = Counter()
        self._contents: Counter[str] = Counter()
        self._names: list[str] = []
        self._near_zero = True

    def at(self, raw: Table, dialect: Dialect) -> None:
        """Take in a chunk."""
        report, first = self.report, self.report.n_rows
        report.n_rows += len(raw)
        try:
            table = rename_columns(raw, self.columns, origin=report.path)
            source = Source(table, report.path, first)
            self._names = source.names
            converted = dialect.convert(source, self._band)
            converted |= carried_columns(source, dialect, converted)
            built = build_table(converted, source, dialect)
        except CatalogError as error:
            self._add(str(error).removeprefix(f"{report.path}: "), 0, (), (), False)
            return
        try:
            resolve_stamps(built, stamps_beside(Path(report.path)))
        except CatalogError as error:
            self._add(error.message, 0, (), (), False)
        ids = values(built, "injection_id")
        self._ids.append(ids)
        for found in find_problems(built, dialect.positions):
            rows = tuple(first + row for row in found.rows)
            self._add(found.text, found.n, rows, tuple(ids[list(found.rows)].tolist()), found.keepable)
        self._count(built)
        if first == 0:
            units = {name: getattr(table[name], "unit", None) for name in table.colnames}
            report.units = {name: str(unit) for name, unit in units.items() if unit is not None}
            used = {*converted, *self.columns, *built.colnames[: built.colnames.index("flags")]}
            report.unused = [name for name in self._names if name not in used and name not in COLUMNS]
            if not dialect.keeps_extra_columns:
                report.unused = []  # a dialect's own names are not known here

    def _add(self, text: str, n: int, rows: tuple[int, ...], ids: tuple[int, ...], keepable: bool) -> None:
        # The same problem in another row has other numbers and words in quotes.
        kind = re.sub(r"'[^']*'|[-+]?\d[\d.eE+-]*|\b(?:nan|inf)\b", "#", text)
        former = self._found.get(kind)
        if former is not None:
            text, n = former.text, former.n + n
            rows, ids = (former.rows + rows)[:MAX_LISTED], (former.ids + ids)[:MAX_LISTED]
        self._found[kind] = CatalogProblem(text, n, rows, ids, keepable)

    def _count(self, table: QTable) -> None:
        self._types.update(strings(table, "source_type").tolist())
        for band in bands_of(table):
            mag = values(table, f"mag_{band}")
            mag = mag[np.isfinite(mag)]
            former = self.report.bands.get(band, BandSummary(0, np.inf, -np.inf))
            low, high = (float(mag.min()), float(mag.max())) if mag.size else (np.inf, -np.inf)
            self.report.bands[band] = BandSummary(
                former.n + int(mag.size), min(former.brightest, low), max(former.faintest, high)
            )
        ra, dec = values(table, "ra"), values(table, "dec")
        self._near_zero &= bool(
            np.nanmax(np.abs(ra), initial=0) < _CLOSE and np.nanmax(np.abs(dec), initial=0) < 1.5709
        )
        for what, having in _CONTENTS.items():
            n = int(np.count_nonzero(having(table)))
            if n:
                self._contents[what] += n

    def finish(self, dialect: Dialect) -> None:
        """Put together what is of the whole catalogue."""
        report = self.report
        report.problems += self._found.values()
        report.source_types = dict(self._types.most_common())
        report.contents = {what: self._contents[what] for what in _CONTENTS if self._contents[what]}
        try:
            check_duplicates(np.concatenate(self._ids) if self._ids else np.empty(0, dtype=np.int64))
        except CatalogError as error:
            report.problems.append(CatalogProblem(str(error)))
        if dialect.positions == "deg" and self._near_zero and sum(self._types.values()) >= 10:
            report.notes.append(
                "all positions are within 6.2832 of 0, as if they were radians; this dialect has degrees"
            )
        for band, found in report.bands.items():
            if found.n and (found.faintest > _FAINTEST or found.brightest < _BRIGHTEST):
                report.notes.append(
                    f"mag_{band} is from {found.brightest:g} to {found.faintest:g}: are these AB magnitudes?"
                )
            if not found.n:
                report.notes.append(f"mag_{band} has no magnitude at all: nothing is drawn in {band}")
        for name in report.unused:
            close = nearest(name, [other for other in COLUMNS if other not in self._names], likeness=0.7)
            if close and len(name) > 4:
                report.notes.append(f"the column {name!r} is not used. {close}")


def _given(name: str) -> Any:
    spec = COLUMNS[name]

    def having(table: QTable) -> Any:
        if name not in table.colnames:
            return np.zeros(len(table), dtype=np.bool_)
        column = values(table, name)
        return ~np.isnan(column) if spec.kind == "float" and np.isnan(spec.default) else column != spec.default

    return having


def _any_of(*names: str) -> Any:
    return lambda table: np.any([_given(name)(table) for name in names], axis=0)


_CONTENTS: dict[str, Any] = {
    "of one visit only": _given("visit"),
    "of a window of time": _any_of("mjd_from", "mjd_to"),
    "with a light curve of a table": _given("light_curve"),
    "with an analytic light curve": _given("variability"),
    "that move": _any_of(*MOTION, "parallax"),
    "of an object with other rows": _given("object_id"),
    "of a group": _given("group_id"),
    "with a host": _given("host_id"),
    "lensed": _any_of("shear", "magnification"),
    "in science images or templates only": lambda table: np.isin(
        strings(table, "inject_into"), ("science", "template")
    ),
    "flagged already": _given("flags"),
}
"""What rows may have more than a place and magnitudes."""
