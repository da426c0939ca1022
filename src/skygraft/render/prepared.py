"""The PSF of one image, made ready for drawing many sources: what is linear in it is done once, for its basis.

The transform of a kernel, its moments, its aperture flux and the values that tell its width are all sums of those of
the basis images, with the coefficients of its place. A PSF that is not such a sum is evaluated as images, source by
source, and the same is computed from each.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skygraft.jit import compiled
from skygraft.psf import PSF, Box, FwhmMeter, LinearPSF, SinglePrecisionBasis
from skygraft.psf.linear import combine
from skygraft.render.normalisation import Normalisation
from skygraft.render.transforms import half_spectra

__all__ = ["EvaluatedPsf", "PreparedPsf", "width_meter"]

_MOST_HELD = 1 << 22
"""Numbers in the transforms of a basis that are kept; of larger ones each kernel is transformed by itself."""


def width_meter(psf: PSF, box: Box) -> FwhmMeter:
    """What measures the PSF's width over an image.

    Where its core is, is looked up at nine fixed places, so that it depends on the image and not on what is injected.
    """
    places = np.array([1.0, 3.0, 5.0]) / 6.0
    x, y = np.meshgrid(box.x_min + places * (box.x_max - box.x_min), box.y_min + places * (box.y_max - box.y_min))
    return FwhmMeter(psf, x.ravel(), y.ravel())


class PreparedPsf:
    """The PSF of one image.

    Parameters
    ----------
    psf : PSF
        The model.
    box : Box
        The image's outer edges, parent pixels.
    """

    def __init__(self, psf: PSF, box: Box) -> None:
        self.psf = psf
        self._meter = width_meter(psf, box)
        self._transforms: dict[int, SinglePrecisionBasis] = {}
        self._basis: SinglePrecisionBasis | None = None
        if isinstance(psf, LinearPSF):
            self._basis = SinglePrecisionBasis(psf.basis)
            self._moments = _raw_moments(psf.basis)

    def at(self, x: NDArray[np.float64], y: NDArray[np.float64], normalisation: Normalisation) -> EvaluatedPsf:
        """The PSF at N positions.

        Parameters
        ----------
        x, y : ndarray, shape (N,)
            Parent pixel coordinates.
        normalisation : Normalisation
            What ties kernels to the calibration.

        Raises
        ------
        PsfError
            If the PSF cannot be evaluated or normalised at one of them.
        """
        if isinstance(self.psf, LinearPSF):
            coefficients = self.psf.coefficients(x, y)
            scale, fraction = normalisation.of_coefficients(coefficients, x, y)
            return EvaluatedPsf(self, scale, fraction, self._meter(coefficients), coefficients, None)
        kernels = self.psf.kernels(x, y)
        scale, fraction = normalisation(kernels, x, y)
        return EvaluatedPsf(self, scale, fraction, self._meter(None, kernels), None, kernels)

    @property
    def batch(self) -> int:
        """Sources to give at a time: many where the PSF is linear, and few where each has a kernel to be held."""
        return 64 if self._basis is None else 1024

    def basis_transforms(self, n: int) -> SinglePrecisionBasis | None:
        """Transforms of the basis in boxes of n by n pixels; None without a basis, or if they took too much memory."""
        if self._basis is None or len(self._basis.rows) * n * n > _MOST_HELD:
            return None
        if n not in self._transforms:
            self._transforms[n] = self._basis.mapped(lambda images: half_spectra(images, n))
        return self._transforms[n]

    def moments(self, coefficients: NDArray[np.float64]) -> NDArray[np.float64]:
        """Raw moments of the kernels with these coefficients, shape (N, 7)."""
        return combine(coefficients, self._moments)


@dataclass(frozen=True, eq=False)
class EvaluatedPsf:
    """The PSF at N positions.

    Parameters
    ----------
    prepared : PreparedPsf
        Of the image.
    scale, aperture_fraction : ndarray, shape (N,)
        Of the `Normalisation`.
    fwhm : ndarray, shape (N,)
        Pixels.
    coefficients : ndarray, shape (N, B), or None
        Of a `LinearPSF`.
    images : ndarray, shape (N, ny, nx), or None
        Of any other.
    """

    prepared: PreparedPsf
    scale: NDArray[np.float64]
    aperture_fraction: NDArray[np.float64]
    fwhm: NDArray[np.float64]
    coefficients: NDArray[np.float64] | None
    images: NDArray[np.float64] | None

    def kernels(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Kernels at some of the positions, as the model gives them, shape (M, ny, nx)."""
        psf = self.prepared.psf
        if self.coefficients is not None and isinstance(psf, LinearPSF):
            return combine(self.coefficients[rows], psf.basis)
        assert self.images is not None
        return self.images[rows]

    def transforms(self, rows: NDArray[np.int64], n: int) -> NDArray[np.float32]:
        """Fourier transforms of these kernels in a box of n by n pixels, as if their first pixel were its origin.

        Returns
        -------
        ndarray of float32, shape (M, n + 2, n)
            Half spectra, see `skygraft.render.transforms`.
        """
        basis = self.prepared.basis_transforms(n)
        if basis is None or self.coefficients is None:
            return half_spectra(self.kernels(rows), n)
        return basis.kernels(self.coefficients[rows])

    def moments(self) -> NDArray[np.float64]:
        """Sum, centroid from the middle pixel (x, y), central second moments (xx, xy, yy), and r^4: shape (N, 7)."""
        if self.coefficients is not None:
            raw = self.prepared.moments(self.coefficients)
        else:
            assert self.images is not None
            raw = _raw_moments(self.images)
        total, x, y, xx, xy, yy, fourth = raw.T
        with np.errstate(divide="ignore", invalid="ignore"):
            x, y = x / total, y / total
            # Of the fourth moment a centroid near the middle changes nothing to be seen.
            central = [total, x, y, xx / total - x * x, xy / total - x * y, yy / total - y * y, fourth / total]
        return np.where((total != 0.0)[:, None], np.stack(central, axis=1), 0.0)


@compiled
def _raw_moments(kernels: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sums of kernels times 1, x, y, xx, xy, yy and r^4, from the middle pixel, shape (N, 7)."""
    n, ny, nx = kernels.shape
    out = np.zeros((n, 7))
    for s in range(n):
        for j in range(ny):
            dy = float(j - ny // 2)
            row = row_x = row_xx = row_fourth = 0.0
            for i in range(nx):
                dx = float(i - nx // 2)
                value = kernels[s, j, i]
                row += value
                row_x += value * dx
                row_xx += value * dx * dx
                row_fourth += value * (dx * dx + dy * dy) ** 2
            out[s, 0] += row
            out[s, 1] += row_x
            out[s, 2] += row * dy
            out[s, 3] += row_xx
            out[s, 4] += row_x * dy
            out[s, 5] += row * dy * dy
            out[s, 6] += row_fourth
    return out
