"""Sérsic profiles that end at a radius, in Fourier space.

With the radius u in units of the truncation radius, a profile of index n that ends at u = 1 and has half of its light
within u = 1/t is exp(-B u^(1/n)) there, where B solves

    P(2n, B t^(-1/n)) = P(2n, B) / 2

with the regularised incomplete gamma function P (Graham & Driver 2005, eq. 2, for a total that ends at u = 1). For
B -> 0 it is a flat disk, half of whose light is within 1/sqrt(2): t is larger than sqrt(2). Its transform

    T(kappa) = integral exp(-B u^(1/n)) J0(k u) u du / integral exp(-B u^(1/n)) u du,    kappa = k^2,

is a sum over Gauss-Legendre nodes in sqrt(u), which takes the cusp away. Nodes and wavenumbers are those of the tables
of `skygraft.render.radial` and the same for all profiles: a table is a row of a matrix product.

The edge makes T oscillate with a period of 2 pi in k, which the tables' pieces, 1/16 of an octave of kappa, follow up
to k = 80 or so; so profiles that are larger on the image than `MAX_RADIUS` are not for these tables.
"""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammainc, gammaincinv, j0

from skygraft.render.radial import N_PIECES, Placed, cubics_through, kappas

__all__ = ["LEAST_RATIO", "MAX_RADIUS", "place_truncated", "steepness", "truncated_pieces", "truncated_reach"]

LEAST_RATIO = 1.42
"""Of the truncation to the half-light radius."""
MAX_RADIUS = 40.0
"""Semi-major axis at the edge, pixels: PSFs leave little at wavenumbers above 2 per pixel."""

_LEAST_KAPPA, _MOST_KAPPA = 2.0**-6, 2.0**15
"""Below, three terms of the series around zero are T to 1e-8; above, k is out of a stamp's reach."""
_N_NODES = 256
_NEGLIGIBLE = 1e-7
_BISECTIONS = 60


def steepness(n: NDArray[np.float64], ratio: NDArray[np.float64]) -> NDArray[np.float64]:
    """The B of profiles that end at a multiple of their half-light radius.

    Parameters
    ----------
    n : ndarray, shape (N,)
        Sérsic indices.
    ratio : ndarray, shape (N,)
        Truncation radius over half-light radius (of the truncated profile), `LEAST_RATIO` or more.

    Returns
    -------
    ndarray, shape (N,)
        NaN where less than 1e-7 of the light would be outside: the profile is as good as not truncated.
    """
    half = ratio ** (-1.0 / n)
    low, high = np.zeros(len(n)), gammaincinv(2 * n, 0.5) / half
    with np.errstate(invalid="ignore"):
        endless = 1.0 - gammainc(2 * n, high) < _NEGLIGIBLE
        for _ in range(_BISECTIONS):
            middle = 0.5 * (low + high)
            # The more of the light is within a given part of the radius, the steeper.
            flat = gammainc(2 * n, middle * half) < 0.5 * gammainc(2 * n, middle)
            low, high = np.where(flat, middle, low), np.where(flat, high, middle)
    return np.where(endless, np.nan, 0.5 * (low + high))


def truncated_reach(n: NDArray[np.float64], b: NDArray[np.float64], missing: float) -> NDArray[np.float64]:
    """Radii, in truncation radii, outside which profiles of N indices and B have a part `missing` of their flux."""
    return np.asarray((gammaincinv(2 * n, (1.0 - missing) * gammainc(2 * n, b)) / b) ** n)


def truncated_pieces(n: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float32]:
    """Tables of T.

    Parameters
    ----------
    n : ndarray, shape (N,)
        Sérsic indices.
    b : ndarray, shape (N,)
        Their B; see `steepness`.

    Returns
    -------
    ndarray of float32, shape (N, N_PIECES, 4)
        Cubic pieces over kappa, as in `skygraft.render.radial.Placed`; zero where they do not reach.
    """
    u, weights, waves, inner = _quadrature()
    light = np.exp(-b[:, None] * u ** (1.0 / n[:, None])) * weights
    light /= light.sum(axis=1)[:, None]
    values = np.zeros((len(n), 4 * N_PIECES))
    kappa = kappas().ravel()
    series = np.stack([np.ones_like(u), -0.25 * u**2, u**4 / 64.0], axis=1)
    values[:, : inner.start] = light @ series @ kappa[: inner.start] ** np.arange(3)[:, None]
    values[:, inner] = light @ waves
    return cubics_through(values.reshape(len(n), N_PIECES, 4)).astype(np.float32)


def place_truncated(placed: Placed, n: NDArray[np.float64], b: NDArray[np.float64]) -> Placed:
    """Tables of some profiles of which some end at a radius.

    Parameters
    ----------
    placed : Placed
        Of N profiles as if none of them ended.
    n, b : ndarray, shape (N,)
        Their indices and their B, NaN for those that do not end.
    """
    which = np.flatnonzero(np.isfinite(b))
    if not which.size:
        return placed
    # Catalogues truncate at some multiple of the half-light radius: few profiles differ.
    kinds, row = np.unique(np.stack([n[which], b[which]], axis=1), axis=0, return_inverse=True)
    return placed.replaced(which, truncated_pieces(*kinds.T), row.reshape(-1))


@functools.cache
def _quadrature() -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], slice]:
    """Nodes, their weights times u du, J0(k u) at nodes and wavenumbers, and which wavenumbers of the tables those are.

    Whole pieces are left out at either end.
    """
    nodes, weights = np.polynomial.legendre.leggauss(_N_NODES)
    root = 0.5 * (nodes + 1.0)
    u = root**2
    first, last = (int(v) for v in np.searchsorted(kappas()[:, 0], [_LEAST_KAPPA, _MOST_KAPPA]))
    inner = slice(4 * first, 4 * last)
    waves = j0(np.sqrt(kappas().ravel()[inner]) * u[:, None])
    return u, weights * root**3, waves, inner
