"""Figures of a recovery: completeness, biases and reasons against a quantity, one series for each type of source."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from skygraft.report.style import GRID, INK, MUTED, SERIES, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

__all__ = ["Series", "bars", "completeness_curves", "heat_map", "short", "stacked", "steps", "value_curves"]

type Array = NDArray[np.float64]

_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_LONGEST = 28


@dataclass(frozen=True)
class Series:
    """Points of one series, with the ends of their error bars, and a curve."""

    label: str
    x: Array
    y: Array  # NaN where there is no point
    lower: Array
    upper: Array
    curve: Callable[[Array], Array] | None = None  # values at any x
    mark: float = float("nan")  # an x that is marked on the axis
    spread: Array | None = None  # half width of a shade about the points

    def ends(self, form: str = ".3g") -> str:
        """Return its first and last point in words, with x in a format: ``0.98 at 20, 0.02 at 25``; empty for none."""
        good = np.flatnonzero(np.isfinite(self.y))
        return ", ".join(f"{self.y[i]:.2f} at {self.x[i]:{form}}" for i in good[[0, -1]]) if good.size else ""


def short(text: str) -> str:
    """Cut a text that would not fit into a figure."""
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def colour_of(i: int) -> str:
    """The colour of a series by its number."""
    return SERIES[i % len(SERIES)]


def _points(axes: Axes, i: int, one: Series) -> None:
    good = np.isfinite(one.y)
    bars = np.stack([one.y - one.lower, one.upper - one.y])[:, good]
    errors = np.nan_to_num(np.clip(bars, 0, None))
    axes.errorbar(one.x[good], one.y[good], errors, ms=4, elinewidth=1.0, capsize=0, **_markers(i, one.label))


def _markers(i: int, label: str) -> dict[str, Any]:
    fmt = _MARKERS[i % len(_MARKERS)]
    return {"fmt": fmt, "mew": 0, "color": colour_of(i), "label": short(label), "zorder": 3}


def completeness_curves(
    series: Sequence[Series],
    x_label: str,
    *,
    snr_axis: bool = False,
    legend: bool = True,
    y_label: str = "completeness",
    log: bool = False,
) -> Drawing:
    """Draw completeness with its intervals and fitted curves; to be called within `skygraft.report.style.style`.

    Parameters
    ----------
    series : sequence of Series
        Marks are where half is found.
    x_label : str
    snr_axis : bool
        Whether x is magnitude minus depth, which is a signal-to-noise ratio too.
    legend : bool
    y_label : str
    log : bool
        Whether x is logarithmic.

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure, axes = new_figure()
    if log:
        axes.set_xscale("log")
        # Not as powers, which are written as mathematics; that is off, for names that come from outside.
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter("")
    for i, one in enumerate(series):
        _points(axes, i, one)
        if one.curve is not None and np.isfinite(one.y).any():
            at = np.linspace(np.nanmin(one.x), np.nanmax(one.x), 300)
            axes.plot(at, one.curve(at), color=colour_of(i), lw=1.4, zorder=2)
        if np.isfinite(one.mark):
            axes.plot([one.mark, one.mark], [0, 0.5], color=colour_of(i), lw=0.9, ls=(0, (3, 2)), zorder=1)
    axes.set(ylim=(0, 1.03), yticks=np.linspace(0, 1, 6), xlabel=x_label, ylabel=y_label)
    if snr_axis:
        top = axes.secondary_xaxis("top")
        low, high = axes.get_xlim()
        ratios = [r for r in (1, 2, 3, 5, 10, 20, 50, 100, 200, 500, 1000) if low <= -2.5 * np.log10(r / 5) <= high]
        # Equally spaced in log, but not too many for the width.
        ratios = ratios[:: max(1, len(ratios) // 7)]
        top.set_xticks([-2.5 * np.log10(r / 5) for r in ratios], [f"{r:g}" for r in ratios])
        top.set_xlabel("expected signal-to-noise ratio")
        top.spines["top"].set_visible(True)
        top.spines["top"].set_color(MUTED)
    if legend and series:
        axes.legend(loc="lower left", handletextpad=0.3, borderaxespad=0.3)
    return figure


def steps(x: Array, y: Array, lower: Array, upper: Array, x_label: str, y_label: str) -> Drawing:
    """Draw a fraction that grows in steps, with its interval as a shade; to be called within `style`."""
    figure, axes = new_figure()
    axes.fill_between(x, lower, upper, step="post", color=colour_of(0), alpha=0.16, lw=0, zorder=1)
    axes.step(x, y, where="post", color=colour_of(0), zorder=2)
    axes.set(ylim=(0, 1.03), yticks=np.linspace(0, 1, 6), xlabel=x_label, ylabel=y_label)
    return figure


def value_curves(
    series: Sequence[Series],
    x_label: str,
    y_label: str,
    *,
    zero: float | None = 0.0,
    lines: Sequence[float] = (),
    vertical: float = float("nan"),
    faint_first: bool = False,
) -> Drawing:
    """Draw medians with their errors, and the scatter of single values as a shade.

    Parameters
    ----------
    series : sequence of Series
    x_label, y_label : str
    zero : float or None
        A line at what would be perfect.
    lines : sequence of float
        Further lines.
    vertical : float
        An x that is marked; NaN for none.
    faint_first : bool
        Whether y grows downwards, as magnitudes may.
    """
    figure, axes = new_figure()
    if zero is not None:
        axes.axhline(zero, color=INK, lw=0.8, zorder=1)
    for at in lines:
        axes.axhline(at, color=MUTED, lw=0.7, ls=(0, (4, 3)), zorder=1)
    for i, one in enumerate(series):
        if one.spread is not None:
            good = np.isfinite(one.y) & np.isfinite(one.spread)
            low, high = (one.y + s * one.spread for s in (-1, 1))
            axes.fill_between(one.x[good], low[good], high[good], color=colour_of(i), alpha=0.13, lw=0, zorder=0)
        _points(axes, i, one)
        good = np.isfinite(one.y)
        axes.plot(one.x[good], one.y[good], color=colour_of(i), lw=1.0, alpha=0.6, zorder=2)
    if np.isfinite(vertical):
        axes.axvline(vertical, color=MUTED, lw=0.9, ls=(0, (3, 2)), zorder=1)
    bottom, top = _limits(series, zero)
    axes.set(ylim=(top, bottom) if faint_first else (bottom, top), xlabel=x_label, ylabel=y_label)
    if len(series) > 1:
        axes.legend(loc="best", handletextpad=0.3)
    return figure


def _limits(series: Sequence[Series], zero: float | None) -> tuple[float, float]:
    values = [np.concatenate([one.y, one.lower, one.upper]) for one in series]
    values += [one.y + s * one.spread for one in series if one.spread is not None for s in (-1, 1)]
    known = np.concatenate(values) if values else np.zeros(0)
    known = known[np.isfinite(known)]
    if not known.size:
        return -1.0, 1.0
    # A faint bin of few and wild values does not hide all others.
    low, high = np.percentile(known, [3, 97])
    if zero is not None:
        low, high = min(low, zero), max(high, zero)
    margin = 0.08 * (high - low) or 0.1
    return float(low - margin), float(high + margin)


def stacked(edges: Array, parts: Mapping[str, Array], x_label: str, colours: Mapping[str, str]) -> Drawing:
    """Draw shares of rows by reason in bins, one on the other.

    Parameters
    ----------
    edges : ndarray, shape (N + 1,)
    parts : mapping of str to ndarray, shape (N,)
        Shares by name, from the bottom; NaN in empty bins.
    x_label : str
    colours : mapping of str to str
    """
    figure, axes = new_figure()
    base = np.zeros(len(edges) - 1)
    for name, values in parts.items():
        height = np.nan_to_num(values)
        axes.bar(edges[:-1], height, np.diff(edges), base, align="edge", color=colours[name], lw=0, label=short(name))
        base = base + height
    axes.set(ylim=(0, 1), xlim=(edges[0], edges[-1]), xlabel=x_label, ylabel="share of usable fakes")
    axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=3, handlelength=0.9, columnspacing=1.0)
    return figure


def bars(labels: Sequence[str], groups: Mapping[str, tuple[Array, Array]], x_label: str) -> Drawing:
    """Draw values with their errors for each label, as points on lines: one series a group."""
    figure, axes = new_figure(height=max(0.8, 0.34 + 0.09 * len(labels) * max(1, len(groups))))
    y = np.arange(len(labels))[::-1].astype(float)
    axes.axvline(0, color=INK, lw=0.8, zorder=1)
    for i, (name, (values, errors)) in enumerate(groups.items()):
        at = y + 0.22 * ((len(groups) - 1) / 2 - i)
        good = np.isfinite(values)
        bars = np.nan_to_num(errors[good])
        axes.errorbar(values[good], at[good], xerr=bars, ms=4.5, elinewidth=1.2, **_markers(i, name))
    axes.set_yticks(y, [short(label) for label in labels])
    axes.set_ylim(-0.6, len(labels) - 0.4)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="x")
    axes.set_xlabel(x_label)
    reach = max((float(np.nanmax(np.abs(v) + np.nan_to_num(e), initial=0.0)) for v, e in groups.values()), default=0.1)
    axes.set_xlim(-1.15 * max(reach, 0.05), 1.15 * max(reach, 0.05))
    if len(groups) > 1:
        axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=3, handletextpad=0.3)
    return figure


def heat_map(
    x_edges: Array, y_edges: Array, values: Array, x_label: str, y_label: str, *, label: str, low: float, high: float
) -> Drawing:
    """Draw values in cells.

    Parameters
    ----------
    x_edges, y_edges : ndarray
    values : ndarray, shape (len(x_edges) - 1, len(y_edges) - 1)
        NaN for no value.
    x_label, y_label, label : str
    low, high : float
        Of the colours.
    """
    figure, axes = new_figure()
    axes.grid(visible=False)
    drawn = axes.pcolormesh(
        x_edges, y_edges, np.ma.masked_invalid(values.T), cmap="cividis", vmin=low, vmax=high, lw=0, rasterized=False
    )
    bar: Any = figure.colorbar(drawn, ax=axes, pad=0.02, aspect=28)
    bar.set_label(label)
    bar.outline.set_visible(False)
    axes.set(xlabel=x_label, ylabel=y_label)
    axes.tick_params(color=GRID)
    return figure
