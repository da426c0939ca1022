"""PSFs whose kernels end smoothly at the radius at which extended wings take over; see `skygraft.psf.wings`."""

from __future__ import annotations

import functools
import itertools
import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skygraft.errors import PsfError
from skygraft.psf.base import PSF, Box
from skygraft.psf.fine import SubPixelBasis, whole_pixels
from skygraft.psf.linear import LinearPSF, combine
from skygraft.psf.sampling import places_over
from skygraft.psf.widths import kernel_fwhm
from skygraft.psf.wings import Wings

__all__ = ["Joined", "check_join", "measure_join"]


class Joined:
    """A PSF of which the wings are to be drawn apart: its tapered kernels, and the amplitude of the wings.

    Parameters
    ----------
    psf : PSF
        The PSF as it is.
    wings : Wings
        Its wings.

    Raises
    ------
    PsfError
        If the PSF's kernels do not reach the join radius.

    Attributes
    ----------
    core : PSF
        The tapered PSF, `LinearPSF` if the PSF is one.
    """

    def __init__(self, psf: PSF, wings: Wings) -> None:
        _check_size(psf, wings)
        self.psf, self.wings = psf, wings
        shape = _cropped(psf.shape, wings)
        y, x = (np.arange(-(n // 2), n // 2 + 1.0) for n in shape)
        r = np.hypot(y[:, None], x)
        b = wings.blended(r)
        weights = b * (1.0 - b)
        # Of tapered kernels, which are already multiplied by 1 - b.
        self._weights = b / float((weights * wings.profile(r)).sum())
        self.core: PSF
        if isinstance(psf, LinearPSF):
            self.core = _TaperedLinear(psf, wings, shape)
            self._of_basis: NDArray[np.float64] | None = self._functional(self.core.basis)
        else:
            self.core = _Tapered(psf, wings, shape)
            self._of_basis = None

    def _functional(self, images: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.array([float((image * self._weights).sum()) for image in images])

    def amplitudes(
        self,
        x: NDArray[np.float64],
        y: NDArray[np.float64],
        coefficients: NDArray[np.float64] | None = None,
        kernels: NDArray[np.float64] | None = None,
    ) -> NDArray[np.float64]:
        """Compute a, the amplitude of the wings at the join radius, per unit of the kernel as the model gives it.

        Parameters
        ----------
        x, y : ndarray, shape (N,)
            Positions, parent pixels.
        coefficients : ndarray, shape (N, B), optional
            Of a `LinearPSF` there, if they are known already.
        kernels : ndarray, shape (N, ny, nx), optional
            Tapered kernels there, if they are known already.

        Returns
        -------
        ndarray, shape (N,)
            Flux per square pixel.

        Raises
        ------
        PsfError
            If the kernel is negative at the join radius, at one of the positions.
        """
        if self._of_basis is not None and isinstance(self.core, LinearPSF):
            found = combine(self.core.coefficients(x, y) if coefficients is None else coefficients, self._of_basis)
        else:
            found = self._functional(self.core.kernels(x, y) if kernels is None else kernels)
        bad = ~(found > 0)
        if bad.any():
            k = int(np.argmax(bad))
            raise PsfError(
                f"the PSF kernel is negative or zero between {self.wings.inner:.4g} and {self.wings.join:.4g} pixels, "
                f"where the wings join it (mean {found[k]:.3g} per unit flux, at pixel x {x[k]:.1f}, y {y[k]:.1f}): "
                "wings that continue it have no amplitude",
                key="wings.join",
                fix="Join the wings further in, where the kernel is positive (wings: join)",
            )
        return found


def measure_join(joined: Joined, box: Box) -> dict[str, float]:
    """Measure how kernel and wings fit together, at nine places over an image, median.

    Parameters
    ----------
    joined : Joined
        PSF and wings.
    box : Box
        The image's outer edges, parent pixels.

    Returns
    -------
    dict
        ``kernel_slope`` and ``wing_slope``, the exponents -d ln I / d ln r of both over the blend; NaN where the
        kernel is negative at one of its ends.
    """
    wings, slopes = joined.wings, []
    edges = np.linspace(wings.inner, wings.join, 3)
    for kernel in _kernels_over(joined.psf, box):
        y, x = (np.arange(-(n // 2), n // 2 + 1.0) for n in kernel.shape)
        r = np.hypot(y[:, None], x)
        means = [float(kernel[(r >= low) & (r < high)].mean()) for low, high in itertools.pairwise(edges)]
        radii = [float(r[(r >= low) & (r < high)].mean()) for low, high in itertools.pairwise(edges)]
        if min(means) > 0:
            slopes.append(-math.log(means[1] / means[0]) / math.log(radii[1] / radii[0]))
    ends = wings.shape.logarithm(np.array([wings.inner, wings.join]))
    return {
        "kernel_slope": float(np.median(slopes)) if slopes else math.nan,
        "wing_slope": float(-(ends[1] - ends[0]) / math.log(wings.join / wings.inner)),
    }


def check_join(joined: Joined, box: Box) -> None:
    """Refuse wings that begin inside the PSF's core, or where its kernel is negative all over the image.

    Parameters
    ----------
    joined : Joined
        PSF and wings.
    box : Box
        The image's outer edges, parent pixels.

    Raises
    ------
    PsfError
    """
    wings = joined.wings
    kernels = _kernels_over(joined.psf, box)
    if not len(kernels):
        return
    width = float(np.nanmedian(kernel_fwhm(kernels)))
    if math.isfinite(width) and wings.inner < width:
        raise PsfError(
            f"the wings begin at {wings.inner:.4g} pixels ({wings.join:.4g} less the blend of {wings.blend:.4g}), "
            f"inside the PSF's core: its FWHM is {width:.3g} pixels",
            key="wings.join",
            fix="Join them further out, at two FWHM or more, or give a narrower blend",
        )
    failed: PsfError | None = None
    for x, y in zip(*places_over(box), strict=True):
        if not joined.psf.defined([x], [y])[0]:
            continue
        try:
            joined.amplitudes(np.array([x]), np.array([y]))
        except PsfError as error:
            failed = failed or error
        else:
            return
    if failed is not None:
        raise failed


def _kernels_over(psf: PSF, box: Box) -> NDArray[np.float64]:
    """Evaluate the PSF at nine places over an image, where it is defined."""
    x, y = places_over(box)
    defined = psf.defined(x, y)
    return psf.kernels(x[defined], y[defined]) if defined.any() else np.empty((0, *psf.shape))


def _check_size(psf: PSF, wings: Wings) -> None:
    half = min(psf.shape) // 2
    if wings.join > half + 0.5:
        ny, nx = psf.shape
        raise PsfError(
            f"the wings join at {wings.join:.4g} pixels, outside of the PSF's kernel of {nx} x {ny} pixels, which "
            f"reaches {half}",
            key="wings.join",
            fix=f"Join them at {half} pixels or less",
        )


def _cropped(shape: tuple[int, int], wings: Wings) -> tuple[int, int]:
    """Rows and columns of what a tapered kernel needs."""
    side = 2 * math.ceil(wings.join) + 1
    return min(shape[0], side), min(shape[1], side)


def _taper(images: NDArray[np.float64], wings: Wings, shape: tuple[int, int]) -> NDArray[np.float64]:
    """Multiply images (N, ny, nx) by 1 - b, and cut them to the shape."""
    (ny, nx), (my, mx) = images.shape[1:], shape
    top, left = (ny - my) // 2, (nx - mx) // 2
    y, x = (np.arange(-(n // 2), n // 2 + 1.0) for n in shape)
    return images[:, top : top + my, left : left + mx] * (1.0 - wings.blended(np.hypot(y[:, None], x)))


class _Tapered(PSF):
    """A PSF of any kind, tapered."""

    def __init__(self, psf: PSF, wings: Wings, shape: tuple[int, int]) -> None:
        self._psf, self._wings, self._shape = psf, wings, shape
        self._valid_box, self._average_position = psf.valid_box, psf.average_position

    @property
    def shape(self) -> tuple[int, int]:
        return self._shape

    def kernels(self, x: ArrayLike, y: ArrayLike) -> NDArray[np.float64]:
        return _taper(self._psf.kernels(x, y), self._wings, self._shape)

    def defined(self, x: ArrayLike, y: ArrayLike) -> NDArray[np.bool_]:
        return self._psf.defined(x, y)

    def pieces(self, x: ArrayLike, y: ArrayLike) -> NDArray[np.int64] | None:
        return self._psf.pieces(x, y)

    @property
    def description(self) -> str:
        return f"{self._psf.description}, tapered"


class _TaperedLinear(LinearPSF):
    """A sum of basis images, tapered."""

    def __init__(self, psf: LinearPSF, wings: Wings, shape: tuple[int, int]) -> None:
        super().__init__(
            _taper(psf.basis, wings, shape), valid_box=psf.valid_box, average_position=psf.average_position
        )
        self._psf, self._wings = psf, wings

    def coefficients(self, x: ArrayLike, y: ArrayLike) -> NDArray[np.float64]:
        return self._psf.coefficients(x, y)

    def defined(self, x: ArrayLike, y: ArrayLike) -> NDArray[np.bool_]:
        return self._psf.defined(x, y)

    @functools.cached_property
    def _between(self) -> SubPixelBasis | None:
        basis = self._psf.sub_pixel
        return None if basis is None else _TaperedBasis(basis, self._wings, self.shape)

    @property
    def sub_pixel(self) -> SubPixelBasis | None:
        return self._between

    @property
    def description(self) -> str:
        return f"{self._psf.description}, tapered"


class _TaperedBasis(SubPixelBasis):
    """A basis between pixels, tapered."""

    def __init__(self, basis: SubPixelBasis, wings: Wings, shape: tuple[int, int]) -> None:
        (y_low, y_high), (x_low, x_high) = basis.reach
        (v_low, v_high), (u_low, u_high) = whole_pixels(shape)
        reach = (max(y_low, v_low), min(y_high, v_high)), (max(x_low, u_low), min(x_high, u_high))
        super().__init__(shape, reach, basis._scale)
        self._basis, self._wings = basis, wings
        self.pixels_count, self.most_missed = basis.pixels_count, basis.most_missed
        self.few = basis.few

    def evaluate(self, y: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.float64]:
        return self._basis.evaluate(y, x) * (1.0 - self._wings.blended(np.hypot(y[:, None], x)))
