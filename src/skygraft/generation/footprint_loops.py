"""The compiled loop that finds the images on which positions lie."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from skygraft.jit import compiled

__all__ = ["images_of"]


@compiled
def _on_image(point: NDArray[np.float64], corners: NDArray[np.float64], middle: NDArray[np.float64]) -> bool:
    """Whether a direction is inside a polygon of great circles, by the even-odd rule in its tangent plane."""
    across = np.sqrt(middle[0] ** 2 + middle[1] ** 2)
    ex, ey = (-middle[1] / across, middle[0] / across) if across > 1e-12 else (1.0, 0.0)
    # North is the cross product of the middle and East.
    nx, ny, nz = -middle[2] * ey, middle[2] * ex, middle[0] * ey - middle[1] * ex
    depth = point[0] * middle[0] + point[1] * middle[1] + point[2] * middle[2]
    if depth <= 1e-6:
        return False
    x = (point[0] * ex + point[1] * ey) / depth
    y = (point[0] * nx + point[1] * ny + point[2] * nz) / depth
    inside = False
    last = len(corners) - 1
    deep = corners[last, 0] * middle[0] + corners[last, 1] * middle[1] + corners[last, 2] * middle[2]
    ax = (corners[last, 0] * ex + corners[last, 1] * ey) / deep
    ay = (corners[last, 0] * nx + corners[last, 1] * ny + corners[last, 2] * nz) / deep
    for k in range(len(corners)):
        deep = corners[k, 0] * middle[0] + corners[k, 1] * middle[1] + corners[k, 2] * middle[2]
        bx = (corners[k, 0] * ex + corners[k, 1] * ey) / deep
        by = (corners[k, 0] * nx + corners[k, 1] * ny + corners[k, 2] * nz) / deep
        if (ay > y) != (by > y) and x < ax + (y - ay) * (bx - ax) / (by - ay):
            inside = not inside
        ax, ay = bx, by
    return inside


@compiled(reads=("vectors", "index", "starts", "counts", "image", "whole", "corners", "bounds", "middles"))
def images_of(
    vectors: NDArray[np.float64],
    index: NDArray[np.int64],
    starts: NDArray[np.int64],
    counts: NDArray[np.int64],
    image: NDArray[np.int64],
    whole: NDArray[np.bool_],
    corners: NDArray[np.float64],
    bounds: NDArray[np.int64],
    middles: NDArray[np.float64],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs of positions and the images that show them.

    Parameters
    ----------
    vectors : ndarray, shape (N, 3)
        Unit vectors of positions.
    index : ndarray of int, shape (N,)
        The cell of each.
    starts, counts : ndarray of int, shape (C,)
        First pair of each cell with an image, and number of them.
    image, whole : ndarray, shape (P,)
        Image of each pair, and whether the cell lies wholly on it.
    corners, bounds, middles : ndarray
        Outlines: corners of image k are ``corners[bounds[k]:bounds[k + 1]]``, around ``middles[k]``.

    Returns
    -------
    point, image : ndarray of int64, shape (K,)
    """
    most = 0
    for i in range(len(index)):
        most += counts[index[i]]
    points, images = np.empty(most, dtype=np.int64), np.empty(most, dtype=np.int64)
    found = 0
    for i in range(len(index)):
        first = starts[index[i]]
        for pair in range(first, first + counts[index[i]]):
            k = image[pair]
            if whole[pair] or _on_image(vectors[i], corners[bounds[k] : bounds[k + 1]], middles[k]):
                points[found], images[found] = i, k
                found += 1
    return points[:found].copy(), images[:found].copy()
