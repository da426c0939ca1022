"""Files compressed as a whole: gzip, bzip2, xz and Zstandard are read and written; others are recognised."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import lzma
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from skygraft.errors import CorruptFileError

__all__ = [
    "PACKED_SUFFIXES",
    "foreign_packing",
    "packing_of",
    "packing_of_name",
    "packing_writer",
    "unpack",
    "unpacked_head",
]

_MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_FOREIGN = {
    b"PK\x03\x04": ("a zip archive", "unzip"),
    b"\x1f\x9d": ("compressed by compress (.Z)", "uncompress"),
    b"\x04\x22\x4d\x18": ("compressed by lz4", "lz4 -d"),
    b"7z\xbc\xaf\x27\x1c": ("a 7-Zip archive", "7z x"),
}
_SUFFIXES = {".gz": "gzip", ".bz2": "bzip2", ".xz": "xz", ".zst": "zstd"}
PACKED_SUFFIXES = tuple(_SUFFIXES)
"""File name suffixes of the supported compressions."""
_GZIP_LEVEL = 4
_LONGEST_MAGIC = 6


def packing_of(head: bytes) -> str | None:
    """Return the compression of a file ("gzip", "bzip2", "xz", "zstd") from its first bytes, or None."""
    return next((name for magic, name in _MAGIC.items() if head.startswith(magic)), None)


def packing_of_name(path: str | os.PathLike[str]) -> str | None:
    """Return the compression that a file name asks for by its suffix, or None."""
    return _SUFFIXES.get(Path(path).suffix.lower())


def foreign_packing(content: bytes | memoryview) -> tuple[str, str] | None:
    """Recognise compressions that are not supported.

    Returns
    -------
    (str, str) or None
        What the file is, and the command that decompresses it; None for all other files.
    """
    head = bytes(content[:_LONGEST_MAGIC])
    return next((found for magic, found in _FOREIGN.items() if head.startswith(magic)), None)


def _reader(stream: Any, packing: str) -> Any:
    if packing == "gzip":
        return gzip.GzipFile(fileobj=stream)
    if packing == "bzip2":
        return bz2.BZ2File(stream)
    if packing == "xz":
        return lzma.LZMAFile(stream)
    import pyarrow as pa

    return pa.CompressedInputStream(stream, "zstd")


_DAMAGE = (EOFError, OSError, zlib.error, lzma.LZMAError)


def unpack(stream: IO[bytes], packing: str, path: str | os.PathLike[str]) -> bytes:
    """Return the whole content of a compressed file.

    Parameters
    ----------
    stream : file object
        The file, open for reading bytes.
    packing : str
        Its compression, from `packing_of`.
    path : path-like
        Its name, for errors.

    Raises
    ------
    CorruptFileError
        If the compressed stream is damaged or truncated.
    """
    try:
        with _reader(stream, packing) as unpacked:
            content: bytes = unpacked.read()
    except _DAMAGE as error:
        raise CorruptFileError(
            f"the {packing} stream is damaged ({error})", path=path, fix="Copy or download the file again"
        ) from error
    return content


def unpacked_head(path: str | os.PathLike[str], size: int) -> bytes:
    """Return the first `size` bytes of a file, decompressed; no bytes if it cannot be read."""
    try:
        with Path(path).open("rb") as stream:
            head = stream.read(max(size, _LONGEST_MAGIC))
            packing = packing_of(head)
            if packing is not None:
                stream.seek(0)
                with _reader(stream, packing) as unpacked:
                    head = unpacked.read(size)
    except _DAMAGE:
        return b""
    return head[:size]


@contextlib.contextmanager
def packing_writer(stream: IO[bytes], path: str | os.PathLike[str]) -> Iterator[Any]:
    """Context that yields a file object which compresses according to the suffix of `path`.

    The same content always gives the same bytes.
    """
    packing = packing_of_name(path)
    if packing == "gzip":
        # Name and time are left out of the gzip header, so that the bytes depend on the content only.
        with gzip.GzipFile("", "wb", _GZIP_LEVEL, stream, mtime=0) as packed:
            yield packed
    elif packing == "bzip2":
        with bz2.BZ2File(stream, "wb") as packed:
            yield packed
    elif packing == "xz":
        with lzma.LZMAFile(stream, "wb") as packed:
            yield packed
    elif packing == "zstd":
        import pyarrow as pa

        # Closing pyarrow's stream would close the file too, which the caller still has to sync.
        sink = pa.BufferOutputStream()
        with pa.CompressedOutputStream(sink, "zstd") as packed:
            yield packed
        stream.write(sink.getvalue())
    else:
        yield stream
