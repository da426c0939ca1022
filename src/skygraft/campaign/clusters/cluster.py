"""Where the tasks run: this machine, jobs of a batch system, Kubernetes, an MPI launch, or a running scheduler."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import dask
from distributed import Client, LocalCluster, Security, WorkerPlugin

from skygraft.campaign.clusters.config import BATCH_KINDS, RANK_KINDS, ClusterConfig, TlsConfig
from skygraft.campaign.clusters.dashboard import with_dashboard
from skygraft.campaign.clusters.guard import Guard, guard_workers
from skygraft.campaign.clusters.settings import DRIVER
from skygraft.campaign.sections import parse_duration
from skygraft.errors import CampaignError

__all__ = ["Guard", "OpenCluster", "guard_workers", "open_cluster"]

_CONNECT_SECONDS = 30.0


class _IgnoreInterrupt(WorkerPlugin):
    """Ctrl-C reaches every process of the terminal; only the driver is to act on it."""

    name = "skygraft-ignore-interrupt"

    def setup(self, worker: Any) -> None:
        del worker
        signal.signal(signal.SIGINT, signal.SIG_IGN)


@dataclass(frozen=True)
class OpenCluster:
    """A cluster that is ready for tasks.

    Parameters
    ----------
    client : distributed.Client
        Its client.
    max_threads : int
        Worker threads that it has when it has grown as far as it may; how many tasks to keep in flight follows.
    dashboard : str
        Address of the dashboard; empty where there is none.
    kind : str
        As in `ClusterConfig`.
    """

    client: Client
    max_threads: int
    dashboard: str
    kind: str


@contextlib.contextmanager
def open_cluster(
    config: ClusterConfig,
    *,
    n_workers: int | None = None,
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
    folder = (config.logs or logs or Path("skygraft-logs")).absolute()
    with dask.config.set(DRIVER), _orderly_exit():
        if config.kind == "scheduler":
            opened: contextlib.AbstractContextManager[OpenCluster] = _running(config)
        elif config.kind in BATCH_KINDS:
            opened = _jobs(config, folder, task_seconds, say)
        elif config.kind == "kubernetes":
            from skygraft.campaign.clusters.kubernetes import open_kubernetes

            opened = _named(open_kubernetes(config, say=say), config.kind)
        elif config.kind in RANK_KINDS:
            from skygraft.campaign.clusters.ranks import open_ranks

            opened = _named(open_ranks(config), config.kind)
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
        raise KeyboardInterrupt(f"signal {number}")

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


@contextlib.contextmanager
def _named(opened: contextlib.AbstractContextManager[tuple[Client, int, str]], kind: str) -> Iterator[OpenCluster]:
    with opened as (client, max_threads, dashboard):
        yield OpenCluster(client, max_threads, dashboard, kind)


def _jobs(
    config: ClusterConfig, logs: Path, task_seconds: float, say: Callable[[str], None]
) -> contextlib.AbstractContextManager[OpenCluster]:
    from skygraft.campaign.clusters.jobs import open_jobs

    return _named(open_jobs(config, logs=logs, task_seconds=task_seconds, say=say), config.kind)


@contextlib.contextmanager
def _running(config: ClusterConfig) -> Iterator[OpenCluster]:
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
        timeout = parse_duration(config.start_timeout or "1d")
        try:
            client.wait_for_workers(1, timeout=timeout)
        except TimeoutError as error:
            raise CampaignError(
                f"the scheduler at {config.address} has no workers after {config.start_timeout} (start_timeout)",
                key="cluster.address",
                fix="Start some with `dask worker`",
            ) from error
        n_threads = sum(client.nthreads().values())
        yield OpenCluster(client, max(1, n_threads), client.dashboard_link or "", config.kind)


@contextlib.contextmanager
def _local(config: ClusterConfig) -> Iterator[OpenCluster]:
    count = config.n_workers or len(os.sched_getaffinity(0))
    security = Security.temporary() if config.uses_tls else None
    with (
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
            local_directory=config.scratch,
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        client.register_plugin(_IgnoreInterrupt())
        yield OpenCluster(client, count, client.dashboard_link or "", config.kind)
