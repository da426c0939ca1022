"""Convert between the numbers stored in a FITS image and its pixel values; unchanged pixels keep their number."""

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
    "changed_pixels",
    "round_stochastically",
    "rounding_key",
    "rounding_uniform",
]

BITPIX_DTYPE = {8: ">u1", 16: ">i2", 32: ">i4", 64: ">i8", -32: ">f4", -64: ">f8"}


class PixelsDoNotFitError(OutputError):
    """New pixel values are outside the range of the image's stored type."""


def changed_pixels(new: NDArray[Any], old: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which pixels changed, as booleans; NaN equals NaN, and `old` is converted to the type of `new` first."""
    with np.errstate(over="ignore", invalid="ignore"):
        old = old.astype(new.dtype, copy=False)
    changed: NDArray[np.bool_] = new != old
    if new.dtype.kind == "f" and changed.any():
        changed &= ~(np.isnan(new) & np.isnan(old))
    return changed


def round_stochastically(
    numbers: NDArray[np.float64], stored: NDArray[Any], changed: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """Round stochastically: up with a probability equal to the fractional part, so that the expected value is kept.

    The pixels that injection changes were integers before. Rounding to nearest would drop all light that adds less
    than half a step to a pixel: the wings of every source, and faint sources altogether.

    Parameters
    ----------
    numbers : ndarray of float, shape (N,)
        Finite numbers to round, in the order of ``stored[changed]``.
    stored : ndarray of int
        The integers stored before. They seed the random numbers, which are therefore the same whenever the same image
        is written and different for another image; the number of a pixel does not depend on which others changed.
    changed : ndarray of bool
        Which pixels of `stored` changed; N are true.

    Returns
    -------
    ndarray of int64, shape (N,)
        Less than one away from `numbers`, and equal to those that are integers.
    """
    return _round_all(numbers, np.flatnonzero(changed), rounding_key(stored))


def rounding_key(stored: NDArray[Any]) -> int:
    """Return the 32-bit key of the random numbers of an image or tile."""
    key: int = isal_zlib.crc32(np.ascontiguousarray(stored))
    return key


@compiled
def rounding_uniform(key: int, index: int) -> float:
    """Return the random number in [0, 1) of one pixel: SplitMix64 (Steele, Lea & Flood 2014) of key and pixel index."""
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
        out[i] = np.int64(whole) + (rounding_uniform(key, places[i]) < numbers[i] - whole)
    return out


@dataclass(frozen=True)
class PixelScaling:
    """Scaling of stored numbers to pixel values: ``value = bzero + bscale * stored``.

    Parameters
    ----------
    bitpix : int
        BITPIX, the FITS code of the stored type.
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
        """Read the scaling from a header.

        Parameters
        ----------
        header : astropy.io.fits.Header
        bitpix_key : str
            ``"ZBITPIX"`` for a tile-compressed image.
        path, hdu : optional
            For errors.

        Raises
        ------
        CorruptFileError
            If BITPIX, BSCALE, BZERO or BLANK has an invalid value.
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
            # cfitsio and astropy use ZBLANK, where present, for compressed images of integers too.
            for key in ("ZBLANK", "BLANK") if bitpix_key == "ZBITPIX" else ("BLANK",):
                blank = whole_value(header, key, path=path, hdu=hdu) if blank is None else blank
        bscale = finite_value(header, "BSCALE", 1.0, zero=False, path=path, hdu=hdu)
        return cls(bitpix, bscale, finite_value(header, "BZERO", 0.0, path=path, hdu=hdu), blank)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Stored type, big-endian, as a NumPy dtype."""
        return np.dtype(BITPIX_DTYPE[self.bitpix])

    @property
    def trivial(self) -> bool:
        """Whether stored numbers equal the pixel values (no scale or offset)."""
        return self.bscale == 1 and self.bzero == 0

    @property
    def integral(self) -> bool:
        """Whether all pixel values are integers."""
        return self.bitpix > 0 and self.bscale == 1 and self.bzero == int(self.bzero)

    def decode(self, stored: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
        """Convert stored numbers to pixel values of type `dtype`; BLANK becomes NaN if `dtype` is floating.

        Parameters
        ----------
        stored : ndarray
            Numbers of the stored type.
        dtype : dtype
            Type of the pixel values.

        Returns
        -------
        ndarray, same shape
        """
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
        """Convert changed pixels to stored numbers; the others keep theirs.

        Parameters
        ----------
        new : ndarray
            New pixel values.
        stored : ndarray
            The numbers stored before, same shape.
        changed : ndarray of bool
            Which pixels changed, same shape.
        path, hdu
            For errors.

        Returns
        -------
        ndarray, big-endian
            Integer types are rounded by `round_stochastically`.

        Raises
        ------
        PixelsDoNotFitError
            If a new value is outside the range of the stored type, or NaN where there is no BLANK.
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
            numbers = round_stochastically(inside, stored, changed)
            if self.blank is not None:
                # A pixel that happens to round to BLANK would be read as NaN: take the adjacent number instead.
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
