"""Rows with analytic light curves and windows of time are checked when a catalogue is read."""

from __future__ import annotations

import numpy as np
import pytest

from skygraft import normalize_catalog
from skygraft.catalog import Flag
from skygraft.errors import CatalogError

ROW = {"ra": [1.0], "dec": [2.0], "source_type": ["Star"], "mag_r": [20.0]}


@pytest.mark.parametrize(
    ("columns", "match"),
    [
        ({"variability": ["sine"], "amplitude": [1.0]}, "a sine needs period"),
        ({"variability": ["sine"], "period": [2.0], "amplitude": [np.nan]}, "a sine needs amplitude"),
        ({"variability": ["top_hat"], "duration": [1.0]}, "a top_hat needs light_curve_mjd"),
        ({"variability": ["flare"], "light_curve_mjd": [6e4], "amplitude": [1.0]}, "a flare needs decay_time"),
        ({"variability": ["nova"]}, "variability 'nova' is not one of sine, top_hat, flare"),
        ({"mjd_from": [6e4], "mjd_to": [59990.0]}, "mjd_to = 59990 is not after mjd_from = 60000"),
        (
            {"variability": ["sine"], "period": [2.0], "amplitude": [1.0], "light_curve": ["x"]},
            r"light curve \('x'\) and a variability \(sine\)",
        ),
    ],
)
def test_what_a_row_needs(columns: dict, match: str) -> None:
    with pytest.raises(CatalogError, match=match):
        normalize_catalog(ROW | columns)
    assert normalize_catalog(ROW | columns, on_bad="flag")["flags"][0] & int(Flag.PARAMETERS_BAD)


def test_light_curves_are_enough_for_a_catalogue() -> None:
    """Without a magnitude in any band; ids may be numbers."""
    rows = {name: column for name, column in ROW.items() if name != "mag_r"}
    assert list(normalize_catalog(rows | {"light_curve": [7]})["light_curve"]) == ["7"]
