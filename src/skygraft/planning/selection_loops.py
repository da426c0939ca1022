"""The compiled loops of `skygraft.planning.selection`, shared by the planner and the workers.

Both must agree to the last bit on the sources of an image. So everything from degrees on happens here, row by row in
plain arithmetic: the result for a row does not depend on the other rows.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skygraft.jit import compiled

__all__ = ["gather", "mix_columns", "select_rows", "unit_vectors"]

_ARCSEC = 180 * 3600 / np.pi
_SHIFT = np.uint64(33)
_FIRST = np.uint64(0xFF51AFD7ED558CCD)
_SECOND = np.uint64(0xC4CEB9FE1A85EC53)


@compiled
def unit_vectors(ra: NDArray[np.float64], dec: NDArray[np.float64]) -> NDArray[np.float64]:
    """Unit vectors, shape (N, 3), of positions in degrees."""
    out = np.empty((len(ra), 3))
    for i in range(len(ra)):
        lon, lat = math.radians(ra[i]), math.radians(dec[i])
        out[i, 0] = math.cos(lat) * math.cos(lon)
        out[i, 1] = math.cos(lat) * math.sin(lon)
        out[i, 2] = math.sin(lat)
    return out


@compiled
def _displaced(x: float, y: float, z: float, east: float, north: float) -> tuple[float, float, float]:
    """A unit vector moved along a great circle by (east, north) radians, as `positions_at` moves angles."""
    across = math.sqrt(x * x + y * y)
    # At a pole, East is undefined and so is the motion.
    ex, ey = (-y / across, x / across) if across > 0 else (0.0, 1.0)
    arc = math.sqrt(east * east + north * north)
    scale = math.sin(arc) / arc if arc > 0 else 1.0
    cosine, step_e, step_n = math.cos(arc), east * scale, north * scale
    return (
        cosine * x + step_e * ex - step_n * z * ey,
        cosine * y + step_e * ey + step_n * z * ex,
        cosine * z + step_n * (x * ey - y * ex),
    )


@compiled
def _close(x: float, y: float, vx: NDArray[np.float64], vy: NDArray[np.float64], margin: float) -> bool:
    """Whether a point of the plane lies in a polygon or within a margin of its edge."""
    inside = False
    squared = np.inf
    for i in range(len(vx)):
        ax, ay = vx[i - 1], vy[i - 1]
        dx, dy = vx[i] - ax, vy[i] - ay
        # Even-odd rule: an edge counts where a ray towards +x crosses it.
        if (ay > y) != (vy[i] > y) and x < ax + (y - ay) * dx / dy:
            inside = not inside
        length = dx * dx + dy * dy
        along = 0.0
        if length > 0:
            along = min(max(((x - ax) * dx + (y - ay) * dy) / length, 0.0), 1.0)
        ox, oy = x - ax - along * dx, y - ay - along * dy
        squared = min(squared, ox * ox + oy * oy)
    return inside or squared <= margin * margin


@compiled
def _is_open(first: float, after: float, time: float) -> bool:
    """Whether a time is in a window; an unknown time is in one without limits."""
    if math.isnan(time):
        return math.isnan(first) and math.isnan(after)
    return not first > time and not after <= time


@compiled
def select_rows(
    vectors: NDArray[np.float64],
    visits: NDArray[np.int64],
    motion: NDArray[np.float64],
    windows: NDArray[np.float64],
    slack: NDArray[np.float64],
    stores: NDArray[np.int64],
    corners: NDArray[np.float64],
    bounds: NDArray[np.int64],
    times: NDArray[np.float64],
    image_visits: NDArray[np.int64],
    stores_open: NDArray[np.bool_],
    margin: float,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Select the rows of the catalogue for each of M images.

    Parameters
    ----------
    vectors : ndarray, shape (N, 3)
        Unit vectors of the sources at their epochs.
    visits : ndarray, shape (N,)
        The only visit of each, -1 for all; empty where all are -1.
    motion : ndarray, shape (N, 3)
        East and north in radians per day, and the epoch; shape (0, 3) where nothing moves.
    windows : ndarray, shape (N, 2)
        First time of each source and the time after its last, NaN for no limit; shape (0, 2) where there is none.
    slack : ndarray, shape (N,)
        Arcsec added to the margin for each source; empty where there is none.
    stores : ndarray, shape (N,)
        1 for rows that only some images may get (see `stores_open`), else 0; empty if all are 0.
    corners : ndarray, shape (V, 3)
        Unit vectors of the vertices of all images, one image after the other.
    bounds : ndarray, shape (M + 1,)
        Where each image's vertices begin and end.
    times : ndarray, shape (M,)
        MJD TAI.
    image_visits : ndarray, shape (M,)
        Visits; -1 for an image of none.
    stores_open : ndarray, shape (M,)
        Which images may get the rows that `stores` marks.
    margin : float
        Arcsec.

    Returns
    -------
    offsets : ndarray, shape (M + 1,)
        Where each image's rows begin and end in `rows`.
    rows : ndarray
        Row numbers, ascending in each image.
    """
    n_images = len(bounds) - 1
    offsets = np.zeros(n_images + 1, dtype=np.int64)
    rows = np.empty(max(1024, 4 * len(vectors)), dtype=np.int64)
    n = 0
    for image in range(n_images):
        vertices = corners[bounds[image] : bounds[image + 1]]
        mx = my = mz = 0.0
        for i in range(len(vertices)):
            mx, my, mz = mx + vertices[i, 0], my + vertices[i, 1], mz + vertices[i, 2]
        length = math.sqrt(mx * mx + my * my + mz * mz)
        mx, my, mz = mx / length, my / length, mz / length
        # At a pole any direction serves as East.
        ex, ey = 1.0, 0.0
        across = math.sqrt(mx * mx + my * my)
        if across > 1e-12:
            ex, ey = -my / across, mx / across
        nx, ny, nz = -mz * ey, mz * ex, mx * ey - my * ex
        vx, vy = np.empty(len(vertices)), np.empty(len(vertices))
        least = 1.0
        for i in range(len(vertices)):
            a, b, c = vertices[i, 0], vertices[i, 1], vertices[i, 2]
            depth = a * mx + b * my + c * mz
            least = min(least, depth)
            vx[i] = (a * ex + b * ey) / depth * _ARCSEC
            vy[i] = (a * nx + b * ny + c * nz) / depth * _ARCSEC
        reach = math.acos(max(least, -1.0)) + margin / _ARCSEC
        horizon = math.cos(min(reach * 1.0001 + 1e-9, math.pi / 2 - 1e-6))
        for row in range(len(vectors)):
            x, y, z = vectors[row, 0], vectors[row, 1], vectors[row, 2]
            depth = x * mx + y * my + z * mz
            if len(windows) and not _is_open(windows[row, 0], windows[row, 1], times[image]):
                continue
            extra = slack[row] if len(slack) else 0.0
            east = north = 0.0
            if len(motion):
                days = times[image] - motion[row, 2]
                east, north = motion[row, 0], motion[row, 1]
                if east != 0.0 or north != 0.0:
                    east, north = east * days, north * days
            if east != 0.0 or north != 0.0:
                # The cosine changes by no more than the arc.
                if depth + abs(east) + abs(north) + extra / _ARCSEC < horizon:
                    continue
                x, y, z = _displaced(x, y, z, east, north)
                depth = x * mx + y * my + z * mz
            if not (depth + extra / _ARCSEC >= horizon and depth > 0.0):
                continue
            if len(visits) and visits[row] != -1 and visits[row] != image_visits[image]:
                continue
            if len(stores) and stores[row] and not stores_open[image]:
                continue
            px = (x * ex + y * ey) / depth * _ARCSEC
            py = (x * nx + y * ny + z * nz) / depth * _ARCSEC
            if _close(px, py, vx, vy, margin + extra):
                if n == len(rows):
                    longer = np.empty(2 * len(rows), dtype=np.int64)
                    longer[:n] = rows
                    rows = longer
                rows[n] = row
                n += 1
        offsets[image + 1] = n
    return offsets, rows[:n].copy()


@compiled
def gather(
    offsets: NDArray[np.int64],
    rows: NDArray[np.int64],
    homes: NDArray[np.int64],
    n_homes: int,
    costs: NDArray[np.float64],
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """The partitions that rows of each image are in, shape (M, n_homes), and the sum of their costs, shape (M,)."""
    n_images = len(offsets) - 1
    held = np.zeros((n_images, n_homes), dtype=np.bool_)
    total = np.zeros(n_images)
    for image in range(n_images):
        for k in range(offsets[image], offsets[image + 1]):
            held[image, homes[rows[k]]] = True
            total[image] += costs[rows[k]]
    return held, total


@compiled
def _stir(value: Any) -> Any:
    """The finaliser of MurmurHash3 (Appleby, public domain): every bit of the input reaches every bit."""
    value ^= value >> _SHIFT
    value *= _FIRST
    value ^= value >> _SHIFT
    value *= _SECOND
    return value ^ (value >> _SHIFT)


@compiled
def mix_columns(columns: NDArray[np.uint64], seeds: NDArray[np.uint64], lanes: NDArray[np.uint64]) -> None:
    """Hash the rows of columns, shape (C, N), with seeds, shape (C, 2), into `lanes`, shape (N, 2), in place."""
    for row in range(lanes.shape[0]):
        first, second = lanes[row, 0], lanes[row, 1]
        for column in range(columns.shape[0]):
            value = columns[column, row]
            first = _stir(first + _stir(value ^ seeds[column, 0]))
            second = _stir(second ^ _stir(value + seeds[column, 1]))
        lanes[row, 0], lanes[row, 1] = first, second
