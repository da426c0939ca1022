"""Settings of Dask, for the process that starts a cluster and for the jobs that start its workers.

Dask's processes monitor themselves all the time: their event loops fifty times a second, their stacks a hundred times,
their memory ten times. That takes 4 per cent of a core in a worker, and 7 per cent in a driver with a cluster of its
own, which two workers on two cores cannot spare. With `CALM` it is 0.5 and 1.5 per cent. The dashboard shows the same,
with coarser steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["CALM", "DRIVER", "JOBS", "PATIENT", "WORKERS", "as_environment"]

CALM: dict[str, Any] = {
    "distributed.admin.tick.interval": "500ms",
    "distributed.admin.system-monitor.interval": "2s",
    "distributed.worker.profile.interval": "200ms",
    # Often enough: a worker whose memory grows by 2 GB/s is paused before it has taken another GB.
    "distributed.worker.memory.monitor-interval": "500ms",
}

WORKERS: dict[str, Any] = {
    **CALM,
    # If hundreds of workers start together, the scheduler cannot answer them all within the default time.
    "distributed.comm.timeouts.connect": "60s",
}
"""Settings of the workers' processes."""

PATIENT: dict[str, Any] = {
    # The nanny of a worker that died starts another one, which may take long; Dask would close the nanny meanwhile.
    "distributed.deploy.lost-worker-timeout": "365d",
}
"""Settings of the process that has a cluster on this machine."""

DRIVER: dict[str, Any] = {
    **WORKERS,
    # Without an estimate of a task's length, adaptive clusters grow and shrink all the time.
    "distributed.scheduler.unknown-task-duration": "1m",
    # Tasks wait at the scheduler, not at a worker that may die: fewer are run again, and the workers finish together.
    "distributed.scheduler.worker-saturation": 1.0,
    **PATIENT,
    # Dask's own, without that which has workers give freed memory back at once: see `skygraft.processes.keep_memory`.
    "distributed.nanny.pre-spawn-environ": {
        "OMP_NUM_THREADS": 1,
        "MKL_NUM_THREADS": 1,
        "OPENBLAS_NUM_THREADS": 1,
    },
    "distributed.dashboard.link": "{scheme}://{host}:{port}/status",
}
"""Settings of the process that starts a cluster, and of the processes that it starts itself."""

JOBS: dict[str, Any] = {
    # Jobs that have ended are missing from the batch system's list. This is for jobs that go on without their worker:
    # a nanny in the job may be restarting it, which takes most of a minute on a slow file system.
    "distributed.deploy.lost-worker-timeout": "5m",
}
"""Settings of the process that starts a cluster of batch jobs; they override `DRIVER`."""


def as_environment(settings: Mapping[str, Any]) -> dict[str, str]:
    """Return settings as the environment variables that Dask reads them from."""
    return {f"DASK_{name.replace('.', '__').replace('-', '_').upper()}": str(of) for name, of in settings.items()}
