"""Convert between Arrow tables and astropy tables: every Arrow type is converted exactly, or refused with a reason.

`pyarrow` imports pandas for most conversions, which takes seconds in every process, so buffers are read directly.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
from astropy.table import Column, MaskedColumn, QTable
from astropy.table import meta as table_meta
from astropy.units import Quantity, UnrecognizedUnit
from numpy.typing import NDArray

from skygraft.catalog.arrow_arrays import arrow_array, numpy_array, one_array, repeated_text, texts_of
from skygraft.catalog.columns import SOURCE_TYPE, ColumnReader, Refusal, parse_unit, refuse
from skygraft.catalog.votables import parse_votable
from skygraft.errors import CorruptFileError
from skygraft.json_text import parse_json
from skygraft.lazy import lazy_module
from skygraft.yaml_text import check_yaml

pc = lazy_module("pyarrow.compute")

__all__ = ["from_arrow", "pandas_index", "to_arrow", "with_index"]

# If both numbers are exact in double precision, their quotient is correctly rounded.
_EXACT = 2**53
_EXACT_SCALE = 22


def to_arrow(table: QTable) -> pa.Table:
    """Convert an astropy table to an Arrow table; units are stored in each field's metadata under ``unit``.

    Raises
    ------
    CatalogError
        If a column is not one number or text per row.
    """
    arrays, fields = [], []
    for name in table.colnames:
        column = table[name]
        unit = getattr(column, "unit", None)
        mask = getattr(column, "mask", None)
        raw = np.asarray(getattr(column, "unmasked", column))
        raw = np.asarray(raw.value if isinstance(raw, Quantity) else np.ma.getdata(raw))
        if raw.dtype.kind == "U" and raw.strides == (0,) and raw.size and mask is None:
            array = repeated_text(str(raw[0]).strip(), raw.size)
        elif raw.dtype.kind in "SUOT":
            array = arrow_array(ColumnReader(column, name).texts(), mask)
        elif raw.dtype.kind not in "biufM" or raw.ndim != 1:
            shape = f" of shape {raw.shape[1:]}" if raw.ndim > 1 else ""
            raise Refusal.of_type(f"{raw.dtype}{shape}").error(name)
        else:
            array = arrow_array(raw.astype(raw.dtype.newbyteorder("="), copy=False), mask)
        arrays.append(array)
        fields.append(pa.field(name, array.type, metadata={"unit": str(unit)} if unit else None))
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields))


def from_arrow(table: pa.Table, *, origin: str = "") -> QTable:
    """Convert an Arrow table to a `QTable`; nulls are masked.

    Units are taken from the metadata of fields or table. Lists of equal length become columns of shape (N, M). Columns
    of other types, lists of different lengths, and repeated columns are left out; asking for one of them is an error
    (`skygraft.catalog.columns.refused`).

    Parameters
    ----------
    table : pyarrow.Table
    origin : str
        Name of the file, for errors.

    Returns
    -------
    QTable

    Raises
    ------
    CorruptFileError
        If metadata with units are damaged.
    """
    units = _table_units(table.schema.metadata, origin)
    counts = Counter(table.schema.names)
    out = QTable()
    for i, field in enumerate(table.schema):
        if counts[field.name] > 1:
            refuse(out, field.name, Refusal.twice(counts[field.name]))
            continue
        values = _plain(one_array(table.column(i)))
        if isinstance(values, Refusal):
            refuse(out, field.name, values)
            continue
        metadata = field.metadata or {}
        unit = parse_unit(metadata.get(b"unit") or metadata.get(b"units") or units.get(field.name))
        if unit is not None and values.dtype.kind in "fiu" and not isinstance(values, Column):
            out[field.name] = _with_unit(values, unit)
        else:
            out[field.name] = values
        if unit is not None and isinstance(out[field.name], Column):
            out[field.name].unit = unit
    return out


def _with_unit(array: Any, unit: Any) -> Any:
    """Return a quantity, or the array itself if its unit is unknown or logarithmic."""
    try:
        return array if isinstance(unit, UnrecognizedUnit) else Quantity(array, unit, copy=False)
    except TypeError:
        return array


def _plain(column: Any) -> Any:
    """Convert an Arrow array of any type to a NumPy array or `Column`, or return a `Refusal`."""
    kind = column.type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind):
        return _numbers(column)
    if pa.types.is_null(kind):
        return np.full(len(column), np.nan)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or str(kind) == "string_view":
        return _texts(column.cast(pa.large_string()) if str(kind) == "string_view" else column)
    if pa.types.is_dictionary(kind):
        return _decoded(column)
    if pa.types.is_decimal(kind):
        return _decimals(column)
    if pa.types.is_run_end_encoded(kind):
        return _plain(pc.run_end_decode(column))
    if "binary" in str(kind):
        return _texts(column.cast(pa.large_binary()))
    if str(kind).startswith(("list", "large_list", "fixed_size_list")):
        return _lists(column)
    if isinstance(kind, pa.BaseExtensionType) and kind.extension_name == "arrow.bool8":
        return _numbers(column.storage.cast(pa.bool_()))
    return Refusal.of_type(kind, _example(column))


def _example(column: Any) -> str | None:
    valid = column.drop_null()
    try:
        return str(valid[0]) if len(valid) else None
    except (ValueError, OverflowError):  # a time outside the range of Python's datetime
        return str(valid[:1].to_string())


def _numbers(column: Any) -> Any:
    kind = column.type
    if not column.null_count:
        return numpy_array(column)
    null = numpy_array(column.is_null())
    filled = numpy_array(column.fill_null(False if pa.types.is_boolean(kind) else 0))
    if pa.types.is_floating(kind):
        filled[null] = np.nan
        return filled
    return MaskedColumn(filled, mask=null)


def _texts(column: Any) -> Any:
    text = texts_of(column)
    return MaskedColumn(text, mask=numpy_array(column.is_null())) if column.null_count else text


def _decoded(column: Any) -> Any:
    """Decode a dictionary-encoded column."""
    values = _plain(column.dictionary)
    if isinstance(values, Refusal):
        return Refusal.of_type(column.type, _example(column))
    missing = numpy_array(column.indices.is_null())
    if not len(values):
        return MaskedColumn(np.zeros(len(column), dtype=values.dtype), mask=missing)
    index = numpy_array(column.indices.fill_null(0) if column.indices.null_count else column.indices)
    out = values[index]
    if missing.any() and isinstance(out, MaskedColumn):
        out.mask |= missing
    elif missing.any():
        out = MaskedColumn(out, mask=missing)
    return out


def _decimals(column: Any) -> Any:
    """Convert decimals to int64 or float64 if all are exact or correctly rounded, otherwise to Python's `Decimal`."""
    kind, null = column.type, numpy_array(column.is_null())
    values = _unscaled(column, null)
    if values is not None and kind.scale == 0:
        array = values
    elif values is not None and 0 < kind.scale <= _EXACT_SCALE and np.all(np.abs(values) < _EXACT):
        array = values / 10.0**kind.scale
    else:
        array = np.empty(len(column), dtype=object)
        array[:] = column.to_pylist()
    return MaskedColumn(array, mask=null, meta={SOURCE_TYPE: str(kind)})


def _unscaled(column: Any, null: NDArray[np.bool_]) -> NDArray[np.int64] | None:
    """Unscaled integers of decimals (the digits without the decimal point); None if one needs over 64 bits."""
    try:
        wide = column.cast(pa.decimal128(38, column.type.scale))
    except pa.ArrowInvalid:
        return None
    start, stop = wide.offset, wide.offset + len(wide)
    words = np.frombuffer(wide.buffers()[1] or b"", dtype="<i8", count=2 * stop)[2 * start :].reshape(-1, 2)
    low, high = np.where(null[:, None], 0, words).T
    return np.asarray(low) if np.all(high == low >> 63) and np.all(low != np.iinfo(np.int64).min) else None


def _lists(column: Any) -> Any:
    """Convert lists of equal length to shape (N, M); lists of one value or none to shape (N, 1)."""
    if str(column.type).startswith(("list_view", "large_list_view")):
        column = pa.array(column.to_pylist(), pa.large_list(column.type.value_type))
    lengths = numpy_array(pc.list_value_length(column).cast(pa.int64()).fill_null(-1))
    size = int(lengths[0]) if lengths.size else 1
    if size < 1 or np.any(lengths != size):
        size = 1 if np.all(lengths <= 1) else 0
    flat = _plain(column.flatten()) if size else None
    if flat is None or isinstance(flat, Refusal) or flat.ndim != 1:
        return Refusal.of_type(column.type, _example(column))
    if np.all(lengths == size):
        return flat.reshape(len(column), size)
    there = lengths == 1
    out = np.zeros((len(column), 1), dtype=flat.dtype)
    mask = ~there[:, None]
    out[there, 0] = np.ma.getdata(flat)
    mask[there, 0] = np.ma.getmaskarray(np.ma.asarray(flat))
    return MaskedColumn(out, mask=mask)


def _table_units(metadata: dict[bytes, bytes] | None, origin: str) -> dict[str, str]:
    """Units of columns in the table's metadata, as written by astropy or as a VOTable (VOParquet)."""
    metadata = metadata or {}
    if text := metadata.get(b"table_meta_yaml"):
        return _units_of_header(text, origin)
    if content := metadata.get(b"IVOA.VOTable-Parquet.content"):
        return {field.name: field.unit for field in parse_votable(content, origin) if field.unit}
    return {}


def _units_of_header(text: bytes, origin: str) -> dict[str, str]:
    """Units in the header of an ECSV table, which astropy writes into the metadata of Parquet files."""
    try:
        content = text.decode()
        check_yaml(content)
        columns = table_meta.get_header_from_yaml(content.splitlines())["datatype"]
        return {str(c["name"]): str(c["unit"]) for c in columns if c.get("unit")}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        reason = str(error).lstrip(" :") if isinstance(error, ValueError) else repr(error)
        raise CorruptFileError(
            f"the metadata 'table_meta_yaml', which have the columns' units, are damaged ({reason})",
            path=origin or None,
            fix="Write the file again",
        ) from error


def pandas_index(schema: pa.Schema, n_rows: int) -> tuple[str, range] | None:
    """Return name and values of a range index that pandas stored in the metadata instead of as a column, or None.

    Parameters
    ----------
    schema : pyarrow.Schema
    n_rows : int
        Rows of the file, which must be the length of the index.
    """
    try:
        indexes = parse_json((schema.metadata or {})[b"pandas"])["index_columns"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return None
    for index in indexes if isinstance(indexes, list) else ():
        if isinstance(index, dict) and index.get("kind") == "range" and isinstance(index.get("name"), str):
            three = [n for key in ("start", "stop", "step") if isinstance(n := index.get(key), int) and abs(n) < 2**62]
            if index["name"] and index["name"] not in schema.names and len(three) == 3 and three[2]:
                rows = range(*three)
                if len(rows) == n_rows:
                    return index["name"], rows
    return None


def with_index(table: pa.Table, index: tuple[str, range] | None, first_row: int = 0) -> pa.Table:
    """Add the index from `pandas_index` as a column to rows of a file that begin at `first_row`.

    Parameters
    ----------
    table : pyarrow.Table
        Consecutive rows of the file.
    index : (str, range) or None
        Result of `pandas_index`.
    first_row : int
        Number of the table's first row in the file.

    Returns
    -------
    pyarrow.Table
    """
    if index is None:
        return table
    name, rows = index
    part = rows[first_row : first_row + table.num_rows]
    return table.append_column(name, arrow_array(np.arange(part.start, part.stop, part.step, dtype=np.int64)))
