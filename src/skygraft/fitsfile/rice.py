"""Rice coding of integers, many tiles at a time.

The coder of the FITS standard 4.0, section 10.4.1 (R. Rice, P.-S. Yeh & W. Miller 1993, JPL 91-3). The first number is
stored unchanged, followed by the differences between successive numbers, folded to be non-negative, in blocks. A block
begins with a code: the number of split bits plus one. Of each difference, that many low bits are stored unchanged,
after the remaining high bits in unary. A block of zeros has code 0; a block that would not become shorter has the
largest code, and its differences are stored unchanged.

As everywhere in FITS, two-byte numbers are signed and one-byte numbers unsigned.

Bits are read and written through 64-bit words at any byte offset, and leading zeros are counted by one instruction.
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
"""numba converts mixed signed and unsigned integers to float: everything that counts or holds bits is unsigned."""
_ZEROS_AT_ONCE = 20
"""Zeros written at once: together with a one and the most split bits there can be, fewer than 48 bits."""


class RiceError(ValueError):
    """The bytes of a tile are damaged; `tile` is its index among the given tiles."""

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
        Bytes that contain the tiles.
    offsets, sizes : ndarray of int64, shape (N,)
        First byte and number of bytes of each tile, inside the heap.
    counts : ndarray of int64, shape (N,)
        Numbers in each tile.
    block : int
        Numbers per block (BLOCKSIZE).
    bytepix : {1, 2, 4}
        Bytes per number (BYTEPIX).

    Returns
    -------
    ndarray of int32, shape (N, largest count)
        The numbers of each tile; zero after the last number of a shorter one.

    Raises
    ------
    RiceError
        If a tile has too few bytes for its numbers, or bytes left over, which encoders never write.
    """
    out = np.empty((len(counts), int(counts.max(initial=0))), dtype=np.int32)
    bad, unused = _decode_tiles(heap, offsets, sizes, counts, block, 8 * bytepix, out)
    if bad >= 0:
        raise RiceError(f"{unused} of its bytes are left over" if unused > 0 else "it ends too early", int(bad))
    return out


def encode_rice(
    numbers: NDArray[np.int32], counts: Counts, *, block: int, bytepix: int
) -> tuple[Bytes, NDArray[np.int64]]:
    """Encode some tiles to the same bytes as cfitsio does.

    Parameters
    ----------
    numbers : ndarray of int32, shape (N, M)
        The numbers of each tile, within the range of `bytepix` bytes.
    counts : ndarray of int64, shape (N,)
        Numbers in each tile, at least one.
    block, bytepix : int
        As in `decode_rice`.

    Returns
    -------
    data : ndarray of uint8
        The encoded tiles, concatenated.
    ends : ndarray of int64, shape (N + 1,)
        Tile i is ``data[ends[i]:ends[i + 1]]``.
    """
    longest = counts * bytepix + counts // block + 24
    data = np.empty(int(longest.sum()), dtype=np.uint8)
    ends = np.zeros(len(counts) + 1, dtype=np.int64)
    _encode_tiles(np.ascontiguousarray(numbers), counts, block, 8 * bytepix, data, ends)
    return data[: ends[-1]], ends


@compiled
def _sizes(bits: int) -> tuple[int, int]:
    """Bits of a block's code, and the code (less one) of a block that is stored unchanged."""
    if bits == 8:
        return 3, 6
    if bits == 16:
        return 4, 14
    return 5, 25


@compiled(inline="always")
def _wrap(number: Any, bits: int) -> Any:
    """Wrap a number to `bits` bits in two's complement; eight bits are unsigned."""
    return number & 255 if bits == 8 else (number << np.int64(64 - bits)) >> np.int64(64 - bits)


@compiled(inline="always")
def _peek(data: Bytes, size: Any, at: Any) -> Any:
    """Return a word that begins with the 57 or more bits from bit `at` on; zeros after the end of the data."""
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
    """Decode tiles; returns the first damaged one (-1 for none) and its bytes left over (negative if too few)."""
    folded = np.empty(block, np.uint64)
    for t in range(len(counts)):
        unused = _decode(heap[offsets[t] : offsets[t] + sizes[t]], counts[t], block, bits, folded, out[t])
        if unused != 0:
            return t, unused
        out[t, counts[t] :] = 0
    return -1, 0


@compiled
def _decode(data: Bytes, count: int, block: int, bits: int, folded: NDArray[np.uint64], out: NDArray[np.int32]) -> Any:
    """Decode a tile; returns the number of bytes left over, negative if there are too few."""
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
    """Decode a block of differences, each in unary before its split bits; returns the bit after the block.

    Beyond the end of damaged data the result exceeds the number of bits. As many differences as a 64-bit word is likely
    to contain are decoded from it without checking each. If more bits were used than the word had (it is padded with
    zeros, which end no difference), the first of these differences is decoded on its own, whatever its length.
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
def _put(data: Bytes, place: Any, pending: Any, n_pending: Any, code: Any, length: Any) -> tuple[Any, Any, Any]:
    """Append `length` bits, at most 48, after the pending bits (the first of `pending`) that do not fill a byte yet."""
    n_pending += length
    pending |= code << (_U64(64) - n_pending)
    store_word(data, place, pending)
    return place + (n_pending >> _U64(3)), pending << (n_pending & ~_U64(7)), n_pending & _U64(7)


@compiled
def _encode(
    numbers: NDArray[np.int32], count: int, block: int, bits: int, folded: NDArray[np.int64], data: Bytes
) -> int:
    code_bits, whole = _sizes(bits)
    unused = np.int64(64 - bits)
    last = np.int64(numbers[0])
    first = _U64(last << unused) >> _U64(unused)
    place, pending, n_pending = _put(data, _U64(0), _U64(0), _U64(0), first, _U64(bits))
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
        place, pending, n_pending = _put(data, place, pending, n_pending, _U64(code), _U64(code_bits))
        if code - 1 == whole:
            for j in range(_U64(n)):
                place, pending, n_pending = _put(data, place, pending, n_pending, _U64(folded[j]), _U64(bits))
        elif code:
            low_bits, one = _U64(split), _U64(1) << _U64(split)
            for j in range(_U64(n)):
                number = _U64(folded[j])
                zeros = number >> low_bits
                while zeros > _U64(_ZEROS_AT_ONCE):
                    place, pending, n_pending = _put(data, place, pending, n_pending, _U64(0), _U64(_ZEROS_AT_ONCE))
                    zeros -= _U64(_ZEROS_AT_ONCE)
                low = one | (number & (one - _U64(1)))
                place, pending, n_pending = _put(data, place, pending, n_pending, low, zeros + _U64(1) + low_bits)
    return int(place) + (1 if n_pending else 0)
