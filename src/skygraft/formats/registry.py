"""Which formats there are, which of them a file is of, and reading and writing through them."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from skygraft.errors import (
    CalibrationError,
    ConfigError,
    CorruptFileError,
    FormatError,
    MissingWcsError,
    OutputError,
    PsfError,
    UncalibratedImageError,
    UnknownFormatError,
)
from skygraft.exposure import CUT_FROM, NO_GAIN, NO_PHOTO_CALIB, NO_PSF, Exposure
from skygraft.fitsfile.open import damage_named, is_fits
from skygraft.fitsfile.packed import foreign_packing, packing_of
from skygraft.formats.base import (
    FILES,
    Format,
    ImageCalibration,
    ImageFootprint,
    StrPath,
    check_unchanged,
    identify_files,
    refuse_overwrite,
)
from skygraft.formats.fits_gain import flux_unit_of
from skygraft.formats.fits_kinds import describe_file
from skygraft.formats.fits_layout import is_flat, list_hdus, split_name
from skygraft.formats.given import GivenPhotoCalib, GivenPsf, make_photo_calib, make_psf
from skygraft.photometry import (
    PhotoCalib,
    ReferenceCandidate,
    check_calibration_soundness,
    check_radius,
    parse_radius,
    parse_unit,
    resolve_reference,
    summed_unit,
)
from skygraft.psf import Box, check_psf_soundness
from skygraft.wcs import check_pixel_scale, check_wcs_soundness, has_wcs, pixel_scale

__all__ = [
    "format_names",
    "get_format",
    "killed_its_reader",
    "load_formats",
    "read_calibration",
    "read_exposure",
    "read_footprint",
    "recognise_format",
    "write_exposure",
]

_FORMATS: dict[str, tuple[str, str]] = {
    "lsst_afw": ("skygraft.formats.lsst_afw", "LsstAfwFormat"),
    "lsst_images": ("skygraft.formats.lsst_images", "LsstImagesFormat"),
    "legacy_survey": ("skygraft.formats.legacy_survey", "LegacySurveyFormat"),
}
"""Formats that say more of a file than that it is FITS: name to module and class, imported when needed."""
_ORDINARY = {"fits": ("skygraft.formats.fits", "FitsFormat")}
"""What a file is taken for where none of those above recognises it."""


def format_names() -> tuple[str, ...]:
    """Names of all formats, in the order in which they are looked for."""
    return (*_FORMATS, *_ORDINARY)


@cache
def _load(name: str) -> Format:
    module, cls = {**_FORMATS, **_ORDINARY}[name]
    made: Format = getattr(importlib.import_module(module), cls)()
    return made


def load_formats() -> None:
    """Import the modules of all formats, before processes are forked that would each do so."""
    for name in format_names():
        _load(name)


def killed_its_reader(path: StrPath, reason: str) -> CorruptFileError:
    """The error for a file that ended the process that read it."""
    return CorruptFileError(
        f"the process that read the file was ended by it ({reason})",
        path=path,
        fix="Copy or download the file again, or leave it out; if it is sound, please report it",
    )


def get_format(name: str) -> Format:
    """The format of that name.

    Raises
    ------
    ConfigError
        If there is none; the nearest name is given.
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


def recognise_format(path: StrPath) -> Format:
    """The one format that recognises a file.

    Ordinary FITS is what remains where no format that knows more of the file recognises it.

    Raises
    ------
    CorruptFileError
        If the file is missing, empty or damaged.
    UnknownFormatError
        If no format recognises it, or two do.
    MissingWcsError
        If all that is wrong with a FITS image is that it has no celestial WCS.
    """
    identify_files([path])
    found = [fmt for name in _FORMATS if _matches(fmt := _load(name), path)]
    found = found or [fmt for name in _ORDINARY if _matches(fmt := _load(name), path)]
    if len(found) > 1:
        names = [fmt.name for fmt in found]
        raise UnknownFormatError(
            f"the file could be of {len(found)} formats: {', '.join(names)}",
            path=path,
            fix=f"Choose with format={names[0]!r}",
        )
    if not found:
        hdus = list_hdus(path) if is_fits(path) else ()
        what = describe_file(Path(path), hdus) if hdus else ""
        flat = [hdu for hdu in hdus if is_flat(hdu)]
        if flat and not any(has_wcs(hdu.header) for hdu in (hdus[0], *flat)):
            letters = sorted({k[-1] for h in flat for k in h.header if k.startswith("CTYPE") and k[-1].isalpha()})
            alternate = f", but the alternate description {', '.join(letters)} of one" if letters else ""
            raise MissingWcsError(
                f"no image of the file has a celestial WCS{alternate} (it holds {'; '.join(map(str, hdus))})"
                + (f": this is {what}" if what else ""),
                path=path,
                fix="Solve the image's astrometry and write CTYPE, CRVAL, CRPIX and CD cards, or leave it out",
            )
        holds = f"; the file holds {'; '.join(map(str, hdus))}" if hdus else ""
        looked = "; ".join(f"{name} is recognised by {_load(name).looked_for}" for name in format_names())
        raise UnknownFormatError(
            f"{f'this is {what}: ' if what else ''}no format recognises the file ({looked}){holds}",
            path=path,
            fix="Check that this is the image, or name its format with format=",
        )
    return found[0]


def _matches(fmt: Format, path: StrPath) -> bool:
    try:
        return fmt.matches(path)
    except CorruptFileError:
        with Path(path).open("rb") as stream:
            head = stream.read(8)
        if foreign_packing(head) is not None or (packing_of(head) is not None and split_name(path)[1]):
            raise
        # What is no FITS file at all is not a damaged one: it is of another kind.
        if is_fits(path):
            raise
        return False


def _format_for(path: StrPath, name: str) -> Format:
    return recognise_format(path) if name == "auto" else get_format(name)


def read_footprint(path: StrPath, *, format: str = "auto", **options: Any) -> ImageFootprint:
    """Which image a file holds and where it lies on the sky, without reading pixels.

    Parameters
    ----------
    path : path-like
        The image.
    format : str
        Its format; "auto" recognises it.
    **options
        Options of the format.

    Raises
    ------
    UnknownFormatError, CorruptFileError, MissingWcsError, FormatError, ConfigError
    """
    with damage_named(path):
        found = _format_for(path, format).footprint(path, **options)
    check_pixel_scale(found.pixel_scale, path)
    return found


def read_exposure(
    path: StrPath,
    *,
    format: str = "auto",
    aperture: str | Mapping[str, Any] | ReferenceCandidate | None = None,
    psf: GivenPsf | None = None,
    photo_calib: GivenPhotoCalib | None = None,
    gain: float | None = None,
    hdu: int | str | None = None,
    **options: Any,
) -> Exposure:
    """Read an image and everything that its files say of its calibration.

    Parameters
    ----------
    path : path-like
        The image.
    format : str
        Its format (see `format_names`); "auto" recognises it.
    aperture : str, mapping or ReferenceCandidate, optional
        What the calibrated flux is the flux of, where the image does not say: ``"12 pix"`` and ``"2 arcsec"`` are
        radii, ``{"diameter": "4 arcsec"}``, ``"psf_model"``, ``"total"``; see `skygraft.photometry.parse_radius`.
    psf : PSF, path or mapping, optional
        Used instead of the image's own; see `skygraft.formats.given.make_psf`.
    photo_calib : PhotoCalib, float or mapping, optional
        Used instead of the image's own; see `skygraft.formats.given.make_photo_calib`.
    gain : float, optional
        Electrons per image unit, used instead of what the image says.
    hdu : int or str, optional
        The HDU of the image, where the format has such a choice.
    **options
        Options of the format, such as ``ccds=`` (survey-ccds tables) of the Legacy Surveys, or ``weight=`` and
        ``pixel_area=`` (of a surface brightness) of ordinary FITS; see each format's ``Options``.

    Returns
    -------
    Exposure
        With ``photo_calib.reference`` resolved. It is None where nothing says what the flux is the flux of: such an
        image can be read, but not injected into in calibrated flux. Where the image is not calibrated at all,
        ``photo_calib`` is None, and ``extra["no_photo_calib"]`` holds the error that says why; so do
        ``extra["no_psf"]``, and ``extra["no_gain"]`` (text) where the files hold something about a gain that does not
        say how many electrons one image unit is.

    Raises
    ------
    UnknownFormatError
        If no format recognises the file, or two do.
    CorruptFileError
        If a file is missing, empty, truncated or damaged.
    MissingWcsError
        If the image has no celestial WCS.
    ApertureConflictError
        If two places disagree about what the flux is the flux of.
    CalibrationError
        If two places disagree about the zeropoint, or a known survey's image is read as another format and would be
        calibrated by what its survey has replaced.
    FormatError
        If the file holds weights, a mask, a table or the like, and no science image.
    ConfigError
        If an option is not one of the format's.
    """
    fmt, asked, psf = _prepare(path, format, psf, hdu, options)
    stamps = identify_files([path])
    with damage_named(path):
        exposure = fmt.read(path, **asked)
    found = _complete(ImageCalibration.of(exposure), path, aperture, psf, photo_calib, gain)
    extra = {FILES: stamps, **exposure.extra}
    for key in (NO_PHOTO_CALIB, NO_PSF, NO_GAIN):
        extra.pop(key, None)
    extra |= found.extra()
    return exposure.replace(
        psf=found.psf, photo_calib=found.photo_calib, gain=found.gain, gain_origin=found.gain_origin, extra=extra
    )


def read_calibration(
    path: StrPath,
    *,
    format: str = "auto",
    aperture: str | Mapping[str, Any] | ReferenceCandidate | None = None,
    psf: GivenPsf | None = None,
    photo_calib: GivenPhotoCalib | None = None,
    gain: float | None = None,
    hdu: int | str | None = None,
    **options: Any,
) -> ImageCalibration:
    """What `read_exposure` would say of an image's calibration, without reading its pixels.

    Takes the same parameters and raises the same errors, but for those of the pixels.

    Returns
    -------
    ImageCalibration
        With ``photo_calib.reference`` resolved.
    """
    fmt, asked, psf = _prepare(path, format, psf, hdu, options)
    identify_files([path])
    with damage_named(path):
        found = fmt.calibration(path, **asked)
    return _complete(found, path, aperture, psf, photo_calib, gain)


def _prepare(
    path: StrPath, format: str, psf: GivenPsf | None, hdu: int | str | None, options: Mapping[str, Any]
) -> tuple[Format, dict[str, Any], GivenPsf | None]:
    """The format, the options to read with, and the PSF where it is not one of them."""
    with damage_named(path):
        fmt = _format_for(path, format)
    asked = dict(options)
    if hdu is not None:
        asked["hdu"] = hdu
    if psf is not None and "psf" in {field.name for field in dataclasses.fields(fmt.Options)}:
        asked["psf"], psf = psf, None
    return fmt, asked, psf


def _complete(
    found: ImageCalibration,
    path: StrPath,
    aperture: str | Mapping[str, Any] | ReferenceCandidate | None,
    psf: GivenPsf | None,
    photo_calib: GivenPhotoCalib | None,
    gain: float | None,
) -> ImageCalibration:
    """What the image says, with what the caller gives instead, and its reference chosen."""
    (ny, nx), (x0, y0) = found.shape, found.xy0
    box = Box(x0 - 0.5, x0 + nx - 0.5, y0 - 0.5, y0 + ny - 0.5)
    check_wcs_soundness(found.wcs, box, path)
    scale = float(np.ravel(pixel_scale(found.wcs, *box.center))[0])
    changes: dict[str, Any] = {}
    if psf is not None:
        changes |= {"psf": make_psf(psf, scale), "no_psf": None}
    if gain is not None:
        if isinstance(gain, bool) or not isinstance(gain, int | float) or not 0 < gain < float("inf"):
            raise ConfigError(
                f"gain is {gain!r}; a positive number (electrons per image unit) is needed",
                key="gain",
                fix="Give one, such as gain=2.5",
            )
        changes |= {"gain": float(gain), "gain_origin": "given (gain=)", "no_gain": ""}
    calib = _calibration(found, photo_calib)
    if calib is not None:
        candidates = list(calib.candidates)
        if calib.reference is not None:
            candidates.append(parse_radius(calib.reference, origin=calib.reference_origin or "given (photo_calib=)"))
        if aperture is not None:
            candidates.append(parse_radius(aperture))
        reference, origin = resolve_reference(candidates, pixel_scale=scale, path=path)
        changes["photo_calib"] = PhotoCalib(
            calib.njy_per_unit, calib.unit, calib.field, reference, origin, tuple(candidates)
        )
        if photo_calib is not None:
            changes["no_photo_calib"] = None
            if gain is None and found.gain is not None and (doubt := _other_unit(photo_calib, calib, found)):
                changes |= {"gain": None, "gain_origin": "", "no_gain": doubt}
    return _sound(dataclasses.replace(found, **changes), box, path)


def _sound(found: ImageCalibration, box: Box, path: StrPath) -> ImageCalibration:
    """The calibration without what no source can be drawn with; the reasons are in its place."""
    changes: dict[str, Any] = {}
    calib = found.photo_calib
    if calib is not None:
        if calib.aperture is not None:
            check_radius(calib.aperture.radius_pixels, found.shape, calib.reference_origin or "given", path)
        try:
            check_calibration_soundness(calib, (box.x_min, box.x_max, box.y_min, box.y_max), path)
        except UncalibratedImageError as error:
            changes |= {"photo_calib": None, "no_photo_calib": error, "candidates": calib.candidates}
    if found.psf is not None:
        try:
            check_psf_soundness(found.psf, box)
        except PsfError as error:
            reason = PsfError(error.message, path=path, fix=error.fix)
            changes |= {"psf": None, "no_psf": reason}
    return dataclasses.replace(found, **changes)


def _other_unit(given: GivenPhotoCalib, calib: PhotoCalib, found: ImageCalibration) -> str:
    """Why the recorded gain does not hold for the unit that a given calibration is of; "" where it does."""
    what = f"the gain ({found.gain_origin}) is of an image in {found.unit}"
    if parse_unit(calib.unit).kind not in ("counts", "electrons"):
        return f"{what}, and the calibration given is of one in {calib.unit}"
    named = isinstance(given, Mapping) and "unit" in given
    flux_unit = None if named or not calib.is_constant else flux_unit_of(float(calib.zeropoint()))
    return "" if flux_unit is None else f"{what}, and the zeropoint given is that of one in {flux_unit}"


def _calibration(found: ImageCalibration, given: GivenPhotoCalib | None) -> PhotoCalib | None:
    """The calibration to use, with every candidate for its reference; its own reference not yet chosen."""
    if given is not None:
        calib = make_photo_calib(given, summed_unit(found.unit))
        # What the image says of its reference holds for a zeropoint given by hand, not for a whole calibration.
        if isinstance(given, PhotoCalib) and (given.reference is not None or given.candidates):
            return calib
        return PhotoCalib(calib.njy_per_unit, calib.unit, calib.field, candidates=found.candidates)
    missing = found.no_photo_calib
    if isinstance(missing, CalibrationError) and not isinstance(missing, UncalibratedImageError):
        raise missing
    return found.photo_calib


def write_exposure(
    exposure: Exposure,
    path: StrPath,
    *,
    like: StrPath | None = None,
    format: str | None = None,
    overwrite: bool = False,
) -> tuple[Path, ...]:
    """Write an exposure in the format and layout of the file that it was read from.

    Everything that injection did not touch is carried over unchanged, pixels included.

    Parameters
    ----------
    exposure : Exposure
        What `read_exposure` returned, with changed planes.
    path : path-like
        The image file to write; the files beside it (weights, masks) are named after it.
    like : path-like, optional
        The file to follow, by default ``exposure.path``.
    format : str, optional
        Its format, by default ``exposure.format``.
    overwrite : bool
        Replace an output that exists. The input is never overwritten.

    Returns
    -------
    tuple of Path
        Every file written, the image first. Each appears under its name when it is whole, the image last.

    Raises
    ------
    OutputExistsError
        If an output exists and `overwrite` is false, or is the input.
    OutputError
        If it cannot be written, or there is no file to follow.
    FormatError
        If the files that the exposure was read from were deleted or changed since, or the exposure is a cut-out.
    """
    if CUT_FROM in exposure.extra:
        box, (ny, nx) = exposure.extra[CUT_FROM], exposure.shape
        raise FormatError(
            f"the exposure is a cut-out of {nx} x {ny} pixels from {box.x_max - box.x_min:g} x "
            f"{box.y_max - box.y_min:g}, and files are written in the layout of a whole image",
            path=path,
            fix="Write it with exposure.to_ccddata().write(path), or inject into the whole image",
        )
    like = exposure.path if like is None else like
    if like is None:
        raise OutputError(
            "the exposure was not read from a file, so there is no file to follow", path=path, fix="Give like="
        )
    stamps = exposure.extra.get(FILES, {})
    refuse_overwrite(path, [os.fspath(like), *stamps], overwrite=overwrite)
    if exposure.path is not None and Path(like) == Path(exposure.path):
        check_unchanged(stamps)
    name = format if format is not None else exposure.format
    fmt = recognise_format(like) if name in (None, "auto") else get_format(str(name))
    folder = Path(path).parent
    if not folder.is_dir():
        raise OutputError(f"there is no directory {os.fspath(folder)!r}", path=path, fix="Make it first")
    return fmt.write(exposure, path, like=like, overwrite=overwrite)
