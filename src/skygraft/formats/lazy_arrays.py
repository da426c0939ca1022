"""Planes that are read later, as arrays of an xarray *backend*, like those of any file that xarray opens.

Without `chunks` a part is read when its values are wanted, and the whole plane, once read, is kept; with `chunks` they
are arrays of Dask. Importing xarray takes long: this module is imported where a Dataset is asked for.
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

from skygraft.formats.base import Chunks
from skygraft.formats.stored_plane import PLANE_DTYPES, StoredPlane
from skygraft.planes import PLANE_DIMS

__all__ = ["open_dataset"]


def open_dataset(
    planes: tuple[StoredPlane, ...], attrs: Mapping[str, Mapping[str, Any]], xy0: tuple[int, int], chunks: Chunks
) -> xr.Dataset:
    """Return planes as the arrays of a Dataset, which are read later.

    Parameters
    ----------
    planes : tuple of StoredPlane
        The image first.
    attrs : mapping of str to mapping
        Of each plane.
    xy0 : (int, int)
        Parent coordinates of the first pixel.
    chunks : optional
        As of `xarray.open_dataset`.
    """
    aligned = chunks == "auto" or (isinstance(chunks, Mapping) and not chunks)
    opening = _Opening(planes, {name: dict(one) for name, one in attrs.items()}, xy0, aligned)
    return xr.open_dataset(opening, engine=_Planes, chunks=chunks)  # type: ignore[arg-type]


@dataclass(frozen=True)
class _Opening:
    """What is opened; arrays of Dask are named after it, so that what a cluster remembers is of the same file."""

    planes: tuple[StoredPlane, ...]
    attrs: dict[str, dict[str, Any]]
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
        (ny, nx), (x0, y0) = first.shape, opening.xy0
        variables = {}
        arrays = {name: _PlaneArray(first.shape, name) for name in ("image", "mask")}
        arrays |= {plane.name: _PlaneArray(first.shape, plane.name, plane) for plane in opening.planes}
        for name, array in arrays.items():
            stored = first if array.plane is None else array.plane.stored
            chunks = dict(zip(PLANE_DIMS, stored.chunks, strict=True))
            encoding = {"preferred_chunks": chunks} if opening.aligned else {}
            variables[name] = xr.Variable(
                PLANE_DIMS, indexing.LazilyIndexedArray(array), dict(opening.attrs[name]), encoding
            )
        return xr.Dataset(variables, coords={"y": np.arange(y0, y0 + ny), "x": np.arange(x0, x0 + nx)})

    def guess_can_open(self, filename_or_obj: Any) -> bool:
        """Return False: it is asked for by class."""
        del filename_or_obj
        return False


class _PlaneArray(BackendArray):
    """The lazy array of a plane; of zeros where there is none."""

    def __init__(self, shape: tuple[int, int], name: str, plane: StoredPlane | None = None) -> None:
        self.shape, self.dtype, self.plane = shape, PLANE_DTYPES[name], plane

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
