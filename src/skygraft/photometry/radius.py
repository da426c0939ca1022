"""Radii as people write them and as the names of flux fields carry them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from skygraft.errors import ConfigError
from skygraft.lazy import lazy_module
from skygraft.photometry.reference import (
    CalibrationAperture,
    CandidateKind,
    CandidateLevel,
    ModelReference,
    ReferenceCandidate,
)

if TYPE_CHECKING:
    from astropy import units as u
else:
    u = lazy_module("astropy.units")

__all__ = ["HOW_TO_GIVE", "field_name_candidate", "parse_field_radius", "parse_radius"]

HOW_TO_GIVE = (
    "Give the radius with its unit: '12 pix', '2 arcsec' or {'diameter': '4 arcsec'}; or 'psf_model' or 'total'"
)

_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_LENGTH = re.compile(rf"^\s*(?P<value>{_NUMBER})\s*(?P<unit>[^\d\s.].*?)?\s*$")
_PREFIXED = re.compile(r"^\s*(radius|diameter)\s*[:=]?\s*(?P<length>[\d.+-].*)$", re.IGNORECASE)
_UNITS: dict[str, tuple[str, float]] = {
    **dict.fromkeys(("pix", "pixel", "pixels", "px"), ("pixels", 1.0)),
    **dict.fromkeys(("arcsec", "arcsecs", "arcsecond", "arcseconds", "asec", '"', "''", "″"), ("arcsec", 1.0)),
    **dict.fromkeys(("arcmin", "arcminute", "arcminutes", "'"), ("arcsec", 60.0)),
    **dict.fromkeys(("deg", "degree", "degrees"), ("arcsec", 3600.0)),
    **dict.fromkeys(("mas",), ("arcsec", 1e-3)),
}
_MODELS: dict[str, CandidateKind] = {
    **dict.fromkeys(("psf_model", "psf-model", "psf model"), "psf_model"),
    "total": "total",
}

# base_CircularApertureFlux_12_0_instFlux, apFlux_35_0_instFlux, ApFlux_4_5_flag: digits, then tenths.
_DIGITS_TENTHS = re.compile(r"(?:Aperture|(?<![A-Za-z])Ap)Flux_(\d+)(?:_(\d+))?(?![A-Za-z0-9])", re.IGNORECASE)
# ap12Flux, r_ap12FluxErr: whole pixels.
_AP_DIGITS_FLUX = re.compile(r"(?<![A-Za-z])ap(\d+)Flux", re.IGNORECASE)
# base_CompensatedTophatFlux_12_instFlux: whole pixels.
_TOPHAT = re.compile(r"(?<!Normalized)CompensatedTophatFlux_(\d+)(?![A-Za-z0-9])", re.IGNORECASE)
NORMALISED_TOPHAT = re.compile(r"NormalizedCompensatedTophatFlux|normCompTophatFlux", re.IGNORECASE)
_PSF_FLUX = re.compile(r"(?<![A-Za-z])psfFlux", re.IGNORECASE)

NORMALISED_TOPHAT_RADIUS = 12.0
"""Pixels: by default the LSST pipelines normalise their compensated tophat to ``base_CircularApertureFlux_12_0``."""


def parse_radius(setting: Any, *, origin: str = "given") -> ReferenceCandidate:
    """Read a setting of what the calibrated flux is the flux of.

    Parameters
    ----------
    setting : str, mapping, Quantity, CalibrationAperture, PSF_MODEL, TOTAL or ReferenceCandidate
        ``"12 pix"`` or ``"2 arcsec"`` (radii), ``{"radius": ...}``, ``{"diameter": "4 arcsec"}`` (or the same as
        text, ``"diameter: 4 arcsec"``), ``12 * u.pix``, ``"psf_model"`` or ``"total"``.
    origin : str
        Where the setting stands, for people.

    Returns
    -------
    ReferenceCandidate
        With level ``"explicit"``.

    Raises
    ------
    ConfigError
        If it is none of these. A bare number is refused: it could be a radius or a diameter, in pixels or in
        arcsec, and each of these readings is some survey's habit.
    """
    match setting:
        case ReferenceCandidate():
            return setting
        case CalibrationAperture(unit="arcsec"):
            return _aperture(None, setting.radius_arcsec, setting.origin)
        case CalibrationAperture():
            return _aperture(setting.radius_pixels, setting.radius_arcsec, setting.origin)
        case ModelReference():
            return ReferenceCandidate(setting.value, origin=origin, level="explicit")
        case Mapping():
            return _from_mapping(setting, origin)
        case str():
            text = setting.strip()
            if text.lower() in _MODELS:
                return ReferenceCandidate(_MODELS[text.lower()], origin=origin, level="explicit")
            if prefixed := _PREFIXED.match(text):
                return _from_mapping({prefixed[1].lower(): prefixed["length"]}, origin)
    pixels, arcsec = _length(setting)
    return _aperture(pixels, arcsec, origin)


def _aperture(pixels: float | None, arcsec: float | None, origin: str) -> ReferenceCandidate:
    return ReferenceCandidate("aperture", pixels, arcsec, origin=origin, level="explicit")


def _from_mapping(setting: Mapping[Any, Any], origin: str) -> ReferenceCandidate:
    keys = sorted(str(key) for key in setting)
    if keys not in (["radius"], ["diameter"]):
        raise ConfigError(
            f"an aperture has one key, radius or diameter; given: {', '.join(keys) or 'none'}",
            key="aperture",
            fix=HOW_TO_GIVE,
        )
    pixels, arcsec = _length(setting[keys[0]])
    if keys == ["radius"]:
        return _aperture(pixels, arcsec, origin)
    diameter = f"{pixels:g} pix" if pixels is not None else f"{arcsec:g} arcsec"
    return _aperture(
        None if pixels is None else pixels / 2,
        None if arcsec is None else arcsec / 2,
        f"{origin}, half of the diameter {diameter}",
    )


def _length(setting: Any) -> tuple[float | None, float | None]:
    """Pixels, arcsec: one of the two."""
    if not isinstance(setting, str | int | float) and isinstance(setting, u.Quantity):
        return _quantity_length(setting)
    found = _LENGTH.match(setting) if isinstance(setting, str) else None
    bare = (isinstance(setting, (int, float)) and not isinstance(setting, bool)) or (found and not found["unit"])
    if bare:
        raise ConfigError(
            f"the aperture {setting!r} has no unit: it could be a radius or a diameter, in pixels or in arcsec",
            key="aperture",
            fix=HOW_TO_GIVE,
        )
    if found is None or found["unit"].strip().lower() not in _UNITS:
        raise ConfigError(f"the aperture {setting!r} cannot be read", key="aperture", fix=HOW_TO_GIVE)
    name, factor = _UNITS[found["unit"].strip().lower()]
    value = float(found["value"]) * factor
    if not 0 < value < math.inf:
        raise ConfigError(
            f"the aperture is {setting!r}; a positive, finite length is needed", key="aperture", fix=HOW_TO_GIVE
        )
    return (value, None) if name == "pixels" else (None, value)


def _quantity_length(setting: u.Quantity) -> tuple[float | None, float | None]:
    if setting.isscalar:
        if setting.unit.is_equivalent(u.pix):
            return float(setting.to_value(u.pix)), None
        if setting.unit.is_equivalent(u.arcsec):
            return None, float(setting.to_value(u.arcsec))
    raise ConfigError(
        f"the aperture {setting!r} is not one number of pixels or an angle", key="aperture", fix=HOW_TO_GIVE
    )


def parse_field_radius(name: str) -> float | None:
    """Read the radius that the name of a flux field carries, by the naming of the LSST pipelines.

    ``base_CircularApertureFlux_12_0_instFlux`` gives 12.0, ``ApFlux_4_5_flag`` 4.5 (digits, then tenths),
    ``ap12Flux`` 12.0, ``base_CompensatedTophatFlux_12`` 12.0; a name without a radius (``base_PsfFlux``) None.

    Parameters
    ----------
    name : str
        Name of the field.

    Returns
    -------
    float or None
        Pixels; None for a name without a radius.
    """
    if found := _DIGITS_TENTHS.search(name):
        return float(f"{found[1]}.{found[2] or 0}")
    found = _AP_DIGITS_FLUX.search(name) or _TOPHAT.search(name)
    return float(found[1]) if found else None


def field_name_candidate(
    name: str,
    origin: str,
    *,
    level: CandidateLevel = "fgcm",
    tophat_radius: float | None = None,
) -> ReferenceCandidate | None:
    """Read from the name of the flux field that the calibration used what it is the flux of.

    Parameters
    ----------
    name : str
        For example FGCM's ``instFluxField``, or what ``slot_CalibFlux`` points at.
    origin : str
        Where the name was found.
    level : str
        Level of the candidate.
    tophat_radius : float, optional
        Pixels: the raw radius of the compensated tophat, where another name tells it. The normalised
        compensated tophat is scaled to the circular aperture of that radius, `NORMALISED_TOPHAT_RADIUS` by default.

    Returns
    -------
    ReferenceCandidate or None
        None where the name says neither a radius nor a PSF model.
    """
    radius = parse_field_radius(name)
    if radius is None and NORMALISED_TOPHAT.search(name):
        radius = tophat_radius or NORMALISED_TOPHAT_RADIUS
        digits = f"{radius:.1f}".replace(".", "_")
        origin = f"{origin} (normalised to base_CircularApertureFlux_{digits})"
    if radius is not None:
        return ReferenceCandidate("aperture", radius, origin=origin, level=level)
    if _PSF_FLUX.search(name):
        return ReferenceCandidate("psf_model", origin=origin, level=level)
    return None
