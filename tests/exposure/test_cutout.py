"""Cut-outs of an exposure: the same sky, PSF, calibration and noise at the same pixels of the parent frame."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.nddata import Cutout2D
from astropy.table import QTable

import skygraft
from kits.plain_images import write_plain_image
from skygraft.errors import ConfigError, FormatError
from skygraft.exposure import COADD_NOISE, Exposure
from skygraft.noise import CoaddNoise
from skygraft.photometry import CalibrationAperture, ChebyshevField, PhotoCalib
from skygraft.psf import Box, KernelBasisPSF
from skygraft.testing import assert_exposures_equal, make_exposure

SHAPE, XY0 = (80, 100), (1000, 2000)


def varying_exposure() -> Exposure:
    """Pixels with numbers of their own; PSF, calibration and gain that vary over the image."""
    y, x = np.mgrid[-7:8, -7:8]
    kernels = [np.exp(-0.5 * (x**2 + y**2) / s**2) / (2 * np.pi * s**2) for s in (1.5, 2.5)]
    box = Box(XY0[0] - 0.5, XY0[0] + SHAPE[1] - 0.5, XY0[1] - 0.5, XY0[1] + SHAPE[0] - 0.5)
    psf = KernelBasisPSF(kernels, [[0.5, 0.2, 0.1], [0.5, -0.2, -0.1]], chebyshev_box=box, valid_box=box)
    edges = (XY0[0], XY0[0] + SHAPE[1] - 1, XY0[1], XY0[1] + SHAPE[0] - 1)
    calib = PhotoCalib.from_zeropoint(
        27.0, field=ChebyshevField([[1.0, 0.1], [0.05, 0.0]], edges), reference=CalibrationAperture(5.0, 1.0, "test")
    )
    exposure = make_exposure(SHAPE, xy0=XY0, psf=psf, photo_calib=calib, noise=True, rotation=20.0)
    exposure.planes["mask"].values[:] = np.arange(np.prod(SHAPE)).reshape(SHAPE) % 32
    return exposure.replace(gain=np.linspace(1.0, 3.0, np.prod(SHAPE)).reshape(SHAPE), gain_origin="test")


@pytest.fixture(scope="module")
def exposure() -> Exposure:
    return varying_exposure()


def test_slices_are_indices_of_parent_pixels(exposure: Exposure) -> None:
    part = exposure[2010:2030, 1040:1075]
    assert (part.shape, part.xy0) == ((20, 35), (1040, 2010))
    for name in ("image", "variance", "mask"):
        np.testing.assert_array_equal(part.planes[name].values, exposure.planes[name].values[10:30, 40:75])
        expected = exposure.planes[name].sel(y=slice(2010, 2029), x=slice(1040, 1074))
        assert part.planes[name].identical(expected)
    np.testing.assert_array_equal(part.gain, exposure.gain[10:30, 40:75])
    assert part.mask_planes == exposure.mask_planes
    assert part[2012:2014, 1050:1051] == exposure[2012:2014, 1050:1051]  # of a cut-out, the same pixels
    assert exposure[:, :] == exposure
    assert exposure[:2001, 1099:].shape == (1, 1)
    assert exposure[np.int64(2000) : np.int32(2002), :].shape == (2, 100)


def test_the_same_pixel_is_the_same_place_with_the_same_psf_and_calibration(exposure: Exposure) -> None:
    part = exposure.cutout((1050, 2040), size=(21, 31))
    x, y = np.array([1040.0, 1050.25, 1061.0]), np.array([2031.0, 2040.5, 2049.0])
    np.testing.assert_array_equal(part.wcs.pixel_to_world_values(x, y), exposure.wcs.pixel_to_world_values(x, y))
    np.testing.assert_array_equal(part.psf.kernels(x, y), exposure.psf.kernels(x, y))
    np.testing.assert_array_equal(part.photo_calib.zeropoint(x, y), exposure.photo_calib.zeropoint(x, y))
    sky = part.wcs.pixel_to_world(1050.25, 2040.5)
    assert part.planes["image"].sel(x=1050, y=2040).item() == exposure.image[40, 50]
    np.testing.assert_allclose(exposure.wcs.world_to_pixel(sky), (1050.25, 2040.5), atol=1e-6)


@pytest.mark.parametrize("position", [(50.0, 40.0), (50.5, 40.5), (50.49, 40.51), (3.0, 78.0), (-4.0, 40.0)])
@pytest.mark.parametrize("size", [1, 4, 5, (7, 12)])
def test_a_cut_out_holds_the_pixels_that_astropys_does(
    exposure: Exposure, position: tuple[float, float], size: Any
) -> None:
    try:
        expected = Cutout2D(exposure.image, position, size, mode="trim").data
    except ValueError:  # no overlap
        with pytest.raises(ConfigError, match="not on the image"):
            exposure.cutout((position[0] + XY0[0], position[1] + XY0[1]), size)
        return
    found = exposure.cutout((position[0] + XY0[0], position[1] + XY0[1]), size)
    np.testing.assert_array_equal(found.image, expected)


def test_positions_on_the_sky_and_sizes_as_angles(exposure: Exposure) -> None:
    sky = exposure.wcs.pixel_to_world(1050.0, 2040.0)
    by_pixel = exposure.cutout((1050, 2040), size=(15, 25))
    assert exposure.cutout(sky, (15, 25)) == by_pixel
    assert exposure.cutout(sky.galactic, (3, 5) * u.arcsec) == by_pixel  # 0.2 arcsec a pixel
    assert exposure.cutout(sky, (15 * u.pix, 5 * u.arcsec)) == by_pixel
    assert exposure.cutout(sky, 3 * u.arcsec).shape == (15, 15)
    assert exposure.cutout(by_pixel.box) == by_pixel
    assert exposure.cutout(Box(1037.5, 1062.4, 2032.6, 2047.49)) == by_pixel  # pixels whose centres it holds


def test_pixels_are_a_copy(exposure: Exposure) -> None:
    whole = varying_exposure()
    part = whole[2010:2030, 1040:1075]
    for array in (part.image, part.variance, part.mask, part.gain):
        assert array.flags.c_contiguous
        array[:] = 0
    assert whole == varying_exposure()


SOURCES = {
    "source_type": ["Star", "Sersic", "Star", "Star"],
    "x": [1050.3, 1042.0, 1062.0, 1020.0],  # inside, at an edge, just outside, far outside
    "y": [2040.1, 2035.0, 2040.0, 2010.0],
}


@pytest.mark.parametrize("settings", [{}, {"flux_mode": "psf_sum", "noise": False}])
def test_injecting_into_a_cut_out_is_cutting_the_injected(exposure: Exposure, settings: dict[str, Any]) -> None:
    ra, dec = exposure.wcs.pixel_to_world_values(SOURCES["x"], SOURCES["y"])
    catalog = QTable(
        {
            "ra": ra,
            "dec": dec,
            "source_type": SOURCES["source_type"],
            "mag_r": [18.0, 18.5, 18.0, 18.0],
            "half_light_radius": [0.0, 0.5, 0.0, 0.0],
            "n": [0.0, 1.0, 0.0, 0.0],
        }
    )
    of_whole = skygraft.inject(exposure, catalog, seed=3, **settings)
    into_part = skygraft.inject(exposure[2030:2051, 1040:1061], catalog, seed=3, **settings)
    assert_exposures_equal(into_part.exposure, of_whole.exposure[2030:2051, 1040:1061])
    np.testing.assert_array_equal(into_part.truth["inst_flux"], of_whole.truth["inst_flux"])
    assert (into_part.exposure.image != exposure.image[30:51, 40:61]).any()


def test_noise_realizations_go_with_their_pixels(exposure: Exposure) -> None:
    planes = tuple(np.random.default_rng(s).normal(size=SHAPE).astype(np.float32) for s in range(2))
    coadd = exposure.replace(extra={COADD_NOISE: CoaddNoise(planes), "other": 1})
    part = coadd[2010:2030, 1040:1075]
    for found, plane in zip(part.extra[COADD_NOISE].realizations, planes, strict=True):
        np.testing.assert_array_equal(found, plane[10:30, 40:75])
    assert part.extra["other"] == 1
    assert coadd.extra[COADD_NOISE].realizations[0].shape == SHAPE


@pytest.mark.parametrize(
    ("slices", "match"),
    [
        (np.s_[0:10, 0:10], r"0:10 of y is not part of the image, whose y is 2000 to 2079"),
        (np.s_[2000:2010, -10:], "of x is not part"),
        (np.s_[2000:2081, :], "2000:2081 of y"),
        (np.s_[2010:2010, :], "of y is not part"),
        (np.s_[::2, :], "of y is not part"),
        (np.s_[2000.0:2010.0, :], "not whole numbers"),
        (np.s_[2000:2010], "two slices"),
        (np.s_[2000, 1000], "two slices"),
        ("image", "exposure.planes"),
    ],
)
def test_slices_that_mean_no_part_of_the_image_are_refused(exposure: Exposure, slices: Any, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        exposure[slices]


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (((1050, 2040),), "a position and a size"),
        ((Box(1000, 1010, 2000, 2010), 5), "a position and a size"),
        (((1050, 2040), 0), "size 0"),
        (((1050, 2040), 5.5), "size 5.5"),
        (((1050, 2040), True), "size True"),
        (((1050, 2040), (5, 5, 5)), "size"),
        (((1050, 2040), 5 * u.s), "size"),
        (((1050, 2040), np.inf * u.arcsec), "size"),
        (((1050, 2040), "5"), "size"),
        (((1050, np.nan), 5), "position"),
        ((5, 5), "position"),
        ((SkyCoord([150, 151], [2, 2], unit="deg"), 5), "position"),
        ((SkyCoord(330, -2, unit="deg"), 5), "position"),  # behind the tangent plane
        (((5000, 2040), 5), "not on the image"),
    ],
)
def test_cut_outs_that_cannot_be_are_refused(exposure: Exposure, arguments: tuple[Any, ...], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        exposure.cutout(*arguments)


def test_a_strict_cut_out_lies_wholly_on_the_image(exposure: Exposure) -> None:
    with pytest.raises(ConfigError, match=r"x 998 to 1002.*not wholly on the image.*mode='trim'"):
        exposure.cutout((1000, 2040), 5, mode="strict")
    assert exposure.cutout((1002, 2040), 5, mode="strict").shape == (5, 5)
    with pytest.raises(ConfigError, match="mode"):
        exposure.cutout((1002, 2040), 5, mode="fill")


def test_a_cut_out_is_not_written_in_the_layout_of_the_whole(tmp_path: Path) -> None:
    path = write_plain_image(tmp_path / "image.fits", 150.0, 2.0, 60)
    exposure = skygraft.read_exposure(path)
    part = exposure[10:20, 10:25]
    with pytest.raises(FormatError, match=r"cut-out of 15 x 10 pixels from 60 x 60.*to_ccddata\(\)\.write"):
        skygraft.write_exposure(part, tmp_path / "part.fits")
    with pytest.raises(FormatError, match="cut-out of 15 x 2 pixels from 60 x 60"):
        skygraft.write_exposure(part[12:14, :], tmp_path / "part.fits")
    assert not (tmp_path / "part.fits").exists()
    skygraft.write_exposure(exposure[:, :], tmp_path / "whole.fits")  # which is all of it
    part.to_ccddata().write(tmp_path / "part.fits")
    again = skygraft.read_exposure(tmp_path / "part.fits")
    np.testing.assert_array_equal(again.image, part.image)
    there = part.wcs.pixel_to_world(12.0, 13.0)
    assert again.wcs.pixel_to_world(2.0, 3.0).separation(there) < 1e-6 * u.arcsec


def test_a_cut_out_knows_its_image(exposure: Exposure) -> None:
    part = exposure[2010:2030, 1040:1075]
    assert part.data_id == exposure.data_id
    assert part.default_image_id() == exposure.default_image_id()
    named = exposure.replace(data_id=dataclasses.replace(exposure.data_id, visit=None, name="x"))
    assert named[2010:2030, 1040:1075].default_image_id() != named.default_image_id()
