"""Straight code on vectors, written down once for LLVM instead of compiled statement by statement.

Numba takes about a millisecond for each statement of a function, and copies a function for each call where it is
inlined. A `traced` function is run by Python while what calls it is compiled: on stand-ins for its arguments, which
note each operation as an LLVM instruction. What is noted are the same operations in the same order, a tenth of the
time later. There is nothing in it that depends on values: loops and conditions are Python's own, over constants.
"""

from __future__ import annotations

import inspect
import types as python_types
from collections.abc import Callable
from typing import Any, cast

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from skygraft.render import vectors

__all__ = ["number", "traced"]

_LONG, _SINGLE = ir.IntType(64), ir.FloatType()


def traced[F: Callable[..., Any]](results: int = 0) -> Callable[[F], F]:
    """Return a decorator of functions that compiled functions call.

    Parameters
    ----------
    results : int
        How many vectors the function returns: none, one, or a tuple of them.

    Returns
    -------
    callable
        A decorator. The function's parameters are contiguous arrays of one dimension, vectors
        (`skygraft.render.vectors.Eight`), whole numbers, and tuples of these. It may add and multiply whole numbers,
        add, subtract and multiply vectors, take an element of an array, whose index is not checked, call `load`,
        `store`, `spread`, `fused`, `interleaved` and `between`, and call other traced functions.
    """

    def decorate(function: F) -> F:
        def typed(_: Any, *kinds: Any) -> Any:
            given = tuple(types.intp if isinstance(kind, types.Integer) else types.unliteral(kind) for kind in kinds)
            returned = types.void if not results else vectors.EIGHT
            return (types.UniTuple(returned, results) if results > 1 else returned)(*given), generate

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            stand_ins = [_stand_in(context, builder, *pair) for pair in zip(signature.args, arguments, strict=True)]
            made = _body(function)(*stand_ins)
            if not results:
                return context.get_dummy_value()
            if results == 1:
                return made.value
            return context.make_tuple(builder, signature.return_type, [one.value for one in made])

        own = inspect.signature(function)
        context = inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD)
        typed.__name__, typed.__doc__ = function.__name__, function.__doc__
        typed.__signature__ = own.replace(parameters=[context, *own.parameters.values()])  # type: ignore[attr-defined]
        typed.traced = function  # type: ignore[attr-defined]
        return cast(F, intrinsic(typed))

    return decorate


def number(like: Any, value: float) -> Any:
    """Return a constant eight times, of single precision, beside another vector of a traced function."""
    return _Vector(like.builder, vectors.constants(vectors.FLOATS, float(np.float32(value))))


def _body(function: Any) -> Any:
    """Return a function whose globals and cells hold what works on stand-ins, in place of numba's."""
    names = {**function.__globals__}
    names.update((name, _for_stand_ins(names[name])) for name in function.__code__.co_names if name in names)
    cells = tuple(python_types.CellType(_for_stand_ins(cell.cell_contents)) for cell in function.__closure__ or ())
    return python_types.FunctionType(function.__code__, names, function.__name__, function.__defaults__, cells or None)


def _for_stand_ins(value: Any) -> Any:
    definition = getattr(value, "_defn", None)
    if definition is None:
        return value
    inner = getattr(definition, "traced", None)
    return _OPERATIONS.get(definition.__name__, value) if inner is None else _body(inner)


def _stand_in(context: Any, builder: Any, kind: Any, value: Any) -> Any:
    if isinstance(kind, types.Array):
        return _Array(builder, context.make_array(kind)(context, builder, value).data)
    if isinstance(kind, types.BaseTuple):
        return [
            _stand_in(context, builder, one, builder.extract_value(value, i)) for i, one in enumerate(cast(Any, kind))
        ]
    return (_Vector if kind == vectors.EIGHT else _Whole)(builder, value)


class _Array:
    def __init__(self, builder: Any, data: Any) -> None:
        self.builder, self.data = builder, data

    def at(self, place: Any) -> Any:
        """Pointer to an element."""
        return self.builder.gep(self.data, [place.value if isinstance(place, _Whole) else _LONG(place)])

    def __getitem__(self, place: Any) -> _Number:
        return _Number(self.builder, self.builder.load(self.at(place)))


class _Number:
    def __init__(self, builder: Any, value: Any) -> None:
        self.builder, self.value = builder, value


class _Whole(_Number):
    def _with(self, instruction: str, other: Any) -> _Whole:
        value = other.value if isinstance(other, _Whole) else _LONG(other)
        return _Whole(self.builder, getattr(self.builder, instruction)(self.value, value))

    def __add__(self, other: Any) -> _Whole:
        return self._with("add", other)

    def __mul__(self, other: Any) -> _Whole:
        return self._with("mul", other)

    __radd__, __rmul__ = __add__, __mul__


class _Vector(_Number):
    def _with(self, instruction: str, other: _Vector) -> _Vector:
        return _Vector(self.builder, getattr(self.builder, instruction)(self.value, other.value))

    def __add__(self, other: _Vector) -> _Vector:
        return self._with("fadd", other)

    def __sub__(self, other: _Vector) -> _Vector:
        return self._with("fsub", other)

    def __mul__(self, other: _Vector) -> _Vector:
        return self._with("fmul", other)


def _load(array: _Array, at: Any) -> _Vector:
    builder = array.builder
    return _Vector(builder, vectors.fetch(builder, builder.bitcast(array.at(at), vectors.FLOATS.as_pointer())))


def _store(array: _Array, at: Any, value: _Vector) -> None:
    pointer = array.builder.bitcast(array.at(at), vectors.FLOATS.as_pointer())
    array.builder.store(value.value, pointer, align=vectors.ALIGNED)


def _spread(number: _Number) -> _Vector:
    builder, value = number.builder, number.value
    single = builder.fptrunc(value, _SINGLE) if value.type == ir.DoubleType() else value
    return _Vector(builder, vectors.repeat(builder, single))


def _fused(a: _Vector, b: _Vector, c: _Vector) -> _Vector:
    return _Vector(a.builder, vectors.multiply_add(a.builder, a.value, b.value, c.value))


def _interleaved(even: _Vector, odd: _Vector) -> list[_Vector]:
    return [_Vector(even.builder, half) for half in vectors.interleave(even.builder, even.value, odd.value)]


def _between(values: _Vector, begin: _Whole, end: _Whole) -> _Vector:
    return _Vector(values.builder, vectors.keep_between(values.builder, values.value, begin.value, end.value))


_OPERATIONS = {
    "between": _between,
    "fused": _fused,
    "interleaved": _interleaved,
    "load": _load,
    "spread": _spread,
    "store": _store,
}
