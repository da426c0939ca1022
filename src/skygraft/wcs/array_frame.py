"""A world coordinate system in the pixels of an array, where other software takes no parent pixels."""

from __future__ import annotations

from typing import Any

from astropy.wcs import WCS
from astropy.wcs.wcsapi import BaseLowLevelWCS

from skygraft.wcs.base import CelestialWcs, FloatArray
from skygraft.wcs.fits import FitsWcs

__all__ = ["ArrayWcs", "array_wcs"]


class ArrayWcs(CelestialWcs):
    """A WCS of parent pixels, as seen from an array that is cut from the parent.

    Parameters
    ----------
    wcs : BaseLowLevelWCS
        Parent pixels (x, y) to ICRS degrees (ra, dec).
    xy0 : (int, int)
        Parent coordinates (x, y) of the array's first pixel.
    """

    def __init__(self, wcs: BaseLowLevelWCS, xy0: tuple[int, int]) -> None:
        self._wcs, self._xy0 = wcs, (int(xy0[0]), int(xy0[1]))

    def _forward(self, x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
        ra, dec = self._wcs.pixel_to_world_values(x + self._xy0[0], y + self._xy0[1])
        return ra, dec

    def _inverse(self, ra: FloatArray, dec: FloatArray) -> tuple[FloatArray, FloatArray]:
        x, y = self._wcs.world_to_pixel_values(ra, dec)
        return x - self._xy0[0], y - self._xy0[1]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ArrayWcs):
            return NotImplemented
        return bool(self._wcs == other._wcs and self._xy0 == other._xy0)

    def __hash__(self) -> int:
        return hash((self._wcs, self._xy0))

    def __repr__(self) -> str:
        return f"<ArrayWcs of an array that begins at {self._xy0} of {self._wcs!r}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return ArrayWcs, (self._wcs, self._xy0)


def array_wcs(wcs: BaseLowLevelWCS, xy0: tuple[int, int]) -> WCS | ArrayWcs:
    """The WCS of an array that begins at a parent pixel, for software that knows no parent pixels.

    Parameters
    ----------
    wcs : BaseLowLevelWCS
        Parent pixels (x, y) to ICRS degrees (ra, dec).
    xy0 : (int, int)
        Parent coordinates (x, y) of the array's first pixel.

    Returns
    -------
    astropy.wcs.WCS or ArrayWcs
        Pixels of the array, counted from zero, to the sky. An `astropy.wcs.WCS`, which can be written to a FITS
        header, where one holds all that `wcs` says.
    """
    found = wcs.to_astropy(xy0) if isinstance(wcs, FitsWcs) else None
    return ArrayWcs(wcs, xy0) if found is None else found
