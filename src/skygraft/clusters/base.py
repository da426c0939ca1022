"""What all kinds of clusters share: the open cluster, the wait for its first worker, and the scratch folder."""

from __future__ import annotations

import functools
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass

from distributed import Client

from skygraft.clusters.connection import insist, is_lost, scheduler_lost
from skygraft.clusters.watchdog import Outlook
from skygraft.config.yaml_schema import parse_timeout
from skygraft.errors import CampaignError
from skygraft.wording import duration

__all__ = ["OpenCluster", "expanded_scratch", "wait_for_worker"]

_FIRST_MESSAGE_SECONDS, _MESSAGE_SECONDS = 3.0, 60.0
_POLL_SECONDS = 0.2


@dataclass(frozen=True)
class OpenCluster:
    """A cluster that is ready for tasks.

    Parameters
    ----------
    client : distributed.Client
        Client of the cluster's scheduler.
    max_threads : int
        Number of worker threads once the cluster has grown to its largest size; it sets how many tasks are submitted.
    kind : str
        Kind of the cluster, as in `ClusterConfig`.
    outlook : callable
        Returns whether more workers may come.
    dashboard : str
        Address of the dashboard; empty if there is none. `open_cluster` fills it in.
    """

    client: Client
    max_threads: int
    kind: str
    outlook: Callable[[], Outlook] = Outlook
    dashboard: str = ""


def wait_for_worker(
    client: Client,
    start_timeout: str | float | None,
    say: Callable[[str], None],
    *,
    problem: str,
    fix: str,
    key: str = "cluster",
) -> None:
    """Wait until a cluster has a worker.

    Parameters
    ----------
    client : distributed.Client
        Client of the cluster.
    start_timeout : str, float or None
        How long to wait, as `parse_timeout` takes it.
    say : callable
        Called with a message after a few seconds without a worker, and then once a minute.
    problem : str
        What is wrong as long as there is no worker, for messages.
    fix : str
        What to do about it, for messages.
    key : str
        Key of the configuration that an error names.

    Raises
    ------
    CampaignError
        If no worker comes in time, or the scheduler is lost.
    """
    started = time.monotonic()
    next_message = started + _FIRST_MESSAGE_SECONDS
    timeout = parse_timeout(start_timeout)
    lost = functools.partial(is_lost, client)
    while True:
        if lost():
            raise scheduler_lost(client)
        if insist(client.nthreads, hopeless=lost):
            return
        now = time.monotonic()
        if now - started > timeout:
            raise CampaignError(f"{problem} after {start_timeout} (start_timeout)", key=key, fix=fix)
        if now >= next_message:
            next_message = now + _MESSAGE_SECONDS
            say(f"{problem}, for {duration(now - started)} now; waiting for the first one. {fix}")
        time.sleep(_POLL_SECONDS)


def expanded_scratch(scratch: str | None) -> str | None:
    """Return the scratch folder of workers that this process starts, with environment variables expanded.

    Parameters
    ----------
    scratch : str or None
        The folder, as in the configuration.

    Raises
    ------
    CampaignError
        If a variable is not set: its name would otherwise become that of a folder in the current one.
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
