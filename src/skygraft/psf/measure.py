"""The width of a PSF's kernels at many positions.

A spline is linear in its pixels. For a PSF that is a sum of basis images, values of the basis's splines at fixed places
about the core (a grid around the peak, 16 rays across the half-maximum contour) are made once, and a kernel's values
there are one product of its coefficients with them; the contour is where they cross one half.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skygraft.errors import ConfigError
from skygraft.jit import Tally
from skygraft.psf.base import PSF
from skygraft.psf.linear import LinearPSF, combine
from skygraft.psf.quintic import spline_coefficients, spline_values
from skygraft.psf.width_grid import GRID_HALF, N_RAYS
from skygraft.psf.widths import kernel_fwhm, kernels_measured, mean_diameter

__all__ = ["FwhmMeter"]

_RADII = np.linspace(0.6, 1.7, 12)
"""Radii at which rays are sampled, in units of the half width at half maximum of the meter's first kernels."""
_GRID_STEP = 0.12
"""Step of the grid about the peak, in the same units; four steps to each side let the peak move by a quarter FWHM."""
_sums = Tally(4000)
_LIKE_A_CALL = 40
"""Sums whose widths take as long to measure as one call does that measures none."""


class FwhmMeter:
    """`kernel_fwhm` for many positions of one PSF.

    Parameters
    ----------
    psf : PSF
        The model. Only a `LinearPSF` is measured faster than by `kernel_fwhm`.
    x, y : array_like, shape (M,)
        A few positions, in parent pixels, whose kernels say where the core is and how wide.

    Notes
    -----
    It agrees with `kernel_fwhm` to 1e-4. Kernels more than 1.6 times wider or narrower than those at (x, y), or whose
    peak is elsewhere, are measured by `kernel_fwhm` itself.
    """

    def __init__(self, psf: PSF, x: ArrayLike, y: ArrayLike) -> None:
        self._basis: NDArray[np.float64] | None = None
        self._values: NDArray[np.float64] | None = None
        if not isinstance(psf, LinearPSF):
            return
        self._basis = psf.basis
        kernels = psf.kernels(x, y)
        widths = kernel_fwhm(kernels)
        if not np.isfinite(widths).any():
            return
        radius = 0.5 * float(np.nanmedian(widths))
        row, column = np.unravel_index(int(kernels.mean(axis=0).argmax()), psf.shape)
        self._values = _core_values(psf.basis, float(row), float(column), radius)
        self._radius = radius

    def __call__(
        self, coefficients: NDArray[np.float64] | None, kernels: NDArray[np.float64] | None = None
    ) -> NDArray[np.float64]:
        """Measure the FWHM in pixels, shape (N,), as `kernel_fwhm` does.

        Parameters
        ----------
        coefficients : ndarray, shape (N, B), or None
            Of a `LinearPSF`.
        kernels : ndarray, shape (N, ny, nx), optional
            Needed where there are no coefficients.
        """
        if coefficients is None or self._basis is None:
            if kernels is None:
                raise ConfigError("a width is measured on a PSF's coefficients or on kernels; neither was given")
            return kernel_fwhm(kernels)
        out = np.full(len(coefficients), np.nan)
        if self._values is not None and out.size:
            measure = _many_contour_widths if _sums.is_much(max(len(out), _LIKE_A_CALL)) else _contour_widths
            out = measure(combine(coefficients, self._values), _RADII * self._radius)
        failed = np.flatnonzero(np.isnan(out))
        if failed.size:
            out[failed] = kernel_fwhm(combine(coefficients[failed], self._basis))
        return out


def _core_values(basis: NDArray[np.float64], row: float, column: float, radius: float) -> NDArray[np.float64]:
    """Evaluate the basis's splines on a grid about (row, column), and along rays from there: shape (B, M)."""
    steps = np.arange(-GRID_HALF, GRID_HALF + 1) * _GRID_STEP * radius
    angles = 2 * np.pi * (np.arange(N_RAYS) + 0.5) / N_RAYS
    radii = (_RADII * radius)[:, None]
    y = np.concatenate([np.repeat(steps, steps.size), (radii * np.sin(angles)).ravel()])
    x = np.concatenate([np.tile(steps, steps.size), (radii * np.cos(angles)).ravel()])
    if kernels_measured.is_much(1):
        from skygraft.psf import measure_loops

        values = np.empty((len(basis), y.size))
        measure_loops.spline_values(basis, row + y, column + x, values)
        return values
    with np.errstate(all="ignore"):
        splines = spline_coefficients(basis)
        first = np.arange(len(basis))[:, None] * (basis.shape[1] * basis.shape[2])
        return spline_values(splines.ravel(), (first, *basis.shape[1:]), row + y, column + x)


def _many_contour_widths(values: NDArray[np.float64], radii: NDArray[np.float64]) -> NDArray[np.float64]:
    """Measure as `_contour_widths` does, in a compiled loop."""
    from skygraft.psf.measure_loops import contour_widths

    widths = np.full(len(values), np.nan)
    contour_widths(values, radii, widths)
    return widths


def _contour_widths(values: NDArray[np.float64], radii: NDArray[np.float64]) -> NDArray[np.float64]:
    """Measure widths from values on the grid and the rays, shape (N,); NaN for those that cannot be measured."""
    side = 2 * GRID_HALF + 1
    step = radii[1] - radii[0]
    widths = np.full(len(values), np.nan)
    grid = values[:, : side * side]
    top = grid.argmax(axis=1)
    j, i = np.divmod(top, side)
    usable = np.flatnonzero((j > 0) & (j < side - 1) & (i > 0) & (i < side - 1) & (grid.max(axis=1) > 0))
    grid, top = grid[usable], top[usable]
    rays = values[usable, side * side :].reshape(-1, radii.size, N_RAYS)
    which = np.arange(len(usable))
    peak = grid[which, top]
    with np.errstate(all="ignore"):
        across = _above(grid[which, top - 1], peak, grid[which, top + 1])
        half = (0.5 * (peak + across + _above(grid[which, top - side], peak, grid[which, top + side])))[:, None]
        count = np.logical_and.accumulate(rays >= half[:, None], axis=1).sum(axis=1)
        crosses = (count.min(axis=1) > 0) & (count.max(axis=1) < radii.size)
        usable, rays, half, count = usable[crosses], rays[crosses], half[crosses], count[crosses]
        # The cubic through the four samples around the crossing is solved for half the peak by Newton's method.
        first = np.minimum(np.maximum(count - 2, 0), radii.size - 4)
        flat = np.ascontiguousarray(rays).reshape(-1)
        begin = np.arange(len(usable))[:, None] * (radii.size * N_RAYS) + np.arange(N_RAYS)
        v0, v1, v2, v3 = (flat[begin + (first + k) * N_RAYS] for k in range(4))
        c1, c2, c3 = v1 - v0, (v2 - 2 * v1 + v0) / 2, (v3 - 3 * v2 + 3 * v1 - v0) / 6
        low = (count - 1 - first).astype(np.float64)
        v_low, v_high = flat[begin + (count - 1) * N_RAYS], flat[begin + count * N_RAYS]
        t = low + (v_low - half) / (v_low - v_high)
        for _ in range(3):
            excess = v0 + t * (c1 + (t - 1) * (c2 + (t - 2) * c3)) - half
            slope = c1 + (2 * t - 1) * c2 + (t * (3 * t - 6) + 2) * c3
            moved = np.minimum(np.maximum(t - excess / slope, low), low + 1.0)
            t = np.where(slope < 0, moved, t)
        radius = radii[0] + (first + t) * step
        widths[usable] = mean_diameter(radius)
    return widths


def _above(left: NDArray[np.float64], middle: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.float64]:
    """Height of the vertex of a parabola through three equidistant values above the middle one, the largest."""
    curvature = left - 2 * middle + right
    return np.where(curvature < 0, -((right - left) ** 2) / (8 * curvature), 0.0)
