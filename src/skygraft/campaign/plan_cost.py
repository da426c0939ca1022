"""What the images of a plan cost: bytes, files, processor time, memory and disk, from the columns of the plan."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

__all__ = ["COST_COLUMNS", "Cost", "FreeSpace", "estimate_cost", "free_space"]

COST_COLUMNS = ("format", "n_bytes", "n_sources", "cost_seconds", "nx", "ny", "tract", "patch")
"""Columns of a plan that `estimate_cost` needs."""

# Measured on every kind of image of the reference data: untouched planes are written in the bytes that they were read
# in. What is compressed grows where sources are added (a quantised tile with a source may double), up to the size
# that it would have uncompressed.
_SOURCE_BYTES = {"lsst_afw": 4000.0, "legacy_survey": 500.0, "fits": 200.0}
_MASK_PIXEL_BYTES = {"lsst_afw": 0.0, "legacy_survey": 0.5, "fits": 0.08}
"""A losslessly compressed mask of the fakes, where the format may have to add one."""
_FILES = {"lsst_afw": 1.0, "legacy_survey": 4.0, "fits": 3.0}
"""Files of an image where none was looked at."""
_PLANES_BYTES = 12
"""Bytes of image, variance and mask for each pixel."""
_RECORD_BYTES = 5000.0
_TRUTH_BYTES, _TRUTH_ROW_BYTES = 8000.0, 110.0
"""Of an image's truth table, and of each row of it; they are written twice, the second time in its patch's table."""
_PROCESS_BYTES = 350e6
"""What a worker holds before it reads an image."""
_COPIES = 4
"""How many times the planes of an image a worker holds while it injects."""


@dataclass(frozen=True)
class Cost:
    """What some images cost.

    Parameters
    ----------
    n_images : int
        The images.
    n_sources : int
        Sources to draw (upper bound: those that turn out not to reach an image are included).
    read_bytes, image_bytes, table_bytes : int
        To read; to write as images; to write as truth tables and records.
    n_files : int
        Files that are written.
    cpu_seconds : float
        Processor time, all together.
    longest_seconds : float
        That of the one image that takes longest.
    memory_bytes : int
        What a worker needs for each image that it works on at a time; 0 for no images.
    largest_bytes : int
        Of the largest image, as it is written.
    """

    n_images: int = 0
    n_sources: int = 0
    read_bytes: int = 0
    image_bytes: int = 0
    table_bytes: int = 0
    n_files: int = 0
    cpu_seconds: float = 0.0
    longest_seconds: float = 0.0
    memory_bytes: int = 0
    largest_bytes: int = 0

    def wall_seconds(self, n_workers: int) -> float:
        """Time that `n_workers` workers take, if none waits: never less than the longest image does."""
        return max(self.cpu_seconds / max(1, n_workers), self.longest_seconds)

    def disk_bytes(self, n_workers: int) -> int:
        """Disk that is needed: what is written, and what lies beside it while each worker writes an image."""
        return self.image_bytes + self.table_bytes + min(n_workers, self.n_images) * self.largest_bytes


def estimate_cost(
    columns: pa.Table, to_make: NDArray[np.bool_] | None = None, files: Mapping[str, float] | None = None
) -> Cost:
    """Add up what images cost.

    Parameters
    ----------
    columns : pyarrow.Table
        `COST_COLUMNS` of the plan.
    to_make : ndarray of bool, optional
        Which of the images count; by default all.
    files : mapping, optional
        Mean number of files that are written for an image, by format, where that is known.

    Returns
    -------
    Cost
    """
    if to_make is not None:
        columns = columns.filter(pa.array(to_make))
    if not columns.num_rows:
        return Cost()
    number = {name: columns[name].to_numpy() for name in COST_COLUMNS if name != "format"}
    formats = columns["format"].combine_chunks().dictionary_encode()
    names, which = formats.dictionary.to_pylist(), formats.indices.to_numpy()

    def of_format(values: Mapping[str, float]) -> NDArray[np.float64]:
        worst = max(values.values())
        by_format = np.array([values.get(name, worst) for name in names], dtype=np.float64)
        spread: NDArray[np.float64] = by_format[which]
        return spread

    pixels = number["nx"].astype(float) * number["ny"]
    spare = np.maximum(0.0, _PLANES_BYTES * pixels - number["n_bytes"])
    growth = np.minimum(number["n_sources"] * of_format(_SOURCE_BYTES), spare)
    drawn = number["n_sources"] > 0
    written = number["n_bytes"] + growth + drawn * pixels * of_format(_MASK_PIXEL_BYTES)
    patches = len(np.unique((number["tract"] << 32) + number["patch"]))
    rows = int(number["n_sources"].sum())
    tables = len(pixels) * (_RECORD_BYTES + _TRUTH_BYTES) + patches * _TRUTH_BYTES + 2 * rows * _TRUTH_ROW_BYTES
    return Cost(
        n_images=len(pixels),
        n_sources=rows,
        read_bytes=int(number["n_bytes"].sum()),
        image_bytes=int(written.sum()),
        table_bytes=int(tables),
        n_files=int(np.ceil(of_format({**_FILES, **(files or {})}).sum())) + 2 * len(pixels) + patches,
        cpu_seconds=float(number["cost_seconds"].sum()),
        longest_seconds=float(number["cost_seconds"].max()),
        memory_bytes=int(_PROCESS_BYTES + _COPIES * _PLANES_BYTES * pixels.max()),
        largest_bytes=int(written.max()),
    )


@dataclass(frozen=True)
class FreeSpace:
    """What a file system has left for this user.

    Parameters
    ----------
    n_bytes : int
        Bytes.
    n_files : int or None
        Files; None where it sets no limit.
    """

    n_bytes: int
    n_files: int | None


def free_space(folder: Path) -> FreeSpace | None:
    """What is free where a folder is, or would be; None where that cannot be told."""
    there = next((path for path in (folder, *folder.parents) if path.is_dir()), None)
    if there is None:
        return None
    try:
        files = os.statvfs(there)
        # Some file systems (btrfs, network ones) say 0 of 0.
        return FreeSpace(shutil.disk_usage(there).free, files.f_favail if files.f_files else None)
    except OSError:
        return None
