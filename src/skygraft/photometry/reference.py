"""What a calibrated flux is the flux *of*: an aperture, the PSF model, or everything."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

from skygraft.errors import ConfigError

__all__ = [
    "PSF_MODEL",
    "TOTAL",
    "CalibrationAperture",
    "CalibrationReference",
    "CandidateKind",
    "CandidateLevel",
    "ModelReference",
    "RadiusUnit",
    "ReferenceCandidate",
    "describe_reference",
    "recorded_unit",
]

type CandidateKind = Literal["aperture", "psf_model", "total", "unclear"]
type RadiusUnit = Literal["pix", "arcsec"]
type CandidateLevel = Literal["explicit", "header", "schema", "fgcm", "default", "hint"]


def _check_radius(name: str, value: float | None) -> None:
    if value is not None and not 0 < value < math.inf:
        raise ConfigError(
            f"{name} is {value!r}; a calibration radius is a positive, finite number",
            key=name,
            fix="Give the radius (half of the diameter), for example '12 pix' or '2 arcsec'",
        )


@dataclass(frozen=True)
class CalibrationAperture:
    """The circular aperture that an image's photometric calibration measured its stars in.

    Parameters
    ----------
    radius_pixels : float
        Radius (not diameter) in pixels of the image.
    radius_arcsec : float or None
        The same radius on the sky, with the image's local pixel scale; None where the scale is not known.
    origin : str
        Where the radius was found, for people:
        ``"slot_CalibFlux -> base_CircularApertureFlux_12_0 in SRC-1-2.fits"``.
    unit : {"pix", "arcsec"}
        The unit in which the radius was given: the other radius follows from it and the local pixel scale, and differs
        a little from image to image.

    Raises
    ------
    ConfigError
        If a radius is not positive and finite, or `unit` is not one of those, or ``"arcsec"`` without `radius_arcsec`.

    Examples
    --------
    >>> CalibrationAperture(12.0, 2.016, "slot_CalibFlux").given
    '12 pix'
    >>> str(CalibrationAperture(11.905, 2.0, "CALAPRAS", unit="arcsec"))
    '2 arcsec = 11.905 pix (CALAPRAS)'
    """

    radius_pixels: float
    radius_arcsec: float | None = None
    origin: str = "given"
    unit: RadiusUnit = "pix"

    def __post_init__(self) -> None:
        _check_radius("radius_pixels", self.radius_pixels)
        _check_radius("radius_arcsec", self.radius_arcsec)
        if self.unit not in get_args(RadiusUnit.__value__) or (self.unit == "arcsec" and self.radius_arcsec is None):
            raise ConfigError(
                f"unit is {self.unit!r} and radius_arcsec is {self.radius_arcsec!r}; "
                "'pix' is needed, or 'arcsec' with a radius in arcsec",
                key="unit",
            )

    @property
    def given(self) -> str:
        """The radius in the unit in which it was given, as `skygraft.photometry.parse_radius` reads it."""
        radius = self.radius_arcsec if self.unit == "arcsec" else self.radius_pixels
        return f"{radius:g} {self.unit}"

    @property
    def text(self) -> str:
        """The radius in both units, the given one first: ``"12 pix = 2.02 arcsec"``."""
        if self.unit == "arcsec":
            return f"{self.given} = {self.radius_pixels:.5g} pix"
        sky = "" if self.radius_arcsec is None else f" = {self.radius_arcsec:.2f} arcsec"
        return self.given + sky

    def __str__(self) -> str:
        return f"{self.text} ({self.origin})"


class ModelReference(enum.Enum):
    """The two calibration references that are not an aperture."""

    PSF_MODEL = "psf_model"
    """The amplitude of a unit-sum PSF fit."""
    TOTAL = "total"
    """All the flux, in an infinite plane."""

    def __str__(self) -> str:
        return self.value


PSF_MODEL = ModelReference.PSF_MODEL
TOTAL = ModelReference.TOTAL

type CalibrationReference = CalibrationAperture | ModelReference


@dataclass(frozen=True)
class ReferenceCandidate:
    """What one source of information says that the calibrated flux is the flux of, before anything is decided.

    Parameters
    ----------
    kind : {"aperture", "psf_model", "total", "unclear"}
        What it says; ``unclear`` where it says something that cannot be understood. Such a candidate keeps defaults and
        less specific places from deciding.
    radius_pixels, radius_arcsec : float or None
        For an aperture, its radius in image pixels or on the sky; at least one of the two.
    origin : str
        Where it was found, for people.
    level : {"explicit", "header", "schema", "fgcm", "default", "hint"}
        What sort of place that is. A ``default`` counts only where nothing else is found; a ``hint`` never
        decides, it is only named in the error that says that nothing was found.

    Raises
    ------
    ConfigError
        If `kind` or `level` is not one of those, or the radius is missing, unasked for, or not positive.
    """

    kind: CandidateKind
    radius_pixels: float | None = None
    radius_arcsec: float | None = None
    origin: str = "given"
    level: CandidateLevel = "explicit"

    def __post_init__(self) -> None:
        for name, allowed in (("kind", CandidateKind), ("level", CandidateLevel)):
            if getattr(self, name) not in get_args(allowed.__value__):
                raise ConfigError(
                    f"{name} is {getattr(self, name)!r}; allowed: {', '.join(get_args(allowed.__value__))}",
                    key=name,
                )
        _check_radius("radius_pixels", self.radius_pixels)
        _check_radius("radius_arcsec", self.radius_arcsec)
        given = self.radius_pixels is not None or self.radius_arcsec is not None
        if given != (self.kind == "aperture"):
            problem = "needs a radius" if self.kind == "aperture" else "has no radius"
            raise ConfigError(f"a calibration reference of kind {self.kind!r} {problem}", key="radius")

    @property
    def value(self) -> str:
        """What it says, in a few words: ``"12 pix"``, ``"2 arcsec"``, ``"psf_model"``."""
        if self.kind != "aperture":
            return self.kind
        parts = ((self.radius_pixels, "pix"), (self.radius_arcsec, "arcsec"))
        return " = ".join(f"{v:g} {unit}" for v, unit in parts if v is not None)

    def __str__(self) -> str:
        return f"{self.value} ({self.origin})"

    def describe(self) -> dict[str, Any]:
        """Describe the candidate by JSON types.

        Returns
        -------
        dict
        """
        return {
            "kind": self.kind,
            "radius_pixels": self.radius_pixels,
            "radius_arcsec": self.radius_arcsec,
            "origin": self.origin,
            "level": self.level,
        }


_RECORDED_DIGITS = 6


def recorded_unit(radius_pixels: float | None, radius_arcsec: float | None) -> RadiusUnit | None:
    """Tell the unit in which a recorded radius was given.

    Records of images hold both radii and not the unit. It is the one in which the radius has few digits: the other
    radius is that times the local pixel scale.

    Parameters
    ----------
    radius_pixels, radius_arcsec : float or None
        Of one aperture, as `describe_reference` gives them.

    Returns
    -------
    {"pix", "arcsec"} or None
        None where neither radius has few digits.
    """
    radii: tuple[tuple[RadiusUnit, float | None], ...] = (("pix", radius_pixels), ("arcsec", radius_arcsec))
    for unit, value in radii:
        if value is not None and math.isclose(value, float(f"{value:.{_RECORDED_DIGITS}g}"), rel_tol=1e-12):
            return unit
    return None


def describe_reference(reference: CalibrationReference | None, origin: str = "") -> dict[str, Any]:
    """Describe a reference by JSON types, as records hold it.

    Parameters
    ----------
    reference : CalibrationAperture, PSF_MODEL, TOTAL or None
        The reference; None where it is not known.
    origin : str
        Where it was found; by default an aperture's own origin.

    Returns
    -------
    dict
        ``kind`` (None if unknown), ``radius_pixels``, ``radius_arcsec`` and ``origin``.
    """
    radius: tuple[float | None, float | None] = (None, None)
    kind: str | None = None
    if isinstance(reference, CalibrationAperture):
        kind, radius = "aperture", (reference.radius_pixels, reference.radius_arcsec)
        origin = origin or reference.origin
    elif reference is not None:
        kind = reference.value
    return {"kind": kind, "radius_pixels": radius[0], "radius_arcsec": radius[1], "origin": origin}
