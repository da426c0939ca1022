"""Calibrate the demo's images as surveys do: with aperture photometry of the stars on them.

The photometry shares no code with `skygraft.photometry`: the weight of a pixel is the fraction of a 10 x 10 grid of
points that lies inside the circle, and the sky is the clipped median of an annulus.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from skygraft.demo.calexp import MASK_PLANES, ChebyshevCalib
from skygraft.demo.draw import Drawn
from skygraft.demo.sky import APERTURE_RADIUS, Sky
from skygraft.errors import CalibrationError

__all__ = ["Calibrated", "calibrate", "measure"]

ANNULUS = (32.0, 46.0)
NJY_AT_ZERO = 3630780547701.0026
BRIGHT, FAINT = 15.5, 20.0
# Chebyshev terms (i, j) with i + j <= 2.
TERMS = tuple((i, j) for j in range(3) for i in range(3) if i + j <= 2)
UNFIT = sum(1 << MASK_PLANES.index(name) for name in ("BAD", "SAT", "CR", "EDGE"))


@dataclass(frozen=True)
class Calibrated:
    """The calibration of one detector, and the stars that it was fitted to.

    ``index`` are the stars' numbers in the sky, ``flux`` and ``error`` their aperture fluxes and errors (counts), and
    ``used`` tells which of them the fit kept.
    """

    calib: ChebyshevCalib
    index: NDArray[np.int64]
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    flux: NDArray[np.float64]
    error: NDArray[np.float64]
    used: NDArray[np.bool_]


def measure(
    image: NDArray[np.float32],
    variance: NDArray[np.float32],
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    radius: float = APERTURE_RADIUS,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Measure fluxes inside circles and their standard errors; NaN where the sky annulus leaves the image.

    Parameters
    ----------
    image, variance : ndarray, shape (ny, nx)
    x, y : ndarray, shape (N,)
        Centres, 0-based pixels.
    radius : float
        Pixels.

    Returns
    -------
    flux, error : ndarray, shape (N,)
    """
    half = int(ANNULUS[1]) + 1
    flux, error = np.full(len(x), np.nan), np.full(len(x), np.nan)
    step = (np.arange(10) - 4.5) / 10
    rows, columns = np.mgrid[-half : half + 1, -half : half + 1]
    ny, nx = image.shape
    for i, (cx, cy) in enumerate(zip(x, y, strict=True)):
        ix, iy = round(float(cx)), round(float(cy))
        if not (half <= ix < nx - half and half <= iy < ny - half):
            continue
        box = np.s_[iy - half : iy + half + 1, ix - half : ix + half + 1]
        dx, dy = columns - (cx - ix), rows - (cy - iy)
        distance = np.hypot(dx, dy)
        weight = (distance < radius).astype(float)
        rim = np.abs(distance - radius) < 0.8
        inside = (dx[rim][:, None, None] + step) ** 2 + (dy[rim][:, None, None] + step[:, None]) ** 2 < radius**2
        weight[rim] = inside.mean(axis=(1, 2))
        ring = (distance > ANNULUS[0]) & (distance < ANNULUS[1])
        sky = _clipped_median(image[box][ring])
        flux[i] = (weight * image[box]).sum(dtype=np.float64) - sky * weight.sum()
        error[i] = np.sqrt((weight**2 * variance[box]).sum(dtype=np.float64))
    return flux, error


def _clipped_median(values: NDArray[np.float32]) -> float:
    """Median after clipping at 2.5 standard deviations, which removes wings of objects in the annulus."""
    for _ in range(4):
        middle = np.median(values)
        spread = 1.4826 * np.median(np.abs(values - middle))
        values = values[np.abs(values - middle) <= 2.5 * spread]
    return float(np.median(values))


def calibrate(sky: Sky, drawn: Drawn, band: str) -> Calibrated:
    """Fit nanojansky per count over the detector to its stars of known magnitude.

    Parameters
    ----------
    sky : Sky
        Its magnitudes serve as the reference catalogue.
    drawn : Drawn
        The image, with noise.
    band : str
        Band of the image.

    Raises
    ------
    CalibrationError
        If fewer than three stars are isolated.
    """
    mags = sky.mags[band]
    flux_all = 10 ** (-0.4 * mags[drawn.objects])
    stars = np.flatnonzero(sky.is_star[drawn.objects] & (mags[drawn.objects] > BRIGHT) & (mags[drawn.objects] < FAINT))
    # Isolated: all other flux within the aperture and its surroundings is less than 1/200 of the star's.
    tree = cKDTree(np.stack([drawn.x, drawn.y], axis=1))
    near = tree.query_ball_point(np.stack([drawn.x[stars], drawn.y[stars]], axis=1), APERTURE_RADIUS + 6)
    alone = [flux_all[others].sum() - flux_all[s] < 0.005 * flux_all[s] for s, others in zip(stars, near, strict=True)]
    stars = stars[np.array(alone, dtype=bool)]
    x, y = drawn.x[stars], drawn.y[stars]
    reach = int(APERTURE_RADIUS)
    ny, nx = drawn.image.shape
    clean = np.zeros(len(stars), dtype=bool)
    for i, (cx, cy) in enumerate(zip(np.rint(x).astype(int), np.rint(y).astype(int), strict=True)):
        if reach <= cx < nx - reach and reach <= cy < ny - reach:
            clean[i] = not (drawn.mask[cy - reach : cy + reach + 1, cx - reach : cx + reach + 1] & UNFIT).any()
    stars, x, y = stars[clean], x[clean], y[clean]
    flux, error = measure(drawn.image, drawn.variance, x, y)
    ok = np.isfinite(flux) & (flux > 0)
    stars, x, y, flux, error = stars[ok], x[ok], y[ok], flux[ok], error[ok]
    if len(stars) < 3:
        raise CalibrationError(
            f"only {len(stars)} stars stand alone on an image of {nx} x {ny} pixels; 3 are needed to calibrate it",
            fix="Make a survey with larger detectors or a higher star_density",
        )
    index = drawn.objects[stars]
    truth = NJY_AT_ZERO * 10 ** (-0.4 * mags[index]) / flux
    # Errors are at least a fifth of a per cent, to allow for faint neighbours that no catalogue contains.
    weight = 1 / (truth * np.hypot(error / flux, 0.002))
    u, v = 2 * (x + 0.5) / nx - 1, 2 * (y + 0.5) / ny - 1
    design = np.stack([np.cos(i * np.arccos(u)) * np.cos(j * np.arccos(v)) for i, j in TERMS], axis=1)
    terms = TERMS if len(stars) >= 3 * len(TERMS) else TERMS[:1]
    design = design[:, : len(terms)]
    used = np.ones(len(stars), dtype=bool)
    for _ in range(5):
        solution, *_ = np.linalg.lstsq(design[used] * weight[used, None], truth[used] * weight[used], rcond=None)
        pull = (truth - design @ solution) * weight
        spread = max(1.0, 1.4826 * float(np.median(np.abs(pull[used]))))
        used = np.abs(pull) < 3.5 * spread
    covariance = np.linalg.inv((design[used] * weight[used, None]).T @ (design[used] * weight[used, None]))
    coefficients = np.zeros((3, 3))
    for (i, j), value in zip(terms, solution, strict=True):
        coefficients[j, i] = value
    return Calibrated(ChebyshevCalib(coefficients, float(np.sqrt(covariance[0, 0]))), index, x, y, flux, error, used)
