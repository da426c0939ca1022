"""Noise on planes: moments, what is left alone, independence of the cut-out, and the gain fit on made-up planes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skygraft.errors import CalibrationError
from skygraft.formats import read_exposure
from skygraft.noise import Gain, add_flux, estimate_gain, poisson_field


def test_seed_zero_is_a_seed_and_images_do_not_share_a_stream():
    mean = np.full((200, 200), 25.0)
    fields = [poisson_field(mean, seed=s, image_id=n).ravel() for s, n in ((0, "a"), (0, "b"), (1, "a"), (-1, "a"))]
    np.testing.assert_array_equal(fields[0], poisson_field(mean, seed=0, image_id="a").ravel())
    for i in range(4):
        for j in range(i):
            assert abs(np.corrcoef(fields[i], fields[j])[0, 1]) < 5 / 200


@pytest.mark.parametrize("gain", [0.01, 1.0, 50.0])
@pytest.mark.parametrize("flux", [3.0, 40.0, 2e4])
def test_noise_and_variance_follow_the_gain(gain, flux):
    shape = (1000, 1000)
    image, variance = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    add_flux(image, variance, np.full(shape, flux, np.float32), gain=Gain(gain, "given"), image_id="g")
    # of the 1 per cent that is asked for, sampling takes a part where the photons are few
    sampling = np.sqrt((2 + 1 / (gain * flux)) / image.size)
    assert image.var(dtype=float) == pytest.approx(flux / gain, rel=max(0.01, 4 * sampling))
    assert image.mean(dtype=float) == pytest.approx(flux, abs=5 * np.sqrt(flux / gain / image.size))
    np.testing.assert_allclose(variance, flux / gain, rtol=1e-6)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 150),
    st.integers(0, 30),
    st.integers(1, 160),
    st.tuples(st.integers(-300, 300), st.integers(-300, 300)),
    st.integers(0, 2**32),
    st.sampled_from([0.02, 0.5, 1.0]),
)
def test_planes_get_the_same_whatever_is_cut_out(i, j, width, corner, seed, filled):
    """Sparse or full, on planes wider than what is drawn at a time."""
    rng = np.random.default_rng(seed)
    model = np.where(rng.random((40, 310)) < filled, 10 ** rng.uniform(-4, 5, (40, 310)), 0).astype(np.float32)
    gain = Gain(rng.uniform(0.5, 3, model.shape).astype(np.float32), "a plane")
    whole, spread = np.zeros_like(model), np.zeros_like(model)
    add_flux(whole, spread, model, gain=gain, seed=seed, xy0=corner)
    cut = np.s_[j : j + 9, i : i + width]
    part, part_spread = np.zeros_like(model[cut]), np.zeros_like(model[cut])
    part_gain = Gain(np.ascontiguousarray(gain.value[cut]), "its part")
    xy0 = (corner[0] + i, corner[1] + j)
    add_flux(part, part_spread, np.ascontiguousarray(model[cut]), gain=part_gain, seed=seed, xy0=xy0)
    np.testing.assert_array_equal(part, whole[cut])
    np.testing.assert_array_equal(part_spread, spread[cut])


def test_parts_of_larger_planes_can_be_given():
    model = np.linspace(0, 90, 60 * 80, dtype=np.float32).reshape(60, 80)
    whole, part = np.zeros_like(model), np.zeros_like(model)
    variance = np.zeros_like(model)
    cut = np.s_[5:31, 7:60]
    add_flux(whole, None, model, gain=Gain(1.5, "given"), seed=4)
    add_flux(part[cut], variance[cut], model[cut], gain=Gain(1.5, "given"), seed=4, xy0=(7, 5))
    np.testing.assert_array_equal(part[cut], whole[cut])
    np.testing.assert_allclose(variance[cut], model[cut] / 1.5, rtol=1e-6)
    assert not part[:5].any()
    assert not part[:, 60:].any()


def test_what_is_not_finite_goes_through_and_harms_nobody():
    model = np.full((3, 200), 70.0, np.float32)
    plain, image, variance = np.zeros_like(model), np.zeros_like(model), np.zeros_like(model)
    add_flux(plain, None, model, gain=Gain(2.0, "given"))
    model[1, 50:53] = np.nan, np.inf, -np.inf
    add_flux(image, variance, model, gain=Gain(2.0, "given"))
    np.testing.assert_array_equal(image[1, 50:53], model[1, 50:53])
    np.testing.assert_array_equal(variance[1, 50:53], [0, np.inf, 0])
    image[1, 50:53] = plain[1, 50:53]
    np.testing.assert_array_equal(image, plain)


def test_the_gain_of_another_image_is_refused():
    image, gain = np.ones((8, 9), np.float32), Gain(np.ones((8, 7), np.float32), "a plane")
    with pytest.raises(ValueError, match="broadcast"):
        add_flux(image, None, image.copy(), gain=gain)


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


@pytest.mark.parametrize("with_gain", [True, False])
def test_the_sum_may_go_where_the_model_is(with_gain: bool) -> None:
    rng = np.random.default_rng(12)
    shape = 40, 700
    image = rng.normal(0, 10, shape).astype(np.float32)
    image[3, 4], image[5, 6] = -0.0, np.nan
    model = np.zeros(shape, np.float32)
    for y, x, n in [(0, 0, 3), (7, 690, 10), (20, 100, 300), (20, 500, 1), (39, 0, 700)]:
        model[y, x : x + n] = rng.uniform(-0.1, 50, n)
    model[21:23] = np.where(rng.random((2, 700)) < 0.03, 5.0, 0.0)
    variance = np.full(shape, 100, np.float32)
    gain = Gain(2.0, "given") if with_gain else None
    expected, expected_variance, before = image.copy(), variance.copy(), image.copy()
    add_flux(expected, expected_variance, model, gain=gain, xy0=(3, 5))
    add_flux(image, variance, model, gain=gain, xy0=(3, 5), out=model)
    assert model.tobytes() == expected.tobytes()
    assert variance.tobytes() == expected_variance.tobytes()
    assert image.tobytes() == before.tobytes()


def test_the_new_variance_may_go_elsewhere() -> None:
    rng = np.random.default_rng(13)
    image, variance = rng.normal(size=(2, 30, 500)).astype(np.float32)
    variance[2, 3] = np.nan
    model = np.where(rng.random((30, 500)) < 0.02, 40.0, 0.0).astype(np.float32)
    model[4:6] = 0.0
    expected, expected_variance = image.copy(), variance.copy()
    add_flux(expected, expected_variance, model, gain=Gain(2.0, "given"))
    out, variance_out, before = np.empty_like(image), np.empty_like(variance), variance.copy()
    add_flux(image, variance, model, gain=Gain(2.0, "given"), out=out, variance_out=variance_out)
    assert out.tobytes() == expected.tobytes()
    assert variance_out.tobytes() == expected_variance.tobytes()
    assert variance.tobytes() == before.tobytes()
