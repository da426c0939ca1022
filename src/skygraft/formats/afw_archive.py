"""Read the object archive of an LSST afw FITS file: an index HDU, and tables whose rows are parts of objects.

No survey software is needed, and nothing in an archive is executed: pickled objects are returned as bytes.
"""

from __future__ import annotations

import functools
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from skygraft.errors import CorruptFileError, FormatError
from skygraft.fitsfile.cards import card_value, header_of
from skygraft.fitsfile.open import RawFits

__all__ = ["Archive", "ArchivedObject", "Row", "Table", "component_id"]


_DTYPES = {"B": ">u1", "I": ">i2", "J": ">i4", "K": ">i8", "E": ">f4", "D": ">f8", "C": ">c8", "M": ">c16"}
_FORM = re.compile(r"(\d*)([LXBIJKAEDCMPQ])([A-Z]?)")
_NOT_SAVED = -1
"""Row number in the index for an object that was saved without data."""


class Row(dict[str, Any]):
    """Values of one row by column name: numbers, strings, arrays; packed flags are separate columns."""

    def __init__(self, values: Mapping[str, Any], path: os.PathLike[str], hdu: int) -> None:
        super().__init__(values)
        self._path, self._hdu = path, hdu

    def __missing__(self, key: str) -> Any:
        # Archives before 2014 store a point in one column of two numbers.
        vector = self.get(key[:-2]) if key.endswith(("_x", "_y")) else None
        if isinstance(vector, np.ndarray) and vector.shape == (2,):
            return vector["xy".index(key[-1])].item()
        raise FormatError(
            f"the table has no column {key!r}; it has {', '.join(self)}",
            path=self._path,
            hdu=self._hdu,
            key=key,
            fix="It was written by a version of the pipelines that is not known here",
        )


@dataclass(frozen=True)
class _Column:
    name: str
    offset: int
    repeat: int
    code: str
    element: str
    scale: float
    zero: float

    @property
    def width(self) -> int:
        if self.code == "X":
            return (self.repeat + 7) // 8
        if self.code in "LA":
            return self.repeat
        if self.code in "PQ":
            return self.repeat * (8 if self.code == "P" else 16)
        return self.repeat * np.dtype(_DTYPES[self.code]).itemsize


class Table:
    """A FITS binary table that is read row by row.

    Parameters
    ----------
    raw : RawFits
        The file.
    hdu : int
        Number of the table's HDU, 0-based.

    Raises
    ------
    FormatError
        If the HDU is not a binary table.
    """

    def __init__(self, raw: RawFits, hdu: int) -> None:
        self.path, self.hdu = raw.path, hdu
        self.header = header_of(raw.header_cards(hdu))
        if self.header.get("XTENSION") != "BINTABLE":
            raise FormatError("this HDU should be a table of the object archive, and is none", path=raw.path, hdu=hdu)
        self.n_rows = int(self.header["NAXIS2"])
        self._width = int(self.header["NAXIS1"])
        span = raw.spans[hdu]
        self._data = raw.buffer[span.data_start : span.data_start + span.data_size]
        self._heap = self._data[int(self.header.get("THEAP", self._width * self.n_rows)) :]
        self._columns = self._read_columns()
        self._flags = {
            # Not `items`: astropy parses a card when its value is asked for.
            int(key[5:]) - 1: str(self.header[key])
            for key in self.header
            if re.fullmatch(r"TFLAG\d+", key)
        }

    def _read_columns(self) -> list[_Column]:
        columns: list[_Column] = []
        offset = 0
        for i in range(1, int(self.header["TFIELDS"]) + 1):
            form = str(self.header[f"TFORM{i}"]).strip()
            match = _FORM.match(form)
            if match is None:
                raise FormatError(f"{form!r} is not a column format", path=self.path, hdu=self.hdu, key=f"TFORM{i}")
            count, code, element = match.groups()
            column = _Column(
                str(self.header.get(f"TTYPE{i}", f"col{i}")).strip(),
                offset,
                int(count) if count else 1,
                code,
                element,
                float(card_value(self.header, f"TSCAL{i}", 1.0)),
                float(card_value(self.header, f"TZERO{i}", 0.0)),
            )
            columns.append(column)
            offset += column.width
        return columns

    @property
    def names(self) -> list[str]:
        """Names of the columns, including those of packed flags."""
        return [*self._flags.values(), *(c.name for c in self._columns if c.code != "X")]

    def row(self, index: int) -> Row:
        """Return one row.

        Raises
        ------
        FormatError
            If there is no such row, or its descriptors point outside the table's data.
        """
        if not 0 <= index < self.n_rows:
            raise FormatError(
                f"the archive refers to row {index} of a table of {self.n_rows}",
                path=self.path,
                hdu=self.hdu,
                fix="The file is damaged: copy or download it again",
            )
        cells = self._data[index * self._width : (index + 1) * self._width]
        row: dict[str, Any] = {}
        for column in self._columns:
            cell = cells[column.offset : column.offset + column.width]
            if column.code == "X":
                bits = np.unpackbits(np.frombuffer(cell, np.uint8))
                row.update({name: bool(bits[bit]) for bit, name in self._flags.items() if bit < bits.size})
            elif column.code in "PQ":
                row[column.name] = self._from_heap(column, cell)
            else:
                row[column.name] = _decode(column, column.code, cell, scalar=column.repeat == 1)
        return Row(row, self.path, self.hdu)

    def rows(self, start: int = 0, count: int | None = None) -> list[Row]:
        """Return consecutive rows, by default all."""
        return [self.row(i) for i in range(start, start + (self.n_rows if count is None else count))]

    def _from_heap(self, column: _Column, cell: memoryview) -> Any:
        count, offset = (int(v) for v in np.frombuffer(cell, ">u4" if column.code == "P" else ">i8")[:2])
        width = 1 if column.element in "LA" else np.dtype(_DTYPES[column.element]).itemsize
        if offset < 0 or offset + count * width > len(self._heap):
            raise FormatError(
                f"a cell of column {column.name!r} lies outside of the table's data",
                path=self.path,
                hdu=self.hdu,
                fix="The file is damaged: copy or download it again",
            )
        return _decode(column, column.element, self._heap[offset : offset + count * width], scalar=False)


def _decode(column: _Column, code: str, cell: memoryview, *, scalar: bool) -> Any:
    if code == "A":
        return bytes(cell).split(b"\0")[0].decode("utf-8", "replace").rstrip()
    if code == "L":
        flags = np.frombuffer(cell, np.uint8) == ord("T")
        return bool(flags[0]) if scalar else flags
    dtype = np.dtype(_DTYPES[code])
    values: NDArray[Any] = np.frombuffer(cell, dtype).astype(dtype.newbyteorder("="))
    if column.scale != 1 or column.zero != 0:
        whole = dtype.kind in "iu" and column.scale == 1 and column.zero == math.trunc(column.zero)
        # An unsigned 64-bit id: int64 wraps around to the right bits.
        values = values.astype(np.int64) + int(column.zero) if whole else values * column.scale + column.zero
    return values[0].item() if scalar else values


@dataclass(frozen=True)
class ArchivedObject:
    """One object of an archive, as it is stored.

    Parameters
    ----------
    id : int
        Its number in the archive.
    name : str
        Name of its class, such as ``"SkyWcs"``.
    catalogs : tuple of lists of rows
        Its parts, in the order defined by its class.
    hdu : int
        Number (0-based) of the HDU with the first part.
    path : path-like
        The file.
    """

    id: int
    name: str
    catalogs: tuple[list[Row], ...]
    hdu: int

    path: os.PathLike[str]

    def row(self, part: int = 0) -> Row:
        """Return the first row of one of its parts.

        Raises
        ------
        FormatError
            If there is no such row.
        """
        if len(self.catalogs) <= part or not self.catalogs[part]:
            raise FormatError(
                f"object {self.id} of the archive, a {self.name}, has no data in part {part}",
                path=self.path,
                hdu=self.hdu,
            )
        return self.catalogs[part][0]


class Archive:
    """The object archive of an afw file.

    Parameters
    ----------
    raw : RawFits
        The file; it must stay open while objects are read.
    index_hdu : int
        Number of the index HDU, 0-based: header card AR_HDU of the primary HDU, less one.

    Raises
    ------
    CorruptFileError
        If HDUs of the archive are missing at the end of the file.
    FormatError
        If the HDU is not an archive's index.
    """

    def __init__(self, raw: RawFits, index_hdu: int) -> None:
        if not 0 < index_hdu < len(raw.spans):
            raise CorruptFileError(
                f"the object archive should be in HDU {index_hdu} (0-based); the file has {len(raw.spans)} HDUs",
                path=raw.path,
                hdu=0,
                key="AR_HDU",
                fix="The file is not whole: copy or download it again",
            )
        self._raw = raw
        self._index_hdu = index_hdu
        index = Table(raw, index_hdu)
        # The first version of afw's tables replaced dots by underscores.
        rows = [
            Row({key.replace("cat_", "cat."): value for key, value in row.items()}, raw.path, index_hdu)
            for row in index.rows()
        ]
        names = {name.replace("cat_", "cat.") for name in index.names}
        if not {"id", "cat.archive", "cat.persistable", "row0", "nrows", "name"} <= names:
            raise FormatError(
                "this table is not the index of an object archive", path=raw.path, hdu=index_hdu, key="AR_HDU"
            )
        count = int(card_value(index.header, "AR_NCAT", 1))
        if index_hdu + count > len(raw.spans):
            raise CorruptFileError(
                f"the file is truncated: of the {count} HDUs of its object archive it has {len(raw.spans) - index_hdu}",
                path=raw.path,
                hdu=index_hdu,
                key="AR_NCAT",
                fix="The file is not whole: copy or download it again",
            )
        self._entries: dict[int, list[Row]] = {}
        for row in rows:
            self._entries.setdefault(int(row["id"]), []).append(row)

    @property
    def path(self) -> os.PathLike[str]:
        """Path of the file."""
        return self._raw.path

    @property
    def names(self) -> dict[int, str]:
        """Class names by object number."""
        return {key: str(rows[0]["name"]) for key, rows in self._entries.items()}

    def __contains__(self, key: object) -> bool:
        return key in self._entries

    @functools.cached_property
    def _tables(self) -> dict[int, Table]:
        return {}

    def _table(self, number: int) -> Table:
        if number not in self._tables:
            hdu = self._index_hdu + number
            if not self._index_hdu < hdu < len(self._raw.spans):
                raise CorruptFileError(
                    f"the archive refers to HDU {hdu}; the file has {len(self._raw.spans)}",
                    path=self.path,
                    hdu=self._index_hdu,
                    fix="The file is not whole: copy or download it again",
                )
            self._tables[number] = Table(self._raw, hdu)
        return self._tables[number]

    def get(self, key: int) -> ArchivedObject:
        """Return an object by its number.

        Raises
        ------
        FormatError
            If the archive does not contain it, or the index is wrong about its parts.
        """
        if key not in self._entries:
            raise FormatError(
                f"the archive has no object {key}",
                path=self.path,
                hdu=self._index_hdu,
                fix="The file is damaged: copy or download it again",
            )
        entries = sorted(self._entries[key], key=lambda row: int(row["cat.persistable"]))
        name = str(entries[0]["name"])
        for row in entries:
            table = None if row["row0"] == _NOT_SAVED else self._table(int(row["cat.archive"]))
            holds = name if table is None else card_value(table.header, "AR_NAME", name)
            if table is not None and holds != name:
                raise CorruptFileError(
                    f"object {key} of the archive is a {name}, and the table that it should lie in holds a {holds}",
                    path=self.path,
                    hdu=table.hdu,
                    key="AR_NAME",
                    fix="HDUs are missing, or not in their order: copy or download the file again",
                )
        catalogs = tuple(
            [] if row["row0"] == _NOT_SAVED else self._table(int(row["cat.archive"])).rows(row["row0"], row["nrows"])
            for row in entries
        )
        hdu = self._index_hdu + max(int(entries[0]["cat.archive"]), 0)
        return ArchivedObject(key, name, catalogs, hdu, self.path)

    def find(self, name: str) -> list[ArchivedObject]:
        """Return all objects of a class, in the order of their numbers."""
        return [self.get(key) for key, found in sorted(self.names.items()) if found == name]


def component_id(header: fits.Header, name: str, path: str | os.PathLike[str] | None = None) -> int:
    """Return the number of an exposure's component in the archive from the primary header, 0 if it has none.

    Parameters
    ----------
    header : astropy.io.fits.Header
        Primary header.
    name : str
        Component, such as ``"PSF"``.
    path : path-like, optional
        For errors.

    Raises
    ------
    FormatError
        If the two cards that give the number differ.
    """
    keys = f"ARCHIVE_ID_{name}", f"{name}_ID"
    found = {key: value for key in keys if (value := card_value(header, key)) is not None}
    if len(set(found.values())) > 1:
        cards = " and ".join(f"{key} = {value}" for key, value in found.items())
        raise FormatError(
            f"two cards say which object of the archive is the {name}, and disagree: {cards}",
            path=path,
            hdu=0,
            key=keys[1],
            fix="Copy or download the file again",
        )
    return int(next(iter(found.values()), 0))
