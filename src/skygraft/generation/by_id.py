"""Random numbers that depend on the seed and a source's id only: not on the order, number or chunks of the sources.

Bits come from Philox 4x32-10, a counter-based generator (Salmon et al. 2011, SC '11, 16): the counter is the id.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skygraft.errors import CatalogError

__all__ = ["philox", "stream_key", "uniforms"]

type Words = tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint64]]

_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (0x9E3779B9, 0xBB67AE85)
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


def philox(counter: Words, key: tuple[int, int]) -> Words:
    """Compute Philox 4x32-10 of many counters.

    Parameters
    ----------
    counter : tuple of 4 ndarrays of uint64
        Words of 32 bits each.
    key : (int, int)
        Words of 32 bits.

    Returns
    -------
    tuple of 4 ndarrays of uint64
        Random words of 32 bits.
    """
    a, b, c, d = counter
    x, y = key
    for _ in range(10):
        p, q = a * _MULTIPLIERS[0], c * _MULTIPLIERS[1]
        a, b, c, d = (q >> _HALF) ^ b ^ np.uint64(x), q & _LOW, (p >> _HALF) ^ d ^ np.uint64(y), p & _LOW
        x, y = (x + _WEYL[0]) & 0xFFFFFFFF, (y + _WEYL[1]) & 0xFFFFFFFF
    return a, b, c, d


def stream_key(seed: int, stream: int) -> tuple[int, int]:
    """Return the key of one random stream of a seed.

    Parameters
    ----------
    seed : int
        0 or more.
    stream : int
        Number of the property that is drawn.

    Returns
    -------
    (int, int)

    Raises
    ------
    CatalogError
        If the seed is negative or no whole number.
    """
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise CatalogError(f"the seed is {seed!r}; it must be a whole number, 0 or more", key="seed")
    first, second = np.random.SeedSequence([int(seed), stream]).generate_state(2, np.uint32).tolist()
    return first, second


def uniforms(ids: ArrayLike, seed: int, stream: int, draw: int = 0) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Draw two independent uniform numbers in (0, 1) for each id.

    Parameters
    ----------
    ids : array_like of int, shape (N,)
        Injection ids.
    seed : int
    stream : int
        Number of the property that is drawn; streams are independent of each other.
    draw : int
        Number of the draw of the same property: 0, 1, ...

    Returns
    -------
    first, second : ndarray, shape (N,)
    """
    words = np.asarray(ids, dtype=np.int64).view(np.uint64)
    zero = np.zeros_like(words)
    a, b, c, d = philox((words & _LOW, words >> _HALF, zero + np.uint64(draw), zero), stream_key(seed, stream))
    return _unit(a, b), _unit(c, d)


def _unit(high: NDArray[np.uint64], low: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Return the middle of one of 2**52 equal parts of (0, 1)."""
    word = ((high << _HALF) | low) >> np.uint64(12)
    return (word.astype(np.float64) + 0.5) * 2.0**-52
