"""What ties kernels to the photometric calibration, as drawing asks for it."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Normalisation"]


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
