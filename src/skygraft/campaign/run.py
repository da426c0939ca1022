"""Run tasks on a Dask cluster: a bounded window, refilled as batches come back.

The scheduler never holds more than a few tasks per worker thread, however many images there are. Execution is
at-least-once; tasks are safe to run twice.
"""

from __future__ import annotations

import itertools
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from types import FrameType, TracebackType
from typing import Any, Self

from distributed import Client, Future, KilledWorker, as_completed

from skygraft.campaign.image_summary import ImageSummary
from skygraft.campaign.planned import PlannedImage
from skygraft.campaign.task import run_task
from skygraft.campaign.task_queue import TaskQueue
from skygraft.errors import CampaignError, ConfigError

__all__ = ["DriveResult", "drive", "drive_serial", "map_items"]

type Work = Callable[[Sequence[PlannedImage], str], list[ImageSummary]]
type Listener = Callable[[list[ImageSummary]], None]

_WINDOW_PER_THREAD = 4
_SMALLEST_WINDOW = 32
_SUSPECTS_TRIED_ALONE = 20
_BROKEN_TASKS_ALLOWED = 10
_POLL_SECONDS = 0.01


@dataclass
class DriveResult:
    """What became of the images that were handed to workers.

    Parameters
    ----------
    n_done, n_skipped : int
        Images made, and found made already.
    n_drawn : int
        Sources drawn in them.
    failed : dict of str to ImageSummary
        The last failure of each image that did not succeed.
    interrupted : bool
        Whether Ctrl-C ended it early.
    """

    n_done: int = 0
    n_skipped: int = 0
    n_drawn: int = 0
    failed: dict[str, ImageSummary] = field(default_factory=dict)
    interrupted: bool = False

    def add(self, summaries: Iterable[ImageSummary]) -> None:
        """Count some images."""
        for summary in summaries:
            if summary.status == "failed":
                self.failed[summary.image_id] = summary
                continue
            self.failed.pop(summary.image_id, None)
            self.n_done += summary.status == "done"
            self.n_skipped += summary.status == "skipped"
            self.n_drawn += summary.n_sources


class Interruption:
    """Turns the first Ctrl-C into a flag, so that it is acted on between two steps; the second one is raised."""

    def __init__(self) -> None:
        self.asked = False
        self._before: Any = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True


def window_of(client: Client) -> tuple[int, int]:
    """Number of worker threads now, and of tasks to have in flight.

    There is always work for more workers than there are, so that an adaptive cluster grows.
    """
    n_threads = max(1, sum(client.nthreads().values()))
    return n_threads, max(_SMALLEST_WINDOW, _WINDOW_PER_THREAD * n_threads)


def drive(
    client: Client,
    images: Sequence[PlannedImage],
    output: str,
    *,
    task_seconds: float = 60.0,
    images_per_task: int = 100,
    retries: int = 1,
    listener: Listener = lambda summaries: None,
    work: Work = run_task,
) -> DriveResult:
    """Make images on a cluster.

    Images that failed for a reason that may pass are tried again after all others, each in a task of its own. A task
    that kills its workers is cut into single images; one that still does is tried alone, with nothing else in flight
    that could have been to blame, and then given up.

    Parameters
    ----------
    client : distributed.Client
        The cluster.
    images : sequence of PlannedImage
        In the order of the plan.
    output : str
        The campaign's output folder, as the workers see it.
    task_seconds, images_per_task, retries
        As in `CampaignConfig`.
    listener : callable
        Called with what became of some images, as it becomes known.
    work : callable
        What a task does.

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
    by_id = {image.image_id: image for image in images}
    with Interruption() as interruption:
        driver = _Driver(client, output, work, listener, interruption)
        driver.run(TaskQueue(images, task_seconds=task_seconds, images_per_task=images_per_task))
        for _ in range(retries):
            again = [by_id[name] for name, summary in driver.result.failed.items() if summary.may_pass]
            if not again or driver.result.interrupted:
                break
            driver.run(TaskQueue(again, task_seconds=task_seconds, images_per_task=1))
        if not driver.result.interrupted:
            driver.try_suspects_alone()
    return driver.result


class _Driver:
    def __init__(self, client: Client, output: str, work: Work, listener: Listener, interruption: Interruption) -> None:
        self.client, self.output, self.work, self.listener = client, output, work, listener
        self.interruption = interruption
        self.result = DriveResult()
        self.suspects: list[PlannedImage] = []
        self._n_broken = 0
        self._flying: dict[Future[Any], list[PlannedImage]] = {}

    def run(self, queue: TaskQueue, *, window: int | None = None) -> None:
        """Run the tasks of a queue to its end, or to Ctrl-C."""
        completed = as_completed(loop=self.client.loop, with_results=True, raise_errors=False)
        self._flying = {}
        try:
            self._refill(queue, completed, window)
            while self._flying:
                if self.interruption.asked and not self.result.interrupted:
                    self.result.interrupted = True
                    self._drop_waiting()
                if not completed.has_ready():
                    time.sleep(_POLL_SECONDS)
                    continue
                for future, result in completed.next_batch(block=False):
                    self._receive(future, result, queue)
                if not self.interruption.asked:
                    self._refill(queue, completed, window)
        finally:
            self.client.cancel(list(self._flying))
            self._flying = {}

    def _refill(self, queue: TaskQueue, completed: as_completed, window: int | None) -> None:
        n_threads, size = window_of(self.client)
        # One submission for many tasks: each costs the scheduler some milliseconds.
        if len(self._flying) > 0.75 * (window or size):
            return
        tasks: list[list[PlannedImage]] = []
        while len(queue) and len(self._flying) + len(tasks) < (window or size):
            tasks.append(queue.take(n_threads))
        if tasks:
            futures = self.client.map(self.work, tasks, output=self.output, pure=False, key="inject")
            self._flying.update(zip(futures, tasks, strict=True))
            completed.update(futures)

    def _receive(self, future: Future[Any], result: Any, queue: TaskQueue) -> None:
        task = self._flying.pop(future, None)
        if task is None:
            return  # dropped, after Ctrl-C
        status = future.status
        future.release()
        if status == "finished":
            queue.learn(result)
            self._tell(result)
        elif status == "error":
            self._broken(task, result[1], queue)
        else:
            raise CampaignError(
                f"the Dask scheduler lost {len(task)} images of a task ({status}: {result})",
                fix="See whether the scheduler is still there; what is done is kept, so run the campaign again",
            )

    def _broken(self, task: list[PlannedImage], error: BaseException, queue: TaskQueue) -> None:
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
        self._tell(
            [
                ImageSummary(image.image_id, "failed", error=type(error).__name__, message=str(error), may_pass=True)
                for image in task
            ]
        )

    def _tell(self, summaries: list[ImageSummary]) -> None:
        self.result.add(summaries)
        self.listener(summaries)

    def _drop_waiting(self) -> None:
        """Forget the tasks that no worker has begun."""
        begun = {key for keys in self.client.run(_executing).values() for key in keys}
        waiting = [future for future in self._flying if future.key not in begun]
        for future in waiting:
            del self._flying[future]
        self.client.cancel(waiting)

    def try_suspects_alone(self) -> None:
        """Try each image whose worker died with nothing else in flight: whoever kills it now is guilty."""
        suspects, self.suspects = self.suspects, []
        for image in suspects[:_SUSPECTS_TRIED_ALONE]:
            queue = TaskQueue([image], task_seconds=1.0, images_per_task=1)
            self.run(queue, window=1)
            if self.result.interrupted:
                return
        tried = {image.image_id for image in self.suspects}
        self._tell(
            [
                ImageSummary(
                    image.image_id,
                    "failed",
                    error="KilledWorker",
                    message="every worker that took the image died"
                    + (", also when it ran alone" if image.image_id in tried else "")
                    + "; is there enough memory for it? The workers' logs say more",
                )
                for image in [*self.suspects, *suspects[_SUSPECTS_TRIED_ALONE:]]
            ]
        )


def _executing(dask_worker: Any) -> list[str]:
    return [str(state.key) for state in dask_worker.state.executing]


def drive_serial(
    images: Sequence[PlannedImage],
    output: str,
    *,
    retries: int = 1,
    listener: Listener = lambda summaries: None,
    work: Work = run_task,
) -> DriveResult:
    """Make images one after the other in this process, without Dask; see `drive`."""
    result = DriveResult()
    by_id = {image.image_id: image for image in images}
    waiting = list(images)
    with Interruption() as interruption:
        for _ in range(retries + 1):
            for image in waiting:
                if interruption.asked:
                    result.interrupted = True
                    return result
                summaries = work([image], output)
                result.add(summaries)
                listener(summaries)
            waiting = [by_id[name] for name, summary in result.failed.items() if summary.may_pass]
    return result


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
    source = iter(items)
    completed = as_completed(loop=client.loop, with_results=True)
    flying: set[Future[Any]] = set()
    try:
        while True:
            _, size = window_of(client)
            batch = list(itertools.islice(source, max(0, size - len(flying))))
            if batch:
                futures = client.map(function, batch, pure=False, **arguments)
                flying.update(futures)
                completed.update(futures)
            if not flying:
                return
            for future, result in completed.next_batch():
                flying.discard(future)
                future.release()
                yield result
    finally:
        client.cancel(list(flying))
