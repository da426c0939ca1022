"""Estimates of what the images of a plan cost: bytes, files, processor time, memory and disk."""

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

# Measured on every kind of image of the reference data. Unchanged planes are written as the bytes that were read;
# compressed ones grow where sources are added (a quantised tile may double), at most to their uncompressed size.
_SOURCE_BYTES = {"lsst_afw": 4000.0, "legacy_survey": 500.0, "fits": 200.0}
_MASK_PIXEL_BYTES = {"lsst_afw": 0.0, "legacy_survey": 0.5, "fits": 0.08}
"""Bytes per pixel of a compressed mask of the injected sources, in formats that may have to add one."""
_FILES = {"lsst_afw": 1.0, "legacy_survey": 4.0, "fits": 3.0}
"""Files written for an image, if none was checked."""
_PLANES_BYTES = 12
"""Bytes of image, variance and mask per pixel."""
_RECORD_BYTES = 5000.0
_TRUTH_BYTES, _TRUTH_ROW_BYTES = 8000.0, 110.0
"""Bytes of an image's truth table, and of each of its rows; rows are written again in the patch's table."""
_PROCESS_BYTES = 350e6
"""Memory of a worker before it reads an image."""
_START_SECONDS = 10.0
"""Time for driver and workers to start; importing takes each about 8 s of processor time."""
_COMPILE_SECONDS = 60.0
"""Where nothing is on disk each worker compiles for itself: 20 s of processor time for stars, a minute for all."""
_SOURCE_MEMORY, _SOURCES = 280.0, 100_000
"""Bytes of a source of an image in memory (its row of the catalogue, its place, its row of the truth), beyond the first
so many, which take less than importing does."""
_COPIES = 4
"""Copies of the planes of an image in memory during injection."""


@dataclass(frozen=True)
class Cost:
    """The estimated cost of some images.

    Parameters
    ----------
    n_images : int
        The images.
    n_sources : int
        Sources to draw (an upper bound: some will not reach their image).
    n_patches : int
        Their home patches.
    read_bytes, image_bytes, table_bytes : int
        Bytes to read; to write as images; to write as truth tables and records.
    n_files : int
        Files to write.
    cpu_seconds : float
        Processor time of all images.
    longest_seconds : float
        Processor time of the image that takes longest.
    memory_bytes : int
        Memory of a worker for each image that it works on at a time; 0 if there are no images.
    largest_bytes : int
        Size of the largest output image.
    start_seconds, compile_seconds : float
        Time before the first image: to start processes, and to compile loops if they are not compiled yet. The wait in
        the queue of a batch system is not included.
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
        """Wall time with `n_workers` workers, at least the time to start and the longest image."""
        work = max(self.cpu_seconds / max(1, n_workers), self.longest_seconds)
        return self.start_seconds + self.compile_seconds + work

    def disk_bytes(self, n_workers: int) -> int:
        """Disk needed: everything that is written, and a temporary image for each worker."""
        return self.image_bytes + self.table_bytes + min(n_workers, self.n_images) * self.largest_bytes


def estimate_cost(
    plan: Plan, to_make: NDArray[np.bool_] | None = None, files: Mapping[str, float] | None = None
) -> Cost:
    """Estimate the cost of the images of a plan.

    Parameters
    ----------
    plan : Plan
        The plan, of N images.
    to_make : ndarray of bool, shape (N,), optional
        The images to count; by default all.
    files : mapping, optional
        Mean number of files written for an image, by format, if known.

    Returns
    -------
    Cost
    """
    per_format = {**_FILES, **(files or {})}
    n, rows, read_bytes, image_bytes, n_files, seconds = 0, 0, 0, 0.0, 0.0, 0.0
    longest, largest, most_memory = 0.0, 0.0, 0.0
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
        memory = _COPIES * _PLANES_BYTES * pixels + _SOURCE_MEMORY * np.maximum(column["n_sources"] - _SOURCES, 0)
        most_memory = max(most_memory, float(memory.max()))
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
        memory_bytes=round(_PROCESS_BYTES + most_memory),
        largest_bytes=round(largest),
    )


def _of_format(values: Mapping[str, float], names: Sequence[str], which: NDArray[np.int32]) -> NDArray[np.float64]:
    """The value of each image's format; the largest value for an unknown format."""
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
    """Sizes of output images, bytes."""
    spare = np.maximum(0.0, _PLANES_BYTES * pixels - n_bytes)
    growth = np.minimum(n_sources * _of_format(_SOURCE_BYTES, names, which), spare)
    mask = np.where(n_sources > 0, pixels * _of_format(_MASK_PIXEL_BYTES, names, which), 0.0)
    return n_bytes.astype(np.float64) + growth + mask


def with_start(cost: Cost) -> Cost:
    """The cost with the time before the first image added, on a machine like this one."""
    if not cost.n_images:
        return cost
    compiling = 0.0 if loops_are_compiled() else _COMPILE_SECONDS
    return replace(cost, start_seconds=_START_SECONDS, compile_seconds=compiling)


def loops_are_compiled() -> bool:
    """Whether the drawing loops are compiled and cached on disk, for this version and this processor."""
    from skygraft.render import stars

    files = [getattr(getattr(value, "_cache", None), "_cache_file", None) for value in vars(stars).values()]
    try:
        # The index that numba keeps beside them; empty also where it is of another version.
        return any(file is not None and file._load_index() for file in files)
    except (AttributeError, OSError):
        return False


@dataclass(frozen=True)
class FreeSpace:
    """The free space of a file system for this user.

    Parameters
    ----------
    n_bytes : int
        Free bytes.
    n_files : int or None
        Files that can still be created; None if there is no limit.
    """

    n_bytes: int
    n_files: int | None


def free_space(folder: Path) -> FreeSpace | None:
    """The free space of the file system of a folder, which need not exist; None if it cannot be determined."""
    there = next((path for path in (folder, *folder.parents) if path.is_dir()), None)
    if there is None:
        return None
    try:
        left = os.statvfs(there)
        # Some file systems (btrfs, network ones) say 0 of 0.
        return FreeSpace(left.f_bavail * left.f_frsize, left.f_favail if left.f_files else None)
    except OSError:
        return None
