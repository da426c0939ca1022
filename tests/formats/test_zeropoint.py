"""Zeropoints of headers: every card counts, and surface brightness with the area of a pixel."""

from __future__ import annotations

import math
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.table import QTable

import skygraft
from kits.plain_images import plain_header
from skygraft.catalog import normalize_catalog
from skygraft.errors import CalibrationError, ConfigError, UncalibratedImageError
from skygraft.formats import read_exposure
from skygraft.formats.fits_headers import Headers, read_visit_info

SIZE = 60
# As each keyword writes the AB magnitude 27 of one count, in an image of 100 s.
AS_27 = {
    "MAGZERO": 27.0,
    "ZEROPOINT": 27.0,
    "PHOTZP": 27.0,
    "MAGZPT": (22.0, "zero point per sec"),
    "FLUXMAG0": 10**10.8,
}
AS_28 = AS_27 | {
    "MAGZERO": 28.0,
    "ZEROPOINT": 28.0,
    "PHOTZP": 28.0,
    "MAGZPT": (23.0, "zero point per sec"),
    "FLUXMAG0": 10**11.2,
}


def make(
    path: Path,
    primary: dict[str, Any] | None = None,
    again: list[tuple[Any, ...]] | None = None,
    **cards: Any,
) -> Path:
    """An image in HDU 1, with cards of its own, more of the same name (`again`), and some in the primary HDU."""
    header = plain_header(150.0, 2.0, SIZE, MAGZERO=None)
    first = fits.PrimaryHDU()
    for where, values in ((header, cards), (first.header, primary or {})):
        for key, value in values.items():
            where[long(key)] = value
    for key, *value in again or ():
        header.append((long(key), *value), end=True)
    image = np.random.default_rng(1).normal(100, 5, (SIZE, SIZE)).astype(np.float32)
    fits.HDUList([first, fits.ImageHDU(image, header, name="SCI")]).writeto(path)
    return path


def long(key: str) -> str:
    """How a keyword of more than eight letters is written."""
    return f"HIERARCH {key}" if len(key) > 8 else key


def zeropoint(path: Path, **options: Any) -> float:
    calib = read_exposure(path, **options).photo_calib
    assert calib is not None
    return float(calib.zeropoint())


@pytest.mark.parametrize(("first", "second"), list(permutations(AS_27, 2)))
@pytest.mark.parametrize("where", ["one HDU", "two HDUs"])
def test_any_two_keywords_must_agree(tmp_path: Path, first: str, second: str, where: str) -> None:
    def image(name: str, values: dict[str, Any]) -> Path:
        cards = {second: values[second]}
        if where == "one HDU":
            return make(tmp_path / name, **{first: AS_27[first]}, **cards)
        return make(tmp_path / name, primary=cards, **{first: AS_27[first]})

    assert zeropoint(image("same.fits", AS_27)) == pytest.approx(27.0, abs=1e-6)
    with pytest.raises(CalibrationError, match="disagree") as caught:
        read_exposure(image("other.fits", AS_28))
    said = str(caught.value)
    assert f"27.0000 mag from {first} in HDU 1" in said
    assert f"28.0000 mag from {second} in HDU {1 if where == 'one HDU' else 0}" in said
    assert zeropoint(tmp_path / "other.fits", zeropoint_key=second) == pytest.approx(28.0, abs=1e-6)
    assert zeropoint(tmp_path / "other.fits", zeropoint=26.5) == pytest.approx(26.5)


@pytest.mark.parametrize("key", AS_27)
@pytest.mark.parametrize("where", ["one HDU", "two HDUs"])
def test_a_second_card_of_one_keyword_counts(tmp_path: Path, key: str, where: str) -> None:
    other = AS_28[key] if isinstance(AS_28[key], tuple) else (AS_28[key],)
    if where == "one HDU":
        path = make(tmp_path / "a.fits", again=[(key, *other)], **{key: AS_27[key]})
    else:
        path = make(tmp_path / "a.fits", primary={key: AS_28[key]}, **{key: AS_27[key]})
    for options in ({}, {"zeropoint_key": key}):
        with pytest.raises(CalibrationError, match=r"27\.0000 mag from .*28\.0000 mag from") as caught:
            read_exposure(path, **options)
        assert str(caught.value).count(f"{key} in HDU") == 2
    assert zeropoint(path, photo_calib=26.0) == pytest.approx(26.0)


def test_a_second_card_in_a_compressed_image_counts(tmp_path: Path) -> None:
    header = plain_header(150.0, 2.0, SIZE)
    header["SPARE"] = 1.0
    hdu = fits.CompImageHDU(np.ones((SIZE, SIZE), np.float32), header)
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(tmp_path / "a.fits")
    content = (tmp_path / "a.fits").read_bytes()
    at = content.index(b"SPARE   =")
    second = b"MAGZERO =                 28.0".ljust(80)
    (tmp_path / "a.fits").write_bytes(content[:at] + second + content[at + 80 :])
    with pytest.raises(CalibrationError, match=r"27\.0000 mag from MAGZERO in HDU 1, 28\.0000 mag from MAGZERO"):
        read_exposure(tmp_path / "a.fits")


def test_a_third_card_is_not_hidden_by_two_that_agree(tmp_path: Path) -> None:
    path = make(tmp_path / "a.fits", MAGZERO=27.0, PHOTZP=27.0, ZEROPOINT=27.3)
    with pytest.raises(CalibrationError, match=r"27\.0000 mag from MAGZERO.*27\.3000 mag from ZEROPOINT"):
        read_exposure(path)


@pytest.mark.parametrize("sentinel", [0.0, -99.0, 99.0, "unknown"])
def test_a_card_that_says_nothing_disagrees_with_nothing(tmp_path: Path, sentinel: Any) -> None:
    assert zeropoint(make(tmp_path / "a.fits", primary={"MAGZERO": sentinel}, MAGZERO=27.0)) == pytest.approx(27.0)


@pytest.mark.parametrize(
    "cards", [{"PHOTSYS": "VEGA"}, {"MAGSYS": "Vega"}, {"PHOTZP": (24.0, "[mag] zeropoint (Vega)")}]
)
def test_vega_magnitudes_are_not_taken_for_ab(tmp_path: Path, cards: dict[str, Any]) -> None:
    path = make(tmp_path / "a.fits", **({"PHOTZP": 24.0} | cards))
    with pytest.raises(CalibrationError, match=r"PHOTZP = 24\.0 is of Vega magnitudes"):
        read_exposure(path)
    assert zeropoint(path, zeropoint=25.38) == pytest.approx(25.38)
    assert zeropoint(make(tmp_path / "ab.fits", PHOTZP=24.0, PHOTSYS="AB")) == pytest.approx(24.0)


def pixels(arcsec: float) -> dict[str, float]:
    """WCS cards of pixels of that size."""
    return {"CD1_1": -arcsec / 3600, "CD2_2": arcsec / 3600}


JWST = pixels(0.0309) | {"BUNIT": "MJy/sr"}


def ab(unit: str, area: float) -> float:
    """AB zeropoint of one unit over a pixel (sr), by astropy."""
    return float((u.Unit(unit) * area * u.sr).to(u.ABmag).value)


@pytest.mark.parametrize(
    ("cards", "expected"),
    [
        ({"PIXAR_SR": 2.250599e-14}, 28.0193),
        ({"PIXAR_SR": 2.25e-14}, 31.4 - 2.5 * math.log10(22.5)),
        ({"PIXAR_SR": 2.25e-14, "PIXAR_A2": 9.5726e-4}, 31.4 - 2.5 * math.log10(22.5)),
        ({"PIXAR_A2": 9.5726e-4}, 31.4 - 2.5 * math.log10(22.5)),
        ({"PIXAR_SR": 2.25e-14, "BUNIT": "MJY.SR^-1"}, ab("MJy/sr", 2.25e-14)),
        ({"PIXAR_SR": 2.25e-14, "BUNIT": "uJy/arcsec^2"}, ab("uJy/arcsec2", 2.25e-14)),
        ({"PIXAR_SR": 2.25e-14, "BUNIT": "Jy sr-1"}, ab("Jy/sr", 2.25e-14)),
    ],
)
def test_surface_brightness_is_calibrated_by_the_area_of_a_pixel(
    tmp_path: Path, cards: dict[str, Any], expected: float
) -> None:
    assert zeropoint(make(tmp_path / "a.fits", **(JWST | cards))) == pytest.approx(expected, abs=3e-4)


def test_a_star_in_a_surface_brightness_image_has_its_flux(tmp_path: Path) -> None:
    path = make(tmp_path / "a.fits", **(JWST | {"PIXAR_SR": 2.2506e-14, "CALAPRAD": None, "CALAPREF": "psf_model"}))
    exposure = read_exposure(path, psf={"kind": "gaussian", "fwhm": "3 pix"})
    assert exposure.planes["image"].attrs["units"] == "MJy/sr"
    sources = {"injection_id": [1], "ra": [150.0], "dec": [2.0], "source_type": ["Star"], "mag_r": [20.0]}
    injection = skygraft.inject(exposure, normalize_catalog(QTable(sources)), noise=False)
    added = float((injection.exposure.image.astype(float) - exposure.image).sum())
    # Sum over pixels of surface brightness times area, in MJy; 20 mag are 36.3 uJy.
    assert added * 2.2506e-14 == pytest.approx(36.3078e-12, rel=2e-3)


@pytest.mark.parametrize(
    ("cards", "words"),
    [
        ({"PIXAR_SR": 2.25e-14, "PIXAR_A2": 1.1e-3}, "PIXAR_A2"),
        ({"PIXAR_SR": 4.5e-14}, "the WCS"),
        ({"PIXAR_SR": 2.25e-14, "MAGZERO": 27.0}, "MAGZERO"),
    ],
)
def test_areas_and_zeropoints_that_disagree_are_refused(tmp_path: Path, cards: dict[str, Any], words: str) -> None:
    with pytest.raises(CalibrationError, match=rf"disagree: .*{words}"):
        read_exposure(make(tmp_path / "a.fits", **(JWST | cards)))


DISTORTED = {
    "CTYPE1": "RA---TAN-SIP",
    "CTYPE2": "DEC--TAN-SIP",
    "A_ORDER": 2,
    "A_2_0": 5e-4,
    "B_ORDER": 2,
    "B_0_2": 5e-4,
}


def test_without_distortion_the_area_of_a_pixel_is_that_of_the_wcs(tmp_path: Path) -> None:
    """As in mosaics of Spitzer, which have no card for it."""
    square = (0.0309 / 206264.806) ** 2
    found = zeropoint(make(tmp_path / "a.fits", **JWST))
    assert found == pytest.approx(31.4 - 2.5 * math.log10(1e15 * square), abs=3e-4)


def test_the_area_of_a_pixel_may_be_given(tmp_path: Path) -> None:
    path = make(tmp_path / "a.fits", **JWST, **DISTORTED)
    exposure = read_exposure(path)
    assert exposure.photo_calib is None
    reason = exposure.extra["no_photo_calib"]
    assert isinstance(reason, UncalibratedImageError)
    assert "pixel_area=" in str(reason) and "PIXAR_SR" in str(reason)
    by_hand = 31.4 - 2.5 * math.log10(22.5)
    for area in ("2.25e-14 sr", "9.5726e-4 arcsec2", "957.26 mas2"):
        assert zeropoint(path, pixel_area=area) == pytest.approx(by_hand, abs=3e-4)
    square = (0.0309 / 206264.806) ** 2
    assert zeropoint(path, pixel_area="wcs") == pytest.approx(31.4 - 2.5 * math.log10(1e15 * square), abs=3e-4)
    assert zeropoint(path, photo_calib=28.0195) == pytest.approx(28.0195)
    assert zeropoint(path, zeropoint=28.0195) == pytest.approx(28.0195)
    for bad in ("2.25e-14", "-1 sr", "3 arcsec", "all"):
        with pytest.raises(ConfigError, match="pixel_area"):
            read_exposure(path, pixel_area=bad)


@pytest.mark.parametrize("unit", ["Jy/beam", "mag/arcsec2", "mag"])
def test_units_to_which_no_flux_can_be_added_are_named(tmp_path: Path, unit: str) -> None:
    exposure = read_exposure(make(tmp_path / "a.fits", BUNIT=unit, PIXAR_SR=2.25e-14, **pixels(0.0309)))
    assert exposure.photo_calib is None
    assert unit in str(exposure.extra["no_photo_calib"])


@pytest.mark.parametrize("seconds", [0.0, -30.0, 1e300])
def test_an_exposure_time_that_no_image_has_is_none(seconds):
    headers = Headers([(0, fits.Header([("EXPTIME", seconds), ("MJD-OBS", 60000.0)]))])
    found = read_visit_info(headers)
    assert found.exposure_time is None
    assert found.mjd == pytest.approx(60000.0, abs=0.001)
