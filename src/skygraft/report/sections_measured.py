"""The section of a report on what was measured of the fakes: magnitudes, positions, sizes, shapes and their errors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from skygraft.report.blocks import Cell, Column, Figure, Figures, Note, Section, Table, Text, Tile, cell, signed
from skygraft.report.counting import total
from skygraft.report.curves import Series, value_curves
from skygraft.report.recovered import ELONGATED, Recovered, kind_name
from skygraft.report.sections_completeness import picked
from skygraft.report.studio import Studio

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["measured_section", "measured_tiles"]

_MAG = "injected magnitude"


def measured_tiles(found: Recovered) -> list[Tile]:
    """The bias of the brightest well measured stars, by band."""
    table = found.tables.get("bias_mag_cal")
    if table is None or not found.kinds:
        return []
    kind, tiles = found.kinds[0], []
    for band in found.bands:
        one = _bright(picked(table, band=band, source_type=kind))
        if one is not None:
            mag, median, error, _ = one
            text = f"mmag ± {1e3 * error:.1f} at magnitude {mag:.1f}" if np.isfinite(error) else f"mmag at {mag:.1f}"
            where = f", {band}" if band else ""
            tiles.append(Tile(f"bias of bright {kind_name(kind)}{where}", signed(1e3 * median, 1), text))
    return tiles


def _bright(table: xr.Dataset) -> tuple[float, float, float, float] | None:
    """Magnitude, median, its error and the scatter of the brightest bin that has enough values for an error."""
    for i in range(table.sizes["mag"]):
        one = table.isel(mag=i)
        if int(one["n"]) >= 10 and np.isfinite(float(one["median"])):
            return float(one["mag"]), float(one["median"]), float(one["error"]), float(one["scatter"])
    return None


def measured_section(found: Recovered, studio: Studio) -> Section:
    """Bias and scatter of everything that was measured."""
    section = Section("measured", "What was measured of them")
    if not total(found.counts.found):
        section.add(Note("missing", "No fake was found, so nothing was measured of any."))
        return section
    section.add(
        Text(
            "Points are medians of measured minus injected, with the error of the median; shades are the robust "
            "scatter of single fakes (1.4826 times the median absolute deviation). Lines at zero, or one, are what "
            "perfect measurements would give."
        )
    )
    figures = [*_magnitudes(found, studio), *_pulls(found, studio), *_position(found, studio), *_shapes(found, studio)]
    if figures:
        section.add(Figures(tuple(figures)))
    if (table := _table(found)) is not None:
        section.add(table)
    for name, why in found.problems.items():
        if name.startswith("bias"):
            section.add(Note("missing", f"{name.replace('_', ' ')}: {why}"))
    return section


def _series(
    table: xr.Dataset, label: str, *, value: str = "median", error: str = "error", scale: float = 1.0
) -> Series:
    x, y, e, s = (np.asarray(table[name].values, dtype=float) for name in ("mag", value, error, "scatter"))
    known = np.nan_to_num(e) * scale
    return Series(label, x, y * scale, y * scale - known, y * scale + known, spread=s * scale)


def _kinds(found: Recovered, table: xr.Dataset) -> list[str]:
    """Types of which there is a value at all."""
    return [k for k in found.kinds if np.isfinite(picked(table, source_type=k)["median"].values).any()]


def _magnitudes(found: Recovered, studio: Studio) -> list[Figure]:
    figures = []
    table = found.tables.get("bias_mag_cal")
    for band in found.bands if table is not None else ():
        assert table is not None
        one = picked(table, band=band)
        series = [_series(picked(one, source_type=kind), kind_name(kind)) for kind in _kinds(found, one)]
        where = f" in {band}" if band else ""
        figures.append(
            studio.keep(
                value_curves(series, f"{_MAG}{f' ({band})' if band else ''}", "measured − injected (mag)"),
                f"bias-mag-{band or 'all'}",
                title=f"Magnitude{where}",
                caption="Inside the calibration aperture, of all fakes that were found." + _outside(found),
                alt=f"Bias of the magnitude in the calibration aperture{where}: {_said(series, 3)}.",
            )
        )
    kind = found.kinds[0]
    names = {
        "bias_mag_cal_pooled": "calibration aperture",
        "bias_mag_cal_isolated_pooled": "the same, isolated",
        "bias_mag_kron": "Kron",
        "bias_mag_psf": "PSF",
    }
    series = [
        _series(picked(found.tables[name], source_type=kind), label)
        for name, label in names.items()
        if name in found.tables
    ]
    series = [Series(s.label, s.x, s.y, s.lower, s.upper) for s in series if np.isfinite(s.y).any()]
    if len(series) > 1:
        figures.append(
            studio.keep(
                value_curves(series, _MAG, "measured − injected (mag)"),
                "bias-mag-kinds",
                title=f"Kinds of magnitude, of {kind_name(kind)}",
                caption="Isolated: not blended, and no real source within the calibration aperture.",
                alt=f"Bias of several kinds of magnitude of {kind_name(kind)}: {_said(series, 3)}.",
            )
        )
    return figures


def _outside(found: Recovered) -> str:
    """What a reader must know of the magnitudes of extended sources."""
    if not set(found.kinds) - {"Star"}:
        return ""
    return (
        " A galaxy has light outside this aperture, which the zeropoint's stars do not: its magnitude there is fainter "
        "than what was injected."
    )


def _pulls(found: Recovered, studio: Studio) -> list[Figure]:
    table = found.tables.get("bias_mag_cal")
    if table is None or not np.isfinite(table["pull_scatter"].values).any():
        return []
    series = []
    for name in found.bands:
        one = picked(table, band=name, source_type=found.kinds[0])
        x, y, s = (np.asarray(one[n].values, dtype=float) for n in ("mag", "pull_median", "pull_scatter"))
        series.append(Series(name or kind_name(found.kinds[0]), x, y, y - s, y + s))
    what = kind_name(found.kinds[0])
    said = ", ".join(f"{one.label} {np.nanmedian((one.upper - one.lower) / 2):.2f}" for one in series)
    drawing = value_curves(series, _MAG, "difference / stated error", lines=(-1.0, 0.0, 1.0))
    return [
        studio.keep(
            drawing,
            "pulls-mag",
            title=f"Pulls of the magnitude, of {what}",
            caption="Median of the difference over the error that the measurement states; bars are the robust scatter "
            "of single fakes, which reaches from −1 to 1 where the errors are right.",
            alt=f"Pulls of the magnitude of {what} against magnitude. Typical scatter: {said}.",
        )
    ]


def _position(found: Recovered, studio: Studio) -> list[Figure]:
    table = found.tables.get("bias_position")
    if table is None:
        return []
    one = table.sel(component="distance")
    series = [_series(picked(one, source_type=kind), kind_name(kind), scale=1e3) for kind in _kinds(found, one)]
    series = [Series(s.label, s.x, s.y, s.lower, s.upper) for s in series]
    if not series:
        return []
    return [
        studio.keep(
            value_curves(series, _MAG, "median distance (milliarcsec)"),
            "bias-position",
            title="Position",
            caption="Distance between measured and injected position.",
            alt=f"Median distance of measured from injected position in milliarcsec: {_said(series, 0)}.",
        )
    ]


def _shapes(found: Recovered, studio: Studio) -> list[Figure]:
    kinds = {
        "bias_size": ("Size", "measured / injected half-light radius", 1.0, "The measured radius includes the PSF."),
        "bias_axis_ratio": (
            "Axis ratio",
            "measured − injected axis ratio",
            0.0,
            "The measured shape includes the PSF.",
        ),
        "bias_position_angle": (
            "Position angle",
            "measured − injected (deg)",
            0.0,
            f"Of sources with an axis ratio below {ELONGATED}, modulo 180°.",
        ),
    }
    figures = []
    for name, (title, label, perfect, note) in kinds.items():
        table = found.tables.get(name)
        if table is None:
            continue
        series = [_series(picked(table, source_type=kind), kind_name(kind)) for kind in _kinds(found, table)]
        if series:
            figures.append(
                studio.keep(
                    value_curves(series, _MAG, label, zero=perfect),
                    name.replace("_", "-"),
                    title=title,
                    caption=note,
                    alt=f"{title}, {label}, against injected magnitude: {_said(series, 2)}.",
                )
            )
    return figures


def _said(series: Sequence[Series], digits: int) -> str:
    said = []
    for one in series:
        good = np.flatnonzero(np.isfinite(one.y))
        if good.size:
            a, b = good[0], good[-1]
            values = (f"{signed(float(one.y[i]), digits)} at {one.x[i]:.2f}" for i in (a, b))
            said.append(f"{one.label} {' to '.join(values)}")
    return "; ".join(said) or "no values"


def _table(found: Recovered) -> Table | None:
    table, lone = found.tables.get("bias_mag_cal"), found.tables.get("bias_mag_cal_isolated")
    if table is None:
        return None
    rows: list[list[Cell]] = []
    for band in found.bands:
        for kind in found.kinds:
            one = picked(table, band=band, source_type=kind)
            alone = None if lone is None else picked(lone, band=band, source_type=kind)
            for i in range(one.sizes["mag"]):
                bin_ = one.isel(mag=i)
                if not int(bin_["n"]):
                    continue
                low, high = float(bin_["mag_lower"]), float(bin_["mag_upper"])
                row = [cell(band or "unknown"), cell(kind_name(kind)), Cell(f"{low:g} to {high:g}", low)]
                row += [cell(int(bin_["n"])), _mmag(bin_, "median"), _mmag(bin_, "scatter")]
                row.append(_mmag(alone.isel(mag=i), "median") if alone is not None else cell(None))
                row += [cell(float(bin_[name]), ".2f") for name in ("pull_median", "pull_scatter")]
                rows.append(row)
    columns = (
        Column("band"),
        Column("type"),
        *Column.numbers(
            "magnitude", "found", "bias (mmag)", "scatter (mmag)", "bias, isolated (mmag)", "pull", "its scatter"
        ),
    )
    caption = "Magnitude in the calibration aperture: measured minus injected, and pulls against the stated errors"
    return Table(caption, columns, rows, folded=True) if rows else None


def _mmag(one: xr.Dataset, name: str) -> Cell:
    value, error = 1e3 * float(one[name]), 1e3 * float(one[{"median": "error"}.get(name, f"{name}_error")])
    if not np.isfinite(value):
        return cell(None)
    text = signed(value, 1) if name == "median" else f"{value:.1f}"
    return Cell(f"{text} ± {error:.1f}" if np.isfinite(error) else text, value)
