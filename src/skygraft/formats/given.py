"""Build PSF and photometric calibration from what a user gives, in Python or in a configuration file."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from skygraft.errors import ConfigError, PsfError
from skygraft.formats.psf_kinds import KINDS, call_kind, check_psf_keys, is_psfex_file, read_psf_file
from skygraft.formats.psf_target import PsfTarget
from skygraft.photometry import PhotoCalib
from skygraft.places import bring, is_place
from skygraft.psf import PSF, GaussianPSF, MoffatPSF

__all__ = [
    "GivenPhotoCalib",
    "GivenPsf",
    "check_psf_settings",
    "make_photo_calib",
    "make_psf",
    "psf_files",
    "psf_option",
]

type GivenPsf = PSF | str | os.PathLike[str] | Mapping[str, Any]
type GivenPhotoCalib = PhotoCalib | float | Mapping[str, Any]

_LENGTH = re.compile(r"^\s*(?P<number>[-+0-9.eE]+)\s*(?P<unit>arcsec|\"|mas|pix|pixel|pixels|px)\s*$")


def _pixels(value: Any, scale: float, key: str) -> float:
    """Convert a length such as "0.9 arcsec" or "3 pix" to pixels."""
    match = _LENGTH.match(value) if isinstance(value, str) else None
    number = math.nan
    if match is not None:
        try:
            number = float(match["number"])
        except ValueError:
            number = math.nan
    if match is None or not 0 < number < math.inf:
        raise ConfigError(
            f"{key} is {value!r}; a positive length with its unit is needed",
            key=key,
            fix="Write for example '0.9 arcsec' or '3.5 pix'",
        )
    if match["unit"] in ("arcsec", '"'):
        return number / scale
    return number / 1000 / scale if match["unit"] == "mas" else number


def check_psf_settings(given: Any) -> None:
    """Check what the user gives for a PSF as far as that is possible without the image and any file.

    Parameters
    ----------
    given : PSF, path or mapping
        As for `make_psf`.

    Raises
    ------
    ConfigError
        If `given` is nothing that `make_psf` takes.
    """
    if isinstance(given, PSF | str | os.PathLike):
        return
    if not isinstance(given, Mapping):
        raise ConfigError(
            f"psf is {given!r}; a PSF, the path of a file that holds one, or a mapping with a 'kind' is needed",
            key="psf",
        )
    if isinstance(given.get("band"), Mapping) and len(given) == 1:
        if not given["band"]:
            raise ConfigError("psf.band names no band", key="psf.band", fix="Write {band: {g: ..., r: ...}}")
        for one in given["band"].values():
            check_psf_settings(one)
        return
    if check_psf_keys(given) in ("gaussian", "moffat"):
        _analytic(given, 1.0)


def psf_files(given: Any, target: PsfTarget | None = None) -> tuple[Path, ...]:
    """Return the files that a PSF is read from; of files in a store their copies on this machine.

    Parameters
    ----------
    given : PSF, path or mapping
        As for `make_psf`.
    target : PsfTarget, optional
        The image, whose band chooses among several.

    Returns
    -------
    tuple of Path
    """
    if isinstance(given, Mapping):
        given = _of_band(given, target)
    if isinstance(given, str | os.PathLike):
        return (_local(given),)
    if isinstance(given, Mapping) and isinstance(given.get("path"), str | os.PathLike):
        return (_local(given["path"]),)
    return ()


def psf_option(given: Any, takes_psf: bool) -> tuple[dict[str, Any], Any]:
    """Divide what is given for a PSF into the option of a format and what is left to `make_psf`.

    A format with an option ``psf`` reads a PSFEx model itself, and writes it beside the output. Of anything else it
    is told that it need not look for the image's own.

    Parameters
    ----------
    given : PSF, path, mapping, False or None
        As for `make_psf`; False for none.
    takes_psf : bool
        Whether the format has an option ``psf``.

    Returns
    -------
    option : dict
        With ``psf``, or empty.
    left : PSF, path, mapping or None

    Raises
    ------
    ConfigError
        If `given` is nothing that `make_psf` takes.
    """
    if given is None:
        return {}, None
    if given is not False:
        check_psf_settings(given)
    if not takes_psf:
        return {}, given
    of_format = given is False or isinstance(given, PSF)
    if isinstance(given, str | os.PathLike):
        # A file that is missing is reported as what the format looks for.
        of_format = not Path(given).is_file() or is_psfex_file(given)
    return ({"psf": given}, None) if of_format else ({"psf": False}, given)


def make_psf(given: GivenPsf, pixel_scale: float, target: PsfTarget | None = None) -> PSF:
    """Build a PSF from what the user gives.

    Parameters
    ----------
    given : PSF, path or mapping
        A PSF is returned unchanged. A path is that of any file that holds a PSF; what it is, is recognised by its
        content. A mapping is one of ``{"kind": "gaussian", "fwhm": "0.9 arcsec"}``, ``{"kind": "moffat", "fwhm": "3
        pix", "beta": 2.5}``, where the FWHM is that of stars in the image, pixel response included; a file with its
        settings, ``{"kind": "psfex", "path": ..., "ccdname": ..., "expnum": ..., "hdu": ...}`` or another of
        `skygraft.formats.psf_kinds.KINDS`, or without a kind to recognise it; ``{"kind": "function", "function":
        "module:function", "arguments": {...}}``; a kind that a package adds; or ``{"band": {"g": ..., "r": ...}}``, one
        of these for each band.
    pixel_scale : float
        Arcsec per pixel.
    target : PsfTarget, optional
        The image: its band, detector and outline, by which PSFs are chosen and those of other images refused.

    Returns
    -------
    PSF

    Raises
    ------
    ConfigError
        If `given` is none of these.
    PsfError, CorruptFileError
        If the model cannot be read, or is of another image.
    """
    target = PsfTarget(pixel_scale) if target is None else target
    check_psf_settings(given)
    if isinstance(given, Mapping):
        given = _of_band(given, target)
    if isinstance(given, PSF):
        return given
    if isinstance(given, str | os.PathLike):
        return read_psf_file(_local(given), None, {}, target)
    kind = check_psf_keys(given)
    if kind in ("gaussian", "moffat"):
        return _analytic(given, pixel_scale)
    if kind is None or (kind in KINDS and KINDS[kind].read is not None):
        return read_psf_file(_local(given["path"]), kind, given, target)
    return call_kind(kind, given, target)


def _local(path: str | os.PathLike[str]) -> Path:
    """The file of a PSF on this machine: itself, or the copy of one in a store."""
    return Path(bring(path)) if is_place(path) else Path(path)


def _of_band(given: Mapping[str, Any], target: PsfTarget | None) -> Any:
    """What is given for the image's band, if it is given by band."""
    if not isinstance(given.get("band"), Mapping) or len(given) != 1:
        return given
    band = None if target is None else target.data_id.band
    for name, one in given["band"].items():
        if str(name) == band:
            return _of_band(one, target) if isinstance(one, Mapping) else one
    if target is None:
        return None
    bands = ", ".join(map(str, given["band"]))
    raise PsfError(
        f"{target.name} {'does not say its band' if band is None else f'is of band {band!r}'}, and PSFs are given for "
        f"{bands}",
        path=target.path,
        key="psf.band",
        fix="Give one for its band",
    )


def _analytic(given: Mapping[str, Any], pixel_scale: float) -> PSF:
    """A Gaussian or a Moffat profile."""
    fwhm = _pixels(given["fwhm"], pixel_scale, "psf.fwhm")
    if given["kind"] == "gaussian":
        return GaussianPSF(fwhm=fwhm)
    beta = given.get("beta", 2.5)
    if isinstance(beta, bool) or not isinstance(beta, int | float):
        raise ConfigError(f"psf.beta is {beta!r}; a number is needed", key="psf.beta")
    return MoffatPSF(fwhm, beta, pixel_integrated=False)


def make_photo_calib(given: GivenPhotoCalib, unit: str) -> PhotoCalib:
    """Build a photometric calibration from what the user gives.

    Parameters
    ----------
    given : PhotoCalib, float or mapping
        A `PhotoCalib` is returned unchanged; a number is the AB magnitude of one image unit; a mapping is one of
        ``{"zeropoint": 30.0, "unit": "adu"}``, ``{"fluxmag0": 1e12}`` and ``{"unit": "nJy"}``.
    unit : str
        Unit of the image, if `given` does not state one.

    Returns
    -------
    PhotoCalib

    Raises
    ------
    ConfigError
        If `given` is none of these.
    UncalibratedImageError
        If the zeropoint is not a finite number.
    """
    if isinstance(given, PhotoCalib):
        return given
    if isinstance(given, Mapping):
        for key in given:
            if key not in ("zeropoint", "fluxmag0", "unit"):
                raise ConfigError(
                    f"{key!r} is not a part of photo_calib; those are: zeropoint, fluxmag0, unit",
                    key=f"photo_calib.{key}",
                )
        unit = str(given.get("unit", unit))
        values = {key: given[key] for key in ("zeropoint", "fluxmag0") if key in given}
    else:
        values = {"zeropoint": given}
    for key, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ConfigError(
                f"{key} is {value!r}; a number is needed", key="photo_calib", fix="Write {zeropoint: 30.0, unit: adu}"
            )
    if len(values) == 2:
        raise ConfigError("photo_calib has both zeropoint and fluxmag0; one of them is needed", key="photo_calib")
    if "zeropoint" in values:
        return PhotoCalib.from_zeropoint(float(values["zeropoint"]), unit)
    if "fluxmag0" in values:
        return PhotoCalib.from_fluxmag0(float(values["fluxmag0"]), unit)
    if unit == "nJy":
        return PhotoCalib.nanojansky()
    if unit == "nanomaggy":
        return PhotoCalib.nanomaggies()
    raise ConfigError(
        f"photo_calib {dict(given) if isinstance(given, Mapping) else given!r} has no zeropoint",
        key="photo_calib",
        fix="Write {zeropoint: 30.0, unit: adu}",
    )
