"""Draw the sources one after the other into a copy of the image, as the package does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import galsim
import numpy as np
from numpy.typing import NDArray

from skygraft.catalog import Flag
from skygraft.errors import InjectionError, PsfError
from skygraft.exposure import Exposure, add_mask_plane
from skygraft.injection.lsst.gains import fitted_gains
from skygraft.injection.lsst.photon_noise import is_coadd, seed_of, with_noise
from skygraft.injection.lsst.profiles import build_profile
from skygraft.injection.marking import Drawn, new_planes
from skygraft.noise import Gain
from skygraft.photometry import afw_aperture_flux
from skygraft.planes import Planes
from skygraft.psf import PSF
from skygraft.psf.widths import kernel_fwhm
from skygraft.render import RenderReport, Sources
from skygraft.render.galsim_engine import bounded_transforms
from skygraft.wcs import pixel_scale

__all__ = ["DRAW_SIZE_MAX", "draw"]

DRAW_SIZE_MAX = 10_000
"""Pixels: largest side of a stamp."""
_CORE = 3
"""Side of the square that INJECTED_CORE marks, pixels."""


@dataclass(frozen=True, eq=False)
class _Aperture:
    """The aperture flux that all kernels of an image are divided by, and the fraction of the light that it is."""

    flux: float
    fraction: float


@dataclass(frozen=True, eq=False)
class _Stamp:
    """A drawn source: its stamp on the image, its intended box, and whether the stamp has the size asked for."""

    image: Any
    bounds: Any
    size: int
    cut: bool


def draw(
    exposure: Exposure,
    sources: Sources,
    *,
    radius: float,
    noise: bool,
    variance: bool,
    seed: int,
    image_id: str,
    mark_injected: bool = True,
    progress: Callable[[int], None] | None = None,
) -> Drawn:
    """Add sources to an exposure's image, variance and mask as LSST's source_injection does.

    Parameters
    ----------
    exposure : Exposure
        Not changed.
    sources : Sources
        In the order in which they are drawn, with Jacobians of `forward_jacobians`.
    radius : float
        Of the calibration aperture, pixels.
    noise, variance : bool
        Whether to add noise to the image, and variance to the variance plane.
    seed : int
        Of the noise of the first source; each one drawn adds one to it.
    image_id : str
        Makes a seed of zero reproducible.
    mark_injected : bool
        Mark each source's stamp in the mask plane INJECTED, and 3 x 3 pixels in INJECTED_CORE.
    progress : callable, optional
        Called with the number of sources drawn since the last call.

    Returns
    -------
    Drawn
        A source that cannot be drawn is flagged, its reason is among the report's messages, and nothing of it is on
        the image.

    Raises
    ------
    PsfError
        If the PSF has no kernel at its average position, where the aperture flux is taken.
    CalibrationError
        If a gain is needed and there is no variance plane to fit it to.
    """
    report = RenderReport.empty(len(sources))
    gain = fitted_gains(exposure) if (noise or variance) and len(sources) else None
    image = np.array(exposure.image, dtype=np.float32, order="C")
    planes = new_planes(exposure, image, new_variance=variance and gain is not None, new_mask=mark_injected)
    canvas = _Canvas(exposure, planes, gain, mark_injected=mark_injected)
    psf = exposure.psf
    if psf is None or not len(sources):
        return Drawn(planes, report, gain)
    aperture = _aperture(exposure, psf, radius)
    middle_scale = float(pixel_scale(exposure.wcs, *exposure.box.center)[0])
    coadd, n_before = is_coadd(exposure), 0
    for i in range(len(sources)):
        stamp = _stamp_of(exposure, psf, sources, i, aperture, middle_scale, canvas.bounds, report)
        if stamp is not None:
            random = (seed_of(seed, n_before, image_id), coadd) if noise else None
            canvas.add(stamp, float(sources.x[i]), float(sources.y[i]), random, variance=variance)
            n_before += 1
        if progress is not None:
            progress(1)
    return Drawn(planes, report, gain)


class _Canvas:
    """The planes that are drawn on, as GalSim images."""

    def __init__(self, exposure: Exposure, planes: Planes, gain: Gain | None, *, mark_injected: bool) -> None:
        (x0, y0), (ny, nx) = exposure.xy0, exposure.shape
        self.bounds = galsim.BoundsI(x0, x0 + nx - 1, y0, y0 + ny - 1)
        self._image = galsim.Image(planes["image"], bounds=self.bounds)
        self._variance: Any = None
        if gain is not None and exposure.variance is not None and planes["variance"] is not exposure.variance:
            planes["variance"][...] = exposure.variance
            self._variance = galsim.Image(planes["variance"], bounds=self.bounds)
        self._inverse_gain = None
        if gain is not None:
            self._inverse_gain = np.broadcast_to(1.0 / np.asarray(gain.value, dtype=np.float64), exposure.shape)
        self._mask: NDArray[np.int32] | None = None
        if mark_injected:
            self._mask = planes["mask"]
            self._mask[...] = exposure.mask
            self._bits = [np.int32(1 << add_mask_plane(planes, name)) for name in ("INJECTED", "INJECTED_CORE")]

    def add(self, stamp: _Stamp, x: float, y: float, random: tuple[int, bool] | None, *, variance: bool) -> None:
        """Add the stamp of a source at (x, y) to all planes, with noise where a seed is given."""
        flux, added = stamp.image, None
        if self._inverse_gain is not None:
            inverse_gain = galsim.Image(
                np.ascontiguousarray(self._inverse_gain[self._slices(stamp.bounds)]), bounds=stamp.bounds
            )
            added = flux.copy()
            added *= inverse_gain
            if random is not None:
                flux, added = with_noise(flux, inverse_gain, random[0], coadd=random[1])
        self._image[stamp.bounds] += flux
        if variance and added is not None and self._variance is not None:
            self._variance[stamp.bounds] += added
        if self._mask is not None:
            self._mask[self._slices(stamp.bounds)] |= self._bits[0]
            core = _square(x, y, min(_CORE, stamp.size)) & self.bounds
            if core.isDefined():
                self._mask[self._slices(core)] |= self._bits[1]

    def _slices(self, bounds: Any) -> tuple[slice, slice]:
        x0, y0 = self.bounds.xmin, self.bounds.ymin
        return slice(bounds.ymin - y0, bounds.ymax - y0 + 1), slice(bounds.xmin - x0, bounds.xmax - x0 + 1)


def _aperture(exposure: Exposure, psf: PSF, radius: float) -> _Aperture:
    place = psf.average_position or exposure.box.center
    x, y = np.array([place[0]]), np.array([place[1]])
    if not psf.defined(x, y)[0]:
        raise PsfError(
            f"the PSF has no kernel at its average position ({x[0]:.1f}, {y[0]:.1f}), where source_injection takes "
            "the aperture correction",
            path=exposure.path,
            fix="Inject with skygraft's own conventions, which take it at each source",
        )
    kernel = psf.kernels(x, y)[0]
    flux = afw_aperture_flux(kernel, radius)
    if not (np.isfinite(flux) and flux > 0):
        raise PsfError(
            f"the PSF's flux inside {radius:g} pixels is {flux:g} at its average position ({x[0]:.1f}, {y[0]:.1f})",
            path=exposure.path,
            fix="Check the PSF model",
        )
    return _Aperture(flux, flux / (float(kernel.sum()) + float(psf.flux_outside(x, y)[0])))


def _stamp_of(
    exposure: Exposure,
    psf: PSF,
    sources: Sources,
    i: int,
    aperture: _Aperture,
    middle_scale: float,
    full: Any,
    report: RenderReport,
) -> _Stamp | None:
    """Draw one source; None where it cannot be drawn, with its flag and reason in the report."""
    x, y, jacobian = float(sources.x[i]), float(sources.y[i]), sources.jacobian[i]
    if not np.isfinite(jacobian).all():
        report.flags[i] |= Flag.WCS_FAILED
        return None
    scale = float(np.sqrt(abs(np.linalg.det(jacobian))))
    if not middle_scale / 2 <= scale <= middle_scale * 2:
        report.flags[i] |= Flag.NO_OVERLAP
        report.messages[i] = f"pixels of {scale:g} arcsec there, {middle_scale:g} arcsec at the image's middle"
        return None
    kernel = _kernel_at(exposure, psf, x, y)
    if isinstance(kernel, str):
        report.flags[i] |= Flag.PSF_COMPUTE_ERROR
        report.messages[i] = kernel
        return None
    try:
        stamp = _draw_stamp(sources, i, kernel / aperture.flux, full)
    except Exception as error:  # GalSim raises anything from TypeError to MemoryError
        report.flags[i] |= _flag_of(error)
        report.messages[i] = _reason(error)
        return None
    if stamp is None:
        report.flags[i] |= Flag.NO_OVERLAP
        return None
    report.flux_deposited[i] = stamp.image.array.sum(dtype=np.float64)
    report.stamp_size[i] = stamp.size
    report.kernel_scale[i], report.aperture_fraction[i] = 1.0 / aperture.flux, aperture.fraction
    report.psf_fwhm[i] = kernel_fwhm(kernel[None])[0]
    whole = _square(x, y, stamp.size)
    report.flags[i] |= Flag.TRUNCATED_BY_EDGE if stamp.bounds != whole else 0
    report.flags[i] |= Flag.STAMP_TRUNCATED if stamp.cut else 0
    if psf.valid_box is not None and not psf.valid_box.contains(x, y):
        report.flags[i] |= Flag.PSF_EXTRAPOLATED
    return stamp


def _kernel_at(exposure: Exposure, psf: PSF, x: float, y: float) -> NDArray[np.float64] | str:
    """The PSF's own kernel at a position, or else at the pixel of the image that is nearest to it; or why not."""
    box = exposure.box
    nearest = (
        min(max(x, box.x_min + 0.5), box.x_max - 0.5),
        min(max(y, box.y_min + 0.5), box.y_max - 0.5),
    )
    reason = "the PSF has no kernel there"
    for place in dict.fromkeys([(x, y), nearest]):
        at = np.array([place[0]]), np.array([place[1]])
        if not psf.defined(*at)[0]:
            continue
        try:
            kernel = psf.kernels(*at)[0]
        except PsfError as error:
            reason = str(error)
            continue
        ny, nx = kernel.shape
        rows, columns = psf.kernel_shapes(*at)[0].tolist()
        top, left = (ny - rows) // 2, (nx - columns) // 2
        own: NDArray[np.float64] = kernel[top : top + rows, left : left + columns]
        return own
    return reason


def _draw_stamp(sources: Sources, i: int, kernel: NDArray[np.float64], full: Any) -> _Stamp | None:
    """Draw a source on its part of the image by GalSim; None where that part is empty."""
    x, y = float(sources.x[i]), float(sources.y[i])
    wcs = galsim.JacobianWCS(*sources.jacobian[i].ravel().tolist())
    psf = galsim.InterpolatedImage(galsim.Image(np.ascontiguousarray(kernel)), wcs=wcs)
    source = galsim.Convolve(build_profile(sources, i), psf)
    asked = int(sources.value("draw_size", i, 0.0)) or int(source.getGoodImageSize(wcs.minLinearScale()))
    size = min(asked, DRAW_SIZE_MAX)
    bounds = full & _square(x, y, size)
    if not bounds.isDefined():
        return None
    image = galsim.ImageF(bounds)
    # The kernel includes the pixel response.
    with bounded_transforms():
        source.drawImage(image, offset=galsim.PositionD(x, y) - bounds.true_center, wcs=wcs, method="no_pixel")
    if not np.isfinite(image.array).all():
        raise InjectionError("its pixels are not finite", row=f"injection_id {sources.injection_id[i]}")
    return _Stamp(image, bounds, size, asked > size)


def _square(x: float, y: float, size: int) -> Any:
    """The box of a source: half of `size`, rounded down, to each side of the pixel that its position is floored to."""
    return galsim.BoundsI(galsim.PositionI(int(x // 1), int(y // 1))).withBorder(size // 2)


def _reason(error: Exception) -> str:
    if isinstance(error, galsim.GalSimFFTSizeError):
        largest = galsim.GSParams().maximum_fft_size
        return f"it needs an FFT of {error.size} x {error.size} pixels; GalSim's limit is {largest} x {largest}"
    said = " ".join(str(error).split())
    return said if isinstance(error, InjectionError) else f"{type(error).__name__}: {said}"


def _flag_of(error: Exception) -> Flag:
    if isinstance(error, galsim.GalSimFFTSizeError | MemoryError):
        return Flag.FFT_SIZE_ERROR
    if isinstance(error, InjectionError) and error.key == "stamp":
        return Flag.STAMP_FILE_BAD
    return Flag.PARAMETERS_BAD
