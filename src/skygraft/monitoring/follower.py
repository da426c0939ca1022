"""Follow the progress of a campaign by its ledger, from any machine that sees the output folder.

The driver takes no part in this, and may have died.
"""

from __future__ import annotations

import dataclasses
import itertools
import mmap
import os
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime

import numpy as np

from skygraft.config.campaign import CampaignConfig
from skygraft.disk import FileIdentity
from skygraft.monitoring.overview import Overview, make_overview
from skygraft.monitoring.progress import Progress
from skygraft.monitoring.snapshot import LedgerSnapshot, WatchState
from skygraft.records.events import Event, ImageEvent, ImageReopened, RunEnded, RunStarted, TablesStarted, parse_event
from skygraft.records.files import Layout
from skygraft.records.image_states import DONE, FAILED, QUARANTINED, ImageRows, read_ledger
from skygraft.records.ledger import Phase
from skygraft.records.plan_file import campaign_plan
from skygraft.tables.arrow import numbers

__all__ = ["Follower"]

_RUN_STARTED = f'"event":"{RunStarted.event}"'.encode()
"""The event as `event_line` writes it; within a string the quotes would be escaped."""
_BLOCK = 4000
_SILENCE = 120.0
"""Time without a new event after which a driver whose lock cannot be seen is taken for dead, seconds."""
_COLUMNS = ("tract", "patch", "ra", "dec", "n_sources", "cost_seconds")


class Follower:
    """The progress of a campaign's last run, read from its ledger as it grows.

    `resume` is the command that runs the campaign, for advice; `now` returns the present time, seconds since 1970.
    Without a plan, creating one raises `CampaignError`.
    """

    def __init__(
        self, config: CampaignConfig, *, resume: str = "skygraft run", now: Callable[[], float] = time.time
    ) -> None:
        self.config, self.layout = config, Layout(config.output)
        self._now, self._resume = now, resume
        self._at: float | None = None
        self._ended: RunEnded | None = None
        self._begin()

    def update(self) -> None:
        """Read what has been written since the last time."""
        found = FileIdentity.find(self.layout.ledger)
        if found is not self._file and not (found is not None and found.same_file(self._file)):
            self._begin()  # another ledger, which was rebuilt from the records
        for events in itertools.batched(self._new_events(), _BLOCK):
            if any(isinstance(event, RunStarted) for event in events):
                self._begin()  # the plan may have changed, too
                return
            self._count(events)

    def snapshot(self) -> LedgerSnapshot:
        """Return the progress of the last run, and what to do next."""
        state = self.state
        self._at = None if state in ("running", "not started") else self._last_event
        return {
            **self.progress.snapshot(),
            "state": state,
            "phase": self._phase() if state == "running" else "",
            "driver": self._holder(),
            "advice": self._advice(state),
            "silent_seconds": round(max(0.0, self._now() - self._last_event), 1) if self._last_event else None,
        }

    @property
    def state(self) -> WatchState:
        """Whether the campaign is running, and if not, how its last run ended."""
        # First, because a run that has just begun checks everything before it writes its first event.
        if self.layout.is_locked():
            return "running"
        if not self._started:
            return "not started"
        if self._ended is not None:
            return "stopped" if self._ended.early or self._ended.n_remaining else "finished"
        # A lock is seen by every process of its own machine, but not through every shared file system.
        holder = self._holder()
        is_here = not holder or holder.endswith(f" on {os.uname().nodename}")
        silent = self._now() - self._last_event
        return "running" if not is_here and silent < _SILENCE else "dead"

    def _phase(self) -> Phase:
        if not self._started or self._ended is not None:
            return "starting"
        return "tables" if self._tables else "images"

    def _advice(self, state: WatchState) -> str:
        if state == "dead":
            return f"the driver has died; what is done is kept. Resume with {self._resume}"
        if state == "stopped" and self._ended is not None:
            if not self._ended.early:
                return f"{self._ended.n_remaining} images are left; make them with {self._resume}"
            return (
                f"the run was stopped early ({self._ended.stopped or 'it was interrupted'}); resume with {self._resume}"
            )
        if state == "not started":
            return f"nothing has run yet; start with {self._resume}"
        if state == "finished" and np.isin(self._states.state, (FAILED, QUARANTINED)).any():
            return f"images failed; failures.parquet has all of them. Try again with {self._resume}"
        return ""

    def _holder(self) -> str:
        try:
            return self.layout.lock.read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            return ""

    # -- reading

    def _begin(self) -> None:
        """Read the plan and the whole ledger; of the runs before the last one only what they have done counts."""
        plan = campaign_plan(self.layout.plan)
        start = self._start_of_last_run()
        self._states, self._image_rows = read_ledger(plan, self.layout, until=start).states, ImageRows(plan)
        table = plan.table(_COLUMNS)
        self._columns = {name: numbers(table.column(name)) for name in _COLUMNS}
        self._n_unusable = len(plan.metadata.get("unusable", []))
        self._started, self._ended, self._tables = False, None, False
        self._last_event = 0.0
        self._failed_now: set[int] = set()
        self._at = None
        self._file, self._offset = FileIdentity.find(self.layout.ledger), start
        self.progress = Progress(self._overview(), self._time)
        for events in itertools.batched(self._new_events(), _BLOCK):
            self._count(events)

    def _start_of_last_run(self) -> int:
        """Return the offset in the ledger at which the last run begins; 0 where there is none."""
        path = self.layout.ledger
        if not path.is_file() or path.stat().st_size == 0:
            return 0
        with path.open("rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as content:
            place = content.rfind(_RUN_STARTED)
            return len(content) if place < 0 else content.rfind(b"\n", 0, place) + 1

    def _new_events(self) -> Iterator[Event]:
        """Yield the events of whole lines from where reading stopped; half a line is left for the next call."""
        try:
            handle = self.layout.ledger.open("rb")
        except FileNotFoundError:
            return
        with handle:
            handle.seek(self._offset)
            for line in handle:
                if not line.endswith(b"\n"):
                    return
                self._offset += len(line)
                event = parse_event(line, self.layout.ledger, self._offset - len(line))
                if event is not None:
                    yield event

    def _count(self, events: Sequence[Event]) -> None:
        """Count events of the last run."""
        for event in events:
            self._at = self._last_event = max(self._last_event, _seconds(event))
            if isinstance(event, RunStarted):
                self._started, self._ended, self._tables = True, None, False
                self.progress = Progress(self._overview(), self._time)
            elif isinstance(event, TablesStarted):
                self._tables = True
            elif isinstance(event, RunEnded):
                self._ended = event
                self.progress.end()
        images = [event for event in events if isinstance(event, ImageEvent | ImageReopened)]
        rows = self._image_rows.find([event.image_id for event in images]).tolist()
        for row, event in zip(rows, images, strict=True):
            if row < 0:
                continue  # of no image of the plan
            tract, patch = int(self._columns["tract"][row]), int(self._columns["patch"][row])
            before = self._states.state[row]
            # Progress counts a failure of this run itself. An image that is made again was counted before this run.
            if before in (DONE, FAILED, QUARANTINED) and row not in self._failed_now:
                self.progress.reopen(tract, patch, done=bool(before == DONE))
            self._states.enter(row, event, 0)
            if isinstance(event, ImageReopened):
                continue
            if event.status == "failed":
                self._failed_now.add(row)
            self.progress.add([dataclasses.replace(event, tract=tract, patch=patch)], at=_seconds(event))

    def _time(self) -> float:
        """Return the present time, or the time of the event that is being read."""
        return self._now() if self._at is None else self._at

    def _overview(self) -> Overview:
        state = self._states.state
        return make_overview(
            self.config.name,
            str(self.layout.root),
            **self._columns,
            done=state == DONE,
            failed=np.isin(state, (FAILED, QUARANTINED)),
            n_unusable=self._n_unusable,
        )


def _seconds(event: Event) -> float:
    try:
        return datetime.fromisoformat(event.time).timestamp()
    except ValueError:
        return 0.0
