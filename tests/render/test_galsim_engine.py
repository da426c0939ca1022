"""What GalSim is kept from."""

from __future__ import annotations

import warnings

import galsim
import numpy as np
import pytest

from skygraft.errors import InjectionError
from skygraft.psf import MoffatPSF
from skygraft.render import Sources, galsim_engine
from skygraft.render.galsim_engine import bounded_transforms, draw_extended


def test_a_transform_that_is_too_large_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Since version 2.8 GalSim only warns of it, and takes the memory."""
    before = galsim.errors.raise_fft_size_error
    monkeypatch.setattr(galsim_engine, "_PARAMS", galsim.GSParams(maximum_fft_size=64))
    real = galsim.GSParams.withParams
    # Whatever bound the engine asks for in place of that one.
    monkeypatch.setattr(galsim.GSParams, "withParams", lambda self, **_: real(self, maximum_fft_size=64))
    shape = {"trail_length_pix": np.array([30.0]), "trail_angle_pix": np.array([10.0])}
    jacobian = np.array([[[-0.2, 0.0], [0.0, 0.2]]])
    one = np.ones(1)
    trail = Sources(np.array([1]), np.array(["Trail"]), 50 * one, 50 * one, one, jacobian, shape)
    kernel = MoffatPSF(4.0, 3.0, shape=(45, 45)).kernels([0.0], [0.0])[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(InjectionError, match="FFT"):
            draw_extended(trail, 0, kernel, 1e-3)
    assert galsim.errors.raise_fft_size_error == before


def test_the_switch_is_put_back_by_the_last_one_inside() -> None:
    before = galsim.errors.raise_fft_size_error
    with bounded_transforms():
        with bounded_transforms():
            assert galsim.errors.raise_fft_size_error
        assert galsim.errors.raise_fft_size_error
    assert galsim.errors.raise_fft_size_error == before
