"""Run cases in processes that may hang, crash or eat memory, and say which did.

A case may take so much *processor* time: a busy machine makes nothing a hang. One that neither computes nor ends is
one too, after a wall time that no busy machine needs.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

CPU_SECONDS, WALL_SECONDS = 30.0, 600.0
MEMORY_BYTES = 400 << 20
"""What a case may take beyond what the process had, for files of less than a megabyte."""
ADDRESS_SPACE = 8 << 30

type Case = tuple[str, int]
"""Target and number: with the seed they determine the case."""


@dataclass(frozen=True)
class Outcome:
    """What became of a case: ``ok``, ``refused`` or a fault (`FAULTS`), and what says so."""

    target: str
    number: int
    kind: str
    what: str = ""
    detail: str = ""


FAULTS = ("hang", "signal", "foreign", "memory", "silent")


def _peak_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) << 10
    return 0


def _serve(pipe: Connection, run: Callable[[str, int], Outcome], folder: Path) -> None:
    """Take cases until none comes; each in a folder of its own that is emptied before."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    folder.mkdir(parents=True, exist_ok=True)
    log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.chdir(folder)
    while True:
        target, number = pipe.recv()
        os.ftruncate(log, 0)
        Path("/proc/self/clear_refs").write_text("5")
        before = _peak_bytes()
        outcome = run(target, number)
        grown = _peak_bytes() - before
        if grown > MEMORY_BYTES and outcome.kind in ("ok", "refused"):
            outcome = Outcome(target, number, "memory", outcome.what, f"{grown >> 20} MB more")
        pipe.send(outcome)


class _Worker:
    def __init__(self, run: Callable[[str, int], Outcome], folder: Path) -> None:
        self.run, self.folder = run, folder
        self.start()

    def start(self) -> None:
        context: Any = multiprocessing.get_context("fork")
        self.pipe, far = context.Pipe()
        self.process = context.Process(target=_serve, args=(far, self.run, self.folder), daemon=True)
        self.process.start()
        far.close()
        self.case: Case | None = None
        # Importing and loading compiled code is not the first case's time.
        self.fresh = True

    def give(self, case: Case) -> None:
        self.case, self.since, self.cpu = case, time.monotonic(), self._cpu_seconds()
        self.pipe.send(case)

    def _cpu_seconds(self) -> float:
        try:
            fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return 0.0
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def overdue(self) -> bool:
        allowance = 4 if self.fresh else 1
        spent = self._cpu_seconds() - self.cpu
        return spent > allowance * CPU_SECONDS or time.monotonic() - self.since > allowance * WALL_SECONDS

    def restart(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()
        self.start()


def run_cases(
    cases: Iterable[Case], run: Callable[[str, int], Outcome], folder: Path, n_processes: int, seconds: float
) -> Iterator[Outcome]:
    """Outcomes as they come, until there are no more cases or the time is up (what is begun is ended)."""
    workers = [_Worker(run, folder / f"process-{i}") for i in range(n_processes)]
    todo, end = iter(cases), time.monotonic() + seconds
    try:
        while True:
            for worker in workers:
                if worker.case is None and time.monotonic() < end and (case := next(todo, None)) is not None:
                    worker.give(case)
            busy = {w.pipe: w for w in workers if w.case is not None}
            if not busy:
                return
            for pipe in wait([*busy], timeout=1.0):
                worker = busy.pop(pipe)  # type: ignore[call-overload]
                assert worker.case is not None
                target, number = worker.case
                try:
                    outcome = worker.pipe.recv()
                    worker.case, worker.fresh = None, False
                except (EOFError, ConnectionError):
                    worker.process.join()
                    code = worker.process.exitcode or 0
                    name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
                    outcome = Outcome(target, number, "signal", detail=name)
                    worker.restart()
                yield outcome
            for worker in busy.values():
                if worker.overdue():
                    assert worker.case is not None
                    outcome = Outcome(*worker.case, "hang")
                    worker.restart()
                    yield outcome
    finally:
        for worker in workers:
            worker.process.kill()
            worker.process.join()
