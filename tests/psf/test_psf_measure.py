"""Widths of kernels against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq

from skygraft.errors import ConfigError
from skygraft.jit import Tally
from skygraft.psf import (
    PSF,
    FixedKernelPSF,
    FwhmMeter,
    GaussianPSF,
    KernelBasisPSF,
    MoffatPSF,
    kernel_fwhm,
    measure,
    widths,
)
from skygraft.psf.linear import combine


def gaussian(fwhm: float, q: float, angle: float, dx: float, dy: float, n: int) -> np.ndarray:
    sigma = fwhm / 2.3548200450309493
    y, x = np.mgrid[-(n // 2) : n // 2 + 1, -(n // 2) : n // 2 + 1]
    u = (x - dx) * np.cos(angle) + (y - dy) * np.sin(angle)
    v = -(x - dx) * np.sin(angle) + (y - dy) * np.cos(angle)
    return np.exp(-0.5 * (u**2 / (sigma**2 / q) + v**2 / (sigma**2 * q)))


@given(st.floats(2.0, 10.0), st.sampled_from([15, 31, 41, 63]))
def test_gaussians(fwhm: float, n: int) -> None:
    assert kernel_fwhm(GaussianPSF(fwhm=fwhm, shape=(n, n)).kernels(0, 0))[0] == pytest.approx(fwhm, rel=0.005)


@given(st.floats(2.0, 10.0), st.floats(2.5, 6.0))
def test_moffats(fwhm: float, beta: float) -> None:
    kernels = MoffatPSF(fwhm, beta, shape=(41, 41), pixel_integrated=False).kernels(0, 0)
    assert kernel_fwhm(kernels)[0] == pytest.approx(fwhm, rel=0.01)
    if fwhm >= 4:
        assert kernel_fwhm(kernels)[0] == pytest.approx(fwhm, rel=0.0005)


@given(
    st.floats(4.0, 9.0), st.floats(0.5, 1.0), st.floats(0, 3.2), st.floats(-0.5, 0.5), st.floats(-0.5, 0.5),
    st.floats(1e-3, 1e5),
)  # fmt: skip
def test_elongated_and_off_centre(fwhm: float, q: float, angle: float, dx: float, dy: float, flux: float) -> None:
    # the circle of the same area: the geometric mean of the axes
    kernel = flux * gaussian(fwhm, q, angle, dx, dy, 61)
    assert kernel_fwhm(kernel[None])[0] == pytest.approx(fwhm, rel=0.01)


def test_wings_and_noise_do_not_matter() -> None:
    rng = np.random.default_rng(0)
    kernel = gaussian(4.0, 1.0, 0, 0, 0, 41)
    noisy = kernel + rng.normal(scale=3e-3, size=(200, 41, 41))
    assert np.abs(kernel_fwhm(noisy) / 4.0 - 1).max() < 0.02
    assert np.mean(kernel_fwhm(noisy)) == pytest.approx(4.0, rel=0.003)


def test_batch_is_its_singles() -> None:
    kernels = np.concatenate(
        [GaussianPSF(fwhm=f, shape=(41, 41)).kernels(0, 0) for f in (2.0, 3.3, 9.0)]
        + [MoffatPSF(3.0, shape=(41, 41)).kernels(0, 0)]
    )
    together = kernel_fwhm(kernels)
    assert together.tolist() == [kernel_fwhm(k[None])[0] for k in kernels]
    assert kernel_fwhm(kernels.astype(np.float32)) == pytest.approx(together, rel=1e-6)


def test_a_model_without_any_width_has_none() -> None:
    flat = FixedKernelPSF(np.ones((5, 5)))
    assert np.isnan(FwhmMeter(flat, [0.0, 9.0], [0.0, 9.0])(flat.coefficients([0.0, 9.0], [0.0, 9.0]))).all()


@given(st.integers(0, 2**32 - 1), st.sampled_from([(1, 1), (3, 2), (5, 9), (25, 31), (41, 41)]))
@settings(max_examples=25)
def test_few_and_many_kernels_have_the_same_widths_to_the_last_bit(seed: int, shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(seed)
    whole = [
        gaussian(rng.uniform(1, 9), rng.uniform(0.4, 1), rng.uniform(0, 3), *rng.uniform(-9, 9, 2), 41)
        for _ in range(20)
    ]
    kernels = np.array(whole)[:, : shape[0], : shape[1]] * 10.0 ** rng.uniform(-5, 5, (20, 1, 1))
    kernels += rng.normal(scale=0.003, size=kernels.shape) * np.abs(kernels).max(axis=(1, 2), keepdims=True)
    kernels[0, 0, 0], kernels[1] = np.nan, -1.0
    few, many = widths._widths(kernels), widths._many_widths(kernels)
    assert few.tobytes() == many.tobytes()
    assert np.isfinite(few[2:]).any() or min(shape) < 25


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=25)
def test_few_and_many_sums_have_the_same_widths_to_the_last_bit(seed: int) -> None:
    rng = np.random.default_rng(seed)
    parts = [gaussian(w, q, rng.uniform(0, 3), 0, 0, 31) for w, q in ((3.0, 0.9), (4.0, 0.7), (3.5, 1.0))]
    meter = FwhmMeter(stack_of(parts), 0.0, 0.0)
    values = combine(rng.normal(0.5, 0.6, (60, 3)), meter._values)
    few, many = (
        work(values, measure._RADII * meter._radius) for work in (measure._contour_widths, measure._many_contour_widths)
    )
    assert few.tobytes() == many.tobytes()
    assert 0 < np.isfinite(few).sum() < len(few)


@pytest.mark.parametrize("shape", [(1, 1), (3, 2), (17, 20), (41, 41)])
def test_a_basis_is_evaluated_in_numpy_and_in_loops_to_the_same_last_bit(monkeypatch, shape: tuple[int, int]) -> None:
    basis = np.random.default_rng(1).normal(size=(5, *shape))
    found = []
    for most in (10, 0):
        monkeypatch.setattr(measure, "kernels_measured", Tally(most))
        found.append(measure._core_values(basis, 0.3 * shape[0], 0.6 * shape[1], 2.1))
    assert found[0].tobytes() == found[1].tobytes()
    assert np.isfinite(found[0]).all()


def test_a_process_that_has_measured_many_goes_on_with_compiled_loops(monkeypatch) -> None:
    monkeypatch.setattr(widths, "kernels_measured", Tally(3))
    monkeypatch.setattr(widths, "_many_widths", lambda kernels: np.full(len(kernels), -1.0))
    kernels = GaussianPSF(fwhm=3.0, shape=(15, 15)).kernels([0.0] * 3, [0.0] * 3)
    assert [float(kernel_fwhm(kernels)[0]) < 0 for _ in range(3)] == [False, True, True]


def test_no_width() -> None:
    cut = GaussianPSF(fwhm=8.0, shape=(5, 5)).kernels(0, 0)
    bad = gaussian(3.0, 1.0, 0, 0, 0, 5)[None].copy()
    bad[0, 0, 0] = np.nan
    stack = np.concatenate([cut, np.zeros((1, 5, 5)), -cut, bad, np.ones((1, 5, 5))])
    assert np.isnan(kernel_fwhm(stack)).all()
    assert kernel_fwhm(np.zeros((0, 5, 5))).shape == (0,)
    assert np.isnan(kernel_fwhm(np.ones((1, 1, 1)))).all()
    with pytest.raises(ConfigError):
        kernel_fwhm(np.ones((5, 5)))


def stack_of(kernels: list[np.ndarray]) -> KernelBasisPSF:
    """A PSF whose kernels are any sums of these, and the last of them everywhere."""
    return KernelBasisPSF(np.array(kernels), [[0.0]] * (len(kernels) - 1) + [[1.0]])


@given(
    st.floats(0.67, 1.5), st.floats(0.8, 1.0), st.floats(0, 3.2), st.floats(-0.5, 0.5), st.floats(-0.5, 0.5),
    st.floats(1e-3, 1e5),
)  # fmt: skip
def test_a_meter_measures_kernels_it_was_not_made_with(ratio, q, angle, dx, dy, flux) -> None:
    other = gaussian(5.0 * ratio, q, angle, dx, dy, 41)
    meter = FwhmMeter(stack_of([other, gaussian(5.0, 1.0, 0, 0, 0, 41)]), 0.0, 0.0)
    assert meter(np.array([[flux, 0.0]]))[0] == pytest.approx(5.0 * ratio, rel=2e-3)


def test_a_meter_measures_sums() -> None:
    parts = [gaussian(4.0, 1.0, 0, 0, 0, 41), gaussian(6.5, 1.0, 0, 0, 0, 41)]
    meter = FwhmMeter(stack_of(parts), 0.0, 0.0)
    for share in (0.0, 0.2, 0.5, 0.9, 1.0):

        def profile(r: float, share: float = share) -> float:
            wide, narrow = (np.exp(-4 * np.log(2) * (r / w) ** 2) for w in (6.5, 4.0))
            return float(share * narrow + (1 - share) * wide - 0.5)

        expected = 2 * brentq(profile, 1.0, 5.0)
        assert meter(np.array([[share, 1 - share]]))[0] == pytest.approx(expected, rel=2e-4)


def test_a_meter_leaves_what_it_cannot_tell_to_the_kernel_itself() -> None:
    usual = gaussian(4.0, 1.0, 0, 0, 0, 61)
    wide, narrow, away = (gaussian(*shape, 61) for shape in ((9.0, 1, 0, 0, 0), (2.2, 1, 0, 0, 0), (4.0, 1, 0, 3, -2)))
    meter = FwhmMeter(stack_of([wide, narrow, away, usual]), 0.0, 0.0)
    measured = meter(np.concatenate([np.eye(4), np.zeros((1, 4)), -np.eye(4)[3:]]))
    assert measured[:4] == pytest.approx([9.0, 2.2, 4.0, 4.0], rel=0.003)
    assert np.isnan(measured[4:]).all()


def test_a_meter_gives_singles_and_batches_the_same_bits() -> None:
    rng = np.random.default_rng(4)
    parts = [gaussian(w, q, 0.4, 0, 0, 31) for w, q in ((3.0, 0.9), (4.0, 0.7), (3.5, 1.0))]
    psf, coefficients = stack_of(parts), rng.uniform(0, 1, (50, 3))
    meter = FwhmMeter(psf, 0.0, 0.0)
    together = meter(coefficients)
    assert together.tolist() == [meter(c[None])[0] for c in coefficients]
    kernels = np.einsum("nb,bij->nij", coefficients, np.array(parts))
    assert together == pytest.approx(kernel_fwhm(kernels), rel=1e-4)
    assert FwhmMeter(Unknown(), 0.0, 0.0)(None, kernels).tolist() == kernel_fwhm(kernels).tolist()
    with pytest.raises(ConfigError):
        FwhmMeter(Unknown(), 0.0, 0.0)(None)


class Unknown(PSF):
    """A PSF that is not known to be linear."""

    @property
    def shape(self):
        return 31, 31

    def kernels(self, x, y):
        raise NotImplementedError
