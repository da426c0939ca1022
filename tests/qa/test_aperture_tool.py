"""Whether a zeropoint belongs to the stated radius: planted radii, catalogues of all kinds, and real images."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from astropy import units as u
from astropy.table import QTable, Table
from photutils.aperture import CircularAperture, aperture_photometry

from kits.growth_kit import Field, enclosed, magnitudes, observe, star_field
from skygraft.demo.calexp import write_src
from skygraft.errors import CatalogError
from skygraft.exposure import Exposure
from skygraft.formats import read_exposure
from skygraft.photometry import PSF_MODEL, TOTAL, CalibrationAperture
from skygraft.qa.aperture_check import ApertureCheck, check_aperture
from skygraft.qa.aperture_plot import aperture_figure
from skygraft.qa.aperture_standards import Reference, read_pipeline_fluxes, read_reference
from skygraft.qa.growth_stars import Scene, prepare_scene

FIELD = star_field(seed=11)
SIX, TWELVE = CalibrationAperture(6.0), CalibrationAperture(12.0)


@pytest.fixture(scope="module", autouse=True)
def each_scene_once() -> Iterator[None]:
    """What is detected on an image hangs on its pixels alone, and takes longest; it is done once for all radii."""
    known: dict[bytes, Scene] = {}

    def prepared(exposure: Exposure) -> Scene:
        pixels = np.ascontiguousarray(exposure.image), exposure.bad()
        key = hashlib.blake2b(b"".join(hashlib.blake2b(one).digest() for one in pixels)).digest()
        if key not in known:
            known[key] = prepare_scene(exposure)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("skygraft.qa.aperture_look.prepare_scene", prepared)
        yield


def reference(exposure, field: Field = FIELD, true: float = 12.0, shift: float = 0.0) -> Reference:
    """The field's stars at their places on the sky, of magnitudes for which the zeropoint is that of `true` pixels."""
    ra, dec = exposure.wcs.pixel_to_world_values(field.x, field.y)
    mag = magnitudes(field, true) + shift
    return Reference(np.asarray(ra), np.asarray(dec), mag, np.zeros(len(mag)), "the stars of the test")


def checked(seed: int, *, stated=None, true: float = 12.0, shift: float = 0.0) -> ApertureCheck:
    exposure = observe(FIELD, seed, stated=stated)
    return check_aperture(exposure, reference=reference(exposure, true=true, shift=shift))


def test_right_radii_are_never_flagged_and_come_out_within_their_errors():
    found = [checked(seed) for seed in range(50)]
    assert {c.verdict for c in found} == {"fits"}
    fits = [c.evidence[0].fit for c in found]
    pull = np.array([(f.radius - 12.0) / f.radius_error for f in fits])
    assert abs(pull.mean()) < 4 / math.sqrt(50) and 0.6 < pull.std() < 1.4
    assert abs(np.mean([f.radius for f in fits]) / 12 - 1) < 0.03
    assert np.mean([f.offset for f in fits]) == pytest.approx(0.0, abs=4e-4)


def test_six_for_twelve_and_twelve_for_six_are_always_flagged():
    half = [checked(seed, stated=SIX) for seed in range(20)]
    assert {c.verdict for c in half} == {"does not fit"}
    assert all(abs(c.evidence[0].fit.radius / 12 - 1) < 0.25 for c in half)
    expected = 2.5 * np.log10(enclosed(12.0) / enclosed(6.0))
    assert np.median([c.evidence[0].fit.offset for c in half]) == pytest.approx(expected, abs=2e-3)
    twice = [checked(seed, stated=TWELVE, true=6.0) for seed in range(20)]
    assert {c.verdict for c in twice} == {"does not fit"}
    assert all(abs(c.evidence[0].fit.radius / 6 - 1) < 0.05 for c in twice)


@pytest.mark.parametrize("stated", [PSF_MODEL, TOTAL])
def test_calibrations_to_all_the_light(stated):
    # A unit-sum PSF fit and all the light are the same for these stars; both are 0.10 mag from 6 pixels.
    assert checked(1, stated=stated, true=np.inf).verdict == "fits"
    wrong = checked(1, stated=stated, true=6.0)
    assert wrong.verdict == "does not fit" and "too much" in wrong.reason


def test_magnitudes_that_no_radius_fits_are_said_to_be():
    found = checked(3, shift=-0.4)
    assert found.verdict == "does not fit" and "no radius would fit" in found.reason


def test_without_magnitudes_nothing_is_told():
    found = check_aperture(observe(FIELD, 1, stated=SIX))
    assert found.verdict == "cannot tell" and "--reference" in found.reason
    # Where no plane says what is saturated, the brightest are left out.
    assert 0.7 * len(FIELD.x) <= found.n_stars <= len(FIELD.x) and not found.evidence
    # The stars' own curve and that of the model have one shape, whatever the radius.
    there = np.isfinite(found.stars) & (found.radii > 4) & (found.radii < 14)
    expected = -2.5 * np.log10(enclosed(found.radii) / enclosed(6.0))
    np.testing.assert_allclose(found.stars[there], expected[there], atol=4e-3)
    np.testing.assert_allclose(found.model[there], expected[there], atol=6e-3)


def test_an_image_without_a_record_is_told_what_would_fit():
    exposure = observe(FIELD, 1)
    exposure = exposure.replace(photo_calib=exposure.photo_calib.with_reference(None))
    found = check_aperture(exposure, reference=reference(exposure, true=7.0))
    assert found.verdict == "cannot tell" and "records no radius" in found.reason
    assert found.best.fit.radius == pytest.approx(7.0, rel=0.03)
    bare = check_aperture(exposure)
    assert bare.verdict == "cannot tell" and "--reference" in bare.reason
    assert check_aperture(exposure.replace(photo_calib=None)).reason.startswith("the image has no photometric")


def test_a_catalogue_of_another_place_is_named():
    exposure = observe(FIELD, 1)
    other = reference(exposure)
    other = Reference(other.ra + 1.0, other.dec, other.mag, other.mag_error, other.origin)
    found = check_aperture(exposure, reference=other)
    assert found.verdict == "cannot tell"
    assert any("does the catalogue cover this image" in note for note in found.notes)


def test_few_stars_and_no_psf():
    exposure = observe(FIELD, 1)
    few = reference(exposure)
    faint = np.argsort(FIELD.flux)[:3]
    few = Reference(few.ra[faint], few.dec[faint], few.mag[faint], few.mag_error[faint], few.origin)
    found = check_aperture(exposure, reference=few)
    assert found.verdict == "cannot tell" and "too few stars: 3" in found.reason
    without = exposure.replace(psf=None)
    told = check_aperture(without, reference=reference(exposure))
    assert told.verdict == "fits" and np.isnan(told.model).all()


# ---- the pipeline's own catalogue -------------------------------------------------------------------------------


def photutils_flux(exposure, radius: float) -> np.ndarray:
    """Aperture fluxes of the stars above the sky, which is 50 everywhere."""
    circles = CircularAperture(np.transpose([FIELD.x, FIELD.y]), radius)
    return np.asarray(aperture_photometry(exposure.image.astype(float) - 50.0, circles)["aperture_sum"])


def src(folder: Path, exposure, radius: float, named: float) -> Path:
    """A catalogue as the pipelines write it, of fluxes inside `radius` that it says are inside `named`."""
    path = folder / "SRC-1-2.fits"
    column = f"base_CircularApertureFlux_{int(named)}_0_instFlux"
    columns = {
        "id": np.arange(len(FIELD.x)),
        "base_SdssCentroid_x": FIELD.x,
        "base_SdssCentroid_y": FIELD.y,
        column: photutils_flux(exposure, radius),
        "calib_photometry_used": np.ones(len(FIELD.x), dtype=bool),
    }
    write_src(path, columns=columns, radius=named)
    return path


@pytest.mark.parametrize(("named", "verdict"), [(12.0, "fits"), (6.0, "does not fit")])
def test_fluxes_of_the_pipeline_are_measured_again(tmp_path, named, verdict):
    exposure = observe(FIELD, 4, stated=CalibrationAperture(named))
    found = check_aperture(exposure, catalog=src(tmp_path, exposure, 12.0, named))
    assert found.verdict == verdict
    assert found.evidence[0].kind == "pipeline"
    assert found.evidence[0].fit.radius == pytest.approx(12.0, rel=0.02)


def test_a_slot_that_names_a_column_which_is_not_there(tmp_path):
    exposure = observe(FIELD, 4, stated=SIX)
    path = src(tmp_path, exposure, 12.0, 12.0)
    card = b"slot_CalibFlux:base_CircularApertureFlux_12_0'"
    content = path.read_bytes()
    assert content.count(card) == 1
    path.write_bytes(content.replace(card, b"slot_CalibFlux:base_CircularApertureFlux_6_0' "))
    found = check_aperture(exposure, catalog=path)
    assert found.verdict == "does not fit" and "there is no base_CircularApertureFlux_6_0" in found.evidence[0].origin


@pytest.mark.parametrize(("stated", "verdict"), [(TWELVE, "fits"), (SIX, "does not fit")])
def test_the_column_that_equals_the_calibration_flux(tmp_path, stated, verdict):
    exposure = observe(FIELD, 4, stated=stated)
    fluxes = {r: photutils_flux(exposure, r) for r in (6.0, 12.0)}
    path = tmp_path / "SRC-1-2.parquet"
    columns = {f"base_CircularApertureFlux_{r:.0f}_0_instFlux": values for r, values in fluxes.items()}
    Table({"x": FIELD.x, "y": FIELD.y, "slot_CalibFlux_instFlux": fluxes[12.0], **columns}).write(path)
    # Without pixels: those of this image are all the same.
    blank = exposure.replace(planes=exposure.planes.assign(image=exposure.planes["image"] * 0))
    found = check_aperture(blank, catalog=path)
    assert found.verdict == verdict
    assert [e.kind for e in found.evidence] == ["column"]
    expected = 2.5 * np.log10(enclosed(12.0) / enclosed(stated.radius_pixels))
    assert found.evidence[0].fit.offset == pytest.approx(expected, abs=2e-3)


def test_catalogues_without_calibration_fluxes(tmp_path):
    path = tmp_path / "SRC-1-2.fits"
    Table({"id": [1, 2], "base_SdssCentroid_x": [1.0, 2.0], "base_SdssCentroid_y": [1.0, 2.0]}).write(path)
    assert "no column of the calibration flux" in str(read_pipeline_fluxes(path))
    empty = tmp_path / "src.fits"
    Table({"id": np.zeros(0, dtype=int)}).write(empty)
    assert "no rows" in str(read_pipeline_fluxes(empty))
    found = check_aperture(observe(FIELD, 4), catalog=path)
    assert found.verdict == "cannot tell" and any("calibration flux" in note for note in found.notes)


# ---- reference catalogues ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "given"),
    [
        ({"ra": "ra", "dec": "dec", "mag": "mag"}, {}),
        ({"ra": "RAJ2000", "dec": "DEJ2000", "mag": "mag_r"}, {}),
        ({"ra": "RA_ICRS", "dec": "DE_ICRS", "mag": "r_mag"}, {}),
        ({"ra": "a", "dec": "d", "mag": "synthetic"}, {"ra": "a", "dec": "d", "mag": "synthetic"}),
    ],
)
def test_columns_are_found_by_name_or_given(columns, given):
    table = Table({columns["ra"]: [150.0, 150.1], columns["dec"]: [2.0, 2.1], columns["mag"]: [18.0, np.nan]})
    found = read_reference(table, "r", given)
    assert found.ra.tolist() == [150.0] and found.mag.tolist() == [18.0] and found.mag_error.tolist() == [0.0]


def test_units_vectors_and_errors_are_read(tmp_path):
    table = QTable(
        {
            "coord_ra": np.radians([150.0, 150.1]) * u.rad,
            "coord_dec": np.radians([2.0, 2.1]) * u.rad,
            "MAG_APER": [[18.0, 17.5], [19.0, 18.5]],
            "mag_error": [0.01, np.nan],
        }
    )
    path = tmp_path / "reference.parquet"
    table.write(path)
    found = read_reference(path, "r", {"mag": "MAG_APER[1]"})
    np.testing.assert_allclose(found.ra, [150.0, 150.1])
    assert found.mag.tolist() == [17.5, 18.5] and found.mag_error.tolist() == [0.01, 0.0]
    assert "MAG_APER[1] of reference.parquet" in found.origin


@pytest.mark.parametrize(
    ("table", "columns", "text"),
    [
        ({"ra": [1.0], "dec": [1.0], "Gmag": [18.0]}, {}, "looked for mag, mag_r"),
        ({"ra": [1.0], "dec": [1.0], "mag": [18.0]}, {"mag": "magnitude"}, "'magnitude' for mag"),
        ({"ra": [1.0], "dec": [1.0], "mag": [18.0]}, {"flux": "mag"}, "'flux' is not something"),
        ({"ra": [1.0], "dec": [1.0], "mag": [np.nan]}, {}, "none of 1 rows"),
        ({"ra": [1.0], "dec": [1.0], "mag": [[18.0, 19.0]]}, {}, "has 2 values in each row"),
        ({"ra": [1.0], "dec": [1.0], "mag": [18.0] * u.nJy}, {}, "AB magnitudes are needed"),
        ({"ra": [1.0] * u.s, "dec": [1.0], "mag": [18.0]}, {}, "an angle is needed"),
        ({"ra": [1.0], "dec": [1.0], "m": [[18.0, 19.0]]}, {"mag": "m[2]"}, "'m\\[2\\]' is asked for"),
    ],
)
def test_reference_catalogues_that_cannot_be_used(table, columns, text):
    with pytest.raises(CatalogError, match=text):
        read_reference(QTable(table), "r", columns)


# ---- real images ------------------------------------------------------------------------------------------------


def source_extractor(folder: Path, i: int) -> tuple[Reference, np.ndarray]:
    """The magnitudes of source-extractor's first aperture, whose radius is not written; and all radii.

    Its flux errors are the noise of a pixel times sqrt(pi) r where the sky dominates, so that they are as the radii.
    """
    table = Table.read(folder / f"image_{i}.cat.fits", hdu=1)
    table = table[np.asarray(table["FLAGS"]) == 0]
    errors = np.asarray(table["FLUXERR_APER"], dtype=float)
    mag = np.asarray(table["MAG_APER"])[:, 0].astype(float)
    zeros = np.zeros(len(table))
    position = (np.asarray(table[n], dtype=float) for n in ("ALPHA_J2000", "DELTA_J2000"))
    return Reference(*position, mag, zeros, f"image_{i}.cat.fits"), np.median(errors / errors[:, :1], axis=0)


@pytest.mark.parametrize("i", [1, 2, 3, 4])
def test_the_aperture_of_source_extractor_on_vircam_images(data_dir, i):
    folder = data_dir / "video_H"
    known, ratios = source_extractor(folder, i)
    # 6, 10, 12 and 18 pixels.
    np.testing.assert_allclose(6 * ratios, [6, 10, 12, 18], rtol=1e-3)
    exposure = read_exposure(folder / f"image_{i}.fits")
    found = check_aperture(exposure, stated=SIX, reference=known)
    assert found.verdict == "fits"
    assert found.best.fit.radius == pytest.approx(6.0, rel=0.05)
    assert check_aperture(exposure, stated=CalibrationAperture(3.0), reference=known).verdict == "does not fit"
    # Of stars that stand alone within 36 pixels there are few.
    assert check_aperture(exposure, stated=TWELVE, reference=known).verdict != "fits"
    # Without magnitudes a radius can neither be confirmed nor denied.
    assert {check_aperture(exposure, stated=CalibrationAperture(r)).verdict for r in (3.0, 6.0, 12.0)} == {
        "cannot tell"
    }


def test_a_cfht_image_without_pixels_is_told_by_its_aperture_correction(data_dir):
    exposure = read_exposure(data_dir / "cfht_849375" / "calexp-849375-12.fits.fz")
    found = check_aperture(exposure)
    assert found.verdict == "fits" and found.best.kind == "model"
    assert found.best.fit.radius == pytest.approx(12.0, rel=0.05)
    wrong = check_aperture(exposure, stated=SIX)
    assert wrong.verdict == "does not fit"
    # The same pipelines say in another file of theirs which column the flux is.
    table = data_dir / "cfht_849375" / "SRC-849375-12.parq"
    assert check_aperture(exposure, catalog=table).best.fit.radius == 12.0
    assert check_aperture(exposure, stated=SIX, catalog=table).best.kind == "column"
    assert check_aperture(exposure, stated=SIX, catalog=table).verdict == "does not fit"


@pytest.mark.parametrize(
    "name",
    [
        "afw/obs_base/calexp.fits",
        "decam_stars/z/images/decam/CP/V4.8.2/CP20170315/c4d_170316_062107_ooi_z_ls9.N2.fits",
        "decam_stars/r/images/decam/CP/V4.8.2a/CP20171112/c4d_171113_060340_ooi_r_ls9.N6.fits",
        "afw_reference/calexp_01_tan_singlegauss.fits",
        "afw_reference/calexp_05_tansip_psfex_rice.fits",
    ],
)
def test_other_real_images_are_not_flagged(data_dir, name):
    exposure = read_exposure(data_dir / name)
    assert check_aperture(exposure).verdict in ("fits", "cannot tell")
    assert check_aperture(exposure, stated=TWELVE).verdict in ("fits", "cannot tell")


@pytest.mark.parametrize("kind", ["reference", "nothing", "no stars"])
def test_it_can_be_drawn(kind, tmp_path):
    exposure = observe(FIELD, 1)
    if kind == "no stars":
        exposure = exposure.replace(planes=exposure.planes.assign(image=exposure.planes["image"] * 0))
    check = check_aperture(exposure, reference=reference(exposure) if kind == "reference" else None)
    figure = aperture_figure(check)
    figure.savefig(tmp_path / "growth.png")
    texts = [t.get_text() for axis in figure.axes for t in (axis.get_legend().get_texts() if axis.get_legend() else [])]
    assert any("stated: 12 pix" in t for t in texts) and any("fakes" in t for t in texts)
    assert any("fitted" in t for t in texts) == (kind == "reference")
