"""Sky maps: tracts, patches, and which of them a position belongs to."""

from __future__ import annotations

import abc
import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skygraft.errors import SkyMapError
from skygraft.skymap.geometry import check_positions, tan_project

if TYPE_CHECKING:
    from skygraft.wcs import FitsWcs

__all__ = ["Patch", "PixelBox", "SkyMap", "Tract"]

type FloatArray = NDArray[np.float64]
type IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class PixelBox:
    """A box of whole pixels in a tract, given by the outer edges of its pixels (as `skygraft.psf.Box`).

    Parameters
    ----------
    x_min, x_max, y_min, y_max : float
        Edges in tract pixels: the centre of the first pixel is at ``x_min + 0.5``.
    """

    x_min: float
    x_max: float
    y_min: float
    y_max: float

    @classmethod
    def from_indices(cls, x0: int, y0: int, x1: int, y1: int) -> PixelBox:
        """The box of pixels `x0`..`x1`, `y0`..`y1`, both ends included.

        Parameters
        ----------
        x0, y0 : int
            First column and row.
        x1, y1 : int
            Last column and row.
        """
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
        """Whether pixel positions lie in the box, edges included; boolean array of the inputs' broadcast shape.

        Parameters
        ----------
        x, y : array_like
            Tract pixels.

        Returns
        -------
        ndarray of bool
        """
        x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
        return np.asarray((x >= self.x_min) & (x <= self.x_max) & (y >= self.y_min) & (y <= self.y_max))


@dataclass(frozen=True)
class Patch:
    """One patch of a tract.

    Parameters
    ----------
    tract : int
        Number of the tract.
    sequential : int
        Number of the patch within the tract: x + y nx on a grid.
    index : (int, int)
        Column and row (x, y) of the patch in the tract.
    inner_box, outer_box : PixelBox
        The patch without and with the border that overlaps its neighbours, in tract pixels.
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
        Tangent point, ICRS degrees.
    pixel_scale : float
        Arcsec per pixel at the tangent point. x increases to the West, y to the North (both the other way round in
        a tract centred on the north pole).
    crpix : (float, float)
        Pixel (x, y) of the tangent point, 0-based.
    patch_grid : (int, int)
        Number of patches in x and y.
    patch_inner : (int, int)
        Size of a patch in x and y without its border, in pixels.
    patch_border : int
        Width of the border by which a patch overlaps its neighbours, in pixels.
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
        """WCS of the tract: pixels to ICRS."""
        from skygraft.wcs import FitsWcs  # of astropy's frames and units, which looking at a campaign does without

        scale = self._pixel_degrees
        return FitsWcs.tan(*self.center, crpix=self.crpix, cd=[[-scale, 0.0], [0.0, scale]])

    @property
    def _pixel_degrees(self) -> float:
        """Degrees per pixel; negative at the north pole.

        lsst.skymap leaves LONPOLE at its default, which is 0 there instead of 180, so that tract is rotated by 180
        degrees.
        """
        return self.pixel_scale / (-3600.0 if self.center[1] == 90.0 else 3600.0)

    @property
    def outer_box(self) -> PixelBox:
        """Box of all pixels of the tract."""
        (nx, ny), (px, py) = self.patch_grid, self.patch_inner
        return PixelBox.from_indices(0, 0, nx * px - 1, ny * py - 1)

    @property
    def inner_box(self) -> PixelBox:
        """Union of the patches' inner boxes: all pixels of the tract."""
        return self.outer_box

    @property
    def n_patches(self) -> int:
        """Number of patches."""
        return self.patch_grid[0] * self.patch_grid[1]

    @property
    def patches(self) -> tuple[Patch, ...]:
        """All patches, in order of their number."""
        return tuple(self.patch(i) for i in range(self.n_patches))

    @property
    def vertices(self) -> FloatArray:
        """Corners (ra, dec) of the outer box in degrees, counter-clockwise in pixels, shape (4, 2)."""
        from skygraft.wcs import footprint

        return footprint(self.wcs, self.outer_box, n=1)

    def patch(self, sequential: int) -> Patch:
        """Return a patch by its number.

        Parameters
        ----------
        sequential : int
            Number of the patch.

        Returns
        -------
        Patch

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
        """Convert positions to tract pixels, faster than through `wcs`.

        Parameters
        ----------
        ra, dec : array_like
            ICRS degrees.

        Returns
        -------
        x, y : ndarray
            0-based pixels; NaN 90 degrees or more from the tract's centre.
        """
        xi, eta = tan_project(ra, dec, *self.center)
        scale = self._pixel_degrees
        return self.crpix[0] - xi / scale, self.crpix[1] + eta / scale


class SkyMap(abc.ABC):
    """A division of the sky into tracts, and of each tract into patches.

    Every position belongs to exactly one patch of one tract (in an explicit map, to at most one). Sky maps are
    immutable, picklable and hashable, and compare by value.
    """

    name: str

    @property
    @abc.abstractmethod
    def n_tracts(self) -> int:
        """Number of tracts."""

    @abc.abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Return the parameters as JSON types; `get_skymap` builds an equal map from them."""

    @abc.abstractmethod
    def tract(self, number: int) -> Tract:
        """Return a tract by its number; tracts are cached.

        Parameters
        ----------
        number : int
            Number of the tract.

        Returns
        -------
        Tract

        Raises
        ------
        SkyMapError
            If there is no such tract.
        """

    @abc.abstractmethod
    def _locate(self, ra: FloatArray, dec: FloatArray) -> tuple[IntArray, IntArray]:
        """Implement `locate` for positions that were checked and flattened, shape (N,)."""

    def locate(self, ra: ArrayLike, dec: ArrayLike) -> tuple[IntArray, IntArray]:
        """Find the tract and patch that each position belongs to.

        Parameters
        ----------
        ra, dec : array_like
            ICRS degrees: right ascension within 0..360, declination within -90..90.

        Returns
        -------
        tract, patch : ndarray of int64, broadcast shape of the inputs
            Numbers; -1 outside all tracts (explicit maps only).

        Raises
        ------
        SkyMapError
            If a position is not on the sphere; the message names its row and value.
        """
        lon, lat, shape = check_positions(ra, dec)
        tract, patch = self._locate(lon, lat)
        return tract.reshape(shape), patch.reshape(shape)

    def find_all(self, ra: float, dec: float) -> list[tuple[int, list[int]]]:
        """Find every tract and patch whose outer box contains a position.

        `locate` returns the one patch that a position belongs to; since tracts and patches overlap, coadds of all
        patches found here may show it.

        Parameters
        ----------
        ra, dec : float
            ICRS degrees.

        Returns
        -------
        list of (int, list of int)
            Tract numbers, ascending, each with the numbers of its patches.

        Raises
        ------
        SkyMapError
            If the position is not on the sphere.
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
        """Return candidates for `find_all`: the tracts that may contain a position."""

    def patch_polygon(self, tract: int, patch: int, *, outer: bool = False, n: int = 4) -> FloatArray:
        """Return the outline of a patch on the sky.

        Parameters
        ----------
        tract, patch : int
            Their numbers.
        outer : bool
            Include the border of the patch.
        n : int
            Points per side.

        Returns
        -------
        ndarray, shape (4 n, 2)
            (ra, dec) in degrees; the first point is not repeated at the end.

        Raises
        ------
        SkyMapError
            If there is no such tract or patch.
        """
        from skygraft.wcs import footprint

        geometry = self.tract(tract)
        piece = geometry.patch(patch)
        return footprint(geometry.wcs, piece.outer_box if outer else piece.inner_box, n)

    def _check_tract(self, number: int) -> int:
        if not 0 <= number < self.n_tracts:
            raise SkyMapError(
                f"sky map {self.name!r} has no tract {number}",
                key="tract",
                fix=f"Its tracts are 0 to {self.n_tracts - 1}",
            )
        return int(number)
