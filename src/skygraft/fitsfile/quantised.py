"""Floats that a tile-compressed FITS image stores as integers: dequantise and requantise (FITS standard 4.0, 10.2).

Each tile has a scale and an offset, and each pixel a dither from a sequence fixed by the standard:
``value = (number - dither + 0.5) * scale + zero``. Changed pixels are quantised with the scale, offset and dither of
their tile, and without bias (`skygraft.fitsfile.pixels.round_stochastically`); the others keep their number.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skygraft.fitsfile.pixels import rounding_key, rounding_uniform
from skygraft.jit import compiled, plain

__all__ = ["ZERO", "Quantisation", "dither_randoms"]

ZERO = -2147483646
"""The integer that encodes exactly 0.0 with SUBTRACTIVE_DITHER_2."""
_RESERVED = 16
"""Integers at either end of the range that are reserved for special values."""
_NUMBER_OF_RANDOMS = 10000
_NO_NUMBER = 1 << 40


@functools.cache
def dither_randoms() -> NDArray[np.float64]:
    """Return the standard's 10000 random numbers in [0, 1) for dithering (FITS standard 4.0, appendix I).

    They are rounded to float32 and returned as float64.
    """
    numbers = np.empty(_NUMBER_OF_RANDOMS)
    seed = 1
    for i in range(_NUMBER_OF_RANDOMS):
        seed = 16807 * seed % 2147483647
        numbers[i] = seed / 2147483647
    return numbers.astype(np.float32).astype(np.float64)


@dataclass(frozen=True, eq=False)
class Quantisation:
    """Quantisation parameters of the T tiles of an image.

    Parameters
    ----------
    scale, zero : ndarray of float64, shape (T,)
        Scale and offset of each tile (ZSCALE, ZZERO).
    blank : ndarray of int64, shape (T,), or None
        The integer that stands for NaN in each tile (ZBLANK).
    dither : {0, 1, 2}
        No dithering, SUBTRACTIVE_DITHER_1 or SUBTRACTIVE_DITHER_2.
    seed : int
        ZDITHER0.
    """

    scale: NDArray[np.float64]
    zero: NDArray[np.float64]
    blank: NDArray[np.int64] | None
    dither: int
    seed: int

    def values(
        self,
        tiles: NDArray[np.int64],
        numbers: NDArray[np.int32],
        counts: NDArray[np.int64],
        dtype: np.dtype[Any],
        *,
        in_numpy: bool = False,
    ) -> NDArray[Any]:
        """Dequantise some tiles.

        Parameters
        ----------
        tiles : ndarray of int64, shape (N,)
            Indices of the tiles.
        numbers : ndarray of int32, shape (N, M)
            Their stored integers.
        counts : ndarray of int64, shape (N,)
            Number of pixels in each tile.
        dtype : dtype
            Floating-point type of the result.
        in_numpy : bool
            Whether nothing compiled is loaded for it.

        Returns
        -------
        ndarray, shape (N, M)
            Pixel values; zero after the last pixel of a shorter tile.
        """
        out = np.zeros(numbers.shape, dtype)
        dequantise = _dequantise_few if in_numpy else _dequantise
        dequantise(numbers, counts, tiles, *self._columns(), self.dither, self.seed, dither_randoms(), out)
        return out

    def requantise(
        self,
        tiles: NDArray[np.int64],
        numbers: NDArray[np.int32],
        counts: NDArray[np.int64],
        old: NDArray[Any],
        new: NDArray[Any],
        wanted: NDArray[Any],
        dtype: np.dtype[Any],
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Quantise the changed pixels of some tiles, in place.

        Parameters
        ----------
        tiles, numbers, counts
            As in `values`; `numbers` is updated in tiles whose changed pixels all fit.
        old, new : ndarray, shape (N, M)
            Pixels before and after, of one type; those that differ are quantised (NaN equals NaN).
        wanted : ndarray, shape (N, M)
            The values to quantise: `new` with the image's own BSCALE and BZERO removed.
        dtype : dtype
            Integer type that the numbers must fit into.

        Returns
        -------
        changed : ndarray of bool, shape (N,)
            Which tiles have changed pixels.
        fits : ndarray of bool, shape (N,)
            Which tiles could be quantised; the numbers of the others are unchanged.
        """
        limits = np.iinfo(dtype)
        # No more than 32 bits are used, even of wider types.
        low, high = max(limits.min, -(2**31)) + _RESERVED, min(limits.max, 2**31 - 1) - _RESERVED
        keys = np.array(
            [rounding_key(row[:n]) for row, n in zip(numbers, counts.tolist(), strict=True)], dtype=np.uint64
        )
        changed, fits = np.zeros(len(tiles), dtype=np.bool_), np.zeros(len(tiles), dtype=np.bool_)
        _requantise(
            numbers, counts, tiles, *self._columns(), self.dither, self.seed, dither_randoms(),
            old, new, wanted, keys, 0 if limits.min == 0 else low, high, changed, fits,
        )  # fmt: skip
        return changed, fits

    def _columns(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
        return self.scale, self.zero, np.empty(0, np.int64) if self.blank is None else self.blank


@compiled
def _dither(tile: int, seed: int, randoms: NDArray[np.float64], out: NDArray[np.float64]) -> None:
    """Write the dither of a tile's pixels to `out`: runs of the standard's random numbers, from the tile's start."""
    start = (tile + seed - 1) % len(randoms)
    at = int(randoms[start] * 500)
    p = 0
    while p < len(out):
        n = min(len(out) - p, len(randoms) - at)
        out[p : p + n] = randoms[at : at + n]
        p += n
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
    out: NDArray[Any],
) -> None:
    # A dither of 0.5 has no effect. A special integer that is not in use is set to one that no pixel can have.
    dithers = np.full(numbers.shape[1], 0.5)
    exact = np.int64(ZERO if dither == 2 else _NO_NUMBER)
    for k in range(len(tiles)):
        t, n = tiles[k], np.uint64(counts[k])
        if dither:
            _dither(t, seed, randoms, dithers[:n])
        nan = np.int64(blank[t] if len(blank) > 0 else _NO_NUMBER)
        row, stored, step, offset = out[k], numbers[k], scale[t], zero[t]
        for p in range(n):
            number = np.int64(stored[p])
            value = (stored[p] - dithers[p] + 0.5) * step + offset
            row[p] = np.nan if number == nan else (0.0 if number == exact else value)


def _dequantise_few(
    numbers: NDArray[np.int32],
    counts: NDArray[np.int64],
    tiles: NDArray[np.int64],
    scale: NDArray[np.float64],
    zero: NDArray[np.float64],
    blank: NDArray[np.int64],
    dither: int,
    seed: int,
    randoms: NDArray[np.float64],
    out: NDArray[Any],
) -> None:
    """Do what `_dequantise` does in numpy, to the last bit."""
    for row, stored, t, n in zip(out, numbers, tiles.tolist(), counts.tolist(), strict=True):
        dithers = np.full(n, 0.5)
        if dither:
            plain(_dither)(t, seed, randoms, dithers)
        number = stored[:n]
        row[:n] = (number - dithers + 0.5) * scale[t] + zero[t]
        if dither == 2:
            row[:n][number == ZERO] = 0.0
        if len(blank):
            row[:n][number == blank[t]] = np.nan


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
    old: NDArray[Any],
    new: NDArray[Any],
    wanted: NDArray[Any],
    keys: NDArray[np.uint64],
    low: int,
    high: int,
    changed: NDArray[np.bool_],
    fits: NDArray[np.bool_],
) -> None:
    row, dithers = np.empty(numbers.shape[1], np.int32), np.empty(numbers.shape[1])
    for k in range(len(tiles)):
        t = tiles[k]
        if dither:
            _dither(t, seed, randoms, dithers[: counts[k]])
        good, n, before, after = scale[t] != 0, np.uint64(counts[k]), old[k], new[k]
        row[:n] = numbers[k, :n]
        for p in range(n):
            if after[p] == before[p] or (np.isnan(after[p]) and np.isnan(before[p])):
                continue
            changed[k] = True
            if not good:
                break
            value = float(wanted[k, p])
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
                    row[p] = np.int64(whole) + (rounding_uniform(keys[k], int(p)) < q - whole)
        fits[k] = good
        if good:
            numbers[k, :n] = row[:n]
