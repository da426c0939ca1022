"""Byte shuffling of GZIP_2: the first bytes of all numbers, then the second bytes, ... (FITS standard 4.0, 10.4.2).

In noise, the bytes of mantissas are random, while those of exponents and signs hardly vary. Each group of bytes
therefore gets its own blocks in the deflate stream (RFC 1951), and random groups are stored uncompressed. Such tiles
are slightly smaller than with one code for all bytes, and several times faster to write, and to read with any reader.

Intel's library compresses, several times faster than zlib. It does not always give the same bytes for the same data:
for the first byte of a stream it computes a hash of a register that nothing has set (`.write_first_byte` in its
igzip_icf_body_h1_gr_bt.asm), so that a repetition of the first bytes is found or missed by chance, in one row of some
thousands. Streams that begin with a dictionary do not take that way. Ours is of one byte, which is such that no
repetition can begin with it: decompressing needs no dictionary.
"""

from __future__ import annotations

import zlib
from typing import Any, cast

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

from skygraft.jit import compiled, load_little_word, scratch, store_little_word

__all__ = ["gzip_bytes", "gzip_rows", "gzip_shuffled", "unshuffle", "unshuffle_rows", "unshuffle_words"]

_LEVEL = 1
"""Compression level; higher ones do not compress noise any better."""
_SYNC_FLUSH = cast(Any, isal_zlib).Z_SYNC_FLUSH
_RAW, _GZIP = -15, 31
"""Window of 32 kB, of streams without a header, and with that of gzip."""
_DICTIONARIES = [bytes([k]) for k in range(256)]
_LIKELY = np.array([165, 90, 127, 1, 254, 37, 218, 3], np.uint8)
"""Bytes that are seldom among exponents or masks: whether one is absent is seen faster than what it comes before."""
_GZIP_HEADER = np.frombuffer(b"\x1f\x8b\x08\0\0\0\0\0\0\xff", np.uint8)
"""Header without name, time and operating system (RFC 1952)."""
_LAST_BLOCK = np.frombuffer(b"\x03\0", np.uint8)
_LONGEST_STORED = 65535
_SAMPLED = 15
"""One byte in this many is sampled to decide whether a group is random; of small groups, more of them."""
_LEAST_SAMPLE = 1000
_LOOK_EVERY = 64
_SHORT = 1 << 14
"""Groups of together at most this many bytes are compressed in one call, which costs more than their own codes save."""


def gzip_bytes(raw: bytes | memoryview) -> bytes:
    """Return gzipped bytes."""
    data = np.frombuffer(raw, np.uint8)
    stream = _compressor(_harmless(data), _GZIP)
    packed: bytes = stream.compress(data) + stream.flush()
    return packed


def _compressor(dictionary: int, window: int) -> Any:
    """A compressor whose stream depends on nothing but its data; `dictionary` as `_harmless` finds it."""
    if dictionary < 0:
        return zlib.compressobj(_LEVEL, zlib.DEFLATED, window)
    return isal_zlib.compressobj(_LEVEL, isal_zlib.DEFLATED, window, zdict=_DICTIONARIES[dictionary])


def gzip_shuffled(numbers: NDArray[Any]) -> bytes:
    """Return the shuffled and gzipped bytes of the numbers of a tile, of any shape and byte order."""
    if numbers.dtype.itemsize == 4:
        return gzip_rows(numbers.reshape(1, -1))[0].tobytes()
    big = np.ascontiguousarray(numbers, dtype=numbers.dtype.newbyteorder(">"))
    groups = np.ascontiguousarray(big.view(np.uint8).reshape(big.size, -1).T)
    return _gzip_groups(groups[None])[0].tobytes()


def gzip_rows(rows: NDArray[Any]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return the shuffled and gzipped bytes of many tiles of four-byte numbers.

    Parameters
    ----------
    rows : ndarray, shape (N, M)
        The numbers of each tile, of any byte order.

    Returns
    -------
    data : ndarray of uint8
        The bytes of all tiles: of each, what `gzip_shuffled` returns of it.
    ends : ndarray of int64, shape (N + 1,)
        Those of tile k are ``data[ends[k]:ends[k + 1]]``.
    """
    native = np.ascontiguousarray(rows, dtype=rows.dtype.newbyteorder("=")).view(np.uint32)
    groups = np.empty((len(native), 4, native.shape[1]), np.uint8)
    _shuffle_rows(native, groups)
    return _gzip_groups(groups)


def _gzip_groups(groups: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return the gzip streams of the byte groups of tiles; groups that look random are stored uncompressed."""
    pieces: list[bytes] = []
    random = np.empty(groups.shape[:2], np.bool_)
    _look_random(groups.reshape(-1, groups.shape[2]), random.reshape(-1))
    runs = _runs(random, groups.shape[2])
    for tile, start, end, dictionary in zip(*runs.T.tolist(), _all_harmless(groups, runs).tolist(), strict=True):
        stream = _compressor(dictionary, _RAW)
        pieces += [stream.compress(groups[tile, start:end]), stream.flush(_SYNC_FLUSH)]
    sizes = np.fromiter(map(len, pieces), np.int64, len(pieces)).reshape(-1, 2).sum(axis=1)
    sums = np.fromiter(map(isal_zlib.crc32, groups), np.uint32, len(groups))
    n_tiles, _, size = groups.shape
    stored = size + 5 * (-(-size // _LONGEST_STORED))
    streams = np.frombuffer(b"".join(pieces), np.uint8)
    room = n_tiles * (len(_GZIP_HEADER) + len(_LAST_BLOCK) + 8) + np.count_nonzero(random) * stored + len(streams)
    data, ends = np.empty(room, np.uint8), np.zeros(n_tiles + 1, np.int64)
    _lay_out(groups.reshape(-1), size, random, runs, streams, sizes, sums, data, ends)
    return data, ends


@compiled(reads=("data",))
def _harmless(data: NDArray[np.uint8]) -> int:
    """Return a byte that never comes right before the first three bytes of the data; -1 if all do.

    Matches are of four bytes or more. Only one that begins with the dictionary's byte would need the dictionary.
    """
    for byte in _LIKELY:
        found = 0
        for k in range(data.size):
            found += data[k] == byte
        if found == 0:
            return int(byte)
    before = np.zeros(256, np.bool_)
    for k in range(data.size - 3):
        if data[k + 1] == data[0] and data[k + 2] == data[1] and data[k + 3] == data[2]:
            before[data[k]] = True
    for byte in range(256):
        if not before[byte]:
            return byte
    return -1


@compiled
def _all_harmless(groups: NDArray[np.uint8], runs: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return what `_harmless` says of each run of groups."""
    bytes_ = np.empty(len(runs), np.int64)
    for k in range(len(runs)):
        bytes_[k] = _harmless(groups[runs[k, 0], runs[k, 1] : runs[k, 2]].reshape(-1))
    return bytes_


@compiled
def _runs(random: NDArray[np.bool_], size: int) -> NDArray[np.int64]:
    """Return tile, first group and end of the groups that are compressed together."""
    runs, n = np.empty((random.size, 3), np.int64), 0
    for tile in range(len(random)):
        start = 0
        while start < random.shape[1]:
            end = start + 1
            if not random[tile, start]:
                while end < random.shape[1] and not random[tile, end] and (end + 1 - start) * size <= _SHORT:
                    end += 1
                runs[n, 0], runs[n, 1], runs[n, 2] = tile, start, end
                n += 1
            start = end
    return runs[:n].copy()


# Without reference counts, which these functions have no use for: the counting takes longer than the copying.
@compiled(reads=("streams",), _nrt=False)
def _lay_out(
    groups: NDArray[np.uint8],
    size: int,
    random: NDArray[np.bool_],
    runs: NDArray[np.int64],
    streams: NDArray[np.uint8],
    sizes: NDArray[np.int64],
    sums: NDArray[np.uint32],
    data: NDArray[np.uint8],
    ends: NDArray[np.int64],
) -> None:
    """Put gzip streams together from the deflate streams of some groups, of given sizes, and the other groups."""
    place = taken = run = 0
    for tile in range(len(random)):
        place = _append(data, place, _GZIP_HEADER, 0, len(_GZIP_HEADER))
        group, n = 0, random.shape[1]
        while group < n:
            if random[tile, group]:
                first = (tile * n + group) * size
                for start in range(0, size, _LONGEST_STORED):
                    some = min(_LONGEST_STORED, size - start)
                    # An uncompressed deflate block (RFC 1951, section 3.2.4): it begins and ends at a byte boundary.
                    data[place] = 0
                    place = _append_number(data, place + 1, some | (some ^ 0xFFFF) << 16)
                    place = _append(data, place, groups, first + start, some)
                group += 1
            else:
                place = _append(data, place, streams, taken, sizes[run])
                taken += sizes[run]
                group = runs[run, 2]
                run += 1
        place = _append(data, place, _LAST_BLOCK, 0, len(_LAST_BLOCK))
        place = _append_number(data, place, int(sums[tile]))
        place = _append_number(data, place, n * size)
        ends[tile + 1] = place


@compiled(_nrt=False)
def _append(data: NDArray[np.uint8], place: int, more: NDArray[np.uint8], start: int, size: int) -> int:
    """Copy some bytes, in words as far as they go; returns the place behind them."""
    words = size // 8
    for i in range(words):
        store_little_word(data, place + 8 * i, load_little_word(more, start + 8 * i))
    for i in range(8 * words, size):
        data[place + i] = more[start + i]
    return place + size


@compiled(_nrt=False)
def _append_number(data: NDArray[np.uint8], place: int, number: int) -> int:
    """Write a number as four bytes, the lowest first; returns the place behind them."""
    for i in range(4):
        data[place + i] = (number >> (8 * i)) & 255
    return place + 4


@compiled(_nrt=False)
def _look_random(groups: NDArray[np.uint8], found: NDArray[np.bool_]) -> None:
    """Find which groups compression would hardly make a per cent smaller: equal bytes are as rare as by chance.

    A sample of the bytes is compared, with integers only, so that the same image gives the same groups everywhere.
    """
    size = groups.shape[1]
    step = min(_SAMPLED, max(1, size // _LEAST_SAMPLE))
    n = (size + step - 1) // step
    # Fewer pairs of equal bytes than this are as rare as by chance; most groups that are not random soon have more.
    most = (9 * (n * (n - 1) // 2) + 8 * 256 - 1) // (8 * 256)
    counts = scratch(256, np.uint32)
    for k in range(len(groups)):
        found[k] = n >= _LEAST_SAMPLE
        if not found[k]:
            continue
        for i in range(256):
            counts[i] = 0
        pairs, start = 0, 0
        while start < size and pairs < most:
            end = min(size, start + _LOOK_EVERY * step)
            for i in range(np.uint64(start), np.uint64(end), np.uint64(step)):
                byte = groups[k, i]
                pairs += int(counts[byte])
                counts[byte] += np.uint32(1)
            start = end
        found[k] = pairs < most


def unshuffle(raw: NDArray[np.uint8], itemsize: int) -> NDArray[np.uint8]:
    """Return the bytes of big-endian numbers from shuffled bytes.

    Parameters
    ----------
    raw : ndarray of uint8, shape (N itemsize,)
        First bytes of all numbers, then second bytes, and so on.
    itemsize : int
        Bytes per number.

    Returns
    -------
    ndarray of uint8, shape (N itemsize,)
    """
    return np.ascontiguousarray(raw.reshape(itemsize, -1).T).reshape(-1)


@compiled
def unshuffle_words(raw: NDArray[np.uint8], image: NDArray[np.uint32], y0: int, x0: int, ny: int, nx: int) -> None:
    """Unshuffle a tile of ny x nx four-byte numbers into an image (C-contiguous), its first pixel at (y0, x0).

    Parameters
    ----------
    raw : ndarray of uint8, shape (4 ny nx,)
        Shuffled bytes of the tile.
    image : ndarray of uint32, shape (NY, NX)
        Written in place, in native byte order.
    y0, x0 : int
        First row and column of the tile.
    ny, nx : int
        Shape of the tile.
    """
    size = ny * nx
    first, second, third, fourth = raw[:size], raw[size : 2 * size], raw[2 * size : 3 * size], raw[3 * size :]
    for j in range(ny):
        row, k = image[y0 + j, x0 : x0 + nx], slice(j * nx, j * nx + nx)
        a, b, c, d = first[k], second[k], third[k], fourth[k]
        for i in range(nx):
            high = np.uint32(a[i]) << np.uint32(24) | np.uint32(b[i]) << np.uint32(16)
            row[i] = high | np.uint32(c[i]) << np.uint32(8) | np.uint32(d[i])


@compiled
def unshuffle_rows(raw: NDArray[np.uint8], width: int, rows: NDArray[np.uint32]) -> None:
    """Unshuffle tiles that are rows of an image.

    Parameters
    ----------
    raw : ndarray of uint8, shape (N width,)
        Shuffled bytes of one row after the other, each with padding to `width` bytes.
    width : int
        At least 4 M.
    rows : ndarray of uint32, shape (N, M)
        Written in place, in native byte order.
    """
    size = 4 * rows.shape[1]
    for j in range(len(rows)):
        unshuffle_words(raw[j * width : j * width + size], rows, j, 0, 1, rows.shape[1])


@compiled(reads=("rows",), _nrt=False)
def _shuffle_rows(rows: NDArray[np.uint32], groups: NDArray[np.uint8]) -> None:
    """Fill the byte groups of each row, shape (N, 4, M)."""
    for j in range(len(rows)):
        row = rows[j]
        # One group after the other, which the compiler turns into vector code.
        for k in range(4):
            group, shift = groups[j, k], np.uint32(24 - 8 * k)
            for i in range(np.uint64(len(row))):
                group[i] = (row[i] >> shift) & np.uint32(255)
