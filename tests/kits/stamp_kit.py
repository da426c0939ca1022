"""Stamps made of Gaussians, whose light on any image is a formula."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from skygraft.psf import FixedKernelPSF
from skygraft.render import Sources

L_SHAPE = ((0.0, 0.0, 1.0), (0.0, 1.9, 0.7), (0.0, 3.4, 0.4), (1.6, 0.0, 0.5))
"""Offsets (East, North) in arcsec and fluxes of an L: an arm to the North, a short one to the East."""


@dataclass(frozen=True)
class Blobs:
    """Round Gaussians on the sky.

    Parameters
    ----------
    parts : sequence of (float, float, float)
        Offsets (East, North) in arcsec, and fluxes.
    sigma : float
        Arcsec.
    """

    parts: Sequence[tuple[float, float, float]] = L_SHAPE
    sigma: float = 0.45

    @property
    def total(self) -> float:
        """Sum of the fluxes."""
        return sum(flux for _, _, flux in self.parts)

    def on(
        self,
        jacobian: NDArray[np.float64],
        shape: tuple[int, int],
        at: tuple[float, float],
        *,
        turn: NDArray[np.float64] | None = None,
        psf_variance: float = 0.0,
    ) -> NDArray[np.float64]:
        """Light in an image's pixels, by its Jacobian (arcsec per pixel), what turns the sky before, and the PSF."""
        to_pixels = np.linalg.inv(jacobian) @ (np.eye(2) if turn is None else turn)
        covariance = self.sigma**2 * to_pixels @ to_pixels.T + psf_variance * np.eye(2)
        inverse = np.linalg.inv(covariance)
        y, x = np.mgrid[: shape[0], : shape[1]]
        image = np.zeros(shape)
        for east, north, flux in self.parts:
            dx, dy = to_pixels @ [east, north]
            u, v = x - at[0] - dx, y - at[1] - dy
            form = inverse[0, 0] * u * u + 2 * inverse[0, 1] * u * v + inverse[1, 1] * v * v
            image += flux / (2 * np.pi * np.sqrt(np.linalg.det(covariance))) * np.exp(-0.5 * form)
        return image

    def stamp(self, jacobian: NDArray[np.float64], shape: tuple[int, int]) -> NDArray[np.float64]:
        """Pixels of a stamp."""
        return self.on(jacobian, shape, ((shape[1] - 1) / 2, (shape[0] - 1) / 2))

    def write(self, path: Path, jacobian: NDArray[np.float64] | None, shape: tuple[int, int]) -> str:
        """Write a stamp; without a Jacobian, one of 0.2 arcsec a pixel without a WCS."""
        given = np.diag([0.2, 0.2]) if jacobian is None else jacobian
        fits.writeto(path, self.stamp(given, shape), wcs_header(jacobian, shape), overwrite=True)
        return str(path)


def wcs_header(jacobian: NDArray[np.float64] | None, shape: tuple[int, int]) -> fits.Header:
    """Header of a tangent-plane WCS with a Jacobian in arcsec per pixel, rows (East, North)."""
    header = fits.Header()
    if jacobian is not None:
        header["CTYPE1"], header["CTYPE2"] = "RA---TAN", "DEC--TAN"
        header["CRVAL1"], header["CRVAL2"] = 33.0, 41.0
        header["CRPIX1"], header["CRPIX2"] = (shape[1] + 1) / 2, (shape[0] + 1) / 2
        for i in range(2):
            for j in range(2):
                header[f"CD{i + 1}_{j + 1}"] = float(jacobian[i, j]) / 3600
    return header


def turned(scale: float, angle: float, *, mirrored: bool = False, squeezed: float = 1.0) -> NDArray[np.float64]:
    """A Jacobian: arcsec a pixel, angle from North of the y axis, East to the left unless it is mirrored."""
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    rotation = np.array([[c, s], [-s, c]])
    return rotation @ np.diag([scale if mirrored else -scale, scale * squeezed])


def sources_of(
    jacobian: NDArray[np.float64], x: Sequence[float], y: Sequence[float], flux: float, **columns: Any
) -> Sources:
    """Stamps at positions, all alike but for columns that are given as lists."""
    n = len(x)
    shape = {k: np.array(v if isinstance(v, (list, np.ndarray)) else [v] * n) for k, v in columns.items()}
    return Sources(
        np.arange(n), np.full(n, "Stamp"), np.array(x, float), np.array(y, float), np.full(n, flux),
        np.repeat(jacobian[None], n, axis=0), shape,
    )  # fmt: skip


class OneScale:
    """A normalisation that leaves kernels as they are."""

    def __call__(self, kernels: Any, x: Any, y: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        return np.ones(len(x)), np.ones(len(x))

    def of_coefficients(self, coefficients: Any, x: Any, y: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        return np.ones(len(x)), np.ones(len(x))


def gaussian_psf(sigma: float, half: int = 20) -> FixedKernelPSF:
    """A Gaussian on pixels, sum one."""
    y, x = np.mgrid[-half : half + 1, -half : half + 1]
    return FixedKernelPSF(np.exp(-(x**2 + y**2) / (2 * sigma**2)), normalize=True)
