"""Settings of how fakes are detected, measured and matched: one definition with its defaults."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from skygraft.errors import ConfigError

__all__ = ["RECOVERY_DEFAULTS", "RecoverySettings"]

type DetectionFilter = Literal["default", "psf", "none"]


@dataclass(frozen=True)
class RecoverySettings:
    """How the fakes of an image are detected, measured and matched.

    Parameters
    ----------
    threshold : float
        Detection threshold on the filtered image, in standard deviations of the sky in one pixel before it was
        filtered, as Source Extractor's DETECT_THRESH.
    min_area : int
        Connected pixels above the threshold that make a detection.
    filter : {"default", "psf", "none"}
        What the image is filtered with before: SEP's and Source Extractor's 3 x 3 pyramid, a Gaussian with the FWHM of
        the PSF at the middle of the image, or nothing.
    deblend_nthresh : int
        Levels between the threshold and the peak at which a detection is split.
    deblend_cont : float
        Part of the flux that a branch must have to become a detection of its own; 1 for no deblending.
    clean : bool
        Whether detections that are but the wings of a brighter neighbour are removed.
    clean_param : float
        Of the cleaning: larger values remove fewer.
    background_size : int
        Side of the meshes of the background map, pixels.
    background_filter : int
        Width of the median filter over meshes.
    match_radius : float or None
        Largest distance from a fake to its detection, arcsec. None for three quarters of the FWHM that the fake is
        expected to have (of the PSF and the half-light diameter, in quadrature), and one pixel at least.
    ambiguous_fraction : float
        A fake where the original image has a detection counts as recovered only if the calibrated flux of that
        detection is less than this fraction of the fake's.
    blend_fraction : float
        Light of neighbours in the calibration aperture, over the fake's own, from which on it counts as blended.
    apertures : tuple of float
        Radii of more apertures, pixels.
    bad_planes : tuple of str or None
        Mask planes whose pixels are left out. None for all, except those that mark sources: `Exposure.bad`.
    columns : tuple of str
        More columns of the catalogue, for the table.

    Raises
    ------
    ConfigError
        If a value is out of its range.
    """

    threshold: float = 1.5
    min_area: int = 5
    filter: DetectionFilter = "default"
    deblend_nthresh: int = 32
    deblend_cont: float = 0.005
    clean: bool = True
    clean_param: float = 1.0
    background_size: int = 64
    background_filter: int = 3
    match_radius: float | None = None
    ambiguous_fraction: float = 1.0
    blend_fraction: float = 0.02
    apertures: tuple[float, ...] = (3.0, 6.0)
    bad_planes: tuple[str, ...] | None = None
    columns: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, (low, high, what) in _RANGES.items():
            value = getattr(self, name)
            if value is None and name == "match_radius":
                continue
            whole = name in _WHOLE
            number = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
            if not (number and low <= value <= high and math.isfinite(value)):
                raise _refuse(name, value, what)
        if self.filter not in get_args(DetectionFilter.__value__):
            raise _refuse("filter", self.filter, "'default', 'psf' or 'none'")
        if not isinstance(self.clean, bool):
            raise _refuse("clean", self.clean, "true or false")
        radii = self.apertures
        if len({aperture_name(radius) for radius in radii}) < len(radii):
            raise _refuse("apertures", radii, "each radius once")
        for radius in radii:
            number = isinstance(radius, (int, float)) and not isinstance(radius, bool)
            if not (number and 0 < radius <= _LARGEST_APERTURE):
                raise _refuse("apertures", radius, f"radii in pixels, above 0 and up to {_LARGEST_APERTURE:g}")

    @classmethod
    def from_mapping(cls, settings: Mapping[str, Any]) -> RecoverySettings:
        """Read settings from JSON types; those that are not given have their default.

        Parameters
        ----------
        settings : mapping of str to object
            By the names of the parameters.

        Returns
        -------
        RecoverySettings

        Raises
        ------
        ConfigError
            If a name is unknown, or a value is not allowed.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        values: dict[str, Any] = {}
        for name, value in settings.items():
            if name not in known:
                near = difflib.get_close_matches(str(name), known, 1)
                raise ConfigError(
                    f"there is no setting {name!r} of the recovery; there are {', '.join(known)}",
                    key=f"recovery.{name}",
                    fix=f"Did you mean {near[0]!r}?" if near else None,
                )
            if name in _LISTS and value is not None and not isinstance(value, (list, tuple)):
                raise _refuse(name, value, "a list")
            values[name] = tuple(value) if name in _LISTS and value is not None else value
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Give the settings as JSON types.

        Returns
        -------
        dict
        """
        return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}


_LARGEST_APERTURE = 500.0
_WHOLE = ("min_area", "deblend_nthresh", "background_size", "background_filter")
_LISTS = ("apertures", "bad_planes", "columns")
_RANGES: dict[str, tuple[float, float, str]] = {
    "threshold": (1e-3, 1e6, "a positive number of standard deviations"),
    "min_area": (1, 10**6, "a number of pixels, 1 or more"),
    "deblend_nthresh": (1, 64, "1 to 64"),
    "deblend_cont": (0.0, 1.0, "0 to 1"),
    "clean_param": (0.1, 10.0, "0.1 to 10"),
    "background_size": (4, 10**5, "a number of pixels, 4 or more"),
    "background_filter": (1, 99, "a number of meshes, 1 or more"),
    "match_radius": (1e-3, 3600.0, "arcsec, above 0"),
    "ambiguous_fraction": (0.0, 1e6, "0 or more"),
    "blend_fraction": (0.0, 1e6, "0 or more"),
}


def aperture_name(radius: float) -> str:
    """Give the kind of flux in an aperture, as names of columns have it: ``ap_4_5`` for 4.5 pixels."""
    return f"ap_{radius:g}".replace(".", "_")


def _refuse(name: str, value: Any, allowed: str) -> ConfigError:
    return ConfigError(f"{name} is {value!r}; allowed: {allowed}", key=f"recovery.{name}")


RECOVERY_DEFAULTS: dict[str, Any] = RecoverySettings().to_dict()
"""Every setting and its default, as JSON types."""
