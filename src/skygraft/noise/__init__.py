"""Photon noise of injected flux."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skygraft.lazy import lazy_names

if TYPE_CHECKING:
    from skygraft.noise.coadd import CellGrid, CoaddNoise
    from skygraft.noise.correlation import NoiseCorrelation, measure_correlation
    from skygraft.noise.gain import Gain, check_gain, count_bright, estimate_gain
    from skygraft.noise.planes import add_flux, poisson_field, stream_key

__all__ = [
    "CellGrid",
    "CoaddNoise",
    "Gain",
    "NoiseCorrelation",
    "add_flux",
    "check_gain",
    "count_bright",
    "estimate_gain",
    "measure_correlation",
    "poisson_field",
    "stream_key",
]

if not TYPE_CHECKING:  # what only describes images needs no compiled loops
    __getattr__ = lazy_names(
        __name__,
        {
            "skygraft.noise.coadd": ("CellGrid", "CoaddNoise"),
            "skygraft.noise.correlation": ("NoiseCorrelation", "measure_correlation"),
            "skygraft.noise.gain": ("Gain", "check_gain", "count_bright", "estimate_gain"),
            "skygraft.noise.planes": ("add_flux", "poisson_field", "stream_key"),
        },
    )
