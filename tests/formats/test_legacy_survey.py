"""Images of the Legacy Surveys: calibrated by the survey's tables, checked against Gaia and against SEP."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sep
from astropy.io import fits
from astropy.table import Table, vstack

from skygraft import inject
from skygraft.catalog import normalize_catalog
from skygraft.errors import CalibrationError, ConfigError, FormatError, PsfError, UncalibratedImageError
from skygraft.exposure import Exposure, add_mask_plane
from skygraft.formats import read_exposure, read_footprint, recognise_format, write_exposure
from skygraft.formats.conformance import check_format
from skygraft.formats.legacy_survey import LegacySurveyFormat
from skygraft.photometry import PSF_MODEL
from skygraft.wcs import local_jacobian

GRZ = "decam_grz/images/decam/NonDECaLS/CP20141215/"
IMAGES = {
    "z": GRZ + "c4d_141206_043719_ooi_z_a1-S10.fits",
    "g": GRZ + "c4d_141223_020302_ooi_g_a1-S10.fits",
    "r": GRZ + "c4d_141224_033245_ooi_r_a1-S10.fits",
    "stars_r": "decam_stars/r/images/decam/CP/V4.8.2a/CP20171112/c4d_171113_060340_ooi_r_ls9.N6.fits",
    "stars_z": "decam_stars/z/images/decam/CP/V4.8.2/CP20170315/c4d_170316_062107_ooi_z_ls9.N2.fits",
}
# zpt + 2.5 log10(exptime), from the tables, by hand.
ZEROPOINTS = {
    "z": 24.889915 + 2.5 * math.log10(90),
    "g": 25.112465 + 2.5 * math.log10(90),
    "r": 25.27126 + 2.5 * math.log10(90),
    "stars_r": 25.175226 + 2.5 * math.log10(45),
    "stars_z": 24.898178 + 2.5 * math.log10(107),
}
SHAPE = (30, 40)


def make_survey(
    root: Path,
    *,
    plver: str = "V4.8.2",
    ccds: int = 1,
    dq: np.ndarray | None = None,
    cards: dict[str, Any] | None = None,
    photon_gain: float | None = None,
    **row: Any,
) -> Path:
    """A small survey directory with one exposure, whose weights may have photon noise; the path of its image."""
    folder = root / "images" / "cam" / "CP"
    folder.mkdir(parents=True)
    wcs = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 30.0, "CRVAL2": 60.0, "CRPIX1": 20.5, "CRPIX2": 15.5}
    wcs |= {"CD1_1": -7e-5, "CD1_2": 0.0, "CD2_1": 0.0, "CD2_2": 7e-5}
    rng = np.random.default_rng(3)
    planes = {
        "ooi": rng.normal(100, 5, SHAPE).astype(np.float32),
        "oow": np.full(SHAPE, 0.04, np.float32),
        "ood": np.zeros(SHAPE, np.int32) if dq is None else dq,
    }
    if photon_gain is not None:
        planes["ooi"][10:20, 10:20] += 2000
        planes["oow"] = (1 / (25 + (planes["ooi"] - 100).clip(0) / photon_gain)).astype(np.float32)
    for kind, data in planes.items():
        primary = fits.PrimaryHDU()
        primary.header.update({"PLVER": plver, "MAGZERO": 12.0, "MJD-OBS": 57000.0})
        hdus = [fits.ImageHDU(data + i * (kind == "ooi"), name=f"CCD{i + 1}") for i in range(ccds)]
        for hdu in hdus:
            hdu.header.update({**wcs, "GAINA": 3.0, "GAINB": 5.0, **(cards or {})})
        fits.HDUList([primary, *hdus]).writeto(folder / f"x_1_{kind}_r_v1.fits")
    values = {
        "image_filename": "cam/CP/x_1_ooi_r_v1.fits",
        "camera": "decam",
        "expnum": 1234,
        "filter": "r",
        "exptime": 100.0,
        "zpt": 25.0,
        "ccdzpt": 25.1,
        "ccdraoff": 3.6,
        "ccddecoff": -1.8,
    } | row
    rows = [{**values, "ccdname": f"CCD{i + 1}", "image_hdu": i + 1} for i in range(ccds)]
    Table(rows).write(root / "survey-ccds-x.fits.gz")
    return folder / "x_1_ooi_r_v1.fits"


@pytest.mark.data
@pytest.mark.parametrize("which", IMAGES)
def test_real_images_carry_their_survey_calibration(data_dir: Path, which: str) -> None:
    exposure = read_exposure(data_dir / IMAGES[which])
    assert exposure.format == "legacy_survey"
    calib = exposure.photo_calib
    assert calib is not None
    assert float(calib.zeropoint()) == pytest.approx(ZEROPOINTS[which], abs=1e-5)
    assert calib.reference is PSF_MODEL and "Legacy Surveys" in calib.reference_origin
    assert exposure.psf is not None and exposure.variance is not None
    # Real PSFEx models do not sum to one.
    ny, nx = exposure.shape
    assert 1.005 < exposure.psf.kernels([nx / 2], [ny / 2]).sum() < 1.1
    header = exposure.header
    if "MAGZERO" in header:
        assert abs(header["MAGZERO"] - ZEROPOINTS[which]) > 0.005
    assert exposure.gain is not None and 3.5 < exposure.gain < 4.5 and exposure.gain_origin
    # Codes, not bits: 5 is a cosmic ray, not bad and interpolated.
    codes = fits.getdata(data_dir / IMAGES[which].replace("_ooi_", "_ood_"), 1)
    np.testing.assert_array_equal((exposure.mask & exposure.mask_planes["CR"]) != 0, codes == 5)
    assert not (exposure.mask & ~exposure.mask_planes["CR"]).any()
    assert np.isinf(exposure.variance[codes == 5]).all()


def gaia(folder: Path, exposure: Exposure) -> Table:
    """Gaia stars well inside the image at the exposure's time: x, y, G, BP - RP."""
    tables = [Table.read(path) for path in sorted((folder / "gaia").glob("*.fits"))]
    stars = vstack([t for t in tables if len(t)], metadata_conflicts="silent")
    assert exposure.visit_info.mjd is not None
    years = 2015.5 + (exposure.visit_info.mjd - 57205.9) / 365.25 - stars["ref_epoch"]
    pm = [np.nan_to_num(np.ma.filled(stars[name], 0.0)) for name in ("pmra", "pmdec")]
    dec = np.asarray(stars["dec"] + pm[1] * years / 3.6e6)
    ra = np.asarray(stars["ra"] + pm[0] * years / 3.6e6 / np.cos(np.radians(dec)))
    x, y = exposure.wcs.world_to_pixel_values(ra, dec)
    ny, nx = exposure.shape
    inside = (x > 25) & (x < nx - 26) & (y > 25) & (y < ny - 26)
    color = stars["phot_bp_mean_mag"] - stars["phot_rp_mean_mag"]
    found = Table({"x": x, "y": y, "G": stars["phot_g_mean_mag"], "color": color})[inside]
    return found[(found["G"] > 17) & (found["G"] < 19.5)]


def sep_photometry(exposure: Exposure, stars: Table, radius: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    image = exposure.image.astype(float)
    image -= sep.Background(image, bw=64, bh=64).back()
    x, y, _ = sep.winpos(image, stars["x"], stars["y"], 1.7)
    flux, _, _ = sep.sum_circle(image, x, y, radius)
    return flux, x, y


@pytest.mark.data
def test_zeropoint_rule_agrees_with_gaia_stars_measured_by_sep(data_dir: Path) -> None:
    # r from G and BP - RP (Evans et al. 2018, A&A 616, A4, table A.2, SDSS r). The aperture, 1.6 arcsec, leaves some
    # hundredths outside, and neighbours out. Without the exposure time it would be four magnitudes off.
    exposure = read_exposure(data_dir / IMAGES["stars_r"])
    stars = gaia(data_dir / "decam_stars" / "r", exposure)
    flux, x, y = sep_photometry(exposure, stars, 6.0)
    assert exposure.photo_calib is not None
    color = np.asarray(stars["color"])
    expected = np.asarray(stars["G"]) + np.polynomial.polynomial.polyval(color, [0.12879, -0.24662, 0.027464, 0.049465])
    difference = exposure.photo_calib.magnitude(flux) - expected
    single = np.hypot(x - stars["x"], y - stars["y"]) < 0.1
    assert single.sum() == 2
    assert np.abs(difference[single]).max() < 0.1


@pytest.mark.data
def test_astrometric_offsets_of_the_table_bring_stars_closer_to_gaia(data_dir: Path) -> None:
    total = {}
    for kind in ("ccds", "header"):
        errors = []
        for which, folder in (("stars_r", "r"), ("stars_z", "z")):
            exposure = read_exposure(data_dir / IMAGES[which], astrometry=kind)
            stars = gaia(data_dir / "decam_stars" / folder, exposure)
            _, x, y = sep_photometry(exposure, stars, 8.0)
            offset = np.column_stack([x - stars["x"], y - stars["y"]])
            near = np.hypot(*offset.T) < 0.4
            jacobian = local_jacobian(exposure.wcs, x[near], y[near])
            errors.append(np.median(np.einsum("nij,nj->ni", jacobian, offset[near]), axis=0))
        total[kind] = float(np.hypot(*np.transpose(errors)).max())
    assert total["ccds"] < 0.02 < total["header"]


@pytest.mark.data
def test_conformance_on_real_images(data_dir: Path, tmp_path: Path) -> None:
    for which, table in (("r", "decam_grz"), ("stars_r", "decam_stars/r")):
        out = tmp_path / which
        out.mkdir()
        options = {"ccds": str(data_dir / table / "survey-ccds-1.fits.gz")}
        check_format(LegacySurveyFormat(), data_dir / IMAGES[which], out, options=options)


@pytest.mark.data
def test_dq_is_copied_and_fakes_are_marked_beside(data_dir: Path, tmp_path: Path) -> None:
    path = data_dir / IMAGES["stars_z"]
    exposure = read_exposure(path)
    planes = exposure.planes.copy(deep=True)
    planes["image"].values[100:103, 50:53] += 500
    planes["mask"].values[100:103, 50:53] |= 1 << add_mask_plane(planes, "INJECTED")
    files = write_exposure(exposure.replace(planes=planes), tmp_path / path.name)
    assert [f.name for f in files] == [path.name.replace("_ooi_", f"_{k}_") for k in ("ooi", "oow", "ood", "injected")]
    for kind in ("oow", "ood"):
        name = path.name.replace("_ooi_", f"_{kind}_")
        assert (tmp_path / name).read_bytes() == path.with_name(name).read_bytes()
    with fits.open(files[3]) as hdus:
        assert hdus[1].header["MP_INJECTED"] == 8 and np.count_nonzero(hdus[1].data) == 9
    again = read_exposure(files[0], ccds=data_dir / "decam_stars/z/survey-ccds-1.fits.gz")
    assert again.photo_calib == exposure.photo_calib and again.data_id == exposure.data_id
    np.testing.assert_array_equal(again.mask, planes["mask"].values)
    touched = planes["image"].values != exposure.image
    np.testing.assert_array_equal(again.image[~touched], exposure.image[~touched])


@pytest.mark.data
def test_psf_model_of_another_ccd_is_refused(data_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(data_dir / "decam_stars" / "r", tmp_path / "s", copy_function=shutil.copyfile)
    model = next((tmp_path / "s").rglob("*-psfex.fits"))
    with fits.open(model) as hdus:
        hdus[1].data["ccdname"][0] = "S1"
        hdus.writeto(tmp_path / "new.fits")
    (tmp_path / "new.fits").replace(model)
    image = tmp_path / "s" / Path(IMAGES["stars_r"]).relative_to("decam_stars/r")
    with pytest.raises(PsfError, match="N6"):
        read_exposure(image)
    model.unlink()
    exposure = read_exposure(image)
    assert exposure.psf is None
    assert "psfex-single" in str(exposure.extra["no_psf"])
    assert read_exposure(image, psf={"kind": "gaussian", "fwhm": "1 arcsec"}).psf is not None


@pytest.mark.parametrize(("camera", "expected", "unit"), [("decam", 30.0, "adu"), ("90prime", 25.0, "adu/s")])
def test_zeropoint_rule_per_camera(tmp_path: Path, camera: str, expected: float, unit: str) -> None:
    path = make_survey(tmp_path, camera=camera)
    exposure = read_exposure(path)
    assert exposure.photo_calib is not None
    assert float(exposure.photo_calib.zeropoint()) == pytest.approx(expected)
    assert exposure.photo_calib.unit == unit
    # Electrons per image unit: 4 per count, or those of 100 s where the image is in photoelectrons per second.
    assert exposure.gain == pytest.approx(4.0 if unit == "adu" else 100.0)
    chosen = read_exposure(path, zeropoint_column="ccdzpt").photo_calib
    assert chosen is not None and float(chosen.zeropoint()) == pytest.approx(expected + 0.1)


@pytest.mark.parametrize("camera", ["90prime", "mosaic", "mosaic3"])
@pytest.mark.parametrize(
    ("bunit", "gain"),
    [
        (("counts/s", "photoelectrons per second"), 100.0),
        (("counts/s", "[photoelectrons/s]"), 100.0),
        (("electrons/s", ""), 100.0),
        (("counts/s", ""), 100.0),
        (("adu/s", "photoelectrons per second"), None),
        (("adu/s", ""), None),
        (("nJy", ""), None),
    ],
)
def test_gain_of_cameras_per_second_is_the_exposure_time(
    tmp_path: Path, camera: str, bunit: tuple[str, str], gain: float | None
) -> None:
    path = make_survey(tmp_path, camera=camera, gain=1.9, cards={"BUNIT": bunit})
    exposure = read_exposure(path, photo_calib=25.0)
    assert exposure.gain == gain
    if gain is None:
        assert bunit[0] in exposure.extra["no_gain"]
    else:
        assert "exposure time" in exposure.gain_origin and "photoelectrons per second" in exposure.gain_origin


def test_variance_that_contradicts_a_camera_per_second(tmp_path: Path) -> None:
    psf = {"kind": "gaussian", "fwhm": "3 pix"}
    star = normalize_catalog(
        Table({"injection_id": [1], "ra": [30.0], "dec": [60.0], "source_type": ["Star"], "mag_r": [18.0]})
    )
    cards = {"BUNIT": ("counts/s", "photoelectrons per second")}
    agrees = make_survey(tmp_path / "a", camera="90prime", gain=1.9, cards=cards, photon_gain=100.0)
    injection = inject(read_exposure(agrees, psf=psf), star, seed=1)
    assert injection.summary["gain"] == 100.0
    # Added variance: the expected flux over the electrons of a count per second.
    before, after = read_exposure(agrees).variance, injection.exposure.variance
    assert before is not None and after is not None
    np.testing.assert_allclose((after - before).sum() * 100, injection.truth["flux_deposited"].sum(), rtol=1e-3)
    other = make_survey(tmp_path / "b", camera="90prime", gain=1.9, cards=cards, photon_gain=190.0)
    with pytest.raises(CalibrationError, match=r"100 electrons per image unit \(photoelectrons per second.*190 by"):
        inject(read_exposure(other, psf=psf), star, seed=1)
    assert inject(read_exposure(other, psf=psf, gain=190.0), star, seed=1).summary["gain"] == 190.0


def test_unknown_camera_and_missing_zeropoint(tmp_path: Path) -> None:
    path = make_survey(tmp_path / "a", camera="wiro")
    with pytest.raises(CalibrationError, match="wiro"):
        read_exposure(path)
    given = read_exposure(path, photo_calib={"zeropoint": 28.0, "unit": "adu"}).photo_calib
    assert given is not None and given.reference is PSF_MODEL
    exposure = read_exposure(make_survey(tmp_path / "b", zpt=0.0))
    assert exposure.photo_calib is None
    assert isinstance(exposure.extra["no_photo_calib"], UncalibratedImageError)


def test_astrometric_offset_is_a_true_angle(tmp_path: Path) -> None:
    path = make_survey(tmp_path)
    ra, dec = read_exposure(path).wcs.pixel_to_world_values(19.5, 14.5)
    # 3.6 arcsec East at declination 60 are 7.2 arcsec of right ascension.
    assert (float(ra) - 30) * 3600 == pytest.approx(7.2, abs=1e-6)
    assert (float(dec) - 60) * 3600 == pytest.approx(-1.8, abs=1e-6)
    ra, dec = read_exposure(path, astrometry="header").wcs.pixel_to_world_values(19.5, 14.5)
    assert (float(ra), float(dec)) == pytest.approx((30.0, 60.0), abs=1e-12)


@pytest.mark.parametrize("lost", ["ccdraoff", "ccddecoff"])
def test_one_astrometric_offset_without_the_other_is_refused(tmp_path: Path, lost: str) -> None:
    path = make_survey(tmp_path, **{lost: np.nan})
    with pytest.raises(FormatError, match=f"one astrometric offset, but no {lost}") as caught:
        read_exposure(path)
    assert caught.value.key == lost
    assert read_exposure(path, astrometry="header").shape


@pytest.mark.parametrize(("plver", "codes"), [("V3.4.9", False), ("V3.5", True), ("V4.8.2a", True), ("V10.1", True)])
def test_dq_is_codes_or_bits_by_the_pipeline_version(tmp_path: Path, plver: str, codes: bool) -> None:
    dq = np.zeros(SHAPE, np.int32)
    dq[1, 1], dq[2, 2], dq[3, 3] = 3, 4, 1
    exposure = read_exposure(make_survey(tmp_path, plver=plver, dq=dq))
    named = {n for n, v in exposure.mask_planes.items() if exposure.mask[1, 1] & v}
    assert named == ({"SAT"} if codes else {"BAD", "SAT"})
    assert {n for n, v in exposure.mask_planes.items() if exposure.mask[2, 2] & v} == {"BLEED" if codes else "INTRP"}


def test_dq_of_unknown_kind_must_be_said(tmp_path: Path) -> None:
    path = make_survey(tmp_path, plver="")
    with pytest.raises(FormatError, match="PLVER"):
        read_exposure(path)
    assert "SAT" in read_exposure(path, dq="bits").mask_planes
    with pytest.raises(ConfigError, match="dq"):
        read_exposure(path, dq="bit")


def test_changed_data_quality_cannot_be_written(tmp_path: Path) -> None:
    exposure = read_exposure(make_survey(tmp_path / "a"))
    planes = exposure.planes.copy(deep=True)
    planes["mask"].values[0, 0] |= exposure.mask_planes["SAT"]
    (tmp_path / "out").mkdir()
    with pytest.raises(FormatError, match="SAT was changed"):
        write_exposure(exposure.replace(planes=planes), tmp_path / "out" / "x_1_ooi_r_v1.fits")
    with pytest.raises(FormatError, match="_ooi_"):
        write_exposure(exposure, tmp_path / "out" / "x.fits")
    assert not list((tmp_path / "out").iterdir())


def test_several_ccds_in_a_file(tmp_path: Path) -> None:
    path = make_survey(tmp_path, ccds=3)
    with pytest.raises(FormatError, match="3 CCDs"):
        read_exposure(path)
    for options in ({"ccdname": "CCD2"}, {"hdu": 2}, {"hdu": "ccd2"}):
        exposure = read_exposure(path, **options)
        assert str(exposure.data_id) == "decam-1234-CCD2"
    assert read_footprint(path, hdu=3).data_id.detector == "CCD3"
    out = tmp_path / "out"
    out.mkdir()
    planes = exposure.planes.copy(deep=True)
    planes["image"].values[5, 5] += 7
    planes["variance"].values[5, 5] += 1
    write_exposure(exposure.replace(planes=planes), out / path.name)
    with fits.open(out / path.name) as new, fits.open(path) as old:
        for name in ("CCD1", "CCD3"):
            np.testing.assert_array_equal(new[name].data, old[name].data)
        assert np.count_nonzero(new["CCD2"].data != old["CCD2"].data) == 1
    assert fits.getdata(out / path.name.replace("_ooi_", "_oow_"), "CCD2")[5, 5] == pytest.approx(1 / 26)


def test_missing_tables_rows_and_companions_are_said(tmp_path: Path) -> None:
    path = make_survey(tmp_path / "a")
    table = tmp_path / "a" / "survey-ccds-x.fits.gz"
    moved = shutil.move(table, tmp_path / "t.fits.gz")
    with pytest.raises(FormatError, match="survey-ccds") as caught:
        read_exposure(path)
    assert "ccds=" in str(caught.value)
    assert read_exposure(path, ccds=moved).photo_calib is not None
    rows = Table.read(moved)
    rows["ccdname"] = ["CCD9"]
    rows.write(tmp_path / "other.fits")
    with pytest.raises(FormatError, match="CCD9"):
        read_exposure(path, ccds=tmp_path / "other.fits")
    rows["ccdname"] = ["CCD1"]
    vstack([rows, rows]).write(tmp_path / "twice.fits")
    with pytest.raises(FormatError, match="2 rows"):
        read_exposure(path, ccds=tmp_path / "twice.fits")
    with pytest.raises(FormatError, match="not a survey-ccds table"):
        read_exposure(path, ccds=path)
    path.with_name("x_1_oow_r_v1.fits").unlink()
    with pytest.raises(FormatError, match="weight=False"):
        read_exposure(path, ccds=moved)
    assert read_exposure(path, ccds=moved, weight=False).variance is None


def test_a_table_with_its_search_tree_and_models_of_the_first_releases(tmp_path: Path) -> None:
    """DR9 publishes the rows of a table also with a k-d tree; DR3 called the PSFs of all cameras decam-..."""
    path = make_survey(tmp_path / "s", camera="90prime", expnum=75700123)
    rows = Table.read(table := tmp_path / "s" / "survey-ccds-x.fits.gz")
    tree = fits.BinTableHDU(Table({"kdtree_data_ccds": np.zeros((3, 4), np.uint8)}))
    fits.HDUList([fits.PrimaryHDU(), fits.table_to_hdu(rows), tree]).writeto(tmp_path / "s/survey-ccds-x.kd.fits")
    expected = read_exposure(path).photo_calib
    table.unlink()
    exposure = read_exposure(path)
    assert exposure.photo_calib == expected
    assert "calib/90prime/psfex/75700/75700123/decam-75700123-CCD1.fits" in str(exposure.extra["no_psf"])


def test_recognised_by_name(tmp_path: Path) -> None:
    path = make_survey(tmp_path)
    assert recognise_format(path).name == "legacy_survey"
    # Weight and data quality are ordinary FITS images, where someone asks for them by themselves.
    assert recognise_format(path.with_name("x_1_oow_r_v1.fits")).name == "fits"
