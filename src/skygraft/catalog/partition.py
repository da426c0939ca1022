"""The catalogue cut by tract and patch: a Hive-partitioned Parquet data set that every task reads its part of.

Layout: ``<out>/tract=<t>/patch=<p>/part-0.parquet``, one file a patch, sorted by injection id, every file with the
same schema; and ``<out>/_partition.json``, written last, which says what the data set was made from and how many rows
each patch has. Without that file the data set is not finished and cannot be read.

Sources that lie in no tract of an explicit sky map are kept in ``tract=-1/patch=-1``: no image of the map reads them,
but nothing is lost, and their number is reported.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from astropy.table import QTable
from numpy.typing import NDArray

from skygraft.catalog.io import arrow_array, file_format, from_arrow, iter_catalog, to_arrow
from skygraft.catalog.schema import OnBad, check_duplicates, validate, values
from skygraft.catalog.select import is_moving
from skygraft.errors import CatalogError, CorruptFileError, OutputError, OutputExistsError

__all__ = [
    "OUTSIDE",
    "Locator",
    "PartitionSummary",
    "list_partitions",
    "moving_partitions",
    "partition_catalog",
    "read_partitions",
]

MARKER = "_partition.json"
LAYOUT_VERSION = 1
OUTSIDE = (-1, -1)
"""Tract and patch of the sources that lie in no tract."""

Key = tuple[int, int]


class Locator(Protocol):
    """What is needed of a sky map (see `skygraft.skymap`)."""

    def locate(self, ra: NDArray[np.float64], dec: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Tract and patch of positions in degrees; -1 where there is no tract."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """What the sky map is, as JSON."""
        ...


@dataclass(frozen=True)
class PartitionSummary:
    """What `partition_catalog` did.

    Parameters
    ----------
    path : Path
        The data set.
    n_rows, n_partitions, n_outside : int
        Rows in all, patches with rows, and rows in no tract.
    digest : str
        SHA-256 of the input, the sky map and the settings.
    reused : bool
        The data set was there already, made from the same input; nothing was written.
    """

    path: Path
    n_rows: int
    n_partitions: int
    n_outside: int
    digest: str
    reused: bool


def partition_catalog(
    catalog: QTable | str | os.PathLike[str],
    skymap: Locator,
    out_dir: str | os.PathLike[str],
    *,
    dialect: str = "auto",
    band: str | None = None,
    on_bad: OnBad = "raise",
    overwrite: bool = False,
    chunk_rows: int = 500_000,
) -> PartitionSummary:
    """Cut a catalogue by the tract and patch of its sources' catalogue positions.

    The result depends on the rows only, not on their order in the input or on `chunk_rows`. Memory holds a chunk, the
    largest partition and 8 bytes for every row; a copy of the catalogue lies in `out_dir` while this runs.

    Parameters
    ----------
    catalog : QTable or path-like
        Canonical table, or a file in any dialect; Parquet files are streamed.
    skymap : SkyMap
        Anything with ``locate(ra, dec)`` and ``to_dict()``.
    out_dir : path-like
        Folder of the data set.
    dialect, band, on_bad
        As in `skygraft.catalog.read_catalog`, for a file.
    overwrite : bool
        Replace a data set that was made from another input.
    chunk_rows : int
        Rows that are held at a time.

    Returns
    -------
    PartitionSummary

    Raises
    ------
    CatalogError
        If a row cannot be used, or an id occurs twice anywhere.
    OutputExistsError
        If there is a data set of another input and `overwrite` is False.
    """
    out = Path(out_dir)
    settings = {
        "dialect": dialect,
        "band": band,
        "on_bad": on_bad,
        "skymap": skymap.to_dict(),
        "layout": LAYOUT_VERSION,
    }
    digest = _digest(catalog, settings)
    marker = _read_marker(out)
    if marker is not None and marker["digest"] == digest and _is_complete(out, marker):
        return _summary(out, marker, reused=True)
    if marker is not None and marker["digest"] != digest and not overwrite:
        raise OutputExistsError(
            "the folder holds the partitions of another catalogue (or sky map, or settings)",
            path=out,
            fix="Choose another folder, or pass overwrite=True",
        )
    spool = out / f".spool-{uuid.uuid4().hex}"
    with _writing(out):
        out.mkdir(parents=True, exist_ok=True)
        (out / MARKER).unlink(missing_ok=True)  # from here on the data set is unfinished
        spool.mkdir()
    try:
        runs, origin = _spool(catalog, skymap, spool, dialect, band, on_bad, chunk_rows)
        parts = _write_parts(runs, out)
        _remove_stale(out, set(parts))
    finally:
        shutil.rmtree(spool, ignore_errors=True)
    n_rows = sum(p["rows"] for p in parts.values())
    marker = {
        "digest": digest,
        "origin": origin,
        "settings": settings,
        "n_rows": n_rows,
        "n_outside": parts.get(OUTSIDE, {"rows": 0})["rows"],
        "partitions": [{"tract": t, "patch": p, **parts[t, p]} for t, p in sorted(parts)],
    }
    _write_json(out / MARKER, marker)
    return _summary(out, marker, reused=False)


@dataclass
class _Run:
    """A chunk on disk, sorted by tract, patch and id, with the rows of each partition."""

    path: Path
    slices: dict[Key, tuple[int, int]]
    moving: dict[Key, int]
    ids: NDArray[np.int64]


def _chunks(
    catalog: QTable | str | os.PathLike[str], dialect: str, band: str | None, on_bad: OnBad, chunk_rows: int
) -> Iterator[QTable]:
    if isinstance(catalog, QTable):
        table = validate(catalog, on_bad=on_bad)
        for start in range(0, len(table), chunk_rows):
            yield table[start : start + chunk_rows]
        return
    yield from iter_catalog(catalog, dialect=dialect, band=band, on_bad=on_bad, chunk_rows=chunk_rows)


def _spool(
    catalog: QTable | str | os.PathLike[str],
    skymap: Locator,
    spool: Path,
    dialect: str,
    band: str | None,
    on_bad: OnBad,
    chunk_rows: int,
) -> tuple[list[_Run], str]:
    """Write the chunks, each sorted, and check that the ids are unique over all of them."""
    origin = "" if isinstance(catalog, QTable) else os.fspath(catalog)
    runs: list[_Run] = []
    schema: pa.Schema | None = None
    for chunk in _chunks(catalog, dialect, band, on_bad, chunk_rows):
        arrow = to_arrow(chunk)
        schema = arrow.schema if schema is None else schema
        if not arrow.schema.equals(schema):
            arrow = _conform(arrow, schema, origin)
        tract, patch = skymap.locate(values(chunk, "ra"), values(chunk, "dec"))
        tract, patch = np.asarray(tract, dtype=np.int64), np.asarray(patch, dtype=np.int64)
        patch = np.where(tract < 0, OUTSIDE[1], patch)
        tract = np.where(tract < 0, OUTSIDE[0], tract)
        ids = values(chunk, "injection_id")
        order = np.lexsort((ids, patch, tract))
        tract, patch = tract[order], patch[order]
        starts = np.flatnonzero(np.r_[True, (np.diff(tract) != 0) | (np.diff(patch) != 0)])
        ends = np.r_[starts[1:], tract.size]
        slices = {(int(tract[s]), int(patch[s])): (int(s), int(e - s)) for s, e in zip(starts, ends, strict=True)}
        moves = is_moving(chunk)[order]
        moving = {key: int(moves[start : start + size].sum()) for key, (start, size) in slices.items()}
        path = spool / f"{len(runs):06d}.arrow"
        with _writing(path), pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            writer.write_table(arrow.take(arrow_array(order)).combine_chunks())
        runs.append(_Run(path, slices, moving, ids))
    if schema is None:
        raise CatalogError("the catalogue has no rows", path=origin or None, fix="Give at least one source")
    check_duplicates(np.concatenate([run.ids for run in runs]), origin=origin)
    return runs, origin


def _conform(arrow: pa.Table, schema: pa.Schema, origin: str) -> pa.Table:
    """A chunk whose optional columns came out differently, in the first chunk's schema."""
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


def _write_parts(runs: Sequence[_Run], out: Path) -> dict[Key, dict[str, int]]:
    """Merge the runs' slices of each partition into its file."""
    keys = sorted({key for run in runs for key in run.slices})
    parts: dict[Key, dict[str, int]] = {}
    maps = [pa.memory_map(str(run.path)) for run in runs]
    try:
        tables = [pa.ipc.open_file(m).read_all() for m in maps]
        for key in keys:
            pieces = [t.slice(*run.slices[key]) for t, run in zip(tables, runs, strict=True) if key in run.slices]
            table = pa.concat_tables(pieces)
            if len(pieces) > 1:
                table = table.take(pc.sort_indices(table, sort_keys=[("injection_id", "ascending")]))
            path = _part_path(out, key)
            with _writing(path):
                path.parent.mkdir(parents=True, exist_ok=True)
            moving = sum(int(run.moving.get(key, 0)) for run in runs)
            parts[key] = {
                "rows": table.num_rows,
                "moving": moving,
                "bytes": _write_parquet(table.combine_chunks(), path),
            }
        del tables
    finally:
        for memory in maps:
            memory.close()
    return parts


def _write_parquet(table: pa.Table, path: Path) -> int:
    with _writing(path) as temporary:
        pq.write_table(table, temporary, compression="zstd", use_dictionary=["source_type"], write_statistics=True)
        size = temporary.stat().st_size
        temporary.replace(path)
    return size


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`, gone at the end; what cannot be written is told with the path."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise OutputError(
            f"the partitioned catalogue cannot be written ({reason})", path=path, fix="Check permissions and free space"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _part_path(out: Path, key: Key) -> Path:
    return out / f"tract={key[0]}" / f"patch={key[1]}" / "part-0.parquet"


def _remove_stale(out: Path, keys: set[Key]) -> None:
    """Remove the files of a former, different or unfinished run that this one did not replace."""
    wanted = {_part_path(out, key) for key in keys}
    for path in out.glob("tract=*/patch=*/part-0.parquet"):
        if path not in wanted:
            path.unlink()
            for folder in (path.parent, path.parent.parent):
                if not any(folder.iterdir()):
                    folder.rmdir()
    for spool in out.glob(".spool-*"):  # of a run that was killed; a day old, so not of one that is running
        if time.time() - spool.stat().st_mtime > 86400:
            shutil.rmtree(spool, ignore_errors=True)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    with _writing(path) as temporary:
        with temporary.open("w") as file:
            json.dump(content, file, indent=1, sort_keys=True)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)


def _digest(catalog: QTable | str | os.PathLike[str], settings: dict[str, Any]) -> str:
    """SHA-256 of the settings and of the file's bytes, or of the table's columns."""
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
    file_format(path)
    if not path.is_file():
        raise CatalogError("there is no such file", path=path, fix="Check the path")
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            sha.update(block)
    return sha.hexdigest()


def _read_marker(out: Path) -> dict[str, Any] | None:
    path = out / MARKER
    try:
        marker: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, json.JSONDecodeError) as error:
        raise CorruptFileError(f"not readable: {error}", path=path, fix="Remove it and partition again") from error
    return marker


def _is_complete(out: Path, marker: dict[str, Any]) -> bool:
    for part in marker["partitions"]:
        path = _part_path(out, (part["tract"], part["patch"]))
        if not path.is_file() or path.stat().st_size != part["bytes"]:
            return False
    return True


def _summary(out: Path, marker: dict[str, Any], *, reused: bool) -> PartitionSummary:
    inside = [p for p in marker["partitions"] if p["tract"] >= 0]
    return PartitionSummary(out, marker["n_rows"], len(inside), marker["n_outside"], marker["digest"], reused)


def _require_marker(out: Path) -> dict[str, Any]:
    marker = _read_marker(out)
    if marker is None:
        raise CatalogError(
            "the folder holds no finished partitioned catalogue", path=out, fix="Run partition_catalog on it first"
        )
    return marker


def list_partitions(out_dir: str | os.PathLike[str]) -> dict[Key, int]:
    """Rows of every (tract, patch) that has any, sorted; (-1, -1) are those in no tract.

    Raises
    ------
    CatalogError
        If the folder holds no finished data set.
    """
    marker = _require_marker(Path(out_dir))
    return {(p["tract"], p["patch"]): p["rows"] for p in marker["partitions"]}


def moving_partitions(out_dir: str | os.PathLike[str]) -> dict[Key, int]:
    """Sources with a proper motion or a rate, of every (tract, patch) that has any.

    A source is stored where it is at its epoch. An image taken at another time may see it in another patch, so
    whoever looks for movers has to look through these partitions too.
    """
    marker = _require_marker(Path(out_dir))
    return {(p["tract"], p["patch"]): p["moving"] for p in marker["partitions"] if p["moving"]}


def read_partitions(
    out_dir: str | os.PathLike[str],
    keys: Iterable[Key],
    *,
    columns: Sequence[str] | None = None,
) -> QTable:
    """The sources of some patches, sorted by injection id.

    Parameters
    ----------
    out_dir : path-like
        What `partition_catalog` wrote.
    keys : iterable of (int, int)
        Tracts and patches; one without sources, or named twice, adds nothing.
    columns : sequence of str, optional
        Only these columns; ``injection_id`` is always among them.

    Returns
    -------
    QTable
        With no rows, but all columns, where none of the patches has any.

    Raises
    ------
    CatalogError
        If the folder holds no finished data set, or has no such column.
    CorruptFileError
        If a partition is missing or unreadable.
    """
    out = Path(out_dir)
    present = list_partitions(out)
    wanted = [key for key in sorted({(int(t), int(p)) for t, p in keys}) if key in present]
    if not wanted:
        return from_arrow(_read_part(_part_path(out, next(iter(present))), columns).slice(0, 0))
    table = pa.concat_tables([_read_part(_part_path(out, key), columns) for key in wanted])
    if len(wanted) > 1:
        table = table.take(pc.sort_indices(table, sort_keys=[("injection_id", "ascending")]))
    return from_arrow(table)


def _read_part(path: Path, columns: Sequence[str] | None) -> pa.Table:
    """One file, with its own columns only (pq.read_table would add tract and patch from the folders' names)."""
    names = None if columns is None else list(dict.fromkeys(["injection_id", *columns]))
    try:
        with pq.ParquetFile(path) as file:
            have = file.schema_arrow.names
            missing = [name for name in names or () if name not in have]
            if missing:
                raise CatalogError(
                    f"the catalogue has no column {missing[0]!r}; it has {', '.join(have)}", path=path, key=missing[0]
                )
            return file.read(columns=names)
    except FileNotFoundError:
        raise CorruptFileError("a partition is missing", path=path, fix="Partition the catalogue again") from None
    except (pa.ArrowInvalid, pa.ArrowIOError) as error:
        raise CorruptFileError(f"not a readable partition: {error}", path=path) from error
