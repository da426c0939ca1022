"""Fits of a coadd's pixels by those of its visits: shift, weights, slope, and what cores lack."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["HALF", "LEAST_PIXELS", "Stack"]

type FloatArray = NDArray[np.float64]

HALF = 12
"""Stamps reach so many coadd pixels from their middle."""
LEAST_PIXELS = 2000
"""Fewer tell nothing."""
_BRIGHT = 20.0
"""Signal to noise of a pixel from which on it tells zeropoint and shift."""
_WINGS = 3.0, 10.0
"""Signal to noise of pixels that are an object's wings."""
_MODEL_ERROR = 0.02
"""Fraction of the light that is not expected to fit, which keeps the brightest pixels from ruling all others."""
_CORE = 1.5
"""Pixels about the middle of an object that are its core."""
_OUTLIER = 6.0
_SPIKE = 8.0
"""Standard deviations above the coadd and its brightest pixel around, beyond which a visit's pixel is a cosmic ray."""
_SIGNIFICANT = 4.0


class Stack:
    """Stamps of a coadd and of its visits, on the coadd's pixels and in its units.

    Parameters
    ----------
    coadd : ndarray, shape (N, S, S)
        Stamps of the coadd: objects first, then empty sky.
    good : ndarray of bool, shape (N, S, S)
        Their pixels that count.
    images, seen : ndarray, shape (V, N, S, S)
        Stamps of the visits, and their pixels that count.
    weight : ndarray, shape (V,)
        Assumed weights of the visits.
    n_objects : int
        Number of the first stamps that have an object in the middle.
    noise : float
        Standard deviation of the coadd's sky.
    """

    def __init__(
        self,
        coadd: FloatArray,
        good: NDArray[np.bool_],
        images: FloatArray,
        seen: NDArray[np.bool_],
        weight: FloatArray,
        n_objects: int,
        noise: float,
    ) -> None:
        self.noise, self.n_objects = noise, n_objects
        self.seen = seen & good
        # What is in one visit and not in the coadd, such as a cosmic ray that no mask has, was rejected there.
        brightest = _largest_around(np.where(good, coadd, -np.inf)) - _levels(coadd, good)
        for k, image in enumerate(images):
            difference = image - _levels(image, self.seen[k]) - (coadd - _levels(coadd, good))
            spread = _spread(difference[self.seen[k]])
            spikes = self.seen[k] & (difference > _SPIKE * spread + np.maximum(brightest, 0.0))
            if spikes.any():
                self.seen[k] &= ~(_largest_around(spikes.astype(np.float64)) > 0)
        weights = weight[:, None, None, None] * self.seen
        total = weights.sum(axis=0)
        self.good = good & (total > 0)
        self.share = np.divide(weights, total, out=np.zeros_like(weights), where=total > 0)
        # The level of the sky is a mean of the same pixels in all images: linear, as coadding is.
        here = self.seen.any(axis=(2, 3), keepdims=True)
        common = good & (self.seen | ~here).all(axis=0) & here.any(axis=0)
        self.images = np.where(self.seen, images - _level(images, common), 0.0)
        self.coadd = np.where(self.good, coadd - _level(coadd, common), 0.0)

    def mean(self, factors: FloatArray | None = None) -> FloatArray:
        """Average the visits, with weights times these factors: shape (N, S, S)."""
        share = self.share if factors is None else self.share * factors[:, None, None, None]
        total = share.sum(axis=0)
        mean: FloatArray = np.zeros_like(total)
        np.divide((share * self.images).sum(axis=0), total, out=mean, where=total > 0)
        return mean

    def _weights(self, mean: FloatArray) -> FloatArray:
        return np.asarray(1 / (self.noise**2 + (_MODEL_ERROR * mean) ** 2))

    def shift(self, visit: int | None = None) -> tuple[FloatArray, float]:
        """Fit the shift of the coadd's light from that of the visits' mean, or of one visit.

        Parameters
        ----------
        visit : int, optional
            Number of the visit.

        Returns
        -------
        shift : ndarray, shape (2,)
            Along columns and rows, pixels; NaN where too few pixels are bright.
        error : float
            The larger of their standard errors.
        """
        image, seen = (self.mean(), self.good) if visit is None else (self.images[visit], self.seen[visit])
        use = seen & self.good & (self.mean() > _BRIGHT * self.noise)
        use[self.n_objects :] = False
        use[:, [0, 1, -2, -1]] = False
        use[:, :, [0, 1, -2, -1]] = False
        if use.sum() < 20:
            return np.full(2, np.nan), np.nan
        dx, dy, laplacian = _derivatives(image)
        # The Laplacian takes up a difference of widths.
        terms = np.stack([image[use], -dx[use], -dy[use], laplacian[use]], axis=1)
        values, errors = _fit(terms, self.coadd[use], self._weights(image)[use])
        return values[1:3] / values[0], float(max(errors[1:3]) / abs(values[0]))

    def present(self) -> tuple[FloatArray, FloatArray, float, int]:
        """Fit the factor of each visit's weight, and its standard error; NaN where pixels do not determine them.

        The fraction of the sky's variance that is left, and the number of pixels, are returned, too.
        """
        n = len(self.images)
        use = self.good & (self.seen.sum(axis=0) > 0)
        mean = self.mean()
        weights = self._weights(mean)[use]
        terms = (self.share * self.images)[:, use].T
        unknown = np.full(n, np.nan), np.full(n, np.nan), np.nan, int(use.sum())
        told = np.abs(terms).max(axis=0, initial=0.0) > 0
        if len(terms) < LEAST_PIXELS or not told.any():
            return unknown
        terms = terms[:, told]
        values, errors = _fit(terms, self.coadd[use], weights)
        # The zeropoint is judged by bright pixels: what is left are weights, relative to each other.
        share = self.share[:, use].mean(axis=1)[told]
        total = float((share * values).sum())
        if not total > 0:
            return unknown
        sky = np.abs(mean[use]) < 3 * self.noise
        left = self.coadd[use][sky] - terms[sky] @ values
        unexplained = float(_spread(left) / max(_spread(self.coadd[use][sky]), 1e-30)) ** 2
        found, error = np.full(n, np.nan), np.full(n, np.nan)
        found[told], error[told] = values / total, errors / total
        return found, error, unexplained, int(use.sum())

    def slopes(self, factors: FloatArray) -> tuple[float, float, float, float]:
        """Compare the coadd's light with the visits' mean, object by object: on bright pixels, and in cores.

        Another interpolation makes the coadd's light wider or narrower: what the Laplacian of the mean tells of that,
        in the wings, is taken off.

        Parameters
        ----------
        factors : ndarray, shape (V,)
            Of the visits' weights.

        Returns
        -------
        slope, error, core, core_error : float
            Medians over the objects (of cores, over the brighter half), and their standard errors. The slope is that of
            the wings where cores differ from them.
        """
        mean = self.mean(factors)[: self.n_objects]
        values, good = self.coadd[: self.n_objects], self.good[: self.n_objects]
        bright, weights = good & (mean > _BRIGHT * self.noise), self._weights(mean)
        j, i = np.mgrid[-HALF : HALF + 1, -HALF : HALF + 1]
        near = bright & (np.hypot(i, j) <= _CORE)
        wings = good & (mean > _WINGS[0] * self.noise) & (mean < _WINGS[1] * self.noise)
        if wings.sum() >= 20:
            laplacian = _derivatives(mean)[2]
            found, errors = _fit(np.stack([mean[wings], laplacian[wings]], axis=1), values[wings], weights[wings])
            if np.isfinite(found).all() and abs(found[1]) > _SIGNIFICANT * errors[1]:
                values = values - found[1] * laplacian
        all_of, around, inner = (_ratios(values, mean, weights, use) for use in (bright, wings, near))
        slope, error = _median(all_of)
        brighter = np.argsort(-np.where(near, mean, 0.0).max(axis=(1, 2), initial=0.0))[: (self.n_objects + 1) // 2]
        core, core_error = _median((inner / around - 1)[brighter])
        if abs(core) > _SIGNIFICANT * core_error:
            slope, error = _median(around)
        return slope, error, core, core_error


def _derivatives(images: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Derivatives of stamps (N, S, S) along columns and rows, and the Laplacian."""
    dx, dy = (np.asarray(np.gradient(images, axis=axis)) for axis in (2, 1))
    laplacian = np.zeros_like(images)
    laplacian[:, 1:-1, 1:-1] = (
        images[:, :-2, 1:-1] + images[:, 2:, 1:-1] + images[:, 1:-1, :-2] + images[:, 1:-1, 2:]
    ) - 4 * images[:, 1:-1, 1:-1]
    return dx, dy, laplacian


def _largest_around(images: FloatArray) -> FloatArray:
    """Largest of the 5 x 5 pixels about each pixel of stamps (N, S, S)."""
    padded = np.pad(images, ((0, 0), (2, 2), (2, 2)), constant_values=-np.inf)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (5, 5), axis=(1, 2))
    return np.asarray(windows.max(axis=(3, 4)))


def _levels(stamps: FloatArray, good: NDArray[np.bool_]) -> FloatArray:
    """Median of the good pixels of each stamp (N, S, S), shape (N, 1, 1); 0 where there are none."""
    flat, use = stamps.reshape(len(stamps), -1), good.reshape(len(stamps), -1)
    found = np.array([np.median(one[here]) if here.any() else 0.0 for one, here in zip(flat, use, strict=True)])
    return found[:, None, None]


def _ratios(values: FloatArray, mean: FloatArray, weights: FloatArray, use: NDArray[np.bool_]) -> FloatArray:
    """Slope of values against their mean in each stamp (N, S, S), by least squares; NaN for fewer than five pixels."""
    w = np.where(use, weights, 0.0)
    below = (w * mean**2).sum(axis=(1, 2))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(use.sum(axis=(1, 2)) >= 5, (w * mean * values).sum(axis=(1, 2)) / below, np.nan)


def _median(values: FloatArray) -> tuple[float, float]:
    """Median of what is finite, and its standard error from the scatter; NaN for fewer than three."""
    values = values[np.isfinite(values)]
    if len(values) < 3:
        return np.nan, np.nan
    middle = float(np.median(values))
    return middle, max(1.2533 * _spread(values) / np.sqrt(len(values)), 1e-6)


def _level(stamps: FloatArray, common: NDArray[np.bool_]) -> FloatArray:
    """Mean of each stamp (..., S, S) over pixels of `common` at its edge, shape (..., 1, 1); 0 where there are none."""
    edge = np.ones(stamps.shape[-2:], np.bool_)
    edge[3:-3, 3:-3] = False
    use = common & edge
    number = np.maximum(use.sum(axis=(-2, -1), keepdims=True), 1)
    return np.asarray(np.where(use, stamps, 0.0).sum(axis=(-2, -1), keepdims=True) / number)


def _spread(values: FloatArray) -> float:
    """Robust standard deviation; 0 without values."""
    return 1.4826 * float(np.median(np.abs(values - np.median(values)))) if values.size else 0.0


def _fit(terms: FloatArray, values: FloatArray, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Weighted least squares, outliers left out once: coefficients, and standard errors from the scatter."""
    use = np.isfinite(values) & np.isfinite(terms).all(axis=1)
    found = np.zeros(terms.shape[1])
    covariance = np.eye(terms.shape[1])
    scatter = np.nan
    for _ in range(2):
        a, w = terms[use], weights[use]
        normal = a.T @ (w[:, None] * a)
        if np.linalg.cond(normal) > 1e13:
            return np.full(terms.shape[1], np.nan), np.full(terms.shape[1], np.nan)
        covariance = np.linalg.inv(normal)
        found = covariance @ (a.T @ (w * values[use]))
        residual = (values - terms @ found) * np.sqrt(weights)
        scatter = float(np.sqrt(np.mean(residual[use] ** 2)))
        # Pixels that agree to rounding leave nothing to judge outliers by.
        use = use & (np.abs(residual) < _OUTLIER * max(1.4826 * float(np.median(np.abs(residual[use]))), 1e-3))
    # Neighbouring pixels of a warped image are correlated: about four of them are one.
    return found, 2.0 * max(scatter, 1e-6) * np.sqrt(np.diag(covariance))
