"""Splines through equally spaced samples, as sums of B-splines: values, integrals over pixels, and taps.

A spline of degree d through samples is a sum of copies of one function, the B-spline of degree d, one at each sample,
with coefficients found from the samples. Its value anywhere needs d + 1 of them (Unser 1999, IEEE Signal Process. Mag.
16(6), 22). Its integral over a pixel that is a whole number of samples wide is a sum of B-splines of degree d + 1.
"""

from __future__ import annotations

import functools
import math

import numpy as np
from numpy.typing import NDArray

__all__ = ["bspline", "bspline_integral", "bspline_taps", "cubic_coefficients", "quintic_coefficients"]

_PHASES = 2048
_MOST_AT_ONCE = 1024
"""Samples along an axis, up to which a matrix is kept that gives the coefficients."""


def bspline(t: NDArray[np.float64], degree: int) -> NDArray[np.float64]:
    """Evaluate the B-spline of a degree, centred on zero, for samples a unit apart; its integral is one.

    Parameters
    ----------
    t : ndarray
        Places, in units of the samples' distance.
    degree : int
        Its degree; it is zero beyond (degree + 1) / 2.

    Returns
    -------
    ndarray
        Of the shape of `t`.
    """
    # The side with fewer terms: sums of large powers that cancel lose digits.
    x = (degree + 1) / 2 - np.abs(t)
    total = np.zeros_like(x)
    for j in range((degree + 1) // 2 + 1):
        total += (-1) ** j * math.comb(degree + 1, j) * np.maximum(x - j, 0.0) ** degree
    return total / math.factorial(degree)


def bspline_integral(t: NDArray[np.float64], degree: int) -> NDArray[np.float64]:
    """Integrate the B-spline of a degree from minus infinity to t.

    Parameters
    ----------
    t : ndarray
        Places, in units of the samples' distance.
    degree : int
        Its degree.

    Returns
    -------
    ndarray
        From 0 to 1, of the shape of `t`.
    """
    # A B-spline's derivative is the difference of two of the degree below, half a unit to either side.
    total = np.zeros_like(t)
    for j in range(degree + 2):
        total += bspline(t - 0.5 - j, degree + 1)
    return np.where(t >= (degree + 1) / 2, 1.0, total)


def cubic_coefficients(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute the B-spline coefficients of the cubic spline through samples along the last axis.

    At the ends the spline has no knot at the second sample and the last but one ("not-a-knot"), as those of
    FITPACK (``scipy.interpolate.RectBivariateSpline`` and so photutils) have not.

    Parameters
    ----------
    values : ndarray, shape (..., n)
        Samples, at least four.

    Returns
    -------
    ndarray, shape (..., n + 2)
        Coefficients at the samples and at the places one before the first and one after the last.
    """
    n = values.shape[-1]
    if n <= _MOST_AT_ONCE:
        return values @ _cubic_matrix(n)
    return np.ascontiguousarray(_cubic_solved(values.reshape(-1, n).T).T).reshape(*values.shape[:-1], n + 2)


@functools.lru_cache(maxsize=8)
def _cubic_matrix(n: int) -> NDArray[np.float64]:
    """Samples to coefficients, as a matrix (n, n + 2)."""
    matrix = np.ascontiguousarray(_cubic_solved(np.eye(n)).T)
    matrix.setflags(write=False)
    return matrix


def _cubic_solved(samples: NDArray[np.float64]) -> NDArray[np.float64]:
    """Coefficients (n + 2, K) of splines through samples (n, K)."""
    from scipy.linalg import solve_banded

    n = len(samples)
    bands = np.zeros((9, n + 2))

    def put(row: int, column: int, value: float) -> None:
        bands[4 + row - column, column] = value

    for k, value in enumerate((1.0, -4.0, 6.0, -4.0, 1.0)):
        put(0, k, value)
        put(n + 1, n - 3 + k, value)
    for row in range(1, n + 1):
        for k, value in enumerate((1.0, 4.0, 1.0)):
            put(row, row - 1 + k, value / 6.0)
    right = np.zeros((n + 2, samples.shape[1]))
    right[1:-1] = samples
    return np.asarray(solve_banded((4, 4), bands, right))


def quintic_coefficients(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute the B-spline coefficients of the quintic spline through samples that are zero beyond both ends.

    Parameters
    ----------
    values : ndarray, shape (..., n)
        Samples along the last axis.

    Returns
    -------
    ndarray, shape (..., n)
        Coefficients at the samples.
    """
    from scipy.linalg import solve_banded

    n = values.shape[-1]
    bands = np.repeat(np.array([1.0, 26.0, 66.0, 26.0, 1.0])[:, None] / 120.0, n, axis=1)
    solved = solve_banded((2, 2), bands, values.reshape(-1, n).T)
    return np.ascontiguousarray(solved.T).reshape(values.shape)


@functools.lru_cache(maxsize=4)
def bspline_taps(degree: int) -> NDArray[np.float64]:
    """Tabulate the weights of the coefficients about a place, for `skygraft.psf.FineGrid`.

    Parameters
    ----------
    degree : int
        Of the B-splines.

    Returns
    -------
    ndarray, shape (phases + 1, W)
        W is degree + 1, made even.
    """
    width = 2 * ((degree + 2) // 2)
    phase = np.linspace(0.0, 1.0, _PHASES + 1)[:, None]
    taps = bspline(np.arange(width) - (width // 2 - 1) - phase, degree)
    taps.setflags(write=False)
    return taps
