"""Which sources an image gets: against sky offset frames and separations from astropy."""

from __future__ import annotations

import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.table import QTable
from hypothesis import given, settings
from hypothesis import strategies as st

from kits.plan_kit import near_polygon, row_digests
from skygraft.planning.selection import digest_rows, select

CENTRES = [(150.0, 2.0), (0.001, -45.0), (10.0, 89.9), (200.0, -90.0)]


def square(ra: float, dec: float, half: float) -> np.ndarray:
    """Corners (M, 2) in degrees of a box of half-width `half` arcsec, straight in the tangent plane."""
    centre = SkyCoord(ra * u.deg, dec * u.deg)
    # Corners of a tangent plane box: by offsets along its diagonals.
    angles = np.array([45, 135, 225, 315]) * u.deg
    corners = centre.directional_offset_by(angles, np.arctan(half * np.sqrt(2) / 206264.80625) * u.rad)
    return np.column_stack([corners.ra.deg, corners.dec.deg])


def plane(ra: np.ndarray, dec: np.ndarray, centre: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Tangent plane coordinates in arcsec, from astropy's position angles and separations."""
    middle = SkyCoord(*centre, unit="deg")
    points = SkyCoord(ra, dec, unit="deg")
    radius = np.tan(middle.separation(points).rad) * 206264.80625
    angle = middle.position_angle(points).rad
    return radius * np.sin(angle), radius * np.cos(angle)


@pytest.mark.parametrize("centre", CENTRES)
@pytest.mark.parametrize("margin", [0.0, 30.0])
def test_boxes_anywhere_on_the_sky(centre: tuple[float, float], margin: float) -> None:
    rng = np.random.default_rng(3)
    middle = SkyCoord(*centre, unit="deg")
    points = middle.directional_offset_by(rng.uniform(0, 360, 4000) * u.deg, rng.uniform(0, 500, 4000) * u.arcsec)
    ra, dec = points.ra.deg, points.dec.deg
    half = 200.0
    x, y = plane(ra, dec, centre)
    beyond = np.hypot(np.maximum(np.abs(x) - half, 0), np.maximum(np.abs(y) - half, 0))
    expected = beyond <= margin
    sure = np.abs(beyond - margin) > 1e-3
    if margin == 0:
        sure = (np.abs(np.abs(x) - half) > 1e-3) & (np.abs(np.abs(y) - half) > 1e-3)
    found = near_polygon(ra, dec, square(*centre, half), margin)
    assert expected[sure].sum() > 500
    np.testing.assert_array_equal(found[sure], expected[sure])


def test_the_other_side_of_the_sky_is_far() -> None:
    found = near_polygon([330.0, 150.0, 240.0], [-2.0, 2.0, 0.0], square(150.0, 2.0, 200.0), 60.0)
    np.testing.assert_array_equal(found, [False, True, False])


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 3), st.booleans(), st.floats(0, 120))
def test_vertices_in_any_order_of_traversal(shift: int, reverse: bool, margin: float) -> None:
    polygon = square(33.0, -5.0, 100.0)
    rng = np.random.default_rng(1)
    ra, dec = 33 + rng.uniform(-0.06, 0.06, 200), -5 + rng.uniform(-0.06, 0.06, 200)
    other = np.roll(polygon, shift, axis=0)
    other = other[::-1] if reverse else other
    np.testing.assert_array_equal(near_polygon(ra, dec, polygon, margin), near_polygon(ra, dec, other, margin))


def table(**columns: object) -> QTable:
    base = {"injection_id": [1, 2], "ra": [33.0, 33.0], "dec": [-5.0, -5.0], "source_type": ["Star", "Star"]}
    return QTable({**base, "mag_r": [20.0, 21.0], **columns})


def test_rows_meant_for_another_visit_are_left_out() -> None:
    polygon = square(33.0, -5.0, 100.0)
    sources = table(visit=[-1, 7])
    assert select(sources, polygon, 0.0, visit=7).tolist() == [0, 1]
    assert select(sources, polygon, 0.0, visit=8).tolist() == [0]
    assert select(sources, polygon, 0.0).tolist() == [0]


def test_fingerprint_sees_what_matters() -> None:
    base = digest_rows(row_digests(table(), "r"))
    assert digest_rows(row_digests(table(), "r")) == base
    assert digest_rows(row_digests(table(mag_i=[1.0, 2.0]), "r")) == base
    assert digest_rows(row_digests(table(mag_r=[20.0, 21.5]), "r")) != base
    assert digest_rows(row_digests(table(source_type=["Star", "Stamp"]), "r")) != base
    assert digest_rows(row_digests(table(dec=[-5.0, np.nextafter(-5.0, 0)]), "r")) != base
    assert digest_rows(row_digests(table()[:1], "r")) != base


def test_fingerprint_does_not_depend_on_the_company() -> None:
    """A row's digest is its own: longer names in other rows, or units, do not change it."""
    wide = table(source_type=["Star", "BulgeDisk"])
    assert row_digests(wide, "r")[0].tolist() == row_digests(table(), "r")[0].tolist()
    assert row_digests(table()[1:], "r")[0].tolist() == row_digests(table(), "r")[1].tolist()
