"""JWST images: mosaics and calibrated exposures, written by astropy with the cards and HDUs of real ones."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import QTable
from astropy.wcs import WCS

from kits.space_images import AREA, PHOTONS, PSF, SIZE, pipeline, relative_areas, write_jwst
from skygraft import inject
from skygraft.errors import CalibrationError, ConfigError, FormatError, UncalibratedImageError, WcsError
from skygraft.formats import read_calibration, read_exposure, read_footprint, write_exposure
from skygraft.formats.base import CAUTION
from skygraft.formats.conformance import check_format
from skygraft.formats.jwst import JwstFormat
from skygraft.photometry import TOTAL
from skygraft.wcs import FitsWcs, GwcsWcs
from skygraft.wcs import gwcs as gwcs_module

CAL = "jw02736001001_02105_00001_nrcalong_cal.fits"
I2D = "jw02736-o001_t001_nircam_clear-f444w_i2d.fits"


def star(exposure, x: float = 47.3, y: float = 44.8, mag: float = 22.0) -> QTable:
    ra, dec = exposure.wcs.pixel_to_world_values(x, y)
    return QTable({"injection_id": [1], "ra": [ra], "dec": [dec], "source_type": ["Star"], "mag_F444W": [mag]})


@pytest.mark.parametrize(("name", "mosaic"), [(CAL, False), (I2D, True)])
def test_conformance(tmp_path, name, mosaic) -> None:
    path = write_jwst(tmp_path / name, mosaic=mosaic)
    (tmp_path / "out").mkdir()
    check_format(JwstFormat(), path, tmp_path / "out")


def test_mosaic(tmp_path) -> None:
    path = write_jwst(tmp_path / I2D, mosaic=True)
    exposure = read_exposure(path)
    with fits.open(path) as hdus, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        np.testing.assert_array_equal(exposure.image, hdus["SCI"].data)
        np.testing.assert_allclose(exposure.variance, hdus["ERR"].data ** 2)
        theirs = WCS(hdus["SCI"].header)
    assert exposure.format == "jwst" and isinstance(exposure.wcs, FitsWcs)
    x, y = np.random.default_rng(1).uniform(-5, 100, (2, 50))
    ra, dec = exposure.wcs.pixel_to_world_values(x, y)
    np.testing.assert_allclose(theirs.all_world2pix(ra, dec, 0), (x, y), atol=1e-3)
    assert exposure.data_id.as_dict() == {"instrument": "NIRCAM", "band": "F444W", "name": I2D.removesuffix(".fits")}
    # The documented zeropoint of one MJy/sr in one pixel.
    assert float(exposure.photo_calib.zeropoint()) == pytest.approx(-6.10 - 2.5 * np.log10(AREA), abs=2e-3)
    assert float(exposure.photo_calib.zeropoint()) == pytest.approx(8.9 - 2.5 * np.log10(1e6 * AREA), abs=1e-4)
    assert exposure.photo_calib.reference is TOTAL and "Gordon" in exposure.photo_calib.reference_origin
    assert np.isnan(exposure.image[:8]).all() and "coadd_noise" in exposure.extra
    assert exposure.bad("NO_DATA")[:8].all() and not exposure.bad("NO_DATA")[8:].any()
    # The middle of the exposure in UTC (not at the barycentre), and 37 seconds to TAI.
    assert exposure.visit_info.mjd == pytest.approx(59737.1 + 37 / 86400, abs=1e-9)
    assert exposure.visit_info.exposure_time == 400.0


def test_exposure_has_the_positions_of_its_gwcs(tmp_path) -> None:
    path = write_jwst(tmp_path / CAL, mosaic=False)
    exposure = read_exposure(path)
    assert isinstance(exposure.wcs, GwcsWcs) and "caution" not in exposure.extra
    x, y = np.random.default_rng(1).uniform(0, SIZE, (2, 50))
    np.testing.assert_allclose(
        exposure.wcs.pixel_to_world_values(x, y), pipeline(distorted=True).forward_transform(x, y), rtol=0, atol=1e-12
    )
    assert exposure.data_id.visit == 273600100102105001 and exposure.data_id.detector == "NRCALONG"
    flags = {"DO_NOT_USE": 1, "SATURATED": 2, "JUMP_DET": 4, "OUTLIER": 16, "REFERENCE_PIXEL": -(2**31)}
    assert exposure.mask_planes == flags and exposure.bad("REFERENCE_PIXEL")[20, 30]
    assert "coadd_noise" not in exposure.extra


def test_the_approximation_of_the_header_is_said_to_be_one(tmp_path) -> None:
    path = write_jwst(tmp_path / CAL, mosaic=False)
    exact, header = read_exposure(path), read_exposure(path, wcs="fits")
    x, y = np.meshgrid(np.linspace(0, SIZE, 9), np.linspace(0, SIZE, 9))
    off = np.hypot(*(np.array(exact.wcs.world_to_pixel_values(*header.wcs.pixel_to_world_values(x, y))) - (x, y)))
    assert 0.005 < off.max() < 0.0176
    assert isinstance(header.wcs, FitsWcs) and "caution" not in header.extra
    with fits.open(path, mode="update") as hdus:
        hdus["SCI"].header["SIPMXERR"] = 0.3
    assert "by up to 0.3 pixels (SIPMXERR)" in read_exposure(path, wcs="fits").extra["caution"]
    with pytest.raises(ConfigError, match="allowed: auto, fits, gwcs"):
        read_exposure(path, wcs="best")


def test_exposure_without_its_asdf_extension(tmp_path) -> None:
    path = write_jwst(tmp_path / CAL, mosaic=False, asdf=False)
    for read in (read_exposure, read_footprint):
        with pytest.raises(WcsError, match=r"no ASDF extension.*wcs='fits'"):
            read(path)
    assert isinstance(read_exposure(path, wcs="fits").wcs, FitsWcs)
    with fits.open(path, mode="update") as hdus:
        del hdus["SCI"].header["SIPMXERR"]
    assert "by an unknown amount" in read_exposure(path, wcs="fits").extra["caution"]
    with fits.open(path) as hdus:
        header = hdus[0].header + hdus["SCI"].header
        alone = fits.PrimaryHDU(hdus["SCI"].data, hdus["SCI"].header)
        alone.header.update({key: header[key] for key in ("TELESCOP", "INSTRUME", "FILTER", "PUPIL")})
        alone.writeto(tmp_path / "plane.fits")
    assert "SIP approximation" in read_exposure(tmp_path / "plane.fits").extra["caution"]


def test_without_the_extra_mosaics_are_read_and_exposures_say_what_to_install(tmp_path, monkeypatch) -> None:
    cal, i2d = write_jwst(tmp_path / CAL, mosaic=False), write_jwst(tmp_path / I2D, mosaic=True)
    monkeypatch.setattr(gwcs_module.importlib.util, "find_spec", lambda name: None)
    assert read_exposure(i2d).photo_calib is not None
    with pytest.raises(ConfigError, match=r"pip install 'skygraft\[asdf\]'"):
        read_exposure(cal)
    assert isinstance(read_exposure(cal, wcs="fits").wcs, FitsWcs)


@pytest.mark.parametrize(("name", "mosaic"), [(CAL, False), (I2D, True)])
def test_closure(tmp_path, name, mosaic) -> None:
    exposure = read_exposure(write_jwst(tmp_path / name, mosaic=mosaic), psf=PSF)
    areas = np.ones(exposure.shape) if mosaic else relative_areas(pipeline(distorted=True))
    for x, y in ((47.3, 44.8), (75.2, 80.9)):
        made = inject(exposure, star(exposure, x, y), noise=False, seed=1)
        added = np.nan_to_num(made.exposure.image.astype(float) - exposure.image)
        # The area at the source, as the mission's photometry takes it.
        flux = added.sum() * AREA * 1e6 * areas[round(y), round(x)]
        assert 8.9 - 2.5 * np.log10(flux) == pytest.approx(22.0, abs=1e-3)


def test_photon_noise_follows_var_poisson(tmp_path) -> None:
    path = write_jwst(tmp_path / I2D, mosaic=True)
    exposure = read_exposure(path, psf=PSF)
    made = inject(exposure, star(exposure), seed=1)
    assert made.summary["gain"] == pytest.approx(PHOTONS, rel=1e-3)
    # The injected exposure knows of the new photons, too.
    again = inject(made.exposure, star(exposure, 60, 60), seed=2)
    assert again.summary["gain"] == pytest.approx(PHOTONS, rel=1e-2)
    (tmp_path / "out").mkdir()
    target = tmp_path / "out" / I2D
    assert [p.name for p in write_exposure(made.exposure, target)] == [I2D, I2D.replace(".fits", ".mask.fits")]
    with fits.open(path) as old, fits.open(target) as new:
        more = made.exposure.variance - exposure.variance
        added = new["VAR_POISSON"].data - old["VAR_POISSON"].data
        np.testing.assert_allclose(added[8:], more[8:], atol=1e-5 * np.nanmax(more))
        np.testing.assert_allclose(new["ERR"].data ** 2, made.exposure.variance, rtol=1e-5)
        np.testing.assert_array_equal(new["SCI"].data, made.exposure.image)
        assert [h.name for h in old] == [h.name for h in new]


def spans(path: Path) -> dict[str, bytes]:
    content = path.read_bytes()
    with fits.open(path) as hdus:
        infos = [(hdu.name, hdu._header_offset, hdu._data_offset + hdu._data_size) for hdu in hdus]
    return {name: content[start:end] for name, start, end in infos}


def test_untouched_hdus_are_the_same_bytes(tmp_path) -> None:
    path = write_jwst(tmp_path / CAL, mosaic=False)
    exposure = read_exposure(path, psf=PSF)
    made = inject(exposure, star(exposure), seed=1)
    target = tmp_path / "new_cal.fits"
    write_exposure(made.exposure, target)
    old, new = spans(path), spans(target)
    assert {name for name in old if old[name] != new[name]} == {"SCI", "ERR", "VAR_POISSON"}
    again = read_exposure(target)
    assert (again.mask & again.mask_planes["INJECTED"]).any() and again.mask_planes["OUTLIER"] == 16
    assert [Path(f).name for f in read_footprint(target).files] == ["new_cal.fits", "new_cal.mask.fits"]
    assert read_calibration(target).n_files >= 2


@pytest.mark.parametrize(
    ("cards", "match"),
    [
        ({"DATAMODL": "CubeModel"}, "a cube of single integrations"),
        ({"DATAMODL": "RampModel"}, "this is ramps"),
        ({"DATAMODL": "Level1bModel"}, "uncalibrated ramps"),
        ({"BUNIT": "DN/s"}, "_rate"),
        ({"EXP_TYPE": "NRC_WFSS"}, "an exposure of type NRC_WFSS"),
        ({"EXP_TYPE": "MIR_MRS"}, "an exposure of type MIR_MRS"),
    ],
)
def test_other_products_are_refused_by_name(tmp_path, cards, match) -> None:
    path = write_jwst(tmp_path / CAL, mosaic=False, **cards)
    for read in (read_exposure, read_footprint):
        with pytest.raises(FormatError, match=match):
            read(path)


@pytest.mark.parametrize("mosaic", [True, False])
def test_an_image_without_its_unit_says_which_card_is_missing(tmp_path, mosaic) -> None:
    path = write_jwst(tmp_path / ("jw_i2d.fits" if mosaic else "jw_cal.fits"), mosaic=mosaic)
    whole = read_exposure(path, psf=PSF).photo_calib
    with fits.open(path, mode="update") as hdus:
        del hdus["SCI"].header["BUNIT"]
    exposure = read_exposure(path, psf=PSF)
    with pytest.raises(UncalibratedImageError, match=r"no BUNIT, and PIXAR_SR .HDU 1.*unit='MJy/sr'") as caught:
        inject(exposure, star(exposure), noise=False)
    assert (caught.value.path, caught.value.hdu, caught.value.key) == (str(path), 1, "BUNIT")
    assert read_exposure(path, psf=PSF, unit="MJy/sr").photo_calib == whole


def test_a_ramp_is_refused_by_its_axes(tmp_path) -> None:
    primary = fits.PrimaryHDU()
    primary.header["TELESCOP"] = "JWST"
    path = tmp_path / "jw_uncal.fits"
    fits.HDUList([primary, fits.ImageHDU(np.zeros((2, 5, 8, 8), np.uint16), name="SCI")]).writeto(path)
    with pytest.raises(FormatError, match="a cube of 4 axes"):
        read_exposure(path)


@pytest.mark.parametrize(
    ("filter_name", "pupil", "band"),
    [
        ("F444W", "CLEAR", "F444W"),
        ("F444W", "F470N", "F470N"),
        ("CLEAR", "F115W", "F115W"),
        ("F150W2", "F164N", "F164N"),
    ],
)
def test_band(tmp_path, filter_name, pupil, band) -> None:
    path = write_jwst(tmp_path / I2D, mosaic=True, FILTER=filter_name, PUPIL=pupil)
    assert read_footprint(path).data_id.band == band


def test_a_plane_cut_from_a_mosaic_is_read(tmp_path) -> None:
    whole = write_jwst(tmp_path / I2D, mosaic=True)
    with fits.open(whole) as hdus:
        header = hdus[0].header + hdus["SCI"].header
        alone = fits.PrimaryHDU(hdus["SCI"].data[20:60, 10:70], hdus["SCI"].header)
        alone.header.update({key: header[key] for key in ("TELESCOP", "INSTRUME", "FILTER", "PUPIL", "EXPMID")})
        alone.header["CRPIX1"] -= 10
        alone.header["CRPIX2"] -= 20
        alone.writeto(tmp_path / "cut_i2d.fits")
    exposure, before = read_exposure(tmp_path / "cut_i2d.fits"), read_exposure(whole)
    assert exposure.format == "jwst" and exposure.variance is None and exposure.photo_calib == before.photo_calib
    found = exposure.wcs.pixel_to_world_values(3, 4)
    np.testing.assert_allclose(found, before.wcs.pixel_to_world_values(13, 24), rtol=0, atol=1e-10)


def test_a_gwcs_of_another_image_is_refused(tmp_path) -> None:
    path = write_jwst(tmp_path / CAL, mosaic=False)
    with fits.open(path) as hdus:
        for hdu in hdus[1:]:
            if hdu.is_image:
                hdu.data = hdu.data[20:60, 10:70].copy()
        hdus["SCI"].header["CRPIX1"] -= 10
        hdus["SCI"].header["CRPIX2"] -= 20
        hdus.writeto(tmp_path / "cut_cal.fits")
    with pytest.raises(WcsError, match="may have been cut from a larger one"):
        read_exposure(tmp_path / "cut_cal.fits")
    exposure, before = read_exposure(tmp_path / "cut_cal.fits", wcs="fits"), read_exposure(path, wcs="fits")
    found = exposure.wcs.pixel_to_world_values(3, 4)
    np.testing.assert_allclose(found, before.wcs.pixel_to_world_values(13, 24), rtol=0, atol=1e-10)


def test_planes_that_a_product_always_has_are_missed(tmp_path) -> None:
    for name, option in (("ERR", "rms"), ("DQ", "mask")):
        path = write_jwst(tmp_path / f"{name}_cal.fits", mosaic=False)
        with fits.open(path, mode="update") as hdus:
            del hdus[name]
        with pytest.raises(FormatError, match=f"no HDU {name}.*{option}=False"):
            read_exposure(path)
        assert read_exposure(path, **{option: False}).photo_calib is not None


def test_an_exposure_without_areas_says_what_that_means(tmp_path) -> None:
    path = write_jwst(tmp_path / "jw02736001001_02105_00001_nrcalong_cal.fits", mosaic=False)
    assert CAUTION not in read_exposure(path, psf=PSF).extra
    with fits.open(path) as hdus:
        hdus["AREA"].name = "OTHER"
        hdus.writeto(tmp_path / "b_cal.fits")
    assert "no HDU AREA" in read_exposure(tmp_path / "b_cal.fits", psf=PSF).extra[CAUTION]


@pytest.mark.parametrize("named", ["CD", "PC"])
def test_the_plane_of_a_mosaic_in_a_file_of_its_own(tmp_path, named) -> None:
    """Surveys publish mosaics so (COSMOS-Web, PRIMER: ..._sci.fits); the header of an exposure is no more exact."""
    with fits.open(write_jwst(tmp_path / I2D, mosaic=True)) as hdus:
        header = hdus[0].header.copy()
        header.update(hdus["SCI"].header)
        image = hdus["SCI"].data
    for key in ("S_RESAMP", "FILENAME", "PXSCLRT", "RESWHT", "DATE-OBS"):
        header.remove(key, ignore_missing=True)
    matrix = WCS(header).pixel_scale_matrix
    for key in [key for key in header if re.fullmatch(r"(CD|PC)\d_\d|CDELT\d", key)]:
        del header[key]
    for i in (0, 1):
        header[f"CDELT{i + 1}"] = 1.0
        header.update({f"{named}{i + 1}_{j + 1}": matrix[i, j] for j in (0, 1)})
    fits.writeto(path := tmp_path / "mosaic_f444w_30mas_sci.fits", image, header)
    exposure = read_exposure(path)
    assert exposure.format == "jwst" and CAUTION not in exposure.extra
    there = WCS(header).pixel_to_world(3.2, 5.7).icrs
    assert np.ravel(exposure.wcs.world_to_pixel_values(there.ra.deg, there.dec.deg)) == pytest.approx(
        [3.2, 5.7], abs=1e-6
    )
    header[f"{named}1_1"] *= 1.001
    fits.writeto(path := tmp_path / "jw1_nrcblong_sci.fits", image, header)
    with pytest.raises(WcsError, match="no ASDF extension"):
        read_exposure(path)


def test_areas_that_disagree_are_refused(tmp_path) -> None:
    path = write_jwst(tmp_path / I2D, mosaic=True, PIXAR_SR=4 * AREA, PIXAR_A2=None)
    with pytest.raises(CalibrationError, match="two areas of a pixel disagree"):
        read_exposure(path)
    exposure = read_exposure(path, pixel_area="wcs")
    assert float(exposure.photo_calib.zeropoint()) == pytest.approx(8.9 - 2.5 * np.log10(1e6 * AREA), abs=1e-4)


def test_error_names_stpsf(tmp_path) -> None:
    assert "stpsf" in str(read_exposure(write_jwst(tmp_path / I2D, mosaic=True)).extra["no_psf"])
