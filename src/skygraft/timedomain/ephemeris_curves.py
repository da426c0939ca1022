"""The magnitudes of ephemerides as light curves: one for each piece of an object's path, over the time of that piece.

So a piece needs only the magnitudes of its own time, however long the ephemeris is, and does not change with other
parts of the ephemeris.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from skygraft.photometry.units import AB_REFERENCE_FLUX_NJY
from skygraft.timedomain.ephemeris_pieces import EDGE, Pieces
from skygraft.timedomain.ephemeris_tables import EphemerisRows
from skygraft.timedomain.light_curves import LightCurves

__all__ = ["curve_names", "joined_curves", "piece_curves"]


def curve_names(rows: EphemerisRows, pieces: Pieces) -> NDArray[np.str_]:
    """Return the id of each piece's light curve, shape (P,): the object's, and when the piece begins."""
    names = rows.names[pieces.owner].tolist()
    times = pieces.mjd_from.tolist()
    return np.array([f"ephemeris {a} {t:.6f}" for a, t in zip(names, times, strict=True)], dtype=np.str_)


def piece_curves(rows: EphemerisRows, pieces: Pieces) -> dict[str, NDArray[Any]]:
    """Make the light curves of pieces: linear in flux between the rows of an object that have a magnitude in a band.

    Before the first of these rows and after the last the magnitude stays what it is for as long as the position is
    known there.

    Parameters
    ----------
    rows : EphemerisRows
        The table.
    pieces : Pieces
        All pieces of its objects.

    Returns
    -------
    dict of str to ndarray
        A table of light curves: ``id``, ``mjd``, ``band``, ``flux`` (nJy).
    """
    names = curve_names(rows, pieces)
    found: list[tuple[NDArray[Any], ...]] = []
    for band in sorted(rows.mags):
        at = np.flatnonzero(np.isfinite(rows.mags[band]))
        owner, mjd = rows.owner[at], rows.mjd[at]
        flux = AB_REFERENCE_FLUX_NJY * 10.0 ** (-0.4 * rows.mags[band][at])
        first, last = np.r_[True, np.diff(owner) != 0], np.r_[np.diff(owner) != 0, True]
        begin, end = np.full(len(rows.names), np.inf), np.full(len(rows.names), -np.inf)
        begin[owner[first]], end[owner[last]] = mjd[first] - EDGE, mjd[last] + EDGE
        start = np.maximum(pieces.mjd_from, begin[pieces.owner])
        stop = np.minimum(pieces.mjd_to, end[pieces.owner])
        seen = np.flatnonzero(start <= stop)
        times = np.stack([start, np.clip(pieces.epoch_mjd, start, np.maximum(start, stop)), stop], axis=1)[seen]
        fluxes = _interpolated(owner, mjd, flux, np.repeat(pieces.owner[seen], 3), times.reshape(-1))
        new = np.r_[True, ~((np.diff(np.repeat(seen, 3)) == 0) & (np.diff(times.reshape(-1)) == 0))][: times.size]
        ids = np.repeat(names[seen], 3)[new]
        found.append((ids, times.reshape(-1)[new], np.full(len(ids), band), fluxes[new]))
    if not found:
        return {"id": np.empty(0, "U1"), "mjd": np.empty(0), "band": np.empty(0, "U1"), "flux": np.empty(0)}
    columns = (np.concatenate(column) for column in zip(*found, strict=True))
    return dict(zip(("id", "mjd", "band", "flux"), columns, strict=True))


def _interpolated(
    owner: NDArray[np.int64],
    mjd: NDArray[np.float64],
    flux: NDArray[np.float64],
    whose: NDArray[np.int64],
    when: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Interpolate between the rows of each object, sorted by object and time; beyond them the nearest counts."""
    if not len(when):
        return np.empty(0)
    # The place of each time among the rows of all objects, by sorting both together.
    order = np.lexsort((np.r_[np.zeros(len(mjd)), np.ones(len(when))], np.r_[mjd, when], np.r_[owner, whose]))
    before = np.cumsum(order < len(mjd))
    place = np.empty(len(order), dtype=np.int64)
    place[order] = before
    left = place[len(mjd) :] - 1
    right = left + 1
    first, last = np.searchsorted(owner, whose), np.searchsorted(owner, whose, side="right") - 1
    left, right = np.clip(left, first, last), np.clip(right, first, last)
    step = mjd[right] - mjd[left]
    with np.errstate(invalid="ignore", divide="ignore"):
        part = np.where(step > 0, (when - mjd[left]) / step, 0.0)
    return np.asarray(flux[left] + np.clip(part, 0.0, 1.0) * (flux[right] - flux[left]))


def joined_curves(one: LightCurves, other: LightCurves) -> LightCurves:
    """Return the light curves of two tables without a common id."""
    bands = tuple(sorted({*one.bands, *other.bands}))
    ids = np.concatenate([one.ids, other.ids])
    order = np.argsort(ids, kind="stable")
    counts = []
    for curves in (one, other):
        own = np.zeros((len(curves), len(bands)), dtype=np.int64)
        own[:, [bands.index(band) for band in curves.bands]] = np.diff(curves.starts).reshape(len(curves), -1)
        counts.append(own)
    every = np.concatenate(counts)
    sizes = every.sum(axis=1)
    begins = np.cumsum(sizes) - sizes
    taken = sizes[order]
    rows = np.repeat(begins[order] - (np.cumsum(taken) - taken), taken) + np.arange(taken.sum())
    return LightCurves(
        ids[order],
        bands,
        np.r_[0, np.cumsum(every[order].reshape(-1))],
        np.concatenate([one.mjd, other.mjd])[rows],
        np.concatenate([one.flux, other.flux])[rows],
        np.concatenate([one.keys, other.keys])[order],
    )
