"""The runs of campaigns that drivers have published on a scheduler.

A driver sends the places of its patches once, then everything that it counts, every few seconds. The scheduler keeps
the last message as it came and unpacks it when somebody looks, so that publishing costs it next to nothing.
"""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from skygraft.monitoring.overview import PatchTable
from skygraft.monitoring.progress import Progress
from skygraft.monitoring.snapshot import Snapshot

__all__ = ["MESSAGE_VERSION", "PublishedRun", "PublishedRuns", "pack_patches", "pack_progress", "to_json"]

MESSAGE_VERSION = 2
"""Version of the messages; a scheduler with another one cannot read them."""

_RUNS = 8
_COUNTS = ("n_done", "n_failed")


def pack_patches(progress: Progress) -> bytes:
    """Return what does not change during a run: the patches, their places and their numbers of images."""
    return _pack({name: column for name, column in progress.patches.to_dict().items() if name not in _COUNTS})


def pack_progress(progress: Progress) -> bytes:
    """Return what changes during a run: its snapshot and the counts of all patches."""
    counts = {name: getattr(progress.patches, name) for name in _COUNTS}
    return _pack({"snapshot": progress.snapshot(), **counts})


def to_json(content: Mapping[str, Any]) -> bytes:
    """Return JSON of JSON types and arrays; also of names of files that are not UTF-8, which orjson refuses."""
    return json.dumps(content, allow_nan=False, default=np.ndarray.tolist).encode()


def _pack(content: Mapping[str, Any]) -> bytes:
    return zlib.compress(to_json(content), 1)


def _unpack(data: bytes) -> Any:
    return json.loads(zlib.decompress(data))


class PublishedRun:
    """One run of a campaign, as its driver, known by its Dask client, described it last."""

    def __init__(self, run: str, driver: str, patches: bytes) -> None:
        self.run, self.driver = run, driver
        self.version = 0
        """Number of changes so far."""
        self.is_lost = False
        """True if the driver has disconnected without saying how the run ended."""
        self._patches, self._heard = PatchTable.of(**_unpack(patches)), 0.0
        self._data, self._content = b"", dict[str, Any]()

    def publish(self, data: bytes, at: float) -> None:
        """Replace the description of the run by what `pack_progress` returned."""
        self._data, self._content, self._heard = data, {}, at
        self.is_lost = False
        self.version += 1

    @property
    def snapshot(self) -> Snapshot:
        """The driver's counts."""
        snapshot: Snapshot = self._unpacked()["snapshot"]
        return snapshot

    @property
    def patches(self) -> PatchTable:
        """The patches with their present counts."""
        n_done, n_failed = (np.array(self._unpacked()[name], dtype=np.int32) for name in _COUNTS)
        return replace(self._patches, n_done=n_done, n_failed=n_failed)

    @property
    def state(self) -> str:
        """State of the snapshot, or ``lost``."""
        return "lost" if self.is_lost else self.snapshot["state"]

    def age(self, at: float) -> float:
        """Return the time since the last message, seconds."""
        return max(0.0, at - self._heard)

    def to_dict(self, at: float, *, patches: bool = True) -> dict[str, Any]:
        """Return the snapshot with ``run``, ``state``, ``seconds_since_heard`` and the columns of ``patches``."""
        own = {"run": self.run, "state": self.state, "seconds_since_heard": round(self.age(at), 2)}
        return {**self.snapshot, **own, **({"patches": self.patches.to_dict()} if patches else {})}

    def _unpacked(self) -> dict[str, Any]:
        if not self._content:
            self._content = _unpack(self._data)
        return self._content


class PublishedRuns:
    """The last few runs that were published on a scheduler.

    `now` returns the present time, seconds since 1970, and `workers` the number of the scheduler's workers by status:
    ``running``, ``paused``, ...
    """

    def __init__(
        self, now: Callable[[], float] = time.time, workers: Callable[[], Mapping[str, int]] = lambda: {}
    ) -> None:
        self.now, self.workers = now, workers
        self._runs: dict[str, PublishedRun] = {}

    def __len__(self) -> int:
        return len(self._runs)

    def all(self) -> list[PublishedRun]:
        """Return the runs, the newest last."""
        return list(self._runs.values())

    def get(self, run: str | None = None) -> PublishedRun | None:
        """Return one of the runs, by default the newest; None if it is not known."""
        if run:
            return self._runs.get(run)
        return next(reversed(self._runs.values()), None)

    def publish(self, version: int, run: str, driver: str, data: bytes, patches: bytes = b"") -> bool:
        """Take in a driver's message; returns False if it was not understood, or lacks the patches.

        `data` and `patches` are what `pack_progress` and `pack_patches` returned; patches are only needed if the run is
        not known yet.
        """
        if version != MESSAGE_VERSION or not (patches or run in self._runs):
            return False
        if run not in self._runs:
            self._runs[run] = PublishedRun(run, driver, patches)
            while len(self._runs) > _RUNS:
                del self._runs[next(iter(self._runs))]
        self._runs[run].publish(data, self.now())
        return True

    def lose(self, driver: str) -> None:
        """Note that a Dask client has disconnected: the runs that it had not ended are lost."""
        for run in self._runs.values():
            if driver and run.driver == driver and run.snapshot["state"] == "running":
                run.is_lost = True
                run.version += 1
