"""Moffat profiles against the closed form of their transform, on a large grid in float64, and against GalSim."""

from __future__ import annotations

import dataclasses
import functools

import galsim
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import CubicSpline
from scipy.special import gammaln, kve

from skygraft.catalog.flags import Flag
from skygraft.psf import Box, FixedKernelPSF
from skygraft.render import Canvas, RenderReport, Sources, render
from skygraft.render.moffat import core_radius, gaussian_fluxes, transform, unit
from skygraft.render.profiles import moffat_reach
from skygraft.render.radial import WIDTHS

JACOBIAN = np.array([[-0.2, 0.0], [0.0, 0.2]])
FLUX = 1000.0


@functools.cache
def psf(ellipticity: float = 0.0) -> np.ndarray:
    profile = galsim.Convolve(galsim.Moffat(beta=3.0, fwhm=3.5).shear(g1=ellipticity), galsim.Pixel(1.0))
    return np.asarray(profile.drawImage(nx=45, ny=45, scale=1.0, method="no_pixel").array, dtype=float)


class AsItIs:
    def __call__(self, kernels, x, y):
        return np.ones(len(x)), np.full(len(x), np.nan)

    def of_coefficients(self, coefficients, x, y):
        return np.ones(len(x)), np.full(len(x), np.nan)


def source(x: float, y: float, **shape: float) -> Sources:
    columns = {name: np.array([value]) for name, value in shape.items()}
    place = (np.array([0]), np.array(["Moffat"]), np.array([x]), np.array([y]), np.array([FLUX]), JACOBIAN[None])
    return Sources(*place, shape=columns)


def draw(one: Sources, kernel: np.ndarray, size: int, **options: object) -> tuple[RenderReport, np.ndarray]:
    canvas = Canvas.empty((size, size), (0, 0))
    box = Box(-0.5, size - 0.5, -0.5, size - 0.5)
    return render(one, FixedKernelPSF(kernel), canvas, box, AsItIs(), **options), canvas.model


def direct(one: Sources, kernel: np.ndarray, size: int) -> np.ndarray:
    """The closed form times the kernel's transform."""
    beta, radius, q, pa = (one.value(name, 0, np.nan) for name in ("moffat_beta", "half_light_radius", "q", "pa"))
    core, p = radius / np.sqrt(2 ** (1 / (beta - 1)) - 1), np.radians(pa)
    freq = 2 * np.pi * np.fft.fftfreq(size)
    kx, ky = np.meshgrid(freq[: size // 2 + 1], freq)
    kx[:, -1] = np.pi
    east, north = kx / JACOBIAN[0, 0], ky / JACOBIAN[1, 1]
    along, across = east * np.sin(p) + north * np.cos(p), east * np.cos(p) - north * np.sin(p)
    log_k = np.log(np.maximum(core * np.hypot(along / np.sqrt(q), across * np.sqrt(q)), 1e-4))
    grid = np.linspace(log_k.min(), log_k.max(), 4000)
    x = np.exp(grid)
    log = (2 - beta) * np.log(2) - gammaln(beta - 1) + (beta - 1) * grid - x + np.log(kve(beta - 1, x))
    # Where the Bessel function overflows there is little but a Gaussian.
    log = np.where(np.isfinite(log), log, -(x**2) / (4 * max(beta - 2, 1)))
    whole = CubicSpline(grid, np.exp(log))(log_k)
    whole[0, 0] = 1.0
    box = np.zeros((size, size))
    box[: kernel.shape[0], : kernel.shape[1]] = kernel
    middle = kernel.shape[0] // 2
    phase = np.exp(-1j * (kx * (one.x[0] - middle) + ky * (one.y[0] - middle)))
    return np.fft.irfft2(np.fft.rfft2(box) * whole * phase * FLUX, (size, size))


def worst(one: Sources, kernel: np.ndarray, size: int = 1024, **options: object) -> float:
    """Largest error over the pixels that were drawn on, in units of the peak."""
    _, model = draw(one, kernel, size, **options)
    # On a grid twice as wide as what was drawn, so that what is folded in is faint. A kernel between pixels rings.
    least = 256 if options.get("galaxies") == "precise" else 128
    wide = max(max(abs(places.min() - size // 2), abs(places.max() - size // 2)) for places in np.nonzero(model))
    half = min(size // 2, max(least, 1 << int(np.ceil(np.log2(2 * wide)))))
    cut = size // 2 - half
    expected = direct(dataclasses.replace(one, x=one.x - cut, y=one.y - cut), kernel, 2 * half)
    drawn = model[cut : cut + 2 * half, cut : cut + 2 * half]
    return float(np.abs(drawn - expected)[drawn != 0].max() / expected.max())


# -- the profile


@given(st.floats(1.5, 30), st.floats(-2, 1.5))
def test_the_transform_is_that_of_galsim(beta, log_k):
    wanted = galsim.Moffat(beta, scale_radius=1.0).kValue(10**log_k / float(unit(beta)), 0.0).real
    assert transform(beta, np.array([0.0, 10**log_k])) == pytest.approx([1.0, wanted], abs=1e-5)


@pytest.mark.parametrize("beta", [60.0, 100.0])
def test_where_the_bessel_function_overflows_it_is_as_good_as_a_gaussian(beta):
    k = np.array([0.0, 1e-6, 1e-3, 0.03, 0.1])
    x = k / unit(beta)
    np.testing.assert_allclose(transform(beta, k), 1 - x**2 / (4 * (beta - 2)), rtol=0, atol=1e-8)


@pytest.mark.parametrize(("beta", "close"), [(1.5, 2e-4), (2.5, 4e-4), (4.0, 2e-3)])
def test_the_gaussians_are_the_profile(beta, close):
    r = np.geomspace(1.0, 50.0, 40) / unit(beta)
    fluxes = gaussian_fluxes(beta, WIDTHS)
    density = (fluxes / (2 * np.pi * WIDTHS**2) * np.exp(-0.5 * (r[:, None] / WIDTHS) ** 2)).sum(axis=1)
    wanted = (beta - 1) / np.pi * unit(beta) ** 2 * (1 + (r * unit(beta)) ** 2) ** -beta
    np.testing.assert_allclose(density, wanted, rtol=close)
    assert fluxes.sum() == pytest.approx(1.0, abs=close)


@given(st.floats(1.5, 100.0), st.floats(1e-4, 0.1))
def test_reach(beta, missing):
    assert core_radius(np.array(beta)) * np.sqrt(2 ** (1 / (beta - 1)) - 1) == pytest.approx(1.0, rel=1e-9)
    profile = galsim.Moffat(beta, half_light_radius=1.0)
    end = float(moffat_reach(beta, missing)) / profile.scale_radius
    assert (1 + end**2) ** (1 - beta) == pytest.approx(missing, rel=1e-6)
    assert float(moffat_reach(beta, 0.5)) == pytest.approx(1.0, rel=1e-9)


# -- whole images


@pytest.mark.parametrize(("galaxies", "bound"), [("fast", 3e-4), ("precise", 5e-5)])
@settings(max_examples=12, deadline=None)
@given(
    st.floats(1.5, 6.0) | st.floats(6.0, 100.0),
    st.floats(0.05, 2.0),
    st.floats(0.1, 1.0),
    st.floats(0, 180),
    st.tuples(st.floats(-0.5, 0.5), st.floats(-0.5, 0.5)),
    st.floats(-0.2, 0.2),
)
def test_any_profile_is_that_of_a_direct_transform(galaxies, bound, beta, radius, q, pa, where, ellipticity):
    one = source(512 + where[0], 512 + where[1], moffat_beta=beta, half_light_radius=radius, q=q, pa=pa)
    assert worst(one, psf(ellipticity), galaxies=galaxies) < bound


@pytest.mark.parametrize(("galaxies", "bound"), [("fast", 3e-4), ("precise", 5e-5)])
@pytest.mark.parametrize("beta", [1.5, 2.0, 3.0, 4.0, 4.01, 5.0])
@pytest.mark.parametrize(("radius", "q"), [(0.05, 0.9), (0.4, 0.3), (2.0, 1.0)])
def test_one_profile_is_that_of_a_direct_transform(beta, radius, q, galaxies, bound):
    one = source(511.3, 512.81, moffat_beta=beta, half_light_radius=radius, q=q, pa=33.0)
    assert worst(one, psf(), galaxies=galaxies) < bound


@pytest.mark.parametrize(("beta", "radius"), [(2.0, 0.3), (2.5, 1.0), (3.5, 2.0), (8.0, 1.0)])
@pytest.mark.parametrize("tolerance", [1e-2, 1e-3])
def test_no_more_flux_is_left_out_than_allowed(beta, radius, tolerance):
    one = source(1024.3, 1023.8, moffat_beta=beta, half_light_radius=radius)
    report, model = draw(one, psf(), 2048, flux_tolerance=tolerance)
    left = 1 - report.flux_deposited[0] / (FLUX * psf().sum())
    # The wings that the PSF spreads over the edge make it a little more.
    assert -1e-4 < left < 1.15 * tolerance
    assert report.flux_deposited[0] == pytest.approx(model.sum(dtype=float), rel=1e-5)
    assert not report.flags[0]


def test_a_stamp_that_cannot_hold_the_wings_says_so():
    report, _ = draw(source(200.0, 200.0, moffat_beta=1.5, half_light_radius=2.0), psf(), 400)
    assert report.flags[0] == Flag.STAMP_TRUNCATED | Flag.TRUNCATED_BY_EDGE


def test_galsim_draws_the_same():
    one = source(150.3, 149.8, moffat_beta=3.0, half_light_radius=0.7, q=0.5, pa=70.0)
    (report, native), (other, by_galsim) = (draw(one, psf(), 300, galaxies=e) for e in ("precise", "galsim"))
    assert report.stamp_size[0] == other.stamp_size[0]
    assert np.abs(native - by_galsim).max() < 1e-3 * native.max()


@pytest.mark.parametrize(("shape", "reason"), [({}, "moffat_beta"), ({"moffat_beta": 3.0}, "half_light_radius|size")])
def test_what_is_missing_is_named(shape, reason):
    whole = {"moffat_beta": np.nan, "half_light_radius": np.nan if shape else 0.5}
    report, model = draw(source(50.0, 50.0, **(whole | shape)), psf(), 100)
    assert any(word in report.messages[0] for word in reason.split("|"))
    assert not model.any()
