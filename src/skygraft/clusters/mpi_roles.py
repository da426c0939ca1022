"""Workers that are the other processes of a launch: ``mpirun -n 64 skygraft run ...``, ``srun -n 64 skygraft run ...``.

Every process of the launch runs the same command. `take_role` divides them: one goes on as the driver, one is the
scheduler, the others are workers until the driver is done.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask
from distributed import Client, Security

from skygraft.clusters.opened import OpenCluster
from skygraft.clusters.settings import WORKERS, expanded_scratch
from skygraft.clusters.waiting import wait_for_worker
from skygraft.config.cluster import ClusterConfig
from skygraft.config.yaml_schema import parse_bytes
from skygraft.errors import CampaignError
from skygraft.json_text import parse_json

__all__ = ["Launch", "find_launch", "open_ranks", "take_role"]

_LAUNCHERS = {
    # rank, size
    "OMPI_COMM_WORLD_RANK": "OMPI_COMM_WORLD_SIZE",
    "PMI_RANK": "PMI_SIZE",
    "MV2_COMM_WORLD_RANK": "MV2_COMM_WORLD_SIZE",
    "PMIX_RANK": "",
}
_FEWEST = 3


@dataclass(frozen=True)
class Launch:
    """Which of the processes of a launch this is.

    Parameters
    ----------
    rank, size : int
        Its number, from 0, and how many there are.
    """

    rank: int
    size: int


def find_launch(kind: str, environ: Mapping[str, str] = os.environ) -> Launch:
    """Which process of a launch this is, from what the launcher put into the environment.

    Parameters
    ----------
    kind : str
        ``mpi`` or ``slurm-runner``.
    environ : mapping
        The environment.

    Raises
    ------
    CampaignError
        If this is no launch, or one of fewer than three processes.
    """
    if kind == "slurm-runner":
        pairs = {"SLURM_PROCID": "SLURM_NTASKS"} if "SLURM_STEP_ID" in environ else {}
        how = "srun -n 64 skygraft run ..."
    else:
        pairs, how = {**_LAUNCHERS, "SLURM_PROCID": "SLURM_NTASKS"}, "mpirun -n 64 skygraft run ..."
    for rank, size in pairs.items():
        if rank in environ and (not size or size in environ):
            count = int(environ[size]) if size else _FEWEST
            if count < _FEWEST:
                raise CampaignError(
                    f"the launch has {count} processes; a scheduler, a driver and a worker are needed",
                    key="cluster.kind",
                    fix=f"Start it like `{how}`",
                )
            return Launch(int(environ[rank]), count)
    raise CampaignError(
        f"a cluster of kind {kind} is made of the processes of a launch, and this process is not one of several",
        key="cluster.kind",
        fix=f"Start it like `{how}`",
    )


def _import(name: str, extra: str) -> Any:
    before = signal.getsignal(signal.SIGINT)
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise CampaignError(
            f"{name} is not installed, or cannot be used ({error})",
            key="cluster.kind",
            fix=f"Install it with `pip install 'skygraft[{extra}]'`",
        ) from error
    finally:
        # dask_jobqueue takes SIGINT away from whoever imports it.
        signal.signal(signal.SIGINT, before)


def _tls_settings(security: Security) -> dict[str, Any]:
    """A security object as configuration, which every role of Dask reads, and their child processes."""
    settings: dict[str, Any] = {"distributed.comm.require-encryption": True, "distributed.comm.default-scheme": "tls"}
    for role in ("client", "scheduler", "worker"):
        found = security.get_tls_config_for_role(role)
        settings["distributed.comm.tls.ca-file"] = found["ca_file"]
        settings[f"distributed.comm.tls.{role}.cert"] = found["cert"]
        settings[f"distributed.comm.tls.{role}.key"] = found["key"]
    return settings


@dataclass
class _Ranks:
    address: str
    size: int


_ranks: list[_Ranks] = []
"""Of this process, while it is the driver."""


@contextlib.contextmanager
def take_role(config: ClusterConfig, folder: Path) -> Iterator[bool]:
    """Be what this process of a launch is to be; to be entered before anything else is done.

    Parameters
    ----------
    config : ClusterConfig
        Of any kind; where it is not about a launch nothing happens.
    folder : Path
        One that all processes see, for what they tell each other.

    Yields
    ------
    bool
        Whether this process is the driver; the others have done their part then, and there is nothing left to do.

    Raises
    ------
    CampaignError
        If this is no launch, or something is not installed.
    """
    if config.kind not in ("mpi", "slurm-runner"):
        yield True
        return
    launch = find_launch(config.kind)
    join = _join_mpi if config.kind == "mpi" else _join_slurm
    with dask.config.set({"distributed.worker.daemon": True, **WORKERS}), join(config, launch, folder) as address:
        if address is None:
            yield False
            return
        _ranks.append(_Ranks(address, launch.size))
        try:
            yield True
        finally:
            _ranks.clear()
            # Also where the driver failed before it had anything to do: the others would wait for ever.
            with contextlib.suppress(OSError, TimeoutError), Client(address, set_as_default=False) as client:
                client.shutdown()


@contextlib.contextmanager
def open_ranks(config: ClusterConfig, *, say: Callable[[str], None] = lambda text: None) -> Iterator[OpenCluster]:
    """The other processes of the launch, as a cluster.

    Parameters
    ----------
    config : ClusterConfig
        Of kind ``mpi`` or ``slurm-runner``.
    say : callable
        Hears what is waited for.

    Yields
    ------
    OpenCluster
        Once the first worker is there.

    Raises
    ------
    CampaignError
        If `take_role` was not entered before, or no worker comes.
    """
    if not _ranks:
        find_launch(config.kind)
        raise CampaignError(
            f"the processes of the launch have no roles yet, for a cluster of kind {config.kind}",
            key="cluster.kind",
            fix="Use `skygraft run`, or enter skygraft.clusters.mpi_roles.take_role before anything else",
        )
    ranks = _ranks[0]
    n_workers = ranks.size - 2
    with Client(ranks.address, set_as_default=False) as client:
        wait_for_worker(
            client,
            config,
            say,
            what="no worker of the launch has come",
            fix="See what the other processes of the launch have printed",
        )
        yield OpenCluster(client, n_workers, client.dashboard_link or "", config.kind)


def _worker_options(config: ClusterConfig) -> dict[str, Any]:
    # Workers have pages of their own; nobody else is to see them.
    options: dict[str, Any] = {
        "nthreads": 1,
        "memory_limit": "auto",
        "death_timeout": 120,
        "dashboard_address": "127.0.0.1:0",
    }
    if config.memory_limit is not None:
        options["memory_limit"] = parse_bytes(config.memory_limit)
    if config.scratch is not None:
        options["local_directory"] = expanded_scratch(config.scratch)
    if config.interface is not None:
        options["interface"] = config.interface
    return options | {name.replace("-", "_"): value for name, value in config.worker_options.items()}


@contextlib.contextmanager
def _join_mpi(config: ClusterConfig, launch: Launch, folder: Path) -> Iterator[str | None]:
    """Through dask-mpi: keys and addresses travel by MPI itself."""
    del folder
    dask_mpi = _import("dask_mpi", "mpi")
    comm = _import("mpi4py.MPI", "mpi").COMM_WORLD
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
def _join_slurm(config: ClusterConfig, launch: Launch, folder: Path) -> Iterator[str | None]:
    """Through dask-jobqueue's runner: keys and addresses travel by files in a shared folder."""
    slurm = _import("dask_jobqueue.slurm", "slurm")
    folder.mkdir(parents=True, exist_ok=True)
    # A requeued job has the same number, and must not take the files of its first life.
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
                # This is how it ends the processes that are not the driver.
                yield None
                return
            yield runner.scheduler_address
    finally:
        if launch.rank == 1:
            keys.unlink(missing_ok=True)
            scheduler_file.unlink(missing_ok=True)


def _shared_keys(path: Path, launch: Launch, patience: float = 120.0) -> dict[str, Any]:
    """Keys that the first process makes and the others read; nobody else can."""
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
