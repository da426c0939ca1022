"""What the keywords of an ordinary FITS image say: which image it is, when it was taken, its zeropoint and gain."""

from __future__ import annotations

import copy
import math
import os
import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from astropy import units as u
from astropy.io import fits
from astropy.time import Time

from skygraft.errors import CalibrationError, ConfigError, UncalibratedImageError
from skygraft.exposure import DataId, VisitInfo
from skygraft.photometry import PhotoCalib, canonical_unit

__all__ = [
    "Card",
    "Headers",
    "band_name",
    "image_unit",
    "read_data_id",
    "read_gain",
    "read_photo_calib",
    "read_visit_info",
]

ZEROPOINT_KEYS = ("MAGZERO", "MAGZPT", "ZEROPOINT", "PHOTZP", "FLUXMAG0")
"""Keywords that hold a zeropoint (AB magnitude of one image unit), or (FLUXMAG0) the flux of magnitude zero."""
ZEROPOINT_TOLERANCE = 0.002
"""Two zeropoints that differ by more, in magnitudes, disagree; less is rounding."""

VISIT_KEYS = ("EXPNUM", "VISIT", "RUN", "OBSNUM", "EXPID", "IDNUM", "ESO DET EXP NO")
DETECTOR_KEYS = ("CCDNUM", "DET-ID", "ESO DET CHIP NO", "IMAGEID", "CCDID", "DETECTOR", "CCDNAME", "DETPOS")
BAND_KEYS = ("BAND", "FILTER", "FILTNAM", "FILTER1")
GAIN_KEYS = ("GAIN", "EGAIN", "GAINEFF")
EXPOSURE_TIME_KEYS = ("EXPTIME", "EXPOSURE")
_MID_KEYS = ("MJD-AVG", "DATE-AVG", "MJD-MID", "DATE-MID")
_START_KEYS = ("MJD-OBS", "DATE-OBS")

_PER_SECOND = re.compile(r"per[\s_-]*sec|/\s*s(ec)?\b|\bs(ec)?\^?-1\b|\b1\s*(adu|count|dn)s?/s", re.IGNORECASE)
# "HSC-R2", "SDSS r", "DECam_g", "PS1-z": the survey's name before the band's.
_BAND_PREFIX = re.compile(r"^(?:HSC|SDSS|DECam|DES|PS1|LSST|Pan-?STARRS1?|VISTA|UKIDSS|2MASS|WFC3|ACS)[\s._-]+(?=\w)")
_BAND_TOKEN = re.compile(r"[A-Za-z][A-Za-z0-9']*")


@dataclass(frozen=True)
class Card:
    """One header card that was found, and where.

    Parameters
    ----------
    key : str
        Keyword.
    value : object
        Its value.
    comment : str
        Its comment.
    hdu : int
        The HDU whose header holds it.
    """

    key: str
    value: Any
    comment: str
    hdu: int


class Headers:
    """Headers searched one after the other: an image's own first, then those that it inherits from.

    Parameters
    ----------
    headers : iterable of (int, Header)
        HDU numbers and headers.
    """

    def __init__(self, headers: Iterable[tuple[int, fits.Header]]) -> None:
        self._headers = tuple(headers)

    def find(self, *keys: str) -> Card | None:
        """The first of the keys that has a value (not empty, not undefined), in the first header that has it."""
        return next(iter(self.find_all(*keys)), None)

    def find_all(self, *keys: str) -> list[Card]:
        """Every one of the keys that has a value, in the order of `keys`."""
        found = []
        for key in keys:
            for hdu, header in self._headers:
                value = header.get(key)
                if value is None or isinstance(value, fits.card.Undefined) or value == "":
                    continue
                found.append(Card(key, value, str(header.comments[key]), hdu))
                break
        return found

    def as_dict(self) -> dict[str, Any]:
        """All cards with a value, without commentary, as Python values; text where it is no standard FITS (NaN)."""
        merged: dict[str, Any] = {}
        for _, header in reversed(self._headers):
            for card in header.cards:
                if card.keyword in ("COMMENT", "HISTORY", "") or isinstance(value := _value(card), fits.card.Undefined):
                    continue
                merged[card.keyword] = value
        return merged


def _value(card: fits.Card) -> Any:
    try:
        return card.value
    except fits.VerifyError:
        copied = copy.copy(card)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            copied.verify("fix")
        return copied.value


def _number(card: Card) -> float | None:
    """The card's value as a finite number; None where it is none (sentinels such as 'unknown')."""
    if isinstance(card.value, bool):
        return None
    try:
        number = float(card.value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def band_name(text: str) -> str:
    """The short name of a band, from the long names that instruments give their filters.

    Examples
    --------
    >>> [band_name(t) for t in ("g DECam SDSS c0001 4720.0 1520.0", "r.MP9601", "HSC-I2", "H", "F814W", "i_03")]
    ['g', 'r', 'i', 'H', 'F814W', 'i']
    """
    text = text.strip()
    bare = _BAND_PREFIX.sub("", text)
    token = _BAND_TOKEN.match(bare)
    if token is None:
        return text
    band = token.group(0)
    if text.upper().startswith("HSC-"):
        # HSC-R and HSC-R2 are two filters of the same band; NB0816 is a band of its own.
        return band[0].lower() if re.fullmatch(r"[GRIZY]2?", band) else band
    return band


def read_data_id(headers: Headers, given: Mapping[str, Any], *, name: str) -> DataId:
    """Which image this is.

    Parameters
    ----------
    headers : Headers
        Where to look.
    given : mapping
        What the caller says; wins where not None.
    name : str
        What the image is called where its headers do not say enough.
    """
    visit, detector, band = headers.find(*VISIT_KEYS), headers.find(*DETECTOR_KEYS), headers.find(*BAND_KEYS)
    instrument = headers.find("INSTRUME", "INSTRUMENT")
    tract, patch = headers.find("TRACT"), headers.find("PATCH")
    found: dict[str, Any] = {
        "instrument": None if instrument is None else str(instrument.value).strip() or None,
        "visit": None if visit is None else _whole(visit.value),
        "detector": None if detector is None else _detector(detector.value),
        "tract": None if tract is None else _whole(tract.value),
        "patch": None if patch is None else _whole(patch.value),
        "band": None if band is None else band_name(str(band.value)),
        "name": name,
    }
    found |= {key: value for key, value in given.items() if value is not None}
    return DataId(**found)


def _whole(value: Any) -> int | None:
    try:
        return int(value)
    except (TypeError, ValueError):
        return None


def _detector(value: Any) -> int | str:
    whole = _whole(value)
    return str(value).strip() if whole is None else whole


def read_visit_info(headers: Headers, *, exposure_time: float | None = None, mjd: float | None = None) -> VisitInfo:
    """Middle of the exposure (MJD, TAI) and exposure time (s); None where the headers do not say.

    The middle is that of the headers (MJD-AVG, DATE-AVG, MJD-MID, DATE-MID), or half an exposure time after the start
    (MJD-OBS, DATE-OBS), in the time system that TIMESYS names (UTC where it does not).
    """
    if exposure_time is None:
        card = headers.find(*EXPOSURE_TIME_KEYS)
        exposure_time = None if card is None else _number(card)
    if mjd is not None:
        return VisitInfo(float(mjd), exposure_time)
    scale = headers.find("TIMESYS")
    system = "utc" if scale is None else str(scale.value).strip().lower()
    for keys, shift in ((_MID_KEYS, 0.0), (_START_KEYS, (exposure_time or 0.0) / 2)):
        for card in headers.find_all(*keys):
            time = _time(card, headers, system)
            if time is not None:
                return VisitInfo(float((time + shift * u.s).tai.mjd), exposure_time)
    return VisitInfo(None, exposure_time)


def _time(card: Card, headers: Headers, system: str) -> Time | None:
    text = str(card.value).strip()
    if card.key == "DATE-OBS" and "T" not in text:
        # The time of day is beside it, in older headers.
        clock = headers.find("TIME-OBS", "UTC-OBS", "UT")
        if clock is None or ":" not in str(clock.value):
            return None
        text = f"{text}T{str(clock.value).strip()}"
    scale = system if system in Time.SCALES else "utc"
    try:
        with warnings.catch_warnings():
            # Dates before 1960 or far in the future have no known leap seconds: good enough here.
            warnings.filterwarnings("ignore", message=".*dubious year")
            if card.key.startswith("MJD"):
                return Time(float(card.value), format="mjd", scale=scale).tai
            return Time(text, scale=scale).tai
    except (ValueError, TypeError):
        return None


def image_unit(headers: Headers, unit: str | None = None) -> str:
    """The unit of the pixels: as given, or BUNIT, or ``adu`` where neither says."""
    card = headers.find("BUNIT")
    text = unit if unit is not None else ("adu" if card is None else str(card.value))
    return canonical_unit(text)


def read_photo_calib(
    headers: Headers,
    *,
    unit: str,
    exposure_time: float | None,
    zeropoint: float | None = None,
    zeropoint_key: str | None = None,
    path: str | os.PathLike[str] | None = None,
) -> PhotoCalib:
    """The photometric calibration that the headers give.

    A keyword whose comment says "per sec" is the magnitude of one count *per second*: where the image is in counts,
    2.5 log10(exposure time) is added. Any other is the magnitude of one image unit. Magnitudes are AB.

    Parameters
    ----------
    headers : Headers
        Where to look for `ZEROPOINT_KEYS`.
    unit : str
        Unit of the image; one that has an absolute flux (nJy, uJy, Jy, nanomaggy) is a calibration by itself.
    exposure_time : float or None
        Seconds.
    zeropoint : float, optional
        AB magnitude of one image unit, given by the caller: nothing is looked up.
    zeropoint_key : str, optional
        The keyword to trust, where several disagree.
    path : path-like, optional
        For errors.

    Raises
    ------
    UncalibratedImageError
        If nothing usable was found.
    CalibrationError
        If two keywords disagree, or a zeropoint is per second and the exposure time is not known.
    """
    if zeropoint is not None:
        return PhotoCalib.from_zeropoint(zeropoint, unit)
    cards = headers.find_all(*((zeropoint_key,) if zeropoint_key else ZEROPOINT_KEYS))
    found: list[tuple[str, float]] = []
    if not zeropoint_key and (absolute := _absolute(unit)) is not None:
        found.append((f"the unit {unit}", absolute))
    unusable = []
    for card in cards:
        value = _number(card)
        if card.key == "FLUXMAG0" and value is not None:
            value = 2.5 * math.log10(value) if value > 0 else None
        # Pipelines write 0, -99 or 99 where they did not calibrate.
        if value is None or value == 0 or not -10 < value < 60:
            unusable.append(f"{card.key} = {card.value}")
            continue
        if _PER_SECOND.search(card.comment) and not unit.endswith("/s"):
            if not exposure_time or exposure_time <= 0:
                raise CalibrationError(
                    f"{card.key} is of one count per second ({card.comment.strip()!r}), and the exposure time is not "
                    "known",
                    path=path,
                    hdu=card.hdu,
                    key=card.key,
                    fix="Give the zeropoint of one image unit (zeropoint=), or the exposure time (exposure_time=)",
                )
            value += 2.5 * math.log10(exposure_time)
        found.append((f"{card.key} in HDU {card.hdu}", value))
    if not found:
        looked = zeropoint_key or ", ".join(ZEROPOINT_KEYS)
        raise UncalibratedImageError(
            f"the header gives no zeropoint ({'unusable: ' + ', '.join(unusable) if unusable else 'no ' + looked})",
            path=path,
            fix="Give zeropoint= (the AB magnitude of one image unit), or photo_calib=",
        )
    first = found[0]
    for other in found[1:]:
        if abs(other[1] - first[1]) > ZEROPOINT_TOLERANCE:
            raise CalibrationError(
                f"two zeropoints disagree: {first[1]:.4f} mag from {first[0]}, {other[1]:.4f} mag from {other[0]} "
                f"(both for one {unit})",
                path=path,
                fix="Say which one holds with zeropoint_key= (a keyword), or give zeropoint=",
            )
    if canonical_unit(unit) == "nJy":
        return PhotoCalib.nanojansky()
    if canonical_unit(unit) == "nanomaggy":
        return PhotoCalib.nanomaggies()
    return PhotoCalib.from_zeropoint(first[1], unit)


def _absolute(unit: str) -> float | None:
    """AB zeropoint of a unit that is itself a flux density; None for counts and the like."""
    name = canonical_unit(unit)
    if name == "nJy":
        return float(PhotoCalib.nanojansky().zeropoint())
    if name == "nanomaggy":
        return float(PhotoCalib.nanomaggies().zeropoint())
    try:
        njy = u.Unit(name, parse_strict="raise").to(u.nJy)
    except (ValueError, TypeError, u.UnitConversionError):
        return None
    return float(PhotoCalib.nanojansky().zeropoint() - 2.5 * math.log10(njy))


def read_gain(headers: Headers, *, unit: str, exposure_time: float | None) -> tuple[float | None, str]:
    """Electrons per image unit as the headers record it, and where; (None, "") where they do not.

    A gain is recorded in electrons per count: for an image in counts per second it is multiplied by the exposure
    time, unless its comment says that it is an effective gain. An image in electrons needs no gain.
    """
    per_second = unit.endswith("/s")
    seconds = exposure_time if exposure_time and exposure_time > 0 else None
    if unit == "electron":
        return 1.0, "the image is in electrons"
    if unit == "electron/s" and seconds is not None:
        return seconds, "the image is in electrons per second: the exposure time"
    for card in headers.find_all(*GAIN_KEYS):
        value = _number(card)
        if value is None or value <= 0:
            continue
        origin = f"{card.key} in the header of HDU {card.hdu}"
        if per_second and not re.search("effective", card.comment, re.IGNORECASE):
            if seconds is None:
                continue
            return value * seconds, f"{origin}, times the exposure time (the image is per second)"
        return value, origin
    return None, ""


def check_number(name: str, value: Any, *, positive: bool = True) -> float:
    """A finite (and positive) number given by the caller.

    Raises
    ------
    ConfigError
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ConfigError(f"{name} is {value!r}; a finite number is needed", key=name)
    if positive and value <= 0:
        raise ConfigError(f"{name} is {value!r}; it must be positive", key=name)
    return float(value)
