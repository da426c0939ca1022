"""What all kinds of clusters share: the open cluster, the wait for its first worker, and the scratch folder."""

from __future__ import annotations

import functools
import importlib
import os
import platform
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from distributed import Client

from skygraft.clusters.connection import insist, is_lost, scheduler_lost
from skygraft.clusters.watchdog import Outlook
from skygraft.config.yaml_schema import parse_timeout
from skygraft.errors import CampaignError
from skygraft.wording import duration

__all__ = ["OpenCluster", "expanded_scratch", "import_extra", "wait_for_worker"]

_FIRST_MESSAGE_SECONDS, _MESSAGE_SECONDS = 3.0, 60.0
_POLL_SECONDS = 0.2


@dataclass(frozen=True)
class OpenCluster:
    """A cluster that is ready for tasks."""

    client: Client
    max_threads: int
    """Worker threads once the cluster has grown to its largest size; it sets how many tasks are submitted."""
    kind: str
    outlook: Callable[[], Outlook] = Outlook
    """Returns whether more workers may come."""
    dashboard: str = ""
    """Address of the dashboard, which `open_cluster` fills in; empty if there is none."""


def wait_for_worker(
    client: Client,
    start_timeout: str | float | None,
    say: Callable[[str], None],
    *,
    problem: str,
    fix: str,
    key: str = "cluster",
) -> None:
    """Wait until a cluster has a worker; say so after a few seconds without one, and then once a minute.

    Messages say what is wrong as long as there is none, and what to do about it; an error names the key of the
    configuration. `CampaignError` is raised if no worker comes in time, or the scheduler is lost.
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


def import_extra(name: str, extra: str) -> Any:
    """Return a module of a package that an extra of skygraft installs; without it, raise a `CampaignError`."""
    is_main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGINT)
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0].replace("_", "-")
        raise CampaignError(
            f"this kind of cluster needs {package}, which is not installed, or cannot be used ({error})",
            key="cluster.kind",
            fix=f"Install it with `pip install 'skygraft[{extra}]'`",
        ) from error
    finally:
        # dask_jobqueue replaces the handler of SIGINT when it is imported.
        if is_main and before is not None:
            signal.signal(signal.SIGINT, before)


def expanded_scratch(scratch: str | None) -> str | None:
    """Return the scratch folder of workers that this process starts, with environment variables expanded.

    One that is not set is a `CampaignError`: its name would otherwise become that of a folder in the current one.
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
