"""Stars: the PSF kernel at the star's own position, scaled, shifted by a fraction of a pixel and added.

Stars are added one after the other in the order given (injection id), so that a pixel's sum depends only on the stars
that touch it. See `skygraft.render.shift` for the shift.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from skygraft.jit import compiled
from skygraft.render.canvas import Canvas
from skygraft.render.shift import N_TAPS, TAP_FIRST, TapTable, fourier_shift

__all__ = ["add_stars", "add_stars_by_taps", "shifted_kernel"]


def shifted_kernel(
    kernel: NDArray[np.float64], fx: float, fy: float, taps: tuple[TapTable, TapTable]
) -> NDArray[np.float64]:
    """A kernel moved by (fx, fy) in 0 ... 1 pixels.

    Parameters
    ----------
    kernel : ndarray, shape (ny, nx)
        Centred on its middle pixel.
    fx, fy : float
        Shift in pixels, towards larger x and y.
    taps : pair of ndarray
        From `skygraft.render.shift.fit_taps`.

    Returns
    -------
    ndarray, shape (ny + 9, nx + 9)
        Its pixel [4 + ny // 2, 4 + nx // 2] is the one that the kernel's middle pixel was.
    """
    return _shift(np.ascontiguousarray(kernel, dtype=np.float64), fx, fy, *taps)


def add_stars(
    canvas: Canvas,
    kernels: NDArray[np.float64],
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    amplitude: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Add one star per kernel to the canvas, shifted exactly.

    Parameters
    ----------
    canvas : Canvas
        Changed in place.
    kernels : ndarray, shape (N, ny, nx)
        PSF kernels at the stars' positions.
    x, y : ndarray, shape (N,)
        Parent pixel coordinates.
    amplitude : ndarray, shape (N,)
        What each kernel is multiplied by, image units.

    Returns
    -------
    deposited : ndarray, shape (N,)
        Flux that landed on the canvas.
    clipped : ndarray of bool, shape (N,)
        Whether part of the star's kernel lay off the canvas.
    """
    ix, iy = np.round(x).astype(np.int64), np.round(y).astype(np.int64)
    shifted, margin = fourier_shift(kernels, x - ix, y - iy)
    deposited = np.zeros(len(x))
    clipped = np.zeros(len(x), dtype=np.bool_)
    _, ny, nx = shifted.shape
    for s in range(len(x)):
        x0, y0 = int(ix[s]) - nx // 2, int(iy[s]) - ny // 2
        deposited[s], _ = canvas.add(amplitude[s] * shifted[s], x0, y0)
        clipped[s] = canvas.clips(x0 + margin, y0 + margin, nx - 2 * margin, ny - 2 * margin)
    return deposited, clipped


def add_stars_by_taps(
    canvas: Canvas,
    kernels: NDArray[np.float64],
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    amplitude: NDArray[np.float64],
    taps: tuple[TapTable, TapTable],
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Add one star per kernel to the canvas, shifted by fitted taps: as `add_stars`, several times faster.

    Parameters
    ----------
    taps : pair of ndarray
        From `skygraft.render.shift.fit_taps`; the others as in `add_stars`.
    """
    deposited = np.zeros(len(x))
    clipped = np.zeros(len(x), dtype=np.bool_)
    _add_all(
        canvas.model, np.ascontiguousarray(kernels), x - canvas.x0, y - canvas.y0, amplitude, *taps, deposited, clipped
    )
    return deposited, clipped


@compiled
def _taps_at(table: TapTable, f: float, out: NDArray[np.float64]) -> None:
    position = f * (table.shape[0] - 1)
    i = min(int(position), table.shape[0] - 2)
    t = position - i
    for j in range(N_TAPS):
        out[j] = (1.0 - t) * table[i, j] + t * table[i + 1, j]


@compiled
def _shift_into(
    kernel: NDArray[np.float64],
    wx: NDArray[np.float64],
    wy: NDArray[np.float64],
    rows: NDArray[np.float64],
    out: NDArray[np.float64],
) -> None:
    ny, nx = kernel.shape
    rows[:] = 0.0
    for t in range(N_TAPS):
        w = wy[t]
        for j in range(ny):
            for i in range(nx):
                rows[j + t, i] += w * kernel[j, i]
    out[:] = 0.0
    for j in range(ny + N_TAPS - 1):
        for t in range(N_TAPS):
            w = wx[t]
            for i in range(nx):
                out[j, i + t] += w * rows[j, i]


@compiled
def _shift(
    kernel: NDArray[np.float64], fx: float, fy: float, taps_x: TapTable, taps_y: TapTable
) -> NDArray[np.float64]:
    ny, nx = kernel.shape
    wx, wy = np.empty(N_TAPS), np.empty(N_TAPS)
    _taps_at(taps_x, fx, wx)
    _taps_at(taps_y, fy, wy)
    rows = np.empty((ny + N_TAPS - 1, nx))
    out = np.empty((ny + N_TAPS - 1, nx + N_TAPS - 1))
    _shift_into(kernel, wx, wy, rows, out)
    return out


@compiled
def _add_all(
    model: NDArray[np.float32],
    kernels: NDArray[np.float64],
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    amplitude: NDArray[np.float64],
    taps_x: TapTable,
    taps_y: TapTable,
    deposited: NDArray[np.float64],
    clipped: NDArray[np.bool_],
) -> None:
    n, ny, nx = kernels.shape
    rows_n, columns_n = model.shape
    wx, wy = np.empty(N_TAPS), np.empty(N_TAPS)
    rows = np.empty((ny + N_TAPS - 1, nx))
    out = np.empty((ny + N_TAPS - 1, nx + N_TAPS - 1))
    for s in range(n):
        ix, iy = int(np.floor(x[s])), int(np.floor(y[s]))
        _taps_at(taps_x, x[s] - ix, wx)
        _taps_at(taps_y, y[s] - iy, wy)
        _shift_into(kernels[s], wx, wy, rows, out)
        x0, y0 = ix - nx // 2 + TAP_FIRST, iy - ny // 2 + TAP_FIRST
        j0, j1 = max(0, -y0), min(out.shape[0], rows_n - y0)
        i0, i1 = max(0, -x0), min(out.shape[1], columns_n - x0)
        total = 0.0
        for j in range(j0, j1):
            for i in range(i0, i1):
                value = amplitude[s] * out[j, i]
                total += value
                model[y0 + j, x0 + i] += np.float32(value)
        deposited[s] = total
        kx, ky = x0 - TAP_FIRST, y0 - TAP_FIRST
        clipped[s] = kx < 0 or ky < 0 or kx + nx > columns_n or ky + ny > rows_n
