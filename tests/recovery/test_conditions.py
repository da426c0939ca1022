"""Conditions at the fakes' places: depth against brute force, light of neighbours against sums over pixels."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from photutils.aperture import CircularAperture, aperture_photometry

from kits.recovery_pairs import catalogue, make_pair, measure, numbers, places
from skygraft.exposure import COADD_NOISE, Exposure
from skygraft.noise import CoaddNoise
from skygraft.photometry import PSF_MODEL, CalibrationAperture
from skygraft.recovery import conditions
from skygraft.recovery.detect import MeasuredImage, detect, prepare
from skygraft.recovery.measuring import measure_pair
from skygraft.recovery.settings import RecoverySettings
from skygraft.testing import make_exposure


def with_image(exposure: Exposure, image: np.ndarray, variance: np.ndarray | None = None, **more: object) -> Exposure:
    planes = exposure.planes.copy(deep=True)
    planes["image"] = (("y", "x"), image.astype(np.float32), exposure.planes["image"].attrs)
    if variance is not None:
        planes["variance"] = (("y", "x"), variance.astype(np.float32), exposure.planes["variance"].attrs)
    return dataclasses.replace(exposure, planes=planes, **more)


def brute_force_depth(image: np.ndarray, radius: float, zeropoint: float) -> float:
    """Magnitude of five times the scatter of 3000 apertures at random, on an image of noise only."""
    rng = np.random.default_rng(5)
    at = rng.uniform(radius + 1, np.array(image.shape[::-1]) - radius - 2, (3000, 2))
    flux = aperture_photometry(image.astype(float), CircularAperture(at, radius))["aperture_sum"]
    return float(zeropoint - 2.5 * np.log10(5 * 1.4826 * np.median(np.abs(flux - np.median(flux)))))


@pytest.mark.parametrize("kernel", ["white", "correlated"])
@pytest.mark.parametrize("known", [True, False])
def test_depth_is_that_of_random_empty_apertures(kernel: str, known: bool) -> None:
    """Also where the noise is correlated, and whatever the level of the variance plane."""
    radius = 6.0
    rng = np.random.default_rng(2)
    noise = rng.normal(0, 10.0, (512, 512))
    if kernel == "correlated":
        noise = 0.5 * (noise + np.roll(noise, 1, axis=0)) + 0.5 * np.roll(noise, 1, axis=1)
    before = make_exposure((512, 512), reference=CalibrationAperture(radius), variance=100.0)
    before = with_image(before, noise)
    if not known:
        before = dataclasses.replace(before, planes=before.planes.drop_vars("variance"))
    expected = brute_force_depth(noise, radius, 27.0)
    x, y = places(4, 100.0, first=100.0)
    real = catalogue(before, *places(3, 90.0, first=130.0, seed=3), 16.0)
    pair = make_pair(make_pair(before, real).after, catalogue(before, x, y, 19.0))
    table = measure_pair(pair, {"background_size": 128})
    np.testing.assert_allclose(numbers(table, "depth"), expected, atol=0.12)
    if known:  # three pixels of weights 1/2, of which the sum has three times the noise of one
        level = {"white": 1.0, "correlated": 1.5 / np.sqrt(0.75)}[kernel]
        assert numbers(table, "noise_level")[0] == pytest.approx(level * np.sqrt(noise.var() / 100.0), rel=0.12)
    np.testing.assert_allclose(numbers(table, "mag_below_depth"), 19.0 - numbers(table, "depth"))


def test_depth_follows_the_noise_over_the_image() -> None:
    """The left half has twice the noise, so that it is 0.75 mag less deep."""
    sigma = np.where(np.arange(512) < 256, 20.0, 10.0) * np.ones((512, 1))
    before = make_exposure((512, 512), reference=CalibrationAperture(6.0))
    before = with_image(before, sigma * np.random.default_rng(1).normal(size=sigma.shape), sigma**2)
    table = measure(before, catalogue(before, [100.0, 400.0], [250.0, 250.0], 18.0))
    shallow, deep = numbers(table, "depth")
    assert deep - shallow == pytest.approx(2.5 * np.log10(2.0), abs=0.02)
    assert deep == pytest.approx(27.0 - 2.5 * np.log10(5 * 10 * np.sqrt(np.pi * 36)), abs=0.1)
    assert numbers(table, "sky_rms") == pytest.approx([20.0, 10.0], rel=0.1)


def test_depth_of_psf_fluxes_is_the_scatter_of_psf_fluxes() -> None:
    """White noise of sigma gives PSF fluxes of an error of sigma / root(sum of k squared), of a unit kernel k."""
    before = make_exposure((400, 400), reference=PSF_MODEL, variance=100.0, noise=True)
    kernel = before.psf.kernels([200.0], [200.0])[0]
    kernel = kernel / kernel.sum()
    expected = 27.0 - 2.5 * np.log10(5 * 10 / np.sqrt((kernel**2).sum()))
    table = measure(before, catalogue(before, [150.0], [220.0], 18.0))
    assert numbers(table, "depth")[0] == pytest.approx(expected, abs=0.08)


def test_noise_that_a_coadd_says_is_correlated_makes_errors_larger() -> None:
    """Pixels are means of two neighbours of white noise: errors of large apertures are almost root 2 larger."""
    rng = np.random.default_rng(7)

    def noise() -> np.ndarray:
        white = rng.normal(0, 10.0, (256, 257))
        return (white[:, 1:] + white[:, :-1]) / np.sqrt(2)

    before = with_image(make_exposure((256, 256), variance=100.0), noise())
    realizations = tuple(noise().astype(np.float32) for _ in range(2))
    coadd = dataclasses.replace(before, extra={COADD_NOISE: CoaddNoise(realizations)})
    catalog = catalogue(before, [128.0], [128.0], 17.0)
    plain, larger = (measure(one, catalog, noise=False) for one in (before, coadd))
    ratio = {
        k: float(numbers(larger, f"flux_{k}_error")[0] / numbers(plain, f"flux_{k}_error")[0]) for k in ("cal", "psf")
    }
    # Along x, twelve pixels of radius: the sum of neighbours is that of white noise but for the ends.
    assert ratio["cal"] == pytest.approx(np.sqrt(2), rel=0.03)
    assert 1.2 < ratio["psf"] < ratio["cal"]


def image_of(pixels: np.ndarray, variance: np.ndarray) -> MeasuredImage:
    bad = np.zeros(pixels.shape, dtype=bool)
    return MeasuredImage(pixels.astype(np.float32), bad, variance.astype(np.float32), True, None, (0, 0))


def test_variance_of_the_sky_leaves_sources_out() -> None:
    settings = RecoverySettings()
    before = make_exposure((256, 256), noise=True, variance=50.0, gain=0.5)
    bright = make_pair(before, catalogue(before, [100.0], [100.0], 14.0), noise=True).after
    image = prepare(bright, settings)
    assert image.variance[100, 100] > 1e4
    found = conditions.sky_variance(
        image, detect(image, image.variance, settings), np.array([100.0, np.nan]), np.full(2, 100.0)
    )
    assert found[0] == pytest.approx(50.0, rel=0.05) and np.isnan(found[1])


def test_light_of_other_fakes_is_that_of_their_profiles() -> None:
    """Against sums over the pixels of round Gaussians."""
    x, y = np.array([50.0, 61.0, 50.0, np.nan]), np.array([50.0, 50.0, 66.0, 10.0])
    flux, fwhm, radius = np.array([100.0, 400.0, 900.0, 1e9]), np.array([4.0, 6.0, 9.0, 5.0]), 10.0
    found = conditions.fake_light(x, y, flux, fwhm, radius)
    fine = np.arange(20.0, 100.0, 0.1)
    gx, gy = np.meshgrid(fine, fine)
    for i in range(3):
        inside = np.hypot(gx - x[i], gy - y[i]) <= radius
        expected = 0.0
        for j in range(3):
            sigma = fwhm[j] / 2.3548
            profile = np.exp(-0.5 * ((gx - x[j]) ** 2 + (gy - y[j]) ** 2) / sigma**2) / (2 * np.pi * sigma**2)
            expected += (j != i) * flux[j] * (profile * inside).sum() * 0.01
        assert found[i] == pytest.approx(expected, rel=0.01, abs=0.05)
    assert found[3] == 0.0


def test_distance_to_the_edge() -> None:
    found = conditions.edge_distance(
        (50, 80), np.array([-0.5, 0.0, 40.0, 79.0, 85.0]), np.array([20.0, 20.0, 24.5, 49.0, 20.0])
    )
    np.testing.assert_allclose(found, [0.0, 0.5, 25.0, 0.5, -5.5])


@pytest.mark.parametrize(
    ("header", "airmass"),
    [
        ({"AIRMASS": 1.3}, 1.3),
        ({"BORE-AIRMASS": 1}, 1.0),
        ({"AIRMASS": -99.0, "SECZ": 1.7}, 1.7),
        ({"AIRMASS": "1.2"}, np.nan),
        ({"AIRMASS": True}, np.nan),
        ({}, np.nan),
    ],
)
def test_airmass(header: dict[str, object], airmass: float) -> None:
    np.testing.assert_equal(conditions.airmass_of(header), airmass)


def test_few_empty_apertures_say_nothing() -> None:
    ones = np.ones(99)
    assert conditions.noise_level(ones, ones, 1.23) == 1.23
    pulls = np.random.default_rng(0).normal(0, 2.0, 5000)
    assert conditions.noise_level(pulls, np.ones(5000), 1.0) == pytest.approx(2.0, rel=0.05)
    tiny = image_of(np.zeros((9, 9)), np.ones((9, 9)))
    assert conditions.empty_apertures(tiny, detect(tiny, tiny.variance, RecoverySettings()), 12.0)[0].size == 0
