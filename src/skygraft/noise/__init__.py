"""Photon noise of injected flux."""

from skygraft.noise.planes import Gain, add_flux, check_gain, estimate_gain, poisson_field, stream_key

__all__ = ["Gain", "add_flux", "check_gain", "estimate_gain", "poisson_field", "stream_key"]
