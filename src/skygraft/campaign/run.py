"""One run of a campaign: open the cluster, inject into the images, make the tables, summarise."""

from __future__ import annotations

import contextlib
import functools
import shutil
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from skygraft.campaign.checksums import look_at_files
from skygraft.campaign.summaries import FAILURES_LISTED, RunSummary, unusable_images
from skygraft.catalog.arrow_arrays import numpy_array, one_array
from skygraft.clusters.cluster import open_cluster
from skygraft.clusters.cluster_watch import ClusterWatch, patient_nannies
from skygraft.clusters.guard import Guard, guard_workers
from skygraft.clusters.preflight import Expectation
from skygraft.clusters.watchdog import Outlook, Patience
from skygraft.config.campaign import CampaignConfig
from skygraft.config.cluster_kinds import BatchConfig, KubernetesConfig
from skygraft.config.yaml_schema import parse_timeout
from skygraft.disk import FileIdentity
from skygraft.execution.driver import DriveSettings, Work, drive, drive_serial
from skygraft.execution.jobs import DriveResult, Jobs
from skygraft.execution.mapping import map_items
from skygraft.execution.registering import register
from skygraft.execution.work import inject_into
from skygraft.monitoring.dashboard import DashboardReporter
from skygraft.monitoring.overview import Overview, make_overview
from skygraft.monitoring.reporters import Reporter
from skygraft.place_names import shown_place
from skygraft.processes import keeping_memory
from skygraft.records.checkpoint_writer import CheckpointWriter
from skygraft.records.events import TablesStarted
from skygraft.records.files import Layout
from skygraft.records.image_summary import ImageSummary
from skygraft.records.interruption import Interruption
from skygraft.records.ledger import Ledger, read_runs
from skygraft.records.plan_file import Plan
from skygraft.records.status import DONE, FAILED, QUARANTINED, WAITING, ImageStates, reopen
from skygraft.tables.arrow import numbers
from skygraft.tables.failures import write_failures

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["CampaignRun"]

_WORTH_LOCAL, _WORTH_ELSEWHERE = 1.0, 10.0
"""Seconds of work for which a worker is worth starting: a process of this machine, and a job or a pod."""
_OF_OVERVIEW = ("tract", "patch", "ra", "dec", "n_sources", "cost_seconds")


class CampaignRun:
    """One run of a campaign; the driver reports to it (`skygraft.execution.driver.Reports`).

    Parameters
    ----------
    config : CampaignConfig
        The campaign.
    plan : Plan
        Its plan.
    states : ImageStates
        The state of each image; kept up to date.
    rows : ndarray of int, shape (N,)
        The images to make, as rows of the plan, ascending.
    reporter : Reporter
        Shows the progress.
    interruption : Interruption
        Notices Ctrl-C.
    ledger : Ledger
        Receives the events.
    """

    def __init__(
        self,
        config: CampaignConfig,
        plan: Plan,
        states: ImageStates,
        rows: NDArray[np.int64],
        reporter: Reporter,
        interruption: Interruption,
        ledger: Ledger,
    ) -> None:
        self.config, self.layout = config, Layout(config.output)
        self.plan, self.states, self.rows = plan, states, rows
        self.reporters, self.interruption, self.ledger = [reporter], interruption, ledger
        self.checkpoints = CheckpointWriter(plan, self.layout, states, ledger)
        self._guard: Guard | None = None

    def run(self, client: Client | None, n_workers: int | None) -> RunSummary:
        """Inject into the images, and make the tables.

        Parameters
        ----------
        client : distributed.Client, optional
            The cluster to use; by default the one that the configuration names.
        n_workers : int, optional
            Most workers of that cluster; 0 makes the images in this process.
        """
        began = time.perf_counter()
        jobs, overview = self._look_at_plan()
        for reporter in self.reporters:
            reporter.start(overview)
        result, lines = DriveResult(), list[str]()
        with contextlib.ExitStack() as stack:
            watch, max_threads = None, 0
            if client is None and n_workers != 0 and len(jobs):
                client, watch, max_threads = self._open_cluster(stack, jobs, overview, n_workers)
            elif client is not None:
                watch = self._watch(client, None)
            if client is not None:
                stack.enter_context(patient_nannies(client))
            if len(jobs) and client is not None:
                result = self._drive(stack, client, watch, jobs, overview, max_threads)
            elif len(jobs):
                stack.enter_context(keeping_memory())
                result = drive_serial(
                    jobs, self.work(), self, retries=self.config.retries, interruption=self.interruption
                )
            write_failures(self.layout, self.plan, self.states, self.plan.unusable)
            # The tables of a run that was ended early wait for the next run.
            if not result.early:
                lines = self._make_tables(client, watch)
        return self._summary(result, lines, time.perf_counter() - began)

    def work(self) -> Work:
        """The function that a task applies to its rows of the plan; rehearsals replace it."""
        plan, config = (FileIdentity.of(path).size_and_time for path in (self.layout.plan, self.layout.config))
        outputs = self.layout.outputs
        output = str(self.layout.root) if outputs is None else outputs.at(self.config.work)
        return functools.partial(inject_into, output=output, plan=plan, config=config)

    def say(self, text: str) -> None:
        """Show a message to whoever watches the run."""
        for reporter in self.reporters:
            reporter.say(text)

    # -- what the driver reports

    def images(self, rows: Sequence[int], summaries: list[ImageSummary]) -> None:
        """Record the results of some images, and pass them on to the reporters."""
        self.states.enter_summaries(rows, summaries, self.ledger.images(summaries))
        self.checkpoints.check()
        for reporter in self.reporters:
            reporter.images(summaries)

    def identify(self, row: int) -> dict[str, Any]:
        """Image id, home patch and band of an image whose worker did not come back."""
        image = next(self.plan.images([row]))
        return {"image_id": image.image_id, "tract": image.tract, "patch": image.patch, "band": image.band or ""}

    def check(self) -> None:
        """Make sure that the workers are fit for the campaign."""
        if self._guard is not None:
            self._guard.check()

    # -- the parts of a run

    def _look_at_plan(self) -> tuple[Jobs, Overview]:
        """The images to inject into, and the state that the run begins with."""

        def column(name: str) -> Any:
            return self.plan.table([name]).column(name)  # one by one: all of ten million images would take a gigabyte

        columns = {name: numbers(column(name)) for name in (*_OF_OVERVIEW, "n_bytes")}
        # What is written is about as large as what is read; `skygraft plan` knows better, but takes longer.
        to_read, free = int(columns.pop("n_bytes")[self.rows].sum()), shutil.disk_usage(self.layout.root).free
        if free < to_read and self.layout.outputs is None:
            self.say(
                f"the images take about {to_read / 1e9:.3g} GB; {free / 1e9:.3g} GB are free in {self.layout.root}"
            )
        formats, instruments = (
            one_array(column(name)).dictionary_encode("encode") for name in ("format", "instrument")
        )
        kinds = numpy_array(formats.indices) * len(instruments.dictionary) + numpy_array(instruments.indices)
        moved = [np.diff(columns[name], prepend=-2) != 0 for name in ("tract", "patch")]
        homes = np.cumsum(moved[0] | moved[1], dtype=np.int32)
        jobs = Jobs(self.rows, homes[self.rows], columns["cost_seconds"][self.rows], kinds[self.rows])
        waiting = np.zeros(len(self.plan), dtype=np.bool_)
        waiting[self.rows] = True
        state = self.states.state
        overview = make_overview(
            self.config.name,
            str(self.layout.root),
            **columns,
            done=state == DONE,
            failed=np.isin(state, (FAILED, QUARANTINED)) & ~waiting,
            n_unusable=len(self.plan.unusable),
        )
        return jobs, overview

    def _open_cluster(
        self, stack: contextlib.ExitStack, jobs: Jobs, overview: Overview, n_workers: int | None
    ) -> tuple[Client, ClusterWatch, int]:
        """The cluster that the configuration names: its client, its watch, and the most threads that it may have."""
        local = self.config.cluster.kind == "local"
        # On this machine as many workers as were asked for, if there are images; elsewhere as many as have work.
        useful = (
            len(jobs)
            if local and n_workers is not None
            else jobs.useful_workers(_WORTH_LOCAL if local else _WORTH_ELSEWHERE, n_patches=len(overview.patches))
        )
        opened = stack.enter_context(
            open_cluster(
                self.config.cluster,
                n_workers=n_workers,
                useful=useful,
                logs=self.layout.root / "logs",
                task_seconds=self.config.task_seconds,
                say=self.say,
            )
        )
        if opened.dashboard:
            self.say(f"Dask dashboard: {opened.dashboard}")
        return opened.client, self._watch(opened.client, opened.outlook), opened.max_threads

    def _watch(self, client: Client, outlook: Callable[[], Outlook] | None) -> ClusterWatch:
        """The watch over the cluster's workers."""
        cluster = self.config.cluster
        stuck = coming = parse_timeout(cluster.worker_timeout)
        if isinstance(cluster, BatchConfig | KubernetesConfig):
            # Jobs may wait in their queue for long; a process of this machine has no reason to.
            coming = parse_timeout(cluster.start_timeout)
        patience = Patience(report=max(Patience.report, 3 * self.config.task_seconds), stuck=stuck, coming=coming)
        return ClusterWatch(client, outlook=outlook, patience=patience, say=self.say)

    def _drive(
        self,
        stack: contextlib.ExitStack,
        client: Client,
        watch: ClusterWatch | None,
        jobs: Jobs,
        overview: Overview,
        max_threads: int,
    ) -> DriveResult:
        self._guard = stack.enter_context(guard_workers(client, Expectation.of(self.config), self.say))
        board = stack.enter_context(DashboardReporter(client, say=self.say))
        board.start(overview)
        self.reporters.append(board)
        settings = DriveSettings(
            task_seconds=self.config.task_seconds,
            images_per_task=self.config.images_per_task,
            retries=self.config.retries,
            io_limit=self.config.cluster.io_limit,
            max_threads=max_threads,
        )
        return drive(client, jobs, self.work(), self, settings, interruption=self.interruption, watch=watch)

    def _make_tables(self, client: Client | None, watch: ClusterWatch | None) -> list[str]:
        """Make the tables and the provenance; returns lines for the summary."""
        # Here, so that a run begins before it has loaded what its end needs.
        from skygraft.tables.consolidate import consolidate
        from skygraft.tables.provenance import write_provenance

        self.ledger.append([TablesStarted()])
        if (outputs := self.layout.outputs) is not None:
            outputs.sync()  # the records that workers of other machines published
            # Work folders are of one machine, and this one has all records.
            client = client if self.config.cluster.kind == "local" else None
        found = consolidate(self.config, self.plan, functools.partial(map_items, client, watch=watch))
        if found.problems:
            reopen(self.plan, self.layout, self.states, self.ledger, [image_id for image_id, _ in found.problems])
        write_provenance(
            self.config,
            self.plan,
            found,
            runs=[*self.states.runs, *read_runs(self.layout.ledger, self.states.run_start)],
            ended=datetime.now(UTC).isoformat(timespec="seconds"),
            n_failed=self.states.count(FAILED, QUARANTINED),
            n_quarantined=self.states.count(QUARANTINED),
        )
        done = self.states.rows(DONE).tolist()
        registered = register(self.config, self.plan, done, lambda: bool(self.interruption.asked))
        return [*found.lines(), *([] if registered is None else [str(registered)])]

    def _summary(self, result: DriveResult, lines: Sequence[str], wall_seconds: float) -> RunSummary:
        states = self.states
        failed = states.rows(FAILED, QUARANTINED)
        unusable = unusable_images(self.plan)
        return RunSummary(
            output=shown_place(self.layout.root),
            n_images=len(self.plan),
            n_done=result.n_done,
            n_skipped=max(0, states.count(DONE) - result.n_done),
            n_failed=len(failed),
            n_quarantined=states.count(QUARANTINED),
            n_remaining=states.count(WAITING),
            n_drawn=result.n_drawn,
            wall_seconds=round(wall_seconds, 2),
            n_unusable=len(unusable),
            interrupted=result.interrupted,
            stopped=result.stopped,
            unusable=unusable,
            failures=tuple(f for _, f in states.failures(self.layout.ledger, failed[:FAILURES_LISTED])),
            tables=tuple(lines),
            files=tuple(f"{bad.path}: {bad.problem}" for bad in look_at_files(self.layout, tables=False)),
        )
