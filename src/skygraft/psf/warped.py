"""PSFs seen through a mapping of the pixels: LSST's WarpedPsf, and the parts of a CoaddPsf.

The pipelines take the image of a source at the place on the *input* that the middle of the output's pixel comes from,
and resample it by a Lanczos function through the local affine map. They are followed exactly, with their table of
Lanczos weights (which rounds the phase) and the width of the zeros around an image.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skygraft.errors import ConfigError, PsfError
from skygraft.jit import compiled
from skygraft.psf.base import PSF, Box, check_kernel_shape
from skygraft.psf.linear import positions
from skygraft.psf.subpixel import lanczos_taps, pixel_images

__all__ = ["PixelMap", "Warp", "WarpedPSF", "local_maps", "warped_kernels"]

type FloatArray = NDArray[np.float64]
type PixelMap = Callable[[FloatArray, FloatArray], tuple[FloatArray, FloatArray]]
"""Maps pixels (x, y), each of shape (N,), of the output image to pixels of the input image."""

_STEP = 0.5
"""Half the distance, in pixels, of a mapping's finite differences; its curvature changes them by below 1e-8."""


class Warp:
    """How images are resampled: by a Lanczos function, whose phases are rounded to a table of weights if there is one.

    Parameters
    ----------
    order : int
        Of the Lanczos function: 3 for LSST's ``"lanczos3"``.
    table_size : int, optional
        Phases of its table of weights (``cacheSize``); 0 for weights at every phase as it is.

    Raises
    ------
    ConfigError
        If either is out of range.
    """

    def __init__(self, order: int, table_size: int = 0) -> None:
        if not 1 <= order <= 32 or not 0 <= table_size <= 10_000_000:
            raise ConfigError(f"a Lanczos function of order {order} with a table of {table_size} phases is not usable")
        self.order, self.table_size = int(order), int(table_size)
        self._table: FloatArray | None = None

    @property
    def table(self) -> FloatArray:
        """Weights, shape (phases, 2 order); of the shape (0, 2 order) without a table."""
        if self._table is None:
            self._table = _table(self.order, self.table_size)
        return self._table

    def __reduce__(self) -> tuple[type[Warp], tuple[int, int]]:
        return Warp, (self.order, self.table_size)

    def __eq__(self, other: object) -> bool:
        return (
            (self.order, self.table_size) == (other.order, other.table_size)
            if isinstance(other, Warp)
            else NotImplemented
        )

    def __hash__(self) -> int:
        return hash((self.order, self.table_size))

    def __repr__(self) -> str:
        return f"Warp({self.order}, {self.table_size})"


def local_maps(x: FloatArray, y: FloatArray, mapping: PixelMap) -> tuple[FloatArray, FloatArray]:
    """Compute affine maps that stand for a mapping around N positions.

    Parameters
    ----------
    x, y : ndarray, shape (N,)
        Positions on the pixels that are mapped.
    mapping : PixelMap
        The mapping.

    Returns
    -------
    matrices : ndarray, shape (N, 2, 2)
        Rows x', y'; columns d/dx, d/dy.
    offsets : ndarray, shape (N, 2)
        Where (0, 0) goes.
    """
    return affine(x, y, np.stack(mapping(*neighbours(x, y))).reshape(2, 5, len(x)))


def affine(x: FloatArray, y: FloatArray, mapped: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Compute the maps of `local_maps` from the mapped positions (2, 5, N) of (x, y) and its four neighbours."""
    slopes = np.stack([mapped[:, 1] - mapped[:, 2], mapped[:, 3] - mapped[:, 4]], axis=1) / (2 * _STEP)
    matrices = np.ascontiguousarray(np.moveaxis(slopes, 2, 0))
    offsets = mapped[:, 0].T - np.einsum("nij,nj->ni", matrices, np.stack([x, y], axis=1))
    return matrices, offsets


def neighbours(x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
    """List the positions that `affine` needs, (x, y) and then its four neighbours: each of shape (5 N,)."""
    dx, dy = _STEP * np.array([[0.0, 1.0, -1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0, -1.0]])
    return (x + dx[:, None]).ravel(), (y + dy[:, None]).ravel()


def warped_kernels(
    psf: PSF, x: FloatArray, y: FloatArray, matrices: FloatArray, offsets: FloatArray, warp: Warp, out: FloatArray
) -> None:
    """Write the kernels of a warped PSF, each of sum one, into the middle of `out`.

    Parameters
    ----------
    psf : PSF
        The model, on its own pixels.
    x, y : ndarray, shape (N,)
        Positions on the pixels that are warped to.
    matrices, offsets : ndarray, shape (N, 2, 2) and (N, 2)
        From these pixels to the model's own, of `local_maps`.
    warp : Warp
        How images are resampled.
    out : ndarray, shape (N, ny, nx), C-contiguous
        Both sizes odd; zeros are written around a kernel that is smaller.

    Raises
    ------
    PsfError
        If the mapping folds at one of them, or the kernel holds no light.
    """
    determinant = np.linalg.det(matrices)
    if not (np.isfinite(offsets).all() and (np.abs(determinant) > 1e-12).all()):
        bad = int(np.argmax(~(np.isfinite(offsets).all(axis=1) & (np.abs(determinant) > 1e-12))))
        raise PsfError(f"the mapping of the warped PSF has no inverse at position ({x[bad]}, {y[bad]}), number {bad}")
    centre = np.stack([np.floor(x + 0.5), np.floor(y + 0.5)], axis=1)
    source = np.einsum("nij,nj->ni", matrices, centre) + offsets
    images = pixel_images(psf, source[:, 0], source[:, 1])
    # Images are resampled around their own middle pixel: its coordinates are subtracted here.
    shifts = source - np.floor(source + 0.5)
    sums = _resample(images, matrices, shifts, _extents(psf.shape, matrices), warp.order, warp.table, out)
    if not (sums > 0).all():
        bad = int(np.argmax(~(sums > 0)))
        raise PsfError(f"the warped PSF sums to {sums[bad]:g} at position ({x[bad]}, {y[bad]}), number {bad}")


def _extents(shape: tuple[int, int], matrices: FloatArray) -> NDArray[np.int64]:
    """Compute half widths and heights in whole pixels of kernels of `shape` after the maps' inverse: shape (N, 2)."""
    sizes = np.abs(np.linalg.inv(matrices)) @ np.array([float(shape[1]), float(shape[0])])
    half: NDArray[np.int64] = np.floor(0.5 * sizes).astype(np.int64)
    return half


def warped_shapes(shape: tuple[int, int], matrices: FloatArray, largest: tuple[int, int]) -> NDArray[np.int64]:
    """Compute the rows and columns of the warped kernels at N maps, at most `largest`: shape (N, 2)."""
    half = _extents(shape, matrices)[:, ::-1]
    shapes: NDArray[np.int64] = 2 * np.minimum(half, np.array(largest) // 2) + 1
    return shapes


def warped_shape(shape: tuple[int, int], matrices: FloatArray) -> tuple[int, int]:
    """Compute the shape that holds the warped kernels at all of these maps, with a margin of one pixel."""
    half = _extents(shape, matrices).max(axis=0) + 1
    return 2 * int(half[1]) + 1, 2 * int(half[0]) + 1


def _table(order: int, size: int) -> FloatArray:
    table = np.empty((size, 2 * order))
    for phase in range(size):
        lanczos_taps((phase + 0.5) / size, order, table[phase])
    return table


@compiled
def _resample(
    images: FloatArray,
    matrices: FloatArray,
    shifts: FloatArray,
    extents: NDArray[np.int64],
    order: int,
    table: FloatArray,
    out: FloatArray,
) -> FloatArray:  # pragma: no cover - compiled
    """Resample `images` (N, sy, sx) into `out` (N, ny, nx), each divided by its sum; the sums are returned."""
    n, sy, sx = images.shape
    ny, nx = out.shape[1:]
    sums = np.zeros(n)
    size = table.shape[0]
    taps_x, taps_y = np.empty(2 * order), np.empty(2 * order)
    # The pipelines pad an image with so many zeros, and give nothing where a weight would fall outside of them.
    pad = order + 1
    for s in range(n):
        half_x, half_y = min(extents[s, 0], nx // 2), min(extents[s, 1], ny // 2)
        total = 0.0
        for j in range(ny):
            dy = j - ny // 2
            for i in range(nx):
                dx = i - nx // 2
                out[s, j, i] = 0.0
                if abs(dx) > half_x or abs(dy) > half_y:
                    continue
                x = matrices[s, 0, 0] * dx + matrices[s, 0, 1] * dy + shifts[s, 0]
                y = matrices[s, 1, 0] * dx + matrices[s, 1, 1] * dy + shifts[s, 1]
                whole_x, whole_y = np.floor(x), np.floor(y)
                first_x = int(whole_x) + sx // 2 + 1 - order
                first_y = int(whole_y) + sy // 2 + 1 - order
                if first_x < -pad or first_y < -pad or first_x + 2 * order > sx + pad or first_y + 2 * order > sy + pad:
                    continue
                if size:
                    # The fraction of what lies a rounding error below a whole number is one.
                    weights_x = table[min(int((x - whole_x) * size), size - 1)]
                    weights_y = table[min(int((y - whole_y) * size), size - 1)]
                else:
                    lanczos_taps(x - whole_x, order, taps_x)
                    lanczos_taps(y - whole_y, order, taps_y)
                    weights_x, weights_y = taps_x, taps_y
                value = 0.0
                for k in range(max(0, -first_y), min(2 * order, sy - first_y)):
                    row = 0.0
                    for m in range(max(0, -first_x), min(2 * order, sx - first_x)):
                        row += weights_x[m] * images[s, first_y + k, first_x + m]
                    value += weights_y[k] * row
                out[s, j, i] = value
                total += value
        sums[s] = total
        for j in range(ny):
            for i in range(nx):
                out[s, j, i] /= total
    return sums


class WarpedPSF(PSF):
    """A PSF seen through a mapping of the pixels, as LSST's WarpedPsf.

    Parameters
    ----------
    psf : PSF
        The model, on its own pixels.
    mapping : PixelMap
        From this PSF's pixels to those of `psf`; picklable.
    warp : Warp
        How images are resampled.
    at : (float, float)
        A position where the mapping is good; the size of the kernels is taken there.
    valid_box : Box, optional
        Where the model holds; None for everywhere.
    average_position : (float, float), optional
        The position that stands for the whole image.
    """

    def __init__(
        self,
        psf: PSF,
        mapping: PixelMap,
        warp: Warp,
        *,
        at: tuple[float, float],
        valid_box: Box | None = None,
        average_position: tuple[float, float] | None = None,
    ) -> None:
        self.psf, self.mapping, self.warp = psf, mapping, warp
        self._valid_box, self._average_position = valid_box, average_position
        matrices, _ = local_maps(np.array([at[0]]), np.array([at[1]]), mapping)
        if not np.isfinite(matrices).all():
            raise PsfError(f"the mapping of the warped PSF gives nothing at {at}")
        self._shape = warped_shape(psf.shape, matrices)
        check_kernel_shape(self._shape, "the warped PSF")

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and columns (ny, nx) of every kernel; both odd."""
        return self._shape

    def kernel_shapes(self, x: ArrayLike, y: ArrayLike) -> NDArray[np.int64]:
        """Give the sizes of the warped kernels at N positions.

        Parameters
        ----------
        x, y : array_like, shape (N,)
            Positions in parent pixels.

        Returns
        -------
        ndarray of int, shape (N, 2)
        """
        x, y = positions(x, y)
        return warped_shapes(self.psf.shape, local_maps(x, y, self.mapping)[0], self._shape)

    def kernels(self, x: ArrayLike, y: ArrayLike) -> FloatArray:
        """Warp the model's kernels at N positions; each has sum one.

        Parameters
        ----------
        x, y : array_like, shape (N,)
            Positions in parent pixels.

        Returns
        -------
        ndarray of float64, shape (N, ny, nx)
            Centred on the middle pixel; see `PSF.kernels`.
        """
        x, y = positions(x, y)
        out = np.empty((x.size, *self._shape))
        if x.size:
            warped_kernels(self.psf, x, y, *local_maps(x, y, self.mapping), self.warp, out)
        return out

    @property
    def description(self) -> str:
        """Short description of the model, for people and records."""
        ny, nx = self._shape
        return f"WarpedPSF (Lanczos-{self.warp.order}) of {self.psf.description}, {nx} x {ny} pixels"
