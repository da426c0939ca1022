"""Crowded fields: which stars are drawn together on a grid, and which each by itself.

A stamp costs some ten microseconds, however faint its star is. Where stars are dense, less is needed: they are spread
onto a grid that is convolved with the PSF at once (`skygraft.render.star_grid`). The image is cut into square tiles.
A tile has the grid where it has so many stars that the grid is clearly cheaper (`least_stars`); small catalogues never
do. Drawn each by itself are still

* stars in the image's corners, whose frame two edges cut;
* stars so bright that what they leave outside of their frame, where a stamp ends, is more than `MOST_RING` of the peak
  of the tile's median star;
* all stars of a PSF whose kernel is another one at every place without being a sum of basis images (a coadd's, one that
  another library draws), and of one for which the grid is found to be off by more than `MOST_ERROR`, before it is used.

A PSF that is constant in pieces, such as that of a coadd in cells, has a grid for each piece. One that is evaluated
between pixels, because those are too coarse, is drawn by its own samples (`skygraft.render.fine_star_grid`); stars
that reach an edge of the image are drawn each by itself then.

Which stars those are depends on the image, its PSF and the stars on it alone. Stars are taken tile by tile, and in each
by cells, those of one cell in the order given; so the sum is the same to the last bit whatever else is done.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from skygraft.errors import SkygraftError
from skygraft.psf import PSF, Box, FixedKernelPSF, LinearPSF, SubPixelBasis
from skygraft.render.canvas import Canvas
from skygraft.render.fine_star_grid import FineStarGrid
from skygraft.render.normalisation import Normalisation
from skygraft.render.sources import Sources
from skygraft.render.star_grid import StarGrid, Tiling, sorted_by_tile
from skygraft.render.stars import StarPainter, Stars

__all__ = ["MOST_ERROR", "MOST_RING", "draw_crowded", "least_stars"]

MOST_ERROR = 1e-6
"""Largest difference from exact interpolation, in units of a star's peak, with which the grid is used."""
MOST_RING = 1e-2
"""Largest value that a star on the grid leaves outside of its frame, in units of the peak of the median star."""

_LEAST, _LEAST_OF_SMALL = 4096, 1024
"""Stars in a tile, or on an image whose tiles are small, and in such a tile, below which each is drawn by itself."""
_CLEARLY = 1.3
"""How many times cheaper the grid must be."""
_NS_OF_PIXEL, _NS_OF_SPREADING = 20.0, 35.0
"""Nanoseconds of a pixel of the transforms, and of spreading a star, for each basis image."""
_NS_OF_STAMP, _NS_OF_SUM = 1.2, 0.13
"""Nanoseconds of a pixel of a stamp, and of it for each basis image."""
_TILES = 3
"""Tiles of that many stars that make up for preparing the grid."""
_NS_OF_TAP, _NS_OF_FINE_SUM = 0.2, 0.12
"""Nanoseconds of a tap, and of a sample for each basis image, of a star that is drawn between pixels."""
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
    return max(_LEAST, _least_stars(images, tiling, kernel))


def _least_stars(images: int, tiling: Tiling, kernel: tuple[int, int]) -> int:
    pixels = (kernel[0] + 20) * (kernel[1] + 20)
    of_stamp = pixels * (_NS_OF_STAMP + _NS_OF_SUM * images)
    of_tile = _NS_OF_PIXEL * (images + 1) * tiling.size**2
    saved = of_stamp / _CLEARLY - _NS_OF_SPREADING * images
    return int(np.ceil(of_tile / saved)) if saved > 0 else int(np.iinfo(np.int64).max)


class _Crowd:
    """What all grids of an image share: its stars, and how they are tied to the calibration and reported."""

    def __init__(
        self,
        sources: Sources,
        painter: StarPainter,
        canvas: Canvas,
        box: Box,
        normalisation: Normalisation,
        draw: _Draw,
        progress: Callable[[int], None] | None,
    ) -> None:
        self.sources, self.canvas, self.box = sources, canvas, box
        self._painter, self._normalisation, self._draw, self._progress = painter, normalisation, draw, progress
        self.left = np.ones(len(sources), dtype=np.bool_)

    def paint(
        self, make: Callable[[], StarGrid], tiling: Tiling, mine: NDArray[np.intp], least: int, tiles: int
    ) -> None:
        """Draw those of some stars that lie in tiles of at least so many, if there are that many such tiles' worth."""
        sources = self.sources
        order, ends = sorted_by_tile(self.canvas, sources.x[mine], sources.y[mine], tiling)
        crowded = np.flatnonzero(np.diff(ends) >= least)
        if np.diff(ends)[crowded].sum() < tiles * least:
            return
        try:
            grid = make()
            error, ring = grid.errors(self.box)
        except (SkygraftError, MemoryError):  # of a PSF that is nowhere defined, among others: each star tells
            return
        if not error <= MOST_ERROR:
            return

        def add(some: NDArray[np.intp]) -> Stars:
            x, y = sources.x[some], sources.y[some]
            found, coefficients = self._painter.evaluate(x, y, self._normalisation)
            weights = np.ones((len(some), 1)) if coefficients is None else coefficients
            found.deposited[:], found.clipped[:] = grid.add(weights, x, y, sources.flux[some] * found.scale)
            return found

        for tile in crowded.tolist():
            stars = mine[order[ends[tile] : ends[tile + 1]]]
            faint = stars[_faint(np.abs(sources.flux[stars]), ring)]
            if len(faint) < least:
                continue
            grid.start(self.canvas, tile % tiling.columns, tile // tiling.columns)
            for start in range(0, len(faint), _BATCH):
                some = faint[start : start + _BATCH]
                self._draw(some, add)
                if self._progress is not None:
                    self._progress(len(some))
            grid.finish(self.canvas)
            self.left[faint] = False


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
    crowd = _Crowd(sources, painter, canvas, box, normalisation, draw, progress)
    if not isinstance(psf, LinearPSF):
        _draw_pieces(crowd, psf, rows, always)
    elif painter.between is not None:
        _draw_between(crowd, psf, painter.between, rows, always)
    else:
        tiling = Tiling.of((canvas.model.shape[0], canvas.model.shape[1]), psf.shape, len(psf.basis))
        if tiling is None:
            return rows
        least = 1 if always else least_stars(len(psf.basis), tiling, psf.shape)
        if len(rows) < least:
            return rows
        inside = np.flatnonzero(StarGrid.takes(psf.shape, canvas, sources.x[rows], sources.y[rows]))
        mine = rows if len(inside) == len(rows) else rows[inside]
        tiles = 1 if always else _TILES
        crowd.paint(functools.partial(StarGrid, psf, tiling), tiling, mine, least, tiles)
    return rows[crowd.left[rows]]


def _draw_between(crowd: _Crowd, psf: LinearPSF, basis: SubPixelBasis, rows: NDArray[np.intp], always: bool) -> None:
    """Draw the stars of crowded tiles of an image whose pixels are too coarse for its PSF."""
    if not always and len(rows) < _LEAST:
        return
    fine = FineStarGrid.samples_per_pixel(basis)
    if fine is None:
        return
    canvas, half = crowd.canvas, FineStarGrid.half(basis)
    kernel = 2 * half[0] + 1, 2 * half[1] + 1
    tiling = Tiling.of((canvas.model.shape[0], canvas.model.shape[1]), kernel, len(psf.basis), fine=fine)
    if tiling is None:
        return
    summed = min(4, len(psf.basis)) if basis.few else len(psf.basis)
    (_, samples_y, samples_x), (ny, nx), taps = basis.grid.samples.shape, psf.shape, basis.grid.taps.shape[1]
    of_stamp = _NS_OF_TAP * taps * nx * (samples_y + ny) + _NS_OF_FINE_SUM * summed * samples_y * samples_x
    of_tile = _NS_OF_PIXEL / 4 * (summed + 1) * (tiling.size * fine) ** 2
    saved = of_stamp / _CLEARLY - _NS_OF_SPREADING * summed
    if saved <= 0:
        return
    least = 1 if always else max(_LEAST_OF_SMALL, int(np.ceil(of_tile / saved)))
    x, y = crowd.sources.x[rows], crowd.sources.y[rows]
    mine = rows[FineStarGrid.takes_whole(half, canvas, x, y)]
    if len(mine) < least:
        return
    tiles = 1 if always else _TILES
    crowd.paint(functools.partial(FineStarGrid, psf, basis, tiling), tiling, mine, least, tiles)


def _draw_pieces(crowd: _Crowd, psf: PSF, rows: NDArray[np.intp], always: bool) -> None:
    """Draw the stars of crowded pieces of an image, where the PSF is one kernel for each piece."""
    if not always and len(rows) < _LEAST:
        return
    sources, canvas = crowd.sources, crowd.canvas
    rows = rows[StarGrid.takes(psf.shape, canvas, sources.x[rows], sources.y[rows])]
    try:
        pieces = psf.pieces(sources.x[rows], sources.y[rows])
    except SkygraftError:  # each star tells
        return
    if pieces is None:
        return
    order = np.argsort(pieces, kind="stable")
    rows, pieces = rows[order], pieces[order]
    for mine in np.split(rows, np.flatnonzero(np.diff(pieces)) + 1) if len(rows) else []:
        if len(mine) < (1 if always else _LEAST_OF_SMALL):
            continue
        x, y = sources.x[mine], sources.y[mine]
        if not psf.defined(x[:1], y[:1])[0]:
            continue
        # What is cut into tiles is what the piece's stars fill, and a pixel more.
        i, j = (int(np.floor(one.min() + 0.5)) for one in (x, y))
        shape = int(np.floor(y.max() + 0.5)) - j + 1, int(np.floor(x.max() + 0.5)) - i + 1
        beyond = max(psf.shape) // 2 + 2
        inner = max(1, shape[0] - 2 * beyond), max(1, shape[1] - 2 * beyond)
        corner = i + beyond - canvas.x0, j + beyond - canvas.y0
        tiling = Tiling.of(inner, psf.shape, corner=corner)
        if tiling is None:
            return
        least = 1 if always else max(_LEAST_OF_SMALL, _least_stars(1, tiling, psf.shape))
        if len(mine) < least:
            continue
        kernel = functools.partial(_grid_of_piece, psf, x[0], y[0], tiling)
        crowd.paint(kernel, tiling, mine, least, 1)


def _grid_of_piece(psf: PSF, x: float, y: float, tiling: Tiling) -> StarGrid:
    return StarGrid(FixedKernelPSF(psf.kernels([x], [y])[0]), tiling)


def _faint(flux: NDArray[np.float64], ring: float) -> NDArray[np.bool_]:
    """Which stars are faint enough for the grid, given absolute fluxes and what one leaves outside of its frame."""
    median = float(np.median(flux))
    return np.asarray(flux * ring <= MOST_RING * median)
