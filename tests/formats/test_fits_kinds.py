"""What is no science image, or another format's, is refused by what it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from kits.plain_images import plain_header, write_plain_image
from skygraft.errors import CalibrationError, FormatError, MissingWcsError, UnknownFormatError
from skygraft.formats import read_calibration, read_exposure, read_footprint, write_exposure
from skygraft.survey import index_images

SIZE = 40


def hdu(name: str = "", dtype: str = "f4", **cards: Any) -> fits.ImageHDU:
    header = plain_header(150.0, 2.0, SIZE)
    header.update(cards)
    return fits.ImageHDU(np.ones((SIZE, SIZE), dtype), header, name=name or None)


def write(path: Path, *hdus: fits.ImageHDU, **primary: Any) -> Path:
    first = fits.PrimaryHDU()
    first.header.update(primary)
    fits.HDUList([first, *hdus]).writeto(path)
    return path


def refused(path: Path, *words: str, **options: Any) -> None:
    for read in (read_exposure, read_footprint, read_calibration):
        with pytest.raises(FormatError) as caught:
            read(path, **options)
        for word in (*words, "science image"):
            assert word in str(caught.value)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("WHT", "weights"), ("IVAR", "weights"), ("VARIANCE", "variance"), ("VAR_POISSON", "variance"),
        ("ERR", "noise"), ("DQ", "mask"), ("MASKBITS", "mask"), ("BACKGROUND", "background"), ("PSF", "PSF"),
        ("NEXP", "exposures"), ("SEGMAP", "segmentation"),
    ],
)  # fmt: skip
def test_planes_named_by_their_hdu(tmp_path: Path, name: str, what: str) -> None:
    refused(write(tmp_path / "alone.fits", hdu(name)), what, f"EXTNAME {name}")
    both = write(tmp_path / "both.fits", hdu("SCI"), hdu(name))
    refused(both, what, f"EXTNAME {name}", hdu=name)
    assert read_exposure(both, hdu="SCI").shape == (SIZE, SIZE)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("a.weight.fits", "weights"), ("a_wht.fits", "weights"), ("a-ivar.fits.gz", "weights"),
        ("a.mask.fits", "mask"), ("a_dq.fits", "mask"), ("a_rms.fits", "noise"), ("a_bkg.fits", "background"),
        ("bkgd-1-2.fits", "background"), ("a_psf.fits", "PSF"), ("a_segm.fits", "segmentation"),
        ("c4d_1_oow_r_v1.fits", "weights"), ("c4d_1_ood_r_v1.fits", "data quality"), ("k4m_1_osw_z_v1.fits", "weights"),
        ("legacysurvey-1501p020-invvar-r.fits", "weights"), ("legacysurvey-1501p020-maskbits.fits", "mask"),
        ("legacysurvey-1501p020-depth-z.fits", "depth"),
    ],
)  # fmt: skip
def test_planes_named_by_their_file(tmp_path: Path, name: str, what: str) -> None:
    path = write(tmp_path / name, hdu())
    refused(path, what, "its file's name", "hdu=")
    # A name is no proof: whoever chooses the HDU is believed.
    assert read_exposure(path, hdu=1).shape == (SIZE, SIZE)
    assert read_exposure(write(tmp_path / f"sci_{name}", hdu("SCI"))).shape == (SIZE, SIZE)


@pytest.mark.parametrize("name", ["weighted.fits", "m51_masked.fits", "a_sky.fits", "backdrop.fits", "a.b.fits"])
def test_other_names_are_those_of_images(tmp_path: Path, name: str) -> None:
    assert read_exposure(write(tmp_path / name, hdu())).shape == (SIZE, SIZE)


@pytest.mark.parametrize(
    ("cards", "what"),
    [
        ({"PRODTYPE": "wtmap"}, "weights"),
        ({"PRODTYPE": "dqmask"}, "mask"),
        ({"IMTYPE": "invvar"}, "weights"),
        ({"DES_EXT": "WEIGHT"}, "weights"),
        ({"HDUCLAS2": "ERROR"}, "noise"),
        ({"OBSTYPE": "dome flat"}, "calibration"),
        ({"BUNIT": "nJy**2"}, "variance plane"),
        ({"BUNIT": "1/nanomaggy^2"}, "inverse variance plane"),
        ({"BUNIT": "adu^-2"}, "inverse variance plane"),
        ({"BKGD_X0": 0}, "background"),
    ],
)
def test_planes_named_by_their_header(tmp_path: Path, cards: dict[str, Any], what: str) -> None:
    path = write(tmp_path / "a.fits", hdu(**cards))
    refused(path, what, next(iter(cards)))
    refused(path, what, hdu=1)


def test_a_mask_is_known_by_the_names_of_its_bits(tmp_path: Path) -> None:
    refused(write(tmp_path / "a.fits", hdu(dtype="i4", MP_BAD=0, MP_SAT=1)), "mask", "MP_BAD")
    assert read_exposure(write(tmp_path / "ints.fits", hdu(dtype="i4"))).shape == (SIZE, SIZE)


def test_product_cards_of_science_images_are_no_reason(tmp_path: Path) -> None:
    for number, cards in enumerate(({"PRODTYPE": "image"}, {"OBSTYPE": "object"}, {"HDUCLAS2": "DATA"})):
        assert read_exposure(write(tmp_path / f"{number}.fits", hdu(**cards))).shape == (SIZE, SIZE)


def test_an_index_leaves_out_the_planes_of_every_hdu(tmp_path: Path) -> None:
    hdus = [hdu(f"CCD{n}", CCDNUM=n) for n in (1, 2)] + [hdu("WHT"), hdu("DQ", dtype="i4")]
    write(tmp_path / "a.fits", *hdus)
    found = index_images({"images": "a.fits", "options": {"hdu": "all"}}, tmp_path)
    assert list(found["hdu"]) == ["1", "2"] and not len(found.meta["failures"])


def test_tables_are_called_by_what_they_are(tmp_path: Path) -> None:
    columns = [fits.Column("RA", "D", array=[1.0, 2.0]), fits.Column("MAG_AUTO", "E", array=[20.0, 21.0])]
    fits.BinTableHDU.from_columns(columns).writeto(tmp_path / "t.fits")
    with pytest.raises(UnknownFormatError, match=r"a table \(rows: 2; columns: RA, MAG_AUTO\).*catalogue"):
        read_exposure(tmp_path / "t.fits")


@pytest.mark.data
def test_real_companions_are_called_by_what_they_are(data_dir: Path) -> None:
    for name, words in (
        ("video_H/image_1.weight.fits.fz", "weights"),
        ("video_H/image_1.mask.fits.fz", "a mask"),
        ("video_H/image_1.psf", "PSFEx model"),
        ("video_H/image_1.cat.fits", "rows: 614"),
        ("decam_stars/r/survey-ccds-1.fits.gz", "survey-ccds"),
        ("decam_stars/r/images/decam/CP/V4.8.2a/CP20171112/c4d_171113_060340_oow_r_ls9.N6.fits", "weights"),
        ("decam_stars/r/images/decam/CP/V4.8.2a/CP20171112/c4d_171113_060340_ood_r_ls9.N6.fits", "data quality"),
    ):
        with pytest.raises(FormatError, match=words):
            read_exposure(data_dir / name)
    with pytest.raises(MissingWcsError, match="a background model"):
        read_exposure(data_dir / "cfht_849375" / "bkgd-849375-12.fits")


@pytest.mark.data
@pytest.mark.parametrize("name", ["dp1_visit_image.fits", "dp1_cell_coadd.fits"])
def test_rubin_images_are_not_read_as_ordinary_fits(data_dir: Path, name: str) -> None:
    with pytest.raises(FormatError, match=r"lsst\.images file of Rubin \(https://images\.lsst\.io.*mask schema.*auto"):
        read_exposure(data_dir / "rubin" / name, format="fits")


def test_nothing_is_written_into_a_file_of_rubin_as_ordinary_fits(tmp_path: Path) -> None:
    schema = "https://images.lsst.io/schemas/visit_image-1.1.0"
    path = write(tmp_path / "a.fits", hdu("IMAGE"), hdu("MASK", dtype="i4"), DATAMODL=schema, FMTVER=1)
    plain = read_exposure(write_plain_image(tmp_path / "b.fits", 150.0, 2.0, SIZE))
    with pytest.raises(FormatError, match=r"visit_image-1\.1\.0"):
        write_exposure(plain.replace(extra={}), tmp_path / "c.fits", like=path)
    assert not (tmp_path / "c.fits").exists()


@pytest.mark.data
def test_an_afw_image_is_not_read_as_ordinary_fits(data_dir: Path) -> None:
    path = data_dir / "afw_reference" / "calexp_01_tan_singlegauss.fits"
    assert read_exposure(path).format == "lsst_afw"
    with pytest.raises(FormatError, match=r"LSST pipelines.*PSF, WCS, photometric calibration.*lsst_afw"):
        read_exposure(path, format="fits")


PIPELINE = {"PROCTYPE": "InstCal", "PLVER": "V4.8", "INSTRUME": "90prime", "BUNIT": "counts/s", "EXPTIME": 113.0}


@pytest.mark.parametrize("name", ["ksb_1_ooi_r_v1.fits", "renamed.fits"])
def test_a_legacy_survey_image_without_its_table_keeps_no_stale_zeropoint(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, hdu("CCD1", MAGZERO=20.34, **PIPELINE))
    if "_ooi_" in name:
        with pytest.raises(FormatError, match=r"survey-ccds.*ccds=") as caught:
            read_exposure(path, weight=False, mask=False)
        assert "MAGZERO is not" in str(caught.value)
    with pytest.raises(CalibrationError, match=r"Legacy Surveys read as ordinary FITS.*20\.34.*legacy_survey.*ccds="):
        read_exposure(path, format="fits")
    given = read_exposure(path, format="fits", zeropoint=25.48)
    assert given.photo_calib is not None and float(given.photo_calib.zeropoint()) == pytest.approx(25.48)
    # Nor is GAIN times the exposure time the electrons of a unit that may be one.
    assert given.gain is None and "photoelectrons" in given.extra["no_gain"]
    by_hand = read_exposure(path, format="fits", zeropoint_key="MAGZERO").photo_calib
    assert by_hand is not None and float(by_hand.zeropoint()) == pytest.approx(20.34)


def test_other_products_of_the_pipeline_are_ordinary_images(tmp_path: Path) -> None:
    for number, cards in enumerate(({"PROCTYPE": "Stacked"}, {"INSTRUME": "newfirm"})):
        path = write(tmp_path / f"{number}.fits", hdu("CCD1", MAGZERO=25.0, **(PIPELINE | cards)))
        calib = read_exposure(path).photo_calib
        assert calib is not None and float(calib.zeropoint()) == pytest.approx(25.0)


def test_a_cube_is_said_to_be_one(tmp_path):
    path = tmp_path / "cube.fits"
    fits.PrimaryHDU(np.ones((3, SIZE, SIZE), "f4"), plain_header(150.0, 2.0, SIZE)).writeto(path)
    with pytest.raises(UnknownFormatError, match="this is a cube of 3 x 40 x 40 pixels") as caught:
        read_exposure(path)
    assert "each plane" in str(caught.value.fix) and caught.value.hdu == 0


def test_pixels_on_an_asinh_scale_are_refused(tmp_path: Path) -> None:
    """Stacks of Pan-STARRS: no flux can be added to such pixels."""
    path = write_plain_image(tmp_path / "skycell.fits", 150.0, 2.0, 20, BSOFTEN=100.0, BOFFSET=0.5)
    with pytest.raises(FormatError, match=r"asinh scale of Pan-STARRS.*BOFFSET \+ 2 BSOFTEN sinh"):
        read_exposure(path)
