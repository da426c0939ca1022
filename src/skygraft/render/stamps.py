"""Images of sources that are injected as they are, read from FITS files once per process."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from skygraft.errors import CorruptFileError, InjectionError, MissingWcsError, SkygraftError
from skygraft.fitsfile.open import open_fits
from skygraft.wcs import local_jacobian, read_fits_wcs

__all__ = ["Stamp", "read_stamp"]


@dataclass(frozen=True, eq=False)
class Stamp:
    """An image of a source.

    Parameters
    ----------
    image : ndarray of float64, shape (ny, nx)
        Normalised to a sum of one.
    jacobian : ndarray, shape (2, 2), or None
        Arcsec per stamp pixel, rows (East, North), at its centre; None where the file has no celestial WCS.
    """

    image: NDArray[np.float64]
    jacobian: NDArray[np.float64] | None


def read_stamp(path: str | Path) -> Stamp:
    """Read a stamp from the first HDU of a FITS file that holds a two-dimensional image.

    Raises
    ------
    CorruptFileError
        If the file cannot be read.
    InjectionError
        If it holds no image, or one whose sum is not positive and finite.
    """
    path = Path(path)
    try:
        modified = path.stat().st_mtime_ns
    except OSError as error:
        raise CorruptFileError(
            f"the stamp cannot be read ({error.strerror})",
            path=path,
            fix="Check the catalogue's stamp column",
        ) from error
    return _read(path, modified)


@functools.lru_cache(maxsize=256)
def _read(path: Path, modified: int) -> Stamp:
    try:
        with open_fits(path, memmap=False) as hdus:
            for hdu in hdus:
                shape = () if hdu.data is None or not getattr(hdu, "is_image", False) else hdu.data.shape
                if len(shape) >= 2 and set(shape[:-2]) <= {1}:
                    image = np.asarray(hdu.data, dtype=np.float64).reshape(shape[-2:])
                    header = hdu.header.copy()
                    break
            else:
                raise InjectionError(
                    "no HDU holds a two-dimensional image", path=path, fix="Give a FITS image as stamp"
                )
    except (OSError, TypeError, ValueError) as error:
        if isinstance(error, SkygraftError):
            raise
        raise CorruptFileError(f"the stamp cannot be read ({error})", path=path, fix="Write the file again") from error
    total = image.sum()
    if not (np.isfinite(total) and total > 0):
        raise InjectionError(
            f"the stamp's pixels sum to {total}; a positive, finite sum is needed to scale it to a magnitude",
            path=path,
            fix="Replace blank pixels by zero and subtract the background",
        )
    ny, nx = image.shape
    for key in ("CRVAL1", "CRVAL2", "CRPIX1", "CRPIX2"):
        # A stamp needs a scale and an orientation, but no position on the sky.
        header.setdefault(key, 0.0)
    try:
        wcs = read_fits_wcs(header, path=path)
    except MissingWcsError:
        return Stamp(image / total, None)
    centre = np.array([(nx - 1) / 2.0]), np.array([(ny - 1) / 2.0])
    return Stamp(image / total, local_jacobian(wcs, *centre)[0])
