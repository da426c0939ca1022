"""The compiled loops that find the images on which positions, and cells, lie."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from skygraft.jit import compiled

__all__ = ["images_of", "touching"]


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


@compiled
def _from_side(point: NDArray[np.float64], a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Distance (chord) of a direction from the part of a great circle between two others."""
    nx, ny, nz = a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]
    length = np.sqrt(nx * nx + ny * ny + nz * nz)
    if length > 1e-15:
        nx, ny, nz = nx / length, ny / length, nz / length
        # Its nearest point lies between the ends where it is beyond neither, along the circle.
        one = (
            point[0] * (ny * a[2] - nz * a[1]) + point[1] * (nz * a[0] - nx * a[2]) + point[2] * (nx * a[1] - ny * a[0])
        )
        other = (
            point[0] * (b[1] * nz - b[2] * ny) + point[1] * (b[2] * nx - b[0] * nz) + point[2] * (b[0] * ny - b[1] * nx)
        )
        if one >= 0 and other >= 0:
            return float(abs(point[0] * nx + point[1] * ny + point[2] * nz))
    first = (point[0] - a[0]) ** 2 + (point[1] - a[1]) ** 2 + (point[2] - a[2]) ** 2
    second = (point[0] - b[0]) ** 2 + (point[1] - b[1]) ** 2 + (point[2] - b[2]) ** 2
    return float(np.sqrt(min(first, second)))


@compiled(reads=("vectors", "image", "corners", "bounds", "middles"))
def touching(
    vectors: NDArray[np.float64],
    image: NDArray[np.int64],
    corners: NDArray[np.float64],
    bounds: NDArray[np.int64],
    middles: NDArray[np.float64],
    reach: float,
) -> NDArray[np.int8]:
    """Find which circles touch the images that they may touch.

    Parameters
    ----------
    vectors : ndarray, shape (N, 3)
        Unit vectors of their middles.
    image : ndarray of int, shape (N,)
        The image for each.
    corners, bounds, middles : ndarray
        As in `images_of`.
    reach : float
        Radius, radians.

    Returns
    -------
    ndarray of int8, shape (N,)
        2 for circles that lie wholly on the image, 1 for those that may touch it, 0 for the others.
    """
    out = np.zeros(len(image), dtype=np.int8)
    for i in range(len(image)):
        k = image[i]
        outline = corners[bounds[k] : bounds[k + 1]]
        inside = _on_image(vectors[i], outline, middles[k])
        apart = 4.0
        for j in range(len(outline)):
            apart = min(apart, _from_side(vectors[i], outline[j - 1], outline[j]))
        # Chords are shorter than arcs by a part in 24 of their square at most.
        near = apart <= reach
        if inside:
            out[i] = 1 if near else 2
        elif near:
            out[i] = 1
    return out


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
