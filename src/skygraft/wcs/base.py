"""What every world coordinate system here has in common: two pixel axes, ICRS right ascension and declination."""

from __future__ import annotations

import abc
from typing import Any

import numpy as np
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.wcs.wcsapi import BaseLowLevelWCS, HighLevelWCSMixin
from numpy.typing import ArrayLike, NDArray

__all__ = ["CelestialWcs", "to_lonlat", "to_vectors"]

type FloatArray = NDArray[np.float64]

# What an array index becomes where there is none: no image reaches it, whatever its origin.
_NO_INDEX = np.iinfo(np.int64).min


class CelestialWcs(BaseLowLevelWCS, HighLevelWCSMixin, abc.ABC):  # type: ignore[misc]  # astropy carries no types
    """Parent pixels (x, y) to ICRS (ra, dec) in degrees, through the interface of APE 14.

    Pixels are 0-based in the exposure's parent frame, centres at integers; right ascension is in [0, 360). Positions
    that have no image under the transformation become NaN, in either direction. Array indices are (y, x) in the
    same parent frame. `pixel_to_world` and `world_to_pixel` do the same with `~astropy.coordinates.SkyCoord`.

    Subclasses give `_forward` and `_inverse`, are immutable and picklable, and may be called from several threads.
    """

    @abc.abstractmethod
    def _forward(self, x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Parent pixels, shape (N,), to ICRS degrees, each shape (N,); NaN where undefined."""

    @abc.abstractmethod
    def _inverse(self, ra: FloatArray, dec: FloatArray) -> tuple[FloatArray, FloatArray]:
        """ICRS degrees, shape (N,), to parent pixels, each shape (N,); NaN where undefined."""

    def _newton_step(self, x: FloatArray, y: FloatArray, target: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Pixels still to go from (x, y) to unit vectors `target` (N, 3), by the forward mapping's own slopes."""
        here = to_vectors(*self._forward(x, y))
        slopes = [to_vectors(*self._forward(x + dx, y + dy)) - here for dx, dy in ((1.0, 0.0), (0.0, 1.0))]
        gap = target - here
        xx, yy = (np.einsum("ni,ni->n", s, s) for s in slopes)
        xy = np.einsum("ni,ni->n", slopes[0], slopes[1])
        gx, gy = (np.einsum("ni,ni->n", s, gap) for s in slopes)
        det = xx * yy - xy * xy
        return (yy * gx - xy * gy) / det, (xx * gy - xy * gx) / det

    def pixel_to_world_values(self, *pixel_arrays: ArrayLike) -> tuple[FloatArray, FloatArray]:
        """ICRS (ra, dec) in degrees of parent pixels (x, y), each of the inputs' broadcast shape."""
        x, y, shape = _two_arrays(pixel_arrays)
        on_plane = np.isfinite(x) & np.isfinite(y)
        ra, dec = self._forward(np.where(on_plane, x, np.nan), np.where(on_plane, y, np.nan))
        return _shaped(_positive(ra), shape), _shaped(dec, shape)

    def pixel_to_world_radians(self, x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
        """ICRS (ra, dec) in radians of parent pixels, each shape (N,), with the last digits of those that have them.

        What is known in radians loses some in degrees: up to 5e-10 of the distance from one pixel to the next.
        """
        ra, dec = self.pixel_to_world_values(x, y)
        return np.radians(ra), np.radians(dec)

    def world_to_pixel_values(self, *world_arrays: ArrayLike) -> tuple[FloatArray, FloatArray]:
        """Parent pixels (x, y) of ICRS (ra, dec) in degrees, each of the inputs' broadcast shape; NaN if none."""
        ra, dec, shape = _two_arrays(world_arrays)
        x, y = self._inverse(ra, dec)
        return _shaped(x, shape), _shaped(y, shape)

    def world_to_array_index_values(self, *world_arrays: ArrayLike) -> tuple[NDArray[np.int64], ...]:
        """Nearest array indices (y, x); the smallest int64 where the position is not on the pixel plane."""
        x, y = self.world_to_pixel_values(*world_arrays)
        on_plane = np.isfinite(x) & np.isfinite(y)

        def index(values: FloatArray) -> NDArray[np.int64]:
            rounded = np.floor(np.where(on_plane, values, 0.0) + 0.5).astype(np.int64)
            return np.where(on_plane, rounded, _NO_INDEX)[()]

        return index(y), index(x)

    @property
    def pixel_n_dim(self) -> int:
        """Two: x and y."""
        return 2

    @property
    def world_n_dim(self) -> int:
        """Two: right ascension and declination."""
        return 2

    @property
    def pixel_axis_names(self) -> tuple[str, str]:
        """``("x", "y")``."""
        return ("x", "y")

    @property
    def world_axis_names(self) -> tuple[str, str]:
        """``("ra", "dec")``."""
        return ("ra", "dec")

    @property
    def world_axis_units(self) -> tuple[str, str]:
        """Degrees, always."""
        return ("deg", "deg")

    @property
    def world_axis_physical_types(self) -> tuple[str, str]:
        """UCD1+ words for right ascension and declination."""
        return ("pos.eq.ra", "pos.eq.dec")

    @property
    def world_axis_object_components(self) -> list[tuple[str, int, str]]:
        """How the two values make one `~astropy.coordinates.SkyCoord`."""
        return [("celestial", 0, "spherical.lon.degree"), ("celestial", 1, "spherical.lat.degree")]

    @property
    def world_axis_object_classes(self) -> dict[str, tuple[type, tuple[Any, ...], dict[str, Any]]]:
        """One ICRS `~astropy.coordinates.SkyCoord`."""
        return {"celestial": (SkyCoord, (), {"frame": "icrs", "unit": (u.deg, u.deg)})}


def to_vectors(ra: ArrayLike, dec: ArrayLike) -> FloatArray:
    """Unit vectors, shape (..., 3), of directions in degrees."""
    lon, lat = np.radians(ra), np.radians(dec)
    cos_lat = np.cos(lat)
    return np.stack([cos_lat * np.cos(lon), cos_lat * np.sin(lon), np.sin(lat)], axis=-1)


def to_lonlat(vectors: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Directions in degrees, longitude in [0, 360), of vectors of any length, shape (..., 3)."""
    x, y, z = vectors[..., 0], vectors[..., 1], vectors[..., 2]
    # arctan2 rather than arcsin: exact to the last digits at the poles too.
    return _positive(np.degrees(np.arctan2(y, x))), np.degrees(np.arctan2(z, np.hypot(x, y)))


def _positive(angle: FloatArray) -> FloatArray:
    """Angles in [0, 360); a tiny negative one would round up to 360 itself."""
    wrapped = np.mod(angle, 360.0)
    return np.where(wrapped >= 360.0, 0.0, wrapped)


def _two_arrays(arrays: tuple[ArrayLike, ...]) -> tuple[FloatArray, FloatArray, tuple[int, ...]]:
    if len(arrays) != 2:
        raise ValueError(f"two coordinate arrays are needed, {len(arrays)} were given")
    first, second = np.broadcast_arrays(*(np.asarray(a, dtype=np.float64) for a in arrays))
    return first.ravel(), second.ravel(), first.shape


def _shaped(values: FloatArray, shape: tuple[int, ...]) -> FloatArray:
    """Back to the shape asked for: a NumPy scalar for scalars, as APE 14 has it."""
    return values.reshape(shape)[()]
