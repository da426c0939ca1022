"""Why no image comes back, and what to do about it: decided from plain facts, without Dask.

A run waits for its workers, and a worker may never do another task: it was stopped by a batch system, is held at its
memory limit, or is not heard from. `Watchdog` says so, asks for what can be started again, and ends what cannot go on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from skygraft.wording import data_size, duration

__all__ = ["Facts", "Listening", "Outlook", "Patience", "Verdict", "Watchdog", "WorkerFacts"]

_NAMED = 3
_RESTARTS = 3
"""A worker that is held at its memory limit again after so many new processes has too little of it."""
_LONGEST_PAUSE = 600.0
_A_MOMENT = 5.0
"""In which a worker that died may be back."""


@dataclass(frozen=True)
class Outlook:
    """Whether workers may still come, as the cluster knows it.

    Parameters
    ----------
    coming : bool or None
        True: some are on their way, such as jobs that wait in a queue. False: none can come any more. None: it is not
        known.
    text : str
        What they wait for, or why none comes.
    """

    coming: bool | None = None
    text: str = ""


@dataclass(frozen=True)
class WorkerFacts:
    """A worker, as the scheduler sees it.

    Parameters
    ----------
    address, host : str
        Where it is.
    status : str
        ``running``, ``paused`` (it holds too much memory to begin another task), or a word for one that is leaving.
    executing : int
        Tasks that it is at work on.
    silent_seconds : float
        Since it was last heard of.
    memory, memory_limit : int
        Bytes that its process holds, and may hold; a limit of 0 is none.
    """

    address: str
    host: str = ""
    status: str = "running"
    executing: int = 0
    silent_seconds: float = 0.0
    memory: int = 0
    memory_limit: int = 0


@dataclass(frozen=True)
class Facts:
    """The state of a run.

    Parameters
    ----------
    n_tasks : int
        Tasks that the scheduler has.
    workers : tuple of WorkerFacts
        Workers that it has.
    outlook : Outlook
        Whether others may come.
    """

    n_tasks: int
    workers: tuple[WorkerFacts, ...] = ()
    outlook: Outlook = field(default_factory=Outlook)


@dataclass(frozen=True)
class Patience:
    """How long to wait, seconds.

    Parameters
    ----------
    word : float
        For the first worker, or the next image, before it is said why there is none.
    paused : float
        For a worker that is held at its memory limit and does nothing, before its process is started anew.
    lost : float
        Without a word from a worker before it counts as lost.
    stuck : float
        For anything to happen where nobody knows whether it can, before the run ends.
    coming : float
        For workers that are on their way, before the run ends.
    """

    word: float = 120.0
    paused: float = 60.0
    lost: float = 60.0
    stuck: float = 1800.0
    coming: float = 86400.0


@dataclass(frozen=True)
class Verdict:
    """What is to be done.

    Parameters
    ----------
    say : str
        What to tell people; empty for nothing new.
    restart : tuple of str
        Addresses of the workers whose process is to be started anew.
    end : str
        Why the run ends; empty where it goes on.
    """

    say: str = ""
    restart: tuple[str, ...] = ()
    end: str = ""


class Watchdog:
    """Judges the state of a run, again and again.

    Parameters
    ----------
    patience : Patience
        How long to wait.
    now : float
        The time, seconds, of any clock that does not go back.
    """

    def __init__(self, patience: Patience, now: float) -> None:
        self.patience = patience
        self._heard = self._worked = now
        self._paused: dict[str, float] = {}
        self._lonely: float | None = None
        self._restarts = 0
        self._next_word, self._pause = now, patience.word

    def came_back(self, now: float) -> None:
        """A task came back: all is well."""
        self._heard = self._worked = now
        self._restarts = 0
        self._pause = self.patience.word

    def quiet_seconds(self, now: float) -> float:
        """Since a task came back, or the run began."""
        return now - self._heard

    def judge(self, facts: Facts, now: float) -> Verdict:
        """Say what is to be done.

        Parameters
        ----------
        facts : Facts
            The state of the run.
        now : float
            The time.
        """
        if facts.n_tasks == 0:
            self._worked, self._lonely = now, None
            return Verdict()
        if not facts.workers:
            return self._judge_none(facts, now)
        if self._lonely is not None:
            # They have just come, and have had no time to do anything.
            self._lonely, self._worked = None, now
        at_work = [w for w in facts.workers if w.executing and w.silent_seconds <= self.patience.lost]
        if at_work:
            self._worked = now
        restart, end = self._judge_paused(facts.workers, now)
        if end and not at_work:
            return Verdict(end=end)
        if now - self._worked > self.patience.stuck:
            return Verdict(end=f"no worker has done anything for {duration(now - self._worked)}: {_why(facts, self)}")
        quiet = self.quiet_seconds(now)
        if not restart and quiet < self.patience.word:
            return Verdict()
        text = f"nothing has come back for {duration(quiet)}: {_why(facts, self)}"
        if restart:
            text += f"; starting {_named(restart)} anew"
        return Verdict(say=self._new(text, now, force=bool(restart)), restart=restart)

    def _judge_none(self, facts: Facts, now: float) -> Verdict:
        self._paused.clear()
        first = self._lonely is None
        self._lonely = now if self._lonely is None else self._lonely
        alone, outlook = now - self._lonely, facts.outlook
        about = f": {outlook.text}" if outlook.text else ""
        if outlook.coming is False and not first:
            return Verdict(end=f"there is no worker any more, and none can come{about}")
        limit = self.patience.coming if outlook.coming else self.patience.stuck
        if alone > limit:
            return Verdict(end=f"there has been no worker for {duration(alone)}{about}")
        if first:
            # A process that dies and is started again at once is not worth a word.
            self._next_word = now + min(_A_MOMENT, self.patience.word)
            return Verdict()
        return Verdict(say=self._new(f"there is no worker: {facts.n_tasks} tasks wait for one{about}", now))

    def _judge_paused(self, workers: Iterable[WorkerFacts], now: float) -> tuple[tuple[str, ...], str]:
        """Which paused workers to start anew, and why that is no use any more."""
        paused = {w.address: w for w in workers if w.status == "paused" and not w.executing}
        self._paused = {address: self._paused.get(address, now) for address in paused}
        due = [address for address, since in self._paused.items() if now - since >= self.patience.paused]
        if not due:
            return (), ""
        if self._restarts >= _RESTARTS * len(due):
            worker = paused[due[0]]
            return (), (
                f"workers are held at their memory limit before they can begin a task, also after new processes were "
                f"started: {_memory(worker)}; give each worker more memory, or have fewer of them"
            )
        self._restarts += len(due)
        for address in due:
            del self._paused[address]
        return tuple(due), ""

    def _new(self, text: str, now: float, *, force: bool = False) -> str:
        """The text where it is time for one; the same state is told at growing intervals."""
        if now < self._next_word and not force:
            return ""
        self._next_word = now + self._pause
        self._pause = min(2 * self._pause, max(_LONGEST_PAUSE, self.patience.word))
        return text


def _why(facts: Facts, watchdog: Watchdog) -> str:
    """What the workers do, in words."""
    groups: dict[str, list[WorkerFacts]] = {}
    for worker in facts.workers:
        groups.setdefault(_state(worker, watchdog.patience), []).append(worker)
    words = []
    for state, workers in groups.items():
        n = len(workers)
        words.append(f"{n} worker{'s' if n > 1 else ''} {state} ({_named(w.host or w.address for w in workers)})")
    if facts.outlook.coming and facts.outlook.text:
        words.append(facts.outlook.text)
    return "; ".join(words)


def _state(worker: WorkerFacts, patience: Patience) -> str:
    if worker.silent_seconds > patience.lost:
        return "not heard of" if not worker.executing else "not heard of, with tasks"
    if worker.status == "paused":
        return f"paused at the memory limit, {_memory(worker)}"
    if worker.executing:
        return "at work"
    return "without a task" if worker.status == "running" else f"leaving ({worker.status})"


def _memory(worker: WorkerFacts) -> str:
    limit = f" of {data_size(worker.memory_limit)}" if worker.memory_limit else ""
    return f"{data_size(worker.memory)}{limit} held"


def _named(names: Iterable[str]) -> str:
    found = list(dict.fromkeys(names))
    more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    return ", ".join(found[:_NAMED]) + more


class Listening:
    """Turns what a scheduler tells of its workers into facts, by a clock of this process.

    A scheduler notes by its own clock when it last heard of a worker; here counts when that note was last seen to
    change, since the clocks of two machines differ.
    """

    def __init__(self) -> None:
        self._notes: dict[str, tuple[float, float]] = {}

    def workers(self, identities: Mapping[str, Mapping[str, Any]], now: float) -> tuple[WorkerFacts, ...]:
        """The workers.

        Parameters
        ----------
        identities : mapping
            By address: what ``distributed.scheduler.WorkerState.identity`` gives.
        now : float
            The time, of a clock that does not go back.
        """
        notes: dict[str, tuple[float, float]] = {}
        found = []
        for address, identity in identities.items():
            note = float(identity.get("last_seen") or 0.0)
            before = self._notes.get(address)
            notes[address] = before if before is not None and before[0] == note else (note, now)
            metrics = identity.get("metrics") or {}
            counts = metrics.get("task_counts") or {}
            found.append(
                WorkerFacts(
                    address,
                    host=str(identity.get("host") or ""),
                    status=str(identity.get("status") or "running"),
                    executing=sum(int(counts.get(name) or 0) for name in ("executing", "long-running")),
                    silent_seconds=now - notes[address][1],
                    memory=int(metrics.get("memory") or 0),
                    memory_limit=int(identity.get("memory_limit") or 0),
                )
            )
        self._notes = notes
        return tuple(found)
