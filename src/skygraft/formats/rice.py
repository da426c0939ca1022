"""Rice coding of whole numbers, many tiles at a time.

The coder of the FITS standard 4.0, section 10.4.1 (R. Rice, P.-S. Yeh & W. Miller 1993, JPL 91-3): the first number as
it is, then differences from one number to the next, folded to be positive, in blocks. A block begins with its number
of split bits plus one: that many low bits of each difference are stored as they are, after the rest of it in unary. A
block of zeros is stored as 0, one that would not get shorter as the largest code and whole numbers.

Two bytes mean signed numbers, one byte unsigned ones, as everywhere in FITS.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from skygraft.jit import compiled

__all__ = ["decode_rice", "encode_rice"]

type Bytes = NDArray[np.uint8]
type Counts = NDArray[np.int64]


def decode_rice(
    heap: Bytes, offsets: Counts, sizes: Counts, counts: Counts, *, block: int, bytepix: int
) -> NDArray[np.int32]:
    """Decode some tiles.

    Parameters
    ----------
    heap : ndarray of uint8
        Holds the tiles.
    offsets, sizes : ndarray of int64, shape (N,)
        Where each tile's bytes are in it, within its bounds.
    counts : ndarray of int64, shape (N,)
        Numbers in each tile.
    block : int
        Numbers in a block (BLOCKSIZE).
    bytepix : {1, 2, 4}
        Bytes of a number (BYTEPIX).

    Returns
    -------
    ndarray of int32, shape (N, largest count)
        Zero behind the numbers of a shorter tile.

    Raises
    ------
    ValueError
        If the bytes of a tile end before its numbers do; its second argument is the tile's place among those given.
    """
    out = np.zeros((len(counts), int(counts.max(initial=0))), dtype=np.int32)
    bad = _decode_tiles(heap, offsets, sizes, counts, block, 8 * bytepix, out)
    if bad >= 0:
        raise ValueError("it ends too early", int(bad))
    return out


def encode_rice(
    numbers: NDArray[np.int32], counts: Counts, *, block: int, bytepix: int
) -> tuple[Bytes, NDArray[np.int64]]:
    """Encode some tiles, to the same bytes as cfitsio does.

    Parameters
    ----------
    numbers : ndarray of int32, shape (N, M)
        The numbers of each tile, within the range of `bytepix` bytes.
    counts : ndarray of int64, shape (N,)
        How many of them belong to each tile, at least one.
    block, bytepix : int
        As in `decode_rice`.

    Returns
    -------
    data : ndarray of uint8
        The tiles, one behind the other.
    ends : ndarray of int64, shape (N + 1,)
        Where they begin and end.
    """
    longest = counts * bytepix + counts // block + 16
    data = np.empty(int(longest.sum()), dtype=np.uint8)
    ends = np.zeros(len(counts) + 1, dtype=np.int64)
    _encode_tiles(np.ascontiguousarray(numbers), counts, block, 8 * bytepix, data, ends)
    return data[: ends[-1]], ends


@compiled
def _sizes(bits: int) -> tuple[int, int]:
    """Bits of a block's code, and the code (less one) that means whole numbers."""
    if bits == 8:
        return 3, 6
    if bits == 16:
        return 4, 14
    return 5, 25


@compiled
def _wrap(number: Any, bits: int) -> Any:
    """A number in two's complement of so many bits."""
    half = np.int64(1) << np.int64(bits - 1)
    return ((number + half) & ((np.int64(1) << np.int64(bits)) - 1)) - half


@compiled
def _decode_tiles(
    heap: Bytes, offsets: Counts, sizes: Counts, counts: Counts, block: int, bits: int, out: NDArray[np.int32]
) -> int:
    for t in range(len(counts)):
        if not _decode(heap[offsets[t] : offsets[t] + sizes[t]], counts[t], block, bits, out[t]):
            return t
    return -1


@compiled
def _decode(data: Bytes, count: int, block: int, bits: int, out: NDArray[np.int32]) -> bool:
    code_bits, whole = _sizes(bits)
    size = len(data)
    if size < bits // 8:
        return False
    last = np.int64(0)
    place = bits // 8
    for k in range(place):
        last = (last << 8) | np.int64(data[k])
    last = _wrap(last, bits)
    held, n_held = np.int64(0), np.int64(0)  # bits that were taken from the data and not used yet
    start = 0
    while start < count:
        while n_held < code_bits:
            if place >= size:
                return False
            held, n_held, place = (held << 8) | np.int64(data[place]), n_held + 8, place + 1
        n_held -= code_bits
        split = (held >> n_held) - 1
        held &= (np.int64(1) << n_held) - 1
        for i in range(start, min(start + block, count)):
            if split >= 0:
                folded = np.int64(0)
                wanted = np.int64(bits)
                if split != whole:
                    while held == 0:
                        folded += n_held
                        if place >= size:
                            return False
                        held, n_held, place = np.int64(data[place]), np.int64(8), place + 1
                    while (held >> (n_held - 1)) == 0:
                        folded += 1
                        n_held -= 1
                    n_held -= 1
                    held &= (np.int64(1) << n_held) - 1
                    wanted = split
                while n_held < wanted:
                    if place >= size:
                        return False
                    held, n_held, place = (held << 8) | np.int64(data[place]), n_held + 8, place + 1
                n_held -= wanted
                folded = (folded << wanted) | (held >> n_held)
                held &= (np.int64(1) << n_held) - 1
                last = _wrap(last + (~(folded >> 1) if folded & 1 else folded >> 1), bits)
            out[i] = last & 255 if bits == 8 else last
        start += block
    return True


@compiled
def _encode_tiles(
    numbers: NDArray[np.int32], counts: Counts, block: int, bits: int, data: Bytes, ends: NDArray[np.int64]
) -> None:
    folded = np.empty(block, np.int64)
    for t in range(len(counts)):
        ends[t + 1] = ends[t] + _encode(numbers[t], counts[t], block, bits, folded, data[ends[t] :])


@compiled
def _encode(
    numbers: NDArray[np.int32], count: int, block: int, bits: int, folded: NDArray[np.int64], data: Bytes
) -> int:
    code_bits, whole = _sizes(bits)
    place = 0
    for k in range(bits // 8):
        data[place] = (np.int64(numbers[0]) >> (bits - 8 * (k + 1))) & 255
        place += 1
    last = np.int64(numbers[0])
    held, n_held = np.int64(0), np.int64(0)  # bits that are not in the data yet, fewer than eight
    start = 0
    while start < count:
        n = min(block, count - start)
        total = 0.0
        for j in range(n):
            difference = _wrap(np.int64(numbers[start + j]) - last, bits)
            last = np.int64(numbers[start + j])
            folded[j] = ~(difference << 1) if difference < 0 else difference << 1
            total += folded[j]
        mean = np.int64(max((total - n // 2 - 1) / n, 0.0)) >> 1
        split = 0
        while mean > 0:
            mean >>= 1
            split += 1
        code = 0 if total == 0 and split == 0 else min(split, whole) + 1
        held, n_held = (held << code_bits) | code, n_held + code_bits
        if code:
            for j in range(n):
                if split >= whole:
                    held, n_held = (held << bits) | folded[j], n_held + bits
                else:
                    zeros = folded[j] >> split
                    while zeros >= 8:
                        while n_held >= 8:
                            n_held -= 8
                            data[place] = (held >> n_held) & 255
                            place += 1
                        held, n_held, zeros = (held & 255) << 8, n_held + 8, zeros - 8
                    held = (held << (zeros + 1 + split)) | (np.int64(1) << split) | (folded[j] & ((1 << split) - 1))
                    n_held += zeros + 1 + split
                while n_held >= 8:
                    n_held -= 8
                    data[place] = (held >> n_held) & 255
                    place += 1
                held &= 255
        while n_held >= 8:
            n_held -= 8
            data[place] = (held >> n_held) & 255
            place += 1
        held &= 255
        start += n
    if n_held:
        data[place] = (held << (8 - n_held)) & 255
        place += 1
    return place
