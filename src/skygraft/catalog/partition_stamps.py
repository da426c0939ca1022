"""What partitions remember of the files that stamps are in: pixels depend on these as well as on the catalogue.

A column of partitions, `skygraft.catalog.stamp_paths.IDENTITY`, is a fingerprint of the state of the files of each row,
and becomes part of the content key of every image that the row is on. Catalogues without stamps have no such column.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from astropy.table import QTable

from skygraft.catalog.arrow import from_arrow
from skygraft.catalog.arrow_arrays import arrow_array, numpy_array, one_array
from skygraft.catalog.partition_read import part_path, partition_bounds, read_partition
from skygraft.catalog.schema import is_mag_column
from skygraft.catalog.stamp_paths import IDENTITY, StampAddress, stamp_identities

__all__ = ["stamps_changed", "with_identities", "with_identities_now"]


def with_identities(chunk: QTable, known: dict[StampAddress, int]) -> QTable:
    """Return rows of a catalogue with the state of their stamps' files, or as they are if they have no stamps.

    Parameters
    ----------
    chunk : QTable
        Canonical columns.
    known : dict
        Files that were looked at before; new ones are added.
    """
    found = stamp_identities(chunk, known=known)
    if found is None:
        return chunk
    out = chunk.copy(copy_data=False)
    out[IDENTITY] = found
    return out


def with_identities_now(rows: pa.Table) -> pa.Table:
    """Return rows of partitions with the state that their stamps' files have now."""
    if IDENTITY not in rows.column_names:
        return rows
    found = _identities(rows, {})
    return rows.set_column(rows.column_names.index(IDENTITY), rows.schema.field(IDENTITY), arrow_array(found))


def stamps_changed(out: Path) -> bool:
    """Return whether a file of a stamp is not what it was when a catalogue was partitioned.

    Parameters
    ----------
    out : Path
        The data set, finished.
    """
    known: dict[StampAddress, int] = {}
    columns: list[str] | None = None
    for key in partition_bounds(out).keys:
        if columns is None:
            names = pq.read_schema(part_path(out, key)).names
            if IDENTITY not in names:
                return "stamp" in names  # of a version that did not look at the files
            columns = [name for name in names if name.startswith("stamp") or is_mag_column(name)]
        rows = read_partition(out, key, columns)
        if not np.array_equal(_identities(rows, known), numpy_array(one_array(rows.column(IDENTITY)))):
            return True
    return False


def _identities(rows: pa.Table, known: dict[StampAddress, int]) -> Any:
    names = [name for name in rows.column_names if name.startswith("stamp") or is_mag_column(name)]
    return stamp_identities(from_arrow(rows.select(names)), known=known)
