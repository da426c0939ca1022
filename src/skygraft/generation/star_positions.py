"""Where the stars of a system lie: round profiles made elliptical, and streams along great circles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from skygraft.errors import CatalogError
from skygraft.generation.light import on_ellipse, sersic_radius
from skygraft.generation.sphere import along_great_circles

__all__ = ["Exponential", "King", "Plummer", "SersicStars", "StarProfile", "Stream"]

type Array = NDArray[np.float64]


class StarProfile(Protocol):
    """How stars are distributed around a position."""

    def positions(self, ra: float, dec: float, first: Array, second: Array) -> tuple[Array, Array]:
        """Return positions on the sky, degrees, for two uniform numbers in (0, 1) for each star."""
        ...


def _check(where: object, **positive: float) -> None:
    for name, value in positive.items():
        if not 0.0 < value < np.inf:
            raise CatalogError(f"{name} of a {type(where).__name__} is {value}; it must be positive", key=name)


@dataclass(frozen=True)
class _Round:
    """A round profile that is made elliptical with equal area."""

    half_light_radius: float
    q: float = 1.0
    pa: float = 0.0
    within: float = 10.0

    def __post_init__(self) -> None:
        _check(self, half_light_radius=self.half_light_radius, q=self.q, within=self.within)
        if self.q > 1 or not np.isfinite(self.pa):
            raise CatalogError(f"q is {self.q} and pa {self.pa}; q is in (0, 1]", key="q")

    def radii(self, share: Array) -> Array:
        """Return the radii inside which shares of the stars lie, arcsec.

        Parameters
        ----------
        share : ndarray, shape (N,)
            In (0, 1).

        Returns
        -------
        ndarray, shape (N,)
        """
        raise NotImplementedError

    def positions(self, ra: float, dec: float, first: Array, second: Array) -> tuple[Array, Array]:
        """Return positions on the sky.

        Parameters
        ----------
        ra, dec : float
            Centre, degrees.
        first, second : ndarray, shape (N,)
            Uniform numbers in (0, 1), two for each star.

        Returns
        -------
        ra, dec : ndarray, shape (N,)
            Degrees.
        """
        east, north = on_ellipse(self.radii(first), 2.0 * np.pi * second, np.asarray(self.q), np.asarray(self.pa))
        moved = along_great_circles(ra, dec, np.hypot(east, north), np.degrees(np.arctan2(east, north)))
        return moved.ra, moved.dec


@dataclass(frozen=True)
class Plummer(_Round):
    """Stars in a Plummer (1911) sphere, whose scale length is the half-light radius on the sky.

    Parameters
    ----------
    half_light_radius : float
        Circularised, arcsec; that of the major axis is larger by 1 / sqrt(q).
    q, pa : float
        Axis ratio, and position angle of the major axis in degrees from North through East.
    within : float
        Stars lie within so many half-light radii: 99 % of a sphere without end at 10.
    """

    def radii(self, share: Array) -> Array:
        """Return the radii inside which shares of the stars lie, arcsec; see `StarProfile`."""
        end = self.within**2 / (1.0 + self.within**2)
        inside = share * end
        return np.asarray(self.half_light_radius * np.sqrt(inside / (1.0 - inside)))


@dataclass(frozen=True)
class SersicStars(_Round):
    """Stars in a Sérsic profile.

    Parameters
    ----------
    half_light_radius : float
        Circularised, arcsec.
    q, pa : float
        Axis ratio, and position angle of the major axis in degrees from North through East.
    within : float
        Stars lie within so many half-light radii.
    n : float
        Sérsic index.
    """

    n: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(self, n=self.n)

    def radii(self, share: Array) -> Array:
        """Return the radii inside which shares of the stars lie, arcsec; see `StarProfile`."""
        return self.half_light_radius * sersic_radius(share, self.n, self.within)


def Exponential(half_light_radius: float, q: float = 1.0, pa: float = 0.0, within: float = 10.0) -> SersicStars:  # noqa: N802
    """Return stars in an exponential profile, a Sérsic profile of index 1; parameters as there."""
    return SersicStars(half_light_radius, q, pa, within, 1.0)


_KNOTS = 4097


@dataclass(frozen=True)
class King:
    """Stars in an empirical King (1962) profile, which ends at the tidal radius.

    Parameters
    ----------
    core_radius, tidal_radius : float
        Circularised, arcsec.
    q, pa : float
        Axis ratio, and position angle of the major axis in degrees from North through East.
    """

    core_radius: float
    tidal_radius: float
    q: float = 1.0
    pa: float = 0.0

    def __post_init__(self) -> None:
        _check(self, core_radius=self.core_radius, tidal_radius=self.tidal_radius, q=self.q)
        if self.q > 1 or not np.isfinite(self.pa) or self.tidal_radius <= self.core_radius:
            raise CatalogError(
                f"core_radius is {self.core_radius}, tidal_radius {self.tidal_radius}, q {self.q} and pa {self.pa}; "
                "the tidal radius is larger than that of the core, and q in (0, 1]",
                key="tidal_radius",
            )

    def _number(self, x: Array) -> Array:
        """Return the number of stars within x core radii (King 1962, AJ 67, 471, equation 18), unnormalised."""
        end = np.hypot(1.0, self.tidal_radius / self.core_radius)
        # sqrt(1 + x**2) - 1, without cancellation.
        rise = x**2 / (1.0 + np.hypot(1.0, x))
        return np.asarray(np.log1p(x**2) - 4.0 * rise / end + (x / end) ** 2)

    def radii(self, share: Array) -> Array:
        """Return the radii inside which shares of the stars lie, arcsec; see `StarProfile`."""
        last = self.tidal_radius / self.core_radius
        knots = np.sinh(np.linspace(0.0, np.arcsinh(last), _KNOTS))
        number = self._number(knots)
        wanted = share * number[-1]
        i = np.searchsorted(number, wanted).clip(1, _KNOTS - 1)
        low, high = knots[i - 1], knots[i]
        for _ in range(40):
            middle = 0.5 * (low + high)
            below = self._number(middle) < wanted
            low, high = np.where(below, middle, low), np.where(below, high, middle)
        return np.asarray(self.core_radius * 0.5 * (low + high))

    def positions(self, ra: float, dec: float, first: Array, second: Array) -> tuple[Array, Array]:
        """Return positions on the sky; see `StarProfile`."""
        east, north = on_ellipse(self.radii(first), 2.0 * np.pi * second, np.asarray(self.q), np.asarray(self.pa))
        moved = along_great_circles(ra, dec, np.hypot(east, north), np.degrees(np.arctan2(east, north)))
        return moved.ra, moved.dec


@dataclass(frozen=True)
class Stream:
    """Stars along a great circle, uniformly, with a normal distribution across it.

    Parameters
    ----------
    length : float
        Whole length, arcsec; the given position is its middle.
    width : float
        Standard deviation across, arcsec.
    pa : float
        Position angle of the great circle at the middle, degrees from North through East.
    """

    length: float
    width: float
    pa: float = 0.0

    def __post_init__(self) -> None:
        _check(self, length=self.length, width=self.width)
        if self.length > 360.0 * 3600.0 or not np.isfinite(self.pa):
            raise CatalogError(f"a stream of {self.length} arcsec at the angle {self.pa}", key="length")

    def positions(self, ra: float, dec: float, first: Array, second: Array) -> tuple[Array, Array]:
        """Return positions on the sky; see `StarProfile`."""
        from scipy.special import ndtri

        on = along_great_circles(ra, dec, (first - 0.5) * self.length, self.pa)
        moved = along_great_circles(on.ra, on.dec, self.width * ndtri(second), self.pa + on.turn + 90.0)
        return moved.ra, moved.dec
