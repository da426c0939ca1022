"""Positions at a time against astropy; bands; visits."""

from __future__ import annotations

import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.table import QTable
from astropy.time import Time
from hypothesis import given, settings
from hypothesis import strategies as st

from skygraft.catalog import band_column, positions_at, select_for_visit
from skygraft.errors import CatalogError


def star(ra, dec, **columns):
    ra = np.atleast_1d(ra)
    rows = {"injection_id": np.arange(ra.size), "ra": ra * u.deg, "dec": np.atleast_1d(dec) * u.deg}
    return QTable(rows | {"source_type": np.full(ra.size, "Star")} | columns)


def separation(ra1, dec1, ra2, dec2):
    return SkyCoord(ra1, dec1, unit="deg").separation(SkyCoord(ra2, dec2, unit="deg")).to_value(u.mas)


def test_proper_motion_is_that_of_astropy():
    rng = np.random.default_rng(1)
    n = 50
    ra, dec = rng.uniform(0, 360, n), np.degrees(np.arcsin(rng.uniform(-1, 1, n)))
    dec[:2] = 89.9999, -89.9999
    pm_ra, pm_dec = rng.normal(0, 2000, n), rng.normal(0, 2000, n)
    table = star(
        ra,
        dec,
        pm_ra_cosdec=pm_ra * u.mas / u.yr,
        pm_dec=pm_dec * u.mas / u.yr,
        epoch_mjd=np.full(n, 57388.0) * u.day,
    )
    start = SkyCoord(
        ra * u.deg,
        dec * u.deg,
        pm_ra_cosdec=pm_ra * u.mas / u.yr,
        pm_dec=pm_dec * u.mas / u.yr,
        distance=np.full(n, 100.0) * u.pc,
        radial_velocity=np.zeros(n) * u.km / u.s,
        obstime=Time(57388.0, format="mjd", scale="tai"),
    )
    mjd = 57388.0 + 12 * 365.25
    end = start.apply_space_motion(new_obstime=Time(mjd, format="mjd", scale="tai"))
    got = positions_at(table, mjd)
    # Moved by up to 100 arcsec; astropy goes by TDB and along a straight line in space.
    assert separation(ra, dec, *got).max() > 30000
    assert separation(*got, end.ra.deg, end.dec.deg).max() < 0.05
    same = positions_at(table, 57388.0)
    np.testing.assert_allclose(same[0], ra, atol=1e-9)
    np.testing.assert_allclose(same[1], dec, atol=1e-12)


@settings(max_examples=25, deadline=None)
@given(
    ra=st.floats(0, 359.999),
    dec=st.floats(-89.99, 89.99),
    angle=st.floats(0, 360),
    rate=st.floats(0.1, 5000),
    hours=st.floats(-48, 48),
)
def test_rates_go_along_a_great_circle(ra, dec, angle, rate, hours):
    table = star(
        ra,
        dec,
        rate_ra_cosdec=np.array([rate * np.sin(np.radians(angle))]) * u.arcsec / u.hour,
        rate_dec=np.array([rate * np.cos(np.radians(angle))]) * u.arcsec / u.hour,
        epoch_mjd=np.array([60000.0]) * u.day,
    )
    # The hours as a float64 MJD can hold them.
    mjd = 60000.0 + hours / 24.0
    arc = rate * (mjd - 60000.0) * 24.0
    want = SkyCoord(ra, dec, unit="deg").directional_offset_by(angle * u.deg, arc * u.arcsec)
    got = positions_at(table, mjd)
    assert separation(*got, want.ra.deg, want.dec.deg)[0] < 1e-3
    assert 0 <= got[0][0] < 360


def test_a_right_ascension_crosses_zero():
    table = star(
        359.9999,
        0.0,
        rate_ra_cosdec=np.array([3.6]) * u.arcsec / u.hour,
        epoch_mjd=np.array([60000.0]) * u.day,
    )
    ra, _ = positions_at(table, 60001.0)
    assert ra[0] == pytest.approx(359.9999 + 24 * 0.001 - 360, abs=1e-9)


def test_motion_needs_times_and_rest_does_not():
    resting = star([1.0, 2.0], [3.0, 4.0], pm_dec=np.zeros(2) * u.mas / u.yr)
    assert positions_at(resting, None)[0].tolist() == [1.0, 2.0]
    moving = star([1.0, 2.0], [3.0, 4.0], pm_dec=np.array([0.0, 1.0]) * u.mas / u.yr)
    with pytest.raises(CatalogError, match="does not say when"):
        positions_at(moving, None)
    with pytest.raises(CatalogError, match="has no epoch") as caught:
        positions_at(moving, 60000.0)
    assert "injection_id 1" in str(caught.value)


def test_bands():
    table = star([1.0, 2.0], [3.0, 4.0], mag_g=np.array([20.0, np.nan]) * u.mag, mag_r=np.array([19.0, 18.0]) * u.mag)
    assert band_column(table, "r").tolist() == [19.0, 18.0]
    assert np.isnan(band_column(table, "g")[1])
    with pytest.raises(CatalogError, match="no magnitudes in band 'z'; it has g, r"):
        band_column(table, "z")
    with pytest.raises(CatalogError, match="several: g, r"):
        band_column(table, None)
    table.remove_column("mag_g")
    assert band_column(table, None).tolist() == [19.0, 18.0]
    plain = star([1.0], [2.0], mag=np.array([17.0]) * u.mag, mag_per_pixel=np.array([False]))
    assert band_column(plain, "anything").tolist() == [17.0]
    plain.remove_column("mag")
    with pytest.raises(CatalogError, match="it has none"):
        band_column(plain, "r")


def test_visits():
    table = star([1.0, 2.0, 3.0], [0.0, 0.0, 0.0], visit=np.array([-1, 5, 6]))
    assert select_for_visit(table, 5)["ra"].value.tolist() == [1.0, 2.0]
    assert select_for_visit(table, None)["ra"].value.tolist() == [1.0]
    table.remove_column("visit")
    assert len(select_for_visit(table, 5)) == 3
