"""Photon noise of injected flux."""

from skygraft.noise.correlation import CellGrid, CoaddNoise, NoiseCorrelation, measure_correlation
from skygraft.noise.planes import Gain, add_flux, check_gain, estimate_gain, poisson_field, stream_key

__all__ = [
    "CellGrid",
    "CoaddNoise",
    "Gain",
    "NoiseCorrelation",
    "add_flux",
    "check_gain",
    "estimate_gain",
    "measure_correlation",
    "poisson_field",
    "stream_key",
]
