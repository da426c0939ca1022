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
from dataclasses import dataclass
from typing import Any, Protocol

from distributed import Client, Future, KilledWorker, Semaphore, as_completed

from skygraft.clusters.cluster_watch import ClusterWatch
from skygraft.clusters.connection import insist, is_lost, scheduler_lost
from skygraft.errors import CampaignError, ConfigError
from skygraft.execution.halting import halt, unless_halted
from skygraft.execution.jobs import DriveResult, Jobs
from skygraft.execution.task_queue import TaskQueue
from skygraft.records.image_summary import ImageSummary
from skygraft.records.interruption import Interruption

__all__ = ["DriveSettings", "Reports", "Work", "drive", "drive_serial"]

type Work = Callable[..., list[ImageSummary]]

_WINDOW_PER_THREAD = 4
_SMALLEST_WINDOW = 32
_SUSPECTS_TRIED_ALONE = 20
_SUSPECTS_NAMED = 3
_BROKEN_TASKS_ALLOWED = 10
_POLL_SECONDS = 0.05
_HALT_SECONDS = 60.0
"""Time for workers to answer when a run ends early; one that hangs never does."""
_LAST_PRIORITY = -10


@dataclass(frozen=True)
class DriveSettings:
    """How images are handed to workers.

    Parameters
    ----------
    task_seconds, images_per_task, retries
        As in `skygraft.config.campaign.CampaignConfig`.
    io_limit : int, optional
        How many images may be read or written at a time; by default all.
    max_threads : int
        Largest number of worker threads that there may be; there is always work for more than there are.
    """

    task_seconds: float = 60.0
    images_per_task: int = 100
    retries: int = 1
    io_limit: int | None = None
    max_threads: int = 0


class Reports(Protocol):
    """What a driver reports to: it receives results, names images, and may end the run."""

    def images(self, rows: Sequence[int], summaries: list[ImageSummary]) -> None:
        """Receive the results of the images in some rows of the plan."""

    def identify(self, row: int) -> dict[str, Any]:
        """The image_id, tract, patch and band of an image whose worker did not come back."""

    def check(self) -> None:
        """Called every few seconds; raises where it makes no sense to go on."""


def drive(
    client: Client,
    jobs: Jobs,
    work: Work,
    reports: Reports,
    settings: DriveSettings,
    *,
    interruption: Interruption | None = None,
    watch: ClusterWatch | None = None,
) -> DriveResult:
    """Inject into images on a cluster.

    Images that failed for a transient reason are tried again after all others, each in a task of its own. A task that
    kills its workers is split into single images; an image that still does is tried alone, with no other task in
    flight that could be the cause, and is then quarantined.

    Parameters
    ----------
    client : distributed.Client
        The cluster.
    jobs : Jobs
        The images.
    work : callable
        What a task does: ``work(rows)``, or ``work(rows, io=...)`` with an `io_limit`; gives an `ImageSummary` for
        each row, in order.
    reports : Reports
        Receives their results.
    settings : DriveSettings
        How they are grouped into tasks, and how often they are tried.
    interruption : Interruption, optional
        Notices Ctrl-C.
    watch : ClusterWatch, optional
        Looks after the cluster; by default one with the usual patience.

    Returns
    -------
    DriveResult
        Also after Ctrl-C, which lets running tasks finish and drops waiting ones (a second Ctrl-C is raised), and when
        no worker can go on; `stopped` then says why.

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
        if settings.io_limit is not None:
            name = f"skygraft-io-{uuid.uuid4().hex}"
            semaphore = Semaphore(
                max_leases=settings.io_limit, name=name, scheduler_rpc=client.scheduler, loop=client.loop
            )
            stack.callback(semaphore.close)
            work = functools.partial(work, io=semaphore)
        driver = _Driver(client, work, reports, settings, interruption, watch or ClusterWatch(client))
        driver.run(jobs)
        for _ in range(settings.retries):
            again = [row for row, may_pass in driver.result.failed.items() if may_pass]
            if not again or driver.result.early:
                break
            driver.run(jobs.only(again), images_per_task=1, priority=_LAST_PRIORITY)
        if not driver.result.early:
            driver.try_suspects_alone(jobs)
        # Ctrl-C while the last image came in counts as well: the tables that follow take long, too.
        driver.result.interrupted = driver.result.interrupted or interruption.asked
    return driver.result


class _Driver:
    """Keeps a bounded number of tasks on the cluster and collects their results."""

    def __init__(
        self,
        client: Client,
        work: Work,
        reports: Reports,
        settings: DriveSettings,
        interruption: Interruption,
        watch: ClusterWatch,
    ) -> None:
        self.client, self.work, self.reports, self.settings = client, work, reports, settings
        self.interruption, self.watch = interruption, watch
        self._name = uuid.uuid4().hex
        self.result = DriveResult()
        self.suspects: list[int] = []
        self._is_stuck = False
        self._n_broken = 0
        self._flying: dict[Future[Any], list[int]] = {}
        self._errors: set[Future[Any]] = set()

    def run(
        self, jobs: Jobs, *, images_per_task: int | None = None, window: int | None = None, priority: int = 0
    ) -> None:
        """Run tasks until all images have a result, or until Ctrl-C."""
        queue = TaskQueue(
            jobs,
            task_seconds=self.settings.task_seconds,
            images_per_task=images_per_task or self.settings.images_per_task,
        )
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
        """Cancel tasks; not on a lost scheduler, where the call would take minutes."""
        with contextlib.suppress(OSError):
            if futures and not is_lost(self.client):
                self.client.cancel(futures)

    @property
    def _n_threads(self) -> int:
        return max(self.settings.max_threads, self.watch.n_threads)

    def _look_around(self, queue: TaskQueue) -> None:
        """Check the workers from time to time, since asking the scheduler takes a while."""
        if is_lost(self.client):
            raise scheduler_lost(self.client)
        if not self.watch.due():
            return
        self.reports.check()
        end = self.watch.check(len(self._flying))
        if end and not self.result.early:
            self.result.stopped = end + self._suspicion()
            self._drop_waiting()
        # Workers that hang do not finish what they have begun.
        self._is_stuck = bool(end)
        self._hear_errors(queue)

    def _suspicion(self) -> str:
        """The images that may have killed the workers, if no worker is left."""
        if not self.suspects:
            return ""
        names = ", ".join(str(self.reports.identify(row)["image_id"]) for row in self.suspects[:_SUSPECTS_NAMED])
        return f"; workers died while they made {names}{', ...' if len(self.suspects) > _SUSPECTS_NAMED else ''}"

    def _hear_errors(self, queue: TaskQueue) -> None:
        """Collect errors that `as_completed` does not report.

        It is silent about a task that had finished, whose result was then lost with its worker, and that failed when
        the scheduler ran it again.
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
            futures = self.client.map(work, tasks, pure=False, key="inject", priority=priority)
            self._flying.update(zip(futures, tasks, strict=True))
            completed.update(futures)

    def _receive(self, future: Future[Any], result: Any, queue: TaskQueue) -> None:
        task = self._flying.pop(future, None)
        if task is None:
            return  # dropped, after Ctrl-C
        self.watch.task_finished()
        # The future's own status may be newer: it is pending again if its worker has died since.
        if isinstance(result, list):
            # A task that was halted has no results for its last images.
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
        """Handle a task without results: its worker died, or could not start it."""
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
            self._tell(task, [ImageSummary(**self.reports.identify(row), **said) for row in task])

    def _tell(self, task: Sequence[int], summaries: list[ImageSummary]) -> None:
        self.result.add(task, summaries)
        self.reports.images(task, summaries)

    def _drop_waiting(self) -> None:
        """Stop the workers from starting another image, and drop the tasks that none has started."""
        begun = self._halt()
        waiting = [future for future in self._flying if future.key not in begun]
        for future in waiting:
            del self._flying[future]
        self._forget(waiting)

    def _halt(self) -> set[str]:
        """Stop the workers from starting anything more; returns the keys of the tasks that they have started."""
        said: dict[str, Any] = {}

        def ask() -> None:
            with contextlib.suppress(OSError, ValueError, RuntimeError):
                said.update(
                    insist(
                        lambda: self.client.run(halt, run=self._name, on_error="return"),
                        hopeless=functools.partial(is_lost, self.client),
                    )
                )

        # In a thread, because a worker that hangs never answers.
        asking = threading.Thread(target=ask, name="skygraft-halt", daemon=True)
        asking.start()
        asking.join(_HALT_SECONDS)
        if asking.is_alive():
            logging.getLogger(__name__).warning("some workers do not answer; their images are not waited for")
        return {key for keys in said.values() if isinstance(keys, list) for key in keys}

    def try_suspects_alone(self, jobs: Jobs) -> None:
        """Try each image whose worker died with nothing else in flight, to find the one that kills workers."""
        suspects, self.suspects = self.suspects, []
        for row in suspects[:_SUSPECTS_TRIED_ALONE]:
            self.run(jobs.only([row]), images_per_task=1, window=1)
            if self.result.early:
                return
        why = "every worker that took the image died{}; is there enough memory for it? The workers' logs say more"
        self._fail(self.suspects, "KilledWorker", why.format(", also when it ran alone"), quarantined=True)
        self._fail(suspects[_SUSPECTS_TRIED_ALONE:], "KilledWorker", why.format(""), quarantined=True)


def drive_serial(
    jobs: Jobs,
    work: Work,
    reports: Reports,
    *,
    retries: int = 1,
    interruption: Interruption | None = None,
) -> DriveResult:
    """Inject into images one after the other in this process, without Dask; see `drive`."""
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
                summaries = work([row])
                result.add([row], summaries)
                reports.images([row], summaries)
            waiting = [row for row, may_pass in result.failed.items() if may_pass]
        result.interrupted = interruption.asked
    return result
