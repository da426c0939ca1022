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

Far out, where W changes little over eight pixels, it is evaluated at every eighth and is a line between.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from skygraft.jit import compiled

__all__ = ["add_wings"]

_FIRST_OCTAVE = -3
_OFFSET = 2.0**_FIRST_OCTAVE
_PIECES = 8
_N_PIECES = 24 * _PIECES
_STRIDE = 8
_FLAT = 0.05
"""A line over eight pixels is good enough where they are this part of the distance from the centre."""


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
    before = np.zeros(3)
    u_before = 0.0
    for i in range(len(table) + 1):
        u = _OFFSET * (2.0 ** (i // _PIECES) * (1.0 + (i % _PIECES) / _PIECES) - 1.0)
        value = slope = second = 0.0
        for j in range(len(widths)):
            if fluxes[j] != 0.0:
                variance = widths[j] ** 2 + blur
                exponent = 0.5 * u / variance
                if exponent < 40.0:
                    density = scale * fluxes[j] / (2.0 * np.pi * variance) * np.exp(-exponent)
                    # The Laplacian twice, of a Gaussian.
                    ratio = u / variance
                    density *= 1.0 + excess * ((ratio - 8.0) * ratio + 8.0) / (64.0 * variance**2)
                    value += density
                    slope -= density / (2.0 * variance)
                    second += density / (4.0 * variance * variance)
        if i > 0:
            # Hermite's cubic through both ends.
            h, rise = u - u_before, value - before[0]
            table[i - 1, 0], table[i - 1, 1] = before[0], h * before[1]
            table[i - 1, 2] = 3.0 * rise - h * (2.0 * before[1] + slope)
            table[i - 1, 3] = -2.0 * rise + h * (before[1] + slope)
            table[i - 1, 4], table[i - 1, 5] = before[2], second - before[2]
            if u_before > most:
                return i
        before[0], before[1], before[2] = value, slope, second
        u_before = u
    return len(table)


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
    x: float,
    y: float,
    amplitude: float,
    metric: NDArray[np.float64],
    moments: NDArray[np.float64],
    fluxes: NDArray[np.float64],
    widths: NDArray[np.float64],
    reach: float,
    half: int,
) -> float:
    """Add one source's wide Gaussians to the canvas.

    Parameters
    ----------
    model : ndarray of float32, shape (ny, nx)
        Changed in place.
    x, y : float
        Centre of the source, blurred, in pixels of the model.
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
    qxx = np.float32(2.0 * (axx * pxx + axy * pxy - blur * pxx))
    qxy = 2.0 * (axx * pxy + axy * pyy - blur * pxy)
    qyy = 2.0 * (ayx * pxy + ayy * pyy - blur * pyy)
    u_most = (reach / unit) ** 2
    table = np.empty((_N_PIECES, 6), dtype=np.float32)
    table = table[: _tabulate(table, fluxes, widths / unit, blur, excess, u_most, amplitude * np.sqrt(det))]

    rows, columns = model.shape
    ix, iy = int(np.rint(x)), int(np.rint(y))
    shifted = np.empty(2 * half + 2 + _STRIDE, dtype=np.float32)
    bits = shifted.view(np.int32)
    deviation = np.empty_like(shifted)
    # Where eight pixels along x are a small part of the elliptical radius.
    far = pxx * (_STRIDE / _FLAT) ** 2
    deposited = 0.0
    for j in range(max(0, iy - half), min(rows - 1, iy + half) + 1):
        dy = j - y
        # u = pxx (dx - middle)^2 + rest
        middle = -pxy * dy / pxx
        rest = det / pxx * dy * dy
        if rest >= u_most:
            continue
        width = np.sqrt((u_most - rest) / pxx)
        first = max(ix - half, int(np.ceil(x + middle - width)))
        last = min(ix + half, int(np.floor(x + middle + width)))
        # Far out eight at a time from the first on, wherever the image begins: its edge must not show.
        offset, centre = np.float32(first - x), np.float32(first - x - middle)
        a, b, c = np.float32(pxx), np.float32(rest + _OFFSET), np.float32(qyy * dy * dy)
        slope = np.float32(2.0 * qxy * dy)
        n = last - first + 1
        for k in range(n + 1):
            along, dx = centre + np.float32(k), offset + np.float32(k)
            shifted[k] = a * along * along + b
            deviation[k] = (qxx * dx + slope) * dx + c
        into = model[j]
        k = _STRIDE * (max(-first, 0) // _STRIDE)
        end = min(n, columns - first)
        while k < end:
            stop = min(k + _STRIDE, n)
            if shifted[k] >= far and stop == k + _STRIDE:
                value, after = _at(table, bits[k], deviation[k]), _at(table, bits[stop], deviation[stop])
                step = (after - value) * np.float32(1.0 / _STRIDE)
                for t in range(max(-first - k, 0), min(_STRIDE, end - k)):
                    into[first + k + t] += value + np.float32(t) * step
                    deposited += float(value + np.float32(t) * step)
            else:
                for i in range(max(k, -first), min(stop, end)):
                    value = _at(table, bits[i], deviation[i])
                    into[first + i] += value
                    deposited += float(value)
            k = stop
    return deposited
