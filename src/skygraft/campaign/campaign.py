"""The campaign: plan it, run it, see how far it is."""

from __future__ import annotations

import dataclasses
import itertools
import os
import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from skygraft.campaign.config import CampaignConfig, load_config
from skygraft.campaign.consolidate import consolidate_patch, write_failures, write_provenance
from skygraft.campaign.files import Layout, atomic_path, sweep_leftovers
from skygraft.campaign.ledger import Failure, Ledger, read_failures, read_runs
from skygraft.campaign.monitor import NoReporter, Reporter
from skygraft.campaign.plan import make_plan, plan_key
from skygraft.campaign.plan_summary import PlanSummary
from skygraft.campaign.planned import PlannedImage, read_plan, read_plan_metadata
from skygraft.campaign.records import changes, is_whole, read_record
from skygraft.campaign.task import ImageSummary
from skygraft.errors import CampaignError, OutputError, OutputExistsError

if TYPE_CHECKING:
    from distributed import Client

    from skygraft.campaign.run import DriveResult

__all__ = ["Campaign", "RunSummary", "Status"]

_SHOWN = 5
_LOOKERS = 8


@dataclass(frozen=True)
class RunSummary:
    """What a run did.

    Parameters
    ----------
    output : str
        The campaign's output folder.
    n_images : int
        Images of the plan.
    n_done, n_skipped, n_failed, n_remaining : int
        Images made in this run, done before it, failed, and not come to.
    n_unusable : int
        Images that could not even be planned; ``failures.parquet`` says why.
    n_drawn : int
        Sources drawn in the images made.
    wall_seconds : float
        Time it took.
    interrupted : bool
        Whether Ctrl-C ended it early.
    failures : tuple of Failure
        Why images failed.
    """

    output: str
    n_images: int
    n_done: int
    n_skipped: int
    n_failed: int
    n_remaining: int
    n_drawn: int
    wall_seconds: float
    n_unusable: int = 0
    interrupted: bool = False
    failures: tuple[Failure, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether every image is done."""
        return self.n_done + self.n_skipped == self.n_images and self.n_unusable == 0

    def to_dict(self) -> dict[str, Any]:
        """The summary as JSON types."""
        return {**asdict(self), "ok": self.ok}

    def __str__(self) -> str:
        lines = [
            f"{self.n_done} images made ({self.n_drawn} sources drawn) in {self.wall_seconds:.1f} s, "
            f"{self.n_skipped} done before, {self.n_failed} failed, {self.n_remaining} remaining"
        ]
        lines += [f"  {f.image_id}: {f.error}: {f.message}" for f in self.failures[:_SHOWN]]
        if len(self.failures) > _SHOWN:
            lines.append(f"  ... all of them in {Layout(Path(self.output)).failures}")
        if self.n_unusable:
            lines.append(f"{self.n_unusable} more images cannot be used; `skygraft plan` says why")
        if self.n_remaining:
            lines.append("run the campaign again to make those that remain")
        return "\n".join(lines)


@dataclass(frozen=True)
class Status:
    """How far a campaign is.

    Parameters
    ----------
    name, output : str
        The campaign and its output folder.
    n_images, n_done, n_failed, n_remaining : int
        Images of the plan; with a record; whose last attempt failed; and the rest.
    n_unusable : int
        Images that could not be planned.
    failures : tuple of Failure
        Why images failed.
    errors : dict of str to int
        Failures by class of error.
    runs : int
        How often it was run.
    last_run : str
        When the last run began, ISO 8601; empty before the first.
    running : bool
        Whether a process is at work on it.
    """

    name: str
    output: str
    n_images: int
    n_done: int
    n_failed: int
    n_remaining: int
    n_unusable: int = 0
    failures: tuple[Failure, ...] = ()
    errors: dict[str, int] = field(default_factory=dict)
    runs: int = 0
    last_run: str = ""
    running: bool = False

    def to_dict(self) -> dict[str, Any]:
        """The status as JSON types."""
        return asdict(self)

    def __str__(self) -> str:
        state = "running" if self.running else f"{self.runs} runs so far" if self.runs else "not run yet"
        lines = [
            f"{self.name}: {self.n_done} of {self.n_images} images done, {self.n_failed} failed, "
            f"{self.n_remaining} remaining ({state})"
        ]
        lines += [f"  {n} x {error}" for error, n in sorted(self.errors.items())]
        return "\n".join(lines)


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
    def from_yaml(cls, path: str | os.PathLike[str]) -> Self:
        """Read a campaign's configuration.

        Raises
        ------
        ConfigError
            Naming everything that is wrong with it.
        """
        return cls(load_config(path))

    def plan(self) -> PlanSummary:
        """Work out what would be done; no image is made.

        The survey is indexed anew and the catalogue partitioned, so images that appeared since are found.

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
        self._claim()
        with self.layout.locked():
            images, summary = self._plan()
            try:
                self._waiting(images, redo=False)
            except CampaignError as error:
                return dataclasses.replace(summary, problems=(*summary.problems, error.message))
            return summary

    def run(
        self,
        client: Client | None = None,
        *,
        n_workers: int | None = None,
        redo: bool = False,
        reporter: Reporter | None = None,
    ) -> RunSummary:
        """Make every image that is not done yet.

        Parameters
        ----------
        client : distributed.Client, optional
            The cluster to use; by default the one that the configuration names.
        n_workers : int, optional
            Processes of a local cluster. 0 makes the images in this process, one after the other, without Dask.
        redo : bool
            Make images again whose inputs or settings have changed since they were made; without it such a change is
            an error.
        reporter : Reporter, optional
            Hears how far it is; see `skygraft.campaign.monitor.RichReporter`.

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
        reporter = reporter or NoReporter()
        started, clock = datetime.now(UTC).isoformat(timespec="seconds"), time.perf_counter()
        self._claim()
        with self.layout.locked():
            images = self._current_plan()
            waiting = self._waiting(images, redo=redo)
            sweep_leftovers(self.layout.root)
            self._write_config()
            n_skipped = len(images) - len(waiting)
            with Ledger(self.layout.ledger) as ledger, reporter:
                ledger.event("run_started", images=len(images), waiting=len(waiting), redo=redo)
                reporter.start(len(images), n_skipped)
                result = self._drive(images, waiting, client, n_workers, ledger, reporter, started)
                failures = self._failures(images)
                summary = RunSummary(
                    output=str(self.layout.root),
                    n_images=len(images),
                    n_done=result.n_done,
                    n_skipped=n_skipped + result.n_skipped,
                    n_failed=len(result.failed),
                    n_remaining=len(waiting) - result.n_done - result.n_skipped - len(result.failed),
                    n_drawn=result.n_drawn,
                    wall_seconds=round(time.perf_counter() - clock, 2),
                    n_unusable=len(self._unusable()),
                    interrupted=result.interrupted,
                    failures=tuple(failures[name] for name in result.failed if name in failures),
                )
                ledger.event("run_ended", **{k: v for k, v in summary.to_dict().items() if k != "failures"})
        return summary

    def status(self) -> Status:
        """How far the campaign is, from its records and its ledger.

        Raises
        ------
        CampaignError
            If there is no plan.
        """
        images = read_plan(self.layout.plan)
        done = {image.image_id for image in images if self._record_path(image).exists()}
        failures = {name: f for name, f in self._failures(images).items() if name not in done}
        started = [event for event in read_runs(self.layout.ledger) if event["event"] == "run_started"]
        return Status(
            name=self.config.name,
            output=str(self.layout.root),
            n_images=len(images),
            n_done=len(done),
            n_failed=len(failures),
            n_remaining=len(images) - len(done) - len(failures),
            n_unusable=len(self._unusable()),
            failures=tuple(failures.values()),
            errors=dict(Counter(failure.error for failure in failures.values())),
            runs=len(started),
            last_run=str(started[-1]["time"]) if started else "",
            running=self.layout.is_locked(),
        )

    def _record_path(self, image: PlannedImage) -> Path:
        return self.layout.record(image.tract, image.patch, image.stem)

    def _claim(self) -> None:
        """Make sure that the output folder is this campaign's, or empty."""
        root = self.layout.root
        try:
            root.mkdir(parents=True, exist_ok=True)
            entries = [entry.name for entry in root.iterdir() if entry.name != self.layout.lock.name]
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
            raise OutputExistsError(
                f"the output folder holds something else ({', '.join(sorted(entries)[:3])})",
                path=root,
                fix="Name a new folder",
            )
        before = load_config(self.layout.config)
        for key in ("name", "skymap"):
            old, new = getattr(before, key), getattr(self.config, key)
            if old != new:
                raise CampaignError(
                    f"the output folder is that of a campaign whose {key} is {old!r}, not {new!r}",
                    path=root,
                    key=key,
                    fix="Name a new output folder",
                )

    def _write_config(self) -> None:
        with atomic_path(self.layout.config) as temporary:
            temporary.write_text(self.config.to_yaml(), encoding="utf-8")

    def _plan(self) -> tuple[list[PlannedImage], PlanSummary]:
        if not self.layout.config.exists():
            # First of all: it marks the folder as this campaign's, should planning be cut short.
            self._write_config()
        return make_plan(self.config)

    def _current_plan(self) -> list[PlannedImage]:
        """The plan as it is, or a new one where there is none, or what it was made from has changed."""
        if self.layout.plan.exists() and self.layout.config.exists():
            key = read_plan_metadata(self.layout.plan).get("plan_key")
            if key == plan_key(self.config):
                return read_plan(self.layout.plan)
        return self._plan()[0]

    def _waiting(self, images: Iterable[PlannedImage], *, redo: bool) -> list[PlannedImage]:
        """Images that are to be made.

        Raises
        ------
        CampaignError
            If some were made from what is different now, and `redo` is not asked for.
        """
        settings, root = self.config.pixel_settings(), self.config.survey.root

        def look(image: PlannedImage) -> tuple[bool, list[str]]:
            record = read_record(self._record_path(image))
            if record is None:
                return True, []
            reasons = changes(record, image, root, settings)
            return bool(reasons) or not is_whole(record, self.layout), reasons

        waiting: list[PlannedImage] = []
        changed: dict[str, list[str]] = {}
        images = list(images)
        # Threads: on a shared file system this is all waiting.
        with ThreadPoolExecutor(max_workers=_LOOKERS) as pool:
            for image, (wanted, reasons) in zip(images, pool.map(look, images), strict=True):
                if wanted:
                    waiting.append(image)
                if reasons:
                    changed[image.image_id] = reasons
        if changed and not redo:
            count = Counter(itertools.chain.from_iterable(changed.values()))
            what = "; ".join(f"{reason} ({n} images)" if n > 1 else reason for reason, n in count.most_common(_SHOWN))
            more = f"; and {len(count) - _SHOWN} more" if len(count) > _SHOWN else ""
            names = ", ".join(list(changed)[:_SHOWN]) + (", ..." if len(changed) > _SHOWN else "")
            raise CampaignError(
                f"{len(changed)} images ({names}) were made from something else than what is there now: {what}{more}",
                path=self.layout.root,
                fix="Put it back, name a new output folder, or make them again with --redo (redo=True)",
            )
        return waiting

    def _unusable(self) -> list[dict[str, str]]:
        """Images of the survey that the plan leaves out, with the reasons."""
        unusable: list[dict[str, str]] = read_plan_metadata(self.layout.plan).get("unusable", [])
        return unusable

    def _failures(self, images: Iterable[PlannedImage]) -> dict[str, Failure]:
        failures = read_failures(self.layout.ledger)
        return {image.image_id: failures[image.image_id] for image in images if image.image_id in failures}

    def _drive(
        self,
        images: list[PlannedImage],
        waiting: list[PlannedImage],
        client: Client | None,
        n_workers: int | None,
        ledger: Ledger,
        reporter: Reporter,
        started: str,
    ) -> DriveResult:
        from skygraft.campaign.cluster import open_client
        from skygraft.campaign.run import DriveResult, drive, drive_serial, map_items

        def listen(summaries: list[ImageSummary]) -> None:
            ledger.images(summaries)
            reporter.images(summaries)

        def work(using: Client | None) -> DriveResult:
            output = str(self.layout.root)
            if not waiting:
                result = DriveResult()
            elif using is None:
                result = drive_serial(waiting, output, retries=self.config.retries, listener=listen)
            else:
                result = drive(
                    using,
                    waiting,
                    output,
                    task_seconds=self.config.task_seconds,
                    images_per_task=self.config.images_per_task,
                    retries=self.config.retries,
                    listener=listen,
                )
            if result.interrupted:
                return result
            groups = [
                list(group) for _, group in itertools.groupby(images, key=lambda image: (image.tract, image.patch))
            ]
            digests = sorted(
                map_items(using, consolidate_patch, groups, output=output), key=lambda d: (d.tract, d.patch)
            )
            write_failures(self.layout.failures, self._failures(images), images, self._unusable())
            write_provenance(
                self.config,
                digests,
                n_images=len(images),
                n_failed=len(result.failed),
                started=started,
                ended=datetime.now(UTC).isoformat(timespec="seconds"),
            )
            return result

        if client is not None or n_workers == 0 or not waiting:
            return work(client)
        with open_client(self.config.cluster, n_workers) as opened:
            if opened.dashboard_link:
                reporter.say(f"Dask dashboard: {opened.dashboard_link}")
            return work(opened)
