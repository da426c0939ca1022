"""Colours of figures, and figures as files and as drawings whose colours follow the page's, light or dark."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from markupsafe import Markup

from skygraft.disk import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["GRID", "INK", "MUTED", "PAPER", "SERIES", "css_colours", "new_figure", "save", "settle", "style", "to_svg"]

# Every colour of a figure is one of these, and each has one of the same meaning on dark paper: a figure is drawn once,
# and its colours in the page are those of the page's CSS. All pairs on their paper have a contrast of 4.5 or more.
_COLOURS = {
    "ink": ("#1c2630", "#e6eaee"),
    "muted": ("#56626e", "#9aa8b5"),
    "grid": ("#dfe4e9", "#2d3640"),
    "paper": ("#ffffff", "#12171c"),
    "series-1": ("#0b5cad", "#6db3f8"),
    "series-2": ("#b14d0a", "#f0a25c"),
    "series-3": ("#0b7355", "#4cc79c"),
    "series-4": ("#8a3d9e", "#d592e6"),
    "series-5": ("#8a6508", "#d9b54a"),
    "series-6": ("#b32b4b", "#f58ba0"),
    "series-7": ("#3f5f7a", "#9fc0dc"),
}
INK, MUTED, GRID, PAPER = (_COLOURS[name][0] for name in ("ink", "muted", "grid", "paper"))
SERIES = tuple(light for name, (light, _) in _COLOURS.items() if name.startswith("series"))
"""Colours of data, light paper; that of the page's links is the first."""

_RC: dict[str, Any] = {
    "svg.hashsalt": "skygraft",
    "svg.fonttype": "path",
    # Names of bands and files are text, whatever signs they have.
    "text.parse_math": False,
    "pdf.compression": 6,
    "font.family": ["DejaVu Sans"],
    "font.size": 8.5,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlesize": 9,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "axes.unicode_minus": True,
    "figure.facecolor": PAPER,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "text.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.5,
    "patch.edgecolor": INK,
    "savefig.facecolor": PAPER,
    "path.simplify": True,
}
_WIDTH, _HEIGHT, _WIDE = 4.9, 3.25, 9.9
_DPI = 160
_DECIMALS = re.compile(r"(\.\d\d)\d+")


@contextmanager
def style() -> Iterator[None]:
    """Draw in the report's style, whatever the user's own settings of matplotlib are."""
    import matplotlib as mpl

    with mpl.rc_context(), warnings.catch_warnings():
        # Of names in scripts that the font does not have; the page has them as text.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        mpl.rcdefaults()
        cast("dict[str, Any]", mpl.rcParams).update(_RC)
        yield


def new_figure(*, wide: bool = False, height: float = 1.0) -> tuple[Figure, Axes]:
    """Return a figure with one panel, and the panel; to be called within `style`."""
    from matplotlib.figure import Figure as NewFigure

    figure = NewFigure(figsize=(_WIDE if wide else _WIDTH, _HEIGHT * height), dpi=_DPI, layout="constrained")
    axes = figure.subplots()
    axes.grid(visible=True)
    axes.set_axisbelow(True)
    return figure, axes


def settle(figure: Figure) -> None:
    """Give the parts of a figure their places for good: each of its files would do so again, and draw all twice."""
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)
        figure.set_layout_engine(None)


def save(figure: Figure, folder: Path, name: str) -> None:
    """Write a figure as PNG and PDF, without the time of writing, so that equal figures are equal files."""
    nothing: dict[str, dict[str, None]] = {
        "png": {"Software": None},
        "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    }
    for suffix, metadata in nothing.items():
        with atomic_path(folder / f"{name}.{suffix}", sync=False) as temporary:
            figure.savefig(temporary, format=suffix, dpi=_DPI, metadata=metadata)


def to_svg(figure: Figure, name: str) -> Markup:
    """Return a figure as an SVG element to stand in a page that has the colours of `css_colours`.

    Its name makes its identifiers different from those of other figures. It is not readable by itself: the page says
    beside it what it shows.
    """
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", facecolor="none", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*|<!--.*?-->\s*", "", text, flags=re.S)
    # Without a size of its own it takes the width that there is.
    head = re.search(r"<svg [^>]*>", text, re.S)
    box = re.search(r'viewBox="([^"]*)"', head[0] if head else "")
    assert head is not None and box is not None
    text = f'<svg viewBox="{box[1]}" aria-hidden="true" focusable="false">' + text[head.end() :]
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = text.replace("url(#", f"url(#{name}-").replace('href="#', f'href="#{name}-').replace("xlink:href", "href")
    # Hundredths of a point are less than can be seen.
    text = re.sub(r' d="[^"]*"', lambda path: _DECIMALS.sub(r"\1", path[0]), text)
    for colour, (light, _) in _COLOURS.items():
        text = text.replace(light, f"var(--{colour})")
    return Markup(re.sub(r"\n\s*", "\n", text))


def css_colours(*, dark: bool) -> str:
    """Return the colours as CSS custom properties."""
    return " ".join(f"--{name}: {pair[dark]};" for name, pair in _COLOURS.items())
