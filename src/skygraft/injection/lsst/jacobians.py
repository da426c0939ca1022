"""The local map from pixels to the sky as the pipelines' afw linearises it."""

from __future__ import annotations

import numpy as np
from astropy.wcs.wcsapi import BaseLowLevelWCS
from numpy.typing import ArrayLike, NDArray

__all__ = ["forward_jacobians"]

_ARCSEC = np.degrees(1.0) * 3600.0


def forward_jacobians(
    wcs: BaseLowLevelWCS, ra: ArrayLike, dec: ArrayLike, x: ArrayLike, y: ArrayLike
) -> NDArray[np.float64]:
    """How the sky moves over the next pixel in x and in y, as afw's ``linearizePixelToSky`` has it.

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
    exact inverse (0.7 per cent of a pixel on a real CFHT detector). And the offset to the East is multiplied by the
    cosine of the wrong declination, by one part in 10^6 a pixel.
    """
    ra, dec, x, y = (np.atleast_1d(np.asarray(v, dtype=np.float64)) for v in (ra, dec, x, y))
    next_ra, next_dec = wcs.pixel_to_world_values(np.concatenate([x + 1.0, x]), np.concatenate([y, y + 1.0]))
    lon, lat = np.tile(np.radians(ra), 2), np.tile(np.radians(dec), 2)
    to_lon, to_lat = np.radians(next_ra), np.radians(next_dec)
    with np.errstate(invalid="ignore", divide="ignore"):
        cos_difference = np.cos(to_lon - lon)
        depth = np.cos(lat) * cos_difference * np.cos(to_lat) + np.sin(lat) * np.sin(to_lat)
        east = np.cos(lat) * np.sin(to_lon - lon) / depth
        north = (np.cos(lat) * cos_difference * np.sin(to_lat) - np.sin(lat) * np.cos(to_lat)) / depth
    jacobians: NDArray[np.float64] = np.stack([east, north]).reshape(2, 2, x.size).transpose(2, 0, 1) * _ARCSEC
    return np.ascontiguousarray(jacobians)
