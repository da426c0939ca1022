"""Which pixels of an image a position and a size, a box or slices mean."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any, Literal

import astropy.units as u
import numpy as np
from astropy.coordinates import SkyCoord
from astropy.wcs.wcsapi import BaseLowLevelWCS

from skygraft.errors import ConfigError
from skygraft.psf.base import Box
from skygraft.wcs.local import pixel_scale

__all__ = ["on_the_image", "pixels_around", "pixels_of_box", "pixels_of_slices"]

type Ranges = tuple[range, range]
"""Rows and columns, as indices of parent pixels."""


def pixels_of_slices(whole: Ranges, slices: Any) -> Ranges:
    """Read what stands in the brackets of ``exposure[y0:y1, x0:x1]``.

    Parameters
    ----------
    whole : (range, range)
        Rows and columns of the image, in parent pixels.
    slices : (slice, slice)
        Rows and columns, first and one past the last, as indices of parent pixels; an end that is left out is the
        image's own.

    Returns
    -------
    rows, columns : range

    Raises
    ------
    ConfigError
        If these are not two slices of step 1, or not all of the pixels are on the image.
    """
    if not (isinstance(slices, tuple) and len(slices) == 2 and all(isinstance(s, slice) for s in slices)):
        raise ConfigError(
            f"an exposure is cut by two slices, rows and columns, not by [{slices!r}]",
            key="slices",
            fix="Write exposure[y0:y1, x0:x1], in parent pixels; the planes are in exposure.planes",
        )
    return _range(slices[0], whole[0], "y"), _range(slices[1], whole[1], "x")


def _range(given: slice, whole: range, axis: str) -> range:
    try:
        start, stop = (
            end if own is None else operator.index(own)
            for own, end in ((given.start, whole.start), (given.stop, whole.stop))
        )
        step = 1 if given.step is None else operator.index(given.step)
    except TypeError:
        raise ConfigError(f"the slice of {axis} has ends that are not whole numbers: {given}", key=axis) from None
    if step != 1 or not whole.start <= start < stop <= whole.stop:
        raise ConfigError(
            f"the slice {start}:{stop}{'' if step == 1 else f':{step}'} of {axis} is not part of the image, whose "
            f"{axis} is {whole.start} to {whole.stop - 1} in parent pixels",
            key=axis,
            fix="Give the first pixel and one past the last, as indices of parent pixels (not counted from the image's "
            "corner, nor from its end)",
        )
    return range(start, stop)


def pixels_of_box(box: Box) -> Ranges:
    """Find the pixels whose centres a box holds.

    Parameters
    ----------
    box : Box
        Outer edges in parent pixels.

    Returns
    -------
    rows, columns : range
    """
    return (
        range(math.ceil(box.y_min), math.floor(box.y_max) + 1),
        range(math.ceil(box.x_min), math.floor(box.x_max) + 1),
    )


def pixels_around(wcs: BaseLowLevelWCS, position: Any, size: Any) -> Ranges:
    """Find the pixels of a rectangle around a position.

    Parameters
    ----------
    wcs : BaseLowLevelWCS
        Parent pixels to sky.
    position : SkyCoord or (float, float)
        The middle, on the sky or as (x, y) in parent pixels.
    size : int, Quantity or a pair of these
        Height and width (ny, nx), in pixels or as angles; one number for a square.

    Returns
    -------
    rows, columns : range
        As `astropy.nddata.Cutout2D` takes them: a rectangle of an odd size has the position's pixel in its middle.

    Raises
    ------
    ConfigError
        If position or size cannot be read, or the position is not on the pixel plane.
    """
    if isinstance(position, SkyCoord):
        sky = position.icrs
        place = wcs.world_to_pixel_values(sky.ra.deg, sky.dec.deg)
    else:
        place = position
    try:
        x, y = (float(value) for value in place)
    except (TypeError, ValueError):
        x = y = math.nan
    if not (math.isfinite(x) and math.isfinite(y)):
        raise ConfigError(
            f"the position {position!r} is not one place on the image's pixel plane",
            key="position",
            fix="Give one SkyCoord, (x, y) in parent pixels, or a skygraft.psf.Box",
        )
    ny, nx = _sizes(wcs, size, x, y)
    top, left = math.ceil(y - ny / 2), math.ceil(x - nx / 2)
    return range(top, top + ny), range(left, left + nx)


def _sizes(wcs: BaseLowLevelWCS, size: Any, x: float, y: float) -> tuple[int, int]:
    pair = size if isinstance(size, Sequence) or np.ndim(size) == 1 else (size, size)
    sizes = [_pixels(one, wcs, x, y) for one in pair]
    if len(sizes) != 2 or min(sizes) < 1:
        raise ConfigError(
            f"the size {size!r} of a cut-out is not a positive number of pixels, an angle, or two of these (ny, nx)",
            key="size",
            fix="Give, for example, 51, (51, 101) or 10 * u.arcsec",
        )
    return sizes[0], sizes[1]


def _pixels(size: Any, wcs: BaseLowLevelWCS, x: float, y: float) -> int:
    """A length in whole pixels; zero for what is no such length."""
    if isinstance(size, u.Quantity) and size.isscalar and np.isfinite(size):
        if size.unit.is_equivalent(u.pix):
            return round(float(size.to_value(u.pix)))
        if size.unit.is_equivalent(u.arcsec):
            return round(float(size.to_value(u.arcsec)) / float(pixel_scale(wcs, x, y)[0]))
    whole = isinstance(size, int | np.integer) and not isinstance(size, bool)
    return int(size) if whole else 0


def on_the_image(whole: Ranges, ranges: Ranges, mode: Literal["trim", "strict"]) -> Ranges:
    """Trim rows and columns to an image.

    Parameters
    ----------
    whole : (range, range)
        Rows and columns of the image, in parent pixels.
    ranges : (range, range)
        Rows and columns in parent pixels.
    mode : {"trim", "strict"}
        Whether pixels off the image are left out, or are an error.

    Returns
    -------
    rows, columns : range

    Raises
    ------
    ConfigError
        If no pixel is left, or `mode` is ``"strict"`` and one is off the image.
    """
    if mode not in ("trim", "strict"):
        raise ConfigError(f"mode is {mode!r}; 'trim' or 'strict' is needed", key="mode")
    parts = [
        range(max(one.start, all_.start), min(one.stop, all_.stop)) for one, all_ in zip(ranges, whole, strict=True)
    ]
    if not all(parts) or (mode == "strict" and tuple(parts) != tuple(ranges)):
        (rows, columns), (all_rows, all_columns) = ranges, whole
        raise ConfigError(
            f"the cut-out, x {columns.start} to {columns.stop - 1} and y {rows.start} to {rows.stop - 1}, "
            f"is {'not wholly' if all(parts) else 'not'} on the image, "
            f"x {all_columns.start} to {all_columns.stop - 1} and y {all_rows.start} to {all_rows.stop - 1} in parent "
            "pixels",
            key="position",
            fix="Give a position on the image" + (", or mode='trim'" if all(parts) else ""),
        )
    return parts[0], parts[1]
