"""Formulae for the wings of many stars at once: fits with each star's own amplitude and sky, and stacks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skygraft.psf.wings import MoffatWing, PowerLawWing, WingShape
from skygraft.qa.wing_stars import BrightStar, Profiles

__all__ = ["Stack", "fit_formula", "tabulated"]

_FLOOR = 0.02
"""Relative error of any ring that is allowed for: stars are not alike to more than that."""


@dataclass(eq=False)
class Stack:
    """Stars that were fitted together: S stars in K rings.

    Parameters
    ----------
    radii, edges : ndarray, shapes (K,) and (K + 1,)
        Of the rings, pixels.
    stars : list of BrightStar
        The stars.
    values, errors, pixels : ndarray, shape (S, K)
        Of `Profiles`.
    shape : WingShape
        The fitted formula, in pixels.
    parameters, parameter_errors : dict of str to float
        Of the formula.
    amplitude, sky, sky_error : ndarray, shape (S,)
        Of each star: its brightness at the join radius, its sky, and the error of that, image units a pixel.
    profile, profile_error : ndarray, shape (K,)
        Stacked profile, in units of the amplitudes; NaN where fewer than two stars have it.
    chi2 : float
        Reduced chi squared of the stacked profile about the formula, beyond the join radius.
    """

    radii: NDArray[np.float64]
    edges: NDArray[np.float64]
    stars: list[BrightStar]
    values: NDArray[np.float64]
    errors: NDArray[np.float64]
    pixels: NDArray[np.int64]
    shape: WingShape
    parameters: dict[str, float]
    parameter_errors: dict[str, float]
    amplitude: NDArray[np.float64]
    sky: NDArray[np.float64]
    sky_error: NDArray[np.float64]
    profile: NDArray[np.float64]
    profile_error: NDArray[np.float64]
    chi2: float


def tabulated(shape: WingShape, join: float, end: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Tabulate a formula in units of its value at the join radius, constant inside half of that.

    Parameters
    ----------
    shape : WingShape
        The formula.
    join, end : float
        The join radius and the last radius, pixels.

    Returns
    -------
    radii, values : ndarray
    """
    radii = np.concatenate([[0.0], np.geomspace(0.5 * join, end, 400)])
    values = np.exp(shape.logarithm(np.maximum(radii, 0.5 * join)) - shape.logarithm(np.array([join]))[0])
    return radii, np.asarray(values)


def _shape_of(kind: str, theta: NDArray[np.float64]) -> WingShape:
    if kind == "power_law":
        return PowerLawWing(float(theta[0]))
    return MoffatWing(float(theta[0]), float(np.exp(theta[1])))


def fit_formula(
    kind: str, profiles: Profiles, stars: list[BrightStar], use: NDArray[np.intp], join: float, fwhm: float
) -> Stack:
    """Fit a formula to the profiles of stars beyond the join radius, and stack them.

    Parameters
    ----------
    kind : {"power_law", "moffat"}
        The formula.
    profiles : Profiles
        Of all stars.
    stars : list of BrightStar
        Those that are fitted.
    use : ndarray of int
        Their rows in `profiles`.
    join, fwhm : float
        The join radius and the FWHM of the PSF, pixels.

    Returns
    -------
    Stack
    """
    from scipy.optimize import least_squares

    values, errors = profiles.values[use], profiles.errors[use]
    fine = profiles.radii

    def curve(theta: NDArray[np.float64]) -> NDArray[np.float64]:
        shape = _shape_of(kind, theta)
        at_join = shape.logarithm(np.array([join]))[0]
        return np.asarray(np.exp(shape.logarithm(fine) - at_join))

    # Inside the join radius the profile is the kernel's in part.
    beyond = profiles.edges[:-1] >= 0.999 * join
    weights = np.where(np.isfinite(values) & np.isfinite(errors) & beyond, 1.0 / errors, 0.0)
    start = np.array([3.0]) if kind == "power_law" else np.array([1.5, np.log(max(fwhm, 2.0))])
    bounds = ([0.3], [12.0]) if kind == "power_law" else ([0.3, np.log(0.3)], [8.0, np.log(20.0 * join)])
    theta, amplitude, sky = start, np.ones(len(use)), np.zeros(len(use))
    sky_error = np.zeros(len(use))
    fitted: Any = None
    for _ in range(4):

        def residual(theta: NDArray[np.float64], weights: NDArray[np.float64] = weights) -> NDArray[np.float64]:
            p = curve(theta)
            a, b, _e = _linear(values, weights, p)
            off = weights * (np.nan_to_num(values) - a[:, None] * p - b[:, None])
            return np.asarray(off.ravel())

        fitted = least_squares(residual, theta, bounds=bounds, loss="soft_l1", f_scale=2.0, x_scale="jac")
        theta = fitted.x
        p = curve(theta)
        amplitude, sky, sky_error = _linear(values, weights, p)
        with np.errstate(invalid="ignore"):
            spread = np.sqrt(errors**2 + (_FLOOR * amplitude[:, None] * p) ** 2)
        weights = np.where(np.isfinite(values) & np.isfinite(spread) & beyond, 1.0 / spread, 0.0)
    p = curve(theta)
    with np.errstate(invalid="ignore"):
        near = np.hypot(errors, _FLOOR * np.nan_to_num(values - sky[:, None]))
    weights = np.where(np.isfinite(values) & np.isfinite(near), 1.0 / near, 0.0)
    profile, error = _stack(values, weights, amplitude, sky, sky_error)
    known = np.isfinite(profile) & np.isfinite(error) & beyond
    off = (profile[known] - p[known]) / np.hypot(error[known], 0.5 * _FLOOR * p[known])
    degrees = max(1, int(known.sum()) - len(theta))
    chi2 = float((np.minimum(np.abs(off), 10.0) ** 2).sum() / degrees)
    covariance = np.linalg.pinv(fitted.jac.T @ fitted.jac)
    reduced = 2.0 * float(fitted.cost) / max(1, int((weights > 0).sum()) - 2 * len(use) - len(theta))
    spread_of = np.sqrt(np.maximum(np.diag(covariance), 0.0) * max(1.0, reduced))
    if kind == "power_law":
        parameters, parameter_errors = {"alpha": float(theta[0])}, {"alpha": float(spread_of[0])}
    else:
        core = float(np.exp(theta[1]))
        parameters = {"beta": float(theta[0]), "core": core}
        parameter_errors = {"beta": float(spread_of[0]), "core": float(core * spread_of[1])}
    return Stack(
        profiles.radii,
        profiles.edges,
        stars,
        values,
        errors,
        profiles.pixels[use],
        _shape_of(kind, theta),
        parameters,
        parameter_errors,
        amplitude,
        sky,
        sky_error,
        profile,
        error,
        chi2,
    )


def _linear(
    values: NDArray[np.float64], weights: NDArray[np.float64], p: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Weighted amplitude and sky of each star, and the error of the sky."""
    w, v = weights**2, np.nan_to_num(values)
    s0, s1, s2 = w.sum(axis=1), (w * p).sum(axis=1), (w * p * p).sum(axis=1)
    t0, t1 = (w * v).sum(axis=1), (w * v * p).sum(axis=1)
    det = np.maximum(s0 * s2 - s1 * s1, 1e-300)
    return (s0 * t1 - s1 * t0) / det, (s2 * t0 - s1 * t1) / det, np.sqrt(s2 / det)


def _stack(
    values: NDArray[np.float64],
    weights: NDArray[np.float64],
    amplitude: NDArray[np.float64],
    sky: NDArray[np.float64],
    sky_error: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weighted mean of the stars' own profiles in each ring, without those that are far off, and its error."""
    with np.errstate(divide="ignore", invalid="ignore"):
        own = (values - sky[:, None]) / amplitude[:, None]
        w = np.where((weights > 0) & (amplitude > 0)[:, None], (weights * amplitude[:, None]) ** 2, 0.0)
    n_rings = values.shape[1]
    mean, error = np.full(n_rings, np.nan), np.full(n_rings, np.nan)
    for k in range(n_rings):
        keep = w[:, k] > 0
        if keep.sum() < 2:
            continue
        x, wk = own[:, k], w[:, k]
        for _ in range(4):
            middle = float(np.average(x[keep], weights=wk[keep]))
            typical = max(1.0, float(np.sqrt(np.median((x[keep] - middle) ** 2 * wk[keep])) * 1.4826))
            closer = (w[:, k] > 0) & (np.abs(x - middle) * np.sqrt(wk) <= 3.5 * typical)
            if closer.sum() < 2 or (closer == keep).all():
                break
            keep = closer
        total = float(wk[keep].sum())
        middle = float((x[keep] * wk[keep]).sum() / total)
        n = int(keep.sum())
        chi2 = float((wk[keep] * (x[keep] - middle) ** 2).sum()) / max(1, n - 1)
        with np.errstate(divide="ignore", invalid="ignore"):
            skies = float(np.sqrt(((wk[keep] * sky_error[keep] / amplitude[keep]) ** 2).sum())) / total
        mean[k], error[k] = middle, math.hypot(math.sqrt(max(1.0, chi2) / total), skies)
    return mean, error
