"""Write the files of a partitioned catalogue, and remove those of former ones."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from skygraft.catalog.partition_read import Key
from skygraft.disk import atomic_path, write_small
from skygraft.errors import OutputError

__all__ = ["SPOOL", "make_folder", "remove_stale", "write_beside", "write_json", "write_part", "writing"]

SPOOL = ".spool-"
"""Prefix of the folder of temporary files, in the data set's folder."""


@contextlib.contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Name the path in errors of what is written.

    Raises
    ------
    OutputError
        Of an `OSError` in the block.
    """
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise OutputError(
            f"the partitioned catalogue cannot be written ({reason})",
            path=path,
            fix="Remove the folder that is in its place"
            if isinstance(error, IsADirectoryError)
            else "Check permissions and free space",
        ) from error


def make_folder(folder: str) -> None:
    """Make a folder, unless it exists; a string rather than a Path, since there are tens of thousands of them."""
    with writing(folder):
        try:
            os.mkdir(folder)  # noqa: PTH102
        except FileExistsError:
            if not os.path.isdir(folder):  # noqa: PTH112
                raise


def write_part(table: pa.Table, path: str) -> tuple[int, str]:
    """Write a partition, and return its size and SHA-256.

    Parameters
    ----------
    table : pyarrow.Table
        Its rows.
    path : str
        The file, in a folder that exists.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    # In memory first, and without statistics: most partitions are small, and there are tens of thousands of them.
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="snappy", use_dictionary=["source_type"], write_statistics=False)
    return _write_whole(sink.getvalue(), path)


def write_beside(tables: Mapping[str, pa.Table], folder: str) -> dict[str, tuple[int, str]]:
    """Write the tables beside a partition, and return the size and SHA-256 of each, by name.

    Parameters
    ----------
    tables : mapping of str to pyarrow.Table
        By name of the file.
    folder : str
        Folder of the partition.

    Raises
    ------
    OutputError
        If one cannot be written.
    """
    written = {}
    for name, table in sorted(tables.items()):
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="snappy", write_statistics=False)
        written[name] = _write_whole(sink.getvalue(), f"{folder}/{name}")
    return written


def _write_whole(content: pa.Buffer, path: str) -> tuple[int, str]:
    # The marker is written last, and holds sizes and checksums of all files.
    with writing(path):
        write_small(path, content)
    return int(content.size), hashlib.sha256(content).hexdigest()


def remove_stale(out: Path, keys: Sequence[Key], beside: Sequence[Iterable[str]] | None) -> None:
    """Remove files of a former, different or unfinished run that this one did not replace.

    Parameters
    ----------
    out : Path
        Folder of the data set.
    keys : sequence of (int, int)
        Tracts and patches that exist now.
    beside : sequence of iterable of str, optional
        Names of the tables beside each of them.
    """
    tables = itertools.repeat(()) if beside is None else beside
    wanted = {
        (f"tract={tract}", f"patch={patch}"): {"part-0.parquet", *names}
        for (tract, patch), names in zip(keys, tables, strict=False)
    }
    for tract in out.glob("tract=*"):
        for folder in tract.glob("patch=*"):
            keep = wanted.get((tract.name, folder.name), set())
            for path in folder.glob("*.parquet"):
                if path.name not in keep:
                    path.unlink()
            if not keep and not any(folder.iterdir()):
                folder.rmdir()
        if not any(tract.iterdir()):
            tract.rmdir()
    for spool in out.glob(f"{SPOOL}*"):  # left by a killed run, if a day old: running ones are younger
        if time.time() - spool.stat().st_mtime > 86400:
            shutil.rmtree(spool, ignore_errors=True)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write JSON, compact and with sorted keys."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, sort_keys=True, separators=(",", ":")))
