"""Compare what a ledger says of the files of finished images with the files that are there."""

from __future__ import annotations

import itertools
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import fs

from skygraft.catalog.arrow_arrays import arrow_array, numpy_array
from skygraft.place_names import STUBS_KIND, as_kind, is_copy
from skygraft.places import beneath, refresh
from skygraft.records.ledger_scan import ANY_TIME
from skygraft.records.packs import stat_packed

__all__ = ["Comparison", "stat_files"]

_THREADS = 16
"""More than there are cores: on a file system that is far away nearly all of the time is waiting."""
_FILES_AT_ONCE = 500

_LOCAL = fs.LocalFileSystem()


@dataclass(frozen=True)
class Comparison:
    """What a finished image is compared with; use it in a ``with`` statement.

    Parameters
    ----------
    output : str
        The campaign's output folder.
    root : str
        The survey's root, which names of inputs are relative to; empty to compare outputs only.
    settings : int
        `fingerprint_key` of the settings.
    code : int
        `skygraft.records.image_record.PIXEL_VERSION`.
    """

    output: str
    root: str = ""
    settings: int = 0
    code: int = 0

    @property
    def with_inputs(self) -> bool:
        """True if inputs, settings and code are compared too."""
        return bool(self.root)

    def __enter__(self) -> Self:
        object.__setattr__(self, "_pool", ThreadPoolExecutor(_THREADS))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)  # type: ignore[attr-defined]

    def agrees(self, images: pa.RecordBatch) -> NDArray[np.bool_]:
        """Find which images are done and have all files as the ledger says, by size and time of last change.

        Parameters
        ----------
        images : pyarrow.RecordBatch
            N rows with the columns `skygraft.records.ledger_scan.FILE_COLUMNS`.

        Returns
        -------
        ndarray of bool, shape (N,)
        """
        lists = images.column("names")
        counts = np.diff(numpy_array(lists.offsets))
        n_inputs = numpy_array(images.column("n_inputs"))
        agrees: NDArray[np.bool_] = (n_inputs > 0) & (counts > n_inputs)
        if self.with_inputs:
            agrees &= numpy_array(images.column("settings")) == self.settings
            agrees &= numpy_array(images.column("code")) == self.code
        image = np.repeat(np.arange(len(images)), counts)
        is_input = np.arange(len(image)) - np.repeat(np.cumsum(counts) - counts, counts) < n_inputs[image]
        wanted = np.flatnonzero(agrees[image] & (self.with_inputs | ~is_input))
        names = lists.flatten().take(arrow_array(wanted)).to_pylist()
        folders = [self.root if inside else self.output for inside in is_input[wanted].tolist()]
        paths = [name if name[:1] == "/" else f"{folder}/{name}" for folder, name in zip(folders, names, strict=True)]
        if is_copy(f"{self.root}/") or any("://" in name for name in names):
            paths = [
                os.fspath(beneath(Path(folder), name)) if "://" in name else path
                for folder, name, path in zip(folders, names, paths, strict=True)
            ]
            refresh(path for path, inside in zip(paths, is_input[wanted].tolist(), strict=True) if inside)
        found = stat_files(paths, self._pool)  # type: ignore[attr-defined]
        missing = np.flatnonzero((found[:, 0] < 0) & ~is_input[wanted])
        if missing.size:
            found[missing] = stat_packed([paths[i] for i in missing.tolist()])
            if is_copy(self.output):  # published, and not kept here
                missing = missing[found[missing, 0] < 0]
                stubs = [os.fspath(as_kind(paths[i], STUBS_KIND)) for i in missing.tolist()]
                found[missing] = stat_files(stubs, self._pool)  # type: ignore[attr-defined]
        sizes, times = (numpy_array(images.column(name).flatten())[wanted] for name in ("sizes", "times"))
        same = (found[:, 0] == sizes) & ((found[:, 1] == times) | (times == ANY_TIME)) & (found[:, 0] >= 0)
        agrees[image[wanted[~same]]] = False
        return agrees


def stat_files(paths: list[str], pool: ThreadPoolExecutor) -> NDArray[np.int64]:
    """Sizes in bytes and times of last change in ns of many files; -1 where there is no such file.

    Parameters
    ----------
    paths : list of str
        N absolute paths.
    pool : ThreadPoolExecutor
        Looks at several hundred of them at a time in each thread.

    Returns
    -------
    ndarray of int64, shape (N, 2)
    """
    parts = [*pool.map(_stat_part, itertools.batched(paths, _FILES_AT_ONCE))]
    return np.concatenate([np.empty((0, 2), np.int64), *parts])


def _stat_part(paths: tuple[str, ...]) -> NDArray[np.int64]:
    try:
        # A loop in C++ without Python's lock, which os.stat takes and gives back for every file.
        found = _LOCAL.get_file_info(list(paths))
    except (OSError, ValueError, pa.ArrowException):
        # One file that cannot be looked at fails them all.
        return np.array([_stat_one(path) for path in paths], dtype=np.int64)
    values = [
        (file.size, file.mtime_ns) if file.is_file else _stat_one(path) for path, file in zip(paths, found, strict=True)
    ]
    return np.array(values, dtype=np.int64)


def _stat_one(path: str) -> tuple[int, int]:
    try:
        status = os.stat(path)  # noqa: PTH116
    except (OSError, ValueError):
        return -1, -1
    return status.st_size, status.st_mtime_ns
