"""The curves of a selection function, fitted to fakes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import xarray as xr
from numpy.typing import NDArray

from skygraft.errors import CatalogError, ConfigError
from skygraft.statistics.biases import Comparison, medians
from skygraft.statistics.cells import Axis, Cells, check_groups, make_cells
from skygraft.statistics.completeness import check_bootstrap
from skygraft.statistics.counts import Counts, Group, count, groups_of, weights_of
from skygraft.statistics.curves import MODELS, maximize
from skygraft.statistics.likelihood import FLAT, chi_squared, gain, replicates_of, too_few
from skygraft.statistics.maps import check_nside, pixel_axis
from skygraft.statistics.resampling import poisson_weights
from skygraft.statistics.rows import Rows, Where, bools, floats, open_rows
from skygraft.statistics.samples import EXACT_ROWS, Sample, quantile

__all__ = ["VERSION", "build"]

VERSION = 1
"""Of the layout of the file."""
KIND = "skygraft selection function"

_LOGISTIC = MODELS["logistic"]
_X_BINS = 512
_SIZE_BINS = 6
_DEPTHS = 32
_NSIDE = 256
_FEWEST_ROWS = 20
_NO_FAKES = "no fakes"

type Floats = NDArray[np.float64]


@dataclass(frozen=True)
class _SizeAxis(Axis):
    """Sizes: 0 for point sources (no size), then bins."""

    @property
    def size(self) -> int:
        """Number of bins, point sources among them."""
        return 1 if self.edges is None else len(self.edges)

    @property
    def columns(self) -> list[str]:
        """Columns that `index` reads."""
        return [] if self.edges is None else [self.name]

    def index(self, batch: pa.RecordBatch) -> NDArray[np.int64]:
        """The bin of each row; -1 for sizes beyond the bins."""
        if self.edges is None:
            return np.zeros(batch.num_rows, np.int64)
        found = _by_edges(self, batch)
        return np.where(floats(batch, self.name) > 0, np.where(found >= 0, found + 1, -1), 0)


def _by_edges(axis: Axis, batch: pa.RecordBatch) -> NDArray[np.int64]:
    """The bin of each row by the edges of an axis alone."""
    return Axis(axis.name, axis.unit, edges=axis.edges).index(batch)


@dataclass(frozen=True)
class _DepthAxis(Axis):
    """Magnitude minus local depth; the magnitude itself where there is no depth."""

    depth: str | None = None

    @property
    def columns(self) -> list[str]:
        """Columns that `index` reads."""
        return [self.name] if self.depth is None else [self.name, self.depth]

    def values(self, batch: pa.RecordBatch) -> Floats:
        """The values of rows."""
        mag = floats(batch, self.name)
        return mag if self.depth is None else mag - floats(batch, self.depth)

    def index(self, batch: pa.RecordBatch) -> NDArray[np.int64]:
        """The bin of each row; -1 for those in none."""
        shifted = pa.record_batch({self.name: self.values(batch)})
        return _by_edges(self, shifted)


def build(
    data: Any,
    over: Mapping[str, Any] | None,
    per: tuple[str, ...],
    maps: int | str | None,
    *,
    found: str = "found",
    depth: str = "depth",
    position: tuple[str, str] = ("ra", "dec"),
    where: Where = None,
    usable: str | None = "usable",
    weight: str | None = "weight",
    source: Group = "injection_id",
    bootstrap: int = 200,
    seed: int = 0,
) -> xr.Dataset:
    """Curves of each group and size, and the map of depth, as `SelectionFunction` holds them.

    Arguments are those of `SelectionFunction.from_data`.
    """
    rows = open_rows(data, where=where, usable=usable)
    if check_bootstrap(bootstrap) == 0:
        raise ConfigError("a selection function has errors", key="bootstrap", fix="Give 200 replicates")
    mag, size, mag_range, size_bins = _columns(rows, over)
    if mag_range is not None:
        rows.require([mag])
        rows = rows.keeping([(mag, ">=", mag_range[0]), (mag, "<=", mag_range[1])], None)
    if maps == "auto":
        maps = _NSIDE if all(rows.has(name) for name in (depth, *position)) else None
    nside = None if maps is None else check_nside(maps)  # type: ignore[arg-type]
    local = depth if nside is not None else None
    rows.require([mag, found, *per, *([size] if size else []), *([depth, *position] if nside else [])])
    weight = weights_of(rows, weight)
    groups = groups_of(rows, source, None) or {"source": [mag]}
    kinds = make_cells(rows, dict.fromkeys(per, "auto") if per else None)
    if numeric := [axis.name for axis in kinds.axes if axis.edges is not None]:
        raise ConfigError("the column has numbers, not kinds", key=numeric[0], fix="Give it in `over`, not in `per`")
    axis, sizes, quantiles = _ranges(rows, kinds, _DepthAxis(mag, depth=local), size, size_bins)
    ends = _ends(rows, Cells((*kinds.axes, sizes)), axis, size, found)
    cells = Cells((*kinds.axes, sizes, axis))
    check_groups(cells)
    sums = count(rows, cells, found=found, weight=weight, groups=groups, seed=seed)
    draws = poisson_weights(bootstrap, sums.by_group["source"].shape[-1], seed)
    middle = axis.centers
    shape = (kinds.size, sizes.size)
    out: dict[str, NDArray[Any]] = {
        "parameters": np.full((*shape, 3), np.nan),
        "covariance": np.full((*shape, 3, 3), np.nan),
        "scale": np.full(shape, np.nan),
    }
    reasons = np.full(shape, "", dtype=object)
    for i, j in np.ndindex(shape):
        made = _curve(_part(sums, (i * sizes.size + j) * _X_BINS), middle, draws, mag)
        out["parameters"][i, j], out["covariance"][i, j], out["scale"][i, j], reasons[i, j] = made
    if not np.isfinite(out["parameters"]).any():
        # Not that of a combination of kinds and sizes which nobody asked for.
        why = next((reason for reason in reasons.ravel() if reason and reason != _NO_FAKES), "no rows")
        raise CatalogError(
            f"no curve can be fitted to the fakes of {rows.origin}: {why}",
            fix="Inject more fakes around the limit, or give fewer sizes and fewer columns in `per`",
        )
    return _assemble(
        rows, kinds, sizes, ends, out, reasons, quantiles, nside, position, depth,
        {"mag": mag, "size": size or "", "per": ",".join(per), "found": found, "weights": weight or "none",
         "bootstrap": bootstrap, "seed": seed},
    )  # fmt: skip


def _columns(rows: Rows, over: Mapping[str, Any] | None) -> tuple[str, str | None, tuple[float, float] | None, Any]:
    """Column of magnitudes, of sizes, range of magnitudes, and bins of sizes."""
    if over is None:
        over = {"mag": "auto"} | ({"half_light_radius": "auto"} if rows.has("half_light_radius") else {})
    if not 1 <= len(over) <= 2:
        raise ConfigError(
            f"a selection function over {len(over)} columns: {', '.join(over)}",
            key="over",
            fix="Give the column of magnitudes, and that of sizes; kinds go into `per`",
        )
    names = list(over)
    given = over[names[0]]
    mag_range = None
    if not isinstance(given, str):
        ends = np.asarray(given, np.float64)
        if ends.ndim != 1 or ends.size < 2 or not ends.min() < ends.max():
            raise ConfigError(f"the magnitudes are {given!r}", key=names[0], fix='Give "auto" or (faintest, brightest)')
        mag_range = (float(ends.min()), float(ends.max()))
    return names[0], names[1] if len(names) > 1 else None, mag_range, over[names[1]] if len(names) > 1 else None


def _ranges(
    rows: Rows, kinds: Cells, axis: _DepthAxis, size: str | None, bins: Any
) -> tuple[_DepthAxis, _SizeAxis, Floats | None]:
    """Bins of magnitude and size, and quantiles of the depth of each kind, in one pass."""
    low, high = np.inf, -np.inf
    held, depths = Sample(), Sample()
    for batch in rows.batches([*kinds.columns, *axis.columns, size]):
        kind, mag, x = kinds.index(batch), floats(batch, axis.name), axis.values(batch)
        good = np.isfinite(x) & (kind >= 0)
        if good.any():
            low, high = min(low, float(x[good].min())), max(high, float(x[good].max()))
        if size is not None:
            sizes = floats(batch, size)
            real = good & (sizes > 0) & np.isfinite(sizes)
            held.add(np.zeros(int(real.sum()), np.int64), sizes[real], np.ones(int(real.sum())))
        if axis.depth is not None:
            depths.add(kind[good], (mag - x)[good], np.ones(int(good.sum())))
    if not low < high:
        raise CatalogError(
            f"the fakes of {rows.origin} have no range of magnitudes", key=axis.name, fix="Check the condition on rows"
        )
    quantiles = None
    if axis.depth is not None:
        quantiles = np.full((kinds.size, _DEPTHS), np.nan)
        for number, values, weights in depths.by_cell():
            quantiles[number] = [quantile(values, weights, (k + 0.5) / _DEPTHS) for k in range(_DEPTHS)]
    edges = None
    for _, values, weights in held.by_cell():
        edges = _size_edges(values, weights, bins, size or "")
    made = _DepthAxis(axis.name, rows.unit(axis.name), edges=np.linspace(low, high, _X_BINS + 1), depth=axis.depth)
    return made, _SizeAxis(size or "", rows.unit(size) if size else "", edges=edges), quantiles


def _size_edges(values: Floats, weights: Floats, bins: Any, name: str) -> Floats:
    if isinstance(bins, str) and bins != "auto":
        raise ConfigError(f"the bins of sizes are {bins!r}", key=name, fix='Give "auto", a number or edges')
    if isinstance(bins, (str, int, np.integer)):
        n = _SIZE_BINS if isinstance(bins, str) else int(bins)
        if n < 1:
            raise ConfigError(f"{n} bins of sizes", key=name, fix="Give 1 or more")
        inner = [quantile(values, weights, k / n) for k in range(1, n)]
        edges = np.unique([values[0], *inner, values[-1]])
        return edges if edges.size > 1 else np.array([edges[0] * (1 - 1e-6), edges[0] * (1 + 1e-6)])
    edges = np.asarray(bins, np.float64)
    if edges.ndim != 1 or edges.size < 2 or (np.diff(edges) <= 0).any() or edges[0] < 0:
        raise ConfigError(f"the edges of sizes are {edges.tolist()}", key=name, fix="Give numbers that increase")
    return edges


def _ends(rows: Rows, cells: Cells, axis: _DepthAxis, size: str | None, found: str) -> dict[str, NDArray[Any]]:
    """Range of magnitudes and sizes of the fakes of each curve, their mean logarithmic size and number, in one pass."""
    n = cells.size
    lows = {name: np.full(n, np.inf) for name in ("mag", "x", "size")}
    highs = {name: np.full(n, -np.inf) for name in ("mag", "x", "size")}
    number, logs = np.zeros(n, np.int64), np.zeros(n)
    for batch in rows.batches([*cells.columns, *axis.columns, found]):
        cell, mag, x = cells.index(batch), floats(batch, axis.name), axis.values(batch)
        bools(batch, found)
        good = (cell >= 0) & np.isfinite(x)
        sizes = floats(batch, size) if size and size in batch.schema.names else np.full(x.shape, np.nan)
        cell = cell[good]
        number += np.bincount(cell, minlength=n)
        for name, values in (("mag", mag), ("x", x), ("size", np.where(sizes > 0, sizes, np.nan))):
            np.fmin.at(lows[name], cell, values[good])
            np.fmax.at(highs[name], cell, values[good])
        with np.errstate(divide="ignore", invalid="ignore"):
            logs += np.bincount(cell, np.nan_to_num(np.log(np.where(sizes > 0, sizes, 1.0))[good]), minlength=n)
    out: dict[str, NDArray[Any]] = {"n": number, "log_size": logs / np.maximum(number, 1)}
    for name in ("mag", "x", "size"):
        out[f"{name}_low"] = np.where(np.isfinite(lows[name]), lows[name], np.nan)
        out[f"{name}_high"] = np.where(np.isfinite(highs[name]), highs[name], np.nan)
    return out


def _part(sums: Counts, start: int) -> Counts:
    """The counts of one curve."""
    part = slice(start, start + _X_BINS)
    return Counts(
        sums.n[part], sums.n_found[part], sums.weight[part], sums.found_weight[part], sums.square_weight[part],
        {kind: values[:, part] for kind, values in sums.by_group.items()}, 0, sums.weighted,
    )  # fmt: skip


def _curve(sums: Counts, middle: Floats, draws: Floats, mag: str) -> tuple[Floats, Floats, float, str]:
    """Plateau, centre and logarithm of the width, their covariance, the scale of errors, or why there are none."""
    nothing = np.full(3, np.nan), np.full((3, 3), np.nan), float("nan")
    rows = np.nonzero(sums.n)[0]
    ends = (float(middle[rows[0]]), float(middle[rows[-1]])) if rows.size else (0.0, 0.0)
    n, n_found = int(sums.n.sum()), int(sums.n_found.sum())
    if n < _FEWEST_ROWS:
        return *nothing, f"only {n} fakes, of {_FEWEST_ROWS} that a curve takes" if n else _NO_FAKES
    if n_found in (0, n):
        return *_flat(sums, middle), 1.0, ""
    best = maximize(_LOGISTIC, middle, sums.weight, sums.found_weight)
    if gain(sums, best.log_likelihood) < FLAT:
        return *_flat(sums, middle), 1.0, ""
    if reason := too_few(mag, n, n_found, *ends):
        return *nothing, reason
    replicates, few = replicates_of(_LOGISTIC, middle, sums.n, sums.by_group["source"], best.parameters, draws)
    if len(replicates) < 2:
        return *nothing, "the fakes are of one source: there are no errors"
    replicates[:, 2] = np.log(replicates[:, 2])
    chi2, dof = chi_squared(_LOGISTIC, middle, sums, best.parameters)
    # What visits of one source add to the scatter is in the bootstrap already.
    effect = max(1.0, np.nan_to_num(sums.design_effect("source"), nan=1.0))
    scale = float(np.sqrt(max(1.0, chi2 / effect / dof))) if dof else 1.0
    parameters = np.array([*best.parameters[:2], np.log(best.parameters[2])])
    return parameters, np.cov(replicates.T) * few * scale**2, scale, ""


def _flat(sums: Counts, middle: Floats) -> tuple[Floats, Floats]:
    """A curve that is the fraction found, where it does not change with magnitude: its fall is far beyond the fakes.

    The variance is that of the fraction (k + 1/2) / (n + 1), so that it is not 0 where none or all were found.
    """
    n = float(sums.weight.sum()) ** 2 / float(sums.square_weight.sum())
    p = float(sums.found_weight.sum() / sums.weight.sum())
    inner = (p * n + 0.5) / (n + 1.0)
    total, found = sums.by_group["source"].sum(1)
    m = int((total > 0).sum())
    between = float(((found - p * total) ** 2).sum() / total.sum() ** 2 * m / max(m - 1, 1))
    covariance = np.zeros((3, 3))
    covariance[0, 0] = max(inner * (1.0 - inner) / n, between)
    width = 0.01 * (middle[-1] - middle[0])
    return np.array([p, middle[-1] + 100.0 * width, np.log(width)]), covariance


def _assemble(
    rows: Rows, kinds: Cells, sizes: _SizeAxis, ends: dict[str, NDArray[Any]], out: dict[str, NDArray[Any]],
    reasons: NDArray[Any], quantiles: Floats | None, nside: int | None, position: tuple[str, str], depth: str,
    attrs: dict[str, Any],
) -> xr.Dataset:  # fmt: skip
    shape, dims = reasons.shape, ("group", "size_bin")
    mag_unit = {"units": rows.unit(attrs["mag"])} if rows.unit(attrs["mag"]) else {}
    size_unit = {"units": sizes.unit} if sizes.unit else {}
    variables: dict[str, Any] = {
        "parameters": ((*dims, "parameter"), out["parameters"], {"long_name": "plateau, centre, log width"}),
        "covariance": ((*dims, "parameter", "parameter_2"), out["covariance"], {"long_name": "covariance of these"}),
        "scale": (dims, out["scale"], {"long_name": "what errors were multiplied by for the misfit"}),
        "reason": (dims, reasons.astype(np.str_), {"long_name": "why there is no curve"}),
    }
    for name, values in ends.items():
        unit = mag_unit if name[:2] in ("ma", "x_") else size_unit if name.startswith("size") else {}
        variables[name] = (dims, values.reshape(shape), unit)
    number = np.unravel_index(np.arange(kinds.size), kinds.shape) if kinds.axes else ()
    for axis, index in zip(kinds.axes, number, strict=True):
        variables[axis.name] = ("group", axis.centers[index])
    coordinates: dict[str, Any] = {"parameter": ["plateau", "center", "log_width"]}
    if nside is not None and quantiles is not None:
        pixels = Cells((pixel_axis(rows, nside, *position), *kinds.axes))
        compare = Comparison([depth], rows.unit(depth), depth, lambda batch: (floats(batch, depth), _nan(batch)))
        found = medians(rows, pixels, compare, None, None, [], EXACT_ROWS, {})
        maps = {name: found[name].values.reshape(pixels.shape[0], kinds.size).T for name in ("median", "scatter")}
        coordinates["pixel"] = ("pixel", found["pixel"].values)
        for name, what in (("depth", "median"), ("depth_scatter", "scatter")):
            about = mag_unit | {"long_name": f"{what} of the local depth in the pixel"}
            variables[name] = (("group", "pixel"), maps[what].astype(np.float32), about)
        variables["depth_quantile"] = (("group", "quantile"), quantiles, mag_unit)
        attrs |= {"nside": nside, "order": "nested", "frame": "icrs", "depth_column": depth}
    attributes = {"title": KIND, "kind": KIND, "version": VERSION, "model": "logistic"} | attrs
    return xr.Dataset(variables, coords=coordinates, attrs=attributes | rows.attrs())


def _nan(batch: pa.RecordBatch) -> Floats:
    return np.full(batch.num_rows, np.nan)
