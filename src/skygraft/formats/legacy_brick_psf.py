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
    known = sizes[np.isfinite(sizes) & (sizes > 0)]
    if unit.lower() not in ("arcsec", "") or (known.size and not _SIZES[0] < known.min() <= known.max() < _SIZES[1]):
        span = f"{known.min():.4g} to {known.max():.4g}" if known.size else "no"
        raise PsfError(
            f"the map of PSF sizes has {span} {unit}; sizes in arcsec are needed",
            path=plane.path,
            hdu=plane.hdu,
            fix="Fetch it again, or give psf=",
        )
    if not known.size:
        raise PsfError(
            "the map of PSF sizes has no size anywhere: no exposure covers the brick",
            path=plane.path,
            hdu=plane.hdu,
            fix="Leave the image out, or give psf=",
        )
    half = max(1, round(_HALF_SIZE / scale))
    origin = f"the effective area of {plane.path.name}, an approximation"
    return MoffatMapPSF.of_effective_size(sizes / scale, beta, (2 * half + 1, 2 * half + 1), origin=origin)
