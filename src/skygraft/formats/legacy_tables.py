"""The Legacy Surveys' files about CCD images: the survey-ccds table, PSF models and weights.

Layout of a survey directory ("root"): ``survey-ccds*.fits[.gz]``, ``images/<image_filename>``, and ``calib/psfex`` or
``calib/<camera>/psfex`` for the PSF models (https://www.legacysurvey.org/dr9/files/).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from skygraft.errors import FormatError
from skygraft.fitsfile.open import open_fits
from skygraft.formats.base import StrPath, identify_files
from skygraft.places import is_file, is_folder, names_in

__all__ = ["CcdRow", "CcdsTable", "beside", "find_ccds", "find_psfex", "find_root", "find_row", "read_ccds"]

_COLUMNS = ("image_filename", "image_hdu", "camera", "expnum", "ccdname", "filter", "exptime", "zpt", "ccdzpt")
_OPTIONAL = ("mjd_obs", "gain", "fwhm", "ccdraoff", "ccddecoff")
_NEEDED = ("image_filename", "camera", "expnum", "ccdname", "filter", "exptime")


@dataclass(frozen=True)
class CcdRow:
    """The row of a survey-ccds table for one CCD image.

    Parameters
    ----------
    table : Path
        The table.
    row : int
        Number of the row, 0-based.
    values : dict
        Values by column name (lower case); columns that the table does not have are absent.
    """

    table: Path
    row: int
    values: dict[str, Any]

    def number(self, name: str) -> float | None:
        """Return a finite number, or None if the column is absent or its value is not finite."""
        value = self.values.get(name)
        return None if value is None or not np.isfinite(value) else float(value)

    def text(self, name: str) -> str:
        """Return a string without padding; "" if the column is absent."""
        return str(self.values.get(name, "")).strip()

    @property
    def origin(self) -> str:
        """Row and table, for messages."""
        return f"row {self.row} of {self.table.name}"


@dataclass(frozen=True, eq=False)
class CcdsTable:
    """The columns of a survey-ccds table that calibrate images.

    Parameters
    ----------
    path : Path
        The table.
    columns : dict
        Values by column name.
    """

    path: Path
    columns: dict[str, NDArray[Any]]

    def __len__(self) -> int:
        return len(self.columns["image_filename"])

    @property
    def _by_name(self) -> dict[str, list[int]]:
        return _index(self)

    def rows_of(self, path: Path) -> list[int]:
        """Return the rows of an image file: its path ends with their image_filename, or else only the name is equal."""
        rows = self._by_name.get(path.name, [])
        names = self.columns["image_filename"]
        whole = "/" + path.absolute().as_posix().lstrip("/")
        exact = [row for row in rows if whole.endswith("/" + str(names[row]).lstrip("/"))]
        return exact or rows

    def row(self, index: int) -> CcdRow:
        """Return one row."""
        values = {name: column[index].item() for name, column in self.columns.items()}
        return CcdRow(self.path, index, values)


@lru_cache(maxsize=16)
def _index(table: CcdsTable) -> dict[str, list[int]]:
    rows: dict[str, list[int]] = {}
    for i, name in enumerate(table.columns["image_filename"]):
        rows.setdefault(str(name).rsplit("/", 1)[-1], []).append(i)
    return rows


def read_ccds(path: StrPath) -> CcdsTable:
    """Read a survey-ccds table; it is cached until the file changes.

    Raises
    ------
    CorruptFileError
        If the file is missing or damaged.
    FormatError
        If it is not a survey-ccds table.
    """
    stamp = identify_files([path])[os.fspath(path)]
    return _read_ccds(os.fspath(path), stamp.n_bytes, stamp.mtime_ns)


@lru_cache(maxsize=16)
def _read_ccds(path: str, n_bytes: int, mtime_ns: int) -> CcdsTable:
    with open_fits(path, memmap=False) as hdus:
        data = hdus[1].data if len(hdus) > 1 and isinstance(hdus[1], fits.BinTableHDU) else None
        names = {str(n).lower(): str(n) for n in (data.names or ())} if data is not None else {}
        missing = [name for name in _NEEDED if name not in names]
        if data is None or missing:
            raise FormatError(
                f"this is not a survey-ccds table: it has no {', '.join(missing)}",
                path=path,
                fix="Give the survey-ccds table of the Legacy Surveys as ccds=",
            )
        columns: dict[str, NDArray[Any]] = {}
        for name in (*_COLUMNS, *_OPTIONAL):
            if name in names:
                values = np.asarray(data[names[name]])
                if values.dtype.kind in "SU":
                    columns[name] = np.char.strip(values.astype(np.str_))
                else:
                    columns[name] = values.astype(values.dtype.newbyteorder("="))
        return CcdsTable(Path(path), columns)


def find_ccds(image: Path, given: StrPath | Sequence[StrPath] | None) -> tuple[Path, ...]:
    """Find the survey-ccds tables of an image: the given ones, or those in the nearest directory above it that has any.

    Parameters
    ----------
    image : Path
        The image's file.
    given : path-like or sequence of path-like, optional
        Tables given by the caller.

    Raises
    ------
    FormatError
        If there is none.
    """
    if given is not None:
        listed: Iterable[StrPath] = [given] if isinstance(given, str | os.PathLike) else given
        found = [Path(p) for p in listed]
        for path in found:
            if not is_file(path):
                raise FormatError("there is no such survey-ccds table", path=path, key="ccds", fix="Correct ccds=")
        return tuple(found)
    for folder in image.absolute().parents:
        names = names_in(folder, "survey-ccds*.fits*")
        # The .kd.fits files hold the same rows and a search tree; a folder may have nothing but them.
        names = [name for name in names if ".kd." not in name] or names
        if names:
            return tuple(path for name in names if is_file(path := folder / name))
    raise FormatError(
        "there is no survey-ccds table in any directory above the image, so its zeropoint is not known",
        path=image,
        fix="Give ccds= (the path of the survey-ccds table), or, by hand, format='fits' with zeropoint= (the AB "
        "magnitude of one image unit; the header's MAGZERO is not that)",
    )


def find_row(image: Path, tables: Sequence[Path], *, ccdname: str, hdu: int) -> CcdRow:
    """Find the row of a CCD image.

    Parameters
    ----------
    image : Path
        The image's file.
    tables : sequence of Path
        Tables to search.
    ccdname : str
        Name of the CCD: EXTNAME of its HDU.
    hdu : int
        Number of the HDU, used only if the HDU has no name.

    Returns
    -------
    CcdRow

    Raises
    ------
    FormatError
        If no row, or more than one, matches the image.
    """
    found: list[CcdRow] = []
    others: list[str] = []
    for path in tables:
        table = read_ccds(path)
        for index in table.rows_of(image):
            row = table.row(index)
            # image_hdu refers to the complete file; in a cut-out only the name of the CCD is reliable.
            same = row.text("ccdname").upper() == ccdname.upper() if ccdname else row.number("image_hdu") == hdu
            if same:
                found.append(row)
            else:
                others.append(row.text("ccdname"))
    if len(found) == 1:
        return found[0]
    names = ", ".join(str(path) for path in tables)
    if not found:
        has = f" (it has CCDs {', '.join(others[:8])} of this file)" if others else ""
        raise FormatError(
            f"CCD {ccdname or hdu!r} of this image has no row in {names}{has}",
            path=image,
            hdu=hdu,
            fix="Give the survey-ccds table that lists it as ccds=",
        )
    raise FormatError(
        f"CCD {ccdname or hdu!r} of this image has {len(found)} rows: " + ", ".join(row.origin for row in found[:4]),
        path=image,
        hdu=hdu,
        fix="Give one table as ccds=, and remove the duplicate",
    )


def find_root(image: Path, table: Path) -> Path:
    """Find the survey directory of an image.

    It is the first directory with ``calib`` among the table's and those above the image, otherwise the table's.
    """
    own = table.absolute().parent
    folders = (own, *image.absolute().parents)
    return next((folder for folder in folders if is_folder(folder / "calib")), own)


def find_psfex(root: Path, row: CcdRow) -> tuple[Path | None, tuple[Path, ...]]:
    """Find the PSFEx model of a CCD image.

    The layouts are tried from the newest: one file per CCD, one file per exposure with a row per CCD, and the layouts
    of the first data releases, by exposure number.

    Parameters
    ----------
    root : Path
        The survey directory.
    row : CcdRow
        Row of the CCD.

    Returns
    -------
    found : Path or None
        The model.
    tried : tuple of Path
        All paths that were tried.
    """
    name = Path(row.text("image_filename"))
    base, ccd, camera = name.name.split(".")[0], row.text("ccdname"), row.text("camera")
    number = f"{int(row.values['expnum']):08d}"
    calib = root / "calib"
    looked = (
        calib / "psfex-single" / name.parent / base / f"{base}-{ccd}-psfex.fits",
        calib / "psfex" / name.parent / f"{base}-psfex.fits",
        calib / camera / "psfex-single" / number[:5] / number / f"{camera}-{number}-{ccd}.fits",
        calib / camera / "psfex" / number[:5] / number / f"{camera}-{number}-{ccd}.fits",
        # DR3 and DR4 called the models of all cameras so.
        calib / camera / "psfex" / number[:5] / number / f"decam-{number}-{ccd}.fits",
        calib / camera / "psfex-merged" / number[:5] / f"{camera}-{number}.fits",
        calib / camera / "psfex" / number[:5] / f"{camera}-{number}.fits",
    )
    return next((path for path in looked if is_file(path)), None), looked


def beside(image: Path, kind: str) -> Path:
    """Return the path of a companion (``oow``, ``ood`` or ``injected``) of an ``_ooi_`` image."""
    head, _, tail = image.name.rpartition("_ooi_")
    return image.with_name(f"{head}_{kind}_{tail}")
