"""The Rice coder against cfitsio's own, which astropy carries along."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.io.fits.hdu.compressed import _codecs
from hypothesis import given
from hypothesis import strategies as st

from skygraft.fitsfile.cards import header_of
from skygraft.fitsfile.open import map_fits
from skygraft.fitsfile.rice import RiceError, decode_rice, encode_rice
from skygraft.fitsfile.tiles import TiledImage

TYPES = {1: np.uint8, 2: np.int16, 4: np.int32}


def theirs(numbers: np.ndarray[Any, Any], block: int, bytepix: int) -> bytes:
    return bytes(_codecs.Rice1(blocksize=block, bytepix=bytepix, tilesize=numbers.size).encode(numbers))


@st.composite
def tiles(draw: st.DrawFn) -> tuple[int, int, np.ndarray[Any, Any]]:
    bytepix = draw(st.sampled_from(sorted(TYPES)))
    limits = np.iinfo(TYPES[bytepix])
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    n = draw(st.integers(1, 200))
    spread = draw(st.sampled_from([0.0, 0.3, 5.0, 300.0, 1e6, 1e9]))
    numbers = np.clip(rng.normal(draw(st.integers(0, 100)), spread, n), limits.min, limits.max)
    extreme = rng.random(n) < draw(st.sampled_from([0.0, 0.05, 0.5]))
    numbers = np.where(extreme, rng.choice([limits.min, limits.max], n), numbers)
    return draw(st.sampled_from([1, 16, 32, 64])), bytepix, numbers.astype(TYPES[bytepix])


@given(tiles())
def test_the_same_bytes_as_cfitsio_and_back(tile: tuple[int, int, np.ndarray[Any, Any]]) -> None:
    block, bytepix, numbers = tile
    counts = np.array([numbers.size])
    data, ends = encode_rice(numbers.astype(np.int32)[None], counts, block=block, bytepix=bytepix)
    assert data.tobytes() == theirs(numbers, block, bytepix)
    assert ends.tolist() == [0, len(data)]
    [back] = decode_rice(data, ends[:1], ends[1:], counts, block=block, bytepix=bytepix)
    assert np.array_equal(back.astype(numbers.dtype), numbers)


def test_tiles_of_different_lengths() -> None:
    rng = np.random.default_rng(1)
    counts = np.array([40, 1, 33])
    numbers = np.round(rng.normal(0, 50, (3, 40))).astype(np.int32)
    data, ends = encode_rice(numbers, counts, block=32, bytepix=4)
    for row, n, start, end in zip(numbers, counts, ends[:-1], ends[1:], strict=True):
        assert data[start:end].tobytes() == theirs(row[:n], 32, 4)
    back = decode_rice(data, ends[:-1], np.diff(ends), counts, block=32, bytepix=4)
    for row, found, n in zip(numbers, back, counts, strict=True):
        assert np.array_equal(found[:n], row[:n])
        assert not found[n:].any()


@given(st.binary(max_size=60), st.integers(1, 80), st.sampled_from(sorted(TYPES)))
def test_nonsense_is_refused_or_decoded_but_never_read_past_its_end(data: bytes, count: int, bytepix: int) -> None:
    heap = np.frombuffer(data + b"\xff" * 8, np.uint8)
    try:
        decode_rice(heap, np.array([0]), np.array([len(data)]), np.array([count]), block=32, bytepix=bytepix)
    except RiceError as error:
        assert error.tile == 0
        assert str(error) == "it ends too early" or "left over" in str(error)


def test_a_tile_that_ends_too_early_is_named() -> None:
    numbers = np.arange(200, dtype=np.int32).reshape(2, 100) ** 2
    counts = np.array([100, 100])
    data, ends = encode_rice(numbers, counts, block=32, bytepix=4)
    with pytest.raises(RiceError, match="ends too early") as caught:
        decode_rice(data, ends[:-1], np.diff(ends) - [0, 3], counts, block=32, bytepix=4)
    assert caught.value.tile == 1
    assert pickle.loads(pickle.dumps(caught.value)).tile == 1


@pytest.mark.parametrize("spread", [0.0, 20.0, 1e8])
@pytest.mark.parametrize("extra", [1, 2, 100])
def test_bytes_left_over_are_named(spread: float, extra: int) -> None:
    """A wrong BLOCKSIZE, BYTEPIX or tile shape mostly decodes to something: what it does not use gives it away."""
    numbers = np.round(np.random.default_rng(3).normal(0, spread, (1, 70))).astype(np.int32)
    counts = np.array([70])
    data, _ = encode_rice(numbers, counts, block=32, bytepix=4)
    heap = np.concatenate([data, np.zeros(extra, np.uint8)])
    with pytest.raises(RiceError, match=f"{extra} of its bytes are left over"):
        decode_rice(heap, np.array([0]), np.array([len(heap)]), counts, block=32, bytepix=4)


@pytest.mark.parametrize("spread", [0.4, 20.0, 1e8])
def test_a_tile_at_the_end_of_the_heap_may_be_cut_anywhere(spread: float) -> None:
    """Words of eight bytes must not be read beyond it, nor zeros behind it be taken for numbers."""
    numbers = np.round(np.random.default_rng(3).normal(0, spread, (1, 70))).astype(np.int32)
    numbers[0, 37] = -(2**30)  # more zeros than a word has
    counts = np.array([70])
    data, _ = encode_rice(numbers, counts, block=32, bytepix=4)
    for size in range(len(data)):
        with pytest.raises(ValueError, match="ends too early"):
            decode_rice(data[:size].copy(), np.array([0]), np.array([size]), counts, block=32, bytepix=4)
    whole = decode_rice(data.copy(), np.array([0]), np.array([len(data)]), counts, block=32, bytepix=4)
    assert np.array_equal(whole, numbers)


@pytest.mark.parametrize("tile_shape", [(1, 53), (16, 16), (40, 53)])
@pytest.mark.parametrize("method", [-1, 1, 2])
def test_quantised_floats_as_astropy_reads_them(tmp_path: Any, tile_shape: tuple[int, int], method: int) -> None:
    rng = np.random.default_rng(2)
    image = rng.normal(3, 10, (40, 53)).astype(np.float32)
    image[:, 7], image[3, 9] = 0.0, np.nan
    path = tmp_path / "image.fits"
    hdu = fits.CompImageHDU(
        image, compression_type="RICE_1", tile_shape=tile_shape, quantize_method=method, dither_seed=9990
    )
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(path)
    with map_fits(path) as raw:
        span = raw.spans[1]
        data = raw.buffer[span.data_start : span.data_start + span.data_size]
        found = TiledImage(header_of(raw.header_cards(1)), data, path=path, hdu=1).decode()
        assert found.dtype == np.float32
        with fits.open(path) as hdus:
            assert np.array_equal(found, hdus[1].data, equal_nan=True)
        del data
