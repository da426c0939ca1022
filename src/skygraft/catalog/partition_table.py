"""The table of a partitioned catalogue's partitions: one row each, in a file beside the marker, which has its checksum.

It is Arrow rather than JSON, because every process that reads a partition reads it: of 40,000 partitions it takes
milliseconds.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from skygraft.catalog.arrow_arrays import arrow_array, list_members, numpy_array, one_array
from skygraft.disk import atomic_path
from skygraft.errors import CorruptFileError
from skygraft.json_text import parse_json

__all__ = ["TABLE", "read_parts", "write_parts"]

TABLE = "_partitions.arrow"
_INTEGERS = frozenset({"tract", "patch", "rows", "moving", "bytes"})
_DIGEST_BYTES = 32


def write_parts(out: Path, parts: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """Write the table of partitions, and return what the marker says of it.

    Parameters
    ----------
    out : Path
        Folder of the data set.
    parts : mapping of str to sequence
        The columns: whole numbers, numbers, several numbers in each row, SHA-256 in hexadecimal, or (``beside``) dicts.

    Returns
    -------
    dict
        Number of bytes and SHA-256 of the file.
    """
    columns = {}
    for name, column in parts.items():
        if name == "sha256":
            content = pa.py_buffer(bytes.fromhex("".join(column)))
            columns[name] = pa.Array.from_buffers(pa.binary(_DIGEST_BYTES), len(column), [None, content])
        elif name == "beside":
            texts = [json.dumps(tables, separators=(",", ":")) for tables in column]
            columns[name] = arrow_array(np.array(texts or [""], dtype=np.str_)[: len(texts)])
        else:
            array = np.array(column, dtype=np.int64 if name in _INTEGERS else np.float64)
            flat = arrow_array(array.reshape(-1))
            wide = array.ndim > 1
            columns[name] = pa.FixedSizeListArray.from_arrays(flat, array.shape[1]) if wide else flat
    table = pa.table(columns)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    whole = sink.getvalue()
    with atomic_path(out / TABLE) as temporary:
        temporary.write_bytes(whole)
    return {"bytes": int(whole.size), "sha256": hashlib.sha256(whole).hexdigest()}


def read_parts(out: Path, marked: Mapping[str, Any]) -> Mapping[str, Any]:
    """Read the table of partitions.

    Parameters
    ----------
    out : Path
        Folder of the data set.
    marked : mapping
        What the marker says: the result of `write_parts`, or, of a data set that earlier versions wrote, the columns.

    Returns
    -------
    mapping of str to sequence
        The columns, as given to `write_parts`; numbers as arrays.

    Raises
    ------
    CorruptFileError
        If the file is missing, or not what was written.
    """
    if "tract" in marked:
        return marked
    path, fix = out / TABLE, "Partition the catalogue again (of a campaign: skygraft plan)"
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise CorruptFileError("the table of partitions is missing", path=path, fix=fix) from None
    except OSError as error:
        reason = error.strerror or error
        raise CorruptFileError(f"the table of partitions cannot be read ({reason})", path=path, fix=fix) from error
    if hashlib.sha256(content).hexdigest() != marked.get("sha256"):
        raise CorruptFileError(
            "the table of partitions is not what was written: its checksum differs", path=path, fix=fix
        )
    table = pa.ipc.open_file(pa.BufferReader(content)).read_all()
    parts: dict[str, Any] = {}
    for name in table.column_names:
        column = one_array(table.column(name))
        if name == "sha256":
            text = column.buffers()[1].to_pybytes().hex() if len(column) else ""
            parts[name] = [text[i : i + 2 * _DIGEST_BYTES] for i in range(0, len(text), 2 * _DIGEST_BYTES)]
        elif name == "beside":
            parts[name] = [parse_json(text) for text in column.to_pylist()]
        elif pa.types.is_fixed_size_list(column.type):
            parts[name] = numpy_array(list_members(column)).reshape(len(column), -1)
        else:
            parts[name] = numpy_array(column)
    return parts
