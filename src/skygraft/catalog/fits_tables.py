"""Read FITS tables; scaled, unsigned and undefined integers are converted exactly."""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import MaskedColumn, Table
from numpy.typing import NDArray

from skygraft.catalog.columns import Refusal, refuse
from skygraft.catalog.text_tables import FETCH_AGAIN, read_packed
from skygraft.errors import CatalogError, CorruptFileError, SkygraftError
from skygraft.fitsfile.open import scan_fits
from skygraft.wording import shorten

__all__ = ["of_fits_data", "read_fits", "read_fits_table"]

_WHOLE = re.compile(r"\s*[01]?[BIJK]")


def read_fits(path: Path, hdu: int | str | None = None) -> Table:
    """Read the table of a FITS file.

    Parameters
    ----------
    path : Path
    hdu : int or str, optional
        The HDU of the table, needed if the file has several.

    Raises
    ------
    CatalogError
        If there is no table, the given HDU is not a table, or there are several and none is given.
    CorruptFileError
        If the file is truncated or damaged.
    """
    packed = path.suffix.lower() == ".gz"
    if not packed and path.stat().st_size % 2880:
        raise CorruptFileError("truncated: its size is not a multiple of 2880 bytes", path=path, fix=FETCH_AGAIN)
    content = read_packed(path) if packed else path.read_bytes()
    # astropy trusts the sizes in a header.
    scan_fits(memoryview(content), path)
    with _fits_errors(path), fits.open(io.BytesIO(content), memmap=False) as hdus:
        which = _table_hdu(hdus, path, hdu)
        found = hdus[which]
        problem = _structure_problem(found.header, content[found.fileinfo()["datLoc"] :])
        if problem:
            raise CorruptFileError(f"not a readable fits table: {problem}", path=path, hdu=which, fix=FETCH_AGAIN)
        return read_fits_table(found)


_ONCE = re.compile(r"XTENSION|BITPIX|NAXIS\d*|PCOUNT|GCOUNT|TFIELDS|THEAP|T(TYPE|FORM|UNIT|SCAL|ZERO|NULL|DIM|BCOL)\d+")
_NAMED = re.compile(r"T(?:TYPE|FORM)([0-9]+)")


def _structure_problem(header: fits.Header, data: bytes) -> str:
    """Describe a contradiction within a table's header, or with its data, other than sizes; ``""`` if there is none.

    astropy ignores such contradictions, for example rows beyond ``NAXIS2``.
    """
    twice = [key for key, n in Counter(card.keyword for card in header.cards).items() if n > 1 and _ONCE.fullmatch(key)]
    if twice:
        return f"the card {twice[0]} is there twice"
    n_fields = int(header["TFIELDS"])
    beyond = [key for key in header if (named := _NAMED.fullmatch(key)) and int(named[1]) > n_fields]
    if beyond:
        return f"there is a card {beyond[0]}, and TFIELDS is {n_fields}"
    size = int(header["NAXIS1"]) * int(header["NAXIS2"]) + int(header.get("PCOUNT", 0))
    if data[size : -(-size // 2880) * 2880].strip(b"\0 "):
        return "there are data behind the last row that NAXIS2 counts"
    for i in range(1, n_fields + 1):
        if not isinstance(name := header.get(f"TTYPE{i}"), str) or not name.strip():
            return f"field {i} has no name (TTYPE{i})"
        for key, absent in ((f"TSCAL{i}", 1), (f"TZERO{i}", 0)):
            value = header.get(key, absent)
            scales = isinstance(value, (int, float)) and not isinstance(value, bool) and np.isfinite(float(value))
            if not scales or (key.startswith("TSCAL") and value == 0):
                return f"{key} is {shorten(str(value))}, by which no number can be scaled"
    return ""


def _table_hdu(hdus: fits.HDUList, path: Path, hdu: int | str | None) -> int:
    tables = [i for i, h in enumerate(hdus) if isinstance(h, (fits.BinTableHDU, fits.TableHDU))]
    tables = [i for i in tables if not isinstance(hdus[i], fits.CompImageHDU)]
    names = [f"{i} ({hdus[i].name or 'unnamed'})" for i in tables]
    if hdu is not None:
        try:
            which = int(hdus.index_of(hdu))
        except (KeyError, IndexError):
            which = -1
        if which not in tables:
            raise CatalogError(
                f"HDU {hdu!r} is not a table; the file has {', '.join(names) or 'none'}",
                path=path,
                fix="Give one of these",
            )
        return which
    if not tables:
        raise CatalogError("the file holds no table", path=path, fix="Give a FITS file with a binary table")
    if len(tables) > 1:
        raise CatalogError(
            f"the file holds {len(tables)} tables: {', '.join(names)}", path=path, fix="Say which with hdu="
        )
    return tables[0]


@contextlib.contextmanager
def _fits_errors(path: Path) -> Iterator[None]:
    """Context in which astropy's exceptions about a damaged file become errors that name it; skygraft's errors pass."""
    with warnings.catch_warnings():
        # astropy's warnings about units and character codes do not affect the values.
        warnings.simplefilter("ignore")
        try:
            yield
        except SkygraftError as error:
            error.path = error.path or str(path)
            raise
        except MemoryError as error:
            raise CorruptFileError("the table claims more than memory holds", path=path, fix=FETCH_AGAIN) from error
        except Exception as error:  # astropy assumes complete headers, and may raise anything
            reason = " ".join(str(error).split()) or type(error).__name__
            raise CorruptFileError(f"not a readable fits table: {reason}", path=path, fix=FETCH_AGAIN) from error


def read_fits_table(hdu: Any) -> Table:
    """Read the table of an HDU whose data have not been accessed yet; its header is modified.

    astropy converts scaled integers to floats, which are exact only up to 2**53, and compares ``TNULL`` with the scaled
    instead of the stored numbers (FITS standard 4.0, section 7.3.2). Therefore integers are read unscaled, and scaled
    here.

    Parameters
    ----------
    hdu : BinTableHDU or TableHDU

    Returns
    -------
    Table
        Without columns whose name occurs twice (`skygraft.catalog.columns.refused`).
    """
    header = hdu.header
    n_fields = int(header.get("TFIELDS", 0))
    names = [str(header.get(f"TTYPE{i}", f"col{i}")).strip() for i in range(1, n_fields + 1)]
    twice = {name: n for name, n in Counter(names).items() if n > 1}
    unique = [f"{name} ({i})" if name in twice else name for i, name in enumerate(names)]
    scales = {}
    for i, name in enumerate(unique, start=1):
        if name != names[i - 1]:
            header[f"TTYPE{i}"] = name
        if isinstance(hdu, fits.BinTableHDU) and _WHOLE.fullmatch(str(header[f"TFORM{i}"])):
            scale, zero = header.pop(f"TSCAL{i}", 1), header.pop(f"TZERO{i}", 0)
            if (scale, zero) != (1, 0):
                scales[name] = scale, zero
    table = Table.read(hdu, format="fits")
    for name, (scale, zero) in scales.items():
        column = table[name]
        scaled = _scaled(np.ma.getdata(np.asarray(column)), np.ma.getmaskarray(np.ma.asarray(column)), scale, zero)
        table[name] = MaskedColumn(scaled, mask=getattr(column, "mask", False), unit=column.unit)
    for name, times in twice.items():
        for i, other in enumerate(names):
            if other == name:
                table.remove_column(unique[i])
        refuse(table, name, Refusal.twice(times))
    return table


def of_fits_data(data: fits.FITS_rec) -> Table:
    """Convert the data of an HDU in memory to a table.

    astropy has already scaled them. Columns of integers that were scaled to floats are left out, since undefined values
    and large integers can no longer be recovered.
    """
    table = Table()
    for column in data.columns:
        whole = _WHOLE.fullmatch(str(column.format)) is not None
        try:
            values = data.field(column.name)
        except Exception as error:  # astropy fails for some scales
            refuse(table, column.name, Refusal(f"cannot be read ({error})", _READ_FILE))
            continue
        if whole and values.dtype.kind == "f" and (column.null is not None or "K" in str(column.format)):
            refuse(table, column.name, Refusal("is of scaled whole numbers, no longer exact in memory", _READ_FILE))
            continue
        null = values == column.null if whole and column.null is not None else False
        if whole and values.dtype.kind == "u" and column.null is not None:
            null = data.view(np.ndarray)[data.dtype.names[data.columns.names.index(column.name)]] == column.null
        table[column.name] = MaskedColumn(values, mask=null, unit=column.unit)
    return table


_READ_FILE = "Read the file with skygraft.read_catalog, which takes the stored numbers"


def _scaled(raw: NDArray[Any], null: NDArray[np.bool_], scale: float, zero: float) -> NDArray[Any]:
    """Return ``raw * scale + zero``, as integers if scale and zero are integers."""
    if scale != 1 or int(zero) != zero:
        return np.asarray(raw.astype(np.float64) * scale + zero)
    raw, zero = np.where(null, 0, raw).astype(np.int64), int(zero)
    low, high = (int(raw.min()) + zero, int(raw.max()) + zero) if raw.size else (0, 0)
    for dtype in (np.int64, np.uint64):
        if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
            # Arithmetic modulo 2**64 gives the right sum if the result fits.
            return (raw.view(np.uint64) + np.uint64(zero % 2**64)).view(dtype)
    return np.array([value + zero for value in raw.tolist()], dtype=object)
