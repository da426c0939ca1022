"""The state of every image of a plan, as the ledger has it: a few numbers for each, for millions of images."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from skygraft.catalog.arrow_arrays import arrow_array, numpy_array
from skygraft.dataset import dataset_id
from skygraft.records.checkpoint import (
    CHECKPOINT_SCHEMA,
    Checkpoint,
    header_of,
    open_checkpoint,
    write_checkpoint,
)
from skygraft.records.comparison import Comparison
from skygraft.records.events import (
    Event,
    ImageEvent,
    ImageReopened,
    RunEnded,
    RunEvent,
    RunStarted,
    TablesStarted,
    event_line,
    parse_event,
)
from skygraft.records.files import Layout
from skygraft.records.image_summary import ImageSummary
from skygraft.records.known_folders import FolderCensus, rows_in_folders
from skygraft.records.known_packs import KnownTable, known_table, rows_in_packs
from skygraft.records.ledger import Failure, read_events, read_runs
from skygraft.records.ledger_scan import (
    DONE,
    FAILED,
    QUARANTINED,
    WAITING,
    fingerprint_keys,
    scan_ledger,
    state_after,
)
from skygraft.records.plan_file import Plan

__all__ = [
    "DONE",
    "FAILED",
    "QUARANTINED",
    "WAITING",
    "ImageRows",
    "ImageStates",
    "LedgerStates",
    "read_ledger",
    "save_checkpoint",
]

type Rows = NDArray[np.int64]


class ImageRows:
    """Finds the rows of images in a plan by their ids.

    It keeps 64-bit hashes of the ids, 16 bytes an image: a dictionary of ten million ids would take 2 GB.

    Parameters
    ----------
    plan : Plan
        The plan.
    """

    def __init__(self, plan: Plan) -> None:
        hashes = [
            np.array([hash(name) for name in batch.column(0).to_pylist()], dtype=np.int64)
            for batch in plan.batches(["image_id"])
        ]
        unsorted = np.concatenate([np.empty(0, dtype=np.int64), *hashes])
        self._rows = np.argsort(unsorted, kind="stable")
        self._hashes = unsorted[self._rows]

    def find(self, image_ids: Sequence[str]) -> Rows:
        """Rows of images in the plan; -1 for those that are not in it."""
        wanted = np.array([hash(name) for name in image_ids], dtype=np.int64)
        if not len(self._hashes):
            return np.full(len(wanted), -1, dtype=np.int64)
        found = np.minimum(np.searchsorted(self._hashes, wanted), len(self._hashes) - 1)
        return np.where(self._hashes[found] == wanted, self._rows[found], -1).astype(np.int64)


class ImageStates:
    """The state of every image of a plan of N images, by its row in the plan: 12 bytes an image.

    Parameters
    ----------
    n_images : int
        N.

    Attributes
    ----------
    state : ndarray of uint8, shape (N,)
        `WAITING`, `DONE`, `FAILED` or `QUARANTINED`.
    tries : ndarray of uint16, shape (N,)
        How often the image failed since it was last done.
    places : ndarray of int64, shape (N,)
        Where in the ledger the line of its last event begins, bytes; -1 where it has none.
    before_run : ndarray of uint8, shape (N,)
        `state` when the last run began.
    run_start : int
        Where in the ledger the line of that run's start begins; -1 where there was no run.
    runs : list of RunStarted, TablesStarted or RunEnded
        The events on runs, in order, of the ledger as it was read.
    n_unsaved : int
        Events on images that no checkpoint includes.
    """

    def __init__(self, n_images: int) -> None:
        self.state = np.zeros(n_images, dtype=np.uint8)
        self.tries = np.zeros(n_images, dtype=np.uint16)
        self.places = np.full(n_images, -1, dtype=np.int64)
        self.before_run = np.zeros(n_images, dtype=np.uint8)
        self.run_start = -1
        self.runs: list[RunEvent] = []
        self.n_unsaved = 0

    def __len__(self) -> int:
        return len(self.state)

    def copy(self) -> Self:
        """A copy that does not change with this one."""
        new = type(self)(0)
        new.state, new.tries, new.places = self.state.copy(), self.tries.copy(), self.places.copy()
        new.before_run, new.run_start = self.before_run, self.run_start  # replaced as a whole, never changed
        new.runs = [*self.runs]
        return new

    def count(self, *states: int) -> int:
        """How many images are in one of some states."""
        return int(np.isin(self.state, states).sum())

    def rows(self, *states: int) -> Rows:
        """Rows of the images in one of some states, ascending."""
        return np.flatnonzero(np.isin(self.state, states)).astype(np.int64)

    def begin_run(self, place: int) -> None:
        """Enter the start of a run, whose line in the ledger begins at `place`."""
        self.before_run, self.run_start = self.state.copy(), place

    def enter(self, row: int, event: ImageEvent | ImageReopened, place: int) -> None:
        """Enter an event of the ledger, whose line begins at `place`."""
        self.places[row] = place
        self.n_unsaved += 1
        self._set(row, state_after(event))

    def enter_summaries(self, rows: Iterable[int], summaries: Iterable[ImageSummary], places: Iterable[int]) -> None:
        """Enter the outcome of some images, whose lines in the ledger begin at `places`."""
        made = np.array([*zip(rows, map(state_after, summaries), places, strict=True)], dtype=np.int64).reshape(-1, 3)
        self.enter_many(made[:, 0], made[:, 1].astype(np.uint8), made[:, 2])

    def enter_many(self, rows: Rows, states: NDArray[np.uint8], places: NDArray[np.int64]) -> None:
        """Enter the states that consecutive events leave images in; a row may occur more than once."""
        self.n_unsaved += len(rows)
        self.places[rows] = places  # the last one counts
        if np.all(states == DONE):
            self.state[rows], self.tries[rows] = DONE, 0
            return
        for row, state in zip(rows.tolist(), states.tolist(), strict=True):
            self._set(row, state)

    def _set(self, row: int, state: int) -> None:
        self.state[row] = state
        if state == DONE:
            self.tries[row] = 0
        elif state in (FAILED, QUARANTINED):
            self.tries[row] = min(int(self.tries[row]) + 1, 65535)

    def last_event(self, ledger: Path, row: int) -> Event | None:
        """The last event of the ledger on an image; None where it has none."""
        place = int(self.places[row])
        return next(read_events(ledger, place), (place, None))[1] if place >= 0 else None

    def failures(self, ledger: Path, rows: Iterable[int] | None = None) -> Iterator[tuple[int, Failure]]:
        """Rows of images that failed, ascending, with the reasons (of `rows`, or all)."""
        for row in self.rows(FAILED, QUARANTINED) if rows is None else rows:
            event = self.last_event(ledger, row)
            if isinstance(event, ImageEvent) and event.status == "failed":
                yield int(row), Failure.of(event, int(self.tries[row]))


@dataclass(frozen=True)
class LedgerStates:
    """What a ledger says of the images of a plan.

    Parameters
    ----------
    states : ImageStates
        The states.
    unconfirmed : ndarray of bool, shape (N,)
        True for images that are done by the ledger, and whose files, settings or sources are different now; without a
        comparison all False.
    """

    states: ImageStates
    unconfirmed: NDArray[np.bool_]


def read_ledger(
    plan: Plan,
    layout: Layout,
    comparison: Comparison | None = None,
    *,
    until: int | None = None,
    glance: bool = False,
) -> LedgerStates:
    """Derive the state of every image from the ledger: its checkpoint, and the events after it.

    Parameters
    ----------
    plan : Plan
        The plan, of N images.
    layout : Layout
        Where the ledger and its checkpoint are.
    comparison : Comparison, optional
        What to compare finished images with.
    until : int, optional
        Place in the ledger where the line of a run's start begins, bytes: events from there on do not count.
    glance : bool
        Whether to look at folders instead of files, as far as `skygraft.records.known_folders` knows them.

    Raises
    ------
    CampaignError
        If the ledger cannot be read, or a line of it is not understood.
    """
    states, unconfirmed = ImageStates(len(plan)), np.zeros(len(plan), dtype=np.bool_)
    sources = _source_keys(plan) if comparison is not None and comparison.with_inputs else None

    in_packs: NDArray[np.bool_] | None = None
    confirmed = np.zeros(len(plan), dtype=np.bool_)

    def compare(rows: Rows, images: pa.RecordBatch) -> None:
        if comparison is not None:
            packed = None
            if in_packs is not None and "packed" in images.schema.names:
                packed = numpy_array(images.column("packed")) * in_packs[rows]
            agrees = comparison.agrees(images, packed)
            if sources is not None:
                agrees &= sources[rows] == numpy_array(images.column("sources"))
            unconfirmed[rows] = ~agrees

    start = 0
    with open_checkpoint(plan, layout) as checkpoint:
        if checkpoint is not None and until is not None and checkpoint.header.run_start == until:
            _restore(states, checkpoint)
            states.state, states.run_start = states.before_run, -1
            return LedgerStates(states, unconfirmed)
        if checkpoint is not None and (until is None or checkpoint.header.offset <= until):
            if comparison is not None and checkpoint.header.packs:
                in_packs = rows_in_packs(plan, layout, checkpoint.header.packs)
            in_folders = rows_in_folders(layout, checkpoint.header) if glance and in_packs is not None else None
            if in_packs is not None and in_folders is not None:
                confirmed = in_packs & in_folders
            _restore(states, checkpoint, None if comparison is None else compare, confirmed)
            start = checkpoint.header.offset
            states.runs = _runs_of(layout.ledger, checkpoint)
    rows_of: ImageRows | None = None
    for scanned in scan_ledger(layout.ledger, start, until):
        states.runs += scanned.runs
        # Made when the first events are there: by then other processes read the next ones. After a run that has ended
        # none is of an image.
        if len(scanned.images):
            rows_of = rows_of or ImageRows(plan)
        rows, images = _known(rows_of, scanned.images)
        places = numpy_array(images.column("place"))
        begun = [0, *np.searchsorted(places, scanned.run_starts).tolist(), len(rows)]
        for i, (first, end) in enumerate(itertools.pairwise(begun)):
            if i:
                states.begin_run(scanned.run_starts[i - 1])
            some = slice(first, end)
            states.enter_many(rows[some], numpy_array(images.column("state"))[some], places[some])
        compare(rows, images)
    unconfirmed &= states.state == DONE
    return LedgerStates(states, unconfirmed)


def _source_keys(plan: Plan) -> NDArray[np.int64]:
    """`fingerprint_key` of the sources that a plan gives to each image, and of its dataset."""
    keys = [np.empty(0, dtype=np.int64)]
    for batch in plan.batches(["catalog_key", "dataset"]):
        fingerprints, datasets = batch.columns
        ids = [dataset_id(text) for text in datasets.to_pylist()] if datasets.null_count < len(datasets) else None
        keys.append(fingerprint_keys(fingerprints, ids))
    return np.concatenate(keys)


def _known(rows_of: ImageRows | None, images: pa.RecordBatch) -> tuple[Rows, pa.RecordBatch]:
    """The rows of images in the plan, and the events on them; without those of images that are not in it."""
    if rows_of is None:
        return np.empty(0, dtype=np.int64), images  # there are none
    rows = rows_of.find(images.column("image_id").to_pylist())
    if np.all(rows >= 0):
        return rows, images
    return rows[rows >= 0], images.filter(arrow_array(rows >= 0))


def _restore(
    states: ImageStates,
    checkpoint: Checkpoint,
    compare: Callable[[Rows, pa.RecordBatch], None] | None = None,
    confirmed: NDArray[np.bool_] | None = None,
) -> None:
    """Take the states from a checkpoint, and compare the files of the images that are not confirmed already."""
    states.run_start = checkpoint.header.run_start
    for i in range(len(checkpoint)):
        batch = checkpoint.states(i)
        rows = numpy_array(batch.column("row")).astype(np.int64)
        for name, into in (
            ("state", states.state),
            ("tries", states.tries),
            ("place", states.places),
            ("before_run", states.before_run),
        ):
            into[rows] = numpy_array(batch.column(name))
        left = np.ones(len(rows), dtype=np.bool_) if confirmed is None else ~confirmed[rows]
        if compare is not None and left.any():
            whole = checkpoint.rows(i)
            compare(rows[left], whole if left.all() else whole.filter(arrow_array(left)))


def _runs_of(ledger: Path, checkpoint: Checkpoint) -> list[RunEvent]:
    """The events on runs in what a checkpoint includes of a ledger."""
    events = (parse_event(line.encode(), ledger, 0) for line in checkpoint.header.runs)
    return [event for event in events if isinstance(event, RunStarted | TablesStarted | RunEnded)]


def _offset(checkpoint: Checkpoint | None) -> int:
    """How much of the ledger a checkpoint includes, bytes."""
    return checkpoint.header.offset if checkpoint is not None else 0


def save_checkpoint(
    plan: Plan, layout: Layout, states: ImageStates, offset: int, census: FolderCensus | None = None
) -> None:
    """Write a checkpoint of the ledger, from the former one and the events after it.

    Parameters
    ----------
    plan : Plan
        The plan.
    layout : Layout
        Where the ledger is.
    states : ImageStates
        The states that the first `offset` bytes of the ledger leave the images in.
    offset : int
        How much of the ledger is included.
    census : FolderCensus, optional
        Learns where the files are, and writes what is known of their folders.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    with open_checkpoint(plan, layout) as before:
        usable = before if before is not None and before.header.offset <= offset else None
        runs = [event_line(event, "").decode() for event in read_runs(layout.ledger, _offset(usable), offset)]
        before_runs = [] if usable is None else usable.header.runs
        known = known_table(layout)
        packs = known.digest if known is not None else ""
        header = header_of(plan, layout, offset, states.run_start, before_runs + runs, packs)
        if header is None:
            return  # the ledger was removed; whoever appends to it says so
        rows = _rows_of_last_events(plan, layout, states, usable, offset, known)
        write_checkpoint(layout, header, rows if census is None else _counted(rows, census))
        if census is not None:
            census.write(layout, header)


def _counted(batches: Iterable[pa.RecordBatch], census: FolderCensus) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        census.add(batch)
        yield batch


def _rows_of_last_events(
    plan: Plan,
    layout: Layout,
    states: ImageStates,
    before: Checkpoint | None,
    offset: int,
    known: KnownTable | None,
) -> Iterator[pa.RecordBatch]:
    """The rows of a checkpoint: those of each image's last event, from a former checkpoint and the ledger after it."""
    for batch in map(before.rows, range(len(before))) if before is not None else ():
        yield _with_states(states, numpy_array(batch.column("row")).astype(np.int64), batch, known)
    rows_of: ImageRows | None = None
    # In this process: a run goes on meanwhile, and others are at work on its images.
    for scanned in scan_ledger(layout.ledger, _offset(before), offset, processes=1):
        if len(scanned.images):
            rows_of = rows_of or ImageRows(plan)
            yield _with_states(states, *_known(rows_of, scanned.images), known)


def _with_states(states: ImageStates, rows: Rows, images: pa.RecordBatch, known: KnownTable | None) -> pa.RecordBatch:
    """The rows of a checkpoint for those images whose last event is among `images`."""
    last = states.places[rows] == numpy_array(images.column("place"))
    if not np.all(last):
        rows, images = rows[last], images.filter(arrow_array(last))
    columns: dict[str, NDArray[Any]] = {
        "row": rows.astype(np.int32),
        "place": states.places[rows],
        "state": states.state[rows],
        "tries": states.tries[rows],
        "before_run": states.before_run[rows],
        "packed": known.holds(images) if known is not None else np.zeros(len(rows), dtype=np.uint8),
    }
    arrays = [
        arrow_array(columns[name]) if name in columns else images.column(name) for name in CHECKPOINT_SCHEMA.names
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=CHECKPOINT_SCHEMA)
