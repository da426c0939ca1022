"""Which rows of a catalogue are selected by an expression, of the rows alone or of an image too."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from astropy.table import QTable, Table
from numpy.typing import NDArray

from skygraft.catalog.arrow import from_arrow
from skygraft.catalog.columns import ColumnReader, refused
from skygraft.catalog.expressions import Kind, Node, check_types, parse, problem
from skygraft.catalog.schema import COLUMNS, is_mag_column, values

__all__ = ["ImageFacts", "RowChoice", "check_expression", "image_facts", "joined"]

type _Columns = Mapping[str, NDArray[Any]]

_OF_IMAGE: dict[str, Kind] = {"visit": "number", "band": "text", "detector": "text", "mjd": "number", "mag": "number"}
_KINDS: dict[str, Kind] = {"float": "number", "int": "number", "str": "text", "bool": "truth"}
_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}
_ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": np.divide,
}
_FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "abs": np.abs,
    "sqrt": np.sqrt,
    "log10": np.log10,
    "isnan": np.isnan,
    "isfinite": np.isfinite,
    "negative": np.negative,
}
_NUMBER_OF = "the number of "


@dataclass(frozen=True)
class ImageFacts:
    """What an expression may know of an image.

    Parameters
    ----------
    visit : int or None
        Its visit; None, and in the expression -1, for a coadd.
    band, detector : str or None
        Its band and detector; None, and in the expression an empty text, where unknown.
    mjd : float or None
        Middle of the exposure, TAI days; None, and in the expression NaN, where unknown.
    """

    visit: int | None = None
    band: str | None = None
    detector: str | None = None
    mjd: float | None = None


def image_facts(images: pa.Table, band: str | None = None) -> list[ImageFacts]:
    """Return what expressions may know of some images.

    Parameters
    ----------
    images : pyarrow.Table
        Rows of a survey's index.
    band : str, optional
        Band of images that have none.
    """
    of = [images.column(name).to_pylist() for name in ("visit", "band", "detector", "mjd")]
    return [ImageFacts(visit, its or band, detector, mjd) for visit, its, detector, mjd in zip(*of, strict=True)]


def joined(parts: Sequence[_Columns]) -> dict[str, NDArray[Any]]:
    """Return the columns of several tables, one after the other."""
    return {name: np.concatenate([part[name] for part in parts]) for name in (parts[0] if parts else ())}


class RowChoice:
    """The rows that an expression selects: of a table, or for an image.

    Names in it are columns of the catalogue and, for an image, ``visit``, ``band``, ``detector`` and ``mjd`` of the
    image and ``mag``, a row's magnitude in the image's band. A column of the native schema that the catalogue does not
    have is at its default.

    Parameters
    ----------
    text : str
        The expression (`skygraft.catalog.expressions`); an empty one selects everything.
    of_image : bool
        Whether it is about an image too.

    Raises
    ------
    CatalogError
        If it does not follow the grammar.
    """

    def __init__(self, text: str, *, of_image: bool = False) -> None:
        self.text = text.strip()
        self._of_image = of_image
        self._node = parse(self.text) if self.text else None
        if of_image and self._node is not None:
            self._node = _numbered(self._node)

    def __bool__(self) -> bool:
        return self._node is not None

    def check(self, kinds: Mapping[str, Kind]) -> None:
        """Check the expression against the kinds of a catalogue's columns.

        Raises
        ------
        CatalogError
            If it names an unknown column, or compares what cannot be compared.
        """
        if self._node is None:
            return
        known = dict(kinds)
        known |= {name: _KINDS[spec.kind] for name, spec in COLUMNS.items() if name not in known}
        if self._of_image:
            known |= _OF_IMAGE
        if _NUMBER_OF + "detector" in self._node.names():
            known[_NUMBER_OF + "detector"] = "number"
        kind = check_types(self._node, known, self.text)
        if kind != "truth":
            raise problem(
                self.text,
                self._node.at,
                "it is not a condition, which is true or false",
                "Compare it, as in mag_r < 24",
            )

    def columns_of(self, table: QTable | pa.Table) -> dict[str, NDArray[Any]]:
        """Return the columns of a canonical table that the expression needs, after checking it.

        Parameters
        ----------
        table : QTable or pyarrow.Table
            Canonical columns; of Arrow, as partitions are stored.

        Returns
        -------
        dict of str to ndarray, shape (N,)

        Raises
        ------
        CatalogError
            As of `check`.
        """
        if self._node is None:
            return {}
        stored = isinstance(table, pa.Table)
        names = table.column_names if stored else table.colnames
        self.check(_kinds(table))
        wanted = [name for name in self._node.names() if not (self._of_image and name in _OF_IMAGE)]
        if self._of_image and "mag" in self._node.names():
            wanted += [name for name in names if is_mag_column(name) and name not in wanted]
        wanted = [name for name in wanted if not name.startswith(_NUMBER_OF)]
        rows = from_arrow(table.select([name for name in wanted if name in names])) if stored else table
        n = table.num_rows if stored else len(table)
        return {name: _column(rows, name, n) for name in wanted}

    def mask(self, columns: _Columns, n: int, image: ImageFacts | None = None) -> NDArray[np.bool_]:
        """Return which rows are selected.

        Parameters
        ----------
        columns : mapping of str to ndarray, shape (n,)
            From `columns_of`, all or some rows.
        n : int
            Rows.
        image : ImageFacts, optional
            The image that they are for.

        Returns
        -------
        ndarray of bool, shape (n,)
        """
        if self._node is None:
            return np.ones(n, dtype=np.bool_)
        known: dict[str, Any] = dict(columns)
        if self._of_image:
            known |= _facts(image or ImageFacts(), columns, n)
        with np.errstate(all="ignore"):
            return np.broadcast_to(np.asarray(_value(self._node, known), dtype=np.bool_), (n,))

    def filter(self, table: QTable) -> QTable:
        """Return the rows of a canonical table that are selected, whatever the image."""
        if self._node is None:
            return table
        keep = self.mask(self.columns_of(table), len(table))
        return table if keep.all() else table[keep]

    def rows(self, table: pa.Table, rows: NDArray[np.intp], image: ImageFacts) -> NDArray[np.intp]:
        """Return those of some rows of a stored table that an image gets.

        Parameters
        ----------
        table : pyarrow.Table
            Canonical columns, as partitions are stored.
        rows : ndarray of int
            Row numbers.
        image : ImageFacts
            The image.

        Returns
        -------
        ndarray of int
        """
        if self._node is None:
            return rows
        if not len(rows):
            return rows
        columns = self.columns_of(table)
        return rows[self.mask({name: column[rows] for name, column in columns.items()}, len(rows), image)]

    def keep(
        self,
        offsets: NDArray[np.int64],
        rows: NDArray[np.int64],
        columns: _Columns,
        images: Sequence[ImageFacts],
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the rows of several images that the expression selects, as `SourcePositions.select` gives them.

        Parameters
        ----------
        offsets : ndarray of int, shape (M + 1,)
            Where each image's rows begin and end.
        rows : ndarray of int
            Row numbers.
        columns : mapping of str to ndarray
            From `columns_of`.
        images : sequence of ImageFacts, length M
            The images.

        Returns
        -------
        offsets, rows : ndarray of int
        """
        if self._node is None:
            return offsets, rows
        kept = []
        for image, first, last in zip(images, offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
            mine = rows[first:last]
            if not len(mine):  # there may be no columns either
                kept.append(mine)
                continue
            chosen = {name: column[mine] for name, column in columns.items()}
            kept.append(mine[self.mask(chosen, len(mine), image)])
        sizes = np.array([len(mine) for mine in kept], dtype=np.int64)
        return np.concatenate([[0], np.cumsum(sizes)]), np.concatenate([rows[:0], *kept])


def _numbered(node: Node) -> Node:
    """Where the detector is compared with a number, take the number of its name: surveys write either."""
    parts = tuple(_numbered(part) for part in node.parts)
    if node.op in (*_COMPARE, "in", "between") and any(_is_number(part) for part in parts):
        parts = tuple(
            Node("name", part.at, value=_NUMBER_OF + "detector")
            if part.op == "name" and part.value == "detector"
            else part
            for part in parts
        )
    return Node(node.op, node.at, parts, node.value)


def _is_number(node: Node) -> bool:
    if node.op == "list":
        return any(_is_number(part) for part in node.parts)
    return node.op == "value" and isinstance(node.value, (int, float)) and not isinstance(node.value, bool)


def _facts(image: ImageFacts, columns: _Columns, n: int) -> dict[str, Any]:
    detector = image.detector or ""
    return {
        "visit": -1 if image.visit is None else int(image.visit),
        "band": image.band or "",
        "detector": detector,
        _NUMBER_OF + "detector": int(detector) if detector.isdecimal() and len(detector) < 19 else math.nan,
        "mjd": math.nan if image.mjd is None else float(image.mjd),
        "mag": columns.get(f"mag_{image.band}", np.full(n, np.nan)),
    }


def _kinds(table: QTable | pa.Table) -> dict[str, Kind]:
    if isinstance(table, pa.Table):
        return {field.name: kind for field in table.schema if (kind := _arrow_kind(field.type))}
    found: dict[str, Kind] = {}
    for name in table.colnames:
        letter = np.asarray(getattr(table[name], "unmasked", table[name])).dtype.kind
        if letter in "biufSUTO":
            found[name] = "truth" if letter == "b" else "number" if letter in "iuf" else "text"
    return found


def _arrow_kind(kind: pa.DataType) -> Kind | None:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if pa.types.is_boolean(kind):
        return "truth"
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return "number"
    return "text" if "string" in str(kind) or "binary" in str(kind) else None


def _column(table: Table, name: str, n: int) -> NDArray[Any]:
    """A column as a plain array: of the native schema, in its unit; another as it is."""
    if name in COLUMNS or is_mag_column(name):
        return values(table, name) if name in table.colnames else np.full(n, COLUMNS[name].default)
    if name in refused(table):
        raise refused(table)[name].error(name)
    column = table[name]
    mask = np.broadcast_to(getattr(column, "mask", False), (n,))
    plain = np.ma.getdata(np.asarray(getattr(getattr(column, "unmasked", column), "value", column)))
    if plain.dtype.kind in "iu" and not mask.any():
        return plain
    if plain.dtype.kind in "iuf":
        return np.where(mask, np.nan, plain.astype(np.float64))
    if plain.dtype.kind == "b":
        return np.where(mask, False, plain)
    return ColumnReader(column, name).texts()


def _value(node: Node, known: Mapping[str, Any]) -> Any:
    if node.op == "value":
        return node.value
    if node.op == "name":
        return known[str(node.value)]
    if node.op in ("and", "or"):
        join = np.logical_and if node.op == "and" else np.logical_or
        out = _value(node.parts[0], known)
        for part in node.parts[1:]:
            out = join(out, _value(part, known))
        return out
    if node.op == "not":
        return np.logical_not(_value(node.parts[0], known))
    if node.op == "in":
        left = np.asarray(_value(node.parts[0], known))
        return _among(left, [part.value for part in node.parts[1].parts])
    found = [_value(part, known) for part in node.parts]
    if node.op == "between":
        return np.logical_and(found[0] >= found[1], found[0] <= found[2])
    if node.op in _COMPARE:
        return _COMPARE[node.op](*(np.asarray(one) if isinstance(one, str) else one for one in found))
    numbers = [np.asarray(one, dtype=np.float64) for one in found]
    return _ARITHMETIC[node.op](*numbers) if node.op in _ARITHMETIC else _FUNCTIONS[node.op](*numbers)


def _among(left: NDArray[Any], listed: list[Any]) -> NDArray[np.bool_]:
    """Which values are in a list; compared one by one, so that large whole numbers stay exact."""
    if left.dtype.kind in "US":
        return np.isin(left, np.array(listed, dtype=np.str_))
    out = np.zeros(left.shape, dtype=np.bool_)
    for value in listed:
        out |= left == value
    return out


def check_expression(text: str) -> str:
    """Return an expression after checking its grammar; its names are known only with a catalogue.

    Raises
    ------
    CatalogError
        If it does not follow the grammar.
    """
    if text.strip():
        parse(text)
    return text
