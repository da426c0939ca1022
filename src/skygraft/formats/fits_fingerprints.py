"""What the planes of an image were when they were read: a digest of each tile, so that writing finds what changed.

The other ways are to read the file once more, which takes longer than injection itself where it is compressed, or to
keep a second copy of every plane. A digest has 64 bits (XXH3, a hash that random changes do not escape), and is of the
plane as an exposure holds it: whoever changed a pixel since, by whatever means, is noticed.
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
"""Key of `Exposure.extra`: a `Fingerprint` for the path and HDU of each plane."""


@dataclass(frozen=True, eq=False)
class Fingerprint:
    """Digests of the tiles of a plane.

    Parameters
    ----------
    shape, tile_shape : tuple of int
        Of the plane, and of its tiles: the whole plane where it is not compressed.
    digests : ndarray of uint64, shape (T,)
        In the order in which a file has them.
    """

    shape: tuple[int, ...]
    tile_shape: tuple[int, ...]
    digests: NDArray[np.uint64]

    @classmethod
    def of(cls, plane: NDArray[Any], tile_shape: tuple[int, ...]) -> Fingerprint:
        """Take it of a plane.

        Parameters
        ----------
        plane : ndarray
            Pixels of any type.
        tile_shape : tuple of int
            Shape of the tiles, rows first; those at the edges are smaller.

        Returns
        -------
        Fingerprint
        """
        # in one room for all of them: fresh memory for each takes longer than the digest
        room = np.empty(math.prod(tile_shape), dtype=plane.dtype)
        digests = []
        for where in tile_slices(plane.shape, tile_shape):
            tile = plane[where]
            if not tile.flags.c_contiguous:
                same = room[: tile.size].reshape(tile.shape)
                same[...] = tile
                tile = same
            digests.append(xxhash.xxh3_64_intdigest(tile))
        return cls(plane.shape, tile_shape, np.array(digests, dtype=np.uint64))

    def touched(self, plane: NDArray[Any]) -> NDArray[np.bool_]:
        """Which tiles of a plane are not what they were.

        Parameters
        ----------
        plane : ndarray
            Pixels, of the shape and type of those that the fingerprint is of.

        Returns
        -------
        ndarray of bool, shape (T,)
        """
        return np.asarray(Fingerprint.of(plane, self.tile_shape).digests != self.digests)


def with_fingerprints(exposure: Exposure, planes: Iterable[Plane]) -> Exposure:
    """An exposure that was just read, with fingerprints of its planes, which were read from there."""
    found = {}
    for plane in planes:
        pixels = _pixels(exposure, plane)
        if pixels is not None:
            found[plane.path, plane.hdu] = Fingerprint.of(pixels, plane.tile_shape or pixels.shape)
    return exposure.replace(extra={**exposure.extra, FINGERPRINTS: found})


def find_touched(exposure: Exposure, plane: Plane) -> NDArray[np.bool_] | None:
    """Which tiles of a plane's file an exposure differs in, shape (T,); None where nobody knows.

    The file must be what it was when the exposure was read.
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
