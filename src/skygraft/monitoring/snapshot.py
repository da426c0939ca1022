"""The form in which a campaign's progress is shown: the page, its JSON, Prometheus and the terminal read this one.

`skygraft.monitoring.progress.Progress` makes it; all values are JSON types.
"""

from __future__ import annotations

from typing import Literal, TypedDict

__all__ = [
    "SNAPSHOT_VERSION",
    "BandClosure",
    "ClosureSnapshot",
    "Eta",
    "FailureSnapshot",
    "FailuresSnapshot",
    "HistorySnapshot",
    "HostSnapshot",
    "ImageCounts",
    "LedgerSnapshot",
    "Rates",
    "SlowImage",
    "Snapshot",
    "SourceCounts",
    "StageTimes",
    "WatchState",
]

SNAPSHOT_VERSION = 1
"""Version of `Snapshot`; it changes when a key is removed or changes its meaning."""

type WatchState = Literal["not started", "running", "finished", "stopped", "crashed", "dead"]


class ImageCounts(TypedDict):
    """Numbers of images.

    Attributes
    ----------
    total, done, failed, left, unusable : int
        Images of the plan; those that are done; those whose last attempt failed; the rest of the plan; and images of
        the survey that could not be planned.
    made, skipped, recovered : int
        In this run: made; found done already by a worker; failed at first, then made.
    """

    total: int
    done: int
    failed: int
    left: int
    unusable: int
    made: int
    skipped: int
    recovered: int


class SourceCounts(TypedDict):
    """Numbers of sources: ``planned`` in the whole plan, ``drawn`` in this run."""

    planned: int
    drawn: int


class Rates(TypedDict):
    """Means over some time.

    Attributes
    ----------
    images_per_second : float
        Images made.
    sources_per_second, bytes_per_second : float
        Sources drawn and bytes written.
    busy_workers : float
        Wall time of images per second, which is the number of images in work at once.
    """

    images_per_second: float
    sources_per_second: float
    bytes_per_second: float
    busy_workers: float


class Eta(TypedDict):
    """Estimated time until no image is left: ``seconds``, its lower and upper limit, and the end (ISO 8601, UTC)."""

    seconds: float
    low_seconds: float
    high_seconds: float
    time: str


class FailureSnapshot(TypedDict):
    """An image whose last attempt failed.

    Attributes
    ----------
    image, error, message, where, host, tract, patch, quarantined
        As in `skygraft.records.image_summary.ImageSummary`; a long message is cut.
    time : str
        Of the last attempt, ISO 8601, UTC.
    tries : int
        Attempts in this run.
    """

    image: str
    error: str
    message: str
    where: str
    host: str
    tract: int
    patch: int
    time: str
    tries: int
    quarantined: bool


class FailuresSnapshot(TypedDict):
    """Failed images of this run: their number by class of error, and the ``last`` ones, newest first."""

    by_error: dict[str, int]
    last: list[FailureSnapshot]


class HostSnapshot(TypedDict):
    """What one machine has done in this run.

    Attributes
    ----------
    host : str
        Its name.
    n_images, n_failed_attempts, n_sources : int
        Images made, attempts that failed, sources drawn.
    images_per_minute : float
        Mean of the last ten minutes.
    mean_wall_seconds : float
        Wall time per image.
    seconds_since_last : float
        Time since its last image.
    """

    host: str
    n_images: int
    n_failed_attempts: int
    n_sources: int
    images_per_minute: float
    mean_wall_seconds: float
    seconds_since_last: float


class BandClosure(TypedDict):
    """Closure residuals of the images of a band.

    Attributes
    ----------
    n : int
        Number of images with a residual.
    median_mmag, sigma_mmag : float
        Median and robust standard deviation.
    counts : list of int
        Histogram; see `ClosureSnapshot`.
    n_below, n_above : int
        Number of residuals outside the histogram.
    """

    n: int
    median_mmag: float
    sigma_mmag: float
    counts: list[int]
    n_below: int
    n_above: int


class ClosureSnapshot(TypedDict):
    """Closure residuals: histograms of ``n_bins`` bins between plus and minus ``half_width_mmag``, by band."""

    half_width_mmag: float
    n_bins: int
    bands: dict[str, BandClosure]


class SlowImage(TypedDict):
    """One of the images that took longest, with the wall time of its ``stages`` in seconds."""

    image: str
    status: str
    wall_seconds: float
    n_sources: int
    tract: int
    patch: int
    host: str
    stages: dict[str, float]


class StageTimes(TypedDict):
    """What the images' wall time was spent on.

    Attributes
    ----------
    seconds, share : dict of str to float
        Wall time of each stage, and its share of the whole; time outside every stage is the stage ``other``.
    inject_io_share : float or None
        Share of reading, injecting, writing and checksums; None before there is any.
    """

    seconds: dict[str, float]
    share: dict[str, float]
    inject_io_share: float | None


class HistorySnapshot(TypedDict):
    """Images ``done`` and ``failed`` at some times, in ``seconds`` since the start."""

    seconds: list[float]
    done: list[int]
    failed: list[int]


class Snapshot(TypedDict):
    """The progress of a run at one time.

    Attributes
    ----------
    version : int
        `SNAPSHOT_VERSION`.
    campaign, output : str
        The campaign and its output folder.
    state : str
        ``running``, ``finished``, ``stopped`` (images are left) or ``crashed``.
    phase : str
        What a run that is running does: ``starting``, ``images``, ``results`` (no image is left) or ``tables``; empty
        for one that is over.
    started, updated : str
        ISO 8601, UTC.
    elapsed_seconds : float
        Time from one to the other.
    seconds_since_last_image : float or None
        None before the first.
    images : ImageCounts
    sources : SourceCounts
    bytes_written : int
        In this run.
    rates : dict of str to Rates
        Means of the last minute (``1min``), the last ten minutes (``10min``) and the ``run``.
    eta : Eta or None
        None while too little is known, and for a run that is over.
    failures : FailuresSnapshot
    hosts : list of HostSnapshot
        At most 50, most failed attempts first.
    n_hosts : int
        Number of all machines.
    closure : ClosureSnapshot
    slowest : list of SlowImage
        At most 20, the slowest first.
    stages : StageTimes
    history : HistorySnapshot
    n_patches, n_patches_done : int
        Patches, and those with no image left or failed.
    """

    version: int
    campaign: str
    output: str
    state: WatchState
    phase: str
    started: str
    updated: str
    elapsed_seconds: float
    seconds_since_last_image: float | None
    images: ImageCounts
    sources: SourceCounts
    bytes_written: int
    rates: dict[str, Rates]
    eta: Eta | None
    failures: FailuresSnapshot
    hosts: list[HostSnapshot]
    n_hosts: int
    closure: ClosureSnapshot
    slowest: list[SlowImage]
    stages: StageTimes
    history: HistorySnapshot
    n_patches: int
    n_patches_done: int


class LedgerSnapshot(Snapshot):
    """The progress of the last run as its ledger shows it; the numbers of a run that is over are those of its end.

    ``state`` may also be ``not started``, or ``dead`` where the driver died.

    Attributes
    ----------
    driver : str
        Process and machine that runs, or ran, the campaign; empty where unknown.
    advice : str
        What to do next; empty for nothing.
    silent_seconds : float or None
        Time since the ledger last grew; None before it began.
    """

    driver: str
    advice: str
    silent_seconds: float | None
