"""Gather the measurements of a patch's images into one table: a plain function of one patch, for workers.

The table depends on the measurements and on the truth of the patch alone. It is left as it is if neither changed.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from skygraft.campaign.products import DamagedPartError, Product, ProductLayout, read_part
from skygraft.campaign.sweep_task import open_work
from skygraft.catalog.io import arrow_array
from skygraft.errors import CampaignError
from skygraft.records.files import Layout, digest
from skygraft.records.plan_file import PlannedImage
from skygraft.tables.arrow import TableWriter, note_of, numbers, read_groups
from skygraft.tables.truth import TRUTH_SCHEMA

__all__ = ["PatchParts", "PatchTable", "gather_patch", "plain_schema"]

_TABLE_VERSION = 1
"""Counts changes of what is made of the parts; part of the fingerprints of the tables."""

_OF_IMAGE = ("visit", "detector", "mjd")
_OF_PATCH = ("source_tract", "source_patch", "is_patch_inner", "is_tract_inner", "is_primary")
"""Columns of truth that consolidation adds; see `skygraft.tables.truth`."""
_FOLDERS = ("tract", "patch")
"""Columns that the names of the folders hold."""


@dataclass(frozen=True)
class PatchParts:
    """The measured images of one home patch."""

    tract: int
    patch: int
    rows: tuple[int, ...]  # of its images in the plan
    keys: tuple[bytes, ...]  # `skygraft.campaign.products.part_key` of each


@dataclass(frozen=True)
class PatchTable:
    """What became of the table of a patch."""

    tract: int
    patch: int
    n_images: int = 0  # in the table
    n_rows: int = 0  # of the table
    n_without_truth: int = 0  # images of which sources are not in the campaign's truth table
    schema: bytes = b""  # serialised; empty if there is no table
    damaged: tuple[int, ...] = ()
    """Rows of the plan of images whose measurement is missing or damaged; they are not in the table."""
    written: bool = field(default=False, compare=False)  # this time


@dataclass(frozen=True)
class _Measured:
    """A measured image: where it is in the plan, and the file of its measurement."""

    row: int
    key: str
    image: PlannedImage
    part: Path


class _PartError(Exception):
    """The measurement of an image is not there as it was written."""

    def __init__(self, row: int) -> None:
        super().__init__(row)
        self.row = row


def gather_patch(
    parts: PatchParts, *, product: Product, order: str, identity: tuple[int, int], plan: tuple[int, int]
) -> PatchTable:
    """Bring the table of one patch up to date with the measurements of its images, in the order of image ids.

    Parameters
    ----------
    parts : PatchParts
        All measured images of the patch; without any its table is removed.
    product, order, identity, plan
        As for `skygraft.campaign.sweep_task.measure_row`.

    Returns
    -------
    PatchTable

    Raises
    ------
    CampaignError
        If the truth of the patch cannot be read, or measurements do not have the same columns.
    OutputError
        If the table cannot be written; the former one is then still there.
    """
    work = open_work(order, identity, plan)
    layout = Layout(work.bench.config.output)
    files = ProductLayout(layout.root, product.name)
    table, checksum = (path(parts.tract, parts.patch) for path in (files.table, files.checksum))
    images = work.plan.images(parts.rows)
    found = sorted(
        (
            _Measured(row, key.hex(), image, files.part(image.tract, image.patch, image.stem))
            for row, key, image in zip(parts.rows, parts.keys, images, strict=True)
        ),
        key=lambda one: one.image.image_id,
    )
    truth = layout.truth_table(parts.tract, parts.patch)
    truth_note = note_of(truth, layout.checksum(truth))
    base = [_TABLE_VERSION, product.name, product.version, truth_note.fingerprint if truth_note else ""]
    note, written = note_of(table, checksum), False
    damaged: list[int] = []
    if found and (note is None or note.fingerprint != _fingerprint(base, found)):
        found, damaged = _write(table, checksum, found, base, truth if truth_note else None)
        note, written = note_of(table, checksum), True
    if not found:
        for path in (table, checksum):
            path.unlink(missing_ok=True)
        return PatchTable(parts.tract, parts.patch, damaged=tuple(damaged))
    assert note is not None
    return PatchTable(
        parts.tract,
        parts.patch,
        n_images=len(found),
        n_rows=note.n_rows,
        n_without_truth=int(note.content["n_without_truth"]),
        schema=plain_schema(pq.read_schema(table)).serialize().to_pybytes(),
        damaged=tuple(damaged),
        written=written,
    )


def plain_schema(schema: pa.Schema) -> pa.Schema:
    """A schema without what files add to it: only units remain in the metadata of its fields."""
    fields = []
    for one in schema:
        kept = {key: value for key, value in (one.metadata or {}).items() if not key.startswith(b"PARQUET:")}
        fields.append(one.with_metadata(kept or None))
    return pa.schema(fields)


def _fingerprint(base: list[Any], found: Sequence[_Measured]) -> str:
    sha = hashlib.sha256()
    for one in found:
        sha.update(f"{one.image.image_id}\n{one.key}\n".encode())
    return digest([base, sha.hexdigest()])


def _write(
    table: Path, checksum: Path, found: list[_Measured], base: list[Any], truth: Path | None
) -> tuple[list[_Measured], list[int]]:
    """Write the table; returns the images that are in it, and rows of those whose measurement is damaged."""
    damaged: list[int] = []
    while found:
        try:
            schema = _common_schema(found)
            repeated = [one.name for one in schema if pa.types.is_string(one.type) or one.name in _OF_IMAGE]
            with TableWriter(table, checksum, schema, repeated=repeated) as writer:
                n_without_truth = 0
                for rows, complete in _rows(found, schema, truth):
                    writer.write(rows)
                    n_without_truth += not complete
                writer.note |= {"fingerprint": _fingerprint(base, found), "n_without_truth": n_without_truth}
            break
        except _PartError as damage:
            damaged.append(damage.row)
            found = [one for one in found if one.row != damage.row]
    return found, damaged


def _common_schema(found: Sequence[_Measured]) -> pa.Schema:
    """The columns of all measurements of the patch, with those that are added; of the first that has each."""
    common: pa.Schema | None = None
    last: pa.Schema | None = None
    for one in found:
        try:
            with pa.OSFile(str(one.part)) as handle, pa.ipc.open_file(handle) as file:
                schema = file.schema.remove_metadata()
        except (OSError, pa.ArrowException) as error:
            raise _PartError(one.row) from error
        if last is not None and schema.equals(last, check_metadata=True):
            continue
        last = schema
        try:
            common = schema if common is None else pa.unify_schemas([common, schema], promote_options="permissive")
        except pa.ArrowException as error:
            raise CampaignError(
                f"the measurements of {found[0].image.image_id} and {one.image.image_id} do not have the same kinds of "
                f"columns ({error})",
                path=one.part,
                fix="Measure all images again: --redo",
            ) from error
    assert common is not None
    return _with_added(common)


def _with_added(schema: pa.Schema) -> pa.Schema:
    """A schema with the columns that are added, after the flags, if its rows are of injected sources."""
    fields = [one for one in schema if one.name not in _FOLDERS]
    if "injection_id" not in schema.names:
        return pa.schema(fields)
    added = [TRUTH_SCHEMA.field(name) for name in (*_OF_IMAGE, *_OF_PATCH)]
    fields = [one for one in fields if one.name not in (*_OF_IMAGE, *_OF_PATCH)]
    names = [one.name for one in fields]
    at = names.index("flags") + 1 if "flags" in names else len(names)
    return pa.schema([*fields[:at], *added, *fields[at:]])


def _rows(found: Sequence[_Measured], schema: pa.Schema, truth: Path | None) -> Iterator[tuple[pa.Table, bool]]:
    """Yield the rows of each image, and whether the truth table has all of its sources."""
    joined = "injection_id" in schema.names
    with contextlib.closing(_Truth(truth)) if joined else contextlib.nullcontext() as reader:
        for one in found:
            try:
                table, header = read_part(one.part)
            except DamagedPartError as error:
                raise _PartError(one.row) from error
            if header.key != one.key or header.error:
                raise _PartError(one.row)
            complete = True
            if reader is not None and "injection_id" in table.column_names:
                table, complete = _annotated(table, one.image, reader.of(one.image.image_id))
            yield _fitted(table, schema), complete


def _fitted(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """A table with the columns of a schema: those that it lacks are empty."""
    columns = [
        table.column(one.name).cast(one.type) if one.name in table.column_names else pa.nulls(len(table), one.type)
        for one in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def _annotated(table: pa.Table, image: PlannedImage, truth: pa.Table) -> tuple[pa.Table, bool]:
    """Add the columns of the campaign's truth table to the rows of an image; empty where it does not have the source.

    Visit, detector and time are known without it.
    """
    ids, known = numbers(table.column("injection_id")), numbers(truth.column("injection_id"))
    place, missing = _find(ids, known)
    take = arrow_array(place, missing)
    for name in (*_OF_IMAGE, *_OF_PATCH):
        kind = TRUTH_SCHEMA.field(name).type
        if name in _OF_IMAGE:
            value = getattr(image, name)
            value = float("nan") if value is None and name == "mjd" else value
            column = pa.nulls(len(table), kind) if value is None else pa.repeat(pa.scalar(value, kind), len(table))
        else:
            column = truth.column(name).take(take)
        if name in table.column_names:
            table = table.drop_columns([name])
        table = table.append_column(name, column)
    return table, not bool(missing.any())


def _find(ids: NDArray[np.int64], known: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The place of each id among the known ones, which ascend or not, and which ids are not among them."""
    if not len(known):
        return np.zeros(len(ids), dtype=np.int64), np.ones(len(ids), dtype=np.bool_)
    order = np.argsort(known, kind="stable")
    place = order[np.minimum(np.searchsorted(known[order], ids), len(known) - 1)]
    return place.astype(np.int64), np.asarray(known[place] != ids, dtype=np.bool_)


class _Truth:
    """Reads the rows of one image after the other from the truth table of a patch, if there is one, sorted by image."""

    def __init__(self, path: Path | None) -> None:
        columns = ["image_id", "injection_id", *_OF_PATCH]
        self._none = pa.schema([TRUTH_SCHEMA.field(name) for name in columns]).empty_table()
        self._groups = iter(()) if path is None else read_groups(path, columns, fix="Make it again: skygraft run")
        self._runs: list[tuple[str, pa.Table]] = []

    def close(self) -> None:
        """Close the file."""
        if hasattr(self._groups, "close"):
            self._groups.close()

    def of(self, image_id: str) -> pa.Table:
        """The rows of an image; images are asked for in ascending order."""
        found: list[pa.Table] = []
        while self._runs or self._load():
            first, rows = self._runs[0]
            if first > image_id:
                break
            del self._runs[0]
            if first == image_id:
                found.append(rows)
        return pa.concat_tables(found) if found else self._none

    def _load(self) -> bool:
        for group in self._groups:
            ends = pc.run_end_encode(group.column("image_id").combine_chunks().cast(pa.string()))
            start = 0
            for stop, name in zip(ends.run_ends.to_pylist(), ends.values.to_pylist(), strict=True):
                self._runs.append((name, group.slice(start, stop - start)))
                start = stop
            if self._runs:
                return True
        return False
