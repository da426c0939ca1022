"""How coadds are compared with visits, and from which size on a reason is named."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from skygraft.errors import ConfigError
from skygraft.photometry import parse_radius

__all__ = ["CLIPPED_PLANES", "REASONS", "REJECTED_PLANES", "ConsistencySettings", "Weighting"]

type Weighting = Literal["auto", "variance", "equal"]

REASONS = {
    "PSF_MODEL": "the coadd's PSF is not the mean of the visits' PSFs",
    "WARPING": "interpolation changes the flux of the visits' light",
    "CALIBRATION": "visits and coadd are calibrated to different references",
    "MAGNITUDE": "visits and coadd got different magnitudes (light curves)",
    "WEIGHTS": "the coadd has other weights than assumed",
    "MISSING_VISITS": "visits that are not in the coadd, or inputs of the coadd that are not given",
    "CLIPPING": "masked or clipped pixels",
    "ZEROPOINT": "the coadd's pixels have another zeropoint than it says",
    "WCS_OFFSET": "the coadd's pixels are shifted against its WCS",
    "POSITION": "the light is at another position",
    "EDGE": "an edge of a visit crosses the aperture",
    "REMAINDER": "none of these",
}
"""Reasons for a difference, by name."""

REJECTED_PLANES = (
    "BAD", "SAT", "CR", "NO_DATA", "EDGE", "SENSOR_EDGE", "UNMASKEDNAN", "SATURATED", "COSMIC_RAY", "DETECTION_EDGE",
    "CLIPPED", "REJECTED",
)  # fmt: skip
"""Mask planes of visits whose pixels are left out by default, of those that an image has; of an image that has none of
these names, all planes that `Exposure.bad` counts."""

CLIPPED_PLANES = ("CLIPPED", "REJECTED")
"""Mask planes of coadds that mark where inputs were rejected. They are often set in the cores of stars."""


@dataclass(frozen=True)
class ConsistencySettings:
    """How coadds are compared with visits.

    Parameters
    ----------
    tolerance : float
        Difference, mag, up to which a source agrees, and of each term from which on its reason is named.
    size_tolerance : float
        The same for the ratio of sizes, as a fraction.
    position_tolerance : float
        The same for centroids and the WCS, coadd pixels.
    weights : {"auto", "variance", "equal"}
        Weights of the visits: those that the coadd's file lists, or else one over the variance; one over the variance;
        or one for each.
    aperture : str, optional
        Radius to measure in, if the coadd is not calibrated to an aperture: ``"12 pix"`` or ``"2 arcsec"``; by default
        three times the FWHM of its PSF.
    bad_planes : tuple of str, optional
        Mask planes of visits whose pixels are left out; by default `REJECTED_PLANES`.
    pixels : bool
        Compare also the light that was in the images before injection, which tells the weights, the zeropoint and the
        shift of the coadd's own pixels.

    Raises
    ------
    ConfigError
        If a setting is not one of those allowed.
    """

    tolerance: float = 0.005
    size_tolerance: float = 0.01
    position_tolerance: float = 0.05
    weights: Weighting = "auto"
    aperture: str | None = None
    bad_planes: tuple[str, ...] | None = None
    pixels: bool = True

    def __post_init__(self) -> None:
        for name in ("tolerance", "size_tolerance", "position_tolerance"):
            value = getattr(self, name)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not (number and 0 < value < math.inf):
                raise ConfigError(f"{name} is {value!r}; a positive number is needed", key=name)
        allowed = get_args(Weighting.__value__)
        if self.weights not in allowed:
            raise ConfigError(f"{self.weights!r} is not one of {', '.join(allowed)}", key="weights")
        if self.aperture is not None and parse_radius(self.aperture).kind != "aperture":
            raise ConfigError(f"{self.aperture!r} is not a radius", key="aperture", fix="Give for example '12 pix'")
        if self.bad_planes is not None:
            object.__setattr__(self, "bad_planes", tuple(self.bad_planes))

    def to_dict(self) -> dict[str, Any]:
        """The settings as JSON types; `from_dict` reads them back."""
        content = asdict(self)
        return content | {"bad_planes": None if self.bad_planes is None else list(self.bad_planes)}

    @classmethod
    def from_dict(cls, content: Any) -> ConsistencySettings:
        """Make settings of a mapping.

        Parameters
        ----------
        content : mapping
            By name; what is left out has its default.

        Returns
        -------
        ConsistencySettings

        Raises
        ------
        ConfigError
            If a name is unknown, or a setting not allowed.
        """
        known = [one.name for one in fields(cls)]
        for name in content:
            if name not in known:
                raise ConfigError(f"unknown setting {name!r}; known are {', '.join(known)}", key=str(name))
        return cls(**content)
