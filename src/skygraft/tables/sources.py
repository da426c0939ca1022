"""The catalogue with what became of each source over all images: one row a source, columns for every band.

An object of an ephemeris has a row for each piece of its way, with what became of it at the piece's times.

Plain functions of some patches of the catalogue, for workers. They read the truth tables of every home patch whose
images read the patch's sources.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Lock

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from skygraft.catalog.arrow_arrays import arrow_array
from skygraft.catalog.schema import WINDOW, is_mag_column
from skygraft.disk import NamedTogether
from skygraft.errors import CampaignError
from skygraft.records.files import Layout, digest
from skygraft.tables.arrow import TableWriter, ascends, note_of, numbers, read_groups
from skygraft.tables.joining import AGAIN, write_piece
from skygraft.tables.truth import TABLE_VERSION

__all__ = [
    "PatchSources",
    "SourcesDigest",
    "band_columns",
    "catalog_bands",
    "consolidate_sources",
]

_TRUTH = ("injection_id", "band", "mjd", "inst_flux", "flux_deposited", "aperture_fraction", "psf_fwhm", "stamp_size")
_TRUTH_COLUMNS = (*_TRUTH, "flags", "is_primary")

_BAND_COLUMNS: dict[str, tuple[pa.DataType, str]] = {
    "n_images": (pa.int64(), ""),
    "n_drawn": (pa.int64(), ""),
    "n_primary": (pa.int64(), ""),
    "flux_fraction": (pa.float64(), ""),
    "aperture_fraction": (pa.float64(), ""),
    "psf_fwhm": (pa.float64(), "arcsec"),
    "first_mjd": (pa.float64(), "d"),
    "last_mjd": (pa.float64(), "d"),
    "flags": (pa.int64(), ""),
}
_ALL_BANDS = ("n_images", "n_drawn", "n_primary", "first_mjd", "last_mjd", "flags")
_MEANS = ("flux_fraction", "aperture_fraction", "psf_fwhm")
_SMALL_ROWS = 32_768
_KEPT_ROWS, _LEAST_ROWS = 32 * _SMALL_ROWS, 8192
"""Rows of truth tables that are kept at most, each of 100 bytes; and as how many a small table counts."""


@dataclass(frozen=True)
class PatchSources:
    """One patch of the catalogue, and the truth tables with rows of its sources.

    Parameters
    ----------
    tract, patch : int
        The patch; -1 for the sources that lie on no tract of the sky map.
    homes : tuple of (int, int, str)
        Tract, patch and fingerprint of the truth tables that may have rows of its sources, ascending.
    sha256 : str
        Of the catalogue's part, as it was written.
    """

    tract: int
    patch: int
    homes: tuple[tuple[int, int, str], ...]
    sha256: str


@dataclass(frozen=True)
class SourcesDigest:
    """Summary of the table of one patch's sources.

    Parameters
    ----------
    tract, patch : int
        The patch.
    n_sources, n_on_images : int
        Rows, and those of sources that were drawn on at least one image.
    fingerprint : str
        Fingerprint of what the table was made from.
    written : bool
        Whether it was written this time.
    in_piece : bool
        Whether its rows are in the piece of its group (`skygraft.tables.joining`), too.
    """

    tract: int
    patch: int
    n_sources: int
    n_on_images: int
    fingerprint: str
    written: bool = field(default=False, compare=False)
    in_piece: bool = field(default=False, compare=False)


def band_columns(bands: Sequence[str]) -> list[tuple[str, pa.DataType, str]]:
    """Name, type and unit of the columns added to the catalogue's own: first over all bands, then band by band."""
    columns: list[tuple[str, pa.DataType, str]] = [(name, *_BAND_COLUMNS[name]) for name in _ALL_BANDS]
    return columns + [(f"{name}_{band}", kind, unit) for band in bands for name, (kind, unit) in _BAND_COLUMNS.items()]


def catalog_bands(part: Path, sha256: str) -> list[str]:
    """The bands of the magnitudes of a part of the catalogue, of that SHA-256; all parts have the same.

    Raises
    ------
    CampaignError
        If it cannot be read, or is not what was written.
    """
    try:
        names = pq.read_schema(pa.BufferReader(_catalog_bytes(part, sha256))).names
    except (OSError, pa.ArrowException) as error:
        raise _catalog_error(part, error) from error
    return [name.removeprefix("mag_") for name in names if is_mag_column(name)]


def consolidate_sources(patches: Sequence[PatchSources], *, output: str, bands: Sequence[str]) -> list[SourcesDigest]:
    """Bring the tables of some patches' sources up to date; rows are in the order of injection id.

    The files of all these patches are synced together, which takes hardly longer than those of one.

    Parameters
    ----------
    patches : sequence of PatchSources
        The patches, neighbours in the order of all.
    output : str
        The campaign's output folder.
    bands : sequence of str
        Bands of the whole campaign, so that every table has the same columns.

    Returns
    -------
    list of SourcesDigest

    Raises
    ------
    CampaignError
        If a catalogue's part or a truth table cannot be read.
    OutputError
        If a table cannot be written; the former one is then still there.
    """
    layout = Layout(Path(output))
    with NamedTogether() as together:
        found = [_consolidate(sources, layout, bands, together) for sources in patches]
        together.commit()
    digests = [digest for digest, _ in found]
    tables = [table for _, table in found if table is not None]
    keys = [(one.tract, one.patch, one.fingerprint) for one in digests]
    if len(tables) == len(digests) and write_piece(layout, keys, tables):
        return [replace(digest, in_piece=True) for digest in digests]
    return digests


def _consolidate(
    sources: PatchSources, layout: Layout, bands: Sequence[str], together: NamedTogether
) -> tuple[SourcesDigest, pa.Table | None]:
    """Write the table of a patch if it is not up to date; also returns its rows where they are few."""
    path, part = layout.source_table(sources.tract, sources.patch), layout.catalog_part(sources.tract, sources.patch)
    content = _catalog_bytes(part, sources.sha256)
    fingerprint = digest([TABLE_VERSION, sources.tract, sources.patch, list(bands), sources.homes, sources.sha256])
    note, table = note_of(path, layout.checksum(path)), None
    if note is None or note.fingerprint != fingerprint or "n_on_images" not in note.content:
        catalog = _catalog_table(content, part)
        tally = _Tally(numbers(catalog["injection_id"]), bands, _windows(catalog))
        tables = (rows for tract, patch, truth in sources.homes for rows in _truth_rows(layout, tract, patch, truth))
        for some in _gathered(tables):
            tally.add(some)
        table = _table(catalog, tally, inside=sources.tract >= 0)
        repeated = ("source_type",)
        with TableWriter(path, layout.checksum(path), table.schema, repeated=repeated, together=together) as writer:
            writer.write(table)
            writer.note |= {"fingerprint": fingerprint, "n_on_images": int(np.count_nonzero(tally.drawn_anywhere()))}
        note = writer.written
    n_on_images = int(note.content["n_on_images"])
    found = SourcesDigest(
        sources.tract, sources.patch, note.n_rows, n_on_images, fingerprint, written=table is not None
    )
    return found, table if table is not None and table.num_rows <= _SMALL_ROWS else None


def _gathered(tables: Iterable[pa.Table]) -> Iterator[list[pa.Table]]:
    """Yield tables in their order, several small ones at a time, which are tallied as quickly as one."""
    waiting: list[pa.Table] = []
    n_waiting = 0
    for table in tables:
        waiting.append(table)
        n_waiting += table.num_rows
        if n_waiting >= _SMALL_ROWS:
            yield waiting
            waiting, n_waiting = [], 0
    if waiting:
        yield waiting


def _truth_rows(layout: Layout, tract: int, patch: int, fingerprint: str) -> Iterator[pa.Table]:
    """The rows of a truth table; those of a small one are kept for the next patches, which are its neighbours."""
    key = str(layout.root), tract, patch, fingerprint  # which tells one version of the table from another
    if (known := _KEPT.find(key)) is not None:
        yield from known
        return
    found: list[pa.Table] = []
    n_rows = 0
    for rows in read_groups(layout.truth_table(tract, patch), _TRUTH_COLUMNS, fix=AGAIN):
        n_rows += rows.num_rows
        if n_rows <= _SMALL_ROWS:
            found.append(rows)
        else:
            found.clear()
        yield rows
    if n_rows <= _SMALL_ROWS:
        _KEPT.keep(key, found, n_rows)


class _KeptTables:
    """The last truth tables that were read by this process, the latest last; one with few rows counts as some."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, int, int, str], tuple[Sequence[pa.Table], int]] = {}
        self._n_rows = 0
        self._lock = Lock()  # a worker may have several threads

    def find(self, key: tuple[str, int, int, str]) -> Sequence[pa.Table] | None:
        """The row groups of a table; None if it is not kept."""
        with self._lock:
            if (known := self._found.pop(key, None)) is None:
                return None
            self._found[key] = known  # the last to go
            return known[0]

    def keep(self, key: tuple[str, int, int, str], groups: Sequence[pa.Table], n_rows: int) -> None:
        """Keep the row groups of a table, and as few others as that takes."""
        with self._lock:
            if key in self._found:
                return
            self._found[key] = groups, n_rows
            self._n_rows += n_rows + _LEAST_ROWS
            while len(self._found) > 1 and self._n_rows > _KEPT_ROWS:
                _, gone = self._found.pop(next(iter(self._found)))
                self._n_rows -= gone + _LEAST_ROWS


_KEPT = _KeptTables()


def _catalog_bytes(part: Path, sha256: str) -> bytes:
    try:
        content = part.read_bytes()
    except OSError as error:
        raise _catalog_error(part, error) from error
    if hashlib.sha256(content).hexdigest() != sha256:
        # Without it the next run partitions the catalogue again.
        part.unlink(missing_ok=True)
        raise CampaignError(
            "the part of the catalogue was not what was written (the SHA-256 differs), and is removed",
            path=part,
            fix="Run again: the catalogue is then partitioned again",
        )
    return content


def _catalog_table(content: bytes, part: Path) -> pa.Table:
    try:
        with pq.ParquetFile(pa.BufferReader(content)) as file:
            table = file.read(use_threads=False)
    except pa.ArrowException as error:
        raise _catalog_error(part, error) from error
    return table if ascends(numbers(table["injection_id"])) else table.sort_by("injection_id")


def _catalog_error(part: Path, error: Exception) -> CampaignError:
    return CampaignError(
        f"the part of the catalogue cannot be read ({error})", path=part, fix="Plan again: skygraft plan"
    )


def _windows(catalog: pa.Table) -> NDArray[np.float64] | None:
    """First time and the time after the last of each row, shape (N, 2); None if no source has several rows."""
    ids = numbers(catalog["injection_id"])
    if not np.any(ids[1:] == ids[:-1]):
        return None
    begin, end = (numbers(catalog[name]).astype(np.float64) for name in WINDOW)
    return np.column_stack([np.where(np.isnan(begin), -np.inf, begin), np.where(np.isnan(end), np.inf, end)])


class _Tally:
    """Counts and sums over the rows of truth of some sources, each of shape (sources, bands).

    Rows are always added in the same order, so that sums are the same to the last bit. Of the pieces of an object's way
    each gets the rows of its own time.
    """

    def __init__(self, ids: NDArray[np.int64], bands: Sequence[str], windows: NDArray[np.float64] | None) -> None:
        self._ids = ids
        self._windows = windows
        self.bands = list(bands)
        shape = (ids.size, len(self.bands))
        self.counts = {name: np.zeros(shape, dtype=np.int64) for name in ("n_images", "n_drawn", "n_primary", "flags")}
        self.first = np.full(shape, np.nan)
        self.last = np.full(shape, np.nan)
        self._sums = {name: np.zeros(shape) for name in _MEANS}
        self._numbers = {name: np.zeros(shape, dtype=np.int64) for name in _MEANS}

    def add(self, tables: Sequence[pa.Table]) -> None:
        """Add the rows of truth tables; rows of other sources are ignored.

        Sums are the same to the last bit however many tables are given at a time: each table is summed by itself.
        """
        rows = pa.concat_tables(tables)
        if not self._ids.size or not self.bands or not rows.num_rows:
            return
        injection_id = numbers(rows["injection_id"])
        place = np.searchsorted(self._ids, injection_id).clip(max=self._ids.size - 1)
        is_mine = self._ids[place] == injection_id
        if self._windows is not None:
            place = self._piece(injection_id, numbers(rows["mjd"]))
            is_mine &= place >= 0
        mine = np.flatnonzero(is_mine)
        if not mine.size:
            return
        table = np.repeat(np.arange(len(tables)), [part.num_rows for part in tables])[mine]
        rows, place = rows.take(arrow_array(mine)), place[mine]
        band = pc.index_in(rows["band"], arrow_array(np.array(self.bands, dtype=np.str_)))
        cell = place * len(self.bands) + numbers(band).astype(np.int64)
        drawn = numbers(rows["stamp_size"]) > 0
        self._count("n_images", cell)
        self._count("n_drawn", cell[drawn])
        self._count("n_primary", cell[numbers(rows["is_primary"]) > 0])
        np.bitwise_or.at(self.counts["flags"].reshape(-1), cell, numbers(rows["flags"]))
        mjd = numbers(rows["mjd"])
        timed = drawn & np.isfinite(mjd)
        np.fmin.at(self.first.reshape(-1), cell[timed], mjd[timed])
        np.fmax.at(self.last.reshape(-1), cell[timed], mjd[timed])
        with np.errstate(divide="ignore", invalid="ignore"):
            fraction = numbers(rows["flux_deposited"]) / numbers(rows["inst_flux"])
        n_cells = self.first.size
        if len(tables) == 1:
            pairs, pair = np.arange(n_cells), cell
        else:
            pairs, pair = np.unique(table * n_cells + cell, return_inverse=True)
        for name, values in (
            ("flux_fraction", fraction),
            ("aperture_fraction", numbers(rows["aperture_fraction"])),
            ("psf_fwhm", numbers(rows["psf_fwhm"])),
        ):
            use = drawn & np.isfinite(values)
            # The sum of each table's rows of a cell, then these in the tables' order.
            sums = np.bincount(pair[use], weights=values[use], minlength=len(pairs))
            np.add.at(self._sums[name].reshape(-1), pairs % n_cells, sums)
            self._numbers[name] += np.bincount(cell[use], minlength=n_cells).reshape(self.first.shape)

    def _piece(self, injection_id: NDArray[np.int64], mjd: NDArray[np.float64]) -> NDArray[np.int64]:
        """The row of each source and time: the last of its rows that begins by then, if it has not ended; else -1."""
        assert self._windows is not None
        begin, end = self._windows.T
        time = np.where(np.isnan(mjd), -np.inf, mjd)
        n = self._ids.size
        # Sorted together: each time comes after the rows of its source that begin before or at it.
        kind = np.r_[np.zeros(n), np.ones(len(time))]
        order = np.lexsort((kind, np.r_[begin, time], np.r_[self._ids, injection_id]))
        is_row = order < n
        latest = np.maximum.accumulate(np.where(is_row, np.arange(len(order)), -1))
        found = np.full(len(order), -1, dtype=np.int64)
        found[order] = np.where(latest >= 0, order[latest.clip(min=0)], -1)
        place = found[n:]
        there = place >= 0
        there[there] = (self._ids[place[there]] == injection_id[there]) & (time[there] < end[place[there]])
        return np.where(there, place, -1)

    def _count(self, name: str, cell: NDArray[np.int64]) -> None:
        counts = self.counts[name]
        counts += np.bincount(cell, minlength=counts.size).reshape(counts.shape)

    def mean(self, name: str) -> NDArray[np.float64]:
        """Mean over the images on which the source was drawn; NaN if there is none."""
        with np.errstate(invalid="ignore"):
            return np.asarray(self._sums[name] / self._numbers[name])

    def drawn_anywhere(self) -> NDArray[np.bool_]:
        """True for sources that were drawn on at least one image, shape (sources,)."""
        return np.asarray(self.counts["n_drawn"].any(axis=1))

    def columns(self) -> Iterator[NDArray[np.int64] | NDArray[np.float64]]:
        """Yield the columns that `band_columns` names."""
        for name in ("n_images", "n_drawn", "n_primary"):
            yield self.counts[name].sum(axis=1)
        nothing = np.full((self._ids.size, 1), np.nan)
        yield np.fmin.reduce(np.hstack([self.first, nothing]), axis=1)
        yield np.fmax.reduce(np.hstack([self.last, nothing]), axis=1)
        yield np.bitwise_or.reduce(self.counts["flags"], axis=1)
        means = {name: self.mean(name) for name in _MEANS}
        for i in range(len(self.bands)):
            for name in ("n_images", "n_drawn", "n_primary"):
                yield self.counts[name][:, i]
            for name in _MEANS:
                yield means[name][:, i]
            yield self.first[:, i]
            yield self.last[:, i]
            yield self.counts["flags"][:, i]


def _with_objects(catalog: pa.Table) -> pa.Table:
    """The catalogue with the object and the group of every row; a row without an object is one of its own."""
    ids, objects = numbers(catalog["injection_id"]), np.full(catalog.num_rows, -1, dtype=np.int64)
    if "object_id" in catalog.column_names:
        objects = numbers(catalog["object_id"])
        catalog = catalog.drop_columns(["object_id"])
    catalog = catalog.add_column(1, "object_id", arrow_array(np.where(objects < 0, ids, objects)))
    if "group_id" not in catalog.column_names:
        catalog = catalog.add_column(2, "group_id", arrow_array(np.full(catalog.num_rows, -1, dtype=np.int64)))
    return catalog


def _table(catalog: pa.Table, tally: _Tally, *, inside: bool) -> pa.Table:
    """The catalogue's columns, then the flags of its patch, then the counts and means."""
    added = band_columns(tally.bands)
    taken = {"is_patch_inner", "is_tract_inner", "tract", "patch", *(name for name, _, _ in added)}
    arrays, fields = [], []
    catalog = _with_objects(catalog)
    for i, column in enumerate(catalog.schema):
        # Such as the catalogue's own flags: those of the images are another column.
        arrays.append(catalog.column(i))
        fields.append(column.with_name(f"catalog_{column.name}") if column.name in taken else column)
    for name in ("is_patch_inner", "is_tract_inner"):
        arrays.append(arrow_array(np.full(catalog.num_rows, inside)))
        fields.append(pa.field(name, pa.bool_()))
    for (name, kind, unit), values in zip(added, tally.columns(), strict=True):
        whole = np.ascontiguousarray(values)
        if name == "flags" and "flags" in catalog.column_names:
            whole = whole | numbers(catalog["flags"])
        arrays.append(arrow_array(whole))
        fields.append(pa.field(name, kind, metadata={"unit": unit} if unit else None))
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields))
