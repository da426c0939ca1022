"""Cut a catalogue by tract and patch into a Hive-partitioned Parquet data set, of which each task reads its part.

Layout: ``<out>/tract=<t>/patch=<p>/part-0.parquet``, one file a patch, sorted by injection id, every file with the
same schema; beside it the tables that a `Preparation` adds, such as light curves; ``<out>/_partitions.arrow``: for each
patch, the number of rows, where they lie and how fast they move; and ``<out>/_partition.json``, written last: what the
data set was made from. Without that file the data set is not finished and cannot be read (see
`skygraft.catalog.partition_read`).

Sources in no tract of an explicit sky map go into ``tract=-1/patch=-1``: no image of the map reads them, but nothing is
lost, and their number is reported.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from astropy.table import QTable
from numpy.typing import NDArray

from skygraft.catalog.arrow import to_arrow
from skygraft.catalog.arrow_arrays import arrow_array, numpy_array
from skygraft.catalog.checks import OnBad, check_duplicates, validate
from skygraft.catalog.extents import extents
from skygraft.catalog.hats_files import folder_identity
from skygraft.catalog.io import file_format, iter_catalog, normalize_catalog
from skygraft.catalog.orders import StoredIntegers, ahead, integer_order
from skygraft.catalog.partition_files import (
    SPOOL,
    make_folder,
    remove_stale,
    write_beside,
    write_json,
    write_part,
    writing,
)
from skygraft.catalog.partition_read import (
    MARKER,
    OUTSIDE,
    damaged_partitions,
    marker_checksum,
    read_marker,
)
from skygraft.catalog.partition_stamps import stamps_changed, with_identities
from skygraft.catalog.partition_table import write_parts
from skygraft.catalog.preparation import Preparation, prepared
from skygraft.catalog.schema import values
from skygraft.catalog.stamp_paths import StampAddress
from skygraft.errors import CatalogError, CorruptFileError, OutputExistsError
from skygraft.place_names import shown_place

__all__ = ["OUTSIDE", "SPOOL", "Locator", "PartitionSummary", "Preparation", "partition_catalog"]

type Mapper = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]

LAYOUT_VERSION = 4

_BATCH_ROWS = 8192
"""Rows of a spooled chunk that are read together."""
_THREADS = 4
"""Partitions are written by so many threads, unless by the processes of a mapper."""


class Locator(Protocol):
    """The part of a sky map that partitioning needs (see `skygraft.skymap`)."""

    def locate(self, ra: NDArray[np.float64], dec: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Tract and patch of positions in degrees; -1 outside of all tracts."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """The definition of the sky map, as JSON types."""
        ...


@dataclass(frozen=True)
class PartitionSummary:
    """Summary of what `partition_catalog` did.

    Parameters
    ----------
    path : Path
        The data set.
    n_sources : int
        Sources, of which a preparation may make several rows.
    n_rows, n_partitions, n_outside : int
        Total rows, patches with rows, and rows in no tract.
    digest : str
        SHA-256 of input, sky map and settings.
    reused : bool
        True if the data set existed already, from the same input, so that nothing was written.
    """

    path: Path
    n_sources: int
    n_rows: int
    n_partitions: int
    n_outside: int
    digest: str
    reused: bool


def partition_catalog(
    catalog: Any,
    skymap: Locator,
    out_dir: str | os.PathLike[str],
    *,
    dialect: str = "auto",
    band: str | None = None,
    on_bad: OnBad = "raise",
    overwrite: bool = False,
    chunk_rows: int = 500_000,
    mapper: Mapper = map,
    columns: Mapping[str, str] | None = None,
    prepare: Preparation | None = None,
) -> PartitionSummary:
    """Partition a catalogue by the tract and patch of its sources' catalogue positions.

    The result depends on the rows only, not on their order in the input, on `chunk_rows` or on `mapper`. This takes
    memory for a chunk, the largest partition and 8 bytes for every row, and disk space in `out_dir` for a copy of the
    catalogue while it runs.

    Parameters
    ----------
    catalog : QTable, table-like or path-like
        Canonical table, or another table (see `skygraft.catalog.as_table`) or file in any dialect. Parquet files are
        streamed.
    skymap : SkyMap
        Anything with ``locate(ra, dec)`` and ``to_dict()``.
    out_dir : path-like
        Folder of the data set.
    dialect, band, on_bad
        As in `skygraft.catalog.read_catalog`, for catalogues that are not canonical.
    overwrite : bool
        Replace a data set of another input.
    chunk_rows : int
        Rows in memory at a time.
    mapper : callable
        ``mapper(function, items)`` returns the results in order, as `map` does; its arguments are picklable. It writes
        the partitions, which is most of the work if they are small.
    columns : mapping of str to str, optional
        The table's own names of columns, by those of the native schema (`skygraft.catalog.column_maps`).
    prepare : Preparation, optional
        What happens to the rows before, and which tables are stored beside the partitions.

    Returns
    -------
    PartitionSummary

    Raises
    ------
    CatalogError
        If a row cannot be used, or an id occurs twice anywhere.
    OutputExistsError
        If the folder contains a data set of another input and `overwrite` is false.
    """
    out = Path(out_dir)
    reading: dict[str, Any] = {"dialect": dialect, "band": band, "on_bad": on_bad}
    reading |= {"columns": dict(sorted(columns.items()))} if columns else {}
    if not isinstance(catalog, (QTable, str, os.PathLike)) or (isinstance(catalog, QTable) and columns):
        catalog = normalize_catalog(catalog, **reading)
    settings = {
        **reading,
        "skymap": skymap.to_dict(),
        "layout": LAYOUT_VERSION,
        **({} if prepare is None else {"prepare": prepare.digest}),
    }
    digest = _digest(catalog, settings)
    try:
        marker = read_marker(out)
    except CorruptFileError:
        if not overwrite:
            raise
        marker = None  # its input is unknown
    same = marker is not None and marker["digest"] == digest and not damaged_partitions(out, read=True, mapper=mapper)
    if marker is not None and same and not stamps_changed(out):
        return _summary(out, marker, reused=True)
    if marker is not None and marker["digest"] != digest and not overwrite:
        raise OutputExistsError(
            "the folder holds the partitions of another catalogue (or sky map, or settings)",
            path=out,
            fix="Choose another folder, or pass overwrite=True",
        )
    spool = out / f"{SPOOL}{uuid.uuid4().hex}"
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    with writing(out / MARKER):
        (out / MARKER).unlink(missing_ok=True)  # from here on the data set is unfinished
    with writing(spool):
        spool.mkdir()
    try:
        runs, origin, n_sources = _spool(catalog, skymap, spool, reading, chunk_rows, prepare)
        parts = _write_parts(runs, out, mapper, chunk_rows, prepare)
        keys = list(zip(parts["tract"], parts["patch"], strict=True))
        remove_stale(out, keys, parts.get("beside"))
    finally:
        shutil.rmtree(spool, ignore_errors=True)
    marker = {
        "digest": digest,
        "origin": origin,
        "settings": settings,
        "n_rows": sum(parts["rows"]),
        "n_outside": parts["rows"][keys.index(OUTSIDE)] if OUTSIDE in keys else 0,
        "n_partitions": sum(tract >= 0 for tract in parts["tract"]),
        "partitions": write_parts(out, parts),
        **({} if prepare is None else {"n_sources": n_sources}),
    }
    write_json(out / MARKER, marker | {"checksum": marker_checksum(marker)})
    return _summary(out, marker, reused=False)


@dataclass(frozen=True)
class _Run:
    """A spooled chunk on disk, sorted by tract, patch and id.

    The rows of the partition ``keys[i]`` (shape (K, 2), sorted) are those from ``starts[i]`` to ``starts[i + 1]``.
    """

    path: Path
    keys: NDArray[np.int64]
    starts: NDArray[np.int64]


def _chunks(
    catalog: QTable | str | os.PathLike[str],
    reading: Mapping[str, Any],
    chunk_rows: int,
) -> Iterator[QTable]:
    if isinstance(catalog, QTable):
        table = validate(catalog, on_bad=reading["on_bad"])
        for start in range(0, len(table), chunk_rows):
            yield table[start : start + chunk_rows]
        return
    yield from iter_catalog(catalog, chunk_rows=chunk_rows, **reading)


def _spool(
    catalog: QTable | str | os.PathLike[str],
    skymap: Locator,
    spool: Path,
    reading: Mapping[str, Any],
    chunk_rows: int,
    prepare: Preparation | None,
) -> tuple[list[_Run], str, int]:
    """Write the chunks to disk, each sorted, and check that ids are unique over all of them."""
    origin = shown_place(catalog) if isinstance(catalog, (str, os.PathLike)) else ""
    runs: list[_Run] = []
    every = StoredIntegers(spool / "ids")
    schema: pa.Schema | None = None
    known: dict[StampAddress, int] = {}
    for chunk in prepared(ahead(_chunks(catalog, reading, chunk_rows)), prepare, every):
        arrow = to_arrow(with_identities(chunk, known))
        schema = arrow.schema if schema is None else schema
        if not arrow.schema.equals(schema):
            arrow = _conform(arrow, schema, origin)
        tract, patch = skymap.locate(values(chunk, "ra"), values(chunk, "dec"))
        tract, patch = np.asarray(tract, dtype=np.int64), np.asarray(patch, dtype=np.int64)
        patch = np.where(tract < 0, OUTSIDE[1], patch)
        tract = np.where(tract < 0, OUTSIDE[0], tract)
        ids = values(chunk, "injection_id")
        order = integer_order(tract, patch, ids)
        tract, patch = tract[order], patch[order]
        starts = np.flatnonzero(np.r_[True, (np.diff(tract) != 0) | (np.diff(patch) != 0)])
        keys = np.column_stack([tract[starts], patch[starts]])
        path = spool / f"{len(runs):06d}.arrow"
        with writing(path), pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            writer.write_table(arrow.take(arrow_array(order)), _BATCH_ROWS)
        runs.append(_Run(path, keys, np.r_[starts, tract.size]))
    if schema is None:
        raise CatalogError("the catalogue has no rows", path=origin or None, fix="Give at least one source")
    ids = every.read()
    ids.sort()
    if np.any(ids[1:] == ids[:-1]):
        check_duplicates(every.read(), origin=origin)
    return runs, origin, len(ids)


def _conform(arrow: pa.Table, schema: pa.Schema, origin: str) -> pa.Table:
    """Cast a chunk whose optional columns have other types to the first chunk's schema."""
    if set(arrow.schema.names) != set(schema.names):
        odd = sorted(set(arrow.schema.names) ^ set(schema.names))
        raise CatalogError(
            f"the columns {', '.join(odd)} are not the same in every part of the file",
            path=origin or None,
            fix="Write the catalogue with one schema",
        )
    try:
        return arrow.select(schema.names).cast(schema)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise CatalogError(f"a column changes its type within the file: {error}", path=origin or None) from error


@dataclass(frozen=True)
class _Merge:
    """Partitions that are written together, and the rows of every run that go into them."""

    out: Path
    keys: NDArray[np.int64]
    counts: NDArray[np.int64]
    slices: tuple[_Slice, ...]
    prepare: Preparation | None


@dataclass(frozen=True)
class _Slice:
    """Rows of a run: the first, the partitions that they go into, and how many go into each."""

    path: Path
    start: int
    places: NDArray[np.int64]
    sizes: NDArray[np.int64]

    def read(self) -> pa.Table:
        stop = self.start + int(self.sizes.sum())
        first, last = self.start // _BATCH_ROWS, -(-stop // _BATCH_ROWS)
        # Read rather than mapped: mapped files count as memory that the process takes.
        with pa.OSFile(str(self.path)) as file, pa.ipc.open_file(file) as run:
            table = pa.Table.from_batches([run.get_batch(i) for i in range(first, last)])
        return table.slice(self.start - first * _BATCH_ROWS, stop - self.start)


def _write_parts(
    runs: Sequence[_Run], out: Path, mapper: Mapper, merge_rows: int, prepare: Preparation | None
) -> dict[str, list[Any]]:
    """Merge the runs' slices of each partition into its file; returns the columns of the marker's table."""
    jobs = _merges(runs, out, merge_rows, prepare)
    parts: dict[str, list[Any]] = {}
    with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as threads:
        for columns in (threads.map if mapper is map else mapper)(_write_merged, jobs):
            for name, column in columns.items():
                parts.setdefault(name, []).extend(column)
    return parts


def _merges(runs: Sequence[_Run], out: Path, merge_rows: int, prepare: Preparation | None) -> Iterator[_Merge]:
    found = np.concatenate([run.keys for run in runs])
    sizes = np.concatenate([np.diff(run.starts) for run in runs])
    keys, inverse = np.unique(found, axis=0, return_inverse=True)
    counts = np.bincount(inverse.reshape(-1), weights=sizes).astype(np.int64)
    places = np.split(inverse.reshape(-1), np.cumsum([len(run.keys) for run in runs])[:-1])
    batch = (np.cumsum(counts) - 1) // merge_rows
    for group in np.split(np.arange(len(keys)), np.flatnonzero(np.diff(batch)) + 1):
        slices = []
        for run, place in zip(runs, places, strict=True):
            first, last = np.searchsorted(place, [group[0], group[-1] + 1])
            if last > first:
                sizes = np.diff(run.starts[first : last + 1])
                slices.append(_Slice(run.path, int(run.starts[first]), place[first:last] - group[0], sizes))
        yield _Merge(out, keys[group], counts[group], tuple(slices), prepare)


def _write_merged(job: _Merge) -> dict[str, list[Any]]:
    table = pa.concat_tables([piece.read() for piece in job.slices])
    place = np.concatenate([np.repeat(piece.places, piece.sizes) for piece in job.slices])
    ids = np.concatenate([numpy_array(chunk) for chunk in table.column("injection_id").chunks])
    table = table.combine_chunks().take(arrow_array(integer_order(place, ids)))
    starts = np.cumsum(job.counts) - job.counts
    sizes, checksums, folders, beside = [], [], set(), []
    for (tract, patch), start, rows in zip(job.keys.tolist(), starts.tolist(), job.counts.tolist(), strict=True):
        # Strings rather than Paths: there are tens of thousands of partitions.
        above = f"{job.out}/tract={tract}"
        if above not in folders:
            folders.add(above)
            make_folder(above)
        folder = f"{above}/patch={patch}"
        make_folder(folder)
        n_bytes, sha256 = write_part(table.slice(start, rows), f"{folder}/part-0.parquet")
        sizes.append(n_bytes)
        checksums.append(sha256)
        if job.prepare is not None:
            beside.append(write_beside(job.prepare.beside(table.slice(start, rows)), folder))
    return {
        "tract": job.keys[:, 0].tolist(),
        "patch": job.keys[:, 1].tolist(),
        "rows": job.counts.tolist(),
        "bytes": sizes,
        "sha256": checksums,
        **({} if job.prepare is None else {"beside": beside}),
        **extents(table, starts, job.counts),
    }


def _digest(catalog: QTable | str | os.PathLike[str], settings: dict[str, Any]) -> str:
    """SHA-256 of the settings and the file's bytes, or the table's columns."""
    sha = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    if isinstance(catalog, QTable):
        arrow = to_arrow(catalog)
        for field, column in zip(arrow.schema, arrow.columns, strict=True):
            sha.update(f"{field.name}:{field.type}:{field.metadata}".encode())
            sink = pa.BufferOutputStream()
            batch = pa.Table.from_arrays([column], names=[field.name]).combine_chunks()
            with pa.ipc.new_stream(sink, batch.schema) as writer:
                writer.write_table(batch)
            sha.update(sink.getvalue())
        return sha.hexdigest()
    path = Path(catalog)
    if path.is_dir():
        sha.update(folder_identity(path).encode())
        return sha.hexdigest()
    file_format(path)
    if not path.is_file():
        raise CatalogError("there is no such file", path=path, fix="Check the path")
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            sha.update(block)
    return sha.hexdigest()


def _summary(out: Path, marker: dict[str, Any], *, reused: bool) -> PartitionSummary:
    n_inside = marker.get("n_partitions")
    if n_inside is None:  # of an earlier version
        n_inside = sum(tract >= 0 for tract in marker["partitions"]["tract"])
    n_sources = marker.get("n_sources", marker["n_rows"])
    return PartitionSummary(out, n_sources, marker["n_rows"], n_inside, marker["n_outside"], marker["digest"], reused)
