"""FITS header cards as text: 80 characters each, as astropy and wcslib take them."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from astropy.io import fits

__all__ = [
    "card_of",
    "changed",
    "has_wcs",
    "header_text",
    "inherited",
    "inherits",
    "names_tables",
    "split",
    "value_of",
]

_CARD = 80
_FRAME_CARDS = ("RADESYS", "RADECSYS", "EQUINOX", "EPOCH")
_SAME_AS_ICRS = (None, "", "ICRS", "FK5", 2000.0)
# Numbers and texts as nearly all cards have them; the others are left to astropy.
_SIMPLE = re.compile(r" *(?:([+-]?\d+(?:\.\d*)?(?:E[+-]?\d+)?)|'((?:[^']|'')*)') *(?:/|$)")


def header_text(header: Mapping[str, Any] | str) -> str:
    """The cards of a header with a value, 80 characters each, without END; the header is not changed.

    Parameters
    ----------
    header : Header, mapping or str
        A FITS header, keywords and values, or cards of 80 characters.

    """
    if isinstance(header, fits.Header):
        # Cards that are no standard FITS, such as NaN for a number, become text: on a copy.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            copied = header.copy()
            try:
                header = str(copied.tostring(sep="", endcard=False, padding=False))
            except (ValueError, fits.VerifyError):
                header = "".join(map(_image_of, copied.cards))
    if isinstance(header, str):
        cards = (header[i : i + _CARD] for i in range(0, len(header), _CARD))
        return "".join(card.ljust(_CARD) for card in cards if card[8:10] == "= ")
    return "".join(card_of(str(key).upper(), value) for key, value in header.items() if len(str(key)) <= 8)


def _image_of(card: fits.Card) -> str:
    """A card as text; one of which FITS makes nothing, such as control characters, has a value that is no number."""
    try:
        return str(card)
    except (ValueError, fits.VerifyError):
        return card_of(card.keyword.upper()[:8], "unreadable")


def split(text: str) -> Iterator[tuple[str, str]]:
    """Keyword and card of each card of a text."""
    for i in range(0, len(text), _CARD):
        card = text[i : i + _CARD]
        yield card[:8].rstrip(), card


def has_wcs(header: Iterable[str]) -> bool:
    """Whether a header has cards of a primary world coordinate system, usable or not."""
    return "CTYPE1" in header or any(re.fullmatch(r"(CTYPE|AMDX)\d+", key) for key in header)


def names_tables(header: fits.Header) -> bool:
    """Whether a header refers to lookup tables in other HDUs."""
    return any(key.startswith(("CPDIS", "D2IMDIS")) for key in header)


def inherits(header: Mapping[str, Any], primary: fits.Header) -> bool:
    """Whether an extension leaves its WCS, or the reference frame of it, to the primary header.

    One without CTYPE leaves all to it. One with a WCS of its own that inherits (INHERIT = T) is in the reference frame
    of the primary header if it names none; FK5 of 2000 is taken for ICRS there, as astropy does, which reads the
    extension alone: they are 0.02 arcsec apart.
    """
    if not has_wcs(header):
        return has_wcs(primary)
    if header.get("INHERIT") is not True or any(key in header for key in _FRAME_CARDS):
        return False
    text = header_text(primary)
    frame = [value_of(card) for key, card in split(text) if key in _FRAME_CARDS]
    return not all((value.strip() if isinstance(value, str) else value) in _SAME_AS_ICRS for value in frame)


def inherited(text: str, primary: str) -> str:
    """The cards of an extension that `inherits`, with those of the primary header: all, or those of the frame.

    Parameters
    ----------
    text, primary : str
        Cards of 80 characters; see `header_text`.
    """
    own = {key for key, _ in split(text)}
    frame_only = any(key.startswith(("CTYPE", "AMDX")) for key in own)
    left = (card for k, card in split(primary) if k not in own and (not frame_only or k in _FRAME_CARDS))
    return text + "".join(left)


def card_of(key: str, value: Any) -> str:
    """One card; a float has all its digits, for which astropy's own cards have no room."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, fits.card.Undefined):
        text = ""
    elif isinstance(value, bool):
        text = "T" if value else "F"
    elif isinstance(value, str):
        text = "'" + value.replace("'", "''").ljust(8) + "'"
    else:
        text = repr(value).upper() if isinstance(value, float) else str(value)
    card = f"{key:8}= {text:>20}".ljust(_CARD)
    # No card of a WCS is longer.
    return card if len(card) == _CARD else ""


def value_of(card: str) -> Any:
    """Value of a card, None where it has none, text where it is no FITS; texts keep the blanks at their end."""
    simple = _SIMPLE.match(card, 10)
    if simple is not None:
        number, text = simple.groups()
        if text is not None:
            return text.replace("''", "'")
        return int(number) if number.lstrip("+-").isdecimal() else float(number)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            value = fits.Card.fromstring(card).value
        except (ValueError, fits.VerifyError):
            return card[10:].split("/", maxsplit=1)[0].strip()
    return None if isinstance(value, fits.card.Undefined) else value


def changed(text: str, changes: Mapping[str, Any]) -> str:
    """Cards with some changed or added; those whose new value is None, and blank ones, are left out."""
    left = dict(changes)
    cards = []
    for key, card in split(text):
        if not card[10:].strip():
            # wcslib loses the card behind one that ends here.
            continue
        if key not in changes:
            cards.append(card)
        elif left.get(key) is not None:
            cards.append(card_of(key, left.pop(key)))
    cards += [card_of(key, value) for key, value in left.items() if value is not None]
    return "".join(cards)
