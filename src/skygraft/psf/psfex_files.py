"""Reading PSFEx models: PSFEx's own `.psf` files, and the Legacy Surveys' tables with a row for each CCD."""

from __future__ import annotations

import gzip
import io
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.utils.exceptions import AstropyUserWarning
from numpy.typing import NDArray

from skygraft.errors import CorruptFileError, PsfError
from skygraft.fitsfile.open import scan_fits
from skygraft.psf.base import Box
from skygraft.psf.psfex import PsfexPSF

__all__ = ["read_psfex"]

_AXES = tuple({f"{axis}{kind}_IMAGE" for kind in ("", "WIN", "PSF", "MODEL", "PEAK")} for axis in ("X", "Y"))

_CARDS = (
    *(f"{key}{i}" for key in ("POLNAME", "POLZERO", "POLSCAL") for i in (1, 2)),
    *(f"PSFAXIS{i}" for i in (1, 2, 3)),
    *("POLNAXIS", "POLNGRP", "POLDEG1", "PSF_SAMP", "ACCEPTED"),
)

_MAX_STEP = 100.0


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
    table = _find_table(_read_tables(path), path, hdu)
    row = _find_row(table, path, ccdname, expnum)
    reader = _Row(path, table, row)
    mask = reader.mask()
    degree, zero, scale = reader.polynomial()
    step = reader.number("PSF_SAMP")
    if reader.value("ACCEPTED", 1) == 0:
        raise reader.error("no star was accepted for this PSFEx model", "ACCEPTED")
    x0, y0 = xy0
    n_terms = (degree + 1) * (degree + 2) // 2
    if len(mask) != n_terms:
        raise reader.error(f"{len(mask)} images for a polynomial of degree {degree}, which has {n_terms}", "PSF_MASK")
    if not 0 < step < _MAX_STEP:
        raise reader.error(f"a sampling step of {step:g} pixels", "PSF_SAMP")
    if degree and min(scale) <= 0:
        raise reader.error(f"a scale of {scale} pixels", "POLSCAL1")
    try:
        return PsfexPSF(mask, degree, (zero[0] - 1 + x0, zero[1] - 1 + y0), scale, step, valid_box=valid_box)
    except PsfError as error:
        error.path, error.hdu, error.row = os.fspath(path), table.index, row
        raise


@dataclass(frozen=True)
class _Table:
    """A table of a file: its HDU, the header cards that are used, and its columns by upper-case name."""

    index: int
    name: str
    cards: dict[str, Any]
    columns: dict[str, NDArray[Any]]
    n_rows: int


class _Row:
    """The quantities of one model, from the columns of its row or the cards of the header."""

    def __init__(self, path: Path, table: _Table, row: int) -> None:
        self.path, self.table, self.row = path, table, row

    def error(self, message: str, key: str, fix: str | None = None) -> PsfError:
        return PsfError(
            message,
            path=self.path,
            hdu=self.table.index,
            row=self.row,
            key=key,
            fix=fix or "Give another PSF model for this image",
        )

    def value(self, key: str, default: Any = None) -> Any:
        """Look up a cell or card; text is stripped."""
        columns = self.table.columns
        value = columns[key][self.row] if key in columns else self.table.cards.get(key, default)
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
        stored = np.asarray(self.value("PSF_MASK"))
        if stored.dtype.kind not in "fiu":
            raise self.error(f"the PSFEx model's images are {stored.dtype.name} values, no numbers", "PSF_MASK")
        mask = stored.astype(np.float64)
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


def _read_tables(path: Path) -> list[_Table]:
    """Read every table of a FITS file; damage of any kind raises a `CorruptFileError`."""
    try:
        content = path.read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
        # astropy trusts the sizes in a header.
        scan_fits(memoryview(content), path)
        with warnings.catch_warnings():
            # astropy only warns of a truncated file, and reads what there is.
            warnings.simplefilter("ignore", AstropyUserWarning)
            warnings.filterwarnings("error", ".*(truncated|Error validating)", AstropyUserWarning)
            # From memory: where opening a path fails, astropy leaves the file open.
            with fits.open(io.BytesIO(content)) as hdus:
                return [_table(i, hdu) for i, hdu in enumerate(hdus) if isinstance(hdu, fits.BinTableHDU)]
    except CorruptFileError:
        raise
    except Exception as error:  # astropy raises anything from KeyError to UnboundLocalError on a damaged header
        raise CorruptFileError(
            f"the PSF file cannot be read ({type(error).__name__}: {error})",
            path=path,
            fix="Check the path, and fetch or make the file again",
        ) from error


def _table(index: int, hdu: Any) -> _Table:
    return _Table(
        index,
        hdu.name,
        {key: hdu.header[key] for key in _CARDS if key in hdu.header},
        {str(name).upper(): np.asarray(hdu.data[name]) for name in hdu.columns.names},
        len(hdu.data),
    )


def _find_table(tables: list[_Table], path: Path, hdu: int | str | None) -> _Table:
    """Find the table that has the column PSF_MASK."""
    found = [table for table in tables if "PSF_MASK" in table.columns]
    names = ", ".join(f"{table.index} ({table.name or 'no name'})" for table in found)
    if not found:
        raise PsfError(
            "no table of this file has a PSF_MASK column: it is not a PSFEx model",
            path=path,
            fix="Give the PSFEx file that belongs to this image",
        )
    if hdu is None:
        if len(found) > 1:
            raise PsfError(f"several extensions hold a PSFEx model: {names}", path=path, fix="Say which with hdu=")
        return found[0]
    for table in found:
        if hdu == table.index or (isinstance(hdu, str) and hdu.upper() == table.name):
            return table
    raise PsfError(
        f"HDU {hdu!r} holds no PSFEx model; these do: {names}", path=path, hdu=hdu, fix="Give one of these as hdu="
    )


def _find_row(table: _Table, path: Path, ccdname: str | None, expnum: int | None) -> int:
    """Find the row of the CCD asked for."""
    columns, n_rows, hdu = table.columns, table.n_rows, table.index
    if n_rows == 0:
        raise PsfError("the PSFEx table has no rows", path=path, hdu=hdu, fix="Fetch or make the file again")
    chosen = np.ones(n_rows, dtype=bool)
    ccds = expnums = None
    if "CCDNAME" in columns:
        names = columns["CCDNAME"]
        names = np.char.decode(names, "ascii", "backslashreplace") if names.dtype.kind == "S" else names.astype(str)
        ccds = np.char.strip(names)
        if ccdname is not None:
            chosen &= np.char.upper(ccds) == ccdname.strip().upper()
    if "EXPNUM" in columns:
        expnums = columns["EXPNUM"]
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
