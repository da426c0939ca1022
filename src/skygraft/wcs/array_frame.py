"""A world coordinate system in the pixels of an array, where other software takes no parent pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
from astropy.coordinates import SkyCoord
from astropy.wcs import WCS
from astropy.wcs.utils import fit_wcs_from_points
from astropy.wcs.wcsapi import BaseLowLevelWCS

from skygraft.errors import WcsError
from skygraft.wcs.base import CelestialWcs, FloatArray, to_vectors
from skygraft.wcs.fits import FitsWcs
from skygraft.wcs.local import pixel_scale

__all__ = ["ArrayWcs", "array_wcs", "fitted_wcs"]

_GRID = 12
_NEGLIGIBLE, _LARGEST = 1e-3, 0.1
"""Pixels: errors of a fitted WCS below which no distortion is fitted, and above which it is refused."""


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


def fitted_wcs(wcs: BaseLowLevelWCS, xy0: tuple[int, int], shape: tuple[int, int]) -> tuple[WCS, float]:
    """Fit a gnomonic FITS WCS to another one, with SIP polynomials of degree 3 where it needs them.

    Parameters
    ----------
    wcs : BaseLowLevelWCS
        Parent pixels (x, y) to ICRS degrees (ra, dec).
    xy0 : (int, int)
        Parent coordinates (x, y) of the array's first pixel.
    shape : (int, int)
        Rows and columns of the array.

    Returns
    -------
    fitted : astropy.wcs.WCS
        Pixels of the array, counted from zero, to the sky.
    error : float
        Largest distance between the two over the array, in pixels.

    Raises
    ------
    WcsError
        If that is more than a tenth of a pixel.
    """
    fit, test = (
        [v.ravel() for v in np.meshgrid(*(np.linspace(-0.5, size - 0.5, n) for size in shape[::-1]))]
        for n in (_GRID, 2 * _GRID + 1)
    )
    at, expected = ([x + xy0[0], y + xy0[1]] for x, y in (fit, test))
    sky = SkyCoord(*wcs.pixel_to_world_values(*at), unit="deg")
    there = to_vectors(*wcs.pixel_to_world_values(*expected))
    pixel = np.radians(pixel_scale(wcs, *expected) / 3600)
    for degree in (None, 3):
        fitted = fit_wcs_from_points(tuple(fit), sky, proj_point="center", sip_degree=degree)
        misses = np.linalg.norm(to_vectors(*fitted.all_pix2world(*test, 0)) - there, axis=-1)
        error = float((misses / pixel).max())
        if error <= _NEGLIGIBLE:
            break
    if not error <= _LARGEST:
        raise WcsError(
            f"no TAN-SIP projection of degree 3 follows the WCS better than to {error:.2g} pixels",
            fix="Use to_nddata(), which takes any WCS, or a cut-out",
        )
    return fitted, error
