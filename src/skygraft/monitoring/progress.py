"""How far a campaign is, as numbers: what its page, its JSON route, Prometheus and the terminal show.

The driver counts what it hears of images; nothing else counts. Memory does not grow with the number of images, only
with that of patches, and by some 100 bytes with each image that has failed.
"""

from __future__ import annotations

import heapq
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np

from skygraft.monitoring.gauges import ClosureHistogram, History, HostTable, SlidingSums
from skygraft.monitoring.overview import Overview, PatchCount, make_overview
from skygraft.records.image_summary import ImageSummary

__all__ = ["SNAPSHOT_VERSION", "Overview", "PatchCount", "Progress", "State", "make_overview"]

SNAPSHOT_VERSION = 1
"""Of what `Progress.snapshot` returns: another number means that a key has gone or changed its meaning."""

type State = Literal["running", "finished", "stopped", "crashed"]

_LAST_FAILURES = 50
_SLOWEST = 20
_HOSTS_SHOWN = 50
_KINDS_OF_ERROR = 200
_BANDS = 50
_BAND_ORDER = ("u", "g", "r", "i", "z", "y", "Z", "Y", "J", "H", "Ks")
_TEXT = 500
_WINDOWS = {"1min": 60, "10min": 600}
_CLOSURE_BINS = 40
_CLOSURE_HALF_WIDTHS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)
_USEFUL = ("read", "inject", "write", "checksum")
_ENOUGH_FOR_ETA = 3
# Columns of the sliding sums.
_MADE, _SETTLED, _SOURCES, _BYTES, _COST, _WALL = range(6)


@dataclass(slots=True)
class _Failures:
    """Images whose last attempt failed. Of most of them only class of error and patch are kept."""

    kinds: list[str] = field(default_factory=list)
    current: dict[int, tuple[int, int]] = field(default_factory=dict)
    counts: Counter[int] = field(default_factory=Counter)
    last: dict[str, dict[str, Any]] = field(default_factory=dict)
    n_recovered: int = 0

    def add(self, summary: ImageSummary, patch: int, at: float) -> bool:
        """Whether the image had not failed before in this run."""
        key = hash(summary.image_id)
        before = self.current.pop(key, None)
        if before is not None:
            self.counts[before[0]] -= 1
        kind = self._kind(summary.error or "unknown")
        self.current[key] = (kind, patch)
        self.counts[kind] += 1
        tries = self.last.pop(summary.image_id, {}).get("tries", 0) + 1
        self.last[summary.image_id] = {
            "image": summary.image_id,
            "error": summary.error,
            "message": summary.message[:_TEXT],
            "where": summary.where,
            "host": summary.host,
            "tract": summary.tract,
            "patch": summary.patch,
            "time": _iso(at),
            "tries": tries,
            "quarantined": summary.quarantined,
        }
        if len(self.last) > _LAST_FAILURES:
            del self.last[next(iter(self.last))]
        return before is None

    def discard(self, image_id: str) -> tuple[int, int] | None:
        """Forget that an image failed: it is done now."""
        before = self.current.pop(hash(image_id), None)
        if before is not None:
            self.counts[before[0]] -= 1
            self.last.pop(image_id, None)
            self.n_recovered += 1
        return before

    def _kind(self, error: str) -> int:
        if error not in self.kinds:
            if len(self.kinds) >= _KINDS_OF_ERROR:
                error = "others"
            if error not in self.kinds:
                self.kinds.append(error)
        return self.kinds.index(error)

    def by_error(self) -> dict[str, int]:
        return {self.kinds[kind]: n for kind, n in self.counts.most_common() if n > 0}


class Progress:
    """Counts what becomes of a campaign's images during one run.

    Parameters
    ----------
    overview : Overview
        What the run begins with.
    now : callable
        The time, seconds since 1970.

    Notes
    -----
    Not safe to be used by several threads at once.
    """

    def __init__(self, overview: Overview, now: Callable[[], float] = time.time) -> None:
        self.overview = overview
        self.state: State = "running"
        self._now = now
        self._started = self._last_add = now()
        self._n_done, self._n_failed = overview.n_done, overview.n_failed
        self._n_made = self._n_skipped = self._n_sources = self._n_bytes = self._n_settled = 0
        self._wall_seconds = self._settled_cost = 0.0
        self._stages: dict[str, float] = {}
        self._sums = SlidingSums(self._started, 6, seconds=max(_WINDOWS.values()))
        self._history = History(self._started)
        self._history.add(self._started, (self._n_done, self._n_failed))
        self._hosts = HostTable(self._started)
        self._failures = _Failures()
        self._closure: dict[str, ClosureHistogram] = {}
        self._slowest: list[tuple[float, int, dict[str, Any]]] = []
        self._n_heard = 0
        self._index = {(p.tract, p.patch): i for i, p in enumerate(overview.patches)}
        self._patch_done = np.array([p.n_done for p in overview.patches], dtype=np.int64)
        self._patch_failed = np.array([p.n_failed for p in overview.patches], dtype=np.int64)
        self._changed: set[int] = set()
        self._cost = [p.cost_seconds / max(1, p.n_images) for p in overview.patches]

    # -- hearing

    def add(self, summaries: Iterable[ImageSummary], at: float | None = None) -> None:
        """Count images.

        Parameters
        ----------
        summaries : iterable of ImageSummary
            What became of them: each image once, except that one that failed may come again.
        at : float, optional
            When that was, seconds since 1970; now by default.
        """
        at = self._now() if at is None else at
        self._last_add = max(at, self._last_add)
        for summary in summaries:
            self._n_heard += 1
            self._add_one(summary, at)
        self._history.add(at, (self._n_done, self._n_failed))

    def reopen(self, tract: int, patch: int, *, done: bool) -> None:
        """An image that the overview counted as done (or else as failed) is tried again after all."""
        self._n_done -= done
        self._n_failed -= not done
        index = self._index.get((tract, patch), -1)
        if index >= 0:
            (self._patch_done if done else self._patch_failed)[index] -= 1
            self._changed.add(index)

    def end(self, state: State | None = None) -> None:
        """The run is over: by default ``finished``, or ``stopped`` where images are left."""
        self.state = state or ("stopped" if self.n_left else "finished")
        self._history.add(self._now(), (self._n_done, self._n_failed))

    @property
    def n_left(self) -> int:
        """Images of which nothing has been heard in this run, and that were not done before."""
        return self.overview.n_images - self._n_done - self._n_failed

    def _add_one(self, summary: ImageSummary, at: float) -> None:
        patch = self._index.get((summary.tract, summary.patch), -1)
        cost = self._cost[patch] if patch >= 0 else 0.0
        failed, settled = summary.status == "failed", True
        if failed:
            settled = self._failures.add(summary, patch, at)
            self._n_failed += settled
        else:
            before = self._failures.discard(summary.image_id)
            self._n_failed -= before is not None
            settled = before is None
            self._n_done += 1
            self._n_skipped += summary.status == "skipped"
        if patch >= 0:
            if failed:
                self._patch_failed[patch] += settled
            else:
                self._patch_done[patch] += 1
                self._patch_failed[patch] -= not settled
            self._changed.add(patch)
        self._n_settled += settled
        self._settled_cost += cost * settled
        if summary.status == "skipped":
            self._sums.add(at, (0, settled, 0, 0, cost * settled, 0))
            return
        made, sources, written = int(not failed), int(summary.n_sources), int(summary.n_bytes)
        self._n_made += made
        self._n_sources += sources
        self._n_bytes += written
        self._wall_seconds += summary.wall_seconds
        self._sums.add(at, (made, settled, sources, written, cost * settled, summary.wall_seconds))
        for stage, seconds in summary.stages.items():
            self._stages[stage] = self._stages.get(stage, 0.0) + seconds
        self._hosts.add(
            at, summary.host or "(unknown)", failed=failed, wall_seconds=summary.wall_seconds, n_sources=sources
        )
        if summary.closure_mag is not None and not failed:
            self._closure_of(summary.band).add(summary.closure_mag)
        self._keep_slowest(summary)

    def _closure_of(self, band: str) -> ClosureHistogram:
        band = band or "(no band)"
        if band not in self._closure:
            band = band if len(self._closure) < _BANDS else "(others)"
            self._closure.setdefault(band, ClosureHistogram())
        return self._closure[band]

    def _keep_slowest(self, summary: ImageSummary) -> None:
        if len(self._slowest) >= _SLOWEST and summary.wall_seconds <= self._slowest[0][0]:
            return
        row = {
            "image": summary.image_id,
            "status": summary.status,
            "wall_seconds": summary.wall_seconds,
            "n_sources": summary.n_sources,
            "tract": summary.tract,
            "patch": summary.patch,
            "host": summary.host,
            "stages": dict(summary.stages),
        }
        keep = heapq.heappush if len(self._slowest) < _SLOWEST else heapq.heapreplace
        keep(self._slowest, (summary.wall_seconds, self._n_heard, row))

    # -- telling

    def patches(self) -> dict[str, list[Any]]:
        """Every patch, as columns of equal length, in the order of the overview.

        Returns
        -------
        dict
            ``tract``, ``patch``, ``ra``, ``dec`` (deg), ``n_images``, ``n_done``, ``n_failed``.
        """
        columns: dict[str, list[Any]] = {
            name: [getattr(patch, name) for patch in self.overview.patches]
            for name in ("tract", "patch", "ra", "dec", "n_images")
        }
        return columns | {"n_done": self._patch_done.tolist(), "n_failed": self._patch_failed.tolist()}

    def changed_patches(self) -> dict[str, list[int]]:
        """Patches that changed since this was last asked for: ``index``, ``n_done``, ``n_failed``."""
        index = sorted(self._changed)
        self._changed.clear()
        return {
            "index": index,
            "n_done": self._patch_done[index].tolist(),
            "n_failed": self._patch_failed[index].tolist(),
        }

    def snapshot(self) -> dict[str, Any]:
        """Everything but the patches, as JSON types.

        Returns
        -------
        dict
            ``version`` : `SNAPSHOT_VERSION`.
            ``campaign``, ``output``, ``state`` (running, finished, stopped, crashed), ``started``, ``updated`` (ISO
            8601, UTC), ``elapsed_seconds``, ``seconds_since_last_image``.
            ``images`` : ``total``, ``done``, ``failed`` (last attempt failed), ``left``, ``unusable`` (not planned),
            and of this run ``made``, ``skipped`` (found done by a worker), ``recovered`` (failed, then made).
            ``sources`` : ``planned`` in the whole plan, ``drawn`` in this run. ``bytes_written`` in this run.
            ``rates`` : under ``1min``, ``10min`` and ``run`` the means of ``images_per_second`` (made),
            ``sources_per_second``, ``bytes_per_second``, ``busy_workers`` (wall time of images per second).
            ``eta`` : ``seconds``, ``low_seconds``, ``high_seconds`` until no image is left, ``time`` (ISO 8601, UTC);
            null while too little is known, see `Notes`.
            ``failures`` : ``by_error`` (class to number of images), ``last`` (at most 50, the newest first: ``image``,
            ``error``, ``message``, ``where``, ``host``, ``tract``, ``patch``, ``time``, ``tries``, ``quarantined``).
            ``hosts`` : at most 50, most failed attempts first, and ``n_hosts``.
            ``closure`` : ``half_width_mmag`` of ``n_bins`` bins about zero, and ``bands``: for each ``n``,
            ``median_mmag``, ``sigma_mmag`` (robust), ``counts``, ``n_below``, ``n_above``.
            ``slowest`` : at most 20 images, the slowest first, with ``stages`` (s).
            ``stages`` : ``seconds`` by stage, the rest of the images' time as ``other``; ``share`` of the whole;
            ``inject_io_share`` that of reading, injecting, writing and checksums, null before there is any.
            ``history`` : ``seconds`` since the start, ``done``, ``failed``.
            ``n_patches``, ``n_patches_done`` (no image left or failed).

        Notes
        -----
        Time left is estimated from the estimated cost of the images left and the cost finished per second in the last
        ten minutes. Its interval spans what the images' number and the whole run say in place of the cost and the last
        ten minutes, and is widened by ``1 / sqrt(n)`` of the `n` images that were finished in those.
        """
        at = self._now()
        counts = self.overview
        n_patch = np.array([patch.n_images for patch in counts.patches], dtype=np.int64)
        return {
            "version": SNAPSHOT_VERSION,
            "campaign": counts.name,
            "output": counts.output,
            "state": self.state,
            "started": _iso(self._started),
            "updated": _iso(at),
            "elapsed_seconds": round(at - self._started, 2),
            "seconds_since_last_image": round(at - self._last_add, 2) if self._n_heard else None,
            "images": {
                "total": counts.n_images,
                "done": self._n_done,
                "failed": self._n_failed,
                "left": self.n_left,
                "unusable": counts.n_unusable,
                "made": self._n_made,
                "skipped": self._n_skipped,
                "recovered": self._failures.n_recovered,
            },
            "sources": {"planned": counts.n_sources_planned, "drawn": self._n_sources},
            "bytes_written": self._n_bytes,
            "rates": self._rates(at),
            "eta": self._eta(at),
            "failures": {"by_error": self._failures.by_error(), "last": [*self._failures.last.values()][::-1]},
            "hosts": self._hosts.rows(at, _HOSTS_SHOWN),
            "n_hosts": len(self._hosts),
            "closure": self._closure_content(),
            "slowest": [row for _, _, row in sorted(self._slowest, key=lambda item: (-item[0], item[1]))],
            "stages": self._stage_content(),
            "history": self._history_content(),
            "n_patches": len(n_patch),
            "n_patches_done": int(np.count_nonzero(self._patch_done >= n_patch)),
        }

    def _rates(self, at: float) -> dict[str, dict[str, float]]:
        rates = {name: self._sums.rates(at, seconds) for name, seconds in _WINDOWS.items()}
        elapsed = max(1.0, at - self._started)
        run = np.array([self._n_made, self._n_settled, self._n_sources, self._n_bytes, 0.0, self._wall_seconds])
        rates["run"] = run / elapsed
        return {
            name: {
                "images_per_second": round(float(rate[_MADE]), 4),
                "sources_per_second": round(float(rate[_SOURCES]), 2),
                "bytes_per_second": round(float(rate[_BYTES]), 1),
                "busy_workers": round(float(rate[_WALL]), 2),
            }
            for name, rate in rates.items()
        }

    def _eta(self, at: float) -> dict[str, Any] | None:
        if self.state != "running":
            return None
        if self.n_left <= 0:
            return {"seconds": 0.0, "low_seconds": 0.0, "high_seconds": 0.0, "time": _iso(at)}
        window = max(_WINDOWS.values())
        sums, span = self._sums.sums(at, window), self._sums.span(at, window)
        n = sums[_SETTLED]
        if n < _ENOUGH_FOR_ETA:
            return None
        elapsed = max(1.0, at - self._started)
        cost_left = self.overview.cost_seconds_left - self._settled_cost
        estimates = [self.n_left * span / n, self.n_left * elapsed / self._n_settled]
        if cost_left > 0 and sums[_COST] > 0:
            estimates = [cost_left * span / sums[_COST], cost_left * elapsed / self._settled_cost, *estimates]
        margin = 1.0 / math.sqrt(n)
        return {
            "seconds": round(float(estimates[0]), 1),
            "low_seconds": round(float(min(estimates) * (1.0 - margin)), 1),
            "high_seconds": round(float(max(estimates) * (1.0 + margin)), 1),
            "time": _iso(at + float(estimates[0])),
        }

    def _closure_content(self) -> dict[str, Any]:
        half = next((h for h in _CLOSURE_HALF_WIDTHS if self._inside(h) >= 0.98), _CLOSURE_HALF_WIDTHS[-1])
        bands = {}
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

    def _inside(self, half_width: float) -> float:
        total = inside = 0
        for histogram in self._closure.values():
            counts, below, above = histogram.counts(half_width, _CLOSURE_BINS)
            inside += sum(counts)
            total += sum(counts) + below + above
        return inside / total if total else 1.0

    def _stage_content(self) -> dict[str, Any]:
        seconds = {name: round(value, 3) for name, value in self._stages.items()}
        other = self._wall_seconds - sum(self._stages.values())
        if other > 0.001 * self._wall_seconds:
            seconds["other"] = round(other, 3)
        total = sum(seconds.values())
        share = {name: round(value / total, 4) for name, value in seconds.items()} if total > 0 else {}
        useful = round(sum(share.get(name, 0.0) for name in _USEFUL), 4) if share else None
        return {"seconds": seconds, "share": share, "inject_io_share": useful}

    def _history_content(self) -> dict[str, Sequence[float]]:
        points = [*self._history.points(), (self._now() - self._started, (self._n_done, self._n_failed))]
        return {
            "seconds": [round(seconds, 1) for seconds, _ in points],
            "done": [counts[0] for _, counts in points],
            "failed": [counts[1] for _, counts in points],
        }


def _band_order(band: str) -> tuple[int, str]:
    """The usual bands by wavelength, then the others by name."""
    return (_BAND_ORDER.index(band) if band in _BAND_ORDER else len(_BAND_ORDER)), band


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")
