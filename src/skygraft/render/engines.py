"""Names of the ways to draw stars and galaxies.

The names of earlier versions, ``fourier`` and ``taps``, are accepted wherever a user gives one. Campaigns keep storing
them: what a campaign has recorded must not depend on how its settings are spelled.
"""

from __future__ import annotations

from typing import Literal, cast

__all__ = [
    "GALAXY_ENGINES",
    "OLD_GALAXY_ENGINES",
    "OLD_STAR_ENGINES",
    "STAR_ENGINES",
    "GalaxyEngine",
    "StarEngine",
    "galaxy_engine",
    "star_engine",
    "stored_galaxy_engine",
    "stored_star_engine",
]

type StarEngine = Literal["precise", "fast", "grid", "stamps", "galsim"]
type GalaxyEngine = Literal["fast", "precise", "galsim"]

STAR_ENGINES = ("precise", "fast", "grid", "stamps", "galsim")
GALAXY_ENGINES = ("fast", "precise", "galsim")
OLD_STAR_ENGINES = {"fourier": "precise", "taps": "fast"}
"""Names of earlier versions, and what they are now."""
OLD_GALAXY_ENGINES = {"fourier": "fast"}


def star_engine(name: str) -> StarEngine:
    """Return today's name of a way to draw stars."""
    return cast(StarEngine, OLD_STAR_ENGINES.get(name, name))


def galaxy_engine(name: str) -> GalaxyEngine:
    """Return today's name of a way to draw galaxies."""
    return cast(GalaxyEngine, OLD_GALAXY_ENGINES.get(name, name))


def stored_star_engine(name: str) -> str:
    """Return the name that campaigns store for a way to draw stars."""
    return {new: old for old, new in OLD_STAR_ENGINES.items()}.get(name, name)


def stored_galaxy_engine(name: str) -> str:
    """Return the name that campaigns store for a way to draw galaxies."""
    return {new: old for old, new in OLD_GALAXY_ENGINES.items()}.get(name, name)
