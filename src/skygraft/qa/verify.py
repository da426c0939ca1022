"""Verify a campaign from its output files: check images in tasks, and the tables of the whole campaign."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from astropy.table import QTable

from skygraft.campaign.checksums import damaged_outputs
from skygraft.campaign.finished import sample_rows
from skygraft.campaign.pairs import record_of
from skygraft.campaign.products import Product
from skygraft.campaign.sweep import SweepSummary, product_dataset, sweep
from skygraft.disk import atomic_path
from skygraft.errors import SkygraftError
from skygraft.json_text import parse_json
from skygraft.qa.campaign_closure import SAMPLE
from skygraft.qa.closure import ClosureSummary, summarize_closure
from skygraft.qa.primary_rows import check_tables
from skygraft.qa.verdicts import CHECKS, SCHEMA, Row, Verdict, judge, rows_table
from skygraft.qa.verify_checks import ANGLE_RESOLUTION, ANGLE_TOLERANCE, CONTAMINATION, VERSION, check_pair
from skygraft.records.files import Layout, write_json
from skygraft.records.plan_file import campaign_plan

if TYPE_CHECKING:
    from distributed import Client

    from skygraft.campaign import Campaign

__all__ = ["SAMPLE", "VERIFICATION", "CheckSummary", "Verification", "verify_campaign"]

VERIFICATION = Product("verification", VERSION, check_pair)
"""The product: one row per image and check."""

FAILURES_KEPT = 1000
"""Failed checks that a summary names; the tables have all."""
_MOST_STARS = 2_000_000
"""Stars of one band whose residuals are in memory; of more, every second, fourth, ... image counts."""
_ROWS_AT_ONCE = 65_536
_COMBINED = {"flux": (5e-4, 5e-3), "position angle": (ANGLE_TOLERANCE, ANGLE_RESOLUTION)}
"""Tolerance and resolution of the mean over all images, of checks whose value has a sign."""
_OF_CAMPAIGN = ("primary", "tables")


@dataclass(frozen=True)
class CheckSummary:
    """The verdict of one check over a campaign.

    Parameters
    ----------
    check : str
        One of `skygraft.qa.verdicts.CHECKS`.
    verdict : {"passes", "fails", "too few stars", "not applicable"}
        Of the campaign: it fails if one image does; where no image alone has enough photons, their mean counts.
    n_passes, n_fails, n_too_few, n_not_applicable : int
        Images by verdict; of ``primary`` and ``tables``, the campaign counts as one.
    value, error : float
        Weighted mean over the images and its standard error, of checks whose value has a sign; else NaN.
    note : str
        What is wrong in the first image that fails, or why nothing can be said.
    """

    check: str
    verdict: Verdict
    n_passes: int = 0
    n_fails: int = 0
    n_too_few: int = 0
    n_not_applicable: int = 0
    value: float = float("nan")
    error: float = float("nan")
    note: str = ""


@dataclass(frozen=True, eq=False)
class Verification:
    """The result of verifying a campaign.

    Parameters
    ----------
    output : str
        Folder of the tables.
    n_images, n_done : int
        Images that were checked, and that are done.
    checks : tuple of CheckSummary
        A verdict for each check.
    bands : dict of str to ClosureSummary
        Closure over the images of each band.
    failures : tuple of dict
        The first 1000 checks that failed: ``image_id``, ``band``, ``check``, ``note``.
    n_failures : int
        Number of checks that failed.
    swept : SweepSummary or None
        How the images were measured.
    stars : QTable
        The stars of closure: band, mag_in, residual, sigma, psf_sum_residual.
    """

    output: str
    n_images: int
    n_done: int
    checks: tuple[CheckSummary, ...]
    bands: dict[str, ClosureSummary]
    failures: tuple[dict[str, str], ...] = ()
    n_failures: int = 0
    swept: SweepSummary | None = None
    stars: QTable = field(default_factory=QTable)

    @property
    def ok(self) -> bool:
        """Whether no check fails, and closure has enough stars wherever it applies."""
        return bool(self.checks) and not any(
            one.verdict == "fails" or (one.check == "closure" and one.verdict == "too few stars") for one in self.checks
        )

    @property
    def is_sample(self) -> bool:
        """Whether not all images that are done were checked."""
        return self.n_images < self.n_done

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON types."""
        checks = {one.check: {k: _json(v) for k, v in asdict(one).items() if k != "check"} for one in self.checks}
        return {
            "ok": self.ok,
            "checks": checks,
            "bands": {band: summary.to_dict() for band, summary in self.bands.items()},
            "n_images": self.n_images,
            "n_done": self.n_done,
            "sample": self.is_sample,
            "n_failures": self.n_failures,
            "failures": list(self.failures),
            "output": self.output,
        }


def _json(value: Any) -> Any:
    return None if isinstance(value, float) and not np.isfinite(value) else value


def verify_campaign(
    campaign: Campaign,
    *,
    aperture: Any = None,
    contamination: float = CONTAMINATION,
    sample: int | None = SAMPLE,
    client: Client | None = None,
    cluster: bool = False,
    n_workers: int | None = None,
    processes: int | None = None,
    redo: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Verification:
    """Check what a campaign wrote: images against their originals, records, truth, sources and tables.

    The table, ``verification/tract=/patch=/part-0.parquet`` in the campaign's output folder, has one row per image and
    check; ``verification/verdicts.parquet`` has the verdicts of the campaign, and of images that cannot be read.
    A verification that was interrupted is continued; one that ended is made again.

    Parameters
    ----------
    campaign : Campaign
        A campaign that has been run, at least in part.
    aperture, contamination
        Of closure, as for `skygraft.qa.measure_closure`.
    sample : int or None
        Number of images to check, from all instruments and bands, always the same; None for all.
    client, cluster, n_workers, processes, progress
        As for `skygraft.campaign.sweep.sweep`.
    redo : bool
        Do not continue an interrupted verification, but begin again.

    Returns
    -------
    Verification

    Raises
    ------
    CampaignError
        If there is no plan, no image is done, the output is that of another campaign, another process verifies it, or
        the cluster fails.
    ConfigError
        If `sample` is not a positive number.
    OutputError
        If the output folder cannot be written.
    UncalibratedImageError, UnknownApertureError
        If images are not calibrated to an aperture that is known, and none is given.
    """
    rows, n_done = sample_rows(campaign, sample)
    layout = campaign.layout
    settings: dict[str, Any] = {
        "injection": campaign.config.injection.model_dump(mode="json"),
        "settings": campaign.config.pixel_settings(),
        "aperture": aperture,
        "contamination": contamination,
    }
    state = layout.root / VERIFICATION.name / "state.json"
    settings["started"] = _started(state, settings, redo=redo)
    swept = sweep(
        campaign,
        VERIFICATION,
        settings,
        rows=rows,
        client=client,
        cluster=cluster,
        n_workers=n_workers,
        processes=processes,
        progress=progress,
    )
    lost = _unreadable(campaign, swept)
    summary = _Summary(lost)
    for batch in _measured(campaign):
        summary.add(batch)
    of_campaign = rows_table("", "", check_tables(layout))
    summary.add(of_campaign.to_batches()[0])
    found = summary.result(str(state.parent), swept, n_done)
    _write(state.parent / "verdicts.parquet", lost, of_campaign, found)
    write_json(state, {"settings": settings, "ended": True})
    return found


def _measured(campaign: Campaign) -> Iterator[pa.RecordBatch]:
    """Rows of the images that were checked."""
    tables = product_dataset(campaign, VERIFICATION.name)
    if "check" not in tables.schema.names:
        return  # none could be
    yield from tables.to_batches(
        columns=SCHEMA.names, batch_size=_ROWS_AT_ONCE, batch_readahead=1, fragment_readahead=1, use_threads=False
    )


def _started(path: Path, settings: Mapping[str, Any], *, redo: bool) -> str:
    """When the verification began: part of its settings, so that one that ended is not taken for a new one's."""
    try:
        before = parse_json(path.read_bytes())
        started = str(before["settings"].pop("started"))
        if not redo and not before["ended"] and before["settings"] == settings:
            return started
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    started = datetime.now(UTC).isoformat(timespec="microseconds")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"settings": {**settings, "started": started}, "ended": False})
    return started


def _unreadable(campaign: Campaign, swept: SweepSummary) -> pa.Table:
    """Rows of images that could not be read or checked: why, and which of their files are damaged."""
    tables = [SCHEMA.empty_table()]
    wanted = {image_id: (error, message) for image_id, error, message in swept.failed}
    if not wanted:
        return tables[0]
    layout = Layout(campaign.config.output)
    for image in campaign_plan(layout.plan).images():
        if image.image_id not in wanted:
            continue
        error, message = wanted[image.image_id]
        rows = [Row("outputs", "fails", n=1, note=f"{error}: {message}")]
        try:
            damaged = damaged_outputs(layout, record_of(layout, image))
        except SkygraftError as problem:
            damaged = [(image.stem, problem.message)]
        if damaged:
            note = "; ".join(f"{name}: {problem}" for name, problem in damaged)
            rows.append(Row("checksum", "fails", len(damaged), 0.0, note=note))
        tables.append(rows_table(image.image_id, image.band or "", rows))
    return pa.concat_tables(tables)


class _Summary:
    """Verdicts of images, added batch by batch."""

    def __init__(self, lost: pa.Table) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        self.failures: list[dict[str, str]] = []
        self.n_failures = 0
        self.notes: dict[tuple[str, str], str] = {}
        self.sums: dict[str, list[tuple[float, float]]] = {name: [] for name in _COMBINED}
        self.stars: dict[str, list[np.ndarray[Any, Any]]] = {}
        self.n_stars: Counter[str] = Counter()
        self.measured: set[str] = set()
        for batch in lost.to_batches():
            self.add(batch)

    def add(self, batch: pa.RecordBatch) -> None:
        """Add rows of images."""
        names = ("image_id", "band", "check", "verdict", "value", "error", "note")
        columns = [batch.column(name).to_pylist() for name in names]
        for i, (image_id, band, check, verdict, value, error, note) in enumerate(zip(*columns, strict=True)):
            self.counts[check, verdict] += 1
            self.notes.setdefault((check, verdict), note)
            if verdict == "fails":
                self.n_failures += 1
                if len(self.failures) < FAILURES_KEPT:
                    self.failures.append({"image_id": image_id, "band": band, "check": check, "note": note})
            if check in self.sums and value is not None and error is not None and np.isfinite([value, error]).all():
                weight = 1 / max(error, 1e-9) ** 2
                self.sums[check].append((weight * value, weight))
            if check == "closure":
                self._add_stars(band, batch.column("stars")[i], measured=verdict != "not applicable")

    def _add_stars(self, band: str, stars: pa.Scalar, *, measured: bool) -> None:
        if measured:
            self.measured.add(band)
        if not stars.is_valid or not len(stars.values):
            return
        columns = [np.asarray(one) for one in stars.values.flatten()]
        kept = self.stars.setdefault(band, [])
        kept.append(np.stack(columns))
        self.n_stars[band] += len(columns[0])
        if self.n_stars[band] > _MOST_STARS:
            del kept[1::2]
            self.n_stars[band] = sum(part.shape[1] for part in kept)

    def result(self, output: str, swept: SweepSummary, n_done: int) -> Verification:
        """Sum up."""
        stars = self._stars()
        bands = {band: summarize_closure(stars[stars["band"] == band]) for band in sorted(self.measured)}
        checks = [self._check(name, bands) for name in CHECKS]
        return Verification(
            output,
            swept.n_images,
            n_done,
            tuple(one for one in checks if one is not None),
            bands,
            tuple(self.failures),
            self.n_failures,
            swept,
            stars,
        )

    def _stars(self) -> QTable:
        names = ("mag_in", "residual", "sigma", "psf_sum_residual")
        parts = {band: np.concatenate(found, axis=1) for band, found in sorted(self.stars.items())}
        values = np.concatenate([np.zeros((4, 0)), *parts.values()], axis=1)
        table = QTable(dict(zip(names, values, strict=True)))
        table["band"] = np.repeat([*parts, ""], [*(part.shape[1] for part in parts.values()), 0])
        return table

    def _check(self, check: str, bands: Mapping[str, ClosureSummary]) -> CheckSummary | None:
        names: tuple[Verdict, ...] = ("passes", "fails", "too few stars", "not applicable")
        passes, fails, few, none = numbers = [self.counts[check, name] for name in names]
        if check == "outputs":
            passes = numbers[0] = self.counts["checksum", "passes"] + self.counts["checksum", "fails"]
        if not sum(numbers):
            return None
        verdict: Verdict = "fails" if fails else "passes" if passes else "too few stars" if few else "not applicable"
        value = error = float("nan")
        note = "" if verdict == "passes" else self.notes.get((check, verdict), "")
        # Exact sums, which do not depend on the order.
        weighted, weights = (math.fsum(one[i] for one in self.sums.get(check, ())) for i in range(2))
        if weights:
            value, error = weighted / weights, weights**-0.5
            of_all = judge(value, error, *_COMBINED[check])[0]
            if not fails and of_all != verdict:
                verdict = "passes" if of_all == "too few stars" and passes else of_all
                note = f"the mean of all images is {value:+.3g} ± {error:.2g}" if verdict in ("fails", "passes") else ""
        if check == "closure" and bands:
            verdict, note = _of_bands(bands, verdict, note)
        return CheckSummary(check, verdict, passes, fails, few, none, value, error, note)


def _of_bands(bands: Mapping[str, ClosureSummary], verdict: Verdict, note: str) -> tuple[Verdict, str]:
    """The verdict on closure: that of the worst band, and it fails where an image does."""
    of = {band: summary.verdict for band, summary in bands.items()}
    bad = [band for band, found in of.items() if found == "does not close"]
    if verdict == "fails" or bad:
        return "fails", f"band {', '.join(bad)} does not close" if bad else note
    few = [band for band, found in of.items() if found != "closes"]
    return ("too few stars", f"band {', '.join(few)}") if few else ("passes", "")


def _write(path: Path, lost: pa.Table, of_campaign: pa.Table, found: Verification) -> None:
    """Write the verdicts of the campaign, and of images that could not be checked."""
    rows = [
        Row(
            one.check,
            one.verdict,
            one.value,
            np.nan,
            one.error,
            sum((one.n_passes, one.n_fails, one.n_too_few)),
            one.note,
        )
        for one in found.checks
        if one.check not in _OF_CAMPAIGN
    ]
    table = pa.concat_tables([rows_table("", "", rows), of_campaign, lost]).drop_columns(["stars"])
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")
