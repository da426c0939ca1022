"""The image events of a ledger as columns of numbers and names, read in several processes where the ledger is long."""

from __future__ import annotations

import functools
import hashlib
import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from skygraft.processes import process_mapper
from skygraft.records.events import ImageEvent, ImageReopened, RunStarted
from skygraft.records.ledger import read_events

__all__ = [
    "DONE",
    "FAILED",
    "FILE_COLUMNS",
    "QUARANTINED",
    "WAITING",
    "ScannedEvents",
    "fingerprint_key",
    "scan_ledger",
    "state_after",
]

WAITING, DONE, FAILED, QUARANTINED = range(4)
"""States of an image."""

FILE_COLUMNS = pa.schema(
    [
        ("sources", pa.int64()),
        ("settings", pa.int64()),
        ("code", pa.int64()),
        ("n_inputs", pa.int32()),
        ("names", pa.list_(pa.string())),
        ("sizes", pa.list_(pa.int64())),
        ("times", pa.list_(pa.int64())),
    ]
)
"""What an image was made from and what was written: `fingerprint_key` of its sources and dataset and of its settings,
`PIXEL_VERSION`, and its files, the inputs first: name, size in bytes and time of last change in ns (`ANY_TIME` where
the ledger does not know it). An image that is not done has no files."""

ANY_TIME = -1
_NEVER = -2
"""A size that no file has: of an entry that is not understood."""

_EVENT_COLUMNS = pa.schema(
    [("image_id", pa.string()), ("place", pa.int64()), ("state", pa.uint8()), *FILE_COLUMNS],
)
_PART_BYTES = 4 << 20
_LARGE = 64 << 20
"""Bytes of a ledger for which it pays to start processes, which takes seconds."""
_BATCH = 1000
"""Events at a time; Python's garbage collector visits all that exist, again and again."""


def state_after(event: ImageEvent | ImageReopened) -> int:
    """The state that an event leaves an image in."""
    if isinstance(event, ImageReopened):
        return WAITING
    if event.status == "failed":
        return QUARANTINED if event.quarantined else FAILED
    return DONE


def fingerprint_key(fingerprint: str, dataset: str = "") -> int:
    """64 bits of a hexadecimal fingerprint, and of the id of a dataset; the same in every process."""
    if dataset:
        return _hashed(f"{fingerprint} {dataset}")
    try:
        return int(fingerprint[:16], 16) - (1 << 63)
    except ValueError:
        return _hashed(fingerprint)


def _hashed(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") - (1 << 63)


@dataclass(frozen=True)
class ScannedEvents:
    """Consecutive events of a ledger.

    Parameters
    ----------
    images : pyarrow.RecordBatch
        One row per event on an image, in order; an image may occur more than once. Columns: ``image_id``, ``place``
        (of its line in the ledger, bytes), ``state`` (`WAITING`, `DONE`, `FAILED` or `QUARANTINED`), and
        `FILE_COLUMNS`.
    run_starts : tuple of int
        Places of the lines at which runs began.
    """

    images: pa.RecordBatch
    run_starts: tuple[int, ...] = ()


def scan_ledger(ledger: Path, start: int = 0, stop: int | None = None) -> Iterator[ScannedEvents]:
    """Read the events of a ledger on images and on the starts of runs, in order; none where there is no ledger.

    Parameters
    ----------
    ledger : Path
        The ledger.
    start, stop : int
        Places where lines begin: the first line to read, and the first not to; by default all are read.

    Raises
    ------
    CampaignError
        If the ledger cannot be read, or a line of it is not understood.
    """
    if not ledger.exists():
        return
    stop = ledger.stat().st_size if stop is None else stop
    cores = len(os.sched_getaffinity(0)) if stop - start > _LARGE else 1
    with process_mapper(cores) as mapper:
        for parts in mapper(functools.partial(_scan_part, ledger=ledger), _parts(ledger, start, stop)):
            yield from parts


def _parts(ledger: Path, start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Where parts begin and end, at ends of lines."""
    with ledger.open("rb") as handle:
        while start < stop:
            handle.seek(start + _PART_BYTES)
            handle.readline()
            end = min(handle.tell(), stop)
            yield start, end
            start = end


def _scan_part(part: tuple[int, int], *, ledger: Path) -> list[ScannedEvents]:
    found = []
    for some in itertools.batched(read_events(ledger, *part), _BATCH):
        images = [(place, e) for place, e in some if isinstance(e, ImageEvent | ImageReopened)]
        starts = tuple(place for place, event in some if isinstance(event, RunStarted))
        if images or starts:
            found.append(ScannedEvents(_columns(images), starts))
    return found


def _columns(events: Sequence[tuple[int, ImageEvent | ImageReopened]]) -> pa.RecordBatch:
    rows = [
        (event.image_id, place, state := state_after(event), *(_files(event) if state == DONE else _NO_FILES))
        for place, event in events
    ]
    columns = zip(*rows, strict=True) if rows else ([] for _ in _EVENT_COLUMNS)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, _EVENT_COLUMNS, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=_EVENT_COLUMNS)


type _Files = tuple[int, int, int, int, list[str], list[int], list[int]]

_NO_FILES: _Files = (0, 0, 0, 0, [], [], [])


def _files(event: ImageEvent | ImageReopened) -> _Files:
    """The values of `FILE_COLUMNS` for an image that is done."""
    assert isinstance(event, ImageEvent)
    # Malformed entries, as of a damaged ledger, agree with no file: the image's record is opened then.
    known = [identity if len(identity) == 2 else [_NEVER, 0] for identity in event.inputs.values()]
    times = event.output_times or [ANY_TIME] * len(event.outputs)
    if len(times) != len(event.outputs):
        times = [0] * len(event.outputs)
    return (
        fingerprint_key(event.catalog, event.dataset),
        fingerprint_key(event.settings),
        event.code,
        len(event.inputs),
        [*event.inputs, *event.outputs],
        [*(size for size, _ in known), *event.outputs.values()],
        [*(time for _, time in known), *times],
    )
