"""Positions and orientations of injected sources on the difference of an image and its original.

Both are linear estimates with a Gaussian weight about where the source was put, so that their errors follow from the
photon noise of the sources, which is the only noise in the difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from skygraft.catalog.flags import Flag, has_flag
from skygraft.exposure import Exposure
from skygraft.psf import PSF
from skygraft.qa.closure import isolated
from skygraft.wcs import local_jacobian, pixel_scale

__all__ = ["MOST", "Offset", "Precision", "angle_offset", "drawn_angles", "position_offset", "robust_mean"]

MOST = 200
"""Sources that are measured of an image, the brightest."""
_WINDOW = 4.0
"""Half-width of the stamps, standard deviations of the weight."""
_LARGEST_SIGMA = 12.0
"""Of the weight, pixels."""
_CONTAMINATION = 2e-3
_LEAST_PRECISION = 1e3
_ANISOTROPY = 0.1
"""Part of a source's moments, at least, that its elongation makes."""
_ELONGATED = 0.75
"""Largest axis ratio of sources whose angle is measured."""


@dataclass(frozen=True)
class Precision:
    """How well a file holds pixels.

    Parameters
    ----------
    half : float
        Largest rounding error of single precision, image units.
    variance : float
        Variance of rounding errors, of whatever kind, of one pixel.
    """

    half: float = 0.0
    variance: float = 0.0

    def holds(self, flux: NDArray[np.float64], n_pixels: float) -> NDArray[np.bool_]:
        """Whether rounding, even if it goes the same way in all pixels, is less than a part in a thousand of a flux."""
        return np.asarray(flux > _LEAST_PRECISION * n_pixels * self.half)


@dataclass(frozen=True)
class Offset:
    """A median offset between what was drawn and what is in the image.

    Parameters
    ----------
    n : int
        Sources.
    value : float
        The offset.
    error : float
        Its standard error, from photon noise.
    components : tuple of float
        Its components, where it has some.
    """

    n: int
    value: float
    error: float
    components: tuple[float, ...] = ()


def robust_mean(values: NDArray[np.float64], sigma: NDArray[np.float64]) -> tuple[float, float]:
    """Weighted median of values, and its standard error.

    Parameters
    ----------
    values, sigma : ndarray, shape (N,)
        Values and their standard errors; N is at least one.

    Returns
    -------
    median, error : float
    """
    floor = max(float(np.median(sigma)), 1e-12) * 0.3
    weights = 1.0 / np.maximum(sigma, floor) ** 2
    order = np.argsort(values, kind="stable")
    summed = np.cumsum(weights[order])
    middle = float(values[order][np.searchsorted(summed, summed[-1] / 2)])
    # 1.2533: the median of normal numbers is that much noisier than their mean.
    error = 1.2533 * np.sqrt(float((weights**2 * sigma**2).sum())) / float(weights.sum())
    return middle, float(error)


def position_offset(
    difference: NDArray[np.float32],
    light: Sequence[NDArray[np.float32]],
    quantum: NDArray[np.float32],
    exposure: Exposure,
    truth: Table,
    which: NDArray[np.bool_],
    precision: Precision,
) -> Offset:
    """Measure how far isolated sources are from where they were to be put.

    Parameters
    ----------
    difference : ndarray of float32, shape (ny, nx)
        After - before, without the light of other kinds of sources.
    light : sequence of ndarray of float32, shape (ny, nx)
        Planes whose sum is the light that noise was drawn of; for errors alone.
    quantum : ndarray of float32, shape (ny, nx) or (1, 1)
        Variance per flux.
    exposure : Exposure
        The image before injection.
    truth : Table
        Its truth.
    which : ndarray of bool
        Rows of the truth to measure.
    precision : Precision
        How well the file holds pixels.

    Returns
    -------
    Offset
        Pixels; the median of each component, and their length.

    Notes
    -----
    A PSF model's own centroid need not be in the middle of its kernel: the kernel's, in the same weight, is subtracted.
    Twice the weighted mean of a Gaussian's coordinates in a weight of its own width is its centroid.
    """
    psf, (x0, y0), (ny, nx) = exposure.psf, exposure.xy0, exposure.shape
    x, y, flux, size, fwhm = (
        np.array(truth[name], float) for name in ("x", "y", "inst_flux", "stamp_size", "psf_fwhm")
    )
    if psf is None or not which.any():
        return Offset(0, np.nan, np.nan)
    fwhm = fwhm / pixel_scale(exposure.wcs, *exposure.box.center)
    sigma = float(np.clip(np.nanmedian(np.where(which, fwhm, np.nan)) / 2.3548, 1.2, _LARGEST_SIGMA))
    if not np.isfinite(sigma):
        return Offset(0, np.nan, np.nan)
    half = int(np.ceil(_WINDOW * sigma))
    reach = np.where(which | has_flag(truth["flags"], Flag.IN_TEMPLATE), size, 0)
    alone = isolated(x, y, flux, reach, 2 * sigma, contamination=_CONTAMINATION)
    inside = (x - x0 > half) & (x0 + nx - 1 - x > half) & (y - y0 > half) & (y0 + ny - 1 - y > half)
    held = (flux > 0) & precision.holds(flux, (2 * half + 1) ** 2)
    rows = np.flatnonzero(which & alone & inside & held)
    rows = np.sort(rows[np.argsort(-flux[rows], kind="stable")][:MOST])
    if not rows.size:
        return Offset(0, np.nan, np.nan)
    pixels, dx, dy, weight = _stamps(difference, x[rows] - x0, y[rows] - y0, half, sigma)
    noise = _variance(light, quantum, x[rows] - x0, y[rows] - y0, half, sigma) + precision.variance
    own = _kernel_centroids(psf, x[rows], y[rows], sigma)
    found, errors = [], []
    with np.errstate(invalid="ignore", divide="ignore"):
        total = (weight * pixels).sum(axis=(1, 2))
        for k, along in enumerate((dx, dy)):
            found.append(2 * (weight * along * pixels).sum(axis=(1, 2)) / total - own[k])
            errors.append(2 * np.sqrt((weight**2 * along**2 * noise).sum(axis=(1, 2))) / np.abs(total))
    good = np.isfinite(found).all(axis=0) & np.isfinite(errors).all(axis=0) & (total > 0)
    if not good.any():
        return Offset(0, np.nan, np.nan)
    (a, error_a), (b, error_b) = (robust_mean(v[good], e[good]) for v, e in zip(found, errors, strict=True))
    return Offset(int(good.sum()), float(np.hypot(a, b)), max(error_a, error_b), (a, b))


def _stamps(
    image: NDArray[np.float32], x: NDArray[np.float64], y: NDArray[np.float64], half: int, sigma: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Pixels about each position, their offsets from it, and Gaussian weights: shape (N, 2 half + 1, 2 half + 1)."""
    steps = np.arange(-half, half + 1)
    columns, rows = np.rint(x).astype(int)[:, None] + steps, np.rint(y).astype(int)[:, None] + steps
    pixels = image[rows[:, :, None], columns[:, None, :]].astype(np.float64)
    dx, dy = (columns - x[:, None])[:, None, :], (rows - y[:, None])[:, :, None]
    weight = np.exp(-(dx**2 + dy**2) / (2 * sigma**2))
    shape = pixels.shape
    return pixels, np.broadcast_to(dx, shape), np.broadcast_to(dy, shape), weight


def _variance(
    light: Sequence[NDArray[np.float32]],
    quantum: NDArray[np.float32],
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    half: int,
    sigma: float,
) -> NDArray[np.float64]:
    """Variance of photon noise in the stamps."""
    total = sum((_stamps(one, x, y, half, sigma)[0] for one in light), np.zeros(()))
    expected = np.clip(total, 0, None)
    return expected * (float(quantum[0, 0]) if quantum.size == 1 else _stamps(quantum, x, y, half, sigma)[0])


def _kernel_centroids(
    psf: PSF, x: NDArray[np.float64], y: NDArray[np.float64], sigma: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    kernels = np.asarray(psf.kernels(x, y), dtype=np.float64)
    _, ky, kx = kernels.shape
    dy, dx = np.arange(ky)[:, None] - ky // 2, np.arange(kx)[None, :] - kx // 2
    weighted = kernels * np.exp(-(dx**2 + dy**2) / (2 * sigma**2))
    with np.errstate(invalid="ignore", divide="ignore"):
        total = weighted.sum(axis=(1, 2))
        return 2 * (weighted * dx).sum(axis=(1, 2)) / total, 2 * (weighted * dy).sum(axis=(1, 2)) / total


def _elongated(exposure: Exposure, truth: Table, sources: Table) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Rows of the truth of elongated sources, brightest first, and their size: sigma of the weight, pixels."""
    if not {"q", "half_light_radius"} <= set(sources.colnames) or not len(truth):
        return np.zeros(0, np.intp), np.zeros(0)
    ids = np.asarray(truth["injection_id"])
    own = np.asarray(sources["injection_id"])
    at = np.clip(np.searchsorted(own, ids), 0, max(0, len(own) - 1))
    known = own[at] == ids
    q, size = (_plain(sources[name])[at] for name in ("q", "half_light_radius"))
    scale = float(pixel_scale(exposure.wcs, *exposure.box.center)[0])
    fwhm = _plain(truth["psf_fwhm"])
    with np.errstate(invalid="ignore"):
        resolved = (
            known
            & ~has_flag(truth["flags"], Flag.IN_TEMPLATE)
            & (q < _ELONGATED)
            & (size > 0.2 * fwhm)
            & (_plain(truth["stamp_size"]) > 0)
        )
    rows = np.flatnonzero(resolved)
    rows = rows[np.argsort(-_plain(truth["inst_flux"])[rows], kind="stable")][:MOST]
    sigma = np.hypot(fwhm[rows] / 2.3548, size[rows]) / scale
    return rows, np.minimum(sigma, _LARGEST_SIGMA)


def angle_offset(
    difference: NDArray[np.float32],
    others: NDArray[np.float32],
    light: Sequence[NDArray[np.float32]],
    quantum: NDArray[np.float32],
    exposure: Exposure,
    truth: Table,
    sources: Table,
    precision: Precision,
) -> Offset:
    """Measure by how much elongated sources are turned against the same sources drawn again.

    Parameters
    ----------
    difference : ndarray of float32, shape (ny, nx)
        After - before, without the light of stars.
    others : ndarray of float32, shape (ny, nx)
        Light of sources other than stars, drawn again.
    light : sequence of ndarray of float32, shape (ny, nx)
        Planes whose sum is the light that noise was drawn of; for errors alone.
    quantum : ndarray of float32, shape (ny, nx) or (1, 1)
        Variance per flux.
    exposure : Exposure
        The image before injection.
    truth, sources : Table
        Its truth, and its sources in order of ``injection_id``.
    precision : Precision
        How well the file holds pixels.

    Returns
    -------
    Offset
        Degrees, from columns to rows.
    """
    rows, sigmas = _elongated(exposure, truth, sources)
    (x0, y0), (ny, nx) = exposure.xy0, exposure.shape
    turns, errors = [], []
    for row, sigma in zip(rows, sigmas, strict=True):
        x, y = np.array([float(truth["x"][row]) - x0]), np.array([float(truth["y"][row]) - y0])
        half = int(np.ceil(3 * sigma))
        if not (half < x[0] < nx - 1 - half and half < y[0] < ny - 1 - half):
            continue
        if not precision.holds(np.asarray(truth["inst_flux"][row], float), (2 * half + 1) ** 2 / _ANISOTROPY):
            continue
        new, dx, dy, weight = _stamps(difference, x, y, half, sigma)
        old = _stamps(others, x, y, half, sigma)[0]
        noise = _variance(light, quantum, x, y, half, sigma) + precision.variance
        plus, cross = weight * (dx**2 - dy**2), weight * 2 * dx * dy
        a, b = float((plus * old).sum()), float((cross * old).sum())
        length = np.hypot(a, b)
        along, across = (a * plus + b * cross) / length, (a * cross - b * plus) / length
        turn = 0.5 * np.arctan2(float((across * new).sum()), float((along * new).sum()))
        error = 0.5 * np.sqrt(float((across**2 * noise).sum())) / length
        if np.isfinite(turn) and np.isfinite(error) and error < np.radians(10):
            turns.append(np.degrees(turn))
            errors.append(np.degrees(error))
    if not turns:
        return Offset(0, np.nan, np.nan)
    value, error = robust_mean(np.array(turns), np.array(errors))
    return Offset(len(turns), value, error)


def drawn_angles(others: NDArray[np.float32], exposure: Exposure, truth: Table, sources: Table) -> Offset:
    """Compare the angle of well-resolved, elongated, isolated sources as drawn with the catalogue's position angle.

    Parameters
    ----------
    others : ndarray of float32, shape (ny, nx)
        Light of sources other than stars, drawn again.
    exposure, truth, sources
        As for `angle_offset`.

    Returns
    -------
    Offset
        Median difference in degrees, without sign: the PSF's own shape turns each by a little.
    """
    rows, sigmas = _elongated(exposure, truth, sources)
    if not rows.size or "pa" not in sources.colnames:
        return Offset(0, np.nan, np.nan)
    x, y = _plain(truth["x"]), _plain(truth["y"])
    size = np.where(np.asarray(truth["source_type"]).astype(str) == "Star", 0, _plain(truth["stamp_size"]))
    alone = isolated(x, y, _plain(truth["inst_flux"]), size, float(np.median(sigmas)) * 2, contamination=0.02)
    scale = float(pixel_scale(exposure.wcs, *exposure.box.center)[0])
    fwhm = _plain(truth["psf_fwhm"])[rows] / scale / 2.3548
    keep = alone[rows] & (sigmas > 2 * fwhm)
    rows, sigmas = rows[keep], sigmas[keep]
    (x0, y0), (ny, nx) = exposure.xy0, exposure.shape
    position = np.searchsorted(np.asarray(sources["injection_id"]), np.asarray(truth["injection_id"])[rows])
    pa = np.radians(_plain(sources["pa"])[position])
    found = []
    for row, sigma, angle in zip(rows, sigmas, pa, strict=True):
        half = int(np.ceil(3 * sigma))
        if not (half < x[row] - x0 < nx - 1 - half and half < y[row] - y0 < ny - 1 - half):
            continue
        one = np.array([x[row] - x0]), np.array([y[row] - y0])
        pixels, dx, dy, weight = _stamps(others, *one, half, sigma)
        drawn = 0.5 * np.arctan2(
            float((weight * 2 * dx * dy * pixels).sum()), float((weight * (dx**2 - dy**2) * pixels).sum())
        )
        jacobian = local_jacobian(exposure.wcs, x[row], y[row])[0]
        wanted = np.linalg.solve(jacobian, np.array([np.sin(angle), np.cos(angle)]))
        turn = drawn - np.arctan2(wanted[1], wanted[0])
        found.append(abs(np.degrees(np.angle(np.exp(2j * turn)) / 2)))
    known = np.array(found)
    return Offset(len(known), float(np.median(known)) if known.size else np.nan, np.nan)


def _plain(column: object) -> NDArray[np.float64]:
    return np.asarray(getattr(column, "value", column), dtype=np.float64)
