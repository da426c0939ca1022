"""How objects show themselves: a few lines for people, and the same as a table for notebooks."""

from __future__ import annotations

import html
from collections.abc import Iterable

__all__ = ["Rows", "html_table", "text_table"]

type Rows = list[tuple[str, str]]
"""Label and text of each line."""

_WIDTH = 100


def text_table(title: str, rows: Rows) -> str:
    """A title and a line for each row, cut at a width that fits a terminal."""
    width = max((len(label) for label, _ in rows), default=0)
    lines = [f"  {label:<{width}}  {text}" for label, text in rows]
    return "\n".join([title, *(_cut(line) for line in lines)])


def _cut(line: str) -> str:
    flat = " ".join(line.splitlines())
    return flat if len(flat) <= _WIDTH else flat[: _WIDTH - 3] + "..."


def html_table(title: str, rows: Iterable[tuple[str, str]]) -> str:
    """The same as an HTML table; everything is escaped."""
    cell = "<tr><th style='text-align:left'>{}</th><td style='text-align:left'>{}</td></tr>"
    body = "".join(cell.format(html.escape(label), html.escape(text)) for label, text in rows)
    return f"<div><strong>{html.escape(title)}</strong><table>{body}</table></div>"
