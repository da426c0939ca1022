"""Select what one image needs from a catalogue: positions at its time, magnitudes in its band, rows of its visit."""

from __future__ import annotations

import numpy as np
from astropy.table import QTable
from numpy.typing import NDArray

from skygraft.catalog.schema import MOTION, bands_of, values
from skygraft.errors import CatalogError

__all__ = ["angular_rates", "band_column", "check_motion", "is_moving", "positions_at", "select_for_visit"]

_MAS_PER_YEAR = np.radians(1.0 / 3.6e6) / 365.25  # to radians per day
_ARCSEC_PER_HOUR = np.radians(1.0 / 3600.0) * 24.0


def is_moving(table: QTable) -> NDArray[np.bool_]:
    """Return which rows have a proper motion or a rate, as booleans, shape (N,)."""
    moving = np.zeros(len(table), dtype=np.bool_)
    for name in MOTION:
        if name in table.colnames:
            moving |= np.nan_to_num(values(table, name)) != 0.0
    return moving


def positions_at(table: QTable, mjd: float | None) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compute the positions of all sources at a time.

    A source moves along a great circle at a constant angular rate (the sum of proper motion and rate), starting at its
    ``epoch_mjd``. Parallax, perspective acceleration and the curvature of orbits are not modelled.

    Parameters
    ----------
    table : QTable
        Canonical table.
    mjd : float or None
        Time, MJD in TAI, days; None if the image has no time, which is an error if a source moves.

    Returns
    -------
    ra, dec : ndarray, shape (N,)
        ICRS degrees, ra in [0, 360).

    Raises
    ------
    CatalogError
        If a source moves and the image has no time, or the source no epoch.
    """
    ra, dec = values(table, "ra"), values(table, "dec")
    moving = is_moving(table)
    if not moving.any():
        return ra, dec
    rows = np.flatnonzero(moving)
    epoch = values(table, "epoch_mjd")[rows]
    mjd = check_motion(values(table, "injection_id")[rows], epoch, mjd)
    days = mjd - epoch
    east, north = (angular_rates(table[rows]) * days[:, None]).T
    ra[rows], dec[rows] = _along_great_circle(ra[rows], dec[rows], east, north)
    return ra, dec


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


def select_for_visit(table: QTable, visit: int | None) -> QTable:
    """Select the rows for a visit: those for all visits (``visit`` is -1, or there is no such column) and for this one.

    A campaign does this itself; `skygraft.inject` injects all rows that it is given.

    Parameters
    ----------
    table : QTable
        Canonical table.
    visit : int or None
        The visit; None for an image without visit (a coadd), which gets only the rows for all visits.

    Returns
    -------
    QTable
        The table itself if all rows are selected, otherwise a copy.
    """
    if "visit" not in table.colnames:
        return table
    wanted = values(table, "visit")
    keep = wanted == -1
    if visit is not None:
        keep |= wanted == visit
    return table if keep.all() else table[keep]


def band_column(table: QTable, band: str | None) -> NDArray[np.float64]:
    """Return the AB magnitudes in a band, shape (N,); NaN for sources that are not in the band.

    Parameters
    ----------
    table : QTable
        Canonical table.
    band : str or None
        Band of the image; None (unknown) is allowed if the table has only one band.

    Returns
    -------
    ndarray

    Raises
    ------
    CatalogError
        If the table does not have the band; the error names the bands that it has.
    """
    bands = bands_of(table)
    if band is not None and band in bands:
        return values(table, f"mag_{band}")
    # A plain `mag`, as in a table made by hand, applies to any image.
    if not bands and "mag" in table.colnames:
        return values(table, "mag")
    if band is None and len(bands) == 1:
        return values(table, f"mag_{bands[0]}")
    have = ", ".join(bands) or "none"
    if band is None:
        raise CatalogError(
            f"the image does not say its band, and the catalogue has several: {have}",
            key="band",
            fix="Give the image's band",
        )
    raise CatalogError(
        f"the catalogue has no magnitudes in band {band!r}; it has {have}",
        key=f"mag_{band}",
        fix=f"Add a column mag_{band}, or choose images of another band",
    )
