"""Stars: the PSF at the star's own position, scaled, moved by a fraction of a pixel and added.

Everything that the stars of an image share is prepared once (`StarPainter`): the PSF's basis on a finer grid (see
`skygraft.render.shift`, and `skygraft.render.fine_stars` for PSFs that pixels undersample), and the tables that give
its width from its coefficients (`skygraft.psf.FwhmMeter`). A star then costs the sum of the basis with its
coefficients, two passes of a few taps, and the addition. The sums and the shift are in single precision, which the
canvas has anyway; the basis is made orthonormal first, so that they do not cancel.

Stars are added one after the other in the order given (injection id), each made by itself, so that a pixel's sum
depends only on the stars that touch it, and not on how many are drawn together.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from skygraft.jit import compiled
from skygraft.psf import (
    PSF,
    Box,
    LinearPSF,
    SinglePrecisionBasis,
    SubPixelBasis,
    UndersamplingMeter,
    basis_between_pixels,
    check_coefficients,
    check_kernels,
    places_over,
)
from skygraft.psf.linear import aligned, combine_into
from skygraft.render.canvas import Canvas
from skygraft.render.fine_stars import FineStars
from skygraft.render.normalisation import Normalisation, PointNormalisation
from skygraft.render.prepared import width_meter
from skygraft.render.shift import FAST, PRECISE, Sizes, add_rows, fine_images, pair_taps, shift_rows, taps_table
from skygraft.render.vectors import LANES

__all__ = ["StarPainter", "Stars"]

_HELD_SAMPLES = 1 << 17
"""Samples of stars that are in memory at a time, few enough for the processor's cache."""
_VECTOR = 2 * LANES
"""Pixels of a row that are computed at a time: one cache line."""


@dataclass(frozen=True, eq=False)
class Stars:
    """Results for each star of a batch, each of shape (N,).

    Parameters
    ----------
    scale, aperture_fraction : ndarray
        Of the `Normalisation`.
    fwhm : ndarray
        Of the PSF, pixels.
    deposited : ndarray
        Flux that landed on the canvas.
    clipped : ndarray of bool
        Whether part of the star's kernel lay off the canvas.
    undersampled : ndarray of bool
        Whether the PSF is known on pixels only, which are too coarse for it; see `skygraft.psf.sampling`.
    """

    scale: NDArray[np.float64]
    aperture_fraction: NDArray[np.float64]
    fwhm: NDArray[np.float64]
    deposited: NDArray[np.float64]
    clipped: NDArray[np.bool_]
    undersampled: NDArray[np.bool_]

    def of(self, rows: NDArray[np.intp]) -> Stars:
        """Return copies of what is known of some of the stars."""
        return Stars(*(getattr(self, field.name)[rows] for field in dataclasses.fields(Stars)))

    def first(self) -> Stars:
        """Return what is known of the first star."""
        return Stars(*(getattr(self, field.name)[:1] for field in dataclasses.fields(Stars)))


class StarPainter:
    """Draws the stars of one image.

    Parameters
    ----------
    psf : PSF
        The image's PSF.
    box : Box
        The image's outer edges, parent pixels.
    engine : {"precise", "fast"}
        Nine taps, whose errors are those of single precision, or five. A PSF that is known between pixels, where
        pixels are too coarse for it, is evaluated at each star's own place in either case.
    """

    def __init__(self, psf: PSF, box: Box, engine: Literal["precise", "fast"] = "precise") -> None:
        self._psf = psf
        self._shift = PRECISE if engine == "precise" else FAST
        self._fwhm = width_meter(psf, box)
        self._undersampled = UndersamplingMeter(psf, *places_over(box))
        self._basis: SinglePrecisionBasis | None = None
        self._between = basis_between_pixels(psf, box)
        self._fine = None if self._between is None else FineStars(self._between)
        if isinstance(psf, LinearPSF) and self._fine is None:
            self._basis = SinglePrecisionBasis(psf.basis).mapped(lambda images: fine_images(images, self._shift))

    @property
    def draws_between_pixels(self) -> bool:
        """Whether each star's pixels are values of a PSF that pixels undersample, so that they are not band-limited."""
        return self._fine is not None

    @property
    def between(self) -> SubPixelBasis | None:
        """What these values are of; None where pixels suffice."""
        return self._between

    @property
    def batch(self) -> int:
        """Stars to draw at a time: many for a linear PSF, few where each star has a kernel of its own in memory."""
        return 1024 if isinstance(self._psf, LinearPSF) else 64

    def add(
        self,
        canvas: Canvas,
        x: NDArray[np.float64],
        y: NDArray[np.float64],
        flux: NDArray[np.float64],
        normalisation: Normalisation,
    ) -> Stars:
        """Add stars to the canvas.

        Parameters
        ----------
        canvas : Canvas
            Changed in place.
        x, y : ndarray, shape (N,)
            Parent pixel coordinates, finite.
        flux : ndarray, shape (N,)
            Calibrated flux, image units.
        normalisation : Normalisation
            What ties kernels to the calibration.

        Returns
        -------
        Stars

        Raises
        ------
        PsfError
            If the PSF cannot be evaluated or normalised at one of the positions; nothing has been drawn then.
        """
        psf = self._psf
        drawn, coefficients, kernels, piece = self._evaluate(x, y, normalisation)
        if self._fine is not None and coefficients is not None:
            self._fine.add(canvas, coefficients, x, y, flux * drawn.scale, drawn.deposited, drawn.clipped)
            return drawn
        stars = _Placed(x - canvas.x0, y - canvas.y0, flux * drawn.scale, drawn.deposited, drawn.clipped)
        sizes = Sizes(psf.shape, self._shift)
        shift = _Shifting(taps_table(self._shift.width), *sizes.stamp, sizes.plane[1], self._shift.margin)
        if self._basis is not None and coefficients is not None:
            held = min(max(1, _HELD_SAMPLES // (9 * sizes.samples)), len(x))
            planes = aligned((held, 3, 3, sizes.samples))
            _add_sums(canvas.model, self._basis.weights(coefficients), self._basis.rows, planes, stars, shift)
        elif kernels is not None:
            planes = fine_images(kernels, self._shift).astype(np.float32)
            _add_planes(canvas.model, planes if piece is None else planes[piece], stars, 0, shift)
        return drawn

    def evaluate(
        self, x: NDArray[np.float64], y: NDArray[np.float64], normalisation: Normalisation
    ) -> tuple[Stars, NDArray[np.float64] | None]:
        """Evaluate the PSF at stars' places and tie it to the calibration, without drawing them.

        Parameters
        ----------
        x, y : ndarray, shape (N,)
            Parent pixel coordinates, finite.
        normalisation : Normalisation
            What ties kernels to the calibration.

        Returns
        -------
        stars : Stars
            With nothing deposited.
        coefficients : ndarray, shape (N, B), or None
            Of a `LinearPSF`; None for any other.

        Raises
        ------
        PsfError
            If the PSF cannot be evaluated or normalised at one of the positions.
        """
        found, coefficients, _, _ = self._evaluate(x, y, normalisation)
        return found, coefficients

    def _evaluate(
        self, x: NDArray[np.float64], y: NDArray[np.float64], normalisation: Normalisation
    ) -> tuple[Stars, NDArray[np.float64] | None, NDArray[np.float64] | None, NDArray[np.intp] | None]:
        """Return stars, coefficients, kernels, and, of a PSF in pieces, which of the kernels is each star's."""
        psf = self._psf
        coefficients = kernels = None
        pieces = psf.pieces(x, y)
        if pieces is not None and (pieces >= 0).all():
            _, first, of_piece = np.unique(pieces, return_index=True, return_inverse=True)
            if len(first) < len(x):
                found, _, kernels, _ = self._evaluate(x[first], y[first], normalisation)
                return found.of(of_piece), None, kernels, of_piece
        if isinstance(psf, LinearPSF):
            coefficients = psf.coefficients(x, y)
            check_coefficients(psf, coefficients, x, y)
            scale, fraction = self._normalised(coefficients, x, y, normalisation)
        else:
            kernels = psf.kernels(x, y)
            check_kernels(kernels, places=np.stack([x, y], axis=1))
            scale, fraction = normalisation(kernels, x, y)
        found = Stars(
            scale,
            fraction,
            self._fwhm(coefficients, kernels),
            np.zeros(len(x)),
            np.zeros(len(x), dtype=np.bool_),
            self._undersampled(coefficients, kernels),
        )
        return found, coefficients, kernels, None

    def _normalised(
        self,
        coefficients: NDArray[np.float64],
        x: NDArray[np.float64],
        y: NDArray[np.float64],
        normalisation: Normalisation,
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return scale and aperture fraction, of undersampled PSFs at each star's own sub-pixel position."""
        if self._fine is not None and isinstance(normalisation, PointNormalisation):
            return normalisation.of_points(coefficients, x, y)
        return normalisation.of_coefficients(coefficients, x, y)


class _Placed(NamedTuple):
    """Positions of stars on the canvas, their amplitudes, and the arrays for their results."""

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    amplitude: NDArray[np.float64]
    deposited: NDArray[np.float64]
    clipped: NDArray[np.bool_]


class _Shifting(NamedTuple):
    """The table of taps, rows and columns of stamps, samples in a row of a plane, and the margin of stamps."""

    table: NDArray[np.float64]
    ny: int
    nx: int
    columns: int
    margin: int


@compiled
def _add_sums(
    model: NDArray[np.float32],
    weights: NDArray[np.float32],
    images: NDArray[np.float32],
    planes: NDArray[np.float32],
    stars: _Placed,
    shift: _Shifting,
) -> None:  # pragma: no cover - compiled
    """Add stars whose planes of samples are `weights` times `images`, a few at a time in the room of `planes`."""
    held = planes.shape[0]
    sums = planes.reshape(held, -1)
    for start in range(0, weights.shape[0], held):
        some = weights[start : start + held]
        combine_into(some, images, sums[: some.shape[0]])
        _add_planes(model, planes[: some.shape[0]], stars, start, shift)


@compiled(inline="always")
def _add_planes(
    model: NDArray[np.float32],
    planes: NDArray[np.float32],
    stars: _Placed,
    start: int,
    shift: _Shifting,
) -> None:  # pragma: no cover - compiled
    """Add the stars from `start` on whose planes of samples are given, each moved to its place."""
    x, y, amplitude, deposited, clipped = stars
    table, ny, nx, columns, margin = shift
    rows, width = model.shape
    flat = model.reshape(1, -1)
    half = np.zeros(6 * planes.shape[3] + LANES, np.float32)[LANES:].reshape(2, 3, planes.shape[3])
    empty = np.empty((1, ny * (nx + 2 * _VECTOR)), np.float32)
    taps = np.empty(9, np.float32), np.empty(10, np.float32), np.empty(3, np.int64)
    wide = table.shape[1] > 5
    for k in range(planes.shape[0]):
        s = start + k
        x0, y0 = _first_pixel(x[s], nx), _first_pixel(y[s], ny)
        clipped[s] = x0 + margin < 0 or y0 + margin < 0 or x0 + nx - margin > width or y0 + ny - margin > rows
        j0, j1 = max(0, -y0), min(ny, rows - y0)
        i0, i1 = max(0, -x0), min(nx, width - x0)
        if j0 >= j1 or i0 >= i1:
            continue
        following = min(s + 1, x.size - 1)
        ahead = (_first_pixel(y[following], ny) - y0) * width + _first_pixel(x[following], nx) - x0
        lead = x0 % _VECTOR
        shift_rows(planes[k], columns, y[s] - (y0 + ny // 2), table, taps, half)
        pair_taps(table, x[s] - (x0 + nx // 2), lead, amplitude[s], half.shape[2], 1, *taps)
        # stamps that reach beyond the left or right edge are first added to an empty buffer
        within = x0 >= 0 and x0 + nx + _VECTOR <= width
        whole, pitch, origin = (flat, width, y0 * width + x0 - lead) if within else (empty, empty.size // ny, 0)
        if not within:
            empty[:] = 0
        for odd in range(2):
            begin, end = (j0 + 1 - odd) // 2, (j1 + 1 - odd) // 2
            at = origin + (2 * begin + odd) * pitch
            deposited[s] += add_rows(
                half[odd], columns, begin, end - begin, taps, wide, lead, nx, whole, at, 2 * pitch, ahead
            )
        if not within:
            deposited[s] = 0
            for j in range(j0, j1):
                for i in range(i0, i1):
                    value = empty[0, j * pitch + lead + i]
                    model[y0 + j, x0 + i] += value
                    deposited[s] += value


@compiled(inline="always")
def _first_pixel(position: float, size: int) -> int:  # pragma: no cover - compiled
    """Return the first pixel of a stamp of `size` pixels whose middle pixel is the nearest to `position`."""
    return int(np.floor(position + 0.5)) - size // 2
