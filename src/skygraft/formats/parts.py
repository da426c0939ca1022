"""Planes that are read when they are asked for, as much of them as is asked for.

They are arrays of an xarray *backend*, as those of any file that `xarray.open_dataset` opens: without `chunks` a part
is read when its values are wanted, and the whole plane, once read, is kept; with `chunks` they are arrays of Dask.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from xarray.backends import BackendArray, BackendEntrypoint
from xarray.core import indexing

from skygraft.errors import FormatError
from skygraft.fitsfile.parts import StoredImage
from skygraft.formats.base import Chunks
from skygraft.formats.fits_layout import Plane
from skygraft.formats.fits_planes import as_bits, variance_from_noise
from skygraft.planes import PLANE_DIMS, plane_attrs

__all__ = ["StoredPlane", "open_planes"]

_DTYPES = {"image": np.dtype(np.float32), "variance": np.dtype(np.float32), "mask": np.dtype(np.int32)}


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
        dtype = _DTYPES[self.name]
        if self.exact:
            return self.stored.read(rows, columns, dtype)
        pixels = self.stored.read(rows, columns)
        if self.name == "mask":
            return as_bits(pixels, self.plane)
        if self.name == "variance":
            return variance_from_noise(self.plane.role, pixels)
        return pixels.astype(dtype, copy=False)


def open_planes(
    planes: Mapping[str, StoredPlane],
    *,
    mask_planes: Mapping[str, int],
    units: str,
    xy0: tuple[int, int] = (0, 0),
    chunks: Chunks = None,
) -> xr.Dataset:
    """Return planes that are read when they are asked for, in the layout of `skygraft.make_planes`.

    Parameters
    ----------
    planes : mapping of str to StoredPlane
        ``image``, and ``variance`` and ``mask`` where there are any; a mask that is absent is of zeros.
    mask_planes : mapping of str to int
        Name of each mask plane to its bit number.
    units : str
        Unit of the image.
    xy0 : (int, int)
        Parent coordinates of the first pixel.
    chunks : optional
        As of `xarray.open_dataset`: None for arrays without Dask, ``{}`` for chunks of some whole tiles, sizes, or
        ``"auto"``.

    Raises
    ------
    FormatError
        If the planes have different shapes.
    """
    shape = planes["image"].stored.shape
    for name, plane in planes.items():
        if plane.stored.shape != shape:
            raise FormatError(
                f"the {name} plane has shape {plane.stored.shape}, the image {shape}", path=plane.plane.path
            )
    opening = _Opening(
        tuple(planes[name] for name in ("image", "mask", "variance") if name in planes),
        tuple(mask_planes.items()),
        units,
        xy0,
        aligned=chunks == "auto" or (isinstance(chunks, Mapping) and not chunks),
    )
    return xr.open_dataset(opening, engine=_Planes, chunks=chunks)  # type: ignore[arg-type]


@dataclass(frozen=True)
class _Opening:
    """What is opened; arrays of Dask are named after it, so that what a cluster remembers is of the same file."""

    planes: tuple[StoredPlane, ...]
    mask_planes: tuple[tuple[str, int], ...]
    units: str
    xy0: tuple[int, int]
    aligned: bool
    """Whether chunks are of whole tiles; otherwise xarray warns of the sizes that were asked for."""

    def __dask_tokenize__(self) -> str:
        return repr(self)


class _Planes(BackendEntrypoint):
    """Opens an `_Opening`."""

    open_dataset_parameters: ClassVar[tuple[str, ...]] = ("filename_or_obj", "drop_variables")

    def open_dataset(self, filename_or_obj: Any, *, drop_variables: Any = None) -> xr.Dataset:
        """Return the planes as lazy arrays."""
        opening: _Opening = filename_or_obj
        first = opening.planes[0].stored
        attrs = plane_attrs(dict(opening.mask_planes), opening.units)
        (ny, nx), (x0, y0) = first.shape, opening.xy0
        variables = {}
        arrays = {name: _PlaneArray(first.shape, name) for name in ("image", "mask")}
        arrays |= {plane.name: _PlaneArray(first.shape, plane.name, plane) for plane in opening.planes}
        for name, array in arrays.items():
            stored = first if array.plane is None else array.plane.stored
            chunks = dict(zip(PLANE_DIMS, stored.chunks, strict=True))
            encoding = {"preferred_chunks": chunks} if opening.aligned else {}
            variables[name] = xr.Variable(PLANE_DIMS, indexing.LazilyIndexedArray(array), attrs[name], encoding)
        return xr.Dataset(variables, coords={"y": np.arange(y0, y0 + ny), "x": np.arange(x0, x0 + nx)})

    def guess_can_open(self, filename_or_obj: Any) -> bool:
        """Return False: it is asked for by class."""
        del filename_or_obj
        return False


class _PlaneArray(BackendArray):
    """The lazy array of a plane; of zeros where there is none."""

    def __init__(self, shape: tuple[int, int], name: str, plane: StoredPlane | None = None) -> None:
        self.shape, self.dtype, self.plane = shape, _DTYPES[name], plane

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.BASIC, self._part)

    def _part(self, key: tuple[int | slice, ...]) -> NDArray[Any]:
        """The pixels of two whole numbers or slices, which may have steps."""
        wanted = [_steps(one, n) for one, n in zip(key, self.shape, strict=True)]
        inner = tuple(0 if isinstance(one, (int, np.integer)) else slice(None) for one in key)
        if not all(wanted):
            return np.zeros([len(one) for one in wanted], self.dtype)[inner]
        rows, columns = (range(min(one[0], one[-1]), max(one[0], one[-1]) + 1) for one in wanted)
        if self.plane is None:
            found = np.zeros((len(rows), len(columns)), self.dtype)
        else:
            found = self.plane.read(rows, columns)
        return found[:: wanted[0].step, :: wanted[1].step][inner]


def _steps(key: int | slice, n: int) -> range:
    if isinstance(key, slice):
        return range(*key.indices(n))
    at = int(key) + (n if key < 0 else 0)
    return range(at, at + 1)
