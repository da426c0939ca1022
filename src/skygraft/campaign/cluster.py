"""Where the tasks run: this machine, or a Dask scheduler that is running already."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from typing import Any

import dask
from distributed import Client, LocalCluster, WorkerPlugin

from skygraft.campaign.config import ClusterConfig
from skygraft.errors import CampaignError

__all__ = ["open_client"]

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


@contextlib.contextmanager
def open_client(config: ClusterConfig, n_workers: int | None = None) -> Iterator[Client]:
    """A client of the cluster that a configuration names; what was started here is stopped at the end.

    Parameters
    ----------
    config : ClusterConfig
        Which cluster.
    n_workers : int, optional
        Processes of a local cluster, instead of what the configuration says.

    Raises
    ------
    CampaignError
        If the scheduler does not answer.
    """
    if config.kind == "scheduler":
        try:
            client = Client(config.address, set_as_default=False, timeout="30s")
        except (OSError, TimeoutError) as error:
            raise CampaignError(
                f"no Dask scheduler answers at {config.address} ({error})",
                key="cluster.address",
                fix="Start one with `dask scheduler`, or correct the address",
            ) from error
        with client:
            yield client
        return
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
        yield client
