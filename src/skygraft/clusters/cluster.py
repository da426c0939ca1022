"""Open the cluster that a configuration names: this machine, batch jobs, Kubernetes, MPI, or a running scheduler."""

from __future__ import annotations

import contextlib
import dataclasses
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

from skygraft.clusters.base import OpenCluster, expanded_scratch, wait_for_worker
from skygraft.clusters.cluster_watch import local_outlook
from skygraft.clusters.connection import hide_connection_tracebacks, insist
from skygraft.clusters.dashboard import find_dashboard
from skygraft.clusters.dask_settings import DRIVER
from skygraft.clusters.jobs import open_jobs
from skygraft.clusters.kubernetes import open_kubernetes
from skygraft.clusters.mpi_roles import open_launch
from skygraft.config.cluster_kinds import (
    BatchConfig,
    ClusterConfig,
    KubernetesConfig,
    LaunchConfig,
    LocalConfig,
    SchedulerConfig,
)
from skygraft.errors import CampaignError
from skygraft.processes import keep_memory
from skygraft.records.interruption import Terminated

__all__ = ["open_cluster"]

_CONNECT_SECONDS = 30.0


class _LocalProcess(WorkerPlugin):
    """Prepares a worker process of this machine for signals to the driver, and for a quick end."""

    name = "skygraft-local-process"

    def setup(self, worker: Any) -> None:
        """Ignore Ctrl-C and a closed terminal: every process receives the signal, but only the driver acts on it."""
        del worker
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)

    def teardown(self, worker: Any) -> None:
        """Exclude all objects from garbage collection, which takes seconds when the interpreter ends."""
        del worker
        gc.freeze()


class _KeptMemory(WorkerPlugin):
    """Has a worker keep the memory of an image for its next one."""

    name = "skygraft-kept-memory"

    def setup(self, worker: Any) -> None:
        del worker
        keep_memory()


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
    """Open the cluster that a configuration names, and close whatever was started when the context is left.

    Parameters
    ----------
    config : ClusterConfig
        Settings of the cluster.
    n_workers : int, optional
        Largest number of workers, instead of the configured one.
    useful : int, optional
        Number of workers that there is work for; no more are started.
    logs : Path, optional
        Folder for the logs of jobs, which workers see too, unless the configuration names one; by default
        ``skygraft-logs`` in the current folder.
    task_seconds : float
        Length of a task, seconds; workers leave that much before their job ends.
    say : callable
        Called with messages about what is waited for.

    Yields
    ------
    OpenCluster

    Raises
    ------
    CampaignError
        If the cluster is not available, cannot be started, or no worker comes.
    """
    config = config.with_workers(n_workers)
    if useful is not None:
        config = config.at_most(useful)
    hide_connection_tracebacks()
    with dask.config.set(DRIVER), _orderly_exit():
        match config:
            case LocalConfig():
                opened = _open_local(config)
            case SchedulerConfig():
                opened = _open_scheduler(config, say)
            case BatchConfig():
                folder = (config.logs or logs or Path("skygraft-logs")).absolute()
                opened = open_jobs(config, logs=folder, task_seconds=task_seconds, say=say)
            case KubernetesConfig():
                opened = open_kubernetes(config, say=say)
            case LaunchConfig():
                opened = open_launch(config, say=say)
            case _:
                raise TypeError(f"no way to open a cluster of kind {config.kind}")
        with opened as cluster:
            if not isinstance(config, SchedulerConfig):
                # Workers of a scheduler of the user's own keep it during a run alone: see `skygraft.clusters.guard`.
                insist(lambda: cluster.client.register_plugin(_KeptMemory()))
            # The address in Dask's own link may be one at which nothing listens.
            yield dataclasses.replace(cluster, dashboard=find_dashboard(cluster.client).describe(cluster.kind))


@contextlib.contextmanager
def _orderly_exit() -> Iterator[None]:
    """End as after Ctrl-C if this process is terminated or its terminal is closed, so that no jobs are left running."""

    def leave(number: int, frame: FrameType | None) -> None:
        del frame
        for name in before:
            signal.signal(name, signal.SIG_IGN)
        raise Terminated(number)

    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for name in (int(signal.SIGTERM), int(signal.SIGHUP)):
            # nohup, and programs that use skygraft, may handle these themselves.
            if signal.getsignal(name) is signal.SIG_DFL:
                before[name] = signal.signal(name, leave)
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)


@contextlib.contextmanager
def _open_scheduler(config: SchedulerConfig, say: Callable[[str], None]) -> Iterator[OpenCluster]:
    security = None
    if config.tls is not None:
        ca_file, cert, key = str(config.tls.ca_file), str(config.tls.cert), str(config.tls.key)
        security = Security(tls_ca_file=ca_file, tls_client_cert=cert, tls_client_key=key, require_encryption=True)
    try:
        client = Client(config.address, set_as_default=False, timeout=_CONNECT_SECONDS, security=security)
    except (OSError, TimeoutError, ValueError, TypeError) as error:
        more = " and the files of cluster.tls" if security else "; that of an encrypted one is like tls://host:8786"
        raise CampaignError(
            f"no Dask scheduler answers at {config.address} ({error})",
            key="cluster.address",
            fix=f"Start one with `dask scheduler`, or correct the address{more}",
        ) from error
    with client:
        wait_for_worker(
            client,
            config.start_timeout,
            say,
            problem=f"the scheduler at {config.address} has no workers",
            fix="Start some with `dask worker`: workers end together with their scheduler",
            key="cluster.address",
        )
        n_threads = sum(insist(client.nthreads).values())
        yield OpenCluster(client, max(1, n_threads), config.kind)


@contextlib.contextmanager
def _environment_kept() -> Iterator[None]:
    """Take back what Dask's nannies set in this process's environment when they start workers.

    They set it for the workers; but later processes of this one would have it, too.
    """
    names = {*DRIVER["distributed.nanny.pre-spawn-environ"], "PYTHONHASHSEED"}
    before = {name: os.environ[name] for name in names & os.environ.keys()}
    try:
        yield
    finally:
        for name in names - before.keys():
            os.environ.pop(name, None)
        os.environ.update(before)


@contextlib.contextmanager
def _open_local(config: LocalConfig) -> Iterator[OpenCluster]:
    count = config.n_workers or len(os.sched_getaffinity(0))
    security = Security.temporary() if config.uses_tls else None
    with _environment_kept(), contextlib.ExitStack() as stack:
        try:
            cluster = stack.enter_context(
                LocalCluster(
                    n_workers=count,
                    threads_per_worker=1,
                    processes=True,
                    host="127.0.0.1",
                    protocol="tls" if security else "tcp",
                    security=security,
                    # Whoever reaches the dashboard sees tasks and machines: loopback only.
                    dashboard_address="127.0.0.1:0",
                    memory_limit=config.memory_limit or "auto",
                    local_directory=expanded_scratch(config.scratch),
                )
            )
        except (OSError, RuntimeError, ValueError, TimeoutError) as error:
            raise CampaignError(
                f"the workers on this machine cannot be started ({type(error).__name__}: {error})",
                key="cluster",
                fix="See the messages above; check memory_limit and scratch of the cluster, and the free memory",
            ) from error
        client = stack.enter_context(Client(cluster, set_as_default=False))
        insist(lambda: client.register_plugin(_LocalProcess()))
        outlook = functools.partial(local_outlook, cluster)
        yield OpenCluster(client, count, config.kind, outlook)
