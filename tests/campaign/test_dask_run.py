"""On real Dask clusters: the same bytes as without, whatever the workers, the tasks and their fate."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dask
import pytest
from distributed import Client, LocalCluster

from skygraft.campaign import Campaign, ImageSummary, NoReporter, PlannedImage
from skygraft.campaign.cluster import open_cluster
from skygraft.campaign.config import ClusterConfig
from skygraft.campaign.run import drive, drive_serial, map_items
from skygraft.errors import CampaignError

pytestmark = pytest.mark.dask

type MakeCampaign = Callable[..., Campaign]


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    """Two worker processes, as a campaign without a client starts them."""
    with open_cluster(ClusterConfig(n_workers=2)) as cluster:
        yield cluster.client


@pytest.fixture(scope="module")
def threads() -> Iterator[Client]:
    """One worker with four threads, in this process: quick, for what is about the driver."""
    with (
        LocalCluster(n_workers=1, threads_per_worker=4, processes=False, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


def planned(number: int, name: str = "") -> PlannedImage:
    return PlannedImage(
        image_id=name or f"image-{number:04}", stem="", path="", hdu="", format="", instrument=None, visit=None,
        detector=None, band=None, mjd=None, exposure_time=None, nx=1, ny=1, ra=0.0, dec=0.0, polygon=((0.0, 0.0),),
        pixel_scale=1.0, n_bytes=1, options="{}", tract=0, patch=number // 50, reads=(), n_sources=0,
        cost_seconds=1.0, output="", catalog_key="",
    )  # fmt: skip


def test_two_processes_write_the_same_bytes(
    make_campaign: MakeCampaign, client: Client, expected: dict[str, str], kit: Any
) -> None:
    campaign = make_campaign(images_per_task=1)
    summary = campaign.run(client)
    assert (summary.n_done, summary.ok) == (4, True)
    assert kit.checksums(campaign.layout.root) == expected
    assert campaign.run(client).n_skipped == 4


def test_one_worker_with_all_images_in_one_task(
    make_campaign: MakeCampaign, threads: Client, expected: dict[str, str], kit: Any
) -> None:
    campaign = make_campaign(task_seconds=1e6)
    assert campaign.run(threads).ok
    assert kit.checksums(campaign.layout.root) == expected


def test_order_and_repetition_do_not_matter(
    make_campaign: MakeCampaign, client: Client, expected: dict[str, str], kit: Any
) -> None:
    campaign = make_campaign()
    campaign.plan()
    from skygraft.campaign import read_plan

    images = read_plan(campaign.layout.plan)
    shuffled = images * 2  # at-least-once: every image is run twice, two of them at the same time
    random.Random(5).shuffle(shuffled)
    result = drive(client, shuffled, str(campaign.layout.root), images_per_task=1)
    assert result.n_done + result.n_skipped == 8
    assert not result.failed
    assert campaign.run(client).n_skipped == 4
    assert kit.checksums(campaign.layout.root) == expected


def test_one_bad_image_on_a_cluster(make_campaign: MakeCampaign, survey: Path, client: Client) -> None:
    campaign = make_campaign()
    campaign.plan()
    (survey / "raw/v0/image-1.fits").write_bytes(b"SIMPLE  =")
    summary = campaign.run(client)
    assert (summary.n_done, summary.n_failed) == (3, 1)
    assert summary.failures[0].error == "CorruptFileError"


@pytest.mark.slow
def test_an_image_that_kills_its_workers_is_named(tmp_path: Path) -> None:
    """The poison is in a task with innocents; they are done all the same."""
    poison = "image-0007"

    # Nothing of skygraft in what workers get: they start, and start again, so much faster.
    def work(images: Sequence[Any], output: str) -> list[Any]:
        for image in images:
            if image.image_id == poison:
                os._exit(1)
            (Path(output) / image.image_id).touch()
        return [
            SimpleNamespace(image_id=image.image_id, status="done", wall_seconds=0.01, n_sources=1) for image in images
        ]

    images: list[Any] = [SimpleNamespace(**asdict(planned(i))) for i in range(24)]
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster, set_as_default=False) as fragile,
    ):
        result = drive(fragile, images, str(tmp_path), images_per_task=6, work=work)
    assert set(result.failed) == {poison}
    assert result.failed[poison].error == "KilledWorker"
    assert "alone" in result.failed[poison].message
    assert {p.name for p in tmp_path.iterdir()} == {image.image_id for image in images} - {poison}


def test_the_window_is_bounded(threads: Client) -> None:
    """However many images there are, the scheduler knows of few tasks."""
    most = 0

    def listen(summaries: list[ImageSummary]) -> None:
        nonlocal most
        most = max(most, len(threads.cluster.scheduler.tasks))

    def work(images: Sequence[PlannedImage], output: str) -> list[ImageSummary]:
        return [ImageSummary(image.image_id, "done", wall_seconds=1.0) for image in images]

    images = [planned(i) for i in range(600)]
    result = drive(threads, images, "", images_per_task=1, work=work, listener=listen)
    assert result.n_done == 600
    assert 0 < most <= 2 * 32


def test_failures_that_may_pass_are_tried_again_last(threads: Client, tmp_path: Path) -> None:
    log = tmp_path / "log"

    def work(images: Sequence[PlannedImage], output: str) -> list[ImageSummary]:
        summaries = []
        for image in images:
            with Path(output).open("a") as handle:
                handle.write(f"{image.image_id}\n")
            tries = Path(output).read_text().split().count(image.image_id)
            passes = {"image-0001": tries > 1, "image-0002": False, "image-0003": False}.get(image.image_id, True)
            if passes:
                summaries.append(ImageSummary(image.image_id, "done", wall_seconds=1.0))
            else:
                may_pass = image.image_id != "image-0003"
                summaries.append(ImageSummary(image.image_id, "failed", error="E", may_pass=may_pass))
        return summaries

    result = drive(threads, [planned(i) for i in range(20)], str(log), retries=1, work=work)
    order = log.read_text().split()
    assert set(result.failed) == {"image-0002", "image-0003"}
    assert result.n_done == 18
    assert order.count("image-0003") == 1
    assert sorted(order[20:]) == ["image-0001", "image-0002"]


def test_workers_that_cannot_run_anything(threads: Client) -> None:
    def work(images: Sequence[PlannedImage], output: str) -> list[ImageSummary]:
        raise ModuleNotFoundError("No module named 'skygraft'")

    with pytest.raises(CampaignError, match=r"no worker could run a task.*ModuleNotFoundError.*same software"):
        drive(threads, [planned(i) for i in range(200)], "", images_per_task=1, work=work)


def test_ctrl_c_lets_running_tasks_finish(
    make_campaign: MakeCampaign, client: Client, expected: dict[str, str], kit: Any
) -> None:
    workers = set(client.run(os.getpid).values())

    class Impatient(NoReporter):
        told = False

        def images(self, summaries: Any) -> None:
            if self.told:
                return
            self.told = True
            os.kill(os.getpid(), signal.SIGINT)
            for process in workers:  # a terminal tells all of its processes
                os.kill(process, signal.SIGINT)

    campaign = make_campaign(images_per_task=1, task_seconds=1e-3)
    summary = campaign.run(client, reporter=Impatient())
    assert summary.interrupted
    assert summary.n_done >= 1
    assert summary.n_done + summary.n_remaining == 4
    assert set(client.run(os.getpid).values()) == workers
    assert campaign.run(client).ok
    assert kit.checksums(campaign.layout.root) == expected


@pytest.mark.slow
def test_a_cluster_is_started_where_none_is_given(
    make_campaign: MakeCampaign, expected: dict[str, str], kit: Any
) -> None:
    said = []

    class Listening(NoReporter):
        def say(self, text: str) -> None:
            said.append(text)

    campaign = make_campaign(cluster={"kind": "local", "n_workers": 1})
    assert campaign.run(reporter=Listening()).ok
    assert kit.checksums(campaign.layout.root) == expected
    assert len(said) == 1
    assert said[0].startswith("Dask dashboard: http://127.0.0.1:")


def test_a_running_scheduler_by_its_address(make_campaign: MakeCampaign, client: Client, kit: Any) -> None:
    campaign = make_campaign(cluster=client.scheduler.address)
    assert campaign.run().ok


def test_map_items_calls_each_once(threads: Client) -> None:
    def square(item: int, *, offset: int) -> int:
        return item * item + offset

    items = list(range(100))
    assert sorted(map_items(threads, square, items, offset=1)) == [i * i + 1 for i in items]
    assert list(map_items(None, square, items, offset=1)) == [i * i + 1 for i in items]

    def fail(item: int) -> int:
        raise ValueError(item)

    with pytest.raises(ValueError, match="3"):
        list(map_items(threads, fail, [3]))


def test_serial_and_parallel_drivers_agree(threads: Client) -> None:
    def work(images: Sequence[PlannedImage], output: str) -> list[ImageSummary]:
        bad = {"image-0003", "image-0011"}
        return [
            ImageSummary(i.image_id, "failed" if i.image_id in bad else "done", wall_seconds=0.1, n_sources=2)
            for i in images
        ]

    images = [planned(i) for i in range(30)]
    assert drive(threads, images, "", work=work) == drive_serial(images, "", work=work)
