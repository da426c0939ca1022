"""Where the tasks run: this machine, or a Dask scheduler that is running already."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask
from distributed import Client, LocalCluster, WorkerPlugin

from skygraft.campaign.config import ClusterConfig
from skygraft.errors import CampaignError

__all__ = ["OpenCluster", "open_cluster"]

_SETTINGS = {
    # Without an idea of how long a task is, adaptive clusters grow and shrink all the time.
    "distributed.scheduler.unknown-task-duration": "1m",
    "distributed.dashboard.link": "{scheme}://{host}:{port}/status",
}


class _IgnoreInterrupt(WorkerPlugin):
    """Ctrl-C reaches every process of the terminal; only the driver is to act on it."""

    name = "skygraft-ignore-interrupt"

    def setup(self, worker: Any) -> None:
        del worker
        signal.signal(signal.SIGINT, signal.SIG_IGN)


@dataclass(frozen=True)
class OpenCluster:
    """A cluster that is ready for tasks.

    Parameters
    ----------
    client : distributed.Client
        Its client.
    max_threads : int
        Worker threads that it has when it has grown as far as it may; how many tasks to keep in flight follows.
    dashboard : str
        Address of the dashboard; empty where there is none.
    kind : str
        As in `ClusterConfig`.
    """

    client: Client
    max_threads: int
    dashboard: str
    kind: str


@contextlib.contextmanager
def open_cluster(
    config: ClusterConfig, *, n_workers: int | None = None, logs: Path | None = None
) -> Iterator[OpenCluster]:
    """The cluster that a configuration names; what was started here is stopped at the end, however it ends.

    Parameters
    ----------
    config : ClusterConfig
        Which cluster.
    n_workers : int, optional
        Largest number of workers, instead of what the configuration says.
    logs : Path, optional
        Folder for the logs of jobs, which the workers' machines see too.

    Raises
    ------
    CampaignError
        If the cluster does not answer.
    """
    del logs
    opened = _running(config) if config.kind == "scheduler" else _local(config, n_workers)
    with opened as cluster:
        yield cluster


@contextlib.contextmanager
def _running(config: ClusterConfig) -> Iterator[OpenCluster]:
    try:
        client = Client(config.address, set_as_default=False, timeout="30s")
    except (OSError, TimeoutError) as error:
        raise CampaignError(
            f"no Dask scheduler answers at {config.address} ({error})",
            key="cluster.address",
            fix="Start one with `dask scheduler`, or correct the address",
        ) from error
    with client:
        n_threads = sum(client.nthreads().values())
        yield OpenCluster(client, max(1, n_threads), client.dashboard_link or "", config.kind)


@contextlib.contextmanager
def _local(config: ClusterConfig, n_workers: int | None) -> Iterator[OpenCluster]:
    count = n_workers or config.n_workers or len(os.sched_getaffinity(0))
    with (
        dask.config.set(_SETTINGS),
        LocalCluster(
            n_workers=count,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            # The dashboard shows tasks and machines to whoever reaches it: loopback only.
            dashboard_address="127.0.0.1:0",
            memory_limit=config.memory_limit or "auto",
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        client.register_plugin(_IgnoreInterrupt())
        yield OpenCluster(client, count, client.dashboard_link or "", config.kind)
