"""Random numbers by row: each value depends on the seed, its purpose and its row alone.

Philox (Salmon et al. 2011, SC11) is a function of a key and a counter. The key is a digest of seed and purpose, the
counter the number of the row, so that any range of rows can be drawn by itself, with the same values.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from skygraft.errors import ConfigError

__all__ = ["Streams"]

type Floats = NDArray[np.float64]

_PER_COUNT = 4
"""Numbers of 64 bits that Philox gives for each count."""


class Streams:
    """The random streams of one seed.

    Parameters
    ----------
    seed : int
        0 or more.

    Raises
    ------
    ConfigError
        If the seed is negative.
    """

    def __init__(self, seed: int) -> None:
        if seed < 0:
            raise ConfigError(f"the seed is {seed}; it must be 0 or more", key="seed")
        self.seed = int(seed)

    def generator(self, purpose: str, start: int = 0) -> np.random.Generator:
        """Return a generator whose next number of 64 bits is that of row `start`.

        Parameters
        ----------
        purpose : str
            What the numbers are for; each purpose has a stream of its own.
        start : int
            Row number.

        Returns
        -------
        numpy.random.Generator
        """
        digest = hashlib.blake2b(f"{self.seed}/{purpose}".encode(), digest_size=16).digest()
        key = np.frombuffer(digest, dtype="<u8").astype(np.uint64)
        count, rest = divmod(start, _PER_COUNT)
        generator = np.random.Generator(np.random.Philox(key=key, counter=count))
        if rest:
            generator.random(rest)
        return generator

    def uniform(self, purpose: str, start: int, n: int) -> Floats:
        """Draw the uniform numbers in [0, 1) of rows `start` to ``start + n - 1``.

        Parameters
        ----------
        purpose : str
        start, n : int
            First row, and number of rows.

        Returns
        -------
        ndarray, shape (n,)
        """
        return self.generator(purpose, start).random(n)

    def normal(self, purpose: str, start: int, n: int) -> Floats:
        """Draw the standard normal numbers of rows, as `uniform` does, by inversion: one uniform number each."""
        from scipy.special import ndtri

        # Between the 2^53 values that uniform numbers have: never 0.
        return np.asarray(ndtri(self.uniform(purpose, start, n) + 2.0**-54))
