"""Local properties of a WCS: Jacobian, pixel scale, and the footprint of a box."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from astropy.wcs.wcsapi import BaseLowLevelWCS
from numpy.typing import ArrayLike, NDArray

from skygraft.errors import WcsError
from skygraft.wcs.base import to_vectors

__all__ = ["footprint", "local_jacobian", "pixel_scale", "pixel_scales"]

_ARCSEC = np.degrees(1.0) * 3600.0
_AT_ONCE = 1 << 14
_NODES = 16
"""Pixels between the places from which the scale is interpolated at very many positions."""


class BoxLike(Protocol):
    @property
    def x_min(self) -> float: ...
    @property
    def x_max(self) -> float: ...
    @property
    def y_min(self) -> float: ...
    @property
    def y_max(self) -> float: ...


def local_jacobian(wcs: BaseLowLevelWCS, x: ArrayLike, y: ArrayLike, *, step: float = 0.5) -> NDArray[np.float64]:
    """Compute the Jacobian of a WCS, from pixels to the tangent plane at each position.

    Parameters
    ----------
    wcs : BaseLowLevelWCS
        Pixels (x, y) to (ra, dec) in degrees.
    x, y : array_like, shape (N,) or scalar
        Positions in parent pixels.
    step : float
        Half the distance of the central differences, in pixels.

    Returns
    -------
    ndarray of float64, shape (N, 2, 2)
        Arcseconds per pixel: rows (East, North), columns (x, y). NaN where the WCS is undefined.

    Notes
    -----
    Differences are taken between unit vectors and projected gnomonically on East and North at the position, so they are
    correct at the poles and across right ascension 0. Positions are evaluated in a few vectorised calls, of as many as
    fit into the processor's cache.
    """
    x, y = np.broadcast_arrays(np.atleast_1d(np.asarray(x, float)), np.atleast_1d(np.asarray(y, float)))
    jacobian = np.empty((len(x), 2, 2))
    for start in range(0, len(x), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        jacobian[part] = _jacobian(wcs, x[part], y[part], step)
    return jacobian


def _jacobian(wcs: BaseLowLevelWCS, x: NDArray[np.float64], y: NDArray[np.float64], step: float) -> NDArray[np.float64]:
    dx, dy = np.array([0.0, step, -step, 0.0, 0.0]), np.array([0.0, 0.0, 0.0, step, -step])
    ra, dec = wcs.pixel_to_world_values((x[:, None] + dx).ravel(), (y[:, None] + dy).ravel())
    vectors = to_vectors(ra, dec).reshape(-1, 5, 3)
    lon, lat = np.radians(np.reshape(ra, (-1, 5))[:, 0]), np.radians(np.reshape(dec, (-1, 5))[:, 0])
    sin_lon, cos_lon, sin_lat, cos_lat = np.sin(lon), np.cos(lon), np.sin(lat), np.cos(lat)
    east = np.stack([-sin_lon, cos_lon, np.zeros_like(lon)], axis=-1)
    north = np.stack([-sin_lat * cos_lon, -sin_lat * sin_lon, cos_lat], axis=-1)
    depth = np.einsum("nki,ni->nk", vectors[:, 1:], vectors[:, 0])
    planes = np.stack(
        [np.einsum("nki,ni->nk", vectors[:, 1:] - vectors[:, :1], axis) / depth for axis in (east, north)], axis=1
    )
    jacobian: NDArray[np.float64] = (planes[..., 0::2] - planes[..., 1::2]) * (_ARCSEC / (2.0 * step))
    return jacobian


def pixel_scale(wcs: BaseLowLevelWCS, x: ArrayLike, y: ArrayLike) -> NDArray[np.float64]:
    """Compute the pixel scale, sqrt(abs(det J)): the side of a square with the area of a pixel.

    Parameters
    ----------
    wcs : BaseLowLevelWCS
        Pixels (x, y) to (ra, dec) in degrees.
    x, y : array_like, shape (N,) or scalar
        Positions in parent pixels.

    Returns
    -------
    ndarray of float64, shape (N,)
        Arcseconds per pixel.
    """
    jacobian = local_jacobian(wcs, x, y)
    determinant = jacobian[:, 0, 0] * jacobian[:, 1, 1] - jacobian[:, 0, 1] * jacobian[:, 1, 0]
    scale: NDArray[np.float64] = np.sqrt(np.abs(determinant))
    return scale


def pixel_scales(wcs: BaseLowLevelWCS, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute the pixel scale at many positions: where they are dense, interpolated between places on a grid.

    Parameters
    ----------
    wcs : BaseLowLevelWCS
        Pixels (x, y) to (ra, dec) in degrees.
    x, y : ndarray, shape (N,)
        Positions in parent pixels, finite.

    Returns
    -------
    ndarray of float64, shape (N,)
        Arcseconds per pixel, as `pixel_scale` gives them; of a million stars on an image of 4000 by 4000 pixels to
        some 1e-8 of the scale, which changes slowly.
    """
    if not len(x):
        return np.empty(0)
    first_x, first_y, last_x, last_y = (int(np.floor(v / _NODES)) for v in (x.min(), y.min(), x.max(), y.max()))
    columns, rows = last_x - first_x + 2, last_y - first_y + 2
    if 4 * rows * columns > len(x):
        return pixel_scale(wcs, x, y)
    nodes = np.meshgrid(_NODES * (first_x + np.arange(columns)), _NODES * (first_y + np.arange(rows)))
    scale = pixel_scale(wcs, *(v.ravel() for v in nodes)).reshape(rows, columns)
    out = np.empty(len(x))
    for start in range(0, len(x), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        u, v = x[part] / _NODES - first_x, y[part] / _NODES - first_y
        i, j = u.astype(np.int64), v.astype(np.int64)
        u, v = u - i, v - j
        low = (1 - u) * scale[j, i] + u * scale[j, i + 1]
        out[part] = (1 - v) * low + v * ((1 - u) * scale[j + 1, i] + u * scale[j + 1, i + 1])
    lost = np.flatnonzero(~np.isfinite(out))  # beside places where the WCS is not defined
    if lost.size:
        out[lost] = pixel_scale(wcs, x[lost], y[lost])
    return out


def footprint(wcs: BaseLowLevelWCS, box: BoxLike, n: int = 8) -> NDArray[np.float64]:
    """Compute the outline of a box of pixels on the sky.

    Parameters
    ----------
    wcs : BaseLowLevelWCS
        Pixels (x, y) to (ra, dec) in degrees.
    box : object with x_min, x_max, y_min, y_max
        Edges in parent pixels, such as a `skygraft.psf.Box`.
    n : int
        Points per edge; more than one follow the curvature of a distorted edge.

    Returns
    -------
    ndarray of float64, shape (4 n, 2)
        ICRS (ra, dec) in degrees, in order around the box from (x_min, y_min) along x; the first is not repeated.

    Raises
    ------
    WcsError
        If part of the outline is not on the sky.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, not {n}")
    t = np.arange(n) / n
    x0, x1, y0, y1 = float(box.x_min), float(box.x_max), float(box.y_min), float(box.y_max)
    x = np.concatenate([x0 + t * (x1 - x0), np.full(n, x1), x1 + t * (x0 - x1), np.full(n, x0)])
    y = np.concatenate([np.full(n, y0), y0 + t * (y1 - y0), np.full(n, y1), y1 + t * (y0 - y1)])
    outline = np.column_stack(wcs.pixel_to_world_values(x, y))
    bad = ~np.isfinite(outline).all(axis=1)
    if bad.any():
        i = int(np.argmax(bad))
        raise WcsError(
            f"the outline of the image is not on the sky: pixel ({x[i]:g}, {y[i]:g}) has no position",
            fix="Check the image's size and its WCS",
        )
    return outline
