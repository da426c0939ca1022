"""Cut the images that are to be made into tasks: each a few images of one home patch, about a minute long."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

from skygraft.campaign.image_summary import ImageSummary
from skygraft.campaign.planned import PlannedImage

__all__ = ["TaskQueue"]


class TaskQueue:
    """Images waiting, handed out as tasks.

    A task ends where the home patch does, where it is as long as it should be, or where it is longer than a fair
    share of what is left: so tasks get shorter towards the end, and workers finish together. Estimates are corrected
    by the times that come back.

    Parameters
    ----------
    images : iterable of PlannedImage
        In the order of the plan: by home patch.
    task_seconds : float
        How long a task should be.
    images_per_task : int
        Its largest number of images.
    """

    def __init__(self, images: Iterable[PlannedImage], *, task_seconds: float, images_per_task: int) -> None:
        self._images = deque(images)
        self._alone: deque[PlannedImage] = deque()
        self._seconds = task_seconds
        self._most = images_per_task
        self._left = sum(image.cost_seconds for image in self._images)
        self._estimated = self._measured = 0.0
        self._cost = {image.image_id: image.cost_seconds for image in self._images}

    def __len__(self) -> int:
        return len(self._images) + len(self._alone)

    @property
    def correction(self) -> float:
        """Measured over estimated time, so far."""
        return self._measured / self._estimated if self._estimated > 0 and self._measured > 0 else 1.0

    def learn(self, summaries: Iterable[ImageSummary]) -> None:
        """Take in how long images really took."""
        for summary in summaries:
            if summary.status == "done":
                self._estimated += self._cost.get(summary.image_id, 0.0)
                self._measured += summary.wall_seconds

    def put_alone(self, images: Sequence[PlannedImage]) -> None:
        """Put images back, each to be a task of its own, before all others."""
        self._alone.extend(images)

    def take(self, n_slots: int) -> list[PlannedImage]:
        """The next task, for `n_slots` workers that share what is left; empty where nothing is left."""
        if self._alone:
            return [self._alone.popleft()]
        task: list[PlannedImage] = []
        longest = min(self._seconds / self.correction, self._left / (3 * max(1, n_slots)))
        cost = 0.0
        while self._images and len(task) < self._most:
            image = self._images[0]
            if task and (
                (image.tract, image.patch) != (task[0].tract, task[0].patch) or cost + image.cost_seconds > longest
            ):
                break
            task.append(self._images.popleft())
            cost += image.cost_seconds
        self._left = max(0.0, self._left - cost)
        return task
