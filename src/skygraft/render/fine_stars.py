"""Stars of a PSF that is known between pixels: its own values at each star's place, by taps on a finer grid.

Where pixels are too coarse for a PSF (see `skygraft.psf.sampling`), interpolation of its kernel on pixels rings,
however good the taps. Its model is then evaluated at the star's own sub-pixel place: the sum of the basis, on the
model's own grid, goes through W taps along x for every column of pixels and through W along y for every row. With
PSFEx models and oversampled images those are their own definitions (Lanczos, splines); with a formula, polynomials
through eight samples. There is no ringing to be cut off: as many pixels are drawn as a kernel has, about the one that
the star is in.

The errors are those of single precision and of the table of taps, 1e-6 of the peak, for PSFEx models and oversampled
images; for formulas also those of the polynomials, 1e-5 at 1.5 pixels FWHM.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from skygraft.jit import compiled
from skygraft.psf import SinglePrecisionBasis, SubPixelBasis
from skygraft.psf.linear import combine_into
from skygraft.render.canvas import Canvas
from skygraft.render.vectors import LANES, fused, load, spread, store

__all__ = ["FineStars"]


class _Grid(NamedTuple):
    """A `FineGrid` for compiled functions: its size, the source's place in it, steps (pixels), taps, reach."""

    rows: int
    columns: int
    center: tuple[float, float]
    step: tuple[float, float]
    taps: NDArray[np.float64]
    trimmed: bool
    reach: tuple[tuple[float, float], tuple[float, float]]


class FineStars:
    """Draws stars from the samples of a PSF's basis.

    Parameters
    ----------
    basis : SubPixelBasis
        The PSF's basis between pixels.
    """

    def __init__(self, basis: SubPixelBasis) -> None:
        grid = basis.grid
        # Columns become rows, so that the taps along x, too, are sums of what lies side by side.
        samples = np.ascontiguousarray(grid.samples.transpose(0, 2, 1))
        self._basis = SinglePrecisionBasis(samples, rotate=not basis.few)
        self._few = basis.few
        _, my, mx = grid.samples.shape
        self._grid = _Grid(my, mx, grid.source_place, grid.step, grid.taps, grid.trimmed, grid.reach)
        self._half = basis.shape[0] // 2, basis.shape[1] // 2

    def add(
        self,
        canvas: Canvas,
        coefficients: NDArray[np.float64],
        x: NDArray[np.float64],
        y: NDArray[np.float64],
        amplitude: NDArray[np.float64],
        deposited: NDArray[np.float64],
        clipped: NDArray[np.bool_],
    ) -> None:
        """Add N stars to the canvas, in the order given.

        Parameters
        ----------
        canvas : Canvas
            Changed in place.
        coefficients : ndarray, shape (N, B)
            Of the PSF's basis.
        x, y : ndarray, shape (N,)
            Parent pixel coordinates.
        amplitude : ndarray, shape (N,)
            Flux times what the kernel is multiplied by.
        deposited, clipped : ndarray, shape (N,)
            Arrays for the flux that landed, and for whether part of the star lay off the canvas.
        """
        weights = self._basis.weights(coefficients)
        at = x - canvas.x0, y - canvas.y0
        rows, few = self._basis.rows, self._few
        _add(canvas.model, weights, rows, few, self._grid, self._half, at, amplitude, deposited, clipped)


@compiled
def _add(
    model: NDArray[np.float32],
    weights: NDArray[np.float32],
    images: NDArray[np.float32],
    few: bool,
    grid: _Grid,
    half: tuple[int, int],
    at: tuple[NDArray[np.float64], NDArray[np.float64]],
    amplitude: NDArray[np.float64],
    deposited: NDArray[np.float64],
    clipped: NDArray[np.bool_],
) -> None:  # pragma: no cover - compiled
    x, y = at
    rows, columns = model.shape
    ny, nx, width = 2 * half[0] + 1, 2 * half[1] + 1, grid.taps.shape[1]
    # Lines are as long as whole vectors; what is in the last one beyond their end is not used.
    long_y, long_x = (grid.rows + LANES - 1) // LANES * LANES, (nx + LANES - 1) // LANES * LANES
    samples = np.zeros(grid.columns * grid.rows + LANES, dtype=np.float32)
    star = samples[: grid.columns * grid.rows].reshape((1, -1))
    along_x, lines = np.zeros(nx * long_y, dtype=np.float32), np.zeros(grid.rows * long_x, dtype=np.float32)
    line = np.zeros(long_x, dtype=np.float32)
    first_x, first_y = np.empty(nx, dtype=np.int64), np.empty(ny, dtype=np.int64)
    taps_x, taps_y = np.zeros((nx, width), dtype=np.float32), np.zeros((ny, width), dtype=np.float32)
    for s in range(x.size):
        ix, iy = int(np.floor(x[s] + 0.5)), int(np.floor(y[s] + 0.5))
        x0, y0 = ix - half[1], iy - half[0]
        i0, i1 = _taps(grid, 1, x[s] - ix, half[1], 1.0, first_x, taps_x)
        j0, j1 = _taps(grid, 0, y[s] - iy, half[0], amplitude[s], first_y, taps_y)
        clipped[s] = x0 + i0 < 0 or y0 + j0 < 0 or x0 + i1 > columns or y0 + j1 > rows
        i0, i1 = max(i0, -x0), min(i1, columns - x0)
        j0, j1 = max(j0, -y0), min(j1, rows - y0)
        if i0 >= i1 or j0 >= j1:
            continue
        if few:
            _combine_few(weights[s], images, samples[: star.size])
        else:
            combine_into(weights[s : s + 1], images, star)
        for i in range(i0, i1):
            _sum_lines(samples, first_x[i], grid.columns, grid.rows, taps_x[i], along_x, i * long_y, long_y)
        for i in range(i0, i1):
            for j in range(grid.rows):
                lines[j * long_x + i] = along_x[i * long_y + j]
        total = 0.0
        for j in range(j0, j1):
            _sum_lines(lines, first_y[j], grid.rows, long_x, taps_y[j], line, 0, long_x)
            into = model[y0 + j]
            part = 0.0
            for i in range(i0, i1):
                into[x0 + i] += line[i]
                part += line[i]
            total += part
        deposited[s] = total


@compiled
def _combine_few(
    weights: NDArray[np.float32], images: NDArray[np.float32], out: NDArray[np.float32]
) -> None:  # pragma: no cover - compiled
    """Sum images, leaving out those whose weight is zero."""
    out[:] = np.float32(0.0)
    for b in range(weights.size):
        w = weights[b]
        if w != np.float32(0.0):
            row = images[b]
            for p in range(out.size):
                out[p] += w * row[p]


@compiled
def _taps(
    grid: _Grid,
    axis: int,
    f: float,
    half: int,
    factor: float,
    first: NDArray[np.int64],
    taps: NDArray[np.float32],
) -> tuple[int, int]:  # pragma: no cover - compiled
    """Compute the taps of the pixels -half ... half along an axis, for a star f pixels away from pixel 0.

    Returns the first pixel, counted from -half, that is within the model's reach, and the first one after the last.
    """
    n = grid.rows if axis == 0 else grid.columns
    low, high = grid.reach[axis]
    center, step = grid.center[axis], grid.step[axis]
    width, phases = grid.taps.shape[1], grid.taps.shape[0] - 1
    begin, end = 2 * half + 1, 0
    for i in range(2 * half + 1):
        offset = i - half - f
        if offset < low or offset > high:
            continue
        begin, end = min(begin, i), i + 1
        place = center + offset / step
        before = int(np.floor(place))
        position = (place - before) * phases
        k = min(int(position), phases - 1)
        part = position - k
        first[i] = before - width // 2 + 1
        total = 0.0
        for t in range(width):
            there = 0 <= first[i] + t < n
            value = (1.0 - part) * grid.taps[k, t] + part * grid.taps[k + 1, t] if there else 0.0
            taps[i, t] = value
            total += value
        scale = factor / total if grid.trimmed and total != 0.0 else factor
        for t in range(width):
            taps[i, t] = np.float32(scale * taps[i, t])
    return begin, end


@compiled
def _sum_lines(
    source: NDArray[np.float32],
    first: int,
    n: int,
    length: int,
    taps: NDArray[np.float32],
    out: NDArray[np.float32],
    place: int,
    n_out: int,
) -> None:  # pragma: no cover - compiled
    """Sum lines `first`, `first` + 1, ... of n, each of `length`, times their taps; lines beyond the n are zero."""
    begin, end = max(0, -first), min(taps.size, n - first)
    for i in range(0, n_out, LANES):
        total = spread(np.float32(0.0))
        # The last lines' vectors reach into what follows: so does the room for it.
        for t in range(begin, end):
            total = fused(spread(taps[t]), load(source, (first + t) * length + i), total)
        store(out, place + i, total)
