"""PSFEx models: images that vary as a polynomial of position, on a grid finer or coarser than the pixels."""

from __future__ import annotations

import functools
import math
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skygraft.errors import ConfigError, PsfError
from skygraft.jit import Tally, compiled
from skygraft.psf.base import Box, check_kernel_shape
from skygraft.psf.fine import FineGrid, SubPixelBasis, lanczos_taps, whole_pixels
from skygraft.psf.linear import LinearPSF, combine, frozen, normalized, positions, power_terms

__all__ = ["PsfexConvention", "PsfexPSF"]

type PsfexConvention = Literal["psfex", "lsst"]

_LANCZOS_ORDER = {"psfex": 4, "lsst": 5}

# Stars rarely reach the edge of a detector; a polynomial of low degree is valid this far beyond them (in units of
# their span).
_EDGE = 0.05
_ROUNDING = 1e-6
"""Pixels by which rounding may put a position outside of the samples."""


class PsfexPSF(LinearPSF):
    """A PSFEx model, evaluated in native pixels.

    The model is ``sum over terms of u^i v^j basis[term]`` with ``u = (x - zero_x) / scale_x`` and likewise v, terms
    ordered with j outside and i inside (degree 2: 1, u, u2, v, uv, v2). Interpolation to native pixels is linear, so
    that it is done once, for the basis.

    Parameters
    ----------
    basis : array_like, shape ((degree + 1)(degree + 2) / 2, my, mx)
        The model's images on its own grid; sample ``n // 2`` is the centre.
    degree : int
        Total degree of the polynomial.
    zero, scale : (float, float), optional
        Origin and scale of the polynomial's variables in x and y: 0-based pixels of the parent frame. A `.psf`
        file's POLZERO is 1-based: `read_psfex` takes care of it.
    step : float, optional
        Pixels per sample (PSF_SAMP).
    convention : {"psfex", "lsst"}, optional
        How native pixels are made, see Notes.
    valid_box : Box, optional
        Where the model holds. By default the span of the stars it was made from, grown by a twentieth on each
        side: PSFEx scales so that its stars run from -0.5 to 0.5 in u and v. A constant model holds everywhere.
    average_position : (float, float), optional
        The position that stands for the whole image.

    Raises
    ------
    ConfigError
        If the arguments do not go together.
    PsfError
        If the model holds no light, or values that are not finite.

    Notes
    -----
    ``"psfex"`` is PSFEx's own model: the samples are surface brightness per pixel, interpolated by a Lanczos-4
    function at pixel centres. Kernels are as the model gives them: on real files they, and the sum of the samples
    times the squared step, come to 1.01 to 1.08.

    ``"lsst"`` is what the LSST pipelines compute from their PsfexPsf: Lanczos-5, a size of ``int(mx * step)`` made
    odd, and each kernel divided by its sum. They do it in single precision, and are off from a sum of one by 1e-6;
    `kernels` follows them to the last bit, since that is what their photometry sees, while ``coefficients @ basis``
    is the same model in double precision.

    In both, the interpolation weights of each pixel are scaled to sum one over the samples that exist.

    References
    ----------
    Bertin 2011, "Automated Morphometry with SExtractor and PSFEx", ASP Conf. Ser. 442, 435.
    """

    def __init__(
        self,
        basis: ArrayLike,
        degree: int,
        zero: tuple[float, float] = (0.0, 0.0),
        scale: tuple[float, float] = (1.0, 1.0),
        step: float = 1.0,
        *,
        convention: PsfexConvention = "psfex",
        valid_box: Box | None = None,
        average_position: tuple[float, float] | None = None,
    ) -> None:
        if convention not in get_args(PsfexConvention.__value__):
            raise ConfigError(f"PSFEx convention {convention!r} is not one of 'psfex', 'lsst'", key="convention")
        model = np.asarray(basis, dtype=np.float64)
        if degree < 0 or model.ndim != 3 or len(model) != (degree + 1) * (degree + 2) // 2:
            raise ConfigError(
                f"a PSFEx polynomial of degree {degree} has {(degree + 1) * (degree + 2) // 2} images (terms, my, mx); "
                f"an array of shape {model.shape} was given"
            )
        numbers = np.array([*zero, *scale, step], dtype=np.float64)
        if not np.isfinite(numbers).all() or step <= 0 or (degree > 0 and not (numbers[2:4] > 0).all()):
            raise ConfigError(
                f"PSFEx zero {zero}, scale {scale} and step {step} must be finite, scale and step positive"
            )
        if not np.isfinite(model).all():
            raise PsfError("the PSFEx model holds values that are not finite")
        if not model[0].sum() > 0:
            raise PsfError(
                "the PSFEx model holds no light", fix="PSFEx may have found no stars: give another PSF for this image"
            )
        if valid_box is None and degree > 0:
            (x0, y0), (hx, hy) = numbers[:2].tolist(), ((0.5 + _EDGE) * numbers[2:4]).tolist()
            valid_box = Box(x0 - hx, x0 + hx, y0 - hy, y0 + hy)
        check_kernel_shape((math.ceil(model.shape[1] * step), math.ceil(model.shape[2] * step)), "the PSFEx model")
        rows, columns = (_resampling(n, float(step), convention) for n in model.shape[1:])
        self._samples = np.ascontiguousarray(model, dtype=np.float32)
        self._samples.setflags(write=False)
        self._rows, self._columns = frozen(rows), frozen(columns)
        super().__init__(rows @ model @ columns.T, valid_box=valid_box, average_position=average_position)
        self._degree = int(degree)
        self._zero = (float(zero[0]), float(zero[1]))
        self._scale = (float(scale[0]), float(scale[1]))
        self._step = float(step)
        self._convention: PsfexConvention = convention
        self._sums = frozen(self._basis.sum(axis=(1, 2)))

    def coefficients(self, x: ArrayLike, y: ArrayLike) -> NDArray[np.float64]:
        """Evaluate the polynomial's terms at N positions.

        Parameters
        ----------
        x, y : array_like, shape (N,)
            Positions in parent pixels.

        Returns
        -------
        ndarray of float64, shape (N, B)
            Weights of the basis images, with any normalisation of the model.
        """
        terms = self._terms(x, y)
        return normalized(terms, self._sums) if self._convention == "lsst" else terms

    def kernels(self, x: ArrayLike, y: ArrayLike) -> NDArray[np.float64]:
        """Evaluate the model at N positions in native pixels.

        Parameters
        ----------
        x, y : array_like, shape (N,)
            Positions in parent pixels.

        Returns
        -------
        ndarray of float64, shape (N, ny, nx)
            Centred on the middle pixel; see `PSF.kernels`.
        """
        if self._convention == "psfex":
            return super().kernels(x, y)
        terms = self._terms(x, y)
        normalized(terms, self._sums)  # raises where there is no light to divide by
        evaluate = _in_single_precision if _evaluated.is_much(len(terms)) else _few_in_single_precision
        return evaluate(terms, self._samples, self._rows, self._columns)

    def model_sums(self, x: ArrayLike, y: ArrayLike) -> NDArray[np.float64]:
        """Sum the kernels at N positions before any division by these sums.

        Parameters
        ----------
        x, y : array_like, shape (N,)
            Positions in parent pixels.

        Returns
        -------
        ndarray of float64, shape (N,)
        """
        return combine(self._terms(x, y), self._sums)

    def images(self, x: ArrayLike, y: ArrayLike) -> NDArray[np.float64]:
        """Evaluate images of a unit source at N positions on the pixel grid itself, each summing to one.

        The middle pixel of image i is pixel (floor(x[i] + 0.5), floor(y[i] + 0.5)); the model is resampled at the
        source's own place among the pixels, as the pipelines' ``PsfexPsf.computeImage`` does.

        Parameters
        ----------
        x, y : array_like, shape (N,)
            Positions in parent pixels.

        Returns
        -------
        ndarray of float64, shape (N, ny, nx)
        """
        terms = self._terms(x, y)
        normalized(terms, self._sums)  # raises where there is no light to divide by
        x, y = positions(x, y)
        dx, dy = x - np.floor(x + 0.5), y - np.floor(y + 0.5)
        return _resampled(terms, self._samples, self.shape, self._step, _LANCZOS_ORDER[self._convention], dx, dy)

    def _terms(self, x: ArrayLike, y: ArrayLike) -> NDArray[np.float64]:
        """Polynomial terms at N positions, shape (N, B)."""
        x, y = positions(x, y)
        exponents = [(i, j) for j in range(self._degree + 1) for i in range(self._degree + 1 - j)]
        u, v = (
            (np.zeros_like(x), np.zeros_like(y))
            if self._degree == 0
            else (
                (x - self._zero[0]) / self._scale[0],
                (y - self._zero[1]) / self._scale[1],
            )
        )
        return power_terms(u, v, exponents)

    @property
    def sub_pixel(self) -> SubPixelBasis | None:
        """The basis as a function of sub-pixel offset; None where the model's samples are not closer than pixels."""
        if self._step >= 1:
            return None
        return _PsfexBasis(self._samples, self._step, self._convention, self.shape)

    @property
    def convention(self) -> PsfexConvention:
        """How the model is resampled to native pixels: "psfex" or "lsst"."""
        return self._convention

    @property
    def step(self) -> float:
        """Pixels per sample of the model."""
        return self._step

    @property
    def description(self) -> str:
        """Short description of the model, for people and records."""
        ny, nx = self.shape
        model = f"PSFEx ({self._convention} convention), degree {self._degree}, step {self._step:g} pixel"
        return f"{model}, {nx} x {ny} pixels"


@compiled
def _in_single_precision(
    terms: NDArray[np.float64],
    samples: NDArray[np.float32],
    rows: NDArray[np.float64],
    columns: NDArray[np.float64],
) -> NDArray[np.float64]:  # pragma: no cover - compiled
    """Compute kernels (N, ny, nx) from terms (N, B), rounding to float32 after each step as the LSST pipelines do."""
    n_terms, my, mx = samples.shape
    ny, nx = rows.shape[0], columns.shape[0]
    out = np.empty((terms.shape[0], ny, nx))
    model = np.empty((my, mx), dtype=np.float32)
    half = np.empty((my, nx), dtype=np.float32)
    kernel = np.empty((ny, nx), dtype=np.float32)
    for k in range(terms.shape[0]):
        model[:] = np.float32(0.0)
        for b in range(n_terms):
            factor = np.float32(terms[k, b])
            for j in range(my):
                for i in range(mx):
                    model[j, i] += factor * samples[b, j, i]
        for i in range(nx):
            first, last = _support(columns[i])
            for j in range(my):
                value = 0.0
                for m in range(first, last):
                    value += columns[i, m] * model[j, m]
                half[j, i] = np.float32(value)
        total = np.float32(0.0)
        for j in range(ny):
            first, last = _support(rows[j])
            for i in range(nx):
                value = 0.0
                for m in range(first, last):
                    value += rows[j, m] * half[m, i]
                kernel[j, i] = np.float32(value)
                total += kernel[j, i]
        for j in range(ny):
            for i in range(nx):
                out[k, j, i] = kernel[j, i] / total
    return out


_evaluated = Tally(30)
"""Kernels that are made in numpy, before code is loaded that is compiled for it."""


def _few_in_single_precision(
    terms: NDArray[np.float64],
    samples: NDArray[np.float32],
    rows: NDArray[np.float64],
    columns: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Do what `_in_single_precision` does in numpy, to the last bit."""
    out = np.empty((len(terms), len(rows), len(columns)))
    for kernel, factors in zip(out, terms.astype(np.float32), strict=True):
        model = np.zeros(samples.shape[1:], np.float32)
        for factor, image in zip(factors, samples, strict=True):
            model += factor * image
        half = _in_order(columns, model.T)  # (nx, my)
        made = _in_order(rows, half.T)  # (ny, nx)
        kernel[:] = made / np.add.accumulate(made.reshape(-1))[-1]
    return out


def _in_order(weights: NDArray[np.float64], values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Sum values (n, m) with weights (n_out, n), one after the other, each sum rounded to float32: (n_out, m)."""
    total = np.zeros((len(weights), values.shape[1]))
    first = np.argmax(weights != 0, axis=1)
    last = weights.shape[1] - np.argmax(weights[:, ::-1] != 0, axis=1)
    last[~weights.any(axis=1)] = 0
    which = np.arange(len(weights))
    for k in range(max(int((last - first).max(initial=0)), 0)):
        at = first + k
        some = which[at < last]
        total[some] += weights[some, at[some], None] * values[at[some]]
    return total.astype(np.float32)


@compiled
def _resampled(
    terms: NDArray[np.float64],
    samples: NDArray[np.float32],
    shape: tuple[int, int],
    step: float,
    order: int,
    dx: NDArray[np.float64],
    dy: NDArray[np.float64],
) -> NDArray[np.float64]:  # pragma: no cover - compiled
    """Compute images (N, ny, nx) of models with terms (N, B), shifted by dx, dy (N,) pixels, each of sum one."""
    n_terms, my, mx = samples.shape
    ny, nx = shape
    out = np.empty((terms.shape[0], ny, nx))
    model = np.empty((my, mx), dtype=np.float32)
    half = np.empty((my, nx))
    weights = np.empty(2 * order + 2)
    for s in range(terms.shape[0]):
        model[:] = np.float32(0.0)
        for b in range(n_terms):
            factor = np.float32(terms[s, b])
            for j in range(my):
                for i in range(mx):
                    model[j, i] += factor * samples[b, j, i]
        for i in range(nx):
            first, last = _lanczos_row(mx, mx // 2 + (i - nx // 2 - dx[s]) / step, order, weights)
            for j in range(my):
                value = 0.0
                for m in range(first, last):
                    value += weights[m - first] * model[j, m]
                half[j, i] = value
        total = 0.0
        for j in range(ny):
            first, last = _lanczos_row(my, my // 2 + (j - ny // 2 - dy[s]) / step, order, weights)
            for i in range(nx):
                out[s, j, i] = 0.0
            for m in range(first, last):
                for i in range(nx):
                    out[s, j, i] += weights[m - first] * half[m, i]
            for i in range(nx):
                total += out[s, j, i]
        for j in range(ny):
            for i in range(nx):
                out[s, j, i] /= total
    return out


@compiled
def _lanczos_row(
    n: int, at: float, order: int, weights: NDArray[np.float64]
) -> tuple[int, int]:  # pragma: no cover - compiled
    """Find the range of samples that contribute at `at`, and fill in their Lanczos weights; empty outside."""
    if at < 0 or at > n - 1:
        return 0, 0
    first, last = max(int(np.ceil(at - order)), 0), min(int(np.floor(at + order)) + 1, n)
    total = 0.0
    for m in range(first, last):
        t = np.pi * (m - at)
        weights[m - first] = 1.0 if t == 0.0 else np.sin(t) / t * (np.sin(t / order) / (t / order))
        total += weights[m - first]
    for m in range(first, last):
        weights[m - first] /= total
    return first, last


@compiled
def _support(weights: NDArray[np.float64]) -> tuple[int, int]:  # pragma: no cover - compiled
    """Find the range of the weights that are not zero."""
    first, last = 0, weights.size
    while first < last and weights[first] == 0.0:
        first += 1
    while last > first and weights[last - 1] == 0.0:
        last -= 1
    return first, last


class _PsfexBasis(SubPixelBasis):
    """The samples of a model, interpolated by Lanczos's function at any offset."""

    def __init__(
        self, samples: NDArray[np.float32], step: float, convention: PsfexConvention, shape: tuple[int, int]
    ) -> None:
        # The model has values within its kernels' pixels, as far as there are samples.
        reach = []
        for n, (low, high), half in zip(
            samples.shape[1:], whole_pixels(shape), (size // 2 + _ROUNDING for size in shape), strict=True
        ):
            first, last = n // 2 * step + _ROUNDING, (n - 1 - n // 2) * step + _ROUNDING
            reach.append((max(low, -max(first, half)), min(high, max(last, half))))
        super().__init__(shape, (reach[0], reach[1]))
        self._samples, self._step, self._order = samples, step, _LANCZOS_ORDER[convention]
        # The LSST pipelines measure, correct and inject with the kernel on pixels, which they interpolate.
        self.pixels_count = convention == "lsst"

    def evaluate(self, y: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.float64]:
        rows, columns = (
            _lanczos_weights(n, n // 2 + at / self._step, self._order)
            for n, at in zip(self._samples.shape[1:], (y, x), strict=True)
        )
        values: NDArray[np.float64] = rows @ self._samples.astype(np.float64) @ columns.T
        return values

    @functools.cached_property
    def grid(self) -> FineGrid:
        """The model's own samples."""
        step = (self._step, self._step)
        return FineGrid(self._samples.astype(np.float64), step, lanczos_taps(self._order), True, self.reach)


def _resampling(n: int, step: float, convention: PsfexConvention) -> NDArray[np.float64]:
    """Compute weights (n_out, n) that resample n samples, `step` pixels apart, to native pixels about sample n // 2."""
    centre = n // 2
    # PSFEx: the pixel centres that lie among the samples; the margin forgives the rounding of a step such as 0.1
    half = int(n * np.float32(step)) // 2 if convention == "lsst" else int((n - 1 - centre) * step + _ROUNDING)
    return _lanczos_weights(n, centre + np.arange(-half, half + 1) / step, _LANCZOS_ORDER[convention])


def _lanczos_weights(n: int, at: NDArray[np.float64], order: int) -> NDArray[np.float64]:
    """Compute Lanczos weights (n_out, n) of n samples at places given in samples, scaled to sum one."""
    offset = np.arange(n) - at[:, None]
    weights = np.where(np.abs(offset) <= order, np.sinc(offset) * np.sinc(offset / order), 0.0)
    total = weights.sum(axis=1, keepdims=True)
    scaled = np.zeros_like(weights)
    np.divide(weights, total, out=scaled, where=total != 0)
    return scaled
