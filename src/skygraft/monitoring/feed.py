"""What the driver tells the scheduler of a campaign, and what the scheduler keeps of it.

The driver counts; it sends its numbers as they are, a few kilobytes at a time, and of the patches only those that
changed. A message that is lost is made good by the next one, so that what is shown is always what the driver said.
"""

from __future__ import annotations

import json
import time
import uuid
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from skygraft.monitoring.progress import Overview, Progress

__all__ = ["FEED_VERSION", "TOPIC", "Board", "Boards", "Feed"]

TOPIC = "skygraft-campaign"
"""Of the events through which the driver speaks."""
FEED_VERSION = 1
"""Of the messages; a scheduler with another one does not understand them."""

_PATCHES_PER_MESSAGE = 5000
_BOARDS = 8
_STATIC = ("tract", "patch", "ra", "dec", "n_images")
_COUNTS = ("n_done", "n_failed")


def _pack(content: Mapping[str, Any]) -> bytes:
    # Compressed: the scheduler keeps the last thousand events of a topic.
    return zlib.compress(json.dumps(content, allow_nan=False).encode(), 1)


def _unpack(data: bytes) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(zlib.decompress(data))
    return content


class Feed:
    """The driver's side: counts, and makes messages of the counts.

    Parameters
    ----------
    overview : Overview
        What the run begins with.
    client : str
        Id of the Dask client that the messages come through.
    now : callable
        The time, seconds since 1970.
    """

    def __init__(self, overview: Overview, *, client: str = "", now: Callable[[], float] = time.time) -> None:
        self.progress = Progress(overview, now)
        self.run = uuid.uuid4().hex[:12]
        self._client = client

    def start(self) -> Iterator[dict[str, Any]]:
        """Messages that tell everything; also after some were lost."""
        self.progress.changed_patches()
        columns = self.progress.patches()
        n_patches = len(columns["tract"])
        yield self._message(
            "start", {"client": self._client, "n_patches": n_patches, "snapshot": self.progress.snapshot()}
        )
        for first in range(0, n_patches, _PATCHES_PER_MESSAGE):
            part = {name: values[first : first + _PATCHES_PER_MESSAGE] for name, values in columns.items()}
            yield self._message("patches", {"first": first, "columns": part})

    def update(self) -> dict[str, Any]:
        """A message that tells the numbers, and the patches that changed since the last one."""
        changed = self.progress.changed_patches()
        return self._message("update", {"changed": changed, "snapshot": self.progress.snapshot()})

    def _message(self, kind: str, content: Mapping[str, Any]) -> dict[str, Any]:
        return {"version": FEED_VERSION, "run": self.run, "kind": kind, "data": _pack(content)}


class Board:
    """What the scheduler knows of one run of a campaign.

    Parameters
    ----------
    run : str
        Its name.
    content : mapping
        That of the message ``start``.
    at : float
        When it came, seconds since 1970.

    Attributes
    ----------
    snapshot : dict
        The driver's numbers; see `skygraft.monitoring.progress.Progress.snapshot`.
    columns : dict of str to list
        Of the patches, what does not change: ``tract``, ``patch``, ``ra``, ``dec``, ``n_images``.
    n_done, n_failed : ndarray of int, shape (n_patches,)
        Images of each patch.
    version : int
        Grows with every message.
    patch_version : ndarray of int, shape (n_patches,)
        The version with which each patch changed last.
    is_lost : bool
        Whether the driver has gone without saying how the run ended.
    """

    def __init__(self, run: str, content: Mapping[str, Any], at: float) -> None:
        self.run = run
        self.client = str(content["client"])
        self.snapshot: dict[str, Any] = content["snapshot"]
        n_patches = int(content["n_patches"])
        self.columns: dict[str, list[Any]] = {name: [0] * n_patches for name in _STATIC}
        self.n_done: npt.NDArray[np.int64] = np.zeros(n_patches, dtype=np.int64)
        self.n_failed: npt.NDArray[np.int64] = np.zeros(n_patches, dtype=np.int64)
        self.patch_version: npt.NDArray[np.int64] = np.zeros(n_patches, dtype=np.int64)
        self.version = 1
        self.layout_version = 1
        self.is_lost = False
        self._heard = at

    @property
    def n_patches(self) -> int:
        """Number of patches."""
        return len(self.n_done)

    @property
    def state(self) -> str:
        """That of the snapshot, or ``lost``."""
        return "lost" if self.is_lost else str(self.snapshot["state"])

    def age(self, at: float) -> float:
        """Seconds since the driver's last word."""
        return max(0.0, at - self._heard)

    def hear(self, kind: str, content: Mapping[str, Any], at: float) -> None:
        """Take in a message."""
        self._heard = at
        self.is_lost = False
        self.version += 1
        if kind == "patches":
            columns, first = content["columns"], int(content["first"])
            where = slice(first, first + len(columns["tract"]))
            for name in _STATIC:
                self.columns[name][where] = columns[name]
            self.n_done[where], self.n_failed[where] = columns["n_done"], columns["n_failed"]
            self.patch_version[where] = self.version
            self.layout_version = self.version
        else:
            self.snapshot = content["snapshot"]
            index = content["changed"]["index"]
            self.n_done[index], self.n_failed[index] = content["changed"]["n_done"], content["changed"]["n_failed"]
            self.patch_version[index] = self.version

    def to_dict(self, at: float, *, patches: bool = True) -> dict[str, Any]:
        """The snapshot and, beside it, ``run``, ``state``, ``seconds_since_heard`` and the ``patches``' columns."""
        content = {
            **self.snapshot,
            "run": self.run,
            "state": self.state,
            "seconds_since_heard": round(self.age(at), 2),
        }
        if patches:
            content["patches"] = self.columns | {name: getattr(self, name).tolist() for name in _COUNTS}
        return content


class Boards:
    """The runs that a scheduler has heard of: those of the last few, the newest last.

    Parameters
    ----------
    now : callable
        The time, seconds since 1970.
    workers : callable
        Number of the scheduler's workers by status: ``running``, ``paused``, ...
    """

    def __init__(
        self, now: Callable[[], float] = time.time, workers: Callable[[], Mapping[str, int]] = lambda: {}
    ) -> None:
        self.now, self.workers = now, workers
        self._boards: dict[str, Board] = {}

    def __len__(self) -> int:
        return len(self._boards)

    def all(self) -> list[Board]:
        """The runs, the newest last."""
        return list(self._boards.values())

    def get(self, run: str | None = None) -> Board | None:
        """One of them, by default the newest."""
        if run:
            return self._boards.get(run)
        return next(reversed(self._boards.values()), None)

    def hear(self, message: Any) -> None:
        """Take in a message; one that is not understood is left alone."""
        if not isinstance(message, dict) or message.get("version") != FEED_VERSION:
            return
        run, kind, content = message["run"], message["kind"], _unpack(message["data"])
        if kind == "start":
            # In its old place, should the driver have had to begin anew.
            self._boards[run] = Board(run, content, self.now())
            while len(self._boards) > _BOARDS:
                del self._boards[next(iter(self._boards))]
        elif run in self._boards:
            self._boards[run].hear(kind, content, self.now())

    def lose(self, client: str) -> None:
        """A Dask client has gone: runs that it had not ended are lost."""
        for board in self._boards.values():
            if client and board.client == client and board.snapshot["state"] == "running":
                board.is_lost = True
                board.version += 1
