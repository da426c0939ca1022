"""Science images of ZTF, against its documents, astropy and SEP."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import QTable
from astropy.time import Time
from astropy.wcs import WCS

from kits.survey_frames import ZTF_NAME, write_ztf_image
from skygraft import inject, read_exposure, write_exposure
from skygraft.errors import FormatError, PsfError, UncalibratedImageError
from skygraft.formats import get_format, read_footprint, recognise_format
from skygraft.formats.base import CAUTION
from skygraft.photometry import PSF_MODEL
from skygraft.testing import check_format

ZEROPOINT = 26.32573890686035


def test_an_image_has_what_its_header_and_companions_say(tmp_path: Path) -> None:
    path = write_ztf_image(tmp_path / ZTF_NAME)
    assert recognise_format(path).name == "ztf"
    exposure = read_exposure(path)
    data_id = exposure.data_id
    assert (data_id.instrument, data_id.visit, data_id.detector, data_id.band) == ("ZTF", 20200723164595, 6, "g")
    assert exposure.photo_calib is not None and exposure.photo_calib.reference is PSF_MODEL
    assert float(exposure.photo_calib.zeropoint()) == pytest.approx(ZEROPOINT)
    assert exposure.gain == 6.2 and exposure.gain_origin == "GAIN in the header of HDU 0"
    start = Time(59053.1645949, format="mjd", scale="utc")
    assert exposure.visit_info.mjd == pytest.approx(start.tai.mjd + 15 / 86400, abs=1e-9)
    assert exposure.visit_info.exposure_time == 30
    bits = fits.getdata(path.with_name(path.name.replace("sciimg", "mskimg")))
    np.testing.assert_array_equal(exposure.mask, bits)
    assert exposure.mask_planes["SATURATED"] == 256 and exposure.mask_planes["HALO"] == 4096
    np.testing.assert_array_equal(exposure.bad(), (bits & 256) != 0)
    kernel = fits.getdata(tmp_path / "ztf_20200723164595_000752_zg_c02_o_q3_sciimgdaopsfcent.fits")
    np.testing.assert_allclose(exposure.psf.kernels([50.0], [50.0])[0], kernel, rtol=1e-5)
    footprint = read_footprint(path)
    assert [Path(name).name for name in footprint.files] == [
        ZTF_NAME,
        ZTF_NAME.replace("sciimg", "mskimg"),
        ZTF_NAME.replace("sciimg", "sciimgdaopsfcent"),
    ]


def test_positions_are_astropys(tmp_path: Path) -> None:
    path = write_ztf_image(tmp_path / ZTF_NAME, CRPIX1=1536.5, CRPIX2=1540.5)
    exposure = read_exposure(path)
    x, y = np.array([0.0, 111.0, 30.25]), np.array([0.0, 95.0, 60.5])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sky = WCS(fits.getheader(path)).all_pix2world(x, y, 0)
    np.testing.assert_allclose(exposure.wcs.world_to_pixel_values(*sky), [x, y], atol=1e-3)


@pytest.mark.parametrize(
    ("name", "how"),
    [
        (ZTF_NAME, {}),
        (ZTF_NAME, {"mask": False, "psf": False}),
        ("ztf_20200723164595_000752_zg_c02_o_q3_sciimg_ra246.1629_dec36.3382_asec100.fits", {}),
        ("mine.fits", {"mask": False, "psf": False}),
    ],
)
def test_conformance(tmp_path: Path, name: str, how: dict[str, bool]) -> None:
    path = write_ztf_image(tmp_path / name, **how)
    (tmp_path / "out").mkdir()
    check_format(get_format("ztf"), path, tmp_path / "out")


def _star(exposure: object, mag: float, x: float, y: float) -> QTable:
    ra, dec = exposure.wcs.pixel_to_world_values(x, y)  # type: ignore[attr-defined]
    return QTable({"injection_id": [1], "ra": [ra], "dec": [dec], "mag_g": [mag], "source_type": ["Star"]})


def test_closure_in_a_psf_fit_and_outputs_under_the_survey_s_names(tmp_path: Path) -> None:
    path = write_ztf_image(tmp_path / ZTF_NAME)
    exposure = read_exposure(path)
    found = inject(exposure, _star(exposure, 16.0, 55.0, 48.0), seed=2)
    clean = inject(exposure, _star(exposure, 16.0, 55.0, 48.0), noise=False)
    kernel = fits.getdata(tmp_path / "ztf_20200723164595_000752_zg_c02_o_q3_sciimgdaopsfcent.fits").astype(float)
    kernel /= kernel.sum()
    added = (clean.exposure.image.astype(float) - exposure.image)[36:61, 43:68]
    amplitude = (added * kernel).sum() / (kernel**2).sum()
    assert ZEROPOINT - 2.5 * np.log10(amplitude) == pytest.approx(16.0, abs=1e-4)
    (tmp_path / "out").mkdir()
    written = write_exposure(found.exposure, tmp_path / "out" / ZTF_NAME)
    assert [p.name for p in written] == [
        ZTF_NAME,
        ZTF_NAME.replace("sciimg", "mskimg"),
        ZTF_NAME.replace("sciimg", "sciimgdaopsfcent"),
    ]
    again = read_exposure(written[0])
    assert again.mask_planes["INJECTED"] == 8192
    np.testing.assert_array_equal(again.mask, found.exposure.mask)
    assert again.psf == exposure.psf
    assert written[2].read_bytes() == (tmp_path / written[2].name).read_bytes()
    with pytest.raises(FormatError, match="sciimg"):
        write_exposure(found.exposure, tmp_path / "out" / "other.fits")


def test_sep_finds_the_star_where_it_was_put(tmp_path: Path) -> None:
    import sep

    path = write_ztf_image(tmp_path / ZTF_NAME)
    exposure = read_exposure(path)
    found = inject(exposure, _star(exposure, 17.0, 60.3, 44.8), seed=2)
    (tmp_path / "out").mkdir()
    write_exposure(found.exposure, tmp_path / "out" / ZTF_NAME)
    data = np.ascontiguousarray(fits.getdata(tmp_path / "out" / ZTF_NAME).astype(np.float32)) - np.float32(160)
    objects = sep.extract(data, 10.0, err=5.1)
    assert len(objects) == 1
    assert np.hypot(objects["x"][0] - 60.3, objects["y"][0] - 44.8) < 0.1


def test_a_failed_image_is_read_with_a_caution(tmp_path: Path) -> None:
    path = write_ztf_image(tmp_path / ZTF_NAME, INFOBITS=(1 << 25) + 5)
    assert "INFOBITS = 33554437" in read_exposure(path).extra[CAUTION]
    good = write_ztf_image(tmp_path / ZTF_NAME.replace("q3", "q4"), INFOBITS=5)
    assert CAUTION not in read_exposure(good).extra


def test_an_image_without_its_zeropoint_names_the_card_and_what_to_give(tmp_path: Path) -> None:
    path = write_ztf_image(tmp_path / ZTF_NAME)
    with fits.open(path, mode="update") as hdus:
        del hdus[0].header["MAGZP"]
    assert recognise_format(path).name == "ztf"
    exposure = read_exposure(path)
    with pytest.raises(
        UncalibratedImageError, match=r"no MAGZP\). Fetch the image again, or give zeropoint="
    ) as caught:
        inject(exposure, _star(exposure, 18.0, 50.0, 50.0), noise=False)
    assert (caught.value.path, caught.value.hdu, caught.value.key) == (str(path), 0, "MAGZP")
    given = read_exposure(path, zeropoint=ZEROPOINT)
    assert float(given.photo_calib.zeropoint()) == pytest.approx(ZEROPOINT)
    assert given.photo_calib.reference is PSF_MODEL


def test_an_image_without_companions_says_what_it_lacks(tmp_path: Path) -> None:
    exposure = read_exposure(write_ztf_image(tmp_path / ZTF_NAME, mask=False, psf=False))
    assert isinstance(exposure.extra["no_psf"], PsfError) and "daopsfcent" in str(exposure.extra["no_psf"])


@pytest.mark.parametrize("damage", ["nan", "off", "negative", "even"])
def test_a_damaged_psf_image_is_refused(tmp_path: Path, damage: str) -> None:
    path = write_ztf_image(tmp_path / ZTF_NAME)
    psf = path.with_name(ZTF_NAME.replace("sciimg", "sciimgdaopsfcent"))
    kernel = fits.getdata(psf)
    changed = {"nan": kernel * np.nan, "off": np.roll(kernel, 4, 1), "negative": -kernel, "even": kernel[:, 1:]}[damage]
    fits.writeto(psf, changed, overwrite=True)
    with pytest.raises(PsfError, match="PSF image"):
        read_exposure(path)
    assert read_exposure(path, psf={"kind": "moffat", "fwhm": "2 arcsec"}).psf is not None


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        ("scimrefdiffimg.fits.fz", "difference image of ZTF"),
        ("refimg.fits", "reference image of ZTF"),
        ("mskimg.fits", "mask of a ZTF image"),
    ],
)
def test_other_products_are_refused_by_name(tmp_path: Path, kind: str, what: str) -> None:
    path = write_ztf_image(tmp_path / ZTF_NAME, mask=False, psf=False)
    other = path.rename(path.with_name(path.name.replace("sciimg.fits", kind)))
    with pytest.raises(FormatError, match=what):
        read_exposure(other)
