"""One detection for each object: those of overlapping tracts or runs are there twice."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from skygraft.recovery.catalogs_terms import Detections
from skygraft.wcs.base import to_vectors

__all__ = ["without_duplicates"]


def without_duplicates(detections: Detections, radius: float) -> NDArray[np.bool_]:
    """Find the detections to keep if those within a radius of each other are one.

    The brightest is kept, then the one with the smallest number, whatever the order of the rows.

    Parameters
    ----------
    detections : Detections
    radius : float
        Arcsec; 0 keeps all.

    Returns
    -------
    ndarray of bool, shape (N,)
    """
    keep = np.ones(len(detections), dtype=bool)
    if radius <= 0 or len(detections) < 2:
        return keep
    from scipy.spatial import cKDTree

    tree = cKDTree(to_vectors(detections.ra, detections.dec))
    pairs = tree.query_pairs(2.0 * np.sin(np.radians(radius / 3600.0) / 2.0), output_type="ndarray")
    if not len(pairs):
        return keep
    brightness = np.zeros(len(detections))
    if detections.fluxes:
        flux = detections.fluxes.get("cal") or next(iter(detections.fluxes.values()))
        brightness = np.nan_to_num(-flux.value if flux.unit == "mag" else flux.value, nan=-np.inf)
    rank = np.empty(len(detections), dtype=np.int64)
    rank[np.lexsort((detections.dec, detections.ra, detections.id, -brightness))] = np.arange(len(detections))
    better = np.where(rank[pairs[:, 0]] < rank[pairs[:, 1]], pairs[:, 0], pairs[:, 1])
    worse = pairs.sum(axis=1) - better
    for one, other in zip(better[order := np.argsort(rank[better])], worse[order], strict=True):
        if keep[one]:
            keep[other] = False
    return keep
