"""The queue that cuts images into tasks: each some images of neighbouring home patches, about a minute of work."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

import numpy as np

from skygraft.execution.jobs import Jobs
from skygraft.records.image_summary import ImageSummary

__all__ = ["TaskQueue"]

_MEMORY = 0.98
"""Weight of all earlier images relative to the newest: about the last fifty count."""


class TaskQueue:
    """The images that wait, handed out as tasks: each some rows of the plan.

    A task takes `task_seconds`, or a fair share of what is left, so that tasks get shorter towards the end and workers
    finish together. It ends at the border of a home patch where that does not make it much shorter, because images of
    one home patch read the same partitions of the catalogue. The estimated times are corrected, for each kind of image,
    by the measured ones.

    Parameters
    ----------
    jobs : Jobs
        The images.
    task_seconds : float
        Duration of a task.
    images_per_task : int
        Largest number of images in a task.
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
        """Recent ratio of measured to estimated time of a kind of image; of all kinds before the first of its kind."""
        for estimated, measured in (
            (self._estimated[kind], self._measured[kind]),
            (self._estimated.sum(), self._measured.sum()),
        ):
            if estimated > 0 and measured > 0:
                return float(measured / estimated)
        return 1.0

    @property
    def seconds_left(self) -> float:
        """Estimated time of all images in the queue, corrected."""
        return float(sum(left * self.correction(kind) for kind, left in enumerate(self._left)))

    def learn(self, task: Sequence[int], summaries: Iterable[ImageSummary]) -> None:
        """Correct the estimates by the measured times of a task."""
        places = np.searchsorted(self._jobs.rows, np.asarray(task, dtype=np.int64))
        for place, summary in zip(places.tolist(), summaries, strict=False):
            if summary.status == "done":
                kind = self._jobs.kinds[place]
                self._estimated[kind] = _MEMORY * self._estimated[kind] + self._jobs.costs[place]
                self._measured[kind] = _MEMORY * self._measured[kind] + summary.wall_seconds

    def put_alone(self, task: Iterable[int]) -> None:
        """Put images back at the front of the queue, each as a task of its own."""
        self._alone.extend(task)

    def take(self, n_slots: int) -> list[int]:
        """The next task, if `n_slots` workers share what is left; empty at the end of the queue."""
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
        """The number of images, at least half of `size`, that end with a home patch; `size` if there is none."""
        if start + size == len(self._jobs.rows):
            return size
        homes = self._jobs.homes[start : start + size + 1]
        ends = np.flatnonzero(homes[1:] != homes[:-1]) + 1
        return int(ends[-1]) if ends.size and 2 * ends[-1] >= size else size
