"""Workers as the other processes of a launch: ``mpirun -n 64 skygraft run ...`` or ``srun -n 64 skygraft run ...``.

Every process of the launch runs the same command. `take_role` gives each its role: one goes on as the driver, one is
the scheduler, and the others are workers until the driver has finished.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask
from distributed import Client, Security

from skygraft.clusters.base import OpenCluster, expanded_scratch, import_extra, wait_for_worker
from skygraft.clusters.connection import hide_connection_tracebacks
from skygraft.clusters.dask_settings import WORKERS
from skygraft.config.cluster_kinds import ClusterConfig, LaunchConfig, SlurmRunnerConfig
from skygraft.config.yaml_schema import parse_bytes
from skygraft.errors import CampaignError
from skygraft.json_text import parse_json

__all__ = ["Launch", "find_launch", "open_launch", "take_role"]

_LAUNCHERS = {
    "OMPI_COMM_WORLD_RANK": "OMPI_COMM_WORLD_SIZE",
    "PMI_RANK": "PMI_SIZE",
    "MV2_COMM_WORLD_RANK": "MV2_COMM_WORLD_SIZE",
    "PMIX_RANK": "",
}
"""Variables with the rank and the size of a launch."""
_MIN_PROCESSES = 3


@dataclass(frozen=True)
class Launch:
    """Place of this process in a launch: its number, from 0, and how many there are."""

    rank: int
    size: int


def find_launch(kind: str, environ: Mapping[str, str] = os.environ) -> Launch:
    """Find the place of this process in a launch of kind ``mpi`` or ``slurm-runner``, from the launcher's variables.

    `CampaignError` is raised if this process was not started by a launcher, or the launch has fewer than three
    processes.
    """
    if kind == "slurm-runner":
        pairs = {"SLURM_PROCID": "SLURM_NTASKS"} if "SLURM_STEP_ID" in environ else {}
        how = "srun -n 64 skygraft run ..."
    else:
        pairs, how = {**_LAUNCHERS, "SLURM_PROCID": "SLURM_NTASKS"}, "mpirun -n 64 skygraft run ..."
    for rank, size in pairs.items():
        if rank in environ and (not size or size in environ):
            count = int(environ[size]) if size else _MIN_PROCESSES
            if count < _MIN_PROCESSES:
                raise CampaignError(
                    f"the launch has {count} processes; a scheduler, a driver and a worker are needed",
                    key="cluster.kind",
                    fix=f"Start it like `{how}`",
                )
            return Launch(int(environ[rank]), count)
    raise CampaignError(
        f"a cluster of kind {kind} consists of the processes of a launch, and this process was started alone",
        key="cluster.kind",
        fix=f"Start it like `{how}`",
    )


def _tls_settings(security: Security) -> dict[str, Any]:
    """Return a security object as settings of Dask, which every role and its child processes read."""
    settings: dict[str, Any] = {"distributed.comm.require-encryption": True, "distributed.comm.default-scheme": "tls"}
    for role in ("client", "scheduler", "worker"):
        found = security.get_tls_config_for_role(role)
        settings["distributed.comm.tls.ca-file"] = found["ca_file"]
        settings[f"distributed.comm.tls.{role}.cert"] = found["cert"]
        settings[f"distributed.comm.tls.{role}.key"] = found["key"]
    return settings


_running: dict[str, Launch] = {}
"""The launch that this process drives, while it does, by the scheduler's address."""


@contextlib.contextmanager
def take_role(config: ClusterConfig, folder: Path) -> Iterator[bool]:
    """Take the role of this process in its launch; to be entered before anything else is done.

    Parameters
    ----------
    config : ClusterConfig
        Settings of the cluster; for kinds without a launch nothing happens.
    folder : Path
        Folder that all processes see, for this run's keys and the scheduler's address, unless the configuration names
        one.

    Yields
    ------
    bool
        True in the driver. In the other processes False, once the driver has finished: nothing is left to do.

    Raises
    ------
    CampaignError
        If this process was not started by a launcher, or a package is missing.
    """
    if not isinstance(config, LaunchConfig):
        yield True
        return
    launch = find_launch(config.kind)
    if isinstance(config, SlurmRunnerConfig):
        joined = _join_slurm(config, launch, config.logs or folder)
    else:
        joined = _join_mpi(config, launch)
    hide_connection_tracebacks()
    with dask.config.set({"distributed.worker.daemon": True, **WORKERS}), joined as address:
        if address is None:
            yield False
            return
        _running[address] = launch
        try:
            yield True
        finally:
            _running.clear()
            # Even if the driver failed early: the other processes would wait for ever.
            with contextlib.suppress(OSError, TimeoutError), Client(address, set_as_default=False) as client:
                client.shutdown()


@contextlib.contextmanager
def open_launch(config: LaunchConfig, *, say: Callable[[str], None] = lambda text: None) -> Iterator[OpenCluster]:
    """Connect to the other processes of the launch, as a cluster, and wait for a worker.

    `CampaignError` is raised if `take_role` was not entered before, or no worker comes.
    """
    if not _running:
        find_launch(config.kind)
        raise CampaignError(
            f"the processes of the launch have no roles yet, for a cluster of kind {config.kind}",
            key="cluster.kind",
            fix="Use `skygraft run`, or enter skygraft.clusters.mpi_roles.take_role before anything else",
        )
    ((address, launch),) = _running.items()
    with Client(address, set_as_default=False) as client:
        wait_for_worker(
            client,
            config.start_timeout,
            say,
            problem="no worker of the launch has come",
            fix="See what the other processes of the launch have printed",
        )
        # The others are the driver and the scheduler.
        yield OpenCluster(client, launch.size - 2, config.kind)


def _worker_options(config: LaunchConfig) -> dict[str, Any]:
    # Workers serve dashboards of their own: loopback only.
    options: dict[str, Any] = {"nthreads": 1, "death_timeout": 120, "dashboard_address": "127.0.0.1:0"}
    options["memory_limit"] = "auto" if config.memory_limit is None else parse_bytes(config.memory_limit)
    given = {"local_directory": expanded_scratch(config.scratch), "interface": config.interface}
    options |= {name: value for name, value in given.items() if value is not None}
    return options | {name.replace("-", "_"): value for name, value in config.worker_options.items()}


@contextlib.contextmanager
def _join_mpi(config: LaunchConfig, launch: Launch) -> Iterator[str | None]:
    """Yield the scheduler's address in the driver, else None; dask-mpi passes keys and addresses through MPI."""
    dask_mpi = import_extra("dask_mpi", "mpi")
    comm = import_extra("mpi4py.MPI", "mpi").COMM_WORLD
    if comm.Get_size() != launch.size and "PMIX_RANK" not in os.environ:
        raise CampaignError(
            f"the launcher started {launch.size} processes, but the MPI of mpi4py sees {comm.Get_size()}",
            key="cluster.kind",
            fix="Use the mpirun of the MPI that mpi4py uses",
        )
    settings = None
    if config.uses_tls:
        settings = comm.bcast(_tls_settings(Security.temporary()) if launch.rank == 0 else None, root=0)
    with dask.config.set(settings or {}):
        is_driver = dask_mpi.initialize(
            interface=config.interface,
            dashboard_address="127.0.0.1:0",
            protocol="tls" if config.uses_tls else None,
            worker_class="distributed.Nanny",
            worker_options=_worker_options(config),
            exit=False,
        )
        yield dask.config.get("scheduler_address") if is_driver else None


@contextlib.contextmanager
def _join_slurm(config: SlurmRunnerConfig, launch: Launch, folder: Path) -> Iterator[str | None]:
    """Yield the scheduler's address in the driver, else None; keys and addresses are passed in a shared folder."""
    slurm = import_extra("dask_jobqueue.slurm", "slurm")
    folder.mkdir(parents=True, exist_ok=True)
    # A requeued job has the same number, and must not use the files of its first start.
    step = "-".join(os.environ.get(f"SLURM_{name}", "0") for name in ("JOB_ID", "STEP_ID", "RESTART_COUNT"))
    keys, scheduler_file = folder / f".tls-{step}.json", folder / f".scheduler-{step}.json"
    options = {"dashboard_address": "127.0.0.1:0", "interface": config.interface, **config.scheduler_options}
    try:
        settings = _shared_keys(keys, launch) if config.uses_tls else {}
        with dask.config.set(settings):
            try:
                runner = slurm.SLURMRunner(
                    scheduler_file=str(scheduler_file),
                    scheduler_options=options | ({"protocol": "tls"} if config.uses_tls else {}),
                    worker_class="distributed.Nanny",
                    worker_options=_worker_options(config),
                )
            except (KeyboardInterrupt, SystemExit):
                # SLURMRunner ends the processes that are not the driver like this.
                yield None
                return
            yield runner.scheduler_address
    finally:
        if launch.rank == 1:
            keys.unlink(missing_ok=True)
            scheduler_file.unlink(missing_ok=True)


def _shared_keys(path: Path, launch: Launch, patience: float = 120.0) -> dict[str, Any]:
    """Return the keys that the first process makes and the others read; no other user can read them."""
    if launch.rank == 0:
        settings = _tls_settings(Security.temporary())
        temporary = path.with_suffix(".new")
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as handle:
            json.dump(settings, handle)
        temporary.replace(path)
        return settings
    deadline = time.monotonic() + patience
    while not path.exists():
        if time.monotonic() > deadline:
            raise CampaignError(
                f"the first process of the launch did not share its keys within {patience:g} s",
                path=path,
                fix="See that all machines share this folder",
            )
        time.sleep(0.1)
    content: dict[str, Any] = parse_json(path.read_text(encoding="utf-8"))
    return content
