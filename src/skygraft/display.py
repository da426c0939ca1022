"""Tables of labels and texts, by which objects show themselves on a terminal and in notebooks."""

from __future__ import annotations

import html
import textwrap
from collections.abc import Iterable

__all__ = ["Rows", "html_table", "span", "text_table"]

type Rows = list[tuple[str, str]]
"""Label and text of each line."""

_WIDTH = 100
_MOST_LINES = 2


def text_table(title: str, rows: Rows) -> str:
    """Format labels and texts as lines that fit a terminal.

    Parameters
    ----------
    title : str
        The first line.
    rows : list of (str, str)
        Label and text of each line; a long text takes a second line, and is cut after that.

    Returns
    -------
    str
    """
    width = max((len(label) for label, _ in rows), default=0)
    lines = [title]
    for label, text in rows:
        parts = textwrap.wrap(
            " ".join(text.splitlines()),
            _WIDTH - width - 4,
            max_lines=_MOST_LINES,
            placeholder="...",
            break_on_hyphens=False,
        )
        lines += [f"  {'' if i else label:<{width}}  {part}" for i, part in enumerate(parts or [""])]
    return "\n".join(line[:_WIDTH] for line in lines)


def span(low: float, high: float) -> str:
    """Write a range of numbers with two decimals, or one number where both are the same.

    Parameters
    ----------
    low, high : float
        The ends.

    Returns
    -------
    str
        ``"4.02 to 4.51"`` or ``"4.02"``.
    """
    first, last = f"{low:.2f}", f"{high:.2f}"
    return first if first == last else f"{first} to {last}"


def html_table(title: str, rows: Iterable[tuple[str, str]]) -> str:
    """Format labels and texts as an HTML table, with everything escaped.

    Parameters
    ----------
    title : str
        Shown above the table.
    rows : iterable of (str, str)
        Label and text of each row.

    Returns
    -------
    str
    """
    cell = "<tr><th style='text-align:left'>{}</th><td style='text-align:left'>{}</td></tr>"
    body = "".join(cell.format(html.escape(label), html.escape(text)) for label, text in rows)
    return f"<div><strong>{html.escape(title)}</strong><table>{body}</table></div>"
