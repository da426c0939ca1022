"""One image of a plan, and the Parquet file that has all of them, sorted by home patch, then image id."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import ArrayLike

from skygraft.catalog.arrow_arrays import arrow_array
from skygraft.config.campaign import CampaignConfig
from skygraft.disk import FileIdentity
from skygraft.errors import CampaignError, SkygraftError
from skygraft.json_text import parse_json
from skygraft.place_names import FILES_KIND, STUBS_KIND, as_kind, is_url
from skygraft.places import beneath, is_file, see
from skygraft.records.file_checksums import checked_path, problem_of, read_checksum
from skygraft.records.files import Layout, digest, json_text
from skygraft.records.lock import holder
from skygraft.survey.image_columns import Column, IndexedImage, columns_of, describe_columns, schema_of

__all__ = [
    "ROW_GROUP",
    "DamagedPlanError",
    "Plan",
    "PlanWriter",
    "PlannedImage",
    "campaign_plan",
    "plan_key",
    "read_plan",
]

ROW_GROUP = 10_000
"""Images in each row group, the smallest part of the file that can be read."""


_AGAIN = "Delete it and plan again: skygraft plan"
_METADATA, _ROWS = b"skygraft", b"skygraft-rows"
_REPEATED = ["hdu", "format", "instrument", "visit", "detector", "band", "exposure_time", "nx", "ny", "options"]
"""Columns of few distinct values, which are dictionary-encoded."""


class DamagedPlanError(CampaignError):
    """The file of a plan is damaged; a plan can be made again at any time."""


@describe_columns
@dataclass(frozen=True, kw_only=True)
class PlannedImage(IndexedImage):
    """Everything that a task needs to know of one image."""

    stem: Annotated[str, Column(pa.string(), "`image_id` made fit for file names; unique too.")]
    tract: Annotated[int, Column(pa.int64(), "Tract of the home patch; -1 where the sky map has none there.")]
    patch: Annotated[int, Column(pa.int64(), "The home patch, whose inner region holds the centre.")]
    reads: Annotated[
        tuple[tuple[int, int], ...],
        Column(
            pa.list_(pa.list_(pa.int64(), 2)),
            "Tract and patch of every catalogue partition that may hold sources of this image.",
        ),
    ]
    n_sources: Annotated[int, Column(pa.int64(), "Catalogue rows within the outline and its margin.")]
    cost_seconds: Annotated[float, Column(pa.float64(), "Estimated time.", "s")]
    output: Annotated[
        str, Column(pa.string(), "The image file to write, relative to the campaign's ``images`` folder.")
    ]
    catalog_key: Annotated[
        str, Column(pa.string(), "Fingerprint of the catalogue rows within the outline and its margin.")
    ]

    def source(self, root: Path) -> Path:
        """The image file, given the survey's root."""
        return beneath(root, self.path)

    def format_options(self, path: Path | None = None) -> dict[str, Any]:
        """The reading options of the format; with the path of the image, URLs in them are paths of the same kind."""
        options: dict[str, Any] = parse_json(self.options)
        return options if path is None or "://" not in self.options else _with_paths(options, path)


def _with_paths(value: Any, path: Path) -> Any:
    """Options with paths of this machine instead of URLs, of the kind of copies that `path` is."""
    if isinstance(value, dict):
        return {key: _with_paths(inner, path) for key, inner in value.items()}
    if isinstance(value, list):
        return [_with_paths(inner, path) for inner in value]
    if not is_url(value):
        return value
    here = as_kind(beneath(path, value), FILES_KIND if f"/{FILES_KIND}/" in str(path) else STUBS_KIND)
    is_file(here)  # fetches it
    return os.fspath(here)


def _plan_schema() -> pa.Schema:
    """The schema of the file: the columns in an order that files of former versions have, points of two numbers."""
    columns = columns_of(PlannedImage)
    index = [name for name in columns_of(IndexedImage) if name not in ("image_id", "dataset")]
    planned = [name for name in columns if name not in (*index, "image_id", "stem", "dataset")]
    names = ["image_id", "stem", *index, *planned, "dataset"]
    columns["polygon"] = replace(columns["polygon"], type=pa.list_(pa.list_(pa.float64(), 2)))
    return schema_of({name: columns[name] for name in names}, with_units=True)


_SCHEMA = _plan_schema()


def _pairs(values: list[Any]) -> list[tuple[Any, ...]]:
    return [tuple((a, b) for a, b in row) for row in values]


def _to_images(table: pa.Table | pa.RecordBatch) -> Iterator[PlannedImage]:
    columns = {name: table.column(name).to_pylist() for name in _SCHEMA.names}
    columns |= {name: _pairs(columns[name]) for name in ("polygon", "reads")}
    return (PlannedImage(**dict(zip(columns, row, strict=True))) for row in zip(*columns.values(), strict=True))


class Plan:
    """A plan on disk, read in parts: that of a large survey does not fit into the memory of a driver.

    Parameters
    ----------
    path : Path
        The Parquet file that a `PlanWriter` wrote.

    Raises
    ------
    CampaignError
        If there is no plan, or it cannot be read. Every method raises it too, also if the plan was replaced.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._with_advice():
            self._identity = FileIdentity.of(path)
            with pq.ParquetFile(path) as file:
                footer, schema = file.metadata, file.schema_arrow
                groups = [footer.row_group(i).num_rows for i in range(footer.num_row_groups)]
                content = footer.metadata or {}
                self._metadata: dict[str, Any] = parse_json(content.get(_METADATA, b"{}"))
                wanted = int(content.get(_ROWS, sum(groups)))
        if not schema.equals(_SCHEMA):
            raise CampaignError(
                "the plan was written by another version of skygraft", path=path, fix="Delete it and plan again"
            )
        if sum(groups) != wanted:
            raise DamagedPlanError(
                f"the plan holds {sum(groups)} images, and was written with {wanted}", path=path, fix=_AGAIN
            )
        self._part: tuple[int, pa.Table] | None = None
        self._starts = np.concatenate([[0], np.cumsum(groups, dtype=np.int64)]).astype(np.int64)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __repr__(self) -> str:
        return f"Plan({str(self._path)!r}, {len(self)} images)"

    @property
    def path(self) -> Path:
        """The file."""
        return self._path

    @property
    def metadata(self) -> dict[str, Any]:
        """What the plan was made from, and what the planner found (JSON types)."""
        return self._metadata

    @property
    def unusable(self) -> list[dict[str, str]]:
        """Images of the survey that the plan leaves out: ``path``, ``error``, ``reason`` and ``stamp`` of each."""
        unusable: list[dict[str, str]] = self._metadata.get("unusable", [])
        return unusable

    def table(self, columns: Sequence[str]) -> pa.Table:
        """Read whole columns, in the order of the plan.

        Parameters
        ----------
        columns : sequence of str
            Names of fields of `PlannedImage`.

        Returns
        -------
        pyarrow.Table
        """
        with self._opened() as file:
            return file.read(columns=self._known(columns)).select(list(columns))

    def batches(self, columns: Sequence[str] | None = None, batch_rows: int = 20_000) -> Iterator[pa.RecordBatch]:
        """Read some columns (by default all) in batches of up to `batch_rows` images, in the order of the plan."""
        names = self._known(_SCHEMA.names if columns is None else columns)
        with self._opened() as file:
            for batch in file.iter_batches(batch_size=batch_rows, columns=names, use_threads=False):
                yield batch.select(names)

    def images(self, rows: ArrayLike | None = None) -> Iterator[PlannedImage]:
        """Read images one after the other; only the row groups that have some of them are read.

        Parameters
        ----------
        rows : array_like of int, optional
            Rows of the plan, ascending; by default all.

        Yields
        ------
        PlannedImage

        Raises
        ------
        ValueError
            If a row is not in the plan, or they do not ascend.
        """
        wanted = np.arange(len(self)) if rows is None else np.asarray(rows, dtype=np.int64).reshape(-1)
        if wanted.size and (wanted[0] < 0 or wanted[-1] >= len(self) or np.any(np.diff(wanted) <= 0)):
            raise ValueError(f"rows of a plan of {len(self)} images are needed, ascending")
        bounds = np.searchsorted(wanted, self._starts)
        for group in np.flatnonzero(np.diff(bounds)).tolist():
            chosen = wanted[bounds[group] : bounds[group + 1]] - self._starts[group]
            table = self._group(group)
            if len(chosen) < table.num_rows:
                table = table.take(arrow_array(chosen))
            yield from _to_images(table)

    def _group(self, group: int) -> pa.Table:
        # Kept, since the next image that a worker asks for is most likely in the same group, and opening the file takes
        # longer than finding an image in it.
        if self._part is None or self._part[0] != group:
            with self._opened() as file:
                self._part = (group, file.read_row_group(group))
        return self._part[1]

    def _known(self, columns: Sequence[str]) -> list[str]:
        unknown = [name for name in columns if name not in _SCHEMA.names]
        if unknown:
            raise ValueError(f"a plan has no column {unknown[0]!r}; it has {', '.join(_SCHEMA.names)}")
        return list(columns)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[pq.ParquetFile]:
        with self._with_advice():
            now = FileIdentity.of(self._path)
            if not (now.same_file(self._identity) and now.same_content(self._identity)):
                raise CampaignError(
                    "another plan has taken the place of this one", path=self._path, fix="Start the command again"
                )
            with pq.ParquetFile(self._path) as file:
                yield file

    @contextlib.contextmanager
    def _with_advice(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise _no_plan(self._path) from None
        except (pa.ArrowException, json.JSONDecodeError, UnicodeDecodeError) as error:
            raise DamagedPlanError(f"the plan cannot be read ({error})", path=self._path, fix=_AGAIN) from error
        except OSError as error:
            kind = CampaignError if error.errno else DamagedPlanError  # Arrow raises it for damaged content as well
            raise kind(f"the plan cannot be read ({error})", path=self._path, fix=_AGAIN) from error


def campaign_plan(path: Path) -> Plan:
    """Open the plan of a campaign, and check that it has images, and its checksum if there is one.

    Raises
    ------
    CampaignError
        If there is no plan, it cannot be read, is damaged, or has no image.
    """
    plan = Plan(path)
    if not len(plan):
        raise DamagedPlanError("the plan holds no image", path=path, fix=_AGAIN)
    checksum = Layout(path.parent).checksum(path)
    known = read_checksum(checksum)
    problem = "its checksum is damaged" if known is None and os.path.lexists(checksum) else ""
    if problem := problem_of(path, known, read=True) if known is not None else problem:
        raise DamagedPlanError(f"the plan is damaged: {problem}", path=path, fix=_AGAIN)
    return plan


def _no_plan(path: Path) -> CampaignError:
    """The error for a missing plan, by what else is in its folder."""
    layout = Layout(path.parent)
    if not layout.root.is_dir():
        return CampaignError(
            "the campaign has no plan yet: there is no output folder, or it was removed",
            path=layout.root,
            fix="Run `skygraft plan`; if a process still runs the campaign, stop it first",
        )
    if not layout.is_locked():
        return CampaignError("the campaign has no plan yet", path=path, fix="Run `skygraft plan` first")
    who = holder(layout.lock)
    # The configuration is the first file that planning writes.
    if layout.config.exists():
        return CampaignError("the campaign is being planned", path=path, fix=f"Wait for {who} to have planned it")
    return CampaignError(
        f"the output was removed while {who} runs the campaign",
        path=layout.root,
        fix="Stop that process, and run again",
    )


class PlanWriter:
    """Writes a plan in parts, in the order of the plan; the file appears whole at the end, or not at all.

    Equal plans give equal files, whatever the parts. Use it in a ``with`` statement.

    Parameters
    ----------
    path : Path
        The file.

    Attributes
    ----------
    metadata : dict
        `Plan.metadata` of the plan (JSON types); it may be filled until the end.

    Raises
    ------
    OutputError
        If it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.metadata: dict[str, Any] = {}
        self._path = path
        self._waiting: list[pa.Table] = []
        self._n_waiting = self._n_rows = 0

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            temporary = stack.enter_context(checked_path(self._path))
            self._writer = stack.enter_context(
                pq.ParquetWriter(temporary, _SCHEMA, compression="zstd", use_dictionary=_REPEATED)
            )
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None:
            self._stack.__exit__(kind, error, traceback)
            return
        # Within the stack, so that an error here removes the temporary file.
        with self._stack:
            self._flush(everything=True)
            self._writer.add_key_value_metadata({_METADATA: json_text(self.metadata), _ROWS: str(self._n_rows)})

    def write_table(self, table: pa.Table) -> None:
        """Add images to the end of the plan, as a table whose columns are the fields of `PlannedImage`."""
        self._waiting.append(table.select(_SCHEMA.names).cast(_SCHEMA))
        self._n_waiting += table.num_rows
        self._n_rows += table.num_rows
        if self._n_waiting >= ROW_GROUP:
            self._flush()

    def _flush(self, *, everything: bool = False) -> None:
        if not self._waiting:
            return
        # In one piece, so that pages and dictionaries do not depend on the parts.
        table = pa.concat_tables(self._waiting).combine_chunks()
        start = 0
        while table.num_rows - start >= ROW_GROUP or (everything and start < table.num_rows):
            self._writer.write_table(table.slice(start, ROW_GROUP), row_group_size=ROW_GROUP)
            start += ROW_GROUP
        # A copy, so that the memory of what was written is freed.
        rest = table.slice(start).take(pa.array(range(max(table.num_rows - start, 0)), type=pa.int64()))
        self._waiting, self._n_waiting = [rest], rest.num_rows


def read_plan(path: Path) -> list[PlannedImage]:
    """Read all images of a plan, in its order.

    Raises
    ------
    CampaignError
        If there is no plan, or it cannot be read.
    """
    return list(Plan(path).images())


def plan_key(config: CampaignConfig) -> str:
    """Fingerprint of what a plan depends on: survey, its table where it has one, catalogue files, sky map, margin."""
    resolved = config.resolved()
    beside = (config.catalog.light_curves, config.catalog.ephemerides)
    files = [config.catalog.path, *(path for path in beside if path is not None)]
    if config.survey.index is not None:
        files.append(beneath(config.survey.root, config.survey.index))
    found = [FileIdentity.find(see(path)) for path in files]
    identities: list[list[Any]] = [[] if identity is None else [*identity.size_and_time] for identity in found]
    if config.catalog.path.is_dir():
        # A folder's own time says nothing of the files below it.
        with contextlib.suppress(SkygraftError, OSError):  # planning says what is wrong
            from skygraft.catalog.hats_files import folder_identity  # with all readers of catalogues

            identities[0] = [folder_identity(config.catalog.path)]
    return digest([resolved[k] for k in ("survey", "catalog", "skymap", "margin_arcsec")] + identities)
