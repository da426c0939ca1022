"""Extent of profiles: the radii that contain all but a given part of their light.

For a Sérsic profile of index n the part of the light inside a scaled radius t = (r / r_half)^(1/n) is the regularised
incomplete gamma function P(2n, b_n t), with b_n from P(2n, b_n) = 1/2 (Ciotti 1991; Graham & Driver 2005, eq. 1-5).
Of a Moffat profile the part (1 + (r / r_d)^2)^(1 - beta) is outside a radius (Moffat 1969; Trujillo et al. 2001).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import gammaincinv

from skygraft.catalog.schema import LEAST_INCLINED_TRUNCATION
from skygraft.render.moffat import core_radius

__all__ = [
    "LEAST_GALSIM_RATIO",
    "MAX_STAMP",
    "SAFELY",
    "gaussian_radius",
    "largest_transform",
    "moffat_reach",
    "rim_radius",
    "sersic_radius",
    "sersic_reach",
]

MAX_STAMP = 8192
"""Longest side of a stamp in pixels: the largest transform that fits in a worker's memory (0.5 GB in float64)."""


LEAST_GALSIM_RATIO = LEAST_INCLINED_TRUNCATION
"""Smallest ratio of truncation to half-light radius of profiles that GalSim is given."""
_ALWAYS_ALLOWED, _PER_SIDE = 2048, 4


def largest_transform(shape: tuple[int, int]) -> int:
    """Return the longest side, pixels, of the stamp of one source on an image of this shape (ny, nx).

    Four times the image's own, and not less than 2048 pixels, which take some 0.3 GB; `MAX_STAMP` for any larger image.
    """
    return min(MAX_STAMP, max(_ALWAYS_ALLOWED, _PER_SIDE * max(shape)))


SAFELY = 0.95
"""Share of the flux tolerance for the profile's own truncation; the rest allows for losses in drawing."""


def sersic_reach(n: ArrayLike, missing: float) -> NDArray[np.float64]:
    """Return the radii, half-light radii, outside which Sérsic profiles have a part `missing` of their flux."""
    index = np.asarray(n, dtype=np.float64)
    return np.asarray((gammaincinv(2 * index, 1.0 - missing) / gammaincinv(2 * index, 0.5)) ** index)


def rim_radius(n: NDArray[np.float64], rim: float) -> NDArray[np.float64]:
    """Return the radii (half-light radii) where Sérsic profiles reach a fraction `rim` of their central brightness."""
    return np.asarray((-np.log(rim) / gammaincinv(2.0 * n, 0.5)) ** n)


def sersic_radius(n: float, half_light_radius: float, missing: float, trunc: float = 0.0) -> float:
    """Return the radius outside which a Sérsic profile has a part `missing` of its flux.

    Parameters
    ----------
    n : float
        Sérsic index.
    half_light_radius : float
        Any unit; the result has the same.
    missing : float
        Fraction of the flux outside, 0 to 1.
    trunc : float, optional
        Truncation radius, where the profile ends; 0 for none.

    Returns
    -------
    float
        Radius along the circularised axis.
    """
    radius = half_light_radius * float(sersic_reach(n, missing))
    return float(min(radius, trunc)) if trunc > 0 else radius


def gaussian_radius(half_light_radius: float, missing: float) -> float:
    """Return the radius outside which a Gaussian has a part `missing` of its flux, in units of the argument's."""
    return half_light_radius * math.sqrt(math.log(1.0 / missing) / math.log(2.0))


def moffat_reach(beta: ArrayLike, missing: float) -> NDArray[np.float64]:
    """Return the radii, half-light radii, outside which Moffat profiles have a part `missing` of their flux."""
    exponent = np.asarray(beta, dtype=np.float64)
    return np.asarray(core_radius(exponent) * np.sqrt(np.expm1(-np.log(missing) / (exponent - 1.0))))
