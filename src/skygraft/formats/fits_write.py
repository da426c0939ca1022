"""Write the planes of a FITS image: changed pixels with `rewrite_fits`, everything else copied."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from skygraft.disk import atomic_path
from skygraft.errors import FormatError
from skygraft.exposure import Exposure
from skygraft.fitsfile.cards import header_of
from skygraft.fitsfile.open import is_fits, map_fits, open_fits
from skygraft.fitsfile.packed import packing_of, packing_of_name
from skygraft.fitsfile.rewrite import atomic_output, rewrite_fits
from skygraft.formats.base import refuse_overwrite
from skygraft.formats.fits_fingerprints import find_touched
from skygraft.formats.fits_layout import FitsLayout, Plane
from skygraft.formats.fits_planes import header_planes, nameless, noise_from_variance, read_mask, read_pixels

__all__ = ["INJECTED_CARD", "copy_file", "write_mask", "write_planes", "write_variance"]

INJECTED_CARD = {"INJECTED": (True, "fake sources were added to this image")}
"""Card that is added to the header of a changed image."""


def copy_file(source: Path, target: Path, *, overwrite: bool = False) -> None:
    """Copy a file unchanged; the copy appears under its name only when it is complete.

    Parameters
    ----------
    source, target : Path
        The file and its copy.
    overwrite : bool
        Replace an output that exists.

    Raises
    ------
    OutputExistsError, OutputError
    """
    refuse_overwrite(target, [source], overwrite=overwrite)
    # Not through `atomic_output`, which compresses what is called .gz: this is compressed already.
    with atomic_path(target, make_folder=False) as temporary:
        shutil.copyfile(source, temporary)


def write_planes(
    exposure: Exposure,
    layout: FitsLayout,
    outputs: Mapping[Path, Path],
    *,
    new_masks: Mapping[Path, tuple[NDArray[np.int32], Mapping[str, int]]] | None = None,
    further: Mapping[int, NDArray[Any]] | None = None,
    overwrite: bool = False,
) -> tuple[Path, ...]:
    """Write all files of an image.

    Parameters
    ----------
    exposure : Exposure
        The planes to write.
    layout : FitsLayout
        Files and HDUs of the planes in the input.
    outputs : mapping of Path to Path
        Output file of each input file: all files of the layout, and others to copy.
    new_masks : mapping of Path to (ndarray, mapping), optional
        Additional mask files, with their bits and the bit values of their planes.
    further : mapping of int to ndarray, optional
        New pixels of further HDUs of the image's file, by number.
    overwrite : bool
        Replace outputs that exist.

    Returns
    -------
    tuple of Path
        The files written, the image first. It is written last, so that it exists only if all others do.

    Raises
    ------
    OutputExistsError, OutputError, FormatError
    """
    image = layout.image.path
    masks = new_masks or {}
    written = (*outputs.values(), *masks)
    for output in written:
        refuse_overwrite(output, outputs, overwrite=overwrite)
    new: dict[Path, dict[int, NDArray[Any]]] = {image: dict(further)} if further else {}
    touched: dict[Path, dict[int, NDArray[np.bool_]]] = {}
    cards: dict[Path, dict[int, dict[str, tuple[Any, str]]]] = {}
    for plane in layout.planes:
        tiles = find_touched(exposure, plane)
        if tiles is not None and not tiles.any():
            continue
        pixels, new_cards = _new_pixels(exposure, plane, known=tiles is not None)
        if pixels is not None:
            new.setdefault(plane.path, {})[plane.hdu] = pixels if plane.slab is None else _in_cube(pixels, plane)
            if tiles is not None and plane.slab is None and plane.role not in ("weight", "rms"):
                # A changed variance may leave a weight or rms plane unchanged, so these are compared themselves.
                touched.setdefault(plane.path, {})[plane.hdu] = tiles
        if new_cards:
            cards.setdefault(plane.path, {})[plane.hdu] = new_cards
    there = {output for output in written if output.exists()}
    finished: list[Path] = []
    try:
        for output, (mask, planes) in masks.items():
            write_mask(output, mask, planes, inputs=tuple(outputs), overwrite=overwrite)
            finished.append(output)
        for source in sorted(outputs, key=lambda path: path == image):
            if source in new or source in cards or _packed_otherwise(source, outputs[source]):
                images, changed = new.get(source, {}), touched.get(source)
                rewrite_fits(source, outputs[source], images, cards.get(source), overwrite, touched=changed)
            else:
                copy_file(source, outputs[source], overwrite=overwrite)
            finished.append(outputs[source])
    except BaseException:
        # A mask or weight left without its image would block the next attempt.
        for output in finished:
            if output not in there:
                with contextlib.suppress(OSError):
                    output.unlink(missing_ok=True)
        raise
    return written


def _in_cube(pixels: NDArray[Any], plane: Plane) -> NDArray[Any]:
    """The cube that a plane is of, with new pixels for the plane."""
    cube = read_pixels(dataclasses.replace(plane, slab=None))[0].copy()
    cube[plane.slab] = pixels
    return cube


def _packed_otherwise(source: Path, target: Path) -> bool:
    """Whether the output's name asks for another compression than the input has."""
    with source.open("rb") as stream:
        return packing_of(stream.read(6)) != packing_of_name(target) and is_fits(source)


def _new_pixels(
    exposure: Exposure, plane: Plane, *, known: bool
) -> tuple[NDArray[Any] | None, dict[str, tuple[Any, str]]]:
    """New pixels and header cards of one plane; (None, {}) if nothing changed.

    The file is read again unless the plane is `known` to have changed, and always for weight and rms planes.
    """
    if plane.role == "image":
        if not known and _same(exposure.image, _old(exposure, plane)):
            return None, {}
        return exposure.image, dict(INJECTED_CARD)
    if plane.role == "mask":
        if not known and _same(exposure.mask, _old(exposure, plane)):
            return None, {}
        return exposure.mask, mask_cards(_new_planes(exposure, plane))
    if exposure.variance is None:
        return None, {}
    if plane.role == "variance" and known:
        return exposure.variance, {}
    old = _old(exposure, plane)
    new = noise_from_variance(plane.role, exposure.variance, old)
    if plane.role == "weight":
        # A weight that rounds to zero would flag a bright pixel as bad.
        new = np.where(np.isfinite(exposure.variance) & (new != old) & (new > 0), np.maximum(new, _step(plane)), new)
    return (None, {}) if _same(new, old) else (new, {})


def _old(exposure: Exposure, plane: Plane) -> NDArray[Any]:
    old: NDArray[Any] = read_mask(plane)[0] if plane.role == "mask" else read_pixels(plane)[0]
    if old.shape != exposure.shape:
        raise FormatError(
            f"the exposure has shape {exposure.shape}, the file to follow {old.shape}",
            path=plane.path,
            hdu=plane.hdu,
            fix="Give the file that the exposure was read from as like=",
        )
    return old


def _same(new: NDArray[Any], old: NDArray[Any]) -> bool:
    return np.array_equal(new, old.astype(new.dtype, copy=False), equal_nan=new.dtype.kind == "f")


def _new_planes(exposure: Exposure, plane: Plane) -> dict[str, int]:
    """Mask planes with bits set that the mask's header does not name, except unnamed ones (``BIT<n>``)."""
    with map_fits(plane.path) as raw:
        known = header_planes(header_of(raw.header_cards(plane.hdu)))
    used = int(np.bitwise_or.reduce(exposure.mask, axis=None))
    return {
        name: value
        for name, value in exposure.mask_planes.items()
        if used & value and name not in known and name != nameless((value & 0xFFFFFFFF).bit_length() - 1)
    }


def _step(plane: Plane) -> np.float32:
    """Largest step between two values that a stored plane can represent; 0 if it stores floats."""
    with open_fits(plane.path, decompress=False) as hdus:
        hdu = hdus[plane.hdu]
        header = hdu.header
        if header.get("ZIMAGE", False):
            if "ZSCALE" in (hdu.columns.names if hdu.columns is not None else ()):
                scales = np.asarray(hdu.data["ZSCALE"], dtype=np.float64)
                return np.float32(np.max(scales[np.isfinite(scales)], initial=0.0))
            return np.float32(header.get("ZSCALE", 0.0))
        return np.float32(header.get("BSCALE", 1.0) if header["BITPIX"] > 0 else 0.0)


def mask_cards(planes: Mapping[str, int]) -> dict[str, tuple[Any, str]]:
    """Return ``MP_<NAME>`` cards (bit numbers) for mask planes given by their bit values."""
    return {
        f"MP_{name}": ((int(value) & 0xFFFFFFFF).bit_length() - 1, "bit of this mask plane")
        for name, value in planes.items()
    }


def write_mask(
    path: Path,
    mask: NDArray[np.int32],
    planes: Mapping[str, int],
    *,
    inputs: tuple[str | os.PathLike[str], ...] = (),
    overwrite: bool = False,
    name: str = "MASK",
) -> None:
    """Write a new mask file: a losslessly compressed bit mask in HDU 1, with an ``MP_<NAME>`` card for each plane.

    Parameters
    ----------
    path : Path
        The file to write.
    mask : ndarray of int32, shape (ny, nx)
        Bits.
    planes : mapping of str to int
        Plane names and bit values.
    inputs : tuple of path-like
        Files that are never overwritten.
    overwrite : bool
        Replace an output that exists.
    name : str
        EXTNAME.

    Raises
    ------
    OutputExistsError, OutputError
    """
    hdu = fits.CompImageHDU(mask, name=name, compression_type="RICE_1")
    for key, (value, comment) in mask_cards(planes).items():
        hdu.header[f"HIERARCH {key}" if len(key) > 8 else key] = (value, comment)
    buffer = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(buffer)
    with atomic_output(path, inputs=inputs, overwrite=overwrite) as stream:
        stream.write(buffer.getbuffer())


def write_variance(
    path: Path,
    variance: NDArray[np.float32],
    *,
    inputs: tuple[str | os.PathLike[str], ...] = (),
    overwrite: bool = False,
) -> None:
    """Write a new variance file, losslessly compressed in HDU 1, for images whose file has no place for one.

    Parameters
    ----------
    path : Path
        The file to write.
    variance : ndarray of float32, shape (ny, nx)
        Variances.
    inputs : tuple of path-like
        Files that are never overwritten.
    overwrite : bool
        Replace an output that exists.

    Raises
    ------
    OutputExistsError, OutputError
    """
    hdu = fits.CompImageHDU(variance, name="VARIANCE", compression_type="GZIP_2", quantize_level=0)
    buffer = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(buffer)
    with atomic_output(path, inputs=inputs, overwrite=overwrite) as stream:
        stream.write(buffer.getbuffer())
