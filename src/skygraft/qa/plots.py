"""Draw closure against magnitude. No display is needed."""

from __future__ import annotations

from typing import Any

import numpy as np
from astropy.table import Table
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from skygraft.errors import InjectionError
from skygraft.qa.closure import ClosureSummary, summarize_closure

__all__ = ["bands_of_closure", "closure_figure", "draw_closure"]

BAND_COLORS = {"u": "#7b4fb5", "g": "#2a7fba", "r": "#c8442d", "i": "#8c2f39", "z": "#5f4b44", "y": "#3d3d3d"}


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
    bands = bands_of_closure(closure)
    figure = Figure(figsize=(6.4 * len(bands), 4.4), facecolor="white", layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, len(bands), sharey=True))
    for axis, band in zip(axes, bands, strict=True):
        draw_closure(axis, closure[np.asarray(closure["band"]).astype(str) == band], band)
    axes[0].set_ylabel("recovered − injected (mag)")
    return figure


def draw_closure(axis: Axes, table: Table, band: str) -> None:
    """Draw one panel of `closure_figure`.

    Parameters
    ----------
    axis : matplotlib.axes.Axes
    table : Table
        From `measure_closure`, of one band.
    band : str
        Its name.
    """
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


def bands_of_closure(table: Table) -> list[str]:
    """Return the bands of a table from `measure_closure`, from blue to red.

    Parameters
    ----------
    table : Table

    Returns
    -------
    list of str

    Raises
    ------
    InjectionError
        If no star was measured.
    """
    if not len(table):
        raise InjectionError("no injected star stands alone, so that there is no closure to show")
    return sorted(set(np.asarray(table["band"]).astype(str)), key=lambda b: ("ugrizy".find(b) % 99, b))


def _values(column: Any) -> NDArray[np.float64]:
    return np.array(getattr(column, "value", column), dtype=np.float64)
