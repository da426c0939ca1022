"""Which detection is which fake, whether the original image had it already, and why a fake was not found."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

__all__ = ["Match", "assign", "decide", "nearest", "search_radius"]

type Floats = NDArray[np.float64]
type Integers = NDArray[np.int64]
type Booleans = NDArray[np.bool_]

_CANDIDATES = 4
"""Detections that are considered for a fake, nearest first."""


@dataclass(frozen=True, eq=False)
class Match:
    """The detection of each of N fakes.

    Parameters
    ----------
    detection : ndarray of int, shape (N,)
        Index of the detection; -1 for none.
    distance : ndarray, shape (N,)
        From the fake to it, pixels; NaN for none.
    taken : ndarray of bool, shape (N,)
        There was one near enough, but it is that of another fake.
    """

    detection: Integers
    distance: Floats
    taken: Booleans


def search_radius(fwhm: Floats, scale: Floats, given: float | None = None) -> Floats:
    """Give the largest distance between a fake and its detection.

    Parameters
    ----------
    fwhm : ndarray, shape (N,)
        That each fake is expected to have on the image, arcsec.
    scale : ndarray, shape (N,)
        Pixel scale at the fakes, arcsec.
    given : float, optional
        The distance, arcsec, where it is set.

    Returns
    -------
    ndarray, shape (N,)
        Pixels. By default three quarters of the FWHM, and one pixel at least.

    Notes
    -----
    The position of a star of signal-to-noise ratio S is uncertain by some FWHM / (1.7 S) along each axis, so that a
    detection of S = 3 is within 0.75 FWHM of its star in all but one of 10^3 cases.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.maximum(1.0, 0.75 * fwhm / scale) if given is None else given / scale)


def assign(x: Floats, y: Floats, flux: Floats, radius: Floats, det_x: Floats, det_y: Floats) -> Match:
    """Assign to each fake the nearest detection, each detection to one fake.

    Parameters
    ----------
    x, y : ndarray, shape (N,)
        Positions of the fakes, pixels; NaN for fakes that can have none.
    flux : ndarray, shape (N,)
        Their fluxes: of several fakes with the same nearest detection, the brightest has it, of equal ones the nearest.
    radius : ndarray, shape (N,)
        Largest distance, pixels.
    det_x, det_y : ndarray, shape (M,)
        Positions of the detections.

    Returns
    -------
    Match
        A fake whose nearest detection is another's gets the next nearest that is free, within its radius.
    """
    n, m = len(x), len(det_x)
    detection, distance = np.full(n, -1, dtype=np.int64), np.full(n, np.nan)
    taken = np.zeros(n, dtype=np.bool_)
    here = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
    if not (m and here.size):
        return Match(detection, distance, taken)
    k = min(_CANDIDATES, m)
    tree = cKDTree(np.column_stack([det_x, det_y]))
    gap, which = tree.query(np.column_stack([x, y])[here], k=np.arange(1, k + 1), workers=1)
    near = gap <= radius[here, None]
    owner = np.full(m, -1, dtype=np.int64)
    waiting = np.flatnonzero(near[:, 0])
    while waiting.size:
        free = near[waiting] & (owner[which[waiting]] < 0)
        has = free.any(axis=1)
        taken[here[waiting[~has]]] = True
        waiting = waiting[has]
        choice = np.argmax(free[has], axis=1)
        wanted, how_far = which[waiting, choice], gap[waiting, choice]
        brightness = np.nan_to_num(np.abs(flux[here[waiting]]), nan=0.0)
        # The first of each detection, in this order, has it; the last key is the foremost.
        order = np.lexsort((waiting, how_far, -brightness, wanted))
        first = order[np.unique(wanted[order], return_index=True)[1]]
        owner[wanted[first]] = here[waiting[first]]
        detection[here[waiting[first]]], distance[here[waiting[first]]] = wanted[first], how_far[first]
        rest = np.ones(waiting.size, dtype=np.bool_)
        rest[first] = False
        waiting = waiting[rest]
    return Match(detection, distance, taken)


def nearest(x: Floats, y: Floats, det_x: Floats, det_y: Floats) -> tuple[Integers, Floats]:
    """Find the nearest of some detections, however far.

    Parameters
    ----------
    x, y : ndarray, shape (N,)
        Positions, pixels.
    det_x, det_y : ndarray, shape (M,)
        Positions of the detections.

    Returns
    -------
    index : ndarray of int, shape (N,)
        -1 where there is none, or the position is not finite.
    distance : ndarray, shape (N,)
        Pixels; NaN where there is none.
    """
    index, distance = np.full(len(x), -1, dtype=np.int64), np.full(len(x), np.nan)
    here = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
    if len(det_x) and here.size:
        tree = cKDTree(np.column_stack([det_x, det_y]))
        distance[here], index[here] = tree.query(np.column_stack([x, y])[here], workers=1)
    return index, distance


def decide(
    match: Match,
    *,
    drawn: Booleans,
    on_image: Booleans,
    masked: Booleans,
    ambiguous: Booleans,
    covered: Booleans,
    shared: Booleans,
    negative: Booleans,
) -> tuple[Booleans, Booleans, NDArray[np.str_]]:
    """Decide which fakes count as recovered, and say why the others do not.

    Parameters
    ----------
    match : Match
        The detections of the fakes.
    drawn, on_image, masked : ndarray of bool, shape (N,)
        Whether a fake is on the image, its centre is, and a bad pixel is at its centre.
    ambiguous : ndarray of bool, shape (N,)
        The original image has too bright a detection there.
    covered, shared : ndarray of bool, shape (N,)
        A detection's pixels cover its centre; and that detection holds another source, too.
    negative : ndarray of bool, shape (N,)
        Its flux is negative.

    Returns
    -------
    found, usable : ndarray of bool, shape (N,)
    reason : ndarray of str, shape (N,)
        A key of `skygraft.recovery.table.REASONS`.
    """
    usable = drawn & on_image & ~masked & ~negative
    matched = match.detection >= 0
    found = usable & matched & ~ambiguous
    reason = np.select(
        [found, ~drawn, ~on_image, masked, negative, matched & ambiguous, match.taken, covered & shared, covered],
        ["", "not drawn", "off the image", "masked", "negative", "ambiguous", "blended", "blended", "not matched"],
        default="below threshold",
    )
    return found, usable, reason
