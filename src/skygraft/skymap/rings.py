"""The rings sky map of the LSST pipelines: tracts in rings of equal declination, and a cap at each pole."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from skygraft.errors import SkyMapError
from skygraft.skymap.base import FloatArray, IntArray, SkyMap, Tract
from skygraft.skymap.geometry import LonLatBounds, Polygon, tan_project
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
    """Tracts in rings of declination: the LSST pipelines' ``rings`` sky map, version 1.

    Parameters
    ----------
    num_rings : int
        Rings between the two caps; each is 180 / (num_rings + 1) degrees high.
    pixel_scale : float
        Arcsec per pixel at a tract's centre.
    patch_inner : (int, int)
        Pixels of a patch, without border, in x and y.
    patch_border : int
        Pixels by which a patch reaches into its neighbours.
    tract_overlap : float
        Degrees by which a tract reaches beyond half the height of a ring.
    ra_start : float
        Right ascension of the first tract of every ring, degrees.
    name : str
        What the map is called.

    Notes
    -----
    A position belongs to the ring whose declinations hold it, in it to the tract with the nearest centre in right
    ascension, in that to the patch whose inner box holds it (where a coarse map's tract does not reach the corner
    of its cell: to the nearest patch).
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
        """The map of a mapping of parameters (see `get_skymap`)."""
        options = Options(spec, _KEYS, "a rings sky map")
        if options.get("version", 1) != 1:
            raise SkyMapError(
                f"version {options.get('version')} of the rings sky map is not supported: 1 is",
                key="version",
                fix="Version 0 numbers the tracts at right ascension 0 wrongly; use version 1",
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
        """The parameters, plain enough for JSON and YAML."""
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
        """All rings' tracts and the two caps."""
        return int(_layout(self.num_rings).first[-1]) + 1

    def tract(self, number: int) -> Tract:
        """A tract by its number."""
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
        # All tracts of a map have the same size: only their centres differ.
        crpix, (nx, ny) = self._grid()
        # See Tract.wcs for the north cap.
        scale = np.where(center_dec == 90.0, -1.0, 1.0) * self.pixel_scale / 3600.0
        ix = np.floor((crpix[0] - xi / scale + 0.5) / self.patch_inner[0]).clip(0, nx - 1).astype(np.int64)
        iy = np.floor((crpix[1] + eta / scale + 0.5) / self.patch_inner[1]).clip(0, ny - 1).astype(np.int64)
        return tract, ix + nx * iy

    def _touching(self, polygon: Polygon, margin: float) -> list[tuple[int, int]]:
        return [
            (number, int(patch))
            for number in self._cells_meeting(polygon.bounds(margin))
            for patch in self.tract(number).patches_meeting(
                polygon, margin, unbounded=_overflows(self, _layout(self.num_rings).ring_of_tract(number))
            )
        ]

    def _near(self, ra: float, dec: float) -> Iterable[int]:
        crpix, (nx, ny) = self._grid()
        sides = zip(crpix, (nx, ny), self.patch_inner, strict=True)
        corner = math.hypot(*(max(center, n * inner - center) + 1 for center, n, inner in sides))
        radius = math.degrees(math.atan(math.radians(corner * self.pixel_scale / 3600.0)))
        return self._cells_meeting(Polygon([(ra, dec)]).bounds(radius))

    def _cells_meeting(self, bounds: LonLatBounds) -> list[int]:
        """Tracts whose own cell (a range of declination and right ascension) meets a rectangle."""
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
        """Pixel of the tangent point, and patches in x and y, of every tract."""
        radius = math.radians(_layout(self.num_rings).size / 2.0 + self.tract_overlap)
        half = math.floor(math.degrees(math.tan(radius)) * 3600.0 / self.pixel_scale + 0.5)
        least = 2 * half + 1
        grid = [-(-least // inner) for inner in self.patch_inner]
        crpix = [half + (n * inner - least) // 2 for n, inner in zip(grid, self.patch_inner, strict=True)]
        return (float(crpix[0]), float(crpix[1])), (grid[0], grid[1])


@dataclass(frozen=True, eq=False)
class _Layout:
    """The rings: their height in degrees, the tracts in each, and the number of the first tract of each."""

    size: float
    count: IntArray
    first: IntArray

    def ring_of(self, dec: FloatArray) -> IntArray:
        """Rings that declinations are in: -1 for the south cap, the number of rings for the north cap."""
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
    # Tract 0 is the south cap; the entry behind the last ring is the north cap.
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


@functools.lru_cache(maxsize=8192)
def _overflows(skymap: RingsSkyMap, ring: int) -> bool:
    """Whether the cells of a ring reach beyond their tracts' pixels (in coarse maps only)."""
    layout = _layout(skymap.num_rings)
    if not 0 <= ring < skymap.num_rings:
        return False
    tract = _tract(skymap, int(layout.first[ring]))
    half = 180.0 / int(layout.count[ring])
    if half >= 85.0:
        return True
    # Meridians are straight in the projection, parallels bend towards the pole: corners and middles are extremes.
    ra = (tract.center[0] + np.array([-half, 0.0, half, -half, 0.0, half])) % 360.0
    dec = tract.center[1] + layout.size / 2 * np.array([-1.0, -1, -1, 1, 1, 1])
    x, y = tract.project(ra, dec)
    return not bool(tract.outer_box.contains(x, y).all())


HSC_RINGS_V1 = RingsSkyMap(
    num_rings=120,
    pixel_scale=0.168,
    patch_inner=(4000, 4000),
    patch_border=100,
    tract_overlap=1.0 / 60.0,
    name="hsc_rings_v1",
)


def _lsst_cells(name: str) -> RingsSkyMap:
    """Rubin's sky map of cells: patches of 20 x 20 cells of 150 pixels, with a border of one cell."""
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
"""As version 1: they differ in how far cells reach into each other, which no patch of a coadd shows."""
