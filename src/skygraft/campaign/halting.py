"""What stops the workers when a run ends early: after it was heard, no task of the run begins, and none is half done.

Cancelling alone would not do: while it travels, a worker may begin and end several short tasks, whose images would be
there and be noted nowhere. Nothing is imported here, since each worker imports it before its first task.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["halt", "unless_halted"]

_halted: set[str] = set()
"""Names of the runs that have ended, in this process."""


def unless_halted(rows: Sequence[int], *, run: str, work: Callable[..., list[Any]], **arguments: Any) -> list[Any]:
    """On a worker: do the work, or nothing where the run has been halted here.

    Parameters
    ----------
    rows : sequence of int
        The task.
    run : str
        Name of the run.
    work : callable
        Called as ``work(rows, **arguments)``.

    Returns
    -------
    list
        What the work gives; empty where it was not begun.
    """
    return [] if run in _halted else work(rows, **arguments)


def halt(*, run: str, dask_worker: Any) -> list[str]:
    """On a worker, in its event loop: let no task of a run begin here from now on.

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
