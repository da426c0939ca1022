"""Read catalogues (ECSV, CSV, FITS, Parquet, VOTable) in any dialect as canonical tables, and write them."""

from __future__ import annotations

import contextlib
import os
import stat
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from astropy import units as u
from astropy.table import QTable, Table

from skygraft.catalog.arrow import from_arrow, to_arrow
from skygraft.catalog.arrow_arrays import arrow_array, numpy_array, one_array
from skygraft.catalog.checks import OnBad, validate
from skygraft.catalog.column_maps import mapped_names, rename_columns
from skygraft.catalog.columns import refused
from skygraft.catalog.dialects import Dialect, Source, build_table, carried_columns, choose_dialect
from skygraft.catalog.fits_tables import read_fits
from skygraft.catalog.hats_files import FolderCatalog, open_folder
from skygraft.catalog.parquet_files import ParquetCatalog, open_parquet, read_parquet, write_parquet
from skygraft.catalog.schema import bands_of, strings, values
from skygraft.catalog.stamp_paths import BAND, band_stamp_columns, is_remote, parse_stamp
from skygraft.catalog.tables import as_table
from skygraft.catalog.text_tables import FETCH_AGAIN, read_csv, read_ecsv
from skygraft.catalog.votables import read_votable
from skygraft.errors import CatalogError, CorruptFileError
from skygraft.paths import home_expanded
from skygraft.places import bring_all, is_place

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
"""File formats that can be read, with their file name suffixes."""


def file_format(path: str | os.PathLike[str]) -> str:
    """Return the format of a table file from its name.

    Raises
    ------
    CatalogError
        If its suffix is not in `FORMATS`.
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
    columns: Mapping[str, str] | None = None,
) -> QTable:
    """Read a catalogue of sources to inject.

    In CSV and ECSV files every row must have a cell for each column. A last line without a line break causes a
    `SkygraftWarning`, since the file may be truncated. VOTables must contain their data, not refer to other files.

    Parameters
    ----------
    path : path-like
        ECSV, CSV, FITS table, Parquet or VOTable; or a folder: a HATS catalogue or collection, or Parquet files.
    dialect : str
        "auto", or one of `skygraft.catalog.dialects.DIALECTS`.
    band : str, optional
        Band of a magnitude column without one (``mag``); if the columns name bands, the band that must exist.
    on_bad : {"raise", "flag"}
        Raise for rows that cannot be drawn, or flag them (see `skygraft.catalog.validate`).
    hdu : int or str, optional
        The HDU of the table, needed if a FITS file has several.
    columns : mapping of str to str, optional
        The table's own names of columns, by those of the native schema (`skygraft.catalog.column_maps`).

    Returns
    -------
    QTable
        Canonical columns (`skygraft.catalog.schema.COLUMNS`), with units.

    Raises
    ------
    CatalogError
        If the catalogue is empty, or a column or a row cannot be used.
    DialectError
        If it matches no dialect, or several.
    CorruptFileError
        If the file cannot be read.
    """
    path = bring_all(path) if is_place(path) else path
    table = read_table(path, hdu=hdu)
    out = normalize_catalog(table, dialect, band, origin=os.fspath(path), on_bad=on_bad, columns=columns)
    resolve_stamps(out, stamps_beside(Path(path)), on_bad)
    return out


def normalize_catalog(
    table: Any,
    dialect: str = "auto",
    band: str | None = None,
    *,
    on_bad: OnBad = "raise",
    origin: str = "",
    columns: Mapping[str, str] | None = None,
) -> QTable:
    """Convert a table in memory to a canonical table and check it; errors as in `read_catalog`.

    Parameters
    ----------
    table : table-like
        An astropy Table, a DataFrame of pandas or Polars, a pyarrow Table, a numpy structured array, an xarray
        Dataset or a dict of columns (`skygraft.catalog.as_table`).
    dialect : str
        Name of the dialect, or "auto" to recognise it.
    band : str, optional
        Band of a magnitude column without one (``mag``); if the columns name bands, the band that must exist.
    on_bad : {"raise", "flag"}
        Raise for rows that cannot be drawn, or flag them.
    origin : str
        Name of the table in error messages.
    columns : mapping of str to str, optional
        The table's own names of columns, by those of the native schema (`skygraft.catalog.column_maps`).

    Returns
    -------
    QTable
    """
    table = rename_columns(as_table(table, origin=origin), columns or {}, origin=origin)
    if len(table) == 0 and (table.colnames or not refused(table)):
        raise CatalogError("the catalogue has no rows", path=origin or None, fix="Give at least one source")
    chosen = choose_dialect(frozenset([*table.colnames, *refused(table)]), dialect, origin=origin)
    return _convert(table, chosen, band, origin=origin, on_bad=on_bad, first_row=0, unique=True)


def _convert(
    table: Table, dialect: Dialect, band: str | None, *, origin: str, on_bad: OnBad, first_row: int, unique: bool
) -> QTable:
    source = Source(table, origin, first_row)
    columns = dialect.convert(source, band)
    columns |= carried_columns(source, dialect, columns)
    out = build_table(columns, source, dialect)
    return validate(out, on_bad=on_bad, origin=origin, first_row=first_row, unique=unique, positions=dialect.positions)


def _checked_format(path: Path) -> str:
    """The format of a file that can be read. A name without an ending may be that of a folder that is not there."""
    if not path.suffix:
        _check_file(path)
    fmt = file_format(path)
    _check_file(path)
    return fmt


def _is_folder(path: Path) -> bool:
    return os.path.isdir(path)  # noqa: PTH112 - Path.is_dir raises if the name is too long


def stamps_beside(path: Path) -> Path:
    """A file beside which stamps lie: in the folder itself, if the catalogue is one."""
    return path / "catalogue" if _is_folder(path) else path


def resolve_stamps(table: QTable, path: Path, on_bad: OnBad = "raise") -> None:
    """Make the paths of stamps and real galaxies, which are relative to the catalogue's folder, absolute, in place.

    Parameters
    ----------
    table : QTable
        Canonical table.
    path : Path
        The catalogue's file.
    on_bad : {"raise", "flag"}
        Whether a stamp whose file does not exist is an error, or is left to be flagged where it is to be drawn, in the
        bands that it is missing in.

    Raises
    ------
    CatalogError
        If a file does not exist.
    """
    _resolve_real_galaxies(table, path)
    columns = ["stamp"] if "stamp" in table.colnames else []
    columns += band_stamp_columns(table).values()
    if not columns:
        return
    folder = path.resolve().parent
    for name in columns:
        given = strings(table, name)
        names = {"": ""}
        for stamp in np.unique(given[given != ""]).tolist():
            names[stamp] = stamp if is_remote(stamp) else os.path.normpath(folder / home_expanded(stamp))
        table[name] = np.array([names[text] for text in given.tolist()], dtype=np.str_)
    if on_bad == "raise":
        _check_stamps(table, columns, path)


def _check_stamps(table: QTable, columns: list[str], path: Path) -> None:
    """Raise if the file of a stamp does not exist, in a band that its row has a magnitude in."""
    for band, name in [(band, column) for column in columns for band in _bands_of_stamps(table, column)]:
        given = strings(table, name)
        used = given != ""
        if band is not None and f"mag_{band}" in table.colnames:
            used &= np.isfinite(values(table, f"mag_{band}"))
        for text in np.unique(given[used]).tolist():
            stamp = text if band is None else text.replace(BAND, band)
            if is_remote(stamp) or (address := parse_stamp(stamp)).is_there:
                continue
            raise CatalogError(
                f"the stamp {os.path.relpath(stamp, path.resolve().parent)!r} is not at {address.path}",
                path=path,
                row=int(np.flatnonzero(used & (given == text))[0]),
                key=name,
                fix="Correct the path; it is relative to the catalogue's folder",
            )


def _bands_of_stamps(table: QTable, name: str) -> list[str | None]:
    """Return the bands in which to look for the stamps of a column; None where it does not matter."""
    if name != "stamp":
        return [name.removeprefix("stamp_")]
    return [*bands_of(table)] if any(BAND in text for text in np.unique(strings(table, name)).tolist()) else [None]


def _resolve_real_galaxies(table: QTable, path: Path) -> None:
    """Convert paths of GalSim's catalogues of real galaxies as those of stamps; there are only few of them."""
    name = "real_galaxy_catalog"
    if name not in table.colnames:
        return
    given = strings(table, name)
    kinds, which = np.unique(given, return_inverse=True)
    resolved = []
    for k, text in enumerate(kinds.tolist()):
        full = Path(os.path.normpath(path.resolve().parent / home_expanded(text))) if text else None
        if full is not None and not full.is_file():
            raise CatalogError(
                f"the catalogue of real galaxies {text!r} is not at {full}",
                path=path,
                row=int(np.flatnonzero(which.reshape(-1) == k)[0]),
                key=name,
                fix="Correct the path; it is relative to the catalogue's folder",
            )
        resolved.append(str(full or ""))
    table[name] = np.array(resolved, dtype=np.str_)[which.reshape(-1)]


def read_table(path: str | os.PathLike[str], *, hdu: int | str | None = None) -> Table:
    """Read any table file unconverted; parameters and errors as in `read_catalog`."""
    path = Path(path)
    if _is_folder(path):
        with open_folder(path) as folder:
            return folder.read()
    fmt = _checked_format(path)
    if fmt == "fits":
        return read_fits(path, hdu)
    return _READERS[fmt](path)


_READERS: dict[str, Callable[[Path], Table]] = {
    "parquet": read_parquet,
    "votable": read_votable,
    "csv": read_csv,
    "ecsv": read_ecsv,
}


def _check_file(path: Path) -> None:
    """Raise unless this is a regular, non-empty file; reading a device might never end."""
    try:
        mode, size = path.stat().st_mode, path.stat().st_size
    except FileNotFoundError:
        raise CatalogError("there is no such file", path=path, fix="Check the path") from None
    except (OSError, ValueError) as error:  # ValueError for invalid file names
        raise CatalogError(f"the file cannot be read ({error})", path=path, fix="Check the path") from error
    if not stat.S_ISREG(mode):
        raise CatalogError("this is not a regular file", path=path, fix="Give a file that can be read to its end")
    if size == 0:
        raise CorruptFileError("the file is empty (0 bytes)", path=path, fix=FETCH_AGAIN)


def iter_catalog(
    path: str | os.PathLike[str],
    *,
    dialect: str = "auto",
    band: str | None = None,
    on_bad: OnBad = "raise",
    chunk_rows: int = 500_000,
    columns: Mapping[str, str] | None = None,
) -> Iterator[QTable]:
    """Read a large catalogue in canonical chunks; Parquet and HATS are streamed, other formats are read completely.

    Ids are checked only within a chunk. Other parameters and errors are as in `read_catalog`.

    Yields
    ------
    QTable
        Up to `chunk_rows` rows, in the order of the file.
    """
    path = Path(bring_all(path) if is_place(path) else path)
    columns = columns or {}
    if not is_streamed(path):
        table = read_catalog(path, dialect=dialect, band=band, on_bad=on_bad, columns=columns)
        for start in range(0, len(table), chunk_rows):
            yield table[start : start + chunk_rows]
        return
    with open_stream(path) as file:
        if file.n_rows == 0:
            raise CatalogError("the catalogue has no rows", path=path, fix="Give at least one source")
        chosen = choose_dialect(mapped_names(file.names, columns, origin=str(path)), dialect, origin=str(path))
        first = 0
        for raw in file.chunks(chunk_rows):
            renamed = rename_columns(raw, columns, origin=str(path))
            chunk = _convert(renamed, chosen, band, origin=str(path), on_bad=on_bad, first_row=first, unique=False)
            resolve_stamps(chunk, stamps_beside(path), on_bad)
            first += len(raw)
            yield chunk


def is_streamed(path: Path) -> bool:
    """Return whether a catalogue is read in chunks: Parquet, and folders; errors as in `read_catalog`."""
    return _is_folder(path) or _checked_format(path) == "parquet"


def open_stream(path: Path) -> contextlib.AbstractContextManager[ParquetCatalog | FolderCatalog]:
    """Open a Parquet file, or a folder of them, to be read in chunks."""
    return open_folder(path) if _is_folder(path) else open_parquet(path)


def write_catalog(table: QTable, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Write a canonical table to a file that `read_catalog` can read: ECSV, FITS, Parquet or VOTable.

    Parameters
    ----------
    table : QTable
        Canonical table.
    path : path-like
        Its suffix determines the format; CSV is refused because it would lose the units.
    overwrite : bool
        Replace an existing file.

    Raises
    ------
    CatalogError
        If the file exists and `overwrite` is false, or the format is CSV or unknown.
    """
    path = Path(path)
    fmt = file_format(path)
    if fmt == "csv":
        raise CatalogError("CSV files lose the units", path=path, fix="Write an .ecsv or a .parquet file")
    if path.exists() and not overwrite:
        raise CatalogError("the file is there already", path=path, fix="Choose another name, or pass overwrite=True")
    if fmt == "parquet":
        write_parquet(to_arrow(table), path)
        return
    # astropy's writer of VOTables as text (TABLEDATA) overruns its buffer by one byte if a row just fills it.
    options = {"tabledata_format": "binary2"} if fmt == "votable" else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", u.UnitsWarning)
        table.write(path, format="ascii.ecsv" if fmt == "ecsv" else fmt, overwrite=overwrite, **options)
