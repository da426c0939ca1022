"""Watch a cluster during a run: whether its scheduler answers, and whether it has workers that make progress."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable
from typing import Any

import dask
from distributed import Client, LocalCluster

from skygraft.clusters.connection import hide_connection_tracebacks, insist, is_lost, scheduler_lost
from skygraft.clusters.dask_settings import PATIENT
from skygraft.clusters.watchdog import Facts, Outlook, Patience, Watchdog, WorkerFacts, WorkerMonitor
from skygraft.errors import CampaignError
from skygraft.wording import duration

__all__ = ["ClusterWatch", "local_outlook", "patient_nannies"]

_COUNT_SECONDS = 2.0
_RESTART_SECONDS = 30.0
_ANSWER_SECONDS = 60.0


def local_outlook(cluster: LocalCluster) -> Outlook:
    """Return whether more workers may come on a cluster of this machine, whose nannies restart workers that die."""

    def may_have_worker(nanny: Any) -> bool:
        # A process that has stopped is restarted at once; one that could not be started never is.
        process = getattr(nanny, "process", None)
        failed = process is not None and process.status.name == "failed"
        return nanny.status.name in ("init", "created", "starting", "running") and not failed

    n_alive = sum(map(may_have_worker, list(cluster.workers.values())))
    if not n_alive:
        return Outlook(False, "the processes that start workers on this machine have given up; see the messages above")
    return Outlook(True, f"{n_alive} {'is' if n_alive == 1 else 'are'} being started")


def patient_nannies(client: Client) -> contextlib.AbstractContextManager[Any]:
    """Return a context in which nannies may take long to restart workers, if the client has a cluster on this machine.

    Parameters
    ----------
    client : distributed.Client
        Client of the cluster.
    """
    return dask.config.set(PATIENT) if isinstance(client.cluster, LocalCluster) else contextlib.nullcontext()


class ClusterWatch:
    """Count a cluster's worker threads, and carry out what its `Watchdog` decides.

    Parameters
    ----------
    client : distributed.Client
        Client of the cluster.
    outlook : callable, optional
        Returns whether more workers may come; by default known for a cluster on this machine only.
    patience : Patience, optional
        How long to wait for what.
    say : callable
        Called with messages about why no image comes back.
    """

    def __init__(
        self,
        client: Client,
        *,
        outlook: Callable[[], Outlook] | None = None,
        patience: Patience | None = None,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        # For a client that the user made; `open_cluster` has done it for its own.
        hide_connection_tracebacks()
        self._client, self._say = client, say
        if outlook is None and isinstance(client.cluster, LocalCluster):
            outlook = functools.partial(local_outlook, client.cluster)
        self._outlook = outlook or Outlook
        self._patience = patience or Patience()
        self._watchdog = Watchdog(self._patience, time.monotonic())
        self._monitor = WorkerMonitor()
        self._counted = self._judged = -float("inf")
        self._answered = time.monotonic()
        self.n_threads = 1
        """Number of worker threads when last counted; at least one."""

    def task_finished(self) -> None:
        """Note that a task has finished."""
        self._watchdog.task_finished(time.monotonic())

    def due(self) -> bool:
        """Return True if it is time for another `check`."""
        return time.monotonic() - self._counted > _COUNT_SECONDS

    def check(self, n_tasks: int) -> str:
        """Count the threads, report why nothing comes back, and restart workers that are stuck.

        Parameters
        ----------
        n_tasks : int
            Number of tasks that the cluster has not finished.

        Returns
        -------
        str
            Why the run cannot go on; empty if it can.

        Raises
        ------
        CampaignError
            If the scheduler is lost.
        """
        lost = functools.partial(is_lost, self._client)
        if lost():
            raise scheduler_lost(self._client)
        try:
            n_threads = sum(self._ask("ncores").values())
            now = self._counted = self._answered = time.monotonic()
            self.n_threads = max(1, n_threads)
            return self._judge(n_tasks, now, any_worker=n_threads > 0)
        except TimeoutError:
            now = self._counted = time.monotonic()
            silent = f"the Dask scheduler has not answered for {duration(now - self._answered)}"
            if now - self._answered > self._patience.stuck:
                raise CampaignError(silent, fix="Finished images are kept, so run the campaign again") from None
            self._say(silent)
            return ""
        except (OSError, ValueError, RuntimeError) as error:
            if lost():
                raise scheduler_lost(self._client) from error
            raise CampaignError(
                f"the Dask scheduler does not answer ({type(error).__name__}: {error})",
                fix="See whether it is still running; finished images are kept, so run the campaign again",
            ) from error

    def _ask(self, operation: str) -> Any:
        """Call an operation of the scheduler, with a time limit: a machine that hangs keeps its connections open."""
        return insist(
            lambda: self._client.sync(getattr(self._client.scheduler, operation), callback_timeout=_ANSWER_SECONDS),
            hopeless=functools.partial(is_lost, self._client),
        )

    def _judge(self, n_tasks: int, now: float, *, any_worker: bool) -> str:
        interval = min(self._patience.paused, self._patience.report) / 2
        if any_worker and n_tasks and now - self._judged < min(interval, 15.0):
            return ""
        self._judged = now
        workers: tuple[WorkerFacts, ...] = ()
        if any_worker and n_tasks:
            workers = self._monitor.workers(self._ask("identity")["workers"], time.monotonic())
        verdict = self._watchdog.judge(Facts(n_tasks, workers, self._outlook()), now)
        if verdict.message:
            self._say(verdict.message)
        if verdict.restart:
            with contextlib.suppress(OSError, ValueError):
                self._client.restart_workers(list(verdict.restart), timeout=_RESTART_SECONDS, raise_for_error=False)
        return verdict.end
