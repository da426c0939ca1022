"""The PSF of a Legacy Surveys brick: from its PSF image, or from the map of PSF sizes."""

from __future__ import annotations

import numpy as np

from skygraft.errors import PsfError
from skygraft.formats.fits_layout import Plane
from skygraft.formats.fits_planes import read_pixels
from skygraft.psf import PSF, MoffatMapPSF, read_psf_image

__all__ = ["psf_of_image", "psf_of_sizes"]

_HALF_SIZE = 8.1
"""Arcsec from the middle to the edge of the survey's PSFEx models, whose sum is one (63 pixels of 0.262 arcsec)."""
_SIZES = (0.1, 20.0)
"""Smallest and largest size of a PSF, arcsec; a map with others is in another unit."""


def psf_of_image(plane: Plane, scale: float) -> PSF:
    """Return the PSF of a coadd from its image on the coadd's pixels, which is scaled to sum one.

    Parameters
    ----------
    plane : Plane
        Where the image is.
    scale : float
        Arcsec per pixel.

    Returns
    -------
    PSF

    Raises
    ------
    PsfError
        As `skygraft.psf.read_psf_image`.
    """
    return read_psf_image(plane.path, scale, hdu=plane.hdu, oversampling=1, pixel_integrated=True)


def psf_of_sizes(plane: Plane, scale: float, beta: float) -> PSF:
    """Return the Moffat that has the effective area of the map of PSF sizes.

    Parameters
    ----------
    plane : Plane
        Where the map is; arcsec.
    scale : float
        Arcsec per pixel.
    beta : float
        Exponent of the Moffat.

    Returns
    -------
    PSF

    Raises
    ------
    PsfError
        If the map is in another unit, or has no size anywhere.
    """
    sizes, header = read_pixels(plane)
    unit = str(header.get("BUNIT", "arcsec")).strip()
    if not (sizes > 0).any():
        raise PsfError(
            "the map of PSF sizes has no size anywhere: no exposure covers the brick",
            path=plane.path,
            hdu=plane.hdu,
            fix="Leave the image out, or give psf=",
        )
    low, high = float(np.min(sizes, where=sizes > 0, initial=np.inf)), float(np.nanmax(sizes))
    if unit.lower() not in ("arcsec", "") or not _SIZES[0] < low <= high < _SIZES[1]:
        raise PsfError(
            f"the map of PSF sizes has {low:.4g} to {high:.4g} {unit}; sizes in arcsec are needed",
            path=plane.path,
            hdu=plane.hdu,
            fix="Fetch it again, or give psf=",
        )
    half = max(1, round(_HALF_SIZE / scale))
    origin = f"the effective area of {plane.path.name}, an approximation"
    shape = 2 * half + 1, 2 * half + 1
    return MoffatMapPSF.of_effective_size(sizes, beta, shape, factor=1 / scale, origin=origin)
