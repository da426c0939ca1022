"""Places to avoid: real sources and bright stars of a table, within a radius that may depend on their magnitude."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from skygraft.errors import CatalogError
from skygraft.generation.cells import Points
from skygraft.wcs.base import to_vectors

__all__ = ["Avoided", "AvoidedSources", "radius_of_magnitude"]

type Floats = NDArray[np.float64]

_CLASSES = 2.0
"""Sources whose radii differ by less than this factor are searched together."""


class Avoided(Protocol):
    """Places where no source is put."""

    def near(self, points: Points) -> NDArray[np.bool_]:
        """Find which positions are in such a place, as booleans."""
        ...


class AvoidedSources:
    """Circles around sources.

    Parameters
    ----------
    ra, dec : ndarray, shape (M,)
        ICRS degrees.
    radius : ndarray, shape (M,)
        Arcsec; sources with a radius of zero, or NaN, are not avoided.
    """

    def __init__(self, ra: Floats, dec: Floats, radius: Floats) -> None:
        from scipy.spatial import cKDTree

        used = np.isfinite(ra) & np.isfinite(dec) & (radius > 0)
        vectors, radius = to_vectors(ra[used], dec[used]), radius[used]
        chord = 2.0 * np.sin(np.radians(np.minimum(radius / 3600.0, 180.0)) / 2.0)
        self.n = int(used.sum())
        self._vectors, self._radius = vectors, radius
        self._classes: list[tuple[Any, Floats]] = []
        left = np.argsort(chord)
        while left.size:
            size = int(np.searchsorted(chord[left], chord[left[0]] * _CLASSES, side="right"))
            rows, left = left[:size], left[size:]
            self._classes.append((cKDTree(vectors[rows]), chord[rows]))

    def reaches(self, ra: float, dec: float, radius: float) -> bool:
        """Return whether any circle touches that of `radius` degrees around (ra, dec)."""
        chord = np.linalg.norm(self._vectors - to_vectors(ra, dec), axis=1)
        angle = np.degrees(2.0 * np.arcsin(np.minimum(0.5 * chord, 1.0)))
        return bool(np.any(angle <= radius + self._radius / 3600.0))

    def near(self, points: Points) -> NDArray[np.bool_]:
        """Find which positions are within the radius of a source, as booleans."""
        from scipy.spatial import cKDTree

        found = np.zeros(len(points), dtype=np.bool_)
        for tree, chord in self._classes:
            reach = float(chord.max())
            if chord.min() == reach:
                found |= tree.query(points.vectors, distance_upper_bound=reach)[0] < reach
                continue
            # All pairs within the largest radius, each compared with its own.
            pairs = cKDTree(points.vectors).sparse_distance_matrix(tree, reach, output_type="ndarray")
            found[pairs["i"][pairs["v"] < chord[pairs["j"]]]] = True
        return found


def radius_of_magnitude(mag: Floats, table: Any) -> Floats:
    """Interpolate the radius to avoid in magnitude, linearly in its logarithm.

    Parameters
    ----------
    mag : ndarray, shape (M,)
    table : sequence of (float, float)
        Magnitude and radius (arcsec), ascending in magnitude. Brighter sources have the first radius; fainter ones than
        the last magnitude are not avoided.

    Returns
    -------
    ndarray, shape (M,)
        Arcsec; zero for sources that are not avoided, or have no magnitude.

    Raises
    ------
    CatalogError
        If the magnitudes do not ascend, or a radius is not positive.
    """
    points = np.asarray(table, dtype=np.float64).reshape(-1, 2)
    if np.any(np.diff(points[:, 0]) <= 0) or np.any(points[:, 1] <= 0):
        raise CatalogError(
            "radius_by_mag needs ascending magnitudes, and positive radii", key="radius_by_mag",
            fix="Give pairs such as [[12, 60], [16, 15], [20, 4]]",
        )  # fmt: skip
    radius = np.exp(np.interp(mag, points[:, 0], np.log(points[:, 1])))
    return np.where(np.isfinite(mag) & (mag <= points[-1, 0]), radius, 0.0)
