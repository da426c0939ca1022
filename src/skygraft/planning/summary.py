"""The summary of a plan: what the campaign would do, what it would cost, and what would go wrong.

It is made from the columns of the plan, the list of the catalogue's partitions and a check of the images' calibration
(`skygraft.planning.check`); a million images take seconds.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from skygraft.catalog import list_partitions
from skygraft.config.campaign import CampaignConfig
from skygraft.place_names import is_copy, is_url, shown_place
from skygraft.planning.check import Checks, Mapper, PlanChecks, check_plan, choose_images
from skygraft.planning.cost import Cost, FreeSpace, estimate_cost, free_space, with_start
from skygraft.planning.findings import Examples, find
from skygraft.printable import printable
from skygraft.processes import careful_map
from skygraft.records.file_checksums import checked_path
from skygraft.records.files import Layout
from skygraft.records.plan_file import Plan
from skygraft.tables.calibrations import mixed_calibrations
from skygraft.wording import counts, data_size, duration, number

__all__ = ["WORKER_COUNTS", "PlanSummary", "summarise_plan"]

WORKER_COUNTS = (1, 8, 64, 512)
"""Numbers of workers for which the wall time is estimated."""
_PROBLEMS_SHOWN = 20
_USES_SHOWN = 8


@dataclass(frozen=True)
class PlanSummary:
    """The summary of a plan.

    Parameters
    ----------
    name : str
        The campaign.
    output : str
        Its output folder.
    n_images : int
        Images of the plan.
    n_unusable : int
        Images that cannot be planned: unreadable, or with the image id of another.
    n_done, n_failed : int or None
        Images that are done, and whose last attempt failed; None if that was not determined.
    n_catalog, n_outside : int
        Rows of the catalogue, and those in no tract of the sky map.
    n_sources : int
        Sources to draw, summed over all images.
    n_patches : int
        Home patches.
    bands, instruments, formats : dict of str to int
        Images by band, instrument and format.
    cost : Cost
        Cost of the images that remain.
    free : FreeSpace or None
        Free space of the output's file system.
    n_workers : int
        Workers assumed.
    checks : PlanChecks
        The check of the images' calibration.
    findings : dict of str to Examples
        Noteworthy images and patches by kind; see `skygraft.planning.findings`.
    problems : tuple of str
        What will go wrong if nothing is changed.
    """

    name: str
    output: str
    n_images: int
    n_unusable: int
    n_catalog: int
    n_outside: int
    n_sources: int
    n_patches: int
    bands: dict[str, int]
    instruments: dict[str, int]
    formats: dict[str, int]
    cost: Cost
    free: FreeSpace | None
    n_workers: int
    checks: PlanChecks
    findings: dict[str, Examples] = field(default_factory=dict)
    n_done: int | None = None
    n_failed: int | None = None
    problems: tuple[str, ...] = ()

    @property
    def mixed(self) -> bool:
        """Whether the calibrated fluxes of the images have different references."""
        return mixed_calibrations(self.checks.uses)

    def wall_seconds(self) -> dict[int, float]:
        """Wall time by number of workers, in seconds."""
        return {n: self.cost.wall_seconds(n) for n in sorted({*WORKER_COUNTS, self.n_workers})}

    def to_dict(self) -> dict[str, Any]:
        """The summary as JSON types."""
        return {
            **asdict(self),
            "mixed": self.mixed,
            "disk_bytes": self.cost.disk_bytes(self.n_workers),
            "wall_seconds": {str(n): round(seconds, 1) for n, seconds in self.wall_seconds().items()},
        }

    def rows(self) -> list[tuple[str, str]]:
        """The summary as rows of label and text."""
        cost, wall = self.cost, self.wall_seconds()
        rows = [("attention", self._mixture())] if self.mixed else []
        left = self.n_images - cost.n_images
        rows += [
            (
                "images",
                f"{self.n_images:,}  ({counts(self.instruments) or 'none'}; bands {counts(self.bands) or 'none'})",
            ),
            *([("to make", self._to_make())] if left or self.n_failed else []),
            ("sources", f"{self.n_sources:,} to draw, of {self.n_catalog:,} in the catalogue"),
            ("home patches", f"{self.n_patches:,}"),
            ("to read", data_size(cost.read_bytes)),
            (
                "to write",
                f"about {data_size(cost.image_bytes)} of images, {data_size(cost.table_bytes)} of truth and records; "
                f"{cost.n_files:,} files",
            ),
            ("disk", self._disk()),
            ("memory", f"about {data_size(cost.memory_bytes)} for each image that a worker has in hand"),
            ("processor time", f"about {duration(cost.cpu_seconds)}"),
            (
                "wall time",
                f"about {duration(wall[self.n_workers])} with {number(self.n_workers, 'worker')}{self._start()}",
            ),
            ("", "with " + ", ".join(f"{n}: {duration(wall[n])}" for n in WORKER_COUNTS)),
            ("looked at", self._looked()),
        ]
        uses = sorted(self.checks.uses, key=lambda use: -use.n_images)
        rows += [
            ("calibrated to", f"{use}, in {number(use.n_images, 'image')}  ({use.place})") for use in uses[:_USES_SHOWN]
        ]
        if len(uses) > _USES_SHOWN:
            rows.append(("", f"... and {number(len(uses) - _USES_SHOWN, 'other')}, all in plan_summary.csv"))
        rows += [(name, str(few)) for name, few in self.findings.items() if few]
        if self.n_outside:
            rows.append(("sources off the sky map", f"{self.n_outside:,}; they are drawn on no image"))
        rows += [("problem", text) for text in self.problems[:_PROBLEMS_SHOWN]]
        more = len(self.problems) - _PROBLEMS_SHOWN
        return [*rows, ("problem", f"... and {more} more")] if more > 0 else rows

    def table(self) -> str:
        """The summary as lines of text."""
        rows = self.rows()
        width = max(len(label) for label, _ in rows)
        return "\n".join([f"plan of {self.name}", *(f"  {label:<{width}}  {text}" for label, text in rows)])

    def __str__(self) -> str:
        return printable(self.table(), lines=True)

    def write(self, path: Path) -> None:
        """Write the summary as CSV: quantity, value, unit, note.

        Raises
        ------
        OutputError
            If it cannot be written.
        """
        with checked_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(["quantity", "value", "unit", "note"])
            writer.writerows(self._quantities())

    def _quantities(self) -> Iterable[tuple[str, Any, str, str]]:
        cost, checks = self.cost, self.checks
        yield "images", self.n_images, "", ""
        yield from ((f"images of {name}", n, "", "instrument") for name, n in sorted(self.instruments.items()))
        yield from ((f"images in {name}", n, "", "band") for name, n in sorted(self.bands.items()))
        yield from ((f"images in format {name}", n, "", "") for name, n in sorted(self.formats.items()))
        if self.n_done is not None:
            yield "images done", self.n_done, "", ""
        yield "images to make", cost.n_images, "", ""
        if self.n_failed is not None:
            yield "images failed", self.n_failed, "", ""
        yield "images unusable", self.n_unusable, "", "not in the plan"
        yield "sources to draw", self.n_sources, "", "summed over images"
        yield "catalogue rows", self.n_catalog, "", ""
        yield "catalogue rows off the sky map", self.n_outside, "", ""
        yield "home patches", self.n_patches, "", ""
        yield "to read", cost.read_bytes, "byte", ""
        yield "to write as images", cost.image_bytes, "byte", "estimate"
        yield "to write as truth and records", cost.table_bytes, "byte", "estimate"
        yield "files to write", cost.n_files, "", "estimate"
        yield "disk needed", cost.disk_bytes(self.n_workers), "byte", "estimate"
        if self.free is not None:
            yield "disk free", self.free.n_bytes, "byte", self.output
            if self.free.n_files is not None:
                yield "files free", self.free.n_files, "", self.output
        yield "memory of a worker", cost.memory_bytes, "byte", "for each image that it has in hand"
        yield "processor time", round(cost.cpu_seconds / 3600, 4), "hour", "estimate"
        for n, seconds in self.wall_seconds().items():
            yield f"wall time with {n} workers", round(seconds / 3600, 4), "hour", "estimate"
        yield "to start", cost.start_seconds, "second", "in each wall time; estimate"
        yield "to compile loops", cost.compile_seconds, "second", "in each wall time; 0 where that was done; estimate"
        yield "longest image", round(cost.longest_seconds, 1), "second", "estimate"
        yield "images looked at", checks.n_checked, "", f"of {checks.n_images}"
        for use in checks.uses:
            yield f"calibrated to {use}", use.n_images, "", use.place
        for trouble in checks.troubles:
            yield f"images: {trouble.kind}", trouble.n_images, "", trouble.problem
        for name, few in self.findings.items():
            yield name, few.n, "", few.names()
        for problem in self.problems:
            yield "problem", "", "", problem

    def _mixture(self) -> str:
        uses = sorted(self.checks.uses, key=lambda use: -use.n_images)
        parts = "; ".join(f"{use} in {number(use.n_images, 'image')}" for use in uses[:_USES_SHOWN])
        parts += "; ..." if len(uses) > _USES_SHOWN else ""
        return (
            f"The images are NOT all calibrated to the same thing: {parts}. Each image is injected by its own, but one "
            "magnitude then means different fluxes; check that this is so, and not a mistake in some headers"
        )

    def _to_make(self) -> str:
        parts = [f"{self.cost.n_images:,}"]
        if self.n_done is not None:
            parts.append(f"{self.n_done:,} are done")
        if self.n_failed:
            parts.append(f"{self.n_failed:,} failed")
        return "; ".join(parts)

    def _disk(self) -> str:
        needed = f"{data_size(self.cost.disk_bytes(self.n_workers))} needed"
        if self.free is None and is_url(self.output):
            return needed
        if self.free is None:
            return f"{needed}; what is free in {self.output} cannot be told"
        return f"{needed}, {data_size(self.free.n_bytes)} free in {self.output}"

    def _start(self) -> str:
        """The part of the wall time before the first image, in words."""
        cost = self.cost
        if not cost.start_seconds:
            return ""
        parts = [f"{duration(cost.start_seconds)} to start"]
        if cost.compile_seconds:
            parts.append(f"{duration(cost.compile_seconds)} to compile loops, once on each kind of machine")
        return f"; of it {' and '.join(parts)}, and no wait in a queue"

    def _looked(self) -> str:
        looked, n = self.checks.n_checked, self.checks.n_images
        if not looked:
            return "no image's calibration"
        if looked == n:
            return f"the calibration of {'the one image' if n == 1 else f'all {n:,} images'}"
        return f"the calibration of {looked:,} of {n:,} images, of all instruments and bands"


def summarise_plan(
    config: CampaignConfig,
    plan: Plan,
    *,
    checks: Checks = "auto",
    mapper: Mapper = careful_map,
    processes: int = 1,
    n_workers: int | None = None,
    to_make: ArrayLike | None = None,
    n_done: int | None = None,
    n_failed: int | None = None,
    problems: Iterable[str] = (),
) -> PlanSummary:
    """Summarise a plan, and write the results beside it.

    Writes ``plan_summary.csv``, ``plan_checks.parquet`` (one row for each image checked) and ``plan_findings.parquet``
    (one row for each noteworthy image or patch).

    Parameters
    ----------
    config : CampaignConfig
        The campaign.
    plan : Plan
        Its plan.
    checks : {"auto", "all", "none"} or int
        How many images' calibration to check; see `skygraft.planning.check.choose_images`.
    mapper, processes
        As in `skygraft.planning.check.check_plan`.
    n_workers : int, optional
        Workers to assume; by default those of the configured cluster, or one for each core of this machine.
    to_make : array_like of bool, shape (N,), optional
        The images that a run would inject into; by default all.
    n_done, n_failed : int, optional
        Images that are done, and whose last attempt failed; by default all others are done.
    problems : iterable of str
        Other problems.

    Returns
    -------
    PlanSummary

    Raises
    ------
    CampaignError, CatalogError
        If the plan or its catalogue cannot be read.
    ConfigError
        If `checks` is none of those.
    OutputError
        If the tables cannot be written.
    """
    layout = Layout(config.output)
    rows = choose_images(plan, checks)
    partitions = list_partitions(layout.catalog)
    found = find(config, plan, partitions, layout.plan_findings)
    checked = check_plan(config, plan, rows, path=layout.plan_checks, mapper=mapper, processes=processes)
    wanted = None if to_make is None else np.asarray(to_make, dtype=bool)
    if wanted is not None and n_done is None:
        n_done = len(plan) - int(wanted.sum()) - (n_failed or 0)
    cost = with_start(estimate_cost(plan, wanted, checked.files))
    workers = _workers(config) if n_workers is None else n_workers
    # A store has room.
    free = None if is_copy(config.output) else free_space(config.output)
    unusable = plan.metadata.get("unusable", [])
    summary = PlanSummary(
        name=config.name,
        output=shown_place(config.output),
        n_images=len(plan),
        n_unusable=len(unusable),
        n_done=n_done,
        n_failed=n_failed,
        n_catalog=plan.metadata.get("n_catalog", sum(partitions.values())),
        n_outside=found.n_outside,
        n_sources=found.n_sources,
        n_patches=found.n_patches,
        bands=dict(found.counts["band"]),
        instruments=dict(found.counts["instrument"]),
        formats=dict(found.counts["format"]),
        cost=cost,
        free=free,
        n_workers=workers,
        checks=checked,
        findings=found.findings,
        problems=(*found.problems, *_troubles(checked), *_too_little(cost, free, workers, config.output), *problems),
    )
    summary.write(layout.plan_summary)
    return summary


def _workers(config: CampaignConfig) -> int:
    return config.cluster.max_workers or len(os.sched_getaffinity(0))


def _troubles(checks: PlanChecks) -> list[str]:
    """The troubles as problems; those of a sample with the number expected in all images."""
    if checks.n_checked == checks.n_images:
        return [str(trouble) for trouble in checks.troubles]
    n, looked = checks.n_images, checks.n_checked
    return [
        f"of {looked:,} images looked at, {trouble}  (about {trouble.n_images * n / looked:,.0f} of all {n:,})"
        for trouble in checks.troubles
    ]


def _too_little(cost: Cost, free: FreeSpace | None, n_workers: int, output: Path) -> list[str]:
    if free is None:
        return []
    problems = []
    needed = cost.disk_bytes(n_workers)
    if needed > free.n_bytes:
        problems.append(
            f"the disk of {output} is too small: {data_size(needed)} are needed and {data_size(free.n_bytes)} are "
            "free; make room, or put output: on a larger disk"
        )
    if free.n_files is not None and cost.n_files > free.n_files:
        problems.append(
            f"the disk of {output} can hold {free.n_files:,} more files, and about {cost.n_files:,} are to be written; "
            "put output: elsewhere, or have the limit raised"
        )
    return problems
