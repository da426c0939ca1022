"""Workers as jobs of a batch system, through dask-jobqueue: submitted, followed, replaced and cancelled."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import shlex
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dask
from distributed import Client, Security
from distributed.core import Status
from distributed.deploy.spec import ProcessInterface
from distributed.diagnostics.plugin import SchedulerPlugin

from skygraft.clusters.base import OpenCluster, import_extra
from skygraft.clusters.batch import BATCH_SYSTEMS, BatchSystem, JobState, log_tail
from skygraft.clusters.dask_settings import JOBS, WORKERS, as_environment
from skygraft.clusters.watchdog import Outlook
from skygraft.config.cluster_kinds import BatchConfig, HtcondorConfig, PbsConfig, QueueConfig, SgeConfig
from skygraft.config.yaml_schema import parse_bytes, parse_duration, parse_timeout
from skygraft.errors import CampaignError

__all__ = ["job_script", "open_jobs"]

_LOG = logging.getLogger(__name__)

_LIST_SECONDS = 10.0
"""Time between two requests for the batch system's list of jobs."""
_GRACE_SECONDS = 20.0
"""Time that a new job may be missing from that list."""
_FIRST_PAUSE, _LONGEST_PAUSE = 10.0, 600.0
"""Time before a job is replaced that ended without a worker, seconds. It doubles each time, so that a machine on which
jobs die at once does not use up jobs all night."""
_MAX_ENDED = 3
"""The run ends after so many jobs that ended without a worker, if no job had one."""
_DEATH_SECONDS = 120
"""A worker that cannot reach the scheduler for this time ends, and its job with it."""
_CONNECT_SECONDS = 300.0
"""A job that has been running for this time without a worker is considered broken."""
_MESSAGE_SECONDS = 60.0
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
class _JobTracker(SchedulerPlugin):
    """Follows the jobs of a cluster, so that jobs that were refused or have ended are replaced.

    dask-jobqueue assumes that a job lives on once it is submitted, and never checks whether it still exists.
    """

    batch: BatchSystem
    logs: Path
    name: str = "skygraft-jobs"
    jobs: dict[str, _Job] = field(default_factory=dict)
    states: dict[str, JobState] = field(default_factory=dict)
    numbers: set[str] = field(default_factory=set)
    refusal: str = ""
    ended: list[str] = field(default_factory=list)
    n_arrived: int = 0
    n_failures: int = 0

    def add_worker(self, scheduler: Any, worker: str) -> None:
        """Note that the worker of a job has connected."""
        name = str(scheduler.workers[worker].name)
        for job in self.jobs.values():
            if name == job.name or name.startswith(f"{job.name}-"):
                job.arrived = True
                self.n_arrived += 1
                self.n_failures = 0

    def submitted(self, name: str, number: str) -> None:
        """Note that the batch system has accepted a job."""
        number = number.split(".", maxsplit=1)[0]
        self.numbers.add(number)
        self.jobs[name] = _Job(name, number, time.monotonic())

    def refused(self, name: str, error: BaseException) -> None:
        """Note that the batch system has refused a job."""
        lines = [line.strip() for line in str(error).partition("stderr:")[2].splitlines() if line.strip()]
        self.refusal = "; ".join(lines) or str(error)
        _LOG.warning("%s refused a job: %s", self.batch.name, self.refusal)
        self.jobs[name] = _Job(name, None, time.monotonic())
        self._failed(self.jobs[name])

    def _failed(self, job: _Job) -> None:
        pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** min(self.n_failures, 10))
        job.give_up_at = time.monotonic() + pause
        self.n_failures += 1

    async def follow(self, cluster: Any) -> None:
        """Follow the jobs until cancelled; runs in the cluster's event loop."""
        while True:
            await asyncio.sleep(_LIST_SECONDS)
            try:
                states = await asyncio.to_thread(self.batch.jobs)
            except CampaignError as error:
                # Its server may be restarting, which says nothing about the jobs.
                _LOG.info("%s", error)
                continue
            self.update(states)
            self.forget_ended(cluster)

    def update(self, states: dict[str, JobState]) -> None:
        """Update the jobs from the batch system's list."""
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
                # Twice in a row: lists are not always complete.
                if job.missed == 2 and not job.arrived:
                    self.ended.append(job.number)
                    _LOG.warning("job %s ended without a worker\n%s", job.number, log_tail(self.logs, job.number))
                    self._failed(job)

    def forget_ended(self, cluster: Any) -> None:
        """Remove jobs that have ended from the cluster, so that adaptive scaling submits others."""
        now = time.monotonic()
        for name, job in list(self.jobs.items()):
            gone = job.missed >= 2 and job.arrived
            if gone or (job.give_up_at is not None and now > job.give_up_at):
                del self.jobs[name]
                cluster.workers.pop(name, None)
                cluster.worker_spec.pop(name, None)

    def hopeless(self) -> str:
        """Return why no worker will come; empty if one may."""
        if self.n_arrived:
            return ""
        if self.refusal:
            return f"{self.batch.name} refuses the jobs: {self.refusal}"
        if len(self.ended) >= _MAX_ENDED:
            what, number = f"{len(self.ended)} jobs ended before their worker came", self.ended[-1]
            return f"{what}\n{log_tail(self.logs, number)}".rstrip()
        now = time.monotonic()
        for job in list(self.jobs.values()):
            if job.running_since and now - job.running_since > _CONNECT_SECONDS:
                number, seconds = job.number or "", f"{_CONNECT_SECONDS:g} s"
                what = f"job {number} has been running for {seconds} without its worker reaching the scheduler"
                return f"{what}\n{log_tail(self.logs, number)}".rstrip()
        return ""

    def outlook(self) -> Outlook:
        """Return whether workers may come: a job is waiting or running, or another one will be submitted."""
        there = any(job.number in self.states for job in list(self.jobs.values()))
        text = f"{self.batch.name}: {self.describe()}"
        if not there and self.refusal:
            text = f"{self.batch.name} refuses the jobs: {self.refusal}"
        return Outlook(True if there else None, text)

    def describe(self) -> str:
        """Return the states of the jobs, in the batch system's words."""
        counted = Counter(self.states[j.number].text for j in list(self.jobs.values()) if j.number in self.states)
        return ", ".join(f"{count} x {text}" for text, count in counted.items()) or f"{len(self.jobs)} submitted"


def _cluster_class(batch: BatchSystem) -> Any:
    return getattr(import_extra("dask_jobqueue", batch.extra), batch.cluster)


def _job_class(base: Any, tracker: _JobTracker) -> Any:
    class Job(base):  # type: ignore[misc]
        """A job that is followed, and whose refusal does not end the cluster."""

        async def start(self) -> None:
            try:
                await super().start()
                tracker.submitted(str(self.name), str(self.job_id))
            except (RuntimeError, OSError, ValueError) as error:
                tracker.refused(str(self.name), error)
                await ProcessInterface.start(self)

        async def close(self) -> None:
            tracker.jobs.pop(str(self.name), None)
            await super().close()
            self.status = Status.closed

    return Job


def _quoted(text: str) -> str:
    """Quote a text for a shell, which still expands variables in it."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _keywords(config: BatchConfig, batch: BatchSystem, logs: Path, task_seconds: float) -> dict[str, Any]:
    """Return the arguments of dask-jobqueue's class."""
    # Workers serve dashboards of their own: loopback only.
    options = ["--dashboard-address", "127.0.0.1:0"]
    if (lifetime := config.lifetime(task_seconds)) is not None:
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
    if isinstance(config, HtcondorConfig):
        pairs = (line.partition("=") for line in config.directives)
        given["job_extra_directives"] = {key.strip(): value.strip() for key, _, value in pairs}
        if config.walltime is not None:
            given["job_extra_directives"].setdefault("allowed_job_duration", math.ceil(parse_duration(config.walltime)))
        given["disk"] = f"{parse_bytes(config.disk)}B"
        return given
    if isinstance(config, QueueConfig):
        given |= {"queue": config.queue, batch.account: config.account}
        given["walltime"] = batch.walltime(parse_duration(config.walltime))
    if isinstance(config, PbsConfig | SgeConfig) and config.resources is not None:
        given["resource_spec"] = config.resources
    return given


@contextlib.contextmanager
def _keys(config: BatchConfig, logs: Path) -> Iterator[dict[str, Any]]:
    """Make a folder for this run's keys that only this user can enter, and yield the arguments that name it."""
    if not config.uses_tls:
        yield {}
        return
    for old in logs.glob(f"{_TLS_PREFIX}*"):
        # Left by a driver that was killed: this process holds the campaign's lock, so that driver is gone.
        shutil.rmtree(old, ignore_errors=True)
    folder = tempfile.mkdtemp(prefix=_TLS_PREFIX, dir=logs)
    try:
        yield {"security": Security.temporary(), "shared_temp_directory": folder}
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _cluster(config: BatchConfig, logs: Path, task_seconds: float, tracker: _JobTracker) -> Iterator[Any]:
    cls = _cluster_class(tracker.batch)
    keywords = _keywords(config, tracker.batch, logs, task_seconds)
    # Whoever reaches the dashboard sees tasks and machines: loopback only.
    scheduler_options = {"dashboard_address": "127.0.0.1:0", **config.scheduler_options}
    with _keys(config, logs) as keys:
        try:
            cluster = cls(
                job_cls=_job_class(cls.job_cls, tracker), scheduler_options=scheduler_options, **keywords, **keys
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
                _cancel_remaining(tracker)


def _cancel_remaining(tracker: _JobTracker) -> None:
    """Cancel the jobs that are left after the cluster was closed."""
    try:
        left = sorted(tracker.numbers & tracker.batch.jobs().keys())
    except CampaignError as error:
        if tracker.numbers:
            _LOG.warning("some of the jobs %s may still exist: %s", ", ".join(sorted(tracker.numbers)), error)
        return
    tracker.batch.cancel_jobs(left)


def job_script(config: BatchConfig, *, logs: Path, task_seconds: float = 60.0) -> str:
    """Return the script of a worker's job with its logs in a folder, as it would be submitted; nothing is started."""
    batch = BATCH_SYSTEMS[config.kind]
    job = _cluster_class(batch).job_cls(
        "tls://scheduler:8786", name="worker", **_keywords(config, batch, logs, task_seconds)
    )
    return str(job.job_script())


@contextlib.contextmanager
def open_jobs(
    config: BatchConfig, *, logs: Path, task_seconds: float, say: Callable[[str], None]
) -> Iterator[OpenCluster]:
    """Start workers as jobs of a batch system, as many as there is work for, and wait for one.

    Jobs, whose logs are in a folder that workers see too, are cancelled when the context is left. Workers leave the
    length of a task, in seconds, before their walltime ends. `CampaignError` is raised if the batch system is not
    available, refuses the jobs, or no worker comes.
    """
    batch = BATCH_SYSTEMS[config.kind]
    batch.check()
    logs.mkdir(parents=True, exist_ok=True)
    tracker = _JobTracker(batch, logs)
    per_job = config.processes_per_job
    most = math.ceil(config.n_workers / per_job)
    least = min(most, math.ceil(config.minimum_workers / per_job))
    with dask.config.set(JOBS), _cluster(config, logs, task_seconds, tracker) as cluster:
        cluster.scheduler.add_plugin(tracker)
        # Always adaptive: with a fixed size, a lost job would not be replaced.
        cluster.adapt(minimum_jobs=least, maximum_jobs=most, interval="2s", wait_count=15)
        following = asyncio.run_coroutine_threadsafe(tracker.follow(cluster), cluster.loop.asyncio_loop)
        try:
            with Client(cluster, set_as_default=False) as client:
                _wait_for_worker(tracker, config, cluster, say)
                threads = most * per_job * config.threads_per_process
                yield OpenCluster(client, threads, config.kind, tracker.outlook)
        finally:
            following.cancel()


def _wait_for_worker(tracker: _JobTracker, config: BatchConfig, cluster: Any, say: Callable[[str], None]) -> None:
    """Wait for the first worker, and raise an error with the job's script and logs if none comes."""
    started = reported = time.monotonic()
    timeout = parse_timeout(config.start_timeout)
    say(f"waiting for the first job of {tracker.batch.name}")
    while not tracker.n_arrived:
        problem, now = tracker.hopeless(), time.monotonic()
        if not problem and now - started > timeout:
            problem = f"no worker came within {config.start_timeout} (start_timeout): {tracker.describe()}"
        if problem:
            script = tracker.logs / f"job-{os.getpid()}.sh"
            script.write_text(cluster.job_script(), encoding="utf-8")
            raise CampaignError(
                problem,
                key="cluster",
                fix=f"The job's script is {script}, its logs are beside it; correct the profile of the cluster",
            )
        if now - reported > _MESSAGE_SECONDS:
            reported = now
            say(f"still waiting for {tracker.batch.name}: {tracker.describe()}")
        time.sleep(0.1)
