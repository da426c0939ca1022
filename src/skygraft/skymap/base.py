"""What a sky map is: tracts, patches, and which of them a position belongs to or a footprint touches."""

from __future__ import annotations

import abc
import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy.coordinates import SkyCoord
from numpy.typing import ArrayLike, NDArray

from skygraft.errors import SkyMapError
from skygraft.skymap.geometry import Polygon, check_positions, segments_meet_boxes, tan_project
from skygraft.wcs import FitsWcs, footprint
from skygraft.wcs.base import to_vectors

__all__ = ["Patch", "PixelBox", "SkyMap", "Tract"]

type FloatArray = NDArray[np.float64]
type IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class PixelBox:
    """A box of whole pixels of a tract; like `skygraft.psf.Box`, its numbers are the pixels' outer edges."""

    x_min: float
    x_max: float
    y_min: float
    y_max: float

    @classmethod
    def from_indices(cls, x0: int, y0: int, x1: int, y1: int) -> PixelBox:
        """The box of pixels `x0`..`x1`, `y0`..`y1`, both ends included."""
        return cls(x0 - 0.5, x1 + 0.5, y0 - 0.5, y1 + 0.5)

    @property
    def indices(self) -> tuple[int, int, int, int]:
        """First and last pixels (x0, y0, x1, y1), both ends included."""
        return round(self.x_min + 0.5), round(self.y_min + 0.5), round(self.x_max - 0.5), round(self.y_max - 0.5)

    @property
    def xy0(self) -> tuple[int, int]:
        """First pixel (x, y)."""
        return self.indices[:2]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns (ny, nx)."""
        return round(self.y_max - self.y_min), round(self.x_max - self.x_min)

    def contains(self, x: ArrayLike, y: ArrayLike) -> NDArray[np.bool_]:
        """Which pixel positions lie inside, edges included."""
        x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
        return np.asarray((x >= self.x_min) & (x <= self.x_max) & (y >= self.y_min) & (y <= self.y_max))


@dataclass(frozen=True)
class Patch:
    """A piece of a tract.

    Parameters
    ----------
    tract : int
        The tract's number.
    sequential : int
        The patch's number within the tract: x + y nx on a grid.
    index : (int, int)
        Its place (x, y) in the tract.
    inner_box, outer_box : PixelBox
        Without and with the border that it shares with its neighbours, in tract pixels.
    """

    tract: int
    sequential: int
    index: tuple[int, int]
    inner_box: PixelBox
    outer_box: PixelBox


@dataclass(frozen=True)
class Tract:
    """A gnomonic projection of a piece of the sky, divided into equal patches.

    Parameters
    ----------
    number : int
        The tract's number in its sky map.
    center : (float, float)
        Its tangent point, ICRS degrees.
    pixel_scale : float
        Arcsec per pixel at the tangent point. x increases to the West, y to the North (both the other way round in
        a tract centred on the north pole).
    crpix : (float, float)
        The tangent point's pixel, 0-based.
    patch_grid : (int, int)
        Patches in x and y.
    patch_inner : (int, int)
        Pixels of a patch in x and y, without border.
    patch_border : int
        Pixels by which a patch reaches into its neighbours.
    """

    number: int
    center: tuple[float, float]
    pixel_scale: float
    crpix: tuple[float, float]
    patch_grid: tuple[int, int]
    patch_inner: tuple[int, int]
    patch_border: int = 0

    @functools.cached_property
    def wcs(self) -> FitsWcs:
        """Tract pixels to ICRS."""
        scale = self._pixel_degrees
        return FitsWcs.tan(*self.center, crpix=self.crpix, cd=[[-scale, 0.0], [0.0, scale]])

    @property
    def _pixel_degrees(self) -> float:
        """Degrees per pixel; negative at the north pole, where the field's sky maps are turned by 180 degrees.

        They leave LONPOLE to its default, which is 0 there instead of 180.
        """
        return self.pixel_scale / (-3600.0 if self.center[1] == 90.0 else 3600.0)

    @property
    def outer_box(self) -> PixelBox:
        """All pixels of the tract."""
        (nx, ny), (px, py) = self.patch_grid, self.patch_inner
        return PixelBox.from_indices(0, 0, nx * px - 1, ny * py - 1)

    @property
    def inner_box(self) -> PixelBox:
        """The union of the patches' inner boxes: every pixel of the tract."""
        return self.outer_box

    @property
    def n_patches(self) -> int:
        """How many patches it has."""
        return self.patch_grid[0] * self.patch_grid[1]

    @property
    def patches(self) -> tuple[Patch, ...]:
        """All patches, in order of their number."""
        return tuple(self.patch(i) for i in range(self.n_patches))

    @property
    def vertices(self) -> FloatArray:
        """The outer box's corners (ra, dec) in degrees, counter-clockwise in pixels from the first, shape (4, 2)."""
        return footprint(self.wcs, self.outer_box, n=1)

    def patch(self, sequential: int) -> Patch:
        """A patch by its number.

        Raises
        ------
        SkyMapError
            If the tract has no such patch.
        """
        if not 0 <= sequential < self.n_patches:
            raise SkyMapError(
                f"tract {self.number} has no patch {sequential}",
                key="patch",
                fix=f"Its patches are 0 to {self.n_patches - 1}",
            )
        (nx, ny), (px, py), border = self.patch_grid, self.patch_inner, self.patch_border
        ix, iy = int(sequential) % nx, int(sequential) // nx
        x0, y0 = ix * px, iy * py
        return Patch(
            self.number,
            int(sequential),
            (ix, iy),
            PixelBox.from_indices(x0, y0, x0 + px - 1, y0 + py - 1),
            PixelBox.from_indices(
                max(x0 - border, 0),
                max(y0 - border, 0),
                min(x0 + px + border, nx * px) - 1,
                min(y0 + py + border, ny * py) - 1,
            ),
        )

    def project(self, ra: ArrayLike, dec: ArrayLike) -> tuple[FloatArray, FloatArray]:
        """Tract pixels (x, y) of positions in degrees, without a WCS object; NaN from 90 degrees on."""
        xi, eta = tan_project(ra, dec, *self.center)
        scale = self._pixel_degrees
        return self.crpix[0] - xi / scale, self.crpix[1] + eta / scale

    def patches_meeting(self, polygon: Polygon, margin: float, *, unbounded: bool = False) -> IntArray:
        """Numbers of the patches whose inner boxes come within `margin` degrees of a polygon.

        With `unbounded`, patches at the tract's edge own everything beyond it too.
        """
        distance = np.degrees(np.arccos(np.clip(polygon.vectors @ to_vectors(*self.center), -1, 1)))
        reach = float(distance.max()) + margin
        if reach > 85.0:
            return np.arange(self.n_patches)
        x, y = self.project(polygon.ra, polygon.dec)
        # A gnomonic projection stretches angles by up to sec^2 of the distance from its centre.
        grow = np.radians(margin) / np.cos(np.radians(reach)) ** 2
        grow = float(np.degrees(grow)) * 3600.0 / self.pixel_scale + 1e-3
        (nx, ny), (px, py) = self.patch_grid, self.patch_inner
        ix, iy = (g.ravel() for g in np.meshgrid(np.arange(nx), np.arange(ny)))
        edges: list[FloatArray] = [
            np.asarray(k - 0.5, dtype=np.float64) for k in (ix * px, (ix + 1) * px, iy * py, (iy + 1) * py)
        ]
        if unbounded:
            far = 90.0 * 3600.0 / self.pixel_scale * 100.0
            for k, (place, last, sign) in enumerate(
                [(ix, 0, -1.0), (ix, nx - 1, 1.0), (iy, 0, -1.0), (iy, ny - 1, 1.0)]
            ):
                edges[k] = np.where(place == last, sign * far, edges[k])
        x_min, x_max, y_min, y_max = edges
        met = segments_meet_boxes(x, y, x_min - grow, x_max + grow, y_min - grow, y_max + grow)
        return np.flatnonzero(met)


class SkyMap(abc.ABC):
    """A division of the sky into tracts, and of tracts into patches.

    Every position belongs to one patch of one tract (of an explicit map: to at most one). Sky maps are immutable,
    picklable, hashable and equal by value.
    """

    name: str

    @property
    @abc.abstractmethod
    def n_tracts(self) -> int:
        """How many tracts there are."""

    @abc.abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """The parameters, plain enough for JSON and YAML; `get_skymap` makes the same map of them."""

    @abc.abstractmethod
    def tract(self, number: int) -> Tract:
        """A tract by its number (they are cached).

        Raises
        ------
        SkyMapError
            If there is no such tract.
        """

    @abc.abstractmethod
    def _locate(self, ra: FloatArray, dec: FloatArray) -> tuple[IntArray, IntArray]:
        """`locate` for flat, checked arrays."""

    @abc.abstractmethod
    def _touching(self, polygon: Polygon, margin: float) -> list[tuple[int, int]]:
        """`touching`, margin in degrees; in any order."""

    def locate(self, ra: ArrayLike, dec: ArrayLike) -> tuple[IntArray, IntArray]:
        """The tract and patch that positions belong to.

        Parameters
        ----------
        ra, dec : array_like
            ICRS degrees: right ascension within 0..360, declination within -90..90.

        Returns
        -------
        tract, patch : ndarray of int64, of the inputs' broadcast shape
            Numbers; -1 where there is no tract (explicit maps only).

        Raises
        ------
        SkyMapError
            If a position is not on the sphere: the message names its row and value.
        """
        lon, lat, shape = check_positions(ra, dec)
        tract, patch = self._locate(lon, lat)
        return tract.reshape(shape), patch.reshape(shape)

    def touching(self, polygon: ArrayLike, margin_arcsec: float = 0.0) -> list[tuple[int, int]]:
        """Every (tract, patch) that a position in or near a polygon can belong to.

        Parameters
        ----------
        polygon : array_like, shape (M, 2)
            (ra, dec) in degrees, joined by great circles, not closed; the side smaller than a hemisphere is meant.
        margin_arcsec : float
            How far the polygon is grown.

        Returns
        -------
        list of (int, int)
            Sorted. `locate` of any position within the grown polygon is among them; a few more may be.

        Raises
        ------
        SkyMapError
            If a vertex is not on the sphere, or the polygon wider than 120 degrees.
        """
        if not margin_arcsec >= 0:
            raise SkyMapError(f"margin_arcsec = {margin_arcsec} is not a number from 0 on", key="margin_arcsec")
        if not margin_arcsec <= 10 * 3600:
            raise SkyMapError(f"margin_arcsec = {margin_arcsec} is above 10 degrees", key="margin_arcsec")
        return sorted(set(self._touching(Polygon(polygon), margin_arcsec / 3600.0)))

    def find_all(self, ra: float, dec: float) -> list[tuple[int, list[int]]]:
        """Every tract that holds a position, with those of its patches that do, borders included.

        Where `locate` gives the one home of a position, this gives all places where a coadd may show it.

        Parameters
        ----------
        ra, dec : float
            ICRS degrees.

        Returns
        -------
        list of (int, list of int)
            Tract numbers, ascending, each with its patches' numbers.
        """
        lon, lat, _ = check_positions(ra, dec)
        found = []
        for number in sorted(self._near(float(lon[0]), float(lat[0]))):
            tract = self.tract(number)
            x, y = tract.project(lon, lat)
            if bool(tract.outer_box.contains(x, y)[0]):
                patches = [p.sequential for p in tract.patches if bool(p.outer_box.contains(x, y)[0])]
                found.append((number, patches))
        return found

    @abc.abstractmethod
    def _near(self, ra: float, dec: float) -> Iterable[int]:
        """Tracts that may hold a position, and perhaps some that do not."""

    def patch_polygon(self, tract: int, patch: int, *, outer: bool = False, n: int = 4) -> FloatArray:
        """Outline of a patch, shape (4 n, 2): (ra, dec) in degrees, not closed; with its border if `outer`."""
        geometry = self.tract(tract)
        piece = geometry.patch(patch)
        return footprint(geometry.wcs, piece.outer_box if outer else piece.inner_box, n)

    def patch_center(self, tract: int, patch: int) -> SkyCoord:
        """The middle of a patch's inner region."""
        geometry = self.tract(tract)
        box = geometry.patch(patch).inner_box
        ra, dec = geometry.wcs.pixel_to_world_values((box.x_min + box.x_max) / 2, (box.y_min + box.y_max) / 2)
        return SkyCoord(ra, dec, unit="deg")

    def _check_tract(self, number: int) -> int:
        if not 0 <= number < self.n_tracts:
            raise SkyMapError(
                f"sky map {self.name!r} has no tract {number}",
                key="tract",
                fix=f"Its tracts are 0 to {self.n_tracts - 1}",
            )
        return int(number)
