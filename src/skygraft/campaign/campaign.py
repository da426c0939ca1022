"""The campaign: plan it, run it, see how far it is."""

from __future__ import annotations

import dataclasses
import itertools
import os
import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Self

from skygraft.campaign.config import CampaignConfig, load_config
from skygraft.campaign.consolidate import consolidate_patch, write_failures, write_provenance
from skygraft.campaign.files import Layout, atomic_path, sweep_leftovers
from skygraft.campaign.image_summary import ImageSummary
from skygraft.campaign.ledger import Failure, Ledger, read_failures, read_runs
from skygraft.campaign.monitor import NoReporter, Reporter
from skygraft.campaign.plan import file_stamp, make_plan, plan_key
from skygraft.campaign.plan_summary import PlanSummary
from skygraft.campaign.planned import PlannedImage, read_plan, read_plan_metadata
from skygraft.campaign.progress import Overview, make_overview
from skygraft.campaign.records import changes, is_whole, read_record
from skygraft.campaign.summaries import RunSummary, Status, UnusableImage
from skygraft.errors import CampaignError, OutputError, OutputExistsError

if TYPE_CHECKING:
    from distributed import Client

    from skygraft.campaign.run import DriveResult

__all__ = ["Campaign"]

_SHOWN = 5
_LOOKERS = 8


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
                reporter.start(self._overview(images, waiting))
                result = self._drive(images, waiting, client, n_workers, ledger, reporter, started)
                failures, unusable = self._failures(images), self._unusable_images()
                summary = RunSummary(
                    output=str(self.layout.root),
                    n_images=len(images),
                    n_done=result.n_done,
                    n_skipped=n_skipped + result.n_skipped,
                    n_failed=len(result.failed),
                    n_remaining=len(waiting) - result.n_done - result.n_skipped - len(result.failed),
                    n_drawn=result.n_drawn,
                    wall_seconds=round(time.perf_counter() - clock, 2),
                    n_unusable=len(unusable),
                    interrupted=result.interrupted,
                    unusable=unusable,
                    failures=tuple(failures[name] for name in result.failed if name in failures),
                )
                ledger.event(
                    "run_ended", **{k: v for k, v in summary.to_dict().items() if k not in ("failures", "unusable")}
                )
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
        unusable = self._unusable_images()
        started = [event for event in read_runs(self.layout.ledger) if event["event"] == "run_started"]
        return Status(
            name=self.config.name,
            output=str(self.layout.root),
            n_images=len(images),
            n_done=len(done),
            n_failed=len(failures),
            n_remaining=len(images) - len(done) - len(failures),
            n_unusable=len(unusable),
            failures=tuple(failures.values()),
            unusable=unusable,
            errors=dict(Counter(failure.error for failure in failures.values())),
            runs=len(started),
            last_run=str(started[-1]["time"]) if started else "",
            running=self.layout.is_locked(),
        )

    def _overview(self, images: list[PlannedImage], waiting: list[PlannedImage]) -> Overview:
        left = {image.image_id for image in waiting}
        columns = ("tract", "patch", "ra", "dec", "n_sources", "cost_seconds")
        return make_overview(
            self.config.name,
            str(self.layout.root),
            **{column: [getattr(image, column) for image in images] for column in columns},
            done=[image.image_id not in left for image in images],
            failed=[False] * len(images),
            n_unusable=len(self._unusable()),
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
        """The plan as it is; a new one where there is none, or what it was made from or left out has changed."""
        if self.layout.plan.exists() and self.layout.config.exists():
            key = read_plan_metadata(self.layout.plan).get("plan_key")
            if key == plan_key(self.config) and not self._replaced():
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

    def _unusable_images(self) -> tuple[UnusableImage, ...]:
        return tuple(UnusableImage(bad["path"], bad["error"], bad["reason"]) for bad in self._unusable())

    def _replaced(self) -> bool:
        """Whether a file that the plan had to leave out was made, changed or removed since."""
        root = self.config.survey.root
        return any(file_stamp(root / bad["path"]) != bad.get("stamp") for bad in self._unusable())

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
        from skygraft.campaign.cluster import open_cluster
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
        with open_cluster(self.config.cluster, n_workers=n_workers) as cluster:
            if cluster.dashboard:
                reporter.say(f"Dask dashboard: {cluster.dashboard}")
            return work(cluster.client)
