"""Factors that tie a PSF with extended wings to the photometric calibration.

With K the kernel, S its sum, O the flux that its model says lies outside, b the blend of `skygraft.psf.wings`, a the
amplitude and W the profile of the wings, the flux inside a radius and the total are

    A'(r) = A[(1 - b) K](r) + a V(r),      T' = sum (1 - b) K + a V(inf),      V(r) = integral of b W inside r.

======================= ======================== ============================
flux is                 policy ``calibrated``    policy ``total``
======================= ======================== ============================
that inside an aperture 1 / A'(r)                (S + O) / (A(r) T')
the PSF model's         1 / S                    (S + O) / (S T')
the total               1 / T'                   1 / T'
======================= ======================== ============================

is what kernel and wings are multiplied by. With ``calibrated`` a star has its flux inside the calibration aperture
(of a PSF model: the pixels inside the join radius are as they were), and more light outside than the kernel had. With
``total`` all its light is as much as it was with the kernel alone.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skygraft.exposure import Exposure
from skygraft.injection.calibrating import ImageNormalisation
from skygraft.injection.options import InjectionOptions
from skygraft.photometry import PSF_MODEL, TOTAL, CalibrationReference, KernelScale
from skygraft.psf import LinearPSF
from skygraft.psf.tapered import Joined

__all__ = ["WingScale", "WingedNormalisation"]

_AT_ONCE = 64


@dataclass(frozen=True, eq=False)
class WingScale:
    """Factors of some positions: of kernel and wings, part of the light in the aperture, and a; each shape (N,)."""

    scale: NDArray[np.float64]
    fraction: NDArray[np.float64]
    amplitude: NDArray[np.float64]


class WingedNormalisation:
    """The factors that tapered kernels and their wings are multiplied by; see the module.

    Parameters
    ----------
    exposure : Exposure
        The image.
    options : InjectionOptions
        How to inject; with wings.
    reference : CalibrationAperture, PSF_MODEL, TOTAL or None
        What a calibrated flux is the flux of.
    radius : float or None
        Radius in pixels of ``flux_mode="aperture"``.
    joined : Joined
        The image's PSF and its wings.
    """

    def __init__(
        self,
        exposure: Exposure,
        options: InjectionOptions,
        reference: CalibrationReference | None,
        radius: float | None,
        joined: Joined,
    ) -> None:
        plain = InjectionOptions.from_kwargs(options, wings=None, position="source")
        self._joined, self._wings = joined, joined.wings
        self._core = ImageNormalisation(exposure.replace(psf=joined.core), plain, reference, radius)
        self._whole = ImageNormalisation(exposure, plain, reference, radius)
        self._conserves_total = options.wings.flux == "total"
        self._mode, self._reference = options.flux_mode, reference
        self._inside: dict[float, float] = {}
        self._fixed: tuple[float, float] | None = None
        if options.position == "image":
            at = joined.psf.average_position or exposure.box.center
            found = self.at(np.array([at[0]]), np.array([at[1]]))
            self._fixed = float(found.scale[0]), float(found.fraction[0])

    def _is_of(self, mode: str, reference: CalibrationReference) -> bool:
        return self._mode == mode or (self._mode == "calibrated" and self._reference is reference)

    def at(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> WingScale:
        """Compute the factors at positions in parent pixels, shape (N,)."""
        core = self._joined.core
        if isinstance(core, LinearPSF):
            return self._scaled(x, y, core.coefficients(x, y), None)
        parts = [self._scaled(x[i : i + _AT_ONCE], y[i : i + _AT_ONCE]) for i in range(0, len(x), _AT_ONCE)]
        columns = [[getattr(part, f.name) for part in parts] for f in dataclasses.fields(WingScale)]
        return WingScale(*(np.concatenate(column) if column else np.zeros(0) for column in columns))

    def _scaled(
        self,
        x: NDArray[np.float64],
        y: NDArray[np.float64],
        coefficients: NDArray[np.float64] | None = None,
        kernels: NDArray[np.float64] | None = None,
        *,
        points: bool = False,
    ) -> WingScale:
        joined = self._joined
        if coefficients is None and kernels is None:
            kernels = joined.core.kernels(x, y)
        amplitude = joined.amplitudes(x, y, coefficients, kernels)
        core = self._core.measured(x, y, coefficients, kernels, points=points)
        total = core.kernel_sum + amplitude * self._wings.total
        inside = np.full(len(x), np.nan)
        if core.radius_pixels is not None:
            inside = core.aperture_flux + amplitude * self._enclosed(core.radius_pixels)
        if self._conserves_total or self._is_of("psf_sum", PSF_MODEL):
            whole = self._of_whole(x, y, coefficients, points)
            scale = whole.scale * whole.model_sum / total if self._conserves_total else whole.scale
        else:
            scale = 1.0 / (total if self._is_of("total", TOTAL) else inside)
        return WingScale(scale, inside / total, amplitude)

    def _of_whole(
        self, x: NDArray[np.float64], y: NDArray[np.float64], coefficients: NDArray[np.float64] | None, points: bool
    ) -> KernelScale:
        """The factors of the PSF as it is, without wings."""
        kernels = None if coefficients is not None else self._joined.psf.kernels(x, y)
        return self._whole.measured(x, y, coefficients, kernels, points=points)

    def _enclosed(self, radius: float) -> float:
        if radius not in self._inside:
            self._inside[radius] = self._wings.enclosed(radius)
        return self._inside[radius]

    def _given(self, found: WingScale) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        if self._fixed is not None:
            return np.full(len(found.scale), self._fixed[0]), np.full(len(found.scale), self._fixed[1])
        return found.scale, found.fraction

    def scales(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> WingScale:
        """Compute the factors at positions as they are used: those of one position where that is asked for."""
        found = self.at(x, y)
        return WingScale(*self._given(found), found.amplitude)

    def __call__(
        self, kernels: NDArray[np.float64], x: NDArray[np.float64], y: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Scale and aperture fraction for tapered kernels (N, ny, nx) at (x, y); see `Normalisation`."""
        return self._given(self._scaled(x, y, None, kernels))

    def of_coefficients(
        self, coefficients: NDArray[np.float64], x: NDArray[np.float64], y: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Scale and aperture fraction for coefficients (N, B) of a `LinearPSF`."""
        return self._given(self._scaled(x, y, coefficients))

    def of_points(
        self, coefficients: NDArray[np.float64], x: NDArray[np.float64], y: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Scale as `of_coefficients`, for points at their own sub-pixel places."""
        return self._given(self._scaled(x, y, coefficients, points=True))
