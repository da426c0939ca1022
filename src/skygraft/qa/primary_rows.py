"""Check the tables of a whole campaign: primary rows, and tallies of sources against the truth, in bounded memory.

Rows of one source lie in many patches. They are compared in passes: each takes the sources whose id falls into one
class, from all tables, so that however many rows there are, only some ten million are in memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from skygraft.catalog.io import arrow_array
from skygraft.qa.verdicts import Row
from skygraft.records.files import Layout
from skygraft.tables.arrow import numbers
from skygraft.wording import number

__all__ = ["check_tables"]

ROWS_AT_ONCE = 10_000_000
"""Rows of truth that are compared in one pass."""
_BATCH = 1 << 18
_SHOWN = 3
_COLUMNS = ["injection_id", "image_id", "band", "visit", "stamp_size", "is_primary"]
_COUNTS = ("n_images", "n_drawn", "n_primary")


@dataclass(frozen=True)
class _Truth:
    """What counts of some rows of truth."""

    ids: NDArray[np.int64]
    drawn: NDArray[np.bool_]
    primary: NDArray[np.bool_]
    keys: NDArray[np.uint64]


def check_tables(
    layout: Layout, *, rows_at_once: int = ROWS_AT_ONCE, progress: Callable[[int, int], None] = lambda done, total: None
) -> list[Row]:
    """Check that a source has one primary row at most, and that the tallies of the sources are those of the truth.

    Parameters
    ----------
    layout : Layout
        The campaign's output folder.
    rows_at_once : int
        Rows of truth to hold in memory.
    progress : callable
        Called with the number of tables read so far, and of all.

    Returns
    -------
    list of Row
        Of the checks ``primary`` and ``tables``.
    """
    tables = sorted(layout.truth.glob("tract=*/patch=*/part-0.parquet"))
    if not tables or not layout.campaign_sources.is_file():
        gone = layout.truth.name if not tables else layout.campaign_sources.name
        note = f"there is no {gone}: end the run, which writes the tables (skygraft run)"
        return [Row("primary", "fails", note=note), Row("tables", "fails", note=note)]
    try:
        return _check(layout, tables, rows_at_once, progress)
    except (OSError, pa.ArrowException, KeyError) as error:
        note = f"a table cannot be read ({error}); skygraft run writes it again"
        return [Row("primary", "fails", note=note), Row("tables", "fails", note=note)]


def _check(layout: Layout, tables: list[Path], rows_at_once: int, progress: Callable[[int, int], None]) -> list[Row]:
    n_rows = sum(pq.read_metadata(path).num_rows for path in tables)
    n_passes = max(1, -(-n_rows // rows_at_once))
    suspects: list[NDArray[np.int64]] = []
    notes: list[str] = []
    n_wrong = n_sources = 0
    total = n_passes * len(tables)
    for k in range(n_passes):
        parts = []
        for i, path in enumerate(tables):
            parts += [_truth_of(batch, k, n_passes) for batch in _batches(path)]
            progress(k * len(tables) + i + 1, total)
        truth = _join(parts)
        suspects.append(_repeated(truth))
        wrong, seen = _tallies(layout.campaign_sources, truth, k, n_passes, notes)
        n_wrong, n_sources = n_wrong + wrong, n_sources + seen
    again = np.unique(np.concatenate(suspects))
    primary = _primary(layout, tables, again) if again.size else []
    note = "; ".join(primary[:_SHOWN]) + ("; ..." if len(primary) > _SHOWN else "")
    return [
        Row.of("primary", not primary, len(primary), 0.0, n=n_rows, note=note),
        Row.of("tables", not n_wrong, n_wrong, 0.0, n=n_sources, note="; ".join(notes[:_SHOWN])),
    ]


def _batches(path: Path) -> Iterator[pa.RecordBatch]:
    with pq.ParquetFile(path) as file:
        yield from file.iter_batches(_BATCH, columns=_COLUMNS, use_threads=False)


def _truth_of(batch: pa.RecordBatch, k: int, n_passes: int) -> _Truth:
    """Rows whose source is of one class; their keys are fingerprints of source, band and visit."""
    if n_passes > 1:
        ids = numbers(batch.column("injection_id"))
        batch = batch.take(arrow_array(np.flatnonzero(ids % n_passes == k)))
    ids = numbers(batch.column("injection_id"))
    visits = pc.fill_null(pc.cast(batch.column("visit"), pa.string()), "")
    pairs = pc.dictionary_encode(pc.binary_join_element_wise(pc.cast(batch.column("band"), pa.string()), visits, "\n"))
    codes = [hashlib.blake2b(str(one).encode(), digest_size=8).digest() for one in pairs.dictionary.to_pylist()]
    hashed = np.frombuffer(b"".join(codes), dtype="<u8")[numbers(pairs.indices)] if len(ids) else np.zeros(0, "<u8")
    with np.errstate(over="ignore"):
        keys = hashed ^ (ids.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    drawn = numbers(batch.column("stamp_size")) > 0
    primary = np.asarray(pc.fill_null(batch.column("is_primary"), False).to_numpy(zero_copy_only=False), dtype=np.bool_)
    return _Truth(ids.astype(np.int64), drawn, primary, keys[primary])


def _join(parts: list[_Truth]) -> _Truth:
    names = ("ids", "drawn", "primary", "keys")
    return _Truth(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def _repeated(truth: _Truth) -> NDArray[np.int64]:
    """Sources that seem to have two primary rows; of another instrument they may."""
    _, inverse, counts = np.unique(truth.keys, return_inverse=True, return_counts=True)
    return np.unique(truth.ids[truth.primary][counts[inverse] > 1])


def _tallies(path: Path, truth: _Truth, k: int, n_passes: int, notes: list[str]) -> tuple[int, int]:
    """Compare the tallies of the sources of one class; returns how many are wrong, and of how many."""
    tallies: list[NDArray[np.int64]] = []
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(_BATCH, columns=["injection_id", *_COUNTS], use_threads=False):
            columns = np.stack([numbers(batch.column(name)).astype(np.int64) for name in ("injection_id", *_COUNTS)])
            tallies.append(columns[:, columns[0] % n_passes == k])
    said = np.concatenate(tallies, axis=1) if tallies else np.zeros((4, 0), np.int64)
    # Of an object of an ephemeris there is a row for each piece of its way.
    known_ids, of_id = np.unique(said[0], return_inverse=True)
    sums = [np.bincount(of_id, weights=count, minlength=len(known_ids)).astype(np.int64) for count in said[1:]]
    said = np.stack([known_ids, *sums])
    ids, inverse = np.unique(truth.ids, return_inverse=True)
    found = np.stack([np.bincount(inverse, weights=w, minlength=len(ids)) for w in (None, truth.drawn, truth.primary)])
    wrong = 0
    strangers = np.setdiff1d(ids, said[0])
    if strangers.size:
        wrong += strangers.size
        notes.append(f"{number(strangers.size, 'source')} of the truth not in {path.name}: {_names(strangers)}")
    at = np.searchsorted(ids, said[0])
    known = np.zeros(said.shape[1], np.bool_)
    inside = at < len(ids)
    known[inside] = ids[at[inside]] == said[0][inside]
    counted = np.zeros((3, said.shape[1]))
    counted[:, known] = found[:, at[known]]
    for i, name in enumerate(_COUNTS):
        off = counted[i] != said[i + 1]
        if off.any():
            wrong += int(off.sum())
            first = int(np.flatnonzero(off)[0])
            notes.append(
                f"{name} of {number(int(off.sum()), 'source')} is not that of the truth: injection_id "
                f"{said[0][first]} has {said[i + 1][first]}, the truth {int(counted[i][first])}"
            )
    return wrong, said.shape[1]


def _names(ids: NDArray[np.int64]) -> str:
    return ", ".join(map(str, ids[:_SHOWN].tolist())) + (", ..." if len(ids) > _SHOWN else "")


def _primary(layout: Layout, tables: list[Path], suspects: NDArray[np.int64]) -> list[str]:
    """Sources with two primary rows of one band, visit and instrument, with the images."""
    rows: dict[tuple[int, str, str], list[str]] = {}
    wanted = arrow_array(suspects)
    for path in tables:
        for batch in _batches(path):
            keep = pc.and_(pc.is_in(batch.column("injection_id"), value_set=wanted), batch.column("is_primary"))
            for row in batch.filter(keep).to_pylist():
                key = row["injection_id"], str(row["band"]), "" if row["visit"] is None else str(row["visit"])
                rows.setdefault(key, []).append(str(row["image_id"]))
    images = {image for found in rows.values() if len(found) > 1 for image in found}
    instruments: dict[str, str] = {}
    with pq.ParquetFile(layout.plan) as file:
        for batch in file.iter_batches(_BATCH, columns=["image_id", "instrument"], use_threads=False):
            for image, instrument in zip(*(batch.column(i).to_pylist() for i in range(2)), strict=True):
                if image in images:
                    instruments[image] = str(instrument)
    notes = []
    for (injection_id, band, visit), found in sorted(rows.items()):
        of: dict[str, list[str]] = {}
        for image in found:
            # Coadds count once whatever they are made from.
            of.setdefault(instruments.get(image, "") if visit else "", []).append(image)
        for names in of.values():
            if len(names) > 1:
                where = f"band {band}" + (f", visit {visit}" if visit else "")
                notes.append(
                    f"injection_id {injection_id} has {len(names)} primary rows in {where}: {', '.join(names)}"
                )
    return notes
