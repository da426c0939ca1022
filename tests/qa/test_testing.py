"""The public test helpers."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from skygraft.psf import GaussianPSF
from skygraft.testing import assert_exposures_equal, make_exposure
from skygraft.wcs import local_jacobian


def test_defaults_can_be_injected_into() -> None:
    exposure = make_exposure()
    assert exposure.shape == (256, 256)
    assert exposure.photo_calib.aperture.radius_pixels == 12
    assert (exposure.image == 0).all() and (exposure.variance == 100).all()
    ra, dec = exposure.wcs.pixel_to_world_values(127.5, 127.5)
    assert (float(ra), float(dec)) == pytest.approx((150.0, 2.0), abs=1e-9)


def test_orientation() -> None:
    middle = np.array([127.5])
    plain = local_jacobian(make_exposure().wcs, middle, middle)[0]
    np.testing.assert_allclose(plain, [[-0.2, 0], [0, 0.2]], atol=1e-6)
    mirrored = local_jacobian(make_exposure(mirrored=True).wcs, middle, middle)[0]
    np.testing.assert_allclose(mirrored, [[0.2, 0], [0, 0.2]], atol=1e-6)
    turned = local_jacobian(make_exposure(rotation=30).wcs, middle, middle)[0]
    assert np.linalg.det(turned) == pytest.approx(-0.04, rel=1e-5)
    assert np.hypot(*turned[:, 1]) == pytest.approx(0.2, rel=1e-5)


def test_parent_frame() -> None:
    exposure = make_exposure((64, 128), xy0=(1000, 2000))
    assert exposure.xy0 == (1000, 2000)
    ra, dec = exposure.wcs.pixel_to_world_values(1063.5, 2031.5)
    assert (float(ra), float(dec)) == pytest.approx((150.0, 2.0), abs=1e-9)


def test_noise_follows_the_seed() -> None:
    one = make_exposure(noise=True, seed=4, sky=50.0, variance=25.0)
    assert_exposures_equal(one, make_exposure(noise=True, seed=4, sky=50.0, variance=25.0))
    assert one.image.mean() == pytest.approx(50, abs=0.1)
    assert one.image.std() == pytest.approx(5, rel=0.02)
    with pytest.raises(AssertionError, match="image differs"):
        assert_exposures_equal(one, make_exposure(noise=True, seed=5, sky=50.0, variance=25.0))


def test_pickle_is_equal() -> None:
    exposure = make_exposure((40, 50), noise=True)
    assert_exposures_equal(pickle.loads(pickle.dumps(exposure)), exposure)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e: make_exposure((40, 51)), "shapes differ"),
        (lambda e: make_exposure((40, 50), xy0=(1, 0)), "origins differ"),
        (lambda e: e.replace(planes=e.planes.drop_vars("variance")), "variance plane"),
        (lambda e: e.replace(psf=GaussianPSF(2.0)), "PSF"),
        (lambda e: e.replace(psf=None), "only one of the exposures has a psf"),
        (lambda e: e.replace(wcs=make_exposure((40, 50), center=(150.0, 2.001)).wcs), "WCS"),
        (lambda e: e.replace(photo_calib=e.photo_calib.with_reference(None)), "calibrated to"),
    ],
)
def test_differences_are_named(change, message) -> None:
    exposure = make_exposure((40, 50))
    with pytest.raises(AssertionError, match=message):
        assert_exposures_equal(change(exposure), exposure)


def test_one_pixel_is_found_and_named() -> None:
    exposure = make_exposure((40, 50), xy0=(100, 200))
    planes = exposure.planes.copy(deep=True)
    planes["mask"].values[3, 7] |= 2
    with pytest.raises(AssertionError, match="mask plane SAT differs in 1 pixels; first at x=107, y=203"):
        assert_exposures_equal(exposure.replace(planes=planes), exposure)
    planes = exposure.planes.copy(deep=True)
    planes["image"].values[5, 1] = 0.5
    with pytest.raises(AssertionError, match=r"by up to 0\.5; first at x=101, y=205"):
        assert_exposures_equal(exposure.replace(planes=planes), exposure)
    assert_exposures_equal(exposure.replace(planes=planes), exposure, atol=0.5)


def test_nan_equals_nan() -> None:
    exposure = make_exposure((40, 50))
    planes = exposure.planes.copy(deep=True)
    planes["image"].values[5, 1] = np.nan
    damaged = exposure.replace(planes=planes)
    assert_exposures_equal(damaged, damaged)
    with pytest.raises(AssertionError, match="image differs in 1 of"):
        assert_exposures_equal(damaged, exposure, atol=1.0)
