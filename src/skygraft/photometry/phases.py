"""`kernel_scale` for point sources of a PSF that pixels undersample: the flux of their pixels at each phase.

The pixels of a source are samples of its PSF at whole pixels from its centre. Where the PSF has power beyond the
pixels' Nyquist frequency, their sum, and the flux that they hold inside a circle about the source, depend on the
source's place within its pixel. Both are a few harmonics of that phase, and, since a kernel ends somewhere, a ramp:
going through a pixel, a source leaves light beyond the kernel's edge on one side and takes some in on the other. They
are measured at nine phases along each axis, and a series goes through these. Its average is what sources have whose
light is spread over pixels.
"""

from __future__ import annotations

import functools
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skygraft.photometry.aperture import ApertureMethod, weights_about
from skygraft.photometry.flux_modes import BasisScale, FluxMode, KernelScale, weighted
from skygraft.photometry.reference import CalibrationReference

__all__ = ["PER_PIXEL", "PhaseScale"]

PER_PIXEL = 8
"""Places per pixel, along each axis, at which a PSF's values are needed."""
_PHASES = np.arange(-(PER_PIXEL // 2), PER_PIXEL // 2 + 1) / PER_PIXEL

_MOST_HELD = 1 << 25
"""Numbers that are held at a time: pixels of a source at all phases."""


class PhaseScale(BasisScale):
    """`BasisScale` for a PSF that is known between pixels.

    Parameters
    ----------
    flux_mode : {"calibrated", "aperture", "psf_sum", "total"}
        What a source's flux is the flux of.
    reference : CalibrationAperture, PSF_MODEL, TOTAL or None
        What a calibrated flux is the flux of.
    images : ndarray, shape (B, my, mx)
        Basis images at `PER_PIXEL` places a pixel, the middle one at the source's centre, which reach half a pixel
        further than the middles of the kernel's outermost pixels.
    shape : (int, int)
        Rows and columns of the PSF's kernels.
    radius : float, optional
        Pixels; of ``flux_mode="aperture"`` alone.
    method : {"sinc", "exact"}
        How light is summed inside an aperture; see `ApertureMethod`.

    Raises
    ------
    ConfigError, UnknownApertureError
        As `kernel_scale`.
    """

    def __init__(
        self,
        flux_mode: FluxMode,
        reference: CalibrationReference | None,
        images: NDArray[np.float64],
        shape: tuple[int, int],
        *,
        radius: float | None = None,
        method: ApertureMethod = "sinc",
    ) -> None:
        super().__init__(flux_mode, reference, np.zeros((1, *shape)), radius=radius, method=method)
        series = np.linalg.inv(_terms(_PHASES))
        weights = None if self._radius is None else _weights(shape, self._radius, method)
        sums, inside = _summed(images, shape, weights)
        self._series = [self._through(series, sums)]
        if inside is not None:
            self._series.append(self._through(series, inside))

    @staticmethod
    def _through(series: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Coefficients of the series in y and x through values (y, x, B) of basis images: shape (B, terms)."""
        of_basis = np.einsum("ap,bq,pqk->kab", series, series, values)
        return np.asarray(of_basis.reshape(len(of_basis), -1))

    def __call__(
        self,
        coefficients: NDArray[np.float64],
        flux_outside: ArrayLike = 0.0,
        *,
        x: NDArray[np.float64] | None = None,
        y: NDArray[np.float64] | None = None,
        invalid: Literal["raise", "nan"] = "raise",
    ) -> KernelScale:
        """Compute the factors of point sources at (x, y), pixels; without positions, averaged over phases."""
        found = []
        terms = None
        if x is not None and y is not None:
            along_y, along_x = (_terms(at - np.floor(at + 0.5)) for at in (y, x))
            terms = (along_y[:, :, None] * along_x[:, None, :]).reshape(len(x), -1)
        for series in self._series:
            if terms is None:
                found.append(weighted(coefficients, series[:, 0]))
                continue
            total = np.zeros(len(coefficients))
            for column, of_image in zip(coefficients.T, series, strict=True):
                total += column * weighted(terms, of_image)
            found.append(total)
        return self._of(found[0], found[1] if len(found) > 1 else None, flux_outside, invalid)


def _terms(phase: NDArray[np.float64]) -> NDArray[np.float64]:
    """The functions of a phase from -1/2 to 1/2 that the series is made of, shape (N, PER_PIXEL + 1).

    All but the first have an average of zero.
    """
    angle = 2 * np.pi * phase
    waves = [f(m * angle) for m in range(1, PER_PIXEL // 2) for f in (np.cos, np.sin)]
    return np.stack([np.ones_like(phase), *waves, np.cos(PER_PIXEL // 2 * angle), phase], axis=1)


@functools.lru_cache(maxsize=4)
def _weights(shape: tuple[int, int], radius: float, method: ApertureMethod) -> NDArray[np.float64]:
    """Weights of a kernel's pixels inside a circle about a source at all phases: shape (phases, phases, ny, nx)."""
    rows, columns = (n // 2 + _PHASES for n in shape)
    return weights_about(shape, rows, columns, radius, method)


def _summed(
    images: NDArray[np.float64], shape: tuple[int, int], weights: NDArray[np.float64] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    """Sum the pixels of a source at all phases, also weighted: shapes (phases, phases, B)."""
    held = max(1, _MOST_HELD // ((PER_PIXEL + 1) ** 2 * shape[0] * shape[1]))
    sums, inside = [], []
    # A few images at a time: those of a grid of large PSFs, at all phases, would be gigabytes.
    for first in range(0, len(images), held):
        pixels = _at_phases(images[first : first + held], shape)
        sums.append(pixels.sum(axis=(3, 4)))
        if weights is not None:
            inside.append(np.einsum("pqkij,pqij->pqk", pixels, weights))
    return np.concatenate(sums, axis=2), np.concatenate(inside, axis=2) if inside else None


def _at_phases(images: NDArray[np.float64], shape: tuple[int, int]) -> NDArray[np.float64]:
    """Collect the pixels of a source at all phases in y and x: shape (phases, phases, B, ny, nx)."""
    phases = range(-(PER_PIXEL // 2), PER_PIXEL // 2 + 1)
    # The first pixel of a kernel is this far from the images' first place.
    first = PER_PIXEL // 2
    ends = [PER_PIXEL * (n - 1) + 1 for n in shape]
    out = np.empty((len(phases), len(phases), len(images), *shape))
    for i, p in enumerate(phases):
        for j, q in enumerate(phases):
            out[i, j] = images[:, first - p :, first - q :][:, : ends[0] : PER_PIXEL, : ends[1] : PER_PIXEL]
    return out
