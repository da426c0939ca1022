"""Convert between one-dimensional Arrow and NumPy arrays through their buffers.

`pyarrow.array` and `to_numpy` import pandas, which takes seconds in every process; these functions do not.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

__all__ = ["arrow_array", "list_members", "numpy_array", "one_array", "repeated_text", "texts_at", "texts_of"]

_NUMPY_NAMES = {"bool": "?", "halffloat": "f2", "float": "f4", "double": "f8"}


def arrow_array(values: NDArray[Any], mask: Any = None) -> pa.Array:
    """Convert an array of numbers, bool or str, shape (N,), to an Arrow array; null where `mask` is true.

    Parameters
    ----------
    values : ndarray, shape (N,)
    mask : array_like of bool, optional

    Returns
    -------
    pyarrow.Array
    """
    valid = None
    if mask is not None and np.any(mask):
        valid = pa.py_buffer(np.packbits(~np.asarray(mask, dtype=bool), bitorder="little"))
    if values.dtype.kind == "U":
        lengths, content = _utf8(values)
        offsets = np.zeros(values.size + 1, dtype=np.int32)
        np.cumsum(lengths, out=offsets[1:])
        return pa.Array.from_buffers(pa.string(), values.size, [valid, pa.py_buffer(offsets), pa.py_buffer(content)])
    kind = pa.from_numpy_dtype(values.dtype)
    data = np.packbits(values, bitorder="little") if values.dtype.kind == "b" else np.ascontiguousarray(values)
    return pa.Array.from_buffers(kind, values.size, [valid, pa.py_buffer(data)])


def repeated_text(text: str, n: int) -> pa.Array:
    """Make an Arrow array of one text, n times, as `arrow_array` would of an array of it.

    Parameters
    ----------
    text : str
    n : int

    Returns
    -------
    pyarrow.Array
    """
    content = np.frombuffer(text.encode(), dtype=np.uint8)
    offsets = np.arange(n + 1, dtype=np.int64) * content.size
    if offsets[-1] > np.iinfo(np.int32).max:
        return pa.array([text] * n, type=pa.large_string())
    buffers = [None, pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(np.tile(content, n))]
    return pa.Array.from_buffers(pa.string(), n, buffers)


def _utf8(texts: NDArray[Any]) -> tuple[Any, bytes | NDArray[np.uint8]]:
    """Lengths of the strings in bytes, and their concatenated UTF-8 bytes."""
    codes = np.ascontiguousarray(texts).view(np.uint32).reshape(texts.size, texts.dtype.itemsize // 4)
    if codes.size and codes.max() < 128:
        used = codes != 0
        lengths = used.sum(axis=1)
        # NumPy pads strings with NUL at their end; a NUL between letters belongs to the string.
        if not np.any(~used[:, :-1] & used[:, 1:]):
            return lengths, codes[used].astype(np.uint8)
    encoded = [text.encode() for text in texts.tolist()]
    return [len(text) for text in encoded], b"".join(encoded)


def texts_at(column: Any, rows: NDArray[np.int64]) -> list[str]:
    """The strings in some rows of an Arrow array of strings without nulls; its `take` imports compute functions."""
    _, offsets, content = column.buffers()
    ends = np.frombuffer(offsets, dtype=np.int32)[column.offset :]
    letters = memoryview(content) if content is not None else memoryview(b"")
    return [str(letters[a:b], "utf-8") for a, b in zip(ends[rows].tolist(), ends[rows + 1].tolist(), strict=True)]


def texts_of(column: Any) -> NDArray[np.str_]:
    """Convert an Arrow array of strings or bytes to an array of str; nulls become ``""``."""
    # A dictionary, because many rows usually share a few strings.
    encoded = column.dictionary_encode(null_encoding="encode")
    rows = encoded.dictionary.to_pylist()
    rows = [v.decode(errors="backslashreplace") if isinstance(v, bytes) else v for v in rows]
    texts: NDArray[np.str_] = np.array(["" if v is None else v for v in rows] or [""], dtype=np.str_)
    return np.asarray(texts[numpy_array(encoded.indices)])


def one_array(column: Any) -> Any:
    """Return an Arrow column, chunked or not, as one array."""
    if isinstance(column, pa.ChunkedArray):
        return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], type=column.type)
    return column


def list_members(lists: Any) -> Any:
    """The members of all lists of an Arrow array without nulls; its `flatten` imports Arrow's compute functions."""
    if pa.types.is_fixed_size_list(lists.type):
        size = lists.type.list_size
        return lists.values.slice(lists.offset * size, len(lists) * size)
    offsets = numpy_array(lists.offsets)
    return lists.values.slice(offsets[0], offsets[-1] - offsets[0]) if len(lists) else lists.values.slice(0, 0)


def numpy_array(column: Any) -> NDArray[Any]:
    """Copy an Arrow array without nulls to a NumPy array."""
    dtype = np.dtype(_NUMPY_NAMES.get(str(column.type), str(column.type)))
    start, stop = column.offset, column.offset + len(column)
    buffer = column.buffers()[1]
    if stop == start:
        return np.empty(0, dtype=dtype)
    if dtype.kind == "b":
        bits = np.frombuffer(buffer, dtype=np.uint8, count=(stop + 7) // 8)
        return np.unpackbits(bits, bitorder="little", count=stop)[start:].astype(np.bool_)
    return np.frombuffer(buffer, dtype=dtype, count=stop)[start:].copy()
