"""Run tasks on a Dask cluster: a bounded window, refilled as batches come back.

The scheduler never holds more than a few tasks per worker thread, however many images there are, and a task is a few
row numbers of the plan, which workers read themselves. Execution is at-least-once; tasks are safe to run twice.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from distributed import Client, Future, KilledWorker, Semaphore, as_completed

from skygraft.clusters.calls import insist
from skygraft.clusters.watching import ClusterWatch, is_lost, scheduler_lost
from skygraft.errors import CampaignError, ConfigError
from skygraft.execution.halting import halt, unless_halted
from skygraft.execution.mapping import map_items
from skygraft.execution.task_queue import TaskQueue
from skygraft.execution.workload import DriveResult, Jobs
from skygraft.records.files import Layout, await_file
from skygraft.records.image_summary import ImageSummary
from skygraft.records.interruption import Interruption
from skygraft.records.plan_file import Plan

__all__ = ["DriveResult", "Jobs", "drive", "drive_serial", "make_rows", "map_items"]

type Work = Callable[..., list[ImageSummary]]
type Listener = Callable[[Sequence[int], list[ImageSummary]], None]
type Identify = Callable[[int], dict[str, Any]]

_WINDOW_PER_THREAD = 4
_SMALLEST_WINDOW = 32
_SUSPECTS_TRIED_ALONE = 20
_SUSPECTS_NAMED = 3
_BROKEN_TASKS_ALLOWED = 10
_POLL_SECONDS = 0.05
_HALT_SECONDS = 60.0
"""In which workers are to answer when a run ends early; one that hangs never does."""
_LAST_PRIORITY = -10


@functools.lru_cache(maxsize=2)
def _plan_of(output: str, stamp: tuple[int, int]) -> Plan:
    """The plan whose file has that size and time."""
    path = Layout(Path(output)).plan
    await_file(path, stamp, "plan")
    return Plan(path)


def make_rows(
    rows: Sequence[int],
    output: str,
    stamp: tuple[int, int],
    config_stamp: tuple[int, int] | None = None,
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
        The plan that is meant: `skygraft.disk.FileIdentity.size_and_time` of its file.
    config_stamp : (int, int), optional
        The configuration that is meant; by default the one that is there.
    io : context manager, optional
        As in `skygraft.execution.task.run_task`.
    """
    # Here, so that a driver does not carry the weight of drawing.
    from skygraft.execution.task import run_task

    if config_stamp is not None:
        await_file(Layout(Path(output)).config, config_stamp, "configuration")
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
    watch: ClusterWatch | None = None,
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
        Called with what people should know, such as that there is no worker and why.
    task_seconds, images_per_task, retries
        As in `CampaignConfig`.
    max_threads : int
        How many worker threads there may be at most; there is always work for more than there are.
    io_limit : int, optional
        How many images may be read or written at a time.
    watch : ClusterWatch, optional
        Looks after the cluster; by default one with the usual patience.

    Returns
    -------
    DriveResult
        After Ctrl-C too: tasks that run are let finish, those that wait are not. A second Ctrl-C is raised. Where no
        worker can go on, its `stopped` says why.

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
        watch = watch or ClusterWatch(client, say=say)
        driver = _Driver(client, output, work, identify, listener, interruption, look, watch, max_threads)
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
        watch: ClusterWatch,
        max_threads: int,
    ) -> None:
        self.client, self.output, self.work, self.listener = client, output, work, listener
        self.identify, self.interruption, self.look, self.watch = identify, interruption, look, watch
        self._name = uuid.uuid4().hex
        self.result = DriveResult()
        self.suspects: list[int] = []
        self._max_threads = max_threads
        self._is_stuck = False
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
            while self._flying and not self._is_stuck:
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
            self._forget(list(self._flying))
            self._flying = {}

    def _forget(self, futures: list[Future[Any]]) -> None:
        """Let the scheduler forget tasks; one that is lost has, and asking it would take minutes."""
        with contextlib.suppress(OSError):
            if futures and not is_lost(self.client):
                self.client.cancel(futures)

    @property
    def _n_threads(self) -> int:
        return max(self._max_threads, self.watch.n_threads)

    def _look_around(self, queue: TaskQueue) -> None:
        """Count worker threads, and see what has gone wrong: now and then, since asking takes a while."""
        if is_lost(self.client):
            raise scheduler_lost(self.client)
        if not self.watch.due():
            return
        self.look()
        end = self.watch.look(len(self._flying))
        if end and not self.result.early:
            self.result.stopped = end + self._suspicion()
            self._drop_waiting()
        # What a worker that does nothing any more has begun does not come back either.
        self._is_stuck = bool(end)
        self._hear_errors(queue)

    def _suspicion(self) -> str:
        """Whom to suspect where no worker is left."""
        if not self.suspects:
            return ""
        names = ", ".join(str(self.identify(row)["image_id"]) for row in self.suspects[:_SUSPECTS_NAMED])
        return f"; workers died while they made {names}{', ...' if len(self.suspects) > _SUSPECTS_NAMED else ''}"

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
        self.watch.came_back()
        # Not what the future says by now: it waits again where its worker has died since.
        if isinstance(result, list):
            # A task that was halted has nothing to tell of its last images.
            made = task[: len(result)] if self.result.early else task
            if made:
                queue.learn(made, result)
                self._tell(made, result)
        elif isinstance(result, tuple):
            self._broken(task, result[1], queue)
        elif is_lost(self.client):
            raise scheduler_lost(self.client)
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
        begun = self._halt()
        waiting = [future for future in self._flying if future.key not in begun]
        for future in waiting:
            del self._flying[future]
        self._forget(waiting)

    def _halt(self) -> set[str]:
        """Let the workers begin nothing more; the keys of what they have begun."""
        said: dict[str, Any] = {}

        def ask() -> None:
            with contextlib.suppress(OSError, ValueError, RuntimeError):
                said.update(
                    insist(
                        lambda: self.client.run(halt, run=self._name, on_error="return"),
                        broken=functools.partial(is_lost, self.client),
                    )
                )

        # In a thread: a worker that hangs would let this wait for ever.
        asking = threading.Thread(target=ask, name="skygraft-halt", daemon=True)
        asking.start()
        asking.join(_HALT_SECONDS)
        if asking.is_alive():
            logging.getLogger(__name__).warning("some workers do not answer; what they have begun is not waited for")
        return {key for keys in said.values() if isinstance(keys, list) for key in keys}

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
