"""Magnitudes of the stars of a population: isochrones with an initial mass function, and luminosity functions."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table
from numpy.typing import ArrayLike, NDArray

from skygraft.catalog.columns import ColumnReader
from skygraft.catalog.tables import as_table
from skygraft.errors import CatalogError, CorruptFileError
from skygraft.generation.mass_functions import mass_function

__all__ = ["StellarPopulation", "isochrone", "luminosity_function", "read_isochrones"]

type Array = NDArray[np.float64]
type Function = Callable[[Array], Array]

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(8)


@dataclass(frozen=True, eq=False)
class StellarPopulation:
    """Absolute magnitudes of stars along a sequence, and how many stars there are along it.

    Make one with `isochrone` or `luminosity_function`.

    Parameters
    ----------
    nodes : ndarray, shape (K,)
        Points of the sequence, ascending: initial masses, or magnitudes.
    magnitudes : dict of str to ndarray, shape (K,)
        Absolute AB magnitudes there, by band; linear in between.
    number : callable
        Cumulative number of stars at points of the sequence.
    inverse : callable
        Its inverse.
    kept : ndarray of bool, shape (K - 1,)
        Parts of the sequence, between nodes, from which stars are drawn.
    """

    nodes: Array
    magnitudes: dict[str, Array]
    number: Function
    inverse: Function
    kept: NDArray[np.bool_]

    @property
    def bands(self) -> tuple[str, ...]:
        """Bands."""
        return tuple(self.magnitudes)

    def _shares(self) -> Array:
        return np.diff(self.number(self.nodes))

    @property
    def share(self) -> float:
        """Part of the population's stars that are drawn."""
        shares = self._shares()
        return float(shares[self.kept].sum() / shares.sum())

    def brighter_than(self, faintest: Mapping[str, float]) -> StellarPopulation:
        """Return the population of which only stars are drawn that are brighter in at least one band.

        Parameters
        ----------
        faintest : mapping of str to float
            Absolute magnitudes by band.

        Returns
        -------
        StellarPopulation

        Raises
        ------
        CatalogError
            If no star is so bright.
        """
        _known_bands(self, faintest, "faintest")
        cuts: list[Array] = [self.nodes]
        for band, limit in faintest.items():
            mag = self.magnitudes[band]
            with np.errstate(divide="ignore", invalid="ignore"):
                at = (limit - mag[:-1]) / np.diff(mag)
            crossing = (at > 0) & (at < 1)
            cuts.append(self.nodes[:-1][crossing] + at[crossing] * np.diff(self.nodes)[crossing])
        nodes = np.unique(np.concatenate(cuts))
        magnitudes = {band: np.interp(nodes, self.nodes, mag) for band, mag in self.magnitudes.items()}
        middle = 0.5 * (nodes[:-1] + nodes[1:])
        part = np.searchsorted(self.nodes, middle).clip(1, len(self.nodes) - 1) - 1
        bright = np.zeros(len(middle), dtype=np.bool_)
        for band, limit in faintest.items():
            bright |= np.interp(middle, self.nodes, self.magnitudes[band]) < limit
        kept = self.kept[part] & bright
        if not kept.any():
            raise CatalogError(f"no star is brighter than {dict(faintest)} (absolute magnitudes)", key="faintest")
        return StellarPopulation(nodes, magnitudes, self.number, self.inverse, kept)

    def draw(self, share: Array) -> dict[str, Array]:
        """Return absolute magnitudes of stars.

        Parameters
        ----------
        share : ndarray, shape (N,)
            Uniform numbers in (0, 1): the part of the stars drawn that come before it along the sequence.

        Returns
        -------
        dict of str to ndarray, shape (N,)
            By band.
        """
        start = self.number(self.nodes)
        parts = np.where(self.kept, np.diff(start), 0.0)
        total = np.concatenate([[0.0], np.cumsum(parts)])
        wanted = share * total[-1]
        part = (np.searchsorted(total, wanted, side="right") - 1).clip(0, np.flatnonzero(parts)[-1])
        at = self.inverse(start[part] + (wanted - total[part])).clip(self.nodes[part], self.nodes[part + 1])
        step = np.where(parts > 0, np.diff(self.nodes), 1.0)
        along = (at - self.nodes[part]) / step[part]
        return {band: mag[part] + along * np.diff(mag)[part] for band, mag in self.magnitudes.items()}

    def mean_flux(self, *, drawn: bool = False) -> dict[str, float]:
        """Return the mean flux of a star by band, 1 at absolute magnitude 0; of all stars, or of those drawn."""
        start = self.number(self.nodes)
        parts = np.where(self.kept, np.diff(start), 0.0) if drawn else np.diff(start)
        share = 0.5 * (1.0 + _NODES)[:, None]
        at = self.inverse(start[:-1] + share * np.diff(start)).clip(self.nodes[:-1], self.nodes[1:])
        step = np.where(np.diff(self.nodes) > 0, np.diff(self.nodes), 1.0)
        along = (at - self.nodes[:-1]) / step
        out = {}
        for band, mag in self.magnitudes.items():
            flux = 0.5 * _WEIGHTS @ 10.0 ** (-0.4 * (mag[:-1] + along * np.diff(mag)))
            out[band] = float((flux * parts).sum() / parts.sum())
        return out


def _known_bands(population: StellarPopulation, given: Mapping[str, Any], key: str) -> None:
    unknown = sorted(set(given) - set(population.bands))
    if unknown:
        raise CatalogError(
            f"{key} names the band {', '.join(unknown)}; the population has {', '.join(population.bands)}", key=key
        )


def isochrone(
    table: Any,
    bands: Mapping[str, str],
    *,
    mass: str = "Mini",
    imf: str = "kroupa",
    to_ab: Mapping[str, float] | None = None,
    least_mass: float = 0.0,
) -> StellarPopulation:
    """Return the population of an isochrone, whose stars have masses by an initial mass function.

    Parameters
    ----------
    table : table-like
        One isochrone (see `read_isochrones` for files of several), a row for each initial mass.
    bands : mapping of str to str
        Bands of the catalogue, and their columns: absolute magnitudes. PARSEC: ``{"g": "gmag"}``; MIST:
        ``{"g": "SDSS_g"}``.
    mass : str
        Column of the initial mass, solar masses: ``Mini`` of PARSEC, ``initial_mass`` of MIST.
    imf : {"kroupa", "chabrier", "salpeter"}
        Initial mass function; see `skygraft.generation.mass_functions.mass_function`.
    to_ab : mapping of str to float, optional
        What to add to magnitudes of a band, such as from Vega to AB.
    least_mass : float
        Leave out stars below this mass.

    Returns
    -------
    StellarPopulation

    Raises
    ------
    CatalogError
        If columns are missing, or masses are not ascending (several isochrones).
    """
    table = as_table(table)
    if not bands:
        raise CatalogError("no bands are given", key="bands", fix='Give the columns of magnitudes: {"g": "gmag"}')
    missing = [name for name in (mass, *bands.values()) if name not in table.colnames]
    if missing:
        raise CatalogError(
            f"the isochrone has no column {', '.join(missing)}; it has {', '.join(table.colnames)}", key=missing[0]
        )
    unknown = sorted(set(to_ab or {}) - set(bands))
    if unknown:
        raise CatalogError(f"to_ab names {', '.join(unknown)}, and the bands are {', '.join(bands)}", key="to_ab")
    masses = ColumnReader(table[mass], mass).floats()
    mags = {
        band: ColumnReader(table[name], name).floats() + (to_ab or {}).get(band, 0.0) for band, name in bands.items()
    }
    # Where there is no star left, tables have numbers such as 99.
    good = np.isfinite(masses) & np.all([np.isfinite(mag) & (np.abs(mag) < 50.0) for mag in mags.values()], axis=0)
    good &= masses >= least_mass
    nodes = masses[good]
    if len(nodes) < 2 or (np.diff(nodes) < 0).any() or not nodes[0] > 0 or nodes[-1] == nodes[0]:
        raise CatalogError(
            f"{len(nodes)} usable rows, whose masses are not ascending"
            if len(nodes) > 1 and (np.diff(nodes) < 0).any()
            else f"{len(nodes)} usable rows with different, positive masses; at least two are needed",
            key=mass,
            fix="Choose one age and metallicity; read_isochrones reads files of several",
        )
    for i in np.flatnonzero(np.diff(nodes) == 0):  # phases between which no mass is lost: nothing is drawn there
        nodes[i + 1] = np.nextafter(nodes[i], np.inf)
    function = mass_function(imf, float(nodes[0]), float(nodes[-1]))
    everything = np.ones(len(nodes) - 1, dtype=np.bool_)
    magnitudes = {band: mag[good] for band, mag in mags.items()}
    return StellarPopulation(nodes, magnitudes, function.number, function.inverse, everything)


def luminosity_function(
    mag: ArrayLike, numbers: ArrayLike, band: str, colors: Mapping[str, ArrayLike] | None = None
) -> StellarPopulation:
    """Return the population of a luminosity function, a histogram of absolute magnitudes.

    Parameters
    ----------
    mag : array_like, shape (K + 1,)
        Edges of the bins, ascending, absolute AB magnitudes.
    numbers : array_like, shape (K,)
        Numbers of stars in the bins, of any normalisation.
    band : str
        Band of `mag`.
    colors : mapping of str to float or array_like, shape (K + 1,), optional
        Other bands minus this one, at the edges; linear in between.

    Returns
    -------
    StellarPopulation

    Raises
    ------
    CatalogError
        If edges are not ascending, or numbers negative.
    """
    edges, count = np.asarray(mag, dtype=np.float64), np.asarray(numbers, dtype=np.float64)
    if edges.ndim != 1 or count.shape != (len(edges) - 1,) or not (np.diff(edges) > 0).all():
        raise CatalogError(
            f"magnitudes of shape {edges.shape} and numbers of shape {count.shape}",
            key="mag",
            fix="Give the ascending edges of the bins, one more than numbers",
        )
    if not (count >= 0).all() or not 0 < count.sum() < np.inf:
        raise CatalogError("the numbers of stars are negative, or all 0", key="numbers")
    total = np.concatenate([[0.0], np.cumsum(count)])
    magnitudes = {band: edges}
    for other, color in (colors or {}).items():
        magnitudes[other] = edges + np.broadcast_to(np.asarray(color, dtype=np.float64), edges.shape)
    # Rising strictly, so that empty bins have no place in the inverse.
    rising = np.concatenate([[True], count > 0])
    return StellarPopulation(
        edges,
        magnitudes,
        lambda at: np.interp(at, edges, total),
        lambda share: _inverse(share, total, edges, rising),
        np.ones(len(count), dtype=np.bool_),
    )


def _inverse(share: Array, total: Array, edges: Array, rising: NDArray[np.bool_]) -> Array:
    part = (np.searchsorted(total[rising], share, side="left") - 1).clip(0, rising.sum() - 2)
    last = np.flatnonzero(rising)[part + 1]
    low, high = total[last - 1], total[last]
    return np.asarray(edges[last - 1] + (share - low) / (high - low) * (edges[last] - edges[last - 1]))


def read_isochrones(path: str | os.PathLike[str], **chosen: float) -> Table:
    """Read isochrones of PARSEC (CMD's output) or MIST (``.iso.cmd``), whose column names are in the last comment.

    Parameters
    ----------
    path : path-like
        Text file.
    **chosen : float
        Columns and the values that rows must have, such as ``logAge=10.1, MH=-2.0``, to 1e-4.

    Returns
    -------
    Table

    Raises
    ------
    CatalogError
        If a column does not exist, or no row has the value; those that there are are listed.
    CorruptFileError
        If the file is no such table.
    """
    path = Path(path)
    names: list[str] = []
    rows: list[list[str]] = []
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise CorruptFileError(f"the file cannot be read: {error}", path=path) from error
    for line in lines:
        if line.startswith("#"):
            if not rows:
                names = line.removeprefix("#").split()
        elif line.strip():
            rows.append(line.split())
    if not rows or {len(row) for row in rows} != {len(names)}:
        raise CorruptFileError(
            f"a header of {len(names)} names, and {len(rows)} rows", path=path, fix="Give the output of PARSEC or MIST"
        )
    table = Table()
    for name, column in zip(names, zip(*rows, strict=True), strict=True):
        try:
            table[name] = np.array(column, dtype=np.float64)
        except ValueError:
            table[name] = np.array(column)
    for name, value in chosen.items():
        if name not in names:
            raise CatalogError(f"there is no column {name!r}; there are {', '.join(names)}", path=path, key=name)
        there = np.abs(table[name] - value) < 1e-4
        if not there.any():
            known = ", ".join(f"{one:g}" for one in np.unique(table[name])[:20])
            raise CatalogError(f"no row has {name} = {value}; there are {known}", path=path, key=name)
        table = table[there]
    return table
