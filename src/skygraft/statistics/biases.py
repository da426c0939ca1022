"""Bias and scatter of what was measured of the fakes, against what was injected."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xarray as xr
from numpy.typing import NDArray

from skygraft.errors import CatalogError, ConfigError
from skygraft.statistics.cells import MOST_CELLS_BY_GROUP, By, Cells, make_cells
from skygraft.statistics.counts import Group, groups_of, read_weights, weights_of
from skygraft.statistics.resampling import group_index, group_number
from skygraft.statistics.rows import Rows, Where, bools, floats, open_rows
from skygraft.statistics.samples import EXACT_ROWS, STEP, Sample, quantile, robust, rounded

__all__ = ["Comparison", "Kind", "bias", "comparison", "isolated_only", "medians", "position_bias"]

type Kind = Literal["difference", "ratio", "angle", "ra", "dec", "distance"]
type Floats = NDArray[np.float64]

_KINDS = ("difference", "ratio", "angle", "ra", "dec", "distance")
_ARCSEC = 3600.0


@dataclass(frozen=True)
class Comparison:
    """How a measured column is compared with a true one."""

    columns: list[str]  # that are needed
    unit: str  # of the result
    text: str  # what it is
    values: Callable[[pa.RecordBatch], tuple[Floats, Floats]]
    """Of a batch: the differences, and those over the errors (NaN without errors)."""


def _wrapped(angle: Floats, period: float) -> Floats:
    """An angle within half a period of 0."""
    return np.asarray((angle + 0.5 * period) % period - 0.5 * period)


def _separation(batch: pa.RecordBatch, measured: tuple[str, str], true: tuple[str, str]) -> Floats:
    """Angular distance in arcsec, by the haversine formula, which is exact for small ones."""
    ra_1, dec_1, ra_2, dec_2 = (np.radians(floats(batch, name)) for name in (*measured, *true))
    half = np.sin((dec_1 - dec_2) / 2) ** 2 + np.cos(dec_1) * np.cos(dec_2) * np.sin((ra_1 - ra_2) / 2) ** 2
    return np.asarray(np.degrees(2.0 * np.arcsin(np.sqrt(np.clip(half, 0.0, 1.0)))) * _ARCSEC)


def comparison(
    rows: Rows,
    measured: str,
    true: str,
    kind: Kind = "difference",
    error: str | None = "auto",
    declination: tuple[str, str] = ("dec_out", "dec"),
) -> Comparison:
    """How a measured column is compared with a true one, after checks of columns and units; arguments as in `bias`.

    A column that is missing, or units that cannot be those of one quantity, is a `CatalogError`; a kind that there is
    not, a `ConfigError`.
    """
    if kind not in _KINDS:
        raise ConfigError(f"there is no kind {kind!r}; there are {', '.join(_KINDS)}", key="kind", fix="Give one")
    if error == "auto":
        error = f"{measured}_error" if rows.has(f"{measured}_error") else None
    columns = [measured, true]
    if kind in ("ra", "distance"):
        columns += [declination[1]]
    if kind == "distance":
        columns += [declination[0]]
    rows.require([*columns, *([error] if error else [])])
    factor = _unit_factor(rows, measured, true)
    scale = {"ra": _ARCSEC, "dec": _ARCSEC}.get(kind, 1.0)

    def values(batch: pa.RecordBatch) -> tuple[Floats, Floats]:
        out, truth = floats(batch, measured) * factor, floats(batch, true)
        if kind == "distance":
            away = _separation(batch, (measured, declination[0]), (true, declination[1]))
            return away, np.full(away.shape, np.nan)
        away = out - truth
        if kind == "angle":
            away = _wrapped(away, 180.0)
        elif kind == "ra":
            away = _wrapped(away, 360.0) * np.cos(np.radians(floats(batch, declination[1])))
        away = away * scale
        with np.errstate(divide="ignore", invalid="ignore"):
            pull = away / (floats(batch, error) * factor * scale) if error else np.full(away.shape, np.nan)
            return (out / truth if kind == "ratio" else away), pull

    unit = {"ratio": "", "angle": "deg", "ra": "arcsec", "dec": "arcsec", "distance": "arcsec"}.get(
        kind, rows.unit(true) or rows.unit(measured)
    )
    text = {
        "ratio": f"{measured} / {true}",
        "angle": f"{measured} - {true}, modulo 180 deg",
        "ra": f"({measured} - {true}) cos({declination[1]})",
        "distance": f"distance of ({measured}, {declination[0]}) from ({true}, {declination[1]})",
    }.get(kind, f"{measured} - {true}")
    return Comparison([*columns, *([error] if error else [])], unit, text, values)


def _unit_factor(rows: Rows, measured: str, true: str) -> float:
    """What values of the measured column are multiplied by to be in the unit of the true one."""
    units = rows.unit(measured), rows.unit(true)
    if not all(units) or units[0] == units[1]:
        return 1.0
    from astropy import units as u

    try:
        first, second = (u.Unit(unit) for unit in units)
    except ValueError:  # units that only people read
        return 1.0
    if "mag" in str(first) and "mag" in str(second):
        return 1.0
    try:
        return float(first.to(second))
    except u.UnitConversionError as problem:
        raise CatalogError(
            f"the unit is {units[0]}, that of {true} is {units[1]}",
            key=measured,
            fix="Compare columns of one quantity, or correct the units",
        ) from problem


def isolated_only(rows: Rows, isolated: float | None) -> Rows:
    """Rows whose fake is not blended and has no real source within a distance (arcsec); all rows for None."""
    if isolated is None:
        return rows
    if not (np.isfinite(isolated) and isolated >= 0):
        raise ConfigError(f"the distance is {isolated!r}", key="isolated", fix="Give arcseconds, 0 or more")
    rows.require(["blend", "neighbour_distance"])
    # No neighbour at all is NaN or null.
    far = (pc.field("neighbour_distance") > float(isolated)) | pc.field("neighbour_distance").is_null(nan_is_null=True)
    return rows.keeping((pc.field("blend") == "") & far, None)


def bias(
    data: Any,
    measured: str = "mag_cal",
    true: str = "mag",
    by: By | None = "mag",
    *,
    kind: Kind = "difference",
    declination: tuple[str, str] = ("dec_out", "dec"),
    error: str | None = "auto",
    isolated: float | None = None,
    found: str | None = "found",
    where: Where = None,
    usable: str | None = "usable",
    weight: str | None = "weight",
    source: Group = "injection_id",
    exact_rows: int = EXACT_ROWS,
) -> xr.Dataset:
    """Median and robust scatter of a measured quantity against the injected one, in bins of any columns.

    Up to 10⁷ values are held and their medians are exact; beyond, values are rounded to 1e-4 (large ones to 1e-4 of
    themselves) and counted, so that memory is bounded; `exact` in the attributes says which.

    Parameters
    ----------
    data : path-like, table or mapping
        As in `completeness`.
    measured, true : str
        Columns. Where both have units, those of `measured` are converted.
    by : str, sequence of str, mapping or None
        As in `completeness`.
    kind : {"difference", "ratio", "angle", "ra", "dec", "distance"}
        measured - true; measured / true; difference of position angles, modulo 180 deg; of columns in degrees, the
        difference of right ascensions times cos dec, that of declinations, and the distance on the sky of two right
        ascensions, in arcsec.
    declination : tuple of str
        For ``ra`` and ``distance``: the columns of the measured and the true declination, deg.
    error : str or None
        Column of the errors that the measurement states. By default ``<measured>_error`` if there is one.
    isolated : float, optional
        Only fakes that are not blended (``blend`` is empty) and have no real source within so many arcsec.
    found : str or None
        Column that says whether the fake was found; only those count. None for all rows with a value.
    where, usable, weight, source
        As in `completeness`.
    exact_rows : int
        Number of values that are held.

    Returns
    -------
    xarray.Dataset
        Over the columns of `by`: ``n``, ``median``, ``error`` (standard error of the median: the quantile interval of
        Woodruff 1952, J. Am. Stat. Assoc. 47, 635, with the variance between sources), ``scatter`` (1.4826 times the
        median absolute deviation), ``scatter_error`` (of independent normal values), ``pull_median`` and
        ``pull_scatter`` (of differences over stated errors: 0 and 1 where these are right). Empty bins are NaN.

    Raises
    ------
    CatalogError
        If a column is missing (with the nearest names), or units do not fit.
    ConfigError
        If an argument is not allowed.
    """
    rows = isolated_only(open_rows(data, where=where, usable=usable), isolated)
    compare = comparison(rows, measured, true, kind, error, declination)
    if found is not None:
        rows.require([found])
    weight = weights_of(rows, weight)
    groups = groups_of(rows, source, None).get("source", [])
    cells = make_cells(rows, by)
    attrs = {
        "title": f"bias of {measured}",
        "kind": kind,
        "isolated": "all" if isolated is None else f"not blended, no real source within {isolated:g} arcsec",
    }
    return medians(rows, cells, compare, found, weight, groups, exact_rows, attrs)


def medians(
    rows: Rows,
    cells: Cells,
    compare: Comparison,
    found: str | None,
    weight: str | None,
    groups: list[str],
    exact_rows: int,
    attrs: Mapping[str, Any],
) -> xr.Dataset:
    """Medians and scatters in cells: what `bias` returns. With very many cells, rows count as independent."""
    groups = groups if cells.size <= MOST_CELLS_BY_GROUP else []
    job = _Medians(rows, cells, compare, found, weight, groups)
    values, pulls, n_outside = job.collect(exact_rows)
    out = job.summarise(values, pulls)
    unit, text = compare.unit, compare.text
    return cells.dataset(
        {
            "n": (out["n"], "", "fakes and images with a value"),
            "median": (out["median"], unit, f"median of {text}"),
            "error": (out["error"], unit, "standard error of the median"),
            "scatter": (out["scatter"], unit, f"1.4826 times the median absolute deviation of {text}"),
            "scatter_error": (out["scatter_error"], unit, "standard error of the scatter of normal values"),
            "pull_median": (out["pull_median"], "", "median of differences over stated errors"),
            "pull_scatter": (out["pull_scatter"], "", "robust scatter of differences over stated errors"),
        },
        dict(attrs)
        | {
            "quantity": text,
            "source_columns": ", ".join(groups) or "none: rows as independent",
            "weights": weight or "none",
            "n_outside": n_outside,
            "exact": "no" if values.rounded else "yes",
            "resolution": STEP if values.rounded else 0.0,
        }
        | rows.attrs(),
    )


def position_bias(
    data: Any,
    by: By | None = "mag",
    *,
    measured: tuple[str, str] = ("ra_out", "dec_out"),
    true: tuple[str, str] = ("ra", "dec"),
    **options: Any,
) -> xr.Dataset:
    """Median and robust scatter of positions: along right ascension, along declination, and of the distance.

    Parameters
    ----------
    data : path-like, table or mapping
        As in `completeness`.
    by : str, sequence of str, mapping or None
        As in `completeness`.
    measured, true : tuple of str
        Columns of right ascension and declination, deg.
    **options
        Of `bias`: `isolated`, `where`, ...

    Returns
    -------
    xarray.Dataset
        As of `bias`, in arcsec, with a first dimension ``component``: ``ra`` (times cos dec), ``dec``, ``distance``.
    """
    rows = open_rows(data, where=options.pop("where", None), usable=options.pop("usable", "usable"))
    kinds: tuple[tuple[Kind, str, str], ...] = (
        ("ra", measured[0], true[0]),
        ("dec", measured[1], true[1]),
        ("distance", measured[0], true[0]),
    )
    options |= {"declination": (measured[1], true[1]), "usable": None}
    each = [bias(rows, one, other, by, kind=kind, **options) for kind, one, other in kinds]
    out = xr.concat(each, xr.DataArray(["ra", "dec", "distance"], dims="component", name="component"))
    out.attrs = each[0].attrs | {"title": "bias of positions", "quantity": "position", "kind": "ra, dec, distance"}
    return out


@dataclass
class _Medians:
    """Medians of one comparison, in one pass, or two where values do not fit into memory."""

    rows: Rows
    cells: Cells
    compare: Comparison
    found: str | None
    weight: str | None
    groups: list[str]
    _kept: list[tuple[NDArray[np.int64], Floats, Floats, NDArray[np.int64]]] | None = field(default_factory=list)
    _n: NDArray[np.int64] = field(init=False)
    _square: Floats = field(init=False)

    def _batches(self) -> Iterable[tuple[NDArray[np.int64], Floats, Floats, Floats, NDArray[np.int64], int]]:
        n_groups = group_number(self.cells.size)
        columns = [*self.cells.columns, *self.compare.columns, self.found, self.weight, *self.groups]
        for batch in self.rows.batches(columns):
            cell = self.cells.index(batch)
            value, pull = self.compare.values(batch)
            weights = read_weights(batch, self.weight)
            w = np.ones(cell.size) if weights is None else weights
            good = np.isfinite(value) & (w > 0)
            if self.found is not None:
                good &= bools(batch, self.found)
            outside = int((good & (cell < 0)).sum())
            good &= cell >= 0
            group = group_index(batch, self.groups, n_groups)[good] if self.groups else np.zeros(0, np.int64)
            yield cell[good], value[good], pull[good], w[good], group, outside

    def collect(self, exact_rows: int) -> tuple[Sample, Sample, int]:
        """Values and pulls in cells, and the number of values in none."""
        values, pulls, n_outside = Sample(exact_rows), Sample(exact_rows), 0
        size = self.cells.size
        self._n, self._square = np.zeros(size, np.int64), np.zeros(size)
        for cell, value, pull, w, group, outside in self._batches():
            n_outside += outside
            self._n += np.bincount(cell, minlength=size)
            self._square += np.bincount(cell, w**2, minlength=size)
            values.add(cell, value, w)
            has = np.isfinite(pull)
            pulls.add(cell[has], pull[has], w[has])
            if self._kept is not None:
                self._kept.append((cell, value, w, group))
                if values.rounded:
                    self._kept = None
        return values, pulls, n_outside

    def _clustered(self, middle: Floats, total: Floats, inexact: bool) -> Floats:
        """Variance of the fraction of values below the median of each cell, from that between sources."""
        if not self.groups:
            with np.errstate(invalid="ignore", divide="ignore"):
                n = self._n
                return np.asarray(0.25 * self._square / total**2 * n / np.maximum(n - 1, 1))
        size = self.cells.size
        n_groups = group_number(size)
        sums, seen = np.zeros(size * n_groups), np.zeros(size * n_groups, bool)
        kept = self._kept
        again = ((c, rounded(v) if inexact else v, w, g) for c, v, _, w, g, _ in self._batches())
        for cell, value, w, group in again if kept is None else kept:
            key = cell * n_groups + group
            np.add.at(sums, key, w * (0.5 * np.sign(middle[cell] - value)))
            seen[key] = True
        m = seen.reshape(size, n_groups).sum(1)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray((sums.reshape(size, n_groups) ** 2).sum(1) / total**2 * m / np.maximum(m - 1, 1))

    def summarise(self, values: Sample, pulls: Sample) -> dict[str, NDArray[Any]]:
        size = self.cells.size
        names = ("median", "error", "scatter", "scatter_error", "pull_median", "pull_scatter")
        out: dict[str, NDArray[Any]] = {name: np.full(size, np.nan) for name in names} | {"n": self._n}
        total = np.zeros(size)
        for cell, v, w in values.by_cell():
            out["median"][cell], out["scatter"][cell] = robust(v, w)
            total[cell] = w.sum()
        for cell, v, w in pulls.by_cell():
            out["pull_median"][cell], out["pull_scatter"][cell] = robust(v, w)
        spread = np.sqrt(self._clustered(out["median"], total, values.rounded))
        with np.errstate(invalid="ignore", divide="ignore"):
            effective = total**2 / self._square
            out["scatter_error"] = np.where(self._n > 1, 1.1664 * out["scatter"] / np.sqrt(effective), np.nan)
        for cell, v, w in values.by_cell():
            if self._n[cell] > 1 and np.isfinite(spread[cell]):
                reach = min(float(spread[cell]), 0.5)
                out["error"][cell] = 0.5 * (quantile(v, w, 0.5 + reach) - quantile(v, w, 0.5 - reach))
        return out
