"""The campaign: plan it, run it, see how far it is."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from skygraft.campaign.summaries import RunSummary, Status, UnusableImage
from skygraft.clusters.preflight import Expectation
from skygraft.clusters.watchdog import Outlook, Patience
from skygraft.config.campaign import CampaignConfig, load_config
from skygraft.config.cluster import BATCH_KINDS
from skygraft.config.yaml_schema import parse_timeout
from skygraft.disk import FileIdentity, atomic_path
from skygraft.errors import CampaignError, CatalogError, ConfigError, OutputError, OutputExistsError
from skygraft.execution.driver import DriveResult, Jobs, Work, drive, drive_serial, make_rows, map_items
from skygraft.execution.registering import begin_run, check_run, register
from skygraft.monitoring.progress import Overview, make_overview
from skygraft.monitoring.reporters import NoReporter, Reporter
from skygraft.records.checkpoint_writer import CheckpointWriter
from skygraft.records.events import RunStarted, TablesStarted
from skygraft.records.files import Layout, sweep_leftovers
from skygraft.records.image_summary import ImageSummary
from skygraft.records.interruption import Interruption
from skygraft.records.ledger import Failure, Ledger, phase_of, read_runs
from skygraft.records.lock import lease_path
from skygraft.records.plan_file import DamagedPlanError, Plan, campaign_plan, plan_key
from skygraft.records.status import (
    DONE,
    FAILED,
    QUARANTINED,
    WAITING,
    ImageStates,
    output_states,
    record_states,
    reopen,
    rescan,
    resume_states,
)
from skygraft.tables.arrow import numbers
from skygraft.tables.failures import write_failures

if TYPE_CHECKING:
    from distributed import Client

    from skygraft.campaign.checksums import ChecksumReport
    from skygraft.clusters.watching import ClusterWatch
    from skygraft.planning.check import Checks
    from skygraft.planning.summary import PlanSummary

__all__ = ["Campaign"]

_COLUMNS = {
    "tract": np.int32,
    "patch": np.int32,
    "ra": np.float32,
    "dec": np.float32,
    "n_sources": np.int32,
    "cost_seconds": np.float32,
}
"""Columns of the plan that a driver holds, and what is enough for them."""
_WORTH_A_PROCESS = 32
"""Images to be read again for which it pays to start another process."""
_FAILURES_TOLD = 1000
"""Most failures that a summary holds; all of them are in ``failures.parquet``."""
_PARTS_TOLD = 3
_WORTH_LOCAL, _WORTH_ELSEWHERE = 1.0, 10.0
"""Seconds of work for which a worker is worth starting: a process of this machine, and a job or a pod."""


class Campaign:
    """A campaign of injection: many images, one catalogue, one configuration.

    Parameters
    ----------
    config : CampaignConfig
        The configuration.

    Examples
    --------
    >>> campaign = Campaign.from_yaml("campaign.yaml")  # doctest: +SKIP
    >>> print(campaign.plan())  # doctest: +SKIP
    >>> print(campaign.run())  # doctest: +SKIP
    """

    def __init__(self, config: CampaignConfig) -> None:
        self.config = config
        self.layout = Layout(config.output)

    @classmethod
    def from_yaml(cls, path: str | os.PathLike[str], *, butler: Mapping[str, Any] | None = None) -> Self:
        """Read a campaign's configuration; parameters as of `load_config`.

        Raises
        ------
        ConfigError
            Naming everything that is wrong with it.
        """
        return cls(load_config(path, butler=butler))

    def plan(
        self,
        *,
        checks: Checks = "auto",
        processes: int | None = None,
        n_workers: int | None = None,
    ) -> PlanSummary:
        """Work out what would be done and what it would cost; no image is made.

        The survey is indexed anew and the catalogue partitioned, so images that appeared since are found.

        Parameters
        ----------
        checks : {"auto", "all", "none"} or int
            How many images' calibration to look at: all of a few thousand and some of more, all, none, or so many.
        processes : int, optional
            Processes of this machine to plan with; by default one for each core.
        n_workers : int, optional
            Workers to assume for the time that it would take; by default those of the configuration.

        Returns
        -------
        PlanSummary

        Raises
        ------
        CampaignError
            If there are no images, or the catalogue touches none.
        OutputExistsError
            If the output folder holds something else.
        """
        # Here, and so for other rooms below: the driver of a planned campaign does not carry the weight of planning.
        from skygraft.planning.summary import summarise_plan

        self._claim()
        with self.layout.locked(), Interruption():
            plan = self._make_plan(processes)
            check_run(self.config, plan)
            problems: tuple[str, ...] = ()
            try:
                states = resume_states(plan, self.config)
            except CampaignError as error:
                problems = (error.message,)
                states, _ = record_states(plan, self.layout)
            return summarise_plan(
                self.config,
                plan,
                checks=checks,
                processes=_cores(processes),
                n_workers=n_workers,
                # A run tries again what failed, but not what is in quarantine.
                to_make=np.isin(states.state, (WAITING, FAILED)),
                n_done=states.count(DONE),
                n_failed=states.count(FAILED, QUARANTINED),
                problems=problems,
            )

    def run(
        self,
        client: Client | None = None,
        *,
        n_workers: int | None = None,
        redo: bool = False,
        retry_failed: bool = False,
        reporter: Reporter | None = None,
        work: Work | None = None,
    ) -> RunSummary:
        """Make every image that is not done yet; those that failed before are tried again.

        Parameters
        ----------
        client : distributed.Client, optional
            The cluster to use; by default the one that the configuration names.
        n_workers : int, optional
            Processes of a local cluster. 0 makes the images in this process, one after the other, without Dask.
        redo : bool
            Make images again whose inputs or settings have changed since they were made; without it such a change is
            an error.
        retry_failed : bool
            Make those images only that failed before, and among them those in quarantine, which a run leaves alone
            otherwise because they kill the workers that take them.
        reporter : Reporter, optional
            Hears how far it is; see `skygraft.monitoring.reporters.RichReporter`.
        work : callable, optional
            What a task does instead of `skygraft.execution.driver.make_rows`: ``work(rows, output)``. For rehearsals.

        Returns
        -------
        RunSummary
            Failures of images are in it; they are not raised.

        Raises
        ------
        CampaignError
            If something has changed since images were made, another process runs the campaign, or the cluster fails.
        OutputError
            If the output folder cannot be written.
        """
        self._claim()
        with self.layout.locked(), Interruption() as interruption:
            reporter = reporter or NoReporter()
            plan = self._current_plan(reporter.say)
            with Ledger(self.layout.ledger) as ledger:
                states = resume_states(plan, self.config, redo=redo, ledger=ledger)
                if n_removed := begin_run(self.config, plan, states.rows(WAITING, FAILED, QUARANTINED).tolist()):
                    reporter.say(f"{n_removed} datasets whose files are made again were removed from the repository")
                self._write_config()
                wanted = (FAILED, QUARANTINED) if retry_failed else (WAITING, FAILED)
                rows = states.rows(*wanted)
                run = _Run(self, plan, states, rows, reporter, interruption, ledger)
                with run.reporters[0]:
                    (place,) = ledger.append([RunStarted(images=len(plan), waiting=len(rows), redo=redo)])
                    states.begin_run(place)
                    summary = run.go(client, n_workers, work)
                    # Of workers that were killed, in this run or before; it goes through all folders, so not at the
                    # start.
                    sweep_leftovers(self.layout.root)
                    ledger.append([summary.ended()])
                    run.checkpoints.save()
        return summary

    def status(self) -> Status:
        """How far the campaign is, from its records and its ledger.

        Raises
        ------
        CampaignError
            If there is no plan.
        """
        from skygraft.campaign.checksums import look_at_files

        plan = campaign_plan(self.layout.plan)
        states, damaged = output_states(plan, self.layout)
        failed = states.rows(FAILED, QUARANTINED)
        failures = tuple(f for _, f in states.failures(self.layout.ledger, failed[:_FAILURES_TOLD]))
        errors = Counter(failure.error for _, failure in states.failures(self.layout.ledger))
        unusable = _unusable_images(plan)
        runs = read_runs(self.layout.ledger)
        started = [event for event in runs if isinstance(event, RunStarted)]
        running = self.layout.is_locked()
        return Status(
            name=self.config.name,
            output=str(self.layout.root),
            n_images=len(plan),
            n_done=states.count(DONE),
            n_failed=len(failed),
            n_remaining=states.count(WAITING),
            n_quarantined=states.count(QUARANTINED),
            n_unusable=len(unusable),
            failures=failures,
            unusable=unusable,
            n_damaged=len(damaged),
            damaged=tuple(image.image_id for image in plan.images(damaged[:_FAILURES_TOLD])),
            errors=dict(errors),
            runs=len(started),
            last_run=started[-1].time if started else "",
            files=() if running else tuple(f"{bad.path}: {bad.problem}" for bad in look_at_files(self.layout)),
            running=running,
            phase=phase_of(runs) if running else "",
        )

    def check_checksums(
        self,
        client: Client | None = None,
        *,
        cluster: bool = False,
        n_workers: int | None = None,
        processes: int | None = None,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> ChecksumReport:
        """Read again everything that was written with a checksum, and compare: images, truth, records, tables.

        Parameters
        ----------
        client : distributed.Client, optional
            The cluster to use.
        cluster : bool
            Without a client: use the cluster that the configuration names, rather than processes of this machine.
        n_workers : int, optional
            Largest number of that cluster's workers.
        processes : int, optional
            Processes of this machine; by default one for each core, if there is enough to read. 1 reads in this one.
        progress : callable
            Called with how many images and tables were read so far, and how many there are.

        Returns
        -------
        ChecksumReport
            Damaged files are in it; they are not raised.

        Raises
        ------
        CampaignError
            If no image is done, the cluster fails, or a process dies.
        """
        from skygraft.campaign.checksums import check_checksums
        from skygraft.processes import process_mapper

        with contextlib.ExitStack() as stack:
            if client is None and cluster:
                from skygraft.clusters.cluster import open_cluster

                opened = open_cluster(
                    self.config.cluster,
                    n_workers=n_workers,
                    logs=self.layout.root / "logs",
                    task_seconds=self.config.task_seconds,
                    say=NoReporter().say,
                )
                client = stack.enter_context(opened).client
            if client is not None:
                return check_checksums(self.config, functools.partial(map_items, client), progress)
            try:
                few = max(1, len(campaign_plan(self.layout.plan)) // _WORTH_A_PROCESS)
            except DamagedPlanError:
                few = 1  # which is what is found first
            mapper = stack.enter_context(process_mapper(processes or min(_cores(None), few)))
            return check_checksums(
                self.config,
                lambda function, items, **arguments: iter(mapper(functools.partial(function, **arguments), items)),
                progress,
            )

    def rescan(self) -> Status:
        """Make the ledger anew from the records, and say how far the campaign is.

        Raises
        ------
        CampaignError
            If there is no plan, or a process runs the campaign.
        OutputError
            If the ledger cannot be written; the old one is then left as it is.
        """
        with self.layout.locked():
            rescan(campaign_plan(self.layout.plan), self.config)
        return self.status()

    def _claim(self) -> None:
        """Make sure that the output folder is this campaign's, or empty."""
        root = self.layout.root
        try:
            root.mkdir(parents=True, exist_ok=True)
            # Of what is remembered, the checksum of a file that was not written is nobody's.
            own = (self.layout.lock, lease_path(self.layout.lock), self.layout.consolidated)
            entries = [entry.name for entry in root.iterdir() if entry not in own]
        except OSError as error:
            raise OutputError(
                f"the output folder cannot be used ({error.strerror or error})",
                path=root,
                fix="Check the path and permissions",
            ) from error
        if not os.access(root, os.W_OK | os.X_OK):
            raise OutputError("the output folder is not writable", path=root, fix="Check permissions")
        if not entries:
            return
        if self.layout.config.name not in entries:
            if self._is_planned():
                return
            raise OutputExistsError(
                f"the output folder holds something else ({', '.join(sorted(entries)[:3])})",
                path=root,
                fix="Name a new folder",
            )
        try:
            before = load_config(self.layout.config)
        except (ConfigError, OSError):
            # Damaged; where the plan tells that it is of this campaign, a run writes it again.
            if self._is_planned():
                return
            raise
        for key in ("name", "skymap"):
            old, new = getattr(before, key), getattr(self.config, key)
            if old != new:
                raise CampaignError(
                    f"the output folder is that of a campaign whose {key} is {old!r}, not {new!r}",
                    path=root,
                    key=key,
                    fix="Name a new output folder",
                )

    def _is_planned(self) -> bool:
        """Whether the output folder has a plan that was made from this configuration."""
        try:
            return bool(campaign_plan(self.layout.plan).metadata.get("plan_key") == plan_key(self.config))
        except CampaignError:
            return False

    def _write_config(self) -> None:
        with atomic_path(self.layout.config) as temporary:
            temporary.write_text(self.config.to_yaml(), encoding="utf-8")

    def _make_plan(self, processes: int | None = None) -> Plan:
        from skygraft.planning.plan import plan_images

        if not self.layout.config.exists():
            # First of all: it marks the folder as this campaign's, should planning be cut short.
            self._write_config()
        return plan_images(self.config, processes=_cores(processes))

    def _current_plan(self, say: Callable[[str], None]) -> Plan:
        """The plan as it is; a new one where there is none, or what it was made from or left out has changed."""
        if self.layout.plan.exists() and self.layout.config.exists():
            try:
                plan = campaign_plan(self.layout.plan)
            except DamagedPlanError as error:
                say(f"planning again: {error.message} ({self.layout.plan})")
                return self._make_plan()
            if plan.metadata.get("plan_key") == plan_key(self.config) and not self._replaced(plan):
                damaged = self._damaged_catalog()
                if not damaged:
                    return plan
                say(f"planning again: {damaged}")
        return self._make_plan()

    def _damaged_catalog(self) -> str:
        """What is wrong with the partitioned catalogue at a glance; empty for nothing."""
        from skygraft.catalog.partition_read import damaged_partitions

        try:
            damaged = damaged_partitions(self.layout.catalog)
        except CatalogError as error:
            return str(error)
        return "; ".join(f"{path}: {problem}" for path, problem in itertools.islice(damaged.items(), _PARTS_TOLD))

    def _replaced(self, plan: Plan) -> bool:
        """Whether a file that the plan had to leave out was made, changed or removed since."""
        root = self.config.survey.root
        return any(str(FileIdentity.find(root / bad["path"]) or "") != bad.get("stamp") for bad in _unusable(plan))


def _cores(processes: int | None) -> int:
    return processes or len(os.sched_getaffinity(0))


def _unusable(plan: Plan) -> list[dict[str, str]]:
    """Images of the survey that the plan leaves out, with the reasons."""
    unusable: list[dict[str, str]] = plan.metadata.get("unusable", [])
    return unusable


def _unusable_images(plan: Plan) -> tuple[UnusableImage, ...]:
    return tuple(UnusableImage(bad["path"], bad["error"], bad["reason"]) for bad in _unusable(plan))


class _Run:
    """One run of a campaign, from the cluster to the tables."""

    def __init__(
        self,
        campaign: Campaign,
        plan: Plan,
        states: ImageStates,
        rows: np.ndarray[Any, Any],
        reporter: Reporter,
        interruption: Interruption,
        ledger: Ledger,
    ) -> None:
        self.config, self.layout = campaign.config, campaign.layout
        self.plan, self.states, self.rows = plan, states, rows
        self.reporters, self.interruption = [reporter], interruption
        self.ledger = ledger
        self.checkpoints = CheckpointWriter(plan, self.layout, states, ledger)
        self.output = str(self.layout.root)
        self._clock = time.perf_counter()

    def go(self, client: Client | None, n_workers: int | None, work: Work | None) -> RunSummary:
        """Make the images, and the tables from them."""
        from skygraft.campaign.checksums import look_at_files
        from skygraft.clusters.cluster import open_cluster

        jobs, overview = self._jobs()
        self.reporters[0].start(overview)
        result = DriveResult()
        lines: tuple[str, ...] = ()
        with contextlib.ExitStack() as stack:
            max_threads = 0
            outlook: Callable[[], Outlook] | None = None
            if client is None and n_workers != 0 and len(jobs):
                opened = stack.enter_context(
                    open_cluster(
                        self.config.cluster,
                        n_workers=n_workers,
                        useful=self._useful_workers(jobs, overview, n_workers),
                        logs=self.layout.root / "logs",
                        task_seconds=self.config.task_seconds,
                        say=self.say,
                    )
                )
                client, max_threads, outlook = opened.client, opened.max_threads, opened.outlook
                if opened.dashboard:
                    self.say(f"Dask dashboard: {opened.dashboard}")
            watch = None
            if client is not None:
                from skygraft.clusters.watching import patient_nannies

                stack.enter_context(patient_nannies(client))
                watch = self._watch(client, outlook)
            if len(jobs):
                result = (
                    self._drive_serial(jobs, work)
                    if client is None or watch is None
                    else self._drive(jobs, overview, client, watch, work, max_threads, stack)
                )
            write_failures(self.layout, self.plan, self.states, _unusable(self.plan))
            del jobs, overview
            if not result.early:
                # Of a run that was ended early the tables wait for the next one.
                self.ledger.append([TablesStarted()])
                lines = self._consolidate(client, watch)
                registered = register(
                    self.config, self.plan, self.states.rows(DONE).tolist(), lambda: bool(self.interruption.asked)
                )
                lines += () if registered is None else (str(registered),)
        failed = self.states.rows(FAILED, QUARANTINED)
        failures: tuple[Failure, ...] = tuple(
            failure for _, failure in self.states.failures(self.layout.ledger, failed[:_FAILURES_TOLD])
        )
        unusable = _unusable_images(self.plan)
        return RunSummary(
            output=self.output,
            n_images=len(self.plan),
            n_done=result.n_done,
            n_skipped=max(0, self.states.count(DONE) - result.n_done),
            n_failed=len(failed),
            n_quarantined=self.states.count(QUARANTINED),
            n_remaining=self.states.count(WAITING),
            n_drawn=result.n_drawn,
            wall_seconds=round(time.perf_counter() - self._clock, 2),
            n_unusable=len(unusable),
            interrupted=result.interrupted,
            stopped=result.stopped,
            unusable=unusable,
            failures=failures,
            tables=lines,
            files=tuple(f"{bad.path}: {bad.problem}" for bad in look_at_files(self.layout, tables=False)),
        )

    def say(self, text: str) -> None:
        """Tell people something."""
        for reporter in self.reporters:
            reporter.say(text)

    def _jobs(self) -> tuple[Jobs, Overview]:
        """What is to be made, and what the run begins with, from the columns of the plan."""
        # Part by part into narrow columns: a million rows of a table would fill a small driver.
        columns = {name: np.empty(len(self.plan), dtype=dtype) for name, dtype in _COLUMNS.items()}
        kinds, known = np.empty(len(self.plan), dtype=np.int16), dict[Any, int]()
        start = 0
        to_read = 0
        for batch in self.plan.batches([*_COLUMNS, "format", "instrument", "n_bytes"]):
            stop = start + batch.num_rows
            mine = self.rows[slice(*np.searchsorted(self.rows, (start, stop)))] - start
            to_read += int(numbers(batch.column("n_bytes"))[mine].sum())
            for name, into in columns.items():
                into[start:stop] = numbers(batch.column(name))
            pairs = zip(batch.column("format").to_pylist(), batch.column("instrument").to_pylist(), strict=True)
            kinds[start:stop] = [known.setdefault(pair, len(known)) for pair in pairs]
            start = stop
        # What is written is about as large as what is read; `skygraft plan` knows better, but takes longer.
        if (free := shutil.disk_usage(self.layout.root).free) < to_read:
            self.say(f"the images take about {to_read / 1e9:.3g} GB; {free / 1e9:.3g} GB are free in {self.output}")
        moved = [np.diff(columns[name], prepend=-2) != 0 for name in ("tract", "patch")]
        homes = np.cumsum(moved[0] | moved[1], dtype=np.int32)
        jobs = Jobs(self.rows, homes[self.rows], columns["cost_seconds"][self.rows], kinds[self.rows])
        return jobs, self._overview(columns)

    def _overview(self, columns: dict[str, np.ndarray[Any, Any]]) -> Overview:
        waiting = np.zeros(len(self.plan), dtype=bool)
        waiting[self.rows] = True
        state = self.states.state
        return make_overview(
            self.config.name,
            self.output,
            **columns,
            done=state == DONE,
            failed=np.isin(state, (FAILED, QUARANTINED)) & ~waiting,
            n_unusable=len(_unusable(self.plan)),
        )

    def _identify(self, row: int) -> dict[str, Any]:
        image = next(self.plan.images([row]))
        return {"image_id": image.image_id, "tract": image.tract, "patch": image.patch, "band": image.band or ""}

    def _listen(self, rows: Sequence[int], summaries: list[ImageSummary]) -> None:
        self.states.enter_summaries(rows, summaries, self.ledger.images(summaries))
        self.checkpoints.check()
        for reporter in self.reporters:
            reporter.images(summaries)

    def _work(self) -> Work:
        plan, config = (FileIdentity.of(path).size_and_time for path in (self.layout.plan, self.layout.config))
        return functools.partial(make_rows, stamp=plan, config_stamp=config)

    def _drive_serial(self, jobs: Jobs, work: Work | None) -> DriveResult:
        return drive_serial(
            jobs,
            self.output,
            work=work or self._work(),
            listener=self._listen,
            interruption=self.interruption,
            retries=self.config.retries,
        )

    def _drive(
        self,
        jobs: Jobs,
        overview: Overview,
        client: Client,
        watch: ClusterWatch,
        work: Work | None,
        max_threads: int,
        stack: contextlib.ExitStack,
    ) -> DriveResult:
        from skygraft.clusters.cluster import guard_workers
        from skygraft.monitoring.dashboard import DashboardReporter

        guard = stack.enter_context(guard_workers(client, Expectation.of(self.config), self.say))
        board = stack.enter_context(DashboardReporter(client, say=self.say))
        board.start(overview)
        self.reporters.append(board)
        return drive(
            client,
            jobs,
            self.output,
            work=work or self._work(),
            identify=self._identify,
            listener=self._listen,
            interruption=self.interruption,
            look=guard.check,
            say=self.say,
            task_seconds=self.config.task_seconds,
            images_per_task=self.config.images_per_task,
            retries=self.config.retries,
            max_threads=max_threads,
            io_limit=self.config.cluster.io_limit,
            watch=watch,
        )

    def _useful_workers(self, jobs: Jobs, overview: Overview, asked: int | None) -> int:
        """How many workers there is work for; on this machine as many as were asked for, if there are images."""
        local = self.config.cluster.kind == "local"
        if local and asked is not None:
            return len(jobs)
        return jobs.useful_workers(_WORTH_LOCAL if local else _WORTH_ELSEWHERE, n_patches=len(overview.patches))

    def _watch(self, client: Client, outlook: Callable[[], Outlook] | None) -> ClusterWatch:
        """What looks after the cluster."""
        from skygraft.clusters.watching import ClusterWatch

        cluster = self.config.cluster
        stuck = parse_timeout(cluster.worker_timeout)
        queued = cluster.kind in (*BATCH_KINDS, "kubernetes")
        patience = Patience(
            word=max(Patience.word, 3 * self.config.task_seconds),
            stuck=stuck,
            # Jobs may wait in their queue for long; a process of this machine has no reason to.
            coming=parse_timeout(cluster.start_timeout) if queued else stuck,
        )
        return ClusterWatch(client, outlook=outlook, patience=patience, say=self.say)

    def _consolidate(self, client: Client | None, watch: ClusterWatch | None) -> tuple[str, ...]:
        """Make the tables and the provenance; returns what to tell of them."""
        from skygraft.tables.consolidate import consolidate
        from skygraft.tables.provenance import write_provenance

        found = consolidate(self.config, self.plan, functools.partial(map_items, client, watch=watch))
        if found.problems:
            reopen(self.plan, self.layout, self.states, self.ledger, [image_id for image_id, _ in found.problems])
        write_provenance(
            self.config,
            self.plan,
            found,
            runs=read_runs(self.layout.ledger),
            ended=datetime.now(UTC).isoformat(timespec="seconds"),
            n_failed=self.states.count(FAILED, QUARANTINED),
            n_quarantined=self.states.count(QUARANTINED),
        )
        return tuple(found.lines())
