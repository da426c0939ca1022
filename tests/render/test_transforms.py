"""Transforms back to images against numpy's in float64, and vectors against what they say they are."""

from __future__ import annotations

import numpy as np
import pytest

from skygraft.jit import compiled
from skygraft.render.transforms import half_spectra, plan_of, room_for, to_image
from skygraft.render.vectors import cubic_lookup, load, store, transpose

SIZES = [32, 48, 64, 80, 96, 128, 160, 192, 240, 320, 512]


def back(spectrum: np.ndarray, n: int) -> np.ndarray:
    image = np.full(n * n, np.nan, dtype=np.float32)
    to_image(spectrum.ravel().copy(), image, plan_of(n), room_for(n))
    return image.reshape(n, n) / n**2


@pytest.mark.parametrize("n", SIZES)
def test_there_and_back(n):
    image = np.random.default_rng(n).normal(size=(n - 3, n - 7))
    made = back(half_spectra(image[None], n)[0], n)
    expected = np.zeros((n, n))
    expected[: n - 3, : n - 7] = image
    np.testing.assert_allclose(made, expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("n", SIZES)
def test_the_layout_is_what_it_is_said_to_be(n):
    rng = np.random.default_rng(n)
    image = rng.normal(size=(n, n))
    # Rows are frequencies in x, columns those in y.
    spectrum = np.fft.rfft2(image.T)
    vectors = spectrum[:, : n // 2].reshape(n, n // 16, 1, 8)
    rows = np.concatenate([vectors.real, vectors.imag], axis=2).reshape(n, n)
    vectors = spectrum[:, n // 2].reshape(2, n // 16, 1, 8)
    last = np.concatenate([vectors.real, vectors.imag], axis=2).reshape(2, n)
    whole = np.concatenate([rows, last]).astype(np.float32)
    scale = np.abs(whole).max()
    np.testing.assert_allclose(half_spectra(image[None], n)[0], whole, rtol=0, atol=1e-6 * scale)
    np.testing.assert_allclose(back(whole, n), image, rtol=0, atol=2e-6)


def test_a_single_frequency_has_its_sign_and_direction():
    n = 48
    y, x = np.mgrid[:n, :n]
    image = np.cos(2 * np.pi * (5 * x - 3 * y) / n + 0.3)
    np.testing.assert_allclose(back(half_spectra(image[None], n)[0], n), image, rtol=0, atol=1e-6)


def test_transposing_is_in_blocks_with_steps():
    source = np.arange(8 * 20, dtype=np.float32)
    target = np.zeros(8 * 12, dtype=np.float32)

    @compiled
    def turn(source, target):
        transpose(source, 3, 20, target, 1, 12)

    turn(source, target)
    expected = np.zeros((8, 12), dtype=np.float32)
    expected[:, 1:9] = source.reshape(8, 20)[:, 3:11].T
    np.testing.assert_array_equal(target.reshape(8, 12), expected)


def test_a_table_is_looked_up_piece_by_piece():
    rng = np.random.default_rng(3)
    pieces = rng.normal(size=(6 * 4, 4)).astype(np.float32)
    look_up = cubic_lookup(-2, 4, len(pieces))

    @compiled
    def values(table, at, out):
        for i in range(0, len(at), 8):
            store(out, i, look_up(table, load(at, i)))

    at = np.exp2(rng.uniform(-2, 4, 800)).astype(np.float32)
    out = np.empty_like(at)
    values(pieces.ravel(), at, out)
    octave = np.floor(np.log2(at.astype(float)))
    quarter = 4 * (at / 2.0**octave - 1)
    t = quarter - np.floor(quarter)
    c = pieces[(4 * (octave + 2) + np.floor(quarter)).astype(int)].astype(float)
    np.testing.assert_allclose(out, c[:, 0] + t * (c[:, 1] + t * (c[:, 2] + t * c[:, 3])), rtol=0, atol=2e-6)
    # Beyond its ends there is nothing else to be had than its first and last pieces.
    beyond = np.array([0.0, 0.01, 20.0, 1e9] * 2, dtype=np.float32)
    values(pieces.ravel(), beyond, out[:8])
    assert np.isfinite(out[:8]).all()
    assert np.abs(out[:8]).max() <= np.abs(pieces).sum(axis=1).max()
