"""Injected stars of PSFs that pixels are too coarse for: the flux in an aperture, what truth says of it, and flags."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from astropy.table import Table
from photutils.aperture import CircularAperture, aperture_photometry

import skygraft
from kits.oracles import band_limited_aperture_flux
from kits.plain_images import plain_header
from skygraft.catalog import Flag
from skygraft.exposure import DataId, Exposure, VisitInfo, make_planes
from skygraft.photometry import CalibrationAperture, PhotoCalib
from skygraft.psf import FixedKernelPSF, GaussianPSF, MoffatPSF, read_psfex
from skygraft.wcs import read_fits_wcs

MAGNITUDE = 17.5
COUNTS = 10 ** (0.4 * (27.0 - MAGNITUDE))
RADIUS = 10.0
PHASES = [(0.0, 0.0), (0.5, 0.5), (0.5, 0.0), (-0.25, 0.3), (0.1, -0.4), (0.49999, 0.3)]


def exposure(psf) -> Exposure:
    """An image of zeros, calibrated inside 10 pixels at zeropoint 27."""
    shape = 300, 300
    reference = CalibrationAperture(RADIUS, 2.0, "test")
    return Exposure(
        planes=make_planes(np.zeros(shape, np.float32), np.full(shape, 100.0, np.float32), mask_planes={"BAD": 0}),
        wcs=read_fits_wcs(plain_header(150.0, 2.0, 300)),
        psf=psf,
        photo_calib=PhotoCalib.from_zeropoint(27.0, reference=reference, reference_origin="test"),
        data_id=DataId("TestCam", 12, 3, band="r"),
        visit_info=VisitInfo(60000.0, 30.0),
    )


def catalog_at(exp: Exposure, x, y, mag, source_type="Star", band="r", **columns) -> Table:
    ra, dec = exp.wcs.pixel_to_world_values(np.asarray(x, float), np.asarray(y, float))
    n = len(ra)
    table = {"injection_id": np.arange(n), "ra": ra, "dec": dec, "source_type": [source_type] * n}
    table[f"mag_{band}"] = np.full(n, mag)
    return Table({**table, **{name: np.full(n, value) for name, value in columns.items()}})


def millimags(found, expected):
    return abs(2500 * np.log10(found / expected))


@pytest.mark.parametrize("stars", ["precise", "fast"])
@pytest.mark.parametrize(
    "psf",
    [
        GaussianPSF(fwhm=1.5, shape=(31, 31)),
        GaussianPSF(fwhm=2.0, shape=(31, 31), pixel_integrated=True),
        MoffatPSF(1.6, 3.0, shape=(41, 41)),
        MoffatPSF(2.0, 4.0, shape=(41, 41), pixel_integrated=False),
    ],
    ids=repr,
)
def test_an_aperture_holds_the_calibrated_flux_at_every_phase(psf, stars):
    exp = exposure(psf)
    x, y = (np.array([60.0, 100.0, 140.0, 180.0, 220.0, 260.0]) + np.array(part) for part in zip(*PHASES, strict=True))
    y = y % 1 + 60 + 120 * (np.arange(6) % 2)
    out = skygraft.inject(exp, catalog_at(exp, x, y, MAGNITUDE), noise=False, stars=stars)
    assert (out.truth["flags"] == 0).all()
    for row, sx, sy in zip(out.truth, x, y, strict=True):
        held = band_limited_aperture_flux(out.exposure.image, sx, sy, RADIUS)
        assert millimags(held, COUNTS) < 0.08
        box = np.s_[round(sy) - 22 : round(sy) + 23, round(sx) - 22 : round(sx) + 23]
        total = out.exposure.image[box].sum(dtype=float)
        assert row["flux_deposited"] == pytest.approx(total, rel=1e-5)


def test_pixels_that_sum_to_one_at_every_phase():
    exp = exposure(GaussianPSF(fwhm=1.5, shape=(31, 31)))
    x, y = np.array([60.0, 100.5, 140.25]), np.array([60.0, 60.5, 60.0])
    out = skygraft.inject(exp, catalog_at(exp, x, y, MAGNITUDE), noise=False, flux_mode="psf_sum")
    np.testing.assert_allclose(out.truth["flux_deposited"], COUNTS, rtol=2e-5)
    # Without that, they would differ by what the formula's samples sum to.
    plain = [np.exp(-0.5 * ((np.arange(-15, 16) - f) / (1.5 / 2.3548)) ** 2).sum() for f in (0.0, 0.5)]
    assert abs(plain[1] / plain[0] - 1) > 1e-3


def test_galaxies_are_scaled_by_the_average_over_phases():
    exp = exposure(GaussianPSF(fwhm=1.5, shape=(31, 31)))
    x, y = np.array([60.0, 120.5, 180.25]), np.array([60.0, 60.5, 60.0])
    out = skygraft.inject(
        exp,
        catalog_at(exp, x, y, MAGNITUDE, "Sersic", n=0.5, half_light_radius=0.6, q=1.0, pa=0.0),
        noise=False,
        flux_mode="psf_sum",
        flux_tolerance=1e-6,
    )
    np.testing.assert_allclose(out.truth["flux_deposited"], COUNTS, rtol=5e-5)


@pytest.mark.parametrize("number", [1, 3])
def test_a_real_undersampled_model(data_dir, number):
    exp = skygraft.read_exposure(data_dir / "video_H" / f"image_{number}.fits", aperture="12 pix")
    blank = exp.planes.copy(deep=True)
    blank["image"].values[:] = 0.0
    exp = dataclasses.replace(exp, planes=blank, psf=read_psfex(data_dir / "video_H" / f"image_{number}.psf"))
    x, y = (np.linspace(200, 1600, 6) // 1 + np.array(part) for part in zip(*PHASES, strict=True))
    out = skygraft.inject(exp, catalog_at(exp, x, y, 20.0, band="H"), noise=False, band="H")
    for row in out.truth:
        held = band_limited_aperture_flux(exp_image := out.exposure.image, row["x"], row["y"], 12.0)
        assert millimags(held, row["inst_flux"]) < 0.08
        exact = aperture_photometry(exp_image.astype(float), CircularAperture((row["x"], row["y"]), 12.0))
        assert millimags(float(exact["aperture_sum"][0]), row["inst_flux"]) < 5.0
    assert not (out.truth["flags"] & int(Flag.PSF_UNDERSAMPLED)).any()


def test_a_kernel_on_pixels_that_is_undersampled_is_flagged_in_the_truth():
    sharp = GaussianPSF(fwhm=1.8, shape=(25, 25), pixel_integrated=True).basis[0]
    exp = exposure(FixedKernelPSF(sharp))
    out = skygraft.inject(exp, catalog_at(exp, [60.2, 200.0], [60.0, 60.0], MAGNITUDE), noise=False)
    assert (out.truth["flags"] & int(Flag.PSF_UNDERSAMPLED) != 0).all()
    assert out.summary["flags"] == {"PSF_UNDERSAMPLED": 2}
    table = Table(out.truth)
    assert (table["flux_deposited"] > 0).all()
