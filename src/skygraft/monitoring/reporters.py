"""Tell people how far a campaign is."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable
from datetime import datetime
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from skygraft.monitoring.progress import Overview
from skygraft.printable import console as printable_console
from skygraft.printable import printable
from skygraft.records.image_summary import ImageSummary
from skygraft.wording import count, duration, rate, share

__all__ = ["NoReporter", "Reporter", "RichReporter"]


class Reporter(Protocol):
    """Hears what becomes of images; a context manager around a run."""

    def __enter__(self) -> Self:
        """Begin."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End."""
        ...

    def start(self, overview: Overview) -> None:
        """Hear what the run begins with."""
        ...

    def images(self, summaries: Iterable[ImageSummary]) -> None:
        """Hear what became of some."""
        ...

    def say(self, text: str) -> None:
        """Hear something else, such as the address of the dashboard."""
        ...


class NoReporter:
    """Says nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Do nothing."""

    def start(self, overview: Overview) -> None:
        """Do nothing."""

    def images(self, summaries: Iterable[ImageSummary]) -> None:
        """Do nothing."""

    def say(self, text: str) -> None:
        """Do nothing."""


class RichReporter:
    """A bar on the terminal; where there is none, a line now and then, and what is said in words.

    Parameters
    ----------
    console : rich.console.Console, optional
        Where to write; standard error by default. Should it go, such as with its terminal, nothing more is written.
    every : float
        Seconds between two lines where there is no terminal.
    now : callable
        The time, seconds, of a clock that does not go back.
    """

    def __init__(
        self, console: Console | None = None, *, every: float = 60.0, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._console = console or printable_console(stderr=True)
        self._progress = Progress(
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
        self._bar = self._progress.add_task("injecting", total=None, failed="")
        self._failed: set[str] = set()
        self._n_failed_before = 0
        self._every, self._now = every, now
        self._started = self._next = now()
        self._total = self._done = self._done_before = 0

    def __enter__(self) -> Self:
        with contextlib.suppress(OSError):
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._progress.stop()

    def start(self, overview: Overview) -> None:
        """Set the length of the bar."""
        self._n_failed_before = overview.n_failed
        self._total, self._done = overview.n_images, overview.n_done
        self._done_before = self._done
        self._started = self._now()
        self._progress.update(self._bar, total=self._total, completed=self._done)
        self._show()

    def images(self, summaries: Iterable[ImageSummary]) -> None:
        """Move the bar on."""
        for summary in summaries:
            if summary.status == "failed":
                self._failed.add(summary.image_id)
            else:
                self._failed.discard(summary.image_id)
                self._done += 1
                self._progress.advance(self._bar)
        self._show()

    def say(self, text: str) -> None:
        """Write a line above the bar."""
        with contextlib.suppress(OSError):
            if self._console.is_terminal:
                self._console.print(printable(text, lines=True), highlight=False, markup=False)
            else:
                self._console.print(self._clock(text), highlight=False, markup=False, soft_wrap=True)

    def _show(self) -> None:
        n_failed = self._n_failed_before + len(self._failed)
        with contextlib.suppress(OSError):
            self._progress.update(self._bar, failed=f"[red]{n_failed} failed" if n_failed else "")
        if not self._console.is_terminal and self._now() >= self._next:
            self._next = self._now() + self._every
            self.say(self._line(n_failed))

    def _line(self, n_failed: int) -> str:
        """The numbers, for a log."""
        elapsed, made = self._now() - self._started, self._done - self._done_before
        text = f"{count(self._done)} of {count(self._total)} images done ({share(self._done, self._total)})"
        text += f", {count(n_failed)} failed" if n_failed else ""
        left = self._total - self._done - n_failed
        if made and elapsed > 0 and left > 0:
            text += f", {rate(made / elapsed, 'images')}, about {duration(left * elapsed / made)} to go"
        return text

    @staticmethod
    def _clock(text: str) -> str:
        """A line of a log says when it was written."""
        return f"{datetime.now().astimezone().strftime('%Y-%m-%d %H:%M:%S')}  {printable(text, lines=True)}"
