"""Ordinary FITS images: planes wherever they are, calibrations as the keywords say."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from kits.plain_images import plain_header
from skygraft.errors import (
    CalibrationError,
    ConfigError,
    CorruptFileError,
    FormatError,
    MissingWcsError,
    OutputExistsError,
    PsfError,
    UncalibratedImageError,
)
from skygraft.exposure import add_mask_plane
from skygraft.formats import read_exposure, read_footprint, write_exposure
from skygraft.formats.conformance import check_format
from skygraft.formats.fits import FitsFormat
from skygraft.formats.fits_headers import band_name
from skygraft.photometry import PhotoCalib

SHAPE = (40, 50)
SCALE = 0.2
WCS = {
    "CTYPE1": "RA---TAN",
    "CTYPE2": "DEC--TAN",
    "CRVAL1": 150.0,
    "CRVAL2": 2.0,
    "CRPIX1": 25.5,
    "CRPIX2": 20.5,
    "CD1_1": -SCALE / 3600,
    "CD1_2": 0.0,
    "CD2_1": 0.0,
    "CD2_2": SCALE / 3600,
}
CALIB = {"MAGZERO": 27.0, "EXPTIME": 100.0, "GAIN": 2.5, "EXPNUM": 77, "CCDNUM": 3, "INSTRUME": "cam", "FILTER": "r"}


def pixels(seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(100, 5, SHAPE).astype(np.float32)


def image_hdu(name: str | None = None, data: np.ndarray | None = None, **cards: Any) -> fits.ImageHDU:
    hdu = fits.ImageHDU(pixels() if data is None else data, name=name)
    hdu.header.update({**WCS, **CALIB, **cards})
    for key in [k for k, v in cards.items() if v is None]:
        del hdu.header[key]
    return hdu


def write(path: Path, *hdus: fits.ImageHDU, primary: dict[str, Any] | None = None) -> Path:
    first = fits.PrimaryHDU()
    first.header.update(primary or {})
    fits.HDUList([first, *hdus]).writeto(path)
    return path


def plane(name: str | None, data: np.ndarray, **cards: Any) -> fits.ImageHDU:
    hdu = fits.ImageHDU(data, name=name)
    hdu.header.update(cards)
    return hdu


@pytest.mark.parametrize("role", ["variance", "weight", "rms"])
@pytest.mark.parametrize("where", ["inside", "beside", "given"])
def test_noise_planes_of_every_kind_become_variance(tmp_path: Path, role: str, where: str) -> None:
    variance = np.linspace(4, 9, SHAPE[0] * SHAPE[1]).reshape(SHAPE)
    stored = {"variance": variance, "weight": 1 / variance, "rms": np.sqrt(variance)}[role].astype(np.float32)
    options: dict[str, Any] = {}
    if where == "inside":
        path = write(tmp_path / "a.fits", image_hdu("SCI"), plane({"variance": "VAR"}.get(role, role.upper()), stored))
    else:
        path = write(tmp_path / "a.fits", image_hdu("SCI"))
        name = {"variance": "a.var.fits", "weight": "a.weight.fits", "rms": "a_rms.fits"}[role]
        if where == "given":
            name, options = "other.fits", {role: "other.fits[1]"}
        write(tmp_path / name, plane(None, stored))
    exposure = read_exposure(path, **options)
    assert exposure.variance is not None
    np.testing.assert_allclose(exposure.variance, variance, rtol=1e-6)
    np.testing.assert_array_equal(exposure.image, pixels())


def test_a_weight_of_zero_is_an_infinite_variance_and_stays_zero(tmp_path: Path) -> None:
    weight = np.full(SHAPE, 0.25, np.float32)
    weight[3, 4], weight[5, 6], weight[7, 8] = 0, -1, np.nan
    path = write(tmp_path / "a.fits", image_hdu("SCI"), plane("WHT", weight))
    exposure = read_exposure(path)
    assert exposure.variance is not None
    assert np.isinf(exposure.variance[[3, 5, 7], [4, 6, 8]]).all()
    planes = exposure.planes.copy(deep=True)
    planes["variance"].values[10, 10] += 4
    (tmp_path / "out").mkdir()
    write_exposure(exposure.replace(planes=planes), tmp_path / "out" / "a.fits")
    written = fits.getdata(tmp_path / "out" / "a.fits", 2)
    assert written[10, 10] == np.float32(1 / 8)
    written[10, 10] = weight[10, 10]
    np.testing.assert_array_equal(written, weight)


def test_two_noise_planes_are_not_chosen_between(tmp_path: Path) -> None:
    ones = np.ones(SHAPE, np.float32)
    path = write(tmp_path / "a.fits", image_hdu("SCI"), plane("VAR", ones), plane("RMS", 3 * ones))
    with pytest.raises(FormatError, match=r"variance in .* rms in"):
        read_exposure(path)
    assert (read_exposure(path, rms="RMS").variance == 9).all()
    assert (read_exposure(path, rms=False).variance == 1).all()
    assert read_exposure(path, rms=False, variance=False).variance is None


def test_mask_names_come_from_caller_then_header_then_bit_number(tmp_path: Path) -> None:
    mask = np.zeros(SHAPE, np.int16)
    mask[0, 0], mask[1, 1], mask[2, 2] = 1, 2, 16
    path = write(tmp_path / "a.fits", image_hdu("SCI"), plane("MASK", mask, MP_SAT=1, MP_CR=7))
    assert read_exposure(path).mask_planes == {"BIT0": 1, "SAT": 2, "BIT4": 16, "CR": 128}
    named = read_exposure(path, mask_planes={"BAD": 0, "EDGE": 4})
    assert named.mask_planes == {"BAD": 1, "SAT": 2, "EDGE": 16, "CR": 128}
    np.testing.assert_array_equal(named.mask, mask)
    with pytest.raises(ConfigError, match="bit"):
        read_exposure(path, mask_planes={"BAD": 40})


def test_new_mask_plane_gets_a_free_bit_and_its_card(tmp_path: Path) -> None:
    mask = np.zeros(SHAPE, np.uint8)
    mask[0, 0] = 255
    path = write(tmp_path / "a.fits", image_hdu("SCI"), plane("MASK", mask))
    exposure = read_exposure(path)
    planes = exposure.planes.copy(deep=True)
    bit = add_mask_plane(planes, "INJECTED")
    assert bit == 8
    planes["mask"].values[4, 5] |= 1 << bit
    out = tmp_path / "b.fits"
    write_exposure(exposure.replace(planes=planes), out)
    with fits.open(out) as hdus:
        assert hdus["MASK"].header["MP_INJECTED"] == 8
        assert hdus["MASK"].data[4, 5] == 256
        assert hdus["MASK"].data[0, 0] == 255


def test_mask_where_there_was_none_is_written_beside(tmp_path: Path) -> None:
    path = write(tmp_path / "a.fits", image_hdu("SCI"))
    exposure = read_exposure(path)
    assert write_exposure(exposure, tmp_path / "same.fits") == (tmp_path / "same.fits",)
    planes = exposure.planes.copy(deep=True)
    planes["mask"].values[1, 2] = 1 << add_mask_plane(planes, "INJECTED")
    files = write_exposure(exposure.replace(planes=planes), tmp_path / "b.fits")
    assert [f.name for f in files] == ["b.fits", "b.mask.fits"]
    again = read_exposure(tmp_path / "b.fits")
    assert again.mask_planes == {"INJECTED": 1}
    assert again.mask.sum() == 1


@pytest.mark.parametrize(
    ("cards", "expected"),
    [
        ({"MAGZERO": 27.0}, 27.0),
        ({"MAGZPT": (25.0, "[mag] zero point per sec")}, 30.0),
        ({"MAGZPT": (25.0, "zero point per sec"), "BUNIT": "adu/s"}, 25.0),
        ({"MAGZPT": 25.0, "BUNIT": "counts/sec"}, 25.0),
        ({"FLUXMAG0": 1e10}, 25.0),
        ({"PHOTZP": 28.5, "MAGZERO": 28.5005}, 28.5005),
        ({"MAGZPT": (24.0, "mag per second"), "MAGZERO": 29.0}, 29.0),
        ({"BUNIT": "nJy"}, 31.4),
        ({"BUNIT": "nanomaggy"}, 22.5),
        ({"BUNIT": "Jy"}, 8.9),
        ({"BUNIT": "uJy", "MAGZERO": 23.9}, 23.9),
    ],
)
def test_zeropoints(tmp_path: Path, cards: dict[str, Any], expected: float) -> None:
    # Exposure time 100 s, that is 5 mag. AB: a source of 1 Jy has 8.90.
    path = write(
        tmp_path / "a.fits", image_hdu("SCI", **({"MAGZERO": None} if "MAGZERO" not in cards else {}), **cards)
    )
    calib = read_exposure(path).photo_calib
    assert calib is not None
    assert float(calib.zeropoint()) == pytest.approx(expected, abs=2e-4)


def test_zeropoints_that_disagree_are_refused_and_can_be_chosen(tmp_path: Path) -> None:
    path = write(tmp_path / "a.fits", image_hdu("SCI", MAGZERO=27.0, PHOTZP=27.05))
    with pytest.raises(CalibrationError, match=r"27\.0000 mag from MAGZERO.*27\.0500 mag from PHOTZP") as caught:
        read_exposure(path)
    assert "zeropoint_key" in str(caught.value.fix)
    for options, expected in (({"zeropoint_key": "PHOTZP"}, 27.05), ({"zeropoint": 26.0}, 26.0)):
        calib = read_exposure(path, **options).photo_calib
        assert calib is not None and float(calib.zeropoint()) == pytest.approx(expected)
    calib = read_exposure(path, photo_calib={"zeropoint": 25.5, "unit": "adu"}).photo_calib
    assert calib is not None and float(calib.zeropoint()) == pytest.approx(25.5)


@pytest.mark.parametrize("value", [0.0, -99.0, 99.0, "unknown"])
def test_unusable_zeropoints_leave_the_image_uncalibrated_with_the_reason(tmp_path: Path, value: Any) -> None:
    path = write(tmp_path / "a.fits", image_hdu("SCI", MAGZERO=value))
    exposure = read_exposure(path)
    assert exposure.photo_calib is None
    reason = exposure.extra["no_photo_calib"]
    assert isinstance(reason, UncalibratedImageError)
    assert "MAGZERO" in str(reason)


def test_a_surface_brightness_image_is_read_but_not_calibrated(tmp_path: Path) -> None:
    # Pixels of which some are larger than others: their area is not that of the WCS at the centre.
    sip = {"CTYPE1": "RA---TAN-SIP", "CTYPE2": "DEC--TAN-SIP", "A_ORDER": 2, "B_ORDER": 2, "A_2_0": 1e-4, "B_0_2": 1e-4}
    exposure = read_exposure(write(tmp_path / "a.fits", image_hdu("SCI", MAGZERO=None, BUNIT="MJy/sr", **sip)))
    assert exposure.photo_calib is None
    with pytest.raises(UncalibratedImageError, match="surface brightness"):
        raise exposure.extra["no_photo_calib"]


@pytest.mark.parametrize(
    ("cards", "gain", "origin"),
    [
        ({}, 2.5, "GAIN in the header of HDU 1"),
        ({"GAIN": None}, None, ""),
        ({"GAIN": None, "EGAIN": 1.5}, 1.5, "EGAIN"),
        ({"GAIN": 0.0}, None, ""),
        ({"BUNIT": "adu/s"}, 250.0, "times the exposure time"),
        ({"BUNIT": "electron"}, 1.0, "in electrons"),
    ],
)
def test_gain_is_the_recorded_one_with_its_origin(
    tmp_path: Path, cards: dict[str, Any], gain: float | None, origin: str
) -> None:
    exposure = read_exposure(write(tmp_path / "a.fits", image_hdu("SCI", **cards)))
    assert exposure.gain == gain
    assert origin in exposure.gain_origin
    given = read_exposure(exposure.path or "", gain=7)
    assert given.gain == 7 and "given" in given.gain_origin


def test_identity_and_time(tmp_path: Path) -> None:
    path = write(tmp_path / "a.fits", image_hdu("N4"), primary={"MJD-OBS": 57000.0, "FILTER": "g DECam SDSS c0001"})
    exposure = read_exposure(path)
    assert str(exposure.data_id) == "cam-77-3"
    # 35 leap seconds between UTC and TAI in December 2014, and half of 100 s.
    assert exposure.visit_info.mjd == pytest.approx(57000 + 85 / 86400, abs=1e-9)
    assert exposure.visit_info.exposure_time == 100
    given = read_exposure(path, visit=5, detector="S1", band="z", mjd=60000.5, instrument="other")
    assert str(given.data_id) == "other-5-S1"
    assert given.data_id.band == "z" and given.visit_info.mjd == 60000.5


@pytest.mark.parametrize(
    ("cards", "seconds"),
    [
        ({"DATE-OBS": "2014-12-09T00:00:00"}, 85.0),
        ({"DATE-OBS": "2014-12-09", "TIME-OBS": "00:01:00"}, 145.0),
        ({"DATE-AVG": "2014-12-09T00:00:10", "MJD-OBS": 56000.0}, 45.0),
        ({"MJD-OBS": 57000.0, "TIMESYS": "TAI"}, 50.0),
        # Six integrations of 100 s follow each other; EXPTIME is that of one.
        ({"MJD-OBS": 57000.0, "HIERARCH ESO DET DIT": 100.0, "HIERARCH ESO DET NDIT": 6}, 335.0),
    ],
)
def test_middle_of_the_exposure(tmp_path: Path, cards: dict[str, Any], seconds: float) -> None:
    exposure = read_exposure(write(tmp_path / "a.fits", image_hdu("SCI", **cards)))
    assert exposure.visit_info.mjd == pytest.approx(57000 + seconds / 86400, abs=1e-8)


@pytest.mark.parametrize(
    ("text", "band"),
    [
        ("H", "H"),
        ("r.MP9601", "r"),
        ("g DECam SDSS c0001 4720.0 1520.0", "g"),
        ("HSC-R2", "r"),
        ("HSC-I", "i"),
        ("NB0816", "NB0816"),
        ("SDSS z", "z"),
        ("Ks", "Ks"),
        ("F814W", "F814W"),
        ("i_03", "i"),
    ],
)
def test_band_names(text: str, band: str) -> None:
    assert band_name(text) == band


def test_calibration_radius_keywords_are_collected_and_resolved(tmp_path: Path) -> None:
    path = write(tmp_path / "a.fits", image_hdu("SCI", CALAPRAD=12.0))
    calib = read_exposure(path).photo_calib
    assert calib is not None and calib.aperture is not None
    assert calib.aperture.radius_pixels == 12
    assert calib.aperture.radius_arcsec == pytest.approx(12 * SCALE, rel=1e-6)
    assert "CALAPRAD" in calib.reference_origin


def test_wcs_is_that_of_the_file(tmp_path: Path) -> None:
    exposure = read_exposure(write(tmp_path / "a.fits", image_hdu("SCI")))
    ra, dec = exposure.wcs.pixel_to_world_values(24.5, 19.5)
    assert (float(ra), float(dec)) == pytest.approx((150.0, 2.0), abs=1e-12)
    _, dec = exposure.wcs.pixel_to_world_values(24.5, 29.5)
    assert (float(dec) - 2) * 3600 == pytest.approx(math.degrees(math.atan(math.radians(10 * SCALE / 3600))) * 3600)
    footprint = read_footprint(exposure.path or "")
    assert footprint.center == pytest.approx((150.0, 2.0), abs=1e-9)
    assert footprint.pixel_scale == pytest.approx(SCALE, rel=1e-6)


def test_wcs_of_the_primary_header_is_inherited(tmp_path: Path) -> None:
    hdu = plane("SCI", pixels(), MAGZERO=27.0)
    path = write(tmp_path / "a.fits", hdu, primary=WCS)
    ra, dec = read_exposure(path).wcs.pixel_to_world_values(24.5, 19.5)
    assert (float(ra), float(dec)) == pytest.approx((150.0, 2.0))


def test_image_in_the_primary_hdu(tmp_path: Path) -> None:
    primary = fits.PrimaryHDU(pixels())
    primary.header.update({**WCS, **CALIB})
    primary.writeto(tmp_path / "a.fits.gz")
    exposure = read_exposure(tmp_path / "a.fits.gz")
    np.testing.assert_array_equal(exposure.image, pixels())
    assert write_exposure(exposure, tmp_path / "b.fits.gz") == (tmp_path / "b.fits.gz",)
    np.testing.assert_array_equal(read_exposure(tmp_path / "b.fits.gz").image, pixels())


def test_no_wcs_is_said(tmp_path: Path) -> None:
    path = write(tmp_path / "a.fits", plane("SCI", pixels()))
    with pytest.raises(MissingWcsError):
        read_exposure(path, format="fits")


def test_several_images_are_listed_and_chosen_by_name_or_number(tmp_path: Path) -> None:
    path = write(tmp_path / "a.fits", image_hdu("CCD1"), image_hdu("CCD2", data=pixels(2)))
    with pytest.raises(FormatError, match="1 CCD1: 50x40 image; 2 CCD2") as caught:
        read_exposure(path)
    assert "hdu=" in str(caught.value)
    for hdu in (2, "CCD2", "ccd2", -1):
        np.testing.assert_array_equal(read_exposure(path, hdu=hdu).image, pixels(2))
    for hdu in (3, "CCD9"):
        with pytest.raises(FormatError, match="the file has 0 PRIMARY: no image; 1 CCD1"):
            read_exposure(path, hdu=hdu)
    with pytest.raises(FormatError, match="no two-dimensional image"):
        read_exposure(path, hdu=0)


def test_shapes_that_differ_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.fits", image_hdu("SCI"))
    write(tmp_path / "a.weight.fits", plane(None, np.ones((3, 3), np.float32)))
    with pytest.raises(FormatError, match="weight has shape"):
        read_exposure(path)
    assert read_exposure(path, weight=False).variance is None


@pytest.mark.parametrize("damage", ["missing", "empty", "truncated"])
def test_damaged_planes_beside_are_named(tmp_path: Path, damage: str) -> None:
    path = write(tmp_path / "a.fits", image_hdu("SCI"))
    weight = write(tmp_path / "a.weight.fits", plane(None, np.ones(SHAPE, np.float32)))
    if damage == "missing":
        with pytest.raises(FormatError, match=r"other\.fits"):
            read_exposure(path, weight="other.fits")
        return
    weight.write_bytes(weight.read_bytes()[: 0 if damage == "empty" else 6000])
    with pytest.raises(CorruptFileError, match=r"a\.weight\.fits"):
        read_exposure(path)


def test_input_that_changed_or_is_gone_is_noticed_before_writing(tmp_path: Path) -> None:
    path = write(tmp_path / "a.fits", image_hdu("SCI"))
    exposure = read_exposure(path)
    write_again = path.read_bytes()
    path.write_bytes(write_again + bytes(2880))
    with pytest.raises(FormatError, match="changed since"):
        write_exposure(exposure, tmp_path / "b.fits")
    path.unlink()
    with pytest.raises(FormatError, match="gone"):
        write_exposure(exposure, tmp_path / "b.fits")
    assert not list(tmp_path.iterdir())


def test_the_input_is_never_overwritten_under_any_name(tmp_path: Path) -> None:
    path = write(tmp_path / "a.fits", image_hdu("SCI"))
    before = path.read_bytes()
    exposure = read_exposure(path)
    (tmp_path / "link.fits").symlink_to(path)
    for target in (path, tmp_path / "link.fits", tmp_path / "x" / ".." / "a.fits"):
        (tmp_path / "x").mkdir(exist_ok=True)
        with pytest.raises(OutputExistsError):
            write_exposure(exposure, target, overwrite=True)
    assert path.read_bytes() == before


def test_changed_image_says_so_and_the_rest_of_the_file_is_the_same(tmp_path: Path) -> None:
    extra = fits.BinTableHDU.from_columns([fits.Column("A", "J", array=np.arange(5))], name="TABLE")
    path = write(tmp_path / "a.fits", image_hdu("SCI"), extra)
    exposure = read_exposure(path)
    planes = exposure.planes.copy(deep=True)
    planes["image"].values[3, 3] += 10
    write_exposure(exposure.replace(planes=planes), tmp_path / "b.fits")
    with fits.open(path) as old, fits.open(tmp_path / "b.fits") as new:
        assert new["SCI"].header["INJECTED"] is True
        difference = new["SCI"].data - old["SCI"].data
        assert difference[3, 3] == 10 and np.count_nonzero(difference) == 1
        np.testing.assert_array_equal(new["TABLE"].data["A"], old["TABLE"].data["A"])
        del new["SCI"].header["INJECTED"]
        assert new["SCI"].header == old["SCI"].header and new[0].header == old[0].header


def test_psf_given_in_words(tmp_path: Path) -> None:
    path = write(tmp_path / "a.fits", image_hdu("SCI"))
    assert isinstance(read_exposure(path).extra["no_psf"], PsfError)
    for spec in ({"kind": "gaussian", "fwhm": "0.8 arcsec"}, {"kind": "moffat", "fwhm": "4 pix", "beta": 3.0}):
        psf = read_exposure(path, psf=spec).psf
        assert psf is not None
        kernel = psf.kernels([10.0], [10.0])[0]
        row = kernel[kernel.shape[0] // 2]
        half = np.interp(2.0, np.arange(4), row[kernel.shape[1] // 2 :][:4] / row.max())
        assert half == pytest.approx(0.5, abs=1e-6)
    for bad in ({"kind": "gauss"}, {"kind": "moffat"}, {"kind": "gaussian", "fwhm": "0.8"}, {"kind": "gaussian"}, 3):
        with pytest.raises(ConfigError):
            read_exposure(path, psf=bad)  # type: ignore[arg-type]


def test_calibration_given_as_object_keeps_its_reference(tmp_path: Path) -> None:
    path = write(tmp_path / "a.fits", image_hdu("SCI", CALAPRAD=12.0))
    calib = read_exposure(path, photo_calib=30.0).photo_calib
    assert calib is not None and calib.aperture is not None and calib.aperture.radius_pixels == 12
    for bad in ({"zp": 3}, {"zeropoint": "x"}, {"unit": "adu"}):
        with pytest.raises(ConfigError):
            read_exposure(path, photo_calib=bad)
    given = read_exposure(path, photo_calib=PhotoCalib.from_zeropoint(30.0), aperture="12 pix").photo_calib
    assert given is not None and float(given.zeropoint()) == pytest.approx(30)


def test_conformance(tmp_path: Path) -> None:
    mask = np.zeros(SHAPE, np.int32)
    mask[5, 5] = 3
    path = write(
        tmp_path / "a.fits", image_hdu("SCI"), plane("WHT", np.full(SHAPE, 0.04, np.float32)), plane("MASK", mask)
    )
    (tmp_path / "out").mkdir()
    check_format(FitsFormat(), path, tmp_path / "out")


@pytest.mark.parametrize("dither", [-1, 1])
def test_conformance_of_a_compressed_image(tmp_path: Path, dither: int) -> None:
    hdu = fits.CompImageHDU(
        pixels(), name="SCI", compression_type="RICE_1", quantize_method=dither, dither_seed=5 if dither > 0 else 0
    )
    hdu.header.update({**WCS, **CALIB})
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(tmp_path / "a.fits.fz")
    weight = fits.CompImageHDU(np.full(SHAPE, 0.04, np.float32) + pixels() * 1e-5, name="WEIGHT")
    fits.HDUList([fits.PrimaryHDU(), weight]).writeto(tmp_path / "a.weight.fits.fz")
    (tmp_path / "out").mkdir()
    check_format(FitsFormat(), tmp_path / "a.fits.fz", tmp_path / "out")


@pytest.mark.parametrize("dtype", [np.int16, np.uint16, np.float64])
def test_conformance_of_other_pixel_types(tmp_path: Path, dtype: type) -> None:
    path = write(tmp_path / "a.fits", image_hdu("SCI", data=pixels().astype(dtype)))
    (tmp_path / "out").mkdir()
    check_format(FitsFormat(), path, tmp_path / "out")


@pytest.mark.data
def test_psf_model_given_by_path_goes_with_the_output(data_dir: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "a.fits", image_hdu("SCI"))
    shutil.copyfile(data_dir / "video_H" / "image_1.psf", tmp_path / "model.psf")
    exposure = read_exposure(path, psf=tmp_path / "model.psf")
    files = write_exposure(exposure, tmp_path / "b.fits")
    assert [f.name for f in files] == ["b.fits", "b.psf"]
    again = read_exposure(tmp_path / "b.fits")
    assert again.psf is not None and exposure.psf is not None
    np.testing.assert_array_equal(again.psf.kernels([5], [5]), exposure.psf.kernels([5], [5]))
    with pytest.raises(CorruptFileError, match="nothing"):
        read_exposure(path, psf=tmp_path / "nothing.psf")


def test_bright_pixels_never_get_a_weight_of_zero(tmp_path: Path) -> None:
    # A quantised weight of 1e-3 in steps of some 1e-6; the variance of a very bright pixel is 1e9.
    hdu = fits.CompImageHDU(1e-3 + pixels() * 1e-6, name="WEIGHT", quantize_level=-1e-6, quantize_method=-1)
    path = write(tmp_path / "a.fits", image_hdu("SCI"))
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(tmp_path / "a.weight.fits.fz")
    exposure = read_exposure(path)
    planes = exposure.planes.copy(deep=True)
    planes["variance"].values[5, 5] = 1e9
    write_exposure(exposure.replace(planes=planes), tmp_path / "b.fits")
    again = read_exposure(tmp_path / "b.fits").variance
    assert again is not None
    assert np.isfinite(again[5, 5]) and again[5, 5] > 1e5


@pytest.mark.data
def test_vircam_images(data_dir: Path) -> None:
    exposure = read_exposure(data_dir / "video_H" / "image_1.fits")
    assert str(exposure.data_id) == "11981-13" and exposure.data_id.band == "H"
    assert exposure.photo_calib is not None
    assert float(exposure.photo_calib.zeropoint()) == pytest.approx(30)
    assert exposure.photo_calib.reference is None
    assert exposure.gain == pytest.approx(0.0966050793816442) and "GAIN" in exposure.gain_origin
    assert exposure.mask_planes == {"SAT": 2} and (exposure.mask == 2).any()
    assert exposure.psf is not None and exposure.variance is not None
    # The weights are those of the noise: 45 counts against the scatter of the sky.
    sky = exposure.image[::7, ::7]
    scatter = 1.4826 * np.median(np.abs(sky - np.median(sky)))
    assert np.sqrt(np.median(exposure.variance)) == pytest.approx(scatter, rel=0.05)
    given = read_exposure(data_dir / "video_H" / "image_1.fits", aperture="2 arcsec").photo_calib
    assert given is not None and given.aperture is not None
    assert given.aperture.radius_pixels == pytest.approx(2 / 0.33727, rel=1e-3)


@pytest.mark.data
def test_vircam_rewrite_keeps_every_untouched_pixel(data_dir: Path, tmp_path: Path) -> None:
    for name in ("image_1.fits", "image_1.weight.fits.fz", "image_1.mask.fits.fz", "image_1.psf"):
        shutil.copyfile(data_dir / "video_H" / name, tmp_path / name)
    exposure = read_exposure(tmp_path / "image_1.fits", aperture="2 arcsec")
    planes = exposure.planes.copy(deep=True)
    planes["image"].values[900:905, 900:905] += 1000
    planes["variance"].values[900:905, 900:905] += 500
    planes["mask"].values[900:905, 900:905] |= 1 << add_mask_plane(planes, "INJECTED")
    (tmp_path / "out").mkdir()
    files = write_exposure(exposure.replace(planes=planes), tmp_path / "out" / "image_1.fits")
    assert sorted(f.name for f in files) == sorted(p.name for p in (tmp_path / "out").iterdir())
    assert (tmp_path / "out" / "image_1.psf").read_bytes() == (tmp_path / "image_1.psf").read_bytes()
    again = read_exposure(tmp_path / "out" / "image_1.fits")
    touched = np.zeros(exposure.shape, bool)
    touched[900:905, 900:905] = True
    assert exposure.variance is not None and again.variance is not None
    np.testing.assert_array_equal(again.image[~touched], exposure.image[~touched])
    np.testing.assert_array_equal(again.variance[~touched], exposure.variance[~touched])
    # Quantised in steps of 11.6.
    np.testing.assert_allclose(again.image[touched], planes["image"].values[touched], atol=11.7)
    np.testing.assert_array_equal((again.mask & again.mask_planes["INJECTED"]) != 0, touched)
    np.testing.assert_array_equal((again.mask & 2) != 0, (exposure.mask & 2) != 0)


def test_an_extver_that_is_no_number(tmp_path: Path) -> None:
    """Cut-outs of grizli's mosaics call their only HDU F444W-CLEAR, SCI; their unit is 10 nJy."""
    header = plain_header(150.0, 2.0, 20)
    del header["MAGZERO"]
    header.update({"EXTNAME": "F444W-CLEAR", "EXTVER": "SCI", "BUNIT": "10.0*nanoJansky"})
    fits.PrimaryHDU(np.ones((20, 20), "f4"), header).writeto(path := tmp_path / "cutout.fits")
    exposure = read_exposure(path)
    assert exposure.photo_calib.zeropoint() == pytest.approx(28.9)
    write_exposure(exposure, tmp_path / "out.fits")
    assert fits.getheader(tmp_path / "out.fits")["EXTVER"] == "SCI"


def test_hdus_by_name_and_version(tmp_path: Path) -> None:
    path = tmp_path / "two.fits"
    hdus = [fits.PrimaryHDU()]
    for version in (1, 2):
        header = plain_header(150.0, 2.0, 20)
        hdus.append(fits.ImageHDU(np.full((20, 20), version, "f4"), header, name="SCI", ver=version))
        hdus.append(fits.ImageHDU(np.full((20, 20), version, "i2"), name="DQ", ver=version))
    fits.HDUList(hdus).writeto(path)
    second = read_exposure(path, hdu="sci,2")
    assert (second.image == 2).all() and (second.mask == 2).all()
    other = read_exposure(path, hdu="SCI, 1", mask="DQ,2")
    assert (other.image == 1).all() and (other.mask == 2).all()
    with pytest.raises(FormatError, match=r"2 HDUs are called 'SCI'.*number, or name and EXTVER, such as hdu='SCI,2'"):
        read_exposure(path, hdu="SCI")
    with pytest.raises(FormatError, match="there is no HDU 'SCI,3'"):
        read_exposure(path, hdu="SCI,3")
