"""Positions and rates at a time: parallax against astropy, windows, and rates against differences of positions."""

from __future__ import annotations

import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import GCRS, SkyCoord
from astropy.time import Time

from skygraft.catalog import in_window, normalize_catalog, positions_at, rates_at
from skygraft.catalog.motion import excursions
from skygraft.errors import CatalogError

POSITIONS = [(10.0, 20.0), (359.9999999, -60.0), (200.0, 89.9999), (80.0, -90.0), (270.0, 66.56)]


def stars(positions=POSITIONS, **columns):
    n = len(positions)
    ra, dec = np.transpose(positions)
    base = {"injection_id": np.arange(n), "ra": ra, "dec": dec, "source_type": ["Star"] * n, "mag_r": np.full(n, 20.0)}
    return normalize_catalog(base | columns)


@pytest.mark.parametrize("mjd", [60000.0, 60091.3, 60200.7, 60310.0])
def test_parallax_as_astropy_sees_near_and_far_stars(mjd: float) -> None:
    """The same star at 4 pc and at infinity from the centre of the Earth: what differs is its parallax."""
    ra, dec = np.transpose(POSITIONS)
    frame = GCRS(obstime=Time(mjd, format="mjd", scale="tai"))
    near, far = (
        SkyCoord(ra * u.deg, dec * u.deg, distance=d * u.pc).transform_to(frame).cartesian.xyz.value.T for d in (4, 1e9)
    )
    near, far = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (near, far))
    got = SkyCoord(*positions_at(stars(parallax=np.full(5, 250.0)), mjd), unit="deg").cartesian.xyz.value.T
    there = SkyCoord(ra, dec, unit="deg").cartesian.xyz.value.T
    moved = np.degrees(np.linalg.norm(got - there, axis=1)) * 3.6e6
    # The light's deflection and aberration change by 1e-4 of the shift.
    np.testing.assert_allclose(moved, np.degrees(np.linalg.norm(near - far, axis=1)) * 3.6e6, atol=0.1)
    assert 20 < moved.max() < 260
    assert np.degrees(np.linalg.norm((got - there) - (near - far), axis=1)).max() * 3.6e6 < 0.1
    assert (moved <= 1e3 * excursions(stars(parallax=np.full(5, 250.0)))).all()


def test_parallax_needs_no_epoch_and_no_time() -> None:
    table = stars(parallax=np.full(5, 100.0))
    ra, dec = positions_at(table, None)
    assert ra.tolist() == table["ra"].value.tolist() and dec.tolist() == table["dec"].value.tolist()
    assert not rates_at(table, 60000.0).any()


def test_rates_are_how_positions_change() -> None:
    rng = np.random.default_rng(8)
    n = 40
    ra, dec = rng.uniform(0, 360, n), np.degrees(np.arcsin(rng.uniform(-1, 1, n)))
    dec[:2] = 89.999, -89.9
    begin = 60000 + rng.uniform(-1, 0, n)
    table = stars(
        np.column_stack([ra, dec]),
        rate_ra_cosdec=rng.normal(0, 500, n),
        rate_dec=rng.normal(0, 500, n),
        epoch_mjd=60000 + rng.uniform(-0.5, 0.5, n),
        mjd_from=begin,
        mjd_to=begin + rng.uniform(1.5, 3, n),
        **{f"bend_{end}_{axis}": rng.normal(0, 600, n) for end in ("from", "to") for axis in ("east", "north")},
    )
    mjd, step = 60000.3, 1e-4
    before, here, after = (SkyCoord(*positions_at(table, t), unit="deg") for t in (mjd - step, mjd, mjd + step))
    east, north = (v.arcsec for v in here.spherical_offsets_to(after))
    back = [v.arcsec for v in here.spherical_offsets_to(before)]
    want = np.column_stack([east - back[0], north - back[1]]) / (2 * step * 24)
    np.testing.assert_allclose(rates_at(table, mjd), want, rtol=1e-4, atol=0.02)
    straight = stars(np.column_stack([ra, dec]), **{c: table[c] for c in ("rate_ra_cosdec", "rate_dec", "epoch_mjd")})
    off = here.separation(SkyCoord(*positions_at(straight, mjd), unit="deg")).arcsec
    assert off.max() > 50 and (off <= excursions(table) * (1 + 1e-9)).all()


def test_bends_vanish_at_the_ends_and_have_their_slopes_there() -> None:
    begin, end = 60000.0, 60000.25
    table = stars(
        [(10.0, 0.0)],
        rate_ra_cosdec=[100.0], rate_dec=[0.0], epoch_mjd=[begin], mjd_from=[begin], mjd_to=[end],
        bend_from_east=[0.0], bend_from_north=[8.0], bend_to_east=[0.0], bend_to_north=[-4.0],
    )  # fmt: skip
    assert positions_at(table, begin)[1][0] == 0.0
    assert positions_at(table, end - 1e-9)[1][0] == pytest.approx(0.0, abs=1e-10)
    # A cubic from 0 to 0 with slopes 8 and -4 arcsec: 1.5 arcsec in the middle.
    assert positions_at(table, begin + 0.125)[1][0] * 3600 == pytest.approx(1.5, rel=1e-6)
    assert rates_at(table, begin)[0, 1] == pytest.approx(8.0 / 6.0, rel=1e-6)
    assert rates_at(table, end - 1e-9)[0, 1] == pytest.approx(-4.0 / 6.0, rel=1e-5)


def test_windows() -> None:
    nan = np.nan
    table = stars(mjd_from=[nan, 1.0, nan, 1.0, 2.0], mjd_to=[nan, nan, 2.0, 2.0, 3.0])
    assert in_window(table, 1.0).tolist() == [True, True, True, True, False]
    assert in_window(table, 2.0).tolist() == [True, True, False, False, True]
    assert in_window(table, 0.9).tolist() == [True, False, True, False, False]
    assert in_window(table, None).tolist() == [True, False, False, False, False]
    assert in_window(stars(), None).all()


def test_a_rate_beside_a_proper_motion_keeps_its_angle_to_the_way() -> None:
    table = stars(
        [(50.0, 60.0)], rate_ra_cosdec=[0.0], rate_dec=[30.0], pm_ra_cosdec=[9e6], pm_dec=[0.0], epoch_mjd=[60000.0]
    )
    east, north = rates_at(table, 60400.0)[0]
    assert np.hypot(east, north) == pytest.approx(30.0, rel=1e-9)
    assert rates_at(table, None)[0].tolist() == [0.0, 30.0]


def test_windows_that_never_open_are_refused() -> None:
    with pytest.raises(CatalogError, match="mjd_to = 60000 is not after mjd_from = 60000"):
        stars([(1.0, 1.0)], mjd_from=[60000.0], mjd_to=[60000.0])
