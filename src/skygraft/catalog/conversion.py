"""Convert catalogues and tables from file to file: other formats, other dialects, some rows, or a HATS collection."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from skygraft.catalog.arrow import from_arrow, to_arrow
from skygraft.catalog.arrow_arrays import arrow_array
from skygraft.catalog.checks import OnBad, check_duplicates
from skygraft.catalog.hats_files import FolderCatalog
from skygraft.catalog.hats_write import HatsSummary, HatsWriter
from skygraft.catalog.io import file_format, is_streamed, iter_catalog, open_stream, read_table, write_catalog
from skygraft.catalog.row_choice import RowChoice
from skygraft.catalog.schema import values
from skygraft.disk import atomic_path
from skygraft.errors import CatalogError, OutputExistsError

__all__ = ["Conversion", "convert_catalog", "is_campaign_table"]

_TABLES = ({"injection_id", "image_id", "inst_flux"}, {"injection_id", "n_images", "n_drawn"})
"""Columns by which the truth and the sources of a campaign are recognised."""


@dataclass(frozen=True)
class Conversion:
    """What `convert_catalog` did.

    Parameters
    ----------
    path : Path
        What was written.
    n_read, n_written : int
        Rows.
    as_is : bool
        Whether the columns were copied, and not converted to the native schema.
    hats : HatsSummary or None
        Of a HATS collection.
    """

    path: Path
    n_read: int
    n_written: int
    as_is: bool
    hats: HatsSummary | None = None


def is_campaign_table(names: Iterable[str]) -> bool:
    """Return whether these are the columns of a campaign's truth or sources, which are not a catalogue to inject."""
    have = set(names)
    return any(columns <= have for columns in _TABLES)


def convert_catalog(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    dialect: str = "auto",
    band: str | None = None,
    columns: Mapping[str, str] | None = None,
    select: str = "",
    on_bad: OnBad = "raise",
    hats: bool = False,
    as_is: bool | None = None,
    margin_arcsec: float = 10.0,
    max_rows: int = 500_000,
    overwrite: bool = False,
    chunk_rows: int = 500_000,
    progress: Callable[[int], None] | None = None,
) -> Conversion:
    """Convert a catalogue to the native schema and another format; or copy a table, as it is.

    Parquet and HATS are read and written in chunks, so that they may be of any size; other formats are read or written
    completely.

    Parameters
    ----------
    source : path-like
        File or folder, as for `skygraft.read_catalog`; also ``truth`` and ``sources`` in a campaign's output.
    out : path-like
        File, whose suffix determines the format, or with `hats` a folder.
    dialect, band, columns, on_bad
        As of `skygraft.read_catalog`.
    select : str
        Expression for the rows to write (`skygraft.catalog.expressions`).
    hats : bool
        Write a HATS collection.
    as_is : bool, optional
        Copy the columns unconverted and unchecked; by default this is done with a campaign's truth and sources. HATS is
        then cut by ``ra`` and ``dec``, or the columns that `columns` has for them.
    margin_arcsec, max_rows
        Of a HATS collection, as for `skygraft.catalog.hats_write.HatsWriter`.
    overwrite : bool
        Replace what is there.
    chunk_rows : int
        Rows in memory at a time.
    progress : callable, optional
        Called with the number of rows read, after each chunk.

    Returns
    -------
    Conversion

    Raises
    ------
    CatalogError
        If the catalogue cannot be used, or no row is selected.
    OutputExistsError
        If the output is there and `overwrite` is false.
    """
    source, out = Path(source), Path(out)
    names = _names(source)
    copied = is_campaign_table(names) if as_is is None else as_is
    choice = RowChoice(select)
    if not hats:
        _check_output(out, overwrite)
    if copied:
        tables = _copied(source, choice, chunk_rows)
    else:
        options: dict[str, Any] = {"dialect": dialect, "band": band, "on_bad": on_bad, "columns": columns}
        tables = _converted(source, choice, chunk_rows, options)
    counts = _Counts(progress)
    summary = None
    if hats:
        place = dict(columns or {}) if copied else {}
        writer = HatsWriter(
            out,
            kind="source" if "image_id" in names and copied else "object",
            ra=place.get("ra", "ra"),
            dec=place.get("dec", "dec"),
            margin_arcsec=margin_arcsec,
            max_rows=max_rows,
            overwrite=overwrite,
        )
        with writer:
            for table in counts.each(tables):
                writer.write(table)
            counts.check(source, select)
        summary = writer.summary
    elif file_format(out) == "parquet":
        _write_parquet(counts, tables, out, source, select)
    else:
        pieces = list(counts.each(tables))
        counts.check(source, select)
        _write_whole(pa.concat_tables(pieces), out)
    return Conversion(out, counts.read, counts.written, copied, summary)


class _Counts:
    """Counts rows on their way."""

    def __init__(self, progress: Callable[[int], None] | None) -> None:
        self.read = self.written = 0
        self._progress = progress

    def each(self, tables: Iterator[tuple[int, pa.Table]]) -> Iterator[pa.Table]:
        schema: pa.Schema | None = None
        for n_read, table in tables:
            self.read += n_read
            if table.num_rows:
                schema = table.schema if schema is None else schema
                self.written += table.num_rows
                yield table if table.schema.equals(schema) else _conform(table, schema)
            if self._progress is not None:
                self._progress(n_read)

    def check(self, source: Path, select: str) -> None:
        if not self.written:
            raise CatalogError(
                f"none of {self.read} rows is selected by {select!r}" if select else "there are no rows",
                path=source,
                key="select" if select else None,
                fix="Check the expression" if select else "Give at least one source",
            )


def _conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    odd = sorted(set(table.column_names) ^ set(schema.names))
    if odd:
        raise CatalogError(
            f"the columns {', '.join(odd)} are not the same in every part of the table", fix="Write it with one schema"
        )
    try:
        return table.select(schema.names).cast(schema)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise CatalogError(f"a column changes its type within the table: {error}") from error


def _names(source: Path) -> list[str]:
    if is_streamed(source):
        with open_stream(source) as file:
            return list(file.names)
    return []


def _copied(source: Path, choice: RowChoice, chunk_rows: int) -> Iterator[tuple[int, pa.Table]]:
    """The rows of a table, with its own columns."""
    for table in _stored(source, chunk_rows):
        n = table.num_rows
        if choice:
            table = table.take(arrow_array(np.flatnonzero(choice.mask(choice.columns_of(table), n))))  # noqa: PLW2901
        yield n, table


def _stored(source: Path, chunk_rows: int) -> Iterator[pa.Table]:
    if not is_streamed(source):
        table = to_arrow(read_table(source))
        for start in range(0, table.num_rows, chunk_rows):
            yield table.slice(start, chunk_rows)
        return
    with open_stream(source) as file:
        if isinstance(file, FolderCatalog):
            yield from file.arrow_chunks(chunk_rows, folders=True)
        else:
            yield from file.arrow_chunks(chunk_rows)


def _converted(
    source: Path, choice: RowChoice, chunk_rows: int, options: Mapping[str, Any]
) -> Iterator[tuple[int, pa.Table]]:
    """The rows of a catalogue, native; ids are checked over all of them."""
    ids = []
    for chunk in iter_catalog(source, chunk_rows=chunk_rows, **options):
        kept = choice.filter(chunk)
        ids.append(values(kept, "injection_id"))
        yield len(chunk), to_arrow(kept)
    if ids:
        check_duplicates(np.concatenate(ids), origin=os.fspath(source))


def _check_output(out: Path, overwrite: bool) -> None:
    if file_format(out) == "csv":
        raise CatalogError("CSV files lose the units", path=out, fix="Write an .ecsv or a .parquet file")
    if out.exists() and not overwrite:
        raise OutputExistsError(
            "the file is there already", path=out, fix="Choose another name, or pass overwrite=True"
        )


def _write_parquet(
    counts: _Counts, tables: Iterator[tuple[int, pa.Table]], out: Path, source: Path, select: str
) -> None:
    with atomic_path(out) as temporary, contextlib.ExitStack() as stack:
        writer = None
        for table in counts.each(tables):
            if writer is None:
                writer = stack.enter_context(pq.ParquetWriter(temporary, table.schema, write_page_checksum=True))
            writer.write_table(table)
        counts.check(source, select)


def _write_whole(table: pa.Table, out: Path) -> None:
    """Write a file in one go; its suffix is that of the temporary one too, because it determines the format."""
    temporary = out.with_name(f".{secrets.token_hex(4)}.tmp.{out.name}")
    try:
        write_catalog(from_arrow(table), temporary)
        temporary.replace(out)
    finally:
        temporary.unlink(missing_ok=True)
