"""Dask workers that are forked from one process that has imported everything, instead of each importing it again.

A worker that is spawned, Dask's default, takes several seconds of processor time for its imports; one that is forked
takes a tenth of a second. Commands of users spawn theirs, as they do outside of tests.
"""

from __future__ import annotations

import functools


@functools.cache
def fork_workers() -> None:
    """Let nannies of this process fork their workers from a server that has imported what workers need."""
    import dask
    from distributed.utils import get_mp_context

    dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"})
    # The first call sets Dask's own list of modules, which must not replace this one later.
    get_mp_context().set_forkserver_preload(["distributed", "skygraft.execution.task"])


def dask_setup(nanny: object) -> None:
    """Do it in the nannies of ``dask worker --preload-nanny``, before they start their workers."""
    fork_workers()
