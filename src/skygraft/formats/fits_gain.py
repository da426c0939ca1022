"""Read the gain (electrons per image unit) from the keywords of an ordinary FITS image.

A recorded gain is in electrons per count, so it applies only to an image in counts: not to one in nanomaggies, nor to
an average of several exposures. Where it does not apply, the reason is kept, and the gain is estimated from the
variance plane or given by the caller.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from skygraft.formats.fits_headers import Card, Headers, finite_number
from skygraft.formats.fits_units import ImageUnit
from skygraft.formats.fits_zeropoint import FLUX_ZEROPOINTS, ZEROPOINT_TOLERANCE

__all__ = ["RecordedGain", "flux_unit_of", "read_gain"]

_EFFECTIVE_KEYS = ("EFFGAIN", "GAINEFF")
_PLAIN_KEYS = ("GAIN", "EGAIN", "CCDGAIN", "ATODGAIN")
_AMPLIFIER_KEYS = ("GAINA", "GAINB", "GAINC", "GAIND", "GAIN1", "GAIN2", "GAIN3", "GAIN4")
_COMBINED_KEYS = ("NCOMBINE", "NCOMB", "NCOADD", "NCOADDS", "NSTACK")
_GAIN_TOLERANCE = 0.01
_AMPLIFIER_TOLERANCE = 0.05
"""Relative difference up to which the mean of an image's amplifier gains is used for the whole image."""
_EFFECTIVE = re.compile(r"effective|equivalent", re.IGNORECASE)
_INVERSE = re.compile(r"\b(adu|dn|count|ct)s?\s*(/|per)\s*(photo-?)?(e|electron)", re.IGNORECASE)
_SETTING = re.compile(r"db\b|setting", re.IGNORECASE)


@dataclass(frozen=True)
class RecordedGain:
    """A gain and where it is recorded, or the reason why it is not known.

    Parameters
    ----------
    value : float or None
        Electrons per image unit.
    origin : str
        Where it is recorded.
    reason : str
        Why `value` is None.
    """

    value: float | None
    origin: str = ""
    reason: str = ""


def flux_unit_of(zeropoint: float | None) -> str | None:
    """Return the unit of flux density that has this AB zeropoint (22.5: nanomaggy, 31.4: nJy, ...), or None."""
    if zeropoint is None:
        return None
    return next((name for zp, name in FLUX_ZEROPOINTS.items() if abs(zeropoint - zp) <= ZEROPOINT_TOLERANCE), None)


def read_gain(
    headers: Headers, *, unit: ImageUnit, exposure_time: float | None, zeropoint: float | None = None
) -> RecordedGain:
    """Read the gain of an image from its headers.

    For an image in counts per second the recorded gain is multiplied by the exposure time, unless it is an effective
    gain. An image in electrons needs no recorded gain.

    Parameters
    ----------
    headers : Headers
        Headers of the image.
    unit : ImageUnit
        Unit of the image.
    exposure_time : float or None
        Seconds.
    zeropoint : float, optional
        AB zeropoint of the image: without BUNIT, a value such as 22.5 or 31.4 shows that the image is in a unit of
        flux.

    Returns
    -------
    RecordedGain
    """
    seconds = exposure_time if exposure_time and exposure_time > 0 else None
    kind, per_second, scale = unit.unit.kind, unit.unit.per_second, unit.unit.scale
    if unit.doubt:
        return RecordedGain(None, reason=f"{unit.doubt}: counts or electrons?")
    if kind not in ("counts", "electrons"):
        return RecordedGain(None, reason=_with_gain_card(headers, f"the image is in {unit.name}"))
    if per_second and seconds is None:
        return RecordedGain(None, reason=f"the image is in {unit.name}, and the exposure time is not known")
    if kind == "electrons":
        if per_second:
            return RecordedGain(scale * (seconds or 1.0), "the image is in electrons per second: the exposure time")
        combined = _combined(headers)
        if combined is not None:
            return RecordedGain(None, reason=_average(combined, "an image in electrons"))
        return RecordedGain(scale, "the image is in electrons")
    if not unit.stated and (implied := _implied_unit(headers, zeropoint)):
        return RecordedGain(None, reason=_with_gain_card(headers, implied))
    found = _recorded(headers, seconds if per_second else None)
    if found.value is None or scale == 1:
        return found
    return RecordedGain(found.value * scale, f"{found.origin}, times {scale:g} (the unit is {unit.name})")


def _with_gain_card(headers: Headers, what: str) -> str:
    """Append the gain card of the headers, if any, to a reason."""
    card = next((c for c in headers.find_all(*_EFFECTIVE_KEYS, *_PLAIN_KEYS, *_AMPLIFIER_KEYS)), None)
    return what if card is None else f"{what}, and {card.key} = {card.value} is of electrons per count"


def _implied_unit(headers: Headers, zeropoint: float | None) -> str:
    """Reason to think that an image without BUNIT is in a unit of flux; "" if there is none."""
    flux_unit = flux_unit_of(zeropoint)
    if flux_unit is not None:
        return f"there is no BUNIT, and the zeropoint {zeropoint:.4g} is that of an image in {flux_unit}"
    card = headers.find("PHOTFLAM", "PHOTFNU", "PHOTMJSR")
    return "" if card is None else f"there is no BUNIT, and {card.key} gives the flux of one unit, which may be any"


def _recorded(headers: Headers, seconds: float | None) -> RecordedGain:
    """Gain in electrons per count from the keywords, times `seconds` for an image in counts per second."""
    problems: list[str] = []
    effective: list[tuple[Card, float]] = []
    plain: list[tuple[Card, float]] = []
    for card in _own(headers, *_EFFECTIVE_KEYS, *_PLAIN_KEYS):
        value = _usable(card, problems)
        if value is not None:
            is_effective = card.key in _EFFECTIVE_KEYS or _EFFECTIVE.search(card.comment)
            (effective if is_effective else plain).append((card, value))
    if not effective and not plain:
        return _of_amplifiers(headers, seconds, problems)
    chosen = effective or plain
    (first, value) = chosen[0]
    for other, another in chosen[1:]:
        if abs(another / value - 1) > _GAIN_TOLERANCE:
            return RecordedGain(
                None, reason=f"two gains disagree: {first.key} = {first.value}, {other.key} = {other.value}"
            )
    origin = f"{first.key} in the header of HDU {first.hdu}"
    if effective:
        return RecordedGain(value, origin)
    return _of_one_exposure(headers, value, origin, seconds)


def _own(headers: Headers, *keys: str) -> list[Card]:
    """All cards of each key in the first header that has it: an extension's gain replaces the primary header's."""
    first = {card.key: card.hdu for card in headers.find_all(*keys)}
    return [card for card in headers.every(*keys) if card.hdu == first.get(card.key)]


def _of_one_exposure(headers: Headers, value: float, origin: str, seconds: float | None) -> RecordedGain:
    combined = _combined(headers)
    if combined is not None:
        return RecordedGain(None, reason=_average(combined, origin.split(maxsplit=1)[0]))
    software = headers.find("SOFTNAME")
    if software is not None and str(software.value).strip().lower() == "swarp":
        return RecordedGain(
            None,
            reason=f"SWarp made the image (SOFTNAME), and {origin} is not called its equivalent gain: it may be a "
            "detector's",
        )
    if seconds is not None:
        return RecordedGain(value * seconds, f"{origin}, times the exposure time (the image is per second)")
    return RecordedGain(value, origin)


def _of_amplifiers(headers: Headers, seconds: float | None, problems: list[str]) -> RecordedGain:
    """Mean of the amplifier gains, if they agree."""
    found = [(c, value) for c in headers.find_all(*_AMPLIFIER_KEYS) if (value := _usable(c, problems)) is not None]
    if not found:
        return RecordedGain(None, reason="; ".join(problems))
    values, keys = [value for _, value in found], " and ".join(card.key for card, _ in found)
    if max(values) / min(values) > 1 + _AMPLIFIER_TOLERANCE:
        listed = ", ".join(f"{card.key} = {card.value}" for card, _ in found)
        return RecordedGain(
            None, reason=f"the amplifiers' gains differ ({listed}), and nothing says which pixel is whose"
        )
    origin = f"mean of {keys} in the header of HDU {found[0][0].hdu}"
    return _of_one_exposure(headers, sum(values) / len(values), origin, seconds)


def _usable(card: Card, problems: list[str]) -> float | None:
    value = finite_number(card)
    if value is None or value <= 0:
        problems.append(f"{card.key} = {card.value!r} is no positive number")
        return None
    if _INVERSE.search(card.comment) or _SETTING.search(card.comment):
        problems.append(f"{card.key} = {card.value} is not in electrons per count ({card.comment.strip()!r})")
        return None
    return value


def _combined(headers: Headers) -> Card | None:
    """The card that gives the number of combined images, if it is more than one."""
    cards = headers.find_all(*_COMBINED_KEYS)
    return next((card for card in cards if (finite_number(card) or 0) > 1), None)


def _average(card: Card, what: str) -> str:
    return (
        f"the image combines several ({card.key} = {card.value}): {what} says nothing of it, since their average and "
        "their sum have different gains"
    )
