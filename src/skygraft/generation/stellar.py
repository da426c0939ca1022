"""Resolved systems of stars: dwarf galaxies, clusters and streams, star by star."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from astropy import units as u
from astropy.table import QTable
from numpy.typing import NDArray

from skygraft.catalog.arrow import to_arrow
from skygraft.catalog.checks import validate
from skygraft.disk import atomic_path
from skygraft.errors import CatalogError, OutputExistsError
from skygraft.generation.by_id import uniforms
from skygraft.generation.groups import check_ids
from skygraft.generation.star_positions import StarProfile
from skygraft.generation.stellar_populations import StellarPopulation

__all__ = ["StellarSystem"]

type Array = NDArray[np.float64]

_WHERE, _WHICH = 21, 22
"""Random streams."""
_MOST_STARS = 10**10


@dataclass(frozen=True)
class StellarSystem:
    """A dwarf galaxy, a star cluster or a stream, whose stars are drawn one by one.

    A star depends on the seed and its injection id only: not on how many are made at a time.

    Parameters
    ----------
    population : StellarPopulation
        Absolute magnitudes; see `skygraft.generation.stellar_populations`.
    profile : StarProfile
        Where the stars are; see `skygraft.generation.star_positions`.
    ra, dec : float
        Centre, ICRS degrees.
    distance_modulus : float
        Apparent less absolute magnitudes, without extinction.
    n_stars : int, optional
        Stars that are drawn: those brighter than `faintest`. Give this or `mag_total`.
    mag_total : mapping of str to float, optional
        Apparent magnitude of all stars together in one band, extinction included: those fainter than `faintest` count.
    faintest : mapping of str to float, optional
        Apparent magnitudes by band; stars are left out that are fainter in all of these bands. By default none is.
    extinction : mapping of str to float, optional
        Added to magnitudes, by band.
    seed : int
    first_id : int
        Injection id of the first star; the others follow.
    group_id : int, optional
        Number of the group that the stars are; by default `first_id`.
    """

    population: StellarPopulation
    profile: StarProfile
    ra: float
    dec: float
    distance_modulus: float
    n_stars: int | None = None
    mag_total: Mapping[str, float] | None = None
    faintest: Mapping[str, float] = field(default_factory=dict)
    extinction: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0
    first_id: int = 0
    group_id: int | None = None

    def __post_init__(self) -> None:
        if not (0.0 <= self.ra <= 360.0 and abs(self.dec) <= 90.0):
            raise CatalogError(f"the centre is at ({self.ra}, {self.dec}), which is not on the sphere", key="ra")
        if not np.isfinite(self.distance_modulus):
            raise CatalogError(f"distance_modulus is {self.distance_modulus}", key="distance_modulus")
        if (self.n_stars is None) == (self.mag_total is None):
            raise CatalogError("give either n_stars or mag_total, the magnitude of all stars together", key="n_stars")
        bands = self.population.bands
        for key in ("mag_total", "faintest", "extinction"):
            given: Mapping[str, float] = getattr(self, key) or {}
            unknown = sorted(set(given) - set(bands))
            if unknown or not all(np.isfinite(value) for value in given.values()):
                raise CatalogError(
                    f"{key} is {dict(given)}; finite magnitudes in the bands {', '.join(bands)} are needed", key=key
                )
        if self.mag_total is not None and len(self.mag_total) != 1:
            raise CatalogError("mag_total is given in several bands, which may disagree", key="mag_total")
        self._drawn  # noqa: B018  # raises where no star is bright enough
        n = len(self)
        if not 1 <= n <= _MOST_STARS:
            raise CatalogError(f"{n} stars would be drawn", key="n_stars", fix=f"1 to {_MOST_STARS:.0e} are allowed")
        check_ids(self.first_id, n, np.zeros(1, dtype=np.int64), "stars")

    def _shift(self, band: str) -> float:
        return self.distance_modulus + self.extinction.get(band, 0.0)

    @functools.cached_property
    def _drawn(self) -> StellarPopulation:
        if not self.faintest:
            return self.population
        limits = {band: limit - self._shift(band) for band, limit in self.faintest.items()}
        return self.population.brighter_than(limits)

    @functools.cached_property
    def _number(self) -> int:
        if self.mag_total is None:
            assert self.n_stars is not None
            return int(self.n_stars)
        ((band, mag),) = self.mag_total.items()
        every: float = 10.0 ** (-0.4 * (mag - self._shift(band))) / self.population.mean_flux()[band]
        return round(every * self._drawn.share)

    def __len__(self) -> int:
        return self._number

    def summary(self) -> dict[str, Any]:
        """Return what the system is: stars drawn, all stars, and expected magnitudes of their light, by band.

        Returns
        -------
        dict
            ``n_stars``, ``n_all`` (with those fainter than `faintest`), ``mag_total`` and ``abs_mag_total`` of all
            stars, ``mag_stars`` of those drawn, and ``mag_unresolved`` of the others (NaN if there are none). Drawn
            stars scatter about it.
        """
        drawn, every = self._drawn.mean_flux(drawn=True), self.population.mean_flux()
        n_all = self._number / self._drawn.share

        def total(light: float, band: str) -> float:
            return float(-2.5 * np.log10(light) + self._shift(band)) if light > 0 else float("nan")

        bands = self.population.bands
        missing = {band: n_all * every[band] - self._number * drawn[band] for band in bands}
        return {
            "n_stars": self._number,
            "n_all": round(n_all),
            "mag_total": {band: total(n_all * every[band], band) for band in bands},
            "abs_mag_total": {band: total(n_all * every[band], band) - self._shift(band) for band in bands},
            "mag_stars": {band: total(self._number * drawn[band], band) for band in bands},
            "mag_unresolved": {
                band: total(missing[band] if missing[band] > 1e-9 * n_all * every[band] else 0.0, band)
                for band in bands
            },
        }

    def stars(self, start: int = 0, stop: int | None = None) -> QTable:
        """Draw stars.

        Parameters
        ----------
        start, stop : int
            Which; all by default.

        Returns
        -------
        QTable
            Canonical table, in the order of the ids.
        """
        stop = self._number if stop is None else min(stop, self._number)
        if not 0 <= start < stop:
            raise CatalogError(f"stars {start} to {stop} do not exist: there are {self._number}", key="start")
        ids = np.arange(self.first_id + start, self.first_id + stop, dtype=np.int64)
        ra, dec = self.profile.positions(self.ra, self.dec, *uniforms(ids, self.seed, _WHERE))
        table = QTable()
        table["injection_id"] = ids
        table["ra"], table["dec"] = ra * u.deg, dec * u.deg
        table["source_type"] = np.full(len(ids), "Star")
        for band, mag in self._drawn.draw(uniforms(ids, self.seed, _WHICH)[0]).items():
            table[f"mag_{band}"] = (mag + self._shift(band)) * u.mag
        table["group_id"] = np.full(len(ids), self.first_id if self.group_id is None else self.group_id)
        return validate(table, unique=False)

    def chunks(self, rows: int = 1_000_000) -> Iterator[QTable]:
        """Draw all stars, so many at a time.

        Parameters
        ----------
        rows : int
            Stars in memory at a time.

        Yields
        ------
        QTable
            As of `stars`.
        """
        if rows < 1:
            raise CatalogError(f"rows is {rows}", key="rows", fix="Give 1 or more")
        for start in range(0, self._number, rows):
            yield self.stars(start, start + rows)

    def write(self, path: str | os.PathLike[str], *, rows: int = 1_000_000, overwrite: bool = False) -> None:
        """Write all stars to a Parquet file, with only some of them in memory at a time.

        Parameters
        ----------
        path : path-like
            Its name ends with ``.parquet``.
        rows : int
            Stars in memory at a time; the file's values do not depend on it.
        overwrite : bool
            Replace an existing file.

        Raises
        ------
        OutputExistsError
            If the file exists.
        CatalogError
            If it is to be of another format.
        """
        import pyarrow.parquet as pq

        path = Path(path)
        if path.suffix != ".parquet":
            raise CatalogError("stars are written as Parquet", path=path, fix="Give a name that ends with .parquet")
        if path.exists() and not overwrite:
            raise OutputExistsError("the file is there already", path=path, fix="Choose another, or overwrite=True")
        with atomic_path(path) as temporary:
            writer = None
            for chunk in self.chunks(rows):
                arrow = to_arrow(chunk)
                writer = writer or pq.ParquetWriter(temporary, arrow.schema, compression="zstd")
                writer.write_table(arrow)
            if writer is not None:
                writer.close()
