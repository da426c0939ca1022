"""Where the sources of partitions lie, and how far they move: what the planner finds partitions by."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from astropy.table import QTable
from numpy.typing import NDArray

from skygraft.catalog.arrow import from_arrow
from skygraft.catalog.motion import angular_rates, excursions, is_moving, windows_of
from skygraft.catalog.schema import BENDS, MOTION, WINDOW, values
from skygraft.wcs.base import to_vectors

__all__ = ["extents"]


def extents(table: pa.Table, starts: NDArray[np.int64], counts: NDArray[np.int64]) -> dict[str, list[Any]]:
    """Compute where the sources of partitions lie, and how far and fast they move.

    Parameters
    ----------
    table : pyarrow.Table
        Canonical columns, one partition after the other.
    starts, counts : ndarray of int, shape (N,)
        First row and number of rows of each partition.

    Returns
    -------
    dict of str to list
        Columns of the marker's table; see `skygraft.catalog.partition_read.PartitionBounds`.
    """
    motions = (*MOTION, "parallax", *BENDS)
    names = [name for name in ("ra", "dec", "epoch_mjd", *WINDOW, *motions) if name in table.column_names]
    rows = from_arrow(table.select(names))
    vectors = to_vectors(values(rows, "ra"), values(rows, "dec"))
    centers = np.add.reduceat(vectors, starts)
    lengths = np.linalg.norm(centers, axis=1, keepdims=True)
    # The mean of sources all around the sky vanishes; any direction serves as their centre.
    centers = np.where(lengths > 1e-6, centers / np.maximum(lengths, 1e-6), [0.0, 0.0, 1.0]).round(9)
    gaps = np.linalg.norm(vectors - np.repeat(centers, counts, axis=0), axis=1)
    radii = 2 * np.arcsin(np.minimum(np.maximum.reduceat(gaps, starts) / 2, 1))
    moves, epochs, rates = is_moving(rows), values(rows, "epoch_mjd"), np.abs(angular_rates(rows)).sum(axis=1)
    strays = _strays(rows, rates, epochs)
    # Where the window of time says how far a source comes, the times of the images do not matter.
    moves &= np.isnan(strays)
    speeds = np.maximum.reduceat(np.where(moves, rates, 0.0), starts)
    known = np.column_stack(
        [
            np.minimum.reduceat(np.where(moves, epochs, np.inf), starts),
            np.maximum.reduceat(np.where(moves, epochs, -np.inf), starts),
        ]
    )
    found = {
        "moving": np.add.reduceat(moves.astype(np.int64), starts).tolist(),
        "center": centers.tolist(),
        # Rounded up by more than the rounding error of the centre.
        "radius": (radii + 5e-9).round(9).tolist(),
        "speed": speeds.tolist(),
        "epochs": [[t if np.isfinite(t) else None for t in pair] for pair in known.tolist()],
    }
    if set(names) & {"parallax", *BENDS, *WINDOW}:
        far = excursions(rows)
        strays = np.nan_to_num(strays) + (np.radians(far / 3600) if len(far) else 0.0)
        found["stray"] = np.maximum.reduceat(strays, starts).tolist()
    return found


def _strays(rows: QTable, rates: NDArray[np.float64], epochs: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far each source comes within its window of time, radians; NaN where the window or the epoch is open."""
    windows = windows_of(rows)
    if not len(windows):
        return np.full(len(rows), np.nan)
    return np.asarray(rates * np.abs(windows - epochs[:, None]).max(axis=1))
