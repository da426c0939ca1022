"""Recognising formats, resolving calibrations, and what reading and writing refuse."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from skygraft.errors import (
    ApertureConflictError,
    ConfigError,
    CorruptFileError,
    OutputError,
    OutputExistsError,
    UnknownFormatError,
)
from skygraft.exposure import Exposure
from skygraft.formats import (
    Format,
    ImageFootprint,
    format_names,
    get_format,
    read_exposure,
    read_footprint,
    recognise,
    recognise_format,
    write_exposure,
)
from skygraft.photometry import PSF_MODEL, PhotoCalib

CARDS = {
    "CTYPE1": "RA---TAN",
    "CTYPE2": "DEC--TAN",
    "CRVAL1": 10.0,
    "CRVAL2": -20.0,
    "CRPIX1": 10.0,
    "CRPIX2": 10.0,
    "CD1_1": -1e-4,
    "CD2_2": 1e-4,
    "MAGZERO": 27.0,
}


def make_image(path: Path, **cards: Any) -> Path:
    hdu = fits.PrimaryHDU(np.ones((20, 30), np.float32))
    hdu.header.update({**CARDS, **cards})
    hdu.writeto(path)
    return path


class Greedy(Format):
    """Says that everything is of its format."""

    name = "greedy"
    looked_for = "anything"

    def matches(self, path: Any) -> bool:
        return True

    def footprint(self, path: Any, **options: Any) -> ImageFootprint:
        raise NotImplementedError

    def read(self, path: Any, **options: Any) -> Exposure:
        raise NotImplementedError

    def write(self, exposure: Exposure, path: Any, *, like: Any, overwrite: bool = False) -> tuple[Path, ...]:
        raise NotImplementedError


class Greedier(Greedy):
    """The same once more."""

    name = "greedier"


@pytest.fixture
def greedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recognise, "specific_formats", lambda: (Greedy(), Greedier()))


def test_every_format_loads_and_names_itself() -> None:
    assert {"fits", "legacy_survey", "lsst_afw"} <= set(format_names())
    for name in format_names():
        fmt = get_format(name)
        assert fmt.name == name and fmt.looked_for and pickle.loads(pickle.dumps(fmt)).name == name


def test_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'legacy_survey'"):
        get_format("legacysurvey")


def test_what_no_format_knows_lists_what_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "t.bin").write_bytes(bytes(range(256)))
    with pytest.raises(UnknownFormatError) as caught:
        read_exposure(tmp_path / "t.bin")
    for fmt in format_names():
        assert f"{fmt} is recognised by {get_format(fmt).looked_for}" in str(caught.value)


ARCHIVE = [fits.Column(name, "J", array=[1]) for name in ("id", "cat.archive", "cat.persistable")]
PSFIELD = [fits.Column(name, "J", array=[1]) for name in ("NROW_B", "NCOL_B", "RROWS")]


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"not an image", "a text file"),
        (b"\x89HDF\r\n\x1a\n" + bytes(64), "an HDF5 file"),
        (b"<html><body>404</body></html>", "a page of HTML"),
        (b"PAR1" + bytes(16), "a Parquet table"),
        ([fits.Column("A", "J", array=[1])], "a table"),
        (ARCHIVE, "an archive of the LSST pipelines"),
        (PSFIELD, "a psField file of SDSS"),
    ],
)
def test_what_is_known_to_be_no_image_is_named(tmp_path: Path, content: Any, what: str) -> None:
    path = tmp_path / "some"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU.from_columns(content)]).writeto(path)
    with pytest.raises(UnknownFormatError, match=what) as caught:
        read_exposure(path)
    assert "is recognised by" not in str(caught.value)


def test_two_formats_that_match_are_an_error(tmp_path: Path, greedy: None) -> None:
    with pytest.raises(UnknownFormatError, match="greedy, greedier") as caught:
        recognise_format(make_image(tmp_path / "a.fits"))
    assert "format='greedy'" in str(caught.value)


def test_missing_and_empty_files(tmp_path: Path) -> None:
    (tmp_path / "empty.fits").touch()
    for name in ("missing.fits", "empty.fits"):
        for read in (read_exposure, read_footprint):
            with pytest.raises(CorruptFileError, match=name):
                read(tmp_path / name)


def test_unknown_option_names_the_nearest(tmp_path: Path) -> None:
    path = make_image(tmp_path / "a.fits")
    with pytest.raises(ConfigError, match="Did you mean 'weight'"):
        read_exposure(path, wieght="w.fits")


def test_reference_is_missing_given_or_in_conflict(tmp_path: Path) -> None:
    bare = read_exposure(make_image(tmp_path / "a.fits")).photo_calib
    assert bare is not None and bare.reference is None
    path = tmp_path / "a.fits"
    given = read_exposure(path, aperture="3.6 arcsec").photo_calib
    # 1e-4 degrees are 0.36 arcsec per pixel.
    assert given is not None and given.aperture is not None
    assert given.aperture.radius_pixels == pytest.approx(10, rel=1e-6)
    half = read_exposure(path, aperture={"diameter": "20 pix"}).photo_calib
    assert half is not None and half.aperture is not None and half.aperture.radius_pixels == pytest.approx(10)
    model = read_exposure(path, aperture="psf_model").photo_calib
    assert model is not None and model.reference is PSF_MODEL
    recorded = make_image(tmp_path / "b.fits", CALAPRAD=12.0)
    assert read_exposure(recorded, aperture="12 pix").photo_calib is not None
    with pytest.raises(ApertureConflictError, match=r"9 pix.*12 pix|12 pix.*9 pix"):
        read_exposure(recorded, aperture="9 pix")


def test_reference_of_a_given_calibration_takes_part(tmp_path: Path) -> None:
    path = make_image(tmp_path / "a.fits")
    calib = PhotoCalib.from_zeropoint(28.0, reference=PSF_MODEL, reference_origin="my notes")
    read = read_exposure(path, photo_calib=calib).photo_calib
    assert read is not None and read.reference is PSF_MODEL and "my notes" in read.reference_origin
    with pytest.raises(ApertureConflictError):
        read_exposure(path, photo_calib=calib, aperture="12 pix")


@pytest.mark.parametrize("gain", [0, -1, float("nan"), "2", True])
def test_nonsense_gain(tmp_path: Path, gain: Any) -> None:
    with pytest.raises(ConfigError, match="gain"):
        read_exposure(make_image(tmp_path / "a.fits"), gain=gain)


def test_writing_needs_a_file_to_follow_and_a_place(tmp_path: Path) -> None:
    path = make_image(tmp_path / "a.fits")
    exposure = read_exposure(path)
    with pytest.raises(OutputError, match="no file to follow"):
        write_exposure(exposure.replace(path=None), tmp_path / "b.fits")
    with pytest.raises(OutputError, match="no directory"):
        write_exposure(exposure, tmp_path / "nowhere" / "b.fits")
    with pytest.raises(OutputExistsError):
        write_exposure(exposure, path, overwrite=True)
    other = make_image(tmp_path / "c.fits", OBJECT="other")
    write_exposure(exposure.replace(path=None, format=None), tmp_path / "b.fits", like=other)
    assert fits.getheader(tmp_path / "b.fits")["OBJECT"] == "other"
    with pytest.raises(OutputExistsError):
        write_exposure(exposure, tmp_path / "b.fits")
    write_exposure(exposure, tmp_path / "b.fits", overwrite=True)
    assert "OBJECT" not in fits.getheader(tmp_path / "b.fits")


def test_failure_while_writing_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exposure = read_exposure(make_image(tmp_path / "a.fits"))
    planes = exposure.planes.copy(deep=True)
    planes["image"].values[0, 0] = 5

    def full(self: Path, target: Any) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OutputError, match="No space left"):
        write_exposure(exposure.replace(planes=planes), tmp_path / "b.fits")
    assert [p.name for p in tmp_path.iterdir()] == ["a.fits"]


def test_importing_formats_is_light() -> None:
    code = "import sys, skygraft.formats; print('galsim' in sys.modules, 'dask' in sys.modules, 'lsst' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.split()[0] == "False" and out.split()[2] == "False"


@pytest.mark.data
def test_rubin_images_are_recognised(data_dir: Path) -> None:
    # Their header WCS is an approximation and their PSF is in an archive: as ordinary FITS they would be wrong.
    for name in ("dp1_visit_image.fits", "dp1_cell_coadd.fits", "visit_image-1.0.0-dp1.json"):
        assert recognise_format(data_dir / "rubin" / name).name == "lsst_images"
