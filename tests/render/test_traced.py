"""Straight vector code that Python writes down for LLVM: its values, and what the cache of compiled code knows."""

from __future__ import annotations

import numpy as np
import pytest

from skygraft.jit import compiled, numba_side
from skygraft.render.traced import number, traced
from skygraft.render.vectors import LANES, between, fused, interleaved, load, spread, store


@traced(2)
def _sum_and_difference(values, at):
    a, b = load(values, at), load(values, at + LANES)
    return a + b, a - b


@traced(1)
def _scaled(pair, weights, k):
    first, second = pair
    return fused(first, spread(weights[k]), number(first, 0.1) * second)


@traced()
def _write(out, at, values, begin, end):
    low, high = interleaved(values, values + values)
    store(out, at, between(low, begin, end))
    store(out, at + LANES, high)


@compiled
def _run(values, weights, k, out):
    _write(out, 0, _scaled(_sum_and_difference(values, 4), weights, k), 1, 7)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_traced_functions_compute_what_they_say_in_single_precision(kind):
    values = np.random.default_rng(1).normal(size=4 + 2 * LANES).astype(np.float32)
    weights, out = np.array([0.3, 0.7, 1.0 / 3.0], dtype=kind), np.full(2 * LANES, np.nan, np.float32)
    _run(values, weights, 2, out)
    a, b = values[4:12], values[12:]
    # the one product of a fused operation is exact in double precision, and the sum is rounded once more: to 1e-7
    scaled = ((a + b).astype(np.float64) * np.float32(weights[2]) + np.float32(0.1) * (a - b)).astype(np.float32)
    expected = np.stack([scaled, scaled + scaled], axis=1).ravel()
    expected[[0, 7]] = -0.0
    np.testing.assert_allclose(out, expected, rtol=2e-7, atol=0)
    assert np.signbit(out[[0, 7]]).all()


def _caller(factor):
    @traced(1)
    def inner(values):
        return number(values, factor) * values

    @traced()
    def outer(values):
        store(values, 0, inner(load(values, 0)))

    def call(values):
        outer(values)

    return call


def test_code_in_the_cache_is_that_of_these_traced_functions():
    """A function is compiled again if one that it calls, or one that this calls, has another constant or other code."""
    stamps = [numba_side._fingerprint(_caller(factor), "") for factor in (2.0, 3.0, 2.0)]
    assert stamps[0] == stamps[2] != stamps[1]
    values = np.arange(8, dtype=np.float32)
    compiled(_caller(3.0))(values)
    np.testing.assert_array_equal(values, 3 * np.arange(8))


def test_what_a_traced_function_cannot_do_is_an_error_of_python():
    @traced(1)
    def divided(values):
        return values / values

    @compiled
    def call(values):
        store(values, 0, divided(load(values, 0)))

    with pytest.raises(Exception, match="unsupported operand"):
        call(np.ones(8, np.float32))
