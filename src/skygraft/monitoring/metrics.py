"""Metrics of campaigns for Prometheus, which reads them from the scheduler's ``/metrics``."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from prometheus_client import REGISTRY
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from skygraft.monitoring.published import PublishedRun, PublishedRuns

__all__ = ["hide_metrics", "show_metrics"]

type _Value = float | Mapping[str, float]


class _Collector:
    """Collects the metrics of the newest run of each campaign.

    Counters start from zero with each run, which Prometheus takes for a restart.
    """

    runs: PublishedRuns | None = None

    def describe(self) -> list[Metric]:
        """Return nothing: the metrics depend on what has run."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield the present metrics."""
        if self.runs is None:
            return
        newest = {run.snapshot["campaign"]: run for run in self.runs.all()}
        families: dict[str, Any] = {}
        for campaign, run in sorted(newest.items()):
            for kind, name, text, label, value in _metrics(run, self.runs.now()):
                labels = ["campaign", label] if label else ["campaign"]
                family = families.setdefault(name, kind(f"skygraft_campaign_{name}", text, labels=labels))
                for of, number in (value if isinstance(value, Mapping) else {"": value}).items():
                    family.add_metric([campaign, of][: len(labels)], number)
        yield from families.values()


def _metrics(run: PublishedRun, now: float) -> list[tuple[Any, str, str, str, _Value]]:
    """Return of each metric its kind, name and description; and its label with the value of each, or its value."""
    shot, gauge, counter = run.snapshot, GaugeMetricFamily, CounterMetricFamily
    images, last, eta, bands = shot["images"], shot["rates"]["1min"], shot["eta"], shot["closure"]["bands"]
    by_state = {state: images[state] for state in ("done", "failed", "left", "unusable")}
    errors, stages = shot["failures"]["by_error"], shot["stages"]["seconds"]
    median = {band: content["median_mmag"] / 1000 for band, content in bands.items()}
    sigma = {band: content["sigma_mmag"] / 1000 for band, content in bands.items()}
    left = math.nan if eta is None else eta["seconds"]
    started = datetime.fromisoformat(shot["started"]).timestamp()
    return [
        (gauge, "images", "Images by state.", "state", by_state),
        (counter, "images_made", "Images made in this run.", "", images["made"]),
        (counter, "sources_drawn", "Sources drawn in this run.", "", shot["sources"]["drawn"]),
        (counter, "bytes_written", "Bytes written in this run.", "", shot["bytes_written"]),
        (gauge, "images_failed", "Images whose last attempt failed, by class of error.", "error", errors),
        (counter, "stage_seconds", "Wall time of the images' stages in this run.", "stage", stages),
        (gauge, "images_per_second", "Images made, mean of the last minute.", "", last["images_per_second"]),
        (gauge, "sources_per_second", "Sources, mean of the last minute.", "", last["sources_per_second"]),
        (gauge, "busy_workers", "Images in work at the same time, mean of the last minute.", "", last["busy_workers"]),
        (gauge, "eta_seconds", "Estimated time until no image is left; NaN while unknown.", "", left),
        (gauge, "closure_median_mag", "Median closure residual.", "band", median),
        (gauge, "closure_sigma_mag", "Robust standard deviation of closure residuals.", "band", sigma),
        (gauge, "running", "1 while a driver runs it, otherwise 0.", "", float(run.state == "running")),
        (gauge, "start_time_seconds", "When the run began, seconds since 1970.", "", started),
        (gauge, "silence_seconds", "Time since the driver's last message.", "", run.age(now)),
    ]


_COLLECTOR = _Collector()


def show_metrics(runs: PublishedRuns) -> None:
    """Add the metrics of some runs to the registry of this process.

    There is one registry for the process, as for Dask's ``/metrics``: of several schedulers in it, the last one counts.
    """
    if _COLLECTOR.runs is None:
        REGISTRY.register(_COLLECTOR)
    _COLLECTOR.runs = runs


def hide_metrics(runs: PublishedRuns) -> None:
    """Remove the metrics of some runs, unless those of others have replaced them."""
    if _COLLECTOR.runs is runs:
        REGISTRY.unregister(_COLLECTOR)
        _COLLECTOR.runs = None
