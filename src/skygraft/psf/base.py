"""The interface of all PSF models: effective-PSF images, in batches, at any position.

*Effective* means that the pixel response is included: such a kernel is never convolved with a pixel again.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skygraft.content import same_state
from skygraft.display import Rows, html_table, span, text_table
from skygraft.errors import PsfError, SkygraftError
from skygraft.psf.widths import kernel_fwhm

__all__ = ["LARGEST_KERNEL", "PSF", "Box", "check_kernel_shape", "defined_position"]

LARGEST_KERNEL = 1501
"""Longest side of a kernel, pixels."""


@dataclass(frozen=True)
class Box:
    """A closed range of pixel positions, in the pixel frame of the exposure's parent (0-based, centres integral).

    A pixel with index i covers i - 0.5 to i + 0.5; `x_min`..`y_max` are such edges, not indices.

    Parameters
    ----------
    x_min, x_max, y_min, y_max : float
        The edges, in parent pixels.
    """

    x_min: float
    x_max: float
    y_min: float
    y_max: float

    @property
    def center(self) -> tuple[float, float]:
        """The middle (x, y), pixels."""
        return 0.5 * (self.x_min + self.x_max), 0.5 * (self.y_min + self.y_max)

    def contains(self, x: ArrayLike, y: ArrayLike) -> NDArray[np.bool_]:
        """Find the positions that lie inside, edges included.

        Parameters
        ----------
        x, y : array_like
            Positions in parent pixels; any shapes that broadcast.

        Returns
        -------
        ndarray of bool
            Of the broadcast shape.
        """
        x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
        inside: NDArray[np.bool_] = (x >= self.x_min) & (x <= self.x_max) & (y >= self.y_min) & (y <= self.y_max)
        return inside


class PSF(abc.ABC):
    """A model of the effective PSF over one image.

    Subclasses are immutable, picklable, and answer for many positions at once. Positions are 0-based pixel
    coordinates of the exposure's parent frame, centres of pixels at integers.
    """

    _valid_box: Box | None = None
    _average_position: tuple[float, float] | None = None

    @property
    @abc.abstractmethod
    def shape(self) -> tuple[int, int]:
        """Number of rows and columns (ny, nx) of every kernel; both odd."""

    @abc.abstractmethod
    def kernels(self, x: ArrayLike, y: ArrayLike) -> NDArray[np.float64]:
        """Evaluate the model at N positions.

        Parameters
        ----------
        x, y : array_like, shape (N,)
            Positions in pixels.

        Returns
        -------
        ndarray of float64, shape (N, ny, nx)
            Images of a source of unit flux at each position, centred on the middle pixel. They need not sum to
            one: real PSFEx models sum to 1.01 to 1.08, and a truncated model to less than one.

        Raises
        ------
        PsfError
            If the model cannot be evaluated at all. A position outside `valid_box` is evaluated as the model
            extrapolates there; whoever injects flags it.
        """

    @property
    def valid_box(self) -> Box | None:
        """The region in which the model is valid; None for everywhere."""
        return self._valid_box

    @property
    def average_position(self) -> tuple[float, float] | None:
        """The position (x, y) in pixels that represents the whole image; None where the model names none.

        LSST models record one, and its source_injection evaluates the aperture correction there.
        """
        return self._average_position

    def defined(self, x: ArrayLike, y: ArrayLike) -> NDArray[np.bool_]:
        """Find the positions at which the model has a kernel: all of them, for most models.

        A coadd's PSF has none where no input has data; `kernels` raises PsfError there.

        Parameters
        ----------
        x, y : array_like, shape (N,)
            Positions in parent pixels.

        Returns
        -------
        ndarray of bool, shape (N,)
        """
        return np.ones(np.broadcast(np.atleast_1d(x), np.atleast_1d(y)).shape, dtype=np.bool_)

    def pieces(self, x: ArrayLike, y: ArrayLike) -> NDArray[np.int64] | None:
        """Number the pieces of the image that N positions lie in, of a model with one kernel for each piece.

        What is found out about a kernel then holds for all sources of its piece.

        Parameters
        ----------
        x, y : array_like, shape (N,)
            Positions in parent pixels.

        Returns
        -------
        ndarray of int64, shape (N,), or None
            -1 where the model has no kernel. None for a model that is not constant in pieces: most.
        """
        return None

    def kernel_shapes(self, x: ArrayLike, y: ArrayLike) -> NDArray[np.int64]:
        """Give the sizes of the kernels that the model itself has at N positions.

        `kernels` pads all of them with zeros to `shape`. For most models they are that shape; the kernel of a warped
        PSF is larger or smaller with the local pixel scale.

        Parameters
        ----------
        x, y : array_like, shape (N,)
            Positions in parent pixels.

        Returns
        -------
        ndarray of int, shape (N, 2)
            Rows and columns, both odd.
        """
        n = np.broadcast(np.atleast_1d(x), np.atleast_1d(y)).size
        return np.tile(np.array(self.shape, dtype=np.int64), (n, 1))

    def flux_outside(self, x: ArrayLike, y: ArrayLike) -> NDArray[np.float64]:
        """Give the flux per unit source flux that lies outside the kernel.

        Zero for a model that claims nothing about what it does not hold; analytic models know better.

        Parameters
        ----------
        x, y : array_like, shape (N,)
            Positions in parent pixels.

        Returns
        -------
        ndarray of float64, shape (N,)
        """
        return np.zeros(np.broadcast(np.atleast_1d(x), np.atleast_1d(y)).shape)

    @property
    def description(self) -> str:
        """Short description of the model, for people and records."""
        ny, nx = self.shape
        return f"{type(self).__name__}, {nx} x {ny} pixels"

    def __eq__(self, other: object) -> bool:
        """Equal models have the same class and parameters: a pickled copy equals its original."""
        return same_state(self, other) if type(self) is type(other) else NotImplemented

    def __hash__(self) -> int:
        return hash((type(self), self.description))

    def fwhm_range(self, box: Box | None = None) -> tuple[float, float]:
        """Measure the narrowest and the widest kernel, at the middle and near the corners of a box.

        Parameters
        ----------
        box : Box, optional
            Edges in parent pixels; by default `valid_box`.

        Returns
        -------
        low, high : float
            FWHM in pixels; NaN where the model has no kernel there, or none whose width can be measured.
        """
        box = box or self.valid_box or Box(-0.5, 0.5, -0.5, 0.5)
        x = box.x_min + np.array([0.5, 0.05, 0.95, 0.05, 0.95]) * (box.x_max - box.x_min)
        y = box.y_min + np.array([0.5, 0.05, 0.05, 0.95, 0.95]) * (box.y_max - box.y_min)
        try:
            has = self.defined(x, y)
            widths = kernel_fwhm(self.kernels(x[has], y[has]))
        except (SkygraftError, ArithmeticError, ValueError):
            return np.nan, np.nan
        widths = widths[np.isfinite(widths)]
        return (float(widths.min()), float(widths.max())) if widths.size else (np.nan, np.nan)

    def _shown_rows(self) -> Rows:
        """Label and text of each line of `repr`."""
        low, high = self.fwhm_range()
        box = self.valid_box
        holds = "everywhere" if box is None else f"x {box.x_min:g} to {box.x_max:g}, y {box.y_min:g} to {box.y_max:g}"
        rows = [("FWHM", f"{span(low, high)} pixels" if low <= high else "not known"), ("holds", holds)]
        if self.average_position is not None:
            rows.append(("average at", "x {:.1f}, y {:.1f}".format(*self.average_position)))
        return rows

    def __repr__(self) -> str:
        return text_table(self.description, self._shown_rows())

    def _repr_html_(self) -> str:
        return html_table(self.description, self._shown_rows())


def check_kernel_shape(shape: tuple[int, int], what: str) -> None:
    """Refuse kernels that are larger than those of any PSF, before memory is allocated.

    Parameters
    ----------
    shape : (int, int)
        Rows and columns of the kernels.
    what : str
        The PSF, as the error names it.

    Raises
    ------
    PsfError
        If a side is longer than `LARGEST_KERNEL`.
    """
    ny, nx = shape
    if not (0 < ny <= LARGEST_KERNEL and 0 < nx <= LARGEST_KERNEL):
        raise PsfError(
            f"{what} would have kernels of {nx} x {ny} pixels; at most {LARGEST_KERNEL} are allowed along a side",
            fix="Give another PSF for this image",
        )


def defined_position(psf: PSF, box: Box) -> tuple[float, float] | None:
    """Find a position in a box at which a PSF has a kernel: the middle, if it has one there.

    Parameters
    ----------
    psf : PSF
        The model.
    box : Box
        Edges in parent pixels.

    Returns
    -------
    (float, float) or None
        Position (x, y); None if the PSF has no kernel anywhere in the box.
    """
    part = np.array([0.5, *((np.arange(16) + 0.5) / 16)])
    x, y = np.meshgrid(box.x_min + part * (box.x_max - box.x_min), box.y_min + part * (box.y_max - box.y_min))
    found = np.flatnonzero(psf.defined(x.ravel(), y.ravel()))
    return (float(x.flat[found[0]]), float(y.flat[found[0]])) if found.size else None
