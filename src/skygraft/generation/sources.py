"""The properties of generated sources, row by row: types, magnitudes, shapes and other columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skygraft.catalog.schema import COLUMNS, SERSIC_RANGE
from skygraft.errors import CatalogError, ConfigError, shown
from skygraft.generation.distributions import AnyDistribution, Lognormal, Uniform
from skygraft.generation.real_population import RealSources, needed_component, read_population
from skygraft.generation.spec import PopulationSpec, SourceSpec
from skygraft.generation.streams import Streams

__all__ = ["Block", "SourceMaker"]

type Floats = NDArray[np.float64]
type Block = dict[str, NDArray[Any]]
"""Columns of some rows, by name."""

_DEFAULTS: dict[str, AnyDistribution] = {
    "half_light_radius": Lognormal(median=0.5, sigma=0.4, mag_slope=-0.1, low=0.02, high=20.0),
    "n": Lognormal(median=1.5, sigma=0.5, low=SERSIC_RANGE[0], high=SERSIC_RANGE[1]),
    "q": Uniform(low=0.2, high=1.0),
    "pa": Uniform(low=0.0, high=180.0),
}
"""Shapes of sources that need them, where nothing else is said."""
_ANGLES = ("bulge_pa", "disk_pa")
_PATHS = {"Stamp": "stamp", "RealGalaxy": "real_galaxy_catalog"}
"""Columns of file names that types need."""


class SourceMaker:
    """Makes the properties of sources.

    Parameters
    ----------
    spec : PopulationSpec
    bands : sequence of str
        Bands of the catalogue.
    streams : Streams

    Raises
    ------
    CatalogError, ConfigError
        If a population cannot be used, or a column is missing that sources need (names all).
    """

    def __init__(self, spec: PopulationSpec, bands: Sequence[str], streams: Streams) -> None:
        self.spec, self.bands, self._streams = spec, tuple(bands), streams
        self._ends = np.cumsum(spec.fractions())
        self.kinds = [_Kind(source, self.bands, k) for k, source in enumerate(spec.sources)]
        self.types = sorted({name for kind in self.kinds for name in kind.types})
        self.columns = [name for name in COLUMNS if any(name in kind.columns for kind in self.kinds)]

    @property
    def needs_depth(self) -> bool:
        """Whether magnitudes are relative to the depth of images."""
        return any(source.mag_relative_to == "depth" for source in self.spec.sources)

    def rows(self, start: int, n: int, depth: Floats | None = None) -> Block:
        """Make the properties of rows `start` to ``start + n - 1``; they depend on their row, not on these two.

        Parameters
        ----------
        start, n : int
        depth : ndarray, shape (n,), optional
            5 sigma magnitude at the place of each.

        Returns
        -------
        dict of str to ndarray, shape (n,)
            ``source_type`` as indices of `types`, ``mag_<band>``, and `columns`.
        """
        which = np.searchsorted(self._ends, self._streams.uniform("kind", start, n), side="right")
        which = np.minimum(which, len(self.kinds) - 1)
        out: Block = {"source_type": np.zeros(n, dtype=np.int8)}
        out |= {f"mag_{band}": np.full(n, np.nan) for band in self.bands}
        out |= {name: _empty(name, n) for name in self.columns}
        for k, kind in enumerate(self.kinds):
            at = np.flatnonzero(which == k)
            if at.size:
                for name, column in kind.draw(self._streams, start, at, depth, self.types).items():
                    if out[name].dtype.kind == "U" and column.dtype.itemsize > out[name].dtype.itemsize:
                        out[name] = out[name].astype(column.dtype)
                    out[name][at] = column
        self._check(out, start)
        return out

    def _check(self, block: Block, start: int) -> None:
        """Raise for values that the schema does not allow."""
        fraction = block.get("bulge_fraction")
        for name in self.columns:
            spec, column = COLUMNS[name], block[name]
            if spec.kind not in ("float", "int"):
                continue
            bad = spec.fails(column)
            if spec.types and bad.any():
                bad &= np.isin(self.types, spec.types)[block["source_type"]]
            if fraction is not None and bad.any():
                bad &= needed_component(name, fraction)
            if bad.any():
                row = int(np.argmax(bad))
                raise CatalogError(
                    f"{name} = {shown(column[row])} was drawn; it must be {spec.allowed(float(column[row]))}",
                    row=start + row,
                    key=name,
                    fix="Give its distribution low and high, or another unit",
                )
        for band in self.bands:
            mag = block[f"mag_{band}"]
            if np.isinf(mag).any() or np.nanmax(np.abs(mag), initial=0.0) > 200.0:
                worst = mag[np.nanargmax(np.abs(mag))]
                raise CatalogError(
                    f"a magnitude of {shown(worst)} in {band} was drawn", key=f"mag_{band}", fix="Check mag and colors"
                )


def _empty(name: str, n: int) -> NDArray[Any]:
    spec = COLUMNS[name]
    if spec.kind == "float":
        return np.full(n, spec.default if not np.isnan(spec.default) and not spec.types else np.nan)
    if spec.kind == "str":
        return np.full(n, spec.default, dtype="U1")
    return np.full(n, spec.default, dtype=np.int64 if spec.kind == "int" else np.bool_)


class _Kind:
    """One of the kinds of sources of a catalogue."""

    def __init__(self, spec: SourceSpec, bands: tuple[str, ...], number: int) -> None:
        self.spec, self.bands, self._key = spec, bands, f"sources.{number}"
        unknown = [band for band in spec.colors if band not in bands[1:]]
        if unknown:
            raise ConfigError(
                f"a colour is given for {', '.join(unknown)}, which is not among the bands after the first; the bands "
                f"of the catalogue are {', '.join(bands)}",
                key=f"{self._key}.colors",
                fix="Add it to bands, or leave it out",
            )
        self.real: RealSources | None = None
        if spec.population is not None:
            self.real = read_population(spec.population, bands, spec.type)
            if spec.mag is not None and self.real.share is not None:
                raise ConfigError(
                    "weight and mag are both given; with mag, rows are drawn by their magnitude",
                    key=f"{self._key}.population.weight",
                    fix="Leave one of them out",
                )
            without = [b for b in bands[1:] if b not in self.real.mags and b not in spec.colors]
            if without:
                raise ConfigError(
                    f"the population has no magnitudes in {', '.join(without)}, and no colours are given",
                    path=spec.population.path,
                    key=f"{self._key}.population.bands",
                    fix=f"Give population: {{bands: {{{without[0]}: ...}}}}, or colors: {{{without[0]}: ...}}",
                )
        self.types = sorted(set(self.real.types.tolist())) if self.real is not None else [spec.type or "Star"]
        self._drawn = dict(spec.columns)
        self._fill()
        own = [] if self.real is None else [name for name in self.real.columns if name not in self._drawn]
        self._own = own
        self.columns = {*self._drawn, *own}

    def _fill(self) -> None:
        """Take the usual distributions for shapes that are not given, and name what is missing."""
        have = set(self._drawn) | (set() if self.real is None else set(self.real.columns))
        missing: dict[str, list[str]] = {}
        for kind in self.types:
            for name, column in COLUMNS.items():
                if kind not in column.types or name in have:
                    continue
                if name in _DEFAULTS:
                    self._drawn.setdefault(name, _DEFAULTS[name])
                elif name in _ANGLES:
                    self._drawn.setdefault(name, _DEFAULTS["pa"])
                elif column.required:
                    missing.setdefault(kind, []).append(name)
        for kind, path_column in _PATHS.items():
            if kind in self.types and path_column not in have:
                missing.setdefault(kind, []).append(path_column)
        if missing:
            raise ConfigError(
                "; ".join(f"a {kind} needs {', '.join(names)}" for kind, names in missing.items()),
                path=None if self.spec.population is None else self.spec.population.path,
                key=f"{self._key}.columns",
                fix="Give their distributions in columns, or a population that has them",
            )

    def draw(
        self, streams: Streams, start: int, at: NDArray[np.int64], depth: Floats | None, types: list[str]
    ) -> dict[str, NDArray[Any]]:
        """Draw the rows ``start + at``."""
        n = int(at[-1]) + 1

        def uniform(purpose: str) -> Floats:
            return streams.uniform(purpose, start, n)[at]

        mag = self._mag(uniform, at, depth)
        out: dict[str, NDArray[Any]] = {}
        if self.real is None:
            out["source_type"] = np.full(at.size, types.index(self.types[0]), dtype=np.int8)
            assert mag is not None
            out[f"mag_{self.bands[0]}"] = mag
        else:
            mag = self._real(self.real, uniform, streams, start, at, mag, types, out)
        for band in self.bands[1:]:
            color = self.spec.colors.get(band)
            if color is not None:
                out[f"mag_{band}"] = mag + color.draw(uniform(f"color:{band}"))
            elif f"mag_{band}" not in out:
                out[f"mag_{band}"] = mag
        kinds = np.array(types)[out["source_type"]] if len(self.types) > 1 else None
        for name, distribution in self._drawn.items():
            out[name] = self._column(name, distribution.draw(uniform(f"column:{name}"), mag), kinds)
        return out

    def _mag(self, uniform: Callable[[str], Floats], at: NDArray[np.int64], depth: Floats | None) -> Floats | None:
        if self.spec.mag is None:
            return None
        mag = np.asarray(self.spec.mag.draw(uniform("mag")), dtype=np.float64)
        if self.spec.mag_relative_to == "depth":
            assert depth is not None
            mag = mag + depth[at]
        return mag

    def _real(
        self,
        real: RealSources,
        uniform: Callable[[str], Floats],
        streams: Streams,
        start: int,
        at: NDArray[np.int64],
        mag: Floats | None,
        types: list[str],
        out: dict[str, NDArray[Any]],
    ) -> Floats:
        """Draw rows of the population into `out`; returns the magnitudes in the first band."""
        first = self.bands[0]
        rows = real.pick(uniform("population"), mag, first)
        drawn: Mapping[str, NDArray[Any]] = {}
        if real.smooth:
            drawn = real.scatter(rows, streams, start, at)
        numbers = np.array([types.index(name) for name in self.types], dtype=np.int8)
        out["source_type"] = numbers[np.searchsorted(self.types, real.types[rows])]
        mags = {band: drawn.get(f"mag_{band}", real.mags[band][rows]) for band in real.mags}
        # With a magnitude of its own, a source keeps the colours of the row.
        shift = 0.0 if mag is None else mag - mags[first]
        for band, own in mags.items():
            out[f"mag_{band}"] = own + shift
        for name in self._own:
            out[name] = drawn.get(name, real.columns[name][rows])
        return out[f"mag_{first}"]

    def _column(self, name: str, column: NDArray[Any], kinds: NDArray[np.str_] | None) -> NDArray[Any]:
        """A drawn column in the type of the schema; empty for types that have none."""
        spec = COLUMNS[name]
        text = column.dtype.kind == "U"
        if text != (spec.kind == "str"):
            what = "a text" if spec.kind == "str" else "a number"
            raise ConfigError(f"{name} is {column[0]!r}; {what} is needed", key=f"{self._key}.columns.{name}")
        if spec.choices and text and not np.isin(column, spec.choices).all():
            odd = column[~np.isin(column, spec.choices)][0]
            raise ConfigError(
                f"{name} is {str(odd)!r}; allowed are {', '.join(filter(None, spec.choices))}",
                key=f"{self._key}.columns.{name}",
            )
        if spec.kind == "int":
            return np.rint(column).astype(np.int64)
        if spec.kind == "bool":
            return column.astype(np.bool_)
        if spec.kind == "float" and spec.types and kinds is not None:
            return np.where(np.isin(kinds, spec.types), column, np.nan)
        return column if text else column.astype(np.float64)
