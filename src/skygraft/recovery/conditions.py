"""The conditions at each fake's place: depth, sky, edge, neighbours, and their light in its aperture."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from skygraft.recovery.detect import Detections, MeasuredImage

__all__ = ["airmass_of", "edge_distance", "empty_apertures", "fake_light", "noise_level", "real_light", "sky_variance"]

type Floats = NDArray[np.float64]

_MOST_APERTURES = 4000
_LEAST_APERTURES = 100
"""Empty apertures from which the level of the noise is taken: its error is then 8 %, and 1.3 % with the most."""
_MESH, _STRIDE = 32, 2
_FWHM_PER_SIGMA = 2.0 * math.sqrt(2.0 * math.log(2.0))
_AIRMASS_CARDS = ("AIRMASS", "BORE-AIRMASS", "AMASS", "SECZ", "AIRM", "HIERARCH ESO TEL AIRM START")
_LARGEST_AIRMASS = 40.0


def empty_apertures(image: MeasuredImage, detections: Detections, radius: float) -> tuple[Floats, Floats]:
    """Measure the flux in apertures on a grid that hold no detected source and no bad pixel.

    Parameters
    ----------
    image : MeasuredImage
        The original image.
    detections : Detections
        Its sources.
    radius : float
        Pixels.

    Returns
    -------
    flux, error : ndarray, shape (K,)
        In each aperture, and its error by the variance of its pixels; up to some 4000.
    """
    import sep

    ny, nx = image.pixels.shape
    step = max(radius, 1.0, math.sqrt(nx * ny / _MOST_APERTURES))
    along = [np.arange(radius + 0.5, n - radius - 0.5, step) for n in (nx, ny)]
    x, y = (grid.ravel() for grid in np.meshgrid(*along))
    if not x.size:
        return np.zeros(0), np.zeros(0)
    occupied = ((detections.segments > 0) | image.bad).astype(np.float32)
    # A circle that misses the whole pixels of a source by less than one does not count as empty.
    free = sep.sum_circle(occupied, x, y, radius + 1.0, subpix=1)[0] == 0
    x, y = x[free], y[free]
    flux = sep.sum_circle(image.pixels, x, y, radius, subpix=0)[0]
    variance = sep.sum_circle(image.variance, x, y, radius, subpix=0)[0]
    return np.asarray(flux, dtype=np.float64), np.sqrt(np.asarray(variance, dtype=np.float64))


def noise_level(flux: Floats, error: Floats, otherwise: float) -> float:
    """Compute how much larger the scatter of empty apertures is than the variance of the pixels says.

    Parameters
    ----------
    flux, error : ndarray, shape (K,)
        Of `empty_apertures`.
    otherwise : float
        The value where there are fewer than 100.

    Returns
    -------
    float
        Robust standard deviation of flux / error: above 1 for noise that is correlated, for sources too faint to be
        detected and for an uneven background.
    """
    good = np.isfinite(flux) & (error > 0)
    if np.count_nonzero(good) < _LEAST_APERTURES:
        return otherwise
    pull = flux[good] / error[good]
    return float(1.4826 * np.median(np.abs(pull - np.median(pull))))


def sky_variance(image: MeasuredImage, detections: Detections, x: Floats, y: Floats) -> Floats:
    """Look up the variance of a pixel of empty sky around positions.

    Parameters
    ----------
    image : MeasuredImage
        The original image.
    detections : Detections
        Its sources, whose pixels are left out.
    x, y : ndarray, shape (N,)
        Positions, as indices of the array.

    Returns
    -------
    ndarray, shape (N,)
        Image units squared: the median over meshes of 32 x 32 pixels, and linear between their middles. NaN where the
        image has no good pixels, or a position is not finite.
    """
    used = image.variance[::_STRIDE, ::_STRIDE]
    sky = ~(image.bad | (detections.segments > 0))[::_STRIDE, ::_STRIDE]
    if not sky.any():
        sky = ~image.bad[::_STRIDE, ::_STRIDE]
    if not sky.any():
        return np.full(len(x), np.nan)
    side = _MESH // _STRIDE
    rows, columns = (-(-n // side) for n in used.shape)
    padded = np.full((rows * side, columns * side), np.nan, dtype=np.float32)
    padded[: used.shape[0], : used.shape[1]] = np.where(sky, used, np.float32(np.nan))
    blocks = padded.reshape(rows, side, columns, side).swapaxes(1, 2).reshape(rows, columns, side * side)
    ordered = np.sort(blocks, axis=-1)  # NaN last
    count = np.isfinite(blocks).sum(axis=-1)
    middle = np.maximum(count - 1, 0) // 2
    medians = np.take_along_axis(ordered, middle[..., None], axis=-1)[..., 0].astype(np.float64)
    if (count == 0).any():
        nearest = ndimage.distance_transform_edt(count == 0, return_distances=False, return_indices=True)
        medians = medians[tuple(nearest)]
    finite = np.isfinite(x) & np.isfinite(y)
    at = [(np.where(finite, c, 0.0) - 0.5 * (_MESH - 1)) / _MESH for c in (y, x)]
    found = ndimage.map_coordinates(medians, at, order=1, mode="nearest")
    return np.where(finite, found, np.nan)


def edge_distance(shape: tuple[int, int], x: Floats, y: Floats) -> Floats:
    """Compute the distance of positions to the nearest edge of an image, pixels; negative outside.

    Parameters
    ----------
    shape : (int, int)
        Rows and columns.
    x, y : ndarray, shape (N,)
        As indices of the array.

    Returns
    -------
    ndarray, shape (N,)
    """
    ny, nx = shape
    return np.minimum(np.minimum(x + 0.5, nx - 0.5 - x), np.minimum(y + 0.5, ny - 0.5 - y))


def real_light(image: MeasuredImage, detections: Detections, x: Floats, y: Floats, radius: float) -> Floats:
    """Measure the light of the original image's detected sources in apertures.

    Parameters
    ----------
    image : MeasuredImage
        The original image.
    detections : Detections
        Its sources: only their pixels count, so that noise does not.
    x, y : ndarray, shape (N,)
        Positions, as indices of the array.
    radius : float
        Pixels.

    Returns
    -------
    ndarray, shape (N,)
        Image units; zero where the position is not on the image.
    """
    import sep

    light = np.where(detections.segments > 0, image.good, np.float32(0.0))
    found = np.zeros(len(x))
    ny, nx = light.shape
    with np.errstate(invalid="ignore"):
        here = np.flatnonzero((x > -radius) & (x < nx + radius) & (y > -radius) & (y < ny + radius))
    if here.size:
        found[here] = sep.sum_circle(light, x[here], y[here], radius, subpix=5)[0]
    return np.nan_to_num(found)


def fake_light(x: Floats, y: Floats, flux: Floats, fwhm: Floats, radius: float) -> Floats:
    """Estimate the light of other fakes in the aperture of each fake.

    Parameters
    ----------
    x, y : ndarray, shape (N,)
        Positions, pixels.
    flux : ndarray, shape (N,)
        Image units; zero for those that were not drawn.
    fwhm : ndarray, shape (N,)
        That each is expected to have on the image, pixels.
    radius : float
        Of the aperture, pixels.

    Returns
    -------
    ndarray, shape (N,)
        Image units. Each neighbour counts as a round Gaussian of its FWHM, the part of which inside the circle is the
        non-central chi-squared distribution's.
    """
    from scipy.stats import ncx2

    total = np.zeros(len(x))
    sigma = fwhm / _FWHM_PER_SIGMA
    here = np.flatnonzero(np.isfinite(x) & np.isfinite(y) & np.isfinite(flux) & (flux != 0) & (sigma > 0))
    if here.size < 2:
        return total
    tree = cKDTree(np.column_stack([x, y])[here])
    # Few are much wider than the others, and those lose light beyond the reach of most.
    reach = radius + 4.0 * float(np.quantile(sigma[here], 0.99))
    one, other = here[tree.query_pairs(reach, output_type="ndarray")].T
    for own, neighbour in ((one, other), (other, one)):
        squared = (x[own] - x[neighbour]) ** 2 + (y[own] - y[neighbour]) ** 2
        variance = sigma[neighbour] ** 2
        np.add.at(total, own, np.abs(flux[neighbour]) * ncx2.cdf(radius**2 / variance, 2, squared / variance))
    return total


def airmass_of(header: Mapping[str, Any]) -> float:
    """Read the airmass from the cards of an image.

    Parameters
    ----------
    header : mapping
        `Exposure.header`.

    Returns
    -------
    float
        NaN where there is none, or it is not a possible one.
    """
    for card in _AIRMASS_CARDS:
        value = header.get(card)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and 0.99 <= value <= _LARGEST_AIRMASS:
            return float(value)
    return math.nan
