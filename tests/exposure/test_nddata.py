"""Exposures as astropy's NDData and CCDData: the same values, errors, mask, sky and calibration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.nddata import CCDData, Cutout2D, NDData, StdDevUncertainty, VarianceUncertainty
from astropy.wcs import WCS

from kits.wcs_kit import CD, SIP, cards, cd_cards, header
from skygraft.errors import WcsError
from skygraft.exposure import DataId, Exposure, make_planes
from skygraft.formats import read_exposure
from skygraft.photometry import PSF_MODEL, CalibrationAperture, PhotoCalib
from skygraft.testing import make_exposure
from skygraft.wcs import ArrayWcs, CelestialWcs, FitsWcs, array_wcs, pixel_scale

XY0 = (1000, 2000)


@pytest.fixture
def exposure() -> Exposure:
    made = make_exposure((40, 50), xy0=XY0, noise=True, rotation=30.0)
    made.planes["mask"].values[3, 4] = made.mask_planes["BAD"]
    made.planes["mask"].values[5, 6] = made.mask_planes["DETECTED"]
    return made


@pytest.mark.parametrize("kind", [NDData, CCDData])
def test_values_errors_and_mask_are_those_of_the_exposure(exposure: Exposure, kind: type[NDData]) -> None:
    made = exposure.to_nddata() if kind is NDData else exposure.to_ccddata()
    assert type(made) is kind
    np.testing.assert_array_equal(made.data, exposure.image)
    assert made.unit == u.adu
    assert isinstance(made.uncertainty, VarianceUncertainty)
    np.testing.assert_array_equal(made.uncertainty.array, exposure.variance)
    assert made.uncertainty.unit == u.adu**2
    np.testing.assert_allclose(
        made.uncertainty.represent_as(StdDevUncertainty).array, np.sqrt(exposure.variance), rtol=1e-6
    )
    assert np.argwhere(made.mask).tolist() == [[3, 4]]  # where a source was detected is not bad
    if isinstance(made, CCDData):
        np.testing.assert_array_equal(made.flags, exposure.mask)
    made.data[:] = 0
    made.uncertainty.array[:] = 0
    assert exposure.image.any()
    assert exposure.variance.any()


def test_mask_planes_can_be_chosen_and_planes_can_be_absent(exposure: Exposure) -> None:
    assert np.argwhere(exposure.to_nddata("DETECTED").mask).tolist() == [[5, 6]]
    bare = exposure.replace(planes=make_planes(exposure.image, xy0=XY0, units="furlong"))
    made = bare.to_nddata()
    assert made.uncertainty is None
    assert made.unit == u.dimensionless_unscaled
    assert not made.mask.any()


@pytest.mark.parametrize(
    ("unit", "expected"), [("nanomaggy", u.nmgy), ("nJy", u.nJy), ("electron/s", u.electron / u.s), ("ADU", u.adu)]
)
def test_units_are_astropys(unit: str, expected: u.Unit) -> None:
    planes = make_planes(np.zeros((3, 3)), units=unit)
    assert make_exposure((3, 3)).replace(planes=planes).to_nddata().unit == expected


def test_the_wcs_is_of_the_arrays_pixels(exposure: Exposure) -> None:
    made = exposure.to_ccddata()
    assert isinstance(made.wcs, WCS)
    there = exposure.wcs.pixel_to_world(1010.5, 2020.25)
    assert made.wcs.pixel_to_world(10.5, 20.25).separation(there) < 1e-9 * u.arcsec
    part = Cutout2D(made.data, there, 11, wcs=made.wcs)  # what astropy does with it
    assert part.wcs.pixel_to_world(*part.input_position_cutout).separation(there) < 1e-9 * u.arcsec
    sliced = made[5:20, 10:30]
    assert sliced.wcs.pixel_to_world(0.5, 15.25).separation(there) < 1e-9 * u.arcsec


def test_a_cut_out_is_the_same_as_cutting_the_ccddata(exposure: Exposure) -> None:
    one, other = exposure[2005:2020, 1010:1030].to_ccddata(), exposure.to_ccddata()[5:20, 10:30]
    np.testing.assert_array_equal(one.data, other.data)
    np.testing.assert_array_equal(one.mask, other.mask)
    np.testing.assert_array_equal(one.uncertainty.array, other.uncertainty.array)
    assert one.wcs.pixel_to_world(3.0, 4.0).separation(other.wcs.pixel_to_world(3.0, 4.0)) < 1e-9 * u.arcsec


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"photo_calib": PhotoCalib.from_zeropoint(26.0, reference=CalibrationAperture(10.0, 2.0, "x", unit="arcsec"))},
        {"photo_calib": PhotoCalib.from_zeropoint(26.0, reference=PSF_MODEL)},
        {"photo_calib": PhotoCalib.from_zeropoint(26.0, "electron", reference=CalibrationAperture(5.0)), "gain": 1.0},
    ],
)
def test_what_is_written_is_read_again_with_its_calibration(tmp_path: Path, changes: dict[str, Any]) -> None:
    exposure = make_exposure((40, 50), noise=True, **changes)
    exposure.to_ccddata().write(tmp_path / "ccd.fits")
    again = read_exposure(tmp_path / "ccd.fits")
    np.testing.assert_array_equal(again.image, exposure.image)
    assert again.photo_calib is not None
    assert float(again.photo_calib.zeropoint()) == pytest.approx(float(exposure.photo_calib.zeropoint()), abs=1e-12)
    assert again.photo_calib.unit == exposure.photo_calib.unit
    one, other = (e.photo_calib.reference for e in (again, exposure))
    assert getattr(one, "given", one) == getattr(other, "given", other)
    assert again.gain == exposure.gain
    assert again.visit_info == exposure.visit_info
    for key in ("instrument", "visit", "detector", "band"):
        assert getattr(again.data_id, key) == getattr(exposure.data_id, key)
    x, y = np.array([3.0, 40.0]), np.array([5.0, 30.0])
    np.testing.assert_allclose(
        again.wcs.pixel_to_world_values(x, y), exposure.wcs.pixel_to_world_values(x, y), rtol=0, atol=1e-10
    )


def test_an_uncalibrated_image_without_identity_is_taken_too(exposure: Exposure) -> None:
    meta = exposure.replace(photo_calib=None, gain=None, data_id=DataId(name="x")).to_nddata().meta
    assert set(meta) == {"TIMESYS", "MJD-AVG", "EXPTIME", "LTV1", "LTV2"}
    assert (meta["LTV1"], meta["LTV2"]) == (-1000, -2000)


@pytest.mark.parametrize(
    "changes",
    [
        cd_cards(CD),
        {**cd_cards(CD), **SIP, "CTYPE1": "RA---TAN-SIP", "CTYPE2": "DEC--TAN-SIP"},
        {**cd_cards(CD), "RADESYS": "FK5", "EQUINOX": 1975.0},
        {**cd_cards(CD), "CTYPE1": "GLON-TAN", "CTYPE2": "GLAT-TAN"},
        {**cd_cards(CD), "CTYPE1": "DEC--TAN", "CTYPE2": "RA---TAN", "CRVAL1": 2.0, "CRVAL2": 150.0},
    ],
)
def test_astropys_wcs_agrees_with_ours_in_every_frame(changes: dict[str, Any]) -> None:
    wcs = FitsWcs(header(cards(**changes)), xy0=(100, 50))
    for xy0 in ((100, 50), (300, 10), (0, 0)):
        found = array_wcs(wcs, xy0)
        assert isinstance(found, WCS)
        x, y = np.array([0.0, 512.5, 1999.0]), np.array([3.0, 800.25, 1500.0])
        there = found.pixel_to_world(x - xy0[0], y - xy0[1])
        assert (there.icrs.separation(wcs.pixel_to_world(x, y)) < 1e-6 * u.arcsec).all()


def test_a_wcs_that_astropy_does_not_hold_is_shifted() -> None:
    wcs = make_exposure((40, 50)).wcs

    class Other(type(wcs)):  # type: ignore[misc]
        def to_astropy(self, xy0: Any = None) -> None:
            return None

    found = array_wcs(Other(wcs.header), (10, 20))
    assert isinstance(found, ArrayWcs)
    there = wcs.pixel_to_world(15.5, 27.25)
    assert found.pixel_to_world(5.5, 7.25).separation(there) < 1e-9 * u.arcsec
    np.testing.assert_allclose(found.world_to_pixel(there), (5.5, 7.25), atol=1e-6)
    assert isinstance(found.pixel_to_world([1, 2], [3, 4]), SkyCoord)


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "kind", "error"),
    [
        ("afw_reference/calexp_03_polymap_pca_xy0.fits", ArrayWcs, 0.01),
        ("rubin/dp1_visit_image.fits", ArrayWcs, 1e-3),
        ("cfht_849375/calexp-849375-12.fits.fz", ArrayWcs, 0.05),
        ("video_H/image_1.fits", WCS, 0.0),
    ],
)
def test_real_images_become_nddata_and_ccddata(data_dir: Path, name: str, kind: type, error: float) -> None:
    exposure = read_exposure(data_dir / name)
    x0, y0 = exposure.xy0
    there = exposure.wcs.pixel_to_world(x0 + 4.0, y0 + 6.0)
    assert isinstance(there, SkyCoord)
    exact = exposure.to_nddata()
    assert isinstance(exact.wcs, kind)
    assert exact.wcs.pixel_to_world(4.0, 6.0).icrs.separation(there) < 1e-6 * u.arcsec
    made = exposure.to_ccddata()
    assert made.meta.get("WCSERR", 0.0) <= error
    scale = pixel_scale(exposure.wcs, x0 + 4.0, y0 + 6.0)[0] * u.arcsec
    found = made[2:12, 3:13].wcs.pixel_to_world(1.0, 4.0)
    assert found.icrs.separation(there) < made.meta.get("WCSERR", 0.0) * 1.01 * scale + 1e-6 * u.arcsec


class Wavy(CelestialWcs):
    """Right ascension that swings by a pixel of 0.2 arcsec over the image."""

    def _forward(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return 150.0 + (x + np.sin(x)) * 0.2 / 3600, y * 0.2 / 3600

    def _inverse(self, ra: np.ndarray, dec: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        raise NotImplementedError


def test_a_sky_that_no_polynomial_follows_is_no_ccddata() -> None:
    exposure = make_exposure((40, 50), wcs=Wavy())
    with pytest.raises(WcsError, match="to_nddata"):
        exposure.to_ccddata()
    found = exposure.to_nddata().wcs.pixel_to_world(3.0, 4.0)
    assert found.separation(exposure.wcs.pixel_to_world(3.0, 4.0)) == 0
