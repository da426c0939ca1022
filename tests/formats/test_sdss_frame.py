"""Frames of SDSS, against the formulas of its data model, astropy and SEP."""

from __future__ import annotations

import bz2
import warnings
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import QTable
from astropy.wcs import WCS
from scipy.interpolate import RegularGridInterpolator

from kits.survey_frames import CAMCOL, FIELD, RUN, SDSS_NAME, TAI, calibration, write_psfield, write_sdss_frame
from skygraft import inject, read_exposure, write_exposure
from skygraft.errors import CorruptFileError, FormatError, PsfError, UnknownFormatError
from skygraft.formats import get_format, read_calibration, read_footprint, recognise_format
from skygraft.formats.sdss_camera import gain_of
from skygraft.photometry import AB_REFERENCE_FLUX_NJY, CalibrationAperture
from skygraft.testing import check_format

PSF = {"kind": "moffat", "fwhm": "1.3 arcsec", "beta": 3.0}
GAIN, DARK = 4.76, 1.3225


def expected_variance(path: Path) -> np.ndarray:
    """The data model's formula, in double precision, with scipy's interpolation."""
    with fits.open(path) as hdus:
        image, scale, sky = hdus[0].data.astype(float), hdus[1].data.astype(float), hdus[2].data[0]
        coarse = sky["ALLSKY"].astype(float)
        ny, nx = coarse.shape
        grid = RegularGridInterpolator((np.arange(ny), np.arange(nx)), coarse)
        y, x = np.clip(sky["YINTERP"], 0, ny - 1), np.clip(sky["XINTERP"], 0, nx - 1)
        at = np.stack(np.meshgrid(y, x, indexing="ij"), axis=-1)
        return ((image / scale + grid(at)) / GAIN + DARK) * scale**2


def test_a_frame_has_what_the_data_model_says(tmp_path: Path) -> None:
    path = write_sdss_frame(tmp_path / SDSS_NAME, level=0.1)
    assert recognise_format(path).name == "sdss_frame"
    exposure = read_exposure(path, psf=PSF)
    assert (exposure.data_id.visit, exposure.data_id.detector, exposure.data_id.band) == (60730063, "r4", "r")
    assert exposure.data_id.instrument == "SDSS" and (RUN, CAMCOL, FIELD) == (6073, 4, 63)
    assert exposure.photo_calib is not None and exposure.photo_calib.unit == "nanomaggy"
    reference = exposure.photo_calib.reference
    assert isinstance(reference, CalibrationAperture) and reference.radius_arcsec == 7.43
    assert "Padmanabhan" in exposure.photo_calib.reference_origin
    np.testing.assert_allclose(exposure.gain, np.broadcast_to(GAIN / calibration(128), (96, 128)), rtol=1e-6)
    assert exposure.variance is not None
    np.testing.assert_allclose(exposure.variance, expected_variance(path), rtol=2e-5)
    # Row 47.5 was read 47.5 clocks after row 0, at the end of its exposure.
    middle = (TAI + 47.5 * 0.026322 - 53.907456 / 2) / 86400
    assert exposure.visit_info.mjd == pytest.approx(middle, abs=1e-9)
    assert exposure.visit_info.exposure_time == pytest.approx(53.907456)
    assert read_calibration(path, psf=PSF).has_variance


def test_the_five_bands_of_a_field_are_five_images(tmp_path: Path) -> None:
    paths = [write_sdss_frame(tmp_path / SDSS_NAME.replace("-r-", f"-{band}-"), FILTER=band) for band in "ugriz"]
    assert [str(read_footprint(path).data_id) for path in paths] == [f"SDSS-60730063-{band}4" for band in "ugriz"]


def test_positions_are_astropys(tmp_path: Path) -> None:
    path = write_sdss_frame(tmp_path / SDSS_NAME)
    exposure = read_exposure(path)
    x, y = np.array([0.0, 127.0, 30.25]), np.array([0.0, 95.0, 60.5])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sky = WCS(fits.getheader(path)).pixel_to_world_values(x, y)
    back = exposure.wcs.world_to_pixel_values(*sky)
    np.testing.assert_allclose(back, [x, y], atol=1e-3)


@pytest.mark.parametrize(
    ("band", "camcol", "run", "gain"), [("u", 2, 1099, 1.595), ("u", 2, 1100, 1.825), ("z", 5, 94, 3.48)]
)
def test_gains_are_those_of_the_table(band: str, camcol: int, run: int, gain: float) -> None:
    assert gain_of(band, camcol, run) == gain


@pytest.mark.parametrize("name", [SDSS_NAME, f"{SDSS_NAME}.bz2"])
def test_conformance(tmp_path: Path, name: str) -> None:
    path = write_sdss_frame(tmp_path / name)
    (tmp_path / "out").mkdir()
    check_format(get_format("sdss_frame"), path, tmp_path / "out")


def _stars(exposure: object, mags: list[float], x: list[float], y: list[float]) -> QTable:
    ra, dec = exposure.wcs.pixel_to_world_values(x, y)  # type: ignore[attr-defined]
    columns = {"injection_id": np.arange(len(mags)), "ra": ra, "dec": dec, "mag_r": mags}
    return QTable({**columns, "source_type": ["Star"] * len(mags)})


def test_a_star_has_its_magnitude_in_the_survey_s_aperture(tmp_path: Path) -> None:
    import sep

    path = write_sdss_frame(tmp_path / f"{SDSS_NAME}.bz2")
    exposure = read_exposure(path, psf=PSF)
    found = inject(exposure, _stars(exposure, [18.0, 17.0], [44.3, 84.7], [47.6, 50.2]), noise=False)
    target = tmp_path / "out" / path.name
    target.parent.mkdir()
    written = write_exposure(found.exposure, target)
    assert target.read_bytes()[:3] == b"BZh" and written[0] == target
    with fits.open(target) as hdus, fits.open(path) as before:
        difference = hdus[0].data.astype(np.float64) - before[0].data
    radius = 7.43 / 0.39598
    flux, _, _ = sep.sum_circle(difference.astype(np.float32), [44.3, 84.7], [47.6, 50.2], radius, subpix=0)
    # Two stars: the wings of one lie in the other's aperture, below 2e-3 of its flux at 40 pixels.
    np.testing.assert_allclose(22.5 - 2.5 * np.log10(flux), [18.0, 17.0], atol=4e-3)


def test_closure(tmp_path: Path) -> None:
    path = write_sdss_frame(tmp_path / SDSS_NAME, shape=(128, 128))
    exposure = read_exposure(path, psf=PSF)
    found = inject(exposure, _stars(exposure, [18.0], [64.0], [64.0]), noise=False)
    with_, without = (np.asarray(e.image, np.float64) for e in (found.exposure, exposure))
    scale = float(read_footprint(path).pixel_scale)
    # A circle over pixels, by its band-limited transform: the definition of the calibration's flux.
    k = np.fft.fftfreq(512)
    kx, ky = np.meshgrid(k, k)
    q = 2 * np.pi * np.hypot(kx, ky) * (7.43 / scale)
    from scipy.special import j1

    disc = np.pi * (7.43 / scale) ** 2 * np.where(q > 0, 2 * j1(q) / np.where(q > 0, q, 1), 1)
    padded = np.zeros((512, 512))
    padded[:128, :128] = with_ - without
    phase = np.exp(2j * np.pi * (kx * 64 + ky * 64))
    flux = float(np.mean(np.fft.fft2(padded) * phase * disc).real)
    assert 22.5 - 2.5 * np.log10(flux) == pytest.approx(18.0, abs=1e-4)
    assert exposure.photo_calib is not None
    assert exposure.photo_calib.njy_per_unit == pytest.approx(AB_REFERENCE_FLUX_NJY * 1e-9)


def test_noise_and_variance_follow_the_columns_gain(tmp_path: Path) -> None:
    path = write_sdss_frame(tmp_path / SDSS_NAME)
    exposure = read_exposure(path, psf=PSF)
    found = inject(exposure, _stars(exposure, [16.0], [64.0], [48.0]), seed=1)
    clean = inject(exposure, _stars(exposure, [16.0], [64.0], [48.0]), noise=False)
    model = clean.exposure.image.astype(float) - exposure.image
    assert found.exposure.variance is not None and exposure.variance is not None
    added = found.exposure.variance.astype(float) - exposure.variance
    bright = model > 0.5
    np.testing.assert_allclose(added[bright], (model * calibration(128) / GAIN)[bright], rtol=3e-3)
    written = write_exposure(found.exposure, tmp_path / "out.fits", overwrite=True)
    assert [p.name for p in written] == ["out.fits", "out.mask.fits", "out.variance.fits"]
    again = read_exposure(tmp_path / "out.fits", field=FIELD)
    np.testing.assert_array_equal(again.variance, found.exposure.variance)
    with fits.open(path) as old, fits.open(tmp_path / "out.fits") as new:
        assert all(old[i].header == new[i].header for i in (1, 2, 3))
    whole, part = path.read_bytes(), (tmp_path / "out.fits").read_bytes()
    tail = len(whole) - whole.index(b"XTENSION")
    assert whole[-tail:] == part[-tail:]


def test_a_frame_cut_out_has_the_mean_gain_and_no_variance(tmp_path: Path) -> None:
    header = fits.getheader(write_sdss_frame(tmp_path / "whole.fits"))
    path = tmp_path / "cut.fits"
    fits.writeto(path, np.zeros((30, 40), np.float32), header)
    exposure = read_exposure(path)
    assert exposure.format == "sdss_frame" and exposure.variance is None
    assert exposure.gain == pytest.approx(GAIN / 0.00527356)
    assert str(exposure.data_id) == "cut"
    assert read_exposure(path, field=63).data_id.visit == 60730063
    del header["NMGY"]
    fits.writeto(path, np.zeros((30, 40), np.float32), header, overwrite=True)
    assert "NMGY" in read_exposure(path).extra["no_gain"]


def test_a_resampled_frame_says_what_its_zeropoint_may_be(tmp_path: Path) -> None:
    """Such as the frames on pixels of three that astropy's tutorials make colour pictures of."""
    header = fits.getheader(write_sdss_frame(tmp_path / "whole.fits"))
    for key in ("CD1_1", "CD1_2", "CD2_1", "CD2_2"):
        header[key] *= 3
    fits.writeto(path := tmp_path / "reprojected.fits", np.zeros((30, 40), np.float32), header)
    exposure = read_exposure(path)
    missing = exposure.extra["no_photo_calib"]
    assert exposure.photo_calib is None and "pixels of 1.188 arcsec" in str(missing)
    assert "22.5 if pixels were added up, 20.115 if they were averaged" in str(missing)
    assert "resampled" in exposure.extra["no_gain"]
    for zeropoint in (22.5, 20.115):
        found = read_exposure(path, zeropoint=zeropoint).photo_calib
        assert found.zeropoint() == pytest.approx(zeropoint) and found.aperture.radius_arcsec == 7.43


def test_the_psf_is_that_of_the_field_s_psfield_file(tmp_path: Path) -> None:
    path = write_sdss_frame(tmp_path / SDSS_NAME)
    psfield = write_psfield(tmp_path / f"psField-{RUN:06d}-{CAMCOL}-{FIELD:04d}.fit")
    exposure = read_exposure(path)
    assert exposure.psf is not None
    kernel = exposure.psf.kernels([64.0], [48.0])[0]
    y, x = np.mgrid[-25:26, -25:26]
    sigma = np.sqrt((kernel * (x**2 + y**2)).sum() / kernel.sum() / 2)
    # To first order, the width at column 64.5 is larger by 0.4 times 0.0645.
    assert sigma == pytest.approx(1.5 + 0.4 * 0.0645, abs=2e-3)
    footprint = read_footprint(path)
    assert footprint.files[-1] == str(psfield) and footprint.pinned == {"psfield": str(psfield)}
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    options = {"psfield": psfield}
    check_format(get_format("sdss_frame"), path, elsewhere, options=options)
    assert read_exposure(path, psfield=False).psf is None


def test_without_psfield_the_error_says_what_to_give(tmp_path: Path) -> None:
    exposure = read_exposure(write_sdss_frame(tmp_path / SDSS_NAME))
    assert isinstance(exposure.extra["no_psf"], PsfError) and "psField-" in str(exposure.extra["no_psf"])


def test_a_damaged_calibration_names_its_column(tmp_path: Path) -> None:
    path = write_sdss_frame(tmp_path / SDSS_NAME)
    with fits.open(path, mode="update") as hdus:
        hdus[1].data[7] = 0
    with pytest.raises(FormatError, match="column 7"):
        read_exposure(path)


def test_a_frame_without_its_sky_is_refused_unless_its_variance_is_not_wanted(tmp_path: Path) -> None:
    path = write_sdss_frame(tmp_path / SDSS_NAME)
    with fits.open(path) as hdus:
        fits.HDUList([hdus[0], hdus[1]]).writeto(tmp_path / "half.fits")
    with pytest.raises(FormatError, match="lacks the sky"):
        read_exposure(tmp_path / "half.fits")
    exposure = read_exposure(tmp_path / "half.fits", variance=False)
    assert exposure.variance is None and np.shape(exposure.gain) == (96, 128)


def test_a_truncated_bz2_is_refused(tmp_path: Path) -> None:
    path = write_sdss_frame(tmp_path / f"{SDSS_NAME}.bz2")
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(CorruptFileError, match="bzip2"):
        read_exposure(path)


@pytest.mark.parametrize(
    ("name", "what"),
    [("fpC-006073-r4-0063.fit.gz", "before DR8"), ("drC-006073-r4-40-0063.fits", "before DR8")],
)
def test_frames_from_before_dr8_are_refused_by_name(tmp_path: Path, name: str, what: str) -> None:
    header = fits.getheader(write_sdss_frame(tmp_path / "whole.fits"))
    del header["BUNIT"]
    fits.writeto(tmp_path / name, np.zeros((30, 40), np.int16), header)
    with pytest.raises(FormatError, match=what):
        read_exposure(tmp_path / name)
    assert read_exposure(tmp_path / name, hdu=0, zeropoint=28.0).format == "fits"


def test_tables_of_the_survey_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "psField-006073-4-0063.fit"
    fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU.from_columns([fits.Column("A", "J", array=[1])])]).writeto(path)
    with pytest.raises((FormatError, UnknownFormatError), match="PSF model of an SDSS field"):
        read_exposure(path)


def test_any_ordinary_image_is_written_back_as_bz2(tmp_path: Path) -> None:
    from kits.plain_images import write_plain_image

    plain = tmp_path / "plain.fits"
    write_plain_image(plain, 150.0, 2.0, 48)
    packed = tmp_path / "image.fits.bz2"
    packed.write_bytes(bz2.compress(plain.read_bytes()))
    exposure = read_exposure(packed)
    planes = exposure.planes.copy(deep=True)
    planes["image"].values[3, 4] += 10
    target = tmp_path / "out.fits.bz2"
    write_exposure(exposure.replace(planes=planes), target)
    assert target.read_bytes()[:3] == b"BZh"
    assert fits.getdata(target)[3, 4] == planes["image"].values[3, 4]
