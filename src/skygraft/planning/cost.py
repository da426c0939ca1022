"""What the images of a plan cost: bytes, files, processor time, memory and disk, from the columns of the plan."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from skygraft.records.plan_file import Plan

__all__ = ["Cost", "FreeSpace", "estimate_cost", "free_space", "loops_are_compiled", "with_start"]

_COLUMNS = ("format", "n_bytes", "n_sources", "cost_seconds", "nx", "ny", "tract", "patch")

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
_START_SECONDS = 10.0
"""For the driver and its workers to start and to import everything: 8 s of processor time each where nothing waits."""
_COMPILE_SECONDS = 60.0
"""Where nothing is on disk each worker compiles for itself: 20 s of processor time for stars, a minute for all."""
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
    n_patches : int
        Their home patches.
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
    start_seconds, compile_seconds : float
        Before the first image: for processes to start, and for loops to be compiled, where they are not yet. The wait
        in the queue of a batch system cannot be told.
    """

    n_images: int = 0
    n_sources: int = 0
    n_patches: int = 0
    read_bytes: int = 0
    image_bytes: int = 0
    table_bytes: int = 0
    n_files: int = 0
    cpu_seconds: float = 0.0
    longest_seconds: float = 0.0
    memory_bytes: int = 0
    largest_bytes: int = 0
    start_seconds: float = 0.0
    compile_seconds: float = 0.0

    def wall_seconds(self, n_workers: int) -> float:
        """Time that `n_workers` workers take, if none waits: never less than to start and the longest image do."""
        work = max(self.cpu_seconds / max(1, n_workers), self.longest_seconds)
        return self.start_seconds + self.compile_seconds + work

    def disk_bytes(self, n_workers: int) -> int:
        """Disk that is needed: what is written, and what lies beside it while each worker writes an image."""
        return self.image_bytes + self.table_bytes + min(n_workers, self.n_images) * self.largest_bytes


def estimate_cost(
    plan: Plan, to_make: NDArray[np.bool_] | None = None, files: Mapping[str, float] | None = None
) -> Cost:
    """Add up what the images of a plan cost.

    Parameters
    ----------
    plan : Plan
        The plan, of N images.
    to_make : ndarray of bool, shape (N,), optional
        Which of the images count; by default all.
    files : mapping, optional
        Mean number of files that are written for an image, by format, where that is known.

    Returns
    -------
    Cost
    """
    per_format = {**_FILES, **(files or {})}
    n, rows, read_bytes, image_bytes, n_files, seconds = 0, 0, 0, 0.0, 0.0, 0.0
    longest, largest, most_pixels = 0.0, 0.0, 0.0
    patches: set[int] = set()
    start = 0
    for batch in plan.batches(_COLUMNS):
        chosen = slice(None) if to_make is None else to_make[start : start + batch.num_rows]
        start += batch.num_rows
        column = {name: batch[name].to_numpy()[chosen] for name in _COLUMNS if name != "format"}
        if not len(column["nx"]):
            continue
        formats = batch["format"].dictionary_encode()
        names, which = formats.dictionary.to_pylist(), formats.indices.to_numpy()[chosen]
        pixels = column["nx"].astype(float) * column["ny"]
        written = _written(column["n_bytes"], column["n_sources"], pixels, names, which)
        n += len(pixels)
        rows += int(column["n_sources"].sum())
        read_bytes += int(column["n_bytes"].sum())
        image_bytes += float(written.sum())
        n_files += float(_of_format(per_format, names, which).sum())
        seconds += float(column["cost_seconds"].sum())
        longest = max(longest, float(column["cost_seconds"].max()))
        largest = max(largest, float(written.max()))
        most_pixels = max(most_pixels, float(pixels.max()))
        patches.update(np.unique((column["tract"] << 32) + column["patch"]).tolist())
    if not n:
        return Cost()
    tables = n * (_RECORD_BYTES + _TRUTH_BYTES) + len(patches) * _TRUTH_BYTES + 2 * rows * _TRUTH_ROW_BYTES
    return Cost(
        n_images=n,
        n_sources=rows,
        n_patches=len(patches),
        read_bytes=read_bytes,
        image_bytes=round(image_bytes),
        table_bytes=round(tables),
        n_files=math.ceil(n_files) + 2 * n + len(patches),
        cpu_seconds=seconds,
        longest_seconds=longest,
        memory_bytes=round(_PROCESS_BYTES + _COPIES * _PLANES_BYTES * most_pixels),
        largest_bytes=round(largest),
    )


def _of_format(values: Mapping[str, float], names: Sequence[str], which: NDArray[np.int32]) -> NDArray[np.float64]:
    """A number for each image by its format; the largest for one that is not known."""
    worst = max(values.values())
    spread: NDArray[np.float64] = np.array([values.get(name, worst) for name in names], dtype=np.float64)[which]
    return spread


def _written(
    n_bytes: NDArray[np.int64],
    n_sources: NDArray[np.int64],
    pixels: NDArray[np.float64],
    names: Sequence[str],
    which: NDArray[np.int32],
) -> NDArray[np.float64]:
    """Bytes that are written of images."""
    spare = np.maximum(0.0, _PLANES_BYTES * pixels - n_bytes)
    growth = np.minimum(n_sources * _of_format(_SOURCE_BYTES, names, which), spare)
    mask = np.where(n_sources > 0, pixels * _of_format(_MASK_PIXEL_BYTES, names, which), 0.0)
    return n_bytes.astype(np.float64) + growth + mask


def with_start(cost: Cost) -> Cost:
    """A cost with what a run takes before its first image, on a machine like this one."""
    if not cost.n_images:
        return cost
    compiling = 0.0 if loops_are_compiled() else _COMPILE_SECONDS
    return replace(cost, start_seconds=_START_SECONDS, compile_seconds=compiling)


def loops_are_compiled() -> bool:
    """Whether the loops that draw lie compiled on disk, for this version of them and this processor."""
    from skygraft.render import stars

    files = [getattr(getattr(value, "_cache", None), "_cache_file", None) for value in vars(stars).values()]
    try:
        # The index that numba keeps beside them; empty also where it is of another version.
        return any(file is not None and file._load_index() for file in files)
    except (AttributeError, OSError):
        return False


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
        left = os.statvfs(there)
        # Some file systems (btrfs, network ones) say 0 of 0.
        return FreeSpace(left.f_bavail * left.f_frsize, left.f_favail if left.f_files else None)
    except OSError:
        return None
