"""The PSF of one image, made ready for drawing many sources: what is linear in it is done once, for its basis.

The transform of a kernel, its moments, its aperture flux and the values that tell its width are all sums of those of
the basis images, with the coefficients of its place. A PSF that is not such a sum is evaluated as images, source by
source, and the same is computed from each.

Where pixels are too coarse for a PSF that is known between them (see `skygraft.psf.sampling`), all this is of the PSF
itself and not of its pixels: transforms have the frequencies that it has, also those beyond the pixels' Nyquist
frequency where a source is small enough to show them, and nothing that pixels fold into others.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skygraft.jit import compiled, worth_compiling
from skygraft.psf import (
    PSF,
    Box,
    FwhmMeter,
    LinearPSF,
    SinglePrecisionBasis,
    UndersamplingMeter,
    basis_between_pixels,
    check_coefficients,
    check_kernels,
    missed_by_grid,
    places_over,
)
from skygraft.psf.linear import combine
from skygraft.render.normalisation import Normalisation, PointNormalisation
from skygraft.render.transforms import half_spectra, spectra_between_pixels

__all__ = ["EvaluatedPsf", "PreparedPsf", "width_meter"]

_MOST_HELD = 1 << 22
"""Numbers in the transforms of a basis that are kept; of larger ones each kernel is transformed by itself."""
_FINE = 4
"""Places a pixel of what is made of a PSF between pixels."""
_FEW = 10_000_000
"""Numbers in kernels whose moments take less time in numpy than to compile."""
FOLDS = (1, 2, 4)
"""Pixels of finer grids, of which each is one of the image, along each axis: those that sources may be drawn on."""


def width_meter(psf: PSF, box: Box) -> FwhmMeter:
    """What measures the PSF's width over an image.

    Where its core is, is looked up at nine fixed places, so that it depends on the image and not on what is injected.
    """
    return FwhmMeter(psf, *places_over(box))


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
        self._undersampled = UndersamplingMeter(psf, *places_over(box))
        self._transforms: dict[tuple[int, int], SinglePrecisionBasis] = {}
        self._basis: SinglePrecisionBasis | None = None
        self.between = basis_between_pixels(psf, box)
        self._fine: NDArray[np.float64] | None = None
        self.missed = np.zeros(len(FOLDS))
        """What grids of so many places a pixel miss of the PSF, in units of its peak; see `missed_by_grid`."""
        if not isinstance(psf, LinearPSF):
            return
        if self.between is None:
            self._basis = SinglePrecisionBasis(psf.basis)
            self._moments = _raw_moments(psf.basis)
        else:
            self._fine = self.between.images(_FINE)
            powers = np.array([2, 3, 3, 4, 4, 4, 6])
            self._moments = _raw_moments(self._fine) / float(_FINE) ** powers
            self._basis = SinglePrecisionBasis(self._fine)
            self.missed[:-1] = [missed_by_grid(psf, box, fold) for fold in FOLDS[:-1]]

    def at(
        self, x: NDArray[np.float64], y: NDArray[np.float64], normalisation: Normalisation, *, points: bool = False
    ) -> EvaluatedPsf:
        """The PSF at N positions.

        Parameters
        ----------
        x, y : ndarray, shape (N,)
            Parent pixel coordinates.
        normalisation : Normalisation
            What ties kernels to the calibration.
        points : bool, optional
            Whether the sources are points.

        Raises
        ------
        PsfError
            If the PSF cannot be evaluated or normalised at one of them.
        """
        coefficients = kernels = None
        if isinstance(self.psf, LinearPSF):
            coefficients = self.psf.coefficients(x, y)
            check_coefficients(self.psf, coefficients, x, y)
            if points and self.between is not None and isinstance(normalisation, PointNormalisation):
                scale, fraction = normalisation.of_points(coefficients, x, y)
            else:
                scale, fraction = normalisation.of_coefficients(coefficients, x, y)
        else:
            kernels = self.psf.kernels(x, y)
            check_kernels(kernels, places=np.stack([x, y], axis=1))
            scale, fraction = normalisation(kernels, x, y)
        undersampled = self._undersampled(coefficients, kernels)
        return EvaluatedPsf(
            self, scale, fraction, self._meter(coefficients, kernels), undersampled, coefficients, kernels
        )

    @property
    def batch(self) -> int:
        """Sources to give at a time: many where the PSF is linear, and few where each has a kernel to be held."""
        return 1024 if isinstance(self.psf, LinearPSF) else 64

    def basis_transforms(self, n: int, fold: int = 1) -> SinglePrecisionBasis | None:
        """Transforms of the basis in boxes of n by n pixels, and `fold` times as many frequencies along each axis.

        None without a basis, or if they took too much memory.
        """
        if self._basis is None or len(self._basis.rows) * (n * fold) ** 2 > _MOST_HELD:
            return None
        if (n, fold) not in self._transforms:
            self._transforms[n, fold] = self._basis.mapped(lambda images: self._spectra(images, n, fold))
        return self._transforms[n, fold]

    def _spectra(self, images: NDArray[np.float64], n: int, fold: int) -> NDArray[np.float32]:
        if self.between is None:
            return half_spectra(images, n)
        return spectra_between_pixels(images, _FINE, n, fold)

    def images(self, coefficients: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
        """Kernels with these coefficients, and the pixels from one of their places to the next."""
        if self._fine is not None:
            return combine(coefficients, self._fine), 1.0 / _FINE
        assert isinstance(self.psf, LinearPSF)
        return combine(coefficients, self.psf.basis), 1.0

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
    undersampled : ndarray of bool, shape (N,)
        Whether the PSF is known on pixels only, which are too coarse for it.
    coefficients : ndarray, shape (N, B), or None
        Of a `LinearPSF`.
    images : ndarray, shape (N, ny, nx), or None
        Of any other.
    """

    prepared: PreparedPsf
    scale: NDArray[np.float64]
    aperture_fraction: NDArray[np.float64]
    fwhm: NDArray[np.float64]
    undersampled: NDArray[np.bool_]
    coefficients: NDArray[np.float64] | None
    images: NDArray[np.float64] | None

    def part(self, rows: NDArray[np.int64]) -> EvaluatedPsf:
        """The same at some of the positions."""
        return EvaluatedPsf(
            self.prepared,
            self.scale[rows],
            self.aperture_fraction[rows],
            self.fwhm[rows],
            self.undersampled[rows],
            None if self.coefficients is None else self.coefficients[rows],
            None if self.images is None else self.images[rows],
        )

    @functools.cached_property
    def sums(self) -> NDArray[np.float64]:
        """Sums of the kernels' pixels, shape (N,)."""
        return self._moments[:, 0]

    def kernels(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.float64], float]:
        """Kernels at some of the positions, as the model gives them, shape (M, ny, nx).

        They are on pixels, or on a finer grid where those are too coarse; the second value is that grid's step, pixels.
        """
        if self.coefficients is not None:
            return self.prepared.images(self.coefficients[rows])
        assert self.images is not None
        return self.images[rows], 1.0

    def transforms(self, rows: NDArray[np.int64], n: int, fold: int = 1) -> NDArray[np.float32]:
        """Fourier transforms of these kernels in a box of n by n pixels, see `origin`.

        Returns
        -------
        ndarray of float32, shape (M, fold n + 2, fold n)
            Half spectra, see `skygraft.render.transforms`.
        """
        basis = self.prepared.basis_transforms(n, fold)
        if basis is None or self.coefficients is None:
            return self.prepared._spectra(self.kernels(rows)[0], n, fold)
        return basis.kernels(self.coefficients[rows])

    @property
    def origin(self) -> tuple[int, int]:
        """Which place (x, y) of a kernel is the origin of its transforms, in pixels from its middle."""
        if self.prepared.between is not None:
            return 0, 0
        ny, nx = self.prepared.psf.shape
        return -(nx // 2), -(ny // 2)

    def moments(self) -> NDArray[np.float64]:
        """See `_moments`."""
        return self._moments

    @functools.cached_property
    def _moments(self) -> NDArray[np.float64]:
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


def _raw_moments(kernels: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sums of kernels times 1, x, y, xx, xy, yy and r^4, from the middle pixel, shape (N, 7)."""
    if worth_compiling(_sum_moments, kernels, work=lambda: kernels.size, limit=_FEW):
        return _sum_moments(kernels)
    ny, nx = kernels.shape[1:]
    dx, dy = np.arange(nx) - float(nx // 2), np.arange(ny) - float(ny // 2)
    by_x = kernels * dx
    row, row_x, row_xx = (_last_sums(values) for values in (kernels, by_x, by_x * dx))
    fourth = _last_sums(kernels * (dx * dx + dy[:, None] * dy[:, None]) ** 2)
    return np.stack([_last_sums(v) for v in (row, row_x, row * dy, row_xx, row_x * dy, row * dy * dy, fourth)], axis=1)


def _last_sums(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sums over the last axis, one number after the other: the same however many rows there are."""
    total: NDArray[np.float64] = np.add.accumulate(values, axis=-1)[..., -1] + 0.0
    return total


@compiled(reads=("kernels",))
def _sum_moments(kernels: NDArray[np.float64]) -> NDArray[np.float64]:
    """Do what `_raw_moments` does."""
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
