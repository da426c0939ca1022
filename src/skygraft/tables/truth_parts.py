"""The truth table of one image, which its task writes beside the record as an Arrow file.

Not Parquet, which takes milliseconds to open: consolidation opens one for every image.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from astropy.table import QTable

from skygraft.catalog.io import arrow_array, to_arrow
from skygraft.disk import atomic_path
from skygraft.errors import CampaignError
from skygraft.records.packs import read_file

__all__ = [
    "DamagedTruthError",
    "check_truth_part",
    "parse_alike",
    "parse_truth_part",
    "read_truth_part",
    "unreadable_part",
    "write_truth_dataset",
    "write_truth_part",
]

_MAGIC, _END, _TAIL = b"ARROW1\0\0", b"\xff\xff\xff\xff\0\0\0\0", 10
"""How an Arrow file begins, how the stream in it ends, and the bytes after its footer: a length and a magic word."""
_READING = pa.ipc.IpcReadOptions(use_threads=False)
"""To hand the columns of a few rows to other threads takes five times as long as to read them."""


def write_truth_part(path: Path, truth: QTable | pa.Table) -> None:
    """Write the truth of an image as an Arrow file, atomically, with units in the columns' metadata.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    content = truth if isinstance(truth, pa.Table) else to_arrow(truth)
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    with (
        atomic_path(path) as temporary,
        pa.OSFile(str(temporary), "wb") as sink,
        pa.ipc.new_file(sink, content.schema, options=options) as writer,
    ):
        writer.write_table(content)


def write_truth_dataset(path: Path, truth: QTable) -> None:
    """Write the truth of an image as Parquet, the format in which a Butler reads tables, atomically.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    with atomic_path(path) as temporary:
        pq.write_table(to_arrow(truth), temporary, compression="zstd")


class DamagedTruthError(CampaignError):
    """A truth part that does not fit the record of its image, which can be made again at any time."""


def read_truth_part(path: Path, sha256: str) -> pa.Table:
    """Read the truth of an image, of a file with the SHA-256 that its record names.

    Parts of earlier versions get the columns of objects and groups: each source is an object of its own, in no group.

    Raises
    ------
    DamagedTruthError
        If it cannot be read, or is another file.
    """
    try:
        content = read_file(path)
    except OSError as error:
        raise unreadable_part(path, error) from error
    return parse_truth_part(content, sha256, path)


def parse_truth_part(content: bytes, sha256: str, path: str | Path) -> pa.Table:
    """The truth of an image from the bytes of a file of that path; raises as `read_truth_part`."""
    check_truth_part(content, sha256, path)
    try:
        with pa.ipc.open_file(pa.BufferReader(content), options=_READING) as file:
            return _with_objects(file.read_all())
    except pa.ArrowException as error:
        raise _damaged(f"cannot be read ({error})", path) from error


def check_truth_part(content: bytes, sha256: str, path: str | Path) -> None:
    """Compare the bytes of a truth part with the SHA-256 that the record names; raises as `read_truth_part`."""
    if hashlib.sha256(content).hexdigest() != sha256:
        raise _damaged("is not the one that its record names", path)


def parse_alike(contents: Sequence[bytes], schema: pa.Schema) -> list[list[pa.RecordBatch]] | None:
    """The truth of many images from the bytes of their files, in one go, which takes a third of the time.

    Parameters
    ----------
    contents : sequence of bytes
        The files, as `write_truth_part` wrote them.
    schema : pyarrow.Schema
        The columns that they have.

    Returns
    -------
    list of list of pyarrow.RecordBatch, or None
        Of each image; None if not all of them are files with these columns and a single batch of rows, or none.
    """
    if not contents:
        return []
    # An Arrow file is an Arrow stream, between its magic word and a footer: the schema, batches, and an end. Batches of
    # many with the same schema make one stream.
    start = len(_MAGIC) + 8 + int.from_bytes(contents[0][len(_MAGIC) + 4 : len(_MAGIC) + 8], "little")
    head, pieces = contents[0][:start], []
    for content in contents:
        footer = len(content) - _TAIL - int.from_bytes(content[-_TAIL : 4 - _TAIL], "little")
        if not head.startswith(_MAGIC) or not content.startswith(head) or content[footer - len(_END) : footer] != _END:
            return None
        pieces.append(content[start : footer - len(_END)])
    try:
        stream = b"".join([head[len(_MAGIC) :], *pieces, _END])
        with pa.ipc.open_stream(pa.BufferReader(stream), options=_READING) as reader:
            batches = list(reader) if reader.schema.equals(schema) else []
    except (pa.ArrowException, OSError):
        return None
    # As many batches as files that have any: each of those has one.
    if len(batches) != sum(map(bool, pieces)):
        return None
    found = iter(batches)
    return [[next(found)] if piece else [] for piece in pieces]


def unreadable_part(path: str | Path, error: OSError) -> DamagedTruthError:
    """The error for a truth part that cannot be opened."""
    return _damaged(f"cannot be read ({error.strerror or error})", path)


def _with_objects(table: pa.Table) -> pa.Table:
    schema = table.schema
    if min(schema.get_field_index("group_id"), schema.get_field_index("object_id")) >= 0:
        return table
    if "injection_id" not in table.column_names:
        return table
    place = table.column_names.index("injection_id") + 1
    if "group_id" not in table.column_names:
        table = table.add_column(place, "group_id", arrow_array(np.full(table.num_rows, -1, dtype=np.int64)))
    if "object_id" not in table.column_names:
        table = table.add_column(place, "object_id", table.column("injection_id"))
    return table


def _damaged(what: str, path: str | Path) -> DamagedTruthError:
    return DamagedTruthError(
        f"the truth table {what}",
        path=path,
        fix="Make its image again: skygraft verify --checksums --discard, then run",
    )
