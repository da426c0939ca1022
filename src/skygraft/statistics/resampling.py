"""Groups of rows that are not independent (visits of one source, images of one patch), and bootstrap over them.

Sources are dealt by a hash of their name into a bounded number of groups: counts per cell and group need no list of
sources, however many there are. Groups are drawn with Poisson weights (Hanley & MacGibbon 2006, Comput. Methods
Programs Biomed. 83, 57), which is a bootstrap of sources wherever sources do not share a group, and its variance is
that of the bootstrap of sources, on average over hashes, where they do (random groups: Wolter 2007, Introduction to
Variance Estimation, chapter 2).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from skygraft.statistics.rows import texts

__all__ = ["group_index", "group_number", "poisson_weights", "replicate_scatter", "row_hash"]

_MOST_GROUPS, _FEWEST_GROUPS = 2048, 32
_MOST_CELLS = 1 << 23

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's finaliser (Steele, Lea & Flood 2014): every bit of the result depends on every bit of x."""
    with np.errstate(over="ignore"):
        x = x + _GOLDEN
        x = (x ^ (x >> np.uint64(30))) * _MIX_1
        x = (x ^ (x >> np.uint64(27))) * _MIX_2
        return np.asarray(x ^ (x >> np.uint64(31)))


def _bits(batch: pa.RecordBatch, name: str) -> NDArray[np.uint64]:
    column = batch.column(name)
    kind = column.type
    if pa.types.is_integer(kind):
        # Null is a source of its own name, 2^63 - 1.
        values = column.cast(pa.int64(), safe=False).fill_null(2**63 - 1)
        return np.asarray(values.to_numpy(zero_copy_only=False)).view(np.uint64)
    import xxhash

    names = texts(batch, name).fill_null("").dictionary_encode()
    each = [xxhash.xxh3_64_intdigest(text.encode()) for text in names.dictionary.to_pylist()]
    return np.asarray(np.array(each, dtype=np.uint64)[names.indices.to_numpy(zero_copy_only=False)])


def row_hash(batch: pa.RecordBatch, names: Sequence[str], seed: int = 0) -> NDArray[np.uint64]:
    """A number of 64 bits for each row that depends on the values of columns, and on nothing else.

    Parameters
    ----------
    batch : pyarrow.RecordBatch
    names : sequence of str
        Columns.
    seed : int
        Another seed gives other numbers.

    Returns
    -------
    ndarray of uint64, shape (n,)
    """
    out = np.full(batch.num_rows, np.uint64(seed % 2**64))
    for name in names:
        out = _mix(out ^ _mix(_bits(batch, name)))
    return out


def group_number(n_cells: int) -> int:
    """Number of groups for which counts per cell and group stay within some 100 MB: 32 to 2048."""
    return int(min(_MOST_GROUPS, max(_FEWEST_GROUPS, 1 << int(np.log2(max(1, _MOST_CELLS // max(1, n_cells)))))))


def group_index(batch: pa.RecordBatch, names: Sequence[str], n_groups: int, seed: int = 0) -> NDArray[np.int64]:
    """The group that each row belongs to, 0 to n_groups - 1: rows with the same values share one.

    Parameters
    ----------
    batch : pyarrow.RecordBatch
    names : sequence of str
        Columns.
    n_groups : int
        A power of two.
    seed : int
        Another seed deals sources into other groups.

    Returns
    -------
    ndarray of int, shape (n,)
    """
    return (row_hash(batch, names, seed) % np.uint64(n_groups)).astype(np.int64)


@functools.lru_cache(maxsize=4)
def poisson_weights(n_replicates: int, n_groups: int, seed: int) -> NDArray[np.float64]:
    """How often each group is drawn in each replicate: Poisson numbers of mean 1, from a counter-based generator.

    Returns
    -------
    ndarray, shape (n_replicates, n_groups)
        Not to be written to: those who ask for the same share it.
    """
    generator = np.random.Generator(np.random.Philox(key=[seed % 2**64, 0]))
    drawn = generator.poisson(1.0, (n_replicates, n_groups)).astype(np.float64)
    drawn.flags.writeable = False
    return drawn


def replicate_scatter(
    values: NDArray[np.float64], n_groups: NDArray[np.int64] | int, axis: int = 0
) -> NDArray[np.float64]:
    """Standard deviation over replicates, corrected for few groups; NaN where there are fewer than two.

    Parameters
    ----------
    values : ndarray
        Of each replicate; NaN in those that do not have any.
    n_groups : ndarray or int
        Number of groups that hold rows.
    axis : int
        That of the replicates.

    Returns
    -------
    ndarray
    """
    good = np.isfinite(values)
    n = good.sum(axis)
    mean = np.where(good, values, 0.0).sum(axis) / np.maximum(n, 1)
    square = np.where(good, (values - np.expand_dims(mean, axis)) ** 2, 0.0).sum(axis) / np.maximum(n - 1, 1)
    m = np.asarray(n_groups)
    # m sources vary by (m - 1) / m too little about their own mean.
    scatter = np.sqrt(square * m / np.maximum(m - 1, 1))
    return np.where((m >= 2) & (n >= 2), scatter, np.nan)
