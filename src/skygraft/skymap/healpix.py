"""HEALPix sky maps: tracts are pixels of a coarse HEALPix grid, patches the pixels of a finer grid inside them.

Nested numbering (Gorski et al. 2005, ApJ 622, 759).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from skygraft.errors import SkyMapError
from skygraft.lazy import lazy_module
from skygraft.skymap.base import FloatArray, IntArray, Patch, PixelBox, SkyMap, Tract
from skygraft.skymap.options import Options

if TYPE_CHECKING:
    from astropy import units as u
    from astropy_healpix import HEALPix
else:
    u = lazy_module("astropy.units")

__all__ = ["HealpixSkyMap", "HealpixTract"]


@dataclass(frozen=True)
class HealpixTract(Tract):
    """A HEALPix pixel as a tract: projected gnomonically about its centre, with smaller HEALPix pixels as patches.

    HEALPix pixels are curved diamonds: the boxes of tract and patches are bounding boxes in the projection, and
    `HealpixSkyMap.patch_polygon` returns the true outlines. The first parameters are those of `Tract`.

    Parameters
    ----------
    nside, patch_nside : int
        Resolution of tracts and patches.
    """

    nside: int = 1
    patch_nside: int = 1

    @functools.cached_property
    def outer_box(self) -> PixelBox:
        """Bounding box of the tract's HEALPix pixel, in tract pixels."""
        return self._bounding(self.nside, self.number, 0)

    def patch(self, sequential: int) -> Patch:
        """Return a patch by its number, which is its nested index within the tract.

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
        pixel = self.number * self.n_patches + int(sequential)
        index = tuple(sum(((int(sequential) >> (2 * b + k)) & 1) << b for b in range(30)) for k in (0, 1))
        return Patch(
            self.number,
            int(sequential),
            (index[0], index[1]),
            self._bounding(self.patch_nside, pixel, 0),
            self._bounding(self.patch_nside, pixel, self.patch_border),
        )

    def _bounding(self, nside: int, pixel: int, border: int) -> PixelBox:
        x, y = self.project(*_outline(nside, pixel, 8))
        return PixelBox.from_indices(
            math.floor(x.min()) - border,
            math.floor(y.min()) - border,
            math.ceil(x.max()) + border,
            math.ceil(y.max()) + border,
        )


@dataclass(frozen=True)
class HealpixSkyMap(SkyMap):
    """A sky map whose tracts are HEALPix pixels of `nside`, and whose patches are those of `patch_nside`.

    Parameters
    ----------
    nside : int
        Resolution of the tracts: a power of two, at least 2 (a pixel of nside 1 is too wide to be projected).
    patch_nside : int
        Resolution of the patches: a power of two, at least `nside`.
    pixel_scale : float
        Arcsec per pixel of the tracts' projections.
    patch_border : int
        Pixels that the outer box of a patch adds around the bounding box of its HEALPix pixel.
    name : str
        Name of the map.
    """

    nside: int
    patch_nside: int
    pixel_scale: float = 0.2
    patch_border: int = 0
    name: str = "healpix"

    @classmethod
    def from_dict(cls, spec: Mapping[str, Any]) -> HealpixSkyMap:
        """Build the map from a mapping of parameters (see `get_skymap`).

        Parameters
        ----------
        spec : mapping

        Raises
        ------
        SkyMapError
            If a parameter is unknown, missing or out of range.
        """
        keys = ("kind", "name", "nside", "patch_nside", "pixel_scale", "patch_border")
        options = Options(spec, keys, "a healpix sky map")
        nside = options.integer("nside", low=2, high=2**20)
        patch_nside = options.integer("patch_nside", low=nside, high=2**24)
        for key, value in (("nside", nside), ("patch_nside", patch_nside)):
            if value & (value - 1):
                raise SkyMapError(f"a healpix sky map has {key} = {value}; it must be a power of two", key=key)
        return cls(
            nside,
            patch_nside,
            options.number("pixel_scale", 0.2, low=1e-4, high=3600.0),
            options.integer("patch_border", 0),
            str(options.get("name", "healpix")),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the parameters as JSON types."""
        return {
            "kind": "healpix",
            "name": self.name,
            "nside": self.nside,
            "patch_nside": self.patch_nside,
            "pixel_scale": self.pixel_scale,
            "patch_border": self.patch_border,
        }

    @property
    def n_tracts(self) -> int:
        """Number of tracts, 12 nside^2."""
        return 12 * self.nside**2

    @property
    def _patches_per_tract(self) -> int:
        return (self.patch_nside // self.nside) ** 2

    def tract(self, number: int) -> HealpixTract:
        """Return a tract by its number."""
        return _tract(self, self._check_tract(number))

    def patch_polygon(self, tract: int, patch: int, *, outer: bool = False, n: int = 4) -> FloatArray:
        """Return the outline of a patch on the sky: its HEALPix pixel, or its outer box if `outer`; shape (4 n, 2).

        Parameters
        ----------
        tract, patch, outer, n
            As in `SkyMap.patch_polygon`.
        """
        if outer:
            return super().patch_polygon(tract, patch, outer=True, n=n)
        self.tract(tract).patch(patch)
        return np.column_stack(_outline(self.patch_nside, tract * self._patches_per_tract + patch, n))

    def _locate(self, ra: FloatArray, dec: FloatArray) -> tuple[IntArray, IntArray]:
        pixel = np.asarray(_healpix(self.patch_nside).lonlat_to_healpix(ra * u.deg, dec * u.deg), dtype=np.int64)
        return pixel // self._patches_per_tract, pixel % self._patches_per_tract

    def _near(self, ra: float, dec: float) -> Iterable[int]:
        tract, _ = self._locate(np.array([ra]), np.array([dec]))
        return [int(tract[0])]


@functools.lru_cache(maxsize=32)
def _healpix(nside: int) -> HEALPix:
    from astropy_healpix import HEALPix

    return HEALPix(nside=nside, order="nested")


def _outline(nside: int, pixel: int, step: int) -> tuple[FloatArray, FloatArray]:
    """Outline (ra, dec) of a HEALPix pixel in degrees, `step` points per side."""
    lon, lat = _healpix(nside).boundaries_lonlat(np.array([pixel]), step)
    return lon[0].to_value(u.deg), lat[0].to_value(u.deg)


@functools.lru_cache(maxsize=8192)
def _tract(skymap: HealpixSkyMap, number: int) -> HealpixTract:
    lon, lat = _healpix(skymap.nside).healpix_to_lonlat(np.array([number]))
    side = skymap.patch_nside // skymap.nside
    width = round(math.degrees(math.sqrt(math.pi / 3) / skymap.patch_nside) * 3600 / skymap.pixel_scale)
    return HealpixTract(
        number,
        (float(lon[0].to_value(u.deg)), float(lat[0].to_value(u.deg))),
        skymap.pixel_scale,
        (0.0, 0.0),
        (side, side),
        (max(width, 1), max(width, 1)),
        skymap.patch_border,
        nside=skymap.nside,
        patch_nside=skymap.patch_nside,
    )
