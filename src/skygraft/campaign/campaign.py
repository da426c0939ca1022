"""`Campaign`: plan it, run it, and see its progress."""

from __future__ import annotations

import itertools
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from skygraft.campaign.calling import cores, open_call
from skygraft.campaign.summaries import FAILURES_LISTED, RunSummary, Status, unusable_images
from skygraft.config.campaign import CampaignConfig, load_config
from skygraft.disk import FileIdentity, atomic_path
from skygraft.display import Rows, html_table, text_table
from skygraft.errors import CampaignError, CatalogError, ConfigError, OutputError, OutputExistsError
from skygraft.execution.registering import begin_run, check_run
from skygraft.place_names import shown_place
from skygraft.places import beneath, refresh
from skygraft.records.events import RunStarted
from skygraft.records.files import Layout, sweep_leftovers
from skygraft.records.interruption import Interruption
from skygraft.records.ledger import Ledger, phase_of
from skygraft.records.lock import lease_path
from skygraft.records.plan_file import DamagedPlanError, Plan, campaign_plan, plan_key
from skygraft.records.status import (
    DONE,
    FAILED,
    QUARANTINED,
    WAITING,
    output_states,
    record_states,
    rescan,
    resume_states,
)
from skygraft.records.store_packs import remove_packed
from skygraft.wording import number

if TYPE_CHECKING:
    from distributed import Client

    from skygraft.campaign.checksums import ChecksumReport
    from skygraft.catalog.conversion import Conversion
    from skygraft.monitoring.reporters import Reporter
    from skygraft.planning.check import Checks
    from skygraft.planning.summary import PlanSummary

__all__ = ["Campaign"]

_WORTH_A_PROCESS = 32
"""Number of images to read for which another process is worth starting."""
_PARTITIONS_SHOWN = 3
_OF_PAIR = re.compile(r"pair(-plus|-minus)?(\.json|\.parquet)?")


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

    def __repr__(self) -> str:
        return text_table(*self._display())

    def _repr_html_(self) -> str:
        return html_table(*self._display())

    def _display(self) -> tuple[str, Rows]:
        """Title and rows of the text that shows the campaign; of its files only the plan's size is read."""
        survey, injection = self.config.survey, self.config.injection
        spec = survey.spec()
        images = next(str(spec[way]) for way in ("images", "ccds", "butler", "index") if way in spec)
        try:
            plan = number(len(Plan(self.layout.plan)), "image")
        except CampaignError as error:
            plan = error.message
        given = survey.calibration.model_dump(mode="json", exclude_defaults=True)
        flux = injection.flux_mode + (f", in an aperture of {injection.aperture}" if injection.aperture else "")
        return f"Campaign {self.config.name}", [
            ("survey", f"{images} in {shown_place(survey.root)}, format {survey.format}"),
            ("calibration", ", ".join(f"{k} {v}" for k, v in given.items()) or "as the images say"),
            ("catalogue", shown_place(self.config.catalog.path)),
            ("flux", f"{flux}; {'with' if injection.noise else 'without'} photon noise, seed {injection.seed}"),
            ("sky map", str(self.config.skymap)),
            ("cluster", self.config.cluster.kind),
            ("output", shown_place(self.layout.root)),
            ("plan", plan),
        ]

    @classmethod
    def from_yaml(cls, path: str | os.PathLike[str], *, butler: Mapping[str, Any] | None = None) -> Self:
        """Read a campaign's configuration from its YAML file.

        Parameters
        ----------
        path : path-like
            The file; relative paths in it are relative to its folder.
        butler : mapping, optional
            Keys of ``survey: butler:`` that replace those in the file, see `skygraft.config.campaign.load_config`.

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
        """Plan the campaign: which sources go into which image, and what that will cost.

        The survey is indexed again and the catalogue partitioned, so that new images are found. No pixels are read.

        Parameters
        ----------
        checks : {"auto", "all", "none"} or int
            How many images' calibration to check: with "auto", all of up to 2000 images and a sample of more.
        processes : int, optional
            Processes of this machine; by default one for each core.
        n_workers : int, optional
            Workers to assume in the estimate of the time; by default those of the configuration.

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
        # Imported here, as Dask and drawing are below, so that looking at a campaign starts quickly.
        from skygraft.planning.summary import summarise_plan

        self._claim()
        with self.layout.locked(), Interruption():
            self._sync(clean=True)
            plan = self._make_plan(processes)
            check_run(self.config, plan)
            problems: tuple[str, ...] = ()
            try:
                states = resume_states(plan, self.config)
            except CampaignError as error:
                problems = (error.message,)
                states, _ = record_states(plan, self.layout)
            summary = summarise_plan(
                self.config,
                plan,
                checks=checks,
                processes=cores(processes),
                n_workers=n_workers,
                # A run retries failed images, but not those in quarantine.
                to_make=np.isin(states.state, (WAITING, FAILED)),
                n_done=states.count(DONE),
                n_failed=states.count(FAILED, QUARANTINED),
                problems=problems,
            )
            self._publish()
            return summary

    def run(
        self,
        client: Client | None = None,
        *,
        n_workers: int | None = None,
        redo: bool = False,
        retry_failed: bool = False,
        reporter: Reporter | None = None,
    ) -> RunSummary:
        """Inject into every image that is not done yet; those that failed before are tried again.

        Parameters
        ----------
        client : distributed.Client, optional
            The cluster to use; by default the one that the configuration names.
        n_workers : int, optional
            Worker processes of a local cluster; 0 works in this process, one image after the other, without Dask.
        redo : bool
            Inject again into images whose inputs or settings have changed since; without it such a change is an
            error.
        retry_failed : bool
            Only try the images that failed before, including those in quarantine, which other runs leave out because
            they kill their workers.
        reporter : Reporter, optional
            Shows the progress; see `skygraft.monitoring.reporters.RichReporter`.

        Returns
        -------
        RunSummary
            With the images that failed; their errors are not raised.

        Raises
        ------
        CampaignError
            If inputs or settings have changed, another process runs the campaign, or the cluster fails.
        OutputError
            If the output folder cannot be written.
        """
        # Here, and so for Dask below: looking at a campaign does not wait for what only running it needs.
        from skygraft.campaign.run import CampaignRun
        from skygraft.monitoring.reporters import NoReporter

        self._claim()
        with self.layout.locked(), Interruption() as interruption:
            reporter = reporter or NoReporter()
            self._sync(clean=True)
            plan = self._current_plan(reporter.say)
            with Ledger(self.layout.ledger) as ledger:
                states = resume_states(plan, self.config, redo=redo, ledger=ledger)
                if n_removed := begin_run(self.config, plan, states.rows(WAITING, FAILED, QUARANTINED).tolist()):
                    reporter.say(f"{n_removed} datasets whose files will be replaced were removed from the repository")
                self._write_config()
                self._publish()  # workers of other machines need plan, configuration and catalogue
                wanted = (FAILED, QUARANTINED) if retry_failed else (WAITING, FAILED)
                rows = states.rows(*wanted)
                run = CampaignRun(self.config, plan, states, rows, reporter, interruption, ledger)
                with reporter:
                    (place,) = ledger.append([RunStarted(images=len(plan), waiting=len(rows), redo=redo)])
                    states.begin_run(place)
                    summary = run.run(client, n_workers)
                    # Temporary files of killed workers; at the end, because it goes through all folders.
                    sweep_leftovers(self.layout.root)
                    ledger.append([summary.ended()])
                    run.checkpoints.save()
            self._publish()
        return summary

    def _sync(self, *, clean: bool = False) -> None:
        """If the outputs lie in a store, bring the work folder up to date with it."""
        if (outputs := self.layout.outputs) is not None:
            outputs.sync(clean=clean)
            if clean:
                self._claim()

    def _publish(self) -> None:
        if (outputs := self.layout.outputs) is not None:
            outputs.publish_all()
            remove_packed(self.layout)

    def status(self) -> Status:
        """The progress of the campaign, from its records and its ledger.

        Raises
        ------
        CampaignError
            If there is no plan.
        """
        from skygraft.campaign.checksums import look_at_files

        self._sync()
        plan = campaign_plan(self.layout.plan)
        states, damaged = output_states(plan, self.layout)
        failed = states.rows(FAILED, QUARANTINED)
        failures = tuple(f for _, f in states.failures(self.layout.ledger, failed[:FAILURES_LISTED]))
        errors = Counter(failure.error for _, failure in states.failures(self.layout.ledger))
        unusable = unusable_images(plan)
        started = [event for event in states.runs if isinstance(event, RunStarted)]
        running = self.layout.is_locked()
        return Status(
            name=self.config.name,
            output=shown_place(self.layout.root),
            n_images=len(plan),
            n_done=states.count(DONE),
            n_failed=len(failed),
            n_remaining=states.count(WAITING),
            n_quarantined=states.count(QUARANTINED),
            n_unusable=len(unusable),
            failures=failures,
            unusable=unusable,
            n_damaged=len(damaged),
            damaged=tuple(image.image_id for image in plan.images(damaged[:FAILURES_LISTED])),
            errors=dict(errors),
            runs=len(started),
            last_run=started[-1].time if started else "",
            files=() if running else tuple(f"{bad.path}: {bad.problem}" for bad in look_at_files(self.layout)),
            running=running,
            phase=phase_of(states.runs) if running else "",
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
        """Verify the checksums of everything that was written: images, truth, records, tables, catalogue.

        Parameters
        ----------
        client : distributed.Client, optional
            The cluster to use.
        cluster : bool
            Use the cluster that the configuration names instead of processes of this machine.
        n_workers : int, optional
            Largest number of that cluster's workers.
        processes : int, optional
            Processes of this machine; by default up to one for each core. 1 reads in this process.
        progress : callable
            Called with the number of images and tables read so far, and of all.

        Returns
        -------
        ChecksumReport
            With the damaged files; they are not raised.

        Raises
        ------
        CampaignError
            If no image is done, the cluster fails, or a process dies.
        """
        from skygraft.campaign.checksums import check_checksums

        self._sync()
        try:
            useful = len(campaign_plan(self.layout.plan)) // _WORTH_A_PROCESS
        except DamagedPlanError:
            useful = 1  # which is what is found first
        with open_call(
            self.config, client, cluster=cluster, n_workers=n_workers, processes=processes, useful=useful
        ) as call:
            return check_checksums(self.config, call, progress)

    def export_hats(
        self,
        path: str | os.PathLike[str],
        table: Literal["truth", "sources"] = "truth",
        *,
        select: str = "",
        margin_arcsec: float = 10.0,
        overwrite: bool = False,
    ) -> Conversion:
        """Write the truth, or what became of the sources, as a HATS collection, which LSDB matches with others.

        Parameters
        ----------
        path : path-like
            Folder of the collection.
        table : {"truth", "sources"}
            Which table.
        select : str
            Expression for the rows to write, such as ``is_primary`` (`skygraft.catalog.expressions`).
        margin_arcsec : float
            Width of the margins: the largest distance at which rows can be matched.
        overwrite : bool
            Replace a collection that is there.

        Returns
        -------
        skygraft.catalog.conversion.Conversion

        Raises
        ------
        CampaignError
            If the campaign has not written the table yet.
        OutputExistsError
            If the folder is there, and `overwrite` is false.
        """
        from skygraft.catalog.conversion import convert_catalog

        source = {"truth": self.layout.truth, "sources": self.layout.campaign_sources}[table]
        if not source.exists():
            raise CampaignError(f"the campaign has no table of {table} yet", path=source, fix="Run it first")
        return convert_catalog(
            source, path, hats=True, as_is=True, select=select, margin_arcsec=margin_arcsec, overwrite=overwrite
        )

    def rescan(self) -> Status:
        """Rebuild the ledger from the records, and return the status.

        Raises
        ------
        CampaignError
            If there is no plan, or a process runs the campaign.
        OutputError
            If the ledger cannot be written; the old one is kept.
        """
        with self.layout.locked():
            self._sync(clean=True)
            rescan(campaign_plan(self.layout.plan), self.config)
        return self.status()

    def _claim(self) -> None:
        """Make sure that the output folder is this campaign's, or empty."""
        root = self.layout.root
        try:
            root.mkdir(parents=True, exist_ok=True)
            # Of what is remembered, the checksum of a file that was not written is nobody's.
            own = (self.layout.lock, lease_path(self.layout.lock), self.layout.consolidated)
            # A pair (`skygraft.campaign.paired`) is campaigns of their own.
            entries = [e.name for e in root.iterdir() if e not in own and not _OF_PAIR.fullmatch(e.name)]
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
        if self.layout.config.name in entries:
            self.check_owner()
        elif not self._is_planned():
            raise OutputExistsError(
                f"the output folder holds something else ({', '.join(sorted(entries)[:3])})",
                path=root,
                fix="Name a new folder",
            )

    def check_owner(self) -> None:
        """Make sure that the output folder is that of a campaign of the same name and sky map.

        Raises
        ------
        CampaignError
            If it is not.
        ConfigError
            If the configuration there cannot be read, and the plan was not made from this one.
        """
        try:
            before = load_config(self.layout.config)
        except (ConfigError, OSError):
            # Damaged; if the plan shows that the folder is this campaign's, a run rewrites it.
            if self._is_planned():
                return
            raise
        for key in ("name", "skymap"):
            old, new = getattr(before, key), getattr(self.config, key)
            if old != new:
                raise CampaignError(
                    f"the output folder is that of a campaign whose {key} is {old!r}, not {new!r}",
                    path=self.layout.root,
                    key=key,
                    fix="Name the output folder of this campaign, or a new one",
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
            # First, because it marks the folder as this campaign's if planning is interrupted.
            self._write_config()
        return plan_images(self.config, processes=cores(processes))

    def _current_plan(self, say: Callable[[str], None]) -> Plan:
        """The plan, planned again if it is missing or damaged, or if its inputs have changed."""
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
        """What is wrong with the partitioned catalogue, by a quick look; empty if nothing is."""
        from skygraft.catalog.partition_read import damaged_partitions

        try:
            damaged = damaged_partitions(self.layout.catalog)
        except CatalogError as error:
            return str(error)
        return "; ".join(f"{path}: {problem}" for path, problem in itertools.islice(damaged.items(), _PARTITIONS_SHOWN))

    def _replaced(self, plan: Plan) -> bool:
        """Whether a file that the plan left out was created, changed or removed since."""
        root = self.config.survey.root
        paths = [beneath(root, bad["path"]) for bad in plan.unusable]
        refresh(paths)
        found = [str(FileIdentity.find(path) or "") for path in paths]
        return any(now != bad.get("stamp") for now, bad in zip(found, plan.unusable, strict=True))
