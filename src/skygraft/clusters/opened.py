"""A cluster that is ready for tasks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from distributed import Client

from skygraft.clusters.watchdog import Outlook

__all__ = ["OpenCluster"]


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
    outlook : callable
        Whether other workers may still come.
    """

    client: Client
    max_threads: int
    dashboard: str
    kind: str
    outlook: Callable[[], Outlook] = Outlook
