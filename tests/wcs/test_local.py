"""Jacobians, pixel scales and footprints against closed forms."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skygraft.errors import WcsError
from skygraft.wcs import FitsWcs, footprint, local_jacobian, pixel_scale, pixel_scales

SCALE = 0.2 / 3600


def tan(ra, dec, angle=0.0, shear=0.0):
    c, s = np.cos(angle), np.sin(angle)
    cd = SCALE * np.array([[-c, s], [s, c]]) @ np.array([[1.0, shear], [0.0, 1.0]])
    return FitsWcs.tan(ra, dec, crpix=(1000.0, 2000.0), cd=cd), cd


def tan_jacobian(wcs, cd, ra0, dec0, x, y):
    """Exact: the derivative of the unit vector of a gnomonic plane's point, on East and North there."""
    plane = np.radians(cd @ np.array([x - 1000.0, y - 2000.0]))
    a0, d0 = np.radians([ra0, dec0])
    center = np.array([np.cos(d0) * np.cos(a0), np.cos(d0) * np.sin(a0), np.sin(d0)])
    axes = np.array([[-np.sin(a0), np.cos(a0), 0.0], [-np.sin(d0) * np.cos(a0), -np.sin(d0) * np.sin(a0), np.cos(d0)]])
    point = center + plane @ axes
    length = np.linalg.norm(point)
    unit = point / length
    slope = (np.eye(3) - np.outer(unit, unit)) @ axes.T / length @ np.radians(cd)
    lon, lat = np.arctan2(unit[1], unit[0]), np.arctan2(unit[2], np.hypot(unit[0], unit[1]))
    here = np.array(
        [
            [-np.sin(lon), np.cos(lon), 0.0],
            [-np.sin(lat) * np.cos(lon), -np.sin(lat) * np.sin(lon), np.cos(lat)],
        ]
    )
    return np.degrees(here @ slope) * 3600


@settings(max_examples=100, deadline=None)
@given(
    ra=st.one_of(st.floats(0, 359.99), st.sampled_from([0.0, 359.99])),
    dec=st.one_of(st.floats(-89, 89), st.sampled_from([-89.9, 89.9, -89.999, 89.999])),
    angle=st.floats(0, 6.28),
    shear=st.floats(-0.3, 0.3),
    x=st.floats(-5000, 9000),
    y=st.floats(-5000, 9000),
)
def test_jacobian_is_exact_to_a_millionth(ra, dec, angle, shear, x, y):
    wcs, cd = tan(ra, dec, angle, shear)
    jacobian = local_jacobian(wcs, x, y)
    assert jacobian.shape == (1, 2, 2)
    np.testing.assert_allclose(jacobian[0], tan_jacobian(wcs, cd, ra, dec, x, y), rtol=0, atol=0.2e-6)
    determinant = np.linalg.det(tan_jacobian(wcs, cd, ra, dec, x, y))
    assert pixel_scale(wcs, x, y)[0] == pytest.approx(np.sqrt(abs(determinant)), rel=1e-6)


@pytest.mark.parametrize("dec", [90.0, -90.0, 89.9, -89.9])
def test_at_and_near_the_poles(dec):
    wcs, cd = tan(40.0, dec)
    for x, y in [(1000.0, 2000.0), (1001.0, 2003.0), (990.0, 2500.0)]:
        expected = tan_jacobian(wcs, cd, 40.0, dec, x, y)
        found = local_jacobian(wcs, x, y)[0]
        # At the pole itself East depends on which right ascension the WCS gives it: lengths and angle do not.
        np.testing.assert_allclose(found.T @ found, expected.T @ expected, atol=1e-7)
        assert np.linalg.det(found) == pytest.approx(np.linalg.det(expected), rel=1e-6)


def test_across_right_ascension_zero():
    wcs, cd = tan(0.0, 30.0)
    x = np.linspace(990.0, 1010.0, 41)
    ra, _ = wcs.pixel_to_world_values(x, 2000.0)
    assert ra.min() < 1
    assert ra.max() > 359
    for xi, jacobian in zip(x, local_jacobian(wcs, x, np.full(41, 2000.0)), strict=True):
        np.testing.assert_allclose(jacobian, tan_jacobian(wcs, cd, 0.0, 30.0, xi, 2000.0), atol=1e-7)


def test_thousands_of_positions_are_one_call():
    calls = []

    class Counting(FitsWcs):
        def pixel_to_world_values(self, *pixels):
            calls.append(len(pixels[0]))
            return super().pixel_to_world_values(*pixels)

    wcs = Counting(dict(tan(150.0, 2.0)[0].header))
    x, y = np.random.default_rng(0).uniform(0, 4000, (2, 10_000))
    assert local_jacobian(wcs, x, y).shape == (10_000, 2, 2)
    assert len(calls) == 1


def test_where_there_is_no_sky_the_jacobian_is_nan():
    assert np.isnan(local_jacobian(tan(150.0, 2.0)[0], [np.nan], [3.0])).all()


def test_footprint_goes_around_the_box():
    wcs, _ = tan(0.0, 30.0)
    box = SimpleNamespace(x_min=-0.5, x_max=1999.5, y_min=-0.5, y_max=3999.5)
    outline = footprint(wcs, box, n=5)
    assert outline.shape == (20, 2)
    x, y = wcs.world_to_pixel_values(*outline.T)
    corners = [(-0.5, -0.5), (1999.5, -0.5), (1999.5, 3999.5), (-0.5, 3999.5)]
    np.testing.assert_allclose(np.column_stack([x, y])[::5], corners, atol=1e-6)
    on_edge = np.minimum.reduce([np.abs(x + 0.5), np.abs(x - 1999.5), np.abs(y + 0.5), np.abs(y - 3999.5)])
    assert on_edge.max() < 1e-6
    assert footprint(wcs, box, n=1).shape == (4, 2)
    with pytest.raises(ValueError, match="at least 1"):
        footprint(wcs, box, n=0)


def test_a_box_that_is_not_on_the_sky_is_an_error():
    cards = {"CTYPE1": "RA---SIN", "CTYPE2": "DEC--SIN", "CRVAL1": 0.0, "CRVAL2": 0.0, "CRPIX1": 1, "CRPIX2": 1}
    wcs = FitsWcs(cards | {"CD1_1": -1.0, "CD2_2": 1.0})
    box = SimpleNamespace(x_min=0, x_max=100, y_min=0, y_max=10)
    with pytest.raises(WcsError, match="no position"):
        footprint(wcs, box)


def test_the_scale_at_very_many_places_is_that_at_each():
    wcs = tan(150.0, 80.0)[0]
    rng = np.random.default_rng(2)
    few = rng.uniform(-30, 150, (2, 40))
    np.testing.assert_array_equal(pixel_scales(wcs, *few), pixel_scale(wcs, *few))
    x, y = rng.uniform(-30, 150, (2, 4000))
    found = pixel_scales(wcs, x, y)
    assert found.tobytes() != pixel_scale(wcs, x, y).tobytes()  # interpolated
    np.testing.assert_allclose(found, pixel_scale(wcs, x, y), rtol=1e-7)
    np.testing.assert_array_equal(pixel_scales(wcs, x[::-1], y[::-1]), found[::-1])
    assert pixel_scales(wcs, x[:0], y[:0]).shape == (0,)
