"""What all figures share: colours for light and dark pages, the stretch of pixels, and how a figure becomes a file."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from skygraft.disk import atomic_path
from skygraft.errors import ConfigError

__all__ = [
    "FOUND_COLOR",
    "GALAXY_COLOR",
    "MISSED_COLOR",
    "STAR_COLOR",
    "THEMES",
    "Theme",
    "asinh_stretch",
    "figure_bytes",
    "save_figure",
    "sky_level",
    "styled",
    "theme_of",
]

STAR_COLOR, GALAXY_COLOR = "#ffb000", "#4cc9f0"
FOUND_COLOR, MISSED_COLOR = "#4cc9f0", "#ff6b6b"
"""Colours of markers on the dark sky of an image."""

SOFTENING = 3.0  # sigma at which the asinh stretch turns from linear to logarithmic
WHITE = 150.0  # sigma that is drawn white


@dataclass(frozen=True)
class Theme:
    """The colours of a figure around its images.

    Parameters
    ----------
    name : str
        ``"light"`` or ``"dark"``.
    background, text, muted : str
        Of the page, of titles and labels, and of what matters less.
    colormap : str
        Of densities: it begins near the colour of the page.
    """

    name: str
    background: str
    text: str
    muted: str
    colormap: str


THEMES = {
    "light": Theme("light", "#ffffff", "#1b1f24", "#6b7480", "YlGnBu"),
    "dark": Theme("dark", "#14171c", "#e6e9ed", "#929ba6", "viridis"),
}


def theme_of(name: str) -> Theme:
    """Return the theme of a name.

    Parameters
    ----------
    name : {"light", "dark"}

    Returns
    -------
    Theme

    Raises
    ------
    ConfigError
        If there is no such theme.
    """
    if name not in THEMES:
        raise ConfigError(f"there is no theme {name!r}", key="theme", fix=f"Give one of {', '.join(THEMES)}")
    return THEMES[name]


@contextmanager
def styled(theme: Theme) -> Iterator[None]:
    """Draw text, axes and backgrounds in the colours of a theme, whatever the user's own style is.

    Parameters
    ----------
    theme : Theme
    """
    colours: dict[Any, Any] = {
        "figure.facecolor": theme.background,
        "savefig.facecolor": theme.background,
        "axes.facecolor": theme.background,
        "axes.edgecolor": theme.muted,
        "axes.labelcolor": theme.text,
        "axes.titlecolor": theme.text,
        "text.color": theme.text,
        "xtick.color": theme.muted,
        "ytick.color": theme.muted,
        "xtick.labelcolor": theme.text,
        "ytick.labelcolor": theme.text,
        "legend.facecolor": theme.background,
        "legend.edgecolor": theme.muted,
        "legend.labelcolor": theme.text,
        "font.size": 11.0,
        "svg.fonttype": "none",  # text that can be read, searched and scaled
        "pdf.fonttype": 42,
    }
    with matplotlib.rc_context(colours):
        yield


def save_figure(figure: Figure, path: str | Path, *, dpi: int = 130) -> Path:
    """Write a figure in the format of the suffix, by default PNG, and return the path.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
    path : path-like
    dpi : int
        Resolution, dots per inch.

    Returns
    -------
    Path

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    path = Path(path)
    with atomic_path(path, make_folder=False) as temporary:
        temporary.write_bytes(figure_bytes(figure, path.suffix.removeprefix(".").lower() or "png", dpi=dpi))
    return path


def figure_bytes(figure: Figure, format: str = "png", *, dpi: int = 130) -> bytes:
    """Draw a figure into memory, for a page that holds its pictures in itself.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
    format : {"png", "pdf", "svg", "jpg"}
    dpi : int
        Resolution, dots per inch.

    Returns
    -------
    bytes
        The content of the file. The same figure gives the same bytes.
    """
    FigureCanvasAgg(figure)
    # What would hold the time of drawing.
    metadata: dict[str, Any] | None = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}.get(format)
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "skygraft", "pdf.fonttype": 42}):
        figure.savefig(buffer, format=format, dpi=dpi, facecolor=figure.get_facecolor(), metadata=metadata)
    return buffer.getvalue()


def sky_level(pixels: NDArray[Any]) -> tuple[float, float]:
    """Estimate level and noise of the sky by median and median absolute deviation.

    Parameters
    ----------
    pixels : ndarray
        An image or a part of it; pixels that are not finite are left out.

    Returns
    -------
    level, sigma : float
        In the units of the pixels; sigma is positive. Zero and one without a finite pixel.
    """
    sample = pixels.ravel()[:: max(1, pixels.size // 200_000)]
    sample = sample[np.isfinite(sample)]
    if not sample.size:
        return 0.0, 1.0
    level = float(np.median(sample))
    return level, max(float(1.4826 * np.median(np.abs(sample - level))), 1e-12)


def asinh_stretch(pixels: NDArray[Any], sigma: float, *, white: float = WHITE) -> NDArray[np.float64]:
    """Map pixels above the sky to brightness: linear in the noise, logarithmic above (Lupton et al. 2004).

    Parameters
    ----------
    pixels : ndarray
        Sky-subtracted.
    sigma : float
        Noise of the sky.
    white : float
        What is drawn white, in sigma.

    Returns
    -------
    ndarray of float64
        0 (2.5 sigma below the sky) to 1; NaN pixels are drawn as the sky.
    """
    low, high = np.arcsinh(-2.5 / SOFTENING), np.arcsinh(white / SOFTENING)
    stretched = np.arcsinh(np.nan_to_num(pixels.astype(np.float64)) / (SOFTENING * sigma))
    return np.asarray(np.clip((stretched - low) / (high - low), 0, 1))
