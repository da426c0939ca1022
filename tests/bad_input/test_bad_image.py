"""Images that cannot be read, are not calibrated, or contradict themselves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from skygraft import inject, read_catalog, read_exposure
from skygraft.demo.calexp import ChebyshevCalib, PsfexModel, write_calexp, write_src
from skygraft.errors import (
    ApertureConflictError,
    CalibrationError,
    ConfigError,
    CorruptFileError,
    FormatError,
    InjectionError,
    MissingWcsError,
    PsfError,
    SkygraftError,
    UncalibratedImageError,
    UnknownApertureError,
    UnknownFormatError,
    WcsError,
)
from skygraft.testing import make_exposure

MOFFAT = {"kind": "moffat", "fwhm": "0.8 arcsec"}


def in_a_campaign(night: Any, make: Callable[[str], Path], error: type[SkygraftError], *words: str) -> None:
    """Assert that the image is reported by a campaign, and costs it no other."""
    night.write_image("ccd_1.fits")
    make("ccd_2.fits")
    summary = night.campaign().run(n_workers=0)
    assert (summary.n_done, summary.ok) == (1, False)
    reports = [*summary.failures, *summary.unusable]
    assert [report.error for report in reports] == [error.__name__]
    for word in words:
        assert word in reports[0].message
    assert night.outputs() == ["ccd_1.fits"]


def test_an_unknown_aperture(night: Any) -> None:
    def make(name: str) -> Path:
        return night.write_image(name, detector=2, CALAPRAD=None)

    words = ("key aperture", "does not guess", "--aperture '12 pix'", "calibration: {aperture: 12 pix}")
    night.refused("bare.fits", *words, image=make("bare.fits"))
    exposure = read_exposure(night.folder / "bare.fits", psf=MOFFAT)
    with pytest.raises(UnknownApertureError, match="aperture='12 pix'"):
        inject(exposure, read_catalog(night.catalog))
    in_a_campaign(night, make, UnknownApertureError, "ccd_2.fits", "aperture: 12 pix")
    result = night.inject("--aperture", "12 pix", image=night.folder / "bare.fits")
    assert result.exit_code == 0, result.output


def test_an_explicit_aperture_that_disagrees_with_the_recorded_one(night: Any) -> None:
    words = ("two places disagree", "9 pix", "12 pix", "CALAPRAD = 12.0 in image.fits", "Correct or remove")
    night.refused("image.fits", *words, more=["--aperture", "9 pix"])
    with pytest.raises(ApertureConflictError):
        read_exposure(night.image, aperture="9 pix")
    night.write_image("ccd_1.fits")
    summary = night.campaign(survey={"calibration": {"aperture": "9 pix"}}).run(n_workers=0)
    assert [failure.error for failure in summary.failures] == ["ApertureConflictError"]
    assert night.outputs() == []


def write_calexp_pair(folder: Path, header_radius: float, alias_radius: float) -> Path:
    """A calexp whose header says one calibration radius, and beside it a source catalogue that says another."""
    n, path = 60, folder / "calexp-1-2.fits"
    wcs = fits.Header(
        {
            "CTYPE1": "RA---TAN",
            "CTYPE2": "DEC--TAN",
            "CRVAL1": 150.1,
            "CRVAL2": 2.2,
            "CRPIX1": 30.5,
            "CRPIX2": 30.5,
            "CD1_1": -0.2 / 3600,
            "CD1_2": 0.0,
            "CD2_1": 0.0,
            "CD2_2": 0.2 / 3600,
            "RADESYS": "ICRS",
        }
    )
    y, x = np.mgrid[-12:13, -12:13]
    core = np.exp(-0.5 * (x * x + y * y) / 2.0**2).astype(np.float32)
    components = np.zeros((6, 25, 25), np.float32)
    components[0] = core / core.sum()
    cards = {"EXPTIME": 30.0, "DATE-AVG": "2023-02-25T00:00:00", "TIMESYS": "TAI", "INSTRUMENT": "X", "DETECTOR": 2}
    write_calexp(
        path,
        image=np.zeros((n, n), np.float32),
        variance=np.full((n, n), 100, np.float32),
        mask=np.zeros((n, n), np.int32),
        wcs_header=wcs,
        psf=PsfexModel(components, 1.0, (30.0, 30.0), (30.0, 30.0), (30.0, 30.0)),
        calib=ChebyshevCalib(np.array([[50.0]]), 0.1),
        band="r",
        physical_filter="x-r",
        visit_cards={**cards, "CALAPRAD": header_radius},
    )
    columns = {"id": np.arange(3), "coord_ra": np.full(3, 2.6), "coord_dec": np.full(3, 0.04)}
    write_src(folder / "SRC-1-2.fits", columns=columns, radius=alias_radius)
    return path


def test_the_header_against_the_source_catalogue(night: Any) -> None:
    path = write_calexp_pair(night.folder, 9.0, 12.0)
    words = ("two places disagree", "CALAPRAD = 9", "slot_CalibFlux -> base_CircularApertureFlux_12_0 in SRC-1-2.fits")
    night.refused(*words, image=path, psf=())
    with pytest.raises(ApertureConflictError):
        read_exposure(path)
    (night.folder / "SRC-1-2.fits").unlink()
    path.unlink()
    agreed = read_exposure(write_calexp_pair(night.folder, 12.0, 12.0))
    assert agreed.photo_calib is not None and agreed.photo_calib.aperture is not None
    assert agreed.photo_calib.aperture.radius_pixels == 12.0


@pytest.mark.parametrize("aperture", ["twelve", "-3 pix", "0 arcsec", "12", "12 parsec"])
def test_an_aperture_that_is_none(night: Any, expect: Any, aperture: str) -> None:
    night.refused("aperture", "Give the radius", "'12 pix'", more=["--aperture", aperture])
    config = night.write_campaign(survey={"calibration": {"aperture": aperture}})
    expect.failed(night.run("run", config), "campaign.yaml", "survey.calibration.aperture", "'12 pix'")
    assert not (night.folder / "out").exists()


@pytest.mark.parametrize(
    ("cards", "words"),
    [
        ({"MAGZERO": None, "FLUXMAG0": 0.0}, "FLUXMAG0 = 0.0"),
        ({"MAGZERO": "bright"}, "MAGZERO = bright"),
        ({"MAGZERO": None}, "no "),
    ],
    ids=["FLUXMAG0 = 0", "text", "missing"],
)
def test_a_zeropoint_that_is_none(night: Any, cards: dict[str, Any], words: str) -> None:
    def make(name: str) -> Path:
        return night.write_image(name, detector=2, **cards)

    night.refused("dark.fits", "no zeropoint", words, "--zeropoint", image=make("dark.fits"))
    exposure = read_exposure(night.folder / "dark.fits", psf=MOFFAT)
    with pytest.raises(UncalibratedImageError, match=words):
        inject(exposure, read_catalog(night.catalog))
    if words.startswith("FLUX"):
        in_a_campaign(night, make, UncalibratedImageError, words)


def damaged(change: Callable[[bytes], bytes]) -> Callable[[Any, str], Path]:
    def make(night: Any, name: str) -> Path:
        path = night.write_image(name, detector=2)
        path.write_bytes(change(path.read_bytes()))
        return path

    return make


def table_only(night: Any, name: str) -> Path:
    Table({"a": [1]}).write(night.folder / name)
    return night.folder / name


def cube(night: Any, name: str) -> Path:
    path = night.write_image(name)
    pixels, header = fits.getdata(path, header=True)
    fits.PrimaryHDU(np.stack([pixels, pixels]), header).writeto(path, overwrite=True)
    return path


BAD_FILES: dict[str, tuple[Callable[[Any, str], Path], type[SkygraftError], tuple[str, ...]]] = {
    "truncated": (damaged(lambda b: b[: len(b) // 2]), CorruptFileError, ("[0]", "truncated", "again")),
    "truncated header": (damaged(lambda b: b[:1000]), CorruptFileError, ("truncated", "header", "again")),
    "zero length": (damaged(lambda b: b""), CorruptFileError, ("empty (0 bytes)", "again")),
    "not FITS": (damaged(lambda b: b"hello"), UnknownFormatError, ("no format recognises", "Check that")),
    "table": (table_only, UnknownFormatError, ("no format recognises", "the file holds 0", "no image")),
    "cube": (cube, UnknownFormatError, ("a cube of 2 x 120 x 120 pixels", "120x120x2 image", "a file of its own")),
    "no WCS": (
        lambda night, name: night.write_image(name, detector=2, **night.WITHOUT_WCS),
        MissingWcsError,
        ("celestial WCS", "120x120 image", "CTYPE, CRVAL, CRPIX"),
    ),
    "linear WCS": (
        lambda night, name: night.write_image(name, detector=2, CTYPE1="LINEAR", CTYPE2="LINEAR"),
        MissingWcsError,
        ("[0]", "'LINEAR'", "CTYPE, CRVAL, CRPIX"),
    ),
    "unparsable card": (
        damaged(lambda b: b.replace(b"CRVAL1  =                150.1", b"CRVAL1  =                  NaN")),
        WcsError,
        ("CRVAL1", "NaN"),
    ),
    "singular WCS": (
        lambda night, name: night.write_image(name, detector=2, CD1_1=0.0),
        WcsError,
        ("[0]", "singular", "Repair"),
    ),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_file_that_is_no_image(night: Any, name: str) -> None:
    make, error, words = BAD_FILES[name]
    path = make(night, "bad.fits")
    night.refused("bad.fits", *words, image=path)
    with pytest.raises(error) as caught:
        read_exposure(path)
    assert caught.value.path == str(path) and caught.value.fix
    result = night.run("inspect", path)
    assert result.exit_code == 1 and "bad.fits" in result.stderr


def test_files_that_are_not_there(night: Any) -> None:
    night.refused("nowhere.fits", "No such file", "Check the path", image=night.folder / "nowhere.fits")
    (night.folder / "folder.fits").mkdir()
    night.refused("folder.fits", "a directory", "Give a file in it", image=night.folder / "folder.fits")


@pytest.mark.parametrize("hdu", ["3", "SCI", "-1"])
def test_an_hdu_that_is_not_there(night: Any, hdu: str) -> None:
    night.refused("image.fits", "key hdu", hdu, "0 PRIMARY: 120x120 image", "one of these", more=["--hdu", hdu])
    with pytest.raises(FormatError, match="0 PRIMARY"):
        read_exposure(night.image, hdu=hdu)


def test_an_unknown_format_and_option_name_the_nearest(night: Any, expect: Any) -> None:
    night.refused("'ftis'", "Did you mean 'fits'?", more=["--format", "ftis"])
    with pytest.raises(ConfigError, match=r"'wieght' is not an option.*Did you mean 'weight'\?"):
        read_exposure(night.image, wieght="w.fits")
    config = night.write_campaign(survey={"format": "ftis"})
    expect.failed(night.run("run", config), "campaign.yaml", "survey.format", "'fits'")


def test_an_image_without_any_psf(night: Any) -> None:
    night.refused("image.fits", "no PSF model beside the image (image.psf)", "--psf", psf=())
    with pytest.raises((PsfError, InjectionError), match="psf="):
        inject(read_exposure(night.image), read_catalog(night.catalog))
    night.write_image("ccd_1.fits")
    summary = night.campaign(survey={"calibration": None}).run(n_workers=0)
    assert summary.n_failed == 1 and "ccd_1.psf" in summary.failures[0].message
    assert night.outputs() == []


@pytest.mark.parametrize(
    ("psf", "words"),
    [
        ("nope.psf", ("nope.psf", "cannot be opened", "Check the path")),
        ("airy:0.9 arcsec", ("'airy'", "allowed: gaussian, moffat")),
        ("moffat:0 arcsec", ("psf.fwhm", "'0 arcsec'", "positive length")),
        ("moffat:0.9", ("psf.fwhm", "'0.9'", "unit", "'3.5 pix'")),
    ],
)
def test_a_psf_that_is_none(night: Any, psf: str, words: tuple[str, ...]) -> None:
    night.refused(*words, psf=("--psf", psf))


def test_an_image_for_a_psf(night: Any) -> None:
    night.refused("image.fits", "no image of a point source", "Give another PSF", psf=("--psf", night.image))


def write_psf_table(path: Path, ccds: list[str], expnum: int = 1234) -> Path:
    """A merged PSFEx table in the Legacy Surveys' layout: a row for each CCD."""
    n, y, x = len(ccds), *np.mgrid[-7:8, -7:8]
    mask = np.exp(-0.5 * (x * x + y * y) / 2.0**2)[None].astype(np.float32)
    cards: dict[str, tuple[str, Any]] = {
        "polnaxis": ("K", 2), "polgrp1": ("K", 1), "polname1": ("7A", "X_IMAGE"), "polzero1": ("D", 20.0),
        "polscal1": ("D", 20.0), "polgrp2": ("K", 1), "polname2": ("7A", "Y_IMAGE"), "polzero2": ("D", 15.0),
        "polscal2": ("D", 15.0), "polngrp": ("K", 1), "poldeg1": ("K", 0), "psf_samp": ("D", 1.0),
        "psfnaxis": ("K", 3), "psfaxis1": ("K", 15), "psfaxis2": ("K", 15), "psfaxis3": ("K", 1),
    }  # fmt: skip
    columns = [
        fits.Column("psf_mask", f"{mask.size}E", dim="(15,15,1)", array=[mask / mask.sum()] * n),
        fits.Column("ccdname", "4A", array=ccds),
        fits.Column("expnum", "K", array=[expnum] * n),
        *(fits.Column(name, kind, array=[value] * n) for name, (kind, value) in cards.items()),
    ]
    fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU.from_columns(columns)]).writeto(path)
    return path


def write_decam(night: Any) -> Path:
    """An image of the Legacy Surveys, its weight and its row in the table of CCDs."""
    folder = night.folder / "images"
    folder.mkdir()
    pixels, header = fits.getdata(night.image, header=True)
    for kind, data in (("ooi", pixels), ("oow", np.full_like(pixels, 0.04)), ("ood", np.zeros(pixels.shape, np.int32))):
        primary = fits.PrimaryHDU()
        primary.header.update({"PLVER": "V4.8.2", "MJD-OBS": 57000.0})
        hdu = fits.ImageHDU(data, name="N4")
        hdu.header.update({key: header[key] for key in night.WITHOUT_WCS})
        hdu.header.update({"GAINA": 3.0, "GAINB": 5.0})
        fits.HDUList([primary, hdu]).writeto(folder / f"x_1_{kind}_r_v1.fits")
    row = {"image_filename": "x_1_ooi_r_v1.fits", "camera": "decam", "expnum": 1234, "filter": "r", "exptime": 100.0}
    row |= {"zpt": 25.0, "ccdraoff": 0.0, "ccddecoff": 0.0, "ccdname": "N4", "image_hdu": 1}
    Table([row]).write(night.folder / "survey-ccds-x.fits.gz")
    return folder / "x_1_ooi_r_v1.fits"


@pytest.mark.parametrize(("ccds", "expnum"), [(["S10"], 1234), (["S10", "S11"], 1234), (["N4"], 99)])
def test_a_psf_table_of_another_ccd(night: Any, ccds: list[str], expnum: int) -> None:
    image = write_decam(night)
    table = write_psf_table(night.folder / "other.fits", ccds, expnum)
    words = ("other.fits[1]", "key ccdname", "another CCD", "CCD N4 exposure 1234", ccds[0], "Check which PSF file")
    out = night.folder / "x_1_ooi_r_v1.fits"
    night.refused(*words, image=image, psf=("--psf", table), out=out)
    with pytest.raises(PsfError, match="another CCD"):
        read_exposure(image, psf=table)
    right = write_psf_table(night.folder / "right.fits", [*ccds, "N4"] if expnum == 1234 else ccds)
    result = night.inject(image=image, psf=("--psf", right), out=out)
    assert result.exit_code == 0, result.output


def test_a_table_of_several_ccds_for_an_ordinary_image(night: Any) -> None:
    table = write_psf_table(night.folder / "many.fits", ["S10", "N4"])
    words = ("key ccdname", "exposure 77 was asked for", "S10, N4 of exposures 1234", "give one of the CCDs")
    night.refused("many.fits[1]", *words, psf=("--psf", table))


@pytest.mark.parametrize("gain", [None, 0.0, -1.0])
def test_an_image_whose_noise_cannot_be_made(night: Any, gain: float | None) -> None:
    def make(name: str) -> Path:
        return night.write_image(name, detector=2, GAIN=gain)

    words = ("key gain", "no variance plane", "Give gain=", "noise=False")
    night.refused("quiet.fits", *words, "--gain", "--no-noise", image=make("quiet.fits"))
    exposure = read_exposure(night.folder / "quiet.fits", psf=MOFFAT)
    with pytest.raises(CalibrationError, match="no variance plane") as caught:
        inject(exposure, read_catalog(night.catalog))
    assert caught.value.path == str(night.folder / "quiet.fits")
    if gain is None:
        in_a_campaign(night, make, CalibrationError, "ccd_2.fits", "injection: {noise: false}")
        for more in (["--gain", "2"], ["--no-noise", "--overwrite"]):
            assert night.inject(*more, image=night.folder / "quiet.fits").exit_code == 0


def test_a_gain_that_makes_no_sense(night: Any) -> None:
    night.refused("-1", "Give", more=["--gain", "-1"])


@pytest.mark.parametrize("option", ["--gain", "--zeropoint"])
@pytest.mark.parametrize("value", ["nan", "-inf"])
def test_numbers_that_are_none(night: Any, option: str, value: str) -> None:
    result = night.inject(option, value)
    assert result.exit_code == 2 and option in result.stderr and f"{value} is not finite" in result.stderr


def test_a_negative_seed(night: Any, expect: Any) -> None:
    result = night.inject("--seed", "-1")
    assert result.exit_code == 2 and "--seed" in result.stderr and "Traceback" not in result.stderr
    config = night.write_campaign(injection={"seed": -1})
    expect.failed(night.run("run", config), "campaign.yaml", "injection.seed", "greater than or equal to 0", "-1")
    with pytest.raises(ConfigError, match="seed"):
        inject(make_exposure((120, 120), center=(150.1, 2.2)), night.sources(), seed=-1)
