"""Build PSF and photometric calibration from what a user gives, in Python or in a configuration file."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from typing import Any

from skygraft.errors import ConfigError
from skygraft.photometry import PhotoCalib
from skygraft.places import bring, is_place
from skygraft.psf import PSF, GaussianPSF, MoffatPSF, read_psfex

__all__ = ["GivenPhotoCalib", "GivenPsf", "make_photo_calib", "make_psf"]

type GivenPsf = PSF | str | os.PathLike[str] | Mapping[str, Any]
type GivenPhotoCalib = PhotoCalib | float | Mapping[str, Any]

_LENGTH = re.compile(r"^\s*(?P<number>[-+0-9.eE]+)\s*(?P<unit>arcsec|\"|mas|pix|pixel|pixels|px)\s*$")
# Required and optional keys of each kind of PSF.
_PSF_KEYS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "gaussian": (("fwhm",), ()),
    "moffat": (("fwhm",), ("beta",)),
    "psfex": (("path",), ("ccdname", "expnum", "hdu")),
}


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


def make_psf(given: GivenPsf, pixel_scale: float) -> PSF:
    """Build a PSF from what the user gives.

    Parameters
    ----------
    given : PSF, path or mapping
        A PSF is returned unchanged; a path is that of a PSFEx model; a mapping is one of
        ``{"kind": "gaussian", "fwhm": "0.9 arcsec"}``, ``{"kind": "moffat", "fwhm": "3 pix", "beta": 2.5}`` and
        ``{"kind": "psfex", "path": ..., "ccdname": ..., "expnum": ..., "hdu": ...}``. The FWHM is that of stars in the
        image, pixel response included.
    pixel_scale : float
        Arcsec per pixel.

    Returns
    -------
    PSF

    Raises
    ------
    ConfigError
        If `given` is none of these.
    PsfError, CorruptFileError
        If the model cannot be read.
    """
    if isinstance(given, PSF):
        return given
    if isinstance(given, str | os.PathLike):
        return read_psfex(bring(given) if is_place(given) else given)
    if not isinstance(given, Mapping):
        raise ConfigError(
            f"psf is {given!r}; a PSF, the path of a PSFEx model, or a mapping with a 'kind' is needed", key="psf"
        )
    kind = given.get("kind")
    if kind not in _PSF_KEYS:
        raise ConfigError(f"psf kind is {kind!r}; allowed: {', '.join(_PSF_KEYS)}", key="psf.kind")
    required, optional = _PSF_KEYS[kind]
    for key in given:
        if key not in ("kind", *required, *optional):
            names = ", ".join((*required, *optional))
            raise ConfigError(f"{key!r} is not a part of a {kind} psf; those are: {names}", key=f"psf.{key}")
    for key in required:
        if key not in given:
            raise ConfigError(f"a {kind} psf needs {key!r}", key=f"psf.{key}")
    if kind == "psfex":
        rest = {key: given[key] for key in optional if key in given}
        return read_psfex(given["path"], **rest)
    fwhm = _pixels(given["fwhm"], pixel_scale, "psf.fwhm")
    if kind == "gaussian":
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
