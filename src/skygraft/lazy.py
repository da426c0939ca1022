"""Public names, and libraries, that are imported when they are first used."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

__all__ = ["lazy_module", "lazy_names", "left_out"]


def lazy_names(package: str, homes: Mapping[str, tuple[str, ...]]) -> Callable[[str], Any]:
    """The ``__getattr__`` of a package whose names live in modules that are heavy to import.

    Parameters
    ----------
    package : str
        Its name.
    homes : mapping of str to tuple of str
        Module to the names that live in it.
    """
    home_of = {name: module for module, names in homes.items() for name in names}

    def find(name: str) -> Any:
        if name not in home_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(home_of[name]), name)
        setattr(sys.modules[package], name, value)
        return value

    return find


class _LazyModule:
    """Stands for a module until something of it is used.

    Parameters
    ----------
    name : str
        Of the module.
    """

    def __init__(self, name: str) -> None:
        self.__name = name

    def __getattr__(self, name: str) -> Any:
        value = getattr(importlib.import_module(self.__name), name)
        setattr(self, name, value)
        return value


def lazy_module(name: str) -> Any:
    """Return what stands for a library's module that is imported when something of it is first used.

    For libraries that take long to import and that few of the functions of a module need.

    Parameters
    ----------
    name : str
        Full name, such as ``"scipy.fft"``.
    """
    return _LazyModule(name)


@contextlib.contextmanager
def left_out(*names: str) -> Iterator[None]:
    """Let libraries that are imported meanwhile do without others that they only use if these are installed.

    For commands of a second that use nothing of them; they can be imported afterwards, as ever. Imports of compiled
    extensions (Cython's) do not fail as they should: pandas, for one, cannot be kept from pyarrow.

    Parameters
    ----------
    *names : str
        Modules; those that have been imported already stay as they are.
    """
    absent = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(absent))  # type: ignore[arg-type] # None: such an import fails
    try:
        yield
    finally:
        for name in absent:
            if sys.modules.get(name) is None:
                sys.modules.pop(name, None)
