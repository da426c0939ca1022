"""Count what becomes of a campaign's images during a run; everything that shows progress reads these counts."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

import numpy as np

from skygraft.monitoring import snapshot as form
from skygraft.monitoring.counters import ClosureHistogram, History, HostTable, RecentSums
from skygraft.monitoring.overview import Overview
from skygraft.records.image_summary import ImageSummary

__all__ = ["Progress", "State"]

type State = Literal["running", "finished", "stopped", "crashed"]

_LAST_FAILURES = 50
_SLOWEST = 20
_HOSTS_SHOWN = 50
_BANDS = 50
_BAND_ORDER = ("u", "g", "r", "i", "z", "y", "Z", "Y", "J", "H", "Ks")
_MESSAGE_LENGTH = 500
_WINDOWS = {"1min": 60, "10min": 600}
_LONGEST_WINDOW = 600
_CLOSURE_BINS = 40
_CLOSURE_HALF_WIDTHS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)
_USEFUL = ("read", "inject", "write", "checksum")
_ENOUGH_FOR_ETA = 3
# Quantities of the sums. An image is finished when it is done or has failed, however often it is tried.
_MADE, _SKIPPED, _FINISHED, _SOURCES, _BYTES, _COST, _WALL = range(7)


@dataclass(slots=True)
class _Failures:
    """Images whose last attempt failed: the class of error of each, and the details of the last ones."""

    error_of: dict[str, str] = field(default_factory=dict)
    last: dict[str, form.Failure] = field(default_factory=dict)
    n_recovered: int = 0

    def add(self, summary: ImageSummary, at: float) -> bool:
        """Note a failure; returns whether it is the image's first in this run, or since it was last done."""
        is_first = summary.image_id not in self.error_of
        self.error_of[summary.image_id] = summary.error or "unknown"
        known = self.last.pop(summary.image_id, None)
        self.last[summary.image_id] = {
            "image": summary.image_id,
            "error": summary.error,
            "message": summary.message[:_MESSAGE_LENGTH],
            "where": summary.where,
            "host": summary.host,
            "tract": summary.tract,
            "patch": summary.patch,
            "time": _iso(at),
            "tries": known["tries"] + 1 if known else 1,
            "quarantined": summary.quarantined,
        }
        if len(self.last) > _LAST_FAILURES:
            del self.last[next(iter(self.last))]
        return is_first

    def discard(self, image_id: str) -> bool:
        """Forget the failure of an image that is done now; returns whether there was one."""
        if self.error_of.pop(image_id, None) is None:
            return False
        self.last.pop(image_id, None)
        self.n_recovered += 1
        return True


class Progress:
    """Counts of what becomes of a campaign's images during one run, from the state that the run begins with.

    Not safe to be used by several threads at once.
    """

    def __init__(self, overview: Overview, now: Callable[[], float] = time.time) -> None:
        self.overview, self.patches = overview, overview.patches.copy()
        self.state: State = "running"
        # Images of the plan, those that are done, and those whose last attempt failed.
        self.n_images, self.n_done, self.n_failed = overview.n_images, overview.n_done, overview.n_failed
        self._now, self._started = now, now()
        self._last_add: float | None = None
        self._sums = RecentSums(self._started, 7, n_bins=_LONGEST_WINDOW)
        self._stages: dict[str, float] = {}
        self._history = History(self._started)
        self._history.add(self._started, (self.n_done, self.n_failed))
        self._hosts = HostTable(self._started)
        self._failures = _Failures()
        self._closure: dict[str, ClosureHistogram] = {}
        self._slowest: list[form.SlowImage] = []
        homes = zip(self.patches.tract.tolist(), self.patches.patch.tolist(), strict=True)
        self._row_of = {home: row for row, home in enumerate(homes)}

    # -- counting

    def add(self, summaries: Iterable[ImageSummary], at: float | None = None) -> None:
        """Count images, of now or of a time in seconds since 1970.

        Each comes once, except that one that failed may come again.
        """
        at = self._now() if at is None else at
        for summary in summaries:
            self._last_add = max(at, self._last_add or at)
            self._add_one(summary, at)
        self._history.add(at, (self.n_done, self.n_failed))

    def reopen(self, tract: int, patch: int, *, done: bool) -> None:
        """Count an image as left that the overview counted as done, or else as failed: it is tried again."""
        self._change(self._row_of.get((tract, patch)), done=-int(done), failed=-int(not done))

    def end(self, state: State | None = None) -> None:
        """Note that the run is over: by default ``finished``, or ``stopped`` where images are left."""
        self.state = state or ("stopped" if self.n_left else "finished")
        self._history.add(self._now(), (self.n_done, self.n_failed))

    @property
    def n_left(self) -> int:
        """Images that are neither done nor failed."""
        return self.n_images - self.n_done - self.n_failed

    def _change(self, row: int | None, *, done: int, failed: int) -> None:
        self.n_done += done
        self.n_failed += failed
        if row is not None:
            self.patches.n_done[row] += done
            self.patches.n_failed[row] += failed

    def _add_one(self, summary: ImageSummary, at: float) -> None:
        row = self._row_of.get((summary.tract, summary.patch))
        failed, skipped = summary.status == "failed", summary.status == "skipped"
        if failed:
            finished = self._failures.add(summary, at)
            self._change(row, done=0, failed=int(finished))
        else:
            finished = not self._failures.discard(summary.image_id)
            self._change(row, done=1, failed=-int(not finished))
        cost = float(self.overview.image_cost[row]) if finished and row is not None else 0.0
        if skipped:
            self._sums.add(at, (0, 1, finished, 0, 0, cost, 0))
            return
        sources, wall = int(summary.n_sources), summary.wall_seconds
        self._sums.add(at, (not failed, 0, finished, sources, int(summary.n_bytes), cost, wall))
        for stage, seconds in summary.stages.items():
            self._stages[stage] = self._stages.get(stage, 0.0) + seconds
        self._hosts.add(at, summary.host or "(unknown)", failed=failed, wall_seconds=wall, n_sources=sources)
        if not failed and summary.closure_mag is not None and math.isfinite(summary.closure_mag):
            band = summary.band or "(no band)"
            band = band if band in self._closure or len(self._closure) < _BANDS else "(others)"
            self._closure.setdefault(band, ClosureHistogram()).add(summary.closure_mag)
        self._keep_slowest(summary)

    def _keep_slowest(self, summary: ImageSummary) -> None:
        if len(self._slowest) >= _SLOWEST and summary.wall_seconds <= self._slowest[-1]["wall_seconds"]:
            return
        slow: form.SlowImage = {
            "image": summary.image_id,
            "status": summary.status,
            "wall_seconds": summary.wall_seconds,
            "n_sources": summary.n_sources,
            "tract": summary.tract,
            "patch": summary.patch,
            "host": summary.host,
            "stages": dict(summary.stages),
        }
        self._slowest = sorted([*self._slowest, slow], key=lambda each: -each["wall_seconds"])[:_SLOWEST]

    # -- showing

    def snapshot(self) -> form.Snapshot:
        """Return the present state of the run, all of it but the counts of each patch.

        Notes
        -----
        The time left is estimated from the estimated cost of the images left and the cost finished per second in the
        last ten minutes. Its limits are the extremes of this estimate and those by the number of images in place of
        their cost and by the whole run in place of the last ten minutes, widened by ``1 / sqrt(n)`` of the `n` images
        that were finished in those.
        """
        at = self._now()
        totals = self._sums.totals.tolist()
        points = [*self._history.points(), (at - self._started, (self.n_done, self.n_failed))]
        return {
            "version": form.SNAPSHOT_VERSION,
            "campaign": self.overview.name,
            "output": self.overview.output,
            "state": self.state,
            "phase": "" if self.state != "running" else "images" if self.n_left > 0 else "results",
            "started": _iso(self._started),
            "updated": _iso(at),
            "elapsed_seconds": round(at - self._started, 2),
            "seconds_since_last_image": None if self._last_add is None else round(at - self._last_add, 2),
            "images": {
                "total": self.n_images,
                "done": self.n_done,
                "failed": self.n_failed,
                "left": self.n_left,
                "unusable": self.overview.n_unusable,
                "made": int(totals[_MADE]),
                "skipped": int(totals[_SKIPPED]),
                "recovered": self._failures.n_recovered,
            },
            "sources": {"planned": self.overview.n_sources_planned, "drawn": int(totals[_SOURCES])},
            "bytes_written": int(totals[_BYTES]),
            "rates": self._rates(at),
            "eta": self._eta(at),
            "failures": {
                "by_error": dict(Counter(self._failures.error_of.values()).most_common()),
                "last": [*self._failures.last.values()][::-1],
            },
            "hosts": self._hosts.rows(at, _HOSTS_SHOWN),
            "n_hosts": len(self._hosts),
            "closure": self._closure_snapshot(),
            "slowest": self._slowest,
            "stages": self._stage_times(),
            "history": {
                "seconds": [round(seconds, 1) for seconds, _ in points],
                "done": [done for _, (done, _) in points],
                "failed": [failed for _, (_, failed) in points],
            },
            "n_patches": len(self.patches),
            "n_patches_done": int(np.count_nonzero(self.patches.n_done >= self.patches.n_images)),
        }

    def _rates(self, at: float) -> dict[str, form.Rates]:
        means = {name: self._sums.rates(at, seconds) for name, seconds in _WINDOWS.items()}
        means["run"] = self._sums.totals / max(1.0, at - self._started)
        return {
            name: {
                "images_per_second": round(mean[_MADE], 4),
                "sources_per_second": round(mean[_SOURCES], 2),
                "bytes_per_second": round(mean[_BYTES], 1),
                "busy_workers": round(mean[_WALL], 2),
            }
            for name, mean in ((name, rates.tolist()) for name, rates in means.items())
        }

    def _eta(self, at: float) -> form.Eta | None:
        if self.state != "running":
            return None
        if self.n_left <= 0:
            return {"seconds": 0.0, "low_seconds": 0.0, "high_seconds": 0.0, "time": _iso(at)}
        recent, span = self._sums.sums(at, _LONGEST_WINDOW), self._sums.span(at, _LONGEST_WINDOW)
        if recent[_FINISHED] < _ENOUGH_FOR_ETA:
            return None
        whole, elapsed = self._sums.totals, max(1.0, at - self._started)
        estimates = [self.n_left * span / recent[_FINISHED], self.n_left * elapsed / whole[_FINISHED]]
        cost_left = self.overview.cost_seconds_left - whole[_COST]
        if cost_left > 0 and recent[_COST] > 0:
            estimates = [cost_left * span / recent[_COST], cost_left * elapsed / whole[_COST], *estimates]
        margin = 1.0 / math.sqrt(recent[_FINISHED])
        return {
            "seconds": round(float(estimates[0]), 1),
            "low_seconds": round(float(min(estimates) * (1.0 - margin)), 1),
            "high_seconds": round(float(max(estimates) * (1.0 + margin)), 1),
            "time": _iso(at + float(estimates[0])),
        }

    def _closure_snapshot(self) -> form.Closure:
        most = 0.98 * sum(histogram.n for histogram in self._closure.values())
        half = next((h for h in _CLOSURE_HALF_WIDTHS if self._n_inside(h) >= most), _CLOSURE_HALF_WIDTHS[-1])
        bands: dict[str, form.BandClosure] = {}
        for band, histogram in sorted(self._closure.items(), key=lambda item: _band_order(item[0])):
            median, sigma = histogram.median_sigma()
            counts, below, above = histogram.counts(half, _CLOSURE_BINS)
            bands[band] = {
                "n": histogram.n,
                "median_mmag": round(median, 3),
                "sigma_mmag": round(sigma, 3),
                "counts": counts,
                "n_below": below,
                "n_above": above,
            }
        return {"half_width_mmag": half, "n_bins": _CLOSURE_BINS, "bands": bands}

    def _n_inside(self, half_width: float) -> int:
        """Return the number of closure residuals between minus and plus this, mmag."""
        return sum(sum(histogram.counts(half_width, _CLOSURE_BINS)[0]) for histogram in self._closure.values())

    def _stage_times(self) -> form.Stages:
        seconds = {name: round(value, 3) for name, value in self._stages.items()}
        wall = float(self._sums.totals[_WALL])
        other = wall - sum(self._stages.values())
        if other > 0.001 * wall:
            seconds["other"] = round(other, 3)
        total = sum(seconds.values())
        share = {name: round(value / total, 4) for name, value in seconds.items()} if total > 0 else {}
        useful = round(sum(share.get(name, 0.0) for name in _USEFUL), 4) if share else None
        return {"seconds": seconds, "share": share, "inject_io_share": useful}


def _band_order(band: str) -> tuple[int, str]:
    """Sort the usual bands by wavelength, then the others by name."""
    return (_BAND_ORDER.index(band) if band in _BAND_ORDER else len(_BAND_ORDER)), band


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")
