"""The section of a report on why fakes were not found, with cut-outs of found and missed ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from skygraft.report.blocks import Block, Cell, Column, Figures, Note, Section, Table, Text, cell
from skygraft.report.counting import total
from skygraft.report.curves import colour_of, stacked
from skygraft.report.recovered import PER_MAG, Recovered, kind_name
from skygraft.report.studio import Studio
from skygraft.report.style import GRID

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

__all__ = ["missed_section"]

_MEANINGS = {
    "not drawn": "nothing of it is on the image; its flags say why",
    "off the image": "its centre is beyond the edge",
    "masked": "its centre is on pixels that do not count",
    "negative": "its flux is negative, and what is missing is not detected",
    "below threshold": "no detection at its place, and too faint for one",
    "blended": "merged into the detection of a brighter neighbour",
    "ambiguous": "the original image has a detection there, which it cannot be told from",
    "not matched": "bright enough, but no detection close by",
}
_FOUND = "found"


def missed_section(found: Recovered, cutouts: Sequence[Block], studio: Studio) -> Section:
    """Why fakes were not found, with pictures of some."""
    section = Section("missed", "Why fakes were not found")
    reasons = found.counts.reasons
    n = sum(reasons.values())
    if not n:
        section.add(Note("good", "Every fake of the recovery was found."), *cutouts)
        return section
    by_reason = {reason: sum(k for (r, _), k in reasons.items() if r == reason) for reason, _ in reasons}
    names = sorted(by_reason, key=lambda name: (-by_reason[name], name))
    rows_of = {kind: total(found.counts.rows, kind=kind) for kind in found.counts.kinds}
    kinds = [kind for kind in found.kinds if rows_of.get(kind)]
    rows = [
        [
            cell(name or "unknown"),
            cell(_MEANINGS.get(name, "")),
            cell(by_reason[name]),
            *(cell(100 * reasons[name, kind] / rows_of[kind], ".1f") for kind in kinds),
        ]
        for name in names
    ]
    if figure := _by_magnitude(found, names):
        section.add(Figures((studio.keep(figure, "reasons", title="By magnitude", caption=_CAPTION, alt=_alt(rows)),)))
    else:
        section.add(Text("No usable fake was missed; the rest could not be found by anyone."))
    section.add(
        Table(
            f"Reasons, of {n:,} fakes and images without a detection that counts",
            (
                Column("reason"),
                Column("meaning", long=True),
                Column("fakes", numeric=True),
                *(Column(f"of {kind_name(kind)}", "%", numeric=True) for kind in kinds),
            ),
            rows,
        ),
        *cutouts,
    )
    return section


_CAPTION = "Usable fakes by injected magnitude: found, or why not."


def _alt(rows: Sequence[Sequence[Cell]]) -> str:
    said = [f"{row[0].text} {row[2].text}" for row in rows]
    return f"Shares of usable fakes by injected magnitude that were found or not, by reason. In all: {', '.join(said)}."


def _by_magnitude(found: Recovered, names: Sequence[str]) -> Drawing | None:
    by_mag = found.counts.by_mag
    missed = [name for name in names if sum(by_mag.get(name, {}).values()) and name]
    tenths = sorted({tenth for tally in by_mag.values() for tenth in tally})
    if not missed or not tenths:
        return None
    low, high = tenths[0], tenths[-1] + 1
    width = max(1, round((high - low) / 24))
    start = low // width * width
    edges = np.arange(start, high + width, width)
    edges = edges[: np.searchsorted(edges, high) + 1]
    tallies: dict[str, Mapping[int, int]] = {_FOUND: by_mag.get("", {})} | {name: by_mag[name] for name in missed}
    numbers = {}
    for name, tally in tallies.items():
        keys, values = np.array(list(tally), dtype=float), np.array(list(tally.values()), dtype=float)
        numbers[name] = np.histogram(keys + 0.5, edges, weights=values)[0] if keys.size else np.zeros(len(edges) - 1)
    sums = np.sum(list(numbers.values()), axis=0)
    shares = {name: np.where(sums > 0, values / np.maximum(sums, 1), np.nan) for name, values in numbers.items()}
    colours = {_FOUND: GRID} | {name: colour_of(i) for i, name in enumerate(missed, start=1)}
    return stacked(edges / PER_MAG, shares, "injected magnitude", colours)
