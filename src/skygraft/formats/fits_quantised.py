"""Floats that a tile-compressed FITS image stores as whole numbers: to values and back (FITS standard 4.0, 10.2).

A tile has a scale and an offset, and a dither for each of its pixels that all readers know: ``value = (number - dither
+ 0.5) * scale + zero``. Changed pixels are quantised with what their tile has already, and without bias
(`skygraft.formats.fits_pixels.round_fairly`); the others keep the number that they have.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skygraft.formats.fits_pixels import fair_key, fair_uniform
from skygraft.jit import compiled

__all__ = ["ZERO", "Quantisation", "dither_randoms"]

ZERO = -2147483646
"""The number that stands for exactly 0.0 with SUBTRACTIVE_DITHER_2."""
_RESERVED = 16
"""Numbers at either end of the range that are kept for such meanings."""
_NUMBER_OF_RANDOMS = 10000


@functools.cache
def dither_randoms() -> NDArray[np.float64]:
    """The 10000 numbers in [0, 1) that all readers dither with (FITS standard 4.0, appendix I), float32 in value."""
    numbers = np.empty(_NUMBER_OF_RANDOMS)
    seed = 1
    for i in range(_NUMBER_OF_RANDOMS):
        seed = 16807 * seed % 2147483647
        numbers[i] = seed / 2147483647
    return numbers.astype(np.float32).astype(np.float64)


@dataclass(frozen=True, eq=False)
class Quantisation:
    """How the tiles of an image are quantised.

    Parameters
    ----------
    scale, zero : ndarray of float64, shape (T,)
        Of each tile.
    blank : ndarray of int64, shape (T,), or None
        The number that stands for NaN.
    dither : {0, 1, 2}
        None, SUBTRACTIVE_DITHER_1 or SUBTRACTIVE_DITHER_2.
    seed : int
        ZDITHER0.
    """

    scale: NDArray[np.float64]
    zero: NDArray[np.float64]
    blank: NDArray[np.int64] | None
    dither: int
    seed: int

    def values(
        self, tiles: NDArray[np.int64], numbers: NDArray[np.int32], counts: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Values of the numbers of some tiles.

        Parameters
        ----------
        tiles : ndarray of int64, shape (N,)
            Which tiles.
        numbers : ndarray of int32, shape (N, M)
            Their numbers.
        counts : ndarray of int64, shape (N,)
            How many each has.

        Returns
        -------
        ndarray of float64, shape (N, M)
            Zero behind the values of a shorter tile.
        """
        out = np.zeros(numbers.shape)
        _dequantise(numbers, counts, tiles, *self._columns(), self.dither, self.seed, dither_randoms(), out)
        return out

    def requantise(
        self,
        tiles: NDArray[np.int64],
        numbers: NDArray[np.int32],
        counts: NDArray[np.int64],
        new: NDArray[Any],
        changed: NDArray[np.bool_],
        dtype: np.dtype[Any],
    ) -> NDArray[np.bool_]:
        """Quantise the changed pixels of some tiles anew, in place.

        Parameters
        ----------
        tiles, numbers, counts
            As in `values`; `numbers` is changed where that is possible.
        new : ndarray, shape (N, M)
            Values.
        changed : ndarray of bool, shape (N, M)
            Which of them to take.
        dtype : dtype
            What a number must fit into.

        Returns
        -------
        ndarray of bool, shape (N,)
            Which tiles could be changed; of the others no number was.
        """
        limits = np.iinfo(dtype)
        # Also of wider types no more than 32 bits are used.
        low, high = max(limits.min, -(2**31)) + _RESERVED, min(limits.max, 2**31 - 1) - _RESERVED
        keys = np.array([fair_key(row[:n]) for row, n in zip(numbers, counts.tolist(), strict=True)], dtype=np.uint64)
        fits = np.zeros(len(tiles), dtype=np.bool_)
        _requantise(
            numbers, counts, tiles, *self._columns(), self.dither, self.seed, dither_randoms(),
            np.ascontiguousarray(new, dtype=np.float64), changed, keys, 0 if limits.min == 0 else low, high, fits,
        )  # fmt: skip
        return fits

    def _columns(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
        return self.scale, self.zero, np.empty(0, np.int64) if self.blank is None else self.blank


@compiled
def _dither(tile: int, seed: int, randoms: NDArray[np.float64], out: NDArray[np.float64]) -> None:
    """The dither of a tile's pixels: runs of the numbers that all readers know, begun where the tile's own says."""
    start = (tile + seed - 1) % len(randoms)
    at = int(randoms[start] * 500)
    for p in range(len(out)):
        out[p] = randoms[at]
        at += 1
        if at == len(randoms):
            start = (start + 1) % len(randoms)
            at = int(randoms[start] * 500)


@compiled
def _dequantise(
    numbers: NDArray[np.int32],
    counts: NDArray[np.int64],
    tiles: NDArray[np.int64],
    scale: NDArray[np.float64],
    zero: NDArray[np.float64],
    blank: NDArray[np.int64],
    dither: int,
    seed: int,
    randoms: NDArray[np.float64],
    out: NDArray[np.float64],
) -> None:
    dithers = np.empty(numbers.shape[1])
    for k in range(len(tiles)):
        t = tiles[k]
        if dither:
            _dither(t, seed, randoms, dithers[: counts[k]])
        for p in range(counts[k]):
            number = numbers[k, p]
            if len(blank) > 0 and number == blank[t]:
                out[k, p] = np.nan
            elif dither == 2 and number == ZERO:
                out[k, p] = 0.0
            elif dither:
                out[k, p] = (number - dithers[p] + 0.5) * scale[t] + zero[t]
            else:
                out[k, p] = number * scale[t] + zero[t]


@compiled
def _requantise(
    numbers: NDArray[np.int32],
    counts: NDArray[np.int64],
    tiles: NDArray[np.int64],
    scale: NDArray[np.float64],
    zero: NDArray[np.float64],
    blank: NDArray[np.int64],
    dither: int,
    seed: int,
    randoms: NDArray[np.float64],
    new: NDArray[np.float64],
    changed: NDArray[np.bool_],
    keys: NDArray[np.uint64],
    low: int,
    high: int,
    fits: NDArray[np.bool_],
) -> None:
    row, dithers = np.empty(numbers.shape[1], np.int32), np.empty(numbers.shape[1])
    for k in range(len(tiles)):
        t = tiles[k]
        if dither:
            _dither(t, seed, randoms, dithers[: counts[k]])
        good = scale[t] != 0
        for p in range(counts[k]):
            row[p] = numbers[k, p]
            if changed[k, p] and good:
                value = new[k, p]
                if np.isnan(value):
                    good = len(blank) > 0
                    if good:
                        row[p] = blank[t]
                elif dither == 2 and value == 0.0:
                    row[p] = ZERO
                else:
                    q = (value - zero[t]) / scale[t]
                    if dither:
                        q = q + dithers[p] - 0.5
                    good = low < q < high
                    if good:
                        whole = np.floor(q)
                        row[p] = np.int64(whole) + (fair_uniform(keys[k], p) < q - whole)
        fits[k] = good
        if good:
            for p in range(counts[k]):
                numbers[k, p] = row[p]
