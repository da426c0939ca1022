"""inject() on small made-up exposures: fluxes, shapes on the sky, masks, flags, and what it must refuse."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import QTable, Table
from astropy.wcs import WCS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from photutils.aperture import CircularAperture, aperture_photometry

from kits.oracles import band_limited_aperture_flux
from skygraft.catalog import Flag
from skygraft.errors import (
    CalibrationError,
    CatalogError,
    ConfigError,
    InjectionError,
    UncalibratedImageError,
    UnknownApertureError,
)
from skygraft.exposure import DataId, Exposure, VisitInfo, make_planes
from skygraft.injection import InjectionOptions, inject
from skygraft.photometry import PSF_MODEL, TOTAL, CalibrationAperture, PhotoCalib
from skygraft.psf import MoffatPSF
from skygraft.wcs import read_fits_wcs

SCALE = 0.2
ZEROPOINT = 27.0
APERTURE = CalibrationAperture(10.0, 2.0, "test")


def header(shape=(300, 340), rotation=0.0, mirrored=False) -> fits.Header:
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [150.0, 2.0]
    wcs.wcs.crpix = [shape[1] / 2, shape[0] / 2]
    t = np.radians(rotation)
    flip = np.diag([1.0 if mirrored else -1.0, 1.0])
    wcs.wcs.cd = SCALE / 3600 * flip @ np.array([[np.cos(t), -np.sin(t)], [np.sin(t), np.cos(t)]])
    return wcs.to_header()


def exposure(
    reference=APERTURE,
    *,
    shape=(300, 340),
    rotation=0.0,
    mirrored=False,
    fwhm=4.0,
    beta=3.0,
    variance=100.0,
    xy0=(0, 0),
    sky=0.0,
    **changes,
) -> Exposure:
    image = np.full(shape, sky, np.float32)
    parts = {
        "planes": make_planes(
            image, None if variance is None else np.full(shape, variance, np.float32), mask_planes={"BAD": 0}, xy0=xy0
        ),
        "wcs": read_fits_wcs(header(shape, rotation, mirrored), xy0=xy0),
        "psf": MoffatPSF(fwhm=fwhm, beta=beta, shape=(61, 61), pixel_integrated=True),
        "photo_calib": PhotoCalib.from_zeropoint(ZEROPOINT, reference=reference, reference_origin="test"),
        "data_id": DataId("TestCam", 12, 3, band="r"),
        "visit_info": VisitInfo(60000.0, 30.0),
        "gain": 2.0,
        "gain_origin": "test",
    }
    return Exposure(**{**parts, **changes})


def catalog_at(exp: Exposure, x, y, mag, source_type="Star", **columns) -> Table:
    x, y = np.atleast_1d(x).astype(float), np.atleast_1d(y).astype(float)
    ra, dec = exp.wcs.pixel_to_world_values(x, y)
    table = {
        "injection_id": np.arange(len(x)) + 100,
        "ra": ra,
        "dec": dec,
        "source_type": np.full(len(x), source_type),
        "mag_r": np.broadcast_to(np.asarray(mag, float), x.shape).copy(),
    }
    table |= {name: np.broadcast_to(value, x.shape).copy() for name, value in columns.items()}
    return Table(table)


def in_aperture(image, x, y, radius) -> np.ndarray:
    table = aperture_photometry(image.astype(float), CircularAperture(np.transpose([x, y]), radius), method="exact")
    return np.asarray(table["aperture_sum"])


def counts(mag) -> np.ndarray:
    return 10 ** (-0.4 * (np.asarray(mag, float) - ZEROPOINT))


def test_the_flux_inside_the_aperture_is_the_calibrated_flux():
    exp = exposure()
    rng = np.random.default_rng(1)
    x, y = np.meshgrid(np.arange(60, 300, 60.0), np.arange(60, 260, 60.0))
    x, y = x.ravel() + rng.uniform(-0.5, 0.5, x.size), y.ravel() + rng.uniform(-0.5, 0.5, x.size)
    mag = rng.uniform(18, 24, x.size)
    out = inject(exp, catalog_at(exp, x, y, mag), noise=False)
    image = out.exposure.image
    # photutils' exact overlap differs from band-limited aperture flux by about 1e-4 at 10 pixels; the other stars'
    # wings, 60 pixels away, are taken off with the model's own totals below 1e-3 of the faintest.
    alone = [inject(exp, catalog_at(exp, x[i], y[i], mag[i]), noise=False).exposure.image for i in range(x.size)]
    np.testing.assert_allclose(sum(a.astype(float) for a in alone), image, atol=1e-3)
    flux = np.array([in_aperture(a, x[i : i + 1], y[i : i + 1], 10.0)[0] for i, a in enumerate(alone)])
    np.testing.assert_allclose(flux, counts(mag), rtol=4e-4)
    np.testing.assert_allclose(out.truth["inst_flux"], counts(mag), rtol=1e-9)
    np.testing.assert_allclose(out.truth["x"], x, atol=1e-6)


@pytest.mark.parametrize("flux_mode", ["calibrated", "psf_sum", "total"])
def test_the_aperture_fraction_is_that_of_all_the_light(flux_mode):
    """Moffat: 1 - (1 + r^2 / alpha^2)^(1 - beta) inside r, in closed form, although the kernel ends at 30 pixels."""
    exp = exposure(fwhm=4.0, beta=2.5)
    alpha = 4.0 / 2 / np.sqrt(2 ** (1 / 2.5) - 1)
    held = 1 - (1 + 10.0**2 / alpha**2) ** (1 - 2.5)
    truth = inject(exp, catalog_at(exp, 150, 150, 20.0), noise=False, flux_mode=flux_mode).truth
    assert truth["aperture_fraction"][0] == pytest.approx(held, abs=2e-4)


def test_flux_modes_differ_by_what_the_kernel_holds():
    """Moffat: 1 - (1 + r^2 / alpha^2)^(1 - beta) inside r, in closed form."""
    fwhm, beta, r = 4.0, 3.0, 10.0
    exp = exposure(fwhm=fwhm, beta=beta)
    catalog = catalog_at(exp, 150, 150, 20.0)
    alpha = fwhm / 2 / np.sqrt(2 ** (1 / beta) - 1)
    held = 1 - (1 + r**2 / alpha**2) ** (1 - beta)
    flux = counts(20.0)

    def measured(**options):
        return in_aperture(inject(exp, catalog, noise=False, **options).exposure.image, [150], [150], r)[0]

    assert measured() == pytest.approx(flux, rel=4e-4)
    assert measured(flux_mode="total") == pytest.approx(flux * held, rel=2e-3)
    assert measured(flux_mode="aperture", aperture="10 pix") == pytest.approx(flux, rel=4e-4)
    assert measured(flux_mode="aperture", aperture={"diameter": "4 arcsec"}) == pytest.approx(flux, rel=4e-4)
    summed = inject(exp, catalog, noise=False, flux_mode="psf_sum").exposure.image
    assert summed.sum(dtype=float) == pytest.approx(flux, rel=1e-6)


@pytest.mark.parametrize(("reference", "mode"), [(PSF_MODEL, "psf_sum"), (TOTAL, "total")])
def test_the_image_own_reference_decides(reference, mode):
    exp = exposure(reference)
    catalog = catalog_at(exp, [100, 200], [100, 200], 20.0)
    one = inject(exp, catalog, noise=False).exposure.image
    other = inject(exp, catalog, noise=False, flux_mode=mode).exposure.image
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("rotation", [0.0, 37.0, 90.0, 200.0])
@pytest.mark.parametrize("mirrored", [False, True])
def test_a_position_angle_is_one_on_the_sky(rotation, mirrored):
    """Second moments of the image, taken to the sky by finite differences of the WCS."""
    exp = exposure(rotation=rotation, mirrored=mirrored, fwhm=2.5, beta=4.5)
    catalog = catalog_at(exp, 171.3, 149.6, 18.0, "Gaussian", half_light_radius=1.2, q=0.4, pa=30.0)
    image = inject(exp, catalog, noise=False, flux_tolerance=1e-6).exposure.image.astype(float)
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    total = image.sum()
    cx, cy = (image * x).sum() / total, (image * y).sum() / total
    moments = np.array(
        [
            [(image * (x - cx) ** 2).sum(), (image * (x - cx) * (y - cy)).sum()],
            [(image * (x - cx) * (y - cy)).sum(), (image * (y - cy) ** 2).sum()],
        ]
    )
    ra, dec = (np.asarray(v) for v in exp.wcs.pixel_to_world_values([cx, cx + 1, cx], [cy, cy, cy + 1]))
    east, north = (ra - ra[0]) * np.cos(np.radians(dec[0])), dec - dec[0]
    jacobian = np.array([[east[1], east[2]], [north[1], north[2]]])
    sky = jacobian @ moments @ jacobian.T
    pa = 0.5 * np.degrees(np.arctan2(2 * sky[0, 1], sky[1, 1] - sky[0, 0]))
    assert pa == pytest.approx(30.0, abs=0.05)
    assert (cx, cy) == (pytest.approx(171.3, abs=2e-3), pytest.approx(149.6, abs=2e-3))


@pytest.mark.parametrize("n", [0.5, 1.0, 4.0])
def test_a_galaxy_is_scaled_like_a_star_and_loses_no_more_than_it_may(n):
    exp = exposure(shape=(901, 901))
    catalog = catalog_at(exp, 450.2, 450.4, 19.0, "Sersic", n=n, half_light_radius=1.0, q=0.6, pa=10.0)
    out = inject(exp, catalog, noise=False)
    whole_psf = exp.psf.kernels([450.0], [450.0]).sum()
    expected = counts(19.0) * out.truth["kernel_scale"][0] * whole_psf
    assert out.truth["flux_deposited"][0] == pytest.approx(expected, rel=2e-3)
    assert out.truth["flux_deposited"][0] == pytest.approx(out.exposure.image.sum(dtype=float), rel=1e-4)


def test_every_source_type_is_drawn_with_its_flux(tmp_path):
    exp = exposure(shape=(400, 900))
    ny, nx = np.mgrid[-10:11, -10:11]
    stamp = tmp_path / "stamp.fits"
    fits.writeto(stamp, np.exp(-(nx**2 + ny**2) / 18.0))
    base = catalog_at(exp, [100, 300, 500, 700, 800], [200] * 5, 20.0)
    base["source_type"] = ["Star", "BulgeDisk", "Trail", "Stamp", "Gaussian"]
    base["bulge_fraction"] = [np.nan, 0.3, np.nan, np.nan, np.nan]
    base["bulge_half_light_radius"] = [np.nan, 0.3, np.nan, np.nan, np.nan]
    base["disk_half_light_radius"] = [np.nan, 0.8, np.nan, np.nan, np.nan]
    base["bulge_n"] = [np.nan, 2.0, np.nan, np.nan, np.nan]
    base["half_light_radius"] = [np.nan, np.nan, np.nan, np.nan, 0.7]
    base["trail_length"] = [np.nan, np.nan, 8.0, np.nan, np.nan]
    base["trail_pa"] = [0.0, 0.0, 90.0, 0.0, 0.0]
    base["stamp"] = ["", "", "", str(stamp), ""]
    out = inject(exp, base, noise=False)
    assert out.truth["flags"].tolist() == [0] * 5
    expected = counts(20.0) * exp.psf.kernels([100.0], [200.0]).sum() * out.truth["kernel_scale"]
    np.testing.assert_allclose(out.truth["flux_deposited"], expected, rtol=3e-3)
    # the trail runs East-West: along x here, 8 arcsec = 40 pixels
    trail = out.exposure.image[150:250, 440:560].astype(float)
    assert (trail.sum(axis=0) > 0.5 * trail.sum(axis=0).max()).sum() == pytest.approx(40, abs=2)


def test_noise_has_the_variance_that_the_variance_plane_is_given():
    exp = exposure(gain=0.5)
    catalog = catalog_at(exp, 150, 150, 14.0)
    clean = inject(exp, catalog, noise=False).exposure
    draws = [inject(exp, catalog, seed=s).exposure for s in range(60)]
    added = draws[0].variance - exp.variance
    np.testing.assert_allclose(added, np.maximum(clean.image, 0) / 0.5, rtol=1e-4, atol=1e-2)
    bright = clean.image > 2000
    residual = np.array([(d.image - clean.image)[bright] for d in draws]) / np.sqrt(added[bright])
    assert residual.mean() == pytest.approx(0, abs=5 / np.sqrt(residual.size))
    assert residual.var() == pytest.approx(1, abs=5 * np.sqrt(2 / residual.size))
    assert (clean.variance == exp.variance).all()


def test_the_result_depends_on_seed_and_image_only():
    exp = exposure()
    rng = np.random.default_rng(0)
    catalog = catalog_at(exp, rng.uniform(-20, 350, 80), rng.uniform(-20, 320, 80), rng.uniform(17, 24, 80))
    catalog["source_type"] = np.where(np.arange(80) % 4 == 0, "Sersic", "Star")
    catalog["n"], catalog["half_light_radius"] = 1.0, 0.5
    one = inject(exp, catalog, seed=0)
    shuffled = inject(exp, catalog[rng.permutation(80)], seed=0)
    np.testing.assert_array_equal(one.exposure.image, shuffled.exposure.image)
    np.testing.assert_array_equal(one.truth["flux_deposited"], shuffled.truth["flux_deposited"])
    assert (one.truth["injection_id"] == np.arange(80) + 100).all()
    assert (inject(exp, catalog, seed=1).exposure.image != one.exposure.image).any()
    other = exp.replace(data_id=DataId("TestCam", 13, 3, band="r"))
    assert (inject(other, catalog, seed=0).exposure.image != one.exposure.image).any()


def test_sources_elsewhere_change_nothing():
    exp = exposure(shape=(200, 700))
    rng = np.random.default_rng(3)
    catalog = catalog_at(exp, rng.uniform(0, 700, 150), rng.uniform(0, 200, 150), rng.uniform(17, 23, 150))
    near = np.asarray(exp.wcs.world_to_pixel_values(catalog["ra"], catalog["dec"])[0]) < 400
    everything = inject(exp, catalog, seed=4).exposure
    some = inject(exp, catalog[near], seed=4).exposure
    np.testing.assert_array_equal(everything.image[:, :300], some.image[:, :300])
    np.testing.assert_array_equal(everything.variance[:, :300], some.variance[:, :300])


def test_a_cut_out_gives_the_pixels_of_the_whole():
    """Parent coordinates: the same sources into a cut-out land, noise and all, on the same pixels."""
    whole = exposure(xy0=(1000, 2000))
    catalog = catalog_at(whole, [1100.3, 1150.8], [2090.4, 2110.1], [17.0, 18.0])
    cut = whole.replace(planes=whole.planes.isel(x=slice(50, 220), y=slice(30, 190)))
    full, part = inject(whole, catalog).exposure, inject(cut, catalog).exposure
    # taps are fitted over each image's own box, and this PSF is the same everywhere
    np.testing.assert_array_equal(part.image, full.image[30:190, 50:220])


def test_masks_mark_what_stands_out_of_the_noise():
    exp = exposure(variance=100.0)
    out = inject(exp, catalog_at(exp, [100, 200.4], [100, 200.4], [16.0, 24.0]), noise=False, mask_threshold=0.5)
    planes = out.exposure.mask_planes
    injected = (out.exposure.mask & planes["INJECTED"]) != 0
    core = (out.exposure.mask & planes["INJECTED_CORE"]) != 0
    np.testing.assert_array_equal(injected, np.abs(out.exposure.image) > 0.5 * 10.0)
    assert core.sum() == 18
    assert core[99:102, 99:102].all()
    assert core[199:202, 199:202].all()
    assert 100 < injected.sum() < 70 * 70
    assert planes["BAD"] == 1
    assert "INJECTED" not in exp.mask_planes
    assert (exp.mask == 0).all()


def test_sources_off_the_image_are_drawn_if_their_light_reaches_it():
    exp = exposure()
    out = inject(exp, catalog_at(exp, [-6.0, -6.0, 5000.0], [100, 200, 100], 18.0), noise=False)
    flags = out.truth["flags"]
    assert flags[0] & Flag.TRUNCATED_BY_EDGE
    assert 0 < out.truth["flux_deposited"][0] < 0.3 * counts(18.0)
    assert flags[2] & Flag.NO_OVERLAP
    assert out.truth["flux_deposited"][2] == 0
    assert out.summary["n_drawn"] == 2
    # a big galaxy whose centre is far outside still shines in
    big = catalog_at(exp, -150.0, 150.0, 14.0, "Sersic", n=4.0, half_light_radius=8.0)
    assert inject(exp, big, noise=False).truth["flux_deposited"][0] > 0.01 * counts(14.0)


def test_rows_without_a_magnitude_are_flagged_and_stay_in_the_truth():
    exp = exposure()
    catalog = catalog_at(exp, [100, 150, 200], [100, 150, 200], [20.0, np.nan, 21.0])
    out = inject(exp, catalog)
    assert out.truth["flags"].tolist() == [0, int(Flag.MAG_BAD), 0]
    assert np.isnan(out.truth["inst_flux"][1])
    assert out.summary["flags"] == {"MAG_BAD": 1}


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.floats(-0.5, 0.5), st.floats(-0.5, 0.5), st.floats(2.5, 6.0), st.floats(2.3, 4.7), st.floats(6, 14))
def test_closure_holds_for_any_phase_psf_and_radius(dx, dy, fwhm, beta, radius):
    exp = exposure(CalibrationAperture(radius), shape=(121, 121), fwhm=fwhm, beta=beta)
    out = inject(exp, catalog_at(exp, 60 + dx, 60 + dy, 20.0), noise=False)
    measured = band_limited_aperture_flux(out.exposure.image, 60 + dx, 60 + dy, radius)
    assert measured == pytest.approx(counts(20.0), rel=1e-4)


def test_the_summary_records_the_radius_and_where_it_came_from():
    exp = exposure(CalibrationAperture(12.0, 2.4, "slot_CalibFlux"))
    exp = exp.replace(photo_calib=exp.photo_calib.with_reference(exp.photo_calib.reference, "slot_CalibFlux in SRC"))
    summary = inject(exp, catalog_at(exp, 100, 100, 20.0), seed=9).summary
    assert summary["calibration"] == {
        "kind": "aperture",
        "radius_pixels": 12.0,
        "radius_arcsec": 2.4,
        "origin": "slot_CalibFlux in SRC",
    }
    assert summary["seed"] == 9
    assert summary["gain"] == 2.0
    assert 0.9 < summary["aperture_fraction_median"] < 1


@pytest.mark.parametrize(
    ("changes", "options", "error", "match"),
    [
        ({"photo_calib": None}, {}, UncalibratedImageError, "zeropoint"),
        ({"psf": None}, {}, InjectionError, "no PSF"),
        ({"gain": None}, {}, CalibrationError, "does not rise"),
        ({"gain": None, "variance": None}, {}, CalibrationError, "no variance plane"),
        ({"gain": -1.0}, {}, CalibrationError, "not positive"),
        ({"reference": None}, {}, UnknownApertureError, "aperture"),
        ({}, {"flux_mode": "caliberated"}, ConfigError, "Did you mean 'calibrated'"),
        ({}, {"flux_mod": "total"}, ConfigError, "Did you mean 'flux_mode'"),
        ({}, {"aperture": "12 pix"}, ConfigError, "flux_mode"),
        ({}, {"flux_mode": "aperture"}, ConfigError, "aperture"),
        ({}, {"flux_tolerance": 0}, ConfigError, "flux_tolerance"),
        ({}, {"gain": 0.0}, ConfigError, "gain"),
        ({}, {"mask_threshold": -1}, ConfigError, "mask_threshold"),
    ],
)
def test_what_cannot_be_right_is_refused(changes, options, error, match):
    exp = exposure(**changes)
    with pytest.raises(error, match=match):
        inject(exp, catalog_at(exp, 100, 100, 20.0), **options)


def test_without_an_aperture_the_other_modes_still_work():
    exp = exposure(None)
    assert inject(exp, catalog_at(exp, 100, 100, 20.0), flux_mode="psf_sum").summary["n_drawn"] == 1


def test_a_catalogue_without_the_band_names_the_bands_it_has():
    exp = exposure(data_id=DataId("TestCam", 1, 1, band="z"))
    with pytest.raises(CatalogError, match="r"):
        inject(exp, catalog_at(exp, 100, 100, 20.0))


def test_a_column_of_flags_does_not_turn_a_foreign_catalogue_into_a_native_one():
    exp = exposure()
    ra, dec = exp.wcs.pixel_to_world_values(171.0, 150.0)
    lsst = Table({"injection_id": [1], "ra": [ra], "dec": [dec], "source_type": ["Trail"], "mag": [20.0]})
    lsst["trail_length"], lsst["beta"] = [30.0], [25.0]  # pixels, and a magnitude per pixel
    plain = inject(exp, lsst, noise=False)
    lsst["flags"] = [0]
    flagged = inject(exp, lsst, noise=False)
    np.testing.assert_array_equal(flagged.exposure.image, plain.exposure.image)
    np.testing.assert_allclose(flagged.truth["inst_flux"], 30 * counts(20.0))


def test_a_stamp_that_is_convolved_already_needs_no_psf(tmp_path):
    pixels = np.zeros((15, 15))
    pixels[7, 7] = 3.0
    fits.writeto(tmp_path / "point.fits", pixels)
    exp = exposure(psf=None)
    catalog = catalog_at(
        exp, 100, 120, 20.0, "Stamp", stamp=str(tmp_path / "point.fits"), stamp_psf="none", stamp_alignment="pixel"
    )
    out = inject(exp, catalog, noise=False)
    assert out.exposure.image[120, 100] == pytest.approx(counts(20.0), rel=1e-3)


def test_an_unreadable_stamp_is_flagged_and_the_rest_is_drawn(tmp_path):
    (tmp_path / "bad.fits").write_bytes(b"SIMPLE")
    exp = exposure()
    catalog = catalog_at(exp, [100, 200], [100, 200], 20.0)
    catalog["source_type"] = ["Star", "Stamp"]
    catalog["stamp"] = ["", str(tmp_path / "bad.fits")]
    out = inject(exp, catalog, noise=False)
    assert out.truth["flags"].tolist() == [0, int(Flag.STAMP_FILE_BAD)]
    assert "bad.fits" in out.summary["messages"][0]


def test_a_kernel_smaller_than_the_aperture_is_said():
    exp = exposure(CalibrationAperture(12.0), psf=MoffatPSF(fwhm=4.0, beta=3.0, shape=(21, 21)))
    assert inject(exp, catalog_at(exp, 100, 100, 20.0)).truth["flags"][0] & Flag.KERNEL_SMALLER_THAN_APERTURE
    assert not inject(exp, catalog_at(exp, 100, 100, 20.0), flux_mode="psf_sum").truth["flags"][0]


def test_a_draw_size_bounds_the_stamp_and_what_it_costs_is_said():
    exp = exposure()
    catalog = catalog_at(exp, [80, 220], 150, 20.0, "Sersic", n=4.0, half_light_radius=1.0, draw_size=[0, 41])
    truth = inject(exp, catalog, noise=False).truth
    assert truth["stamp_size"][1] <= 41 < truth["stamp_size"][0]
    assert truth["flags"][1] == int(Flag.STAMP_TRUNCATED)
    assert truth["flux_deposited"][1] < 0.9 * truth["flux_deposited"][0]


@pytest.mark.parametrize(("stars", "tolerance"), [("fast", 3e-4), ("galsim", 3e-3)])
def test_other_ways_to_draw_stars_agree(stars, tolerance):
    """GalSim's own interpolation of the same kernel (Lanczos-15), and the fast taps, against the exact shift."""
    exp = exposure()
    catalog = catalog_at(exp, [100.3, 200.5], [100.7, 200.5], 18.0)
    exact = inject(exp, catalog, noise=False)
    other = inject(exp, catalog, noise=False, stars=stars)
    assert other.truth["flags"].tolist() == [0, 0]
    assert np.abs(other.exposure.image - exact.exposure.image).max() < tolerance * exact.exposure.image.max()
    np.testing.assert_allclose(other.truth["flux_deposited"], exact.truth["flux_deposited"], rtol=2e-4)


def test_options_are_values():
    assert InjectionOptions(seed=3) == InjectionOptions.from_kwargs(seed=3)
    assert InjectionOptions.from_kwargs(InjectionOptions(seed=3), noise=False).seed == 3


def test_truth_is_a_table_with_units():
    exp = exposure()
    truth = inject(exp, catalog_at(exp, 100, 100, 20.0)).truth
    assert isinstance(truth, QTable)
    assert truth["ra"].unit == "deg"
    assert truth["psf_fwhm"].to_value("arcsec")[0] == pytest.approx(4.0 * SCALE, rel=0.03)


@pytest.mark.parametrize(("rates", "length", "pa"), [((1200.0, 0.0), 10.0, 90.0), ((-600.0, 800.0), 8.3333, -36.8699)])
def test_a_trail_given_by_its_rate_is_as_long_as_it_moves(rates, length, pa):
    """Arcsec per hour times the 30 s of the exposure, in the direction of the motion, North through East."""
    exp = exposure()
    moving = catalog_at(exp, 170.0, 150.0, 18.0, "Trail", rate_ra_cosdec=rates[0], rate_dec=rates[1], epoch_mjd=60000.0)
    drawn = catalog_at(exp, 170.0, 150.0, 18.0, "Trail", trail_length=length, trail_pa=pa)
    one, other = (inject(exp, table, noise=False).exposure.image for table in (moving, drawn))
    assert np.abs(one - other).max() < 1e-3 * other.max()
    # Without an exposure time there is no length: not a point in its place.
    timeless = inject(exp.replace(visit_info=VisitInfo(60000.0, None)), moving, noise=False)
    assert timeless.truth["flags"][0] & Flag.PARAMETERS_BAD
    assert timeless.truth["stamp_size"][0] == 0
    assert "no exposure time" in timeless.summary["messages"][0]
