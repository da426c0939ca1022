"""The bytes of ASDF files: their YAML tree, and binary blocks that are read one by one.

Layout: ASDF Standard 1.6.0, "Low-level file layout" (https://asdf-standard.readthedocs.io).
"""

from __future__ import annotations

import bz2
import contextlib
import hashlib
import math
import mmap
import os
import re
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skygraft.errors import CorruptFileError, FormatError
from skygraft.wcs import require_asdf

__all__ = [
    "BLOCK_HEADER",
    "BLOCK_MAGIC",
    "INDEX_MAGIC",
    "AsdfArray",
    "AsdfFile",
    "BlockSpan",
    "is_asdf",
    "lz4_library",
    "map_asdf",
    "read_tree",
]

MAGIC = b"#ASDF "
BLOCK_MAGIC = b"\xd3BLK"
"""What a block begins with."""
INDEX_MAGIC = b"#ASDF BLOCK INDEX"
"""What the index of the blocks begins with."""
BLOCK_HEADER = struct.Struct(">I4sQQQ16s")
"""Header of a block, after magic number and size: flags, compression, bytes allocated, used and of the data, MD5."""
_TREE_END = re.compile(rb"\r?\n\.\.\.\r?\n")
_STREAMED = 1
_AGAIN = "Copy or download the file again"


@dataclass(frozen=True)
class BlockSpan:
    """Header and byte positions of one block.

    Parameters
    ----------
    index : int
        Number of the block, 0 for the first.
    start : int
        First byte (of the magic number).
    header_size : int
        Bytes of the header after its size.
    flags : int
        Flags of the header.
    compression : bytes
        Four letters, without trailing zeros: ``b""``, ``b"zlib"``, ``b"bzp2"`` or ``b"lz4"``.
    allocated, used, size : int
        Bytes reserved, used, and of the data when it is not compressed.
    checksum : bytes
        MD5 of the used bytes; zeros for none.
    """

    index: int
    start: int
    header_size: int
    flags: int
    compression: bytes
    allocated: int
    used: int
    size: int
    checksum: bytes

    @property
    def data_start(self) -> int:
        """First byte of the data."""
        return self.start + len(BLOCK_MAGIC) + 2 + self.header_size

    @property
    def end(self) -> int:
        """First byte after the block."""
        return self.data_start + self.allocated


@dataclass(frozen=True)
class AsdfArray:
    """An array of a tree: where its numbers are.

    Parameters
    ----------
    source : int
        Number of its block.
    dtype : dtype
        Type of the stored numbers.
    shape : tuple of int
        Its shape.
    offset : int
        First byte in the block.
    """

    source: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int = 0

    @property
    def n_bytes(self) -> int:
        """Bytes of its numbers."""
        return math.prod(self.shape) * self.dtype.itemsize

    @classmethod
    def of(cls, node: Any, name: str, path: str | os.PathLike[str]) -> AsdfArray:
        """Read the description of an array in a tree.

        Parameters
        ----------
        node : mapping
            A ``core/ndarray``.
        name : str
            Its key, for errors.
        path : path-like
            The file, for errors.

        Raises
        ------
        FormatError
            If it is not an array of numbers in a block of this file, one after the other.
        """
        place: dict[str, Any] = {"path": path, "key": name}
        if not isinstance(node, Mapping) or not isinstance(node.get("source"), int) or "mask" in node:
            raise FormatError(
                f"{name} is no array in a block of this file", **place, fix="Save it with its arrays in the file"
            )
        try:
            dtype = np.dtype(str(node["datatype"])).newbyteorder("<" if node.get("byteorder") == "little" else ">")
            shape = tuple(int(n) for n in node["shape"])
            offset = int(node.get("offset", 0))
        except (KeyError, TypeError, ValueError) as error:
            raise FormatError(
                f"the description of {name} is incomplete or not understood ({error})", **place
            ) from error
        if dtype.kind not in "iuf" or offset < 0 or any(n < 0 for n in shape):
            raise FormatError(f"{name} is an array of {node['datatype']}; numbers are needed", **place)
        steps = [dtype.itemsize * math.prod(shape[i + 1 :]) for i in range(len(shape))]
        if node.get("strides") is not None and list(node["strides"]) != steps:
            raise FormatError(
                f"the numbers of {name} are not stored one after the other (strides {node['strides']})",
                **place,
                fix="Save it as a contiguous array",
            )
        return cls(node["source"], dtype, shape, offset)


@dataclass(frozen=True)
class AsdfFile:
    """The bytes of an ASDF file.

    Parameters
    ----------
    path : Path
        The file.
    buffer : memoryview
        Its bytes.
    spans : tuple of BlockSpan
        The blocks, in order.
    versions : (str, str)
        Of the file format, and of the ASDF Standard ("" if it is not stated).
    """

    path: Path
    buffer: memoryview
    spans: tuple[BlockSpan, ...]
    versions: tuple[str, str]

    def block(self, index: int) -> memoryview:
        """Return the data of a block, decompressed.

        Raises
        ------
        CorruptFileError
            If there is no such block, or it is damaged.
        FormatError
            If its compression is not known.
        """
        if not 0 <= index < len(self.spans):
            raise CorruptFileError(
                f"the tree refers to block {index}, and the file has {len(self.spans)}", path=self.path, fix=_AGAIN
            )
        span = self.spans[index]
        used = self.buffer[span.data_start : span.data_start + span.used]
        if span.checksum.strip(b"\0") and hashlib.md5(used, usedforsecurity=False).digest() != span.checksum:
            raise CorruptFileError(
                f"block {index} is damaged: its checksum is not the one stored", path=self.path, fix=_AGAIN
            )
        if not span.compression:
            return used
        try:
            data = _decompress(span.compression, used, span.size, self.path)
        except (zlib.error, OSError, ValueError, EOFError, RuntimeError, struct.error) as error:
            raise CorruptFileError(f"block {index} is damaged ({error})", path=self.path, fix=_AGAIN) from error
        if len(data) != span.size:
            raise CorruptFileError(
                f"block {index} holds {len(data)} bytes, not {span.size} as its header says",
                path=self.path,
                fix=_AGAIN,
            )
        return memoryview(data)

    def read(self, array: AsdfArray, name: str) -> NDArray[Any]:
        """Return a copy of an array, in native byte order.

        Parameters
        ----------
        array : AsdfArray
            Where it is.
        name : str
            Its key, for errors.

        Raises
        ------
        CorruptFileError
            If its block is damaged or too small.
        """
        data = self.block(array.source)
        if array.offset + array.n_bytes > len(data):
            raise CorruptFileError(
                f"{name} needs {array.n_bytes} bytes of block {array.source}, which holds {len(data) - array.offset}",
                path=self.path,
                key=name,
                fix=_AGAIN,
            )
        part = data[array.offset : array.offset + array.n_bytes]
        return np.frombuffer(part, array.dtype).reshape(array.shape).astype(array.dtype.newbyteorder("="))


def is_asdf(path: str | os.PathLike[str]) -> bool:
    """Return whether a file begins as an ASDF file does."""
    try:
        with Path(path).open("rb") as stream:
            return stream.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


@contextlib.contextmanager
def map_asdf(path: str | os.PathLike[str]) -> Iterator[AsdfFile]:
    """Open an ASDF file and find its blocks, without reading their data.

    Parameters
    ----------
    path : path-like
        The file.

    Yields
    ------
    AsdfFile

    Raises
    ------
    CorruptFileError
        If it is missing, empty, not ASDF, or truncated.
    """
    path = Path(path)
    try:
        stream = path.open("rb")
    except OSError as error:
        raise CorruptFileError(
            f"the file cannot be opened ({error.strerror or error})", path=path, fix="Check the path and permissions"
        ) from error
    with stream:
        size = os.fstat(stream.fileno()).st_size
        if not size or stream.read(len(MAGIC)) != MAGIC:
            raise CorruptFileError(
                "the file is empty (0 bytes)" if not size else "this is no ASDF file", path=path, fix=_AGAIN
            )
        mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        buffer = memoryview(mapped)
        try:
            end = _TREE_END.search(mapped)
            if end is None:
                raise CorruptFileError("the file ends within its YAML tree", path=path, fix=_AGAIN)
            yield AsdfFile(path, buffer, _blocks(buffer, end.end(), path), _versions(bytes(buffer[:200])))
        finally:
            # Arrays that still refer to the file keep it mapped.
            with contextlib.suppress(BufferError):
                buffer.release()
                mapped.close()


def _versions(head: bytes) -> tuple[str, str]:
    lines = head.decode("ascii", errors="replace").splitlines()
    standard = next((line.split()[-1] for line in lines[1:6] if line.startswith("#ASDF_STANDARD ")), "")
    return lines[0].split()[-1], standard


def _blocks(buffer: memoryview, position: int, path: Path) -> tuple[BlockSpan, ...]:
    spans: list[BlockSpan] = []
    # Padding may follow the tree.
    while position < len(buffer) and buffer[position] == 0:
        position += 1
    while bytes(buffer[position : position + len(BLOCK_MAGIC)]) == BLOCK_MAGIC:
        start, head = position, position + len(BLOCK_MAGIC)
        size = int.from_bytes(buffer[head : head + 2], "big")
        raw = bytes(buffer[head + 2 : head + 2 + BLOCK_HEADER.size])
        if size < BLOCK_HEADER.size or len(raw) < BLOCK_HEADER.size:
            raise CorruptFileError(f"the header of block {len(spans)} is damaged", path=path, fix=_AGAIN)
        flags, compression, allocated, used, data_size, checksum = BLOCK_HEADER.unpack(raw)
        if flags & _STREAMED:
            raise FormatError(
                f"block {len(spans)} is a stream of unknown size", path=path, fix="Save the file as a whole"
            )
        span = BlockSpan(
            len(spans), start, size, flags, compression.rstrip(b"\0"), allocated, used, data_size, checksum
        )
        if used > allocated or span.end > len(buffer) or (not span.compression and used != data_size):
            raise CorruptFileError(
                f"block {span.index} should end at byte {span.end}, and the file has {len(buffer)}"
                if span.end > len(buffer)
                else f"the header of block {span.index} contradicts itself",
                path=path,
                fix=_AGAIN,
            )
        spans.append(span)
        position = span.end
    rest = bytes(buffer[position : position + len(INDEX_MAGIC)])
    if rest.strip(b"\0") and rest != INDEX_MAGIC:
        raise CorruptFileError(
            f"byte {position}, after {len(spans)} blocks, begins neither a block nor the index", path=path, fix=_AGAIN
        )
    return tuple(spans)


def lz4_library(path: str | os.PathLike[str]) -> Any:
    """Return the module that compresses and decompresses lz4 blocks.

    Parameters
    ----------
    path : path-like
        The file, for the error.

    Raises
    ------
    FormatError
        If it is not installed.
    """
    try:
        import lz4.block
    except ImportError as error:
        raise FormatError(
            "a block is compressed with lz4, and the Python package lz4 is not installed",
            path=path,
            fix="Install it: pip install lz4",
        ) from error
    return lz4.block


def _decompress(kind: bytes, used: memoryview, size: int, path: Path) -> bytes | bytearray:
    if kind == b"zlib":
        engine = zlib.decompressobj()
        return engine.decompress(used, size + 1)
    if kind == b"bzp2":
        return bz2.BZ2Decompressor().decompress(used, size + 1)
    if kind == b"lz4":
        lz4, parts, position = lz4_library(path), bytearray(), 0
        while position < len(used):
            (length,) = struct.unpack_from("!I", used, position)
            part = used[position + 4 : position + 4 + length]
            # The part begins with its size, which a damaged file could make gigabytes.
            if len(part) < 4 or struct.unpack_from("<I", part)[0] > size - len(parts):
                raise ValueError("a part has the wrong size")
            parts += lz4.decompress(part)
            position += 4 + length
        return parts
    raise FormatError(
        f"a block is compressed with {kind.decode('ascii', 'replace')!r}; zlib, bzp2 and lz4 can be read",
        path=path,
        fix="Save the file with one of these, or without compression",
    )


def read_tree(path: str | os.PathLike[str]) -> Any:
    """Return the tree of an ASDF file as plain Python values that know their tags; arrays are descriptions.

    Parameters
    ----------
    path : path-like
        The file.

    Raises
    ------
    ConfigError
        If the extra ``skygraft[asdf]`` is not installed.
    CorruptFileError
        If it is not YAML.
    """
    require_asdf("an ASDF file", path)
    import yaml
    from asdf.util import load_yaml

    try:
        with Path(path).open("rb") as stream:
            return load_yaml(stream, tagged=True)
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, RecursionError, KeyError, OSError) as error:
        lines = str(error).strip().splitlines()
        raise CorruptFileError(
            f"its YAML tree cannot be read ({lines[0][:200] if lines else type(error).__name__})",
            path=path,
            fix=_AGAIN,
        ) from error
