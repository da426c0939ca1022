"""Where the tasks run: this machine, jobs of a batch system, Kubernetes, an MPI launch, or a running scheduler."""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import dask
from distributed import Client, LocalCluster, Security, WorkerPlugin

from skygraft.clusters.calls import insist
from skygraft.clusters.dashboard import with_dashboard
from skygraft.clusters.guard import Guard, guard_workers
from skygraft.clusters.opened import OpenCluster
from skygraft.clusters.settings import DRIVER, expanded_scratch
from skygraft.clusters.waiting import wait_for_worker
from skygraft.clusters.watching import local_outlook
from skygraft.config.cluster import BATCH_KINDS, RANK_KINDS, ClusterConfig, TlsConfig
from skygraft.errors import CampaignError
from skygraft.records.interruption import Terminated

__all__ = ["Guard", "OpenCluster", "guard_workers", "open_cluster"]

_CONNECT_SECONDS = 30.0


class _OwnProcess(WorkerPlugin):
    """What a worker process of this machine does at its begin and its end."""

    name = "skygraft-own-process"

    def setup(self, worker: Any) -> None:
        """Ignore Ctrl-C and a terminal that goes: every process hears of it, only the driver is to act on it."""
        del worker
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)

    def teardown(self, worker: Any) -> None:
        """Leave quickly: an interpreter that ends searches all it has imported for garbage, which takes seconds."""
        del worker
        gc.freeze()


@contextlib.contextmanager
def open_cluster(
    config: ClusterConfig,
    *,
    n_workers: int | None = None,
    useful: int | None = None,
    logs: Path | None = None,
    task_seconds: float = 60.0,
    say: Callable[[str], None] = lambda text: None,
) -> Iterator[OpenCluster]:
    """The cluster that a configuration names; what was started here is stopped at the end, however it ends.

    Parameters
    ----------
    config : ClusterConfig
        Which cluster.
    n_workers : int, optional
        Largest number of workers, instead of what the configuration says.
    useful : int, optional
        How many workers there is work for; no more are started or asked for.
    logs : Path, optional
        Folder for the logs of jobs, which the workers' machines see too, unless the configuration names one; by
        default one in the current folder.
    task_seconds : float
        Length of a task; workers leave in time before their job ends.
    say : callable
        Hears what is waited for.

    Raises
    ------
    CampaignError
        If the cluster is not there, cannot be started, or no worker comes.
    """
    config = config.with_workers(n_workers)
    if useful is not None:
        config = config.at_most(useful)
    folder = (config.logs or logs or Path("skygraft-logs")).absolute()
    with dask.config.set(DRIVER), _orderly_exit():
        if config.kind == "scheduler":
            opened: contextlib.AbstractContextManager[OpenCluster] = _running(config, say)
        elif config.kind in BATCH_KINDS:
            opened = _jobs(config, folder, task_seconds, say)
        elif config.kind == "kubernetes":
            from skygraft.clusters.kubernetes import open_kubernetes

            opened = open_kubernetes(config, say=say)
        elif config.kind in RANK_KINDS:
            from skygraft.clusters.mpi_roles import open_ranks

            opened = open_ranks(config, say=say)
        else:
            opened = _local(config)
        with opened as cluster:
            yield with_dashboard(cluster)


@contextlib.contextmanager
def _orderly_exit() -> Iterator[None]:
    """Leave the way Ctrl-C does where this process is told to end or its terminal goes: jobs must not stay behind."""

    def leave(number: int, frame: FrameType | None) -> None:
        del frame
        for name in before:
            signal.signal(name, signal.SIG_IGN)
        raise Terminated(number)

    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for name in (int(signal.SIGTERM), int(signal.SIGHUP)):
            # nohup, and whoever drives this, have their own idea of these.
            if signal.getsignal(name) is signal.SIG_DFL:
                before[name] = signal.signal(name, leave)
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)


def _jobs(
    config: ClusterConfig, logs: Path, task_seconds: float, say: Callable[[str], None]
) -> contextlib.AbstractContextManager[OpenCluster]:
    from skygraft.clusters.jobs import open_jobs

    return open_jobs(config, logs=logs, task_seconds=task_seconds, say=say)


@contextlib.contextmanager
def _running(config: ClusterConfig, say: Callable[[str], None]) -> Iterator[OpenCluster]:
    security = None
    if isinstance(config.tls, TlsConfig):
        security = Security(
            tls_ca_file=str(config.tls.ca_file),
            tls_client_cert=str(config.tls.cert),
            tls_client_key=str(config.tls.key),
            require_encryption=True,
        )
    try:
        client = Client(config.address, set_as_default=False, timeout=_CONNECT_SECONDS, security=security)
    except (OSError, TimeoutError, ValueError, TypeError) as error:
        raise CampaignError(
            f"no Dask scheduler answers at {config.address} ({error})",
            key="cluster.address",
            fix="Start one with `dask scheduler`, or correct the address"
            + (
                " and the files of cluster.tls"
                if security
                else "; an encrypted one has an address like tls://host:8786"
            ),
        ) from error
    with client:
        wait_for_worker(
            client,
            config,
            say,
            what=f"the scheduler at {config.address} has no workers",
            fix="Start some with `dask worker`: those of a scheduler that ended have ended with it",
        )
        n_threads = sum(insist(client.nthreads).values())
        yield OpenCluster(client, max(1, n_threads), client.dashboard_link or "", config.kind)


@contextlib.contextmanager
def _local(config: ClusterConfig) -> Iterator[OpenCluster]:
    count = config.n_workers or len(os.sched_getaffinity(0))
    security = Security.temporary() if config.uses_tls else None
    with contextlib.ExitStack() as stack:
        try:
            cluster = stack.enter_context(
                LocalCluster(
                    n_workers=count,
                    threads_per_worker=1,
                    processes=True,
                    host="127.0.0.1",
                    protocol="tls" if security else "tcp",
                    security=security,
                    # The dashboard shows tasks and machines to whoever reaches it: loopback only.
                    dashboard_address="127.0.0.1:0",
                    memory_limit=config.memory_limit or "auto",
                    local_directory=expanded_scratch(config.scratch),
                )
            )
        except (OSError, RuntimeError, ValueError, TimeoutError) as error:
            raise CampaignError(
                f"the workers on this machine cannot be started ({type(error).__name__}: {error})",
                key="cluster",
                fix="See what is printed above; memory_limit and scratch of the cluster, and free memory, matter here",
            ) from error
        client = stack.enter_context(Client(cluster, set_as_default=False))
        insist(lambda: client.register_plugin(_OwnProcess()))
        outlook = functools.partial(local_outlook, cluster)
        yield OpenCluster(client, count, client.dashboard_link or "", config.kind, outlook)
