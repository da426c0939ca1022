"""Counts of rows in cells, by groups of rows that are not independent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from skygraft.errors import CatalogError
from skygraft.statistics.cells import Cells
from skygraft.statistics.resampling import group_index, group_number, poisson_weights, replicate_scatter
from skygraft.statistics.rows import Rows, bools, floats

__all__ = ["Counts", "Group", "count", "groups_of", "weights_of"]

type Group = str | Sequence[str] | None


@dataclass
class Counts:
    """Sums over the rows of each cell."""

    n: NDArray[np.int64]  # rows
    n_found: NDArray[np.int64]  # those of them that are true
    weight: NDArray[np.float64]  # sum of the weights
    found_weight: NDArray[np.float64]  # of those of the found
    square_weight: NDArray[np.float64]  # of the squares of the weights
    by_group: dict[str, NDArray[np.float64]]
    """For each kind of group (source, patch): weights, and weights of the found; of shape (2, cells, groups)."""
    n_outside: int  # rows that are in no cell
    weighted: bool  # False where every weight is 1, so that all sums are whole numbers

    @property
    def fraction(self) -> NDArray[np.float64]:
        """Weighted fraction of the found; NaN in empty cells."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(self.weight > 0, self.found_weight / self.weight, np.nan)

    @property
    def n_effective(self) -> NDArray[np.float64]:
        """Number of equally weighted rows with the same variance (Kish 1965, Survey Sampling, section 11.7)."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(self.square_weight > 0, self.weight**2 / self.square_weight, 0.0)

    def replicates(self, group: str, bootstrap: int, seed: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Weights, and weights of the found, of each cell in each bootstrap replicate: shape (bootstrap, cells)."""
        sums = self.by_group[group]
        draws = poisson_weights(bootstrap, sums.shape[-1], seed)
        return draws @ sums[0].T, draws @ sums[1].T

    def n_groups(self, group: str) -> NDArray[np.int64]:
        """Number of groups with rows in each cell."""
        return np.asarray((self.by_group[group][0] > 0).sum(-1), dtype=np.int64)

    def error(self, group: str, bootstrap: int, seed: int) -> NDArray[np.float64]:
        """Standard error of the fraction by bootstrap of the groups; NaN with fewer than two groups."""
        if bootstrap < 2:
            return np.full(self.n.shape, np.nan)
        total, found = self.replicates(group, bootstrap, seed)
        with np.errstate(invalid="ignore", divide="ignore"):
            values = np.where(total > 0, found / total, np.nan)
        return replicate_scatter(values, self.n_groups(group))

    def design_effect(self, group: str) -> float:
        """Variance of fractions over that of independent rows, over all cells (Kish 1965, section 8.2).

        For m visits of each source whose outcomes have the correlation rho, it is 1 + (m - 1) rho. NaN where nothing
        varies, or no cell has two groups.
        """
        total, found = self.by_group[group]
        p = np.nan_to_num(self.fraction)
        m = self.n_groups(group)
        good = (m >= 2) & (p > 0) & (p < 1)
        if not good.any():
            return float("nan")
        residual = (found[good] - p[good, None] * total[good]) ** 2
        clustered = residual.sum(-1) * m[good] / (m[good] - 1)
        independent = self.square_weight[good] * p[good] * (1.0 - p[good])
        return float(clustered.sum() / independent.sum())


def groups_of(rows: Rows, source: Group, patch: Group) -> dict[str, list[str]]:
    """Columns of each kind of group. Those named by default are left out where the table does not have them."""
    out = {}
    for kind, given, default in (("source", source, ["injection_id"]), ("patch", patch, ["tract", "patch"])):
        if given is None:
            continue
        names = [given] if isinstance(given, str) else list(given)
        if names == default and not all(rows.has(name) for name in names):
            continue
        rows.require(names)
        out[kind] = names
    return out


def weights_of(rows: Rows, weight: str | None) -> str | None:
    """The column of weights; None where there is none and the default was asked for."""
    if weight is None or (weight == "weight" and not rows.has(weight)):
        return None
    rows.require([weight])
    return weight


def read_weights(batch: pa.RecordBatch, name: str | None) -> NDArray[np.float64] | None:
    """The weights of rows; None where all are 1. One that is negative or not a number is a `CatalogError`."""
    if name is None:
        return None
    values = floats(batch, name)
    if not (np.isfinite(values) & (values >= 0)).all():
        bad = values[~(np.isfinite(values) & (values >= 0))][0]
        raise CatalogError(
            f"a weight is {bad:g}, where only finite numbers of 0 and more are allowed",
            key=name,
            fix="Correct the catalogue's weights, or leave such rows out by `where`",
        )
    return None if (values == 1.0).all() else values


def _add(sums: NDArray[np.float64], index: NDArray[np.int64], values: NDArray[np.float64]) -> None:
    if sums.size > 4 * index.size:
        np.add.at(sums, index, values)
    else:
        sums += np.bincount(index, values, minlength=sums.size)


def count(
    rows: Rows,
    cells: Cells,
    *,
    found: str | Callable[[pa.RecordBatch], NDArray[np.bool_]] = "found",
    columns: Sequence[str] = (),
    weight: str | None = None,
    groups: dict[str, list[str]] | None = None,
    seed: int = 0,
) -> Counts:
    """Count rows, and those that were found, in cells and by groups, in one pass.

    Parameters
    ----------
    rows : Rows
    cells : Cells
    found : str or callable
        Column of true and false, or a function of a batch that gives them.
    columns : sequence of str
        What that function reads.
    weight : str, optional
        Column of weights.
    groups : dict of str to list of str, optional
        Kinds of groups and the columns that tell them apart.
    seed : int
        Of the hash that deals out groups.

    Returns
    -------
    Counts
    """
    groups = groups or {}
    size, n_groups = cells.size, group_number(cells.size)
    n, n_found = np.zeros(size, np.int64), np.zeros(size, np.int64)
    sums = np.zeros((3, size))
    by_group = {kind: np.zeros((2, size * n_groups)) for kind in groups}
    n_outside, weighted = 0, False
    needed = [found, *columns] if isinstance(found, str) else list(columns)
    names = [*cells.columns, *needed, weight, *(name for each in groups.values() for name in each)]
    for batch in rows.batches(names):
        cell = cells.index(batch)
        inside = cell >= 0
        n_outside += int((~inside).sum())
        good = bools(batch, found) if isinstance(found, str) else found(batch)
        values = read_weights(batch, weight)
        weighted |= values is not None
        cell, good = cell[inside], good[inside]
        w = np.ones(cell.size) if values is None else values[inside]
        n += np.bincount(cell, minlength=size)
        n_found += np.bincount(cell[good], minlength=size)
        sums[0] += np.bincount(cell, w, minlength=size)
        sums[1] += np.bincount(cell[good], w[good], minlength=size)
        sums[2] += np.bincount(cell, w**2, minlength=size)
        for kind, columns_of in groups.items():
            key = cell * n_groups + group_index(batch, columns_of, n_groups, seed)[inside]
            _add(by_group[kind][0], key, w)
            _add(by_group[kind][1], key[good], w[good])
    shaped = {kind: values.reshape(2, size, n_groups) for kind, values in by_group.items()}
    return Counts(n, n_found, sums[0], sums[1], sums[2], shaped, n_outside, weighted)
