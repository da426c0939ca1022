"""The interface by which drawing asks how kernels are scaled to the photometric calibration."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

__all__ = ["Normalisation", "PointNormalisation"]


class Normalisation(Protocol):
    """Gives the factor that scales kernels to the calibration, and their fraction inside the calibration aperture."""

    def __call__(
        self, kernels: NDArray[np.float64], x: NDArray[np.float64], y: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return scale and aperture fraction, each of shape (N,), for kernels (N, ny, nx) at (x, y)."""

    def of_coefficients(
        self, coefficients: NDArray[np.float64], x: NDArray[np.float64], y: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the same for kernels of a `LinearPSF`, given by their coefficients (N, B)."""


@runtime_checkable
class PointNormalisation(Normalisation, Protocol):
    """A normalisation that also knows how much of a point source its pixels hold at its own sub-pixel position.

    If pixels undersample the PSF, this differs a little from the average over positions. Extended sources, which are
    smoother, are scaled by the average.
    """

    def of_points(
        self, coefficients: NDArray[np.float64], x: NDArray[np.float64], y: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the same as `of_coefficients`, for point sources at (x, y)."""
