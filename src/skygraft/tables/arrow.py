"""Consolidated tables as Parquet: written row group by row group, whole or not at all, and known by a fingerprint."""

from __future__ import annotations

import contextlib
import functools
import json
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

from skygraft.disk import atomic_path
from skygraft.errors import CampaignError
from skygraft.records.file_checksums import note_checksum, problem_of, read_checksum, refresh
from skygraft.records.files import json_text

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
"""Rows of a row group, and about as many as are held at a time."""

_NOTE = b"skygraft"


@dataclass(frozen=True)
class TableNote:
    """What a consolidated table says of itself.

    Parameters
    ----------
    fingerprint : str
        Of what it was made from.
    n_rows : int
        Its rows.
    content : dict
        What else its writer noted.
    """

    fingerprint: str
    n_rows: int
    content: dict[str, Any]


def note_of(path: Path, checksum: Path) -> TableNote | None:
    """What a table says of itself; None where the table is to be made again.

    That is where there is none, or none that can be read, or where its checksum is not there or of another one. The
    content is read only if its time of last change is another: see `skygraft.campaign.checksums`.
    """
    known = read_checksum(checksum)
    if known is None or problem_of(path, known):
        return None
    try:
        with pq.ParquetFile(path) as file:
            footer = file.metadata
            note = json.loads((footer.metadata or {}).get(_NOTE, b"{}"))
            found = TableNote(str(note.pop("fingerprint", "")), int(footer.num_rows), note)
    except (OSError, pa.ArrowException, ValueError, AttributeError):
        return None
    if known.fingerprint != found.fingerprint:
        return None
    refresh(path, checksum, known)
    return found


class TableWriter:
    """Writes a table piece by piece, in row groups of `ROWS` or a little more; use it in a ``with`` statement.

    Equal pieces give equal files. The file appears when the block ends well; what was there before stays until then.

    Parameters
    ----------
    path : Path
        The file.
    checksum : Path
        The file for its checksum; see `skygraft.records.files.Layout.checksum`.
    schema : pyarrow.Schema
        Of every piece.
    repeated : sequence of str
        Columns of few values, which are stored once.

    Attributes
    ----------
    note : dict
        What the table is to say of itself: its ``fingerprint``, and other JSON types; may be filled until the end.

    Raises
    ------
    OutputError
        If it cannot be written.
    """

    def __init__(self, path: Path, checksum: Path, schema: pa.Schema, *, repeated: Sequence[str] = ()) -> None:
        self.note: dict[str, Any] = {}
        self._path, self._checksum, self._schema, self._repeated = path, checksum, schema, list(repeated)
        self._waiting: list[pa.Table] = []
        self._n_waiting = 0

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            temporary = stack.enter_context(atomic_path(self._path))
            # When the writer has closed the file, and before it has its name.
            stack.push(functools.partial(self._note_checksum, temporary))
            self._writer = stack.enter_context(
                pq.ParquetWriter(temporary, self._schema, compression="zstd", use_dictionary=self._repeated)
            )
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None:
            self._waiting.clear()
            self._stack.__exit__(kind, error, traceback)
            return
        # Within the stack: what goes wrong here must reach the keeper of the temporary file.
        with self._stack:
            self._flush()
            self._writer.add_key_value_metadata({_NOTE: json_text(self.note)})

    def _note_checksum(self, temporary: Path, kind: type[BaseException] | None, *_: Any) -> None:
        if kind is not None:
            return
        # First: where this process is killed in between, there is no checksum of the table, and it is made again.
        note_checksum(temporary, self._checksum, str(self.note.get("fingerprint", "")))

    def write(self, piece: pa.Table) -> None:
        """Add rows to the end."""
        self._waiting.append(piece)
        self._n_waiting += piece.num_rows
        if self._n_waiting >= ROWS:
            self._flush()

    def _flush(self) -> None:
        if self._n_waiting:
            # In one piece: pages and dictionaries must not show how the pieces were cut.
            table = pa.concat_tables(self._waiting).combine_chunks()
            self._writer.write_table(table, row_group_size=table.num_rows)
        self._waiting, self._n_waiting = [], 0


def read_groups(path: Path, columns: Sequence[str] | None = None, *, fix: str) -> Iterator[pa.Table]:
    """The row groups of a Parquet file, one after the other; `columns` only.

    Raises
    ------
    CampaignError
        If it cannot be read; `fix` says what to do then.
    """
    try:
        with pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                # Without threads: many of these tables are small, and a worker has other threads.
                yield file.read_row_group(group, columns=None if columns is None else list(columns), use_threads=False)
    except (OSError, pa.ArrowException) as error:
        raise CampaignError(f"the table cannot be read ({error})", path=path, fix=fix) from error


def numbers(column: pa.ChunkedArray | pa.Array) -> NDArray[Any]:
    """The values of a column of numbers, nulls as NaN (of integers: none allowed); not to be written to.

    By way of DLPack, since `to_numpy` would import pandas, which takes a second in every process.
    """
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if pa.types.is_boolean(array.type):
        array = pc.cast(array, pa.uint8())
    if array.null_count:
        array = pc.fill_null(array, float("nan"))
    return np.from_dlpack(array)


def ascends(ids: NDArray[np.int64]) -> bool:
    """Whether numbers ascend, each once."""
    return bool(np.all(ids[1:] > ids[:-1]))


def with_units(kinds: Mapping[str, pa.DataType], units: Mapping[str, str]) -> pa.Schema:
    """A schema whose fields carry their units as the rest of skygraft's Parquet files do."""
    return pa.schema(
        [
            pa.field(name, kind, metadata={"unit": units[name]} if name in units else None)
            for name, kind in kinds.items()
        ]
    )
