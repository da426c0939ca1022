"""Sums of basis images in single precision, against exact arithmetic."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skygraft.errors import ConfigError
from skygraft.psf import GaussianPSF, SinglePrecisionBasis
from skygraft.psf.linear import combine, orthonormal


def gaussians(*sigmas: float) -> np.ndarray:
    return np.array([GaussianPSF(sigma, shape=(21, 21)).kernels(0, 0)[0] for sigma in sigmas])


@given(st.floats(1.0, 3.0), st.floats(1e-3, 0.5), st.floats(-1e3, 1e3))
def test_terms_much_larger_than_the_kernel_do_not_spoil_it(sigma: float, difference: float, large: float) -> None:
    # nearly the same images, whose large weights cancel
    basis = gaussians(sigma, sigma + difference, sigma + 2 * difference)
    coefficients = np.array([[1.0 + large, -2 * large, large]])
    kernel = SinglePrecisionBasis(basis).kernels(coefficients)[0]
    exact = np.array(
        [float(sum(Fraction(c) * Fraction(v) for c, v in zip(coefficients[0], pixel, strict=True)))
         for pixel in basis.reshape(3, -1).T]
    ).reshape(21, 21)  # fmt: skip
    assert kernel.dtype == np.float32
    assert np.abs(kernel - exact).max() < 1e-6 * np.abs(exact).max()


@given(st.integers(1, 23), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_a_sum_is_the_same_in_any_batch(terms: int, positions: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    basis, coefficients = rng.normal(size=(terms, 31, 19)), rng.normal(size=(positions, terms))
    single = SinglePrecisionBasis(basis)
    together = single.kernels(coefficients)
    np.testing.assert_array_equal(together, np.concatenate([single.kernels(c[None]) for c in coefficients]))
    double = combine(coefficients, basis)
    np.testing.assert_array_equal(double, np.concatenate([combine(c[None], basis) for c in coefficients]))
    expected = np.einsum("nb,bij->nij", coefficients, basis)
    np.testing.assert_allclose(double, expected, rtol=0, atol=1e-14 * np.abs(basis).sum())
    np.testing.assert_allclose(together, expected, rtol=0, atol=1e-6 * np.sqrt((expected**2).sum(axis=(1, 2))).max())


def test_kernels_go_where_they_are_wanted() -> None:
    single, coefficients = SinglePrecisionBasis(gaussians(1.0, 2.0)), np.array([[0.5, 0.5], [1.0, -0.2], [0.0, 3.0]])
    room = np.full((5, 21, 21), np.nan, np.float32)
    assert single.kernels(coefficients, room[1:4]).base is room
    expected = np.einsum("nb,bij->nij", coefficients, gaussians(1.0, 2.0))
    np.testing.assert_allclose(room[1:4], expected, rtol=0, atol=1e-6)
    assert np.isnan(room[[0, 4]]).all()
    for wrong in (room, room[1:4].astype(float), room[1:4].transpose(0, 2, 1)):
        with pytest.raises(ConfigError):
            single.kernels(coefficients, wrong)


def test_orthonormal_images_span_the_basis_and_no_more() -> None:
    basis = np.concatenate([gaussians(1.0, 2.0, 2.0, 3.0), np.zeros((1, 21, 21))])
    rotation, images = orthonormal(basis)
    assert rotation.shape == (5, 3)
    np.testing.assert_allclose(np.einsum("qij,rij->qr", images, images), np.eye(3), atol=1e-14)
    np.testing.assert_allclose(np.einsum("bq,qij->bij", rotation, images), basis, atol=1e-15)
    nothing = SinglePrecisionBasis(np.zeros((2, 3, 3))).kernels(np.ones((4, 2)))
    assert nothing.shape == (4, 3, 3)
    assert not nothing.any()
