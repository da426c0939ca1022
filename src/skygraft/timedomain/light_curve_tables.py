"""Read tables of light curves: long ones, with a row for each band, and wide ones, with a column for each band.

| column | meaning |
|---|---|
| ``id`` (or ``light_curve``) | the curve's id: text or whole numbers |
| ``mjd`` (or ``time``) | days: MJD in TAI, or relative to the `light_curve_mjd` of each source |
| ``band`` (or ``filter``) | as the images' bands are called |
| ``mag``, ``flux`` | AB magnitude, or flux in nJy (a unit of the column is converted) |
| ``mag_<band>``, ``flux_<band>`` | instead of ``band`` and a value: an empty cell leaves the time out |

Rows may be in any order. A magnitude of inf is a flux of zero. A missing value is an error in a long table, because it
could mean no light as well as no measurement.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from astropy.table import Table
from numpy.typing import NDArray

from skygraft.catalog.arrow_arrays import arrow_array, numpy_array
from skygraft.catalog.columns import ColumnReader, refused
from skygraft.catalog.io import as_table, file_format, read_table
from skygraft.catalog.parquet_files import open_parquet
from skygraft.catalog.schema import is_mag_column
from skygraft.errors import CatalogError, shown
from skygraft.lazy import lazy_module
from skygraft.photometry.units import AB_REFERENCE_FLUX_NJY

pc = lazy_module("pyarrow.compute")

__all__ = ["Curves", "curves_of", "read_curves"]

_IDS, _TIMES, _BANDS = ("id", "light_curve"), ("mjd", "time"), ("band", "filter")
_FLUX = re.compile(r"flux_(?!(?:\w+_)?(?:err|error|sigma|ivar)(?:_|$))(\w+)")
_CHUNK = 500_000
_LATEST = 2e5  # d, the year 2406: Julian dates and seconds are larger
_BRIGHTEST = -40.0  # mag: the Sun is at -26.7
_LARGEST = 1e40  # nJy
_LISTED = 5


class Curves(NamedTuple):
    """Values of light curves, sorted by id, band and time; the arrays are those of `LightCurves`."""

    ids: NDArray[np.str_]
    bands: tuple[str, ...]
    starts: NDArray[np.int64]
    mjd: NDArray[np.float64]
    flux: NDArray[np.float64]


class _Piece(NamedTuple):
    """Some rows: ids as numbers of labels, bands as numbers of names, times in days and fluxes in nJy."""

    labels: NDArray[np.str_]
    label: NDArray[np.int32]
    bands: tuple[str, ...]
    band: NDArray[np.int16]
    mjd: NDArray[np.float64]
    flux: NDArray[np.float64]


def read_curves(path: str | os.PathLike[str]) -> Curves:
    """Read a file of light curves: Parquet, CSV, ECSV, FITS or VOTable.

    Parquet is read in parts: at most some 80 bytes of memory are taken for each value, and 16 are kept.

    Parameters
    ----------
    path : path-like
        The file; its columns are those of `skygraft.timedomain.light_curve_tables`.

    Returns
    -------
    Curves

    Raises
    ------
    CatalogError
        If a column is missing or cannot be converted, a value is missing, or a time has two values.
    CorruptFileError
        If the file cannot be read.
    """
    path = Path(path)
    if file_format(path) != "parquet" or not path.is_file():
        return curves_of(read_table(path), origin=str(path))
    with open_parquet(path) as file:
        return _join(_pieces_of_chunks(file.chunks(_CHUNK), str(path)), str(path))


def curves_of(table: Any, *, origin: str = "") -> Curves:
    """Read a table in memory; columns and errors as of `read_curves`.

    Parameters
    ----------
    table : table-like
        An astropy, pandas, Polars or Arrow table, or a dict of columns.
    origin : str
        Name of the table in error messages.

    Returns
    -------
    Curves
    """
    return _join(_pieces(as_table(table, origin=origin), origin, 0), origin)


def _pieces_of_chunks(chunks: Iterable[Table], origin: str) -> Iterator[_Piece]:
    first = 0
    for chunk in chunks:
        yield from _pieces(chunk, origin, first)
        first += len(chunk)


def _pieces(table: Table, origin: str, first_row: int) -> Iterator[_Piece]:
    """Convert rows; a wide table gives a piece for each band."""
    names = [*table.colnames, *refused(table)]
    readers = _Readers(table, names, origin, first_row)
    ids, times = readers.one_of(_IDS, "ids"), readers.one_of(_TIMES, "times")
    mags = {name.removeprefix("mag_"): name for name in names if is_mag_column(name)}
    fluxes = {m.group(1): name for name in names if (m := _FLUX.fullmatch(name))}
    labels, label = _labels(ids)
    if (without := ids.missing()) is not None:
        raise readers.error(
            without,
            ids.name,
            "a row of the table of light curves has no id",
            "Give the id of each, or leave the row out",
        )
    mjd = times.floats("d")
    bad = ~(np.abs(mjd) <= _LATEST)
    if bad.any():
        row = int(np.argmax(bad))
        raise readers.error(
            row,
            times.name,
            f"the time of light curve {str(labels[label[row]])!r} is {shown(mjd[row])}; a number of days within "
            f"{_LATEST:g} is needed",
            "Give MJD in TAI, or days since the light_curve_mjd of the sources",
        )
    if "mag" in names or "flux" in names:
        yield _long(readers, names, labels, label, mjd)
        return
    if both := sorted(mags.keys() & fluxes.keys()):
        raise readers.error(
            None, f"flux_{both[0]}", f"there are both mag_{both[0]} and flux_{both[0]}", "Remove one of them"
        )
    if not mags and not fluxes:
        raise readers.error(
            None,
            "flux",
            f"the table of light curves has neither mag nor flux, nor mag_<band> or flux_<band>; it has "
            f"{', '.join(names)}",
            "Add the magnitudes (AB) or the fluxes (nJy)",
        )
    for band, name in sorted((mags | fluxes).items()):
        flux, missing = _fluxes(readers, name, is_mag=band in mags)
        rows = np.flatnonzero(~missing)
        at = np.zeros(rows.size, dtype=np.int16)
        yield _Piece(labels, label[rows], (band,), at, mjd[rows], flux[rows])


def _long(
    readers: _Readers, names: list[str], labels: NDArray[np.str_], label: NDArray[np.int32], mjd: NDArray[np.float64]
) -> _Piece:
    if "mag" in names and "flux" in names:
        raise readers.error(None, "flux", "there are both mag and flux", "Remove one of them")
    bands = readers.one_of(_BANDS, "bands")
    found, band = _labels(bands)
    if "" in found[band]:
        row = int(np.argmax(found[band] == ""))
        raise readers.error(
            row, bands.name, f"light curve {str(labels[label[row]])!r} has no band", "Give the band of every value"
        )
    name = "mag" if "mag" in names else "flux"
    flux, missing = _fluxes(readers, name, is_mag=name == "mag")
    if missing.any():
        row = int(np.argmax(missing))
        raise readers.error(
            row,
            name,
            f"light curve {str(labels[label[row]])!r} has no {name} in band {str(found[band[row]])!r} at "
            f"{shown(mjd[row])}",
            "Leave the row out, or write "
            + ("inf, the magnitude of no flux" if name == "mag" else "0 where there is no flux"),
        )
    return _Piece(labels, label, tuple(found.tolist()), band.astype(np.int16), mjd, flux)


def _fluxes(readers: _Readers, name: str, *, is_mag: bool) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Fluxes in nJy, and which are missing."""
    given = readers[name].floats("mag" if is_mag else "nJy")
    missing = np.isnan(given)
    if is_mag:
        with np.errstate(invalid="ignore", over="ignore", under="ignore"):
            flux = AB_REFERENCE_FLUX_NJY * 10.0 ** (-0.4 * given)
            bad = given < _BRIGHTEST
    else:
        flux, bad = given, np.abs(given) > _LARGEST
    if bad.any():
        row = int(np.argmax(bad))
        raise readers.error(
            row,
            name,
            f"{name} = {shown(given[row])} is not one of a source",
            "Correct it; leave out the rows without a measurement",
        )
    return flux, missing


class _Readers:
    """The columns of a table, with errors that name its file."""

    def __init__(self, table: Table, names: list[str], origin: str, first_row: int) -> None:
        self._table, self._names, self._origin, self._first_row = table, names, origin, first_row

    def __getitem__(self, name: str) -> ColumnReader:
        if name in refused(self._table):
            raise refused(self._table)[name].error(name, self._origin)
        return ColumnReader(self._table[name], name, self._origin, self._first_row)

    def one_of(self, known: tuple[str, ...], what: str) -> ColumnReader:
        """The only column of these names."""
        there = [name for name in known if name in self._names]
        if len(there) == 1:
            return self[there[0]]
        if there:
            raise self.error(None, there[1], f"there are both {' and '.join(there)}", "Remove or rename one of them")
        raise self.error(
            None,
            known[0],
            f"the table of light curves has no column {known[0]!r} of {what}; it has {', '.join(self._names)}",
            f"Add it, or rename the column that has the {what}",
        )

    def error(self, row: int | None, key: str, message: str, fix: str) -> CatalogError:
        at = None if row is None else self._first_row + row
        return CatalogError(message, path=self._origin or None, row=at, key=key, fix=fix)


def _labels(column: ColumnReader) -> tuple[NDArray[np.str_], NDArray[np.int32]]:
    """The different values of a column as text, and which of them each row has."""
    raw = column.raw
    if raw.dtype.kind in "iuf" and raw.dtype.kind != "b":
        whole = column.integers(-1)
        found, at = np.unique(whole, return_inverse=True)
        return found.astype(np.str_), at.reshape(-1).astype(np.int32)
    texts = column.texts()
    # Rows of one curve usually follow each other: one text of each run is enough.
    first = np.flatnonzero(np.r_[True, texts[1:] != texts[:-1]]) if texts.size else np.empty(0, dtype=np.int64)
    encoded = arrow_array(texts[first]).dictionary_encode()
    sizes = np.diff(np.r_[first, texts.size])
    return np.array(encoded.dictionary.to_pylist() or [""], dtype=np.str_), np.repeat(
        numpy_array(encoded.indices).astype(np.int32), sizes
    )


def _join(pieces: Iterable[_Piece], origin: str) -> Curves:
    """Sort the rows of all pieces by curve, band and time."""
    parts = list(pieces)
    if not any(part.mjd.size for part in parts):
        raise CatalogError("the table of light curves has no values", path=origin or None, fix="Give at least one")
    ids, id_of = _unified([arrow_array(part.labels) for part in parts])
    bands, band_of = _unified([arrow_array(np.array(part.bands, dtype=np.str_)) for part in parts])
    n = len(bands)
    segment = np.concatenate(
        [own[part.label] * n + band[part.band] for part, own, band in zip(parts, id_of, band_of, strict=True)]
    )
    mjd = np.concatenate([part.mjd for part in parts])
    flux = np.concatenate([part.flux for part in parts])
    del parts, id_of, band_of
    if not _ascends(segment, mjd):
        order = np.lexsort((mjd, segment))
        segment = segment[order]  # one after the other: the former array is freed each time
        mjd = mjd[order]
        flux = flux[order]
        del order
    same = (segment[1:] == segment[:-1]) & (mjd[1:] == mjd[:-1])
    if same.any():
        odd = np.flatnonzero(same & (flux[1:] != flux[:-1]))
        if odd.size:
            raise _contradiction(odd, segment, mjd, flux, ids, bands, origin)
        keep = np.r_[True, ~same]
        segment, mjd, flux = segment[keep], mjd[keep], flux[keep]
    counts = np.bincount(segment, minlength=len(ids) * n).reshape(-1, n)
    del segment, same
    used = counts.any(axis=1)  # ids of which a wide table has no value at all are no curves
    starts = np.r_[0, np.cumsum(counts[used])]
    names = tuple(bands.tolist())
    return Curves(ids[used], names, starts, mjd, flux)


def _ascends(segment: NDArray[np.int64], mjd: NDArray[np.float64]) -> bool:
    for low in range(0, max(len(mjd) - 1, 1), _CHUNK):
        part = slice(low, low + _CHUNK + 1)
        step, forward = np.diff(segment[part]), np.diff(mjd[part]) >= 0
        if not np.all((step > 0) | ((step == 0) & forward)):
            return False
    return True


def _unified(labels: list[Any]) -> tuple[NDArray[np.str_], list[NDArray[np.int64]]]:
    """All labels, ascending, and for each list of them their places among all."""
    every = pa.chunked_array(labels, pa.string()).unique()
    ascending = every.take(pc.sort_indices(every))
    places = [numpy_array(pc.index_in(some, ascending)).astype(np.int64) for some in labels]
    return np.array(ascending.to_pylist(), dtype=np.str_), places


def _contradiction(
    odd: NDArray[np.intp],
    segment: NDArray[np.int64],
    mjd: NDArray[np.float64],
    flux: NDArray[np.float64],
    ids: NDArray[np.str_],
    bands: NDArray[np.str_],
    origin: str,
) -> CatalogError:
    n = len(bands)
    listed = [
        f"light curve {str(ids[segment[i] // n])!r}, band {str(bands[segment[i] % n])!r}, mjd {mjd[i]:.10g}: "
        f"{flux[i]:.6g} and {flux[i + 1]:.6g} nJy"
        for i in odd[:_LISTED].tolist()
    ]
    more = f"; and {odd.size - len(listed)} more" if odd.size > len(listed) else ""
    return CatalogError(
        f"{odd.size} {'times have' if odd.size > 1 else 'time has'} two values: {'; '.join(listed)}{more}",
        path=origin or None,
        row=f"light curve {ids[segment[odd[0]] // n]}",
        key="mjd",
        fix="Keep one value for each time of a curve in a band",
    )
