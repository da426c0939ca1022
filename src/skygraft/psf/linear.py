"""PSFs that are a sum of basis images: kernel(x, y) = sum over b of c_b(x, y) B_b.

Nearly every PSF that surveys publish is of this form. It makes one product serve all positions, and everything
linear in the kernel (an aperture flux, a resampling) needs doing once for the basis, not once for a source.
"""

from __future__ import annotations

import abc
import copy
import math
from collections.abc import Callable
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skygraft.errors import ConfigError, PsfError
from skygraft.jit import Tally, compiled, fma
from skygraft.psf.base import PSF, Box
from skygraft.psf.few_sums import combine_few
from skygraft.psf.fine import SubPixelBasis

__all__ = ["LinearPSF", "SinglePrecisionBasis"]

_BLOCK = 512
"""Pixels of each image summed at a time: half a page of memory, so that ten images fill most of the L1 cache."""
_HALF_PAGE = 512
"""Half a memory page (2 KiB), in float32 elements."""
_DEPENDENT = 1e-12
"""A basis image is linearly dependent if less than this fraction of it is orthogonal to those before it."""


class LinearPSF(PSF):
    """A PSF whose kernels are ``coefficients(x, y) @ basis``.

    Subclasses give the coefficients. Any linear functional of the kernel follows from the basis alone: the
    aperture flux at (x, y), for one, is ``coefficients(x, y)`` times the aperture fluxes of the basis images.

    Parameters
    ----------
    basis : array_like, shape (B, ny, nx)
        Basis images, ny and nx odd; copied.
    valid_box : Box, optional
        Where the model was made to hold; None for everywhere.
    average_position : (float, float), optional
        The position (x, y) that stands for the whole image, where the model names one.

    Raises
    ------
    ConfigError
        If the basis is not a stack of odd-sized images.
    PsfError
        If it holds values that are not finite.
    """

    def __init__(
        self,
        basis: ArrayLike,
        *,
        valid_box: Box | None = None,
        average_position: tuple[float, float] | None = None,
    ) -> None:
        array = frozen(basis)
        if array.ndim != 3 or array.shape[0] == 0:
            raise ConfigError(f"a PSF basis is a stack of images (B, ny, nx), not an array of {array.shape}")
        if not all(n % 2 for n in array.shape[1:]):
            raise ConfigError(
                f"PSF kernels of {array.shape[1:]} pixels have no middle pixel; both sizes must be odd",
                fix="Pad them to an odd size, saying which pixel is the centre (FixedKernelPSF(..., pad_even=True))",
            )
        if not np.isfinite(array).all():
            raise PsfError("the PSF model holds values that are not finite")
        self._basis = array
        self._valid_box = valid_box
        self._average_position = average_position

    @property
    def basis(self) -> NDArray[np.float64]:
        """The basis images, shape (B, ny, nx), read-only."""
        return self._basis

    @abc.abstractmethod
    def coefficients(self, x: ArrayLike, y: ArrayLike) -> NDArray[np.float64]:
        """Evaluate the weights of the basis images at N positions.

        They hold any normalisation of the model, so that ``coefficients(x, y) @ basis`` is the kernel.

        Parameters
        ----------
        x, y : array_like, shape (N,)
            Positions in parent pixels.

        Returns
        -------
        ndarray of float64, shape (N, B)

        Raises
        ------
        PsfError
            If the model cannot be evaluated there.
        """

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and columns (ny, nx) of every kernel; both odd."""
        _, ny, nx = self._basis.shape
        return ny, nx

    def kernels(self, x: ArrayLike, y: ArrayLike) -> NDArray[np.float64]:
        """Combine the basis images at N positions.

        Parameters
        ----------
        x, y : array_like, shape (N,)
            Positions in parent pixels.

        Returns
        -------
        ndarray of float64, shape (N, ny, nx)
            Centred on the middle pixel; see `PSF.kernels`.
        """
        return combine(self.coefficients(x, y), self._basis)

    @property
    def sub_pixel(self) -> SubPixelBasis | None:
        """The basis as a function of sub-pixel offset; None for a model that is known on whole pixels only."""
        return None

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Unpickled arrays are writeable again.
        for value in state.values():
            if isinstance(value, np.ndarray):
                value.setflags(write=False)
        self.__dict__.update(state)


def frozen(values: ArrayLike) -> NDArray[np.float64]:
    """Copy `values` into a read-only, C-contiguous float64 array."""
    array = np.array(values, dtype=np.float64, order="C")
    array.setflags(write=False)
    return array


def aligned(shape: tuple[int, ...], make: Callable[..., NDArray[Any]] = np.empty) -> NDArray[np.float32]:
    """Allocate a float32 array that starts at a cache line: vector loads across two lines take twice as long.

    `make` is ``np.empty`` or ``np.zeros``.
    """
    n = math.prod(shape)
    room = make(n + 15, dtype=np.float32)
    skipped = -room.ctypes.data % 64 // 4
    return room[skipped : skipped + n].reshape(shape)


def positions(x: ArrayLike, y: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Bring positions to two float64 arrays of one length.

    Raises
    ------
    PsfError
        If a position is not finite, naming the first.
    ConfigError
        If they do not go together as one-dimensional arrays.
    """
    x, y = np.atleast_1d(np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64))
    try:
        x, y = np.broadcast_arrays(x, y)
    except ValueError:
        raise ConfigError(f"positions x of shape {x.shape} and y of shape {y.shape} do not go together") from None
    if x.ndim != 1:
        raise ConfigError(f"positions are one-dimensional arrays, not of shape {x.shape}")
    bad = ~(np.isfinite(x) & np.isfinite(y))
    if bad.any():
        first = int(np.argmax(bad))
        raise PsfError(
            f"the PSF has no value at position ({x[first]}, {y[first]}), number {first} of {x.size}",
            fix="Leave out sources whose position in the image is not finite",
        )
    return x, y


_combined = Tally(1_000_000)
"""Products that are summed in numpy, before code is loaded that is compiled for it."""


def combine[T: (np.float64, np.float32)](weights: NDArray[T], basis: NDArray[T]) -> NDArray[T]:
    """Compute weighted sums of `basis` (B, ...) with `weights` (N, B): shape (N, ...), in the basis's precision.

    Not BLAS, whose sums depend on how many positions are asked for together: a kernel must be the same to the
    last bit whichever batch it is made in.
    """
    flat = basis.reshape(basis.shape[0], -1)
    out = np.empty((weights.shape[0], flat.shape[1]), dtype=basis.dtype)
    if len(flat) == 1:
        # A product is rounded once in any case, and needs nothing compiled; as in the sums, none is -0.
        np.multiply(weights.astype(basis.dtype, copy=False), flat, out=out)
        out += 0
        return out.reshape(weights.shape[0], *basis.shape[1:])
    weights, flat = np.ascontiguousarray(weights, dtype=basis.dtype), np.ascontiguousarray(flat)
    much = basis.dtype != np.float64 or _combined.is_much(out.size * len(flat))
    if much or not combine_few(cast(Any, weights), cast(Any, flat), cast(Any, out)):
        combine_into(weights, flat, out)
    return out.reshape(weights.shape[0], *basis.shape[1:])


@compiled(reads=("weights", "basis"))
def combine_into(weights: NDArray[Any], basis: NDArray[Any], out: NDArray[Any]) -> None:  # pragma: no cover - compiled
    """Combine flattened images: weights (N, B), basis (B, P or more), out (N, P), all of one precision."""
    # Blocks of pixels keep the basis in the L1 cache while all positions use it. Ten images at once, then five, load
    # and store each pixel's sum less often; two partial sums do not wait for each other. Indices rather than slices,
    # unsigned so that they are not checked: half as much to compile.
    n_images, n_pixels, five, ten = np.uint64(basis.shape[0]), np.uint64(out.shape[1]), np.uint64(5), np.uint64(10)
    for start in range(np.uint64(0), n_pixels, np.uint64(_BLOCK)):
        stop = min(start + np.uint64(_BLOCK), n_pixels)
        for i in range(np.uint64(weights.shape[0])):
            b = np.uint64(0)
            if n_images >= ten:
                for p in range(start, stop):
                    out[i, p] = _five(weights, basis, i, b, p) + _five(weights, basis, i, five, p)
                b = ten
            else:
                for p in range(start, stop):
                    out[i, p] = 0
            while b + five <= n_images:
                for p in range(start, stop):
                    out[i, p] += _five(weights, basis, i, b, p)
                b += five
            for rest in range(b, n_images):
                for p in range(start, stop):
                    out[i, p] = fma(weights[i, rest], basis[rest, p], out[i, p])


@compiled(reads=("weights", "basis"), forceinline=True, no_cpython_wrapper=True)
def _five(weights: NDArray[Any], basis: NDArray[Any], i: Any, b: Any, p: Any) -> Any:  # pragma: no cover - compiled
    """Sum five images from number `b` on at pixel `p`, with the weights of position `i`."""
    one, two = np.uint64(1), np.uint64(2)
    total = weights[i, b] * basis[b, p]
    total = fma(weights[i, b + one], basis[b + one, p], total)
    total = fma(weights[i, b + two], basis[b + two, p], total)
    total = fma(weights[i, b + two + one], basis[b + two + one, p], total)
    return fma(weights[i, b + two + two], basis[b + two + two, p], total)


class SinglePrecisionBasis:
    """A PSF's basis for sums in single precision: half the memory, and twice as fast.

    The basis is first made orthonormal (Gram-Schmidt, in double precision). No sum of it has terms much larger than
    the kernel itself, whatever the PSF's own basis is, so that rounding stays below ``6e-8 |kernel|``.

    Parameters
    ----------
    basis : ndarray, shape (B, ny, nx)
        As `LinearPSF.basis`.
    rotate : bool, optional
        If false, the images are used as they are, for sums of a few of them with weights that are not negative.
    """

    def __init__(self, basis: NDArray[np.float64], *, rotate: bool = True) -> None:
        self._rotation, self._orthonormal = orthonormal(basis) if rotate else (np.eye(len(basis)), basis)
        self._hold(self._orthonormal)

    def _hold(self, images: NDArray[Any]) -> None:
        """Store images (Q, ...) as rows that start at cache lines, an odd number of half pages apart.

        Addresses a whole number of pages apart share few places of the L1 cache: the blocks of such rows would evict
        each other.
        """
        self._shape = images.shape[1:]
        n = math.prod(self._shape)
        half_pages = -(-n // _HALF_PAGE)
        self._rows = aligned((len(images), (half_pages + 1 - half_pages % 2) * _HALF_PAGE))
        self._rows[:, :n] = images.reshape(len(images), n)
        self._rows[:, n:] = 0.0

    @property
    def rows(self) -> NDArray[np.float32]:
        """The images that are combined, one row each, padded with zeros: shape (Q, P or more)."""
        return self._rows

    def weights(self, coefficients: NDArray[np.float64]) -> NDArray[np.float32]:
        """Convert coefficients of the PSF's basis to weights of `rows`.

        Parameters
        ----------
        coefficients : ndarray, shape (N, B)
            Of the PSF's basis.

        Returns
        -------
        ndarray of float32, shape (N, Q)
        """
        return combine(coefficients, self._rotation).astype(np.float32)

    def mapped(self, prepare: Callable[[NDArray[np.float64]], NDArray[Any]]) -> SinglePrecisionBasis:
        """Apply a linear map to the images of the basis.

        Parameters
        ----------
        prepare : callable
            Maps images (Q, ny, nx) to arrays (Q, ...).

        Returns
        -------
        SinglePrecisionBasis
            Of the mapped images.
        """
        made = copy.copy(self)
        made._hold(prepare(self._orthonormal))
        return made

    def kernels(self, coefficients: NDArray[np.float64], out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """Combine the images: to single precision what `LinearPSF.kernels` gives, if they are not mapped.

        Parameters
        ----------
        coefficients : ndarray, shape (N, B)
            Of the PSF's basis.
        out : ndarray of float32, shape (N, ...), optional
            Where to put them, C-contiguous: fresh memory for many kernels costs more than they do.

        Returns
        -------
        ndarray of float32, shape (N, ...)

        Raises
        ------
        ConfigError
            If `out` is not such an array.
        """
        shape = len(coefficients), *self._shape
        if out is None:
            out = np.empty(shape, dtype=np.float32)
        if out.shape != shape or out.dtype != np.float32 or not out.flags.c_contiguous:
            raise ConfigError(f"kernels go into a C-contiguous float32 array of {shape}, not {out.dtype} {out.shape}")
        combine_into(self.weights(coefficients), self._rows, out.reshape(len(out), math.prod(self._shape)))
        return out


def orthonormal(basis: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compute a rotation (B, Q) and orthonormal images (Q, ...), Q the basis's rank: ``rotation @ images = basis``."""
    images: list[NDArray[np.float64]] = []
    rotation = np.zeros((len(basis), len(basis)))
    for b, image in enumerate(basis):
        rest = image.copy()
        # Gram-Schmidt twice: the second round removes what rounding left after the first.
        for _ in range(2):
            for q, other in enumerate(images):
                part = float((rest * other).sum())
                rotation[b, q] += part
                rest -= part * other
        length = float(np.sqrt((rest**2).sum()))
        if length > _DEPENDENT * float(np.sqrt((image**2).sum())):
            rotation[b, len(images)] = length
            images.append(rest / length)
    if not images:
        return np.zeros((len(basis), 1)), np.zeros((1, *basis.shape[1:]))
    return np.ascontiguousarray(rotation[:, : len(images)]), np.array(images)


def normalized(weights: NDArray[np.float64], sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scale `weights` (N, B) so that each kernel sums to one; `sums` (B,) are the sums of the basis images.

    Raises
    ------
    PsfError
        If a kernel's sum is not positive.
    """
    total = combine(weights, sums)
    bad = ~(total > 0)
    if bad.any():
        raise PsfError(
            f"the PSF model sums to {total[np.argmax(bad)]:g} at position number {np.argmax(bad)} and cannot be "
            "normalised",
            fix="Leave out sources outside the PSF's valid_box",
        )
    return weights / total[:, None]


def power_terms(
    x: NDArray[np.float64], y: NDArray[np.float64], exponents: list[tuple[int, int]]
) -> NDArray[np.float64]:
    """Monomials x^i y^j for each (i, j), shape (N, len(exponents))."""
    return _products([_powers(x, exponents, 0), _powers(y, exponents, 1)], exponents)


def chebyshev_terms(
    x: NDArray[np.float64], y: NDArray[np.float64], exponents: list[tuple[int, int]]
) -> NDArray[np.float64]:
    """Products T_i(x) T_j(y) of Chebyshev polynomials of the first kind, shape (N, len(exponents))."""
    return _products([_chebyshev(x, exponents, 0), _chebyshev(y, exponents, 1)], exponents)


def graded_exponents(degree: int) -> list[tuple[int, int]]:
    """Exponents (i, j) by total degree, then j rising: 1, x, y, x2, xy, y2, ..."""
    return [(d - j, j) for d in range(degree + 1) for j in range(d + 1)]


def _powers(t: NDArray[np.float64], exponents: list[tuple[int, int]], axis: int) -> list[NDArray[np.float64]]:
    powers = [np.ones_like(t)]
    for _ in range(max(e[axis] for e in exponents)):
        powers.append(powers[-1] * t)
    return powers


def _chebyshev(t: NDArray[np.float64], exponents: list[tuple[int, int]], axis: int) -> list[NDArray[np.float64]]:
    values = [np.ones_like(t), t]
    for _ in range(max(e[axis] for e in exponents) - 1):
        values.append(2 * t * values[-1] - values[-2])
    return values


def _products(factors: list[list[NDArray[np.float64]]], exponents: list[tuple[int, int]]) -> NDArray[np.float64]:
    terms = np.empty((factors[0][0].size, len(exponents)))
    for column, (i, j) in enumerate(exponents):
        terms[:, column] = factors[0][i] * factors[1][j]
    return terms
