"""Draw the demo's images with GalSim, object by object, and fit a PSFEx model to each.

skygraft's own rendering and photometry are not used, so that the survey is an independent test of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import galsim
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from skygraft.demo.calexp import MASK_PLANES, PsfexModel
from skygraft.demo.sky import Detector, Sky

__all__ = ["GAIN", "Drawn", "draw_detector", "fit_psfex"]

GAIN = 2.0
"""Electrons per count."""

READ_NOISE = 5.0  # electrons
SATURATION = 60000.0  # counts
MOFFAT_BETA = 2.5
DETECTION_SIGMA = 1.5  # pixels, of the smoothing before the threshold
STEP = 0.5  # pixels per sample of the PSFEx model
SAMPLES = 101
PARAMS = galsim.GSParams(folding_threshold=2e-3, maxk_threshold=2e-3)


@dataclass(frozen=True)
class Drawn:
    """A sky-subtracted image of one detector, and its objects: indices into the sky and pixel positions."""

    image: NDArray[np.float32]
    variance: NDArray[np.float32]
    mask: NDArray[np.int32]
    objects: NDArray[np.int64]
    x: NDArray[np.float64]
    y: NDArray[np.float64]


def true_psf(detector: Detector, x: float, y: float) -> galsim.GSObject:
    """Return the atmospheric PSF at a position, in pixel units, without the pixel response."""
    fwhm, g1, g2 = (float(value) for value in detector.psf_parameters(x, y))
    return galsim.Moffat(beta=MOFFAT_BETA, fwhm=fwhm, gsparams=PARAMS).shear(g1=g1, g2=g2)


def fit_psfex(detector: Detector) -> PsfexModel:
    """Fit a PSFEx model, quadratic in position, to 5 x 5 noise-free samples of the true effective PSF."""
    half, extent = (detector.size - 1) / 2, float(detector.size - 1)
    nodes = np.linspace(0.02, 0.98, 5) * (detector.size - 1)
    stack, terms = [], []
    for y in nodes:
        for x in nodes:
            effective = galsim.Convolve(true_psf(detector, x, y), galsim.Pixel(1.0))
            drawn = effective.drawImage(nx=SAMPLES, ny=SAMPLES, scale=STEP, method="no_pixel")
            stack.append(drawn.array.astype(np.float64).ravel())
            u, v = (x - half) / extent, (y - half) / extent
            terms.append([1.0, u, u * u, v, u * v, v * v])
    components, *_ = np.linalg.lstsq(np.array(terms), np.array(stack), rcond=None)
    return PsfexModel(
        components=components.reshape(6, SAMPLES, SAMPLES).astype(np.float32),
        step=STEP,
        offset=(half, half),
        scale=(extent, extent),  # as in PSFEx: u and v go from -1/2 to 1/2
        average=(half, half),
    )


def draw_detector(sky: Sky, detector: Detector, seed: int) -> Drawn:
    """Draw the image of one detector.

    Parameters
    ----------
    sky : Sky
        Stars and galaxies.
    detector : Detector
        Detector of a visit.
    seed : int
        Seed of the survey, for the noise.
    """
    visit, n = detector.visit, detector.size
    x, y = detector.wcs.all_world2pix(np.stack([sky.ra, sky.dec], axis=1), 0, maxiter=50, tolerance=1e-6).T
    margin = np.where(sky.is_star, 40.0, 40.0 + 3 * sky.half_light_radius / 0.2)
    near = np.flatnonzero((x > -margin) & (x < n + margin) & (y > -margin) & (y < n + margin))
    flux = 10 ** (-0.4 * (sky.mags[visit.band][near] - visit.zeropoint)) * detector.throughput(x[near], y[near])
    noise = np.sqrt(visit.sky / GAIN + (READ_NOISE / GAIN) ** 2)

    canvas = galsim.ImageF(galsim.BoundsI(0, n - 1, 0, n - 1), scale=1.0)
    for i, object_flux in zip(near, flux, strict=True):
        _add(canvas, sky, detector, int(i), float(x[i]), float(y[i]), float(object_flux), noise)

    rng = np.random.default_rng([seed, 3, visit.number, detector.number])
    expected = np.clip(canvas.array.astype(np.float64), 0, None) + visit.sky
    counts = rng.poisson(expected * GAIN) / GAIN + rng.normal(0, READ_NOISE / GAIN, (n, n))
    mask = np.zeros((n, n), dtype=np.int32)
    saturated = counts > SATURATION
    counts = np.minimum(counts, SATURATION)
    # As in a real pipeline, the variance plane is computed from the noisy counts.
    variance = np.clip(counts, visit.sky / 2, None) / GAIN + (READ_NOISE / GAIN) ** 2
    _cosmic_rays(rng, counts, mask)
    column = int(rng.integers(n // 8, n - n // 8))
    counts[: n // 3, column] = visit.sky
    mask[: n // 3, column] |= _bit("BAD") | _bit("INTRP")
    mask[saturated] |= _bit("SAT")
    image = counts - visit.sky
    smooth = ndimage.gaussian_filter(image, DETECTION_SIGMA)
    mask[smooth > 5 * noise / (2 * np.sqrt(np.pi) * DETECTION_SIGMA)] |= _bit("DETECTED")
    edge = np.ones((n, n), dtype=bool)
    edge[8:-8, 8:-8] = False
    mask[edge] |= _bit("EDGE")
    inside = (x[near] > -0.5) & (x[near] < n - 0.5) & (y[near] > -0.5) & (y[near] < n - 0.5)
    kept = near[inside]
    return Drawn(image.astype(np.float32), variance.astype(np.float32), mask, kept, x[kept], y[kept])


def _add(
    canvas: galsim.ImageF, sky: Sky, detector: Detector, i: int, x: float, y: float, flux: float, noise: float
) -> None:
    """Draw one object onto the canvas, out to where it is far below the noise."""
    psf = true_psf(detector, x, y)
    wide = flux / noise
    if sky.is_star[i]:
        profile = psf
        # A Moffat's wing falls as r^(-2 beta): the radius where it is 1/30 of the noise of one pixel.
        half = 6 * (wide / 3) ** (1 / (2 * MOFFAT_BETA))
    else:
        r = sky.half_light_radius[i]
        galaxy = galsim.Sersic(n=sky.n[i], half_light_radius=r, gsparams=PARAMS)
        galaxy = galaxy.shear(q=sky.q[i], beta=(90 - sky.pa[i]) * galsim.degrees)
        jacobian = galsim.JacobianWCS(*detector.jacobian(x, y).ravel())
        profile = galsim.Convolve(jacobian.toImage(galaxy), psf)
        half = max(6 * (wide / 3) ** (1 / (2 * MOFFAT_BETA)), r / 0.2 * (4 if sky.n[i] < 2 else 8))
    half = int(np.clip(half, 16, 256))
    box = galsim.BoundsI(round(x) - half, round(x) + half, round(y) - half, round(y) + half) & canvas.bounds
    if box.isDefined():
        offset = galsim.PositionD(x, y)
        profile.withFlux(flux).drawImage(image=canvas[box], center=offset, method="auto", add_to_image=True)


def _cosmic_rays(rng: np.random.Generator, counts: NDArray[np.float64], mask: NDArray[np.int32]) -> None:
    """Add a few straight tracks of cosmic rays."""
    n = len(counts)
    for _ in range(max(2, n // 100)):
        length, angle = rng.uniform(3, 25), rng.uniform(0, 2 * np.pi)
        x, y = rng.uniform(0, n, 2)
        steps = np.arange(0, length, 0.5)
        columns = (x + steps * np.cos(angle)).astype(int)
        rows = (y + steps * np.sin(angle)).astype(int)
        ok = (columns >= 0) & (columns < n) & (rows >= 0) & (rows < n)
        counts[rows[ok], columns[ok]] += rng.uniform(300, 2500)
        mask[rows[ok], columns[ok]] |= _bit("CR")


def _bit(name: str) -> int:
    return 1 << MASK_PLANES.index(name)
