"""Check every worker before its first task, and close those that cannot make a campaign's images."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import platform
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any

from distributed import Client, WorkerPlugin
from distributed.core import Status

from skygraft.clusters.connection import insist
from skygraft.clusters.preflight import PACKAGES, Expectation, relevant_versions, version_differences
from skygraft.errors import CampaignError
from skygraft.processes import give_back_memory, keep_memory

__all__ = ["Guard", "guard_workers"]

_NAME = "skygraft-preflight"
_MAX_CLOCK_SECONDS = 60.0
_MAX_UNFIT_IN_A_ROW = 20
"""After so many unfit workers without a fit one in between, the run ends."""
_MAX_LISTED = 5
_ANSWER_SECONDS = 120.0


class _Preflight(WorkerPlugin):
    """Checks its worker before the worker takes a task, reports the result, and closes a worker that is unfit.

    As long as it is there, the worker's process keeps the memory of an image for the next one.
    """

    def __init__(self, expectation: Expectation, driver: str) -> None:
        self.name = _topic(expectation)
        self.expectation, self.driver = expectation, driver

    async def setup(self, worker: Any) -> None:
        if not await _is_connected(worker, self.driver):
            return
        # In a thread: a file system that hangs must not stop the worker's heartbeat.
        fitness = await asyncio.to_thread(self.expectation.check, worker.local_directory)
        found = {"worker": worker.address, "node": platform.node(), "time": time.time()}
        worker.log_event(self.name, found | dataclasses.asdict(fitness))
        if fitness.ok:
            keep_memory()
        else:
            # A worker with this status starts no tasks.
            worker.status = Status.closing_gracefully
            worker.loop.add_callback(_leave, worker)

    def teardown(self, worker: Any) -> None:
        """Give the memory back: the workers of a scheduler of the user's own go on to something else."""
        del worker
        give_back_memory()


def _topic(expectation: Expectation) -> str:
    """Name of the plugin and of its events; it differs between the campaigns that a scheduler serves."""
    return f"{_NAME}-{expectation.token}"


async def _is_connected(worker: Any, client: str) -> bool:
    """Return True if a client is still connected to the scheduler.

    The scheduler keeps the plugin of a driver that ended or was killed, and installs it on new workers. Those must not
    be closed because of that driver.
    """
    events = await worker.scheduler.events(topic=client)
    return bool(events) and events[-1][1].get("action") != "remove-client"


async def _leave(worker: Any) -> None:
    with contextlib.suppress(OSError):
        await worker.scheduler.retire_workers(
            workers=[worker.address], close_workers=False, remove=True, stimulus_id=f"{_NAME}-{time.time()}"
        )
    # Its nanny too: a new process on the same machine would be unfit as well.
    await worker.close(nanny=True, reason=_NAME)


class Guard(contextlib.AbstractContextManager["Guard"]):
    """Collects the results of the workers' checks; see `guard_workers`. Leaving its context calls `leave`."""

    def __init__(self, say: Callable[[str], None], leave: Callable[[], None] = lambda: None) -> None:
        self._say, self._leave = say, leave
        self._lock = threading.Lock()
        self._reported: set[tuple[str, str]] = set()
        self._unfit_in_a_row = 0
        self.fit: dict[str, bool] = {}
        """For each worker that was checked, whether it is fit."""
        self.unfit: dict[str, tuple[str, ...]] = {}
        """For each machine with unfit workers, the reasons."""

    def __exit__(self, *error: object) -> None:
        self._leave()

    @property
    def n_fit(self) -> int:
        """Number of workers that passed the check so far."""
        return sum(self.fit.values())

    def record(self, worker: str, node: str, problems: Sequence[str], warnings: Sequence[str]) -> None:
        """Record the result of a worker's check: why it is unfit, and what may matter.

        Each reason is reported once for each machine.
        """
        with self._lock:
            self.fit[worker] = not problems
            self._unfit_in_a_row = self._unfit_in_a_row + 1 if problems else 0
            if problems:
                self.unfit[node] = tuple(dict.fromkeys((*self.unfit.get(node, ()), *problems)))
            new = [[text for text in texts if (node, text) not in self._reported] for texts in (problems, warnings)]
            self._reported.update((node, text) for texts in new for text in texts)
        for what, texts in zip(("no tasks for the worker", "worker"), new, strict=True):
            if texts:
                self._say(f"{what} on {node}: {'; '.join(texts)}")

    def check(self) -> None:
        """Raise a `CampaignError` if no worker was ever fit, or very many in a row were not."""
        if self.unfit and (self.n_fit == 0 or self._unfit_in_a_row >= _MAX_UNFIT_IN_A_ROW):
            lines = [f"\n  {node}: {'; '.join(reasons)}" for node, reasons in list(self.unfit.items())[:_MAX_LISTED]]
            more = f"\n  and {len(self.unfit) - _MAX_LISTED} more machines" if len(self.unfit) > _MAX_LISTED else ""
            raise CampaignError(
                f"no worker is fit for this campaign:{''.join(lines)}{more}",
                key="cluster",
                fix="Give the workers the same software as this process has, and the same folders under the same paths",
            )


def guard_workers(client: Client, expectation: Expectation, say: Callable[[str], None] = lambda text: None) -> Guard:
    """Check all workers of a cluster, and every worker that joins later, before its first task.

    Workers that are unfit are closed, and reported once for each machine.

    Parameters
    ----------
    client : distributed.Client
        Client of the cluster; none of its workers has a task yet.
    expectation : Expectation
        What the workers need.
    say : callable
        Called with messages about unfit workers, and about versions and clocks that differ.

    Returns
    -------
    Guard
        Results of the checks, as a context manager: workers are checked until the context is left.

    Raises
    ------
    CampaignError
        If none of the present workers is fit.
    """

    def leave() -> None:
        # Workers that join the cluster later are not for this campaign.
        with contextlib.suppress(OSError, TimeoutError, ValueError, RuntimeError):
            if client.status == "running":
                client.unregister_worker_plugin(_topic(expectation))
        expectation.remove_token()

    guard = Guard(say, leave)
    expectation.place_token()
    # In case nobody enters the guard's context.
    weakref.finalize(client, expectation.remove_token)
    _close_other_software(client, expectation, guard)

    def record(event: tuple[float, dict[str, Any]]) -> None:
        _, found = event
        ahead = found["time"] - time.time()
        warnings = [*found["warnings"]]
        if abs(ahead) > _MAX_CLOCK_SECONDS:
            warnings.append(f"its clock is {abs(ahead):.0f} s {'ahead' if ahead > 0 else 'behind'}")
        guard.record(found["worker"], found["node"], found["problems"], warnings)

    client.subscribe_topic(_topic(expectation), record)
    present = _workers(client)
    insist(lambda: client.register_plugin(_Preflight(expectation, client.id)))
    deadline = time.monotonic() + _ANSWER_SECONDS
    while silent := {worker for worker in present & _workers(client) if worker not in guard.fit}:
        if time.monotonic() > deadline:
            some = ", ".join(sorted(silent)[:_MAX_LISTED])
            logging.getLogger(__name__).warning("no answer from the workers %s", some)
            break
        time.sleep(0.02)
    try:
        guard.check()
    except CampaignError:
        leave()
        raise
    return guard


def _close_other_software(client: Client, expectation: Expectation, guard: Guard) -> None:
    """Close workers with other versions of packages, which may be unable to load the plugin."""
    wanted = {name: version for name, version in expectation.software if name != "pixel version"}
    answer: Any = insist(lambda: client.get_versions(packages=PACKAGES))
    closed = []
    for worker, versions in answer["workers"].items():
        fitness = version_differences(relevant_versions(versions["packages"]), wanted)
        if not fitness.ok:
            guard.record(worker, worker.rpartition("/")[2].rpartition(":")[0], fitness.problems, ())
            closed.append(worker)
    if closed:
        insist(lambda: client.retire_workers(closed, close_workers=True))


def _workers(client: Client) -> set[str]:
    return set(insist(lambda: client.scheduler_info(n_workers=-1))["workers"])
