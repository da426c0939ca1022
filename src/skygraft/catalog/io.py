"""Reading catalogues: ECSV, CSV, FITS, Parquet and VOTable, in any dialect, into canonical tables."""

from __future__ import annotations

import csv
import gzip
import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from astropy import units as u
from astropy.io import fits, votable
from astropy.table import QTable, Table

from skygraft.catalog.arrow import (
    arrow_array,
    from_arrow,
    numpy_array,
    one_array,
    pandas_index,
    to_arrow,
    with_index,
)
from skygraft.catalog.checks import OnBad, validate
from skygraft.catalog.columns import Refusal, refuse, refused
from skygraft.catalog.dialects import Dialect, Source, build_table, choose_dialect
from skygraft.catalog.fits_tables import read_fits_table
from skygraft.catalog.schema import strings
from skygraft.catalog.tables import as_table
from skygraft.errors import CatalogError, CorruptFileError

__all__ = [
    "FORMATS",
    "arrow_array",
    "as_table",
    "file_format",
    "from_arrow",
    "iter_catalog",
    "normalize_catalog",
    "numpy_array",
    "one_array",
    "read_catalog",
    "read_table",
    "to_arrow",
    "write_catalog",
]

FORMATS: dict[str, tuple[str, ...]] = {
    "ecsv": (".ecsv", ".ecsv.gz"),
    "csv": (".csv", ".csv.gz"),
    "fits": (".fits", ".fit", ".fts", ".fits.gz", ".fits.fz"),
    "parquet": (".parquet", ".parq", ".pq"),
    "votable": (".vot", ".votable", ".xml", ".vot.gz"),
}
"""Formats that can be read, with the endings that they are known by."""

_AGAIN = "Fetch or make the file again, and check that its ending says what it is"
_WHOLE = re.compile(r"\s*([+-]?[0-9]+|nan|0|)\s*", re.IGNORECASE)
_REMOTE = re.compile(r"[a-zA-Z][\w+.-]+://")


def file_format(path: str | os.PathLike[str]) -> str:
    """The format of a table file, by its ending.

    Raises
    ------
    CatalogError
        If the ending is none of `FORMATS`.
    """
    name = Path(path).name.lower()
    for fmt, endings in FORMATS.items():
        if name.endswith(endings):
            return fmt
    known = ", ".join(e for endings in FORMATS.values() for e in endings)
    raise CatalogError(
        f"the ending is none of {known}",
        path=path,
        fix="Rename the file, or convert it to one of these; a table in memory can be given to normalize_catalog",
    )


def read_catalog(
    path: str | os.PathLike[str],
    *,
    dialect: str = "auto",
    band: str | None = None,
    on_bad: OnBad = "raise",
    hdu: int | str | None = None,
) -> QTable:
    """Read a catalogue of sources to inject.

    Parameters
    ----------
    path : path-like
        ECSV, CSV, FITS table, Parquet or VOTable.
    dialect : str
        "auto", or one of `skygraft.catalog.dialects.DIALECTS`.
    band : str, optional
        The band that a column without one (``mag``) is of; where bands are named, the one that must be there.
    on_bad : {"raise", "flag"}
        What to do with rows that cannot be drawn: refuse the file, or keep them, flagged (see
        `skygraft.catalog.validate`).
    hdu : int or str, optional
        Which table of a FITS file that has several.

    Returns
    -------
    QTable
        Canonical columns (`skygraft.catalog.schema.COLUMNS`), with units.

    Raises
    ------
    CatalogError
        If the catalogue is empty, or a column or a row cannot be used.
    DialectError
        If it matches no dialect or more than one.
    CorruptFileError
        If the file cannot be read.
    """
    table = read_table(path, hdu=hdu)
    out = normalize_catalog(table, dialect, band, origin=os.fspath(path), on_bad=on_bad)
    resolve_stamps(out, Path(path))
    return out


def normalize_catalog(
    table: Any,
    dialect: str = "auto",
    band: str | None = None,
    *,
    origin: str = "",
    on_bad: OnBad = "raise",
) -> QTable:
    """Convert a table in memory to canonical form and check it; parameters and errors as in `read_catalog`.

    Parameters
    ----------
    table : table-like
        An astropy Table, a DataFrame of pandas or Polars, a pyarrow Table, a numpy structured array, an xarray
        Dataset or a dict of columns (`skygraft.catalog.as_table`).
    origin : str
        What the table is called in error messages.

    Returns
    -------
    QTable
    """
    table = as_table(table, origin=origin)
    if len(table) == 0 and (table.colnames or not refused(table)):
        raise CatalogError("the catalogue has no rows", path=origin or None, fix="Give at least one source")
    chosen = choose_dialect(frozenset([*table.colnames, *refused(table)]), dialect, origin=origin)
    return _convert(table, chosen, band, origin=origin, on_bad=on_bad, first_row=0, unique=True)


def _convert(
    table: Table, dialect: Dialect, band: str | None, *, origin: str, on_bad: OnBad, first_row: int, unique: bool
) -> QTable:
    source = Source(table, origin, first_row)
    columns = dialect.convert(source, band)
    out = build_table(columns, source, dialect)
    return validate(out, on_bad=on_bad, origin=origin, first_row=first_row, unique=unique, positions=dialect.positions)


def resolve_stamps(table: QTable, path: Path) -> None:
    """Make the stamps' paths absolute, relative to the catalogue's folder; `table` is changed.

    Raises
    ------
    CatalogError
        If a stamp's file is not there.
    """
    if "stamp" not in table.colnames:
        return
    given = strings(table, "stamp")
    folder = path.resolve().parent
    resolved: dict[str, str] = {"": ""}
    for stamp in np.unique(given[given != ""]).tolist():
        if _REMOTE.match(stamp):
            resolved[stamp] = stamp
            continue
        full = Path(os.path.normpath(folder / Path(stamp).expanduser()))
        if not full.is_file():
            row = int(np.flatnonzero(given == stamp)[0])
            raise CatalogError(
                f"the stamp {stamp!r} is not at {full}",
                path=path,
                row=row,
                key="stamp",
                fix="Correct the path; it is relative to the catalogue's folder",
            )
        resolved[stamp] = str(full)
    table["stamp"] = np.array([resolved[s] for s in given.tolist()], dtype=np.str_)


def read_table(path: str | os.PathLike[str], *, hdu: int | str | None = None) -> Table:
    """Read any table file as it is; parameters and errors as in `read_catalog`."""
    path = Path(path)
    fmt = file_format(path)
    _check_file(path)
    with warnings.catch_warnings():
        # Units and character codes that astropy grumbles about do not change what is read.
        warnings.simplefilter("ignore")
        try:
            return _READERS[fmt](path, hdu)
        except (CatalogError, CorruptFileError, MemoryError):
            raise
        except Exception as error:  # a damaged file breaks a reader in ways that it does not foresee
            what = "Parquet file" if fmt == "parquet" else f"{fmt} table"
            raise CorruptFileError(f"not a readable {what}: {error}", path=path, fix=_AGAIN) from error


def _read_parquet(path: Path, hdu: int | str | None) -> Table:
    del hdu
    # Not pq.read_table, which imports pandas: seconds in every worker.
    with pq.ParquetFile(path) as file:
        index = pandas_index(file.schema_arrow, file.metadata.num_rows)
        return from_arrow(with_index(file.read(), index))


def _read_fits(path: Path, hdu: int | str | None) -> Table:
    which = _table_hdu(path, hdu)
    with fits.open(path, memmap=False) as hdus:
        return read_fits_table(hdus[which])


def _read_votable(path: Path, hdu: int | str | None) -> Table:
    del hdu
    tables = list(votable.parse(path, verify="ignore").iter_tables())
    if len(tables) != 1:
        raise CatalogError(
            f"the file holds {len(tables)} tables", path=path, fix="Give a VOTable with one table, of sources"
        )
    table = tables[0].to_table(use_names_over_ids=True)
    return _without_doubles(table, [field.name or field.ID for field in tables[0].fields])


def _read_csv(path: Path, hdu: int | str | None) -> Table:
    del hdu
    table = Table.read(path, format="ascii.csv")
    for name in table.colnames:
        # Whole numbers beside a "nan" are read as floating-point ones, in which large ones are no longer exact.
        if table[name].dtype.kind == "f" and np.any(np.abs(np.ma.asarray(table[name])) >= 2**53):
            text = Table.read(path, format="ascii.csv", include_names=[name], converters={name: str})[name]
            if all(_WHOLE.fullmatch(word) for word in np.ma.getdata(text).tolist()):
                table[name] = text
    return _without_doubles(table, _header(path, ","))


def _read_ecsv(path: Path, hdu: int | str | None) -> Table:
    del hdu
    table = Table.read(path, format="ascii.ecsv")
    return _without_doubles(table, _header(path, str(table.meta.get("delimiter", " "))))


def _header(path: Path, delimiter: str) -> list[str]:
    """The names in the first line of a text table that is not a comment."""
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
        lines = (line for line in file if line.strip() and not line.startswith("#"))
        return [name.strip() for name in next(csv.reader([next(lines)], delimiter=delimiter))]


def _without_doubles(table: Table, names: list[str]) -> Table:
    """Keep out the columns of a name that occurs twice, to the later of which astropy has given others."""
    if len(names) == len(table.colnames):
        read = list(table.colnames)
        for name in {name for name in names if names.count(name) > 1}:
            for i, other in enumerate(names):
                if other == name:
                    table.remove_column(read[i])
            refuse(table, name, Refusal.twice(names.count(name)))
    return table


_READERS = {
    "parquet": _read_parquet,
    "fits": _read_fits,
    "votable": _read_votable,
    "csv": _read_csv,
    "ecsv": _read_ecsv,
}


def _check_file(path: Path) -> None:
    if path.is_dir():
        raise CatalogError("this is a directory", path=path, fix="Give a file in it")
    if not path.is_file():
        raise CatalogError("there is no such file", path=path, fix="Check the path")
    if path.stat().st_size == 0:
        raise CorruptFileError("the file is empty (0 bytes)", path=path, fix=_AGAIN)


def _table_hdu(path: Path, hdu: int | str | None) -> int | str:
    if path.suffix != ".gz" and path.stat().st_size % 2880:
        raise CorruptFileError("truncated: its size is not a multiple of 2880 bytes", path=path, fix=_AGAIN)
    with fits.open(path) as hdus:
        tables = [i for i, h in enumerate(hdus) if isinstance(h, (fits.BinTableHDU, fits.TableHDU))]
        tables = [i for i in tables if not isinstance(hdus[i], fits.CompImageHDU)]
        names = [f"{i} ({hdus[i].name or 'unnamed'})" for i in tables]
    if hdu is not None:
        return hdu
    if not tables:
        raise CatalogError("the file holds no table", path=path, fix="Give a FITS file with a binary table")
    if len(tables) > 1:
        raise CatalogError(
            f"the file holds {len(tables)} tables: {', '.join(names)}", path=path, fix="Say which with hdu="
        )
    return tables[0]


def iter_catalog(
    path: str | os.PathLike[str],
    *,
    dialect: str = "auto",
    band: str | None = None,
    on_bad: OnBad = "raise",
    chunk_rows: int = 500_000,
) -> Iterator[QTable]:
    """Read a large catalogue in canonical chunks; Parquet is streamed, other formats are read whole.

    Ids are checked within a chunk only. Parameters and errors as in `read_catalog`.

    Yields
    ------
    QTable
        Up to `chunk_rows` rows, in the order of the file.
    """
    path = Path(path)
    if file_format(path) != "parquet":
        table = read_catalog(path, dialect=dialect, band=band, on_bad=on_bad)
        for start in range(0, len(table), chunk_rows):
            yield table[start : start + chunk_rows]
        return
    _check_file(path)
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowInvalid, pa.ArrowIOError) as error:
        raise CorruptFileError(f"not a readable Parquet file: {error}", path=path, fix=_AGAIN) from error
    with file:
        if file.metadata.num_rows == 0:
            raise CatalogError("the catalogue has no rows", path=path, fix="Give at least one source")
        index = pandas_index(file.schema_arrow, file.metadata.num_rows)
        names = [*file.schema_arrow.names, *([index[0]] if index else [])]
        chosen = choose_dialect(frozenset(names), dialect, origin=str(path))
        first = 0
        for batch in _batches(file, path, chunk_rows):
            raw = from_arrow(with_index(pa.Table.from_batches([batch], schema=file.schema_arrow), index, first))
            chunk = _convert(raw, chosen, band, origin=str(path), on_bad=on_bad, first_row=first, unique=False)
            resolve_stamps(chunk, path)
            first += batch.num_rows
            yield chunk


def _batches(file: Any, path: Path, chunk_rows: int) -> Iterator[Any]:
    batches = file.iter_batches(batch_size=chunk_rows)
    while True:
        try:
            batch = next(batches, None)
        except (pa.ArrowInvalid, pa.ArrowIOError) as error:
            raise CorruptFileError(f"the Parquet file is damaged: {error}", path=path, fix=_AGAIN) from error
        if batch is None:
            return
        yield batch


def write_catalog(table: QTable, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Write a canonical table to a file that `read_catalog` gives back: ECSV, FITS, Parquet or VOTable.

    Parameters
    ----------
    table : QTable
    path : path-like
        The ending says the format; CSV is refused because it loses the units.
    overwrite : bool
        Replace a file that is there.
    """
    path = Path(path)
    fmt = file_format(path)
    if fmt == "csv":
        raise CatalogError("CSV files lose the units", path=path, fix="Write an .ecsv or a .parquet file")
    if path.exists() and not overwrite:
        raise CatalogError("the file is there already", path=path, fix="Choose another name, or pass overwrite=True")
    if fmt == "parquet":
        pq.write_table(to_arrow(table), path)
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", u.UnitsWarning)
        table.write(path, format="ascii.ecsv" if fmt == "ecsv" else fmt, overwrite=overwrite)
