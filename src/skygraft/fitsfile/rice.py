"""Rice coding of whole numbers, many tiles at a time.

The coder of the FITS standard 4.0, section 10.4.1 (R. Rice, P.-S. Yeh & W. Miller 1993, JPL 91-3): the first number as
it is, then differences from one number to the next, folded to be positive, in blocks. A block begins with its number
of split bits plus one: that many low bits of each difference are stored as they are, after the rest of it in unary. A
block of zeros is stored as 0, one that would not get shorter as the largest code and whole numbers.

Two bytes mean signed numbers, one byte unsigned ones, as everywhere in FITS.

Bits are taken from and put into words of 64 at any byte, and zeros before a one are counted by one instruction.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from skygraft.jit import compiled, leading_zeros, load_word, store_word

__all__ = ["RiceError", "decode_rice", "encode_rice"]

type Bytes = NDArray[np.uint8]
type Counts = NDArray[np.int64]

_U64: Any = np.uint64
"""Whole numbers of both signs together are floats to numba: those that count or hold bits have none."""
_FEW = 20
"""Zeros written at once: with a one and as many split bits as there may be, fewer than 48 bits."""


class RiceError(ValueError):
    """The bytes of a tile are not those of its numbers; `tile` is its place among those given."""

    def __init__(self, message: str, tile: int) -> None:
        self.tile = tile
        super().__init__(message)

    def __reduce__(self) -> tuple[Any, ...]:
        return RiceError, (str(self), self.tile)


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
    RiceError
        If the bytes of a tile end before its numbers do, or go on behind them: what wrote them leaves no byte over.
    """
    out = np.empty((len(counts), int(counts.max(initial=0))), dtype=np.int32)
    bad, unused = _decode_tiles(heap, offsets, sizes, counts, block, 8 * bytepix, out)
    if bad >= 0:
        raise RiceError(f"{unused} of its bytes are left over" if unused > 0 else "it ends too early", int(bad))
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
    longest = counts * bytepix + counts // block + 24
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


@compiled(inline="always")
def _wrap(number: Any, bits: int) -> Any:
    """A number in two's complement of so many bits; one of eight has no sign."""
    return number & 255 if bits == 8 else (number << np.int64(64 - bits)) >> np.int64(64 - bits)


@compiled(inline="always")
def _peek(data: Bytes, size: Any, at: Any) -> Any:
    """The bits from bit `at` on, first ones first: 57 or more, zeros behind the end."""
    place = at >> _U64(3)
    if place + _U64(8) <= size:
        word = load_word(data, place)
    else:
        word = _U64(0)
        for k in range(place, place + _U64(8)):
            word = (word << _U64(8)) | (_U64(data[k]) if k < size else _U64(0))
    return word << (at & _U64(7))


@compiled
def _decode_tiles(
    heap: Bytes, offsets: Counts, sizes: Counts, counts: Counts, block: int, bits: int, out: NDArray[np.int32]
) -> tuple[int, int]:
    """The first tile whose bytes are not those of its numbers, and how many are left over; -1 where there is none."""
    folded = np.empty(block, np.uint64)
    for t in range(len(counts)):
        unused = _decode(heap[offsets[t] : offsets[t] + sizes[t]], counts[t], block, bits, folded, out[t])
        if unused != 0:
            return t, unused
        out[t, counts[t] :] = 0
    return -1, 0


@compiled
def _decode(data: Bytes, count: int, block: int, bits: int, folded: NDArray[np.uint64], out: NDArray[np.int32]) -> Any:
    """Decode a tile; how many of its bytes are left over, less than 0 where they are too few."""
    code_bits, whole = _sizes(bits)
    size, at = _U64(len(data)), _U64(bits)
    unused, end = np.int64(64 - bits), _U64(8) * size
    last = np.int64(_peek(data, size, _U64(0)) >> _U64(unused))
    for start in range(0, count, block):
        n = min(block, count - start)
        code = np.int64(_peek(data, size, at) >> _U64(64 - code_bits))
        at += _U64(code_bits)
        row = out[start : start + n]
        if code == 0:
            row[:] = _wrap(last, bits)
            continue
        if code - 1 == whole:
            for j in range(_U64(n)):
                folded[j] = _peek(data, size, at) >> _U64(unused)
                at += _U64(bits)
        else:
            at = _decode_unary(data, size, at, _U64(code - 1), folded[:n])
        if at > end:
            return -1
        for j in range(_U64(n)):
            last += np.int64(folded[j] >> _U64(1)) ^ -np.int64(folded[j] & _U64(1))
            row[j] = _wrap(last, bits)
    return np.int64(size) - np.int64((at + _U64(7)) >> _U64(3))


@compiled
def _decode_unary(data: Bytes, size: Any, at: Any, split: Any, folded: NDArray[np.uint64]) -> Any:
    """A block of differences, each zeros and a one before its split bits; where the block ends, or beyond the end.

    As many differences as a word holds in all likelihood are taken out of it without asking whether it does. If it did
    not, more bits were used than there were (behind them are zeros, which end no difference), and the first of the
    differences is decoded by itself, however long it is.
    """
    j, n = _U64(0), _U64(len(folded))
    at_once = _U64(max(1, 57 // (np.int64(split) + 5)))
    while j < n:
        word, used, stop = _peek(data, size, at), _U64(0), min(j + at_once, n)
        for i in range(j, stop):
            zeros = leading_zeros(word)
            word = (word << (zeros & _U64(63))) << _U64(1)
            folded[i] = (zeros << split) | ((word >> _U64(1)) >> (_U64(63) - split))
            word <<= split
            used += zeros + _U64(1) + split
        if used <= _U64(57):
            at += used
            j = stop
            continue
        zeros, more = _U64(0), _U64(57)
        while more == _U64(57):
            if at >= _U64(8) * size:
                return at + _U64(1)
            more = min(leading_zeros(_peek(data, size, at)), _U64(57))
            zeros += more
            at += more
        low = (_peek(data, size, at + _U64(1)) >> _U64(1)) >> (_U64(63) - split)
        folded[j] = (zeros << split) | low
        at += _U64(1) + split
        j += _U64(1)
    return at


@compiled
def _encode_tiles(
    numbers: NDArray[np.int32], counts: Counts, block: int, bits: int, data: Bytes, ends: NDArray[np.int64]
) -> None:
    folded = np.empty(block, np.int64)
    for t in range(len(counts)):
        ends[t + 1] = ends[t] + _encode(numbers[t], counts[t], block, bits, folded, data[ends[t] :])


@compiled(inline="always")
def _put(data: Bytes, place: Any, held: Any, n_held: Any, code: Any, length: Any) -> tuple[Any, Any, Any]:
    """Append `length` bits, 48 at most, to those that do not fill a byte yet, which are the first ones of `held`."""
    n_held += length
    held |= code << (_U64(64) - n_held)
    store_word(data, place, held)
    return place + (n_held >> _U64(3)), held << (n_held & ~_U64(7)), n_held & _U64(7)


@compiled
def _encode(
    numbers: NDArray[np.int32], count: int, block: int, bits: int, folded: NDArray[np.int64], data: Bytes
) -> int:
    code_bits, whole = _sizes(bits)
    unused = np.int64(64 - bits)
    last = np.int64(numbers[0])
    first = _U64(last << unused) >> _U64(unused)
    place, held, n_held = _put(data, _U64(0), _U64(0), _U64(0), first, _U64(bits))
    for start in range(0, count, block):
        n = min(block, count - start)
        row, total = numbers[start : start + n], np.int64(0)
        for j in range(_U64(n)):
            difference = ((np.int64(row[j]) - last) << unused) >> unused
            last = np.int64(row[j])
            folded[j] = (difference << 1) ^ (difference >> 63)
            total += folded[j]
        mean = _U64(max((float(total) - n // 2 - 1) / n, 0.0)) >> _U64(1)
        split = int(np.int64(64) - np.int64(leading_zeros(mean)))
        code = 0 if total == 0 else min(split, whole) + 1
        place, held, n_held = _put(data, place, held, n_held, _U64(code), _U64(code_bits))
        if code - 1 == whole:
            for j in range(_U64(n)):
                place, held, n_held = _put(data, place, held, n_held, _U64(folded[j]), _U64(bits))
        elif code:
            low_bits, one = _U64(split), _U64(1) << _U64(split)
            for j in range(_U64(n)):
                number = _U64(folded[j])
                zeros = number >> low_bits
                while zeros > _U64(_FEW):
                    place, held, n_held = _put(data, place, held, n_held, _U64(0), _U64(_FEW))
                    zeros -= _U64(_FEW)
                low = one | (number & (one - _U64(1)))
                place, held, n_held = _put(data, place, held, n_held, low, zeros + _U64(1) + low_bits)
    return int(place) + (1 if n_held else 0)
