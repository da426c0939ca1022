"""Spherical polygons: their bounds, what they contain, how far they are, and what a grid of boxes has of them.

Polygons are (M, 2) arrays of (ra, dec) in degrees, joined by great circles, not closed, smaller than a hemisphere.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skygraft.errors import SkyMapError, shown
from skygraft.wcs.base import to_lonlat, to_vectors

__all__ = ["LonLatBounds", "Polygon", "check_positions", "segments_meet_boxes", "tan_project"]

type FloatArray = NDArray[np.float64]
type BoolArray = NDArray[np.bool_]

# Beyond this radius (degrees) the inside of a polygon, and its gnomonic image, become doubtful.
_MAX_RADIUS = 60.0
# Bounds are widened by this (degrees, 4 micro-arcsec) so that rounding cannot lose a position on an edge.
_GUARD = 1e-9


def check_positions(ra: ArrayLike, dec: ArrayLike) -> tuple[FloatArray, FloatArray, tuple[int, ...]]:
    """Flat arrays of positions and their common shape; an error for the first that is not on the sphere.

    Raises
    ------
    SkyMapError
        If a right ascension is outside 0..360 or a declination outside -90..90, or either is not a number.
    """
    ra, dec = np.broadcast_arrays(np.asarray(ra, dtype=np.float64), np.asarray(dec, dtype=np.float64))
    shape = ra.shape
    lon, lat = ra.ravel(), dec.ravel()
    for name, values, low, high in (("ra", lon, 0.0, 360.0), ("dec", lat, -90.0, 90.0)):
        bad = ~((values >= low) & (values <= high))
        if bad.any():
            row = int(np.argmax(bad))
            raise SkyMapError(
                f"{name} = {values[row]} is not within {low:g}..{high:g} degrees",
                row=row,
                key=name,
                fix="Give positions in degrees (radians? sexagesimal?), right ascension within 0..360",
            )
    return lon, lat, shape


def tan_project(
    ra: ArrayLike, dec: ArrayLike, center_ra: ArrayLike, center_dec: ArrayLike
) -> tuple[FloatArray, FloatArray]:
    """Gnomonic (xi East, eta North) in degrees about one centre or one each; NaN from 90 degrees on.

    Calabretta & Greisen 2002, section 5.1.3.
    """
    shift = np.radians(np.asarray(ra, float) - np.asarray(center_ra, float))
    lat, lat0 = np.radians(np.asarray(dec, float)), np.radians(np.asarray(center_dec, float))
    cos_lat = np.cos(lat)
    # In half angles, so that no digits are lost near the centre.
    across = 2.0 * np.sin(shift / 2.0) ** 2
    depth = np.cos(lat - lat0) - cos_lat * np.cos(lat0) * across
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = np.where(depth > 1e-12, np.degrees(1.0) / depth, np.nan)
    xi = cos_lat * np.sin(shift) * scale
    eta = (np.sin(lat - lat0) + cos_lat * np.sin(lat0) * across) * scale
    return xi, eta


@dataclass(frozen=True)
class LonLatBounds:
    """A rectangle of longitude and latitude, degrees: `ra_min` in [0, 360), `ra_min` <= `ra_max` < `ra_min` + 360."""

    ra_min: float
    ra_max: float
    dec_min: float
    dec_max: float

    @property
    def all_ra(self) -> bool:
        """Whether it goes all the way around."""
        return self.ra_max - self.ra_min >= 360.0


class Polygon:
    """A spherical polygon smaller than a hemisphere.

    Parameters
    ----------
    vertices : array_like, shape (M, 2)
        (ra, dec) in degrees, M >= 3 (M = 1 or 2: a point or an arc).

    Raises
    ------
    SkyMapError
        If a vertex is not on the sphere, or the polygon is wider than 60 degrees from its middle.
    """

    def __init__(self, vertices: ArrayLike) -> None:
        points = np.asarray(vertices, dtype=np.float64)
        if points.ndim != 2 or points.shape[1] != 2 or len(points) == 0:
            raise SkyMapError(f"a polygon is an array of (ra, dec) rows, shape (M, 2), not {points.shape}")
        self.ra, self.dec, _ = check_positions(points[:, 0], points[:, 1])
        self.vectors = to_vectors(self.ra, self.dec)
        middle = self.vectors.sum(axis=0)
        length = float(np.linalg.norm(middle))
        middle = middle / length if length > 1e-9 else np.array([0.0, 0.0, 1.0])
        self.middle = middle
        lon, lat = to_lonlat(middle)
        self.center = (float(lon), float(lat))
        self.radius = float(np.degrees(_angles(self.vectors, middle[None])).max())
        if self.radius > _MAX_RADIUS:
            reach = f"{self.radius:.1f}" if self.radius > _MAX_RADIUS + 0.05 else shown(self.radius)
            raise SkyMapError(
                f"the polygon reaches {reach} degrees from its middle; at most {_MAX_RADIUS:g} can be used",
                fix="Split the footprint into smaller polygons, or check the image's WCS",
            )

    def contains(self, ra: ArrayLike, dec: ArrayLike) -> BoolArray:
        """Which positions, shape (N,), are inside."""
        x, y = tan_project(self.ra, self.dec, *self.center)
        px, py = tan_project(ra, dec, *self.center)
        return _inside(px, py, x, y)

    def distance(self, ra: ArrayLike, dec: ArrayLike) -> FloatArray:
        """Degrees from positions, shape (N,), to the polygon; zero inside."""
        points = to_vectors(ra, dec)
        start, end = self.vectors, np.roll(self.vectors, -1, axis=0)
        ends = np.linalg.norm(points[:, None, :] - start[None], axis=-1)
        nearest = 2 * np.arcsin(np.clip(ends / 2, 0, 1)).min(axis=1)
        normal = np.cross(start, end)
        size = np.linalg.norm(normal, axis=1)
        real = size > 1e-15
        if real.any():
            n = normal[real] / size[real, None]
            across = np.einsum("pi,ei->pe", points, n)
            beside = (np.einsum("pi,ei->pe", points, np.cross(n, start[real])) >= 0) & (
                np.einsum("pi,ei->pe", points, np.cross(end[real], n)) >= 0
            )
            arcs = np.where(beside, np.arcsin(np.clip(np.abs(across), 0, 1)), np.inf)
            nearest = np.minimum(nearest, arcs.min(axis=1))
        return np.where(self.contains(ra, dec), 0.0, np.degrees(nearest))

    def bounds(self, margin: float = 0.0) -> LonLatBounds:
        """Right ascensions and declinations of the polygon grown by `margin` degrees; poles and RA 0 included."""
        margin = margin + _GUARD
        low, high = self._dec_range()
        step = (np.diff(self.ra, append=self.ra[0]) + 180.0) % 360.0 - 180.0
        around = abs(step.sum()) > 180.0
        reach = max(abs(low), abs(high)) + margin
        if around or reach >= 90.0:
            # It holds a pole, or comes as near to one as the margin.
            north = self.dec.mean() > 0 if around else high + margin >= 90.0
            south = not north if around else low - margin <= -90.0
            return LonLatBounds(
                0.0, 360.0, -90.0 if south else max(low - margin, -90.0), 90.0 if north else min(high + margin, 90.0)
            )
        # Right ascension is monotonic along a great circle: its extremes are at vertices.
        unwrapped = self.ra[0] + np.concatenate([[0.0], np.cumsum(step[:-1])])
        widest = np.radians(max(abs(low), abs(high)))
        grow = float(np.degrees(np.arcsin(min(1.0, np.sin(np.radians(margin)) / np.cos(widest)))))
        ra_min, ra_max = unwrapped.min() - grow, unwrapped.max() + grow
        if ra_max - ra_min >= 360.0:
            return LonLatBounds(0.0, 360.0, low - margin, high + margin)
        start = float(ra_min % 360.0)
        return LonLatBounds(start, start + float(ra_max - ra_min), low - margin, high + margin)

    def _dec_range(self) -> tuple[float, float]:
        """Lowest and highest declination of the outline: vertices, and where an arc culminates between them."""
        start, end = self.vectors, np.roll(self.vectors, -1, axis=0)
        normal = np.cross(start, end)
        z = np.array([0.0, 0.0, 1.0])
        # The highest point of a great circle lies in the plane of its pole and the celestial pole.
        top = z * np.einsum("ei,ei->e", normal, normal)[:, None] - normal * normal[:, 2:]
        size = np.linalg.norm(top, axis=1)
        decs = [self.dec]
        for sign in (1.0, -1.0):
            with np.errstate(divide="ignore", invalid="ignore"):
                point = sign * top / size[:, None]
            between = (np.einsum("ei,ei->e", np.cross(start, point), normal) > 0) & (
                np.einsum("ei,ei->e", np.cross(point, end), normal) > 0
            )
            decs.append(to_lonlat(point[between & (size > 0)])[1])
        every = np.concatenate(decs)
        return float(every.min()), float(every.max())


def segments_meet_boxes(
    x: FloatArray, y: FloatArray, x_min: FloatArray, x_max: FloatArray, y_min: FloatArray, y_max: FloatArray
) -> BoolArray:
    """Which of P boxes a plane polygon meets: an edge crosses it, or the box lies inside.

    Parameters
    ----------
    x, y : ndarray, shape (M,)
        Vertices, not closed.
    x_min, x_max, y_min, y_max : ndarray, shape (P,)
        The boxes.

    Returns
    -------
    ndarray of bool, shape (P,)
    """
    ax, ay, bx, by = x[:, None], y[:, None], np.roll(x, -1)[:, None], np.roll(y, -1)[:, None]
    near = (np.minimum(ax, bx) <= x_max) & (np.maximum(ax, bx) >= x_min)
    near &= (np.minimum(ay, by) <= y_max) & (np.maximum(ay, by) >= y_min)
    # Separating axis: the edge's own normal. All four corners strictly on one side means no contact.
    dx, dy = bx - ax, by - ay
    sides = np.stack([dx * (cy - ay) - dy * (cx - ax) for cx in (x_min, x_max) for cy in (y_min, y_max)])
    crossing = near & (sides.min(axis=0) <= 0) & (sides.max(axis=0) >= 0)
    return np.asarray(crossing.any(axis=0) | _inside((x_min + x_max) / 2, (y_min + y_max) / 2, x, y))


def _inside(px: FloatArray, py: FloatArray, x: FloatArray, y: FloatArray) -> BoolArray:
    """Even-odd rule: which plane points, shape (P,), are inside the polygon (M,)."""
    px, py = np.atleast_1d(px)[:, None], np.atleast_1d(py)[:, None]
    x2, y2 = np.roll(x, -1), np.roll(y, -1)
    spans = (y > py) != (y2 > py)
    with np.errstate(divide="ignore", invalid="ignore"):
        left = px < (x2 - x) * (py - y) / (y2 - y) + x
    return np.asarray((spans & left).sum(axis=1) % 2 == 1)


def _angles(a: FloatArray, b: FloatArray) -> FloatArray:
    """Angles in radians between unit vectors, exact when small."""
    return np.asarray(2 * np.arcsin(np.clip(np.linalg.norm(a - b, axis=-1) / 2, 0, 1)))
