"""A vector type of eight float32 for compiled functions, and its operations.

LLVM vectorises a loop where it can prove, or check at run time, that its stores do not overlap with later loads. With
more than a few arrays or strides in one loop it gives up, and butterflies of transforms and table look-ups then take
several times as long. `Eight` is LLVM's own vector of eight float32: one
register with AVX, two with SSE or NEON. Each of its elements is added and multiplied as any float32 would be, so that
results are the same on all of them.

Only the operations that are used exist. They work inside ``@compiled`` functions (`skygraft.jit`) and cannot be called
from Python.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, ClassVar

from llvmlite import ir
from numba import types
from numba.core.datamodel.models import PrimitiveModel
from numba.core.typing.templates import ConcreteTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, register_model

__all__ = [
    "ALIGNED",
    "EIGHT",
    "FLOATS",
    "LANES",
    "Eight",
    "between",
    "constants",
    "cubic_and_line_lookup",
    "cubic_lookup",
    "fetch",
    "fused",
    "interleave",
    "interleaved",
    "keep_between",
    "load",
    "multiply_add",
    "nothing_beyond",
    "repeat",
    "spread",
    "store",
    "transpose",
]

LANES = 8
_FLOAT, _INT, _LONG = ir.FloatType(), ir.IntType(32), ir.IntType(64)
FLOATS, _INTS, _FOUR = ir.VectorType(_FLOAT, LANES), ir.VectorType(_INT, LANES), ir.VectorType(_FLOAT, 4)
ALIGNED = 4
"""Alignment of arrays that is assumed, bytes. Arrays that begin at a cache line are faster all the same."""


class Eight(types.Type):
    """Type of eight float32."""

    def __init__(self) -> None:
        super().__init__(name="Eight")

    # For type checkers: compiled functions can do this.
    def __add__(self, other: Eight) -> Eight:
        raise NotImplementedError

    __sub__ = __mul__ = __add__


@register_model(Eight)
class _EightModel(PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, FLOATS)


EIGHT = Eight()
"""The type, for numba."""


def _operator(which: Any, instruction: str) -> None:
    @infer_global(which)
    class _Typing(ConcreteTemplate):
        cases: ClassVar = [signature(EIGHT, EIGHT, EIGHT)]

    @lower_builtin(which, Eight, Eight)
    def _lower(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        del context, signature
        return getattr(builder, instruction)(*arguments)


for _which, _instruction in ((operator.add, "fadd"), (operator.sub, "fsub"), (operator.mul, "fmul")):
    _operator(_which, _instruction)


def _pointer(context: Any, builder: Any, kind: Any, array: Any, at: Any, to: Any) -> Any:
    """Pointer of another type to an element of a contiguous array of float32."""
    data = context.make_array(kind)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [at]), to.as_pointer())


def fetch(builder: Any, pointer: Any) -> Any:
    """Load from a pointer to numbers."""
    return builder.load(pointer, align=ALIGNED)


def constants(kind: Any, value: float) -> Any:
    """Return a vector of one number."""
    return ir.Constant(kind, [ir.Constant(kind.element, value)] * kind.count)


def _shuffle(builder: Any, a: Any, b: Any, places: list[int]) -> Any:
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(_INT, len(places)), places))


def repeat(builder: Any, number: Any) -> Any:
    """Repeat a number eight times."""
    first = builder.insert_element(ir.Constant(FLOATS, ir.Undefined), number, _INT(0))
    return _shuffle(builder, first, first, [0] * LANES)


def multiply_add(builder: Any, a: Any, b: Any, c: Any) -> Any:
    """Fused multiply-add of vectors."""
    call = builder.module.declare_intrinsic("llvm.fma.v8f32", (), ir.FunctionType(FLOATS, [FLOATS] * 3))
    return builder.call(call, [a, b, c])


def interleave(builder: Any, even: Any, odd: Any) -> list[Any]:
    """Both vectors of `interleaved`."""
    places = [[start + i // 2 + i % 2 * LANES for i in range(LANES)] for start in (0, LANES // 2)]
    return [_shuffle(builder, even, odd, half) for half in places]


def keep_between(builder: Any, values: Any, *limits: Any) -> Any:
    """Vector of `between`."""
    places = ir.Constant(_INTS, [_INT(i) for i in range(LANES)])
    chosen = []
    for comparison, limit in zip((">=", "<"), limits, strict=True):
        one = builder.insert_element(ir.Constant(_INTS, ir.Undefined), builder.trunc(limit, _INT), _INT(0))
        chosen.append(builder.icmp_signed(comparison, places, _shuffle(builder, one, one, [0] * LANES)))
    return builder.select(builder.and_(*chosen), values, constants(FLOATS, -0.0))


def _inlined(function: Any) -> Any:
    return intrinsic(function)


@_inlined
def load(_: Any, array: Any, at: Any) -> Any:
    """Load elements ``at`` to ``at + 7`` of a contiguous array of one dimension."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return fetch(builder, _pointer(context, builder, signature.args[0], arguments[0], arguments[1], FLOATS))

    return EIGHT(array, types.intp), generate


@_inlined
def store(_: Any, array: Any, at: Any, value: Any) -> Any:
    """Store eight numbers in elements ``at`` to ``at + 7`` of a contiguous array of one dimension."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = _pointer(context, builder, signature.args[0], arguments[0], arguments[1], FLOATS)
        builder.store(arguments[2], pointer, align=ALIGNED)
        return context.get_dummy_value()

    return types.void(array, types.intp, value), generate


@_inlined
def spread(_: Any, value: Any) -> Any:
    """Repeat one number eight times."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        del context, signature
        return repeat(builder, arguments[0])

    return EIGHT(types.float32), generate


@_inlined
def nothing_beyond(_: Any, values: Any, arguments: Any, end: Any) -> Any:
    """Replace values by zero where the argument is larger than that of the end."""

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        del context, signature
        values, arguments, end = given
        return builder.select(builder.fcmp_ordered("<=", arguments, end), values, constants(FLOATS, 0.0))

    return EIGHT(EIGHT, EIGHT, EIGHT), generate


@_inlined
def fused(_: Any, a: Any, b: Any, c: Any) -> Any:
    """Fused multiply-add ``a * b + c``, rounded once: see `skygraft.jit.fma`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        del context, signature
        return multiply_add(builder, *arguments)

    return EIGHT(EIGHT, EIGHT, EIGHT), generate


@_inlined
def interleaved(_: Any, even: Any, odd: Any) -> Any:
    """Interleave two vectors: the first eight and the last eight of sixteen numbers given as even and odd elements."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return context.make_tuple(builder, signature.return_type, interleave(builder, *arguments))

    return types.UniTuple(EIGHT, 2)(EIGHT, EIGHT), generate


@_inlined
def between(_: Any, values: Any, begin: Any, end: Any) -> Any:
    """Keep elements ``begin`` to ``end - 1``, and replace the others by -0, which changes no number when added."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        del context, signature
        return keep_between(builder, *arguments)

    return EIGHT(EIGHT, types.intp, types.intp), generate


@_inlined
def transpose(_: Any, source: Any, at: Any, step: Any, target: Any, target_at: Any, target_step: Any) -> Any:
    """Write eight rows of eight numbers, ``step`` apart in ``source``, as eight columns to ``target``."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        source, at, step, target, target_at, target_step = arguments
        rows = []
        for _ in range(LANES):
            rows.append(fetch(builder, _pointer(context, builder, signature.args[0], source, at, FLOATS)))
            at = builder.add(at, step)
        # Exchange halves, then pairs, then neighbours.
        for span in (4, 2, 1):
            low = [i if not i & span else i + LANES - span for i in range(LANES)]
            high = [i + span if not i & span else i + LANES for i in range(LANES)]
            for i in range(LANES):
                if not i & span:
                    a, b = rows[i], rows[i + span]
                    rows[i], rows[i + span] = _shuffle(builder, a, b, low), _shuffle(builder, a, b, high)
        for row in rows:
            pointer = _pointer(context, builder, signature.args[3], target, target_at, FLOATS)
            builder.store(row, pointer, align=ALIGNED)
            target_at = builder.add(target_at, target_step)
        return context.get_dummy_value()

    places = types.intp, types.intp
    return types.void(source, *places, target, *places), generate


def cubic_lookup(first_octave: int, pieces: int, n_pieces: int) -> Callable[[Any, Any], Any]:
    """Return a function that evaluates a table of cubic pieces at eight arguments.

    Parameters
    ----------
    first_octave : int
        Binary logarithm of the argument at which the table begins.
    pieces : int
        Pieces of each octave; a power of two.
    n_pieces : int
        Pieces of the whole table; beyond its ends, its first and last pieces are used.

    Returns
    -------
    callable
        Takes a contiguous float32 array of one dimension (four coefficients a piece, constant term first, for a
        variable that runs over 0 ... 1 in each piece) and an `Eight` of arguments, and returns their values.
    """

    def lookup(_: Any, table: Any, arguments: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
            places, t = _places(builder, given[1], first_octave, pieces, n_pieces, 4)
            return _polynomial(builder, t, _coefficients(context, builder, signature.args[0], given[0], places))

        return EIGHT(table, EIGHT), generate

    return _inlined(lookup)  # type: ignore[no-any-return]


def cubic_and_line_lookup(first_octave: int, pieces: int, n_pieces: int) -> Callable[[Any, Any, Any], Any]:
    """Return a function as `cubic_lookup` does, for tables of eight numbers a piece: a cubic, a line, and padding.

    Returns
    -------
    callable
        Takes a table, arguments and factors, and returns the values of the cubics plus the factors times the lines.
    """

    def lookup(_: Any, table: Any, arguments: Any, factors: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
            places, t = _places(builder, given[1], first_octave, pieces, n_pieces, 8)
            kind = signature.args[0]
            value = _polynomial(builder, t, _coefficients(context, builder, kind, given[0], places))
            places = [builder.add(place, _LONG(4)) for place in places]
            line = _coefficients(context, builder, kind, given[0], places)[:2]
            return builder.fadd(value, builder.fmul(given[2], _polynomial(builder, t, line)))

        return EIGHT(table, EIGHT, EIGHT), generate

    return _inlined(lookup)  # type: ignore[no-any-return]


def _places(
    builder: Any, arguments: Any, first_octave: int, pieces: int, n_pieces: int, numbers: int
) -> tuple[list[Any], Any]:
    """Return the index in a table where the piece of each argument begins, and the argument's place in the piece."""
    # The exponent and the leading bits of a float give its piece, and the other bits its place in the piece.
    bits = 23 - (pieces.bit_length() - 1)
    as_bits = builder.bitcast(arguments, _INTS)
    before, zero, last = (constants(_INTS, i) for i in ((127 + first_octave) * pieces, 0, n_pieces - 1))
    piece = builder.sub(builder.ashr(as_bits, constants(_INTS, bits)), before)
    piece = builder.select(builder.icmp_signed("<", piece, zero), zero, piece)
    piece = builder.select(builder.icmp_signed(">", piece, last), last, piece)
    rest = builder.and_(as_bits, constants(_INTS, (1 << bits) - 1))
    t = builder.fmul(builder.sitofp(rest, FLOATS), constants(FLOATS, 2.0**-bits))
    first = builder.mul(piece, constants(_INTS, numbers))
    return [builder.zext(builder.extract_element(first, _INT(i)), _LONG) for i in range(LANES)], t


def _coefficients(context: Any, builder: Any, kind: Any, table: Any, places: list[Any]) -> list[Any]:
    """Load four numbers from each place on, and return the first of all places, the second, and so on."""
    # Four neighbours are loaded together and then transposed.
    fours = [fetch(builder, _pointer(context, builder, kind, table, place, _FOUR)) for place in places]
    a, b, c, d = (_shuffle(builder, fours[i], fours[i + 4], list(range(LANES))) for i in range(4))
    found = []
    for pair in ([0, 8, 1, 9, 4, 12, 5, 13], [2, 10, 3, 11, 6, 14, 7, 15]):
        ab, cd = _shuffle(builder, a, b, pair), _shuffle(builder, c, d, pair)
        found.append(_shuffle(builder, ab, cd, [0, 1, 8, 9, 4, 5, 12, 13]))
        found.append(_shuffle(builder, ab, cd, [2, 3, 10, 11, 6, 7, 14, 15]))
    return found


def _polynomial(builder: Any, t: Any, coefficients: list[Any]) -> Any:
    value = coefficients[-1]
    for coefficient in coefficients[-2::-1]:
        value = builder.fadd(coefficient, builder.fmul(t, value))
    return value
