"""Bring images onto one pixel grid through both world coordinate systems."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from astropy.wcs.wcsapi import BaseLowLevelWCS
from numpy.typing import NDArray

from skygraft.errors import ConfigError
from skygraft.wcs import FitsWcs

__all__ = ["Interpolation", "pixel_map", "resample", "tangent_wcs"]

type FloatArray = NDArray[np.float64]
type Interpolation = Literal["linear", "cubic"]

_STEP = 32  # pixels between nodes at which the world coordinate systems are evaluated
_ORDERS = {"linear": 1, "cubic": 3}


def tangent_wcs(ra: float, dec: float, scale: float, size: int) -> FitsWcs:
    """WCS of a square array around a place: gnomonic, North up, East left.

    Parameters
    ----------
    ra, dec : float
        The place, ICRS degrees: the middle of the array.
    scale : float
        Arcseconds per pixel.
    size : int
        Side of the array, pixels.

    Returns
    -------
    FitsWcs
    """
    step = scale / 3600.0
    middle = (size - 1) / 2
    return FitsWcs.tan(ra, dec, crpix=(middle, middle), cd=[[-step, 0.0], [0.0, step]])


def pixel_map(
    target: BaseLowLevelWCS, xy0: tuple[int, int], shape: tuple[int, int], source: BaseLowLevelWCS
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Compute where the pixels of one grid lie on another.

    Both WCS are evaluated at every 32nd pixel, and a bicubic spline runs through these nodes.

    Parameters
    ----------
    target : BaseLowLevelWCS
        Of the grid, in its parent pixels.
    xy0 : (int, int)
        Parent coordinates of the grid's first pixel.
    shape : (int, int)
        Rows and columns of the grid.
    source : BaseLowLevelWCS
        Of the image.

    Returns
    -------
    x, y : ndarray, shape `shape`
        Parent pixels of the image; NaN where it has none.
    area : ndarray, shape `shape`
        Pixels of the image in one pixel of the grid.
    """
    from scipy.interpolate import RectBivariateSpline

    ny, nx = shape
    # Half a step beyond the edges, and four nodes at least, which a cubic needs.
    rows = np.linspace(-1.0, ny, max(4, -(-(ny + 1) // _STEP) + 1))
    columns = np.linspace(-1.0, nx, max(4, -(-(nx + 1) // _STEP) + 1))
    grid_x, grid_y = np.meshgrid(columns + xy0[0], rows + xy0[1])
    nodes = source.world_to_pixel_values(*target.pixel_to_world_values(grid_x, grid_y))
    if not np.isfinite(nodes).all():
        return _pixel_by_pixel(target, xy0, shape, source)
    splines = [RectBivariateSpline(rows, columns, values, s=0) for values in nodes]
    at = np.arange(ny, dtype=float), np.arange(nx, dtype=float)
    x, y = (spline(*at) for spline in splines)
    slopes = [[spline(*at, dx=dx, dy=1 - dx) for dx in (0, 1)] for spline in splines]
    area = np.abs(slopes[0][0] * slopes[1][1] - slopes[0][1] * slopes[1][0])
    return x, y, area


def _pixel_by_pixel(
    target: BaseLowLevelWCS, xy0: tuple[int, int], shape: tuple[int, int], source: BaseLowLevelWCS
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Where part of the grid is not on the image's pixel plane."""
    # One more pixel on each side for the differences.
    grid_x, grid_y = np.meshgrid(np.arange(-1, shape[1] + 1) + xy0[0], np.arange(-1, shape[0] + 1) + xy0[1])
    x, y = source.world_to_pixel_values(*target.pixel_to_world_values(grid_x, grid_y))
    (x_by_y, x_by_x), (y_by_y, y_by_x) = np.gradient(x), np.gradient(y)
    inner = np.s_[1:-1, 1:-1]
    return x[inner], y[inner], np.abs(x_by_x * y_by_y - x_by_y * y_by_x)[inner]


def resample(
    pixels: NDArray[Any],
    xy0: tuple[int, int],
    where: tuple[FloatArray, FloatArray, FloatArray],
    *,
    interpolation: Interpolation = "linear",
) -> NDArray[np.float32]:
    """Interpolate an image at the pixels of another grid, so that the sum over a source stays what it is.

    Parameters
    ----------
    pixels : ndarray, shape (ny, nx)
        The image.
    xy0 : (int, int)
        Parent coordinates of its first pixel.
    where : (ndarray, ndarray, ndarray)
        From `pixel_map`.
    interpolation : {"linear", "cubic"}
        Bilinear, or cubic splines, which blur less and ring around what is sharper than the sampling.

    Returns
    -------
    ndarray of float32, of the shape of the grid
        NaN where the image has no pixel, or one that is not finite.

    Raises
    ------
    ConfigError
        If there is no such interpolation.
    """
    from scipy.ndimage import map_coordinates

    if interpolation not in _ORDERS:
        raise ConfigError(
            f"the interpolation is {interpolation!r}", key="interpolation", fix="Give 'linear' or 'cubic'"
        )
    x, y, area = where
    # The same grid gives the same pixels: the rounding of a spline would put the last ones beyond the edge.
    at = np.round([y - xy0[1], x - xy0[0]], 8)
    at[~np.isfinite(at)] = -1e6
    bad = ~np.isfinite(pixels)
    clean = np.where(bad, 0.0, pixels).astype(np.float64)
    found = map_coordinates(clean, at, order=_ORDERS[interpolation], mode="constant", cval=np.nan, prefilter=True)
    if bad.any():
        found[map_coordinates(bad.astype(np.float32), at, order=1, mode="constant", cval=1.0) > 1e-6] = np.nan
    return np.asarray(found * area, dtype=np.float32)
