"""Order rows by whole numbers, and group values that repeat: what partitioning does to millions of rows at a time."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = ["Kinds", "StoredIntegers", "ahead", "integer_order"]

_DISTINCT = 32
"""Up to so many distinct texts are found by comparison, each time with all rows; more by sorting."""


class Kinds:
    """Texts of which few are distinct, such as types of sources, as the numbers of the distinct ones.

    Comparing numbers takes a small part of the time that comparing texts does.

    Parameters
    ----------
    texts : ndarray of str, shape (N,)

    Attributes
    ----------
    names : list of str
        The distinct texts.
    codes : ndarray of int, shape (N,)
        Index of each row's text in `names`.
    """

    def __init__(self, texts: NDArray[np.str_]) -> None:
        self.names: list[str] = []
        self.codes: NDArray[np.intp] = np.full(texts.size, -1, dtype=np.intp)
        left = texts.size
        while left and len(self.names) < _DISTINCT:
            same = texts == texts[np.argmax(self.codes < 0)]
            self.codes[same] = len(self.names)
            self.names.append(str(texts[np.argmax(same)]))
            left -= int(np.count_nonzero(same))
        if left:
            names, codes = np.unique(texts, return_inverse=True)
            self.names, self.codes = names.tolist(), codes.reshape(-1)

    def any(self, wanted: Collection[str]) -> bool:
        """Return whether a row has one of the wanted texts."""
        return any(name in wanted for name in self.names)

    def among(self, wanted: Collection[str]) -> NDArray[np.bool_]:
        """Return which rows have one of the wanted texts, as booleans, shape (N,)."""
        chosen = [name in wanted for name in self.names]
        if all(chosen) or not any(chosen):
            return np.full(self.codes.size, bool(chosen) and chosen[0])
        return np.array(chosen)[self.codes]


def integer_order(*keys: NDArray[np.int64]) -> NDArray[np.intp]:
    """Return the stable order of rows by several columns, the first of which counts most.

    It is that of `numpy.lexsort`, ten times as fast where the ranges of the columns fit into 63 bits together.

    Parameters
    ----------
    *keys : ndarray of int64, shape (N,)

    Returns
    -------
    ndarray of int, shape (N,)
    """
    if not keys[0].size:
        return np.empty(0, dtype=np.intp)
    total, joint = 1, np.zeros(keys[0].size, dtype=np.int64)
    for key in keys:
        low, high = int(key.min()), int(key.max())
        total *= high - low + 1
        if total >= 2**63:
            return np.lexsort(keys[::-1])
        joint *= high - low + 1
        joint += key - low
    # The order of distinct numbers does not depend on the way of sorting; the fastest way is not stable.
    order = np.argsort(joint)
    joined = joint[order]
    return np.argsort(joint, kind="stable") if np.any(joined[1:] == joined[:-1]) else order


class StoredIntegers:
    """Whole numbers in a temporary file, so that those of a large catalogue are in memory once, and only when needed.

    Parameters
    ----------
    path : Path
        The file, which is created.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._n = 0

    def __len__(self) -> int:
        return self._n

    def append(self, numbers: NDArray[np.int64]) -> None:
        """Add numbers, shape (N,), at the end."""
        with self._path.open("ab") as file:
            np.ascontiguousarray(numbers, dtype=np.int64).tofile(file)
        self._n += numbers.size

    def read(self) -> NDArray[np.int64]:
        """Return all numbers, in the order in which they were added."""
        return np.fromfile(self._path, dtype=np.int64) if self._n else np.empty(0, dtype=np.int64)


def ahead[T](items: Iterable[T]) -> Iterator[T]:
    """Iterate over items of which the next one is made in another thread while one is used.

    Parameters
    ----------
    items : iterable
        Errors are raised where the item is asked for.

    Yields
    ------
    object
    """
    iterator, end = iter(items), object()
    with ThreadPoolExecutor(1, thread_name_prefix="skygraft-ahead") as pool:
        coming = pool.submit(next, iterator, end)
        while (item := coming.result()) is not end:
            coming = pool.submit(next, iterator, end)
            yield item  # type: ignore[misc]
