"""Escaping of text from files, headers and catalogues before it is shown, since terminals obey control characters.

Whoever names a file can write escape sequences into it, which rename a terminal's window, hide lines or type commands.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from typing import Any

__all__ = ["console", "json_text", "printable"]

# C0, DEL and C1 controls (0x9B is the eight-bit form of ESC [), what turns the direction of text around, line and
# paragraph separators, and surrogates, which stand for bytes of file names that are not UTF-8.
_UNSAFE = r"\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
_IN_A_LINE = re.compile(f"[{_UNSAFE}]")
_IN_LINES = re.compile(rf"(?![\n\t])[{_UNSAFE}]")


def _escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def printable(text: object, *, lines: bool = False) -> str:
    r"""Escape every control character of a text that a terminal would obey, such as ``\x1b``.

    Parameters
    ----------
    text : object
        The text, or what has one.
    lines : bool
        Leave line ends and tabulators as they are: for text of several lines.

    Returns
    -------
    str
    """
    text = str(text)
    return text if text.isprintable() else (_IN_LINES if lines else _IN_A_LINE).sub(_escaped, text)


def json_text(text: str) -> str:
    """Replace control characters in JSON by JSON's own escapes, which does not change its meaning.

    Parameters
    ----------
    text : str
        JSON as `json.dumps` makes it, which writes some control characters as they are.

    Returns
    -------
    str
    """
    return text if text.isprintable() else _IN_LINES.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


@functools.cache
def _console_class() -> Any:
    from rich.console import Console
    from rich.segment import Segment

    class PrintableConsole(Console):
        def render(self, renderable: Any, options: Any = None) -> Iterable[Segment]:
            for segment in super().render(renderable, options):
                if segment.control or segment.text.isprintable():
                    yield segment
                else:
                    yield Segment(printable(segment.text, lines=True), segment.style)

    return PrintableConsole


def console(**options: Any) -> Any:
    """Make a `rich.console.Console` that escapes control characters.

    Parameters
    ----------
    **options
        Of `rich.console.Console`.

    Returns
    -------
    rich.console.Console
    """
    return _console_class()(**options)
