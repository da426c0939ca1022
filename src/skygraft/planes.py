"""The planes of an exposure: pixels of image, variance and mask, with their units and the names of the mask's bits."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from skygraft.errors import FormatError

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Part", "Planes", "add_mask_plane", "make_planes", "mask_bit", "plane_attrs"]

PLANE_DIMS = ("y", "x")

type Part = tuple[range, range]
"""Rows and columns of a rectangle, counted from the first pixel of the arrays."""


class Planes:
    """The planes of an exposure as plain arrays, until somebody asks for them as an `xarray.Dataset`.

    Importing xarray takes longer than many a command. Once a Dataset has been made it is what holds, whatever is done
    to it.

    Parameters
    ----------
    arrays : mapping of str to ndarray
        ``image``, ``mask``, and ``variance`` if there is one.
    attrs : mapping of str to dict
        Of each plane.
    xy0 : (int, int)
        Parent coordinates of the first pixel.
    """

    def __init__(
        self, arrays: Mapping[str, NDArray[Any]], attrs: Mapping[str, dict[str, Any]], xy0: tuple[int, int]
    ) -> None:
        self._arrays, self._attrs, self._xy0 = dict(arrays), {name: dict(attrs[name]) for name in arrays}, xy0
        self._dataset: xr.Dataset | None = None

    @classmethod
    def of(cls, planes: xr.Dataset | Planes) -> Planes:
        """Return the planes of a Dataset, or those given."""
        if isinstance(planes, Planes):
            return planes
        made = cls({}, {}, (0, 0))
        made._dataset = planes
        return made

    @classmethod
    def from_arrays(
        cls,
        image: NDArray[Any],
        variance: NDArray[Any] | None = None,
        mask: NDArray[Any] | None = None,
        *,
        mask_planes: Mapping[str, int] | None = None,
        xy0: tuple[int, int] = (0, 0),
        units: str = "adu",
    ) -> Any:
        """Put arrays together for an `Exposure`: see `make_planes`.

        Returns
        -------
        Planes
            Any to type checkers: an `Exposure` takes it for the Dataset that it makes of it later.
        """
        image = np.asarray(image, dtype=np.float32)
        if image.ndim != 2:
            raise FormatError(f"the image has {image.ndim} dimensions; a two-dimensional image is needed")
        ny, nx = image.shape
        mask = np.zeros((ny, nx), dtype=np.int32) if mask is None else np.asarray(mask, dtype=np.int32)
        arrays: dict[str, NDArray[Any]] = {"image": image, "mask": mask}
        if variance is not None:
            arrays["variance"] = np.asarray(variance, dtype=np.float32)
        for name, array in arrays.items():
            if array.shape != image.shape:
                raise FormatError(f"the {name} plane has shape {array.shape}, the image {image.shape}")
        return cls(arrays, plane_attrs(mask_planes or {}, units), xy0)

    def dataset(self) -> xr.Dataset:
        """Return the Dataset, made when first asked for."""
        if self._dataset is None:
            import xarray as xr

            (x0, y0), (ny, nx) = self._xy0, self._arrays["image"].shape
            self._dataset = xr.Dataset(
                {name: (PLANE_DIMS, array, self._attrs[name]) for name, array in self._arrays.items()},
                coords={"y": np.arange(y0, y0 + ny), "x": np.arange(x0, x0 + nx)},
            )
            self._arrays, self._attrs = {}, {}
        return self._dataset

    def __contains__(self, name: str) -> bool:
        return name in (self._arrays if self._dataset is None else self._dataset)

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self._arrays[name] if self._dataset is None else self._dataset[name].values

    def get(self, name: str) -> Any:
        """Return the array of a plane; None where there is none."""
        return self[name] if name in self else None  # noqa: SIM401 - this is the method itself

    def attrs(self, name: str) -> dict[str, Any]:
        """Return the attributes of a plane, which can be changed."""
        return self._attrs[name] if self._dataset is None else self._dataset[name].attrs

    @property
    def units(self) -> str:
        """Unit of the image; empty if it is not known."""
        return str(self.attrs("image").get("units", ""))

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns (ny, nx), known without reading pixels."""
        ny, nx = (self._arrays if self._dataset is None else self._dataset)["image"].shape
        return ny, nx

    @property
    def xy0(self) -> tuple[int, int]:
        """Parent coordinates (x, y) of the first pixel."""
        if self._dataset is None:
            return self._xy0
        return int(self._dataset["x"].values[0]), int(self._dataset["y"].values[0])

    @property
    def pieces(self) -> tuple[int, int] | None:
        """Rows and columns of the least that is read at a time; None for planes in memory."""
        return None

    def parts(self, name: str, parts: Sequence[Part]) -> list[NDArray[Any]]:
        """Copy rectangles of a plane."""
        whole = self[name]
        return [whole[rows.start : rows.stop, columns.start : columns.stop].copy() for rows, columns in parts]

    def name_bits(self) -> None:
        """Name the bits of the mask that have no name; formats do that when they read a mask."""

    def with_arrays(self, arrays: Mapping[str, NDArray[Any]]) -> Planes:
        """Copy the planes with other arrays in place of some, with attributes of their own; the others are shared.

        Parameters
        ----------
        arrays : mapping of str to ndarray
            New arrays of planes that there are.
        """
        if self._dataset is None:
            return Planes({**self._arrays, **arrays}, self._attrs, self._xy0)
        dataset = self._dataset.copy(deep=False)
        for name, array in arrays.items():
            dataset[name] = (dataset[name].dims, array, dict(dataset[name].attrs))
        return Planes.of(dataset)

    def cut(self, rows: slice, columns: slice) -> Planes:
        """Copy a part.

        Parameters
        ----------
        rows, columns : slice
            Indices into the arrays, from 0 on.
        """
        if self._dataset is not None:
            return Planes.of(self._dataset.isel(y=rows, x=columns).copy(deep=True).load())
        x0, y0 = self._xy0
        arrays = {name: array[rows, columns].copy() for name, array in self._arrays.items()}
        return Planes(arrays, copy.deepcopy(self._attrs), (x0 + columns.start, y0 + rows.start))


def make_planes(
    image: NDArray[Any],
    variance: NDArray[Any] | None = None,
    mask: NDArray[Any] | None = None,
    *,
    mask_planes: Mapping[str, int] | None = None,
    xy0: tuple[int, int] = (0, 0),
    units: str = "adu",
) -> xr.Dataset:
    """Put arrays into the Dataset that an `Exposure` holds; arrays of the right type are not copied.

    Parameters
    ----------
    image, variance : ndarray, shape (ny, nx)
        Image, in `units`, and variance, in `units` squared.
    mask : ndarray of int, shape (ny, nx), optional
        Bits; zeros when absent.
    mask_planes : mapping of str to int
        Name of each plane to its *bit number*.
    xy0 : (int, int)
        Parent coordinates of the first pixel.
    units : str
        Unit of the image.

    Returns
    -------
    xarray.Dataset

    Raises
    ------
    FormatError
        If the shapes differ or the image is not two-dimensional.
    """
    planes: Planes = Planes.from_arrays(image, variance, mask, mask_planes=mask_planes, xy0=xy0, units=units)
    return planes.dataset()


def plane_attrs(mask_planes: Mapping[str, int], units: str) -> dict[str, dict[str, Any]]:
    """Return the attributes of the planes by name: units, and the names of the mask's bits.

    Parameters
    ----------
    mask_planes : mapping of str to int
        Name of each plane to its *bit number*.
    units : str
        Unit of the image.
    """
    return {
        "image": {"units": units},
        "variance": {"units": f"({units})**2"},
        "mask": {
            "flag_masks": np.array([1 << bit for bit in mask_planes.values()], dtype=np.int64).astype(np.int32),
            "flag_meanings": " ".join(mask_planes),
        },
    }


def mask_bit(planes: xr.Dataset | Planes, name: str) -> int | None:
    """Look up the bit number of a mask plane.

    Parameters
    ----------
    planes : xarray.Dataset or Planes
        As `make_planes` makes them.
    name : str
        Of the mask plane.

    Returns
    -------
    int or None
        None where the image does not have it.
    """
    attrs = Planes.of(planes).attrs("mask")
    names = str(attrs.get("flag_meanings", "")).split()
    if name not in names:
        return None
    return (int(attrs["flag_masks"][names.index(name)]) & 0xFFFFFFFF).bit_length() - 1


def add_mask_plane(planes: xr.Dataset | Planes, name: str) -> int:
    """Add a mask plane, at the lowest free bit, unless the image has it already.

    Parameters
    ----------
    planes : xarray.Dataset or Planes
        As `make_planes` makes them; the attributes of its mask are changed.
    name : str
        Of the mask plane.

    Returns
    -------
    int
        Its bit number.

    Raises
    ------
    FormatError
        If all 31 bits are taken.
    """
    bit = mask_bit(planes, name)
    if bit is not None:
        return bit
    attrs = Planes.of(planes).attrs("mask")
    taken = [int(v) for v in np.atleast_1d(attrs.get("flag_masks", []))]
    free = [b for b in range(31) if (1 << b) not in taken]
    if not free:
        raise FormatError(
            f"no free bit for mask plane {name!r}: all 31 are taken",
            fix="Remove a mask plane from the image, or inject with mark_injected=False",
        )
    attrs["flag_masks"] = np.array([*taken, 1 << free[0]], dtype=np.int32)
    attrs["flag_meanings"] = " ".join([*str(attrs.get("flag_meanings", "")).split(), name])
    return free[0]
