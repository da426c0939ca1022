"""The Kolmogorov profile (Racine 1996): in Fourier space, and the wide ones of the Gaussians that it is made of.

A profile of unit flux has the transform

    T(k) = exp(-(k / k_0)^(5/3)),    k_0 r_half = 1.66051,

which in k^2 is that of the one-sided stable density of index 5/6: an integral over Gaussians, of variance 2 t / k_0^2,
whose fluxes are the density of t (Pollard 1946; as an integral: Kanter 1975). The trapezoidal rule in ln t, at widths
sqrt(2) apart, makes it a sum: to 5e-5 of the profile beyond four half-light radii, where its wings fall as r^(-11/3).
Within, where the density is narrow, the sum is poor; the Gaussians of `FIRST_WIDE` and wider serve all the same.
"""

from __future__ import annotations

import functools
import math

import numpy as np
from numpy.typing import NDArray

__all__ = ["FIRST_WIDE", "SLOPE", "gaussian_fluxes", "kolmogorov_reach", "remaining", "transform"]

K_0 = 1.66051333269
"""Wavenumber k_0 times the half-light radius: where `remaining` is a half."""
SLOPE = 11.0 / 3.0
"""Logarithmic slope of the wings, -d ln I / d ln r."""
FIRST_WIDE = 2.0
"""Half-light radii; sigma of the narrowest Gaussian that may be taken out of the transform."""

_ANGLES = np.linspace(-36.0, 36.0, 1441)
"""Nodes of the integral for the stable density: logarithms of the tangent of half the angle."""
_INDEX = 5.0 / 6.0
_FAINT = 1e-12
"""Flux of Gaussians that are dropped: arithmetic with denormal numbers is very slow."""
_LOG_RANGE = -7.0, 14.0
_BISECTIONS = 50


def transform(k: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the Fourier transform of a profile of unit flux; `k` is per half-light radius."""
    return np.asarray(np.exp(-((k / K_0) ** (5.0 / 3.0))))


def _density(t: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the one-sided stable density of index 5/6, whose Laplace transform is exp(-s^(5/6)); t has shape (M,)."""
    power = 1.0 / (1.0 - _INDEX)
    angle, log_sine = 2.0 * np.arctan(np.exp(_ANGLES)), -np.log(np.cosh(_ANGLES))
    log_a = power * (_INDEX * np.log(np.sin(_INDEX * angle)) + (1.0 - _INDEX) * np.log(np.sin((1.0 - _INDEX) * angle)))
    log_a -= power * log_sine
    with np.errstate(over="ignore", under="ignore"):
        integrand = np.exp(log_a - np.exp(log_a - _INDEX * power * np.log(t)[:, None]) + log_sine)
        step = _ANGLES[1] - _ANGLES[0]
        return np.asarray(_INDEX * power * t**-power * integrand.sum(axis=1) * step / math.pi)


def gaussian_fluxes(widths: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the fluxes of Gaussians whose sum has the wings of a profile of unit flux.

    Parameters
    ----------
    widths : ndarray, shape (M,)
        Their sigma in half-light radii, sqrt(2) apart.

    Returns
    -------
    ndarray, shape (M,)
        With the sum of one; the widest includes all wider ones.
    """
    t = 0.5 * (widths * K_0) ** 2
    fluxes = math.log(2.0) * t * _density(t)
    # A geometric series: the density falls as t^(-11/6).
    fluxes[-1] /= 1.0 - 2.0**-_INDEX
    fluxes = np.where(fluxes > _FAINT, fluxes, 0.0)
    wide = widths >= FIRST_WIDE
    fluxes[~wide] *= (1.0 - fluxes[wide].sum()) / fluxes[~wide].sum()
    return np.asarray(fluxes)


@functools.lru_cache(maxsize=16)
def kolmogorov_reach(missing: float) -> float:
    """Return the radius, half-light radii, outside which a profile has a part `missing` of its flux."""
    low, high = _LOG_RANGE
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if remaining(math.exp(middle)) > missing else (low, middle)
    return math.exp(0.5 * (low + high))


def remaining(r: float) -> float:
    """Return the part of the light outside r half-light radii."""
    t, weights = _variances()
    return float(weights @ np.exp(-0.25 * (r * K_0) ** 2 / t))


@functools.cache
def _variances() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return nodes, fine enough for all radii, and weights of the integral over Gaussians."""
    log_t = np.linspace(math.log(0.02), math.log(1e14), 4001)
    t = np.exp(log_t)
    weights = t * _density(t)
    return t, weights / weights.sum()
