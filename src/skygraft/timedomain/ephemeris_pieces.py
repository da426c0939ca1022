"""The path of an object through the rows of its ephemeris, cut into pieces.

Between two rows the object goes along the great circle that joins them, at a constant rate, and a cubic in time bends
the path so that it has the rate of each row at its end: cubic Hermite interpolation, whose error grows as the fourth
power of the time between the rows. Without rates in the table they are those of a cubic spline through the positions.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from skygraft.wcs.base import to_lonlat, to_vectors

__all__ = ["EDGE", "STILL_EDGE", "Pieces", "clip_pieces", "make_pieces", "tangent_rates"]

EDGE = 300.0 / 86400.0
"""Days before the first and after the last row of a run that the object's rate is followed."""
STILL_EDGE = 30.0 / 86400.0
"""Days before and after a lone row without a rate at which the object is there, without motion."""
_ARCSEC = np.radians(1.0 / 3600.0)
_FURTHEST = 0.5
"""Cosine of the largest angle between two rows of a piece."""

type _Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Pieces:
    """Pieces of the paths of objects, sorted by object and time.

    Parameters
    ----------
    owner : ndarray of int, shape (P,)
        The object of each.
    mjd_from, mjd_to : ndarray, shape (P,)
        Its window of time, MJD TAI; those of an object do not overlap.
    ra, dec, epoch_mjd : ndarray, shape (P,)
        Its position (degrees) at a time.
    rate_ra_cosdec, rate_dec : ndarray, shape (P,)
        Arcsec per hour, at that time.
    bend_from_east, bend_from_north, bend_to_east, bend_to_north : ndarray, shape (P,)
        Arcsec; see `skygraft.catalog.motion`.
    """

    owner: NDArray[np.int64]
    mjd_from: _Array
    mjd_to: _Array
    ra: _Array
    dec: _Array
    epoch_mjd: _Array
    rate_ra_cosdec: _Array
    rate_dec: _Array
    bend_from_east: _Array
    bend_from_north: _Array
    bend_to_east: _Array
    bend_to_north: _Array

    def __len__(self) -> int:
        return len(self.owner)

    def take(self, which: NDArray[np.intp] | NDArray[np.bool_]) -> Pieces:
        """Return some of them."""
        return Pieces(*(getattr(self, f.name)[which] for f in fields(self)))


def tangent_rates(ra: _Array, dec: _Array, rates: _Array) -> _Array:
    """Return rates to the East and North, arcsec per hour, shape (N, 2), as vectors, radians per day, shape (N, 3)."""
    east, north = _axes(to_vectors(ra, dec))
    return np.asarray((rates[:, :1] * east + rates[:, 1:] * north) * _ARCSEC * 24.0)


def make_pieces(
    owner: NDArray[np.int64], mjd: _Array, ra: _Array, dec: _Array, rates: _Array | None, gaps: _Array
) -> Pieces:
    """Cut ephemerides into pieces.

    Parameters
    ----------
    owner : ndarray of int, shape (N,)
        The object of each row, 0 to K - 1, ascending.
    mjd : ndarray, shape (N,)
        Times, ascending for each object, without repetitions.
    ra, dec : ndarray, shape (N,)
        Degrees.
    rates : ndarray, shape (N, 2), or None
        To the East (times cos(dec)) and North, arcsec per hour.
    gaps : ndarray, shape (K,)
        The longest time of a piece of each object, days.

    Returns
    -------
    Pieces
    """
    n = len(owner)
    places = to_vectors(ra, dec)
    step = np.diff(mjd)
    same = np.diff(owner) == 0
    joined = same & (step <= gaps[owner[:-1]]) & (np.sum(places[1:] * places[:-1], axis=1) > _FURTHEST)
    begins, ends = np.r_[True, ~joined], np.r_[~joined, True]
    if rates is None:
        speed = _spline_rates(places, mjd, begins, ends)
        still = begins & ends
    else:
        speed = tangent_rates(ra, dec, rates)
        still = np.zeros(n, dtype=np.bool_)
    first = np.flatnonzero(joined)
    between = _between(owner[first], mjd[first], mjd[first + 1], places[first], places[first + 1], speed, first)
    # Half the time to the next row is its own, if that is near and yet not joined.
    room = np.where(same, 0.5 * step, np.inf)
    edge = np.where(still, STILL_EDGE, EDGE)
    before = np.where(begins, np.minimum(edge, np.r_[np.inf, room]), 0.0)
    after = np.where(ends, np.minimum(edge, np.r_[room, np.inf]), 0.0)
    alone = np.flatnonzero(begins | ends)
    some = [between]
    east, north = _axes(places)
    own = np.column_stack([np.sum(speed * axis, axis=1) for axis in (east, north)]) / (_ARCSEC * 24.0)
    for rows, start, stop in (
        (alone[begins[alone]], mjd - before, np.where(begins & ends, mjd + after, mjd)),
        (alone[ends[alone] & ~begins[alone]], mjd, mjd + after),
    ):
        zeros = np.zeros(len(rows))
        some.append(
            Pieces(
                owner[rows], start[rows], stop[rows], ra[rows], dec[rows], mjd[rows],
                own[rows, 0], own[rows, 1], zeros, zeros, zeros, zeros,
            )
        )  # fmt: skip
    whole = Pieces(*(np.concatenate([getattr(part, f.name) for part in some]) for f in fields(Pieces)))
    return whole.take(np.lexsort((whole.mjd_from, whole.owner)))


def clip_pieces(pieces: Pieces, begin: _Array, end: _Array) -> Pieces:
    """Limit pieces to times from `begin` to `end`, each shape (P,), NaN for no limit; those outside are left out."""
    start, stop = np.fmax(pieces.mjd_from, begin), np.fmin(pieces.mjd_to, end)
    keep = start < stop
    cut = np.flatnonzero(keep & ((start > pieces.mjd_from) | (stop < pieces.mjd_to)))
    arrays = {f.name: getattr(pieces, f.name).copy() for f in fields(Pieces)}
    if cut.size:
        some = pieces.take(cut)
        (first, begins), (last, ends) = (_followed(some, time) for time in (start[cut], stop[cut]))
        speeds = np.stack([begins, ends], axis=1).reshape(-1, 3)
        rows = 2 * np.arange(len(cut))
        new = _between(some.owner, start[cut], stop[cut], first, last, speeds, rows)
        for f in fields(Pieces):
            arrays[f.name][cut] = getattr(new, f.name)
    return Pieces(**arrays).take(keep)


def _followed(pieces: Pieces, mjd: _Array) -> tuple[_Array, _Array]:
    """Place (unit vectors) and rate (radians per day, along the sky) of each piece at a time of its own."""
    start = to_vectors(pieces.ra, pieces.dec)
    speed = tangent_rates(pieces.ra, pieces.dec, np.column_stack([pieces.rate_ra_cosdec, pieces.rate_dec]))
    rate = np.linalg.norm(speed, axis=1, keepdims=True)
    with np.errstate(invalid="ignore"):
        ahead = np.where(rate > 0, speed / rate, 0.0)
    arc = rate * (mjd - pieces.epoch_mjd)[:, None]
    place, velocity = np.cos(arc) * start + np.sin(arc) * ahead, rate * (np.cos(arc) * ahead - np.sin(arc) * start)
    length = (pieces.mjd_to - pieces.mjd_from)[:, None]
    s = (mjd - pieces.mjd_from)[:, None] / length
    east, north = _axes(start)
    first, last = (
        (getattr(pieces, f"bend_{end}_east")[:, None] * east + getattr(pieces, f"bend_{end}_north")[:, None] * north)
        * _ARCSEC
        for end in ("from", "to")
    )
    place = place + first * s * (1 - s) ** 2 - last * s**2 * (1 - s)
    velocity = velocity + (first * (1 - s) * (1 - 3 * s) + last * s * (3 * s - 2)) / length
    size = np.linalg.norm(place, axis=1, keepdims=True)
    place = place / size
    velocity = velocity / size
    return place, velocity - np.sum(velocity * place, axis=1, keepdims=True) * place


def _axes(places: _Array) -> tuple[_Array, _Array]:
    """Unit vectors to the East and North at some directions."""
    lon, _ = to_lonlat(places)
    a = np.radians(lon)
    east = np.column_stack([-np.sin(a), np.cos(a), np.zeros_like(a)])
    return east, np.cross(places, east)


def _between(
    owner: NDArray[np.int64],
    begin: _Array,
    end: _Array,
    start: _Array,
    stop: _Array,
    speed: _Array,
    first: NDArray[np.intp],
) -> Pieces:
    """The pieces from each row `first` to the next; `speed` are the rates of all rows as vectors."""
    length = (end - begin)[:, None]
    chord = stop - start
    half = np.linalg.norm(chord, axis=1, keepdims=True) / 2
    arc = 2 * np.arcsin(np.minimum(half, 1.0))
    middle = start + stop
    middle /= np.linalg.norm(middle, axis=1, keepdims=True)
    with np.errstate(invalid="ignore"):
        forward = np.where(half > 0, chord / (2 * half), 0.0)
    straight = arc / length
    ra, dec = to_lonlat(middle)
    east, north = _axes(middle)
    rate = [np.sum(straight * forward * axis, axis=1) / (_ARCSEC * 24.0) for axis in (east, north)]
    bends = []
    for place, sign, rows in ((start, 1.0, first), (stop, -1.0, first + 1)):
        # The straight way's direction at its ends, half the arc from where it is `forward`.
        ahead = np.cos(arc / 2) * forward + sign * np.sin(arc / 2) * middle
        wanted = (speed[rows] - straight * ahead) * length
        tangents = _axes(place)
        matrix = np.array([[np.sum(a * t, axis=1) for a in (east, north)] for t in tangents])
        right = np.stack([np.sum(wanted * t, axis=1) for t in tangents], axis=-1)
        found = np.linalg.solve(np.moveaxis(matrix, -1, 0), right[:, :, None])[:, :, 0] / _ARCSEC
        bends += [found[:, 0], found[:, 1]]
    return Pieces(owner, begin, end, ra, dec, (begin + end) / 2, rate[0], rate[1], *bends)


def _spline_rates(places: _Array, mjd: _Array, begins: NDArray[np.bool_], ends: NDArray[np.bool_]) -> _Array:
    """Rates from the positions of each run of rows, radians per day: of a line through two, a spline through more."""
    from scipy.interpolate import CubicSpline

    speed = np.zeros_like(places)
    for start, last in zip(np.flatnonzero(begins).tolist(), np.flatnonzero(ends).tolist(), strict=True):
        rows = slice(start, last + 1)
        if last > start:
            spline = CubicSpline(mjd[rows] - mjd[start], places[rows])
            speed[rows] = spline(mjd[rows] - mjd[start], 1)
    # Along the sky only: the spline leaves the sphere by little.
    return speed - np.sum(speed * places, axis=1, keepdims=True) * places
