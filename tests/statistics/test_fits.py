"""Curves of completeness: known ones are recovered with right errors, and those that cannot be fitted say why."""

from __future__ import annotations

import math
import pickle
from typing import Any

import numpy as np
import pytest

from kits.statistics_tables import fakes, logistic
from skygraft.errors import CatalogError, ConfigError
from skygraft.statistics import fit_completeness
from skygraft.statistics.curves import MODELS, maximize, maximize_many, solve_level, solve_levels

FORMS = {
    "logistic": lambda x, a, c, w: a / (1 + np.exp((x - c) / w)),
    "tanh": lambda x, a, c, w: a / 2 * (1 - np.tanh((x - c) / w)),
    "double_fermi": lambda x, a, c, w, v: a / (1 + np.exp((x - c) / w)) / (1 + np.exp((x - c) / v)),
}
TRUE = {"logistic": (0.97, 21.5, 0.25), "tanh": (0.97, 21.5, 0.5), "double_fermi": (0.97, 21.8, 0.2, 0.6)}


@pytest.mark.parametrize("model", MODELS)
def test_curves_are_those_of_the_papers_and_their_slopes_those_of_differences(model: str) -> None:
    x = np.linspace(19.0, 24.0, 31)
    true = np.array(TRUE[model])
    value, slopes = MODELS[model].value_and_slopes(x, true)
    np.testing.assert_allclose(value, FORMS[model](x, *true), rtol=1e-12)
    for i in range(true.size):
        step = np.zeros(true.size)
        step[i] = 1e-5
        difference = (FORMS[model](x, *(true + step)) - FORMS[model](x, *(true - step))) / 2e-5
        np.testing.assert_allclose(slopes[i], difference, atol=1e-8)
    # Of one that reaches all levels and one that reaches the first, each alone.
    sets = np.stack([true, np.r_[0.7, true[1:] + 0.3]])
    each = [[solve_level(MODELS[model], one, level)[0] for level in (0.5, 0.8, 0.9)] for one in sets]
    assert np.isnan(each[1]).tolist() == [False, True, True]
    np.testing.assert_allclose(solve_levels(MODELS[model], sets, (0.5, 0.8, 0.9)), each, atol=1e-11)
    for level in (0.5, 0.8, 0.9):
        place, by = solve_level(MODELS[model], true, level)
        assert FORMS[model](place, *true) == pytest.approx(level, abs=1e-10)
        for i in range(true.size):
            step = np.zeros(true.size)
            step[i] = 1e-5
            moved = [solve_level(MODELS[model], true + s * step, level)[0] for s in (1, -1)]
            assert by[i] == pytest.approx((moved[0] - moved[1]) / 2e-5, abs=1e-5)


def test_two_widths_alike_are_the_double_hyperbolic_tangent_of_petit() -> None:
    x = np.linspace(19.0, 24.0, 31)
    a, c, d1, d2 = 0.9, 21.7, 0.5, 1.1
    petit = a / 4 * (1 - np.tanh((x - c) / d1)) * (1 - np.tanh((x - c) / d2))
    np.testing.assert_allclose(MODELS["double_fermi"](x, [a, c, d1 / 2, d2 / 2]), petit, rtol=1e-12)


@pytest.mark.parametrize("model", MODELS)
def test_the_likelihood_is_largest_by_another_minimiser_on_single_fakes(model: str) -> None:
    from scipy.optimize import minimize

    rng = np.random.default_rng(2)
    mag = rng.uniform(18.0, 24.0, 3000)
    found = rng.random(3000) < FORMS[model](mag, *TRUE[model])
    fit = fit_completeness({"mag": mag, "found": found}, model=model, bootstrap=0)

    def cost(theta: Any) -> float:
        p = np.clip(FORMS[model](mag, *theta), 1e-12, 1 - 1e-12)
        return float(-np.log(np.where(found, p, 1 - p)).sum())

    best = minimize(cost, TRUE[model], method="Nelder-Mead", options={"xatol": 1e-7, "fatol": 1e-9, "maxiter": 6000})
    # In bins of 3 mmag, the likelihood is that of the single fakes, far within its own scatter of one.
    assert cost(list(fit.parameters.values())) == pytest.approx(best.fun, abs=0.01)
    assert fit.plateau == pytest.approx(best.x[0], abs=1e-4)
    assert fit.parameters["center"] == pytest.approx(best.x[1], abs=2e-3)


def test_a_known_logistic_is_recovered_without_bias_and_with_right_errors() -> None:
    m50 = 21.5 + 0.25 * math.log(0.97 / 0.5 - 1)
    pulls, pulls_80 = [], []
    m80 = 21.5 + 0.25 * math.log(0.97 / 0.8 - 1)
    for seed in range(60):
        fit = fit_completeness(fakes(1000, seed), bootstrap=0)
        pulls.append((fit.m50 - m50) / fit.m50_error)
        pulls_80.append((fit.m80 - m80) / fit.m80_error)
    for each in (pulls, pulls_80):
        assert abs(np.mean(each)) < 0.35
        assert np.std(each) == pytest.approx(1.0, abs=0.3)
    many = fit_completeness(fakes(300_000), bootstrap=0)
    assert many.m50 == pytest.approx(m50, abs=4 * many.m50_error)
    assert many.m50_error < 0.003
    assert many.chi2 < many.dof + 5 * math.sqrt(2 * many.dof)


def test_errors_by_bootstrap_are_those_of_fisher_for_single_visits_and_larger_for_many() -> None:
    one = fit_completeness(fakes(6000))
    assert one.m50_error == pytest.approx(one.levels[0.5].error_fisher, rel=0.2)
    assert one.m50_error == pytest.approx(fit_completeness(fakes(6000), bootstrap=0).m50_error, rel=0.2)
    columns = fakes(6000, visits=6)
    # All visits of a source share its fate: six rows are worth one.
    fate = columns["found"].reshape(-1, 6)[:, :1]
    columns["found"] = np.repeat(fate, 6, 1).ravel()
    shared = fit_completeness(columns)
    assert shared.m50_error == pytest.approx(math.sqrt(6) * shared.levels[0.5].error_fisher, rel=0.25)
    assert shared.errors["width"] > 1.5 * fit_completeness(columns, bootstrap=0).errors["width"]


def test_many_fits_at_once_are_those_one_by_one() -> None:
    rng = np.random.default_rng(5)
    x = np.linspace(18.0, 24.0, 120)
    for model in ("logistic", "double_fermi"):
        shape = MODELS[model]
        n = rng.poisson(20.0, (15, x.size)).astype(float)
        k = rng.binomial(n.astype(int), FORMS[model](x, *TRUE[model])).astype(float)
        k[0] = 0.0
        start = maximize(shape, x, n.sum(0), k[1:].sum(0)).parameters
        many = maximize_many(shape, x, n, k, start)
        assert np.isnan(many[0]).all()
        for i in range(1, 15):
            one = maximize(shape, x, n[i], k[i]).parameters
            levels = [solve_level(shape, each, 0.5)[0] for each in (many[i], one)]
            assert levels[0] == pytest.approx(levels[1], abs=2e-3)


def test_weights_stand_for_rows() -> None:
    columns = fakes(3000)
    weight = np.random.default_rng(0).integers(1, 4, 3000)
    repeated = {name: np.repeat(values, weight) for name, values in columns.items()}
    one = fit_completeness(columns | {"weight": weight}, bootstrap=0)
    other = fit_completeness(repeated, bootstrap=0)
    assert one.m50 == pytest.approx(other.m50, abs=1e-4)
    # Rows that are repeated are no new evidence: Fisher's matrix of them is too hopeful, the weighted one is not.
    assert one.m50_error > 1.3 * other.m50_error
    assert one.m50_error == pytest.approx(fit_completeness(columns, bootstrap=0).m50_error, rel=0.25)


def test_one_wrong_magnitude_does_not_matter() -> None:
    columns = fakes(4000)
    good = fit_completeness(columns, bootstrap=0)
    columns["mag"][17], columns["found"][17] = 9999.0, False
    wrong = fit_completeness(columns, bootstrap=0)
    assert wrong.m50 == pytest.approx(good.m50, abs=0.02)
    within = fit_completeness(columns, range=(18.0, 24.0), bootstrap=0)
    assert (within.low, within.high) == (18.0, 24.0)
    assert within.m50 == pytest.approx(good.m50, abs=0.01)


def test_curves_that_rise() -> None:
    columns = fakes(4000)
    columns["snr"] = 30.0 - columns["mag"]
    falling, rising = fit_completeness(columns, bootstrap=50), fit_completeness(columns, "snr", bootstrap=50)
    assert rising.rising and not falling.rising
    assert rising.m50 == pytest.approx(30.0 - falling.m50, abs=1e-3)
    assert rising.parameters["center"] == pytest.approx(30.0 - falling.parameters["center"], abs=1e-3)
    np.testing.assert_allclose(rising([6.5, 8.0, 9.5]), falling([23.5, 22.0, 20.5]), atol=1e-3)
    np.testing.assert_allclose(rising.error([8.0, 9.5]), falling.error([22.0, 20.5]), rtol=0.02)


def test_a_fit_is_a_function_of_its_range() -> None:
    fit = fit_completeness(fakes(4000))
    x = np.array([[19.0, 21.5], [22.0, 30.0]])
    assert fit(x).shape == (2, 2)
    assert np.isnan(fit(x)[1, 1])
    assert np.isnan(fit.error(x)[1, 1])
    np.testing.assert_allclose(fit(x)[0], logistic([19.0, 21.5]), atol=4 * fit.error(x)[0].max())
    # Its error where it is half is that of m50 times the slope.
    slope = (fit(fit.m50 + 0.01) - fit(fit.m50 - 0.01)) / 0.02
    assert fit.error(fit.m50) == pytest.approx(abs(slope) * fit.m50_error, rel=0.1)
    assert fit.n_needed(fit.m50_error / 2) == pytest.approx(4 * fit.n, rel=1e-3)
    back = pickle.loads(pickle.dumps(fit))
    assert back.m50 == fit.m50
    for part in ("50 %", f"{fit.m50:.3f}", "plateau", "chi2"):
        assert part in repr(fit) and part in fit._repr_html_()
    table = fit.to_dataset()
    assert float(table["crossing"].sel(level=0.5)) == fit.m50
    assert float(table["value"].sel(parameter="plateau")) == fit.plateau


def test_a_level_above_the_plateau_has_no_magnitude_and_says_so() -> None:
    fit = fit_completeness(fakes(4000, plateau=0.75))
    assert fit.ok
    assert np.isfinite(fit.m50)
    assert np.isnan([fit.m80, fit.m80_error, fit.m90]).all()
    assert "80 % is not reached" in fit.levels[0.8].reason
    assert "not reached" in repr(fit)
    deeper = fakes(4000, center=23.0, width=0.8)
    deeper = {name: values[deeper["mag"] < 22.5] for name, values in deeper.items()}
    beyond = fit_completeness(deeper)
    assert np.isnan(beyond.m50)
    assert "beyond the fakes" in beyond.levels[0.5].reason


@pytest.mark.parametrize(
    ("columns", "match"),
    [
        (fakes(500) | {"found": np.zeros(500, bool)}, "none of .* was found: brighter ones are needed"),
        (fakes(500) | {"found": np.ones(500, bool)}, "all of .* were found: fainter ones are needed"),
        (fakes(500) | {"found": np.arange(500) == 7, "usable": np.ones(500, bool)},
         r"only 1 of 500 fakes .* was found: .* about 5,000 such fakes"),
        (fakes(12) | {"found": np.arange(12) > 7, "usable": np.ones(12, bool)}, "about 30 such fakes"),
        (fakes(500) | {"mag": np.full(500, np.nan)}, "no row has a value"),
        (fakes(500) | {"mag": np.full(500, 20.0)}, "all rows have mag = 20"),
        (fakes(2000, center=40.0, width=200.0), "does not change enough"),
    ],
)  # fmt: skip
def test_what_cannot_be_fitted_says_why_and_what_it_would_take(columns: dict[str, Any], match: str) -> None:
    import re

    fit = fit_completeness(columns)
    assert not fit.ok
    assert re.search(match, fit.reason), fit.reason
    assert re.search(match, fit.levels[0.5].reason)
    assert np.isnan([fit.m50, fit.m50_error, fit.plateau, fit(20.0)]).all()
    assert np.isnan(fit.n_needed(0.03))
    assert fit.reason[:20] in repr(fit)
    assert fit.to_dataset().attrs["reason"] == fit.reason


def test_few_fakes_for_the_parameters_are_a_warning() -> None:
    columns = fakes(45, seed=3) | {"usable": np.ones(45, bool)}
    fit = fit_completeness(columns)
    assert fit.ok
    assert "better about" in fit.warning


def test_a_plateau_of_one_is_said() -> None:
    rng = np.random.default_rng(1)
    mag = rng.uniform(18.0, 24.0, 2000)
    fit = fit_completeness({"mag": mag, "found": mag < 21.5 + rng.logistic(0.0, 0.25, 2000), "injection_id": mag})
    assert fit.plateau == pytest.approx(1.0, abs=0.01)
    if fit.plateau == 1.0:
        assert "plateau is 1" in fit.warning
    assert fit.m50 == pytest.approx(21.5, abs=4 * fit.m50_error)
    step = fit_completeness({"mag": mag, "found": mag < 21.0})
    assert step.plateau == pytest.approx(1.0, abs=1e-6)
    assert "plateau is 1" in step.warning
    assert step.m50 == pytest.approx(21.0, abs=0.02)


def test_arguments_that_are_none() -> None:
    for options in ({"model": "erf"}, {"levels": (1.2,)}, {"range": (24.0, 18.0)}, {"bootstrap": 1}):
        with pytest.raises(ConfigError):
            fit_completeness(fakes(50), **options)  # type: ignore[arg-type]
    with pytest.raises(CatalogError, match="nearest names"):
        fit_completeness(fakes(50), "magg")
