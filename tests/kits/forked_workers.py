"""Workers and processes that are forked from one that has imported everything, instead of each importing it again.

A worker that is spawned, the default of Dask and of skygraft, takes several seconds of processor time for its imports;
one that is forked takes a tenth of a second. Commands of users spawn theirs, as they do outside of tests.
"""

from __future__ import annotations

import functools
import multiprocessing
from types import SimpleNamespace
from typing import Any


@functools.cache
def fork_workers() -> None:
    """Let nannies of this process fork their workers from a server that has imported what workers need."""
    import dask
    from distributed.utils import get_mp_context

    dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"})
    # The first call sets Dask's own list of modules, which must not replace this one later.
    get_mp_context().set_forkserver_preload(["distributed", "skygraft.execution.task"])


def forking() -> Any:
    """Return what stands for `multiprocessing` in `skygraft.processes`, whose processes it forks."""
    context = multiprocessing.get_context("forkserver")
    # Without effect where the server of Dask's workers runs, which has these or most of them.
    context.set_forkserver_preload(["skygraft.campaign.sweep", "skygraft.qa.verify", "skygraft.recovery.recover"])
    return SimpleNamespace(**vars(multiprocessing) | {"get_context": lambda _: context})


def dask_setup(nanny: object) -> None:
    """Do it in the nannies of ``dask worker --preload-nanny``, before they start their workers."""
    fork_workers()
