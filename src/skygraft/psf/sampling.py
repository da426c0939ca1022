"""How well pixels sample a PSF, and which PSFs can be evaluated between them where they do not.

A kernel on pixels determines its image between them only if the PSF's power ends below the pixels' Nyquist frequency
(half a cycle a pixel in each axis). What is beyond comes back as light at other frequencies: moved by a fraction of a
pixel, the kernel is not the PSF there, and rings.

* A model that is known between pixels tells how much that is: its values at quarters of pixels are compared with the
  band-limited interpolation of its pixels. The difference is twice what its frequencies beyond Nyquist contribute, at
  most. Pixels are *too coarse* for it where that is more than `MOST_MISSED` of its peak anywhere over the image: it is
  then evaluated at each source's own sub-pixel place. Oversampled images are meant to be evaluated so, and are already
  where interpolation of their pixels would be wrong by 1e-6 of the peak.
* A kernel on pixels hides what was beyond. Power falls off steadily with frequency, so that what is just below Nyquist
  tells: such a PSF is *undersampled* where its frequencies above four fifths of Nyquist (in either axis) contribute
  more than `MOST_NEAR_NYQUIST` of its peak to its core. For Gaussians and Moffats (beta 2.5 and up, pixel included)
  that is where a star half a pixel away from a pixel's middle is wrong by some 1e-3 of its peak: at a FWHM of 2.5
  pixels of a Gaussian, and of 2.9 of a Moffat of beta 2.5.
* PSFEx models in LSST's convention are both: LSST's pipelines measure and inject with their kernels on pixels, and what
  such models have between pixels is, on well-sampled images, the noise of their samples. They are evaluated between
  pixels where those are too coarse by the first measure and, by the second, power near Nyquist is more than
  `MOST_WHERE_PIXELS_COUNT` of the peak.
"""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

from skygraft.errors import PsfError
from skygraft.psf.base import PSF, Box
from skygraft.psf.fine import SubPixelBasis
from skygraft.psf.linear import LinearPSF, combine

__all__ = [
    "MOST_MISSED",
    "MOST_NEAR_NYQUIST",
    "MOST_WHERE_PIXELS_COUNT",
    "UndersamplingMeter",
    "band_limited_weights",
    "basis_between_pixels",
    "missed_by_grid",
    "places_over",
]

MOST_MISSED = 5e-4
"""Largest error, in units of the peak, of band-limited interpolation of a model that is known between pixels."""
MOST_NEAR_NYQUIST = 1.5e-2
"""Largest contribution to the peak, by frequencies above 4/5 of Nyquist, of a kernel known on pixels only."""
MOST_WHERE_PIXELS_COUNT = 5e-3
"""The same for models whose pixels count as much as values between them; exceeded at most places over an image."""

_NEAR_NYQUIST = 0.8
_MARGIN = 10
"""Pixels of zero padding around a kernel, so that ringing does not wrap around."""
_PARTS = 4


def places_over(box: Box) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Spread nine places evenly over a box.

    What is found there depends on the image and not on its sources.

    Parameters
    ----------
    box : Box
        Edges in parent pixels.

    Returns
    -------
    x, y : ndarray, shape (9,)
    """
    parts = np.array([1.0, 3.0, 5.0]) / 6.0
    x, y = np.meshgrid(box.x_min + parts * (box.x_max - box.x_min), box.y_min + parts * (box.y_max - box.y_min))
    return x.ravel(), y.ravel()


@functools.lru_cache(maxsize=4)
def basis_between_pixels(psf: PSF | None, box: Box) -> SubPixelBasis | None:
    """Give the basis of a PSF between pixels, where pixels undersample it; None where they suffice or none is known.

    Parameters
    ----------
    psf : PSF or None
        The model.
    box : Box
        The image's outer edges, parent pixels.

    Notes
    -----
    See the module for what is too coarse. Only the middle half of the kernel is compared, so that where a kernel is cut
    does not count.
    """
    basis = psf.sub_pixel if isinstance(psf, LinearPSF) else None
    if basis is None or not isinstance(psf, LinearPSF):
        return None
    if missed_by_grid(psf, box, 1) <= (MOST_MISSED if basis.most_missed is None else basis.most_missed):
        return None
    if basis.pixels_count:
        coefficients = _coefficients_over(psf, box)
        core = _Core(combine(coefficients, psf.basis))
        if np.median(core.near_nyquist(core.measure(psf.basis), coefficients)) <= MOST_WHERE_PIXELS_COUNT:
            return None
    return basis


@functools.lru_cache(maxsize=8)
def missed_by_grid(psf: LinearPSF, box: Box, per_pixel: int) -> float:
    """Largest error of band-limited interpolation of a grid, for a PSF known between pixels, in units of its peak.

    Parameters
    ----------
    psf : LinearPSF
        One with `LinearPSF.sub_pixel`.
    box : Box
        The image's outer edges: the PSF is compared at nine places.
    per_pixel : int
        Places a pixel of the grid; 1 for the pixels themselves.
    """
    basis = psf.sub_pixel
    if basis is None:
        return 0.0
    coefficients = _coefficients_over(psf, box)
    axes = []
    for n in psf.shape:
        whole = basis.offsets(n, per_pixel) if per_pixel > 1 else np.arange(-(n // 2), n // 2 + 1.0)
        reach = max(1, _PARTS * per_pixel * n // 4)
        axes.append((whole, np.arange(-reach, reach + 1) / (_PARTS * per_pixel)))
    (y, fine_y), (x, fine_x) = axes
    coarse, fine = combine(coefficients, basis.values(y, x)), combine(coefficients, basis.values(fine_y, fine_x))
    rows, columns = (band_limited_weights(per_pixel * at, per_pixel * to) for at, to in axes)
    missed = np.abs(rows @ coarse @ columns.T - fine).max(axis=(1, 2))
    return float((missed / np.abs(fine).max(axis=(1, 2))).max())


def _coefficients_over(psf: LinearPSF, box: Box) -> NDArray[np.float64]:
    """Evaluate the coefficients at nine places over an image, where the PSF is defined."""
    found = []
    for x, y in zip(*places_over(box), strict=True):
        try:
            found.append(psf.coefficients([x], [y]))
        except PsfError:
            continue
    return np.concatenate(found) if found else np.ones((1, len(psf.basis)))


def band_limited_weights(at: NDArray[np.float64], to: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute the weights (M, n) of band-limited interpolation of samples that are zero beyond their ends.

    Parameters
    ----------
    at : ndarray, shape (n,)
        Consecutive integers, the places of the samples.
    to : ndarray, shape (M,)
        Places of the values, near those of the samples.

    Returns
    -------
    ndarray, shape (M, n)
    """
    n = len(at) + 2 * _MARGIN
    return _cosines(n, n, to[:, None] - at)


def _cosines(n: int, below: float, distance: NDArray[np.float64]) -> NDArray[np.float64]:
    """(1 / n) sum of cos(2 pi m distance / n) over whole m with |2 m| < below: Dirichlet's kernel, n odd."""
    terms = 2 * (int(np.ceil(below / 2)) - 1) + 1
    angle = np.pi * distance / n
    sine = np.sin(angle)
    with np.errstate(divide="ignore", invalid="ignore"):
        kernel = np.sin(terms * angle) / (n * sine)
    return np.where(np.abs(sine) < 1e-12, terms / n, kernel)


class _Core:
    """Measure the contribution of high frequencies to the nine pixels about the peak of kernels (N, ny, nx)."""

    def __init__(self, kernels: NDArray[np.float64]) -> None:
        shape = kernels.shape[1:]
        peak = np.unravel_index(int(kernels.mean(axis=0).argmax()), shape)
        self._rows, self._columns = (slice(max(int(at) - 1, 0), int(at) + 2) for at in peak)
        self._low_y, self._low_x = _low_frequencies(shape[0])[self._rows], _low_frequencies(shape[1])[self._columns]

    def measure(self, images: NDArray[np.float64]) -> NDArray[np.float64]:
        """Compute the pixels, and the contribution of frequencies near Nyquist to them: shape (N, 2, pixels)."""
        core = images[:, self._rows, self._columns]
        return np.stack([core, core - self._low_y @ images @ self._low_x.T], axis=1).reshape(len(images), 2, -1)

    @staticmethod
    def near_nyquist(
        measured: NDArray[np.float64], coefficients: NDArray[np.float64] | None = None
    ) -> NDArray[np.float64]:
        """Compute the contribution of these frequencies to the peak, of measured images or sums of them, shape (N,)."""
        found = measured if coefficients is None else combine(coefficients, measured)
        peak = found[:, 0].max(axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(peak > 0, np.abs(found[:, 1]).max(axis=1) / peak, 0.0)


class UndersamplingMeter:
    """A test, source by source, of whether a PSF that is known on pixels only is undersampled; see the module.

    Parameters
    ----------
    psf : PSF
        The model. One that is known between pixels is never undersampled.
    x, y : ndarray, shape (M,)
        A few positions, whose kernels say where the core is.
    """

    def __init__(self, psf: PSF, x: NDArray[np.float64], y: NDArray[np.float64]) -> None:
        self._core: _Core | None = None
        self._basis: NDArray[np.float64] | None = None
        if isinstance(psf, LinearPSF) and psf.sub_pixel is not None:
            return
        defined = psf.defined(x, y)
        if not defined.any():
            return
        self._core = _Core(psf.kernels(x[defined], y[defined]))
        self._basis = self._core.measure(psf.basis) if isinstance(psf, LinearPSF) else None

    def __call__(
        self, coefficients: NDArray[np.float64] | None, kernels: NDArray[np.float64] | None = None
    ) -> NDArray[np.bool_]:
        """Whether the PSF is undersampled, shape (N,).

        Parameters
        ----------
        coefficients : ndarray, shape (N, B), or None
            Of a `LinearPSF`.
        kernels : ndarray, shape (N, ny, nx), optional
            Needed where there are no coefficients.
        """
        if coefficients is not None:
            if self._core is None or self._basis is None:
                return np.zeros(len(coefficients), dtype=np.bool_)
            power = self._core.near_nyquist(self._basis, coefficients)
        else:
            assert kernels is not None
            if self._core is None:
                return np.zeros(len(kernels), dtype=np.bool_)
            power = self._core.near_nyquist(self._core.measure(kernels))
        return np.asarray(power > MOST_NEAR_NYQUIST)


@functools.lru_cache(maxsize=8)
def _low_frequencies(n: int) -> NDArray[np.float64]:
    """Compute the low-pass matrix of n pixels, for frequencies below 4/5 of Nyquist: shape (n, n)."""
    size = n + 2 * _MARGIN
    return _cosines(size, _NEAR_NYQUIST * size, np.arange(n)[:, None] - np.arange(n, dtype=np.float64))
