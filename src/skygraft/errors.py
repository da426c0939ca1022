"""The errors that skygraft raises. Each says what is wrong, where, and what to do next.

Every error takes a one-sentence ``message`` and, by keyword, the place (``path``, ``hdu``, ``row``, ``key``) and
the ``fix``: what the user should do next. All are subclasses of `SkygraftError` and picklable, so that Dask workers
return them unchanged.
"""

from __future__ import annotations

import os
import pickle
import sys
from typing import Any

from skygraft.place_names import with_urls
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
    "PlaceError",
    "PlaceNotFoundError",
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
    """Format a number for a message, with as many digits as identify it: 1.0000002 is not shown as 1.

    Parameters
    ----------
    value : number

    Returns
    -------
    str
    """
    if isinstance(value, (bool, int)) or getattr(getattr(value, "dtype", None), "kind", "f") in "iub":
        return str(value)
    # str of a NumPy float32 has the digits of single precision.
    short, full = f"{float(value):g}", str(value)
    return short if float(short) == float(value) or float(value) != float(value) else full


def _portable(error: BaseException) -> BaseException:
    """Return the error itself, or a `RuntimeError` with its text if it cannot be pickled (some classes in C)."""
    kind = type(error)
    known = getattr(sys.modules.get(kind.__module__), kind.__qualname__, None) is kind
    # The text of a UnicodeError is empty after tblib has rebuilt it, because it is not in `args`.
    if known and not isinstance(error, UnicodeError) and (isinstance(error, SkygraftError) or _has_plain_parts(error)):
        return error
    return RuntimeError(f"{kind.__qualname__}: {error}").with_traceback(error.__traceback__)


def _has_plain_parts(error: BaseException) -> bool:
    """Whether what an error holds can be pickled, as functions that were made on the way cannot."""
    try:
        pickle.dumps((error.args, vars(error)))
    except Exception:  # whatever its parts raise
        return False
    return True


def _make_portable(error: BaseException) -> None:
    """Replace causes and contexts that cannot be pickled: workers send them along with the error (tblib)."""
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
    """A file may be read wrongly, which cannot be decided from the file; the text names it and what to check."""


class SkygraftError(Exception):
    """Base class of all errors that skygraft raises deliberately.

    Parameters
    ----------
    message : str
        What is wrong: what was found and what is allowed; without a final full stop.
    path : path-like, optional
        The file.
    hdu : int or str, optional
        The HDU of the file.
    row : int or str, optional
        The row (or injection id) of the table.
    key : str, optional
        The header keyword, column or configuration key.
    fix : str, optional
        What to do next; without a final full stop.
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
        return printable(with_urls(self._text(printable(place))), lines=True)

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
    """A setting or an argument is not allowed."""


class FormatError(SkygraftError):
    """A file does not have the layout of its format."""


class UnknownFormatError(FormatError):
    """No format recognises the file, or several do."""


class CorruptFileError(FormatError, OSError):
    """The file is truncated, empty or unreadable."""


class WcsError(SkygraftError):
    """The world coordinate system cannot be built or evaluated."""


class MissingWcsError(WcsError, FormatError):
    """The image has no celestial world coordinate system."""


class CalibrationError(SkygraftError):
    """The photometric calibration is missing, contradictory or not supported."""


class UncalibratedImageError(CalibrationError):
    """The image has no usable zeropoint."""


class UnknownApertureError(CalibrationError):
    """The calibration reference (aperture, PSF model or total flux) is not recorded anywhere."""


class ApertureConflictError(CalibrationError):
    """Two places disagree about the calibration reference (aperture, PSF model or total flux)."""


class PsfError(SkygraftError):
    """The PSF model is missing, unreadable, or undefined at a position."""


class CatalogError(SkygraftError, ValueError):
    """A catalogue row or column cannot be used."""


class DialectError(CatalogError):
    """A catalogue matches no known dialect, or several."""


class SkyMapError(SkygraftError, ValueError):
    """A sky map, tract or patch is unknown, or a position is not on the sphere."""


class InjectionError(SkygraftError):
    """A source cannot be drawn, or cannot be injected into the image."""


class OutputError(SkygraftError, OSError):
    """An output cannot be written."""


class OutputExistsError(OutputError):
    """The output exists already, or is the input."""


class PlaceError(SkygraftError, OSError):
    """A file in a store (S3, GCS, HTTP, ...) cannot be read or written, or the cache of such files is full."""


class PlaceNotFoundError(PlaceError, FileNotFoundError):
    """There is no such object, bucket or host."""


class CampaignError(SkygraftError):
    """A campaign cannot be planned, run or resumed as asked."""
