"""Read identity and time of an ordinary FITS image from its keywords.

Zeropoints are read by `skygraft.formats.fits_zeropoint`, gains by `skygraft.formats.fits_gain`.
"""

from __future__ import annotations

import copy
import math
import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from astropy import units as u
from astropy.io import fits
from astropy.time import Time

from skygraft.data_id import is_id
from skygraft.errors import ConfigError
from skygraft.exposure import DataId, VisitInfo

__all__ = [
    "Card",
    "Headers",
    "band_name",
    "check_number",
    "finite_number",
    "read_data_id",
    "read_visit_info",
]

VISIT_KEYS = ("EXPNUM", "VISIT", "RUN", "OBSNUM", "EXPID", "IDNUM", "ESO DET EXP NO")
DETECTOR_KEYS = ("CCDNUM", "DET-ID", "ESO DET CHIP NO", "IMAGEID", "CCDID", "DETECTOR", "CCDNAME", "DETPOS")
BAND_KEYS = ("BAND", "FILTER", "FILTNAM", "FILTER1")
EXPOSURE_TIME_KEYS = ("EXPTIME", "EXPOSURE")
_MID_KEYS = ("MJD-AVG", "DATE-AVG", "MJD-MID", "DATE-MID")
_START_KEYS = ("MJD-OBS", "DATE-OBS")

# "HSC-R2", "SDSS r", "DECam_g", "PS1-z": the name of the survey precedes that of the band.
_BAND_PREFIX = re.compile(r"^(?:HSC|SDSS|DECam|DES|PS1|LSST|Pan-?STARRS1?|VISTA|UKIDSS|2MASS|WFC3|ACS)[\s._-]+(?=\w)")
_BAND_TOKEN = re.compile(r"[A-Za-z][A-Za-z0-9']*")


@dataclass(frozen=True)
class Card:
    """A header card and its HDU.

    Parameters
    ----------
    key : str
        Keyword.
    value : object
        Value.
    comment : str
        Comment.
    hdu : int
        Number of the HDU whose header contains it.
    """

    key: str
    value: Any
    comment: str
    hdu: int


class Headers:
    """Headers that are searched in order: an image's own first, then those that it inherits from.

    Parameters
    ----------
    headers : iterable of (int, Header)
        HDU numbers and headers, in the order of the search.
    """

    def __init__(self, headers: Iterable[tuple[int, fits.Header]]) -> None:
        self._headers = tuple(headers)

    def find(self, *keys: str) -> Card | None:
        """Return the card of the first key that has a value (not empty or undefined), from the first header with it."""
        return next(iter(self.find_all(*keys)), None)

    def find_all(self, *keys: str) -> list[Card]:
        """Return, for each key that has a value, its card in the first header with it, in the order of `keys`."""
        found = []
        for key in keys:
            for hdu, header in self._headers:
                value = _value(header.cards[key]) if key in header else None
                if value is None or isinstance(value, fits.card.Undefined) or value == "":
                    continue
                found.append(Card(key, value, str(header.comments[key]), hdu))
                break
        return found

    def every(self, *keys: str) -> list[Card]:
        """Return all cards of the keys that have a value, from all headers, including repeated cards."""
        found = []
        for key in keys:
            for hdu, header in self._headers:
                for n in range(header.count(key) if key in header else 0):
                    value = _value(header.cards[key, n])
                    if not (value is None or isinstance(value, fits.card.Undefined) or value == ""):
                        found.append(Card(key, value, str(header.comments[key, n]), hdu))
        return found

    def as_dict(self) -> dict[str, Any]:
        """Return all cards with a value, without commentary, as Python values; invalid ones (NaN) as text."""
        merged: dict[str, Any] = {}
        for _, header in reversed(self._headers):
            for card in header.cards:
                if card.keyword in ("COMMENT", "HISTORY", "") or isinstance(value := _value(card), fits.card.Undefined):
                    continue
                merged[card.keyword] = value
        return merged


def _value(card: fits.Card) -> Any:
    """Value of a card; as text if it is invalid in FITS (such as NaN)."""
    try:
        return card.value
    except fits.VerifyError:
        copied = copy.copy(card)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            copied.verify("fix")
        return copied.value


def finite_number(card: Card) -> float | None:
    """Return the value of a card as a finite number, or None if it is not one (such as 'unknown')."""
    if isinstance(card.value, bool):
        return None
    try:
        number = float(card.value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def band_name(text: str) -> str:
    """Return the short name of a band from the filter name of an instrument.

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
        # HSC-R and HSC-R2 are two filters of the same band; NB0816 is a separate band.
        return band[0].lower() if re.fullmatch(r"[GRIZY]2?", band) else band
    return band


def read_data_id(headers: Headers, given: Mapping[str, Any], *, name: str) -> DataId:
    """Read the identity of an image from its headers.

    Parameters
    ----------
    headers : Headers
        Headers of the image.
    given : mapping
        Parts of the identity given by the caller; those that are not None take precedence.
    name : str
        Name of the image, used if the headers do not identify it.

    Returns
    -------
    DataId
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
        whole = int(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return whole if is_id(whole) else None


def _detector(value: Any) -> int | str:
    whole = _whole(value)
    return str(value).strip() if whole is None else whole


_LONGEST_EXPOSURE = 1e8
"""Largest accepted exposure time, s (three years): that of a coadd is the sum of its inputs'."""


def read_visit_info(headers: Headers, *, exposure_time: float | None = None, mjd: float | None = None) -> VisitInfo:
    """Read the middle of the exposure (MJD, TAI) and the exposure time (s) from the headers.

    The middle is given by MJD-AVG, DATE-AVG, MJD-MID or DATE-MID, or is half an exposure time after the start (MJD-OBS,
    DATE-OBS), in the time system of TIMESYS (UTC by default). ESO's infrared cameras give the exposure time of one of
    NDIT integrations that follow each other: the middle is that of all.

    Parameters
    ----------
    headers : Headers
        Headers of the image.
    exposure_time : float, optional
        Seconds, instead of that of the headers.
    mjd : float, optional
        Middle of the exposure (MJD, TAI), instead of that of the headers.

    Returns
    -------
    VisitInfo
        With None for what is missing or invalid.
    """
    if exposure_time is None:
        card = headers.find(*EXPOSURE_TIME_KEYS)
        exposure_time = None if card is None else finite_number(card)
    if exposure_time is not None and not 0 < exposure_time <= _LONGEST_EXPOSURE:
        exposure_time = None
    if mjd is not None:
        return VisitInfo(float(mjd), exposure_time)
    scale = headers.find("TIMESYS")
    system = "utc" if scale is None else str(scale.value).strip().lower()
    for keys, shift in ((_MID_KEYS, 0.0), (_START_KEYS, _elapsed(headers, exposure_time) / 2)):
        for card in headers.find_all(*keys):
            time = _time(card, headers, system)
            if time is not None:
                return VisitInfo(float((time + shift * u.s).tai.mjd), exposure_time)
    return VisitInfo(None, exposure_time)


def _elapsed(headers: Headers, exposure_time: float | None) -> float:
    """Seconds from the beginning to the end of an exposure."""
    seconds = exposure_time or 0.0
    one, number = headers.find("ESO DET DIT"), headers.find("ESO DET NDIT")
    if one is None or number is None or finite_number(one) != seconds:
        return seconds
    n = finite_number(number)
    return seconds * n if n is not None and n >= 1 and seconds * n <= _LONGEST_EXPOSURE else seconds


def _time(card: Card, headers: Headers, system: str) -> Time | None:
    text = str(card.value).strip()
    if card.key == "DATE-OBS" and "T" not in text:
        # In older headers the time of day has its own card.
        clock = headers.find("TIME-OBS", "UTC-OBS", "UT")
        if clock is None or ":" not in str(clock.value):
            return None
        text = f"{text}T{str(clock.value).strip()}"
    scale = system if system in Time.SCALES else "utc"
    try:
        with warnings.catch_warnings():
            # Leap seconds are unknown before 1960 and in the far future; the error does not matter here.
            warnings.filterwarnings("ignore", message=".*dubious year")
            if card.key.startswith("MJD"):
                return Time(float(card.value), format="mjd", scale=scale).tai
            return Time(text, scale=scale).tai
    except (ValueError, TypeError):
        return None


def check_number(name: str, value: Any, *, positive: bool = True) -> float:
    """Return a number given by the caller, after checking that it is finite (and positive).

    Parameters
    ----------
    name : str
        Name of the option, for errors.
    value : object
        The number.
    positive : bool
        Whether it must be positive.

    Raises
    ------
    ConfigError
        If it is not such a number.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ConfigError(f"{name} is {value!r}; a finite number is needed", key=name)
    if positive and value <= 0:
        raise ConfigError(f"{name} is {value!r}; it must be positive", key=name)
    return float(value)
