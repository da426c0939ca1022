"""Formats named by where their class is: ``my_module:MyFormat``, or ``folder/my_module.py:MyFormat``.

The second form works in every process that sees the file, also in workers on other machines; the first one where the
module can be imported.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import sysconfig
from pathlib import Path
from types import ModuleType
from typing import Any

from skygraft.errors import ConfigError
from skygraft.formats.base import Format

__all__ = ["check_class", "is_reference", "load_class", "reference_of_class", "resolve_reference"]

_HOW = "Write my_module:MyFormat, or my_module.py:MyFormat with the path of the file"


def is_reference(name: str) -> bool:
    """Return whether a format's name says where its class is."""
    return ":" in name


def resolve_reference(reference: str, folder: Path) -> str:
    """Return a reference that holds in other processes: with the absolute path of a file that is not installed.

    Parameters
    ----------
    reference : str
        ``module:Class`` or ``file.py:Class``.
    folder : Path
        Directory that a relative path starts from, and in which a module is searched for that cannot be imported.

    Returns
    -------
    str
        ``/absolute/path/file.py:Class``, or `reference` where the module is installed.

    Raises
    ------
    ConfigError
        If there is no such module or file.
    """
    place, cls = _split(reference)
    if place.endswith(".py"):
        path = (folder / Path(place).expanduser()).resolve()
        if not path.is_file():
            raise ConfigError(f"there is no file {path}, which the format {reference!r} is in", key="format", fix=_HOW)
        return f"{path}:{cls}"
    beside = (folder / f"{place}.py").resolve()
    try:
        found = importlib.util.find_spec(place)
    except (ImportError, ValueError):
        found = None
    if found is None and beside.is_file():
        return f"{beside}:{cls}"
    if found is None:
        raise ConfigError(
            f"there is no module {place!r}, which the format {reference!r} is in: it is not installed, and {beside} is "
            "not there",
            key="format",
            fix="Put it into that folder, or install its package where the workers run",
        )
    return _by_file(place, found.origin, cls) or reference


def reference_of_class(cls: type[Format]) -> str | None:
    """Return the reference of a class; None if other processes cannot import it: it is of a notebook or a function."""
    module = sys.modules.get(cls.__module__)
    if module is None or cls.__module__ == "__main__" or "<locals>" in cls.__qualname__:
        return None
    return _by_file(cls.__module__, module.__file__, cls.__qualname__) or f"{cls.__module__}:{cls.__qualname__}"


def _by_file(module: str, origin: str | None, cls: str) -> str | None:
    """Reference with the path of a module that is one file and not installed; None for all others."""
    if origin is None or "." in module or not origin.endswith(".py") or origin.endswith("__init__.py"):
        return None
    path = Path(origin).resolve()
    installed = (Path(sysconfig.get_path(kind)).resolve() for kind in ("purelib", "platlib", "stdlib"))
    return None if any(path.is_relative_to(place) for place in installed) else f"{path}:{cls}"


def load_class(reference: str) -> type[Format]:
    """Import the class of a resolved reference.

    Parameters
    ----------
    reference : str
        From `resolve_reference`.

    Returns
    -------
    type of Format

    Raises
    ------
    ConfigError
        If it cannot be imported, or is not a format.
    """
    place, name = _split(reference)
    try:
        found: Any = _module_of_file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
        for part in name.split("."):
            found = getattr(found, part)
    except ConfigError:
        raise
    except Exception as error:  # whatever the module raises when it is imported
        raise ConfigError(
            f"the format {reference!r} cannot be loaded ({type(error).__name__}: {error})",
            key="format",
            fix="Correct the module, or the name of its class",
        ) from error
    return check_class(found, reference)


def check_class(found: Any, where: str) -> type[Format]:
    """Return a class after checking that it is a format with a name that can be given.

    Parameters
    ----------
    found : object
        The class.
    where : str
        What it is called, for errors.

    Raises
    ------
    ConfigError
        If it is no subclass of `Format`, lacks a method or its name, or the name has other characters than letters,
        digits, ``_``, ``-`` and ``.``.
    """
    if not isinstance(found, type) or not issubclass(found, Format):
        raise ConfigError(
            f"{where} is {found!r}; a class derived from skygraft.formats.Format is needed", key="format", fix=_HOW
        )
    missing = sorted(getattr(found, "__abstractmethods__", ()))
    if missing:
        raise ConfigError(f"the format {where} lacks {', '.join(missing)}", key="format", fix="Define these methods")
    for attribute in ("name", "looked_for"):
        text = getattr(found, attribute, None)
        if not isinstance(text, str) or not text:
            raise ConfigError(f"the format {where} has no {attribute}", key="format", fix=f"Set its {attribute}")
    if not found.name.replace("_", "").replace("-", "").replace(".", "").isalnum() or found.name == "auto":
        raise ConfigError(
            f"the format {where} is called {found.name!r}; letters, digits, '_', '-' and '.' are allowed", key="format"
        )
    return found


def _split(reference: str) -> tuple[str, str]:
    place, _, cls = reference.rpartition(":")
    parts = cls.split(".")
    if not place.endswith(".py"):
        parts += place.split(".")
    if not place or not all(part.isidentifier() for part in parts):
        raise ConfigError(f"{reference!r} does not name a format's class", key="format", fix=_HOW)
    return place, cls


def _module_of_file(path: Path) -> ModuleType:
    """The module in a file, under the file's name, so that what is pickled from it can be read elsewhere."""
    known = sys.modules.get(path.stem)
    if known is None:
        folder = str(path.parent)
        if folder not in sys.path:
            # At the end: a file there must not hide an installed module.
            sys.path.append(folder)
            importlib.invalidate_caches()
        known = importlib.import_module(path.stem)
    origin = getattr(known, "__file__", None)
    if origin is None or Path(origin).resolve() != path:
        raise ConfigError(
            f"the format is in {path}, and another module is called {path.stem!r} ({origin})",
            key="format",
            fix="Give the file another name",
        )
    return known
