"""Light curves of many sources in many bands: flux at any time, linear between the times of a table, zero outside.

All values of all curves lie in two flat arrays, sorted by curve, band and time: 16 bytes for each value, and 8 for each
curve and band. A curve has a *key*, a number made from its content: a catalogue's row that holds the key changes with
every change of its curve.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from skygraft.catalog.arrow_arrays import arrow_array, numpy_array, one_array, texts_of
from skygraft.display import Rows, html_table, text_table
from skygraft.lazy import lazy_module
from skygraft.timedomain.light_curve_tables import Curves, curves_of, read_curves

pc = lazy_module("pyarrow.compute")

__all__ = ["KEY_COLUMN", "LightCurves", "content_keys"]

KEY_COLUMN = "light_curve_key"
"""Column of the keys, in catalogues that were prepared for a campaign and in tables of their curves."""

_AT_ONCE = 1 << 20
_FIRST, _SECOND, _STEP = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB, 0x9E3779B97F4A7C15


@dataclass(frozen=True, eq=False, repr=False)
class LightCurves:
    """Light curves by id, or by key.

    `LightCurves.of` makes them from a table, `LightCurves.read` from a file.

    Parameters
    ----------
    ids : ndarray of str, shape (C,)
        Ids of the curves, ascending; empty for curves that are known by their keys alone.
    bands : tuple of str, length B
        All bands, ascending.
    starts : ndarray of int64, shape (C B + 1,)
        Where the values of curve c in band b begin (at ``c * B + b``) and end (at the next one).
    mjd : ndarray of float64, shape (R,)
        Times, days: MJD in TAI, or relative to the `light_curve_mjd` of the sources; ascending in each curve and band.
    flux : ndarray of float64, shape (R,)
        Fluxes, nJy; negative ones are allowed.
    keys : ndarray of int64, shape (C,)
        From `content_keys`, at least 0.
    """

    ids: NDArray[np.str_]
    bands: tuple[str, ...]
    starts: NDArray[np.int64]
    mjd: NDArray[np.float64]
    flux: NDArray[np.float64]
    keys: NDArray[np.int64]

    @classmethod
    def of(cls, table: Any) -> LightCurves:
        """Make light curves from a table.

        Parameters
        ----------
        table : LightCurves or table-like
            Columns id, mjd, band, and mag (AB) or flux (nJy, or its own unit); or, instead of band, a column for each
            band, ``mag_<band>`` or ``flux_<band>``. See `skygraft.timedomain.light_curve_tables`.

        Returns
        -------
        LightCurves

        Raises
        ------
        CatalogError
            If a column is missing or cannot be converted, a value is missing, or a time has two values.
        """
        if isinstance(table, LightCurves):
            return table
        return cls._of_curves(curves_of(table))

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> LightCurves:
        """Read light curves from a file: Parquet, CSV, ECSV, FITS, VOTable; columns and errors as of `of`."""
        return cls._of_curves(read_curves(path))

    @classmethod
    def _of_curves(cls, curves: Curves) -> LightCurves:
        return cls(*curves, content_keys(curves.bands, curves.starts, curves.mjd, curves.flux))

    @classmethod
    def from_stored(cls, tables: Iterable[pa.Table]) -> Self:
        """Read tables that `stored` made back into light curves; repeated rows are taken once."""
        table = pa.concat_tables([STORED.empty_table(), *tables])
        keys, mjd, flux = (numpy_array(one_array(table.column(name))) for name in (KEY_COLUMN, "mjd", "flux"))
        known, curve = np.unique(keys, return_inverse=True)
        bands, band = np.unique(texts_of(one_array(table.column("band"))), return_inverse=True)
        segment = curve.reshape(-1) * len(bands) + band.reshape(-1)
        order = np.lexsort((mjd, segment))
        segment, mjd, flux = segment[order], mjd[order], flux[order]
        new = np.ones(len(segment), dtype=np.bool_)
        new[1:] = (segment[1:] != segment[:-1]) | (mjd[1:] != mjd[:-1])
        starts = np.r_[0, np.cumsum(np.bincount(segment[new], minlength=known.size * len(bands)))]
        return cls(np.empty(0, "U1"), tuple(bands.tolist()), starts, mjd[new], flux[new], known)

    def __len__(self) -> int:
        return len(self.keys)

    def __repr__(self) -> str:
        return text_table("Light curves", self._rows())

    def _repr_html_(self) -> str:
        return html_table("Light curves", self._rows())

    def _rows(self) -> Rows:
        span = f"{self.mjd.min():.3f} to {self.mjd.max():.3f}" if self.mjd.size else "none"
        return [
            ("curves", f"{len(self):,}" + (f", {self.ids[0]} to {self.ids[-1]}" if self.ids.size else "")),
            ("bands", ", ".join(self.bands) or "none"),
            ("times", f"{self.mjd.size:,}, {span}"),
        ]

    @functools.cached_property
    def _arrow_ids(self) -> Any:
        return arrow_array(np.asarray(self.ids, dtype=np.str_))

    def find(self, ids: ArrayLike) -> NDArray[np.int64]:
        """Find curves by id.

        Parameters
        ----------
        ids : array_like of str, shape (N,)

        Returns
        -------
        ndarray of int64, shape (N,)
            Numbers of the curves, as `flux` takes them; -1 where there is none of that id.
        """
        wanted = np.asarray(ids, dtype=np.str_)
        if not self.ids.size:
            return np.full(wanted.shape, -1, dtype=np.int64)
        found = pc.index_in(arrow_array(wanted), self._arrow_ids)
        return numpy_array(found.fill_null(-1)).astype(np.int64)

    @functools.cached_property
    def _by_key(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        order = np.argsort(self.keys, kind="stable")
        return order, self.keys[order]

    def find_keys(self, keys: ArrayLike) -> NDArray[np.int64]:
        """Find curves by key: their numbers, as from `find`; -1 where there is none of that key."""
        wanted = np.asarray(keys, dtype=np.int64)
        if not len(self):
            return np.full(wanted.shape, -1, dtype=np.int64)
        order, ascending = self._by_key
        place = np.searchsorted(ascending, wanted).clip(max=len(order) - 1)
        return np.where(ascending[place] == wanted, order[place], -1)

    def flux_at(self, curves: ArrayLike, band: str | None, mjd: ArrayLike) -> NDArray[np.float64]:
        """Evaluate curves in a band, linear in flux between the two nearest times.

        Parameters
        ----------
        curves : array_like of int, shape (N,)
            Numbers of the curves, from `find` or `find_keys`, each 0 or more.
        band : str or None
            The band; None is allowed where all curves are in one.
        mjd : array_like, shape (N,) or ()
            Times, in the curves' own time.

        Returns
        -------
        ndarray of float64, shape (N,)
            nJy; 0 before the first time of a curve in this band and after the last, NaN where it is not in this band.
        """
        curve = np.atleast_1d(np.asarray(curves, dtype=np.int64))
        times = np.broadcast_to(np.asarray(mjd, dtype=np.float64), curve.shape)
        name = self.bands[0] if band is None and len(self.bands) == 1 else band
        if name not in self.bands or not curve.size:
            return np.full(curve.shape, np.nan)
        segment = curve * len(self.bands) + self.bands.index(name)
        start, stop = self.starts[segment], self.starts[segment + 1]
        there = np.flatnonzero(stop > start)
        out = np.full(curve.shape, np.nan)
        if there.size:
            out[there] = self._between(start[there], stop[there], times[there])
        return out

    def _between(
        self, start: NDArray[np.int64], stop: NDArray[np.int64], times: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Interpolate in the values from `start` to `stop` (excluded), of which there is at least one each."""
        low, high = start.copy(), stop.copy()  # bisect all of them together: the first time that is later
        while np.any(open_ := low < high):
            middle = (low + high) // 2
            later = self.mjd[np.minimum(middle, stop - 1)] > times
            high = np.where(open_ & later, middle, high)
            low = np.where(open_ & ~later, middle + 1, low)
        left, right = np.clip(low - 1, start, stop - 1), np.clip(low, start, stop - 1)
        t0, t1, f0, f1 = self.mjd[left], self.mjd[right], self.flux[left], self.flux[right]
        with np.errstate(divide="ignore", invalid="ignore"):
            part = np.where(right > left, (times - t0) / (t1 - t0), 0.0)
        inside = (times >= self.mjd[start]) & (times <= self.mjd[stop - 1])
        return np.where(inside, f0 + part * (f1 - f0), 0.0)

    def support(self, curves: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """First and last time of curves, over all bands, shape (N,) each."""
        curve, n = np.asarray(curves, dtype=np.int64), len(self.bands)
        segments = curve[:, None] * n + np.arange(n)
        start, stop = self.starts[segments], self.starts[segments + 1]
        there, last = stop > start, max(self.mjd.size - 1, 0)
        if not self.mjd.size:
            return np.full(curve.shape, np.nan), np.full(curve.shape, np.nan)
        first = np.where(there, self.mjd[start.clip(max=last)], np.inf).min(axis=1, initial=np.inf)
        final = np.where(there, self.mjd[(stop - 1).clip(min=0)], -np.inf).max(axis=1, initial=-np.inf)
        return first, final

    def stored(self, curves: ArrayLike) -> pa.Table:
        """Return some curves as a table of key, band, mjd and flux, each curve once; `from_stored` reads it back."""
        curve = np.asarray(curves, dtype=np.int64)
        _, once = np.unique(self.keys[curve], return_index=True)
        curve, n = curve[once], len(self.bands)
        first, last = self.starts[curve * n], self.starts[curve * n + n]
        sizes = last - first
        rows = np.repeat(first - np.r_[0, np.cumsum(sizes)[:-1]], sizes) + np.arange(sizes.sum())
        segments = (curve[:, None] * n + np.arange(n)).reshape(-1)
        band = np.repeat(np.tile(np.arange(n), curve.size), self.starts[segments + 1] - self.starts[segments])
        names = pa.DictionaryArray.from_arrays(
            arrow_array(band.astype(np.int32)), arrow_array(np.array(self.bands or [""], dtype=np.str_))
        )
        columns = [arrow_array(np.repeat(self.keys[curve], sizes)), names.dictionary_decode()]
        columns += [arrow_array(self.mjd[rows]), arrow_array(self.flux[rows])]
        return pa.Table.from_arrays(columns, schema=STORED)


STORED = pa.schema(
    [
        pa.field(KEY_COLUMN, pa.int64()),
        pa.field("band", pa.string()),
        pa.field("mjd", pa.float64(), metadata={"unit": "d"}),
        pa.field("flux", pa.float64(), metadata={"unit": "nJy"}),
    ]
)
"""Schema of `LightCurves.stored`."""


def content_keys(
    bands: Sequence[str], starts: NDArray[np.int64], mjd: NDArray[np.float64], flux: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Keys of curves, made from their bands, times and fluxes; arrays as of `LightCurves`, times without repetition.

    A key is the sum of a mixed 64-bit number for every value (the finalizer of SplitMix64, Steele et al. 2014,
    doi:10.1145/2660193.2660195), without its sign: of a million curves two have one key by chance with a probability of
    5e-8. Nobody is kept from making two curves of one key on purpose.

    Returns
    -------
    ndarray of int64, shape (C,)
    """
    n_curves = (len(starts) - 1) // max(len(bands), 1)
    if not mjd.size:
        return np.zeros(n_curves, dtype=np.int64)
    seeds = np.array([_seed(band) for band in bands], dtype=np.uint64)
    word = np.empty(mjd.size, dtype=np.uint64)
    for low in range(0, mjd.size, _AT_ONCE):
        part = slice(low, min(low + _AT_ONCE, mjd.size))
        segment = np.searchsorted(starts, np.arange(part.start, part.stop), side="right") - 1
        # Adding zero makes one of the two zeros.
        time, value = ((a[part] + 0.0).view(np.uint64) for a in (mjd, flux))
        word[part] = _mixed(_mixed(seeds[segment % len(bands)] ^ _mixed(time)) ^ value)
    bounds = starts[:: len(bands)]
    sums = np.add.reduceat(np.append(word, np.uint64(0)), bounds[:-1])
    sums[bounds[1:] == bounds[:-1]] = 0  # reduceat gives an element where there is none
    counts = np.diff(bounds).astype(np.uint64)
    return (_mixed(sums + counts * np.uint64(_STEP)) >> np.uint64(1)).astype(np.int64)


def _seed(band: str) -> int:
    return int.from_bytes(hashlib.blake2b(band.encode(), digest_size=8).digest(), "little")


def _mixed(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    words = (words ^ (words >> np.uint64(30))) * np.uint64(_FIRST)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(_SECOND)
    return words ^ (words >> np.uint64(31))
