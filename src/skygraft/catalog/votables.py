"""Read VOTables (IVOA recommendation 1.5) strictly: data must be in the file itself and have the type of their field.

astropy's reader is lenient: it converts text in a column of numbers to NaN, truncates integers and strings to the size
of their type, drops short rows, and opens any file or address that a table refers to.
"""

from __future__ import annotations

import binascii
import difflib
import itertools
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.parsers import expat

import numpy as np
import pyarrow as pa
from astropy.table import MaskedColumn, Table
from numpy.typing import NDArray

from skygraft.catalog.arrow_arrays import numpy_array, texts_of
from skygraft.catalog.columns import Refusal, parse_unit, refuse
from skygraft.catalog.text_tables import FETCH_AGAIN, FLOAT, INTEGER, SPECIAL, read_packed, without_repeated
from skygraft.errors import CatalogError, CorruptFileError, SkygraftError
from skygraft.lazy import lazy_module
from skygraft.wording import shorten

pc = lazy_module("pyarrow.compute")

__all__ = ["Field", "parse_votable", "read_votable"]

_DTYPES = {
    "boolean": ">S1", "bit": ">u1", "unsignedByte": ">u1", "short": ">i2", "int": ">i4", "long": ">i8", "char": ">S1",
    "unicodeChar": ">u2", "float": ">f4", "double": ">f8", "floatComplex": ">c8", "doubleComplex": ">c16",
}  # fmt: skip
_WHOLE = ("unsignedByte", "short", "int", "long")
_TEXT = ("char", "unicodeChar")
_ATTRIBUTES = (
    "ID",
    "unit",
    "datatype",
    "precision",
    "width",
    "xtype",
    "ref",
    "name",
    "ucd",
    "utype",
    "arraysize",
    "type",
)
_SIZE = re.compile(r"([0-9]+x)*([0-9]+\*?|\*)")
_TRUE, _FALSE, _UNKNOWN = ("t", "true", "1"), ("f", "false", "0"), ("", "?")
_CHUNK_ROWS = 65536
_MAX_DEPTH = 100


@dataclass(frozen=True)
class Field:
    """A FIELD: a column's name, type and unit.

    Parameters
    ----------
    name, kind, unit : str
        `kind` is the datatype; `unit` is ``""`` for none.
    size : int
        Number of elements in a cell; 0 for any number.
    many : bool
        Whether a cell contains several values (numbers or strings).
    null : str
        The value that means missing; ``""`` for no such value.
    """

    name: str
    kind: str
    unit: str = ""
    size: int = 1
    many: bool = False
    null: str = ""


class _Parser:
    """Handlers that expat calls for each element; they raise if the document is not a valid VOTable."""

    def __init__(self, path: Path | str) -> None:
        self.path = path
        self.n_tables = 0
        self.fields: list[Field] = []
        self.storage = ""
        self.n_rows = -1
        self.stream: list[str] = []
        self._pieces: list[list[pa.Array]] = []
        self._rows: list[list[str]] = []
        self._row: list[str] | None = None
        self._text: list[str] | None = None
        self._open: list[str] = []
        self._expat: Any = expat.ParserCreate()
        self._expat.buffer_text = True
        self._expat.StartElementHandler = self._start
        self._expat.EndElementHandler = self._end
        self._expat.CharacterDataHandler = self._characters
        self._expat.EntityDeclHandler = self._entity

    def parse(self, content: bytes) -> None:
        """Parse the document."""
        try:
            self._expat.Parse(content, True)
        except (expat.ExpatError, LookupError, ValueError) as error:  # LookupError for an unknown encoding
            if isinstance(error, SkygraftError):
                raise
            raise CorruptFileError(f"not a readable votable: {error}", path=self.path, fix=FETCH_AGAIN) from error

    def columns(self) -> list[pa.Array]:
        """Return the cells of TABLEDATA by column, as text without surrounding blanks."""
        self._flush()
        parts = [list(pieces) for pieces in zip(*self._pieces, strict=True)] or [[] for _ in self.fields]
        return [pc.utf8_trim_whitespace(pa.concat_arrays(p) if p else pa.array([], pa.string())) for p in parts]

    def error(
        self, reason: str, fix: str = FETCH_AGAIN, *, row: int | None = None, key: str | None = None
    ) -> CorruptFileError:
        """Return an error that names the current line of the file."""
        line = self._expat.CurrentLineNumber
        return CorruptFileError(
            f"not a readable votable: {reason} (line {line})", path=self.path, row=row, key=key, fix=fix
        )

    def _entity(self, name: str, *_: Any) -> None:
        raise self.error(f"it declares an entity {shorten(name)!r}", "Write the table without a DTD of its own")

    def _characters(self, text: str) -> None:
        if self._text is not None:
            self._text.append(text)
        elif self._open and self._open[-1] in ("TR", "TABLEDATA") and text.strip():
            raise self.error(f"there is text outside of a TD: {shorten(text)}")

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        name = tag.rpartition(":")[2]
        parent = self._open[-1] if self._open else ""
        self._open.append(name)
        if len(self._open) > _MAX_DEPTH:
            raise self.error(f"elements are nested more than {_MAX_DEPTH} deep")
        if len(self._open) == 1 and name != "VOTABLE":
            raise self.error(f"the document is a {shorten(name)!r}, not a VOTABLE")
        inside = {"TABLEDATA": "TR", "TR": "TD"}.get(parent)
        if (inside and name != inside) or parent == "TD":
            raise self.error(f"there is an element {shorten(name)!r} in a {parent}")
        if name == "TABLE":
            self.n_tables += 1
            self.fields, self.storage, self.stream, self._pieces, self._rows = [], "", [], [], []
            self.n_rows = self._count(attributes["nrows"]) if "nrows" in attributes else -1
        elif name == "FIELD" and parent == "TABLE":
            self.fields.append(self._field(attributes))
        elif name == "VALUES" and parent == "FIELD":
            self.fields[-1] = Field(**vars(self.fields[-1]) | {"null": attributes.get("null", "").strip()})
        elif name in ("TABLEDATA", "BINARY", "BINARY2", "FITS") and parent == "DATA":
            self.storage = name
        elif name == "STREAM":
            self._check_stream(attributes)
            self._text = []
        elif name == "TR":
            self._row = []
        elif name == "TD":
            if attributes.get("encoding"):
                raise self.error("a cell is encoded by itself", "Write the cells as text")
            self._text = []

    def _end(self, tag: str) -> None:
        name = self._open.pop()
        if name == "TD" and self._row is not None and self._text is not None:
            self._row.append("".join(self._text))
            self._text = None
        elif name == "TR" and self._row is not None:
            if len(self._row) != len(self.fields):
                raise self.error(
                    f"a row has {len(self._row)} cells, where the header has {len(self.fields)} fields",
                    row=len(self._rows) + len(self._pieces) * _CHUNK_ROWS,
                )
            self._rows.append(self._row)
            self._row = None
            if len(self._rows) == _CHUNK_ROWS:
                self._flush()
        elif name == "STREAM" and self._text is not None:
            self.stream, self._text = self._text, None

    def _flush(self) -> None:
        if self._rows:
            self._pieces.append([pa.array(column, pa.string()) for column in zip(*self._rows, strict=True)])
            self._rows = []

    def _count(self, text: str) -> int:
        if re.fullmatch(r"\s*[0-9]{1,18}\s*", text) is None:
            raise self.error(f"nrows is {shorten(text)!r}")
        return int(text)

    def _check_stream(self, attributes: Mapping[str, str]) -> None:
        if "href" in attributes:
            raise self.error(
                f"its data are elsewhere, at {shorten(attributes['href'])}",
                "Write the data into the file, as TABLEDATA",
            )
        if attributes.get("encoding") != "base64":
            raise self.error(f"a stream has the encoding {attributes.get('encoding')!r}, not base64", "Write TABLEDATA")

    def _field(self, attributes: Mapping[str, str]) -> Field:
        name = attributes.get("name", attributes.get("ID", ""))
        for key in attributes:
            near = difflib.get_close_matches(key, _ATTRIBUTES, n=1, cutoff=0.6)
            if key not in _ATTRIBUTES and ":" not in key and near:
                raise self.error(f"a FIELD has an attribute {key!r}", f"Did you mean {near[0]!r}?", key=name or None)
        if not name:
            raise self.error("a FIELD has no name", "Give every field a name")
        kind = attributes.get("datatype", "")
        if kind not in _DTYPES:
            raise self.error(f"its datatype is {shorten(kind)!r}, none of {', '.join(_DTYPES)}", key=name)
        text = attributes.get("arraysize", "").strip()
        if text and _SIZE.fullmatch(text) is None:
            raise self.error(f"its arraysize is {shorten(text)!r}", key=name)
        last = text.rpartition("x")[2]
        whole = [int(n) for n in re.findall(r"[0-9]+", text)] if "*" not in text else []
        size = 0 if "*" in text else math.prod(whole)
        if size > 2**31:
            raise self.error(f"its arraysize is {shorten(text)!r}", key=name)
        many = "x" in text if kind in _TEXT else last not in ("", "1")
        return Field(name, kind, attributes.get("unit", ""), size, many)


def parse_votable(content: bytes, path: Path | str = "") -> list[Field]:
    """Return the fields of the last table in a VOTable.

    Parameters
    ----------
    content : bytes
        The document.
    path : path-like
        Its file, for errors.

    Raises
    ------
    CorruptFileError
        If it is not a valid VOTable.
    """
    parser = _Parser(path)
    parser.parse(content)
    return parser.fields


def read_votable(path: Path) -> Table:
    """Read the table of a VOTable file.

    Raises
    ------
    CatalogError
        If the file does not contain exactly one table, or contains its data as FITS.
    CorruptFileError
        If it is not a valid VOTable, refers to data elsewhere, or a cell does not have the type of its field.
    """
    parser = _Parser(path)
    parser.parse(read_packed(path))
    if parser.n_tables != 1:
        raise CatalogError(
            f"the file holds {parser.n_tables} tables", path=path, fix="Give a VOTable with one table, of sources"
        )
    if parser.storage == "FITS":
        raise CatalogError("the VOTable holds its data as FITS", path=path, fix="Write it as FITS, or as TABLEDATA")
    fields = parser.fields
    if parser.storage in ("BINARY", "BINARY2"):
        columns: list[Any] = list(_of_stream(parser, nulls=parser.storage == "BINARY2"))
    else:
        columns = [_of_cells(f, cells, path) for f, cells in zip(fields, parser.columns(), strict=True)]
    lengths = {len(c) for c in columns if not isinstance(c, Refusal)}
    if parser.n_rows >= 0 and lengths and lengths != {parser.n_rows}:
        raise CorruptFileError(
            f"the table has {max(lengths)} rows, and says that it has {parser.n_rows}", path=path, fix=FETCH_AGAIN
        )
    table = Table()
    names = [field.name for field in fields]
    for i, (field, column) in enumerate(zip(fields, columns, strict=True)):
        name = field.name if names.count(field.name) == 1 else f"{field.name} ({i})"
        if isinstance(column, Refusal) and names.count(field.name) == 1:
            refuse(table, name, column)
            continue
        table[name] = np.zeros(max(lengths, default=0)) if isinstance(column, Refusal) else column
        table[name].unit = parse_unit(field.unit)
    kept = [n for i, n in enumerate(names) if not isinstance(columns[i], Refusal) or names.count(n) > 1]
    return without_repeated(table, kept)


def _refusal(field: Field) -> Refusal | None:
    """Return the reason why a field cannot be converted to one value per row; None if it can."""
    if "Complex" in field.kind:
        return Refusal.of_type("complex64" if field.kind == "floatComplex" else "complex128")
    if field.many and (field.size or field.kind in _TEXT):
        return Refusal(f"holds arrays of shape ({field.size or 'any'},); one value a row is needed")
    return None


def _bad(field: Field, row: int, text: str, path: Path | str, reason: str = "") -> CorruptFileError:
    return CorruptFileError(
        f"{field.name} = {shorten(repr(text))} {reason or f'is not {field.kind}, the type of the field'}",
        path=path,
        row=row,
        key=field.name,
        fix="Correct the cell, or the field's datatype",
    )


def _of_cells(field: Field, cells: pa.Array, path: Path) -> Any:
    """Convert the cells of a field, given as text, to a column."""
    refusal = _refusal(field)
    if refusal is not None:
        return refusal
    if field.many:  # any number of values: a list per row
        rows = np.empty(len(cells), dtype=object)
        for i, text in enumerate(cells.to_pylist()):
            one = _of_cells(Field(field.name, field.kind, null=field.null), pa.array(text.split(), pa.string()), path)
            rows[i] = [None if masked else v for v, masked in zip(one.tolist(), np.ma.getmaskarray(one), strict=True)]
        return rows
    if field.kind in _TEXT:
        texts = texts_of(cells)
        if field.size or not field.many:
            long = np.char.str_len(texts) > max(field.size, 1) if field.size else np.zeros(len(cells), dtype=bool)
            if long.any():
                row = int(np.argmax(long))
                raise _bad(field, row, str(texts[row]), path, f"is longer than the field's {field.size} characters")
        return texts
    empty = pc.equal(cells, "")
    if field.null:
        empty = pc.or_(empty, pc.equal(cells, field.null))
    mask = numpy_array(empty)
    given = cells.filter(pc.invert(empty))
    values = np.zeros(
        len(cells), dtype=np.dtype(_DTYPES[field.kind]).newbyteorder("=") if field.kind != "boolean" else bool
    )
    if field.kind in ("boolean", "bit"):
        words = np.char.lower(texts_of(given))
        odd = ~np.isin(words, _TRUE + _FALSE + _UNKNOWN)
        _raise_odd(field, mask, odd, given, path)
        values = np.zeros(len(cells), dtype=bool)
        values[~mask] = np.isin(words, _TRUE)
        mask[~mask] = np.isin(words, _UNKNOWN)
    elif field.kind in _WHOLE:
        odd = numpy_array(pc.invert(pc.match_substring_regex(given, f"^({INTEGER}|[+-]?0[xX][0-9a-fA-F]+)$")))
        _raise_odd(field, mask, odd, given, path)
        numbers = [int(t, 16 if "x" in t.lower() else 10) if len(t) < 40 else 2**70 for t in given.to_pylist()]
        bounds = np.iinfo(values.dtype)
        _raise_odd(field, mask, np.array([not bounds.min <= n <= bounds.max for n in numbers], dtype=bool), given, path)
        values[~mask] = numbers
    else:
        odd = numpy_array(pc.invert(pc.match_substring_regex(given, f"^({FLOAT}|{SPECIAL})$")))
        _raise_odd(field, mask, odd, given, path)
        with np.errstate(over="ignore"):
            values[~mask] = [float(t) for t in given.to_pylist()]
        values[mask] = np.nan
        return values
    return MaskedColumn(values, mask=mask)


def _raise_odd(field: Field, mask: NDArray[np.bool_], odd: NDArray[np.bool_], given: pa.Array, path: Path) -> None:
    if odd.any():
        first = int(np.argmax(odd))
        raise _bad(field, int(np.flatnonzero(~mask)[first]), given[first].as_py(), path)


def _of_stream(parser: _Parser, *, nulls: bool) -> Iterator[Any]:
    """Convert a BINARY or BINARY2 stream, which must consist of complete rows, to columns."""
    try:
        content = binascii.a2b_base64("".join("".join(parser.stream).split()), strict_mode=True)
    except (binascii.Error, ValueError) as error:
        raise CorruptFileError(f"the stream is not base64 ({error})", path=parser.path, fix=FETCH_AGAIN) from error
    fields = parser.fields
    sizes = [_cell_bytes(field) for field in fields]
    n_flags = -(-len(fields) // 8) if nulls else 0
    ends = "the stream of rows ends in the middle of one, or goes on behind the last"
    if not any(variable for _, variable in sizes):
        row_bytes = n_flags + sum(n for n, _ in sizes)
        if row_bytes == 0 or len(content) % row_bytes:
            raise CorruptFileError(ends, path=parser.path, fix=FETCH_AGAIN)
        rows = np.frombuffer(content, dtype=np.uint8).reshape(-1, row_bytes)
        starts = np.cumsum([n_flags, *(n for n, _ in sizes)]).tolist()
        cells: list[Any] = [np.ascontiguousarray(rows[:, a:b]) for a, b in itertools.pairwise(starts)]
        flags = rows[:, :n_flags]
    else:
        cells, flags = _variable_rows(content, sizes, n_flags)
        if cells is None:
            raise CorruptFileError(ends, path=parser.path, fix=FETCH_AGAIN)
    missing = (
        np.unpackbits(flags, axis=1) if nulls and len(flags) else np.zeros((len(flags), len(fields)), dtype=np.uint8)
    )
    for i, field in enumerate(fields):
        yield _of_bytes(field, cells[i], missing[:, i].astype(bool), parser.path)


def _cell_bytes(field: Field) -> tuple[int, bool]:
    """Return the bytes of a cell and False, or of one element and True if the cell contains their number."""
    item = np.dtype(_DTYPES[field.kind]).itemsize
    if field.size == 0:
        return item, True
    return (-(-field.size // 8) if field.kind == "bit" else item * field.size), False


def _variable_rows(content: bytes, sizes: list[tuple[int, bool]], n_flags: int) -> tuple[Any, NDArray[np.uint8]]:
    """Split rows of variable length into cells by column, and flags; None if the content ends within a row."""
    cells: list[list[bytes]] = [[] for _ in sizes]
    flags: list[bytes] = []
    place, end = 0, len(content)
    while place < end:
        flags.append(content[place : place + n_flags])
        place += n_flags
        for column, (n_bytes, variable) in zip(cells, sizes, strict=True):
            length = n_bytes
            if variable:
                length = n_bytes * int.from_bytes(content[place : place + 4], "big")
                place += 4
            if place + length > end:
                return None, np.empty((0, 0), dtype=np.uint8)
            column.append(content[place : place + length])
            place += length
    return cells, np.frombuffer(b"".join(flags), dtype=np.uint8).reshape(len(flags), n_flags)


def _of_bytes(field: Field, cells: Any, missing: NDArray[np.bool_], path: Path | str) -> Any:
    """Convert the cells of a field, given as bytes (shape (N, bytes), or a list), to a column."""
    refusal = _refusal(field)
    if refusal is not None:
        return refusal
    raw: list[bytes] = (
        cells if isinstance(cells, list) else [bytes(row) for row in cells] if field.kind in _TEXT else []
    )
    if field.kind in _TEXT:
        encoding = "utf-8" if field.kind == "char" else "utf-16-be"
        try:
            texts = [b.decode(encoding).partition("\0")[0].strip() for b in raw]
        except UnicodeDecodeError as error:
            raise CorruptFileError(
                f"column {field.name!r} contains text that is not {encoding} ({error})",
                path=path,
                key=field.name,
                fix=FETCH_AGAIN,
            ) from error
        out = np.array(["" if gone else t for t, gone in zip(texts, missing, strict=True)], dtype=np.str_)
        return out if out.size else out.astype("U1")
    dtype = np.dtype(_DTYPES[field.kind])
    if isinstance(cells, list) and field.size == 0:
        rows = np.empty(len(cells), dtype=object)
        for i, cell in enumerate(cells):
            rows[i] = np.frombuffer(cell, dtype=dtype).tolist() if not missing[i] else []
        return rows
    values = np.frombuffer(b"".join(cells) if isinstance(cells, list) else cells.tobytes(), dtype=dtype)
    if field.kind == "boolean":
        words = np.char.lower(values.astype("U1"))
        odd = ~np.isin(words, (*_TRUE, *_FALSE, *_UNKNOWN, " "))
        if odd.any():
            row = int(np.argmax(odd))
            raise _bad(field, row, str(words[row]), path)
        return MaskedColumn(np.isin(words, _TRUE), mask=missing | ~np.isin(words, _TRUE + _FALSE))
    if field.kind == "bit":
        return MaskedColumn((values & 0x80) != 0, mask=missing)
    values = values.astype(dtype.newbyteorder("="))
    if field.null and re.fullmatch(INTEGER, field.null) and field.kind in _WHOLE:
        missing = missing | (values == int(field.null))
    if field.kind in _WHOLE:
        return MaskedColumn(values, mask=missing)
    return np.where(missing, np.nan, values).astype(values.dtype)
