"""What happened in a campaign, in order: one line of JSON per event, appended by the driver alone.

The records are the truth of what is done; the ledger tells how it came about, which images failed and why, and what
each image that is done was made from, so that a million of them are checked without opening a million records. It can
be made anew from the records (`skygraft.records.status.rescan`).
"""

from __future__ import annotations

import errno
import itertools
import os
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Literal, Self

from skygraft.disk import FileIdentity
from skygraft.errors import CampaignError, OutputError
from skygraft.records.events import Event, ImageEvent, RunEnded, RunStarted, TablesStarted, event_line, parse_event
from skygraft.records.image_summary import ImageSummary

__all__ = ["Failure", "Ledger", "Phase", "phase_of", "read_events", "read_runs"]

type Phase = Literal["starting", "images", "tables"]
"""What a run is at: it looks at what is there, makes images, or makes tables of them."""

_SYNC_SECONDS = 1.0
_OF_IMAGES = re.compile(rb'\{"time":"[^"]*","event":"image')
"""How the line of an event on an image begins."""


@dataclass(frozen=True)
class Failure:
    """Why an image failed, last, and how often it was tried.

    Parameters
    ----------
    image_id : str
        The image.
    error, message, where, host : str
        Class of the error, what it says, the line of code, and the machine.
    tries : int
        How often it failed since it was last done.
    quarantined : bool
        Whether it is left alone until it is asked for, because it kills the workers that take it.
    """

    image_id: str
    error: str
    message: str
    where: str = ""
    host: str = ""
    tries: int = 1
    quarantined: bool = False

    @classmethod
    def of(cls, summary: ImageSummary, tries: int) -> Self:
        """The failure that a summary of an image tells of."""
        return cls(
            summary.image_id,
            summary.error,
            summary.message,
            summary.where,
            summary.host,
            tries=tries,
            quarantined=summary.quarantined,
        )


class Ledger:
    """Appends events; use as a context manager.

    What is appended can be read at once; it is forced to disk once a second and at the end, since a machine that dies
    costs nothing but a look at the records of that second.

    Parameters
    ----------
    path : Path
        The file; made where it is not there yet.

    Raises
    ------
    OutputError
        If it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._synced = time.monotonic()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Unbuffered: what a full disk refused must not come up again when the file is closed.
            self._handle = path.open("ab", buffering=0)
            self._size = self._handle.seek(0, os.SEEK_END)
            # A driver that was killed, or a disk that was full, may have left half a line: do not append to it.
            with path.open("rb") as written:
                if self._size and written.seek(-1, os.SEEK_END) >= 0 and written.read(1) != b"\n":
                    self._write([b"\n"])
        except OSError as error:
            raise self._told(error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            os.fsync(self._handle.fileno())
        except OSError as problem:
            if error is None:
                raise self._told(problem) from problem
        finally:
            self._handle.close()

    def append(self, events: Iterable[Event]) -> list[int]:
        """Append events; returns the place in the file of each one's line. Those that say when keep their time."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        lines = [event_line(event, now) for event in events]
        try:
            places = self._write(lines)
            if time.monotonic() - self._synced > _SYNC_SECONDS:
                os.fsync(self._handle.fileno())
                self._check_place()
                self._synced = time.monotonic()
        except OSError as error:
            raise self._told(error) from error
        return places

    def images(self, summaries: Iterable[ImageSummary]) -> list[int]:
        """Append what became of some images; returns the place in the file of each one's line."""
        return self.append(map(ImageEvent.of, summaries))

    @property
    def size(self) -> int:
        """Bytes written so far."""
        return self._size

    def _check_place(self) -> None:
        """Make sure that the file is still the one of its name: what goes into a removed one, nobody ever reads."""
        mine = FileIdentity.of_status(os.fstat(self._handle.fileno()))
        if not mine.same_file(FileIdentity.find(self._path)):
            raise OutputError(
                "the ledger was removed or replaced while the campaign runs, and maybe all of the output folder",
                path=self._path,
                fix="Leave the folder alone while it runs; run the campaign again, which makes what is gone",
            )

    def _write(self, lines: list[bytes]) -> list[int]:
        content = b"".join(lines)
        if self._handle.write(content) != len(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        ends = [*itertools.accumulate(map(len, lines), initial=self._size)]
        self._size = ends.pop()
        return ends

    def _told(self, error: OSError) -> OutputError:
        return OutputError(
            f"the ledger cannot be written ({error.strerror or error})",
            path=self._path,
            fix="Check permissions and free space, and run the campaign again",
        )


def _opened(path: Path) -> BinaryIO | None:
    """A ledger, to be read; None where there is none."""
    try:
        return path.open("rb")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CampaignError(
            f"the ledger cannot be read ({error.strerror or error})",
            path=path,
            fix="Check permissions; or remove it: it is made anew from the records",
        ) from error


def read_events(
    path: Path, start: int = 0, stop: int | None = None, *, damaged: bool = False
) -> Iterator[tuple[int, Event]]:
    """The events of a ledger with the place in the file of each; none where there is no ledger.

    Parameters
    ----------
    path : Path
        The ledger.
    start, stop : int
        Places where lines begin: of the first to read, and of the first not to; by default all are read.
    damaged : bool
        Leave out lines that are not understood, instead of raising.

    Raises
    ------
    CampaignError
        If it cannot be read, or a line is not understood; one that was cut short is left out.
    """
    if (handle := _opened(path)) is None:
        return
    with handle:
        handle.seek(start)
        place = start
        for line in handle:
            if place == stop:
                return
            try:
                event = parse_event(line, path, place)
            except CampaignError:
                if not damaged:
                    raise
                event = None
            if event is not None:
                yield place, event
            place += len(line)


def read_runs(path: Path) -> list[RunStarted | TablesStarted | RunEnded]:
    """When runs began, came to their tables, and ended so far, in order.

    Raises
    ------
    CampaignError
        If the ledger cannot be read.
    """
    found: list[RunStarted | TablesStarted | RunEnded] = []
    if (handle := _opened(path)) is None:
        return found
    with handle:
        place = 0
        for line in handle:
            # There are as many lines of images as there are images: to parse each would take a while.
            if not _OF_IMAGES.match(line):
                event = parse_event(line, path, place)
                if isinstance(event, RunStarted | TablesStarted | RunEnded):
                    found.append(event)
            place += len(line)
    return found


def phase_of(runs: Sequence[RunStarted | TablesStarted | RunEnded]) -> Phase:
    """What a run that holds the lock is at, by the events of `read_runs`."""
    last = runs[-1] if runs else None
    if last is None or isinstance(last, RunEnded):
        return "starting"
    return "tables" if isinstance(last, TablesStarted) else "images"
