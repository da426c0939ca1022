"""The sky map of the report: outlines of the images, and the fakes found and missed on them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from skygraft.report.counting import Sample
from skygraft.report.frame import Frame
from skygraft.report.style import GRID, INK, MUTED, SERIES, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing
    from matplotlib.patches import PathPatch

    from skygraft.campaign import Plan

__all__ = ["FOUND", "NOT_FOUND", "Outlines", "draw_pixels", "draw_sky", "read_outlines"]

_MOST_OUTLINES = 4000
NOT_FOUND, FOUND = 0, 1

type Outlines = tuple[NDArray[np.float64], int]
"""Corners (image, corner, ra and dec in deg; NaN beyond the last) of images, and how many images there are."""


def read_outlines(plan: Plan) -> Outlines:
    """Read the outlines of a plan's images: all of them, or of many evenly many of the plan's order."""
    total = len(plan)
    take = np.unique(np.linspace(0, total - 1, min(total, _MOST_OUTLINES)).astype(int))
    column = plan.table(["polygon"])["polygon"].combine_chunks().take(take.tolist())
    corners = column.to_pylist()
    longest = max((len(one) for one in corners), default=0)
    found = np.full((len(corners), longest, 2), np.nan)
    for i, one in enumerate(corners):
        found[i, : len(one)] = one
    return found, total


def draw_sky(outlines: Outlines, places: Sample, *, has_recovery: bool) -> tuple[Drawing, Frame]:
    """Draw the map; to be called within `skygraft.report.style.style`.

    Parameters
    ----------
    outlines : Outlines
    places : Sample
        Places of fakes; the kind is 0 for not found, 1 for found.
    has_recovery : bool
        Whether kinds are known.

    Returns
    -------
    matplotlib.figure.Figure
    Frame
        The map.
    """
    from matplotlib.collections import PolyCollection

    corners, _ = outlines
    ra, dec = corners[..., 0].ravel(), corners[..., 1].ravel()
    if not np.isfinite(ra).any():
        ra, dec = places.ra, places.dec
    frame = Frame.around(ra, dec)
    figure, axes = new_figure(height=1.35)
    frame.set_up(axes, ink=INK, grid=GRID)
    shapes = [np.stack(frame.project(*one[np.isfinite(one[:, 0])].T), axis=1) for one in corners]
    shapes = [shape for shape in shapes if len(shape) >= 3]
    alpha = float(np.clip(6.0 / max(len(shapes), 1), 0.04, 0.10))
    axes.add_collection(PolyCollection(shapes, facecolors=MUTED, edgecolors="none", alpha=alpha, zorder=1))
    axes.add_collection(PolyCollection(shapes, facecolors="none", edgecolors=MUTED, linewidths=0.7, zorder=2))
    x, y = frame.project(places.ra, places.dec)
    size = float(np.clip(60.0 / np.sqrt(max(len(x), 1)), 1.2, 4.5))
    groups = [("found", places.kind == FOUND, SERIES[0]), ("not found", places.kind == NOT_FOUND, SERIES[1])]
    if not has_recovery:
        groups = [("fakes", np.ones(len(x), dtype=bool), SERIES[0])]
    for label, which, colour in groups:
        if which.any():
            axes.add_patch(_dots(x[which], y[which], frame.radius, size, colour))
            axes.plot([], [], "o", ms=4.5, mew=0, color=colour, label=label)
    if any(which.any() for _, which, _ in groups):
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.08), ncols=2, handletextpad=0.2)
    return figure, frame


def _dots(x: NDArray[np.float64], y: NDArray[np.float64], radius: float, size: float, colour: str) -> PathPatch:
    """Dots as one path, since thousands of markers would make the page large."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    points = np.repeat(np.stack([x, y], axis=1), 2, axis=0)
    points[1::2, 0] += 1e-4 * radius  # a line without length is not drawn
    codes = np.tile(np.array([Path.MOVETO, Path.LINETO], dtype=Path.code_type), len(x))
    path = Path(points, codes)
    path.should_simplify = False
    return PathPatch(path, fill=False, ec=colour, lw=size, capstyle="round", alpha=0.9, zorder=3)


def draw_pixels(
    frame: Frame, pixels: NDArray[np.int64], nside: int, values: NDArray[np.float64], label: str
) -> Drawing:
    """Draw a HEALPix map; to be called within `skygraft.report.style.style`.

    Parameters
    ----------
    frame : Frame
        The map.
    pixels : ndarray of int, shape (N,)
        Nested.
    nside : int
        Resolution.
    values : ndarray, shape (N,)
    label : str
        What the values are.
    """
    from astropy_healpix import HEALPix
    from matplotlib.collections import PolyCollection

    figure, axes = new_figure(height=1.35)
    frame.set_up(axes, ink=INK, grid=GRID)
    good = np.isfinite(values)
    lon, lat = HEALPix(nside, order="nested").boundaries_lonlat(pixels[good], step=4)
    shapes = [np.stack(frame.project(a, d), axis=1) for a, d in zip(lon.deg, lat.deg, strict=True)]
    drawn = PolyCollection(shapes, array=values[good], cmap="cividis", edgecolors="face", linewidths=0.3, zorder=1)
    if good.any():
        # A few pixels at the rim that hold little do not take all colours.
        low, high = np.percentile(values[good], [2, 98])
        drawn.set_clim(float(low), float(high) if high > low else float(low) + 1e-6)
    axes.add_collection(drawn, autolim=False)
    bar = figure.colorbar(drawn, ax=axes, pad=0.02, aspect=30, shrink=0.8)
    bar.set_label(label)
    bar.outline.set_visible(False)
    return figure
