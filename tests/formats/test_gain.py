"""Electrons per image unit: what headers say of it, what they do not, and what the variance plane says against them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import QTable

import skygraft
from kits.plain_images import plain_header
from skygraft.catalog import normalize_catalog
from skygraft.errors import CalibrationError, InjectionError
from skygraft.formats import read_calibration, read_exposure
from skygraft.formats.fits_gain import read_gain
from skygraft.formats.fits_headers import Headers
from skygraft.formats.fits_units import image_unit

SIZE = 60
PSF = {"kind": "moffat", "fwhm": "0.9 arcsec"}


def make(path: Path, *, gain: float | None = None, sky: float = 100.0, unit_size: float = 1.0, **cards: Any) -> Path:
    """A plain image with one bright blob; with `gain`, a variance plane that follows it (units of the image)."""
    y, x = np.mgrid[:SIZE, :SIZE]
    blob = 3000 * np.exp(-((x - 40) ** 2 + (y - 40) ** 2) / 40)
    image = (sky + blob + np.random.default_rng(1).normal(0, 5, (SIZE, SIZE))) * unit_size
    header = plain_header(150.0, 2.0, SIZE)
    for key, value in cards.items():
        if value is None:
            header.remove(key)
        else:
            header[key] = value
    hdus = [fits.PrimaryHDU(), fits.ImageHDU(image.astype(np.float32), header, name="SCI")]
    if gain is not None:
        variance = ((25 + np.maximum(image / unit_size, 0) / (gain * unit_size)) * unit_size**2).astype(np.float32)
        hdus.append(fits.ImageHDU(variance, name="VARIANCE"))
    fits.HDUList(hdus).writeto(path)
    return path


def star(mag: float = 17.0) -> QTable:
    return normalize_catalog(
        QTable({"injection_id": [1], "ra": [150.0], "dec": [2.0], "source_type": ["Star"], "mag_r": [mag]})
    )


FLUXES = ["Jy", "nanomaggy", "nJy", "uJy", "MJy/sr", "nmgy", "NANOMAGGIES", "erg/s/cm2/Angstrom", "calibrated"]


@pytest.mark.parametrize("key", ["GAIN", "EGAIN", "CCDGAIN", "EFFGAIN"])
@pytest.mark.parametrize("unit", FLUXES)
def test_a_gain_per_count_says_nothing_of_an_image_in_flux(tmp_path: Path, unit: str, key: str) -> None:
    cards = {"GAIN": None, key: 2.0, "BUNIT": unit, "MAGZERO": None}
    exposure = read_exposure(make(tmp_path / "a.fits", **cards))
    assert exposure.gain is None
    assert key in exposure.extra["no_gain"] and "electrons per count" in exposure.extra["no_gain"]


@pytest.mark.parametrize(("unit", "njy"), [("Jy", 1e9), ("nanomaggy", 3630.7805477)])
def test_noise_in_flux_units_comes_from_the_variance_plane_or_not_at_all(tmp_path: Path, unit: str, njy: float) -> None:
    cards = {"BUNIT": unit, "MAGZERO": None}
    bare = read_exposure(make(tmp_path / "bare.fits", **cards), psf=PSF)
    with pytest.raises(CalibrationError, match=rf"GAIN = 2\.0.*{unit}|{unit}.*GAIN = 2\.0"):
        skygraft.inject(bare, star(), seed=1)
    # 1 electron per count of zeropoint 27.
    scale = 10 ** (-0.4 * (27 - 31.4)) * 1.0000241 / njy
    path = make(tmp_path / "a.fits", gain=1 / scale, unit_size=scale, **cards)
    injection = skygraft.inject(read_exposure(path, psf=PSF), star(), seed=1)
    assert "slope" in injection.summary["gain_origin"]
    assert injection.summary["gain"] == pytest.approx(1 / scale, rel=0.02)
    flux = 10 ** (0.4 * (31.4 - 17)) / njy
    added = float((injection.exposure.image.astype(float) - read_exposure(path).image).sum())
    # Photon noise of 1e4 electrons, and what the kernel holds beyond the aperture.
    assert added == pytest.approx(flux, rel=0.05)


@pytest.mark.parametrize(
    ("cards", "gain"),
    [
        ({}, 2.0),
        ({"BUNIT": "ADU"}, 2.0),
        ({"BUNIT": "DN"}, 2.0),
        ({"BUNIT": "10 adu"}, 20.0),
        ({"BUNIT": "adu/pixel"}, 2.0),
        ({"BUNIT": "ADU s-1"}, 200.0),
        ({"BUNIT": "counts per second"}, 200.0),
        ({"BUNIT": "cps"}, 200.0),
        ({"BUNIT": "e-/s"}, 100.0),
        ({"BUNIT": "ELECTRONS/SEC"}, 100.0),
        ({"BUNIT": "photoelectrons"}, 1.0),
        ({"BUNIT": ("counts/s", "photoelectrons per second")}, 100.0),
        ({"BUNIT": ("counts", "[electrons]")}, 1.0),
        ({"BUNIT": ("adu", "multiply by GAIN for electrons")}, 2.0),
        ({"BUNIT": ("adu/s", "photoelectrons per second")}, None),
        ({"BUNIT": ("counts", "photoelectrons per second")}, None),
        ({"BUNIT": "adu/s", "EXPTIME": None}, None),
        ({"BUNIT": "electron/s", "EXPTIME": None}, None),
        ({"BUNIT": "adu/s", "GAIN": (900.0, "effective gain")}, 900.0),
        ({"MAGZERO": 22.5}, None),
        ({"MAGZERO": 31.4}, None),
        ({"MAGZERO": 22.5, "BUNIT": "adu"}, 2.0),
        ({"MAGZERO": None, "FLUXMAG0": 3.63078e12}, None),
        ({"MAGZERO": None, "FLUXMAG0": 1e9}, None),
        ({"MAGZERO": None, "FLUXMAG0": 63095734448.0194}, 2.0),
        ({"PHOTFLAM": 1.2e-19}, None),
        ({"NCOMBINE": 5}, None),
        ({"NCOMBINE": 1}, 2.0),
        ({"NCOMBINE": 5, "EFFGAIN": 10.0}, 10.0),
        ({"NCOMBINE": 5, "BUNIT": "electron"}, None),
        ({"GAIN": 2.0, "EGAIN": 2.001}, 2.0),
        ({"GAIN": 139.0, "EGAIN": 1.0}, None),
        ({"GAIN": 0.0}, None),
        ({"GAIN": -1.5}, None),
        ({"GAIN": "unknown"}, None),
        ({"GAIN": "2.5"}, 2.5),
        ({"GAIN": True}, None),
        ({"GAIN": (0.5, "[ADU/e-] gain")}, None),
        ({"GAIN": (120, "gain setting [0.1 dB]")}, None),
        ({"GAIN": None, "CCDGAIN": 7.0}, 7.0),
        ({"GAIN": None, "GAINA": 4.01, "GAINB": 4.0}, 4.005),
        ({"GAIN": None, "GAINA": 3.0, "GAINB": 5.0}, None),
        ({"GAIN": None, "GAINA": 4.0, "GAINB": 0.0}, 4.0),
        ({"GAIN": None}, None),
    ],
)
def test_the_gain_that_headers_give(tmp_path: Path, cards: dict[str, Any], gain: float | None) -> None:
    path = make(tmp_path / "a.fits", **cards)
    exposure = read_exposure(path)
    assert exposure.gain == (None if gain is None else pytest.approx(gain))
    # Something about a gain that is not used is explained.
    assert bool(exposure.extra.get("no_gain")) == (gain is None and cards != {"GAIN": None})
    assert bool(exposure.gain_origin) == (gain is not None)
    assert read_calibration(path).no_gain == exposure.extra.get("no_gain", "")
    given = read_exposure(path, gain=3.0)
    assert given.gain == 3.0 and "no_gain" not in given.extra


@pytest.mark.parametrize(
    "given",
    [
        {"photo_calib": 22.5},
        {"photo_calib": {"zeropoint": 31.4, "unit": "nJy"}},
        {"photo_calib": skygraft.PhotoCalib.nanomaggies()},
        {"zeropoint": 22.5},
        {"unit": "Jy", "zeropoint_key": "MAGZERO"},
    ],
)
def test_a_calibration_in_flux_given_by_hand_leaves_no_gain_per_count(tmp_path: Path, given: dict[str, Any]) -> None:
    exposure = read_exposure(make(tmp_path / "a.fits"), **given)
    assert exposure.gain is None and exposure.extra["no_gain"]
    assert read_exposure(exposure.path or "", photo_calib=26.0).gain == 2.0
    assert read_exposure(exposure.path or "", photo_calib={"zeropoint": 22.5, "unit": "adu"}).gain == 2.0


def test_a_recorded_gain_that_the_variance_plane_contradicts_is_not_taken(tmp_path: Path) -> None:
    good = make(tmp_path / "good.fits", gain=2.2)
    assert skygraft.inject(read_exposure(good, psf=PSF), star(), seed=1).summary["gain"] == 2.0
    bad = make(tmp_path / "bad.fits", gain=3.8)
    exposure = read_exposure(bad, psf=PSF)
    with pytest.raises(CalibrationError, match=r"two gains disagree: 2 .*GAIN in the header of HDU 1.*3\.[78]"):
        skygraft.inject(exposure, star(), seed=1)
    for taken in (
        skygraft.inject(exposure, star(), seed=1, gain=3.8),
        skygraft.inject(read_exposure(bad, psf=PSF, gain=3.8), star(), seed=1),
    ):
        assert taken.summary["gain"] == 3.8
    assert skygraft.inject(exposure, star(), seed=1, noise=False).summary["gain"] is None


def test_a_variance_without_photon_noise_contradicts_nothing(tmp_path: Path) -> None:
    path = make(tmp_path / "a.fits", gain=math.inf)
    assert skygraft.inject(read_exposure(path, psf=PSF), star(), seed=1).summary["gain"] == 2.0


def test_a_second_card_of_a_gain_counts_within_its_header(tmp_path: Path) -> None:
    path = make(tmp_path / "a.fits")
    with fits.open(path, mode="update") as hdus:
        hdus[0].header["GAIN"] = 3.0
    # An extension's own gain replaces that of the whole file.
    assert read_exposure(path).gain == 2.0
    with fits.open(path, mode="update") as hdus:
        hdus[1].header.append(("GAIN", 5.0), end=True)
    exposure = read_exposure(path)
    assert exposure.gain is None
    assert "two gains disagree: GAIN = 2.0, GAIN = 5.0" in exposure.extra["no_gain"]


def test_a_card_that_is_nan_says_nothing() -> None:
    text = fits.Header({"GAIN": 2.0, "EXPTIME": 100.0}).tostring()
    header = fits.Header.fromstring(text.replace("GAIN    =                  2.0", "GAIN    =                  NaN"))
    headers = Headers([(0, header)])
    found = read_gain(headers, unit=image_unit(headers), exposure_time=100.0)
    assert found.value is None and "GAIN = 'NaN' is no positive number" in found.reason
    assert headers.as_dict() == {"GAIN": "NaN", "EXPTIME": 100.0}


def test_errors_say_why_the_gain_is_not_known(tmp_path: Path) -> None:
    exposure = read_exposure(make(tmp_path / "a.fits", NCOMBINE=5), psf=PSF)
    with pytest.raises((CalibrationError, InjectionError), match=r"NCOMBINE = 5.*no variance plane.*gain="):
        skygraft.inject(exposure, star(), seed=1)
