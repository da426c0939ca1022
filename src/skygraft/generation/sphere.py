"""Offsets on the sky: from positions along great circles, and in tangent planes, exactly at poles and across ra 0."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skygraft.wcs.base import to_lonlat

__all__ = ["Moved", "along_great_circles", "from_tangent_plane"]

type Array = NDArray[np.float64]

ARCSEC = np.radians(1.0 / 3600.0)


@dataclass(frozen=True, eq=False)
class Moved:
    """Positions on the sky that were reached from others.

    Parameters
    ----------
    ra, dec : ndarray, shape (N,)
        Degrees, ra in [0, 360).
    turn : ndarray, shape (N,)
        Degrees by which the position angle of a direction changes when it is carried along the great circle from the
        start, because the directions of North at both ends differ.
    """

    ra: Array
    dec: Array
    turn: Array


def _frame(ra: Array, dec: Array) -> tuple[Array, Array, Array]:
    """Return unit vectors, shape (N, 3), to the position, East and North; at a pole, along the meridian given."""
    a, d = np.radians(ra), np.radians(dec)
    zero = np.zeros_like(a)
    # Exactly at a pole the cosine of pi/2 is 6e-17, which is the meridian that is wanted.
    place = np.stack([np.cos(d) * np.cos(a), np.cos(d) * np.sin(a), np.sin(d)], axis=-1)
    east = np.stack([-np.sin(a), np.cos(a), zero], axis=-1)
    north = np.stack([-np.sin(d) * np.cos(a), -np.sin(d) * np.sin(a), np.cos(d)], axis=-1)
    return place, east, north


def along_great_circles(ra: ArrayLike, dec: ArrayLike, separation: ArrayLike, pa: ArrayLike) -> Moved:
    """Move from positions along great circles.

    Parameters
    ----------
    ra, dec : array_like
        Degrees. They are broadcast with the others.
    separation : array_like
        Length of the arc, arcsec.
    pa : array_like
        Position angle of its beginning, degrees from North through East.

    Returns
    -------
    Moved
        Of the broadcast shape.
    """
    given = (np.asarray(one, dtype=np.float64) for one in (ra, dec, separation, pa))
    ra, dec, separation, pa = np.broadcast_arrays(*given)
    arc, angle = separation * ARCSEC, np.radians(pa)
    place, east, north = _frame(ra, dec)
    ahead = np.sin(angle)[..., None] * east + np.cos(angle)[..., None] * north
    new = np.cos(arc)[..., None] * place + np.sin(arc)[..., None] * ahead
    onward = np.cos(arc)[..., None] * ahead - np.sin(arc)[..., None] * place
    lon, lat = to_lonlat(new)
    # Where nothing moves, positions stay what they are to the last digit.
    new_ra, new_dec = np.where(arc == 0, ra % 360.0, lon), np.where(arc == 0, dec, lat)
    _, new_east, new_north = _frame(new_ra, new_dec)
    bearing = np.arctan2(np.sum(onward * new_east, axis=-1), np.sum(onward * new_north, axis=-1))
    turn = np.degrees(bearing - angle)
    return Moved(new_ra, new_dec, (turn + 180.0) % 360.0 - 180.0)


def from_tangent_plane(ra: ArrayLike, dec: ArrayLike, east: ArrayLike, north: ArrayLike) -> Moved:
    """Move from positions by offsets in the planes that touch the sky there (gnomonic projection).

    These are standard coordinates, those of a TAN image (Calabretta & Greisen 2002, section 5.1.3): 1 degree in the
    plane is an arc of 1 degree less 0.37 arcsec.

    Parameters
    ----------
    ra, dec : array_like
        Tangent points, degrees.
    east, north : array_like
        Offsets in the plane, arcsec.

    Returns
    -------
    Moved
    """
    east, north = np.asarray(east, dtype=np.float64), np.asarray(north, dtype=np.float64)
    arc = np.arctan(np.hypot(east, north) * ARCSEC) / ARCSEC
    return along_great_circles(ra, dec, arc, np.degrees(np.arctan2(east, north)))
