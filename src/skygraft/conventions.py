"""Conventions for drawing sources: skygraft's own, or those of another package, to reproduce its results.

Defined here are their names, the version of the other package, and the settings that each convention fixes.
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
"""Version that is reproduced: gains are fitted per amplifier, and coadds are recognised by their CoaddInputs."""

_FIXED = ("gain", "coadd_noise", "flux_tolerance", "mask_threshold", "stars", "galaxies", "wings")
"""Settings that are fixed in source_injection."""
_LARGEST_SEED = 2**62


def conventions_record(conventions: str) -> dict[str, str]:
    """Return conventions and version as text, for an image's record and provenance.

    The version of GalSim is included for source_injection, because GalSim determines stamp sizes and interpolation.
    """
    if conventions != LSST:
        return {"name": conventions}
    return {"name": conventions, **_LSST_VERSION, "galsim": version("galsim")}


def check_conventions(settings: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Check that no setting contradicts the conventions.

    Parameters
    ----------
    settings : mapping
        All settings of `skygraft.injection.InjectionOptions` by name.
    defaults : mapping
        Their defaults.

    Raises
    ------
    ConfigError
        If one does; the message names the first.
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
