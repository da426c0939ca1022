"""The interface of catalogue dialects: how one is recognised, and how its rows are converted to the schema."""

from __future__ import annotations

import abc
import re
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal

import numpy as np
from astropy import units as u
from astropy.table import Column, QTable, Table
from numpy.typing import NDArray

from skygraft.catalog.column_maps import nearest
from skygraft.catalog.columns import ColumnReader, refused
from skygraft.catalog.orders import Kinds
from skygraft.catalog.schema import COLUMNS, FILLED, MOTION, is_mag_column, unit_of
from skygraft.errors import CatalogError

__all__ = [
    "CARRIED",
    "Canonical",
    "Dialect",
    "Source",
    "build_table",
    "carried_columns",
    "magnitude",
    "per_band",
    "read_columns",
    "require_band",
    "shape_from_g",
]

Canonical = dict[str, NDArray[Any]]
"""Plain arrays in canonical units, by canonical column name."""

_SHAPES = ("n", "q", "pa", "half_light_radius", "moffat_beta", "trunc", "mag_per_pixel")
_PARTS = ("bulge_", "disk_", "trail_")
_CONVERTED = ("injection_id", "ra", "dec", "source_type", "flags")

CARRIED = tuple(name for name in COLUMNS if name not in (*_CONVERTED, *_SHAPES) and not name.startswith(_PARTS))
"""Native columns that every dialect may have: all but position, type and the shapes that dialects convert."""

_BAND_UNITS = ("mag", "nmgy", "mgy")
_SHOWN = 40
_OTHERS_TOO = frozenset({"flags"})
"""Columns whose names in other capitals mean something else: FLAGS are those of Source Extractor."""


class Source:
    """A table in some dialect, which is converted column by column.

    Parameters
    ----------
    table : Table
        The unconverted table (see `skygraft.catalog.as_table`); columns may be masked, of bytes, or have units.
    origin : str
        File name for error messages.
    first_row : int
        Number of the first row in the file (large files are read in chunks).
    """

    def __init__(self, table: Table, origin: str = "", first_row: int = 0) -> None:
        self.table = table
        self.origin = origin
        self.first_row = first_row
        self._refused = refused(table)
        self._readers: dict[str, ColumnReader] = {}
        self._by_lower: dict[str, list[str]] = {}
        for name in self.names:
            self._by_lower.setdefault(name.lower(), []).append(name)

    def __len__(self) -> int:
        return len(self.table)

    def __contains__(self, name: str) -> bool:
        return name in self.table.colnames or name in self._refused

    @property
    def names(self) -> list[str]:
        """Names of all columns, including those that cannot be read."""
        return [*self.table.colnames, *self._refused]

    def require(self, names: Iterable[str], fix: str | None = None) -> None:
        """Raise unless the table has some columns; all that are missing are named, and those that there are.

        Parameters
        ----------
        names : iterable of str
        fix : str, optional
            What to do; by default the names nearest to the first that is missing.

        Raises
        ------
        CatalogError
        """
        missing = [name for name in dict.fromkeys(names) if name not in self]
        if missing:
            have = ", ".join(self.names[:_SHOWN]) + (", ..." if len(self.names) > _SHOWN else "")
            near = nearest(missing[0], self.names, 2)
            raise self.error(
                f"the table has no column {', '.join(missing)}; it has {have}",
                key=missing[0],
                fix=fix or near or "Name columns that it has",
            )

    def error(self, message: str, *, key: str | None = None, fix: str | None = None) -> CatalogError:
        """Return an error that names this file."""
        return CatalogError(message, path=self.origin or None, key=key, fix=fix)

    def _reader(self, name: str, *, twins: bool = True) -> ColumnReader:
        """Return a column, after checking that it can be read and has no contradicting twin."""
        if name in self._refused:
            raise self._refused[name].error(name, self.origin)
        reader = self._readers.get(name)
        if reader is None:
            reader = ColumnReader(self.table[name], name, self.origin, self.first_row)
            self._readers[name] = reader
            if twins:
                self._check_twins(name, reader)
        return reader

    def _check_twins(self, name: str, reader: ColumnReader) -> None:
        """Raise if another column has the same name, apart from capitals, and different values."""
        for other in () if name in _OTHERS_TOO else self._by_lower.get(name.lower(), ()):
            if other != name and (other in self._refused or not self._same(reader, other)):
                raise self.error(
                    f"there are columns {name!r} and {other!r}, with different values",
                    key=name,
                    fix="Remove or rename the one that is not meant",
                )

    def _same(self, reader: ColumnReader, other: str) -> bool:
        try:
            twin = ColumnReader(self.table[other], other, self.origin, self.first_row)
            return twin.unit == reader.unit and bool(np.all(twin.texts() == reader.texts()))
        except CatalogError:
            return False

    def numbers(
        self, name: str, unit: str | None = "", *, default: float = np.nan, strict: bool = False
    ) -> NDArray[np.float64]:
        """Return a column as float64, NaN where missing.

        Parameters
        ----------
        name : str
        unit : str, optional
            Unit of the result, by default dimensionless. A column without unit is assumed to have it. None returns the
            numbers unconverted.
        default : float
            Value if the column is absent.
        strict : bool
            Raise instead of converting, if the column has another unit than the dialect prescribes.

        Returns
        -------
        ndarray of float64, shape (N,)
        """
        if name not in self:
            return np.full(len(self), default)
        # Capitals distinguish bands: R is not r.
        return self._reader(name, twins=unit not in _BAND_UNITS).floats(unit, strict=strict)

    def integers(self, name: str, *, default: int = 0, unit: str | None = None) -> NDArray[np.int64]:
        """Return a column as int64, `default` where missing or absent; another unit than `unit` is an error.

        Parameters
        ----------
        name : str
        default : int
        unit : str, optional

        Returns
        -------
        ndarray of int64, shape (N,)
        """
        if name not in self:
            return np.full(len(self), default, dtype=np.int64)
        return self._reader(name).integers(default, unit)

    def booleans(self, name: str, *, default: bool = False) -> NDArray[np.bool_]:
        """Return a column as bool, `default` where missing or absent.

        Parameters
        ----------
        name : str
        default : bool

        Returns
        -------
        ndarray of bool, shape (N,)
        """
        if name not in self:
            return np.full(len(self), default, dtype=np.bool_)
        return self._reader(name).booleans(default)

    def text(self, name: str) -> NDArray[np.str_]:
        """Return a column as str, ``""`` where missing or absent."""
        if name not in self:
            return np.full(len(self), "", dtype="U1")
        return self._reader(name).texts()

    def refuse_other_capitals(self, names: Iterable[str]) -> None:
        """Raise if one of `names` is absent but exists with other capitals."""
        for name in set(names) - _OTHERS_TOO:
            others = [] if name in self else [n for n in self._by_lower.get(name, ()) if n != name]
            if others:
                raise self.error(
                    f"there is a column {others[0]!r}, but none {name!r}: capitals count",
                    key=others[0],
                    fix=f"Rename it to {name!r} if that is what it is, or to something else",
                )

    def ids(self, *names: str) -> NDArray[np.int64]:
        """Return the first existing column of `names` as injection ids, or row numbers if there is none."""
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
    """Base class of the dialects in which projects write catalogues of fakes.

    A subclass defines its `name`, the columns that it `looks_for`, the unit of its `positions`, whether unknown columns
    are copied (except those `consumed` by the conversion), native columns whose name `means_otherwise` in it, and the
    two methods.
    """

    name: ClassVar[str]
    looks_for: ClassVar[str]
    keeps_extra_columns: ClassVar[bool] = False
    positions: ClassVar[Literal["deg", "rad"]] = "deg"
    consumed: ClassVar[frozenset[str]] = frozenset()
    means_otherwise: ClassVar[frozenset[str]] = frozenset()

    @abc.abstractmethod
    def matches(self, columns: frozenset[str]) -> bool:
        """Return whether a table with these columns is of this dialect; values are not considered.

        Parameters
        ----------
        columns : frozenset of str
            Column names.

        Returns
        -------
        bool
        """

    @abc.abstractmethod
    def convert(self, source: Source, band: str | None) -> Canonical:
        """Convert the rows to canonical columns and units.

        Parameters
        ----------
        source : Source
            The table.
        band : str or None
            Band of a magnitude column without one.

        Raises
        ------
        CatalogError
            If a column is missing or has an invalid unit, or a band is needed or does not exist.
        """


def read_columns(source: Source, names: Iterable[str]) -> Canonical:
    """Read columns of the native schema as they are; a missing value that means a default becomes it.

    Parameters
    ----------
    source : Source
        The table, which has all of them.
    names : iterable of str
        Native columns.

    Returns
    -------
    dict of str to ndarray
    """
    out: Canonical = {}
    for name in names:
        spec = COLUMNS[name]
        if spec.kind == "str":
            out[name] = source.text(name)
        elif spec.kind == "bool":
            out[name] = source.booleans(name, default=bool(spec.default))
        elif spec.kind == "int":
            out[name] = source.integers(name, default=int(spec.default), unit=unit_of(name))
        else:
            array = source.numbers(name, unit_of(name))
            # Defaults of shapes depend on the source's type: `build_table` fills them.
            out[name] = (
                array if spec.types or np.isnan(spec.default) else np.where(np.isnan(array), spec.default, array)
            )
    # Without both components a source does not move; with one alone its motion is not known: the checks refuse it.
    for pair in (MOTION[:2], MOTION[2:]):
        if set(pair) <= set(out):
            given = [source.numbers(name, unit_of(name)) for name in pair]
            half = (np.isnan(given[0]) != np.isnan(given[1])) & (np.nan_to_num(given).any(axis=0))
            if half.any():
                out |= {name: np.where(half, array, out[name]) for name, array in zip(pair, given, strict=True)}
    return out


def carried_columns(source: Source, dialect: Dialect, columns: Canonical) -> Canonical:
    """Read the native columns that a dialect has no other use for: identity, time, motion, lensing and choice.

    Parameters
    ----------
    source : Source
        The table.
    dialect : Dialect
        Its dialect.
    columns : mapping of str to ndarray
        What the dialect converted.

    Returns
    -------
    dict of str to ndarray
    """
    names = [name for name in CARRIED if name in source and name not in columns and name not in dialect.means_otherwise]
    return read_columns(source, names)


def per_band(names: list[str], pattern: str) -> dict[str, str]:
    """Return the column of each band, found by a pattern whose only group is the band."""
    found = ((re.fullmatch(pattern, name), name) for name in names)
    return {match.group(1): name for match, name in found if match}


def require_band(source: Source, available: Mapping[str, Any], band: str | None) -> None:
    """Raise if a requested band does not exist; the error names those that do.

    Parameters
    ----------
    source : Source
        The table, for errors.
    available : mapping
        Bands of the table.
    band : str or None
        The requested band; None for any.

    Raises
    ------
    CatalogError
    """
    if band is not None and band not in available:
        raise source.error(
            f"the catalogue has no band {band!r}; it has {', '.join(available) or 'none'}",
            key="band",
            fix="Ask for one of these, or add the magnitudes",
        )


def magnitude(flux: NDArray[np.float64], zeropoint: float) -> NDArray[np.float64]:
    """Convert flux to AB magnitude; NaN (not in this band) where the flux is not positive.

    Parameters
    ----------
    flux : ndarray
        Flux in any unit.
    zeropoint : float
        AB magnitude of one unit of flux.

    Returns
    -------
    ndarray
    """
    out = np.full(flux.shape, np.nan)
    lit = np.isfinite(flux) & (flux > 0)
    out[lit] = zeropoint - 2.5 * np.log10(flux[lit])
    return out


def shape_from_g(g1: NDArray[np.float64], g2: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Convert reduced shear to axis ratio and angle (in [0, 180) deg): |g| = (1-q)/(1+q), angle = atan2(g2, g1) / 2.

    Parameters
    ----------
    g1, g2 : ndarray, shape (N,)
        Components of the reduced shear.

    Returns
    -------
    q, angle : ndarray, shape (N,)
    """
    g = np.hypot(g1, g2)
    return (1.0 - g) / (1.0 + g), np.degrees(0.5 * np.arctan2(g2, g1)) % 180.0


def build_table(columns: Canonical, source: Source, dialect: Dialect) -> QTable:
    """Build a canonical `QTable` with units, in the schema's order, with missing shape parameters filled.

    Other columns of the source follow, if they are one number or text per row.

    Parameters
    ----------
    columns : mapping of str to ndarray
        Result of `Dialect.convert`.
    source : Source
        The original table.
    dialect : Dialect

    Returns
    -------
    QTable
    """
    kinds = Kinds(columns["source_type"])
    table = QTable()
    ordered = [n for n in COLUMNS if n in columns and n != "flags"]
    mags = [n for n in columns if is_mag_column(n)]
    at = ordered.index("source_type") + 1
    for name in [*ordered[:at], *mags, *ordered[at:]]:
        spec = COLUMNS.get(name)
        array = columns[name]
        if name in FILLED and spec is not None:
            used = kinds.among(spec.types)
            array = np.where(used & np.isnan(array), spec.default, array)
        unit = spec.unit if spec else "mag"
        content = array if unit is None or array.dtype.kind != "f" else u.Quantity(array, unit, copy=False)
        table.add_column(content, name=name, copy=False)  # it was converted, and belongs to nobody else
    flags = columns.get("flags", np.zeros(len(source), dtype=np.int64))
    table.add_column(flags, name="flags", copy=False)
    if dialect.keeps_extra_columns:
        for name in source.table.colnames:
            column = source.table[name]
            if name in table.colnames or name in COLUMNS or name in dialect.consumed:
                continue
            if column.ndim != 1 or not isinstance(column, (Column, u.Quantity)):
                continue
            try:
                reader = ColumnReader(column, name, source.origin, source.first_row)
            except CatalogError:
                continue  # not needed
            carried = reader.carried()
            table[name] = column if carried is None else carried
    return table
