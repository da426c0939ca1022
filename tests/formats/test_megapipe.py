"""Stacks of MegaPipe: tiles of CFIS and UNIONS, by the pages of CADC, astropy and Source Extractor."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS

from kits.coadd_tiles import SIZE, write_megapipe
from skygraft import inject
from skygraft.catalog import normalize_catalog
from skygraft.errors import CalibrationError, FormatError, UncalibratedImageError, UnknownApertureError
from skygraft.formats import read_exposure, recognise_format, write_exposure
from skygraft.formats.conformance import check_format
from skygraft.formats.megapipe import MegaPipeFormat
from skygraft.survey import index_images

MAG = 21.0


def star(path: Path, x: float, y: float):
    with fits.open(path) as hdus:
        ra, dec = WCS(hdus[0].header).pixel_to_world_values(x, y)
    columns = {"injection_id": [1], "ra": [ra], "dec": [dec], "source_type": ["Star"], "mag": [MAG]}
    return normalize_catalog(Table(columns), band="r")


def test_conformance(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    path = write_megapipe(tmp_path / "in")
    assert recognise_format(path).name == "megapipe"
    check_format(MegaPipeFormat(), path, tmp_path / "out")


def test_what_the_pages_say(tmp_path):
    path = write_megapipe(tmp_path)
    exposure = read_exposure(path)
    assert exposure.photo_calib.zeropoint() == 30.0 and exposure.photo_calib.reference is None
    assert (exposure.data_id.instrument, exposure.data_id.band, str(exposure.data_id)) == (
        "MegaPrime",
        "r",
        "CFIS.191.307.r",
    )
    assert exposure.gain == 5.25 and "equivalent gain" in exposure.gain_origin
    assert exposure.visit_info.mjd is None
    np.testing.assert_allclose(np.median(exposure.variance), 16, rtol=0.02)
    with fits.open(path) as hdus:
        oracle = WCS(hdus[0].header)
    x, y = np.random.default_rng(1).uniform(0, SIZE, (2, 50))
    found = exposure.wcs.world_to_pixel_values(*oracle.pixel_to_world_values(x, y))
    np.testing.assert_allclose(found, (x, y), rtol=0, atol=1e-6)
    with pytest.raises(UnknownApertureError, match=r"MegaPipe's documents give the zeropoint 30, but .*Give 'total'"):
        inject(exposure, star(path, 50, 50), seed=1)


@pytest.mark.parametrize(
    ("stem", "band", "instrument"),
    [
        ("CFIS.007.270.u", "u", "MegaPrime"),
        ("CFIS_LSB.191.307.r", "r", "MegaPrime"),
        ("PSS.DR4.191.307.i", "i", "GPC1"),
        ("PSS.DR4gold.191.307.z", "z", "GPC1"),
        ("MegaPipe.336.238.R.MP9602", "r", "MegaPrime"),
        ("G002.003.844+33.133.G", "g", "MegaPrime"),
        ("D1.IQ.I", "i", "MegaPrime"),
        ("W3-2+1.U", "u", "MegaPrime"),
    ],
)
def test_names_of_stacks(tmp_path, stem, band, instrument):
    exposure = read_exposure(write_megapipe(tmp_path, stem, size=64, psf=False))
    assert exposure.format == "megapipe" and exposure.variance is not None
    assert (exposure.data_id.band, exposure.data_id.instrument) == (band, instrument)
    assert str(exposure.data_id) == stem


def test_a_zeropoint_in_the_header_must_agree(tmp_path):
    path = write_megapipe(tmp_path, size=64, cards={"PHOTZP": 30.0})
    assert read_exposure(path).photo_calib.zeropoint() == 30
    path = write_megapipe(tmp_path, "CFIS.191.308.r", size=64, cards={"PHOTZP": 26.2})
    with pytest.raises(CalibrationError, match=r"PHOTZP gives 26\.2000 mag for one adu; stacks of MegaPipe have 30"):
        read_exposure(path)
    assert read_exposure(path, zeropoint_key="PHOTZP").photo_calib.zeropoint() == pytest.approx(26.2)


def test_the_gain_of_a_detector_is_not_that_of_a_stack(tmp_path):
    path = write_megapipe(tmp_path, size=64, cards={"GAIN": (1.62, "Amplifier gain (electrons/ADU)")})
    exposure = read_exposure(path)
    assert exposure.gain is None and "GAIN = 1.62" in exposure.extra["no_gain"]


def test_a_folder_of_tiles(tmp_path):
    write_megapipe(tmp_path, size=64)
    write_megapipe(tmp_path, "CFIS.191.307.u", size=64, psf=False)
    shutil.copyfile(tmp_path / "CFIS.191.307.u.weight.fits.fz", tmp_path / "CFIS.191.308.u.weight.fits.fz")
    index = index_images({"images": "*.fits*"}, tmp_path)
    assert list(index["image_id"]) == ["CFIS.191.307.r", "CFIS.191.307.u"]
    assert len(index.meta["companions"]) == 2
    (failure,) = index.meta["failures"]
    assert failure["path"] == "CFIS.191.308.u.weight.fits.fz"
    with pytest.raises(FormatError, match="weights"):
        read_exposure(tmp_path / "CFIS.191.307.r.weight.fits.fz", format="fits")


def test_what_is_injected_comes_back(tmp_path):
    """Closure in the reference that was given; weights and PSF keep their bytes."""
    (tmp_path / "out").mkdir()
    path = write_megapipe(tmp_path, image=np.zeros((SIZE, SIZE), np.float32))
    exposure = read_exposure(path, aperture="psf_model")
    injection = inject(exposure, star(path, 60.3, 64.6), seed=1, noise=False)
    out = tmp_path / "out" / path.name
    written = write_exposure(injection.exposure, out)
    assert {p.name for p in written} == {
        f"CFIS.191.307.r.{end}" for end in ("fits", "weight.fits.fz", "psf", "mask.fits")
    }
    with fits.open(out) as hdus:
        total = np.asarray(hdus[0].data, dtype=float).sum()
    assert 30 - 2.5 * np.log10(total) == pytest.approx(MAG, abs=1e-4)
    for end in ("weight.fits.fz", "psf"):
        one, other = (hashlib.sha256((f / f"CFIS.191.307.r.{end}").read_bytes()) for f in (tmp_path, tmp_path / "out"))
        assert one.digest() == other.digest()


def test_closure_in_the_total(tmp_path):
    path = write_megapipe(tmp_path, image=np.zeros((SIZE, SIZE), np.float32))
    exposure = read_exposure(path, aperture="total", psf={"kind": "gaussian", "fwhm": "0.7 arcsec"})
    injection = inject(exposure, star(path, 60.3, 64.6), seed=1, noise=False)
    total = injection.exposure.image.astype(float).sum()
    assert 30 - 2.5 * np.log10(total) == pytest.approx(MAG, abs=1e-4)


@pytest.mark.skipif(not shutil.which("source-extractor"), reason="Source Extractor is not installed")
def test_source_extractor_measures_the_output(tmp_path):
    (tmp_path / "out").mkdir()
    path = write_megapipe(tmp_path)
    injection = inject(read_exposure(path, aperture="psf_model"), star(path, 60.3, 64.6), seed=1, noise=False)
    write_exposure(injection.exposure, tmp_path / "out" / path.name)
    with fits.open(tmp_path / "out" / "CFIS.191.307.r.weight.fits.fz") as hdus:
        fits.PrimaryHDU(hdus[1].data).writeto(tmp_path / "weight.fits")
    (tmp_path / "names").write_text("XWIN_IMAGE\nYWIN_IMAGE\nMAG_APER")
    (tmp_path / "filter").write_text("CONV NORM\n0 0 0\n0 1 0\n0 0 0\n")
    command = ["source-extractor", "out/CFIS.191.307.r.fits", "-c", "/dev/null", "-PARAMETERS_NAME", "names",
               "-CATALOG_TYPE", "FITS_1.0", "-CATALOG_NAME", "cat.fits", "-FILTER_NAME", "filter", "-WEIGHT_TYPE",
               "MAP_WEIGHT", "-WEIGHT_IMAGE", "weight.fits", "-MAG_ZEROPOINT", "30", "-PHOT_APERTURES", "24",
               "-BACK_TYPE", "MANUAL", "-BACK_VALUE", "0", "-DETECT_THRESH", "10",
               "-VERBOSE_TYPE", "QUIET"]  # fmt: skip
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    found = Table.read(tmp_path / "cat.fits")
    assert len(found) == 1
    # Noise in the aperture is 0.022 mag.
    assert found["MAG_APER"][0] == pytest.approx(MAG, abs=0.06)


def test_a_stack_under_another_name_is_an_ordinary_image_that_says_what_to_give(tmp_path):
    """SWarp's equivalent gain is the stack's whatever the file is called; a bare GAIN may be a detector's."""
    renamed = write_megapipe(tmp_path, cards={"GAIN": (100.0, "Maximum equivalent gain (e-/ADU)")}).rename(
        tmp_path / "renamed.fits"
    )
    exposure = read_exposure(renamed, psf={"kind": "gaussian", "fwhm": "0.7 arcsec"})
    assert (exposure.format, exposure.gain) == ("fits", 100.0)
    with pytest.raises(UncalibratedImageError, match=r"no zeropoint .*MegaPipe .* zeropoint=30") as caught:
        inject(exposure, star(renamed, 50, 50), seed=1)
    assert (caught.value.path, caught.value.hdu) == (str(renamed), 0)
    fits.setval(renamed, "GAIN", value=100.0, comment="Amplifier gain")
    exposure = read_exposure(renamed)
    assert exposure.gain is None
    assert "SWarp made the image (SOFTNAME), and GAIN in the header of HDU 0" in exposure.extra["no_gain"]
