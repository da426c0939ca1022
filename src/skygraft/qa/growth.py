"""Curves of growth: the flux of stars inside circles of growing radius, on an image and by its PSF model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skygraft.exposure import Exposure
from skygraft.photometry import aperture_flux, aperture_weights

__all__ = ["Growth", "annulus_of", "growth_radii", "measure_growth", "psf_fit_flux", "psf_fraction"]

type Floats = NDArray[np.float64]

SINC_BELOW = 7.0
"""Pixels. Below, sinc and exact apertures differ by more than 1e-3 of a star's flux, and sinc is measured."""
_KERNELS = 50
"""Largest number of positions at which a PSF is evaluated."""
_ANNULUS_WIDTH = 12.0
_LARGEST = 100.0
"""Pixels. Largest radius of a curve."""


@dataclass(frozen=True)
class Growth:
    """Fluxes of N stars inside K radii.

    Parameters
    ----------
    x, y : ndarray, shape (N,)
        Centres, parent pixels.
    radii : ndarray, shape (K,)
        Pixels, increasing.
    flux, error : ndarray, shape (N, K)
        Image units, above the local sky. The error holds the noise of the pixels, the star's own photons where the gain
        is known, and that of the sky. NaN where the circle leaves the image.
    sky, sky_error : ndarray, shape (N,)
        Sky of the annulus, image units per pixel (after that of the whole image was taken off), and its error.
    """

    x: Floats
    y: Floats
    radii: Floats
    flux: Floats
    error: Floats
    sky: Floats
    sky_error: Floats

    def __len__(self) -> int:
        return len(self.x)


def growth_radii(stated: float, fwhm: float = math.nan, number: int = 25) -> Floats:
    """Choose the radii of a curve of growth.

    Parameters
    ----------
    stated : float
        Radius that must be among them, pixels.
    fwhm : float
        Of stars, pixels; the curve starts at half of it and reaches at least five times as far.
    number : int
        Of radii, about evenly spaced in their logarithm.

    Returns
    -------
    ndarray, shape (K,)
        Pixels, increasing: to three times the stated radius or five times the FWHM, whichever is larger.

    Examples
    --------
    >>> radii = growth_radii(12.0, 4.0)
    >>> [float(r) for r in (radii[0], radii[-1])], 12.0 in radii
    ([2.0, 36.0], True)
    """
    low = 0.5 * fwhm if math.isfinite(fwhm) else stated / 5
    low = min(max(low, 1.5), stated / 2)
    high = min(max(3 * stated, 5 * fwhm if math.isfinite(fwhm) else 0.0), max(_LARGEST, 1.5 * stated))
    grid = np.geomspace(low, high, number)
    grid[np.argmin(np.abs(np.log(grid / stated)))] = stated
    return np.unique(grid)


def annulus_of(largest: float) -> tuple[float, float]:
    """Give the inner and outer radius (pixels) of the annulus that a star's sky is measured in."""
    return largest + 4.0, largest + 4.0 + _ANNULUS_WIDTH


def measure_growth(
    image: NDArray[np.floating],
    x: ArrayLike,
    y: ArrayLike,
    radii: ArrayLike,
    *,
    sky_free: NDArray[np.bool_] | None = None,
    variance: NDArray[np.floating] | None = None,
    gain: float | None = None,
    xy0: tuple[int, int] = (0, 0),
    local_sky: bool = True,
) -> Growth:
    """Measure the fluxes of stars inside circles, above the sky of an annulus around the largest.

    Parameters
    ----------
    image : ndarray, shape (ny, nx)
        Image units, without bad pixels (they count as they are).
    x, y : array_like, shape (N,)
        Centres, parent pixels.
    radii : array_like, shape (K,)
        Pixels.
    sky_free : ndarray of bool, shape (ny, nx), optional
        Pixels without detected light, of which sky is measured; by default all.
    variance : ndarray, shape (ny, nx), optional
        Image units squared, with the stars' own photon noise; by default that of the annulus, and of `gain`.
    gain : float, optional
        Electrons per image unit, where there is no variance.
    xy0 : (int, int)
        Parent coordinates of the first pixel.
    local_sky : bool
        Take off the sky of the annulus.

    Returns
    -------
    Growth

    Notes
    -----
    Sums are of exact overlaps of circle and pixel (SEP), and below `SINC_BELOW` pixels of the band-limited image
    (Bickerton & Lupton 2013, MNRAS 431, 1275), as pipelines and `skygraft.photometry` measure there.
    """
    import sep

    radii = np.asarray(radii, dtype=np.float64)
    px, py = (np.asarray(v, dtype=np.float64) - o for v, o in zip((x, y), xy0, strict=True))
    pixels = np.ascontiguousarray(image, dtype=np.float32)
    free = np.isfinite(pixels) if sky_free is None else sky_free
    sky, sky_error, noise = _annuli(pixels, px, py, *annulus_of(float(radii[-1])), free)
    if not local_sky:
        sky = np.zeros_like(sky)
    if variance is not None:
        per_pixel = np.ascontiguousarray(variance, dtype=np.float32)
    flux, error = np.full((len(px), len(radii)), np.nan), np.full((len(px), len(radii)), np.nan)
    ny, nx = pixels.shape
    for k, radius in enumerate(radii):
        area = math.pi * radius**2
        inside = (px >= radius - 0.5) & (px <= nx - 0.5 - radius) & (py >= radius - 0.5) & (py <= ny - 0.5 - radius)
        if not inside.any():
            continue
        here = inside.nonzero()[0]
        if radius < SINC_BELOW:
            total = aperture_flux(pixels, px[here], py[here], radius)
        else:
            total = sep.sum_circle(pixels, px[here], py[here], radius, subpix=0)[0]
        flux[here, k] = total - area * sky[here]
        if variance is not None:
            added = sep.sum_circle(per_pixel, px[here], py[here], radius, subpix=0)[0]
        else:
            added = area * noise[here] ** 2 + (np.clip(flux[here, k], 0, None) / gain if gain else 0.0)
        error[here, k] = np.sqrt(np.clip(added, 0, None) + (area * sky_error[here]) ** 2)
    return Growth(px + xy0[0], py + xy0[1], radii, flux, error, sky, sky_error)


def _annuli(
    image: NDArray[np.float32], x: Floats, y: Floats, inner: float, outer: float, free: NDArray[np.bool_]
) -> tuple[Floats, Floats, Floats]:
    """Clipped mean of the free pixels of annuli, its error, and the pixels' scatter; zero sky where few are free."""
    ny, nx = image.shape
    half = math.ceil(outer)
    sky, sky_error, noise = np.zeros(len(x)), np.zeros(len(x)), np.zeros(len(x))
    for i, (cx, cy) in enumerate(zip(np.rint(x).astype(int), np.rint(y).astype(int), strict=True)):
        rows, columns = (
            slice(max(0, cy - half), min(ny, cy + half + 1)),
            slice(max(0, cx - half), min(nx, cx + half + 1)),
        )
        dy, dx = np.ogrid[rows, columns]
        distance = (dy - y[i]) ** 2 + (dx - x[i]) ** 2
        ring = (distance >= inner**2) & (distance <= outer**2) & free[rows, columns]
        values = image[rows, columns][ring].astype(np.float64)
        values = values[np.isfinite(values)]
        if values.size < 20:
            continue
        for _ in range(5):
            middle = np.median(values)
            spread = 1.4826 * np.median(np.abs(values - middle))
            kept = np.abs(values - middle) <= 3 * spread
            if kept.all() or spread == 0:
                break
            values = values[kept]
        sky[i] = values.mean()
        noise[i] = values.std()
        sky_error[i] = noise[i] / math.sqrt(values.size)
    return sky, sky_error, noise


def _spread_positions(exposure: Exposure, x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """At most `_KERNELS` positions at which the PSF has a kernel: of the stars, or of a grid where there are none."""
    if not len(x):
        box = exposure.box
        part = np.linspace(0.1, 0.9, 4)
        gx, gy = np.meshgrid(box.x_min + part * (box.x_max - box.x_min), box.y_min + part * (box.y_max - box.y_min))
        x, y = gx.ravel(), gy.ravel()
    else:
        chosen = np.unique(np.linspace(0, len(x) - 1, min(_KERNELS, len(x))).astype(int))
        x, y = x[chosen], y[chosen]
    assert exposure.psf is not None
    there = exposure.psf.defined(x, y)
    return x[there], y[there]


@lru_cache(maxsize=4)
def _weights(shape: tuple[int, int], radii: tuple[float, ...]) -> tuple[Floats, ...]:
    """Weights of a kernel's pixels in apertures: images of one survey ask for those of the same radii again."""
    return tuple(aperture_weights(shape, radius) for radius in radii)


def psf_fraction(exposure: Exposure, radii: ArrayLike, x: ArrayLike = (), y: ArrayLike = ()) -> Floats:
    """Evaluate the part of the PSF model's light inside circles, at positions.

    Parameters
    ----------
    exposure : Exposure
        With a PSF.
    radii : array_like, shape (K,)
        Pixels.
    x, y : array_like, shape (N,)
        Parent pixels; of more than 50 positions some are taken. By default a grid over the image.

    Returns
    -------
    ndarray, shape (M, K)
        Flux inside over the sum of the kernel; empty where the PSF has no kernel.
    """
    sx, sy = _spread_positions(exposure, np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64))
    radii = np.asarray(radii, dtype=np.float64)
    if not len(sx) or exposure.psf is None:
        return np.zeros((0, len(radii)))
    kernels = np.asarray(exposure.psf.kernels(sx, sy), dtype=np.float64)
    total = kernels.sum(axis=(1, 2), dtype=np.float64)
    with np.errstate(invalid="ignore"):  # an infinite pixel gives NaN
        inside = [np.einsum("nij,ij->n", kernels, w) for w in _weights(kernels.shape[1:], (*radii.tolist(),))]
    return np.stack(inside, axis=1) / total[:, None]


def psf_fit_flux(
    exposure: Exposure, image: NDArray[np.floating], x: Floats, y: Floats, sky: Floats
) -> tuple[Floats, Floats]:
    """Fit the amplitude of the unit-sum PSF to stars, pixels weighted alike, as pipelines do.

    Parameters
    ----------
    exposure : Exposure
        With a PSF.
    image : ndarray, shape (ny, nx)
        Without the sky of the whole image.
    x, y : ndarray, shape (N,)
        Parent pixels.
    sky : ndarray, shape (N,)
        Local sky to take off, image units per pixel.

    Returns
    -------
    flux : ndarray, shape (N,)
        ``sum(p d) / sum(p**2)`` of unit-sum kernels p and pixels d; NaN where the kernel leaves the image.
    norm : ndarray, shape (N,)
        ``sum(p) / sum(p**2)``: what a sky that is wrong by one image unit per pixel changes the flux by.
    """
    from skygraft.psf.subpixel import pixel_images

    assert exposure.psf is not None
    flux, norm = np.full(len(x), np.nan), np.full(len(x), np.nan)
    (ny, nx), (x0, y0) = image.shape, exposure.xy0
    there = exposure.psf.defined(x, y).nonzero()[0]
    for i in there:
        [kernel] = pixel_images(exposure.psf, x[i : i + 1], y[i : i + 1])
        kernel = kernel / kernel.sum()
        hy, hx = (s // 2 for s in kernel.shape)
        top, left = math.floor(y[i] + 0.5) - y0 - hy, math.floor(x[i] + 0.5) - x0 - hx
        if top < 0 or left < 0 or top + kernel.shape[0] > ny or left + kernel.shape[1] > nx:
            continue
        pixels = image[top : top + kernel.shape[0], left : left + kernel.shape[1]].astype(np.float64) - sky[i]
        power = float((kernel**2).sum())
        flux[i], norm[i] = float((kernel * pixels).sum()) / power, 1.0 / power
    return flux, norm
