"""Variable sources in one image: fluxes by light curve, analytic variability and magnification; roles of images."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from astropy import units as u
from astropy.table import QTable
from photutils.aperture import CircularAperture, aperture_photometry

from skygraft import inject
from skygraft.catalog import Flag
from skygraft.errors import CatalogError, ConfigError
from skygraft.exposure import DataId, VisitInfo
from skygraft.testing import make_exposure
from skygraft.timedomain.light_curves import LightCurves

AB = (0 * u.ABmag).to_value(u.nJy)


def rows(n: int = 1, **columns) -> QTable:
    """Canonical stars 20 arcsec apart, near the middle of `make_exposure`'s image."""
    base = {
        "injection_id": np.arange(1, n + 1),
        "ra": (150.0 + (np.arange(n) - (n - 1) / 2) * 10 / 3600) * u.deg,
        "dec": np.full(n, 2.0) * u.deg,
        "source_type": np.full(n, "Star"),
        "mag_r": np.full(n, np.nan) * u.mag,
        "flags": np.zeros(n, dtype=np.int64),
    }
    return QTable(base | columns)


def image(mjd: float | None = 60000.0, **changes):
    return make_exposure((128, 256), center=(150.0, 2.0), visit_info=VisitInfo(mjd=mjd, exposure_time=30.0), **changes)


def inst(flux_njy: float) -> float:
    """Image units of `make_exposure`, whose zeropoint is 27."""
    return flux_njy / (AB * 10 ** (-0.4 * 27))


def test_fifty_visits_come_back_from_difference_photometry() -> None:
    """Output less input, measured by photutils in the calibration aperture, is the curve within 1e-4 mag."""
    rng = np.random.default_rng(3)
    times = 60000 + np.sort(rng.uniform(0, 100, 60))
    flux = 1e5 * np.exp(-0.5 * ((times - 60030) / 25) ** 2) + 2000
    curves = LightCurves.of({"id": ["sn"] * 60, "mjd": times, "band": ["r"] * 60, "flux": flux})
    table = rows(light_curve=np.array(["sn"]), time_delay=[3.5] * u.d)
    visits = np.linspace(times[0], times[-1] + 3.5, 50)
    worst, n_seen = 0.0, 0
    for visit, mjd in enumerate(visits):
        exposure = image(mjd, data_id=DataId(instrument="T", visit=visit, detector=1, band="r"))
        got = inject(exposure, table, light_curves=curves, noise=False)
        want = np.interp(mjd - 3.5, times, flux, left=0.0, right=0.0)
        difference = got.exposure.image.astype(float) - exposure.image
        if want == 0:
            assert got.truth["flags"][0] & int(Flag.NOT_VISIBLE)
            assert not difference.any()
            continue
        aperture = CircularAperture((got.truth["x"][0], got.truth["y"][0]), 12.0)
        measured = float(aperture_photometry(difference, aperture)["aperture_sum"][0])
        worst = max(worst, abs(2.5 * np.log10(measured / inst(want))))
        assert got.truth["mag"][0] == pytest.approx(-2.5 * np.log10(want / AB), abs=1e-9)
        n_seen += 1
    assert n_seen > 40
    assert worst < 1e-4


def test_delays_count_to_the_second() -> None:
    """A curve that rises by one nJy a second tells the second at which it was seen."""
    second = 1 / 86400
    curves = {"id": ["l", "l"], "mjd": [0.0, 2.0], "band": ["r", "r"], "flux": [0.0, 2 * 86400.0]}
    delays = np.array([0.0, 12.0, 3600.0]) * second
    table = rows(3, light_curve=np.full(3, "l"), light_curve_mjd=np.full(3, 60000.0) * u.d, time_delay=delays * u.d)
    got = inject(image(60001.0), table, light_curves=curves, noise=False).truth
    seconds = AB * 10 ** (-0.4 * np.asarray(got["mag"]))
    np.testing.assert_allclose(86400 - seconds, [0, 12, 3600], atol=1e-3)


def test_negative_flux_takes_light_away() -> None:
    curves = {"id": ["n"], "mjd": [60000.0], "band": ["r"], "flux": [-5e4]}
    exposure = image()
    got = inject(exposure, rows(light_curve=np.array(["n"])), light_curves=curves)
    truth = got.truth[0]
    difference = got.exposure.image.astype(float) - exposure.image
    assert truth["inst_flux"] == pytest.approx(inst(-5e4), rel=1e-9)
    assert np.isnan(truth["mag"])
    assert not truth["flags"] & int(Flag.MAG_BAD)
    aperture = CircularAperture((truth["x"], truth["y"]), 12.0)
    assert float(aperture_photometry(difference, aperture)["aperture_sum"][0]) == pytest.approx(inst(-5e4), rel=1e-4)
    np.testing.assert_allclose(got.exposure.variance, exposure.variance, rtol=1e-5)  # no light, no photon noise


def test_no_flux_is_not_drawn() -> None:
    curves = {"id": ["n", "n"], "mjd": [60000.0, 60001.0], "band": ["r", "r"], "flux": [0.0, 10.0]}
    table = rows(2, light_curve=np.array(["n", "n"]), light_curve_mjd=[0.0, 60001.0] * u.d)
    got = inject(image(), table, light_curves=curves)
    assert [int(flag) for flag in got.truth["flags"]] == [int(Flag.NOT_VISIBLE)] * 2
    assert np.isnan(got.truth["mag"]).all()


def test_a_missing_band_is_flagged_said_once_and_counted() -> None:
    curves = {"id": ["g"] * 2, "mjd": [59999.0, 60001.0], "band": ["g", "g"], "flux": [1.0, 1.0]}
    table = rows(3, light_curve=np.array(["g", "g", ""]), mag_r=[np.nan, 20, 20] * u.mag)
    got = inject(image(), table, light_curves=curves, noise=False)
    assert got.summary["flags"] == {"NO_LIGHT_CURVE": 2}
    assert [text for text in got.summary["messages"] if "band r" in text] == [
        "the light curves of 2 sources (injection_id 1, 2) have no values in band r"
    ]
    assert got.truth["stamp_size"][2] > 0


def test_curves_that_are_not_in_the_table() -> None:
    curves = {"id": ["x"], "mjd": [60000.0], "band": ["r"], "flux": [1e4]}
    table = rows(2, light_curve=np.array(["x", "y"]))
    with pytest.raises(CatalogError, match=r"'y' \(injection_id 2\)"):
        inject(image(), table, light_curves=curves)
    got = inject(image(), table, light_curves=curves, on_bad="flag")
    assert got.summary["flags"] == {"NO_LIGHT_CURVE": 1}
    with pytest.raises(CatalogError, match="2 sources have a light curve, and there is no table"):
        inject(image(), table)


def test_a_catalogue_without_magnitudes_in_the_band() -> None:
    curves = {"id": ["x"], "mjd": [60000.0], "band": ["r"], "mag": [20.0]}
    table = rows(light_curve=np.array(["x"]))
    table.rename_column("mag_r", "mag_g")
    assert inject(image(), table, light_curves=curves).truth["mag"][0] == pytest.approx(20.0)


def test_images_without_time_and_templates_have_the_rows_magnitude() -> None:
    curves = {"id": ["x"], "mjd": [60000.0], "band": ["r"], "mag": [18.0]}
    table = rows(2, light_curve=np.array(["x", "x"]), mag_r=[21.0, np.nan] * u.mag)
    science = inject(image(), table, light_curves=curves).truth
    np.testing.assert_allclose(science["mag"], 18.0)
    timeless = dataclasses.replace(image(), visit_info=VisitInfo(None, 30.0))
    for exposure, how in ((timeless, {}), (image(), {"role": "template"})):
        truth = inject(exposure, table, **how).truth
        np.testing.assert_allclose(truth["mag"], [21.0, np.nan])
        assert [int(flag) for flag in truth["flags"]] == [0, int(Flag.NOT_VISIBLE)]


def test_sines_top_hats_and_flares() -> None:
    table = rows(
        4,
        mag_r=np.full(4, 20.0) * u.mag,
        variability=np.array(["sine", "top_hat", "flare", ""]),
        light_curve_mjd=[59990.0, 59990.0, 59990.0, np.nan] * u.d,
        time_delay=[0.5, 0.0, 0.0, 0.0] * u.d,
        period=[8.0, np.nan, np.nan, np.nan] * u.d,
        phase=[0.25, 0.0, 0.0, 0.0],
        amplitude=[0.7, np.nan, 3.0, np.nan] * u.mag,
        duration=[np.nan, 15.0, np.nan, np.nan] * u.d,
        rise_time=[0.0, 0.0, 4.0, 0.0] * u.d,
        decay_time=[np.nan, np.nan, 5.0, np.nan] * u.d,
    )
    flare = 20 - 2.5 * np.log10(1 + (10**1.2 - 1) * np.exp(-6 / 5))
    rising = 20 - 2.5 * np.log10(1 + (10**1.2 - 1) * 2 / 4)
    for mjd, want in (
        (60000.0, [20 + 0.7 * np.sin(2 * np.pi * (9.5 / 8 + 0.25)), 20, flare, 20]),
        (59992.0, [20 + 0.7 * np.sin(2 * np.pi * (1.5 / 8 + 0.25)), 20, rising, 20]),
        (59989.0, [20 + 0.7 * np.sin(2 * np.pi * (-1.5 / 8 + 0.25)), np.nan, 20, 20]),
        (60005.0, [20 + 0.7 * np.sin(2 * np.pi * (14.5 / 8 + 0.25)), np.nan, np.nan, 20]),
        (None, [20, np.nan, 20, 20]),
    ):
        exposure = dataclasses.replace(image(), visit_info=VisitInfo(mjd, 30.0))
        got = inject(exposure, table, noise=False).truth
        want[2] = 20 - 2.5 * np.log10(1 + (10**1.2 - 1) * np.exp(-11 / 5)) if mjd == 60005.0 else want[2]
        np.testing.assert_allclose(got["mag"], want, atol=1e-12)
        np.testing.assert_array_equal(got["flags"], np.where(np.isnan(want), int(Flag.NOT_VISIBLE), 0))
        np.testing.assert_allclose(
            got["inst_flux"], np.nan_to_num(10 ** (-0.4 * (np.array(want) - 27)), nan=np.nan), rtol=1e-12
        )


def test_magnification_is_of_flux_for_every_row() -> None:
    curves = {"id": ["x"], "mjd": [60000.0], "band": ["r"], "mag": [20.0]}
    table = rows(2, light_curve=np.array(["x", ""]), mag_r=[np.nan, 20.0] * u.mag, magnification=[10.0, 0.1])
    got = inject(image(), table, light_curves=curves, noise=False).truth
    np.testing.assert_allclose(got["mag"], [17.5, 22.5])
    np.testing.assert_allclose(got["inst_flux"], 10 ** (-0.4 * (np.array([17.5, 22.5]) - 27)), rtol=1e-9)


def test_roles_of_ordinary_images() -> None:
    table = rows(4, mag_r=np.full(4, 20.0) * u.mag, inject_into=np.array(["", "both", "science", "template"]))
    coadd = image(data_id=DataId(instrument="T", tract=1, patch=2, band="r"))
    off = int(Flag.NOT_FOR_IMAGE)
    for exposure, role, want in (
        (image(), "auto", [0, 0, 0, off]),
        (image(), "science", [0, 0, 0, off]),
        (image(), "template", [0, 0, off, 0]),
        (coadd, "auto", [0, 0, off, 0]),
        (coadd, "science", [0, 0, 0, off]),
    ):
        got = inject(exposure, table, role=role, noise=False)
        np.testing.assert_array_equal(got.truth["flags"], want)
        np.testing.assert_array_equal(np.asarray(got.truth["stamp_size"]) > 0, np.equal(want, 0))
    with pytest.raises(ConfigError, match="role is 'coadd'"):
        inject(image(), table, role="coadd")


def test_objects_and_groups_are_in_the_truth() -> None:
    table = rows(2, mag_r=[20.0, 20.0] * u.mag)
    assert list(inject(image(), table).truth["object_id"]) == [1, 2]
    assert list(inject(image(), table).truth["group_id"]) == [-1, -1]
    table["object_id"], table["group_id"] = [-1, 77], [5, -1]
    truth = inject(image(), table).truth
    assert list(truth["object_id"]) == [1, 77]
    assert list(truth["group_id"]) == [5, -1]
