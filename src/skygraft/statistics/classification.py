"""Purity of detections, and how often classes are confused."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import xarray as xr
from numpy.typing import NDArray

from skygraft.errors import ConfigError
from skygraft.statistics.cells import By, Cells, is_text, make_cells
from skygraft.statistics.completeness import completeness
from skygraft.statistics.counts import read_weights, weights_of
from skygraft.statistics.intervals import wilson
from skygraft.statistics.rows import Rows, Where, bools, floats, open_rows, texts

__all__ = ["confusion", "purity"]


def purity(data: Any, by: By | None = None, *, genuine: str = "genuine", **options: Any) -> xr.Dataset:
    """The fraction of detections that belong to a source, in bins of any columns, with its errors.

    Parameters
    ----------
    data : path-like, table or mapping
        A row for each detection, in any form that `completeness` takes.
    by : str, sequence of str, mapping or None
        As in `completeness`.
    genuine : str
        Column that says whether a detection belongs to a source.
    **options
        As in `completeness`.

    Returns
    -------
    xarray.Dataset
        As of `completeness`, with ``n_genuine`` and ``purity`` for ``n_found`` and ``completeness``.
    """
    out = completeness(data, by, found=genuine, **options)
    out = out.rename({"n_found": "n_genuine", "completeness": "purity"})
    out["n"].attrs["long_name"], out["n_genuine"].attrs["long_name"] = "detections", "of these, of a source"
    out["purity"].attrs["long_name"] = "fraction that belongs to a source"
    out.attrs["title"] = "purity"
    return out


def confusion(
    data: Any,
    true: str = "source_type",
    measured: str = "class_star_out",
    by: By | None = None,
    *,
    classes: Mapping[str, Sequence[Any]] | None = None,
    threshold: float = 0.5,
    found: str | None = "found",
    where: Where = None,
    usable: str | None = "usable",
    weight: str | None = "weight",
    interval: float = 0.6827,
) -> xr.Dataset:
    """How often fakes of each class are classified as each: completeness and purity of star/galaxy separation.

    Parameters
    ----------
    data : path-like, table or mapping
        As in `skygraft.statistics.completeness`.
    true, measured : str
        Columns of the injected type and of the classification: a number from 0 to 1 that says how much like a star it
        is, a column of true (star) and false, or text with the names of the classes.
    by : str, sequence of str, mapping or None
        As in `skygraft.statistics.completeness`.
    classes : mapping of str to sequence, optional
        Class to the values of `true` that belong to it; by default ``star`` to ``Star`` and ``galaxy`` to all others.
    threshold : float
        A number above it is a star.
    found : str or None
        Column that says whether the fake was found; only those count. None for all rows.
    where, usable, weight, interval
        As in `skygraft.statistics.completeness`.

    Returns
    -------
    xarray.Dataset
        Over the columns of `by`, ``true_class`` and ``assigned_class``: ``n`` (rows), ``fraction`` of the true class
        with ``lower`` and ``upper`` (Wilson 1927). Over `by` and ``assigned_class``: ``completeness`` (the fraction of
        the class that is assigned to it) and ``purity`` (the fraction of what is assigned to it that belongs to it),
        with ends of their intervals. Purity is that of the mix of classes that was injected, or that weights make of
        it. ``n_unclassified`` rows have no classification.

    Raises
    ------
    CatalogError
        If a column is missing (with the nearest names), or cannot be used.
    ConfigError
        If an argument is not allowed.
    """
    rows = open_rows(data, where=where, usable=usable)
    rows.require([true, measured, *([found] if found else [])])
    weight = weights_of(rows, weight)
    names = list(classes) if classes else ["star", "galaxy"]
    if len(names) < 2 or len(set(names)) < len(names):
        raise ConfigError(f"the classes are {names}", key="classes", fix="Give two or more with different names")
    cells = make_cells(rows, by)
    k = len(names)
    n = np.zeros(cells.size * k * k, np.int64)
    sums, squares = np.zeros(n.size), np.zeros(n.size)
    unclassified = 0
    for batch in rows.batches([*cells.columns, true, measured, found, weight]):
        cell = cells.index(batch)
        first, second = _true_class(batch, true, names, classes), _assigned(rows, batch, measured, names, threshold)
        good = (cell >= 0) & (first >= 0)
        if found is not None:
            good &= bools(batch, found)
        unclassified += int((good & (second < 0)).sum())
        good &= second >= 0
        values = read_weights(batch, weight)
        w = np.ones(int(good.sum())) if values is None else values[good]
        key = (cell[good] * k + first[good]) * k + second[good]
        n += np.bincount(key, minlength=n.size)
        sums += np.bincount(key, w, minlength=n.size)
        squares += np.bincount(key, w**2, minlength=n.size)
    return _confusion(rows, cells, names, n, sums, squares, interval, {
        "title": f"confusion of {true} and {measured}", "n_unclassified": unclassified, "threshold": threshold,
        "weights": weight or "none", "interval": interval,
    })  # fmt: skip


def _true_class(
    batch: pa.RecordBatch, name: str, names: list[str], classes: Mapping[str, Sequence[Any]] | None
) -> NDArray[np.int64]:
    if classes is None:
        return _by_text(batch, name, lambda value: 0 if value.lower() in ("star", "deltafunction", "point") else 1)
    home = {str(value): i for i, one in enumerate(names) for value in classes[one]}
    return _by_text(batch, name, lambda value: home.get(value, -1))


def _by_text(batch: pa.RecordBatch, name: str, number: Callable[[str], int]) -> NDArray[np.int64]:
    """A number for each row by its text; -1 where it has none."""
    kinds = texts(batch, name).dictionary_encode()
    of = [number(value) for value in kinds.dictionary.to_pylist()]
    index = kinds.indices.fill_null(len(of)).to_numpy(zero_copy_only=False)
    return np.asarray(np.array([*of, -1], np.int64)[index])


def _assigned(rows: Rows, batch: pa.RecordBatch, name: str, names: list[str], threshold: float) -> NDArray[np.int64]:
    if is_text(rows.type_of(name)):
        return _by_text(batch, name, lambda value: names.index(value) if value in names else -1)
    if len(names) != 2:
        raise ConfigError(
            f"a number cannot tell {len(names)} classes apart",
            key=name,
            fix="Give a column with the names of the classes",
        )
    values = floats(batch, name)
    return np.where(np.isfinite(values), np.where(values > threshold, 0, 1), -1)


def _confusion(
    rows: Rows, cells: Cells, names: list[str], n: NDArray[np.int64], sums: NDArray[np.float64],
    squares: NDArray[np.float64], interval: float, attrs: dict[str, Any],
) -> xr.Dataset:  # fmt: skip
    k = len(names)
    shape = (*cells.shape, k, k)
    number, total, square = n.reshape(shape), sums.reshape(shape), squares.reshape(shape)
    dims = (*cells.dims, "true_class", "assigned_class")
    out: dict[str, Any] = {"n": (dims, number, {"long_name": "fakes and images"})}
    with np.errstate(divide="ignore", invalid="ignore"):
        of_true, of_assigned = total.sum(-1, keepdims=True), total.sum(-2, keepdims=True)
        fraction = total / of_true
        lower, upper = wilson(fraction, of_true**2 / square.sum(-1, keepdims=True), interval)
        share = total / of_assigned
        low, high = wilson(share, of_assigned**2 / square.sum(-2, keepdims=True), interval)
    out["fraction"] = (dims, fraction, {"long_name": "fraction of the true class"})
    out["lower"], out["upper"] = (dims, lower), (dims, upper)
    own = (*cells.dims, "assigned_class")
    diagonal = np.arange(k)
    for name, values, text in (
        ("completeness", (fraction, lower, upper), "fraction of the class that is assigned to it"),
        ("purity", (share, low, high), "fraction of what is assigned to the class that belongs to it"),
    ):
        for part, array in zip(("", "_lower", "_upper"), values, strict=True):
            out[name + part] = (own, array[..., diagonal, diagonal], {"long_name": text})
    coordinates: dict[str, Any] = {"true_class": names, "assigned_class": names}
    for axis in cells.axes:
        coordinates |= axis.coordinates()
    return xr.Dataset(out, coords=coordinates, attrs=attrs | rows.attrs())
