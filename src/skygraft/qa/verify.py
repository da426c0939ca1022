"""Verify a campaign from its outputs alone: read what was written, and measure what was put in."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import QTable, vstack
from numpy.typing import NDArray

from skygraft.campaign import Campaign, CampaignConfig, Plan, PlannedImage, read_plan
from skygraft.catalog.io import from_arrow
from skygraft.errors import CampaignError, ConfigError, SkygraftError
from skygraft.execution.task import sources_of
from skygraft.exposure import Exposure
from skygraft.formats import read_exposure
from skygraft.planning.check import choose_images
from skygraft.planning.reading import read_image
from skygraft.processes import process_mapper
from skygraft.qa.closure import measure_closure
from skygraft.records.files import Layout
from skygraft.records.image_record import read_record
from skygraft.records.packs import file_exists
from skygraft.records.plan_file import campaign_plan
from skygraft.records.status import DONE, record_states
from skygraft.tables.truth_parts import read_truth_part

__all__ = ["SAMPLE", "chosen_images", "finished_images", "read_pair", "verify_campaign"]

SAMPLE = 100
"""Images that are measured unless more are asked for; they take about a second each."""
_WORTH_A_PROCESS = 6
"""Images for which it pays to start another process, which takes some seconds."""


def finished_images(campaign: Campaign) -> list[tuple[PlannedImage, dict[str, Any]]]:
    """The images of a campaign that are done, each with its record.

    Raises
    ------
    CampaignError
        If there is no plan.
    """
    images = read_plan(campaign.layout.plan)
    records = [read_record(campaign.layout.record(i.tract, i.patch, i.stem), i.image_id) for i in images]
    return [(image, record) for image, record in zip(images, records, strict=True) if record is not None]


def read_pair(campaign: Campaign, image: PlannedImage) -> tuple[Exposure, Exposure, QTable]:
    """An image before and after injection, and the truth table of what was injected.

    Raises
    ------
    CampaignError
        If its record or truth is damaged.
    SkygraftError
        Whatever reading an image raises.
    """
    return _read_pair(campaign.config, image, _record_of(campaign.layout, image))


def _record_of(layout: Layout, image: PlannedImage) -> dict[str, Any]:
    path = layout.record(image.tract, image.patch, image.stem)
    if (record := read_record(path, image.image_id)) is None:
        what = "the record is damaged" if file_exists(path) else "there is no record: the image is not done"
        raise CampaignError(what, path=path, fix="Make it again: skygraft run")
    return record


def _read_pair(
    config: CampaignConfig, image: PlannedImage, record: dict[str, Any]
) -> tuple[Exposure, Exposure, QTable]:
    layout = Layout(config.output)
    before = read_image(image, config)
    after = read_exposure(layout.images / image.output, format=image.format, **image.format_options())
    part = layout.truth_part(image.tract, image.patch, image.stem)
    written = record["outputs"].get(part.relative_to(layout.root).as_posix(), {})
    return before, after, from_arrow(read_truth_part(part, written.get("sha256", "")))


def chosen_images(campaign: Campaign, sample: int | None = SAMPLE) -> tuple[NDArray[np.int64], int]:
    """Which images of a campaign to measure, as rows of its plan, and how many are done.

    Parameters
    ----------
    campaign : Campaign
        Run, at least in part.
    sample : int or None
        So many of those that are done, of all instruments and bands (at least one of each) and of as many visits as
        can be, always the same ones; None for all.

    Raises
    ------
    CampaignError
        If there is no plan, or no image is done yet.
    ConfigError
        If `sample` is not a positive number.
    """
    plan = campaign_plan(campaign.layout.plan)
    done = record_states(plan, campaign.layout)[0].rows(DONE)
    if not len(done):
        raise CampaignError(
            "no image of the campaign is done", path=campaign.layout.root, fix="Run it first: skygraft run"
        )
    if sample is not None and sample <= 0:
        raise ConfigError(f"a sample of {sample} images says nothing", key="sample", fix="Give a positive number")
    return choose_images(plan, "all" if sample is None else sample, among=done), len(done)


def verify_campaign(
    campaign: Campaign,
    *,
    aperture: Any = None,
    contamination: float = 1e-3,
    sample: int | None = SAMPLE,
    processes: int | None = None,
    progress: Callable[[str], None] | None = None,
) -> QTable:
    """Measure the closure of finished images of a campaign on the files that it wrote.

    Parameters
    ----------
    campaign : Campaign
        Run, at least in part.
    aperture, contamination
        As for `measure_closure`.
    sample : int or None
        How many images; see `chosen_images`.
    processes : int, optional
        Processes of this machine to measure with; by default one for each core, if there is enough to do.
    progress : callable, optional
        Called with the id of each image when it is measured.

    Returns
    -------
    QTable
        The tables of `measure_closure`, stacked, in the order of the plan; ``meta["images"]`` has for each image
        measured its band, the radius and where it came from, and how many stars were isolated and measured;
        ``meta["problems"]`` the images that could not be measured, with the reason; ``meta["n_done"]`` how many images
        are done.

    Raises
    ------
    CampaignError
        If no image is done yet, or one of the processes dies.
    ConfigError
        If `sample` is not a positive number.
    UncalibratedImageError, UnknownApertureError, CalibrationError
        As `measure_closure`, if it is so of every image.
    """
    rows, n_done = chosen_images(campaign, sample)
    cores = processes or len(os.sched_getaffinity(0))
    measure = functools.partial(_measure, config=campaign.config, aperture=aperture, contamination=contamination)
    tables, images, problems = [], [], []
    first: SkygraftError | None = None
    with process_mapper(min(cores, len(rows) // _WORTH_A_PROCESS)) as mapper:
        for found in mapper(measure, rows.tolist()):
            if found.error is not None:
                first = first or found.error
                problems.append({"image_id": found.image_id, "problem": str(found.error)})
            if found.table is not None:
                images.append({"image_id": found.image_id, "band": found.band, **found.table.meta})
                found.table.meta.clear()
                tables.append(found.table)
            if progress:
                progress(found.image_id)
    if first is not None and not tables:
        raise first
    stacked = vstack(tables, metadata_conflicts="silent")
    stacked.meta |= {"images": images, "problems": problems, "n_done": n_done}
    return stacked


@dataclass(frozen=True)
class _Measured:
    """What was measured on an image, or why nothing was."""

    image_id: str
    band: str | None
    table: QTable | None = None
    error: SkygraftError | None = None


@functools.lru_cache(maxsize=1)
def _plan(path: Path) -> Plan:
    return Plan(path)  # which itself sees to it that it is still the same


def _measure(row: int, *, config: CampaignConfig, aperture: Any, contamination: float) -> _Measured:
    """Measure one image of the plan; one that cannot be measured costs no other."""
    layout = Layout(config.output)
    image = next(_plan(layout.plan).images([row]))
    try:
        record = _record_of(layout, image)
        before, after, truth = _read_pair(config, image, record)
        # Where no variance plane tells the noise that was added, the gain that it was drawn with does.
        gain = record.get("injection", {}).get("gain") if before.variance is None else None
        table = measure_closure(
            before,
            after,
            truth,
            aperture=aperture,
            catalog=sources_of(image, config)[0],
            options=config.injection.options(),
            contamination=contamination,
            noise=None if gain is None else True,
            gain=gain,
        )
    except SkygraftError as error:
        return _Measured(image.image_id, image.band, error=error)
    except OSError as error:
        return _Measured(image.image_id, image.band, error=CampaignError(f"it cannot be read ({error})"))
    return _Measured(image.image_id, image.band, table)
