"""Parts of the sky as HEALPix cells, in which positions are drawn: regions, coverage maps, density maps.

Every area offers its cells, from which positions are drawn uniformly by equal area, and an exact test for the cells
that it fills only in part. Several areas hold what all of them hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy import units as u
from astropy_healpix import healpix_to_lonlat, lonlat_to_healpix
from numpy.typing import NDArray

from skygraft.generation.region import Region
from skygraft.wcs.base import to_lonlat, to_vectors

__all__ = [
    "CELLS_MOST",
    "Area",
    "CellArea",
    "Points",
    "RegionArea",
    "cell_corners",
    "cell_reach",
    "cells_near",
    "in_cells",
    "in_polygon",
]

type Floats = NDArray[np.float64]
type Ints = NDArray[np.int64]
type Flags = NDArray[np.bool_]

CELLS_MOST = 2_000_000
"""Cells that an area is made of, at most, within a factor of four."""
_DEEPEST = 29
_CELL_AREA = 4.0 * np.pi / 12.0 * np.degrees(1.0) ** 2
"""Square degrees of a cell of order 0."""
_ACROSS = 16
"""Cells across the radius of a region, about."""
_QUADRATURE = (4, 16)
"""Points along each side of a cell with which the part inside an area is measured: for many cells, and for few."""
_ROBERTS = (0.7548776662466927, 0.5698402909980532)
_TESTED = 1_000_000
"""Points that are tested for that, about."""


@dataclass(frozen=True, eq=False)
class Points:
    """Positions on the sky, with the HEALPix cells that they are in.

    Parameters
    ----------
    ra, dec : ndarray, shape (N,)
        ICRS degrees.
    order : int
        Order of `cells`.
    cells : ndarray of int64, shape (N,)
        Nested indices.
    vectors : ndarray, shape (N, 3)
        Unit vectors.
    """

    ra: Floats
    dec: Floats
    order: int
    cells: Ints
    vectors: Floats

    def __len__(self) -> int:
        return len(self.ra)

    @classmethod
    def at(cls, ra: Floats, dec: Floats, order: int = -1, cells: Ints | None = None) -> Points:
        """Positions in degrees; without cells, those of order 29."""
        from skygraft.planning.selection_loops import unit_vectors

        ra, dec = np.ascontiguousarray(ra), np.ascontiguousarray(dec)
        if cells is None:
            order = _DEEPEST
            cells = np.asarray(lonlat_to_healpix(ra * u.deg, dec * u.deg, 1 << order, order="nested"), dtype=np.int64)
        return cls(ra, dec, order, cells, unit_vectors(ra, dec))

    def take(self, rows: Any) -> Points:
        """Some of the positions: an index array or a mask."""
        return Points(self.ra[rows], self.dec[rows], self.order, self.cells[rows], self.vectors[rows])

    def cells_of(self, order: int) -> Ints:
        """The cells of an order that they are in."""
        if order <= self.order:
            return self.cells >> 2 * (self.order - order)
        found = lonlat_to_healpix(self.ra * u.deg, self.dec * u.deg, 1 << order, order="nested")
        return np.asarray(found, dtype=np.int64)


def in_cells(order: int, cells: Ints, dx: Any, dy: Any) -> Points:
    """Return positions in HEALPix cells at fractions dx, dy of their sides; uniform ones are uniform on the sphere."""
    lon, lat = healpix_to_lonlat(cells, 1 << order, dx=dx, dy=dy, order="nested")
    ra = np.asarray(lon.to_value(u.deg))
    return Points.at(np.where(ra >= 360.0, 0.0, ra), np.asarray(lat.to_value(u.deg)), order, cells)


class CellArea:
    """A part of the sky: HEALPix cells, some of which it fills only in part.

    Parameters
    ----------
    order : int
        Order of the cells.
    cells : ndarray of int64, shape (N,)
        Nested indices, ascending.
    whole : ndarray of bool, shape (N,), optional
        Cells that lie wholly in it; by default all.
    weights : ndarray, shape (N,), optional
        Relative density in each cell; by default the same.
    """

    def __init__(self, order: int, cells: Ints, whole: Flags | None = None, weights: Floats | None = None) -> None:
        self.order, self.cells = order, cells
        self.whole = np.ones(len(cells), dtype=np.bool_) if whole is None else whole
        self.weights = weights

    def test(self, points: Points, index: Ints) -> Flags:
        """Find which positions are inside, in cells that are not whole.

        Parameters
        ----------
        points : Points
        index : ndarray of int, shape (N,)
            Which of `cells` each is in.

        Returns
        -------
        ndarray of bool, shape (N,)
        """
        return np.ones(len(points), dtype=np.bool_)

    def holds(self, points: Points, index: Ints | None = None) -> Flags:
        """Find which positions are inside.

        Parameters
        ----------
        points : Points
        index : ndarray of int, shape (N,), optional
            Which of `cells` each is in, where that is known.

        Returns
        -------
        ndarray of bool, shape (N,)
        """
        if index is None:
            numbers = points.cells_of(self.order)
            index = np.minimum(np.searchsorted(self.cells, numbers), max(len(self.cells) - 1, 0))
            inside = self.cells[index] == numbers if len(self.cells) else np.zeros(len(points), dtype=np.bool_)
        else:
            inside = np.ones(len(points), dtype=np.bool_)
        unsure = np.flatnonzero(inside & ~self.whole[index]) if len(self.cells) else np.zeros(0, dtype=np.int64)
        if unsure.size:
            inside[unsure] = self.test(points.take(unsure), index[unsure])
        return np.asarray(inside, dtype=np.bool_)


class RegionArea(CellArea):
    """A circle or a polygon.

    Parameters
    ----------
    region : Region
    """

    def __init__(self, region: Region) -> None:
        self.region = region
        order = _order_of(np.radians(region.radius) / _ACROSS, region.area)
        centre = to_vectors(region.ra, region.dec)
        cells, middles, reach = cells_near(order, centre, np.radians(region.radius))
        if region.polygon is None:
            angle = 2.0 * np.arcsin(np.minimum(np.linalg.norm(middles - centre, axis=1) / 2.0, 1.0))
            whole = angle + reach < np.radians(region.radius)
            some = angle - reach < np.radians(region.radius)
        else:
            inside, apart = in_polygon(middles, to_vectors(region.polygon[:, 0], region.polygon[:, 1]), centre)
            whole, some = inside & (apart > reach), inside | (apart < reach)
        super().__init__(order, cells[some], whole[some])

    def test(self, points: Points, index: Ints) -> Flags:
        """Find which positions are inside."""
        return self.region.contains(points.ra, points.dec)


class Area:
    """The intersection of several areas.

    Parameters
    ----------
    parts : sequence of CellArea
        The first offers the cells that positions are drawn in.
    """

    def __init__(self, parts: Sequence[CellArea]) -> None:
        # The one with weights sets the density; otherwise the smallest makes the fewest rejected draws.
        self.parts = sorted(parts, key=lambda part: (part.weights is None, len(part.cells) * 0.25**part.order))
        base = self.parts[0]
        self.order, self.cells, self.weights = base.order, base.cells, base.weights
        for part in self.parts[1:]:
            self._leave_out(part)
        kept = np.searchsorted(base.cells, self.cells)
        self._base_index = kept
        self.whole = base.whole[kept] & (len(self.parts) == 1)
        self._total = None if self.weights is None else np.cumsum(self.weights)

    def _leave_out(self, part: CellArea) -> None:
        """Leave out cells that do not touch another area."""
        if part.order >= self.order:
            kept = np.isin(self.cells, np.unique(part.cells >> 2 * (part.order - self.order)))
        else:
            kept = np.isin(self.cells >> 2 * (self.order - part.order), part.cells)
        self.cells = self.cells[kept]
        self.weights = None if self.weights is None else self.weights[kept]

    def __len__(self) -> int:
        return len(self.cells)

    def draw(self, which: Floats, dx: Floats, dy: Floats) -> tuple[Points, Flags]:
        """Turn numbers in [0, 1) into positions, and find which of them are in the area.

        Parameters
        ----------
        which, dx, dy : ndarray, shape (N,)
            Uniform numbers: the cell, and the place in it.

        Returns
        -------
        points : Points
        inside : ndarray of bool, shape (N,)
        """
        if self._total is None:
            index = np.minimum((which * len(self.cells)).astype(np.int64), len(self.cells) - 1)
        else:
            index = np.minimum(np.searchsorted(self._total, which * self._total[-1], side="right"), len(self) - 1)
        points = in_cells(self.order, self.cells[index], dx, dy)
        return points, self._holds(points, index)

    def _holds(self, points: Points, index: Ints) -> Flags:
        inside = self.whole[index].copy()
        unsure = np.flatnonzero(~inside)
        if unsure.size:
            left = points.take(unsure)
            good = self.parts[0].holds(left, self._base_index[index[unsure]])
            for part in self.parts[1:]:
                rows = np.flatnonzero(good)
                good[rows] = part.holds(left.take(rows))
            inside[unsure] = good
        return inside

    def holds(self, points: Points) -> Flags:
        """Find which positions are in the area, as booleans."""
        inside = np.ones(len(points), dtype=np.bool_)
        for part in self.parts:
            rows = np.flatnonzero(inside)
            inside[rows] = part.holds(points.take(rows))
        return inside

    @property
    def area(self) -> float:
        """Square degrees, by 16 to 256 points in each cell that is not known to be whole."""
        return float(self.filled().sum() * _CELL_AREA / 4**self.order)

    @property
    def expected(self) -> float:
        """Number of sources that the weights stand for, as numbers per square arcminute."""
        if self.weights is None:
            return float("nan")
        return float((self.filled() * self.weights).sum() * _CELL_AREA / 4**self.order * 3600.0)

    def filled(self) -> Floats:
        """The part of each cell that is in the area, shape (N,)."""
        share = np.where(self.whole, 1.0, 0.0)
        unsure = np.flatnonzero(~self.whole)
        side = int(np.clip(np.sqrt(_TESTED / max(unsure.size, 1)), *_QUADRATURE))
        places = (np.arange(side) + 0.5) / side
        dx, dy = (grid.ravel() for grid in np.meshgrid(places, places))
        step = max(1, (1 << 19) // dx.size)
        for start in range(0, len(unsure), step):
            some = unsure[start : start + step]
            index = np.repeat(some, dx.size)
            # The grid of points is shifted in each cell (Roberts's sequence), so that their errors do not add up.
            shift = np.outer(np.arange(start, start + some.size), _ROBERTS)
            x, y = ((shift[:, k, None] + part).ravel() % 1.0 for k, part in enumerate((dx, dy)))
            points = in_cells(self.order, self.cells[index], x, y)
            share[some] = self._holds(points, index).reshape(some.size, -1).mean(axis=1)
        return share

    def circle(self) -> tuple[float, float, float]:
        """Centre (ra, dec) and radius, degrees, of a circle around it."""
        middles = in_cells(self.order, self.cells, 0.5, 0.5).vectors
        mean = middles.mean(axis=0)
        length = float(np.linalg.norm(mean))
        centre = mean / length if length > 1e-9 else np.array([0.0, 0.0, 1.0])
        ra, dec = to_lonlat(centre)
        chord = float(np.linalg.norm(middles - centre, axis=1).max())
        radius = 2.0 * np.arcsin(min(chord / 2.0, 1.0)) + cell_reach(self.order)
        return float(ra), float(dec), float(np.degrees(min(radius, np.pi)))


def _order_of(side: float, area: float) -> int:
    """Order of cells of about a side (radians), with no more than `CELLS_MOST` in an area (square degrees)."""
    fine = np.log2(np.sqrt(np.pi / 3.0) / max(side, 1e-9))
    few = 0.5 * np.log2(CELLS_MOST * _CELL_AREA / max(area, 1e-12))
    return int(np.clip(np.floor(min(fine, few)), 0, 24))


def cell_reach(order: int) -> float:
    """Largest distance of a corner from the middle of any cell, radians: 1.069 / 2^order, near the poles, and a bit."""
    return float(1.075 / 2**order)


def cell_corners(order: int, cells: Ints) -> tuple[Floats, list[Floats]]:
    """Unit vectors of the middles of cells, and of their corners, shape (N, 3) each."""
    middle = in_cells(order, cells, 0.5, 0.5).vectors
    return middle, [in_cells(order, cells, dx, dy).vectors for dx, dy in ((0, 0), (0, 1), (1, 1), (1, 0))]


def cells_near(order: int, centre: Floats, radius: float) -> tuple[Ints, Floats, Floats]:
    """Find the cells that may touch a circle.

    Parameters
    ----------
    order : int
    centre : ndarray, shape (3,)
        Unit vector.
    radius : float
        Radians.

    Returns
    -------
    cells : ndarray of int64, shape (N,)
        Nested indices, ascending.
    middles : ndarray, shape (N, 3)
        Unit vectors of their middles.
    reach : ndarray, shape (N,)
        Distance of each one's farthest corner from its middle, radians, and 1 % more.
    """
    from astropy_healpix import HEALPix

    ra, dec = to_lonlat(centre)
    wide = min(radius + cell_reach(order), np.pi)
    grid = HEALPix(1 << order, order="nested")
    if wide > 1.5:  # most of the sky
        cells = np.arange(grid.npix, dtype=np.int64)
    else:
        cells = np.sort(np.asarray(grid.cone_search_lonlat(ra * u.deg, dec * u.deg, wide * u.rad), dtype=np.int64))
    middles = in_cells(order, cells, 0.5, 0.5).vectors
    corners = cell_corners(order, cells)[1]
    apart = [np.linalg.norm(corner - middles, axis=1) for corner in corners]
    reach = np.asarray(1.01 * np.max(apart, axis=0), dtype=np.float64)
    near = 2.0 * np.arcsin(np.minimum(np.linalg.norm(middles - centre, axis=1) / 2.0, 1.0)) <= radius + reach
    return np.asarray(cells[near], dtype=np.int64), middles[near], reach[near]


def in_polygon(points: Floats, corners: Floats, centre: Floats) -> tuple[Flags, Floats]:
    """Find which positions are in a polygon of great circles, and how far they are from its sides.

    Parameters
    ----------
    points : ndarray, shape (N, 3)
        Unit vectors, within 90 degrees of the centre; others are outside.
    corners : ndarray, shape (M, 3)
        Unit vectors of the corners.
    centre : ndarray, shape (3,)
        Unit vector within it.

    Returns
    -------
    inside : ndarray of bool, shape (N,)
    apart : ndarray, shape (N,)
        Distance from the nearest side, radians, or less.
    """
    east = np.cross([0.0, 0.0, 1.0], centre)
    east = np.array([1.0, 0.0, 0.0]) if np.linalg.norm(east) < 1e-12 else east / np.linalg.norm(east)
    north = np.cross(centre, east)
    depth = points @ centre
    seen = depth > 1e-6
    depth = np.where(seen, depth, 1.0)
    x, y = points @ east / depth, points @ north / depth
    deep = corners @ centre
    px, py = corners @ east / deep, corners @ north / deep
    inside = np.zeros(len(points), dtype=np.bool_)
    apart = np.full(len(points), np.inf)
    nexts = np.roll(corners, -1, axis=0)
    for x1, y1, x2, y2, a, b in zip(px, py, np.roll(px, -1), np.roll(py, -1), corners, nexts, strict=True):
        if y1 != y2:
            crosses = (y1 > y) != (y2 > y)
            inside ^= crosses & (x < x1 + (y - y1) * (x2 - x1) / (y2 - y1))
        normal = np.cross(a, b)
        length = float(np.linalg.norm(normal))
        ends = np.minimum(np.linalg.norm(points - a, axis=1), np.linalg.norm(points - b, axis=1))
        if length < 1e-15:
            apart = np.minimum(apart, ends)
            continue
        normal /= length
        # The great circle's distance counts where its nearest point lies between the ends.
        between = (points @ np.cross(normal, a) >= 0) & (points @ np.cross(b, normal) >= 0)
        apart = np.minimum(apart, np.where(between, np.arcsin(np.minimum(np.abs(points @ normal), 1.0)), ends))
    return inside & seen, apart
