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
  pixels than the image and is not convolved, what is beyond the image's Nyquist frequency is left out: flux is kept, and
  nothing is aliased.

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
from skygraft.render.sources import Sources
from skygraft.render.stamp_files import Stamp, read_stamps
from skygraft.render.stamp_grids import FRAME, PAD, TAPS, fine_pixels, fine_spectrum, table
from skygraft.render.transforms import Plan, plan_of, room_for, to_image
from skygraft.render.vectors import LANES, fused, load, spread, store

__all__ = ["DrawnStamps", "PlacedStamps", "StampPainter", "place_stamps", "stamp_half_sizes"]

_SIZES = tuple(sorted(m << e for m in (8, 10, 12) for e in range(2, 11) if (m << e) % 16 == 0 and m << e <= MAX_STAMP))
"""Of boxes, multiples of 16 pixels; for each the PSF's basis is transformed, so that there should not be many."""
_LARGEST_STEP = 1.4
"""Stamp pixels from one pixel of the image to the next up to which light is looked up in real space.

Sums over pixels, and so flux and centroid, are exact to a step of two along the stamp's axes, and to the square root of
two in any direction.
"""
_BEYOND = 1e-4
"""Largest part of the PSF, relative to its peak, beyond the frequencies of the grid that a stamp is drawn on."""
_WHOLE = 1e-6
"""Pixels: what a WCS round trip is off from whole pixels."""


@dataclass(frozen=True, eq=False)
class PlacedStamps:
    """Some stamps on an image.

    Parameters
    ----------
    stamps : list of Stamp or Exception
        Their images, or why one cannot be used.
    matrix : ndarray, shape (N, 2, 2)
        A: stamp pixels per pixel of the image; NaN where there is no image.
    convolved : ndarray of bool, shape (N,)
        Whether they are to be convolved with the PSF.
    own_flux : ndarray of bool, shape (N,)
        Whether their flux is that of their pixels, so that a source's flux is that of one unit of them.
    """

    stamps: list[Stamp | Exception]
    matrix: NDArray[np.float64]
    convolved: NDArray[np.bool_]
    own_flux: NDArray[np.bool_]


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


def _texts(sources: Sources, name: str, rows: NDArray[np.intp]) -> NDArray[np.str_]:
    if name not in sources.shape:
        return np.full(len(rows), "")
    return np.char.strip(np.asarray(sources.shape[name])[rows].astype(np.str_))


def _numbers(sources: Sources, name: str, rows: NDArray[np.intp], default: float) -> NDArray[np.float64]:
    if name not in sources.shape:
        return np.full(len(rows), default)
    found = np.asarray(sources.shape[name], dtype=np.float64)[rows]
    return np.where(np.isfinite(found), found, default)


def place_stamps(sources: Sources, rows: NDArray[np.intp]) -> PlacedStamps:
    """Read the stamps of some sources, and find how their pixels lie on the image's.

    Parameters
    ----------
    sources : Sources
        With the Jacobians of the image, of lensed sources in arcsec before lensing.
    rows : ndarray of int, shape (N,)
        Those of type Stamp to read.
    """
    alignment, own_flux = _texts(sources, "stamp_alignment", rows), _texts(sources, "stamp_flux", rows) == "stamp"
    paths = _texts(sources, "stamp", rows).tolist()
    stamps = read_stamps(paths, _numbers(sources, "stamp_index", rows, -1.0).astype(np.int64).tolist())
    jacobian = sources.jacobian[rows]
    own = np.full((len(rows), 2, 2), np.nan)
    pixel = np.zeros(len(rows), dtype=np.bool_)
    for k, stamp in enumerate(stamps):
        if isinstance(stamp, Exception):
            continue
        try:
            if not own_flux[k]:
                stamp.check_flux(paths[k])
            if alignment[k] == "wcs" and stamp.jacobian is None:
                raise InjectionError(
                    "the stamp has no celestial WCS to align it by", path=paths[k], key="stamp_alignment",
                    fix="Write one into its header, or use stamp_alignment pixel",
                )  # fmt: skip
        except InjectionError as error:
            stamps[k] = error
            continue
        pixel[k] = stamp.jacobian is None or alignment[k] == "pixel"
        if not pixel[k]:
            own[k] = stamp.jacobian
    turn = _turns(_numbers(sources, "stamp_rotation", rows, 0.0))
    lensing = _lensing(sources, rows)
    usable = ~np.isnan(own[:, 0, 0])
    matrix = np.full_like(own, np.nan)
    with np.errstate(all="ignore"):
        matrix[usable] = np.linalg.solve(turn[usable] @ own[usable], jacobian[usable])
        # Their own axes are those of the image before lensing.
        turned = pixel & ((turn != np.eye(2)).any(axis=(1, 2)) | (lensing != np.eye(2)).any(axis=(1, 2)))
        of_image = lensing[turned] @ jacobian[turned]
        of_image[~(np.abs(np.linalg.det(of_image)) > 0)] = np.nan
        matrix[turned] = np.linalg.solve(turn[turned] @ of_image, jacobian[turned])
    matrix[pixel & ~turned] = np.eye(2)
    return PlacedStamps(stamps, matrix, _texts(sources, "stamp_psf", rows) != "none", own_flux)


def _turns(angle: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rotations on the sky (East, North) by angles in degrees from North towards East, shape (N, 2, 2)."""
    sine, cosine = np.sin(np.radians(angle)), np.cos(np.radians(angle))
    return np.stack([np.stack([cosine, sine], -1), np.stack([-sine, cosine], -1)], axis=-2)


def _lensing(sources: Sources, rows: NDArray[np.intp]) -> NDArray[np.float64]:
    """Matrices from the sky before lensing to that after it, in (East, North), shape (N, 2, 2)."""
    shear, magnification = _numbers(sources, "shear", rows, 0.0), _numbers(sources, "magnification", rows, 1.0)
    twice = 2.0 * np.radians(_numbers(sources, "shear_pa", rows, 0.0))
    stretch = np.sqrt(magnification / (1.0 - shear**2))
    along, across = shear * np.cos(twice), shear * np.sin(twice)
    parts = np.stack([np.stack([1.0 - along, across], -1), np.stack([across, 1.0 + along], -1)], axis=-2)
    return np.asarray(stretch[:, None, None] * parts)


def stamp_half_sizes(matrix: NDArray[np.float64], shape: tuple[int, int], margin: float) -> tuple[float, float]:
    """Half the sides (x, y) of the box around a stamp, pixels of the image.

    Parameters
    ----------
    matrix : ndarray, shape (2, 2)
        A: stamp pixels per pixel of the image.
    shape : (int, int)
        Rows and columns of the stamp.
    margin : float
        Stamp pixels to add on each side.
    """
    (a, b), (c, d) = matrix.tolist()
    determinant = abs(a * d - b * c)
    if not determinant > 0:
        return math.inf, math.inf
    hy, hx = 0.5 * shape[0] + margin, 0.5 * shape[1] + margin
    return (abs(d) * hx + abs(b) * hy) / determinant, (abs(c) * hx + abs(a) * hy) / determinant


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
        stamp: Stamp,
        matrix: NDArray[np.float64],
        at: tuple[float, float],
        amplitude: float,
        draw_size: int,
        psf: EvaluatedPsf | None,
        place: int = 0,
    ) -> DrawnStamps:
        """Add one stamp.

        Parameters
        ----------
        stamp : Stamp
            Its image.
        matrix : ndarray, shape (2, 2)
            A: stamp pixels per pixel of the image.
        at : (float, float)
            Position of its middle, parent pixels.
        amplitude : float
            What its pixels are multiplied by, before the PSF.
        draw_size : int
            Longest side that may be drawn, pixels; 0 for any.
        psf : EvaluatedPsf or None
            The PSF at some positions; None for a stamp that is not convolved.
        place : int, optional
            Which of them is its own.

        Raises
        ------
        InjectionError
            If it needs a larger box than is allowed on the image, or its position makes no sense.
        """
        if not (np.isfinite(matrix).all() and abs(float(np.linalg.det(matrix))) > 0):
            raise InjectionError("the image's WCS, or the stamp's, cannot be inverted at its place", key="stamp")
        most = (min(draw_size, MAX_STAMP) if draw_size > 0 else MAX_STAMP) - 1
        if psf is None:
            if (matrix == np.eye(2)).all() and _on_pixels(stamp, at):
                return self._add_as_it_is(stamp, at, amplitude, most // 2)
            if float(np.linalg.norm(matrix, 2)) <= _LARGEST_STEP:
                return self._add_between_pixels(stamp, matrix, at, amplitude, most // 2)
        return self._add_by_transform(stamp, matrix, at, amplitude, most // 2, psf, place)

    def _add_as_it_is(self, stamp: Stamp, at: tuple[float, float], amplitude: float, most: int) -> DrawnStamps:
        ny, nx = stamp.pixels.shape
        x0, y0 = round(at[0] - 0.5 * (nx - 1)), round(at[1] - 0.5 * (ny - 1))
        left, bottom = max(0, (nx - 1) // 2 - most), max(0, (ny - 1) // 2 - most)
        part = stamp.pixels[bottom : ny - bottom, left : nx - left] * float(amplitude)
        deposited, clipped = self._canvas.add(part.astype(np.float64, order="C"), x0 + left, y0 + bottom)
        return DrawnStamps(deposited, max(part.shape), clipped, part.shape != (ny, nx))

    def _add_between_pixels(
        self, stamp: Stamp, matrix: NDArray[np.float64], at: tuple[float, float], amplitude: float, most: int
    ) -> DrawnStamps:
        fine, (ny, nx) = fine_pixels(stamp), stamp.pixels.shape
        wanted = [math.ceil(half) for half in stamp_half_sizes(matrix, (ny, nx), fine.margin)]
        half = min(wanted[0], most), min(wanted[1], most)
        cx, cy = round(at[0]), round(at[1])
        # In numbers of the grid, of which there are two a pixel.
        first = np.array([2.0 * (FRAME + 0.5 * (nx - 1)) + PAD, 2.0 * (FRAME + 0.5 * (ny - 1)) + PAD])
        first -= 2.0 * matrix @ np.array([at[0] - cx, at[1] - cy])
        least = 2.0 * (FRAME - fine.margin - 0.5) + PAD
        limits = least, least + 2.0 * (nx + 2 * fine.margin), least, least + 2.0 * (ny + 2 * fine.margin)
        value = amplitude * fine.scale * abs(float(np.linalg.det(matrix)))
        x0, y0 = cx - self._canvas.x0, cy - self._canvas.y0
        deposited = _interpolate(
            self._canvas.model, fine.values, fine.columns, table(), 2.0 * matrix, first, limits, (x0, y0), half, value
        )
        clipped = self._canvas.clips(cx - half[0], cy - half[1], 2 * half[0] + 1, 2 * half[1] + 1)
        return DrawnStamps(deposited, 2 * max(half) + 1, clipped, half != (wanted[0], wanted[1]))

    def _add_by_transform(
        self,
        stamp: Stamp,
        matrix: NDArray[np.float64],
        at: tuple[float, float],
        amplitude: float,
        most: int,
        psf: EvaluatedPsf | None,
        place: int,
    ) -> DrawnStamps:
        ny, nx = stamp.pixels.shape
        kernel = max(psf.prepared.psf.shape) // 2 + 1 if psf is not None else FRAME
        wanted = math.ceil(max(stamp_half_sizes(matrix, (ny, nx), 1.0))) + kernel
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
            spectrum, origin = psf.transforms(np.array([place]), pixels, fold).reshape(-1), psf.origin
        fine = fine_spectrum(stamp)
        cx, cy = round(at[0]), round(at[1])
        inverse = np.linalg.inv(matrix)
        # From the middle of the stamp to the pixel that its transform has as origin.
        offset = inverse @ np.array([nx // 2 - 0.5 * (nx - 1), ny // 2 - 0.5 * (ny - 1)])
        moved = (
            fold * (at[0] - cx + offset[0]) + n // 2 + origin[0],
            fold * (at[1] - cy + offset[1]) + n // 2 + origin[1],
        )
        # From a frequency of the box to numbers of the stamp's grid.
        steps = inverse.T * (np.array([[fine.size[1]], [fine.size[0]]]) * fold / n)
        value = amplitude * fine.scale * (fold / n) ** 2
        _multiply(spectrum, n, fine.real, fine.imaginary, fine.columns, fine.size, table(), steps, moved, value)
        plan, room, image = self._room(n)
        # Whole, where nothing else ends it: what rings beyond the box comes in again on the other side.
        half = min(most, pixels // 2 if psf is None else wanted)
        x0, y0 = cx - self._canvas.x0, cy - self._canvas.y0
        deposited = _add_box(self._canvas.model, spectrum, image, plan, room, fold, (x0, y0), half)
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
    position = (first - start) * (table.shape[0] - 1)
    k = min(int(position), table.shape[0] - 2)
    part = np.float32(position - k)
    flat = table.reshape(-1)
    low, high = load(flat, k * LANES), load(flat, (k + 1) * LANES)
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
    return ((out[0] + out[1]) + (out[2] + out[3])) + (out[4] + out[5])


@compiled(reads=("values", "table"))
def _interpolate(
    model: NDArray[np.float32],
    values: NDArray[np.float32],
    columns: int,
    table: NDArray[np.float32],
    steps: NDArray[np.float64],
    first: NDArray[np.float64],
    limits: tuple[float, float, float, float],
    at: tuple[int, int],
    half: tuple[int, int],
    amplitude: float,
) -> float:  # pragma: no cover - compiled
    """Add a stamp whose places on its grid are ``first + steps @ (i, j)``, (i, j) counted from the pixel `at`."""
    rows, row_length = model.shape
    wx, wy, lane = np.empty(LANES, np.float32), np.empty(LANES, np.float32), np.empty(LANES, np.float32)
    deposited = 0.0
    straight = steps[1, 0] == 0.0
    line = np.empty(columns + LANES if straight else LANES, np.float32)
    for j in range(max(-half[1], -at[1]), min(half[1], rows - 1 - at[1]) + 1):
        bx, by = first[0] + steps[0, 1] * j, first[1] + steps[1, 1] * j
        low, high = max(-half[0], -at[0]), min(half[0], row_length - 1 - at[0])
        low, high = _inside(steps[0, 0], bx, limits[0], limits[1], low, high)
        low, high = _inside(steps[1, 0], by, limits[2], limits[3], low, high)
        if high < low:
            continue
        into = model[at[1] + j]
        if straight:
            row, _ = _taps(table, by, wy)
            for x in range(0, columns - LANES + 1, LANES):
                store(line, x, _sum_rows(values, row * columns + x, columns, wy))
            store(line, columns - LANES, _sum_rows(values, row * columns + columns - LANES, columns, wy))
        for i in range(low, high + 1):
            column, weights = _taps(table, bx + steps[0, 0] * i, wx)
            if straight:
                value = _sum_six(weights * load(line, column), lane)
            else:
                row, _ = _taps(table, by + steps[1, 0] * i, wy)
                value = _sum_six(weights * _sum_rows(values, row * columns + column, columns, wy), lane)
            added = np.float32(amplitude * value)
            into[at[0] + i] += added
            deposited += added
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
    steps: NDArray[np.float64],
    moved: tuple[float, float],
    amplitude: float,
) -> None:  # pragma: no cover - compiled
    """Multiply a half spectrum by that of a stamp at frequencies ``steps @ (kx, ky)`` of its grid, and move it.

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
            gx, gy = steps[0, 0] * m + steps[0, 1] * i, steps[1, 0] * m + steps[1, 1] * i
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
