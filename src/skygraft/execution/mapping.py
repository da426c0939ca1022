"""Apply a function to many items, on a cluster or in this process."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from distributed import Client, Future, KilledWorker, as_completed

from skygraft.clusters.cluster_watch import ClusterWatch
from skygraft.clusters.connection import insist, is_lost, scheduler_lost
from skygraft.errors import CampaignError

__all__ = ["map_items"]

_ITEMS_PER_TASK = 8
_WINDOW_PER_THREAD = 4
_SMALLEST_WINDOW = 32
_POLL_SECONDS = 0.02


def _each(items: Iterable[Any], function: Callable[..., Any], arguments: dict[str, Any]) -> list[Any]:
    return [function(item, **arguments) for item in items]


def map_items[Item, Result](
    client: Client | None,
    function: Callable[..., Result],
    items: Iterable[Item],
    *,
    watch: ClusterWatch | None = None,
    lost: Callable[[Item, str], Result] | None = None,
    **arguments: Any,
) -> Iterator[Result]:
    """Apply a function to many items, on a cluster or in this process, with a bounded number in flight.

    Parameters
    ----------
    client : distributed.Client or None
        The cluster; None for this process.
    function : callable
        Called as ``function(item, **arguments)``; importable on the workers.
    items : iterable
        Each small.
    watch : ClusterWatch, optional
        Looks after the cluster; by default one with the usual patience.
    lost : callable, optional
        Gives the result of an item that kills every worker that takes it, from the item and the reason; without it
        such an item ends everything.

    Yields
    ------
    object
        Results, in the order in which they arrive.

    Raises
    ------
    Exception
        What the function raises.
    CampaignError
        If the scheduler is lost, no worker can go on, or every worker that takes one of the items dies and `lost` is
        not given.
    """
    if client is None:
        for item in items:
            yield function(item, **arguments)
        return
    # Several at a time: a task costs the scheduler as much as a small patch costs a worker.
    source = itertools.batched(items, _ITEMS_PER_TASK)
    completed = as_completed(loop=client.loop, with_results=True, raise_errors=False)
    flying: dict[Future[Any], Sequence[Item]] = {}
    watch = watch or ClusterWatch(client)
    watch.task_finished()
    errors: set[Future[Any]] = set()
    size = max(_SMALLEST_WINDOW, _WINDOW_PER_THREAD * sum(insist(client.nthreads).values()))
    suspects: list[Item] = []
    at_the_end = False

    def failed(future: Future[Any], result: Any) -> Iterator[Result]:
        """Raise the error of a task; or, if its workers died, try each of its items later, without any other."""
        items = flying.pop(future)
        error = result[1] if isinstance(result, tuple) else result
        if lost is None or not isinstance(error, KilledWorker) or is_lost(client):
            raise _error(result, client)
        future.release()
        if at_the_end:
            yield lost(items[0], "every worker that took it died; see whether there is enough memory for it")
        else:
            # Dask blames all tasks that a worker held when it died.
            suspects.extend(items)

    try:
        while True:
            batch = list(itertools.islice(source, max(0, size - len(flying))))
            if not (batch or flying) and suspects:
                batch, at_the_end = [(suspects.pop(),)], True
            if batch:
                futures = client.map(_each, batch, pure=False, function=function, arguments=arguments)
                flying.update(zip(futures, batch, strict=True))
                completed.update(futures)
            if not flying:
                return
            if not completed.has_ready():
                if watch.due():
                    if end := watch.check(len(flying)):
                        raise CampaignError(end, fix="What is done is kept, so run the campaign again")
                    # `as_completed` keeps some errors to itself, see `_Driver._hear_errors`.
                    before, errors = errors, {future for future in flying if future.status == "error"}
                    for future in errors & before:
                        yield from failed(future, (None, future.exception()))
                time.sleep(_POLL_SECONDS)
                continue
            for future, results in completed.next_batch(block=False):
                watch.task_finished()
                if future not in flying:
                    continue
                if not isinstance(results, list):
                    yield from failed(future, results)
                    continue
                del flying[future]
                future.release()
                yield from results
    finally:
        with contextlib.suppress(OSError):
            if flying and not is_lost(client):
                client.cancel(list(flying))


def _error(result: Any, client: Client) -> BaseException:
    """The error to raise for a task that returned no list."""
    error = result[1] if isinstance(result, tuple) else result
    if isinstance(error, KilledWorker):
        return CampaignError(
            "every worker that took some items of the work after the images died",
            fix="See whether there is enough memory for it; the workers' logs say more. What is done is kept, so run "
            "the campaign again",
        )
    if is_lost(client):
        return scheduler_lost(client)
    return error if isinstance(error, BaseException) else CampaignError(f"the Dask scheduler lost a task ({error})")
