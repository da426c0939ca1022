"""What the driver gives to workers: a name for what a task does, without what it needs to do it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from skygraft.records.image_summary import ImageSummary

__all__ = ["inject_into"]


def inject_into(rows: Sequence[int], **given: Any) -> list[ImageSummary]:
    """Inject into some images of a campaign, see `skygraft.execution.task.run_task`.

    Parameters
    ----------
    rows : sequence of int
        Rows of the plan, ascending.
    **given
        The other parameters of `run_task`.

    Returns
    -------
    list of ImageSummary
        One for each image, in order.
    """
    # Of what draws, a second and a hundred megabytes, which a driver does without.
    from skygraft.execution.task import run_task

    return run_task(rows, **given)
