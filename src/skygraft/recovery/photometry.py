"""Fluxes and shapes of sources at given positions: apertures, Kron's ellipse, PSF model, centroids and moments."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skygraft.exposure import Exposure
from skygraft.jit import compiled
from skygraft.noise import NoiseCorrelation
from skygraft.photometry import CalibrationAperture, aperture_flux, kernel_scale, sinc_coefficients
from skygraft.photometry.reference import PSF_MODEL
from skygraft.psf import defined_position
from skygraft.recovery.detect import MeasuredImage

__all__ = [
    "CENTROID_FAILED",
    "SHAPE_FAILED",
    "CalibratedFlux",
    "Fluxes",
    "aperture_fluxes",
    "calibrated_flux_of",
    "centroids",
    "fraction_inside",
    "half_light_radii",
    "kron_fluxes",
    "middle_kernel",
    "noise_area",
    "noise_factor",
    "psf_fluxes",
    "spread_factor",
]

CENTROID_FAILED = 1 << 8
"""Flag: no windowed centroid was found, and the position is that of the detection's barycentre."""
SHAPE_FAILED = 1 << 9
"""Flag: no adaptive moments were found, and the shape is that of the detection's own moments."""

_KERNELS_AT_ONCE = 64
_MARGIN = 6
"""Pixels of zeros at the far sides of kernels that are moved."""
_KRON_FACTOR, _LEAST_KRON_RADIUS, _KRON_REACH, _LEAST_CIRCLE = 2.5, 3.5, 6.0, 1.75
"""Source Extractor's: PHOT_AUTOPARAMS 2.5, 3.5; the ellipse that Kron's radius is measured in; pixels."""
_TOTAL_RADIUS = 2.5
"""Radius of the aperture for images calibrated to total fluxes or to the PSF model, in FWHM."""
_PIXELS_WITHOUT_PSF = 6.0

type Floats = NDArray[np.float64]


@dataclass(frozen=True)
class CalibratedFlux:
    """How the calibrated flux of an image is measured.

    Parameters
    ----------
    kind : {"aperture", "psf_model", "total"}
        What the image's calibration refers to.
    radius : float
        Of the aperture, pixels: the calibration's, or 2.5 FWHM where it refers to none.
    """

    kind: str
    radius: float


@dataclass(frozen=True, eq=False)
class Fluxes:
    """Fluxes of N sources with their errors, image units.

    Parameters
    ----------
    flux, error : ndarray, shape (N,)
        NaN where they cannot be measured.
    """

    flux: Floats
    error: Floats


def calibrated_flux_of(exposure: Exposure, fwhm: float | None) -> CalibratedFlux:
    """Say how the flux that an image is calibrated to is measured.

    Parameters
    ----------
    exposure : Exposure
        The image.
    fwhm : float or None
        Of the PSF in its middle, pixels.

    Returns
    -------
    CalibratedFlux
    """
    reference = exposure.photo_calib.reference if exposure.photo_calib is not None else None
    if isinstance(reference, CalibrationAperture):
        return CalibratedFlux("aperture", reference.radius_pixels)
    kind = "psf_model" if reference is PSF_MODEL and exposure.psf is not None else "total"
    return CalibratedFlux(kind, _PIXELS_WITHOUT_PSF if fwhm is None else _TOTAL_RADIUS * fwhm)


def noise_factor(radius: float, correlation: NoiseCorrelation | None) -> float:
    """Give the error of an aperture flux over the root of the sum of the variance inside the circle.

    Parameters
    ----------
    radius : float
        Pixels.
    correlation : NoiseCorrelation or None
        Of the image's noise; None for white noise.

    Returns
    -------
    float
        A little below 1 for white noise: pixels on the edge count with part of their noise.

    Notes
    -----
    The error of a sum with weights w is the root of the sum of w^2 v. Where noise is white noise filtered by h, its sum
    is that of the white noise times w convolved with h; the image's mean correlation is used everywhere.
    """
    weights = sinc_coefficients(radius)
    return math.sqrt(float((weights**2).sum()) / (math.pi * radius**2)) * spread_factor(weights, correlation)


def spread_factor(weights: Floats, correlation: NoiseCorrelation | None) -> float:
    """Give the factor by which correlated noise makes the error of a weighted sum larger than white noise does.

    Parameters
    ----------
    weights : ndarray, shape (ny, nx)
        Of the pixels.
    correlation : NoiseCorrelation or None
        Of the image's noise; None for white noise.

    Returns
    -------
    float
    """
    if correlation is None:
        return 1.0
    from scipy.signal import fftconvolve

    spread = fftconvolve(weights, correlation.filters[0])
    return float(np.sqrt((spread**2).sum() / (weights**2).sum()))


def aperture_fluxes(image: MeasuredImage, x: Floats, y: Floats, radius: float, factor: float = 1.0) -> Fluxes:
    """Measure the flux inside circles by sinc photometry (Bickerton & Lupton 2013), and its error by the variance.

    Parameters
    ----------
    image : MeasuredImage
        The image; bad pixels are replaced by those opposite of the source's centre.
    x, y : ndarray, shape (N,)
        Centres, as indices of the array.
    radius : float
        Pixels.
    factor : float
        Of the error: `noise_factor`.

    Returns
    -------
    Fluxes
        NaN where the circle leaves the image.
    """
    flux = aperture_flux(image.good, x, y, radius)
    if len(x) and image.any_bad:
        flux += _replaced(image.pixels, image.bad, x, y, radius)
    error = factor * np.sqrt(_variance_inside(image, x, y, radius))
    return Fluxes(flux, np.where(np.isfinite(flux), error, np.nan))


def _variance_inside(image: MeasuredImage, x: Floats, y: Floats, radius: float) -> Floats:
    import sep

    if not len(x):
        return np.zeros(0)
    at = np.isfinite(x) & np.isfinite(y)
    found = np.full(len(x), np.nan)
    # Masked pixels count as the mean of the others.
    found[at] = sep.sum_circle(image.variance, x[at], y[at], radius, mask=image.bad, subpix=0)[0]
    return np.where(found > 0, found, np.nan)


@compiled(reads=("pixels", "bad", "x", "y"))
def _replaced(
    pixels: NDArray[np.float32], bad: NDArray[np.bool_], x: Floats, y: Floats, radius: float
) -> Floats:  # pragma: no cover - compiled
    """Sum, over the bad pixels in each circle, the pixels opposite; zero for those that are bad, too."""
    ny, nx = pixels.shape
    total = np.zeros(x.size)
    for s in range(x.size):
        if not (np.isfinite(x[s]) and np.isfinite(y[s])):
            continue
        for j in range(max(0, int(y[s] - radius)), min(ny - 1, int(y[s] + radius + 1)) + 1):
            for i in range(max(0, int(x[s] - radius)), min(nx - 1, int(x[s] + radius + 1)) + 1):
                if not bad[j, i]:
                    continue
                inside = min(max(radius + 0.5 - np.hypot(i - x[s], j - y[s]), 0.0), 1.0)
                k, m = int(np.round(2.0 * y[s])) - j, int(np.round(2.0 * x[s])) - i
                if inside > 0.0 and 0 <= k < ny and 0 <= m < nx and not bad[k, m]:
                    total[s] += inside * pixels[k, m]
    return total


def psf_fluxes(
    exposure: Exposure, image: MeasuredImage, weights: NDArray[np.float32], x: Floats, y: Floats, factor: float = 1.0
) -> Fluxes:
    """Measure the flux of the PSF model fitted at given positions, scaled to what the image is calibrated to.

    Parameters
    ----------
    exposure : Exposure
        The image, for its PSF and its calibration.
    image : MeasuredImage
        Its pixels without the background.
    weights : ndarray of float32, shape (ny, nx)
        Variance of each pixel without the source's own photons, by which pixels are weighed: weights that follow the
        source's noise make fluxes wrong.
    x, y : ndarray, shape (N,)
        Positions, as indices of the array.
    factor : float
        By which the noise's correlation makes errors larger.

    Returns
    -------
    Fluxes
        Of a star: what its calibrated flux is. NaN where there is no PSF.

    Notes
    -----
    The amplitude is ``sum(k d / v) / sum(k^2 / v)`` over the kernel's good pixels, of kernel k, image d and variance v,
    and the flux is the amplitude over `skygraft.photometry.kernel_scale`.
    """
    flux, error = np.full(len(x), np.nan), np.full(len(x), np.nan)
    if exposure.psf is None or not len(x):
        return Fluxes(flux, error)
    x0, y0 = image.xy0
    at = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
    at = at[exposure.psf.defined(x[at] + x0, y[at] + y0)] if at.size else at
    reference = exposure.photo_calib.reference if exposure.photo_calib is not None else None
    for start in range(0, at.size, _KERNELS_AT_ONCE):
        some = at[start : start + _KERNELS_AT_ONCE]
        px, py = x[some] + x0, y[some] + y0
        kernels = exposure.psf.kernels(px, py)
        if reference is None:
            scale = np.ones(some.size)
        else:
            outside = exposure.psf.flux_outside(px, py)
            scale = kernel_scale("calibrated", reference, kernels, outside, invalid="nan").scale
        images = _moved(kernels, px - np.floor(px + 0.5), py - np.floor(py + 0.5))
        rows, columns = (np.floor(c + 0.5).astype(np.int64) for c in (y[some], x[some]))
        amplitude, sigma = _fit(image.pixels, weights, image.variance, image.bad, images, rows, columns)
        flux[some], error[some] = amplitude / scale, factor * sigma / scale
    return Fluxes(flux, error)


def _moved(kernels: Floats, dx: Floats, dy: Floats) -> Floats:
    """Move kernels (N, ny, nx) by dx, dy (N,) pixels, as images that are limited in band and zero outside."""
    from scipy import fft

    _, ny, nx = kernels.shape
    # An odd length has no Nyquist frequency, of which a shift would not be defined.
    height, width = (n + 2 * _MARGIN for n in (ny, nx))
    phase_y = np.exp(-2j * np.pi * dy[:, None] * fft.fftfreq(height))
    phase_x = np.exp(-2j * np.pi * dx[:, None] * fft.rfftfreq(width))
    transform = fft.rfft2(kernels, s=(height, width), workers=1)
    transform *= phase_y[:, :, None]
    transform *= phase_x[:, None, :]
    moved: Floats = fft.irfft2(transform, s=(height, width), workers=1, overwrite_x=True)
    return np.ascontiguousarray(moved[:, :ny, :nx])


@compiled(reads=("pixels", "weights", "variance", "bad", "images", "rows", "columns"))
def _fit(
    pixels: NDArray[np.float32],
    weights: NDArray[np.float32],
    variance: NDArray[np.float32],
    bad: NDArray[np.bool_],
    images: Floats,
    rows: NDArray[np.int64],
    columns: NDArray[np.int64],
) -> tuple[Floats, Floats]:  # pragma: no cover - compiled
    """Amplitude of each PSF image about the pixel (row, column), and its standard deviation."""
    ny, nx = pixels.shape
    n, height, width = images.shape
    amplitude, sigma = np.full(n, np.nan), np.full(n, np.nan)
    for s in range(n):
        top, norm, spread = 0.0, 0.0, 0.0
        for b in range(height):
            j = rows[s] + b - height // 2
            if j < 0 or j >= ny:
                continue
            for a in range(width):
                i = columns[s] + a - width // 2
                if i < 0 or i >= nx or bad[j, i] or not weights[j, i] > 0.0:
                    continue
                k = images[s, b, a]
                w = k / weights[j, i]
                top += w * pixels[j, i]
                norm += w * k
                spread += w * w * variance[j, i]
        if norm > 0.0:
            amplitude[s], sigma[s] = top / norm, np.sqrt(spread) / norm
    return amplitude, sigma


def kron_fluxes(
    image: MeasuredImage, segments: NDArray[np.int32], objects: NDArray[Any], numbers: NDArray[np.int64], factor: float
) -> tuple[Fluxes, NDArray[np.int64]]:
    """Measure the flux in Kron's ellipse (Kron 1980, ApJS 43, 305), as Source Extractor's FLUX_AUTO.

    Parameters
    ----------
    image : MeasuredImage
        The image.
    segments : ndarray of int32, shape (ny, nx)
        Of the detections: pixels of others are left out.
    objects : ndarray, shape (N,)
        SEP's columns of the sources.
    numbers : ndarray of int, shape (N,)
        Their numbers in `segments`.
    factor : float
        By which the noise's correlation makes errors larger.

    Returns
    -------
    fluxes : Fluxes
        Not corrected for light outside of the ellipse.
    flags : ndarray of int, shape (N,)
        SEP's.
    """
    import sep

    if not len(objects):
        return Fluxes(np.zeros(0), np.zeros(0)), np.zeros(0, dtype=np.int64)
    x, y, a, b, theta = (
        np.ascontiguousarray(objects[name], dtype=np.float64) for name in ("x", "y", "a", "b", "theta")
    )
    theta = np.clip(theta, -math.pi / 2, math.pi / 2)
    others: dict[str, Any] = {"mask": image.bad, "segmap": segments, "seg_id": numbers.astype(np.int32)}
    radius, flags = sep.kron_radius(image.pixels, x, y, a, b, theta, _KRON_REACH, **others)
    radius = np.maximum(_KRON_FACTOR * radius, _LEAST_KRON_RADIUS)
    small = ~(radius * np.sqrt(a * b) >= _LEAST_CIRCLE)
    # A circle is an ellipse of equal axes.
    a, b = np.where(small, 1.0, a), np.where(small, 1.0, b)
    radius = np.where(small, _LEAST_CIRCLE, radius)
    flux, error, more = sep.sum_ellipse(image.pixels, x, y, a, b, theta, radius, var=image.variance, subpix=5, **others)
    return Fluxes(flux, factor * error), (flags | more).astype(np.int64)


def half_light_radii(
    image: MeasuredImage, segments: NDArray[np.int32], objects: NDArray[Any], numbers: NDArray[np.int64], flux: Floats
) -> Floats:
    """Measure the radius of the circle that holds half of a source's flux, pixels.

    Parameters
    ----------
    image : MeasuredImage
        The image.
    segments, objects, numbers
        As for `kron_fluxes`.
    flux : ndarray, shape (N,)
        All of the flux, image units.

    Returns
    -------
    ndarray, shape (N,)
        NaN where the flux is not positive.
    """
    import sep

    found = np.full(len(objects), np.nan)
    good = np.flatnonzero(np.isfinite(flux) & (flux > 0))
    if good.size:
        some = objects[good]
        radius, _ = sep.flux_radius(
            image.pixels,
            np.ascontiguousarray(some["x"]),
            np.ascontiguousarray(some["y"]),
            np.ascontiguousarray(_KRON_REACH * some["a"]),
            0.5,
            normflux=np.ascontiguousarray(flux[good]),
            mask=image.bad,
            segmap=segments,
            seg_id=numbers[good].astype(np.int32),
            subpix=5,
        )
        found[good] = np.where(radius > 0, radius, np.nan)
    return found


def centroids(
    image: MeasuredImage, objects: NDArray[Any], half_light: Floats
) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """Measure windowed centroids, as Source Extractor's XWIN_IMAGE.

    Parameters
    ----------
    image : MeasuredImage
        The image.
    objects : ndarray, shape (N,)
        SEP's columns of the sources.
    half_light : ndarray, shape (N,)
        Half-light radius, pixels; NaN where it is not known.

    Returns
    -------
    x, y : ndarray, shape (N,)
        As indices of the array: the barycentre of the detection where no windowed centroid is found within a half-light
        radius (and 1 pixel at least) of it.
    failed : ndarray of bool, shape (N,)
        Where that is so.
    """
    import sep

    if not len(objects):
        return np.zeros(0), np.zeros(0), np.zeros(0, dtype=np.bool_)
    x, y = (np.ascontiguousarray(objects[name], dtype=np.float64) for name in ("x", "y"))
    size = np.where(np.isfinite(half_light) & (half_light > 0.5), half_light, np.maximum(objects["a"], 0.5))
    sigma = 2.0 / 2.35 * size  # of the window, whose FWHM is the half-light diameter
    new_x, new_y, flags = sep.winpos(image.pixels, x, y, sigma, mask=image.bad, subpix=5)
    moved = np.hypot(new_x - x, new_y - y)
    failed = (flags & _APERTURE_FAILED != 0) | ~(moved <= np.maximum(size, 1.0))
    return np.where(failed, x, new_x), np.where(failed, y, new_y), failed


_APERTURE_FAILED = 0x40 | 0x80
"""SEP's APER_ALLMASKED and APER_NONPOSITIVE."""


def fraction_inside(exposure: Exposure, x: Floats, y: Floats, radius: float) -> Floats:
    """Give the part of a star's light inside an aperture, by the PSF model.

    Parameters
    ----------
    exposure : Exposure
        The image.
    x, y : ndarray, shape (N,)
        Positions, parent pixels.
    radius : float
        Pixels.

    Returns
    -------
    ndarray, shape (N,)
        1 where the image has no PSF.
    """
    found = np.ones(len(x))
    if exposure.psf is None or not len(x):
        return found
    at = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
    at = at[exposure.psf.defined(x[at], y[at])] if at.size else at
    for start in range(0, at.size, _KERNELS_AT_ONCE):
        some = at[start : start + _KERNELS_AT_ONCE]
        kernels = exposure.psf.kernels(x[some], y[some])
        outside = exposure.psf.flux_outside(x[some], y[some])
        found[some] = kernel_scale("aperture", None, kernels, outside, radius=radius, invalid="nan").aperture_fraction
    return found


def middle_kernel(exposure: Exposure) -> Floats | None:
    """Give the kernel of the PSF in the middle of an image, shape (ny, nx); None where it has none."""
    place = None if exposure.psf is None else defined_position(exposure.psf, exposure.box)
    if exposure.psf is None or place is None:
        return None
    kernel: Floats = exposure.psf.kernels([place[0]], [place[1]])[0]
    return kernel


def noise_area(exposure: Exposure, how: CalibratedFlux) -> float:
    """Give the variance of a calibrated flux in units of that of a pixel, for noise that is even.

    Parameters
    ----------
    exposure : Exposure
        The image, whose PSF in its middle counts.
    how : CalibratedFlux
        How calibrated fluxes are measured.

    Returns
    -------
    float
        Pixels: the area of an aperture, or what a PSF fit amounts to.
    """
    area = math.pi * how.radius**2
    kernel = middle_kernel(exposure)
    if how.kind == "aperture" or kernel is None:
        return area
    if how.kind == "total":
        return area / float(kernel_scale("aperture", None, kernel, radius=how.radius).aperture_fraction[0]) ** 2
    scale = float(kernel_scale("calibrated", PSF_MODEL, kernel, invalid="nan").scale[0])
    return float(1.0 / ((kernel**2).sum() * scale**2))
