"""Plans written by hand, instead of by the planner."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa

from skygraft.records.plan_file import _SCHEMA, ROW_GROUP, PlannedImage, PlanWriter


def write_plan(path: Path, images: Iterable[PlannedImage], metadata: Mapping[str, Any]) -> None:
    """Write a plan of some images."""
    with PlanWriter(path) as writer:
        writer.metadata.update(metadata)
        for some in itertools.batched(images, ROW_GROUP):
            add_images(writer, some)


def add_images(writer: PlanWriter, images: Iterable[PlannedImage]) -> None:
    """Add images to the end of a plan."""
    writer.write_table(pa.Table.from_pylist([asdict(image) for image in images], schema=_SCHEMA))
