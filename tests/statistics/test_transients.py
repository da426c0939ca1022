"""Transients: efficiency, the first detection of each against a loop, and Kaplan and Meier's estimate by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from skygraft.errors import CatalogError, ConfigError
from skygraft.statistics import completeness, detected_by, first_detection, transient_efficiency


def lightcurves(n: int = 60, visits: int = 12, seed: int = 2) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    name = np.repeat([f"SN{i:03d}" for i in range(n)], visits)
    peak = np.repeat(rng.uniform(60000, 60040, n), visits)
    mjd = np.sort(rng.uniform(60000, 60060, (n, visits)), 1).ravel()
    mag = 20.0 + 0.1 * np.abs(mjd - peak) + np.repeat(rng.uniform(0, 3, n), visits)
    return {
        "object_id": name,
        "injection_id": np.repeat(np.arange(n), visits),
        "mjd": mjd,
        "peak_mjd": peak,
        "mag": mag,
        "depth": np.full(n * visits, 23.0),
        "rate": rng.uniform(0, 5, n * visits),
        "found": rng.random(n * visits) < 1 / (1 + np.exp((mag - 22.5) / 0.2)),
        "usable": rng.random(n * visits) < 0.9,
    }


def test_efficiency_against_magnitude_signal_to_noise_and_phase() -> None:
    columns = lightcurves()
    got = transient_efficiency(columns)
    assert list(got) == ["mag", "snr_expected", "phase"]
    phase = columns["mjd"] - columns["peak_mjd"]
    snr = 5.0 * 10 ** (-0.4 * (columns["mag"] - 23.0))
    for name, values in (("phase", phase), ("snr_expected", snr)):
        one = got[name]
        for i in range(one.sizes[name]):
            inside = (values >= one[f"{name}_lower"].values[i]) & (values < one[f"{name}_upper"].values[i])
            inside &= columns["usable"]
            assert int(one["n"][i]) == inside.sum()
            assert int(one["n_found"][i]) == (inside & columns["found"]).sum()
    assert got["phase"]["phase"].attrs["units"] == "d"
    rate = transient_efficiency(columns, {"rate": [0.0, 2.5, 5.0]}, bootstrap=0)["rate"]
    expected = completeness(columns, {"rate": [0.0, 2.5, 5.0]}, bootstrap=0)
    assert rate.identical(expected)
    assert list(transient_efficiency(columns, "mag")) == ["mag"]
    with pytest.raises(CatalogError, match="has none of mag"):
        transient_efficiency({"found": [True]})


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("name", ["object_id", "injection_id"])
def test_the_first_detection_is_that_of_a_loop(k: int, name: str) -> None:
    columns = lightcurves()
    columns["mjd"][5] = np.nan
    order = np.random.default_rng(0).permutation(columns["mag"].size)
    table = pa.table({key: values[order] for key, values in columns.items()})
    for data in (columns, pa.Table.from_batches(table.to_batches(max_chunksize=31))):
        got = first_detection(data, name, n_detections=k, start="peak_mjd")
        assert got["object"].values.tolist() == np.unique(columns[name]).tolist()
        for i, one in enumerate(got["object"].values):
            rows = (columns[name] == one) & columns["usable"] & np.isfinite(columns["mjd"])
            times = np.sort(columns["mjd"][rows & columns["found"]])
            cell = got.isel(object=i)
            assert int(cell["n_images"]) == rows.sum()
            assert int(cell["n_found"]) == times.size
            assert float(cell["first_mjd"]) == columns["mjd"][rows].min()
            assert float(cell["last_mjd"]) == columns["mjd"][rows].max()
            if times.size >= k:
                assert float(cell["first_found_mjd"]) == times[k - 1]
                assert float(cell["delay"]) == times[k - 1] - columns["peak_mjd"][rows][0]
            else:
                assert np.isnan(cell["first_found_mjd"]) and np.isnan(cell["delay"])


def test_the_product_limit_is_kaplan_and_meiers() -> None:
    """Five transients: detected after 1, 2, 2 days, watched without for 3, detected after 4. By hand."""
    table = {
        "injection_id": [1, 1, 2, 2, 3, 3, 4, 4, 5, 5],
        "mjd": [0.0, 1.0, 0.0, 2.0, 0.0, 2.0, 0.0, 3.0, 0.0, 4.0],
        "found": [False, True, False, True, False, True, False, False, False, True],
    }
    first = first_detection(table)
    got = detected_by(first, [0.0, 1.0, 2.0, 3.0, 4.0, 9.0], interval=0.95)
    left = np.array([1.0, 4 / 5, 4 / 5 * 2 / 4, 4 / 5 * 2 / 4, 0.0, 0.0])
    np.testing.assert_allclose(got["detected"], 1.0 - left, atol=1e-12)
    variance = 0.4**2 * (1 / (5 * 4) + 2 / (4 * 2))
    assert float(got["error"][2]) == pytest.approx(np.sqrt(variance))
    assert got["n_at_risk"].values.tolist() == [5, 5, 4, 2, 1, 0]
    assert ((got["lower"] < got["detected"]) & (got["detected"] < got["upper"])).values[1:4].all()
    # Kalbfleisch & Prentice's interval in log(-log), by hand.
    reach = 1.959963985 * np.sqrt(variance / 0.4**2) / abs(np.log(0.4))
    assert float(got["upper"][2]) == pytest.approx(1 - 0.4 ** np.exp(reach), rel=1e-6)


def test_none_detected_and_no_transients() -> None:
    columns = lightcurves(5)
    none = first_detection(columns | {"found": np.zeros(60, bool)})
    assert np.isnan(none["delay"]).all()
    assert detected_by(none)["detected"].values.tolist() == [0.0]
    empty = first_detection(columns, where=[("mag", ">", 99.0)])
    assert empty.sizes["object"] == 0
    assert np.isnan(detected_by(empty)["detected"]).all()
    with pytest.raises(ConfigError):
        first_detection(columns, n_detections=0)
    with pytest.raises(CatalogError, match="nearest names are object: object_id"):
        first_detection(columns, "object")
