"""What ties kernels to the photometric calibration, as drawing asks for it."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

__all__ = ["Normalisation", "PointNormalisation"]


class Normalisation(Protocol):
    """Says what to multiply kernels by, and the part of them inside the calibration aperture."""

    def __call__(
        self, kernels: NDArray[np.float64], x: NDArray[np.float64], y: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Scale and aperture fraction, each of shape (N,), for kernels (N, ny, nx) at (x, y)."""

    def of_coefficients(
        self, coefficients: NDArray[np.float64], x: NDArray[np.float64], y: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The same for the kernels of a `LinearPSF` that have these coefficients (N, B)."""


@runtime_checkable
class PointNormalisation(Normalisation, Protocol):
    """One that also knows what the pixels of a point source hold at its own sub-pixel place.

    Of a PSF that pixels are too coarse for, they hold a little more or less than they do on average; extended sources,
    which are smoother, are scaled by the average.
    """

    def of_points(
        self, coefficients: NDArray[np.float64], x: NDArray[np.float64], y: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """As `of_coefficients`, for the pixels of sources that are points at (x, y)."""
