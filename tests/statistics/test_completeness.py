"""Completeness against loops over rows, its intervals and errors against closed forms."""

from __future__ import annotations

import math
import pickle
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kits.statistics_tables import fakes
from skygraft.errors import CatalogError, ConfigError
from skygraft.statistics import completeness, wilson
from skygraft.statistics.resampling import group_index, row_hash


def test_wilson_solves_the_equation_of_the_score_test() -> None:
    """Wilson's ends are the p at which |k/n - p| is z standard errors *of p*: checked there, not by his formula."""
    z = 1.0
    for k, n in ((0, 5), (1, 5), (7, 20), (20, 20), (999, 1000)):
        lower, upper = wilson(k / n, n, math.erf(z / math.sqrt(2)))
        for end in (float(lower), float(upper)):
            if 0.0 < end < 1.0:
                assert abs(k / n - end) == pytest.approx(z * math.sqrt(end * (1 - end) / n), rel=1e-9)
        assert (k == 0) == (lower == 0.0)
        assert (k == n) == (upper == 1.0)
    assert np.isnan(wilson(np.nan, 0)).all()


def test_wilson_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """The mean over p of the exact coverage, from the binomial distribution, and that of a simulated table."""
    for interval in (0.6827, 0.95):
        for n in (10, 40):
            k = np.arange(n + 1)
            lower, upper = wilson(k / n, n, interval)
            choose = np.array([math.comb(n, int(j)) for j in k], float)
            p = np.linspace(0.05, 0.95, 181)[:, None]
            chance = choose * p**k * (1 - p) ** (n - k)
            inside = (lower <= p) & (p <= upper)
            assert (chance * inside).sum(1).mean() == pytest.approx(interval, abs=0.03)
    rng = np.random.default_rng(3)
    n, trials, p = 30, 2000, 0.8
    table = {"trial": np.repeat(np.arange(trials), n) + 0.0, "found": rng.random(n * trials) < p}
    got = completeness(table, {"trial": np.arange(trials + 1) - 0.5}, bootstrap=0)
    covered = float(((got["lower"] <= p) & (p <= got["upper"])).mean())
    k = np.arange(n + 1)
    low, high = wilson(k / n, n)
    exact = sum(math.comb(n, int(j)) * p**j * (1 - p) ** (n - j) for j in k if low[j] <= p <= high[j])
    assert covered == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / trials))


def test_counts_are_those_of_a_loop() -> None:
    columns = fakes(1500, visits=3)
    rng = np.random.default_rng(8)
    columns["weight"] = rng.choice([0.5, 1.0, 2.0, 0.0], columns["mag"].size)
    columns["mag"][::97] = np.nan
    edges = np.array([18.0, 19.0, 19.25, 22.0, 24.0])
    columns["mag"][5] = 24.0  # the last edge belongs to the last bin
    got = completeness(columns, {"mag": edges, "band": ["i", "g"]}, bootstrap=0)
    for i in range(4):
        for j, band in enumerate(["i", "g"]):
            n = k = 0
            sum_w = sum_k = sum_2 = 0.0
            for row in range(columns["mag"].size):
                mag = columns["mag"][row]
                last = i == 3 and mag == edges[-1]
                inside = edges[i] <= mag < edges[i + 1] or last
                if not (columns["usable"][row] and inside and columns["band"][row] == band):
                    continue
                w = columns["weight"][row]
                n, k = n + 1, k + bool(columns["found"][row])
                sum_w, sum_k, sum_2 = sum_w + w, sum_k + w * columns["found"][row], sum_2 + w * w
            cell = got.isel(mag=i, band=j)
            assert (int(cell["n"]), int(cell["n_found"])) == (n, k)
            assert float(cell["completeness"]) == pytest.approx(sum_k / sum_w, rel=1e-12)
            assert float(cell["n_effective"]) == pytest.approx(sum_w**2 / sum_2, rel=1e-12)
            ends = [float(end) for end in wilson(sum_k / sum_w, sum_w**2 / sum_2)]
            assert [float(cell["lower"]), float(cell["upper"])] == pytest.approx(ends)
    assert got["mag_lower"].values.tolist() == edges[:-1].tolist()
    outside = columns["usable"] & ((columns["band"] == "r") | np.isnan(columns["mag"]))
    assert got.attrs["n_outside"] == outside.sum()


def test_empty_bins_are_nan_not_zero() -> None:
    got = completeness(fakes(200), {"mag": [10.0, 11.0, 18.0, 20.0]})
    empty = got.isel(mag=0)
    assert int(empty["n"]) == 0
    for name in ("completeness", "lower", "upper", "error_source", "error_patch"):
        assert np.isnan(empty[name]), name
    assert np.isfinite(got.isel(mag=2).to_array()).all()


@pytest.mark.parametrize("all_found", [True, False])
def test_all_or_none_found(all_found: bool) -> None:
    columns = fakes(300) | {"found": np.full(300, all_found)}
    got = completeness(columns, {"mag": [18.0, 24.0]}).isel(mag=0)
    n = int(got["n"])
    assert float(got["completeness"]) == all_found
    # In closed form z²/(n + z²) of nothing is possible still.
    assert float(got["upper" if not all_found else "lower"]) == pytest.approx(
        1 / (n + 1) if not all_found else n / (n + 1), rel=1e-4
    )
    assert float(got["error_source"]) == 0.0
    assert math.isnan(got.attrs["design_effect_source"])


def clustered(n: int, visits: int, rho: float, p: float, seed: int) -> dict[str, Any]:
    """With probability rho all visits of a source share one outcome: the correlation of any two is rho."""
    rng = np.random.default_rng(seed)
    alone = rng.random((n, visits)) < p
    shared = np.repeat(rng.random((n, 1)) < p, visits, 1)
    found = np.where(rng.random((n, 1)) < rho, shared, alone)
    return {
        "injection_id": np.repeat(np.arange(n), visits),
        "found": found.ravel(),
        "tract": np.zeros(n * visits, int),
        "patch": np.repeat(np.arange(n) // 25, visits),
    }


@pytest.mark.parametrize(("visits", "rho"), [(1, 0.0), (8, 0.0), (8, 0.5), (8, 1.0)])
def test_the_bootstrap_knows_that_visits_of_a_source_are_not_independent(visits: int, rho: float) -> None:
    """Kish's design effect of equal clusters, 1 + (m - 1) rho, and its error."""
    n, p = 1000, 0.7
    expected = 1.0 + (visits - 1) * rho
    effects, errors = [], []
    for seed in range(12):
        got = completeness(clustered(n, visits, rho, p, seed), None, bootstrap=300, seed=seed)
        effects.append(got.attrs["design_effect_source"])
        errors.append(float(got["error_source"]))
    analytic = math.sqrt(p * (1 - p) / (n * visits) * expected)
    # Of 300 replicates and 1000 sources the error is known to 4 %, of 12 of them to about 1.5 %.
    assert np.mean(errors) == pytest.approx(analytic, rel=0.05)
    assert np.mean(effects) == pytest.approx(expected, rel=0.06)


def test_the_bootstrap_is_that_of_sources_drawn_one_by_one() -> None:
    columns = clustered(400, 5, 0.4, 0.6, 11)
    found = columns["found"].reshape(400, 5).sum(1)
    rng = np.random.default_rng(0)
    drawn = [found[rng.integers(0, 400, 400)].sum() / 2000 for _ in range(4000)]
    got = [float(completeness(columns, None, seed=seed)["error_source"]) for seed in range(10)]
    assert np.mean(got) == pytest.approx(np.std(drawn), rel=0.05)
    patches = columns["found"].reshape(16, 125).sum(1)
    drawn = [patches[rng.integers(0, 16, 16)].sum() / 2000 for _ in range(4000)]
    got = [float(completeness(columns, None, seed=seed)["error_patch"]) for seed in range(20)]
    # Sixteen patches: drawn with replacement they vary by 15/16 of what they vary.
    assert np.mean(got) == pytest.approx(np.std(drawn) * math.sqrt(16 / 15), rel=0.06)


def test_one_patch_has_no_scatter_between_patches() -> None:
    columns = fakes(300) | {"patch": np.zeros(300, int)}
    got = completeness(columns, None)
    assert np.isnan(got["error_patch"])
    assert np.isfinite(got["error_source"])


def test_more_sources_than_groups_have_the_same_error() -> None:
    columns = clustered(20_000, 2, 1.0, 0.5, 4)
    got = completeness(columns, None, bootstrap=1000)
    assert float(got["error_source"]) == pytest.approx(math.sqrt(0.25 / 20_000), rel=0.08)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_neither_order_nor_chunks_nor_names_of_types_change_a_bit(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 60))
    mags = st.one_of(st.floats(17.0, 25.0), st.just(float("nan")), st.sampled_from([18.0, 20.0, 24.0]))
    columns = {
        "injection_id": np.array(data.draw(st.lists(st.integers(-5, 5), min_size=n, max_size=n))),
        "mag": np.array(data.draw(st.lists(mags, min_size=n, max_size=n))),
        "found": np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n))),
        "band": np.array(data.draw(st.lists(st.sampled_from(["g", "r"]), min_size=n, max_size=n))),
    }
    by = {"mag": [18.0, 20.0, 24.0], "band": ["g", "r"]}
    expected = completeness(columns, by, bootstrap=20)
    order = np.array(data.draw(st.permutations(range(n))))
    table = pa.table({name: values[order] for name, values in columns.items()})
    table = table.set_column(3, "band", table["band"].dictionary_encode())
    batches = table.to_batches(max_chunksize=data.draw(st.integers(1, n)))
    shuffled = completeness(pa.RecordBatchReader.from_batches(table.schema, batches), by, bootstrap=20)
    assert shuffled.drop_attrs().identical(expected.drop_attrs())


def test_groups_depend_on_values_alone() -> None:
    numbers = pa.record_batch({"a": pa.array([3, 1, 3], pa.int32()), "b": pa.array(["x", "y", "x"])})
    wide = pa.record_batch({"a": pa.array([1, 3], pa.int64()), "b": pa.array(["y", "x"]).dictionary_encode()})
    one, two = row_hash(numbers, ["a", "b"]), row_hash(wide, ["a", "b"])
    assert one.tolist() == [two[1], two[0], two[1]]
    assert row_hash(numbers, ["a", "b"], 1)[0] != one[0]
    many = pa.record_batch({"a": np.arange(200_000)})
    sizes = np.bincount(group_index(many, ["a"], 1024), minlength=1024)
    # Of a Poisson law: variance over mean is 1 within 4 of its errors.
    assert sizes.var() / sizes.mean() == pytest.approx(1.0, abs=4 * math.sqrt(2 / 1024))


def test_bins_that_are_found() -> None:
    columns = fakes(500) | {"detector": np.arange(500) % 4, "flag": np.arange(500) % 2 == 0}
    got = completeness(columns, {"mag": "auto"})
    assert got["mag_lower"].values[0] <= columns["mag"].min()
    assert got["mag_upper"].values[-1] >= columns["mag"].max()
    np.testing.assert_allclose(np.diff(got["mag"]), 0.5)
    assert completeness(columns, "detector")["detector"].values.tolist() == [0, 1, 2, 3]
    assert completeness(columns, ["band", "flag"]).sizes == {"band": 3, "flag": 2}
    assert completeness(columns, {"mag": 7}).sizes == {"mag": 7}
    assert completeness(columns | {"mag": np.full(500, 20.0)}, "mag")["n"].values.tolist() == [
        int(columns["usable"].sum())
    ]


@pytest.mark.parametrize(
    "by",
    [{"mag": [1.0]}, {"mag": [2.0, 1.0]}, {"mag": 0}, {"mag": "some"}, {"band": 3}, {"band": ["g", "g"]},
     {"mag": [0.0, np.inf]}, {"mag": 2000, "mag_cal": 2000}, {"mag": ["a"]}],
)  # fmt: skip
def test_bins_that_are_none(by: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        completeness(fakes(50), by)
    assert caught.value.fix
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_arguments_that_are_none() -> None:
    for options in ({"interval": 1.0}, {"bootstrap": 1}, {"bootstrap": -3}):
        with pytest.raises(ConfigError):
            completeness(fakes(50), **options)  # type: ignore[arg-type]
    with pytest.raises(CatalogError, match="a weight is -1"):
        completeness(fakes(50) | {"weight": np.full(50, -1.0)})
    with pytest.raises(CatalogError, match=r"no row of .* has a value to make bins of"):
        completeness(fakes(50) | {"mag": np.full(50, np.nan)})
