"""The numbers of a recovery: counts of its rows, and what `skygraft.statistics` makes of them."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from skygraft.errors import SkygraftError
from skygraft.report.counting import BATCH_ROWS, Sample, grouped, magnitude_edges, numbers, text_column, total

if TYPE_CHECKING:
    import xarray as xr

    from skygraft.statistics import CompletenessFit, SelectionFunction

__all__ = [
    "ELONGATED",
    "KIND_NAMES",
    "OBJECT",
    "PER_MAG",
    "Recovered",
    "RecoveryCounts",
    "count_recovery",
    "kind_name",
    "measure_recovered",
]

KIND_NAMES = {
    "Star": "stars",
    "Sersic": "Sérsic galaxies",
    "BulgeDisk": "bulge + disk galaxies",
    "Gaussian": "Gaussian profiles",
    "Moffat": "Moffat profiles",
    "Trail": "trails",
    "Stamp": "stamps",
    "Spergel": "Spergel profiles",
    "InclinedExponential": "inclined exponential disks",
    "InclinedSersic": "inclined Sérsic disks",
    "Kolmogorov": "Kolmogorov profiles",
    "RandomKnots": "galaxies of knots",
    "RealGalaxy": "real galaxies",
}
"""Source types in words."""
_ORDER = tuple(KIND_NAMES)
_RANGES = ("mag", "mag_below_depth", "surface_brightness", "half_light_radius", "class_star_out")
_LARGEST_SHARE = 6
"""Most types, and most bands, that have figures of their own; the rest is in the tables and files."""
ELONGATED = 0.8
"""Axis ratio above which a position angle says little."""
EXACT_ROWS = 2_000_000
"""Values that a median holds in memory; beyond, they are rounded to 1e-4."""
OBJECT = "object_id"
"""Column of the catalogue that says which sources are one transient or mover at different times."""
_PER_SIZE, _PER_CELL, _MOST_SIZES = 150, 10, 6
"""Fakes in each bin of size of the selection function and in each cell of magnitude and size, and most bins of size."""
PER_MAG = 10
"""Bins of a magnitude in `RecoveryCounts.by_mag`."""


def kind_name(kind: str) -> str:
    """A source type in words, in the plural."""
    return KIND_NAMES.get(kind, kind or "unknown type")


@dataclass
class RecoveryCounts:
    """Counts of a recovery table."""

    rows: Counter[tuple[str, str]] = field(default_factory=Counter)  # by (band, type), as the next two
    usable: Counter[tuple[str, str]] = field(default_factory=Counter)
    found: Counter[tuple[str, str]] = field(default_factory=Counter)
    reasons: Counter[tuple[str, str]] = field(default_factory=Counter)  # rows that were not found, by (reason, type)
    by_mag: dict[str, Counter[int]] = field(default_factory=dict)
    """Rows by the reason why they were not found (empty for found), and within by tenth of a magnitude."""
    blends: Counter[str] = field(default_factory=Counter)
    """Usable rows by whose light is in their aperture: ``real``, ``fake`` or empty."""
    low: dict[str, float] = field(default_factory=dict)  # range of some columns, of usable rows
    high: dict[str, float] = field(default_factory=dict)
    places: Sample = field(default_factory=Sample)  # of usable rows; the kind is 1 for found

    @property
    def bands(self) -> list[str]:
        """Bands with usable rows, those with most rows first."""
        return _largest(self.usable, 0)

    @property
    def kinds(self) -> list[str]:
        """Types with usable rows; stars first, then as `KIND_NAMES`."""
        names = {kind for (_, kind), n in self.usable.items() if n}
        return sorted(names, key=lambda kind: (_ORDER.index(kind) if kind in _ORDER else len(_ORDER), kind))


def _largest(counts: Counter[tuple[str, str]], part: int) -> list[str]:
    sums: Counter[str] = Counter()
    for key, n in counts.items():
        sums[key[part]] += n
    return sorted((name for name, n in sums.items() if n), key=lambda name: ("ugrizyYJHK".find(name) % 99, name))


def count_recovery(dataset: Any) -> RecoveryCounts:
    """Count the rows of a recovery table, an Arrow dataset, in batches."""
    counts = RecoveryCounts()
    names = ["injection_id", "ra", "dec", "band", "source_type", "usable", "found", "reason", "blend", *_RANGES]
    names = [name for name in names if name in dataset.schema.names]
    for batch in dataset.to_batches(columns=names, batch_size=BATCH_ROWS):
        usable, found = (numbers(batch[name]) > 0 for name in ("usable", "found"))
        for key, rows in grouped(batch, ("band", "source_type")):
            counts.rows[key] += len(rows)
            counts.usable[key] += int(usable[rows].sum())
            counts.found[key] += int((usable & found)[rows].sum())
        mag = numbers(batch["mag"])
        tenth = np.floor(np.where(np.isfinite(mag), mag, 0.0) * PER_MAG).astype(np.int64)
        for (reason, kind), rows in grouped(batch, ("reason", "source_type")):
            left = rows[~found[rows]]
            if len(left):
                counts.reasons[reason, kind] += len(left)
            some = rows[usable[rows]]
            for missed in (True, False):
                part = some[found[some] != missed]
                values, n = np.unique(tenth[part], return_counts=True)
                tally = counts.by_mag.setdefault(reason if missed else "", Counter())
                tally.update(dict(zip(values.tolist(), n.tolist(), strict=True)))
        if "blend" in names:
            codes, blends = text_column(batch["blend"])
            n_each = np.bincount(codes[usable], minlength=len(blends)).tolist()
            counts.blends.update({name: n for name, n in zip(blends, n_each, strict=True) if n})
        for name in set(_RANGES) & set(names):
            values_of = numbers(batch[name])
            good = values_of[usable & np.isfinite(values_of)]
            if good.size:
                counts.low[name] = min(counts.low.get(name, np.inf), float(good.min()))
                counts.high[name] = max(counts.high.get(name, -np.inf), float(good.max()))
        ids = np.asarray(batch["injection_id"])[usable]
        ra, dec = numbers(batch["ra"])[usable], numbers(batch["dec"])[usable]
        counts.places.add(ra, dec, ids, found[usable].astype(np.int64))
    return counts


@dataclass
class Recovered:
    """What a recovery found, as datasets."""

    dataset: Any  # the recovery table, of Arrow
    settings: dict[str, Any]  # what it was made with
    counts: RecoveryCounts
    bands: list[str]  # that have figures of their own
    kinds: list[str]  # that have figures of their own
    tables: dict[str, xr.Dataset] = field(default_factory=dict)  # statistics; each goes into a file of its own
    fits: dict[tuple[str, str], CompletenessFit] = field(default_factory=dict)
    """Of completeness against magnitude, by (band, type)."""
    depth_fits: dict[str, CompletenessFit] = field(default_factory=dict)
    """Of completeness against magnitude minus depth, by type."""
    selection: SelectionFunction | None = None  # None where there are too few fakes for one
    problems: dict[str, str] = field(default_factory=dict)  # statistics that could not be made, and why

    @property
    def columns(self) -> frozenset[str]:
        """Columns of the recovery table."""
        return frozenset(self.dataset.schema.names)


def measure_recovered(
    dataset: Any, settings: dict[str, Any], *, isolation: float = 3.0, light_curves: bool = False
) -> Recovered:
    """Compute the statistics of a recovery table.

    Parameters
    ----------
    dataset : pyarrow.dataset.Dataset
        The recovery table.
    settings : dict
        What it was made with.
    isolation : float
        Distance to the nearest real source from which a fake counts as isolated, arcsec.
    light_curves : bool
        The sources have light curves: what is said of transients is said of them too, if each has a row of its own.

    Returns
    -------
    Recovered
        A statistic that could not be made has its reason in `problems`.
    """
    counts = count_recovery(dataset)
    sizes = Counter({band: total(counts.usable, band=band) for band in counts.bands})
    shown = {band for band, _ in sizes.most_common(_LARGEST_SHARE)}
    bands = [band for band in counts.bands if band in shown]
    kind_sizes = Counter({kind: total(counts.usable, kind=kind) for kind in counts.kinds})
    shown = {kind for kind, _ in kind_sizes.most_common(_LARGEST_SHARE)}
    found = Recovered(dataset, settings, counts, bands, [kind for kind in counts.kinds if kind in shown])
    if total(counts.usable):
        for name, make in (*_completeness(found), *_biases(found, isolation), *_more(found), *_classes(found)):
            try:
                found.tables[name] = make()
            except SkygraftError as error:
                found.problems[name] = str(error)
        if OBJECT in found.columns and (light_curves or _have_several_rows(dataset)):
            _transients(found)
        try:
            found.selection = _selection(found)
        except SkygraftError as error:
            found.problems["selection"] = str(error)
        for band in found.bands:
            for kind in found.kinds:
                if counts.usable[band, kind]:
                    found.fits[band, kind] = best_fit(dataset, "mag", rows_of(band, kind))
        for kind in found.kinds if "mag_below_depth" in counts.low else ():
            found.depth_fits[kind] = best_fit(dataset, "mag_below_depth", rows_of(None, kind))
    return found


def by_groups(counts: RecoveryCounts) -> dict[str, list[str]]:
    """Bands and types as categories, for statistics; a band that is not known is none."""
    groups = {"band": counts.bands, "source_type": counts.kinds}
    return {name: values for name, values in groups.items() if "" not in values}


def rows_of(band: str | None, kind: str | None) -> Any:
    """The rows of a band and a type, as an expression of Arrow; None for all, empty text for what is not known."""
    import pyarrow.compute as pc

    found = None
    for name, value in (("band", band), ("source_type", kind)):
        if value is not None:
            one = pc.field(name) == value
            one = one if value else one | pc.field(name).is_null()
            found = one if found is None else found & one
    return found


def best_fit(dataset: Any, x: str, where: Any) -> CompletenessFit:
    """Fit a logistic curve, or, where that does not fit and it does better, a double Fermi curve."""
    from skygraft.statistics import fit_completeness

    first = fit_completeness(dataset, x, where=where)
    if not fits_badly(first):
        return first
    second = fit_completeness(dataset, x, "double_fermi", where=where)
    return second if second.ok and second.chi2 < first.chi2 else first


def fits_badly(fit: CompletenessFit) -> bool:
    """Whether a curve is not that of the fakes: chi2 five standard deviations above its degrees of freedom."""
    return bool(fit.ok and fit.dof > 0 and fit.chi2 > fit.dof + 5.0 * np.sqrt(2.0 * fit.dof))


def _edges(counts: RecoveryCounts, name: str, n: int) -> Any:
    return magnitude_edges(counts.low[name], counts.high[name], n)


def _completeness(found: Recovered) -> Iterator[tuple[str, Callable[[], xr.Dataset]]]:
    from skygraft.statistics import completeness

    data, counts = found.dataset, found.counts
    n = total(counts.usable)
    groups = by_groups(counts)
    kinds = {name: values for name, values in groups.items() if name == "source_type"}
    n_kinds = max(1, len(counts.kinds))
    mags = _edges(counts, "mag", n // max(1, len(counts.bands) * n_kinds))
    yield "completeness_mag", lambda: completeness(data, {"mag": mags, **groups})
    if "mag_below_depth" in counts.low:
        depths = _edges(counts, "mag_below_depth", n // n_kinds)
        yield "completeness_mag_below_depth", lambda: completeness(data, {"mag_below_depth": depths, **kinds})
    if "surface_brightness" in counts.low:
        faint = _edges(counts, "surface_brightness", n // n_kinds)
        yield "completeness_surface_brightness", lambda: completeness(data, {"surface_brightness": faint, **kinds})
    if counts.high.get("half_light_radius", 0) > counts.low.get("half_light_radius", 0):
        coarse = _edges(counts, "mag", n // (2 * n_kinds))
        yield "completeness_half_light_radius", lambda: completeness(data, {"half_light_radius": 8, **kinds})
        extended = sum(n for (_, kind), n in counts.usable.items() if kind != "Star")
        sizes = int(np.clip(extended / (_PER_CELL * (len(coarse) - 1)), 2, _MOST_SIZES))
        cells = {"mag": coarse, "half_light_radius": sizes}
        yield "completeness_mag_half_light_radius", lambda: completeness(data, cells, bootstrap=0)


def _more(found: Recovered) -> Iterator[tuple[str, Callable[[], xr.Dataset]]]:
    from skygraft.report.frame import Frame
    from skygraft.statistics import correlations, sky_map

    counts = found.counts
    radius = Frame.around(counts.places.ra, counts.places.dec).radius
    nside = map_nside((2 * radius) ** 2, total(counts.usable))
    # Bands differ in depth and seeing: together they would look as if these were conditions.
    band = max(found.bands, key=lambda name: total(counts.usable, band=name))
    several = len(counts.bands) > 1
    where = rows_of(band, None) if several else None
    name = band if several else ""
    data = found.dataset
    if "depth" in found.columns:
        yield "map_depth", lambda: sky_map(data, "depth", "median", nside, where=where).assign_attrs(band=name)
    yield "map_completeness", lambda: sky_map(data, statistic="completeness", nside=nside)
    if total(counts.found):
        difference = ("mag_cal", "mag")
        yield "map_bias", lambda: sky_map(data, difference, "bias", nside, where=where).assign_attrs(band=name)
    yield "conditions_found", lambda: correlations(data, "found", where=where).assign_attrs(band=name)
    if total(counts.found):
        yield "conditions_bias", lambda: correlations(data, ("mag_cal", "mag"), where=where).assign_attrs(band=name)


def map_nside(area: float, n: int, *, per_pixel: int = 25, most: int = 600) -> int:
    """Resolution of a HEALPix map of an area, square degrees, whose pixels hold some `per_pixel` of `n` values."""
    pixels = min(max(n / per_pixel, 1.0), most)
    sky = 4 * np.pi * np.degrees(1.0) ** 2
    nside = np.sqrt(pixels * sky / (12 * max(min(area, sky), 1e-9)))
    return int(2 ** np.clip(np.round(np.log2(nside)), 0, 20))


def _classes(found: Recovered) -> Iterator[tuple[str, Callable[[], xr.Dataset]]]:
    """Star/galaxy confusion, where the detections have a classification."""
    from skygraft.statistics import confusion

    if "class_star_out" not in found.counts.low:
        return
    data, n_found = found.dataset, total(found.counts.found)
    coarse = {"mag": _edges(found.counts, "mag", n_found // 2)}
    yield "confusion", lambda: confusion(data)
    yield "confusion_mag", lambda: confusion(data, by=coarse)


def _have_several_rows(dataset: Any) -> bool:
    """Whether the catalogue says that some of its rows are one object, at several times."""
    for batch in dataset.to_batches(columns=["injection_id", OBJECT], batch_size=BATCH_ROWS):
        if not batch.column("injection_id").equals(batch.column(OBJECT)):
            return True
    return False


def _transients(found: Recovered) -> None:
    """Efficiency and first detection of objects at several times."""
    from skygraft.statistics import detected_by, first_detection, transient_efficiency

    data, counts = found.dataset, found.counts
    by: dict[str, Any] = {"mag": _edges(counts, "mag", total(counts.usable))}
    if "mag_below_depth" in counts.low:
        # Of equal width in magnitudes: few epochs are at the low ratios that matter, of thousands.
        by["snr_expected"] = 5.0 * 10 ** (-0.4 * _edges(counts, "mag_below_depth", total(counts.usable))[::-1])
    if {"phase", "peak_mjd"} & found.columns:
        by["phase"] = "auto"
    try:
        for name, table in transient_efficiency(data, by, source=OBJECT).items():
            found.tables[f"transient_efficiency_{name}"] = table
        start = "peak_mjd" if "peak_mjd" in found.columns else None
        first = first_detection(data, OBJECT, start=start)
        found.tables["first_detection"] = first
        found.tables["detected_by"] = detected_by(first)
    except SkygraftError as error:
        found.problems["transients"] = str(error)


def _selection(found: Recovered) -> SelectionFunction:
    """The selection function of each band and type, in as many sizes as there are fakes for."""
    from skygraft.statistics import SelectionFunction

    counts, per = found.counts, tuple(by_groups(found.counts))
    over: dict[str, Any] = {"mag": "auto"}
    if "half_light_radius" in counts.low:
        extended = [n for (_, kind), n in counts.usable.items() if kind != "Star" and n]
        over["half_light_radius"] = int(np.clip(min(extended, default=0) // _PER_SIZE, 1, _MOST_SIZES))
    return SelectionFunction.from_data(found.dataset, over, per)


def _biases(found: Recovered, isolation: float) -> Iterator[tuple[str, Callable[[], xr.Dataset]]]:
    import pyarrow.compute as pc

    from skygraft.statistics import bias, position_bias

    medians = functools.partial(bias, exact_rows=EXACT_ROWS)
    data, counts, there = found.dataset, found.counts, found.columns
    n_found = total(counts.found)
    if not n_found:
        return
    groups = by_groups(counts)
    kinds = {name: values for name, values in groups.items() if name == "source_type"}
    n_kinds = max(1, len(counts.kinds))
    fine = _edges(counts, "mag", n_found // max(1, len(counts.bands) * n_kinds))
    mags = {"mag": _edges(counts, "mag", n_found // n_kinds), **kinds}
    yield "bias_mag_cal", lambda: medians(data, "mag_cal", "mag", {"mag": fine, **groups})
    yield (
        "bias_mag_cal_isolated",
        lambda: medians(data, "mag_cal", "mag", {"mag": fine, **groups}, isolated=isolation),
    )
    yield "bias_mag_cal_pooled", lambda: medians(data, "mag_cal", "mag", mags)
    yield "bias_mag_cal_isolated_pooled", lambda: medians(data, "mag_cal", "mag", mags, isolated=isolation)
    for name in ("mag_kron", "mag_psf"):
        if name in there:
            yield f"bias_{name}", functools.partial(medians, data, name, "mag", mags)
    yield "bias_position", lambda: position_bias(data, mags, exact_rows=EXACT_ROWS)
    if "half_light_radius" in counts.low:
        yield "bias_size", lambda: medians(data, "half_light_radius_out", "half_light_radius", mags, kind="ratio")
        yield "bias_axis_ratio", lambda: medians(data, "axis_ratio_out", "axis_ratio", mags)
        elongated = pc.field("axis_ratio") < ELONGATED
        yield (
            "bias_position_angle",
            lambda: medians(data, "position_angle_out", "position_angle", mags, kind="angle", where=elongated),
        )
