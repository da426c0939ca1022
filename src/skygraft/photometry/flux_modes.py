"""Factors that PSF kernels are multiplied by, so that the calibration measures the flux that was meant.

With F the calibrated flux of a source, K its kernel as the PSF model gives it, S the sum of K, A(r) the flux of K
inside radius r, and O the flux that the model says lies outside of the kernel:

=========== ================================================== =======================================
reference   F is                                               the kernel is scaled by
=========== ================================================== =======================================
aperture    the flux inside radius r                           1 / A(r)
PSF model   the amplitude of a fit of the PSF with unit sum    1 / S
total       the flux in an infinite plane                      1 / (S + O)
=========== ================================================== =======================================

``calibrated`` follows the image's own reference; the other modes choose one line of the table whatever the image
says: ``aperture`` the first (with the radius asked for), ``psf_sum`` the second, ``total`` the third.

Nothing here assumes that S is one (real PSFEx models sum to 1.01 to 1.08) or that A(r) is at most S (a model with
negative wings has A > S).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skygraft.errors import ConfigError, PsfError, UnknownApertureError
from skygraft.photometry.aperture import ApertureMethod, enclosed_flux, kernel_holds_aperture
from skygraft.photometry.reference import (
    PSF_MODEL,
    TOTAL,
    CalibrationAperture,
    CalibrationReference,
)

__all__ = ["FLUX_MODES", "BasisScale", "FluxMode", "KernelScale", "kernel_scale", "psf_sum_offset", "weighted"]

type FluxMode = Literal["calibrated", "aperture", "psf_sum", "total"]

FLUX_MODES: tuple[FluxMode, ...] = get_args(FluxMode.__value__)
"""Names of the flux modes."""


@dataclass(frozen=True, eq=False)
class KernelScale:
    """The factor for each kernel of a batch, and the sums it was computed from.

    Parameters
    ----------
    scale : ndarray of float64, shape (N,)
        ``scale * kernel * F`` holds F inside the reference.
    aperture_flux : ndarray of float64, shape (N,)
        A(r): flux of each kernel, as given, inside the aperture; NaN where no aperture is concerned.
    kernel_sum : ndarray of float64, shape (N,)
        S: the sum of each kernel, as given.
    model_sum : ndarray of float64, shape (N,)
        S + O: all the light of the model.
    radius_pixels : float or None
        The aperture's radius.
    holds_aperture : bool
        False where the kernel is smaller than the aperture: A(r) is then of what the kernel holds.
    """

    scale: NDArray[np.float64]
    aperture_flux: NDArray[np.float64]
    kernel_sum: NDArray[np.float64]
    model_sum: NDArray[np.float64]
    radius_pixels: float | None = None
    holds_aperture: bool = True

    @property
    def aperture_fraction(self) -> NDArray[np.float64]:
        """Part of the model's own light inside the aperture, A(r) / (S + O), shape (N,); NaN without an aperture.

        Whatever the model sums to: what is measured on a star, over all of the star's light. It is above one only
        where the model has negative wings.
        """
        return _ratio(self.aperture_flux, self.model_sum)

    @property
    def psf_sum_offset(self) -> NDArray[np.float64]:
        """Magnitude offset of stars scaled to unit sum; see `psf_sum_offset`."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(2.5 * np.log10(self.scale * self.kernel_sum))


def _ratio(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    """``one / other``, NaN where there is nothing to divide by."""
    result = np.full(len(one), np.nan)
    np.divide(one, other, out=result, where=np.isfinite(other) & (other > 0))
    return result


def kernel_scale(
    flux_mode: FluxMode,
    reference: CalibrationReference | None,
    kernels: ArrayLike,
    flux_outside: ArrayLike = 0.0,
    *,
    radius: float | None = None,
    method: ApertureMethod = "sinc",
    invalid: Literal["raise", "nan"] = "raise",
) -> KernelScale:
    """Compute the factor that scales each kernel to the calibration, by the table of this module.

    Parameters
    ----------
    flux_mode : {"calibrated", "aperture", "psf_sum", "total"}
        Which line of the table.
    reference : CalibrationAperture, PSF_MODEL, TOTAL or None
        What the image's calibrated flux is the flux of; needed for ``calibrated``.
    kernels : array_like, shape (N, ny, nx)
        Effective PSFs, as the model gives them, one for each position.
    flux_outside : array_like, shape (N,) or scalar
        Flux, per unit source flux, that the model says lies outside of the kernel (`PSF.flux_outside`).
    radius : float, optional
        Pixels; needed for ``aperture``, refused otherwise.
    method : {"sinc", "exact"}
        How A(r) is measured.
    invalid : {"raise", "nan"}
        What to do about a kernel whose flux is not positive and finite: raise, or give it a scale of NaN.

    Returns
    -------
    KernelScale

    Raises
    ------
    ConfigError
        If the mode is unknown, or a radius is missing or out of place.
    UnknownApertureError
        If the mode is ``calibrated`` and `reference` is None.
    PsfError
        If a kernel's flux inside the reference is zero, negative or not finite (and `invalid` is ``"raise"``).
    """
    radius = _radius(flux_mode, reference, radius)
    batch = np.asarray(kernels, dtype=np.float64)
    batch = batch[None] if batch.ndim == 2 else batch
    if batch.ndim != 3:
        raise PsfError(f"kernels have shape {np.shape(kernels)}; (N, ny, nx) is needed")
    sums = batch.sum(axis=(1, 2))
    inside, shape = None, (batch.shape[1], batch.shape[2])
    if radius is not None:
        inside = enclosed_flux(batch, radius, method=method)
    return _scale(flux_mode, reference, sums, inside, flux_outside, radius, shape, invalid)


def psf_sum_offset(
    reference: CalibrationReference, kernels: ArrayLike, flux_outside: ArrayLike = 0.0
) -> NDArray[np.float64]:
    """Compute the magnitude offset of a star with ``flux_mode="psf_sum"`` from one with ``"calibrated"``.

    Parameters
    ----------
    reference : CalibrationAperture, PSF_MODEL or TOTAL
        What the image's calibrated flux is the flux of, and what is measured.
    kernels : array_like, shape (N, ny, nx)
        Effective PSFs, as the model gives them; they need not sum to one.
    flux_outside : array_like, shape (N,) or scalar
        Flux that the model says lies outside of the kernel (`PSF.flux_outside`).

    Returns
    -------
    ndarray of float64, shape (N,)
        For an aperture ``-2.5 log10(A(r) / S)``: positive (too faint) by the light outside the aperture. NaN for a
        kernel whose flux is not positive.

    Raises
    ------
    PsfError
        If the kernels are not (N, ny, nx).
    """
    return kernel_scale("calibrated", reference, kernels, flux_outside, invalid="nan").psf_sum_offset


class BasisScale:
    """`kernel_scale` for a PSF that is a sum of basis images.

    Sums and aperture fluxes are linear in the kernel: they are measured once, on the basis, and a position needs its
    coefficients only.

    Parameters
    ----------
    flux_mode : {"calibrated", "aperture", "psf_sum", "total"}
        What a source's flux is the flux of.
    reference : CalibrationAperture, PSF_MODEL, TOTAL or None
        What a calibrated flux is the flux of.
    basis : ndarray, shape (B, ny, nx)
        The PSF's basis images.
    radius : float, optional
        Pixels; of ``flux_mode="aperture"`` alone.
    method : {"sinc", "exact"}
        How light is summed inside an aperture; see `ApertureMethod`.

    Raises
    ------
    ConfigError, UnknownApertureError
        As `kernel_scale`.
    """

    def __init__(
        self,
        flux_mode: FluxMode,
        reference: CalibrationReference | None,
        basis: NDArray[np.float64],
        *,
        radius: float | None = None,
        method: ApertureMethod = "sinc",
    ) -> None:
        self._mode, self._reference = flux_mode, reference
        self._radius = _radius(flux_mode, reference, radius)
        self._shape = basis.shape[1], basis.shape[2]
        self._sums = basis.sum(axis=(1, 2))
        self._fluxes = None if self._radius is None else enclosed_flux(basis, self._radius, method=method)

    def __call__(
        self,
        coefficients: NDArray[np.float64],
        flux_outside: ArrayLike = 0.0,
        *,
        invalid: Literal["raise", "nan"] = "raise",
    ) -> KernelScale:
        """Compute the factors of kernels ``coefficients @ basis``.

        Parameters
        ----------
        coefficients : ndarray, shape (N, B)
            Weights of the basis images.
        flux_outside : array_like, shape (N,)
            Flux per unit source flux that lies outside the kernels.
        invalid : {"raise", "nan"}
            What becomes of a kernel without light inside the aperture.

        Returns
        -------
        KernelScale
        """
        sums = weighted(coefficients, self._sums)
        inside = None if self._fluxes is None else weighted(coefficients, self._fluxes)
        return self._of(sums, inside, flux_outside, invalid)

    def _of(
        self,
        sums: NDArray[np.float64],
        inside: NDArray[np.float64] | None,
        flux_outside: ArrayLike,
        invalid: Literal["raise", "nan"],
    ) -> KernelScale:
        """Compute the factors of kernels with these sums and aperture fluxes."""
        return _scale(self._mode, self._reference, sums, inside, flux_outside, self._radius, self._shape, invalid)


def weighted(coefficients: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute ``coefficients @ values``, summed in one order however many positions there are.

    Parameters
    ----------
    coefficients : ndarray, shape (N, B)
        Weights.
    values : ndarray, shape (B,)
        A value for each basis image.

    Returns
    -------
    ndarray of float64, shape (N,)
    """
    total = np.zeros(len(coefficients))
    for column, value in zip(coefficients.T, values, strict=True):
        total += column * value
    return total


def _radius(flux_mode: FluxMode, reference: CalibrationReference | None, radius: float | None) -> float | None:
    """Find the aperture's radius, None where there is no aperture; raises as `kernel_scale`."""
    if flux_mode not in FLUX_MODES:
        raise ConfigError(f"flux_mode is {flux_mode!r}; allowed: {', '.join(FLUX_MODES)}", key="flux_mode")
    if (flux_mode == "aperture") != (radius is not None):
        problem = "needs a radius" if radius is None else "takes no radius"
        raise ConfigError(
            f"flux_mode {flux_mode!r} {problem}",
            key="aperture",
            fix="Give the radius, for example aperture: 12 pix"
            if radius is None
            else "Leave the radius out, or use flux_mode 'aperture'",
        )
    if flux_mode == "calibrated" and reference is None:
        raise UnknownApertureError(
            "nothing says what the image's calibrated flux is the flux of, and flux_mode is 'calibrated'",
            fix="Give the calibration aperture (aperture='12 pix'), or another flux_mode",
        )
    if radius is None and isinstance(reference, CalibrationAperture):
        return reference.radius_pixels
    return radius


def _scale(
    flux_mode: FluxMode,
    reference: CalibrationReference | None,
    sums: NDArray[np.float64],
    inside: NDArray[np.float64] | None,
    flux_outside: ArrayLike,
    radius: float | None,
    shape: tuple[int, int],
    invalid: Literal["raise", "nan"],
) -> KernelScale:
    """Compute the factors from the sums S and the aperture fluxes A(r) of the kernels."""
    holds = radius is None or kernel_holds_aperture(shape, radius)
    inside = np.full(len(sums), np.nan) if inside is None else inside
    whole = sums + np.asarray(flux_outside, dtype=np.float64)
    if flux_mode == "psf_sum" or (flux_mode == "calibrated" and reference is PSF_MODEL):
        held, meaning = sums, "sums to"
    elif flux_mode == "total" or (flux_mode == "calibrated" and reference is TOTAL):
        held, meaning = whole, "with its wings sums to"
    else:
        held, meaning = inside, f"holds, inside {radius:g} pixels,"
    good = np.isfinite(held) & (held > 0)
    if invalid == "raise" and not good.all():
        worst = int(np.flatnonzero(~good)[0])
        raise PsfError(
            f"the PSF kernel at position {worst} of {len(sums)} {meaning} {held[worst]:g}; "
            "a positive, finite flux is needed to tie it to the calibration",
            row=worst,
            fix="Check the PSF model at that position: it may lie outside the region where the model holds",
        )
    scale = np.full(len(sums), np.nan)
    np.divide(1.0, held, out=scale, where=good)
    return KernelScale(scale, inside, sums, whole, radius, holds)
