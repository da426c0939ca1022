"""PSFs from files and functions: the settings of each kind, how it is read, and how a file's kind is recognised.

A package adds a kind by an entry point of the group ``skygraft.psfs``, whose name is the kind's and which refers to a
function, as `call_psf_function` calls it. In the package's ``pyproject.toml``::

    [project.entry-points."skygraft.psfs"]
    my_survey = "my_package.psfs:psf_of"
"""

from __future__ import annotations

import contextlib
import difflib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import numpy as np

from skygraft.errors import ConfigError, PsfError, SkygraftError
from skygraft.fitsfile.open import fits_errors, is_fits, open_fits
from skygraft.formats.available import get_format
from skygraft.formats.base import Format, identify_files
from skygraft.formats.brick_files import VIEWER_SURVEYS, find_brick_file
from skygraft.formats.fits_layout import list_hdus
from skygraft.formats.psf_functions import call_psf_function, find_function
from skygraft.formats.psf_target import INSIST, PsfTarget, check_belongs, check_covers
from skygraft.psf import PSF, PsfImageOptions, is_psfield, psf_image_header, read_psf_image, read_psfex, read_psfield

__all__ = [
    "KINDS",
    "PsfKind",
    "check_psf_keys",
    "is_psfex_file",
    "psf_kind",
    "read_psf_file",
    "recognise_psf",
]

_GROUP = "skygraft.psfs"
_ALIASES = {"stpsf": "image", "webbpsf": "image", "stdpsf": "image", "grid": "image", "legacy_coadd": "image"}
"""Other names of kinds that are recognised by the file."""


@dataclass(frozen=True)
class PsfKind:
    """A kind of PSF.

    Parameters
    ----------
    required, optional : tuple of str
        Keys of its settings, besides ``kind``.
    read : callable or None
        Makes the PSF from a file, the settings, and the image; None for kinds without a file.
    """

    required: tuple[str, ...]
    optional: tuple[str, ...] = ()
    read: Callable[[Path, dict[str, Any], PsfTarget], tuple[PSF, Mapping[str, Any]]] | None = None


def _read_psfex(path: Path, given: dict[str, Any], target: PsfTarget) -> tuple[PSF, Mapping[str, Any]]:
    names = {key: given[key] for key in ("ccdname", "expnum", "hdu") if key in given}
    try:
        return read_psfex(path, **names), _table_facts(path)
    except PsfError as error:
        if error.key != "ccdname" or "ccdname" in names or "expnum" in names:
            raise
    # Tables with a row for each CCD name them as the images do.
    ccd = next((target.header[key] for key in ("CCDNAME", "EXTNAME", "DETPOS") if target.header.get(key)), None)
    return read_psfex(path, ccdname=ccd, expnum=target.data_id.visit, hdu=names.get("hdu")), {}


def _table_facts(path: Path) -> dict[str, Any]:
    """Exposure and CCD of a table with one row."""
    with open_fits(path, memmap=False) as hdus:
        for hdu in hdus:
            if hasattr(hdu, "columns") and len(hdu.data) == 1:
                names = {str(name).upper(): name for name in hdu.columns.names}
                if "PSF_MASK" in names:
                    keys = [key for key in ("EXPNUM", "CCDNAME") if key in names]
                    facts = {key: np.ravel(hdu.data[names[key]])[0] for key in keys}
                    return dict(hdu.header) | facts
    return {}


def _read_image(path: Path, given: dict[str, Any], target: PsfTarget) -> tuple[PSF, Mapping[str, Any]]:
    asked = {key: value for key, value in given.items() if key not in ("path", "kind")}
    asked.setdefault("band", target.data_id.band)
    if "detector" not in asked and (name := _detector_name(target)) is not None:
        asked["detector"] = name
    options = PsfImageOptions(**asked)
    try:
        psf = read_psf_image(path, target.pixel_scale, options)
    except PsfError as error:
        if error.key != "oversampling" or not _on_coadd_pixels(path, options, given, target):
            raise
        options = replace(options, oversampling=1)
        psf = read_psf_image(path, target.pixel_scale, options)
    return psf, psf_image_header(path, options) | _name_facts(path)


def _on_coadd_pixels(path: Path, options: PsfImageOptions, given: Mapping[str, Any], target: PsfTarget) -> bool:
    """Whether a PSF image is one of the Legacy Surveys' for their coadds, which are on the coadds' own pixels.

    Their viewer's ``coadd-psf`` says its band (BAND) and no scale.
    """
    if given.get("kind") == "legacy_coadd":
        return True
    if target.path is None or "BAND" not in psf_image_header(path, options):
        return False
    if find_brick_file(target.path) is not None:
        return True
    headers = [target.header]
    if not target.header:  # when planning
        with contextlib.suppress(SkygraftError, OSError):
            headers = [hdu.header for hdu in list_hdus(target.path)]
    return any(str(header.get("SURVEY", "")).strip().lower() in VIEWER_SURVEYS for header in headers)


def _name_facts(path: Path) -> dict[str, Any]:
    """Filter and detector in the name of an STDPSF file, which its header does not have."""
    parts = path.name.split(".")[0].split("_")
    if len(parts) < 3 or parts[0].upper() not in ("STDPSF", "STDPBF"):
        return {}
    return {"FILTER": parts[2]}


def _detector_name(target: PsfTarget) -> str | None:
    """Name of the image's detector among those of one camera's PSFs."""
    header = target.header
    detector = str(header.get("DETECTOR", target.data_id.detector or "")).strip()
    chip = header.get("CCDCHIP")
    return str(chip) if chip is not None and detector in ("WFC", "UVIS") else detector or None


def _read_psfield(path: Path, given: dict[str, Any], target: PsfTarget) -> tuple[PSF, Mapping[str, Any]]:
    band = given.get("band") or target.data_id.band
    if band is None:
        raise PsfError(
            f"{target.name} does not say its band, and a psField file has the PSFs of five",
            path=path,
            key="band",
            fix="Say which: {kind: psfield, path: ..., band: r}",
        )
    box = target.box
    frame: dict[str, Any] = {} if box is None else {
        "shape": (round(box.y_max - box.y_min), round(box.x_max - box.x_min)),
        "xy0": (box.x_min + 0.5, box.y_min + 0.5),
    }  # fmt: skip
    psf = read_psfield(path, str(band), **frame)
    with open_fits(path, memmap=False) as hdus:
        return psf, {key: hdus[0].header[key] for key in ("RUN", "CAMCOL", "FIELD") if key in hdus[0].header}


def _read_piff(path: Path, given: dict[str, Any], target: PsfTarget) -> tuple[PSF, Mapping[str, Any]]:
    from skygraft.formats.piff_files import read_piff

    asked = {key: given[key] for key in ("chipnum", "size", "allow_pickle") if key in given}
    return read_piff(path, box=target.box, **asked), {}


def _read_exposure(path: Path, given: dict[str, Any], target: PsfTarget) -> tuple[PSF, Mapping[str, Any]]:
    """The PSF of another image, in that image's pixels."""
    from skygraft.wcs import pixel_scale

    name = given.get("format", "auto")
    fmt = get_format("fits" if name == "auto" else name)
    if name == "auto":
        fmt = _format_with_psf(path) or fmt
    with fits_errors(path):
        found = fmt.calibration(path, **dict(given.get("options", {})))
    if found.psf is None:
        raise found.no_psf or PsfError("the image has no PSF", path=path)
    (ny, nx), (x0, y0) = found.shape, found.xy0
    scale = float(np.ravel(pixel_scale(found.wcs, x0 + (nx - 1) / 2, y0 + (ny - 1) / 2))[0])
    if abs(scale / target.pixel_scale - 1) > 0.02 and not given.get("insist"):
        raise PsfError(
            f"the PSF is in pixels of {scale:.5g} arcsec, {target.name} has pixels of {target.pixel_scale:.5g} arcsec",
            path=path,
            fix=INSIST,
        )
    return found.psf, {}


_IMAGE_KEYS = tuple(one.name for one in fields(PsfImageOptions))
KINDS: dict[str, PsfKind] = {
    "gaussian": PsfKind(("fwhm",)),
    "moffat": PsfKind(("fwhm",), ("beta",)),
    "psfex": PsfKind(("path",), ("ccdname", "expnum", "hdu", "insist"), _read_psfex),
    "piff": PsfKind(("path",), ("chipnum", "size", "allow_pickle", "insist"), _read_piff),
    "image": PsfKind(("path",), _IMAGE_KEYS, _read_image),
    "psfield": PsfKind(("path",), ("band", "insist"), _read_psfield),
    "exposure": PsfKind(("path",), ("format", "options", "insist"), _read_exposure),
    "function": PsfKind(("function",), ("arguments",)),
}
"""The kinds of PSFs, besides those of installed packages."""


@cache
def _installed() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=_GROUP)}


def psf_kind(name: Any) -> str:
    """Return the name of a kind of PSF, after checking that there is one.

    Parameters
    ----------
    name : str
        A kind, one of its other names, or that of an entry point of the group ``skygraft.psfs``.

    Returns
    -------
    str

    Raises
    ------
    ConfigError
        If there is none; the message suggests the nearest.
    """
    name = _ALIASES.get(name, name) if isinstance(name, str) else name
    if name in KINDS or name in _installed():
        return str(name)
    allowed = [*KINDS, *_ALIASES, *sorted(_installed())]
    near = difflib.get_close_matches(str(name), allowed, n=1)
    raise ConfigError(
        f"psf kind is {name!r}; allowed: {', '.join(allowed)}",
        key="psf.kind",
        fix=f"Did you mean {near[0]!r}?" if near else "Give one of them, or path alone to recognise the file",
    )


def check_psf_keys(given: Mapping[str, Any]) -> str | None:
    """Check the keys of a PSF's settings; no file is read.

    Parameters
    ----------
    given : mapping
        With a ``kind``, or with a ``path`` whose kind is to be recognised.

    Returns
    -------
    str or None
        The kind; None if it is to be recognised.

    Raises
    ------
    ConfigError
        Naming the key that is not allowed, or missing.
    """
    if "kind" not in given and "path" in given:
        allowed = {key for kind in KINDS.values() if kind.read is not None for key in (*kind.required, *kind.optional)}
        for key in given:
            if key not in allowed:
                raise ConfigError(
                    f"{key!r} is not a part of a psf; those of files are: {', '.join(sorted(allowed))}",
                    key=f"psf.{key}",
                )
        _check_values(given)
        return None
    name = psf_kind(given.get("kind"))
    if name not in KINDS:
        return name
    kind = KINDS[name]
    for key in given:
        if key not in ("kind", *kind.required, *kind.optional):
            names = ", ".join((*kind.required, *kind.optional))
            raise ConfigError(f"{key!r} is not a part of a {name} psf; those are: {names}", key=f"psf.{key}")
    for key in kind.required:
        if key not in given:
            raise ConfigError(f"a {name} psf needs {key!r}", key=f"psf.{key}")
    if name == "function":
        find_function(given["function"], load=False)
    elif name == "image":
        _check_values(given)
    return name


def _check_values(given: Mapping[str, Any]) -> None:
    """Refuse settings of PSF images that are of the wrong type, before any file is read."""
    PsfImageOptions(**{one.name: given[one.name] for one in fields(PsfImageOptions) if one.name in given})


def call_kind(name: str, given: Mapping[str, Any], target: PsfTarget) -> PSF:
    """Make the PSF of a function, or of a kind that a package adds.

    Parameters
    ----------
    name : str
        "function", or the name of an entry point.
    given : mapping
        Settings: ``function`` and ``arguments``, or, of an entry point, its own.
    target : PsfTarget
        The image.

    Returns
    -------
    PSF
    """
    if name == "function":
        return call_psf_function(find_function(given["function"]), dict(given.get("arguments", {})), target)
    entry = _installed()[name]
    try:
        function = entry.load()
    except Exception as error:  # whatever a package raises when it is imported
        raise ConfigError(
            f"the psf kind {name!r} ({entry.value}) cannot be loaded ({type(error).__name__}: {error})",
            key="psf.kind",
            fix="Update or uninstall the package",
        ) from error
    return call_psf_function(function, {key: value for key, value in given.items() if key != "kind"}, target)


def is_psfex_file(path: str | os.PathLike[str]) -> bool:
    """Whether a file is FITS and has a table with a PSFEx model.

    Parameters
    ----------
    path : path-like
        The file.

    Returns
    -------
    bool
    """
    return Path(path).is_file() and is_fits(path) and recognise_psf(path, unknown="") == "psfex"


def recognise_psf(path: str | os.PathLike[str], *, unknown: str | None = None) -> str:
    """Find out by its content what kind of PSF a file holds.

    Parameters
    ----------
    path : path-like
        The file.
    unknown : str, optional
        Returned if it is none; by default that is an error.

    Returns
    -------
    str
        One of `KINDS`.

    Raises
    ------
    CorruptFileError
        If the file is missing, empty or damaged.
    PsfError
        If it is none, with what was looked for.
    """
    path = Path(path)
    identify_files([path])
    if is_fits(path):
        with open_fits(path, memmap=False) as hdus:
            kind = _kind_in([(str(hdu.name), getattr(hdu, "columns", None), hdu.is_image, getattr(hdu, "shape", ()))
                             for hdu in hdus])  # fmt: skip
    else:
        kind = None
    if kind in (None, "image") and _format_with_psf(path) is not None:
        kind = "exposure"
    if kind is not None:
        return kind
    if unknown is not None:
        return unknown
    raise PsfError(
        "the file holds no PSF that is recognised: no PSFEx model (a table with PSF_MASK), no psField table (RROWS), "
        "no Piff model (a table named psf), no image or cube, and it is no image of a format that stores its PSF",
        path=path,
        fix="Give such a file, a kind of psf (see the documentation of PSFs), or a Python function",
    )


def _kind_in(hdus: list[tuple[str, Any, bool, tuple[int, ...]]]) -> str | None:
    tables = [(name, [str(one).upper() for one in columns.names]) for name, columns, *_ in hdus if columns is not None]
    if any("PSF_MASK" in names for _, names in tables):
        return "psfex"
    if any(is_psfield(names) for _, names in tables):
        return "psfield"
    if any(name.lower() == "psf" and "TYPE" in names for name, names in tables):
        return "piff"
    return "image" if any(flat and len(shape) >= 2 for _, _, flat, shape in hdus) else None


def _format_with_psf(path: Path) -> Format | None:
    """The format of an image file that stores its PSF; None for any other file."""
    for name in ("lsst_afw", "lsst_images"):
        fmt = get_format(name)
        with contextlib.suppress(SkygraftError):
            if fmt.matches(path):
                return fmt
    return None


def read_psf_file(path: Path, kind: str | None, given: Mapping[str, Any], target: PsfTarget) -> PSF:
    """Read a PSF from a file, and check that it belongs to the image.

    Parameters
    ----------
    path : Path
        The file.
    kind : str or None
        One of `KINDS` that has a file; None to recognise it.
    given : mapping
        Settings of that kind.
    target : PsfTarget
        The image.

    Returns
    -------
    PSF

    Raises
    ------
    CorruptFileError
        If the file is missing, empty or damaged.
    PsfError
        If it holds no such PSF, or that of another image, band, detector or pixel scale.
    """
    identify_files([path])
    name = recognise_psf(path) if kind is None else kind
    one = KINDS[name]
    assert one.read is not None
    settings = {key: value for key, value in given.items() if key not in ("kind", "path")}
    for key in settings:
        if key not in one.optional:
            raise ConfigError(
                f"{key!r} is not a part of a {name} psf, which {path.name} is; those are: {', '.join(one.optional)}",
                key=f"psf.{key}",
            )
    psf, facts = one.read(path, settings | {"kind": given.get("kind")}, target)
    if not settings.get("insist"):
        check_belongs(facts, target, path)
        check_covers(psf, target, path)
    return psf
