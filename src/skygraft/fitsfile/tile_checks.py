"""Check HCOMPRESS and PLIO tiles before cfitsio decodes them.

cfitsio's decoders trust the lengths stated in a tile. If the tile is truncated they read past its end and return
whatever is in memory there as pixels.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["check_plio", "decode_hcompress", "hcompressed_shape"]

_MAGIC = b"\xdd\x99"
_HEAD = 25
"""Bytes of an HCOMPRESS tile's header: magic number, shape, scale, sum, and number of bit planes of three quadrants."""
_MOST_PLANES = 64


def hcompressed_shape(data: memoryview) -> tuple[int, ...] | None:
    """Return the shape stated in an HCOMPRESS tile, or None if it does not begin like one."""
    if len(data) < _HEAD or bytes(data[:2]) != _MAGIC:
        return None
    return struct.unpack(">2i", data[2:10])


def decode_hcompress(codec: Any, data: memoryview, size: int) -> NDArray[Any]:
    """Decode an HCOMPRESS tile whose shape was checked with `hcompressed_shape`.

    Parameters
    ----------
    codec
        The coder of `skygraft.fitsfile.codecs.load_codec`.
    data : memoryview
        The tile.
    size : int
        Number of pixels.

    Returns
    -------
    ndarray

    Raises
    ------
    ValueError
        If the tile is truncated.
    """
    planes = max(data[_HEAD - 3 : _HEAD])
    if planes > _MOST_PLANES:
        raise ValueError(f"it says that its pixels have {planes} bits")
    # A bit plane takes at most two bits a pixel, so the decoder cannot read past this padding. If it reads any of the
    # padding, the pixels differ between the two fill values, or an error is raised.
    room = size * planes // 4 + size // 4 + 64
    low, high = (
        np.asarray(codec.decode(np.frombuffer(bytes(data) + bytes([fill]) * room, np.uint8))) for fill in (0, 0xFF)
    )
    if not np.array_equal(low, high):
        raise ValueError("it ends too early")
    return low


def check_plio(words: NDArray[Any], size: int) -> None:
    """Check that a PLIO tile is as long as it states, and that its instructions do not fill more than its pixels.

    Parameters
    ----------
    words : ndarray of int16
        The tile.
    size : int
        Number of pixels.

    Raises
    ------
    ValueError
        If not.
    """
    given = words.tolist()
    if len(given) >= 4 and given[2] > 0:
        start, length = 3, given[2]
    elif len(given) >= 5:
        start, length = given[1], (given[4] << 15) + given[3]
    else:
        raise ValueError("it ends too early")
    if length != len(given) or not 3 <= start <= length:
        raise ValueError(f"it says that it is {length} words long, and has {len(given)}")
    place, filled = start, 0
    while place < length:
        code, number = (given[place] & 0xFFFF) >> 12, given[place] & 0xFFF
        if code in (0, 4, 5):  # a run of zeros or of the current value, or zeros followed by one pixel of it
            filled += number
        elif code in (6, 7):  # change the current value and set one pixel to it
            filled += 1
        elif code == 1:  # set the current value; the next word belongs to it
            place += 1
        elif code > 7:
            raise ValueError(f"word {place} is not an instruction")
        place += 1
    if place > length or filled > size:
        raise ValueError(f"its instructions are for {filled} pixels of {size}")
