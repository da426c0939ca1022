"""The canonical schema of catalogues: columns, units, allowed values and defaults.

One row is one object on the sky. Every dialect is converted to this schema when a catalogue is read, and all other code
uses only this schema. Optional columns may be absent; `values` returns a column or its default.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from skygraft.catalog.columns import ColumnReader, refused
from skygraft.catalog.schema_columns import (
    COLUMNS,
    LEAST_INCLINED_TRUNCATION,
    LEAST_TRUNCATION,
    MOFFAT_RANGE,
    SERSIC_RANGE,
    SOURCE_TYPES,
    SPERGEL_RANGE,
    TYPE_ALIASES,
    VARIABILITIES,
    ColumnSpec,
)

__all__ = [
    "COLUMNS",
    "LEAST_INCLINED_TRUNCATION",
    "LEAST_TRUNCATION",
    "MOFFAT_RANGE",
    "SERSIC_RANGE",
    "SOURCE_TYPES",
    "SPERGEL_RANGE",
    "TYPE_ALIASES",
    "VARIABILITIES",
    "ColumnSpec",
    "bands_of",
    "is_mag_column",
    "strings",
    "unit_of",
    "values",
]

# Not bands: mag_per_pixel, and the magnitude errors of observed catalogues.
_MAG = re.compile(r"mag_(?!per_pixel$|(?:\w+_)?(?:err|error|sigma)(?:_|$))(\w+)")

_NAN = float("nan")

# Missing values of these columns are not an error, but mean the default (such as a round source).
FILLED = tuple(s.name for s in COLUMNS.values() if s.kind == "float" and s.types and not np.isnan(s.default))

MOTION = ("pm_ra_cosdec", "pm_dec", "rate_ra_cosdec", "rate_dec")
WINDOW = ("mjd_from", "mjd_to")
BENDS = ("bend_from_east", "bend_from_north", "bend_to_east", "bend_to_north")


def is_mag_column(name: str) -> bool:
    """Return whether `name` is ``mag_<band>``."""
    return _MAG.fullmatch(name) is not None


def bands_of(table: Table) -> list[str]:
    """Return the bands with a column ``mag_<band>``, in the order of the columns.

    Parameters
    ----------
    table : Table

    Returns
    -------
    list of str
    """
    return [name.removeprefix("mag_") for name in table.colnames if is_mag_column(name)]


def values(table: Table, name: str, default: Any = None) -> NDArray[Any]:
    """Return a column as a plain array in canonical units: float64, int64 or bool; NaN (or the default) where missing.

    Parameters
    ----------
    table : Table or QTable
    name : str
        Any canonical column, ``mag`` or ``mag_<band>``.
    default : object, optional
        Value if the column is absent; by default that of the schema.

    Returns
    -------
    ndarray, shape (N,)
    """
    spec = COLUMNS.get(name)
    kind = spec.kind if spec else "float"
    if kind == "str":
        return strings(table, name)
    if default is None:
        default = spec.default if spec else _NAN
    if name not in table.colnames:
        if name in refused(table):
            raise refused(table)[name].error(name)
        dtype: Any = {"float": np.float64, "int": np.int64, "bool": np.bool_}[kind]
        return np.full(len(table), default, dtype=dtype)
    column = ColumnReader(table[name], name)
    if kind == "int":
        return column.integers(default, unit_of(name))
    return column.booleans(default) if kind == "bool" else column.floats(unit_of(name))


def unit_of(name: str) -> str | None:
    """Return the unit of a canonical column or magnitude, ``""`` if dimensionless; None for other columns."""
    spec = COLUMNS.get(name)
    return (spec.unit or "") if spec else ("mag" if name == "mag" or is_mag_column(name) else None)


def strings(table: Table, name: str) -> NDArray[np.str_]:
    """Return a text column as an array of str: bytes are decoded, blanks stripped, missing values become ``""``.

    Parameters
    ----------
    table : Table or QTable
    name : str
        Any text column; an absent one gives ``""`` everywhere.

    Returns
    -------
    ndarray of str, shape (N,)
    """
    if name in refused(table):
        raise refused(table)[name].error(name)
    if name not in table.colnames:
        return np.full(len(table), "", dtype="U1")
    return ColumnReader(table[name], name).texts()
