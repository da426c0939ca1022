"""Coarse cells: polynomials of second degree along either axis are theirs exactly, wherever the canvas is cut."""

from __future__ import annotations

import numpy as np
import pytest

from skygraft.render import Canvas
from skygraft.render.coarse import FINEST, N_LEVELS, NODE, CoarseField


def polynomial(x, y):
    return (2.0 + 0.03 * x - 0.001 * x * x) * (1.0 - 0.02 * y + 0.0005 * y * y)


def filled(canvas: Canvas, level: int, j: int, i: int) -> np.ndarray:
    """Add the polynomial's values at the nodes of one cell, given in cells of parent coordinates; gives these."""
    coarse = CoarseField(canvas)
    h = FINEST << level
    nodes = 0.5 * (h - 1) * (1.0 + NODE * np.array([-1.0, 0.0, 1.0]))
    values = polynomial(i * h + nodes, (j * h + nodes)[:, None])
    start, first_j, first_i, _, n_i = coarse.cells.layout[level]
    place = start + (j - first_j) * n_i + i - first_i
    coarse.cells.values[place] += values
    coarse.cells.touched[place] = True
    coarse.add_to(canvas)
    return values


@pytest.mark.parametrize("level", range(N_LEVELS))
@pytest.mark.parametrize("corner", [(0, 0), (-64, -128), (-37, 13), (41, -5)])
def test_a_cell_is_the_polynomial_at_its_pixels_on_the_canvas(level, corner):
    canvas = Canvas.empty((150, 140), corner)
    h = FINEST << level
    # The cell that has the canvas's first pixel, most often cut by its edge.
    j, i = corner[1] // h, corner[0] // h
    values = filled(canvas, level, j, i)
    y, x = np.mgrid[corner[1] : corner[1] + 150, corner[0] : corner[0] + 140]
    inside = (y // h == j) & (x // h == i)
    expected = np.where(inside, polynomial(x, y), 0.0)
    np.testing.assert_allclose(canvas.model, expected, rtol=0, atol=3e-6 * np.abs(expected).max())
    # And the flux that is told of it is what is in these pixels.
    sums = CoarseField(canvas).cells.sums[level]
    along, across = (sums[h] - sums[corner[axis] - (i, j)[axis] * h] for axis in (0, 1))
    assert across @ values @ along == pytest.approx(expected.sum(), rel=1e-12)


def test_no_pixel_knows_where_the_canvas_was_cut():
    whole, part = Canvas.empty((256, 256), (-64, -64)), Canvas.empty((51, 40), (3, -17))
    for canvas in (whole, part):
        filled(canvas, 3, 0, 0)
        filled(canvas, 1, -1, 1)
    np.testing.assert_array_equal(part.model, whole.model[47:98, 67:107])
    assert part.model.any()
