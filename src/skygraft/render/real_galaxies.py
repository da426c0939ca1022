"""Real galaxies from GalSim's catalogues of Hubble images, such as those of COSMOS (Mandelbaum et al. 2012).

A catalogue is a FITS table that names, for each galaxy, the file and HDU of its postage stamp and of the PSF that it
was observed with. A galaxy is its stamp with that PSF divided out, as in GalSim's ``RealGalaxy``; drawing convolves it
with the PSF of the image, which must be the wider one. The noise of the stamp stays in it, neither whitened nor padded.

A catalogue is opened once per process; only few galaxies are kept.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from skygraft.errors import CorruptFileError, FormatError, InjectionError

if TYPE_CHECKING:
    import galsim

__all__ = ["RealGalaxy", "real_galaxy"]

_FIX = "Give the path of GalSim's table, real_galaxy_catalog_*.fits, beside the files of images that it names"
_CATALOGS, _GALAXIES = 4, 64
"""Most that are kept: a galaxy takes some 0.1 MB."""


@dataclass(frozen=True, eq=False)
class RealGalaxy:
    """The images of a galaxy.

    Parameters
    ----------
    image, psf : ndarray of float64, each of shape (ny, nx)
        The galaxy, with the sum of one, and the PSF that it was observed with. Along y is North, along x West, as in
        the images of COSMOS.
    pixel_scale : float
        Arcsec.
    """

    image: NDArray[np.float64]
    psf: NDArray[np.float64]
    pixel_scale: float

    @property
    def reach(self) -> float:
        """Arcsec from the centre to the corners of the stamp."""
        return 0.5 * math.hypot(*self.image.shape) * self.pixel_scale

    def profile(self, gsparams: galsim.GSParams) -> Any:
        """Return GalSim's object of unit flux with the PSF divided out, in arcsec (East, North)."""
        import galsim

        def pixels(image: NDArray[np.float64], **options: Any) -> Any:
            return galsim.InterpolatedImage(
                galsim.ImageD(image, scale=self.pixel_scale), flux=1.0, gsparams=gsparams, **options
            )

        psf = pixels(self.psf)
        # The extent of faint galaxies is taken for larger than that of the PSF at most, as GalSim's RealGalaxy does.
        galaxy = pixels(self.image, calculate_stepk=psf.stepk, calculate_maxk=psf.maxk)
        sharp = galsim.Convolve(galaxy, galsim.Deconvolve(psf, gsparams=gsparams), gsparams=gsparams)
        return sharp.transform(-1.0, 0.0, 0.0, 1.0)


def real_galaxy(catalog: str, row: int) -> RealGalaxy:
    """Read a galaxy of a catalogue.

    Parameters
    ----------
    catalog : str
        Path of GalSim's table.
    row : int
        Row of the galaxy, from 0.

    Returns
    -------
    RealGalaxy

    Raises
    ------
    CorruptFileError
        If the table or an image cannot be read.
    InjectionError
        If the table has no such row.
    """
    path = Path(catalog)
    try:
        modified = path.stat().st_mtime_ns
    except (OSError, ValueError) as error:
        raise CorruptFileError(
            f"the catalogue of real galaxies cannot be read ({getattr(error, 'strerror', None) or error})",
            path=path,
            key="real_galaxy_catalog",
            fix=_FIX,
        ) from error
    return _read(path, modified, row)


@functools.lru_cache(maxsize=_CATALOGS)
def _opened(path: Path, modified: int) -> Any:
    import galsim

    try:
        return galsim.RealGalaxyCatalog(str(path))
    except Exception as error:  # a table of another kind makes GalSim and astropy raise anything
        raise CorruptFileError(
            f"the catalogue of real galaxies cannot be read ({error})", path=path, key="real_galaxy_catalog", fix=_FIX
        ) from error


@functools.lru_cache(maxsize=_GALAXIES)
def _read(path: Path, modified: int, row: int) -> RealGalaxy:
    table = _opened(path, modified)
    if not 0 <= row < table.nobjects:
        raise InjectionError(
            f"real_galaxy is {row}; the catalogue has rows 0 to {table.nobjects - 1}", path=path, key="real_galaxy"
        )
    try:
        image, psf, scale = table.getGalImage(row).array, table.getPSFImage(row).array, float(table.pixel_scale[row])
        # The files stay open, but not with all the images that were ever read.
        del table.loaded_files[table.gal_file_name[row]][int(table.gal_hdu[row])].data
        del table.loaded_files[table.psf_file_name[row]][int(table.psf_hdu[row])].data
        total, total_psf = float(image.sum()), float(psf.sum())
        if not (0 < total < np.inf and 0 < total_psf < np.inf and 0 < scale < np.inf):
            raise FormatError(
                f"real galaxy {row} has the flux {total:g}, a PSF of the sum {total_psf:g} and pixels of {scale:g} "
                "arcsec; positive, finite numbers are needed"
            )
    except Exception as error:  # KeyError for a column, IndexError for an HDU, whatever astropy raises
        raise CorruptFileError(
            f"real galaxy {row} cannot be read ({type(error).__name__}: {error})",
            path=path,
            key="real_galaxy",
            fix=_FIX,
        ) from error
    return RealGalaxy(image / total, psf / total_psf, scale)
