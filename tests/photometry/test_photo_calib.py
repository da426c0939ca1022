"""PhotoCalib: closed forms, and the values of the real LSST code."""

from __future__ import annotations

import json
import math
import pickle

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st

from skygraft.errors import CalibrationError, ConfigError, UncalibratedImageError
from skygraft.photometry import (
    PSF_MODEL,
    CalibrationAperture,
    ChebyshevField,
    GridField,
    PhotoCalib,
    PixelAreaField,
    ProductField,
    ReferenceCandidate,
    canonical_unit,
)
from skygraft.wcs import FitsWcs

CONSTANT = ("calexp_01_tan_singlegauss", "calexp_06_tan_afwgaussian", "coadd_10_coaddpsf")
CHEBYSHEV = ("calexp_02_tansip_doublegauss_gzip2", "calexp_05_tansip_psfex_rice")
PRODUCT = ("calexp_03_polymap_pca_xy0",)


class Archive:
    """Just enough of an afw archive to find the coefficients by hand."""

    def __init__(self, path):
        self._hdus = fits.open(path)
        self._index_hdu = self._hdus[0].header["AR_HDU"] - 1
        self.photo_calib_id = self._hdus[0].header["PHOTOCALIB_ID"]

    def rows(self, number):
        entry = next(r for r in self._hdus[self._index_hdu].data if r["id"] == number)
        data = self._hdus[self._index_hdu + entry["cat.archive"]].data
        return entry["name"].strip(), data[entry["row0"] : entry["row0"] + entry["nrows"]]

    def field(self, number):
        name, rows = self.rows(number)
        row = rows[0]
        if name == "ProductBoundedField":
            return ProductField([self.field(r["id"]) for r in rows])
        box = [int(row[f"bbox_{k}"]) for k in ("min_x", "max_x", "min_y", "max_y")]
        if name == "ChebyshevBoundedField":
            return ChebyshevField(np.reshape(row["coefficients"], (-1, row["order_x"] + 1)), box)
        from skygraft.wcs import AstWcs

        text = bytes(self.rows(row["wcs"])[1][0]["wcs"]).decode()
        return PixelAreaField(AstWcs(text[text.index("Begin") - 1 :]), float(row["scaling"]), box)

    def close(self):
        self._hdus.close()


@pytest.mark.data
@pytest.mark.parametrize("name", CONSTANT + CHEBYSHEV + PRODUCT)
def test_real_lsst_calibrations(data_dir, name):
    truth = json.loads((data_dir / "afw_reference" / f"{name}.json").read_text())["photocalib"]
    archive = Archive(data_dir / "afw_reference" / f"{name}.fits")
    try:
        row = archive.rows(archive.photo_calib_id)[1][0]
        if name in CONSTANT:
            calib = PhotoCalib(row["calibrationMean"])
        else:  # the stored field has the mean in it
            calib = PhotoCalib(1.0, field=archive.field(row["field"]))
    finally:
        archive.close()
    # A pixel's area is a difference of sky positions: rounding of 1e-16 rad in 1e-6.
    rtol = 2e-9 if name in PRODUCT else 1e-12
    x, y = np.array([p["pixel"] for p in truth["points"]], dtype=float).T
    want = [p["mag20_to_instFlux"] for p in truth["points"]]
    np.testing.assert_allclose(calib.inst_flux(20.0, x, y), want, rtol=rtol)
    want = [p["instFlux1000_to_mag"] for p in truth["points"]]
    np.testing.assert_allclose(calib.magnitude(1000.0, x, y), want, rtol=0, atol=max(rtol, 1e-11))
    want = [p["local_calibration"] for p in truth["points"]]
    np.testing.assert_allclose(calib.scale(x, y), want, rtol=rtol)


def test_ab_zero_is_that_of_the_definition():
    # 1 Jy = 1e-23 erg/s/cm2/Hz; m = -2.5 log10(f_nu) - 48.6 (Oke & Gunn 1983)
    njy = 10 ** (-(20 + 48.6) / 2.5) / 1e-23 * 1e9
    assert PhotoCalib.nanojansky().inst_flux(20.0) == pytest.approx(njy, rel=1e-13)
    assert PhotoCalib.nanojansky().zeropoint() == pytest.approx(31.4, abs=1e-12)
    assert PhotoCalib.nanomaggies().zeropoint() == pytest.approx(22.5, abs=1e-12)
    assert PhotoCalib.from_zeropoint(27.0).inst_flux(27.0) == pytest.approx(1.0, rel=1e-13)
    assert PhotoCalib.from_zeropoint(27.0).inst_flux(22.0) == pytest.approx(100.0, rel=1e-13)
    assert PhotoCalib.from_fluxmag0(1e10).zeropoint() == pytest.approx(25.0, abs=1e-12)


@given(zeropoint=st.floats(-10, 50), mag=st.floats(0, 40))
@settings(deadline=None)
def test_magnitude_round_trip(zeropoint, mag):
    calib = PhotoCalib.from_zeropoint(zeropoint)
    assert calib.magnitude(calib.inst_flux(mag)) == pytest.approx(mag, abs=1e-11)
    assert calib.inst_flux(mag) == pytest.approx(10 ** (-0.4 * (mag - zeropoint)), rel=1e-12)


def test_odd_values_pass_through_without_warnings():
    calib = PhotoCalib.from_zeropoint(30.0)
    flux = calib.inst_flux([20.0, np.nan, np.inf])
    assert flux[0] == pytest.approx(1e4)
    assert np.isnan(flux[1])
    assert flux[2] == 0
    mag = calib.magnitude([1e4, -1.0, 0.0, np.nan])
    assert mag[0] == pytest.approx(20.0)
    assert np.isnan(mag[[1, 3]]).all()
    assert mag[2] == np.inf
    assert np.ndim(calib.inst_flux(20.0)) == 0


@pytest.mark.parametrize("scale", [0.0, -1.0, math.nan, math.inf])
def test_uncalibrated_is_refused(scale):
    with pytest.raises(UncalibratedImageError, match="nJy per adu"):
        PhotoCalib(scale)
    with pytest.raises(UncalibratedImageError, match="FLUXMAG0"):
        PhotoCalib.from_fluxmag0(scale)
    if not math.isfinite(scale):
        with pytest.raises(UncalibratedImageError, match="zeropoint"):
            PhotoCalib.from_zeropoint(scale)


def test_a_calibrated_image_is_not_calibrated_again():
    for field, scale in ((ChebyshevField([[0.7]], (0, 99, 0, 99)), 1.0), (None, 0.7)):
        with pytest.raises(ConfigError, match="a second time"):
            PhotoCalib(scale, "nJy", field)
    with pytest.raises(ConfigError, match="a second time"):
        PhotoCalib.from_zeropoint(25.0, "nanomaggies")


def test_varying_calibration():
    # c(x, y) = 2 * (1 + 0.5 x') with x' from -1 to 1 over the edges of 100 pixels
    calib = PhotoCalib(2.0, field=ChebyshevField([[1.0, 0.5]], (0, 99, 0, 99)))
    x = np.array([-0.5, 49.5, 99.5])
    np.testing.assert_allclose(calib.scale(x, 0 * x), [1.0, 2.0, 3.0], rtol=1e-14)
    np.testing.assert_allclose(
        calib.inst_flux(20.0, x, 0 * x) * [1.0, 2.0, 3.0], PhotoCalib.nanojansky().inst_flux(20.0), rtol=1e-14
    )
    with pytest.raises(ConfigError, match="varies"):
        calib.inst_flux(20.0)
    assert not calib.is_constant


def test_outside_its_box_a_calibration_is_that_of_the_nearest_edge():
    # The polynomial itself falls below zero at x = -50.5, and a map ends.
    falling = PhotoCalib(2.0, field=ChebyshevField([[1.0, 0.5]], (0, 99, 0, 99)))
    x, y = np.array([-200.0, -0.5, 50.0, 99.5, 99.6, np.nan]), np.array([5.0, 5.0, 5.0, 99.5, 5.0, 5.0])
    np.testing.assert_allclose(falling.scale(x, y)[[0, 3, 4]], [1.0, 3.0, 3.0], rtol=1e-12)
    assert np.isnan(falling.scale(x, y)[5])
    assert falling.is_extrapolated(x, y).tolist() == [True, False, False, False, True, False]
    # Unless the formula itself is asked for, as LSST's own code takes it.
    np.testing.assert_allclose(falling.scale(109.5, 5.0, extrapolate=True), 3.2, rtol=1e-12)
    ratio = falling.inst_flux(20.0, 109.5, 5.0) / falling.inst_flux(20.0, 109.5, 5.0, extrapolate=True)
    assert ratio == pytest.approx(3.2 / 3.0)
    table = np.arange(1.0, 13.0).reshape(3, 4)
    mapped = PhotoCalib(1.0, field=GridField(table, origin=(10, 20), step=(0.3, 0.7)))
    corners = np.array([0.0, 100.0, 0.0, 100.0]), np.array([0.0, 0.0, 100.0, 100.0])
    np.testing.assert_array_equal(mapped.scale(*corners), table[[0, 0, -1, -1], [0, -1, 0, -1]])
    assert mapped.is_extrapolated(*corners).all()
    assert not PhotoCalib(1.0).is_extrapolated(*corners).any()


def test_a_product_holds_where_its_factors_do():
    one, two = ChebyshevField([[1.0]], (0, 99, 0, 49)), GridField(np.ones((40, 80)), (30, 20))
    everywhere = PixelAreaField(FitsWcs.tan(150.0, 2.0, crpix=(0, 0), cd=np.eye(2) / 3600))
    field = ProductField([one, everywhere, two])
    assert field.valid_box == (29.5, 99.5, 19.5, 49.5)
    assert ProductField([everywhere]).valid_box is None
    with pytest.raises(CalibrationError, match="share no position"):
        ProductField([one, ChebyshevField([[1.0]], (200, 299, 0, 49))])


@pytest.mark.parametrize(
    ("given_unit", "unit"),
    [
        ("ADU", "adu"),
        ("counts", "adu"),
        ("DN/s", "adu/s"),
        ("count s-1", "adu/s"),
        ("e-", "electron"),
        ("electron s**-1", "electron/s"),
        ("electrons", "electron"),
        ("nanomaggies", "nanomaggy"),
        ("nJy", "nJy"),
        ("furlong", "furlong"),
    ],
)
def test_units_have_one_spelling(given_unit, unit):
    assert canonical_unit(given_unit) == unit
    assert canonical_unit(unit) == unit


@pytest.mark.parametrize("unit", ["MJy/sr", "mag / arcsec**2", "nJy/arcsec2"])
def test_surface_brightness_is_refused(unit):
    with pytest.raises(ConfigError, match="surface brightness"):
        PhotoCalib(1.0, unit)


def test_value_semantics_and_description():
    aperture = CalibrationAperture(12.0, 2.016, "slot")
    candidate = ReferenceCandidate("aperture", 12.0, origin="slot", level="schema")
    calib = PhotoCalib(0.5, "counts", ChebyshevField([[1.0, 0.1]], (0, 9, 0, 9)), aperture, candidates=(candidate,))
    again = pickle.loads(pickle.dumps(calib))
    assert again == calib
    assert hash(again) == hash(calib)
    assert calib != PhotoCalib(0.5, "adu", ChebyshevField([[1.0, 0.2]], (0, 9, 0, 9)), aperture)
    assert "12.0" in repr(calib)
    constant = PhotoCalib.from_zeropoint(27.0, reference=aperture)
    assert eval(repr(constant), {"PhotoCalib": PhotoCalib, "CalibrationAperture": CalibrationAperture}) == constant

    told = json.loads(json.dumps(calib.describe()))
    assert told["reference"] == {
        "kind": "aperture",
        "radius_pixels": 12.0,
        "radius_arcsec": 2.016,
        "origin": "slot",
    }
    assert told["unit"] == "adu"
    assert told["zeropoint"] is None
    assert told["candidates"][0]["level"] == "schema"
    assert json.loads(json.dumps(constant.describe()))["zeropoint"] == pytest.approx(27.0)

    assert calib.aperture is aperture
    changed = calib.with_reference(PSF_MODEL, "header")
    assert changed.aperture is None
    assert changed.reference is PSF_MODEL
    assert changed.describe()["reference"]["kind"] == "psf_model"
    assert changed.reference_origin == "header"
    assert changed.field is calib.field
