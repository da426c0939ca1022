"""A catalogue of real galaxies as GalSim's, of galaxies that are known exactly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import galsim
import numpy as np
from astropy.io import fits
from astropy.table import Table

SCALE = 0.03


def hubble_psf() -> Any:
    """A narrow PSF, with its pixel."""
    return galsim.Convolve(galsim.Gaussian(fwhm=0.11).shear(g1=0.05), galsim.Pixel(SCALE))


def write_real_galaxies(folder: Path, galaxies: list[Any], side: int = 240) -> Path:
    """Write a catalogue of the given profiles, in arcsec (x to the West, y to the North)."""
    images, psfs = fits.HDUList([fits.PrimaryHDU()]), fits.HDUList([fits.PrimaryHDU()])
    psf = hubble_psf().drawImage(nx=63, ny=63, scale=SCALE, method="no_pixel").array
    for galaxy in galaxies:
        seen = galsim.Convolve(galaxy, hubble_psf()).withFlux(30.0)
        images.append(fits.ImageHDU(seen.drawImage(nx=side, ny=side, scale=SCALE, method="no_pixel").array))
        psfs.append(fits.ImageHDU(psf))
    images.writeto(folder / "images.fits")
    psfs.writeto(folder / "psfs.fits")
    n = len(galaxies)
    table = Table(
        {
            "IDENT": np.arange(n) + 100, "MAG": np.full(n, 20.0), "BAND": np.full(n, "F814W"),
            "WEIGHT": np.ones(n), "GAL_FILENAME": np.full(n, "images.fits"), "PSF_FILENAME": np.full(n, "psfs.fits"),
            "GAL_HDU": np.arange(n) + 1, "PSF_HDU": np.arange(n) + 1, "PIXEL_SCALE": np.full(n, SCALE),
            "NOISE_MEAN": np.zeros(n), "NOISE_VARIANCE": np.full(n, 1e-6),
        }
    )  # fmt: skip
    path = folder / "real_galaxy_catalog_test.fits"
    table.write(path)
    return path
