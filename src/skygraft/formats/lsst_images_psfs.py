"""Convert PSFs of ``lsst.images``: those of cell coadds, and those that the library evaluates."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from skygraft.errors import PsfError, SkygraftError
from skygraft.formats.base import StrPath
from skygraft.formats.lsst_images_open import library_errors
from skygraft.psf import PSF, Box, CellPSF, DrawnPSF, as_polynomial

__all__ = ["build_psf"]


class _Draw:
    """Draws a kernel with the library's PSF object."""

    def __init__(self, psf: Any) -> None:
        self._psf = psf

    def __call__(self, x: float, y: float) -> NDArray[np.float64]:
        return np.asarray(self._psf.compute_kernel_image(x=x, y=y).array, dtype=np.float64)


class _DrawUnscaled(_Draw):
    """Draws a kernel with Piff, not divided by its sum: only then is it a polynomial of position."""

    def __call__(self, x: float, y: float) -> NDArray[np.float64]:
        side = self._psf.kernel_bbox.shape[0]
        drawn = self._psf.piff_psf.draw(x, y, stamp_size=side, center=True)
        return np.asarray(drawn.array, dtype=np.float64)


def build_psf(image: Any, path: StrPath) -> tuple[PSF | None, PsfError | None]:
    """Return the PSF of an image, or the error that says why it has no usable one."""
    if not hasattr(image, "psf"):
        return None, PsfError("a masked image has no PSF", path=path, fix="Give one (psf=, --psf)")
    try:
        with library_errors(path):
            return _psf_of(image), None
    except (SkygraftError, ValueError) as error:
        message = error.message if isinstance(error, SkygraftError) else str(error)
        return None, PsfError(f"the image's PSF cannot be used: {message}", path=path, fix="Give a PSF (psf=, --psf)")


def _psf_of(image: Any) -> PSF:
    psf = image.psf
    kind = type(psf).__name__
    if kind == "CellPointSpreadFunction":
        return _cell_psf(psf, getattr(getattr(image, "provenance", None), "contributions", None))
    bounds = psf.bounds.bbox if hasattr(psf.bounds, "bbox") else psf.bounds
    box = Box(bounds.x.start - 0.5, bounds.x.stop - 0.5, bounds.y.start - 0.5, bounds.y.stop - 0.5)
    if kind == "PiffWrapper" and (polynomial := as_polynomial(_DrawUnscaled(psf), box)) is not None:
        return polynomial
    return DrawnPSF(_Draw(psf), kind, valid_box=box)


def _cell_psf(psf: Any, contributions: Any) -> CellPSF:
    """Convert the PSF of a cell coadd; missing cells have no kernel.

    `contributions` is the coadd's table of the input images of each cell, or None.
    """
    bounds, box = psf.bounds, psf.kernel_bbox
    start, stop = bounds.subgrid_start, bounds.subgrid_stop
    kernels = np.full((stop.i - start.i, stop.j - start.j, *box.shape), np.nan)
    for cell in bounds.cell_indices():
        if bounds.contains_cell(cell):
            kernels[cell.i - start.i, cell.j - start.j] = psf[cell].array
    cell = bounds.grid.cell_shape
    first = bounds.grid.bbox_of(start)
    inputs: dict[tuple[int, int], list[str]] = {}
    if contributions is not None:
        for row in contributions:
            place = int(row["cell_i"]) - start.i, int(row["cell_j"]) - start.j
            inputs.setdefault(place, []).append(f"{row['visit']}-{row['detector']}")
    return CellPSF(
        kernels,
        (int(first.x.start), int(first.y.start)),
        (int(cell.x), int(cell.y)),
        inputs={place: sorted(names) for place, names in inputs.items()},
    )
