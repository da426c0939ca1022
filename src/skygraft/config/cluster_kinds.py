"""The settings of each kind of cluster: one model a kind, with the keys that the kind has and their defaults."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from skygraft.config.yaml_schema import (
    Duration,
    Flag,
    OptionalDuration,
    PositiveInt,
    ResolvedFile,
    ResolvedPath,
    Section,
    Size,
    parse_duration,
)
from skygraft.errors import ConfigError
from skygraft.processes import MOST_PROCESSES

__all__ = [
    "KINDS",
    "MODELS",
    "BatchConfig",
    "ClusterConfig",
    "HtcondorConfig",
    "KubernetesConfig",
    "LaunchConfig",
    "LocalConfig",
    "LsfConfig",
    "MpiConfig",
    "PbsConfig",
    "QueueConfig",
    "SchedulerConfig",
    "SgeConfig",
    "SlurmConfig",
    "SlurmRunnerConfig",
    "TlsConfig",
]

_SHUTDOWN_SECONDS = 30.0
"""Time that a worker needs to shut down cleanly."""
_STAGGER = 0.05
"""Fraction of the walltime over which the workers' exits are spread, so that they do not all leave at once."""
_MAX_STAGGER = 300.0
_SIZE_KEYS = ("n_workers", "cores", "memory", "disk", "walltime", "job_name")
"""Keys that are always written to the resolved configuration, so that it records what was asked for."""

_RESERVED_OPTIONS = {
    "dashboard-address": "", "death-timeout": "start_timeout", "interface": "interface", "lifetime": "walltime",
    "lifetime-stagger": "walltime",
    "local-directory": "scratch", "memory-limit": "memory", "name": "job_name", "nanny": "", "no-nanny": "",
    "nthreads": "cores", "nworkers": "processes", "protocol": "tls", "tls-ca-file": "tls", "tls-cert": "tls",
    "tls-key": "tls", "security": "tls",
}  # fmt: skip
"""Options of ``dask worker`` that skygraft sets itself, each with the key that controls it."""


def _as_tuple(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


def _single_lines(values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        if "\n" in value.strip():
            raise ValueError(f"{value!r} is more than one line; give a list with one for each")
    return values


def _no_shell_commands(value: str, info: ValidationInfo) -> str:
    if re.search(r"[\n\r;&|`]|\$\(", value):
        raise ValueError(f"{info.field_name} is {value!r}; it cannot hold shell commands, for which there is prologue")
    return value


def _unreserved(options: dict[str, Any]) -> dict[str, Any]:
    for option in options:
        if (key := _RESERVED_OPTIONS.get(option.replace("_", "-"))) is not None:
            raise ValueError(f"worker_options.{option} is set by skygraft itself" + (f"; use {key}" if key else ""))
    return options


Lines = Annotated[tuple[str, ...], BeforeValidator(_as_tuple), AfterValidator(_single_lines)]
JobText = Annotated[str, AfterValidator(_no_shell_commands)]
WorkerOptions = Annotated[dict[str, str | int | float | bool], AfterValidator(_unreserved)]


class TlsConfig(Section):
    """TLS files for an encrypted scheduler that is already running."""

    ca_file: ResolvedFile
    """Certificate of the authority that signed the others."""
    cert: ResolvedFile
    """Certificate of this client."""
    key: ResolvedFile
    """Private key of this client; nobody else should be able to read it."""


class ClusterConfig(Section):
    """Settings that every kind of cluster has; each kind has a model of its own."""

    kind: str
    """Kind of cluster."""
    io_limit: PositiveInt | None = None
    """Number of tasks that may read or write at the same time; by default unlimited."""
    worker_timeout: OptionalDuration = "30min"
    """How long a run goes on while no worker makes progress and none is known to be starting."""

    @model_serializer(mode="wrap")
    def _without_defaults(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Omit keys that have their default value, except those that say how large the cluster is."""
        kept = {"kind", *(key for key in _SIZE_KEYS if getattr(self, key, None) is not None)}
        return {key: value for key, value in handler(self).items() if key in kept or not self._is_default(key)}

    def _is_default(self, key: str) -> bool:
        return bool(getattr(self, key) == type(self).model_fields[key].get_default(call_default_factory=True))

    @property
    def uses_tls(self) -> bool:
        """True if connections are encrypted and both sides are authenticated."""
        return bool(getattr(self, "tls", None))

    @property
    def max_workers(self) -> int | None:
        """Largest number of worker processes; None if it is not configured or not skygraft's to choose."""
        return getattr(self, "n_workers", None)

    def check_task(self, task_seconds: float) -> None:
        """Raise ValueError if a worker does not live long enough for a task of `task_seconds` seconds."""

    def with_workers(self, n_workers: int | None) -> Self:
        """Return a copy with another largest number of workers; None returns the settings unchanged.

        If skygraft does not start the workers of this kind, or the number is not allowed, a `ConfigError` is raised.
        """
        if n_workers is None:
            return self
        if "n_workers" not in type(self).model_fields:
            raise ConfigError(
                f"the number of workers cannot be set on a cluster of kind {self.kind}: skygraft does not start them",
                key="cluster.n_workers",
                fix="Leave it out",
            )
        return self.model_copy(update={"n_workers": n_workers})

    def at_most(self, n_workers: int) -> Self:
        """Return a copy with at most `n_workers` workers; unchanged if skygraft does not start them."""
        if "n_workers" not in type(self).model_fields:
            return self
        return self.with_workers(max(1, min(self.max_workers or len(os.sched_getaffinity(0)), n_workers)))


class _StartedConfig(ClusterConfig):
    """Settings of clusters whose scheduler skygraft starts."""

    tls: Flag = True
    """Encrypt connections, with keys made for each run; scheduler, workers and client then authenticate each other."""
    scratch: str | None = None
    """Folder on each worker's own disk, such as ``$TMPDIR``; environment variables are expanded on the worker."""

    @field_validator("tls", mode="before")
    @classmethod
    def _no_tls_files(cls, value: Any) -> Any:
        if isinstance(value, Mapping | TlsConfig):
            raise ValueError(
                "tls takes files for a running scheduler only; set true or false, since each run makes its keys"
            )
        return value


class LocalConfig(_StartedConfig):
    """Worker processes on this machine."""

    kind: Literal["local"] = "local"
    n_workers: PositiveInt | None = None
    """Number of worker processes; by default one for each core."""
    memory_limit: Size | None = None
    """Memory of each worker process, such as ``4GiB``; by default an equal share of the machine's."""

    @field_validator("n_workers")
    @classmethod
    def _allowed(cls, n_workers: int | None) -> int | None:
        if (n_workers or 0) > MOST_PROCESSES:
            raise ConfigError(
                f"{n_workers} workers on this machine are asked for; at most {MOST_PROCESSES} are allowed",
                key="cluster.n_workers",
                fix="Ask for as many as it has cores",
            )
        return n_workers

    def with_workers(self, n_workers: int | None) -> Self:
        """Return a copy with another number of workers."""
        return super().with_workers(self._allowed(n_workers))


class _ElasticConfig(_StartedConfig):
    """Settings of clusters that grow while there is work and shrink when there is none."""

    n_workers: PositiveInt = 16
    """Largest number of worker processes."""
    minimum_workers: PositiveInt = 1
    """The cluster does not shrink below this number of workers, even if there is little to do."""
    start_timeout: OptionalDuration = "1d"
    """How long to wait for the first worker."""

    @model_validator(mode="after")
    def _check_numbers(self) -> Self:
        if self.minimum_workers > self.n_workers:
            raise ValueError(f"minimum_workers is {self.minimum_workers}, more than n_workers ({self.n_workers})")
        return self

    def with_workers(self, n_workers: int | None) -> Self:
        """Return a copy with another largest number of workers, and a minimum that is no larger."""
        if n_workers is None:
            return self
        minimum = max(1, min(self.minimum_workers, n_workers))
        return super().with_workers(n_workers).model_copy(update={"minimum_workers": minimum})


class BatchConfig(_ElasticConfig):
    """Settings of clusters whose workers are jobs of a batch system."""

    cores: PositiveInt = 4
    """Cores of a job."""
    processes: PositiveInt | None = None
    """Worker processes in a job; by default one for each core."""
    memory: Size = "16GiB"
    """Memory of a job, shared by its processes."""
    walltime: OptionalDuration = None
    """How long a job may run. Workers leave before it ends, and others take their place."""
    directives: Lines = ()
    """More lines for the head of the job script, without ``#SBATCH`` and the like; for HTCondor ``key = value``."""
    skip_directives: Lines = ()
    """Leave out lines of the job script's head that contain one of these texts; for HTCondor, keys."""
    prologue: Lines = ()
    """Shell commands that run on the worker's machine first, such as ``module load python``."""
    python: str | None = None
    """Python of the workers; by default that of this process."""
    job_name: JobText | None = "skygraft"
    """Name of the jobs."""
    interface: JobText | None = None
    """Network interface that scheduler and workers use, such as ``ib0``."""
    scheduler_options: dict[str, Any] = Field(default_factory=dict)
    """Options of `distributed.Scheduler`, such as ``host`` or ``port``."""
    worker_options: WorkerOptions = Field(default_factory=dict)
    """More options of ``dask worker``, such as ``{resources: "GPU=1"}``."""
    scratch: JobText | None = None
    """Folder on each worker's own disk, such as ``$TMPDIR``; environment variables are expanded on the worker."""
    logs: ResolvedPath | None = None
    """Folder for the jobs' logs, which workers see too; by default ``logs`` in the campaign's output."""

    @model_validator(mode="after")
    def _check_job(self) -> Self:
        if self.processes is not None and self.processes > self.cores:
            raise ValueError(f"processes is {self.processes}, more than the {self.cores} cores of a job")
        return self

    @property
    def processes_per_job(self) -> int:
        """Number of worker processes in a job."""
        return self.processes or self.cores

    @property
    def threads_per_process(self) -> int:
        """Number of tasks that a worker process runs at the same time."""
        return max(1, self.cores // self.processes_per_job)

    def stagger(self) -> float:
        """Return the time over which the workers' exits are spread, seconds."""
        return min(_MAX_STAGGER, _STAGGER * parse_duration(self.walltime)) if self.walltime is not None else 0.0

    def lifetime(self, task_seconds: float) -> float | None:
        """Return the time after which a worker leaves, a task before its job ends, seconds; None without a walltime."""
        if self.walltime is None:
            return None
        return parse_duration(self.walltime) - self.stagger() - _SHUTDOWN_SECONDS - task_seconds

    def check_task(self, task_seconds: float) -> None:
        """Check that a job is long enough for a task, see `ClusterConfig.check_task`."""
        lifetime = self.lifetime(task_seconds)
        if lifetime is not None and lifetime < task_seconds:
            need = math.ceil((2 * task_seconds + _SHUTDOWN_SECONDS) / (1 - _STAGGER))
            raise ValueError(
                f"cluster.walltime is {self.walltime}, too short for tasks of {task_seconds:g} s (task_seconds): with "
                f"starting and shutting down, {need} s are needed. Ask for more, or make tasks shorter"
            )


class QueueConfig(BatchConfig):
    """Settings of batch systems with queues and accounts."""

    walltime: Duration = "04:00:00"
    """How long a job may run. Workers leave before it ends, and others take their place."""
    queue: JobText | None = None
    """Queue or partition; by default the batch system's own."""
    account: JobText | None = None
    """Account or project that is charged; by default the batch system's own."""


class SlurmConfig(QueueConfig):
    """Jobs of Slurm."""

    kind: Literal["slurm"] = "slurm"


class PbsConfig(QueueConfig):
    """Jobs of PBS."""

    kind: Literal["pbs"] = "pbs"
    resources: str | None = None
    """Value of ``-l`` (``select=...``), if `cores` and `memory` cannot express what to ask for."""


class LsfConfig(QueueConfig):
    """Jobs of LSF."""

    kind: Literal["lsf"] = "lsf"


class HtcondorConfig(BatchConfig):
    """Jobs of HTCondor, on machines that share a file system."""

    kind: Literal["htcondor"] = "htcondor"
    # Small jobs find a machine soon.
    cores: PositiveInt = 1
    """Cores of a job."""
    memory: Size = "4GiB"
    """Memory of a job, shared by its processes."""
    disk: Size = "4GiB"
    """Scratch disk of a job."""

    @field_validator("directives")
    @classmethod
    def _pairs(cls, directives: tuple[str, ...]) -> tuple[str, ...]:
        bad = [line for line in directives if "=" not in line]
        if bad:
            raise ValueError(f"directives: {bad[0]!r} is not like 'key = value', as HTCondor wants it")
        return directives


class SgeConfig(QueueConfig):
    """Jobs of Grid Engine. Parallel environments differ between sites: see `resources` and `directives`."""

    kind: Literal["sge"] = "sge"
    resources: str | None = None
    """Value of ``-l``, if `cores` and `memory` cannot express what to ask for."""


class KubernetesConfig(_ElasticConfig):
    """Pods of the Dask operator for Kubernetes."""

    kind: Literal["kubernetes"] = "kubernetes"
    # The operator cannot connect to an encrypted scheduler.
    tls: Flag = False
    """Must be false: the Dask operator cannot connect to an encrypted scheduler. Use a NetworkPolicy."""
    cores: PositiveInt = 1
    """Cores of a worker's pod."""
    memory: Size = "4GiB"
    """Memory of a worker's pod."""
    disk: Size | None = "10GiB"
    """Scratch disk of a worker's pod."""
    image: str | None = None
    """Container image of the scheduler and the workers."""
    namespace: str | None = None
    """Kubernetes namespace; by default that of the current context."""
    env: dict[str, str] = Field(default_factory=dict)
    """Environment variables of the containers."""
    claims: dict[str, str] = Field(default_factory=dict)
    """Persistent volume claims, each with the folder that it is mounted at."""
    spec: ResolvedFile | None = None
    """Manifest of a ``DaskCluster``, instead of `image`, `cores`, `memory`, `disk`, `env` and `claims`."""

    @model_validator(mode="after")
    def _check_pods(self) -> Self:
        if self.tls:
            raise ValueError(
                "tls: the Dask operator for Kubernetes cannot connect to an encrypted scheduler; keep others out with "
                "a NetworkPolicy, or start an encrypted one yourself and name its address"
            )
        if self.spec is not None:
            keys = ("image", "cores", "memory", "disk", "env", "claims")
            if given := [key for key in keys if not self._is_default(key)]:
                raise ValueError(f"spec describes the containers completely; remove {', '.join(given)}")
        elif self.image is None:
            raise ValueError("kind: kubernetes needs an image with skygraft in it, or a spec")
        if "$" in (self.scratch or ""):
            raise ValueError(f"scratch is {self.scratch!r}; no shell expands it in a pod: name the folder")
        for claim, folder in self.claims.items():
            if not folder.startswith("/"):
                raise ValueError(f"claims.{claim} is {folder!r}; the absolute folder to mount it at is needed")
        return self


class LaunchConfig(_StartedConfig):
    """Settings of clusters whose workers are the other processes of the launch that this process is one of."""

    memory_limit: Size | None = None
    """Memory of each process, such as ``4GiB``; by default an equal share of the machine's."""
    interface: str | None = None
    """Network interface that scheduler and workers use, such as ``ib0``."""
    worker_options: WorkerOptions = Field(default_factory=dict)
    """More options of ``dask worker``, such as ``{resources: "GPU=1"}``."""
    start_timeout: OptionalDuration = "1d"
    """How long to wait for the first worker."""


class MpiConfig(LaunchConfig):
    """Processes of an MPI launch: ``mpirun -n 64 skygraft run ...``."""

    # dask-mpi takes no scheduler options, and MPI itself carries the keys.
    kind: Literal["mpi"] = "mpi"


class SlurmRunnerConfig(LaunchConfig):
    """Processes of a Slurm job step: ``srun -n 64 skygraft run ...``."""

    kind: Literal["slurm-runner"] = "slurm-runner"
    scheduler_options: dict[str, Any] = Field(default_factory=dict)
    """Options of `distributed.Scheduler`, such as ``host`` or ``port``."""
    logs: ResolvedPath | None = None
    """Folder that all processes see, for this run's keys; by default that of the campaign's output."""


class SchedulerConfig(ClusterConfig):
    """A Dask scheduler that is already running, with its workers."""

    foreign_key_hint = "a running scheduler has its workers already"

    kind: Literal["scheduler"] = "scheduler"
    address: str
    """Address of the scheduler, such as ``tcp://host:8786`` or ``tls://host:8786``."""
    tls: TlsConfig | None = None
    """TLS files for an encrypted scheduler."""
    start_timeout: OptionalDuration = "1d"
    """How long to wait for the first worker."""

    @field_validator("tls", mode="before")
    @classmethod
    def _files_or_none(cls, value: Any) -> Any:
        return None if value is False else value

    @model_validator(mode="after")
    def _check_tls(self) -> Self:
        encrypted = self.address.startswith("tls://")
        if encrypted and self.tls is None:
            raise ValueError("an encrypted scheduler needs tls with its files: {ca_file: ..., cert: ..., key: ...}")
        if self.tls is not None and not encrypted:
            raise ValueError(f"tls has files, but the address is {self.address!r}; one like tls://host:8786 is needed")
        return self


MODELS: dict[str, type[ClusterConfig]] = {
    model.model_fields["kind"].default: model
    for model in (
        LocalConfig,
        SlurmConfig,
        PbsConfig,
        LsfConfig,
        HtcondorConfig,
        SgeConfig,
        KubernetesConfig,
        MpiConfig,
        SlurmRunnerConfig,
        SchedulerConfig,
    )
}
"""The model of each kind of cluster."""

KINDS = tuple(MODELS)
"""Kinds of cluster."""
