"""The model image that sources are summed into, and the report about each source."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from skygraft.jit import compiled
from skygraft.psf.linear import aligned

__all__ = ["Canvas", "RenderReport"]


@dataclass
class Canvas:
    """Noise-free sum of the sources drawn so far.

    Parameters
    ----------
    model : ndarray of float32, shape (ny, nx)
        Image units.
    x0, y0 : int
        Parent coordinates of ``model[0, 0]``.
    """

    model: NDArray[np.float32]
    x0: int = 0
    y0: int = 0

    @classmethod
    def empty(cls, shape: tuple[int, int], xy0: tuple[int, int]) -> Canvas:
        """A canvas of zeros that begins at a cache line; its memory is only touched where something is drawn."""
        return cls(aligned(shape, np.zeros), *xy0)

    def add(self, stamp: NDArray[np.float64], x0: int, y0: int) -> tuple[float, bool]:
        """Add a stamp whose first pixel has parent coordinates (x0, y0); what lies off the canvas is dropped.

        Returns
        -------
        deposited : float
            Flux that landed on the canvas, image units.
        clipped : bool
            Whether part of the stamp lay off the canvas.
        """
        return add_stamp(self.model, stamp, x0 - self.x0, y0 - self.y0)

    def clips(self, x0: int, y0: int, nx: int, ny: int) -> bool:
        """Whether a box of nx by ny pixels whose first has parent coordinates (x0, y0) reaches off the canvas."""
        rows, columns = self.model.shape
        i, j = x0 - self.x0, y0 - self.y0
        return i < 0 or j < 0 or i + nx > columns or j + ny > rows


@compiled
def add_stamp(model: NDArray[np.float32], stamp: NDArray[np.float64], x0: int, y0: int) -> tuple[float, bool]:
    """Add `stamp` to `model` with its first pixel at array position (x0, y0); see `Canvas.add`."""
    ny, nx = stamp.shape
    rows, columns = model.shape
    j0, j1 = max(0, -y0), min(ny, rows - y0)
    i0, i1 = max(0, -x0), min(nx, columns - x0)
    deposited = 0.0
    for j in range(j0, j1):
        for i in range(i0, i1):
            value = stamp[j, i]
            deposited += value
            model[y0 + j, x0 + i] += np.float32(value)
    return deposited, (j1 - j0 < ny) or (i1 - i0 < nx)


@dataclass
class RenderReport:
    """Results of drawing, one entry per source, in the order in which the sources were given.

    Parameters
    ----------
    flux_deposited : ndarray, shape (N,)
        Noise-free flux that landed on the image, image units.
    aperture_fraction : ndarray, shape (N,)
        Part of the PSF model's own light inside the calibration aperture, whatever the model sums to; NaN where the
        flux mode involves no aperture.
    kernel_scale : ndarray, shape (N,)
        Factor by which the kernel was multiplied.
    psf_fwhm : ndarray, shape (N,)
        Pixels; NaN where there was no PSF to measure.
    stamp_size : ndarray of int, shape (N,)
        Longer side of the stamp in pixels; 0 where nothing was drawn.
    flags : ndarray of int64, shape (N,)
        Bits of `skygraft.catalog.flags.Flag`.
    """

    flux_deposited: NDArray[np.float64]
    aperture_fraction: NDArray[np.float64]
    kernel_scale: NDArray[np.float64]
    psf_fwhm: NDArray[np.float64]
    stamp_size: NDArray[np.int64]
    flags: NDArray[np.int64]
    messages: dict[int, str] = field(default_factory=dict)

    @classmethod
    def empty(cls, n: int) -> RenderReport:
        """A report in which nothing has been drawn."""
        return cls(
            np.zeros(n),
            np.full(n, np.nan),
            np.full(n, np.nan),
            np.full(n, np.nan),
            np.zeros(n, np.int64),
            np.zeros(n, np.int64),
        )
