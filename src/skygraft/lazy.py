"""Public names, and libraries, that are imported when they are first used."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["lazy_module", "lazy_names"]


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
