"""Reading the PSFs of SDSS frames: the Karhunen-Loeve images of ``psField`` files.

A ``psField-<run>-<camcol>-<field>.fit`` file holds, in HDUs 1 to 5 for u, g, r, i, z, a few eigenimages (``RROWS``),
each with a polynomial of the position in the frame (``C``). With rows and columns in units of 1000 pixels,

    weight[k] = sum over i, j of C[k, i, j] (row / 1000)^i (column / 1000)^j,   i < NROW_B, j < NCOL_B,

where SDSS counts rows and columns from the edge of the first pixel: its middle is 0.5, not 0 as here.

The PSF is the sum of the eigenimages with these weights, on the frame's pixels, its centre in the middle of the central
one (SDSS, "Extracting PSF Images", https://www.sdss.org/dr16/algorithms/read_psf). Their sum is close to one, and is
scaled to it here, as SDSS's own photometry of the PSF does. Images that ``read_PSF`` wrote have a soft bias of 1000 on
them; psField files have not.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skygraft.errors import PsfError
from skygraft.fitsfile.open import open_fits
from skygraft.psf.base import Box
from skygraft.psf.kernel import KernelBasisPSF

__all__ = ["is_psfield", "read_psfield"]

_BANDS = "ugriz"
_UNIT = 0.001
"""Units of rows and columns, per pixel (``RC_SCALE``)."""
_FIRST = 0.5
"""Row and column of the middle of the first pixel."""
_MOST_TERMS = 10
_UNUSABLE = {3: "no PSF was found", 4: "processing was aborted", 5: "the field has no data in this band"}
"""Values of the status of a band's PSF in HDU 6 that mean that there is none."""
_COLUMNS = ("NROW_B", "NCOL_B", "RNROW", "RNCOL", "RROWS", "C")


class PsFieldPSF(KernelBasisPSF):
    """The PSF of one band of an SDSS field.

    Parameters
    ----------
    basis, coefficients, valid_box
        As for `KernelBasisPSF`.
    name : str
        The file and the band.
    """

    def __init__(
        self, basis: NDArray[np.float64], coefficients: list[NDArray[np.float64]], valid_box: Box, name: str
    ) -> None:
        super().__init__(basis, coefficients, normalize=True, valid_box=valid_box)
        self._name = name

    @property
    def description(self) -> str:
        """Short description of the model, for people and records."""
        ny, nx = self.shape
        return f"{self._name}, {len(self.basis)} eigenimages, {nx} x {ny} pixels, sum one"


def is_psfield(columns: list[str]) -> bool:
    """Whether a table with these columns holds the eigenimages of a psField file.

    Parameters
    ----------
    columns : list of str
        Names of the table's columns.

    Returns
    -------
    bool
    """
    return {"RROWS", "NROW_B", "NCOL_B"} <= {name.upper() for name in columns}


def read_psfield(
    path: str | os.PathLike[str],
    band: str,
    *,
    shape: tuple[int, int] = (1489, 2048),
    xy0: tuple[float, float] = (0.0, 0.0),
) -> PsFieldPSF:
    """Read the PSF of an SDSS frame from the field's psField file.

    Parameters
    ----------
    path : path-like
        The file.
    band : {"u", "g", "r", "i", "z"}
        The frame's band.
    shape : (int, int), optional
        Rows and columns of the frame, where the PSF holds.
    xy0 : (float, float), optional
        Parent pixel position of the frame's first pixel.

    Returns
    -------
    PsFieldPSF
        On the frame's pixels, each kernel scaled to sum one.

    Raises
    ------
    CorruptFileError
        If the file is missing, empty, truncated or not FITS.
    PsfError
        If it is no psField file, or has no PSF of this band.
    """
    path = Path(path)
    if band not in tuple(_BANDS):
        raise PsfError(
            f"SDSS has no band {band!r}; its bands are u, g, r, i, z",
            path=path,
            key="band",
            fix="Say which PSF to use: band: r",
        )
    index = 1 + _BANDS.index(band)
    with open_fits(path, memmap=False) as hdus:
        columns = _columns(hdus, index)
        if columns is None:
            raise PsfError(
                f"HDU {index} has no eigenimages (columns {', '.join(_COLUMNS)}): this is no psField file of SDSS",
                path=path,
                hdu=index,
                fix="Give psField-<run>-<camcol>-<field>.fit",
            )
        status = _status(hdus, index - 1)
    if status in _UNUSABLE:
        raise PsfError(
            f"the field has no PSF in {band}: {_UNUSABLE[status]} (status {status})",
            path=path,
            hdu=6,
            key="STATUS",
            fix="Give another PSF for this frame",
        )
    basis, coefficients = _model(columns, path, index)
    ny, nx = shape
    x0, y0 = xy0
    box = Box(x0 - 0.5, x0 + nx - 0.5, y0 - 0.5, y0 + ny - 0.5)
    return PsFieldPSF(basis, [_moved(table, x0, y0) for table in coefficients], box, f"SDSS {path.name} ({band})")


def _columns(hdus: Any, index: int) -> dict[str, Any] | None:
    """The columns of a band's table, as lists of rows; None if it is no such table."""
    if index >= len(hdus) or not hasattr(hdus[index], "columns"):
        return None
    table = hdus[index]
    names = {str(name).upper(): name for name in table.columns.names}
    if not is_psfield(list(names)) or not set(_COLUMNS) <= set(names):
        return None
    return {key: [table.data[names[key]][k] for k in range(len(table.data))] for key in _COLUMNS}


def _status(hdus: Any, band: int) -> int | None:
    """The status of a band's PSF, in the table of HDU 6."""
    if len(hdus) <= 6 or not hasattr(hdus[6], "columns"):
        return None
    names = {str(name).upper(): name for name in hdus[6].columns.names}
    if "STATUS" not in names or not len(hdus[6].data):
        return None
    values = np.ravel(hdus[6].data[names["STATUS"]][0])
    return int(values[band]) if len(values) > band else None


def _model(columns: dict[str, Any], path: Path, hdu: int) -> tuple[NDArray[np.float64], list[NDArray[np.float64]]]:
    """Eigenimages (K, ny, nx), and their polynomials by powers (column, row) of pixels."""

    def wrong(message: str, key: str) -> PsfError:
        return PsfError(message, path=path, hdu=hdu, key=key, fix="Fetch the psField file again")

    n = len(columns["C"])
    if n == 0:
        raise wrong("the table has no eigenimages", "RROWS")
    ny, nx = int(columns["RNROW"][0]), int(columns["RNCOL"][0])
    images, tables = [], []
    for k in range(n):
        image = np.asarray(columns["RROWS"][k], dtype=np.float64).ravel()
        if image.size != ny * nx or ny % 2 == 0 or nx % 2 == 0:
            raise wrong(f"eigenimage {k} has {image.size} values, not an odd {nx} times an odd {ny}", "RROWS")
        rows, cols = int(columns["NROW_B"][k]), int(columns["NCOL_B"][k])
        c = np.asarray(columns["C"][k], dtype=np.float64).ravel()
        side = round(float(np.sqrt(c.size)))
        if side**2 != c.size or not (0 < rows <= side <= _MOST_TERMS and 0 < cols <= side):
            raise wrong(f"eigenimage {k} has a polynomial of {rows} x {cols} terms in {c.size} coefficients", "C")
        images.append(image.reshape(ny, nx))
        tables.append(c.reshape(side, side)[:rows, :cols])
    if not (np.isfinite(images).all() and all(np.isfinite(table).all() for table in tables)):
        raise wrong("the eigenimages or their polynomials hold values that are not finite", "RROWS")
    return np.array(images), tables


def _moved(c: NDArray[np.float64], x0: float, y0: float) -> NDArray[np.float64]:
    """Coefficients C[row power, column power] as those of `KernelBasisPSF`: by total degree, in parent pixels."""
    rows, columns = (np.array([_UNIT**i for i in range(n)]) for n in c.shape)
    scaled = c * rows[:, None] * columns
    by_row, by_column = (_shift(n, by - _FIRST) for n, by in zip(c.shape, (y0, x0), strict=True))
    table = by_row.T @ scaled @ by_column
    degree = c.shape[0] + c.shape[1] - 2
    terms = [(d - j, j) for d in range(degree + 1) for j in range(d + 1)]
    return np.array([table[j, i] if j < c.shape[0] and i < c.shape[1] else 0.0 for i, j in terms])


def _shift(n: int, by: float) -> NDArray[np.float64]:
    """Matrix (n, n) whose row i has the coefficients of (t - by)^i."""
    matrix = np.zeros((n, n))
    matrix[0, 0] = 1.0
    for i in range(1, n):
        matrix[i, 1:] += matrix[i - 1, :-1]
        matrix[i] -= by * matrix[i - 1]
    return matrix
