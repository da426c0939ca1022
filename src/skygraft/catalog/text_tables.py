"""Read CSV and ECSV files strictly: every cell is a number or text, and every row has all cells.

Text files have no checksum, so damage shows only in their form. Lenient readers (that accept short rows, ``0x10``, a
byte order mark, NUL bytes) would silently read other sources.
"""

from __future__ import annotations

import csv
import difflib
import gzip
import re
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import yaml
from astropy.table import MaskedColumn, Table
from numpy.typing import NDArray

from skygraft.catalog.arrow_arrays import numpy_array, one_array, texts_of
from skygraft.catalog.columns import Refusal, refuse
from skygraft.errors import CatalogError, CorruptFileError, SkygraftWarning
from skygraft.lazy import lazy_module
from skygraft.wording import shorten
from skygraft.yaml_text import YamlError, check_yaml

pc = lazy_module("pyarrow.compute")
pa_csv = lazy_module("pyarrow.csv")

__all__ = [
    "FETCH_AGAIN",
    "FLOAT",
    "INTEGER",
    "SPECIAL",
    "read_csv",
    "read_ecsv",
    "read_packed",
    "typed",
    "without_repeated",
]

FETCH_AGAIN = "Fetch or make the file again, and check that its ending says what it is"

INTEGER = r"[+-]?[0-9]+"
FLOAT = r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?"
SPECIAL = r"[+-]?([nN][aA][nN]|[iI][nN][fF]([iI][nN][iI][tT][yY])?)"
_WHOLE = r"[+-]?[0-9]+|[nN][aA][nN]"
_RAGGED = re.compile(r"Row #(\d+): Expected (\d+) columns, got (\d+)")
_ECSV_KEYS = ("name", "datatype", "subtype", "unit", "description", "format", "meta")
_MOST_PACKED, _SMALL = 100, 256 << 20
"""Largest compression ratio (text tables have 10 to 20), and size in bytes up to which it does not matter."""


def read_packed(path: Path) -> bytes:
    """Return the bytes of a file, decompressed if its name ends in ``.gz``.

    Raises
    ------
    CorruptFileError
        If the file cannot be read, or its compression ratio is implausible.
    """
    try:
        if path.suffix.lower() != ".gz":
            return path.read_bytes()
        limit = max(_SMALL, _MOST_PACKED * path.stat().st_size)
        with gzip.open(path) as file:
            content = file.read(limit + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise CorruptFileError(f"the file cannot be read ({error})", path=path, fix=FETCH_AGAIN) from error
    if len(content) > limit:
        raise CorruptFileError(
            f"it unpacks to more than {limit} bytes, which no table of text does",
            path=path,
            fix="Unpack it, look at what it holds, and give that",
        )
    return content


def _kind(path: Path) -> str:
    return "ecsv" if ".ecsv" in path.name.lower() else "csv"


def _text_of(path: Path) -> bytes:
    """Return the content of a text file without byte order mark, after checking that it is UTF-8 without NUL bytes."""
    content = read_packed(path).removeprefix(b"\xef\xbb\xbf")
    try:
        content.decode("utf-8")
        place = content.find(b"\0")
        reason = "a NUL byte"
    except UnicodeDecodeError as error:
        place, reason = error.start, f"the byte 0x{content[error.start]:02x}, which is not UTF-8"
    if place >= 0:
        raise CorruptFileError(
            f"not a readable {_kind(path)} table: {reason} in line {content.count(bytes([10]), 0, place) + 1}",
            path=path,
            fix="Write the file as UTF-8 text. " + FETCH_AGAIN,
        )
    if content.strip() and not content.endswith((b"\n", b"\r")):
        n = len(content.splitlines())
        warnings.warn(
            f"{path}: line {n}, the last one, does not end with a line break. If the file was cut there, its last "
            "number may lack digits: compare it with the original, or end it with a line break (echo >> file) if it is "
            "whole.",
            SkygraftWarning,
            stacklevel=2,
        )
    return content


def _cells(content: bytes, delimiter: str, path: Path) -> tuple[list[str], list[pa.Array]]:
    """Return the names in the first line and all columns as text; raise unless each row has a cell for each name."""
    content = content.strip(b"\r\n")
    first = re.split(rb"\r\n|\r|\n", content, maxsplit=1)
    names = [name.strip() for name in next(csv.reader([first[0].decode()], delimiter=delimiter), [])]
    if names and names[0].startswith("#"):
        raise CatalogError(
            f"the first line begins with '#': {shorten(first[0].decode())}",
            path=path,
            fix="Let the file begin with the columns' names, without '#' and comments before",
        )
    body = first[1].rstrip() if len(first) > 1 else b""
    if not body:
        return names, [pa.array([], pa.string()) for _ in names]
    if content.count(b'"') % 2:
        raise CorruptFileError("a quotation mark is opened and not closed", path=path, fix="Close or remove it")
    columns = [str(i) for i in range(len(names))]
    try:
        table = pa_csv.read_csv(
            pa.BufferReader(body + b"\n"),
            read_options=pa_csv.ReadOptions(
                column_names=columns, use_threads=False, block_size=min(len(body) + 2, 2**31 - 1)
            ),
            parse_options=pa_csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
            convert_options=pa_csv.ConvertOptions(
                column_types=dict.fromkeys(columns, pa.string()), strings_can_be_null=False
            ),
        )
    except (pa.ArrowException, OSError) as error:
        ragged = _RAGGED.search(str(error))
        if ragged is None:
            raise CorruptFileError(
                f"not a readable {_kind(path)} table: {error}", path=path, fix=FETCH_AGAIN
            ) from error
        raise CorruptFileError(
            f"a row has {ragged[3]} cells, where the first line names {ragged[2]} columns",
            path=path,
            row=int(ragged[1]) - 1,
            fix="Give every row a cell for each column, an empty one where there is no value",
        ) from error
    return names, [pc.utf8_trim_whitespace(one_array(column)) for column in table.columns]


def read_csv(path: Path) -> Table:
    """Read the table of a CSV file.

    Raises
    ------
    CatalogError, CorruptFileError
        If the file is not a table, or a row does not have all cells.
    """
    names, cells = _cells(_text_of(path), ",", path)
    table = Table()
    twice = [name if names.count(name) == 1 else f"{name} ({i})" for i, name in enumerate(names)]
    for name, column in zip(twice, cells, strict=True):
        broken = pc.index(pc.match_substring(column, "\n"), True).as_py()
        if broken >= 0:
            raise CorruptFileError(
                f"a cell goes on in the next line: {shorten(column[broken].as_py())}",
                path=path,
                row=broken,
                key=name,
                fix="Close the quotation mark, or write the text in one line",
            )
        table[name] = typed(column)
    return without_repeated(table, names)


def _all_match(texts: pa.Array, pattern: str) -> bool:
    return bool(pc.all(pc.match_substring_regex(texts, f"^({pattern})$"), min_count=0).as_py())


def typed(cells: pa.Array) -> Any:
    """Convert a column of text to int64 or float64 if all cells are numbers; empty cells are masked.

    Parameters
    ----------
    cells : pyarrow.Array of string
        Cells without surrounding blanks.

    Returns
    -------
    MaskedColumn or ndarray, shape (N,)
        int64, float64 or str. Integers that cannot be represented exactly remain text.
    """
    empty = pc.equal(cells, "")
    given = cells.filter(pc.invert(empty))
    mask = numpy_array(empty)
    if _all_match(given, INTEGER):
        values = _cast(given, pa.int64())
        if values is not None:
            return _spread(values, mask)
    elif _all_match(given, f"{FLOAT}|{SPECIAL}"):
        values = _cast(given, pa.float64())
        if values is None:
            values = np.array([float(text) for text in given.to_pylist()])
        # With a "nan" among them, integers have to be floats, in which large ones are not exact.
        if not (np.any(np.abs(values) >= 2**53) and _all_match(given, _WHOLE)):
            return _spread(values, mask)
    text = texts_of(cells)
    return MaskedColumn(text, mask=mask) if mask.any() else text


def _cast(texts: pa.Array, kind: pa.DataType) -> NDArray[Any] | None:
    """Convert text to numbers; None if Arrow refuses a cell (a plus sign, or out of range)."""
    try:
        return numpy_array(texts.cast(kind))
    except pa.ArrowInvalid:
        return None


def _spread(values: NDArray[Any], mask: NDArray[np.bool_]) -> Any:
    if not mask.any():
        return values
    out = np.zeros(mask.size, dtype=values.dtype)
    out[~mask] = values
    return MaskedColumn(out, mask=mask)


def without_repeated(table: Table, names: list[str]) -> Table:
    """Remove columns whose name occurs several times in `names`, and record that they were left out.

    Parameters
    ----------
    table : Table
        Modified in place; its own column names are unique.
    names : list of str
        Names in the file, in the order of the columns.
    """
    if len(names) == len(table.colnames):
        read = list(table.colnames)
        for name in {name for name in names if names.count(name) > 1}:
            for i, other in enumerate(names):
                if other == name:
                    table.remove_column(read[i])
            refuse(table, name, Refusal.twice(names.count(name)))
    return table


def read_ecsv(path: Path) -> Table:
    """Read the table of an ECSV file with astropy, after checking its header and cells.

    Raises
    ------
    CorruptFileError
        If the header is not valid YAML of limited size, or a cell does not have the type of its column.
    """
    content = _text_of(path)
    lines = content.splitlines()
    n_header = next((i for i, line in enumerate(lines) if not line.startswith(b"#")), len(lines))
    header = _ecsv_header(b"\n".join(line[2:] for line in lines[1:n_header]).decode(), path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            table = Table.read(b"\n".join(lines).decode() + "\n", format="ascii.ecsv")
        except MemoryError:
            raise
        except Exception as error:  # astropy may raise anything for a damaged file
            raise CorruptFileError(f"not a readable ecsv table: {error}", path=path, fix=FETCH_AGAIN) from error
    names, cells = _cells(b"\n".join(lines[n_header:]), str(header.get("delimiter", " ")), path)
    kinds = {str(c["name"]): str(c["datatype"]) for c in header["datatype"] if "subtype" not in c}
    for name, column in zip(names, cells, strict=True):
        _check_cells(name, column, kinds.get(name, ""), path)
    return without_repeated(table, names)


def _ecsv_header(text: str, path: Path) -> dict[str, Any]:
    """Return the header of an ECSV file, after checking that each column has a name and a type."""
    try:
        check_yaml(text)
        header: Any = yaml.load(text, Loader=_HeaderLoader)
    except (YamlError, yaml.YAMLError, ValueError, TypeError, OverflowError) as error:
        raise CorruptFileError(
            f"not a readable ecsv table: the header is no YAML ({str(error).lstrip(' :')})", path=path, fix=FETCH_AGAIN
        ) from error
    columns = header.get("datatype") if isinstance(header, dict) else None
    if not isinstance(columns, list) or not all(
        isinstance(c, dict) and {"name", "datatype"} <= c.keys() for c in columns
    ):
        raise CorruptFileError(
            "not a readable ecsv table: the header has no list 'datatype' of columns with a name and a datatype",
            path=path,
            fix=FETCH_AGAIN,
        )
    for column in columns:
        for key in column.keys() - set(_ECSV_KEYS):
            near = difflib.get_close_matches(str(key), _ECSV_KEYS, n=1, cutoff=0.5)
            if near:
                raise CorruptFileError(
                    f"the header says {key!r} of column {column['name']!r}; that is not a keyword of ECSV",
                    path=path,
                    key=str(column["name"]),
                    fix=f"Did you mean {near[0]!r}?",
                )
        unit = column.get("unit")
        if (unit is not None and not isinstance(unit, (str, int, float))) or isinstance(unit, bool):
            raise CorruptFileError(
                f"the unit of column {column['name']!r} is {shorten(unit)}, which is not text",
                path=path,
                key=str(column["name"]),
                fix="Write the unit's name, such as deg",
            )
    return dict(header)


class _HeaderLoader(yaml.SafeLoader):
    """YAML loader for headers of ECSV tables; tagged values (unit objects, ordered maps) are left to astropy."""


_HeaderLoader.add_multi_constructor("", lambda loader, suffix, node: f"<{suffix}>")


_DIGITS = {"float16": (5, 1e-4), "float32": (9, 1e-9)}
"""Digits of each type, and the relative error that is allowed for a number with more digits."""


def _check_cells(name: str, cells: pa.Array, kind: str, path: Path) -> None:
    """Raise for cells that are not numbers of the column's type, even if Python or NumPy would accept them."""
    if not kind.startswith(("int", "uint", "float")):
        return
    pattern = f"^({FLOAT}|{SPECIAL}|)$" if kind.startswith("float") else f"^({INTEGER}|)$"
    odd = pc.index(pc.match_substring_regex(cells, pattern), False).as_py()
    if odd >= 0:
        raise CorruptFileError(
            f"{name} = {shorten(repr(cells[odd].as_py()))} is not {kind}, the type in the header",
            path=path,
            row=odd,
            key=name,
            fix="Correct the cell",
        )
    if kind not in _DIGITS:
        return
    most, error = _DIGITS[kind]
    long = numpy_array(pc.utf8_length(pc.replace_substring_regex(cells, r"[eE].*$|^[+-]?[0.]*|\.", "")))
    for row in np.flatnonzero(long > most).tolist():
        value = float(cells[row].as_py())
        if abs(float(np.dtype(kind).type(value)) - value) > error * abs(value):
            raise CorruptFileError(
                f"{name} = {cells[row]} has more digits than {kind}, the type in the header, can represent",
                path=path,
                row=row,
                key=name,
                fix="Correct the column's datatype to float64",
            )
