"""The ledger of a campaign: what happened, in order, as one line of JSON per event, appended by the driver alone.

Whether an image is done is decided by its record. The ledger has the history: which images failed and why, and what
each finished image was made from, so that a million of them are checked without opening a million records. It can be
rebuilt from the records (`skygraft.records.status.rescan`).
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
from skygraft.records.events import (
    Event,
    RunEnded,
    RunEvent,
    RunStarted,
    TablesStarted,
    event_line,
    image_line,
    parse_event,
)
from skygraft.records.image_summary import ImageSummary

__all__ = ["Failure", "Ledger", "Phase", "open_ledger", "phase_of", "read_events", "read_runs"]

type Phase = Literal["starting", "images", "tables"]
"""What a run is doing: finding out what is left to do, making images, or making tables."""

_SYNC_SECONDS = 1.0
_OF_IMAGES = re.compile(rb'\{"time":"[^"]*","event":"image')
"""The beginning of a line for an event on an image."""
_OF_RUNS = re.compile(rb'"event":"(?:run_|tables_)')
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class Failure:
    """The last failure of an image, and how often it was tried.

    Parameters
    ----------
    image_id : str
        The image.
    error, message, where, host : str
        Class of the error, what it says, the line of code, and the machine.
    tries : int
        How often it failed since it was last done.
    quarantined : bool
        Whether a run leaves it out unless asked to retry, because it kills the workers that take it.
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
        """The failure in the summary of an image."""
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
    """Appends events to a ledger; use it in a ``with`` statement.

    What is appended can be read at once. It is synced to disk once a second and at the end: where a machine dies, the
    records of the images of that second still say that they are done.

    Parameters
    ----------
    path : Path
        The file; created if it does not exist.

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
            raise self._write_error(error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            os.fsync(self._handle.fileno())
        except OSError as problem:
            if error is None:
                raise self._write_error(problem) from problem
        finally:
            self._handle.close()

    def append(self, events: Iterable[Event]) -> list[int]:
        """Append events, and return where in the file the line of each begins; events that have a time keep it."""
        now = _now()
        return self._append([event_line(event, now) for event in events])

    def images(self, summaries: Iterable[ImageSummary]) -> list[int]:
        """Append the outcome of some images, and return where in the file the line of each begins."""
        now = _now()
        return self._append([image_line(summary, now) for summary in summaries])

    def _append(self, lines: list[bytes]) -> list[int]:
        try:
            places = self._write(lines)
            if time.monotonic() - self._synced > _SYNC_SECONDS:
                os.fsync(self._handle.fileno())
                self._check_place()
                self._synced = time.monotonic()
        except OSError as error:
            raise self._write_error(error) from error
        return places

    @property
    def size(self) -> int:
        """Bytes written so far."""
        return self._size

    def _check_place(self) -> None:
        """Raise if the file was removed or replaced, since nobody would ever read what is appended to it."""
        mine = FileIdentity.of_status(os.fstat(self._handle.fileno()))
        if not mine.same_file(FileIdentity.find(self._path)):
            raise OutputError(
                "the ledger was removed or replaced while the campaign runs, and maybe all of the output folder",
                path=self._path,
                fix="Leave the folder alone while the campaign runs; run it again, which makes what is gone",
            )

    def _write(self, lines: list[bytes]) -> list[int]:
        content = b"".join(lines)
        if self._handle.write(content) != len(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        ends = [*itertools.accumulate(map(len, lines), initial=self._size)]
        self._size = ends.pop()
        return ends

    def _write_error(self, error: OSError) -> OutputError:
        return OutputError(
            f"the ledger cannot be written ({error.strerror or error})",
            path=self._path,
            fix="Check permissions and free space, and run the campaign again",
        )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def open_ledger(path: Path) -> BinaryIO | None:
    """Open a ledger for reading; None where there is none."""
    try:
        return path.open("rb")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CampaignError(
            f"the ledger cannot be read ({error.strerror or error})",
            path=path,
            fix="Check permissions; or remove it: it is rebuilt from the records",
        ) from error


def read_events(
    path: Path, start: int = 0, stop: int | None = None, *, damaged: bool = False
) -> Iterator[tuple[int, Event]]:
    """Read the events of a ledger, and where in the file each begins; none where there is no ledger.

    Parameters
    ----------
    path : Path
        The ledger.
    start, stop : int
        Places where lines begin, bytes: of the first line to read, and of the first not to; by default all are read.
    damaged : bool
        Skip lines that are not understood, instead of raising.

    Raises
    ------
    CampaignError
        If it cannot be read, or a line is not understood; one that was cut short is skipped.
    """
    if (handle := open_ledger(path)) is None:
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


def read_runs(path: Path, start: int = 0, stop: int | None = None) -> list[RunEvent]:
    """Read the events of a ledger on runs: when they began, came to their tables, and ended, in order.

    Parameters
    ----------
    path : Path
        The ledger.
    start, stop : int
        As for `read_events`.

    Raises
    ------
    CampaignError
        If the ledger cannot be read.
    """
    found: list[RunEvent] = []
    if (handle := open_ledger(path)) is None:
        return found
    with handle:
        place = handle.seek(start)
        # Nearly all lines are of images, and parsing a million takes ten seconds.
        while (stop is None or place < stop) and (block := handle.read(_BLOCK_BYTES) + handle.readline()):
            block = block if stop is None else block[: stop - place]
            if _OF_RUNS.search(block):
                for line in block.splitlines(keepends=True):
                    if not _OF_IMAGES.match(line):
                        event = parse_event(line, path, place)
                        if isinstance(event, RunStarted | TablesStarted | RunEnded):
                            found.append(event)
                    place += len(line)
            else:
                place += len(block)
    return found


def phase_of(runs: Sequence[RunEvent]) -> Phase:
    """What a run that holds the lock is doing, by the events of `read_runs`."""
    last = runs[-1] if runs else None
    if last is None or isinstance(last, RunEnded):
        return "starting"
    return "tables" if isinstance(last, TablesStarted) else "images"
