"""Many stars at once: spread onto a grid, and convolved with the PSF by Fourier transforms.

With the PSF a sum of basis images, ``K(x, y) = sum over b of c_b(x, y) B_b``, the light of all stars s at a pixel p is

    sum over b of  sum over s of  F_s c_b(x_s, y_s)  B_b(p - x_s),

a convolution for each b. The stars, times their coefficients, are spread onto a grid of half pixels by a few taps
along each axis; the grids are transformed, multiplied with the transforms of the basis, and their sum is transformed
back: a non-uniform Fourier transform (Dutt & Rokhlin 1993, SISC 14, 1368; Barnett et al. 2019, SISC 41, C479).

B_b between pixels is the same as for a stamp (`skygraft.render.shift`): the image with the frequencies of its frame,
the kernel with a margin of zeros. Where a stamp ends, at the frame's edge, it continues periodically and fades. Its
transform is divided by that of the window that spreads, Kaiser and Bessel's, eight samples wide; at two samples a pixel
the window's sidelobes are some 1e-7. Its taps sum to one, so that a star's flux is right to rounding. All sums are in
double precision.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy  # scipy.fft is imported when used
from numpy.typing import NDArray

from skygraft.jit import compiled, scratch
from skygraft.psf import Box, LinearPSF, places_over
from skygraft.psf.linear import combine
from skygraft.render.canvas import Canvas
from skygraft.render.shift import PRECISE, taps_table, window_transform

__all__ = ["StarGrid", "Tiling", "sorted_by_tile"]

_FINE = 2
"""Samples of the grid to a pixel."""
_WIDTH = 8
"""Samples that the window is wide."""
_BETA = 2.3
"""Kaiser and Bessel's beta for each sample of the window's width; see `skygraft.render.shift`."""
_MARGIN = PRECISE.margin
_FADE = 8
"""Pixels beyond the frame over which what rings there fades; a stamp ends at the frame's edge."""
_PARTS, _POINTS = 16, 6
"""Places to a pixel for which sums of parts of a kernel are known, and how many of them interpolate between them."""
_BYTES, _MOST_BYTES = 64, 600e6
"""Bytes of a grid and of a transform for each pixel of a transform and each basis image, and how many there may be."""
_TEMPORARY = 3
"""Grids and transforms that are in memory besides those of the basis images, where samples are many."""
_CELL = 32
"""Pixels of a side of a cell, whose part of the grid is in the processor's cache."""
_SIZES = (192, 256, 320, 384, 512, 640, 768, 1024, 1280, 1536, 2048)
"""Pixels of a side of transforms: products of small primes."""


class Tiling(NamedTuple):
    """How an image, and what lies around it, is cut into square tiles.

    Parameters
    ----------
    beyond : int
        Pixels around the image where stars may lie that are drawn on the grid.
    pad : int
        Pixels beyond a tile that the light of its stars may reach.
    size : int
        Pixels of a side of the transforms.
    tile : int
        Pixels of a side of a tile.
    rows, columns : int
        Tiles.
    fine : int
        Samples of the grid to a pixel.
    corner : (int, int)
        First pixel (x, y) of what is cut, from the image's first one.
    """

    beyond: int
    pad: int
    size: int
    tile: int
    rows: int
    columns: int
    fine: int = _FINE
    corner: tuple[int, int] = (0, 0)

    @classmethod
    def of(
        cls,
        shape: tuple[int, int],
        kernel: tuple[int, int],
        images: int = 1,
        *,
        fine: int | None = None,
        corner: tuple[int, int] = (0, 0),
    ) -> Tiling | None:
        """Choose tiles for an image and a PSF; None where the kernels are too large, or too many.

        Parameters
        ----------
        shape, kernel : (int, int)
            Rows and columns of the image, or of a part of it, and of kernels.
        images : int
            Basis images of the PSF.
        fine : int, optional
            Samples to a pixel of a PSF that is drawn by its own samples; such stars lie on the image, and end with
            their kernels.
        corner : (int, int), optional
            First pixel (x, y) of the part.
        """
        beyond = max(kernel) // 2 + 2 if fine is None else 0
        more = _MARGIN + _FADE + _WIDTH // (2 * _FINE) + 1 if fine is None else 2
        pad, samples = max(kernel) // 2 + more, _FINE if fine is None else fine
        found: list[tuple[int, Tiling]] = []
        for size in _SIZES:
            most = size - 2 * pad
            held = _BYTES * images if fine is None else _BYTES * (images + _TEMPORARY) * fine**2 / _FINE**2
            if 3 * most < size or held * size**2 > _MOST_BYTES:
                continue
            whole = [n + 2 * beyond for n in shape]
            tile = max(-(-n // -(-n // most)) for n in whole)
            rows, columns = (-(-n // tile) for n in whole)
            made = cls(beyond, pad, size, tile, rows, columns, samples, corner)
            found.append((made.rows * made.columns * size * size, made))
            if len(found) == 5:
                break
        return min(found)[1] if found else None


class StarGrid:
    """Draws the stars of crowded tiles of one image.

    Parameters
    ----------
    psf : LinearPSF
        The image's PSF, one whose pixels suffice for it.
    tiling : Tiling
        The tiles.
    """

    def __init__(self, psf: LinearPSF, tiling: Tiling) -> None:
        self._psf, self.tiling = psf, tiling
        self._frame = psf.shape[0] + 2 * _MARGIN, psf.shape[1] + 2 * _MARGIN
        self._sums = psf.basis.sum(axis=(1, 2))
        self._parts = _part_sums(psf.basis.sum(axis=1)), _part_sums(psf.basis.sum(axis=2))
        self._transforms = _transforms(psf.basis, tiling.size)
        n = _FINE * tiling.size
        self._planes = np.zeros((len(psf.basis), n, n))
        self._touched = np.zeros((tiling.size + 1, tiling.size + 1), dtype=np.int32)
        self._origin, self._edges = (0, 0), (0, 0, tiling.size, tiling.size)

    @staticmethod
    def takes(
        kernel: tuple[int, int], canvas: Canvas, x: NDArray[np.float64], y: NDArray[np.float64]
    ) -> NDArray[np.bool_]:
        """Which stars, shape (N,), a grid takes: those whose frame is cut by no more than one edge of the canvas."""
        rows, columns = canvas.model.shape
        cuts = np.zeros(len(x), dtype=np.int8)
        for at, n, n_kernel, first in ((x, columns, kernel[1], canvas.x0), (y, rows, kernel[0], canvas.y0)):
            half = n_kernel // 2 + _MARGIN
            cuts += at < first + half - 0.5
            cuts += at >= first + n - half - 0.5
            beyond = n_kernel // 2 + 1
            cuts[(at < first - beyond) | (at >= first + n - 1 + beyond)] = 2
        return np.asarray(cuts <= 1)

    def start(self, canvas: Canvas, i: int, j: int) -> None:
        """Begin the tile in column i and row j."""
        tile, outside = self.tiling.tile, self.tiling.pad + self.tiling.beyond
        (first_x, first_y), (rows, columns) = self.tiling.corner, canvas.model.shape
        self._begin(canvas.x0 + first_x + i * tile - outside, canvas.y0 + first_y + j * tile - outside)
        (x0, y0), (x, y) = self._origin, (canvas.x0, canvas.y0)
        self._edges = x - x0, y - y0, x - x0 + columns, y - y0 + rows

    def _begin(self, x0: int, y0: int) -> None:
        self._planes[...] = 0.0
        self._touched[...] = 0
        self._origin = x0, y0

    def add(
        self,
        coefficients: NDArray[np.float64],
        x: NDArray[np.float64],
        y: NDArray[np.float64],
        amplitude: NDArray[np.float64],
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Spread stars of the tile onto its grid.

        Parameters
        ----------
        coefficients : ndarray, shape (N, B)
            Of the PSF's basis.
        x, y : ndarray, shape (N,)
            Parent pixel coordinates.
        amplitude : ndarray, shape (N,)
            Flux times what the kernel is multiplied by.

        Returns
        -------
        landed : ndarray, shape (N,)
            Flux that lands on the image.
        clipped : ndarray of bool, shape (N,)
            Whether part of the star's kernel lies off the image.
        """
        table = taps_table(_WIDTH, _BETA)
        at = x - self._origin[0], y - self._origin[1]
        _spread(self._planes, coefficients, amplitude, *at, table, self._touched, self._frame)
        landed = amplitude * combine(coefficients, self._sums)
        clipped = np.zeros(len(x), dtype=np.bool_)
        for axis in range(2):
            of_axis = self._frame[1 - axis], self._edges[axis], self._edges[axis + 2]
            _cut(at[axis], amplitude, coefficients, self._parts[axis], *of_axis, landed, clipped)
        return landed, clipped

    def finish(self, canvas: Canvas) -> None:
        """Convolve the tile and add it to the canvas."""
        size = self.tiling.size
        folded = np.empty((size, size // 2 + 1), dtype=np.complex128)
        _fold(self._summed(), folded, self.tiling.fine)
        light = scipy.fft.irfft2(folded, (size, size), overwrite_x=True)
        at = self._origin[0] - canvas.x0, self._origin[1] - canvas.y0
        _add_touched(canvas.model, light, self._touched, *at)

    def _summed(self) -> NDArray[np.complex128]:
        """Transform of the tile's light, on the grid."""
        total = np.zeros(self._transforms.shape[1:], dtype=np.complex128)
        for b in self._filled():
            self._add_product(b, total)
        return total

    def _filled(self) -> Sequence[int]:
        """Basis images that stars were spread for."""
        return range(len(self._planes))

    def _add_product(self, b: int, total: NDArray[np.complex128]) -> None:
        """Add the light that basis image b makes to its transform."""
        _add_product(scipy.fft.rfft2(self._planes[b]), self._transforms[b], total)

    def errors(self, box: Box) -> tuple[float, float]:
        """Compare stars drawn here with exact interpolation, at different phases.

        Parameters
        ----------
        box : Box
            The image's outer edges: the PSF is taken at up to nine places.

        Returns
        -------
        error : float
            Largest difference within the frame, in units of a star's peak.
        ring : float
            Largest value outside of the frame, where a stamp is zero, in units of the peak.
        """
        size, (ny, nx) = self.tiling.size, self._frame
        apart = max(ny, nx) + 2 * (_FADE + _WIDTH // _FINE)
        side = max(1, size // apart)
        coefficients = self._some_coefficients(box, side**2)
        places = (np.arange(side) + 0.5) * apart // 1.0
        x, y = (v.ravel()[: len(coefficients)] for v in np.meshgrid(places, places))
        x, y = x + np.resize([0.5, -0.137, 0.27, 0.0], x.size), y + np.resize([0.5, -0.31, 0.0], y.size)
        canvas = Canvas.empty((size, size), (0, 0))
        self._begin(0, 0)
        self._edges = 0, 0, size, size
        self.add(coefficients, x, y, np.ones(len(x)))
        self._touched[...] = 0
        self._touched[0, 0] = 1  # all pixels
        self.finish(canvas)
        error = ring = 0.0
        for k, kernel in enumerate(combine(coefficients, self._psf.basis)):
            i, j = int(np.floor(x[k] + 0.5)), int(np.floor(y[k] + 0.5))
            exact = self._exact(kernel, x[k] - i, y[k] - j)
            peak = np.abs(exact).max()
            if not peak > 0:
                continue
            about = canvas.model[max(0, j - apart // 2) :, max(0, i - apart // 2) :][:apart, :apart].astype(np.float64)
            j, i = j - max(0, j - apart // 2) - ny // 2, i - max(0, i - apart // 2) - nx // 2
            miss = np.abs(about[j : j + ny, i : i + nx] - exact)
            about[j : j + ny, i : i + nx] = 0.0
            error, ring = max(error, float(miss.max() / peak)), max(ring, float(np.abs(about).max() / peak))
        return error, ring

    def _some_coefficients(self, box: Box, most: int) -> NDArray[np.float64]:
        """Coefficients of the PSF at up to `most` places over the image where it is defined, shape (N, B)."""
        x, y = places_over(box)
        defined = self._psf.defined(x, y)
        coefficients = self._psf.coefficients(x[defined], y[defined])
        return np.asarray(coefficients[:: max(1, -(-len(coefficients) // most))][:most])

    def _exact(self, kernel: NDArray[np.float64], fx: float, fy: float) -> NDArray[np.float64]:
        """Interpolate a kernel at the pixels of its frame, for a source at (fx, fy) from the middle pixel's centre."""
        rows, columns = (_moving(n, f) for n, f in zip(kernel.shape, (fy, fx), strict=True))
        return np.asarray(rows @ kernel @ columns.T)


def _interpolation(n: int, frame: int, at: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute the matrix from n pixels to places, in pixels from the middle one's centre: Dirichlet's kernel."""
    k = 2 * np.pi * np.arange(1, frame // 2 + 1) / frame
    distance = at[:, None] - (np.arange(n) - n // 2)
    return np.asarray((1.0 + 2.0 * np.cos(k * distance[..., None]).sum(axis=-1)) / frame)


@functools.lru_cache(maxsize=128)
def _moving(n: int, f: float) -> NDArray[np.float64]:
    """Compute the matrix from n pixels to those of their frame, for a source f pixels from the middle one's centre."""
    frame = n + 2 * _MARGIN
    matrix = _interpolation(n, frame, np.arange(frame, dtype=np.float64) - frame // 2 - f)
    matrix.setflags(write=False)
    return matrix


def _part_sums(kernels: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sum the first pixels of a frame, for sources at places in its middle pixel: shape (B, places, frame + 1).

    Parameters
    ----------
    kernels : ndarray, shape (B, n)
        The basis, summed along the other axis.
    """
    n = kernels.shape[1]
    frame = n + 2 * _MARGIN
    offsets = (np.arange(_PARTS + _POINTS) - _POINTS // 2 + 1) / _PARTS - 0.5
    out = np.zeros((len(kernels), len(offsets), frame + 1))
    for k, f in enumerate(offsets):
        moved = kernels @ _moving(n, float(f)).T
        out[:, k, 1:] = np.cumsum(moved, axis=1)
    return out


def _transforms(basis: NDArray[np.float64], size: int) -> NDArray[np.complex128]:
    """Compute the transforms that those of the spread stars are multiplied with, shape (B, M, M / 2 + 1)."""
    m = _FINE * size
    along_y, along_x = (_fine_matrix(n) for n in basis.shape[1:])
    half_y, half_x = len(along_y) // 2, len(along_x) // 2
    k = 2 * np.pi * np.arange(m // 2 + 1) / m
    window = window_transform(k, _WIDTH, _BETA) / window_transform(np.zeros(1), _WIDTH, _BETA)
    both = np.concatenate([window, window[1:-1][::-1]])[:, None] * window
    both *= _FINE**2
    out = np.empty((len(basis), m, m // 2 + 1), dtype=np.complex128)
    padded = np.zeros((m, m))
    for b, image in enumerate(basis):
        padded[: len(along_y), : len(along_x)] = along_y @ image @ along_x.T
        np.divide(scipy.fft.rfft2(np.roll(padded, (-half_y, -half_x), axis=(0, 1))), both, out=out[b])
    return out


@functools.lru_cache(maxsize=8)
def _fine_matrix(n: int) -> NDArray[np.float64]:
    """Compute the matrix from pixels to the samples in their frame, and beyond it as far as they fade."""
    frame = n + 2 * _MARGIN
    half = (_FINE * frame - 1) // 2 + _FINE * _FADE
    at = np.arange(-half, half + 1) / _FINE
    beyond = np.clip((np.abs(at) - 0.5 * frame) / _FADE, 0.0, 1.0)
    matrix = _interpolation(n, frame, at) * _faded(beyond)[:, None]
    matrix.setflags(write=False)
    return matrix


def _faded(t: NDArray[np.float64]) -> NDArray[np.float64]:
    """Fall smoothly from one at 0 to zero at 1: the integral of cos^4."""
    return 1.0 - (t - np.sin(2 * np.pi * t) * 2 / (3 * np.pi) + np.sin(4 * np.pi * t) / (12 * np.pi))


def sorted_by_tile(
    canvas: Canvas, x: NDArray[np.float64], y: NDArray[np.float64], tiling: Tiling
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sort stars by tile, and within each by cells.

    Parameters
    ----------
    canvas : Canvas
        The image.
    x, y : ndarray, shape (N,)
        Parent pixel coordinates of stars that `StarGrid.takes`.
    tiling : Tiling
        The tiles.

    Returns
    -------
    order : ndarray of int64, shape (N,)
        The stars; those of one cell are in the order given.
    ends : ndarray of int64, shape (rows * columns + 1,)
        Where the stars of each tile begin, and where the last ones end.
    """
    first_x = canvas.x0 + tiling.corner[0] - tiling.beyond
    first_y = canvas.y0 + tiling.corner[1] - tiling.beyond
    return _sorted_by_cell(x - first_x, y - first_y, tiling[:6], -(-tiling.tile // _CELL))


@compiled
def _sorted_by_cell(
    x: NDArray[np.float64], y: NDArray[np.float64], tiling: tuple[int, ...], cells: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:  # pragma: no cover - compiled
    _, _, _, side, n_rows, n_columns = tiling
    n_tiles, of_tile = n_rows * n_columns, cells * cells
    starts = np.zeros(n_tiles * of_tile + 1, np.int64)
    keys = np.empty(x.size, np.int32)
    for s in range(x.size):
        i, j = int(np.floor(x[s] + 0.5)), int(np.floor(y[s] + 0.5))
        tile = j // side * n_columns + i // side
        cell = (j % side) // _CELL * cells + (i % side) // _CELL
        keys[s] = tile * of_tile + cell
        starts[keys[s] + 1] += 1
    for k in range(n_tiles * of_tile):
        starts[k + 1] += starts[k]
    ends = np.empty(n_tiles + 1, np.int64)
    for k in range(n_tiles + 1):
        ends[k] = starts[k * of_tile]
    order = np.empty(x.size, np.int64)
    for s in range(x.size):
        order[starts[keys[s]]] = s
        starts[keys[s]] += 1
    return order, ends


@compiled
def _spread(
    planes: NDArray[np.float64],
    coefficients: NDArray[np.float64],
    amplitude: NDArray[np.float64],
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    table: NDArray[np.float64],
    touched: NDArray[np.int32],
    frame: tuple[int, int],
) -> None:  # pragma: no cover - compiled
    """Add stars to the grids of all basis images, and note the corners of the pixels that they touch."""
    n = x.size
    first = np.empty((n, 2), np.int64)
    taps = np.empty((n, 2, _WIDTH))
    for s in range(n):
        first[s, 0] = _taps(table, _FINE * x[s], taps[s, 0])
        first[s, 1] = _taps(table, _FINE * y[s], taps[s, 1])
        i, j = int(np.floor(x[s] + 0.5)) - frame[1] // 2, int(np.floor(y[s] + 0.5)) - frame[0] // 2
        touched[j, i] += 1
        touched[j + frame[0], i] -= 1
        touched[j, i + frame[1]] -= 1
        touched[j + frame[0], i + frame[1]] += 1
    along = scratch(_WIDTH, np.float64)  # which no other array overlaps with: the sums below are vector code
    for b in range(planes.shape[0]):
        plane = planes[b]
        for s in range(n):
            weight = amplitude[s] * coefficients[s, b]
            for i in range(_WIDTH):
                along[i] = weight * taps[s, 0, i]
            at = first[s, 0]
            for k in range(_WIDTH):
                row, weight_y = plane[first[s, 1] + k], taps[s, 1, k]
                for i in range(_WIDTH):
                    row[at + i] += weight_y * along[i]


@compiled(inline="always")
def _taps(table: NDArray[np.float64], place: float, out: NDArray[np.float64]) -> int:  # pragma: no cover - compiled
    """Compute the window's taps about a place on the grid, and return the first sample."""
    start = place - 0.5 * _WIDTH
    first = int(np.ceil(start))
    position = (first - start) * (table.shape[0] - 1)
    i = min(int(position), table.shape[0] - 2)
    part = position - i
    for k in range(_WIDTH):
        out[k] = (1.0 - part) * table[i, k] + part * table[i + 1, k]
    return first


@compiled
def _add_product(
    one: NDArray[np.complex128], other: NDArray[np.complex128], total: NDArray[np.complex128]
) -> None:  # pragma: no cover - compiled
    for j in range(total.shape[0]):
        a, b, out = one[j], other[j], total[j]
        for i in range(out.size):
            out[i] += a[i] * b[i]


@compiled
def _fold(total: NDArray[np.complex128], out: NDArray[np.complex128], fine: int) -> None:  # pragma: no cover - compiled
    """Fold the half spectrum of a grid to that of its every `fine`-th sample along each axis."""
    m, size = total.shape[0], out.shape[0]
    for j in range(size):
        for i in range(out.shape[1]):
            value = 0j
            if fine == 2:
                for row in (j, j + size):
                    value += total[row, i] + np.conj(total[(m - row) % m, size - i])
            else:
                for row in range(j, m, size):
                    for column in range(i, m, size):
                        if 2 * column <= m:
                            value += total[row, column]
                        else:  # the half that is not kept
                            value += np.conj(total[(m - row) % m, m - column])
            out[j, i] = value


@compiled
def _add_touched(
    model: NDArray[np.float32], light: NDArray[np.float64], touched: NDArray[np.int32], x0: int, y0: int
) -> None:  # pragma: no cover - compiled
    """Add the pixels of a tile that a star touches to the image; `touched` are the corners of the stars' frames."""
    size = light.shape[0]
    rows, columns = model.shape
    above = np.zeros(size, np.int32)
    for j in range(size):
        along = 0
        for i in range(size):
            along += touched[j, i]
            above[i] += along
        if 0 <= y0 + j < rows:
            for i in range(max(0, -x0), min(size, columns - x0)):
                if above[i] > 0:
                    model[y0 + j, x0 + i] += np.float32(light[j, i])


@compiled
def _cut(
    at: NDArray[np.float64],
    amplitude: NDArray[np.float64],
    coefficients: NDArray[np.float64],
    parts: NDArray[np.float64],
    frame: int,
    first: int,
    end: int,
    landed: NDArray[np.float64],
    clipped: NDArray[np.bool_],
) -> None:  # pragma: no cover - compiled
    """Of stars whose frame is cut along an axis, compute the flux between pixels `first` and `end` of it."""
    taps = np.empty(_POINTS)
    for s in range(at.size):
        pixel = int(np.floor(at[s] + 0.5))
        low = pixel - frame // 2
        from_, to = max(first - low, 0), min(end - low, frame)
        if from_ == 0 and to == frame:
            continue
        clipped[s] |= from_ > _MARGIN or to < frame - _MARGIN
        place = (at[s] - pixel + 0.5) * _PARTS
        before = min(int(place), _PARTS - 1)
        for k in range(_POINTS):
            taps[k] = 1.0
            for m in range(_POINTS):
                if m != k:
                    taps[k] *= (place - before - (m - _POINTS // 2 + 1)) / (k - m)
        total = 0.0
        for b in range(parts.shape[0]):
            value = 0.0
            for k in range(_POINTS):
                sums = parts[b, before + k]
                value += taps[k] * (sums[max(to, 0)] - sums[min(from_, frame)])
            total += coefficients[s, b] * value
        landed[s] = amplitude[s] * total if to > from_ else 0.0
