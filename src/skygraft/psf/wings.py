"""Extended wings of a PSF, on the pixels of one image: a profile that takes over from the kernel at a radius.

With K the kernel as the PSF model gives it, r the distance from its centre and W the profile of the wings, scaled to
one at the join radius J, the PSF with wings is

    (1 - b(r)) K + a b(r) W(r).

The blend b is 0 up to J - d and 1 from J on, and in between t^3 (10 - 15 t + 6 t^2) with t = (r - J + d) / d: value,
slope and curvature are continuous at both ends, whatever the kernel's own slope is. From J on the profile is that of
the wings alone. The amplitude a is such that kernel and wings hold the same light in the zone of the blend, weighted
by b (1 - b):

    a = sum b (1 - b) K / sum b (1 - b) W        (over the kernel's pixels).

All of it is linear in K. Profiles are effective ones: the pixel response is part of them.
"""

from __future__ import annotations

import abc
import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skygraft.errors import ConfigError

__all__ = ["MoffatWing", "PowerLawWing", "TableWing", "WingShape", "Wings"]

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(12)
_ZONE_PANELS = 16
_PER_DECADE = 24
_FURTHEST = 1e7
"""Pixels to which an endless profile is integrated by panels; beyond, it has the slope of its formula."""
_FAINTEST = 1e-30
"""A profile of less than this, relative to the join, counts as zero."""


class WingShape(abc.ABC):
    """The shape of a profile of surface brightness, without its amplitude."""

    ends: float = math.inf
    """Radius in pixels beyond which there is no light."""

    @abc.abstractmethod
    def logarithm(self, r: NDArray[np.float64]) -> NDArray[np.float64]:
        """Compute the natural logarithm of the surface brightness at radii in pixels, up to a constant.

        Parameters
        ----------
        r : ndarray
            Radii, pixels, above zero.

        Returns
        -------
        ndarray
            Of the same shape.
        """

    @property
    @abc.abstractmethod
    def slope(self) -> float:
        """Exponent of the radius at large radii; infinite where the profile falls faster than any power."""

    @property
    @abc.abstractmethod
    def words(self) -> str:
        """Short description, for people."""

    def why_endless(self) -> str:
        """Say why the light is infinite without an outer radius; empty if it is finite."""
        if self.slope > 2 or math.isfinite(self.ends):
            return ""
        return (
            f"its light falls as r^-{self.slope:g} far out, and the integral of what falls no faster than r^-2 diverges"
        )


@dataclass(frozen=True)
class MoffatWing(WingShape):
    """A Moffat: ``(1 + r^2 / core^2)^-beta``.

    Parameters
    ----------
    beta : float
        Exponent.
    core : float
        Core radius, pixels.

    References
    ----------
    Moffat 1969, A&A 3, 455.
    """

    beta: float
    core: float

    def logarithm(self, r: NDArray[np.float64]) -> NDArray[np.float64]:
        """Compute the natural logarithm of the surface brightness, up to a constant; see `WingShape.logarithm`."""
        return np.asarray(-self.beta * np.log1p((r / self.core) ** 2))

    @property
    def slope(self) -> float:
        """Exponent of the radius at large radii; infinite where the profile falls faster than any power."""
        return 2.0 * self.beta

    @property
    def words(self) -> str:
        """Short description, for people."""
        return f"Moffat, beta {self.beta:g}, core {self.core:.4g} pixels"


@dataclass(frozen=True)
class PowerLawWing(WingShape):
    """A power law: ``(r^2 + core^2)^(-alpha / 2) exp(-r / cutoff)``.

    Parameters
    ----------
    alpha : float
        Exponent.
    core : float
        Radius inside which it flattens, pixels; 0 for a pure power law.
    cutoff : float
        Scale of the exponential, pixels; infinite for none.
    """

    alpha: float
    core: float = 0.0
    cutoff: float = math.inf

    def logarithm(self, r: NDArray[np.float64]) -> NDArray[np.float64]:
        """Compute the natural logarithm of the surface brightness, up to a constant; see `WingShape.logarithm`."""
        return np.asarray(-0.5 * self.alpha * np.log(r**2 + self.core**2) - r / self.cutoff)

    @property
    def slope(self) -> float:
        """Exponent of the radius at large radii; infinite where the profile falls faster than any power."""
        return self.alpha if math.isinf(self.cutoff) else math.inf

    @property
    def words(self) -> str:
        """Short description, for people."""
        core = f", core {self.core:.4g} pixels" if self.core > 0 else ""
        cutoff = f", cut-off {self.cutoff:.4g} pixels" if math.isfinite(self.cutoff) else ""
        return f"power law, alpha {self.alpha:g}{core}{cutoff}"


@dataclass(frozen=True)
class TableWing(WingShape):
    """A measured profile, interpolated in the logarithms of radius and surface brightness.

    The interpolation is Fritsch and Carlson's monotone cubic: continuous in value and slope, without overshoot.

    Parameters
    ----------
    radii : tuple of float
        Pixels, increasing.
    values : tuple of float
        Surface brightness at each, above zero; its unit does not matter.
    """

    radii: tuple[float, ...]
    values: tuple[float, ...]

    @functools.cached_property
    def _curve(self) -> Any:
        from scipy.interpolate import PchipInterpolator

        return PchipInterpolator(np.log(self.radii), np.log(self.values), extrapolate=True)

    @property
    def ends(self) -> float:  # type: ignore[override]
        """The last radius of the table."""
        return self.radii[-1]

    def logarithm(self, r: NDArray[np.float64]) -> NDArray[np.float64]:
        """Compute the natural logarithm of the surface brightness, up to a constant; see `WingShape.logarithm`."""
        return np.asarray(self._curve(np.log(np.clip(r, self.radii[0], self.radii[-1]))))

    @property
    def slope(self) -> float:
        """Exponent of the radius at large radii; infinite where the profile falls faster than any power."""
        return math.inf

    @property
    def words(self) -> str:
        """Short description, for people."""
        return f"profile of {len(self.radii)} radii, {self.radii[0]:.4g} to {self.radii[-1]:.4g} pixels"


@dataclass(frozen=True)
class Wings:
    """The wings of a PSF on one image.

    Parameters
    ----------
    shape : WingShape
        Their profile.
    join : float
        Radius from which on the profile is that of the wings, pixels.
    blend : float
        Width of the zone inside it in which the kernel goes over into the wings, pixels.
    outer : float
        Radius at which they end, pixels; infinite for none.

    Raises
    ------
    ConfigError
        If the radii make no sense, or the light is infinite.
    """

    shape: WingShape
    join: float
    blend: float
    outer: float = math.inf

    def __post_init__(self) -> None:
        if not 0 < self.blend < self.join < math.inf:
            raise ConfigError(
                f"the wings join at {self.join:g} pixels after a blend of {self.blend:g}; the blend must be narrower "
                "than the join radius, and both positive",
                key="wings.blend",
                fix="Join further out, or give a narrower blend",
            )
        if not self.reach > self.join:
            raise ConfigError(
                f"the wings end at {self.reach:.4g} pixels, inside the radius of {self.join:.4g} at which they begin",
                key="wings.outer",
                fix="Give a larger outer radius (a measured profile must reach it)",
            )
        why = self.shape.why_endless()
        if why and math.isinf(self.outer):
            raise ConfigError(
                f"the total flux of these wings is infinite: {why}",
                key="wings.outer",
                fix="Give the radius at which they end (outer: 300 arcsec), or a steeper slope",
            )
        with np.errstate(over="ignore"):
            at = self.shape.logarithm(np.array([self.inner, self.join]))
        if not np.isfinite(at).all() or abs(float(at[0] - at[1])) > 100:
            raise ConfigError("the profile of the wings has no finite value at the join radius", key="wings")

    @property
    def inner(self) -> float:
        """Radius at which the blend begins, pixels: inside it the kernel is as it was."""
        return self.join - self.blend

    @property
    def reach(self) -> float:
        """Radius beyond which there is no light, pixels."""
        return min(self.outer, self.shape.ends)

    def blended(self, r: ArrayLike) -> NDArray[np.float64]:
        """Compute b, the part of the wings at radii in pixels."""
        t = np.clip((np.asarray(r, dtype=np.float64) - self.inner) / self.blend, 0.0, 1.0)
        return np.asarray(t**3 * (10.0 + t * (6.0 * t - 15.0)))

    def profile(self, r: ArrayLike) -> NDArray[np.float64]:
        """Compute W at radii in pixels: one at the join radius, and zero beyond the outer radius."""
        r = np.asarray(r, dtype=np.float64)
        at = np.maximum(r, 0.5 * self.inner)
        with np.errstate(under="ignore", over="ignore"):
            value = np.exp(self.shape.logarithm(at) - self.shape.logarithm(np.array([self.join]))[0])
        return np.where((r <= self.reach) & (value > _FAINTEST), value, 0.0)

    def light(self, r: ArrayLike) -> NDArray[np.float64]:
        """Compute b W at radii in pixels: what is added to the tapered kernel, per unit amplitude."""
        return self.blended(r) * self.profile(r)

    @functools.cached_property
    def _panels(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Edges of panels of the radius, and the light of ``b W`` inside each edge."""
        end = min(self.reach, _FURTHEST)
        n = max(2, math.ceil(_PER_DECADE * math.log10(end / self.join)) + 1)
        edges = np.concatenate(
            [
                np.linspace(self.inner, self.join, _ZONE_PANELS + 1),
                np.geomspace(self.join, end, n)[1:],
            ]
        )
        parts = self._integral(edges[:-1], edges[1:])
        return edges, np.concatenate([[0.0], np.cumsum(parts)])

    def _integral(self, low: NDArray[np.float64], high: NDArray[np.float64]) -> NDArray[np.float64]:
        """Integrate ``2 pi r b W`` from `low` to `high`, each within one panel."""
        half = 0.5 * (high - low)
        r = 0.5 * (high + low)[:, None] + half[:, None] * _NODES
        return np.asarray(half * ((2.0 * np.pi * r * self.light(r)) @ _WEIGHTS))

    @functools.cached_property
    def total(self) -> float:
        """All the light of ``b W``, square pixels."""
        edges, inside = self._panels
        beyond = 0.0
        if self.reach > edges[-1] and math.isfinite(self.shape.slope):
            # A power law from there on, to the outer radius if there is one.
            slope, last = self.shape.slope, float(edges[-1])
            to = 0.0 if math.isinf(self.reach) else (self.reach / last) ** (2.0 - slope)
            at_last = 2.0 * np.pi * last**2 * float(self.profile(last))
            beyond = at_last * (math.log(self.reach / last) if slope == 2 else (1.0 - to) / (slope - 2.0))
        return float(inside[-1]) + beyond

    def enclosed(self, radius: float) -> float:
        """Compute the light of ``b W`` inside a radius in pixels, square pixels."""
        edges, inside = self._panels
        if radius <= self.inner:
            return 0.0
        if radius >= edges[-1]:
            return self.total if radius >= self.reach else float(inside[-1])
        k = int(np.searchsorted(edges, radius, side="right")) - 1
        return float(inside[k] + self._integral(edges[k : k + 1], np.array([radius]))[0])

    def flux_radius(self, outside: ArrayLike) -> NDArray[np.float64]:
        """Compute the radius in pixels outside which there is so much of the light of ``b W``, at most.

        Parameters
        ----------
        outside : array_like
            Square pixels, as `total`; zero and less give the radius at which the wings end.

        Returns
        -------
        ndarray
            Of the same shape.
        """
        edges, inside = self._panels
        left = self.total - inside
        wanted = np.asarray(outside, dtype=np.float64)
        # From outside in, what is left grows: the first edge with no more left than that is on the safe side.
        place = np.searchsorted(left[::-1], wanted, side="right") - 1
        found = edges[::-1][np.clip(place, 0, len(edges) - 1)]
        return np.where(place < 0, self.reach, found)

    def brightness_radius(self, value: ArrayLike) -> NDArray[np.float64]:
        """Compute the radius in pixels beyond which W is nowhere more than some values; at least the join radius."""
        edges = self._panels[0][_ZONE_PANELS:]
        largest = np.maximum.accumulate(self.profile(edges)[::-1])
        place = np.searchsorted(largest, np.asarray(value, dtype=np.float64), side="right") - 1
        found = edges[::-1][np.clip(place, 0, len(edges) - 1)]
        return np.where(place < 0, self.reach, found)

    @property
    def words(self) -> str:
        """Short description, for people."""
        end = f", ends at {self.reach:.4g} pixels" if math.isfinite(self.reach) else ""
        return f"{self.shape.words}, joins at {self.join:.4g} pixels after a blend of {self.blend:.4g}{end}"
