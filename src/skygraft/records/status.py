"""Which images of a plan are done, failed, or still to be made.

The ledger says what was done, and from what; that is compared with the files that are there now. Where the ledger does
not know of an image, or something differs, the image's record is opened, and decides.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from skygraft.catalog.arrow_arrays import numpy_array, one_array, texts_at
from skygraft.config.campaign import CampaignConfig
from skygraft.disk import atomic_path
from skygraft.errors import CampaignError
from skygraft.records.comparison import Comparison
from skygraft.records.events import Event, ImageEvent, ImageReopened
from skygraft.records.files import RECORD_SUFFIX, Layout, digest
from skygraft.records.image_record import PIXEL_VERSION, changes, is_untouched, is_whole, read_record, summarise
from skygraft.records.image_states import DONE, FAILED, QUARANTINED, WAITING, ImageRows, ImageStates, read_ledger
from skygraft.records.image_summary import ImageSummary
from skygraft.records.known_folders import is_worth_it
from skygraft.records.ledger import Ledger, read_events
from skygraft.records.ledger_scan import fingerprint_key
from skygraft.records.packs import files_there, remove_record
from skygraft.records.plan_file import Plan, PlannedImage

__all__ = [
    "DONE",
    "FAILED",
    "QUARANTINED",
    "WAITING",
    "ImageStates",
    "output_states",
    "record_states",
    "reopen",
    "rescan",
    "resume_states",
]

_THREADS = 8
_EVENTS_AT_ONCE = 4000
_RECORDS_AT_ONCE = 1000
_CHANGES_SHOWN = 5
_MOST_CHANGED = 1000
"""Changed images that are counted before a run is refused because of them."""

type Rows = NDArray[np.int64]


def resume_states(
    plan: Plan, config: CampaignConfig, *, redo: bool = False, ledger: Ledger | None = None
) -> ImageStates:
    """Find the state of every image, as a run needs it: done is what is whole and was made from what is there now.

    Parameters
    ----------
    plan : Plan
        The plan.
    config : CampaignConfig
        The campaign as it is now.
    redo : bool
        If true, images that were made from something else wait to be made again; otherwise they are an error.
    ledger : Ledger, optional
        Where to append what it did not know: images that are done without an event, as a driver that died may leave
        them, and images that it has as done and that are not. Whoever follows the ledger then counts what a run counts.

    Raises
    ------
    CampaignError
        If images were made from something else than what is there now, and `redo` is false.
    """
    layout, settings, root = Layout(config.output), config.pixel_settings(), config.survey.root
    comparison = Comparison(
        str(layout.root),
        root=str(root),
        settings=fingerprint_key(digest(settings)),
        code=PIXEL_VERSION,
        n_images=len(plan),
    )
    states, claimed, rows = _undecided(plan, layout, comparison)
    changed: dict[str, list[str]] = {}

    def decide(row: int, image: PlannedImage) -> tuple[ImageSummary | None, list[str]]:
        path = layout.record(image.tract, image.patch, image.stem)
        record = read_record(path, image.image_id)
        if record is None:
            return None, []
        reasons = changes(record, image, root, settings)
        if reasons or not is_whole(record, layout):
            return None, reasons
        known = states.last_event(layout.ledger, row)
        # One that was reopened or changed since is read by its task, whose checksums decide.
        if isinstance(known, ImageReopened) or not is_untouched(record, path, layout, known):
            return None, []
        return summarise(record, image, layout, status="skipped"), []

    for decided in _by_records(plan, rows, decide):
        accepted: list[tuple[int, ImageSummary]] = []
        for row, image, (summary, reasons) in decided:
            if summary is not None:
                accepted.append((row, summary))
            elif states.state[row] == DONE:
                states.state[row] = WAITING
            if reasons:
                changed[image.image_id] = reasons
        rows_done, summaries = [row for row, _ in accepted], [summary for _, summary in accepted]
        states.state[rows_done], states.tries[rows_done] = DONE, 0
        if ledger is not None:
            states.enter_summaries(rows_done, summaries, ledger.images(summaries))
        if len(changed) >= _MOST_CHANGED and not redo:
            break
    if changed and not redo:
        raise _changed(changed, layout, at_least=len(changed) >= _MOST_CHANGED)
    if ledger is not None:
        _append_reopened(plan, np.flatnonzero(claimed & (states.state != DONE)), states, ledger)
    return states


def record_states(plan: Plan, layout: Layout) -> tuple[ImageStates, Rows]:
    """Find the state of every image by what is there at a glance: done is what has a record.

    Returns
    -------
    states : ImageStates
        The states.
    lost : ndarray of int64
        Rows of the images that are done by the ledger, and have no record.
    """
    states, claimed, rows = _undecided(plan, layout, None)
    states.state[rows] = DONE
    return states, np.flatnonzero(claimed & (states.state != DONE)).astype(np.int64)


def output_states(plan: Plan, layout: Layout) -> tuple[ImageStates, Rows]:
    """Find the state of every image by its record and its outputs, whatever it was made from.

    Of very many, folders are looked at instead of files where that tells that nothing is missing: an output that was
    written to in its place is then not noticed.

    Returns
    -------
    states : ImageStates
        Done is what has a record, and outputs of the sizes and times of last change that the ledger has.
    damaged : ndarray of int64
        Rows of the images that are done by the ledger, and have outputs that are gone or were changed since.
    """
    comparison = Comparison(str(layout.root), n_images=len(plan))
    states, claimed, rows = _undecided(plan, layout, comparison, glance=is_worth_it(len(plan)))
    states.state[rows] = DONE

    def is_damaged(row: int, image: PlannedImage) -> bool:
        path = layout.record(image.tract, image.patch, image.stem)
        record = read_record(path, image.image_id)
        if record is None or not is_whole(record, layout):
            return True
        return not is_untouched(record, path, layout, states.last_event(layout.ledger, row))

    for decided in _by_records(plan, rows[claimed[rows]], is_damaged):
        states.state[[row for row, _, damaged in decided if damaged]] = WAITING
    return states, np.flatnonzero(claimed & (states.state != DONE)).astype(np.int64)


def reopen(plan: Plan, layout: Layout, states: ImageStates, ledger: Ledger, image_ids: Sequence[str]) -> None:
    """Have images that turned out to be damaged made again: without their records they are not done."""
    rows = np.unique(ImageRows(plan).find(image_ids))
    rows = rows[rows >= 0]
    for image in plan.images(rows):
        remove_record(layout.record(image.tract, image.patch, image.stem))
    _append_reopened(plan, rows, states, ledger)


def _append_reopened(plan: Plan, rows: Rows, states: ImageStates, ledger: Ledger) -> None:
    """Append to the ledger that images are not done, which are done by its last event on them."""
    ids = texts_at(one_array(plan.table(["image_id"]).column(0)), rows)
    for some in itertools.batched(zip(rows.tolist(), ids, strict=True), _EVENTS_AT_ONCE):
        events = [ImageReopened(image_id) for _, image_id in some]
        for (row, _), event, place in zip(some, events, ledger.append(events), strict=True):
            states.enter(row, event, place)


def _undecided(
    plan: Plan, layout: Layout, comparison: Comparison | None, *, glance: bool = False
) -> tuple[ImageStates, NDArray[np.bool_], Rows]:
    """Derive states from the ledger and from which records there are, as far as that goes.

    Returns
    -------
    states : ImageStates
        Done is what the comparison confirmed; what has no record is not done.
    claimed : ndarray of bool, shape (N,)
        True for images that are done by the ledger.
    rows : ndarray of int64
        Images that the comparison did not confirm (without one: all), and that have a record.
    """
    if comparison is None:
        found = read_ledger(plan, layout)
    else:
        with comparison:
            found = read_ledger(plan, layout, comparison, glance=glance)
    states, claimed = found.states, found.states.state == DONE
    confirmed = claimed & ~found.unconfirmed if comparison is not None else np.zeros_like(claimed)
    recorded = _recorded(plan, layout, np.flatnonzero(~confirmed))
    lost = claimed & ~confirmed
    lost[recorded] = False
    states.state[lost] = WAITING
    return states, claimed, recorded


def _recorded(plan: Plan, layout: Layout, rows: Rows) -> Rows:
    """Those of some rows whose images have a record."""
    found, start, records = list[int](), 0, str(layout.records)
    for batch in () if not len(rows) else plan.batches(["tract", "patch", "stem"]):
        end = start + batch.num_rows
        some = rows[slice(*np.searchsorted(rows, (start, end)))]
        if len(some):
            tracts, patches = (numpy_array(batch.column(name))[some - start].tolist() for name in ("tract", "patch"))
            images = zip(tracts, patches, texts_at(batch.column("stem"), some - start), some.tolist(), strict=True)
            for (tract, patch), group in itertools.groupby(images, key=lambda image: image[:2]):
                mine = [*group]
                folder = f"{records}/tract={tract}/patch={patch}"
                there = files_there(folder, [stem + RECORD_SUFFIX for *_, stem, _ in mine])
                found += [row for (*_, row), is_there in zip(mine, there, strict=True) if is_there]
        start = end
    return np.array(found, dtype=np.int64)


def _by_records[T](
    plan: Plan, rows: Rows, decide: Callable[[int, PlannedImage], T]
) -> Iterator[list[tuple[int, PlannedImage, T]]]:
    """Open the records of some images in several threads; yields rows, images and what `decide` returns for them."""
    with ThreadPoolExecutor(_THREADS) as pool:
        for some in itertools.batched(zip(rows.tolist(), plan.images(rows), strict=True), _RECORDS_AT_ONCE):
            decided = pool.map(lambda place: decide(*place), some)
            yield [(row, image, found) for (row, image), found in zip(some, decided, strict=True)]


def _changed(changed: Mapping[str, list[str]], layout: Layout, *, at_least: bool) -> CampaignError:
    count = Counter(itertools.chain.from_iterable(changed.values()))
    what = "; ".join(f"{reason} ({n} images)" if n > 1 else reason for reason, n in count.most_common(_CHANGES_SHOWN))
    more = f"; and {len(count) - _CHANGES_SHOWN} more" if len(count) > _CHANGES_SHOWN else ""
    names = ", ".join(list(changed)[:_CHANGES_SHOWN]) + (", ..." if len(changed) > _CHANGES_SHOWN else "")
    number = f"at least {len(changed)}" if at_least else str(len(changed))
    return CampaignError(
        f"{number} images ({names}) were made from something else than what is there now: {what}{more}",
        path=layout.root,
        fix="Put it back, name a new output folder, or make them again with --redo (redo=True)",
    )


def rescan(plan: Plan, config: CampaignConfig) -> int:
    """Rebuild the ledger from the records, with what the old one says of runs and of images without a record.

    Parameters
    ----------
    plan : Plan
        The plan.
    config : CampaignConfig
        The campaign.

    Returns
    -------
    int
        Images with a record.

    Raises
    ------
    OutputError
        If the ledger cannot be written; the old one is then left as it is.
    """
    layout = Layout(config.output)
    image_rows = ImageRows(plan)
    recorded = np.zeros(len(plan), dtype=np.bool_)

    def read(row: int, image: PlannedImage) -> ImageSummary | None:
        del row
        record = read_record(layout.record(image.tract, image.patch, image.stem), image.image_id)
        return None if record is None else summarise(record, image, layout, status="done")

    with atomic_path(layout.ledger) as temporary, Ledger(temporary) as ledger:
        for found in _by_records(plan, _recorded(plan, layout, np.arange(len(plan))), read):
            recorded[[row for row, _, summary in found if summary is not None]] = True
            ledger.images(summary for *_, summary in found if summary is not None)
        for pairs in itertools.batched(read_events(layout.ledger, damaged=True), _EVENTS_AT_ONCE):
            events = [event for _, event in pairs]
            rows = image_rows.find([getattr(event, "image_id", "") for event in events]).tolist()
            ledger.append(
                event
                for row, event in zip(rows, events, strict=True)
                if _is_kept(event, recorded=row >= 0 and bool(recorded[row]))
            )
    return int(recorded.sum())


def _is_kept(event: Event, *, recorded: bool) -> bool:
    """True for events that a rebuilt ledger keeps: those of runs, and of failures of images without a record."""
    if isinstance(event, ImageEvent):
        return event.status == "failed" and not recorded
    return not isinstance(event, ImageReopened)
