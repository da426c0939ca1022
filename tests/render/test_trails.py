"""Trails drawn as sums of stars: against the closed form of a Gaussian's, GalSim, and across the edges of images."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import erf

from kits.psf_kit import KINDS, SIDE, psf_of_kind
from skygraft.catalog.flags import Flag
from skygraft.psf import Box, GaussianPSF, MoffatPSF
from skygraft.render import Canvas, Sources, render
from skygraft.render.trails import nodes

JACOBIAN = np.array([[-0.14, 0.13], [0.14, 0.15]])


class Unscaled:
    """A normalisation that leaves kernels as they are."""

    def __call__(self, kernels, x, y):
        return np.ones(len(kernels)), np.ones(len(kernels))

    def of_coefficients(self, coefficients, x, y):
        return np.ones(len(x)), np.ones(len(x))


def trails(x, y, length, angle, flux=1.0, **shape):
    n = len(x)
    columns = {
        "trail_length_pix": np.broadcast_to(length, n).astype(float),
        "trail_angle_pix": np.broadcast_to(angle, n).astype(float),
        **shape,
    }
    jacobian = np.tile(JACOBIAN, (n, 1, 1))
    types = np.full(n, "Trail")
    return Sources(np.arange(n), types, np.asarray(x, float), np.asarray(y, float), np.full(n, flux), jacobian, columns)


def drawn(sources, psf, shape=(200, 200), origin=(0, 0), **engines):
    canvas = Canvas.empty(shape, origin)
    box = Box(-0.5, 199.5, -0.5, 199.5)
    report = render(sources, psf, canvas, box, Unscaled(), **engines)
    return canvas.model.astype(float), report, canvas


@pytest.mark.parametrize("length", [0.02, 0.7, 4.0, 15.0, 33.0, 90.0])
@pytest.mark.parametrize("angle", [0.0, 35.0, -100.0])
def test_a_gaussian_star_that_moves_is_an_error_function(length: float, angle: float) -> None:
    sigma, x0, y0 = 1.7, 100.3, 99.6
    psf = GaussianPSF(fwhm=sigma * 2.3548200450309493, shape=(45, 45))
    peak = psf.kernels([0.0], [0.0])[0].max()
    _, report, canvas = drawn(trails([x0], [y0], length, angle, flux=100.0), psf)
    y, x = np.mgrid[:200, :200]
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    along, across = (x - x0) * c + (y - y0) * s, (y - y0) * c - (x - x0) * s
    root = sigma * np.sqrt(2)
    ends = erf((along + length / 2) / root) - erf((along - length / 2) / root)
    want = 100 * peak * np.exp(-(across**2) / root**2) * ends * sigma * np.sqrt(np.pi / 2) / length
    assert np.abs(canvas.model - want).max() < 3e-6 * want.max()
    assert report.flux_deposited[0] == pytest.approx(want.sum(), rel=1e-5)
    assert report.stamp_size[0] == 45 + np.ceil(length)
    assert not report.flags.any()


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_psf_as_galsim_draws_it(kind: str) -> None:
    kernel = MoffatPSF(3.5, 3.0, shape=(45, 45)).kernels([0.0], [0.0])[0]
    psf = psf_of_kind(kind, kernel)
    at = SIDE / 2
    sources = trails([at + 0.3, at + 60.4], [at - 20.2, at + 30.1], [12.0, 3.0], [20.0, 75.0])
    images = []
    for engine in ("precise", "galsim"):
        canvas = Canvas.empty((180, 180), (int(at) - 60, int(at) - 90))
        box = Box(-0.5, SIDE - 0.5, -0.5, SIDE - 0.5)
        report = render(sources, psf, canvas, box, Unscaled(), stars=engine)
        assert not report.flags.any(), report.messages
        images.append(canvas.model)
    # GalSim's PSF is the same all along the trail, and its interpolant is good to 1e-4.
    assert np.abs(images[0] - images[1]).max() < 1.5e-3 * images[1].max()
    assert images[0].sum() == pytest.approx(images[1].sum(), rel=1e-3)


def test_the_length_on_the_sky_goes_through_the_jacobian() -> None:
    psf = GaussianPSF(fwhm=4.0, shape=(45, 45))
    pa = 63.0
    sky = 3.0 * np.array([np.sin(np.radians(pa)), np.cos(np.radians(pa))])
    dx, dy = np.linalg.inv(JACOBIAN) @ sky
    by_pixels = trails([100.2], [90.7], np.hypot(dx, dy), np.degrees(np.arctan2(dy, dx)))
    by_sky = trails([100.2], [90.7], np.nan, 0.0, trail_length=np.array([3.0]), trail_pa=np.array([pa]))
    one, two = (drawn(sources, psf)[2].model for sources in (by_pixels, by_sky))
    assert np.abs(one - two).max() < 1e-6 * one.max()


def test_each_image_has_the_part_of_the_light_that_is_its_own() -> None:
    psf = MoffatPSF(4.0, 3.0, shape=(45, 45))
    sources = trails([99.0, 103.0, 150.0], [50.0, 61.3, 100.0], [70.0, 8.0, 300.0], [10.0, 100.0, 5.0], flux=7.0)
    whole = Canvas.empty((200, 200), (0, 0))
    parts = [Canvas.empty((200, 100), (x0, 0)) for x0 in (0, 100)]
    box = Box(-0.5, 199.5, -0.5, 199.5)
    reports = [render(sources, psf, canvas, box, Unscaled()) for canvas in (whole, *parts)]
    joined = np.concatenate([canvas.model for canvas in parts], axis=1)
    assert np.abs(joined - whole.model).max() < 1e-6 * whole.model.max()
    both = reports[1].flux_deposited + reports[2].flux_deposited
    np.testing.assert_allclose(both, reports[0].flux_deposited, rtol=1e-6)
    assert (reports[1].flags & Flag.TRUNCATED_BY_EDGE != 0).tolist() == [True, True, True]
    assert not reports[0].flags[:2].any()


def test_a_trail_costs_no_other_and_does_not_depend_on_others() -> None:
    psf = MoffatPSF(4.0, 3.0, shape=(45, 45))
    rng = np.random.default_rng(5)
    n = 130
    sources = trails(rng.uniform(0, 200, n), rng.uniform(0, 200, n), rng.uniform(0, 40, n), rng.uniform(0, 360, n))
    _, report, whole = drawn(sources, psf)
    alone = Canvas.empty((200, 200), (0, 0))
    box = Box(-0.5, 199.5, -0.5, 199.5)
    for i in range(n):
        one = trails(sources.x[[i]], sources.y[[i]], *(sources.shape[c][[i]] for c in sources.shape))
        again = render(one, psf, alone, box, Unscaled())
        assert again.flux_deposited[0] == report.flux_deposited[i]
        assert again.flags[0] == report.flags[i]
    assert np.array_equal(alone.model, whole.model)


def test_places_far_from_the_image_need_no_psf() -> None:
    class Narrow(GaussianPSF):
        def coefficients(self, x, y):
            assert np.all((np.asarray(x) > -40) & (np.asarray(x) < 240))
            return super().coefficients(x, y)

    psf = Narrow(fwhm=4.0, shape=(45, 45))
    _, report, canvas = drawn(trails([-2000.0], [100.0], 6000.0, 0.0, flux=6000.0), psf)
    # One unit of flux for each pixel of the way, on 200 pixels.
    assert report.flux_deposited[0] == pytest.approx(200, rel=1e-3)
    assert canvas.model[:, 100].sum() == pytest.approx(1.0, rel=1e-3)
    assert report.flags[0] & Flag.TRUNCATED_BY_EDGE


@pytest.mark.parametrize("length", [0.01, 0.3, 1.0, 5.0, 31.9, 32.1, 200.0])
def test_quadrature_is_exact_for_band_limited_images(length: float) -> None:
    for finer in (1.0, 2.0):
        places, weights = nodes(length, finer)
        k = np.linspace(0, finer * np.pi, 301)
        mean = np.cos(np.outer(k, (places - 0.5) * length)) @ weights
        assert np.abs(mean - np.sinc(k * length / (2 * np.pi))).max() < 2e-7
        assert weights.sum() == pytest.approx(1.0, rel=1e-12)
