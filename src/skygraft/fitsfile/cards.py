"""Change some cards of a FITS header, leave every other byte unchanged, and update its checksums."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.io.fits.verify import VerifyError, VerifyWarning

from skygraft.errors import CorruptFileError, OutputError
from skygraft.fitsfile.structure import BLOCK, CARD, COPY_AGAIN, parse_card

__all__ = [
    "CardUpdates",
    "card_value",
    "checksum_cards",
    "datasum",
    "edit_cards",
    "finite_value",
    "header_of",
    "join_cards",
    "whole_value",
]

type CardUpdates = Mapping[str, tuple[Any, str] | None]
"""Maps a keyword (a long one becomes a HIERARCH card) to value and comment; None removes the card."""

_COMMENTARY = ("COMMENT", "HISTORY", "")
_COMMENTARY_WIDTH = 72
_MIN_COMMENT = 8
"""Shortest part of a comment worth writing; where less fits into the card, the comment is left out."""
_CONTINUE = b"CONTINUE  "


def header_of(cards: Iterable[bytes]) -> fits.Header:
    """Return the astropy header of raw 80-byte cards, given without END."""
    return fits.Header.fromstring(b"".join(cards) + b"END".ljust(CARD))


def card_value(header: fits.Header, key: str, default: Any = None) -> Any:
    """Return a header value, or the default where the card is absent or has no value.

    Parameters
    ----------
    header : astropy.io.fits.Header
    key : str
        Keyword.
    default : object
    """
    value = header.get(key, default)
    return default if isinstance(value, fits.card.Undefined) else value


def finite_value(
    header: fits.Header,
    key: str,
    default: float,
    *,
    zero: bool = True,
    path: str | os.PathLike[str] | None = None,
    hdu: int | None = None,
) -> float:
    """Return a finite number from a header, or the default where the card is absent or has no value.

    Parameters
    ----------
    header : astropy.io.fits.Header
    key : str
        Keyword.
    default : float
    zero : bool
        Whether 0 is allowed.
    path, hdu : optional
        For errors.

    Raises
    ------
    CorruptFileError
        If the value is text or not finite, or zero where that is not allowed.
    """
    value = card_value(header, key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise CorruptFileError(
            f"{key} is {value!r}; a finite number is needed", path=path, hdu=hdu, key=key, fix=COPY_AGAIN
        )
    if not zero and value == 0:
        raise CorruptFileError(
            f"{key} is 0, which makes all pixels the same", path=path, hdu=hdu, key=key, fix=COPY_AGAIN
        )
    return float(value)


def whole_value(
    header: fits.Header,
    key: str,
    *,
    path: str | os.PathLike[str] | None = None,
    hdu: int | None = None,
) -> int | None:
    """Return an integer from a header, or None where the card is absent or has no value.

    Parameters
    ----------
    header : astropy.io.fits.Header
    key : str
        Keyword.
    path, hdu : optional
        For errors.

    Raises
    ------
    CorruptFileError
        If the value is not an integer.
    """
    value = card_value(header, key)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
        raise CorruptFileError(
            f"{key} is {value!r}; a whole number is needed", path=path, hdu=hdu, key=key, fix=COPY_AGAIN
        )
    return value


def _make_cards(key: str, value: Any, comment: str, path: str | os.PathLike[str], hdu: int) -> list[bytes]:
    if isinstance(value, np.generic):
        value = value.item()
    if not isinstance(value, bool | int | float | str) or (isinstance(value, float) and not np.isfinite(value)):
        raise OutputError(f"{value!r} cannot be a header value", path=path, hdu=hdu, key=key)
    if key in _COMMENTARY:
        text = str(value)
        lines = [text[i : i + _COMMENTARY_WIDTH] for i in range(0, max(len(text), 1), _COMMENTARY_WIDTH)]
        return [_card(key, line, "", path, hdu) for line in lines]
    image = _card(key, value, "", path, hdu)
    # Comments are truncated to fit, values never. (astropy would warn about a long comment.)
    room = CARD - len(image.rstrip()) - len(" / ")
    if comment and len(image) == CARD and room >= len(comment[:_MIN_COMMENT]):
        image = _card(key, value, comment[:room], path, hdu)
    return [image[i : i + CARD] for i in range(0, len(image), CARD)]


def _card(key: str, value: Any, comment: str, path: str | os.PathLike[str], hdu: int) -> bytes:
    try:
        name = f"HIERARCH {key}" if len(key) > 8 or " " in key else key
        with warnings.catch_warnings():
            # astropy truncates the comment where the card is too long.
            warnings.simplefilter("ignore", VerifyWarning)
            image: str = fits.Card(name, value, comment).image
        return image.encode("ascii")
    except (ValueError, VerifyError, UnicodeEncodeError) as error:
        raise OutputError(f"no FITS card can hold {value!r} ({error})", path=path, hdu=hdu, key=key) from error


def edit_cards(
    cards: Sequence[bytes], updates: CardUpdates, *, path: str | os.PathLike[str] = "", hdu: int = 0
) -> list[bytes]:
    """Return cards with some changed, added or removed; the others keep their bytes.

    Parameters
    ----------
    cards : sequence of bytes
        80-byte cards, without END.
    updates : mapping
        See `CardUpdates`. An existing card keeps its place (and its comment, if the new one is ""); a new card is
        placed after the last card that is not blank; COMMENT and HISTORY cards are always added.
    path, hdu
        For errors.

    Returns
    -------
    list of bytes
        80-byte cards, without END.

    Raises
    ------
    OutputError
        If a value cannot be put in a card.
    """
    out = list(cards)
    for raw_key, update in updates.items():
        key = raw_key.upper().removeprefix("HIERARCH ").strip()
        where = None if key in _COMMENTARY else _find(out, key)
        if update is None:
            if where is not None:
                del out[slice(*where)]
            continue
        value, comment = update
        if where is not None:
            if not comment:
                comment = str(header_of(out[slice(*where)]).comments[key])
            out[slice(*where)] = _make_cards(key, value, comment, path, hdu)
        else:
            end = len(out)
            while end and not out[end - 1].strip():
                end -= 1
            new = _make_cards(key, value, comment, path, hdu)
            # Blank cards at the end are space reserved for new cards.
            out[end : min(end + len(new), len(out))] = new
    return out


def _find(cards: Sequence[bytes], key: str) -> tuple[int, int] | None:
    for i, card in enumerate(cards):
        if parse_card(card)[0] == key:
            end = i + 1
            while end < len(cards) and cards[end].startswith(_CONTINUE):
                end += 1
            return i, end
    return None


def join_cards(cards: Sequence[bytes]) -> bytes:
    """Return the bytes of a header: cards, END, and blanks up to a multiple of 2880 bytes."""
    raw = b"".join(cards) + b"END".ljust(CARD)
    return raw.ljust(-(-len(raw) // BLOCK) * BLOCK)


def datasum(parts: Iterable[bytes | memoryview], start: int = 0) -> int:
    """Return the ones' complement sum of big-endian 32-bit words (FITS standard 4.0, appendix J).

    Parameters
    ----------
    parts : iterable of bytes
        Summed as if joined, and padded with zeros to a multiple of four bytes.
    start : int
        Sum of the words before them.
    """
    total, left = start, b""
    for part in parts:
        view = memoryview(part).cast("B")
        if left:
            need = min(4 - len(left), len(view))
            left, view = left + bytes(view[:need]), view[need:]
            if len(left) < 4:
                continue
            total += int.from_bytes(left, "big")
        whole = len(view) // 4 * 4
        total += int(np.frombuffer(view[:whole], dtype=">u4").sum(dtype=np.uint64))
        left = bytes(view[whole:])
    if left:
        total += int.from_bytes(left.ljust(4, b"\0"), "big")
    while total >> 32:
        total = (total & 0xFFFFFFFF) + (total >> 32)
    return total


def _encode_checksum(value: int) -> str:
    """Encode a checksum as 16 letters and digits (FITS standard 4.0, appendix J.2)."""
    excluded = set(range(0x3A, 0x41)) | set(range(0x5B, 0x61))
    grid = np.zeros((4, 4), dtype=int)
    for i, byte in enumerate(value.to_bytes(4, "big")):
        quarter, remainder = divmod(byte, 4)
        letters = [quarter + 0x30 + remainder, quarter + 0x30, quarter + 0x30, quarter + 0x30]
        while any(letter in excluded for letter in letters):
            for j in (0, 2):
                if letters[j] in excluded or letters[j + 1] in excluded:
                    letters[j] += 1
                    letters[j + 1] -= 1
        grid[:, i] = letters
    text = "".join(chr(c) for c in grid.ravel())
    return text[-1] + text[:-1]


def checksum_cards(cards: Sequence[bytes], data: Sequence[bytes | memoryview]) -> list[bytes]:
    """Return cards with DATASUM and CHECKSUM updated; they are not added where the header has none.

    Parameters
    ----------
    cards : sequence of bytes
        80-byte cards, without END.
    data : sequence of bytes
        The data of the HDU, in parts.

    Returns
    -------
    list of bytes
        80-byte cards, without END.
    """
    keys = {parse_card(card)[0] for card in cards}
    if not keys & {"CHECKSUM", "DATASUM"}:
        return list(cards)
    total = datasum(data)
    if "DATASUM" in keys:
        cards = edit_cards(cards, {"DATASUM": (str(total), "")})
    if "CHECKSUM" not in keys:
        return list(cards)
    cards = edit_cards(cards, {"CHECKSUM": ("0" * 16, "")})
    whole = datasum([join_cards(cards)], total)
    return edit_cards(cards, {"CHECKSUM": (_encode_checksum(0xFFFFFFFF - whole), "")})
