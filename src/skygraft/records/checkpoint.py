"""The checkpoint of a ledger: what it says of every image up to a place, in one Arrow file that is quickly read.

A checkpoint only saves time. One that is missing, damaged, or of another ledger or plan is ignored, and what it would
say is read from the ledger; so it may be deleted at any time.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from skygraft.json_text import parse_json
from skygraft.records.file_checksums import checked_path, read_checksum
from skygraft.records.files import Layout, json_text
from skygraft.records.ledger_scan import FILE_COLUMNS
from skygraft.records.plan_file import Plan

__all__ = ["CHECKPOINT_SCHEMA", "Checkpoint", "CheckpointHeader", "header_of", "open_checkpoint", "write_checkpoint"]

CHECKPOINT_SCHEMA = pa.schema(
    [
        ("row", pa.int32()),
        ("place", pa.int64()),
        ("state", pa.uint8()),
        ("tries", pa.uint16()),
        ("before_run", pa.uint8()),
        ("packed", pa.uint8()),
        *FILE_COLUMNS,
    ]
)
"""One row per image of the plan that the ledger has an event of: its row in the plan, the attributes of
`skygraft.records.image_states.ImageStates`, which of its files are in a pack
(`skygraft.records.known_packs.KnownTable`), and what it was made from."""

_VERSION = 2
_METADATA = b"skygraft"
_ROWS = 20_000
"""Rows of a batch, or a little more: what is compared with files at a time."""
_HASHED = 1 << 16
"""Bytes of the ledger, at its beginning and before the checkpoint's place, that a checkpoint knows it by."""


@dataclass(frozen=True)
class CheckpointHeader:
    """What a checkpoint is of.

    Parameters
    ----------
    offset : int
        How many bytes of the ledger it includes.
    ledger : str
        Fingerprint of the first and of the last of these bytes: one that was replaced or truncated has another.
    n_images : int
        Images of the plan.
    images : str
        Fingerprint of their ids, in the order of the plan.
    run_start : int
        Place in the ledger at which the last run began, bytes; -1 where there was none.
    runs : list of str
        The lines of the ledger on runs.
    packs : str
        `skygraft.records.known_packs.KnownTable.digest` of what was known of packs; empty where nothing was.
    version : int
        Version of this layout.
    """

    offset: int
    ledger: str
    n_images: int
    images: str
    run_start: int
    runs: list[str]
    packs: str = ""
    version: int = _VERSION


class Checkpoint:
    """A checkpoint that was found to be whole, and of this ledger and plan.

    Parameters
    ----------
    header : CheckpointHeader
        What it is of.
    content : pyarrow.Buffer
        Its content.
    """

    def __init__(self, header: CheckpointHeader, content: pa.Buffer) -> None:
        self.header = header
        self._whole = pa.ipc.open_file(content)
        # What files an image has is most of it, and takes longest to decompress.
        fields = [i for i, name in enumerate(CHECKPOINT_SCHEMA.names) if name not in FILE_COLUMNS.names]
        self._states = pa.ipc.open_file(content, options=pa.ipc.IpcReadOptions(included_fields=fields))

    def __len__(self) -> int:
        return int(self._whole.num_record_batches)

    def states(self, i: int) -> pa.RecordBatch:
        """Its i-th rows, some `_ROWS`, without `FILE_COLUMNS`."""
        return self._states.get_batch(i)

    def rows(self, i: int) -> pa.RecordBatch:
        """Its i-th rows, of `CHECKPOINT_SCHEMA`."""
        return self._whole.get_batch(i)


def header_of(
    plan: Plan, layout: Layout, offset: int, run_start: int, runs: list[str], packs: str
) -> CheckpointHeader | None:
    """The header of a checkpoint of the first `offset` bytes of the ledger; None where it has not so many."""
    fingerprint = _ledger_fingerprint(layout.ledger, offset)
    if fingerprint is None:
        return None
    ids = hashlib.sha256()
    for batch in plan.batches(["image_id"]):
        _, offsets, content = batch.column(0).buffers()
        ends = np.frombuffer(offsets, np.int32)[batch.column(0).offset :][: len(batch) + 1]
        ids.update(np.diff(ends))
        ids.update(memoryview(content)[ends[0] : ends[-1]])
    return CheckpointHeader(offset, fingerprint, len(plan), ids.hexdigest(), run_start, runs, packs)


def _ledger_fingerprint(ledger: Path, offset: int) -> str | None:
    try:
        with ledger.open("rb") as handle:
            head = handle.read(min(_HASHED, offset))
            handle.seek(max(0, offset - _HASHED))
            tail = handle.read(min(_HASHED, offset))
    except OSError:
        return None
    return hashlib.sha256(head + tail).hexdigest() if len(head) == len(tail) == min(_HASHED, offset) else None


@contextlib.contextmanager
def open_checkpoint(plan: Plan, layout: Layout) -> Iterator[Checkpoint | None]:
    """Open the checkpoint of a campaign; None where there is none that can be used."""
    with contextlib.ExitStack() as stack:
        try:
            known = read_checksum(layout.checksum(layout.checkpoint))
            # One file from here on, also where another checkpoint takes its place meanwhile.
            source = stack.enter_context(pa.memory_map(str(layout.checkpoint)))
            content = source.read_buffer()
            reader = stack.enter_context(pa.ipc.open_file(content))
            header = CheckpointHeader(**parse_json(reader.schema.metadata[_METADATA]))
            usable = (
                known is not None
                and reader.schema.equals(CHECKPOINT_SCHEMA)
                and header == header_of(plan, layout, header.offset, header.run_start, header.runs, header.packs)
                and hashlib.sha256(content).hexdigest() == known.sha256
            )
        except (OSError, pa.ArrowException, ValueError, TypeError, KeyError):
            usable = False
        yield Checkpoint(header, content) if usable else None


def write_checkpoint(layout: Layout, header: CheckpointHeader, batches: Iterable[pa.RecordBatch]) -> None:
    """Write the checkpoint of a campaign, atomically and with a checksum.

    Parameters
    ----------
    layout : Layout
        Where it lies.
    header : CheckpointHeader
        What it is of.
    batches : iterable of pyarrow.RecordBatch
        Its rows, of `CHECKPOINT_SCHEMA`.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    schema = CHECKPOINT_SCHEMA.with_metadata({_METADATA: json_text(asdict(header))})
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with (
        checked_path(layout.checkpoint) as temporary,
        pa.OSFile(str(temporary), "wb") as sink,
        pa.ipc.new_file(sink, schema, options=options) as writer,
    ):
        waiting: list[pa.RecordBatch] = []
        for batch in batches:
            waiting.append(batch.replace_schema_metadata(schema.metadata))
            if sum(map(len, waiting)) >= _ROWS:
                writer.write_batch(pa.concat_batches(waiting))
                waiting.clear()
        if waiting:
            writer.write_batch(pa.concat_batches(waiting))
