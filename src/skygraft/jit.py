"""How loops are compiled, in one place."""

from __future__ import annotations

import functools
import hashlib
import logging
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast, overload

import numba
from llvmlite import ir
from numba import types
from numba.core import cgutils, event
from numba.extending import intrinsic

__all__ = ["compiled", "fma", "leading_zeros", "load_word", "prefetch", "scratch", "store_word"]


@overload
def compiled[F: Callable[..., Any]](function: F) -> F: ...
@overload
def compiled[F: Callable[..., Any]](**options: Any) -> Callable[[F], F]: ...
def compiled(function: Any = None, **options: Any) -> Any:
    """Compile a function with numba, without the GIL, and keep the result on disk where that is possible.

    On a compute node neither the package's folder nor the home directory may be writable, which numba refuses: there
    the function is compiled once in each process. No fast-math options: what is computed must not depend on the
    processor. Division by zero follows numpy.

    Parameters
    ----------
    function : callable
        A function that numba can compile in nopython mode.
    **options
        For `numba.njit`, such as ``inline="always"``.
    """
    if function is None:
        return lambda real: _compile(real, options)
    return _compile(function, options)


def _compile(function: Any, options: dict[str, Any]) -> Any:
    options = {"nogil": True, "error_model": "numpy", **options}
    try:
        made = numba.njit(cache=True, **options)(function)
    except RuntimeError as error:
        if "locator" not in str(error):
            raise
        return numba.njit(**options)(function)
    # Numba looks at the function's own file to tell whether what is on disk is still right, but there is code of other
    # files in it: after an upgrade, a file that did not change would bring the old code of one that did.
    file = getattr(getattr(made, "_cache", None), "_cache_file", None)
    if file is not None and hasattr(file, "_source_stamp"):
        file._source_stamp = (file._source_stamp, _sources())
    return made


@functools.cache
def _sources() -> str:
    """Fingerprint of all files of the package that have compiled functions."""
    digest = hashlib.blake2b(digest_size=8)
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        content = path.read_bytes()
        if b"@compiled" in content:
            digest.update(content)
    return digest.hexdigest()


class _Notice(event.Listener):
    """Says once in a process that loops are being compiled, where that takes long: nothing else is heard of it."""

    def __init__(self) -> None:
        self.spent, self._depth, self._began, self._told = 0.0, 0, 0.0, False

    def on_start(self, compilation: Any) -> None:
        """Take note that a function is compiled that is not on disk."""
        del compilation
        self._depth += 1
        if self._depth > 1:
            return
        self._began = time.monotonic()
        if self.spent > _PATIENCE_SECONDS and not self._told:
            self._told = True
            logging.getLogger("skygraft").warning(
                "skygraft compiles its loops for this machine: up to a minute, once after it was installed or changed"
            )

    def on_end(self, compilation: Any) -> None:
        """Take note that it is done."""
        del compilation
        self._depth -= 1
        if self._depth == 0:
            self.spent += time.monotonic() - self._began


_PATIENCE_SECONDS = 4.0
_notice = _Notice()
event.register("numba:compile", _notice)


def _prefetch(_: Any, array: Any, row: Any, column: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = signature.args[0]
        made = context.make_array(kind)(context, builder, arguments[0])
        item = cgutils.get_item_pointer(context, builder, kind, made, arguments[1:])
        byte, number = cgutils.voidptr_t, cgutils.int32_t
        kind_of_call = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
        ask = builder.module.declare_intrinsic("llvm.prefetch", [byte], kind_of_call)
        to_write, to_all_caches, data = number(1), number(3), number(1)
        builder.call(ask, [builder.bitcast(item, byte), to_write, to_all_caches, data])
        return context.get_dummy_value()

    return types.void(array, row, column), generate


prefetch: Callable[[Any, Any, Any], None] = cast(Any, intrinsic(_prefetch))
"""In a compiled function: ask memory for ``array[row, column]``, soon to be changed, without waiting for it."""


def _leading_zeros(_: Any, word: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        del context, signature
        return builder.ctlz(arguments[0], ir.Constant(ir.IntType(1), 0))

    return types.uint64(types.uint64), generate


leading_zeros: Callable[[Any], Any] = cast(Any, intrinsic(_leading_zeros))
"""In a compiled function: how many bits of a uint64 are 0 before the first that is 1; 64 for 0."""


def _word_at(context: Any, builder: Any, kind: Any, array: Any, place: Any) -> Any:
    """Address of eight bytes of an array of bytes."""
    made = context.make_array(kind)(context, builder, array)
    item = cgutils.get_item_pointer(context, builder, kind, made, [place])
    return builder.bitcast(item, ir.IntType(64).as_pointer())


def _big_endian(builder: Any, word: Any) -> Any:
    return builder.bswap(word) if sys.byteorder == "little" else word


def _load_word(_: Any, data: Any, place: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        where = _word_at(context, builder, signature.args[0], *arguments)
        return _big_endian(builder, builder.load(where, align=1))

    return types.uint64(data, place), generate


load_word: Callable[[Any, Any], Any] = cast(Any, intrinsic(_load_word))
"""In a compiled function: ``data[place : place + 8]`` of an array of bytes, which are there, as a big-endian uint64."""


def _store_word(_: Any, data: Any, place: Any, word: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        where = _word_at(context, builder, signature.args[0], *arguments[:2])
        builder.store(_big_endian(builder, arguments[2]), where, align=1)
        return context.get_dummy_value()

    return types.void(data, place, types.uint64), generate


store_word: Callable[[Any, Any, Any], None] = cast(Any, intrinsic(_store_word))
"""In a compiled function: put a uint64, big-endian, into ``data[place : place + 8]``, which is there."""


def _fma(_: Any, a: Any, b: Any, c: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        del context, signature
        return builder.fma(*arguments)

    return a(a, b, c), generate


fma: Callable[[Any, Any, Any], Any] = cast(Any, intrinsic(_fma))
"""In a compiled function: ``a * b + c`` of numbers of one kind, rounded once.

It says so itself where a compiler that was free to join products and sums would do it on some processors and not on
others: the result is the same on all.
"""


def _scratch(_: Any, size: Any, kind: Any) -> Any:
    made = types.Array(kind.dtype, 1, "C")

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        del signature, arguments
        item = context.get_data_type(kind.dtype)
        with builder.goto_entry_block():
            place = builder.alloca(ir.ArrayType(item, size.literal_value))
            place.align = 64
        array = context.make_array(made)(context, builder)
        n_bytes = context.get_constant(types.intp, context.get_abi_sizeof(item))
        shape = [context.get_constant(types.intp, size.literal_value)]
        data = builder.bitcast(place, item.as_pointer())
        context.populate_array(array, data=data, shape=shape, strides=[n_bytes], itemsize=n_bytes, meminfo=None)
        return array._getvalue()

    return made(size, kind), generate


scratch: Callable[[int, Any], Any] = cast(Any, intrinsic(prefer_literal=True)(_scratch))
"""In a compiled function: an array on the stack, of so many numbers of a kind, which must be a constant of a module.

It is gone when the function returns. Compilers know that no other array is in its place, as they do not of one from the
heap, and turn loops over many such into vector code without asking at run time whether they overlap.
"""
