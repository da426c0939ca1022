"""One plane of an exposure that stays in its file, and is read in parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skygraft.fitsfile.parts import StoredImage
from skygraft.formats.fits_layout import Plane
from skygraft.formats.fits_planes import as_bits, variance_from_noise
from skygraft.planes import Part

__all__ = ["PLANE_DTYPES", "StoredPlane"]

PLANE_DTYPES = {"image": np.dtype(np.float32), "variance": np.dtype(np.float32), "mask": np.dtype(np.int32)}


@dataclass(frozen=True)
class StoredPlane:
    """A plane of an exposure that stays in its file.

    Parameters
    ----------
    plane : Plane
        Its role and place.
    stored : StoredImage
        Its pixels.
    exact : bool
        Whether stored numbers are converted to the plane's type at once, as afw's are; ordinary FITS images are first
        of the type that astropy gives them.
    """

    plane: Plane
    stored: StoredImage
    exact: bool = False

    @classmethod
    def find(cls, plane: Plane, *, exact: bool = False) -> StoredPlane | None:
        """Look at a plane; None if it can only be read as a whole."""
        stored = None if plane.slab is not None else StoredImage.find(plane.path, plane.hdu)
        return None if stored is None else cls(plane, stored, exact)

    @property
    def name(self) -> str:
        """Its name in the planes of an exposure: ``image``, ``variance`` or ``mask``."""
        return self.plane.role if self.plane.role in ("image", "mask") else "variance"

    def read(self, rows: range, columns: range) -> NDArray[Any]:
        """Read a rectangle, of the type and meaning of the plane of an exposure."""
        return self.read_all([(rows, columns)])[0]

    def read_all(self, parts: Sequence[Part]) -> list[NDArray[Any]]:
        """Read several rectangles at once, as `read` does one."""
        dtype = PLANE_DTYPES[self.name]
        found = self.stored.read_all(parts, dtype if self.exact else None)
        return found if self.exact else [self._meant(pixels, dtype) for pixels in found]

    def _meant(self, pixels: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
        """Turn stored numbers into what the plane of an exposure holds."""
        if self.name == "mask":
            return as_bits(pixels, self.plane)
        if self.name == "variance":
            return variance_from_noise(self.plane.role, pixels)
        return pixels.astype(dtype, copy=False)
