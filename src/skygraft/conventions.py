"""Whose conventions sources are drawn by: skygraft's own, or those of a package that a survey used before.

It says which there are, which version of the other package they mean, and which settings they leave a choice of; it
draws nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any, Literal, get_args

from skygraft.errors import ConfigError

__all__ = ["CONVENTIONS", "LSST", "Conventions", "check_conventions", "conventions_record"]

type Conventions = Literal["skygraft", "lsst_source_injection"]
CONVENTIONS: tuple[str, ...] = get_args(Conventions.__value__)
LSST: Conventions = "lsst_source_injection"

_LSST_VERSION = {
    "package": "https://github.com/lsst/source_injection",
    "commit": "8da87785feb2905f4486531e58182b5b6333425b",
    "date": "2026-06-12",
}
"""The newest when this was written: gains fitted per amplifier, coadds known by their CoaddInputs."""

_FIXED = ("gain", "coadd_noise", "flux_tolerance", "mask_threshold", "stars", "galaxies")
"""Settings that source_injection has no choice of."""
_LARGEST_SEED = 2**62


def conventions_record(conventions: str) -> dict[str, str]:
    """The conventions and the version that they mean, for an image's record and for provenance: plain text.

    GalSim's version is part of source_injection's: sizes of stamps and interpolation are GalSim's.
    """
    if conventions != LSST:
        return {"name": conventions}
    return {"name": conventions, **_LSST_VERSION, "galsim": version("galsim")}


def check_conventions(settings: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Refuse settings that the conventions among them leave no choice of.

    Parameters
    ----------
    settings : mapping
        All settings of `skygraft.injection.InjectionOptions` by name.
    defaults : mapping
        Their defaults.

    Raises
    ------
    ConfigError
        Naming the first that contradicts the conventions.
    """
    conventions = settings["conventions"]
    if conventions != LSST:
        if settings["variance"] not in (None, settings["noise"]):
            raise ConfigError(
                f"variance is {settings['variance']} and noise is {settings['noise']}; skygraft adds both or neither",
                key="variance",
                fix=f"Leave variance out, or use conventions {LSST!r}",
            )
        return
    if settings["flux_mode"] not in ("calibrated", "aperture"):
        raise ConfigError(
            f"flux_mode is {settings['flux_mode']!r}; conventions {conventions!r} scale the PSF by an aperture flux",
            key="flux_mode",
            fix="Use flux_mode 'calibrated', or 'aperture' with a radius",
        )
    for name in _FIXED:
        if settings[name] != defaults[name]:
            raise ConfigError(
                f"{name} is {settings[name]!r}; conventions {conventions!r} leave no choice of it",
                key=name,
                fix="Leave it out, or use skygraft's own conventions",
            )
    if settings["seed"] > _LARGEST_SEED:
        raise ConfigError(
            f"seed is {settings['seed']}; GalSim's random numbers, which conventions {conventions!r} draw, take seeds "
            f"up to {_LARGEST_SEED}",
            key="seed",
            fix="Give a smaller one",
        )
