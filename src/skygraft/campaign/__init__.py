"""Inject into a whole survey: plan, run on a Dask cluster, resume, consolidate."""

from skygraft.campaign.campaign import Campaign
from skygraft.campaign.config import CampaignConfig, load_config, parse_config
from skygraft.campaign.image_summary import ImageSummary
from skygraft.campaign.ledger import Failure
from skygraft.campaign.monitor import NoReporter, Reporter, RichReporter
from skygraft.campaign.plan_summary import PlanSummary
from skygraft.campaign.planned import PlannedImage, read_plan
from skygraft.campaign.summaries import RunSummary, Status, UnusableImage
from skygraft.campaign.task import run_image, run_task

__all__ = [
    "Campaign",
    "CampaignConfig",
    "Failure",
    "ImageSummary",
    "NoReporter",
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
