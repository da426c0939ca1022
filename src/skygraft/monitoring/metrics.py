"""Metrics of campaigns for Prometheus, which reads them from the scheduler's ``/metrics``."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from prometheus_client import REGISTRY
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from skygraft.monitoring.published import PublishedRun, PublishedRuns

__all__ = ["CampaignCollector", "hide_metrics", "show_metrics"]

type _Rows = Sequence[tuple[tuple[str, ...], float]]


class CampaignCollector:
    """Collects the metrics of the newest run of each campaign.

    Attributes
    ----------
    runs : PublishedRuns or None
        The runs. Counters start from zero with each run, which Prometheus takes for a restart.
    """

    def __init__(self) -> None:
        self.runs: PublishedRuns | None = None

    def describe(self) -> list[Metric]:
        """Return nothing: the metrics depend on what has run."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield the present metrics."""
        if self.runs is None:
            return
        newest = {run.snapshot["campaign"]: run for run in self.runs.all()}
        families: dict[str, Any] = {}
        for name, run in sorted(newest.items()):
            for family, rows in _metrics(run, self.runs.now()):
                known = families.setdefault(family.name, family)
                for values, number in rows:
                    known.add_metric([name, *values], number)
        yield from families.values()


def _gauge(name: str, text: str, *labels: str) -> Any:
    return GaugeMetricFamily(f"skygraft_campaign_{name}", text, labels=["campaign", *labels])


def _counter(name: str, text: str, *labels: str) -> Any:
    return CounterMetricFamily(f"skygraft_campaign_{name}", text, labels=["campaign", *labels])


def _metrics(run: PublishedRun, now: float) -> Iterator[tuple[Any, _Rows]]:
    shot = run.snapshot
    images = shot["images"]
    last = shot["rates"]["1min"]
    by_state = {state: images[state] for state in ("done", "failed", "left", "unusable")}
    yield _gauge("images", "Images by state.", "state"), [((state,), n) for state, n in by_state.items()]
    yield _counter("images_made", "Images made in this run."), [((), images["made"])]
    yield _counter("sources_drawn", "Sources drawn in this run."), [((), shot["sources"]["drawn"])]
    yield _counter("bytes_written", "Bytes written in this run."), [((), shot["bytes_written"])]
    errors = [((error,), n) for error, n in shot["failures"]["by_error"].items()]
    yield _gauge("images_failed", "Images whose last attempt failed, by class of error.", "error"), errors
    stages = [((stage,), seconds) for stage, seconds in shot["stages"]["seconds"].items()]
    yield _counter("stage_seconds", "Wall time of the images' stages in this run.", "stage"), stages
    yield _gauge("images_per_second", "Images made, mean of the last minute."), [((), last["images_per_second"])]
    yield _gauge("sources_per_second", "Sources, mean of the last minute."), [((), last["sources_per_second"])]
    yield (
        _gauge("busy_workers", "Images in work at the same time, mean of the last minute."),
        [((), last["busy_workers"])],
    )
    eta = shot["eta"]
    yield (
        _gauge("eta_seconds", "Estimated time until no image is left; NaN while unknown."),
        [((), math.nan if eta is None else eta["seconds"])],
    )
    bands = shot["closure"]["bands"]
    yield (
        _gauge("closure_median_mag", "Median closure residual.", "band"),
        [((band,), content["median_mmag"] / 1000) for band, content in bands.items()],
    )
    yield (
        _gauge("closure_sigma_mag", "Robust standard deviation of closure residuals.", "band"),
        [((band,), content["sigma_mmag"] / 1000) for band, content in bands.items()],
    )
    yield _gauge("running", "1 while a driver runs it, otherwise 0."), [((), float(run.state == "running"))]
    started = datetime.fromisoformat(shot["started"]).timestamp()
    yield _gauge("start_time_seconds", "When the run began, seconds since 1970."), [((), started)]
    yield _gauge("silence_seconds", "Time since the driver's last message."), [((), run.age(now))]


_COLLECTOR = CampaignCollector()


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
