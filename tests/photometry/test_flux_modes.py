"""Kernel scales: the table of what a zeropoint means, in closed form."""

from __future__ import annotations

import numpy as np
import pytest

from skygraft.errors import ConfigError, PsfError, UnknownApertureError
from skygraft.photometry import (
    FLUX_MODES,
    PSF_MODEL,
    TOTAL,
    BasisScale,
    CalibrationAperture,
    aperture_flux,
    enclosed_flux,
    kernel_scale,
    psf_sum_offset,
)

PIXEL = 0.168  # arcsec, HSC
APERTURE = CalibrationAperture(12.0, 12 * PIXEL)


def moffat(fwhm_arcsec, beta=2.5, half=60):
    """Samples of a Moffat profile of unit flux in an infinite plane, and its flux inside a radius (pixels)."""
    alpha = fwhm_arcsec / PIXEL / 2 / np.sqrt(2 ** (1 / beta) - 1)
    yy, xx = np.mgrid[-half : half + 1, -half : half + 1]
    kernel = (beta - 1) / (np.pi * alpha**2) * (1 + (xx**2 + yy**2) / alpha**2) ** -beta
    return kernel, lambda r: 1 - (1 + (r / alpha) ** 2) ** (1 - beta)


@pytest.mark.parametrize(("fwhm", "held", "magnitudes"), [(0.6, 0.9835, 0.0181), (1.0, 0.9351, 0.0728)])
def test_the_error_of_ignoring_the_aperture(fwhm, held, magnitudes):
    kernel, inside = moffat(fwhm)
    assert inside(12.0) == pytest.approx(held, abs=5e-5)
    assert -2.5 * np.log10(inside(12.0)) == pytest.approx(magnitudes, abs=6e-5)
    tied = kernel_scale("calibrated", APERTURE, kernel[None])
    # Point samples of a Moffat are a little aliased at FWHM 3.6 pixels
    assert tied.aperture_flux[0] == pytest.approx(inside(12.0), abs=1e-4)
    assert tied.scale[0] == pytest.approx(1 / inside(12.0), abs=1.1e-4)
    # The star holds its calibrated flux inside the aperture, measured the same way or by the exact overlap
    star = 1000.0 * tied.scale[0] * kernel
    assert aperture_flux(star, 60.0, 60.0, 12.0)[0] == pytest.approx(1000.0, rel=1e-12)
    assert aperture_flux(star, 60.0, 60.0, 12.0, method="exact")[0] == pytest.approx(1000.0, rel=5e-4)


def test_every_line_of_the_table():
    kernel, inside = moffat(1.0, half=25)
    outside = 1.0 - kernel.sum()
    assert 0.003 < outside < 0.02
    kernels = 1.05 * np.stack([kernel, kernel[::-1]])  # as PSFEx: the sum is not one
    beyond = 1.05 * outside

    def scale(*args, **kwargs):
        return kernel_scale(*args, kernels, beyond, **kwargs).scale

    total, summed = 1 / 1.05, 1 / (1.05 * (1 - outside))
    np.testing.assert_allclose(scale("total", None), total, rtol=1e-12)
    np.testing.assert_allclose(scale("calibrated", TOTAL), total, rtol=1e-12)
    np.testing.assert_allclose(scale("psf_sum", None), summed, rtol=1e-12)
    np.testing.assert_allclose(scale("calibrated", PSF_MODEL), summed, rtol=1e-12)
    np.testing.assert_allclose(scale("calibrated", APERTURE), 1 / (1.05 * inside(12)), rtol=1e-4)
    np.testing.assert_allclose(scale("aperture", APERTURE, radius=6.0), 1 / (1.05 * inside(6)), rtol=1e-3)
    # An explicit mode does not look at the image's own reference
    np.testing.assert_array_equal(scale("psf_sum", APERTURE), scale("psf_sum", None))
    np.testing.assert_array_equal(scale("aperture", PSF_MODEL, radius=6.0), scale("aperture", None, radius=6.0))


@pytest.mark.parametrize("mode", FLUX_MODES)
def test_what_is_recorded(mode):
    kernel, _ = moffat(0.6)
    radius = 9.0 if mode == "aperture" else None
    made = kernel_scale(mode, APERTURE, kernel[None], [0.01], radius=radius)
    want = 9.0 if mode == "aperture" else 12.0
    assert made.radius_pixels == want
    assert made.aperture_flux[0] == enclosed_flux(kernel, want)[0]
    assert made.kernel_sum[0] == pytest.approx(kernel.sum())
    assert made.model_sum[0] == pytest.approx(kernel.sum() + 0.01)
    assert made.aperture_fraction[0] == pytest.approx(made.aperture_flux[0] / (kernel.sum() + 0.01))
    assert made.holds_aperture
    assert not kernel_scale("calibrated", APERTURE, kernel[None, 50:71, 50:71]).holds_aperture
    assert np.isnan(kernel_scale("psf_sum", PSF_MODEL, kernel[None]).aperture_fraction).all()


def test_negative_wings_hold_more_than_everything():
    kernel, _ = moffat(0.6)
    yy, xx = np.mgrid[-60:61, -60:61]
    ring = (np.hypot(xx, yy) > 20) & (np.hypot(xx, yy) < 40)
    kernel = (kernel - 2e-5 * ring) / (kernel - 2e-5 * ring).sum()
    made = kernel_scale("calibrated", APERTURE, kernel[None])
    assert made.aperture_fraction[0] > 1.005
    assert made.scale[0] < 1
    assert aperture_flux(made.scale[0] * kernel, 60, 60, 12.0)[0] == pytest.approx(1.0, rel=1e-12)


@pytest.mark.parametrize("total", [1.0, 1.08, 0.5])
def test_the_fraction_does_not_know_what_the_model_sums_to(total):
    kernel, inside = moffat(1.0, half=25)
    outside = 1.0 - kernel.sum()
    made = kernel_scale("calibrated", APERTURE, total * kernel[None], total * outside)
    assert made.aperture_fraction[0] == pytest.approx(inside(12.0), abs=1e-4)
    basis = BasisScale("calibrated", APERTURE, kernel[None])(np.array([[total]]), total * outside)
    assert basis.aperture_fraction[0] == pytest.approx(inside(12.0), abs=1e-4)


@pytest.mark.parametrize(("reference", "total"), [(APERTURE, 1.0), (APERTURE, 1.08), (PSF_MODEL, 1.08), (TOTAL, 1.08)])
def test_what_a_star_measures_that_was_scaled_to_unit_sum(reference, total):
    """Measured: the flux inside the aperture, the amplitude of a fit, or everything, of a kernel of unit sum."""
    kernel, _ = moffat(1.0, half=25)
    outside = 1.0 - kernel.sum()
    star = kernel / kernel.sum()
    measured = {
        APERTURE: aperture_flux(star, 25.0, 25.0, 12.0)[0],
        PSF_MODEL: 1.0,
        TOTAL: star.sum() + outside / kernel.sum(),
    }[reference]
    offset = psf_sum_offset(reference, total * kernel[None], total * outside)
    assert offset[0] == pytest.approx(-2.5 * np.log10(measured), abs=1e-12)
    assert np.isnan(psf_sum_offset(reference, -kernel[None])).all()


@pytest.mark.data
def test_the_cfht_star_holds_its_flux(data_dir):
    kernel = np.load(data_dir / "cfht_849375" / "truth_849375_psf3_kernel.npy")
    made = kernel_scale("calibrated", APERTURE, kernel[None])
    assert made.aperture_fraction[0] == pytest.approx(0.9729, abs=1e-4)
    # Left uncorrected the star would be 3 per cent faint
    assert -2.5 * np.log10(made.aperture_fraction[0]) == pytest.approx(0.0298, abs=2e-4)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1.0, 0.0])
@pytest.mark.parametrize(
    ("mode", "reference", "radius"),
    [("calibrated", APERTURE, None), ("aperture", None, 12.0), ("psf_sum", None, None), ("total", None, None)],
)
def test_a_kernel_without_flux_is_refused(mode, reference, radius, bad):
    good, _ = moffat(1.0, half=20)
    kernels = np.stack([good, bad * good, good])
    with pytest.raises(PsfError, match="position 1 of 3"):
        kernel_scale(mode, reference, kernels, radius=radius)
    made = kernel_scale(mode, reference, kernels, radius=radius, invalid="nan")
    np.testing.assert_array_equal(np.isfinite(made.scale), [True, False, True])


def test_what_is_asked_for_must_be_complete():
    kernel = np.ones((1, 3, 3))
    with pytest.raises(ConfigError, match="psf_sum, total"):
        kernel_scale("psf", None, kernel)
    with pytest.raises(ConfigError, match="needs a radius"):
        kernel_scale("aperture", APERTURE, kernel)
    with pytest.raises(ConfigError, match="takes no radius"):
        kernel_scale("calibrated", APERTURE, kernel, radius=3.0)
    with pytest.raises(UnknownApertureError, match="aperture='12 pix'"):
        kernel_scale("calibrated", None, kernel)
    with pytest.raises(PsfError, match="shape"):
        kernel_scale("psf_sum", None, np.ones(3))


@pytest.mark.parametrize(
    ("mode", "reference", "radius", "held"),
    [
        ("calibrated", APERTURE, None, "inside"),
        ("aperture", TOTAL, 9.0, "inside"),
        ("calibrated", PSF_MODEL, None, "sum"),
        ("psf_sum", APERTURE, None, "sum"),
        ("total", None, None, "all"),
    ],
)
def test_a_sum_of_basis_images_is_tied_by_its_coefficients(mode, reference, radius, held):
    (narrow, inside_narrow), (wide, inside_wide) = moffat(0.8, half=40), moffat(1.2, half=40)
    coefficients = np.array([[1.0, 0.0], [0.3, 0.75], [-0.2, 1.1]])
    outside = coefficients @ np.array([1 - narrow.sum(), 1 - wide.sum()])
    made = BasisScale(mode, reference, np.stack([narrow, wide]), radius=radius)(coefficients, outside)
    r = radius or 12.0
    sums = coefficients @ np.array([narrow.sum(), wide.sum()])
    inside = coefficients @ np.array([inside_narrow(r), inside_wide(r)])
    want = {"inside": inside, "sum": sums, "all": coefficients.sum(axis=1)}[held]
    np.testing.assert_allclose(made.scale, 1 / want, rtol=2e-4 if held == "inside" else 1e-12)
    np.testing.assert_allclose(made.kernel_sum, sums, rtol=1e-12)
    if reference is APERTURE or radius:
        np.testing.assert_allclose(made.aperture_flux, inside, rtol=2e-4)
        assert made.radius_pixels == r
    else:
        assert np.isnan(made.aperture_fraction).all()


@pytest.mark.parametrize("mode", ["calibrated", "psf_sum", "total"])
def test_coefficients_without_flux_are_refused(mode):
    kernel, _ = moffat(1.0, half=20)
    tie = BasisScale(mode, APERTURE, kernel[None])
    coefficients = np.array([[1.0], [0.0], [1.0]])
    with pytest.raises(PsfError, match="position 1 of 3"):
        tie(coefficients)
    np.testing.assert_array_equal(np.isfinite(tie(coefficients, invalid="nan").scale), [True, False, True])
    assert tie(np.empty((0, 1))).scale.shape == (0,)


def test_a_basis_is_tied_only_to_what_is_known():
    with pytest.raises(UnknownApertureError, match="aperture='12 pix'"):
        BasisScale("calibrated", None, np.ones((1, 3, 3)))
    with pytest.raises(ConfigError, match="needs a radius"):
        BasisScale("aperture", APERTURE, np.ones((1, 3, 3)))
    assert not BasisScale("calibrated", APERTURE, np.ones((1, 3, 3)))(np.ones((1, 1))).holds_aperture
