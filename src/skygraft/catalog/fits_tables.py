"""FITS tables, with scaled, unsigned and undefined whole numbers exactly as the file has them."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import MaskedColumn, Table
from numpy.typing import NDArray

from skygraft.catalog.columns import Refusal, refuse

__all__ = ["of_fits_data", "read_fits_table"]

_WHOLE = re.compile(r"\s*[01]?[BIJK]")


def read_fits_table(hdu: Any) -> Table:
    """The table of an HDU whose data nobody has read yet; its header is changed.

    astropy makes floating-point numbers of scaled whole ones, which end at 2**53, and compares ``TNULL`` with them
    where it is meant for the stored ones (FITS standard 4.0, section 7.3.2). So whole numbers are read as they are
    stored, and are scaled here.

    Parameters
    ----------
    hdu : BinTableHDU or TableHDU

    Returns
    -------
    Table
        Columns of a name that occurs twice are kept out (`skygraft.catalog.columns.refused`).
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
    """The table of an HDU's data in memory.

    astropy has scaled them already, and whole numbers that were scaled to floating-point ones no longer tell what was
    undefined, or exactly which large number it was: such columns are kept out.
    """
    table = Table()
    for column in data.columns:
        whole = _WHOLE.fullmatch(str(column.format)) is not None
        try:
            values = data.field(column.name)
        except Exception as error:  # astropy stumbles over some scales
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
    """``raw * scale + zero``, whole where both are."""
    if scale != 1 or int(zero) != zero:
        return np.asarray(raw.astype(np.float64) * scale + zero)
    raw, zero = np.where(null, 0, raw).astype(np.int64), int(zero)
    low, high = (int(raw.min()) + zero, int(raw.max()) + zero) if raw.size else (0, 0)
    for dtype in (np.int64, np.uint64):
        if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
            # Modulo 2**64, in which the sum is right where it fits.
            return (raw.view(np.uint64) + np.uint64(zero % 2**64)).view(dtype)
    return np.array([value + zero for value in raw.tolist()], dtype=object)
