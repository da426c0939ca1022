"""Adaptive second moments of sources, and shapes on the sky from them.

The weight is an elliptical Gaussian that is made to have the moments of the source (Bernstein & Jarvis 2002, AJ 123,
583; Hirata & Seljak 2003, MNRAS 343, 459). For a Gaussian source they are its own moments, whatever the weight.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from skygraft.jit import compiled

__all__ = ["adaptive_moments", "sky_shapes"]

_MOST_STEPS = 50
_CLOSE = 1e-5
_LARGEST_HALF = 100
_SIGMAS = 4.5
_LEAST = 0.05
"""Pixels squared, of either axis: smaller moments are those of a single pixel."""


def adaptive_moments(
    pixels: NDArray[np.float32],
    bad: NDArray[np.bool_],
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    first: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Measure the adaptive second moments of sources.

    Parameters
    ----------
    pixels : ndarray of float32, shape (ny, nx)
        The image less its background.
    bad : ndarray of bool, shape (ny, nx)
        Pixels that are left out.
    x, y : ndarray, shape (N,)
        Centres, as indices of the array.
    first : ndarray, shape (N, 3)
        Moments xx, xy, yy to begin with, pixels squared.

    Returns
    -------
    ndarray of float64, shape (N, 3)
        Moments xx, xy, yy, pixels squared; NaN where they are not found.
    """
    found = np.full((len(x), 3), np.nan)
    if len(x):
        _adapt(pixels, bad, x, y, np.ascontiguousarray(first, dtype=np.float64), found)
    return found


@compiled(reads=("pixels", "bad", "x", "y", "first"))
def _adapt(
    pixels: NDArray[np.float32],
    bad: NDArray[np.bool_],
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    first: NDArray[np.float64],
    found: NDArray[np.float64],
) -> None:  # pragma: no cover - compiled
    ny, nx = pixels.shape
    for s in range(x.size):
        xx, xy, yy = max(first[s, 0], 0.5), first[s, 1], max(first[s, 2], 0.5)
        if not (xx * yy - xy * xy > 0.0 and np.isfinite(x[s]) and np.isfinite(y[s])):
            xy = 0.0
        if not (np.isfinite(xx + yy + xy) and np.isfinite(x[s]) and np.isfinite(y[s])):
            continue
        for _ in range(_MOST_STEPS):
            # The inverse of the weight's moments.
            det = xx * yy - xy * xy
            ixx, ixy, iyy = yy / det, -xy / det, xx / det
            half_x, half_y = _SIGMAS * np.sqrt(xx), _SIGMAS * np.sqrt(yy)
            if max(half_x, half_y) > _LARGEST_HALF:
                break
            flux = sxx = sxy = syy = 0.0
            for j in range(max(0, int(np.ceil(y[s] - half_y))), min(ny - 1, int(np.floor(y[s] + half_y))) + 1):
                dy = j - y[s]
                for i in range(max(0, int(np.ceil(x[s] - half_x))), min(nx - 1, int(np.floor(x[s] + half_x))) + 1):
                    dx = i - x[s]
                    exponent = ixx * dx * dx + 2.0 * ixy * dx * dy + iyy * dy * dy
                    if exponent > _SIGMAS * _SIGMAS or bad[j, i]:
                        continue
                    value = np.exp(-0.5 * exponent) * pixels[j, i]
                    flux += value
                    sxx += value * dx * dx
                    sxy += value * dx * dy
                    syy += value * dy * dy
            if not flux > 0.0:
                break
            sxx, sxy, syy = sxx / flux, sxy / flux, syy / flux
            weighted = sxx * syy - sxy * sxy
            if not (weighted > 0.0 and sxx > 0.0):
                break
            # Of a Gaussian, the inverse of the weighted moments is that of its own plus that of the weight's.
            jxx, jxy, jyy = syy / weighted - ixx, -sxy / weighted - ixy, sxx / weighted - iyy
            inverse = jxx * jyy - jxy * jxy
            if not (inverse > 0.0 and jxx > 0.0):
                break
            new_xx, new_xy, new_yy = jyy / inverse, -jxy / inverse, jxx / inverse
            if not (new_xx + new_yy > 2.0 * _LEAST and new_xx + new_yy < 4.0 * _LARGEST_HALF * _LARGEST_HALF):
                break
            change = abs(new_xx - xx) + abs(new_xy - xy) + abs(new_yy - yy)
            xx, xy, yy = new_xx, new_xy, new_yy
            if change < _CLOSE * (xx + yy):
                found[s, 0], found[s, 1], found[s, 2] = xx, xy, yy
                break


def sky_shapes(
    moments: NDArray[np.float64], jacobians: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Turn second moments on the pixels into shapes on the sky.

    Parameters
    ----------
    moments : ndarray, shape (N, 3)
        xx, xy, yy, pixels squared.
    jacobians : ndarray, shape (N, 2, 2)
        Arcsec per pixel, rows (East, North), columns (x, y): `skygraft.wcs.local_jacobian`.

    Returns
    -------
    axis_ratio : ndarray, shape (N,)
        Minor over major axis.
    position_angle : ndarray, shape (N,)
        Of the major axis, degrees north through east, 0 to 180.
    sigma : ndarray, shape (N,)
        Geometric mean of the standard deviations along both axes, arcsec.
    """
    on_pixels = moments[:, [0, 1, 1, 2]].reshape(-1, 2, 2)
    on_sky = np.einsum("nij,njk,nlk->nil", jacobians, on_pixels, jacobians)
    east, cross, north = on_sky[:, 0, 0], on_sky[:, 0, 1], on_sky[:, 1, 1]
    mean, root = 0.5 * (east + north), np.hypot(0.5 * (north - east), cross)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.sqrt(np.maximum(mean - root, 0.0) / (mean + root))
        sigma = np.maximum(mean**2 - root**2, 0.0) ** 0.25
    angle = np.degrees(0.5 * np.arctan2(2.0 * cross, north - east)) % 180.0
    return ratio, np.where(angle >= 180.0, 0.0, angle), sigma
