"""Measure one image of a campaign: a plain function, without Dask, for workers."""

from __future__ import annotations

import functools
import time
import traceback
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pyarrow as pa

from skygraft.campaign.pairs import read_pair, record_of
from skygraft.campaign.products import (
    PartHeader,
    Product,
    ProductLayout,
    part_key,
    read_part_header,
    settings_digest,
    write_part,
)
from skygraft.config.campaign import parse_config
from skygraft.errors import CampaignError, OutputError, SkygraftError
from skygraft.execution.task import Bench
from skygraft.json_text import parse_json
from skygraft.records.files import Layout, await_file
from skygraft.records.image_record import PIXEL_VERSION, changes
from skygraft.records.packs import stat_file
from skygraft.records.plan_file import Plan, PlannedImage

__all__ = ["SweptImage", "measure_row"]

_LONGEST = 2000
"""Characters of a message that are kept."""


type Status = Literal["measured", "renewed", "skipped", "failed", "not done"]
"""Measured for the first time with these settings; measured again, because the image was rebuilt since; measured
before; failed; or not injected into yet."""


class SweptImage(NamedTuple):
    """What became of one image."""

    row: int  # in the plan
    image_id: str
    status: Status
    key: str = ""  # `skygraft.campaign.products.part_key`; empty where there is none
    n_rows: int = 0  # of its table
    seconds: float = 0.0  # processor time
    stamp: tuple[int, int] = (-1, -1)  # size in bytes and time of last change in ns of its record
    error: str = ""  # class of the error
    message: str = ""  # what it says


@dataclass(frozen=True)
class _Work:
    """What a worker keeps for all images: the campaign, the settings, and the plan."""

    bench: Bench
    plan: Plan
    settings: dict[str, Any]
    pixel_settings: dict[str, Any]


@functools.lru_cache(maxsize=2)
def open_work(order: str, identity: tuple[int, int], plan: tuple[int, int]) -> _Work:
    """What is to be done, read once in each process."""
    await_file(Path(order), identity, "settings of the measurement")
    content = parse_json(Path(order).read_bytes())
    bench = Bench(parse_config(content["campaign"]))
    await_file(bench.layout.plan, plan, "plan")
    return _Work(bench, Plan(bench.layout.plan), content["settings"], bench.config.pixel_settings())


def measure_row(
    row: int, *, product: Product, order: str, identity: tuple[int, int], plan: tuple[int, int], redo: bool = False
) -> SweptImage:
    """Measure an image, and write the result; an error is a result, too.

    Parameters
    ----------
    row : int
        Row of the plan.
    product : Product
        What to measure.
    order : str
        Path of `skygraft.campaign.products.ProductLayout.order`.
    identity, plan : (int, int)
        `skygraft.disk.FileIdentity.size_and_time` of that file and of the plan.
    redo : bool
        Measure although there is a result already.

    Raises
    ------
    CampaignError
        If this machine does not see the same files.
    """
    work = open_work(order, identity, plan)
    image = next(work.plan.images([row]))
    layout = Layout(work.bench.config.output)
    part = ProductLayout(layout.root, product.name).part(image.tract, image.patch, image.stem)
    header = PartHeader(image.image_id, "", settings_digest(product, work.settings))
    clock, stamp, table, before = time.process_time(), (-1, -1), pa.table({}), None
    try:
        state = stat_file(layout.record(image.tract, image.patch, image.stem))
        stamp = state.n_bytes, state.mtime_ns
        record = record_of(layout, image)
        inputs = None if product.inputs is None else product.inputs(image, work.settings)
        header = replace(header, key=part_key(header.settings, record, inputs))
        before = read_part_header(part)
        if not redo and before is not None and not before.error and _same(before, header):
            return SweptImage(row, image.image_id, "skipped", before.key, before.n_rows, before.seconds, stamp)
        _check_record(record, image, work, layout)
        table = _measured(product, image, work)
        header = replace(header, n_rows=table.num_rows)
    except FileNotFoundError as error:
        if stamp[0] < 0:
            return SweptImage(row, image.image_id, "not done")
        header = _failed(header, error)
    except Exception as error:
        header = _failed(header, error)
    header = replace(header, seconds=round(time.process_time() - clock, 3))
    try:
        _write(part, table, header)
    except OutputError as error:
        header, table = _failed(header, error), pa.table({})
    renewed = before is not None and before.settings == header.settings and before.key not in ("", header.key)
    status: Status = "failed" if header.error else "renewed" if renewed else "measured"
    numbers = header.n_rows, header.seconds, stamp
    return SweptImage(row, image.image_id, status, header.key, *numbers, header.error, header.message)


def _same(before: PartHeader, now: PartHeader) -> bool:
    return (before.image_id, before.key, before.settings) == (now.image_id, now.key, now.settings)


def _check_record(record: dict[str, Any], image: PlannedImage, work: _Work, layout: Layout) -> None:
    """Refuse an image that was not made from what is there now: its original is not what sources were added to."""
    config = work.bench.config
    # A newer skygraft measures what an older one made.
    reasons = changes(record | {"code": PIXEL_VERSION}, image, config.survey.root, work.pixel_settings)
    if reasons:
        raise CampaignError(
            f"the image was made from something else than what is there now: {'; '.join(reasons)}",
            path=layout.images / image.output,
            fix="Put it back, or make the image again: skygraft run --redo",
        )


def _measured(product: Product, image: PlannedImage, work: _Work) -> pa.Table:
    pair = read_pair(work.bench.config, image, work.bench.partitions)
    table = product.measure(pair, work.settings)
    if not isinstance(table, pa.Table):
        raise TypeError(f"{product.measure.__qualname__} returned {type(table).__name__}; a pyarrow.Table is needed")
    return table


def _failed(header: PartHeader, error: Exception) -> PartHeader:
    frames = traceback.extract_tb(error.__traceback__)
    message = str(error)[:_LONGEST]
    if not isinstance(error, SkygraftError) and frames:
        message += f" ({Path(frames[-1].filename).name}:{frames[-1].lineno} in {frames[-1].name})"
    return replace(header, error=type(error).__name__, message=message, n_rows=0)


def _write(part: Path, table: pa.Table, header: PartHeader) -> None:
    try:
        write_part(part, table, header)
    except OutputError:
        # The end of a run removes temporary files, of which this one may have been taken for one.
        write_part(part, table, header)
