"""Regions of the sky: circles and polygons, their areas, and points uniformly distributed over them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skygraft.errors import CatalogError
from skygraft.skymap import get_skymap
from skygraft.wcs.base import to_lonlat, to_vectors
from skygraft.wording import shorten

__all__ = ["Region", "as_region", "tangent_to_sky", "unit_offsets"]

_SQ_DEG = np.degrees(1.0) ** 2


def _basis(centre: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return unit vectors to the East and North at a position; at a pole, East is towards ra 90."""
    rho = np.hypot(centre[0], centre[1])
    cos_a, sin_a = (centre[0] / rho, centre[1] / rho) if rho > 1e-12 else (1.0, 0.0)
    east = np.array([-sin_a, cos_a, 0.0])
    return east, np.cross(centre, east)


def tangent_to_sky(
    ra0: float, dec0: float, xi: NDArray[np.float64], eta: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Convert gnomonic tangent-plane offsets xi (East) and eta (North), arcsec, to positions in degrees.

    Parameters
    ----------
    ra0, dec0 : float
        Tangent point, degrees.
    xi, eta : array_like
        Offsets in arcsec.

    Returns
    -------
    ra, dec : ndarray
        Degrees.
    """
    centre = to_vectors(ra0, dec0)
    east, north = _basis(centre)
    to_rad = np.radians(1.0 / 3600.0)
    return to_lonlat(centre + to_rad * (np.multiply.outer(xi, east) + np.multiply.outer(eta, north)))


def unit_offsets(
    vectors: NDArray[np.float64], distance: NDArray[np.float64], angle: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Move directions along great circles.

    Parameters
    ----------
    vectors : ndarray, shape (N, 3)
        Unit vectors; at a pole, East is towards ra 90.
    distance : ndarray, shape (N,)
        Radians.
    angle : ndarray, shape (N,)
        Position angle of the way, from North through East, radians.

    Returns
    -------
    ndarray, shape (N, 3)
    """
    rho = np.hypot(vectors[:, 0], vectors[:, 1])
    polar = rho < 1e-12
    safe = np.where(polar, 1.0, rho)
    east = np.stack(
        [np.where(polar, 0.0, -vectors[:, 1] / safe), np.where(polar, 1.0, vectors[:, 0] / safe), np.zeros(len(rho))],
        axis=1,
    )
    north = np.cross(vectors, east)
    way = np.sin(angle)[:, None] * east + np.cos(angle)[:, None] * north
    return np.asarray(np.cos(distance)[:, None] * vectors + np.sin(distance)[:, None] * way)


@dataclass(frozen=True)
class Region:
    """A circle, or a polygon whose sides are great circles.

    Parameters
    ----------
    ra, dec : float
        Centre, degrees.
    radius : float
        Radius in degrees of the circle, or of a circle that contains the polygon.
    polygon : ndarray of shape (M, 2), optional
        Corners (ra, dec) in degrees, in either orientation; without self-crossings, within 80 degrees of the centre.
    """

    ra: float
    dec: float
    radius: float
    polygon: NDArray[np.float64] | None = field(default=None, compare=False)

    @classmethod
    def circle(cls, ra: float, dec: float, radius: float) -> Region:
        """Return the circle of `radius` degrees around (ra, dec).

        Parameters
        ----------
        ra, dec : float
            Centre, degrees.
        radius : float
            Degrees, in (0, 180].

        Raises
        ------
        CatalogError
            If the position or the radius is invalid.
        """
        if not (0 < radius <= 180 and abs(dec) <= 90 and np.isfinite(ra)):
            raise CatalogError(
                f"a circle of radius {radius} degrees around ({ra}, {dec}) is invalid",
                key="region",
                fix="Give ra, dec in degrees and a radius in (0, 180]",
            )
        return cls(float(ra) % 360.0, float(dec), float(radius))

    @classmethod
    def from_polygon(cls, corners: ArrayLike) -> Region:
        """Return the polygon with these corners (ra, dec) in degrees.

        Parameters
        ----------
        corners : array_like, shape (M, 2)
            (ra, dec) in degrees.

        Raises
        ------
        CatalogError
            If there are fewer than three corners, or the polygon is too large or has no area.
        """
        points = _points(corners)
        if points.ndim != 2 or points.shape[1] != 2 or len(points) < 3 or not np.isfinite(points).all():
            raise CatalogError(
                f"a polygon of shape {points.shape}; at least three finite corners (ra, dec) are needed", key="region"
            )
        if np.array_equal(points[0], points[-1]):
            points = points[:-1]
        vectors = to_vectors(points[:, 0], points[:, 1])
        mean = vectors.sum(axis=0)
        norm = np.linalg.norm(mean)
        centre = mean / norm if norm > 0 else np.array([0.0, 0.0, 1.0])
        # From chord lengths: arccos of a dot product is inaccurate for small angles.
        chord = np.linalg.norm(vectors - centre, axis=1).max()
        radius = float(np.degrees(2.0 * np.arcsin(min(chord / 2.0, 1.0))))
        if norm == 0 or radius > 80.0:
            raise CatalogError("the polygon spans more than 80 degrees from its centre", key="region", fix="Split it")
        ra, dec = to_lonlat(centre)
        region = cls(float(ra), float(dec), min(radius * 1.0001 + 1e-9, 89.0), points)
        if region.area <= 0.0:
            raise CatalogError("the polygon has no area", key="region")
        return region

    @property
    def area(self) -> float:
        """Square degrees."""
        if self.polygon is None:
            return float(4.0 * np.pi * np.sin(np.radians(self.radius) / 2.0) ** 2 * _SQ_DEG)
        a = to_vectors(self.ra, self.dec)
        b = to_vectors(self.polygon[:, 0], self.polygon[:, 1])
        c = np.roll(b, -1, axis=0)
        # Signed spherical excess of the triangles around the centre (Van Oosterom & Strackee 1983).
        triple = np.cross(b, c) @ a
        excess = 2.0 * np.arctan2(triple, 1.0 + b @ a + c @ a + np.sum(b * c, axis=1))
        return float(abs(excess.sum()) * _SQ_DEG)

    def contains(self, ra: ArrayLike, dec: ArrayLike) -> NDArray[np.bool_]:
        """Return which positions (degrees, shape (N,)) are inside, as booleans.

        Parameters
        ----------
        ra, dec : array_like, shape (N,)
            Degrees.

        Returns
        -------
        ndarray of bool, shape (N,)
        """
        vectors = np.atleast_2d(to_vectors(*(np.atleast_1d(np.asarray(one, dtype=np.float64)) for one in (ra, dec))))
        return self._holds(vectors)

    def _holds(self, vectors: NDArray[np.float64]) -> NDArray[np.bool_]:
        centre = to_vectors(self.ra, self.dec)
        chord = np.linalg.norm(vectors - centre, axis=1)
        inside: NDArray[np.bool_] = chord <= 2.0 * np.sin(np.radians(self.radius) / 2.0)
        if self.polygon is None:
            return inside
        # Great circles are straight lines in the gnomonic projection, so a plane even-odd test is exact.
        east, north = _basis(centre)
        rows = np.flatnonzero(inside)
        points = vectors[rows]
        depth = points @ centre
        x, y = points @ east / depth, points @ north / depth
        corners = to_vectors(self.polygon[:, 0], self.polygon[:, 1])
        depth = corners @ centre
        px, py = corners @ east / depth, corners @ north / depth
        odd = np.zeros(rows.size, dtype=np.bool_)
        for x1, y1, x2, y2 in zip(px, py, np.roll(px, -1), np.roll(py, -1), strict=True):
            if y1 != y2:
                crosses = (y1 > y) != (y2 > y)
                odd ^= crosses & (x < x1 + (y - y1) * (x2 - x1) / (y2 - y1))
        inside[rows] = odd
        return inside

    def sample(self, n: int, rng: np.random.Generator) -> NDArray[np.float64]:
        """Draw `n` unit vectors, shape (n, 3), uniformly distributed over the region.

        Parameters
        ----------
        n : int
            Number of points.
        rng : numpy.random.Generator

        Returns
        -------
        ndarray, shape (n, 3)
        """
        centre = to_vectors(self.ra, self.dec)
        east, north = _basis(centre)
        # 1 - cos(radius), without cancellation for small circles.
        versine = 2.0 * np.sin(np.radians(self.radius) / 2.0) ** 2
        pieces: list[NDArray[np.float64]] = []
        missing = n
        while missing > 0:
            batch = int(missing * 1.2) + 16 if self.polygon is None else int(missing * 2.5) + 64
            u, phi = rng.random(batch) * versine, rng.random(batch) * 2.0 * np.pi
            sin_t = np.sqrt(u * (2.0 - u))
            points = (
                np.multiply.outer(1.0 - u, centre)
                + np.multiply.outer(sin_t * np.cos(phi), east)
                + np.multiply.outer(sin_t * np.sin(phi), north)
            )
            if self.polygon is not None:
                points = points[self._holds(points)]
            pieces.append(points[:missing])
            missing -= len(pieces[-1])
        return np.concatenate(pieces) if pieces else np.empty((0, 3))

    def gaps(self) -> tuple[int, NDArray[np.int64]]:
        """Order and numbers of the HEALPix cells from which on a search for gaps divides the sky."""
        return 2, np.arange(12 << 4, dtype=np.int64)

    def overlapping(
        self,
        middle: NDArray[np.float64],
        corners: list[NDArray[np.float64]],
        reach: NDArray[np.float64],
        chord: float,
    ) -> NDArray[np.bool_]:
        """Find which cells may touch the region.

        Parameters
        ----------
        middle : ndarray, shape (N, 3)
            Unit vectors of their middles.
        corners : list of ndarray, shape (N, 3)
            Of their corners.
        reach : ndarray, shape (N,)
            Largest distance of a corner from the middle.
        chord : float
            Separation that gaps are looked for with; not needed here.

        Returns
        -------
        ndarray of bool, shape (N,)
        """
        del chord
        radius = 2.0 * np.sin(np.radians(self.radius) / 2.0)
        inside = np.linalg.norm(middle - to_vectors(self.ra, self.dec), axis=1) <= radius + reach
        # The region may lie inside a large cell without containing any of these points.
        small = inside & (reach < radius / 8.0)
        points = [point[small] for point in (middle, *corners)]
        inside[small] = np.any([self.contains(*self.positions(p)) for p in points], axis=0)
        return np.asarray(inside)

    def positions(self, vectors: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Convert unit vectors to positions in degrees.

        Parameters
        ----------
        vectors : ndarray, shape (N, 3)

        Returns
        -------
        ra, dec : ndarray, shape (N,)
        """
        return to_lonlat(vectors)


_LARGEST = 1e9
"""No angle in degrees is larger."""


def _points(given: Any) -> NDArray[np.float64]:
    """Numbers as an array."""
    try:
        return np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError):
        raise CatalogError(
            f"{shorten(repr(given))} is no list of positions", key="region", fix="Give numbers: [[ra, dec], ...]"
        ) from None


def _number(region: Mapping[str, Any], name: str) -> int:
    """The number of a tract or a patch."""
    value = region[name]
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise CatalogError(f"the {name} of the region is {value!r}", key="region", fix="Give a whole number")
    return int(value)


def as_region(region: Any) -> Region:
    """Build a `Region` from a description.

    Parameters
    ----------
    region : Region, mapping, tuple or array-like
        ``{"ra": ..., "dec": ..., "radius": ...}`` or ``(ra, dec, radius)`` in degrees; ``{"polygon": corners}``, or the
        corners themselves, shape (M, 2); ``{"skymap": ..., "tract": ..., "patch": ...}`` for the inner region of a
        patch (see `skygraft.skymap.get_skymap`).

    Returns
    -------
    Region

    Raises
    ------
    CatalogError
        If it is none of these.
    """
    if isinstance(region, Region):
        return region
    if isinstance(region, Mapping):
        if set(region) == {"ra", "dec", "radius"}:
            for name in ("ra", "dec", "radius"):
                value = region[name]
                number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
                if not number or not -_LARGEST <= value <= _LARGEST:
                    raise CatalogError(
                        f"the {name} of the region is {shorten(repr(value))}",
                        key="region",
                        fix="Give a number of degrees",
                    )
            return Region.circle(region["ra"], region["dec"], region["radius"])
        if set(region) == {"polygon"}:
            return Region.from_polygon(region["polygon"])
        if set(region) == {"skymap", "tract", "patch"}:
            skymap = get_skymap(region["skymap"])
            tract, patch = (_number(region, name) for name in ("tract", "patch"))
            return Region.from_polygon(skymap.patch_polygon(tract, patch))
        raise CatalogError(
            f"a region with {', '.join(map(str, region)) or 'nothing'}",
            key="region",
            fix="Give ra, dec and radius, or polygon, or skymap, tract and patch",
        )
    array = _points(region)
    if array.shape == (3,):
        return Region.circle(*array.tolist())
    return Region.from_polygon(array)
