"""Smooth light is collected in square cells, nine numbers each, and added to the pixels once everything is drawn.

In a cell of h by h pixels a smooth function is close to a polynomial of second degree in x times one in y: the one
that agrees with it at the three Chebyshev nodes along either axis, which nine numbers a cell define. They are sums over
all sources that are drawn there, and the pixels are visited once. The polynomial misses the function by
about its third derivative times (h/2)^3 / 24, of either sign in turn: next to nothing of the cell's flux is lost.

Cells have 8 to 64 pixels a side and form a quadtree. They begin at multiples of their size in *parent* coordinates, so
that a pixel does not depend on where the image was cut.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from skygraft.jit import compiled
from skygraft.render.canvas import Canvas
from skygraft.render.vectors import load, spread, store

__all__ = ["FINEST", "NODE", "N_LEVELS", "Cells", "CoarseField"]

FINEST, N_LEVELS = 8, 4
"""Side of the smallest cells, and how many sizes there are, each twice the one before."""
NODE = math.cos(math.pi / 6)
"""The outer nodes, in units of the distance from a cell's middle to the centre of its last pixel."""


class Cells(NamedTuple):
    """M cells of all sizes, as arrays for compiled loops.

    Parameters
    ----------
    values : ndarray of float32, shape (M, 3, 3)
        At the nodes (y, x) of each.
    touched : ndarray of bool, shape (M,)
        Cells to which something was added.
    layout : ndarray of int, shape (N_LEVELS, 5)
        Of each size: where its cells begin in `values`, row and column of the first cell as multiples of its size in
        parent coordinates, and the numbers of rows and columns.
    sums : ndarray, shape (N_LEVELS, largest side + 1, 3)
        For each size, weights of the three values along a side in the sum over its first 0, 1, ... pixels.
    """

    values: NDArray[np.float32]
    touched: NDArray[np.bool_]
    layout: NDArray[np.int64]
    sums: NDArray[np.float64]


class CoarseField:
    """Cells over a canvas, empty at first.

    Parameters
    ----------
    canvas : Canvas
        The canvas that they cover.

    Attributes
    ----------
    cells : Cells
        Arrays that compiled loops add to.
    """

    def __init__(self, canvas: Canvas) -> None:
        layout = np.zeros((N_LEVELS, 5), dtype=np.int64)
        start, (rows, columns) = 0, canvas.model.shape
        for level in range(N_LEVELS):
            h = FINEST << level
            first_j, first_i = canvas.y0 // h, canvas.x0 // h
            n_j, n_i = (canvas.y0 + rows - 1) // h - first_j + 1, (canvas.x0 + columns - 1) // h - first_i + 1
            layout[level] = start, first_j, first_i, n_j, n_i
            start += n_j * n_i
        # Zeros cost nothing where they are not touched.
        values, touched = np.zeros((start, 3, 3), dtype=np.float32), np.zeros(start, dtype=np.bool_)
        self.cells = Cells(values, touched, layout, _flux_weights())

    def add_to(self, canvas: Canvas) -> None:
        """Add all cells to the canvas that they cover; to be called once."""
        for level in range(N_LEVELS - 1, 0, -1):
            _refine(self.cells, level, _to_children(level))
        _paint(
            self.cells, np.ascontiguousarray(_lagrange(_pixels(0), 0).T, np.float32), canvas.model, canvas.x0, canvas.y0
        )


def _pixels(level: int) -> NDArray[np.float64]:
    """Centres of pixels from the middle of a cell."""
    h = FINEST << level
    return np.arange(h, dtype=np.float64) - 0.5 * (h - 1)


def _lagrange(at: NDArray[np.float64], level: int) -> NDArray[np.float64]:
    """Weights of the values at three nodes for the polynomial's at some distances from the middle, shape (..., 3)."""
    t = at / (0.5 * ((FINEST << level) - 1) * NODE)
    return np.asarray(np.stack([0.5 * t * (t - 1.0), 1.0 - t * t, 0.5 * t * (t + 1.0)], axis=-1), dtype=np.float64)


def _to_children(level: int) -> NDArray[np.float32]:
    """Return the weights of a cell's three nodes for the nodes of its two halves, shape (2, 3, 3)."""
    h = FINEST << level
    nodes = NODE * 0.5 * (h // 2 - 1) * np.array([-1.0, 0.0, 1.0])
    return _lagrange(np.array([[-0.25 * h], [0.25 * h]]) + nodes, level).astype(np.float32)


def _flux_weights() -> NDArray[np.float64]:
    """Compute `Cells.sums`."""
    sums = np.zeros((N_LEVELS, (FINEST << (N_LEVELS - 1)) + 1, 3))
    for level in range(N_LEVELS):
        weights = _lagrange(_pixels(level), level)
        sums[level, 1 : len(weights) + 1] = np.cumsum(weights, axis=0)
    return sums


@compiled
def _refine(cells: Cells, level: int, to_children: NDArray[np.float32]) -> None:
    """Add the cells of one size to those of the next smaller one, exactly."""
    values, touched, layout, finer = cells.values, cells.touched, cells.layout[level], cells.layout[level - 1]
    along_x = np.empty((3, 3), dtype=np.float32)
    for j in range(layout[3]):
        for i in range(layout[4]):
            cell = layout[0] + j * layout[4] + i
            if not touched[cell]:
                continue
            v = values[cell]
            for right in range(2):
                column = 2 * (layout[2] + i) + right - finer[2]
                if not 0 <= column < finer[4]:
                    continue
                for a in range(3):
                    for b in range(3):
                        w = to_children[right, b]
                        along_x[a, b] = w[0] * v[a, 0] + w[1] * v[a, 1] + w[2] * v[a, 2]
                for upper in range(2):
                    row = 2 * (layout[1] + j) + upper - finer[1]
                    if not 0 <= row < finer[3]:
                        continue
                    child = finer[0] + row * finer[4] + column
                    touched[child] = True
                    for a in range(3):
                        w = to_children[upper, a]
                        for b in range(3):
                            values[child, a, b] += w[0] * along_x[0, b] + w[1] * along_x[1, b] + w[2] * along_x[2, b]


@compiled
def _paint(cells: Cells, across: NDArray[np.float32], model: NDArray[np.float32], x0: int, y0: int) -> None:
    """Add the smallest cells to the pixels."""
    values, touched, layout = cells.values, cells.touched, cells.layout[0]
    rows, columns = model.shape
    x_weights = load(across[0], 0), load(across[1], 0), load(across[2], 0)
    pixels = np.empty(FINEST, dtype=np.float32)
    for j in range(layout[3]):
        first_j = FINEST * (layout[1] + j) - y0
        cell = layout[0] + j * layout[4]
        some = False
        for i in range(layout[4]):
            some |= touched[cell + i]
        if not some:
            continue
        # Row by row of pixels: memory is fastest in that order.
        for t in range(max(0, -first_j), min(FINEST, rows - first_j)):
            w0, w1, w2 = across[0, t], across[1, t], across[2, t]
            into = model[first_j + t]
            for i in range(layout[4]):
                if not touched[cell + i]:
                    continue
                v = values[cell + i]
                c0 = w0 * v[0, 0] + w1 * v[1, 0] + w2 * v[2, 0]
                c1 = w0 * v[0, 1] + w1 * v[1, 1] + w2 * v[2, 1]
                c2 = w0 * v[0, 2] + w1 * v[1, 2] + w2 * v[2, 2]
                made = spread(c0) * x_weights[0] + spread(c1) * x_weights[1] + spread(c2) * x_weights[2]
                first_i = FINEST * (layout[2] + i) - x0
                if first_i >= 0 and first_i + FINEST <= columns:
                    store(into, first_i, load(into, first_i) + made)
                else:
                    store(pixels, 0, made)
                    for s in range(max(0, -first_i), min(FINEST, columns - first_i)):
                        into[first_i + s] += pixels[s]
