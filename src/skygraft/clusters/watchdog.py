"""Decide why no image comes back and what to do about it, from plain facts and without Dask.

A worker may never run another task: a batch system suspended it, Dask paused it at its memory limit, or its machine no
longer answers. `Watchdog` reports that, asks for stuck workers to be restarted, and ends a run that cannot go on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from skygraft.wording import data_size, duration

__all__ = ["Facts", "Outlook", "Patience", "Verdict", "Watchdog", "WorkerFacts", "WorkerMonitor"]

_MAX_NAMES = 3
_MAX_RESTARTS = 3
"""A worker that is paused at its memory limit again after this many restarts has too little memory."""
_LONGEST_PAUSE = 600.0
_RESTART_SECONDS = 5.0
"""Time in which a worker that died may be restarted."""


@dataclass(frozen=True)
class Outlook:
    """Whether more workers may come."""

    coming: bool | None = None
    """True if some are on their way, such as jobs that wait in a queue; False if none can come any more; None if it is
    not known."""
    text: str = ""
    """What they wait for, or why none can come."""


@dataclass(frozen=True)
class WorkerFacts:
    """State of a worker, as known to the scheduler."""

    address: str
    host: str = ""
    status: str = "running"  # paused: its memory is too full to start another task; or Dask's word
    executing: int = 0  # tasks that it is running
    silent_seconds: float = 0.0  # since its last heartbeat
    memory: int = 0  # of its process, bytes
    memory_limit: int = 0  # bytes; 0 for none


@dataclass(frozen=True)
class Facts:
    """State of a run."""

    n_tasks: int  # unfinished
    workers: tuple[WorkerFacts, ...] = ()
    outlook: Outlook = Outlook()


@dataclass(frozen=True)
class Patience:
    """How long to wait for what, seconds."""

    report: float = 120.0  # without a finished task, before a message says why
    paused: float = 60.0  # while a worker is paused at its memory limit and runs no task, before it is restarted
    lost: float = 60.0  # without a heartbeat, before a worker counts as lost
    stuck: float = 1800.0  # without progress before the run ends, if it is not known whether workers will come
    coming: float = 86400.0  # without a worker before the run ends, if workers are on their way


@dataclass(frozen=True)
class Verdict:
    """Decision of a `Watchdog`."""

    message: str = ""  # to show; empty if there is nothing new
    restart: tuple[str, ...] = ()  # addresses of workers
    end: str = ""  # why the run has to end; empty if it goes on


class Watchdog:
    """Decides what to do about a run whose tasks do not finish; times are those of a monotonic clock, seconds."""

    def __init__(self, patience: Patience, now: float) -> None:
        self.patience = patience
        self._finished = self._worked = now
        self._paused: dict[str, float] = {}
        self._without_workers: float | None = None
        self._restarts = 0
        self._next_message, self._pause = now, patience.report

    def task_finished(self, now: float) -> None:
        """Note that a task has finished."""
        self._finished = self._worked = now
        self._restarts = 0
        self._pause = self.patience.report

    def judge(self, facts: Facts, now: float) -> Verdict:
        """Decide what to do."""
        if facts.n_tasks == 0:
            self._worked, self._without_workers = now, None
            return Verdict()
        if not facts.workers:
            return self._judge_none(facts, now)
        if self._without_workers is not None:
            # They have just come, and have had no time to finish anything.
            self._without_workers, self._worked = None, now
        at_work = [w for w in facts.workers if w.executing and w.silent_seconds <= self.patience.lost]
        if at_work:
            self._worked = now
        restart, end = self._judge_paused(facts.workers, now)
        if end and not at_work:
            return Verdict(end=end)
        about, stuck = _describe(facts, self.patience), now - self._worked
        if stuck > self.patience.stuck:
            return Verdict(end=f"no worker has made progress for {duration(stuck)}: {about}")
        quiet = now - self._finished
        if not restart and quiet < self.patience.report:
            return Verdict()
        text = f"no task has finished for {duration(quiet)}: {about}"
        text += f"; restarting {_listed(restart)}" if restart else ""
        return Verdict(self._unless_repeated(text, now, force=bool(restart)), restart)

    def _judge_none(self, facts: Facts, now: float) -> Verdict:
        self._paused.clear()
        first = self._without_workers is None
        self._without_workers = now if self._without_workers is None else self._without_workers
        waited, outlook = now - self._without_workers, facts.outlook
        about = f": {outlook.text}" if outlook.text else ""
        if outlook.coming is False and not first:
            return Verdict(end=f"no worker is left, and none can come{about}")
        if waited > (self.patience.coming if outlook.coming else self.patience.stuck):
            return Verdict(end=f"there has been no worker for {duration(waited)}{about}")
        if first:
            # A worker that dies and is restarted at once is not worth a message.
            self._next_message = now + min(_RESTART_SECONDS, self.patience.report)
            return Verdict()
        return Verdict(self._unless_repeated(f"there is no worker: {facts.n_tasks} tasks are waiting{about}", now))

    def _judge_paused(self, workers: Iterable[WorkerFacts], now: float) -> tuple[tuple[str, ...], str]:
        """Return the paused workers to restart, and why restarting no longer helps; empty if it may."""
        paused = {w.address: w for w in workers if w.status == "paused" and not w.executing}
        self._paused = {address: self._paused.get(address, now) for address in paused}
        due = [address for address, since in self._paused.items() if now - since >= self.patience.paused]
        if not due:
            return (), ""
        if self._restarts >= _MAX_RESTARTS * len(due):
            return (), (
                f"workers are paused at their memory limit before they can start a task, even after a restart: "
                f"{_memory(paused[due[0]])}; give each worker more memory, or use fewer workers"
            )
        self._restarts += len(due)
        for address in due:
            del self._paused[address]
        return tuple(due), ""

    def _unless_repeated(self, text: str, now: float, *, force: bool = False) -> str:
        """Return the message if it is time for one, else an empty text; the intervals between messages grow."""
        if now < self._next_message and not force:
            return ""
        self._next_message = now + self._pause
        self._pause = min(2 * self._pause, max(_LONGEST_PAUSE, self.patience.report))
        return text


def _describe(facts: Facts, patience: Patience) -> str:
    """What the workers do, in words."""
    groups: dict[str, list[WorkerFacts]] = {}
    for worker in facts.workers:
        groups.setdefault(_state(worker, patience), []).append(worker)
    parts = []
    for state, workers in groups.items():
        n = len(workers)
        parts.append(f"{n} worker{'s' if n > 1 else ''} {state} ({_listed(w.host or w.address for w in workers)})")
    if facts.outlook.coming and facts.outlook.text:
        parts.append(facts.outlook.text)
    return "; ".join(parts)


def _state(worker: WorkerFacts, patience: Patience) -> str:
    if worker.silent_seconds > patience.lost:
        return "not responding" if not worker.executing else "not responding, with tasks"
    if worker.status == "paused":
        return f"paused at the memory limit, {_memory(worker)}"
    if worker.executing:
        return "at work"
    return "without a task" if worker.status == "running" else f"leaving ({worker.status})"


def _memory(worker: WorkerFacts) -> str:
    limit = f" of {data_size(worker.memory_limit)}" if worker.memory_limit else ""
    return f"{data_size(worker.memory)}{limit} used"


def _listed(names: Iterable[str]) -> str:
    found = list(dict.fromkeys(names))
    more = f" and {len(found) - _MAX_NAMES} more" if len(found) > _MAX_NAMES else ""
    return ", ".join(found[:_MAX_NAMES]) + more


class WorkerMonitor:
    """Turns a scheduler's description of its workers into `WorkerFacts`.

    A scheduler records the last heartbeat of a worker by its own clock. Since the clocks of two machines differ, the
    silence of a worker is counted here from the moment at which that record was last seen to change.
    """

    def __init__(self) -> None:
        self._heartbeats: dict[str, tuple[float, float]] = {}

    def workers(self, identities: Mapping[str, Mapping[str, Any]], now: float) -> tuple[WorkerFacts, ...]:
        """Return the state of the workers, from what ``WorkerState.identity`` of Dask returns for each address."""
        heartbeats: dict[str, tuple[float, float]] = {}
        found = []
        for address, identity in identities.items():
            recorded = float(identity.get("last_seen") or 0.0)
            before = self._heartbeats.get(address)
            heartbeats[address] = before if before is not None and before[0] == recorded else (recorded, now)
            metrics = identity.get("metrics") or {}
            counts = metrics.get("task_counts") or {}
            found.append(
                WorkerFacts(
                    address,
                    host=str(identity.get("host") or ""),
                    status=str(identity.get("status") or "running"),
                    executing=sum(int(counts.get(name) or 0) for name in ("executing", "long-running")),
                    silent_seconds=now - heartbeats[address][1],
                    memory=int(metrics.get("memory") or 0),
                    memory_limit=int(identity.get("memory_limit") or 0),
                )
            )
        self._heartbeats = heartbeats
        return tuple(found)
