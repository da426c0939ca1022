"""The settings of `inject`: keyword arguments that editors and `help` show, one list of them in every place."""

from __future__ import annotations

import dataclasses
import inspect
import pydoc
import typing
from typing import Any

import numpy as np
import pytest

import skygraft
from skygraft import InjectionOptions, inject
from skygraft.cli import images
from skygraft.errors import ConfigError
from skygraft.exposure import Exposure
from skygraft.injection import core, options
from skygraft.testing import make_exposure

SETTINGS = {f.name: f for f in dataclasses.fields(InjectionOptions)}
CATALOG = {"ra": [150.0], "dec": [2.0], "source_type": ["Star"], "mag_r": [18.0]}


@pytest.fixture(scope="module")
def exposure() -> Exposure:
    return make_exposure((40, 50))


def test_the_signature_of_inject_lists_every_setting_with_its_type_and_default() -> None:
    parameters = inspect.signature(inject).parameters
    found = {name: (p.annotation, p.default) for name, p in parameters.items() if name in SETTINGS}
    assert found == {name: (f.type, f.default) for name, f in SETTINGS.items()}
    assert list(found) == list(SETTINGS)
    assert all(p.kind is inspect.Parameter.KEYWORD_ONLY for p in list(parameters.values())[2:])
    assert not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())


@pytest.mark.parametrize("described", [inject, InjectionOptions])
def test_help_describes_every_setting_in_the_same_words(described: Any) -> None:
    entries = inspect.cleandoc(inject.__doc__)
    text = inspect.cleandoc(described.__doc__)
    assert text.index("Parameters\n----------") < text.index("Raises\n------")
    shown = pydoc.plain(pydoc.render_doc(described))
    for name in SETTINGS:
        assert text.count(f"\n{name} : ") == 1, name
        line = entries[entries.index(f"\n{name} : ") :].split("\n")[2]
        assert line in text
        assert line.strip() in shown
        assert f"{name}: " in shown  # of the signature


def test_allowed_values_are_described() -> None:
    hints = typing.get_type_hints(InjectionOptions)
    for name, hint in hints.items():
        if isinstance(hint, typing.TypeAliasType):
            allowed = ", ".join(f'"{value}"' for value in typing.get_args(hint.__value__))
            assert f"{name} : {{{allowed}}}" in inspect.cleandoc(inject.__doc__)


def test_the_command_line_has_the_same_defaults_and_values() -> None:
    parameters = inspect.signature(images.inject).parameters
    common = [name for name in SETTINGS if name in parameters and name != "aperture"]
    assert {"flux_mode", "position", "seed", "noise", "gain", "variance", "coadd_noise"} <= set(common)
    for name in common:
        assert parameters[name].default == SETTINGS[name].default, name
    for enum, alias in (
        (images.FluxMode, core.FluxMode),
        (images.Position, options.Position),
        (images.CoaddNoise, options.CoaddNoise),
        (images.ConventionsName, core.Conventions),
    ):
        assert tuple(member.value for member in enum) == typing.get_args(alias.__value__)


def test_a_setting_given_by_name_counts_instead_of_the_one_in_options(exposure: Exposure) -> None:
    given = InjectionOptions(seed=3, noise=False)
    assert inject(exposure, CATALOG, options=given).summary["seed"] == 3
    for changes in ({"seed": 0}, {"seed": 5, "noise": True}):
        summary = inject(exposure, CATALOG, options=given, **changes).summary
        assert {name: summary[name] for name in changes} == changes  # also one that is the default
    assert given == InjectionOptions(seed=3, noise=False)


def test_settings_by_name_and_in_options_give_the_same_pixels(exposure: Exposure) -> None:
    settings: dict[str, Any] = {"seed": 4, "flux_mode": "aperture", "aperture": "8 pix"}
    one = inject(exposure, CATALOG, **settings)
    other = inject(exposure, CATALOG, options=InjectionOptions(**settings))
    np.testing.assert_array_equal(one.exposure.image, other.exposure.image)
    assert one.summary == other.summary


def test_a_misspelt_setting_is_named() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'flux_tolerance'"):
        skygraft.inject(make_exposure((20, 20)), CATALOG, flux_tolerence=1e-4)
