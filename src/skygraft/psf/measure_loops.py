"""Compiled loops that measure widths of many kernels: to the last bit as `skygraft.psf.widths` and `measure` do few."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from skygraft.jit import compiled
from skygraft.psf.quintic import POLE_1, POLE_2, quintic_weights
from skygraft.psf.width_grid import GRID_HALF, MARGIN, N_RAYS

__all__ = ["contour_widths", "kernel_widths", "spline_values"]


@compiled
def contour_widths(
    values: NDArray[np.float64], radii: NDArray[np.float64], out: NDArray[np.float64]
) -> None:  # pragma: no cover - compiled
    """Measure widths from values (N, M) on the grid and the rays; those that cannot be measured are left unchanged."""
    side = 2 * GRID_HALF + 1
    step = radii[1] - radii[0]
    above, count = np.empty(N_RAYS, np.int64), np.empty(N_RAYS, np.int64)
    c0, c1, c2, c3 = np.empty(N_RAYS), np.empty(N_RAYS), np.empty(N_RAYS), np.empty(N_RAYS)
    start, low, t = np.empty(N_RAYS), np.empty(N_RAYS), np.empty(N_RAYS)
    for s in range(values.shape[0]):
        grid, rays = values[s, : side * side], values[s, side * side :]
        top = 0
        for k in range(1, side * side):
            if grid[k] > grid[top]:
                top = k
        j, i = top // side, top % side
        if not (0 < j < side - 1 and 0 < i < side - 1 and grid[top] > 0):
            continue
        peak = grid[top]
        half = 0.5 * (
            peak + _above(grid[top - 1], peak, grid[top + 1]) + _above(grid[top - side], peak, grid[top + side])
        )
        # The loop over rays is the inner one, so that it is vectorised.
        above[:], count[:] = 1, 0
        for k in range(radii.size):
            for ray in range(N_RAYS):
                above[ray] &= rays[k * N_RAYS + ray] >= half
                count[ray] += above[ray]
        fewest, most = radii.size, 0
        for ray in range(N_RAYS):
            fewest, most = min(fewest, count[ray]), max(most, count[ray])
        if fewest == 0 or most == radii.size:
            continue
        # The cubic through the four samples around the crossing is solved for half the peak by Newton's method.
        for ray in range(N_RAYS):
            k = count[ray]
            first = min(max(k - 2, 0), radii.size - 4)
            v0, v1 = rays[first * N_RAYS + ray], rays[(first + 1) * N_RAYS + ray]
            v2, v3 = rays[(first + 2) * N_RAYS + ray], rays[(first + 3) * N_RAYS + ray]
            c0[ray], c1[ray] = v0, v1 - v0
            c2[ray], c3[ray] = (v2 - 2 * v1 + v0) / 2, (v3 - 3 * v2 + 3 * v1 - v0) / 6
            start[ray], low[ray] = first, float(k - 1 - first)
            v_low, v_high = rays[(k - 1) * N_RAYS + ray], rays[k * N_RAYS + ray]
            t[ray] = low[ray] + (v_low - half) / (v_low - v_high)
        for _ in range(3):
            for ray in range(N_RAYS):
                u, d1, d2, d3 = t[ray], c1[ray], c2[ray], c3[ray]
                excess = c0[ray] + u * (d1 + (u - 1) * (d2 + (u - 2) * d3)) - half
                slope = d1 + (2 * u - 1) * d2 + (u * (3 * u - 6) + 2) * d3
                moved = min(max(u - excess / slope, low[ray]), low[ray] + 1.0)
                t[ray] = moved if slope < 0 else u
        area = 0.0
        for ray in range(N_RAYS):
            radius = radii[0] + (start[ray] + t[ray]) * step
            area += radius * radius
        out[s] = 2 * np.sqrt(area / N_RAYS)


@compiled(inline="always")
def _above(left: float, middle: float, right: float) -> float:  # pragma: no cover - compiled
    """Height of the vertex of a parabola through three equidistant values above the middle one, the largest."""
    curvature = left - 2 * middle + right
    return -((right - left) ** 2) / (8 * curvature) if curvature < 0 else 0.0


@compiled
def kernel_widths(kernels: NDArray[np.float64], out: NDArray[np.float64]) -> None:  # pragma: no cover - compiled
    """Measure widths of kernels (N, ny, nx); entries of `out` (N,) that cannot be measured are left unchanged."""
    n, ny, nx = kernels.shape
    for i in range(n):
        kernel = kernels[i]
        row, column, peak, finite = 0, 0, -np.inf, True
        for y in range(ny):
            for x in range(nx):
                value = kernel[y, x]
                finite &= np.isfinite(value)
                if value > peak:
                    row, column, peak = y, x, value
        if not finite or peak <= 0:
            continue
        above = 0
        for y in range(ny):
            for x in range(nx):
                above += kernel[y, x] >= 0.5 * peak
        guess = np.sqrt(above / np.pi)
        # A window is enough: spline coefficients hardly depend on pixels further away.
        reach = int(2.5 * guess) + MARGIN
        y0, y1 = max(row - reach, 0), min(row + reach + 1, ny)
        x0, x1 = max(column - reach, 0), min(column + reach + 1, nx)
        spline = _prefilter(_prefilter(kernel[y0:y1, x0:x1] / peak).T.copy()).T.copy()
        out[i] = _width(spline, row - y0, column - x0, guess)


@compiled(reads=("images",))
def spline_values(
    images: NDArray[np.float64], y: NDArray[np.float64], x: NDArray[np.float64], out: NDArray[np.float64]
) -> None:  # pragma: no cover - compiled
    """Evaluate the splines through images (B, ny, nx) at M places, into `out` (B, M)."""
    for b in range(images.shape[0]):
        spline = _prefilter(_prefilter(images[b]).T.copy()).T.copy()
        for k in range(y.size):
            out[b, k] = _value(spline, y[k], x[k])


@compiled(inline="always")
def _width(spline: NDArray[np.float64], row: int, column: int, guess: float) -> float:  # pragma: no cover - compiled
    ny, nx = spline.shape
    cy, cx = float(row), float(column)
    for step in (0.5, 0.25, 0.125):
        middle = _value(spline, cy, cx)
        low, high = _value(spline, cy - step, cx), _value(spline, cy + step, cx)
        left, right = _value(spline, cy, cx - step), _value(spline, cy, cx + step)
        cy += _vertex(low, middle, high) * step
        cx += _vertex(left, middle, right) * step
    half = 0.5 * _value(spline, cy, cx)
    area = 0.0
    for ray in range(N_RAYS):
        angle = 2 * np.pi * (ray + 0.5) / N_RAYS
        sine, cosine = np.sin(angle), np.cos(angle)
        inner, outer, step = 0.0, 0.85 * guess, 0.3 * guess
        v_inner, v_outer = 2 * half, _value(spline, cy + outer * sine, cx + outer * cosine)
        while v_outer >= half:
            inner, v_inner = outer, v_outer
            outer += step
            y, x = cy + outer * sine, cx + outer * cosine
            if y < -0.5 or x < -0.5 or y > ny - 0.5 or x > nx - 0.5:
                return np.nan
            v_outer = _value(spline, y, x)
        # Regula falsi with the Illinois rule: the weight of the end that stays is halved.
        f_inner, f_outer, side = v_inner - half, v_outer - half, 0
        radius = inner
        for _ in range(12):
            radius = (inner * f_outer - outer * f_inner) / (f_outer - f_inner)
            f = _value(spline, cy + radius * sine, cx + radius * cosine) - half
            if abs(f) < 1e-5 * half:
                break
            if f >= 0:
                inner, f_inner = radius, f
                if side == 1:
                    f_outer *= 0.5
                side = 1
            else:
                outer, f_outer = radius, f
                if side == -1:
                    f_inner *= 0.5
                side = -1
        area += radius * radius
    return float(2 * np.sqrt(area / N_RAYS))


@compiled(inline="always")
def _vertex(left: float, middle: float, right: float) -> float:  # pragma: no cover - compiled
    """Where a parabola through -1, 0, 1 has its maximum, within -1 to 1; 0 if it has none."""
    curvature = left - 2 * middle + right
    if curvature >= 0:
        return 0.0
    return min(max(0.5 * (left - right) / curvature, -1.0), 1.0)


@compiled(reads=("values",))
def _prefilter(values: NDArray[np.float64]) -> NDArray[np.float64]:  # pragma: no cover - compiled
    """Quintic B-spline coefficients along the first axis, the image mirrored at its first and last pixels."""
    c = values.copy()
    n = c.shape[0]
    if n < 2:
        return c
    for pole in (POLE_1, POLE_2):
        gain = (1 - pole) * (1 - 1 / pole)
        for i in range(n):
            for j in range(c.shape[1]):
                c[i, j] *= gain
        # causal sum over the mirrored, periodic extension
        last = pole ** (n - 1)
        for j in range(c.shape[1]):
            c[0, j] += last * c[n - 1, j]
        forward, backward = pole, last * last / pole
        for i in range(1, n - 1):
            for j in range(c.shape[1]):
                c[0, j] += (forward + backward) * c[i, j]
            forward *= pole
            backward /= pole
        for j in range(c.shape[1]):
            c[0, j] /= 1 - last * last
        for i in range(1, n):
            for j in range(c.shape[1]):
                c[i, j] += pole * c[i - 1, j]
        for j in range(c.shape[1]):
            c[n - 1, j] = pole / (pole * pole - 1) * (c[n - 1, j] + pole * c[n - 2, j])
        for i in range(n - 2, -1, -1):
            for j in range(c.shape[1]):
                c[i, j] = pole * (c[i + 1, j] - c[i, j])
    return c


@compiled
def _value(c: NDArray[np.float64], y: float, x: float) -> float:  # pragma: no cover - compiled
    """The spline at (y, x)."""
    ny, nx = c.shape
    y0, x0 = int(np.floor(y)), int(np.floor(x))
    wx = quintic_weights(x - x0)
    total = 0.0
    for i, wy in enumerate(quintic_weights(y - y0)):
        row = _mirror(y0 + i - 2, ny)
        if 2 <= x0 < nx - 3:
            part = 0.0
            for j, w in enumerate(wx):
                part += w * c[row, x0 + j - 2]
        else:
            part = 0.0
            for j, w in enumerate(wx):
                part += w * c[row, _mirror(x0 + j - 2, nx)]
        total += wy * part
    return total


@compiled(inline="always")
def _mirror(i: int, n: int) -> int:  # pragma: no cover - compiled
    if n == 1:
        return 0
    i = abs(i) % (2 * n - 2)
    return i if i < n else 2 * n - 2 - i
