"""Measurements of PSF kernels.

The width of a kernel is that of the circle with the area of the region above half the peak, on a quintic spline through
the pixels. A spline is linear in its pixels. For a PSF that is a sum of basis images, values of the basis's splines at
fixed places about the core (a grid around the peak, 16 rays across the half-maximum contour) are made once, and a
kernel's values there are one product of its coefficients with them; the contour is where they cross one half.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skygraft.errors import ConfigError, SkygraftError
from skygraft.jit import in_python_too
from skygraft.psf.base import PSF, Box
from skygraft.psf.linear import LinearPSF, combine

__all__ = ["FwhmMeter", "fwhm_range", "kernel_fwhm"]

# Poles of the quintic B-spline's inverse filter: roots of z^4 + 26 z^3 + 66 z^2 + 26 z + 1 inside the unit circle.
POLE_1 = -0.43057534709997379
POLE_2 = -0.043096288203264654
N_RAYS = 16
MARGIN = 6
_TAPS = np.arange(-2, 4)

_RADII = np.linspace(0.6, 1.7, 12)
"""Radii at which rays are sampled, in units of the half width at half maximum of the meter's first kernels."""
GRID_HALF = 4
_GRID_STEP = 0.12
"""Step of the grid about the peak, in the same units; four steps to each side let the peak move by a quarter FWHM."""


class _Tally:
    """How many this process has measured, to know when loops pay that are compiled for it, or loaded.

    Parameters
    ----------
    most : int
        Up to so many are few.
    """

    def __init__(self, most: int) -> None:
        self.most, self.done = most, 0

    def are_many(self, n: int) -> bool:
        """Add n, and return whether they are many by now."""
        self.done += n
        return self.done > self.most


# Loops take seconds to compile on a new machine, and a tenth of a second to load. They give the same to the last bit.
_kernels, _sums = _Tally(200), _Tally(4000)
_LIKE_A_CALL = 40
"""Sums whose widths take as long to measure as one call does that measures none."""


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
    return _many_widths(array) if _kernels.are_many(len(array)) else _widths(array)


def fwhm_range(psf: PSF, box: Box) -> tuple[float, float]:
    """Measure the narrowest and the widest kernel of a PSF, at the middle and near the corners of a box.

    Parameters
    ----------
    psf : PSF
        The model.
    box : Box
        Edges in parent pixels.

    Returns
    -------
    low, high : float
        FWHM in pixels; NaN where the PSF has no kernel there, or none whose width can be measured.

    See Also
    --------
    PSF.fwhm_range
    """
    part = np.array([0.5, 0.05, 0.95, 0.05, 0.95])
    x = box.x_min + part * (box.x_max - box.x_min)
    y = box.y_min + np.array([0.5, 0.05, 0.05, 0.95, 0.95]) * (box.y_max - box.y_min)
    try:
        has = psf.defined(x, y)
        widths = kernel_fwhm(psf.kernels(x[has], y[has]))
    except (SkygraftError, ArithmeticError, ValueError):
        return np.nan, np.nan
    widths = widths[np.isfinite(widths)]
    return (float(widths.min()), float(widths.max())) if widths.size else (np.nan, np.nan)


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
            measure = _many_contour_widths if _sums.are_many(max(len(out), _LIKE_A_CALL)) else _contour_widths
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
    if _kernels.are_many(1):
        from skygraft.psf.measure_loops import spline_values

        values = np.empty((len(basis), y.size))
        spline_values(basis, row + y, column + x, values)
        return values
    with np.errstate(all="ignore"):
        splines = _splines(basis)
        first = np.arange(len(basis))[:, None] * (basis.shape[1] * basis.shape[2])
        return _spline_values(splines.ravel(), (first, *basis.shape[1:]), row + y, column + x)


def _many_widths(kernels: NDArray[np.float64]) -> NDArray[np.float64]:
    """Measure as `_widths` does, in a compiled loop."""
    from skygraft.psf.measure_loops import kernel_widths

    widths = np.full(len(kernels), np.nan)
    kernel_widths(kernels, widths)
    return widths


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
        widths[usable] = _mean_diameter(radius)
    return widths


def _above(left: NDArray[np.float64], middle: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.float64]:
    """Height of the vertex of a parabola through three equidistant values above the middle one, the largest."""
    curvature = left - 2 * middle + right
    return np.where(curvature < 0, -((right - left) ** 2) / (8 * curvature), 0.0)


def _mean_diameter(radii: NDArray[np.float64]) -> NDArray[np.float64]:
    """Diameter of circles with the areas within contours, whose radii (N, rays) are added in the order of the rays."""
    return 2 * np.sqrt(_sum_last(radii * radii) / N_RAYS)


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
            splines[first[same, None] + np.arange(height * length)] = _splines(windows).reshape(len(same), -1)
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
        return _spline_values(self._splines, (first[k], heights[k], lengths[k]), y, x)

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
        widths: NDArray[np.float64] = _mean_diameter(radii)
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


def _splines(images: NDArray[np.float64]) -> NDArray[np.float64]:
    """Coefficients of the quintic splines through images (N, ny, nx), of the same shape."""
    rows = np.moveaxis(images, 1, 0)
    columns = np.moveaxis(_prefilter(rows), 2, 0)
    return np.ascontiguousarray(_prefilter(columns).transpose(2, 1, 0))


def _prefilter(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Quintic B-spline coefficients along the first axis, the image mirrored at its first and last pixels."""
    c = np.array(values, order="C")
    n = c.shape[0]
    if n < 2:
        return c
    for pole in (POLE_1, POLE_2):
        c *= (1 - pole) * (1 - 1 / pole)
        # causal sum over the mirrored, periodic extension
        last = _power(pole, n - 1)
        c[0] += last * c[n - 1]
        forward, backward = pole, last * last / pole
        for i in range(1, n - 1):
            c[0] += (forward + backward) * c[i]
            forward *= pole
            backward /= pole
        c[0] /= 1 - last * last
        for i in range(1, n):
            c[i] += pole * c[i - 1]
        c[n - 1] = pole / (pole * pole - 1) * (c[n - 1] + pole * c[n - 2])
        for i in range(n - 2, -1, -1):
            c[i] = pole * (c[i + 1] - c[i])
    return c


def _power(base: float, exponent: int) -> float:
    """Return the power by squarings: the C library's differs between processors in the last bit."""
    result = 1.0
    while exponent:
        if exponent & 1:
            result *= base
        exponent >>= 1
        base *= base
    return result


def _spline_values(
    splines: NDArray[np.float64], of: tuple[Any, Any, Any], y: NDArray[np.float64], x: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Evaluate splines at places (y, x), given where each begins in the flat array, its rows and columns; broadcast."""
    first, ny, nx = (np.asarray(number)[..., None] for number in of)
    y0, x0 = np.floor(y).astype(np.int64), np.floor(x).astype(np.int64)
    rows, columns = _mirror(y0[..., None] + _TAPS, ny), _mirror(x0[..., None] + _TAPS, nx)
    begins = first + rows * nx
    along, across = (np.stack(quintic_weights(t), axis=-1) for t in (x - x0, y - y0))
    terms = splines[begins[..., :, None] + columns[..., None, :]] * along[..., None, :]
    terms = _sum_last(terms) * across
    return _sum_last(terms)


def _sum_last(terms: NDArray[np.float64]) -> NDArray[np.float64]:
    """Add along the last axis, one after the other: the order of `numpy.sum` differs between processors."""
    total = terms[..., 0] + 0.0
    for k in range(1, terms.shape[-1]):
        total += terms[..., k]
    return total


def _mirror(i: NDArray[np.int64], n: Any) -> NDArray[np.int64]:
    i = np.abs(i) % np.maximum(2 * n - 2, 1)
    return np.where(i < n, i, 2 * n - 2 - i)


@in_python_too
def quintic_weights(t: Any) -> tuple[Any, ...]:
    """Quintic B-spline at t + 2, t + 1, t, t - 1, t - 2, t - 3 for t in [0, 1), a number or an array."""
    s = 1 - t
    t2, s2 = t * t, s * s
    t4, s4 = t2 * t2, s2 * s2
    first = s4 * s / 120
    last = t4 * t / 120
    # the pieces of the spline at distances 2 to 3 (outermost), 1 to 2 (_middle) and 0 to 1
    second, fifth = _middle(1 + t), _middle(1 + s)
    third = (33 - 30 * t2 + 15 * t4 - 5 * t4 * t) / 60
    fourth = (33 - 30 * s2 + 15 * s4 - 5 * s4 * s) / 60
    return first, second, third, fourth, fifth, last


@in_python_too
def _middle(d: Any) -> Any:
    """Quintic B-spline at distance d in [1, 2)."""
    return (51 + d * (75 + d * (-210 + d * (150 + d * (-45 + 5 * d))))) / 120
