"""The fit of a radius to offsets of stars: pulls, outliers, few stars, and curves without a zero."""

from __future__ import annotations

import math

import numpy as np
import pytest

from kits.growth_kit import enclosed
from skygraft.qa.aperture_fit import FITS, NO_VERDICT, RESOLUTION, WRONG, fit_radius

RADII = np.geomspace(2.0, 36.0, 25)


def stars(seed: int, n: int = 25, true: float = 12.0, error: float = 0.003, scatter: float = 0.0):
    """Offsets of stars of which the zeropoint is that of the flux inside `true`, with errors common to all radii."""
    rng = np.random.default_rng([seed, 5])
    errors = error * rng.uniform(0.5, 2.0, n)
    shift = rng.standard_normal(n) * errors + scatter * rng.standard_normal(n)
    curve = -2.5 * np.log10(enclosed(RADII) / enclosed(true))
    return curve[None, :] + shift[:, None], np.tile(errors[:, None], (1, len(RADII)))


def fit(seed: int, stated: float = 12.0, tolerance: float = 0.0, **kind):
    d, e = stars(seed, **kind)
    k = int(np.argmin(np.abs(RADII - stated)))
    return fit_radius(RADII, d, e, d[:, k], e[:, k], tolerance=tolerance)


@pytest.mark.parametrize("scatter", [0.0, 0.004])
def test_pulls_of_radius_and_offset(scatter):
    true = 7.0
    found = [fit(seed, stated=7.0, true=true, error=0.004, scatter=scatter, n=40) for seed in range(300)]
    k = int(np.argmin(np.abs(RADII - 7.0)))
    expected = -2.5 * np.log10(enclosed(RADII[k]) / enclosed(true))
    offset = np.array([(f.offset - expected) / f.offset_error for f in found])
    radius = np.array([(f.radius - true) / f.radius_error for f in found])
    for pull in (offset, radius):
        assert abs(pull.mean()) < 4 / math.sqrt(300)
        assert 0.8 < pull.std() < 1.15
    assert abs(np.mean([f.radius for f in found]) / true - 1) < 0.005


def test_right_radii_fit_and_wrong_ones_do_not():
    assert {fit(seed, tolerance=0.005).verdict for seed in range(200)} == {FITS}
    half = [fit(seed, stated=5.0, tolerance=0.005) for seed in range(50)]
    assert {f.verdict for f in half} == {WRONG}
    assert all("too little" in f.reason for f in half)
    assert {fit(seed, stated=12.0, true=5.0, tolerance=0.005).verdict for seed in range(50)} == {WRONG}


def test_outliers_do_not_move_it():
    d, e = stars(3, n=30)
    k = int(np.argmin(np.abs(RADII - 12.0)))
    clean = fit_radius(RADII, d, e, d[:, k], e[:, k], tolerance=0.0)
    d[:4] -= 0.7  # blended with something bright
    dirty = fit_radius(RADII, d, e, d[:, k], e[:, k], tolerance=0.0)
    assert dirty.n <= clean.n - 3
    assert abs(dirty.offset - clean.offset) < 3 * clean.offset_error


def test_few_stars_and_noisy_ones_cannot_tell():
    few = fit(1, n=4)
    assert few.verdict == NO_VERDICT and "4, and 5 are needed" in few.reason and few.n == 4
    noisy = fit(1, n=12, error=0.05)
    assert noisy.verdict == NO_VERDICT and noisy.threshold > RESOLUTION
    nothing = fit_radius(RADII, np.zeros((0, 25)), np.zeros((0, 25)), np.zeros(0), np.zeros(0), tolerance=0.0)
    assert nothing.verdict == NO_VERDICT and nothing.n == 0


def test_a_zeropoint_that_no_radius_fits():
    d, e = stars(2)
    k = int(np.argmin(np.abs(RADII - 12.0)))
    found = fit_radius(RADII, d + 0.3, e, d[:, k] + 0.3, e[:, k], tolerance=0.01)
    assert found.verdict == WRONG and math.isnan(found.radius)


def test_few_stars_are_judged_more_carefully():
    # Five stars whose true offset is zero: their own scatter is a poor estimate of it, and four sigma are not rare.
    verdicts = [fit(seed, n=5, error=0.002, scatter=0.01, tolerance=0.0).verdict for seed in range(600)]
    assert verdicts.count(WRONG) <= 1


def test_the_allowed_range_of_radii():
    # Outside of 12 pixels are 0.0102 mag: more than is allowed is nowhere, or somewhere.
    wide, narrow = (fit(4, tolerance=t, error=1e-4) for t in (0.02, 0.004))
    assert wide.radius_low < narrow.radius_low < 12.0 < narrow.radius_high and math.isnan(wide.radius_high)
    for found in (wide, narrow):
        low = -2.5 * np.log10(enclosed(found.radius_low) / enclosed(12.0))
        assert low == pytest.approx(found.threshold, rel=0.05, abs=2e-4)
    high = -2.5 * np.log10(enclosed(narrow.radius_high) / enclosed(12.0))
    assert high == pytest.approx(-narrow.threshold, rel=0.1, abs=2e-4)
