"""The local map from pixels to the sky as the pipelines' afw linearises it."""

from __future__ import annotations

import math

import numpy as np
from astropy.wcs.wcsapi import BaseLowLevelWCS
from numpy.typing import ArrayLike, NDArray

from skygraft.wcs.base import CelestialWcs

__all__ = ["forward_jacobians"]

_RADIANS = math.pi / (180 * 3600)
"""Of an arcsecond."""


def forward_jacobians(
    wcs: BaseLowLevelWCS, ra: ArrayLike, dec: ArrayLike, x: ArrayLike, y: ArrayLike
) -> NDArray[np.float64]:
    """Compute the sky offset of the next pixel in x and in y, as afw's ``linearizePixelToSky`` does.

    Parameters
    ----------
    wcs : BaseLowLevelWCS
        Pixels (x, y) to (ra, dec) in degrees.
    ra, dec : array_like, shape (N,)
        Sources, degrees.
    x, y : array_like, shape (N,)
        Where `wcs` puts them, parent pixels.

    Returns
    -------
    ndarray of float64, shape (N, 2, 2)
        Arcseconds per pixel: rows (East, North), columns (x, y). NaN where the WCS has no sky position.

    Notes
    -----
    It differs from `skygraft.wcs.local_jacobian` in three ways. Differences are one-sided. They are taken from the
    source's sky position, not from where its pixel position comes back to, which is another place where a WCS has no
    exact inverse (0.7 per cent of a pixel on a real CFHT detector). And two cosines of the gnomonic projection are in
    the wrong place: one part in 10^6 at middle declinations, 10^5 at 80 degrees.
    """
    ra, dec, x, y = (np.atleast_1d(np.asarray(v, dtype=np.float64)) for v in (ra, dec, x, y))
    next_x, next_y = np.concatenate([x + 1.0, x]), np.concatenate([y, y + 1.0])
    if isinstance(wcs, CelestialWcs):
        to_lon, to_lat = wcs.pixel_to_world_radians(next_x, next_y)
    else:
        to_lon, to_lat = np.radians(wcs.pixel_to_world_values(next_x, next_y))
    lon, lat = np.tile(np.radians(ra), 2), np.tile(np.radians(dec), 2)
    offsets = [_offset(*place) for place in zip(lon, lat, to_lon % math.tau, to_lat, strict=True)]
    # One after the other: (East, North) of the next pixel in x of all sources, then of the next in y.
    jacobians = np.array(offsets, dtype=np.float64).reshape(2, x.size, 2) / _RADIANS
    return np.ascontiguousarray(jacobians.transpose(1, 2, 0))


def _offset(lon: float, lat: float, to_lon: float, to_lat: float) -> tuple[float, float]:
    """Compute the offset to East and North of one place from another, all in radians.

    By the C library's functions: a last digit can make GalSim take another size for the transform of a trail, which
    changes its pixels by 4e-5 of its peak.
    """
    if not (math.isfinite(to_lon) and math.isfinite(to_lat)):
        return math.nan, math.nan
    sin_lat, cos_lat, to_sin_lat, to_cos_lat = math.sin(lat), math.cos(lat), math.sin(to_lat), math.cos(to_lat)
    cos_difference = math.cos(to_lon - lon)
    depth = cos_lat * cos_difference * to_cos_lat + sin_lat * to_sin_lat
    if depth == 0.0:
        return math.nan, math.nan
    east = cos_lat * math.sin(to_lon - lon) / depth
    return east, (cos_lat * cos_difference * to_sin_lat - sin_lat * to_cos_lat) / depth
