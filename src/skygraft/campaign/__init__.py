"""Inject into a whole survey: plan, run on a Dask cluster, resume, consolidate."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skygraft.lazy import lazy_names

if TYPE_CHECKING:
    from skygraft.campaign.campaign import Campaign
    from skygraft.campaign.config import CampaignConfig, load_config, parse_config
    from skygraft.campaign.image_summary import ImageSummary
    from skygraft.campaign.ledger import Failure
    from skygraft.campaign.monitoring.reporters import NoReporter, Reporter, RichReporter
    from skygraft.campaign.planned import Plan, PlannedImage, read_plan
    from skygraft.campaign.planning.summary import PlanSummary
    from skygraft.campaign.summaries import RunSummary, Status, UnusableImage
    from skygraft.campaign.task import run_image, run_task

_HOMES = {
    "skygraft.campaign.campaign": ("Campaign",),
    "skygraft.campaign.config": ("CampaignConfig", "load_config", "parse_config"),
    "skygraft.campaign.image_summary": ("ImageSummary",),
    "skygraft.campaign.ledger": ("Failure",),
    "skygraft.campaign.monitoring.reporters": ("NoReporter", "Reporter", "RichReporter"),
    "skygraft.campaign.planning.summary": ("PlanSummary",),
    "skygraft.campaign.planned": ("Plan", "PlannedImage", "read_plan"),
    "skygraft.campaign.summaries": ("RunSummary", "Status", "UnusableImage"),
    "skygraft.campaign.task": ("run_image", "run_task"),
}

__all__ = [
    "Campaign",
    "CampaignConfig",
    "Failure",
    "ImageSummary",
    "NoReporter",
    "Plan",
    "PlanSummary",
    "PlannedImage",
    "Reporter",
    "RichReporter",
    "RunSummary",
    "Status",
    "UnusableImage",
    "load_config",
    "parse_config",
    "read_plan",
    "run_image",
    "run_task",
]

# The driver of a large campaign stays small: it does without what draws and plans, unless it is asked to.
if not TYPE_CHECKING:  # else every name would seem to be there
    __getattr__ = lazy_names(__name__, _HOMES)


def __dir__() -> list[str]:
    return sorted(__all__)
