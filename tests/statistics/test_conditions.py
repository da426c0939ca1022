"""Correlations with conditions: those that are there are found beyond the magnitude, and no others."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.stats import rankdata, spearmanr

from kits.statistics_tables import logistic
from skygraft.errors import CatalogError, ConfigError
from skygraft.statistics import correlations, fit_completeness


def observed(n: int = 12_000, seed: int = 0, visits: int = 1, slope: float = 0.5) -> dict[str, Any]:
    """Fakes that good seeing helps; the sky is brighter where fakes are fainter, and does nothing."""
    rng = np.random.default_rng(seed)
    source = np.repeat(np.arange(n // visits), visits)
    mag = rng.uniform(18.0, 24.0, n // visits)[source]
    seeing = rng.uniform(0.6, 1.4, n // visits)[source]
    return {
        "injection_id": source,
        "mag": mag,
        "seeing": seeing,
        "sky": mag + rng.normal(0.0, 0.5, n),
        "airmass": rng.uniform(1.0, 2.0, n),
        "found": rng.random(n) < logistic(mag, center=21.5 - slope * (seeing - 1.0)),
        "mag_cal": mag + 0.05 * (seeing - 1.0) + 0.1 * (mag - 20.0) + rng.normal(0.0, 0.02, n),
    }


def test_completeness_goes_with_what_it_goes_with() -> None:
    got = correlations(observed())
    assert got["condition"].values.tolist() == ["sky", "seeing", "airmass"]
    pull = got["spearman"] / got["spearman_error"]
    assert float(pull.sel(condition="seeing")) < -6
    assert float(got["p_value"].sel(condition="seeing")) < 1e-8
    # The sky is as faint as the fakes are, of which fewer are found: nothing is left of that.
    assert abs(spearmanr(observed()["sky"], observed()["found"]).statistic) > 0.7
    for name in ("sky", "airmass"):
        assert abs(float(pull.sel(condition=name))) < 3.5, name
    seeing = got.sel(condition="seeing")
    assert seeing["n_bin"].sum() == seeing["n"] == 12_000
    # By integral over the magnitudes of a fake: the curve moves by 0.5 mag per arcsec of 6 mag.
    expected = -0.97 * 0.5 * (seeing["center"] - 1.0) / 6.0
    assert (np.abs(seeing["residual"] - expected) < 4 * seeing["residual_error"] + 0.004).all()


def test_residuals_are_those_of_a_loop() -> None:
    columns = observed(3000)
    expected = fit_completeness(columns, bootstrap=0)(columns["mag"])
    got = correlations(columns, conditions=["seeing"], bins=4).isel(condition=0)
    # Ranks within fifty strata of magnitude, by SciPy; then the formula of the partial correlation.
    stratum = np.minimum(np.argsort(np.argsort(columns["mag"])) * 50 // 3000, 49)
    ranks = {name: np.empty(3000) for name in ("found", "seeing", "mag")}
    for k in range(50):
        inside = stratum == k
        for name, values in ranks.items():
            values[inside] = rankdata(columns[name][inside]) - (inside.sum() + 1) / 2
    r = np.corrcoef(list(ranks.values()))
    partial = (r[0, 1] - r[0, 2] * r[1, 2]) / np.sqrt((1 - r[0, 2] ** 2) * (1 - r[1, 2] ** 2))
    assert float(got["spearman"]) == pytest.approx(partial, abs=2e-3)
    edges = np.quantile(columns["seeing"], [0, 0.25, 0.5, 0.75, 1])
    for k in range(4):
        inside = (columns["seeing"] >= edges[k]) & (columns["seeing"] < edges[k + 1] + (k == 3))
        away = (columns["found"] - expected)[inside]
        assert float(got["residual"][k]) == pytest.approx(away.mean(), abs=1e-12)
        assert float(got["residual_error"][k]) == pytest.approx(away.std() / np.sqrt(inside.sum()), rel=0.15)


def test_biases_go_with_what_they_go_with() -> None:
    columns = observed()
    got = correlations(columns, ("mag_cal", "mag"))
    assert float(got["spearman"].sel(condition="seeing")) > 0.3
    assert abs(float((got["spearman"] / got["spearman_error"]).sel(condition="airmass"))) < 3.5
    # The bias grows with magnitude, and so does the sky: nothing of that is left.
    plain = spearmanr(columns["sky"][columns["found"]], (columns["mag_cal"] - columns["mag"])[columns["found"]])
    assert plain.statistic > 0.8
    assert abs(float((got["spearman"] / got["spearman_error"]).sel(condition="sky"))) < 3.5
    assert int(got["n"].sel(condition="seeing")) == columns["found"].sum()


def test_errors_know_that_visits_share_their_source() -> None:
    found, errors = [], []
    for seed in range(60):
        got = correlations(observed(2400, seed, visits=8, slope=0.0), conditions=["seeing"], bootstrap=100)
        found.append(float(got["spearman"][0]))
        errors.append(float(got["spearman_error"][0]))
    # Independent draws of one mean: the correlation of rows scatters by their error.
    assert np.std(found) == pytest.approx(np.mean(errors), rel=0.35)


def test_neither_order_nor_sampling_change_what_is_found() -> None:
    columns = observed(4000)
    order = np.random.default_rng(0).permutation(4000)
    mixed = {name: values[order] for name, values in columns.items()}
    one, other = correlations(columns), correlations(mixed)
    np.testing.assert_allclose(one["spearman"], other["spearman"], rtol=1e-9)
    few, same = correlations(columns, most_rows=1500), correlations(mixed, most_rows=1500)
    assert few.attrs["sampled_fraction"] == same.attrs["sampled_fraction"] == pytest.approx(0.25, rel=1e-9)
    assert 500 < int(few["n"][0]) <= 1500
    np.testing.assert_allclose(few["spearman"], same["spearman"], rtol=1e-9)


def test_what_does_not_vary_has_no_correlation() -> None:
    columns = observed(500)
    got = correlations(columns | {"sky": np.full(500, 3.0), "airmass": np.full(500, np.nan)})
    assert np.isnan(got["spearman"].sel(condition=["sky", "airmass"])).all()
    assert got["n"].sel(condition="airmass") == 0
    lost = correlations(columns | {"found": np.zeros(500, bool)})
    assert np.isnan(lost["spearman"]).all()
    assert "none of 500" in lost.attrs["reason"]


def test_arguments_that_are_none() -> None:
    columns = observed(100)
    with pytest.raises(CatalogError, match="nearest names are seing: seeing"):
        correlations(columns, conditions=["seing"])
    with pytest.raises(ConfigError, match="has none of depth"):
        correlations({"mag": columns["mag"], "found": columns["found"]})
    for options in ({"values": ("a", "b", "c")}, {"bins": 1}, {"bootstrap": 1}):
        with pytest.raises(ConfigError):
            correlations(columns, **options)  # type: ignore[arg-type]
