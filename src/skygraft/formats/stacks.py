"""What coadds that SWarp made have in common: an equivalent gain, and no exposure of their own."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from skygraft.exposure import DataId
from skygraft.formats.fits import FitsOptions
from skygraft.formats.fits_gain import RecordedGain
from skygraft.formats.fits_headers import Headers, finite_number

__all__ = ["equivalent_gain", "of_a_stack"]

_EQUIVALENT = re.compile(r"equivalent|effective", re.IGNORECASE)


def equivalent_gain(headers: Headers) -> RecordedGain:
    """Return the gain of a stack as SWarp records it: the sum over its images of gain over flux scale.

    SWarp writes ``GAIN = ... / Maximum equivalent gain (e-/ADU)``, and zero if it did not know the gains. A GAIN
    without that comment may be that of a detector, which says nothing of a stack that was scaled.

    Parameters
    ----------
    headers : Headers
        Headers of the stack.

    Returns
    -------
    RecordedGain
        In electrons per image unit, whatever the unit is called.
    """
    card = headers.find("GAIN")
    if card is None:
        return RecordedGain(None, reason="the image is a stack, and its equivalent gain is not recorded (no GAIN)")
    value = finite_number(card)
    if value is None or value <= 0 or not _EQUIVALENT.search(card.comment):
        return RecordedGain(
            None,
            reason=f"the image is a stack, and GAIN = {card.value} ({card.comment.strip() or 'no comment'}) is not its "
            "equivalent gain",
        )
    return RecordedGain(value, f"GAIN in the header of HDU {card.hdu}, the equivalent gain of a stack")


def of_a_stack(found: DataId, given: FitsOptions, **known: Any) -> DataId:
    """Return the identity of a stack: without the visit and detector of one of its exposures.

    Parameters
    ----------
    found : DataId
        As the headers have it.
    given : FitsOptions
        Options of the caller, whose parts of the identity hold.
    **known
        Parts of the identity that replace those of the headers.

    Returns
    -------
    DataId
    """
    changes = {"visit": None, "detector": None, **known}
    return dataclasses.replace(found, **{key: v for key, v in changes.items() if given.data_id[key] is None})
