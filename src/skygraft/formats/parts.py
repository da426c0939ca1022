"""Planes that are read when they are asked for, as much of them as is asked for."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from skygraft.errors import FormatError
from skygraft.formats.base import Chunks
from skygraft.formats.fits_planes import nameless
from skygraft.formats.stored_plane import PLANE_DTYPES, StoredPlane
from skygraft.planes import PLANE_DIMS, Part, Planes, plane_attrs

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["StoredPlanes", "open_planes"]


class StoredPlanes(Planes):
    """Planes of which parts are read when they are asked for; a whole plane, once read, is kept.

    Parameters
    ----------
    stored : mapping of str to StoredPlane
        ``image``, and ``variance`` and ``mask`` where there are any; a mask that is absent is of zeros.
    attrs : mapping of str to dict
        Of each plane.
    xy0 : (int, int)
        Parent coordinates of the first pixel.
    nameless_bits : bool
        Whether bits of the mask may be set that have no name, see `name_bits`.
    """

    def __init__(
        self,
        stored: Mapping[str, StoredPlane],
        attrs: Mapping[str, dict[str, Any]],
        xy0: tuple[int, int],
        *,
        nameless_bits: bool = False,
    ) -> None:
        super().__init__({}, {}, xy0)
        names = ("image", "mask", "variance")
        self._stored = {name: stored[name] for name in names if name in stored}
        self._attrs = {name: dict(attrs[name]) for name in names if name in {*stored, "mask"}}
        self._nameless = nameless_bits

    def dataset(self, chunks: Chunks = None) -> xr.Dataset:
        """Return the Dataset, made when first asked for; planes that have not been read are read later."""
        if self._dataset is None:
            from skygraft.formats.lazy_arrays import open_dataset

            made = open_dataset(tuple(self._stored.values()), self._attrs, self._xy0, chunks)
            for name, array in self._arrays.items():
                made[name] = (PLANE_DIMS, array, self._attrs[name])
            self._dataset, self._arrays, self._attrs = made, {}, {}
        return self._dataset

    def __contains__(self, name: str) -> bool:
        return name in self._attrs if self._dataset is None else super().__contains__(name)

    def __getitem__(self, name: str) -> NDArray[Any]:
        if self._dataset is None and name in self._attrs and name not in self._arrays:
            ny, nx = self.shape
            self._arrays[name] = self.parts(name, [(range(ny), range(nx))])[0]
        return super().__getitem__(name)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns (ny, nx), known without reading pixels."""
        return self._stored["image"].stored.shape

    @property
    def pieces(self) -> tuple[int, int] | None:
        """Rows and columns of the least that is read at a time of all planes; None where these have been read."""
        if self._dataset is not None or {*self._stored} <= {*self._arrays}:
            return None
        tiles = [plane.stored.tile_shape or (1, plane.stored.shape[1]) for plane in self._stored.values()]
        return max(ty for ty, _ in tiles), max(tx for _, tx in tiles)

    def parts(self, name: str, parts: Sequence[Part]) -> list[NDArray[Any]]:
        """Copy rectangles of a plane, which are read unless all of it has been."""
        if self._dataset is not None or name in self._arrays:
            return super().parts(name, parts)
        if name in self._stored:
            return self._stored[name].read_all(parts)
        return [np.zeros((len(rows), len(columns)), PLANE_DTYPES[name]) for rows, columns in parts]

    def name_bits(self) -> None:
        """Name the bits of the mask that have no name, as they are named where a whole mask is read: it is read."""
        if not self._nameless or "mask" not in self._stored:
            return
        attrs = self.attrs("mask")
        bits = {int(value) & 0xFFFFFFFF: name for name, value in _names_of(attrs)}
        used = int(np.bitwise_or.reduce(self["mask"], axis=None)) & 0xFFFFFFFF
        bits = {1 << bit: nameless(bit) for bit in range(32) if used >> bit & 1} | bits
        self._nameless = False
        attrs |= plane_attrs({bits[value]: value.bit_length() - 1 for value in sorted(bits)}, "")["mask"]

    def with_arrays(self, arrays: Mapping[str, NDArray[Any]]) -> Planes:
        """Copy the planes with other arrays in place of some; the others are shared, or read later."""
        if self._dataset is not None:
            return super().with_arrays(arrays)
        made = StoredPlanes(self._stored, self._attrs, self._xy0, nameless_bits=self._nameless)
        made._arrays = {**self._arrays, **arrays}
        return made

    def cut(self, rows: slice, columns: slice) -> Planes:
        """Copy a part; nothing else is read."""
        if self._dataset is not None:
            return super().cut(rows, columns)
        (ny, nx), (x0, y0) = self.shape, self._xy0
        part = range(ny)[rows], range(nx)[columns]
        arrays = {name: self.parts(name, [part])[0] for name in self._attrs}
        return Planes(arrays, copy.deepcopy(self._attrs), (x0 + part[1].start, y0 + part[0].start))


def _names_of(attrs: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Names and values of the mask planes."""
    return zip(str(attrs["flag_meanings"]).split(), np.atleast_1d(attrs["flag_masks"]), strict=True)


def open_planes(
    planes: Mapping[str, StoredPlane],
    *,
    mask_planes: Mapping[str, int],
    units: str,
    xy0: tuple[int, int] = (0, 0),
    chunks: Chunks = None,
    nameless_bits: bool = False,
) -> Any:
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
    nameless_bits : bool
        Whether bits of the mask may be set that have no name.

    Returns
    -------
    StoredPlanes, or xarray.Dataset with chunks
        For an `Exposure`; Any to type checkers, as of `Planes.from_arrays`.

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
    attrs = plane_attrs(mask_planes, units)
    if chunks is None:
        return StoredPlanes(planes, attrs, xy0, nameless_bits=nameless_bits)
    from skygraft.formats.lazy_arrays import open_dataset

    return open_dataset(
        tuple(planes[name] for name in ("image", "mask", "variance") if name in planes), attrs, xy0, chunks
    )
