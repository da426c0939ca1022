"""Distributions of magnitudes, colours, sizes and other properties, drawn by inversion of their cumulative function.

One uniform number gives one value, so that a value depends on its row alone.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from skygraft.config.yaml_schema import PositiveFloat, Section

__all__ = [
    "AnyDistribution",
    "Choice",
    "Constant",
    "Distribution",
    "Gaussian",
    "Lognormal",
    "PowerLaw",
    "Tabulated",
    "Uniform",
]

type Floats = NDArray[np.float64]

Number = Annotated[float, Field(allow_inf_nan=False)]


class Distribution(Section):
    """Base of the distributions."""

    foreign_key_hint = "each kind of distribution has keys of its own"

    def draw(self, uniform: Floats, mag: Floats | None = None) -> NDArray[Any]:
        """Turn uniform numbers into values.

        Parameters
        ----------
        uniform : ndarray, shape (N,)
            In [0, 1).
        mag : ndarray, shape (N,), optional
            Magnitudes of the sources, for distributions that depend on them.

        Returns
        -------
        ndarray, shape (N,)
        """
        raise NotImplementedError


class Constant(Distribution):
    """One value."""

    kind: Literal["constant"] = "constant"
    value: Number | bool | str
    """The value."""

    def draw(self, uniform: Floats, mag: Floats | None = None) -> NDArray[Any]:
        """Repeat the value."""
        return np.full(uniform.shape, self.value)


class Uniform(Distribution):
    """Values uniform between two ends."""

    kind: Literal["uniform"] = "uniform"
    low: Number
    """Smallest value."""
    high: Number
    """Largest value."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        _check_order(self.low, self.high)
        return self

    def draw(self, uniform: Floats, mag: Floats | None = None) -> Floats:
        """Scale uniform numbers."""
        return self.low + uniform * (self.high - self.low)


class PowerLaw(Distribution):
    """Number counts ``dN/dm ~ 10**(slope * m)`` between two magnitudes."""

    kind: Literal["power_law"] = "power_law"
    low: Number
    """Brightest."""
    high: Number
    """Faintest."""
    slope: Number = 0.3
    """0 is uniform, 0.6 that of Euclidean counts, 0.3 typical of faint galaxies."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        _check_order(self.low, self.high)
        return self

    def draw(self, uniform: Floats, mag: Floats | None = None) -> Floats:
        """Invert the cumulative counts."""
        rate, width = self.slope * np.log(10.0), self.high - self.low
        if abs(rate) * width < 1e-12:
            return self.low + uniform * width
        if rate > 0:  # from the faint end, where most are: exp of the whole width may overflow
            return np.asarray(self.high + np.log(uniform + (1.0 - uniform) * np.exp(-rate * width)) / rate)
        return np.asarray(self.low + np.log1p(uniform * np.expm1(rate * width)) / rate)


class Gaussian(Distribution):
    """A normal distribution, cut at `low` and `high` if given."""

    kind: Literal["gaussian"] = "gaussian"
    mean: Number
    """Mean before it is cut."""
    sigma: PositiveFloat
    """Standard deviation before it is cut."""
    low: Number | None = None
    """Smallest value."""
    high: Number | None = None
    """Largest value."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low is not None and self.high is not None:
            _check_order(self.low, self.high)
        ends = (self.low, self.high)
        _check_cut(*((end - self.mean) / self.sigma if end is not None else None for end in ends))
        return self

    def draw(self, uniform: Floats, mag: Floats | None = None) -> Floats:
        """Invert the normal distribution between the cuts."""
        ends = (self.low, self.high)
        low, high = ((end - self.mean) / self.sigma if end is not None else None for end in ends)
        return self.mean + self.sigma * _normal_between(uniform, low, high)


class Lognormal(Distribution):
    """A lognormal distribution, cut at `low` and `high` if given; its median may depend on the magnitude."""

    kind: Literal["lognormal"] = "lognormal"
    median: PositiveFloat
    """Median, at the magnitude `pivot`."""
    sigma: PositiveFloat
    """Standard deviation of the natural logarithm."""
    mag_slope: Number = 0.0
    """Change of log10(median) per magnitude; -0.1 makes fainter galaxies smaller."""
    pivot: Number = 22.0
    """Magnitude at which `median` holds."""
    low: PositiveFloat | None = None
    """Smallest value."""
    high: PositiveFloat | None = None
    """Largest value."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low is not None and self.high is not None:
            _check_order(self.low, self.high)
        if not self.mag_slope:
            ends = (self.low, self.high)
            _check_cut(*(np.log(end / self.median) / self.sigma if end is not None else None for end in ends))
        return self

    def draw(self, uniform: Floats, mag: Floats | None = None) -> Floats:
        """Invert the normal distribution of the logarithm between the cuts."""
        if not self.mag_slope:
            ends = (self.low, self.high)
            low, high = (np.log(end / self.median) / self.sigma if end is not None else None for end in ends)
            return self.median * np.exp(self.sigma * _normal_between(uniform, low, high))
        magnitudes = np.zeros(uniform.shape) if mag is None else mag
        median = self.median * 10.0 ** (self.mag_slope * (magnitudes - self.pivot))
        normal = _normal_between(uniform, None, None)
        # With a median that changes, a cut of the distribution might leave nothing: values stop at the ends.
        return np.clip(median * np.exp(self.sigma * normal), self.low, self.high)


class Tabulated(Distribution):
    """A distribution whose density is given at some values, and linear between them."""

    kind: Literal["tabulated"] = "tabulated"
    values: Annotated[tuple[Number, ...], Field(min_length=2)]
    """Values, ascending."""
    density: Annotated[tuple[Annotated[float, Field(ge=0, allow_inf_nan=False)], ...], Field(min_length=2)]
    """Density at each, on any scale, such as counts of a histogram at the middles of its bins."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if len(self.values) != len(self.density):
            raise ValueError(f"there are {len(self.values)} values and {len(self.density)} densities")
        if not np.all(np.diff(self.values) > 0):
            raise ValueError("the values do not ascend")
        if not any(self.density):
            raise ValueError("the density is zero everywhere")
        return self

    def draw(self, uniform: Floats, mag: Floats | None = None) -> Floats:
        """Invert the cumulative function, which is quadratic between values."""
        x, d = np.array(self.values), np.array(self.density)
        width = np.diff(x)
        share = 0.5 * (d[1:] + d[:-1]) * width
        total = np.concatenate([[0.0], np.cumsum(share)])
        wanted = uniform * total[-1]
        k = np.clip(np.searchsorted(total, wanted, side="right") - 1, 0, len(width) - 1)
        rest, first = wanted - total[k], d[k]
        slope = (d[k + 1] - first) / width[k]
        root = np.sqrt(np.maximum(first**2 + 2.0 * slope * rest, 0.0))
        with np.errstate(invalid="ignore", divide="ignore"):
            step = np.where(rest > 0, 2.0 * rest / (first + root), 0.0)
        return np.asarray(x[k] + np.minimum(step, width[k]))


class Choice(Distribution):
    """One of some values."""

    kind: Literal["choice"] = "choice"
    values: Annotated[tuple[Number | str, ...], Field(min_length=1)]
    """The values."""
    weights: tuple[Annotated[float, Field(ge=0, allow_inf_nan=False)], ...] | None = None
    """How often each is taken, on any scale; by default equally often."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.weights is not None and (len(self.weights) != len(self.values) or not any(self.weights)):
            raise ValueError("weights: give one for each value, and not all zero")
        if len({isinstance(value, str) for value in self.values}) > 1:
            raise ValueError("values: numbers and texts are mixed")
        return self

    def draw(self, uniform: Floats, mag: Floats | None = None) -> NDArray[Any]:
        """Take values by their cumulative weights."""
        weights = np.ones(len(self.values)) if self.weights is None else np.array(self.weights)
        share = np.cumsum(weights) / weights.sum()
        return np.array(self.values)[np.minimum(np.searchsorted(share, uniform, side="right"), len(share) - 1)]


def _as_distribution(value: Any) -> Any:
    """Take a bare value for a constant one, and the name of a kind that is left out for a mistake."""
    if isinstance(value, Distribution):
        return value
    if not isinstance(value, Mapping):
        return {"kind": "constant", "value": value}
    if value.get("kind") not in _KINDS:
        given = (
            f"{value['kind']!r} is not a kind of distribution" if "kind" in value else "a distribution needs its kind"
        )
        raise ValueError(f"{given}; give kind: {', '.join(kind for kind in _KINDS if kind != 'constant')}")
    return value


_KINDS: dict[str, type[Distribution]] = {
    "constant": Constant, "uniform": Uniform, "power_law": PowerLaw, "gaussian": Gaussian, "lognormal": Lognormal,
    "tabulated": Tabulated, "choice": Choice,
}  # fmt: skip


def _kind_of(value: Any) -> str:
    return str(value["kind"] if isinstance(value, Mapping) else value.kind)


if TYPE_CHECKING:
    AnyDistribution = Constant | Uniform | PowerLaw | Gaussian | Lognormal | Tabulated | Choice
else:
    # A function selects the model, since pydantic allows no validators on a field that does, and `Section` has one.
    AnyDistribution = Annotated[
        functools.reduce(operator.or_, (Annotated[model, Tag(kind)] for kind, model in _KINDS.items())),
        Discriminator(_kind_of),
        BeforeValidator(_as_distribution),
    ]
"""A distribution, or a value."""


def _check_order(low: float, high: float) -> None:
    if low > high:
        raise ValueError(f"low is {low:g} and high {high:g}; they must be in order")


def _check_cut(low: float | None, high: float | None) -> None:
    """Refuse a normal distribution that is cut where nothing of it is left."""
    from scipy.special import ndtr

    # In the tail that both cuts lie in, where the difference is not rounded away.
    low, high = -np.inf if low is None else low, np.inf if high is None else high
    inside = ndtr(high) - ndtr(low) if low < 0 else ndtr(-low) - ndtr(-high)
    if not inside > 1e-12:
        raise ValueError("nothing of the distribution lies between low and high")


def _normal_between(uniform: Floats, low: float | None, high: float | None) -> Floats:
    """Standard normal numbers between two cuts."""
    from scipy.special import ndtr, ndtri

    inner = uniform + 2.0**-54
    if low is None and high is None:
        return np.asarray(ndtri(inner))
    first, last = -np.inf if low is None else low, np.inf if high is None else high
    # In the lower tail, where cumulative probabilities keep their digits.
    sign = -1.0 if first > 0 else 1.0
    if sign < 0:
        first, last, inner = -last, -first, 1.0 - inner
    normal = ndtri(ndtr(first) + inner * (ndtr(last) - ndtr(first)))
    return np.asarray(sign * np.clip(normal, first, last))
