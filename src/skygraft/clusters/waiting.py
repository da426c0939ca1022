"""Wait for the first worker, and say what is waited for."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable

from distributed import Client

from skygraft.clusters.calls import insist
from skygraft.clusters.watching import is_lost, scheduler_lost
from skygraft.config.cluster import ClusterConfig
from skygraft.config.yaml_schema import parse_timeout
from skygraft.errors import CampaignError
from skygraft.wording import duration

__all__ = ["wait_for_worker"]

_FIRST_WORD, _SAY_SECONDS = 3.0, 60.0
_POLL_SECONDS = 0.2


def wait_for_worker(client: Client, config: ClusterConfig, say: Callable[[str], None], *, what: str, fix: str) -> None:
    """Wait until a cluster has a worker, at most as long as its ``start_timeout``.

    Parameters
    ----------
    client : distributed.Client
        The cluster.
    config : ClusterConfig
        Its configuration.
    say : callable
        Hears within seconds what is waited for, and again each minute.
    what : str
        What is the matter while there is no worker.
    fix : str
        What helps.

    Raises
    ------
    CampaignError
        If none comes, or the scheduler is lost meanwhile.
    """
    started = time.monotonic()
    next_word = started + _FIRST_WORD
    timeout = parse_timeout(config.start_timeout)
    lost = functools.partial(is_lost, client)
    while True:
        if lost():
            raise scheduler_lost(client)
        if insist(client.nthreads, broken=lost):
            return
        now = time.monotonic()
        if now - started > timeout:
            key = "cluster.address" if config.kind == "scheduler" else "cluster"
            raise CampaignError(f"{what} after {config.start_timeout} (start_timeout)", key=key, fix=fix)
        if now >= next_word:
            next_word = now + _SAY_SECONDS
            say(f"{what}, for {duration(now - started)} now; waiting for the first one. {fix}")
        time.sleep(_POLL_SECONDS)
