"""Closure of a campaign from its output files alone: measure the injected stars and compare with the catalogue."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from astropy.table import QTable, vstack

from skygraft.campaign import Campaign, CampaignConfig, Plan, PlannedImage, read_plan
from skygraft.campaign.finished import sample_rows
from skygraft.campaign.pairs import read_pair
from skygraft.errors import CampaignError, SkygraftError
from skygraft.processes import process_mapper
from skygraft.qa.closure import measure_closure
from skygraft.records.files import Layout
from skygraft.records.image_record import read_record

__all__ = ["SAMPLE", "campaign_closure", "finished_images"]

SAMPLE = 100
"""Default number of images to measure; each takes about a second."""
_WORTH_A_PROCESS = 6
"""Number of images per process from which starting another process, which takes seconds, is worthwhile."""


def finished_images(campaign: Campaign) -> list[tuple[PlannedImage, dict[str, Any]]]:
    """Return the images of a campaign that are done, each with its record.

    Parameters
    ----------
    campaign : Campaign

    Returns
    -------
    list of (PlannedImage, dict)

    Raises
    ------
    CampaignError
        If there is no plan.
    """
    images = read_plan(campaign.layout.plan)
    records = [read_record(campaign.layout.record(i.tract, i.patch, i.stem), i.image_id) for i in images]
    return [(image, record) for image, record in zip(images, records, strict=True) if record is not None]


def campaign_closure(
    campaign: Campaign,
    *,
    aperture: Any = None,
    contamination: float = 1e-3,
    sample: int | None = SAMPLE,
    processes: int | None = None,
    progress: Callable[[str], None] | None = None,
) -> QTable:
    """Measure the closure of a campaign's finished images from its output files.

    Parameters
    ----------
    campaign : Campaign
        A campaign that has been run, at least in part.
    aperture, contamination
        As for `measure_closure`.
    sample : int or None
        Number of images; see `skygraft.campaign.finished.sample_rows`.
    processes : int, optional
        Number of processes on this machine; by default one per core, if there are enough images.
    progress : callable, optional
        Called with the id of each image after it has been measured.

    Returns
    -------
    QTable
        The tables of `measure_closure`, stacked, in the order of the plan. ``meta["images"]`` lists, for each measured
        image, band, radius and its origin, and the numbers of isolated and measured stars; ``meta["problems"]`` lists
        images that could not be measured, with the reason; ``meta["n_done"]`` is the number of images that are done.

    Raises
    ------
    CampaignError
        If no image is done yet, or one of the processes dies.
    ConfigError
        If `sample` is not a positive number.
    UncalibratedImageError, UnknownApertureError, CalibrationError
        As `measure_closure`, if it fails for every image.
    """
    rows, n_done = sample_rows(campaign, sample)
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
    """Measurements of an image, or the error if there are none."""

    image_id: str
    band: str | None
    table: QTable | None = None
    error: SkygraftError | None = None


@functools.lru_cache(maxsize=1)
def _plan(path: Path) -> Plan:
    return Plan(path)  # checks itself that the file has not changed


def _measure(row: int, *, config: CampaignConfig, aperture: Any, contamination: float) -> _Measured:
    """Measure one image of the plan; errors are returned, so that other images are still measured."""
    image = next(_plan(Layout(config.output).plan).images([row]))
    try:
        pair = read_pair(config, image)
        # Without a variance plane, the noise follows from the gain that it was drawn with.
        gain = pair.record.get("injection", {}).get("gain") if pair.before.variance is None else None
        table = measure_closure(
            pair.before,
            pair.after,
            pair.truth,
            aperture=aperture,
            catalog=pair.sources,
            options=config.injection.options(),
            contamination=contamination,
            noise=None if gain is None else True,
            gain=gain,
            light_curves=pair.light_curves,
            role=pair.role,
        )
    except SkygraftError as error:
        return _Measured(image.image_id, image.band, error=error)
    except OSError as error:
        return _Measured(image.image_id, image.band, error=CampaignError(f"it cannot be read ({error})"))
    return _Measured(image.image_id, image.band, table)
