"""Look after a cluster while a run waits: whether its scheduler is there, it has workers, and they do anything."""

from __future__ import annotations

import contextlib
import functools
import logging
import time
from collections.abc import Callable
from typing import Any

import dask
from distributed import Client

from skygraft.clusters.calls import hush_reconnecting, insist
from skygraft.clusters.settings import PATIENT
from skygraft.clusters.watchdog import Facts, Listening, Outlook, Patience, Watchdog, WorkerFacts
from skygraft.errors import CampaignError
from skygraft.wording import duration

__all__ = ["ClusterWatch", "is_lost", "local_outlook", "outlook_of", "patient_nannies", "scheduler_lost"]

_LOG = logging.getLogger(__name__)
_COUNT_SECONDS = 2.0
_RESTART_SECONDS = 30.0
_ANSWER_SECONDS = 60.0


# From the first connection on: a callback of the event loop may fail before anybody notices that the scheduler is gone.
hush_reconnecting()


def is_lost(client: Client | None) -> bool:
    """Whether a client has lost its scheduler: what it had there is gone, though it may find it again."""
    return client is not None and client.status in ("connecting", "closing", "closed")


def scheduler_lost(client: Client) -> CampaignError:
    """The error for that."""
    address = getattr(client.scheduler, "address", "") or "unknown address"
    return CampaignError(
        f"the connection to the Dask scheduler at {address} was lost",
        fix="See whether the scheduler is still there; what is done is kept, so run the campaign again",
    )


def local_outlook(cluster: Any) -> Outlook:
    """Whether workers may still come on a cluster of this machine: their nannies start them again when they die.

    Parameters
    ----------
    cluster : distributed.LocalCluster
        The cluster.
    """
    nannies = list(cluster.workers.values())
    alive = [nanny for nanny in nannies if _may_have_worker(nanny)]
    if not alive:
        return Outlook(False, "what starts workers on this machine has given up; the messages above say why")
    return Outlook(True, f"{len(alive)} {'is' if len(alive) == 1 else 'are'} being started")


def _may_have_worker(nanny: Any) -> bool:
    if nanny.status.name not in ("init", "created", "starting", "running"):
        return False
    process = getattr(nanny, "process", None)
    # A process that has stopped is started again at once; one that could not be made never is.
    return process is None or process.status.name != "failed"


def outlook_of(client: Client) -> Callable[[], Outlook]:
    """Who knows whether workers may still come, for a client that somebody else has made."""
    from distributed import LocalCluster

    if isinstance(client.cluster, LocalCluster):
        return functools.partial(local_outlook, client.cluster)
    return Outlook


def patient_nannies(client: Client) -> contextlib.AbstractContextManager[Any]:
    """Let the nannies of a cluster that somebody else has made on this machine take their time, while it is entered."""
    from distributed import LocalCluster

    return dask.config.set(PATIENT) if isinstance(client.cluster, LocalCluster) else contextlib.nullcontext()


class ClusterWatch:
    """Counts a cluster's worker threads, and acts on what its `Watchdog` finds.

    Parameters
    ----------
    client : distributed.Client
        The cluster.
    outlook : callable, optional
        Whether other workers may still come; by default what is known of a cluster on this machine.
    patience : Patience
        How long to wait for what.
    say : callable
        Hears why nothing happens.
    """

    def __init__(
        self,
        client: Client,
        *,
        outlook: Callable[[], Outlook] | None = None,
        patience: Patience | None = None,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._client, self._say = client, say
        self._outlook = outlook or outlook_of(client)
        self._patience = patience or Patience()
        self._dog = Watchdog(self._patience, time.monotonic())
        self._listening = Listening()
        self._counted = self._looked = -float("inf")
        self._answered = time.monotonic()
        self.n_threads = 1
        """When last counted; at least one."""

    def came_back(self) -> None:
        """Note that a task came back."""
        self._dog.came_back(time.monotonic())

    def due(self) -> bool:
        """Whether it is time to look again."""
        return time.monotonic() - self._counted > _COUNT_SECONDS

    def look(self, n_tasks: int) -> str:
        """Count threads, say why nothing happens, and start anew what does not go on.

        Parameters
        ----------
        n_tasks : int
            Tasks that wait for the cluster.

        Returns
        -------
        str
            Why the run cannot go on; empty where it can.

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
                raise CampaignError(silent, fix="What is done is kept, so run the campaign again") from None
            self._say(silent)
            return ""
        except (OSError, ValueError, RuntimeError) as error:
            if lost():
                raise scheduler_lost(self._client) from error
            raise CampaignError(
                f"the Dask scheduler does not answer ({type(error).__name__}: {error})",
                fix="See whether it is still there; what is done is kept, so run the campaign again",
            ) from error

    def _ask(self, operation: str) -> Any:
        """Ask the scheduler, but not for ever: a machine that hangs keeps its connections."""
        return insist(
            lambda: self._client.sync(getattr(self._client.scheduler, operation), callback_timeout=_ANSWER_SECONDS),
            broken=functools.partial(is_lost, self._client),
        )

    def _judge(self, n_tasks: int, now: float, *, any_worker: bool) -> str:
        every = min(self._patience.paused, self._patience.word) / 2
        if any_worker and n_tasks and now - self._looked < min(every, 15.0):
            return ""
        self._looked = now
        workers: tuple[WorkerFacts, ...] = ()
        if any_worker and n_tasks:
            workers = self._listening.workers(self._ask("identity")["workers"], time.monotonic())
        verdict = self._dog.judge(Facts(n_tasks, workers, self._outlook()), now)
        if verdict.say:
            self._say(verdict.say)
        if verdict.restart:
            with contextlib.suppress(OSError, ValueError):
                self._client.restart_workers(list(verdict.restart), timeout=_RESTART_SECONDS, raise_for_error=False)
        return verdict.end
