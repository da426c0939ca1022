"""Gain of an image: as given, checked against the variance plane, or estimated from it."""

from __future__ import annotations

import functools
import math
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skygraft.errors import CalibrationError

__all__ = ["Gain", "check_gain", "count_bright", "estimate_gain"]

_FIT_PIXELS = 400_000
_CHECK_PIXELS = 100_000
_MIN_FIT_PIXELS = 100
_MIN_BRIGHT_PIXELS = 50
_MAX_SPREAD = 0.3
"""Largest scatter of the slope between bright pixels, relative to it: 0.02 to 0.07 in real images that have one."""
_LEAST_EXPLAINED = 0.5
"""Least part of the variance plane's variance that a line through sky pixels must explain."""
_LARGEST_RATIO = 1.3
"""Largest ratio of a recorded gain to the variance plane's: at most 1.12 in real images where both are right."""
_FAR_ABOVE = (10.0, 5.0)
"""How far above the sky bright pixels are, in units of its noise: the first at which there are enough."""
_HOW_TO_SET = (
    "Give gain= (electrons per image unit), or noise=False; in a campaign, survey: calibration: {gain: ...}, or "
    "injection: {noise: false}"
)


@dataclass(frozen=True, eq=False)
class Gain:
    """A gain, electrons per image unit, and its origin.

    Parameters
    ----------
    value : float or ndarray of shape (ny, nx)
        Positive and finite.
    origin : str
        Where the value was found, for messages and records.

    Raises
    ------
    CalibrationError
        If a gain is not positive and finite.
    """

    value: float | NDArray[np.floating[Any]]
    origin: str

    def __post_init__(self) -> None:
        low, high = self._extremes
        # Infinite and NaN values show in them.
        if not (low > 0 and high < np.inf):
            raise CalibrationError(
                f"the gain ({self.origin}) is not positive and finite everywhere: {low} to {high}",
                key="gain",
                fix=_HOW_TO_SET,
            )

    @functools.cached_property
    def _extremes(self) -> tuple[Any, Any]:
        return np.min(self.value), np.max(self.value)

    @functools.cached_property
    def median(self) -> float:
        """The median over the image, electrons per image unit."""
        values, (low, high) = np.asarray(self.value), self._extremes
        if low == high:
            return float(low)
        n_low = int(np.count_nonzero(values == low))
        # Maps of two amplifiers have two values.
        if n_low + int(np.count_nonzero(values == high)) != values.size or 2 * n_low == values.size:
            return float(np.median(values))
        return float(low if 2 * n_low > values.size else high)


def estimate_gain(
    image: NDArray[np.float32],
    variance: NDArray[np.float32] | None,
    usable: NDArray[np.bool_],
    *,
    path: str | os.PathLike[str] | None = None,
    recorded: str = "",
) -> Gain:
    """Estimate the gain from the slope of variance against image.

    In a calibrated image the variance plane is (sky + source) / gain + read noise^2, so its slope against the image is
    one over the gain. It is taken from the pixels that stand far above the sky: the median of (variance - sky's) /
    (image - sky's), weighted by the latter. A line through all pixels would be flattened by the sky's own noise, which
    the variance plane need not know of (LSST's straight-line fit is 5 to 20 per cent off on its reference images for
    this reason). Where nothing stands out, a line is fitted, and believed only if it explains the variance.

    Parameters
    ----------
    image, variance : ndarray, shape (ny, nx)
        Planes; image units, and the same squared.
    usable : ndarray of bool, shape (ny, nx)
        Pixels to fit: not saturated, not bad.
    path : path-like, optional
        Named in errors.
    recorded : str
        Why the image's own record of its gain is not used, for error messages.

    Returns
    -------
    Gain

    Raises
    ------
    CalibrationError
        If there is no variance plane, too few pixels, or the slope is not a physical one (not positive, or no line
        at all): it is never replaced by 1.
    """
    unknown = f"the gain is not known ({recorded})" if recorded else "the gain is not recorded"
    if variance is None:
        raise CalibrationError(
            f"{unknown} and cannot be estimated: there is no variance plane", key="gain", path=path, fix=_HOW_TO_SET
        )
    flux, var = _good_pixels(image, variance, usable)
    if flux.size < _MIN_FIT_PIXELS:
        raise CalibrationError(
            f"{unknown} and cannot be estimated: only {flux.size} good pixels", key="gain", path=path, fix=_HOW_TO_SET
        )
    slope, error, _ = _slope(flux, var)
    if not slope > 0:
        raise CalibrationError(
            f"{unknown}, and the variance does not rise with the image as photon noise does ({flux.size} good pixels)",
            key="gain",
            path=path,
            fix=_HOW_TO_SET,
        )
    return Gain(1.0 / slope, f"slope of variance against image ({1 / slope:.4g} +- {error / slope**2:.2g})")


def check_gain(
    gain: Gain,
    image: NDArray[np.float32],
    variance: NDArray[np.float32] | None,
    usable: NDArray[np.bool_],
    *,
    path: str | os.PathLike[str] | None = None,
) -> bool:
    """Compare a recorded gain with the variance plane, where that holds the photon noise of bright pixels.

    Parameters
    ----------
    gain : Gain
        The recorded one.
    image, variance, usable, path
        See `estimate_gain`.

    Returns
    -------
    bool
        Whether the variance plane says anything of it.

    Raises
    ------
    CalibrationError
        If the two differ by more than a factor of 1.3: one of them is of other units, and neither is taken.
    """
    if variance is None:
        return False
    step = max(1, math.isqrt(image.size // _CHECK_PIXELS))
    some = slice(None, None, step), slice(None, None, step)
    flux, var = _good_pixels(image[some], variance[some], usable[some])
    slope, _, bright = _slope(flux, var) if flux.size >= _MIN_FIT_PIXELS else (math.nan, math.nan, False)
    # A line through sky pixels is flattened by their noise: it says something where nothing else does, but not this.
    if not (bright and slope > 0):
        return False
    ratio = gain.median * slope
    if max(ratio, 1 / ratio) > _LARGEST_RATIO:
        raise CalibrationError(
            f"two gains disagree: {gain.median:.4g} electrons per image unit ({gain.origin}), and {1 / slope:.4g} by "
            "the slope of variance against image",
            key="gain",
            path=path,
            fix=_HOW_TO_SET,
        )
    return True


def count_bright(image: NDArray[np.float32], variance: NDArray[np.float32], usable: NDArray[np.bool_]) -> int:
    """Count the pixels that stand so far above the sky that they say what the gain is.

    Parameters
    ----------
    image, variance, usable
        See `estimate_gain`; any number of pixels.
    """
    flux, _ = _good_pixels(image, variance, usable)
    if flux.size < _MIN_FIT_PIXELS:
        return 0
    sky, sigma = _sky_level(flux)
    return int(np.count_nonzero(flux > sky + _FAR_ABOVE[0] * sigma))


def _sky_level(flux: NDArray[np.float32]) -> tuple[float, float]:
    """Median and scatter of the image."""
    sky = float(np.median(flux))
    return sky, 1.4826 * float(np.median(np.abs(flux - sky)))


def _good_pixels(
    image: NDArray[np.float32], variance: NDArray[np.float32], usable: NDArray[np.bool_]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    good = usable & np.isfinite(image) & np.isfinite(variance) & (variance > 0)
    return image[good], variance[good]


def _slope(flux: NDArray[np.float32], var: NDArray[np.float32]) -> tuple[float, float, bool]:
    """Slope of variance against image, its error, and whether bright pixels gave it; NaN where there is no line."""
    step = max(1, flux.size // _FIT_PIXELS)
    (sky_flux, sigma), sky_var = _sky_level(flux[::step]), float(np.median(var[::step]))
    for threshold in _FAR_ABOVE:
        bright = flux > sky_flux + threshold * sigma
        if np.count_nonzero(bright) >= _MIN_BRIGHT_PIXELS:
            above = flux[bright].astype(np.float64) - sky_flux
            ratio = (var[bright].astype(np.float64) - sky_var) / above
            slope = _weighted_median(ratio, above)
            spread = 1.4826 * _weighted_median(np.abs(ratio - slope), above)
            if spread > _MAX_SPREAD * abs(slope):
                return math.nan, math.nan, True
            return slope, spread / math.sqrt(ratio.size), True
    x, y = flux[::step].astype(np.float64), var[::step].astype(np.float64)
    slope, error, explained = _robust_slope(x, y)
    return (slope, error, False) if explained > _LEAST_EXPLAINED else (math.nan, math.nan, False)


def _weighted_median(values: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    order = np.argsort(values)
    cumulated = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(cumulated, 0.5 * cumulated[-1])])


def _robust_slope(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[float, float, float]:
    """Slope of y against x, its standard error, and the part of y's variance that the line explains."""
    weights = np.ones_like(x)
    slope = error = explained = math.nan
    for _ in range(30):
        total = weights.sum()
        mean_x, mean_y = (weights * x).sum() / total, (weights * y).sum() / total
        spread = (weights * (x - mean_x) ** 2).sum()
        if not spread > 0:
            break
        new = float((weights * (x - mean_x) * (y - mean_y)).sum() / spread)
        residual = y - mean_y - new * (x - mean_x)
        left = (weights * residual**2).sum()
        explained = float(new**2 * spread / max(new**2 * spread + left, np.finfo(float).tiny))
        sigma = max(1.4826 * float(np.median(np.abs(residual))), 1e-9 * abs(mean_y))
        error = sigma / math.sqrt(spread)
        converged = abs(new - slope) < 1e-6 * abs(new)
        slope = new
        if converged:
            break
        u = np.clip(np.abs(residual) / (4.685 * sigma), 0.0, 1.0)
        weights = (1.0 - u**2) ** 2
    return slope, error, explained
