"""Shapes that catalogues give on the pixels, on the sky."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from skygraft.recovery.catalogs_files import Columns
from skygraft.recovery.catalogs_terms import ImageContext
from skygraft.wcs.local import local_jacobian

__all__ = ["sky_angle", "sky_moments", "sky_scale", "tractor_shape"]

Array = NDArray[np.float64]

_FWHM = 2.0 * np.sqrt(2.0 * np.log(2.0))


def _jacobian(context: ImageContext, place: Array) -> NDArray[np.float64]:
    good = np.isfinite(place).all(axis=0)
    out = np.full((place.shape[1], 2, 2), np.nan)
    if good.any():
        out[good] = local_jacobian(context.wcs, place[0, good], place[1, good])
    return out


def sky_scale(context: ImageContext, place: Array) -> Array:
    """Return the pixel scale at positions (2, N), arcsec per pixel."""
    jacobian = _jacobian(context, place)
    return np.asarray(np.sqrt(np.abs(np.linalg.det(jacobian))))


def sky_angle(context: ImageContext, place: Array, theta: Array) -> Array:
    """Return the position angle, degrees from north through east, of an angle from the x axis towards the y axis."""
    direction = np.stack([np.cos(np.radians(theta)), np.sin(np.radians(theta))], axis=-1)
    east, north = np.einsum("nij,nj->in", _jacobian(context, place), direction)
    return np.asarray(np.mod(np.degrees(np.arctan2(east, north)), 180.0))


def sky_moments(context: ImageContext, place: Array, xx: Array, yy: Array, xy: Array) -> dict[str, Array]:
    """Return FWHM, axis ratio and position angle on the sky of second moments in pixels.

    The FWHM is that of the Gaussian of these moments, as LSST's adaptive moments are measured with one.

    Parameters
    ----------
    context : ImageContext
    place : ndarray, shape (2, N)
        Parent pixels.
    xx, yy, xy : ndarray, shape (N,)
        Moments, square pixels.
    """
    moments = np.stack([np.stack([xx, xy], -1), np.stack([xy, yy], -1)], -2)
    jacobian = _jacobian(context, place)
    sky = np.einsum("nij,njk,nlk->nil", jacobian, moments, jacobian)
    e, n, en = sky[:, 0, 0], sky[:, 1, 1], sky[:, 0, 1]
    with np.errstate(invalid="ignore"):
        half, root = (e + n) / 2.0, np.sqrt(((n - e) / 2.0) ** 2 + en**2)
        large, small = half + root, half - root
        good = small > 0
        fwhm = np.where(good, _FWHM * (np.abs(large * small)) ** 0.25, np.nan)
        ratio = np.where(good, np.sqrt(np.abs(small / large)), np.nan)
    angle = np.where(good, np.mod(0.5 * np.degrees(np.arctan2(2.0 * en, n - e)), 180.0), np.nan)
    return {"fwhm": fwhm, "axis_ratio": ratio, "position_angle": angle}


def tractor_shape(columns: Columns, star: NDArray[np.bool_]) -> dict[str, Any]:
    """Return size, axis ratio and position angle by Tractor's columns; NaN for stars.

    See the description of the catalogues of the Legacy Surveys (DR9): e = e1 + i e2 is (a - b) / (a + b) with the
    angle 2 PA; `shape_r` is the half-light radius, that of the major axis.
    """
    if not all(name in columns for name in ("shape_r", "shape_e1", "shape_e2")):
        return {}
    e1, e2 = columns.floats("shape_e1", ""), columns.floats("shape_e2", "")
    size = np.hypot(e1, e2)
    ratio = np.where(star, np.nan, (1.0 - size) / (1.0 + size))
    radius = np.where(star, np.nan, columns.floats("shape_r", "arcsec"))
    angle = np.where(star, np.nan, np.mod(0.5 * np.degrees(np.arctan2(e2, e1)), 180.0))
    return {"size": radius * np.sqrt(ratio), "axis_ratio": ratio, "position_angle": angle}
