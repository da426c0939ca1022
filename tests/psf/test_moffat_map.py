"""A Moffat whose width follows a map: against single Moffats, and against the effective area that the map means."""

from __future__ import annotations

import numpy as np
import pytest

from skygraft.errors import ConfigError, PsfError
from skygraft.psf import MoffatMapPSF, MoffatPSF, check_psf

SHAPE = (63, 63)


def psf_of(ratio: float, **more: object) -> tuple[MoffatMapPSF, np.ndarray]:
    widths = 2.9 * np.exp(np.random.default_rng(2).uniform(0, np.log(ratio), (40, 50))).astype(np.float32)
    return MoffatMapPSF(widths, 3.0, SHAPE, **more), widths


@pytest.mark.parametrize("ratio", [1.0, 1.3, 3.0, 8.0])
def test_kernels_are_those_of_single_moffats(ratio):
    psf, widths = psf_of(ratio)
    x, y = np.random.default_rng(3).uniform(-0.49, 39.4, (2, 12))
    for kernel, width in zip(psf.kernels(x, y), widths[np.rint(y).astype(int), np.rint(x).astype(int)], strict=True):
        alone = MoffatPSF(float(width), 3.0, shape=SHAPE, pixel_integrated=False)
        expected = alone.kernels([0.0], [0.0])[0]
        np.testing.assert_allclose(kernel, expected, rtol=0, atol=3e-6 * expected.max())
        assert kernel.sum() == pytest.approx(1, abs=1e-9)
    outside = MoffatPSF(float(widths[0, 0]), 3.0, shape=SHAPE, pixel_integrated=False).flux_outside([0.0], [0.0])
    assert psf.flux_outside([0.0], [0.0]) == pytest.approx(outside, rel=1e-5)


def test_conformance():
    psf, _ = psf_of(1.5)
    x, y = np.random.default_rng(4).uniform(0, 39, (2, 6))
    check_psf(psf, x, y)


def test_the_effective_area_is_that_of_the_gaussian():
    psf = MoffatMapPSF.of_effective_size(np.full((9, 9), 5.0), 3.0, SHAPE)
    kernel = psf.kernels([4.0], [4.0])[0]
    sigma = 5.0 / np.sqrt(8 * np.log(2))
    assert 1 / np.sum(kernel**2) == pytest.approx(4 * np.pi * sigma**2, rel=1e-3)
    # A Moffat of the same FWHM would have 1.67 times that area.
    assert psf.widths([4.0], [4.0])[0] == pytest.approx(0.7746 * 5.0, rel=1e-3)


def test_between_pixels_it_is_the_formula():
    psf = MoffatMapPSF(np.full((5, 5), 3.3), 3.0, SHAPE)
    alpha = 3.3 / (2 * np.sqrt(2 ** (1 / 3) - 1))
    y, x = np.array([0.3, 2.7]), np.array([-1.4, 0.0, 4.1])
    values = psf.sub_pixel.evaluate(y, x)[0]
    assert len(psf.basis) == 1
    shape = (1 + (y[:, None] ** 2 + x**2) / alpha**2) ** -3
    np.testing.assert_allclose(values / values[0, 1], shape / shape[0, 1], rtol=1e-6)  # the map is in single precision


def test_off_the_map_and_where_it_has_no_size():
    """The nearest part that has one holds, to the size of blocks."""
    sizes = np.full((100, 200), 4.0)
    sizes[:, 100:] = 5.0
    sizes[:, :40] = 0.0
    sizes[50:52, 180:] = np.nan
    psf = MoffatMapPSF(sizes, 3.0, SHAPE, start=(1000, 2000))
    x, y = np.array([1000.0, 1060, 1190, 1190, 900, 1300]), np.array([2050.0, 2050, 2050, 2060, 2050, 2300])
    np.testing.assert_allclose(psf.widths(x, y), [4, 4, 5, 5, 4, 5])
    assert psf.defined(x, y).all()
    check_psf(psf, x[:4], y[:4])
    with pytest.raises(PsfError, match="no positive size anywhere"):
        MoffatMapPSF(np.zeros((4, 4)), 3.0, SHAPE)
    with pytest.raises(ConfigError, match="an image"):
        MoffatMapPSF(np.ones(4), 3.0, SHAPE)
    with pytest.raises(ConfigError, match="factor"):
        MoffatMapPSF(np.ones((4, 4)), 3.0, SHAPE, factor=0.0)


def test_weights_do_not_depend_on_other_positions():
    psf, _ = psf_of(2.0)
    x, y = np.random.default_rng(5).uniform(0, 39, (2, 30))
    one_by_one = np.concatenate([psf.coefficients([a], [b]) for a, b in zip(x, y, strict=True)])
    np.testing.assert_array_equal(psf.coefficients(x, y), one_by_one)
