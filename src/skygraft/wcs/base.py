"""Base class of world coordinate systems: two pixel axes to ICRS right ascension and declination."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any

import numpy as np
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.wcs.wcsapi import BaseLowLevelWCS, HighLevelWCSMixin
from numpy.typing import ArrayLike, NDArray

__all__ = ["CelestialWcs", "to_lonlat", "to_vectors"]

type FloatArray = NDArray[np.float64]

# Array index of positions outside the projection: no image contains it, whatever its origin.
_NO_INDEX = np.iinfo(np.int64).min
_AT_ONCE = 1 << 16


class CelestialWcs(BaseLowLevelWCS, HighLevelWCSMixin, abc.ABC):  # type: ignore[misc]  # astropy carries no types
    """Parent pixels (x, y) to ICRS (ra, dec) in degrees, through the interface of APE 14.

    Pixels are 0-based in the exposure's parent frame, centres at integers; right ascension is in [0, 360). Positions
    that have no image under the transformation become NaN, in either direction. Array indices are (y, x) in the
    same parent frame. `pixel_to_world` and `world_to_pixel` do the same with `~astropy.coordinates.SkyCoord`.

    Subclasses implement `_forward` and `_inverse`. They are immutable, picklable and thread-safe.
    """

    @abc.abstractmethod
    def _forward(self, x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Convert parent pixels, shape (N,), to ICRS degrees, each shape (N,); NaN where undefined."""

    @abc.abstractmethod
    def _inverse(self, ra: FloatArray, dec: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Convert ICRS degrees, shape (N,), to parent pixels, each shape (N,); NaN where undefined."""

    def _newton_step(self, x: FloatArray, y: FloatArray, target: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Newton step in pixels from (x, y) towards unit vectors `target`, shape (N, 3), by the forward Jacobian."""
        here = to_vectors(*self._forward(x, y))
        slopes = [to_vectors(*self._forward(x + dx, y + dy)) - here for dx, dy in ((1.0, 0.0), (0.0, 1.0))]
        gap = target - here
        xx, yy = (np.einsum("ni,ni->n", s, s) for s in slopes)
        xy = np.einsum("ni,ni->n", slopes[0], slopes[1])
        gx, gy = (np.einsum("ni,ni->n", s, gap) for s in slopes)
        det = xx * yy - xy * xy
        return (yy * gx - xy * gy) / det, (xx * gy - xy * gx) / det

    def pixel_to_world_values(self, *pixel_arrays: ArrayLike) -> tuple[FloatArray, FloatArray]:
        """Convert parent pixels (x, y) to ICRS (ra, dec) in degrees, each of the inputs' broadcast shape.

        Parameters
        ----------
        *pixel_arrays : array_like
            x and y.

        Returns
        -------
        ra, dec : ndarray
        """
        x, y, shape = _two_arrays(pixel_arrays)
        return _in_parts(self._to_world, x, y, shape)

    def _to_world(self, x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
        on_plane = np.isfinite(x) & np.isfinite(y)
        ra, dec = self._forward(np.where(on_plane, x, np.nan), np.where(on_plane, y, np.nan))
        return _positive(ra), dec

    def pixel_to_world_radians(self, x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Convert parent pixels to ICRS (ra, dec) in radians, each shape (N,), without the rounding to degrees.

        For a WCS that computes in radians, the conversion to degrees costs up to 5e-10 pixel.

        Parameters
        ----------
        x, y : ndarray of float64, shape (N,)
            Parent pixels.

        Returns
        -------
        ra, dec : ndarray of float64, shape (N,)
        """
        ra, dec = self.pixel_to_world_values(x, y)
        return np.radians(ra), np.radians(dec)

    def world_to_pixel_values(self, *world_arrays: ArrayLike) -> tuple[FloatArray, FloatArray]:
        """Convert ICRS (ra, dec) in degrees to parent pixels (x, y), each of the inputs' broadcast shape, or NaN.

        Parameters
        ----------
        *world_arrays : array_like
            Right ascension and declination, degrees.

        Returns
        -------
        x, y : ndarray
        """
        ra, dec, shape = _two_arrays(world_arrays)
        return _in_parts(self._inverse, ra, dec, shape)

    def world_to_array_index_values(self, *world_arrays: ArrayLike) -> tuple[NDArray[np.int64], ...]:
        """Convert ICRS degrees to the nearest array indices (y, x); the smallest int64 where undefined.

        Parameters
        ----------
        *world_arrays : array_like
            Right ascension and declination, degrees.

        Returns
        -------
        y, x : ndarray of int64
        """
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
        """How the two values form a `~astropy.coordinates.SkyCoord` (APE 14)."""
        return [("celestial", 0, "spherical.lon.degree"), ("celestial", 1, "spherical.lat.degree")]

    @property
    def world_axis_object_classes(self) -> dict[str, tuple[type, tuple[Any, ...], dict[str, Any]]]:
        """Class and frame of the world object: an ICRS `~astropy.coordinates.SkyCoord` (APE 14)."""
        return {"celestial": (SkyCoord, (), {"frame": "icrs", "unit": (u.deg, u.deg)})}


def to_vectors(ra: ArrayLike, dec: ArrayLike) -> FloatArray:
    """Convert directions in degrees to unit vectors, shape (..., 3).

    Parameters
    ----------
    ra, dec : array_like
        Longitude and latitude, degrees.
    """
    lon, lat = np.radians(ra), np.radians(dec)
    cos_lat = np.cos(lat)
    return np.stack([cos_lat * np.cos(lon), cos_lat * np.sin(lon), np.sin(lat)], axis=-1)


def to_lonlat(vectors: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Convert vectors of any length, shape (..., 3), to longitude in [0, 360) and latitude, in degrees."""
    x, y, z = vectors[..., 0], vectors[..., 1], vectors[..., 2]
    # arctan2, unlike arcsin, is accurate near the poles too.
    return _positive(np.degrees(np.arctan2(y, x))), np.degrees(np.arctan2(z, np.hypot(x, y)))


def _positive(angle: FloatArray) -> FloatArray:
    """Wrap angles to [0, 360); the modulo of a tiny negative angle would round up to 360."""
    wrapped = np.mod(angle, 360.0)
    return np.where(wrapped >= 360.0, 0.0, wrapped)


def _two_arrays(arrays: tuple[ArrayLike, ...]) -> tuple[FloatArray, FloatArray, tuple[int, ...]]:
    if len(arrays) != 2:
        raise ValueError(f"two coordinate arrays are needed, {len(arrays)} were given")
    first, second = np.broadcast_arrays(*(np.asarray(a, dtype=np.float64) for a in arrays))
    return first.ravel(), second.ravel(), first.shape


def _in_parts(
    convert: Callable[[FloatArray, FloatArray], tuple[FloatArray, FloatArray]],
    first: FloatArray,
    second: FloatArray,
    shape: tuple[int, ...],
) -> tuple[FloatArray, FloatArray]:
    """Convert coordinates some at a time, with little memory for what lies between, and restore the input's shape."""
    if first.size <= _AT_ONCE:
        found = convert(first, second)
        return _shaped(found[0], shape), _shaped(found[1], shape)
    one, other = np.empty(first.size), np.empty(first.size)
    for start in range(0, first.size, _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        one[part], other[part] = convert(first[part], second[part])
    return _shaped(one, shape), _shaped(other, shape)


def _shaped(values: FloatArray, shape: tuple[int, ...]) -> FloatArray:
    """Restore the input's shape; a NumPy scalar for scalars, as APE 14 requires."""
    return values.reshape(shape)[()]
