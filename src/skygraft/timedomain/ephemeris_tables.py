"""Read tables of ephemerides: skygraft's own, and those of Sorcha, KBMOD and JPL Horizons.

| layout | recognised by | times | rates |
|---|---|---|---|
| ``native`` | ``id``, ``mjd``, ``ra``, ``dec`` | TAI; UTC in ``mjd_utc`` | ``rate_ra_cosdec``, ``rate_dec``, arcsec/h |
| ``sorcha`` | ``ObjID``, ``fieldMJD_TAI``, ``RA_deg``, ``Dec_deg`` | TAI | ``RARateCosDec_deg_day``, ... |
| ``kbmod`` | ``Name``, ``mjd_mid``, ``RA``, ``DEC`` | UTC | none |
| ``horizons`` | ``targetname``, ``datetime_jd``, ``RA``, ``DEC`` | JD, UTC | ``RA_rate``, ``DEC_rate``, arcsec/h |

Magnitudes are in ``mag_<band>``, or in ``mag`` with a column ``band``; of Sorcha's tables in ``trailedSourceMag`` with
``optFilter``. Where a table of Sorcha has both true and observed values, the true ones are taken.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from skygraft.catalog.columns import ColumnReader, refused
from skygraft.catalog.io import as_table, read_table
from skygraft.catalog.schema import is_mag_column
from skygraft.errors import CatalogError, shown

__all__ = ["LAYOUTS", "EphemerisRows", "read_rows"]

_JD = 2400000.5
_LATEST = 2e5
_SAME = 1e-8
"""Degrees within which repeated rows have the same position."""
_IDS = ("id", "object_id", "injection_id")


@dataclass(frozen=True)
class _Layout:
    """The columns of a kind of table; of several names the first that is there counts."""

    id: tuple[str, ...]
    time: tuple[str, ...]
    ra: tuple[str, ...]
    dec: tuple[str, ...]
    rates: tuple[str, str]
    mag: tuple[str, ...] = ("mag",)
    band: tuple[str, ...] = ("band",)
    rate_unit: float = 1.0
    """Arcsec per hour."""
    scale: str = "tai"
    zero: float = 0.0
    """What is subtracted from its times."""

    @property
    def needed(self) -> tuple[tuple[str, ...], ...]:
        return (self.id, self.time, self.ra, self.dec)


_OWN_RATES = ("rate_ra_cosdec", "rate_dec")
LAYOUTS = {
    "sorcha": _Layout(
        ("ObjID",), ("fieldMJD_TAI",),
        ("RATrue_deg", "RA_true_deg", "RA_deg"), ("DecTrue_deg", "Dec_true_deg", "Dec_deg"),
        ("RARateCosDec_deg_day", "DecRate_deg_day"),
        ("trailedSourceMagTrue", "trailedSourceMag"), ("optFilter",), 150.0,
    ),
    "kbmod": _Layout(("Name",), ("mjd_mid",), ("RA",), ("DEC",), _OWN_RATES, scale="utc"),
    "horizons": _Layout(
        ("targetname",), ("datetime_jd",), ("RA",), ("DEC",), ("RA_rate", "DEC_rate"), scale="utc", zero=_JD
    ),
    "native": _Layout(_IDS, ("mjd",), ("ra",), ("dec",), _OWN_RATES),
    "native, UTC": _Layout(_IDS, ("mjd_utc",), ("ra",), ("dec",), _OWN_RATES, scale="utc"),
}  # fmt: skip
"""Layouts by name."""


@dataclass(frozen=True, eq=False)
class EphemerisRows:
    """The rows of a table of ephemerides, sorted by object and time, without repetitions.

    Parameters
    ----------
    names : ndarray of str, shape (K,)
        The objects' ids as text, ascending.
    owner : ndarray of int, shape (N,)
        Which of them each row is of.
    mjd : ndarray, shape (N,)
        TAI.
    ra, dec : ndarray, shape (N,)
        Degrees, ICRS.
    rates : ndarray, shape (N, 2), or None
        To the East (times cos(dec)) and North, arcsec per hour.
    mags : dict of str to ndarray, shape (N,)
        AB magnitudes by band, NaN where there is none.
    layout : str
        The table's layout.
    origin : str
        Its file.
    """

    names: NDArray[np.str_]
    owner: NDArray[np.int64]
    mjd: NDArray[np.float64]
    ra: NDArray[np.float64]
    dec: NDArray[np.float64]
    rates: NDArray[np.float64] | None
    mags: dict[str, NDArray[np.float64]]
    layout: str
    origin: str


def read_rows(table: Any) -> EphemerisRows:
    """Read a table of ephemerides.

    Parameters
    ----------
    table : path-like or table-like
        A file (CSV, ECSV, FITS, Parquet, VOTable), or any table in memory.

    Returns
    -------
    EphemerisRows

    Raises
    ------
    CatalogError
        If its layout is unknown, a value is missing or impossible, or a time of an object has two positions.
    """
    origin = ""
    if isinstance(table, (str, os.PathLike)):
        origin = os.fspath(table)
        found = read_table(Path(table))
    else:
        found = as_table(table)
    return _Reader(found, origin).read()


class _Reader:
    def __init__(self, table: Table, origin: str) -> None:
        self._table, self._origin = table, origin
        self._names = [*table.colnames, *refused(table)]
        self._layout = self._recognised()

    def _error(self, message: str, *, row: int | None = None, key: str = "", fix: str = "") -> CatalogError:
        return CatalogError(message, path=self._origin or None, row=row, key=key or None, fix=fix or None)

    def _recognised(self) -> str:
        if not len(self._table) and not refused(self._table):
            raise self._error("the table of ephemerides has no rows", fix="Give at least one position")
        there = set(self._names)
        for name, layout in LAYOUTS.items():
            if all(there & set(columns) for columns in layout.needed):
                return name
        known = "; ".join(
            f"{name}: {', '.join('/'.join(columns) for columns in layout.needed)}" for name, layout in LAYOUTS.items()
        )
        raise self._error(
            f"this is not a table of ephemerides: it has {', '.join(self._names)}",
            fix=f"Rename its columns to those of a layout ({known})",
        )

    def _column(self, names: tuple[str, ...]) -> ColumnReader | None:
        for name in names:
            if name in refused(self._table):
                raise refused(self._table)[name].error(name, self._origin)
            if name in self._table.colnames:
                return ColumnReader(self._table[name], name, self._origin)
        return None

    def _numbers(self, names: tuple[str, ...], unit: str | None) -> tuple[NDArray[np.float64], str]:
        reader = self._column(names)
        assert reader is not None
        return reader.floats(unit), reader.name

    def read(self) -> EphemerisRows:
        layout = LAYOUTS[self._layout]
        names, owner = self._objects(layout)
        mjd = self._times(layout, names, owner)
        ra, ra_name = self._numbers(layout.ra, "deg")
        dec, dec_name = self._numbers(layout.dec, "deg")
        for values, low, high, name in ((ra, 0.0, 360.0, ra_name), (dec, -90.0, 90.0, dec_name)):
            self._check(~((values >= low) & (values <= high)), values, name, names[owner], f"[{low:g}, {high:g}] deg")
        rates = self._rates(layout, names[owner])
        mags = self._magnitudes(layout, names[owner])
        order = np.lexsort((mjd, owner))
        owner, mjd, ra, dec = owner[order], mjd[order], ra[order], dec[order]
        rates = None if rates is None else rates[order]
        mags = {band: mag[order] for band, mag in mags.items()}
        keep = self._unrepeated(names, owner, mjd, ra, dec, mags, order)
        return EphemerisRows(
            names, owner[keep], mjd[keep], ra[keep], dec[keep], None if rates is None else rates[keep],
            {band: mag[keep] for band, mag in mags.items()}, self._layout.partition(",")[0], self._origin,
        )  # fmt: skip

    def _objects(self, layout: _Layout) -> tuple[NDArray[np.str_], NDArray[np.int64]]:
        reader = self._column(layout.id)
        assert reader is not None
        numbers = reader.raw.dtype.kind in "iuf"
        if (row := reader.missing()) is not None:
            raise self._error("a row has no id", row=row, key=reader.name, fix="Fill it")
        texts = reader.integers(-1).astype(np.str_) if numbers else reader.texts()
        names, owner = np.unique(texts, return_inverse=True)
        return names, owner.reshape(-1).astype(np.int64)

    def _times(self, layout: _Layout, names: NDArray[np.str_], owner: NDArray[np.int64]) -> NDArray[np.float64]:
        given, name = self._numbers(layout.time, "d")
        column = self._table[name]
        exact = hasattr(column, "tai")  # astropy's Time, which the reader has converted to TAI
        mjd = given if exact else given - layout.zero
        self._check(~(np.abs(mjd) <= _LATEST), given, name, names[owner], f"a time within {_LATEST:g} d (MJD)")
        if layout.scale == "tai" or exact:
            return mjd
        from astropy.time import Time

        whole = np.floor(mjd)
        return np.asarray(Time(whole, mjd - whole, format="mjd", scale=layout.scale).tai.mjd)

    def _rates(self, layout: _Layout, who: NDArray[np.str_]) -> NDArray[np.float64] | None:
        there = [name for name in layout.rates if name in self._names]
        if not there:
            return None
        if len(there) == 1:
            raise self._error(
                f"there is {there[0]}, and no {next(n for n in layout.rates if n not in there)}",
                key=there[0], fix="Give both rates, or none",
            )  # fmt: skip
        columns = []
        for name in layout.rates:
            reader = self._column((name,))
            assert reader is not None
            plain = reader.unit is None
            values = reader.floats(None if plain else "arcsec / h") * (layout.rate_unit if plain else 1.0)
            self._check(~(np.abs(values) <= 1e8), values, name, who, "a finite rate (leave both columns out for none)")
            columns.append(values)
        return np.column_stack(columns)

    def _magnitudes(self, layout: _Layout, who: NDArray[np.str_]) -> dict[str, NDArray[np.float64]]:
        mags: dict[str, NDArray[np.float64]] = {}
        for name in self._names:
            if is_mag_column(name):
                mags[name.removeprefix("mag_")], _ = self._numbers((name,), "mag")
        reader = self._column(layout.mag)
        if reader is not None:
            bands = self._column(layout.band)
            if bands is None:
                raise self._error(
                    f"there is a magnitude {reader.name}, and no column {layout.band[0]} that says its band",
                    key=reader.name, fix=f"Add {layout.band[0]}, or rename {reader.name} to mag_<band>",
                )  # fmt: skip
            given, of_band = reader.floats("mag"), bands.texts()
            for band in np.unique(of_band[of_band != ""]).tolist():
                values = np.where(of_band == band, given, np.nan)
                mags[band] = np.where(np.isnan(values), mags[band], values) if band in mags else values
        for band, mag in mags.items():
            bad = np.isinf(mag) | (mag < -40.0)
            self._check(bad, mag, f"mag of band {band}", who, "a magnitude (leave it empty for none)")
        return {band: mag for band, mag in mags.items() if np.isfinite(mag).any()}

    def _check(
        self, bad: NDArray[np.bool_], values: NDArray[np.float64], name: str, who: NDArray[np.str_], allowed: str
    ) -> None:
        if bad.any():
            row = int(np.argmax(bad))
            count = np.count_nonzero(bad)
            raise self._error(
                f"{count} of {len(bad)} rows of the ephemerides cannot be used; the first, of object "
                f"{str(who[row])!r}, has {name} = {shown(values[row])}; needed is {allowed}",
                row=row, key=name, fix="Correct these rows, or leave them out",
            )  # fmt: skip

    def _unrepeated(
        self,
        names: NDArray[np.str_],
        owner: NDArray[np.int64],
        mjd: NDArray[np.float64],
        ra: NDArray[np.float64],
        dec: NDArray[np.float64],
        mags: dict[str, NDArray[np.float64]],
        order: NDArray[np.intp],
    ) -> NDArray[np.bool_]:
        """The first of the rows of each object and time, which gets the magnitudes of the others."""
        repeated: NDArray[np.bool_] = np.r_[False, (np.diff(owner) == 0) & (np.diff(mjd) == 0)]
        if not repeated.any():
            return ~repeated
        first = np.maximum.accumulate(np.where(repeated, -1, np.arange(len(owner))))
        across = ((ra - ra[first] + 180.0) % 360.0 - 180.0) * np.cos(np.radians(dec))
        apart = np.maximum(np.abs(across), np.abs(dec - dec[first]))
        for key, odd, what in [("", apart > _SAME, "positions")] + [
            (f"mag of band {band}", np.abs(mag - mag[first]) > 1e-6, f"magnitudes in band {band}")
            for band, mag in mags.items()
        ]:
            if (odd & repeated).any():
                at = int(np.argmax(odd & repeated))
                raise self._error(
                    f"object {str(names[owner[at]])!r} has two {what} at mjd {shown(mjd[at])} (rows {order[first[at]]} "
                    f"and {order[at]})",
                    row=int(order[at]), key=key or "mjd", fix="Keep one row for each object and time",
                )  # fmt: skip
        for mag in mags.values():
            rows = np.flatnonzero(repeated & np.isfinite(mag))
            mag[first[rows]] = mag[rows]
        return ~repeated
