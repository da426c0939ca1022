"""Loops that are compiled at their first call: numba, a third of a second to import, is not needed before."""

from __future__ import annotations

import functools
import threading
import types
from collections.abc import Callable, Iterator
from typing import Any, cast, overload

__all__ = [
    "Tally",
    "compiled",
    "fma",
    "in_python_too",
    "leading_zeros",
    "load_little_word",
    "load_word",
    "plain",
    "prefetch",
    "scratch",
    "store_little_word",
    "store_word",
    "worth_compiling",
]


@overload
def compiled[F: Callable[..., Any]](function: F) -> F: ...
@overload
def compiled[F: Callable[..., Any]](*, reads: tuple[str, ...] = (), **options: Any) -> Callable[[F], F]: ...
def compiled(function: Any = None, *, reads: tuple[str, ...] = (), **options: Any) -> Any:
    """Compile a function with numba at its first call, without the GIL, and cache the result on disk.

    Where neither the package's folder nor the home directory is writable, as on some compute nodes, the function is
    compiled once in each process. There are no fast-math options, because results must not depend on the processor;
    division by zero follows numpy.

    Each function is compiled once for each set of argument types: integer constants count as integers, and the arrays
    named in `reads` as read-only, whatever is given. Processes that share a cache and start together do not compile the
    same thing: one of them does, and the others wait for it.

    Parameters
    ----------
    function : callable
        A function that numba can compile in nopython mode.
    reads : tuple of str
        Parameters whose arrays are only read, if both writable and read-only arrays are passed for them.
    **options
        For `numba.njit`, such as ``inline="always"``.

    Returns
    -------
    callable
        The compiled function, or a decorator if `function` was not given.
    """
    if function is None:
        return lambda real: _Compiled(real, reads, options)
    return _Compiled(function, reads, options)


_in_python_too: list[Callable[..., Any]] = []
"""Functions that numba does not know of yet."""


def in_python_too[F: Callable[..., Any]](function: F) -> F:
    """Let compiled functions call a function that remains an ordinary one in Python, where it is not compiled.

    Parameters
    ----------
    function : callable
        A function that numba can compile in nopython mode.

    Returns
    -------
    callable
        The same function.
    """
    _in_python_too.append(function)
    return function


class _Later:
    """Stands for something of numba's, in the globals of functions that are compiled later."""

    def real(self) -> Any:
        """Return numba's own object."""
        raise NotImplementedError


class _Compiled(_Later):
    """A function that is compiled when it is called.

    Parameters
    ----------
    function : callable
    reads, options
        See `compiled`.
    """

    _lock = threading.RLock()

    def __init__(self, function: Any, reads: tuple[str, ...], options: dict[str, Any]) -> None:
        functools.update_wrapper(self, function)
        self._function, self._reads, self._options = function, reads, options
        self._made: Any = None
        self._being_made: Any = None
        self.at_hand, self.done_without = False, 0

    def __call__(self, *arguments: Any) -> Any:
        """Call the compiled function."""
        return (self._made or self.real())(*arguments)

    def __getattr__(self, name: str) -> Any:
        # What numba's own object has, such as statistics.
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.real(), name)

    def __reduce__(self) -> str:
        return str(self.__qualname__)

    def real(self) -> Any:
        """Return numba's dispatcher, made when first asked for."""
        if self._made is None:
            from skygraft.jit import numba_side

            with _Compiled._lock:
                while _in_python_too:
                    numba_side.register(_in_python_too.pop())
                if self._made is None and self._being_made is None:
                    self._made = self._make(numba_side)
        return self._made or self._being_made

    def plain(self) -> Any:
        """Return the function as Python runs it, and whatever it calls."""
        given = self._function
        names = {**given.__globals__}
        function = types.FunctionType(given.__code__, names, given.__name__, given.__defaults__, given.__closure__)
        for name in _names(given.__code__):
            if isinstance(names.get(name), _Compiled):
                names[name] = function if names[name] is self else names[name].plain()
        return function

    def _make(self, numba_side: types.ModuleType) -> Any:
        """Make the dispatcher of a copy of the function, whose globals and cells hold numba's objects."""
        given = self._function
        names = {**given.__globals__}
        cells = tuple(types.CellType(cell.cell_contents) for cell in given.__closure__ or ())
        function = types.FunctionType(given.__code__, names, given.__name__, given.__defaults__, cells or None)
        function.__module__, function.__qualname__, function.__doc__ = (
            given.__module__,
            given.__qualname__,
            given.__doc__,
        )
        self._being_made = numba_side.dispatcher(function, self._reads, self._options)
        try:
            # Not before: the function may call itself.
            for name in _names(given.__code__):
                if isinstance(names.get(name), _Later):
                    names[name] = names[name].real()
            for cell in cells:
                if isinstance(cell.cell_contents, _Later):
                    cell.cell_contents = cell.cell_contents.real()
            return self._being_made
        finally:
            self._being_made = None


def plain[F: Callable[..., Any]](function: F) -> F:
    """Return a compiled function as Python runs it, and whatever it calls: for a few numbers, without compiling.

    Parameters
    ----------
    function : callable
        A function of `compiled` that uses none of the operations below.
    """
    return cast(F, cast(_Compiled, function).plain())


def worth_compiling(function: Callable[..., Any], *arguments: Any, work: Callable[[], int], limit: int) -> bool:
    """Say whether to call a compiled function, or to do its work in numpy this time, where there is such a way.

    Compiling takes seconds, for which numpy does a good deal. The function is to be called if this process has called
    it, if its code is in the cache, or if all the work since the process began is more than compiling it is.

    Parameters
    ----------
    function : callable
        A function of `compiled`.
    *arguments
        What it would be called with.
    work : callable
        Returns how much there is to do, in any one unit; asked only where that matters.
    limit : int
        The sum above which compiling is worth it.
    """
    one = cast(_Compiled, function)
    if not one.at_hand:
        from skygraft.jit import numba_side

        one.done_without += work()
        one.at_hand = one.done_without > limit or numba_side.in_cache(one.real(), arguments)
    return one.at_hand


class Tally:
    """How much of some work this process has done in numpy; from some amount on, compiled loops are worth loading.

    Unlike `worth_compiling` it does not look into the cache, for which numba would have to be imported.

    Parameters
    ----------
    most : int
        Up to so much is little.
    """

    def __init__(self, most: int) -> None:
        self.most, self.done = most, 0

    def is_much(self, n: int) -> bool:
        """Add n, and return whether it is much by now."""
        self.done += n
        return self.done > self.most


class _Operation(_Later):
    """An operation of `skygraft.jit.numba_side`, which exists in compiled functions only.

    Parameters
    ----------
    name : str
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def real(self) -> Any:
        """Return numba's intrinsic."""
        from skygraft.jit import numba_side

        return getattr(numba_side, self._name)


def _names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


prefetch: Callable[[Any, Any, Any], None] = cast(Any, _Operation("prefetch"))
"""In a compiled function: fetch ``array[row, column]`` into the cache, in order to write to it, without waiting."""

leading_zeros: Callable[[Any], Any] = cast(Any, _Operation("leading_zeros"))
"""In a compiled function: number of leading zero bits of a uint64; 64 for 0."""

load_word: Callable[[Any, Any], Any] = cast(Any, _Operation("load_word"))
"""In a compiled function: bytes ``data[place : place + 8]`` as a big-endian uint64; bounds are not checked."""

store_word: Callable[[Any, Any, Any], None] = cast(Any, _Operation("store_word"))
"""In a compiled function: store a big-endian uint64 in ``data[place : place + 8]``; bounds are not checked."""

load_little_word: Callable[[Any, Any], Any] = cast(Any, _Operation("load_little_word"))
"""In a compiled function: bytes ``data[place : place + 8]`` as a little-endian uint64; bounds are not checked."""

store_little_word: Callable[[Any, Any, Any], None] = cast(Any, _Operation("store_little_word"))
"""In a compiled function: store a little-endian uint64 in ``data[place : place + 8]``; bounds are not checked."""

fma: Callable[[Any, Any, Any], Any] = cast(Any, _Operation("fma"))
"""In a compiled function: ``a * b + c`` of floats of one type, rounded once (fused multiply-add).

A compiler that may contract products and sums by itself does so on some processors and not on others. An explicit
operation gives the same result on all of them.
"""

scratch: Callable[[int, Any], Any] = cast(Any, _Operation("scratch"))
"""In a compiled function: an array on the stack, of a size that is a constant of a module, and a type of numbers.

It must not outlive the function. The compiler knows that it overlaps with no other array, which it does not know of
arrays on the heap, and therefore vectorises loops over many such arrays without checks at run time.
"""
