"""Saving a PSF of any kind as a file that skygraft, photutils and STPSF's users read: images on a grid of positions."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from astropy.io import fits

from skygraft.disk import atomic_path
from skygraft.errors import OutputExistsError, PsfError
from skygraft.psf.base import PSF, Box
from skygraft.psf.linear import LinearPSF, combine

__all__ = ["write_psf"]

_OVERSAMPLING = 4
"""Samples per pixel of PSFs that are known between pixels."""


def write_psf(
    psf: PSF,
    path: str | os.PathLike[str],
    box: Box,
    *,
    pixel_scale: float | None = None,
    n_grid: int = 5,
    band: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Save a PSF as effective-PSF images on a grid of positions, in the layout of STPSF's grids.

    `read_psf_image` reads it back (``psf: path`` in a campaign), and ``photutils.psf.GriddedPSFModel.read``.

    Parameters
    ----------
    psf : PSF
        Such as ``exposure.psf``.
    path : path-like
        The FITS file to write.
    box : Box
        The image's outer edges, parent pixels: ``exposure.box``. The grid reaches to the middles of its corner pixels.
    pixel_scale : float, optional
        Arcsec per pixel, recorded so that the PSF is refused for other pixels.
    n_grid : int, optional
        Positions along each axis; between them the file's PSF is linear. One for a PSF that is the same everywhere.
    band : str, optional
        The image's band, recorded so that the PSF is refused for others.
    overwrite : bool, optional
        Replace a file that exists.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    OutputExistsError
        If the file exists and `overwrite` is false.
    PsfError
        If the PSF has no kernel at one of the positions.

    Notes
    -----
    Samples are four a pixel where the model is known between pixels, and else its kernels on pixels.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise OutputExistsError("the file exists already", path=path, fix="Give another name, or overwrite=True")
    at_x, at_y = (
        np.linspace(low + 0.5, high - 0.5, n_grid) if n_grid > 1 else np.array([(low + high) / 2])
        for low, high in ((box.x_min, box.x_max), (box.y_min, box.y_max))
    )
    x, y = (at.ravel() for at in np.meshgrid(at_x, at_y))
    if not psf.defined(x, y).all():
        raise PsfError(
            f"the PSF ({psf.description}) has no kernel at some of the {x.size} positions of the grid",
            path=path,
            fix="Save it over a smaller box, or one position of it: n_grid=1",
        )
    between = psf.sub_pixel if isinstance(psf, LinearPSF) else None
    if between is not None and isinstance(psf, LinearPSF):
        oversampling = _OVERSAMPLING
        halves = [int(min(-low, high) * oversampling) for low, high in between.reach]
        rows, columns = (np.arange(-half, half + 1) / oversampling for half in halves)
        images = combine(psf.coefficients(x, y), between.values(rows, columns))
    else:
        oversampling, images = 1, psf.kernels(x, y)
    header = fits.Header()
    header["ORIGIN"] = ("skygraft", "effective PSFs, light per pixel")
    header["OVERSAMP"] = (oversampling, "samples per pixel")
    header["DET_SAMP"] = (oversampling, "samples per pixel")
    if pixel_scale is not None:
        header["PIXELSCL"] = (pixel_scale / oversampling, "[arcsec] between samples")
        header["PIXUNIT"] = "arcsec"
    if band is not None:
        header["FILTER"] = band
    for i in range(x.size):
        header[f"DET_YX{i}"] = (f"({float(y[i])}, {float(x[i])})", "(y, x), pixels from 0")
    header.add_history(psf.description)
    with atomic_path(path) as temporary:
        fits.PrimaryHDU(images, header).writeto(temporary, overwrite=True)
    return path
