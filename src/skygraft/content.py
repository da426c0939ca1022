"""Equality by content: of arrays, tables of planes, and objects that have no equality of their own."""

from __future__ import annotations

import copyreg
import dataclasses
import functools
import pickle
import types
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

__all__ = ["same_content", "same_state"]


def same_content(one: Any, other: Any) -> bool:
    """Compare two values by what they hold: True for a value and its pickled copy.

    Arrays are equal if their shapes, types and values are, NaN being equal to NaN. Objects whose class defines no
    equality are equal if they would be pickled with equal content; those that cannot be pickled only to themselves.

    Parameters
    ----------
    one, other : object
        To compare.

    Returns
    -------
    bool
    """
    if one is other:
        return True
    if type(one) is not type(other) or isinstance(one, type | types.FunctionType | types.BuiltinFunctionType):
        return False
    if isinstance(one, np.ndarray):
        return _same_arrays(one, other)
    if type(one).__module__.startswith("xarray.") and hasattr(one, "identical"):
        return bool(one.identical(other))
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(same_content(value, other[key]) for key, value in one.items())
    if isinstance(one, Sequence) and not isinstance(one, str | bytes | bytearray):
        return len(one) == len(other) and all(map(same_content, one, other))
    if isinstance(one, float | np.floating):
        return bool(one == other or (np.isnan(one) and np.isnan(other)))
    own: Any = type(one).__eq__
    if own is not object.__eq__ and not (dataclasses.is_dataclass(one) or isinstance(one, types.MethodType)):
        return bool(one == other)
    return same_state(one, other)


def same_state(one: Any, other: Any) -> bool:
    """Compare two objects of one class by the content that they are pickled with.

    What `functools.cached_property` keeps in them is left out.

    Parameters
    ----------
    one, other : object
        To compare.

    Returns
    -------
    bool
        False where they cannot be pickled.
    """
    try:
        mine, theirs = _state(one), _state(other)
    except (pickle.PicklingError, TypeError, AttributeError):
        return False
    return same_content(mine, theirs)


def _state(value: Any) -> tuple[Any, ...]:
    """What `pickle` makes an object from: a function, its arguments, and attributes."""
    reduced: Any = (copyreg.dispatch_table.get(type(value)) or _reduce)(value)
    function, arguments, *more = reduced
    state = more[0] if more else None
    if isinstance(state, dict):
        cached = {name for name in state if isinstance(getattr(type(value), name, None), functools.cached_property)}
        state = {name: content for name, content in state.items() if name not in cached}
    items = [list(part) for part in more[1:3] if part is not None]
    return function, arguments, state, items


def _reduce(value: Any) -> Any:
    return value.__reduce_ex__(4)


def _same_arrays(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if one.dtype == object:
        return all(map(same_content, one.ravel().tolist(), other.ravel().tolist()))
    return bool(np.array_equal(one, other, equal_nan=one.dtype.kind in "fcmM"))
