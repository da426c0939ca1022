"""The gain as the package estimates it: a straight line through variance against flux, one for each amplifier."""

from __future__ import annotations

import warnings

import numpy as np

from skygraft.errors import CalibrationError
from skygraft.exposure import AMPLIFIERS, Exposure
from skygraft.noise import Gain

__all__ = ["BAD_PLANES", "fitted_gains"]

BAD_PLANES = ("BAD", "CR", "CROSSTALK", "INTRP", "NO_DATA", "SAT", "SUSPECT", "UNMASKEDNAN")
"""Mask planes whose pixels are left out of the fit, where the image has them."""
_LEAST_PIXELS = 2


def fitted_gains(exposure: Exposure) -> Gain:
    """Fit the gain over an image, in electrons per image unit, as the package does.

    A line is fitted by least squares to the variance of all good pixels against their flux, in each amplifier, or over
    the image where no amplifiers are recorded. Where a slope is not positive the median of the others is taken, or
    that of the whole image, or, if that fails too, 1.

    Parameters
    ----------
    exposure : Exposure
        With a variance plane.

    Returns
    -------
    Gain
        A number, or, where amplifiers differ, a map in single precision.

    Raises
    ------
    CalibrationError
        If there is no variance plane.
    """
    if exposure.variance is None:
        raise CalibrationError(
            "source_injection fits the gain to the variance plane, and there is none",
            path=exposure.path,
            key="gain",
            fix="Give noise=False (in a campaign, injection: {noise: false}), or use skygraft's own conventions",
        )
    boxes = _boxes(exposure)
    slopes = np.array([_slope(exposure, box) for box in boxes])
    usable = slopes > 0
    origin = f"source_injection's line through variance against flux, of {len(boxes)} amplifiers"
    if len(boxes) == 1:
        origin = "source_injection's line through variance against flux"
    if not usable.all():
        fallback = 1.0
        if usable.any():
            fallback = 1.0 / float(np.median(1.0 / slopes[usable]))
        elif len(boxes) > 1:
            whole = _slope(exposure, np.s_[:, :])
            fallback = whole if whole > 0 else 1.0
        slopes[~usable] = fallback
        origin += f", {np.count_nonzero(~usable)} of them not positive: {1.0 / fallback:.4g} is taken there"
    if len(boxes) == 1:
        return Gain(float(1.0 / slopes[0]), origin)
    gains = np.ones(exposure.shape, dtype=np.float64)
    for box, slope in zip(boxes, slopes, strict=True):
        gains[box] = 1.0 / slope
    return Gain(gains, origin)


def _boxes(exposure: Exposure) -> list[tuple[slice, slice]]:
    """List the parts of the image read by each amplifier, as array slices; the whole image where none are recorded."""
    (x0, y0), (ny, nx) = exposure.xy0, exposure.shape
    boxes = []
    for left, bottom, width, height in exposure.extra.get(AMPLIFIERS, ()):
        columns = slice(max(left - x0, 0), min(left - x0 + width, nx))
        rows = slice(max(bottom - y0, 0), min(bottom - y0 + height, ny))
        if rows.start < rows.stop and columns.start < columns.stop:
            boxes.append((rows, columns))
    return boxes or [np.s_[:, :]]


def _slope(exposure: Exposure, box: tuple[slice, slice]) -> float:
    """Fit the slope of variance against flux in a box; NaN where no line can be fitted."""
    assert exposure.variance is not None
    flux, variance = exposure.image[box], exposure.variance[box]
    bits = sum(bit for name, bit in exposure.mask_planes.items() if name in BAD_PLANES)
    good = np.isfinite(flux) & np.isfinite(variance) & ((exposure.mask[box] & np.int32(bits)) == 0)
    if np.count_nonzero(good) < _LEAST_PIXELS:
        return np.nan
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore", np.exceptions.RankWarning)
        try:
            # In single precision, as the package fits: its last digits differ otherwise.
            slope = float(np.polyfit(flux[good], variance[good], deg=1)[0])
        except np.linalg.LinAlgError:  # pixels that are all zero
            return np.nan
    return slope if np.isfinite(slope) else np.nan
