"""The radius at which aperture fluxes of stars are what they should be, with its error, and a verdict."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["FITS", "NO_VERDICT", "RESOLUTION", "WRONG", "ApertureVerdict", "RadiusFit", "fit_radius"]

type Floats = NDArray[np.float64]
type ApertureVerdict = Literal["fits", "does not fit", "cannot tell"]

FITS: ApertureVerdict = "fits"
WRONG: ApertureVerdict = "does not fit"
NO_VERDICT: ApertureVerdict = "cannot tell"

RESOLUTION = 0.015
"""Magnitudes. An offset must be known better than that, at the level of the test, for a radius to count as fitting."""
LEAST_STARS = 5
_CLIP = 3.5
_FALSE_ALARM = 6.3e-5
"""Probability, two-sided: four sigma of a Gaussian."""


@dataclass(frozen=True)
class RadiusFit:
    """A comparison of aperture fluxes of stars with what they should be.

    Parameters
    ----------
    n : int
        Stars used.
    offset, offset_error : float
        Magnitude of the stars' flux inside the stated radius minus what it should be, and its statistical error;
        positive where the aperture holds too little.
    tolerance : float
        Offset, mag, that may have other reasons.
    threshold : float
        Offset, mag, from which on the verdict is that it does not fit: tolerance and four standard errors (more for few
        stars).
    scatter : float
        Of the stars, mag, beyond their own errors.
    radius, radius_error : float
        Radius, pixels, at which the offset would be zero, and its statistical error; NaN where there is none.
    radius_low, radius_high : float
        The radii at which the offset would be within the threshold, pixels; NaN beyond the radii measured.
    radii, curve, curve_error : ndarray, shape (K,)
        The offset and its error against the radius (pixels).
    verdict : {"fits", "does not fit", "cannot tell"}
    reason : str
    """

    n: int
    offset: float
    offset_error: float
    tolerance: float
    threshold: float
    scatter: float
    radius: float
    radius_error: float
    radius_low: float
    radius_high: float
    radii: Floats
    curve: Floats
    curve_error: Floats
    verdict: ApertureVerdict
    reason: str


def fit_radius(
    radii: Floats,
    offsets: Floats,
    errors: Floats,
    stated: Floats,
    stated_errors: Floats,
    *,
    tolerance: float,
    least: int = LEAST_STARS,
) -> RadiusFit:
    """Find the radius at which the stars' mean offset is zero, and judge the stated flux.

    Parameters
    ----------
    radii : ndarray, shape (K,)
        Pixels, increasing.
    offsets, errors : ndarray, shape (N, K)
        Magnitude of each star inside each radius minus what it should be, with errors; NaN where not measured.
    stated, stated_errors : ndarray, shape (N,)
        The same, of the flux that the zeropoint is stated to be of.
    tolerance : float
        Offset, mag, that is put down to other causes.
    least : int
        Number of stars without which nothing is said.

    Returns
    -------
    RadiusFit

    Notes
    -----
    Offsets are means with weights 1 / (error**2 + scatter**2), with the scatter for which the residuals at the stated
    flux have unit variance (DerSimonian & Laird 1986), of stars within 3.5 robust sigma. The same stars and weights
    serve all radii, so that the curve is smooth; for the fitted radius, they are those of that radius. An error is the
    larger one of what errors say and what residuals show.
    """
    radii = np.asarray(radii, dtype=np.float64)
    good = np.isfinite(stated) & np.isfinite(stated_errors) & (stated_errors > 0)
    good &= np.isfinite(offsets).mean(axis=1) > 0.5 if len(good) else good
    nothing = np.full(len(radii), np.nan)
    if good.sum() < least:
        return RadiusFit(
            int(good.sum()), math.nan, math.nan, tolerance, math.nan, math.nan, math.nan, math.nan, math.nan, math.nan,
            radii, nothing, nothing, NO_VERDICT, f"too few stars: {int(good.sum())}, and {least} are needed",
        )  # fmt: skip
    d, e, d0, e0 = offsets[good], errors[good], stated[good], stated_errors[good]
    kept, scatter = _clean(d0, e0)
    d, e, d0, e0 = d[kept], e[kept], d0[kept], e0[kept]
    weight = 1.0 / (e0**2 + scatter**2)
    offset, offset_error = _mean(d0, e0, weight)
    curve, curve_error = np.array([_mean(d[:, k], e[:, k], weight) for k in range(len(radii))]).T
    n = int(kept.sum())
    threshold = tolerance + _sigmas(n) * offset_error
    radius, radius_error = _crossing(radii, *_again(radii, curve, offsets[good], errors[good]))
    low, high = _reach(radii, curve, threshold)
    verdict, reason = _judge(offset, offset_error, threshold, threshold - tolerance)
    return RadiusFit(
        n, offset, offset_error, tolerance, threshold, scatter, radius, radius_error, low, high, radii, curve,
        curve_error, verdict, reason,
    )  # fmt: skip


def _again(radii: Floats, curve: Floats, d: Floats, e: Floats) -> tuple[Floats, Floats]:
    """The curve and its error with the weights of the radius at which it is zero, where the stars scatter least."""
    found = _dense(radii, curve)
    zero = math.nan if found is None else _first_zero(*found)
    k = int(np.nanargmin(np.abs(curve) if math.isnan(zero) else np.abs(np.log(radii) - zero)))
    there = np.isfinite(d[:, k]) & np.isfinite(e[:, k]) & (e[:, k] > 0)
    d, e = d[there], e[there]
    if len(d) < 3:
        return curve, np.full(len(radii), np.nan)
    kept, scatter = _clean(d[:, k], e[:, k])
    d, e = d[kept], e[kept]
    weight = 1.0 / (e[:, k] ** 2 + scatter**2)
    again = np.array([_mean(d[:, i], e[:, i], weight) for i in range(len(radii))])
    return again[:, 0], again[:, 1]


def _judge(offset: float, error: float, threshold: float, margin: float) -> tuple[ApertureVerdict, str]:
    if abs(offset) > threshold:
        what = "too little" if offset > 0 else "too much"
        return WRONG, f"the flux inside is {abs(offset):.3f} mag {what} (± {error:.4f}; {threshold:.3f} is allowed)"
    if margin > RESOLUTION:
        return NO_VERDICT, f"the stars scatter too much: the offset is {offset:+.3f} ± {error:.3f} mag"
    return FITS, f"the flux inside is right to {offset:+.4f} ± {error:.4f} mag"


def _sigmas(n: int) -> float:
    """Number of standard errors that are significant: four, and more where the error is itself from few stars."""
    from scipy.special import stdtrit

    return float(max(4.0, -stdtrit(n - 1, _FALSE_ALARM / 2)))


def _clean(values: Floats, errors: Floats) -> tuple[NDArray[np.bool_], float]:
    """Stars within 3.5 robust sigma of the median, and their scatter beyond the errors."""
    kept = np.ones(len(values), dtype=bool)
    for _ in range(10):
        middle = np.median(values[kept])
        spread = 1.4826 * float(np.median(np.abs(values[kept] - middle)))
        pull = (values - middle) / np.hypot(errors, math.sqrt(max(spread**2 - float(np.median(errors)) ** 2, 0.0)))
        now = np.abs(pull) <= _CLIP * max(1.0, 1.4826 * float(np.median(np.abs(pull[kept]))))
        if now.sum() < max(3, 0.5 * len(values)) or np.array_equal(now, kept):
            break
        kept = now
    return kept, _scatter(values[kept], errors[kept])


def _scatter(values: Floats, errors: Floats) -> float:
    """Scatter beyond the errors, by moments (DerSimonian & Laird 1986), from robust weights."""
    n = len(values)
    if n < 3:
        return 0.0
    start = 1.4826 * float(np.median(np.abs(values - np.median(values))))
    w = 1.0 / (errors**2 + max(start**2 - float(np.median(errors)) ** 2, 0.0))
    mean = float((w * values).sum() / w.sum())
    within = w.sum() - (w**2).sum() / w.sum()
    excess = float((w * (values - mean) ** 2).sum() - ((w * errors**2).sum() - (w**2 * errors**2).sum() / w.sum()))
    return math.sqrt(max(excess / within, 0.0)) if within > 0 else 0.0


def _mean(values: Floats, errors: Floats, weight: Floats) -> tuple[float, float]:
    there = np.isfinite(values) & np.isfinite(errors)
    n = int(there.sum())
    # Of fewer stars it would not be the same mean: circles that leave the image.
    if n < 3 or weight[there].sum() < 0.8 * weight.sum():
        return math.nan, math.nan
    w = weight[there] / weight[there].sum()
    mean = float((w * values[there]).sum())
    expected = float((w**2 * errors[there] ** 2).sum())
    # Of residuals as they would be if a star were not part of the mean (HC3; MacKinnon & White 1985).
    found = float((w**2 * ((values[there] - mean) / (1 - w)) ** 2).sum()) if n > 1 else 0.0
    return mean, math.sqrt(max(expected, found))


def _dense(radii: Floats, curve: Floats) -> tuple[Floats, Floats] | None:
    from scipy.interpolate import PchipInterpolator

    there = np.isfinite(curve)
    if there.sum() < 4:
        return None
    log = np.log(radii[there])
    fine = np.linspace(log[0], log[-1], 1200)
    return fine, np.asarray(PchipInterpolator(log, curve[there])(fine))


def _first_zero(log: Floats, values: Floats) -> float:
    """First place at which values go from positive to at most zero; NaN without one."""
    below = np.flatnonzero((values[:-1] > 0) & (values[1:] <= 0))
    if not below.size:
        return math.nan
    k = below[0]
    return float(log[k] + (log[k + 1] - log[k]) * values[k] / (values[k] - values[k + 1]))


def _crossing(radii: Floats, curve: Floats, curve_error: Floats) -> tuple[float, float]:
    """Radius at which the curve is zero, and its error: that of the curve over its slope."""
    if (found := _dense(radii, curve)) is None:
        return math.nan, math.nan
    log, values = found
    zero = _first_zero(log, values)
    if math.isnan(zero):
        return math.nan, math.nan
    there = np.isfinite(curve_error)
    error = float(np.interp(zero, np.log(radii[there]), curve_error[there]))
    # Mean slope over a quarter of the radius on each side: the interpolation's own is noisy.
    low, high = max(log[0], zero - 0.22), min(log[-1], zero + 0.22)
    slope = -(np.interp(high, log, values) - np.interp(low, log, values)) / (high - low)
    radius = math.exp(zero)
    return radius, radius * error / slope if slope > 0 else math.nan


def _reach(radii: Floats, curve: Floats, threshold: float) -> tuple[float, float]:
    """Radii between which the curve is within the threshold."""
    if (found := _dense(radii, curve)) is None:
        return math.nan, math.nan
    log, values = found
    return math.exp(_first_zero(log, values - threshold)), math.exp(_first_zero(log, values + threshold))
