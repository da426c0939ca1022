"""The section of a report on completeness: against magnitude, depth, size and surface brightness, with fits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from skygraft.report.blocks import Cell, Column, Figure, Figures, Note, Section, Table, Text, Tile, cell, within
from skygraft.report.counting import total
from skygraft.report.curves import Series, completeness_curves, heat_map
from skygraft.report.recovered import Recovered, fits_badly, kind_name
from skygraft.report.studio import Studio
from skygraft.wording import count

if TYPE_CHECKING:
    import xarray as xr

    from skygraft.statistics import CompletenessFit

__all__ = ["completeness_section", "completeness_tiles", "is_known", "picked", "series_of"]

_LEVELS = (0.5, 0.8, 0.9)
_LARGEST_ERROR = 0.5
_TILES = 2
_FEWEST_IN_CELL = 5
_CROWDED = 0.05
"""Share of the usable fakes that are blended with other fakes, from which on the page says so."""
_NO_CURVE = "from the points: no curve fits them"


def completeness_tiles(found: Recovered) -> list[Tile]:
    """Headline numbers of completeness: where half of each type is found in each band."""
    counts = found.counts
    usable, n_found = total(counts.usable), total(counts.found)
    part = f"{100 * n_found / usable:.1f} %" if usable else "–"
    tiles = [Tile("fakes found", part, f"{count(n_found)} of {count(usable)} usable, of all magnitudes")]
    for band in found.bands:
        where, shown = f", {band}" if band else "", 0
        for kind in found.kinds:
            fit = found.fits.get((band, kind))
            if fit is None or not is_known(fit) or shown == _TILES:
                continue
            shown += 1
            name = f"m50 of {kind_name(kind)}{where}"
            if fits_badly(fit):
                at = half_point(found, band, kind)
                tiles.append(Tile(name, f"{at:.2f}" if np.isfinite(at) else "–", _NO_CURVE, "warning"))
            else:
                tiles.append(Tile(name, f"{fit.m50:.2f}", f"± {fit.m50_error:.2f} mag"))
    return tiles


def half_point(found: Recovered, band: str, kind: str) -> float:
    """Magnitude at which completeness in bins last falls through one half; NaN if it does not."""
    table = found.tables.get("completeness_mag")
    if table is None:
        return float("nan")
    one = picked(table, band=band, source_type=kind)
    x, y = (np.asarray(one[name].values, dtype=float) for name in ("mag", "completeness"))
    x, y = x[np.isfinite(y)], y[np.isfinite(y)]
    falls = np.flatnonzero((y[:-1] >= 0.5) & (y[1:] < 0.5))
    if not falls.size:
        return float("nan")
    i = falls[-1]
    return float(x[i] + (y[i] - 0.5) / (y[i] - y[i + 1]) * (x[i + 1] - x[i]))


def completeness_section(found: Recovered, studio: Studio) -> Section:
    """Completeness against everything that it was measured against."""
    section = Section("completeness", "Completeness")
    counts = found.counts
    usable, n_found = total(counts.usable), total(counts.found)
    if not usable:
        section.add(
            Note(
                "warning",
                f"No fake could be found: of {total(counts.rows):,} none was drawn with its centre on good pixels.",
            )
        )
        return section
    section.add(
        Text(
            "Completeness is the fraction of usable fakes (drawn, with their centre on good pixels of the image) that "
            "was found, and not there before. Bars are 68 % Wilson intervals; curves are logistic functions (or double "
            "Fermi functions where these do not fit), with errors from a bootstrap of the sources."
        )
    )
    if n_found in (0, usable):
        what = "None" if n_found == 0 else "Every one"
        section.add(
            Note(
                "warning",
                f"{what} of the {usable:,} usable fakes was found, so that no limit can be given: inject "
                f"{'brighter' if n_found == 0 else 'fainter'} ones.",
            )
        )
    if (crowded := counts.blends["fake"] / usable) >= _CROWDED:
        section.add(
            Note(
                "warning",
                f"{100 * crowded:.1f} % of the usable fakes have light of other fakes in their aperture, so that "
                "completeness and biases measure the crowding by the fakes themselves. Inject fewer on an image, or "
                "farther apart: random_catalog(..., min_separation=...).",
            )
        )
    figures = [*_against_mag(found, studio), *_against_depth(found, studio), *_against_size(found, studio)]
    if figures:
        section.add(Figures(tuple(figures)))
    section.add(_fits(found))
    for name, why in found.problems.items():
        if name.startswith("completeness"):
            section.add(Note("warning", f"{name.replace('_', ' ')}: {why}"))
    return section


def series_of(table: xr.Dataset, x: str, label: str, fit: CompletenessFit | None = None) -> Series:
    """A series of completeness from a dataset over one column."""
    at, y, low, high = (np.asarray(table[name].values, dtype=float) for name in (x, "completeness", "lower", "upper"))
    if fit is None or not fit.ok:
        return Series(label, at, y, low, high)
    return Series(label, at, y, low, high, curve=fit, mark=fit.m50 if is_known(fit) else float("nan"))


def is_known(fit: CompletenessFit | None, level: float = 0.5) -> bool:
    """Whether a level was found well enough to be quoted: those with an error of a magnitude are not."""
    if fit is None or not fit.ok:
        return False
    one: Any = fit.levels[level]
    return bool(np.isfinite(one.value) and np.isfinite(one.error) and one.error <= _LARGEST_ERROR)


def picked(table: xr.Dataset, **where: str) -> xr.Dataset:
    """Part of a dataset; a dimension that it does not have is left out."""
    return table.sel({name: value for name, value in where.items() if name in table.dims})


def _label(found: Recovered, band: str, kind: str) -> str:
    return f"{kind_name(kind)} ({count(found.counts.usable[band, kind])})"


def _against_mag(found: Recovered, studio: Studio) -> list[Figure]:
    table = found.tables.get("completeness_mag")
    if table is None:
        return []
    figures = []
    for band in found.bands:
        kinds = [kind for kind in found.kinds if found.counts.usable[band, kind]]
        series = [
            series_of(
                picked(table, band=band, source_type=kind),
                "mag",
                _label(found, band, kind),
                found.fits.get((band, kind)),
            )
            for kind in kinds
        ]
        where = f" in {band}" if band else ""
        said = [
            f"{kind_name(kind)}: half found at magnitude {within(fit.m50, fit.m50_error)}"
            for kind in kinds
            if (fit := found.fits.get((band, kind))) is not None and is_known(fit)
        ]
        figures.append(
            studio.keep(
                completeness_curves(series, f"injected magnitude{f' ({band})' if band else ''}"),
                f"completeness-mag-{band or 'all'}",
                title=f"Against magnitude{where}",
                caption="Dashed: where half is found. In brackets: usable fakes and images.",
                alt=f"Completeness against injected magnitude{where}. {'; '.join(said) or 'No fit'}.",
            )
        )
    return figures


def _against_depth(found: Recovered, studio: Studio) -> list[Figure]:
    table = found.tables.get("completeness_mag_below_depth")
    if table is None:
        return []
    series = [
        series_of(picked(table, source_type=kind), "mag_below_depth", kind_name(kind), found.depth_fits.get(kind))
        for kind in found.kinds
    ]
    said = [
        f"{kind_name(kind)}: half found at {within(fit.m50, fit.m50_error)}"
        for kind, fit in found.depth_fits.items()
        if is_known(fit)
    ]
    caption = (
        "Depth is the magnitude of five sigma of the sky in the calibration aperture, at the place of each fake; the "
        "upper axis is the signal-to-noise ratio that follows for a star."
    )
    return [
        studio.keep(
            completeness_curves(series, "injected magnitude − local depth (mag)", snr_axis=True),
            "completeness-depth",
            title="Against magnitude minus depth, and S/N",
            caption=caption,
            alt=f"Completeness against magnitude minus local depth. {'; '.join(said) or 'No fit'}.",
        )
    ]


def _against_size(found: Recovered, studio: Studio) -> list[Figure]:
    figures = []
    names = {
        "surface_brightness": ("surface brightness", "mean surface brightness (mag arcsec⁻²)", "Of galaxies."),
        "half_light_radius": ("size", "half-light radius (arcsec)", "Of galaxies of all magnitudes."),
    }
    for name, (what, label, note) in names.items():
        table = found.tables.get(f"completeness_{name}")
        if table is None:
            continue
        kinds = [k for k in found.kinds if float(picked(table, source_type=k)["n"].sum()) > 0]
        series = [series_of(picked(table, source_type=kind), name, kind_name(kind)) for kind in kinds]
        figures.append(
            studio.keep(
                completeness_curves(series, label),
                f"completeness-{name}",
                title=f"Against {what}",
                caption=f"{note}{' Within the half-light radius.' if name == 'surface_brightness' else ''}",
                alt=f"Completeness against {label}: {_ends(series)}.",
            )
        )
    table = found.tables.get("completeness_mag_half_light_radius")
    if table is not None and (table["n"].values >= _FEWEST_IN_CELL).any():
        seen = table.transpose("mag", "half_light_radius")
        values = np.where(seen["n"].values >= _FEWEST_IN_CELL, seen["completeness"].values, np.nan)
        across, along = (np.isfinite(values).any(axis=axis) for axis in (1, 0))
        values = values[np.ix_(_hull(across), _hull(along))]
        x, y = (_edges(table, name)[_hull(seen, 1)] for name, seen in (("mag", across), ("half_light_radius", along)))
        figures.append(
            studio.keep(
                heat_map(
                    x,
                    y,
                    values,
                    "injected magnitude",
                    "half-light radius (arcsec)",
                    label="completeness",
                    low=0.0,
                    high=1.0,
                ),
                "completeness-mag-size",
                title="Against magnitude and size",
                caption=f"Of galaxies; each row has as many. Cells of fewer than {_FEWEST_IN_CELL} are empty.",
                alt="Completeness of galaxies in cells of injected magnitude and half-light radius, in colours.",
            )
        )
    return figures


def _edges(table: xr.Dataset, name: str) -> NDArray[np.float64]:
    return np.append(table[f"{name}_lower"].values, table[f"{name}_upper"].values[-1])


def _hull(seen: NDArray[np.bool_], more: int = 0) -> NDArray[np.intp]:
    """From the first that is seen to the last, and so many more: cells at the rim that hold nothing are cut off."""
    at = np.flatnonzero(seen)
    return np.arange(at[0], at[-1] + 1 + more) if at.size else np.arange(seen.size + more)


def _ends(series: Sequence[Series]) -> str:
    return "; ".join(f"{one.label} {said}" for one in series if (said := one.ends())) or "no values"


def _fits(found: Recovered) -> Table:
    rows: list[list[Cell]] = []
    n = 0
    for band in found.counts.bands:
        for kind in found.counts.kinds:
            usable = found.counts.usable[band, kind]
            if not usable:
                continue
            n += 1
            fit = found.fits.get((band, kind))
            if fit is None:
                continue
            row = [cell(band or "unknown"), cell(kind_name(kind)), cell(usable)]
            row.append(cell(found.counts.found[band, kind] / usable, ".3f"))
            row += [_level(fit, level) for level in _LEVELS]
            row.append(Cell(within(fit.plateau, fit.errors["plateau"], 3), fit.plateau) if fit.ok else cell(None))
            row.append(cell(_remarks(fit)))
            rows.append(row)
    return Table(
        "Magnitudes at which 50, 80 and 90 % of the usable fakes are found, from the fitted curves",
        (
            Column("band"),
            Column("type"),
            *Column.numbers("usable", "found"),
            *(Column(f"m{100 * level:.0f}", "mag", numeric=True) for level in _LEVELS),
            Column("plateau", numeric=True),
            Column("remarks", long=True),
        ),
        rows,
        n,
    )


def _level(fit: CompletenessFit, level: float) -> Cell:
    one: Any = fit.levels[level]
    return Cell(within(one.value, one.error), one.value) if np.isfinite(one.value) else cell(None)


def _remarks(fit: CompletenessFit) -> str:
    if not fit.ok:
        return fit.reason
    bad = ""
    if fits_badly(fit):
        bad = f"the curve ({fit.model}) does not fit, chi2 {fit.chi2:.0f} of {fit.dof}: trust the points"
    missing = {one.reason for one in fit.levels.values() if one.reason}
    return "; ".join([*(text for text in (bad, fit.warning) if text), *sorted(missing)])
