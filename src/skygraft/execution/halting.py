"""What stops the workers when a run ends early: from then on none of its images is begun, and none is left half done.

Cancelling alone would not do: while it travels, a worker may begin and end several short tasks, whose images would be
there and be noted nowhere; and a task that was begun would make all its images, which may take a minute. Nothing is
imported here, since each worker imports it before its first task.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["halt", "unless_halted"]

_halted: set[str] = set()
"""Names of the runs that have ended, in this process."""


def unless_halted(rows: Sequence[int], *, run: str, work: Callable[..., list[Any]], **arguments: Any) -> list[Any]:
    """On a worker: do the work image by image, until the run is halted here.

    Parameters
    ----------
    rows : sequence of int
        The task.
    run : str
        Name of the run.
    work : callable
        Called for each image as ``work([row], **arguments)``; gives a list.

    Returns
    -------
    list
        What the work gave, for the first images of the task: all of them where the run was not halted.
    """
    made: list[Any] = []
    for row in rows:
        if run in _halted:
            break
        made += work([row], **arguments)
    return made


def halt(*, run: str, dask_worker: Any) -> list[str]:
    """On a worker, in its event loop: let no image of a run be begun here from now on.

    Parameters
    ----------
    run : str
        Name of the run.
    dask_worker : distributed.Worker
        The worker.

    Returns
    -------
    list of str
        Keys of the tasks, of any run, that were begun before.
    """
    _halted.add(run)
    begun = ("executing", "long-running", "memory", "error")
    return [str(task.key) for task in dask_worker.state.tasks.values() if task.state in begun]
