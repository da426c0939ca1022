"""Shuffled and gzipped tiles, as any other reader of gzip unpacks them."""

from __future__ import annotations

import gzip
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skygraft.fitsfile.shuffle import gzip_bytes, gzip_rows, gzip_shuffled


def shuffled(numbers: np.ndarray[Any, Any]) -> bytes:
    """By the standard's words: all first bytes of the big-endian numbers, all second ones, ..."""
    big = numbers.astype(numbers.dtype.newbyteorder(">")).tobytes()
    size = numbers.dtype.itemsize
    return b"".join(big[k::size] for k in range(size))


@given(
    st.sampled_from(["u1", "<i2", ">i4", "<f4", ">f8"]),
    st.sampled_from([1, 7, 1000, 15001, 65535, 65536, 70000, 131071]),
    st.sampled_from(["constant", "noise", "random bits", "repeated"]),
)
def test_the_bytes_come_back(dtype: str, size: int, kind: str) -> None:
    rng = np.random.default_rng(size)
    itemsize = np.dtype(dtype).itemsize
    if kind == "noise":
        numbers = np.abs(rng.normal(100, 10, size)).astype(dtype)
    else:
        raw = rng.integers(0, 256, size * itemsize, dtype=np.uint8)
        if kind == "constant":
            raw[:] = 3
        elif kind == "repeated":
            raw = np.resize(raw[: 32 * itemsize], raw.size)
        numbers = raw.view(dtype)
    packed = gzip_shuffled(numbers)
    assert gzip.decompress(packed) == shuffled(numbers)
    assert struct.unpack("<2I", packed[-8:]) == (zlib.crc32(shuffled(numbers)), numbers.nbytes)


def test_random_bytes_are_stored_and_others_are_not() -> None:
    rng = np.random.default_rng(1)
    sky = rng.normal(0, 10, (256, 256)).astype(np.float32)
    packed = gzip_shuffled(sky)
    # What zlib makes of it at its best, which knows nothing of the groups.
    assert len(packed) < 1.01 * len(zlib.compress(shuffled(sky), 9))
    _, _, third, fourth = (shuffled(sky)[k << 16 : (k + 1) << 16] for k in range(4))
    assert third[:65535] in packed
    assert fourth[:65535] in packed
    mask = (rng.random((256, 256)) < 1e-3).astype(np.int32)
    assert len(gzip_shuffled(mask)) < mask.nbytes / 100


@pytest.mark.parametrize("period", [64, 256, 1024])
def test_rows_that_repeat_are_compressed_though_no_byte_is_rare(period: int) -> None:
    row = np.random.default_rng(2).integers(0, 2**32, period, dtype=np.uint32)
    assert len(gzip_shuffled(np.resize(row, 1 << 16))) < (1 << 18) / 4


def test_rows_of_an_image_are_told_apart_as_large_tiles_are() -> None:
    rng = np.random.default_rng(3)
    n_bytes = n_best = 0
    for row in rng.normal(0, 10, (50, 2048)).astype(np.float32):
        packed = gzip_shuffled(row)
        assert gzip.decompress(packed) == shuffled(row)
        assert all(shuffled(row)[k * 2048 : (k + 1) * 2048] in packed for k in (1, 2, 3))
        n_bytes, n_best = n_bytes + len(packed), n_best + len(zlib.compress(shuffled(row), 9))
    assert n_bytes < n_best
    variance = (1600 + rng.normal(0, 10, 2048)).astype(np.float32)
    assert len(gzip_shuffled(variance)) < 0.7 * variance.nbytes
    assert len(gzip_shuffled(np.zeros(2048, np.int32))) < 80


def test_the_same_rows_are_the_same_bytes_again_and_again() -> None:
    """Without the dictionary of one byte, Intel's library gives other bytes for one row in some thousands."""
    rows = np.random.default_rng(4).normal(0, 10, (4000, 1024)).astype(np.float32)
    first, ends = gzip_rows(rows)
    for _ in range(20):
        # What is done meanwhile leaves other values in the processor's registers.
        sorted(range(1000), key=str)
        again, its_ends = gzip_rows(rows)
        assert np.array_equal(its_ends, ends)
        assert np.array_equal(again, first)


@given(
    st.binary(max_size=3).flatmap(lambda start: st.tuples(st.just(start), st.sets(st.integers(0, 255)), st.binary())),
    st.integers(0, 3),
)
def test_no_stream_needs_a_dictionary(parts: tuple[bytes, set[int], bytes], repeated: int) -> None:
    """Whatever comes before the first bytes where they come again."""
    start, before, rest = parts
    raw = start + b"".join(bytes([byte]) + start for byte in sorted(before)) * repeated + rest
    assert gzip.decompress(gzip_bytes(raw)) == raw


def test_first_bytes_that_come_again_after_every_byte_need_no_dictionary_either() -> None:
    every = b"abc" + b"".join(bytes([byte]) + b"abc" for byte in range(256)) * 3
    assert gzip.decompress(gzip_bytes(every)) == every
    without = b"abc" + b"".join(bytes([byte]) + b"abc" for byte in range(256) if byte != 77) * 3
    assert gzip.decompress(gzip_bytes(without)) == without
