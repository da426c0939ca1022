"""PSFs given by a formula (Gaussian, double Gaussian, Moffat), the same everywhere in the image.

Each takes ``pixel_integrated``, which says what its formula describes:

* False: the formula *is* the effective PSF. Kernels are its values at pixel centres, scaled to sum one. LSST's
  Gaussian PSF classes are made so.
* True: the formula is the PSF before the detector. Kernels are its integrals over pixels, which sum to what of its
  light falls into the kernel.

In both, the kernel's sum plus `flux_outside` is all of the light.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from math import erf, erfc
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skygraft.errors import ConfigError
from skygraft.psf.base import LARGEST_KERNEL
from skygraft.psf.fine import SubPixelBasis, whole_pixels
from skygraft.psf.kernel import FixedKernelPSF

__all__ = ["DoubleGaussianPSF", "GaussianPSF", "MoffatPSF"]

_SIGMA_TO_FWHM = 2 * np.sqrt(2 * np.log(2))
_WIDTHS = (0.01, 1000.0)
"""Smallest and largest width, pixels."""


class _Formula(Protocol):
    """A two-dimensional surface-brightness formula, up to a normalisation."""

    @property
    def width(self) -> float:
        """Full width at half maximum in pixels, before any integration over pixels."""

    def __call__(self, y: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Values at offsets y (M,) and x (N,) from the centre, shape (M, N)."""


class _FormulaBasis(SubPixelBasis):
    """A normalised formula, evaluated over the area of a kernel's pixels."""

    def __init__(self, formula: _Formula, total: float, shape: tuple[int, int]) -> None:
        super().__init__(shape, whole_pixels(shape), formula.width)
        self._formula, self._total = formula, total

    def evaluate(self, y: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.float64]:
        return self._formula(y, x)[None] / self._total


class _AnalyticPSF(FixedKernelPSF):
    """A PSF given by a formula: its kernel, and the flux outside of it."""

    def __init__(
        self,
        formula: _Formula,
        shape: tuple[int, int],
        outside: float,
        parameters: str,
        pixel_integrated: bool,
    ) -> None:
        y, x = (np.arange(-(n // 2), n // 2 + 1.0) for n in shape)
        kernel = formula(y, x)
        # The normalisation: the kernel's sum, where pixels are values of the formula at their centres.
        self._total = 1.0 if pixel_integrated else float(kernel.sum())
        super().__init__(kernel / self._total)
        self._formula = formula
        self._outside = float(outside) / self._total
        self._parameters = parameters
        self._pixel_integrated = pixel_integrated

    @property
    def sub_pixel(self) -> SubPixelBasis:
        """The formula, evaluated at any offset from the source's centre."""
        return _FormulaBasis(self._formula, self._total, self.shape)

    @property
    def pixel_integrated(self) -> bool:
        """Whether the formula is integrated over pixels (True), or is the effective PSF itself (False)."""
        return self._pixel_integrated

    def flux_outside(self, x: ArrayLike, y: ArrayLike) -> NDArray[np.float64]:
        """Flux per unit source flux that lies outside the kernel, by the formula, shape (N,)."""
        return np.full(self.coefficients(x, y).shape[0], self._outside)

    @property
    def description(self) -> str:
        """Short description of the model, for people and records."""
        ny, nx = self.shape
        how = "integrated over pixels" if self._pixel_integrated else "at pixel centres, sum one"
        return f"{type(self).__name__}, {self._parameters}, {nx} x {ny} pixels, {how}"


class GaussianPSF(_AnalyticPSF):
    """A circular Gaussian.

    Parameters
    ----------
    sigma, fwhm : float
        Standard deviation, or full width at half maximum, in pixels; exactly one of them.
    shape : (int, int), optional
        Rows and columns of the kernel, both odd; by default six sigma to each side.
    pixel_integrated : bool, optional
        Whether the Gaussian is to be integrated over pixels; by default it is the effective PSF: sampled at pixel
        centres and scaled to sum one, which gives the pixels of LSST's GaussianPsf and SingleGaussianPsf.

    Raises
    ------
    ConfigError
        If a size is not positive, or both or neither of `sigma` and `fwhm` are given.

    Examples
    --------
    >>> psf = GaussianPSF(fwhm=4.0)
    >>> psf.shape
    (21, 21)
    """

    def __init__(
        self,
        sigma: float | None = None,
        *,
        fwhm: float | None = None,
        shape: tuple[int, int] | None = None,
        pixel_integrated: bool = False,
    ) -> None:
        if (sigma is None) == (fwhm is None):
            raise ConfigError("a Gaussian PSF takes either sigma or fwhm, in pixels", key="sigma")
        if sigma is None:
            sigma = _positive(fwhm, "fwhm") / _SIGMA_TO_FWHM
        sigma = _positive(sigma, "sigma")
        shape = _shape(shape, 6 * sigma)
        formula = _Gaussians(((1.0, sigma),), pixel_integrated)
        super().__init__(formula, shape, formula.outside(shape), f"sigma {sigma:.4g} pixels", pixel_integrated)
        self._sigma = sigma

    @property
    def sigma(self) -> float:
        """Standard deviation in pixels."""
        return self._sigma


class DoubleGaussianPSF(_AnalyticPSF):
    """Two concentric circular Gaussians: ``exp(-r^2 / 2 sigma1^2) + b exp(-r^2 / 2 sigma2^2)``, scaled.

    Parameters
    ----------
    sigma1, sigma2 : float
        Standard deviations in pixels.
    b : float
        Peak of the second, in units of the peak of the first; not negative.
    shape : (int, int), optional
        Rows and columns of the kernel, both odd; by default six of the larger sigma to each side.
    pixel_integrated : bool, optional
        As for `GaussianPSF`; by default the pixels are those of LSST's DoubleGaussianPsf.

    Raises
    ------
    ConfigError
        If a size is not positive, or `b` is negative.
    """

    def __init__(
        self,
        sigma1: float,
        sigma2: float,
        b: float,
        *,
        shape: tuple[int, int] | None = None,
        pixel_integrated: bool = False,
    ) -> None:
        sigma1, sigma2 = _positive(sigma1, "sigma1"), _positive(sigma2, "sigma2")
        if not 0 <= b < np.inf:
            raise ConfigError(f"b is {b!r}; the second Gaussian's relative peak is not negative, and finite", key="b")
        shape = _shape(shape, 6 * (max(sigma1, sigma2) if b else sigma1))
        formula = _Gaussians(((1.0, sigma1), (float(b), sigma2)), pixel_integrated)
        parameters = f"sigma {sigma1:.4g} and {sigma2:.4g} pixels, b {b:.4g}"
        super().__init__(formula, shape, formula.outside(shape), parameters, pixel_integrated)


class MoffatPSF(_AnalyticPSF):
    """A circular Moffat: surface brightness proportional to ``(1 + r^2 / alpha^2)^-beta``.

    Parameters
    ----------
    fwhm : float
        Full width at half maximum of the formula, in pixels (integrating over pixels widens it).
    beta : float, optional
        Exponent; above one, so that the flux is finite.
    shape : (int, int), optional
        Rows and columns of the kernel, both odd; by default six FWHM to each side (of beta 2.5 that holds 0.997).
    pixel_integrated : bool, optional
        Whether the Moffat is the PSF before the detector and is to be integrated over pixels (the default), or is
        the effective PSF itself.

    Raises
    ------
    ConfigError
        If `fwhm` is not positive, or `beta` is not above one.

    References
    ----------
    Moffat 1969, A&A 3, 455; Trujillo et al. 2001, MNRAS 328, 977.
    """

    def __init__(
        self,
        fwhm: float,
        beta: float = 2.5,
        *,
        shape: tuple[int, int] | None = None,
        pixel_integrated: bool = True,
    ) -> None:
        fwhm = _positive(fwhm, "fwhm")
        if not 1 < beta < np.inf:
            raise ConfigError(
                f"beta is {beta!r}; the flux of a Moffat is finite only for a finite beta above 1", key="beta"
            )
        shape = _shape(shape, 6 * fwhm)
        formula = _Moffat(fwhm, float(beta), pixel_integrated)
        outside = _moffat_outside(shape, formula.alpha, beta)
        super().__init__(formula, shape, outside, f"FWHM {fwhm:.4g} pixels, beta {beta:.4g}", pixel_integrated)
        self._fwhm, self._beta = fwhm, float(beta)

    @property
    def fwhm(self) -> float:
        """Full width at half maximum of the formula, in pixels."""
        return self._fwhm

    @property
    def beta(self) -> float:
        """Exponent of the formula."""
        return self._beta


def _positive(value: float | None, name: str) -> float:
    if value is None or not _WIDTHS[0] <= value <= _WIDTHS[1]:
        raise ConfigError(
            f"{name} is {value!r}; it must be a positive number of pixels, {_WIDTHS[0]:g} to {_WIDTHS[1]:g}", key=name
        )
    return float(value)


def _shape(shape: tuple[int, int] | None, reach: float) -> tuple[int, int]:
    """Check a kernel shape; by default take the smallest odd square that reaches `reach` pixels from the centre."""
    if shape is None:
        n = 2 * int(np.ceil(reach - 0.5)) + 1
        shape = (n, n)
    ny, nx = (int(n) for n in shape)
    if ny < 1 or nx < 1 or not (ny % 2 and nx % 2) or max(ny, nx) > LARGEST_KERNEL:
        raise ConfigError(
            f"a kernel of {ny} x {nx} pixels; rows and columns must be odd and at most {LARGEST_KERNEL}", key="shape"
        )
    return ny, nx


@dataclass(frozen=True)
class _Gaussians:
    """A sum of Gaussians, each given by its peak and sigma; of unit flux if integrated over pixels.

    Else its values are in units of the sum of peaks that is given.
    """

    parts: tuple[tuple[float, float], ...]
    integrated: bool

    @property
    def width(self) -> float:
        return float(_SIGMA_TO_FWHM * min(sigma for peak, sigma in self.parts if peak > 0))

    @property
    def _unit(self) -> float:
        return sum(2 * np.pi * peak * sigma**2 for peak, sigma in self.parts) if self.integrated else 1.0

    def __call__(self, y: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.float64]:
        values = np.zeros((y.size, x.size))
        for peak, sigma in self.parts:
            values += peak * np.outer(*(_profile(at, sigma, self.integrated) for at in (y, x)))
        return values / self._unit

    def outside(self, shape: tuple[int, int]) -> float:
        """Flux outside of a kernel's pixels, in the same units."""
        outside = 0.0
        for peak, sigma in self.parts:
            rows, columns = (_profile(np.arange(-(n // 2), n // 2 + 1.0), sigma, self.integrated).sum() for n in shape)
            tails = [_tail(n // 2, sigma, self.integrated) for n in shape]
            # Equals all - inside, without the cancellation of nearly equal numbers.
            outside += peak * (tails[0] * (columns + tails[1]) + rows * tails[1])
        return float(outside / self._unit)


def _profile(at: NDArray[np.float64], sigma: float, integrated: bool) -> NDArray[np.float64]:
    """A one-dimensional Gaussian of unit peak at offsets: its values, or integrals over the pixels about them."""
    if not integrated:
        values: NDArray[np.float64] = np.exp(-0.5 * (at / sigma) ** 2)
        return values
    root, distance = np.sqrt(2) * sigma, np.abs(at)
    # The difference of two erfc keeps the relative precision of the wings, which that of two erf would lose.
    far = distance >= 0.5
    edges = [np.array([erfc(v) for v in (distance + side) / root]) for side in (-0.5, 0.5)]
    inner = np.array([erf(v) for v in (distance + 0.5) / root]) + np.array([erf(v) for v in (0.5 - distance) / root])
    scaled: NDArray[np.float64] = sigma * np.sqrt(np.pi / 2) * np.where(far, edges[0] - edges[1], inner)
    return scaled


def _tail(half: int, sigma: float, pixel_integrated: bool) -> float:
    """Flux of `_profile` beyond `half` pixels on both sides, of its sum over pixel centres or of its integral."""
    if pixel_integrated:
        return float(sigma * np.sqrt(2 * np.pi) * erfc((half + 0.5) / (np.sqrt(2) * sigma)))
    i = np.arange(half + 1.0, max(half + 2.0, np.ceil(40 * sigma)))
    return float(2 * np.exp(-0.5 * (i / sigma) ** 2).sum())


@dataclass(frozen=True)
class _Moffat:
    """A Moffat of unit flux."""

    fwhm: float
    beta: float
    integrated: bool

    @property
    def width(self) -> float:
        return self.fwhm

    @property
    def alpha(self) -> float:
        """Core radius, pixels."""
        return float(self.fwhm / (2 * np.sqrt(2 ** (1 / self.beta) - 1)))

    def __call__(self, y: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.float64]:
        alpha = self.alpha
        nodes, weights = np.zeros(1), np.ones(1)
        if self.integrated:
            # Gauss-Legendre converges as (t + sqrt(t^2 + 1))^-2n with t = 2 alpha: the formula's pole is alpha away
            t = 2 * alpha
            n = int(np.clip(np.ceil(18 / np.log(t + np.sqrt(t * t + 1))), 6, 64))
            nodes, weights = _gauss_legendre(n)
            nodes, weights = nodes / 2, weights / 2
        # One quadrant is all of it.
        (y, all_y), (x, all_x) = (np.unique(np.abs(at), return_inverse=True) for at in (y, x))
        corner = np.zeros((y.size, x.size))
        columns = [(x + node) ** 2 for node in nodes]
        for node_y, weight_y in zip(nodes, weights, strict=True):
            rows = ((y + node_y) ** 2)[:, None]
            for column, weight_x in zip(columns, weights, strict=True):
                corner += weight_x * weight_y * (1 + (rows + column) / alpha**2) ** -self.beta
        return (self.beta - 1) / (np.pi * alpha**2) * corner[np.ix_(all_y, all_x)]


@functools.cache
def _gauss_legendre(n: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Nodes and weights of `n` points, found once: 96 take longer than the rest of a small model together."""
    nodes, weights = np.polynomial.legendre.leggauss(n)
    for array in (nodes, weights):
        array.flags.writeable = False  # everybody has the same ones
    return nodes, weights


def _moffat_outside(shape: tuple[int, int], alpha: float, beta: float) -> float:
    """Flux of a unit-flux Moffat outside the rectangle of a kernel.

    Beyond radius R in a sector dt lies ``(1 + R^2 / alpha^2)^(1 - beta) dt / 2 pi``; R runs along the rectangle's edge.
    """
    half_y, half_x = (n / 2 for n in shape)
    nodes, weights = _gauss_legendre(96)
    outside = 0.0
    for near, far in ((half_x, half_y), (half_y, half_x)):
        # one eighth: the edge at distance `near`, from the axis to the corner, as seen from the centre
        end = np.arctan2(far, near)
        angle = end * (nodes + 1) / 2
        outside += float((weights * (1 + (near / (alpha * np.cos(angle))) ** 2) ** (1 - beta)).sum() * end / 2)
    return outside * 4 / (2 * np.pi)
