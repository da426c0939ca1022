"""Populations of real or simulated sources, whose rows are drawn whole: magnitudes, colours, sizes, shapes jointly."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from skygraft.catalog.column_maps import constant_column, nearest
from skygraft.catalog.columns import refused
from skygraft.catalog.dialects import Source
from skygraft.catalog.io import normalize_catalog, read_table
from skygraft.catalog.schema import COLUMNS, SOURCE_TYPES, bands_of, is_mag_column, strings, unit_of, values
from skygraft.errors import CatalogError, ConfigError, DialectError
from skygraft.generation.random_catalogs import cosmos_shapes
from skygraft.generation.spec import RealPopulation
from skygraft.generation.streams import Streams

__all__ = ["RealSources", "needed_component", "read_population"]

type Floats = NDArray[np.float64]

_NOT_DRAWN = ("injection_id", "ra", "dec", "source_type", "flags", "visit", "object_id", "group_id", "host_id")
_WINDOW = 100
"""A row is taken from this part of the rows whose magnitudes are nearest: 1 %, or `_LEAST_ROWS` rows."""
_LEAST_ROWS = 20
_TURNS = ("pa", "bulge_pa", "disk_pa", "shear_pa", "trail_pa", "phase")


@dataclass(frozen=True, eq=False)
class RealSources:
    """A population in memory.

    Parameters
    ----------
    path : Path
    types : ndarray of str, shape (N,)
        Type of each row.
    columns : dict of str to ndarray, shape (N,)
        Properties, by native names; NaN where a type has none.
    mags : dict of str to ndarray, shape (N,)
        Magnitudes by band of the new catalogue.
    share : ndarray, shape (N,), optional
        Cumulative weights, the last of which is 1; None for equal ones.
    smooth : float
        See `RealPopulation`.
    n_left_out : int
        Rows that cannot be used.
    """

    path: Path
    types: NDArray[np.str_]
    columns: dict[str, NDArray[Any]]
    mags: dict[str, Floats]
    share: Floats | None
    smooth: float
    n_left_out: int

    def __len__(self) -> int:
        return len(self.types)

    def pick(self, uniform: Floats, mag: Floats | None = None, band: str = "") -> NDArray[np.int64]:
        """Choose rows.

        Parameters
        ----------
        uniform : ndarray, shape (M,)
            In [0, 1).
        mag : ndarray, shape (M,), optional
            Choose among the rows (1 % of them, 20 at least) whose magnitudes in `band` are nearest to these.
        band : str

        Returns
        -------
        ndarray of int64, shape (M,)
        """
        n = len(self)
        if mag is None:
            if self.share is None:
                return np.minimum((uniform * n).astype(np.int64), n - 1)
            return np.minimum(np.searchsorted(self.share, uniform, side="right"), n - 1).astype(np.int64)
        order, ordered = self._by_mag(band)
        size = min(n, max(_LEAST_ROWS, n // _WINDOW))
        place = np.searchsorted(ordered, np.nan_to_num(mag))
        first = np.clip(place - size // 2, 0, n - size)
        return np.asarray(order[first + np.minimum((uniform * size).astype(np.int64), size - 1)], dtype=np.int64)

    @functools.cache  # noqa: B019 - as long as the population
    def _by_mag(self, band: str) -> tuple[NDArray[np.int64], Floats]:
        """Rows in order of their magnitude in a band, and these magnitudes."""
        order = np.argsort(self.mags[band], kind="stable")
        return order, self.mags[band][order]

    @functools.cache  # noqa: B019
    def _statistics(self, kind: str) -> tuple[list[str], Floats, Floats]:
        """Properties that can be scattered, of a type; their means, and the root of their covariance."""
        own = self.types == kind
        every = self._scattered()
        names = [k for k, c in every.items() if np.isfinite(c[own]).all() and np.ptp(c[own]) > 0]
        if not names or np.count_nonzero(own) < len(names) + 2:
            return [], np.zeros(0), np.zeros((0, 0))
        table = np.stack([_in(every[name][own], _is_log(name)) for name in names])
        scale, axes = np.linalg.eigh(np.atleast_2d(np.cov(table)))
        return names, table.mean(axis=1), axes * np.sqrt(np.maximum(scale, 0.0))

    def _scattered(self) -> dict[str, Floats]:
        return {f"mag_{band}": mag for band, mag in self.mags.items()} | {
            name: column for name, column in self.columns.items() if column.dtype.kind == "f" and name not in _TURNS
        }

    def scatter(
        self, rows: NDArray[np.int64], streams: Streams, start: int, at: NDArray[np.int64]
    ) -> dict[str, Floats]:
        """Draw the smoothed properties of rows: their own, scattered along the population's correlations.

        Mean and covariance stay those of the population (Silverman 1986, section 6.4.1). Radii are scattered in their
        logarithm, and values stay in the range that the schema allows.

        Parameters
        ----------
        rows : ndarray of int64, shape (M,)
            Of the population.
        streams : Streams
        start : int
            First row of the block of the catalogue.
        at : ndarray of int64, shape (M,)
            Which rows of the block these are.

        Returns
        -------
        dict of str to ndarray, shape (M,)
            Magnitudes as ``mag_<band>``, and other columns.
        """
        out = {name: column[rows].astype(np.float64) for name, column in self._scattered().items()}
        n = int(at.max()) + 1 if at.size else 0
        for kind in np.unique(self.types[rows]).tolist():
            names, mean, root = self._statistics(kind)
            if not names:
                continue
            mine = np.flatnonzero(self.types[rows] == kind)
            normal = np.stack([streams.normal(f"smooth:{name}", start, n)[at[mine]] for name in names])
            drawn = np.stack([_in(out[name][mine], _is_log(name)) for name in names])
            shrink = np.sqrt(1.0 + self.smooth**2)
            drawn = mean[:, None] + (drawn + self.smooth * (root @ normal) - mean[:, None]) / shrink
            for name, value in zip(names, drawn, strict=True):
                out[name][mine] = _within(name, np.exp(value) if _is_log(name) else value)
        return out


def _is_log(name: str) -> bool:
    return name.endswith("half_light_radius") or name in ("trunc", "trail_length")


def _in(value: Floats, log: bool) -> Floats:
    return np.log(value) if log else value


def _within(name: str, value: Floats) -> Floats:
    spec = COLUMNS.get(name)
    if spec is None:
        return value
    low = max(spec.low, spec.least) if spec.open_low or spec.least else spec.low
    return np.clip(value, low if low > 0 or not spec.open_low else 1e-3, spec.high)


def read_population(spec: RealPopulation, bands: Sequence[str], kind: str | None = None) -> RealSources:
    """Read a population.

    Parameters
    ----------
    spec : RealPopulation
    bands : sequence of str
        Bands of the new catalogue. The population needs the first; others that it lacks are left out.
    kind : str, optional
        Type of all its sources, instead of that of each row.

    Returns
    -------
    RealSources

    Raises
    ------
    CatalogError
        If columns are missing (lists them), or no row can be used.
    ConfigError
        If a band cannot be found.
    """
    raw = read_table(spec.path, hdu=spec.hdu)
    if len(raw) == 0:
        raise CatalogError("the population has no rows", path=spec.path, fix="Give a table with sources")
    source = Source(raw, str(spec.path))
    if spec.columns:
        types, columns, mags = _by_columns(spec, source, kind)
        good = np.ones(len(raw), dtype=np.bool_)
    elif "sersicfit" in source:
        if spec.weight is not None:
            raise ConfigError("the fits of COSMOS galaxies take no weight", path=spec.path, key="population.weight")
        shapes = cosmos_shapes(spec.path)
        columns = {name: values(shapes, name) for name in ("n", "half_light_radius", "q")}
        mags = {"f814w": values(shapes, "mag")}
        types = np.full(len(shapes), kind or "Sersic")
        good = np.ones(len(shapes), dtype=np.bool_)
    else:
        table = _canonical(spec, raw)
        types = np.full(len(table), kind) if kind else strings(table, "source_type")
        names = [name for name in table.colnames if name in COLUMNS and name not in _NOT_DRAWN]
        columns = {name: values(table, name) for name in names}
        mags = {band: values(table, f"mag_{band}") for band in bands_of(table)}
        good = values(table, "flags") == 0
    found = _bands(spec, bands, mags)
    weights = None if spec.weight is None else _numbers(source, {"weight": spec.weight})["weight"]
    good &= np.isfinite(found[bands[0]])
    fraction = columns.get("bulge_fraction")
    for name, column in columns.items():
        bad = _fails(name, column, types)
        good &= ~(bad if fraction is None else bad & needed_component(name, fraction))
    if weights is not None:
        good &= np.isfinite(weights) & (weights > 0)
    if not good.any():
        raise CatalogError(
            f"none of the {len(good)} rows of the population can be used: each lacks a magnitude in "
            f"{bands[0]}, or a property that is allowed",
            path=spec.path,
            key="population",
            fix="Check its columns and units",
        )
    share = None
    if weights is not None:
        total = np.cumsum(weights[good])
        share = total / total[-1]
    return RealSources(
        spec.path,
        types[good],
        {name: column[good] for name, column in columns.items()},
        {band: mag[good] for band, mag in found.items()},
        share,
        spec.smooth,
        int(np.count_nonzero(~good)),
    )


def _fails(name: str, column: NDArray[Any], types: NDArray[np.str_]) -> NDArray[np.bool_]:
    """Rows whose type needs another value."""
    spec = COLUMNS[name]
    if column.dtype.kind not in "fi":
        return np.zeros(len(column), dtype=np.bool_)
    used = np.isin(types, spec.types) if spec.types else np.ones(len(types), dtype=np.bool_)
    return np.asarray(used & spec.fails(column), dtype=np.bool_)


def needed_component(name: str, bulge_fraction: Floats) -> NDArray[np.bool_]:
    """Rows that need a property of a bulge or a disk: a galaxy that is all disk needs no bulge."""
    if name.startswith("bulge_") and name != "bulge_fraction":
        return np.asarray(bulge_fraction != 0)
    if name.startswith("disk_"):
        return np.asarray(bulge_fraction != 1)
    return np.ones(len(bulge_fraction), dtype=np.bool_)


def _canonical(spec: RealPopulation, raw: Table) -> Any:
    try:
        return normalize_catalog(raw, spec.dialect, origin=str(spec.path), on_bad="flag")
    except DialectError as error:
        have = ", ".join([*raw.colnames, *refused(raw)][:40])
        raise DialectError(
            f"the population is in no dialect that is known; its columns are {have}",
            path=spec.path,
            key="population",
            fix="Name its columns: population: {columns: {mag_r: ..., half_light_radius: ..., n: ..., q: ...}}",
        ) from error


def _by_columns(
    spec: RealPopulation, source: Source, kind: str | None
) -> tuple[NDArray[np.str_], dict[str, NDArray[Any]], dict[str, Floats]]:
    odd = [n for n in spec.columns if not (n in COLUMNS or n == "mag" or is_mag_column(n)) or n in ("ra", "dec")]
    if odd:
        raise ConfigError(
            f"{', '.join(odd)} cannot be drawn from a population; properties of the native schema can, and mag_<band>",
            path=spec.path,
            key="population.columns",
            fix=nearest(odd[0], [*COLUMNS, *(["mag_r"] if odd[0].startswith("mag") else [])], 2)
            or "Name them as in docs/catalogue_columns.md",
        )
    wanted = dict(spec.columns)
    type_column = wanted.pop("source_type", None)
    found = _numbers(source, wanted | ({"source_type": type_column} if type_column else {}))
    if type_column is not None and kind is None:
        constant = type_column.startswith("=")
        types = constant_column("source_type", type_column, len(source)) if constant else source.text(type_column)
        unknown = sorted(set(types.tolist()) - set(SOURCE_TYPES))
        if unknown:
            raise CatalogError(
                f"the types {', '.join(unknown[:5])} are not known; known are {', '.join(SOURCE_TYPES)}",
                path=spec.path,
                key=type_column,
                fix="Give the type of all sources: type: Sersic",
            )
    else:
        types = np.full(len(source), kind or "Star")
    mags = {name.removeprefix("mag").removeprefix("_"): found.pop(name) for name in list(found) if _is_mag(name)}
    return np.asarray(types, dtype=np.str_), found, mags


def _is_mag(name: str) -> bool:
    return name == "mag" or is_mag_column(name)


def _numbers(source: Source, wanted: dict[str, str]) -> dict[str, Any]:
    """Columns of a table in the units of the schema; all that are missing are named."""
    source.require(column for column in wanted.values() if not column.startswith("="))
    out: dict[str, Any] = {}
    for name, column in wanted.items():
        if name == "source_type":
            continue
        spec = COLUMNS.get(name)
        if column.startswith("="):
            out[name] = constant_column(name, column, len(source))
        elif spec is not None and spec.kind == "str":
            out[name] = source.text(column)
        else:
            out[name] = source.numbers(column, unit_of(name) or "" if name != "weight" else None)
    return out


def _bands(spec: RealPopulation, bands: Sequence[str], mags: dict[str, Floats]) -> dict[str, Floats]:
    """Magnitudes by band of the catalogue."""
    unknown = [band for band in spec.bands if band not in bands]
    if unknown:
        raise ConfigError(
            f"population.bands names {', '.join(unknown)}, which the catalogue does not have; it has "
            f"{', '.join(bands)}",
            path=spec.path,
            key="population.bands",
            fix="Name bands of the catalogue first, such as {r: F814W}",
        )
    found: dict[str, Floats] = {}
    for band in bands:
        own = spec.bands.get(band, band)
        if own in mags:
            found[band] = mags[own]
        elif band in spec.bands or band == bands[0]:
            if band == bands[0] and band not in spec.bands and len(mags) == 1:
                found[band] = next(iter(mags.values()))  # it has a single one, in a band of another name
                continue
            have = ", ".join(name or "mag" for name in mags) or "none"
            raise ConfigError(
                f"the population has no magnitudes in {own}; it has {have}",
                path=spec.path,
                key="population.bands",
                fix=f"Say which to take: population: {{bands: {{{band}: ...}}}}",
            )
    return found
