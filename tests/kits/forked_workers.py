"""Processes that are forked from one that has imported and loaded everything, instead of each doing so again.

A worker that is spawned, the default of Dask and of skygraft, takes several seconds of processor time for its imports
and for compiled code; one that is forked takes a tenth of a second. Commands of users spawn theirs, as they do outside
of tests.
"""

from __future__ import annotations

import functools
import importlib
import logging
import multiprocessing
import multiprocessing.connection
import os
import socket
import sys
import threading
import warnings
from multiprocessing import forkserver
from pathlib import Path
from types import SimpleNamespace
from typing import Any

_WARM = "kits.warm_server"


def fork_a_server() -> None:
    """Fork the server of this process's forked processes from itself: it need not import anything again."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(multiprocessing.connection.arbitrary_address("AF_UNIX"))
    listener.listen()
    alive_r, alive_w = os.pipe()
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # of threads, which it needs none of
        pid = os.fork()
    if pid == 0:
        try:
            os.close(alive_w)
            _forget_the_tests({listener.fileno(), alive_r})
            forkserver.main(listener.detach(), alive_r, [])
        finally:
            os._exit(0)
    os.close(alive_r)
    of_mine = forkserver._forkserver  # type: ignore[attr-defined]
    of_mine._forkserver_address = listener.getsockname()
    of_mine._forkserver_alive_fd, of_mine._forkserver_pid = alive_w, pid
    listener.close()


def _forget_the_tests(keep: set[int]) -> None:
    """Be a process that runs no tests: with streams and warnings of its own, holding nobody's files open."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in [int(file.name) for file in Path("/proc/self/fd").iterdir()]:
        if number > 2 and number not in keep | {nowhere}:
            # Not closed: an object that still has this number would later close what has got it by then.
            os.dup2(nowhere, number)
    sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    _log_to_stderr()
    warnings.resetwarnings()
    for category in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
        warnings.simplefilter("ignore", category)
    sys.unraisablehook, threading.excepthook = sys.__unraisablehook__, threading.__excepthook__


def _log_to_stderr() -> None:
    """Have the loggers of Dask write to this process's standard error, not to that of the process they were made in."""
    import dask
    from distributed.config import initialize_logging

    for name in [None, *logging.root.manager.loggerDict]:
        logging.getLogger(name).handlers.clear()
    initialize_logging(dask.config.config)


def warm() -> None:
    """Import and load, in this process, what its forked processes need, and fork their server."""
    importlib.import_module(_WARM)
    fork_a_server()


@functools.cache
def server() -> Any:
    """Return the context of `multiprocessing` whose processes are forked from the one server of this process."""
    context = multiprocessing.get_context("forkserver")
    if forkserver._forkserver._forkserver_pid is not None:  # type: ignore[attr-defined]
        return context
    context.set_forkserver_preload([_WARM])
    # Until Python 3.13 the server is not told where this process finds its modules.
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[1]), *([before] if before else [])])
    try:
        forkserver.ensure_running()
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
