"""Spatial fields against closed forms."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
from astropy.wcs import WCS
from hypothesis import given, settings
from hypothesis import strategies as st

from skygraft.errors import CalibrationError
from skygraft.photometry import (
    ChebyshevField,
    GridField,
    PixelAreaField,
    ProductField,
)

BOX = (10, 109, -20, 29)


def tan_wcs(scale_arcsec=0.2, dec=-35.0):
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [150.0, dec]
    wcs.wcs.crpix = [1.0, 1.0]
    wcs.wcs.cd = np.array([[-1.0, 0.1], [0.1, 1.0]]) * scale_arcsec / 3600
    return wcs


FIELDS = [
    ChebyshevField([[1.0, 0.1], [0.2, 0.0]], BOX),
    GridField(np.arange(12.0).reshape(3, 4), (5, 6), (10, 20)),
    GridField(np.arange(12, dtype=np.float32).reshape(3, 4), (100, 200)),
    PixelAreaField(tan_wcs(), 3.0, BOX),
    ProductField([ChebyshevField([[2.0]], BOX), ChebyshevField([[1.0, 0.1]], BOX)]),
]


@given(
    x=st.floats(9.5, 109.5),
    y=st.floats(-20.5, 29.5),
    c=st.lists(st.floats(-2, 2), min_size=6, max_size=6),
)
@settings(deadline=None)
def test_chebyshev_is_cos_of_multiples(x, y, c):
    coefficients = np.reshape(c, (2, 3))
    angle_x = np.arccos(np.clip((x - 59.5) / 50, -1, 1))
    angle_y = np.arccos(np.clip((y - 4.5) / 25, -1, 1))
    want = sum(coefficients[j, i] * np.cos(i * angle_x) * np.cos(j * angle_y) for j in range(2) for i in range(3))
    got = ChebyshevField(coefficients, BOX).evaluate([x], [y])
    assert got.shape == (1,)
    assert got[0] == pytest.approx(want, abs=1e-12)


def test_pixel_area_of_a_tangent_plane():
    wcs, step = tan_wcs(0.2), 0.2 / 3600 * np.pi / 180
    det = 1.0 + 0.01  # |det cd| / scale**2
    field = PixelAreaField(wcs, 1.0)
    x = np.array([0.0, 3000.0, -9000.0])
    y = np.array([0.0, -2000.0, 5000.0])
    # Solid angle element of the gnomonic projection at tangent distance rho is (1 + rho**2)**-1.5
    xi = step * (-(x + 0.5) + 0.1 * (y + 0.5))
    eta = step * (0.1 * (x + 0.5) + (y + 0.5))
    want = step**2 * det * (1 + xi**2 + eta**2) ** -1.5
    np.testing.assert_allclose(field.evaluate(x, y), want, rtol=2e-7)
    np.testing.assert_allclose(PixelAreaField(wcs, 7.0).evaluate(x, y), 7 * field.evaluate(x, y), rtol=1e-15)


def test_product():
    a, b = ChebyshevField([[1.0, 0.3]], BOX), GridField(np.full((50, 100), 3.0), (10, -20))
    x, y = np.array([20.0, 77.3]), np.array([0.0, 10.0])
    got = ProductField([a, b, ChebyshevField([[2.0]], BOX)]).evaluate(x, y)
    np.testing.assert_allclose(got, 6 * (1 + 0.3 * (x - 59.5) / 50), rtol=1e-14)


def test_grid_is_bilinear_and_says_nan_outside():
    yy, xx = np.mgrid[0:3, 0:4]
    field = GridField(1.0 + 2 * xx + 3 * yy, (5.0, 6.0), (10.0, 20.0))
    x, y = np.array([5.0, 18.0, 35.0]), np.array([6.0, 31.0, 46.0])
    np.testing.assert_allclose(field.evaluate(x, y), 1 + 2 * (x - 5) / 10 + 3 * (y - 6) / 20, rtol=1e-14)
    assert np.isnan(field.evaluate([-0.1, 40.1, 10, 10, np.nan], [10, 10, -4.1, 56.1, 10])).all()


def test_a_map_of_pixels_has_their_values():
    rng = np.random.default_rng(5)
    values = rng.uniform(1, 2, (7, 9)).astype(np.float32)
    values[3, 4] = np.nan
    field = GridField(values, (100, 200))
    yy, xx = np.mgrid[0:7, 0:9]
    got = field.evaluate(100 + xx, 200 + yy)
    # A NaN pixel is NaN itself and does not spoil the exact centres of its neighbours.
    np.testing.assert_array_equal(got, values.astype(float))
    assert field.evaluate(99.5, 199.5) == values[0, 0]
    assert np.isnan(field.evaluate(99.4, 200))


@pytest.mark.parametrize("field", FIELDS, ids=lambda f: type(f).__name__)
def test_fields_are_values(field):
    again = pickle.loads(pickle.dumps(field))
    assert again == field
    assert hash(again) == hash(field)
    assert type(field).__name__ in repr(field)
    json.dumps(field.describe())
    assert all(field != other for other in FIELDS if other is not field)
    x, y = np.full((2, 3), 101.0), np.full((2, 3), 201.0)
    assert field.evaluate(x, y).shape == (2, 3)


def test_equality_sees_a_changed_wcs():
    assert PixelAreaField(tan_wcs(0.2), 3.0, BOX) != PixelAreaField(tan_wcs(0.21), 3.0, BOX)


@pytest.mark.parametrize(
    "make",
    [
        lambda: ChebyshevField([1.0, 2.0], BOX),
        lambda: ChebyshevField([[np.nan]], BOX),
        lambda: ChebyshevField([[1.0]], (5, 4, 0, 1)),
        lambda: ProductField([]),
        lambda: GridField(np.zeros(3)),
        lambda: GridField(np.zeros((3, 3)), step=(0.0, 1.0)),
    ],
)
def test_nonsense_is_refused(make):
    with pytest.raises(CalibrationError):
        make()
