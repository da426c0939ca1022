"""Look at every worker before its first task, and keep out those that are not fit."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
import weakref
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from distributed import Client, WorkerPlugin
from distributed.core import Status

from skygraft.clusters.calls import insist
from skygraft.clusters.preflight import PIXEL_PACKAGES, Expectation, version_differences
from skygraft.errors import CampaignError

__all__ = ["Guard", "guard_workers"]

_NAME = "skygraft-preflight"
_SKEW_SECONDS = 60.0
_HOPELESS = 20
"""So many unfit workers in a row, and no fit one, are no accident."""
_SHOWN = 5
_ANSWER_SECONDS = 120.0


class _Preflight(WorkerPlugin):
    """Looks whether its worker is fit, before the worker takes a task; one that is not leaves."""

    def __init__(self, expectation: Expectation, driver: str) -> None:
        self.name = _name(expectation)
        self.expectation, self.driver = expectation, driver

    async def setup(self, worker: Any) -> None:
        if not await _is_connected(worker, self.driver):
            return
        # In a thread: a file system that hangs must not take the worker's heartbeat with it.
        fitness = await asyncio.to_thread(self.expectation.look, worker.local_directory)
        worker.log_event(
            self.name,
            {
                "worker": worker.address,
                "host": worker.address.rpartition("/")[2].rpartition(":")[0],
                "node": _node(),
                "time": time.time(),
                "problems": list(fitness.problems),
                "warnings": list(fitness.warnings),
            },
        )
        if not fitness.ok:
            # From here on it begins no task.
            worker.status = Status.closing_gracefully
            worker.loop.add_callback(_leave, worker)


def _name(expectation: Expectation) -> str:
    """Of the plugin and of what it says: a scheduler may serve several campaigns."""
    return f"{_NAME}-{expectation.token}"


async def _is_connected(worker: Any, client: str) -> bool:
    """Whether a client of the scheduler is still there.

    The scheduler goes on to hand out what a driver that has ended, or was killed, wanted looked at: nobody is to lose
    workers to that.
    """
    events = await worker.scheduler.events(topic=client)
    return bool(events) and events[-1][1].get("action") != "remove-client"


def _node() -> str:
    import platform

    return platform.node()


async def _leave(worker: Any) -> None:
    with contextlib.suppress(OSError):
        await worker.scheduler.retire_workers(
            workers=[worker.address], close_workers=False, remove=True, stimulus_id=f"{_NAME}-{time.time()}"
        )
    # Its nanny too: a new process of the same machine would be as unfit.
    await worker.close(nanny=True, reason=_NAME)


class Guard:
    """What is known of the workers' fitness; see `guard_workers`. As a context manager, it goes off duty at the end."""

    def __init__(self, say: Callable[[str], None], leave: Callable[[], None] = lambda: None) -> None:
        self._leave = leave
        self._say = say
        self._lock = threading.Lock()
        self._seen: dict[str, bool] = {}
        self._told: set[tuple[str, str]] = set()
        self._in_a_row = 0
        self.unfit: dict[str, tuple[str, ...]] = {}
        """Reasons by machine."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()

    @property
    def n_fit(self) -> int:
        """Workers found fit so far."""
        return sum(self._seen.values())

    def hear(self, worker: str, node: str, problems: list[str], warnings: list[str]) -> None:
        """Take in what was found at a worker; each reason is said once for each machine."""
        with self._lock:
            self._seen[worker] = not problems
            self._in_a_row = self._in_a_row + 1 if problems else 0
            if problems:
                self.unfit[node] = tuple(dict.fromkeys((*self.unfit.get(node, ()), *problems)))
            fresh = [p for p in problems if (node, p) not in self._told]
            warned = [w for w in warnings if (node, w) not in self._told]
            self._told.update((node, text) for text in (*fresh, *warned))
        if fresh:
            self._say(f"no tasks for the worker on {node}: {'; '.join(fresh)}")
        if warned:
            self._say(f"worker on {node}: {'; '.join(warned)}")

    def seen(self, worker: str) -> bool:
        """Whether a worker was looked at."""
        return worker in self._seen

    def check(self) -> None:
        """Make sure that there is somebody to do the work.

        Raises
        ------
        CampaignError
            If no worker was ever fit, or very many in a row were not.
        """
        if self.unfit and (self.n_fit == 0 or self._in_a_row >= _HOPELESS):
            raise self.error()

    def error(self) -> CampaignError:
        """Why no worker is fit."""
        lines = [f"\n  {node}: {'; '.join(reasons)}" for node, reasons in list(self.unfit.items())[:_SHOWN]]
        more = f"\n  and {len(self.unfit) - _SHOWN} more machines" if len(self.unfit) > _SHOWN else ""
        return CampaignError(
            f"no worker is fit for this campaign:{''.join(lines)}{more}",
            key="cluster",
            fix="Give the workers the same software as this process has, and the same folders under the same paths",
        )


def guard_workers(client: Client, expectation: Expectation, say: Callable[[str], None] = lambda text: None) -> Guard:
    """Look at every worker that is there, and at every one that joins later, before its first task.

    Those that are not fit are closed, and named once for each machine.

    Parameters
    ----------
    client : distributed.Client
        The cluster; none of its workers has a task yet.
    expectation : Expectation
        What is needed of them.
    say : callable
        Hears who is unfit and why, and of versions and clocks that differ.

    Returns
    -------
    Guard
        Knows who was unfit; `Guard.check` raises where nobody is left. To be entered: it is on duty until it is left.

    Raises
    ------
    CampaignError
        If none of those that are there is fit.
    """

    def leave() -> None:
        # Whoever joins the cluster later is not there for this campaign.
        with contextlib.suppress(OSError, TimeoutError, ValueError, RuntimeError):
            if client.status == "running":
                client.unregister_worker_plugin(_name(expectation))
        expectation.remove_token()

    guard = Guard(say, leave)
    expectation.place_token()
    # Also where nobody enters the guard.
    weakref.finalize(client, expectation.remove_token)
    _close_those_without(client, expectation, guard)

    def hear(event: tuple[float, dict[str, Any]]) -> None:
        _, found = event
        skew = found["time"] - time.time()
        warnings = list(found["warnings"])
        if abs(skew) > _SKEW_SECONDS:
            warnings.append(f"its clock is {abs(skew):.0f} s {'ahead' if skew > 0 else 'behind'}")
        guard.hear(found["worker"], found["node"], found["problems"], warnings)

    client.subscribe_topic(_name(expectation), hear)
    there = _workers(client)
    insist(lambda: client.register_plugin(_Preflight(expectation, client.id)))
    deadline = time.monotonic() + _ANSWER_SECONDS
    while not all(guard.seen(worker) for worker in there):
        if time.monotonic() > deadline:
            silent = sorted(worker for worker in there if not guard.seen(worker))
            logging.getLogger(__name__).warning("no word from the workers %s", ", ".join(silent[:_SHOWN]))
            break
        there &= _workers(client) | {w for w in there if guard.seen(w)}
        time.sleep(0.02)
    try:
        guard.check()
    except CampaignError:
        leave()
        raise
    return guard


def _close_those_without(client: Client, expectation: Expectation, guard: Guard) -> None:
    """Close workers with other software; they may be unable to read anything that this process sends."""
    wanted = {name: version for name, version in expectation.software if name != "pixel version"}
    answer: Any = insist(lambda: client.get_versions(packages=[*PIXEL_PACKAGES, "pyarrow"]))
    found = answer["workers"]
    closed = []
    for worker, versions in found.items():
        packages = {**versions["packages"], "python": ".".join(str(versions["host"]["python"]).split(".")[:3])}
        fitness = version_differences(packages, wanted)
        if not fitness.ok:
            node = worker.rpartition("/")[2].rpartition(":")[0]
            guard.hear(worker, node, list(fitness.problems), [])
            closed.append(worker)
    if closed:
        insist(lambda: client.retire_workers(closed, close_workers=True))


def _workers(client: Client) -> set[str]:
    return set(insist(lambda: client.scheduler_info(n_workers=-1))["workers"])
