"""Closure against closed forms: Gaussians whose aperture flux is 1 - exp(-r^2 / 2 s^2)."""

from __future__ import annotations

import astropy.units as u
import numpy as np
import pytest
from astropy.table import QTable

from skygraft.errors import CalibrationError, ConfigError, UnknownApertureError
from skygraft.exposure import Exposure
from skygraft.photometry import PSF_MODEL, CalibrationAperture, PhotoCalib
from skygraft.psf import GaussianPSF
from skygraft.qa.closure import ClosureSummary, isolated, measure_closure, summarize_closure
from skygraft.testing import make_exposure

SIGMA, RADIUS, ZEROPOINT = 2.0, 6.0, 27.0
INSIDE = 1 - np.exp(-(RADIUS**2) / (2 * SIGMA**2))


def gaussians(shape: tuple[int, int], x: np.ndarray, y: np.ndarray, flux: np.ndarray) -> np.ndarray:
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    image = np.zeros(shape)
    for cx, cy, f in zip(x, y, flux, strict=True):
        image += f / (2 * np.pi * SIGMA**2) * np.exp(-((columns - cx) ** 2 + (rows - cy) ** 2) / (2 * SIGMA**2))
    return image


def make_pair(x, y, total, *, noise=False, gain=2.0, xy0=(0, 0)) -> tuple[Exposure, Exposure]:
    before = make_exposure(
        (220, 260),
        psf=GaussianPSF(sigma=SIGMA, shape=(41, 41)),
        reference=CalibrationAperture(RADIUS, 1.2, "test"),
        noise=True,
        gain=gain,
        xy0=xy0,
    )
    model = gaussians(before.shape, x - xy0[0], y - xy0[1], total)
    added, variance = model, before.variance
    if noise:
        added = np.random.default_rng(5).poisson(model * gain) / gain
        variance = (before.variance + model / gain).astype(np.float32)
    planes = before.planes.copy(deep=False)
    planes["image"] = (("y", "x"), before.image.astype(np.float64) + added, dict(before.planes["image"].attrs))
    planes["variance"] = (("y", "x"), variance, dict(before.planes["variance"].attrs))
    return before, before.replace(planes=planes)


def make_truth(x, y, mag, *, stamp=41, kind="Star") -> QTable:
    n = len(x)
    return QTable(
        {
            "injection_id": np.arange(n) + 7,
            "image_id": np.full(n, "TestCam-1-2"),
            "ra": np.zeros(n) * u.deg,
            "dec": np.zeros(n) * u.deg,
            "x": x,
            "y": y,
            "source_type": np.full(n, kind),
            "band": np.full(n, "r"),
            "mag": mag,
            "inst_flux": 10 ** (-0.4 * (mag - ZEROPOINT)),
            "stamp_size": np.full(n, stamp),
            "flags": np.zeros(n, dtype=int),
        }
    )


@pytest.fixture
def places():
    columns, rows = np.meshgrid(np.arange(30, 240, 45), np.arange(30, 200, 45))
    rng = np.random.default_rng(2)
    x = columns.ravel() + rng.uniform(-0.5, 0.5, columns.size)
    y = rows.ravel() + rng.uniform(-0.5, 0.5, rows.size)
    return x, y, rng.uniform(16, 19, x.size)


def test_scaled_to_the_aperture_it_closes(places) -> None:
    x, y, mag = places
    truth = make_truth(x, y, mag)
    before, after = make_pair(x, y, truth["inst_flux"] / INSIDE)
    table = measure_closure(before, after, truth)
    assert len(table) == len(x)
    np.testing.assert_allclose(table["residual"], 0, atol=5e-5)
    np.testing.assert_allclose(table["mag_out"] - table["mag_in"], table["residual"])
    assert (table["sigma"] == 0).all()
    assert table.meta["radius_pixels"] == RADIUS
    assert table.meta["origin"] == "made for a test"
    summary = summarize_closure(table)
    assert summary.ok and summary.n == len(x) and np.isnan(summary.pull)
    assert summary.psf_sum_offset == pytest.approx(-2.5 * np.log10(INSIDE), abs=1e-5)


def test_scaled_to_unit_sum_it_is_off_by_the_light_outside(places) -> None:
    x, y, mag = places
    truth = make_truth(x, y, mag)
    before, after = make_pair(x, y, truth["inst_flux"])
    table = measure_closure(before, after, truth)
    np.testing.assert_allclose(table["residual"], -2.5 * np.log10(INSIDE), atol=5e-5)
    np.testing.assert_allclose(table["residual"], table["psf_sum_residual"], atol=5e-5)
    assert not summarize_closure(table).ok


def test_scatter_is_that_of_photon_noise(places) -> None:
    x, y, mag = places
    truth = make_truth(x, y, mag)
    before, after = make_pair(x, y, truth["inst_flux"] / INSIDE, noise=True, gain=0.05)
    table = measure_closure(before, after, truth)
    flux = truth["inst_flux"]
    expected = 2.5 / np.log(10) * np.sqrt(flux / 0.05) / flux
    np.testing.assert_allclose(table["sigma"], expected, rtol=0.01)
    pull = table["residual"] / table["sigma"]
    assert 0.55 < pull.std() < 1.5
    summary = summarize_closure(table)
    assert summary.expected == pytest.approx(summary.scatter, rel=0.6)
    given = measure_closure(before, after, truth, gain=0.2)
    np.testing.assert_allclose(given["sigma"], table["sigma"] / 2, rtol=0.01)


def test_positions_are_of_the_parent_frame(places) -> None:
    x, y, mag = places[0] + 1000, places[1] - 300, places[2]
    truth = make_truth(x, y, mag)
    before, after = make_pair(x, y, truth["inst_flux"] / INSIDE, xy0=(1000, -300))
    table = measure_closure(before, after, truth)
    assert len(table) == len(x)
    np.testing.assert_allclose(table["residual"], 0, atol=5e-5)


def test_crowded_stars_galaxies_and_edges_are_left_out() -> None:
    x = np.array([40.0, 52.0, 120.0, 200.0, 3.0, 120.0])
    y = np.array([40.0, 40.0, 120.0, 60.0, 100.0, 180.0])
    truth = make_truth(x, y, np.full(6, 18.0))
    truth["source_type"] = ["Star", "Star", "Star", "Sersic", "Star", "Star"]
    truth["stamp_size"][5] = 0
    before, after = make_pair(x, y, truth["inst_flux"] / INSIDE)
    table = measure_closure(before, after, truth)
    assert list(table["injection_id"]) == [9]
    assert table.meta["n_stars"] == 4 and table.meta["n_isolated"] == 2 and table.meta["n_measured"] == 1


def test_isolation_bound_holds_for_any_gaussian_neighbour() -> None:
    # Whatever `isolated` lets through must really have less light of its neighbours in the aperture.
    rng = np.random.default_rng(3)
    shape = (200, 200)
    checked = 0
    for _ in range(30):
        x, y = np.array([100.0, 100 + rng.uniform(12, 80)]), np.array([100.0, 100.0])
        flux = np.array([1.0, 10 ** rng.uniform(-4, 2)])
        if isolated(x, y, flux, [41, 1000], RADIUS, contamination=1e-3)[0]:
            light = gaussians(shape, x[1:], y[1:], flux[1:])
            rows, columns = np.mgrid[:200, :200]
            assert light[np.hypot(columns - 100, rows - 100) < RADIUS].sum() < 1e-3
            checked += 1
    assert checked > 5


def test_isolation_by_stamps_alone() -> None:
    # The neighbour is a thousand times brighter, and its stamp ends short of the aperture, or not.
    x, y, flux = np.array([100.0, 140.0]), np.array([100.0, 100.0]), np.array([1.0, 1000.0])
    assert isolated(x, y, flux, [21, 2 * (40 - 8)], 6.0, contamination=1e-3)[0]
    assert not isolated(x, y, flux, [21, 2 * (40 - 5)], 6.0, contamination=1e-3)[0]
    assert not isolated(x, y, flux, [0, 21], 6.0, contamination=1e-3)[0]


def test_neighbours_that_are_redrawn_no_longer_count() -> None:
    from skygraft import inject

    exposure = make_exposure((300, 300), noise=True)
    ra, dec = exposure.wcs.pixel_to_world_values(np.array([150.0, 185.0]), np.array([150.0, 150.0]))
    catalog = QTable(
        {
            "injection_id": [1, 2],
            "ra": ra * u.deg,
            "dec": dec * u.deg,
            "source_type": ["Star", "Sersic"],
            "mag_r": [19.0, 17.0] * u.mag,
            "n": [np.nan, 1.0],
            "half_light_radius": [np.nan, 2.5] * u.arcsec,
            "q": [np.nan, 0.7],
            "pa": [np.nan, 30.0] * u.deg,
        }
    )
    injection = inject(exposure, catalog, noise=False)
    assert len(measure_closure(exposure, injection.exposure, injection.truth)) == 0
    table = measure_closure(exposure, injection.exposure, injection.truth, catalog=catalog)
    assert list(table["injection_id"]) == [1]
    assert abs(table["residual"][0]) < 2e-3


def test_what_cannot_be_measured_is_refused(places) -> None:
    x, y, mag = places
    truth = make_truth(x, y, mag)
    before, after = make_pair(x, y, truth["inst_flux"])
    with pytest.raises(ConfigError, match="different pixels"):
        measure_closure(before, make_exposure((10, 10)), truth)
    with pytest.raises(CalibrationError, match="not calibrated"):
        measure_closure(before.replace(photo_calib=None), after, truth)
    unknown = before.replace(photo_calib=PhotoCalib.from_zeropoint(ZEROPOINT))
    with pytest.raises(UnknownApertureError):
        measure_closure(unknown, after, truth)
    fit = before.replace(photo_calib=PhotoCalib.from_zeropoint(ZEROPOINT, reference=PSF_MODEL))
    with pytest.raises(CalibrationError, match="psf_model"):
        measure_closure(fit, after, truth)
    assert len(measure_closure(fit, after, truth, aperture="6 pix")) == len(x)
    arcsec = measure_closure(unknown, after, truth, aperture="1.2 arcsec")
    assert arcsec.meta["radius_pixels"] == pytest.approx(RADIUS, rel=1e-6)


def test_nothing_to_measure_is_not_success() -> None:
    before = make_exposure((60, 60))
    truth = make_truth(np.zeros(0), np.zeros(0), np.zeros(0))
    table = measure_closure(before, before, truth)
    summary = summarize_closure(table)
    assert summary.n == 0 and not summary.ok
    assert summary.to_dict()["median"] is None


@pytest.mark.parametrize("number", [1, 3, 4])
def test_what_unit_sum_would_give_on_real_images(data_dir, number) -> None:
    """Stars drawn so, measured with photutils, against what is said of stars that were drawn right.

    The kernels of these models sum to 1.02 to 1.08. photutils' overlap of pixels and circle lacks 1.5e-3 of a star's
    flux inside 6 pixels.
    """
    from photutils.aperture import CircularAperture, aperture_photometry

    from skygraft import inject, read_exposure

    exposure = read_exposure(data_dir / f"video_H/image_{number}.fits", aperture="2 arcsec")
    (ny, nx), (x0, y0) = exposure.shape, exposure.xy0
    x, y = (grid.ravel() + 0.3 for grid in np.meshgrid(np.linspace(150, nx - 150, 4), np.linspace(150, ny - 150, 4)))
    ra, dec = exposure.wcs.pixel_to_world_values(x + x0, y + y0)
    catalog = QTable(
        {
            "injection_id": np.arange(x.size),
            "ra": ra * u.deg,
            "dec": dec * u.deg,
            "source_type": np.full(x.size, "Star"),
            "mag_H": np.full(x.size, 15.0) * u.mag,
        }
    )
    wrong = inject(exposure, catalog, flux_mode="psf_sum", noise=False, band="H")
    added = wrong.exposure.image.astype(np.float64) - exposure.image
    radius = exposure.photo_calib.aperture.radius_pixels
    places = CircularAperture(np.stack([wrong.truth["x"] - x0, wrong.truth["y"] - y0], axis=1), radius)
    measured = aperture_photometry(added, places)["aperture_sum"]
    offset = -2.5 * np.log10(np.asarray(measured) / np.asarray(wrong.truth["inst_flux"]))
    right = inject(exposure, catalog, noise=False, band="H")
    table = measure_closure(exposure, right.exposure, right.truth)
    assert len(table) == x.size
    np.testing.assert_allclose(table["residual"], 0, atol=1e-3)
    assert offset.min() > 0.02
    np.testing.assert_allclose(table["psf_sum_residual"], offset, atol=3e-3)
    # However the stars were drawn: it is of the PSF, not of the mode.
    again = measure_closure(exposure, wrong.exposure, wrong.truth)
    np.testing.assert_allclose(again["psf_sum_residual"], table["psf_sum_residual"], atol=1e-9)
    # What is said of the PSF is of a star in the middle of a pixel; of PSFs so sharp it varies with the place by 1e-3.
    np.testing.assert_allclose(again["residual"], again["psf_sum_residual"], atol=2.5e-3)


@pytest.mark.parametrize(
    ("median", "error", "verdict"),
    [
        (-0.014, 0.013, "too few stars"),
        (-0.0005, 0.0003, "closes"),
        (0.004, 0.002, "closes"),
        (0.001, 0.0062, "closes"),
        (0.001, 0.0063, "too few stars"),
        (0.010, 0.002, "does not close"),
        (0.036, 0.005, "does not close"),
    ],
)
def test_what_the_error_allows_to_be_said(median, error, verdict) -> None:
    summary = ClosureSummary(10, median, error, 0.04, 0.04, 0.036, 1.0)
    assert summary.verdict == summary.to_dict()["verdict"] == verdict
    assert summary.ok == (verdict == "closes")


def test_ten_noisy_stars_are_too_few(places) -> None:
    x, y = places[0][:10], places[1][:10]
    truth = make_truth(x, y, np.full(10, 19.0))
    before, after = make_pair(x, y, truth["inst_flux"] / INSIDE, noise=True, gain=0.5)
    table = measure_closure(before, after, truth)
    summary = summarize_closure(table)
    # 10^0.4(27 - 19) adu are 792 electrons each, so that one star is known to 0.039 mag.
    assert summary.n == 10 and summary.median_error == pytest.approx(1.25 * 0.039 / 10**0.5, rel=0.3)
    assert summary.verdict == "too few stars" and not summary.ok
