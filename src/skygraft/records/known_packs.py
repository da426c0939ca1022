"""What is known of a campaign's packs: which files they hold, in one small file instead of the footers of all packs.

The tables of a campaign leave it behind, and it only saves time: of a folder that was changed since, by its time or
that of its pack, or where the file is missing or damaged, footers and files say what there is.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from skygraft.catalog.arrow_arrays import arrow_array, numpy_array
from skygraft.disk import FileIdentity, atomic_path
from skygraft.errors import OutputError
from skygraft.records.files import RECORD_SUFFIX, TRUTH_SUFFIX, Layout
from skygraft.records.packs import PACK_NAME, read_index, single_names

__all__ = ["KnownPacks", "PackedPatch", "can_look_up", "known_files", "packed_patch"]

_SCHEMA = pa.schema(
    [
        ("tract", pa.int64()),
        ("patch", pa.int64()),
        ("folder_ns", pa.int64()),
        ("pack_bytes", pa.int64()),
        ("pack_ns", pa.int64()),
        ("keys", pa.list_(pa.uint64())),
    ]
)
_SHA256 = b"sha256"
_SETTLED_NS = 2_000_000_000
"""A folder that changed less than this before it was listed could change again within one tick of the clock."""


@dataclass(frozen=True)
class PackedPatch:
    """What is known of the pack of a patch in whose folder nothing else lies.

    Parameters
    ----------
    folder_ns : int
        Time of last change of the folder, ns.
    pack_bytes, pack_ns : int
        Size and time of last change of the pack, ns.
    keys : bytes
        `skygraft.records.file_loops.file_keys` of the files in it, by their names in the campaign's output folder.
    """

    folder_ns: int
    pack_bytes: int
    pack_ns: int
    keys: bytes


def can_look_up() -> bool:
    """True where the loops of `skygraft.records.file_loops` work: on Linux, with a C library that has `statx`."""
    return sys.platform == "linux" and sys.byteorder == "little" and hasattr(ctypes.CDLL(None), "statx")


def packed_patch(layout: Layout, tract: int, patch: int, stems: Iterable[str]) -> PackedPatch | None:
    """Find what is known of a patch whose images are packed; None if anything but its pack is in its folder.

    Parameters
    ----------
    layout : Layout
        The campaign's files.
    tract, patch : int
        The patch.
    stems : iterable of str
        Its images; those that are not in the pack are left out.

    Raises
    ------
    CampaignError
        If the pack cannot be opened.
    """
    folder = layout.patch_folder(layout.records, tract, patch)
    identity, pack = FileIdentity.find(folder), FileIdentity.find(folder / PACK_NAME)
    if identity is None or pack is None or single_names(folder) != {PACK_NAME} or not can_look_up():
        return None
    index = read_index(folder / PACK_NAME)
    if index.changed:
        return None
    from skygraft.records.file_loops import file_keys  # of numba, which small campaigns do without

    inside = folder.relative_to(layout.root).as_posix()
    names = [stem + suffix for stem in stems if stem in index.groups for suffix in (RECORD_SUFFIX, TRUTH_SUFFIX)]
    states = np.array([index.files[name][:2] for name in names], dtype=np.int64).reshape(-1, 2)
    texts = [f"{inside}/{name}".encode() for name in names]
    offsets = np.cumsum([0, *map(len, texts)], dtype=np.int64)
    keys = file_keys(np.frombuffer(b"".join(texts), dtype=np.uint8), offsets, *np.ascontiguousarray(states.T))
    return PackedPatch(identity.mtime_ns, *pack.size_and_time, keys.tobytes())


class KnownPacks:
    """Collects what is known of packs, patch by patch, in memory of 16 bytes an image."""

    def __init__(self) -> None:
        self._patches: dict[tuple[int, int], PackedPatch] = {}

    def add(self, tract: int, patch: int, known: PackedPatch | None) -> None:
        """Add a patch."""
        if known is not None:
            self._patches[tract, patch] = known

    def write(self, layout: Layout) -> None:
        """Write the file, without the patches that changed only just now; it is removed if there is nothing to say."""
        latest, path = time.time_ns() - _SETTLED_NS, _path(layout)
        patches = {
            key: known
            for key, known in sorted(self._patches.items())
            # Listed again, by now that its time would tell.
            if known.folder_ns < latest and single_names(layout.patch_folder(layout.records, *key)) == {PACK_NAME}
        }
        if not patches:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
            return
        lists = [np.frombuffer(known.keys, dtype=np.uint64) for known in patches.values()]
        columns = [
            [tract for tract, _ in patches],
            [patch for _, patch in patches],
            *([getattr(known, name) for known in patches.values()] for name in ("folder_ns", "pack_bytes", "pack_ns")),
        ]
        arrays = [arrow_array(np.array(column, dtype=np.int64)) for column in columns]
        offsets = arrow_array(np.cumsum([0, *map(len, lists)]).astype(np.int32))
        arrays.append(pa.ListArray.from_arrays(offsets, arrow_array(np.concatenate(lists))))
        batch = pa.RecordBatch.from_arrays(arrays, schema=_SCHEMA)
        schema = _SCHEMA.with_metadata({_SHA256: _sha256(batch)})
        with (
            contextlib.suppress(OutputError),  # which only costs time later
            atomic_path(path, sync=False) as temporary,
            pa.OSFile(str(temporary), "wb") as sink,
            pa.ipc.new_file(sink, schema) as writer,
        ):
            writer.write_batch(batch.replace_schema_metadata(schema.metadata))


def known_files(layout: Layout) -> NDArray[np.uint64]:
    """The keys of the files of all packs that are as they were, as `file_loops.file_keys` gives them; maybe none."""
    nothing = np.empty(0, dtype=np.uint64)
    try:
        with pa.memory_map(str(_path(layout))) as source, pa.ipc.open_file(source) as reader:
            if not reader.schema.equals(_SCHEMA):
                return nothing
            batch = reader.get_batch(0)
            if (reader.schema.metadata or {}).get(_SHA256) != _sha256(batch):
                return nothing
            tract, patch, *states = (numpy_array(batch.column(i)) for i in range(5))
            lists = batch.column("keys")
            counts = np.diff(numpy_array(lists.offsets))
            keys = numpy_array(lists.flatten())
    except (OSError, pa.ArrowException, ValueError, LookupError):
        return nothing
    return keys[np.repeat(_untouched(layout, tract, patch, states), counts)]


def _untouched(
    layout: Layout, tract: NDArray[np.int64], patch: NDArray[np.int64], states: list[NDArray[np.int64]]
) -> NDArray[np.bool_]:
    """True for the patches whose folder and pack have the sizes and times of last change that are known of them."""
    from skygraft.records.file_loops import look_up

    folder_ns, pack_bytes, pack_ns = states
    folders = [f"tract={t}/patch={p}" for t, p in zip(tract.tolist(), patch.tolist(), strict=True)]
    texts = [text.encode() for folder in folders for text in (folder, f"{folder}/{PACK_NAME}")]
    offsets = np.cumsum([0, *map(len, texts)], dtype=np.int64)
    n = len(texts)
    try:
        descriptor = os.open(layout.records, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return np.zeros(len(folders), dtype=np.bool_)
    try:
        found = look_up(
            np.frombuffer(b"".join(texts), dtype=np.uint8),
            offsets,
            np.arange(n),
            np.zeros(n, dtype=np.int64),
            np.zeros(n, dtype=np.int64),
            np.full(n, descriptor),
            np.zeros(2, dtype=np.uint64),
        )
    finally:
        os.close(descriptor)
    same = (found[::2, 1] == folder_ns) & (found[1::2, 0] == pack_bytes) & (found[1::2, 1] == pack_ns)
    return np.asarray(same, dtype=np.bool_)


def _sha256(batch: pa.RecordBatch) -> bytes:
    sha = hashlib.sha256()
    for column in batch.columns[:-1]:
        sha.update(numpy_array(column))
    sha.update(numpy_array(batch.column(batch.num_columns - 1).offsets))
    sha.update(numpy_array(batch.column(batch.num_columns - 1).flatten()))
    return sha.hexdigest().encode()


def _path(layout: Layout) -> Path:
    return layout.consolidated / "packs.arrow"
