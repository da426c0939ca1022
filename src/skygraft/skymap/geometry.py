"""Positions on the sphere: validation, gnomonic projection, and the bounds of a circle."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skygraft.errors import SkyMapError

__all__ = ["LonLatBounds", "check_positions", "circle_bounds", "tan_project"]

type FloatArray = NDArray[np.float64]

# Bounds are widened by this (degrees, 4 micro-arcsec) so that rounding cannot lose a position on an edge.
_GUARD = 1e-9


def check_positions(ra: ArrayLike, dec: ArrayLike) -> tuple[FloatArray, FloatArray, tuple[int, ...]]:
    """Broadcast positions, check that they are on the sphere, and flatten them.

    Parameters
    ----------
    ra, dec : array_like
        Degrees.

    Returns
    -------
    ra, dec : ndarray of float64, shape (N,)
    shape : tuple of int
        The broadcast shape of the input.

    Raises
    ------
    SkyMapError
        If a right ascension is outside 0..360, a declination outside -90..90, or either is NaN; names the first row.
    """
    ra, dec = np.broadcast_arrays(np.asarray(ra, dtype=np.float64), np.asarray(dec, dtype=np.float64))
    shape = ra.shape
    lon, lat = ra.ravel(), dec.ravel()
    for name, values, low, high in (("ra", lon, 0.0, 360.0), ("dec", lat, -90.0, 90.0)):
        bad = ~((values >= low) & (values <= high))
        if bad.any():
            row = int(np.argmax(bad))
            raise SkyMapError(
                f"{name} = {values[row]} is not within {low:g}..{high:g} degrees",
                row=row,
                key=name,
                fix="Give positions in degrees (radians? sexagesimal?), right ascension within 0..360",
            )
    return lon, lat, shape


def tan_project(
    ra: ArrayLike, dec: ArrayLike, center_ra: ArrayLike, center_dec: ArrayLike
) -> tuple[FloatArray, FloatArray]:
    """Project positions gnomonically (TAN; Calabretta & Greisen 2002, section 5.1.3).

    Parameters
    ----------
    ra, dec : array_like
        Positions, degrees.
    center_ra, center_dec : array_like
        Tangent point, degrees: one for all positions, or one per position.

    Returns
    -------
    xi, eta : ndarray of float64
        Standard coordinates in degrees, xi to the East and eta to the North; NaN 90 degrees or more from the centre.
    """
    shift = np.radians(np.asarray(ra, float) - np.asarray(center_ra, float))
    lat, lat0 = np.radians(np.asarray(dec, float)), np.radians(np.asarray(center_dec, float))
    cos_lat = np.cos(lat)
    # Half angles avoid cancellation near the centre.
    across = 2.0 * np.sin(shift / 2.0) ** 2
    depth = np.cos(lat - lat0) - cos_lat * np.cos(lat0) * across
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = np.where(depth > 1e-12, np.degrees(1.0) / depth, np.nan)
    xi = cos_lat * np.sin(shift) * scale
    eta = (np.sin(lat - lat0) + cos_lat * np.sin(lat0) * across) * scale
    return xi, eta


@dataclass(frozen=True)
class LonLatBounds:
    """A range of right ascension and declination, in degrees.

    `ra_min` is in [0, 360) and `ra_max` may exceed 360: a range across RA = 0 is not split.
    """

    ra_min: float
    ra_max: float
    dec_min: float
    dec_max: float

    @property
    def all_ra(self) -> bool:
        """True if it covers all right ascensions."""
        return self.ra_max - self.ra_min >= 360.0


def circle_bounds(ra: float, dec: float, radius: float) -> LonLatBounds:
    """Range of right ascension and declination that encloses a circle on the sky.

    Parameters
    ----------
    ra, dec : float
        Centre, ICRS degrees.
    radius : float
        Degrees.

    Returns
    -------
    LonLatBounds
        All right ascensions where the circle contains a pole.
    """
    radius = radius + _GUARD
    low, high = dec - radius, dec + radius
    if low <= -90.0 or high >= 90.0:
        return LonLatBounds(0.0, 360.0, max(low, -90.0), min(high, 90.0))
    half_width = math.degrees(math.asin(min(1.0, math.sin(math.radians(radius)) / math.cos(math.radians(dec)))))
    start = (ra - half_width) % 360.0
    return LonLatBounds(start, start + 2.0 * half_width, low, high)
