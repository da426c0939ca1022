"""The section of a report on transients: how often they are caught, and when first; only where epochs have objects."""

from __future__ import annotations

import numpy as np

from skygraft.report.blocks import Column, Figure, Figures, Note, Section, Table, Text, cell
from skygraft.report.curves import Series, completeness_curves, steps
from skygraft.report.recovered import OBJECT, Recovered
from skygraft.report.studio import Studio

__all__ = ["transients_section"]

_AGAINST = {
    "mag": ("magnitude", "injected magnitude"),
    "snr_expected": ("expected S/N", "expected signal-to-noise ratio"),
    "phase": ("phase", "days since the peak"),
}


def transients_section(found: Recovered, studio: Studio) -> Section:
    """Efficiency against magnitude, S/N and phase, and the time of first detection; no blocks without objects."""
    section = Section("transients", "Transients")
    if "transients" in found.problems:
        section.add(Note("missing", f"Transients: {found.problems['transients']}"))
    first = found.tables.get("first_detection")
    figures = [*_efficiency(found, studio), *_first(found, studio)]
    if first is None or not figures:
        return section
    n_objects = int(first.sizes["object"])
    caught = int(np.isfinite(first["delay"].values).sum())
    start = str(first.attrs.get("start", "first image"))
    since = "the first image of each" if start == "first image" else f"its {start}"
    delays = first["delay"].values[np.isfinite(first["delay"].values)]
    low, middle, high = np.percentile(delays, [16, 50, 84]) if delays.size else (np.nan,) * 3
    section.add(
        Text(
            f"Rows with the same {OBJECT} are one object at several times. Of {n_objects:,} objects with a usable "
            f"epoch, {caught:,} were found at least once. Efficiency is the fraction of usable single epochs that was "
            f"found; times of first detection count from {since}."
        ),
        Figures(tuple(figures)),
        Table(
            "Objects, and days to their first detection",
            tuple(
                Column.numbers(
                    "objects", "found at least once", "epochs of each, median", "16 % (d)", "median (d)", "84 % (d)"
                )
            ),
            [
                [
                    cell(n_objects),
                    cell(caught),
                    cell(float(np.median(first["n_images"].values)), "g"),
                    *(cell(float(value), ".2f") for value in (low, middle, high)),
                ]
            ],
        ),
    )
    return section


def _efficiency(found: Recovered, studio: Studio) -> list[Figure]:
    figures = []
    for name, (what, label) in _AGAINST.items():
        table = found.tables.get(f"transient_efficiency_{name}")
        if table is None:
            continue
        x, y, low, high = (np.asarray(table[key].values, float) for key in (name, "completeness", "lower", "upper"))
        one, log = Series("epochs", x, y, low, high), name == "snr_expected"
        if not one.ends():
            continue
        figures.append(
            studio.keep(
                completeness_curves([one], label, legend=False, y_label="efficiency", log=log),
                f"transients-{name}",
                title=f"Efficiency against {what}",
                caption="Of single epochs that are usable; 68 % Wilson intervals.",
                alt=f"Efficiency against {label}: {one.ends()}.",
            )
        )
    return figures


def _first(found: Recovered, studio: Studio) -> list[Figure]:
    table = found.tables.get("detected_by")
    if table is None:
        return []
    x, y, low, high = (np.asarray(table[key].values, float) for key in ("delay", "detected", "lower", "upper"))
    if not np.isfinite(y).any() or not y.max() > 0:
        return []
    low, high = (np.where(np.isfinite(one), one, y) for one in (low, high))
    return [
        studio.keep(
            steps(x, y, low, high, "days since the start", "fraction found by then"),
            "transients-first",
            title="First detection",
            caption="Fraction of objects that was found by a time (Kaplan and Meier 1958), with 68 % intervals.",
            alt=f"Fraction of objects found by a time since the start: {y[-1]:.2f} after {x[-1]:.3g} days.",
        )
    ]
