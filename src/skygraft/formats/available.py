"""The image formats that are available: those of skygraft, and those of installed packages.

A package adds a format by an entry point of the group ``skygraft.formats``, whose name is the format's and which refers
to its class, a subclass of `skygraft.formats.Format`. In the package's ``pyproject.toml``::

    [project.entry-points."skygraft.formats"]
    my_format = "my_package.formats:MyFormat"
"""

from __future__ import annotations

import difflib
import importlib
import warnings
from functools import cache
from importlib.metadata import EntryPoint, entry_points

from skygraft.errors import ConfigError, SkygraftWarning
from skygraft.formats.base import Format

__all__ = ["format_names", "get_format", "load_formats", "ordinary_formats", "specific_formats"]

_GROUP = "skygraft.formats"
_SPECIFIC: dict[str, tuple[str, str]] = {
    "lsst_afw": ("skygraft.formats.lsst_afw", "LsstAfwFormat"),
    "lsst_images": ("skygraft.formats.lsst_images", "LsstImagesFormat"),
    "legacy_survey": ("skygraft.formats.legacy_survey", "LegacySurveyFormat"),
    "jwst": ("skygraft.formats.jwst", "JwstFormat"),
    "hst": ("skygraft.formats.hst", "HstFormat"),
    "roman": ("skygraft.formats.roman", "RomanFormat"),
}
"""Formats that recognise more than that a file is FITS: name to module and class, imported when needed."""
_ORDINARY = {"fits": ("skygraft.formats.fits", "FitsFormat")}
"""Formats for files that no specific format recognises."""


@cache
def _installed() -> dict[str, tuple[EntryPoint, ...]]:
    """Entry points of installed packages by the name of their format."""
    found: dict[str, tuple[EntryPoint, ...]] = {}
    for entry in sorted(entry_points(group=_GROUP), key=_described):
        found[entry.name] = (*found.get(entry.name, ()), entry)
    return found


def _described(entry: EntryPoint) -> str:
    package = "" if entry.dist is None else f" of package {entry.dist.name}"
    return f"{entry.name} = {entry.value!r}{package}"


def format_names() -> tuple[str, ...]:
    """Return the names of all formats, in the order in which they are tried.

    Returns
    -------
    tuple of str
    """
    own = (*_SPECIFIC, *_ORDINARY)
    return (*_SPECIFIC, *(name for name in _installed() if name not in own), *_ORDINARY)


def get_format(name: str) -> Format:
    """Return a format by its name.

    Parameters
    ----------
    name : str
        One of `format_names`.

    Returns
    -------
    Format

    Raises
    ------
    ConfigError
        If there is no format of that name (the message suggests the nearest), or the package that adds it is broken.
    """
    names = format_names()
    if name not in names:
        near = difflib.get_close_matches(str(name), names, n=1)
        raise ConfigError(
            f"{name!r} is not a format; those are: auto, {', '.join(names)}",
            key="format",
            fix=f"Did you mean {near[0]!r}?" if near else "Use 'auto'",
        )
    return _load(name)


@cache
def _load(name: str) -> Format:
    if name in _SPECIFIC or name in _ORDINARY:
        module, cls = {**_SPECIFIC, **_ORDINARY}[name]
        own: Format = getattr(importlib.import_module(module), cls)()
        return own
    entries = _installed()[name]
    if len(entries) > 1:
        raise ConfigError(
            f"several packages add a format {name!r}: {'; '.join(map(_described, entries))}",
            key="format",
            fix="Uninstall all of them but one",
        )
    try:
        made = entries[0].load()()
    except Exception as error:  # whatever a package raises when it is imported
        raise ConfigError(
            f"the format {_described(entries[0])} cannot be loaded ({type(error).__name__}: {error})",
            key="format",
            fix="Update or uninstall the package",
        ) from error
    if not isinstance(made, Format) or made.name != name:
        raise ConfigError(
            f"the entry point {_described(entries[0])} is not a skygraft.formats.Format whose name is {name!r}",
            key="format",
            fix="Update or uninstall the package",
        )
    return made


@cache
def _specific() -> tuple[tuple[Format, ...], tuple[str, ...]]:
    """The formats that recognise particular files, and what is wrong with those that are left out."""
    found, problems = [], []
    for name in format_names():
        if name in _ORDINARY:
            continue
        try:
            found.append(_load(name))
        except ConfigError as error:
            problems.append(str(error))
    for name in _installed().keys() & {*_SPECIFIC, *_ORDINARY}:
        entries = "; ".join(map(_described, _installed()[name]))
        problems.append(f"the entry point {entries} is ignored, since skygraft has a format of that name.")
    return tuple(found), tuple(problems)


def specific_formats() -> tuple[Format, ...]:
    """Return the formats that recognise particular files; warn of installed ones that cannot be used."""
    found, problems = _specific()
    for problem in problems:
        warnings.warn(f"{problem} Files of that format are not recognised.", SkygraftWarning, stacklevel=2)
    return found


def ordinary_formats() -> tuple[Format, ...]:
    """Return the formats for files that no specific format recognises."""
    return tuple(_load(name) for name in _ORDINARY)


def load_formats() -> None:
    """Import the modules of all formats, so that forked processes need not each do so."""
    _specific()
    ordinary_formats()
