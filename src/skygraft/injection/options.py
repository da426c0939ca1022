"""How to inject: the settings of one call, checked when they are made."""

from __future__ import annotations

import dataclasses
import difflib
import math
import reprlib
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from skygraft.conventions import CONVENTIONS, Conventions, check_conventions
from skygraft.errors import ConfigError
from skygraft.photometry import FLUX_MODES, parse_radius
from skygraft.render.engines import (
    GALAXY_ENGINES,
    STAR_ENGINES,
    GalaxyEngine,
    StarEngine,
    galaxy_engine,
    star_engine,
)

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
    coadd_noise : {"correlated", "white"}
        What photon noise is added to a coadd: Gaussian, with the correlation between pixels that the coadd's own noise
        has (of its noise realizations, or of its sky pixels); or as to any other image, independent between pixels.
        The variance added is the same.
    flux_tolerance : float
        Part of a source's flux that its stamp may leave out.
    mask_threshold : float
        INJECTED marks pixels changed by more than this fraction of their noise (standard deviation).
    mark_injected : bool
        Add the mask planes INJECTED (pixels that a source changes visibly) and INJECTED_CORE (3 x 3 pixels at each
        source). They say where the fakes are, not that their pixels are bad: software that leaves out every pixel
        whose mask is not zero would see no fake at all. For such software, leave them out.
    stars : {"precise", "fast", "galsim"}
        How stars are moved by fractions of a pixel: to single precision; half again as fast, to 2e-4 of their peak
        where the FWHM is 3 pixels or more; or by GalSim.
    galaxies : {"fast", "precise", "galsim"}
        How Sérsic profiles are drawn: many at a time, to 3e-4 of their peak where the FWHM is 3 pixels or more; to
        5e-5, which takes longer; or by GalSim, which draws everything else.
    conventions : {"skygraft", "lsst_source_injection"}
        Whose conventions sources are drawn by. With those of LSST's source_injection every pixel is what that package
        makes of it: see `skygraft.injection.lsst`. The PSF is normalised at its average position whatever `position`
        says, the gain is fitted, and `flux_tolerance`, `mask_threshold`, `gain`, `stars` and `galaxies` are refused.
    variance : bool, optional
        Add the sources' variance to the variance plane; by default as `noise`. With other conventions than skygraft's
        own it may be asked for without noise, and the reverse.

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
    coadd_noise: Literal["correlated", "white"] = "correlated"
    flux_tolerance: float = 1e-3
    mask_threshold: float = 0.1
    mark_injected: bool = True
    stars: StarEngine = "precise"
    galaxies: GalaxyEngine = "fast"
    conventions: Conventions = "skygraft"
    variance: bool | None = None

    def __post_init__(self) -> None:
        _one_of("flux_mode", self.flux_mode, FLUX_MODES)
        _one_of("position", self.position, ("source", "image"))
        _one_of("coadd_noise", self.coadd_noise, ("correlated", "white"))
        for name, current, allowed in (
            ("stars", star_engine, STAR_ENGINES),
            ("galaxies", galaxy_engine, GALAXY_ENGINES),
        ):
            engine = getattr(self, name)
            engine = current(engine) if isinstance(engine, str) else engine
            _one_of(name, engine, allowed)
            object.__setattr__(self, name, engine)
        _one_of("conventions", self.conventions, CONVENTIONS)
        if (self.flux_mode == "aperture") != (self.aperture is not None):
            raise ConfigError(
                f"flux_mode is {self.flux_mode!r} and aperture is {self.aperture!r}",
                key="aperture",
                fix="Give an aperture with flux_mode 'aperture', and only then; to say what aperture an image was "
                "calibrated in, give it when the image is read",
            )
        if self.aperture is not None:
            parse_radius(self.aperture)
        for name in ("noise", "mark_injected"):
            self._make(name, bool, isinstance(getattr(self, name), bool | np.bool_), "True or False", "True")
        if self.variance is not None:
            self._make("variance", bool, isinstance(self.variance, bool | np.bool_), "True, False or None", "True")
        tolerance, threshold = _number(self.flux_tolerance), _number(self.mask_threshold)
        self._make("flux_tolerance", float, 0 < tolerance < 0.5, "a number between 0 and 0.5", "1e-3")
        self._make("mask_threshold", float, 0 <= threshold < math.inf, "a number of at least 0", "0.1")
        whole = isinstance(self.seed, int | np.integer) and not isinstance(self.seed, bool)
        self._make("seed", int, whole and self.seed >= 0, "a whole number of at least 0", "1")
        given: Any = self.gain
        if np.ndim(given) > 0:
            raise ConfigError(
                f"gain is an array of shape {np.shape(given)}; one number (electrons per image unit) is needed",
                key="gain",
                fix="Give a map to the image: inject(exposure.replace(gain=gain_map), ...)",
            )
        if self.gain is not None:
            good = 0 < _number(self.gain) < math.inf
            self._make("gain", float, good, "a positive number (electrons per image unit)", "2.5")
        fields = dataclasses.fields(self)
        check_conventions({f.name: getattr(self, f.name) for f in fields}, {f.name: f.default for f in fields})

    @property
    def adds_variance(self) -> bool:
        """Whether the variance plane gets the sources' variance."""
        return self.noise if self.variance is None else self.variance

    def _make(self, name: str, kind: type, good: bool, wanted: str, example: str) -> None:
        """Keep a setting as a plain bool, int or float; or say what it should have been."""
        value = getattr(self, name)
        if not good:
            raise ConfigError(
                f"{name} is {reprlib.repr(value)}; {wanted} is needed",
                key=name,
                fix=f"Give one, such as {name}={example}",
            )
        object.__setattr__(self, name, kind(value))

    @classmethod
    def from_kwargs(cls, base: InjectionOptions | None = None, **changes: Any) -> InjectionOptions:
        """Options with some changed; an unknown name is an error that names the nearest known one."""
        if base is not None and not isinstance(base, InjectionOptions):
            raise ConfigError(
                f"options is a {type(base).__name__}; an InjectionOptions is needed",
                key="options",
                fix="Give settings by name: inject(exposure, catalog, seed=1)",
            )
        known = [f.name for f in dataclasses.fields(cls)]
        for name in changes:
            if name not in known:
                near = difflib.get_close_matches(name, known, 1)
                raise ConfigError(
                    f"unknown injection option {name!r}; known are {', '.join(known)}",
                    fix=f"Did you mean {near[0]!r}?" if near else None,
                )
        return dataclasses.replace(base or cls(), **changes)


def _number(value: Any) -> float:
    """A real number as a float; NaN for anything else, such as text, truth values and arrays."""
    real = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    return float(value) if real else math.nan


def _one_of(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if not isinstance(value, str) or value not in allowed:
        near = difflib.get_close_matches(str(value), allowed, 1)
        raise ConfigError(
            f"{value!r} is not one of {', '.join(allowed)}",
            key=name,
            fix=f"Did you mean {near[0]!r}?" if near else None,
        )
