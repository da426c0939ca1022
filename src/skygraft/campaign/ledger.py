"""What happened in a campaign, in order: one line of JSON per event, appended by the driver alone.

The records are the truth of what is done; the ledger tells how it came about, and which images failed and why.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from skygraft.campaign.image_summary import ImageSummary
from skygraft.errors import OutputError

__all__ = ["Failure", "Ledger", "read_failures", "read_runs"]


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
    """

    image_id: str
    error: str
    message: str
    where: str = ""
    host: str = ""
    tries: int = 1


class Ledger:
    """Appends events; use as a context manager.

    Parameters
    ----------
    path : Path
        The file; made where it is not there yet.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._handle = path.open("a", encoding="utf-8")
        except OSError as error:
            raise OutputError(
                f"the ledger cannot be written ({error.strerror or error})",
                path=path,
                fix="Check permissions and free space",
            ) from error
        # A driver that was killed may have left half a line: do not append to it.
        with path.open("rb") as written:
            if written.seek(0, os.SEEK_END) and written.seek(-1, os.SEEK_END) >= 0 and written.read(1) != b"\n":
                self._handle.write("\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._handle.close()

    def event(self, name: str, **content: Any) -> None:
        """Append one event."""
        self._append([{"event": name, **content}])

    def images(self, summaries: Iterable[ImageSummary]) -> None:
        """Append what became of some images."""
        self._append(
            [{"event": "image", **{k: v for k, v in asdict(s).items() if v not in ("", None)}} for s in summaries]
        )

    def _append(self, events: list[dict[str, Any]]) -> None:
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        try:
            self._handle.writelines(json.dumps({"time": now, **event}) + "\n" for event in events)
            self._handle.flush()
            os.fsync(self._handle.fileno())
        except OSError as error:
            raise OutputError(
                f"the ledger cannot be written ({error.strerror or error})", path=self._path, fix="Check free space"
            ) from error


def _events(path: Path) -> Iterable[dict[str, Any]]:
    if not path.exists():
        return
    with path.open(encoding="utf-8", errors="replace") as handle:
        for line in handle:
            try:
                event = json.loads(line)
            except ValueError:
                continue  # half a line, from a driver that was killed while it wrote
            if isinstance(event, dict):
                yield event


def read_failures(path: Path) -> dict[str, Failure]:
    """Images whose last attempt failed, by id."""
    failures: dict[str, Failure] = {}
    for event in _events(path):
        if event.get("event") != "image":
            continue
        image_id = str(event["image_id"])
        if event["status"] != "failed":
            failures.pop(image_id, None)
            continue
        before = failures.get(image_id)
        failures[image_id] = Failure(
            image_id,
            event.get("error", ""),
            event.get("message", ""),
            event.get("where", ""),
            event.get("host", ""),
            tries=1 if before is None else before.tries + 1,
        )
    return failures


def read_runs(path: Path) -> list[dict[str, Any]]:
    """The runs so far: the events ``run_started`` and ``run_ended``."""
    return [event for event in _events(path) if event.get("event") in ("run_started", "run_ended")]
