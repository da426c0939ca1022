"""The PSF of a coadd: the weighted mean of its inputs' PSFs, each warped to the coadd's pixels (LSST's CoaddPsf)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from astropy.wcs.wcsapi import BaseLowLevelWCS
from numpy.typing import ArrayLike, NDArray

from skygraft.errors import ConfigError, PsfError
from skygraft.psf.base import PSF, Box, check_kernel_shape
from skygraft.psf.linear import positions
from skygraft.psf.warped import FloatArray, Warp, affine, neighbours, warped_kernels, warped_shape, warped_shapes

__all__ = ["CoaddInput", "CoaddPSF", "in_polygon"]

_BATCH = 256
"""Positions evaluated at a time, which limits the memory for the kernels of one input."""


@dataclass(frozen=True, eq=False)
class CoaddInput:
    """One image that a coadd was made of.

    Parameters
    ----------
    psf : PSF
        Its PSF, on its own pixels.
    wcs : BaseLowLevelWCS
        Its WCS.
    box : Box
        Its outer edges, its own pixels.
    weight : float
        Of the image in the coadd.
    polygon : ndarray, shape (V, 2), optional
        Vertices of the part of it that was used, its own pixels; None for all.
    name : str
        What people know it by: visit and detector, such as ``"1228-49"``.
    """

    psf: PSF
    wcs: BaseLowLevelWCS
    box: Box
    weight: float
    polygon: NDArray[np.float64] | None = None
    name: str = ""

    def holds(self, x: FloatArray, y: FloatArray) -> NDArray[np.bool_]:
        """Find the positions that lie on the part of the image that was used.

        Parameters
        ----------
        x, y : ndarray, shape (N,)
            Positions in its own pixels.

        Returns
        -------
        ndarray of bool, shape (N,)
        """
        inside: NDArray[np.bool_] = (
            (x >= self.box.x_min) & (x < self.box.x_max) & (y >= self.box.y_min) & (y < self.box.y_max)
        )
        return inside if self.polygon is None else inside & in_polygon(self.polygon, x, y)


def in_polygon(vertices: NDArray[np.float64], x: FloatArray, y: FloatArray) -> NDArray[np.bool_]:
    """Find the points that lie inside a polygon, by the number of edges that a line to the right of them crosses.

    Parameters
    ----------
    vertices : ndarray, shape (V, 2)
        Vertices (x, y) of the polygon.
    x, y : ndarray, shape (N,)
        The points.

    Returns
    -------
    ndarray of bool, shape (N,)
    """
    inside = np.zeros(x.shape, dtype=np.bool_)
    for (ax, ay), (bx, by) in zip(vertices, np.roll(vertices, -1, axis=0), strict=True):
        if ay != by:
            inside ^= ((ay > y) != (by > y)) & (x < (bx - ax) * (y - ay) / (by - ay) + ax)
    return inside


class CoaddPSF(PSF):
    """The weighted mean of the PSFs of a coadd's inputs, each seen through the two images' WCS.

    At a position only those inputs count that hold it, so that the PSF jumps where one of them ends. It is evaluated
    exactly at every position asked for: it is no sum of fixed images.

    Parameters
    ----------
    inputs : sequence of CoaddInput
        What the coadd was made of.
    wcs : BaseLowLevelWCS
        Of the coadd.
    warp : Warp
        How PSF images are resampled.
    box : Box
        The coadd's outer edges, its parent pixels.
    average_position : (float, float), optional
        The position that stands for the whole image.

    Raises
    ------
    ConfigError
        If there are no inputs, or a weight is not a positive number.

    References
    ----------
    Bosch et al. 2018, PASJ 70, S5, section 3.3 (``CoaddPsf``).
    """

    def __init__(
        self,
        inputs: Sequence[CoaddInput],
        wcs: BaseLowLevelWCS,
        warp: Warp,
        box: Box,
        *,
        average_position: tuple[float, float] | None = None,
    ) -> None:
        if not inputs:
            raise ConfigError("a coadd's PSF needs at least one input")
        for one in inputs:
            if not 0 < one.weight < np.inf:
                raise ConfigError(f"input {one.name or '(without a name)'} has the weight {one.weight}")
        self._inputs, self._wcs, self._warp, self._box = tuple(inputs), wcs, warp, box
        self._valid_box, self._average_position = box, average_position
        self._shape = self._largest_shape()
        check_kernel_shape(self._shape, "the coadd's PSF")

    def _largest_shape(self) -> tuple[int, int]:
        """Find the shape that holds every input's kernels, evaluated at places all over the coadd."""
        edges = np.linspace(0.0, 1.0, 5)
        x, y = np.meshgrid(
            self._box.x_min + edges * (self._box.x_max - self._box.x_min),
            self._box.y_min + edges * (self._box.y_max - self._box.y_min),
        )
        shapes = []
        for one, (matrices, _, mapped) in zip(self._inputs, self._maps(x.ravel(), y.ravel()), strict=True):
            good = np.isfinite(mapped).all(axis=0) & (np.abs(np.linalg.det(matrices)) > 1e-12)
            if good.any():
                shapes.append(warped_shape(one.psf.shape, matrices[good]))
        if not shapes:
            raise PsfError("none of the coadd's inputs has a WCS that reaches the coadd")
        return max(ny for ny, _ in shapes), max(nx for _, nx in shapes)

    def _maps(self, x: FloatArray, y: FloatArray) -> list[tuple[FloatArray, FloatArray, FloatArray]]:
        """Compute local affine maps to the pixels of every input, and the positions (2, N) there."""
        sky = self._wcs.pixel_to_world_values(*neighbours(x, y))
        found = []
        for one in self._inputs:
            mapped = np.stack(one.wcs.world_to_pixel_values(*sky)).reshape(2, 5, x.size)
            with np.errstate(invalid="ignore"):
                matrices, offsets = affine(x, y, mapped)
            found.append((matrices, offsets, mapped[:, 0]))
        return found

    @property
    def inputs(self) -> tuple[CoaddInput, ...]:
        """The images that the coadd was made of."""
        return self._inputs

    def inputs_at(self, x: ArrayLike, y: ArrayLike) -> NDArray[np.bool_]:
        """Find the inputs that hold N positions of the coadd.

        Parameters
        ----------
        x, y : array_like, shape (N,)
            Positions in parent pixels.

        Returns
        -------
        ndarray of bool, shape (N, number of inputs)
        """
        x, y = positions(x, y)
        sky = self._wcs.pixel_to_world_values(x, y)
        columns = [one.holds(*one.wcs.world_to_pixel_values(*sky)) for one in self._inputs]
        return np.stack(columns, axis=1)

    @property
    def n_inputs(self) -> int:
        """Number of images that the coadd was made of."""
        return len(self._inputs)

    def input_names_at(self, x: ArrayLike, y: ArrayLike) -> list[tuple[str, ...]]:
        """Name the inputs that hold each of N positions.

        Parameters
        ----------
        x, y : array_like, shape (N,)
            Positions in parent pixels.

        Returns
        -------
        list of tuple of str
        """
        names = [one.name for one in self._inputs]
        return [tuple(n for n, h in zip(names, holding, strict=True) if h) for holding in self.inputs_at(x, y).tolist()]

    def defined(self, x: ArrayLike, y: ArrayLike) -> NDArray[np.bool_]:
        """Find the positions that an input holds.

        Parameters
        ----------
        x, y : array_like, shape (N,)
            Positions in parent pixels.

        Returns
        -------
        ndarray of bool, shape (N,)
        """
        return self.inputs_at(x, y).any(axis=1)

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and columns (ny, nx) of every kernel; both odd."""
        return self._shape

    def kernel_shapes(self, x: ArrayLike, y: ArrayLike) -> NDArray[np.int64]:
        """Give the sizes that hold the kernels of the inputs at N positions; 1 x 1 where there is no input.

        Parameters
        ----------
        x, y : array_like, shape (N,)
            Positions in parent pixels.

        Returns
        -------
        ndarray of int, shape (N, 2)
        """
        x, y = positions(x, y)
        shapes = np.ones((x.size, 2), dtype=np.int64)
        for one, (matrices, _, mapped) in zip(self._inputs, self._maps(x, y), strict=True):
            rows = np.flatnonzero(one.holds(*mapped))
            if rows.size:
                shapes[rows] = np.maximum(shapes[rows], warped_shapes(one.psf.shape, matrices[rows], self._shape))
        return shapes

    def kernels(self, x: ArrayLike, y: ArrayLike) -> FloatArray:
        """Average the warped kernels of the inputs at N positions; each has sum one.

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
            If no input holds one of the positions.
        """
        x, y = positions(x, y)
        out = np.zeros((x.size, *self._shape))
        for start in range(0, x.size, _BATCH):
            part = slice(start, min(start + _BATCH, x.size))
            self._add(x[part], y[part], out[part])
        return out

    def _add(self, x: FloatArray, y: FloatArray, out: FloatArray) -> None:
        weights = np.zeros(x.size)
        for one, (matrices, offsets, mapped) in zip(self._inputs, self._maps(x, y), strict=True):
            rows = np.flatnonzero(one.holds(*mapped))
            if rows.size:
                warped = np.empty((rows.size, *self._shape))
                warped_kernels(one.psf, x[rows], y[rows], matrices[rows], offsets[rows], self._warp, warped)
                warped *= one.weight
                out[rows] += warped
                weights[rows] += one.weight
        bad = np.flatnonzero(weights == 0)
        if bad.size:
            raise PsfError(
                f"none of the coadd's {len(self._inputs)} inputs holds position ({x[bad[0]]:.1f}, {y[bad[0]]:.1f})",
                fix="Leave out sources where the coadd has no data",
            )
        out /= weights[:, None, None]

    @property
    def description(self) -> str:
        """Short description of the model, for people and records."""
        ny, nx = self._shape
        kinds = ", ".join(sorted({type(one.psf).__name__ for one in self._inputs}))
        return f"CoaddPSF of {len(self._inputs)} inputs ({kinds}, Lanczos-{self._warp.order}), {nx} x {ny} pixels"
