"""Workers that are jobs of a batch system: submitted, watched, replaced and cancelled through dask-jobqueue."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import math
import os
import shlex
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dask
from distributed import Client, Security
from distributed.core import Status
from distributed.deploy.spec import ProcessInterface
from distributed.diagnostics.plugin import SchedulerPlugin

from skygraft.clusters.batch import BATCH_SYSTEMS, BatchSystem, JobState, log_tail
from skygraft.clusters.opened import OpenCluster
from skygraft.clusters.settings import JOBS, WORKERS, as_environment
from skygraft.clusters.watchdog import Outlook
from skygraft.config.cluster import ClusterConfig
from skygraft.config.yaml_schema import parse_bytes, parse_duration, parse_timeout
from skygraft.errors import CampaignError

__all__ = ["job_script", "open_jobs"]

_LOG = logging.getLogger(__name__)

_LOOK_SECONDS = 10.0
"""Between two looks at the batch system's list of jobs."""
_GRACE_SECONDS = 20.0
"""A new job may not be in that list at once."""
_FIRST_PAUSE, _LONGEST_PAUSE = 10.0, 600.0
"""Before another job takes the place of one that never got to work; doubled each time, so that a machine on which
jobs die at once does not eat jobs all night."""
_HOPELESS = 3
"""So many jobs that ended without a worker, and none with one, are no accident."""
_DEATH_SECONDS = 120
"""A worker that cannot reach the scheduler for so long ends, and its job with it."""
_CONNECT_SECONDS = 300.0
"""A job that has been running for so long without a worker never gets one."""
_SAY_SECONDS = 60.0
_TLS_PREFIX = ".tls-"
_EXPORTS = tuple(f"export {name}={value}" for name, value in as_environment(WORKERS).items())


@dataclass
class _Job:
    name: str
    number: str | None
    since: float
    arrived: bool = False
    missed: int = 0
    running_since: float | None = None
    give_up_at: float | None = None


@dataclass
class _Watch(SchedulerPlugin):
    """Follows the jobs of a cluster: those refused, ended before their worker came, or gone make room for others.

    dask-jobqueue takes a job for good once it has submitted it, and never looks whether it still exists.
    """

    batch: BatchSystem
    logs: Path
    name: str = "skygraft-watch"
    jobs: dict[str, _Job] = field(default_factory=dict)
    states: dict[str, JobState] = field(default_factory=dict)
    numbers: set[str] = field(default_factory=set)
    refusal: str = ""
    ended: list[str] = field(default_factory=list)
    n_arrived: int = 0
    n_in_vain: int = 0

    def add_worker(self, scheduler: Any, worker: str) -> None:
        """A worker is there: its job is a good one."""
        name = str(scheduler.workers[worker].name)
        for job in self.jobs.values():
            if name == job.name or name.startswith(f"{job.name}-"):
                job.arrived = True
                self.n_arrived += 1
                self.n_in_vain = 0

    def submitted(self, name: str, number: str) -> None:
        """A job was taken."""
        number = number.split(".", maxsplit=1)[0]
        self.numbers.add(number)
        self.jobs[name] = _Job(name, number, time.monotonic())

    def refused(self, name: str, error: BaseException) -> None:
        """A job was not taken."""
        lines = [line.strip() for line in str(error).partition("stderr:")[2].splitlines() if line.strip()]
        self.refusal = "; ".join(lines) or str(error)
        _LOG.warning("%s refused a job: %s", self.batch.name, self.refusal)
        self.jobs[name] = _Job(name, None, time.monotonic())
        self._in_vain(self.jobs[name])

    def _in_vain(self, job: _Job) -> None:
        pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** min(self.n_in_vain, 10))
        job.give_up_at = time.monotonic() + pause
        self.n_in_vain += 1

    async def follow(self, cluster: Any) -> None:
        """Look at the jobs until cancelled; runs in the cluster's event loop."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            try:
                states = await asyncio.to_thread(self.batch.jobs)
            except CampaignError as error:
                # Its server may be restarting: that says nothing about the jobs.
                _LOG.info("%s", error)
                continue
            self.see(states)
            self.make_room(cluster)

    def see(self, states: dict[str, JobState]) -> None:
        """Take in a list of jobs."""
        self.states = states
        now = time.monotonic()
        for job in self.jobs.values():
            state = states.get(job.number or "")
            if state is not None:
                job.missed = 0
                if state.running and job.running_since is None:
                    job.running_since = now
            elif job.number is not None and now - job.since > _GRACE_SECONDS:
                job.missed += 1
                # Twice: lists are not always whole.
                if job.missed == 2 and not job.arrived:
                    self.ended.append(job.number)
                    _LOG.warning("job %s ended without a worker\n%s", job.number, log_tail(self.logs, job.number))
                    self._in_vain(job)

    def make_room(self, cluster: Any) -> None:
        """Forget the jobs that are gone, so that adaptive scaling asks for others."""
        now = time.monotonic()
        for name, job in list(self.jobs.items()):
            gone = job.missed >= 2 and job.arrived
            if gone or (job.give_up_at is not None and now > job.give_up_at):
                del self.jobs[name]
                cluster.workers.pop(name, None)
                cluster.worker_spec.pop(name, None)

    def hopeless(self) -> str:
        """Why no worker will come; empty where one may."""
        if self.n_arrived:
            return ""
        if self.refusal:
            return f"{self.batch.name} refuses the jobs: {self.refusal}"
        if len(self.ended) >= _HOPELESS:
            return (
                f"{len(self.ended)} jobs ended before their worker came\n{log_tail(self.logs, self.ended[-1])}".rstrip()
            )
        now = time.monotonic()
        late = [j for j in list(self.jobs.values()) if j.running_since and now - j.running_since > _CONNECT_SECONDS]
        if late:
            number = late[0].number or ""
            what = f"job {number} has been running for {_CONNECT_SECONDS:g} s without its worker reaching the scheduler"
            return f"{what}\n{log_tail(self.logs, number)}".rstrip()
        return ""

    def outlook(self) -> Outlook:
        """Whether workers may come: while a job waits or runs, or another will be tried."""
        there = any(job.number in self.states for job in list(self.jobs.values()))
        text = f"{self.batch.name}: {self.say()}"
        if not there and self.refusal:
            text = f"{self.batch.name} refuses the jobs: {self.refusal}"
        return Outlook(True if there else None, text)

    def say(self) -> str:
        """What the jobs wait for, in the batch system's words."""
        texts = [self.states[j.number].text for j in list(self.jobs.values()) if j.number in self.states]
        counted = {text: texts.count(text) for text in dict.fromkeys(texts)}
        return ", ".join(f"{count} x {text}" for text, count in counted.items()) or f"{len(self.jobs)} submitted"


def _import_jobqueue(batch: BatchSystem) -> Any:
    # One of its modules takes SIGINT away from whoever imports it.
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGINT)
    try:
        return importlib.import_module("dask_jobqueue")
    except ImportError as error:
        raise CampaignError(
            f"{batch.name} needs dask-jobqueue, which is not installed ({error})",
            key="cluster.kind",
            fix=f"Install it with `pip install 'skygraft[{batch.extra}]'`",
        ) from error
    finally:
        if main and before is not None:
            signal.signal(signal.SIGINT, before)


def _job_class(base: Any, watch: _Watch) -> Any:
    class Job(base):  # type: ignore[misc]
        """A job whose refusal does not end the cluster, and whose fate is followed."""

        async def start(self) -> None:
            try:
                await super().start()
                watch.submitted(str(self.name), str(self.job_id))
            except (RuntimeError, OSError, ValueError) as error:
                watch.refused(str(self.name), error)
                await ProcessInterface.start(self)

        async def close(self) -> None:
            watch.jobs.pop(str(self.name), None)
            await super().close()
            self.status = Status.closed

    return Job


def _quoted(text: str) -> str:
    """Text for a shell that still expands variables in it."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _keywords(config: ClusterConfig, batch: BatchSystem, logs: Path, task_seconds: float) -> dict[str, Any]:
    """What the class of dask-jobqueue takes."""
    assert config.memory is not None
    # Workers have pages of their own; nobody else is to see them.
    options = ["--dashboard-address", "127.0.0.1:0"]
    lifetime = config.lifetime(task_seconds)
    if lifetime is not None:
        options += ["--lifetime", f"{lifetime:.0f}s", "--lifetime-stagger", f"{config.stagger():.0f}s"]
    for option, value in config.worker_options.items():
        if value is not False:
            options.append("--" + option.replace("_", "-"))
            options += [] if value is True else [shlex.quote(str(value))]
    given: dict[str, Any] = {
        "cores": config.cores,
        "processes": config.processes_per_job,
        "memory": f"{parse_bytes(config.memory)}B",
        "nanny": True,
        "job_name": config.job_name,
        "interface": config.interface,
        "local_directory": None if config.scratch is None else _quoted(config.scratch),
        "python": None if config.python is None else shlex.quote(config.python),
        "job_script_prologue": [*config.prologue, *_EXPORTS],
        "job_extra_directives": list(config.directives),
        "job_directives_skip": list(config.skip_directives),
        "worker_extra_args": options,
        "death_timeout": _DEATH_SECONDS,
        "log_directory": str(logs),
    }
    if config.kind == "htcondor":
        pairs = (line.partition("=") for line in config.directives)
        given["job_extra_directives"] = {key.strip(): value.strip() for key, _, value in pairs}
        if config.walltime is not None:
            given["job_extra_directives"].setdefault("allowed_job_duration", math.ceil(parse_duration(config.walltime)))
        given["disk"] = f"{parse_bytes(config.disk or '')}B"
        return given
    assert config.walltime is not None
    given |= {
        "queue": config.queue,
        batch.account: config.account,
        "walltime": batch.walltime(parse_duration(config.walltime)),
    }
    if config.resources is not None:
        given["resource_spec"] = config.resources
    return given


@contextlib.contextmanager
def _keys(config: ClusterConfig, logs: Path) -> Iterator[dict[str, Any]]:
    """A folder for this run's keys that only this person can enter, and the keywords for it."""
    if not config.uses_tls:
        yield {}
        return
    for old in logs.glob(f"{_TLS_PREFIX}*"):
        # Of a driver that was killed. Its campaign is locked by this one, so it is gone.
        shutil.rmtree(old, ignore_errors=True)
    folder = tempfile.mkdtemp(prefix=_TLS_PREFIX, dir=logs)
    try:
        yield {"security": Security.temporary(), "shared_temp_directory": folder}
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _cluster(config: ClusterConfig, logs: Path, task_seconds: float, watch: _Watch) -> Iterator[Any]:
    module = _import_jobqueue(watch.batch)
    cls = getattr(module, watch.batch.cluster)
    keywords = _keywords(config, watch.batch, logs, task_seconds)
    # The dashboard shows tasks and machines to whoever reaches it: loopback only.
    scheduler_options = {"dashboard_address": "127.0.0.1:0", **config.scheduler_options}
    with _keys(config, logs) as keys:
        try:
            cluster = cls(
                job_cls=_job_class(cls.job_cls, watch), scheduler_options=scheduler_options, **keywords, **keys
            )
        except (ValueError, TypeError, RuntimeError, OSError) as error:
            raise CampaignError(
                f"the cluster cannot be started: {error}", key="cluster", fix="Correct the profile of the cluster"
            ) from error
        try:
            yield cluster
        finally:
            try:
                cluster.close(timeout=60)
            finally:
                for name in ("_job_ca_file", "_job_cert", "_job_key"):
                    if (handle := getattr(cluster, name, None)) is not None:
                        handle.close()
                _cancel_the_rest(watch)


def _cancel_the_rest(watch: _Watch) -> None:
    """Cancel the jobs that closing the cluster has left, should there be any."""
    try:
        left = sorted(watch.numbers & watch.batch.jobs().keys())
    except CampaignError as error:
        if watch.numbers:
            _LOG.warning("some of the jobs %s may still be there: %s", ", ".join(sorted(watch.numbers)), error)
        return
    watch.batch.cancel_jobs(left)


def job_script(config: ClusterConfig, *, logs: Path, task_seconds: float = 60.0) -> str:
    """The script of a worker's job, as it would be submitted; nothing is started.

    Parameters
    ----------
    config : ClusterConfig
        Of a batch system.
    logs : Path
        Folder of the jobs' logs.
    task_seconds : float
        Length of a task.
    """
    batch = BATCH_SYSTEMS[config.kind]
    cls = getattr(_import_jobqueue(batch), batch.cluster)
    job = cls.job_cls("tls://scheduler:8786", name="worker", **_keywords(config, batch, logs, task_seconds))
    return str(job.job_script())


@contextlib.contextmanager
def open_jobs(
    config: ClusterConfig, *, logs: Path, task_seconds: float, say: Callable[[str], None]
) -> Iterator[OpenCluster]:
    """Workers as jobs of a batch system, as many as there is work for; cancelled at the end, however it ends.

    Parameters
    ----------
    config : ClusterConfig
        Of a batch system.
    logs : Path
        Folder that workers see too.
    task_seconds : float
        Length of a task: a worker leaves in time before its walltime ends.
    say : callable
        Hears what is waited for.

    Yields
    ------
    OpenCluster
        Once the first worker is there.

    Raises
    ------
    CampaignError
        If the batch system is not there, refuses the jobs, or no worker comes.
    """
    batch = BATCH_SYSTEMS[config.kind]
    batch.check()
    logs.mkdir(parents=True, exist_ok=True)
    watch = _Watch(batch, logs)
    assert config.n_workers is not None
    per_job = config.processes_per_job
    most = math.ceil(config.n_workers / per_job)
    least = min(most, math.ceil(config.minimum_workers / per_job))
    with dask.config.set(JOBS), _cluster(config, logs, task_seconds, watch) as cluster:
        cluster.scheduler.add_plugin(watch)
        # Always adaptive: a fixed size would not be made up for after a job is lost.
        cluster.adapt(minimum_jobs=least, maximum_jobs=most, interval="2s", wait_count=15)
        following = asyncio.run_coroutine_threadsafe(watch.follow(cluster), cluster.loop.asyncio_loop)
        try:
            with Client(cluster, set_as_default=False) as client:
                _wait(client, watch, config, cluster, say)
                threads = most * per_job * config.threads_per_process
                yield OpenCluster(client, threads, cluster.dashboard_link, config.kind, watch.outlook)
        finally:
            following.cancel()


def _wait(client: Client, watch: _Watch, config: ClusterConfig, cluster: Any, say: Callable[[str], None]) -> None:
    """Wait for the first worker."""
    del client
    started = said = time.monotonic()
    timeout = parse_timeout(config.start_timeout)
    say(f"waiting for the first job of {watch.batch.name}")
    while not watch.n_arrived:
        problem, now = watch.hopeless(), time.monotonic()
        if not problem and now - started > timeout:
            problem = f"no worker came within {config.start_timeout} (start_timeout): {watch.say()}"
        if problem:
            script = watch.logs / f"job-{os.getpid()}.sh"
            script.write_text(cluster.job_script(), encoding="utf-8")
            raise CampaignError(
                problem,
                key="cluster",
                fix=f"The job's script is {script}, its logs are beside it; correct the profile of the cluster",
            )
        if now - said > _SAY_SECONDS:
            said = now
            say(f"still waiting for {watch.batch.name}: {watch.say()}")
        time.sleep(0.1)
