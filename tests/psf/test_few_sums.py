"""Kernels that are made without compiled code: to the last bit those of the compiled loops."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from skygraft.jit import Tally
from skygraft.psf import PsfexPSF, linear, psfex
from skygraft.psf.few_sums import combine_few

RNG = np.random.default_rng(4)


def both(weights: NDArray[Any], basis: NDArray[Any]) -> list[NDArray[Any]]:
    found = [np.empty((len(weights), basis.shape[1])) for _ in range(2)]
    assert combine_few(weights, basis, found[0])
    linear.combine_into(weights, basis, found[1])
    return [one.view(np.int64) for one in found]


@pytest.mark.parametrize("n", [2, 4, 5, 7, 10, 14, 21])
def test_sums_are_rounded_as_fused_ones(n: int) -> None:
    for kind in range(6):
        weights, basis = RNG.normal(size=(3, n)), RNG.normal(size=(n, 300))
        if kind == 1:
            weights *= 10.0 ** RNG.integers(-30, 30, weights.shape)
        if kind == 2:
            basis *= 10.0 ** RNG.integers(-20, 20, basis.shape)
        if kind == 3:  # sums that are exact, or lie in the middle between two numbers
            weights, basis = np.round(weights * 4) / 4, np.round(basis * 8) / 8 * (1 + 2.0**-52)
        if kind == 4:  # nothing is left but what rounding would drop
            basis[1], weights[:, 1] = -basis[0] * (1 + 2.0**-52), weights[:, 0]
        if kind == 5:
            basis[RNG.random(basis.shape) < 0.5] = 0
        few, many = both(weights, basis)
        np.testing.assert_array_equal(few, many)


@pytest.mark.parametrize("value", [1e-200, 1e200, np.inf, np.nan])
def test_extreme_numbers_are_left_to_the_compiled_loop(value: float) -> None:
    weights, basis = np.ones((1, 2)), np.full((2, 3), value)
    assert not combine_few(weights, basis, np.empty((1, 3)))
    np.testing.assert_array_equal(linear.combine(weights, basis), np.full((1, 3), 2 * value))


def test_a_psfex_model_has_the_same_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    y, x = np.mgrid[-20:21, -20:21]
    basis = np.exp(-(x**2 + y**2) / 40) + RNG.normal(0, 1e-4, (6, 41, 41))
    psf = PsfexPSF(basis, 2, (500, 500), (900, 900), step=0.5, convention="lsst")
    at = RNG.uniform(0, 1000, (2, 7))
    made = []
    for most in (10**9, 0):
        monkeypatch.setattr(psfex, "_evaluated", Tally(most))
        monkeypatch.setattr(linear, "_combined", Tally(most))
        made.append((psf.kernels(*at), psf.coefficients(*at), psf.model_sums(*at)))
    for few, many in zip(*made, strict=True):
        np.testing.assert_array_equal(few, many)
