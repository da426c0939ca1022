"""Which images of a campaign are done, and samples of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from skygraft.errors import CampaignError, ConfigError
from skygraft.planning.check import choose_images
from skygraft.records.plan_file import Plan, campaign_plan
from skygraft.records.status import DONE, record_states

if TYPE_CHECKING:
    from skygraft.campaign.campaign import Campaign

__all__ = ["finished_rows", "sample_rows"]


def finished_rows(campaign: Campaign) -> tuple[Plan, NDArray[np.int64]]:
    """The plan of a campaign, and the rows of the images that are done.

    Returns
    -------
    plan : Plan
    rows : ndarray of int64
        Ascending.

    Raises
    ------
    CampaignError
        If there is no plan, no image is done, or the output folder is that of another campaign.
    """
    layout = campaign.layout
    if (outputs := layout.outputs) is not None:
        outputs.sync()
    plan = campaign_plan(layout.plan)
    campaign.check_owner()
    done = record_states(plan, layout)[0].rows(DONE)
    if not len(done):
        raise CampaignError("no image of the campaign is done", path=layout.root, fix="Run it first: skygraft run")
    return plan, done


def sample_rows(campaign: Campaign, sample: int | None) -> tuple[NDArray[np.int64], int]:
    """Choose a sample of the images of a campaign that are done.

    Parameters
    ----------
    campaign : Campaign
        A campaign that has been run, at least in part.
    sample : int or None
        How many images: of all instruments and bands (at least one of each) and of as many visits as possible, and
        always the same ones; None for all that are done.

    Returns
    -------
    rows : ndarray of int64
        Rows of the chosen images in the plan.
    n_done : int
        Number of images that are done.

    Raises
    ------
    CampaignError
        If there is no plan, no image is done, or the output folder is that of another campaign.
    ConfigError
        If `sample` is not a positive number.
    """
    plan, done = finished_rows(campaign)
    if sample is not None and sample <= 0:
        raise ConfigError(f"sample is {sample}; it must be positive", key="sample", fix="Give a positive number")
    return choose_images(plan, "all" if sample is None else sample, among=done), len(done)
