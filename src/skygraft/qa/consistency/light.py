"""Images with the light that is injected into them, without noise: what coadd and visits are compared by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy.table import QTable
from numpy.typing import NDArray

from skygraft.catalog.flags import Flag, has_flag
from skygraft.errors import CalibrationError, InjectionError
from skygraft.exposure import Exposure
from skygraft.injection import InjectionOptions, inject
from skygraft.injection.calibrating import aperture_radius, image_photo_calib
from skygraft.injection.roles import Role
from skygraft.photometry import (
    PSF_MODEL,
    TOTAL,
    CalibrationAperture,
    CalibrationReference,
    PhotoCalib,
    parse_radius,
    require_reference,
)
from skygraft.planes import Planes
from skygraft.qa.consistency.settings import REJECTED_PLANES, ConsistencySettings, Weighting
from skygraft.wcs import pixel_scale

__all__ = ["PADDING", "LitImage", "light_image", "measuring_radius"]

PADDING = 64
"""Pixels beyond the edges of images that light is drawn on, for apertures that edges cross."""
_SAMPLE = 200_000
"""Pixels whose median variance stands for an image."""


@dataclass(frozen=True, eq=False)
class LitImage:
    """An image, and the light of its injected sources.

    Parameters
    ----------
    exposure : Exposure
        The image before injection.
    light : ndarray of float32, shape (ny + 2 p, nx + 2 p)
        What injection adds, image units, also to so many pixels beyond the image's edges (`PADDING`).
    truth : QTable
        Its truth table: sources whose light reaches the image, in order of ``injection_id``.
    options : InjectionOptions
        How it was injected.
    image_id : str
        Its name in the table.
    """

    exposure: Exposure
    light: NDArray[np.float32]
    truth: QTable
    options: InjectionOptions
    image_id: str

    @property
    def photo_calib(self) -> PhotoCalib:
        """Its photometric calibration; an error where it has none."""
        return image_photo_calib(self.exposure)

    @property
    def pixel_scale(self) -> float:
        """Arcsec per pixel at its middle."""
        exposure = self.exposure
        return float(np.ravel(pixel_scale(exposure.wcs, *exposure.box.center))[0])

    @property
    def input_name(self) -> str | None:
        """Visit and detector, as coadds name their inputs; None where they are not known."""
        data_id = self.exposure.data_id
        if data_id.visit is None or data_id.detector is None:
            return None
        return f"{data_id.visit}-{data_id.detector}"

    @property
    def reference(self) -> CalibrationReference:
        """What the flux of a source is the flux of: the image's reference, or what the flux mode says."""
        mode = self.options.flux_mode
        if mode == "psf_sum":
            return PSF_MODEL
        if mode == "total":
            return TOTAL
        if mode == "aperture":
            radius = aperture_radius(self.exposure, self.options)
            assert radius is not None
            return CalibrationAperture(radius, radius * self.pixel_scale)
        return require_reference(self.photo_calib, self.exposure.path)

    def rejected(self, planes: Sequence[str] | None = None) -> NDArray[np.bool_]:
        """Find the pixels that a coadd would leave out: masked, or not finite.

        Parameters
        ----------
        planes : sequence of str, optional
            Mask planes; by default those of `REJECTED_PLANES` that the image has, or all that `Exposure.bad` counts
            where it has none of them.

        Returns
        -------
        ndarray of bool, shape (ny, nx)

        Raises
        ------
        ConfigError
            If the image has none of the planes that were given.
        """
        exposure = self.exposure
        known = exposure.mask_planes
        chosen = [name for name in (REJECTED_PLANES if planes is None else planes) if name in known]
        # A name that no plane has is an error of `bad`, unless other names that were given are there.
        bad = exposure.bad(chosen or planes)
        bad = bad | ~np.isfinite(exposure.image)
        if exposure.variance is not None:
            # An infinite variance is how many surveys mark a pixel without data.
            bad |= ~np.isfinite(exposure.variance) | (exposure.variance <= 0)
        return bad

    def weight(self, weighting: Weighting, scale: float, bad: NDArray[np.bool_]) -> float:
        """Give the weight of the image in a coadd: one over the variance of its pixels, in units of the coadd.

        Parameters
        ----------
        weighting : {"auto", "variance", "equal"}
            ``equal`` for one.
        scale : float
            Value of a coadd's pixel for one of the image: ratio of calibrations times pixels of the image in a pixel of
            the coadd.
        bad : ndarray of bool, shape (ny, nx)
            Pixels that are left out.

        Raises
        ------
        CalibrationError
            If it has no variance.
        InjectionError
            If all its pixels are bad.
        """
        if weighting == "equal":
            return 1.0
        variance, path = self.exposure.variance, self.exposure.path
        if variance is None:
            raise CalibrationError(
                f"{self.image_id} has no variance, and the coadd does not list the weights of its inputs",
                path=path,
                key="variance",
                fix="Give its variance or weight map when it is read, or --weights equal",
            )
        step = max(1, variance.size // _SAMPLE)
        values = variance.ravel()[::step][~bad.ravel()[::step]]
        if not values.size:
            raise InjectionError(
                f"all pixels of {self.image_id} are masked", path=path, fix="Leave it out, or name other --bad-planes"
            )
        return 1.0 / (float(np.median(values.astype(np.float64))) * scale**2)


def light_image(
    exposure: Exposure,
    catalog: Any,
    options: InjectionOptions,
    *,
    image_id: str | None = None,
    band: str | None = None,
    light_curves: Any = None,
    role: Role = "auto",
) -> LitImage:
    """Draw the sources of a catalogue on an empty image of the same calibration, without noise.

    Parameters
    ----------
    exposure : Exposure
        The image.
    catalog : QTable
        The sources.
    options : InjectionOptions
        How to inject.
    image_id, band, light_curves, role : optional
        As for `skygraft.inject`.

    Returns
    -------
    LitImage

    Raises
    ------
    SkygraftError
        As `skygraft.inject`, of rows that cannot be drawn apart, which are left out.
    """
    (ny, nx), (x0, y0) = exposure.shape, exposure.xy0
    planes = Planes.from_arrays(
        np.zeros((ny + 2 * PADDING, nx + 2 * PADDING), np.float32),
        xy0=(x0 - PADDING, y0 - PADDING),
        units=exposure.plain.attrs("image")["units"],
    )
    quiet = InjectionOptions.from_kwargs(options, noise=False, variance=None, mark_injected=False)
    name = exposure.default_image_id(band) if image_id is None else image_id
    found = inject(
        exposure.replace(planes=planes, gain=None),
        catalog,
        options=quiet,
        image_id=name,
        band=band,
        on_bad="flag",
        light_curves=light_curves,
        role=role,
    )
    truth = found.truth[~has_flag(found.truth["flags"], Flag.NO_OVERLAP)]
    return LitImage(exposure, found.exposure.image, truth, options, name)


def measuring_radius(coadd: LitImage, settings: ConsistencySettings) -> tuple[float, str]:
    """Choose the radius that fluxes are measured in, and say where it is from.

    Parameters
    ----------
    coadd : LitImage
        The coadd.
    settings : ConsistencySettings
        With ``aperture``, which counts first.

    Returns
    -------
    radius : float
        Coadd pixels.
    origin : str

    Raises
    ------
    UnknownApertureError
        If nothing says what the coadd is calibrated to.
    InjectionError
        If the coadd has no PSF to take the radius from.
    """
    reference = coadd.reference
    if settings.aperture is not None:
        given = parse_radius(settings.aperture)
        if given.radius_pixels is not None:
            return given.radius_pixels, "given"
        assert given.radius_arcsec is not None
        return given.radius_arcsec / coadd.pixel_scale, "given"
    if isinstance(reference, CalibrationAperture):
        return reference.radius_pixels, coadd.photo_calib.reference_origin or "the coadd's calibration aperture"
    fwhm = _fwhm(coadd)
    if not np.isfinite(fwhm):
        raise InjectionError(
            f"the coadd is calibrated to '{reference}', and the width of its PSF is not known",
            path=coadd.exposure.path,
            key="aperture",
            fix="Give the radius to measure in: --measure-in '12 pix'",
        )
    return 3.0 * fwhm, f"3 x FWHM of the coadd's PSF, as it is calibrated to '{reference}'"


def _fwhm(coadd: LitImage) -> float:
    """Median FWHM of the PSF at the sources, coadd pixels."""
    values = np.asarray(getattr(coadd.truth["psf_fwhm"], "value", coadd.truth["psf_fwhm"]), dtype=float)
    values = values[np.isfinite(values) & (values > 0)]
    return float(np.median(values)) / coadd.pixel_scale if values.size else float("nan")
