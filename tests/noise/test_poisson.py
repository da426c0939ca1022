"""Poisson numbers: the generator's published answers, the tables' and the expansion's exactness, and the draws."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

from skygraft.noise import poisson, poisson_field
from skygraft.noise import tables as noise_tables
from skygraft.noise.planes import stream_key


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_the_published_answers(counter, key, expected):
    """Known-answer vectors of Random123 (Salmon et al. 2011)."""
    assert tuple(int(v) for v in poisson._philox(*counter, *key)) == expected


def words(n: int, x: int, y: int, k0: int, k1: int) -> np.ndarray:
    """The words of n pixels from x on, x even."""
    upper, lower = np.empty(n + n % 2 + 64, np.uint32), np.empty(n + n % 2 + 64, np.uint32)
    poisson._fill_words(upper, lower, n, x, y, k0, k1)
    return (upper[:n].astype(np.uint64) << np.uint64(32)) | lower[:n]


def test_a_pair_of_pixels_shares_the_published_answer():
    found = words(40, 0, 0, 0, 0)
    assert [hex(w) for w in found[:2]] == ["0x6627e8d5e169c58d", "0xbc57ac4c9b00dbd8"]
    assert np.unique(found).size == 40


@pytest.mark.parametrize("n", [2, 30, 97, 129])
def test_words_made_two_counters_at_a_time_are_those_of_one_at_a_time(n):
    place = -2 * (n // 3), -17, 0x243F6A88, 0xFFFFFFFF
    for i, word in enumerate(words(n, *place)):
        answer = [int(v) for v in poisson._philox(place[0] // 2 + i // 2, place[1], 0, 0, *place[2:])]
        assert word == answer[i % 2 * 2] << 32 | answer[i % 2 * 2 + 1]


def test_exp_and_log_are_those_of_everyone():
    t = np.linspace(0, 8, 2001)
    np.testing.assert_allclose([noise_tables.exp_minus(v) for v in t], np.exp(-t), rtol=2e-14)
    t = np.linspace(0, 0.25, 501)
    np.testing.assert_allclose([noise_tables.exp_minus_small(v) for v in t], np.exp(-t), rtol=1e-14)
    u = 10 ** np.linspace(-17, 0, 2001)
    np.testing.assert_allclose([noise_tables.log(v) for v in u], np.log(u), rtol=1e-14, atol=1e-15)


def test_alias_tables_hold_the_poisson_distribution_to_their_last_bit():
    alias = noise_tables.tables()[0].astype(np.int64)
    own, other = alias >> 7, alias & 127
    for row, mean in enumerate(np.arange(alias.shape[0]) / noise_tables.STEPS):
        weight = own[row].copy()
        np.add.at(weight, other[row], 2**25 - own[row])
        expected = stats.poisson.pmf(np.arange(128), mean) * 2.0**32
        off = np.abs(weight - expected)
        mode = int(mean)
        assert off[mode] < 64
        assert np.delete(off, mode).max() < 0.5 + 1e-3
        assert weight.sum() == 2**32


def test_the_layers_of_the_ziggurat_have_one_area_and_end_on_the_density():
    _, edges, density = noise_tables.tables()
    np.testing.assert_allclose(density[1:-1], np.exp(-0.5 * edges[1:-1] ** 2), rtol=1e-12)
    areas = edges[1:-1] * np.diff(density[1:])
    base = edges[1] * density[1] + np.sqrt(np.pi / 2) * special.erfc(edges[1] / np.sqrt(2))
    np.testing.assert_allclose(areas, base, rtol=1e-9)
    assert edges[0] * density[1] == pytest.approx(base, rel=1e-12)
    assert (density[-1], edges[-1]) == (1, 0)


@pytest.mark.parametrize("mean", [32.0, 33.3, 47.0, 64.0, 100.0, 1e3, 1e5])
def test_the_rounded_expansion_is_the_poisson_distribution(mean):
    """Sum of (q - p)^2 / p over all numbers down to 1e-9: one over it, and more, draws are needed to see it."""
    root = np.sqrt(mean)
    n = np.arange(max(0, int(mean - 6.2 * root)), int(mean + 6.8 * root))
    w = np.linspace(-9, 9, 200_001)
    reached = np.array([poisson.quantile(v, mean) for v in w])
    middle = np.abs(w) < 7
    assert (np.diff(reached[middle]) > 0).all()
    # where the quantile crosses a whole number, the normal probability below is that of a lower number
    crossing = np.interp(np.append(n, n[-1] + 1), reached[middle], w[middle])
    lower, upper = crossing[:-1], crossing[1:]
    q = np.where(lower > 0, special.ndtr(-lower) - special.ndtr(-upper), special.ndtr(upper) - special.ndtr(lower))
    p = stats.poisson.pmf(n, mean)
    seen = p > 1e-9
    assert ((q - p)[seen] ** 2 / p[seen]).sum() < 2e-10 * (32 / mean) ** 2 + 1e-12


@pytest.mark.parametrize("y", [0, 1])
def test_what_single_precision_settles_is_what_inversion_says(y):
    """Means below 1/4, which are not in tables."""
    means = np.random.default_rng(9).uniform(0, 0.25, 200_000) ** (1 + 2 * y)
    found = words(means.size, 0, y, *stream_key(6, "s"))
    expected = [poisson.invert(mean, word) for mean, word in zip(means, found, strict=True)]
    field = np.zeros((y + 1, means.size))
    field[y] = means
    np.testing.assert_array_equal(poisson_field(field, seed=6, image_id="s")[y], expected)


MEANS = [0.02, 0.2499, 0.25, 0.7, 4.0, 9.9, 12.3, 31.999, 32.0, 40.0, 300.0, 1e4, 1e5]


@pytest.mark.parametrize("mean", [*MEANS, 1e6, 3e8])
def test_poisson_has_the_right_mean_and_variance(mean):
    n = 1000
    drawn = poisson_field(np.full((n, n), mean), seed=3, image_id="a")
    assert (drawn == np.floor(drawn)).all()
    assert drawn.mean() == pytest.approx(mean, rel=0, abs=5 * np.sqrt(mean) / n)
    spread = mean * np.sqrt((2 + 1 / mean) / n**2)
    assert drawn.var() == pytest.approx(mean, rel=0, abs=5 * spread)


@pytest.mark.parametrize("mean", MEANS)
def test_poisson_has_the_right_distribution(mean):
    """Chi-square over every number that is expected 10 times and more, or as many bins as are good to look at."""
    size = 2_000_000
    drawn = poisson_field(np.full((1000, size // 1000), mean), seed=0, image_id="b").ravel()
    low, high = (int(v) for v in stats.poisson.ppf([20 / size, 1 - 20 / size], mean))
    edges = np.unique(np.linspace(low, high, min(high - low, 400) + 1).astype(int))
    below = np.append(stats.poisson.cdf(edges, mean), 1)
    observed = np.histogram(drawn, [-1, *(edges + 0.5), np.inf])[0]
    assert stats.chisquare(observed, np.diff(below, prepend=0) * size).pvalue > 1e-4


def test_normal_numbers_are_right_out_into_the_tail():
    """Through a mean so large that rounding and skewness do not matter at this size."""
    mean, size = 1e12, 4_000_000
    z = (poisson_field(np.full((2000, size // 2000), mean), seed=8, image_id="z").ravel() - mean) / np.sqrt(mean)
    edges = np.concatenate([np.linspace(-4.3, 4.3, 173), [np.inf]])
    observed = np.histogram(z, [-np.inf, *edges])[0]
    assert stats.chisquare(observed, np.diff(special.ndtr(edges), prepend=0) * size).pvalue > 1e-4


def test_neighbours_do_not_know_of_each_other():
    mean = np.full((1000, 1000), 0.9)
    mean[::2] = 50.0
    drawn = poisson_field(mean, seed=5, image_id="n")
    for rows in (drawn[::2], drawn[1::2]):
        for a, b in ((rows[:, ::2], rows[:, 1::2]), (rows[:, 1:-1:2], rows[:, 2::2]), (rows[:-1], rows[1:])):
            assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 5 / np.sqrt(a.size)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 200),
    st.integers(0, 40),
    st.integers(1, 200),
    st.tuples(st.integers(-1000, 1000), st.integers(-1000, 1000)),
    st.integers(-(2**40), 2**63),
)
def test_a_pixel_draws_the_same_whatever_is_cut_out(i, j, width, corner, seed):
    mean = np.geomspace(0.01, 3000, 64 * 400).reshape(400, 64).T
    whole = poisson_field(mean, seed=seed, image_id="v-1", xy0=corner)
    part = poisson_field(mean[j : j + 20, i : i + width], seed=seed, image_id="v-1", xy0=(corner[0] + i, corner[1] + j))
    np.testing.assert_array_equal(part, whole[j : j + 20, i : i + width])


def test_a_pixel_does_not_depend_on_its_neighbours_means():
    mean = np.full((20, 300), 60.0)
    plain = poisson_field(mean, seed=1, image_id="m")
    other = np.random.default_rng(2).random(mean.shape) < 0.5
    mixed = poisson_field(np.where(other, np.geomspace(1e-3, 1e7, 300), mean), seed=1, image_id="m")
    np.testing.assert_array_equal(mixed[~other], plain[~other])
