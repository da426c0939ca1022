"""Medians of any number of values in cells: exact while they fit into memory, then from fine histograms."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

__all__ = ["EXACT_ROWS", "MAD_TO_SIGMA", "Sample", "quantile", "robust", "weighted_median"]

EXACT_ROWS = 10_000_000
"""Values up to this number are held; beyond it they are rounded to `STEP` and counted."""
STEP = 1e-4
"""Of asinh(value): values near 0 are rounded to 1e-4, large ones to 1e-4 of themselves."""
MAD_TO_SIGMA = 1.482602218505602
"""Standard deviation of a normal distribution over its median absolute deviation."""

type Floats = NDArray[np.float64]

_BUFFER_ROWS = 4_000_000


@dataclass
class Sample:
    """Values and weights in cells; beyond `exact_rows` of them, they are rounded."""

    exact_rows: int = EXACT_ROWS
    rounded: bool = False
    _parts: list[tuple[NDArray[np.int64], Floats, Floats]] = field(default_factory=list)
    _held: int = 0

    def add(self, cell: NDArray[np.int64], values: Floats, weights: Floats) -> None:
        """Add values with their cells and weights."""
        if self.rounded:
            values = rounded(values)
        self._parts.append((cell, values, weights))
        self._held += cell.size
        if not self.rounded and self._held > self.exact_rows:
            self.rounded = True
            self._parts = [(c, rounded(v), w) for c, v, w in self._parts]
            self._merge()
        elif self.rounded and sum(part[0].size for part in self._parts[1:]) > _BUFFER_ROWS:
            self._merge()

    def _merge(self) -> None:
        cell, values, weights = self._all(sums_only=True)
        if not cell.size:
            return
        first = np.nonzero((np.diff(cell, prepend=-1) != 0) | (np.diff(values, prepend=np.nan) != 0))[0]
        self._parts = [(cell[first], values[first], np.add.reduceat(weights, first))]

    def _all(self, *, sums_only: bool = False) -> tuple[NDArray[np.int64], Floats, Floats]:
        """All values in the order of cells, values and weights; of weights where their sums need one."""
        if not any(part[0].size for part in self._parts):
            return np.zeros(0, np.int64), np.zeros(0), np.zeros(0)
        cell, values, weights = (np.concatenate(each) for each in zip(*self._parts, strict=True))
        # Sums of whole numbers are the same in any order.
        if np.ptp(weights) == 0 or (sums_only and np.array_equal(weights, np.rint(weights))):
            order = np.argsort(values)
            # Few cells are sorted by counting.
            key = cell.astype(np.uint16) if cell.min() >= 0 and cell.max() < 2**16 else cell
            order = order[np.argsort(key[order], kind="stable")]
        else:
            order = np.lexsort((weights, values, cell))
        return cell[order], values[order], weights[order]

    def by_cell(self) -> Iterator[tuple[int, Floats, Floats]]:
        """Cells that have values, with their values in order, and weights."""
        if self.rounded:
            self._merge()
        cell, values, weights = self._all()
        if not cell.size:
            return
        first = np.nonzero(np.diff(cell, prepend=-1))[0]
        for start, stop in zip(first, np.append(first[1:], cell.size), strict=True):
            yield int(cell[start]), values[start:stop], weights[start:stop]


def rounded(values: Floats) -> Floats:
    """Values to 1e-4, or to 1e-4 of themselves where they are large."""
    return np.asarray(np.sinh(STEP * np.rint(np.arcsinh(values) / STEP)))


def weighted_median(values: Floats, weights: Floats) -> float:
    """The median of sorted values with positive weights; between two that share the middle, their mean."""
    total = np.cumsum(weights)
    half = 0.5 * total[-1]
    i = int(np.searchsorted(total, half, side="left"))
    if total[i] == half and i + 1 < values.size:
        return float(0.5 * (values[i] + values[i + 1]))
    return float(values[i])


def quantile(values: Floats, weights: Floats, fraction: float) -> float:
    """A quantile of sorted values, linear between the middles of their weights."""
    total = np.cumsum(weights)
    return float(np.interp(fraction * total[-1], total - 0.5 * weights, values))


def robust(values: Floats, weights: Floats) -> tuple[float, float]:
    """Median, and 1.4826 times the median absolute deviation, of sorted values."""
    middle = weighted_median(values, weights)
    away = np.abs(values - middle)
    order = np.argsort(away, kind="stable")
    return middle, MAD_TO_SIGMA * weighted_median(away[order], weights[order])
