"""The numbers of a report as files beside the page: datasets as NetCDF, tables as Parquet, headlines as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from skygraft.disk import atomic_path
from skygraft.records.files import plain, write_json
from skygraft.report.blocks import Tile
from skygraft.report.facts import CampaignFacts
from skygraft.report.recovered import Recovered
from skygraft.report.sections_campaign import closure_by_band
from skygraft.report.sections_selection import write_selection
from skygraft.statistics import save_dataset

__all__ = ["write_numbers"]

_OF_IMAGES = ("images", "done", "failed", "remaining", "unusable", "damaged")


def write_numbers(
    folder: Path, facts: CampaignFacts, found: Recovered | None, tiles: Sequence[Tile], methods: str
) -> list[tuple[str, str]]:
    """Write the numbers of a report; returns the names of the files, and what they are."""
    files: list[tuple[str, str]] = []
    write_json(folder / "report.json", _headlines(facts, found, tiles, methods))
    files.append(("report.json", "headline numbers, fits, closure, calibrations, methods"))
    if found is None:
        return files
    for name, dataset in sorted(found.tables.items()):
        save_dataset(dataset, folder / f"{name}.nc")
        files.append((f"{name}.nc", str(dataset.attrs.get("title", name)) + _over(dataset)))
    files += write_selection(folder, found)
    rows = _fits(found)
    for name, table, what in (
        ("fits.parquet", rows, "fits of completeness against magnitude, by band and type"),
        ("reasons.parquet", _reasons(found), "fakes that were not found, by reason and type"),
    ):
        if table:
            with atomic_path(folder / name, sync=False) as temporary:
                pq.write_table(pa.Table.from_pylist(table), temporary)
            files.append((name, what))
    return files


def _over(dataset: Any) -> str:
    names = [str(name) for name in dataset.dims if name != "component"]
    return f" over {', '.join(names)}" if names else ""


def _fits(found: Recovered) -> list[dict[str, Any]]:
    rows = []
    for (band, kind), fit in found.fits.items():
        row: dict[str, Any] = {"band": band, "source_type": kind}
        row |= {"model": fit.model, "n": fit.n, "n_found": fit.n_found}
        for name, value in fit.parameters.items():
            row |= {name: float(value), f"{name}_error": float(fit.errors[name])}
        for level, one in sorted(fit.levels.items()):
            row |= {f"m{100 * level:.0f}": float(one.value), f"m{100 * level:.0f}_error": float(one.error)}
        rows.append(row | {"chi2": float(fit.chi2), "dof": int(fit.dof), "reason": fit.reason, "warning": fit.warning})
    return rows


def _reasons(found: Recovered) -> list[dict[str, Any]]:
    reasons = found.counts.reasons
    return [{"reason": r, "source_type": k, "n": reasons[r, k]} for r, k in sorted(reasons)]


def _headlines(facts: CampaignFacts, found: Recovered | None, tiles: Sequence[Tile], methods: str) -> dict[str, Any]:
    status = facts.status
    content: dict[str, Any] = {
        "campaign": status.name,
        "images": {name: getattr(status, f"n_{name}") for name in _OF_IMAGES},
        "headlines": [{"name": tile.label, "value": tile.value, "detail": tile.detail} for tile in tiles],
        "closure_mmag": closure_by_band(facts.closures),
        "calibrations": [use.to_dict() for use in facts.calibrations],
        "methods": methods,
    }
    if found is not None:
        counts = found.counts
        content["recovery"] = {
            "settings": found.settings,
            "by_band_and_type": [
                {"band": b, "source_type": k, "rows": n, "usable": counts.usable[b, k], "found": counts.found[b, k]}
                for (b, k), n in sorted(counts.rows.items())
            ],
            "fits": _fits(found),
            "problems": found.problems,
        }
    cleaned: dict[str, Any] = plain(content)
    return cleaned
