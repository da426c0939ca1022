"""HST images: drizzled ones and calibrated exposures, written by astropy with the cards of real ones."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import QTable
from astropy.wcs import WCS

from kits.space_images import HST_SCALE, PHOTFLAM, PHOTPLAM, PSF, write_drz, write_flt
from skygraft import inject
from skygraft.errors import CalibrationError, ConfigError, FormatError, WcsError
from skygraft.formats import read_exposure, read_footprint, write_exposure
from skygraft.formats.conformance import check_format
from skygraft.formats.hst import HstFormat
from skygraft.photometry import TOTAL, PixelAreaField

ZEROPOINT = -2.5 * math.log10(PHOTFLAM) - 21.10 - 5 * math.log10(PHOTPLAM) + 18.6921
"""As the ACS Data Handbook gives it."""
DRC = "jdba2s010_drc.fits"


def star(exposure, x: float = 47.3, y: float = 44.8, mag: float = 20.0) -> QTable:
    ra, dec = exposure.wcs.pixel_to_world_values(x, y)
    return QTable({"injection_id": [1], "ra": [ra], "dec": [dec], "source_type": ["Star"], "mag_F814W": [mag]})


@pytest.mark.parametrize("kind", ["drizzled", "beside", "exposure"])
def test_conformance(tmp_path, kind) -> None:
    if kind == "drizzled":
        path = write_drz(tmp_path / DRC)
    elif kind == "beside":
        path = write_drz(tmp_path / "hlsp_candels_x_drz_sci.fits", beside="hlsp_candels_x_drz_wht.fits")
    else:
        path = write_flt(tmp_path / "jdba2sgkq_flc.fits", chips=1)
    (tmp_path / "out").mkdir()
    check_format(HstFormat(), path, tmp_path / "out")


def test_drizzled(tmp_path) -> None:
    path = write_drz(tmp_path / DRC)
    exposure = read_exposure(path)
    with fits.open(path) as hdus, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        np.testing.assert_array_equal(exposure.image, hdus["SCI"].data)
        theirs = WCS(hdus["SCI"].header)
        weights = hdus["WHT"].data
    assert exposure.format == "hst" and exposure.planes["image"].attrs["units"] == "electron/s"
    x, y = np.random.default_rng(1).uniform(-5, 100, (2, 50))
    ra, dec = exposure.wcs.pixel_to_world_values(x, y)
    np.testing.assert_allclose(theirs.all_world2pix(ra, dec, 0), (x, y), atol=1e-3)
    assert float(exposure.photo_calib.zeropoint()) == pytest.approx(ZEROPOINT, abs=1e-4)
    assert exposure.photo_calib.reference is TOTAL and "infinite aperture" in exposure.photo_calib.reference_origin
    name = {"instrument": "ACS", "detector": "WFC", "band": "F814W", "name": "jdba2s010_drc"}
    assert exposure.data_id.as_dict() == name
    assert exposure.visit_info.mjd == pytest.approx(57032.44 + 35 / 86400, abs=1e-9)
    np.testing.assert_array_equal(exposure.bad("NO_DATA"), weights == 0)
    # Weights of the pipeline are exposure times: electrons of one electron a second.
    assert exposure.variance is None and exposure.gain_origin == "exposure times in WHT"
    np.testing.assert_array_equal(exposure.gain[8:], weights[8:])
    assert (exposure.gain[:8] == 1200).all()


@pytest.mark.parametrize(
    ("bunit", "cards", "unit", "zeropoint"),
    [
        ("ELECTRONS/S", {}, "electron/s", ZEROPOINT),
        ("ELECTRONS", {}, "electron/s", ZEROPOINT),  # a rate, by D001OUUN
        ("ELECTRONS", {"D001OUUN": "counts"}, "electron", ZEROPOINT + 2.5 * math.log10(1200)),
        ("COUNTS/S", {}, "adu/s", ZEROPOINT),
        ("cps", {}, "adu/s", ZEROPOINT),
    ],
)
def test_units(tmp_path, bunit, cards, unit, zeropoint) -> None:
    exposure = read_exposure(write_drz(tmp_path / "x_drz.fits", bunit=bunit, **cards))
    assert exposure.planes["image"].attrs["units"] == unit
    assert float(exposure.photo_calib.zeropoint()) == pytest.approx(zeropoint, abs=1e-4)


def test_a_missing_unit_is_that_of_the_camera_or_asked_for(tmp_path) -> None:
    path = write_drz(tmp_path / "a_drz.fits")
    with fits.open(path, mode="update") as hdus:
        del hdus["SCI"].header["BUNIT"]
    assert read_exposure(path).planes["image"].attrs["units"] == "electron/s"
    with fits.open(path, mode="update") as hdus:
        hdus[0].header["INSTRUME"] = "WFPC2"
    with pytest.raises(CalibrationError, match="there is no BUNIT"):
        read_exposure(path)
    assert read_exposure(path, unit="adu/s").photo_calib is not None


def test_planes_that_a_product_always_has_are_missed(tmp_path) -> None:
    for path, name, option in (
        (write_drz(tmp_path / "a_drz.fits"), "WHT", "weight"),
        (write_flt(tmp_path / "a_flt.fits", chips=1), "DQ", "mask"),
        (write_flt(tmp_path / "b_flt.fits", chips=1), "ERR", "rms"),
    ):
        with fits.open(path, mode="update") as hdus:
            del hdus[name]
        with pytest.raises(FormatError, match=f"no HDU {name}.*{option}=False"):
            read_exposure(path)
        assert read_exposure(path, **{option: False}).photo_calib is not None


def test_a_rate_that_is_none_is_refused(tmp_path) -> None:
    path = write_drz(tmp_path / "x_drz.fits", D001OUUN="counts")
    with pytest.raises(CalibrationError, match="is the image a rate or not"):
        read_exposure(path)
    assert read_exposure(path, unit="electron/s").photo_calib is not None


def test_counts_have_the_gain_of_the_header(tmp_path) -> None:
    exposure = read_exposure(write_drz(tmp_path / "x_drz.fits", bunit="COUNTS/S"))
    assert exposure.gain == pytest.approx(2.0 * 1200)


def test_weights_beside_the_image_and_what_they_are(tmp_path) -> None:
    path = write_drz(tmp_path / "hlsp_candels_x_drz_sci.fits", beside="hlsp_candels_x_drz_wht.fits")
    exposure = read_exposure(path)
    with fits.open(tmp_path / "hlsp_candels_x_drz_wht.fits") as hdus:
        weights = hdus[0].data
    np.testing.assert_allclose(exposure.variance[8:], 1 / weights[8:], rtol=1e-6)
    assert np.isinf(exposure.variance[:8]).all() and exposure.gain == 1200.0
    assert len(read_footprint(path).files) == 2
    made = inject(read_exposure(path, psf=PSF), star(exposure), seed=1)
    (tmp_path / "out").mkdir()
    written = write_exposure(made.exposure, tmp_path / "out" / "hlsp_candels_y_drz_sci.fits")
    names = ["hlsp_candels_y_drz_sci.fits", "hlsp_candels_y_drz_sci.mask.fits", "hlsp_candels_y_drz_wht.fits"]
    assert sorted(p.name for p in written) == names
    again = read_exposure(written[0])
    np.testing.assert_allclose(again.variance[8:], made.exposure.variance[8:], rtol=1e-5)


def test_weights_of_unknown_kind_are_not_used_and_that_is_said(tmp_path) -> None:
    path = write_drz(tmp_path / "mine_drz.fits")
    exposure = read_exposure(path)
    assert exposure.variance is None and exposure.gain == 1200.0
    assert "nothing says whether they are exposure times" in exposure.extra["caution"]
    assert read_exposure(path, weights="exposure").gain.shape == exposure.shape
    assert read_exposure(path, weights="inverse_variance").variance is not None
    assert read_exposure(write_drz(tmp_path / "b_drz.fits", WHTTYPE="IVM")).variance is not None
    with pytest.raises(ConfigError, match="allowed: 'exposure'"):
        read_exposure(path, weights="time")


def test_closure_and_untouched_hdus(tmp_path) -> None:
    path = write_drz(tmp_path / DRC)
    exposure = read_exposure(path, psf=PSF)
    made = inject(exposure, star(exposure), noise=False, seed=1)
    added = np.sum(made.exposure.image.astype(float) - exposure.image)
    assert ZEROPOINT - 2.5 * math.log10(added) == pytest.approx(20.0, abs=1e-3)
    (tmp_path / "out").mkdir()
    write_exposure(made.exposure, tmp_path / "out" / DRC)
    with fits.open(path) as old, fits.open(tmp_path / "out" / DRC) as new:
        assert [h.name for h in old] == [h.name for h in new]
        for name in ("WHT", "CTX"):
            np.testing.assert_array_equal(old[name].data, new[name].data)
        np.testing.assert_array_equal(new["SCI"].data, made.exposure.image)
        assert not np.array_equal(old["SCI"].data, new["SCI"].data)


def test_photon_noise_of_each_pixel_is_that_of_its_exposure_time(tmp_path) -> None:
    exposure = read_exposure(write_drz(tmp_path / DRC), psf=PSF)
    spread = []
    for x in (15.0, 70.0):  # 600 and 1200 s
        made = [inject(exposure, star(exposure, x, mag=18.0), seed=s, coadd_noise="white") for s in range(12)]
        sums = [float((m.exposure.image - exposure.image)[40:50].sum(dtype=float)) for m in made]
        spread.append(np.var(sums))
    assert 0.6 < spread[0] / spread[1] / 2 < 12


def test_chips_are_chosen(tmp_path) -> None:
    path = write_flt(tmp_path / "jdba2sgkq_flc.fits")
    with pytest.raises(FormatError, match=r"2 chips: hdu=1: SCI,1, chip 2, 96x96; hdu=4: SCI,2, chip 1"):
        read_exposure(path)
    exposures = [read_exposure(path, hdu=hdu) for hdu in (1, 4)]
    assert [str(e.data_id) for e in exposures] == ["jdba2sgkq_flc-chip2", "jdba2sgkq_flc-chip1"]
    assert [e.data_id.detector for e in exposures] == [2, 1]
    with fits.open(path) as hdus:
        np.testing.assert_array_equal(exposures[1].image, hdus["SCI", 2].data)
        np.testing.assert_allclose(exposures[1].variance, hdus["ERR", 2].data ** 2)
    made = inject(exposures[1].replace(psf=read_exposure(path, hdu=4, psf=PSF).psf), star(exposures[1]), seed=1)
    write_exposure(made.exposure, tmp_path / "out_flc.fits")
    with fits.open(path) as old, fits.open(tmp_path / "out_flc.fits") as new:
        same = [np.array_equal(a.data, b.data) for a, b in zip(old[1:], new[1:], strict=True)]
    assert same == [True, True, True, False, False, True]


def test_exposure(tmp_path) -> None:
    path = write_flt(tmp_path / "jdba2sgkq_flc.fits", chips=1)
    exposure = read_exposure(path, psf=PSF)
    assert exposure.planes["image"].attrs["units"] == "electron" and exposure.gain == 1.0
    assert exposure.mask_planes == {"HOT": 16, "SATURATED": 256, "CR_DRIZZLE": 4096}
    with fits.open(path) as hdus, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = WCS(hdus["SCI"].header)
    x, y = np.random.default_rng(1).uniform(0, 95, (2, 50))
    np.testing.assert_allclose(exposure.wcs.pixel_to_world_values(x, y), theirs.all_pix2world(x, y, 0), atol=1e-10)
    # Counts of a star times the area of its pixel are its flux: the pixel area map of the handbooks.
    assert isinstance(exposure.photo_calib.field, PixelAreaField)
    made = inject(exposure, star(exposure, 80.3, 85.2), noise=False, seed=1)
    added = np.sum(made.exposure.image.astype(float) - exposure.image) / 1200
    area = _area(theirs, 80.3, 85.2)
    assert abs(area - 1) > 5e-3
    assert ZEROPOINT - 2.5 * math.log10(added * area) == pytest.approx(20.0, abs=1e-3)


def _area(wcs: WCS, x: float, y: float) -> float:
    """Area of a pixel by the differences of astropy's positions, in nominal pixels."""
    px, py = np.array([x - 0.5, x + 0.5, x, x]), np.array([y, y, y - 0.5, y + 0.5])
    ra, dec = wcs.all_pix2world(px, py, 0)
    ra = ra * math.cos(math.radians(dec.mean()))
    cross = (ra[1] - ra[0]) * (dec[3] - dec[2]) - (ra[3] - ra[2]) * (dec[1] - dec[0])
    return abs(cross) * (3600 / HST_SCALE) ** 2


def test_chips_that_were_not_scaled_to_each_other(tmp_path) -> None:
    more = {"PHTFLAM1": PHOTFLAM, "PHTFLAM2": 1.02 * PHOTFLAM, "INSTRUME": "WFC3", "DETECTOR": "UVIS"}
    for done, offset in (("COMPLETE", 0.0), ("OMIT", -2.5 * math.log10(1.02))):
        path = write_flt(tmp_path / f"{done}_flc.fits", **more, FLUXCORR=done)
        calib = read_exposure(path, hdu=1).photo_calib  # chip 2
        expected = ZEROPOINT + 2.5 * math.log10(1200) + offset
        njy = 3631e9 * 10 ** (-0.4 * expected)
        assert calib.njy_per_unit == pytest.approx(njy, rel=2e-4)


def test_lookup_tables_that_are_missing_are_refused(tmp_path) -> None:
    path = write_flt(tmp_path / "a_flc.fits", chips=1, cards_of_table=True)
    with pytest.raises(WcsError, match="CPDIS1"):
        read_exposure(path)


def test_lookup_tables_are_applied(tmp_path) -> None:
    path = write_flt(tmp_path / "a_flc.fits", chips=1, cards_of_table=True, table=True)
    with fits.open(path) as hdus, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = WCS(hdus["SCI"].header, hdus)
    assert theirs.cpdis1 is not None
    exposure = read_exposure(path)
    x, y = np.random.default_rng(1).uniform(1, 94, (2, 50))
    sky = exposure.wcs.pixel_to_world_values(x, y)
    np.testing.assert_allclose(sky, theirs.all_pix2world(x, y, 0), rtol=0, atol=1e-10)
    np.testing.assert_allclose(exposure.wcs.world_to_pixel_values(*sky), (x, y), rtol=0, atol=1e-3)
    plain = read_exposure(write_flt(tmp_path / "b_flc.fits", chips=1)).wcs.pixel_to_world_values(x, y)
    assert np.abs(np.subtract(plain, sky)).max() * 3600 / HST_SCALE > 0.1


def test_two_zeropoints_that_disagree_are_refused(tmp_path) -> None:
    path = write_drz(tmp_path / "a_drz.fits", MAGZERO=ZEROPOINT + 0.1)
    with pytest.raises(CalibrationError, match=r"from PHOTFLAM and PHOTPLAM.*MAGZERO"):
        read_exposure(path)
    assert float(read_exposure(path, zeropoint_key="MAGZERO").photo_calib.zeropoint()) == pytest.approx(ZEROPOINT + 0.1)
    path = write_drz(tmp_path / "b_drz.fits", PHOTFNU=1e-7)
    with pytest.raises(CalibrationError, match="PHOTFNU"):
        read_exposure(path)


def test_uncalibrated(tmp_path) -> None:
    path = write_drz(tmp_path / "a_drz.fits", PHOTFLAM=0.0)
    assert "no PHOTFLAM greater than zero" in str(read_exposure(path).extra["no_photo_calib"])
    path = write_drz(tmp_path / "b_drz.fits", PHOTFLAM=0.0, MAGZERO=25.9)
    assert float(read_exposure(path).photo_calib.zeropoint()) == pytest.approx(25.9)


@pytest.mark.parametrize(
    ("name", "cards", "match"),
    [
        ("jdba2sgkq_raw.fits", {}, "raw counts"),
        ("idba2sgkq_ima.fits", {}, "one image a read"),
        ("idba2sgkq_flt.fits", {"FILTER1": "G800L"}, "through G800L"),
        ("jdba2sgkq_x1d.fits", {}, "extracted spectra"),
    ],
)
def test_other_products_are_refused_by_name(tmp_path, name, cards, match) -> None:
    path = write_flt(tmp_path / name, **cards)
    for read in (read_exposure, read_footprint):
        with pytest.raises(FormatError, match=match):
            read(path)


def test_weights_alone_are_refused(tmp_path) -> None:
    write_drz(tmp_path / "x_drz_sci.fits", beside="x_drz_wht.fits")
    with fits.open(tmp_path / "x_drz_sci.fits") as hdus:
        header = hdus[0].header
        fits.PrimaryHDU(hdus[0].data, header).writeto(tmp_path / "y_drz_wht.fits")
    with pytest.raises(FormatError, match="weights"):
        read_exposure(tmp_path / "y_drz_wht.fits")


@pytest.mark.parametrize(
    ("wheels", "band"),
    [
        ({"FILTER": "F444W", "PUPIL": "CLEAR"}, "F444W"),
        ({"FILTER": "F444W-CLEAR", "PUPIL": "CLEAR"}, "F444W"),
        ({"FILTER": "F444W-F470N"}, "F470N"),
    ],
)
def test_mosaics_of_grizli(tmp_path, wheels, band) -> None:
    path = tmp_path / "x-f444w-clear_drc_sci.fits"
    write_drz(
        path, beside="x-f444w-clear_drc_wht.fits", bunit="10.0*nanoJansky", TELESCOP="JWST", INSTRUME="NIRCAM",
        GRIZLIV="1.8", **wheels, PHOTFNU=1e-8, D001OUUN=None, FILTER1=None, FILTER2=None,
    )  # fmt: skip
    exposure = read_exposure(path)
    assert exposure.format == "hst" and exposure.data_id.band == band and exposure.variance is not None
    assert float(exposure.photo_calib.zeropoint()) == pytest.approx(28.9, abs=1e-3)
    assert "JWST photometry" in exposure.photo_calib.candidates[-1].origin and "JWST" in str(exposure.extra["no_psf"])
    assert Path(read_footprint(path).files[1]).name == "x-f444w-clear_drc_wht.fits"
