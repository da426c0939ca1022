"""Counts of the rows of large tables, read in batches: how many by band, type and magnitude, and examples of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Edges",
    "Sample",
    "TruthCounts",
    "count_truth",
    "grouped",
    "magnitude_edges",
    "numbers",
    "scattered",
    "text_column",
    "total",
]

BATCH_ROWS = 100_000
_EXAMPLES = 2500
"""Places on the sky that are drawn one by one."""
_HASH = np.uint64(0x9E3779B97F4A7C15)
"""Fibonacci hashing (Knuth 1998, The Art of Computer Programming 3, 6.4)."""
_WIDTHS = (0.1, 0.2, 0.25, 0.5, 1.0)

type Edges = NDArray[np.float64]


@dataclass
class Sample:
    """Places of some rows: those whose hash is smallest, whatever the order of the table."""

    size: int = _EXAMPLES
    ra: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    dec: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    kind: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    n: int = 0
    _hash: NDArray[np.uint64] = field(default_factory=lambda: np.zeros(0, np.uint64))

    def add(
        self, ra: NDArray[np.float64], dec: NDArray[np.float64], ids: NDArray[np.int64], kind: NDArray[np.int64]
    ) -> None:
        """Add rows: places in degrees, what they are chosen by, and a number for each that is kept with it."""
        good = np.isfinite(ra) & np.isfinite(dec)
        self.n += int(good.sum())
        values = [np.concatenate([old, new[good]]) for old, new in ((self.ra, ra), (self.dec, dec), (self.kind, kind))]
        hashed = np.concatenate([self._hash, scattered(ids[good])])
        # Equal ids, of one source on several images, are put in order by the rest.
        order = np.lexsort((*values, hashed))[: self.size]
        self.ra, self.dec, self.kind = (value[order] for value in values)
        self._hash = hashed[order]


def scattered(ids: NDArray[Any]) -> NDArray[np.uint64]:
    """Return numbers that follow no pattern and depend on the ids alone, to choose rows by."""
    mixed = ids.astype(np.int64).view(np.uint64) * _HASH
    return (mixed ^ (mixed >> np.uint64(29))) * _HASH


@dataclass
class TruthCounts:
    """What the tables of truth hold, by (band, type)."""

    rows: Counter[tuple[str, str]] = field(default_factory=Counter)
    drawn: Counter[tuple[str, str]] = field(default_factory=Counter)
    n_primary: int = 0
    low: dict[tuple[str, str], float] = field(default_factory=dict)  # brightest magnitude drawn
    high: dict[tuple[str, str], float] = field(default_factory=dict)
    places: Sample = field(default_factory=Sample)  # of drawn ones; the kind is 0


def count_truth(batches: Iterable[Any]) -> TruthCounts:
    """Count the rows of truth.

    Parameters
    ----------
    batches : iterable of pyarrow.RecordBatch
        With columns ``injection_id``, ``ra``, ``dec``, ``band``, ``source_type``, ``mag``, ``stamp_size`` and
        ``is_primary``.
    """
    found = TruthCounts()
    for batch in batches:
        mag, size = numbers(batch["mag"]), numbers(batch["stamp_size"])
        drawn = size > 0
        found.n_primary += int(np.count_nonzero(numbers(batch["is_primary"]) > 0))
        for key, rows in grouped(batch, ("band", "source_type")):
            some = rows[drawn[rows]]
            found.rows[key] += len(rows)
            found.drawn[key] += len(some)
            if len(values := mag[some][np.isfinite(mag[some])]):
                found.low[key] = min(found.low.get(key, np.inf), float(values.min()))
                found.high[key] = max(found.high.get(key, -np.inf), float(values.max()))
        ids = np.asarray(batch["injection_id"])[drawn]
        place = (numbers(batch["ra"])[drawn], numbers(batch["dec"])[drawn])
        found.places.add(*place, ids, np.zeros(len(ids), np.int64))
    return found


def numbers(column: Any) -> NDArray[np.float64]:
    """Return a column of Arrow as floats; what is missing is NaN."""
    import pyarrow as pa

    return np.asarray(column.cast(pa.float64()).to_numpy(zero_copy_only=False), dtype=np.float64)


def text_column(column: Any) -> tuple[NDArray[np.int64], list[str]]:
    """Return a column of text as codes, and the texts that they stand for; what is missing is empty text."""
    import pyarrow as pa

    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode(null_encoding="encode")
    names = [str(value or "") for value in column.dictionary.to_pylist()]
    codes = column.indices.to_numpy(zero_copy_only=False)
    if column.indices.null_count:
        codes = np.where(np.isnan(codes), len(names), codes)
        names.append("")
    return codes.astype(np.int64), names


def grouped(batch: Any, columns: Sequence[str]) -> list[tuple[tuple[str, str], NDArray[np.intp]]]:
    """Return the rows of a batch by the values of two columns of text."""
    (first, names), (second, others) = (text_column(batch[name]) for name in columns)
    code = first * len(others) + second
    order = np.argsort(code, kind="stable")
    values, starts = np.unique(code[order], return_index=True)
    parts = np.split(order, starts[1:])
    return [((names[v // len(others)], others[v % len(others)]), part) for v, part in zip(values, parts, strict=True)]


def magnitude_edges(low: float, high: float, n: int, *, per_bin: int = 40, most: int = 40) -> Edges:
    """Return edges of bins, mag, that are multiples of their width and hold some `per_bin` of `n` values on average.

    There are no more than `most` bins.
    """
    span = max(high - low, 1e-6)
    width = next((w for w in _WIDTHS if span / w <= min(most, max(4.0, n / per_bin))), _WIDTHS[-1])
    if span / width > most:
        width = float(np.ceil(span / most))
    start, end = np.floor(low / width + 1e-9), np.ceil(high / width - 1e-9)
    return np.asarray(np.arange(start, max(end, start + 1) + 1) * width, dtype=np.float64)


def total(counts: Mapping[tuple[str, str], int], *, band: str | None = None, kind: str | None = None) -> int:
    """Return the sum of counts by (band, type) of one band or type, or of all."""
    return sum(n for (b, k), n in counts.items() if band in (None, b) and kind in (None, k))
