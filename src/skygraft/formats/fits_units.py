"""Determine the unit of an image's pixels from BUNIT and its comment."""

from __future__ import annotations

import re
from dataclasses import dataclass

from skygraft.formats.fits_headers import Headers
from skygraft.photometry import PixelUnit, parse_unit

__all__ = ["ImageUnit", "image_unit"]

_ELECTRONS = re.compile(r"(photo-?)?electrons?\b|\be-(?=\W|$)", re.IGNORECASE)
_CONVERSION = re.compile(r"gain|adu|multipl|conver|/\s*(?:count|ct|dn)", re.IGNORECASE)
_PER_SECOND = re.compile(r"(per|/)\s*s(ec(onds?)?)?\b|s\^?-1\b", re.IGNORECASE)
_EXPLICIT = re.compile(r"adu|\bdns?\b", re.IGNORECASE)


@dataclass(frozen=True)
class ImageUnit:
    """The unit of the pixels, and whether it is certain.

    Parameters
    ----------
    unit : PixelUnit
        The unit; counts by default.
    stated : bool
        Whether the caller or BUNIT states it.
    doubt : str
        Why it is in doubt whether the unit is counts or electrons; "" if it is not.
    """

    unit: PixelUnit
    stated: bool
    doubt: str = ""

    @property
    def name(self) -> str:
        """Name of the unit in skygraft's spelling."""
        return self.unit.name


def image_unit(headers: Headers, given: str | None = None) -> ImageUnit:
    """Return the unit of the pixels: the given one, or BUNIT, or else ``adu``.

    "counts" in BUNIT are electrons if its comment says so; "adu" with a comment about electrons is in doubt.

    Parameters
    ----------
    headers : Headers
        Headers of the image.
    given : str, optional
        Unit given by the caller.

    Returns
    -------
    ImageUnit
    """
    if given is not None:
        return ImageUnit(parse_unit(given), stated=True)
    card = headers.find("BUNIT")
    if card is None or not str(card.value).strip():
        return ImageUnit(parse_unit(""), stated=False)
    text, comment = str(card.value).strip(), card.comment.strip()
    unit = parse_unit(text)
    if unit.kind != "counts" or not _ELECTRONS.search(comment) or _CONVERSION.search(comment):
        return ImageUnit(unit, stated=True)
    doubt = f"BUNIT = {text!r}, and its comment says {comment!r}"
    per_second = _PER_SECOND.search(comment) is not None
    if _EXPLICIT.search(text) or unit.scale != 1 or (per_second and not unit.per_second):
        return ImageUnit(unit, stated=True, doubt=doubt)
    return ImageUnit(parse_unit("electron/s" if unit.per_second else "electron"), stated=True)
