"""Intervals of fractions."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skygraft.errors import ConfigError

__all__ = ["normal_quantile", "wilson"]


def normal_quantile(interval: float) -> float:
    """How many standard deviations a central interval of a normal distribution reaches to either side: 1 for 0.6827.

    A probability that is not between 0 and 1 is a `ConfigError`.
    """
    from statistics import NormalDist

    if not 0.0 < interval < 1.0:
        raise ConfigError(f"the interval holds {interval!r} of the probability", key="interval", fix="Give 0.6827")
    return NormalDist().inv_cdf(0.5 + 0.5 * interval)


def wilson(
    fraction: ArrayLike, n: ArrayLike, interval: float = 0.6827
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The score interval of a fraction.

    Wilson (1927, J. Am. Stat. Assoc. 22, 209), without continuity correction. It stays within 0 and 1, and is no
    point where none or all were found.

    Parameters
    ----------
    fraction : array_like
        Found over all.
    n : array_like
        Number of trials, or the effective number of weighted ones.
    interval : float
        Probability that it should hold.

    Returns
    -------
    lower, upper : ndarray
        NaN where n is 0.
    """
    z = normal_quantile(interval)
    p, number = np.broadcast_arrays(np.asarray(fraction, np.float64), np.asarray(n, np.float64))
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = 1.0 + z**2 / number
        middle = (p + z**2 / (2.0 * number)) / scale
        half = z / scale * np.sqrt(p * (1.0 - p) / number + z**2 / (4.0 * number**2))
        # In closed form 0 and 1 where none and all were found: rounding must not say otherwise.
        lower = np.where(p == 0.0, 0.0, np.clip(middle - half, 0.0, 1.0))
        upper = np.where(p == 1.0, 1.0, np.clip(middle + half, 0.0, 1.0))
    empty = ~(number > 0)
    lower[empty], upper[empty] = np.nan, np.nan
    return lower, upper
