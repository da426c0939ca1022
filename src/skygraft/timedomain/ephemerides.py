"""Ephemerides: tables of the positions of moving objects, and the rows of a catalogue that they become.

A row of the catalogue with an ephemeris is replaced by its *pieces*: rows of the same injection id, each with a window
of time in which it moves almost straight (see `skygraft.timedomain.ephemeris_pieces`). Everything else, such as which
image gets which source, then works as for any row that moves.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy import units as u
from astropy.table import QTable
from numpy.typing import NDArray

from skygraft.catalog.schema import BENDS, COLUMNS, MOTION, is_mag_column, strings, values
from skygraft.disk import FileIdentity
from skygraft.display import Rows, html_table, text_table
from skygraft.errors import CatalogError
from skygraft.timedomain.ephemeris_curves import curve_names, piece_curves
from skygraft.timedomain.ephemeris_pieces import Pieces, clip_pieces, make_pieces
from skygraft.timedomain.ephemeris_tables import EphemerisRows, read_rows
from skygraft.timedomain.light_curves import LightCurves

__all__ = ["Ephemerides", "ephemerides_of_file", "object_number", "read_ephemerides"]

_PLACED = ("mjd_from", "mjd_to", "ra", "dec", "epoch_mjd", "rate_ra_cosdec", "rate_dec", *BENDS)
_GAP = 3.0
"""Longest duration of a piece, in units of the median time between two rows of the object."""
_LONGEST_OF_SORCHA = 0.5
"""Longest duration of a piece of Sorcha's tables, days: their rows are at the times of exposures, and there is no need
to interpolate from one night to another."""
_LISTED = 5
_LARGEST = 2**63 - 1
_DISAGREE = 0.5


def object_number(name: str, path: str | None = None) -> int:
    """Return the injection id of an object of an ephemeris: its id if that is a whole number, else one made of it.

    Parameters
    ----------
    name : str
        The object's id in the table, such as ``S1000000a``.
    path : str, optional
        The table, for errors.

    Returns
    -------
    int
        Of a text, 62 bits of its BLAKE2b hash.

    Raises
    ------
    CatalogError
        If it is a number that does not fit into 64 bits.
    """
    try:
        number = int(name)
    except ValueError:
        return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little") >> 2
    if not -_LARGEST <= number <= _LARGEST:
        raise CatalogError(
            f"the id {name} does not fit into 64 bits",
            path=path,
            row=f"object {name}",
            key="id",
            fix="Give smaller numbers, or ids with a letter",
        )
    return number


def read_ephemerides(table: Any, *, max_gap: float | None = None) -> Ephemerides:
    """Read ephemerides of any number of objects.

    Parameters
    ----------
    table : path-like or table-like
        A file (CSV, ECSV, FITS, Parquet, VOTable) or a table in memory, with the columns of one of the layouts of
        `skygraft.timedomain.ephemeris_tables`: skygraft's own, Sorcha's, KBMOD's or that of JPL Horizons.
    max_gap : float, optional
        Longest time between two rows of an object across which its way is followed, days. By default three times the
        object's median time between rows, and for tables of Sorcha at most half a day.

    Returns
    -------
    Ephemerides

    Raises
    ------
    CatalogError
        If its layout is unknown, a value is missing or impossible, or a time of an object has two positions.
    """
    return Ephemerides(read_rows(table), max_gap)


@dataclass(frozen=True, eq=False, repr=False)
class Ephemerides:
    """Ephemerides of some objects.

    Parameters
    ----------
    table : EphemerisRows
        The rows of the table.
    max_gap : float or None
        As in `read_ephemerides`.
    """

    table: EphemerisRows
    max_gap: float | None = None

    def __post_init__(self) -> None:
        if self.max_gap is not None and not self.max_gap > 0:
            raise CatalogError(f"max_gap is {self.max_gap}; a number of days above 0 is needed", key="max_gap")

    def __repr__(self) -> str:
        return text_table("Ephemerides", self._rows())

    def _repr_html_(self) -> str:
        return html_table("Ephemerides", self._rows())

    def _rows(self) -> Rows:
        rows = self.table
        return [
            ("objects", f"{len(rows.names):,}, {rows.names[0]} to {rows.names[-1]}"),
            ("rows", f"{len(rows.mjd):,}, MJD {rows.mjd.min():.4f} to {rows.mjd.max():.4f} (TAI)"),
            ("layout", rows.layout + (", with rates" if rows.rates is not None else "")),
            ("magnitudes", ", ".join(rows.mags) or "none"),
            ("pieces", f"{len(self.pieces):,}"),
        ]

    @functools.cached_property
    def ids(self) -> NDArray[np.int64]:
        """The number of each object, shape (K,), from `object_number`."""
        names = self.table.names.tolist()
        ids = np.array([object_number(name, self.table.origin or None) for name in names], dtype=np.int64)
        order = np.argsort(ids, kind="stable")
        same = np.flatnonzero(np.diff(ids[order]) == 0)
        if same.size:
            a, b = names[order[same[0]]], names[order[same[0] + 1]]
            raise CatalogError(
                f"the objects {a!r} and {b!r} have one number, {ids[order[same[0]]]}",
                path=self.table.origin or None,
                key="id",
                fix="Rename one of them",
            )
        return ids

    @functools.cached_property
    def gaps(self) -> NDArray[np.float64]:
        """The longest duration of a piece of each object, days, shape (K,)."""
        rows = self.table
        n = len(rows.names)
        if self.max_gap is not None:
            return np.full(n, self.max_gap)
        within = np.diff(rows.owner) == 0
        owner, step = rows.owner[:-1][within], np.diff(rows.mjd)[within]
        order = np.lexsort((step, owner))
        counts = np.bincount(owner, minlength=n)
        starts = np.cumsum(counts) - counts
        some = counts > 0
        middle = step[order][(starts + (counts - 1) // 2)[some]]
        gaps = np.zeros(n)
        gaps[some] = _GAP * middle * (1 + 1e-9)
        return np.minimum(gaps, _LONGEST_OF_SORCHA) if rows.layout == "sorcha" else gaps

    @functools.cached_property
    def pieces(self) -> Pieces:
        """The pieces of all objects."""
        rows = self.table
        pieces = make_pieces(rows.owner, rows.mjd, rows.ra, rows.dec, rows.rates, self.gaps)
        self._check_rates(pieces)
        return pieces

    def _check_rates(self, pieces: Pieces) -> None:
        """Raise if most rates are others than the positions say: another unit, or without cos(dec)."""
        if self.table.rates is None:
            return
        way = np.hypot(pieces.rate_ra_cosdec, pieces.rate_dec) * 24.0 * (pieces.mjd_to - pieces.mjd_from)
        joined = way > 1.0
        joined &= ~np.isin(pieces.epoch_mjd, (pieces.mjd_from, pieces.mjd_to)) & (pieces.mjd_to > pieces.mjd_from)
        bends = [getattr(pieces, name)[joined] for name in BENDS]
        # The mean rate of both ends, but for the straight way's, over that one.
        off = np.hypot(bends[0] + bends[2], bends[1] + bends[3]) / 2 / way[joined]
        real = np.any([bend != 0 for bend in bends], axis=0)
        if np.count_nonzero(real) >= 3 and np.median(off[real]) > _DISAGREE:
            raise CatalogError(
                "the rates of the ephemerides are not those of the positions: half of them differ by more than "
                f"{_DISAGREE:.0%}",
                path=self.table.origin or None,
                key="rate_ra_cosdec",
                fix="Check their unit (arcsec/h unless the column or the layout says another), that of ra includes "
                "cos(dec), and that the times are in the scale of the layout; or leave the rates out",
            )

    @property
    def has_magnitudes(self) -> bool:
        """Whether the table has magnitudes."""
        return bool(self.table.mags)

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of all rows and settings."""
        rows = self.table
        sha = hashlib.sha256(repr((self.max_gap, rows.layout, rows.names.tolist(), sorted(rows.mags))).encode())
        for array in (rows.owner, rows.mjd, rows.ra, rows.dec, rows.rates, *(rows.mags[b] for b in sorted(rows.mags))):
            sha.update(b"" if array is None else np.ascontiguousarray(array).tobytes())
        return sha.hexdigest()

    @functools.cached_property
    def curve_names(self) -> NDArray[np.str_]:
        """The id of each piece's light curve, shape (P,); empty for objects without a magnitude."""
        names = curve_names(self.table, self.pieces)
        return np.where(self._shining()[self.pieces.owner], names, "")

    def light_curves(self) -> LightCurves:
        """The magnitudes as light curves, one for each piece; see `skygraft.timedomain.ephemeris_curves`."""
        return LightCurves.of(piece_curves(self.table, self.pieces))

    def rows(self, catalog: QTable) -> QTable:
        """Replace the rows of a catalogue that have an ephemeris by its pieces.

        Parameters
        ----------
        catalog : QTable
            Canonical rows. An ephemeris is that of the row whose `injection_id` is the object's number
            (`object_number`), or of rows with this `object_id`.

        Returns
        -------
        QTable
            With all columns of the pieces, whether a row has an ephemeris or not; with magnitudes in the table also
            ``light_curve``, the name of the piece's curve in `light_curves` where the row has no curve of its own.
        """
        which = self._find(catalog)
        return self._replaced(catalog, which)

    def _find(self, catalog: QTable) -> NDArray[np.int64]:
        """The object of each row, -1 for none."""
        order = np.argsort(self.ids, kind="stable")
        ascending = self.ids[order]

        def found(ids: NDArray[np.int64]) -> NDArray[np.int64]:
            place = np.minimum(np.searchsorted(ascending, ids), len(ascending) - 1)
            return np.where(ascending[place] == ids, order[place], -1)

        which = found(values(catalog, "injection_id"))
        if "object_id" in catalog.colnames:
            objects = values(catalog, "object_id")
            which = np.where((which < 0) & (objects >= 0), found(objects), which)
        return which.astype(np.int64)

    def _replaced(self, catalog: QTable, which: NDArray[np.int64]) -> QTable:
        pieces = self.pieces
        first = np.searchsorted(pieces.owner, np.arange(len(self.table.names) + 1))
        counts = np.where(which >= 0, (first[1:] - first[:-1])[which], 1)
        row = np.repeat(np.arange(len(catalog)), counts)
        nth = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
        mine = which[row] >= 0
        piece = first[:-1][which[row[mine]]] + nth[mine]
        chosen = pieces.take(piece)
        if "mjd_from" in catalog.colnames or "mjd_to" in catalog.colnames:
            begin, end = (values(catalog, name)[row[mine]] for name in ("mjd_from", "mjd_to"))
            outside = ~(np.fmax(chosen.mjd_from, begin) < np.fmin(chosen.mjd_to, end))
            chosen = clip_pieces(chosen, begin, end)
            kept = np.ones(len(row), dtype=np.bool_)
            kept[np.flatnonzero(mine)[outside]] = False
            row, mine, piece = row[kept], mine[kept], piece[~outside]
        out = catalog[row]
        for name in _PLACED:
            column = values(out, name)
            column[mine] = getattr(chosen, name)
            out[name] = column * u.Unit(COLUMNS[name].unit)
        for name in (*MOTION, "parallax"):
            if name in catalog.colnames and name not in _PLACED:
                column = values(out, name)
                column[mine] = 0.0
                out[name] = column * u.Unit(COLUMNS[name].unit)
        if self.has_magnitudes:
            own = strings(out, "light_curve") if "light_curve" in out.colnames else np.full(len(out), "")
            names = np.full(len(out), "", dtype=self.curve_names.dtype)
            names[mine] = self.curve_names[piece]
            out["light_curve"] = np.where(own == "", names, own)
        return out

    def _shining(self) -> NDArray[np.bool_]:
        """Which objects have a magnitude, shape (K,)."""
        rows = self.table
        some = np.any([np.isfinite(mag) for mag in rows.mags.values()], axis=0) if rows.mags else np.zeros(1, bool)
        return np.bincount(rows.owner, weights=np.broadcast_to(some, rows.owner.shape), minlength=len(rows.names)) > 0

    def rest(self, ids: NDArray[np.int64], like: QTable) -> Iterator[QTable]:
        """Stars for the objects that the catalogue lacks, if the table has magnitudes.

        Parameters
        ----------
        ids : ndarray of int
            Injection and object ids of the catalogue.
        like : QTable
            What `rows` gave, for the columns.

        Yields
        ------
        QTable
            None, or the pieces of all these objects.

        Raises
        ------
        CatalogError
            If there is not a single magnitude, and not a single object is in the catalogue.
        """
        lacking = ~np.isin(self.ids, ids)
        if not self.has_magnitudes:
            if lacking.all():
                listed = ", ".join(self.table.names[:_LISTED])
                raise CatalogError(
                    f"none of the {len(lacking)} objects of the ephemerides is in the catalogue ({listed}, ...), and "
                    "they have no magnitudes of their own",
                    path=self.table.origin or None,
                    key="id",
                    fix="Give the objects' numbers as injection_id (or object_id), or magnitudes in the ephemerides",
                )
            return
        new = np.flatnonzero(lacking & self._shining())
        if new.size:
            yield self._stars(new, like)

    def stars(self, bands: tuple[str, ...] = ()) -> QTable:
        """All objects with magnitudes as stars: a catalogue of their pieces.

        Parameters
        ----------
        bands : tuple of str
            Bands of which there is to be a column, without values: the magnitudes are those of `light_curves`.

        Returns
        -------
        QTable
        """
        like = QTable({"injection_id": np.empty(0, np.int64), "source_type": np.empty(0, "U4")})
        for name in _PLACED:
            like[name] = np.empty(0) * u.Unit(COLUMNS[name].unit)
        for band in bands:
            like[f"mag_{band}"] = np.empty(0) * u.mag
        like["flags"] = np.empty(0, np.int64)
        return self._stars(np.flatnonzero(self._shining()), like)

    def _stars(self, objects: NDArray[np.intp], like: QTable) -> QTable:
        n = len(objects)
        columns: dict[str, Any] = {}
        for name in like.colnames:
            spec = COLUMNS.get(name)
            if name == "injection_id":
                columns[name] = self.ids[objects]
            elif name == "source_type":
                columns[name] = np.full(n, "Star")
            elif name == "flags":
                columns[name] = np.zeros(n, dtype=np.int64)
            elif spec is not None:
                filled = np.full(n, spec.default if spec.kind != "str" else (spec.default or ""))
                columns[name] = filled if spec.unit is None or spec.kind != "float" else filled * u.Unit(spec.unit)
            elif is_mag_column(name):
                columns[name] = np.full(n, np.nan) * u.mag
            else:
                columns[name] = _missing(like[name], n)
        columns |= {"ra": np.zeros(n) * u.deg, "dec": np.zeros(n) * u.deg}
        table = QTable({name: columns[name] for name in dict.fromkeys([*like.colnames, *columns])})
        out = self._replaced(table, objects.astype(np.int64))
        return out[[name for name in out.colnames if name in like.colnames or name in ("ra", "dec", "light_curve")]]

    def uncovered(self, times: NDArray[np.float64]) -> tuple[NDArray[np.str_], NDArray[np.int64]]:
        """Find the objects that have no position at some of these times.

        Parameters
        ----------
        times : ndarray, shape (T,)
            MJD TAI; NaN for an image without a time, which has no object of an ephemeris.

        Returns
        -------
        names : ndarray of str, shape (M,)
            Those objects, the ones that miss most first.
        missed : ndarray of int, shape (M,)
            How many of the times each misses.
        """
        ascending = np.sort(times[np.isfinite(times)])
        pieces = self.pieces
        inside = np.searchsorted(ascending, pieces.mjd_to) - np.searchsorted(ascending, pieces.mjd_from)
        seen = np.bincount(pieces.owner, weights=inside, minlength=len(self.table.names)).astype(np.int64)
        missed = len(ascending) - seen
        order = np.argsort(-missed, kind="stable")
        some = order[missed[order] > 0]
        return self.table.names[some], missed[some]


def _missing(column: Any, n: int) -> Any:
    """Missing values of a column that the schema does not know."""
    from astropy.table import MaskedColumn

    dtype = np.asarray(column).dtype
    if dtype.kind == "f":
        filled = np.full(n, np.nan)
        return filled * column.unit if getattr(column, "unit", None) is not None else filled
    if dtype.kind in "US":
        return np.full(n, "")
    return MaskedColumn(np.zeros(n, dtype=dtype), mask=np.ones(n, dtype=bool))


def ephemerides_of_file(path: str | os.PathLike[str]) -> Ephemerides:
    """Read the ephemerides of a file; once in each process for each version of it."""
    return _of_file(os.fspath(path), FileIdentity.find(path))


@functools.lru_cache(maxsize=1)
def _of_file(path: str, identity: FileIdentity | None) -> Ephemerides:
    del identity
    return read_ephemerides(path)
