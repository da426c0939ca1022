"""From the numbers stored in a FITS image to its pixel values and back, changing no stored number without need."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy.io import fits
from isal import isal_zlib
from numpy.typing import NDArray

from skygraft.errors import CorruptFileError, OutputError
from skygraft.fitsfile.cards import finite_value, whole_value
from skygraft.jit import compiled

__all__ = [
    "BITPIX_DTYPE",
    "PixelScaling",
    "PixelsDoNotFitError",
    "differ",
    "fair_key",
    "fair_uniform",
    "round_fairly",
]

BITPIX_DTYPE = {8: ">u1", 16: ">i2", 32: ">i4", 64: ">i8", -32: ">f4", -64: ">f8"}


class PixelsDoNotFitError(OutputError):
    """New pixel values are outside of what the image's stored type can hold."""


def differ(new: NDArray[Any], old: NDArray[Any]) -> NDArray[np.bool_]:
    """Which pixels changed: NaN equals NaN, and `old` is taken to the type of `new` first."""
    with np.errstate(over="ignore", invalid="ignore"):
        old = old.astype(new.dtype, copy=False)
    changed: NDArray[np.bool_] = new != old
    if new.dtype.kind == "f" and changed.any():
        changed &= ~(np.isnan(new) & np.isnan(old))
    return changed


def round_fairly(numbers: NDArray[np.float64], stored: NDArray[Any], changed: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Round up with the probability of the fraction, so that what is lost or gained is nothing on average.

    The pixels that injection changes lie on the grid of whole numbers already: rounded to the nearest, light that
    adds less than half a step to a pixel would vanish, and with it the wings of every source and all of the faint
    ones.

    Parameters
    ----------
    numbers : ndarray of float, shape (N,)
        What to round: finite, in the order of ``stored[changed]``.
    stored : ndarray of int
        The whole numbers stored before. They key the random numbers, which are therefore the same whenever the same
        image is written, others in another image, and a pixel's own whatever else changed.
    changed : ndarray of bool
        Which pixels of `stored` have changed, N of them.

    Returns
    -------
    ndarray of int64, shape (N,)
        Less than one away from `numbers`, and equal where they are whole.
    """
    return _round_all(numbers, np.flatnonzero(changed), fair_key(stored))


def fair_key(stored: NDArray[Any]) -> int:
    """The key of an image's, or a tile's, random numbers: 32 bits."""
    key: int = isal_zlib.crc32(np.ascontiguousarray(stored))
    return key


@compiled
def fair_uniform(key: int, index: int) -> float:
    """A random number in 0 ... 1 for one pixel: SplitMix64 (Steele, Lea & Flood 2014) of the key, then of the place."""
    state = np.uint64(key)
    for step in (np.uint64(1), np.uint64(index + 1)):
        state += step * np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state ^= state >> np.uint64(31)
    return (state >> np.uint64(11)) * 2.0**-53


@compiled
def _round_all(numbers: NDArray[np.float64], places: NDArray[np.int64], key: int) -> NDArray[np.int64]:
    out = np.empty(len(numbers), np.int64)
    for i in range(len(numbers)):
        whole = np.floor(numbers[i])
        out[i] = np.int64(whole) + (fair_uniform(key, places[i]) < numbers[i] - whole)
    return out


@dataclass(frozen=True)
class PixelScaling:
    """How stored numbers become pixel values: ``value = bzero + bscale * stored``.

    Parameters
    ----------
    bitpix : int
        FITS code of the stored type.
    bscale, bzero : float
        Scale and offset.
    blank : int or None
        The stored integer that stands for NaN.
    """

    bitpix: int
    bscale: float = 1.0
    bzero: float = 0.0
    blank: int | None = None

    @classmethod
    def from_header(
        cls,
        header: fits.Header,
        bitpix_key: str = "BITPIX",
        *,
        path: str | os.PathLike[str] | None = None,
        hdu: int | None = None,
    ) -> PixelScaling:
        """The scaling that a header gives.

        Raises
        ------
        CorruptFileError
            If a card of it has no value that makes sense.
        """
        bitpix = whole_value(header, bitpix_key, path=path, hdu=hdu)
        if bitpix not in BITPIX_DTYPE:
            raise CorruptFileError(
                f"{bitpix_key} is {bitpix}; it is one of {', '.join(map(str, BITPIX_DTYPE))}",
                path=path,
                hdu=hdu,
                key=bitpix_key,
                fix="Copy or download the file again",
            )
        blank = None
        if bitpix > 0:
            # cfitsio and astropy go by ZBLANK, where it is there, for compressed images of integers too.
            for key in ("ZBLANK", "BLANK") if bitpix_key == "ZBITPIX" else ("BLANK",):
                blank = whole_value(header, key, path=path, hdu=hdu) if blank is None else blank
        bscale = finite_value(header, "BSCALE", 1.0, zero=False, path=path, hdu=hdu)
        return cls(bitpix, bscale, finite_value(header, "BZERO", 0.0, path=path, hdu=hdu), blank)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Stored type, big-endian."""
        return np.dtype(BITPIX_DTYPE[self.bitpix])

    @property
    def trivial(self) -> bool:
        """Whether stored numbers are the pixel values."""
        return self.bscale == 1 and self.bzero == 0

    @property
    def integral(self) -> bool:
        """Whether pixel values are whole numbers."""
        return self.bitpix > 0 and self.bscale == 1 and self.bzero == int(self.bzero)

    def decode(self, stored: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
        """Pixel values of stored numbers, as `dtype`; NaN where blank, if `dtype` is floating."""
        native = stored.astype(stored.dtype.newbyteorder("="))
        if self.trivial:
            values = native
        elif self.integral:
            values = native.astype(np.int64) + int(self.bzero)
        else:
            values = native.astype(np.float64) * self.bscale + self.bzero
        with np.errstate(over="ignore", invalid="ignore"):
            values = values.astype(dtype, copy=False)
        if self.blank is not None and dtype.kind == "f":
            values[native == self.blank] = np.nan
        return values

    def encode(
        self,
        new: NDArray[Any],
        stored: NDArray[Any],
        changed: NDArray[np.bool_],
        *,
        path: str | os.PathLike[str],
        hdu: int,
    ) -> NDArray[Any]:
        """Numbers to store: those that were, with the changed pixels replaced (by whole numbers: `round_fairly`).

        Parameters
        ----------
        new : ndarray
            New pixel values.
        stored : ndarray
            The numbers stored before, of the same shape.
        changed : ndarray of bool
            Which pixels changed.
        path, hdu
            For errors.

        Raises
        ------
        PixelsDoNotFitError
            If a new value is outside of the stored type, or NaN where there is no BLANK.
        """
        out = stored.astype(self.dtype)
        values = new[changed]
        if values.size == 0:
            return out
        if self.bitpix < 0:
            out[changed] = values if self.trivial else (values.astype(np.float64) - self.bzero) / self.bscale
            return out
        if self.integral and values.dtype.kind in "iub":
            numbers = values.astype(np.int64) - int(self.bzero)
            blank = np.zeros(numbers.shape, dtype=bool)
        else:
            scaled = (values.astype(np.float64) - self.bzero) / self.bscale
            blank = np.isnan(scaled)
            limits = np.iinfo(np.int64)
            inside = np.clip(np.where(blank, 0, scaled), limits.min // 2, limits.max // 2)
            numbers = round_fairly(inside, stored, changed)
            if self.blank is not None:
                # A number that happens to be BLANK would be read as NaN: its neighbour is a step away.
                numbers[numbers == self.blank] += 1 if self.blank < np.iinfo(self.dtype).max else -1
        if blank.any():
            if self.blank is None:
                raise PixelsDoNotFitError(
                    "new pixels are NaN, and this image of integers has no BLANK value for them",
                    path=path,
                    hdu=hdu,
                    fix="Replace the NaN pixels before writing",
                )
            numbers[blank] = self.blank
        low, high = np.iinfo(self.dtype).min, np.iinfo(self.dtype).max
        if numbers.min() < low or numbers.max() > high:
            raise PixelsDoNotFitError(
                f"new pixels between {values.min()} and {values.max()} do not fit into BITPIX = {self.bitpix}, "
                f"BSCALE = {self.bscale:g}, BZERO = {self.bzero:g}",
                path=path,
                hdu=hdu,
                fix="Take an image with a wider pixel type as like=",
            )
        out[changed] = numbers
        return out
