"""Run cases in processes that may hang, crash or eat memory, and report which did.

A case has a limit of *processor* time, so that a busy machine makes no hang of a sound case. A case that neither
computes nor ends is a hang too, after a wall time that no busy machine needs.
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import resource
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

CPU_SECONDS, WALL_SECONDS = 10.0, 300.0
MEMORY_BYTES = 200 << 20
"""What a case may take beyond what the process had, for files of less than 2 MB."""
ADDRESS_SPACE = 8 << 30

DAMAGE = "damage: "
"""How the line begins with which a case reports its sound file and what was done to it."""

type Case = tuple[str, int]
"""Target and number: with the seed they determine the case."""


@dataclass(frozen=True)
class Outcome:
    """What became of a case: ``ok``, ``refused`` or a fault (`FAULTS`), with its evidence.

    `name` is that of the sound file, `what` the damage, `detail` the message or traceback; `cpu` in seconds, `peak`
    in MB beyond what the process had.
    """

    target: str
    number: int
    kind: str
    name: str = ""
    what: str = ""
    detail: str = ""
    cpu: float = 0.0
    peak: int = 0


FAULTS = ("hang", "signal", "foreign", "memory", "silent")


def _peak_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) << 10
    return 0


def measured(run: Callable[[str, int], Outcome], target: str, number: int) -> Outcome:
    """Run a case in this process, with its processor time and peak memory."""
    Path("/proc/self/clear_refs").write_text("5")
    before, start = _peak_bytes(), time.process_time()
    outcome = run(target, number)
    grown = _peak_bytes() - before
    if grown > MEMORY_BYTES and outcome.kind in ("ok", "refused"):
        outcome = replace(outcome, kind="memory", detail=f"{grown >> 20} MB more; {outcome.detail}")
    return replace(outcome, cpu=round(time.process_time() - start, 3), peak=grown >> 20)


def _serve(
    pipe: Connection, run: Callable[[str, int], Outcome], prepare: Callable[[str, int], None], folder: Path
) -> None:
    """Take cases until none comes; each in a folder of its own that is emptied before."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    folder.mkdir(parents=True, exist_ok=True)
    log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    # A crash writes its stack to the log by itself, a hang when it is asked.
    faulthandler.enable(log)
    faulthandler.register(signal.SIGUSR1, log)
    os.chdir(folder)
    while True:
        target, number = pipe.recv()
        os.ftruncate(log, 0)
        prepare(target, number)
        pipe.send(None)  # the case begins
        pipe.send(measured(run, target, number))


class _Worker:
    def __init__(self, run: Callable[[str, int], Outcome], prepare: Callable[[str, int], None], folder: Path) -> None:
        self.run, self.prepare, self.folder = run, prepare, folder
        self.start()

    def start(self) -> None:
        context: Any = multiprocessing.get_context("fork")
        self.pipe, far = context.Pipe()
        self.process = context.Process(target=_serve, args=(far, self.run, self.prepare, self.folder), daemon=True)
        self.process.start()
        far.close()
        self.case: Case | None = None
        self.begun = False

    def give(self, case: Case) -> None:
        self.case = case
        self.clock(begun=False)
        self.pipe.send(case)

    def clock(self, *, begun: bool) -> None:
        """Measure from now: the case, or what comes before it, importing, compiling and the use of its sound file."""
        self.begun, self.since, self.cpu = begun, time.monotonic(), self._cpu_seconds()

    def _cpu_seconds(self) -> float:
        try:
            fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return 0.0
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def overdue(self) -> bool:
        assert self.case is not None
        allowance = 1 if self.begun else 30
        spent = self._cpu_seconds() - self.cpu
        return spent > allowance * CPU_SECONDS or time.monotonic() - self.since > allowance * WALL_SECONDS

    def ended(self, kind: str) -> Outcome:
        """The outcome of a case whose process died or hangs, with its stack."""
        assert self.case is not None
        cpu, reason = self._cpu_seconds() - self.cpu, ""
        if kind == "signal":
            self.process.join()
            code = self.process.exitcode or 0
            reason = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        elif self.process.pid is not None:
            os.kill(self.process.pid, signal.SIGUSR1)
            time.sleep(0.3)
        log = (self.folder / "log").read_text(errors="replace")
        damaged = next((line for line in log.splitlines() if line.startswith(DAMAGE)), "")
        name, _, what = damaged.removeprefix(DAMAGE).partition(": ")
        return Outcome(*self.case, kind, name, what, f"{reason}\n{log[-20000:]}", round(cpu, 3))

    def restart(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()
        self.start()


def run_cases(
    cases: Iterable[Case],
    run: Callable[[str, int], Outcome],
    prepare: Callable[[str, int], None],
    folder: Path,
    n_processes: int,
    seconds: float,
) -> Iterator[Outcome]:
    """Outcomes as they come, until there are no more cases or the time is up (what is begun is ended)."""
    workers = [_Worker(run, prepare, folder / f"process-{i}") for i in range(n_processes)]
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
                try:
                    outcome = worker.pipe.recv()
                    if outcome is None:
                        worker.clock(begun=True)
                        continue
                    worker.case = None
                except (EOFError, ConnectionError):
                    outcome = worker.ended("signal")
                    worker.restart()
                yield outcome
            for worker in busy.values():
                if worker.overdue():
                    outcome = worker.ended("hang")
                    worker.restart()
                    yield outcome
    finally:
        for worker in workers:
            worker.process.kill()
            worker.process.join()
