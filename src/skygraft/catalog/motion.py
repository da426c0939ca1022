"""Where sources are at a time, how fast they move there, and whether their window of time is open."""

from __future__ import annotations

import functools

import numpy as np
from astropy.table import QTable
from numpy.typing import NDArray

from skygraft.catalog.schema import BENDS, MOTION, WINDOW, values
from skygraft.errors import CatalogError
from skygraft.wcs.base import to_lonlat, to_vectors

__all__ = [
    "angular_rates",
    "check_motion",
    "excursions",
    "in_window",
    "is_moving",
    "is_open",
    "positions_at",
    "rates_at",
    "windows_of",
]

_MAS = np.radians(1.0 / 3.6e6)
_ARCSEC = np.radians(1.0 / 3600.0)
_MAS_PER_YEAR = _MAS / 365.25  # to radians per day
_ARCSEC_PER_HOUR = _ARCSEC * 24.0
_EARTH = 1.03
"""Largest distance of the Earth from the barycentre, au, rounded up."""
_MOST_BEND = 4.0 / 27.0
"""Largest value of s (1 - s)^2."""

type _Vectors = NDArray[np.float64]


def is_moving(table: QTable) -> NDArray[np.bool_]:
    """Return which rows have a proper motion or a rate, as booleans, shape (N,)."""
    return _any_of(table, MOTION)


def _any_of(table: QTable, names: tuple[str, ...]) -> NDArray[np.bool_]:
    """Which rows have a value other than 0 in one of some columns."""
    found = np.zeros(len(table), dtype=np.bool_)
    for name in names:
        if name in table.colnames:
            found |= np.nan_to_num(values(table, name)) != 0.0
    return found


def in_window(table: QTable, mjd: float | None) -> NDArray[np.bool_]:
    """Return which rows may be on an image of a time: ``mjd_from <= mjd < mjd_to``.

    Parameters
    ----------
    table : QTable
        Canonical table.
    mjd : float or None
        Mid-exposure, MJD in TAI, days. An image without a time gets the rows whose window has no limit.

    Returns
    -------
    ndarray of bool, shape (N,)
    """
    windows = windows_of(table)
    return is_open(windows, mjd) if len(windows) else np.ones(len(table), dtype=np.bool_)


def is_open(windows: NDArray[np.float64], mjd: float | None) -> NDArray[np.bool_]:
    """Return which windows, shape (N, 2), are open at a time; without a time, those that have no limit."""
    if mjd is None or not np.isfinite(mjd):
        return np.isnan(windows).all(axis=1)
    return ~(windows[:, 0] > mjd) & ~(windows[:, 1] <= mjd)


def windows_of(table: QTable) -> NDArray[np.float64]:
    """Return ``mjd_from`` and ``mjd_to`` of all rows, shape (N, 2), NaN for no limit; shape (0, 2) if none has one."""
    if not set(WINDOW) & set(table.colnames):
        return np.empty((0, 2))
    windows = np.column_stack([values(table, name) for name in WINDOW])
    return windows if np.isfinite(windows).any() else np.empty((0, 2))


def excursions(table: QTable) -> NDArray[np.float64]:
    """Return how far sources may be from their straight motion, by parallax and bends: arcsec, rounded up.

    Parameters
    ----------
    table : QTable
        Canonical table.

    Returns
    -------
    ndarray, shape (N,)
        Of shape (0,) if all move straight.
    """
    far = np.zeros(len(table))
    if "parallax" in table.colnames:
        far += np.nan_to_num(values(table, "parallax")) * 1e-3 * _EARTH
    for end in ("from", "to"):
        far += _MOST_BEND * np.hypot(*(np.nan_to_num(values(table, f"bend_{end}_{axis}")) for axis in _AXES))
    return far if far.any() else np.empty(0)


_AXES = ("east", "north")


def positions_at(table: QTable, mjd: float | None) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compute the positions of all sources at a time.

    A source moves along a great circle at a constant angular rate (the sum of proper motion and rate), starting at its
    ``epoch_mjd``; a piece of an ephemeris bends by a cubic in time away from it. The parallax is that of an observer at
    the centre of the Earth, whose barycentric position is that of the IAU's SOFA library (Simon et al. 1994; to some
    5e-8 au); the catalogue's position is then the barycentric one. Perspective acceleration, aberration and the
    deflection of light are not modelled.

    Parameters
    ----------
    table : QTable
        Canonical table.
    mjd : float or None
        Time, MJD in TAI, days; None if the image has no time, which is an error if a source moves. There is no parallax
        then.

    Returns
    -------
    ra, dec : ndarray, shape (N,)
        ICRS degrees, ra in [0, 360). Rows whose window of time (`in_window`) is closed stay where they are in the
        catalogue.

    Raises
    ------
    CatalogError
        If a source moves and the image has no time, or the source no epoch.
    """
    ra, dec = values(table, "ra"), values(table, "dec")
    moving, bent = is_moving(table), _any_of(table, BENDS)
    if (moving | bent).any():
        seen = in_window(table, mjd)
        moving, bent = moving & seen, bent & seen
    rows = np.flatnonzero(moving)
    start = to_vectors(ra[bent], dec[bent])
    if rows.size:
        epoch = values(table, "epoch_mjd")[rows]
        time = check_motion(values(table, "injection_id")[rows], epoch, mjd)
        east, north = (angular_rates(table[rows]) * (time - epoch)[:, None]).T
        ra[rows], dec[rows] = _along_great_circle(ra[rows], dec[rows], east, north)
    if bent.any() and mjd is not None:
        offsets, _ = _bends(table[bent], mjd)
        moved = to_vectors(ra[bent], dec[bent]) + _offset(start, values(table, "ra")[bent], offsets)
        ra[bent], dec[bent] = to_lonlat(moved)
    near = np.flatnonzero(_any_of(table, ("parallax",)))
    if near.size and mjd is not None and np.isfinite(mjd):
        angle = values(table, "parallax")[near] * _MAS
        ra[near], dec[near] = to_lonlat(to_vectors(ra[near], dec[near]) - angle[:, None] * _earth(float(mjd)))
    return ra, dec


def rates_at(table: QTable, mjd: float | None) -> NDArray[np.float64]:
    """Compute how fast sources move across the sky at a time by their rates and bends, without proper motion.

    Parameters
    ----------
    table : QTable
        Canonical table.
    mjd : float or None
        Time, MJD in TAI, days; without it the rates are those at each source's epoch.

    Returns
    -------
    ndarray, shape (N, 2)
        Arcsec per hour to the East (times cos(dec)) and to the North, at each source's position; 0 for rows whose
        window is closed.
    """
    rates = np.zeros((len(table), 2))
    moving = _any_of(table, (*RATES, *BENDS))
    if not moving.any():
        return rates
    rows = np.flatnonzero(moving & in_window(table, mjd))
    some = table[rows]
    own = np.column_stack([np.nan_to_num(values(some, name)) for name in RATES])
    if mjd is None or not np.isfinite(mjd):
        rates[rows] = own
        return rates
    ra = values(some, "ra")
    start = to_vectors(ra, values(some, "dec"))
    east, north = _axes(start, ra)
    path = angular_rates(some)
    days = np.nan_to_num(mjd - values(some, "epoch_mjd"))
    speed = np.hypot(*path.T)
    with np.errstate(invalid="ignore"):
        ahead = np.nan_to_num(path / speed[:, None])
    ahead = np.where(speed[:, None] > 0, ahead, [1.0, 0.0])
    along = ahead[:, :1] * east + ahead[:, 1:] * north
    across = ahead[:, :1] * north - ahead[:, 1:] * east
    arc = (speed * days)[:, None]
    place = np.cos(arc) * start + np.sin(arc) * along
    forward = np.cos(arc) * along - np.sin(arc) * start
    # A rate may point elsewhere than the sum of rate and proper motion: its angle to the way does not change.
    velocity = np.sum(own * ahead, axis=1)[:, None] * forward
    velocity += (own[:, 1] * ahead[:, 0] - own[:, 0] * ahead[:, 1])[:, None] * across
    offsets, slopes = _bends(some, mjd)
    place = place + _offset(start, ra, offsets)
    velocity = velocity + _offset(start, ra, slopes / _ARCSEC / 24.0)
    length = np.linalg.norm(place, axis=1, keepdims=True)
    east, north = _axes(place / length, to_lonlat(place)[0])
    rates[rows] = np.column_stack([np.sum(velocity * axis, axis=1) for axis in (east, north)]) / length
    return rates


RATES = ("rate_ra_cosdec", "rate_dec")


def angular_rates(table: QTable) -> NDArray[np.float64]:
    """Return the motion of all sources to the East and North (proper motion plus rate), radians per day, shape (N, 2).

    Missing values mean no motion.
    """
    rates = np.zeros((len(table), 2))
    for name in MOTION:
        if name in table.colnames:
            unit = _MAS_PER_YEAR if name.startswith("pm_") else _ARCSEC_PER_HOUR
            rates[:, 0 if "_ra_" in name else 1] += np.nan_to_num(values(table, name)) * unit
    return rates


def check_motion(ids: NDArray[np.int64], epoch: NDArray[np.float64], mjd: float | None) -> float:
    """Check that the positions of moving sources are defined at a time, and return the time.

    Parameters
    ----------
    ids : ndarray, shape (N,)
        Injection ids of the moving sources, N >= 1.
    epoch : ndarray, shape (N,)
        Epochs of their catalogue positions, MJD TAI.
    mjd : float or None
        Time of the image, as in `positions_at`.

    Returns
    -------
    float
        `mjd`.

    Raises
    ------
    CatalogError
        If there is no time, or a source has no epoch.
    """
    if mjd is None or not np.isfinite(mjd):
        raise CatalogError(
            f"{ids.size} sources move, but the image does not say when it was taken",
            row=f"injection_id {ids[0]}",
            key="mjd",
            fix="Give the image's mid-exposure time, or remove the motions",
        )
    if not np.isfinite(epoch).all():
        raise CatalogError(
            "a moving source has no epoch",
            row=f"injection_id {ids[~np.isfinite(epoch)][0]}",
            key="epoch_mjd",
            fix="Fill epoch_mjd with the time (MJD, TAI) at which the source is at (ra, dec)",
        )
    return mjd


def _along_great_circle(
    ra: NDArray[np.float64], dec: NDArray[np.float64], east: NDArray[np.float64], north: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Move (ra, dec) degrees by an arc whose first direction and length are (east, north) radians."""
    a, d = np.radians(ra), np.radians(dec)
    arc = np.hypot(east, north)
    # sin(arc)/arc, which is 1 for a source at its epoch.
    scale = np.sinc(arc / np.pi)
    step_east, step_north = east * scale, north * scale
    x = np.cos(arc) * np.cos(d) - step_north * np.sin(d)  # along the meridian of the start
    y = step_east
    z = np.cos(arc) * np.sin(d) + step_north * np.cos(d)
    new_ra = np.degrees(a + np.arctan2(y, x)) % 360.0
    new_ra[new_ra >= 360.0] = 0.0  # the modulo of a tiny negative angle is 360
    return new_ra, np.degrees(np.arctan2(z, np.hypot(x, y)))


def _axes(vectors: _Vectors, ra: NDArray[np.float64]) -> tuple[_Vectors, _Vectors]:
    """Unit vectors to the East and North at some directions, which at a pole are those of the given `ra`, degrees."""
    a = np.radians(ra)
    east = np.column_stack([-np.sin(a), np.cos(a), np.zeros_like(a)])
    return east, np.cross(vectors, east)


def _offset(start: _Vectors, ra: NDArray[np.float64], offsets: NDArray[np.float64]) -> _Vectors:
    """Offsets (East, North at `start`) as vectors."""
    east, north = _axes(start, ra)
    return offsets[:, :1] * east + offsets[:, 1:] * north


def _bends(table: QTable, mjd: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Offsets from the straight way (radians) and their change (radians per day), East and North, shape (N, 2).

    They are cubics in s, which goes from 0 at ``mjd_from`` to 1 at ``mjd_to``: they vanish at both ends, where their
    derivatives by s are ``bend_from_*`` and ``bend_to_*``.
    """
    begin, end = (values(table, name) for name in WINDOW)
    length = end - begin
    usable = length > 0
    length = np.where(usable, length, 1.0)
    s = np.clip(np.where(usable, (mjd - begin) / length, 0.0), 0.0, 1.0)[:, None]
    first, last = (
        np.column_stack([np.nan_to_num(values(table, f"bend_{which}_{axis}")) for axis in _AXES]) * _ARCSEC
        for which in ("from", "to")
    )
    offsets = first * s * (1 - s) ** 2 - last * s**2 * (1 - s)
    slopes = (first * (1 - s) * (1 - 3 * s) + last * s * (3 * s - 2)) / length[:, None]
    return offsets, np.where(usable[:, None], slopes, 0.0)


@functools.lru_cache(maxsize=1024)
def _earth(mjd: float) -> NDArray[np.float64]:
    """The barycentric position of the Earth's centre, au, ICRS axes."""
    from astropy.coordinates import get_body_barycentric
    from astropy.time import Time

    place = get_body_barycentric("earth", Time(mjd, format="mjd", scale="tai"), ephemeris="builtin")
    return np.asarray(place.xyz.to_value("au"), dtype=np.float64)
