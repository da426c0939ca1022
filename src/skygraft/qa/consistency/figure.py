"""Draw how a coadd compares with its visits. No display is needed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from skygraft.qa.consistency.check import Consistency
from skygraft.qa.consistency.terms import TERMS, VERDICTS

__all__ = ["consistency_figure", "worst_stamps"]

_COLOURS = {"agrees": "#2a7fba", "differs": "#c8442d", "cannot tell": "0.7"}
_SHOWN = 3

type Stamps = tuple[str, NDArray[np.float32], NDArray[np.float32]]


def worst_stamps(found: Consistency, number: int = _SHOWN) -> list[Stamps]:
    """Cut out the sources that differ most; of a coadd where none differs, those with the largest difference.

    Parameters
    ----------
    found : Consistency
        Of `skygraft.qa.consistency.check_consistency`.
    number : int
        Largest number of sources.

    Returns
    -------
    list of (str, ndarray, ndarray)
        Title, the coadd's injection, and the reference coadd, coadd units.
    """
    table = found.table
    told = np.array([one != VERDICTS[2] for one in table.column("verdict").to_pylist()], dtype=np.bool_)
    size = np.abs(_numbers(table, "size_ratio") - 1) / 2
    badness = np.where(told, np.fmax(np.abs(_numbers(table, "difference")), size), -1.0)
    rows = [int(i) for i in np.argsort(-np.nan_to_num(badness, nan=-1.0), kind="stable")[:number] if badness[i] >= 0]
    stamps: list[Stamps] = []
    for i in rows:
        name, difference = table.column("injection_id")[i].as_py(), table.column("difference")[i].as_py()
        reasons = ", ".join(table.column("reasons")[i].as_py()) or "agrees"
        stamps.append((f"{name}: {1e3 * difference:+.1f} mmag; {reasons}", *found.comparison.stamps(i)))
    return stamps


def consistency_figure(table: pa.Table, stamps: Sequence[Stamps] = ()) -> Figure:
    """Plot the difference against magnitude, its terms, and pictures of some sources.

    Parameters
    ----------
    table : pyarrow.Table
        Of `skygraft.qa.consistency.terms.SCHEMA`.
    stamps : sequence of (str, ndarray, ndarray)
        Of `worst_stamps`: each becomes a row of three pictures, the coadd's injection, the reference coadd, and their
        difference on a scale of 5 % of the peak.

    Returns
    -------
    matplotlib.figure.Figure
    """
    n = len(stamps)
    figure = Figure(figsize=(10.0, 4.2 + 2.9 * n), facecolor="white", layout="constrained")
    parts = figure.subfigures(1 + n, 1, height_ratios=[4.2, *([2.9] * n)], squeeze=False)[:, 0]
    left, right = parts[0].subplots(1, 2, width_ratios=[1.5, 1])
    _scatter(left, table)
    _terms(right, table)
    for part, (title, injected, reference) in zip(parts[1:], stamps, strict=True):
        part.suptitle(title, fontsize=10, x=0.02, ha="left")
        peak = max(float(np.nanmax(np.abs(injected))), float(np.nanmax(np.abs(reference))), 1e-30)
        panels = (
            ("coadd", injected, peak),
            ("visits", reference, peak),
            ("difference", injected - reference, peak / 20),
        )
        for axis, (name, pixels, limit) in zip(part.subplots(1, 3), panels, strict=True):
            kind = "RdBu_r" if name == "difference" else "magma"
            low = -limit if name == "difference" else 0.0
            shown = axis.imshow(pixels, origin="lower", vmin=low, vmax=limit, cmap=kind, interpolation="nearest")
            axis.set_title(name, fontsize=9)
            axis.set_xticks([])
            axis.set_yticks([])
            part.colorbar(shown, ax=axis, shrink=0.8)
    return figure


def _scatter(axis: Axes, table: pa.Table) -> None:
    mag, difference = _numbers(table, "mag"), 1e3 * _numbers(table, "difference")
    verdict = np.array(table.column("verdict").to_pylist(), dtype=np.str_)
    for name, colour in _COLOURS.items():
        here = (verdict == name) & np.isfinite(difference)
        if here.any():
            axis.plot(
                mag[here], difference[here], "o", ms=4, mew=0, alpha=0.7, color=colour, label=f"{name}: {here.sum()}"
            )
    axis.axhline(0, color="0.35", lw=1)
    axis.set_xlabel("injected magnitude")
    axis.set_ylabel("coadd − visits (mmag)")
    axis.spines[["top", "right"]].set_visible(False)
    if axis.has_data() and axis.get_legend_handles_labels()[0]:
        axis.legend(fontsize=8.5, frameon=False)


def _terms(axis: Axes, table: pa.Table) -> None:
    told = np.array([one != VERDICTS[2] for one in table.column("verdict").to_pylist()], dtype=np.bool_)
    names = list(TERMS)
    for place, name in enumerate(names):
        values = 1e3 * _numbers(table, f"{name}_term")[told]
        values = values[np.isfinite(values)]
        if values.size:
            low, middle, high = np.percentile(values, [5, 50, 95])
            axis.errorbar(
                middle, place, xerr=[[middle - low], [high - middle]], fmt="o", ms=5, color="#2a7fba", capsize=3
            )
    axis.axvline(0, color="0.35", lw=1)
    axis.set_yticks(range(len(names)), names)
    axis.invert_yaxis()
    axis.set_xlabel("term: median, 5 to 95 % (mmag)")
    axis.spines[["top", "right"]].set_visible(False)


def _numbers(table: pa.Table, name: str) -> NDArray[np.float64]:
    return np.asarray(table.column(name).to_numpy(zero_copy_only=False), dtype=np.float64)
