"""The table of the images that failed."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from skygraft.records.file_checksums import checked_path
from skygraft.records.files import Layout
from skygraft.records.image_states import FAILED, QUARANTINED, ImageStates
from skygraft.records.plan_file import Plan

__all__ = ["write_failures"]

_SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("path", pa.string()),
        ("tract", pa.int64()),
        ("patch", pa.int64()),
        ("error", pa.string()),
        ("message", pa.string()),
        ("where", pa.string()),
        ("host", pa.string()),
        ("tries", pa.int64()),
        ("quarantined", pa.bool_()),
    ]
)
_BLOCK = 5000


def write_failures(layout: Layout, plan: Plan, states: ImageStates, unusable: Iterable[Mapping[str, str]]) -> None:
    """Write ``failures.parquet``: a row for each image that failed, and for each that could not be planned.

    Parameters
    ----------
    layout : Layout
        Where the campaign's files are.
    plan : Plan
        The plan.
    states : ImageStates
        How its images stand.
    unusable : iterable of mapping
        Images that the plan leaves out: image_id, path, error, reason.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    rows = states.rows(FAILED, QUARANTINED)
    images = plan.images(rows)
    with contextlib.ExitStack() as stack:
        temporary = stack.enter_context(checked_path(layout.failures))
        writer = stack.enter_context(pq.ParquetWriter(temporary, _SCHEMA))
        for some in itertools.batched(rows.tolist(), _BLOCK):
            failures = dict(states.failures(layout.ledger, some))
            found = zip(some, itertools.islice(images, len(some)), strict=True)
            _write(
                writer,
                [
                    {**asdict(failures[row]), "path": image.path, "tract": image.tract, "patch": image.patch}
                    for row, image in found
                    if row in failures
                ],
            )
        _write(
            writer,
            [
                {
                    "image_id": bad["image_id"],
                    "path": bad["path"],
                    "error": bad["error"],
                    "message": bad["reason"],
                    "tries": 1,
                    "quarantined": False,
                }
                for bad in unusable
            ],
        )


def _write(writer: pq.ParquetWriter, rows: list[dict[str, Any]]) -> None:
    if rows:
        writer.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA))
