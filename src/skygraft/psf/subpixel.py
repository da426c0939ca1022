"""Images of a PSF at the source's own place among the pixels, as the LSST pipelines compute them (``computeImage``)."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from skygraft.jit import compiled
from skygraft.psf.base import PSF
from skygraft.psf.linear import positions
from skygraft.psf.psfex import PsfexPSF

__all__ = ["lanczos_taps", "pixel_images"]

_ORDER = 5
"""Order of the Lanczos function by which the pipelines shift a kernel by fractions of a pixel."""


def pixel_images(psf: PSF, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Evaluate images of a unit source at (x, y) on the pixel grid itself, not centred on a pixel.

    A PSFEx model is resampled at the position; the kernel of any other model is moved by Lanczos interpolation of
    order 5.

    Parameters
    ----------
    psf : PSF
        The model.
    x, y : ndarray, shape (N,)
        Positions, 0-based parent pixels.

    Returns
    -------
    ndarray of float64, shape (N, ny, nx)
        The middle pixel of image i is pixel (floor(x[i] + 0.5), floor(y[i] + 0.5)) of the parent frame.
    """
    if isinstance(psf, PsfexPSF) and psf.convention == "lsst":
        return psf.images(x, y)
    x, y = positions(x, y)
    return _moved(psf.kernels(x, y), x - np.floor(x + 0.5), y - np.floor(y + 0.5))


@compiled
def lanczos_taps(phase: float, order: int, taps: NDArray[np.float64]) -> None:  # pragma: no cover - compiled
    """Fill `taps` (2 order) with the Lanczos weights of samples 1 - order to order for a point at `phase` in [0, 1).

    They are scaled to sum one.
    """
    total = 0.0
    for k in range(2 * order):
        t = math.pi * (k + 1 - order - phase)
        value = 1.0 if t == 0.0 else math.sin(t) / t * (math.sin(t / order) / (t / order))
        if abs(t) >= math.pi * order:
            value = 0.0
        taps[k] = value
        total += value
    for k in range(2 * order):
        taps[k] /= total


@compiled
def _moved(
    kernels: NDArray[np.float64], dx: NDArray[np.float64], dy: NDArray[np.float64]
) -> NDArray[np.float64]:  # pragma: no cover - compiled
    """Shift kernels (N, ny, nx), zero outside, by dx, dy (N,) pixels in [-0.5, 0.5)."""
    n, ny, nx = kernels.shape
    out = np.empty_like(kernels)
    half = np.empty((ny, nx))
    taps = np.empty(2 * _ORDER)
    for s in range(n):
        # pixel i shows the kernel at i - dx = i + first + phase
        first = int(np.floor(-dx[s]))
        lanczos_taps(-dx[s] - first, _ORDER, taps)
        for j in range(ny):
            for i in range(nx):
                value = 0.0
                for k in range(2 * _ORDER):
                    m = i + first + k + 1 - _ORDER
                    if 0 <= m < nx:
                        value += taps[k] * kernels[s, j, m]
                half[j, i] = value
        first = int(np.floor(-dy[s]))
        lanczos_taps(-dy[s] - first, _ORDER, taps)
        for j in range(ny):
            for i in range(nx):
                out[s, j, i] = 0.0
            for k in range(2 * _ORDER):
                m = j + first + k + 1 - _ORDER
                if 0 <= m < ny:
                    for i in range(nx):
                        out[s, j, i] += taps[k] * half[m, i]
    return out
