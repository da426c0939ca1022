"""Read the parameters of a sky map from a mapping, with errors that name the key and the allowed values."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from skygraft.errors import SkyMapError

__all__ = ["Options", "nearest"]


def nearest(name: object, known: Iterable[str]) -> str:
    """Return a sentence that suggests the known name nearest to `name` and lists all known names."""
    names = sorted(known)
    close = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
    offer = f"Did you mean {close[0]!r}? " if close else ""
    return f"{offer}Known: {', '.join(names)}"


class Options:
    """Checked access to a mapping of parameters.

    Parameters
    ----------
    values : mapping
        The parameters as the user gave them.
    allowed : iterable of str
        Keys that are allowed.
    where : str
        What the mapping describes, for messages.

    Raises
    ------
    SkyMapError
        If a key is not allowed.
    """

    def __init__(self, values: Mapping[str, Any], allowed: Iterable[str], where: str) -> None:
        if not isinstance(values, Mapping):
            raise SkyMapError(f"{where} is not a mapping of parameters: {values!r}")
        self._values = values
        self._where = where
        known = list(allowed)
        for key in values:
            if key not in known:
                raise SkyMapError(f"{where} has no parameter {key!r}", key=str(key), fix=nearest(key, known))

    def __contains__(self, key: str) -> bool:
        return self._values.get(key) is not None

    def get(self, key: str, default: Any = None) -> Any:
        """Return a value unchecked; raise `SkyMapError` if it is absent and has no default."""
        value = self._values.get(key)
        if value is None:
            value = default
        if value is None:
            raise SkyMapError(f"{self._where} needs {key!r}", key=key, fix="Add it to the sky map's parameters")
        return value

    def number(
        self, key: str, default: float | None = None, *, low: float = -math.inf, high: float = math.inf
    ) -> float:
        """Return a value that must be a finite number within `low`..`high`.

        Parameters
        ----------
        key : str
        default : float, optional
        low, high : float
            Allowed range, both ends included.

        Raises
        ------
        SkyMapError
            If the value is missing or not such a number.
        """
        value = self.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            self._refuse(key, value, f"a number within {low:g}..{high:g}")
        return float(value)

    def integer(self, key: str, default: int | None = None, *, low: int = 0, high: int = 2**30) -> int:
        """Return a value that must be an integer within `low`..`high`.

        Parameters
        ----------
        key : str
        default : int, optional
        low, high : int
            Allowed range, both ends included.

        Raises
        ------
        SkyMapError
            If the value is missing or not such an integer.
        """
        value = self.get(key, default)
        if not _whole(value) or not low <= value <= high:
            self._refuse(key, value, f"a whole number within {low}..{high}")
        return int(value)

    def pair(self, key: str, default: tuple[int, int] | None = None, *, low: int = 1) -> tuple[int, int]:
        """Return a value that must be two integers (x, y), or one integer for both.

        Parameters
        ----------
        key : str
        default : (int, int), optional
        low : int
            Smallest allowed value.

        Raises
        ------
        SkyMapError
            If the value is missing or not such a pair.
        """
        value = self.get(key, default)
        both = [value, value] if _whole(value) else value
        ok = isinstance(both, Sequence) and not isinstance(both, str) and len(both) == 2
        if not ok or not all(_whole(v) and v >= low for v in both):
            self._refuse(key, value, f"a whole number from {low} on, or two of them [x, y]")
        return int(both[0]), int(both[1])

    def _refuse(self, key: str, value: object, allowed: str) -> None:
        raise SkyMapError(f"{self._where} has {key} = {value!r}; it must be {allowed}", key=key)


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
