"""The demo's survey: read back by the format that knows nothing of it, and true to its own sky."""

from __future__ import annotations

import filecmp

import numpy as np
import pytest
from astropy.io import fits

from skygraft import read_exposure
from skygraft.demo import SurveySpec, make_survey
from skygraft.demo.draw import true_psf
from skygraft.demo.sky import APERTURE_RADIUS, Detector, make_sky, make_visits
from skygraft.skymap import get_skymap
from skygraft.survey import index_images
from skygraft.wcs import local_jacobian

SPEC = SurveySpec(seed=3, bands=("r",), visits_per_band=1, detector_size=512, patch_size=512, star_density=30)


@pytest.fixture(scope="module")
def survey(tmp_path_factory):
    folder = tmp_path_factory.mktemp("survey")
    return make_survey(folder, SPEC)


def detector_of(image) -> Detector:
    visit = next(v for v in make_visits(SPEC) if v.number == image.visit)
    return Detector(visit, image.detector, SPEC.detector_size)


def test_images_say_who_they_are(survey) -> None:
    assert len(survey) == 2
    exposure = read_exposure(survey[0].path)
    assert exposure.format == "lsst_afw"
    assert str(exposure.data_id) == f"DemoCam-{survey[0].visit}-0"
    assert exposure.data_id.band == "r"
    assert exposure.visit_info.exposure_time == 120
    assert exposure.visit_info.mjd == pytest.approx(detector_of(survey[0]).visit.mjd, abs=1e-8)
    assert {"SAT", "CR", "BAD", "DETECTED"} <= set(exposure.mask_planes)
    reference = exposure.photo_calib.aperture
    assert reference.radius_pixels == 12 and reference.radius_arcsec == pytest.approx(2.4, rel=0.01)
    assert f"SRC-{survey[0].visit}-0.fits" in exposure.photo_calib.reference_origin


def test_wcs_is_that_of_wcslib_and_parities_differ(survey) -> None:
    signs = []
    for image in survey:
        exposure, truth = read_exposure(image.path), detector_of(image).wcs
        x, y = np.random.default_rng(0).uniform(0, SPEC.detector_size, (2, 50))
        ra, dec = exposure.wcs.pixel_to_world_values(x, y)
        np.testing.assert_allclose(np.stack([ra, dec], axis=1), truth.all_pix2world(np.stack([x, y], axis=1), 0),
                                   rtol=0, atol=1e-9)  # fmt: skip
        back = exposure.wcs.world_to_pixel_values(ra, dec)
        np.testing.assert_allclose(back, [x, y], rtol=0, atol=1e-5)
        signs.append(np.sign(np.linalg.det(local_jacobian(exposure.wcs, [256.0], [256.0])[0])))
    assert sorted(signs) == [-1, 1]


def test_psf_model_is_the_true_psf(survey) -> None:
    import galsim

    image = survey[1]
    exposure, detector = read_exposure(image.path), detector_of(image)
    for x, y in ((60.0, 80.0), (400.0, 300.0)):
        kernel = exposure.psf.kernels([x], [y])[0]
        n = kernel.shape[0]
        drawn = galsim.Convolve(true_psf(detector, x, y), galsim.Pixel(1.0)).drawImage(
            nx=n, ny=n, scale=1.0, method="no_pixel"
        )
        truth = drawn.array / drawn.array.sum()
        assert np.abs(kernel - truth).max() < 5e-3 * truth.max()
    assert exposure.psf.valid_box is None or exposure.psf.valid_box.contains([3.0, 508.0], [3.0, 508.0]).all()
    kernels = exposure.psf.kernels([10.0, 500.0], [10.0, 500.0])
    assert np.abs(kernels[0] - kernels[1]).max() > 0.02 * kernels.max()  # it does vary


def test_zeropoint_is_that_of_the_aperture(survey) -> None:
    # Light outside the aperture is missing from the calibration stars, so that the zeropoint is fainter than that of
    # all the light by exactly the part that the true PSF has outside: what must close with what.
    import galsim

    for image in survey:
        exposure, detector = read_exposure(image.path), detector_of(image)
        x = y = np.array([SPEC.detector_size / 2])
        total = detector.visit.zeropoint + 2.5 * np.log10(detector.throughput(x, y))
        stars = galsim.Convolve(true_psf(detector, x[0], y[0]), galsim.Pixel(1.0))
        drawn = stars.drawImage(nx=401, ny=401, scale=1.0, method="no_pixel").array
        rows, columns = np.mgrid[-200:201, -200:201]
        inside = drawn[np.hypot(columns, rows) < APERTURE_RADIUS].sum()
        missing = total - exposure.photo_calib.zeropoint(x, y)
        assert missing[0] == pytest.approx(-2.5 * np.log10(inside), abs=0.008)
        assert -2.5 * np.log10(inside) > 0.008  # else this would test nothing


def test_own_stars_come_out_at_their_magnitudes(survey) -> None:
    sep = pytest.importorskip("sep")
    sky = make_sky(SPEC)
    deltas = []
    for image in survey:
        exposure = read_exposure(image.path)
        src = fits.getdata(image.path.with_name(f"SRC-{image.visit}-{image.detector}.fits"), 1)
        src = src[src["calib_photometry_used"]]
        x, y = src["base_SdssCentroid_x"].astype(float), src["base_SdssCentroid_y"].astype(float)
        flux, _, _ = sep.sum_circle(exposure.image.copy(), x, y, APERTURE_RADIUS, subpix=0)
        deltas.append(exposure.photo_calib.magnitude(flux, x, y) - sky.mags["r"][src["id"]])
        np.testing.assert_allclose(
            exposure.wcs.world_to_pixel_values(*np.rad2deg([src["coord_ra"], src["coord_dec"]])), [x, y], atol=1e-4
        )
    delta = np.concatenate(deltas)
    assert len(delta) >= 10
    assert abs(np.median(delta)) < 0.01


def test_variance_is_that_of_the_noise(survey) -> None:
    exposure = read_exposure(survey[0].path)
    quiet = exposure.mask == 0
    pull = exposure.image[quiet] / np.sqrt(exposure.variance[quiet])
    assert 1.4826 * np.median(np.abs(pull - np.median(pull))) == pytest.approx(1, abs=0.05)


def test_survey_lies_on_its_sky_map(survey) -> None:
    table = index_images({"images": "calexp-*.fits"}, survey[0].path.parent)
    assert len(table) == 2 and not len(table.meta["failures"])
    tract, patch = get_skymap(SPEC.skymap).locate(np.asarray(table["ra"]), np.asarray(table["dec"]))
    assert (tract == 0).all() and (patch >= 0).all()


def test_same_seed_same_files(survey, tmp_path) -> None:
    again = make_survey(tmp_path, SPEC)
    for one, two in zip(survey, again, strict=True):
        assert filecmp.cmp(one.path, two.path, shallow=False)
    other = SurveySpec(**{**SPEC.__dict__, "seed": 4})
    assert (make_sky(other).ra[:5] != make_sky(SPEC).ra[:5]).all()
