"""Drive rows of a plan that nobody made: what the driver's tests have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from distributed import Client

from skygraft.clusters.cluster_watch import ClusterWatch
from skygraft.execution import driver
from skygraft.execution.jobs import DriveResult, Jobs
from skygraft.records.image_summary import ImageSummary


def jobs(n: int) -> Jobs:
    """So many images of a second each, fifty to a patch."""
    rows = np.arange(n)
    return Jobs(rows, rows // 50, np.ones(n), np.zeros(n, dtype=int))


def name_of(row: int) -> str:
    return f"image-{row:04}"


class Reports:
    """Passes on what the driver reports."""

    def __init__(
        self,
        listener: Callable[[Sequence[int], list[ImageSummary]], None] = lambda rows, summaries: None,
        look: Callable[[], None] = lambda: None,
    ) -> None:
        self.images, self.check = listener, look

    def identify(self, row: int) -> dict[str, Any]:
        return {"image_id": name_of(row), "tract": 0, "patch": row // 50, "band": "r"}


def drive(
    client: Client,
    images: Jobs,
    output: str,
    *,
    work: Callable[..., Any],
    listener: Callable[[Sequence[int], list[ImageSummary]], None] = lambda rows, summaries: None,
    look: Callable[[], None] = lambda: None,
    watch: ClusterWatch | None = None,
    **settings: Any,
) -> DriveResult:
    """Drive images; `work` gets rows and `output`."""
    return driver.drive(
        client,
        images,
        partial(work, output=output),
        Reports(listener, look),
        driver.DriveSettings(**settings),
        watch=watch,
    )
