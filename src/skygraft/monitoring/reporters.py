"""Report how far a campaign is, to a log or on a terminal."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable
from datetime import datetime
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as ProgressBar

from skygraft.monitoring.overview import Overview
from skygraft.monitoring.progress import Progress
from skygraft.printable import console as printable_console
from skygraft.printable import printable
from skygraft.records.image_summary import ImageSummary
from skygraft.wording import count, duration, rate, share

__all__ = ["NoReporter", "Reporter", "RichReporter"]


class Reporter:
    """Receives the progress of a run; a context manager around the run. Others override what they need."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End."""

    def start(self, overview: Overview) -> None:
        """Receive the state that the run begins with."""

    def images(self, summaries: Iterable[ImageSummary]) -> None:
        """Receive what became of some images."""

    def say(self, text: str) -> None:
        """Receive a message for people, such as the address of the dashboard."""


class NoReporter(Reporter):
    """Reports nothing."""


class RichReporter(Reporter):
    """Shows a progress bar on a terminal; elsewhere, such as in a log, writes a line at intervals.

    Parameters
    ----------
    console : rich.console.Console, optional
        Where to write; standard error by default. If it is closed, such as with its terminal, nothing more is written.
    every : float
        Time between two lines where there is no terminal, seconds.
    now : callable
        Returns the present time, seconds, of a clock that does not go back.
    """

    def __init__(
        self, console: Console | None = None, *, every: float = 60.0, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._console = console or printable_console(stderr=True)
        self._bar = ProgressBar(
            TextColumn("injecting"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("images"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[failed]}"),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task("injecting", total=None, failed="")
        self._progress: Progress | None = None
        self._every, self._now = every, now
        self._next = now()

    def __enter__(self) -> Self:
        with contextlib.suppress(OSError):
            self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        with contextlib.suppress(OSError):
            self._bar.stop()

    def start(self, overview: Overview) -> None:
        """Set the length of the bar."""
        self._progress = Progress(overview, self._now)
        self._show(self._progress)

    def images(self, summaries: Iterable[ImageSummary]) -> None:
        """Move the bar on."""
        if self._progress is not None:
            self._progress.add(summaries)
            self._show(self._progress)

    def say(self, text: str) -> None:
        """Write a message above the bar."""
        with contextlib.suppress(OSError):
            text, is_log = printable(text, lines=True), not self._console.is_terminal
            date = f"{datetime.now().astimezone():%Y-%m-%d %H:%M:%S}  " if is_log else ""
            self._console.print(date + text, highlight=False, markup=False, soft_wrap=is_log)

    def _show(self, progress: Progress) -> None:
        if self._console.is_terminal:
            failed = f"[red]{progress.n_failed} failed" if progress.n_failed else ""
            with contextlib.suppress(OSError):
                self._bar.update(self._task, total=progress.n_images, completed=progress.n_done, failed=failed)
        elif self._now() >= self._next:
            self._next = self._now() + self._every
            self.say(_line(progress))


def _line(progress: Progress) -> str:
    """Return the line of a log."""
    shot = progress.snapshot()
    images, eta, per_second = shot["images"], shot["eta"], shot["rates"]["run"]["images_per_second"]
    text = f"{count(images['done'])} of {count(images['total'])} images done"
    text += f" ({share(images['done'], images['total'])})"
    text += f", {count(images['failed'])} failed" if images["failed"] else ""
    if eta is not None and eta["seconds"] > 0:
        text += f", {rate(per_second, 'images')}, about {duration(eta['seconds'])} to go"
    return text
