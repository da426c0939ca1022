"""Profiles that end at a radius: their transforms by quadrature, what is inside them, and which engine draws them."""

from __future__ import annotations

import galsim
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad, simpson
from scipy.special import gammaincinv, j0, j1

from skygraft.render.radial import MAX_INDEX, MIN_INDEX, N_PIECES, WIDTHS, radial_tables
from skygraft.render.truncated import place_truncated, steepness, truncated_pieces, truncated_reach


def at(pieces: np.ndarray, k: float) -> float:
    """A table's value, by the definition of its pieces: sixteenths of octaves of k^2 + 2^-20."""
    shifted = k * k + 2.0**-20
    octave = np.floor(np.log2(shifted))
    place = 16 * (octave + 20) + 16 * (shifted / 2.0**octave - 1)
    return float(np.polyval(pieces[int(place)][::-1].astype(float), place % 1))


def inside(n: float, b: float, end: float) -> float:
    """Light within a radius, by quadrature, over s = u^(1/n)."""
    s = min(end ** (1 / n), 80 / b)  # where exp(-b s) has come to nothing
    return float(quad(lambda v: np.exp(-b * v) * n * v ** (2 * n - 1), 0, s, epsabs=0, epsrel=1e-10, limit=500)[0])


@settings(max_examples=40, deadline=None)
@given(st.floats(MIN_INDEX, MAX_INDEX), st.floats(1.42, 12.0), st.floats(0.01, 80.0))
def test_any_profile_at_any_wavenumber(n, ratio, k):
    (b,) = steepness(np.array([n]), np.array([ratio]))
    if np.isnan(b):
        return
    (pieces,) = truncated_pieces(np.array([n]), np.array([b]))
    root = np.linspace(0, 1, 200_001)
    u = root**6
    light = np.exp(-b * u ** (1 / n)) * root**11
    wanted = simpson(light * j0(k * u), x=root) / simpson(light, x=root)
    assert at(pieces, k) == pytest.approx(wanted, abs=ringing_missed(k))


def ringing_missed(k: float) -> float:
    """What cubics through four equidistant values may miss of the ringing of a sharp edge, 1.6 k^-1.5 cos(k + ...).

    It is (h^4 / 1944) times the fourth derivative, where h is a piece's length in k; and a little for rounding.
    """
    h = 2.0 ** np.floor(np.log2(k * k + 2.0**-20)) / 16 / (2 * k)
    return 2e-7 + h**4 / 1944 * 1.6 * k**-1.5


def test_a_flat_disk():
    (pieces,) = truncated_pieces(np.array([1.0]), np.array([1e-9]))
    for k in (1e-3, 0.1, 0.3, 2.0, 5.0, 11.0, 60.0):
        assert at(pieces, k) == pytest.approx(2 * j1(k) / k, abs=ringing_missed(k))


@given(st.floats(MIN_INDEX, MAX_INDEX), st.floats(1.42, 12.0))
def test_half_of_the_light_is_within_the_half_light_radius(n, ratio):
    (b,) = steepness(np.array([n]), np.array([ratio]))
    if np.isnan(b):  # next to none is outside
        b = gammaincinv(2 * n, 0.5)
        assert inside(n, b, ratio) == pytest.approx(inside(n, b, np.inf), rel=2e-7)
        return
    assert b > 0
    assert inside(n, b, 1 / ratio) == pytest.approx(0.5 * inside(n, b, 1), rel=1e-6)
    (reach,) = truncated_reach(np.array([n]), np.array([b]), 1e-2)
    assert 0 < reach < 1
    assert inside(n, b, reach) == pytest.approx(0.99 * inside(n, b, 1), rel=1e-6)


@pytest.mark.parametrize(("n", "ratio"), [(0.5, 1.6), (1.0, 2.5), (4.0, 4.0), (2.5, 9.0)])
def test_galsim_means_the_same_profile(n, ratio):
    (b,) = steepness(np.array([n]), np.array([ratio]))
    profile = galsim.Sersic(n, half_light_radius=1.0, trunc=ratio)
    r = np.linspace(0.05, 0.98, 7) * ratio
    theirs = np.array([profile.xValue(float(v), 0.0) for v in r])
    mine = np.exp(-b * (r / ratio) ** (1 / n))
    np.testing.assert_allclose(mine / mine[0], theirs / theirs[0], rtol=1e-5)


def test_those_that_do_not_end_keep_their_tables():
    n = np.array([1.0, 4.0, 1.0, 2.0])
    b = np.array([np.nan, 3.0, 5.0, np.nan])
    before = radial_tables().place(n, np.full(4, len(WIDTHS)))
    placed = place_truncated(before, n, b)

    def table(of, i):
        return np.tensordot(of.weights[i], of.pieces[of.rows[i]].astype(float), 1)

    for i in (0, 3):
        np.testing.assert_array_equal(table(placed, i), table(before, i))
    for i in (1, 2):
        np.testing.assert_allclose(table(placed, i), truncated_pieces(n[[i]], b[[i]])[0], rtol=0, atol=1e-12)
    assert place_truncated(before, n, np.full(4, np.nan)) is before
    assert table(placed, 0).shape == (N_PIECES, 4)
