"""PSF models that can be evaluated between pixels, which sources need where pixels undersample the PSF.

A model that is a formula, or that has samples closer than pixels, can be evaluated at any offset from the source's
centre. Interpolation of its native pixels cannot do that where the model has structure finer than they resolve: it
rings. `SubPixelBasis` is such a model's basis as a function of the offset. Stars are drawn from a regular grid of its
samples, finer than pixels, with a few taps along each axis (`FineGrid`).
"""

from __future__ import annotations

import abc
import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["FineGrid", "SubPixelBasis", "lagrange_taps", "lanczos_taps", "whole_pixels"]

type Reach = tuple[tuple[float, float], tuple[float, float]]

_PHASES = 2048
_WIDTH = 8
_PER_PIXEL = 8
"""Samples per pixel of a grid interpolated by polynomials: accurate to 1e-5 of the peak at a FWHM of 1.5 pixels."""
_MOST_FINE = 8
_ROUNDING = 1e-9


@dataclass(frozen=True, eq=False)
class FineGrid:
    """Samples of a PSF's basis on a grid finer than pixels, and how to interpolate between them.

    Parameters
    ----------
    samples : ndarray, shape (B, my, mx)
        Samples, or the coefficients of the functions that `taps` are values of.
    step : (float, float)
        Pixels between samples, along y and x.
    taps : ndarray, shape (phases + 1, W)
        Weights of the W samples about a place, at equally spaced phases 0 ... 1 after the sample before it; that one is
        number ``W / 2 - 1`` of them. Each row sums to one.
    trimmed : bool
        Whether at the grid's edges the weights of those samples that there are are scaled to sum one; if not, there is
        nothing beyond.
    reach : ((y_low, y_high), (x_low, x_high))
        Offsets in pixels, within which the model has values.
    center : (float, float), optional
        Row and column of `samples` that the source's centre is at, which need not be whole; by default
        ``(my // 2, mx // 2)``.
    """

    samples: NDArray[np.float64]
    step: tuple[float, float]
    taps: NDArray[np.float64]
    trimmed: bool
    reach: Reach
    center: tuple[float, float] | None = None

    @property
    def source_place(self) -> tuple[float, float]:
        """Row and column of the samples that the source's centre is at."""
        _, my, mx = self.samples.shape
        return (float(my // 2), float(mx // 2)) if self.center is None else self.center


class SubPixelBasis(abc.ABC):
    """The basis of a PSF as a function of the offset from the source's centre.

    Parameters
    ----------
    shape : (int, int)
        Rows and columns of the PSF's kernels.
    reach : ((y_low, y_high), (x_low, x_high))
        Offsets in pixels, within which the model has values.
    scale : float
        Pixels over which the model changes, its FWHM for example: the narrower, the finer the grid of samples.
    """

    pixels_count: bool = False
    """Whether the kernel on pixels is as much the model as its values between them, so that it is only left where its
    own power near the pixels' Nyquist frequency says that they are too coarse; see `skygraft.psf.sampling`."""

    few: bool = False
    """Whether only a few of many images have coefficients other than zero at any place, and these are not negative."""

    most_missed: float | None = None
    """Largest error of interpolating the kernel on pixels, in units of the peak, at which that is done instead of
    evaluating the model at each source's own place; None for `skygraft.psf.sampling.MOST_MISSED`."""

    def __init__(self, shape: tuple[int, int], reach: Reach, scale: float = 1.5) -> None:
        self.shape, self.reach, self._scale = shape, reach, scale

    @abc.abstractmethod
    def evaluate(self, y: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Evaluate the basis at offsets (y, x) in pixels, also beyond `reach` where the model can be continued.

        Parameters
        ----------
        y, x : ndarray, shapes (M,) and (N,)
            Rows and columns of a rectangular grid.

        Returns
        -------
        ndarray, shape (B, M, N)
            Flux per pixel, as in the PSF's kernels.
        """

    def values(self, y: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Evaluate the basis as `evaluate` does, with zeros beyond `reach`.

        Parameters
        ----------
        y, x : ndarray, shapes (M,) and (N,)
            Rows and columns of a rectangular grid, as offsets in pixels.

        Returns
        -------
        ndarray, shape (B, M, N)
        """
        (y_low, y_high), (x_low, x_high) = self.reach
        inside = ((y >= y_low) & (y <= y_high))[:, None] & ((x >= x_low) & (x <= x_high))
        return np.where(inside, self.evaluate(y, x), 0.0)

    def images(self, per_pixel: int) -> NDArray[np.float64]:
        """Evaluate the basis on a grid finer than pixels, centred on the source.

        They reach half a pixel further than the middles of the kernel's outermost pixels, so that the pixels of a
        source at any sub-pixel place are among them if it is a multiple of the grid's step.

        Parameters
        ----------
        per_pixel : int
            Places a pixel, along each axis.

        Returns
        -------
        ndarray, shape (B, my, mx)
            Both sizes odd.
        """
        y, x = (self.offsets(n, per_pixel) for n in self.shape)
        return self.values(y, x)

    @staticmethod
    def offsets(n: int, per_pixel: int) -> NDArray[np.float64]:
        """List the offsets of the places of `images` along an axis.

        Parameters
        ----------
        n : int
            Pixels of the axis.
        per_pixel : int
            Places a pixel.

        Returns
        -------
        ndarray of float64
            Pixels.
        """
        half = n // 2 * per_pixel + per_pixel // 2
        return np.arange(-half, half + 1) / per_pixel

    @functools.cached_property
    def grid(self) -> FineGrid:
        """The grid that stars are drawn from."""
        per_pixel = _PER_PIXEL * min(max(1, int(np.ceil(1.5 / self._scale))), _MOST_FINE)
        halves = [int(np.ceil(max(-low, high) * per_pixel)) + _WIDTH // 2 for low, high in self.reach]
        y, x = (np.arange(-half, half + 1) / per_pixel for half in halves)
        step = 1.0 / per_pixel
        return FineGrid(self.evaluate(y, x), (step, step), lagrange_taps(_WIDTH), False, self.reach)


def whole_pixels(shape: tuple[int, int]) -> Reach:
    """Give the offsets that a kernel's pixels can have from a source anywhere in the middle pixel.

    Parameters
    ----------
    shape : (int, int)
        Rows and columns of the kernel.

    Returns
    -------
    ((y_low, y_high), (x_low, x_high))
    """
    half_y, half_x = (n / 2 + _ROUNDING for n in shape)
    return (-half_y, half_y), (-half_x, half_x)


def _offsets_of_taps(width: int) -> NDArray[np.float64]:
    """Offsets of samples from the place of interpolation, at all phases: shape (phases + 1, width)."""
    phase = np.linspace(0.0, 1.0, _PHASES + 1)[:, None]
    return np.arange(width) - (width // 2 - 1) - phase


@functools.lru_cache(maxsize=4)
def lagrange_taps(width: int) -> NDArray[np.float64]:
    """Compute the taps of the polynomial through a number of samples.

    Parameters
    ----------
    width : int
        The number of samples.

    Returns
    -------
    ndarray, shape (phases + 1, width)
    """
    offsets = _offsets_of_taps(width)
    taps = np.ones_like(offsets)
    for j in range(width):
        for m in range(width):
            if m != j:
                taps[:, j] *= -offsets[:, m] / (j - m)
    taps.setflags(write=False)
    return taps


@functools.lru_cache(maxsize=4)
def lanczos_taps(order: int) -> NDArray[np.float64]:
    """Compute the taps of Lanczos's function of an order, scaled to sum one.

    Parameters
    ----------
    order : int
        Its order.

    Returns
    -------
    ndarray, shape (phases + 1, 2 order)
    """
    offsets = _offsets_of_taps(2 * order)
    taps: NDArray[np.float64] = np.sinc(offsets) * np.sinc(offsets / order)
    taps /= taps.sum(axis=1, keepdims=True)
    taps.setflags(write=False)
    return taps
