"""A Moffat whose width follows a map of PSF sizes, where a survey publishes that map and no model of the PSF."""

from __future__ import annotations

import math
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skygraft.errors import ConfigError, PsfError
from skygraft.psf.analytic import MoffatPSF
from skygraft.psf.base import Box
from skygraft.psf.fine import SubPixelBasis, whole_pixels
from skygraft.psf.linear import LinearPSF, positions

__all__ = ["MoffatMapPSF"]

_SIGMA_TO_FWHM = 2 * math.sqrt(2 * math.log(2))
_ACCURACY = 1e-7
_MOST_NODES = 32
_BLOCK = 32
"""Pixels of a block, along each axis, in the search for the nearest part of a map that has a size."""
_NEAREST_POLE = math.pi / 2
"""Where ``1 + r^2 / alpha^2`` is zero, as a distance in the logarithm of the width from the real axis."""


class MoffatMapPSF(LinearPSF):
    """A circular Moffat whose FWHM is looked up in a map, one value a pixel.

    The kernels are a polynomial in the logarithm of the width through Moffats at Chebyshev nodes: 1e-6 of the peak from
    the Moffat itself, at the cost of a PSF with a few basis images.

    Parameters
    ----------
    fwhm : array_like, shape (ny, nx)
        Full width at half maximum of the Moffat in pixels; NaN, zero or less where the map has none. There the nearest
        part of the map that has one holds: light of a source just outside of the exposures reaches them.
    beta : float
        Exponent of the Moffat.
    shape : (int, int)
        Rows and columns of the kernels, both odd. Kernels are the formula's values at pixel centres, and sum to one.
    factor : float
        Pixels of one unit of the map.
    start : (int, int)
        Parent pixel (x, y) of the map's first pixel. A position off the map gets the value of the nearest pixel.
    origin : str
        Where the map is from and how its values became the Moffat's, for people and records.

    Raises
    ------
    ConfigError
        If the map is no image, or `beta` or `shape` are not those of a Moffat.
    PsfError
        If the map has no width anywhere.
    """

    def __init__(
        self,
        fwhm: ArrayLike,
        beta: float,
        shape: tuple[int, int],
        *,
        factor: float = 1.0,
        start: tuple[int, int] = (0, 0),
        origin: str = "",
    ) -> None:
        values = np.array(fwhm, dtype=np.float32)
        if values.ndim != 2 or values.size == 0:
            raise ConfigError(f"a map of PSF sizes is an image (ny, nx), not an array of shape {values.shape}")
        if not 0 < factor < np.inf:
            raise ConfigError(
                f"the factor of a map of PSF sizes is {factor!r}; a positive number is needed", key="factor"
            )
        known = (values > 0) & (values < np.inf)
        low, high = (factor * float(f(values, where=known, initial=v)) for f, v in ((np.min, np.inf), (np.max, 0.0)))
        if high == 0:
            raise PsfError("the map of PSF sizes has no positive size anywhere")
        middle, half = (math.log(high) + math.log(low)) / 2, (math.log(high) - math.log(low)) / 2
        n = _nodes_for(half)
        self._u = np.cos(np.pi * (np.arange(n) + 0.5) / n)
        self._middle, self._half = middle, half
        models = [MoffatPSF(w, beta, shape=shape, pixel_integrated=False) for w in np.exp(middle + half * self._u)]
        super().__init__(np.concatenate([model.basis for model in models]))
        self._fill = None if known.all() else _nearest_blocks(np.where(known, values, np.float32(0)))
        values.setflags(write=False)
        self._map, self._factor, self._start = values, float(factor), start
        self._models, self._origin, self._beta = tuple(models), origin, float(beta)
        ny, nx = values.shape
        self._valid_box = Box(start[0] - 0.5, start[0] + nx - 0.5, start[1] - 0.5, start[1] + ny - 0.5)

    @classmethod
    def of_effective_size(
        cls,
        fwhm: ArrayLike,
        beta: float,
        shape: tuple[int, int],
        *,
        factor: float = 1.0,
        start: tuple[int, int] = (0, 0),
        origin: str = "",
    ) -> Self:
        r"""Make the Moffat that has the effective area of a Gaussian whose FWHM the map gives.

        The effective area :math:`N = 1 / \sum p^2` of a PSF p determines the depth of PSF photometry. For a Gaussian it
        is :math:`4 \pi \sigma^2`, for a Moffat :math:`\pi \alpha^2 (2 \beta - 1) / (\beta - 1)^2`.

        Parameters
        ----------
        fwhm : array_like, shape (ny, nx)
            FWHM in pixels of the Gaussian with the PSF's effective area.
        beta, shape, factor, start, origin
            As of the class.

        Returns
        -------
        MoffatMapPSF
        """
        # Of a Gaussian with a FWHM of one pixel.
        alpha = 2 / _SIGMA_TO_FWHM * (beta - 1) / math.sqrt(2 * beta - 1)
        ratio = 2 * alpha * math.sqrt(2 ** (1 / beta) - 1)
        return cls(fwhm, beta, shape, factor=ratio * factor, start=start, origin=origin)

    @property
    def size_range(self) -> tuple[float, float]:
        """Smallest and largest FWHM of the Moffat on the map, pixels."""
        return math.exp(self._middle - self._half), math.exp(self._middle + self._half)

    def widths(self, x: ArrayLike, y: ArrayLike) -> NDArray[np.float64]:
        """Look up the FWHM of the Moffat at N positions.

        Parameters
        ----------
        x, y : array_like, shape (N,)
            Positions in parent pixels.

        Returns
        -------
        ndarray of float64, shape (N,)
            Pixels.
        """
        x, y = positions(x, y)
        ny, nx = self._map.shape
        rows = np.clip(np.rint(y) - self._start[1], 0, ny - 1).astype(np.int64)
        columns = np.clip(np.rint(x) - self._start[0], 0, nx - 1).astype(np.int64)
        found = self._map[rows, columns].astype(np.float64)
        if self._fill is not None:
            known = (found > 0) & (found < np.inf)
            found = np.where(known, found, self._fill[rows // _BLOCK, columns // _BLOCK])
        return np.asarray(self._factor * found)

    def coefficients(self, x: ArrayLike, y: ArrayLike) -> NDArray[np.float64]:
        """Evaluate the weights of the Moffats at the nodes, which sum to one.

        Parameters
        ----------
        x, y : array_like, shape (N,)
            Positions in parent pixels.

        Returns
        -------
        ndarray of float64, shape (N, B)
        """
        widths = self.widths(x, y)
        at = (np.log(widths) - self._middle) / self._half if self._half > 0 else np.zeros(widths.shape)
        # Lagrange's polynomials of Chebyshev nodes as sums of Chebyshev polynomials, which is stable at the nodes, too.
        terms = np.cos(np.arange(self._u.size) * np.arccos(np.clip(at, -1, 1))[:, None])
        at_nodes = np.cos(np.arange(self._u.size) * np.arccos(self._u)[:, None])
        at_nodes[:, 0] = 0.5
        # Summed one by one, so that a position's weights do not depend on those that it is asked for with.
        out = np.zeros((widths.size, self._u.size))
        for term, node in zip(terms.T, at_nodes.T, strict=True):
            out += term[:, None] * node
        return out * (2 / self._u.size)

    def flux_outside(self, x: ArrayLike, y: ArrayLike) -> NDArray[np.float64]:
        """Flux per unit source flux outside the kernel, by the formula.

        Parameters
        ----------
        x, y : array_like, shape (N,)
            Positions in parent pixels.

        Returns
        -------
        ndarray of float64, shape (N,)
        """
        each = np.array([model.flux_outside([0.0], [0.0])[0] for model in self._models])
        return np.asarray((self.coefficients(x, y) * each).sum(axis=1))

    @property
    def sub_pixel(self) -> SubPixelBasis:
        """The Moffats at the nodes, evaluated at any offset from the source's centre."""
        return _MoffatBasis(self.shape, self._models)

    @property
    def description(self) -> str:
        """Short description of the model, for people and records."""
        low, high = self.size_range
        ny, nx = self.shape
        widths = f"{low:.4g}" if self._half == 0 else f"{low:.4g} to {high:.4g}"
        what = f"{type(self).__name__}, FWHM {widths} pixels, beta {self._beta:.4g}, {nx} x {ny} pixels"
        return f"{what}: {self._origin}" if self._origin else what


def _nodes_for(half: float) -> int:
    """Number of Chebyshev nodes for a range of log widths of +- `half`.

    The error falls as ``rho^-n``, where the Bernstein ellipse of parameter rho reaches the nearest pole.
    """
    if half <= 0:
        return 1
    reach = _NEAREST_POLE / half
    n = math.ceil(-math.log(_ACCURACY) / math.log(reach + math.sqrt(1 + reach * reach))) + 1
    return min(n, _MOST_NODES)


def _nearest_blocks(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """Largest size in each block of a map, of the nearest block that has one where a block has only zeros."""
    from scipy.ndimage import distance_transform_edt

    starts = [np.arange(0, n, _BLOCK) for n in values.shape]
    blocks = np.maximum.reduceat(np.maximum.reduceat(values, starts[0], axis=0), starts[1], axis=1)
    nearest = distance_transform_edt(blocks == 0, return_distances=False, return_indices=True)
    filled = np.asarray(blocks[tuple(nearest)], dtype=np.float64)
    filled.setflags(write=False)
    return filled


class _MoffatBasis(SubPixelBasis):
    """Several Moffats, evaluated over the area of a kernel's pixels."""

    def __init__(self, shape: tuple[int, int], models: tuple[MoffatPSF, ...]) -> None:
        super().__init__(shape, whole_pixels(shape), min(model.fwhm for model in models))
        self._parts = [model.sub_pixel for model in models]

    def evaluate(self, y: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.concatenate([part.evaluate(y, x) for part in self._parts])
