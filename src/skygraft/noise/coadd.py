"""Information that a coadd carries about the correlation of its noise."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["CellGrid", "CoaddNoise"]


@dataclass(frozen=True)
class CellGrid:
    """Grid of equal rectangles that cover an image.

    Parameters
    ----------
    start : (int, int)
        Parent coordinates (x, y) of the first pixel of the first cell.
    size : (int, int)
        Pixels of a cell along x and y.
    """

    start: tuple[int, int]
    size: tuple[int, int]

    def tiles(self, xy0: tuple[int, int], shape: tuple[int, int]) -> Iterator[tuple[tuple[int, int], slice, slice]]:
        """Yield each cell (i, j), in y and x, that overlaps an image, with the rows and columns of the overlap."""
        bounds = []
        for first, size, n, begin in zip(self.start[::-1], self.size[::-1], shape, xy0[::-1], strict=True):
            cells = range((begin - first) // size, (begin + n - 1 - first) // size + 1)
            edges = [(k, max(0, first + k * size - begin), min(n, first + (k + 1) * size - begin)) for k in cells]
            bounds.append(edges)
        for i, low_y, high_y in bounds[0]:
            for j, low_x, high_x in bounds[1]:
                yield (i, j), slice(low_y, high_y), slice(low_x, high_x)


@dataclass(frozen=True, eq=False)
class CoaddNoise:
    """Noise realizations and cells of a coadd, from which the correlation of its noise is measured.

    Parameters
    ----------
    realizations : tuple of ndarray, shape (ny, nx)
        Images of pure noise, coadded as the coadd was; empty if there are none, and sky pixels are used instead.
    cells : CellGrid or None
        The coadd's cells, within each of which the same inputs were averaged.
    """

    realizations: tuple[NDArray[np.float32], ...] = ()
    cells: CellGrid | None = None
