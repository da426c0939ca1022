"""The part of a report on curves of growth: whether zeropoints belong to the radii that the images state."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from skygraft.report.blocks import Block, Cell, Column, Figure, Figures, Note, Table, Text, cell, signed, within
from skygraft.report.counting import BATCH_ROWS, grouped
from skygraft.report.curves import Series, value_curves
from skygraft.report.studio import Studio
from skygraft.wording import number

__all__ = ["GrowthChecks", "count_growth", "growth_blocks"]

FITS, WRONG, CANNOT = "fits", "does not fit", "cannot tell"
_LISTED = 50
_INNER = 0.4
"""Part of the stated radius from which on curves of growth are drawn."""
_FOLDED = 12
_COLUMNS = (
    *("image_id", "band", "verdict", "reason", "kind", "radius_pixels", "fitted_radius_pixels", "fitted_radius_error"),
    *("offset", "offset_error", "evidence", "n_stars", "radii", "stars", "stars_error", "model", "fakes"),
)
_CURVES = ("radii", "stars", "stars_error", "model", "fakes")


@dataclass
class GrowthChecks:
    """Counts of a check of apertures."""

    verdicts: Counter[tuple[str, str]] = field(default_factory=Counter)  # images by (band, verdict)
    listed: list[dict[str, Any]] = field(default_factory=list)  # the first, those that do not fit before others
    best: dict[str, dict[str, Any]] = field(default_factory=dict)  # by band the image with most stars, with its curves

    def count(self, verdict: str) -> int:
        """Images with a verdict."""
        return sum(n for (_, one), n in self.verdicts.items() if one == verdict)


def count_growth(dataset: Any) -> GrowthChecks:
    """Count the verdicts of a check of apertures, an Arrow dataset with one row an image, in batches."""
    found = GrowthChecks()
    for batch in dataset.to_batches(columns=list(_COLUMNS), batch_size=BATCH_ROWS // 100):
        for key, rows in grouped(batch, ("band", "verdict")):
            found.verdicts[key] += len(rows)
        for row in batch.to_pylist():
            band = str(row["band"] or "")
            before = found.best.get(band)
            if row["radii"] and (before is None or _rank(row) < _rank(before)):
                found.best[band] = row
            found.listed.append({name: value for name, value in row.items() if name not in _CURVES})
        # Those that do not fit first, and no more than are shown.
        found.listed.sort(key=lambda row: (_ORDER.get(row["verdict"], 3), str(row["image_id"])))
        del found.listed[_LISTED:]
    return found


_ORDER = {WRONG: 0, CANNOT: 1, FITS: 2}


def _rank(row: dict[str, Any]) -> tuple[int, str]:
    return -int(row["n_stars"] or 0), str(row["image_id"])


def growth_blocks(found: GrowthChecks, studio: Studio) -> list[Block]:
    """Verdicts, and curves of growth of the image with most stars of each band."""
    n, wrong, fits, unknown = (sum(found.verdicts.values()), *(found.count(v) for v in (WRONG, FITS, CANNOT)))
    counts = ((fits, "fit"), (wrong, "do not fit"), (unknown, "cannot tell"))
    parts = ", ".join(f"{k:,} {what}" for k, what in counts if k)
    note = Note("good" if fits else "missing", "No image's zeropoint contradicts the radius that it states.")
    if wrong:
        note = Note("bad", f"The zeropoints of {number(wrong, 'image')} do not belong to the radius that they state.")
    blocks: list[Block] = [
        Text(
            f"Whether the zeropoints belong to these radii was measured on {number(n, 'image')}, from curves of growth "
            f"of their own bright isolated stars: {parts}."
        ),
        note,
    ]
    figures = [figure for band, row in sorted(found.best.items()) if (figure := _growth(band, row, studio))]
    if figures:
        blocks.append(Figures(tuple(figures)))
    rows = [[*_row(row)] for row in found.listed]
    columns = (
        Column("image", long=True),
        Column("band"),
        Column("verdict"),
        *Column.numbers("stated (pix)", "fits best (pix)", "offset (mmag)", "stars"),
        Column("why", long=True),
    )
    caption = "Stated radii, and those that the images' own stars fit best"
    blocks.append(Table(caption, columns, rows, n, folded=len(rows) > _FOLDED))
    return blocks


def _row(row: dict[str, Any]) -> list[Cell]:
    verdict = str(row["verdict"] or "")
    fitted, offset = (_number(row[name]) for name in ("fitted_radius_pixels", "offset"))
    why = " ".join(str(row[name]) for name in ("evidence", "reason") if row[name])
    return [
        cell(row["image_id"]),
        cell(row["band"] or "unknown"),
        cell(verdict, level={WRONG: "bad", FITS: "good"}.get(verdict, "")),  # type: ignore[arg-type]
        cell(row["radius_pixels"], ".4g"),
        Cell(within(fitted, _number(row["fitted_radius_error"]), 2), fitted) if np.isfinite(fitted) else cell(None),
        Cell(
            f"{signed(1e3 * offset, 1)} ± {1e3 * _number(row['offset_error']):.1f}"
            if np.isfinite(_number(row["offset_error"]))
            else signed(1e3 * offset, 1),
            offset,
        )
        if np.isfinite(offset)
        else cell(None),
        cell(row["n_stars"]),
        cell(why),
    ]


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)


def _growth(band: str, row: dict[str, Any], studio: Studio) -> Figure | None:
    radii = np.array(row["radii"], dtype=float)
    curves = {name: np.array([_number(v) for v in row[name] or ()]) for name in _CURVES[1:]}
    empty = np.full(radii.size, np.nan)
    stars, errors, model, fakes = (curves[name] if curves[name].size == radii.size else empty for name in _CURVES[1:])
    errors = np.nan_to_num(errors)
    series = [
        Series("stars of the image", radii, 1e3 * stars, 1e3 * (stars - errors), 1e3 * (stars + errors)),
        Series("fakes", radii, 1e3 * fakes, 1e3 * fakes, 1e3 * fakes),
        Series("PSF model", radii, 1e3 * model, 1e3 * model, 1e3 * model),
    ]
    stated = _number(row["radius_pixels"])
    # Far inside, seeing says most: what matters here is how the curves run about the stated radius.
    outer = radii >= (_INNER * stated if np.isfinite(stated) else 0.0)
    series = [Series(s.label, s.x[outer], s.y[outer], s.lower[outer], s.upper[outer]) for s in series]
    series = [one for one in series if np.isfinite(one.y).any()]
    if not series:
        return None
    name = str(row["image_id"])
    drawing = value_curves(
        series, "radius (pixels)", "magnitude relative to the stated radius (mmag)", vertical=stated, faint_first=True
    )
    said = "; ".join(one.label for one in series)
    return studio.keep(
        drawing,
        f"growth-{band or 'all'}",
        title=f"Curve of growth{f' in {band}' if band else ''}",
        caption=f"{name}, the image with most stars. Dashed: the radius that it states.",
        alt=f"Curves of growth of image {name}: {said}. The stated radius is {stated:.3g} pixels.",
    )
