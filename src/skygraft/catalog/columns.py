"""Convert columns of a catalogue exactly to floats, integers, booleans or text, with errors that name the column.

Whatever a table was read from (FITS, Arrow, pandas, ...), its columns are converted by `ColumnReader` when they are
used. A column of any other type is left out of the table; instead the table has a `Refusal` for it, which is raised if
the column is needed.
"""

from __future__ import annotations

import decimal
import functools
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy import units as u
from astropy.table import MaskedColumn, Table
from astropy.time import Time
from numpy.typing import NDArray

from skygraft.errors import CatalogError, shown
from skygraft.wording import shorten

__all__ = ["SOURCE_TYPE", "ColumnReader", "Refusal", "parse_unit", "refuse", "refused"]

_REFUSED = "columns that cannot be read"
SOURCE_TYPE = "type"
"""Key of a column's `meta`: its type before it became a NumPy array."""

MISSING = frozenset({"", "nan", "none", "null", "--", "<na>", "nat"})
"""Words, in lower case, that mean a missing value."""

_INTEGER = re.compile(r"[+-]?[0-9]+")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_INFINITE = re.compile(r"[+-]?inf(inity)?", re.IGNORECASE)
_TRUE, _FALSE = frozenset({"true", "t", "yes", "1"}), frozenset({"false", "f", "no", "0"})
_LARGEST = 2**63 - 1
_SMALLEST = -(2**63)


@dataclass(frozen=True)
class Refusal:
    """The reason why a column was left out of a table.

    Parameters
    ----------
    reason : str
        Continues the words "column 'q' ...".
    fix : str
        What to do.
    """

    reason: str
    fix: str = "Write the column as plain numbers (or text), one value a row"

    @classmethod
    def of_type(cls, kind: Any, example: Any = None) -> Refusal:
        """Refuse a column that does not consist of numbers, booleans or text."""
        such_as = "" if example is None else f", for example {shorten(example)}"
        return cls(f"is of type {shorten(str(kind))}{such_as}, which is not one number or text a row")

    @classmethod
    def twice(cls, times: int = 2) -> Refusal:
        """Refuse a name that several columns have."""
        return cls(f"is there {times} times", "Keep one of them, or rename the others")

    def error(self, name: str, origin: str = "") -> CatalogError:
        """Return the error to raise if the column is needed."""
        return CatalogError(f"column {name!r} {self.reason}", path=origin or None, key=name, fix=self.fix)


def refuse(table: Table, name: str, refusal: Refusal) -> None:
    """Record that a column was left out of a table, and why.

    Parameters
    ----------
    table : Table
        Modified in place.
    name : str
        Name of the column.
    refusal : Refusal
        The reason.
    """
    table.meta.setdefault(_REFUSED, {})[name] = refusal
    if name in table.colnames:
        table.remove_column(name)


def refused(table: Table) -> Mapping[str, Refusal]:
    """Return the columns that were left out of a table, with the reasons."""
    found: Mapping[str, Refusal] = table.meta.get(_REFUSED, {})
    return found


_UNIT_WORDS = {
    "deg": ("degrees", "degs", "degrees_north", "degrees_east", "degree_north", "degree_east"),
    "rad": ("radians", "rads"),
    "arcsec": ("arcseconds", "arcsecs", "asec"),
    "arcmin": ("arcminutes", "arcmins", "amin"),
    "mag": ("magnitude", "magnitudes", "mags", "abmag", "ab mag", "mag(ab)"),
    "pix": ("pixels", "pixs"),
    "d": ("days",),
    "h": ("hours",),
    "nmgy": ("nanomaggy", "nanomaggies", "nmaggy", "nmaggies"),
    "mgy": ("maggy", "maggies"),
    "": ("none", "unitless", "dimensionless", "-", "--", "---", "n/a", "1"),
}
_UNIT_OF = {word: unit for unit, words in _UNIT_WORDS.items() for word in words}
_MAGGIES = {"mgy": u.def_unit("mgy", 3631 * u.Jy), "nmgy": u.def_unit("nmgy", 3.631e-6 * u.Jy)}


def parse_unit(given: Any) -> u.UnitBase | None:
    """Parse a unit; None if there is none, an `UnrecognizedUnit` if it is unknown.

    Parameters
    ----------
    given : unit, str, bytes or None
        Common names that astropy does not accept (``degrees``, ``radians``, ``arcseconds``) are allowed.
    """
    if isinstance(given, u.UnitBase) and not isinstance(given, u.UnrecognizedUnit):
        return _MAGGIES.get(str(given), given)  # astropy's maggies cannot be converted to jansky
    if isinstance(given, bytes):
        given = given.decode("utf-8", errors="backslashreplace")
    return None if given is None else _unit_named(str(given).strip())


@functools.lru_cache(maxsize=256)
def _unit_named(text: str) -> u.UnitBase | None:
    text = _UNIT_OF.get(text.lower(), text)
    if not text:
        return None
    if text in _MAGGIES:
        return _MAGGIES[text]
    unit: u.UnitBase = u.Unit(text, parse_strict="silent")
    if isinstance(unit, u.UnrecognizedUnit):
        # Some FITS files have DEG.
        lowered = u.Unit(text.lower(), parse_strict="silent")
        unit = unit if isinstance(lowered, u.UnrecognizedUnit) else lowered
    return unit


class _BadError(Exception):
    """A value cannot be converted; the message is the reason."""

    def __init__(self, reason: str, fix: str = "Correct it") -> None:
        super().__init__(reason)
        self.reason = reason
        self.fix = fix


class ColumnReader:
    """A column of a table that can be converted to floats, integers, booleans or text.

    Parameters
    ----------
    column : Column, MaskedColumn, Quantity, Time or ndarray
        The column, shape (N,) or (N, 1).
    name : str
        Its name.
    origin : str
        File name for error messages.
    first_row : int
        Number of the first row in the file.

    Raises
    ------
    CatalogError
        Here and in all methods, if the column or a value cannot be converted; names column, row and value.
    """

    def __init__(self, column: Any, name: str, origin: str = "", first_row: int = 0) -> None:
        self.name = name
        self.origin = origin
        self.first_row = first_row
        if isinstance(column, Time):
            # Times have a scale and are converted exactly to the schema's MJD in TAI.
            column = MaskedColumn(column.tai.mjd, unit=u.d, mask=np.broadcast_to(column.mask, column.shape))
        mask = getattr(column, "mask", None)
        self.kind = str((getattr(column, "meta", None) or {}).get(SOURCE_TYPE, ""))
        self.unit = parse_unit(getattr(column, "unit", None))
        raw = np.ma.getdata(np.asarray(getattr(column, "unmasked", column)))
        self.mask = np.asarray(mask, dtype=np.bool_) if mask is not None and np.any(mask) else None
        if raw.dtype.kind == "T":  # NumPy's variable-length strings
            raw = raw.astype(object)
        if raw.dtype.names is not None or raw.dtype.kind not in "biufSUO":
            raise self._refusal(raw).error(name, origin)
        if raw.ndim == 2 and raw.shape[1] == 1:
            raw = raw[:, 0]
            self.mask = None if self.mask is None else self.mask[:, 0]
        if raw.ndim != 1:
            raise CatalogError(
                f"column {name!r} holds arrays of shape {raw.shape[1:]}; one value a row is needed",
                path=origin or None,
                key=name,
                fix="Give one number a row",
            )
        self.raw = raw
        self.kind = self.kind or str(raw.dtype)

    def missing(self) -> int | None:
        """Return the place of the first row without a value (masked, NaN, an empty text); None if there is none."""
        if self.raw.dtype.kind in "biuf":
            absent = np.isnan(self.raw) if self.raw.dtype.kind == "f" else np.zeros(self.raw.shape, dtype=np.bool_)
            absent = absent if self.mask is None else absent | self.mask
        else:
            absent = self.texts() == ""
        return int(np.argmax(absent)) if absent.any() else None

    def carried(self) -> Any:
        """Return a column that is only copied: text as str, decimals as numbers; None if no conversion is needed."""
        if self.kind.startswith("decimal"):
            if not self.kind.endswith(" 0)"):
                return self.floats()
            whole = self.integers(0)
            return whole if self.mask is None else MaskedColumn(whole, mask=self.mask)
        return self.texts() if self.raw.dtype.kind in "SO" else None

    def _refusal(self, raw: NDArray[Any]) -> Refusal:
        return Refusal.of_type(self.kind or raw.dtype, str(raw.flat[0]) if raw.size else None)

    def _error(self, row: int, reason: str, fix: str) -> CatalogError:
        return CatalogError(reason, path=self.origin or None, row=self.first_row + row, key=self.name, fix=fix)

    def _each(self, convert: Callable[[Any], Any], missing: Any) -> list[Any]:
        """Convert every element; masked and missing ones become `missing`."""
        values = self.raw.tolist()
        mask = [False] * len(values) if self.mask is None else self.mask.tolist()
        out = []
        for row, value in enumerate(values):
            if mask[row]:
                out.append(missing)
                continue
            try:
                plain = _scalar(value)
                converted = None if plain is None else convert(plain)
                out.append(missing if converted is None else converted)
            except _BadError as bad:
                raise self._error(row, f"{self.name} = {shorten(repr(value))} {bad.reason}", bad.fix) from None
        return out

    def _no_booleans(self, wanted: str) -> None:
        if self.raw.dtype.kind == "b":
            raise CatalogError(
                f"column {self.name!r} is of type {self.kind} (true or false); {wanted} is needed",
                path=self.origin or None,
                key=self.name,
                fix="Write the column as numbers, or give it another name",
            )

    def floats(self, unit: str | None = None, *, strict: bool = False) -> NDArray[np.float64]:
        """Convert the column to float64 in a unit; NaN where missing.

        Parameters
        ----------
        unit : str, optional
            Unit of the result, ``""`` for dimensionless. A column without unit is assumed to have it. None returns the
            numbers unconverted.
        strict : bool
            Raise instead of converting, if the column has another unit than the dialect prescribes.

        Returns
        -------
        ndarray, shape (N,)
        """
        self._no_booleans("a number")
        if self.raw.dtype.kind in "iuf":
            out = self.raw.astype(np.float64)
            if self.mask is not None:
                out[self.mask] = np.nan
        else:
            out = np.array(self._each(_float, np.nan), dtype=np.float64)
        return out if unit is None else self._in_unit(out, unit, strict)

    def _in_unit(self, array: NDArray[np.float64], unit: str, strict: bool) -> NDArray[np.float64]:
        given = self.unit
        wanted = parse_unit(unit) or u.dimensionless_unscaled
        if given in (None, u.dimensionless_unscaled, wanted) or (unit == "mag" and given == u.ABmag):
            return array
        if strict:
            raise CatalogError(
                f"column {self.name!r} says that it is in {given}, but this dialect has it in {unit or 'no unit'}",
                path=self.origin or None,
                key=self.name,
                fix="Convert the column, or name the dialect with dialect=",
            )
        try:
            return np.asarray((array * given).to_value(wanted), dtype=np.float64)
        except (u.UnitsError, ValueError, TypeError):
            raise CatalogError(
                f"column {self.name!r} is in {given}, which cannot be converted to {unit or 'a number without unit'}",
                path=self.origin or None,
                key=self.name,
                fix=f"Convert the column to {unit or 'a number without unit'}, or correct its unit",
            ) from None

    def integers(self, default: int, unit: str | None = None) -> NDArray[np.int64]:
        """Convert the column to int64, without passing through float64; `default` where missing.

        Parameters
        ----------
        default : int
        unit : str, optional
            The only unit that the column may have.

        Returns
        -------
        ndarray, shape (N,)

        Raises
        ------
        CatalogError
            If a value is not an integer, or cannot be represented as int64.
        """
        self._no_booleans("a whole number")
        if self.unit not in (None, u.dimensionless_unscaled, parse_unit(unit)):
            raise CatalogError(
                f"column {self.name!r} is in {self.unit}, not {f'in {unit}' if unit else 'a number without unit'}",
                path=self.origin or None,
                key=self.name,
                fix="Convert the column, or remove its unit",
            )
        kind = self.raw.dtype.kind
        if kind in "iu":
            raw = self.raw if self.mask is None else np.where(self.mask, 0, self.raw)
            if kind == "u" and raw.dtype.itemsize == 8 and raw.size and raw.max() > _LARGEST:
                row = int(np.argmax(raw > np.uint64(_LARGEST)))
                raise self._error(row, f"{self.name} = {raw[row]} {_TOO_LARGE}", "Give smaller numbers")
            out = raw.astype(np.int64)
        elif kind == "f":
            return self._whole(default)
        else:
            return np.array(self._each(_integer, default), dtype=np.int64)
        if self.mask is not None:
            out[self.mask] = default
        return out

    def _whole(self, default: int) -> NDArray[np.int64]:
        """Convert integers that were stored as floats."""
        raw = self.raw if self.mask is None else np.where(self.mask, np.nan, self.raw)
        missing = np.isnan(raw)
        # Above this limit, several integers have the same floating-point representation.
        limit = 2.0 ** min(np.finfo(raw.dtype).nmant + 1, 63)
        known = np.where(missing, 0, raw)
        odd = (known != np.rint(known)) | np.isinf(known)
        if odd.any():
            row = int(np.argmax(odd))
            raise self._error(row, f"{self.name} = {shown(raw[row])} is not a whole number", "Correct it")
        large = np.abs(known) >= limit
        if large.any():
            row = int(np.argmax(large))
            raise self._error(
                row,
                f"{self.name} = {int(raw[row])} is stored as {self.kind}, in which whole numbers from {int(limit)} on "
                "are no longer exact",
                _AS_INTEGERS,
            )
        return np.asarray(np.where(missing, default, known), dtype=np.int64)

    def booleans(self, default: bool) -> NDArray[np.bool_]:
        """Convert booleans, 0 and 1, or words such as ``true`` and ``F`` to bool; `default` where missing."""
        if self.raw.dtype.kind != "b":
            return np.array(self._each(_boolean, default), dtype=np.bool_)
        out = self.raw.astype(np.bool_)
        if self.mask is not None:
            out[self.mask] = default
        return out

    def texts(self) -> NDArray[np.str_]:
        """Convert the column to str: bytes are decoded, blanks stripped, missing values become ``""``."""
        raw = self.raw
        if raw.dtype.kind == "S":
            raw = np.char.decode(raw, "utf-8", errors="backslashreplace")
        elif raw.dtype.kind != "U":
            raw = np.array([_text(value) for value in raw.tolist()], dtype=np.str_)
        raw = np.char.strip(raw) if raw.size else raw.astype("U1")
        if self.mask is not None:
            raw[self.mask] = ""
        return raw


_TOO_LARGE = f"is beyond the largest whole number that fits ({_LARGEST}, 64 bits with a sign)"
_AS_INTEGERS = "Store the column as 64-bit whole numbers"
_NO_VALUE = ("NAType", "NaTType")
"""Names of the types of pandas' missing values, so that pandas need not be imported."""


def _scalar(value: Any) -> Any:
    """Convert to a Python number, bool, str or `Decimal`; None if missing. An array of one value becomes that value."""
    if value is None or isinstance(value, (bool, int, float, str, decimal.Decimal)):
        return value
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="backslashreplace")
    if isinstance(value, np.ma.core.MaskedConstant) or type(value).__name__ in _NO_VALUE:
        return None
    if isinstance(value, (list, tuple, np.ndarray)):
        size = np.size(value) if isinstance(value, np.ndarray) else len(value)
        if size == 0 or (size == 1 and np.ma.getmaskarray(value).all() and isinstance(value, np.ma.MaskedArray)):
            return None
        if size == 1:
            only = np.ma.getdata(value).reshape(-1)[0] if isinstance(value, np.ndarray) else value[0]
            return _scalar(only.item() if isinstance(only, np.generic) else only)
        raise _BadError(f"is {size} values; one a row is needed", "Give one value a row")
    if isinstance(value, np.generic) and value.dtype.kind in "biufSU":
        return _scalar(value.item())
    raise _BadError(
        f"is of type {type(value).__name__}; a number or text is needed", "Write the column as plain numbers"
    )


def _float(value: Any) -> float:
    if isinstance(value, bool):
        raise _BadError("is true or false; a number is needed", "Write the column as numbers")
    if isinstance(value, str):
        word = value.strip()
        if word.lower() in MISSING:
            return math.nan
        if _NUMBER.fullmatch(word) or _INFINITE.fullmatch(word):
            return float(word)
        raise _BadError("is not a number", "Correct it, or leave the cell empty or nan where there is no value")
    try:
        return float(value)
    except (OverflowError, ValueError):
        raise _BadError("is not a number that double precision can hold") from None


def _integer(value: Any) -> int | None:
    """Convert to int; None if the value means missing."""
    if isinstance(value, bool):
        raise _BadError("is true or false; a whole number is needed", "Write the column as whole numbers")
    if isinstance(value, str):
        word = value.strip()
        if word.lower() in MISSING:
            return None
        if _INTEGER.fullmatch(word):
            # Python refuses to parse more than a few thousand digits.
            return _within(int(word)) if len(word) < 100 else _within(_LARGEST + 1)
        if not _NUMBER.fullmatch(word):
            raise _BadError("is not a whole number")
        value = decimal.Decimal(word)
    if isinstance(value, int):
        return _within(value)
    if value != value:  # noqa: PLR0124
        return None
    if isinstance(value, float):
        if value.is_integer() and abs(value) >= 2**53:
            raise _BadError("is in double precision, which is not exact for whole numbers of this size", _AS_INTEGERS)
        whole = value.is_integer()
    else:
        whole = value.is_finite() and value == value.to_integral_value()
    if not whole:
        raise _BadError("is not a whole number")
    return _within(int(value)) if abs(value) < 2**64 else _within(_LARGEST + 1)


def _within(value: int) -> int:
    if not _SMALLEST <= value <= _LARGEST:
        raise _BadError(_TOO_LARGE, "Give smaller numbers")
    return value


def _boolean(value: Any) -> bool | None:
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        word = value.strip().lower()
        if word in MISSING:
            return None
        if word in _TRUE or word in _FALSE:
            return word in _TRUE
    elif value != value:  # noqa: PLR0124
        return None
    elif value in (0, 1):
        return bool(value)
    raise _BadError("is neither true nor false", "Write true or false, or 1 or 0")


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="backslashreplace")
    if value is None or isinstance(value, (np.ma.core.MaskedConstant,)) or type(value).__name__ in _NO_VALUE:
        return ""
    return "" if isinstance(value, float) and math.isnan(value) else str(value)
