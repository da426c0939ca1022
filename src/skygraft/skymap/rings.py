"""Rings sky maps, as in the LSST pipelines: tracts in rings of equal declination, and a cap at each pole."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from skygraft.errors import SkyMapError
from skygraft.skymap.base import FloatArray, IntArray, SkyMap, Tract
from skygraft.skymap.geometry import LonLatBounds, circle_bounds, tan_project
from skygraft.skymap.options import Options

__all__ = ["HSC_RINGS_V1", "LSST_CELLS_V1", "LSST_CELLS_V2", "RingsSkyMap"]

_KEYS = (
    "kind",
    "name",
    "num_rings",
    "pixel_scale",
    "patch_inner",
    "patch_border",
    "tract_overlap",
    "ra_start",
    "version",
)


@dataclass(frozen=True)
class RingsSkyMap(SkyMap):
    """A sky map of tracts in rings of declination: the ``rings`` sky map of the LSST pipelines, version 1.

    Parameters
    ----------
    num_rings : int
        Number of rings between the two polar caps; each is 180 / (num_rings + 1) degrees high.
    pixel_scale : float
        Arcsec per pixel at the centre of a tract.
    patch_inner : (int, int)
        Size of a patch in x and y without its border, in pixels.
    patch_border : int
        Width of the border by which a patch overlaps its neighbours, in pixels.
    tract_overlap : float
        Degrees by which a tract extends beyond half the height of a ring.
    ra_start : float
        Right ascension of the first tract of every ring, degrees.
    name : str
        Name of the map.

    Notes
    -----
    A position belongs to the ring that contains its declination, within the ring to the tract with the nearest centre
    in right ascension, and within the tract to the patch whose inner box contains it. In a coarse map a tract may not
    cover the corners of its cell: positions there belong to the nearest patch.
    """

    num_rings: int
    pixel_scale: float
    patch_inner: tuple[int, int]
    patch_border: int
    tract_overlap: float
    ra_start: float = 0.0
    name: str = "rings"

    @classmethod
    def from_dict(cls, spec: Mapping[str, Any]) -> RingsSkyMap:
        """Build the map from a mapping of parameters (see `get_skymap`).

        Parameters
        ----------
        spec : mapping

        Raises
        ------
        SkyMapError
            If a parameter is unknown, missing or out of range.
        """
        options = Options(spec, _KEYS, "a rings sky map")
        if options.get("version", 1) != 1:
            raise SkyMapError(
                f"version {options.get('version')} of the rings sky map is not supported; version 1 is",
                key="version",
                fix="Use version 1: version 0 numbers the tracts at right ascension 0 wrongly",
            )
        return cls(
            num_rings=options.integer("num_rings", low=1, high=10_000),
            pixel_scale=options.number("pixel_scale", low=1e-4, high=3600.0),
            patch_inner=options.pair("patch_inner", (4000, 4000)),
            patch_border=options.integer("patch_border", 100),
            tract_overlap=options.number("tract_overlap", 1.0 / 60.0, low=0.0, high=10.0),
            ra_start=options.number("ra_start", 0.0, low=0.0, high=360.0),
            name=str(options.get("name", "rings")),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the parameters as JSON types."""
        return {
            "kind": "rings",
            "name": self.name,
            "version": 1,
            "num_rings": self.num_rings,
            "pixel_scale": self.pixel_scale,
            "patch_inner": list(self.patch_inner),
            "patch_border": self.patch_border,
            "tract_overlap": self.tract_overlap,
            "ra_start": self.ra_start,
        }

    @property
    def n_tracts(self) -> int:
        """Number of tracts: those of all rings and the two caps."""
        return int(_layout(self.num_rings).first[-1]) + 1

    def tract(self, number: int) -> Tract:
        """Return a tract by its number."""
        return _tract(self, self._check_tract(number))

    def _locate(self, ra: FloatArray, dec: FloatArray) -> tuple[IntArray, IntArray]:
        layout = _layout(self.num_rings)
        ring = layout.ring_of(dec)
        inside = np.clip(ring, 0, self.num_rings - 1)
        width = 360.0 / layout.count[inside]
        place = np.floor((ra - self.ra_start) / width + 0.5).astype(np.int64) % layout.count[inside]
        tract = layout.first[inside] + place
        center_ra, center_dec = self.ra_start + place * width, layout.size * (inside + 1) - 90.0
        for cap, number, pole in ((ring < 0, 0, -90.0), (ring >= self.num_rings, self.n_tracts - 1, 90.0)):
            if cap.any():
                tract[cap], center_ra[cap], center_dec[cap] = number, self.ra_start, pole
        xi, eta = tan_project(ra, dec, center_ra, center_dec)
        # All tracts of a map have the same size; only their centres differ.
        crpix, (nx, ny) = self._grid()
        # The tract at the north pole is rotated by 180 degrees: see `Tract._pixel_degrees`.
        scale = np.where(center_dec == 90.0, -1.0, 1.0) * self.pixel_scale / 3600.0
        ix = np.floor((crpix[0] - xi / scale + 0.5) / self.patch_inner[0]).clip(0, nx - 1).astype(np.int64)
        iy = np.floor((crpix[1] + eta / scale + 0.5) / self.patch_inner[1]).clip(0, ny - 1).astype(np.int64)
        return tract, ix + nx * iy

    def _near(self, ra: float, dec: float) -> Iterable[int]:
        crpix, (nx, ny) = self._grid()
        sides = zip(crpix, (nx, ny), self.patch_inner, strict=True)
        corner = math.hypot(*(max(center, n * inner - center) + 1 for center, n, inner in sides))
        radius = math.degrees(math.atan(math.radians(corner * self.pixel_scale / 3600.0)))
        return self._cells_meeting(circle_bounds(ra, dec, radius))

    def _cells_meeting(self, bounds: LonLatBounds) -> list[int]:
        """Tracts whose own cell (a range of declination and right ascension) overlaps some bounds."""
        layout = _layout(self.num_rings)
        low, high = (int(r) for r in layout.ring_of(np.array([bounds.dec_min, bounds.dec_max])))
        found = ([0] if low < 0 else []) + ([self.n_tracts - 1] if high >= self.num_rings else [])
        for ring in range(max(low, 0), min(high, self.num_rings - 1) + 1):
            count, width = int(layout.count[ring]), 360.0 / int(layout.count[ring])
            start = math.floor((bounds.ra_min - self.ra_start) / width + 0.5)
            stop = math.floor((bounds.ra_max - self.ra_start) / width + 0.5)
            if bounds.all_ra or stop - start + 1 >= count:
                start, stop = 0, count - 1
            found += [int(layout.first[ring]) + k % count for k in range(start, stop + 1)]
        return found

    def _grid(self) -> tuple[tuple[float, float], tuple[int, int]]:
        """Tangent pixel (x, y) and number of patches in x and y, the same for every tract."""
        radius = math.radians(_layout(self.num_rings).size / 2.0 + self.tract_overlap)
        half = math.floor(math.degrees(math.tan(radius)) * 3600.0 / self.pixel_scale + 0.5)
        least = 2 * half + 1
        grid = [-(-least // inner) for inner in self.patch_inner]
        crpix = [half + (n * inner - least) // 2 for n, inner in zip(grid, self.patch_inner, strict=True)]
        return (float(crpix[0]), float(crpix[1])), (grid[0], grid[1])


@dataclass(frozen=True, eq=False)
class _Layout:
    """Height of the rings in degrees, number of tracts in each ring, and number of the first tract of each ring."""

    size: float
    count: IntArray
    first: IntArray

    def ring_of(self, dec: FloatArray) -> IntArray:
        """Ring of each declination: -1 for the south cap, the number of rings for the north cap."""
        ring = np.floor((dec + 90.0 - self.size / 2.0) / self.size).astype(np.int64)
        return ring.clip(-1, len(self.count))

    def ring_of_tract(self, number: int) -> int:
        return int(np.searchsorted(self.first, number, side="right")) - 1


@functools.lru_cache(maxsize=64)
def _layout(num_rings: int) -> _Layout:
    size = math.pi / (num_rings + 1)
    lowest = size * (np.arange(num_rings) + 0.5) - math.pi / 2
    nearest = np.where(lowest * (lowest + size) < 0, 0.0, np.minimum(np.abs(lowest), np.abs(lowest + size)))
    count = (2 * math.pi * np.cos(nearest) / size).astype(np.int64) + 1
    # Tract 0 is the south cap; the entry after the last ring is the north cap.
    return _Layout(math.degrees(size), count, np.concatenate([[1], 1 + np.cumsum(count)]))


@functools.lru_cache(maxsize=8192)
def _tract(skymap: RingsSkyMap, number: int) -> Tract:
    layout = _layout(skymap.num_rings)
    ring = layout.ring_of_tract(number)
    if number in (0, skymap.n_tracts - 1):
        center = (skymap.ra_start, -90.0 if number == 0 else 90.0)
    else:
        place = number - int(layout.first[ring])
        center = (
            (skymap.ra_start + 360.0 * place / int(layout.count[ring])) % 360.0,
            layout.size * (ring + 1) - 90.0,
        )
    crpix, grid = skymap._grid()
    return Tract(number, center, skymap.pixel_scale, crpix, grid, skymap.patch_inner, skymap.patch_border)


HSC_RINGS_V1 = RingsSkyMap(
    num_rings=120,
    pixel_scale=0.168,
    patch_inner=(4000, 4000),
    patch_border=100,
    tract_overlap=1.0 / 60.0,
    name="hsc_rings_v1",
)


def _lsst_cells(name: str) -> RingsSkyMap:
    """Rubin's cell-based sky map: patches of 20 x 20 cells of 150 pixels, with a border of one cell."""
    return RingsSkyMap(
        num_rings=120,
        pixel_scale=0.2,
        patch_inner=(3000, 3000),
        patch_border=150,
        tract_overlap=1.0 / 60.0,
        name=name,
    )


LSST_CELLS_V1 = _lsst_cells("lsst_cells_v1")
LSST_CELLS_V2 = _lsst_cells("lsst_cells_v2")
"""Same tracts and patches as version 1: the versions differ in the overlap of cells, which patches do not depend on."""
