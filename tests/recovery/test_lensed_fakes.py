"""Sizes and angles of lensed fakes in the recovery table and in region files: those that are on the image."""

from __future__ import annotations

import galsim
import numpy as np
import pytest

from skygraft.catalog import normalize_catalog
from skygraft.recovery.fakes import catalogue_values
from skygraft.views.regions import truth_regions

ROWS = {
    "injection_id": [1, 2, 3, 4],
    "ra": [10.0] * 4,
    "dec": [20.0] * 4,
    "source_type": ["Sersic", "Spergel", "Star", "Sersic"],
    "mag_r": [20.0] * 4,
    "n": [1.0, np.nan, np.nan, 1.0],
    "spergel_nu": [np.nan, 0.5, np.nan, np.nan],
    "half_light_radius": [0.5, 0.8, np.nan, 0.5],
    "q": [0.6, 0.7, 1.0, 0.6],
    "pa": [20.0, 120.0, 0.0, 20.0],
    "shear": [0.3, 0.2, 0.4, 0.0],
    "shear_pa": [100.0, 40.0, 0.0, 0.0],
    "magnification": [2.0, 1.0, 5.0, 1.0],
}


def by_galsim(i: int) -> tuple[float, float, float]:
    shape = galsim.Shear(q=ROWS["q"][i], beta=(90 - ROWS["pa"][i]) * galsim.degrees)
    after = galsim.Shear(g=ROWS["shear"][i], beta=(90 - ROWS["shear_pa"][i]) * galsim.degrees) + shape
    return ROWS["half_light_radius"][i] * np.sqrt(ROWS["magnification"][i]), after.q, (90 - after.beta.deg) % 180


def test_the_recovery_table_has_lensed_shapes() -> None:
    table = normalize_catalog(ROWS)
    mag = np.full(4, 19.0)
    found = catalogue_values(table, np.arange(4), mag)
    for i in (0, 1):
        radius, ratio, angle = by_galsim(i)
        assert found["half_light_radius"][i] == pytest.approx(radius)
        assert found["axis_ratio"][i] == pytest.approx(ratio)
        assert found["position_angle"][i] == pytest.approx(angle)
        assert found["surface_brightness"][i] == pytest.approx(19.0 + 2.5 * np.log10(2 * np.pi * radius**2))
    assert np.isnan(found["half_light_radius"][2])
    assert [found[name][3] for name in ("half_light_radius", "axis_ratio", "position_angle")] == [0.5, 0.6, 20.0]


def test_regions_show_lensed_ellipses() -> None:
    shapes = {i: {name: column[i - 1] for name, column in ROWS.items()} for i in (1, 4)}
    rows = [
        {"injection_id": i, "ra": 10.0, "dec": 20.0, "source_type": "Sersic", "band": "r", "mag": 20.0, "psf_fwhm": 0.7}
        for i in (1, 4)
    ]
    lensed, plain = truth_regions(rows, shapes)
    radius, ratio, angle = by_galsim(0)
    major, minor = radius / np.sqrt(ratio), radius * np.sqrt(ratio)
    assert f'{major:.4f}",{minor:.4f}",{(angle + 90) % 180:.3f})' in lensed
    assert '",110.000)' in plain
