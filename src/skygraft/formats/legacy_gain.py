"""Read the gain (electrons per image unit) of CCD images of the Legacy Surveys."""

from __future__ import annotations

import re

from skygraft.formats.fits_gain import RecordedGain
from skygraft.formats.fits_headers import Headers, finite_number
from skygraft.formats.fits_units import ImageUnit, image_unit
from skygraft.formats.legacy_tables import CcdRow

__all__ = ["PER_SECOND", "read_legacy_gain"]

PER_SECOND = {"90prime": True, "mosaic": True, "mosaic3": True, "decam": False}
"""Whether images of a camera are in photoelectrons per second (which headers call counts/s) or in ADU."""

_NO_ELECTRONS = re.compile(r"adu|\bdns?\b", re.IGNORECASE)
_HEADER_KEYS = (("GAINA", "GAINB"), ("ARAWGAIN",), ("GAIN",))


def read_legacy_gain(headers: Headers, row: CcdRow) -> RecordedGain:
    """Read the gain from the survey's table, or else from the amplifiers' gains in the header.

    For an image in photoelectrons per second, the gain is the exposure time.

    Parameters
    ----------
    headers : Headers
        Headers of the image.
    row : CcdRow
        Row of the image in the survey-ccds table.

    Returns
    -------
    RecordedGain
    """
    unit = image_unit(headers)
    if unit.doubt:
        return RecordedGain(None, reason=f"{unit.doubt}: counts or electrons?")
    if unit.unit.kind not in ("counts", "electrons"):
        return RecordedGain(None, reason=f"the image is in {unit.name}, not in counts")
    if PER_SECOND.get(row.text("camera").lower()):
        return _per_second(headers, row, unit)
    if unit.unit.kind == "electrons":
        return RecordedGain(1.0, "the image is in electrons")
    value = row.number("gain")
    if value is not None and value > 0:
        return RecordedGain(value, f"gain in {row.origin}")
    for keys in _HEADER_KEYS:
        cards = [card for card in headers.find_all(*keys) if (finite_number(card) or 0) > 0]
        if cards:
            mean = sum(float(card.value) for card in cards) / len(cards)
            keywords = f"{'mean of ' if len(cards) > 1 else ''}{' and '.join(card.key for card in cards)}"
            return RecordedGain(mean, f"{keywords} in the header of HDU {cards[0].hdu}")
    return RecordedGain(None, reason="neither the survey's table nor the header has a gain")


def _per_second(headers: Headers, row: CcdRow, unit: ImageUnit) -> RecordedGain:
    seconds, camera, card = row.number("exptime"), row.text("camera"), headers.find("BUNIT")
    if not seconds or seconds <= 0:
        return RecordedGain(None, reason=f"the image is per second, and the exposure time is {seconds}")
    bunit = "" if card is None else f"BUNIT = {str(card.value).strip()!r}"
    if unit.unit.kind == "electrons":
        comment = "" if card is None else card.comment.strip()
        return RecordedGain(seconds, f"photoelectrons per second ({bunit}, {comment!r}): the exposure time")
    if _NO_ELECTRONS.search(bunit):
        return RecordedGain(
            None, reason=f"{bunit}, and the survey takes images of {camera} for photoelectrons per second"
        )
    return RecordedGain(seconds, f"images of {camera} are in photoelectrons per second: the exposure time")
