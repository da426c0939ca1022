"""What a page is made of: paragraphs, notes, figures, tables, pictures and code, without any HTML."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Self

from markupsafe import Markup

__all__ = [
    "Block",
    "Cell",
    "Code",
    "Column",
    "Cutout",
    "Cutouts",
    "Facts",
    "Figure",
    "Figures",
    "Files",
    "Level",
    "Note",
    "Section",
    "Table",
    "Text",
    "Tile",
    "Tiles",
    "cell",
    "signed",
    "within",
]

type Level = Literal["missing", "warning", "bad", "good"]


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    kind: ClassVar[str] = "text"
    text: str


@dataclass(frozen=True)
class Note:
    """A sentence that stands out: something is missing, wrong, or worth a look."""

    kind: ClassVar[str] = "note"
    level: Level
    text: str
    command: str = ""  # to type next


@dataclass(frozen=True)
class Tile:
    """A headline number: its name, its value, and a line below it."""

    label: str
    value: str
    detail: str = ""
    level: Level | Literal[""] = ""


@dataclass(frozen=True)
class Tiles:
    """Headline numbers."""

    kind: ClassVar[str] = "tiles"
    tiles: tuple[Tile, ...]


@dataclass(frozen=True)
class Figure:
    """A figure that was drawn."""

    kind: ClassVar[str] = "figure"
    name: str  # of its files, without suffix
    svg: Markup  # to stand in the page
    title: str
    caption: str
    alt: str  # what it shows, in words with numbers, for whoever cannot see it
    wide: bool = False  # takes the width of two figures


@dataclass(frozen=True)
class Figures:
    """Figures side by side where there is room for it."""

    kind: ClassVar[str] = "figures"
    figures: tuple[Figure, ...]


@dataclass(frozen=True)
class Cutout:
    """One picture of a few pixels: PNG bytes as a data URI, what it shows, and a line below it."""

    uri: str
    alt: str
    caption: str
    width: int
    height: int


@dataclass(frozen=True)
class Cutouts:
    """A grid of cut-outs."""

    kind: ClassVar[str] = "cutouts"
    title: str
    items: tuple[Cutout, ...]
    caption: str = ""


@dataclass(frozen=True)
class Column:
    """A column of a table: its heading, its unit, and whether it has numbers, names of code or long text."""

    name: str
    unit: str = ""
    numeric: bool = False
    code: bool = False
    long: bool = False

    @classmethod
    def numbers(cls, *names: str) -> list[Self]:
        """Return columns of numbers, from their headings with units in brackets: ``median (mmag)``."""
        parts = (name.rstrip(")").partition(" (") for name in names)
        return [cls(name, unit, numeric=True) for name, _, unit in parts]


@dataclass(frozen=True)
class Cell:
    """Text of a cell, and the number that it is sorted by."""

    text: str
    sort: float | None = None
    level: Level | Literal[""] = ""


@dataclass(frozen=True)
class Table:
    """A table whose rows can be sorted."""

    kind: ClassVar[str] = "table"
    caption: str
    columns: tuple[Column, ...]
    rows: Sequence[Sequence[Cell]]
    total: int | None = None  # number of rows that there are, where they are more than are shown
    folded: bool = False  # opened by a click


@dataclass(frozen=True)
class Facts:
    """Names and values, one a line."""

    kind: ClassVar[str] = "facts"
    rows: tuple[tuple[str, str], ...]
    caption: str = ""


@dataclass(frozen=True)
class Code:
    """Text to copy: code, or prose."""

    kind: ClassVar[str] = "code"
    label: str
    text: str
    prose: bool = False


@dataclass(frozen=True)
class Files:
    """Files beside the page: their folder, their names, and what each is."""

    kind: ClassVar[str] = "files"
    folder: str
    files: tuple[tuple[str, str], ...]


type Block = Text | Note | Tiles | Figures | Cutouts | Table | Facts | Code | Files


@dataclass
class Section:
    """A part of the page with a heading."""

    name: str
    title: str
    blocks: list[Block] = field(default_factory=list)

    def add(self, *blocks: Block) -> None:
        """Add blocks at the end."""
        self.blocks.extend(blocks)


def cell(value: Any, form: str = "", level: Level | Literal[""] = "") -> Cell:
    """Return a cell: a number formatted and sorted as such, NaN and None as a dash, and text as it is.

    By default, thousands of numbers are separated. The level says how it stands out.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return Cell("–", None, level)
    if isinstance(value, bool):
        return Cell("yes" if value else "no", float(value), level)
    if isinstance(value, int | float):
        text = format(value, form or ("," if isinstance(value, int) else ".4g"))
        return Cell(text.replace("-", "−") if value < 0 else text, float(value), level)
    return Cell(str(value), None, level)


def signed(value: float, digits: int = 3) -> str:
    """Return a number with its sign, and a dash for NaN: ``+0.012``."""
    return "–" if not math.isfinite(value) else f"{value:+.{digits}f}".replace("-", "−")


def within(value: float, error: float, digits: int = 2) -> str:
    """Return a number and its error: ``21.79 ± 0.03``; a dash for NaN."""
    if not math.isfinite(value):
        return "–"
    text = f"{value:.{digits}f}".replace("-", "−")
    return f"{text} ± {error:.{digits}f}" if math.isfinite(error) else text
