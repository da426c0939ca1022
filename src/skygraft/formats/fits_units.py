"""The unit of an image's pixels: BUNIT, what its comment adds, and what it means where there is none."""

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
    """The unit of the pixels, and who says so.

    Parameters
    ----------
    unit : PixelUnit
        The unit; counts where nothing says.
    stated : bool
        Whether the caller or BUNIT says so.
    doubt : str
        Why the number of electrons of one unit is in doubt; "" where it is not.
    """

    unit: PixelUnit
    stated: bool
    doubt: str = ""

    @property
    def name(self) -> str:
        """Its one spelling in skygraft."""
        return self.unit.name


def image_unit(headers: Headers, given: str | None = None) -> ImageUnit:
    """The unit of the pixels: as given, or BUNIT, or ``adu`` where neither says.

    "counts", which may be of anything, are electrons where the comment of BUNIT says so; an "adu" of electrons is
    a contradiction.
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
