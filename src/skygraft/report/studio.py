"""Figures of a report, each as PNG and PDF beside the page and as a drawing in it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from skygraft.report.blocks import Figure
from skygraft.report.style import save, settle, to_svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

__all__ = ["Studio", "slug"]


def slug(text: str) -> str:
    """Return a text fit for names of files and identifiers: ``half_light_radius`` and ``r`` stay as they are."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.")
    # Two names of bands in another script must not become one.
    return plain if plain == text else "-".join([*([plain] if plain else []), *(f"{ord(c):x}" for c in text[:8])])


class Studio:
    """Keeps the figures that were drawn.

    Parameters
    ----------
    folder : Path
        Where the files go.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names: list[str] = []

    def keep(self, drawing: Drawing, name: str, *, title: str, caption: str, alt: str, wide: bool = False) -> Figure:
        """Write the files of a figure, and return it for the page.

        Parameters
        ----------
        drawing : matplotlib.figure.Figure
        name : str
            Its name; any text.
        title, caption, alt, wide
            As in `skygraft.report.blocks.Figure`.

        Raises
        ------
        OutputError
            If a file cannot be written.
        """
        name = slug(name)
        settle(drawing)
        save(drawing, self.folder, name)
        self.names.append(name)
        return Figure(name, to_svg(drawing, f"f{len(self.names)}"), title, caption, alt, wide=wide)
