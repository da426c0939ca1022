"""Crowded fields: which stars are drawn together on a grid, and which each by itself.

A stamp costs some ten microseconds, however faint its star is. Where stars are dense, less is needed: they are spread
onto a grid that is convolved with the PSF at once (`skygraft.render.star_grid`). The image is cut into square tiles.
A tile has the grid where it has so many stars that the grid is clearly cheaper (`least_stars`); small catalogues never
do. Drawn each by itself are still

* stars in the image's corners, whose frame two edges cut;
* stars so bright that what they leave outside of their frame, where a stamp ends, is more than `MOST_RING` of the peak
  of the tile's median star;
* all stars of a PSF that is no sum of basis images, or that is evaluated between pixels because those are too coarse,
  and of one for which the grid is found to be off by more than `MOST_ERROR`, before it is used.

Which stars those are depends on the image, its PSF and the stars on it alone. Stars are taken tile by tile, and in each
by cells, those of one cell in the order given; so the sum is the same to the last bit whatever else is done.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from skygraft.errors import SkygraftError
from skygraft.psf import PSF, Box, LinearPSF
from skygraft.render.canvas import Canvas
from skygraft.render.normalisation import Normalisation
from skygraft.render.sources import Sources
from skygraft.render.star_grid import StarGrid, Tiling, sorted_by_tile
from skygraft.render.stars import StarPainter, Stars

__all__ = ["MOST_ERROR", "MOST_RING", "draw_crowded", "least_stars"]

MOST_ERROR = 1e-6
"""Largest difference from exact interpolation, in units of a star's peak, with which the grid is used."""
MOST_RING = 1e-2
"""Largest value that a star on the grid leaves outside of its frame, in units of the peak of the median star."""

_LEAST = 4096
"""Stars in a tile below which they are always drawn each by itself."""
_CLEARLY = 1.3
"""How many times cheaper the grid must be."""
_NS_OF_PIXEL, _NS_OF_SPREADING = 20.0, 35.0
"""Nanoseconds of a pixel of the transforms, and of spreading a star, for each basis image."""
_NS_OF_STAMP, _NS_OF_SUM = 1.2, 0.13
"""Nanoseconds of a pixel of a stamp, and of it for each basis image."""
_TILES = 3
"""Tiles of that many stars that make up for preparing the grid."""
_BATCH = 1024


class _Draw(Protocol):
    def __call__(self, rows: NDArray[np.intp], add: Callable[[NDArray[np.intp]], Stars]) -> None: ...


def least_stars(images: int, tiling: Tiling, kernel: tuple[int, int]) -> int:
    """Compute the number of stars from which on a tile has the grid: where that is clearly cheaper.

    Parameters
    ----------
    images : int
        Basis images of the PSF.
    tiling : Tiling
        The tiles.
    kernel : (int, int)
        Rows and columns of kernels.

    Returns
    -------
    int
        At least 4096.
    """
    pixels = (kernel[0] + 20) * (kernel[1] + 20)
    of_stamp = pixels * (_NS_OF_STAMP + _NS_OF_SUM * images)
    of_tile = _NS_OF_PIXEL * (images + 1) * tiling.size**2
    saved = of_stamp / _CLEARLY - _NS_OF_SPREADING * images
    return max(_LEAST, int(np.ceil(of_tile / saved))) if saved > 0 else np.iinfo(np.int64).max


def draw_crowded(
    sources: Sources,
    rows: NDArray[np.intp],
    psf: PSF,
    painter: StarPainter,
    canvas: Canvas,
    box: Box,
    normalisation: Normalisation,
    draw: _Draw,
    *,
    always: bool = False,
    progress: Callable[[int], None] | None = None,
) -> NDArray[np.intp]:
    """Draw the stars of crowded tiles on a grid.

    Parameters
    ----------
    sources : Sources
        The image's sources.
    rows : ndarray of int
        The stars among them.
    psf : PSF
        The image's PSF.
    painter : StarPainter
        What evaluates it.
    canvas : Canvas
        Changed in place.
    box : Box
        The image's outer edges, parent pixels.
    normalisation : Normalisation
        What ties kernels to the calibration.
    draw : callable
        Given some rows and a function that draws all of the rows it is given or raises, it draws those that can be
        drawn and reports on all.
    always : bool
        Whether tiles with few stars have the grid too.
    progress : callable, optional
        Called with the number of stars drawn since the last call.

    Returns
    -------
    ndarray of int
        The stars that are left to be drawn, in the order given.
    """
    if not isinstance(psf, LinearPSF) or painter.draws_between_pixels:
        return rows
    tiling = Tiling.of((canvas.model.shape[0], canvas.model.shape[1]), psf.shape, len(psf.basis))
    if tiling is None:
        return rows
    least = 1 if always else least_stars(len(psf.basis), tiling, psf.shape)
    if len(rows) < least:
        return rows
    inside = np.flatnonzero(StarGrid.takes(psf.shape, canvas, sources.x[rows], sources.y[rows]))
    mine = rows if len(inside) == len(rows) else rows[inside]
    order, ends = sorted_by_tile(canvas, sources.x[mine], sources.y[mine], tiling)
    crowded = np.flatnonzero(np.diff(ends) >= least)
    if np.diff(ends)[crowded].sum() < (1 if always else _TILES * least):
        return rows
    try:
        grid = StarGrid(psf, tiling)
        error, ring = grid.errors(box)
    except (SkygraftError, MemoryError):  # of a PSF that is nowhere defined, among others: each star tells
        return rows
    if not error <= MOST_ERROR:
        return rows
    left = np.ones(len(sources), dtype=np.bool_)

    def add(some: NDArray[np.intp]) -> Stars:
        x, y = sources.x[some], sources.y[some]
        found, coefficients, _ = painter.evaluate(x, y, normalisation)
        assert coefficients is not None
        found.deposited[:], found.clipped[:] = grid.add(coefficients, x, y, sources.flux[some] * found.scale)
        return found

    for tile in crowded.tolist():
        stars = mine[order[ends[tile] : ends[tile + 1]]]
        faint = stars[_faint(np.abs(sources.flux[stars]), ring)]
        if len(faint) < least:
            continue
        grid.start(canvas, tile % tiling.columns, tile // tiling.columns)
        for start in range(0, len(faint), _BATCH):
            some = faint[start : start + _BATCH]
            draw(some, add)
            if progress is not None:
                progress(len(some))
        grid.finish(canvas)
        left[faint] = False
    return rows[left[rows]]


def _faint(flux: NDArray[np.float64], ring: float) -> NDArray[np.bool_]:
    """Which stars are faint enough for the grid, given absolute fluxes and what one leaves outside of its frame."""
    median = float(np.median(flux))
    return np.asarray(flux * ring <= MOST_RING * median)
