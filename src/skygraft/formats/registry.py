"""Read images in their format."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from skygraft.data_id import DataId
from skygraft.disk import FileIdentity
from skygraft.errors import (
    CalibrationError,
    ConfigError,
    CorruptFileError,
    PsfError,
    UncalibratedImageError,
)
from skygraft.exposure import NO_GAIN, NO_PHOTO_CALIB, NO_PSF, Exposure
from skygraft.fitsfile.open import fits_errors
from skygraft.formats.available import (
    format_names,
    format_reference,
    get_format,
    load_formats,
    register_format,
    resolve_format,
)
from skygraft.formats.base import (
    FILES,
    Chunks,
    Format,
    ImageCalibration,
    ImageFootprint,
    StrPath,
    identify_files,
)
from skygraft.formats.fits_gain import flux_unit_of
from skygraft.formats.given import (
    GivenPhotoCalib,
    GivenPsf,
    make_photo_calib,
    make_psf,
    psf_files,
    psf_option,
)
from skygraft.formats.psf_target import PsfTarget
from skygraft.formats.recognise import recognise_format
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
from skygraft.place_names import is_copy
from skygraft.places import bring, for_headers, is_place
from skygraft.psf import PSF, Box, check_psf_soundness
from skygraft.wcs import check_pixel_scale, check_wcs_soundness, pixel_scale

__all__ = [
    "format_names",
    "get_format",
    "killed_its_reader",
    "load_formats",
    "open_exposure",
    "read_calibration",
    "read_exposure",
    "read_footprint",
    "recognise_format",
    "register_format",
    "resolve_format",
]


def killed_its_reader(path: StrPath, reason: str) -> CorruptFileError:
    """Return the error for a file that made the process that read it crash.

    Parameters
    ----------
    path : path-like
        The file.
    reason : str
        How the process ended: a signal's name or an exit code.
    """
    return CorruptFileError(
        f"the process that read the file was ended by it ({reason})",
        path=path,
        fix="Copy or download the file again, or leave it out; if it is sound, please report it",
    )


def _format_for(path: StrPath, name: str) -> Format:
    return recognise_format(path) if name == "auto" else get_format(name)


def read_footprint(path: StrPath, *, format: str = "auto", **options: Any) -> ImageFootprint:
    """Return identity and sky position of an image, without reading its pixels.

    Parameters
    ----------
    path : path-like
        The image.
    format : str
        Its format; "auto" recognises it.
    **options
        Options of the format.

    Returns
    -------
    ImageFootprint

    Raises
    ------
    UnknownFormatError, CorruptFileError, MissingWcsError, FormatError, ConfigError
    """
    path = for_headers(path) if is_place(path) else path
    with fits_errors(path):
        fmt = _format_for(path, format)
        found = fmt.footprint(path, **options)
    check_pixel_scale(found.pixel_scale, path)
    reference = format_reference(fmt)
    return found if found.format == reference else dataclasses.replace(found, format=reference)


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
    """Read an image with its calibration: WCS, PSF, zeropoint, calibration aperture and gain.

    Parameters
    ----------
    path : path-like
        The image.
    format : str
        Its format (see `format_names`), or the class of one of your own ("my_module:MyFormat"); "auto" recognises it.
    aperture : str, mapping or ReferenceCandidate, optional
        What the calibrated flux is measured in, if the image does not record it: a radius (``"12 pix"``,
        ``"2 arcsec"``), ``{"diameter": "4 arcsec"}``, ``"psf_model"`` or ``"total"``; see
        `skygraft.photometry.parse_radius`.
    psf : PSF, path or mapping, optional
        Replaces the image's own PSF; see `skygraft.formats.given.make_psf`.
    photo_calib : PhotoCalib, float or mapping, optional
        Replaces the image's own calibration; see `skygraft.formats.given.make_photo_calib`.
    gain : float, optional
        Electrons per image unit; replaces the recorded gain.
    hdu : int or str, optional
        The HDU of the image, if the format has such an option.
    **options
        Options of the format, such as ``ccds=`` (survey-ccds tables) of the Legacy Surveys, or ``weight=`` and
        ``pixel_area=`` (for a surface brightness) of ordinary FITS; see each format's ``Options``.

    Returns
    -------
    Exposure
        With ``photo_calib.reference`` resolved, or None if it is not recorded anywhere: such an image can be read, but
        sources cannot be injected in calibrated flux. If the image has no calibration, ``photo_calib`` is None and
        ``extra["no_photo_calib"]`` is the error that says why; likewise ``extra["no_psf"]``. ``extra["no_gain"]`` is a
        text, present if the files contain a gain that does not give electrons per image unit.

    Raises
    ------
    UnknownFormatError
        If no format recognises the file, or several do.
    CorruptFileError
        If a file is missing, empty, truncated or damaged.
    MissingWcsError
        If the image has no celestial WCS.
    ApertureConflictError
        If two places disagree about what the calibrated flux is measured in.
    CalibrationError
        If two places disagree about the zeropoint, or a known survey's image is read as another format and would get
        a calibration that the survey has replaced.
    FormatError
        If the file contains weights, a mask or a table, and no science image.
    ConfigError
        If an option is not one of the format's.
    """
    path = bring(path) if is_place(path) else path
    fmt, asked, psf = _prepare(path, format, psf, hdu, options)
    stamps = identify_files([path])
    with fits_errors(path):
        exposure = fmt.read(path, **asked)
    return _with_given(exposure, path, stamps, aperture, psf, photo_calib, gain)


def open_exposure(
    path: StrPath,
    *,
    chunks: Chunks = None,
    format: str = "auto",
    aperture: str | Mapping[str, Any] | ReferenceCandidate | None = None,
    psf: GivenPsf | None = None,
    photo_calib: GivenPhotoCalib | None = None,
    gain: float | None = None,
    hdu: int | str | None = None,
    **options: Any,
) -> Exposure:
    """Open an image of which only parts are needed: pixels are read when they are asked for, all else at once.

    Parameters
    ----------
    path : path-like
        The image, or its URL.
    chunks : int, mapping or "auto", optional
        By default, planes are read without Dask: a part (``planes.isel``, `Exposure.cutout`) when its values are
        wanted, and a whole plane is kept once it was read. With chunks they are arrays of Dask, as those of
        `xarray.open_dataset`: ``{}`` for chunks of whole rows or tiles, about a million pixels each; sizes, such as
        512 or ``{"y": 512, "x": 512}``; ``"auto"`` for Dask's own.
    format, aperture, psf, photo_calib, gain, hdu, **options : optional
        As for `read_exposure`.

    Returns
    -------
    Exposure
        As that of `read_exposure`, pixel by pixel, except that bits of a mask that its header does not name have no
        name. Of images in the layout of ordinary FITS, of ``lsst_afw``, ``des``, ``megapipe`` and ``legacy_cutout``, a
        part of a plane is read from its own rows or compressed tiles, in a store by ranges of bytes. All others, files
        that are compressed as a whole, compressed integers with BSCALE or BZERO, and files on servers that do not give
        ranges, are read as a whole here.

    Raises
    ------
    ConfigError
        If `chunks` is something else.
    SkygraftError
        As `read_exposure`. Damaged pixels, and files that were changed or lost meanwhile, are noticed when they are
        read.

    Examples
    --------
    >>> import skygraft
    >>> coadd = skygraft.open_exposure("s3://survey/coadds/9813-40-r.fits")  # doctest: +SKIP
    >>> coadd.cutout((2000, 2000), size=100).image  # doctest: +SKIP
    """
    _check_chunks(chunks)
    path = for_headers(path) if is_place(path) else path
    fmt, asked, psf = _prepare(path, format, psf, hdu, options)
    stamps = identify_files([path])
    with fits_errors(path):
        exposure = fmt.open(path, chunks=chunks, **asked)
    return _with_given(exposure, exposure.path or path, stamps, aperture, psf, photo_calib, gain)


def _check_chunks(chunks: Any) -> None:
    sizes = [chunks] if isinstance(chunks, int) else [*chunks.values()] if isinstance(chunks, Mapping) else []
    sound = chunks is None or chunks == "auto" or isinstance(chunks, int | Mapping)
    whole = all(isinstance(size, int) and not isinstance(size, bool) and (size > 0 or size == -1) for size in sizes)
    if not sound or not whole or (isinstance(chunks, Mapping) and not {*chunks} <= {"y", "x"}):
        raise ConfigError(
            f"chunks is {chunks!r}", key="chunks", fix="Give None, {}, a size, {'y': 512, 'x': 512} or 'auto'"
        )


def _with_given(
    exposure: Exposure,
    path: StrPath,
    stamps: Mapping[str, FileIdentity],
    aperture: str | Mapping[str, Any] | ReferenceCandidate | None,
    psf: GivenPsf | None,
    photo_calib: GivenPhotoCalib | None,
    gain: float | None,
) -> Exposure:
    """Replace parts of an exposure by what the caller gave, and resolve its reference."""
    target = PsfTarget(0.0, Path(path), exposure.data_id, header=exposure.header)
    of_psf = identify_files(psf_files(psf, target))
    found = _complete(ImageCalibration.of(exposure), path, aperture, psf, photo_calib, gain, target)
    extra = {FILES: stamps, **exposure.extra}
    extra[FILES] = extra[FILES] | of_psf
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
    """Read the calibration of an image as `read_exposure` does, but not its pixels.

    Parameters
    ----------
    path, format, aperture, psf, photo_calib, gain, hdu, **options
        As for `read_exposure`.

    Returns
    -------
    ImageCalibration
        With ``photo_calib.reference`` resolved.

    Raises
    ------
    SkygraftError
        As `read_exposure`, except for errors of the pixels.
    """
    by_url = is_place(path) and not is_copy(path)
    path = for_headers(path) if by_url else path
    fmt, asked, psf = _prepare(path, format, psf, hdu, options)
    if by_url and type(fmt).calibration is Format.calibration:
        path = bring(path)  # this format reads the whole image
    identify_files([path])
    with fits_errors(path):
        found = fmt.calibration(path, **asked)
        data_id = DataId() if psf is None or isinstance(psf, PSF) else fmt.footprint(path, **asked).data_id
    return _complete(found, path, aperture, psf, photo_calib, gain, PsfTarget(0.0, Path(path), data_id))


def _prepare(
    path: StrPath, format: str, psf: GivenPsf | None, hdu: int | str | None, options: Mapping[str, Any]
) -> tuple[Format, dict[str, Any], GivenPsf | None]:
    """Return the format, its reading options, and the PSF if it is not one of these options."""
    psf = bring(psf) if isinstance(psf, str | os.PathLike) and is_place(psf) else psf
    with fits_errors(path):
        fmt = _format_for(path, format)
    asked = dict(options)
    if hdu is not None:
        asked["hdu"] = hdu
    takes_psf = "psf" in {field.name for field in dataclasses.fields(fmt.Options)}
    option, psf = psf_option(psf, takes_psf)
    return fmt, asked | option, psf


def _complete(
    found: ImageCalibration,
    path: StrPath,
    aperture: str | Mapping[str, Any] | ReferenceCandidate | None,
    psf: GivenPsf | None,
    photo_calib: GivenPhotoCalib | None,
    gain: float | None,
    target: PsfTarget,
) -> ImageCalibration:
    """Replace parts of a calibration by what the caller gave, and resolve its reference."""
    (ny, nx), (x0, y0) = found.shape, found.xy0
    box = Box(x0 - 0.5, x0 + nx - 0.5, y0 - 0.5, y0 + ny - 0.5)
    check_wcs_soundness(found.wcs, box, path)
    scale = float(np.ravel(pixel_scale(found.wcs, *box.center))[0])
    changes: dict[str, Any] = {}
    if psf is not None:
        target = dataclasses.replace(target, pixel_scale=scale, box=box)
        changes |= {"psf": make_psf(psf, scale, target), "no_psf": None}
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
    """Check PSF and photometric calibration; an unusable one is replaced by the error that says why."""
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
    """Reason why the recorded gain does not apply to the unit of a given calibration; "" if it applies."""
    what = f"the gain ({found.gain_origin}) is of an image in {found.unit}"
    if parse_unit(calib.unit).kind not in ("counts", "electrons"):
        return f"{what}, and the calibration given is of one in {calib.unit}"
    named = isinstance(given, Mapping) and "unit" in given
    flux_unit = None if named or not calib.is_constant else flux_unit_of(float(calib.zeropoint()))
    return "" if flux_unit is None else f"{what}, and the zeropoint given is that of one in {flux_unit}"


def _calibration(found: ImageCalibration, given: GivenPhotoCalib | None) -> PhotoCalib | None:
    """Return the calibration to use, with all candidates for its reference, which is not chosen yet."""
    if given is not None:
        calib = make_photo_calib(given, summed_unit(found.unit))
        # The reference recorded in the image applies to a zeropoint given by hand, not to a complete calibration.
        if isinstance(given, PhotoCalib) and (given.reference is not None or given.candidates):
            return calib
        return PhotoCalib(calib.njy_per_unit, calib.unit, calib.field, candidates=found.candidates)
    missing = found.no_photo_calib
    if isinstance(missing, CalibrationError) and not isinstance(missing, UncalibratedImageError):
        raise missing
    return found.photo_calib
