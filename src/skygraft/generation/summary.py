"""What is in a catalogue: numbers, ranges and density of any that can be read, and a figure of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy import units as u
from astropy_healpix import lonlat_to_healpix
from numpy.typing import NDArray

from skygraft.catalog.io import iter_catalog
from skygraft.catalog.schema import COLUMNS, bands_of, strings, values

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["CatalogSummary", "ColumnRange", "catalog_figure", "summarise_catalog"]

type Floats = NDArray[np.float64]

_ORDER = 14
"""HEALPix order of the cells that sources are looked for in first: 13 arcsec."""
_MOST_CELLS = 1_000_000
_OCCUPANCY = 5
"""Sources in a cell, on average, in cells by which the area is estimated."""
_SAMPLE = 20_000
_STEP = 0.01
_MAG_RANGE = (-50.0, 80.0)
_SIZES = ("half_light_radius", "disk_half_light_radius", "bulge_half_light_radius")
_COLORS = ("#3b7dd8", "#e4572e", "#2a9d8f", "#9b5de5", "#f4a261", "#6c757d", "#118ab2", "#d62828")
_NOT_SHOWN = ("injection_id", "ra", "dec", "flags")


@dataclass(frozen=True)
class ColumnRange:
    """Range of a column.

    Parameters
    ----------
    low, median, high : float
        Smallest and largest value; the median to 0.01 mag for magnitudes, otherwise NaN.
    n : int
        Number of values that are not missing.
    unit : str
        Unit.
    """

    low: float
    median: float
    high: float
    n: int
    unit: str = ""


@dataclass(frozen=True)
class CatalogSummary:
    """What is in a catalogue.

    Parameters
    ----------
    path : Path
        The file.
    n : int
        Rows.
    n_flagged : int
        Rows that cannot be drawn.
    types : dict of str to int
        Rows of each type.
    ids : (int, int)
        Smallest and largest injection id.
    ra, dec : (float, float)
        Range, degrees; the range of ra may pass 360, at which the first is then the larger.
    area : float
        Square degrees of the cells of the sky that have sources: an estimate.
    bands : dict of str to ColumnRange
        Magnitudes.
    columns : dict of str to ColumnRange
        Other numbers.
    sample : dict of str to ndarray
        ra, dec, type, magnitude in the first band, and size, of up to some 20 000 rows, evenly chosen.
    histograms : dict of str to ndarray
        Number of sources in each 0.01 mag of the first band from -50 on, by type.
    """

    path: Path
    n: int
    n_flagged: int
    types: dict[str, int]
    ids: tuple[int, int]
    ra: tuple[float, float]
    dec: tuple[float, float]
    area: float
    bands: dict[str, ColumnRange]
    columns: dict[str, ColumnRange]
    sample: dict[str, NDArray[Any]]
    histograms: dict[str, NDArray[np.int64]]

    @property
    def density(self) -> float:
        """Sources per square arcminute, about."""
        return self.n / (self.area * 3600.0)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON types."""
        content = {name: value for name, value in asdict(self).items() if name not in ("sample", "histograms")}
        return content | {"path": str(self.path), "density_per_arcmin2": self.density}


class _Tally:
    """Sums over the rows of a catalogue."""

    def __init__(self) -> None:
        self.n = self.n_flagged = 0
        self.types: dict[str, int] = {}
        self.ids = (2**63 - 1, -(2**63))
        self.order, self.cells = _ORDER, np.zeros(0, dtype=np.int64)
        self.ends: dict[str, tuple[float, float, int]] = {}
        self.mags: dict[str, NDArray[np.int64]] = {}
        self.by_type: dict[str, NDArray[np.int64]] = {}
        self.bands: list[str] = []
        self._parts: list[dict[str, NDArray[Any]]] = []
        self._stride, self._kept = 1, 0

    def add(self, table: Any) -> None:
        types = strings(table, "source_type")
        ra, dec = values(table, "ra"), values(table, "dec")
        ids = values(table, "injection_id")
        self.ids = (min(self.ids[0], int(ids.min())), max(self.ids[1], int(ids.max())))
        self.n_flagged += int(np.count_nonzero(values(table, "flags")))
        for name, count in zip(*np.unique(types, return_counts=True), strict=True):
            self.types[str(name)] = self.types.get(str(name), 0) + int(count)
        cells = lonlat_to_healpix(ra * u.deg, dec * u.deg, 1 << self.order, order="nested")
        self.cells = np.union1d(self.cells, cells).astype(np.int64)
        while len(self.cells) > _MOST_CELLS:
            self.order -= 1
            self.cells = np.unique(self.cells >> 2)
        self.bands = self.bands or bands_of(table)
        for band in self.bands:
            mag = values(table, f"mag_{band}")
            self._end(f"mag_{band}", mag)
            self.mags[band] = self.mags.get(band, 0) + _histogram(mag)
        for name in table.colnames:
            if name in COLUMNS and COLUMNS[name].kind in ("float", "int") and name not in _NOT_SHOWN:
                self._end(name, values(table, name).astype(np.float64))
        self._end("ra", ra)
        self._end("dec", dec)
        size = np.full(len(table), np.nan)
        for name in _SIZES:
            if name in table.colnames:
                size = np.where(np.isnan(size), values(table, name), size)
        mag = values(table, f"mag_{self.bands[0]}") if self.bands else np.full(len(table), np.nan)
        for name in np.unique(types).tolist():
            self.by_type[name] = self.by_type.get(name, 0) + _histogram(mag[types == name])
        rows = np.arange(-self.n % self._stride, len(table), self._stride)
        self._parts.append(
            {"ra": ra[rows], "dec": dec[rows], "type": types[rows], "mag": mag[rows], "size": size[rows]}
        )
        self._kept += len(rows)
        self.n += len(table)
        while self._kept > 2 * _SAMPLE:
            whole = self.sample()
            self._parts = [{name: column[::2] for name, column in whole.items()}]
            self._kept = len(self._parts[0]["ra"])
            self._stride *= 2

    def sample(self) -> dict[str, NDArray[Any]]:
        return {name: np.concatenate([part[name] for part in self._parts]) for name in self._parts[0]}

    def _end(self, name: str, column: Floats) -> None:
        good = column[np.isfinite(column)]
        low, high, n = self.ends.get(name, (np.inf, -np.inf, 0))
        if good.size:
            low, high = min(low, float(good.min())), max(high, float(good.max()))
        self.ends[name] = (low, high, n + good.size)

    def area(self) -> float:
        """Square degrees of cells that have sources, at an order where they have several."""
        order, cells = self.order, self.cells
        while order > 0 and self.n < _OCCUPANCY * len(cells) and len(cells) > 1:
            order -= 1
            cells = np.unique(cells >> 2)
        return float(len(cells) * 4.0 * np.pi * np.degrees(1.0) ** 2 / (12 * 4**order))


def _histogram(mag: Floats) -> NDArray[np.int64]:
    n = round((_MAG_RANGE[1] - _MAG_RANGE[0]) / _STEP)
    good = mag[np.isfinite(mag)]
    place = np.clip(np.floor((good - _MAG_RANGE[0]) / _STEP), 0, n - 1).astype(np.int64)
    return np.bincount(place, minlength=n).astype(np.int64)


def summarise_catalog(
    path: str | os.PathLike[str],
    *,
    dialect: str = "auto",
    columns: Mapping[str, str] | None = None,
    progress: Callable[[int], None] | None = None,
) -> CatalogSummary:
    """Count what is in a catalogue, of any format and dialect; Parquet is streamed.

    Parameters
    ----------
    path : path-like
    dialect : str
    columns : mapping of str to str, optional
        As in `skygraft.read_catalog`.
    progress : callable, optional
        Called with the number of rows that were read.

    Returns
    -------
    CatalogSummary

    Raises
    ------
    CatalogError, DialectError, CorruptFileError
        As `skygraft.read_catalog`; rows that cannot be drawn are counted.
    """
    tally = _Tally()
    for chunk in iter_catalog(path, dialect=dialect, columns=columns, on_bad="flag"):
        tally.add(chunk)
        if progress is not None:
            progress(len(chunk))
    ranges = {}
    for name, (low, high, n) in tally.ends.items():
        unit = "mag" if name not in COLUMNS else COLUMNS[name].unit or ""
        counts = tally.mags.get(name.removeprefix("mag_")) if name.startswith("mag_") else None
        median = np.nan
        if counts is not None and n:
            median = _MAG_RANGE[0] + _STEP * (np.searchsorted(np.cumsum(counts), 0.5 * n) + 0.5)
        if n:
            ranges[name] = ColumnRange(low, float(median), high, n, unit)
    sample = tally.sample()
    ra = ranges.pop("ra")
    dec = ranges.pop("dec")
    return CatalogSummary(
        Path(path),
        tally.n,
        tally.n_flagged,
        tally.types,
        tally.ids,
        _ra_range(sample["ra"], (ra.low, ra.high)),
        (dec.low, dec.high),
        tally.area(),
        {band: ranges.pop(f"mag_{band}") for band in tally.bands if f"mag_{band}" in ranges},
        ranges,
        sample,
        tally.by_type,
    )


def _ra_range(ra: Floats, ends: tuple[float, float]) -> tuple[float, float]:
    """Range of right ascensions; that around 360, if the largest gap is not there."""
    ordered = np.sort(ra)
    gaps = np.diff(ordered)
    if gaps.size and gaps.max() > 360.0 - (ends[1] - ends[0]) and ends[1] - ends[0] > 180.0:
        k = int(np.argmax(gaps))
        return float(ordered[k + 1]), float(ordered[k])
    return ends


def catalog_figure(summary: CatalogSummary) -> Figure:
    """Draw positions, magnitudes, and sizes against magnitudes of a catalogue.

    Parameters
    ----------
    summary : CatalogSummary

    Returns
    -------
    matplotlib.figure.Figure
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13.5, 4.3), layout="constrained")
    sky, counts, sizes = figure.subplots(1, 3)
    sample = summary.sample
    names = sorted(summary.types, key=lambda name: -summary.types[name])
    first = next(iter(summary.bands), "")
    # Right ascensions about the middle of the range, so that fields at 0 are in one piece.
    low, high = summary.ra
    middle = (low + ((high - low) % 360.0) / 2.0) % 360.0
    ra = middle + (sample["ra"] - middle + 180.0) % 360.0 - 180.0
    size = 6.0 if len(ra) < 2000 else 1.0
    bins = np.arange(_MAG_RANGE[0], _MAG_RANGE[1] + 0.5 * _STEP, 0.25)
    for k, name in enumerate(names):
        color = _COLORS[k % len(_COLORS)]
        mine = sample["type"] == name
        sky.scatter(ra[mine], sample["dec"][mine], s=size, color=color, linewidths=0, label=name, rasterized=True)
        height = summary.histograms[name].reshape(-1, 25).sum(axis=1)
        counts.stairs(height, bins, color=color, label=name, linewidth=1.6)
        if np.isfinite(sample["size"][mine]).any():
            sizes.scatter(
                sample["mag"][mine], sample["size"][mine], s=size, color=color, linewidths=0, label=name,
                rasterized=True,
            )  # fmt: skip
    sky.set(xlabel="ra (deg)", ylabel="dec (deg)", title=f"{summary.n:,} sources")
    sky.invert_xaxis()
    lowest, highest = sky.get_ylim()
    cosine = float(np.cos(np.radians(np.clip(0.5 * (lowest + highest), -89.0, 89.0))))
    sky.set_aspect(1.0 / cosine, adjustable="datalim")
    sky.ticklabel_format(useOffset=False)
    sky.locator_params(axis="x", nbins=4)
    counts.set(xlabel=f"mag_{first} (AB)", ylabel="sources per 0.25 mag", yscale="log", title="magnitudes")
    if first:
        counts.set_xlim(summary.bands[first].low - 0.3, summary.bands[first].high + 0.3)
    sizes.set(xlabel=f"mag_{first} (AB)", ylabel="half-light radius (arcsec)", title="sizes")
    if np.isfinite(sample["size"]).any():
        sizes.set_yscale("log")
    else:
        sizes.text(0.5, 0.5, "no sizes", ha="center", va="center", transform=sizes.transAxes)
    legend = counts.legend(frameon=False)
    legend.set_visible(len(names) <= len(_COLORS))
    return figure
