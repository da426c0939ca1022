"""The ways to draw have one name each; those of earlier versions are accepted, and are what campaigns store."""

from __future__ import annotations

import numpy as np
import pytest

from skygraft.campaign import parse_config
from skygraft.errors import ConfigError
from skygraft.injection import InjectionOptions
from skygraft.psf import Box, FixedKernelPSF, MoffatPSF
from skygraft.render import Canvas, Sources, render

NAMES = [("stars", "fourier", "precise"), ("stars", "taps", "fast"), ("galaxies", "fourier", "fast")]


class AsItIs:
    def of_coefficients(self, coefficients, x, y):
        return np.ones(len(x)), np.full(len(x), np.nan)


@pytest.mark.parametrize(("option", "old", "new"), NAMES)
def test_old_names_draw_the_same_as_new_ones(option, old, new):
    kind = "Star" if option == "stars" else "Sersic"
    shape = {"n": np.ones(1), "half_light_radius": np.ones(1)}
    sources = Sources(
        np.arange(1), np.array([kind]), np.full(1, 30.2), np.full(1, 29.9), np.ones(1), 0.5 * np.eye(2)[None], shape
    )
    drawn = []
    for name in (old, new):
        canvas = Canvas.empty((61, 61), (0, 0))
        psf = FixedKernelPSF(MoffatPSF(4.0).basis[0])
        render(sources, psf, canvas, Box(-0.5, 60.5, -0.5, 60.5), AsItIs(), **{option: name})
        assert canvas.model.any()
        drawn.append(canvas.model)
    np.testing.assert_array_equal(*drawn)


@pytest.mark.parametrize(("option", "old", "new"), NAMES)
def test_options_of_old_names_are_those_of_new_ones(option, old, new):
    assert InjectionOptions(**{option: old}) == InjectionOptions(**{option: new})
    assert getattr(InjectionOptions(**{option: old}), option) == new


@pytest.mark.parametrize(("option", "old", "new"), NAMES)
def test_campaigns_store_the_old_name_for_either(option, old, new):
    def injection(name):
        content = {"name": "a", "survey": {"images": "*.fits"}, "catalog": {"path": "a.fits"}, "output": "out"}
        config = parse_config(content | {"injection": {option: name}})
        assert getattr(config.injection.options(), option) == new
        return config.resolved()["injection"]

    assert injection(old) == injection(new)
    assert injection(new)[option] == old


def test_the_defaults_are_the_same_by_either_name():
    assert InjectionOptions() == InjectionOptions(stars="fourier", galaxies="fourier")


@pytest.mark.parametrize("option", ["stars", "galaxies"])
def test_unknown_names_are_refused(option):
    with pytest.raises(ConfigError, match="precise"):
        InjectionOptions(**{option: "precisely"})
