"""A `map` over several processes of this machine that keeps the order, and holds little.

A damaged file may end the process that reads it (a library's segmentation fault). Functions that look at files nobody
has looked at before therefore run in a child process of whoever maps them: see `careful_map`.
"""

from __future__ import annotations

import contextlib
import faulthandler
import itertools
import multiprocessing
import os
import signal
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection
from typing import Any, Protocol, runtime_checkable

from skygraft.errors import CampaignError

__all__ = ["MOST_PROCESSES", "Careful", "Mapper", "careful_map", "process_mapper"]

MOST_PROCESSES = 1024
"""Processes of this machine that a mapper starts at most; more would end the machine before the work."""

_FEW_CHUNKS = 12
_NONE = object()

type Mapper = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]
"""``mapper(function, items)`` gives the function's results in the order of the items, as `map` does."""


@runtime_checkable
class Careful(Protocol):
    """A function whose item may end the process that it runs in."""

    def __call__(self, item: Any, /) -> Any:
        """The result for an item."""
        ...

    def lost(self, item: Any, reason: str, /) -> Any:
        """The result for an item that ended its process, for that reason; or raises an error."""
        ...

    def prepare(self) -> None:
        """Import what all items need: otherwise each child process would."""
        ...


def careful_map(function: Callable[[Any], Any], items: Iterable[Any], chunksize: int = 1) -> Iterator[Any]:
    """`map`, but a function that is `Careful` runs in a child process, and outlives an item that ends it.

    The child is a copy of this process (a fork), so that it starts at once; it is replaced when it has ended. Where
    there is no fork, this is `map`.

    Parameters
    ----------
    function : callable
        What to do with an item. If it is `Careful`, results and errors can be pickled.
    items : iterable
        What to do it with.
    chunksize : int
        Has no effect here.
    """
    del chunksize
    if not isinstance(function, Careful) or not hasattr(os, "fork"):
        yield from map(function, items)
        return
    function.prepare()
    child: _Child | None = None
    try:
        for item in items:
            child = child or _Child(function)
            try:
                result, error = child.ask(item)
            except (EOFError, ConnectionError):
                reason, child = child.end(), None
                yield function.lost(item, reason)
                continue
            if error is not None:
                raise error
            yield result
    finally:
        if child is not None:
            child.end()


class _Child:
    """A copy of this process that takes items and gives results."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self._pipe, far = multiprocessing.Pipe()
        with warnings.catch_warnings():
            # Of other threads. The child only runs the function: it needs none of them, nor a lock that one may hold.
            warnings.simplefilter("ignore", DeprecationWarning)
            self._pid = os.fork()
        if self._pid == 0:
            try:
                self._pipe.close()
                _serve(function, far)
            finally:
                os._exit(0)
        far.close()

    def ask(self, item: Any) -> tuple[Any, BaseException | None]:
        """The result for an item, and the error that there was instead.

        Raises
        ------
        EOFError, ConnectionError
            If the child ended.
        """
        self._pipe.send(item)
        answer: tuple[Any, BaseException | None] = self._pipe.recv()
        return answer

    def end(self) -> str:
        """End the child; why it had ended by itself, if it had."""
        self._pipe.close()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
        if code >= 0:
            return f"exit code {code}"
        return signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"


def _serve(function: Callable[[Any], Any], pipe: Connection) -> None:
    """Answer until nobody asks."""
    # Ctrl-C and the like are for the parent, which ends its child.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # Who asked says what became of it.
    faulthandler.disable()
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            item = pipe.recv()
            answer: tuple[Any, BaseException | None]
            try:
                answer = function(item), None
            except Exception as error:
                answer = None, error
            pipe.send(answer)


@contextlib.contextmanager
def process_mapper(processes: int) -> Iterator[Callable[..., Iterable[Any]]]:
    """A mapper over so many processes; with one, `careful_map`.

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
        yield careful_map
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context, initializer=_end_with_parent) as pool:

        def mapper(function: Callable[[Any], Any], items: Iterable[Any], chunksize: int = 1) -> Iterator[Any]:
            waiting: deque[Future[list[Any]]] = deque()
            items = iter(items)
            first = list(itertools.islice(items, 1 if chunksize == 1 else _FEW_CHUNKS * chunksize))
            if (more := next(items, _NONE)) is _NONE:
                # Done here before a process has begun.
                yield from careful_map(function, first)
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
    return list(careful_map(function, items))
