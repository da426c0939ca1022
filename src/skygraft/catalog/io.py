"""Reading catalogues: ECSV, CSV, FITS, Parquet and VOTable, in any dialect, into canonical tables."""

from __future__ import annotations

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
from astropy.io import fits
from astropy.io.votable.exceptions import VOTableSpecError
from astropy.table import MaskedColumn, QTable, Table
from astropy.table import meta as table_meta
from astropy.units import Quantity
from numpy.typing import NDArray

from skygraft.catalog.dialects import Dialect, Source, build_table, choose_dialect
from skygraft.catalog.schema import OnBad, strings, validate
from skygraft.errors import CatalogError, CorruptFileError

__all__ = [
    "FORMATS",
    "arrow_array",
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
        f"the ending is none of {known}", path=path, fix="Rename the file, or convert it to one of these"
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
        `skygraft.catalog.schema.validate`).
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
    table: Table,
    dialect: str = "auto",
    band: str | None = None,
    *,
    origin: str = "",
    on_bad: OnBad = "raise",
) -> QTable:
    """Convert a table in memory to canonical form and check it; parameters as in `read_catalog`.

    Parameters
    ----------
    origin : str
        What the table is called in error messages.

    Returns
    -------
    QTable
    """
    if len(table) == 0:
        raise CatalogError("the catalogue has no rows", path=origin or None, fix="Give at least one source")
    chosen = choose_dialect(frozenset(table.colnames), dialect, origin=origin)
    return _convert(table, chosen, band, origin=origin, on_bad=on_bad, first_row=0, unique=True)


def _convert(
    table: Table, dialect: Dialect, band: str | None, *, origin: str, on_bad: OnBad, first_row: int, unique: bool
) -> QTable:
    source = Source(table, origin, first_row)
    columns = dialect.convert(source, band)
    out = build_table(columns, source, dialect)
    return validate(out, on_bad=on_bad, origin=origin, first_row=first_row, unique=unique)


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
    if fmt == "parquet":
        try:
            # Not pq.read_table, which imports pandas: seconds in every worker.
            with pq.ParquetFile(path) as file:
                return from_arrow(file.read())
        except (pa.ArrowInvalid, pa.ArrowIOError) as error:
            raise CorruptFileError(f"not a readable Parquet file: {error}", path=path, fix=_AGAIN) from error
    with warnings.catch_warnings():
        # Units and character codes that astropy grumbles about do not change what is read.
        warnings.simplefilter("ignore")
        try:
            if fmt == "fits":
                return Table.read(path, format="fits", hdu=_table_hdu(path, hdu))
            if fmt == "votable":
                return Table.read(path, format="votable")
            return Table.read(path, format=f"ascii.{fmt}")
        except (CatalogError, CorruptFileError):
            raise
        except (OSError, ValueError, KeyError, IndexError, TypeError, VOTableSpecError) as error:
            raise CorruptFileError(f"not a readable {fmt} table: {error}", path=path, fix=_AGAIN) from error


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
        chosen = choose_dialect(frozenset(file.schema_arrow.names), dialect, origin=str(path))
        first = 0
        for batch in _batches(file, path, chunk_rows):
            raw = from_arrow(pa.Table.from_batches([batch], schema=file.schema_arrow))
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


def to_arrow(table: QTable) -> pa.Table:
    """An Arrow table; units go into each field's metadata under ``unit``."""
    arrays, fields = [], []
    for name in table.colnames:
        column = table[name]
        unit = getattr(column, "unit", None)
        mask = getattr(column, "mask", None)
        raw = np.asarray(getattr(column, "unmasked", column))
        raw = np.asarray(raw.value if isinstance(raw, Quantity) else np.ma.getdata(raw))
        if raw.dtype.kind in "SUO":
            array = arrow_array(strings(table, name), mask)
        else:
            array = arrow_array(raw.astype(raw.dtype.newbyteorder("="), copy=False), mask)
        arrays.append(array)
        fields.append(pa.field(name, array.type, metadata={"unit": str(unit)} if unit else None))
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields))


def arrow_array(values: NDArray[Any], mask: Any = None) -> pa.Array:
    """An Arrow array of a one-dimensional array of numbers, bool or str; null where `mask` is set.

    Unlike `pyarrow.array` this does not import pandas, which takes seconds in every process.
    """
    valid = None
    if mask is not None and np.any(mask):
        valid = pa.py_buffer(np.packbits(~np.asarray(mask, dtype=bool), bitorder="little"))
    if values.dtype.kind == "U":
        lengths, content = _utf8(values)
        offsets = np.zeros(values.size + 1, dtype=np.int32)
        np.cumsum(lengths, out=offsets[1:])
        return pa.Array.from_buffers(pa.string(), values.size, [valid, pa.py_buffer(offsets), pa.py_buffer(content)])
    kind = pa.from_numpy_dtype(values.dtype)
    data = np.packbits(values, bitorder="little") if values.dtype.kind == "b" else np.ascontiguousarray(values)
    return pa.Array.from_buffers(kind, values.size, [valid, pa.py_buffer(data)])


def _utf8(texts: NDArray[Any]) -> tuple[Any, bytes | NDArray[np.uint8]]:
    """Lengths in bytes of some texts, and all of them in a row."""
    codes = np.ascontiguousarray(texts).view(np.uint32).reshape(texts.size, texts.dtype.itemsize // 4)
    if codes.size and codes.max() < 128:
        used = codes != 0
        lengths = used.sum(axis=1)
        # NumPy pads with NUL: one between letters is the text's own.
        if not np.any(~used[:, :-1] & used[:, 1:]):
            return lengths, codes[used].astype(np.uint8)
    encoded = [text.encode() for text in texts.tolist()]
    return [len(text) for text in encoded], b"".join(encoded)


def from_arrow(table: pa.Table) -> QTable:
    """A `QTable` of an Arrow table, units from the fields' metadata (or from astropy's own); nulls are masked.

    Columns of lists become arrays of shape (N, M) where all have one length, and are left out otherwise.
    """
    astropy_units = _astropy_units(table.schema.metadata)
    out = QTable()
    for i, field in enumerate(table.schema):
        column = table.column(i).combine_chunks()
        unit = (field.metadata or {}).get(b"unit", b"").decode() or astropy_units.get(field.name)
        values = _plain(column)
        if values is None:
            continue
        if unit and not isinstance(values, MaskedColumn) and values.dtype.kind in "fiu":
            out[field.name] = _with_unit(values, unit)
        else:
            out[field.name] = values
            if unit and isinstance(values, MaskedColumn):
                out[field.name].unit = unit
    return out


def _with_unit(array: Any, unit: str) -> Any:
    """A quantity, or the bare array where the unit is not one that astropy knows."""
    try:
        # "mag(AB)" is a function unit, whose quantities follow other rules: the same number in plain magnitudes.
        return Quantity(array, "mag" if unit == "mag(AB)" else unit, copy=False)
    except (ValueError, TypeError):
        return array


def _plain(column: Any) -> Any:
    """The values of an Arrow column, or None where they are not one value (or one fixed length) a row."""
    kind = column.type
    column = one_array(column)
    if pa.types.is_dictionary(kind):
        column, kind = column.dictionary_decode(), kind.value_type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        rows = column.to_pylist()
        lengths = {len(r) if r is not None else -1 for r in rows}
        return np.array(rows) if len(lengths) == 1 and -1 not in lengths else None
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_binary(kind):
        # Few texts stand in many rows.
        encoded = column.dictionary_encode(null_encoding="encode")
        rows = [v.decode() if isinstance(v, bytes) else v for v in encoded.dictionary.to_pylist()]
        text = np.array(["" if v is None else v for v in rows] or [""], dtype=np.str_)[numpy_array(encoded.indices)]
        return MaskedColumn(text, mask=numpy_array(column.is_null())) if column.null_count else text
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        return None
    null = numpy_array(column.is_null())
    if not null.any():
        return numpy_array(column)
    filled = numpy_array(column.fill_null(False if pa.types.is_boolean(kind) else 0))
    if pa.types.is_floating(kind):
        filled[null] = np.nan
        return filled
    return MaskedColumn(filled, mask=null)


_NUMPY_NAMES = {"bool": "?", "halffloat": "f2", "float": "f4", "double": "f8"}


def one_array(column: Any) -> Any:
    """An Arrow column, in one piece or several, as one array."""
    if isinstance(column, pa.ChunkedArray):
        return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], type=column.type)
    return column


def numpy_array(column: Any) -> NDArray[Any]:
    """A copy of an Arrow array without nulls, by its buffer: `to_numpy` would import pandas."""
    dtype = np.dtype(_NUMPY_NAMES.get(str(column.type), str(column.type)))
    start, stop = column.offset, column.offset + len(column)
    buffer = column.buffers()[1]
    if stop == start:
        return np.empty(0, dtype=dtype)
    if dtype.kind == "b":
        bits = np.frombuffer(buffer, dtype=np.uint8, count=(stop + 7) // 8)
        return np.unpackbits(bits, bitorder="little", count=stop)[start:].astype(np.bool_)
    return np.frombuffer(buffer, dtype=dtype, count=stop)[start:].copy()


def _astropy_units(metadata: dict[bytes, bytes] | None) -> dict[str, str]:
    text = (metadata or {}).get(b"table_meta_yaml")
    if not text:
        return {}
    header = table_meta.get_header_from_yaml(text.decode().splitlines())
    return {c["name"]: str(c["unit"]) for c in header["datatype"] if c.get("unit")}
