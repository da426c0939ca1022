"""Units of pixels, in any spelling.

A gain is in electrons per count, so it applies to an image of counts and to no other; a zeropoint per second applies to
a unit per second; a surface brightness needs the area of a pixel. `parse_unit` says which of these a unit is.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from astropy import units as u

from skygraft.errors import ConfigError

__all__ = ["AB_REFERENCE_FLUX_NJY", "NJY_PER_NANOMAGGY", "PixelUnit", "canonical_unit", "parse_unit", "summed_unit"]

AB_REFERENCE_FLUX_NJY = 3630780547701.0026
"""Flux density of AB magnitude 0 in nJy: ``1e23 * 10**(-48.6 / 2.5) * 1e9`` (Oke & Gunn 1983)."""

NJY_PER_NANOMAGGY = AB_REFERENCE_FLUX_NJY * 1e-9
"""One nanomaggy (AB magnitude 22.5) in nJy."""

type UnitKind = Literal[
    "counts", "electrons", "flux", "surface brightness", "variance", "inverse variance", "magnitude", "other"
]

_SUMMED = " * pixel"

# What headers write, and astropy's word for it. Counts, ADU and DN are one thing: what the converter gave.
_WORDS: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...] = (
    (r"\bper\b", "/"),
    (r"\b(?:photo-?)?electrons?\b|\be-|^e(?=$|[\s/.*])", "electron"),
    (r"\b(?:adus?|counts?|cts?|dns?|data\s+(?:numbers?|units?))\b", "adu"),
    (r"\bcps\b", "adu/s"),
    (r"\bnano-?(?:magg(?:y|ies)|mgy)\b|\bnmgys?\b", "nmgy"),
    (r"\bmagg(?:y|ies)\b", "mgy"),
    (r"\bnano-?janskys?\b", "nJy"),
    (r"\bmicro-?janskys?\b|\bµJy\b|\bμJy\b", "uJy"),
    (r"\bmilli-?janskys?\b", "mJy"),
    (r"\bmega-?janskys?\b", "MJy"),
    (r"\bjanskys?\b", "Jy"),
    (r"\b([nuk])jy\b", lambda m: m[1].lower() + "Jy"),
    (r"\b(m?)jy\b", lambda m: m[1] + "Jy"),
    (r"\bsec(?:onds?)?\b", "s"),
    (r"(?<=[\s/.*])s(?=\s*(?:\^|\*\*)?\s*-?\d|\s*\)|\s*$)", "s"),
    (r"\b(?:pixels?|px)\b", "pix"),
    (r"\b(?:steradians?|ster)\b", "sr"),
    (r"\b(?:angstroms?|ang)\b", "Angstrom"),
    (r"\b(?:sq|square)\s*arcsec\b", "arcsec2"),
    (r"\bergs?\b", "erg"),
    (r"\bhz\b", "Hz"),
    (r"\b(sr|beam|mag|arcsec)(?=\b|\d)", lambda m: m[1].lower()),
    (r"\b10\s*(?:\^|\*\*)\s*\(?\s*([+-]?\d+)\s*\)?", r"1e\1 "),
)


@dataclass(frozen=True)
class PixelUnit:
    """What one image unit is.

    Parameters
    ----------
    name : str
        Its one spelling in skygraft (`canonical_unit`).
    kind : str
        "counts" (ADU, DN, counts), "electrons", "flux", "surface brightness", "variance" or "inverse variance" (the
        square of a flux, and one over it), "magnitude", or "other" where it is not understood.
    scale : float
        Counts or electrons of one unit, nJy of a flux density, nJy/sr of a surface brightness; NaN where that is not
        defined.
    per_second : bool
        Whether it is per second of exposure.
    """

    name: str
    kind: UnitKind
    scale: float
    per_second: bool = False


def parse_unit(text: str) -> PixelUnit:
    """Read an image unit, in any spelling.

    Parameters
    ----------
    text : str
        As a header has it; empty for counts.

    Examples
    --------
    >>> [parse_unit(t).kind for t in ("ADU s-1", "photo-electrons/sec", "nanomaggies", "MJy/sr", "nJy**2", "furlong")]
    ['counts', 'electrons', 'flux', 'surface brightness', 'variance', 'other']
    """
    return _parse(text.strip())


@lru_cache(maxsize=256)
def _parse(text: str) -> PixelUnit:
    if not text:
        return PixelUnit("adu", "counts", 1.0)
    unit = None if text.endswith(_SUMMED) else _astropy_unit(text)
    if unit is None:
        return PixelUnit(text, "other", math.nan)
    kind, scale, per_second = _classify(unit)
    name = text
    if scale == 1.0 and kind in ("counts", "electrons"):
        name = ("adu" if kind == "counts" else "electron") + ("/s" if per_second else "")
    elif kind == "flux" and math.isclose(scale, 1.0):
        name = "nJy"
    elif kind == "flux" and math.isclose(scale, NJY_PER_NANOMAGGY):
        name = "nanomaggy"
    return PixelUnit(name, kind, scale, per_second)


def _astropy_unit(text: str) -> Any:
    """Convert to astropy's unit; None where astropy does not know it."""
    for pattern, word in _WORDS:
        text = re.sub(pattern, word, text, flags=re.IGNORECASE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", u.UnitsWarning)
        for style in ("generic", "fits", "cds", "ogip"):
            try:
                return u.Unit(text, format=style)
            except (ValueError, TypeError):
                continue
    return None


def _classify(unit: Any) -> tuple[UnitKind, float, bool]:
    whole = unit.decompose()
    powers = {base.name: power for base, power in zip(whole.bases, whole.powers, strict=True)}
    powers.pop("pix", None)  # what a pixel holds is per pixel
    scale = float(whole.scale)
    per_second = powers.get("s", 0) == -1
    counted = powers.keys() - ({"s"} if per_second else set())
    if counted == {"adu"} and powers["adu"] == 1:
        return "counts", scale, per_second
    if counted == {"electron"} and powers["electron"] == 1:
        return "electrons", scale, per_second
    if powers.get("rad", 0) == -2 or "sr" in powers or "beam" in powers:
        return "surface brightness", _njy(unit * u.sr), False
    if powers == {"mgy": 1}:
        return "flux", scale * AB_REFERENCE_FLUX_NJY, False
    if powers == {"dex": 1}:
        return "magnitude", math.nan, False
    # kg s-2 is a flux density per Hz; kg m-1 s-3 one per wavelength; kg s-3 an integrated flux.
    if powers.get("kg") == 1 and powers.get("s", 0) <= -2:
        return "flux", _njy(unit), False
    root_of: tuple[tuple[UnitKind, float], ...] = (("variance", 0.5), ("inverse variance", -0.5))
    for kind, power in root_of:
        if powers and all(p / 2 == int(p / 2) for p in powers.values()):
            inner = _classify(unit**power)[0]
            if inner in ("counts", "electrons", "flux", "surface brightness"):
                return kind, math.nan, False
    return "other", math.nan, False


def _njy(unit: Any) -> float:
    for per in (u.dimensionless_unscaled, u.pix, u.pix**2):
        try:
            return float((unit * per).to(u.nJy))
        except u.UnitConversionError:
            continue
    return math.nan


def canonical_unit(unit: str) -> str:
    """Give the one spelling of an image unit that skygraft uses.

    ``nJy``, ``nanomaggy``, ``adu``, ``adu/s``, ``electron``, ``electron/s``; any other unit is kept as it is
    written (it is only a label), but a surface brightness is refused, since its zeropoint means something else.

    Parameters
    ----------
    unit : str
        The unit in any spelling.

    Returns
    -------
    str

    Raises
    ------
    ConfigError
        If the unit is a surface brightness, such as MJy/sr.
    """
    found = parse_unit(unit)
    if found.kind == "surface brightness":
        raise ConfigError(
            f"{unit!r} is a surface brightness; fluxes per pixel are needed",
            fix="Give the area of a pixel (pixel_area='2.25e-14 sr'), or the AB magnitude of one image unit in one "
            "pixel (zeropoint=)",
        )
    return found.name


def summed_unit(unit: str) -> str:
    """Give the unit of a sum over pixels: that of the image, times a pixel where it is a surface brightness.

    Parameters
    ----------
    unit : str
        Unit of the image.

    Returns
    -------
    str
    """
    return f"{unit.strip()}{_SUMMED}" if parse_unit(unit).kind == "surface brightness" else unit
