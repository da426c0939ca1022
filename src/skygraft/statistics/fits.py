"""Fits of completeness against magnitude, and the magnitudes at which it is 50, 80 and 90 %."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from skygraft.display import html_table, text_table
from skygraft.errors import ConfigError
from skygraft.statistics.cells import Axis, Cells, extremes
from skygraft.statistics.completeness import check_bootstrap
from skygraft.statistics.counts import Counts, Group, count, groups_of, weights_of
from skygraft.statistics.curves import Curve, curve, maximize, solve_level, solve_levels
from skygraft.statistics.likelihood import FLAT, chi_squared, fisher, gain, replicates_of, too_few
from skygraft.statistics.resampling import poisson_weights
from skygraft.statistics.rows import Rows, Where, open_rows

__all__ = ["CompletenessFit", "Level", "fit_completeness"]

_BINS = 2048
_PER_PARAMETER = 10
"""Events per parameter below which estimates are biased (Peduzzi et al. 1996, J. Clin. Epidemiol. 49, 1373)."""


@dataclass(frozen=True)
class Level:
    """Where completeness falls through a level.

    Parameters
    ----------
    value : float
        The magnitude; NaN if there is none.
    error : float
        Its standard error, by bootstrap of sources; without bootstrap, that of `error_fisher`.
    error_fisher : float
        Its standard error from the Fisher matrix, as if rows were independent.
    reason : str
        Why there is none, or why there is no error; empty where there is one.
    """

    value: float
    error: float
    error_fisher: float
    reason: str = ""


@dataclass(frozen=True)
class CompletenessFit:
    """A curve of completeness that was fitted, with its errors. It can be called: ``fit(magnitudes)``.

    Parameters
    ----------
    model : str
        Name of the curve.
    x, unit : str
        Column that it is a function of, and its unit.
    parameters, errors : mapping of str to float
        ``plateau``, ``center``, ``width`` (and ``width_2``) and their standard errors; NaN if nothing could be fitted.
    covariance : ndarray, shape (parameters, parameters)
        By bootstrap of sources; without bootstrap, from the Fisher matrix.
    levels : mapping of float to Level
        Where the curve falls through 0.5, 0.8, 0.9 and others that were asked for.
    n, n_found : int
        Rows of the fit, and those that were found.
    low, high : float
        Range of x: the fit says nothing beyond it.
    chi2, dof : float, int
        Of about 20 bins of equally many rows, and the degrees of freedom.
    reason : str
        Why there is no fit; empty if there is one.
    warning : str
        What to mind; empty if nothing.
    rising : bool
        The curve rises with x (as with S/N) instead of falling.
    attrs : mapping
        Provenance.
    """

    model: str
    x: str
    unit: str
    parameters: Mapping[str, float]
    errors: Mapping[str, float]
    covariance: NDArray[np.float64]
    levels: Mapping[float, Level]
    n: int
    n_found: int
    low: float
    high: float
    chi2: float
    dof: int
    reason: str
    warning: str
    rising: bool
    attrs: Mapping[str, Any]

    @property
    def ok(self) -> bool:
        """Whether there is a fit."""
        return not self.reason

    @property
    def plateau(self) -> float:
        """Completeness far brighter than the limit."""
        return self.parameters["plateau"]

    @property
    def m50(self) -> float:
        """Magnitude at which half is found; NaN where there is none."""
        return self.levels[0.5].value

    @property
    def m50_error(self) -> float:
        """Standard error of `m50`."""
        return self.levels[0.5].error

    @property
    def m80(self) -> float:
        """Magnitude at which 80 % is found; NaN where there is none."""
        return self.levels[0.8].value

    @property
    def m80_error(self) -> float:
        """Standard error of `m80`."""
        return self.levels[0.8].error

    @property
    def m90(self) -> float:
        """Magnitude at which 90 % is found; NaN where there is none."""
        return self.levels[0.9].value

    @property
    def m90_error(self) -> float:
        """Standard error of `m90`."""
        return self.levels[0.9].error

    def __call__(self, x: ArrayLike) -> NDArray[np.float64]:
        """The fitted completeness; NaN beyond the range of the fakes.

        Parameters
        ----------
        x : array_like

        Returns
        -------
        ndarray, of the shape of x
        """
        at = np.asarray(x, np.float64)
        sign = -1.0 if self.rising else 1.0
        values = curve(self.model)(sign * at, self._vector)
        return np.where((at >= self.low) & (at <= self.high), values, np.nan)

    def error(self, x: ArrayLike) -> NDArray[np.float64]:
        """Standard error of the fitted completeness, from the covariance of the parameters.

        Parameters
        ----------
        x : array_like

        Returns
        -------
        ndarray, of the shape of x
        """
        at = np.asarray(x, np.float64)
        sign = -1.0 if self.rising else 1.0
        _, slopes = curve(self.model).value_and_slopes(sign * at.ravel(), self._vector)
        # Of a rising curve the centre is held with the other sign.
        slopes = slopes * np.where(np.arange(len(slopes)) == 1, sign, 1.0)[:, None]
        variance = np.einsum("pi,pq,qi->i", slopes, self.covariance, slopes).reshape(at.shape)
        return np.where((at >= self.low) & (at <= self.high), np.sqrt(np.maximum(variance, 0.0)), np.nan)

    @property
    def _vector(self) -> NDArray[np.float64]:
        values = np.array([self.parameters[name] for name in curve(self.model).names])
        if self.rising:
            values[1] = -values[1]
        return values

    def n_needed(self, error: float, level: float = 0.5) -> float:
        """How many fakes, spread as these are, a standard error of a level takes.

        Parameters
        ----------
        error : float
            The standard error that is wanted, in the unit of x.
        level : float
            Of `levels`.

        Returns
        -------
        float
            NaN where there is no such level.
        """
        return float(np.ceil(self.n * (self.levels[level].error / error) ** 2))

    def to_dataset(self) -> xr.Dataset:
        """The fit as a dataset: parameters with errors and covariance, and levels."""
        names = list(self.parameters)
        levels = sorted(self.levels)
        unit = {"units": self.unit} if self.unit else {}
        return xr.Dataset(
            {
                "value": ("parameter", [self.parameters[name] for name in names]),
                "error": ("parameter", [self.errors[name] for name in names]),
                "covariance": (("parameter", "parameter_2"), self.covariance),
                "crossing": ("level", [self.levels[one].value for one in levels], unit),
                "crossing_error": ("level", [self.levels[one].error for one in levels], unit),
                "crossing_error_fisher": ("level", [self.levels[one].error_fisher for one in levels], unit),
                "crossing_reason": ("level", [self.levels[one].reason for one in levels]),
            },
            coords={"parameter": names, "parameter_2": names, "level": levels},
            attrs={
                "title": f"fit of completeness against {self.x}",
                "model": self.model,
                "n": self.n,
                "n_found": self.n_found,
                "low": self.low,
                "high": self.high,
                "chi2": self.chi2,
                "dof": self.dof,
                "reason": self.reason,
                "warning": self.warning,
            }
            | dict(self.attrs),
        )

    def _rows(self) -> list[tuple[str, str]]:
        unit = f" {self.unit}" if self.unit else ""
        rows = [("rows", f"{self.n:,}, of which {self.n_found:,} found; {self.x} from {self.low:g} to {self.high:g}")]
        if self.reason:
            return [*rows, ("no fit", self.reason)]
        for name, value in self.parameters.items():
            rows.append((name, _with_error(value, self.errors[name]) + ("" if name == "plateau" else unit)))
        for level, one in sorted(self.levels.items()):
            text = _with_error(one.value, one.error) + unit if np.isfinite(one.value) else "none"
            rows.append((f"{100 * level:g} %", f"{text}{'; ' + one.reason if one.reason else ''}"))
        rows.append(("chi2", f"{self.chi2:.1f} of {self.dof} degrees of freedom"))
        return [*rows, ("mind", self.warning)] if self.warning else rows

    def __repr__(self) -> str:
        return text_table(f"Completeness against {self.x}, {self.model}", self._rows())

    def _repr_html_(self) -> str:
        return html_table(f"Completeness against {self.x}, {self.model}", self._rows())


def fit_completeness(
    data: Any,
    x: str = "mag",
    model: str = "logistic",
    *,
    found: str = "found",
    range: tuple[float, float] | None = None,
    levels: tuple[float, ...] = (0.5, 0.8, 0.9),
    rising: bool | None = None,
    where: Where = None,
    usable: str | None = "usable",
    weight: str | None = "weight",
    source: Group = "injection_id",
    bootstrap: int = 200,
    seed: int = 0,
) -> CompletenessFit:
    """Fit completeness against magnitude, and find where it is 50, 80 and 90 %.

    By maximum likelihood (binomial) of counts in 2048 fine bins, which for curves as wide as a few bins is that of the
    single fakes; where the curve turns out to be narrower, bins are made finer there. Whatever the data hold, there is
    a result: one that could not be fitted says why in `CompletenessFit.reason`, with how many fakes it would take.

    Parameters
    ----------
    data : path-like, table or mapping
        As in `completeness`.
    x : str
        Column to fit against: ``mag``, ``mag_below_depth``, ``snr``, ...
    model : {"logistic", "tanh", "double_fermi"}
        The curve (`skygraft.statistics.curves`).
    found : str
        Column that says whether the fake was found.
    range : tuple of float, optional
        Rows with x from here to there only.
    levels : tuple of float
        Completeness to find the magnitudes of; 0.5, 0.8 and 0.9 always.
    rising : bool, optional
        Whether completeness rises with x; by default, as the data have it.
    where, usable, weight, source
        As in `completeness`.
    bootstrap : int
        Number of fits to replicates of the sources, from which errors follow; 0 for those of the Fisher matrix alone.
    seed : int
        Of the bootstrap.

    Returns
    -------
    CompletenessFit

    Raises
    ------
    CatalogError
        If a column is missing (with the nearest names), or cannot be used.
    ConfigError
        If an argument is not allowed.
    """
    rows = open_rows(data, where=where, usable=usable)
    shape = curve(model)
    check_bootstrap(bootstrap)
    wanted = tuple(sorted({0.5, 0.8, 0.9, *levels}))
    if not all(0.0 < level < 1.0 for level in wanted):
        raise ConfigError(f"the levels are {list(levels)}", key="levels", fix="Give fractions between 0 and 1")
    rows.require([x, found])
    weight = weights_of(rows, weight)
    groups = groups_of(rows, source, None) if bootstrap else {}
    low, high = range or extremes(rows, [x])[x]
    if range is not None and not (np.isfinite(range).all() and low < high):
        raise ConfigError(f"the range is {range}", key="range", fix="Give two numbers, the smaller first")
    attrs = {"found": found, "weights": weight or "none", "bootstrap": bootstrap, "seed": seed} | rows.attrs()
    job = _Job(rows, x, shape, found, wanted, weight, groups, bootstrap, seed, rising, attrs)
    return job.run(float(low), float(high))


@dataclass
class _Job:
    """One fit, from the rows to the result."""

    rows: Rows
    x: str
    shape: Curve
    found: str
    levels: tuple[float, ...]
    weight: str | None
    groups: dict[str, list[str]]
    bootstrap: int
    seed: int
    rising: bool | None
    attrs: dict[str, Any]

    def run(self, low: float, high: float) -> CompletenessFit:
        if not low < high:
            if low != high:
                return self._nothing(0, 0, low, high, "no row has a value")
            one = self._count(np.array([low - 0.5, low + 0.5]))
            reason = f"all rows have {self.x} = {low:g}: there is no curve to fit"
            return self._nothing(int(one.n.sum()), int(one.n_found.sum()), low, high, reason)
        edges = np.linspace(low, high, _BINS + 1)
        sums = self._count(edges)
        n, n_found = int(sums.n.sum()), int(sums.n_found.sum())
        if reason := too_few(self.x, n, n_found, low, high):
            return self._nothing(n, n_found, low, high, reason)
        sign = self._sign(edges, sums)
        best = self._fit(sign, edges, sums)
        if gain(sums, best.log_likelihood) < FLAT:
            reason = f"completeness does not change enough with {self.x} from {low:g} to {high:g} to fit a curve"
            return self._nothing(n, n_found, low, high, reason)
        for _ in (1, 2, 3):  # finer bins where the curve is narrow, as after one wrong magnitude of 99
            center, width = sign * best.parameters[1], best.parameters[2:].min()
            step = float(np.diff(edges)[np.clip(np.searchsorted(edges, center) - 1, 0, len(edges) - 2)])
            if width > 4.0 * step:
                break
            reach = max(20.0 * width, 30.0 * step)
            inner = np.linspace(max(low, center - reach), min(high, center + reach), _BINS // 2 + 1)
            outer = np.linspace(low, high, _BINS // 2 + 1)
            edges = np.concatenate([outer[outer < inner[0]], inner, outer[outer > inner[-1]]])
            sums = self._count(edges)
            best = self._fit(sign, edges, sums)
        return self._result(sign, edges, sums, best.parameters, best.at_bound, n, n_found)

    def _count(self, edges: NDArray[np.float64]) -> Counts:
        cells = Cells((Axis(self.x, edges=edges),))
        return count(self.rows, cells, found=self.found, weight=self.weight, groups=self.groups, seed=self.seed)

    def _sign(self, edges: NDArray[np.float64], sums: Counts) -> float:
        if self.rising is not None:
            return -1.0 if self.rising else 1.0
        middle = 0.5 * (edges[1:] + edges[:-1])
        every, those = sums.weight.sum(), sums.found_weight.sum()
        return -1.0 if (sums.found_weight @ middle) / those > (sums.weight @ middle) / every else 1.0

    def _fit(self, sign: float, edges: NDArray[np.float64], sums: Counts) -> Any:
        return maximize(self.shape, sign * 0.5 * (edges[1:] + edges[:-1]), sums.weight, sums.found_weight)

    def _nothing(self, n: int, n_found: int, low: float, high: float, reason: str) -> CompletenessFit:
        names, nan = self.shape.names, float("nan")
        none = Level(nan, nan, nan, reason)
        return CompletenessFit(
            self.shape.name, self.x, self.rows.unit(self.x), dict.fromkeys(names, nan), dict.fromkeys(names, nan),
            np.full((len(names), len(names)), nan), dict.fromkeys(self.levels, none), n, n_found,
            low if low <= high else nan, high if low <= high else nan, nan, 0, reason, "",
            bool(self.rising), self.attrs,
        )  # fmt: skip

    def _result(
        self, sign: float, edges: NDArray[np.float64], sums: Counts, best: NDArray[np.float64], at_bound: bool,
        n: int, n_found: int,
    ) -> CompletenessFit:  # fmt: skip
        low, high = float(edges[0]), float(edges[-1])
        middle = sign * 0.5 * (edges[1:] + edges[:-1])
        fewer = min(n_found, n - n_found)
        information = fisher(self.shape, middle, sums, best, at_bound)
        spread = np.stack([solve_level(self.shape, best, level)[1] for level in self.levels])
        with np.errstate(invalid="ignore"):
            fisher_errors = np.sqrt(np.einsum("lp,pq,lq->l", spread, information, spread))
        covariance, errors, reached = information, fisher_errors, np.ones(len(self.levels))
        if "source" in sums.by_group:
            covariance, errors, reached = self._replicate(middle, sums, best)
        notes, levels = [], {}
        for i, level in enumerate(self.levels):
            value = sign * solve_level(self.shape, best, level)[0]
            reason = ""
            if not np.isfinite(value):
                reason = f"the plateau is {best[0]:.3f}: {100 * level:g} % is not reached"
            elif not low <= value <= high:
                reason = f"it would lie beyond the fakes, at {value:.2f}: {self.x} is from {low:g} to {high:g}"
            if reason:
                levels[level] = Level(float("nan"), float("nan"), float("nan"), reason)
                continue
            levels[level] = Level(value, float(errors[i]), float(fisher_errors[i]))
            if reached[i] < 0.95:
                notes.append(f"{100 * level:g} % is reached in {100 * reached[i]:.0f} % of the replicates only")
        if fewer < _PER_PARAMETER * len(best):
            needed = int(np.ceil(n * _PER_PARAMETER * len(best) / fewer))
            notes.append(f"{fewer} found or missed are few for {len(best)} parameters: better about {needed:,} fakes")
        if at_bound:
            notes.append("the plateau is 1, the largest that it can be")
        chi2, dof = chi_squared(self.shape, middle, sums, best)
        if sign < 0:
            flip = np.where(np.arange(len(best)) == 1, -1.0, 1.0)
            best, covariance = best * flip, covariance * np.outer(flip, flip)
        deviations = np.sqrt(np.maximum(np.diag(covariance), 0.0))
        names = self.shape.names
        return CompletenessFit(
            self.shape.name, self.x, self.rows.unit(self.x), dict(zip(names, best.tolist(), strict=True)),
            dict(zip(names, deviations.tolist(), strict=True)), covariance, levels, n, n_found, low, high, chi2, dof,
            "", "; ".join(notes), sign < 0, self.attrs,
        )  # fmt: skip

    def _replicate(
        self, middle: NDArray[np.float64], sums: Counts, best: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Covariance of the parameters, errors of the levels, and how often each is reached, by bootstrap."""
        groups = sums.by_group["source"]
        draws = poisson_weights(self.bootstrap, groups.shape[-1], self.seed)
        parameters, few = replicates_of(self.shape, middle, sums.n, groups, best, draws)
        if len(parameters) < 2:
            nan = np.full(len(self.levels), np.nan)
            return np.full((len(best), len(best)), np.nan), nan, nan
        place = solve_levels(self.shape, parameters, self.levels)
        errors = np.array([np.std(each, ddof=1) if each.size else np.nan for each in _finite(place)])
        return np.cov(parameters.T) * few, errors * np.sqrt(few), np.isfinite(place).mean(0)


def _with_error(value: float, error: float) -> str:
    """A number and its error, to two digits of the error and at least three decimals."""
    digits = 3 if not error > 0 else min(9, max(3, 1 - int(np.floor(np.log10(error)))))
    return f"{value:.{digits}f} ± {error:.{digits}f}"


def _finite(values: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """Finite values of each column; none where there are fewer than two."""
    each = [column[np.isfinite(column)] for column in values.T]
    return [column if column.size >= 2 else column[:0] for column in each]
