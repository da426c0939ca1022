"""What `skygraft inspect` has to say of an exposure."""

from __future__ import annotations

from typing import Any

import numpy as np

from skygraft.errors import CalibrationError, PsfError
from skygraft.exposure import Exposure
from skygraft.noise import estimate_gain
from skygraft.photometry import enclosed_flux
from skygraft.psf import defined_position, kernel_fwhm
from skygraft.wcs import pixel_scale

__all__ = ["describe_exposure", "describe_rows"]

HOW_TO_SET = (
    "say what the flux is the flux of: --aperture '12 pix', '2 arcsec' (radius), psf_model or total; "
    "in a campaign, survey: calibration: aperture"
)


def describe_exposure(exposure: Exposure) -> dict[str, Any]:
    """Everything that matters for injection, as JSON types; evaluated at the middle of the image."""
    x, y = (np.array([middle]) for middle in exposure.box.center)
    ra, dec = exposure.wcs.pixel_to_world_values(x, y)
    scale = float(pixel_scale(exposure.wcs, x, y)[0])
    content: dict[str, Any] = {
        "image_id": str(exposure.data_id),
        "data_id": exposure.data_id.as_dict(),
        "format": exposure.format,
        "mjd": exposure.visit_info.mjd,
        "exposure_time": exposure.visit_info.exposure_time,
        "shape": list(exposure.shape),
        "xy0": list(exposure.xy0),
        "units": str(exposure.planes["image"].attrs.get("units", "")),
        "has_variance": exposure.variance is not None,
        "wcs": {
            "kind": type(exposure.wcs).__name__,
            "pixel_scale": scale,
            "center": [float(np.ravel(ra)[0]), float(np.ravel(dec)[0])],
        },
        "mask_planes": exposure.mask_planes,
    }
    content["photo_calib"] = _describe_calibration(exposure, x, y)
    content["psf"] = _describe_psf(exposure, x, y, scale)
    content["gain"] = _describe_gain(exposure)
    return content


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
    fwhm, total = float(kernel_fwhm(kernels)[0]), float(kernels[0].sum())
    aperture = exposure.photo_calib.aperture if exposure.photo_calib is not None else None
    fraction = None
    if aperture is not None:
        fraction = float(enclosed_flux(kernels, aperture.radius_pixels)[0]) / total
    return {
        "kind": psf.description,
        "shape": list(psf.shape),
        "fwhm_pixels": fwhm,
        "fwhm_arcsec": fwhm * scale,
        "kernel_sum": total,
        "fraction_in_aperture": fraction,
        "psf_sum_offset_mag": None if fraction is None or fraction <= 0 else -2.5 * float(np.log10(fraction)),
    }


def _describe_gain(exposure: Exposure) -> dict[str, Any]:
    if exposure.gain is not None:
        return {"electrons_per_unit": float(np.median(exposure.gain)), "origin": exposure.gain_origin}
    # Sources are wanted here, for the slope; everything that spoils pixels is not.
    spoilt = sum(v for n, v in exposure.mask_planes.items() if not n.startswith(("DETECTED", "INJECTED")))
    try:
        gain = estimate_gain(exposure.image, exposure.variance, (exposure.mask & spoilt) == 0)
    except CalibrationError as error:
        return {"electrons_per_unit": None, "origin": str(error)}
    return {"electrons_per_unit": gain.median, "origin": gain.origin}


def describe_rows(content: dict[str, Any]) -> list[tuple[str, str]]:
    """The description for people: label and text."""
    (ny, nx), (x0, y0), wcs = content["shape"], content["xy0"], content["wcs"]
    rows = [
        ("image", f"{content['image_id']}  ({_pairs(content['data_id'])})"),
        ("format", str(content["format"])),
        ("size", f"{nx} x {ny} pixels" + (f" from ({x0}, {y0})" if (x0, y0) != (0, 0) else "")),
        ("exposed", _exposed(content)),
        ("WCS", f"{wcs['kind']}, {wcs['pixel_scale']:.4f} arcsec/pix, centre {wcs['center'][0]:.5f} "
                f"{wcs['center'][1]:+.5f}"),
    ]  # fmt: skip
    calib, psf, gain = content["photo_calib"], content["psf"], content["gain"]
    if calib is None:
        rows.append(("zeropoint", "none: the image is not calibrated; give --zeropoint"))
    else:
        low, high = calib["zeropoint_range"]
        varies = "" if calib["constant"] else f" at the centre ({low:.3f} to {high:.3f} over the corners)"
        rows.append(("zeropoint", f"{calib['zeropoint']:.4f} AB mag for 1 {content['units'] or 'unit'}{varies}"))
        rows.append(("calibrated to", calib["reference_text"] or f"unknown: nothing says; {HOW_TO_SET}"))
        rows += [("  candidate", text) for text in calib["candidates_text"]]
    if psf is None:
        rows.append(("PSF", "none; give --psf"))
    else:
        rows.append(("PSF", psf["kind"]))
        rows.append(("  FWHM", f"{psf['fwhm_pixels']:.2f} pix = {psf['fwhm_arcsec']:.2f} arcsec"))
        if psf["fraction_in_aperture"] is not None:
            rows.append(
                ("  in aperture", f"{psf['fraction_in_aperture']:.4f} of the kernel: a kernel scaled to unit sum would "
                 f"be {psf['psf_sum_offset_mag']:+.4f} mag off")
            )  # fmt: skip
    value = gain["electrons_per_unit"]
    rows.append(("gain", f"{value:.4g}, {gain['origin']}" if value is not None else f"unknown: {gain['origin']}"))
    if not content["has_variance"]:
        rows.append(("variance", "none"))
    rows.append(("mask planes", ", ".join(content["mask_planes"]) or "none"))
    return rows


def _pairs(parts: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in parts.items())


def _exposed(content: dict[str, Any]) -> str:
    mjd, seconds = content["mjd"], content["exposure_time"]
    parts = [f"{seconds:g} s" if seconds is not None else "", f"MJD {mjd:.5f} TAI (middle)" if mjd is not None else ""]
    return ", ".join(part for part in parts if part) or "not recorded"
