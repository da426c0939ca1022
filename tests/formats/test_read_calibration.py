"""What is read of an image's calibration without its pixels is what reading the image says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from skygraft.errors import ApertureConflictError, CalibrationError, ConfigError, UncalibratedImageError
from skygraft.exposure import NO_PHOTO_CALIB, NO_PSF, Exposure
from skygraft.formats import (
    Format,
    ImageCalibration,
    ImageFootprint,
    get_format,
    legacy_survey,
    lsst_afw,
    read_calibration,
    read_exposure,
    recognise_format,
    registry,
)
from skygraft.formats import fits as fits_format
from skygraft.formats.conformance import check_calibration
from skygraft.photometry import PSF_MODEL

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


def told(read: Callable[..., ImageCalibration | Exposure], path: Path, **options: Any) -> Any:
    """What a way to read says of an image's calibration, or the error that it raises."""
    try:
        found = read(path, **options)
    except Exception as error:
        return type(error), str(error)
    if isinstance(found, Exposure):
        no_calib, no_psf = found.extra.get(NO_PHOTO_CALIB), found.extra.get(NO_PSF)
        middle = found.box.center
    else:
        no_calib, no_psf = found.no_photo_calib, found.no_psf
        (ny, nx), (x0, y0) = found.shape, found.xy0
        middle = (x0 + (nx - 1) / 2, y0 + (ny - 1) / 2)
    gain = None if found.gain is None else np.asarray(found.gain)
    return (
        found.shape,
        found.xy0,
        found.photo_calib,
        str(no_calib),
        None if found.psf is None else found.psf.kernels([middle[0]], [middle[1]]).tobytes(),
        str(no_psf),
        None if gain is None else (gain.shape, gain.tobytes()),
        found.gain_origin,
        tuple(float(v) for v in found.wcs.pixel_to_world_values(*middle)),
    )


@pytest.mark.data
def test_every_real_file(data_dir: Path) -> None:
    seen = []
    for path in sorted(data_dir.rglob("*")):
        if not path.is_file() or not path.name.endswith((".fits", ".fits.fz", ".fits.gz")):
            continue
        whole = told(read_exposure, path)
        assert told(read_calibration, path) == whole, path
        if not isinstance(whole[0], type):
            seen.append(recognise_format(path).name)
    # The survey's weights and data quality maps are no images; the four of VIRCAM are ordinary FITS.
    assert {name: seen.count(name) >= 4 for name in ("lsst_afw", "legacy_survey", "fits")} == {
        "lsst_afw": True,
        "legacy_survey": True,
        "fits": True,
    }


@pytest.mark.data
def test_no_pixel_is_read(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("pixels were read")

    for module, name in (
        (lsst_afw, "read_plane"),
        (legacy_survey, "read_pixels"),
        (legacy_survey, "read_dq"),
        (fits_format, "read_pixels"),
        (fits_format, "read_mask"),
    ):
        monkeypatch.setattr(module, name, refuse)
    images = {
        "cfht_849375/calexp-849375-12.fits.fz": "lsst_afw",
        "video_H/image_1.fits": "fits",
        "decam_grz/images/decam/NonDECaLS/CP20141215/c4d_141224_033245_ooi_r_a1-S10.fits": "legacy_survey",
    }
    for name, fmt in images.items():
        found = read_calibration(data_dir / name, format=fmt)
        assert found.psf is not None, name
        assert found.photo_calib is not None, name
        with pytest.raises(AssertionError, match="pixels were read"):
            read_exposure(data_dir / name, format=fmt)


@pytest.mark.parametrize(
    ("cards", "options"),
    [
        ({}, {}),
        ({"MAGZERO": 0.0}, {}),
        ({"MAGZERO": 0.0}, {"photo_calib": {"zeropoint": 28.0}}),
        ({"CALAPRAD": 12.0}, {}),
        ({"CALAPRAD": 12.0}, {"aperture": "9 pix"}),
        ({"CALAPRAD": 12.0}, {"aperture": "12 pix", "gain": 3.0}),
        ({"MAGZPT": 26.0}, {}),
        ({"BUNIT": "nJy"}, {"psf": {"kind": "moffat", "fwhm": "0.9 arcsec"}}),
        ({"GAIN": 2.0, "BUNIT": "adu/s", "EXPTIME": 30.0}, {"aperture": "psf_model"}),
        ({}, {"gain": -1.0}),
        ({}, {"hdu": 7}),
        ({}, {"no_such_option": 1}),
    ],
)
def test_the_same_with_what_is_given(tmp_path: Path, cards: dict[str, Any], options: dict[str, Any]) -> None:
    path = make_image(tmp_path / "a.fits", **cards)
    assert told(read_calibration, path, **options) == told(read_exposure, path, **options)


def test_what_it_says(tmp_path: Path) -> None:
    path = make_image(tmp_path / "a.fits", CALAPRAD=12.0, GAIN=2.5)
    found = read_calibration(path, psf={"kind": "gaussian", "fwhm": "3 pix"})
    assert found.photo_calib is not None
    assert found.photo_calib.zeropoint() == pytest.approx(27.0, abs=1e-12)
    assert found.photo_calib.aperture is not None
    assert found.photo_calib.aperture.radius_pixels == 12.0
    assert (found.gain, found.has_variance, found.shape, found.unit) == (2.5, False, (20, 30), "adu")
    assert found.psf is not None
    assert found.no_psf is None


def test_errors_of_the_calibration(tmp_path: Path) -> None:
    with pytest.raises(ApertureConflictError, match=r"9 pix.*12 pix"):
        read_calibration(make_image(tmp_path / "a.fits", CALAPRAD=12.0), aperture="9 pix")
    with pytest.raises(CalibrationError, match="disagree"):
        read_calibration(make_image(tmp_path / "b.fits", MAGZPT=26.0))
    bare = read_calibration(make_image(tmp_path / "c.fits", MAGZERO=0.0))
    assert bare.photo_calib is None
    assert isinstance(bare.no_photo_calib, UncalibratedImageError)
    with pytest.raises(ConfigError, match="gain"):
        read_calibration(tmp_path / "c.fits", gain=0)


class Plain(Format):
    """A format without a cheap way to read its calibration."""

    name = "plain"
    looked_for = "nothing"

    def matches(self, path: Any) -> bool:
        return False

    def footprint(self, path: Any, **options: Any) -> ImageFootprint:
        raise NotImplementedError

    def read(self, path: Any, **options: Any) -> Exposure:
        return get_format("fits").read(path, **options)

    def write(self, exposure: Exposure, path: Any, *, like: Any, overwrite: bool = False) -> tuple[Path, ...]:
        raise NotImplementedError


def test_a_format_that_reads_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_image(tmp_path / "a.fits", CALAPRAD=12.0, GAIN=2.0)
    expected = told(read_calibration, path, aperture="12 pix")
    monkeypatch.setattr(registry, "get_format", lambda name: Plain())
    assert told(read_calibration, path, format="plain", aperture="12 pix") == expected


def test_conformance_finds_a_difference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_image(tmp_path / "a.fits")
    fmt = get_format("fits")
    exposure = fmt.read(path)
    check_calibration(fmt, path, exposure)
    with pytest.raises(AssertionError, match="photo_calib"):
        check_calibration(fmt, path, exposure, options={"zeropoint": 26.0})
    assert exposure.photo_calib is not None
    other = exposure.replace(photo_calib=exposure.photo_calib.with_reference(PSF_MODEL))
    with pytest.raises(AssertionError, match="photo_calib"):
        check_calibration(fmt, path, other)
