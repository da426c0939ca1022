"""Rectangles of a tile-compressed image: the tiles that they touch, where these are, and their pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skygraft.fitsfile.tile_header import TFORM_BYTES
from skygraft.fitsfile.tiles import TiledImage
from skygraft.jit import Tally

__all__ = ["decode_parts", "ranges_of", "tiles_on"]

_decoded = Tally(4_000_000)
"""Pixels of tiles that are decoded without code that is compiled for it: to load that takes half a second."""


def tiles_on(tiled: TiledImage, rows: range, columns: range) -> NDArray[np.int64]:
    """Return the tiles that hold pixels of some rows and columns, in the order of the file."""
    (ty, tx), (gy, gx) = tiled.tile_shape[-2:], tiled.grid[-2:]
    down = np.arange(rows.start // ty, min(-(-rows.stop // ty), gy))
    along = np.arange(columns.start // tx, min(-(-columns.stop // tx), gx))
    return np.ravel(down[:, None] * gx + along[None, :])


def ranges_of(tiled: TiledImage, tiles: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Return where the bytes of some tiles are: first byte, and one past the last, from the start of the table."""
    heap = int(tiled.header.header.get("THEAP", tiled.rows.size))
    found = []
    for tile in tiles.tolist():
        column = tiled.column_of(tile)
        count, offset = tiled.descriptors[column][tile].tolist()
        found.append((heap + offset, heap + offset + count * TFORM_BYTES[tiled.columns[column].element]))
    return found


def decode_parts(
    tiled: TiledImage, parts: Sequence[tuple[range, range]], dtype: np.dtype[Any] | None = None
) -> list[NDArray[Any]]:
    """Return rectangles of the image: few of them by numpy and the coders of libraries, more by compiled loops.

    Parameters
    ----------
    tiled : TiledImage
        The image; of its tiles those that `tiles_on` returns are decoded.
    parts : sequence of (range, range)
        Rows and columns of each.
    dtype : dtype, optional
        Type of the pixel values; by default the stored one.
    """
    tiles = [tiles_on(tiled, rows, columns) for rows, columns in parts]
    if _decoded.is_much(sum(map(len, tiles)) * math.prod(tiled.tile_shape)):
        image = tiled.decode(dtype, np.unique(np.concatenate(tiles))).reshape(tiled.shape[-2:])
        return [image[rows.start : rows.stop, columns.start : columns.stop].copy() for rows, columns in parts]
    dtype = np.dtype(dtype or tiled.scaling.dtype.newbyteorder("="))
    found = [np.empty((len(rows), len(columns)), dtype) for rows, columns in parts]
    for out, (rows, columns), some in zip(found, parts, tiles, strict=True):
        for tile in some.tolist():
            down, along = tiled.slices(tile)[-2:]
            values = tiled.values(tile, tiled.stored(tile), dtype, in_numpy=True)
            (there_y, here_y), (there_x, here_x) = _shared(down, rows), _shared(along, columns)
            out[here_y, here_x] = values.reshape(values.shape[-2:])[there_y, there_x]
    return found


def _shared(tile: slice, part: range) -> tuple[slice, slice]:
    """What a tile and a part share along an axis, counted from the first pixel of each."""
    start, stop = max(tile.start, part.start), min(tile.stop, part.stop)
    return slice(start - tile.start, stop - tile.start), slice(start - part.start, stop - part.start)
