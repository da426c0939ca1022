"""Run tasks on a Dask cluster: a bounded window, refilled as batches come back.

The scheduler never holds more than a few tasks per worker thread, however many images there are, and a task is a few
row numbers of the plan, which workers read themselves. Execution is at-least-once; tasks are safe to run twice.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from distributed import Client, Future, KilledWorker, Semaphore, as_completed

from skygraft.campaign.files import Layout
from skygraft.campaign.halting import halt, unless_halted
from skygraft.campaign.image_summary import ImageSummary
from skygraft.campaign.interruption import Interruption
from skygraft.campaign.planned import Plan
from skygraft.campaign.stamps import Stamp, await_stamp
from skygraft.campaign.task_queue import TaskQueue
from skygraft.errors import CampaignError, ConfigError

__all__ = ["DriveResult", "Jobs", "drive", "drive_serial", "make_rows", "map_items"]

type Work = Callable[..., list[ImageSummary]]
type Listener = Callable[[Sequence[int], list[ImageSummary]], None]
type Identify = Callable[[int], dict[str, Any]]

_WINDOW_PER_THREAD = 4
_SMALLEST_WINDOW = 32
_SUSPECTS_TRIED_ALONE = 20
_BROKEN_TASKS_ALLOWED = 10
_UNWRITTEN_ALLOWED = 20
_POLL_SECONDS = 0.05
_COUNT_SECONDS = 2.0
_LONELY_SECONDS = 60.0
_LAST_PRIORITY = -10
_ITEMS_PER_TASK = 8


@dataclass(frozen=True)
class Jobs:
    """The images that are to be made.

    Parameters
    ----------
    rows : ndarray of int, shape (N,)
        Rows of the plan, ascending.
    homes : ndarray of int, shape (N,)
        A number for the home patch of each.
    costs : ndarray of float, shape (N,)
        Estimated time of each, seconds.
    kinds : ndarray of int, shape (N,)
        A number for the kind of each; see `TaskQueue`.
    """

    rows: np.ndarray[Any, Any]
    homes: np.ndarray[Any, Any]
    costs: np.ndarray[Any, Any]
    kinds: np.ndarray[Any, Any]

    def __len__(self) -> int:
        return len(self.rows)

    def only(self, rows: Iterable[int]) -> Jobs:
        """Some of them."""
        chosen = np.isin(self.rows, np.fromiter(rows, dtype=np.int64))
        return Jobs(self.rows[chosen], self.homes[chosen], self.costs[chosen], self.kinds[chosen])

    def queue(self, *, task_seconds: float, images_per_task: int) -> TaskQueue:
        """Them, to be handed out."""
        return TaskQueue(
            self.rows,
            self.homes,
            self.costs,
            self.kinds,
            task_seconds=task_seconds,
            images_per_task=images_per_task,
        )


@dataclass
class DriveResult:
    """What became of the images that were handed to workers.

    Parameters
    ----------
    n_done, n_skipped : int
        Images made, and found made already.
    n_drawn : int
        Sources drawn in them.
    failed : dict of int to bool
        Rows of the images that did not succeed, and whether trying again could help.
    interrupted : int
        Number of the signal that ended it early; 0 for none.
    stopped : str
        Why it was ended early for another reason; empty where it was not.
    """

    n_done: int = 0
    n_skipped: int = 0
    n_drawn: int = 0
    failed: dict[int, bool] = field(default_factory=dict)
    interrupted: int = 0
    stopped: str = ""
    _unwritten: int = 0

    @property
    def early(self) -> bool:
        """Whether it was ended early."""
        return bool(self.interrupted or self.stopped)

    def add(self, rows: Iterable[int], summaries: Iterable[ImageSummary]) -> None:
        """Count some images."""
        for row, summary in zip(rows, summaries, strict=True):
            if summary.status == "failed":
                self.failed[row] = summary.may_pass
                self._count_unwritten(summary)
                continue
            self._unwritten = 0
            self.failed.pop(row, None)
            self.n_done += summary.status == "done"
            self.n_skipped += summary.status == "skipped"
            self.n_drawn += summary.n_sources

    def _count_unwritten(self, summary: ImageSummary) -> None:
        # A full or vanished disk: no use spoiling a million images on it.
        self._unwritten = self._unwritten + 1 if summary.error == "OutputError" else 0
        if self._unwritten >= _UNWRITTEN_ALLOWED and not self.stopped:
            self.stopped = f"{self._unwritten} outputs in a row could not be written; the last: {summary.message}"


@functools.lru_cache(maxsize=2)
def _plan_of(output: str, stamp: Stamp) -> Plan:
    """The plan with a stamp."""
    path = Layout(Path(output)).plan
    await_stamp(path, stamp, "plan")
    return Plan(path)


def make_rows(
    rows: Sequence[int],
    output: str,
    stamp: Stamp,
    config_stamp: Stamp | None = None,
    io: contextlib.AbstractContextManager[Any] | None = None,
) -> list[ImageSummary]:
    """What a worker does: read some rows of the plan, and make those images.

    Parameters
    ----------
    rows : sequence of int
        Rows of the plan, ascending.
    output : str
        The campaign's output folder.
    stamp : (int, int)
        The plan that is meant, see `skygraft.campaign.stamps.Stamp`.
    config_stamp : (int, int), optional
        The configuration that is meant; by default the one that is there.
    io : context manager, optional
        As in `skygraft.campaign.task.run_task`.
    """
    # Here, so that a driver does not carry the weight of drawing.
    from skygraft.campaign.task import run_task

    if config_stamp is not None:
        await_stamp(Layout(Path(output)).config, config_stamp, "configuration")
    return run_task(_plan_of(output, stamp).images(rows), output, io)


def drive(
    client: Client,
    jobs: Jobs,
    output: str,
    *,
    work: Work,
    identify: Identify,
    listener: Listener = lambda rows, summaries: None,
    interruption: Interruption | None = None,
    look: Callable[[], None] = lambda: None,
    say: Callable[[str], None] = lambda text: None,
    task_seconds: float = 60.0,
    images_per_task: int = 100,
    retries: int = 1,
    max_threads: int = 0,
    io_limit: int | None = None,
) -> DriveResult:
    """Make images on a cluster.

    Images that failed for a reason that may pass are tried again after all others, each in a task of its own. A task
    that kills its workers is cut into single images; one that still does is tried alone, with nothing else in flight
    that could have been to blame, and then quarantined.

    Parameters
    ----------
    client : distributed.Client
        The cluster.
    jobs : Jobs
        The images.
    output : str
        The campaign's output folder, as the workers see it.
    work : callable
        What a task does: ``work(rows, output)``, or ``work(rows, output, io=...)`` with an `io_limit`; gives an
        `ImageSummary` for each row, in order.
    identify : callable
        ``identify(row)``: image_id, tract, patch and band of an image, for those that their workers do not come back
        from.
    listener : callable
        Called with rows and what became of them, as it becomes known.
    interruption : Interruption, optional
        What hears of Ctrl-C.
    look : callable
        Called every few seconds; raises where it makes no sense to go on.
    say : callable
        Called with what people should know, such as that there is no worker.
    task_seconds, images_per_task, retries
        As in `CampaignConfig`.
    max_threads : int
        How many worker threads there may be at most; there is always work for more than there are.
    io_limit : int, optional
        How many images may be read or written at a time.

    Returns
    -------
    DriveResult
        After Ctrl-C too: tasks that run are let finish, those that wait are not. A second Ctrl-C is raised.

    Raises
    ------
    CampaignError
        If the scheduler is lost, or no worker can run any task.
    """
    if client.asynchronous:
        raise ConfigError("the Dask client is asynchronous; a synchronous one is needed", key="client")
    with contextlib.ExitStack() as stack:
        interruption = interruption or stack.enter_context(Interruption())
        stack.enter_context(interruption.patience())
        if io_limit is not None:
            name = f"skygraft-io-{uuid.uuid4().hex}"
            semaphore = Semaphore(max_leases=io_limit, name=name, scheduler_rpc=client.scheduler, loop=client.loop)
            stack.callback(semaphore.close)
            work = functools.partial(work, io=semaphore)
        driver = _Driver(client, output, work, identify, listener, interruption, look, say, max_threads)
        driver.run(jobs.queue(task_seconds=task_seconds, images_per_task=images_per_task))
        for _ in range(retries):
            again = [row for row, may_pass in driver.result.failed.items() if may_pass]
            if not again or driver.result.early:
                break
            driver.run(jobs.only(again).queue(task_seconds=task_seconds, images_per_task=1), priority=_LAST_PRIORITY)
        if not driver.result.early:
            driver.try_suspects_alone()
        # Heard while the last image came in: what follows the images would take long, too.
        driver.result.interrupted = driver.result.interrupted or interruption.asked
    return driver.result


class _Driver:
    def __init__(
        self,
        client: Client,
        output: str,
        work: Work,
        identify: Identify,
        listener: Listener,
        interruption: Interruption,
        look: Callable[[], None],
        say: Callable[[str], None],
        max_threads: int,
    ) -> None:
        self.client, self.output, self.work, self.listener = client, output, work, listener
        self.identify, self.interruption, self.look, self.say = identify, interruption, look, say
        self._name = uuid.uuid4().hex
        self.result = DriveResult()
        self.suspects: list[int] = []
        self._max_threads = max_threads
        self._counted, self._n_threads, self._worked = -np.inf, 1, time.monotonic()
        self._n_broken = 0
        self._flying: dict[Future[Any], list[int]] = {}
        self._errors: set[Future[Any]] = set()

    def run(self, queue: TaskQueue, *, window: int | None = None, priority: int = 0) -> None:
        """Run the tasks of a queue to its end, or to Ctrl-C."""
        completed = as_completed(loop=self.client.loop, with_results=True, raise_errors=False)
        self._flying, self._errors = {}, set()
        dropped = False
        try:
            self._refill(queue, completed, window, priority)
            while self._flying:
                self.result.interrupted = self.result.interrupted or self.interruption.asked
                if self.result.early and not dropped:
                    dropped = True
                    self._drop_waiting()
                if not completed.has_ready():
                    self._look_around(queue)
                    time.sleep(_POLL_SECONDS)
                    continue
                for future, result in completed.next_batch(block=False):
                    self._receive(future, result, queue)
                if not (self.result.early or self.interruption.asked):
                    self._refill(queue, completed, window, priority)
        finally:
            self.client.cancel(list(self._flying))
            self._flying = {}

    def _look_around(self, queue: TaskQueue) -> None:
        """Count worker threads, and see what has gone wrong: now and then, since asking takes a while."""
        if time.monotonic() - self._counted <= _COUNT_SECONDS:
            return
        self.look()
        now = self._counted = time.monotonic()
        n_threads = sum(self.client.nthreads().values())
        if n_threads or self._flying == {}:
            self._worked = now
        elif now - self._worked > _LONELY_SECONDS:
            self._worked = now
            self.say(f"there is no worker: {len(self._flying)} tasks wait for one")
        self._n_threads = max(1, self._max_threads, n_threads)
        self._hear_errors(queue)

    def _hear_errors(self, queue: TaskQueue) -> None:
        """Take in errors that `as_completed` keeps to itself.

        It tells nothing of a task that was done, whose result was lost with its worker on the way here, and that then
        failed where it ran again.
        """
        errors = {future for future in self._flying if future.status == "error"}
        for future in errors & self._errors:
            error = future.exception()
            self._broken(self._flying.pop(future), error, queue)
        self._errors = errors - self._errors

    def _refill(self, queue: TaskQueue, completed: as_completed, window: int | None, priority: int) -> None:
        self._look_around(queue)
        n_threads = self._n_threads
        size = window or max(_SMALLEST_WINDOW, _WINDOW_PER_THREAD * n_threads)
        # One submission for many tasks: each costs the scheduler some milliseconds.
        if len(self._flying) > 0.75 * size:
            return
        tasks: list[list[int]] = []
        while len(queue) and len(self._flying) + len(tasks) < size:
            tasks.append(queue.take(n_threads))
        if tasks:
            work = functools.partial(unless_halted, run=self._name, work=self.work)
            futures = self.client.map(work, tasks, output=self.output, pure=False, key="inject", priority=priority)
            self._flying.update(zip(futures, tasks, strict=True))
            completed.update(futures)

    def _receive(self, future: Future[Any], result: Any, queue: TaskQueue) -> None:
        task = self._flying.pop(future, None)
        if task is None:
            return  # dropped, after Ctrl-C
        # Not what the future says by now: it waits again where its worker has died since.
        if isinstance(result, list):
            # A task that was halted has nothing to tell of its last images.
            made = task[: len(result)] if self.result.early else task
            if made:
                queue.learn(made, result)
                self._tell(made, result)
        elif isinstance(result, tuple):
            self._broken(task, result[1], queue)
        else:
            raise CampaignError(
                f"the Dask scheduler lost {len(task)} images of a task ({future.status}: {result})",
                fix="See whether the scheduler is still there; what is done is kept, so run the campaign again",
            )
        future.release()

    def _broken(self, task: list[int], error: BaseException, queue: TaskQueue) -> None:
        """A task came back without a word on its images: its worker died, or could not begin."""
        if isinstance(error, KilledWorker):
            if len(task) > 1:
                queue.put_alone(task)
            else:
                self.suspects += task
            return
        self._n_broken += 1
        if self._n_broken >= _BROKEN_TASKS_ALLOWED and self.result.n_done == 0:
            raise CampaignError(
                f"no worker could run a task; the last said {type(error).__name__}: {error}",
                fix="Make sure that the workers have the same software as this process, and see the same files",
            ) from error
        self._fail(task, type(error).__name__, str(error), may_pass=True)

    def _fail(self, task: Sequence[int], error: str, message: str, **content: Any) -> None:
        if task:
            said = {"status": "failed", "error": error, "message": message, **content}
            self._tell(task, [ImageSummary(**self.identify(row), **said) for row in task])

    def _tell(self, task: Sequence[int], summaries: list[ImageSummary]) -> None:
        self.result.add(task, summaries)
        self.listener(task, summaries)

    def _drop_waiting(self) -> None:
        """Let no worker begin another image, and forget the tasks that none has begun."""
        said = self.client.run(halt, run=self._name, on_error="return")
        begun = {key for keys in said.values() if isinstance(keys, list) for key in keys}
        waiting = [future for future in self._flying if future.key not in begun]
        for future in waiting:
            del self._flying[future]
        self.client.cancel(waiting)

    def try_suspects_alone(self) -> None:
        """Try each image whose worker died with nothing else in flight: whoever kills it now is guilty."""
        suspects, self.suspects = self.suspects, []
        for row in suspects[:_SUSPECTS_TRIED_ALONE]:
            alone = Jobs(np.array([row]), np.zeros(1), np.ones(1), np.zeros(1))
            self.run(alone.queue(task_seconds=1.0, images_per_task=1), window=1)
            if self.result.early:
                return
        why = "every worker that took the image died{}; is there enough memory for it? The workers' logs say more"
        self._fail(self.suspects, "KilledWorker", why.format(", also when it ran alone"), quarantined=True)
        self._fail(suspects[_SUSPECTS_TRIED_ALONE:], "KilledWorker", why.format(""), quarantined=True)


def drive_serial(
    jobs: Jobs,
    output: str,
    *,
    work: Work,
    listener: Listener = lambda rows, summaries: None,
    interruption: Interruption | None = None,
    retries: int = 1,
) -> DriveResult:
    """Make images one after the other in this process, without Dask; see `drive`."""
    result = DriveResult()
    waiting = [int(row) for row in jobs.rows]
    with contextlib.ExitStack() as stack:
        interruption = interruption or stack.enter_context(Interruption())
        stack.enter_context(interruption.patience())
        for _ in range(retries + 1):
            for row in waiting:
                result.interrupted = interruption.asked
                if result.early:
                    return result
                summaries = work([row], output)
                result.add([row], summaries)
                listener([row], summaries)
            waiting = [row for row, may_pass in result.failed.items() if may_pass]
        result.interrupted = interruption.asked
    return result


def _each(items: Iterable[Any], function: Callable[..., Any], arguments: dict[str, Any]) -> list[Any]:
    return [function(item, **arguments) for item in items]


def map_items[Item, Result](
    client: Client | None, function: Callable[..., Result], items: Iterable[Item], **arguments: Any
) -> Iterator[Result]:
    """Call a function on many items, on a cluster or here, with a bounded number in flight.

    Parameters
    ----------
    client : distributed.Client or None
        None calls it in this process.
    function : callable
        Called as ``function(item, **arguments)``; importable on the workers.
    items : iterable
        Each small.

    Yields
    ------
    object
        Results, in the order in which they come.

    Raises
    ------
    Exception
        What the function raises.
    """
    if client is None:
        for item in items:
            yield function(item, **arguments)
        return
    # Several at a time: a task costs the scheduler as much as a small patch costs a worker.
    source = itertools.batched(items, _ITEMS_PER_TASK)
    completed = as_completed(loop=client.loop, with_results=True)
    flying: set[Future[Any]] = set()
    size = max(_SMALLEST_WINDOW, _WINDOW_PER_THREAD * sum(client.nthreads().values()))
    try:
        while True:
            batch = list(itertools.islice(source, max(0, size - len(flying))))
            if batch:
                futures = client.map(_each, batch, pure=False, function=function, arguments=arguments)
                flying.update(futures)
                completed.update(futures)
            if not flying:
                return
            for future, results in completed.next_batch():
                flying.discard(future)
                future.release()
                yield from results
    finally:
        client.cancel(list(flying))
