"""Convert tables in memory, of any library, to astropy tables.

pandas, Polars and xarray are not imported here: their objects are recognised by their methods.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from astropy.io import fits
from astropy.table import Column, MaskedColumn, Row, Table
from astropy.time import Time
from astropy.units import Quantity
from numpy.typing import NDArray

from skygraft.catalog.arrow import from_arrow
from skygraft.catalog.columns import Refusal, parse_unit, refuse, refused
from skygraft.catalog.fits_tables import of_fits_data
from skygraft.errors import CatalogError

__all__ = ["as_table"]

_TAKEN = (
    "an astropy Table, a pandas or Polars DataFrame, a pyarrow Table, a numpy structured array, an xarray Dataset, or "
    "a dict of columns"
)


def as_table(obj: Any, *, origin: str = "") -> Table:
    """Convert any table in memory to an astropy table, without changing values.

    Missing values are masked. Columns that are not numbers, booleans or text are left out; it is an error if one of
    them is needed later, for example by `normalize_catalog`.

    Parameters
    ----------
    obj : table-like
        An astropy Table or QTable (returned unchanged), a pandas or Polars DataFrame, a pyarrow Table or RecordBatch,
        any other object with ``__arrow_c_stream__`` or ``__dataframe__``, a NumPy structured array, an xarray Dataset
        (units from the variables' ``attrs``), or a mapping of names to columns, in which a single value applies to all
        rows.
    origin : str
        Name of the table in error messages.

    Returns
    -------
    Table

    Raises
    ------
    CatalogError
        If `obj` is none of these, or its columns are of different lengths.
    """
    if isinstance(obj, Table):
        return obj
    if isinstance(obj, Row):
        return obj.table[obj.index : obj.index + 1]
    if isinstance(obj, np.ndarray) and obj.dtype.names is not None:
        return _of_structured(obj)
    if isinstance(obj, (str, os.PathLike)):
        raise CatalogError(
            f"{os.fspath(obj)!r} is a path, not a table", path=origin or None, fix="Read it with skygraft.read_catalog"
        )
    if _is_of("pandas", obj) and hasattr(obj, "columns"):
        columns = [(str(name), obj.iloc[:, i]) for i, name in enumerate(obj.columns)]
        return _of_columns([*_pandas_index(obj), *columns], origin)
    if _is_of("xarray", obj) and hasattr(obj, "data_vars"):
        return _of_dataset(obj, origin)
    if isinstance(obj, Mapping):
        return _of_columns([(str(name), column) for name, column in obj.items()], origin)
    table = _through_arrow(obj, origin)
    if table is not None:
        return table
    lazy = hasattr(obj, "compute") or hasattr(obj, "collect")
    raise CatalogError(
        f"a {type(obj).__module__}.{type(obj).__qualname__} is not a table that can be read",
        path=origin or None,
        fix=("Compute it first (with .compute() or .collect()), and give " if lazy else "Give ") + _TAKEN,
    )


def _is_of(library: str, obj: Any) -> bool:
    """Whether an object's type, or a base class of it, is from a library; the library is not imported."""
    return any(cls.__module__.partition(".")[0] == library for cls in type(obj).__mro__)


def _through_arrow(obj: Any, origin: str) -> Table | None:
    """Convert an object through Arrow, or return None if that is not possible."""
    try:
        if isinstance(obj, (pa.Table, pa.RecordBatch)) or hasattr(obj, "__arrow_c_stream__"):
            return from_arrow(pa.table(obj))
        if hasattr(obj, "__dataframe__"):
            from pyarrow.interchange import from_dataframe

            return from_arrow(from_dataframe(obj))
    except (pa.ArrowException, TypeError, ValueError, NotImplementedError, RuntimeError) as error:
        names = list(getattr(obj, "columns", ()))
        if names and hasattr(obj, "__getitem__"):
            # Convert column by column, since one that Arrow refuses must not affect the others.
            return _of_columns([(str(name), obj[name]) for name in names], origin)
        raise CatalogError(
            f"a {type(obj).__module__}.{type(obj).__qualname__} cannot be read as a table: {error}",
            path=origin or None,
            fix=f"Give {_TAKEN}",
        ) from error
    return None


def _of_structured(array: NDArray[Any]) -> Table:
    """Convert a structured array, or the data of a FITS table."""
    if isinstance(array, fits.FITS_rec):
        return of_fits_data(array)
    return Table(array, copy=False)


def _pandas_index(frame: Any) -> list[tuple[str, Any]]:
    """Return the named levels of a DataFrame's index as columns."""
    index = frame.index
    return [(str(name), index.get_level_values(i)) for i, name in enumerate(index.names) if name is not None]


def _of_dataset(dataset: Any, origin: str) -> Table:
    """Convert the variables and coordinates of an xarray Dataset along its only dimension."""
    variables = [(str(name), variable) for name, variable in dataset.variables.items()]
    dims = Counter(variable.dims[0] for _, variable in variables if variable.ndim == 1)
    if not dims:
        raise CatalogError("the Dataset has no variable of one dimension", path=origin or None, fix=f"Give {_TAKEN}")
    rows, _ = dims.most_common(1)[0]
    columns: list[tuple[str, Any]] = []
    for name, variable in variables:
        if variable.dims in ((), (rows,)):
            columns.append((name, variable))
        else:
            columns.append((name, Refusal(f"has the dimensions {variable.dims}; that of the rows is {rows!r}")))
    return _of_columns(columns, origin)


def _of_columns(columns: Iterable[tuple[str, Any]], origin: str) -> Table:
    """Build a table from columns of any type, each converted separately."""
    columns = list(columns)
    counts = Counter(name for name, _ in columns)
    converted = [(name, Refusal.twice(n) if (n := counts[name]) > 1 else _column(value)) for name, value in columns]
    lengths = {name: len(c) for name, c in converted if not isinstance(c, Refusal) and np.ndim(c) > 0}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name} ({n})" for name, n in lengths.items())
        raise CatalogError(
            f"the columns are of different lengths: {listed}", path=origin or None, fix="Give one value a row"
        )
    n_rows = next(iter(lengths.values()), 1)
    table = Table()
    for name, value in converted:
        if isinstance(value, Refusal):
            refuse(table, name, value)
        else:
            table[name] = np.broadcast_to(value, n_rows, subok=True).copy() if np.ndim(value) == 0 else value
    for name, given in columns:
        attrs = getattr(given, "attrs", {}) if _is_of("xarray", given) else {}
        unit = parse_unit(attrs.get("units", attrs.get("unit")))
        if unit is not None and name in table.colnames:
            table[name].unit = unit
    return table


def _column(value: Any) -> Any:
    """Convert a column of any type to one that an astropy table stores exactly."""
    if isinstance(value, (Refusal, Column, Quantity, Time)):
        return value
    if _is_of("pandas", value):
        return _of_series(value)
    if _is_of("xarray", value):
        value = value.values
    if isinstance(value, (pa.Array, pa.ChunkedArray)) or hasattr(value, "__arrow_c_stream__"):
        return _of_arrow(value)
    if isinstance(value, (list, tuple)):
        return _of_list(value)
    if isinstance(value, np.ma.MaskedArray):
        return MaskedColumn(value)
    try:
        return np.asarray(value)
    except (TypeError, ValueError):
        return Refusal.of_type(type(value).__name__, value)


def _of_arrow(value: Any) -> Any:
    """Convert an Arrow column, or an object that can be converted to one."""
    try:
        array = value if isinstance(value, (pa.Array, pa.ChunkedArray)) else pa.chunked_array(value)
    except (pa.ArrowException, TypeError, ValueError) as error:
        return Refusal(f"is of type {getattr(value, 'dtype', type(value).__name__)}, which cannot be read ({error})")
    return _only(pa.table({"column": array}))


def _only(arrow: pa.Table) -> Any:
    table = from_arrow(arrow)
    return refused(table)["column"] if not table.colnames else table["column"]


def _of_series(series: Any) -> Any:
    """Convert a pandas Series or Index: NumPy types directly, pandas' own types through Arrow."""
    if isinstance(series.dtype, np.dtype):
        return np.asarray(series)
    try:
        return _of_arrow(pa.array(series, from_pandas=True))
    except (pa.ArrowException, TypeError, ValueError, NotImplementedError):
        values = np.asarray(series)
        return values if values.dtype.kind in "biufSUO" else Refusal.of_type(series.dtype)


def _of_list(values: Any) -> Any:
    """Convert a list without NumPy's coercion of mixed types (numbers to text, integers to floats, true to 1)."""
    try:
        array = np.asarray(values)
    except (ValueError, OverflowError):
        array = np.empty(0, dtype=object)
    kinds = {"i": (bool,), "u": (bool,), "f": (int,), "U": (bool, int, float, bytes), "S": (bool, int, float)}
    mixed = any(isinstance(v, kinds.get(array.dtype.kind, ())) for v in values)
    if array.ndim == 1 and array.size == len(values) and not mixed:
        return array
    if array.ndim > 1 and array.dtype.kind in "biufc":
        return array
    out = np.empty(len(values), dtype=object)
    out[:] = values
    return out
