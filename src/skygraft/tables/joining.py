"""The tables of the sources of all patches joined in one file.

Patches that a worker made together it also leaves as a *piece*, an Arrow file that is read in a tenth of the time.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from skygraft.catalog.arrow_arrays import arrow_array, one_array
from skygraft.disk import write_unsynced
from skygraft.errors import OutputError
from skygraft.records.files import Layout, digest
from skygraft.tables.arrow import TableWriter, note_of, read_groups

__all__ = ["AGAIN", "CampaignSources", "join_sources", "piece_fingerprint", "write_piece"]

AGAIN = "Delete it and run the campaign again (`skygraft run`), which rebuilds it"
"""What helps where a table cannot be read."""

_THREADS = 4
"""That read tables at most."""
_PIECE = b"fingerprint"
_READING = pa.ipc.IpcReadOptions(use_threads=False)


@dataclass(frozen=True)
class CampaignSources:
    """The tables of all patches, to be joined.

    Parameters
    ----------
    patches : tuple of (int, int)
        Tract and patch of each, ascending.
    fingerprint : str
        Fingerprint of what they were all made from.
    pieces : mapping of (int, int) to (str, int)
        Fingerprint of each piece, and how many patches are in it, by the first of them. A piece is an Arrow file with
        the rows of patches that were made together just now: to open all their tables again would take longest.
    """

    patches: tuple[tuple[int, int], ...]
    fingerprint: str
    pieces: Mapping[tuple[int, int], tuple[str, int]] = field(default_factory=dict)


def join_sources(sources: CampaignSources, *, output: str) -> bool:
    """Join the tables of all patches in one file, in their order, with columns ``tract`` and ``patch``.

    Parameters
    ----------
    sources : CampaignSources
        The patches.
    output : str
        The campaign's output folder.

    Returns
    -------
    bool
        Whether it was written this time.

    Raises
    ------
    CampaignError
        If a table cannot be read.
    OutputError
        If the file cannot be written; the former one is then still there.
    """
    layout = Layout(Path(output))
    path = layout.campaign_sources
    note = note_of(path, layout.checksum(path))
    if note is not None and note.fingerprint == sources.fingerprint:
        return False
    first = pq.read_schema(layout.source_table(*sources.patches[0]))
    schema = _joined_schema(first)
    repeated = ("source_type", "tract", "patch")
    with TableWriter(path, layout.checksum(path), schema, repeated=repeated) as writer:
        for tables in _read_ahead(layout, sources, schema):
            for rows in tables:
                writer.write(rows)
        writer.note["fingerprint"] = sources.fingerprint
    return True


def _joined_schema(table: pa.Schema) -> pa.Schema:
    """The schema of the table of a patch with its tract and patch as columns."""
    keys = [pa.field("tract", pa.int64()), pa.field("patch", pa.int64())]
    return pa.schema([table.field(0), *keys, *list(table)[1:]])


def _with_keys(rows: pa.Table, tract: int, patch: int, schema: pa.Schema) -> pa.Table:
    keys = [arrow_array(np.full(rows.num_rows, value, dtype=np.int64)) for value in (tract, patch)]
    return pa.Table.from_arrays([rows.column(0), *keys, *rows.columns[1:]], schema=schema)


def piece_fingerprint(patches: Sequence[tuple[int, int, str]]) -> str:
    """Fingerprint of the piece of some patches, from tract, patch and fingerprint of each table."""
    return digest(list(patches))


def _piece(layout: Layout, tract: int, patch: int) -> Path:
    return layout.pieces / f"{tract}_{patch}.arrow"


def write_piece(layout: Layout, patches: Sequence[tuple[int, int, str]], tables: Sequence[pa.Table]) -> bool:
    """Write the piece of some patches, a batch of rows for each; False if that fails, which only costs time."""
    schema = _joined_schema(tables[0].schema).with_metadata({_PIECE: piece_fingerprint(patches)})
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression="lz4", use_threads=False)
    with pa.ipc.new_file(sink, schema, options=options) as writer:
        for (tract, patch, _), table in zip(patches, tables, strict=True):
            columns = _with_keys(table, tract, patch, schema).columns
            writer.write_batch(pa.RecordBatch.from_arrays(list(map(one_array, columns)), schema=schema))
    with contextlib.suppress(OutputError):
        write_unsynced(_piece(layout, *patches[0][:2]), sink.getvalue())
        return True
    return False


def _read_piece(layout: Layout, first: tuple[int, int], fingerprint: str, schema: pa.Schema) -> list[pa.Table] | None:
    """The rows of the patches of a piece; None if it is not there any more, or not as it was written."""
    try:
        with pa.memory_map(str(_piece(layout, *first))) as source, pa.ipc.open_file(source, options=_READING) as reader:
            if (reader.schema.metadata or {}).get(_PIECE) != fingerprint.encode() or not reader.schema.equals(schema):
                return None
            return [pa.Table.from_batches([reader.get_batch(i)], schema) for i in range(reader.num_record_batches)]
    except (OSError, pa.ArrowException):
        return None


def _read_ahead(layout: Layout, sources: CampaignSources, schema: pa.Schema) -> Iterator[Iterable[pa.Table]]:
    """Yield the tables of patches in their order, which some threads read meanwhile: a millisecond for each of them."""

    def read(patches: Sequence[tuple[int, int]]) -> Iterable[pa.Table]:
        fingerprint, _ = sources.pieces.get(patches[0], ("", 1))
        piece = _read_piece(layout, patches[0], fingerprint, schema) if fingerprint else None
        if piece is not None and len(piece) == len(patches):
            return piece
        return itertools.chain.from_iterable([read_table(patch) for patch in patches])

    def read_table(patch: tuple[int, int]) -> Iterable[pa.Table]:
        groups = read_groups(layout.source_table(*patch), fix=AGAIN)
        tables = (_with_keys(group, *patch, schema) for group in groups)
        # Of one that is large only the first rows, so that few of them are in memory.
        return itertools.chain([first], tables) if (first := next(tables, None)) is not None else ()

    threads = min(len(os.sched_getaffinity(0)), _THREADS)
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[Iterable[pa.Table]]] = deque()
        try:
            for patches in _units(sources):
                waiting.append(pool.submit(read, patches))
                if len(waiting) > 4 * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _units(sources: CampaignSources) -> Iterator[Sequence[tuple[int, int]]]:
    """Yield the patches, those of each piece together."""
    patches = iter(sources.patches)
    for patch in patches:
        _, n = sources.pieces.get(patch, ("", 1))
        yield [patch, *itertools.islice(patches, n - 1)]
