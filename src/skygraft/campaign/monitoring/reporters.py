"""Tell people how far a campaign is."""

from __future__ import annotations

from collections.abc import Iterable
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

from skygraft.campaign.image_summary import ImageSummary
from skygraft.campaign.monitoring.progress import Overview

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
    """A bar on the terminal; where there is none, only what is said in words.

    Parameters
    ----------
    console : rich.console.Console, optional
        Where to write; standard error by default.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
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

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def start(self, overview: Overview) -> None:
        """Set the length of the bar."""
        self._n_failed_before = overview.n_failed
        self._progress.update(self._bar, total=overview.n_images, completed=overview.n_done)
        self._show_failed()

    def images(self, summaries: Iterable[ImageSummary]) -> None:
        """Move the bar on."""
        for summary in summaries:
            if summary.status == "failed":
                self._failed.add(summary.image_id)
            else:
                self._failed.discard(summary.image_id)
                self._progress.advance(self._bar)
        self._show_failed()

    def say(self, text: str) -> None:
        """Write a line above the bar."""
        self._console.print(text, highlight=False)

    def _show_failed(self) -> None:
        n_failed = self._n_failed_before + len(self._failed)
        self._progress.update(self._bar, failed=f"[red]{n_failed} failed" if n_failed else "")
