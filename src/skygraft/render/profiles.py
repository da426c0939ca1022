"""How far a profile reaches: the radii that hold all but a given part of its light.

For a Sérsic profile of index n the part of the light inside a scaled radius t = (r / r_half)^(1/n) is the regularised
incomplete gamma function P(2n, b_n t), with b_n from P(2n, b_n) = 1/2 (Ciotti 1991; Graham & Driver 2005, eq. 1-5).
"""

from __future__ import annotations

import math

from scipy.special import gammaincinv

__all__ = ["gaussian_radius", "sersic_radius"]


def sersic_radius(n: float, half_light_radius: float, missing: float, trunc: float = 0.0) -> float:
    """Radius outside which a Sérsic profile has a part `missing` of its flux.

    Parameters
    ----------
    n : float
        Sérsic index.
    half_light_radius : float
        Any unit; the result has the same.
    missing : float
        Part of the flux left out, 0 to 1.
    trunc : float, optional
        Truncation radius, where the profile ends; 0 for none.

    Returns
    -------
    float
        Radius along the circularised axis.
    """
    b = float(gammaincinv(2 * n, 0.5))
    radius = half_light_radius * float(gammaincinv(2 * n, 1.0 - missing) / b) ** n
    return float(min(radius, trunc)) if trunc > 0 else radius


def gaussian_radius(half_light_radius: float, missing: float) -> float:
    """Radius outside which a Gaussian has a part `missing` of its flux, in the unit of `half_light_radius`."""
    return half_light_radius * math.sqrt(math.log(1.0 / missing) / math.log(2.0))
