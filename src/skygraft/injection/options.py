"""How to inject: the settings of one call, checked when they are made."""

from __future__ import annotations

import dataclasses
import difflib
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from skygraft.errors import ConfigError
from skygraft.photometry import FLUX_MODES

__all__ = ["InjectionOptions"]


@dataclass(frozen=True)
class InjectionOptions:
    """How to inject.

    Parameters
    ----------
    flux_mode : {"calibrated", "aperture", "psf_sum", "total"}
        What a source's flux is the flux of: the image's own calibration reference (default), the flux inside
        `aperture`, the sum of the PSF kernel, or everything in an infinite plane.
    aperture : str or mapping, optional
        For ``flux_mode="aperture"`` alone: ``"12 pix"``, ``"2 arcsec"`` or ``{"diameter": "4 arcsec"}``.
    position : {"source", "image"}
        Where the PSF is normalised: at each source, or for all of them at the position that the PSF model names as
        its average (the image's centre where it names none).
    noise : bool
        Add the photon noise of the sources, and its variance.
    seed : int
        Campaign seed of the noise.
    gain : float, optional
        Electrons per image unit; None takes the image's own, or the slope of its variance against its flux.
    flux_tolerance : float
        Part of a source's flux that its stamp may leave out.
    mask_threshold : float
        INJECTED marks pixels changed by more than this fraction of their noise (standard deviation).
    stars : {"fourier", "taps", "galsim"}
        How stars are moved by fractions of a pixel: to single precision; half again as fast, to 2e-4 of their peak
        where the FWHM is 3 pixels or more; or by GalSim.
    galaxies : {"fourier", "precise", "galsim"}
        How Sérsic profiles are drawn: many at a time, to 3e-4 of their peak where the FWHM is 3 pixels or more; to
        5e-5, which takes longer; or by GalSim, which draws everything else.

    Raises
    ------
    ConfigError
        If a setting is not one of those allowed.
    """

    flux_mode: Literal["calibrated", "aperture", "psf_sum", "total"] = "calibrated"
    aperture: Any = None
    position: Literal["source", "image"] = "source"
    noise: bool = True
    seed: int = 0
    gain: float | None = None
    flux_tolerance: float = 1e-3
    mask_threshold: float = 0.1
    stars: Literal["fourier", "taps", "galsim"] = "fourier"
    galaxies: Literal["fourier", "precise", "galsim"] = "fourier"

    def __post_init__(self) -> None:
        _one_of("flux_mode", self.flux_mode, FLUX_MODES)
        _one_of("position", self.position, ("source", "image"))
        _one_of("stars", self.stars, ("fourier", "taps", "galsim"))
        _one_of("galaxies", self.galaxies, ("fourier", "precise", "galsim"))
        if (self.flux_mode == "aperture") != (self.aperture is not None):
            raise ConfigError(
                f"flux_mode is {self.flux_mode!r} and aperture is {self.aperture!r}",
                key="aperture",
                fix="Give an aperture with flux_mode 'aperture', and only then; to say what aperture an image was "
                "calibrated in, give it when the image is read",
            )
        if not 0 < self.flux_tolerance < 0.5:
            raise ConfigError(f"{self.flux_tolerance!r} is not between 0 and 0.5", key="flux_tolerance")
        if not (np.isfinite(self.mask_threshold) and self.mask_threshold >= 0):
            raise ConfigError(f"{self.mask_threshold!r} is not a number of at least 0", key="mask_threshold")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int | np.integer) or self.seed < 0:
            raise ConfigError(f"{self.seed!r} is not a whole number of at least 0", key="seed", fix="Give one")
        if self.gain is not None and not (np.isfinite(self.gain) and self.gain > 0):
            raise ConfigError(
                f"{self.gain!r} is not a positive number of electrons per image unit",
                key="gain",
                fix="Give one, such as gain=2.5",
            )

    @classmethod
    def from_kwargs(cls, base: InjectionOptions | None = None, **changes: Any) -> InjectionOptions:
        """Options with some changed; an unknown name is an error that names the nearest known one."""
        known = [f.name for f in dataclasses.fields(cls)]
        for name in changes:
            if name not in known:
                near = difflib.get_close_matches(name, known, 1)
                raise ConfigError(
                    f"unknown injection option {name!r}; known are {', '.join(known)}",
                    fix=f"Did you mean {near[0]!r}?" if near else None,
                )
        return dataclasses.replace(base or cls(), **changes)


def _one_of(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        near = difflib.get_close_matches(str(value), allowed, 1)
        raise ConfigError(
            f"{value!r} is not one of {', '.join(allowed)}",
            key=name,
            fix=f"Did you mean {near[0]!r}?" if near else None,
        )
