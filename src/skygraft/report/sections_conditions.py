"""The section of a report on conditions: how completeness and bias go with depth, seeing, sky, edges and neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from skygraft.report.blocks import Cell, Column, Figure, Figures, Note, Section, Table, Text, cell, signed
from skygraft.report.counting import total
from skygraft.report.curves import Series, bars, value_curves
from skygraft.report.recovered import Recovered
from skygraft.report.studio import Studio

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["conditions_section"]

_WORDS = {
    "depth": "local 5σ depth",
    "sky": "sky level",
    "sky_rms": "noise of the sky",
    "seeing": "seeing",
    "airmass": "airmass",
    "exposure_time": "exposure time",
    "aperture_fraction": "light in the aperture, A(r)",
    "edge_distance": "distance to the edge",
    "neighbour_distance": "distance to a real source",
    "neighbour_mag": "magnitude of that source",
}
_KINDS = {"conditions_found": "completeness", "conditions_bias": "bias of the magnitude"}
_CLEAR = 0.01
"""Probability of so strong a correlation by chance, below which it is shown in bins."""
_MOST_FIGURES = 4


def conditions_section(found: Recovered, studio: Studio) -> Section:
    """Correlations with conditions, and the strongest of them in bins."""
    section = Section("conditions", "Conditions")
    tables = {name: found.tables[name] for name in _KINDS if name in found.tables}
    known = {name: table for name, table in tables.items() if np.isfinite(table["spearman"].values).any()}
    if not known:
        why = [found.problems[name] for name in _KINDS if name in found.problems]
        why += [str(table.attrs.get("reason") or "") for table in tables.values()]
        reason = next((text for text in why if text), "conditions do not vary, or too few fakes were found or missed")
        if not total(found.counts.usable):
            reason = "there is no usable fake"
        section.add(Note("missing", f"No correlation with conditions can be given: {reason}."))
        return section
    band = next((str(table.attrs["band"]) for table in known.values() if table.attrs.get("band")), "")
    where = f" of the fakes in {band}" if band else ""
    section.add(
        Text(
            f"Spearman rank correlations{where} with the conditions at each fake's place, beyond what its magnitude "
            "explains: of found or not against the fitted curve, and of the bias against its median at that magnitude. "
            "A positive one means that more is found, or measured fainter, where the condition is larger. Errors are "
            "from a bootstrap of the sources."
        )
    )
    section.add(Figures((_overview(known, studio), *_strongest(known, studio))))
    section.add(_table(known))
    return section


def _name(condition: str) -> str:
    return _WORDS.get(condition, condition.replace("_", " "))


def _conditions(tables: dict[str, xr.Dataset]) -> list[str]:
    """Conditions with any correlation, in the order of the table."""
    names: list[str] = []
    for table in tables.values():
        for name, value in zip(table["condition"].values, table["spearman"].values, strict=True):
            if np.isfinite(value) and str(name) not in names:
                names.append(str(name))
    return names


def _values(table: xr.Dataset, names: Sequence[str], variable: str) -> NDArray[np.float64]:
    there = {str(name): float(v) for name, v in zip(table["condition"].values, table[variable].values, strict=True)}
    return np.array([there.get(name, np.nan) for name in names])


def _overview(tables: dict[str, xr.Dataset], studio: Studio) -> Figure:
    names = _conditions(tables)
    groups = {
        _KINDS[key]: (_values(table, names, "spearman"), _values(table, names, "spearman_error"))
        for key, table in tables.items()
    }
    said = []
    for kind, (values, errors) in groups.items():
        if np.isfinite(values).any():
            i = int(np.nanargmax(np.abs(values)))
            said.append(f"{kind} most with {_name(names[i])} ({signed(values[i], 2)} ± {errors[i]:.2f})")
    return studio.keep(
        bars([_name(name) for name in names], groups, "Spearman rank correlation"),
        "conditions",
        title="Correlation with conditions",
        caption="At zero, a condition plays no part. Conditions that do not vary are left out.",
        alt=f"Rank correlations of completeness and bias with {len(names)} conditions: {'; '.join(said)}.",
    )


def _strongest(tables: dict[str, xr.Dataset], studio: Studio) -> list[Figure]:
    ranked = sorted(
        (float(p), -abs(float(rho)), key, i)
        for key, table in tables.items()
        for i, (p, rho) in enumerate(zip(table["p_value"].values, table["spearman"].values, strict=True))
        if np.isfinite(p) and p < _CLEAR
    )
    figures = []
    for _, _, key, i in ranked[:_MOST_FIGURES]:
        table = tables[key].isel(condition=i)
        condition, unit = str(table["condition"].values), str(table["unit"].values)
        scale, what = (
            (1.0, "completeness − fitted curve") if key == "conditions_found" else (1e3, "bias − median (mmag)")
        )
        x, y, e = (np.asarray(table[name].values, dtype=float) for name in ("center", "residual", "residual_error"))
        y, e = scale * y, scale * np.nan_to_num(e)
        label = f"{_name(condition)}{f' ({unit})' if unit else ''}"
        rho, error = float(table["spearman"]), float(table["spearman_error"])
        figures.append(
            studio.keep(
                value_curves([Series(_KINDS[key], x, y, y - e, y + e)], label, what),
                f"{key.replace('_', '-')}-{condition}",
                title=f"{_KINDS[key].capitalize()} and {_name(condition)}",
                caption=f"In bins of equally many fakes; rank correlation {signed(rho, 3)} ± {error:.3f}.",
                alt=f"{what} against {label}: from {signed(float(y[0]), 3)} at {x[0]:.3g} on; "
                f"rank correlation {signed(rho, 3)} ± {error:.3f}.",
            )
        )
    return figures


def _table(tables: dict[str, xr.Dataset]) -> Table:
    names = _conditions(tables)
    columns = [Column("condition")]
    parts: list[list[Cell]] = []
    for key, table in tables.items():
        columns += [Column(f"with {_KINDS[key]}", numeric=True), Column("by chance", numeric=True)]
        rho, error, p = (_values(table, names, name) for name in ("spearman", "spearman_error", "p_value"))
        parts.append(
            [
                Cell(f"{signed(r, 3)} ± {e:.3f}", float(r)) if np.isfinite(r) and np.isfinite(e) else cell(None)
                for r, e in zip(rho, error, strict=True)
            ]
        )
        parts.append([_chance(value) for value in p])
    rows = [[cell(_name(name)), *(part[i] for part in parts)] for i, name in enumerate(names)]
    return Table(
        "Rank correlations with conditions, and how probable so strong a one is by chance", tuple(columns), rows
    )


def _chance(p: float) -> Cell:
    if not np.isfinite(p):
        return cell(None)
    return Cell("< 0.0001" if p < 1e-4 else f"{p:.4f}" if p < 0.01 else f"{p:.2f}", float(p))
