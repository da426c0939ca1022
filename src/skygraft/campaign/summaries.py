"""Summaries of a run and of a campaign's progress, as text and as JSON types."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from skygraft.printable import printable
from skygraft.records.events import RunEnded
from skygraft.records.files import Layout
from skygraft.records.ledger import Failure
from skygraft.records.plan_file import Plan
from skygraft.wording import number, phase_words

__all__ = ["FAILURES_LISTED", "RunSummary", "Status", "UnusableImage", "unusable_images"]

FAILURES_LISTED = 1000
"""Most failures that a summary holds; all of them are in ``failures.parquet``."""
_SHOWN = 5


@dataclass(frozen=True)
class UnusableImage:
    """A file of the survey that could not be planned.

    Parameters
    ----------
    path : str
        The file, relative to the survey's folder where it lies beneath it.
    error, message : str
        Class of the error, and what it says.
    """

    path: str
    error: str
    message: str


def unusable_images(plan: Plan) -> tuple[UnusableImage, ...]:
    """Images of the survey that a plan leaves out, with the reasons."""
    return tuple(UnusableImage(bad["path"], bad["error"], bad["reason"]) for bad in plan.unusable)


def _listed(texts: Sequence[str], more: str = "") -> list[str]:
    """The first of some texts, each in a line."""
    return [f"  {text}" for text in texts[:_SHOWN]] + ([f"  ...{more}"] if len(texts) > _SHOWN else [])


def _all_in(output: str) -> str:
    return f" all of them in {output}/{Layout(Path()).failures.name}"


def _unusable_lines(unusable: Sequence[UnusableImage], output: str) -> list[str]:
    texts = [f"{bad.path}: {bad.error}: {bad.message}" for bad in unusable]
    return [f"{len(unusable)} more images cannot be used:", *_listed(texts, _all_in(output))] if unusable else []


def _file_lines(files: Sequence[str]) -> list[str]:
    return [f"{number(len(files), 'file')} not as written:", *_listed(files)] if files else []


@dataclass(frozen=True)
class RunSummary:
    """The summary of a run.

    Parameters
    ----------
    output : str
        The campaign's output folder.
    n_images : int
        Images of the plan.
    n_done, n_skipped, n_failed, n_remaining : int
        Images injected in this run, done before it, failed, and not reached.
    n_unusable : int
        Images that could not be planned; ``failures.parquet`` says why.
    n_drawn : int
        Sources drawn in this run's images.
    wall_seconds : float
        Duration of the run, seconds.
    n_quarantined : int
        Images that are not tried again because they kill their workers.
    interrupted : int
        Number of the signal that ended it early; 0 for none.
    stopped : str
        Why it was ended early for another reason; empty where it was not.
    failures : tuple of Failure
        Why images failed.
    unusable : tuple of UnusableImage
        Why images could not be planned.
    tables : tuple of str
        Lines about the consolidated tables; empty if the run was ended early.
    files : tuple of str
        Damaged reports of the plan, and what is wrong with each; `skygraft plan` rebuilds them.
    """

    output: str
    n_images: int
    n_done: int
    n_skipped: int
    n_failed: int
    n_remaining: int
    n_drawn: int
    wall_seconds: float
    n_unusable: int = 0
    n_quarantined: int = 0
    interrupted: int = 0
    stopped: str = ""
    failures: tuple[Failure, ...] = ()
    unusable: tuple[UnusableImage, ...] = ()
    tables: tuple[str, ...] = ()
    files: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether every image is done, and no damage was found."""
        left = self.n_failed or self.n_remaining or self.n_unusable or self.files
        return self.n_done + self.n_skipped == self.n_images and not left

    def to_dict(self) -> dict[str, Any]:
        """The summary as JSON types."""
        return {**asdict(self), "ok": self.ok}

    def ended(self) -> RunEnded:
        """The event of the ledger that records the run's end."""
        known = {field.name for field in fields(RunEnded)} & {field.name for field in fields(self)}
        return RunEnded(**{name: getattr(self, name) for name in known}, ok=self.ok)

    def __str__(self) -> str:
        lines = [
            f"{self.n_done} images made ({self.n_drawn} sources drawn) in {self.wall_seconds:.1f} s, "
            f"{self.n_skipped} done before, {self.n_failed} failed, {self.n_remaining} remaining"
        ]
        lines += _listed([f"{f.image_id}: {f.error}: {f.message}" for f in self.failures], _all_in(self.output))
        lines += _unusable_lines(self.unusable, self.output)
        if self.n_quarantined:
            lines.append(f"{self.n_quarantined} images are in quarantine; --retry-failed tries them again")
        if self.stopped:
            lines.append(f"stopped: {self.stopped}")
        lines += self.tables
        lines += _file_lines(self.files)
        if self.n_remaining:
            lines.append("run the campaign again to make those that remain")
        elif self.interrupted or self.stopped:
            lines.append("run the campaign again to make the tables")
        return printable("\n".join(lines), lines=True)


@dataclass(frozen=True)
class Status:
    """How far a campaign is.

    Parameters
    ----------
    name, output : str
        The campaign and its output folder.
    n_images, n_done, n_failed, n_remaining : int
        Images of the plan; those done; those whose last attempt failed; and the rest.
    n_unusable : int
        Images that could not be planned.
    n_quarantined : int
        Images that failed and are not tried again because they kill their workers.
    failures : tuple of Failure
        Why images failed.
    unusable : tuple of UnusableImage
        Why images could not be planned.
    n_damaged : int
        Images among the remaining that were done, and of which a file is now missing, cut or changed.
    damaged : tuple of str
        Their image ids.
    files : tuple of str
        Other damaged files, and what is wrong with each: tables, catalogue, reports of the plan. Not looked for while
        a run is active.
    errors : dict of str to int
        Failures by class of error.
    runs : int
        Number of runs.
    last_run : str
        When the last run began, ISO 8601; empty before the first.
    running : bool
        Whether a process runs the campaign now.
    phase : {"", "starting", "images", "tables"}
        What that process does; empty if there is none.
    """

    name: str
    output: str
    n_images: int
    n_done: int
    n_failed: int
    n_remaining: int
    n_unusable: int = 0
    n_quarantined: int = 0
    failures: tuple[Failure, ...] = ()
    unusable: tuple[UnusableImage, ...] = ()
    n_damaged: int = 0
    damaged: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    errors: dict[str, int] = field(default_factory=dict)
    runs: int = 0
    last_run: str = ""
    running: bool = False
    phase: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The status as JSON types."""
        return asdict(self)

    def __str__(self) -> str:
        state = number(self.runs, "run") + " so far" if self.runs else "not run yet"
        if self.running:
            state = phase_words(self.phase)
        lines = [
            f"{self.name}: {self.n_done} of {self.n_images} images done, {self.n_failed} failed, "
            f"{self.n_remaining} remaining ({state})"
        ]
        lines += [f"  {n} x {error}" for error, n in sorted(self.errors.items())]
        if self.n_damaged:
            some = ", ".join(self.damaged[:_SHOWN]) + (", ..." if self.n_damaged > _SHOWN else "")
            lines.append(
                f"files of {number(self.n_damaged, 'image')} are gone, cut or changed; a run repairs them: {some}"
            )
        lines += _file_lines(self.files)
        lines += _unusable_lines(self.unusable, self.output)
        return printable("\n".join(lines), lines=True)
