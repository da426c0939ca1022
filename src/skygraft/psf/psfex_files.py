"""Reading PSFEx models: PSFEx's own `.psf` files, and the Legacy Surveys' tables with a row for each CCD."""

from __future__ import annotations

import contextlib
import os
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.utils.exceptions import AstropyUserWarning
from numpy.typing import NDArray

from skygraft.errors import CorruptFileError, PsfError, SkygraftError
from skygraft.psf.base import Box
from skygraft.psf.psfex import PsfexPSF

__all__ = ["read_psfex"]

_AXES = tuple({f"{axis}{kind}_IMAGE" for kind in ("", "WIN", "PSF", "MODEL", "PEAK")} for axis in ("X", "Y"))


def read_psfex(
    path: str | os.PathLike[str],
    *,
    ccdname: str | None = None,
    expnum: int | None = None,
    hdu: int | str | None = None,
    xy0: tuple[float, float] = (0.0, 0.0),
    valid_box: Box | None = None,
) -> PsfexPSF:
    """Read a PSFEx model from a FITS table.

    Parameters
    ----------
    path : path-like
        A `.psf` file of PSFEx, or a table with the same quantities in columns and a row for each CCD.
    ccdname, expnum : str, int, optional
        The CCD and the exposure wanted. A table that names its CCDs is searched for them; needed where it has
        more than one row.
    hdu : int or str, optional
        The extension, where more than one holds a model.
    xy0 : (float, float), optional
        Parent pixel position of the first pixel of the image that the model was made for.
    valid_box : Box, optional
        Where the model holds, in parent pixels; see `PsfexPSF` for what it is by default.

    Returns
    -------
    PsfexPSF
        In PSFEx's own convention.

    Raises
    ------
    CorruptFileError
        If the file is missing, empty, truncated or not FITS.
    PsfError
        If it holds no PSFEx model, not that of the CCD asked for, or one that depends on more than the position.

    Notes
    -----
    ``POLZERO`` counts pixels from one, as PSFEx and source-extractor do; the model returned counts from zero.
    A file without ``POLNAXIS`` (some Legacy Surveys versions) is taken to vary over the axes that it names.
    """
    path = Path(path)
    with _open(path) as hdus:
        index, table = _find_table(hdus, path, hdu)
        row = _find_row(table, path, index, ccdname, expnum)
        reader = _Row(path, index, table, row)
        mask = reader.mask()
        degree, zero, scale = reader.polynomial()
        step = reader.number("PSF_SAMP")
        if reader.value("ACCEPTED", 1) == 0:
            raise reader.error("no star was accepted for this PSFEx model", "ACCEPTED")
    x0, y0 = xy0
    n_terms = (degree + 1) * (degree + 2) // 2
    if len(mask) != n_terms:
        raise reader.error(f"{len(mask)} images for a polynomial of degree {degree}, which has {n_terms}", "PSF_MASK")
    if step <= 0:
        raise reader.error(f"a sampling step of {step:g} pixels", "PSF_SAMP")
    if degree and min(scale) <= 0:
        raise reader.error(f"a scale of {scale} pixels", "POLSCAL1")
    try:
        return PsfexPSF(mask, degree, (zero[0] - 1 + x0, zero[1] - 1 + y0), scale, step, valid_box=valid_box)
    except PsfError as error:
        error.path, error.hdu, error.row = os.fspath(path), index, row
        raise


class _Row:
    """One model's quantities, which may be columns of its row or cards of the header."""

    def __init__(self, path: Path, hdu: int, table: Any, row: int) -> None:
        self.path, self.hdu, self.row = path, hdu, row
        self._header = table.header
        self._columns = {name.upper(): name for name in table.columns.names}
        self._record = table.data[row]

    def error(self, message: str, key: str, fix: str | None = None) -> PsfError:
        return PsfError(
            message,
            path=self.path,
            hdu=self.hdu,
            row=self.row,
            key=key,
            fix=fix or "Give another PSF model for this image",
        )

    def value(self, key: str, default: Any = None) -> Any:
        """The cell or card; text without its padding."""
        value = self._record[self._columns[key]] if key in self._columns else self._header.get(key, default)
        return value.strip() if isinstance(value, str) else value

    def number(self, key: str, default: float | None = None) -> float:
        value = self.value(key, default)
        try:
            number = float(value)
        except (TypeError, ValueError):
            raise self.error(f"the PSFEx model has no usable {key} (it is {value!r})", key) from None
        if not np.isfinite(number):
            raise self.error(f"{key} is {number}", key)
        return number

    def mask(self) -> NDArray[np.float64]:
        """The model's images, shape (terms, my, mx)."""
        mask = np.asarray(self.value("PSF_MASK"), dtype=np.float64)
        if mask.ndim == 1 and mask.size:
            shape = [int(self.number(f"PSFAXIS{i}", 1)) for i in (3, 2, 1)]
            if mask.size != np.prod(shape):
                raise self.error(f"{mask.size} values cannot be images of shape {tuple(shape)}", "PSF_MASK")
            mask = mask.reshape(shape)
        if mask.ndim == 2:
            mask = mask[None]
        if mask.ndim != 3:
            raise self.error(f"images of shape {mask.shape}", "PSF_MASK")
        return mask

    def polynomial(self) -> tuple[int, tuple[float, float], tuple[float, float]]:
        """Degree, and POLZERO and POLSCAL as they are in the file (pixels counted from one)."""
        names = [self.value(f"POLNAME{i}") for i in (1, 2)]
        n_axes = int(self.number("POLNAXIS", sum(name is not None for name in names)))
        if n_axes == 0:
            return 0, (0.0, 0.0), (1.0, 1.0)
        degree = int(self.number("POLDEG1"))
        if n_axes != 2 or int(self.number("POLNGRP", 1)) != 1:
            raise self.error(
                f"the PSFEx model varies with {n_axes} quantities in {self.value('POLNGRP', 1)} groups; "
                "only X and Y in one group can be evaluated",
                "POLNAXIS",
                "Run PSFEx with PSFVAR_KEYS X_IMAGE,Y_IMAGE",
            )
        for i, (name, allowed) in enumerate(zip(names, _AXES, strict=True), start=1):
            if str(name).upper() not in allowed:
                raise self.error(
                    f"the PSFEx model varies with {name!r}; axis {i} must be one of {', '.join(sorted(allowed))}",
                    f"POLNAME{i}",
                    "Run PSFEx with PSFVAR_KEYS X_IMAGE,Y_IMAGE",
                )
        zero, scale = ((self.number(f"{key}1"), self.number(f"{key}2")) for key in ("POLZERO", "POLSCAL"))
        return degree, zero, scale


@contextlib.contextmanager
def _open(path: Path) -> Iterator[Any]:
    """Open a FITS file so that every way of being broken is a `CorruptFileError`."""
    try:
        if path.stat().st_size == 0:
            raise CorruptFileError("the PSF file is empty", path=path, fix="Fetch or make the file again")
        with warnings.catch_warnings():
            # astropy only warns of a truncated file, and then reads what there is
            warnings.filterwarnings("error", message=".*truncated.*", category=AstropyUserWarning)
            warnings.filterwarnings("ignore", message="non-ASCII characters", category=AstropyUserWarning)
            with fits.open(path, memmap=False) as hdus:
                yield hdus
    except (OSError, EOFError, zlib.error, AstropyUserWarning, TypeError, ValueError) as error:
        if isinstance(error, SkygraftError):
            raise
        raise CorruptFileError(
            f"the PSF file cannot be read ({type(error).__name__}: {error})",
            path=path,
            fix="Check the path, and fetch or make the file again",
        ) from error


def _find_table(hdus: Any, path: Path, hdu: int | str | None) -> tuple[int, Any]:
    """Index and HDU of the table that holds PSF_MASK."""
    found = {
        i: item
        for i, item in enumerate(hdus)
        if isinstance(item, fits.BinTableHDU) and "PSF_MASK" in (name.upper() for name in item.columns.names)
    }
    names = ", ".join(f"{i} ({item.name or 'no name'})" for i, item in found.items())
    if not found:
        raise PsfError("no table of this file has a PSF_MASK column: it is not a PSFEx model", path=path)
    if hdu is None:
        if len(found) > 1:
            raise PsfError(f"several extensions hold a PSFEx model: {names}", path=path, fix="Say which with hdu=")
        return next(iter(found.items()))
    for i, item in found.items():
        if hdu == i or (isinstance(hdu, str) and hdu.upper() == item.name):
            return i, item
    raise PsfError(f"HDU {hdu!r} holds no PSFEx model; these do: {names}", path=path, hdu=hdu)


def _find_row(table: Any, path: Path, hdu: int, ccdname: str | None, expnum: int | None) -> int:
    """Row of the CCD asked for."""
    columns = {name.upper(): name for name in table.columns.names}
    n_rows = len(table.data)
    if n_rows == 0:
        raise PsfError("the PSFEx table has no rows", path=path, hdu=hdu)
    chosen = np.ones(n_rows, dtype=bool)
    ccds = expnums = None
    if "CCDNAME" in columns:
        ccds = np.char.strip(np.asarray(table.data[columns["CCDNAME"]], dtype=str))
        if ccdname is not None:
            chosen &= np.char.upper(ccds) == ccdname.strip().upper()
    if "EXPNUM" in columns:
        expnums = np.asarray(table.data[columns["EXPNUM"]])
        if expnum is not None:
            chosen &= expnums == expnum
    rows = np.flatnonzero(chosen)
    if rows.size == 1:
        return int(rows[0])
    holds = "CCDs " + ", ".join(map(str, ccds)) if ccds is not None else f"{n_rows} rows"
    if expnums is not None:
        holds += " of exposures " + ", ".join(map(str, np.unique(expnums)))
    asked = " ".join(f"{what} {value}" for what, value in (("CCD", ccdname), ("exposure", expnum)) if value is not None)
    if rows.size == 0:
        raise PsfError(
            f"PSF table for another CCD: {asked} was asked for, the table holds {holds}",
            path=path,
            hdu=hdu,
            key="ccdname",
            fix="Check which PSF file belongs to this image, or give one of the CCDs it holds",
        )
    raise PsfError(
        f"{rows.size} rows of the PSF table match {asked or 'no CCD in particular'}; it holds {holds}",
        path=path,
        hdu=hdu,
        key="ccdname",
        fix="Say which with ccdname= and expnum=",
    )
