"""Coadds against visits, on a survey that GalSim draws and a plain coadder coadds: each fault is found by its name."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Sequence

import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from kits.coadd_survey import Coadd, Visit, coadd, fakes, four_visits, in_circle, make, star
from skygraft.errors import (
    CalibrationError,
    CatalogError,
    ConfigError,
    InjectionError,
    UncalibratedImageError,
    UnknownApertureError,
)
from skygraft.exposure import DataId, Exposure
from skygraft.photometry import PSF_MODEL, TOTAL, CalibrationAperture, PhotoCalib
from skygraft.qa.consistency import Consistency, ConsistencySettings, check_consistency
from skygraft.qa.consistency.terms import SCHEMA, TERMS

PLAIN = {"pixels": False}


@pytest.fixture(scope="module")
def visits() -> list[Visit]:
    return four_visits()


@pytest.fixture(scope="module")
def made(visits: list[Visit]) -> Coadd:
    return coadd(visits)


@pytest.fixture(scope="module")
def exposures(visits: list[Visit]) -> list[Exposure]:
    return [visit.exposure() for visit in visits]


@pytest.fixture(scope="module")
def good(made: Coadd, exposures: list[Exposure]) -> Consistency:
    return check_consistency(made.exposure(), exposures, fakes())


def column(found: Consistency, name: str) -> np.ndarray:
    return np.asarray(found.table.column(name).to_numpy(zero_copy_only=False), dtype=float)


def reasons(found: Consistency) -> set[str]:
    return {name for row in found.table.column("reasons").to_pylist() for name in row}


def test_a_sound_coadd_agrees_to_a_millimagnitude(good: Consistency) -> None:
    assert good.ok and good.summary.verdicts == {"agrees": 16, "differs": 0, "cannot tell": 0}
    assert np.abs(column(good, "difference")).max() < 2e-4
    assert max(np.abs(column(good, f"{name}_term")).max() for name in TERMS) < 5e-4
    assert np.abs(column(good, "size_ratio") - 1).max() < 1e-3
    assert column(good, "centroid_offset").max() < 0.01
    assert reasons(good) == set() and good.left_out == {}
    assert column(good, "n_visits").tolist() == [4.0] * 16
    assert good.table.schema == SCHEMA
    # The terms are all of the difference.
    total = sum(column(good, f"{name}_term") for name in TERMS)
    np.testing.assert_allclose(total, column(good, "difference"), atol=1e-12)
    # What is in the images says the same.
    found = good.pixels
    assert abs(found.zeropoint) < 1e-3 and np.hypot(found.dx, found.dy) < 2e-3
    assert all(abs(value - 1) < 0.01 for value in found.present.values())
    assert found.unexplained < 0.01


def test_weights_are_those_of_the_variances(good: Consistency, visits: list[Visit]) -> None:
    expected = np.array([1 / (v.sigma * 10 ** (0.4 * (27.0 - v.zeropoint))) ** 2 for v in visits])
    row = good.table.column("weights")[3].as_py()
    np.testing.assert_allclose(row, expected / expected.sum(), rtol=2e-3)
    assert good.table.column("visits")[3].as_py() == [f"testcam-{v.number}-1-r" for v in visits]


def test_the_reference_coadd_is_what_the_plain_coadder_makes_of_the_fakes(
    good: Consistency, visits: list[Visit]
) -> None:
    table = fakes()
    lit = []
    for visit in visits:
        empty = copy.copy(visit)
        empty.sigma = 1e-9
        empty.draw(np.array(table["ra"]), np.array(table["dec"]), np.array(table["mag_r"]), 1)
        empty.sigma = visit.sigma
        lit.append(empty)
    expected = coadd(lit)
    x, y = expected.wcs.world_to_pixel_values(table["ra"], table["dec"])
    for row in range(len(table)):
        _, reference = good.comparison.stamps(row)
        half = reference.shape[0] // 2
        i, j = round(float(x[row])), round(float(y[row]))
        own = expected.image[j - 6 : j + 7, i - 6 : i + 7]
        assert np.abs(reference[half - 6 : half + 7, half - 6 : half + 7] - own).max() < 1e-3 * own.max()


def test_galaxies_agree(made: Coadd, exposures: list[Exposure]) -> None:
    found = check_consistency(made.exposure(), exposures, fakes(9, kind="Sersic"), settings=PLAIN)
    assert reasons(found) == set() and np.abs(column(found, "difference")).max() < 1e-3


def test_a_wrong_psf_of_the_coadd(made: Coadd, exposures: list[Exposure]) -> None:
    found = check_consistency(made.exposure(kernel=star(0.75, 3.0, 0.0, 0.0)), exposures, fakes())
    assert reasons(found) == {"PSF_MODEL"} and not found.ok
    # Sizes of Gaussians of these seeings and weights: the ratio is what the FWHM say, roughly.
    assert 0.85 < np.median(column(found, "psf_size_ratio")) < 0.93


def test_a_wrong_zeropoint_of_the_coadd(made: Coadd, exposures: list[Exposure]) -> None:
    found = check_consistency(made.exposure(zeropoint=made.zeropoint + 0.02), exposures, fakes())
    assert reasons(found) == {"ZEROPOINT"} and not found.ok
    assert found.pixels.zeropoint == pytest.approx(0.02, abs=1e-3)
    # Both injections follow the header: they agree.
    assert np.abs(column(found, "difference")).max() < 1e-3


def test_a_shifted_wcs_of_the_coadd(made: Coadd, exposures: list[Exposure]) -> None:
    shifted = made.wcs.deepcopy()
    shifted.wcs.crpix = made.wcs.wcs.crpix + np.array([0.3, -0.1])
    found = check_consistency(made.exposure(wcs=shifted), exposures, fakes())
    assert reasons(found) == {"WCS_OFFSET"}
    assert (found.pixels.dx, found.pixels.dy) == pytest.approx((-0.3, 0.1), abs=3e-3)


def test_a_visit_that_was_left_out(visits: list[Visit], exposures: list[Exposure]) -> None:
    found = check_consistency(coadd(visits[:3]).exposure(), exposures, fakes())
    assert reasons(found) == {"MISSING_VISITS"}
    assert "testcam-104-1-r is not in the coadd" in found.table.column("note")[0].as_py()
    assert found.pixels.present["testcam-104-1-r"] == pytest.approx(0.0, abs=0.02)


def test_masked_cores_of_a_visit(made: Coadd, visits: list[Visit], exposures: list[Exposure]) -> None:
    table = fakes()
    masked = copy.copy(visits[0])
    masked.mask = masked.mask.copy()
    for x, y in zip(*masked.wcs.world_to_pixel_values(table["ra"], table["dec"]), strict=True):
        i, j = round(float(x)), round(float(y))
        masked.mask[j - 1 : j + 2, i - 1 : i + 2] = 1 << 2
    found = check_consistency(made.exposure(), [masked.exposure(), *exposures[1:]], table)
    assert reasons(found) == {"CLIPPING"}
    assert np.median(column(found, "clipping_term")) < -0.02
    # Of planes that are not asked for nothing is left out.
    assert check_consistency(
        made.exposure(), [masked.exposure(), *exposures[1:]], table, settings=PLAIN | {"bad_planes": ["SAT"]}
    ).ok


def test_clipped_cores_of_the_coadd(made: Coadd, visits: list[Visit], exposures: list[Exposure]) -> None:
    without_best = coadd(visits[1:]).image
    image = np.where(made.image > 15 * made.variance**0.5, without_best, made.image)
    found = check_consistency(made.exposure(image=image), exposures, fakes())
    assert reasons(found) == {"CLIPPING"} and found.pixels.core < -0.02


@pytest.mark.parametrize("own", [PSF_MODEL, TOTAL])
def test_another_reference_of_the_coadd(made: Coadd, exposures: list[Exposure], own) -> None:
    found = check_consistency(made.exposure(own), exposures, fakes(), settings=PLAIN | {"aperture": "12 pix"})
    assert reasons(found) == {"CALIBRATION"}
    # Visits have their flux in 12 pixels, the coadd everything in its kernel of sum one.
    kernels = [exposure.psf.kernels([0.0], [0.0])[0] for exposure in exposures]
    fraction = np.average(
        [in_circle(k, 12.0) / k.sum() for k in kernels], weights=found.table.column("weights")[0].as_py()
    )
    assert np.median(column(found, "difference")) == pytest.approx(-2.5 * np.log10(fraction), abs=1e-3)
    assert np.abs(np.median(column(found, "psf_term"))) < 5e-4


def test_another_radius_of_the_visits(made: Coadd, visits: list[Visit]) -> None:
    smaller = [visit.exposure(CalibrationAperture(5.0)) for visit in visits]
    found = check_consistency(made.exposure(), smaller, fakes(), settings=PLAIN)
    assert reasons(found) == {"CALIBRATION"}
    assert column(found, "reference_term").max() > 0.05 and column(found, "difference").min() > 0.05


def test_a_shifted_wcs_of_one_visit_is_that_visits(made: Coadd, visits: list[Visit], exposures: list[Exposure]) -> None:
    off = copy.copy(visits[1])
    off.wcs = off.wcs.deepcopy()
    off.wcs.wcs.crpix = off.wcs.wcs.crpix + np.array([0.5, 0.0])
    found = check_consistency(made.exposure(), [exposures[0], off.exposure(), *exposures[2:]], fakes())
    assert reasons(found) == {"WCS_OFFSET"}
    note = found.table.column("note")[0].as_py()
    assert "the WCS of testcam-102-1-r is 0." in note and "testcam-101" not in note


@pytest.mark.parametrize("order", [1, 3])
def test_a_coadd_of_another_interpolation_is_no_fault(
    made: Coadd, visits: list[Visit], exposures: list[Exposure], order: int
) -> None:
    total = weights = 0.0
    y, x = np.mgrid[:160, :160].astype(float)
    for visit in visits:
        place = np.array(visit.wcs.world_to_pixel_values(*made.wcs.pixel_to_world_values(x, y)))
        scale = 10 ** (0.4 * (made.zeropoint - visit.zeropoint))
        weight = 1 / (visit.sigma * scale) ** 2
        total = total + weight * scale * map_coordinates(visit.image, place[::-1], order=order)
        weights += weight
    found = check_consistency(made.exposure(image=total / weights), exposures, fakes())
    assert reasons(found) == set() and found.ok


def test_sky_and_cosmic_rays_that_the_coadd_does_not_have_are_no_fault(made: Coadd, visits: list[Visit]) -> None:
    rng = np.random.default_rng(1)
    images = []
    for k, visit in enumerate(visits):
        own = copy.copy(visit)
        own.image = visit.image + 200 + 10 * k + 0.05 * np.arange(visit.shape[1])
        own.image[tuple(rng.integers(0, 240, (2, 60)))] += 500
        images.append(own.exposure())
    found = check_consistency(made.exposure(), images, fakes())
    assert reasons(found) == set() and abs(found.pixels.zeropoint) < 0.02


@pytest.mark.parametrize("n_in", [4, 3])
def test_without_stars_the_noise_tells_which_visits_there_are(n_in: int) -> None:
    empty = four_visits(n_stars=0)
    found = check_consistency(coadd(empty[:n_in]).exposure(), [visit.exposure() for visit in empty], fakes())
    assert reasons(found) == (set() if n_in == 4 else {"MISSING_VISITS"})
    assert np.isnan([found.pixels.zeropoint, found.pixels.dx]).all() and "too few objects" in found.pixels.note


def test_pixels_that_are_not_of_the_visits_say_so(made: Coadd, exposures: list[Exposure]) -> None:
    other = coadd(four_visits(seed=5)).image
    found = check_consistency(made.exposure(image=other), exposures, fakes())
    assert found.pixels.present == {} and "made of other images" in found.pixels.note


def test_equal_weights_and_no_variance(made: Coadd, visits: list[Visit]) -> None:
    bare = [visit.exposure(variance=False) for visit in visits]
    with pytest.raises(CalibrationError, match=r"testcam-101-1-r has no variance.*--weights equal"):
        check_consistency(made.exposure(), bare, fakes())
    found = check_consistency(made.exposure(), bare, fakes(), settings=PLAIN | {"weights": "equal"})
    assert found.table.column("weights")[0].as_py() == pytest.approx([0.25] * 4)


def one(exposures: Sequence[Exposure], **changes) -> Exposure:
    return exposures[0].replace(**changes)


def test_what_cannot_be_compared_is_an_error(made: Coadd, exposures: list[Exposure]) -> None:
    coadded, table = made.exposure(), fakes()
    other = one(exposures, data_id=DataId(visit=9, detector=1, band="i"))
    table_i = fakes()
    table_i["mag_i"] = table_i["mag_r"]
    with pytest.raises(ConfigError, match="in band i, the coadd 1-2-r in r"):
        check_consistency(coadded, [other], table_i)
    with pytest.raises(ConfigError, match="two visits have the name testcam-101-1-r"):
        check_consistency(coadded, [exposures[0], exposures[0]], table)
    with pytest.raises(InjectionError, match="no visit holds a source of the coadd") as caught:
        check_consistency(coadded, [], table)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    far = fakes()
    far["dec"] = far["dec"] + 1.0
    with pytest.raises(InjectionError, match="none of the catalogue's sources is drawn on the coadd"):
        check_consistency(coadded, exposures, far)
    uncalibrated = coadded.replace(photo_calib=PhotoCalib.from_zeropoint(27.0))
    with pytest.raises(UnknownApertureError):
        check_consistency(uncalibrated, exposures, table)
    with pytest.raises(UncalibratedImageError):
        check_consistency(coadded, [one(exposures, photo_calib=None)], table)
    with pytest.raises(ConfigError, match=r"no mask plane 'SATT'.*Did you mean 'SAT'"):
        check_consistency(coadded, exposures, table, settings=PLAIN | {"bad_planes": ["SATT"]})
    with pytest.raises(ConfigError, match="unknown setting 'tolerence'"):
        check_consistency(coadded, exposures, table, settings={"tolerence": 1})


@pytest.mark.parametrize(
    "bad", [{"tolerance": 0}, {"size_tolerance": np.nan}, {"weights": "mean"}, {"aperture": "psf_model"}]
)
def test_settings_that_are_not_allowed(bad: dict) -> None:
    with pytest.raises(ConfigError):
        ConsistencySettings(**bad)


def test_settings_survive_a_round_trip() -> None:
    settings = ConsistencySettings(weights="equal", bad_planes=("SAT",), aperture="12 pix")
    assert ConsistencySettings.from_dict(settings.to_dict()) == settings


def test_a_visit_elsewhere_is_left_out(made: Coadd, exposures: list[Exposure], visits: list[Visit]) -> None:
    away = copy.copy(visits[0])
    away.wcs = away.wcs.deepcopy()
    away.wcs.wcs.crval = 150.5, 2.0
    away.number = 999
    found = check_consistency(made.exposure(), [*exposures, away.exposure()], fakes(), settings=PLAIN)
    assert found.left_out == {"testcam-999-1-r": "it does not reach the coadd's sources"} and found.ok


def test_sources_without_a_visit_cannot_be_told(made: Coadd, visits: list[Visit]) -> None:
    cut = visits[0].exposure()[:, :120]
    found = check_consistency(made.exposure(), [cut], fakes(), settings=PLAIN)
    verdicts = found.table.column("verdict").to_pylist()
    notes = [note for note, verdict in zip(found.table.column("note").to_pylist(), verdicts, strict=True)
             if verdict == "cannot tell"]  # fmt: skip
    assert 0 < len(notes) < 16 and all("visit" in note for note in notes)


def test_another_catalogue_in_a_visit(made: Coadd, exposures: list[Exposure]) -> None:
    from skygraft.injection import InjectionOptions
    from skygraft.qa.consistency.check import compare_images
    from skygraft.qa.consistency.light import light_image

    moved = fakes()
    moved["ra"] = moved["ra"] + 1.0 / 3600
    options = InjectionOptions()
    coadded = light_image(made.exposure(), fakes(), options)
    with pytest.raises(CatalogError, match="arcsec from where it is on the coadd"):
        compare_images(coadded, [light_image(exposures[0], moved, options)], ConsistencySettings(pixels=False))
    # Other magnitudes are a reason of their own.
    brighter = fakes()
    brighter["mag_r"] = brighter["mag_r"] - 0.1
    lit = [light_image(exposure, brighter, options) for exposure in exposures]
    found = compare_images(coadded, lit, ConsistencySettings(pixels=False))
    assert reasons(found) == {"MAGNITUDE"}
    assert np.median(column(found, "difference")) == pytest.approx(0.1, abs=1e-3)
    # Other ids: nothing in common.
    others = fakes()
    others["injection_id"] = others["injection_id"] + 1000
    with pytest.raises(InjectionError, match="it holds none of the sources"):
        compare_images(coadded, [light_image(exposures[0], others, options)], ConsistencySettings(pixels=False))


def test_moved_sources_are_left_out(made: Coadd, exposures: list[Exposure]) -> None:
    from skygraft.injection import InjectionOptions
    from skygraft.qa.consistency.check import compare_images
    from skygraft.qa.consistency.light import light_image

    moved, options = fakes(), InjectionOptions()
    moved["ra"][3] += 1.0 / 3600
    lit = [light_image(exposure, moved, options) for exposure in exposures]
    found = compare_images(light_image(made.exposure(), fakes(), options), lit, ConsistencySettings(pixels=False))
    assert found.table.column("n_visits").to_pylist() == [4, 4, 4, 0] + 12 * [4]
    assert found.table.column("verdict")[3].as_py() == "cannot tell"


def test_a_coadd_without_data_somewhere(made: Coadd, visits: list[Visit], exposures: list[Exposure]) -> None:
    table = fakes()
    masked = []
    for visit in visits:
        own = copy.copy(visit)
        own.mask = visit.mask.copy()
        x, y = (float(one[0]) for one in own.wcs.world_to_pixel_values(table["ra"][:1], table["dec"][:1]))
        own.mask[round(y) - 8 : round(y) + 9, round(x) - 8 : round(x) + 9] = 1
        masked.append(own.exposure())
    found = check_consistency(made.exposure(), masked, table, settings=PLAIN)
    assert found.table.column("verdict")[0].as_py() == "cannot tell"
    assert "masked in all" in found.table.column("note")[0].as_py()


def test_the_name_of_an_image_without_visit_is_its_own(made: Coadd, visits: list[Visit]) -> None:
    images = [
        make(v.image, v.sigma**2, v.mask, v.wcs, v.kernel, v.zeropoint, DataId(band="r"), CalibrationAperture(12.0))
        for v in visits
    ]
    found = check_consistency(made.exposure(), images, fakes(), settings=PLAIN)
    assert len(set(found.visits)) == 4 and found.ok


def test_of_many_sources_a_sample_is_compared(
    made: Coadd, exposures: list[Exposure], monkeypatch: pytest.MonkeyPatch
) -> None:
    from skygraft.qa.consistency import comparison, pixels

    monkeypatch.setattr(comparison, "_MOST_BYTES", 5.5 * 8 * 41**2)
    monkeypatch.setattr(pixels, "_MOST_BYTES", 60 * 4 * 32 * 25**2)
    found = check_consistency(made.exposure(), exposures, fakes())
    assert found.table.column("injection_id").to_pylist() == [5, 8, 12, 16, 20]
    assert "a sample of 5 of the 16 sources" in found.table.column("note")[0].as_py()
    # Fewer stamps say the same.
    assert found.pixels.n_pixels <= 60 * 25**2
    assert abs(found.pixels.zeropoint) < 1e-3 and len(found.pixels.present) == 4 and found.ok


def test_clipped_pixels_of_the_coadd_are_noted(made: Coadd, exposures: list[Exposure]) -> None:
    table = fakes()
    x, y = (round(float(one[2])) for one in made.wcs.world_to_pixel_values(table["ra"], table["dec"]))
    mask = made.mask.copy()
    mask[y - 3 : y + 4, x - 3 : x + 4] = 1 << 4
    coadded = made.exposure(mask=mask)
    coadded.planes["mask"].attrs |= {
        "flag_meanings": "BAD SAT CR NO_DATA CLIPPED",
        "flag_masks": np.array([1, 2, 4, 8, 16], np.int32),
    }
    notes = check_consistency(coadded, exposures, table, settings=PLAIN).table.column("note").to_pylist()
    assert ["marks pixels at its place as clipped" in note for note in notes] == [False] * 2 + [True] + [False] * 13
