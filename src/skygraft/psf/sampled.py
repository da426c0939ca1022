"""Sampled PSF images as functions of the offset from the source: splines, integrated over pixels where that is due."""

from __future__ import annotations

import functools
import math

import numpy as np
from numpy.typing import NDArray

from skygraft.errors import ConfigError
from skygraft.jit import compiled
from skygraft.psf.bsplines import (
    bspline,
    bspline_integral,
    bspline_taps,
    cubic_coefficients,
    quintic_coefficients,
)
from skygraft.psf.fine import FineGrid, SubPixelBasis
from skygraft.psf.sampling import band_limited_weights

__all__ = ["SampledAxis", "SplineBasis"]

_FEWEST = 4
"""Samples along an axis that a cubic spline needs."""
_WHOLE = 1e-9
_MISSED = 1e-6
"""Largest error, in units of the peak, of a kernel that is moved instead of being evaluated at the source's place."""
_LEAST_FINE = 16
"""Samples per pixel, at least, of optical PSFs whose own are not a whole number."""


class SampledAxis:
    """One axis of sampled images: where its samples are, and how values between them follow from them.

    Parameters
    ----------
    n : int
        Samples.
    step : float
        Samples per pixel.
    center : float
        Place of the source, samples from the first.
    integrated : bool
        Whether samples are those of the effective PSF; if not, values are integrals over pixels.
    """

    def __init__(self, n: int, step: float, center: float, integrated: bool) -> None:
        self.n, self.center, self.integrated = n, center, integrated
        self.per_pixel = step
        self.fine = step > 1
        if self.fine and n < _FEWEST:
            raise ConfigError(f"an oversampled PSF image needs {_FEWEST} samples along each axis; it has {n}")
        if not self.fine and not integrated:
            raise ConfigError(
                f"an image with {step:g} samples a pixel cannot be integrated over pixels",
                key="pixel_integrated",
                fix="Give an image with several samples a pixel, or pixel_integrated=True if it is of detector pixels",
            )
        more = 0.0 if integrated else 0.5
        self.reach = -center / step - more - _WHOLE, (n - 1 - center) / step + more + _WHOLE

    @property
    def _half(self) -> int:
        """Pixels to each side that a source in the middle pixel reaches."""
        furthest = max(-self.reach[0], self.reach[1])
        # Pixels on the samples themselves: a source elsewhere is interpolated between the kernel's pixels.
        return math.floor(furthest + 0.5) if self.fine else math.floor(furthest)

    @property
    def kernel_size(self) -> int:
        """Pixels of the kernel."""
        return 2 * self._half + 1

    @property
    def pixels(self) -> NDArray[np.float64]:
        """Offsets of the kernel's pixels from the source."""
        return np.arange(-self._half, self._half + 1.0)

    @property
    def whole(self) -> bool:
        """Whether a pixel is a whole number of samples wide."""
        return float(self.per_pixel).is_integer()

    def values(self, prepared: NDArray[np.float64], at: NDArray[np.float64]) -> NDArray[np.float64]:
        """Values (..., M) at offsets (M,) in pixels from the source, of what `prepared` gave (..., K)."""
        place = self.center + at * self.per_pixel
        if not self.fine:
            nearest = np.rint(place)
            whole = np.abs(place - nearest) < _WHOLE
            # The weights are those of an odd number of samples; one more that is zero changes nothing.
            weights = band_limited_weights(np.arange(self.n + 1.0 - self.n % 2), place)[:, : self.n]
            weights = np.where(whole[:, None], np.arange(self.n) == nearest[:, None], weights)
            return np.asarray(prepared @ weights.T)
        half = 0.0 if self.integrated else self.per_pixel / 2
        width = math.ceil(2 * half) + 4
        # Coefficient k is at sample k - 1; these are the first, and the distances of those that follow.
        first = np.floor(place - half).astype(np.int64) - 1
        offset = place[:, None] - (first[:, None] + np.arange(width))
        if self.integrated:
            taps = bspline(offset, 3)
        else:
            taps = (bspline_integral(offset + half, 3) - bspline_integral(offset - half, 3)) / self.per_pixel
        rows = np.ascontiguousarray(prepared).reshape(-1, prepared.shape[-1])
        out = np.empty((len(rows), len(at)))
        _weighted_sums(rows, first + 1, taps, out)
        return out.reshape(*prepared.shape[:-1], len(at))

    def prepared(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Samples (..., n), or the coefficients of the spline through them (..., n + 2)."""
        return cubic_coefficients(values) if self.fine else values

    def grid(self, values: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
        """Spline coefficients (..., n + 2) to those of `FineGrid` (..., m), and the source's place among these.

        A pixel that is p samples wide turns each coefficient into p of the next degree, half a sample apart where p is
        even.
        """
        if self.integrated:
            return values, self.center + 1
        p = int(self.per_pixel)
        sums = np.zeros((*values.shape[:-1], values.shape[-1] + p - 1))
        for j in range(p):
            sums[..., j : j + values.shape[-1]] += values / p
        return sums, self.center + 1 + (p - 1) / 2


@compiled
def _weighted_sums(
    rows: NDArray[np.float64], first: NDArray[np.int64], taps: NDArray[np.float64], out: NDArray[np.float64]
) -> None:  # pragma: no cover - compiled
    """Sum rows (R, K) with taps (M, W), from their elements `first` (M,) on; there is nothing beyond their ends."""
    for r in range(rows.shape[0]):
        for m in range(first.size):
            total = 0.0
            for k in range(taps.shape[1]):
                i = first[m] + k
                if 0 <= i < rows.shape[1]:
                    total += taps[m, k] * rows[r, i]
            out[r, m] = total


class SplineBasis(SubPixelBasis):
    """Images as splines between their samples.

    Parameters
    ----------
    images : ndarray, shape (B, my, mx)
        Samples, light per pixel.
    y, x : SampledAxis
        Their axes.
    few : bool, optional
        Whether only a few of many images have weights other than zero at any place.
    """

    most_missed = _MISSED

    def __init__(self, images: NDArray[np.float64], y: SampledAxis, x: SampledAxis, *, few: bool = False) -> None:
        super().__init__((y.kernel_size, x.kernel_size), (y.reach, x.reach))
        self.few = few
        self._images, self._y, self._x = images, y, x

    @functools.cached_property
    def _coefficients(self) -> NDArray[np.float64]:
        along_x = self._x.prepared(self._images)
        return np.ascontiguousarray(self._y.prepared(along_x.transpose(0, 2, 1)).transpose(0, 2, 1))

    def evaluate(self, y: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Evaluate the splines, or their integrals over pixels; see `SubPixelBasis.evaluate`."""
        along_x = self._x.values(self._coefficients, x)
        along_y = self._y.values(np.ascontiguousarray(along_x.transpose(0, 2, 1)), y)
        return np.ascontiguousarray(along_y.transpose(0, 2, 1))

    @functools.cached_property
    def grid(self) -> FineGrid:
        """The coefficients of the splines: of degree 3, or 4 where they are integrated over whole samples."""
        if not self._y.integrated and not (self._y.whole and self._x.whole):
            return self._resampled()
        along_x, center_x = self._x.grid(self._coefficients)
        along_y, center_y = self._y.grid(along_x.transpose(0, 2, 1))
        return FineGrid(
            along_y.transpose(0, 2, 1),
            (1 / self._y.per_pixel, 1 / self._x.per_pixel),
            bspline_taps(3 if self._y.integrated else 4),
            False,
            self.reach,
            (center_y, center_x),
        )

    def _resampled(self) -> FineGrid:
        """Pixels a broken number of samples wide: the integrals, interpolated by quintic splines between many."""
        per_pixel = max(_LEAST_FINE, 2 * math.ceil(max(self._y.per_pixel, self._x.per_pixel)))
        halves = [math.ceil(max(-low, high) * per_pixel) + 4 * per_pixel for low, high in self.reach]
        y, x = (np.arange(-half, half + 1) / per_pixel for half in halves)
        values = quintic_coefficients(self.evaluate(y, x))
        values = quintic_coefficients(values.transpose(0, 2, 1)).transpose(0, 2, 1)
        step = 1 / per_pixel
        return FineGrid(np.ascontiguousarray(values), (step, step), bspline_taps(5), False, self.reach)
