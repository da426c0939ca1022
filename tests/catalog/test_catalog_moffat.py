"""Moffats in catalogues: what they need, what is refused, and by which names dialects have them."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.table import Table

from skygraft.catalog import decode_flags, normalize_catalog
from skygraft.errors import CatalogError


def catalog(source_type: str = "Moffat", mag: str = "mag_r", **columns: float) -> Table:
    row = {"ra": 10.0, "dec": 20.0, "source_type": source_type, mag: 21.0, "half_light_radius": 0.5, "q": 0.7}
    return Table({name: [value] for name, value in (row | columns).items()})


def test_a_moffat_has_an_exponent():
    good = normalize_catalog(catalog(moffat_beta=2.5, pa=30.0))
    assert good["moffat_beta"][0] == 2.5
    assert good["flags"][0] == 0


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({}, r"moffat_beta = nan is not in \[1.5, 100\]"),
        ({"moffat_beta": 1.49}, r"moffat_beta = 1.49 is not in \[1.5, 100\]"),
        ({"moffat_beta": 101.0}, r"moffat_beta = 101 is not in"),
        ({"moffat_beta": 3.0, "half_light_radius": np.nan}, "half_light_radius = nan"),
        ({"moffat_beta": 3.0, "trunc": 2.0}, "trunc = 2, but a Moffat is not truncated"),
    ],
)
def test_what_is_wrong_with_a_moffat_is_said(columns, reason):
    with pytest.raises(CatalogError, match=reason):
        normalize_catalog(catalog(**columns))
    assert decode_flags(normalize_catalog(catalog(**columns), on_bad="flag")["flags"][0]) == ["PARAMETERS_BAD"]


def test_only_a_sersic_profile_is_truncated():
    assert normalize_catalog(catalog("Sersic", n=1.0, trunc=2.0))["flags"][0] == 0
    with pytest.raises(CatalogError, match="trunc = 2, but a Gaussian is not truncated: leave it empty"):
        normalize_catalog(catalog("Gaussian", trunc=2.0))
    for nothing in (0.0, np.nan):
        assert normalize_catalog(catalog("Gaussian", trunc=nothing))["flags"][0] == 0
    # Like other parameters of galaxies, it does not matter to a star.
    assert normalize_catalog(catalog("Star", trunc=2.0))["flags"][0] == 0


def test_beta_of_lsst_catalogues_is_a_position_angle():
    with pytest.raises(CatalogError, match="no column 'moffat_beta': 'beta' is the position angle"):
        normalize_catalog(catalog(mag="mag", beta=30.0), band="r")
    good = normalize_catalog(catalog(mag="mag", beta=30.0, moffat_beta=3.0), band="r")
    assert (good["moffat_beta"][0], good["pa"].value[0]) == (3.0, 60.0)
    # What source_injection does not give to GalSim's Gaussian.
    assert np.isnan(normalize_catalog(catalog("Gaussian", mag="mag", trunc=2.0), band="r")["trunc"].value[0])
