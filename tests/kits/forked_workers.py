"""Processes that are forked from one that has imported and loaded everything, instead of each doing so again.

A worker that is spawned, the default of Dask and of skygraft, takes several seconds of processor time for its imports
and for compiled code; one that is forked takes a tenth of a second. Commands of users spawn theirs, as they do outside
of tests.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
from multiprocessing.forkserver import ensure_running
from pathlib import Path
from types import SimpleNamespace
from typing import Any

_WARM = "kits.warm_server"


@functools.cache
def server() -> Any:
    """Return the context of `multiprocessing` whose processes are forked from the one server of this process."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([_WARM])
    # Until Python 3.13 the server is not told where this process finds its modules.
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[1]), *([before] if before else [])])
    try:
        ensure_running()
    finally:
        os.environ.pop("PYTHONPATH")
        if before is not None:
            os.environ["PYTHONPATH"] = before
    return context


@functools.cache
def fork_workers() -> None:
    """Let nannies of this process fork their workers from the server."""
    import dask
    from distributed.utils import get_mp_context

    dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"})
    # The first call sets Dask's own list of modules, which must not replace this one later.
    get_mp_context()
    server()


def forking() -> Any:
    """Return what stands for `multiprocessing` in `skygraft.processes`, whose processes it forks."""
    context = server()
    return SimpleNamespace(**vars(multiprocessing) | {"get_context": lambda _: context})


def dask_setup(nanny: object) -> None:
    """Do it in the nannies of ``dask worker --preload-nanny``, before they start their workers."""
    fork_workers()
