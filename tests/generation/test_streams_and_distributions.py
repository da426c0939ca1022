"""Random numbers depend on seed, purpose and row alone; distributions are those of their formulas."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from scipy import stats

from skygraft.errors import ConfigError
from skygraft.generation.distributions import AnyDistribution
from skygraft.generation.streams import Streams

ADAPTER = TypeAdapter(AnyDistribution)


@settings(max_examples=30, deadline=None)
@given(start=st.integers(0, 2**40), n=st.integers(1, 50), cut=st.integers(0, 50), seed=st.integers(0, 2**63 - 1))
def test_a_row_has_its_number_whatever_is_drawn_with_it(start, n, cut, seed):
    streams = Streams(seed)
    whole = streams.uniform("mag", start, n)
    k = min(cut, n)
    parts = [streams.uniform("mag", start, k), streams.uniform("mag", start + k, n - k)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    assert ((whole >= 0) & (whole < 1)).all()


def test_the_stream_is_philox_with_the_row_as_counter():
    """Against the generator of NumPy itself, advanced row by row."""
    import hashlib

    key = np.frombuffer(hashlib.blake2b(b"7/q", digest_size=16).digest(), dtype="<u8")
    raw = np.random.Philox(key=key.astype(np.uint64)).random_raw(1000)
    np.testing.assert_array_equal(Streams(7).uniform("q", 0, 1000), (raw >> 11) * 2.0**-53)
    np.testing.assert_array_equal(Streams(7).uniform("q", 701, 9), (raw[701:710] >> 11) * 2.0**-53)


def test_purposes_and_seeds_are_independent():
    drawn = [Streams(s).uniform(p, 0, 4000) for s in (0, 1, 2**62) for p in ("mag", "n", "color:g")]
    coefficients = np.corrcoef(drawn)[np.triu_indices(len(drawn), 1)]
    assert np.abs(coefficients).max() < 5 / np.sqrt(4000)
    normal = Streams(1).normal("x", 0, 20000)
    assert stats.kstest(normal, "norm").pvalue > 1e-3
    with pytest.raises(ConfigError, match="seed is -1"):
        Streams(-1)


UNIFORM = np.random.default_rng(5).random(20000)


def drawn(mag=None, **keys):
    return ADAPTER.validate_python(keys).draw(UNIFORM, mag)


def test_each_kind_follows_its_cumulative_distribution():
    # All are drawn by inversion, so that a function of the values gives the uniform numbers back.
    flat = drawn(kind="uniform", low=-2.0, high=3.0)
    np.testing.assert_allclose((flat + 2) / 5, UNIFORM, atol=1e-12)
    for slope in (0.6, -0.4):
        mag = drawn(kind="power_law", low=18.0, high=26.0, slope=slope)
        share = (10 ** (slope * (mag - 18)) - 1) / (10 ** (slope * 8) - 1)
        np.testing.assert_allclose(share, UNIFORM, atol=1e-9)
    np.testing.assert_allclose(drawn(kind="power_law", low=18, high=26, slope=0), 18 + 8 * UNIFORM)
    # A slope whose counts span 300 orders of magnitude does not overflow.
    steep = drawn(kind="power_law", low=0, high=200, slope=3.0)
    assert np.isfinite(steep).all() and steep.min() > 195
    normal = drawn(kind="gaussian", mean=1.0, sigma=2.0)
    np.testing.assert_allclose(stats.norm(1, 2).cdf(normal), UNIFORM, atol=1e-9)
    for low, high in ((-1.0, 2.0), (9.0, 12.0), (-20.0, -12.0)):
        cut = drawn(kind="gaussian", mean=1.0, sigma=2.0, low=low, high=high)
        assert low <= cut.min() and cut.max() <= high
        oracle = stats.truncnorm((low - 1) / 2, (high - 1) / 2, loc=1, scale=2)
        np.testing.assert_allclose(oracle.cdf(cut), UNIFORM, atol=1e-6)
    radius = drawn(kind="lognormal", median=0.6, sigma=0.3, low=0.3, high=2.0)
    assert radius.min() >= 0.3 and radius.max() <= 2.0
    ends = np.log(np.array([0.3, 2.0]) / 0.6) / 0.3
    np.testing.assert_allclose(stats.truncnorm(*ends).cdf(np.log(radius / 0.6) / 0.3), UNIFORM, atol=1e-6)


def test_sizes_may_follow_magnitudes():
    mag = 18 + 8 * np.random.default_rng(6).random(20000)
    radius = drawn(mag, kind="lognormal", median=0.5, sigma=0.4, mag_slope=-0.1, pivot=22.0, low=1e-3)
    pull = np.log(radius / (0.5 * 10 ** (-0.1 * (mag - 22)))) / 0.4
    assert stats.kstest(pull, "norm").pvalue > 1e-3
    assert abs(np.corrcoef(pull, mag)[0, 1]) < 0.03


def test_tabulated_is_the_integral_of_its_density():
    x, d = np.array([0.0, 1.0, 4.0, 5.0, 7.0]), np.array([0.0, 2.0, 2.0, 0.0, 1.0])
    value = drawn(kind="tabulated", values=x.tolist(), density=d.tolist())
    fine = np.linspace(0, 7, 700_001)
    density = np.interp(fine, x, d)
    total = np.concatenate([[0], np.cumsum(0.5 * (density[1:] + density[:-1]) * np.diff(fine))])
    np.testing.assert_allclose(np.interp(value, fine, total / total[-1]), UNIFORM, atol=1e-7)


def test_choices_by_weight():
    value = drawn(kind="choice", values=[1.0, 2.0, 5.0], weights=[1, 0, 3])
    assert set(np.unique(value)) == {1.0, 5.0}
    assert np.mean(value == 1.0) == pytest.approx(0.25, abs=4 * np.sqrt(0.19 / 20000))
    assert set(drawn(kind="choice", values=["sine", "flare"])) == {"sine", "flare"}
    np.testing.assert_array_equal(ADAPTER.validate_python(3.5).draw(UNIFORM[:3]), [3.5, 3.5, 3.5])


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"kind": "uniform", "low": 2, "high": 1}, "must be in order"),
        ({"low": 1, "high": 2}, "needs its kind"),
        ({"kind": "powerlaw", "low": 1, "high": 2}, "not a kind of distribution"),
        ({"kind": "gaussian", "mean": 0, "sigma": 0}, "greater than 0"),
        ({"kind": "gaussian", "mean": 0, "sigma": 1, "low": 50, "high": 60}, "nothing of the distribution"),
        ({"kind": "tabulated", "values": [1, 0], "density": [1, 1]}, "do not ascend"),
        ({"kind": "tabulated", "values": [0, 1], "density": [0, 0]}, "zero everywhere"),
        ({"kind": "choice", "values": [1, "a"]}, "mixed"),
        ({"kind": "choice", "values": [1, 2], "weights": [1]}, "one for each value"),
        ({"kind": "uniform", "low": 1, "high": float("inf")}, "finite"),
        ({"kind": "uniform", "low": 1, "high": 2, "slope": 1}, "slope"),
    ],
)
def test_distributions_that_make_no_sense(keys, said):
    with pytest.raises(ValidationError, match=said):
        ADAPTER.validate_python(keys)
