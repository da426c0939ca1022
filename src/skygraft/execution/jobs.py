"""The images that a run is to inject, and the result of driving them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from skygraft.records.image_summary import ImageSummary

__all__ = ["DriveResult", "Jobs"]

_UNWRITTEN_ALLOWED = 20
_PATCH_SECONDS, _PATCHES_PER_TASK = 0.05, 8
"""Time to make the tables of a patch, and the number of patches in a task."""


@dataclass(frozen=True)
class Jobs:
    """The images that a run is to make, in the order of the plan: by home patch.

    Parameters
    ----------
    rows : ndarray of int, shape (N,)
        Rows of the plan, ascending.
    homes : ndarray of int, shape (N,)
        A number for the home patch of each.
    costs : ndarray of float, shape (N,)
        Estimated time of each, seconds.
    kinds : ndarray of int, shape (N,)
        A number for the kind of each (format, instrument): estimates of one kind are off by the same factor.
    """

    rows: np.ndarray[Any, Any]
    homes: np.ndarray[Any, Any]
    costs: np.ndarray[Any, Any]
    kinds: np.ndarray[Any, Any]

    def __len__(self) -> int:
        return len(self.rows)

    def only(self, rows: Iterable[int]) -> Jobs:
        """Those of some rows."""
        chosen = np.isin(self.rows, np.fromiter(rows, dtype=np.int64))
        return Jobs(self.rows[chosen], self.homes[chosen], self.costs[chosen], self.kinds[chosen])

    def useful_workers(self, worth: float, *, n_patches: int = 0) -> int:
        """How many workers there is work for: no more than tasks, and each with enough work to be worth starting.

        Parameters
        ----------
        worth : float
            Seconds of work for which a worker is worth starting.
        n_patches : int
            Patches whose tables are made after the images.
        """
        seconds = float(self.costs.sum(dtype=np.float64)) + _PATCH_SECONDS * n_patches
        tasks = len(self) + math.ceil(n_patches / _PATCHES_PER_TASK)
        return max(1, min(tasks, math.ceil(seconds / worth)))


@dataclass
class DriveResult:
    """The result of handing images to workers.

    Parameters
    ----------
    n_done, n_skipped : int
        Images injected, and found done already.
    n_drawn : int
        Sources drawn.
    failed : dict of int to bool
        Rows of the images that did not succeed, and whether trying again could help.
    interrupted : int
        Number of the signal that ended it early; 0 for none.
    stopped : str
        Another reason for which it was ended early; empty if there is none.
    """

    n_done: int = 0
    n_skipped: int = 0
    n_drawn: int = 0
    failed: dict[int, bool] = field(default_factory=dict)
    interrupted: int = 0
    stopped: str = ""
    _unwritten: int = 0

    @property
    def early(self) -> bool:
        """Whether the run was ended early."""
        return bool(self.interrupted or self.stopped)

    def add(self, rows: Iterable[int], summaries: Iterable[ImageSummary]) -> None:
        """Count some images."""
        for row, summary in zip(rows, summaries, strict=True):
            if summary.status == "failed":
                self.failed[row] = summary.may_pass
                self._count_unwritten(summary)
                continue
            self._unwritten = 0
            self.failed.pop(row, None)
            self.n_done += summary.status == "done"
            self.n_skipped += summary.status == "skipped"
            self.n_drawn += summary.n_sources

    def _count_unwritten(self, summary: ImageSummary) -> None:
        # A full or vanished disk: no use spoiling a million images on it.
        self._unwritten = self._unwritten + 1 if summary.error == "OutputError" else 0
        if self._unwritten >= _UNWRITTEN_ALLOWED and not self.stopped:
            self.stopped = f"{self._unwritten} outputs in a row could not be written; the last: {summary.message}"
