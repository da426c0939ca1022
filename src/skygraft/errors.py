"""The errors that skygraft raises: one tree, picklable, each says what was wrong, where, and what to do.

Every error takes a one-sentence ``message`` and, by keyword, the place (``path``, ``hdu``, ``row``, ``key``) and
the ``fix``: what the person reading it should do next. They survive a trip through a Dask worker unchanged.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from skygraft.printable import printable

__all__ = [
    "ApertureConflictError",
    "CalibrationError",
    "CampaignError",
    "CatalogError",
    "ConfigError",
    "CorruptFileError",
    "DialectError",
    "FormatError",
    "InjectionError",
    "MissingWcsError",
    "OutputError",
    "OutputExistsError",
    "PsfError",
    "SkyMapError",
    "SkygraftError",
    "SkygraftWarning",
    "UncalibratedImageError",
    "UnknownApertureError",
    "UnknownFormatError",
    "WcsError",
    "shown",
]


def shown(value: Any) -> str:
    """A number for a message, with as many digits as tell it from every other: 1.0000002 is not shown as 1."""
    if isinstance(value, (bool, int)) or getattr(getattr(value, "dtype", None), "kind", "f") in "iub":
        return str(value)
    # NumPy's own text of a float32 has the digits of single precision.
    short, full = f"{float(value):g}", str(value)
    return short if float(short) == float(value) or float(value) != float(value) else full


def _portable(error: BaseException) -> BaseException:
    """The error itself, or one that says the same where it would not come through pickle (some classes of C's)."""
    kind = type(error)
    known = getattr(sys.modules.get(kind.__module__), kind.__qualname__, None) is kind
    # What a UnicodeError says is not in its `args` once tblib has rebuilt it: its text would be empty.
    if known and not isinstance(error, UnicodeError):
        return error
    return RuntimeError(f"{kind.__qualname__}: {error}").with_traceback(error.__traceback__)


def _make_portable(error: BaseException) -> None:
    """Replace causes that would keep the error from being pickled: workers send errors with theirs (tblib)."""
    seen: set[int] = set()
    left = [error]
    while left:
        one = left.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        suppressed = one.__suppress_context__
        if one.__cause__ is not None:
            one.__cause__ = _portable(one.__cause__)
            left.append(one.__cause__)
        if one.__context__ is not None:
            one.__context__ = _portable(one.__context__)
            left.append(one.__context__)
        one.__suppress_context__ = suppressed


class SkygraftWarning(UserWarning):
    """What was read may not be what was meant, and nothing can tell: the text names the file and what to look at."""


class SkygraftError(Exception):
    """Base of every error that skygraft raises on purpose.

    Parameters
    ----------
    message : str
        What was wrong, naming what was given and what is allowed; no final full stop.
    path : path-like, optional
        The file concerned.
    hdu : int or str, optional
        The HDU of that file.
    row : int or str, optional
        The row (or injection id) of that table.
    key : str, optional
        The header keyword, column or configuration key.
    fix : str, optional
        What to do next; no final full stop.
    """

    def __init__(
        self,
        message: str,
        *,
        path: str | os.PathLike[str] | None = None,
        hdu: int | str | None = None,
        row: int | str | None = None,
        key: str | None = None,
        fix: str | None = None,
    ) -> None:
        self.message = message
        self.path = None if path is None else os.fspath(path)
        self.hdu = hdu
        self.row = row
        self.key = key
        self.fix = fix
        super().__init__(message)

    def __str__(self) -> str:
        place = self.path or ""
        if self.hdu is not None:
            place += f"[{self.hdu}]" if place else f"HDU {self.hdu}"
        for name, value in (("row", self.row), ("key", self.key)):
            if value is not None:
                place += f"{', ' if place else ''}{name} {value}"
        return printable(self._text(printable(place)), lines=True)

    def _text(self, place: str) -> str:
        text = f"{place}: {self.message}" if place else self.message
        return f"{_sentence(text)} {_sentence(self.fix)}" if self.fix else text

    def __reduce__(self) -> tuple[Any, ...]:
        _make_portable(self)
        return (_rebuild, (type(self), self.message, self.path, self.hdu, self.row, self.key, self.fix))


def _sentence(text: str) -> str:
    return text if text.endswith(("?", "!", ".")) else f"{text}."


def _rebuild(
    cls: type[SkygraftError],
    message: str,
    path: str | None,
    hdu: int | str | None,
    row: int | str | None,
    key: str | None,
    fix: str | None,
) -> SkygraftError:
    return cls(message, path=path, hdu=hdu, row=row, key=key, fix=fix)


class ConfigError(SkygraftError, ValueError):
    """A setting or an argument is not one of those allowed."""


class FormatError(SkygraftError):
    """A file is not laid out as its format says."""


class UnknownFormatError(FormatError):
    """No format recognises the file, or more than one does."""


class CorruptFileError(FormatError, OSError):
    """The file is truncated, empty or unreadable."""


class WcsError(SkygraftError):
    """The world coordinate system cannot be built or evaluated."""


class MissingWcsError(WcsError, FormatError):
    """The image has no celestial world coordinate system."""


class CalibrationError(SkygraftError):
    """The photometric calibration is missing or makes no sense."""


class UncalibratedImageError(CalibrationError):
    """The image carries no usable zeropoint."""


class UnknownApertureError(CalibrationError):
    """Nothing says what the calibrated flux is the flux of."""


class ApertureConflictError(CalibrationError):
    """Two places disagree about what the calibrated flux is the flux of."""


class PsfError(SkygraftError):
    """The PSF model is missing, unreadable or undefined where it is asked for."""


class CatalogError(SkygraftError, ValueError):
    """A catalogue row or column cannot be used."""


class DialectError(CatalogError):
    """A catalogue matches no known dialect, or more than one."""


class SkyMapError(SkygraftError, ValueError):
    """An unknown sky map, tract or patch, or a position off the sphere."""


class InjectionError(SkygraftError):
    """A source could not be drawn, or the image cannot take it."""


class OutputError(SkygraftError, OSError):
    """An output could not be written."""


class OutputExistsError(OutputError):
    """The output is there already (or is the input)."""


class CampaignError(SkygraftError):
    """A campaign cannot be planned, run or resumed as asked."""
