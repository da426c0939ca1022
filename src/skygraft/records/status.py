"""How every image of a plan stands: done, failed, or still to be made; a few bytes for each, for millions of images.

What the ledger tells of an image that is done is compared with what is there now: its inputs, its outputs, its sources
and the settings. Only where the ledger is silent, or something differs, is the image's record opened: it decides.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from skygraft.config.campaign import CampaignConfig
from skygraft.dataset import dataset_id
from skygraft.errors import CampaignError
from skygraft.records.events import Event, ImageEvent, ImageReopened
from skygraft.records.files import RECORD_SUFFIX, TRUTH_SUFFIX, Layout, atomic_path, digest
from skygraft.records.image_record import PIXEL_VERSION, changes, is_untouched, is_whole, read_record, summarise
from skygraft.records.image_summary import ImageSummary
from skygraft.records.ledger import Failure, Ledger, read_events
from skygraft.records.ledger_scan import DONE, FAILED, QUARANTINED, WAITING, Now, claims, source_key, state_of
from skygraft.records.packs import file_names, remove_record
from skygraft.records.plan_file import Plan, PlannedImage

__all__ = [
    "DONE",
    "FAILED",
    "QUARANTINED",
    "WAITING",
    "Names",
    "Standing",
    "present",
    "recorded",
    "reopen",
    "rescan",
    "stand",
]

_LOOKERS = 8
_BLOCK = 4000
_CHANGED_SHOWN = 5
_CHANGED_MOST = 1000
"""How many changed images are looked at before it is told that there are any."""

type Rows = NDArray[np.int64]


class Names:
    """Where the images of a plan are in it, by name, and the fingerprints of their sources: 20 bytes an image.

    Parameters
    ----------
    plan : Plan
        The plan, of N images.

    Attributes
    ----------
    sources : ndarray of int64, shape (N,)
        `source_key` of the sources that the plan gives to each image, and of its dataset.
    """

    def __init__(self, plan: Plan) -> None:
        # Python's own hashes of the ids, 64 bits: a dictionary of a million ids would take 200 MB.
        hashes = np.empty(len(plan), dtype=np.int64)
        self.sources = np.empty(len(plan), dtype=np.int64)
        start = 0
        for batch in plan.batches(["image_id", "catalog_key", "dataset"]):
            end = start + batch.num_rows
            hashes[start:end] = [hash(name) for name in batch.column(0).to_pylist()]
            datasets = (dataset_id(text) for text in batch.column(2).to_pylist())
            keys = zip(batch.column(1).to_pylist(), datasets, strict=True)
            self.sources[start:end] = [source_key(*key) for key in keys]
            start = end
        self._order = np.argsort(hashes, kind="stable").astype(np.int32)
        self._sorted = hashes[self._order]

    def rows_of(self, image_ids: Sequence[str]) -> Rows:
        """The rows of some images; -1 for those that are not in the plan."""
        wanted = np.array([hash(name) for name in image_ids], dtype=np.int64)
        if not len(self._sorted):
            return np.full(len(wanted), -1, dtype=np.int64)
        found = np.minimum(np.searchsorted(self._sorted, wanted), len(self._sorted) - 1)
        return np.where(self._sorted[found] == wanted, self._order[found], -1).astype(np.int64)


class Standing:
    """The state of every image of a plan, by row: 11 bytes an image.

    Parameters
    ----------
    n_images : int
        Images of the plan.

    Attributes
    ----------
    state : ndarray of uint8, shape (N,)
        `WAITING`, `DONE`, `FAILED` or `QUARANTINED`.
    tries : ndarray of uint16, shape (N,)
        How often the image failed since it was last done.
    places : ndarray of int64, shape (N,)
        Where in the ledger its last event is; -1 for none.
    """

    def __init__(self, n_images: int) -> None:
        self.state = np.zeros(n_images, dtype=np.uint8)
        self.tries = np.zeros(n_images, dtype=np.uint16)
        self.places = np.full(n_images, -1, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.state)

    def count(self, *states: int) -> int:
        """How many images are in one of some states."""
        return int(np.isin(self.state, states).sum())

    def rows(self, *states: int) -> Rows:
        """Rows of the images in one of some states, ascending."""
        return np.flatnonzero(np.isin(self.state, states)).astype(np.int64)

    def note(self, rows: Iterable[int], summaries: Iterable[ImageSummary], places: Iterable[int]) -> None:
        """Take in what became of some images, and where in the ledger that stands."""
        for row, summary, place in zip(rows, summaries, places, strict=True):
            self.note_event(row, ImageEvent.of(summary), place)

    def note_event(self, row: int, event: ImageEvent | ImageReopened, place: int) -> None:
        """Take in an event of the ledger."""
        self.places[row] = place
        self._set(row, state_of(event))

    def note_all(self, rows: Rows, states: NDArray[np.uint8], places: NDArray[np.int64]) -> None:
        """Take in what became of many images, one after the other; a row may be there more than once."""
        if np.any(states != DONE):
            for row, state, place in zip(rows, states, places, strict=True):
                self.places[row] = place
                self._set(row, int(state))
            return
        self.state[rows], self.tries[rows] = DONE, 0
        self.places[rows] = places  # the last counts

    def _set(self, row: int, state: int) -> None:
        self.state[row] = state
        if state == DONE:
            self.tries[row] = 0
        elif state in (FAILED, QUARANTINED):
            self.tries[row] = min(int(self.tries[row]) + 1, 65535)

    def failures(self, ledger: Path, rows: Iterable[int] | None = None) -> Iterator[tuple[int, Failure]]:
        """Rows that failed, ascending, and why (of `rows`, or all)."""
        wanted = self.rows(FAILED, QUARANTINED) if rows is None else rows
        for row in wanted:
            place = int(self.places[row])
            event = next(read_events(ledger, place), (place, None))[1] if place >= 0 else None
            if isinstance(event, ImageEvent) and event.status == "failed":
                yield int(row), Failure.of(event, int(self.tries[row]))


def stand(
    plan: Plan,
    config: CampaignConfig,
    *,
    redo: bool = False,
    ledger: Ledger | None = None,
) -> Standing:
    """See how every image of a plan stands.

    Parameters
    ----------
    plan : Plan
        The plan.
    config : CampaignConfig
        The campaign as it is now.
    redo : bool
        Whether images that were made from something else are to be made again; without it there is an error.
    ledger : Ledger, optional
        Is told of images that it did not know to be done, or held for done and are not: a driver that died may have
        left records without events, and files get lost. Whoever follows the ledger then counts what a run counts.

    Returns
    -------
    Standing

    Raises
    ------
    CampaignError
        If images were made from what is different now, and `redo` is not asked for.
    """
    layout = Layout(config.output)
    standing = Standing(len(plan))
    now = Now(str(config.survey.root), str(layout.root), digest(config.pixel_settings()), PIXEL_VERSION)
    doubtful = _read_ledger(standing, plan, layout, now)
    claimed = standing.state == DONE
    with ThreadPoolExecutor(max_workers=_LOOKERS) as pool:
        rows = _with_records(plan, layout, standing, doubtful)
        _look(plan, rows, config, standing, pool, redo=redo, ledger=ledger)
    if ledger is not None:
        _reopen(plan, np.flatnonzero(claimed & (standing.state != DONE)), standing, ledger)
    return standing


def reopen(plan: Plan, layout: Layout, standing: Standing, ledger: Ledger, image_ids: Sequence[str]) -> None:
    """Have images that turned out to be damaged made again: without their records they are not done."""
    rows = np.unique(Names(plan).rows_of(image_ids))
    rows = rows[rows >= 0]
    for image in plan.images(rows):
        remove_record(layout.record(image.tract, image.patch, image.stem))
    standing.state[rows] = WAITING
    _reopen(plan, rows, standing, ledger)


def _reopen(plan: Plan, rows: Rows, standing: Standing, ledger: Ledger) -> None:
    """Tell the ledger of images that it holds for done and that are not."""
    for some in itertools.batched(zip(rows.tolist(), plan.images(rows), strict=True), _BLOCK):
        places = ledger.append([ImageReopened(image.image_id) for _, image in some])
        standing.places[[row for row, _ in some]] = places


def recorded(plan: Plan, layout: Layout) -> tuple[Standing, Rows]:
    """How the images of a plan stand by what is there at a glance.

    Returns
    -------
    standing : Standing
        Done is what has a record.
    lost : ndarray of int64
        Rows of the images that the ledger holds for done and that have none.
    """
    standing = Standing(len(plan))
    _read_ledger(standing, plan, layout)
    claimed = standing.state == DONE
    rows = _with_records(plan, layout, standing, np.zeros(len(plan), dtype=np.bool_))
    standing.state[rows] = DONE
    return standing, np.flatnonzero(claimed & (standing.state != DONE)).astype(np.int64)


def present(plan: Plan, layout: Layout) -> tuple[Standing, Rows]:
    """How the images of a plan stand by their records and a look at their outputs, whatever they were made from.

    Returns
    -------
    standing : Standing
        Done is what has a record, and whose outputs have the sizes and times of last change that the ledger tells.
    damaged : ndarray of int64
        Rows of the images that the ledger holds for done, and of which something is gone, of another size or changed.
    """
    standing = Standing(len(plan))
    doubtful = _read_ledger(standing, plan, layout, Now(output=str(layout.root), outputs_only=True))
    claimed = standing.state == DONE
    rows = _with_records(plan, layout, standing, doubtful)
    standing.state[rows] = DONE
    suspects = rows[claimed[rows]]
    for row, image in zip(suspects.tolist(), plan.images(suspects), strict=True):
        path = layout.record(image.tract, image.patch, image.stem)
        record = read_record(path, image.image_id)
        known = _last_event(layout, standing, row)
        if record is None or not is_whole(record, layout) or not is_untouched(record, path, layout, known):
            standing.state[row] = WAITING
    return standing, np.flatnonzero(claimed & (standing.state != DONE)).astype(np.int64)


def _last_event(layout: Layout, standing: Standing, row: int) -> Event | None:
    """The last event of the ledger on an image; None where there is none."""
    place = int(standing.places[row])
    return next(read_events(layout.ledger, place), (place, None))[1] if place >= 0 else None


def _read_ledger(standing: Standing, plan: Plan, layout: Layout, now: Now | None = None) -> NDArray[np.bool_]:
    """Go through the ledger; returns which images it holds for done that do not look like it, if that is looked at."""
    doubtful = np.zeros(len(standing), dtype=np.bool_)
    names: Names | None = None
    for claim in claims(layout.ledger, now):
        # Made when the first claims are there: by then other processes are at work on the next.
        names = names or Names(plan)
        rows = names.rows_of(claim.image_ids)
        known = rows >= 0
        rows = rows[known]
        standing.note_all(rows, claim.states[known], claim.places[known])
        doubtful[rows] = ~claim.agrees[known]
        if now is None or not now.outputs_only:
            doubtful[rows] |= names.sources[rows] != claim.sources[known]
    return doubtful


def _with_records(plan: Plan, layout: Layout, standing: Standing, doubtful: NDArray[np.bool_]) -> Rows:
    """Find which images have a record; those done without one are not done. Returns the rows whose record decides."""
    start = 0
    home, names = None, frozenset[str]()
    rows = []
    for batch in plan.batches(["tract", "patch", "stem"]):
        columns = [batch.column(name).to_pylist() for name in ("tract", "patch", "stem")]
        states = standing.state[start : start + batch.num_rows].tolist()
        doubts = doubtful[start : start + batch.num_rows].tolist()
        for i, (tract, patch, stem) in enumerate(zip(*columns, strict=True)):
            if (tract, patch) != home:
                home, names = (tract, patch), file_names(f"{layout.records}/tract={tract}/patch={patch}")
            recorded = stem + RECORD_SUFFIX in names
            if states[i] == DONE and not doubts[i] and recorded and stem + TRUTH_SUFFIX in names:
                continue
            if states[i] == DONE:
                standing.state[start + i] = WAITING
            if recorded:
                rows.append(start + i)
        start += batch.num_rows
    return np.array(rows, dtype=np.int64)


def _look(
    plan: Plan,
    rows: Rows,
    config: CampaignConfig,
    standing: Standing,
    pool: ThreadPoolExecutor,
    *,
    redo: bool,
    ledger: Ledger | None,
) -> None:
    """Open the records of some images and decide; tell the ledger which are done after all."""
    layout, settings, root = Layout(config.output), config.pixel_settings(), config.survey.root

    def look(place: tuple[int, PlannedImage]) -> tuple[ImageSummary | None, list[str]]:
        row, image = place
        path = layout.record(image.tract, image.patch, image.stem)
        record = read_record(path, image.image_id)
        if record is None:
            return None, []
        reasons = changes(record, image, root, settings)
        if reasons or not is_whole(record, layout):
            return None, reasons
        known = _last_event(layout, standing, row)
        # One that was opened again or changed since is read by its task: its checksums decide.
        if isinstance(known, ImageReopened) or not is_untouched(record, path, layout, known):
            return None, []
        return summarise(record, image, layout, status="skipped"), []

    changed: dict[str, list[str]] = {}
    for some in itertools.batched(zip(rows.tolist(), plan.images(rows), strict=True), _BLOCK // 4):
        verdicts = pool.map(look, some)
        accepted: list[tuple[int, ImageSummary]] = []
        for (row, image), (summary, reasons) in zip(some, verdicts, strict=True):
            if summary is not None:
                standing.state[row], standing.tries[row] = DONE, 0
                accepted.append((row, summary))
            elif standing.state[row] == DONE:
                standing.state[row] = WAITING
            if reasons:
                changed[image.image_id] = reasons
        if ledger is not None and accepted:
            standing.places[[row for row, _ in accepted]] = ledger.images(summary for _, summary in accepted)
        if len(changed) >= _CHANGED_MOST and not redo:
            break
    if changed and not redo:
        raise _changed(changed, layout, at_least=len(changed) >= _CHANGED_MOST)


def _changed(changed: Mapping[str, list[str]], layout: Layout, *, at_least: bool) -> CampaignError:
    count = Counter(itertools.chain.from_iterable(changed.values()))
    what = "; ".join(f"{reason} ({n} images)" if n > 1 else reason for reason, n in count.most_common(_CHANGED_SHOWN))
    more = f"; and {len(count) - _CHANGED_SHOWN} more" if len(count) > _CHANGED_SHOWN else ""
    names = ", ".join(list(changed)[:_CHANGED_SHOWN]) + (", ..." if len(changed) > _CHANGED_SHOWN else "")
    number = f"at least {len(changed)}" if at_least else str(len(changed))
    return CampaignError(
        f"{number} images ({names}) were made from something else than what is there now: {what}{more}",
        path=layout.root,
        fix="Put it back, name a new output folder, or make them again with --redo (redo=True)",
    )


def rescan(plan: Plan, config: CampaignConfig) -> int:
    """Make the ledger anew from the records, with what the old one tells of runs and of images without a record.

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
    standing, names = Standing(len(plan)), Names(plan)
    rows = _with_records(plan, layout, standing, np.zeros(len(plan), dtype=np.bool_))
    recorded = np.zeros(len(plan), dtype=np.bool_)

    def read(image: PlannedImage) -> ImageSummary | None:
        record = read_record(layout.record(image.tract, image.patch, image.stem), image.image_id)
        return None if record is None else summarise(record, image, layout, status="done")

    with (
        atomic_path(layout.ledger) as temporary,
        Ledger(temporary) as ledger,
        ThreadPoolExecutor(max_workers=_LOOKERS) as pool,
    ):
        for some in itertools.batched(zip(rows.tolist(), plan.images(rows), strict=True), _BLOCK // 4):
            found = list(pool.map(read, [image for _, image in some]))
            for (row, _), summary in zip(some, found, strict=True):
                recorded[row] = summary is not None
            ledger.images(summary for summary in found if summary is not None)
        for pairs in itertools.batched(read_events(layout.ledger, damaged=True), _BLOCK):
            events = [event for _, event in pairs]
            places = names.rows_of([getattr(event, "image_id", "") for event in events]).tolist()
            ledger.append(
                event
                for row, event in zip(places, events, strict=True)
                if _kept(event, recorded=row >= 0 and bool(recorded[row]))
            )
    return int(recorded.sum())


def _kept(event: Event, *, recorded: bool) -> bool:
    """Whether a ledger that is made anew keeps an event: what tells of runs, and of failures that stand."""
    if isinstance(event, ImageEvent):
        return event.status == "failed" and not recorded
    return not isinstance(event, ImageReopened)
