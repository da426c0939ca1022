"""What a catalogue dialect is: how it is recognised, and how its rows become canonical ones."""

from __future__ import annotations

import abc
import re
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from astropy import units as u
from astropy.table import QTable, Table
from numpy.typing import NDArray

from skygraft.catalog.schema import COLUMNS, FILLED, is_mag_column, strings
from skygraft.errors import CatalogError

__all__ = ["Canonical", "Dialect", "Source", "build_table", "magnitude", "shape_from_g"]

Canonical = dict[str, NDArray[Any]]
"""Canonical column names to plain arrays in canonical units."""


class Source:
    """A foreign table, read column by column.

    Parameters
    ----------
    table : Table
        As it was read; columns may be masked, of bytes, or carry units.
    origin : str
        File name for error messages.
    first_row : int
        Number of the first row in the file (a large file comes in chunks).
    """

    def __init__(self, table: Table, origin: str = "", first_row: int = 0) -> None:
        self.table = table
        self.origin = origin
        self.first_row = first_row

    def __len__(self) -> int:
        return len(self.table)

    def __contains__(self, name: str) -> bool:
        return name in self.table.colnames

    @property
    def names(self) -> list[str]:
        """The table's column names."""
        return list(self.table.colnames)

    def error(self, message: str, *, key: str | None = None, fix: str | None = None) -> CatalogError:
        """An error about this file."""
        return CatalogError(message, path=self.origin or None, key=key, fix=fix)

    def _one_dimensional(self, name: str) -> Any:
        column = self.table[name]
        if len(column.shape) != 1:
            raise self.error(
                f"column {name!r} holds arrays of shape {column.shape[1:]}; one value a row is needed", key=name
            )
        return column

    def numbers(
        self, name: str, unit: str | None = None, *, default: float = np.nan, strict: bool = False
    ) -> NDArray[np.float64]:
        """A column as float64, NaN where missing.

        Parameters
        ----------
        name : str
        unit : str, optional
            The unit wanted; a unit in the table's metadata is converted to it, none means that it is this already.
        default : float
            Value where the column is absent.
        strict : bool
            The dialect fixes the unit: another one in the metadata is an error, not a conversion.
        """
        if name not in self:
            return np.full(len(self), default)
        column = self._one_dimensional(name)
        mask = getattr(column, "mask", None)
        raw = np.asarray(getattr(column, "unmasked", column))
        try:
            array = np.array(np.ma.getdata(raw), dtype=np.float64)
        except (TypeError, ValueError):
            array = self._parse(name, raw)
        given = getattr(column, "unit", None)
        if unit is not None and given is not None and given not in (u.dimensionless_unscaled, u.Unit(unit)):
            array = self._convert(name, array, given, unit, strict)
        if mask is not None and np.any(mask):
            array[np.asarray(mask, dtype=bool)] = np.nan
        return array

    def _parse(self, name: str, raw: NDArray[Any]) -> NDArray[np.float64]:
        text = strings(self.table, name)
        out = np.full(len(text), np.nan)
        for row, word in enumerate(text.tolist()):
            if word.lower() in ("", "nan", "none", "null", "--"):
                continue
            try:
                out[row] = float(word)
            except ValueError:
                message = f"{name} = {word!r} is not a number"
                raise CatalogError(
                    message,
                    path=self.origin or None,
                    row=self.first_row + row,
                    key=name,
                    fix="Correct it, or leave the cell empty or nan where there is no value",
                ) from None
        return out

    def _convert(
        self, name: str, array: NDArray[np.float64], given: Any, unit: str, strict: bool
    ) -> NDArray[np.float64]:
        # AB magnitudes are written with the units "mag" and "mag(AB)": the same number.
        if unit == "mag" and str(given) in ("mag", "mag(AB)", "ABmag"):
            return array
        if strict:
            raise self.error(
                f"column {name!r} says that it is in {given}, but this dialect has it in {unit}",
                key=name,
                fix="Convert the column, or name the dialect with dialect=",
            )
        try:
            return np.asarray((array * u.Unit(given)).to_value(u.Unit(unit)), dtype=np.float64)
        except (u.UnitConversionError, ValueError, TypeError):
            raise self.error(f"column {name!r} is in {given}, which cannot be converted to {unit}", key=name) from None

    def integers(self, name: str, *, default: int = 0) -> NDArray[np.int64]:
        """A column as int64, `default` where missing or absent."""
        if name not in self:
            return np.full(len(self), default, dtype=np.int64)
        column = self._one_dimensional(name)
        raw = np.asarray(getattr(column, "unmasked", column))
        if raw.dtype.kind in "iub":
            out = np.ma.getdata(raw).astype(np.int64)
            mask = getattr(column, "mask", None)
            if mask is not None and np.any(mask):
                out[np.asarray(mask, dtype=bool)] = default
            return out
        real = self.numbers(name)
        # Beyond 2**53 a float no longer tells two ids apart.
        odd = np.isfinite(real) & ((real != np.rint(real)) | (np.abs(real) > 2**53))
        if odd.any() or np.isinf(real).any():
            row = int(np.flatnonzero(odd | np.isinf(real))[0])
            raise CatalogError(
                f"{name} = {float(real[row])!r} is not a whole number",
                path=self.origin or None,
                row=self.first_row + row,
                key=name,
                fix="Correct it",
            )
        return np.where(np.isnan(real), default, real).astype(np.int64)

    def text(self, name: str) -> NDArray[np.str_]:
        """A column as str, ``""`` where missing or absent."""
        if name in self:
            self._one_dimensional(name)
        return strings(self.table, name)

    def ids(self, *names: str) -> NDArray[np.int64]:
        """The first of the named columns as injection ids; the row numbers where there is none of them."""
        for name in names:
            if name in self:
                column = self.integers(name, default=-1)
                if (column < 0).any():
                    row = int(np.flatnonzero(column < 0)[0])
                    raise CatalogError(
                        f"{name} is missing or negative",
                        path=self.origin or None,
                        row=self.first_row + row,
                        key=name,
                        fix="Give every source an id of 0 or more",
                    )
                return column
        return np.arange(self.first_row, self.first_row + len(self), dtype=np.int64)


class Dialect(abc.ABC):
    """A way in which a project writes its catalogue of fakes.

    A subclass states its `name`, what it `looks_for`, whether columns that it does not know are carried along
    (except those `consumed` by the conversion), and the two methods.
    """

    name: ClassVar[str]
    looks_for: ClassVar[str]
    keeps_extra_columns: ClassVar[bool] = False
    consumed: ClassVar[frozenset[str]] = frozenset()

    @abc.abstractmethod
    def matches(self, columns: frozenset[str]) -> bool:
        """Whether a table with these columns is of this dialect; values are never looked at."""

    @abc.abstractmethod
    def convert(self, source: Source, band: str | None) -> Canonical:
        """The rows in canonical columns and units.

        Raises
        ------
        CatalogError
            If a column is missing or in an impossible unit, or the band is needed or not there.
        """


def per_band(names: list[str], pattern: str) -> dict[str, str]:
    """Bands found by a pattern with one group, each with its column."""
    found = ((re.fullmatch(pattern, name), name) for name in names)
    return {match.group(1): name for match, name in found if match}


def require_band(source: Source, available: Mapping[str, Any], band: str | None) -> None:
    """Raise where a band is asked for that is not there, naming those that are."""
    if band is not None and band not in available:
        raise source.error(
            f"the catalogue has no band {band!r}; it has {', '.join(available) or 'none'}",
            key="band",
            fix="Ask for one of these, or add the magnitudes",
        )


def magnitude(flux: NDArray[np.float64], zeropoint: float) -> NDArray[np.float64]:
    """AB magnitude of a flux; NaN (not in this band) where the flux is not positive."""
    out = np.full(flux.shape, np.nan)
    lit = np.isfinite(flux) & (flux > 0)
    out[lit] = zeropoint - 2.5 * np.log10(flux[lit])
    return out


def shape_from_g(g1: NDArray[np.float64], g2: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Axis ratio and angle (degrees in [0, 180)): |g| = (1 - q) / (1 + q), angle = atan2(g2, g1) / 2."""
    g = np.hypot(g1, g2)
    return (1.0 - g) / (1.0 + g), np.degrees(0.5 * np.arctan2(g2, g1)) % 180.0


def build_table(columns: Canonical, source: Source, dialect: Dialect) -> QTable:
    """A canonical `QTable`, with units, missing shape parameters filled, in the schema's order.

    Columns of the source that no canonical column is made of follow, where they hold one value a row.
    """
    source_type = columns["source_type"]
    table = QTable()
    ordered = [n for n in COLUMNS if n in columns and n != "flags"]
    mags = [n for n in columns if is_mag_column(n)]
    at = ordered.index("source_type") + 1
    for name in [*ordered[:at], *mags, *ordered[at:]]:
        spec = COLUMNS.get(name)
        array = columns[name]
        if name in FILLED and spec is not None:
            used = np.isin(source_type, spec.types)
            array = np.where(used & np.isnan(array), spec.default, array)
        unit = spec.unit if spec else "mag"
        table[name] = array if unit is None or array.dtype.kind != "f" else u.Quantity(array, unit, copy=False)
    table["flags"] = columns.get("flags", np.zeros(len(source), dtype=np.int64))
    if dialect.keeps_extra_columns:
        for name in source.names:
            known = name in table.colnames or name in COLUMNS or name in dialect.consumed
            if known or source.table[name].ndim != 1:
                continue
            column = source.table[name]
            text = np.asarray(column).dtype.kind in "SO"
            table[name] = strings(source.table, name) if text else column
    return table
