"""Fingerprints of planes: a digest of each tile, taken when it is read, so that writing finds the changed tiles.

The alternatives are to read the file again, which for a compressed file takes longer than injection itself, or to keep
a second copy of every plane. Digests have 64 bits (XXH3) and are of the pixels in the exposure, so that a change is
noticed however it was made.

A campaign does keep the planes as they were read, until the image is written. It compares them, which takes a tenth of
the time: see `without_fingerprints`.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from skygraft.exposure import Exposure
from skygraft.fitsfile.tiles import tile_slices
from skygraft.formats.fits_layout import Plane
from skygraft.jit import compiled

__all__ = ["AS_READ", "FINGERPRINTS", "Fingerprint", "find_touched", "with_fingerprints", "without_fingerprints"]

FINGERPRINTS = "fingerprints"
"""Key of `Exposure.extra`: the `Fingerprint` of each plane, by path and HDU."""
AS_READ = "as_read"
"""Key of `Exposure.extra`, instead of fingerprints: the exposure as it was read, whose planes nothing has changed."""
_LEFT_OUT: ContextVar[bool] = ContextVar("_LEFT_OUT", default=False)


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


@contextlib.contextmanager
def without_fingerprints() -> Iterator[None]:
    """Context in which exposures are read without fingerprints; who writes them gives `AS_READ`."""
    token = _LEFT_OUT.set(True)
    try:
        yield
    finally:
        _LEFT_OUT.reset(token)


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
        With ``extra[FINGERPRINTS]``, unless they are left out (`without_fingerprints`).
    """
    if _LEFT_OUT.get():
        return exposure
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
        None if the exposure has no fingerprint of this plane, and it is not known what it was as it was read.
    """
    as_read: Exposure | None = exposure.extra.get(AS_READ)
    if as_read is not None:
        before, after = _pixels(as_read, plane), _pixels(exposure, plane)
        if before is None or after is None or (before.shape, before.dtype) != (after.shape, after.dtype):
            return None
        return _differing(before, after, plane.tile_shape or after.shape)
    fingerprints: Mapping[tuple[Path, int], Fingerprint] = exposure.extra.get(FINGERPRINTS, {})
    fingerprint, pixels = fingerprints.get((plane.path, plane.hdu)), _pixels(exposure, plane)
    if fingerprint is None or pixels is None or fingerprint.shape != pixels.shape:
        return None
    return fingerprint.touched(pixels)


def _pixels(exposure: Exposure, plane: Plane) -> NDArray[Any] | None:
    if plane.role == "image":
        return exposure.image
    return exposure.mask if plane.role == "mask" else exposure.variance


def _differing(before: NDArray[Any], after: NDArray[Any], tile_shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Return which tiles of two planes of one shape and type do not have the same bits."""
    if before.ndim == 2 and before.itemsize == 4:
        ny, nx = (-(-n // t) for n, t in zip(before.shape, tile_shape, strict=True))
        found = np.zeros(ny * nx, np.bool_)
        old, new = (np.ascontiguousarray(plane).view(np.uint32) for plane in (before, after))
        _compare(old, new, tile_shape[0], tile_shape[1], found)
        return found
    same = (before[where].tobytes() == after[where].tobytes() for where in tile_slices(before.shape, tile_shape))
    return ~np.fromiter(same, np.bool_)


@compiled(reads=("before", "after"))
def _compare(
    before: NDArray[np.uint32], after: NDArray[np.uint32], height: int, width: int, found: NDArray[np.bool_]
) -> None:
    """Find the tiles in which a pixel differs; each is looked at up to the first row that has one."""
    tile = 0
    for y in range(0, before.shape[0], height):
        for x in range(0, before.shape[1], width):
            for j in range(y, min(y + height, before.shape[0])):
                old, new = before[j, x : x + width], after[j, x : x + width]
                bits = np.uint32(0)
                for i in range(np.uint64(len(old))):
                    bits |= old[i] ^ new[i]
                if bits:
                    found[tile] = True
                    break
            tile += 1
