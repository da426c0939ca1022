"""Curves of growth: against photutils, closed forms, and stars that each rule must leave out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from photutils.aperture import CircularAperture, aperture_photometry

from kits.growth_kit import FWHM, GAIN, enclosed, moffat, observe, star_field
from skygraft.exposure import make_planes
from skygraft.psf import GaussianPSF
from skygraft.qa.growth import annulus_of, growth_radii, measure_growth, psf_fit_flux, psf_fraction
from skygraft.qa.growth_stars import choose_stars, prepare_scene
from skygraft.testing import MASK_PLANES, make_exposure


def test_sums_are_those_of_photutils():
    rng = np.random.default_rng(3)
    image = rng.normal(0, 5, (160, 170)).astype(np.float32)
    x, y = rng.uniform(50, 110, 12), rng.uniform(50, 110, 12)
    radii = np.array([7.5, 10.0, 12.25, 20.0])
    growth = measure_growth(image, x, y, radii, local_sky=False)
    for k, radius in enumerate(radii):
        expected = aperture_photometry(image.astype(float), CircularAperture(np.transpose([x, y]), radius))
        np.testing.assert_allclose(growth.flux[:, k], expected["aperture_sum"], atol=2e-3)


def test_small_circles_are_those_of_the_band_limited_image():
    # A Gaussian is band-limited for all purposes: its light inside r is 1 - exp(-r^2 / 2 sigma^2), sampled or not.
    sigma, size = 2.2, 101
    x, y = 50.37, 49.81
    dy, dx = np.arange(size)[:, None] - y, np.arange(size)[None, :] - x
    image = 1e4 / (2 * np.pi * sigma**2) * np.exp(-(dx**2 + dy**2) / (2 * sigma**2))
    radii = np.array([2.0, 3.0, 4.5, 6.0, 9.0, 12.0])
    growth = measure_growth(image, [x], [y], radii, local_sky=False)
    expected = 1e4 * (1 - np.exp(-(radii**2) / (2 * sigma**2)))
    np.testing.assert_allclose(growth.flux[0, :4], expected[:4], rtol=2e-5)
    # Overlaps of circle and pixel, which differ little from 7 pixels on.
    np.testing.assert_allclose(growth.flux[0, 4:], expected[4:], rtol=1e-3)


def test_moffat_stars_grow_as_they_should_above_any_sky():
    field = star_field(seed=1)
    radii = growth_radii(12.0, FWHM)
    ny, nx = field.light.shape
    slope = 0.005 * np.arange(nx)[None, :] + 0.002 * np.arange(ny)[:, None]
    growth = measure_growth(field.light + 100.0 + slope, field.x, field.y, radii)
    inside = growth.flux / field.flux[:, None]
    # The annulus holds a little of each star's light, which is taken for sky.
    inner, outer = annulus_of(radii[-1])
    of_wings = (enclosed(outer) - enclosed(inner)) / (outer**2 - inner**2) * radii**2
    expected = np.broadcast_to(enclosed(radii) - of_wings, inside.shape)
    fitting = radii < 25
    np.testing.assert_allclose(inside[:, fitting], expected[:, fitting], atol=1.2e-3)


def test_errors_are_those_of_repeated_exposures():
    field = star_field(size=200, step=84, seed=5)
    radii = np.array([6.0, 12.0])
    fluxes, errors = [], []
    for seed in range(120):
        exposure = observe(field, seed)
        growth = measure_growth(exposure.image, field.x, field.y, radii, variance=exposure.variance)
        fluxes.append(growth.flux)
        errors.append(growth.error)
    scatter = np.std(fluxes, axis=0)
    np.testing.assert_allclose(np.mean(errors, axis=0) / scatter, 1.0, atol=0.25)
    assert abs(np.mean(np.mean(errors, axis=0) / scatter) - 1) < 0.08
    # From the gain, without a variance plane, they are the same.
    from_gain = measure_growth(exposure.image, field.x, field.y, radii, gain=GAIN)
    np.testing.assert_allclose(from_gain.error, growth.error, rtol=0.05)


def test_circles_that_leave_the_image_are_not_measured():
    growth = measure_growth(np.ones((60, 60)), [5.0, 30.0], [30.0, 30.0], [4.0, 8.0, 20.0])
    assert np.isfinite(growth.flux[0]).tolist() == [True, False, False]
    assert np.isfinite(growth.flux[1]).all()


@given(stated=st.floats(2.0, 60.0), fwhm=st.one_of(st.just(float("nan")), st.floats(1.5, 12.0)))
def test_the_stated_radius_is_always_among_those_measured(stated, fwhm):
    radii = growth_radii(stated, fwhm)
    assert stated in radii
    assert (np.diff(radii) > 0).all()
    assert radii[0] <= stated / 2 and radii[-1] > 1.4 * stated


def test_psf_fraction_of_a_gaussian():
    sigma = 2.0
    exposure = make_exposure((100, 100), psf=GaussianPSF(fwhm=sigma * np.sqrt(8 * np.log(2))))
    radii = np.array([2.0, 3.0, 4.0, 6.0])
    found = psf_fraction(exposure, radii, [50.0, 20.0], [50.0, 70.0])
    # Effective: its own square pixel may be included.
    bare = 1 - np.exp(-(radii**2) / (2 * sigma**2))
    with_pixel = 1 - np.exp(-(radii**2) / (2 * (sigma**2 + 1 / 12)))
    assert found.shape == (2, 4)
    assert (found <= bare + 2e-3).all() and (found >= with_pixel - 2e-3).all()


def test_psf_fit_gives_the_flux_whatever_the_sky():
    exposure = make_exposure((90, 90))
    [kernel] = exposure.psf.kernels([45.0], [45.0])
    ny, nx = kernel.shape
    image = np.full((90, 90), 3.0)
    top, left = 45 - ny // 2, 45 - nx // 2
    y0, x0 = max(top, 0), max(left, 0)
    part = kernel[y0 - top : y0 - top + 90, x0 - left : x0 - left + 90]
    if part.shape != kernel.shape:
        pytest.skip("the kernel is larger than the image")
    image[top : top + ny, left : left + nx] += 500.0 * kernel / kernel.sum()
    flux, norm = psf_fit_flux(exposure, image, np.array([45.0]), np.array([45.0]), np.array([3.0]))
    assert flux[0] == pytest.approx(500.0, rel=1e-6)
    off, _ = psf_fit_flux(exposure, image, np.array([45.0]), np.array([45.0]), np.array([2.0]))
    assert off[0] - flux[0] == pytest.approx(norm[0], rel=1e-6)


def crowd() -> tuple:
    """A field with a star for each rule, and seven good ones; the places of the bad."""
    field = star_field(size=500, step=84, seed=2)
    light = field.light.copy()
    shape = light.shape
    bad = dict(zip(("galaxy", "pair", "bad pixel", "faint", "fake", "saturated"), range(0, 12, 2), strict=True))

    def replace(i: int, new: np.ndarray) -> None:
        light[...] += new - field.flux[i] * moffat(shape, field.x[i], field.y[i])

    x, y, flux = field.x, field.y, field.flux
    replace(bad["galaxy"], 2e5 * moffat(shape, x[bad["galaxy"]], y[bad["galaxy"]], fwhm=1.4 * FWHM))
    i = bad["pair"]
    light += 0.05 * flux[i] * moffat(shape, x[i] + 17.0, y[i] - 12.0)
    replace(bad["faint"], 250.0 * moffat(shape, x[bad["faint"]], y[bad["faint"]]))
    return field, light, bad


def test_each_rule_leaves_out_its_own():
    field, light, bad = crowd()
    exposure = observe(type(field)(field.x, field.y, field.flux, light), 1)
    image, mask = exposure.image.copy(), np.zeros(light.shape, dtype=np.int32)

    def at(name: str, dx: int = 0) -> tuple[int, int]:
        return round(field.y[bad[name]]), round(field.x[bad[name]]) + dx

    mask[at("bad pixel", 6)] |= 1 << MASK_PLANES["CR"]
    row, column = at("saturated")
    full = np.s_[row - 1 : row + 2, column - 1 : column + 2]
    image[full] = image.max() * 1.3
    mask[full] |= 1 << MASK_PLANES["SAT"]
    mask[at("fake")] |= 1 << 9
    planes = make_planes(image, exposure.variance, mask, mask_planes={**MASK_PLANES, "INJECTED_CORE": 9})
    exposure = exposure.replace(planes=planes)
    stars = choose_stars(exposure, prepare_scene(exposure), 12.0)
    distance = np.hypot(stars.x[:, None] - field.x, stars.y[:, None] - field.y)
    found = set(np.argmin(distance, axis=1).tolist())
    assert (distance.min(axis=1) < 0.1).all()
    assert found == set(range(len(field.x))) - set(bad.values())
    rules = {"not stars", "with neighbours", "saturated or bad pixels", "too faint", "fakes"}
    assert all(stars.left_out[rule] >= 1 for rule in rules)
    assert stars.left_out["saturated or bad pixels"] >= 2
    assert (np.diff(stars.flux) <= 0).all()


@pytest.mark.parametrize("kind", ["empty", "bad", "blank"])
def test_images_without_anything_say_why(kind):
    exposure = make_exposure((128, 128), noise=kind == "empty")
    if kind == "bad":
        exposure = exposure.replace(
            planes=make_planes(np.full((128, 128), np.nan), np.ones((128, 128)), mask_planes=MASK_PLANES)
        )
    scene = prepare_scene(exposure)
    expected = {"empty": "nothing is detected", "bad": "all pixels are bad", "blank": "the same value"}[kind]
    if kind == "empty" and len(scene.x):  # a peak of noise may be detected; it is no star
        assert len(choose_stars(exposure, scene, 12.0)) == 0
    else:
        assert expected in scene.problem
    assert len(choose_stars(exposure, scene, 12.0)) == 0
