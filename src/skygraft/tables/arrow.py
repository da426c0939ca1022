"""Consolidated tables as Parquet: written row group by row group, atomically, with a fingerprint of their inputs."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from skygraft.disk import NamedTogether, write_new
from skygraft.errors import CampaignError
from skygraft.json_text import parse_json
from skygraft.records.file_checksums import note_checksum, problem_of, read_checksum, refresh
from skygraft.records.files import json_text, sha256_file

__all__ = [
    "ROWS",
    "TableNote",
    "TableWriter",
    "ascends",
    "note_of",
    "numbers",
    "read_groups",
    "with_units",
]

ROWS = 131_072
"""Rows of a row group, and about as many as are in memory at a time."""

_SMALL_ROWS = 4096
"""Rows of a table that is compressed with Snappy: to set up zstd for each column takes longer than to write these."""
_SMALL_BYTES = 4 << 20
"""Size of a file that is read at once, which takes half as long as to read it piece by piece."""

_NOTE = b"skygraft"


@dataclass(frozen=True)
class TableNote:
    """The note in the footer of a consolidated table.

    Parameters
    ----------
    fingerprint : str
        Fingerprint of what the table was made from.
    n_rows : int
        Its number of rows.
    content : dict
        Everything else that its writer noted.
    """

    fingerprint: str
    n_rows: int
    content: dict[str, Any]


def note_of(path: Path, checksum: Path) -> TableNote | None:
    """Read the note of a table; None if the table has to be rebuilt.

    That is the case if it is missing, cannot be read, or has no checksum or that of another file. The content is
    compared with the checksum only if the time of last change differs: see `skygraft.campaign.checksums`.
    """
    known = read_checksum(checksum)
    if known is None or problem_of(path, known):
        return None
    try:
        with _open_table(path) as file:
            footer = file.metadata
            note = parse_json((footer.metadata or {}).get(_NOTE, b"{}"))
            found = TableNote(str(note.pop("fingerprint", "")), int(footer.num_rows), note)
    except (OSError, pa.ArrowException, ValueError, AttributeError):
        return None
    if known.fingerprint != found.fingerprint:
        return None
    refresh(path, checksum, known)
    return found


class TableWriter:
    """Writes a table piece by piece, in row groups of `ROWS` rows or a little more; use it in a ``with`` statement.

    Equal rows give equal files. The file appears when the block ends without an error; until then the former one stays.

    Parameters
    ----------
    path : Path
        The file.
    checksum : Path
        The file for its checksum; see `skygraft.records.files.Layout.checksum`.
    schema : pyarrow.Schema
        Schema of every piece.
    repeated : sequence of str
        Columns with few different values, which are stored as dictionaries.
    together : NamedTogether, optional
        Other files that the file gets its name with, instead of at the end of the block.

    Attributes
    ----------
    note : dict
        The note of the table, as JSON types, with its ``fingerprint``; may be filled until the block ends.

    Raises
    ------
    OutputError
        If it cannot be written.
    """

    def __init__(
        self,
        path: Path,
        checksum: Path,
        schema: pa.Schema,
        *,
        repeated: Sequence[str] = (),
        together: NamedTogether | None = None,
    ) -> None:
        self.note: dict[str, Any] = {}
        self._path, self._checksum, self._schema, self._repeated = path, checksum, schema, list(repeated)
        self._together, self._alone = together or NamedTogether(), together is None
        self._waiting: list[pa.Table] = []
        self._n_waiting = self._n_rows = 0
        self._sha256 = ""
        self._stack: contextlib.ExitStack | None = None

    @property
    def written(self) -> TableNote:
        """What `note_of` would give of the table, once it is written."""
        content = {name: value for name, value in self.note.items() if name != "fingerprint"}
        return TableNote(str(self.note.get("fingerprint", "")), self._n_rows, content)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._together if self._alone else contextlib.nullcontext():
            if error is not None:
                self._waiting.clear()
                if self._stack is not None:
                    self._stack.__exit__(kind, error, traceback)
                return
            if self._stack is None and self._n_waiting <= _SMALL_ROWS:
                self._write_small()
            else:
                # Inside the stack: an error here must reach what removes the temporary file.
                with self._stack or self._open():
                    self._flush()
                    self._writer.add_key_value_metadata({_NOTE: json_text(self.note)})
            if self._alone:
                self._together.commit()

    def _open(self) -> contextlib.ExitStack:
        """Begin the file; the stack ends it."""
        with contextlib.ExitStack() as stack:
            temporary = stack.enter_context(self._new_file())
            # Called after the writer has closed the file.
            stack.push(functools.partial(self._hash_file, temporary))
            self._writer = stack.enter_context(self._parquet(temporary, "zstd"))
            self._stack = stack.pop_all()
        return self._stack

    def _new_file(self) -> contextlib.AbstractContextManager[Path]:
        # Its folder is not synced: a renaming or a checksum that a power cut undoes is noticed, and the table is
        # rebuilt from what is on the disk; content of the right size that never got there would not be.
        return self._together.path(self._path, self._note_checksum, sync_folder=False)

    def _parquet(self, target: Any, compression: str) -> pq.ParquetWriter:
        return pq.ParquetWriter(target, self._schema, compression=compression, use_dictionary=self._repeated)

    def _write_small(self) -> None:
        """Write the whole file at once: of tens of thousands of small tables, the files would take longest."""
        sink = pa.BufferOutputStream()
        with self._parquet(sink, "snappy") as self._writer:
            self._flush()
            self._writer.add_key_value_metadata({_NOTE: json_text(self.note)})
        content = sink.getvalue()
        self._sha256 = hashlib.sha256(content).hexdigest()
        with self._new_file() as temporary:
            write_new(temporary, content)

    def _hash_file(self, temporary: Path, kind: type[BaseException] | None, *_: Any) -> None:
        if kind is None:
            self._sha256 = sha256_file(temporary)

    def _note_checksum(self, temporary: Path) -> None:
        # Before the table gets its name: if this process is killed in between, the checksum does not fit, and the
        # table is rebuilt.
        fingerprint = str(self.note.get("fingerprint", ""))
        note_checksum(temporary, self._checksum, fingerprint, sync=False, sha256=self._sha256)

    def write(self, piece: pa.Table) -> None:
        """Add rows to the end."""
        self._waiting.append(piece)
        self._n_waiting += piece.num_rows
        if self._n_waiting >= ROWS:
            if self._stack is None:
                self._open()
            self._flush()

    def _flush(self) -> None:
        if self._n_waiting:
            # In one piece: pages and dictionaries must not depend on how the rows were cut into pieces.
            table = pa.concat_tables(self._waiting).combine_chunks()
            self._writer.write_table(table, row_group_size=table.num_rows)
            self._n_rows += table.num_rows
        self._waiting, self._n_waiting = [], 0


def read_groups(path: Path, columns: Sequence[str] | None = None, *, fix: str) -> Iterator[pa.Table]:
    """Yield the row groups of a Parquet file, one after the other; of `columns` only, if given.

    Raises
    ------
    CampaignError
        If it cannot be read; `fix` tells the user what to do.
    """
    try:
        with _open_table(path) as file:
            for group in range(file.num_row_groups):
                # Without threads: many of these tables are small, and a worker has other threads.
                yield file.read_row_group(group, columns=None if columns is None else list(columns), use_threads=False)
    except (OSError, pa.ArrowException) as error:
        raise CampaignError(f"the table cannot be read ({error})", path=path, fix=fix) from error


def _open_table(path: Path) -> pq.ParquetFile:
    with path.open("rb", buffering=0) as handle:
        if os.fstat(handle.fileno()).st_size <= _SMALL_BYTES:
            return pq.ParquetFile(pa.BufferReader(handle.readall()))
    return pq.ParquetFile(path)


def numbers(column: pa.ChunkedArray | pa.Array) -> NDArray[Any]:
    """The values of a column of numbers, as a read-only array; nulls become NaN (integer columns must not have any).

    Uses DLPack, since `to_numpy` would import pandas, which takes a second in every process.
    """
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if pa.types.is_boolean(array.type):
        array = pc.cast(array, pa.uint8())
    if array.null_count:
        array = pc.fill_null(array, float("nan"))
    return np.from_dlpack(array)


def ascends(ids: NDArray[np.int64]) -> bool:
    """True if numbers ascend strictly."""
    return bool(np.all(ids[1:] > ids[:-1]))


def with_units(kinds: Mapping[str, pa.DataType], units: Mapping[str, str]) -> pa.Schema:
    """An Arrow schema with the units in the metadata of its fields, as in all Parquet files of skygraft."""
    return pa.schema(
        [
            pa.field(name, kind, metadata={"unit": units[name]} if units.get(name) else None)
            for name, kind in kinds.items()
        ]
    )
