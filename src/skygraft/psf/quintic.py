"""Quintic splines through images of PSFs: their coefficients and their values between pixels, for a few at once.

The loops of `skygraft.psf.measure_loops` do the same for many.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from skygraft.jit import in_python_too

__all__ = ["POLE_1", "POLE_2", "quintic_weights", "spline_coefficients", "spline_values", "sum_last"]

# Poles of the quintic B-spline's inverse filter: roots of z^4 + 26 z^3 + 66 z^2 + 26 z + 1 inside the unit circle.
POLE_1 = -0.43057534709997379
POLE_2 = -0.043096288203264654
_TAPS = np.arange(-2, 4)


def spline_coefficients(images: NDArray[np.float64]) -> NDArray[np.float64]:
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


def spline_values(
    splines: NDArray[np.float64], of: tuple[Any, Any, Any], y: NDArray[np.float64], x: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Evaluate splines at places (y, x), given where each begins in the flat array, its rows and columns; broadcast."""
    first, ny, nx = (np.asarray(number)[..., None] for number in of)
    y0, x0 = np.floor(y).astype(np.int64), np.floor(x).astype(np.int64)
    rows, columns = _mirror(y0[..., None] + _TAPS, ny), _mirror(x0[..., None] + _TAPS, nx)
    begins = first + rows * nx
    along, across = (np.stack(quintic_weights(t), axis=-1) for t in (x - x0, y - y0))
    terms = splines[begins[..., :, None] + columns[..., None, :]] * along[..., None, :]
    terms = sum_last(terms) * across
    return sum_last(terms)


def sum_last(terms: NDArray[np.float64]) -> NDArray[np.float64]:
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
