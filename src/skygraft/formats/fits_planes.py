"""Read planes of ordinary FITS images; convert noise planes to variance and back; find the names of mask planes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from skygraft.errors import ConfigError, CorruptFileError, FormatError
from skygraft.fitsfile.cards import header_of
from skygraft.fitsfile.open import map_fits, open_fits
from skygraft.fitsfile.pixels import PixelScaling
from skygraft.fitsfile.tiles import TiledImage
from skygraft.formats.fits_layout import HduInfo, Plane, list_hdus

__all__ = [
    "as_bits",
    "header_planes",
    "mask_planes_of",
    "nameless",
    "noise_from_variance",
    "read_mask",
    "read_pixels",
    "variance_from_noise",
]

_MAX_PLANES = 31


def read_pixels(plane: Plane) -> tuple[NDArray[Any], fits.Header]:
    """Return the pixels of one plane in native byte order, and its header, which is cached and must not be changed.

    Raises
    ------
    CorruptFileError, FormatError
    """
    info = list_hdus(plane.path)[plane.hdu]
    if info.shape is None:
        raise FormatError(f"the {plane.role} has no pixels", path=plane.path, hdu=plane.hdu)
    data = _read_unscaled(plane, info)
    if data is None:
        with open_fits(plane.path, memmap=False) as hdus:
            data = hdus[plane.hdu].data.reshape(info.shape)
    if plane.slab is not None:
        data = data[plane.slab]
    return np.ascontiguousarray(data, dtype=data.dtype.newbyteorder("=")), info.header


def _read_unscaled(plane: Plane, info: HduInfo) -> NDArray[Any] | None:
    """Pixels of an unscaled image, many times faster than with astropy; None if stored numbers are scaled."""
    if info.header.get("GROUPS", False):
        return None
    with map_fits(plane.path) as raw:
        span = raw.spans[plane.hdu]
        data = raw.buffer[span.data_start : span.data_start + span.data_size]
        header = header_of(raw.header_cards(plane.hdu)) if info.tile_shape else info.header
        where: dict[str, Any] = {"path": plane.path, "hdu": plane.hdu}
        scaling = PixelScaling.from_header(header, "ZBITPIX" if info.tile_shape else "BITPIX", **where)
        scaled = not scaling.trivial or scaling.blank is not None
        if info.tile_shape:
            tiled = TiledImage(header, data, **where)
            if scaled:
                # astropy reads this image, but does not notice damaged tiles.
                tiled.check()
                return None
            return tiled.decode().reshape(info.shape)
        if scaled:
            return None
        if len(data) != math.prod(info.shape or ()) * scaling.dtype.itemsize:
            raise CorruptFileError(
                f"the {plane.role} has {len(data)} bytes of data, not those of an image of shape {info.shape}",
                path=plane.path,
                hdu=plane.hdu,
                fix="Copy or download the file again",
            )
        return scaling.decode(np.frombuffer(data, scaling.dtype).reshape(info.shape), scaling.dtype.newbyteorder("="))


def variance_from_noise(role: str, noise: NDArray[Any]) -> NDArray[np.float32]:
    """Convert a variance, inverse-variance ("weight") or standard-deviation ("rms") plane to variance.

    Pixels whose weight is zero, negative or NaN get an infinite variance.

    Parameters
    ----------
    role : {"variance", "weight", "rms"}
        Kind of the noise plane.
    noise : ndarray

    Returns
    -------
    ndarray of float32
    """
    noise = np.asarray(noise, dtype=np.float32)
    if role == "variance":
        return noise
    if role == "rms":
        return np.square(noise)
    variance = np.full(noise.shape, np.inf, dtype=np.float32)
    # The reciprocal of a subnormal weight overflows to infinity, as intended.
    with np.errstate(over="ignore"):
        np.divide(np.float32(1), noise, out=variance, where=noise > 0)
    return variance


def noise_from_variance(role: str, variance: NDArray[np.float32], noise: NDArray[Any]) -> NDArray[np.float32]:
    """Convert a changed variance back to the noise plane that it was read from.

    Parameters
    ----------
    role : {"variance", "weight", "rms"}
        Kind of the noise plane.
    variance : ndarray
        The changed variance.
    noise : ndarray
        The noise plane as it was read.

    Returns
    -------
    ndarray of float32
        Unchanged pixels keep their value in `noise`.
    """
    if role == "variance":
        return variance
    old = variance_from_noise(role, noise)
    changed = (variance != old) & ~(np.isnan(variance) & np.isnan(old))
    new = np.array(noise, dtype=np.float32)
    if role == "rms":
        new[changed] = np.sqrt(variance[changed])
    else:
        with np.errstate(divide="ignore"):
            new[changed] = np.where(variance[changed] > 0, np.float32(1) / variance[changed], 0)
    return new


def read_mask(plane: Plane, named: Mapping[str, int] | None = None) -> tuple[NDArray[np.int32], dict[str, int]]:
    """Read a bit mask and the names of its planes.

    Names are given by the caller (`named`) or by the header (``MP_<NAME>`` cards with bit numbers, as written by the
    LSST pipelines; ``MSKNnnnn``/``MSKMnnnn`` cards with names and bit values). Unnamed bits that are set are called
    ``BIT<n>``.

    Parameters
    ----------
    plane : Plane
        The mask.
    named : mapping of str to int, optional
        Bit numbers of mask planes.

    Returns
    -------
    mask : ndarray of int32
    planes : dict of str to int
        Bit number of each plane.

    Raises
    ------
    FormatError
        If the values are not integers of at most 32 bits.
    """
    data, header = read_pixels(plane)
    mask = as_bits(data, plane)
    return mask, mask_planes_of(mask, header, named)


def as_bits(data: NDArray[Any], plane: Plane) -> NDArray[np.int32]:
    """Convert the pixels of a mask, or of a part of it, to bits.

    Raises
    ------
    FormatError
        If the values are not integers of at most 32 bits.
    """
    if data.dtype.kind == "f":
        # Some tools write masks as floats.
        if not np.array_equal(data, np.rint(data)) or np.abs(data).max(initial=0) >= 2.0**31:
            raise FormatError(
                "the mask holds numbers that are not whole: it is not a bit mask",
                path=plane.path,
                hdu=plane.hdu,
                fix="Give another mask=, or mask=False for none",
            )
        data = data.astype(np.int64)
    if data.dtype.kind == "b":
        data = data.astype(np.int32)
    if data.dtype == np.int32:
        return data
    if data.size and (int(data.max()) >= 2**32 or int(data.min()) < -(2**31)):
        raise FormatError(
            f"the mask has values up to {int(data.max())}; at most 32 bits are supported",
            path=plane.path,
            hdu=plane.hdu,
            fix="Give another mask=, or mask=False for none",
        )
    return data.astype(np.int64).astype(np.uint32).view(np.int32)


def mask_planes_of(
    mask: NDArray[np.int32], header: Mapping[str, Any], named: Mapping[str, int] | None = None
) -> dict[str, int]:
    """Return the bit number of each plane of a mask; see `read_mask`.

    Parameters
    ----------
    mask : ndarray of int32
    header : mapping
        Its header.
    named : mapping of str to int, optional
        Bit numbers given by the caller.

    Raises
    ------
    ConfigError
        If `named` contains an invalid bit number, or two names for one bit.
    """
    planes: dict[str, int] = {}
    for name, bit in (named or {}).items():
        if isinstance(bit, bool) or not isinstance(bit, int) or not 0 <= bit < _MAX_PLANES:
            raise ConfigError(
                f"mask plane {name!r} has bit {bit!r}; bit numbers are 0 to {_MAX_PLANES - 1}", key="mask_planes"
            )
        if bit in planes.values():
            raise ConfigError(f"bit {bit} has two names in mask_planes", key="mask_planes")
        planes[name.replace(" ", "_")] = bit
    for name, bit in header_planes(header).items():
        if name not in planes and bit not in planes.values():
            planes[name] = bit
    used = int(np.bitwise_or.reduce(mask, axis=None)) & 0xFFFFFFFF if mask.size else 0
    for bit in range(32):
        if used >> bit & 1 and bit not in planes.values():
            planes[nameless(bit)] = bit
    return dict(sorted(planes.items(), key=lambda item: item[1]))


def nameless(bit: int) -> str:
    """Return the name of an unnamed bit."""
    return f"BIT{bit}"


def header_planes(header: Mapping[str, Any]) -> dict[str, int]:
    """Return the mask planes and bit numbers in a header."""
    found: dict[str, int] = {}
    # Only these cards are parsed: others may be invalid.
    for key in [key for key in header if key.startswith(("MP_", "MSKN"))]:
        value = header[key]
        if key.startswith("MP_") and isinstance(value, int) and 0 <= value < 32:
            name, bit = key.removeprefix("MP_"), value
        elif key.startswith("MSKN") and isinstance(value, str):
            bits = header.get(f"MSKM{key.removeprefix('MSKN')}")
            if not (isinstance(bits, int) and bits > 0 and bits & (bits - 1) == 0):
                continue
            name, bit = value, bits.bit_length() - 1
        else:
            continue
        # Names are written with spaces between them.
        if word := "_".join(name.split()):
            found[word] = bit
    return found
