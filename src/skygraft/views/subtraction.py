"""Subtract a template from a science image at one place, each convolved with the PSF of the other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skygraft.errors import PsfError, UncalibratedImageError
from skygraft.exposure import NO_PHOTO_CALIB, NO_PSF, Exposure
from skygraft.photometry import kernel_scale
from skygraft.photometry.flux_modes import FluxMode
from skygraft.views.cutouts import cut_square
from skygraft.views.figures import sky_level
from skygraft.views.resampling import pixel_map, resample

__all__ = ["CalibratedImage", "Triplet", "subtract_at", "subtract_original"]

_SPLINE_MARGIN = 12
"""Pixels around what is resampled: a cubic spline feels its edge by 0.27 to this power, 2e-7."""
_LARGEST_MARGIN = 200
_NEAR = 63
"""Side of the square whose median variance is the noise, pixels."""
_NO_NOISE = 1e-12
"""What `sky_level` gives for pixels that are all the same."""

type ComplexArray = NDArray[np.complex128]
type FloatArray = NDArray[np.float64]


class CalibratedImage:
    """An image whose pixels can be turned into nanojansky: the flux of a source is the sum over all its pixels.

    Parameters
    ----------
    exposure : Exposure
        The image, with PSF and photometric calibration.
    flux_mode : {"calibrated", "psf_sum", "total", "aperture"}
        What its fluxes are of where its calibration does not say.

    Raises
    ------
    PsfError
        If it has no PSF.
    CalibrationError
        If it has no photometric calibration.
    """

    def __init__(self, exposure: Exposure, flux_mode: FluxMode = "calibrated") -> None:
        if exposure.psf is None:
            raise exposure.extra.get(NO_PSF) or PsfError(
                "the image has no PSF, without which it cannot be subtracted", path=exposure.path, fix="Give psf="
            )
        if exposure.photo_calib is None:
            raise exposure.extra.get(NO_PHOTO_CALIB) or UncalibratedImageError(
                "the image has no photometric calibration", path=exposure.path, fix="Give photo_calib="
            )
        self.exposure, self.psf, self.photo_calib = exposure, exposure.psf, exposure.photo_calib
        unknown = self.photo_calib.reference is None and flux_mode in ("psf_sum", "total")
        self._mode: FluxMode = flux_mode if unknown else "calibrated"
        self.level, noise = sky_level(exposure.image)
        self._noise = noise if noise > _NO_NOISE else 0.0

    def kernel_at(self, x: float, y: float) -> tuple[FloatArray, float] | None:
        """Return the PSF at a place with sum one, and nanojansky of all light of a star for one image unit of its sum.

        A star of calibrated flux F has a sum of F S / A(r), with S the sum of the kernel and A(r) its flux inside the
        calibration aperture: images calibrated to an aperture show different sums of one star if their seeing differs.

        Parameters
        ----------
        x, y : float
            Parent pixels.

        Returns
        -------
        (ndarray, float) or None
            None where the image has no PSF or no calibration at that place.
        """
        if not self.psf.defined(x, y).all():
            return None
        try:
            kernels = self.psf.kernels([x], [y])
        except PsfError:
            return None
        outside = self.psf.flux_outside([x], [y])
        found = kernel_scale(self._mode, self.photo_calib.reference, kernels, outside, invalid="nan")
        factor = float(self.photo_calib.scale(x, y)) / float(found.scale[0] * found.kernel_sum[0])
        if not (np.isfinite(factor) and factor > 0):
            return None
        return kernels[0] / found.kernel_sum[0], factor

    def noise_at(self, x: float, y: float) -> float:
        """Standard deviation of a pixel near a place: of the variance plane, or of the whole image, image units."""
        variance = self.exposure.variance
        if variance is not None:
            x0, y0 = self.exposure.xy0
            near = cut_square(variance, x - x0, y - y0, _NEAR)
            near = near[np.isfinite(near) & (near > 0)]
            if near.size:
                return float(np.sqrt(np.median(near)))
        return self._noise

    def square(self, x: float, y: float, size: int) -> FloatArray:
        """Cut a square around a place, less the level of the sky; NaN beyond the edge."""
        x0, y0 = self.exposure.xy0
        return cut_square(self.exposure.image, x - x0, y - y0, size).astype(np.float64) - self.level


@dataclass(frozen=True, eq=False)
class Triplet:
    """Cut-outs of science image, template and difference, nJy; the place is within half a pixel of the middle.

    Parameters
    ----------
    science, template, difference : ndarray of float32, shape (size, size)
        NaN where there is no pixel.
    snr : float
        Signal-to-noise ratio of a point source at the place in the difference; NaN where it has no noise.
    """

    science: NDArray[np.float32]
    template: NDArray[np.float32]
    difference: NDArray[np.float32]
    snr: float

    def covered(self) -> tuple[float, float]:
        """Give the parts of the pixels that science image and template have; zero where the middle is missing."""
        half = self.science.shape[0] // 2
        parts = []
        for pixels in (self.science, self.template):
            there = np.isfinite(pixels)
            parts.append(float(there.mean()) if there[half, half] else 0.0)
        return parts[0], parts[1]


def subtract_at(science: CalibratedImage, template: CalibratedImage, x: float, y: float, size: int) -> Triplet | None:
    """Subtract a template from a science image around one place, both convolved to one PSF.

    Parameters
    ----------
    science, template : CalibratedImage
        The images, on pixels of their own.
    x, y : float
        The place, parent pixels of the science image.
    size : int
        Side of the cut-outs, pixels; odd.

    Returns
    -------
    Triplet or None
        None where one of the images has no PSF or calibration there, or the template no pixel.

    Notes
    -----
    The difference is ``S * P_t - T * P_s`` (Yuan & Akerlof 2008, ApJ 677, 808), with * a convolution, T the template on
    the pixels of the science image by cubic splines, and P_t its PSF there: each with sum one. Both terms have the PSF
    ``P_s * P_t``, so that no kernel has to be fitted. Pixels that are missing count as sky.
    """
    own = science.kernel_at(x, y)
    if own is None:
        return None
    matrix, place = _local_map(science, template, x, y)
    other = template.kernel_at(*place) if np.isfinite([*place, *matrix.ravel()]).all() else None
    if other is None:
        return None
    psf, factor = own
    template_psf = _warped(other[0], matrix)
    if template_psf is None:
        return None
    margin = max(*psf.shape, *template_psf.shape) // 2
    side = size + 2 * margin
    corner = int(np.floor(x + 0.5)) - side // 2, int(np.floor(y + 0.5)) - side // 2
    drawn = _on_pixels(template, science, corner, side)
    if drawn is None:
        return None
    seen = science.square(x, y, side) * factor
    drawn *= other[1]
    plane = _Plane(side, margin)
    of_science, of_template = plane.of_kernel(psf), plane.of_kernel(template_psf)
    transform = plane.of_pixels(seen) * of_template - plane.of_pixels(drawn) * of_science
    # White noise of the template has |det| of its variance in a pixel of the science image.
    variance = (science.noise_at(x, y) * factor) ** 2 * np.abs(of_template) ** 2
    area = abs(float(np.linalg.det(matrix)))
    variance += area * (template.noise_at(*place) * other[1]) ** 2 * np.abs(of_science) ** 2
    snr = plane.signal_to_noise(transform, of_science * of_template, variance, _middle(x, y, side))
    inner = np.s_[margin : margin + size, margin : margin + size]
    seen, drawn, difference = seen[inner], drawn[inner], plane.pixels(transform)[inner]
    difference[~np.isfinite(seen) | ~np.isfinite(drawn)] = np.nan
    return Triplet(_single(seen), _single(drawn), _single(difference), snr)


def subtract_original(after: CalibratedImage, before: CalibratedImage, x: float, y: float, size: int) -> Triplet | None:
    """Subtract an image before injection from the same image after it, pixel by pixel.

    Parameters
    ----------
    after, before : CalibratedImage
        The image with and without its sources; the calibration of the first holds for both.
    x, y : float
        The place, parent pixels.
    size : int
        Side of the cut-outs, pixels; odd.

    Returns
    -------
    Triplet or None
        None where the image has no PSF or calibration.
    """
    own = after.kernel_at(x, y)
    if own is None:
        return None
    psf, factor = own
    # One level for both: what was injected raises the median of a crowded image.
    seen = (after.square(x, y, size) + after.level - before.level) * factor
    original = before.square(x, y, size) * factor
    difference = seen - original
    plane = _Plane(size, max(psf.shape) // 2)
    of_psf = plane.of_kernel(psf)
    variance = np.full(of_psf.shape, (before.noise_at(x, y) * factor) ** 2)
    snr = plane.signal_to_noise(plane.of_pixels(difference), of_psf, variance, _middle(x, y, size))
    return Triplet(_single(seen), _single(original), _single(difference), snr)


def _local_map(
    science: CalibratedImage, template: CalibratedImage, x: float, y: float
) -> tuple[FloatArray, FloatArray]:
    """Return d(template pixels)/d(science pixels), shape (2, 2), and where the place is on the template."""
    at_x, at_y = x + np.array([0.0, 1.0, -1.0, 0.0, 0.0]), y + np.array([0.0, 0.0, 0.0, 1.0, -1.0])
    sky = science.exposure.wcs.pixel_to_world_values(at_x, at_y)
    there = np.array(template.exposure.wcs.world_to_pixel_values(*sky), dtype=np.float64)
    matrix = np.column_stack([there[:, 1] - there[:, 2], there[:, 3] - there[:, 4]]) / 2
    return matrix, there[:, 0]


def _warped(kernel: FloatArray, matrix: FloatArray) -> FloatArray | None:
    """Resample a kernel to pixels of another image, with sum one; None where they are of absurd size."""
    from scipy.ndimage import map_coordinates

    determinant = abs(float(np.linalg.det(matrix)))
    if not determinant > 0:
        return None
    ny, nx = kernel.shape
    reach = np.abs(np.linalg.inv(matrix)) @ np.array([nx // 2, ny // 2], dtype=float)
    half_x, half_y = (int(np.ceil(r)) for r in reach)
    if max(half_x, half_y) > _LARGEST_MARGIN:
        return None
    v, u = np.mgrid[-half_y : half_y + 1, -half_x : half_x + 1].astype(float)
    at = [matrix[1, 0] * u + matrix[1, 1] * v + ny // 2, matrix[0, 0] * u + matrix[0, 1] * v + nx // 2]
    warped = np.asarray(map_coordinates(kernel, at, order=3, mode="constant", cval=0.0), dtype=np.float64)
    total = warped.sum()
    return warped / total if total > 0 else None


def _on_pixels(
    template: CalibratedImage, science: CalibratedImage, corner: tuple[int, int], side: int
) -> FloatArray | None:
    """Resample a template, less its sky, to a square of a science image's pixels; None where it has none."""
    where = pixel_map(science.exposure.wcs, corner, (side, side), template.exposure.wcs)
    (ny, nx), (x0, y0) = template.exposure.shape, template.exposure.xy0
    edges = []
    for every, first, n in ((where[0], x0, nx), (where[1], y0, ny)):
        values = every[np.isfinite(every)]
        if not values.size:
            return None
        low = max(int(np.floor(values.min())) - first - _SPLINE_MARGIN, 0)
        high = min(int(np.ceil(values.max())) - first + _SPLINE_MARGIN + 1, n)
        if low >= high:
            return None
        edges.append((low, high))
    (left, right), (bottom, top) = edges
    part = template.exposure.image[bottom:top, left:right] - np.float32(template.level)
    found = resample(part, (x0 + left, y0 + bottom), where, interpolation="cubic").astype(np.float64)
    return found if np.isfinite(found).any() else None


class _Plane:
    """Fourier transforms of squares of pixels, wide enough that nothing comes in from the other side.

    Parameters
    ----------
    side : int
        Of the squares, pixels.
    margin : int
        Largest half width of a kernel, pixels.
    """

    def __init__(self, side: int, margin: int) -> None:
        from scipy import fft

        self._side = side
        self._n = fft.next_fast_len(side + 2 * margin + 2, real=True)

    def of_pixels(self, pixels: FloatArray) -> ComplexArray:
        """Transform a square; what is missing counts as zero."""
        from scipy import fft

        return np.asarray(fft.rfft2(np.where(np.isfinite(pixels), pixels, 0.0), (self._n, self._n)))

    def of_kernel(self, kernel: FloatArray) -> ComplexArray:
        """Transform a kernel of odd sides, whose origin is its middle."""
        from scipy import fft

        square = np.zeros((self._n, self._n))
        ny, nx = kernel.shape
        square[:ny, :nx] = kernel
        return np.asarray(fft.rfft2(np.roll(square, (-(ny // 2), -(nx // 2)), axis=(0, 1))))

    def pixels(self, transform: ComplexArray) -> FloatArray:
        """Transform back."""
        return self._back(transform)[: self._side, : self._side]

    def _back(self, transform: ComplexArray) -> FloatArray:
        from scipy import fft

        return np.asarray(fft.irfft2(transform, (self._n, self._n)), dtype=np.float64)

    def signal_to_noise(
        self, difference: ComplexArray, psf: ComplexArray, variance: FloatArray, at: tuple[float, float]
    ) -> float:
        """Signal-to-noise ratio of a point source by the optimal filter (Zackay et al. 2016, ApJ 830, 27).

        Parameters
        ----------
        difference, psf : ndarray of complex
            Transforms of the difference and of its PSF.
        variance : ndarray
            Power of the noise in the difference.
        at : (float, float)
            Column and row of the source.

        Returns
        -------
        float
            NaN where there is no noise.
        """
        from scipy.ndimage import map_coordinates

        if not variance.max() > 0:
            return float("nan")
        weight = np.conj(psf) / (variance + 1e-12 * variance.max())
        scores = self.pixels(difference * weight)
        expected = float(self._back(psf * weight)[0, 0])
        score = float(map_coordinates(scores, [[at[1]], [at[0]]], order=3, mode="nearest")[0])
        return score / float(np.sqrt(expected)) if expected > 0 else float("nan")


def _middle(x: float, y: float, side: int) -> tuple[float, float]:
    """Column and row of a place on the square around it."""
    return float(x - np.floor(x + 0.5) + side // 2), float(y - np.floor(y + 0.5) + side // 2)


def _single(pixels: FloatArray) -> NDArray[np.float32]:
    return pixels.astype(np.float32)
