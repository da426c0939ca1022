"""The extended wings of a PSF on the canvas: pixel by pixel near a source, in ever larger cells further out.

Far from a source the wings change little from pixel to pixel: a cell of `skygraft.render.coarse`, 8 to 64 pixels a
side, stands for its pixels where it is right to 8e-3 of the light there (at most; over a cell the error is of either
sign in turn). A source's wings then cost some hundreds of cells, however far they reach, and the pixels are visited
once, when everything is drawn.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from skygraft.jit import compiled
from skygraft.psf.linear import aligned
from skygraft.psf.wings import Wings
from skygraft.render.canvas import Canvas
from skygraft.render.coarse import FINEST, N_LEVELS, NODE, Cells, CoarseField
from skygraft.render.vectors import LANES, cubic_lookup, load, nothing_beyond, spread, store
from skygraft.render.wing_tables import FIRST_OCTAVE, N_PIECES, OFFSET, PIECES, wing_table

__all__ = ["WingPainter"]

_HALF_DIAGONAL = 0.7072
_FINE_LEVELS = 2
"""Sizes of cells, the smallest ones, that may lie across a radius at which faint light ends."""
_OFFSET = np.float32(OFFSET)
_LANES = np.arange(LANES, dtype=np.float32)
_NODES = 4 * 9
"""Nodes of the four cells that make up one of the next size."""
_value_at = cubic_lookup(FIRST_OCTAVE, PIECES, N_PIECES)


def _nodes_of_four() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Nodes (x, y) of four neighbouring cells from their common corner, pixels, by size: shape (N_LEVELS, lanes)."""
    x, y = np.zeros((2, N_LEVELS, _NODES + 2 * LANES), dtype=np.float32)
    for level in range(N_LEVELS):
        h = FINEST << level
        for k in range(_NODES):
            child, node = divmod(k, 9)
            x[level, k] = h * (child % 2 - 0.5) + 0.5 * NODE * (h - 1) * (node % 3 - 1)
            y[level, k] = h * (child // 2 - 0.5) + 0.5 * NODE * (h - 1) * (node // 3 - 1)
    return x, y


_NODES_X, _NODES_Y = _nodes_of_four()


class WingPainter:
    """Draws the wings of many sources on one canvas.

    Parameters
    ----------
    canvas : Canvas
        Changed in place.
    wings : Wings
        Of the image's PSF.
    """

    def __init__(self, canvas: Canvas, wings: Wings) -> None:
        self._canvas, self._wings = canvas, wings
        self._field = CoarseField(canvas)
        _, _, _, rows, columns = self._field.cells.layout[0]
        # Pixels of the smallest cells that an end lies across, cell by cell: close together in memory, unlike rows.
        self._ends = aligned((rows * columns * FINEST**2,), np.zeros)
        self._ended = np.zeros(rows * columns, dtype=np.bool_)

    def add(
        self,
        x: NDArray[np.float64],
        y: NDArray[np.float64],
        amplitude: NDArray[np.float64],
        reach: NDArray[np.float64],
        blur: NDArray[np.int64],
        sharp: NDArray[np.bool_],
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Add the wings of N points, one after the other in the order given.

        Parameters
        ----------
        x, y : ndarray, shape (N,)
            Parent pixels.
        amplitude : ndarray, shape (N,)
            Surface brightness at the join radius, image units a pixel.
        reach : ndarray, shape (N,)
            Radius to which they are drawn, pixels.
        blur : ndarray of int, shape (N,)
            Number of the Gaussian that they are blurred by, from `skygraft.render.wing_tables.blur_of`.
        sharp : ndarray of bool, shape (N,)
            Whether they end there pixel by pixel, which is needed where the light that ends can be seen; otherwise
            they end with whole cells.

        Returns
        -------
        deposited : ndarray, shape (N,)
            Flux that landed on the canvas.
        clipped : ndarray of bool, shape (N,)
            Whether part of the wings lay off the canvas.
        """
        canvas, wings = self._canvas, self._wings
        n_rows, n_columns = canvas.model.shape
        off_x = (x - reach < canvas.x0 - 0.5) | (x + reach > canvas.x0 + n_columns - 0.5)
        off_y = (y - reach < canvas.y0 - 0.5) | (y + reach > canvas.y0 + n_rows - 0.5)
        clipped = off_x | off_y
        whole = ~clipped & (blur == 0)
        deposited = np.zeros(len(x))
        ends, place = np.unique(reach[whole], return_inverse=True)
        deposited[whole] = amplitude[whole] * np.array([wings.enclosed(float(end)) for end in ends])[place]
        # Runs of sources that share a table.
        for some in np.split(np.arange(len(x)), np.flatnonzero(np.diff(blur)) + 1):
            if not some.size:
                continue
            table = wing_table(wings, int(blur[some[0]]))
            points = x[some], y[some], amplitude[some], reach[some], sharp[some], ~whole[some]
            corner, scale = (canvas.x0, canvas.y0), (table.unit, table.inner)
            of_ends = self._ends, self._ended
            landed = _add_light(
                *(canvas.model, corner, self._field.cells, of_ends, table.pieces, table.radii, scale),
                *(_NODES_X, _NODES_Y, points),
            )
            counted = some[~whole[some]]
            deposited[counted] = landed[~whole[some]]
        return deposited, clipped

    def finish(self) -> None:
        """Add the cells to the canvas; to be called once, after all sources."""
        canvas = self._canvas
        self._field.add_to(canvas)
        if self._ended.any():
            _add_ends(canvas.model, (canvas.x0, canvas.y0), self._field.cells.layout[0], self._ends, self._ended)


@compiled
def _add_light(
    model: NDArray[np.float32],
    corner: tuple[int, int],
    cells: Cells,
    at_ends: tuple[NDArray[np.float32], NDArray[np.bool_]],
    table: NDArray[np.float32],
    radii: NDArray[np.float64],
    scale: tuple[float, float],
    nodes_x: NDArray[np.float32],
    nodes_y: NDArray[np.float32],
    points: tuple[
        NDArray[np.float64],
        NDArray[np.float64],
        NDArray[np.float64],
        NDArray[np.float64],
        NDArray[np.bool_],
        NDArray[np.bool_],
    ],
) -> NDArray[np.float64]:  # pragma: no cover - compiled
    """Add the light of points (x, y, amplitude, reach, whether it ends sharply, whether what lands is wanted)."""
    (unit, inner), (ends, ended) = scale, at_ends
    px, py, amplitudes, reaches, sharps, counts = points
    touched, layout, sums = cells.touched, cells.layout, cells.sums
    values = cells.values.reshape(-1)
    rows, columns = model.shape
    x_end, y_end = corner[0] + columns, corner[1] + rows
    made = np.empty(_NODES + 2 * LANES, dtype=np.float32)
    pixels = np.empty(LANES, dtype=np.float32)
    landed = np.zeros(px.size)
    use = np.zeros(4, dtype=np.bool_)
    per = 1.0 / unit
    offset, factor = spread(_OFFSET), spread(np.float32(per))
    for s in range(px.size):
        x, y, reach, sharp, count = px[s], py[s], reaches[s], sharps[s], counts[s]
        amplitude = spread(np.float32(amplitudes[s]))
        i_first, i_last = max(corner[0], int(np.floor(x - reach))), min(x_end - 1, int(np.ceil(x + reach)))
        j_first, j_last = max(corner[1], int(np.floor(y - reach))), min(y_end - 1, int(np.ceil(y + reach)))
        if i_first > i_last or j_first > j_last:
            continue
        deposited = 0.0
        for level in range(N_LEVELS - 1, -1, -1):
            h = FINEST << level
            side, half, half_parent = 2 * h, _HALF_DIAGONAL * h, 2.0 * _HALF_DIAGONAL * h
            least, least_parent = radii[level], radii[level + 1] if level < N_LEVELS - 1 else np.inf
            end_square = reach * reach
            # Cells up to the reach may hold any of the light; those that lie across it end up as smaller ones.
            bounded, bounded_parent = sharp or level >= _FINE_LEVELS, sharp or level + 1 >= _FINE_LEVELS
            # Squares of distances from the source, so that no roots are needed.
            beyond, within = (reach + half) ** 2, max(reach - half, 0.0) ** 2
            far, hole = (least + half) ** 2, max(inner - half, 0.0) ** 2
            beyond_parent, within_parent = (reach + half_parent) ** 2, max(reach - half_parent, 0.0) ** 2
            far_parent, hole_parent = (least_parent + half_parent) ** 2, max(inner - half_parent, 0.0) ** 2
            furthest = reach if bounded_parent else min(reach, least_parent + 2.0 * half_parent)
            p_first, p_last = max(i_first, int(np.floor(x - furthest))), min(i_last, int(np.ceil(x + furthest)))
            q_first, q_last = max(j_first, int(np.floor(y - furthest))), min(j_last, int(np.ceil(y + furthest)))
            for parent_j in range(q_first // side, q_last // side + 1):
                dy = parent_j * side + h - 0.5 - y
                for parent_i in range(p_first // side, p_last // side + 1):
                    dx = parent_i * side + h - 0.5 - x
                    square = dx * dx + dy * dy
                    if square > beyond_parent or square < hole_parent:
                        continue
                    if square >= far_parent:
                        if not bounded_parent or square <= within_parent:
                            continue
                        if sharp and _furthest(dx, dy, h - 0.5) <= end_square:
                            continue
                    n_used = 0
                    for child in range(4):
                        use[child] = False
                        i0, j0 = parent_i * side + child % 2 * h, parent_j * side + child // 2 * h
                        if j0 > j_last or i0 > i_last or j0 + h <= j_first or i0 + h <= i_first:
                            continue
                        cx, cy = i0 + 0.5 * (h - 1) - x, j0 + 0.5 * (h - 1) - y
                        square = cx * cx + cy * cy
                        if square > beyond or square < hole:
                            continue
                        inside = not bounded or square <= within
                        if square >= far and (inside or (sharp and _furthest(cx, cy, 0.5 * (h - 1)) <= end_square)):
                            use[child] = bounded or square <= end_square
                            n_used += use[child]
                        elif level == 0 and square >= far_parent:
                            # The end lies across it. Where cells twice as large may stand for their pixels, a parabola
                            # in the square of the radius is as good, and needs no table for every row.
                            if _nearest(cx, cy, 0.5 * (h - 1)) > end_square:
                                continue
                            step = np.float32(per * per * h * np.sqrt(square))
                            center = np.float32(per * per * square + OFFSET)
                            pixels[0], pixels[1], pixels[2] = center - step, center, center + step
                            store(pixels, 0, amplitude * _value_at(table, load(pixels, 0)))
                            middle, tilt = pixels[1], 0.5 * (pixels[2] - pixels[0]) / step
                            bend = (0.5 * (pixels[2] + pixels[0]) - middle) / (step * step)
                            first, last = max(corner[0], i0) - i0, min(x_end - 1, i0 + FINEST - 1) - i0
                            low, high = max(corner[1], j0), min(y_end - 1, j0 + FINEST - 1)
                            u = spread(np.float32(per * (i0 - x))) + factor * load(_LANES, 0)
                            u = u * u + offset - spread(center)
                            end = spread(np.float32((per * reach) ** 2 + _OFFSET) - center)
                            flux = spread(np.float32(0.0))
                            c0, c1, c2 = spread(np.float32(middle)), spread(np.float32(tilt)), spread(np.float32(bend))
                            place = (2 * parent_j + child // 2 - layout[0, 1]) * layout[0, 4]
                            place += 2 * parent_i + child % 2 - layout[0, 2]
                            ended[place] = True
                            for j in range(low, high + 1):
                                v = spread(np.float32(per * (j - y)))
                                at = v * v + u
                                value = nothing_beyond(c0 + at * (c1 + at * c2), at, end)
                                row_at = FINEST * (FINEST * place + j - j0)
                                store(ends, row_at, load(ends, row_at) + value)
                                flux = flux + value
                            store(pixels, 0, flux)
                            for t in range(first, last + 1):
                                deposited += pixels[t]
                        elif level == 0:
                            # Pixel by pixel.
                            first, last = max(corner[0], i0) - i0, min(x_end - 1, i0 + FINEST - 1) - i0
                            low, high = max(corner[1], j0), min(y_end - 1, j0 + FINEST - 1)
                            u = spread(np.float32(per * (i0 - x))) + factor * load(_LANES, 0)
                            end = spread(np.float32((per * reach) ** 2 + _OFFSET))
                            flux = spread(np.float32(0.0))
                            left = i0 - corner[0]
                            for j in range(low, high + 1):
                                v = spread(np.float32(per * (j - y)))
                                at = u * u + v * v + offset
                                value = nothing_beyond(amplitude * _value_at(table, at), at, end)
                                row = model[j - corner[1]]
                                if first == 0 and last == FINEST - 1:
                                    store(row, left, load(row, left) + value)
                                    flux = flux + value
                                else:
                                    store(pixels, 0, value)
                                    for t in range(first, last + 1):
                                        row[left + t] += pixels[t]
                                        deposited += pixels[t]
                            store(pixels, 0, flux)
                            for t in range(LANES):
                                deposited += pixels[t]
                    if n_used == 0:
                        continue
                    # At the nodes of all four cells, or of those that are used.
                    middle_x, middle_y = spread(np.float32(dx)), spread(np.float32(dy))
                    if n_used > 2:
                        for k in range(0, _NODES, LANES):
                            u = factor * (middle_x + load(nodes_x[level], k))
                            v = factor * (middle_y + load(nodes_y[level], k))
                            store(made, k, amplitude * _value_at(table, u * u + v * v + offset))
                    for child in range(4):
                        if not use[child]:
                            continue
                        if n_used <= 2:
                            for k in range(9 * child, 9 * child + 2 * LANES, LANES):
                                u = factor * (middle_x + load(nodes_x[level], k))
                                v = factor * (middle_y + load(nodes_y[level], k))
                                store(made, k, amplitude * _value_at(table, u * u + v * v + offset))
                        place = layout[level, 0] + (2 * parent_j + child // 2 - layout[level, 1]) * layout[level, 4]
                        place += 2 * parent_i + child % 2 - layout[level, 2]
                        touched[place] = True
                        store(values, 9 * place, load(values, 9 * place) + load(made, 9 * child))
                        values[9 * place + 8] += made[9 * child + 8]
                        if count:
                            i0, j0 = parent_i * side + child % 2 * h, parent_j * side + child // 2 * h
                            i_low, i_high = max(0, corner[0] - i0), min(h, x_end - i0)
                            j_low, j_high = max(0, corner[1] - j0), min(h, y_end - j0)
                            for a in range(3):
                                part = 0.0
                                for b in range(3):
                                    part += (sums[level, i_high, b] - sums[level, i_low, b]) * made[
                                        9 * child + 3 * a + b
                                    ]
                                deposited += (sums[level, j_high, a] - sums[level, j_low, a]) * part
        landed[s] = deposited
    return landed


@compiled
def _add_ends(
    model: NDArray[np.float32],
    corner: tuple[int, int],
    layout: NDArray[np.int64],
    ends: NDArray[np.float32],
    ended: NDArray[np.bool_],
) -> None:  # pragma: no cover - compiled
    """Add the pixels of the cells that an end lies across to the canvas."""
    rows, columns = model.shape
    for cell in range(ended.size):
        if not ended[cell]:
            continue
        first_j = FINEST * (layout[1] + cell // layout[4]) - corner[1]
        first_i = FINEST * (layout[2] + cell % layout[4]) - corner[0]
        for t in range(max(0, -first_j), min(FINEST, rows - first_j)):
            for s in range(max(0, -first_i), min(FINEST, columns - first_i)):
                model[first_j + t, first_i + s] += ends[FINEST * (FINEST * cell + t) + s]


@compiled(inline="always")
def _furthest(x: float, y: float, half: float) -> float:  # pragma: no cover - compiled
    """Square of the distance to the furthest point of a square about (x, y)."""
    dx, dy = abs(x) + half, abs(y) + half
    return dx * dx + dy * dy


@compiled(inline="always")
def _nearest(x: float, y: float, half: float) -> float:  # pragma: no cover - compiled
    """Square of the distance to the nearest point of a square about (x, y)."""
    dx, dy = max(abs(x) - half, 0.0), max(abs(y) - half, 0.0)
    return dx * dx + dy * dy
