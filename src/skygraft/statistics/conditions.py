"""How completeness and biases go with the conditions of the images: correlations beyond what magnitude explains."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import xarray as xr
from numpy.typing import NDArray

from skygraft.errors import ConfigError
from skygraft.statistics.biases import comparison
from skygraft.statistics.cells import make_cells
from skygraft.statistics.completeness import check_bootstrap
from skygraft.statistics.counts import Group, groups_of
from skygraft.statistics.fits import fit_completeness
from skygraft.statistics.resampling import poisson_weights, replicate_scatter, row_hash
from skygraft.statistics.rows import Rows, Where, bools, floats, open_rows

__all__ = ["CONDITIONS", "correlations"]

CONDITIONS = (
    "depth", "sky", "sky_rms", "seeing", "airmass", "exposure_time", "aperture_fraction", "edge_distance",
    "neighbour_distance", "neighbour_mag",
)  # fmt: skip
"""Columns of the recovery table that are conditions."""

_MOST_ROWS = 2_000_000
_GROUPS = 2048

type Floats = NDArray[np.float64]


def correlations(
    data: Any,
    values: str | Sequence[str] = "found",
    conditions: Sequence[str] | None = None,
    *,
    x: str = "mag",
    bins: int = 8,
    model: str = "logistic",
    found: str = "found",
    where: Where = None,
    usable: str | None = "usable",
    source: Group = "injection_id",
    bootstrap: int = 200,
    seed: int = 0,
    most_rows: int = _MOST_ROWS,
) -> xr.Dataset:
    """How completeness, or a bias, goes with conditions, beyond what the magnitude explains.

    For completeness the residual of a fake is found (1 or 0) minus the curve fitted against `x`, over the standard
    deviation that the curve allows; for a bias it is the difference minus the median of its bin in `x`. Its Spearman
    rank correlation with each condition is the partial one over magnitude. Errors are by bootstrap of sources.

    Parameters
    ----------
    data : path-like, table or mapping
        As in `skygraft.statistics.completeness`.
    values : "found", or (measured, true)
        Completeness, or the bias of a measured column against the true one.
    conditions : sequence of str, optional
        Columns of numbers; by default those of `CONDITIONS` that the table has.
    x : str
        The magnitude.
    bins : int
        Number of bins of each condition, of equally many rows.
    model : str
        Curve of completeness (see `skygraft.statistics.fit_completeness`).
    found, where, usable, source, bootstrap, seed
        As in `skygraft.statistics.completeness`.
    most_rows : int
        Of larger tables a sample is taken: sources whose hash is small, so that it does not depend on order.

    Returns
    -------
    xarray.Dataset
        Over ``condition``: ``spearman``, ``spearman_error``, ``p_value`` (two-sided, of no correlation), ``n``. Over
        ``condition`` and ``bin``: ``low``, ``high``, ``center`` (median), ``n_bin``, ``residual`` (completeness minus
        that of the curve, or mean of the bias beyond its median) and ``residual_error``. NaN for conditions that do not
        vary.

    Raises
    ------
    CatalogError
        If a column is missing (with the nearest names), or cannot be used.
    ConfigError
        If an argument is not allowed.
    """
    rows = open_rows(data, where=where, usable=usable)
    check_bootstrap(bootstrap)
    names = [values] if isinstance(values, str) else list(values)
    if len(names) not in (1, 2) or bins < 2:
        raise ConfigError(
            f"the values are {values!r}, in {bins} bins", key="values", fix='Give "found", or two columns'
        )
    chosen = [name for name in CONDITIONS if rows.has(name)] if conditions is None else list(conditions)
    if not chosen:
        raise ConfigError(
            f"the table has none of {', '.join(CONDITIONS)}", key="conditions", fix="Name the columns of conditions"
        )
    rows.require([x, found, *names, *chosen])
    groups = groups_of(rows, source, None).get("source", [])
    if len(names) == 1:
        fit = fit_completeness(rows, x, model, found=names[0], usable=None, weight=None, bootstrap=0)
        reason, columns = fit.reason, [names[0]]

        def residuals(batch: pa.RecordBatch) -> tuple[Floats, Floats]:
            expected = fit(floats(batch, x))
            raw = bools(batch, names[0]) - expected
            return raw, raw / np.sqrt(np.clip(expected * (1.0 - expected), 1e-4, None))

    else:
        compare = comparison(rows, names[0], names[1])
        reason, columns = "", [*compare.columns, found]
        residuals = _biases(compare.values, found)
    sample = _Sampled(rows, [x, *columns], chosen, groups, most_rows, residuals, seed)
    raw, scaled, given, hashes, mags, fraction = sample.collect()
    if len(names) == 2:
        raw = scaled = _minus_median(rows, x, mags, raw)
    out = _Tables(len(chosen), bins)
    draws = poisson_weights(bootstrap, _GROUPS, seed) if bootstrap else None
    group = (hashes % np.uint64(_GROUPS)).astype(np.int64)
    for i in range(len(chosen)):
        good = np.isfinite(raw) & np.isfinite(given[i])
        out.fill(i, raw[good], scaled[good], given[i][good], group[good], draws)
    what = "completeness minus the curve" if len(names) == 1 else f"{names[0]} - {names[1]} minus its median"
    unit = "" if len(names) == 1 else compare.unit
    return out.dataset(rows, chosen, unit, {
        "title": f"correlations of {what} with conditions", "x": x, "reason": reason, "sampled_fraction": fraction,
        "bootstrap": bootstrap, "seed": seed,
    })  # fmt: skip


def _biases(
    values: Callable[[pa.RecordBatch], tuple[Floats, Floats]], found: str
) -> Callable[[pa.RecordBatch], tuple[Floats, Floats]]:
    def residuals(batch: pa.RecordBatch) -> tuple[Floats, Floats]:
        away = np.where(bools(batch, found), values(batch)[0], np.nan)
        return away, away

    return residuals


def _minus_median(rows: Rows, x: str, mags: Floats, away: Floats) -> Floats:
    """Values minus the median of their bin in magnitude."""
    (axis,) = make_cells(rows, {x: "auto"}).axes
    cell = axis.index(pa.record_batch({x: mags})) if axis.edges is not None else np.zeros(mags.size, np.int64)
    out = np.full(away.shape, np.nan)
    for one in np.unique(cell[cell >= 0]):
        inside = (cell == one) & np.isfinite(away)
        out[inside] = away[inside] - (np.median(away[inside]) if inside.any() else 0.0)
    return out


class _Sampled:
    """Rows of sources whose hash is below a threshold, which falls until they fit into memory."""

    def __init__(
        self, rows: Rows, columns: list[str], conditions: list[str], groups: list[str], most: int,
        residuals: Callable[[pa.RecordBatch], tuple[Floats, Floats]], seed: int,
    ) -> None:  # fmt: skip
        self.rows, self.columns, self.conditions, self.groups = rows, columns, conditions, groups
        self.most, self.residuals, self.seed = most, residuals, seed

    def collect(self) -> tuple[Floats, Floats, Floats, NDArray[np.uint64], Floats, float]:
        key = self.groups or self.columns[:1]
        parts: list[NDArray[np.float64]] = []
        hashes: list[NDArray[np.uint64]] = []
        limit, held = 2**64 - 1, 0
        for batch in self.rows.batches([*self.columns, *self.conditions, *key]):
            one = row_hash(batch, key, self.seed)
            raw, scaled = self.residuals(batch)
            given = [floats(batch, name) for name in self.conditions]
            table = np.stack([raw, scaled, floats(batch, self.columns[0]), *given])
            keep = one <= np.uint64(limit)
            parts, hashes = [*parts, table[:, keep]], [*hashes, one[keep]]
            held += int(keep.sum())
            while held > self.most and limit > 1:
                limit //= 2
                keeps = [each <= np.uint64(limit) for each in hashes]
                parts = [part[:, k] for part, k in zip(parts, keeps, strict=True)]
                hashes = [each[k] for each, k in zip(hashes, keeps, strict=True)]
                held = sum(each.size for each in hashes)
        every = np.concatenate(parts, 1) if parts else np.zeros((3 + len(self.conditions), 0))
        all_hashes = np.concatenate(hashes) if hashes else np.zeros(0, np.uint64)
        order = np.lexsort((*every, all_hashes))  # sums do not depend on the order of the rows
        every = every[:, order]
        return every[0], every[1], every[3:], all_hashes[order], every[2], limit / (2**64 - 1)


class _Tables:
    """Correlations and binned residuals of all conditions."""

    def __init__(self, n: int, bins: int) -> None:
        self.bins = bins
        self.one = {name: np.full(n, np.nan) for name in ("spearman", "spearman_error", "p_value")}
        self.n = np.zeros(n, np.int64)
        self.binned = {
            name: np.full((n, bins), np.nan) for name in ("low", "high", "center", "residual", "residual_error")
        }
        self.n_bin = np.zeros((n, bins), np.int64)

    def fill(
        self, i: int, raw: Floats, scaled: Floats, given: Floats, group: NDArray[np.int64], draws: Floats | None
    ) -> None:
        from scipy.stats import norm, rankdata

        self.n[i] = raw.size
        if raw.size < 3 or np.ptp(given) == 0 or np.ptp(scaled) == 0:
            return
        a, b = rankdata(given), rankdata(scaled)
        sums = np.stack([np.bincount(group, w, minlength=_GROUPS) for w in (a * 0 + 1, a, b, a * a, b * b, a * b)])
        m = int((sums[0] > 0).sum())
        rho = float(_pearson(sums.sum(1)))
        self.one["spearman"][i] = rho
        if draws is not None:
            error = float(replicate_scatter(_pearson(sums @ draws.T), m))
            self.one["spearman_error"][i] = error
            if error > 0:
                self.one["p_value"][i] = 2.0 * norm.sf(abs(rho) / error)
        edges = np.unique(np.quantile(given, np.linspace(0, 1, self.bins + 1)))
        number = np.clip(np.searchsorted(edges, given, side="right") - 1, 0, edges.size - 2)
        for k in range(edges.size - 1):
            inside = number == k
            if not inside.any():
                continue
            values, one = raw[inside], group[inside]
            self.n_bin[i, k] = values.size
            self.binned["low"][i, k], self.binned["high"][i, k] = edges[k], edges[k + 1]
            self.binned["center"][i, k] = np.median(given[inside])
            self.binned["residual"][i, k] = mean = values.mean()
            each = np.bincount(one, values - mean, minlength=_GROUPS)
            m = np.unique(one).size
            if m > 1:
                self.binned["residual_error"][i, k] = np.sqrt((each**2).sum() * m / (m - 1)) / values.size

    def dataset(self, rows: Rows, names: list[str], unit: str, attrs: dict[str, Any]) -> xr.Dataset:
        unit_attr = {"units": unit} if unit else {}
        variables: dict[str, Any] = {name: ("condition", values) for name, values in self.one.items()}
        variables["n"] = ("condition", self.n)
        variables["unit"] = ("condition", np.array([rows.unit(name) for name in names], dtype=np.str_))
        for name, values in self.binned.items():
            variables[name] = (("condition", "bin"), values, unit_attr if name.startswith("residual") else {})
        variables["n_bin"] = (("condition", "bin"), self.n_bin)
        coordinates = {"condition": names, "bin": np.arange(self.bins)}
        return xr.Dataset(variables, coords=coordinates, attrs=attrs | rows.attrs())


def _pearson(sums: Floats) -> Floats:
    """Correlation from the sums 1, a, b, a², b², ab (first axis)."""
    with np.errstate(invalid="ignore", divide="ignore"):
        n, a, b, aa, bb, ab = sums
        return np.asarray((ab / n - a * b / n**2) / np.sqrt((aa / n - (a / n) ** 2) * (bb / n - (b / n) ** 2)))
