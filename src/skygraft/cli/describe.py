"""Describe an exposure for `skygraft inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from skygraft.cli.common import in_options
from skygraft.cli.gain_sample import sample_pixels
from skygraft.errors import CalibrationError, PsfError, SkygraftError
from skygraft.exposure import COADD_NOISE, DIFFERENCE, NO_GAIN, NO_PHOTO_CALIB, NO_PSF, Exposure
from skygraft.formats.base import CAUTION
from skygraft.lazy import left_out
from skygraft.noise import Gain, check_gain, estimate_gain
from skygraft.photometry import CalibrationAperture, kernel_scale
from skygraft.place_names import STUBS_KIND, as_kind, is_copy
from skygraft.psf import PSF, CellPSF, CoaddPSF, defined_position, kernel_fwhm
from skygraft.wcs import pixel_scale

__all__ = ["describe_exposure", "describe_rows"]

_PARAMETERS = ("aperture", "format", "psf", "zeropoint", "hdu", "ccds", "option", "allow_pickle")
"""Parameters of `skygraft inspect`, which its messages may recommend."""
_LISTED_INPUTS = 8
"""Largest number of a coadd's inputs that are listed; JSON has all of them."""
HOW_TO_SET = (
    "say what the flux is the flux of: --aperture '12 pix', '2 arcsec' (radius), psf_model or total; "
    "in a campaign, survey: calibration: aperture"
)


def describe_exposure(exposure: Exposure) -> dict[str, Any]:
    """Return everything that matters for injection, evaluated at the middle of the image, as JSON types."""
    exposure.plain.name_bits()
    x, y = (np.array([middle]) for middle in exposure.box.center)
    ra, dec = exposure.wcs.pixel_to_world_values(x, y)
    scale = float(pixel_scale(exposure.wcs, x, y)[0])
    content: dict[str, Any] = {
        "image_id": exposure.default_image_id(),
        "data_id": exposure.data_id.as_dict(),
        "format": exposure.format,
        "mjd": exposure.visit_info.mjd,
        "exposure_time": exposure.visit_info.exposure_time,
        "shape": list(exposure.shape),
        "xy0": list(exposure.xy0),
        "units": exposure.plain.units,
        "has_variance": "variance" in exposure.plain,
        "wcs": {
            "kind": type(exposure.wcs).__name__,
            "pixel_scale": scale,
            "center": [float(np.ravel(ra)[0]), float(np.ravel(dec)[0])],
        },
        "mask_planes": exposure.mask_planes,
        "caution": exposure.extra.get(CAUTION),
        "fetched_whole": _fetched_whole(exposure.path),
    }
    content["photo_calib"] = _describe_calibration(exposure, x, y)
    content["psf"] = _describe_psf(exposure, x, y, scale)
    content["gain"] = _describe_gain(exposure)
    content["coadd_noise"] = content["difference"] = None
    # Imported where needed: what draws sources takes most of a second to import.
    if COADD_NOISE in exposure.extra:
        from skygraft.injection.coadd_noise import image_noise

        content["coadd_noise"] = image_noise(exposure, "correlated").describe()
    if DIFFERENCE in exposure.extra:
        from skygraft.injection.differences import describe_difference

        content["difference"] = describe_difference(exposure)
    content["no_photo_calib"] = _reason(exposure, NO_PHOTO_CALIB)
    content["no_psf"] = _reason(exposure, NO_PSF)
    return content


def _fetched_whole(path: Path | None) -> int | None:
    """Return the size of a file in a store, of which all was fetched; None if parts of it were, or it is no such."""
    if path is None or not is_copy(path) or as_kind(path, STUBS_KIND) == path:
        return None
    return path.stat().st_size


def _reason(exposure: Exposure, key: str) -> str | None:
    """Return why a part is missing and what to do; None if it is not missing."""
    error = exposure.extra.get(key)
    if not isinstance(error, SkygraftError):
        return None
    return _words(error)


def _words(error: SkygraftError) -> str:
    """Return message and fix of an error, without the file, which the rest of the description names."""
    return error.message if error.fix is None else f"{error.message}. {error.fix}"


def _describe_calibration(exposure: Exposure, x: Any, y: Any) -> dict[str, Any] | None:
    calib = exposure.photo_calib
    if calib is None:
        return None
    corners = np.meshgrid(*([low, high] for low, high in _edges(exposure)))
    values = calib.zeropoint(corners[0].ravel(), corners[1].ravel())
    return {
        **calib.describe(),
        "zeropoint": float(np.ravel(calib.zeropoint(x, y))[0]),
        "zeropoint_range": [float(np.nanmin(values)), float(np.nanmax(values))],
        "constant": calib.is_constant,
        "reference_text": None if calib.reference is None else str(calib.reference),
        "candidates_text": [
            f"{candidate.value}, {candidate.level}: {candidate.origin}" for candidate in calib.candidates
        ],
    }


def _edges(exposure: Exposure) -> tuple[tuple[float, float], tuple[float, float]]:
    box = exposure.box
    return (box.x_min + 0.5, box.x_max - 0.5), (box.y_min + 0.5, box.y_max - 0.5)


def _describe_psf(exposure: Exposure, x: Any, y: Any, scale: float) -> dict[str, Any] | None:
    psf = exposure.psf
    if psf is None:
        return None
    if not psf.defined(x, y).all():
        at = defined_position(psf, exposure.box)
        if at is None:
            raise PsfError(f"the PSF ({psf.description}) has no kernel anywhere on the image", path=exposure.path)
        x, y = (np.array([v]) for v in at)
    kernels = psf.kernels(x, y)
    fwhm = float(kernel_fwhm(kernels)[0])
    reference = exposure.photo_calib.reference if exposure.photo_calib is not None else None
    content = {
        "kind": psf.description,
        "shape": list(psf.shape),
        "fwhm_pixels": _finite(fwhm),
        "fwhm_arcsec": _finite(fwhm * scale),
        "kernel_sum": float(kernels[0].sum()),
        "fraction_in_aperture": None,
        "psf_sum_offset_mag": None,
        **_describe_parts(psf, x, y),
    }
    if isinstance(reference, CalibrationAperture):
        with left_out("charset_normalizer"):  # scipy imports numpy's Fortran parser, and that this
            tied = kernel_scale("calibrated", reference, kernels, psf.flux_outside(x, y), invalid="nan")
        content["fraction_in_aperture"] = _finite(tied.aperture_fraction[0])
        content["psf_sum_offset_mag"] = _finite(tied.psf_sum_offset[0])
    return content


def _describe_parts(psf: PSF, x: Any, y: Any) -> dict[str, Any]:
    """Describe the inputs of a coadd's PSF: their number, and those at the position of the description."""
    content: dict[str, Any] = {"position": [float(x[0]), float(y[0])]}
    if isinstance(psf, CoaddPSF | CellPSF) and psf.n_inputs is not None:
        content |= {"n_inputs": psf.n_inputs, "inputs_here": list(psf.input_names_at(x, y)[0])}
    if isinstance(psf, CellPSF):
        n_cells, n_with_psf = psf.n_cells
        content |= {"n_cells": n_cells, "n_cells_with_psf": n_with_psf}
    return content


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _describe_gain(exposure: Exposure) -> dict[str, Any]:
    reason, some = str(exposure.extra.get(NO_GAIN, "")), ""
    try:
        recorded = None if exposure.gain is None else Gain(exposure.gain, exposure.gain_origin)
        if recorded is not None and recorded.origin.startswith("given"):
            return _gain_content(recorded, "", reason)
        sample = sample_pixels(exposure, for_fit=recorded is None)
        some = f" (from {sample.words})" if sample.words else ""
        if recorded is None:
            return _gain_content(estimate_gain(*sample.planes, recorded=reason), some, reason)
        agrees = check_gain(recorded, *sample.planes)
        return _gain_content(recorded, f", in accord with the variance{some}" if agrees and some else "", reason)
    except CalibrationError as error:
        return {"electrons_per_unit": None, "origin": f"{_words(error)}{some}"}


def _gain_content(gain: Gain, more: str, reason: str) -> dict[str, Any]:
    origin = f"{gain.origin}{more}"
    return {"electrons_per_unit": gain.median, "origin": f"{origin}; {reason}" if reason else origin}


def describe_rows(content: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the description as rows of label and text."""
    (ny, nx), (x0, y0), wcs = content["shape"], content["xy0"], content["wcs"]
    rows = [
        ("image", f"{content['image_id']}  ({_pairs(content['data_id'])})"),
        ("format", str(content["format"])),
        *([("caution", content["caution"])] if content.get("caution") else []),
        *([("fetched", _fetched_words(content["fetched_whole"]))] if content.get("fetched_whole") else []),
        ("size", f"{nx} x {ny} pixels" + (f" from ({x0}, {y0})" if (x0, y0) != (0, 0) else "")),
        ("exposed", _exposed(content)),
        ("WCS", f"{wcs['kind']}, {wcs['pixel_scale']:.4f} arcsec/pix, centre {wcs['center'][0]:.5f} "
                f"{wcs['center'][1]:+.5f}"),
    ]  # fmt: skip
    calib, psf, gain = content["photo_calib"], content["psf"], content["gain"]
    if calib is None:
        why = content.get("no_photo_calib") or "the image is not calibrated. Give zeropoint="
        rows.append(("zeropoint", f"none: {in_options(why, _PARAMETERS)}"))
    else:
        low, high = calib["zeropoint_range"]
        varies = "" if calib["constant"] else f" at the centre ({low:.3f} to {high:.3f} over the corners)"
        rows.append(("zeropoint", f"{calib['zeropoint']:.4f} AB mag for 1 {content['units'] or 'unit'}{varies}"))
        rows.append(("calibrated to", calib["reference_text"] or f"unknown: nothing says; {HOW_TO_SET}"))
        rows += [("  candidate", text) for text in calib["candidates_text"]]
    if psf is None:
        why = content.get("no_psf")
        rows.append(("PSF", f"none; give --psf: {in_options(why, _PARAMETERS)}" if why else "none; give --psf"))
    else:
        rows.append(("PSF", psf["kind"]))
        if psf["fwhm_pixels"] is None:
            rows.append(
                ("  FWHM", f"unknown: the kernels of {psf['shape'][1]} x {psf['shape'][0]} pixels are too small")
            )
        else:
            rows.append(("  FWHM", f"{psf['fwhm_pixels']:.2f} pix = {psf['fwhm_arcsec']:.2f} arcsec"))
        if "n_inputs" in psf:
            x, y = psf["position"]
            here = psf["inputs_here"]
            shown = ", ".join(here[:_LISTED_INPUTS]) + (", ..." if len(here) > _LISTED_INPUTS else "")
            rows.append(("  inputs", f"{len(here)} of {psf['n_inputs']} at ({x:.1f}, {y:.1f}): {shown}"))
        if psf["psf_sum_offset_mag"] is not None:
            rows.append(
                ("  in aperture", f"{psf['fraction_in_aperture']:.4f} of the model's light: stars scaled to unit sum "
                 f"would be {psf['psf_sum_offset_mag']:+.4f} mag off")
            )  # fmt: skip
    value = gain["electrons_per_unit"]
    unknown = f"unknown: {in_options(gain['origin'], _PARAMETERS)}"
    rows.append(("gain", f"{value:.4g}, {gain['origin']}" if value is not None else unknown))
    if not content["has_variance"]:
        rows.append(("variance", "none"))
    if content.get("coadd_noise"):
        from skygraft.injection.coadd_noise import noise_words

        rows.append(("coadd noise", noise_words(content["coadd_noise"])))
    if difference := content.get("difference"):
        from skygraft.injection.differences import difference_words

        rows.append(("difference", difference_words(difference)))
    rows.append(("mask planes", ", ".join(content["mask_planes"]) or "none"))
    return rows


def _fetched_words(n_bytes: int) -> str:
    why = "the server gives no ranges, or the file's format or compression no parts"
    return f"the whole file, {n_bytes:,} bytes: {why}"


def _pairs(parts: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in parts.items())


def _exposed(content: dict[str, Any]) -> str:
    mjd, seconds = content["mjd"], content["exposure_time"]
    parts = [f"{seconds:g} s" if seconds is not None else "", f"MJD {mjd:.5f} TAI (middle)" if mjd is not None else ""]
    return ", ".join(part for part in parts if part) or "not recorded"
