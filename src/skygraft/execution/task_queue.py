"""Cut the images that are to be made into tasks: each some images of neighbouring home patches, about a minute long."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

import numpy as np

from skygraft.execution.jobs import Jobs
from skygraft.records.image_summary import ImageSummary

__all__ = ["TaskQueue"]

_MEMORY = 0.98
"""How much of what was learned before an image counts beside it: the last fifty or so decide."""


class TaskQueue:
    """The images that wait, handed out as tasks: each some rows of the plan.

    A task is as long as it should be, or a fair share of what is left: so tasks get shorter towards the end, and
    workers finish together. It ends with a home patch where it can without getting much shorter, since images of one
    home patch read the same parts of the catalogue. Estimates are corrected, for each kind of image, by the times that
    come back.

    Parameters
    ----------
    jobs : Jobs
        The images.
    task_seconds : float
        How long a task should be.
    images_per_task : int
        Its largest number of images.
    """

    def __init__(self, jobs: Jobs, *, task_seconds: float, images_per_task: int) -> None:
        self._jobs = jobs
        self._alone: deque[int] = deque()
        self._next = 0
        self._seconds = task_seconds
        self._most = images_per_task
        n_kinds = int(jobs.kinds.max(initial=0)) + 1
        self._left = np.bincount(jobs.kinds, weights=jobs.costs, minlength=n_kinds)
        self._estimated, self._measured = np.zeros(n_kinds), np.zeros(n_kinds)

    def __len__(self) -> int:
        return len(self._jobs.rows) - self._next + len(self._alone)

    def correction(self, kind: int = 0) -> float:
        """Measured over estimated time of a kind of image, lately; that of all kinds where there is none yet."""
        for estimated, measured in (
            (self._estimated[kind], self._measured[kind]),
            (self._estimated.sum(), self._measured.sum()),
        ):
            if estimated > 0 and measured > 0:
                return float(measured / estimated)
        return 1.0

    @property
    def seconds_left(self) -> float:
        """Estimated time of all that waits, corrected."""
        return float(sum(left * self.correction(kind) for kind, left in enumerate(self._left)))

    def learn(self, task: Sequence[int], summaries: Iterable[ImageSummary]) -> None:
        """Take in how long the images of a task really took."""
        places = np.searchsorted(self._jobs.rows, np.asarray(task, dtype=np.int64))
        for place, summary in zip(places.tolist(), summaries, strict=False):
            if summary.status == "done":
                kind = self._jobs.kinds[place]
                self._estimated[kind] = _MEMORY * self._estimated[kind] + self._jobs.costs[place]
                self._measured[kind] = _MEMORY * self._measured[kind] + summary.wall_seconds

    def put_alone(self, task: Iterable[int]) -> None:
        """Put images back, each to be a task of its own, before all others."""
        self._alone.extend(task)

    def take(self, n_slots: int) -> list[int]:
        """The next task, for `n_slots` workers that share what is left; empty where nothing is left."""
        if self._alone:
            return [self._alone.popleft()]
        start = self._next
        if start == len(self._jobs.rows):
            return []
        kind = int(self._jobs.kinds[start])
        fair = self.seconds_left / (3 * max(1, n_slots))
        longest = min(self._seconds, fair) / self.correction(kind)
        end = min(len(self._jobs.rows), start + self._most)
        fits = self._jobs.kinds[start:end] == kind
        fits &= np.cumsum(self._jobs.costs[start:end], dtype=np.float64) <= longest
        fits[0] = True
        size = len(fits) if fits.all() else int(np.argmin(fits))
        size = self._whole_homes(start, size)
        self._next = start + size
        self._left[kind] = max(0.0, self._left[kind] - float(self._jobs.costs[start : start + size].sum()))
        return [int(row) for row in self._jobs.rows[start : start + size]]

    def _whole_homes(self, start: int, size: int) -> int:
        """How many of `size` images to take so that no home patch is cut, if that leaves at least half of them."""
        if start + size == len(self._jobs.rows):
            return size
        homes = self._jobs.homes[start : start + size + 1]
        ends = np.flatnonzero(homes[1:] != homes[:-1]) + 1
        return int(ends[-1]) if ends.size and 2 * ends[-1] >= size else size
