"""Draw images before and after injection, their difference, and closure against magnitude. No display is needed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from numpy.typing import NDArray

from skygraft.errors import InjectionError
from skygraft.exposure import Exposure
from skygraft.qa.closure import ClosureSummary, summarize_closure
from skygraft.wcs import local_jacobian, pixel_scale

__all__ = ["best_cutout", "closure_figure", "composite_figure", "save_figure", "triplet_figure"]

STAR_COLOR, GALAXY_COLOR = "#ffb000", "#4cc9f0"
BAND_COLORS = {"u": "#7b4fb5", "g": "#2a7fba", "r": "#c8442d", "i": "#8c2f39", "z": "#5f4b44", "y": "#3d3d3d"}
SOFTENING = 3.0  # sigma at which the asinh stretch turns from linear to logarithmic
WHITE = 150.0  # sigma that is drawn white

type Cutout = tuple[int, int, int, int]
"""x0, y0 (parent pixels) and width, height."""


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
    """
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=dpi, facecolor=figure.get_facecolor())
    return Path(path)


def triplet_figure(
    before: Exposure, after: Exposure, truth: Table, *, cutout: Cutout | None = None, faintest: float | None = None
) -> Figure:
    """Draw an image before and after injection, and the difference, on one asinh scale, with injected sources circled.

    Parameters
    ----------
    before, after : Exposure
        The image without and with the sources.
    truth : Table
        Truth table from `skygraft.inject`; circles have the radius of the calibration aperture.
    cutout : (int, int, int, int), optional
        First column and row (parent frame), width and height; the whole image by default.
    faintest : float, optional
        Sources fainter than this magnitude get no circle.

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure = Figure(figsize=(15, 5.6), facecolor="white")
    axes = figure.subplots(1, 3)
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.03, top=0.9, wspace=0.02)
    _triplet(list(axes), before, after, truth, cutout, faintest)
    return figure


def closure_figure(closure: Table) -> Figure:
    """Plot residual against magnitude, a panel per band, with expected noise and the offset of a unit-sum PSF.

    Parameters
    ----------
    closure : Table
        From `measure_closure`, or several tables stacked.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    InjectionError
        If no star was measured.
    """
    bands = _bands(closure)
    figure = Figure(figsize=(6.4 * len(bands), 4.4), facecolor="white", layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, len(bands), sharey=True))
    for axis, band in zip(axes, bands, strict=True):
        _closure(axis, closure[np.asarray(closure["band"]).astype(str) == band], band)
    axes[0].set_ylabel("recovered − injected (mag)")
    return figure


def composite_figure(
    before: Exposure,
    after: Exposure,
    truth: Table,
    closure: Table,
    *,
    cutout: Cutout | None = None,
    faintest: float | None = None,
    title: str = "",
) -> Figure:
    """Draw the images of `triplet_figure` above the panels of `closure_figure`.

    Parameters
    ----------
    before, after, truth, cutout, faintest
        As in `triplet_figure`.
    closure : Table
        As in `closure_figure`.
    title : str

    Returns
    -------
    matplotlib.figure.Figure
    """
    bands = _bands(closure)
    figure = Figure(figsize=(15, 9.9), facecolor="white")
    top = figure.add_gridspec(1, 3, left=0.01, right=0.99, bottom=0.42, top=0.91, wspace=0.02)
    low = figure.add_gridspec(1, len(bands), left=0.06, right=0.985, bottom=0.07, top=0.355, wspace=0.06)
    _triplet([figure.add_subplot(top[0, i]) for i in range(3)], before, after, truth, cutout, faintest)
    first: Axes | None = None
    for i, band in enumerate(bands):
        axis = figure.add_subplot(low[0, i], sharey=first)
        _closure(axis, closure[np.asarray(closure["band"]).astype(str) == band], band)
        if first is None:
            first = axis
            axis.set_ylabel("recovered − injected (mag)")
        else:
            axis.tick_params(labelleft=False)
    if title:
        figure.text(0.012, 0.972, title, fontsize=15, weight="bold", va="center")
    return figure


def best_cutout(exposure: Exposure, truth: Table, size: int) -> Cutout:
    """Return the square of the image with most injected sources, weighted by magnitude rather than flux.

    Parameters
    ----------
    exposure : Exposure
    truth : Table
        Truth table of the image.
    size : int
        Side of the square, pixels.

    Returns
    -------
    (int, int, int, int)
        First column and row (parent frame), width and height.
    """
    (ny, nx), (x0, y0) = exposure.shape, exposure.xy0
    width, height = min(size, nx), min(size, ny)
    x, y = _values(truth["x"]) - x0, _values(truth["y"]) - y0
    weight = np.clip(24 - _values(truth["mag"]), 0, 5)
    weight[~np.isfinite(weight) | (_values(truth["stamp_size"]) == 0)] = 0
    best, place = -1.0, (0, 0)
    for top in np.unique(np.linspace(0, ny - height, 9).astype(int)):
        for left in np.unique(np.linspace(0, nx - width, 9).astype(int)):
            inside = (x > left) & (x < left + width) & (y > top) & (y < top + height)
            galaxies = np.asarray(truth["source_type"]).astype(str) != "Star"
            score = float(weight[inside].sum() + weight[inside & galaxies].sum())
            if score > best:
                best, place = score, (int(left), int(top))
    return place[0] + x0, place[1] + y0, width, height


def _triplet(
    axes: Sequence[Axes],
    before: Exposure,
    after: Exposure,
    truth: Table,
    cutout: Cutout | None,
    faintest: float | None,
) -> None:
    (ny, nx), origin = before.shape, before.xy0
    x0, y0, width, height = cutout or (*origin, nx, ny)
    part = np.s_[y0 - origin[1] : y0 - origin[1] + height, x0 - origin[0] : x0 - origin[0] + width]
    level, sigma = _sky(before.image)
    panels = (
        ("before", before.image - level),
        ("after: with the injected sources", after.image - level),
        ("difference: after − before", after.image - before.image),
    )
    extent = (x0 - 0.5, x0 + width - 0.5, y0 - 0.5, y0 + height - 0.5)
    for axis, (title, pixels) in zip(axes, panels, strict=True):
        axis.imshow(
            _stretch(pixels[part], sigma), cmap="gray", vmin=0, vmax=1, origin="lower", extent=extent,
            interpolation="nearest",
        )  # fmt: skip
        axis.set_title(title, fontsize=12, loc="left")
        axis.set_xticks([])
        axis.set_yticks([])
    aperture = before.photo_calib.aperture if before.photo_calib is not None else None
    radius = aperture.radius_pixels if aperture is not None else 12.0
    for axis in axes[1:]:
        _circles(axis, truth, radius, faintest)
        axis.set_xlim(extent[:2])
        axis.set_ylim(extent[2:])
    _furniture(axes[0], before, (x0, y0, width, height))
    _legend(axes[1], radius)


def _sky(image: NDArray[np.float32]) -> tuple[float, float]:
    sample = image.ravel()[:: max(1, image.size // 200_000)]
    sample = sample[np.isfinite(sample)]
    level = float(np.median(sample))
    return level, max(float(1.4826 * np.median(np.abs(sample - level))), 1e-12)


def _stretch(pixels: NDArray[Any], sigma: float) -> NDArray[np.float64]:
    low, high = np.arcsinh(-2.5 / SOFTENING), np.arcsinh(WHITE / SOFTENING)
    stretched = np.arcsinh(np.nan_to_num(pixels.astype(np.float64)) / (SOFTENING * sigma))
    return np.asarray(np.clip((stretched - low) / (high - low), 0, 1))


def _circles(axis: Axes, truth: Table, radius: float, faintest: float | None) -> None:
    kinds = np.asarray(truth["source_type"]).astype(str)
    drawn = _values(truth["stamp_size"]) > 0
    if faintest is not None:
        drawn &= _values(truth["mag"]) < faintest
    for x, y, kind in zip(_values(truth["x"])[drawn], _values(truth["y"])[drawn], kinds[drawn], strict=True):
        color = STAR_COLOR if kind == "Star" else GALAXY_COLOR
        axis.add_patch(Circle((x, y), radius, fill=False, ec=color, lw=1.0, alpha=0.95))


def _legend(axis: Axes, radius: float) -> None:
    handles = [
        axis.plot([], [], "o", mfc="none", mec=color, ms=9, mew=1.4, ls="none", label=label)[0]
        for color, label in ((STAR_COLOR, "injected star"), (GALAXY_COLOR, "injected galaxy"))
    ]
    box = axis.legend(
        handles=handles, loc="lower left", fontsize=9, framealpha=0.75, facecolor="black", edgecolor="none",
        labelcolor="white", title=f"circle: {radius:g} pix calibration aperture", title_fontsize=8,
    )  # fmt: skip
    box.get_title().set_color("white")


def _furniture(axis: Axes, exposure: Exposure, cutout: Cutout) -> None:
    """Draw a scale bar, and arrows to North and East."""
    x0, y0, width, height = cutout
    middle = np.array([x0 + width / 2]), np.array([y0 + height / 2])
    scale = float(pixel_scale(exposure.wcs, *middle)[0])
    arcsec = next((n for n in (60, 30, 20, 10, 5, 2, 1) if n / scale < 0.3 * width), 1)
    left, low = x0 + 0.04 * width, y0 + 0.05 * height
    axis.plot([left, left + arcsec / scale], [low, low], color="white", lw=2.5, solid_capstyle="butt")
    axis.text(left, low + 0.015 * height, f'{arcsec}"', color="white", fontsize=10, va="bottom")
    inverse = np.linalg.inv(local_jacobian(exposure.wcs, *middle)[0])
    foot = np.array([x0 + 0.88 * width, y0 + 0.13 * height])
    for name, sky in (("N", (0.0, 1.0)), ("E", (1.0, 0.0))):
        arrow = inverse @ np.array(sky)
        arrow *= 0.075 * width / np.hypot(*arrow)
        axis.annotate(
            "", xy=tuple(foot + arrow), xytext=tuple(foot), arrowprops={"arrowstyle": "->", "color": "white", "lw": 1.4}
        )
        end = foot + 1.3 * arrow
        axis.text(float(end[0]), float(end[1]), name, color="white", fontsize=10, ha="center", va="center")


def _closure(axis: Axes, table: Table, band: str) -> None:
    summary: ClosureSummary = summarize_closure(table)
    mag, residual, sigma = (_values(table[name]) for name in ("mag_in", "residual", "sigma"))
    color = BAND_COLORS.get(band, "#2a7fba")
    if len(mag):
        grid = np.linspace(mag.min() - 0.2, mag.max() + 0.2, 100)
        if (sigma > 0).any():
            # Photon noise in magnitudes grows as 10^(0.2 m); the normalisation is the median of the stars.
            height = np.median(sigma / 10 ** (0.2 * mag)) * 10 ** (0.2 * grid)
            axis.fill_between(grid, -height, height, color="0.86", lw=0, label="expected photon noise (±1σ)", zorder=0)
            axis.fill_between(grid, -2 * height, 2 * height, color="0.93", lw=0, zorder=-1)
        axis.set_xlim(grid[0], grid[-1])
    axis.axhline(0, color="0.35", lw=1)
    axis.plot(mag, residual, "o", ms=4, color=color, alpha=0.75, mew=0, label=f"{summary.n} isolated injected stars")
    if np.isfinite(summary.psf_sum_offset):
        axis.axhline(
            summary.psf_sum_offset, color="#d1495b", lw=1.6, ls="--",
            label=f"if the PSF were scaled to unit sum: {summary.psf_sum_offset:+.3f}",
        )  # fmt: skip
    spread = np.percentile(np.abs(residual), 98) if len(residual) else 0.01
    offset = abs(summary.psf_sum_offset) if np.isfinite(summary.psf_sum_offset) else 0.0
    limit = 1.6 * max(spread, offset, 2e-3)
    # The bands share an axis, which is scaled to the widest one.
    siblings = axis.get_shared_y_axes().get_siblings(axis)
    widest = max([limit, *(a.get_ylim()[1] for a in siblings if a is not axis and a.has_data())])
    axis.set_ylim(-widest, widest)
    axis.set_xlabel(f"injected magnitude ({band})")
    axis.set_title(
        f"{band}: median {1e3 * summary.median:+.2f} ± {1e3 * summary.median_error:.2f} mmag, "
        f"scatter {1e3 * summary.scatter:.1f} (expected {1e3 * summary.expected:.1f})",
        fontsize=11, loc="left",
    )  # fmt: skip
    axis.legend(loc="lower left", fontsize=8.5, frameon=False)
    axis.spines[["top", "right"]].set_visible(False)


def _bands(table: Table) -> list[str]:
    if not len(table):
        raise InjectionError("no injected star stands alone, so that there is no closure to show")
    return sorted(set(np.asarray(table["band"]).astype(str)), key=lambda b: ("ugrizy".find(b) % 99, b))


def _values(column: Any) -> NDArray[np.float64]:
    return np.array(getattr(column, "value", column), dtype=np.float64)
