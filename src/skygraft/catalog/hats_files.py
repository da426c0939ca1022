"""Read folders of Parquet files as one catalogue: HATS catalogues and collections, and plain data sets.

Partitions are read one after the other, in the order of the sky, so that a catalogue of any size takes the memory of a
chunk. Of a collection only the main catalogue is read: margins hold rows of it a second time.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from skygraft.catalog.arrow import from_arrow
from skygraft.catalog.hats_properties import (
    COLLECTION,
    catalogue_kind,
    find_properties,
    main_catalogue,
    read_properties,
)
from skygraft.catalog.parquet_files import open_parquet
from skygraft.errors import CatalogError, CorruptFileError, SkygraftWarning

__all__ = ["FolderCatalog", "folder_files", "folder_identity", "is_hats", "open_folder"]

_ENDINGS = (".parquet", ".parq", ".pq")
_BESIDE = ("data_thumbnail", "per_partition_statistics")
_BOOKKEEPING = ("Norder", "Dir", "Npix", "margin_Norder", "margin_Dir", "margin_Npix")
_SPATIAL_INDEX = "_healpix_29"
_PIXEL = re.compile(r"Norder=(\d{1,2})/Dir=\d+/Npix=(\d{1,19})(?:[./].*)?")
_DEEPEST = 29
_LISTED = 5
_AGAIN = "Fetch the catalogue again"

type _Pixel = tuple[int, int]


@dataclass(frozen=True)
class _Files:
    """The files of a catalogue in the order in which they are read, and what its properties say of it."""

    root: Path
    paths: tuple[Path, ...]
    hats: bool = False
    n_rows: int | None = None
    dropped: tuple[str, ...] = ()


class FolderCatalog:
    """The Parquet files of a folder as one table.

    Attributes
    ----------
    path : Path
        The folder; of a HATS collection, that of its main catalogue.
    is_hats : bool
        Whether it is a HATS catalogue.
    names : list of str
        Columns, without those by which HATS is cut.
    """

    def __init__(self, files: _Files) -> None:
        self.path, self.is_hats, self._files = files.root, files.hats, files
        with open_parquet(files.paths[0]) as first:
            self.names = [name for name in first.names if name not in files.dropped]

    @property
    def n_rows(self) -> int:
        """Number of rows: as HATS's properties say, or else those of all files."""
        if self._files.n_rows is not None:
            return self._files.n_rows
        total = 0
        for path in self._files.paths:
            with open_parquet(path) as file:
                total += file.n_rows
        return total

    def read(self) -> Any:
        """Return all rows as an astropy table."""
        tables = list(self.arrow_chunks(1 << 20))
        if not tables:
            raise CatalogError("the catalogue has no rows", path=self.path, fix="Give at least one source")
        return from_arrow(pa.concat_tables(tables), origin=str(self.path))

    def chunks(self, chunk_rows: int) -> Iterator[Any]:
        """Iterate over all rows in pieces of up to `chunk_rows`, as astropy tables."""
        for table in self.arrow_chunks(chunk_rows):
            yield from_arrow(table, origin=str(self.path))

    def arrow_chunks(self, chunk_rows: int, *, folders: bool = False) -> Iterator[pa.Table]:
        """Iterate over all rows in pieces of up to `chunk_rows`, as Arrow tables of one schema.

        Parameters
        ----------
        chunk_rows : int
            Rows in memory at a time; small files are put together.
        folders : bool
            Add the columns that the names of folders give, such as ``tract=9813``.
        """
        waiting: list[pa.Table] = []
        n_waiting = n_rows = 0
        schema: pa.Schema | None = None
        for path in self._files.paths:
            with open_parquet(path) as file:
                for piece in file.arrow_chunks(chunk_rows):
                    table = piece.drop_columns([name for name in self._files.dropped if name in piece.column_names])
                    if folders and not self.is_hats:
                        table = _with_folders(table, path.relative_to(self.path))
                    schema = table.schema if schema is None else schema
                    n_rows += table.num_rows
                    if n_waiting and n_waiting + table.num_rows > chunk_rows:
                        yield pa.concat_tables(waiting)
                        waiting, n_waiting = [], 0
                    waiting.append(_conformed(table, schema, path, self._files.paths[0]))
                    n_waiting += table.num_rows
        if self._files.n_rows is not None and n_rows != self._files.n_rows:
            raise CorruptFileError(
                f"the properties say {self._files.n_rows} rows, and the partitions have {n_rows}: some are missing, or "
                "there are too many",
                path=self.path,
                key="hats_nrows",
                fix=_AGAIN,
            )
        if n_waiting:
            yield pa.concat_tables(waiting)


@contextlib.contextmanager
def open_folder(path: Path) -> Iterator[FolderCatalog]:
    """Open a folder of Parquet files, or a HATS catalogue or collection.

    Yields
    ------
    FolderCatalog

    Raises
    ------
    CatalogError
        If it is not a catalogue, or one of a kind or version that cannot be read.
    CorruptFileError
        If files are missing or damaged.
    """
    yield FolderCatalog(_find(path))


def folder_files(path: Path) -> list[Path]:
    """Return the Parquet files of a catalogue in a folder, in the order in which they are read; errors as above."""
    return list(_find(path).paths)


def folder_identity(path: Path) -> str:
    """Return a digest of the files of a catalogue in a folder: their names, sizes and times, and HATS's properties.

    The content of a folder may be terabytes, so that it is not read. Errors are as of `open_folder`.
    """
    files = _find(path)
    sha = hashlib.sha256()
    about = find_properties(files.root) if files.hats else None
    for one in ([about] if about else []) + list(files.paths):
        status = one.stat()
        sha.update(f"{one.relative_to(files.root).as_posix()}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return sha.hexdigest()


def is_hats(path: Path) -> bool:
    """Return whether a folder is a HATS catalogue or collection."""
    return (path / COLLECTION).is_file() or find_properties(path) is not None


def _find(path: Path) -> _Files:
    if not path.is_dir():
        raise CatalogError("there is no such folder", path=path, fix="Check the path")
    if (path / "catalog_info.json").is_file() and not is_hats(path):
        raise CatalogError(
            "this is a catalogue of HiPSCat, which came before HATS and is not read",
            path=path,
            fix="Convert it with the package hats-import",
        )
    return _find_hats(main_catalogue(path)) if is_hats(path) else _find_plain(path)


def _find_plain(path: Path) -> _Files:
    """The Parquet files below a folder that is not a HATS catalogue."""
    inside = sorted(found.parent for name in ("hats.properties", COLLECTION) for found in path.glob(f"*/{name}"))
    if inside:
        kinds = ", ".join(f"{folder.name} ({_kind_of(folder)})" for folder in inside[:_LISTED])
        raise CatalogError(
            f"the folder has HATS catalogues in it ({kinds}), and does not say which is the main one",
            path=path,
            fix=f"Give one of them, as in {str(inside[0])!r}",
        )
    paths = _below(path)
    if any(re.search(r"(^|/)Norder=\d+/", p.relative_to(path).as_posix()) for p in paths) or path.name.startswith(
        ("Norder=", "Dir=", "Npix=")
    ):
        above = next((p for p in path.resolve().parents if find_properties(p) is not None), None)
        raise CatalogError(
            "these are partitions of a HATS catalogue, without the properties that say what they are",
            path=path,
            fix=f"Give the catalogue's folder, {str(above)!r}" if above else "Fetch its hats.properties too",
        )
    if not paths:
        raise CatalogError(
            f"there is no Parquet file ({', '.join(_ENDINGS)}) in the folder, nor below it, and no HATS catalogue",
            path=path,
            fix="Give a file, or a folder of Parquet files",
        )
    return _Files(path, tuple(paths))


def _kind_of(folder: Path) -> str:
    about = find_properties(folder)
    return "collection" if about is None else read_properties(about).get("dataproduct_type", "of no kind")


def _below(path: Path) -> list[Path]:
    """The Parquet files below a folder, sorted by name, without hidden ones and those of metadata."""
    found = []
    for one in path.rglob("*"):
        parts = one.relative_to(path).parts
        hidden = any(part.startswith((".", "_")) for part in parts) or one.name.startswith(_BESIDE)
        if one.name.lower().endswith(_ENDINGS) and not hidden and one.is_file():
            found.append(one)
    return sorted(found, key=lambda one: [_natural(part) for part in one.relative_to(path).parts])


def _natural(name: str) -> list[tuple[int, int, str]]:
    """A key by which tract=9 comes before tract=10."""
    pieces = re.split(r"(\d+)", name)
    return [(0, int(piece), "") if i % 2 else (1, 0, piece) for i, piece in enumerate(pieces)]


def _find_hats(root: Path) -> _Files:
    about = find_properties(root)
    if about is None:
        raise CatalogError("this is not a HATS catalogue", path=root)
    properties = read_properties(about)
    catalogue_kind(about, properties)
    base = root / "dataset" if (root / "dataset").is_dir() else root
    pixels = _partitions(base)
    n_rows = _count(about, properties)
    listed = _partition_info(root / "partition_info.csv")
    if listed is not None:
        _compare(root, set(listed), set(pixels))
    elif n_rows is None:
        warnings.warn(
            f"{root}: neither partition_info.csv nor hats_nrows is there, so that a missing partition would not be "
            f"noticed; {len(pixels)} partitions are read",
            SkygraftWarning,
            stacklevel=2,
        )
    if not pixels:
        raise CatalogError("the HATS catalogue has no partitions", path=base, fix=_AGAIN)
    ordered = sorted(pixels, key=lambda pixel: (pixel[1] << 2 * (_DEEPEST - pixel[0]), pixel[0]))
    dropped = dict.fromkeys([properties.get("hats_col_healpix", _SPATIAL_INDEX), _SPATIAL_INDEX, *_BOOKKEEPING])
    return _Files(root, tuple(path for pixel in ordered for path in pixels[pixel]), True, n_rows, tuple(dropped))


def _count(about: Path, properties: dict[str, str]) -> int | None:
    given = properties.get("hats_nrows")
    if given is None:
        return None
    if not re.fullmatch(r"\d{1,18}", given):
        raise CatalogError(f"hats_nrows is {given!r}; a number is needed", path=about, key="hats_nrows", fix=_AGAIN)
    return int(given)


def _partitions(base: Path) -> dict[_Pixel, list[Path]]:
    """The files of each HEALPix pixel: one, or all in its folder."""
    out: dict[_Pixel, list[Path]] = {}
    for one in base.glob("Norder=*/Dir=*/Npix=*"):
        match = _PIXEL.fullmatch(one.relative_to(base).as_posix())
        pixel = (int(match[1]), int(match[2])) if match else (99, 0)
        if pixel[0] > _DEEPEST or pixel[1] >= 12 << 2 * pixel[0]:
            raise CorruptFileError("this is not the name of a HEALPix pixel", path=one, fix=_AGAIN)
        files = _below(one) if one.is_dir() else [one]
        if not files:
            raise CorruptFileError("the partition's folder has no Parquet file", path=one, fix=_AGAIN)
        if pixel in out:
            raise CorruptFileError(f"the partition is there twice, also as {out[pixel][0].name}", path=one, fix=_AGAIN)
        out[pixel] = files
    return out


def _partition_info(path: Path) -> list[_Pixel] | None:
    """The pixels that the catalogue says it has; None if it does not say."""
    if not path.is_file():
        return None
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = csv.DictReader(file, skipinitialspace=True)
            names = {name.strip(): name for name in rows.fieldnames or ()}
            return [(int(row[names["Norder"]]), int(row[names["Npix"]])) for row in rows]
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        reason = f"it has no column {error}" if isinstance(error, KeyError) else str(error)
        raise CorruptFileError(
            f"the list of partitions cannot be read: {reason}", path=path, fix=f"{_AGAIN}, or remove this file"
        ) from error


def _compare(root: Path, listed: set[_Pixel], there: set[_Pixel]) -> None:
    for odd, what in (
        (listed - there, "is listed in partition_info.csv, and not there"),
        (there - listed, "is there, and not listed in partition_info.csv"),
    ):
        if odd:
            order, pixel = min(odd)
            more = f" (and so with {len(odd) - 1} more)" if len(odd) > 1 else ""
            raise CorruptFileError(f"the partition Norder={order}, Npix={pixel} {what}{more}", path=root, fix=_AGAIN)


def _conformed(table: pa.Table, schema: pa.Schema, path: Path, first: Path) -> pa.Table:
    """Cast the rows of one file to the types of the first."""
    if table.schema.equals(schema, check_metadata=False):
        return table.replace_schema_metadata(schema.metadata) if table.schema.metadata != schema.metadata else table
    odd = sorted(set(table.column_names) ^ set(schema.names))
    if odd:
        raise CatalogError(
            f"the columns {', '.join(odd[:_LISTED])} are in this file or in {first.name}, and not in both",
            path=path,
            key=odd[0],
            fix="Write all files with one schema",
        )
    try:
        for field in schema:
            # Arrow makes 0 and 1 of truth values, and nanoseconds of dates.
            if _is_number(field.type) and not _is_number(own := table.schema.field(field.name).type) and (
                pa.types.is_boolean(own) or pa.types.is_temporal(own)
            ):  # fmt: skip
                raise ValueError(f"{field.name} is of type {own}, not {field.type}")
        return table.select(schema.names).cast(schema)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError) as error:
        raise CatalogError(
            f"a column is not of the type that it has in {first.name}: {error}",
            path=path,
            fix="Write all files with one schema",
        ) from error


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _with_folders(table: pa.Table, path: Path) -> pa.Table:
    """Add columns for folders such as ``tract=9813``: whole numbers where they are, else text."""
    for part in path.parts[:-1]:
        name, sign, text = part.partition("=")
        if sign and name and name not in table.column_names:
            number = re.fullmatch(r"-?\d{1,18}", text)
            value = pa.scalar(int(text), pa.int64()) if number else pa.scalar(text, pa.string())
            table = table.append_column(name, pa.repeat(value, table.num_rows))
    return table
