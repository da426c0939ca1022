"""HCOMPRESS and PLIO tiles: cfitsio's decoders go by what the bytes say, not by how many there are.

Of bytes that are cut short they read on in the memory behind, and return what they find there as pixels.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["check_plio", "decode_hcompress", "hcompressed_shape"]

_MAGIC = b"\xdd\x99"
_HEAD = 25
"""Bytes of an HCOMPRESS tile before its bits: magic, shape, scale, sum, and bit planes of three quadrants."""
_MOST_PLANES = 64


def hcompressed_shape(data: memoryview) -> tuple[int, ...] | None:
    """The shape that an HCOMPRESS tile says it has; None where it is no such tile."""
    if len(data) < _HEAD or bytes(data[:2]) != _MAGIC:
        return None
    return struct.unpack(">2i", data[2:10])


def decode_hcompress(codec: Any, data: memoryview, size: int) -> NDArray[Any]:
    """The numbers of a tile, whose shape was checked.

    Parameters
    ----------
    codec
        astropy's.
    data : memoryview
        The tile.
    size : int
        Pixels.

    Raises
    ------
    ValueError
        If the tile needs more bytes than it has.
    """
    planes = max(data[_HEAD - 3 : _HEAD])
    if planes > _MOST_PLANES:
        raise ValueError(f"it says that its pixels have {planes} bits")
    # A bit plane takes no more than two bits a pixel: there is room for all that the decoder may read. What it
    # reads of this room shows in the pixels, or as an error.
    room = size * planes // 4 + size // 4 + 64
    low, high = (
        np.asarray(codec.decode(np.frombuffer(bytes(data) + bytes([fill]) * room, np.uint8))) for fill in (0, 0xFF)
    )
    if not np.array_equal(low, high):
        raise ValueError("it ends too early")
    return low


def check_plio(words: NDArray[Any], size: int) -> None:
    """Refuse the instructions of a PLIO tile that are not as many as they say, or fill more than the tile.

    Parameters
    ----------
    words : ndarray of int16
        The tile.
    size : int
        Pixels.

    Raises
    ------
    ValueError
        If so.
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
        if code in (0, 4, 5):  # a run of zeros or of the present value, or zeros and one pixel of it
            filled += number
        elif code in (6, 7):  # change the value, and set a pixel to it
            filled += 1
        elif code == 1:  # a new value, which the next word is part of
            place += 1
        elif code > 7:
            raise ValueError(f"word {place} is no instruction")
        place += 1
    if place > length or filled > size:
        raise ValueError(f"its instructions are for {filled} pixels of {size}")
