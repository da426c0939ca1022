"""What changes with time: light curves, ephemerides, motion and parallax, windows of time, and templates."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skygraft.lazy import lazy_names

if TYPE_CHECKING:
    from skygraft.timedomain.ephemerides import Ephemerides, object_number, read_ephemerides
    from skygraft.timedomain.light_curves import LightCurves
    from skygraft.timedomain.sncosmo_curves import sncosmo_light_curves

_HOMES = {
    "skygraft.timedomain.ephemerides": ("Ephemerides", "object_number", "read_ephemerides"),
    "skygraft.timedomain.light_curves": ("LightCurves",),
    "skygraft.timedomain.sncosmo_curves": ("sncosmo_light_curves",),
}

__all__ = ["Ephemerides", "LightCurves", "object_number", "read_ephemerides", "sncosmo_light_curves"]

if not TYPE_CHECKING:  # else every name would seem to be there
    __getattr__ = lazy_names(__name__, _HOMES)


def __dir__() -> list[str]:
    return sorted(__all__)
