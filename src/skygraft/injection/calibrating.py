"""The calibrations of an image as injection uses them: zeropoint, reference of the flux, PSF, and gain."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from skygraft.catalog import Flag
from skygraft.errors import ConfigError, InjectionError, SkygraftError, UncalibratedImageError
from skygraft.exposure import NO_GAIN, NO_PHOTO_CALIB, NO_PSF, PHOTON_VARIANCE, Exposure
from skygraft.injection.options import InjectionOptions
from skygraft.noise import Gain, check_gain, estimate_gain
from skygraft.photometry import (
    BasisScale,
    CalibrationAperture,
    CalibrationReference,
    KernelScale,
    PhotoCalib,
    check_calibration_soundness,
    check_radius,
    kernel_holds_aperture,
    kernel_scale,
    parse_radius,
)
from skygraft.photometry.phases import PER_PIXEL, PhaseScale
from skygraft.psf import PSF, LinearPSF, basis_between_pixels, check_psf_soundness
from skygraft.render import RenderReport, Sources
from skygraft.wcs import check_wcs_soundness, pixel_scale

__all__ = [
    "ImageNormalisation",
    "aperture_radius",
    "check_soundness",
    "flag_small_kernel",
    "image_gain",
    "image_photo_calib",
    "require_psf",
]

_UNFIT_PLANES = (
    "BAD",
    "SAT",
    "CR",
    "NO_DATA",
    "INTRP",
    "SUSPECT",
    "EDGE",
    "UNMASKEDNAN",
    "STREAK",
    "SATURATED",
    "DO_NOT_USE",
    "JUMP_DET",
    "NON_SCIENCE",
    "REFERENCE_PIXEL",
    "AD_SATURATED",
)


def image_photo_calib(exposure: Exposure) -> PhotoCalib:
    """Give the image's photometric calibration, or raise the error that says why it has none.

    Parameters
    ----------
    exposure : Exposure
        The image.

    Returns
    -------
    PhotoCalib

    Raises
    ------
    CalibrationError
        The reason that the format recorded; an `UncalibratedImageError` where it recorded none.
    """
    if exposure.photo_calib is None:
        reason = exposure.extra.get(NO_PHOTO_CALIB)
        if isinstance(reason, SkygraftError):
            raise reason
        raise UncalibratedImageError(
            "the image carries no zeropoint",
            path=exposure.path,
            fix="Calibrate it, or give its zeropoint (photo_calib=, --zeropoint, survey: calibration: zeropoint)",
        )
    return exposure.photo_calib


def check_soundness(
    exposure: Exposure, photo_calib: PhotoCalib, reference: CalibrationReference | None, radius: float | None
) -> None:
    """Refuse an image whose WCS, calibration, aperture or PSF makes no sense, whether it was read from a file or not.

    Parameters
    ----------
    exposure : Exposure
        The image.
    photo_calib : PhotoCalib
        Its photometric calibration.
    reference : CalibrationAperture, PSF_MODEL, TOTAL or None
        What the injected flux is scaled to; None in flux modes other than calibrated.
    radius : float or None
        Radius in pixels of ``flux_mode="aperture"``; None in the other modes.

    Raises
    ------
    WcsError, CalibrationError, PsfError
    """
    box, path = exposure.box, exposure.path
    check_wcs_soundness(exposure.wcs, box, path)
    check_calibration_soundness(photo_calib, (box.x_min, box.x_max, box.y_min, box.y_max), path)
    if radius is not None:
        check_radius(radius, exposure.shape, "aperture=", path)
    elif isinstance(reference, CalibrationAperture):
        check_radius(reference.radius_pixels, exposure.shape, photo_calib.reference_origin or "given", path)
    if exposure.psf is not None:
        check_psf_soundness(exposure.psf, box)


def require_psf(exposure: Exposure, sources: Sources) -> None:
    """Raise where the image has no PSF and one of the sources needs it.

    Parameters
    ----------
    exposure : Exposure
        The image.
    sources : Sources
        The sources.

    Raises
    ------
    PsfError
        The reason that the format recorded for the missing PSF.
    InjectionError
        If it recorded none.
    """
    if exposure.psf is not None or len(sources) == 0:
        return
    needs = [
        i for i in range(len(sources)) if sources.source_type[i] != "Stamp" or sources.text("stamp_psf", i) != "none"
    ]
    if needs:
        reason = exposure.extra.get(NO_PSF)
        if isinstance(reason, SkygraftError):
            raise reason
        raise InjectionError(
            f"the image has no PSF, and {len(needs)} of {len(sources)} sources need one",
            path=exposure.path,
            fix="Give a PSF (psf=, --psf, survey: calibration: psf)",
        )


class ImageNormalisation:
    """The factors that kernels are multiplied by, and their aperture fractions; see `skygraft.photometry.kernel_scale`.

    Parameters
    ----------
    exposure : Exposure
        The image, for its PSF and its centre.
    options : InjectionOptions
        How to inject.
    reference : CalibrationAperture, PSF_MODEL, TOTAL or None
        What a calibrated flux is the flux of; None where nothing says.
    radius : float or None
        Radius in pixels of ``flux_mode="aperture"``; None in the other modes.
    """

    def __init__(
        self,
        exposure: Exposure,
        options: InjectionOptions,
        reference: CalibrationReference | None,
        radius: float | None,
    ) -> None:
        self._psf = exposure.psf
        self._mode, self._reference, self._radius = options.flux_mode, reference, radius
        self._fixed: tuple[float, float] | None = None
        self._of_basis: BasisScale | None = None
        between = basis_between_pixels(self._psf, exposure.box)
        if between is not None:
            images = between.images(PER_PIXEL)
            self._of_basis = PhaseScale(self._mode, reference, images, between.shape, radius=radius)
        elif isinstance(self._psf, LinearPSF):
            self._of_basis = BasisScale(self._mode, reference, self._psf.basis, radius=radius)
        if options.position == "image" and self._psf is not None:
            place = self._psf.average_position or exposure.box.center
            x, y = np.array([place[0]]), np.array([place[1]])
            scale, fraction = self._at(self._psf, self._psf.kernels(x, y), x, y)
            self._fixed = float(scale[0]), float(fraction[0])

    def _at(
        self, psf: PSF, kernels: NDArray[np.float64], x: NDArray[np.float64], y: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        scale = self._measured(psf, kernels, x, y)
        return scale.scale, scale.aperture_fraction

    def _measured(
        self, psf: PSF, kernels: NDArray[np.float64], x: NDArray[np.float64], y: NDArray[np.float64]
    ) -> KernelScale:
        return kernel_scale(self._mode, self._reference, kernels, psf.flux_outside(x, y), radius=self._radius)

    def measured(
        self,
        x: NDArray[np.float64],
        y: NDArray[np.float64],
        coefficients: NDArray[np.float64] | None = None,
        kernels: NDArray[np.float64] | None = None,
        *,
        points: bool = False,
    ) -> KernelScale:
        """Scale kernels each at its own position, with the sums that the factors come from.

        Parameters
        ----------
        x, y : ndarray, shape (N,)
            Positions in parent pixels.
        coefficients : ndarray, shape (N, B), optional
            Of a `LinearPSF`.
        kernels : ndarray, shape (N, ny, nx), optional
            Kernels there, needed where there are no coefficients.
        points : bool
            Whether they are scaled as `of_points` does.

        Returns
        -------
        KernelScale

        Raises
        ------
        InjectionError
            If the image has no PSF, or one without a basis and no kernels are given.
        """
        if self._psf is not None and kernels is not None:
            return self._measured(self._psf, kernels, x, y)
        if self._psf is None or self._of_basis is None or coefficients is None:
            raise InjectionError("the image's PSF has no basis that coefficients could belong to")
        outside = self._psf.flux_outside(x, y)
        if points and isinstance(self._of_basis, PhaseScale):
            return self._of_basis(coefficients, outside, x=x, y=y)
        return self._of_basis(coefficients, outside)

    def of_coefficients(
        self, coefficients: NDArray[np.float64], x: NDArray[np.float64], y: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Scale a `LinearPSF`'s kernels by their coefficients.

        Parameters
        ----------
        coefficients : ndarray, shape (N, B)
            Coefficients of the PSF's basis images.
        x, y : ndarray, shape (N,)
            Positions in parent pixels.

        Returns
        -------
        scale, aperture_fraction : ndarray, shape (N,)
            The factor of each kernel, and the part of its light inside the aperture.

        Raises
        ------
        InjectionError
            If the image's PSF has no basis.
        """
        if self._psf is None or self._of_basis is None:
            raise InjectionError("the image's PSF has no basis that coefficients could belong to")
        if self._fixed is not None:
            return np.full(len(x), self._fixed[0]), np.full(len(x), self._fixed[1])
        scale = self._of_basis(coefficients, self._psf.flux_outside(x, y))
        return scale.scale, scale.aperture_fraction

    def of_points(
        self, coefficients: NDArray[np.float64], x: NDArray[np.float64], y: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Scale as `of_coefficients`, for the pixels of point sources where pixels are too coarse for the PSF.

        Parameters
        ----------
        coefficients : ndarray, shape (N, B)
            Coefficients of the PSF's basis images.
        x, y : ndarray, shape (N,)
            Positions in parent pixels.

        Returns
        -------
        scale, aperture_fraction : ndarray, shape (N,)
            The factor of each kernel, and the part of its light inside the aperture.
        """
        if self._psf is None or self._fixed is not None or not isinstance(self._of_basis, PhaseScale):
            return self.of_coefficients(coefficients, x, y)
        scale = self._of_basis(coefficients, self._psf.flux_outside(x, y), x=x, y=y)
        return scale.scale, scale.aperture_fraction

    def __call__(
        self, kernels: NDArray[np.float64], x: NDArray[np.float64], y: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Scale kernels that are given as images.

        Parameters
        ----------
        kernels : ndarray, shape (N, ny, nx)
            Kernels of the PSF at these positions.
        x, y : ndarray, shape (N,)
            Positions in parent pixels.

        Returns
        -------
        scale, aperture_fraction : ndarray, shape (N,)
            The factor of each kernel, and the part of its light inside the aperture.
        """
        if self._psf is None:
            return np.ones(len(x)), np.full(len(x), np.nan)
        if self._fixed is not None:
            return np.full(len(x), self._fixed[0]), np.full(len(x), self._fixed[1])
        return self._at(self._psf, kernels, x, y)


def aperture_radius(exposure: Exposure, options: InjectionOptions) -> float | None:
    """Convert the radius of ``flux_mode="aperture"`` to pixels.

    Parameters
    ----------
    exposure : Exposure
        The image.
    options : InjectionOptions
        How to inject.

    Returns
    -------
    float or None
        Pixels, by the pixel scale at the image's centre; None in the other modes.

    Raises
    ------
    ConfigError
        If `aperture` is no radius.
    """
    if options.aperture is None:
        return None
    candidate = parse_radius(options.aperture)
    if candidate.radius_pixels is not None:
        return candidate.radius_pixels
    if candidate.radius_arcsec is None:
        raise ConfigError(
            f"{options.aperture!r} is not a radius",
            key="aperture",
            fix="Give, for example, '12 pix' or '2 arcsec'",
        )
    return candidate.radius_arcsec / float(np.ravel(pixel_scale(exposure.wcs, *exposure.box.center))[0])


def flag_small_kernel(
    exposure: Exposure,
    reference: CalibrationReference | None,
    radius: float | None,
    report: RenderReport,
    wings: float | None = None,
) -> None:
    """Flag every source whose aperture flux is that of a kernel that does not fill the aperture.

    Parameters
    ----------
    exposure : Exposure
        The image.
    reference : CalibrationAperture, PSF_MODEL, TOTAL or None
        What a calibrated flux is the flux of; None where nothing says.
    radius : float or None
        Radius in pixels of ``flux_mode="aperture"``; None in the other modes.
    report : RenderReport
        One entry per source; its flags are changed.
    wings : float, optional
        Radius in pixels that the PSF's extended wings reach, where it has some.
    """
    if isinstance(reference, CalibrationAperture):
        radius = reference.radius_pixels
    if wings is not None and radius is not None and wings >= radius:
        return
    if radius is not None and exposure.psf is not None and not kernel_holds_aperture(exposure.psf.shape, radius):
        report.flags[np.isfinite(report.aperture_fraction)] |= int(Flag.KERNEL_SMALLER_THAN_APERTURE)


def image_gain(exposure: Exposure, options: InjectionOptions) -> Gain:
    """Find the gain: the one that is set, or that the image records, or that its variance plane shows, in this order.

    Parameters
    ----------
    exposure : Exposure
        The image.
    options : InjectionOptions
        How to inject.

    Returns
    -------
    Gain

    Raises
    ------
    CalibrationError
        If none of these says, or the recorded gain and the variance plane disagree.
    """
    if options.gain is not None:
        return Gain(options.gain, "given")
    bits = sum(v for n, v in exposure.mask_planes.items() if n in _UNFIT_PLANES)
    variance = exposure.extra.get(PHOTON_VARIANCE, exposure.variance)
    planes = exposure.image, variance, (exposure.mask & bits) == 0
    if exposure.gain is None:
        return estimate_gain(*planes, path=exposure.path, recorded=str(exposure.extra.get(NO_GAIN, "")))
    origin = exposure.gain_origin or "recorded in the image"
    _check_gain_map(exposure, origin)
    gain = Gain(exposure.gain, origin)
    if not gain.origin.startswith("given"):
        check_gain(gain, *planes, path=exposure.path)
    return gain


def _check_gain_map(exposure: Exposure, origin: str) -> None:
    """Refuse a recorded gain that is not a number, or a map of another shape than the image's."""
    values = np.asarray(exposure.gain)
    if values.dtype.kind not in "iuf":
        raise ConfigError(
            f"the image's gain ({origin}) is {exposure.gain!r}; numbers are needed", path=exposure.path, key="gain"
        )
    if values.ndim and values.shape != exposure.shape:
        raise ConfigError(
            f"the image's gain ({origin}) is a map of shape {values.shape}, the image has {exposure.shape}",
            path=exposure.path,
            key="gain",
            fix="Cut both alike (a cut-out needs its part of the map), or give one number",
        )
