"""Convert FITS header cards to and from text of 80 characters each, as used by astropy and wcslib."""

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
# Usual forms of numbers and strings, which are parsed here for speed; others are left to astropy.
_SIMPLE = re.compile(r" *(?:([+-]?\d+(?:\.\d*)?(?:E[+-]?\d+)?)|'((?:[^']|'')*)') *(?:/|$)")


def header_text(header: Mapping[str, Any] | str) -> str:
    """Return the cards of a header that have a value as text, 80 characters each, without END.

    Parameters
    ----------
    header : Header, mapping or str
        A FITS header, a mapping of keywords to values, or cards of 80 characters. It is not changed.
    """
    if isinstance(header, fits.Header):
        # Invalid cards, such as NaN for a number, become text; this is done on a copy.
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
    """Return a card as text; an invalid one (such as control characters) gets a value that is not a number."""
    try:
        return str(card)
    except (ValueError, fits.VerifyError):
        return card_of(card.keyword.upper()[:8], "unreadable")


def split(text: str) -> Iterator[tuple[str, str]]:
    """Iterate over keyword and card of each card in a text."""
    for i in range(0, len(text), _CARD):
        card = text[i : i + _CARD]
        yield card[:8].rstrip(), card


def has_wcs(header: Iterable[str]) -> bool:
    """Return whether a header has cards of a primary world coordinate system, valid or not.

    Parameters
    ----------
    header : iterable of str
        Keywords of the header.

    Returns
    -------
    bool
    """
    return "CTYPE1" in header or any(re.fullmatch(r"(CTYPE|AMDX)\d+", key) for key in header)


def names_tables(header: fits.Header) -> bool:
    """Return whether a header refers to lookup tables in other HDUs.

    Parameters
    ----------
    header : astropy.io.fits.Header

    Returns
    -------
    bool
    """
    return any(key.startswith(("CPDIS", "D2IMDIS")) for key in header)


def inherits(header: Mapping[str, Any], primary: fits.Header) -> bool:
    """Return whether an extension takes its WCS, or the reference frame of its WCS, from the primary header.

    An extension without CTYPE takes everything. An extension with its own WCS and INHERIT = T takes the reference frame
    if it does not name one, except FK5 of 2000: as in astropy, which reads the extension alone, that is treated as ICRS
    (0.02 arcsec apart).

    Parameters
    ----------
    header : mapping
        Header of the extension.
    primary : astropy.io.fits.Header
        Primary header.
    """
    if not has_wcs(header):
        return has_wcs(primary)
    if header.get("INHERIT") is not True or any(key in header for key in _FRAME_CARDS):
        return False
    text = header_text(primary)
    frame = [value_of(card) for key, card in split(text) if key in _FRAME_CARDS]
    return not all((value.strip() if isinstance(value, str) else value) in _SAME_AS_ICRS for value in frame)


def inherited(text: str, primary: str) -> str:
    """Return the cards of an extension that `inherits`, joined with those that it takes from the primary header.

    Parameters
    ----------
    text, primary : str
        Cards of the extension and of the primary header, 80 characters each; see `header_text`.
    """
    own = {key for key, _ in split(text)}
    frame_only = any(key.startswith(("CTYPE", "AMDX")) for key in own)
    left = (card for k, card in split(primary) if k not in own and (not frame_only or k in _FRAME_CARDS))
    return text + "".join(left)


def card_of(key: str, value: Any) -> str:
    """Return one card; floats have all their digits, for which astropy's own cards have no room."""
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
    # WCS cards are never longer.
    return card if len(card) == _CARD else ""


def value_of(card: str) -> Any:
    """Return the value of a card: None if it has none, text if it is invalid; strings keep trailing blanks."""
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
    """Return cards with some changed or added; cards whose new value is None, and blank cards, are removed.

    Parameters
    ----------
    text : str
        Cards of 80 characters; see `header_text`.
    changes : mapping of str to object
        New values by keyword.
    """
    left = dict(changes)
    cards = []
    for key, card in split(text):
        if not card[10:].strip():
            # wcslib loses the card that follows one of full length.
            continue
        if key not in changes:
            cards.append(card)
        elif left.get(key) is not None:
            cards.append(card_of(key, left.pop(key)))
    cards += [card_of(key, value) for key, value in left.items() if value is not None]
    return "".join(cards)
