"""A `map` over several processes of this machine that keeps the order and uses little memory.

A damaged file may crash the process that reads it (a segmentation fault in a library). Functions that read files for
the first time therefore run in a child process: see `careful_map`.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import itertools
import multiprocessing
import os
import signal
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection
from typing import Any, Protocol, runtime_checkable

from skygraft.errors import CampaignError

__all__ = [
    "MOST_PROCESSES",
    "Careful",
    "Mapper",
    "careful_map",
    "give_back_memory",
    "keep_memory",
    "keeping_memory",
    "process_mapper",
]

MOST_PROCESSES = 1024
"""Largest number of processes that a mapper starts; more would exhaust the machine."""

_KEEP = {-4: 0, -1: -1, -8: 1}
"""Settings of glibc's allocator (`man mallopt`): arrays of any size come from the heap, none are mapped (M_MMAP_MAX),
the heap is not trimmed (M_TRIM_THRESHOLD), and one arena serves all threads (M_ARENA_MAX)."""
_DEFAULTS = {-4: 65536, -1: 131072}
"""The same as they are by default, as far as they can be taken back."""
_FIRST_CHUNKS = 12
_NONE = object()

type Mapper = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]
"""``mapper(function, items)`` returns the function's results in the order of the items, as `map` does."""


@runtime_checkable
class Careful(Protocol):
    """A function that may crash its process, depending on the item that it is called with."""

    def __call__(self, item: Any, /) -> Any:
        """Return the result for an item."""
        ...

    def lost(self, item: Any, reason: str, /) -> Any:
        """Return the result for an item that crashed its process, or raise an error.

        Parameters
        ----------
        item : object
            The item.
        reason : str
            How the process ended: a signal's name or an exit code.
        """
        ...

    def prepare(self) -> None:
        """Import the modules that all items need, so that child processes need not do so."""
        ...


def careful_map(function: Callable[[Any], Any], items: Iterable[Any], chunksize: int = 1) -> Iterator[Any]:
    """Map a function over items; a `Careful` function runs in a child process, which an item may crash.

    The child is a fork of this process, so that it starts at once, and is replaced when it has crashed. On systems
    without fork, this is `map`.

    Parameters
    ----------
    function : callable
        The function. If it is `Careful`, its results and errors must be picklable.
    items : iterable
        Its arguments.
    chunksize : int
        Ignored; for compatibility with other mappers.

    Yields
    ------
    object
        The results, in the order of the items.
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
    """A fork of this process that receives items and returns results."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self._pipe, far = multiprocessing.Pipe()
        with warnings.catch_warnings():
            # Python warns about forking with threads. The child only runs the function, which needs no other thread
            # and no lock that one may hold.
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
        """Return the result for an item, or None and the error that the function raised.

        Raises
        ------
        EOFError, ConnectionError
            If the child ended.
        """
        self._pipe.send(item)
        answer: tuple[Any, BaseException | None] = self._pipe.recv()
        return answer

    def end(self) -> str:
        """End the child, and return how it ended: a signal's name or an exit code."""
        self._pipe.close()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
        if code >= 0:
            return f"exit code {code}"
        return signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"


def _serve(function: Callable[[Any], Any], pipe: Connection) -> None:
    """Serve items until the pipe is closed."""
    # Signals such as Ctrl-C are handled by the parent, which ends its child.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # The parent reports a crash.
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
    """Context that yields a mapper over several processes; with one process it is `careful_map`.

    The mapper accepts ``chunksize``, the number of items that are passed to a process at a time, and with several
    processes ``lost``: ``lost(item, reason)`` gives the result of an item whose process dies. Items are taken from
    the iterable as they are needed; the first few are done in this process, since others take seconds to start. The
    processes are spawned, so a script that uses this must have its work below ``if __name__ == "__main__":``.

    Parameters
    ----------
    processes : int
        Number of processes, at most `MOST_PROCESSES`.

    Yields
    ------
    callable
        The mapper.

    Raises
    ------
    CampaignError
        If there are more processes than allowed; from the mapper, if a process dies and ``lost`` is not given.
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
    with contextlib.ExitStack() as stack:

        def start(n: int) -> ProcessPoolExecutor:
            return stack.enter_context(ProcessPoolExecutor(n, mp_context=context, initializer=_end_with_parent))

        pool = start(processes)

        def mapper(
            function: Callable[[Any], Any],
            items: Iterable[Any],
            chunksize: int = 1,
            lost: Callable[[Any, str], Any] | None = None,
        ) -> Iterator[Any]:
            nonlocal pool
            waiting: deque[tuple[Sequence[Any], Future[list[Any]] | None]] = deque()
            items = iter(items)
            first = list(itertools.islice(items, 1 if chunksize == 1 else _FIRST_CHUNKS * chunksize))
            if (more := next(items, _NONE)) is _NONE:
                # Done in this process, while no other has started.
                yield from careful_map(function, first)
                return
            chunks = itertools.batched(itertools.chain(first, [more], items), chunksize)
            try:
                while True:
                    try:
                        for chunk in itertools.islice(chunks, 3 * processes - len(waiting)):
                            waiting.append((chunk, None))
                            waiting[-1] = (chunk, pool.submit(_each, function, chunk))
                        if not waiting:
                            return
                        future = waiting[0][1]
                        results = future.result() if future is not None else []
                    except BrokenProcessPool as error:
                        if lost is None:
                            raise CampaignError(
                                "a process died while it worked or started",
                                fix="If memory ran out, use fewer processes; a script that plans in several needs its "
                                "work below if __name__ == '__main__'",
                            ) from error
                        # Which item it was is not known: all that were under way are tried again, one by one.
                        for some, future in waiting:
                            done = future is not None and future.done() and future.exception() is None
                            yield from (
                                future.result() if future is not None and done else _alone(function, some, lost, start)
                            )
                        waiting.clear()
                        pool = start(processes)
                        continue
                    waiting.popleft()
                    yield from results
            finally:
                for _, future in waiting:
                    if future is not None:
                        future.cancel()

        yield mapper


def _alone(
    function: Callable[[Any], Any],
    items: Iterable[Any],
    lost: Callable[[Any, str], Any],
    start: Callable[[int], ProcessPoolExecutor],
) -> Iterator[Any]:
    """Yield the results of some items, each the only one under way."""
    pool: ProcessPoolExecutor | None = None
    for item in items:
        pool = pool or start(1)
        try:
            yield pool.submit(function, item).result()
        except BrokenProcessPool:
            pool = None
            yield lost(item, "the process that worked on it died; see whether there is enough memory for it")


def _end_with_parent() -> None:
    """End this process when its parent is killed; otherwise it would wait for work forever."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True, name="watches the parent").start()


def _each(function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
    return list(careful_map(function, items))


def keep_memory() -> bool:
    """Have this process keep the memory that it frees for its next arrays; returns whether it does.

    By default the memory of large arrays goes back to the system as soon as they are freed. An image of 2000 x 4600
    pixels is then some 80,000 new pages of memory, which take 40 per cent of a worker's processor time; its largest
    size hardly grows (736 instead of 667 MB).

    It is possible with glibc, thus on most Linux systems; elsewhere nothing changes.
    """
    return _set_allocator(_KEEP)


def give_back_memory() -> None:
    """Take back what `keep_memory` set, and give memory that is free back to the system."""
    if _set_allocator(_DEFAULTS):
        ctypes.CDLL(None).malloc_trim(0)


@contextlib.contextmanager
def keeping_memory() -> Iterator[None]:
    """Context in which this process keeps the memory that it frees; see `keep_memory`."""
    keep_memory()
    try:
        yield
    finally:
        give_back_memory()


def _set_allocator(settings: Mapping[int, int]) -> bool:
    if os.name != "posix":
        return False
    library = ctypes.CDLL(None)
    # Other allocators may have a `mallopt` that means something else.
    if not hasattr(library, "gnu_get_libc_version") or not hasattr(library, "mallopt"):
        return False
    done = [library.mallopt(name, value) == 1 for name, value in settings.items()]
    return all(done)
