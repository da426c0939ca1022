"""Matching kernels and the PSFs of templates: closed forms, direct convolution, and what must be refused."""

from __future__ import annotations

from typing import Any

import galsim
import numpy as np
import pytest
from scipy import signal

from skygraft.errors import ConfigError, PsfError
from skygraft.psf import (
    Box,
    GaussianPSF,
    MatchedPSF,
    MatchingKernel,
    TemplatePSF,
    adaptive_moments,
    check_psf,
    gaussian_of_moments,
    reshaped,
)

RNG = np.random.default_rng(8)
BASIS = RNG.normal(size=(2, 5, 4)) + 2
X, Y = np.array([3.0, 40.5, 77.2]), np.array([10.0, 20.5, 5.1])
HALVES = [
    np.array([[-1.0, -1], [50, -1], [50, 60], [-1, 60]]),
    np.array([[30.0, -1], [90, -1], [90, 60], [30, 60]]),
]


def constant(*, x: Any, y: Any) -> Any:
    return np.ones(np.broadcast(x, y).shape)


def slope(*, x: Any, y: Any) -> Any:
    return 0.01 * x - 0.02 * y


def kernel() -> MatchingKernel:
    return MatchingKernel(BASIS, (1, 3), [constant, slope], valid_box=Box(0, 80, 0, 40))


def test_the_kernel_is_put_about_its_origin():
    """Column 1 and row 3 of 4 x 5 images: two columns before it and one row behind it are added, of zeros."""
    found = kernel().kernels(X, Y)
    assert found.shape == (3, 7, 5)
    for one, x, y in zip(found, X, Y, strict=True):
        np.testing.assert_allclose(one[0:5, 1:5], BASIS[0] + (0.01 * x - 0.02 * y) * BASIS[1], rtol=1e-14)
        assert (one[5:] == 0).all()
        assert (one[:, 0] == 0).all()
        np.testing.assert_allclose(kernel().sums(x, y), one.sum(), rtol=1e-13)


def test_a_matched_psf_is_the_convolution():
    psf = GaussianPSF(sigma=1.4)
    matched = MatchedPSF(kernel(), psf)
    for one, x, y in zip(matched.kernels(X, Y), X, Y, strict=True):
        expected = signal.convolve(kernel().kernels(x, y)[0], psf.kernels(x, y)[0], method="direct")
        np.testing.assert_allclose(one, expected, atol=1e-13)
    np.testing.assert_allclose(matched.flux_outside(X, Y), psf.flux_outside(X, Y) * kernel().sums(X, Y))
    assert matched.valid_box == Box(0, 80, 0, 40)
    check_psf(matched, X, Y)


def test_a_stitched_template_has_the_psf_of_each_part_and_their_mean_where_two_overlap():
    kernels = [gaussian_of_moments(2.0, 2.0, 0.0), gaussian_of_moments(5.0, 3.0, 1.0)]
    psf = TemplatePSF(HALVES, kernels)
    at = psf.kernels(X, Y)
    half = [n // 2 for n in psf.shape]
    padded = [np.pad(k, [(h - n // 2,) * 2 for h, n in zip(half, k.shape, strict=True)]) for k in kernels]
    np.testing.assert_array_equal(at[0], padded[0])
    np.testing.assert_allclose(at[1], 0.5 * (padded[0] + padded[1]), rtol=1e-15)
    np.testing.assert_array_equal(at[2], padded[1])
    check_psf(psf, X, Y)
    check_psf(MatchedPSF(kernel(), psf), X, Y)
    assert psf.defined([10.0, 200.0], [10.0, 10.0]).tolist() == [True, False]
    with pytest.raises(PsfError, match=r"no template covers position \(200.0, 10.0\)"):
        psf.kernels([10.0, 200.0], [10.0, 10.0])


@pytest.mark.parametrize("moments", [(2.5, 2.5, 0.0), (4.0, 3.0, 0.8), (3.0, 6.0, -1.5)])
def test_a_gaussian_has_the_moments_asked_for(moments):
    found = gaussian_of_moments(*moments)
    y, x = np.indices(found.shape) - np.array(found.shape)[:, None, None] // 2
    assert found.sum() == pytest.approx(1, abs=1e-14)
    assert [(found * m).sum() for m in (x * x, y * y, x * y)] == pytest.approx(moments, abs=1e-6)


@pytest.mark.parametrize(
    "moments", [(0.0, 1.0, 0.0), (1.0, 1.0, 1.0), (-1.0, -1.0, 0.0), (np.nan, 1.0, 0.0), (1e9, 1.0, 0.0), (np.inf,) * 3]
)
def test_moments_that_no_psf_has(moments):
    with pytest.raises(PsfError, match="are not those of a PSF"):
        gaussian_of_moments(*moments)


def galsim_kernel(profile: galsim.GSObject, n: int = 61) -> np.ndarray:
    image = profile.drawImage(nx=n, ny=n, scale=1.0, method="no_pixel", dtype=float).array
    return np.asarray(image / image.sum())


SHAPES = [
    galsim.Gaussian(sigma=2.2).shear(g1=0.05, g2=-0.1),
    galsim.Moffat(beta=3.0, fwhm=5.0).shear(g1=0.1, g2=0.05),
    galsim.Moffat(beta=2.5, fwhm=4.0),
]


@pytest.mark.parametrize("profile", SHAPES)
def test_adaptive_moments_are_those_of_galsim(profile):
    """Of Hirata & Seljak's code, which takes sizes from determinants, and shapes as distortions."""
    kernel = galsim_kernel(profile)
    xx, yy, xy = adaptive_moments(kernel)
    found = galsim.hsm.FindAdaptiveMom(galsim.ImageD(kernel))
    assert (xx * yy - xy**2) ** 0.25 == pytest.approx(found.moments_sigma, rel=1e-4)
    assert (xx - yy) / (xx + yy) == pytest.approx(found.observed_e1, abs=1e-4)
    assert 2 * xy / (xx + yy) == pytest.approx(found.observed_e2, abs=1e-4)


@pytest.mark.parametrize("factor", [0.85, 1.3])
@pytest.mark.parametrize("profile", SHAPES)
def test_a_stretched_kernel_is_the_profile_stretched(profile, factor):
    kernel, matrix = galsim_kernel(profile), np.array([[1.0, 0.1], [0.1, 0.9]]) * factor
    xx, yy, xy = adaptive_moments(kernel)
    own = np.array([[xx, xy], [xy, yy]])
    moments = matrix @ own @ matrix.T
    found = reshaped(kernel, (moments[0, 0], moments[1, 1], moments[0, 1]))
    assert found.sum() == pytest.approx(1, abs=1e-12)
    np.testing.assert_allclose(
        adaptive_moments(found), (moments[0, 0], moments[1, 1], moments[0, 1]), rtol=1e-4, atol=1e-4
    )
    # of all stretches to these moments, the one that does not turn
    values, vectors = np.linalg.eigh(own)
    back = vectors @ np.diag(values**-0.5) @ vectors.T
    values, vectors = np.linalg.eigh(moments)
    forth = vectors @ np.diag(values**0.5) @ vectors.T
    expected = galsim_kernel(profile.transform(*(forth @ back).ravel()), found.shape[0])
    inner = np.s_[found.shape[0] // 2 - 12 : found.shape[0] // 2 + 13]
    np.testing.assert_allclose(found[inner, inner] / found.max(), expected[inner, inner] / expected.max(), atol=3e-4)


def test_kernels_without_moments():
    for kernel in (np.zeros((9, 9)), -np.ones((9, 9)), np.eye(9)[::-1] - np.eye(9)):
        with pytest.raises(PsfError, match="no adaptive second moments"):
            adaptive_moments(kernel)
    with pytest.raises(PsfError, match="not those of a PSF"):
        reshaped(galsim_kernel(SHAPES[0]), (1.0, 1.0, 2.0))


def test_what_does_not_go_together():
    with pytest.raises(ConfigError, match="with 1 functions"):
        MatchingKernel(BASIS, (1, 3), [constant])
    with pytest.raises(ConfigError, match=r"centre \(4, 3\) of the matching kernel is not on its images"):
        MatchingKernel(BASIS, (4, 3), [constant, slope])
    with pytest.raises(PsfError, match="not finite"):
        MatchingKernel(np.where(BASIS > 2, np.nan, BASIS), (1, 3), [constant, slope])
    with pytest.raises(PsfError, match=r"no value at position \(3.0, 10.0\)"):
        MatchingKernel(BASIS, (1, 3), [constant, lambda x, y: np.full(len(x), np.nan)]).coefficients(X, Y)
    broken = MatchingKernel(BASIS, (1, 3), [constant, lambda x, y: x[99] * y])
    with pytest.raises(PsfError, match="cannot be evaluated: IndexError"):
        broken.coefficients(X, Y)
    assert broken.median_sum(X, Y) is None
    with pytest.raises(PsfError, match="no template has a PSF"):
        TemplatePSF([], [])
