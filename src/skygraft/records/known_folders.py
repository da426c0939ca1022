"""What is known of the folders of a campaign's images: that all of them are there, in one small file.

A folder's time changes when a file comes, goes or is replaced, and not when one is written to. So a look at each folder
tells what is missing, where a look at each of a million files takes ten times as long, and more on a file system that
is far away. The last checkpoint of a run leaves the file behind; without it, the files are looked at.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from skygraft.catalog.arrow_arrays import arrow_array, list_members, numpy_array, texts_at
from skygraft.disk import atomic_path
from skygraft.errors import OutputError
from skygraft.records.checkpoint import CheckpointHeader
from skygraft.records.files import Layout, digest
from skygraft.records.known_packs import from_ends
from skygraft.records.ledger_scan import DONE
from skygraft.records.packs import single_names

__all__ = ["FolderCensus", "are_current", "is_worth_it", "rows_in_folders"]

_MANY = 300_000
"""Images of a campaign from which on a glance is at folders instead of files."""

_SCHEMA = pa.schema(
    [("folders", pa.list_(pa.string())), ("times", pa.list_(pa.int64())), ("rows", pa.list_(pa.int32()))]
)
_OF, _SHA256 = b"of", b"sha256"
_SETTLED_NS = 2_000_000_000
"""A folder that changed less than this before it was listed could change again within one tick of the clock."""
_UNSETTLED, _INCOMPLETE = -1, -2
"""Instead of the time of a folder that changed just now, and of one in which a file is missing."""


def is_worth_it(n_images: int) -> bool:
    """True if a campaign has so many images that their folders are looked at instead, where that is enough."""
    return n_images >= _MANY


class FolderCensus:
    """Finds out which images have all their files in a pack and one folder, and whether those are all there.

    It keeps 16 bytes an image.

    Parameters
    ----------
    n_images : int
        Images of the plan.
    """

    def __init__(self, n_images: int) -> None:
        self._folders: dict[str, int] = {}
        self._rows = np.full(n_images, -1, dtype=np.int32)
        self._found: list[tuple[NDArray[np.int32], NDArray[np.int64]]] = []

    def add(self, images: pa.RecordBatch) -> None:
        """Add rows of a checkpoint, of `skygraft.records.checkpoint.CHECKPOINT_SCHEMA`."""
        lists = images.column("names")
        counts, n_inputs = np.diff(numpy_array(lists.offsets)), numpy_array(images.column("n_inputs"))
        packed = numpy_array(images.column("packed"))
        usable = (numpy_array(images.column("state")) == DONE) & (n_inputs > 0) & (counts > n_inputs) & (packed > 0)
        image, from_end = np.repeat(np.arange(len(images)), counts), from_ends(counts)
        single = usable[image] & (from_end < (counts - n_inputs)[image])
        single &= (from_end > 7) | ((packed[image] >> np.minimum(from_end, 7)) & 1 == 0)
        image = image[single]
        if not len(image):
            return
        parts = [text.rpartition("/") for text in texts_at(list_members(lists), np.flatnonzero(single))]
        known = self._folders
        folders = np.array([known.setdefault(folder, len(known)) for folder, _, _ in parts], dtype=np.int32)
        self._found.append((folders, np.array([hash(name) for *_, name in parts], dtype=np.int64)))
        of_image = np.full(len(images), -1, dtype=np.int32)
        of_image[image] = folders
        of_image[image[folders != of_image[image]]] = -1  # in more than one
        self._rows[numpy_array(images.column("row"))] = of_image

    def write(self, layout: Layout, header: CheckpointHeader) -> None:
        """List the folders, and write what is known of them, beside the checkpoint with that header."""
        if not self._found:
            return
        folders, names = map(np.concatenate, zip(*self._found, strict=True))
        order = np.argsort(folders, kind="stable")
        ends = np.cumsum(np.bincount(folders, minlength=len(self._folders)))
        names, start = names[order], 0
        times = np.empty(len(self._folders), dtype=np.int64)
        for (folder, i), end in zip(self._folders.items(), ends.tolist(), strict=True):
            times[i] = _time_if_complete(f"{layout.root}/{folder}", names[start:end].tolist())
            start = end
        lists = [pa.array([*self._folders], pa.string()), arrow_array(times), arrow_array(self._rows)]
        arrays = [pa.ListArray.from_arrays(pa.array([0, len(one)], pa.int32()), one) for one in lists]
        batch = pa.RecordBatch.from_arrays(arrays, schema=_SCHEMA)
        schema = _SCHEMA.with_metadata({_OF: digest(asdict(header)), _SHA256: _sha256(batch)})
        with (
            contextlib.suppress(OutputError),  # which only costs time later
            atomic_path(_path(layout), sync=False) as temporary,
            pa.OSFile(str(temporary), "wb") as sink,
            pa.ipc.new_file(sink, schema) as writer,
        ):
            writer.write_batch(batch.replace_schema_metadata(schema.metadata))


def _time_if_complete(folder: str, names: list[int]) -> int:
    """Time of last change of a folder, ns, if it holds files of all these names, given by their hashes."""
    with contextlib.suppress(OSError):
        time_ns = _time_of(folder)
        if time_ns > time.time_ns() - _SETTLED_NS:
            return _UNSETTLED
        if {hash(name) for name in single_names(folder)}.issuperset(names):
            return time_ns
    return _INCOMPLETE


def _time_of(folder: str) -> int:
    return os.stat(folder).st_mtime_ns  # noqa: PTH116


def rows_in_folders(layout: Layout, header: CheckpointHeader) -> NDArray[np.bool_] | None:
    """Find the images that the folders still hold, as far as a look at the folders tells.

    Parameters
    ----------
    layout : Layout
        The campaign's files.
    header : CheckpointHeader
        Of the checkpoint.

    Returns
    -------
    ndarray of bool, shape (N,), or None
        True where the folder is as it was when all files of the image that are in no pack were in it. None where
        nothing is known of that checkpoint.
    """
    if (known := _read(layout, header)) is None:
        return None
    folders, times, rows = known
    same = np.zeros(len(times) + 1, dtype=np.bool_)  # the last for images in no folder
    for i, (folder, time_ns) in enumerate(zip(folders, times.tolist(), strict=True)):
        with contextlib.suppress(OSError):
            same[i] = time_ns >= 0 and _time_of(f"{layout.root}/{folder}") == time_ns
    return same[rows]


def are_current(layout: Layout, header: CheckpointHeader) -> bool:
    """True if what is known of the folders need not be found out again: it is of that checkpoint, and none changed."""
    known = _read(layout, header)
    with contextlib.suppress(OSError):
        return known is not None and all(
            time_ns == _INCOMPLETE or _time_of(f"{layout.root}/{folder}") == time_ns
            for folder, time_ns in zip(known[0], known[1].tolist(), strict=True)
        )
    return False


def _read(layout: Layout, header: CheckpointHeader) -> tuple[list[str], NDArray[np.int64], NDArray[np.int32]] | None:
    """Folders, their times, and the folder of each image; None where nothing is known, or the file is damaged."""
    try:
        with pa.memory_map(str(_path(layout))) as source, pa.ipc.open_file(source) as reader:
            metadata, batch = reader.schema.metadata or {}, reader.get_batch(0)
            if not reader.schema.equals(_SCHEMA) or metadata.get(_OF) != digest(asdict(header)).encode():
                return None
            folders, times, rows = (list_members(column) for column in batch.columns)
            if metadata.get(_SHA256) != _sha256(batch) or len(rows) != header.n_images:
                return None
            return folders.to_pylist(), numpy_array(times), numpy_array(rows)
    except (OSError, pa.ArrowException, ValueError, LookupError):
        return None


def _sha256(batch: pa.RecordBatch) -> bytes:
    sha = hashlib.sha256()
    folders, times, rows = (list_members(column) for column in batch.columns)
    sha.update("\n".join(folders.to_pylist()).encode())
    sha.update(numpy_array(times))
    sha.update(numpy_array(rows))
    return sha.hexdigest().encode()


def _path(layout: Layout) -> Path:
    return layout.consolidated / "folders.arrow"
