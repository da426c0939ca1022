"""A campaign's numbers for Prometheus: they appear in the scheduler's ``/metrics``."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from prometheus_client import REGISTRY
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from skygraft.monitoring.feed import Board, Boards

__all__ = ["CampaignCollector", "hide_metrics", "show_metrics"]

type _Rows = Sequence[tuple[tuple[str, ...], float]]


class CampaignCollector:
    """Tells Prometheus of the newest run of each campaign.

    Attributes
    ----------
    boards : Boards or None
        What the scheduler knows. Counters begin anew with each run, as Prometheus expects of a process that starts.
    """

    def __init__(self) -> None:
        self.boards: Boards | None = None

    def describe(self) -> list[Metric]:
        """Nothing: what there is depends on what has run."""
        return []

    def collect(self) -> Iterator[Metric]:
        """The metrics as they are now."""
        if self.boards is None:
            return
        newest = {str(board.snapshot["campaign"]): board for board in self.boards.all()}
        families: dict[str, Any] = {}
        for name, board in sorted(newest.items()):
            for family, rows in _metrics(board, self.boards.now()):
                known = families.setdefault(family.name, family)
                for values, number in rows:
                    known.add_metric([name, *values], number)
        yield from families.values()


def _gauge(name: str, text: str, *labels: str) -> Any:
    return GaugeMetricFamily(f"skygraft_campaign_{name}", text, labels=["campaign", *labels])


def _counter(name: str, text: str, *labels: str) -> Any:
    return CounterMetricFamily(f"skygraft_campaign_{name}", text, labels=["campaign", *labels])


def _metrics(board: Board, now: float) -> Iterator[tuple[Any, _Rows]]:
    shot = board.snapshot
    images = shot["images"]
    last = shot["rates"]["1min"]
    states = ("done", "failed", "left", "unusable")
    yield _gauge("images", "Images by state.", "state"), [((state,), images[state]) for state in states]
    yield _counter("images_made", "Images made in this run."), [((), images["made"])]
    yield _counter("sources_drawn", "Sources drawn in this run."), [((), shot["sources"]["drawn"])]
    yield _counter("bytes_written", "Bytes written in this run."), [((), shot["bytes_written"])]
    errors = [((error,), n) for error, n in shot["failures"]["by_error"].items()]
    yield _gauge("images_failed", "Images whose last attempt failed, by class of error.", "error"), errors
    stages = [((stage,), seconds) for stage, seconds in shot["stages"]["seconds"].items()]
    yield _counter("stage_seconds", "Wall time of the images' stages in this run.", "stage"), stages
    yield _gauge("images_per_second", "Images made, mean of the last minute."), [((), last["images_per_second"])]
    yield _gauge("sources_per_second", "Sources, mean of the last minute."), [((), last["sources_per_second"])]
    yield _gauge("busy_workers", "Images in work at once, mean of the last minute."), [((), last["busy_workers"])]
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
    yield _gauge("running", "1 while a driver is at work on it."), [((), float(board.state == "running"))]
    started = datetime.fromisoformat(shot["started"]).timestamp()
    yield _gauge("start_time_seconds", "When the run began, seconds since 1970."), [((), started)]
    yield _gauge("silence_seconds", "Since the driver's last word."), [((), board.age(now))]


_COLLECTOR = CampaignCollector()


def show_metrics(boards: Boards) -> None:
    """Let the registry of this process tell of these.

    The registry is one for the process, as Dask's ``/metrics`` is: should several schedulers live in it, the last one
    counts.
    """
    if _COLLECTOR.boards is None:
        REGISTRY.register(_COLLECTOR)
    _COLLECTOR.boards = boards


def hide_metrics(boards: Boards) -> None:
    """Take them out again, unless others have taken their place."""
    if _COLLECTOR.boards is boards:
        REGISTRY.unregister(_COLLECTOR)
        _COLLECTOR.boards = None
