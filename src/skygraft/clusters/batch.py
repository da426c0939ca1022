"""Batch systems: their commands, the format of their lists of jobs, and that of a walltime. No Dask here."""

from __future__ import annotations

import getpass
import math
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from skygraft.errors import CampaignError
from skygraft.printable import printable

__all__ = ["BATCH_SYSTEMS", "BatchSystem", "JobState", "log_tail"]

_ANSWER_SECONDS = 20.0
"""Time within which a batch system has to answer, seconds."""
_TAIL_LINES = 8
_TAIL_BYTES = 8192


@dataclass(frozen=True)
class JobState:
    """State of a job, in the words of the batch system, and whether the job has started."""

    text: str
    running: bool


def _user() -> str:
    """Return the user's name, or the user's number if neither the environment nor the machine has a name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def _clock(seconds: float) -> str:
    minutes, second = divmod(math.ceil(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours:02}:{minute:02}:{second:02}"


def _hours_minutes(seconds: float) -> str:
    hours, minutes = divmod(math.ceil(seconds / 60), 60)
    return f"{hours}:{minutes:02}"


def _slurm_state(words: list[str]) -> JobState:
    state = words[1] if len(words) > 1 else "?"
    reason = " ".join(words[2:])
    return JobState(f"{state} ({reason})" if reason not in ("", "None") else state, state in ("RUNNING", "COMPLETING"))


def _letter_state(column: int) -> Callable[[list[str]], JobState]:
    def state(words: list[str]) -> JobState:
        letter = words[column] if len(words) > column else "?"
        return JobState(letter, letter[-1:].lower() in ("r", "e", "t") or letter == "RUN")

    return state


def _condor_state(words: list[str]) -> JobState:
    names = ("idle", "running", "removed", "completed", "held", "running", "suspended")
    state = dict(zip("1234567", names, strict=True)).get(words[1] if len(words) > 1 else "", "?")
    reason = " ".join(words[2:])
    return JobState(f"{state} ({reason})" if state == "held" and reason != "undefined" else state, state == "running")


@dataclass(frozen=True)
class BatchSystem:
    """How to use a batch system."""

    name: str  # its usual one
    extra: str  # of skygraft, which installs what it needs
    cluster: str  # name of its class in dask-jobqueue
    submit: str  # command
    cancel: str  # command
    listing: tuple[str, ...]
    """Command that lists a user's waiting and running jobs, one in a line that begins with the job's number; ``{user}``
    stands for the user."""
    state_of: Callable[[list[str]], JobState]  # of the words of such a line
    nothing: str = ""  # what the command prints instead of an empty list
    walltime: Callable[[float], str] = _clock  # formats a time in seconds as the batch system expects it
    account: str = "account"  # dask-jobqueue's argument for the account

    def command(self) -> list[str]:
        """Return the command that lists this user's jobs."""
        return [word.format(user=_user()) for word in self.listing]

    def parse(self, output: str) -> dict[str, JobState]:
        """Return the state of each job, by job number, from the output of `command`."""
        jobs: dict[str, JobState] = {}
        for line in output.splitlines():
            words = line.split()
            number = re.match(r"\d+", words[0]) if words else None
            if number is not None:
                jobs[number[0]] = self.state_of(words)
        return jobs

    def check(self) -> None:
        """Raise a `CampaignError` if its commands are not found, or its server does not answer in time."""
        for command in (self.submit, self.cancel, self.listing[0]):
            if shutil.which(command) is None:
                raise CampaignError(
                    f"there is no {self.name} here: the command {command} is not found",
                    key="cluster.kind",
                    fix=f"Run this on a machine that submits jobs to {self.name}, or name another cluster",
                )
        try:
            self.jobs()
        except CampaignError as error:
            raise CampaignError(
                f"{self.name} does not answer: {error.message}",
                key="cluster.kind",
                fix="Check that its server is running, and that you may use it from this machine",
            ) from error

    def jobs(self) -> dict[str, JobState]:
        """Return the state of this user's waiting and running jobs, by job number.

        `CampaignError` is raised if the batch system does not answer.
        """
        command = self.command()
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_ANSWER_SECONDS, check=False)
        except subprocess.TimeoutExpired as error:
            raise CampaignError(f"`{' '.join(command)}` did not answer within {_ANSWER_SECONDS:g} s") from error
        except OSError as error:
            raise CampaignError(f"`{' '.join(command)}` cannot be run ({error})") from error
        if self.nothing and self.nothing in done.stdout + done.stderr:
            return {}
        if done.returncode != 0:
            words = (done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}").splitlines()[-1]
            raise CampaignError(f"`{' '.join(command)}` failed: {words}")
        return self.parse(done.stdout)

    def cancel_jobs(self, numbers: list[str]) -> None:
        """Cancel jobs; those that have ended already are ignored."""
        for number in numbers:
            subprocess.run([self.cancel, number], capture_output=True, timeout=_ANSWER_SECONDS, check=False)


BATCH_SYSTEMS = {
    "slurm": BatchSystem(
        "Slurm", "slurm", "SLURMCluster", "sbatch", "scancel",
        ("squeue", "--noheader", "--user={user}", "--format=%i %T %r"), _slurm_state,
    ),
    "pbs": BatchSystem("PBS", "pbs", "PBSCluster", "qsub", "qdel", ("qstat", "-u", "{user}"), _letter_state(9)),
    "lsf": BatchSystem(
        "LSF", "lsf", "LSFCluster", "bsub", "bkill", ("bjobs", "-u", "{user}", "-noheader", "-o", "jobid stat"),
        _letter_state(1), nothing="No unfinished job found", walltime=_hours_minutes, account="project",
    ),
    "htcondor": BatchSystem(
        "HTCondor", "htcondor", "HTCondorCluster", "condor_submit", "condor_rm",
        ("condor_q", "{user}", "-af", "ClusterId", "JobStatus", "HoldReason"), _condor_state,
    ),
    "sge": BatchSystem(
        "Grid Engine", "sge", "SGECluster", "qsub", "qdel", ("qstat", "-u", "{user}"), _letter_state(4),
        account="project",
    ),
}  # fmt: skip


def log_tail(folder: Path, job: str) -> str:
    """Return the last lines of a job's logs in a folder, each under the name of its file; empty without any."""
    tails = []
    for path in sorted(folder.glob(f"*{job}*")):
        if not re.search(rf"(?<!\d){re.escape(job)}(?!\d)", path.name) or not path.is_file():
            continue
        with path.open("rb") as handle:
            size = handle.seek(0, os.SEEK_END)
            handle.seek(max(0, size - _TAIL_BYTES))
            lines = handle.read().decode(errors="replace").splitlines()
        if any(line.strip() for line in lines):
            tails.append("\n".join([f"{path}:", *(f"    {printable(line)}" for line in lines[-_TAIL_LINES:])]))
    return "\n".join(tails)
