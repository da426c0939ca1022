"""Read the cards that give the size and layout of an HDU, and check them against the file.

Damaged cards give sizes that are negative or larger than any memory. No number from a header determines an allocation
or a loop before it was checked here (FITS standard 4.0, sections 4.4.1, 7.3 and 10.1).
"""

from __future__ import annotations

import functools
import math
import os
import re

from skygraft.errors import CorruptFileError

__all__ = ["BLOCK", "CARD", "COPY_AGAIN", "MOST_AXES", "card_text", "parse_card", "read_structure"]

BLOCK = 2880
"""Bytes of a FITS block; headers and data are padded to a multiple of it."""
CARD = 80
COPY_AGAIN = "Copy or download the file again"
MOST_AXES = 999
"""Largest number of axes of an image, and of columns of a table, in the standard."""
_MOST_CARDS = 200_000
"""Largest accepted number of cards in a header. Real ones have a few thousand; a million take minutes and a GB."""
_BITPIX = (8, 16, 32, 64, -32, -64)
_FORM_BYTES = {"L": 1, "B": 1, "I": 2, "J": 4, "K": 8, "A": 1, "E": 4, "D": 8, "C": 8, "M": 16, "P": 8, "Q": 16}
_FORM = re.compile(r"(\d{0,18})([LXBIJKAEDCMPQ])")
_WHOLE = re.compile(r"\s*([+-]?\d{1,40})\s*$")
_TEXT = re.compile(r"\s*'((?:[^']|'')*)'")
_ONCE = re.compile(
    r"(SIMPLE|XTENSION|BITPIX|NAXIS\d*|PCOUNT|GCOUNT|GROUPS|TFIELDS|THEAP|T(?:FORM|TYPE|SCAL|ZERO)\d+|BSCALE|BZERO|BLANK|"
    r"Z(?:IMAGE|BITPIX|NAXIS\d*|TILE\d+|CMPTYPE|NAME\d+|VAL\d+|QUANTIZ|DITHER0|SCALE|ZERO|BLANK))$"
)
"""Keywords that define how bytes become numbers: two different values of one keyword are an error."""
_HEADS = frozenset(
    b"SIMP XTEN BITP NAXI PCOU GCOU GROU TFIE THEA TFOR TTYP TSCA TZER BSCA BZER BLAN ZIMA ZBIT ZNAX ZTIL ZCMP ZNAM "
    b"ZVAL ZQUA ZDIT ZSCA ZZER ZBLA".split()
)
"""First four bytes of those keywords, to skip most cards quickly."""


def parse_card(card: bytes) -> tuple[str, str]:
    """Return keyword and unparsed value of one 80-byte card; HIERARCH is not part of the keyword."""
    if card[:9] == b"HIERARCH ":
        keyword, _, value = card[9:].partition(b"=")
        return keyword.decode("latin-1").strip().upper(), value.decode("latin-1")
    keyword = card[:8]
    value = card[10:] if card[8:10] == b"= " else b""
    return keyword.decode("latin-1").strip().upper(), value.decode("latin-1")


def card_text(value: str) -> str:
    """Return a value without its comment; of a string, also without its quotes and trailing blanks."""
    text = _TEXT.match(value)
    return value.split("/", maxsplit=1)[0].strip() if text is None else text.group(1).rstrip()


@functools.lru_cache(maxsize=1 << 12)  # most structural cards are the same in file after file
def _structural(card: bytes) -> tuple[str, str] | None:
    """Keyword and value of a card whose keyword matches `_ONCE`; None for any other card."""
    keyword, value = parse_card(card)
    return (keyword, card_text(value)) if _ONCE.match(keyword) else None


@functools.lru_cache(maxsize=1 << 10)
def _form_bytes(form: str) -> int | None:
    """Bytes per row of a column with this TFORM; None if the TFORM is invalid."""
    match = _FORM.match(form)
    if match is None:
        return None
    repeat, code = int(match[1] or 1), match[2]
    return (repeat + 7) // 8 if code == "X" else repeat * _FORM_BYTES[code]


@functools.lru_cache(maxsize=1 << 9)  # a file is scanned several times, and tables of a survey have the same headers
def _block_cards(block: bytes) -> tuple[tuple[tuple[str, str], ...], bytes | None]:
    """Structural cards of one block of a header, up to END, and the END card if the block contains it."""
    cards = []
    for i in range(0, len(block) - CARD + 1, CARD):
        head = block[i : i + 4]
        if head in _HEADS:
            found = _structural(block[i : i + CARD])
            if found is not None:
                cards.append(found)
        elif head == b"END " and block[i : i + 8] == b"END     ":
            return tuple(cards), block[i : i + CARD]
    return tuple(cards), None


class _Cards:
    """The structural cards of one header."""

    def __init__(self, path: str | os.PathLike[str], hdu: int) -> None:
        self.path, self.hdu = path, hdu
        self.values: dict[str, str] = {}

    def add(self, keyword: str, value: str) -> None:
        if keyword in ("XTENSION", "SIMPLE") and keyword in self.values:
            raise self.damaged(f"{keyword} is there twice: the END of this header is lost, and another one follows")
        if self.values.setdefault(keyword, value) != value:
            raise self.damaged(f"{keyword} is there twice, as {self.values[keyword]!r} and as {value!r}", keyword)

    def damaged(self, message: str, key: str | None = None, fix: str = COPY_AGAIN) -> CorruptFileError:
        return CorruptFileError(message, path=self.path, hdu=self.hdu, key=key, fix=fix)

    def text(self, key: str) -> str:
        return self.values.get(key, "")

    def number(self, key: str, default: int | None = None, *, least: int = 0, most: int | None = None) -> int:
        if key not in self.values and default is not None:
            return default
        match = _WHOLE.match(self.text(key))
        if match is None:
            raise self.damaged(f"the header lacks a whole number for {key}", key)
        value = int(match[1])
        if value < least or (most is not None and value > most):
            allowed = f"{least} or more" if most is None else f"{least} to {most}" if least < most else str(least)
            raise self.damaged(f"{key} is {value}; it can be {allowed}", key)
        return value

    def numbers(self, key: str, count: int, *, least: int = 0) -> list[int]:
        return [self.number(f"{key}{i + 1}", least=least) for i in range(count)]

    def bitpix(self, key: str) -> int:
        value = self.number(key, least=min(_BITPIX))
        if value not in _BITPIX:
            raise self.damaged(f"{key} is {value}; it is one of {', '.join(map(str, _BITPIX))}", key)
        return value


def read_structure(
    buffer: memoryview, start: int, path: str | os.PathLike[str], hdu: int, *, first: bool
) -> tuple[int, int]:
    """Read the structural cards of an HDU, check them, and find its data.

    Parameters
    ----------
    buffer : memoryview
        The bytes of the file.
    start : int
        First byte of the header.
    path, hdu
        For errors.
    first : bool
        Whether it is the primary HDU.

    Returns
    -------
    data_start, data_size : int
        First byte of the data, and their number of bytes without padding.

    Raises
    ------
    CorruptFileError
        If the header has no END card, or its cards contradict each other, the standard, or the length of the file.
    """
    cards, data_start = _read_cards(buffer, start, path, hdu)
    bitpix = cards.bitpix("BITPIX")
    axes = cards.numbers("NAXIS", cards.number("NAXIS", most=MOST_AXES))
    kind = "IMAGE" if first else cards.text("XTENSION")
    groups = first and bool(axes) and axes[0] == 0 and cards.text("GROUPS") == "T"
    if groups:
        axes = axes[1:]
    one, none = (None, None) if groups or kind not in ("IMAGE", "TABLE", "BINTABLE") else (1, 0)
    n_groups = cards.number("GCOUNT", 1, least=1, most=one)
    extra = cards.number("PCOUNT", 0, most=None if kind == "BINTABLE" else none)
    size = abs(bitpix) // 8 * n_groups * (extra + math.prod(axes)) if axes else 0
    if data_start + size > len(buffer):
        raise cards.damaged(
            f"the file is truncated: the data of this HDU need {size} bytes from byte {data_start} on, "
            f"the file ends at byte {len(buffer)}"
        )
    if kind in ("TABLE", "BINTABLE"):
        n_columns = cards.number("TFIELDS", most=MOST_AXES)
        if len(axes) != 2 or bitpix != 8:
            raise cards.damaged(f"a table has two axes of bytes; it has {len(axes)} of BITPIX = {bitpix}", "NAXIS")
        if kind == "BINTABLE":
            _check_table(cards, axes, n_columns, size)
    return data_start, size


def _read_cards(buffer: memoryview, start: int, path: str | os.PathLike[str], hdu: int) -> tuple[_Cards, int]:
    """Structural cards of a header, and the first byte after the header."""
    cards, size = _Cards(path, hdu), len(buffer)
    for block_start in range(start, min(size, start + _MOST_CARDS * CARD), BLOCK):
        found, end = _block_cards(bytes(buffer[block_start : block_start + BLOCK]))
        for card in found:
            cards.add(*card)
        if end is not None:
            if end.strip() != b"END":
                raise cards.damaged("the END card has something behind it", "END")
            return cards, min(block_start + BLOCK, size)
    if size - start > _MOST_CARDS * CARD:
        raise cards.damaged(f"the header has no END within {_MOST_CARDS} cards")
    raise cards.damaged(f"the file is truncated: it ends at byte {size}, inside the header that starts at byte {start}")


def _check_table(cards: _Cards, axes: list[int], n_columns: int, size: int) -> None:
    """Check that columns fill the rows, the heap is inside the data, and a compressed image has a row for each tile."""
    width, n_rows = axes
    filled = 0
    for i in range(1, n_columns + 1):
        form = cards.text(f"TFORM{i}")
        n_bytes = _form_bytes(form)
        if n_bytes is None:
            raise cards.damaged(f"TFORM{i} is {form!r}, which is not a column format", f"TFORM{i}")
        filled += n_bytes
    if filled != width:
        raise cards.damaged(f"the columns of the table take {filled} bytes of a row, and NAXIS1 is {width}", "NAXIS1")
    if not width and n_rows:
        raise cards.damaged(f"the table has {n_rows} rows of no bytes", "NAXIS1")
    cards.number("THEAP", width * n_rows, least=width * n_rows, most=size)
    if cards.text("ZIMAGE") == "T":
        _check_tiles(cards, n_rows)


def _check_tiles(cards: _Cards, n_rows: int) -> None:
    cards.bitpix("ZBITPIX")
    shape = cards.numbers("ZNAXIS", cards.number("ZNAXIS", least=1, most=MOST_AXES), least=1)
    tiles = [cards.number(f"ZTILE{i + 1}", n if i == 0 else 1, least=1) for i, n in enumerate(shape)]
    n_tiles = math.prod(-(-n // tile) for n, tile in zip(shape, tiles, strict=True))
    if n_tiles != n_rows:
        raise cards.damaged(f"the compressed image has {n_rows} rows for {n_tiles} tiles", "NAXIS2")
