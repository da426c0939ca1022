"""The settings of one injection, checked when they are made, and how `inject` takes them as keyword arguments."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import inspect
import math
import re
import reprlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from skygraft.conventions import Conventions, check_conventions
from skygraft.errors import ConfigError
from skygraft.injection.wing_settings import WingSettings
from skygraft.photometry import FluxMode, parse_radius
from skygraft.render.engines import GalaxyEngine, StarEngine, galaxy_engine, star_engine

__all__ = ["CoaddNoise", "InjectionOptions", "Position", "takes_settings"]

type Position = Literal["source", "image"]
type CoaddNoise = Literal["correlated", "white"]


@dataclass(frozen=True)
class InjectionOptions:
    """The settings of one injection, checked when they are made: each is a keyword argument of `inject`.

    Raises
    ------
    ConfigError
        If a setting is not one of those allowed.
    """

    flux_mode: FluxMode = "calibrated"
    aperture: Any = None
    position: Position = "source"
    noise: bool = True
    seed: int = 0
    gain: float | None = None
    coadd_noise: CoaddNoise = "correlated"
    flux_tolerance: float = 1e-3
    mask_threshold: float = 0.1
    mark_injected: bool = True
    stars: StarEngine = "precise"
    galaxies: GalaxyEngine = "fast"
    conventions: Conventions = "skygraft"
    variance: bool | None = None
    wings: Any = None

    def __post_init__(self) -> None:
        for name, current in (("stars", star_engine), ("galaxies", galaxy_engine)):
            engine: Any = getattr(self, name)
            object.__setattr__(self, name, current(engine) if isinstance(engine, str) else engine)
        for name, kind in (
            ("flux_mode", FluxMode),
            ("position", Position),
            ("coadd_noise", CoaddNoise),
            ("stars", StarEngine),
            ("conventions", Conventions),
            ("galaxies", GalaxyEngine),
        ):
            _one_of(name, getattr(self, name), get_args(kind.__value__))
        if (self.flux_mode == "aperture") != (self.aperture is not None):
            raise ConfigError(
                f"flux_mode is {self.flux_mode!r} and aperture is {self.aperture!r}",
                key="aperture",
                fix="Give an aperture with flux_mode 'aperture', and only then; to say what aperture an image was "
                "calibrated in, give it when the image is read",
            )
        if self.aperture is not None:
            parse_radius(self.aperture)
        for name in ("noise", "mark_injected"):
            self._make(name, bool, isinstance(getattr(self, name), bool | np.bool_), "True or False", "True")
        if self.variance is not None:
            self._make("variance", bool, isinstance(self.variance, bool | np.bool_), "True, False or None", "True")
        tolerance, threshold = _number(self.flux_tolerance), _number(self.mask_threshold)
        self._make("flux_tolerance", float, 0 < tolerance < 0.5, "a number between 0 and 0.5", "1e-3")
        self._make("mask_threshold", float, 0 <= threshold < math.inf, "a number of at least 0", "0.1")
        whole = isinstance(self.seed, int | np.integer) and not isinstance(self.seed, bool)
        self._make("seed", int, whole and self.seed >= 0, "a whole number of at least 0", "1")
        given: Any = self.gain
        if np.ndim(given) > 0:
            raise ConfigError(
                f"gain is an array of shape {np.shape(given)}; one number (electrons per image unit) is needed",
                key="gain",
                fix="Give a map to the image: inject(exposure.replace(gain=gain_map), ...)",
            )
        if self.gain is not None:
            good = 0 < _number(self.gain) < math.inf
            self._make("gain", float, good, "a positive number (electrons per image unit)", "2.5")
        if self.wings is not None:
            object.__setattr__(self, "wings", WingSettings.of(self.wings))
        fields = dataclasses.fields(self)
        check_conventions({f.name: getattr(self, f.name) for f in fields}, {f.name: f.default for f in fields})

    @property
    def adds_variance(self) -> bool:
        """True if the sources' variance is added to the variance plane."""
        return self.noise if self.variance is None else self.variance

    def _make(self, name: str, kind: type, good: bool, wanted: str, example: str) -> None:
        """Store a setting as a plain bool, int or float, or raise an error that says what is allowed."""
        value = getattr(self, name)
        if not good:
            raise ConfigError(
                f"{name} is {reprlib.repr(value)}; {wanted} is needed",
                key=name,
                fix=f"Give one, such as {name}={example}",
            )
        object.__setattr__(self, name, kind(value))

    @classmethod
    def from_kwargs(cls, base: InjectionOptions | None = None, **changes: Any) -> InjectionOptions:
        """Options with some settings changed.

        Parameters
        ----------
        base : InjectionOptions, optional
            Options to start from; by default all settings have their defaults.
        **changes
            Settings by name.

        Returns
        -------
        InjectionOptions

        Raises
        ------
        ConfigError
            If a setting is unknown (the nearest known one is named), or not one of those allowed.
        """
        if base is not None and not isinstance(base, InjectionOptions):
            raise ConfigError(
                f"options is a {type(base).__name__}; an InjectionOptions is needed",
                key="options",
                fix="Give settings by name: inject(exposure, catalog, seed=1)",
            )
        known = [f.name for f in dataclasses.fields(cls)]
        for name in changes:
            if name not in known:
                near = difflib.get_close_matches(name, known, 1)
                raise ConfigError(
                    f"unknown injection option {name!r}; known are {', '.join(known)}",
                    fix=f"Did you mean {near[0]!r}?" if near else None,
                )
        return dataclasses.replace(base or cls(), **changes)


def takes_settings[**P, R](function: Callable[P, R]) -> Callable[P, R]:
    """Decorate a function so that the settings given to it by name arrive as its argument ``options``.

    The function's signature lists every setting, with the default of `InjectionOptions`, and its docstring describes
    them: editors, `help` and completion show them, and a type checker checks them. Its body reads ``options`` alone,
    which has the settings that were given: in the body they could not be distinguished from defaults.
    `InjectionOptions` gets the same descriptions.

    Parameters
    ----------
    function : callable
        With a keyword argument ``options`` and one for each field of `InjectionOptions`.

    Returns
    -------
    callable
        The function to call, with the same signature.

    Raises
    ------
    ConfigError
        When it is called with a keyword that is neither an argument of the function nor a setting.
    """
    settings = [f.name for f in dataclasses.fields(InjectionOptions)]
    others = set(inspect.signature(function).parameters) - set(settings)

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        changes = {name: kwargs.pop(name) for name in list(kwargs) if name not in others}
        base: Any = kwargs.get("options")
        kwargs["options"] = InjectionOptions.from_kwargs(base, **changes)
        return function(*args, **kwargs)

    _share_descriptions(function.__doc__, settings)
    return call


def _share_descriptions(source: str | None, settings: list[str]) -> None:
    """Copy the descriptions of settings from a docstring into the Parameters of `InjectionOptions`."""
    if source is None:  # Python was started with -OO
        return
    # One entry for each parameter: its name is what follows a line end and no further indentation.
    entries = re.split(r"\n(?=\S)", inspect.cleandoc(source))
    described = [entry for name in settings for entry in entries if entry.startswith(f"{name} : ")]
    head, _, rest = inspect.cleandoc(InjectionOptions.__doc__ or "").partition("\n\nRaises\n")
    sections = "\n".join(["Parameters", "----------", *(entry.rstrip() for entry in described)])
    InjectionOptions.__doc__ = f"{head}\n\n{sections}\n\nRaises\n{rest}\n"


def _number(value: Any) -> float:
    """Convert a real number to a float; NaN for anything else, such as text, truth values and arrays."""
    real = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    return float(value) if real else math.nan


def _one_of(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if not isinstance(value, str) or value not in allowed:
        near = difflib.get_close_matches(str(value), allowed, 1)
        raise ConfigError(
            f"{value!r} is not one of {', '.join(allowed)}",
            key=name,
            fix=f"Did you mean {near[0]!r}?" if near else None,
        )
