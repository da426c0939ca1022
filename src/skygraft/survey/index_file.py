"""The index of a survey as a table, in memory or in a Parquet file that planning reads in batches."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from skygraft.catalog.io import numpy_array, one_array
from skygraft.errors import ConfigError, CorruptFileError, FormatError, SkygraftError
from skygraft.formats import get_format
from skygraft.json_text import parse_json
from skygraft.lazy import lazy_module
from skygraft.survey.image_columns import IndexedImage, columns_of, schema_of

pc = lazy_module("pyarrow.compute")

__all__ = ["INDEX_SCHEMA", "IndexFile", "SurveyIndex", "write_index"]

INDEX_SCHEMA = schema_of(columns_of(IndexedImage))
"""Columns of an index: the fields of `skygraft.survey.image_columns.IndexedImage`."""

_OPTIONAL = ("hdu", "instrument", "visit", "detector", "band", "mjd", "exposure_time", "options", "dataset")
_METADATA = b"skygraft"
_AGAIN = "Make it again: skygraft index PATTERN -o FILE.parquet"


@dataclass(frozen=True)
class SurveyIndex:
    """An index in memory.

    Parameters
    ----------
    table : pyarrow.Table
        One row per image, with `INDEX_SCHEMA`, sorted by ``image_id``, which is unique.
    failures : tuple of dict
        Images that are left out, with path, kind, image_id, error and reason.
    companions : tuple of str
        Files that are weights or masks of an indexed image.
    """

    table: pa.Table
    failures: tuple[dict[str, str], ...] = ()
    companions: tuple[str, ...] = ()

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def batches(self, columns: Sequence[str] | None = None, batch_rows: int = 50_000) -> Iterator[pa.Table]:
        """Iterate over the index in batches.

        Parameters
        ----------
        columns : sequence of str, optional
            Columns to return, by default all.
        batch_rows : int
            Largest number of images in a batch.

        Yields
        ------
        pyarrow.Table
        """
        table = self.table if columns is None else self.table.select(list(columns))
        for start in range(0, len(self), batch_rows):
            yield table.slice(start, batch_rows)


def write_index(index: SurveyIndex, path: Path) -> None:
    """Write an index and its failures as Parquet; an existing file at `path` is replaced, not atomically.

    Parameters
    ----------
    index : SurveyIndex
    path : Path
        Output file.
    """
    content = {"failures": list(index.failures), "companions": list(index.companions)}
    schema = INDEX_SCHEMA.with_metadata({_METADATA: json.dumps(content, sort_keys=True)})
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for batch in index.batches():
            writer.write_table(batch.cast(INDEX_SCHEMA).replace_schema_metadata(schema.metadata))


@dataclass(frozen=True)
class IndexFile:
    """An index in a Parquet file written by ``skygraft index -o``, which is read in parts.

    Parameters
    ----------
    path : Path
        The file.

    Raises
    ------
    ConfigError
        If there is no such file.
    FormatError
        If it is not Parquet, or columns are missing or of a wrong type.
    """

    path: Path
    failures: tuple[dict[str, str], ...] = field(init=False, default=())
    companions: tuple[str, ...] = field(init=False, default=())
    _n: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        with self._open() as file:
            names = file.schema_arrow.names
            missing = [name for name in INDEX_SCHEMA.names if name not in names and name not in _OPTIONAL]
            if missing:
                raise FormatError(
                    f"not an index of images: it has no column {', '.join(missing)}", path=self.path, fix=_AGAIN
                )
            for name in names:
                if name in INDEX_SCHEMA.names:
                    # Casting an empty column checks the type alone.
                    self._cast(pa.array([], type=file.schema_arrow.field(name).type), name)
            object.__setattr__(self, "_n", file.metadata.num_rows)
            try:
                content = parse_json((file.schema_arrow.metadata or {}).get(_METADATA, b"{}"))
                failures = tuple({str(k): str(v) for k, v in bad.items()} for bad in content.get("failures", []))
                companions = tuple(str(name) for name in content.get("companions", []))
            except (ValueError, AttributeError, TypeError) as error:
                raise FormatError(f"its metadata cannot be read ({error})", path=self.path, fix=_AGAIN) from error
            object.__setattr__(self, "failures", failures)
            object.__setattr__(self, "companions", companions)

    def __len__(self) -> int:
        return self._n

    def batches(self, columns: Sequence[str] | None = None, batch_rows: int = 50_000) -> Iterator[pa.Table]:
        """Iterate over the index in batches; every row is checked.

        Parameters
        ----------
        columns : sequence of str, optional
            Columns to return, by default all.
        batch_rows : int
            Largest number of images in a batch.

        Yields
        ------
        pyarrow.Table

        Raises
        ------
        FormatError
            If a row is invalid; the message names the first and what is wrong with it.
        """
        wanted = INDEX_SCHEMA.names if columns is None else list(columns)
        with self._open() as file:
            present = [name for name in wanted if name in file.schema_arrow.names]
            first = 0
            try:
                for batch in file.iter_batches(batch_size=batch_rows, columns=present):
                    arrays = [
                        self._cast(batch.column(name), name)
                        if name in present
                        else pa.nulls(batch.num_rows, type=INDEX_SCHEMA.field(name).type)
                        for name in wanted
                    ]
                    table = pa.Table.from_arrays(arrays, schema=pa.schema([INDEX_SCHEMA.field(n) for n in wanted]))
                    self._check(table, first)
                    first += batch.num_rows
                    yield table
            except (OSError, pa.ArrowException) as error:
                raise CorruptFileError(f"the index is damaged: {error}", path=self.path, fix=_AGAIN) from error

    def check_unique(self) -> None:
        """Check that no image id occurs twice.

        Raises
        ------
        FormatError
            If some do; the message names them.
        """
        ids = pa.chunked_array([t.column("image_id").combine_chunks() for t in self.batches(["image_id"])] or [[]])
        counts = pc.value_counts(ids)
        twice = counts.filter(pc.greater(counts.field("counts"), 1)).field("values").to_pylist()
        if twice:
            raise FormatError(
                f"{len(twice)} image ids occur more than once: {', '.join(twice[:5])}{', ...' if twice[5:] else ''}",
                path=self.path,
                key="image_id",
                fix="Leave all but one of each out",
            )

    def read(self) -> SurveyIndex:
        """Return the whole index, sorted by image id."""
        self.check_unique()
        table = pa.concat_tables([INDEX_SCHEMA.empty_table(), *self.batches()])
        return SurveyIndex(table.sort_by("image_id"), self.failures, self.companions)

    def _open(self) -> pq.ParquetFile:
        try:
            return pq.ParquetFile(self.path)
        except FileNotFoundError:
            raise ConfigError("there is no such index of images", path=self.path, key="index", fix=_AGAIN) from None
        except (OSError, pa.ArrowException) as error:
            raise CorruptFileError(f"the index cannot be read: {error}", path=self.path, fix=_AGAIN) from error

    def _cast(self, column: Any, name: str) -> Any:
        wanted = INDEX_SCHEMA.field(name).type
        if column.type == wanted:
            return column
        try:
            if pa.types.is_null(column.type):
                return pa.nulls(len(column), type=wanted)
            lists = pa.types.is_list(wanted)
            numbers = pa.types.is_integer(column.type) or pa.types.is_floating(column.type)
            if not lists and (pa.types.is_string(wanted) == numbers or pa.types.is_temporal(column.type)):
                raise pa.ArrowInvalid(f"it is of type {column.type}")
            return column.cast(wanted)
        except pa.ArrowException as error:
            raise FormatError(
                f"the column {name!r} is not of the type {wanted} ({error})", path=self.path, key=name, fix=_AGAIN
            ) from error

    def _check(self, table: pa.Table, first: int) -> None:
        for name, bad, needed in _problems(table):
            rows = np.flatnonzero(bad)
            if rows.size:
                row = int(rows[0])
                shown = str(table.column(name)[row].as_py())
                raise FormatError(
                    f"{name} is {shown[:120]}; {needed} is needed",
                    path=self.path,
                    row=first + row,
                    key=name,
                    fix=_AGAIN,
                )


def _problems(table: pa.Table) -> Iterator[tuple[str, NDArray[np.bool_], str]]:
    """For each column: its name, which rows are invalid, and what is needed."""
    names = set(table.column_names)
    for name in table.column_names:
        if name not in _OPTIONAL:
            yield name, _numpy(pc.is_null(table.column(name))), "a value"
    for name in names & {"image_id", "path"}:
        yield name, _numpy(pc.equal(table.column(name), "")), "a name"
    ranges = {"ra": (0, 360), "dec": (-90, 90), "nx": (1, 10**6), "ny": (1, 10**6), "pixel_scale": (1e-6, 3600.0)}
    for name, (low, high) in {**ranges, "n_bytes": (0, 2**62)}.items():
        if name in names:
            values = _numpy(table.column(name))
            yield name, ~((values >= low) & (values <= high)), f"a number within {low:g}..{high:g}"
    if "polygon" in names:
        yield "polygon", _bad_polygons(one_array(table.column("polygon"))), "three or more [ra, dec] in degrees"
    if "format" in names:
        yield "format", _by_value(table.column("format"), _is_format), "the name of a format"
    if "options" in names:
        yield "options", _by_value(table.column("options"), _is_options), "a JSON object, or nothing,"


def _numpy(column: Any) -> NDArray[Any]:
    return numpy_array(one_array(column))


def _bad_polygons(polygons: Any) -> NDArray[np.bool_]:
    sizes = _numpy(pc.list_value_length(polygons))
    bad = sizes < 3
    pairs = polygons.flatten()
    owner = np.repeat(np.arange(len(polygons)), sizes)
    # Only counts are compared: a vertex may be null, or have more or fewer than two numbers.
    lengths = _numpy(pc.fill_null(pc.list_value_length(pairs), 0))
    bad[owner[lengths != 2]] = True
    if not bad.any():
        points = _numpy(pc.fill_null(pairs.flatten(), np.nan)).reshape(-1, 2)
        good = (points[:, 0] >= 0) & (points[:, 0] <= 360) & (np.abs(points[:, 1]) <= 90)
        bad[owner[~good]] = True
    return np.asarray(bad, dtype=np.bool_)


def _by_value(column: Any, accepts: Any) -> NDArray[np.bool_]:
    """Whether each value is refused by `accepts`, which is called once per distinct value."""
    encoded = one_array(column).dictionary_encode(null_encoding="encode")
    bad = np.array([not accepts(value) for value in encoded.dictionary.to_pylist()] or [False])
    return np.asarray(bad[numpy_array(encoded.indices)], dtype=np.bool_)


def _is_format(name: str | None) -> bool:
    try:
        return name is not None and bool(get_format(name))
    except SkygraftError:
        return False


def _is_options(text: str | None) -> bool:
    try:
        return not text or isinstance(parse_json(text), Mapping)
    except ValueError:
        return False


def absolute(path: str | os.PathLike[str]) -> str:
    """Return an absolute path without ``.`` and ``..``."""
    return os.path.normpath(Path(path).absolute())
