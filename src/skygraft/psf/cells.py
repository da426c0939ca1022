"""PSFs that are constant over the cells of a grid: those of Rubin's cell coadds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skygraft.errors import ConfigError, PsfError
from skygraft.psf.base import PSF, Box
from skygraft.psf.linear import frozen, positions

__all__ = ["CellPSF"]


class CellPSF(PSF):
    """One kernel for each cell of a grid of equal rectangles; some cells may have none.

    Parameters
    ----------
    kernels : array_like, shape (cells in y, cells in x, ny, nx)
        Kernels, both sizes odd; NaN all over where a cell has none.
    start : (int, int)
        First pixel (x, y) of the first cell, parent pixels.
    cell_size : (int, int)
        Pixels of a cell along x and y.
    valid_box : Box, optional
        Where the PSF holds; by default the grid's outer edges.
    inputs : mapping of (int, int) to sequence of str, optional
        Names of the images that each cell was made of, by its row and column of `kernels`.

    Raises
    ------
    ConfigError
        If the kernels are not so many odd-sized images, or a cell is empty.
    PsfError
        If a kernel holds some values that are not finite, or no cell has a kernel.
    """

    def __init__(
        self,
        kernels: ArrayLike,
        start: tuple[int, int],
        cell_size: tuple[int, int],
        *,
        valid_box: Box | None = None,
        inputs: Mapping[tuple[int, int], Sequence[str]] | None = None,
    ) -> None:
        array = frozen(kernels)
        if array.ndim != 4 or not all(n % 2 for n in array.shape[2:]):
            raise ConfigError(f"a cell PSF is odd-sized images (cells y, cells x, ny, nx), not an array {array.shape}")
        if min(cell_size) < 1:
            raise ConfigError(f"cells of {cell_size} pixels hold nothing")
        finite = np.isfinite(array)
        self._present = finite.any(axis=(2, 3))
        if not self._present.any():
            raise PsfError("no cell of the coadd has a PSF")
        if not finite[self._present].all():
            i, j = np.argwhere(self._present & ~finite.all(axis=(2, 3)))[0]
            raise PsfError(f"the PSF of cell ({i}, {j}) holds values that are not finite")
        self._kernels, self._start, self._cell_size = array, start, cell_size
        self._inputs = {cell: tuple(names) for cell, names in (inputs or {}).items()}
        ny, nx = self._present.shape
        x, y = start[0] - 0.5, start[1] - 0.5
        self._valid_box = valid_box or Box(x, x + nx * cell_size[0], y, y + ny * cell_size[1])

    @property
    def n_cells(self) -> tuple[int, int]:
        """Number of cells of the grid, and how many of them have a PSF."""
        return self._present.size, int(self._present.sum())

    @property
    def n_inputs(self) -> int | None:
        """Number of images that the cells were made of; None where that is not recorded."""
        return len({name for names in self._inputs.values() for name in names}) or None

    def input_names_at(self, x: ArrayLike, y: ArrayLike) -> list[tuple[str, ...]]:
        """Name the images that the cell at each of N positions was made of, as far as they are recorded.

        Parameters
        ----------
        x, y : array_like, shape (N,)
            Positions in parent pixels.

        Returns
        -------
        list of tuple of str
        """
        return [self._inputs.get((int(i), int(j)), ()) for i, j in zip(*self._cells(*positions(x, y)), strict=True)]

    def _cells(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        i = (np.rint(y).astype(np.int64) - self._start[1]) // self._cell_size[1]
        j = (np.rint(x).astype(np.int64) - self._start[0]) // self._cell_size[0]
        return i, j

    def defined(self, x: ArrayLike, y: ArrayLike) -> NDArray[np.bool_]:
        """Find the positions that lie in a cell with a PSF.

        Parameters
        ----------
        x, y : array_like, shape (N,)
            Positions in parent pixels.

        Returns
        -------
        ndarray of bool, shape (N,)
        """
        i, j = self._cells(*positions(x, y))
        ny, nx = self._present.shape
        inside = (i >= 0) & (i < ny) & (j >= 0) & (j < nx)
        found: NDArray[np.bool_] = inside & self._present[np.clip(i, 0, ny - 1), np.clip(j, 0, nx - 1)]
        return found

    def pieces(self, x: ArrayLike, y: ArrayLike) -> NDArray[np.int64]:
        """Number the cells that N positions lie in, by rows; see `PSF.pieces`.

        Parameters
        ----------
        x, y : array_like, shape (N,)
            Positions in parent pixels.

        Returns
        -------
        ndarray of int64, shape (N,)
            -1 where there is no cell with a PSF.
        """
        x, y = positions(x, y)
        i, j = self._cells(x, y)
        return np.where(self.defined(x, y), i * self._present.shape[1] + j, -1)

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and columns (ny, nx) of every kernel; both odd."""
        return self._kernels.shape[2], self._kernels.shape[3]

    def kernels(self, x: ArrayLike, y: ArrayLike) -> NDArray[np.float64]:
        """Look up the kernels of the cells at N positions.

        Parameters
        ----------
        x, y : array_like, shape (N,)
            Positions in parent pixels.

        Returns
        -------
        ndarray of float64, shape (N, ny, nx)
            Centred on the middle pixel; see `PSF.kernels`.

        Raises
        ------
        PsfError
            If a position is in no cell with a PSF.
        """
        x, y = positions(x, y)
        bad = np.flatnonzero(~self.defined(x, y))
        if bad.size:
            raise PsfError(
                f"no cell of the coadd with a PSF holds position ({x[bad[0]]:.1f}, {y[bad[0]]:.1f})",
                fix="Leave out sources where the coadd has no data",
            )
        i, j = self._cells(x, y)
        return self._kernels[i, j]

    @property
    def description(self) -> str:
        """Short description of the model, for people and records."""
        ny, nx = self.shape
        total, present = self.n_cells
        size = f"{self._cell_size[0]} x {self._cell_size[1]}"
        return f"CellPSF, {present} of {total} cells of {size} pixels, {nx} x {ny} pixels"
