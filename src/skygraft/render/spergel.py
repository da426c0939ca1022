"""Spergel profiles (Spergel 2010): in Fourier space, and as sums of Gaussians.

A profile of unit flux, of index nu and scale radius r_0, has the transform (his eq. 4)

    T(k) = (1 + (k r_0)^2)^-(1 + nu),

and with f_m(x) = (x / 2)^m K_m(x) / Gamma(m + 1) the part of its light outside the radius x r_0 is (his eq. 8)

    2 (1 + nu) f_(1 + nu)(x).

nu = 1/2 is an exponential; -0.6 is close to a de Vaucouleurs profile. By the definition of the gamma function T is an
integral over Gaussians, of variance 2 r_0^2 t and flux

    t^nu exp(-t) / Gamma(1 + nu) dt,

which the trapezoidal rule in ln t, at widths sqrt(2) apart, makes a sum. Radii are in half-light radii.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln, kve

from skygraft.catalog.schema import SPERGEL_RANGE

if TYPE_CHECKING:
    from scipy.interpolate import CubicSpline

__all__ = [
    "MOST_SPLIT_NU",
    "SPERGEL_RANGE",
    "gaussian_fluxes",
    "rim_radius",
    "scale_radius",
    "slope",
    "spergel_reach",
    "transform",
]

MOST_SPLIT_NU = 1.0
"""Largest index of profiles that are split: above it wings are steep, and the sum of Gaussians is less accurate."""
_BISECTIONS = 60
_LOG_RANGE = math.log(1e-14), math.log(1e3)
"""Of radii, in scale radii, among which one is searched for."""
_NODES = 257
_FAINT = 1e-12
"""Flux of Gaussians that are dropped: arithmetic with denormal numbers is very slow."""


def _remaining(order: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return 2 m f_m(x) for the order m > 0: 1 at zero."""
    with np.errstate(divide="ignore", over="ignore", invalid="ignore", under="ignore"):
        log = (1.0 - order) * math.log(2.0) - gammaln(order) + order * np.log(x) + np.log(kve(order, x)) - x
        return np.asarray(np.where(np.isfinite(log), np.minimum(np.exp(log), 1.0), 1.0))


def _where(order: NDArray[np.float64], remaining: float) -> NDArray[np.float64]:
    """Return the radii, in scale radii, where `_remaining` has a value."""
    low, high = np.full(order.shape, _LOG_RANGE[0]), np.full(order.shape, _LOG_RANGE[1])
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        more = _remaining(order, np.exp(middle)) > remaining
        low, high = np.where(more, middle, low), np.where(more, high, middle)
    return np.asarray(np.exp(0.5 * (low + high)))


@functools.lru_cache(maxsize=16)
def _log_radii(missing: float) -> CubicSpline:
    """Return the logarithm of the radius outside which a part of the light is, over ln(1 + nu)."""
    from scipy.interpolate import CubicSpline  # takes a second to import, and stars do without

    low, high = (math.log1p(nu) for nu in SPERGEL_RANGE)
    nodes = np.linspace(low - 0.2, high + 0.2, _NODES)
    return CubicSpline(nodes, np.log(_where(np.exp(nodes), missing)))


def scale_radius(nu: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return scale radii r_0 in half-light radii; `nu` may have any shape."""
    return np.asarray(np.exp(-_log_radii(0.5)(np.log1p(nu))))


def spergel_reach(nu: NDArray[np.float64], missing: float) -> NDArray[np.float64]:
    """Return the radii, half-light radii, outside which profiles have a part `missing` of their flux."""
    return np.asarray(np.exp(_log_radii(missing)(np.log1p(nu))) * scale_radius(nu))


def rim_radius(nu: NDArray[np.float64], rim: float) -> NDArray[np.float64]:
    """Return the radii, half-light radii, where profiles of indices above 0 reach a fraction `rim` of their peak."""
    return _where(nu, rim) * scale_radius(nu)


def slope(nu: NDArray[np.float64], r: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the logarithmic slope -d ln I / d r at radii r, in half-light radii."""
    scale = scale_radius(nu)
    return np.asarray(kve(nu - 1.0, r / scale) / kve(nu, r / scale) / scale)


def transform(nu: float, k: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the Fourier transform of a profile of unit flux.

    Parameters
    ----------
    nu : float
        Index.
    k : ndarray
        Angular wavenumbers, per half-light radius.

    Returns
    -------
    ndarray
    """
    return np.asarray((1.0 + (k * scale_radius(np.asarray(nu))) ** 2) ** -(1.0 + nu))


def gaussian_fluxes(nu: float, widths: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the fluxes of Gaussians whose sum is a profile of unit flux; the narrowest includes all narrower ones.

    Parameters
    ----------
    nu : float
        Index.
    widths : ndarray, shape (M,)
        Their sigma in half-light radii, sqrt(2) apart.

    Returns
    -------
    ndarray, shape (M,)
    """
    order, t = 1.0 + nu, 0.5 * (widths / scale_radius(np.asarray(nu))) ** 2
    with np.errstate(under="ignore"):
        fluxes = math.log(2.0) * np.exp(order * np.log(t) - t - gammaln(order))
    # A geometric series, as exp(-t) is one there.
    fluxes[0] /= 1.0 - 2.0**-order
    fluxes = np.where(fluxes > _FAINT, fluxes, 0.0)
    return np.asarray(fluxes / fluxes.sum())
