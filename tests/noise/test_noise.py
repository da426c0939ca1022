"""Noise: known answers of the generator, moments of the draws, and the gain fit on planes made by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from skygraft import noise
from skygraft.errors import CalibrationError
from skygraft.formats import read_exposure
from skygraft.noise import Gain, add_flux, estimate_gain, poisson_field


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
    assert tuple(int(v) for v in noise._philox(*counter, *key)) == expected


@pytest.mark.parametrize("mean", [0.02, 0.7, 4.0, 9.99, 10.01, 35.0, 900.0, 1e6, 3e8])
def test_poisson_has_the_right_mean_and_variance(mean):
    n = 1000
    drawn = poisson_field(np.full((n, n), mean), seed=3, image_id="a")
    assert drawn.mean() == pytest.approx(mean, rel=0, abs=5 * np.sqrt(mean) / n)
    spread = mean * np.sqrt((2 + 1 / mean) / n**2)
    assert drawn.var() == pytest.approx(mean, rel=0, abs=5 * spread)


@pytest.mark.parametrize("mean", [0.5, 6.0, 12.0, 60.0])
def test_poisson_has_the_right_distribution(mean):
    drawn = poisson_field(np.full((300, 300), mean), seed=0, image_id="b").ravel()
    low, high = int(stats.poisson.ppf(1e-3, mean)), int(stats.poisson.ppf(1 - 1e-3, mean))
    edges = np.arange(low, high + 1)
    observed = np.array([(drawn <= low).sum(), *[(drawn == k).sum() for k in edges[1:-1]], (drawn >= high).sum()])
    tail = stats.poisson.sf(high - 1, mean)
    p = np.array([stats.poisson.cdf(low, mean), *stats.poisson.pmf(edges[1:-1], mean), tail])
    assert stats.chisquare(observed, p / p.sum() * drawn.size).pvalue > 1e-4


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 40), st.integers(0, 40), st.integers(-(2**40), 2**63))
def test_a_pixel_draws_the_same_whatever_is_cut_out(i, j, seed):
    mean = np.linspace(0.1, 40, 64 * 64).reshape(64, 64)
    whole = poisson_field(mean, seed=seed, image_id="v-1")
    part = poisson_field(mean[j : j + 20, i : i + 20], seed=seed, image_id="v-1", xy0=(i, j))
    np.testing.assert_array_equal(part, whole[j : j + 20, i : i + 20])


def test_seed_zero_is_a_seed_and_images_do_not_share_a_stream():
    mean = np.full((200, 200), 25.0)
    fields = [poisson_field(mean, seed=s, image_id=n).ravel() for s, n in ((0, "a"), (0, "b"), (1, "a"), (-1, "a"))]
    np.testing.assert_array_equal(fields[0], poisson_field(mean, seed=0, image_id="a").ravel())
    for i in range(4):
        for j in range(i):
            assert abs(np.corrcoef(fields[i], fields[j])[0, 1]) < 5 / 200


@pytest.mark.parametrize("gain", [0.01, 1.0, 50.0])
def test_noise_and_variance_follow_the_gain(gain):
    shape, flux = (800, 800), 40.0
    image, variance = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    add_flux(image, variance, np.full(shape, flux, np.float32), gain=Gain(gain, "given"), image_id="g")
    assert image.var(dtype=float) == pytest.approx(flux / gain, rel=0.01)
    assert image.mean(dtype=float) == pytest.approx(flux, abs=5 * np.sqrt(flux / gain) / 800)
    np.testing.assert_allclose(variance, flux / gain, rtol=1e-6)


def test_negative_flux_is_added_without_noise_and_the_rest_is_left_alone():
    model = np.zeros((4, 5), np.float32)
    model[1, 1], model[2, 2] = -3.0, 1e4
    image, variance = np.ones((4, 5), np.float32), np.full((4, 5), 2.0, np.float32)
    add_flux(image, variance, model, gain=Gain(2.0, "given"))
    assert image[1, 1] == -2.0
    assert variance[1, 1] == 2.0
    assert variance[2, 2] == pytest.approx(2.0 + 5e3)
    untouched = model == 0
    assert (image[untouched] == 1).all()
    assert (variance[untouched] == 2).all()


def test_without_gain_the_model_is_added_exactly():
    model = np.arange(12, dtype=np.float32).reshape(3, 4)
    image, variance = np.ones((3, 4), np.float32), np.ones((3, 4), np.float32)
    add_flux(image, variance, model, gain=None)
    np.testing.assert_array_equal(image, model + 1)
    assert (variance == 1).all()


@pytest.mark.parametrize("gain", [0.03, 1.7, 400.0])
def test_gain_is_read_off_the_planes_in_spite_of_bad_pixels(gain):
    rng = np.random.default_rng(5)
    electrons = rng.poisson(900 + 3000 * rng.pareto(3.0, (300, 300)))
    image = (electrons / gain - 900 / gain).astype(np.float32)
    variance = (electrons / gain**2 + 25 / gain**2).astype(np.float32)
    bad = rng.random(image.shape) < 0.02
    variance[bad] *= rng.uniform(0.1, 20, bad.sum()).astype(np.float32)
    found = estimate_gain(image, variance, np.ones(image.shape, bool))
    assert found.value == pytest.approx(gain, rel=2e-3)
    assert "slope" in found.origin


@pytest.mark.parametrize("gain", [0.05, 3.1])
def test_gain_does_not_suffer_from_noise_that_the_variance_plane_does_not_know(gain):
    """Few stars on much sky, the variance plane free of noise: a line through all pixels would be far too flat."""
    rng = np.random.default_rng(7)
    y, x = np.mgrid[:600, :600]
    light = np.zeros((600, 600))
    for _ in range(25):
        cx, cy, flux = rng.uniform(20, 580), rng.uniform(20, 580), 10 ** rng.uniform(3, 5)
        light += flux * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / 8) / (8 * np.pi)
    variance = ((light + 900) / gain**2).astype(np.float32)
    image = (light / gain + rng.normal(size=light.shape) * np.sqrt(variance)).astype(np.float32)
    found = estimate_gain(image, variance, np.ones(image.shape, bool))
    assert found.value == pytest.approx(gain, rel=0.03)
    # and without the stars there is nothing to go by
    sky = rng.normal(size=light.shape) * np.sqrt(variance)
    with pytest.raises(CalibrationError, match="gain"):
        estimate_gain(sky.astype(np.float32), variance, np.ones(image.shape, bool))


def test_a_slope_that_no_gain_explains_is_an_error():
    rng = np.random.default_rng(6)
    image = rng.normal(size=(100, 100)).astype(np.float32)
    flat = np.full(image.shape, 4.0, np.float32)
    good = np.ones(image.shape, bool)
    for variance in (flat, (flat - 0.5 * image).astype(np.float32), None):
        with pytest.raises(CalibrationError, match="gain"):
            estimate_gain(image, variance, good)
    with pytest.raises(CalibrationError, match="good pixels"):
        estimate_gain(image, flat, ~good)


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf, np.array([[1.0, 0.0]])])
def test_a_gain_must_be_positive(value):
    with pytest.raises(CalibrationError, match="not positive"):
        Gain(value, "the header")


@pytest.mark.data
def test_one_gain_in_all_images_of_one_maker(data_dir):
    """The reference images were made with one gain, under seven PSFs and WCSs; a straight line says 3.2 to 3.7."""
    gains = []
    for path in sorted((data_dir / "afw_reference").glob("c*.fits")):
        exposure = read_exposure(path)
        assert exposure.gain is None
        gains.append(estimate_gain(exposure.image, exposure.variance, np.ones(exposure.shape, bool)).value)
    assert len(gains) == 7
    np.testing.assert_allclose(gains, np.median(gains), rtol=0.03)
