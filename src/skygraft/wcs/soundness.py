"""Checks of an image's WCS before sources are placed with it, for all formats."""

from __future__ import annotations

import os

import numpy as np
from astropy.wcs.wcsapi import BaseLowLevelWCS
from numpy.typing import NDArray

from skygraft.errors import WcsError, shown
from skygraft.wcs.local import BoxLike, local_jacobian

__all__ = ["check_pixel_scale", "check_wcs_soundness", "usable_jacobians"]

PIXEL_SCALES = (1e-6, 1e3)
"""Allowed pixel scales in arcsec, from interferometers to all-sky cameras."""
_MOST_ELONGATED = 100.0
"""Largest allowed ratio of the longer to the shorter axis of a pixel on the sky."""
_ROUND_TRIP = 0.5
"""Largest allowed error of a round trip from pixel to sky and back, in pixels."""
_FIX = "Repair the image's WCS, or leave this image out"


def check_pixel_scale(scale: float, path: str | os.PathLike[str] | None = None) -> None:
    """Check that a pixel scale is plausible.

    Parameters
    ----------
    scale : float
        Arcsec per pixel.
    path : path-like, optional
        The image, for errors.

    Raises
    ------
    WcsError
        If it is not within 1e-6..1000 arcsec per pixel.
    """
    if not PIXEL_SCALES[0] <= scale <= PIXEL_SCALES[1]:
        raise WcsError(
            f"the WCS makes pixels of {shown(scale)} arcsec; {PIXEL_SCALES[0]:g} to {PIXEL_SCALES[1]:g} are allowed",
            path=path,
            fix=_FIX,
        )


def usable_jacobians(jacobian: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which Jacobians, shape (N, 2, 2), arcsec per pixel, are plausible for an image; booleans, shape (N,).

    Parameters
    ----------
    jacobian : ndarray, shape (N, 2, 2)
        Arcsec per pixel; see `local_jacobian`.

    Returns
    -------
    ndarray of bool, shape (N,)
    """
    long, short = pixel_axes(jacobian)
    usable: NDArray[np.bool_] = (
        (short >= PIXEL_SCALES[0]) & (long <= PIXEL_SCALES[1]) & (long <= _MOST_ELONGATED * short)
    )
    return usable


def pixel_axes(jacobian: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the longest and shortest axis on the sky of circles one pixel across, each shape (N,), arcsec."""
    with np.errstate(all="ignore"):
        squares = (jacobian**2).sum(axis=(1, 2))
        area = np.abs(jacobian[:, 0, 0] * jacobian[:, 1, 1] - jacobian[:, 0, 1] * jacobian[:, 1, 0])
        long = 0.5 * (np.sqrt(squares + 2.0 * area) + np.sqrt(np.maximum(squares - 2.0 * area, 0.0)))
        return long, area / long


def check_wcs_soundness(wcs: BaseLowLevelWCS, box: BoxLike, path: str | os.PathLike[str] | None = None) -> None:
    """Check at nine positions that a WCS can place sources on an image.

    Parameters
    ----------
    wcs : BaseLowLevelWCS
        Parent pixels (x, y) to ICRS degrees.
    box : object with x_min, x_max, y_min, y_max
        The image's outer edges, parent pixels.
    path : path-like, optional
        The image, for errors.

    Raises
    ------
    WcsError
        If the middle of the image is not on the sky, or its round trip does not close; if pixels on the sky are
        implausibly small or large, or a hundred times longer than wide.
    """
    x = np.tile(np.linspace(box.x_min, box.x_max, 3), 3)
    y = np.repeat(np.linspace(box.y_min, box.y_max, 3), 3)
    middle = len(x) // 2
    jacobian = local_jacobian(wcs, x, y)
    if not np.isfinite(jacobian[middle]).all():
        raise WcsError(
            f"the middle of the image, pixel ({x[middle]:g}, {y[middle]:g}), is not on the sky", path=path, fix=_FIX
        )
    on_sky = np.isfinite(jacobian).all(axis=(1, 2))
    bad = np.flatnonzero(on_sky & ~usable_jacobians(jacobian))
    if bad.size:
        i = middle if middle in bad else int(bad[0])
        long, short = (float(axis[i]) for axis in pixel_axes(jacobian))
        raise WcsError(
            f"the WCS makes pixels of {long:.4g} by {short:.4g} arcsec at ({x[i]:g}, {y[i]:g}); "
            f"{PIXEL_SCALES[0]:g} to {PIXEL_SCALES[1]:g} arcsec are allowed, and a ratio of {_MOST_ELONGATED:g}",
            path=path,
            fix=_FIX,
        )
    back = np.array(
        wcs.world_to_pixel_values(*wcs.pixel_to_world_values(x[middle : middle + 1], y[middle : middle + 1]))
    )
    missed = float(np.hypot(back[0, 0] - x[middle], back[1, 0] - y[middle]))
    if not missed <= _ROUND_TRIP:
        raise WcsError(
            f"the WCS has no inverse at the middle of the image: pixel ({x[middle]:g}, {y[middle]:g}) comes back from "
            f"the sky at ({back[0, 0]:g}, {back[1, 0]:g})",
            path=path,
            fix=_FIX,
        )
