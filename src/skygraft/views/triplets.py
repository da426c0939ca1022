"""Draw an image before and after injection, and their difference. No display is needed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from astropy.table import Table
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from numpy.typing import NDArray

from skygraft.exposure import Exposure
from skygraft.views.figures import GALAXY_COLOR, STAR_COLOR, asinh_stretch, sky_level, styled, theme_of
from skygraft.wcs import local_jacobian, pixel_scale

__all__ = ["Cutout", "best_cutout", "draw_compass", "draw_triplet", "triplet_figure"]

DEFAULT_RADIUS = 12.0
"""Radius of circles where the image is not calibrated to an aperture, pixels."""

type Cutout = tuple[int, int, int, int]
"""First column and row (parent pixels), width and height."""


def triplet_figure(
    before: Exposure,
    after: Exposure,
    truth: Table | None = None,
    *,
    cutout: Cutout | None = None,
    faintest: float | None = None,
    title: str = "",
    theme: str = "light",
) -> Figure:
    """Draw an image before and after injection, and the difference, on one asinh scale, with injected sources circled.

    Parameters
    ----------
    before, after : Exposure
        The image without and with the sources.
    truth : Table, optional
        Truth table from `skygraft.inject`; circles have the radius of the calibration aperture. None draws no circles.
    cutout : (int, int, int, int), optional
        First column and row (parent frame), width and height; the whole image by default.
    faintest : float, optional
        Sources fainter than this magnitude get no circle.
    title : str
        Above the panels.
    theme : {"light", "dark"}
        Colours around the images.

    Returns
    -------
    matplotlib.figure.Figure
    """
    ny, nx = before.shape
    width, height = cutout[2:] if cutout else (nx, ny)
    # Three panels side by side; a tall image gets narrower ones, so that they fill the figure.
    panel = float(np.clip(4.9 * height / width, 2.4, 8.0))
    above = 0.42 + (0.34 if title else 0.0)
    total = panel + above + 0.1
    with styled(theme_of(theme)):
        figure = Figure(figsize=(15, total))
        axes = figure.subplots(1, 3)
        figure.subplots_adjust(left=0.008, right=0.992, bottom=0.1 / total, top=1 - above / total, wspace=0.02)
        draw_triplet(list(axes), before, after, truth, cutout, faintest)
        if title:
            figure.text(0.008, 1 - 0.22 / total, title, fontsize=14, weight="bold", va="center")
    return figure


def draw_triplet(
    axes: Sequence[Axes],
    before: Exposure,
    after: Exposure,
    truth: Table | None,
    cutout: Cutout | None = None,
    faintest: float | None = None,
) -> None:
    """Draw the panels of `triplet_figure` on three axes.

    Parameters
    ----------
    axes : sequence of matplotlib.axes.Axes
        Three: before, after, difference.
    before, after, truth, cutout, faintest
        As in `triplet_figure`.
    """
    (ny, nx), origin = before.shape, before.xy0
    x0, y0, width, height = cutout or (*origin, nx, ny)
    part = np.s_[y0 - origin[1] : y0 - origin[1] + height, x0 - origin[0] : x0 - origin[0] + width]
    level, sigma = sky_level(before.image)
    panels = (
        ("before", before.image - level),
        ("after: with the injected sources", after.image - level),
        ("difference: after − before", after.image - before.image),
    )
    extent = (x0 - 0.5, x0 + width - 0.5, y0 - 0.5, y0 + height - 0.5)
    for axis, (title, pixels) in zip(axes, panels, strict=True):
        axis.imshow(
            asinh_stretch(pixels[part], sigma), cmap="gray", vmin=0, vmax=1, origin="lower", extent=extent,
            interpolation="nearest",
        )  # fmt: skip
        axis.set_title(title, fontsize=12, loc="left")
        axis.set_xticks([])
        axis.set_yticks([])
    aperture = before.photo_calib.aperture if before.photo_calib is not None else None
    radius = aperture.radius_pixels if aperture is not None else DEFAULT_RADIUS
    if truth is not None:
        for axis in axes[1:]:
            _circles(axis, truth, radius, faintest)
            axis.set_xlim(extent[:2])
            axis.set_ylim(extent[2:])
        _legend(axes[1], f"circle: {radius:.3g} pix" + (" calibration aperture" if aperture is not None else ""))
    draw_compass(axes[0], before, (x0, y0, width, height))


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


def draw_compass(axis: Axes, exposure: Exposure, cutout: Cutout) -> None:
    """Draw a scale bar, and arrows to North and East.

    Parameters
    ----------
    axis : matplotlib.axes.Axes
        In parent pixels.
    exposure : Exposure
        For its WCS.
    cutout : (int, int, int, int)
        What the axes show: first column and row, width and height, in parent pixels.
    """
    x0, y0, width, height = cutout
    middle = np.array([x0 + width / 2]), np.array([y0 + height / 2])
    scale = float(pixel_scale(exposure.wcs, *middle)[0])
    arcsec = next((n for n in (600, 300, 120, 60, 30, 20, 10, 5, 2, 1, 0.5, 0.2) if n / scale < 0.3 * width), 0.1)
    left, low = x0 + 0.04 * width, y0 + 0.05 * height
    axis.plot([left, left + arcsec / scale], [low, low], color="white", lw=2.5, solid_capstyle="butt")
    axis.text(left, low + 0.015 * height, f'{arcsec:g}"', color="white", fontsize=10, va="bottom")
    inverse = np.linalg.inv(local_jacobian(exposure.wcs, *middle)[0])
    side = min(width, height)
    foot = np.array([x0 + width - 0.13 * side, y0 + 0.13 * side])
    for name, sky in (("N", (0.0, 1.0)), ("E", (1.0, 0.0))):
        arrow = inverse @ np.array(sky)
        arrow *= 0.075 * side / np.hypot(*arrow)
        axis.annotate(
            "", xy=tuple(foot + arrow), xytext=tuple(foot), arrowprops={"arrowstyle": "->", "color": "white", "lw": 1.4}
        )
        end = foot + 1.3 * arrow
        axis.text(float(end[0]), float(end[1]), name, color="white", fontsize=10, ha="center", va="center")


def _circles(axis: Axes, truth: Table, radius: float, faintest: float | None) -> None:
    kinds = np.asarray(truth["source_type"]).astype(str)
    drawn = _values(truth["stamp_size"]) > 0
    if faintest is not None:
        drawn &= _values(truth["mag"]) < faintest
    for x, y, kind in zip(_values(truth["x"])[drawn], _values(truth["y"])[drawn], kinds[drawn], strict=True):
        color = STAR_COLOR if kind == "Star" else GALAXY_COLOR
        axis.add_patch(Circle((x, y), radius, fill=False, ec=color, lw=1.0, alpha=0.95))


def _legend(axis: Axes, title: str) -> None:
    handles = [
        axis.plot([], [], "o", mfc="none", mec=color, ms=9, mew=1.4, ls="none", label=label)[0]
        for color, label in ((STAR_COLOR, "injected star"), (GALAXY_COLOR, "injected galaxy"))
    ]
    box = axis.legend(
        handles=handles, loc="lower left", fontsize=9, framealpha=0.75, facecolor="black", edgecolor="none",
        labelcolor="white", title=title, title_fontsize=8,
    )  # fmt: skip
    box.get_title().set_color("white")


def _values(column: Any) -> NDArray[np.float64]:
    return np.array(getattr(column, "value", column), dtype=np.float64)
