"""The extended wings of a PSF on the canvas: pixel by pixel near a source, in ever larger cells further out.

Far from a source the wings change little from pixel to pixel: a cell of `skygraft.render.coarse`, 8 to 64 pixels a
side, stands for its pixels where it is right to 8e-3 of the light there (at most; over a cell the error is of either
sign in turn). A source's wings then cost some hundreds of cells, however far they reach, and the pixels are visited
once, when everything is drawn.

Which cells those are is found row by row: of each size, those that lie whole inside the radius at which the wings end
and outside the one from which on they are right, less those that larger cells stand for. What remains is drawn pixel
by pixel: about the source, where the light comes from a table, and in the smallest cells that the end lies across,
where one cubic in the square of the radius does for all of them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from skygraft.jit import compiled, prefetch
from skygraft.psf.linear import aligned
from skygraft.psf.wings import Wings
from skygraft.render.canvas import Canvas
from skygraft.render.coarse import FINEST, N_LEVELS, NODE, Cells, CoarseField
from skygraft.render.vectors import LANES, between, cubic_lookup, load, nothing_beyond, spread, store, transpose
from skygraft.render.wing_tables import FIRST_OCTAVE, N_PIECES, OFFSET, PIECES, SIGMAS, wing_table

__all__ = ["WingPainter"]

_HALF_DIAGONAL = 0.7072
_OFFSET = np.float32(OFFSET)
_LANES = np.arange(LANES, dtype=np.float32)
_BAND = 1.4143 * (FINEST - 1) + 0.5
"""Width of the band inside the end in which the pixels of the cells that it lies across are, pixels."""
_value_at = cubic_lookup(FIRST_OCTAVE, PIECES, N_PIECES)

type _Kept = tuple[NDArray[np.float32], NDArray[np.int32], NDArray[np.int64]]
type _Room = tuple[
    NDArray[np.int64],
    NDArray[np.int64],
    NDArray[np.int64],
    NDArray[np.float32],
    NDArray[np.int64],
    NDArray[np.int64],
]

_IN_BAND = 0.5 * np.cos(np.pi * (np.arange(4) + 0.5) / 4) - 0.5
"""Places of the band, -1 to 0 in the square of the radius, at which its cubic agrees with the light."""
_BANDS = _IN_BAND, np.linalg.inv(_IN_BAND[:, None] ** np.arange(4))
"""These, and the matrix that makes the cubic's coefficients of the light there."""


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
        # Pixels of the smallest cells that are drawn pixel by pixel, in the order of their first light: in few pages of
        # memory, unlike rows. Where those of each cell are; 0 is of none.
        self._pixels = aligned((rows * columns + 1, FINEST**2), np.zeros)
        self._slots = np.zeros(rows * columns, dtype=np.int32)
        self._used = np.zeros(1, dtype=np.int64)
        # Room for rows, runs and cells of one source; untouched memory costs nothing.
        m = len(self._field.cells.touched)
        self._room = (
            np.empty((2, rows + 2, 6), dtype=np.int64),
            *np.empty((2, 4 * rows + 8, 3), dtype=np.int64),
            np.zeros((3, m + LANES), dtype=np.float32),
            np.empty(m, dtype=np.int64),
            np.empty((2, rows * columns, 3), dtype=np.int64),
        )

    def add(
        self,
        x: NDArray[np.float64],
        y: NDArray[np.float64],
        amplitude: NDArray[np.float64],
        reach: NDArray[np.float64],
        blur: NDArray[np.int64],
        blurs: NDArray[np.float64] | None = None,
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Add the wings of N points, one after the other in the order given.

        Parameters
        ----------
        x, y : ndarray, shape (N,)
            Parent pixels.
        amplitude : ndarray, shape (N,)
            Surface brightness at the join radius, image units a pixel.
        reach : ndarray, shape (N,)
            Radius at which they end, pixels.
        blur : ndarray of int, shape (N,)
            Which of `blurs` they are blurred by; those of points are 0.
        blurs : ndarray, shape (M, L), optional
            From `skygraft.render.wing_tables.blur_of`; the first, which need not be right, is that of points.

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
        box = canvas.x0, canvas.y0, canvas.x0 + n_columns, canvas.y0 + n_rows
        point = np.eye(1, len(SIGMAS))[0]
        # Runs of sources that share a table.
        for some in np.split(np.arange(len(x)), np.flatnonzero(np.diff(blur)) + 1):
            if not some.size:
                continue
            table = wing_table(wings, point if blurs is None or blur[some[0]] == 0 else blurs[blur[some[0]]])
            points = x[some], y[some], amplitude[some], reach[some], ~whole[some]
            kept, scale = (self._pixels, self._slots, self._used), (table.unit, table.inner)
            room = self._room
            landed = _add_light(box, self._field.cells, kept, room, table.pieces, table.radii, scale, _BANDS, points)
            counted = some[~whole[some]]
            deposited[counted] = landed[~whole[some]]
        return deposited, clipped

    def finish(self) -> None:
        """Add everything to the canvas; to be called once, after all sources."""
        canvas = self._canvas
        self._field.add_to(canvas)
        _add_pixels(canvas.model, (canvas.x0, canvas.y0), self._field.cells.layout[0], self._pixels, self._slots)


@compiled
def _add_light(
    box: tuple[int, int, int, int],
    cells: Cells,
    kept: _Kept,
    room: _Room,
    table: NDArray[np.float32],
    radii: NDArray[np.float64],
    scale: tuple[float, float],
    bands: tuple[NDArray[np.float64], NDArray[np.float64]],
    points: tuple[
        NDArray[np.float64],
        NDArray[np.float64],
        NDArray[np.float64],
        NDArray[np.float64],
        NDArray[np.bool_],
    ],
) -> NDArray[np.float64]:  # pragma: no cover - compiled
    """Add the light of points (x, y, amplitude, reach, whether what lands is wanted) to cells and pixels."""
    (unit, inner), (px, py, amplitudes, reaches, counts) = scale, points
    pixels, (in_band, to_cubic) = kept[0], bands
    per = 1.0 / unit
    nodes, places, blocks = room[3:]
    some, cubic = np.zeros(LANES, dtype=np.float32), np.zeros(4, dtype=np.float32)
    landed = np.zeros(px.size)
    for s in range(px.size):
        x, y, reach, count = px[s], py[s], reaches[s], counts[s]
        amplitude = np.float32(amplitudes[s])
        # One cubic for the pixels of cells that the end lies across, if cells twice as large would be right there.
        end = reach * reach
        band = end - max(reach - _BAND, 0.0) ** 2
        fits = reach - _BAND > radii[1]
        if fits:
            for k in range(4):
                some[k] = per * per * (end + band * in_band[k])
            store(some, 0, spread(amplitude) * _value_at(table, load(some, 0) + spread(_OFFSET)))
            for k in range(4):
                cubic[k] = 0.0
                for t in range(4):
                    cubic[k] += to_cubic[k, t] * some[t]
        n_cells, n_ends, n_near = _choose(cells, kept, room, x, y, reach, radii, inner)
        landed[s] = _add_cells(box, cells, n_cells, nodes, places, per, amplitude, table, count)
        if fits:
            landed[s] += _add_ends(box, pixels, blocks[0, :n_ends], x, y, end, cubic, band, count)
        else:
            landed[s] += _add_near(box, pixels, blocks[0, :n_ends], x, y, per, reach, amplitude, table, count)
        landed[s] += _add_near(box, pixels, blocks[1, :n_near], x, y, per, reach, amplitude, table, count)
    return landed


@compiled
def _choose(
    cells: Cells,
    kept: _Kept,
    room: _Room,
    x: float,
    y: float,
    reach: float,
    radii: NDArray[np.float64],
    inner: float,
) -> tuple[int, int, int]:  # pragma: no cover - compiled
    """Choose the cells that stand for their pixels, and those that are drawn pixel by pixel at the end and near (x, y).

    Of the first, `nodes` gets x and y of the middle from the source and the distance of the outer nodes from it, and
    `places` where they are; of the others, `blocks` gets the first pixel (x, y) and the place of their pixels.

    Returns
    -------
    tuple of int
        Numbers of the cells, and of those drawn pixel by pixel at the end and near the source.
    """
    both, runs, near, nodes, places, blocks = room
    layout, by_cell = cells.layout, cells.values.reshape(-1, 9)
    n_cells, n_blocks, n_near = 0, 0, 0
    end = reach * reach
    for level in range(N_LEVELS - 1, -1, -1):
        h = FINEST << level
        last, middle, part = h - 1.0, 0.5 * (h - 1.0), 1.0 / h
        far = np.float32(NODE * middle)
        start, first_j, first_i = layout[level, 0], layout[level, 1], layout[level, 2]
        n_j, n_i = layout[level, 3], layout[level, 4]
        least = min(radii[level], reach + 2 * h) + _HALF_DIAGONAL * h
        own = int(np.floor(part * (x + 0.5)))
        found, rows = both[level % 2], both[(level + 1) % 2]
        j_low = max(first_j, int(np.floor(part * (y - reach))))
        j_high = min(first_j + n_j - 1, int(np.floor(part * (y + reach))))
        left, right, n_runs = first_i, first_i + n_i, 0
        for j in range(j_low, j_high + 1):
            p = j - first_j
            cy = j * h + middle - y
            # Cells inside the end, [f0, f1), and those too near the source, [n0, n1).
            half = np.sqrt(max(end - (abs(cy) + middle) ** 2, 0.0))
            f0, f1 = int(np.ceil(part * (x - half))), int(np.floor(part * (x + half - last))) + 1
            if f1 <= f0:
                f0, f1 = own, own
            half = np.sqrt(max(least * least - cy * cy, 0.0))
            n0, n1 = int(np.ceil(part * (x - half - middle))), int(np.floor(part * (x + half - middle))) + 1
            if n1 <= n0:
                n0, n1 = own, own
            # Larger cells stand for [c0, c1) and [c2, c3) already. Rounding must not part what belongs together.
            c0, c1, c2, c3 = own, own, own, own
            if level < N_LEVELS - 1:
                q = (j >> 1) - layout[level + 1, 1]
                c0, c1, c2, c3 = 2 * rows[q, 0], 2 * rows[q, 1], 2 * rows[q, 2], 2 * rows[q, 3]
                if c0 < c3:
                    f0, f1 = min(f0, c0), max(f1, c3)
                n0, n1 = max(n0, 2 * rows[q, 4]), min(n1, 2 * rows[q, 5])
                if n0 >= n1:
                    n0 = min(max(own, 2 * rows[q, 4]), 2 * rows[q, 5])
                    n1 = n0
            # All that these and the smaller cells can stand for: [f0, a) and [b, f1).
            a, b = min(max(n0, f0), f1), min(max(n1, f0), f1)
            found[p, 0], found[p, 1], found[p, 2], found[p, 3], found[p, 4], found[p, 5] = f0, a, b, f1, n0, n1
            # Only what there is: the loop below then takes few wrong turns.
            n_runs = _append(runs, n_runs, max(f0, left), min(c0, a, right), p)
            n_runs = _append(runs, n_runs, max(c1, f0, left), min(a, right), p)
            n_runs = _append(runs, n_runs, max(b, left), min(c2, f1, right), p)
            n_runs = _append(runs, n_runs, max(c3, b, left), min(f1, right), p)
        for k in range(n_runs):
            cy = (runs[k, 2] + first_j) * h + middle - y
            place = start + runs[k, 2] * n_i - first_i
            for c in range(runs[k, 0], runs[k, 1]):
                prefetch(by_cell, place + c, np.int64(0))
                nodes[0, n_cells], nodes[1, n_cells], nodes[2, n_cells] = c * h + middle - x, cy, far
                places[n_cells] = place + c
                n_cells += 1
        if level > 0:
            continue
        n_runs, n_runs_near = 0, 0
        hole = max(inner - _HALF_DIAGONAL * h, 0.0)
        for j in range(j_low, j_high + 1):
            p = j - first_j
            cy = j * h + middle - y
            half = np.sqrt(max(end - max(abs(cy) - middle, 0.0) ** 2, 0.0))
            t0, t1 = int(np.ceil(part * (x - half - last))), int(np.floor(part * (x + half))) + 1
            n_runs = _append(runs, n_runs, max(t0, left), min(found[p, 0], right), p)
            n_runs = _append(runs, n_runs, max(found[p, 3], left), min(t1, right), p)
            # Inside the blend there is nothing.
            half = np.sqrt(max(hole * hole - cy * cy, 0.0))
            h0, h1 = int(np.ceil(part * (x - half - middle))), int(np.floor(part * (x + half - middle))) + 1
            if h1 <= h0:
                h0, h1 = own, own
            a, b = found[p, 1], found[p, 2]
            h0 = min(max(h0, a), b)
            n_runs_near = _append(near, n_runs_near, max(a, left), min(h0, right), p)
            n_runs_near = _append(near, n_runs_near, max(h0, h1, left), min(b, right), p)
        n_blocks = _take_pixels(layout, kept, runs, n_runs, blocks[0])
        n_near = _take_pixels(layout, kept, near, n_runs_near, blocks[1])
    return n_cells, n_blocks, n_near


@compiled(inline="always")
def _append(runs: NDArray[np.int64], n: int, begin: int, stop: int, row: int) -> int:  # pragma: no cover - compiled
    """Write a run of cells in place `n`, and return the number of runs; empty ones are not counted."""
    runs[n, 0], runs[n, 1], runs[n, 2] = begin, stop, row
    return n + int(begin < stop)


@compiled
def _take_pixels(
    layout: NDArray[np.int64],
    kept: _Kept,
    runs: NDArray[np.int64],
    n_runs: int,
    blocks: NDArray[np.int64],
) -> int:  # pragma: no cover - compiled
    """Find the memory of the pixels of smallest cells in some runs, and return the number of cells."""
    (pixels, slots, used), n = kept, 0
    for k in range(n_runs):
        place = runs[k, 2] * layout[0, 4] - layout[0, 2]
        for c in range(runs[k, 0], runs[k, 1]):
            slot = np.int64(slots[place + c])
            if slot == 0:
                used[0] += 1
                slot = used[0]
                slots[place + c] = slot
            for t in range(0, FINEST**2, 16):
                prefetch(pixels, slot, t)
            blocks[n, 0], blocks[n, 1], blocks[n, 2] = FINEST * c, FINEST * (runs[k, 2] + layout[0, 1]), slot
            n += 1
    return n


@compiled
def _add_cells(
    box: tuple[int, int, int, int],
    cells: Cells,
    n_cells: int,
    nodes: NDArray[np.float32],
    places: NDArray[np.int64],
    per: float,
    amplitude: np.float32,
    table: NDArray[np.float32],
    count: bool,
) -> float:  # pragma: no cover - compiled
    """Add the light at the nodes of some cells; return their flux on the canvas if wanted."""
    values, sums, layout = cells.values.reshape(-1), cells.sums, cells.layout
    factor, strength, offset = spread(np.float32(per)), spread(amplitude), spread(_OFFSET)
    made = np.empty(17 * LANES, dtype=np.float32)
    at_x, at_y, distance = nodes[0], nodes[1], nodes[2]
    deposited = 0.0
    for first in range(0, n_cells, LANES):
        x, y, far = factor * load(at_x, first), factor * load(at_y, first), factor * load(distance, first)
        left, right, low, high = x - far, x + far, y - far, y + far
        left, x, right = left * left + offset, x * x + offset, right * right + offset
        low, y, high = low * low, y * y, high * high
        # A cell in each lane, and then a node in each.
        store(made, 9 * LANES, strength * _value_at(table, left + low))
        store(made, 10 * LANES, strength * _value_at(table, x + low))
        store(made, 11 * LANES, strength * _value_at(table, right + low))
        store(made, 12 * LANES, strength * _value_at(table, left + y))
        store(made, 13 * LANES, strength * _value_at(table, x + y))
        store(made, 14 * LANES, strength * _value_at(table, right + y))
        store(made, 15 * LANES, strength * _value_at(table, left + high))
        store(made, 16 * LANES, strength * _value_at(table, x + high))
        store(made, 8 * LANES, strength * _value_at(table, right + high))
        transpose(made, 9 * LANES, LANES, made, 0, LANES)
        for k in range(min(LANES, n_cells - first)):
            place = places[first + k]
            cells.touched[place] = True
            store(values, 9 * place, load(values, 9 * place) + load(made, k * LANES))
            values[9 * place + 8] += made[8 * LANES + k]
            if count:
                level = 0
                while level + 1 < N_LEVELS and place >= layout[level + 1, 0]:
                    level += 1
                h, at = FINEST << level, place - layout[level, 0]
                j0, i0 = h * (layout[level, 1] + at // layout[level, 4]), h * (layout[level, 2] + at % layout[level, 4])
                i_low, i_high = max(0, box[0] - i0), min(h, box[2] - i0)
                j_low, j_high = max(0, box[1] - j0), min(h, box[3] - j0)
                for b in range(3):
                    part = 0.0
                    for a in range(3):
                        value = made[8 * LANES + k] if a + b == 4 else made[k * LANES + 3 * b + a]
                        part += (sums[level, i_high, a] - sums[level, i_low, a]) * value
                    deposited += (sums[level, j_high, b] - sums[level, j_low, b]) * part
    return deposited


@compiled
def _add_ends(
    box: tuple[int, int, int, int],
    pixels: NDArray[np.float32],
    blocks: NDArray[np.int64],
    x: float,
    y: float,
    end: float,
    cubic: NDArray[np.float32],
    band: float,
    count: bool,
) -> float:  # pragma: no cover - compiled
    """Add the light to the pixels of cells that the end lies across; return their flux on the canvas if wanted."""
    flat, sums, one = pixels.reshape(-1), np.empty(LANES, dtype=np.float32), spread(np.float32(1.0))
    c0, c1, c2, c3 = spread(cubic[0]), spread(cubic[1]), spread(cubic[2]), spread(cubic[3])
    factor, nothing, flux = spread(np.float32(1.0 / band)), spread(np.float32(0.0)), spread(np.float32(0.0))
    for block in range(len(blocks)):
        i, j, at_cell = blocks[block, 0], blocks[block, 1], FINEST**2 * blocks[block, 2]
        u = spread(np.float32(i - x)) + load(_LANES, 0)
        u, v = u * u - spread(np.float32(end)), spread(np.float32(j - y))
        for t in range(FINEST):
            at = factor * (v * v + u)
            v = v + one
            value = nothing_beyond(c0 + at * (c1 + at * (c2 + at * c3)), at, nothing)
            store(flat, at_cell + FINEST * t, load(flat, at_cell + FINEST * t) + value)
            if count and box[1] <= j + t < box[3]:
                flux = flux + between(value, box[0] - i, box[2] - i)
    store(sums, 0, flux)
    return np.float64(sums.sum())


@compiled
def _add_near(
    box: tuple[int, int, int, int],
    pixels: NDArray[np.float32],
    blocks: NDArray[np.int64],
    x: float,
    y: float,
    per: float,
    reach: float,
    amplitude: np.float32,
    table: NDArray[np.float32],
    count: bool,
) -> float:  # pragma: no cover - compiled
    """Add the light of the table to the pixels of some cells; return their flux on the canvas if wanted."""
    flat, sums, one = pixels.reshape(-1), np.empty(LANES, dtype=np.float32), spread(np.float32(1.0))
    factor, strength, offset = spread(np.float32(per)), spread(amplitude), spread(_OFFSET)
    end, flux = spread(np.float32((per * reach) ** 2 + _OFFSET)), spread(np.float32(0.0))
    for block in range(len(blocks)):
        i, j, at_cell = blocks[block, 0], blocks[block, 1], FINEST**2 * blocks[block, 2]
        u = factor * (spread(np.float32(i - x)) + load(_LANES, 0))
        u, v = u * u + offset, spread(np.float32(j - y))
        for t in range(FINEST):
            at = factor * v * (factor * v) + u
            v = v + one
            value = nothing_beyond(strength * _value_at(table, at), at, end)
            store(flat, at_cell + FINEST * t, load(flat, at_cell + FINEST * t) + value)
            if count and box[1] <= j + t < box[3]:
                flux = flux + between(value, box[0] - i, box[2] - i)
    store(sums, 0, flux)
    return np.float64(sums.sum())


@compiled
def _add_pixels(
    model: NDArray[np.float32],
    corner: tuple[int, int],
    layout: NDArray[np.int64],
    pixels: NDArray[np.float32],
    slots: NDArray[np.int32],
) -> None:  # pragma: no cover - compiled
    """Add the pixels of cells to the canvas."""
    rows, columns = model.shape
    for cell in range(slots.size):
        if slots[cell] == 0:
            continue
        first_j = FINEST * (layout[1] + cell // layout[4]) - corner[1]
        first_i = FINEST * (layout[2] + cell % layout[4]) - corner[0]
        for t in range(max(0, -first_j), min(FINEST, rows - first_j)):
            for s in range(max(0, -first_i), min(FINEST, columns - first_i)):
                model[first_j + t, first_i + s] += pixels[slots[cell], FINEST * t + s]
