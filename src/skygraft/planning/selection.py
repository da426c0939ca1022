"""Select the catalogue rows of an image, and take their fingerprint."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Self

import numpy as np
import pyarrow as pa
from astropy.table import QTable
from numpy.typing import ArrayLike, NDArray

from skygraft.catalog.io import from_arrow, numpy_array, one_array
from skygraft.catalog.motion import angular_rates, check_motion, excursions, is_open, windows_of
from skygraft.catalog.partition_read import partition_values
from skygraft.catalog.schema import BENDS, MOTION, WINDOW, is_mag_column, values
from skygraft.errors import CatalogError
from skygraft.lazy import lazy_module

pc = lazy_module("pyarrow.compute")

__all__ = ["Outlines", "RowDigests", "SourcePositions", "digest_rows", "select"]

_NAN = np.uint64(0x7FF8000000000000)
_NULL = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, eq=False)
class Outlines:
    """Outlines and times of some images, as the compiled loop takes them.

    Parameters
    ----------
    corners : ndarray, shape (V, 3)
        Unit vectors of the vertices, one image after the other.
    bounds : ndarray of int, shape (M + 1,)
        Where each image's vertices begin and end.
    times : ndarray, shape (M,)
        Middle of the exposure, MJD TAI; NaN where it is not known.
    visits : ndarray of int, shape (M,)
        Visits; -1 where there is none.
    """

    corners: NDArray[np.float64]
    bounds: NDArray[np.int64]
    times: NDArray[np.float64]
    visits: NDArray[np.int64]

    @classmethod
    def of(
        cls, polygons: Sequence[ArrayLike], mjd: Sequence[float | None] = (), visits: Sequence[int | None] = ()
    ) -> Self:
        """The outlines of polygons in degrees, each of shape (M, 2)."""
        from skygraft.planning.selection_loops import unit_vectors

        shapes = [np.asarray(polygon, dtype=float).reshape(-1, 2) for polygon in polygons]
        n = len(shapes)
        points = np.concatenate(shapes)
        return cls(
            unit_vectors(np.ascontiguousarray(points[:, 0]), np.ascontiguousarray(points[:, 1])),
            np.cumsum([0, *(len(shape) for shape in shapes)], dtype=np.int64),
            np.array([np.nan if t is None else t for t in mjd] or np.full(n, np.nan), dtype=np.float64),
            np.array([-1 if v is None else v for v in visits] or np.full(n, -1), dtype=np.int64),
        )

    def __len__(self) -> int:
        return len(self.bounds) - 1


@dataclass(frozen=True, eq=False)
class SourcePositions:
    """Positions, visits and motions of a catalogue's sources: what decides which image gets which row.

    Parameters
    ----------
    vectors : ndarray, shape (N, 3)
        Unit vectors at the sources' epochs.
    visits : ndarray of int, shape (N,)
        The only visit of each, -1 for all; empty where all are -1.
    motion : ndarray, shape (N, 3)
        East and north in radians per day, and the epoch (MJD TAI); shape (0, 3) where nothing moves.
    windows : ndarray, shape (N, 2)
        First time and the time after the last (MJD TAI), NaN for no limit; shape (0, 2) where there is none.
    slack : ndarray, shape (N,)
        How far they may be from their straight motion, arcsec; empty where all move straight.
    """

    vectors: NDArray[np.float64]
    visits: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    motion: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 3)))
    windows: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 2)))
    slack: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))

    @classmethod
    def at(cls, ra: NDArray[np.float64], dec: NDArray[np.float64]) -> Self:
        """Sources that stand still, for all visits, at positions in degrees."""
        from skygraft.planning.selection_loops import unit_vectors

        return cls(unit_vectors(np.ascontiguousarray(ra), np.ascontiguousarray(dec)))

    @classmethod
    def of(cls, table: QTable | pa.Table) -> Self:
        """The sources of a canonical catalogue; of Arrow, as partitions are stored."""
        stored = isinstance(table, pa.Table)
        names = table.column_names if stored else table.colnames
        still = cls.at(_column(table, "ra"), _column(table, "dec"))
        visits = _column(table, "visit") if "visit" in names else still.visits
        motion = still.motion
        windows, slack = still.windows, still.slack
        timed = [name for name in (*MOTION, *WINDOW, *BENDS, "parallax", "epoch_mjd") if name in names]
        if set(timed) - {"epoch_mjd"}:
            rows = from_arrow(table.select(timed)) if stored else table
            windows, slack = windows_of(rows), excursions(rows)
            if set(timed) & set(MOTION):
                motion = np.column_stack([angular_rates(rows), values(rows, "epoch_mjd")])
                if not np.any(motion[:, :2]):
                    motion = still.motion
        return cls(still.vectors, visits if np.any(visits != -1) else still.visits, motion, windows, slack)

    def rows(self, rows: NDArray[np.intp]) -> Self:
        """Some of the sources."""
        arrays = {f.name: getattr(self, f.name) for f in fields(self)}
        return type(self)(**{name: array[rows] if len(array) else array for name, array in arrays.items()})

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """The sources of several catalogues, one after the other."""
        if len(parts) == 1:
            return parts[0]
        none = cls(np.empty((0, 3)))
        arrays = {}
        for name, missing in _MISSING.items():
            empty = getattr(none, name)
            found = [(getattr(part, name), len(part)) for part in parts]
            if any(len(array) for array, _ in found):
                whole = [
                    array if len(array) else np.full((n, *empty.shape[1:]), missing, dtype=empty.dtype)
                    for array, n in found
                ]
                arrays[name] = np.concatenate([empty, *whole])
        return cls(np.concatenate([none.vectors, *(part.vectors for part in parts)]), **arrays)

    def __len__(self) -> int:
        return len(self.vectors)

    def moving(self, mjd: float | None) -> NDArray[np.intp]:
        """Rows that move, and may be on an image of a time: their position at that time must be known."""
        moves = (self.motion[:, 0] != 0) | (self.motion[:, 1] != 0)
        if len(self.windows) and moves.any():
            moves &= is_open(self.windows, mjd)
        return np.flatnonzero(moves)

    def select(
        self,
        outlines: Outlines,
        margin_arcsec: float,
        guarded: NDArray[np.int64] | None = None,
        admitted: NDArray[np.bool_] | None = None,
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows that each of some images gets, times of all moving sources and images being known.

        Parameters
        ----------
        outlines : Outlines
            The images.
        margin_arcsec : float
            How far outside of an image its sources may lie.
        guarded : ndarray of int, shape (N,), optional
            1 for rows that only some images may get.
        admitted : ndarray of bool, shape (M,), optional
            Those images.

        Returns
        -------
        offsets : ndarray of int, shape (M + 1,)
            Where each image's rows begin and end.
        rows : ndarray of int
            Row numbers, ascending in each image.
        """
        from skygraft.planning.selection_loops import select_rows

        return select_rows(
            self.vectors,
            self.visits,
            self.motion,
            self.windows,
            self.slack,
            np.empty(0, dtype=np.int64) if guarded is None else guarded,
            outlines.corners,
            outlines.bounds,
            outlines.times,
            outlines.visits,
            np.zeros(len(outlines), dtype=np.bool_) if admitted is None else admitted,
            float(margin_arcsec),
        )


_MISSING: dict[str, Any] = {"visits": -1, "motion": 0.0, "windows": np.nan, "slack": 0.0}
"""What an empty array of `SourcePositions` stands for."""


def _column(table: QTable | pa.Table, name: str) -> NDArray[Any]:
    return partition_values(table, name) if isinstance(table, pa.Table) else values(table, name)


def select(
    table: QTable | pa.Table,
    polygon: ArrayLike,
    margin_arcsec: float,
    *,
    mjd: float | None = None,
    visit: int | None = None,
) -> NDArray[np.intp]:
    """Select the rows of a canonical catalogue that an image gets.

    These are the sources that are, at the image's time, within its outline or the margin around it, whose window of
    time is open, and that are not meant for another visit; of those that do not move straight, such as pieces of an
    ephemeris, also some that are a little further away. The result does not depend on how the catalogue was cut into
    patches.

    Parameters
    ----------
    table : QTable or pyarrow.Table
        Canonical columns; of Arrow, as partitions are stored.
    polygon : array_like, shape (M, 2)
        The image's outline, ICRS degrees.
    margin_arcsec : float
        Width of the margin.
    mjd : float, optional
        Middle of the exposure, TAI days.
    visit : int, optional
        The image's visit; an image of none gets the rows for all visits only.

    Returns
    -------
    ndarray of int
        Row numbers, ascending.

    Raises
    ------
    CatalogError
        If a source moves and the image has no time.
    """
    sources = SourcePositions.of(table)
    moving = sources.moving(mjd)
    if moving.size:
        check_motion(_column(table, "injection_id")[moving], sources.motion[moving, 2], mjd)
    _, rows = sources.select(Outlines.of([polygon], [mjd], [visit]), margin_arcsec)
    return rows.astype(np.intp, copy=False)


class RowDigests:
    """Fingerprints of the rows of a catalogue in any band; what the bands share is worked out once.

    A fingerprint leaves out other bands' magnitudes, so that a change of them leaves the images of this band alone.
    Every NaN is like every other, and like a missing value. It is no signature: nobody is kept from making two rows of
    one fingerprint on purpose.

    Parameters
    ----------
    table : pyarrow.Table
        Canonical columns, as partitions are stored.
    """

    def __init__(self, table: pa.Table) -> None:
        names = sorted(table.column_names)
        self._magnitudes = {name: _words(name, table.column(name)) for name in names if is_mag_column(name)}
        shared = [_words(name, table.column(name)) for name in names if name not in self._magnitudes]
        self._shared = np.zeros((table.num_rows, 2), dtype=np.uint64)
        _mix(shared, self._shared)

    def of(self, band: str | None) -> NDArray[np.uint64]:
        """Fingerprints of all rows, of what they say of their sources in one band: 16 bytes each, shape (N, 2)."""
        words = self._magnitudes.get(f"mag_{band}")
        if words is None:
            return self._shared
        lanes = self._shared.copy()
        _mix([words], lanes)
        return lanes


type _Words = tuple[NDArray[np.uint64], tuple[int, int]]
"""A column as 64-bit words, and its seeds."""


def _mix(columns: Sequence[_Words], lanes: NDArray[np.uint64]) -> None:
    from skygraft.planning.selection_loops import mix_columns

    if columns:
        mix_columns(np.stack([words for words, _ in columns]), np.array([s for _, s in columns], np.uint64), lanes)


@functools.lru_cache(maxsize=4096)
def _seeds(name: str, kind: str) -> tuple[int, int]:
    # The kind too: 1.0 and 1 are different words for one value, 4607182418800017408 and 1.0 one word for two.
    raw = hashlib.blake2b(f"{name}={kind}".encode(), digest_size=16).digest()
    return int.from_bytes(raw[:8], "little"), int.from_bytes(raw[8:], "little")


@functools.lru_cache(maxsize=65536)
def _text_word(text: str | None) -> int:
    if text is None:
        return int(_NULL)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def _words(name: str, column: Any) -> _Words:
    column = one_array(column)
    kind = column.type
    if pa.types.is_dictionary(kind):
        column, kind = column.dictionary_decode(), kind.value_type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        encoded = column.dictionary_encode(null_encoding="encode")
        texts = np.array([_text_word(text) for text in encoded.dictionary.to_pylist()], dtype=np.uint64)
        return texts[numpy_array(encoded.indices)], _seeds(name, "text")
    if pa.types.is_floating(kind):
        raw = numpy_array(column.fill_null(np.nan) if column.null_count else column).astype(np.float64, copy=False)
        words = np.ascontiguousarray(raw).view(np.uint64)
        words[np.isnan(raw)] = _NAN
        return words, _seeds(name, "float")
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        filled = pc.fill_null(column, False if pa.types.is_boolean(kind) else 0) if column.null_count else column
        words = numpy_array(filled).astype(np.int64).view(np.uint64)
        if column.null_count:
            words[numpy_array(column.is_null())] = _NULL
        return words, _seeds(name, "integer")
    raise CatalogError(f"the column {name!r} is of type {kind}, which no catalogue holds", key=name)


def digest_rows(digests: NDArray[np.uint64]) -> str:
    """The fingerprint of several rows, shape (N, 2), in the order given (that of ``injection_id``)."""
    return hashlib.sha256(np.ascontiguousarray(digests, dtype="<u8").tobytes()).hexdigest()
