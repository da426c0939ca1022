"""Many gzip streams decompressed at once: what zlib makes of them, or left to the library."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skygraft.fitsfile.inflate import PADDING, inflate_all

SIZE = 5000
BEYOND = 200
"""Bytes behind the streams; those at the very end of the data are left to the library."""


def inflate(streams: list[bytes], size: int = SIZE) -> tuple[list[bytes], list[int]]:
    """Rows and sums; what lies behind the rows must not change."""
    heap = np.frombuffer(b"".join(streams) + bytes(BEYOND), np.uint8)
    sizes = np.array([len(stream) for stream in streams])
    ends = np.cumsum(sizes)
    raw, sums = np.full(len(streams) * (size + PADDING) + 100, 77, np.uint8), np.zeros(len(streams), np.int64)
    inflate_all(heap, ends - sizes, ends, size, raw, sums)
    assert (raw[-100:] == 77).all()
    return [row[:size].tobytes() for row in raw[:-100].reshape(len(streams), -1)], sums.tolist()


def content(kind: str, seed: int, size: int = SIZE) -> bytes:
    rng = np.random.default_rng(seed)
    match kind:
        case "random":
            found = rng.integers(0, 256, size, np.uint8)
        case "noise":
            found = rng.normal(0, 4, size).astype(np.int8).view(np.uint8)
        case "rare":  # codes of many lengths, of up to 15 bits
            found = np.minimum(rng.geometric(0.5, size), 255).astype(np.uint8)
        case "constant":
            found = np.full(size, seed % 256, np.uint8)
        case "repeated":
            found = np.resize(rng.integers(0, 256, 2 + seed % 300, np.uint8), size)
        case _:
            found = np.where(rng.random(size) < 0.01, rng.integers(0, 256, size, np.uint8), 0).astype(np.uint8)
    return found.tobytes()


KINDS = ["random", "noise", "rare", "constant", "repeated", "flags"]
STRATEGIES = [zlib.Z_DEFAULT_STRATEGY, zlib.Z_HUFFMAN_ONLY, zlib.Z_RLE, zlib.Z_FIXED]


def packed(data: bytes, level: int = 6, strategy: int = 0, flush: int = 0) -> bytes:
    """A gzip stream, with its blocks ended after some bytes if these are given."""
    stream = zlib.compressobj(level, zlib.DEFLATED, 31, 8, strategy)
    first = stream.compress(data[:flush]) + (stream.flush(zlib.Z_FULL_FLUSH) if flush else b"")
    return first + stream.compress(data[flush:]) + stream.flush()


@given(
    st.lists(
        st.tuples(
            st.sampled_from(KINDS),
            st.integers(0, 9),
            st.sampled_from(STRATEGIES),
            st.integers(0, SIZE - 1),
            st.integers(0, 1 << 20),
        ),
        min_size=1,
        max_size=12,
    )
)
@settings(max_examples=60)
def test_rows_are_what_they_were_before(rows: list[tuple[Any, ...]]) -> None:
    contents = [content(kind, seed) for kind, *_, seed in rows]
    streams = [packed(data, *row[1:4]) for data, row in zip(contents, rows, strict=True)]
    assert inflate(streams) == (contents, [zlib.crc32(data) for data in contents])


def test_streams_that_are_unusual_or_damaged_are_left_to_the_library() -> None:
    data = content("noise", 1)
    good = packed(data)
    streams = {
        "a name in the header": good[:3] + b"\x08" + good[4:10] + b"name\0" + good[10:],
        "other bytes": b"\0" + good[1:],
        "cut off": good[:1000],
        "too short for a trailer": good[:17],
        "two members": good + good,
        "bytes behind it": good + b"\0",
        "another size in the trailer": good[:-4] + b"\1\0\0\0",
        "too many bytes": packed(data + b"1"),
        "too few bytes": packed(data[:-1]),
        "no such block": good[:10] + b"\x07" + good[11:],
        # A block of fixed codes that begins with a repetition: of three bytes, from one byte back.
        "a repetition before the row": good[:10] + b"\x03\x02\0" + good[-8:],
    }
    rows, sums = inflate([good, *streams.values(), good])
    assert dict(zip(streams, sums[1:-1], strict=True)) == dict.fromkeys(streams, -1)
    assert (rows[0], rows[-1]) == (data, data)
    assert sums[0] == sums[-1] == zlib.crc32(data)
    # At the end of the data nothing may be read beyond.
    heap = np.frombuffer(good, np.uint8)
    raw, last = np.zeros(SIZE + PADDING, np.uint8), np.zeros(1, np.int64)
    inflate_all(heap, np.array([0]), np.array([len(good)]), SIZE, raw, last)
    assert last.tolist() == [-1]


@pytest.mark.parametrize("kind", KINDS)
def test_no_damage_is_taken_for_a_row(kind: str) -> None:
    """Bits are flipped anywhere: a row whose sum is right is right, and nothing is written outside of the rows."""
    rng = np.random.default_rng(3)
    data = content(kind, 5, 600)
    stream = np.frombuffer(packed(data, flush=300), np.uint8)
    damaged = []
    for _ in range(400):
        some = stream.copy()
        places = rng.integers(10, len(some), rng.integers(1, 4))
        some[places] ^= np.uint8(1) << rng.integers(0, 8, len(places), np.uint8)
        damaged.append(some.tobytes())
    rows, sums = inflate(damaged, 600)
    for row, total in zip(rows, sums, strict=True):
        assert total != zlib.crc32(row) or row == data
    assert sum(total == -1 for total in sums) > 0
