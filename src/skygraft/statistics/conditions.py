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
from skygraft.statistics.fits import CompletenessFit, fit_completeness
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
_STRATA, _FEWEST_OF_STRATUM = 50, 20

type Floats = NDArray[np.float64]
type Residuals = Callable[[pa.RecordBatch], tuple[Floats, Floats]]


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

    The correlation is Spearman's, partial over the magnitude: rows are ranked within fifty strata of equally many of
    neighbouring `x`, and what is left of `x` within them is taken out by the formula of the partial correlation. So a
    condition that only follows the magnitude has none. Residuals in bins of a condition are found (1 or 0) minus the
    curve fitted against `x`, or the bias minus its median in the bin of `x`. Errors are by bootstrap of sources.

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
    reason = ""
    if len(names) == 1:
        fit = fit_completeness(rows, x, model, found=names[0], usable=None, weight=None, bootstrap=0)
        reason, columns, residuals, unit = fit.reason, names, _losses(fit, x, names[0]), ""
    else:
        compare = comparison(rows, names[0], names[1])
        columns, residuals, unit = [*compare.columns, found], _biases(compare.values, found), compare.unit
    sample = _Sampled(rows, [x, *columns], chosen, groups, most_rows, residuals, seed)
    raw, outcome, given, hashes, mags, fraction = sample.collect()
    if len(names) == 2:
        raw = outcome = _minus_median(rows, x, mags, raw)
    out = _Tables(len(chosen), bins)
    draws = poisson_weights(bootstrap, _GROUPS, seed) if bootstrap else None
    group = (hashes % np.uint64(_GROUPS)).astype(np.int64)
    for i in range(len(chosen)):
        good = np.isfinite(raw) & np.isfinite(given[i])
        out.fill(i, raw[good], outcome[good], given[i][good], mags[good], group[good], draws)
    what = "completeness minus the curve" if len(names) == 1 else f"{names[0]} - {names[1]} minus its median"
    return out.dataset(rows, chosen, unit, {
        "title": f"correlations of {what} with conditions", "x": x, "reason": reason, "sampled_fraction": fraction,
        "bootstrap": bootstrap, "seed": seed,
    })  # fmt: skip


def _losses(fit: CompletenessFit, x: str, found: str) -> Residuals:
    """Found minus the curve, and found."""

    def residuals(batch: pa.RecordBatch) -> tuple[Floats, Floats]:
        outcome = bools(batch, found).astype(np.float64)
        return outcome - fit(floats(batch, x)), outcome

    return residuals


def _biases(values: Residuals, found: str) -> Residuals:
    """Values of those that were found."""

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
        residuals: Residuals, seed: int,
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
            raw, outcome = self.residuals(batch)
            given = [floats(batch, name) for name in self.conditions]
            table = np.stack([raw, outcome, floats(batch, self.columns[0]), *given])
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
        self, i: int, raw: Floats, outcome: Floats, given: Floats, mags: Floats, group: NDArray[np.int64],
        draws: Floats | None,
    ) -> None:  # fmt: skip
        from scipy.stats import norm

        self.n[i] = raw.size
        if raw.size < 3 or np.ptp(given) == 0 or np.ptp(outcome) == 0:
            return
        a, b, c = _ranks(mags, (given, outcome, mags))
        products = (np.ones(a.size), a, b, c, a * a, b * b, c * c, a * b, a * c, b * c)
        sums = np.stack([np.bincount(group, w, minlength=_GROUPS) for w in products])
        m = int((sums[0] > 0).sum())
        rho = float(_partial(sums.sum(1)))
        self.one["spearman"][i] = rho
        if draws is not None:
            error = float(replicate_scatter(_partial(sums @ draws.T), m))
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


def _ranks(mags: Floats, each: tuple[Floats, ...]) -> list[Floats]:
    """Ranks within strata of equally many rows of neighbouring magnitude, as fractions about 0."""
    from scipy.stats import rankdata

    strata = max(1, min(_STRATA, mags.size // _FEWEST_OF_STRATUM))
    order = np.argsort(mags, kind="stable")
    out = [np.zeros(mags.size) for _ in each]
    for rows in np.array_split(order, strata):
        for values, ranks in zip(each, out, strict=True):
            ranks[rows] = (rankdata(values[rows]) - 0.5 * (rows.size + 1)) / rows.size
    return out


def _partial(sums: Floats) -> Floats:
    """Correlation of a and b without what both have in common with c (Yule 1907), from sums (first axis)."""
    with np.errstate(invalid="ignore", divide="ignore"):
        a, b, c, aa, bb, cc, ab, ac, bc = sums[1:] / sums[0]
        va, vb, vc = aa - a * a, bb - b * b, cc - c * c
        r_ac = np.where(vc > 0, (ac - a * c) / np.sqrt(va * vc), 0.0)
        r_bc = np.where(vc > 0, (bc - b * c) / np.sqrt(vb * vc), 0.0)
        r_ab = (ab - a * b) / np.sqrt(va * vb)
        return np.asarray((r_ab - r_ac * r_bc) / np.sqrt((1.0 - r_ac**2) * (1.0 - r_bc**2)))
