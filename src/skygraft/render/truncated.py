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
to k = 80 or so: for profiles whose edge is within `COMPACT_RADIUS` on the image. Larger ones have tables of their own,
whose pieces are 1/2 long in k everywhere (`dense_pieces`), up to the Nyquist frequency.
"""

from __future__ import annotations

import functools
import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammainc, gammaincinv, j0

from skygraft.catalog.schema import LEAST_TRUNCATION
from skygraft.render.profiles import MAX_STAMP
from skygraft.render.radial import DENSE, N_PIECES, Placed, cubics_through, kappas

__all__ = [
    "COMPACT_RADIUS",
    "LEAST_RATIO",
    "MAX_RADIUS",
    "dense_pieces",
    "place_truncated",
    "steepness",
    "truncated_pieces",
    "truncated_reach",
]

LEAST_RATIO = LEAST_TRUNCATION
"""Of the truncation to the half-light radius: that of a flat disk, but for rounding."""
COMPACT_RADIUS = 40.0
"""Semi-major axis at the edge, pixels: PSFs leave little at wavenumbers above 2 per pixel."""
MAX_RADIUS = 0.45 * MAX_STAMP
"""Largest semi-major axis at the edge, pixels: what is beyond a transform's box would come in on the other side."""

_LEAST_KAPPA, _MOST_KAPPA = 2.0**-6, 2.0**15
"""Below, three terms of the series around zero are T to 1e-8; above, k is out of a stamp's reach."""
_N_NODES, _A_PANEL = 256, 64
_NEGLIGIBLE = 1e-7
_FLAT = 1e-3
"""For less steep ones the reach is that of a flat disk."""
_MOST_KEPT = 1 << 22
"""Numbers of Bessel functions that are kept for further profiles of a size."""
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
    steep = np.maximum(b, _FLAT)
    reach = (gammaincinv(2 * n, (1.0 - missing) * gammainc(2 * n, steep)) / steep) ** n
    return np.asarray(np.where(b >= _FLAT, reach, np.sqrt(1.0 - missing)))


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


def dense_pieces(n: float, b: float, radius: float) -> NDArray[np.float32]:
    """Table of T in pieces that are 1/2 long in k.

    Parameters
    ----------
    n, b : float
        Sérsic index and B.
    radius : float
        Semi-major axis at the edge, pixels.

    Returns
    -------
    ndarray of float32, shape (M, 4)
        Cubic pieces over k from 0 on, constant term first, in 0 ... 1; they end at Nyquist along the longest axis.
    """
    # The same for all profiles of some size.
    size = 2.0 ** math.ceil(math.log2(radius))
    count = math.ceil(DENSE * math.pi * radius) + 1
    nodes = 128 + math.ceil(3.5 * size)
    u, weights = _nodes(nodes)
    light = np.exp(-b * u ** (1.0 / n)) * weights
    light /= light.sum()
    k = np.arange(3 * count + 1) / (3.0 * DENSE)
    whole = 3 * math.ceil(DENSE * math.pi * size) + 4
    if whole * len(u) <= _MOST_KEPT:
        values = _waves(whole, nodes)[: len(k)] @ light
    else:
        step = max(1, _MOST_KEPT // len(u))
        values = np.concatenate([j0(np.outer(k[i : i + step], u)) @ light for i in range(0, len(k), step)])
    ends = np.lib.stride_tricks.sliding_window_view(values, 4)[::3]
    return cubics_through(ends).astype(np.float32)


@functools.lru_cache(maxsize=8)
def _nodes(count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """At least so many nodes in u, and their weights times u du: many are panels of Gauss and Legendre's."""
    panels = 1 if count <= _N_NODES else math.ceil(count / _A_PANEL)
    nodes, weights = np.polynomial.legendre.leggauss(count if panels == 1 else _A_PANEL)
    root = (0.5 * (nodes + 1.0) + np.arange(panels)[:, None]).ravel() / panels
    return root**2, np.tile(weights, panels) * root**3


@functools.lru_cache(maxsize=3)
def _waves(count: int, nodes: int) -> NDArray[np.float64]:
    """J0(k u) at the nodes, k in thirds of pieces."""
    return np.asarray(j0(np.outer(np.arange(count) / (3.0 * DENSE), _nodes(nodes)[0])), dtype=np.float64)


def place_truncated(
    placed: Placed, n: NDArray[np.float64], b: NDArray[np.float64], radius: NDArray[np.float64] | None = None
) -> Placed:
    """Tables of some profiles of which some end at a radius.

    Parameters
    ----------
    placed : Placed
        Of N profiles as if none of them ended.
    n, b : ndarray, shape (N,)
        Their indices and their B, NaN for those that do not end.
    radius : ndarray, shape (N,), optional
        Semi-major axis at the edge of those that end, pixels; by default all are compact.
    """
    large = np.zeros(len(n), dtype=np.bool_) if radius is None else radius > COMPACT_RADIUS
    which = np.flatnonzero(np.isfinite(b) & ~large)
    if which.size:
        # Catalogues truncate at some multiple of the half-light radius: few profiles differ.
        kinds, row = np.unique(np.stack([n[which], b[which]], axis=1), axis=0, return_inverse=True)
        placed = placed.replaced(which, truncated_pieces(*kinds.T), row.reshape(-1))
    which = np.flatnonzero(np.isfinite(b) & large)
    if which.size and radius is not None:
        placed = placed.with_dense(which, [dense_pieces(n[i], b[i], radius[i]) for i in which])
    return placed


@functools.cache
def _quadrature() -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], slice]:
    """Nodes, their weights times u du, J0(k u) at nodes and wavenumbers, and which wavenumbers of the tables those are.

    Whole pieces are left out at either end.
    """
    u, weights = _nodes(_N_NODES)
    first, last = (int(v) for v in np.searchsorted(kappas()[:, 0], [_LEAST_KAPPA, _MOST_KAPPA]))
    inner = slice(4 * first, 4 * last)
    waves = j0(np.sqrt(kappas().ravel()[inner]) * u[:, None])
    return u, weights, waves, inner
