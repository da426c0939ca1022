"""Compare what a ledger says of the files of finished images with the files that are there."""

from __future__ import annotations

import contextlib
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

from skygraft.catalog.arrow_arrays import list_members, numpy_array, texts_at
from skygraft.place_names import STUBS_KIND, as_kind, is_copy
from skygraft.places import beneath, refresh
from skygraft.records.known_packs import can_look_up, from_ends
from skygraft.records.ledger_scan import ANY_TIME
from skygraft.records.packs import stat_packed

__all__ = ["Comparison", "stat_files"]

_THREADS = 16
"""More than there are cores: on a file system that is far away nearly all of the time is waiting."""
_FILES_AT_ONCE = 500
_LOOKED_UP_AT_ONCE = 2500
_MANY = 300_000
"""Images from which on it pays to load compiled loops, half a second."""

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
    n_images : int
        How many there are, about: of many, files are looked at by compiled loops.
    """

    output: str
    root: str = ""
    settings: int = 0
    code: int = 0
    n_images: int = 0

    @property
    def with_inputs(self) -> bool:
        """True if inputs, settings and code are compared too."""
        return bool(self.root)

    def __enter__(self) -> Self:
        object.__setattr__(self, "_pool", ThreadPoolExecutor(_THREADS))
        object.__setattr__(self, "_descriptors", self._open_folders() if self.n_images >= _MANY else ())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)  # type: ignore[attr-defined]
        for descriptor in {*self._descriptors}:  # type: ignore[attr-defined]
            os.close(descriptor)

    def _open_folders(self) -> tuple[int, ...]:
        """Descriptors of the folders that names are relative to; none where compiled loops cannot find the files."""
        folders = [self.root or self.output, self.output]
        if not can_look_up() or any(is_copy(f"{folder}/") for folder in folders):
            return ()
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            found = []
            for folder in folders:
                found.append(os.open(folder, os.O_PATH | os.O_CLOEXEC))
                stack.callback(os.close, found[-1])
            stack.pop_all()
            return tuple(found)
        return ()

    def agrees(self, images: pa.RecordBatch, packed: NDArray[np.uint8] | None = None) -> NDArray[np.bool_]:
        """Find which images are done and have all files as the ledger says, by size and time of last change.

        Parameters
        ----------
        images : pyarrow.RecordBatch
            N rows with the columns `skygraft.records.ledger_scan.FILE_COLUMNS`.
        packed : ndarray of uint8, shape (N,), optional
            Files that are known to be as the ledger says, see `skygraft.records.known_packs.KnownTable.holds`.

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
        looked_at = agrees[image] & (self.with_inputs | ~is_input)
        if packed is not None:
            from_end = from_ends(counts)
            looked_at &= (from_end > 7) | ((packed[image] >> np.minimum(from_end, 7)) & 1 == 0)
        wanted = np.flatnonzero(looked_at)
        sizes, times = (numpy_array(list_members(images.column(name)))[wanted] for name in ("sizes", "times"))
        inside = is_input[wanted]
        if self._descriptors:  # type: ignore[attr-defined]
            found = self._look_up(list_members(lists), wanted, inside)
            rest = np.flatnonzero(found[:, 0] < 0)  # what is not there may be in a pack, or in a store
            found[rest] = self._find(texts_at(list_members(lists), wanted[rest]), inside[rest])
        else:
            found = self._find(texts_at(list_members(lists), wanted), inside)
        same = (found[:, 0] == sizes) & ((found[:, 1] == times) | (times == ANY_TIME)) & (found[:, 0] >= 0)
        agrees[image[wanted[~same]]] = False
        return agrees

    def _look_up(
        self,
        names: pa.StringArray,
        wanted: NDArray[np.int64],
        is_input: NDArray[np.bool_],
    ) -> NDArray[np.int64]:
        """Sizes and times of some files of a list of names, as `stat_files`."""
        from skygraft.records.file_loops import look_up

        _, offsets, content = names.buffers()
        places = np.frombuffer(offsets, np.int32, names.offset + len(names) + 1)[names.offset :].astype(np.int64)
        letters = np.frombuffer(content, np.uint8) if content is not None else np.empty(0, np.uint8)
        root, output = self._descriptors  # type: ignore[attr-defined]
        folders = np.where(is_input, root, output)

        def look(some: slice) -> NDArray[np.int64]:
            found: NDArray[np.int64] = look_up(letters, places, wanted[some], folders[some])
            return found

        parts = [slice(at, at + _LOOKED_UP_AT_ONCE) for at in range(0, len(wanted), _LOOKED_UP_AT_ONCE)]
        return np.concatenate([np.empty((0, 2), np.int64), *self._pool.map(look, parts)])  # type: ignore[attr-defined]

    def _find(self, names: list[str], is_input: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Sizes and times of files, single, packed or in a store, as `stat_files`."""
        folders = [self.root if inside else self.output for inside in is_input.tolist()]
        paths = [name if name[:1] == "/" else f"{folder}/{name}" for folder, name in zip(folders, names, strict=True)]
        if is_copy(f"{self.root}/") or "://" in "\0".join(names):
            paths = [
                os.fspath(beneath(Path(folder), name)) if "://" in name else path
                for folder, name, path in zip(folders, names, paths, strict=True)
            ]
            refresh(path for path, inside in zip(paths, is_input.tolist(), strict=True) if inside)
        found = stat_files(paths, self._pool)  # type: ignore[attr-defined]
        missing = np.flatnonzero((found[:, 0] < 0) & ~is_input)
        if missing.size:
            found[missing] = stat_packed([paths[i] for i in missing.tolist()])
            if is_copy(self.output):  # published, and not kept here
                missing = missing[found[missing, 0] < 0]
                stubs = [os.fspath(as_kind(paths[i], STUBS_KIND)) for i in missing.tolist()]
                found[missing] = stat_files(stubs, self._pool)  # type: ignore[attr-defined]
        return found


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
    # Only files have a size. Whether it is a file takes Arrow as long to say as to look at it.
    sizes = [file.size for file in found]
    values = [
        (size, file.mtime_ns) if size is not None else _stat_one(path)
        for path, file, size in zip(paths, found, sizes, strict=True)
    ]
    return np.array(values, dtype=np.int64)


def _stat_one(path: str) -> tuple[int, int]:
    try:
        status = os.stat(path)  # noqa: PTH116
    except (OSError, ValueError):
        return -1, -1
    return status.st_size, status.st_mtime_ns
