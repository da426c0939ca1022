"""How loops are compiled, in one place."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from pathlib import Path
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
