"""Progress, its counters, and what is published of it, against numbers worked out by hand, with a clock of our own."""

from __future__ import annotations

import math
import random
import statistics
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skygraft.monitoring.counters import ClosureHistogram, History, HostTable, RecentSums
from skygraft.monitoring.overview import Overview, PatchTable, make_overview
from skygraft.monitoring.progress import Progress
from skygraft.monitoring.published import MESSAGE_VERSION, PublishedRuns, pack_patches, pack_progress
from skygraft.records.image_summary import ImageSummary
from skygraft.wording import count, data_size, duration, rate, share


class Clock:
    """Stands still until it is set."""

    def __init__(self, at: float = 1_700_000_000.0) -> None:
        self.start = self.at = at

    def __call__(self) -> float:
        return self.at

    def set(self, seconds: float) -> None:
        self.at = self.start + seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


def overview(n_images: int = 10, **changes: Any) -> Overview:
    """Two patches, of which the second has four images."""
    content: dict[str, Any] = {
        "name": "c",
        "output": "/out",
        "n_sources_planned": 1000,
        "cost_seconds_left": 70.0,
        "patches": PatchTable.of(
            tract=[7, 7],
            patch=[1, 2],
            ra=[10.0, 10.2],
            dec=[0.0, 0.0],
            n_images=[n_images - 4, 4],
            n_done=[2, 0],
            n_failed=[0, 1],
        ),
        "image_cost": np.array([10.0, 10.0]),
    }
    return Overview(**{**content, **changes})


def done(name: str, patch: int = 1, **more: Any) -> ImageSummary:
    return ImageSummary(name, "done", tract=7, patch=patch, **more)


def failed(name: str, patch: int = 1, error: str = "OSError", **more: Any) -> ImageSummary:
    return ImageSummary(name, "failed", tract=7, patch=patch, error=error, message=f"{name} is bad", **more)


def by_patch(progress: Progress) -> tuple[list[int], list[int]]:
    return progress.patches.n_done.tolist(), progress.patches.n_failed.tolist()


def test_counts_of_images_and_patches(clock: Clock) -> None:
    progress = Progress(overview(), clock)
    progress.add([done("a", n_sources=5, n_bytes=100), done("b", 2, n_sources=7, n_bytes=50), failed("f")])
    progress.add([ImageSummary("s", "skipped", tract=7, patch=2, n_sources=99)])
    shot = progress.snapshot()
    assert shot["images"] == {
        "total": 10, "done": 5, "failed": 2, "left": 3, "unusable": 0, "made": 2, "skipped": 1, "recovered": 0
    }  # fmt: skip
    # What was found done was not drawn or written in this run.
    assert (shot["sources"]["drawn"], shot["bytes_written"]) == (12, 150)
    assert by_patch(progress) == ([3, 2], [1, 1])
    progress.add([done("c", 2)])
    assert by_patch(progress) == ([3, 3], [1, 1])
    assert by_patch(Progress(progress.overview)) == ([2, 0], [0, 1])  # what the run began with is as it was


def test_an_image_that_succeeds_when_tried_again_leaves_the_failures(clock: Clock) -> None:
    progress = Progress(overview(), clock)
    progress.add([failed("a", host="bad"), failed("b", 2, "MemoryError", host="good")])
    assert progress.snapshot()["failures"]["by_error"] == {"OSError": 1, "MemoryError": 1}
    progress.add([failed("b", 2, "FormatError", host="good")])  # again, and otherwise
    shot = progress.snapshot()
    assert shot["images"]["failed"] == 3 and shot["images"]["left"] == 5
    assert shot["failures"]["by_error"] == {"OSError": 1, "FormatError": 1}
    assert [(f["image"], f["tries"]) for f in shot["failures"]["last"]] == [("b", 2), ("a", 1)]
    progress.add([done("a", host="good")])
    shot = progress.snapshot()
    assert shot["images"]["failed"] == 2 and shot["images"]["recovered"] == 1 and shot["images"]["left"] == 5
    assert shot["failures"]["by_error"] == {"FormatError": 1}
    assert [f["image"] for f in shot["failures"]["last"]] == ["b"]
    assert by_patch(progress)[1] == [0, 2]
    # The machine that failed it still shows: attempts are counted, not images.
    tries = {row["host"]: (row["n_failed_attempts"], row["n_images"]) for row in shot["hosts"]}
    assert tries == {"good": (2, 1), "bad": (1, 0)}


def test_images_outside_every_patch_count_all_the_same(clock: Clock) -> None:
    progress = Progress(overview(), clock)
    progress.add([ImageSummary("x", "done", tract=99, patch=99), ImageSummary("y", "failed")])
    assert progress.snapshot()["images"]["done"] == 3
    assert by_patch(progress) == ([2, 0], [0, 1])


def test_rates_over_a_minute_and_over_the_run(clock: Clock) -> None:
    progress = Progress(overview(n_images=1000), clock)
    for second in range(100):  # two images a second for 50 s, then one
        clock.set(second + 0.5)
        progress.add(
            done(f"{second}.{k}", n_sources=10, n_bytes=1000, wall_seconds=3.0) for k in range(1 + (second < 50))
        )
    clock.set(100.0)
    rates = progress.snapshot()["rates"]
    # The window ends at 100 s and holds the seconds 41 to 99: 9 of two images, 50 of one, over 59 s.
    assert rates["1min"]["images_per_second"] == pytest.approx(68 / 59, abs=1e-4)
    assert rates["1min"]["sources_per_second"] == pytest.approx(680 / 59, abs=0.01)
    assert rates["1min"]["busy_workers"] == pytest.approx(3 * 68 / 59, abs=0.01)
    assert rates["10min"]["images_per_second"] == rates["run"]["images_per_second"] == 1.5
    assert rates["run"]["bytes_per_second"] == 1500
    clock.set(400.0)
    rates = progress.snapshot()["rates"]
    assert rates["1min"]["images_per_second"] == 0 and rates["run"]["images_per_second"] == pytest.approx(0.375)


def test_time_left_follows_the_cost(clock: Clock) -> None:
    """Cheap images done first must not promise that the dear ones are as quick."""
    patches = PatchTable.of(tract=[7, 7], patch=[1, 2], ra=[0, 0], dec=[0, 0], n_images=[50, 50])
    cost = {"image_cost": np.array([1.0, 9.0]), "cost_seconds_left": 500.0}
    progress = Progress(overview(patches=patches, **cost), clock)
    assert progress.snapshot()["eta"] is None
    for i in range(50):
        clock.set(2.0 * i)
        progress.add([done(str(i))])
    clock.set(100.0)
    eta = progress.snapshot()["eta"]
    # 50 of 500 s of cost in 100 s: 900 s for the rest. By number of images 100 s.
    assert eta["seconds"] == pytest.approx(900)
    margin = 1 / math.sqrt(50)
    assert eta["low_seconds"] == pytest.approx(100 * (1 - margin), abs=0.1)
    assert eta["high_seconds"] == pytest.approx(900 * (1 + margin), abs=0.1)
    assert eta["time"] == "2023-11-14T22:30:00+00:00"  # 1 700 000 000 + 1000 s


def test_no_time_left_at_the_end(clock: Clock) -> None:
    progress = Progress(overview(n_images=6), clock)
    progress.add([failed(name) for name in "abc"])
    assert progress.snapshot()["eta"]["seconds"] == 0
    progress.end()
    assert (progress.state, progress.snapshot()["eta"]) == ("finished", None)
    early = Progress(overview(), clock)
    early.end()
    assert early.state == "stopped"


def test_closure_by_band_agrees_with_sorting(clock: Clock) -> None:
    rng = random.Random(3)
    values = {"r": [rng.gauss(-1e-3, 2e-3) for _ in range(4001)], "g": [rng.gauss(4e-4, 5e-4) for _ in range(2001)]}
    progress = Progress(overview(n_images=10_000), clock)
    progress.add(done(f"{b}{i}", band=b, closure_mag=v) for b, some in values.items() for i, v in enumerate(some))
    progress.add([done("none", band="r"), done("nan", band="r", closure_mag=math.nan)])
    closure = progress.snapshot()["closure"]
    assert list(closure["bands"]) == ["g", "r"]  # by wavelength
    for band, some in values.items():
        mmag = [1000 * v for v in some]
        quarter, median, three = statistics.quantiles(mmag, n=4)
        content = closure["bands"][band]
        assert content["n"] == len(some)
        assert content["median_mmag"] == pytest.approx(median, abs=0.05)
        assert content["sigma_mmag"] == pytest.approx(0.7413 * (three - quarter), abs=0.08)
        half, n_bins = closure["half_width_mmag"], closure["n_bins"]
        expected, _ = np.histogram(mmag, bins=n_bins, range=(-half, half))
        assert content["counts"] == expected.tolist()
        assert content["n_below"] == sum(v < -half for v in mmag) and content["n_above"] == sum(v >= half for v in mmag)


def test_closure_edges_and_far_values() -> None:
    histogram = ClosureHistogram()
    for mag in (-1.0, -0.1, 0.0, 0.0, 0.00005, 0.1, 1.0, -math.inf):
        histogram.add(mag)
    counts, below, above = histogram.counts(1.0, 40)
    assert (sum(counts), counts[20], counts[21], below, above) == (3, 2, 1, 2, 2)
    assert histogram.n == 7 and histogram.quantile(0.5) == pytest.approx(0.0, abs=0.05)


@given(st.lists(st.floats(-0.09, 0.09), min_size=1, max_size=9), st.sampled_from([0.25, 0.5, 0.75]))
def test_few_values_have_the_quantiles_of_numpy(values: list[float], fraction: float) -> None:
    histogram = ClosureHistogram()
    for value in values:
        histogram.add(value)
    expected = np.quantile([1000 * value for value in values], fraction)
    assert histogram.quantile(fraction) == pytest.approx(expected, abs=ClosureHistogram.BIN)


def test_the_median_of_two_is_between_them() -> None:
    histogram = ClosureHistogram()
    for value in (-0.004, 0.010):
        histogram.add(value)
    assert histogram.median_sigma()[0] == pytest.approx(3.0, abs=0.05)


def test_slowest_images_and_stage_shares(clock: Clock) -> None:
    progress = Progress(overview(n_images=500), clock)
    times = [float((7 * k) % 101) for k in range(101)]  # every whole number once
    progress.add(
        done(f"i{t:.0f}", wall_seconds=t, stages={"read": 0.2 * t, "inject": 0.6 * t, "closure": 0.1 * t})
        for t in times
    )
    shot = progress.snapshot()
    assert [row["wall_seconds"] for row in shot["slowest"]] == [float(t) for t in range(100, 80, -1)]
    assert shot["slowest"][0]["stages"] == {"read": 20.0, "inject": 60.0, "closure": 10.0}
    assert shot["stages"]["share"] == {"read": 0.2, "inject": 0.6, "closure": 0.1, "other": 0.1}
    assert shot["stages"]["inject_io_share"] == 0.8


def test_hosts_are_sorted_by_failures_then_by_images() -> None:
    table = HostTable(0.0)
    for i in range(6):
        table.add(60.0 * i, f"h{i}", failed=i == 3, wall_seconds=2.0, n_sources=10)
    table.add(300.0, "h5", failed=False, wall_seconds=4.0, n_sources=10)
    rows = table.rows(330.0, 4)
    assert len(table) == 6 and [row["host"] for row in rows] == ["h3", "h5", "h0", "h1"]
    assert [(row["n_failed_attempts"], row["n_images"], row["n_sources"]) for row in rows[:2]] == [
        (1, 0, 10),
        (0, 2, 20),
    ]
    assert rows[1]["seconds_since_last"] == 30.0 and rows[1]["mean_wall_seconds"] == 3.0


def test_a_host_that_falls_silent_slows_down() -> None:
    table = HostTable(0.0)
    for second in range(0, 600, 6):
        table.add(float(second), "h", failed=False, wall_seconds=1.0, n_sources=1)
    assert table.rows(600.0, 1)[0]["images_per_minute"] == pytest.approx(10.0)
    assert table.rows(1200.0, 1)[0]["images_per_minute"] == 0.0


def test_recent_sums_forget_and_do_not_go_back() -> None:
    sums = RecentSums(0.0, 1, n_bins=10)
    sums.add(1.0, (1.0,))
    sums.add(5.5, (2.0,))
    sums.add(3.0, (4.0,))  # a clock that was set back: counts as now
    assert sums.sums(6.0, 10)[0] == 7.0 and sums.sums(6.0, 2)[0] == 6.0
    assert sums.sums(14.9, 10)[0] == 6.0 and sums.sums(16.0, 10)[0] == 0.0
    assert sums.sums(1e6, 10)[0] == 0.0 and sums.totals[0] == 7.0


def test_history_keeps_its_length_and_the_pauses() -> None:
    history = History(0.0, n_points=20)
    history.add(0.0, (0,))
    history.add(100.0, (7,))
    assert history.points() == [(0.0, (0,)), (99.0, (0,)), (100.0, (7,))]
    for second in range(101, 5000):
        history.add(float(second), (second,))
    points = history.points()
    assert 10 <= len(points) <= 21 and points[0] == (0.0, (0,)) and points[-1][0] > 4500


def test_failures_shown_are_the_last_and_limited(clock: Clock) -> None:
    progress = Progress(overview(n_images=500), clock)
    progress.add(failed(f"i{k}") for k in range(120))
    shot = progress.snapshot()
    assert [row["image"] for row in shot["failures"]["last"]] == [f"i{k}" for k in range(119, 69, -1)]
    assert shot["failures"]["by_error"] == {"OSError": 120}
    progress.add([done("i3")])
    assert progress.snapshot()["failures"]["by_error"] == {"OSError": 119}


def test_overview_of_a_plan() -> None:
    found = make_overview(
        "n",
        "/o",
        tract=[1, 1, 2, 2, 2],
        patch=[5, 5, 0, 0, 1],
        ra=[359.9, 0.1, 20, 22, 30],
        dec=[1, 1, -60, -60, 5],
        n_sources=[1, 2, 3, 4, 5],
        cost_seconds=[1.0, 2.0, 4.0, 8.0, 16.0],
        done=[True, False, True, False, False],
        failed=[True, True, False, False, False],
        n_unusable=3,
    )
    assert (found.n_images, found.n_done, found.n_failed, found.n_unusable) == (5, 2, 1, 3)
    assert (found.n_sources_planned, found.cost_seconds_left) == (15, 24.0)
    patches = found.patches
    assert (patches.tract.tolist(), patches.patch.tolist()) == ([1, 2, 2], [5, 0, 1])
    assert (patches.n_images.tolist(), patches.n_done.tolist()) == ([2, 2, 1], [1, 1, 0])
    assert patches.n_failed.tolist() == [1, 0, 0]
    ra, dec = patches.ra, patches.dec
    assert min(ra[0], 360 - ra[0]) < 1e-9 and dec[0] == pytest.approx(1.0, abs=1e-3)  # across zero
    assert ra[1] == pytest.approx(21.0)
    assert found.image_cost.tolist() == [1.5, 6.0, 16.0]


def test_overview_of_nothing() -> None:
    columns = dict.fromkeys(("tract", "patch", "ra", "dec", "n_sources", "cost_seconds", "done", "failed"), ())
    found = make_overview("n", "/o", **columns)
    assert (found.n_images, len(found.patches), Progress(found).snapshot()["n_patches_done"]) == (0, 0, 0)


def test_memory_does_not_grow_with_the_images(clock: Clock) -> None:
    progress = Progress(overview(n_images=10**6), clock)

    def make(first: int) -> None:
        for k in range(first, first + 5000):
            clock.set(k / 100)
            stages = {"read": 1.0, "inject": float(k % 17)}
            progress.add(
                [done(f"i{k}", band="r", closure_mag=1e-3, wall_seconds=float(k % 97), stages=stages, host="h")]
            )

    make(0)
    tracemalloc.start()
    try:
        make(5000)
        make(10_000)
        grown, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert grown < 150_000  # 15 bytes an image would be more


def test_a_published_run_is_what_the_driver_counted(clock: Clock) -> None:
    n = 12_000
    columns = {"tract": [1] * n, "patch": range(n), "ra": np.arange(n) % 360.0 + 1 / 3, "dec": [0.0] * n}
    patches = PatchTable.of(**columns, n_images=[3] * n)
    progress = Progress(overview(patches=patches, image_cost=np.zeros(n)), clock)
    runs = PublishedRuns(clock)
    assert not runs.publish(MESSAGE_VERSION, "r", "me", pack_progress(progress))  # it does not know the patches
    assert len(runs) == 0
    assert runs.publish(MESSAGE_VERSION, "r", "me", pack_progress(progress), pack_patches(progress))
    progress.add(ImageSummary(f"i{k}", "done", tract=1, patch=k) for k in range(0, n, 7))
    progress.add([ImageSummary("x", "failed", tract=1, patch=3, error="E", message="é \ud800")])
    # A message that was lost does not matter: each says everything.
    pack_progress(progress)
    progress.add([ImageSummary("y", "done", tract=1, patch=n - 1, closure_mag=math.nan, band="r")])
    message = pack_progress(progress)
    assert runs.publish(MESSAGE_VERSION, "r", "me", message)
    run = runs.get("r")
    assert run is not None and runs.all() == [run] and run.version == 2
    for name, column in progress.patches.to_dict().items():
        assert np.array_equal(getattr(run.patches, name), column), name
    assert run.snapshot == progress.snapshot()
    assert len(message) < 5000


def test_the_last_runs_are_kept_and_a_lost_driver_is_noticed(clock: Clock) -> None:
    runs = PublishedRuns(clock)
    drivers = [Progress(overview(name=f"c{i}"), clock) for i in range(10)]
    drivers[9].end("finished")

    def publish(i: int) -> None:
        messages = pack_progress(drivers[i]), pack_patches(drivers[i])
        assert runs.publish(MESSAGE_VERSION, f"run{i}", f"client{i}", *messages)

    for i in range(10):
        publish(i)
    assert [run.snapshot["campaign"] for run in runs.all()] == [f"c{i}" for i in range(2, 10)]
    runs.lose("client8")
    runs.lose("client9")  # had ended
    runs.lose("")
    assert [run.state for run in runs.all()][-3:] == ["running", "lost", "finished"]
    clock.set(30.0)
    last = runs.get("run8")
    assert last is not None and last.to_dict(clock())["seconds_since_heard"] == 30.0
    publish(8)
    assert last.state == "running"


def test_messages_of_another_version_are_ignored() -> None:
    runs = PublishedRuns()
    assert not runs.publish(99, "x", "me", b"?", b"?")
    assert len(runs) == 0 and runs.get() is None


def test_publishing_a_large_survey_is_cheap_for_the_scheduler() -> None:
    n, rng = 100_000, np.random.default_rng(1)
    places = {"tract": np.arange(n) // 81, "patch": np.arange(n) % 81, "ra": 360 * rng.random(n), "dec": rng.random(n)}
    patches = PatchTable.of(**places, n_images=np.full(n, 10), n_done=rng.integers(0, 10, n))
    progress = Progress(overview(patches=patches, image_cost=np.ones(n)))
    runs = PublishedRuns()
    assert runs.publish(MESSAGE_VERSION, "r", "me", pack_progress(progress), pack_patches(progress))
    message = pack_progress(progress)
    assert len(message) < 100_000
    began = time.process_time()
    for _ in range(100):
        runs.publish(MESSAGE_VERSION, "r", "me", message)
    assert time.process_time() - began < 0.1  # a millisecond each, a thousandth of which is usual
    run = runs.get()
    assert run is not None and np.array_equal(run.patches.n_done, patches.n_done)


@pytest.mark.parametrize(
    ("function", "argument", "text"),
    [
        (duration, 119.4, "119 s"),
        (duration, 121, "2 min"),
        (duration, 11_220, "3 h 07 min"),
        (duration, 187_200, "2 d 04 h"),
        (duration, -1, "0 s"),
        (data_size, 999, "999 B"),
        (data_size, 12.34e9, "12.3 GB"),
        (data_size, 5e15, "5.0 PB"),
        (count, 1234567, "1\u202f234\u202f567"),
        (rate, 0.0, "0.0 /s"),
        (rate, 250.0, "250 /s"),
        (rate, 0.05, "3.00 /min"),
        (rate, 0.005, "18.0 /h"),
        (lambda x: share(*x), (0, 10), "0 %"),
        (lambda x: share(*x), (10, 10), "100 %"),
        (lambda x: share(*x), (999_999, 1_000_000), "> 99.9 %"),
        (lambda x: share(*x), (1, 100_000), "< 0.1 %"),
        (lambda x: share(*x), (1, 3), "33.3 %"),
    ],
)
def test_numbers_in_words(function: Callable[[Any], str], argument: Any, text: str) -> None:
    assert function(argument) == text
