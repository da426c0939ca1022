"""Stars: shifted kernels against closed forms, and what lands on the canvas."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oracles import band_limited_aperture_flux
from skygraft.render.canvas import Canvas
from skygraft.render.shift import fit_taps, fourier_shift
from skygraft.render.stars import add_stars, add_stars_by_taps, shifted_kernel

HALF = 24


def moffat(fwhm: float, beta: float, dx: float = 0.0, dy: float = 0.0, half: int = HALF, oversample: int = 9):
    """Moffat integrated over pixels by brute force, its centre moved by (dx, dy)."""
    sub = (np.arange(oversample) + 0.5) / oversample - 0.5
    axis = (np.arange(-half, half + 1)[:, None] + sub[None, :]).ravel()
    alpha = fwhm / 2 / np.sqrt(2 ** (1 / beta) - 1)
    r2 = (axis[:, None] - dy) ** 2 + (axis[None, :] - dx) ** 2
    fine = (beta - 1) / (np.pi * alpha**2) * (1 + r2 / alpha**2) ** -beta
    n = 2 * half + 1
    return fine.reshape(n, oversample, n, oversample).mean(axis=(1, 3))


@settings(max_examples=25, deadline=None)
@given(st.floats(3.0, 6.0), st.floats(2.2, 4.5), st.floats(0, 1), st.floats(0, 1))
def test_a_shifted_kernel_is_the_profile_drawn_there(fwhm, beta, fx, fy):
    kernel = moffat(fwhm, beta)
    taps = fit_taps(kernel[None])
    shifted = shifted_kernel(kernel, fx, fy, taps)
    inside = shifted[4 + 6 : -5 - 6, 4 + 6 : -5 - 6]  # away from the kernel's own edge, where it simply ends
    expected = moffat(fwhm, beta, fx, fy)[6:-6, 6:-6]
    assert np.abs(inside - expected).max() < 1.5e-3 * kernel.max()
    assert shifted.sum() == pytest.approx(kernel.sum(), rel=1e-12)


def test_no_shift_changes_nothing():
    kernel = moffat(3.5, 3.0)
    shifted = shifted_kernel(kernel, 0.0, 0.0, fit_taps(kernel[None]))
    np.testing.assert_allclose(shifted[4:-5, 4:-5], kernel, atol=1e-9 * kernel.max())


@settings(max_examples=25, deadline=None)
@given(st.floats(0, 1), st.floats(0, 1))
def test_the_centroid_moves_by_the_shift(fx, fy):
    kernel = moffat(3.0, 4.5)
    shifted = shifted_kernel(kernel, fx, fy, fit_taps(kernel[None]))
    axis = np.arange(-HALF - 4, HALF + 6)
    assert (shifted.sum(axis=0) * axis).sum() / shifted.sum() == pytest.approx(fx, abs=1e-3)
    assert (shifted.sum(axis=1) * axis).sum() / shifted.sum() == pytest.approx(fy, abs=1e-3)


def adders(kernel):
    taps = fit_taps(kernel[None])
    return {"fourier": add_stars, "taps": lambda *args: add_stars_by_taps(*args, taps)}


@pytest.mark.parametrize("how", ["fourier", "taps"])
def test_stars_land_where_they_belong_and_are_cut_at_the_edge(how):
    kernel = moffat(4.0, 3.0)
    add = adders(kernel)[how]
    canvas = Canvas.empty((101, 121), (1000, 2000))
    x, y = np.array([1060.3, 999.2, 5000.0]), np.array([2050.8, 2000.1, 5000.0])
    flux = np.array([100.0, 50.0, 1.0])
    deposited, clipped = add(canvas, np.repeat(kernel[None], 3, axis=0), x, y, flux)
    assert deposited[0] == pytest.approx(100 * kernel.sum(), rel=1e-7)
    assert 0.2 * 50 < deposited[1] < 0.5 * 50
    assert deposited[2] == 0
    assert clipped.tolist() == [False, True, True]
    assert canvas.model.sum(dtype=float) == pytest.approx(deposited.sum(), rel=1e-5)
    j, i = np.unravel_index(np.argmax(canvas.model), canvas.model.shape)
    assert (i, j) == (60, 51)


@pytest.mark.parametrize("how", ["fourier", "taps"])
def test_a_pixel_depends_only_on_the_stars_that_touch_it(how):
    rng = np.random.default_rng(1)
    kernel = moffat(4.0, 3.0, half=10)
    add = adders(kernel)[how]
    x, y, flux = rng.uniform(0, 300, 60), rng.uniform(0, 100, 60), rng.uniform(1, 100, 60)

    def draw(keep):
        canvas = Canvas.empty((100, 300), (0, 0))
        add(canvas, np.repeat(kernel[None], keep.sum(), axis=0), x[keep], y[keep], flux[keep])
        return canvas.model

    np.testing.assert_array_equal(draw(np.ones(60, bool))[:, :100], draw(x < 130)[:, :100])


@settings(max_examples=20, deadline=None)
@given(st.floats(-0.5, 0.5), st.floats(-0.5, 0.5), st.floats(2.5, 6.0), st.floats(4.0, 12.0))
def test_an_exact_shift_keeps_the_flux_inside_an_aperture_that_moves_along(fx, fy, fwhm, radius):
    kernel = moffat(fwhm, 3.0)
    shifted, margin = fourier_shift(kernel[None], np.array([fx]), np.array([fy]))
    wide = np.pad(shifted[0], 30)
    centre = HALF + margin + 30
    before = band_limited_aperture_flux(np.pad(kernel, 30 + margin), centre, centre, radius, half=centre)
    after = band_limited_aperture_flux(wide, centre + fx, centre + fy, radius, half=centre)
    # exact but for what rings past the margin: 2e-5 at 2.5 pixels FWHM, where pixels hardly sample the profile
    assert after == pytest.approx(before, rel=5e-5)
