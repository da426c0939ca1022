"""Medians, scatters and pulls against NumPy's of each bin, their errors against samples drawn again."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.table import QTable
from hypothesis import given, settings
from hypothesis import strategies as st

from kits.statistics_tables import fakes
from skygraft.errors import CatalogError, ConfigError
from skygraft.statistics import bias, position_bias
from skygraft.statistics.samples import Sample, quantile, robust, weighted_median

EDGES = [18.0, 19.5, 21.0, 24.0]


def test_medians_and_scatters_are_numpys() -> None:
    columns = fakes(4000)
    columns["mag_cal"][::50] = np.nan
    got = bias(columns, by={"mag": EDGES})
    for i in range(3):
        inside = columns["found"] & columns["usable"] & np.isfinite(columns["mag_cal"])
        inside &= (columns["mag"] >= EDGES[i]) & (columns["mag"] < EDGES[i + 1])
        away = (columns["mag_cal"] - columns["mag"])[inside]
        pull = away / columns["mag_cal_error"][inside]
        cell = got.isel(mag=i)
        assert int(cell["n"]) == inside.sum()
        assert float(cell["median"]) == np.median(away)
        assert float(cell["scatter"]) == pytest.approx(1.482602 * np.median(abs(away - np.median(away))), rel=1e-6)
        assert float(cell["pull_median"]) == np.median(pull)
        assert float(cell["pull_scatter"]) == pytest.approx(1.482602 * np.median(abs(pull - np.median(pull))), rel=1e-6)
    # Errors were drawn as they are stated, around 0.01.
    assert float(got["pull_scatter"][2]) == pytest.approx(1.0, abs=0.12)
    assert got["median"].attrs["long_name"] == "median of mag_cal - mag"


def test_weights_stand_for_rows() -> None:
    columns = fakes(1000)
    weight = np.random.default_rng(0).integers(0, 4, 1000)
    repeated = {name: np.repeat(values, weight) for name, values in columns.items()}
    one, other = bias(columns | {"weight": weight}, by={"mag": EDGES}), bias(repeated, by={"mag": EDGES})
    for name in ("median", "scatter", "pull_median", "pull_scatter"):
        np.testing.assert_allclose(one[name], other[name], rtol=1e-12)


def test_the_error_of_the_median_is_the_scatter_of_medians() -> None:
    rng = np.random.default_rng(4)
    for visits in (1, 5):
        medians, errors = [], []
        for _ in range(150):
            # Half of the variance belongs to the source.
            own = np.repeat(rng.normal(0.0, 1.0, 200), visits)
            table = {
                "injection_id": np.repeat(np.arange(200), visits),
                "mag": np.zeros(200 * visits),
                "mag_cal": own + rng.normal(0.0, 1.0, 200 * visits),
                "found": np.ones(200 * visits, bool),
            }
            got = bias(table, by=None)
            medians.append(float(got["median"]))
            errors.append(float(got["error"]))
        if visits == 1:  # of normal values sqrt(pi/2) sigma / sqrt(n)
            assert np.mean(errors) == pytest.approx(math.sqrt(math.pi / 2 * 2 / 200), rel=0.08)
        assert np.mean(errors) == pytest.approx(np.std(medians), rel=0.18)


def test_scatter_errors_are_those_of_normal_values() -> None:
    rng = np.random.default_rng(4)
    table = {"trial": np.repeat(np.arange(400), 200), "mag": np.zeros(80_000), "mag_cal": rng.normal(0, 1, 80_000)}
    got = bias(table, by={"trial": np.arange(401) - 0.5}, found=None)
    assert float(got["scatter_error"].mean()) == pytest.approx(float(got["scatter"].std()), rel=0.1)


def test_ratios_angles_and_positions() -> None:
    rng = np.random.default_rng(6)
    n = 300
    true, ra, dec = rng.uniform(0, 180, n), rng.uniform(0, 0.01, n), rng.uniform(59.9, 60.1, n)
    turn = rng.normal(3.0, 10.0, n)
    east, north = rng.normal(0.05, 0.1, n), rng.normal(-0.02, 0.1, n)
    place = SkyCoord(ra, dec, unit="deg").spherical_offsets_by(east * u.arcsec, north * u.arcsec)
    table = {
        "found": np.ones(n, bool),
        "position_angle": true,
        "position_angle_out": (true + turn + 720.0) % 180.0 - 90.0 + 90.0 * (rng.random(n) < 2),
        "half_light_radius": np.full(n, 2.0),
        "half_light_radius_out": 2.0 * rng.normal(1.1, 0.05, n),
        "ra": ra,
        "dec": dec,
        "ra_out": place.ra.deg,
        "dec_out": place.dec.deg,
    }
    angle = bias(table, "position_angle_out", "position_angle", None, kind="angle")
    assert float(angle["median"]) == pytest.approx(np.median(turn), abs=1e-9)
    assert angle["median"].attrs["units"] == "deg"
    ratio = bias(table, "half_light_radius_out", "half_light_radius", None, kind="ratio")
    assert float(ratio["median"]) == np.median(table["half_light_radius_out"] / 2.0)
    assert np.isnan(ratio["pull_median"])
    position = position_bias(table, None)
    assert position["component"].values.tolist() == ["ra", "dec", "distance"]
    assert float(position["median"].sel(component="ra")) == pytest.approx(np.median(east), abs=2e-6)
    assert float(position["median"].sel(component="dec")) == pytest.approx(np.median(north), abs=2e-6)
    expected = SkyCoord(ra, dec, unit="deg").separation(place).arcsec
    assert float(position["median"].sel(component="distance")) == pytest.approx(np.median(expected), abs=1e-7)
    renamed = {{"ra_out": "alpha", "dec_out": "delta"}.get(name, name): values for name, values in table.items()}
    other = position_bias(renamed, None, measured=("alpha", "delta"))
    np.testing.assert_array_equal(other["median"], position["median"])


def test_isolated_fakes_are_not_blended_and_have_no_neighbour() -> None:
    columns = fakes(1000)
    rng = np.random.default_rng(2)
    columns["blend"] = rng.choice(["", "real", "fake"], 1000)
    columns["neighbour_distance"] = np.where(rng.random(1000) < 0.2, np.nan, rng.uniform(0, 10, 1000))
    got = bias(columns, by=None, isolated=3.0)
    alone = (columns["blend"] == "") & ~(columns["neighbour_distance"] <= 3.0)
    assert int(got["n"]) == (alone & columns["found"] & columns["usable"]).sum()
    assert "3 arcsec" in got.attrs["isolated"]
    with pytest.raises(CatalogError, match="blend, neighbour_distance"):
        bias(fakes(50), isolated=3.0)
    with pytest.raises(ConfigError):
        bias(columns, isolated=-1.0)


def test_units_are_converted_and_checked() -> None:
    table = QTable({"size": [1.0, 2.0] * u.arcsec, "out": [0.02, 0.04] * u.arcmin, "flux": [1.0, 2.0] * u.nJy})
    got = bias(table, "out", "size", None, kind="ratio", found=None)
    assert float(got["median"]) == pytest.approx(1.2)
    with pytest.raises(CatalogError, match=r"the unit is nJy, that of size is arcsec"):
        bias(table, "flux", "size", None, found=None)


def test_beyond_memory_medians_are_those_of_values_rounded_to_a_ten_thousandth() -> None:
    columns = fakes(6000, visits=3)
    exact = bias(columns, by={"mag": EDGES})
    rough = bias(columns, by={"mag": EDGES}, exact_rows=500)
    assert (exact.attrs["exact"], rough.attrs["exact"]) == ("yes", "no")
    for name in ("median", "scatter"):
        np.testing.assert_allclose(rough[name], exact[name], atol=1.5e-4)
    np.testing.assert_allclose(rough["pull_median"], exact["pull_median"], atol=5e-4)
    np.testing.assert_allclose(rough["error"], exact["error"], rtol=0.05)
    np.testing.assert_array_equal(rough["n"], exact["n"])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.floats(-1e6, 1e6), st.integers(1, 4)), min_size=1, max_size=40), st.data()
)
def test_medians_are_those_of_repeated_values(rows: list[tuple[int, float, int]], data: st.DataObject) -> None:
    cell, value, weight = (np.array(each) for each in zip(*rows, strict=True))
    sample = Sample()
    for part in np.array_split(np.array(data.draw(st.permutations(range(len(rows))))), data.draw(st.integers(1, 5))):
        sample.add(cell[part], value[part], weight[part].astype(float))
    seen = set()
    for one, values, weights in sample.by_cell():
        seen.add(one)
        repeated = np.repeat(value[cell == one], weight[cell == one])
        middle, scatter = robust(values, weights)
        assert middle == pytest.approx(np.median(repeated), rel=1e-15)
        assert scatter == pytest.approx(1.482602218505602 * np.median(abs(repeated - middle)), rel=1e-12)
        assert values[0] <= quantile(values, weights, 0.25) <= quantile(values, weights, 0.75) <= values[-1]
    assert seen == set(cell.tolist())


def test_the_median_between_two() -> None:
    def of(values: list[float], weights: list[float]) -> float:
        return weighted_median(np.array(values), np.array(weights))

    assert of([1.0, 2.0], [1.0, 1.0]) == 1.5
    assert of([1.0, 2.0, 9.0], [3.0, 2.0, 1.0]) == 1.5
    assert of([1.0, 2.0, 9.0], [1.0, 1.0, 5.0]) == 9.0
    assert of([7.0], [0.5]) == 7.0


def test_order_and_chunks_do_not_change_a_bit() -> None:
    columns = fakes(900, visits=3)
    order = np.random.default_rng(1).permutation(900)
    table = pa.table({name: values[order] for name, values in columns.items()})
    for rows in (10_000, 100):
        expected = bias(columns, by={"mag": EDGES}, exact_rows=rows)
        got = bias(pa.Table.from_batches(table.to_batches(max_chunksize=37)), by={"mag": EDGES}, exact_rows=rows)
        assert got.drop_attrs().identical(expected.drop_attrs())


def test_bins_without_values_are_nan() -> None:
    none = fakes(100)
    none["found"][:] = False
    got = bias(none, by={"mag": EDGES})
    assert got["n"].values.tolist() == [0, 0, 0]
    assert np.isnan(got["median"]).all() and np.isnan(got["error"]).all() and np.isnan(got["scatter"]).all()
    one = bias({"mag": [20.0], "mag_cal": [20.5], "found": [True]}, by={"mag": EDGES})
    assert float(one["median"][1]) == 0.5
    assert np.isnan(one["error"][1]) and np.isnan(one["scatter_error"][1])


def test_arguments_that_are_none() -> None:
    with pytest.raises(ConfigError, match="there is no kind"):
        bias(fakes(10), kind="quotient")  # type: ignore[arg-type]
    with pytest.raises(CatalogError, match="nearest names are mag_kal: mag_cal"):
        bias(fakes(10), "mag_kal")
    with pytest.raises(CatalogError, match="mag_cal_err:"):
        bias(fakes(10), error="mag_cal_err")
