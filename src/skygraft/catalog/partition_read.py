"""Read a catalogue that `skygraft.catalog.partition` cut by patches: its summary, its partitions, and their cache."""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import os
import stat
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from skygraft.catalog.arrow_arrays import numpy_array
from skygraft.catalog.partition_table import TABLE, read_parts
from skygraft.disk import FileIdentity
from skygraft.errors import CatalogError, CorruptFileError
from skygraft.json_text import parse_json
from skygraft.lazy import lazy_module

if TYPE_CHECKING:
    from astropy.table import QTable

pc = lazy_module("pyarrow.compute")

__all__ = [
    "MARKER",
    "OUTSIDE",
    "Key",
    "PartitionBounds",
    "PartitionCache",
    "damaged_partitions",
    "list_partitions",
    "marker_checksum",
    "part_path",
    "partition_bounds",
    "partition_values",
    "read_beside",
    "read_marker",
    "read_partition",
    "read_partitions",
    "read_stored",
]

MARKER = "_partition.json"
_MARKED = {"checksum", "digest", "n_outside", "n_rows", "partitions", "settings"}
"""Keys that every marker has."""
_PARTS_AT_ONCE = 64
OUTSIDE = (-1, -1)
"""Tract and patch of sources outside all tracts."""

type Key = tuple[int, int]


def part_path(out: Path, key: Key) -> Path:
    """Return the path of a partition's file."""
    return out / f"tract={key[0]}" / f"patch={key[1]}" / "part-0.parquet"


def read_marker(out: Path) -> dict[str, Any] | None:
    """Read the marker of a data set, which describes it; None if the data set is not finished.

    Raises
    ------
    CorruptFileError
        If the marker cannot be read, or its checksum is wrong.
    """
    path = out / MARKER
    try:
        marker: dict[str, Any] = parse_json(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:  # ValueError includes invalid UTF-8
        raise CorruptFileError(f"not readable: {error}", path=path, fix="Remove it and partition again") from error
    if not isinstance(marker, dict) or not marker.keys() >= _MARKED:
        raise CorruptFileError(
            f"it lacks {', '.join(sorted(_MARKED - set(marker)))}" if isinstance(marker, dict) else "no JSON object",
            path=path,
            fix="Remove it and partition again",
        )
    if marker_checksum(marker) != marker["checksum"]:
        raise CorruptFileError(
            "it is not what was written: its checksum differs", path=path, fix="Remove it and partition again"
        )
    return marker


def marker_checksum(marker: Mapping[str, Any]) -> str:
    """SHA-256 of the content of a marker without its ``checksum``."""
    content = {key: value for key, value in marker.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def damaged_partitions(
    out_dir: str | os.PathLike[str],
    *,
    read: bool = False,
    mapper: Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]] = map,
) -> dict[Path, str]:
    """Find the files of a finished data set that are not what was written.

    Parameters
    ----------
    out_dir : path-like
        Folder that `partition_catalog` wrote.
    read : bool
        Read every partition. Without it, only partitions of the right size that were changed after the marker was
        written are read.
    mapper : callable
        As for `partition_catalog`.

    Returns
    -------
    dict of Path to str
        What is wrong with each damaged file.

    Raises
    ------
    CatalogError
        If the folder contains no finished data set.
    """
    out = Path(out_dir)
    try:
        bounds = partition_bounds(out)
    except CorruptFileError as error:
        return {Path(error.path or out / MARKER): error.message}
    written = None if read else (out / MARKER).stat().st_mtime_ns
    files = itertools.batched(_files(bounds), _PARTS_AT_ONCE)
    found = itertools.chain.from_iterable(mapper(functools.partial(_problems, out, written), files))
    return {out / name: problem for (name, _, _), problem in zip(_files(bounds), found, strict=True) if problem}


def _files(bounds: PartitionBounds) -> Iterator[tuple[str, int, str]]:
    """All files of a data set: names in its folder, sizes and checksums."""
    # Strings rather than Paths: there are tens of thousands of files.
    for (tract, patch), n_bytes, sha256 in zip(bounds.keys, bounds.sizes, bounds.sha256, strict=True):
        yield f"tract={tract}/patch={patch}/part-0.parquet", n_bytes, sha256
    for (tract, patch), tables in zip(bounds.keys, bounds.beside, strict=False):
        for name, (n_bytes, sha256) in tables.items():
            yield f"tract={tract}/patch={patch}/{name}", n_bytes, sha256


def _problems(out: Path, written: int | None, files: Iterable[tuple[str, int, str]]) -> list[str]:
    return [_problem(f"{out}/{name}", n_bytes, sha256, written) for name, n_bytes, sha256 in files]


def _problem(path: str, n_bytes: int, sha256: str, written: int | None) -> str:
    """The damage of a partition, in words; empty if there is none. It is read only if changed after `written`, ns."""
    try:
        status = os.stat(path)  # noqa: PTH116
        if not stat.S_ISREG(status.st_mode):
            return "it is not a file"
        if status.st_size != n_bytes:
            return f"it has {status.st_size:,} bytes, and was written with {n_bytes:,}"
        if written is not None and status.st_mtime_ns <= written:
            return ""
        same = hashlib.sha256(Path(path).read_bytes()).hexdigest() == sha256
    except FileNotFoundError:
        return "it is gone"
    except OSError as error:
        return f"it cannot be read ({error.strerror or error})"
    return "" if same else "its content is not what was written: the SHA-256 differs"


@dataclass(frozen=True, eq=False)
class PartitionBounds:
    """Positions, speeds and sizes of all partitions of a catalogue.

    Parameters
    ----------
    keys : tuple of (int, int)
        Tract and patch of each partition, sorted.
    rows, moving : ndarray of int, shape (N,)
        Number of sources, and of those that move without a window of time that says how far.
    centers : ndarray, shape (N, 3)
        Unit vector to the middle of the sources' catalogue positions.
    radii : ndarray, shape (N,)
        Radius of the circle around the middle that has all of them, radians.
    speeds : ndarray, shape (N,)
        Fastest motion of these, radians per day.
    epochs : ndarray, shape (N, 2)
        First and last epoch of these (MJD TAI); NaN if there is none, or one has no epoch.
    strays : ndarray, shape (N,)
        How far from their catalogue positions the others come in their windows of time, and all by parallax and bends,
        radians.
    sizes : tuple of int
        Size of the file, bytes.
    sha256 : tuple of str
        SHA-256 of the file.
    beside : tuple of dict
        Name, size and SHA-256 of the tables beside each partition; empty if there are none at all.
    """

    keys: tuple[Key, ...]
    rows: NDArray[np.int64]
    moving: NDArray[np.int64]
    centers: NDArray[np.float64]
    radii: NDArray[np.float64]
    speeds: NDArray[np.float64]
    epochs: NDArray[np.float64]
    strays: NDArray[np.float64]
    sizes: tuple[int, ...]
    sha256: tuple[str, ...]
    beside: tuple[Mapping[str, tuple[int, str]], ...] = ()

    @functools.cached_property
    def index(self) -> Mapping[Key, int]:
        """Index of every partition in the arrays."""
        return {key: i for i, key in enumerate(self.keys)}


def partition_bounds(out_dir: str | os.PathLike[str]) -> PartitionBounds:
    """Read the bounds of all partitions; once in each process for each version of the data set.

    Raises
    ------
    CatalogError
        If the folder contains no finished data set.
    """
    return _current(Path(out_dir))[0]


def _current(out: Path) -> tuple[PartitionBounds, str]:
    """The bounds and the digest of the data set, as of now."""
    return _bounds(out, FileIdentity.find(out / MARKER), FileIdentity.find(out / TABLE))


@functools.lru_cache(maxsize=4)
def _bounds(out: Path, *files: FileIdentity | None) -> tuple[PartitionBounds, str]:
    del files
    marker = read_marker(out)
    if marker is None:
        raise CatalogError(
            "the folder holds no finished partitioned catalogue", path=out, fix="Run partition_catalog on it first"
        )
    try:
        parts = read_parts(out, marker["partitions"])
        whole = {name: np.array(parts[name], dtype=np.int64) for name in ("tract", "patch", "rows", "moving", "bytes")}
        keys = tuple(zip(whole["tract"].tolist(), whole["patch"].tolist(), strict=True))
        numbers = {name: np.array(parts[name], dtype=np.float64) for name in ("center", "radius", "speed", "epochs")}
        bounds = PartitionBounds(
            keys,
            whole["rows"],
            whole["moving"],
            numbers["center"].reshape(-1, 3),
            numbers["radius"],
            numbers["speed"],
            numbers["epochs"].reshape(-1, 2),
            np.array(parts.get("stray", [0.0] * len(keys)), dtype=np.float64),
            tuple(whole["bytes"].tolist()),
            tuple(parts["sha256"]),
            tuple(
                {str(name): (int(size), str(sha256)) for name, (size, sha256) in tables.items()}
                for tables in parts.get("beside", ())
            ),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CatalogError(
            "the partitioned catalogue was written by another version of skygraft",
            path=out / MARKER,
            fix="Remove the folder and partition again",
        ) from error
    return bounds, str(marker["digest"])


def list_partitions(out_dir: str | os.PathLike[str]) -> dict[Key, int]:
    """Number of sources of every (tract, patch) that has any, sorted; (-1, -1) are those in no tract.

    Raises
    ------
    CatalogError
        If the folder contains no finished data set.
    """
    bounds = partition_bounds(out_dir)
    return dict(zip(bounds.keys, bounds.rows.tolist(), strict=True))


def read_partitions(
    out_dir: str | os.PathLike[str],
    keys: Iterable[Key],
    *,
    columns: Sequence[str] | None = None,
) -> QTable:
    """Read the sources of some patches, sorted by injection id.

    Parameters
    ----------
    out_dir : path-like
        Folder that `partition_catalog` wrote.
    keys : iterable of (int, int)
        Tracts and patches; those without sources are skipped, those named twice are read once.
    columns : sequence of str, optional
        Columns to read, by default all; ``injection_id`` is always included.

    Returns
    -------
    QTable
        Without rows, but with all columns, if none of the patches has sources.

    Raises
    ------
    CatalogError
        If the folder contains no finished data set, or a column does not exist.
    CorruptFileError
        If a partition is missing or unreadable.
    """
    from skygraft.catalog.arrow import from_arrow

    return from_arrow(read_stored(out_dir, keys, columns=columns))


def read_stored(
    out_dir: str | os.PathLike[str],
    keys: Iterable[Key],
    *,
    columns: Sequence[str] | None = None,
) -> pa.Table:
    """Read the sources of some patches as they are stored; parameters and errors as of `read_partitions`."""
    out = Path(out_dir)
    present = partition_bounds(out).index
    wanted = _wanted(keys, present)
    return _joined([read_partition(out, key, columns) for key in wanted or list(present)[:1]], empty=not wanted)


def _wanted(keys: Iterable[Key], present: Mapping[Key, int]) -> list[Key]:
    return [key for key in sorted({(int(t), int(p)) for t, p in keys}) if key in present]


def _joined(tables: Sequence[pa.Table], *, empty: bool) -> pa.Table:
    table = pa.concat_tables(tables)
    if empty:
        return table.slice(0, 0)
    if len(tables) > 1:
        return table.take(pc.sort_indices(table, sort_keys=[("injection_id", "ascending")]))
    return table


def read_partition(out: Path, key: Key, columns: Sequence[str] | None = None) -> pa.Table:
    """Read one partition as it is stored, sorted by injection id; parameters and errors as in `read_partitions`.

    A partition that does not exist is an error here.
    """
    bounds = partition_bounds(out)
    names = None if columns is None else list(dict.fromkeys(["injection_id", *columns]))
    place = bounds.index.get(key)
    return _read_file(part_path(out, key), None if place is None else bounds.sha256[place], names)


def read_beside(out_dir: str | os.PathLike[str], keys: Iterable[Key], name: str) -> pa.Table | None:
    """Read a table that is stored beside partitions, of some patches, one after the other.

    Parameters
    ----------
    out_dir : path-like
        Folder that `partition_catalog` wrote.
    keys : iterable of (int, int)
        Tracts and patches; those without the table are skipped, those named twice are read once.
    name : str
        Name of the file.

    Returns
    -------
    pyarrow.Table or None
        None if no patch has it. What is beside two patches is in it twice.

    Raises
    ------
    CatalogError
        If the folder contains no finished data set.
    CorruptFileError
        If a file is missing or unreadable.
    """
    out = Path(out_dir)
    bounds = partition_bounds(out)
    found = [_beside(out, bounds, key, name) for key in _wanted(keys, bounds.index)]
    tables = [table for table in found if table is not None]
    return pa.concat_tables(tables) if tables else None


def _beside(out: Path, bounds: PartitionBounds, key: Key, name: str) -> pa.Table | None:
    stored = bounds.beside[bounds.index[key]].get(name) if bounds.beside else None
    return None if stored is None else _read_file(part_path(out, key).with_name(name), stored[1], None)


def _read_file(path: Path, sha256: str | None, names: Sequence[str] | None) -> pa.Table:
    try:
        # Read completely and without threads, since these files are small. (pq.read_table would add columns for the
        # folders' names.)
        content = path.read_bytes()
        if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
            raise CorruptFileError(
                "the partition is not what was written: its checksum differs",
                path=path,
                fix="Partition the catalogue again (of a campaign: skygraft plan)",
            )
        with pq.ParquetFile(pa.BufferReader(content)) as file:
            have = file.schema_arrow.names
            missing = [name for name in names or () if name not in have]
            if missing:
                raise CatalogError(
                    f"the catalogue has no column {missing[0]!r}; it has {', '.join(have)}", path=path, key=missing[0]
                )
            return file.read(columns=names, use_threads=False)
    except FileNotFoundError:
        raise CorruptFileError(
            "a partition is missing", path=path, fix="Partition the catalogue again (of a campaign: skygraft plan)"
        ) from None
    except (OSError, pa.ArrowException) as error:
        raise CorruptFileError(f"not a readable partition: {error}", path=path) from error


def partition_values(table: pa.Table, name: str) -> NDArray[Any]:
    """A column of a stored partition as an array, as `skygraft.catalog.values` gives it of a `QTable`."""
    from skygraft.catalog.arrow import from_arrow
    from skygraft.catalog.schema import COLUMNS, values

    column, spec = table.column(name), COLUMNS.get(name)
    unit = (table.schema.field(name).metadata or {}).get(b"unit", b"").decode()
    plain = pa.types.is_float64(column.type) if spec and spec.kind == "float" else pa.types.is_int64(column.type)
    if spec is None or spec.kind not in ("float", "int") or not plain or column.null_count or unit != (spec.unit or ""):
        return values(from_arrow(table.select([name])), name)
    return np.concatenate([numpy_array(chunk) for chunk in column.chunks]) if column.num_chunks else np.empty(0)


class PartitionCache:
    """Keeps the partitions that were read last in memory, for a process that makes many images of one patch.

    It is thread-safe, and is cleared when the catalogue is partitioned again.

    Parameters
    ----------
    path : path-like
        Folder that `partition_catalog` wrote.
    max_bytes : int
        Memory that it may take.
    """

    def __init__(self, path: str | os.PathLike[str], *, max_bytes: int = 128 << 20) -> None:
        self._path = Path(path)
        self._max_bytes = max_bytes
        self._digest = ""
        self._tables: OrderedDict[tuple[Key, str], pa.Table | None] = OrderedDict()
        self._n_bytes = 0
        self._lock = threading.Lock()

    @property
    def n_bytes(self) -> int:
        """Bytes of the tables in memory."""
        return self._n_bytes

    def read(self, keys: Iterable[Key]) -> pa.Table:
        """Read the sources of some patches: as `read_stored`, with its errors."""
        bounds, digest = _current(self._path)
        wanted = _wanted(keys, bounds.index)
        tables = self._all(bounds, digest, wanted or bounds.keys[:1], "")
        return _joined(tables, empty=not wanted)

    def beside(self, keys: Iterable[Key], name: str) -> pa.Table | None:
        """Read a table beside partitions: as `read_beside`, with its errors."""
        bounds, digest = _current(self._path)
        tables = self._all(bounds, digest, _wanted(keys, bounds.index), name)
        return pa.concat_tables(tables) if tables else None

    def _all(self, bounds: PartitionBounds, digest: str, keys: Iterable[Key], name: str) -> list[pa.Table]:
        """The partitions, or the tables `name` beside those that have one."""
        with self._lock:
            if digest != self._digest:
                self._tables.clear()
                self._digest, self._n_bytes = digest, 0
            return [table for key in keys if (table := self._table(bounds, key, name)) is not None]

    def _table(self, bounds: PartitionBounds, key: Key, name: str) -> pa.Table | None:
        if (key, name) in self._tables:
            table = self._tables.pop((key, name))
        else:
            table = _beside(self._path, bounds, key, name) if name else read_partition(self._path, key)
            self._n_bytes += 0 if table is None else table.nbytes
        self._tables[key, name] = table
        while self._n_bytes > self._max_bytes and self._tables:
            _, oldest = self._tables.popitem(last=False)
            self._n_bytes -= 0 if oldest is None else oldest.nbytes
        return table
