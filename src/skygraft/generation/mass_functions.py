"""Initial mass functions: their cumulative numbers and the inverse, in closed form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skygraft.errors import CatalogError

__all__ = ["MassFunction", "mass_function"]

type Array = NDArray[np.float64]
type Function = Callable[[Array], Array]

_CHABRIER = (0.079, 0.69)
"""Mass in the middle, and standard deviation of log10 mass."""


@dataclass(frozen=True)
class MassFunction:
    """The cumulative number of stars by mass, from the lowest mass, unnormalised.

    Parameters
    ----------
    number : callable
        Number of stars below masses, in solar masses.
    inverse : callable
        Masses below which there are so many.
    """

    number: Function
    inverse: Function


def _power_law(low: float, high: float, slope: float) -> tuple[Function, Function]:
    """Return the integral of m**-slope from `low`, and its inverse."""
    power = 1.0 - slope
    start = low**power

    def number(mass: Array) -> Array:
        return np.asarray((np.clip(mass, low, high) ** power - start) / power)

    def inverse(share: Array) -> Array:
        return np.asarray((start + power * share) ** (1.0 / power))

    return number, inverse


def _lognormal(low: float, high: float) -> tuple[Function, Function]:
    """Return the integral of exp(-(log10(m / middle) / sigma)**2 / 2) / m from `low`, and its inverse."""
    from scipy.special import ndtr, ndtri

    middle, sigma = _CHABRIER
    scale = sigma * np.sqrt(2.0 * np.pi) * np.log(10.0)
    start = ndtr(np.log10(low / middle) / sigma)

    def number(mass: Array) -> Array:
        return np.asarray(scale * (ndtr(np.log10(np.clip(mass, low, high) / middle) / sigma) - start))

    def inverse(share: Array) -> Array:
        return np.asarray(middle * 10.0 ** (sigma * ndtri(share / scale + start)))

    return number, inverse


def mass_function(name: str, low: float, high: float) -> MassFunction:
    """Return an initial mass function between two masses.

    Parameters
    ----------
    name : {"kroupa", "chabrier", "salpeter"}
        Kroupa (2001, MNRAS 322, 231, equation 2: slopes 0.3, 1.3, 2.3, broken at 0.08 and 0.5 solar masses), Chabrier
        (2003, PASP 115, 763, table 1: single stars of the disk, and slope 2.3 above 1), Salpeter (1955, ApJ 121, 161:
        slope 2.35).
    low, high : float
        Masses, solar masses.

    Returns
    -------
    MassFunction

    Raises
    ------
    CatalogError
        If the name is none of these.
    """
    if name == "salpeter":
        breaks, slopes = [low, high], [2.35]
    elif name == "kroupa":
        breaks, slopes = [low, *(one for one in (0.08, 0.5) if low < one < high), high], []
        slopes = [0.3 if m < 0.08 else 1.3 if m < 0.5 else 2.3 for m in breaks[:-1]]
    elif name == "chabrier":
        breaks = [low, *([1.0] if low < 1.0 < high else []), high]
        slopes = [np.nan if m < 1.0 else 2.3 for m in breaks[:-1]]
    else:
        raise CatalogError(f"imf is {name!r}", key="imf", fix="Give kroupa, chabrier or salpeter")
    pieces = [
        _lognormal(a, b) if np.isnan(slope) else _power_law(a, b, slope)
        for a, b, slope in zip(breaks[:-1], breaks[1:], slopes, strict=True)
    ]
    factors = [1.0]
    for i in range(1, len(pieces)):
        m = breaks[i]
        before, after = (_density(m, slopes[k]) for k in (i - 1, i))
        factors.append(factors[-1] * before / after)
    sums = [0.0]
    for (count, _), factor, end in zip(pieces, factors, breaks[1:], strict=True):
        sums.append(sums[-1] + factor * float(count(np.array(end))))

    def number(mass: Array) -> Array:
        return np.asarray(sum(factor * count(mass) for (count, _), factor in zip(pieces, factors, strict=True)))

    def inverse(share: Array) -> Array:
        part = np.searchsorted(sums, share, side="right").clip(1, len(pieces)) - 1
        out = np.empty(np.shape(share))
        for i, ((_, back), factor) in enumerate(zip(pieces, factors, strict=True)):
            rows = part == i
            out[rows] = back((np.asarray(share)[rows] - sums[i]) / factor)
        return out

    return MassFunction(number, inverse)


def _density(mass: float, slope: float) -> float:
    """Return the unnormalised number per mass."""
    if np.isnan(slope):
        return float(np.exp(-0.5 * (np.log10(mass / _CHABRIER[0]) / _CHABRIER[1]) ** 2) / mass)
    return float(mass**-slope)
