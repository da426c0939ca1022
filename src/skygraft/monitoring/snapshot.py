"""The form in which a campaign's progress is shown: the page, its JSON, Prometheus and the terminal read this one.

`skygraft.monitoring.progress.Progress` makes it. All values are JSON types; times are ISO 8601 in UTC. Unless it says
otherwise, what is counted is that of the present run.
"""

from __future__ import annotations

from typing import Literal, TypedDict

from skygraft.wording import Severity, verdict

__all__ = ["SNAPSHOT_VERSION", "Eta", "LedgerSnapshot", "Rates", "Snapshot", "WatchState", "state_words"]

SNAPSHOT_VERSION = 1
"""Version of `Snapshot`; it changes when a key is removed or changes its meaning."""

type WatchState = Literal["not started", "running", "finished", "stopped", "crashed", "dead"]


class ImageCounts(TypedDict):
    """Numbers of images."""

    total: int  # in the plan
    done: int  # of the plan, as the next three
    failed: int  # whose last attempt failed
    left: int
    unusable: int  # of the survey, that could not be planned
    made: int
    skipped: int  # found done by a worker
    recovered: int  # failed at first, then made


class Rates(TypedDict):
    """Means over some time."""

    images_per_second: float  # made
    sources_per_second: float
    bytes_per_second: float  # written
    busy_workers: float  # wall time of images per second


class Eta(TypedDict):
    """Estimated time until no image is left, with its limits."""

    seconds: float
    low_seconds: float
    high_seconds: float
    time: str  # when that will be


class Failure(TypedDict):
    """An image whose last attempt failed; see `skygraft.records.image_summary.ImageSummary`."""

    image: str
    error: str
    message: str  # the beginning of it
    where: str
    host: str
    tract: int
    patch: int
    time: str
    tries: int
    quarantined: bool


class Failures(TypedDict):
    """Images whose last attempt failed."""

    by_error: dict[str, int]  # number of images by class of error
    last: list[Failure]  # at most 50, the newest first


class Host(TypedDict):
    """What one machine has done."""

    host: str
    n_images: int  # made
    n_failed_attempts: int
    n_sources: int
    images_per_minute: float  # mean of the last ten minutes
    mean_wall_seconds: float  # of an attempt
    seconds_since_last: float  # since its last attempt


class BandClosure(TypedDict):
    """Closure residuals of the images of a band."""

    n: int
    median_mmag: float
    sigma_mmag: float  # robust standard deviation
    counts: list[int]  # histogram
    n_below: int  # outside the histogram
    n_above: int


class Closure(TypedDict):
    """Closure residuals, with histograms between plus and minus the half width."""

    half_width_mmag: float
    n_bins: int
    bands: dict[str, BandClosure]


class SlowImage(TypedDict):
    """One of the images that took longest."""

    image: str
    status: str
    wall_seconds: float
    n_sources: int
    tract: int
    patch: int
    host: str
    stages: dict[str, float]  # wall time, seconds


class Stages(TypedDict):
    """What the images' wall time was spent on; time outside every stage is the stage ``other``."""

    seconds: dict[str, float]
    share: dict[str, float]
    inject_io_share: float | None  # reading, injecting, writing, checksums; None before there is any


class Growth(TypedDict):
    """Images done and failed at some times."""

    seconds: list[float]  # since the start
    done: list[int]
    failed: list[int]


class Snapshot(TypedDict):
    """The progress of a run at one time, all of it but the counts of each patch."""

    version: int
    campaign: str
    output: str  # folder
    state: WatchState
    phase: str  # while running: starting, images, results (no image is left) or tables; otherwise empty
    started: str
    updated: str
    elapsed_seconds: float
    seconds_since_last_image: float | None  # None before the first
    images: ImageCounts
    sources: dict[str, int]  # planned (in the whole plan) and drawn
    bytes_written: int
    rates: dict[str, Rates]  # of the last minute (1min), the last ten minutes (10min) and the whole run
    eta: Eta | None  # None while too little is known, and at the end
    failures: Failures
    hosts: list[Host]  # at most 50, most failed attempts first
    n_hosts: int
    closure: Closure
    slowest: list[SlowImage]  # at most 20, the slowest first
    stages: Stages
    history: Growth
    n_patches: int
    n_patches_done: int  # with no image left or failed


class LedgerSnapshot(Snapshot):
    """The progress of the last run as its ledger shows it; for a run that is over, as it was at its end."""

    driver: str  # process and machine that runs, or ran, the campaign; empty where unknown
    advice: str  # what to do next; empty for nothing
    silent_seconds: float | None  # since the ledger last grew; None before it began


def state_words(shot: Snapshot, state: str = "") -> tuple[str, Severity]:
    """Return the state of a run, that of its snapshot unless given, in words, and how good it is."""
    images = shot["images"]
    return verdict(state or shot["state"], shot["phase"], n_failed=images["failed"], n_unusable=images["unusable"])
