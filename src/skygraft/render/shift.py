"""Sub-pixel shifts that respect what the PSF looks like.

A kernel K sampled at pixels is moved by a fraction f of a pixel with ten taps along each axis,

    K(m - f)  ~  sum_j w_j(f) K[m - j],    j = -4 ... 5,

and the taps are those that minimise the error where the PSF has power,

    integral P(k) |sum_j w_j exp(-ikj) - exp(-ikf)|^2 dk    under  sum_j w_j = 1,

with P the power spectrum of the image's own PSF along the axis. The normal equations need only the autocorrelation of
the PSF; the constraint (flux is conserved exactly) comes in by a Lagrange multiplier. A Lanczos kernel of the same
length is the answer to this problem for no PSF in particular; fitted taps are several times closer.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["N_TAPS", "TAP_FIRST", "TapTable", "fit_taps"]

N_TAPS = 10
TAP_FIRST = -4
"""Offset of the first tap: taps reach from -4 to +5 pixels."""

_PHASES = 1024
_WAVENUMBERS = 513
_RIDGE = 1e-10
"""Relative floor of the power spectrum: keeps the normal equations well posed for PSFs without any power up high."""

type TapTable = NDArray[np.float64]
"""Taps at equally spaced phases 0 ... 1, both ends included: shape (phases + 1, N_TAPS)."""


def fit_taps(kernels: NDArray[np.float64]) -> tuple[TapTable, TapTable]:
    """Taps along x and along y, fitted to the mean power spectrum of some kernels of one image.

    Parameters
    ----------
    kernels : ndarray, shape (N, ny, nx)
        Kernels at a few positions of the image.

    Returns
    -------
    taps_x, taps_y : ndarray, shape (1025, 10)
        Taps at phases 0, 1/1024, ... 1; linear interpolation between phases costs less than 1e-6.
    """
    spectra = np.abs(np.fft.fft2(kernels, s=(2 * (_WAVENUMBERS - 1), 2 * (_WAVENUMBERS - 1)), axes=(1, 2))) ** 2
    power = spectra.sum(axis=0)
    along_x = power.sum(axis=0)[:_WAVENUMBERS]
    along_y = power.sum(axis=1)[:_WAVENUMBERS]
    return _solve(along_x), _solve(along_y)


def _solve(power: NDArray[np.float64]) -> TapTable:
    weights = power / power.sum() + _RIDGE / power.size
    weights[[0, -1]] *= 0.5  # trapezium rule over 0 ... pi
    k = np.linspace(0.0, np.pi, power.size)
    offsets = np.arange(TAP_FIRST, TAP_FIRST + N_TAPS)
    phases = np.linspace(0.0, 1.0, _PHASES + 1)
    gram = np.einsum("k,kij->ij", weights, np.cos(k[:, None, None] * (offsets[:, None] - offsets[None, :])))
    right = np.einsum("k,kpj->pj", weights, np.cos(k[:, None, None] * (offsets[None, None, :] - phases[None, :, None])))
    system = np.zeros((N_TAPS + 1, N_TAPS + 1))
    system[:N_TAPS, :N_TAPS] = gram
    system[:N_TAPS, N_TAPS] = system[N_TAPS, :N_TAPS] = 1.0
    rhs = np.ones((N_TAPS + 1, phases.size))
    rhs[:N_TAPS] = right.T
    return np.ascontiguousarray(np.linalg.solve(system, rhs)[:N_TAPS].T)
