"""Where a campaign's tasks run: the cluster's kind and size, and what a site wants said.

A cluster is named by its kind (``cluster: slurm``), by the address of a running scheduler, by a profile, which is a
YAML file (``cluster: site.yaml``), or is described in place (``cluster: {kind: slurm, queue: regular}``). What is not
said comes from the profile of its kind that skygraft ships, see `shipped_profile`. Everything is checked when the
configuration is read; nothing has been started then.
"""

from __future__ import annotations

import difflib
import functools
import math
import os
import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Self

import yaml
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    ValidationInfo,
    model_serializer,
    model_validator,
)

from skygraft.config.yaml_schema import (
    BASE_DIR,
    Duration,
    ResolvedPath,
    Section,
    Size,
    base_dir,
    describe_problems,
    parse_duration,
    problems_error,
    read_yaml,
)
from skygraft.errors import ConfigError
from skygraft.paths import home_expanded
from skygraft.processes import MOST_PROCESSES

__all__ = [
    "BATCH_KINDS",
    "KINDS",
    "RANK_KINDS",
    "ClusterConfig",
    "TlsConfig",
    "as_cluster",
    "load_profile",
    "named_cluster",
    "shipped_profile",
]

BATCH_KINDS = ("slurm", "pbs", "lsf", "htcondor", "sge")
"""Kinds whose workers are jobs of a batch system."""
RANK_KINDS = ("mpi", "slurm-runner")
"""Kinds whose workers are the other processes of the launch that this process is one of."""
KINDS = ("local", *BATCH_KINDS, "kubernetes", *RANK_KINDS, "scheduler")

_SHUTDOWN_SECONDS = 30.0
"""What a worker needs to leave in an orderly way."""
_STAGGER = 0.05
"""Of the walltime: over so much the ends of workers are spread, so that not all leave at once."""
_MOST_STAGGER = 300.0

_OF_ALL = {"kind", "io_limit", "worker_timeout"}
_OF_STARTED = {"n_workers", "tls", "scratch"}
_OF_BATCH = _OF_ALL | _OF_STARTED | {
    "minimum_workers", "cores", "processes", "memory", "walltime", "queue", "account", "directives", "skip_directives",
    "prologue", "interface", "scheduler_options", "logs", "python", "job_name", "worker_options", "start_timeout",
}  # fmt: skip
_OF_RANKS = _OF_ALL | {
    "tls", "scratch", "memory_limit", "interface", "scheduler_options", "worker_options", "logs", "start_timeout",
}  # fmt: skip
_KEYS: dict[str, set[str]] = {
    "local": _OF_ALL | _OF_STARTED | {"memory_limit"},
    "scheduler": _OF_ALL | {"address", "tls", "start_timeout"},
    "slurm": _OF_BATCH,
    "lsf": _OF_BATCH,
    "pbs": _OF_BATCH | {"resources"},
    "sge": _OF_BATCH | {"resources"},
    "htcondor": _OF_BATCH - {"queue", "account"} | {"disk"},
    "kubernetes": _OF_ALL | _OF_STARTED | {
        "minimum_workers", "cores", "memory", "disk", "image", "namespace", "env", "claims", "spec", "start_timeout",
    },
    # dask-mpi hands the scheduler no options, and MPI itself carries the keys.
    "mpi": _OF_RANKS - {"scheduler_options", "logs"},
    "slurm-runner": _OF_RANKS,
}  # fmt: skip
_OWN_OPTIONS = {
    "dashboard-address": "", "death-timeout": "start_timeout", "interface": "interface", "lifetime": "walltime",
    "lifetime-stagger": "walltime",
    "local-directory": "scratch", "memory-limit": "memory", "name": "job_name", "nanny": "", "no-nanny": "",
    "nthreads": "cores", "nworkers": "processes", "protocol": "tls", "tls-ca-file": "tls", "tls-cert": "tls",
    "tls-key": "tls", "security": "tls",
}  # fmt: skip
"""Options of a worker that other keys stand for."""


def _one_or_more(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


def _one_line(values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        if "\n" in value.strip():
            raise ValueError(f"{value!r} is more than one line; give a list with one for each")
    return values


Lines = Annotated[tuple[str, ...], BeforeValidator(_one_or_more), AfterValidator(_one_line)]
Count = Annotated[int | None, Field(ge=1, strict=True)]


class TlsConfig(Section):
    """Files of the encryption of a scheduler that is running already."""

    ca_file: ResolvedPath
    """Certificate of the authority that signed the others."""
    cert: ResolvedPath
    """Certificate of this client."""
    key: ResolvedPath
    """Its key; nobody else should be able to read it."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        missing = [f"{name} ({path})" for name, path in self if not path.is_file()]
        if missing:
            raise ValueError(f"there is no such file: {', '.join(missing)}")
        return self


class ClusterConfig(Section):
    """Where the tasks run. Each kind has some of the keys; a key that its kind does not have is an error."""

    kind: str = "local"
    """``local``, ``slurm``, ``pbs``, ``lsf``, ``htcondor``, ``sge``, ``kubernetes``, ``mpi``, ``slurm-runner``, or
    ``scheduler`` with an `address`."""
    address: str | None = None
    """Address of a running Dask scheduler, such as ``tcp://host:8786``."""
    n_workers: Count = None
    """Largest number of worker processes; on this machine, by default one for each core."""
    minimum_workers: Annotated[int, Field(ge=1, strict=True)] = 1
    """The cluster does not shrink below so many, also where there is little to do."""
    memory_limit: Size = None
    """Memory of each process where it is not part of a job, such as ``4GiB``; by default an equal share."""
    cores: Count = None
    """Cores of a job, or of a Kubernetes worker."""
    processes: Count = None
    """Worker processes in a job; by default one for each core."""
    memory: Size = None
    """Memory of a job, or of a Kubernetes worker."""
    disk: Size = None
    """Scratch disk of an HTCondor job, or of a worker's pod."""
    walltime: Duration = None
    """How long a job may run. Workers leave in time before it ends, and others take their place."""
    queue: str | None = None
    """Queue or partition."""
    account: str | None = None
    """Account or project that pays."""
    resources: str | None = None
    """What to ask for where `cores` and `memory` do not say it: the ``-l`` of PBS (``select=...``) and of SGE."""
    directives: Lines = ()
    """More lines for the head of the job script, without ``#SBATCH`` and the like; for HTCondor ``key = value``."""
    skip_directives: Lines = ()
    """Lines of its head with one of these texts are left out; for HTCondor, keys."""
    prologue: Lines = ()
    """Shell commands that run on the worker's machine first, such as ``module load python``."""
    python: str | None = None
    """Python of the workers; by default this one."""
    job_name: str | None = None
    interface: str | None = None
    """Network interface that scheduler and workers use, such as ``ib0``."""
    scheduler_options: dict[str, Any] = Field(default_factory=dict)
    """Options of `distributed.Scheduler`, such as ``host`` or ``port``."""
    worker_options: dict[str, str | int | float | bool] = Field(default_factory=dict)
    """More options of ``dask worker``, such as ``{resources: "GPU=1"}``."""
    scratch: str | None = None
    """Folder on each worker's own disk, such as ``$TMPDIR``; expanded there."""
    logs: ResolvedPath | None = None
    """Folder that workers see too, for the jobs' logs; by default one in the campaign's output."""
    image: str | None = None
    """Container image of the scheduler and the workers."""
    namespace: str | None = None
    """Kubernetes namespace; by default that of the context."""
    env: dict[str, str] = Field(default_factory=dict)
    """Environment variables of the containers."""
    claims: dict[str, str] = Field(default_factory=dict)
    """Persistent volume claims, and the folder at which each is mounted."""
    spec: ResolvedPath | None = None
    """Manifest of a ``DaskCluster``, instead of `image`, `cores`, `memory`, `env` and `claims`."""
    tls: bool | TlsConfig | None = None
    """Whether scheduler, workers and client prove to each other who they are, and encrypt; by default wherever
    skygraft starts the scheduler, also on this machine, where others may have accounts. For a running scheduler, the
    files with which to."""
    io_limit: Count = None
    """How many tasks may read or write at the same time; by default all."""
    start_timeout: Duration = "1d"
    """How long to wait for the first worker."""
    worker_timeout: Duration = "30min"
    """How long a run goes on without a worker that does anything, where none is known to be on its way."""

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, data: Any) -> Any:
        """What is not said is as in the shipped profile of the kind."""
        if isinstance(data, Mapping) and data.get("kind", "local") in KINDS:
            return {**shipped_profile(data.get("kind", "local")), **data}
        return data

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.kind not in KINDS:
            near = difflib.get_close_matches(self.kind, KINDS, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(
                f"unknown cluster {self.kind!r}{hint}; there are: {', '.join(KINDS[:-1])}, scheduler (with an "
                "address), the address of a running scheduler such as tcp://host:8786, or a profile (a .yaml file)"
            )
        if (self.kind == "scheduler") != (self.address is not None):
            raise ValueError("kind: scheduler and an address belong together")
        self._check_keys()
        if self.kind in BATCH_KINDS:
            self._check_job()
        if self.kind == "kubernetes":
            self._check_kubernetes()
        self._check_local(self.n_workers)
        if self.minimum_workers > (self.n_workers or math.inf):
            raise ValueError(f"minimum_workers is {self.minimum_workers}, more than n_workers ({self.n_workers})")
        self._check_tls()
        return self

    def _check_keys(self) -> None:
        for key in type(self).model_fields:
            field = type(self).model_fields[key]
            if key in _KEYS[self.kind] or getattr(self, key) == field.get_default(call_default_factory=True):
                continue
            if self.kind == "scheduler":
                raise ValueError(f"{key} is not of a running scheduler: it has its workers")
            kinds = [kind for kind in KINDS if key in _KEYS[kind]]
            raise ValueError(f"{key} is not of kind: {self.kind}, but of {', '.join(kinds)}")
        for option in self.worker_options:
            name = option.replace("_", "-")
            if name in _OWN_OPTIONS:
                by = f"; use {_OWN_OPTIONS[name]}" if _OWN_OPTIONS[name] else ""
                raise ValueError(f"worker_options.{option} is set by skygraft itself{by}")

    def _check_job(self) -> None:
        missing = [key for key in ("n_workers", "cores", "memory", "walltime") if getattr(self, key) is None]
        if self.kind == "htcondor":
            missing = [key for key in missing if key != "walltime"] + ["disk"] * (self.disk is None)
            bad = [line for line in self.directives if "=" not in line]
            if bad:
                raise ValueError(f"directives: {bad[0]!r} is not like 'key = value', as HTCondor wants it")
        if missing:
            raise ValueError(f"kind: {self.kind} needs {', '.join(missing)}")
        assert self.cores is not None
        if self.processes is not None and self.processes > self.cores:
            raise ValueError(f"processes is {self.processes}, more than the {self.cores} cores of a job")
        for key in ("scratch", "interface", "queue", "account", "job_name"):
            if re.search(r"[\n\r;&|`]|\$\(", getattr(self, key) or ""):
                raise ValueError(
                    f"{key} is {getattr(self, key)!r}; it cannot hold shell commands, for which there is prologue"
                )

    def _check_kubernetes(self) -> None:
        given = [key for key in ("image", "cores", "memory", "disk", "env", "claims") if getattr(self, key)]
        shipped = shipped_profile("kubernetes")
        if self.spec is not None:
            given = [key for key in given if getattr(self, key) != shipped.get(key)]
            if given:
                raise ValueError(f"spec says all of the containers; {', '.join(given)} cannot stand beside it")
            if not self.spec.is_file():
                raise ValueError(f"spec is {str(self.spec)!r}; there is no such file")
        elif self.image is None:
            raise ValueError("kind: kubernetes needs an image with skygraft in it, or a spec")
        if "$" in (self.scratch or ""):
            raise ValueError(f"scratch is {self.scratch!r}; no shell expands it in a pod: name the folder")
        for claim, folder in self.claims.items():
            if not folder.startswith("/"):
                raise ValueError(f"claims.{claim} is {folder!r}; the absolute folder to mount it at is needed")

    def _check_tls(self) -> None:
        if self.kind == "scheduler":
            encrypted = str(self.address).startswith("tls://")
            if self.tls is True or (encrypted and not isinstance(self.tls, TlsConfig)):
                raise ValueError("for an encrypted scheduler tls names its files: {ca_file: ..., cert: ..., key: ...}")
            if isinstance(self.tls, TlsConfig) and not encrypted:
                raise ValueError(
                    f"tls has files, but the address is {self.address!r}; one like tls://host:8786 is needed"
                )
        elif isinstance(self.tls, TlsConfig):
            raise ValueError(
                "tls: files are of a running scheduler; here say true or false, keys are made for each run"
            )
        elif self.kind == "kubernetes" and self.tls is True:
            raise ValueError(
                "tls: the Dask operator for Kubernetes cannot talk to an encrypted scheduler; keep others out with a "
                "NetworkPolicy, or start an encrypted one yourself and name its address"
            )

    @model_serializer(mode="wrap")
    def _short(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what says nothing; `shipped_profile` would bring back what it has, so that stays."""
        dumped: dict[str, Any] = handler(self)
        shipped = shipped_profile(self.kind) if self.kind in KINDS else {}
        fields = type(self).model_fields
        return {
            key: value
            for key, value in dumped.items()
            if key == "kind"
            or key in shipped
            or getattr(self, key) != fields[key].get_default(call_default_factory=True)
        }

    @property
    def uses_tls(self) -> bool:
        """Whether traffic is encrypted and peers are known."""
        if self.tls is None:
            return self.kind not in ("kubernetes", "scheduler")
        return bool(self.tls)

    @property
    def processes_per_job(self) -> int:
        """Worker processes in a job."""
        return self.processes or self.cores or 1

    @property
    def threads_per_process(self) -> int:
        """Tasks that a worker process runs at the same time."""
        return max(1, (self.cores or 1) // self.processes_per_job) if self.kind in BATCH_KINDS else 1

    def stagger(self) -> float:
        """Seconds over which the ends of workers are spread."""
        return min(_MOST_STAGGER, _STAGGER * parse_duration(self.walltime)) if self.walltime is not None else 0.0

    def lifetime(self, task_seconds: float) -> float | None:
        """Seconds after which a worker leaves, before its walltime ends; None where nothing ends it.

        Parameters
        ----------
        task_seconds : float
            Length of a task.
        """
        if self.walltime is None:
            return None
        return parse_duration(self.walltime) - self.stagger() - _SHUTDOWN_SECONDS - task_seconds

    def check_task(self, task_seconds: float) -> None:
        """Make sure that a job is long enough for a task.

        Raises
        ------
        ValueError
            If it is not.
        """
        lifetime = self.lifetime(task_seconds)
        if lifetime is not None and lifetime < task_seconds:
            need = math.ceil((2 * task_seconds + _SHUTDOWN_SECONDS) / (1 - _STAGGER))
            raise ValueError(
                f"cluster.walltime is {self.walltime}, too short for tasks of {task_seconds:g} s (task_seconds): with "
                f"what starting and leaving take, {need} s are needed. Ask for more, or make tasks shorter"
            )

    def with_workers(self, n_workers: int | None) -> ClusterConfig:
        """The same with another largest number of workers.

        Raises
        ------
        ConfigError
            If it is not for us to say how many there are.
        """
        if n_workers is None:
            return self
        if "n_workers" not in _KEYS[self.kind]:
            raise ConfigError(
                f"the number of workers is not ours to choose on a cluster of kind {self.kind}", key="cluster.n_workers"
            )
        self._check_local(n_workers)
        return self.model_copy(
            update={"n_workers": n_workers, "minimum_workers": min(self.minimum_workers, max(1, n_workers))}
        )

    def _check_local(self, n_workers: int | None) -> None:
        if self.kind == "local" and (n_workers or 0) > MOST_PROCESSES:
            raise ConfigError(
                f"{n_workers} workers of this machine are asked for; {MOST_PROCESSES} are allowed",
                key="cluster.n_workers",
                fix="Ask for as many as it has cores",
            )

    def at_most(self, n_workers: int) -> ClusterConfig:
        """The same with no more workers than have something to do, where that is ours to choose.

        Parameters
        ----------
        n_workers : int
            Workers that there is work for.
        """
        if "n_workers" not in _KEYS[self.kind]:
            return self
        most = self.n_workers or len(os.sched_getaffinity(0))
        return self.with_workers(max(1, min(most, n_workers)))


@functools.cache
def shipped_profile(kind: str) -> dict[str, Any]:
    """What a cluster of a kind is like where nothing else is said.

    Parameters
    ----------
    kind : str
        One of the kinds.
    """
    file = resources.files("skygraft.clusters") / "profiles" / f"{kind}.yaml"
    content = yaml.safe_load(file.read_text(encoding="utf-8")) if file.is_file() else None
    return {"kind": kind, **(content or {})}


def load_profile(path: str | os.PathLike[str]) -> ClusterConfig:
    """Read and check the profile of a cluster.

    Parameters
    ----------
    path : path-like
        The YAML file; relative paths in it are relative to its folder.

    Raises
    ------
    ConfigError
        If it cannot be read, or anything in it is not as it should be; all problems are named.
    """
    path = Path(path)
    content = read_yaml(path, "profile of a cluster")
    if not isinstance(content, Mapping) or "kind" not in content:
        raise ConfigError(
            "this is not the profile of a cluster: a mapping with a kind is needed",
            path=path,
            fix=f"Start with kind:, one of {', '.join(KINDS)}",
        )
    try:
        return ClusterConfig.model_validate(dict(content), context={BASE_DIR: path.resolve().parent})
    except ValidationError as error:
        raise problems_error(describe_problems(error, ClusterConfig), "profile", path) from error


def as_cluster(value: Any, info: ValidationInfo) -> Any:
    """Let ``local``, ``tcp://host:port`` and ``site.yaml`` stand for the clusters that they name.

    Parameters
    ----------
    value : str, mapping or ClusterConfig
        A name, or what is passed on.
    info : pydantic.ValidationInfo
        Says what a relative path is relative to.

    Raises
    ------
    ConfigError
        If a profile is not as it should be.
    """
    return _named(value, base_dir(info)) if isinstance(value, str) else value


def _named(name: str, base: Path) -> Any:
    if "://" in name:
        return {"kind": "scheduler", "address": name}
    if name.endswith((".yaml", ".yml")) or os.sep in name:
        return load_profile(base / home_expanded(name))
    return {"kind": name}


def named_cluster(name: str, *, task_seconds: float) -> ClusterConfig:
    """The cluster that a command line names.

    Parameters
    ----------
    name : str
        A kind, the address of a scheduler, or the path of a profile.
    task_seconds : float
        Length of a task of the campaign that is to run there.

    Raises
    ------
    ConfigError
        If there is no such cluster, or its jobs are too short for a task.
    """
    try:
        cluster = ClusterConfig.model_validate(_named(name, Path.cwd()))
        cluster.check_task(task_seconds)
    except ValidationError as error:
        raise problems_error(describe_problems(error, ClusterConfig), "cluster") from error
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(str(error), path=name if name.endswith((".yaml", ".yml")) else None) from error
    return cluster
