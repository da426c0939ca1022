"""What a calibrated flux is the flux *of*: an aperture, the PSF model, or everything."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from skygraft.errors import ConfigError

__all__ = ["PSF_MODEL", "TOTAL", "CalibrationAperture", "CalibrationReference", "ModelReference"]


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
        Where the radius was found, for people: ``"slot_CalibFlux -> base_CircularApertureFlux_12_0 in SRC-1-2.fits"``.

    Raises
    ------
    ConfigError
        If a radius is not positive and finite.
    """

    radius_pixels: float
    radius_arcsec: float | None = None
    origin: str = "given"

    def __post_init__(self) -> None:
        for name in ("radius_pixels", "radius_arcsec"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ConfigError(
                    f"{name} is {value!r}; a calibration radius is a positive, finite number", key=name,
                    fix="Give the radius (half of the diameter), for example '12 pix' or '2 arcsec'",
                )

    def __str__(self) -> str:
        sky = "" if self.radius_arcsec is None else f" = {self.radius_arcsec:.2f} arcsec"
        return f"{self.radius_pixels:g} pix{sky} ({self.origin})"


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
