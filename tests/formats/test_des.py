"""Tiles and CCDs of the Dark Energy Survey: what despyfits writes, as astropy, fitsio and Source Extractor read it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS

from kits.coadd_tiles import DES_TILE, SIZE, write_des, write_psfex
from skygraft import inject
from skygraft.catalog import normalize_catalog
from skygraft.errors import CalibrationError, FormatError, UncalibratedImageError, UnknownApertureError
from skygraft.formats import read_exposure, read_footprint, recognise_format, write_exposure
from skygraft.formats.conformance import check_format
from skygraft.formats.des import DesFormat
from skygraft.photometry import PSF_MODEL
from skygraft.survey import index_images

MAG = 20.0
CCD = "D00233569_r_c10_r2357p01_immasked"


def star(path: Path, x: float, y: float):
    with fits.open(path) as hdus:
        ra, dec = WCS(hdus["SCI"].header).pixel_to_world_values(x, y)
    columns = {"injection_id": [1], "ra": [ra], "dec": [dec], "source_type": ["Star"], "mag": [MAG]}
    return normalize_catalog(Table(columns), band="r")


def test_conformance(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    path = write_des(tmp_path / "in")
    assert recognise_format(path).name == "des"
    check_format(DesFormat(), path, tmp_path / "out")


def test_what_the_survey_says(tmp_path):
    path = write_des(tmp_path)
    exposure = read_exposure(path, aperture="psf_model")
    # Not 30 + 2.5 log10(630): the card's comment says "magnitudes/s", and the image's unit has magnitude 30.
    assert exposure.photo_calib.zeropoint() == 30.0
    assert exposure.photo_calib.reference is PSF_MODEL
    assert (exposure.data_id.instrument, exposure.data_id.band, exposure.data_id.tract) == ("DECam", "r", 111111)
    assert str(exposure.data_id) == DES_TILE
    assert exposure.visit_info.mjd is None and exposure.visit_info.exposure_time == 630
    assert exposure.mask_planes == {"NO_GOOD_INPUT": 1}
    np.testing.assert_allclose(np.median(exposure.variance), 9, rtol=0.01)
    assert [Path(file).name for file in read_footprint(path).files] == [path.name, f"{DES_TILE}_psfcat.psf"]
    with fits.open(path) as hdus:
        oracle = WCS(hdus["SCI"].header)
    x, y = np.random.default_rng(1).uniform(0, SIZE, (2, 50))
    found = exposure.wcs.world_to_pixel_values(*oracle.pixel_to_world_values(x, y))
    np.testing.assert_allclose(found, (x, y), rtol=0, atol=1e-6)


def test_the_aperture_is_not_guessed(tmp_path):
    path = write_des(tmp_path)
    with pytest.raises(UnknownApertureError, match=r"MAG_PSF, \{diameter: 5\.84 arcsec\} if they are MAG_APER_8"):
        inject(read_exposure(path), star(path, 50, 50), seed=1, noise=False)
    given = read_exposure(path, aperture={"diameter": "5.84 arcsec"})
    assert given.photo_calib.aperture.radius_pixels == pytest.approx(11.10, abs=0.01)


def test_closure_in_an_aperture(tmp_path):
    """Of a Gaussian, the flux inside a radius is known: 1 - exp(-r^2 / 2 sigma^2)."""
    path = write_des(tmp_path, image=np.zeros((SIZE, SIZE), np.float32), packed=False)
    psf = {"kind": "gaussian", "fwhm": f"{4 * 2.3548200450309493} pix"}
    exposure = read_exposure(path, aperture={"diameter": "5.84 arcsec"}, psf=psf)
    injection = inject(exposure, star(path, 60.3, 64.6), seed=1, noise=False)
    inside = 1 - np.exp(-((5.84 / 2 / 0.263) ** 2) / (2 * 4**2))
    total = injection.exposure.image.astype(float).sum()
    assert 30 - 2.5 * np.log10(total * inside) == pytest.approx(MAG, abs=1e-4)


@pytest.mark.parametrize(
    ("gain", "value"),
    [
        ((0.0, "Maximum equivalent gain (e-/ADU)"), None),
        ((31.5, "Maximum equivalent gain (e-/ADU)"), 31.5),
        ((4.1, "[e/adu] gain of amplifier A"), None),
        (None, None),
    ],
)
def test_the_gain_of_a_tile_is_that_of_swarp(tmp_path, gain, value):
    exposure = read_exposure(write_des(tmp_path, cards={"GAIN": gain}))
    assert exposure.gain == value
    assert value is not None or "equivalent gain" in exposure.extra["no_gain"]


@pytest.mark.parametrize("zeropoint", [29.5, "unknown"])
def test_another_zeropoint_is_refused(tmp_path, zeropoint):
    path = write_des(tmp_path, cards={"MAGZERO": zeropoint})
    with pytest.raises(CalibrationError, match=f"MAGZERO = {zeropoint}, and that of the survey's tiles is 30"):
        read_exposure(path)
    assert read_exposure(path, zeropoint=29.5).photo_calib.zeropoint() == pytest.approx(29.5)


def test_names_of_tiles(tmp_path):
    """Of DR1, without compression, with the model in the archive's folder; by TILENAME; without cards."""
    (tmp_path / "coadd").mkdir()
    (tmp_path / "psf").mkdir()
    write_psfex(tmp_path / "psf" / "DES2359+0001_r2611p01_g_psfcat.psf")
    bare = {"BAND": None, "TILENAME": None, "MAGZERO": None, "BUNIT": None, "TILEID": None}
    path = write_des(tmp_path / "coadd", "DES2359+0001_r2611p01_g", psf=None, cards=bare, packed=False)
    exposure = read_exposure(path)
    assert (exposure.format, exposure.data_id.band, exposure.data_id.tract) == ("des", "g", None)
    assert exposure.photo_calib.zeropoint() == 30 and exposure.psf is not None
    path = write_des(tmp_path, "cutout", psf=None)
    exposure = read_exposure(path)
    assert exposure.format == "des" and "cutout_psfcat.psf" in str(exposure.extra["no_psf"])
    path = write_des(tmp_path, "DES0001-4914_r4575p01_i_nobkg", psf="DES0001-4914_r4575p01_i_psfcat.psf")
    assert read_exposure(path).psf is not None


@pytest.mark.parametrize("lost", ["WGT", "MSK"])
def test_an_extension_that_is_lost(tmp_path, lost):
    """A file that was cut off between two extensions is sound FITS."""
    path = write_des(tmp_path)
    with fits.open(path) as hdus:
        fits.HDUList([hdu for hdu in hdus if hdu.name != lost]).writeto(tmp_path / "DES0001-4914_r4575p01_i.fits.fz")
    with pytest.raises(FormatError, match=f"have the extension {lost}"):
        read_exposure(tmp_path / "DES0001-4914_r4575p01_i.fits.fz")
    option = {"weight" if lost == "WGT" else "mask": False}
    assert read_exposure(tmp_path / "DES0001-4914_r4575p01_i.fits.fz", **option).shape == (SIZE, SIZE)


def test_the_detection_image_is_refused(tmp_path):
    path = write_des(tmp_path, "DES0001-4914_r4575p01_det", psf=None, cards={"BAND": "det"})
    with pytest.raises(FormatError, match="the detection image of a tile"):
        read_exposure(path)


def test_a_folder_of_tiles(tmp_path):
    write_des(tmp_path)
    write_des(tmp_path, "DES0001-4914_r4575p01_det", psf=None, cards={"BAND": "det"})
    Table({"NUMBER": [1]}).write(tmp_path / f"{DES_TILE}_cat.fits")
    index = index_images({"images": "*"}, tmp_path)
    assert list(index["image_id"]) == [DES_TILE]
    assert list(index.meta["companions"]) == [f"{DES_TILE}_psfcat.psf"]
    reasons = {row["path"]: row["reason"] for row in index.meta["failures"]}
    assert len(reasons) == 2 and "detection image" in reasons["DES0001-4914_r4575p01_det.fits.fz"]


def test_single_ccds(tmp_path):
    mask = np.zeros((SIZE, SIZE), np.int32)
    mask[2, 3], mask[4, 5] = 1 | 32, 16384
    cards = {"TILENAME": None, "TILEID": None, "EXPNUM": 233569, "CCDNUM": 10, "BUNIT": "electrons", "MAGZERO": 30.2}
    path = write_des(tmp_path, CCD, mask=mask, psf="D00233569_r_c10_r2357p01_psfexcat.psf", cards=cards)
    exposure = read_exposure(path)
    assert exposure.format == "des" and (exposure.data_id.visit, exposure.data_id.detector) == (233569, 10)
    assert isinstance(exposure.extra["no_photo_calib"], UncalibratedImageError)
    assert "table of FGCM" in str(exposure.extra["no_photo_calib"])
    assert exposure.psf is not None and exposure.gain == 1
    archive = tmp_path / "p01" / "red" / "immask"
    archive.mkdir(parents=True)
    (tmp_path / "p01" / "psf").mkdir()
    write_psfex(tmp_path / "p01" / "psf" / "D00233569_r_c10_r2357p01_psfexcat.psf")
    assert read_exposure(write_des(archive, CCD, psf=None, cards=cards)).psf is not None
    planes = exposure.mask_planes
    assert exposure.mask[2, 3] == planes["BPM"] | planes["STAR"] and exposure.mask[4, 5] == planes["TAPEBUMP"]
    calibrated = read_exposure(path, zeropoint=30.21, aperture="psf_model")
    assert calibrated.photo_calib.zeropoint() == pytest.approx(30.21)


def test_what_is_injected_comes_back(tmp_path):
    """Closure in the reference that was given, in a quantised image, by astropy and fitsio; tiles keep their bytes."""
    fitsio = pytest.importorskip("fitsio")
    (tmp_path / "out").mkdir()
    image = np.random.default_rng(3).normal(0, 0.01, (SIZE, SIZE)).astype(np.float32)
    path = write_des(tmp_path, image=image)
    exposure = read_exposure(path, aperture="psf_model")
    injection = inject(exposure, star(path, 60.3, 64.6), seed=1, noise=False)
    out = tmp_path / "out" / path.name
    written = write_exposure(injection.exposure, out)
    assert {p.name for p in written} == {path.name, f"{DES_TILE}_psfcat.psf"}
    with fits.open(path) as before, fits.open(out) as after:
        added = np.asarray(after["SCI"].data, float) - before["SCI"].data
        np.testing.assert_array_equal(fitsio.read(str(out), ext="SCI"), after["SCI"].data)
        np.testing.assert_array_equal(after["WGT"].data, before["WGT"].data)
        assert after["MSK"].header["DES_EXT"] == "MASK"
    # The amplitude of a unit-sum PSF is all flux in the kernel's area.
    assert 30 - 2.5 * np.log10(added.sum()) == pytest.approx(MAG, abs=1e-4)
    with (
        fits.open(path, disable_image_compression=True) as before,
        fits.open(out, disable_image_compression=True) as after,
    ):
        rows = [
            np.array_equal(a, b)
            for a, b in zip(before["SCI"].data["COMPRESSED_DATA"], after["SCI"].data["COMPRESSED_DATA"], strict=True)
        ]
        assert before["WGT"].data.tobytes() == after["WGT"].data.tobytes()
    touched = np.flatnonzero(~np.array(rows))
    assert touched.size and touched.min() >= 64 - 24 and touched.max() <= 65 + 24
    assert read_exposure(out).mask_planes["INJECTED"]


@pytest.mark.skipif(not shutil.which("source-extractor"), reason="Source Extractor is not installed")
def test_source_extractor_measures_the_output(tmp_path):
    (tmp_path / "out").mkdir()
    path = write_des(tmp_path)
    injection = inject(read_exposure(path, aperture="psf_model"), star(path, 60.3, 64.6), seed=1, noise=False)
    write_exposure(injection.exposure, tmp_path / "out" / path.name)
    with fits.open(tmp_path / "out" / path.name) as hdus:
        for name in ("SCI", "WGT"):
            fits.PrimaryHDU(hdus[name].data, hdus[name].header).writeto(tmp_path / f"{name}.fits")
    (tmp_path / "names").write_text("XWIN_IMAGE\nYWIN_IMAGE\nMAG_APER")
    (tmp_path / "filter").write_text("CONV NORM\n0 0 0\n0 1 0\n0 0 0\n")
    command = ["source-extractor", "SCI.fits", "-c", "/dev/null", "-PARAMETERS_NAME", "names", "-CATALOG_TYPE",
               "FITS_1.0", "-CATALOG_NAME", "cat.fits", "-FILTER_NAME", "filter", "-WEIGHT_TYPE", "MAP_WEIGHT",
               "-WEIGHT_IMAGE", "WGT.fits", "-MAG_ZEROPOINT", "30", "-PHOT_APERTURES", "24", "-BACK_TYPE", "MANUAL",
               "-BACK_VALUE", "0", "-DETECT_THRESH", "20", "-VERBOSE_TYPE", "QUIET"]  # fmt: skip
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    found = Table.read(tmp_path / "cat.fits")
    assert len(found) == 1
    assert found["XWIN_IMAGE"][0] - 1 == pytest.approx(60.3, abs=0.02)
    # Noise in the aperture is 0.007 mag.
    assert found["MAG_APER"][0] == pytest.approx(MAG, abs=0.025)
