"""Images of stars whose curves of growth are known in closed form, and the catalogues to judge them by."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skygraft.exposure import Exposure, make_planes
from skygraft.photometry import CalibrationAperture, CalibrationReference, PhotoCalib
from skygraft.psf import MoffatPSF
from skygraft.testing import MASK_PLANES, make_exposure

FWHM, BETA = 4.0, 3.0
ALPHA = FWHM / (2 * np.sqrt(2 ** (1 / BETA) - 1))
ZEROPOINT = 27.0
GAIN = 2.0
SKY_VARIANCE = 36.0


def enclosed(radius: float | NDArray[np.float64]) -> NDArray[np.float64]:
    """Part of a Moffat profile's light inside a radius (pixels): 1 - (1 + (r / alpha)**2)**(1 - beta)."""
    return np.asarray(1 - (1 + (np.asarray(radius) / ALPHA) ** 2) ** (1 - BETA))


def moffat(shape: tuple[int, int], x: float, y: float, fwhm: float = FWHM) -> NDArray[np.float64]:
    """A Moffat profile of unit light, sampled at the pixels' centres."""
    alpha = ALPHA * fwhm / FWHM
    dy, dx = np.arange(shape[0])[:, None] - y, np.arange(shape[1])[None, :] - x
    return np.asarray((BETA - 1) / (np.pi * alpha**2) * (1 + (dx**2 + dy**2) / alpha**2) ** -BETA)


@dataclass(frozen=True)
class Field:
    """Stars on a jittered grid: positions (pixels), fluxes in all (image units), and their light without noise."""

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    flux: NDArray[np.float64]
    light: NDArray[np.float64]


def star_field(size: int = 384, step: int = 84, seed: int = 0, bright: float = 4e5, faint: float = 4e4) -> Field:
    """Isolated stars, at least `step` - 8 pixels apart."""
    rng = np.random.default_rng(seed)
    places = np.arange(step // 2 + 4, size - step // 2, step)
    gx, gy = (g.ravel() + rng.uniform(-4, 4, g.size) for g in np.meshgrid(places, places))
    flux = np.exp(rng.uniform(np.log(faint), np.log(bright), gx.size))
    light = np.zeros((size, size))
    for x, y, f in zip(gx, gy, flux, strict=True):
        light += f * moffat((size, size), x, y)
    return Field(gx, gy, flux, light)


@functools.cache
def _blank(shape: tuple[int, int], reference: CalibrationReference) -> Exposure:
    return make_exposure(shape, psf=MoffatPSF(fwhm=FWHM, beta=BETA), reference=reference, gain=GAIN)


def observe(
    field: Field, seed: int, *, stated: CalibrationReference | None = None, zeropoint: float = ZEROPOINT
) -> Exposure:
    """The field with photon noise and that of the sky, whose record says that its zeropoint is of `stated`."""
    rng = np.random.default_rng([seed, 77])
    variance = SKY_VARIANCE + field.light / GAIN
    image = field.light + np.sqrt(variance) * rng.standard_normal(field.light.shape) + 50.0
    reference = stated or CalibrationAperture(12.0, 2.4, "made for a test")
    planes = make_planes(image, variance, mask_planes=MASK_PLANES)
    calib = PhotoCalib.from_zeropoint(zeropoint, reference=reference, reference_origin="made for a test")
    return _blank(field.light.shape, reference).replace(planes=planes, photo_calib=calib)


def magnitudes(field: Field, true_radius: float, zeropoint: float = ZEROPOINT) -> NDArray[np.float64]:
    """Magnitudes for which the zeropoint is that of the flux inside `true_radius`; infinity stands for all light."""
    inside = 1.0 if np.isinf(true_radius) else enclosed(true_radius)
    return np.asarray(zeropoint - 2.5 * np.log10(field.flux * inside))
