"""The wide Gaussians of a Sérsic profile, drawn in real space over as many pixels as the flux tolerance asks for.

Their sum W is a function of the elliptical radius alone, u = x' P x, with u = 1 on the half-light ellipse. A PSF with
second moments C blurs it, to first order in C, by

    W(u) -> W(u) + tr(C P) W'(u) + 2 (x' P C P x) W''(u).

The part of C that has the ellipse's own shape, s inv(P) with s = tr(C P) / 2, is no approximation: it makes each
Gaussian's variance larger by s. What is left, D = C - s inv(P), enters by the last term only, since tr(D P) = 0. PSFs
have wider wings than a Gaussian of their second moments: what their fourth moment is more than that of the Gaussian, e,
comes in by e / 64 times the Laplacian of the Laplacian, as if for a circle.

W is cubic pieces in u and W'' linear ones, 8 to an octave, found by the bits of u as in `skygraft.render.radial`; to
that end, u is counted in squares of the narrowest of the widths.

Where W changes little over a cell of eight pixels or more, it goes to the cells of `skygraft.render.coarse`; about the
centre it is added to the pixels one by one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from skygraft.jit import compiled
from skygraft.render.coarse import FINEST, N_LEVELS, NODE

__all__ = ["add_wings"]

_FIRST_OCTAVE = -3
_OFFSET = 2.0**_FIRST_OCTAVE
_PIECES = 8
_N_PIECES = 24 * _PIECES
_MISSED = 2e-5
"""What a cell may miss of W, in units of the whole profile's peak,"""
_MISSED_THERE = 0.3
"""and of W's own value there."""
_HALF_DIAGONAL = 0.7072
_FAINT = 25.0
"""Exponent from which on a Gaussian is nothing."""


@compiled
def _tabulate(
    table: NDArray[np.float32],
    fluxes: NDArray[np.float64],
    widths: NDArray[np.float64],
    blur: float,
    excess: float,
    most: float,
    scale: float,
) -> int:
    """Pieces of W (four coefficients) and of W'' (two) in 0 ... 1, up to u = `most`; gives their number."""
    # An octave has so many steps, and those of the next are twice as long.
    steps = np.empty(len(table))
    n_pieces, step, u = 0, _OFFSET / _PIECES, 0.0
    while n_pieces < len(table) and u <= most:
        for _ in range(_PIECES):
            steps[n_pieces] = step
            u += step
            n_pieces += 1
        step *= 2.0
    value, slope, second = np.zeros(n_pieces + 1), np.zeros(n_pieces + 1), np.zeros(n_pieces + 1)
    for j in range(len(widths)):
        if fluxes[j] != 0.0:
            weight = 1.0 / (widths[j] ** 2 + blur)
            peak, wider = scale * fluxes[j] / (2.0 * np.pi) * weight, excess * weight * weight / 64.0
            half, quarter = 0.5 * weight, 0.25 * weight * weight
            # From one step to the next the exponential changes by the same factor, and its square in the next octave.
            factor, density, u, i = np.exp(-half * steps[0]), peak, 0.0, 0
            while i <= n_pieces and u * weight <= 2.0 * _FAINT:
                # The Laplacian twice, of a Gaussian.
                ratio = u * weight
                here = density * (1.0 + wider * ((ratio - 8.0) * ratio + 8.0))
                value[i] += here
                slope[i] -= half * here
                second[i] += quarter * here
                if i > 0 and i & (_PIECES - 1) == 0:
                    factor *= factor
                density *= factor
                u += steps[min(i, n_pieces - 1)]
                i += 1
    for i in range(n_pieces):
        # Hermite's cubic through both ends.
        h, rise = steps[i], value[i + 1] - value[i]
        table[i, 0], table[i, 1] = value[i], h * slope[i]
        table[i, 2] = 3.0 * rise - h * (2.0 * slope[i] + slope[i + 1])
        table[i, 3] = -2.0 * rise + h * (slope[i] + slope[i + 1])
        table[i, 4], table[i, 5] = second[i], second[i + 1] - second[i]
    return n_pieces


@compiled
def _least_radii(table: NDArray[np.float32], side: float, allowed: float, radii: NDArray[np.float64]) -> None:
    """Elliptical radii outside which cells of each size are small enough; `side` is that of the smallest."""
    radii[:] = 0.0
    u, h = 0.0, _OFFSET / _PIECES
    for i in range(len(table)):
        if i > 0 and i & (_PIECES - 1) == 0:
            h *= 2.0
        value, u_end = abs(table[i, 0]), u + h
        if value > 0.0:
            # Third derivative of a power of the radius, of W's own slope.
            power = 2.0 * u_end * abs(table[i, 1]) / (h * value)
            missed = ((1.0 + power) * side) ** 3 / 192.0 / max(u, 1e-3) ** 1.5
            for level in range(N_LEVELS):
                if missed * 8.0**level > min(_MISSED_THERE, allowed / value):
                    radii[level] = np.sqrt(u_end)
        u = u_end


@compiled(inline="always")
def _at(table: NDArray[np.float32], bits: int, deviation: np.float32) -> np.float32:
    piece = min((bits >> 20) - ((127 + _FIRST_OCTAVE) << 3), table.shape[0] - 1)
    t = np.float32(bits & 0xFFFFF) * np.float32(2.0**-20)
    c = table[piece]
    value = c[0] + t * (c[1] + t * (c[2] + t * c[3]))
    return np.float32(value + deviation * (c[4] + t * c[5]))


@compiled
def add_wings(
    model: NDArray[np.float32],
    corner: tuple[int, int],
    values: NDArray[np.float32],
    touched: NDArray[np.bool_],
    layout: NDArray[np.int64],
    sums: NDArray[np.float64],
    x: float,
    y: float,
    amplitude: float,
    metric: NDArray[np.float64],
    moments: NDArray[np.float64],
    fluxes: NDArray[np.float64],
    widths: NDArray[np.float64],
    reach: float,
    peak: float,
    middle: tuple[int, int],
    half: int,
) -> float:
    """Add one source's wide Gaussians to the canvas and to its coarse cells.

    Parameters
    ----------
    model : ndarray of float32, shape (ny, nx)
        Changed in place.
    corner : (int, int)
        Parent coordinates (x, y) of its first pixel.
    values, touched, layout : ndarray
        Of the `skygraft.render.coarse.CoarseField`; changed in place.
    sums : ndarray
        Of `skygraft.render.coarse.flux_weights`.
    x, y : float
        Centre of the source, blurred, in parent pixels.
    amplitude : float
        Flux of the source times the sum of the PSF.
    metric : ndarray, shape (3,)
        P: xx, xy, yy, per square pixel.
    moments : ndarray, shape (4,)
        Second central moments of the PSF, xx, xy, yy, square pixels, and its fourth, r^4.
    fluxes, widths : ndarray, shape (M,)
        Of the Gaussians, of a profile of unit flux; widths in half-light radii.
    reach : float
        Elliptical radius, in half-light radii, where drawing ends.
    peak : float
        Of the whole profile on the image, more or less.
    middle : (int, int)
        The stamp's middle pixel (x, y).
    half : int
        Half the stamp: no pixel further from the middle one is drawn on.

    Returns
    -------
    float
        Flux that landed on the canvas.
    """
    unit = 1.0
    for k in range(len(widths)):
        if fluxes[k] != 0.0:
            unit = widths[k]
            break
    pxx, pxy, pyy = metric[0] / unit**2, metric[1] / unit**2, metric[2] / unit**2
    cxx, cxy, cyy = moments[0], moments[1], moments[2]
    det = pxx * pyy - pxy * pxy
    blur = 0.5 * (cxx * pxx + 2.0 * cxy * pxy + cyy * pyy)
    # The fourth moment beyond that of a Gaussian with these second ones, averaged over directions.
    wider = moments[3] - 2.0 * (cxx + cyy) ** 2
    excess = wider * (3.0 * (pxx + pyy) ** 2 - 4.0 * det) / 8.0
    # Twice P D P, D = C - blur inv(P).
    axx, axy = pxx * cxx + pxy * cxy, pxx * cxy + pxy * cyy
    ayx, ayy = pxy * cxx + pyy * cxy, pxy * cxy + pyy * cyy
    qxx = 2.0 * (axx * pxx + axy * pxy - blur * pxx)
    qxy = 2.0 * (axx * pxy + axy * pyy - blur * pxy)
    qyy = 2.0 * (ayx * pxy + ayy * pyy - blur * pyy)
    most = reach / unit
    table = np.empty((_N_PIECES, 6), dtype=np.float32)
    table = table[: _tabulate(table, fluxes, widths / unit, blur, excess, most**2, amplitude * np.sqrt(det))]
    u_form = np.array([pxx, 2.0 * pxy, pyy])
    q_form = np.array([qxx, 2.0 * qxy, qyy])
    per_pixel = np.sqrt(0.5 * (pxx + pyy) + np.hypot(0.5 * (pxx - pyy), pxy))

    radii = np.empty(N_LEVELS)
    _least_radii(table, FINEST * per_pixel, _MISSED * abs(peak), radii)

    rows, columns = model.shape
    # The stamp, and what of it is on the canvas.
    left, right, bottom, top = middle[0] - half, middle[0] + half, middle[1] - half, middle[1] + half
    i_first, i_last = max(left, corner[0]), min(right, corner[0] + columns - 1)
    j_first, j_last = max(bottom, corner[1]), min(top, corner[1] + rows - 1)
    x_extent, y_extent = most * np.sqrt(pyy / det), most * np.sqrt(pxx / det)
    i_first, i_last = max(i_first, int(np.ceil(x - x_extent)) - FINEST), min(i_last, int(x + x_extent) + FINEST)
    j_first, j_last = max(j_first, int(np.ceil(y - y_extent)) - FINEST), min(j_last, int(y + y_extent) + FINEST)
    waiting = np.empty((3 * N_LEVELS + 1, 3), dtype=np.int64)
    pixels, shifted = np.empty(FINEST * FINEST, dtype=np.float32), np.empty(FINEST * FINEST, dtype=np.float32)
    deposited = 0.0
    largest = FINEST << (N_LEVELS - 1)
    for top_j in range(j_first // largest, j_last // largest + 1):
        for top_i in range(i_first // largest, i_last // largest + 1):
            waiting[0] = N_LEVELS - 1, top_j, top_i
            n_waiting = 1
            while n_waiting > 0:
                n_waiting -= 1
                level, cell_j, cell_i = waiting[n_waiting]
                h = FINEST << level
                j0, i0 = cell_j * h, cell_i * h
                if j0 > j_last or i0 > i_last or j0 + h <= j_first or i0 + h <= i_first:
                    continue
                dx, dy = i0 + 0.5 * (h - 1) - x, j0 + 0.5 * (h - 1) - y
                radius = np.sqrt(_form(u_form, dx, dy))
                margin = _HALF_DIAGONAL * h * per_pixel
                if radius - margin > most:
                    continue
                far = radius - margin >= radii[level]
                far = far and i0 >= left and i0 + h - 1 <= right and j0 >= bottom and j0 + h - 1 <= top
                if far and radius + margin <= most:
                    place = (cell_j - layout[level, 1]) * layout[level, 4] + cell_i - layout[level, 2]
                    place += layout[level, 0]
                    touched[place] = True
                    y_sums = max(0, corner[1] - j0), min(h, corner[1] + rows - j0)
                    x_sums = max(0, corner[0] - i0), min(h, corner[0] + columns - i0)
                    node = 0.5 * NODE * (h - 1)
                    deposited += _add_cell(
                        values[place], table, u_form, q_form, dx, dy, node, sums[level], x_sums, y_sums, shifted
                    )
                elif level > 0:
                    for child in range(4):
                        waiting[n_waiting] = level - 1, 2 * cell_j + child // 2, 2 * cell_i + child % 2
                        n_waiting += 1
                else:
                    _evaluate(pixels, shifted, table, u_form, q_form, i0 - x, j0 - y, most**2)
                    first, last = max(i_first, i0) - i0, min(i_last, i0 + FINEST - 1) - i0
                    for t in range(max(j_first, j0) - j0, min(j_last, j0 + FINEST - 1) - j0 + 1):
                        row, flux = j0 + t - corner[1], np.float32(0.0)
                        for s in range(first, last + 1):
                            model[row, i0 - corner[0] + s] += pixels[FINEST * t + s]
                            flux += pixels[FINEST * t + s]
                        deposited += float(flux)
    return deposited


@compiled(inline="always")
def _form(form: NDArray[np.float64], dx: float, dy: float) -> float:
    value: float = (form[0] * dx + form[1] * dy) * dx + form[2] * dy * dy
    return value


@compiled
def _add_cell(
    values: NDArray[np.float32],
    table: NDArray[np.float32],
    u_form: NDArray[np.float64],
    q_form: NDArray[np.float64],
    dx: float,
    dy: float,
    node: float,
    sums: NDArray[np.float64],
    x_sums: tuple[int, int],
    y_sums: tuple[int, int],
    shifted: NDArray[np.float32],
) -> float:
    """Add W at the nodes of one cell whose middle is at (dx, dy) from the centre; gives the flux in its pixels."""
    bits = shifted.view(np.int32)
    for a in range(3):
        for b in range(3):
            shifted[3 * a + b] = _form(u_form, dx + (b - 1) * node, dy + (a - 1) * node) + _OFFSET
    flux = 0.0
    for a in range(3):
        row = 0.0
        for b in range(3):
            deviation = np.float32(_form(q_form, dx + (b - 1) * node, dy + (a - 1) * node))
            value = _at(table, bits[3 * a + b], deviation)
            values[a, b] += value
            row += (sums[x_sums[1], b] - sums[x_sums[0], b]) * value
        flux += (sums[y_sums[1], a] - sums[y_sums[0], a]) * row
    return flux


@compiled
def _evaluate(
    pixels: NDArray[np.float32],
    shifted: NDArray[np.float32],
    table: NDArray[np.float32],
    u_form: NDArray[np.float64],
    q_form: NDArray[np.float64],
    dx: float,
    dy: float,
    most: float,
) -> None:
    """W in a smallest cell, whose first pixel is at (dx, dy) from the centre; nothing where u is more than `most`."""
    # As `_at`, in flat loops that are compiled to do several pixels at a time.
    bits, flat, last = shifted.view(np.int32), table.ravel(), table.shape[0] - 1
    uxx, uxy, uyy = np.float32(u_form[0]), np.float32(u_form[1]), np.float32(u_form[2])
    qxx, qxy, qyy = np.float32(q_form[0]), np.float32(q_form[1]), np.float32(q_form[2])
    x, y = np.float32(dx), np.float32(dy)
    end, offset = np.float32(most + _OFFSET), np.float32(_OFFSET)
    for k in range(FINEST * FINEST):
        along, across = x + np.float32(k & (FINEST - 1)), y + np.float32(k // FINEST)
        shifted[k] = (uxx * along + uxy * across) * along + uyy * across * across + offset
        pixels[k] = (qxx * along + qxy * across) * along + qyy * across * across
    for k in range(FINEST * FINEST):
        p = 6 * min((bits[k] >> 20) - ((127 + _FIRST_OCTAVE) << 3), last)
        t = np.float32(bits[k] & 0xFFFFF) * np.float32(2.0**-20)
        value = flat[p] + t * (flat[p + 1] + t * (flat[p + 2] + t * flat[p + 3]))
        value += pixels[k] * (flat[p + 4] + t * flat[p + 5])
        pixels[k] = value if shifted[k] <= end else np.float32(0.0)
