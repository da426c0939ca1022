"""Inject into a whole survey: plan, run on a Dask cluster, resume, consolidate."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skygraft.lazy import lazy_names

if TYPE_CHECKING:
    from skygraft.campaign.campaign import Campaign
    from skygraft.campaign.summaries import RunSummary, Status, UnusableImage
    from skygraft.config.campaign import CampaignConfig, load_config, parse_config
    from skygraft.execution.task import run_image, run_task
    from skygraft.monitoring.reporters import NoReporter, Reporter, RichReporter
    from skygraft.planning.summary import PlanSummary
    from skygraft.records.image_summary import ImageSummary
    from skygraft.records.ledger import Failure
    from skygraft.records.plan_file import Plan, PlannedImage, read_plan

_HOMES = {
    "skygraft.campaign.campaign": ("Campaign",),
    "skygraft.config.campaign": ("CampaignConfig", "load_config", "parse_config"),
    "skygraft.records.image_summary": ("ImageSummary",),
    "skygraft.records.ledger": ("Failure",),
    "skygraft.monitoring.reporters": ("NoReporter", "Reporter", "RichReporter"),
    "skygraft.planning.summary": ("PlanSummary",),
    "skygraft.records.plan_file": ("Plan", "PlannedImage", "read_plan"),
    "skygraft.campaign.summaries": ("RunSummary", "Status", "UnusableImage"),
    "skygraft.execution.task": ("run_image", "run_task"),
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
