"""Check the index of ``lsst.images`` FITS files against the HDUs that the file has.

``lsst.images`` finds HDUs by the byte positions in the table ``INDEX``, and that table by the primary header; it does
not look at the names of what it finds there. Planes are often of the same size, so that a file whose HDUs were moved
(by a tool that knows nothing of the index) would give the variance where the image is asked for.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from skygraft.errors import CorruptFileError
from skygraft.fitsfile.cards import header_of
from skygraft.fitsfile.open import RawFits

__all__ = ["ADDRESSES", "check_index"]

ADDRESSES = ("HDRADDR", "DATADDR", "DATSIZE")
"""Last columns of the index, 8 bytes each."""
_FIX = "Copy the file again from where it was made: a program moved its HDUs without updating the index"


def check_index(raw: RawFits) -> None:
    """Raise unless the primary header and the index give the positions that the HDUs have.

    A file without an index, or with one of another layout, is left to the library that reads it.

    Raises
    ------
    CorruptFileError
        If a position or name differs, naming the HDU.
    """
    headers = [header_of(raw.header_cards(span.index)) for span in raw.spans]
    names = [str(header.get("EXTNAME", "")).strip() for header in headers]
    for key, name in (("JSONADDR", "JSON"), ("INDXADDR", "INDEX")):
        said = headers[0].get(key)
        starts = [span.start for span, found in zip(raw.spans, names, strict=True) if found == name]
        if said is not None and starts and said not in starts:
            raise CorruptFileError(
                f"{key} says that the HDU {name} begins at byte {said}, but it begins at {starts[0]}",
                path=raw.path, hdu=0, fix=_FIX,
            )  # fmt: skip
    for number, (name, rows) in enumerate(zip(names, map(_rows, headers), strict=True)):
        if name == "INDEX" and rows is not None:
            _check_rows(raw, number, rows, names)


def _rows(header: dict[str, Any]) -> tuple[int, int, int] | None:
    """Width of the name, of a row, and number of rows of an index; None if it is laid out in another way."""
    fields = header.get("TFIELDS")
    if not isinstance(fields, int) or not 4 <= fields <= 999:
        return None
    columns = [str(header.get(f"TTYPE{i}", "")) for i in range(1, fields + 1)]
    form = str(header.get("TFORM1", "")).strip()
    if columns[0] != "EXTNAME" or tuple(columns[-3:]) != ADDRESSES or form[-1:] != "A" or not form[:-1].isdigit():
        return None
    return int(form[:-1]), int(header["NAXIS1"]), int(header["NAXIS2"])


def _check_rows(raw: RawFits, number: int, layout: tuple[int, int, int], names: list[str]) -> None:
    length, width, n_rows = layout
    spans = {span.start: span for span in raw.spans}
    start = raw.spans[number].data_start
    if length + 24 > width or n_rows * width > raw.spans[number].data_size:
        raise CorruptFileError("the rows of the index are larger than the table", path=raw.path, hdu=number, fix=_FIX)
    for row in range(n_rows):
        cells = bytes(raw.buffer[start + row * width : start + (row + 1) * width])
        name = cells[:length].rstrip(b" \0").decode("ascii", "replace")
        header, data, _ = (int(v) for v in np.frombuffer(cells[-24:], ">i8"))
        span = spans.get(header)
        if span is None or names[span.index] != name or span.data_start != data:
            found = "no HDU begins there" if span is None else f"HDU {span.index} ({names[span.index]}) is there"
            raise CorruptFileError(
                f"the index says that {name or 'the primary HDU'} begins at byte {header} and its data at {data}, but "
                f"{found}" + ("" if span is None else f", with data at {span.data_start}"),
                path=raw.path, hdu=number, fix=_FIX,
            )  # fmt: skip
