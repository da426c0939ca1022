"""Whether an image can be that of a point source: centred, above zero, on no background."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["ImageLook", "look_at"]

_BORDER = 0.05
"""Width of the border that tells the background, in units of the image's side."""
_INNER = 0.7
"""Where wings are compared with the border, in units of its distance from the middle."""


@dataclass(frozen=True)
class ImageLook:
    """What an image looks like.

    Parameters
    ----------
    total : float
        Sum of the image.
    center : (float, float)
        Centroid (x, y) of what is about its peak, samples from the first.
    border : float
        Median of the outermost samples.
    in_border_level : float
        Light that the image would hold if it had the border's median everywhere, in units of its sum.
    fall : float
        Median at 0.7 of the border's distance, in units of that of the border: about 3 for the wings of PSFs, which
        fall as the cube of the distance; one on a background.
    contrast : float
        Largest sample, in units of the median.
    """

    total: float
    center: tuple[float, float]
    border: float
    in_border_level: float
    fall: float
    contrast: float

    @property
    def has_background(self) -> bool:
        """Whether the image has a background: the border holds light and does not fall, or is below zero."""
        share = abs(self.in_border_level)
        return share > 0.5 or (share > 0.02 and (self.border < 0 or self.fall < 1.25))


def look_at(image: NDArray[np.float64]) -> ImageLook:
    """Measure what tells whether an image is that of a point source.

    Parameters
    ----------
    image : ndarray, shape (ny, nx)
        Finite values.

    Returns
    -------
    ImageLook
    """
    ny, nx = image.shape
    total = float(image.sum())
    y, x = np.mgrid[:ny, :nx]
    # Distance from the middle in units of that of the border, by squares about it.
    far = np.maximum(np.abs(2 * y - ny + 1) / max(ny - 1, 1), np.abs(2 * x - nx + 1) / max(nx - 1, 1))
    width = max(2 * _BORDER, 2.0 / max(min(ny, nx) - 1, 1) - 1e-9)
    border = float(np.median(image[far >= 1 - width]))
    inner = image[np.abs(far - _INNER) <= width]
    middle = float(np.median(image))
    # Values of damaged files overflow.
    with np.errstate(all="ignore"):
        fall = float(np.median(inner) / border) if border != 0 and inner.size else np.inf
        contrast = float(image.max() / middle) if middle > 0 else np.inf
    with np.errstate(all="ignore"):
        level = float(np.float64(border) * image.size / total) if total != 0 else np.inf
    return ImageLook(total, _centroid(image - min(border, 0.0)), border, level, fall, contrast)


def _centroid(image: NDArray[np.float64]) -> tuple[float, float]:
    """Centroid (x, y) of what is near the peak, weighted by a Gaussian as wide (Bernstein & Jarvis 2002)."""
    ny, nx = image.shape
    row, column = np.unravel_index(int(image.argmax()), image.shape)
    y, x = np.arange(ny, dtype=float), np.arange(nx, dtype=float)
    above = max(int((image >= 0.5 * image.max()).sum()), 1)
    sigma = max(np.sqrt(above / np.pi) / 1.1774, 0.6)
    cy, cx = float(row), float(column)
    for _ in range(50):
        weights = np.exp(-((y - cy) ** 2)[:, None] / (2 * sigma**2)) * np.exp(-((x - cx) ** 2) / (2 * sigma**2))
        weighted = np.maximum(image, 0.0) * weights
        total = weighted.sum()
        if not total > 0:
            break
        # A weight as wide as the source halves each step towards its centroid.
        step_y = 2 * (float(weighted.sum(axis=1) @ y) / total - cy)
        step_x = 2 * (float(weighted.sum(axis=0) @ x) / total - cx)
        cy, cx = min(max(cy + step_y, 0.0), ny - 1.0), min(max(cx + step_x, 0.0), nx - 1.0)
        if abs(step_y) + abs(step_x) < 1e-4:
            break
    return cx, cy
