"""What Dask is told: in the process that starts a cluster, and in the jobs that start its workers.

Dask's processes look at themselves all the time: their event loops fifty times a second, their stacks a hundred times,
their memory ten times. That takes 4 per cent of a core in a worker and 7 in a driver with a cluster of its own, which
two workers on two cores cannot spare; with `CALM` it is half a per cent and one and a half. What the dashboard shows of
it is as it was, in coarser steps.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from typing import Any

from skygraft.errors import CampaignError

__all__ = ["CALM", "DRIVER", "JOBS", "PATIENT", "WORKERS", "as_environment", "expanded_scratch"]

CALM: dict[str, Any] = {
    "distributed.admin.tick.interval": "500ms",
    "distributed.admin.system-monitor.interval": "2s",
    "distributed.worker.profile.interval": "200ms",
    # A worker that grows by 2 GB a second is still stopped before it has taken another GB.
    "distributed.worker.memory.monitor-interval": "500ms",
}

WORKERS: dict[str, Any] = {
    **CALM,
    # Where hundreds start at the same time, the scheduler cannot answer all within the usual time.
    "distributed.comm.timeouts.connect": "60s",
}
"""In workers' own processes."""

PATIENT: dict[str, Any] = {
    # The nanny of a worker that died starts another, however long that takes; Dask would close the nanny meanwhile.
    "distributed.deploy.lost-worker-timeout": "365d",
}
"""In the process that has a cluster on this machine."""

DRIVER: dict[str, Any] = {
    **WORKERS,
    # Without an idea of how long a task is, adaptive clusters grow and shrink all the time.
    "distributed.scheduler.unknown-task-duration": "1m",
    # A task waits at the scheduler, not at a worker that may die: less is run again, and the end is evenly spread.
    "distributed.scheduler.worker-saturation": 1.0,
    **PATIENT,
    "distributed.dashboard.link": "{scheme}://{host}:{port}/status",
}
"""In the process that starts a cluster, and in what it starts itself."""

JOBS: dict[str, Any] = {
    # Jobs that have ended are seen in the batch system's list. This is for those that go on without their worker: a
    # nanny in the job may be starting it again, which takes most of a minute on a slow file system.
    "distributed.deploy.lost-worker-timeout": "5m",
}
"""In the process that starts a cluster of jobs, over `DRIVER`."""


def as_environment(settings: Mapping[str, Any]) -> dict[str, str]:
    """Settings as the environment variables in which Dask looks for them."""
    return {f"DASK_{name.replace('.', '__').replace('-', '_').upper()}": str(of) for name, of in settings.items()}


def expanded_scratch(scratch: str | None) -> str | None:
    """The scratch folder of workers that this process starts, with the environment's variables in it.

    Raises
    ------
    CampaignError
        If one of them is not set: else a folder of that name would be made where the command was started.
    """
    if scratch is None:
        return None
    folder = os.path.expanduser(os.path.expandvars(scratch))  # noqa: PTH111 - a variable may come first
    if "$" in folder:
        raise CampaignError(
            f"scratch is {scratch!r}, and not all of it is set in the environment of {platform.node()}",
            key="cluster.scratch",
            fix="Set the variable, or name the folder",
        )
    return folder
