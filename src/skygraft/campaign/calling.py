"""One place that decides where work on a campaign's images is done: on a cluster, in processes, or in this one."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from skygraft.config.campaign import CampaignConfig
from skygraft.processes import process_mapper
from skygraft.records.files import Layout

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["Call", "cores", "open_call"]

type Call = Callable[..., Iterator[Any]]
"""``call(function, items, **arguments)`` gives ``function(item, **arguments)`` for each item, in any order.

With ``lost=``, ``lost(item, reason)`` is the result of an item whose worker or process dies; without it that ends all.
"""


def cores(processes: int | None = None) -> int:
    """The number of processes asked for, or that of the cores that this process may use."""
    return processes or len(os.sched_getaffinity(0))


@contextlib.contextmanager
def open_call(
    config: CampaignConfig,
    client: Client | None = None,
    *,
    cluster: bool = False,
    n_workers: int | None = None,
    processes: int | None = None,
    useful: int = 1,
) -> Iterator[Call]:
    """Context that yields what applies a function to many items, with a bounded number of them under way.

    Parameters
    ----------
    config : CampaignConfig
        The campaign, which names a cluster.
    client : distributed.Client, optional
        A cluster to use.
    cluster : bool
        Open the cluster that the configuration names, if no client is given; otherwise processes of this machine work.
    n_workers : int, optional
        Largest number of that cluster's workers; with 0 the work is done in this process.
    processes : int, optional
        Processes of this machine; by default one for each core, and no more than are useful. 1 works in this process.
    useful : int
        Number of processes that there is work for.

    Yields
    ------
    callable
        See `Call`. Functions and arguments are picklable.

    Raises
    ------
    CampaignError
        If the cluster cannot be opened; from the callable, if it fails or a process dies.
    """
    with contextlib.ExitStack() as stack:
        if client is None and cluster and n_workers != 0:
            from skygraft.clusters.cluster import open_cluster

            opened = open_cluster(
                config.cluster,
                n_workers=n_workers,
                logs=Layout(config.output).root / "logs",
                task_seconds=config.task_seconds,
            )
            client = stack.enter_context(opened).client
        if client is not None:
            from skygraft.execution.mapping import map_items

            yield functools.partial(map_items, client)
            return
        number = 1 if n_workers == 0 else processes or min(cores(), max(1, useful))
        mapper = stack.enter_context(process_mapper(number))

        def by_processes(
            function: Callable[..., Any],
            items: Iterable[Any],
            *,
            lost: Callable[[Any, str], Any] | None = None,
            **arguments: Any,
        ) -> Iterator[Any]:
            # One that this process works on cannot die without it.
            options = {"lost": lost} if number > 1 else {}
            return iter(mapper(functools.partial(function, **arguments), items, **options))

        yield by_processes
