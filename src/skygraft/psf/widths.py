"""Widths of PSF kernels.

The width of a kernel is that of the circle with the area of the region above half the peak, on a quintic spline through
the pixels.
"""

from __future__ import annotations

import functools
import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skygraft.errors import ConfigError
from skygraft.jit import Tally
from skygraft.psf.quintic import spline_coefficients, spline_values, sum_last
from skygraft.psf.width_grid import MARGIN, N_RAYS

__all__ = ["kernel_fwhm", "kernels_measured", "mean_diameter"]

kernels_measured = Tally(200)
"""Loops take seconds to compile on a new machine, and a tenth of a second to load. They give the same to the last
bit."""


def kernel_fwhm(kernels: ArrayLike) -> NDArray[np.float64]:
    """Measure the full width at half maximum of kernels, in pixels.

    It is the diameter of the circle that has the area of the region around the peak where the kernel is above half
    its peak: the geometric mean of the two axes, where that region is an ellipse.

    Parameters
    ----------
    kernels : array_like, shape (N, ny, nx)
        Effective-PSF images; their scale does not matter.

    Returns
    -------
    ndarray of float64, shape (N,)
        NaN where a kernel has no positive peak, is not finite, or does not fall to half its peak before its edge.

    Raises
    ------
    ConfigError
        If `kernels` is not a stack of images.

    Notes
    -----
    The kernel is interpolated by a quintic spline, its peak refined, and the half-maximum contour followed on 16 rays
    from it. On Gaussians and Moffats (beta 2.5 and steeper) given by their values at pixel centres it is right to 0.7 %
    at a FWHM of 2 pixels, 0.15 % at 3 and 0.03 % from 4.
    """
    array = np.ascontiguousarray(kernels, dtype=np.float64)
    if array.ndim != 3:
        raise ConfigError(f"kernels are a stack of images (N, ny, nx), not an array of shape {array.shape}")
    if not array.size:
        return np.full(len(array), np.nan)
    return _many_widths(array) if kernels_measured.is_much(len(array)) else _widths(array)


def _many_widths(kernels: NDArray[np.float64]) -> NDArray[np.float64]:
    """Measure as `_widths` does, in a compiled loop."""
    from skygraft.psf.measure_loops import kernel_widths

    widths = np.full(len(kernels), np.nan)
    kernel_widths(kernels, widths)
    return widths


def mean_diameter(radii: NDArray[np.float64]) -> NDArray[np.float64]:
    """Diameter of circles with the areas within contours, whose radii (N, rays) are added in the order of the rays."""
    return 2 * np.sqrt(sum_last(radii * radii) / N_RAYS)


def _widths(kernels: NDArray[np.float64]) -> NDArray[np.float64]:
    """Measure the FWHM of kernels (N, ny, nx), as `kernel_fwhm` does."""
    n, ny, nx = kernels.shape
    widths = np.full(n, np.nan)
    flat = kernels.reshape(n, -1)
    row, column = np.divmod(flat.argmax(axis=1), nx)
    peak = flat.max(axis=1)
    usable = np.flatnonzero(np.isfinite(flat).all(axis=1) & (peak > 0))
    if not usable.size:
        return widths
    row, column, peak = row[usable], column[usable], peak[usable]
    guess = np.sqrt((flat[usable] >= 0.5 * peak[:, None]).sum(axis=1) / np.pi)
    # A window is enough: spline coefficients hardly depend on pixels further away.
    reach = (2.5 * guess).astype(np.int64) + MARGIN
    y0, y1 = np.maximum(row - reach, 0), np.minimum(row + reach + 1, ny)
    x0, x1 = np.maximum(column - reach, 0), np.minimum(column + reach + 1, nx)
    heights, lengths = y1 - y0, x1 - x0
    sizes = heights * lengths
    first = np.cumsum(sizes) - sizes
    splines = np.empty(int(sizes.sum()))
    with np.errstate(all="ignore"):
        for height, length in sorted(set(zip(heights.tolist(), lengths.tolist(), strict=True))):
            same = np.flatnonzero((heights == height) & (lengths == length))
            windows = np.stack([kernels[usable[k], y0[k] : y1[k], x0[k] : x1[k]] / peak[k] for k in same])
            splines[first[same, None] + np.arange(height * length)] = spline_coefficients(windows).reshape(
                len(same), -1
            )
        widths[usable] = _Contours(splines, first, heights, lengths).widths(row - y0, column - x0, guess)
    return widths


class _Contours:
    """Half-maximum contours of splines of various sizes, which are in one array one after the other.

    Parameters
    ----------
    splines : ndarray, shape (P,)
        Coefficients.
    first, heights, lengths : ndarray of int, shape (N,)
        Where each spline begins, and its rows and columns.
    """

    def __init__(
        self,
        splines: NDArray[np.float64],
        first: NDArray[np.int64],
        heights: NDArray[np.int64],
        lengths: NDArray[np.int64],
    ) -> None:
        self._splines = splines
        self._of = first[:, None], heights[:, None], lengths[:, None]

    def _values(self, k: NDArray[np.int64], y: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Values of splines k at places (y, x), both of shape (K, M)."""
        first, heights, lengths = self._of
        return spline_values(self._splines, (first[k], heights[k], lengths[k]), y, x)

    def widths(
        self, row: NDArray[np.int64], column: NDArray[np.int64], guess: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Diameters, shape (N,), from the brightest pixels and half the diameters that counting pixels gives."""
        everything = np.arange(len(guess))
        cy, cx = row.astype(np.float64)[:, None], column.astype(np.float64)[:, None]
        for step in (0.5, 0.25, 0.125):
            around = np.array([0.0, -step, step])
            none = np.zeros(2)
            y, x = cy + np.append(around, none), cx + np.concatenate([around[:1], none, around[1:]])
            middle, low, high, left, right = self._values(everything, y, x).T[..., None]
            cy, cx = cy + _vertex(low, middle, high) * step, cx + _vertex(left, middle, right) * step
        half = 0.5 * self._values(everything, cy, cx)
        radii = self._radii(cy, cx, half, guess)
        widths: NDArray[np.float64] = mean_diameter(radii)
        return widths

    def _radii(
        self,
        cy: NDArray[np.float64],
        cx: NDArray[np.float64],
        half: NDArray[np.float64],
        guess: NDArray[np.float64],
    ) -> NDArray[np.float64]:
        """Radii of the contours on each ray, shape (N, rays); NaN where a spline ends before a ray meets it."""
        sines, cosines = _rays()
        k, ray = (index.ravel() for index in np.indices((len(guess), N_RAYS)))
        cy, cx, half, guess = cy[k, 0], cx[k, 0], half[k, 0], guess[k]
        ny, nx = self._of[1][k, 0], self._of[2][k, 0]
        sine, cosine = sines[ray], cosines[ray]

        def at(some: NDArray[np.int64], radius: NDArray[np.float64]) -> NDArray[np.float64]:
            y, x = cy[some] + radius * sine[some], cx[some] + radius * cosine[some]
            return self._values(k[some], y[:, None], x[:, None])[:, 0]

        inner, outer, step = np.zeros(len(k)), 0.85 * guess, 0.3 * guess
        every = np.arange(len(k))
        v_inner, v_outer = 2 * half, at(every, outer)
        radius = np.full(len(k), np.nan)
        inside = every[v_outer >= half]
        lost = np.zeros(len(k), dtype=np.bool_)
        while inside.size:
            inner[inside], v_inner[inside] = outer[inside], v_outer[inside]
            outer[inside] += step[inside]
            y, x = cy[inside] + outer[inside] * sine[inside], cx[inside] + outer[inside] * cosine[inside]
            off = (y < -0.5) | (x < -0.5) | (y > ny[inside] - 0.5) | (x > nx[inside] - 0.5)
            lost[inside[off]] = True
            inside = inside[~off]
            v_outer[inside] = at(inside, outer[inside])
            inside = inside[v_outer[inside] >= half[inside]]
        # Regula falsi with the Illinois rule: the weight of the end that stays is halved.
        f_inner, f_outer, side = v_inner - half, v_outer - half, np.zeros(len(k), np.int64)
        searched = every[~lost]
        for _ in range(12):
            s = searched
            radius[s] = (inner[s] * f_outer[s] - outer[s] * f_inner[s]) / (f_outer[s] - f_inner[s])
            f = at(s, radius[s]) - half[s]
            going = ~(np.abs(f) < 1e-5 * half[s])
            s, f = s[going], f[going]
            above = f >= 0
            up, down = s[above], s[~above]
            inner[up], f_inner[up] = radius[up], f[above]
            f_outer[up[side[up] == 1]] *= 0.5
            side[up] = 1
            outer[down], f_outer[down] = radius[down], f[~above]
            f_inner[down[side[down] == -1]] *= 0.5
            side[down] = -1
            searched = s
            if not searched.size:
                break
        return radius.reshape(-1, N_RAYS)


@functools.cache
def _rays() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sines and cosines of the rays' angles; the C library's, as numpy's own differ between processors."""
    angles = [2 * math.pi * (ray + 0.5) / N_RAYS for ray in range(N_RAYS)]
    return np.array([math.sin(angle) for angle in angles]), np.array([math.cos(angle) for angle in angles])


def _vertex(left: NDArray[np.float64], middle: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where a parabola through -1, 0, 1 has its maximum, within -1 to 1; 0 if it has none."""
    curvature = left - 2 * middle + right
    place = np.minimum(np.maximum(0.5 * (left - right) / curvature, -1.0), 1.0)
    return np.where(curvature >= 0, 0.0, place)
