"""Explicit sky maps: tracts listed one by one, for fields that no all-sky map covers."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from skygraft.errors import SkyMapError, shown
from skygraft.skymap.base import FloatArray, IntArray, SkyMap, Tract
from skygraft.skymap.geometry import check_positions
from skygraft.skymap.options import Options

__all__ = ["ExplicitSkyMap"]

_TRACT_KEYS = ("ra", "dec", "pixel_scale", "size", "patches", "border")


@dataclass(frozen=True)
class ExplicitSkyMap(SkyMap):
    """A sky map of listed tracts, each projected gnomonically about its own centre.

    The rest of the sky belongs to no tract.

    Parameters
    ----------
    tracts : tuple of Tract
        In order of their numbers, 0, 1, ...
    sizes : tuple of (int, int)
        Requested size of each tract in x and y, pixels. Patches are equal and whole, so a tract may be slightly larger.
    name : str
        Name of the map.

    Notes
    -----
    A position inside several tracts belongs to the one with the nearest centre, or the first of equally near ones.
    """

    tracts: tuple[Tract, ...]
    sizes: tuple[tuple[int, int], ...]
    name: str = "explicit"

    @classmethod
    def from_dict(cls, spec: Mapping[str, Any]) -> ExplicitSkyMap:
        """Build the map from a mapping of parameters (see `get_skymap`).

        Parameters
        ----------
        spec : mapping

        Raises
        ------
        SkyMapError
            If a parameter is unknown, missing or out of range.
        """
        options = Options(spec, ("kind", "name", "tracts"), "an explicit sky map")
        entries = options.get("tracts")
        if isinstance(entries, str | Mapping) or not isinstance(entries, Iterable):
            raise SkyMapError("the tracts of an explicit sky map are not a list", key="tracts")
        tracts, sizes = [], []
        for number, entry in enumerate(entries):
            tract = Options(entry, _TRACT_KEYS, f"tract {number} of an explicit sky map")
            ra, dec = float(tract.number("ra")), float(tract.number("dec"))
            try:
                check_positions(ra, dec)
            except SkyMapError as error:
                raise SkyMapError(f"the centre of tract {number}: {error.message}", fix=error.fix) from error
            size, grid = tract.pair("size"), tract.pair("patches", (1, 1))
            inner = (-(-size[0] // grid[0]), -(-size[1] // grid[1]))
            scale = tract.number("pixel_scale", low=1e-4, high=3600.0)
            full = tuple(n * p for n, p in zip(grid, inner, strict=True))
            if max(full) * scale > 90 * 3600:
                raise SkyMapError(
                    f"tract {number} is {shown(max(full) * scale / 3600)} degrees wide; at most 90 can be projected",
                    key="size",
                    fix="Give its size in pixels and pixel_scale in arcsec, or use more tracts",
                )
            crpix = ((full[0] - 1) / 2, (full[1] - 1) / 2)
            tracts.append(Tract(number, (ra % 360.0, dec), scale, crpix, grid, inner, tract.integer("border", 0)))
            sizes.append(size)
        if not tracts:
            raise SkyMapError("an explicit sky map needs at least one tract", key="tracts")
        return cls(tuple(tracts), tuple(sizes), str(options.get("name", "explicit")))

    def to_dict(self) -> dict[str, Any]:
        """Return the parameters as JSON types."""
        return {
            "kind": "explicit",
            "name": self.name,
            "tracts": [
                {
                    "ra": tract.center[0],
                    "dec": tract.center[1],
                    "pixel_scale": tract.pixel_scale,
                    "size": list(size),
                    "patches": list(tract.patch_grid),
                    "border": tract.patch_border,
                }
                for tract, size in zip(self.tracts, self.sizes, strict=True)
            ],
        }

    @property
    def n_tracts(self) -> int:
        """Number of tracts."""
        return len(self.tracts)

    def tract(self, number: int) -> Tract:
        """Return a tract by its number."""
        return self.tracts[self._check_tract(number)]

    def _locate(self, ra: FloatArray, dec: FloatArray) -> tuple[IntArray, IntArray]:
        from skygraft.wcs.base import to_vectors

        points = to_vectors(ra, dec)
        best = np.full(len(ra), np.inf)
        where = np.full(len(ra), -1, dtype=np.int64)
        patch = np.full(len(ra), -1, dtype=np.int64)
        for tract, radius in zip(self.tracts, _radii(self), strict=True):
            gap = np.linalg.norm(points - to_vectors(*tract.center), axis=1)
            rows = np.flatnonzero((gap < 2 * math.sin(math.radians(radius) / 2)) & (gap < best))
            x, y = tract.project(ra[rows], dec[rows])
            inside = tract.outer_box.contains(x, y)
            rows, x, y = rows[inside], x[inside], y[inside]
            (nx, ny), (px, py) = tract.patch_grid, tract.patch_inner
            ix = np.floor((x + 0.5) / px).clip(0, nx - 1).astype(np.int64)
            iy = np.floor((y + 0.5) / py).clip(0, ny - 1).astype(np.int64)
            best[rows], where[rows], patch[rows] = gap[rows], tract.number, ix + nx * iy
        return where, patch

    def _near(self, ra: float, dec: float) -> Iterable[int]:
        return range(self.n_tracts)


@functools.lru_cache(maxsize=64)
def _radii(skymap: ExplicitSkyMap) -> tuple[float, ...]:
    """Radius in degrees that encloses each tract, slightly rounded up."""
    radii = []
    for tract in skymap.tracts:
        ny, nx = tract.outer_box.shape
        half = math.radians(math.hypot(nx, ny) / 2 * tract.pixel_scale / 3600.0)
        radii.append(math.degrees(math.atan(half)) * (1 + 1e-9) + 1e-9)
    return tuple(radii)
