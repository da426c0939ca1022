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

from skygraft.catalog.arrow_arrays import arrow_array, list_members, numpy_array, one_array
from skygraft.disk import FileIdentity, atomic_path
from skygraft.errors import OutputError
from skygraft.records.files import RECORD_SUFFIX, TRUTH_SUFFIX, Layout
from skygraft.records.packs import PACK_NAME, PackIndex, read_index, single_names
from skygraft.records.plan_file import Plan

__all__ = [
    "KnownPacks",
    "KnownTable",
    "PackedPatch",
    "can_look_up",
    "from_ends",
    "known_table",
    "packed_patch",
    "rows_in_packs",
]

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


def packed_patch(
    layout: Layout, tract: int, patch: int, stems: Iterable[str], index: PackIndex | None = None
) -> PackedPatch | None:
    """Find what is known of a patch whose images are packed; None if anything but its pack is in its folder.

    Parameters
    ----------
    layout : Layout
        The campaign's files.
    tract, patch : int
        The patch.
    stems : iterable of str
        Its images; those that are not in the pack are left out.
    index : PackIndex, optional
        The index of the pack, where it is known.

    Raises
    ------
    CampaignError
        If the pack cannot be opened.
    """
    folder = layout.patch_folder(layout.records, tract, patch)
    identity, pack = FileIdentity.find(folder), FileIdentity.find(folder / PACK_NAME)
    if identity is None or pack is None or single_names(folder) != {PACK_NAME} or not can_look_up():
        return None
    index = index or read_index(folder / PACK_NAME)
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


@dataclass(frozen=True, eq=False)
class KnownTable:
    """What is known of N packs.

    Parameters
    ----------
    digest : str
        Fingerprint of all of it.
    homes : dict of (int, int) to int
        Tract and patch of each, and its place in the arrays.
    folder_ns, pack_bytes, pack_ns : ndarray of int64, shape (N,)
        As of `PackedPatch`.
    keys : ndarray of uint64
        The keys of the files in all of them, sorted.
    """

    digest: str
    homes: dict[tuple[int, int], int]
    folder_ns: NDArray[np.int64]
    pack_bytes: NDArray[np.int64]
    pack_ns: NDArray[np.int64]
    keys: NDArray[np.uint64]

    def holds(self, images: pa.RecordBatch) -> NDArray[np.uint8]:
        """Find which files of images are in the packs with the size and time that the ledger has.

        Parameters
        ----------
        images : pyarrow.RecordBatch
            N rows with the columns `skygraft.records.ledger_scan.FILE_COLUMNS`.

        Returns
        -------
        ndarray of uint8, shape (N,)
            Bit i stands for the file that is i-th from the end, where the packed ones are.
        """
        from skygraft.records.file_loops import file_keys  # of numba, which small campaigns do without

        lists = images.column("names")
        names = list_members(lists)
        _, buffer, content = names.buffers()
        offsets = np.frombuffer(buffer, np.int32, names.offset + len(names) + 1)[names.offset :].astype(np.int64)
        letters = np.frombuffer(content, np.uint8) if content is not None else np.empty(0, np.uint8)
        sizes, times = (numpy_array(list_members(images.column(name))) for name in ("sizes", "times"))
        keys = file_keys(letters, offsets, sizes, times)
        places = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        counts = np.diff(numpy_array(lists.offsets))
        image, from_end = np.repeat(np.arange(len(images)), counts), from_ends(counts)
        found = (self.keys[places] == keys) & (from_end < 8)
        bits = np.left_shift(found, np.minimum(from_end, 7))
        return np.bincount(image, weights=bits, minlength=len(images)).astype(np.uint8)


def from_ends(counts: NDArray[np.int32]) -> NDArray[np.int64]:
    """Place of each of the members of lists of some lengths, counted from the end of its list."""
    return np.repeat(np.cumsum(counts), counts) - 1 - np.arange(counts.sum())


def known_table(layout: Layout) -> KnownTable | None:
    """What is known of the packs of a campaign; None where nothing is, or the file is damaged."""
    try:
        with pa.memory_map(str(_path(layout))) as source, pa.ipc.open_file(source) as reader:
            if not reader.schema.equals(_SCHEMA):
                return None
            batch = reader.get_batch(0)
            digest = (reader.schema.metadata or {}).get(_SHA256, b"")
            if digest != _sha256(batch):
                return None
            tract, patch, folder_ns, pack_bytes, pack_ns = (numpy_array(batch.column(i)) for i in range(5))
            keys = np.sort(numpy_array(list_members(batch.column("keys"))))
    except (OSError, pa.ArrowException, ValueError, LookupError):
        return None
    homes = {home: i for i, home in enumerate(zip(tract.tolist(), patch.tolist(), strict=True))}
    return KnownTable(digest.decode(), homes, folder_ns, pack_bytes, pack_ns, keys) if len(keys) else None


def rows_in_packs(plan: Plan, layout: Layout, digest: str) -> NDArray[np.bool_] | None:
    """Find the images of which the packs still hold what was known; without opening a pack.

    Parameters
    ----------
    plan : Plan
        The plan, of N images.
    layout : Layout
        The campaign's files.
    digest : str
        `KnownTable.digest` of what was known.

    Returns
    -------
    ndarray of bool, shape (N,), or None
        True where the pack of the home patch is as it was, and the image has neither files of its own beside it nor was
        reopened. None where something else is known now.
    """
    if (known := known_table(layout)) is None or known.digest != digest:
        return None
    table = plan.table(["tract", "patch"])
    tract, patch = (numpy_array(one_array(table.column(name))) for name in ("tract", "patch"))
    starts = np.flatnonzero((np.diff(tract, prepend=-2) != 0) | (np.diff(patch, prepend=-2) != 0))
    found = np.zeros(len(plan), dtype=np.bool_)
    changed = []
    homes = zip(tract[starts].tolist(), patch[starts].tolist(), strict=True)
    # Texts: for tens of thousands of patches a Path at each step takes longer than all else.
    records = str(layout.records)
    for start, end, home in zip(starts.tolist(), [*starts[1:].tolist(), len(plan)], homes, strict=True):
        if (i := known.homes.get(home)) is None:
            continue
        folder = f"{records}/tract={home[0]}/patch={home[1]}"
        try:
            status, pack = os.stat(folder), os.stat(f"{folder}/{PACK_NAME}")  # noqa: PTH116
        except OSError:
            continue
        if (pack.st_size, pack.st_mtime_ns) == (known.pack_bytes[i], known.pack_ns[i]):
            found[start:end] = True
            if status.st_mtime_ns != known.folder_ns[i]:
                changed.append((start, end, folder))
    if changed:
        stems = one_array(plan.table(["stem"]).column("stem"))
        for start, end, folder in changed:
            # A little more than its own: a look at a file too many does no harm.
            own = {name.partition(".")[0] for name in single_names(folder) - {PACK_NAME}}
            if own:
                mine = stems.slice(start, end - start).to_pylist()
                found[start:end] = [stem.partition(".")[0] not in own for stem in mine]
    return found


def _sha256(batch: pa.RecordBatch) -> bytes:
    sha = hashlib.sha256()
    for column in batch.columns[:-1]:
        sha.update(numpy_array(column))
    sha.update(numpy_array(batch.column(batch.num_columns - 1).offsets))
    sha.update(numpy_array(list_members(batch.column(batch.num_columns - 1))))
    return sha.hexdigest().encode()


def _path(layout: Layout) -> Path:
    return layout.consolidated / "packs.arrow"
