"""Verify a campaign from its outputs alone: read what was written, and measure what was put in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from astropy.table import QTable, vstack

from skygraft.campaign import Campaign, PlannedImage, read_plan
from skygraft.campaign.reading import read_image
from skygraft.campaign.records import read_record
from skygraft.campaign.tables.truth_parts import read_truth_part
from skygraft.campaign.task import sources_of
from skygraft.catalog.io import from_arrow
from skygraft.errors import CampaignError
from skygraft.exposure import Exposure
from skygraft.formats import read_exposure
from skygraft.qa.closure import measure_closure

__all__ = ["finished_images", "read_pair", "verify_campaign"]


def finished_images(campaign: Campaign) -> list[tuple[PlannedImage, dict[str, Any]]]:
    """The images of a campaign that are done, each with its record.

    Raises
    ------
    CampaignError
        If there is no plan.
    """
    images = read_plan(campaign.layout.plan)
    records = [read_record(campaign.layout.record(i.tract, i.patch, i.stem)) for i in images]
    return [(image, record) for image, record in zip(images, records, strict=True) if record is not None]


def read_pair(campaign: Campaign, image: PlannedImage) -> tuple[Exposure, Exposure, QTable]:
    """An image before and after injection, and the truth table of what was injected."""
    before = read_image(image, campaign.config)
    after = read_exposure(campaign.layout.images / image.output, format=image.format, **image.format_options())
    truth = from_arrow(read_truth_part(campaign.layout.truth_part(image.tract, image.patch, image.stem).read_bytes()))
    return before, after, truth


def verify_campaign(
    campaign: Campaign,
    *,
    aperture: Any = None,
    contamination: float = 1e-3,
    progress: Callable[[str], None] | None = None,
) -> QTable:
    """Measure the closure of every finished image of a campaign on the files that it wrote.

    Parameters
    ----------
    campaign : Campaign
        Run, at least in part.
    aperture, contamination
        As for `measure_closure`.
    progress : callable, optional
        Called with the id of each image when it is measured.

    Returns
    -------
    QTable
        The tables of `measure_closure`, stacked; ``meta["images"]`` has for each image its band, the radius and where
        it came from, and how many stars were isolated and measured.

    Raises
    ------
    CampaignError
        If no image is done yet.
    """
    tables, images = [], []
    for image, record in finished_images(campaign):
        before, after, truth = read_pair(campaign, image)
        # Where no variance plane tells the noise that was added, the gain that it was drawn with does.
        gain = record.get("injection", {}).get("gain") if before.variance is None else None
        table = measure_closure(
            before,
            after,
            truth,
            aperture=aperture,
            catalog=sources_of(image, campaign.config)[0],
            options=campaign.config.injection.options(),
            contamination=contamination,
            noise=None if gain is None else True,
            gain=gain,
        )
        images.append({"image_id": image.image_id, "band": image.band, **table.meta})
        table.meta.clear()
        tables.append(table)
        if progress:
            progress(image.image_id)
    if not tables:
        raise CampaignError(
            "no image of the campaign is done", path=campaign.layout.root, fix="Run it first: skygraft run"
        )
    stacked = vstack(tables, metadata_conflicts="silent")
    stacked.meta["images"] = images
    return stacked
