"""Where sources of a coadd lie on a visit, and how the pixels of both are related there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from astropy.wcs.wcsapi import BaseLowLevelWCS
from numpy.typing import NDArray

from skygraft.exposure import Exposure
from skygraft.psf.warped import local_maps
from skygraft.qa.consistency.resampling import SUMS, aperture_table, sums_about

__all__ = ["Grid", "Moments", "grid_on", "measure", "moments"]

type FloatArray = NDArray[np.float64]

_TAPER = 2.0
"""Coadd pixels outside of the circle from which on weights are tapered, to the edge of the stamp."""


@dataclass(frozen=True, eq=False)
class Grid:
    """Places of N sources of a coadd on an image.

    Parameters
    ----------
    at : ndarray, shape (N, 2)
        Positions (x, y) on the image's array, from its first pixel.
    matrices, inverses : ndarray, shape (N, 2, 2)
        From pixels of the coadd to pixels of the image about each source, and back.
    area : ndarray, shape (N,)
        Pixels of the image in a pixel of the coadd.
    """

    at: FloatArray
    matrices: FloatArray
    inverses: FloatArray
    area: FloatArray

    def __getitem__(self, rows: NDArray[np.intp] | NDArray[np.bool_] | slice) -> Grid:
        return Grid(self.at[rows], self.matrices[rows], self.inverses[rows], self.area[rows])

    def padded(self, pixels: int) -> Grid:
        """The same places on an array with so many more pixels on every side."""
        return Grid(self.at + pixels, self.matrices, self.inverses, self.area)


def grid_on(image: Exposure, coadd_wcs: BaseLowLevelWCS, x: FloatArray, y: FloatArray) -> Grid:
    """Find the places of sources of a coadd on an image.

    Parameters
    ----------
    image : Exposure
        A visit, or the coadd itself.
    coadd_wcs : BaseLowLevelWCS
        Of the coadd.
    x, y : ndarray, shape (N,)
        The sources' parent pixels on the coadd.

    Returns
    -------
    Grid
        Positions that are not on the image's part of the sky are far outside of it.
    """

    def mapping(px: FloatArray, py: FloatArray) -> tuple[FloatArray, FloatArray]:
        found_x, found_y = image.wcs.world_to_pixel_values(*coadd_wcs.pixel_to_world_values(px, py))
        return found_x, found_y

    with np.errstate(invalid="ignore"):
        matrices, offsets = local_maps(x, y, mapping)
        at = np.einsum("nij,nj->ni", matrices, np.stack([x, y], axis=1)) + offsets - np.array(image.xy0)
        area = np.abs(np.linalg.det(matrices))
    lost = ~(np.isfinite(at).all(axis=1) & np.isfinite(area) & (area > 1e-6))
    matrices[lost], at[lost], area[lost] = np.eye(2), -1e6, 1.0
    return Grid(at, matrices, np.linalg.inv(matrices), area)


def measure(
    planes: NDArray[np.float32], index: NDArray[np.int64], grid: Grid, radius: float, sigma: float, half: float
) -> FloatArray:
    """Sum light about sources in circles of the coadd's radius and with its Gaussian: shape (N, 7), columns `SUMS`.

    Parameters
    ----------
    planes : ndarray, shape (M, ny, nx)
        Pixels.
    index : ndarray of int, shape (N,)
        The plane of each source.
    grid : Grid
        Places on them.
    radius, sigma, half : float
        Coadd pixels: of the circle, of the Gaussian, and of the square in which pixels count.
    """
    if not len(grid.at):
        return np.zeros((0, len(SUMS)))
    scale = float(np.sqrt(1 / np.median(np.abs(np.linalg.det(grid.inverses)))))
    # One table serves all visits of about a size: the derivative by the radius corrects for what differs.
    own = round(radius * scale, 1)
    taper = own + _TAPER * scale, max(half * scale, own + _TAPER * scale + 1.0)
    table = aperture_table(own, float(np.ceil(1.5 * half * scale) + 2), taper)
    return sums_about(planes, index, grid.at, grid.inverses, radius, own, table, sigma, half)


@dataclass(frozen=True, eq=False)
class Moments:
    """Flux, centroid and size of N sources.

    Parameters
    ----------
    flux : ndarray, shape (N,)
        In the circle.
    x, y : ndarray, shape (N,)
        Centroid from the expected position, coadd pixels.
    size : ndarray, shape (N,)
        Standard deviation, coadd pixels: of the Gaussian whose weighted second moment is that of the source.
    """

    flux: FloatArray
    x: FloatArray
    y: FloatArray
    size: FloatArray


def moments(sums: FloatArray, sigma: float) -> Moments:
    r"""Turn sums into flux, centroid and size, NaN where there is no light.

    With the weighted second moment :math:`\sigma_m^2`, the size is :math:`1/\sigma^2 = 1/\sigma_m^2 - 1/\sigma_w^2`,
    exact for a Gaussian; the weight moves centroids towards the expected position, which is undone in the same way.

    Parameters
    ----------
    sums : ndarray, shape (N, 7)
        Of `measure`.
    sigma : float
        Of the Gaussian weight, coadd pixels.
    """
    flux, g, gx, gy, gxx, _, gyy = sums.T
    with np.errstate(invalid="ignore", divide="ignore"):
        good = g > 0
        x, y = np.where(good, gx / g, np.nan), np.where(good, gy / g, np.nan)
        second = 0.5 * (gxx + gyy) / g - 0.5 * (x**2 + y**2)
        inverse = 1 / second - 1 / sigma**2
        size = np.where(good & (second > 0) & (inverse > 0), 1 / np.sqrt(np.abs(inverse)), np.nan)
        factor = (size**2 + sigma**2) / sigma**2
    return Moments(flux, x * factor, y * factor, size)
