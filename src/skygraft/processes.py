"""A `map` over several processes of this machine that keeps the order, and holds little."""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from skygraft.errors import CampaignError

__all__ = ["MOST_PROCESSES", "Mapper", "process_mapper"]

MOST_PROCESSES = 1024
"""Processes of this machine that a mapper starts at most; more would end the machine before the work."""

_FEW_CHUNKS = 12
_NONE = object()

type Mapper = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]
"""``mapper(function, items)`` gives the function's results in the order of the items, as `map` does."""


@contextlib.contextmanager
def process_mapper(processes: int) -> Iterator[Callable[..., Iterable[Any]]]:
    """A mapper over so many processes; with one, `map` itself.

    It takes ``chunksize``, the number of items that are handed over at a time. Items are taken as they are needed; a
    few are done in this process, since another one takes seconds to start.
    The processes start afresh, so that a script that uses this has its work below ``if __name__ == "__main__":``.

    Raises
    ------
    CampaignError
        If there are more than `MOST_PROCESSES`; from the mapper, if a process dies.
    """
    if processes > MOST_PROCESSES:
        raise CampaignError(
            f"{processes} processes of this machine are asked for; {MOST_PROCESSES} are allowed",
            fix="Ask for as many as it has cores",
        )
    if processes <= 1:
        yield lambda function, items, chunksize=1: map(function, items)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context, initializer=_end_with_parent) as pool:

        def mapper(function: Callable[[Any], Any], items: Iterable[Any], chunksize: int = 1) -> Iterator[Any]:
            waiting: deque[Future[list[Any]]] = deque()
            items = iter(items)
            first = list(itertools.islice(items, 1 if chunksize == 1 else _FEW_CHUNKS * chunksize))
            if (more := next(items, _NONE)) is _NONE:
                # Done here before a process has begun.
                yield from map(function, first)
                return
            chunks = itertools.batched(itertools.chain(first, [more], items), chunksize)
            try:
                while True:
                    for chunk in itertools.islice(chunks, 3 * processes - len(waiting)):
                        waiting.append(pool.submit(_each, function, chunk))
                    if not waiting:
                        return
                    yield from waiting.popleft().result()
            except BrokenProcessPool as error:
                raise CampaignError(
                    "a process died at its work, or at its start",
                    fix="If memory ran out, use fewer processes; a script that plans in several needs its work below "
                    "if __name__ == '__main__'",
                ) from error
            finally:
                for future in waiting:
                    future.cancel()

        yield mapper


def _end_with_parent() -> None:
    """Where the parent is killed, nobody else tells its processes to end: they would wait for work for ever."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True, name="watches the parent").start()


def _each(function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
    return [function(item) for item in items]
