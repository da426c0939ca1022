"""What happened in a campaign, in order: one line of JSON per event, appended by the driver alone.

The records are the truth of what is done; the ledger tells how it came about, which images failed and why, and what
each image that is done was made from, so that a million of them are checked without opening a million records. It can
be made anew from the records (`skygraft.campaign.standing.rescan`).
"""

from __future__ import annotations

import errno
import itertools
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orjson

from skygraft.campaign.image_summary import ImageSummary
from skygraft.errors import OutputError

__all__ = ["Failure", "Ledger", "read_events", "read_runs"]

_SYNC_SECONDS = 1.0


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
    def of_event(cls, event: Mapping[str, Any], tries: int) -> Self:
        """The failure that an event of the ledger tells of."""
        return cls(
            str(event["image_id"]),
            event.get("error", ""),
            event.get("message", ""),
            event.get("where", ""),
            event.get("host", ""),
            tries=tries,
            quarantined=bool(event.get("quarantined")),
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

    def event(self, name: str, **content: Any) -> None:
        """Append one event."""
        self._append([{"event": name, **content}])

    def images(self, summaries: Iterable[ImageSummary]) -> list[int]:
        """Append what became of some images; returns the place in the file of each one's line."""
        return self._append([{"event": "image", **summary.to_dict()} for summary in summaries])

    def copy(self, events: Iterable[Mapping[str, Any]]) -> None:
        """Append events of another ledger, with their times."""
        self._append(events)

    def _append(self, events: Iterable[Mapping[str, Any]]) -> list[int]:
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        lines = [orjson.dumps({"time": now, **event}, option=orjson.OPT_APPEND_NEWLINE) for event in events]
        try:
            places = self._write(lines)
            if time.monotonic() - self._synced > _SYNC_SECONDS:
                os.fsync(self._handle.fileno())
                self._synced = time.monotonic()
        except OSError as error:
            raise self._told(error) from error
        return places

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


def read_events(path: Path, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
    """The events of a ledger with the place in the file of each; none where there is no ledger.

    Parameters
    ----------
    path : Path
        The ledger.
    start, stop : int
        Places where lines begin: of the first to read, and of the first not to; by default all are read.
    """
    if not path.is_file():
        return
    with path.open("rb") as handle:
        handle.seek(start)
        place = start
        for line in handle:
            if place == stop:
                return
            try:
                event = orjson.loads(line)
            except orjson.JSONDecodeError:
                event = None  # half a line, from a driver that was killed while it wrote
            if isinstance(event, dict):
                yield place, event
            place += len(line)


def read_runs(path: Path) -> list[dict[str, Any]]:
    """The runs so far: the events ``run_started`` and ``run_ended``."""
    return [event for _, event in read_events(path) if event.get("event") in ("run_started", "run_ended")]
