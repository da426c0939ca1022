"""Fingerprints of planes: a digest of each tile, taken when it is read, so that writing finds the changed tiles.

The alternatives are to read the file again, which for a compressed file takes longer than injection itself, or to keep
a second copy of every plane. Digests have 64 bits (XXH3) and are of the pixels in the exposure, so that a change is
noticed however it was made.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from skygraft.exposure import Exposure
from skygraft.fitsfile.tiles import tile_slices
from skygraft.formats.fits_layout import Plane

__all__ = ["FINGERPRINTS", "Fingerprint", "find_touched", "with_fingerprints"]

FINGERPRINTS = "fingerprints"
"""Key of `Exposure.extra`: the `Fingerprint` of each plane, by path and HDU."""


@dataclass(frozen=True, eq=False)
class Fingerprint:
    """Digests of the tiles of a plane.

    Parameters
    ----------
    shape, tile_shape : tuple of int
        Shapes of the plane and of its tiles; an uncompressed plane is one tile.
    digests : ndarray of uint64, shape (T,)
        One for each tile, in the order of the file.
    """

    shape: tuple[int, ...]
    tile_shape: tuple[int, ...]
    digests: NDArray[np.uint64]

    @classmethod
    def of(cls, plane: NDArray[Any], tile_shape: tuple[int, ...]) -> Fingerprint:
        """Compute the fingerprint of a plane.

        Parameters
        ----------
        plane : ndarray
            Pixels of any type.
        tile_shape : tuple of int
            Shape of the tiles, rows first; tiles at the edges may be smaller.

        Returns
        -------
        Fingerprint
        """
        # One buffer for all tiles: allocating memory for each takes longer than the digest.
        buffer = np.empty(math.prod(tile_shape), dtype=plane.dtype)
        digests = []
        for where in tile_slices(plane.shape, tile_shape):
            tile = plane[where]
            if not tile.flags.c_contiguous:
                copied = buffer[: tile.size].reshape(tile.shape)
                copied[...] = tile
                tile = copied
            digests.append(xxhash.xxh3_64_intdigest(tile))
        return cls(plane.shape, tile_shape, np.array(digests, dtype=np.uint64))

    def touched(self, plane: NDArray[Any]) -> NDArray[np.bool_]:
        """Return which tiles of a plane differ from the fingerprint.

        Parameters
        ----------
        plane : ndarray
            Pixels, of the same shape and type as when the fingerprint was taken.

        Returns
        -------
        ndarray of bool, shape (T,)
        """
        return np.asarray(Fingerprint.of(plane, self.tile_shape).digests != self.digests)


def with_fingerprints(exposure: Exposure, planes: Iterable[Plane]) -> Exposure:
    """Add fingerprints to an exposure that was just read.

    Parameters
    ----------
    exposure : Exposure
    planes : iterable of Plane
        Where its planes were read from.

    Returns
    -------
    Exposure
        With ``extra[FINGERPRINTS]``.
    """
    found = {}
    for plane in planes:
        pixels = _pixels(exposure, plane)
        if pixels is not None:
            found[plane.path, plane.hdu] = Fingerprint.of(pixels, plane.tile_shape or pixels.shape)
    return exposure.replace(extra={**exposure.extra, FINGERPRINTS: found})


def find_touched(exposure: Exposure, plane: Plane) -> NDArray[np.bool_] | None:
    """Return which tiles of a plane have changed since the exposure was read; the file must not have changed.

    Parameters
    ----------
    exposure : Exposure
    plane : Plane
        Where the plane was read from.

    Returns
    -------
    ndarray of bool, shape (T,), or None
        None if the exposure has no fingerprint of this plane.
    """
    fingerprints: Mapping[tuple[Path, int], Fingerprint] = exposure.extra.get(FINGERPRINTS, {})
    fingerprint, pixels = fingerprints.get((plane.path, plane.hdu)), _pixels(exposure, plane)
    if fingerprint is None or pixels is None or fingerprint.shape != pixels.shape:
        return None
    return fingerprint.touched(pixels)


def _pixels(exposure: Exposure, plane: Plane) -> NDArray[Any] | None:
    if plane.role == "image":
        return exposure.image
    return exposure.mask if plane.role == "mask" else exposure.variance
