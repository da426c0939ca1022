"""Where the sources of partitions lie, and how far they move: what the planner finds partitions by."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from skygraft.catalog.arrow import from_arrow
from skygraft.catalog.schema import MOTION, values
from skygraft.catalog.select import angular_rates, is_moving
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
    names = [name for name in ("ra", "dec", "epoch_mjd", *MOTION) if name in table.column_names]
    rows = from_arrow(table.select(names))
    vectors = to_vectors(values(rows, "ra"), values(rows, "dec"))
    centers = np.add.reduceat(vectors, starts)
    lengths = np.linalg.norm(centers, axis=1, keepdims=True)
    # The mean of sources all around the sky vanishes; any direction serves as their centre.
    centers = np.where(lengths > 1e-6, centers / np.maximum(lengths, 1e-6), [0.0, 0.0, 1.0]).round(9)
    gaps = np.linalg.norm(vectors - np.repeat(centers, counts, axis=0), axis=1)
    radii = 2 * np.arcsin(np.minimum(np.maximum.reduceat(gaps, starts) / 2, 1))
    moves, epochs = is_moving(rows), values(rows, "epoch_mjd")
    speeds = np.maximum.reduceat(np.abs(angular_rates(rows)).sum(axis=1), starts)
    known = np.column_stack(
        [
            np.minimum.reduceat(np.where(moves, epochs, np.inf), starts),
            np.maximum.reduceat(np.where(moves, epochs, -np.inf), starts),
        ]
    )
    return {
        "moving": np.add.reduceat(moves.astype(np.int64), starts).tolist(),
        "center": centers.tolist(),
        # Rounded up by more than the rounding error of the centre.
        "radius": (radii + 5e-9).round(9).tolist(),
        "speed": speeds.tolist(),
        "epochs": [[t if np.isfinite(t) else None for t in pair] for pair in known.tolist()],
    }
