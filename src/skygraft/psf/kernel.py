"""PSFs given as images: one fixed kernel, or basis kernels combined by functions of position."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skygraft.errors import ConfigError, PsfError
from skygraft.psf.base import Box
from skygraft.psf.linear import (
    LinearPSF,
    chebyshev_terms,
    combine,
    frozen,
    graded_exponents,
    normalized,
    positions,
    power_terms,
)

__all__ = ["FixedKernelPSF", "KernelBasisPSF"]


class FixedKernelPSF(LinearPSF):
    """The same kernel everywhere.

    Parameters
    ----------
    kernel : array_like, shape (ny, nx)
        Image of a source of unit flux centred on the middle pixel, pixel response included.
    pad_even : bool, optional
        Accept an even size, whose centre is taken to be pixel ``n // 2`` (that of FFT-made images): a row or a
        column of zeros is added after the last.
    normalize : bool, optional
        Scale the kernel to sum one; by default it is used as given.
    valid_box : Box, optional
        Where the kernel holds; None for everywhere.
    average_position : (float, float), optional
        The position that stands for the whole image.

    Raises
    ------
    ConfigError
        If the kernel is not an odd-sized image.
    PsfError
        If it is not finite, or cannot be normalised.

    Examples
    --------
    >>> import numpy as np
    >>> psf = FixedKernelPSF(np.full((3, 3), 1 / 9))
    >>> psf.kernels([10.0, 20.0], [5.0, 5.0]).shape
    (2, 3, 3)
    """

    def __init__(
        self,
        kernel: ArrayLike,
        *,
        pad_even: bool = False,
        normalize: bool = False,
        valid_box: Box | None = None,
        average_position: tuple[float, float] | None = None,
    ) -> None:
        image = np.asarray(kernel, dtype=np.float64)
        if image.ndim != 2 or image.size == 0:
            raise ConfigError(f"a PSF kernel is an image (ny, nx), not an array of shape {image.shape}")
        if pad_even:
            image = np.pad(image, [(0, 1 - n % 2) for n in image.shape])
        if normalize:
            total = image.sum()
            if not 0 < total < np.inf:
                raise PsfError(f"a kernel that sums to {total:g} cannot be normalised to sum one")
            image = image / total
        super().__init__(image[None], valid_box=valid_box, average_position=average_position)

    def coefficients(self, x: ArrayLike, y: ArrayLike) -> NDArray[np.float64]:
        """Give the weight of the one kernel, which is one everywhere.

        Parameters
        ----------
        x, y : array_like, shape (N,)
            Positions in parent pixels.

        Returns
        -------
        ndarray of float64, shape (N, B)
            Weights of the basis images, with any normalisation of the model.
        """
        return np.ones((positions(x, y)[0].size, 1))


class KernelBasisPSF(LinearPSF):
    """Basis kernels, each times a polynomial of position (LSST's KernelPsf and PcaPsf among them).

    Parameters
    ----------
    basis : array_like, shape (B, ny, nx)
        Basis kernels; both sizes odd.
    coefficients : array_like, shape (B, T), or B sequences of any length
        Polynomial coefficients of each basis kernel, by total degree: 1, x, y, x2, xy, y2, ...; a sequence that
        is shorter than others is completed with zeros. T must be 1, 3, 6, 10, ...
    chebyshev_box : Box, optional
        With it the terms are products ``T_i(x') T_j(y')`` of Chebyshev polynomials of the first kind, in the same
        order, where x' and y' run from -1 to 1 over this box; without it they are powers of the pixel position.
    normalize : bool, optional
        Scale each kernel to sum one after the combination.
    valid_box : Box, optional
        Where the model holds; None for everywhere.
    average_position : (float, float), optional
        The position that stands for the whole image.

    Raises
    ------
    ConfigError
        If basis and coefficients do not go together.
    PsfError
        If the model holds values that are not finite.

    Notes
    -----
    Positions are 0-based pixels of the parent frame. The order of terms is that of lsst.afw's
    PolynomialFunction2D and Chebyshev1Function2D.
    """

    def __init__(
        self,
        basis: ArrayLike,
        coefficients: Sequence[ArrayLike] | NDArray[np.float64],
        *,
        chebyshev_box: Box | None = None,
        normalize: bool = False,
        valid_box: Box | None = None,
        average_position: tuple[float, float] | None = None,
    ) -> None:
        super().__init__(basis, valid_box=valid_box, average_position=average_position)
        rows = [np.atleast_1d(np.asarray(row, dtype=np.float64)) for row in coefficients]
        if len(rows) != self._basis.shape[0] or any(row.ndim != 1 for row in rows):
            raise ConfigError(
                f"{len(rows)} spatial functions were given for {self._basis.shape[0]} basis kernels; "
                "each kernel takes one row of coefficients"
            )
        longest = max(row.size for row in rows)
        self._degree = _degree(longest)
        table = np.zeros((longest, len(rows)))
        for b, row in enumerate(rows):
            _degree(row.size)
            table[: row.size, b] = row
        if not np.isfinite(table).all():
            raise PsfError("the PSF's polynomial coefficients are not all finite")
        if chebyshev_box is not None and not (
            chebyshev_box.x_max > chebyshev_box.x_min and chebyshev_box.y_max > chebyshev_box.y_min
        ):
            raise ConfigError(f"the box of the Chebyshev polynomials is empty: {chebyshev_box}")
        self._table = frozen(table)
        self._chebyshev_box = chebyshev_box
        self._sums = frozen(self._basis.sum(axis=(1, 2))) if normalize else None

    def coefficients(self, x: ArrayLike, y: ArrayLike) -> NDArray[np.float64]:
        """Evaluate the weights of the basis kernels.

        Parameters
        ----------
        x, y : array_like, shape (N,)
            Positions in parent pixels.

        Returns
        -------
        ndarray of float64, shape (N, B)
            Weights of the basis images, with any normalisation of the model.
        """
        x, y = positions(x, y)
        exponents = graded_exponents(self._degree)
        box = self._chebyshev_box
        if box is None:
            terms = power_terms(x, y, exponents)
        else:
            terms = chebyshev_terms(
                (2 * x - box.x_min - box.x_max) / (box.x_max - box.x_min),
                (2 * y - box.y_min - box.y_max) / (box.y_max - box.y_min),
                exponents,
            )
        weights = combine(terms, self._table)
        return weights if self._sums is None else normalized(weights, self._sums)

    @property
    def description(self) -> str:
        """Short description of the model, for people and records."""
        ny, nx = self.shape
        kind = "polynomials" if self._chebyshev_box is None else "Chebyshev polynomials"
        return f"KernelBasisPSF, {len(self._basis)} kernels times {kind} of degree {self._degree}, {nx} x {ny} pixels"


def _degree(n_terms: int) -> int:
    """Compute the degree of the two-dimensional polynomial that has `n_terms` coefficients."""
    degree = int((np.sqrt(8 * n_terms + 1) - 3) / 2 + 1e-9) if n_terms else -1
    if degree < 0 or (degree + 1) * (degree + 2) // 2 != n_terms:
        raise ConfigError(f"{n_terms} coefficients do not make a two-dimensional polynomial; 1, 3, 6, 10, 15, ... do")
    return degree
