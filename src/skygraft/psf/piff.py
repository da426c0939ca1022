"""PSFs that the Piff library evaluates (Jarvis et al. 2021, MNRAS 501, 1282)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skygraft.errors import PsfError
from skygraft.psf.base import PSF, Box
from skygraft.psf.kernel import KernelBasisPSF
from skygraft.psf.linear import chebyshev_terms, graded_exponents, positions

__all__ = ["DrawnPSF", "as_polynomial", "kernels_one_by_one"]

type Draw = Callable[[float, float], NDArray[np.float64]]
"""Function that draws the centred kernel at (x, y), always of the same odd size."""

_HIGHEST_DEGREE = 4
_EXACT = 1e-9
"""Largest misfit, in units of the kernels' largest pixel, at which a polynomial is taken for the model itself."""


def kernels_one_by_one(
    draw: Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]],
    shape: tuple[int, int],
    x: ArrayLike,
    y: ArrayLike,
) -> NDArray[np.float64]:
    """Draw kernels one after the other, since a kernel must not depend on which others are asked for together.

    Parameters
    ----------
    draw : callable
        Gives the kernel at one position, x and y of shape (1,).
    shape : (int, int)
        Of each kernel.
    x, y : array_like, shape (N,)
        Positions in parent pixels.

    Returns
    -------
    ndarray of float64, shape (N, ny, nx)

    Raises
    ------
    PsfError
        If a kernel is of another shape than the others.
    """
    x, y = positions(x, y)
    out = np.empty((x.size, *shape))
    for i in range(x.size):
        kernel = np.asarray(draw(x[i : i + 1], y[i : i + 1]), dtype=np.float64)
        if kernel.shape != shape:
            raise PsfError(
                f"the kernel at position ({x[i]:.1f}, {y[i]:.1f}) has shape {kernel.shape}, and those before {shape}",
                fix="Draw kernels of one shape at all positions",
            )
        out[i] = kernel
    return out


class DrawnPSF(PSF):
    """A PSF whose kernels another library draws, one after the other.

    Parameters
    ----------
    draw : Draw
        Draws a kernel; picklable.
    name : str
        What people know the model by.
    normalize : bool, optional
        Divide each kernel by its sum.
    valid_box : Box, optional
        Where the model holds; None for everywhere.
    average_position : (float, float), optional
        The position that stands for the whole image.
    """

    def __init__(
        self,
        draw: Draw,
        name: str,
        *,
        normalize: bool = True,
        valid_box: Box | None = None,
        average_position: tuple[float, float] | None = None,
    ) -> None:
        self._draw, self._name, self._normalize = draw, name, normalize
        self._valid_box, self._average_position = valid_box, average_position
        x, y = average_position or ((0.0, 0.0) if valid_box is None else valid_box.center)
        ny, nx = np.shape(draw(x, y))
        self._shape = ny, nx

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and columns (ny, nx) of every kernel; both odd."""
        return self._shape

    def kernels(self, x: ArrayLike, y: ArrayLike) -> NDArray[np.float64]:
        """Draw the kernels at N positions, one after the other.

        Parameters
        ----------
        x, y : array_like, shape (N,)
            Positions in parent pixels.

        Returns
        -------
        ndarray of float64, shape (N, ny, nx)
            Centred on the middle pixel; see `PSF.kernels`.
        """
        out = kernels_one_by_one(lambda one, other: self._draw(float(one[0]), float(other[0])), self._shape, x, y)
        return out / out.sum(axis=(1, 2), keepdims=True) if self._normalize else out

    @property
    def description(self) -> str:
        """Short description of the model, for people and records."""
        ny, nx = self._shape
        return f"{self._name}, drawn by its own library, {nx} x {ny} pixels"


def as_polynomial(
    draw: Draw, box: Box, *, average_position: tuple[float, float] | None = None
) -> KernelBasisPSF | None:
    """Express a PSF as a sum of fixed images times polynomials of position, if it is one; each kernel has sum one.

    Most Piff models of surveys are pixel grids whose values are polynomials of position: they are then evaluated
    hundreds of times faster than by drawing. The polynomial is taken through drawn kernels and compared with others.

    Parameters
    ----------
    draw : Draw
        Draws a kernel, not normalised.
    box : Box
        Where the model holds.
    average_position : (float, float), optional
        The position that stands for the whole image.

    Returns
    -------
    KernelBasisPSF or None
        None where no polynomial up to degree 4 gives the kernels to 1e-9 of their largest pixel.
    """
    rng = np.random.default_rng(0)
    n_test = 12
    n = (_HIGHEST_DEGREE + 1) * (_HIGHEST_DEGREE + 2) + n_test
    u, v = rng.uniform(-1.0, 1.0, (2, n))
    # A polynomial of the wrong degree fails first in the corners.
    u[:4], v[:4] = [-1, -1, 1, 1], [-1, 1, -1, 1]
    x = box.x_min + (u + 1) / 2 * (box.x_max - box.x_min)
    y = box.y_min + (v + 1) / 2 * (box.y_max - box.y_min)
    drawn = np.stack([np.asarray(draw(float(a), float(b)), dtype=np.float64) for a, b in zip(x, y, strict=True)])
    test, fit = slice(4, 4 + n_test), np.r_[0:4, 4 + n_test : n]
    for degree in range(_HIGHEST_DEGREE + 1):
        terms = chebyshev_terms(u, v, graded_exponents(degree)) if degree else np.ones((n, 1))
        images, *_ = np.linalg.lstsq(terms[fit], drawn[fit].reshape(len(fit), -1), rcond=None)
        missed = np.abs(terms[test] @ images - drawn[test].reshape(n_test, -1)).max()
        if missed <= _EXACT * np.abs(drawn).max():
            return KernelBasisPSF(
                images.reshape(-1, *drawn.shape[1:]),
                np.eye(len(images)),
                chebyshev_box=box,
                normalize=True,
                valid_box=box,
                average_position=average_position,
            )
    return None
