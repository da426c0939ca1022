"""The image formats that are available: those of skygraft, of installed packages, and those that a session registers.

A package adds a format by an entry point of the group ``skygraft.formats``, whose name is the format's and which refers
to its class, a subclass of `skygraft.formats.Format`. In the package's ``pyproject.toml``::

    [project.entry-points."skygraft.formats"]
    my_format = "my_package.formats:MyFormat"

`register_format` adds one for a session, and ``format="my_module:MyFormat"`` names the class of one: see
`skygraft.formats.references`.
"""

from __future__ import annotations

import difflib
import importlib
import warnings
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from skygraft.errors import ConfigError, SkygraftWarning
from skygraft.formats.base import Format
from skygraft.formats.references import check_class, is_reference, load_class, reference_of_class, resolve_reference

__all__ = [
    "format_names",
    "format_reference",
    "get_format",
    "load_formats",
    "ordinary_formats",
    "register_format",
    "resolve_format",
    "specific_formats",
]

_GROUP = "skygraft.formats"
_SPECIFIC: dict[str, tuple[str, str]] = {
    "lsst_afw": ("skygraft.formats.lsst_afw", "LsstAfwFormat"),
    "lsst_images": ("skygraft.formats.lsst_images", "LsstImagesFormat"),
    "legacy_survey": ("skygraft.formats.legacy_survey", "LegacySurveyFormat"),
    "legacy_brick": ("skygraft.formats.legacy_brick", "LegacyBrickFormat"),
    "legacy_cutout": ("skygraft.formats.legacy_cutout", "LegacyCutoutFormat"),
    "des": ("skygraft.formats.des", "DesFormat"),
    "megapipe": ("skygraft.formats.megapipe", "MegaPipeFormat"),
    "sdss_frame": ("skygraft.formats.sdss_frame", "SdssFrameFormat"),
    "ztf": ("skygraft.formats.ztf", "ZtfFormat"),
    "jwst": ("skygraft.formats.jwst", "JwstFormat"),
    "hst": ("skygraft.formats.hst", "HstFormat"),
    "roman": ("skygraft.formats.roman", "RomanFormat"),
}
"""Formats that recognise more than that a file is FITS: name to module and class, imported when needed."""
_ORDINARY = {"fits": ("skygraft.formats.fits", "FitsFormat")}
"""Formats for files that no specific format recognises."""
_REGISTERED: dict[str, Format] = {}
"""Formats that this session registered, by name."""
_REFERENCED: dict[str, tuple[str, Format]] = {}
"""Formats that were named by their class: name to reference and format."""


def register_format[F: type[Format]](format_class: F) -> F:
    """Add a format to this session: its files are recognised, and ``format=`` takes its name.

    Other processes, such as the workers of a campaign, import the class from its module; a class of a notebook or a
    script cannot be imported, so put it into a file of its own for campaigns. A package adds its formats for every
    session by an entry point, see `skygraft.formats.available`.

    Parameters
    ----------
    format_class : type of Format
        The class. One of a name that is registered already replaces it.

    Returns
    -------
    type of Format
        `format_class`, so that this can be used as a decorator.

    Raises
    ------
    ConfigError
        If it is no complete format, or its name is that of one of skygraft's own or of an installed package.
    """
    check_class(format_class, getattr(format_class, "__name__", repr(format_class)))
    _refuse_taken(format_class.name)
    _REGISTERED[format_class.name] = format_class()
    _REFERENCED.pop(format_class.name, None)
    _specific.cache_clear()
    return format_class


def _refuse_taken(name: str) -> None:
    if name in _SPECIFIC or name in _ORDINARY or name in _installed():
        raise ConfigError(f"there is a format {name!r} already", key="format", fix="Give the class another name")


def resolve_format(name: str, folder: str | Path | None = None) -> str:
    """Return the name of a format in the form that other processes understand, after checking that it can be loaded.

    Parameters
    ----------
    name : str
        A name, or ``module:Class``, or ``file.py:Class``.
    folder : path-like, optional
        Directory that relative paths start from; by default the current one.

    Returns
    -------
    str

    Raises
    ------
    ConfigError
        As `get_format`.
    """
    if is_reference(name):
        name = resolve_reference(name, Path.cwd() if folder is None else Path(folder))
    get_format(name)
    return name


def format_reference(fmt: Format) -> str:
    """Return how other processes name a format: by its name or, if the session added it, by its class's place.

    Parameters
    ----------
    fmt : Format
        One from `get_format`.
    """
    if fmt.name in _REFERENCED:
        return _REFERENCED[fmt.name][0]
    if fmt.name in _REGISTERED:
        return reference_of_class(type(fmt)) or fmt.name
    return fmt.name


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
    installed = (name for name in _installed() if name not in own)
    return (*dict.fromkeys((*_SPECIFIC, *installed, *_REGISTERED, *_REFERENCED)), *_ORDINARY)


def get_format(name: str) -> Format:
    """Return a format by its name.

    Parameters
    ----------
    name : str
        One of `format_names`; or the class of a format, as ``module:Class`` or ``file.py:Class``.

    Returns
    -------
    Format

    Raises
    ------
    ConfigError
        If there is no format of that name (the message suggests the nearest), or the package that adds it is broken.
    """
    if isinstance(name, str) and is_reference(name):
        return _by_reference(name)
    names = format_names()
    if name not in names:
        near = difflib.get_close_matches(str(name), names, n=1)
        raise ConfigError(
            f"{name!r} is not a format; those are: auto, {', '.join(names)}",
            key="format",
            fix=f"Did you mean {near[0]!r}?"
            if near
            else "Use 'auto'; a format that a session registered is known there alone: for other processes, put it "
            "into a file and name its class, my_module.py:MyFormat",
        )
    if name in _REGISTERED:
        return _REGISTERED[name]
    return _REFERENCED[name][1] if name in _REFERENCED else _load(name)


def _by_reference(name: str) -> Format:
    reference = resolve_reference(name, Path.cwd())
    cls = load_class(reference)
    known = _REFERENCED.get(cls.name)
    if known is None or type(known[1]) is not cls:
        if known is not None and known[0] != reference:
            raise ConfigError(
                f"two formats are called {cls.name!r}: {known[0]} and {reference}",
                key="format",
                fix="Give one of the classes another name",
            )
        _refuse_taken(cls.name)
        registered = _REGISTERED.get(cls.name)
        known = (reference, registered if type(registered) is cls else cls())
        _REFERENCED[cls.name] = known
    return known[1]


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
        if name in _ORDINARY or (name in _REFERENCED and name not in _REGISTERED):
            # A format that is only named by its class is for the images for which it is named.
            continue
        try:
            found.append(get_format(name))
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
