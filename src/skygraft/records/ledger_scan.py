"""What the ledger claims of images, held against what is there now: stretch by stretch, in several processes.

A million images are some gigabyte of ledger and four million files to look at. Threads are no help where that is quick,
for they wait for each other; where a file system is far away they are, since it is all waiting.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from skygraft.processes import process_mapper
from skygraft.records.events import ImageEvent, ImageReopened
from skygraft.records.ledger import read_events
from skygraft.records.packs import packed_files

__all__ = ["DONE", "FAILED", "QUARANTINED", "WAITING", "Claims", "Now", "claims", "source_key", "state_of"]

WAITING, DONE, FAILED, QUARANTINED = range(4)
"""States of an image."""

_STRETCH = 4 << 20
_LARGE = 64 << 20
"""Bytes of a ledger that is worth starting processes for, which takes seconds."""
_FAR_SECONDS = 1e-3
"""Looking at the files of an image takes longer than this where the file system is far away."""
_LOOKERS = 16
_BLOCK = 64
"""Events at a time: Python's garbage collector goes through all that are held, again and again."""
_COLUMNS = {
    "places": np.int64,
    "states": np.uint8,
    "sources": np.int64,
    "agrees": np.bool_,
}


def state_of(event: ImageEvent | ImageReopened) -> int:
    """The state that an event leaves an image in."""
    if isinstance(event, ImageReopened):
        return WAITING
    if event.status == "failed":
        return QUARANTINED if event.quarantined else FAILED
    return DONE


def source_key(fingerprint: str, dataset: str = "") -> int:
    """64 bits of the fingerprint of an image's sources, and of its dataset's id; the same in every process."""
    if dataset:
        fingerprint = f"{fingerprint} {dataset}"
        return int.from_bytes(hashlib.blake2b(fingerprint.encode(), digest_size=8).digest(), "big") - (1 << 63)
    try:
        value = int(fingerprint[:16], 16)
    except ValueError:
        value = int.from_bytes(hashlib.blake2b(fingerprint.encode(), digest_size=8).digest(), "big")
    return value - (1 << 63)


# Strings rather than paths where a million files are looked at: those take longer than the looking.


@dataclass(frozen=True)
class Now:
    """What an image that is done is held against.

    Parameters
    ----------
    root, output : str
        The survey's root, and the campaign's output folder.
    settings : str
        Fingerprint of the settings.
    code : int
        `skygraft.records.image_record.PIXEL_VERSION`.
    outputs_only : bool
        Look at the outputs, and not at what they were made from.
    """

    root: str = ""
    output: str = ""
    settings: str = ""
    code: int = 0
    outputs_only: bool = False

    def agrees(self, event: ImageEvent, packed: Callable[[str], Mapping[str, Sequence[int]]] = packed_files) -> bool:
        """Whether everything that an image was made from, and the image that came of it, is as the ledger says.

        `packed` gives the packed files of a folder; see `skygraft.records.packs.packed_files`.
        """
        if not (event.inputs and event.outputs):
            return False
        inputs = {} if self.outputs_only else event.inputs
        if not self.outputs_only and (event.code != self.code or event.settings != self.settings):
            return False
        try:
            for name, (n_bytes, mtime_ns) in inputs.items():
                status = os.stat(f"{self.root}/{name}" if name[0] != "/" else name)  # noqa: PTH116
                if status.st_size != n_bytes or status.st_mtime_ns != mtime_ns:
                    return False
            times = event.output_times
            for i, (name, n_bytes) in enumerate(event.outputs.items()):
                try:
                    status = os.stat(f"{self.output}/{name}")  # noqa: PTH116
                    size, mtime_ns = status.st_size, status.st_mtime_ns
                except FileNotFoundError:
                    folder, _, file = f"{self.output}/{name}".rpartition("/")
                    size, mtime_ns, *_ = packed(folder)[file]
                if size != n_bytes or (times and mtime_ns != times[i]):
                    return False
            return True
        except (OSError, ValueError, LookupError):
            return False


@dataclass(frozen=True)
class Claims:
    """What a stretch of a ledger says of N images, in order; an image may be among them more than once.

    Parameters
    ----------
    image_ids : list of str
        The images.
    places : ndarray of int64, shape (N,)
        Where in the ledger that stands.
    states : ndarray of uint8, shape (N,)
        `WAITING`, `DONE`, `FAILED` or `QUARANTINED`.
    sources : ndarray of int64, shape (N,)
        `source_key` of what it was made with.
    agrees : ndarray of bool, shape (N,)
        Whether it is done, and everything is as the ledger says; False where that was not looked at.
    """

    image_ids: list[str]
    places: NDArray[np.int64]
    states: NDArray[np.uint8]
    sources: NDArray[np.int64]
    agrees: NDArray[np.bool_]

    @classmethod
    def joined(cls, parts: Sequence[Claims]) -> Claims:
        """What several stretches say, one after the other."""
        arrays = (
            np.concatenate([np.empty(0, dtype), *(getattr(part, name) for part in parts)])
            for name, dtype in _COLUMNS.items()
        )
        return cls([image_id for part in parts for image_id in part.image_ids], *arrays)


def claims(ledger: Path, now: Now | None = None) -> Iterator[Claims]:
    """What a ledger says of images, from its beginning to its end; nothing where there is none.

    Parameters
    ----------
    ledger : Path
        The ledger.
    now : Now, optional
        What to hold it against; without it nothing is looked at.
    """
    if not ledger.is_file():
        return
    cores = len(os.sched_getaffinity(0)) if ledger.stat().st_size > _LARGE else 1
    with process_mapper(cores) as mapper:
        yield from mapper(functools.partial(_read, ledger=ledger, now=now), _stretches(ledger))


def _stretches(ledger: Path) -> Iterator[tuple[int, int]]:
    """Where to begin and to end reading, at ends of lines."""
    with ledger.open("rb") as handle:
        start, size = 0, handle.seek(0, os.SEEK_END)
        while start < size:
            handle.seek(start + _STRETCH)
            handle.readline()
            stop = min(handle.tell(), size)
            yield start, stop
            start = stop


def _read(stretch: tuple[int, int], *, ledger: Path, now: Now | None) -> Claims:
    found = []
    images = ((place, e) for place, e in read_events(ledger, *stretch) if isinstance(e, ImageEvent | ImageReopened))
    with _Looker(now) as looker:
        for some in itertools.batched(images, _BLOCK):
            events = [event for _, event in some]
            keys = [(e.catalog, e.dataset) if isinstance(e, ImageEvent) else ("", "") for e in events]
            part = Claims(
                image_ids=[event.image_id for event in events],
                places=np.array([place for place, _ in some], dtype=np.int64),
                states=np.array([state_of(event) for event in events], dtype=np.uint8),
                sources=np.array([source_key(*key) for key in keys], dtype=np.int64),
                agrees=np.array(looker.look(events), dtype=np.bool_),
            )
            found.append(part)
    return Claims.joined(found)


class _Looker:
    """Looks at what events claim: one after the other, or many at once where that turns out to be slow."""

    def __init__(self, now: Now | None) -> None:
        self._now = now
        # For one stretch of the ledger: a folder is listed once for all of its images.
        self._packed = functools.lru_cache(maxsize=256)(packed_files)
        self._pool: ThreadPoolExecutor | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown()

    def look(self, events: Sequence[ImageEvent | ImageReopened]) -> list[bool]:
        """Whether each event tells of an image that is done and agrees with what is there now."""
        if self._now is None:
            return [False] * len(events)
        began = time.perf_counter()
        found = list((map if self._pool is None else self._pool.map)(self._agrees, events))
        if self._pool is None and time.perf_counter() - began > _FAR_SECONDS * _BLOCK:
            self._pool = ThreadPoolExecutor(_LOOKERS)
        return found

    def _agrees(self, event: ImageEvent | ImageReopened) -> bool:
        if self._now is None or not isinstance(event, ImageEvent):
            return False
        return event.status != "failed" and self._now.agrees(event, self._packed)
