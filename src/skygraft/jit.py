"""How loops are compiled, in one place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, overload

import numba

__all__ = ["compiled"]


@overload
def compiled[F: Callable[..., Any]](function: F) -> F: ...
@overload
def compiled[F: Callable[..., Any]](**options: Any) -> Callable[[F], F]: ...
def compiled(function: Any = None, **options: Any) -> Any:
    """Compile a function with numba, without the GIL, and keep the result on disk where that is possible.

    On a compute node neither the package's folder nor the home directory may be writable, which numba refuses: there
    the function is compiled once in each process. A compiled function should call only those of its own file: numba
    looks at that file alone to tell whether what is on disk is still right. No fast-math options: what is computed must
    not depend on the processor. Division by zero follows numpy.

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
        return numba.njit(cache=True, **options)(function)
    except RuntimeError as error:
        if "locator" not in str(error):
            raise
        return numba.njit(**options)(function)
