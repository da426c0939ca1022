"""Headers of a FITS file by ranges of bytes, without its images.

A file that stands for one in a store (a stub) is filled with what is read of an image without its pixels: all headers,
all tables, and images so small that they are part of the calibration (distortion tables).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field

__all__ = ["CannotSkipError", "fill_headers"]

_BLOCK, _CARD = 2880, 80
_PIECE = 22 * _BLOCK
"""Bytes that are asked for at a time: most headers are shorter."""
_SMALL_FILE, _SMALL_HDU = 1 << 20, 1 << 20
_LARGEST_TABLE = 64 << 20
_MOST_HDUS = 2000
_VALUE = re.compile(rb"=\s*([+-]?\d+|T|F|'[^']*')")
_WANTED = re.compile(rb"(XTENSION|BITPIX|NAXIS\d*|PCOUNT|GCOUNT|GROUPS|ZIMAGE|ZNAXIS\d*)\s*$")


class CannotSkipError(Exception):
    """The file is not FITS, or nothing would be saved: all of it is needed."""


@dataclass
class _Pieces:
    """The bytes of a file that have been read."""

    read: Callable[[int, int], bytes]
    write: Callable[[int, bytes], None]
    size: int
    known: list[tuple[int, bytes]] = field(default_factory=list)
    n_bytes: int = 0

    def get(self, start: int, end: int) -> bytes:
        end = min(end, self.size)
        for at, content in self.known:
            if at <= start and end <= at + len(content):
                return content[start - at : end - at]
        # Not twice what the last piece has.
        content = self.read(start, min(max(end, start + _PIECE), self.size))
        if len(content) > max(end - start, _PIECE) and start > 0:
            raise CannotSkipError("the server gives whole files")
        if len(content) < end - start:
            raise CannotSkipError("the server gives fewer bytes than asked for")
        self.write(start, content)
        self.n_bytes += len(content)
        self.known = [*self.known[-1:], (start, content)]
        return content[: end - start]


def fill_headers(size: int, read: Callable[[int, int], bytes], write: Callable[[int, bytes], None]) -> int:
    """Read headers and tables of a FITS file, and write them where they belong.

    Parameters
    ----------
    size : int
        Size of the file, bytes.
    read : callable
        ``read(start, end)`` gives bytes of the file.
    write : callable
        ``write(start, content)`` receives them.

    Returns
    -------
    int
        Bytes that were read.

    Raises
    ------
    CannotSkipError
        If the whole file has to be read.
    """
    if size <= _SMALL_FILE:
        raise CannotSkipError("the file is small")
    pieces, start = _Pieces(read, write, size), 0
    for index in range(_MOST_HDUS):
        if start >= size:
            return pieces.n_bytes
        head = pieces.get(start, start + 10)
        if index == 0 and head[:9] != b"SIMPLE  =":
            raise CannotSkipError("the file is not FITS")
        if index and not head.startswith(b"XTENSION"):
            return pieces.n_bytes  # Bytes after the last HDU.
        cards, data_start = _header(pieces, start)
        n_bytes = _data_size(cards)
        is_table = cards.get("XTENSION", b"").strip(b"' ") in (b"BINTABLE", b"TABLE", b"A3DTABLE")
        if n_bytes <= _SMALL_HDU or (is_table and cards.get("ZIMAGE") != b"T"):
            if n_bytes > _LARGEST_TABLE:
                raise CannotSkipError("it has a large table")
            pieces.get(data_start, data_start + n_bytes)
        if pieces.n_bytes > size // 2:
            raise CannotSkipError("most of it is needed")
        start = data_start + -(-n_bytes // _BLOCK) * _BLOCK
    raise CannotSkipError("it has many HDUs")


def _header(pieces: _Pieces, start: int) -> tuple[dict[str, bytes], int]:
    """The cards that say how large the data are, and where these begin."""
    cards: dict[str, bytes] = {}
    at = start
    while at < pieces.size:
        block = pieces.get(at, at + _BLOCK)
        at += _BLOCK
        for i in range(0, len(block), _CARD):
            card = block[i : i + _CARD]
            if card[:8] == b"END     ":
                return cards, at
            if (name := _WANTED.match(card[:8])) and (value := _VALUE.match(card[8:])):
                cards[name[1].decode()] = value[1]
    raise CannotSkipError("a header has no end")  # whoever reads the file says so


def _data_size(cards: dict[str, bytes]) -> int:
    """Bytes of data, FITS standard 4.0, section 4.4.1 and, for random groups, 6.1.1."""

    def number(name: str, default: int) -> int:
        try:
            return int(cards.get(name, default))
        except ValueError:
            raise CannotSkipError("a header is damaged") from None

    axes = [number(f"NAXIS{i}", 0) for i in range(1, number("NAXIS", 0) + 1)]
    if not axes:
        return 0
    if axes[0] == 0 and cards.get("GROUPS") == b"T":
        axes = axes[1:]
    product = 1
    for axis in axes:
        product *= axis
    size = abs(number("BITPIX", 8)) // 8 * number("GCOUNT", 1) * (number("PCOUNT", 0) + product)
    if size < 0:
        raise CannotSkipError("a header is damaged")
    return size


def write_at(descriptor: int, start: int, content: bytes) -> None:
    """Write bytes at a place of an open file."""
    view = memoryview(content)
    while view:
        written = os.pwrite(descriptor, view, start)
        view, start = view[written:], start + written
