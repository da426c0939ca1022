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
centre it is added to the pixels themselves. Pixels and the nodes of cells are made eight at a time
(`skygraft.render.vectors`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from skygraft.jit import compiled
from skygraft.render.coarse import FINEST, N_LEVELS, NODE, Cells
from skygraft.render.traced import number, traced
from skygraft.render.vectors import LANES, Eight, cubic_and_line_lookup, load, nothing_beyond, spread, store, transpose

__all__ = ["add_wings"]

_FIRST_OCTAVE = -3
_OFFSET = np.float32(2.0**_FIRST_OCTAVE)
_PIECES = 8
_N_OCTAVES = 32
_ROW = 8
"""Numbers of each piece of the table: four for the cubic, two for the line, and two of padding."""
_MISSED_THERE = 0.3
"""Largest error of a cell, relative to W at its place."""
_HALF_DIAGONAL = 0.7072
_FAINT = 25.0
"""Gaussians count as zero where the exponent is larger than this: exp(-25) is below single precision."""

_LANES = np.arange(LANES, dtype=np.float32)
_X_NODES, _Y_NODES = np.zeros((2, 2 * LANES), dtype=np.float32)
"""Nodes of a cell, row by row, in units of the outer nodes' distance, padded to whole vectors."""
_X_NODES[:9], _Y_NODES[:9] = np.tile([-1.0, 0.0, 1.0], 3), np.repeat([-1.0, 0.0, 1.0], 3)

_STEPS = 1.0 + np.arange(_PIECES, dtype=np.float32) / _PIECES
"""Starts of the pieces of an octave, relative to the start of the octave."""
_CUBES = np.maximum(_OFFSET * (np.exp2(np.arange(_N_OCTAVES))[:, None] * _STEPS - 1.0), 1e-3).ravel() ** 1.5
"""Elliptical radii at the starts of the pieces, cubed."""

_value_at = cubic_and_line_lookup(_FIRST_OCTAVE, _PIECES, _N_OCTAVES * _PIECES)


@compiled(inline="always")
def _tabulate(
    table: NDArray[np.float32],
    fluxes: NDArray[np.float64],
    widths: NDArray[np.float64],
    blur: float,
    excess: float,
    most: float,
    scale: float,
) -> int:
    """Tabulate W (four coefficients a piece) and W'' (two) up to u = `most`, and return the number of octaves."""
    n_octaves = 1
    while n_octaves < _N_OCTAVES and _OFFSET * 2.0**n_octaves - _OFFSET <= most:
        n_octaves += 1
    value, slope, second = np.zeros((3, (n_octaves + 1) * _PIECES), dtype=np.float32)
    one = spread(np.float32(1.0))
    steps = load(_STEPS, 0)
    for j in range(len(widths)):
        if fluxes[j] == 0.0:
            continue
        weight = 1.0 / (widths[j] ** 2 + blur)
        half = 0.5 * weight
        peak = spread(np.float32(scale * fluxes[j] / (2.0 * np.pi) * weight * np.exp(half * _OFFSET)))
        to_slope, to_second = spread(np.float32(half)), spread(np.float32(0.25 * weight * weight))
        wider = spread(np.float32(excess * weight * weight / 64.0))
        # The exponential less one, of -x; x is less than 1/8 in the first octave, where all are kept to full precision.
        x = spread(np.float32(half * _OFFSET)) * steps
        less = spread(np.float32(-1.0 / 6.0)) * x + one
        for k in range(5, 1, -1):
            less = one - spread(np.float32(1.0 / k)) * x * less
        less = spread(np.float32(-1.0)) * x * less
        start = _OFFSET
        for at in range(0, len(value), _PIECES):
            if half * (start - _OFFSET) > _FAINT:
                break
            first, offset = spread(np.float32(weight * start)), spread(np.float32(weight * _OFFSET))
            _add_gaussian(value, slope, second, at, less, peak, wider, first, steps, offset, to_slope, to_second)
            less = _less_of_twice(less)
            start *= 2.0
    columns = np.zeros(_ROW * _PIECES, dtype=np.float32)
    for octave in range(n_octaves):
        i = octave * _PIECES
        _join(columns, value, slope, second, i, spread(np.float32(_OFFSET * 2.0**octave / _PIECES)))
        transpose(columns, 0, _PIECES, table, i * _ROW, _ROW)
    return n_octaves


@traced()
def _add_gaussian(
    value: Any,
    slope: Any,
    second: Any,
    at: int,
    less: Eight,
    peak: Eight,
    wider: Eight,
    first: Eight,
    steps: Eight,
    offset: Eight,
    to_slope: Eight,
    to_second: Eight,
) -> None:
    """Add one Gaussian, and the Laplacian twice of it, to an octave of the sums; `less` is its exponential less one."""
    one, eight = number(less, 1.0), number(less, 8.0)
    ratio = first * steps - offset
    here = peak * (less + one) * (one + wider * ((ratio - eight) * ratio + eight))
    store(value, at, load(value, at) + here)
    store(slope, at, load(slope, at) - to_slope * here)
    store(second, at, load(second, at) + to_second * here)


@traced(1)
def _less_of_twice(less: Eight) -> Eight:
    """Return the exponentials less one where all arguments are twice as large, as in the next octave."""
    one: Eight = number(less, 1.0)
    return less * (less + one + one)


@traced()
def _join(columns: Any, value: Any, slope: Any, second: Any, i: int, h: Eight) -> None:
    """Compute an octave's table: Hermite's cubics through both ends of each piece, and lines."""
    two, three = number(h, 2.0), number(h, 3.0)
    first, rise = load(value, i), load(value, i + 1) - load(value, i)
    slope_here, slope_there = h * load(slope, i), h * load(slope, i + 1)
    store(columns, 0, first)
    store(columns, _PIECES, slope_here)
    store(columns, 2 * _PIECES, three * rise - two * slope_here - slope_there)
    store(columns, 3 * _PIECES, slope_here + slope_there - two * rise)
    store(columns, 4 * _PIECES, load(second, i))
    store(columns, 5 * _PIECES, load(second, i + 1) - load(second, i))


@compiled(inline="always")
def _least_radii(
    table: NDArray[np.float32], n_octaves: int, side: float, allowed: float, radii: NDArray[np.float64]
) -> None:
    """Compute the elliptical radius outside which each size of cell is accurate; `side` is the smallest size."""
    radii[:] = 0.0
    level, shrink = N_LEVELS - 1, 8.0 ** (N_LEVELS - 1)
    for octave in range(n_octaves - 1, -1, -1):
        h = _OFFSET * 2.0**octave / _PIECES
        for i in range(_PIECES - 1, -1, -1):
            piece = octave * _PIECES + i
            value, fall = abs(table[piece * _ROW]), abs(table[piece * _ROW + 1])
            u_end = h * (_PIECES + i + 1) - _OFFSET
            # Third derivative of a power of the radius, of W's own slope: (side (1 + power) / radius)^3 / 192 of W,
            # power = 2 u fall / (h value). Both sides times (value h)^3: divisions take long.
            missed = (side * (value * h + 2.0 * u_end * fall)) ** 3
            limit = min(_MISSED_THERE * value, allowed) * (value * value) * (192.0 * h * h * h) * _CUBES[piece]
            while missed * shrink > limit:
                radii[level] = np.sqrt(u_end)
                level -= 1
                shrink *= 0.125
                if level < 0:
                    return


@compiled(inline="always")
def add_wings(
    model: NDArray[np.float32],
    corner: tuple[int, int],
    cells: Cells,
    x: float,
    y: float,
    amplitude: float,
    metric: NDArray[np.float64],
    moments: NDArray[np.float64],
    fluxes: NDArray[np.float64],
    widths: NDArray[np.float64],
    reach: float,
    allowed: float,
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
    cells : Cells
        Of the canvas; changed in place.
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
        Elliptical radius to which the Gaussians are drawn, half-light radii.
    allowed : float
        Largest error of a coarse cell, image units.
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
    per_pixel = np.sqrt(0.5 * (pxx + pyy) + np.hypot(0.5 * (pxx - pyy), pxy))
    # Cells at the rim are drawn whole, so W is needed a little further out than `most`.
    tabulated = most + _HALF_DIAGONAL * (FINEST << (N_LEVELS - 1)) * per_pixel
    table = np.empty(_N_OCTAVES * _PIECES * _ROW, dtype=np.float32)
    n_octaves = _tabulate(table, fluxes, widths / unit, blur, excess, tabulated**2, amplitude * np.sqrt(det))
    u_form, q_form = np.empty(3), np.empty(3)
    u_form[0], u_form[1], u_form[2] = pxx, 2.0 * pxy, pyy
    q_form[0], q_form[1], q_form[2] = qxx, 2.0 * qxy, qyy
    radii = np.empty(N_LEVELS)
    _least_radii(table, n_octaves, FINEST * per_pixel, allowed, radii)

    values, touched, layout, sums = cells
    rows, columns = model.shape
    # The stamp, and what of it is on the canvas.
    left, right, bottom, top = middle[0] - half, middle[0] + half, middle[1] - half, middle[1] + half
    i_first, i_last = max(left, corner[0]), min(right, corner[0] + columns - 1)
    j_first, j_last = max(bottom, corner[1]), min(top, corner[1] + rows - 1)
    x_extent, y_extent = most * np.sqrt(pyy / det), most * np.sqrt(pxx / det)
    i_first, i_last = max(i_first, int(np.ceil(x - x_extent)) - FINEST), min(i_last, int(x + x_extent) + FINEST)
    j_first, j_last = max(j_first, int(np.ceil(y - y_extent)) - FINEST), min(j_last, int(y + y_extent) + FINEST)
    waiting = np.empty((3 * N_LEVELS + 1, 3), dtype=np.int64)
    made = np.empty(2 * LANES, dtype=np.float32)
    deposited = 0.0
    largest = FINEST << (N_LEVELS - 1)
    for top_j in range(j_first // largest, j_last // largest + 1):
        for top_i in range(i_first // largest, i_last // largest + 1):
            waiting[0, 0], waiting[0, 1], waiting[0, 2] = N_LEVELS - 1, top_j, top_i
            n_waiting = 1
            while n_waiting > 0:
                n_waiting -= 1
                level, cell_j, cell_i = waiting[n_waiting, 0], waiting[n_waiting, 1], waiting[n_waiting, 2]
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
                # Cells at the rim are drawn whole: cutting them at a pixel would be much work for very little light.
                if far and (level == 0 or radius <= most):
                    place = (cell_j - layout[level, 1]) * layout[level, 4] + cell_i - layout[level, 2]
                    place += layout[level, 0]
                    touched[place] = True
                    y_sums = max(0, corner[1] - j0), min(h, corner[1] + rows - j0)
                    x_sums = max(0, corner[0] - i0), min(h, corner[0] + columns - i0)
                    node = np.float32(0.5 * NODE * (h - 1))
                    _at_nodes(made, table, u_form, q_form, dx, dy, node)
                    deposited += _add_cell(values[place], made, sums[level], x_sums, y_sums)
                elif level > 0:
                    for child in range(4):
                        waiting[n_waiting, 0] = level - 1
                        waiting[n_waiting, 1] = 2 * cell_j + child // 2
                        waiting[n_waiting, 2] = 2 * cell_i + child % 2
                        n_waiting += 1
                else:
                    first, last = max(i_first, i0) - i0, min(i_last, i0 + FINEST - 1) - i0
                    low, high = max(j_first, j0), min(j_last, j0 + FINEST - 1)
                    deposited += _add_pixels(
                        model[low - corner[1] : high + 1 - corner[1]], i0 - corner[0], first, last, table, u_form,
                        q_form, i0 - x, low - y, most**2, made,
                    )  # fmt: skip
    return deposited


@compiled(inline="always")
def _form(form: NDArray[np.float64], dx: float, dy: float) -> float:
    value: float = (form[0] * dx + form[1] * dy) * dx + form[2] * dy * dy
    return value


@compiled(inline="always")
def _at_nodes(
    made: NDArray[np.float32],
    table: NDArray[np.float32],
    u_form: NDArray[np.float64],
    q_form: NDArray[np.float64],
    dx: float,
    dy: float,
    node: np.float32,
) -> None:
    """Compute W at the nodes of a cell whose middle is at (dx, dy) from the centre."""
    middle_x, middle_y, distance = spread(np.float32(dx)), spread(np.float32(dy)), spread(node)
    for k in range(0, 2 * LANES, LANES):
        x, y = middle_x + distance * load(_X_NODES, k), middle_y + distance * load(_Y_NODES, k)
        store(made, k, _value_at(table, _form_of(u_form, x, y) + spread(_OFFSET), _form_of(q_form, x, y)))


@traced(1)
def _form_of(form: NDArray[np.float64], x: Eight, y: Eight) -> Eight:
    xx, xy, yy = spread(form[0]), spread(form[1]), spread(form[2])
    value: Eight = (xx * x + xy * y) * x + yy * y * y
    return value


@compiled(inline="always")
def _add_cell(
    values: NDArray[np.float32],
    made: NDArray[np.float32],
    sums: NDArray[np.float64],
    x_sums: tuple[int, int],
    y_sums: tuple[int, int],
) -> float:
    """Add values at the nodes of a cell to it, and return the flux in its pixels."""
    flux = 0.0
    for a in range(3):
        row = 0.0
        for b in range(3):
            value = made[3 * a + b]
            values[a, b] += value
            row += (sums[x_sums[1], b] - sums[x_sums[0], b]) * value
        flux += (sums[y_sums[1], a] - sums[y_sums[0], a]) * row
    return flux


@compiled(inline="always")
def _add_pixels(
    rows: NDArray[np.float32],
    left: int,
    first: int,
    last: int,
    table: NDArray[np.float32],
    u_form: NDArray[np.float64],
    q_form: NDArray[np.float64],
    dx: float,
    dy: float,
    most: float,
    made: NDArray[np.float32],
) -> float:
    """Add W to pixels `first` to `last` of a smallest cell in some rows of the canvas, and return their flux.

    The cell's first pixel is in column `left`, at (dx, dy) from the centre in the first row. W is zero where u is more
    than `most`.
    """
    x, end, flux = spread(np.float32(dx)) + load(_LANES, 0), spread(np.float32(most + _OFFSET)), spread(np.float32(0.0))
    deposited = 0.0
    for t in range(len(rows)):
        y = spread(np.float32(dy + t))
        u = _form_of(u_form, x, y) + spread(_OFFSET)
        value = nothing_beyond(_value_at(table, u, _form_of(q_form, x, y)), u, end)
        row = rows[t]
        if first == 0 and last == FINEST - 1:
            store(row, left, load(row, left) + value)
            flux = flux + value
        else:
            store(made, 0, value)
            for s in range(first, last + 1):
                row[left + s] += made[s]
                deposited += made[s]
    store(made, 0, flux)
    for s in range(LANES):
        deposited += made[s]
    return deposited
