"""Read the photometric zeropoint from the keywords of an ordinary FITS image. Magnitudes are AB."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from astropy import units as u

from skygraft.errors import CalibrationError, ConfigError, UncalibratedImageError
from skygraft.formats.fits_headers import Card, Headers, finite_number
from skygraft.formats.fits_units import ImageUnit
from skygraft.photometry import PhotoCalib, summed_unit

__all__ = ["FLUX_ZEROPOINTS", "ZEROPOINT_KEYS", "ZEROPOINT_TOLERANCE", "GivenZeropoint", "read_photo_calib"]

ZEROPOINT_KEYS = ("MAGZERO", "MAGZPT", "ZEROPOINT", "PHOTZP", "FLUXMAG0")
"""Keywords of a zeropoint (AB magnitude of one image unit) or, FLUXMAG0, of the flux of magnitude zero."""
ZEROPOINT_TOLERANCE = 0.002
"""Difference in magnitudes up to which two zeropoints agree, to allow for rounding."""
FLUX_ZEROPOINTS = {31.4: "nJy", 22.5: "nanomaggy", 23.9: "uJy", 16.4: "mJy", 8.9: "Jy"}
"""AB zeropoints of units of flux density: an image without BUNIT that has one of these is taken to be in that unit."""

_SYSTEM_KEYS = ("PHOTSYS", "MAGSYS", "ZPSYS", "MAGSYST")
_AREA_KEYS = {"PIXAR_SR": u.sr, "PIXAR_A2": u.arcsec**2}
_AREA_TOLERANCE = 0.005
"""PIXAR_SR and PIXAR_A2 are the same area in two units; headers round them to three or four digits."""
_WCS_TOLERANCE = 0.1
"""Distortion may change the area of a pixel by this fraction."""
_PER_SECOND = re.compile(r"per[\s_-]*sec|/\s*s(ec)?\b|\bs(ec)?\^?-1\b|\b1\s*(adu|count|dn)s?/s", re.IGNORECASE)
_VEGA = re.compile(r"\bvega", re.IGNORECASE)
_MEGACAM = re.compile(r"\.MP\d{4}$")
"""Filters of CFHT's MegaCam."""


@dataclass(frozen=True)
class GivenZeropoint:
    """Options of the caller about the zeropoint.

    Parameters
    ----------
    zeropoint : float, optional
        AB magnitude of one image unit; the header is then not read.
    key : str, optional
        The only keyword to use, if several disagree.
    pixel_area : str, optional
        Area of a pixel with its unit, for a surface brightness; "wcs" uses the area that the WCS gives.
    """

    zeropoint: float | None = None
    key: str | None = None
    pixel_area: str | None = None


def read_photo_calib(
    headers: Headers,
    *,
    unit: ImageUnit,
    exposure_time: float | None,
    pixel_scale: float,
    given: GivenZeropoint,
    path: str | os.PathLike[str] | None = None,
    even: bool = False,
) -> PhotoCalib:
    """Read the photometric calibration from the headers.

    A keyword whose comment says "per sec" is the magnitude of one count *per second*: for an image in counts,
    2.5 log10(exposure time) is added. Any other keyword is the magnitude of one image unit. A unit of flux density is
    a calibration in itself, and so is a unit of surface brightness together with the area of a pixel (PIXAR_SR,
    PIXAR_A2, or that of the WCS where all pixels have the same): 1 MJy/sr over PIXAR_SR has the AB magnitude
    31.4 - 2.5 log10(1e15 PIXAR_SR).

    Parameters
    ----------
    headers : Headers
        Headers that are searched for `ZEROPOINT_KEYS`; all cards found must agree.
    unit : ImageUnit
        Unit of the image.
    exposure_time : float or None
        Seconds.
    pixel_scale : float
        Arcsec per pixel, from the WCS.
    given : GivenZeropoint
        Options of the caller.
    path : path-like, optional
        For errors.
    even : bool, optional
        Whether the WCS gives all pixels the same area.

    Returns
    -------
    PhotoCalib

    Raises
    ------
    UncalibratedImageError
        If no usable zeropoint was found.
    CalibrationError
        If two cards disagree, a zeropoint is per second and the exposure time is not known, or a zeropoint is in
        Vega magnitudes.
    """
    name = summed_unit(unit.name)
    if given.zeropoint is not None:
        return PhotoCalib.from_zeropoint(given.zeropoint, name)
    found: list[tuple[str, float]] = []
    if not given.key and (absolute := _absolute(headers, unit, pixel_scale, given, path, even)) is not None:
        found.append(absolute)
    unusable: list[str] = []
    for place, card in _named(headers.every(*((given.key,) if given.key else ZEROPOINT_KEYS))):
        value = _magnitude(card)
        if value is None:
            unusable.append(f"{card.key} = {card.value} in HDU {card.hdu}")
            continue
        _refuse_vega(card, headers, path)
        if _PER_SECOND.search(card.comment) and not unit.unit.per_second:
            value += _exposure_magnitudes(card, exposure_time, path)
        found.append((place, value))
    if not found:
        raise _no_zeropoint(headers, unit, given.key, unusable, path)
    _refuse_disagreement(found, unit.name, path)
    if name == "nJy":
        return PhotoCalib.nanojansky()
    if name == "nanomaggy":
        return PhotoCalib.nanomaggies()
    return PhotoCalib.from_zeropoint(found[0][1], name)


def _no_zeropoint(
    headers: Headers, unit: ImageUnit, key: str | None, unusable: list[str], path: str | os.PathLike[str] | None
) -> UncalibratedImageError:
    """Return the error for headers without a zeropoint, with what else they say of it."""
    area = headers.find(*_AREA_KEYS)
    if not unit.stated and key is None and area is not None and not unusable:
        return UncalibratedImageError(
            f"there is no BUNIT, and {area.key} (HDU {area.hdu}), the area of a pixel, is that of an image of surface "
            "brightness",
            path=path,
            key="BUNIT",
            fix="Say the unit (unit='MJy/sr', which that of JWST's images is), or give zeropoint= (the AB magnitude of "
            "one image unit)",
        )
    what = "unusable: " + ", ".join(unusable) if unusable else "no " + (key or ", ".join(ZEROPOINT_KEYS))
    name = headers.find("FILTER")
    software = headers.find("SOFTNAME")
    by_swarp = software is not None and str(software.value).strip().lower() == "swarp"
    of_megacam = name is not None and _MEGACAM.search(str(name.value).strip()) is not None
    hint = (
        ". A stack of MegaPipe is recognised by its name, such as CFIS.191.307.r.fits: format='megapipe' needs it, and "
        "zeropoint=30 is what those have"
    )
    return UncalibratedImageError(
        f"the header gives no zeropoint ({what})",
        path=path,
        key=key,
        fix="Give zeropoint= (the AB magnitude of one image unit), or photo_calib="
        + (hint if by_swarp and of_megacam else ""),
    )


def _named(cards: Sequence[Card]) -> list[tuple[str, Card]]:
    """Name each card for messages by keyword, HDU, and number if the HDU has several."""
    seen: dict[tuple[str, int], int] = {}
    named = []
    for card in cards:
        number = seen[card.key, card.hdu] = seen.get((card.key, card.hdu), 0) + 1
        again = "" if number == 1 else f" (card {number} of that name)"
        named.append((f"{card.key} in HDU {card.hdu}{again}", card))
    return named


def _magnitude(card: Card) -> float | None:
    value = finite_number(card)
    if card.key == "FLUXMAG0" and value is not None:
        value = 2.5 * math.log10(value) if value > 0 else None
    # Pipelines write 0, -99 or 99 if they did not calibrate the image.
    return None if value is None or value == 0 or not -10 < value < 60 else value


def _exposure_magnitudes(card: Card, seconds: float | None, path: str | os.PathLike[str] | None) -> float:
    if not seconds or seconds <= 0:
        raise CalibrationError(
            f"{card.key} is of one count per second ({card.comment.strip()!r}), and the exposure time is not known",
            path=path,
            hdu=card.hdu,
            key=card.key,
            fix="Give the zeropoint of one image unit (zeropoint=), or the exposure time (exposure_time=)",
        )
    return 2.5 * math.log10(seconds)


def _refuse_vega(card: Card, headers: Headers, path: str | os.PathLike[str] | None) -> None:
    system = next((other for other in headers.find_all(*_SYSTEM_KEYS) if _VEGA.search(str(other.value))), None)
    if system is None and not _VEGA.search(card.comment):
        return
    evidence = f"{system.key} = {system.value!r}" if system is not None else f"its comment: {card.comment.strip()!r}"
    raise CalibrationError(
        f"{card.key} = {card.value} is of Vega magnitudes ({evidence}); AB magnitudes are needed",
        path=path,
        hdu=card.hdu,
        key=card.key,
        fix="Give zeropoint= (the AB magnitude of one image unit: add the band's AB magnitude of Vega)",
    )


def _refuse_disagreement(found: Sequence[tuple[str, float]], unit: str, path: str | os.PathLike[str] | None) -> None:
    ordered = sorted(found, key=lambda item: item[1])
    low, high = ordered[0], ordered[-1]
    if high[1] - low[1] <= ZEROPOINT_TOLERANCE:
        return
    first, second = sorted((low, high), key=found.index)
    raise CalibrationError(
        f"two zeropoints disagree: {first[1]:.4f} mag from {first[0]}, {second[1]:.4f} mag from {second[0]} "
        f"(both for one {unit})",
        path=path,
        fix="Say which one holds with zeropoint_key= (a keyword), or give zeropoint=",
    )


def _absolute(
    headers: Headers,
    unit: ImageUnit,
    pixel_scale: float,
    given: GivenZeropoint,
    path: str | os.PathLike[str] | None,
    even: bool,
) -> tuple[str, float] | None:
    """Name and AB zeropoint of a unit of flux or surface brightness; None for other units, such as counts."""
    kind, njy = unit.unit.kind, unit.unit.scale
    if kind == "magnitude":
        raise UncalibratedImageError(
            f"the pixels are magnitudes (BUNIT = {unit.name!r}), to which no flux can be added", path=path, key="BUNIT"
        )
    if kind not in ("flux", "surface brightness") or not math.isfinite(njy):
        if kind == "surface brightness":
            raise _no_area(unit, path)
        return None
    name = f"the unit {unit.name}"
    if kind == "surface brightness":
        area = _pixel_area(headers, pixel_scale, given.pixel_area, path, even)
        if area is None:
            raise _no_area(unit, path)
        njy, name = njy * area[0], f"{name} over a pixel of {area[0]:.6g} sr ({area[1]})"
    return name, float(PhotoCalib.nanojansky().zeropoint()) - 2.5 * math.log10(njy)


def _no_area(unit: ImageUnit, path: str | os.PathLike[str] | None) -> UncalibratedImageError:
    return UncalibratedImageError(
        f"{unit.name!r} is a surface brightness, the header does not give the area of a pixel (PIXAR_SR, PIXAR_A2), "
        "and by the WCS it is not the same everywhere",
        path=path,
        key="BUNIT",
        fix="Give pixel_area= ('2.25e-14 sr', '0.0009 arcsec2', or 'wcs' for that of the WCS), or zeropoint= (the AB "
        "magnitude of one image unit in one pixel)",
    )


def _pixel_area(
    headers: Headers, pixel_scale: float, given: str | None, path: str | os.PathLike[str] | None, even: bool
) -> tuple[float, str] | None:
    """Area of a pixel in sr, and where it was found; None if it is not known."""
    by_wcs = float((pixel_scale**2 * u.arcsec**2).to(u.sr).value)
    if given is not None:
        return (by_wcs, "the WCS") if given == "wcs" else (_given_area(given), "given")
    found = []
    for card in headers.every(*_AREA_KEYS):
        value = finite_number(card)
        if value is None or value <= 0:
            continue
        found.append((float((value * _AREA_KEYS[card.key]).to(u.sr).value), f"{card.key} in HDU {card.hdu}"))
    if not found:
        return (by_wcs, "the WCS") if even else None
    for one, other, tolerance in (
        *((one, other, _AREA_TOLERANCE) for one, other in pairwise(found)),
        (found[0], (by_wcs, "the WCS"), _WCS_TOLERANCE),
    ):
        if abs(other[0] / one[0] - 1) > tolerance:
            raise CalibrationError(
                f"two areas of a pixel disagree: {one[0]:.6g} sr from {one[1]}, {other[0]:.6g} sr from {other[1]}",
                path=path,
                key="PIXAR_SR",
                fix="Say which one holds with pixel_area= ('2.25e-14 sr', '0.0009 arcsec2' or 'wcs')",
            )
    return found[0]


def _given_area(text: str) -> float:
    try:
        area = float(u.Quantity(text).to(u.sr).value)
    except (TypeError, ValueError):
        area = math.nan
    if not 0 < area < math.inf:
        raise ConfigError(
            f"pixel_area is {text!r}; a positive area with its unit, or 'wcs', is needed",
            key="pixel_area",
            fix="Write for example '2.25e-14 sr' or '0.0009 arcsec2'",
        )
    return area
