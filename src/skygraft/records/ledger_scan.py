"""The image events of a ledger as columns of numbers and names, read in several processes where the ledger is long."""

from __future__ import annotations

import functools
import hashlib
import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from skygraft.processes import process_mapper
from skygraft.records.events import Event, ImageEvent, ImageReopened, RunEvent, RunStarted
from skygraft.records.image_summary import ImageSummary
from skygraft.records.ledger import open_ledger, read_events

__all__ = [
    "DONE",
    "FAILED",
    "FILE_COLUMNS",
    "QUARANTINED",
    "WAITING",
    "ScannedEvents",
    "fingerprint_key",
    "fingerprint_keys",
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
_NO_SIZE = -2
"""A size that no file has: of an entry that is not understood."""

_EVENT_COLUMNS = pa.schema(
    [("image_id", pa.string()), ("place", pa.int64()), ("state", pa.uint8()), *FILE_COLUMNS],
)
_HEXADECIMAL = np.full(256, 255, dtype=np.uint8)
_HEXADECIMAL[[*b"0123456789abcdefABCDEF"]] = [*range(16), *range(10, 16)]
"""Value of a hexadecimal digit; 255 for other letters."""
_PART_BYTES = 4 << 20
_LARGE = 64 << 20
"""Bytes of a ledger for which it pays to start processes, which takes seconds."""
_BATCH = 5000
"""Events of the ledger in each batch."""


def state_after(event: ImageSummary | ImageReopened) -> int:
    """The state that an event, or the outcome of an image, leaves it in."""
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


def fingerprint_keys(fingerprints: pa.StringArray, datasets: Sequence[str] | None = None) -> NDArray[np.int64]:
    """`fingerprint_key` of many fingerprints, and of the ids of their datasets."""
    offsets = np.frombuffer(fingerprints.buffers()[1], np.int32)[fingerprints.offset :][: len(fingerprints) + 1]
    widths = np.unique(np.diff(offsets))
    if datasets is None and not fingerprints.null_count and len(widths) == 1 and widths[0] >= 16:
        letters = np.frombuffer(fingerprints.buffers()[2], np.uint8)[offsets[0] : offsets[-1]]
        digits = _HEXADECIMAL[letters.reshape(-1, widths[0])[:, :16]]
        if digits.max() < 16:
            keys = np.bitwise_or.reduce(digits.astype(np.uint64) << np.arange(60, -1, -4, dtype=np.uint64), axis=1)
            return np.asarray((keys ^ np.uint64(1 << 63)).view(np.int64))
    ids = itertools.repeat("") if datasets is None else datasets
    return np.array([*map(fingerprint_key, fingerprints.to_pylist(), ids)], dtype=np.int64)


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
    runs : tuple of RunStarted, TablesStarted or RunEnded
        All events on runs, in order.
    """

    images: pa.RecordBatch
    run_starts: tuple[int, ...] = ()
    runs: tuple[RunEvent, ...] = ()


def scan_ledger(
    ledger: Path, start: int = 0, stop: int | None = None, *, processes: int | None = None
) -> Iterator[ScannedEvents]:
    """Read the events of a ledger on images and on the starts of runs, in order; none where there is no ledger.

    Parameters
    ----------
    ledger : Path
        The ledger.
    start, stop : int
        Places where lines begin: the first line to read, and the first not to; by default all are read.
    processes : int, optional
        Processes that read; by default one for each core where there is enough to read.

    Raises
    ------
    CampaignError
        If the ledger cannot be read, or a line of it is not understood.
    """
    if not ledger.exists():
        return
    stop = ledger.stat().st_size if stop is None else stop
    if processes is None:
        processes = len(os.sched_getaffinity(0)) if stop - start > _LARGE else 1
    with process_mapper(processes) as mapper:
        for parts in mapper(functools.partial(_scan_part, ledger=ledger), _parts(ledger, start, stop)):
            yield from parts


def _parts(ledger: Path, start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Where parts begin and end, at ends of lines."""
    if (handle := open_ledger(ledger)) is None:
        return
    with handle:
        while start < stop:
            handle.seek(start + _PART_BYTES)
            handle.readline()
            end = min(handle.tell(), stop)
            yield start, end
            start = end


def _scan_part(part: tuple[int, int], *, ledger: Path) -> list[ScannedEvents]:
    events = read_events(ledger, *part)
    found = iter(lambda: _columns(itertools.islice(events, _BATCH)), None)
    return [scanned for scanned in found if scanned is not None]


def _columns(events: Iterator[tuple[int, Event]]) -> ScannedEvents | None:
    """The columns of some events, none of which is kept; None where there are none."""
    columns: dict[str, list[Any]] = {name: [] for name in _EVENT_COLUMNS.names}
    names, sizes, times, ends = columns["names"], columns["sizes"], columns["times"], [0]
    starts, runs, n_events = list[int](), list[RunEvent](), 0
    for place, event in events:
        n_events += 1
        if isinstance(event, RunStarted):
            starts.append(place)
        if not isinstance(event, ImageEvent | ImageReopened):
            runs.append(event)
            continue
        state = state_after(event)
        columns["image_id"].append(event.image_id)
        columns["place"].append(place)
        columns["state"].append(state)
        made = event if state == DONE and isinstance(event, ImageEvent) else _NOT_DONE
        columns["sources"].append(fingerprint_key(made.catalog, made.dataset))
        columns["settings"].append(fingerprint_key(made.settings))
        columns["code"].append(made.code)
        columns["n_inputs"].append(len(made.inputs))
        for name, identity in made.inputs.items():
            # A malformed entry, as of a damaged ledger, agrees with no file: the image's record is opened then.
            size, time = identity if len(identity) == 2 else (_NO_SIZE, 0)
            names.append(name)
            sizes.append(size)
            times.append(time)
        names += made.outputs
        sizes += made.outputs.values()
        known = made.output_times or [ANY_TIME] * len(made.outputs)
        times += known if len(known) == len(made.outputs) else [0] * len(made.outputs)
        ends.append(len(names))
    offsets = pa.array(ends, pa.int32())
    arrays = [
        pa.ListArray.from_arrays(offsets, pa.array(columns[field.name], field.type.value_type))
        if pa.types.is_list(field.type)
        else pa.array(columns[field.name], field.type)
        for field in _EVENT_COLUMNS
    ]
    images = pa.RecordBatch.from_arrays(arrays, schema=_EVENT_COLUMNS)
    return ScannedEvents(images, tuple(starts), tuple(runs)) if n_events else None


_NOT_DONE = ImageEvent("", "done")
"""An image without files."""
