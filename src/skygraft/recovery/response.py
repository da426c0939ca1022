"""The response of what is recovered to a small change of the injected catalogue, from a pair of campaigns."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from skygraft.campaign.campaign import Campaign
from skygraft.campaign.paired import PairedCampaign
from skygraft.errors import CatalogError, ConfigError

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["response"]

Array = NDArray[np.float64]

_MEASURED = re.compile(r"(?:flux|mag)_(?:cal|kron|psf|model|ap_.+)(?:_error)?|.*_out|snr|distance|detection_.*")
"""Columns of the recovery table that each campaign measures for itself."""
_AUTO_BINS = 10


@dataclass(frozen=True)
class _Axis:
    name: str
    edges: Array | None
    values: tuple[Any, ...]

    @property
    def size(self) -> int:
        return len(self.values) if self.edges is None else len(self.edges) - 1

    def index(self, column: NDArray[Any]) -> NDArray[np.int64]:
        """Bin of each value; -1 for none."""
        if self.edges is None:
            known = {value: i for i, value in enumerate(self.values)}
            return np.array([known.get(value, -1) for value in column.tolist()], dtype=np.int64)
        numbers = np.asarray(column, dtype=np.float64)
        at = np.searchsorted(self.edges, numbers, side="right") - 1
        at[numbers == self.edges[-1]] = self.size - 1
        return np.where((at >= 0) & (at < self.size), at, -1).astype(np.int64)

    def coordinates(self) -> dict[str, Any]:
        if self.edges is None:
            return {self.name: list(self.values)}
        return {
            self.name: 0.5 * (self.edges[1:] + self.edges[:-1]),
            f"{self.name}_lower": (self.name, self.edges[:-1]),
            f"{self.name}_upper": (self.name, self.edges[1:]),
        }


def response(
    pair: PairedCampaign | tuple[Any, Any] | str | os.PathLike[str],
    value: str = "found",
    *,
    by: str | Sequence[str] | Mapping[str, Any] | None = None,
    usable: str | None = "usable",
    weight: str | None = None,
    step: float | None = None,
    bootstrap: int = 200,
    seed: int = 0,
) -> xr.Dataset:
    """Estimate the derivative of counts or measured values by what a pair of campaigns differs in.

    A source of one image is compared with itself, so that all that does not change cancels: its neighbours, the noise
    of the image, and most of its own photon noise.

    Parameters
    ----------
    pair : PairedCampaign, path or (table, table)
        A pair that was run and recovered, its output folder, or the two recovery tables, plus first: Arrow tables, data
        sets, or Parquet files or folders.
    value : str
        ``found`` (or another column of truth values) for the response of counts, else a column of numbers, such as
        ``flux_cal``, for that of its mean over the sources found in both.
    by : str, sequence of str, or mapping, optional
        Columns to bin by; in a mapping, edges or a number of bins. Sources are sorted by the mean of both campaigns
        where the column is a property of the catalogue or the image; where it is measured, such as ``mag_cal``, counts
        are of the sources that each campaign has in the bin, as a survey would count them.
    usable : str, optional
        Column of truth values: rows where it is false in either campaign are left out; None for all.
    weight : str, optional
        Column of weights; by default ``weight`` where there is one.
    step : float, optional
        Difference of the parameter between the two, for tables; by default that of the pair.
    bootstrap : int
        Number of times that the sources are drawn again, all images of one source together.
    seed : int
        Seed of these draws.

    Returns
    -------
    xarray.Dataset
        Over the columns of `by`: ``response`` and ``error``; ``unpaired_error``, which two campaigns with sources of
        their own would have; ``n_sources``, and for counts ``count`` (mean of both), ``relative`` and
        ``relative_error`` (of the logarithm of the count), for values ``mean``. ``attrs`` name the parameter.

    Raises
    ------
    CatalogError
        If a column is missing, or the tables have no source in common.
    ConfigError
        If `step` is not known, or bins are none.
    """
    import xarray as xr

    plus, minus, attrs = _tables(pair, step)
    binned: dict[str, Any] = (
        dict(by) if isinstance(by, Mapping) else dict.fromkeys([by] if isinstance(by, str) else by or (), "auto")
    )
    names = {"image_id", "injection_id", value, *binned}
    if weight is None and "weight" in plus.names and "weight" in minus.names:
        weight = "weight"
    names |= {name for name in (weight, usable) if name is not None}
    one, two = plus.read(sorted(names)), minus.read(sorted(names))
    rows = _common(one, two)
    one, two = ({name: column[at] for name, column in side.items()} for side, at in zip((one, two), rows, strict=True))
    keep = np.ones(len(one["injection_id"]), dtype=bool)
    if usable is not None:
        keep &= one[usable].astype(bool) & two[usable].astype(bool)
    one, two = ({name: column[keep] for name, column in side.items()} for side in (one, two))
    if not keep.any():
        raise CatalogError("no source is usable in both campaigns", fix="Check the two recovery tables")
    axes = [_axis(name, how, one[name], two[name]) for name, how in binned.items()]
    cells = [_cells(axes, side, other) for side, other in ((one, two), (two, one))]
    weights = np.ones(int(keep.sum())) if weight is None else np.asarray(one[weight], dtype=np.float64)
    size = int(np.prod([axis.size for axis in axes], dtype=np.int64))
    _, source = np.unique(one["injection_id"], return_inverse=True)
    counts = one[value].dtype.kind == "b"
    estimate = _Counts if counts else _Means
    found = estimate(one[value], two[value], cells, weights, source, size, attrs["step"]).all(bootstrap, seed)
    dims = [axis.name for axis in axes]
    shape = tuple(axis.size for axis in axes)
    coordinates: dict[str, Any] = {}
    for axis in axes:
        coordinates |= axis.coordinates()
    data = {name: (dims, column.reshape(shape)) for name, column in found.items()}
    kind = "counts" if counts else "mean"
    return xr.Dataset(data, coordinates, attrs | {"value": value, "kind": kind, "bootstrap": bootstrap, "seed": seed})


class _Side:
    """One of the two tables."""

    def __init__(self, data: Any, what: str) -> None:
        import pyarrow.dataset as pads

        self.what = what
        if isinstance(data, Campaign):
            data = data.layout.root / "recovery"
        if isinstance(data, (str, os.PathLike)):
            path = Path(data)
            files = (
                [path]
                if path.is_file()
                else sorted(path.glob("tract=*/patch=*/*.parquet")) or sorted(path.glob("*.parquet"))
            )
            if not files:
                raise CatalogError(
                    "there is no recovery table", path=path, fix=f"Make it first: skygraft recover {path.parent}"
                )
            self.what = str(path)
            data = pads.dataset([str(file) for file in files], format="parquet")
        self._data = data
        self.names = list(data.schema.names)

    def read(self, names: Iterable[str]) -> dict[str, NDArray[Any]]:
        names = list(names)
        if missing := [name for name in names if name not in self.names]:
            near = difflib.get_close_matches(missing[0], self.names, 3)
            raise CatalogError(
                f"{self.what} has no column {missing[0]!r}; it has {', '.join(self.names)}",
                key=missing[0],
                fix=f"The nearest names are {', '.join(near)}" if near else "Name one of these",
            )
        table = self._data.select(names) if isinstance(self._data, pa.Table) else self._data.to_table(columns=names)
        return {name: _plain(table[name]) for name in names}


def _plain(column: pa.ChunkedArray) -> NDArray[Any]:
    import pyarrow.compute as pc

    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_boolean(column.type):
        column = pc.fill_null(column, False)
    return np.asarray(column.to_numpy())


def _tables(pair: Any, step: float | None) -> tuple[_Side, _Side, dict[str, Any]]:
    if isinstance(pair, (str, os.PathLike)):
        pair = PairedCampaign.open(pair)
    if isinstance(pair, PairedCampaign):
        what = pair.perturbation
        attrs: dict[str, Any] = {
            "perturbation": str(what),
            "parameter": what.parameter,
            "units": what.unit,
            "step": what.step,
        }
        pair = (pair.plus, pair.minus)
    else:
        attrs = {"parameter": "parameter", "step": step}
    if step is not None:
        attrs["step"] = float(step)
    if not attrs["step"] or not np.isfinite(attrs["step"]):
        raise ConfigError(
            "the difference of the parameter between the two tables is not known",
            key="step",
            fix="Give step=, such as 0.04 for ±0.02",
        )
    return _Side(pair[0], "the table of plus"), _Side(pair[1], "the table of minus"), attrs


def _common(one: dict[str, NDArray[Any]], two: dict[str, NDArray[Any]]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Rows of the same source and image."""
    n = len(one["image_id"])
    images = np.unique(np.concatenate([one["image_id"], two["image_id"]]).astype(str), return_inverse=True)[1]
    sources = np.unique(np.concatenate([one["injection_id"], two["injection_id"]]), return_inverse=True)[1]
    keys = images.astype(np.int64) * (int(sources.max(initial=0)) + 1) + sources
    _, first, second = np.intersect1d(keys[:n], keys[n:], return_indices=True)
    if not len(first):
        raise CatalogError(
            "the two tables have no source in common, by injection_id and image_id",
            fix="Give the recovery tables of the two campaigns of one pair",
        )
    return first, second


def _axis(name: str, how: Any, one: NDArray[Any], two: NDArray[Any]) -> _Axis:
    if one.dtype.kind not in "fiu":
        return _Axis(name, None, tuple(sorted(set(one.tolist()) | set(two.tolist()), key=str)))
    if isinstance(how, (int, np.integer, str)):
        both = np.concatenate([one, two]).astype(np.float64)
        both = both[np.isfinite(both)]
        if not both.size or both.min() == both.max():
            raise ConfigError(f"{name} has no range to divide", key=f"by.{name}", fix="Give the edges of its bins")
        number = _AUTO_BINS if how == "auto" else how
        if isinstance(number, str) or number < 1:
            raise ConfigError(f"{number!r} bins", key=f"by.{name}", fix="Give at least one")
        return _Axis(name, np.linspace(both.min(), both.max(), number + 1), ())
    edges = np.asarray(how, dtype=np.float64)
    if edges.ndim != 1 or edges.size < 2 or not np.all(np.diff(edges) > 0):
        raise ConfigError("edges of bins must increase", key=f"by.{name}", fix="Give at least two, in order")
    return _Axis(name, edges, ())


def _cells(axes: list[_Axis], side: dict[str, NDArray[Any]], other: dict[str, NDArray[Any]]) -> NDArray[np.int64]:
    """Cell of each row of one side; -1 for none."""
    cell = np.zeros(len(side["injection_id"]), dtype=np.int64)
    inside = np.ones(len(cell), dtype=bool)
    for axis in axes:
        column = side[axis.name]
        if axis.edges is not None and not _MEASURED.fullmatch(axis.name):
            column = 0.5 * (column.astype(np.float64) + other[axis.name])
        at = axis.index(column)
        inside = inside & (at >= 0)
        cell = cell * axis.size + at
    return np.where(inside, cell, -1)


class _Estimate:
    """Sums of both sides in cells, for any weights of the sources."""

    def __init__(
        self,
        one: NDArray[Any],
        two: NDArray[Any],
        cells: list[NDArray[np.int64]],
        weights: Array,
        source: NDArray[np.int64],
        size: int,
        step: float,
    ) -> None:
        self.one, self.two, self.cells = one, two, cells
        self.weights, self.source, self.size, self.step = weights, source, size, step
        self.n = int(source.max()) + 1

    def sums(self, side: int, times: Array | None) -> tuple[Array, ...]:
        """What the response is made of, of one side, each source so many times."""
        raise NotImplementedError

    def response(self, plus: tuple[Array, ...], minus: tuple[Array, ...]) -> dict[str, Array]:
        raise NotImplementedError

    def total(self, cell: NDArray[np.int64], content: Array) -> Array:
        inside = cell >= 0
        return np.bincount(cell[inside], weights=content[inside], minlength=self.size)

    def times(self, drawn: Array | None) -> Array:
        return self.weights if drawn is None else self.weights * drawn[self.source]

    def all(self, bootstrap: int, seed: int) -> dict[str, NDArray[Any]]:
        found = self.response(self.sums(0, None), self.sums(1, None))
        rng = np.random.default_rng(seed)
        together: dict[str, list[Array]] = {}
        apart = []
        for _ in range(bootstrap):
            first, second = (
                np.bincount(rng.integers(0, self.n, self.n), minlength=self.n).astype(float) for _ in range(2)
            )
            plus = self.sums(0, first)
            for name, column in self.response(plus, self.sums(1, first)).items():
                together.setdefault(name, []).append(column)
            apart.append(self.response(plus, self.sums(1, second))["response"])
        nothing = np.full(self.size, np.nan)
        enough = bootstrap > 1
        out: dict[str, NDArray[Any]] = dict(found)
        out["error"] = _scatter(together["response"]) if enough else nothing
        out["unpaired_error"] = _scatter(apart) if enough else nothing
        if "relative" in found:
            out["relative_error"] = _scatter(together["relative"]) if enough else nothing
        out["n_sources"] = self._n_sources()
        return out

    def counted(self) -> NDArray[np.int64]:
        """Cell of each row that counts; -1 for none."""
        return np.where(self.cells[0] >= 0, self.cells[0], self.cells[1])

    def _n_sources(self) -> NDArray[np.int64]:
        cell = self.counted()
        inside = cell >= 0
        pairs = np.unique(np.stack([cell[inside], self.source[inside]]), axis=1)
        return np.bincount(pairs[0], minlength=self.size)


def _scatter(draws: list[Array]) -> Array:
    return np.asarray(np.std(np.array(draws), axis=0, ddof=1))


class _Counts(_Estimate):
    def sums(self, side: int, times: Array | None) -> tuple[Array, ...]:
        content = (self.one, self.two)[side].astype(float) * self.times(times)
        return (self.total(self.cells[side], content),)

    def response(self, plus: tuple[Array, ...], minus: tuple[Array, ...]) -> dict[str, Array]:
        count = 0.5 * (plus[0] + minus[0])
        slope = (plus[0] - minus[0]) / self.step
        with np.errstate(invalid="ignore", divide="ignore"):
            return {"response": slope, "count": count, "relative": slope / count}


class _Means(_Estimate):
    def counted(self) -> NDArray[np.int64]:
        both = np.isfinite(self.one.astype(float)) & np.isfinite(self.two.astype(float))
        # Each source is in one cell, so that its own difference is what counts.
        return np.where(both, self.cells[0], -1)

    def sums(self, side: int, times: Array | None) -> tuple[Array, ...]:
        cell = self.counted()
        both = cell >= 0
        weights = self.times(times)
        value = np.where(both, (self.one, self.two)[side], 0.0) * weights
        return self.total(cell, value), self.total(cell, weights)

    def response(self, plus: tuple[Array, ...], minus: tuple[Array, ...]) -> dict[str, Array]:
        with np.errstate(invalid="ignore", divide="ignore"):
            one, two = plus[0] / plus[1], minus[0] / minus[1]
            return {"response": (one - two) / self.step, "mean": 0.5 * (one + two)}
