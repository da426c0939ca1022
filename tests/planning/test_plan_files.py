"""The plan and its files: home patches, places of outputs, tasks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skygraft.campaign import Campaign, ImageSummary, NoReporter, PlannedImage, read_plan
from skygraft.errors import CampaignError
from skygraft.execution.jobs import Jobs
from skygraft.execution.task_queue import TaskQueue
from skygraft.planning.index import output_places, safe_stems
from skygraft.planning.plan import plan_images
from skygraft.records.ledger import Ledger, read_events
from skygraft.records.plan_file import PlanWriter
from skygraft.skymap import get_skymap

type MakeCampaign = Callable[..., Campaign]


class Listening(NoReporter):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.texts = list[str]()

    def say(self, text: str) -> None:
        self.texts.append(text)


def test_plan_says_what_would_be_done(make_campaign: MakeCampaign, kit: Any) -> None:
    campaign = make_campaign()
    summary = campaign.plan()
    images = {image.path: image for image in read_plan(campaign.layout.plan)}
    assert summary.n_images == len(images) == 4
    assert summary.n_catalog == 160
    assert summary.problems == ()
    assert summary.checks.uses[0].radius == 12.0
    skymap = get_skymap("hsc_rings_v1")
    for i, (ra, dec) in enumerate(kit.CENTRES):
        image = images[f"raw/v{i // 2}/image-{i}.fits"]
        tract, patch = skymap.locate(ra, dec)
        assert (image.tract, image.patch) == (int(tract), int(patch))
        assert (image.tract, image.patch) in image.reads
        assert image.output == image.path
        assert image.band == "r"
        assert image.visit == 500 + i // 2
    assert images["raw/v1/image-2.fits"].n_sources == 40
    # The first two overlap and share sources.
    assert images["raw/v0/image-0.fits"].n_sources > 40
    text = str(summary)
    for words in ("4 ", "testcam: 4", "aperture of radius 12 pix = 2.4 arcsec", "CALAPRAD"):
        assert words in text
    assert not campaign.layout.images.exists()


def test_plan_is_deterministic(make_campaign: MakeCampaign) -> None:
    campaign = make_campaign()
    campaign.plan()
    first = campaign.layout.plan.read_bytes()
    campaign.plan()
    assert campaign.layout.plan.read_bytes() == first


def test_plan_reads_back(make_campaign: MakeCampaign) -> None:
    campaign = make_campaign()
    campaign._claim()
    images = list(plan_images(campaign.config).images())
    assert read_plan(campaign.layout.plan) == images


def test_unreadable_plan(make_campaign: MakeCampaign) -> None:
    campaign = make_campaign()
    campaign.plan()
    campaign.layout.plan.write_bytes(b"PAR1")
    with pytest.raises(CampaignError, match="plan again"):
        campaign.status()


def test_own_outputs_are_not_taken_for_inputs(make_campaign: MakeCampaign) -> None:
    campaign = make_campaign(survey={"images": "**/*.fits"}, output="out")
    assert campaign.run(n_workers=0).n_images == 4
    assert campaign.plan().n_images == 4


def test_images_without_sources_and_patches_without_images(make_campaign: MakeCampaign, survey: Path, kit: Any) -> None:
    kit.write_image(survey / "raw/v7/empty.fits", 150.10, 2.50, 507, 0)
    (survey / "raw/v1/image-3.fits").unlink()
    campaign = make_campaign()
    summary = campaign.plan()
    assert summary.findings["images without sources"].first == ("testcam-507-0",)
    home = tuple(int(v) for v in get_skymap("hsc_rings_v1").locate(*kit.CENTRES[3]))
    assert f"{home[0]},{home[1]}" in summary.findings["patches without images"].first
    # An image without sources is written all the same: a survey with holes is no survey.
    assert campaign.run(n_workers=0).ok
    assert (campaign.layout.images / "raw/v7/empty.fits").exists()


def test_images_that_cannot_be_planned_are_named(make_campaign: MakeCampaign, survey: Path, kit: Any) -> None:
    kit.write_image(survey / "raw/copy.fits", *kit.CENTRES[0], 500, 0)
    (survey / "raw/broken.fits").write_bytes(b"")
    campaign = make_campaign()
    plan = campaign.plan()
    assert (plan.n_images, plan.n_unusable) == (4, 2)
    assert any("broken.fits" in problem for problem in plan.problems)
    assert any("testcam-500-0" in problem for problem in plan.problems)
    summary = campaign.run(n_workers=0)
    assert (summary.n_done, summary.n_unusable, summary.ok) == (4, 2, False)
    rows = {row["path"]: row for row in pq.read_table(campaign.layout.failures).to_pylist()}
    assert rows["raw/broken.fits"]["error"] == "CorruptFileError"
    assert len(rows) == 2


def test_no_image_can_be_used(make_campaign: MakeCampaign, survey: Path) -> None:
    for path in survey.rglob("*.fits"):
        path.write_bytes(b"")
    with pytest.raises(CampaignError, match=r"none of 4 images can be used.*CorruptFileError"):
        make_campaign().plan()


def test_band_without_magnitudes_is_a_problem(make_campaign: MakeCampaign, survey: Path, kit: Any) -> None:
    kit.write_image(survey / "raw/z.fits", *kit.CENTRES[2], 508, 0, FILTER="z")
    campaign = make_campaign()
    assert any("band z" in problem and "r, i" in problem for problem in campaign.plan().problems)
    summary = campaign.run(n_workers=0)
    assert (summary.n_done, summary.failures[0].error) == (4, "CatalogError")


def test_outputs_keep_the_layout_and_are_unique() -> None:
    paths = pa.array(["a/x.fits", "a/x.fits", "b/x.fits", "/other/c/y.fits", "/other/d/y.fits"])
    outputs = output_places(paths, pa.array(["i-1", "i-2", "i-3", "i-4", "i-5"])).to_pylist()
    assert outputs == ["a/i-1/x.fits", "a/i-2/x.fits", "b/x.fits", "c/y.fits", "d/y.fits"]


@settings(deadline=None)
@given(st.lists(st.text(min_size=1, max_size=20), unique=True, max_size=30))
def test_stems_are_safe_and_unique(image_ids: list[str]) -> None:
    stems = safe_stems(pa.array(image_ids, type=pa.string())).to_pylist()
    assert len({stem.lower() for stem in stems}) == len(stems)
    for stem in stems:
        assert stem
        assert not set(stem) & set("/\\\0 :*?")
        assert not stem.startswith(".")


def planned(number: int, patch: int, cost: float) -> PlannedImage:
    return PlannedImage(
        image_id=f"image-{number}", stem=f"image-{number}", path=f"{number}.fits", hdu="", format="fits",
        instrument=None, visit=number, detector=None, band="r", mjd=None, exposure_time=None, nx=1, ny=1, ra=0.0,
        dec=0.0, polygon=((0.0, 0.0),), pixel_scale=1.0, n_bytes=1, options="{}", tract=0, patch=patch, reads=(),
        n_sources=0, cost_seconds=cost, output=f"{number}.fits", catalog_key="",
    )  # fmt: skip


def queue_of(rows: Any, homes: Any, costs: Any, kinds: Any = None, **settings: Any) -> TaskQueue:
    kinds = np.zeros(len(rows)) if kinds is None else kinds
    jobs = Jobs(np.array(rows, int), np.array(homes, int), np.array(costs, float), np.array(kinds, int))
    return TaskQueue(jobs, **settings)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.floats(0.01, 50)), max_size=60),
    st.floats(1, 100),
    st.integers(1, 10),
    st.integers(1, 8),
)
def test_tasks_hold_every_image_once(images: list[tuple[int, float]], seconds: float, most: int, n_slots: int) -> None:
    homes, costs = zip(*sorted(images), strict=True) if images else ((), ())
    rows = [3 * i + 1 for i in range(len(images))]
    queue = queue_of(rows, homes, costs, task_seconds=seconds, images_per_task=most)
    tasks = []
    while len(queue):
        tasks.append(queue.take(n_slots))
    assert [row for task in tasks for row in task] == rows
    assert queue.take(n_slots) == []
    for task in tasks:
        assert 1 <= len(task) <= most
        assert len(task) == 1 or sum(costs[row // 3] for row in task) <= seconds * (1 + 1e-9)


def equal_images(n: int, kinds: list[int] | None = None, **settings: float) -> TaskQueue:
    settings = {"task_seconds": 60, "images_per_task": 100, **settings}
    return queue_of(range(n), [0] * n, [1.0] * n, kinds, **settings)


def test_tasks_end_with_a_home_patch_unless_that_makes_them_much_shorter() -> None:
    homes = [0] * 6 + [1] * 3 + [2] * 1 + [3] * 30 + [4] * 2
    queue = queue_of(range(42), homes, [1.0] * 42, task_seconds=8, images_per_task=100)
    sizes = []
    while len(queue) and len(sizes) < 6:
        sizes.append(len(queue.take(1)))
    # Not 8, which would cut the second home patch; then two whole ones rather than a bit of the next; then it is cut.
    assert sizes[:5] == [6, 4, 8, 8, 5]


def test_few_images_in_a_home_patch_do_not_make_small_tasks() -> None:
    queue = queue_of(range(1000), range(1000), [1.0] * 1000, task_seconds=20, images_per_task=100)
    assert len(queue.take(1)) == 20


def test_tasks_get_shorter_towards_the_end() -> None:
    queue = equal_images(100)
    sizes = []
    while len(queue):
        sizes.append(len(queue.take(2)))
    assert sizes[0] == 16  # a share of 100 s among 2 workers, three times over
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] == 1


def test_tasks_learn_from_measured_times() -> None:
    queue = equal_images(1000, task_seconds=10)
    task = queue.take(1)
    assert len(task) == 10
    queue.learn(task, [ImageSummary(f"image-{i}", "done", wall_seconds=5.0) for i in task])
    assert len(queue.take(1)) == 2


def test_what_is_learned_of_one_kind_does_not_change_another() -> None:
    queue = equal_images(2000, [0] * 1000 + [1] * 1000, task_seconds=10)
    for seconds, n_expected in ((5.0, 10), (5.0, 2)):
        task = queue.take(1)
        assert len(task) == n_expected
        queue.learn(task, [ImageSummary("", "done", wall_seconds=seconds) for _ in task])
    slow = 0
    while (task := queue.take(1))[0] < 1000:
        slow += len(task)
    assert slow == 1000 - 12
    # Nothing is known of the second kind: it is taken to be as the first, until it says otherwise.
    assert len(task) == 2
    queue.learn(task, [ImageSummary("", "done", wall_seconds=1.0) for _ in task])
    assert len(queue.take(1)) == 10


def test_a_task_that_killed_its_worker_is_taken_apart_first() -> None:
    queue = equal_images(6, images_per_task=3)
    first = queue.take(1)
    queue.put_alone(first)
    assert [queue.take(1) for _ in first] == [[row] for row in first]
    assert queue.take(1)[0] == first[-1] + 1


def test_half_a_line_in_the_ledger_costs_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    with Ledger(path) as ledger:
        places = ledger.images([ImageSummary("a", "done"), ImageSummary("b", "failed", error="E", message="m")])
    path.write_bytes(path.read_bytes() + b'{"event": "image", "image')
    with Ledger(path) as ledger:
        places += ledger.images([ImageSummary("c", "done")])
    found = list(read_events(path))
    assert [event.image_id for _, event in found] == ["a", "b", "c"]
    assert [place for place, _ in found] == places
    assert next(read_events(path, places[1]))[1].error == "E"
    assert list(read_events(tmp_path / "none")) == []


def test_a_plan_that_has_rotted_is_made_again(finished: Campaign) -> None:
    path = finished.layout.plan
    whole = path.read_bytes()
    with PlanWriter(path):
        pass
    for content, problem in ((path.read_bytes(), "holds no image"), (whole[:-4], "cannot be read"), (b"", "cannot")):
        path.write_bytes(content)
        with pytest.raises(CampaignError, match=problem):
            finished.status()
        said = Listening()
        summary = finished.run(n_workers=0, reporter=said)
        assert summary.ok and summary.n_skipped == 4
        assert any("planning again" in text and problem in text for text in said.texts)
        assert finished.status().n_done == 4
