"""Write tables as HATS collections: Parquet files by HEALPix pixel, with margins, which LSDB and `hats` read.

Rows are spooled to disk in pieces, each sorted by HEALPix index, and then merged pixel by pixel: memory is that of a
piece and of the largest partition. What is written depends on the rows and their order, not on how they were cut into
pieces. The format is that of the IVOA note HATS 1.0, https://www.ivoa.net/documents/Notes/HATS/.
"""

from __future__ import annotations

import contextlib
import csv
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from skygraft.catalog.arrow_arrays import arrow_array, numpy_array
from skygraft.catalog.hats_files import is_hats
from skygraft.catalog.hats_layout import (
    DEEPEST,
    margin_order,
    near_partitions,
    partition_pixels,
    properties_made,
    skymap_order,
    write_properties,
    write_skymap,
)
from skygraft.errors import CatalogError, OutputError, OutputExistsError

__all__ = ["HatsSummary", "HatsWriter"]

INDEX = "_healpix_29"
"""The column of HEALPix indices (nested, order 29) by which rows are sorted."""

_FINEST = 10
"""Largest order of a partition."""
_ROW_GROUP = 131_072
_PIECE = 400_000
_RESERVED = ("Norder", "Dir", "Npix")


@dataclass(frozen=True)
class HatsSummary:
    """What was written.

    Parameters
    ----------
    path : Path
        The collection.
    catalogue : Path
        Its main catalogue.
    n_rows, n_partitions, n_margin : int
        Rows and partitions of the main catalogue, and rows of the margins.
    """

    path: Path
    catalogue: Path
    n_rows: int
    n_partitions: int
    n_margin: int


class _Runs:
    """Rows on disk, in pieces of about `_PIECE` rows, each sorted by a column of whole numbers."""

    def __init__(self, folder: Path, column: str) -> None:
        self._folder, self._column = folder, column
        self._paths: list[Path] = []
        self._waiting: list[pa.Table] = []
        folder.mkdir(parents=True)

    def add(self, table: pa.Table) -> None:
        """Add rows, in any order."""
        if table.num_rows == 0:
            return
        self._waiting.append(table)
        if sum(piece.num_rows for piece in self._waiting) >= _PIECE:
            self._flush()

    def _flush(self) -> None:
        if not self._waiting:
            return
        table = pa.concat_tables(self._waiting)
        table = table.take(arrow_array(np.argsort(_values(table.column(self._column)), kind="stable")))
        path = self._folder / f"{len(self._paths):06d}.arrow"
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table.combine_chunks())
        self._paths.append(path)
        self._waiting = []

    def between(self, bounds: Sequence[tuple[int, int]]) -> Iterator[pa.Table | None]:
        """The rows of each range of the column, of which the first is included; in the order of the pieces."""
        self._flush()
        with contextlib.ExitStack() as stack:
            tables, keys = [], []
            for path in self._paths:
                memory = stack.enter_context(pa.memory_map(str(path)))
                tables.append(pa.ipc.open_file(memory).read_all())
                chunk = tables[-1].column(self._column).chunk(0)
                keys.append(np.frombuffer(chunk.buffers()[1], dtype=np.int64, count=len(chunk)))
            for low, high in bounds:
                found = [np.searchsorted(key, [low, high]) for key in keys]
                pieces = [t.slice(int(a), int(b - a)) for t, (a, b) in zip(tables, found, strict=True) if b > a]
                yield pa.concat_tables(pieces) if pieces else None


class HatsWriter:
    """Writes a HATS collection piece by piece; use it in a ``with`` statement.

    The collection appears under its name when the block ends without an error.

    Parameters
    ----------
    out : path-like
        Folder of the collection.
    kind : {"object", "source"}
        Whether a row is an object, or one of several measurements of one.
    ra, dec : str
        Columns of the positions, ICRS degrees.
    margin_arcsec : float
        Width of the margins: a match within this distance is found across the borders of partitions. 0 for none.
    max_rows : int
        Partitions with more rows are cut into four, down to order 10.
    overwrite : bool
        Replace a HATS catalogue that is there; any other folder is left alone.

    Attributes
    ----------
    summary : HatsSummary or None
        What was written, when it is complete.

    Raises
    ------
    OutputExistsError
        If the folder is there.
    CatalogError
        If a row has no position, or the margin is too wide.
    """

    def __init__(
        self,
        out: str | os.PathLike[str],
        *,
        kind: str = "object",
        ra: str = "ra",
        dec: str = "dec",
        margin_arcsec: float = 10.0,
        max_rows: int = 500_000,
        overwrite: bool = False,
    ) -> None:
        self.summary: HatsSummary | None = None
        self._out, self._kind, self._ra, self._dec = Path(out), kind, ra, dec
        self._margin, self._max_rows, self._overwrite = float(margin_arcsec), max_rows, overwrite
        self._margin_order = margin_order(self._margin)
        self._finest = min(_FINEST, self._margin_order)
        self._name = re.sub(r"[^\w.-]+", "_", self._out.resolve().name) or "catalogue"
        self._schema: pa.Schema | None = None
        self._pixels = np.empty(0, dtype=np.int64)
        self._counts = np.empty(0, dtype=np.int64)
        self._n_rows = 0

    def __enter__(self) -> Self:
        if self._out.exists() and not (self._overwrite and is_hats(self._out)):
            empty = self._out.is_dir() and not any(self._out.iterdir())
            if not empty:
                raise OutputExistsError(
                    "the folder is there already",
                    path=self._out,
                    fix="Choose another name"
                    + (", or pass overwrite=True" if is_hats(self._out) else "; it is no HATS catalogue"),
                )
        self._work = self._out.with_name(f".{self._out.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
        with _writing(self._out):
            self._runs = _Runs(self._work / "spool", INDEX)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if error is None:
                with _writing(self._out):
                    self.summary = self._finish()
        finally:
            shutil.rmtree(self._work, ignore_errors=True)

    def write(self, table: pa.Table) -> None:
        """Add rows.

        Parameters
        ----------
        table : pyarrow.Table
            With the columns of positions; every piece has the schema of the first.
        """
        if table.num_rows == 0:
            return
        table = _plain(table)
        if self._schema is None:
            self._check(table)
            self._schema = table.schema
        elif table.schema != self._schema:
            table = _conform(table, self._schema)
        index = self._healpix(table)
        with _writing(self._out):
            self._runs.add(table.add_column(0, INDEX, arrow_array(index)))
        self._count(index >> 2 * (DEEPEST - self._finest))
        self._n_rows += table.num_rows

    def _check(self, table: pa.Table) -> None:
        for name in (self._ra, self._dec):
            if name not in table.column_names:
                raise CatalogError(
                    f"the table has no column {name!r}, by which HATS is cut; it has {', '.join(table.column_names)}",
                    key=name,
                    fix="Name the columns of the positions",
                )
        taken = [name for name in table.column_names if name in _RESERVED]
        if taken:
            raise CatalogError(
                f"the table has a column {taken[0]!r}, a name that HATS uses itself", key=taken[0], fix="Rename it"
            )

    def _healpix(self, table: pa.Table) -> NDArray[np.int64]:
        ra, dec = (_numbers(table, name) for name in (self._ra, self._dec))
        bad = ~(np.isfinite(ra) & np.isfinite(dec) & (np.abs(dec) <= 90.0))
        if bad.any():
            row = int(np.argmax(bad))
            raise CatalogError(
                f"{np.count_nonzero(bad)} rows are not on the sky; {self._ra} = {ra[row]}, {self._dec} = {dec[row]}",
                row=self._n_rows + row,
                key=self._ra,
                fix="Leave these rows out, as with --select",
            )
        from astropy import units as u
        from astropy_healpix import lonlat_to_healpix

        return np.asarray(lonlat_to_healpix(ra * u.deg, dec * u.deg, 2**DEEPEST, order="nested"), dtype=np.int64)

    def _count(self, pixels: NDArray[np.int64]) -> None:
        """Add the rows of a piece to those of each pixel of the finest order."""
        found, counts = np.unique(pixels, return_counts=True)
        self._pixels, inverse = np.unique(np.concatenate([self._pixels, found]), return_inverse=True)
        sums = np.bincount(inverse.reshape(-1), weights=np.concatenate([self._counts, counts]))
        self._counts = sums.astype(np.int64)

    def _finish(self) -> HatsSummary:
        if self._schema is None:
            raise CatalogError("there are no rows to write", path=self._out, fix="Check what is selected")
        whole = self._work / "whole"
        main = whole / self._name
        parts = partition_pixels(self._pixels, self._counts, self._finest, self._max_rows)
        schema = pa.schema([pa.field(INDEX, pa.int64()), *self._schema], metadata=_metadata(self._schema))
        writer = _Catalogue(main, schema)
        margins = _Runs(self._work / "margin", _TARGET)
        bounds = [(pixel << 2 * (DEEPEST - k), (pixel + 1) << 2 * (DEEPEST - k)) for k, pixel in parts]
        for i, rows in enumerate(self._runs.between(bounds)):
            ordered = writer.write(parts[i], rows)
            if self._margin > 0:
                found, target = near_partitions(_values(ordered.column(INDEX)), i, bounds, self._margin_order)
                margins.add(ordered.take(arrow_array(found)).append_column(_TARGET, arrow_array(target)))
        common = self._properties(writer, parts)
        write_skymap(main / "skymap.fits", self._pixels, self._counts, self._finest)
        writer.finish({**common, "hats_skymap_order": str(skymap_order(self._finest))})
        about = {"obs_collection": self._name, "hats_primary_table_url": self._name}
        n_margin = 0
        if self._margin > 0:
            name = f"{self._name}_{self._margin:g}arcs".replace(".", "p")
            n_margin = self._write_margin(whole / name, name, margins, parts, schema)
            about |= {"all_margins": name, "default_margin": name}
        write_properties(whole / "collection.properties", about | properties_made(), "HATS Collection")
        if self._out.exists():
            self._remove_former()
        whole.replace(self._out)
        return HatsSummary(self._out, self._out / self._name, writer.n_rows, len(parts), n_margin)

    def _remove_former(self) -> None:
        """Move what is in the place away at once, so that a kill leaves the whole former one or nothing."""
        former = self._work / "former"
        self._out.replace(former)

    def _write_margin(
        self, folder: Path, name: str, margins: _Runs, parts: Sequence[tuple[int, int]], schema: pa.Schema
    ) -> int:
        writer = _Catalogue(folder, schema)
        written = []
        for part, rows in zip(parts, margins.between([(i, i + 1) for i in range(len(parts))]), strict=True):
            if rows is not None:
                writer.write(part, rows.drop_columns([_TARGET]))
                written.append(part)
        properties = self._properties(writer, written)
        properties |= {
            "obs_collection": name,
            "dataproduct_type": "margin",
            "hats_primary_table_url": self._name,
            "hats_margin_threshold": f"{self._margin:g}",
        }
        writer.finish(properties)
        return writer.n_rows

    def _properties(self, writer: _Catalogue, parts: Sequence[tuple[int, int]]) -> dict[str, str]:
        sky = sum(1.0 / (12 << 2 * k) for k, _ in parts)
        return {
            "obs_collection": self._name,
            "dataproduct_type": self._kind,
            "hats_nrows": str(writer.n_rows),
            "hats_col_ra": self._ra,
            "hats_col_dec": self._dec,
            "hats_col_healpix": INDEX,
            "hats_col_healpix_order": str(DEEPEST),
            "hats_npix_suffix": ".parquet",
            "hats_order": str(max((k for k, _ in parts), default=0)),
            "hats_max_rows": str(self._max_rows),
            "hats_estsize": str(writer.n_bytes // 1024),
            "moc_sky_fraction": f"{sky:.8g}",
            **properties_made(),
        }


_TARGET = "_target"


class _Catalogue:
    """Writes the files of one catalogue."""

    def __init__(self, folder: Path, schema: pa.Schema) -> None:
        self.n_rows = self.n_bytes = 0
        self._folder, self._schema = folder, schema
        self._footers: list[Any] = []
        self._first: list[pa.Table] = []
        self._parts: list[tuple[int, int]] = []
        (folder / "dataset").mkdir(parents=True)

    def write(self, part: tuple[int, int], rows: pa.Table) -> pa.Table:
        """Write the partition of a pixel (order, number), sorted by index; returns its rows as they are written."""
        order, pixel = part
        name = f"Norder={order}/Dir={pixel // 10_000 * 10_000}/Npix={pixel}.parquet"
        path = self._folder / "dataset" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = rows.take(arrow_array(np.argsort(_values(rows.column(INDEX)), kind="stable"))).combine_chunks()
        rows = rows.replace_schema_metadata(self._schema.metadata)
        pq.write_table(rows, path, compression="zstd", row_group_size=_ROW_GROUP, write_page_checksum=True)
        footer = pq.read_metadata(path)
        footer.set_file_path(name)
        self._footers.append(footer)
        self._first.append(rows.slice(0, 1))
        self._parts.append(part)
        self.n_rows += rows.num_rows
        self.n_bytes += path.stat().st_size
        return rows

    def finish(self, properties: dict[str, str]) -> None:
        """Write the metadata that make the files a catalogue; those of margins may have none."""
        data = self._folder / "dataset"
        pq.write_metadata(self._schema, data / "_common_metadata")
        if self._footers:
            # By order and pixel, as `hats` sorts them.
            ranked = sorted(range(len(self._parts)), key=self._parts.__getitem__)
            pq.write_metadata(self._schema, data / "_metadata", metadata_collector=[self._footers[i] for i in ranked])
            pq.write_table(pa.concat_tables(self._first), self._folder / "data_thumbnail.parquet")
        with (self._folder / "partition_info.csv").open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow(["Norder", "Npix"])
            table.writerows(sorted(self._parts))
        for name in ("hats.properties", "properties"):
            write_properties(self._folder / name, properties, "HATS catalog")


def _plain(table: pa.Table) -> pa.Table:
    """Decode dictionaries, and drop an index that is written again."""
    table = table.drop_columns([INDEX]) if INDEX in table.column_names else table
    for i, one in enumerate(table.schema):
        if pa.types.is_dictionary(one.type):
            table = table.set_column(i, one.with_type(one.type.value_type), table.column(i).cast(one.type.value_type))
    return table


def _conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    if table.column_names != schema.names:
        odd = sorted(set(table.column_names) ^ set(schema.names))
        raise CatalogError(
            f"the columns {', '.join(odd) or 'are in another order and'} are not the same in all rows",
            fix="Write the table with one schema",
        )
    return table.cast(schema)


def _metadata(schema: pa.Schema) -> dict[bytes, bytes] | None:
    """The schema's metadata without pandas' own, which names another index."""
    kept = {key: value for key, value in (schema.metadata or {}).items() if key != b"pandas"}
    return kept or None


def _numbers(table: pa.Table, name: str) -> NDArray[np.float64]:
    column = table.column(name)
    if not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type)):
        raise CatalogError(f"the column {name!r} is of type {column.type}; degrees are needed", key=name)
    return _values(column.cast(pa.float64()).fill_null(np.nan))


def _values(column: Any) -> NDArray[Any]:
    return np.concatenate([numpy_array(chunk) for chunk in column.chunks])


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Name the path in errors of what is written."""
    try:
        yield
    except (OutputError, CatalogError):
        raise
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise OutputError(
            f"the HATS collection cannot be written ({reason})", path=path, fix="Check permissions and free space"
        ) from error
