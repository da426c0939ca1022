"""What the ledger claims of images, held against what is there now: stretch by stretch, in several processes.

A million images are some gigabyte of ledger and four million files to look at. Threads are no help where that is quick,
for they wait for each other; where a file system is far away they are, since it is all waiting.
"""

from __future__ import annotations

import functools
import hashlib
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skygraft.campaign.ledger import read_events
from skygraft.processes import process_mapper

__all__ = ["Claims", "Now", "claims", "source_key"]

_STRETCH = 4 << 20
_LARGE = 64 << 20
"""Bytes of a ledger that is worth starting processes for, which takes seconds."""
_TRIAL = 64
_FAR_SECONDS = 1e-3
"""Looking at the files of an image takes longer than this where the file system is far away."""
_LOOKERS = 16


def source_key(fingerprint: str) -> int:
    """64 bits of the fingerprint of an image's sources; the same in every process."""
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
        `skygraft.campaign.records.PIXEL_VERSION`.
    """

    root: str
    output: str
    settings: str
    code: int

    def agrees(self, event: Mapping[str, Any]) -> bool:
        """Whether everything that an image was made from, and all that came of it, is as the ledger says."""
        if event.get("code") != self.code or event.get("settings") != self.settings:
            return False
        try:
            for name, (n_bytes, mtime_ns) in event["inputs"].items():
                status = os.stat(f"{self.root}/{name}" if name[0] != "/" else name)  # noqa: PTH116
                if status.st_size != n_bytes or status.st_mtime_ns != mtime_ns:
                    return False
            outputs = event["outputs"].items()
            return all(os.stat(f"{self.output}/{name}").st_size == n for name, n in outputs)  # noqa: PTH116
        except (OSError, KeyError, TypeError, ValueError):
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
    failed, quarantined : ndarray of bool, shape (N,)
        Whether it failed, and was put in quarantine.
    sources : ndarray of int64, shape (N,)
        `source_key` of what it was made with.
    agrees : ndarray of bool, shape (N,)
        Whether it is done, and everything is as the ledger says; False where that was not looked at.
    """

    image_ids: list[str]
    places: NDArray[np.int64]
    failed: NDArray[np.bool_]
    quarantined: NDArray[np.bool_]
    sources: NDArray[np.int64]
    agrees: NDArray[np.bool_]


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
    found = [(place, event) for place, event in read_events(ledger, *stretch) if event.get("event") == "image"]
    events = [event for _, event in found]
    failed = np.array([event.get("status") == "failed" for event in events], dtype=np.bool_)
    agrees = np.zeros(len(events), dtype=np.bool_)
    if now is not None:
        done = np.flatnonzero(~failed)
        agrees[done] = _look([events[i] for i in done], now)
    return Claims(
        image_ids=[str(event.get("image_id")) for event in events],
        places=np.array([place for place, _ in found], dtype=np.int64),
        failed=failed,
        quarantined=np.array([bool(event.get("quarantined")) for event in events], dtype=np.bool_),
        sources=np.array([source_key(str(event.get("catalog", ""))) for event in events], dtype=np.int64),
        agrees=agrees,
    )


def _look(events: Sequence[Mapping[str, Any]], now: Now) -> list[bool]:
    began = time.perf_counter()
    found = [now.agrees(event) for event in events[:_TRIAL]]
    if time.perf_counter() - began > _FAR_SECONDS * _TRIAL:
        with ThreadPoolExecutor(_LOOKERS) as pool:
            return found + list(pool.map(now.agrees, events[_TRIAL:]))
    return found + [now.agrees(event) for event in events[_TRIAL:]]
