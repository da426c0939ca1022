"""Measure the images of a campaign: apply a function to each, on a cluster or on this machine, and gather its tables.

`sweep` measures an image once: the file of its measurement is written last, whole, and names what it was made from, so
that a sweep may be stopped at any time, and goes on where it was. Tables do not depend on workers, order or retries.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import ArrayLike, NDArray

from skygraft.campaign.calling import Call, open_call
from skygraft.campaign.finished import finished_rows
from skygraft.campaign.products import Product, ProductLayout, read_settings, settings_digest
from skygraft.campaign.summaries import FAILURES_LISTED
from skygraft.campaign.sweep_state import FAILED, MEASURED, SweepState
from skygraft.campaign.sweep_tables import PatchTable, gather_patch, plain_schema
from skygraft.campaign.sweep_task import SweptImage, measure_row
from skygraft.disk import FileIdentity, atomic_path
from skygraft.errors import CampaignError, ConfigError
from skygraft.json_text import parse_json
from skygraft.place_names import shown_place
from skygraft.records.files import json_text, write_json
from skygraft.records.interruption import Interruption
from skygraft.records.lock import locked
from skygraft.records.plan_file import Plan
from skygraft.wording import duration, number

if TYPE_CHECKING:
    import pyarrow.dataset as ds
    from distributed import Client

    from skygraft.campaign.campaign import Campaign

__all__ = ["Product", "SweepSummary", "product_dataset", "sweep"]

_IMAGES_PER_PROCESS = 4
"""Images for which another process is worth starting, which takes seconds."""
_SHOWN = 5
_DAMAGED = "its measurement was written, and is not what was written when it is read"


@dataclass(frozen=True)
class SweepSummary:
    """The result of measuring a campaign's images.

    Parameters
    ----------
    product : str
        Name of the product.
    output : str
        Its folder.
    n_images : int
        Images that were asked for and are done.
    n_measured, n_skipped, n_failed : int
        Of these, those measured this time, those measured before, and those that failed.
    n_renewed : int
        Of those measured this time, those that had been measured before and were rebuilt since.
    n_not_done : int
        Images that were asked for and have not been injected into.
    n_in_tables, n_rows : int
        Images in the tables, which are all that were measured with these settings, and rows of them.
    n_without_truth : int
        Images that are not in the campaign's truth tables yet, so that ``is_primary`` and the like are empty.
    seconds : float
        Duration, s.
    failed : tuple of (str, str, str)
        Image id, class of the error, and message, of the first 1000 images that failed; ``_images.parquet`` has all.
    not_done, renewed : tuple of str
        The first 1000 of these images.
    """

    product: str
    output: str
    n_images: int
    n_measured: int = 0
    n_skipped: int = 0
    n_failed: int = 0
    n_renewed: int = 0
    n_not_done: int = 0
    n_in_tables: int = 0
    n_rows: int = 0
    n_without_truth: int = 0
    seconds: float = 0.0
    failed: tuple[tuple[str, str, str], ...] = ()
    not_done: tuple[str, ...] = ()
    renewed: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether every image that is done was measured."""
        return not self.n_failed

    def to_dict(self) -> dict[str, Any]:
        """The summary as JSON types."""
        return asdict(self) | {"ok": self.ok}

    def __str__(self) -> str:
        parts = [f"{self.n_measured:,} measured", f"{self.n_skipped:,} measured before", f"{self.n_failed:,} failed"]
        lines = [f"{number(self.n_images, 'image')}: {', '.join(parts)}; {duration(self.seconds)}"]
        lines += [f"  {image_id}: {error}: {message}" for image_id, error, message in self.failed[:_SHOWN]]
        if self.n_failed > _SHOWN:
            lines.append(f"  ... all of them in {self.output}/_images.parquet")
        if self.n_renewed:
            lines.append(f"{number(self.n_renewed, 'image')} rebuilt since, and measured again: {_names(self.renewed)}")
        if self.n_not_done:
            lines.append(
                f"{number(self.n_not_done, 'image')} of the plan not done, and not measured: {_names(self.not_done)}"
            )
        if self.n_without_truth:
            lines.append(
                f"{number(self.n_without_truth, 'image')} not in the campaign's truth tables yet: is_primary and the "
                "like are empty there. End the run (skygraft run), and repeat this: nothing is measured twice"
            )
        return "\n".join(lines)


def _names(names: tuple[str, ...]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")


def sweep(
    campaign: Campaign,
    product: Product,
    settings: Mapping[str, Any],
    *,
    rows: ArrayLike | None = None,
    client: Client | None = None,
    cluster: bool = False,
    n_workers: int | None = None,
    processes: int | None = None,
    redo: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> SweepSummary:
    """Measure images of a campaign that have not been measured yet with these settings, and gather the tables.

    An image that cannot be measured is a row of ``_images.parquet`` with the error, and is tried again the next time.
    Interrupted, what was measured is kept.

    Parameters
    ----------
    campaign : Campaign
        A campaign that has been run, at least in part.
    product : Product
        What to measure.
    settings : mapping
        Settings of the measurement, as JSON types.
    rows : array_like of int, optional
        Images to measure, as rows of the plan; by default all that are done. The tables also have images that were
        measured before with the same settings.
    client : distributed.Client, optional
        The cluster to use.
    cluster : bool
        Use the cluster that the configuration names instead of processes of this machine.
    n_workers : int, optional
        Largest number of that cluster's workers; 0 works in this process.
    processes : int, optional
        Processes of this machine; by default up to one for each core. 1 works in this process.
    redo : bool
        Measure again what was measured before.
    progress : callable
        Called with the number of images looked at so far, and of all.

    Returns
    -------
    SweepSummary
        With the images that failed; their errors are not raised.

    Raises
    ------
    CampaignError
        If there is no plan, no image is done, the output is that of another campaign, another process makes the same
        product, or the cluster fails.
    ConfigError
        If the settings are not JSON types, or rows are not in the plan.
    OutputError
        If the output folder cannot be written.
    """
    began = time.perf_counter()
    plan, done = finished_rows(campaign)
    wanted, missing = _wanted(plan, done, rows)
    files = ProductLayout(campaign.layout.root, product.name)
    files.folder.mkdir(parents=True, exist_ok=True)
    with locked(files.lock), Interruption():
        work = _Sweep(campaign, plan, done, files, product, _json_types(settings), progress)
        with open_call(
            campaign.config,
            client,
            cluster=cluster,
            n_workers=n_workers,
            processes=processes,
            useful=len(wanted) // _IMAGES_PER_PROCESS,
        ) as call:
            summary = work.run(call, wanted, missing, redo=redo)
        if (outputs := campaign.layout.outputs) is not None:
            outputs.publish_all()
        return replace(summary, seconds=round(time.perf_counter() - began, 2))


def _json_types(settings: Mapping[str, Any]) -> dict[str, Any]:
    try:
        same: dict[str, Any] = parse_json(json_text(dict(settings)))
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"the settings of a measurement are not all JSON types ({error})",
            key="settings",
            fix="Use numbers, text, lists and mappings",
        ) from error
    return same


def _wanted(plan: Plan, done: NDArray[np.int64], rows: ArrayLike | None) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The rows to measure, ascending, and those that cannot be because they are not done."""
    asked = np.arange(len(plan)) if rows is None else np.unique(np.asarray(rows, dtype=np.int64).reshape(-1))
    if asked.size and not 0 <= asked[0] <= asked[-1] < len(plan):
        raise ConfigError(
            f"row {int(asked[0] if asked[0] < 0 else asked[-1])} is not in the plan of {number(len(plan), 'image')}",
            key="rows",
            fix="Count rows of the plan from 0",
        )
    is_done = np.isin(asked, done)
    return asked[is_done], asked[~is_done]


class _Sweep:
    """One sweep: what to do, and what came of it."""

    def __init__(
        self,
        campaign: Campaign,
        plan: Plan,
        done: NDArray[np.int64],
        files: ProductLayout,
        product: Product,
        settings: dict[str, Any],
        progress: Callable[[int, int], None],
    ) -> None:
        self.plan, self.files, self.product, self.progress = plan, files, product, progress
        self.settings = settings
        self.state = SweepState(plan, files, settings_digest(product, settings))
        is_done = np.zeros(len(plan), dtype=np.bool_)
        is_done[done] = True
        self.state.recall(is_done)
        write_json(files.order, self._described() | {"campaign": campaign.config.resolved()})
        self.arguments: dict[str, Any] = {
            "product": product,
            "order": str(files.order),
            "identity": FileIdentity.of(files.order).size_and_time,
            "plan": FileIdentity.of(plan.path).size_and_time,
        }
        self.counts = dict.fromkeys(("measured", "renewed", "skipped", "failed", "not done"), 0)
        self.failed: dict[int, tuple[str, str, str]] = {}
        self.names: dict[str, list[str]] = {"renewed": [], "not done": []}

    def _described(self) -> dict[str, Any]:
        return {"product": self.product.name, "version": self.product.version, "settings": self.settings}

    def run(self, call: Call, wanted: NDArray[np.int64], missing: NDArray[np.int64], *, redo: bool) -> SweepSummary:
        """Measure, gather the tables, and say what came of it."""
        # Where a measurement depends on more than the image, workers look whether that has changed.
        look_at_all = redo or self.product.inputs is not None
        waiting = wanted if look_at_all else wanted[self.state.state[wanted] != MEASURED]
        n_known = len(wanted) - len(waiting)
        self.counts["skipped"] += n_known
        self.progress(n_known, len(wanted))
        self._measure(call, waiting, n_known, len(wanted), redo=redo)
        tables = self._gather(call)
        if tables.damaged:
            # Files of measurements that were lost or damaged since; those images are measured again.
            self.counts["skipped"] -= len(np.intersect1d(tables.damaged, wanted))
            self._measure(call, np.unique(tables.damaged), len(wanted), len(wanted), redo=True)
            tables = self._gather(call)
            for row, image in zip(sorted(tables.damaged), self.plan.images(sorted(tables.damaged)), strict=True):
                self._enter(SweptImage(row, image.image_id, "failed", error="DamagedPartError", message=_DAMAGED))
        self._finish(tables)
        for image in self.plan.images(missing[:FAILURES_LISTED]):
            self.names["not done"].append(image.image_id)
        n_lost = self.counts["not done"]
        return SweepSummary(
            self.product.name,
            shown_place(self.files.folder),
            n_images=len(wanted) - n_lost,
            n_measured=self.counts["measured"] + self.counts["renewed"],
            n_skipped=self.counts["skipped"],
            n_failed=int(np.count_nonzero(self.state.state[wanted] == FAILED)),
            n_renewed=self.counts["renewed"],
            n_not_done=len(missing) + n_lost,
            n_in_tables=tables.n_images,
            n_rows=tables.n_rows,
            n_without_truth=tables.n_without_truth,
            failed=tuple(self.failed.values()),
            not_done=tuple(self.names["not done"][:FAILURES_LISTED]),
            renewed=tuple(self.names["renewed"]),
        )

    def _measure(self, call: Call, rows: NDArray[np.int64], done: int, total: int, *, redo: bool) -> None:
        items = (int(row) for row in rows)
        for found in call(measure_row, items, lost=self._lost, redo=redo, **self.arguments) if len(rows) else ():
            self._enter(found)
            done += 1
            self.progress(min(done, total), total)

    def _lost(self, row: int, reason: str) -> SweptImage:
        """The result of an image that kills who measures it."""
        image = next(self.plan.images([row]))
        return SweptImage(row, image.image_id, "failed", error="LostWorker", message=reason)

    def _enter(self, found: SweptImage) -> None:
        self.state.enter(found)
        self.counts[found.status] += 1
        self.failed.pop(found.row, None)
        if found.status == "failed" and len(self.failed) < FAILURES_LISTED:
            self.failed[found.row] = found.image_id, found.error, found.message
        names = self.names.get(found.status)
        if names is not None and len(names) < FAILURES_LISTED:
            names.append(found.image_id)

    def _gather(self, call: Call) -> _Tables:
        """Bring the tables of all patches up to date; those of other settings do not count any more."""
        if self._is_of_others():
            self.files.settings.unlink(missing_ok=True)
        tables = _Tables()
        for table in call(gather_patch, self.state.patches(), **self.arguments):
            tables.add(table)
        return tables

    def _finish(self, tables: _Tables) -> None:
        """Write the table of images, the columns, and last the settings, which say that the tables are complete."""
        self._remove_others(tables.keys)
        self.state.save()
        with atomic_path(self.files.schema) as temporary:
            pq.write_metadata(tables.schema(), temporary)
        write_json(self.files.settings, self._described())

    def _is_of_others(self) -> bool:
        """Whether there are tables of other settings."""
        try:
            return read_settings(self.files) != self._described()
        except CampaignError:
            return True

    def _remove_others(self, keys: set[tuple[int, int]]) -> None:
        """Remove tables of patches of which no image is measured any more."""
        for table in self.files.tables():
            key = int(table.parent.parent.name[6:]), int(table.parent.name[6:])
            if key not in keys:
                table.unlink()
                self.files.checksum(*key).unlink(missing_ok=True)
                with contextlib.suppress(OSError):
                    table.parent.rmdir()
                    table.parent.parent.rmdir()


class _Tables:
    """What became of the tables of all patches, in whatever order they come."""

    def __init__(self) -> None:
        self.n_images = self.n_rows = self.n_without_truth = 0
        self.keys: set[tuple[int, int]] = set()
        self.damaged: list[int] = []
        self._schemas: dict[bytes, tuple[int, int]] = {}

    def add(self, table: PatchTable) -> None:
        self.n_images += table.n_images
        self.n_rows += table.n_rows
        self.n_without_truth += table.n_without_truth
        self.damaged += table.damaged
        if table.schema:
            key = table.tract, table.patch
            self.keys.add(key)
            self._schemas[table.schema] = min(key, self._schemas.get(table.schema, key))

    def schema(self) -> pa.Schema:
        """The columns of all tables: those of the first patch first."""
        found = sorted(self._schemas, key=lambda content: self._schemas[content])
        schemas = [pa.ipc.read_schema(pa.py_buffer(content)) for content in found]
        return pa.unify_schemas(schemas, promote_options="permissive") if schemas else pa.schema([])


def product_dataset(campaign: Campaign, name: str) -> ds.Dataset:
    """The tables of a product, of all patches, as one dataset that is read in parts.

    Parameters
    ----------
    campaign : Campaign
        The campaign.
    name : str
        Name of the product.

    Returns
    -------
    pyarrow.dataset.Dataset
        With the columns ``tract`` and ``patch`` besides those of the tables.

    Raises
    ------
    CampaignError
        If the product was not made, or not to its end.
    """
    import pyarrow.dataset as ds

    files = ProductLayout(campaign.layout.root, name)
    read_settings(files)
    schema = plain_schema(pq.read_schema(files.schema))
    places = pa.schema([("tract", pa.int64()), ("patch", pa.int64())])
    return ds.dataset(
        [str(path) for path in files.tables()],
        schema=pa.schema([*schema, *places]),
        format="parquet",
        partitioning=ds.partitioning(places, flavor="hive"),
    )
