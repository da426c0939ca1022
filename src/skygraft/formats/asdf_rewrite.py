"""Write a copy of an ASDF file with the numbers of some arrays changed.

The ``asdf`` library writes a tree again when it saves a file: objects get the newest versions of their tags, and those
whose software is not installed lose theirs. Here a file is copied instead, and only blocks whose numbers changed are
replaced.
"""

from __future__ import annotations

import bz2
import hashlib
import os
import struct
import zlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skygraft.errors import OutputError
from skygraft.fitsfile.rewrite import atomic_output
from skygraft.formats.asdf_blocks import (
    BLOCK_HEADER,
    BLOCK_MAGIC,
    INDEX_MAGIC,
    AsdfArray,
    BlockSpan,
    lz4_library,
    map_asdf,
)

__all__ = ["rewrite_asdf"]

_LZ4_PART = 1 << 22
"""Bytes that are compressed at a time, as the asdf library does."""


def _compress(kind: bytes, data: memoryview, path: Path) -> bytes:
    if kind == b"zlib":
        return zlib.compress(data)
    if kind == b"bzp2":
        return bz2.compress(data)
    lz4, parts = lz4_library(path), []
    for i in range(0, len(data), _LZ4_PART):
        part = lz4.compress(data[i : i + _LZ4_PART])
        parts += [struct.pack("!I", len(part)), part]
    return b"".join(parts)


def rewrite_asdf(
    like: str | os.PathLike[str],
    path: str | os.PathLike[str],
    arrays: Mapping[AsdfArray, NDArray[Any]],
    overwrite: bool = False,
) -> Path:
    """Write a copy of an ASDF file with the numbers of some arrays changed.

    The YAML tree and all other blocks are copied byte for byte. A changed block keeps its compression; the block index
    at the end of the file follows its new size.

    Parameters
    ----------
    like : path-like
        The file to copy; never changed.
    path : path-like
        The output.
    arrays : mapping of AsdfArray to ndarray
        New values, of the same shapes; they are converted to the stored types.
    overwrite : bool
        Replace an output that exists.

    Returns
    -------
    Path
        `path`.

    Raises
    ------
    CorruptFileError
        If `like` is damaged.
    OutputError
        If new values do not fit into the stored type, or the output cannot be written.
    OutputExistsError
        If the output exists and `overwrite` is false, or is `like`.
    """
    with map_asdf(like) as file, atomic_output(path, inputs=[like], overwrite=overwrite) as stream:
        new: dict[int, bytearray] = {}
        for array, values in arrays.items():
            if array.source not in new:
                new[array.source] = bytearray(file.block(array.source))
            stored = _stored(values, array, path)
            new[array.source][array.offset : array.offset + array.n_bytes] = stored
        position, shift, starts = 0, 0, []
        for span in file.spans:
            starts.append(span.start + shift)
            if span.index not in new:
                continue
            stream.write(file.buffer[position : span.start])
            written, header = _block(span, new[span.index], file.path)
            stream.write(BLOCK_MAGIC + span.header_size.to_bytes(2, "big") + header)
            # What a longer header of a later standard adds is copied.
            stream.write(file.buffer[span.data_start - span.header_size + BLOCK_HEADER.size : span.data_start])
            stream.write(written)
            position, shift = span.end, shift + len(written) - span.allocated
        tail = file.spans[-1].end if file.spans else position
        stream.write(file.buffer[position:tail])
        stream.write(_index(bytes(file.buffer[tail:]), starts) if shift else file.buffer[tail:])
    return Path(path)


def _stored(values: NDArray[Any], array: AsdfArray, path: str | os.PathLike[str]) -> bytes:
    with np.errstate(over="ignore"):
        stored = np.asarray(values).astype(array.dtype)
    if array.dtype.kind == "f" and not np.array_equal(np.isinf(stored), np.isinf(values)):
        raise OutputError(
            f"new values are up to {np.nanmax(np.abs(values)):.4g}, too large for {array.dtype.name}",
            path=path,
            fix="Save the input with a wider type",
        )
    return stored.tobytes()


def _block(span: BlockSpan, data: bytearray, path: Path) -> tuple[bytes, bytes]:
    """Bytes of a changed block after its header, padding included, and its header."""
    used = _compress(span.compression, memoryview(data), path) if span.compression else bytes(data)
    # As long as it fits, the block keeps its place, and all that follows does too.
    allocated = max(span.allocated, len(used))
    checksum = hashlib.md5(used, usedforsecurity=False).digest() if span.checksum.strip(b"\0") else span.checksum
    changed = replace(span, allocated=allocated, used=len(used), checksum=checksum)
    header = BLOCK_HEADER.pack(
        changed.flags, changed.compression.ljust(4, b"\0"), allocated, changed.used, changed.size, checksum
    )
    return used + bytes(allocated - len(used)), header


def _index(tail: bytes, starts: list[int]) -> bytes:
    """The block index with the new positions; empty if the file has none."""
    if not tail.startswith(INDEX_MAGIC):
        return tail
    lines = "".join(f"- {start}\n" for start in starts)
    return INDEX_MAGIC + b"\n%YAML 1.1\n---\n" + lines.encode() + b"...\n"
