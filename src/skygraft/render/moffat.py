"""Moffat profiles (Moffat 1969): in Fourier space, and as sums of Gaussians.

A profile of unit flux, of exponent beta and core radius r_d,

    I(r) = (beta - 1) / (pi r_d^2) (1 + (r / r_d)^2)^-beta,    r_half = r_d sqrt(2^(1 / (beta - 1)) - 1),

has the transform (Trujillo et al. 2001, with the Bessel function of the second kind)

    T(k) = 2^(2 - beta) / Gamma(beta - 1)  (k r_d)^(beta - 1) K_(beta - 1)(k r_d).

By the definition of the gamma function it is an integral over Gaussians, of variance r_d^2 / (2 t) and flux

    t^(beta - 2) exp(-t) / Gamma(beta - 1) dt,

which the trapezoidal rule in ln t, at widths sqrt(2) apart, makes a sum: to 3e-5 of the profile at every radius for
beta = 1.5, and to 1e-3 for beta = 4. Their wide ones are drawn as those of Sérsic profiles are.

Radii are in units that grow with the width of the wings, so that one set of widths does for all exponents; see `unit`.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import gammaln, kve

__all__ = ["MOST_SPLIT_BETA", "core_radius", "gaussian_fluxes", "rim_radius", "transform", "unit"]

MOST_SPLIT_BETA = 4.0
"""Largest exponent of profiles that are split: above it wings are faint, and the sum of Gaussians is less accurate."""


def unit(beta: ArrayLike) -> NDArray[np.float64]:
    """Return the unit of elliptical radii, in core radii, such that one set of 27 widths covers every exponent."""
    return np.asarray(16.0 / np.sqrt(np.add(beta, 2.0)))


def core_radius(beta: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return core radii in half-light radii; `beta` may have any shape."""
    return np.asarray(1.0 / np.sqrt(np.expm1(math.log(2.0) / (beta - 1.0))))


def rim_radius(beta: NDArray[np.float64], rim: float) -> NDArray[np.float64]:
    """Return the radii, in units of `unit`, where profiles reach a fraction `rim` of their peak."""
    return np.asarray(np.sqrt(rim ** (-1.0 / beta) - 1.0) / unit(beta))


def transform(beta: float, k: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the Fourier transform of a profile of unit flux.

    Parameters
    ----------
    beta : float
        Exponent, above 1.
    k : ndarray
        Angular wavenumbers, per unit; not negative.

    Returns
    -------
    ndarray
        1 at zero.
    """
    order, x = beta - 1.0, k / unit(beta)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore", under="ignore"):
        log = (1.0 - order) * math.log(2.0) - gammaln(order) + order * np.log(x) - x + np.log(kve(order, x))
        # Where K overflows, the first two terms of the series suffice.
        near_zero = 1.0 - 0.25 * x**2 / max(order - 1.0, 1.0)
        return np.where(np.isfinite(kve(order, x)), np.exp(log), near_zero)


def gaussian_fluxes(beta: float, widths: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the fluxes of the Gaussians whose sum is a profile of unit flux; the widest includes all wider ones.

    Parameters
    ----------
    beta : float
        Exponent, above 1.
    widths : ndarray, shape (M,)
        Their sigma in units, sqrt(2) apart.

    Returns
    -------
    ndarray, shape (M,)
    """
    order, t = beta - 1.0, 0.5 / (widths * unit(beta)) ** 2
    with np.errstate(under="ignore"):
        fluxes = math.log(2.0) * np.exp(order * np.log(t) - t - gammaln(order))
    # A geometric series, as exp(-t) is one there.
    fluxes[-1] /= 1.0 - 2.0**-order
    return np.asarray(fluxes)
