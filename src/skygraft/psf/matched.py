"""Convolution kernels that match a template to a science image, and the template's PSF seen through one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skygraft.errors import ConfigError, PsfError
from skygraft.lazy import lazy_module
from skygraft.psf.base import PSF, Box
from skygraft.psf.coadd import in_polygon
from skygraft.psf.linear import LinearPSF, combine, frozen, positions

fft = lazy_module("scipy.fft")

__all__ = [
    "DifferenceImage",
    "MatchedPSF",
    "MatchingKernel",
    "TemplatePSF",
    "adaptive_moments",
    "gaussian_of_moments",
    "reshaped",
]

_SIGMAS = 6.0
_LARGEST_HALF = 200
"""Largest half-width of a Gaussian of given moments, pixels."""


@dataclass(frozen=True, eq=False)
class DifferenceImage:
    """How a difference image was made: science image minus the template convolved with a matching kernel.

    Parameters
    ----------
    kernel : MatchingKernel or None
        What the template was convolved with.
    template_psf : PSF or None
        PSF of the template, on the pixels of the science image, before that.
    origin : str
        Where the template's PSF comes from, for people and records.
    missing : str
        What is not there, where one of them is None.
    """

    kernel: MatchingKernel | None = None
    template_psf: PSF | None = None
    origin: str = ""
    missing: str = ""


class MatchingKernel(LinearPSF):
    """A convolution kernel that varies over an image: a sum of images, each times a function of position.

    Parameters
    ----------
    basis : array_like, shape (B, ny, nx)
        Images.
    center : (int, int)
        Column and row of the pixel of these images that is the kernel's origin.
    functions : sequence of callable
        One for each image: takes arrays of positions as keywords ``x`` and ``y``, and gives the image's weights.
    valid_box : Box, optional
        Where the kernel was fitted.

    Raises
    ------
    ConfigError
        If images and functions do not go together, or the centre is not on the images.
    PsfError
        If the images hold values that are not finite.
    """

    def __init__(
        self,
        basis: ArrayLike,
        center: tuple[int, int],
        functions: Sequence[Callable[..., Any]],
        *,
        valid_box: Box | None = None,
    ) -> None:
        images = np.asarray(basis, dtype=np.float64)
        if images.ndim != 3 or len(images) != len(functions) or not len(images):
            raise ConfigError(
                f"a matching kernel is images (B, ny, nx), each with its function of position, not an array of "
                f"{images.shape} with {len(functions)} functions"
            )
        if not all(0 <= c < n for c, n in zip(center[::-1], images.shape[1:], strict=True)):
            raise ConfigError(f"the centre {center} of the matching kernel is not on its images {images.shape[1:]}")
        half = [max(c, n - 1 - c) for c, n in zip(center[::-1], images.shape[1:], strict=True)]
        around = [(h - c, h - (n - 1 - c)) for h, c, n in zip(half, center[::-1], images.shape[1:], strict=True)]
        super().__init__(np.pad(images, [(0, 0), *around]), valid_box=valid_box)
        self._functions = tuple(functions)

    def coefficients(self, x: ArrayLike, y: ArrayLike) -> NDArray[np.float64]:
        """Evaluate the weights of the images at N positions.

        Parameters
        ----------
        x, y : array_like, shape (N,)
            Positions in parent pixels.

        Returns
        -------
        ndarray of float64, shape (N, B)

        Raises
        ------
        PsfError
            If one cannot be had, or is not finite.
        """
        x, y = positions(x, y)
        try:
            weights = np.stack([np.asarray(f(x=x, y=y), dtype=np.float64) for f in self._functions], axis=1)
        except Exception as error:  # of the library whose functions these are
            raise PsfError(f"the matching kernel cannot be evaluated: {type(error).__name__}: {error}") from error
        bad = ~np.isfinite(weights).all(axis=1)
        if bad.any():
            raise PsfError(f"the matching kernel has no value at position ({x[bad][0]:.1f}, {y[bad][0]:.1f})")
        return weights

    def sums(self, x: ArrayLike, y: ArrayLike) -> NDArray[np.float64]:
        """Sum the kernel at N positions: the factor by which it multiplies a flux.

        Parameters
        ----------
        x, y : array_like, shape (N,)
            Positions in parent pixels.

        Returns
        -------
        ndarray of float64, shape (N,)
        """
        return np.asarray((self.coefficients(x, y) * self.basis.sum(axis=(1, 2))).sum(axis=1))

    def median_sum(self, x: ArrayLike, y: ArrayLike) -> float | None:
        """Give the median of the kernel's sums at some positions.

        Parameters
        ----------
        x, y : array_like, shape (N,)
            Positions in parent pixels.

        Returns
        -------
        float or None
            None where the kernel has none.
        """
        try:
            sums = self.sums(x, y)
        except PsfError:
            return None
        return round(float(np.median(sums)), 6) if sums.size else None


class TemplatePSF(PSF):
    """The PSF of a template that was assembled from several: one kernel inside each polygon.

    Parameters
    ----------
    polygons : sequence of ndarray, shape (V, 2)
        Vertices (x, y) in parent pixels; where some overlap, their kernels are averaged.
    kernels : sequence of ndarray, shape (ny, nx)
        Odd-sized kernels of unit sum, one for each.

    Raises
    ------
    PsfError
        If there are none.
    """

    def __init__(self, polygons: Sequence[NDArray[np.float64]], kernels: Sequence[NDArray[np.float64]]) -> None:
        if not polygons:
            raise PsfError("no template has a PSF")
        half = [max(kernel.shape[axis] // 2 for kernel in kernels) for axis in (0, 1)]
        padded = [np.pad(k, [(h - n // 2,) * 2 for h, n in zip(half, k.shape, strict=True)]) for k in kernels]
        self._images = frozen(padded)
        self._polygons = [np.array(polygon, dtype=np.float64) for polygon in polygons]

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and columns (ny, nx) of every kernel; both odd."""
        _, ny, nx = self._images.shape
        return ny, nx

    def _weights(self, x: ArrayLike, y: ArrayLike) -> NDArray[np.float64]:
        x, y = positions(x, y)
        return np.stack([in_polygon(polygon, x, y) for polygon in self._polygons], axis=1).astype(np.float64)

    def defined(self, x: ArrayLike, y: ArrayLike) -> NDArray[np.bool_]:
        """Find the positions that a template covers.

        Parameters
        ----------
        x, y : array_like, shape (N,)
            Positions in parent pixels.

        Returns
        -------
        ndarray of bool, shape (N,)
        """
        return np.asarray(self._weights(x, y).any(axis=1))

    def kernels(self, x: ArrayLike, y: ArrayLike) -> NDArray[np.float64]:
        """Average the kernels of the templates that cover N positions.

        Parameters
        ----------
        x, y : array_like, shape (N,)
            Positions in parent pixels.

        Returns
        -------
        ndarray of float64, shape (N, ny, nx)
            Centred on the middle pixel; see `PSF.kernels`.

        Raises
        ------
        PsfError
            If no template covers a position.
        """
        weights = self._weights(x, y)
        total = weights.sum(axis=1)
        if not total.all():
            i = int(np.argmin(total))
            at = float(np.atleast_1d(x)[i]), float(np.atleast_1d(y)[i])
            raise PsfError(f"no template covers position ({at[0]:.1f}, {at[1]:.1f})")
        return combine(weights / total[:, None], self._images)

    @property
    def description(self) -> str:
        """Short description of the model, for people and records."""
        ny, nx = self.shape
        return f"TemplatePSF, {len(self._polygons)} templates, {nx} x {ny} pixels"


class MatchedPSF(PSF):
    """A template's PSF convolved with the kernel that matches it to the science image, both at the source's position.

    Parameters
    ----------
    kernel : MatchingKernel
        The kernel.
    template_psf : PSF
        The template's PSF on the pixels of the science image.
    """

    def __init__(self, kernel: MatchingKernel, template_psf: PSF) -> None:
        self._kernel, self._psf = kernel, template_psf
        self._valid_box = kernel.valid_box

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and columns (ny, nx) of every kernel; both odd."""
        ny, nx = (a + b - 1 for a, b in zip(self._kernel.shape, self._psf.shape, strict=True))
        return ny, nx

    def defined(self, x: ArrayLike, y: ArrayLike) -> NDArray[np.bool_]:
        """Find the positions at which the template's PSF has a kernel.

        Parameters
        ----------
        x, y : array_like, shape (N,)
            Positions in parent pixels.

        Returns
        -------
        ndarray of bool, shape (N,)
        """
        return self._psf.defined(x, y)

    def kernels(self, x: ArrayLike, y: ArrayLike) -> NDArray[np.float64]:
        """Convolve the template's kernels at N positions with the matching kernels there.

        Parameters
        ----------
        x, y : array_like, shape (N,)
            Positions in parent pixels.

        Returns
        -------
        ndarray of float64, shape (N, ny, nx)
            Centred on the middle pixel; see `PSF.kernels`.
        """
        size = [fft.next_fast_len(n, real=True) for n in self.shape]
        ny, nx = self.shape
        product = fft.rfft2(self._kernel.kernels(x, y), size) * fft.rfft2(self._psf.kernels(x, y), size)
        return np.asarray(fft.irfft2(product, size)[:, :ny, :nx])

    def flux_outside(self, x: ArrayLike, y: ArrayLike) -> NDArray[np.float64]:
        """Give the flux outside the kernel: what is outside the template's, times the matching kernel's sum.

        Parameters
        ----------
        x, y : array_like, shape (N,)
            Positions in parent pixels.

        Returns
        -------
        ndarray of float64, shape (N,)
        """
        return self._psf.flux_outside(x, y) * self._kernel.sums(x, y)

    @property
    def description(self) -> str:
        """Short description of the model, for people and records."""
        ny, nx = self.shape
        return f"{self._psf.description}, through a matching kernel, {nx} x {ny} pixels"


def gaussian_of_moments(xx: float, yy: float, xy: float) -> NDArray[np.float64]:
    """Draw the elliptical Gaussian of given second moments at pixel centres, scaled to unit sum.

    Parameters
    ----------
    xx, yy, xy : float
        Second moments, pixels squared.

    Returns
    -------
    ndarray of float64, shape (ny, nx)
        Six standard deviations to each side.

    Raises
    ------
    PsfError
        If no ellipse has them, or one too large to be a PSF.
    """
    determinant = xx * yy - xy**2
    if not (xx > 0 and yy > 0 and determinant > 0 and _SIGMAS * np.sqrt(max(xx, yy)) < _LARGEST_HALF):
        raise PsfError(f"second moments xx {xx:g}, yy {yy:g}, xy {xy:g} (pixels squared) are not those of a PSF")
    half = [int(np.ceil(_SIGMAS * np.sqrt(m))) for m in (yy, xx)]
    y, x = np.mgrid[-half[0] : half[0] + 1, -half[1] : half[1] + 1].astype(np.float64)
    kernel = np.exp(-0.5 * (yy * x**2 - 2 * xy * x * y + xx * y**2) / determinant)
    return np.asarray(kernel / kernel.sum())


def adaptive_moments(kernel: NDArray[np.float64]) -> tuple[float, float, float]:
    """Measure second moments of a kernel about its middle, weighted by the elliptical Gaussian that has them.

    They are what LSST's `computeShape` gives: wings and noise, which would rule unweighted moments, hardly count.

    Parameters
    ----------
    kernel : ndarray, shape (ny, nx)
        The kernel.

    Returns
    -------
    xx, yy, xy : float
        Pixels squared.

    Raises
    ------
    PsfError
        If there is no such ellipse.
    """
    y, x = np.indices(kernel.shape) - np.array(kernel.shape)[:, None, None] // 2
    moments = np.diag([4.0, 4.0])
    for _ in range(200):
        inverse = np.linalg.inv(moments)
        weighted = kernel * np.exp(-0.5 * (inverse[0, 0] * x**2 + 2 * inverse[0, 1] * x * y + inverse[1, 1] * y**2))
        total = weighted.sum()
        if not total > 0:
            break
        xx, yy, xy = ((weighted * m).sum() / total for m in (x * x, y * y, x * y))
        if not (xx > 0 and yy > 0 and xx * yy > xy**2):
            break
        # A Gaussian times an equal weight has half its moments: this undoes the effect of the weight.
        without = np.linalg.inv(np.array([[xx, xy], [xy, yy]])) - inverse
        if not (np.linalg.det(without) > 0 and np.trace(without) > 0):
            break
        new = np.linalg.inv(without)
        if np.abs(new - moments).max() < 1e-10 * np.trace(new):
            return float(new[0, 0]), float(new[1, 1]), float(new[0, 1])
        moments = new
    raise PsfError("the PSF has no adaptive second moments")


def reshaped(kernel: NDArray[np.float64], moments: tuple[float, float, float]) -> NDArray[np.float64]:
    """Stretch a kernel linearly until it has given adaptive moments (xx, yy, xy), pixels squared; of unit sum.

    Between pixels the kernel is interpolated without loss of what it is sampled for (by its Fourier series).

    Parameters
    ----------
    kernel : ndarray, shape (ny, nx)
        The kernel.
    moments : (float, float, float)
        Adaptive moments (xx, yy, xy) wanted, pixels squared.

    Returns
    -------
    ndarray of float64, shape (my, mx)

    Raises
    ------
    PsfError
        If the kernel has no moments, or those asked for are not those of a PSF.
    """
    gaussian_of_moments(*moments)  # refuses what is none
    xx, yy, xy = moments
    own = adaptive_moments(kernel)
    to_own = _root([[own[0], own[2]], [own[2], own[1]]]) @ np.linalg.inv(_root([[xx, xy], [xy, yy]]))
    reach = np.linalg.svd(np.linalg.inv(to_own), compute_uv=False)[0] * (max(kernel.shape) // 2)
    half = int(np.clip(np.ceil(reach), 1, _LARGEST_HALF))
    y, x = (v.ravel() for v in np.mgrid[-half : half + 1, -half : half + 1].astype(np.float64))
    at_x, at_y = to_own[0, 0] * x + to_own[0, 1] * y, to_own[1, 0] * x + to_own[1, 1] * y
    size = 2 * max(kernel.shape) + 1
    middle = [n // 2 for n in kernel.shape]
    padded = np.zeros((size, size))
    padded[: kernel.shape[0], : kernel.shape[1]] = kernel
    spectrum = fft.fft2(np.roll(padded, [-m for m in middle], axis=(0, 1))) / size**2
    waves_y, waves_x = (np.exp(2j * np.pi * at[:, None] * fft.fftfreq(size)) for at in (at_y, at_x))
    values = ((waves_y @ spectrum) * waves_x).sum(axis=1).real
    values[(np.abs(at_x) > middle[1] + 0.5) | (np.abs(at_y) > middle[0] + 0.5)] = 0.0
    total = values.sum()
    if not total > 0:
        raise PsfError("the PSF of these moments holds no light")
    return np.asarray((values / total).reshape(2 * half + 1, 2 * half + 1))


def _root(matrix: list[list[float]]) -> NDArray[np.float64]:
    """Symmetric square root of a positive definite matrix."""
    values, vectors = np.linalg.eigh(np.array(matrix))
    return np.asarray((vectors * np.sqrt(values)) @ vectors.T)
