"""The tables of other libraries, as `inject` takes them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from astropy.table import Table

from skygraft.catalog.io import from_arrow
from skygraft.errors import CatalogError

__all__ = ["as_table"]

_TAKEN = "an astropy Table, a pandas or Polars DataFrame, an Arrow table, a structured array or a dict of columns"


def as_table(catalog: Any) -> Table:
    """An astropy table of whatever holds columns; one that is an astropy table already is given back.

    What speaks Arrow (pandas, Polars, pyarrow, DuckDB) is taken by way of Arrow, so that types and missing values stay
    what they are. A pandas index that has a name counts as a column.

    Parameters
    ----------
    catalog : Any
        The table.

    Returns
    -------
    Table

    Raises
    ------
    CatalogError
        If it is no table: names its type, and what is taken.
    """
    if isinstance(catalog, Table):
        return catalog
    kind = f"{type(catalog).__module__}.{type(catalog).__qualname__}"
    if isinstance(catalog, str | os.PathLike):
        raise CatalogError(
            f"the catalogue is the name of a file, {os.fspath(catalog)!r}",
            fix="Read it first: skygraft.read_catalog(...)",
        )
    for name in ("collect", "compute"):
        if callable(getattr(catalog, name, None)) and not hasattr(catalog, "__arrow_c_stream__"):
            raise CatalogError(f"the catalogue is a {kind}, which is not in memory", fix=f"Call its {name}() first")
    try:
        if callable(getattr(catalog, "reset_index", None)) and any(getattr(catalog.index, "names", ())):
            catalog = catalog.reset_index(level=[name for name in catalog.index.names if name is not None])
        if hasattr(catalog, "__arrow_c_stream__"):
            return from_arrow(_without_views(pa.table(catalog)))
        if kind.startswith("pandas.") and hasattr(catalog, "columns"):  # before it spoke Arrow
            return from_arrow(pa.Table.from_pandas(catalog, preserve_index=False))
        if isinstance(catalog, np.ndarray) and catalog.dtype.names:
            return Table(catalog)
        if isinstance(catalog, Mapping):
            return Table(dict(catalog))
    except (pa.ArrowException, ValueError, TypeError, KeyError) as error:
        if isinstance(error, CatalogError):
            raise
        raise CatalogError(
            f"the catalogue, a {kind}, cannot be made a table ({error})",
            fix="Give columns of one length, each of numbers or of text",
        ) from error
    raise CatalogError(f"the catalogue is a {kind}, which is no table that is known here", fix=f"Give {_TAKEN}")


def _without_views(table: pa.Table) -> pa.Table:
    """Text in the layout that all of Arrow's functions take: Polars hands over views."""
    fields = [
        field.with_type(pa.large_string() if pa.types.is_string_view(field.type) else pa.large_binary())
        if pa.types.is_string_view(field.type) or pa.types.is_binary_view(field.type)
        else field
        for field in table.schema
    ]
    return table.cast(pa.schema(fields, metadata=table.schema.metadata))
