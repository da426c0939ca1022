"""Detection with SEP (Barbary 2016, JOSS 1, 58; Bertin & Arnouts 1996, A&AS 117, 393): background, noise, sources."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skygraft.errors import ConfigError
from skygraft.exposure import Exposure
from skygraft.psf import defined_position
from skygraft.psf.widths import kernel_fwhm
from skygraft.recovery.settings import RecoverySettings

__all__ = ["Detections", "MeasuredImage", "detect", "image_fwhm", "prepare"]

_PIXEL_STACK, _LARGEST_PIXEL_STACK = 1_000_000, 20_000_000
_SUB_OBJECTS, _LARGEST_SUB_OBJECTS = 1024, 16384
_FWHM_PER_SIGMA = 2.0 * math.sqrt(2.0 * math.log(2.0))


@dataclass(frozen=True, eq=False)
class MeasuredImage:
    """An image as it is measured: without its background, with its noise and its bad pixels.

    Parameters
    ----------
    pixels : ndarray of float32, shape (ny, nx)
        The image less the background; zero at bad pixels that are not finite.
    bad : ndarray of bool, shape (ny, nx)
        Pixels that are left out.
    variance : ndarray of float32, shape (ny, nx)
        Of each pixel, image units squared: the variance plane, or the square of the background's rms.
    has_variance : bool
        Whether it is the variance plane.
    background : sep.Background or None
        The background map; None where there are no good pixels.
    xy0 : (int, int)
        Parent coordinates of the first pixel.
    """

    pixels: NDArray[np.float32]
    bad: NDArray[np.bool_]
    variance: NDArray[np.float32]
    has_variance: bool
    background: Any
    xy0: tuple[int, int]

    @cached_property
    def sky(self) -> NDArray[np.float32]:
        """The background map (ny, nx), image units."""
        return self._map("back")

    @cached_property
    def sky_rms(self) -> NDArray[np.float32]:
        """Standard deviation of the background (ny, nx), image units; NaN where there are no good pixels."""
        return self._map("rms")

    @cached_property
    def any_bad(self) -> bool:
        """Whether there is a bad pixel."""
        return bool(self.bad.any())

    @cached_property
    def good(self) -> NDArray[np.float32]:
        """`pixels` with zero at the bad ones."""
        return np.where(self.bad, np.float32(0.0), self.pixels) if self.any_bad else self.pixels

    def _map(self, which: str) -> NDArray[np.float32]:
        if self.background is None:
            return np.full(self.pixels.shape, np.nan, dtype=np.float32)
        found: NDArray[np.float32] = getattr(self.background, which)(dtype=np.float32)
        return found


@dataclass(frozen=True, eq=False)
class Detections:
    """The sources that were detected on an image.

    Parameters
    ----------
    objects : ndarray, shape (M,)
        SEP's columns; positions are indices of the array.
    segments : ndarray of int32, shape (ny, nx)
        Number of the detection that each pixel belongs to, counted from 1; 0 for none.
    """

    objects: NDArray[Any]
    segments: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.objects)


def image_fwhm(exposure: Exposure) -> float | None:
    """Measure the FWHM of the PSF in the middle of an image.

    Parameters
    ----------
    exposure : Exposure
        The image.

    Returns
    -------
    float or None
        Pixels; None where the image has no PSF, or none whose width can be measured.
    """
    if exposure.psf is None or (place := defined_position(exposure.psf, exposure.box)) is None:
        return None
    width = float(kernel_fwhm(exposure.psf.kernels([place[0]], [place[1]]))[0])
    return width if math.isfinite(width) else None


def prepare(exposure: Exposure, settings: RecoverySettings) -> MeasuredImage:
    """Subtract the background of an image, and collect its noise and its bad pixels.

    Parameters
    ----------
    exposure : Exposure
        The image; its arrays may have any byte order and layout.
    settings : RecoverySettings
        `bad_planes` and those of the background.

    Returns
    -------
    MeasuredImage

    Raises
    ------
    ConfigError
        If the image has no mask plane of a name that is given.
    """
    import sep

    image = np.ascontiguousarray(exposure.image, dtype=np.float32)
    bad = exposure.bad(settings.bad_planes) | ~np.isfinite(image)
    variance = exposure.variance
    if variance is not None:
        variance = np.ascontiguousarray(variance, dtype=np.float32)
        with np.errstate(invalid="ignore"):
            bad |= ~(np.isfinite(variance) & (variance > 0))
    if bad.all():
        none = np.zeros(image.shape, dtype=np.float32)
        return MeasuredImage(none, bad, none, variance is not None, None, exposure.xy0)
    filled = np.where(np.isfinite(image), image, np.float32(0.0))
    size, width = settings.background_size, settings.background_filter
    background = sep.Background(filled, mask=bad, bw=size, bh=size, fw=width, fh=width)
    back = background.back(dtype=np.float32)
    pixels = np.where(np.isfinite(image), filled - back, np.float32(0.0))
    if variance is None:
        rms = background.rms(dtype=np.float32)
        # Constant images have none.
        variance = np.maximum(rms, np.float32(1e-20)) ** 2
        known = False
    else:
        variance = np.where(bad, np.float32(0.0), variance)
        known = True
    made = MeasuredImage(pixels, bad, variance, known, background, exposure.xy0)
    made.__dict__["sky"] = back
    return made


def _filter_kernel(settings: RecoverySettings, fwhm: float | None) -> NDArray[np.float32] | None:
    if settings.filter == "none":
        return None
    if settings.filter == "psf" and fwhm is not None:
        half = max(1, round(fwhm))
        offsets = np.arange(-half, half + 1)
        along = np.exp(-0.5 * (offsets * _FWHM_PER_SIGMA / fwhm) ** 2)
        return np.ascontiguousarray(np.outer(along, along), dtype=np.float32)
    return np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]], dtype=np.float32)


def detect(
    image: MeasuredImage, variance: NDArray[np.float32], settings: RecoverySettings, fwhm: float | None = None
) -> Detections:
    """Detect the sources of an image.

    Parameters
    ----------
    image : MeasuredImage
        As `prepare` makes it.
    variance : ndarray of float32, shape (ny, nx)
        Of the sky in each pixel, image units squared, which the threshold refers to.
    settings : RecoverySettings
        Those of the detection.
    fwhm : float, optional
        Of the PSF, pixels, for the filter ``psf``; without it, the default filter is used.

    Returns
    -------
    Detections

    Raises
    ------
    ConfigError
        If the image has more pixels above the threshold, or more parts of one source, than SEP can hold.
    """
    import sep

    if image.bad.all():
        return Detections(np.zeros(0, dtype=_OBJECT), np.zeros(image.pixels.shape, dtype=np.int32))
    options: dict[str, Any] = {
        "var": variance,
        "mask": image.bad,
        "minarea": settings.min_area,
        "filter_kernel": _filter_kernel(settings, fwhm),
        "filter_type": "conv",
        "deblend_nthresh": settings.deblend_nthresh,
        "deblend_cont": settings.deblend_cont,
        "clean": settings.clean,
        "clean_param": settings.clean_param,
        "segmentation_map": True,
    }
    for stack, parts in ((_PIXEL_STACK, _SUB_OBJECTS), (_LARGEST_PIXEL_STACK, _LARGEST_SUB_OBJECTS)):
        with _limits(stack, parts):
            try:
                objects, segments = sep.extract(image.pixels, settings.threshold, **options)
            except Exception as error:  # SEP raises plain exceptions
                problem = str(error)
                if "buffer full" not in problem and "overflow" not in problem:
                    raise
                continue
            return Detections(objects, segments)
    raise ConfigError(
        f"detection needs more memory than SEP may have ({problem})",
        key="recovery.threshold",
        fix="Raise recovery.threshold or recovery.deblend_cont; see whether the variance plane is in the image's units",
    )


@contextlib.contextmanager
def _limits(stack: int, parts: int) -> Iterator[None]:
    """Raise SEP's limits, which are those of the process, and set them back."""
    import sep

    before = sep.get_extract_pixstack(), sep.get_sub_object_limit()
    sep.set_extract_pixstack(max(stack, before[0]))
    sep.set_sub_object_limit(max(parts, before[1]))
    try:
        yield
    finally:
        sep.set_extract_pixstack(before[0])
        sep.set_sub_object_limit(before[1])


_OBJECT = np.dtype(
    [
        ("thresh", np.float64),
        *((name, np.int64) for name in ("npix", "tnpix", "xmin", "xmax", "ymin", "ymax")),
        *((name, np.float64) for name in ("x", "y", "x2", "y2", "xy", "errx2", "erry2", "errxy")),
        *((name, np.float64) for name in ("a", "b", "theta", "cxx", "cyy", "cxy", "cflux", "flux", "cpeak", "peak")),
        *((name, np.int64) for name in ("xcpeak", "ycpeak", "xpeak", "ypeak", "flag")),
    ]
)
"""SEP's columns, for an image without detections."""
