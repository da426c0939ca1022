"""The planes of an exposure: pixels of image, variance and mask, with their units and the names of the mask's bits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from skygraft.errors import FormatError

__all__ = ["add_mask_plane", "make_planes", "mask_bit", "plane_attrs"]

PLANE_DIMS = ("y", "x")


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
    attrs = plane_attrs(mask_planes or {}, units)
    x0, y0 = xy0
    return xr.Dataset(
        {name: (PLANE_DIMS, array, attrs[name]) for name, array in arrays.items()},
        coords={"y": np.arange(y0, y0 + ny), "x": np.arange(x0, x0 + nx)},
    )


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


def mask_bit(planes: xr.Dataset, name: str) -> int | None:
    """Look up the bit number of a mask plane.

    Parameters
    ----------
    planes : xarray.Dataset
        As `make_planes` makes them.
    name : str
        Of the mask plane.

    Returns
    -------
    int or None
        None where the image does not have it.
    """
    attrs = planes["mask"].attrs
    names = str(attrs.get("flag_meanings", "")).split()
    if name not in names:
        return None
    return (int(attrs["flag_masks"][names.index(name)]) & 0xFFFFFFFF).bit_length() - 1


def add_mask_plane(planes: xr.Dataset, name: str) -> int:
    """Add a mask plane, at the lowest free bit, unless the image has it already.

    Parameters
    ----------
    planes : xarray.Dataset
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
    attrs = planes["mask"].attrs
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
