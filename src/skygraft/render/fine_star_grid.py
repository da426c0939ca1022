"""Many stars at once of a PSF that is known between pixels: spread onto its own grid, and convolved with its samples.

Where pixels are too coarse for a PSF, a star's pixels are values of its model at the star's own sub-pixel place
(`skygraft.render.fine_stars`): with samples G_q, s to a pixel, and a function phi that is zero beyond a few of them,

    K(u) = sum over q of  G_q phi(s u - q)        (splines, or the polynomials through some samples).

Stars at x_i, of fluxes F_i, make at the pixel p

    sum over q of  G_q  sum over i of  F_i phi((s p - q) - s x_i),

a discrete convolution of the samples with stars that phi has spread onto the samples' grid. There is no window to
divide by and nothing to be cut off: it is the same sum as star by star, in another order and in double precision, and
of what it makes every s-th place is a pixel.

It differs at the ends of the model. Star by star, pixels beyond the outermost samples are zero; here the last samples
fade as phi does, within a pixel. `errors` says how much light that is.
"""

from __future__ import annotations

import numpy as np
import scipy  # scipy.fft is imported when used
from numpy.typing import NDArray

from skygraft.jit import compiled
from skygraft.psf import Box, LinearPSF
from skygraft.psf.fine import SubPixelBasis
from skygraft.psf.linear import combine
from skygraft.render.canvas import Canvas
from skygraft.render.star_grid import StarGrid, Tiling

__all__ = ["FineStarGrid"]

_MOST_FINE = 8
"""Samples to a pixel of the finest model that has the grid."""
_WHOLE = 1e-9


class FineStarGrid(StarGrid):
    """Draws the stars of crowded tiles of one image whose pixels are too coarse for its PSF.

    Parameters
    ----------
    psf : LinearPSF
        The image's PSF.
    basis : SubPixelBasis
        Its basis between pixels, one for which `samples_per_pixel` gives a number.
    tiling : Tiling
        The tiles.
    """

    def __init__(self, psf: LinearPSF, basis: SubPixelBasis, tiling: Tiling) -> None:
        self._psf, self._basis, self.tiling = psf, basis, tiling
        grid = basis.grid
        self._fine = tiling.fine
        self._taps = grid.taps
        half = self.half(basis)
        self._frame = 2 * half[0] + 1, 2 * half[1] + 1
        # Samples are counted from the one before the source; what is left of the way to the source moves the stars.
        first = tuple(int(np.floor(one)) for one in grid.source_place)
        self._moved = grid.source_place[1] - first[1], grid.source_place[0] - first[0]
        n = self._fine * tiling.size
        images, my, mx = grid.samples.shape
        self._transforms = np.empty((images, n, n // 2 + 1), dtype=np.complex128)
        self._residues = np.zeros((images, self._fine, self._fine))
        padded, (y, x) = np.zeros((n, n)), (np.arange(size) - at for size, at in zip((my, mx), first, strict=True))
        for b, image in enumerate(grid.samples):
            padded[np.ix_(y % n, x % n)] = image
            self._transforms[b] = scipy.fft.rfft2(padded) / self._fine**2
            np.add.at(self._residues[b], np.ix_(-y % self._fine, -x % self._fine), image)
        self._planes = np.zeros((images, n, n))
        self._used = np.zeros(images, dtype=np.bool_)
        self._touched = np.zeros((tiling.size + 1, tiling.size + 1), dtype=np.int32)
        self._origin, self._edges = (0, 0), (0, 0, tiling.size, tiling.size)

    @staticmethod
    def samples_per_pixel(basis: SubPixelBasis) -> int | None:
        """Give the samples to a pixel of a model; None for one that cannot be drawn on a grid.

        Such are those with a broken number of samples to a pixel, and those whose weights change at their ends.
        """
        grid = basis.grid
        steps = [1.0 / one for one in grid.step]
        fine = round(steps[0])
        if grid.trimmed or not 2 <= fine <= _MOST_FINE or any(abs(one - fine) > _WHOLE for one in steps):
            return None
        return fine

    @staticmethod
    def half(basis: SubPixelBasis) -> tuple[int, int]:
        """Give the pixels along y and x that a star reaches to each side of the one that it is in."""
        grid = basis.grid
        _, *sizes = grid.samples.shape
        furthest = [
            (max(at, n - 1 - at) + 0.5 * grid.taps.shape[1]) * step + 0.5
            for n, at, step in zip(sizes, grid.source_place, grid.step, strict=True)
        ]
        return int(np.ceil(furthest[0])), int(np.ceil(furthest[1]))

    @staticmethod
    def takes_whole(
        half: tuple[int, int], canvas: Canvas, x: NDArray[np.float64], y: NDArray[np.float64]
    ) -> NDArray[np.bool_]:
        """Which stars, shape (N,), a grid takes: those that lie on the canvas with all of their pixels."""
        rows, columns = canvas.model.shape
        takes = np.ones(len(x), dtype=np.bool_)
        for at, n, reach, first in ((x, columns, half[1], canvas.x0), (y, rows, half[0], canvas.y0)):
            takes &= (at >= first + reach - 0.5) & (at < first + n - reach - 0.5)
        return takes

    def _begin(self, x0: int, y0: int) -> None:
        self._planes[self._used] = 0.0
        self._used[...] = False
        self._touched[...] = 0
        self._origin = x0, y0

    def add(
        self,
        coefficients: NDArray[np.float64],
        x: NDArray[np.float64],
        y: NDArray[np.float64],
        amplitude: NDArray[np.float64],
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Spread stars of the tile onto its grid; see `StarGrid.add`."""
        at = x - self._origin[0], y - self._origin[1]
        landed = np.zeros(len(x))
        weights = np.ascontiguousarray(coefficients)
        used = (weights != 0).any(axis=0)
        self._used |= used
        images = np.flatnonzero(used)
        _touch(self._touched, *at, self._frame)
        _spread(
            self._planes, images, weights, amplitude, *at, self._fine, self._moved, self._taps, self._residues, landed
        )
        return landed, np.zeros(len(x), dtype=np.bool_)

    def _filled(self) -> list[int]:
        filled: list[int] = np.flatnonzero(self._used).tolist()
        return filled

    def errors(self, box: Box) -> tuple[float, float]:
        """Compare stars drawn here with the model's own values, at different phases.

        Parameters
        ----------
        box : Box
            The image's outer edges: the PSF is taken at up to nine places.

        Returns
        -------
        error : float
            Largest difference where the model has values, in units of a star's peak.
        ring : float
            Largest value beyond, where it has none.
        """
        size, (ny, nx) = self.tiling.size, self._frame
        side = max(1, size // max(ny, nx))
        coefficients = self._some_coefficients(box, side**2)
        places = np.arange(side) * max(ny, nx) + max(ny, nx) // 2
        x, y = (v.ravel()[: len(coefficients)].astype(np.float64) for v in np.meshgrid(places, places))
        x, y = x + np.resize([0.499, -0.137, 0.27, 0.0], x.size), y + np.resize([0.499, -0.31, 0.0], y.size)
        canvas = Canvas.empty((size, size), (0, 0))
        self._begin(0, 0)
        self.add(coefficients, x, y, np.ones(len(x)))
        self.finish(canvas)
        (y_low, y_high), (x_low, x_high) = self._basis.reach
        error = ring = 0.0
        for k, one in enumerate(coefficients):
            i, j = int(np.floor(x[k] + 0.5)), int(np.floor(y[k] + 0.5))
            rows, columns = np.arange(j - ny // 2, j + ny // 2 + 1.0), np.arange(i - nx // 2, i + nx // 2 + 1.0)
            dy, dx = rows - y[k], columns - x[k]
            exact = combine(one[None], self._basis.values(dy, dx))[0]
            peak = np.abs(exact).max()
            if not peak > 0:
                continue
            inside = ((dy >= y_low) & (dy <= y_high))[:, None] & ((dx >= x_low) & (dx <= x_high))
            made = canvas.model[int(rows[0]) : int(rows[-1]) + 1, int(columns[0]) : int(columns[-1]) + 1]
            miss = np.abs(made.astype(np.float64) - exact) / peak
            error = max(error, float(miss[inside].max()))
            ring = max(ring, float(miss[~inside].max(initial=0.0)))
        return error, ring


@compiled
def _spread(
    planes: NDArray[np.float64],
    images: NDArray[np.int64],
    coefficients: NDArray[np.float64],
    amplitude: NDArray[np.float64],
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    fine: int,
    moved: tuple[float, float],
    table: NDArray[np.float64],
    residues: NDArray[np.float64],
    landed: NDArray[np.float64],
) -> None:  # pragma: no cover - compiled
    """Add stars to the grids of basis images, and sum the light that all of their pixels have."""
    n, width = x.size, table.shape[1]
    first = np.empty((n, 2), np.int64)
    taps = np.empty((n, 2, width))
    for s in range(n):
        first[s, 0] = _tap_weights(table, fine * x[s] - moved[0], taps[s, 0])
        first[s, 1] = _tap_weights(table, fine * y[s] - moved[1], taps[s, 1])
    for b in images:
        plane, sums = planes[b], residues[b]
        for s in range(n):
            weight = amplitude[s] * coefficients[s, b]
            if weight == 0.0:
                continue
            total = 0.0
            for k in range(width):
                at = first[s, 1] + k
                row, of_row, part = plane[at], sums[at % fine], 0.0
                along = weight * taps[s, 1, k]
                for i in range(width):
                    column = first[s, 0] + i
                    row[column] += along * taps[s, 0, i]
                    part += taps[s, 0, i] * of_row[column % fine]
                total += along * part
            landed[s] += total


@compiled(inline="always")
def _tap_weights(
    table: NDArray[np.float64], place: float, out: NDArray[np.float64]
) -> int:  # pragma: no cover - compiled
    """Compute the weights of the samples about a place, and return the first of them."""
    before = int(np.floor(place))
    position = (place - before) * (table.shape[0] - 1)
    i = min(int(position), table.shape[0] - 2)
    part = position - i
    for k in range(out.size):
        out[k] = (1.0 - part) * table[i, k] + part * table[i + 1, k]
    return before - out.size // 2 + 1


@compiled
def _touch(
    touched: NDArray[np.int32], x: NDArray[np.float64], y: NDArray[np.float64], frame: tuple[int, int]
) -> None:  # pragma: no cover - compiled
    """Note the corners of the pixels that stars touch."""
    for s in range(x.size):
        i, j = int(np.floor(x[s] + 0.5)) - frame[1] // 2, int(np.floor(y[s] + 0.5)) - frame[0] // 2
        touched[j, i] += 1
        touched[j + frame[0], i] -= 1
        touched[j, i + frame[1]] -= 1
        touched[j + frame[0], i + frame[1]] += 1
