"""Header keywords that say what an image's calibrated flux is the flux of.

There is no standard keyword; these are the ones that skygraft reads (`HEADER_KEYWORDS`). Its own are ``CALAPRAD``
(radius, pixels), ``CALAPRAS`` (radius, arcsec) and ``CALAPREF`` (``psf_model`` or ``total``), with long forms such
as ``HIERARCH CALIB APERTURE RADIUS PIX``. Diameters, SExtractor's habit, are halved, and the origin says so.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from astropy.io import fits

from skygraft.errors import CalibrationError, ConfigError
from skygraft.photometry.radius import HOW_TO_GIVE, parse_radius
from skygraft.photometry.reference import ReferenceCandidate

__all__ = ["HEADER_KEYWORDS", "HeaderKeyword", "header_candidates", "register_header_keyword"]


@dataclass(frozen=True)
class HeaderKeyword:
    """A header keyword and the meaning of its value.

    Parameters
    ----------
    name : str
        Keyword, upper case, without ``HIERARCH``.
    unit : {"pix", "arcsec", "reference"}
        Of a number; ``reference`` where the value is ``psf_model`` or ``total`` or a radius with its unit. A unit
        in brackets at the start of the card's comment, ``[arcsec]``, is believed before this one.
    diameter : bool
        Whether the value is a diameter.
    """

    name: str
    unit: Literal["pix", "arcsec", "reference"]
    diameter: bool = False


HEADER_KEYWORDS: dict[str, HeaderKeyword] = {}
"""The registry, by keyword."""

_BRACKETS = re.compile(r"^\s*[\[(]\s*(pix|pixel|pixels|px|arcsec|arcsecond|arcseconds)\s*[\])]", re.IGNORECASE)


def register_header_keyword(name: str, unit: Literal["pix", "arcsec", "reference"], *, diameter: bool = False) -> None:
    """Add a keyword to `HEADER_KEYWORDS`; the same name again replaces it.

    Parameters
    ----------
    name : str
        Keyword, without ``HIERARCH``.
    unit : {"pix", "arcsec", "reference"}
        See `HeaderKeyword`.
    diameter : bool
        Whether the value is a diameter.

    Raises
    ------
    ConfigError
        If the unit is not one of those.
    """
    if unit not in ("pix", "arcsec", "reference"):
        raise ConfigError(f"the unit {unit!r} is not 'pix', 'arcsec' or 'reference'", key=name)
    HEADER_KEYWORDS[name.upper()] = HeaderKeyword(name.upper(), unit, diameter)


for _name in ("CALAPRAD", "CALIB APERTURE RADIUS PIX", "SKYGRAFT CALIB APERTURE RADIUS PIX"):
    register_header_keyword(_name, "pix")
for _name in ("CALAPRAS", "CALIB APERTURE RADIUS ARCSEC", "SKYGRAFT CALIB APERTURE RADIUS ARCSEC"):
    register_header_keyword(_name, "arcsec")
for _name in ("CALAPREF", "CALIB FLUX REFERENCE", "SKYGRAFT CALIB FLUX REFERENCE"):
    register_header_keyword(_name, "reference")
# SExtractor's PHOT_APERTURES (diameters in pixels), as pipelines copy it into the header of a calibrated image.
for _name in ("PHOTAPER", "PHOT_APER", "PHOT_APERTURES"):
    register_header_keyword(_name, "pix", diameter=True)


def header_candidates(
    header: fits.Header | Mapping[str, Any],
    path: str | os.PathLike[str] | None = None,
    hdu: int | str | None = None,
) -> list[ReferenceCandidate]:
    """Collect what a header says about the calibration reference.

    Parameters
    ----------
    header : Header or mapping
        The cards; keywords of `HEADER_KEYWORDS` are looked for.
    path : path-like, optional
        The file, for origins and messages.
    hdu : int or str, optional
        The HDU of that file.

    Returns
    -------
    list of ReferenceCandidate
        One for each keyword that is there. A diameter keyword that lists several gives none: which of them was
        the calibration's is not said.

    Raises
    ------
    CalibrationError
        If such a keyword has a value that cannot be what it should be.
    """
    place = "" if path is None else f" in {os.path.basename(path)}"  # noqa: PTH119 (path may be text)
    if hdu not in (None, 0):
        place += f"[{hdu}]" if place else f" in HDU {hdu}"
    found = []
    for keyword in HEADER_KEYWORDS.values():
        value = header.get(keyword.name)
        if value is None or (isinstance(value, str) and not value.strip()):
            continue
        try:
            candidate = _candidate(keyword, value, _bracket_unit(header, keyword.name), place)
        except ConfigError as error:
            raise CalibrationError(
                f"{keyword.name} = {value!r} is not a calibration reference: {error.message}",
                path=path,
                hdu=hdu,
                key=keyword.name,
                fix="Correct or remove the keyword",
            ) from error
        if candidate is not None:
            found.append(candidate)
    return found


def _bracket_unit(header: fits.Header | Mapping[str, Any], name: str) -> str | None:
    if not isinstance(header, fits.Header):
        return None
    found = _BRACKETS.match(header.comments[name])
    return None if found is None else "pix" if found[1].lower().startswith("p") else "arcsec"


def _candidate(keyword: HeaderKeyword, value: Any, bracket_unit: str | None, place: str) -> ReferenceCandidate | None:
    origin = f"{keyword.name} = {value}{place}"
    if keyword.unit == "reference":
        found = parse_radius(value)
        return ReferenceCandidate(found.kind, found.radius_pixels, found.radius_arcsec, origin, "header")
    texts = re.split(r"[,\s]+", str(value).strip().strip("[]()")) if isinstance(value, str) else [value]
    try:
        numbers = [float(text) for text in texts]
    except (TypeError, ValueError):
        raise ConfigError(f"{value!r} is not a number", fix=HOW_TO_GIVE) from None
    if isinstance(value, bool):
        raise ConfigError(f"{value!r} is not a number", fix=HOW_TO_GIVE)
    if len(numbers) > 1:
        if keyword.diameter:
            return None
        raise ConfigError(f"{value!r} is more than one number", fix=HOW_TO_GIVE)
    unit = bracket_unit or keyword.unit
    radius = numbers[0] / 2 if keyword.diameter else numbers[0]
    if keyword.diameter:
        origin = f"{origin}, a diameter in {unit}: radius {radius:g} {unit}"
    return ReferenceCandidate(
        "aperture",
        radius if unit == "pix" else None,
        radius if unit == "arcsec" else None,
        origin,
        "header",
    )
