"""Random positions with a minimum separation, until the region is full."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from astropy_healpix import healpix_to_lonlat
from numpy.typing import NDArray

from skygraft.errors import CatalogError
from skygraft.wcs.base import to_vectors

__all__ = ["separated_vectors"]

type Vectors = NDArray[np.float64]

_LOW_ACCEPTANCE = 0.05
"""Acceptance rate below which darts are thrown only into the remaining gaps."""
_FINEST = 2.0**-7
"""Gaps smaller than this fraction of the separation are treated as filled."""
_MOST_DARTS = 200_000
_MARGIN = 1.05
"""Safety factor on the distance from a cell's centre to its corners, since its sides are curved."""


class Where(Protocol):
    """A region, as the search for places in it needs it; see `skygraft.generation.region.Region`."""

    def sample(self, n: int, rng: np.random.Generator, /) -> Vectors:
        """Draw unit vectors uniformly."""
        ...

    def contains(self, ra: Any, dec: Any, /) -> NDArray[np.bool_]:
        """Find which positions are inside."""
        ...

    def positions(self, vectors: Vectors, /) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Convert unit vectors to degrees."""
        ...

    def gaps(self) -> tuple[int, NDArray[np.int64]]:
        """Order and numbers of the cells to begin with."""
        ...

    def overlapping(
        self, middle: Vectors, corners: list[Vectors], reach: NDArray[np.float64], chord: float, /
    ) -> NDArray[np.bool_]:
        """Find which cells may touch it."""
        ...


def separated_vectors(
    where: Where, count: int, separation: float, rng: np.random.Generator, key: str = "min_separation"
) -> Vectors:
    """Draw positions uniformly in a region, each at a minimum separation from all earlier ones (Poisson-disk sampling).

    Darts are thrown, and those too close to an earlier one are rejected. When few are accepted, they are thrown only
    into cells that are not yet covered by the surroundings of a source, and the cells are divided ever finer (Ebeida et
    al. 2012, Computer Graphics Forum 31, 785). This gives the same distribution, and ends when no cell is left.

    Parameters
    ----------
    where : Region, or another `Where`
    count : int
        Number of positions.
    separation : float
        Minimum separation, arcsec.
    rng : numpy.random.Generator
    key : str
        What the separation is called, for errors.

    Returns
    -------
    ndarray, shape (count, 3)
        Unit vectors.

    Raises
    ------
    CatalogError
        If the region is full before all positions are found.
    """
    chord = 2.0 * np.sin(np.radians(separation / 3600.0) / 2.0)
    kept = np.empty((0, 3))
    share = 1.0
    while share >= _LOW_ACCEPTANCE:
        missing = count - len(kept)
        if missing <= 0:
            return kept[:count]
        darts = where.sample(max(64, int(missing * 1.3)), rng)
        added = _far_enough(darts, kept, chord)
        share = len(added) / len(darts)
        kept = np.concatenate([kept, added])
    gaps = _Gaps(where, chord)
    while len(kept) < count:
        gaps.drop_covered(kept)
        if not gaps.cells.size:
            raise CatalogError(
                f"only {len(kept)} of {count} sources fit at random: every other place in the region is within "
                f"{separation:g} arcsec of one of them",
                key=key,
                fix="Lower the density or the separation, or use a grid, which packs them closer (kind: hexagonal, or "
                "grid_catalog)",
            )
        share = 1.0
        while share >= _LOW_ACCEPTANCE and len(kept) < count:
            darts = gaps.sample(min(max(64, 4 * (count - len(kept))), _MOST_DARTS), rng)
            added = _far_enough(darts, kept, chord)
            share = len(added) / max(len(darts), 1)
            kept = np.concatenate([kept, added])
        gaps.divide()
    return kept[:count]


def _far_enough(darts: Vectors, kept: Vectors, chord: float) -> Vectors:
    """Return the darts that are far enough from accepted positions and from earlier accepted darts."""
    # Imported here, because it needs 26 MB of memory.
    from scipy.spatial import cKDTree

    if len(kept) and len(darts):
        distance, _ = cKDTree(kept).query(darts, distance_upper_bound=chord)
        darts = darts[~(distance < chord)]
    if not len(darts):
        return darts
    alive = np.ones(len(darts), dtype=np.bool_)
    pairs = cKDTree(darts).query_pairs(chord, output_type="ndarray")
    for first, second in pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))].tolist():
        if alive[first]:
            alive[second] = False
    return darts[alive]


class _Gaps:
    """HEALPix cells of one level (of equal area) in which a source may still be placed."""

    def __init__(self, where: Where, chord: float) -> None:
        self._where = where
        self._chord = chord
        self._level, self.cells = where.gaps()
        # Cells of about half the separation in width: few cells, of which a source covers some completely.
        while self._level < min(np.log2(2.0 * np.sqrt(np.pi / 3.0) / chord), 28):
            self._drop_outside()
            self.divide()

    def _vectors(self, cells: NDArray[np.int64], dx: Any = 0.5, dy: Any = 0.5) -> Vectors:
        lon, lat = healpix_to_lonlat(cells, 1 << self._level, dx=dx, dy=dy, order="nested")
        return to_vectors(lon.deg, lat.deg)

    def drop_covered(self, kept: Vectors) -> None:
        """Drop cells outside the region, and cells that are completely too close to an accepted position."""
        from scipy.spatial import cKDTree

        middle, reach = self._drop_outside()
        if not reach.size or reach.max() < _FINEST * self._chord or self._level >= 29:
            self.cells = self.cells[:0]
            return
        nearest, _ = cKDTree(kept).query(middle)
        self.cells = self.cells[nearest + reach > self._chord]

    def _drop_outside(self) -> tuple[Vectors, NDArray[np.float64]]:
        """Drop cells outside the region; returns centres of the others, and the distances to their corners."""
        middle = self._vectors(self.cells)
        corners = [self._vectors(self.cells, dx, dy) for dx, dy in ((0, 0), (0, 1), (1, 0), (1, 1))]
        reach = np.asarray(np.max([np.linalg.norm(corner - middle, axis=1) for corner in corners], axis=0) * _MARGIN)
        inside = self._where.overlapping(middle, corners, reach, self._chord)
        self.cells = self.cells[inside]
        return middle[inside], reach[inside]

    def sample(self, n: int, rng: np.random.Generator) -> Vectors:
        """Draw positions uniformly over the cells; those outside the region are dropped."""
        cells = self.cells[rng.integers(0, self.cells.size, n)]
        darts = self._vectors(cells, rng.random(n), rng.random(n))
        return darts[self._where.contains(*self._where.positions(darts))]

    def divide(self) -> None:
        """Divide every cell into four."""
        self._level += 1
        self.cells = (4 * self.cells[:, None] + np.arange(4)).reshape(-1)
