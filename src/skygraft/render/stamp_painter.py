"""Stamps, drawn natively: at any scale, rotation and parity, convolved with the PSF or as they are.

With u = A (p - c) + m the place in the stamp of pixel p of the image (c the source's position, m the middle of the
stamp), the light in pixel p is |det A| s(u), s the stamp's band-limited light between its pixels. A follows from the
Jacobians of both WCSs: A = B^-1 T^-1 J, where J and B are arcsec per pixel of the image and of the stamp and T turns on
the sky; A is a unit matrix for stamps that keep the image's pixel axes.

* A stamp that is not convolved, with pixels about as large as the image's or larger, is looked up in real space, 6 by 6
  taps a pixel (`skygraft.render.stamp_grids`). If its axes are the image's and it lies on whole pixels, it is added as
  it is.
* All others are drawn in Fourier space: the transform of the stamp at A^-T k times the PSF's at k, and the inverse
  transform, in a box as large as both. What is beyond the stamp's own Nyquist frequency is zero. If the stamp has finer
  pixels than the image and is not convolved, what is beyond the image's Nyquist frequency is left out: flux is kept,
  and nothing is aliased.

Each stamp is drawn by itself, so that it depends on nothing but itself, the PSF and its place.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skygraft.errors import InjectionError
from skygraft.jit import compiled
from skygraft.psf.linear import aligned
from skygraft.render.canvas import Canvas
from skygraft.render.prepared import FOLDS, EvaluatedPsf
from skygraft.render.profiles import MAX_STAMP, largest_transform
from skygraft.render.stamp_files import Stamp
from skygraft.render.stamp_grids import FRAME, PAD, TAPS, fine_pixels, fine_spectrum, table
from skygraft.render.stamp_placing import PlacedStamps
from skygraft.render.transforms import Plan, plan_of, room_for, to_image
from skygraft.render.vectors import LANES, fused, load, spread, store

__all__ = ["DrawnStamps", "StampPainter"]

_SIZES = tuple(sorted(m << e for m in (8, 10, 12) for e in range(2, 11) if (m << e) % 16 == 0 and m << e <= MAX_STAMP))
"""Sizes of boxes, multiples of 16 pixels; for each the PSF's basis is transformed, so that there should not be many."""
_LARGEST_STEP = 1.4
"""Stamp pixels from one pixel of the image to the next up to which light is looked up in real space.

Sums over pixels, and so flux and centroid, are exact to a step of two along the stamp's axes, and to the square root of
two in any direction.
"""
_BEYOND = 1e-4
"""Largest part of the PSF, relative to its peak, beyond the frequencies of the grid that a stamp is drawn on."""
_WHOLE = 1e-6
"""Pixels: the error of a WCS round trip, up to which a stamp lies on whole pixels."""


@dataclass(frozen=True, eq=False)
class DrawnStamps:
    """What drawing one stamp did.

    Parameters
    ----------
    deposited : float
        Flux that landed on the canvas.
    size : int
        Longer side of what was drawn, pixels.
    clipped, cut : bool
        Whether part of it lay off the canvas, and whether part was left out by its draw_size.
    """

    deposited: float
    size: int
    clipped: bool
    cut: bool


class StampPainter:
    """Draws stamps on one canvas.

    Parameters
    ----------
    canvas : Canvas
        Changed in place.
    """

    def __init__(self, canvas: Canvas) -> None:
        self._canvas = canvas
        self._rooms: dict[int, tuple[Plan, NDArray[np.float32], NDArray[np.float32]]] = {}

    def add(
        self,
        placed: PlacedStamps,
        k: int,
        at: tuple[float, float],
        amplitude: float,
        draw_size: int,
        psf: EvaluatedPsf | None,
    ) -> DrawnStamps:
        """Add one stamp.

        Parameters
        ----------
        placed : PlacedStamps
            Some stamps.
        k : int
            Which of them, and of the positions of `psf`.
        at : (float, float)
            Position of its middle, parent pixels.
        amplitude : float
            What its pixels are multiplied by, before the PSF.
        draw_size : int
            Longest side that may be drawn, pixels; 0 for any.
        psf : EvaluatedPsf or None
            The PSF; None for a stamp that is not convolved.

        Raises
        ------
        InjectionError
            If it needs a larger box than is allowed on the image, or its position makes no sense.
        """
        stamp, step = placed.stamps[k], float(placed.step[k])
        if isinstance(stamp, Exception):
            raise stamp
        if not (math.isfinite(step) and np.isfinite(placed.inverse[k, 0, 0])):
            raise InjectionError("the image's WCS, or the stamp's, cannot be inverted at its place", key="stamp")
        most = ((min(draw_size, MAX_STAMP) if draw_size > 0 else MAX_STAMP) - 1) // 2
        if psf is None:
            if placed.is_unit[k] and _on_pixels(stamp, at):
                return self._add_as_it_is(stamp, at, amplitude, most)
            if step <= _LARGEST_STEP:
                return self._add_between_pixels(stamp, placed, k, at, amplitude, most)
        return self._add_by_transform(stamp, placed, k, at, amplitude, most, psf)

    def _add_as_it_is(self, stamp: Stamp, at: tuple[float, float], amplitude: float, most: int) -> DrawnStamps:
        ny, nx = stamp.pixels.shape
        x0, y0 = round(at[0] - 0.5 * (nx - 1)), round(at[1] - 0.5 * (ny - 1))
        left, bottom = max(0, (nx - 1) // 2 - most), max(0, (ny - 1) // 2 - most)
        part = stamp.pixels[bottom : ny - bottom, left : nx - left].astype(np.float64) * amplitude
        deposited, clipped = self._canvas.add(np.ascontiguousarray(part), x0 + left, y0 + bottom)
        return DrawnStamps(deposited, max(part.shape), clipped, part.shape != (ny, nx))

    def _add_between_pixels(
        self, stamp: Stamp, placed: PlacedStamps, k: int, at: tuple[float, float], amplitude: float, most: int
    ) -> DrawnStamps:
        fine, (ny, nx) = fine_pixels(stamp), stamp.pixels.shape
        (a, b), (c, d) = placed.matrix[k].tolist()
        (hx, hy), (more_x, more_y) = placed.half[k].tolist(), placed.per_margin[k].tolist()
        wanted = math.ceil(hx + fine.margin * more_x), math.ceil(hy + fine.margin * more_y)
        half = min(wanted[0], most), min(wanted[1], most)
        cx, cy = round(at[0]), round(at[1])
        x, y = at[0] - cx, at[1] - cy
        # In numbers of the grid, of which there are two a pixel.
        first = (
            2.0 * (FRAME + 0.5 * (nx - 1) - a * x - b * y) + PAD,
            2.0 * (FRAME + 0.5 * (ny - 1) - c * x - d * y) + PAD,
        )
        least = 2.0 * (FRAME - fine.margin - 0.5) + PAD
        limits = least, least + 2.0 * (nx + 2 * fine.margin), least, least + 2.0 * (ny + 2 * fine.margin)
        value = amplitude * fine.scale * abs(float(placed.determinant[k]))
        to = cx - self._canvas.x0, cy - self._canvas.y0
        steps = 2.0 * a, 2.0 * b, 2.0 * c, 2.0 * d
        deposited = _interpolate(
            self._canvas.model, fine.values, fine.columns, table(), steps, first, limits, to, half, value
        )
        clipped = self._canvas.clips(cx - half[0], cy - half[1], 2 * half[0] + 1, 2 * half[1] + 1)
        return DrawnStamps(deposited, 2 * max(half) + 1, clipped, half != wanted)

    def _add_by_transform(
        self,
        stamp: Stamp,
        placed: PlacedStamps,
        k: int,
        at: tuple[float, float],
        amplitude: float,
        most: int,
        psf: EvaluatedPsf | None,
    ) -> DrawnStamps:
        ny, nx = stamp.pixels.shape
        kernel = max(psf.prepared.psf.shape) // 2 + 1 if psf is not None else FRAME
        wanted = math.ceil(placed.half_side(k, 1.0)) + kernel
        pixels = next((size for size in _SIZES if size >= 2 * wanted + 1), 2 * wanted + 1)
        fold = self._fold(psf, pixels)
        n, largest = pixels * fold, largest_transform(self._canvas.model.shape)
        if n > largest:
            raise InjectionError(
                f"the stamp needs a transform of {n} pixels a side; {largest} are allowed on this image",
                fix="Cut out its part with light, or leave it out",
            )
        if psf is None:
            spectrum, origin = _ones(n), (0, 0)
        else:
            spectrum, origin = psf.transforms(np.array([k]), pixels, fold).reshape(-1), psf.origin
        fine = fine_spectrum(stamp)
        cx, cy = round(at[0]), round(at[1])
        (a, b), (c, d) = placed.inverse[k].tolist()
        # From the middle of the stamp to the pixel that its transform has as origin.
        x, y = nx // 2 - 0.5 * (nx - 1), ny // 2 - 0.5 * (ny - 1)
        moved = (
            fold * (at[0] - cx + a * x + b * y) + n // 2 + origin[0],
            fold * (at[1] - cy + c * x + d * y) + n // 2 + origin[1],
        )
        # From a frequency of the box to numbers of the stamp's grid.
        along_x, along_y = fine.size[1] * fold / n, fine.size[0] * fold / n
        steps = a * along_x, c * along_x, b * along_y, d * along_y
        value = amplitude * fine.scale * (fold / n) ** 2
        _multiply(spectrum, n, fine.real, fine.imaginary, fine.columns, fine.size, table(), steps, moved, value)
        plan, room, image = self._room(n)
        # Whole, where nothing else ends it: what rings beyond the box comes in again on the other side.
        half = min(most, pixels // 2 if psf is None else wanted)
        to = cx - self._canvas.x0, cy - self._canvas.y0
        deposited = _add_box(self._canvas.model, spectrum, image, plan, room, fold, to, half)
        clipped = self._canvas.clips(cx - half, cy - half, 2 * half + 1, 2 * half + 1)
        return DrawnStamps(deposited, 2 * half + 1, clipped, half < wanted)

    def _fold(self, psf: EvaluatedPsf | None, pixels: int) -> int:
        """Factor by which the grid is finer than pixels, where these are too coarse for the PSF."""
        if psf is None or psf.prepared.between is None:
            return 1
        for fold, missed in zip(FOLDS, psf.prepared.missed, strict=True):
            if missed <= _BEYOND or 2 * fold * pixels > MAX_STAMP:
                return fold
        return FOLDS[-1]

    def _room(self, n: int) -> tuple[Plan, NDArray[np.float32], NDArray[np.float32]]:
        if n not in self._rooms:
            self._rooms = {n: (plan_of(n), room_for(n), aligned((n * n,)))}
        return self._rooms[n]


def _on_pixels(stamp: Stamp, at: tuple[float, float]) -> bool:
    """Whether a stamp with the image's axes has its pixels on those of the image."""
    ny, nx = stamp.pixels.shape
    first = at[0] - 0.5 * (nx - 1), at[1] - 0.5 * (ny - 1)
    return all(abs(value - round(value)) < _WHOLE for value in first)


def _ones(n: int) -> NDArray[np.float32]:
    """Half spectrum of a point on a pixel; see `skygraft.render.transforms`."""
    spectrum = np.zeros((n * (n + 2) // (2 * LANES), 2, LANES), dtype=np.float32)
    spectrum[:, 0] = 1.0
    return spectrum.reshape(-1)


@compiled(inline="always")
def _taps(
    table: NDArray[np.float32], place: float, out: NDArray[np.float32]
) -> tuple[int, Any]:  # pragma: no cover - compiled
    """Return the first of the numbers that a place is summed from, and their weights, also stored in `out`."""
    start = place - 0.5 * TAPS
    first = int(np.ceil(start))
    phases = len(table) // LANES - 1
    position = (first - start) * phases
    k = min(int(position), phases - 1)
    part = np.float32(position - k)
    low, high = load(table, k * LANES), load(table, (k + 1) * LANES)
    weights = fused(spread(part), high - low, low)
    store(out, 0, weights)
    return first, weights


@compiled(inline="always")
def _sum_rows(
    values: NDArray[np.float32], at: int, columns: int, wy: NDArray[np.float32]
) -> Any:  # pragma: no cover - compiled
    """Sum `TAPS` rows of eight numbers with their weights."""
    total = spread(wy[0]) * load(values, at)
    for r in range(1, TAPS):
        total = fused(spread(wy[r]), load(values, at + r * columns), total)
    return total


@compiled(inline="always")
def _sum_six(values: Any, out: NDArray[np.float32]) -> float:  # pragma: no cover - compiled
    store(out, 0, values)
    total: float = ((out[0] + out[1]) + (out[2] + out[3])) + (out[4] + out[5])
    return total


@compiled(reads=("values", "table"))
def _interpolate(
    model: NDArray[np.float32],
    values: NDArray[np.float32],
    columns: int,
    table: NDArray[np.float32],
    steps: tuple[float, float, float, float],
    first: tuple[float, float],
    limits: tuple[float, float, float, float],
    at: tuple[int, int],
    half: tuple[int, int],
    amplitude: float,
) -> float:  # pragma: no cover - compiled
    """Add a stamp whose places on its grid are ``first + steps (i, j)``, (i, j) counted from the pixel `at`."""
    rows, row_length = model.shape
    wx, wy, lane = np.empty(LANES, np.float32), np.empty(LANES, np.float32), np.empty(LANES, np.float32)
    deposited = 0.0
    straight = steps[2] == 0.0
    line = np.empty(columns + LANES if straight else LANES, np.float32)
    for j in range(max(-half[1], -at[1]), min(half[1], rows - 1 - at[1]) + 1):
        bx, by = first[0] + steps[1] * j, first[1] + steps[3] * j
        low, high = max(-half[0], -at[0]), min(half[0], row_length - 1 - at[0])
        low, high = _inside(steps[0], bx, limits[0], limits[1], low, high)
        low, high = _inside(steps[2], by, limits[2], limits[3], low, high)
        if high < low:
            continue
        into = model[at[1] + j]
        if straight:
            row, _ = _taps(table, by, wy)
            for x in range(0, columns - LANES + 1, LANES):
                store(line, x, _sum_rows(values, row * columns + x, columns, wy))
            store(line, columns - LANES, _sum_rows(values, row * columns + columns - LANES, columns, wy))
        for i in range(low, high + 1):
            column, weights = _taps(table, bx + steps[0] * i, wx)
            if straight:
                value = _sum_six(weights * load(line, column), lane)
            else:
                row, _ = _taps(table, by + steps[2] * i, wy)
                value = _sum_six(weights * _sum_rows(values, row * columns + column, columns, wy), lane)
            added = np.float32(amplitude * value)
            into[at[0] + i] += added
            deposited += np.float64(added)
    return deposited


@compiled(inline="always")
def _inside(
    step: float, begin: float, least: float, most: float, low: int, high: int
) -> tuple[int, int]:  # pragma: no cover - compiled
    """Return which of the pixels low to high have ``begin + step i`` from `least` to below `most`."""
    if step == 0.0:
        return (low, high) if least <= begin < most else (low, low - 1)
    one, other = (least - begin) / step, (most - begin) / step
    if step < 0.0:
        one, other = other, one
    first, last = int(np.ceil(max(one, low - 1.0))), int(np.floor(min(other, high + 1.0)))
    # Exactly, whatever the division is rounded to: no pixel is counted twice or not at all.
    while first <= last and not (least <= begin + step * first < most):
        first += 1
    while last >= first and not (least <= begin + step * last < most):
        last -= 1
    return max(first, low), min(last, high)


@compiled
def _multiply(
    spectrum: NDArray[np.float32],
    n: int,
    real: NDArray[np.float32],
    imaginary: NDArray[np.float32],
    columns: int,
    size: tuple[int, int],
    table: NDArray[np.float32],
    steps: tuple[float, float, float, float],
    moved: tuple[float, float],
    amplitude: float,
) -> None:  # pragma: no cover - compiled
    """Multiply a half spectrum by that of a stamp at frequencies ``steps (kx, ky)`` of its grid, and move it.

    The box's Nyquist frequencies, which stand for both signs, are set to zero.
    """
    half = n // 2
    wx, wy, lane = np.empty(LANES, np.float32), np.empty(LANES, np.float32), np.empty(LANES, np.float32)
    x_re, x_im, y_re, y_im = np.empty(n), np.empty(n), np.empty(n), np.empty(n)
    _turn(x_re, x_im, moved[0], amplitude)
    _turn(y_re, y_im, moved[1], 1.0)
    limit_x, limit_y = 0.5 * size[1], 0.5 * size[0]
    for j in range(n):
        m = j if j < half else j - n
        for i in range(half):
            at = j * n + i // LANES * (2 * LANES) + i % LANES
            gx, gy = steps[0] * m + steps[1] * i, steps[2] * m + steps[3] * i
            if j == half or abs(gx) >= limit_x or abs(gy) >= limit_y:
                spectrum[at] = spectrum[at + LANES] = 0.0
                continue
            sign = 1.0
            if gx < 0.0:
                gx, gy, sign = -gx, -gy, -1.0
            column, weights = _taps(table, gx + PAD, wx)
            row, _ = _taps(table, gy + PAD + size[0] // 2, wy)
            place = row * columns + column
            a = np.float64(_sum_six(weights * _sum_rows(real, place, columns, wy), lane))
            b = sign * np.float64(_sum_six(weights * _sum_rows(imaginary, place, columns, wy), lane))
            c, d = x_re[j] * y_re[i] - x_im[j] * y_im[i], x_re[j] * y_im[i] + x_im[j] * y_re[i]
            a, b = a * c - b * d, a * d + b * c
            c, d = np.float64(spectrum[at]), np.float64(spectrum[at + LANES])
            spectrum[at], spectrum[at + LANES] = np.float32(a * c - b * d), np.float32(a * d + b * c)
    spectrum[n * n :] = 0.0


@compiled(inline="always")
def _turn(
    re: NDArray[np.float64], im: NDArray[np.float64], moved: float, amplitude: float
) -> None:  # pragma: no cover - compiled
    """Compute ``amplitude exp(-2 pi i m moved / n)`` for m = 0 ... n/2 - 1, and from -n/2 on in the other half."""
    n = len(re)
    for j in range(n):
        m = j if j < n // 2 else j - n
        angle = -2.0 * np.pi * (m * moved / n)
        re[j], im[j] = amplitude * np.cos(angle), amplitude * np.sin(angle)


@compiled
def _add_box(
    model: NDArray[np.float32],
    spectrum: NDArray[np.float32],
    image: NDArray[np.float32],
    plan: Plan,
    room: NDArray[np.float32],
    fold: int,
    at: tuple[int, int],
    half: int,
) -> float:  # pragma: no cover - compiled
    """Transform a spectrum back, and add the middle of the box to the pixels around `at`; return what landed."""
    n = plan.n
    to_image(spectrum, image, plan, room)
    middle = n // 2 // fold
    rows, columns = model.shape
    low, high = -min(half, middle), min(half, n // fold - 1 - middle)
    deposited = 0.0
    for j in range(max(low, -at[1]), min(high, rows - 1 - at[1]) + 1):
        start = (j + middle) * fold * n + middle * fold
        into = model[at[1] + j]
        for i in range(max(low, -at[0]), min(high, columns - 1 - at[0]) + 1):
            value = image[start + i * fold]
            into[at[0] + i] += value
            deposited += value
    return deposited
