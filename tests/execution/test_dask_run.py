"""On real Dask clusters: the same bytes as without, whatever the workers, the tasks and their fate."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dask
import pytest
from distributed import Client, KilledWorker, LocalCluster
from distributed.client import CancelledError

from kits.drive_kit import Reports, drive, jobs, name_of
from skygraft.campaign import Campaign, ImageSummary, NoReporter
from skygraft.clusters.cluster import open_cluster
from skygraft.config.cluster_kinds import LocalConfig
from skygraft.disk import FileIdentity
from skygraft.errors import CampaignError
from skygraft.execution.driver import DriveSettings, _Driver, drive_serial
from skygraft.execution.mapping import map_items
from skygraft.execution.task import run_task
from skygraft.execution.task_queue import TaskQueue

pytestmark = pytest.mark.dask

type MakeCampaign = Callable[..., Campaign]


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    """Two worker processes, as a campaign without a client starts them."""
    with open_cluster(LocalConfig(n_workers=2)) as cluster:
        yield cluster.client


@pytest.fixture(scope="module")
def threads() -> Iterator[Client]:
    """One worker with four threads, in this process: quick, for what is about the driver."""
    with (
        LocalCluster(n_workers=1, threads_per_worker=4, processes=False, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


def done(rows: Sequence[int]) -> list[ImageSummary]:
    return [ImageSummary(name_of(row), "done", wall_seconds=1.0) for row in rows]


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
    shuffled = [0, 1, 2, 3] * 2  # at-least-once: every image is run twice, two of them at the same time
    random.Random(5).shuffle(shuffled)
    work = partial(run_task, output=str(campaign.layout.root), plan=FileIdentity.of(campaign.layout.plan).size_and_time)
    results = [r for (r,) in client.gather(client.map(work, [[row] for row in shuffled], pure=False))]
    assert {summary.status for summary in results} <= {"done", "skipped"}
    assert campaign.run(client).n_skipped == 4
    assert kit.checksums(campaign.layout.root) == expected


def test_a_worker_that_sees_another_plan(make_campaign: MakeCampaign, monkeypatch: pytest.MonkeyPatch) -> None:
    campaign = make_campaign()
    campaign.plan()
    monkeypatch.setattr("skygraft.records.files._TRIES", 1)
    with pytest.raises(CampaignError, match="does not see the plan"):
        run_task([0], str(campaign.layout.root), (1, 1))
    plan = FileIdentity.of(campaign.layout.plan).size_and_time
    with pytest.raises(CampaignError, match="does not see the configuration"):
        run_task([0], str(campaign.layout.root), plan, (1, 1))
    [summary] = run_task([0], str(campaign.layout.root), plan, FileIdentity.of(campaign.layout.config).size_and_time)
    assert summary.status == "done"


def test_one_bad_image_on_a_cluster(make_campaign: MakeCampaign, survey: Path, client: Client) -> None:
    campaign = make_campaign()
    campaign.plan()
    (survey / "raw/v0/image-1.fits").write_bytes(b"SIMPLE  =")
    summary = campaign.run(client)
    assert (summary.n_done, summary.n_failed) == (3, 1)
    assert summary.failures[0].error == "CorruptFileError"


N_LIVES = 4
"""Workers of a test in which three die: Dask's nannies do not always start another where one dies young."""


@pytest.mark.slow
def test_an_image_that_kills_its_workers_is_named(tmp_path: Path) -> None:
    """The poison is in a task with innocents; they are done all the same."""
    poison = 7

    # Nothing of skygraft in what workers get: they start, and start again, so much faster.
    def work(rows: Sequence[int], output: str) -> list[Any]:
        for row in rows:
            if row == poison:
                os._exit(1)
            (Path(output) / str(row)).touch()
        return [SimpleNamespace(status="done", wall_seconds=0.01, n_sources=1) for _ in rows]

    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        LocalCluster(n_workers=N_LIVES, threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster, set_as_default=False) as fragile,
    ):
        told: dict[int, ImageSummary] = {}
        result = drive(
            fragile,
            jobs(24),
            str(tmp_path),
            images_per_task=6,
            work=work,
            listener=lambda rows, summaries: told.update(zip(rows, summaries, strict=True)),
        )
    assert result.failed == {poison: False}
    assert (told[poison].image_id, told[poison].error) == ("image-0007", "KilledWorker")
    assert told[poison].quarantined
    assert "alone" in told[poison].message
    assert {p.name for p in tmp_path.iterdir()} == {str(row) for row in range(24) if row != poison}


class Told:
    """A task's future as Dask leaves it in the driver's hands."""

    def __init__(self, status: str, error: BaseException | None = None) -> None:
        self.status, self.error = status, error

    def exception(self) -> BaseException | None:
        return self.error

    def release(self) -> None:
        """Nothing: there is no scheduler."""


def a_driver(told: list[int]) -> Any:
    def listen(rows: Sequence[int], summaries: Any) -> None:
        told.extend(rows)

    nothing: Any = None
    watch: Any = SimpleNamespace(task_finished=lambda: None)
    return _Driver(nothing, nothing, Reports(listen), DriveSettings(), interruption=nothing, watch=watch)


def test_a_result_counts_though_its_worker_died_since() -> None:
    """Dask makes it again, and its future waits; but it is here."""
    told: list[int] = []
    driver, queue = a_driver(told), TaskQueue(jobs(4), task_seconds=1.0, images_per_task=2)
    for status in ("pending", "lost", "finished"):
        future, task = Told(status), queue.take(1)
        driver._flying = {future: task}
        driver._receive(future, done(task), queue)
    assert told == list(range(driver.result.n_done))
    assert told
    future = Told("cancelled")
    driver._flying = {future: [3]}
    with pytest.raises(CampaignError, match="lost 1 images of a task"):
        driver._receive(future, CancelledError(), queue)


def test_an_error_that_as_completed_keeps_to_itself_is_heard() -> None:
    """A result was lost on its way here, and the task fails when it is run again: a run would wait for ever."""
    told: list[int] = []
    driver, queue = a_driver(told), TaskQueue(jobs(4), task_seconds=1.0, images_per_task=2)
    lost, broken, well = Told("error", KilledWorker("t", None, 0)), Told("error", OSError("gone")), Told("pending")
    driver._flying = {lost: [2], broken: [3], well: [1]}
    driver._hear_errors(queue)
    assert set(driver._flying) == {lost, broken, well}  # they may still be on their way
    driver._hear_errors(queue)
    assert set(driver._flying) == {well}
    assert driver.suspects == [2]
    assert (told, driver.result.failed) == ([3], {3: True})
    # Should they come after all, they are not counted twice.
    driver._receive(broken, (OSError, OSError("gone"), None), queue)
    assert told == [3]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_all_that_was_made_before_a_signal_is_told(client: Client, tmp_path: Path, number: int) -> None:
    """Tasks so short that a worker ends many while it is told to stop: none of them is forgotten."""

    def work(rows: Sequence[int], output: str) -> list[Any]:
        for row in rows:
            (Path(output) / str(row)).touch()
        time.sleep(0.001)
        return [SimpleNamespace(status="done", wall_seconds=0.01, n_sources=1) for _ in rows]

    told: list[int] = []

    def listen(rows: Sequence[int], summaries: Any) -> None:
        told.extend(rows)
        if len(told) == 60:
            os.kill(os.getpid(), number)

    settings: dict[str, Any] = {"images_per_task": 1, "work": work}
    result = drive(client, jobs(2000), str(tmp_path), listener=listen, **settings)
    assert result.interrupted == number
    assert len(told) == result.n_done < 2000
    time.sleep(0.2)
    assert sorted(told) == sorted(int(path.name) for path in tmp_path.iterdir())
    # The workers are as they were: they stopped for this run, not for the next.
    assert drive(client, jobs(20), str(tmp_path), **settings).n_done == 20


def test_a_signal_ends_a_task_between_two_images(client: Client, tmp_path: Path) -> None:
    """A task may hold a minute's images: what it has made is told, and the others are left."""

    def work(rows: Sequence[int], output: str) -> list[Any]:
        for row in rows:
            time.sleep(0.05)
            (Path(output) / str(row)).touch()
        return [SimpleNamespace(status="done", wall_seconds=0.05, n_sources=1) for _ in rows]

    def interrupt() -> None:
        while len(list(tmp_path.iterdir())) < 4:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    told: list[int] = []
    settings: dict[str, Any] = {"images_per_task": 200, "work": work}
    sender = threading.Thread(target=interrupt)
    sender.start()
    result = drive(client, jobs(400), str(tmp_path), listener=lambda rows, summaries: told.extend(rows), **settings)
    sender.join()
    assert result.interrupted == signal.SIGTERM
    assert 4 <= result.n_done == len(told) < 200
    assert sorted(told) == sorted(int(path.name) for path in tmp_path.iterdir())
    assert result.failed == {}


def test_the_window_is_bounded(threads: Client) -> None:
    """However many images there are, the scheduler knows of few tasks."""
    most = most_left = 0

    def listen(rows: Sequence[int], summaries: list[ImageSummary]) -> None:
        nonlocal most, most_left
        tasks = list(threads.cluster.scheduler.tasks.values())
        most = max(most, len(tasks))
        most_left = max(most_left, sum(task.state not in ("memory", "released", "forgotten") for task in tasks))

    def work(rows: Sequence[int], output: str) -> list[ImageSummary]:
        return done(rows)

    result = drive(threads, jobs(600), "", images_per_task=1, work=work, listener=listen)
    assert result.n_done == 600
    assert 0 < most <= 2 * 32
    drive(threads, jobs(600), "", images_per_task=1, work=work, listener=listen, max_threads=40)
    # An adaptive cluster that may grow is shown work for all of its workers; some tasks are done and not forgotten yet.
    assert 100 < most <= 2 * 4 * 40
    assert most_left <= 4 * 40


def test_failures_that_may_pass_are_tried_again_last(threads: Client, tmp_path: Path) -> None:
    log = tmp_path / "log"

    def work(rows: Sequence[int], output: str) -> list[ImageSummary]:
        summaries = []
        for row in rows:
            with Path(output).open("a") as handle:
                handle.write(f"{row}\n")
            tries = Path(output).read_text().split().count(str(row))
            passes = {1: tries > 1, 2: False, 3: False}.get(row, True)
            summaries += done([row]) if passes else [ImageSummary("", "failed", error="E", may_pass=row != 3)]
        return summaries

    result = drive(threads, jobs(20), str(log), retries=1, work=work)
    order = [int(row) for row in log.read_text().split()]
    assert set(result.failed) == {2, 3}
    assert result.n_done == 18
    assert order.count(3) == 1
    assert sorted(order[20:]) == [1, 2]


def test_workers_that_cannot_run_anything(threads: Client) -> None:
    def work(rows: Sequence[int], output: str) -> list[ImageSummary]:
        raise ModuleNotFoundError("No module named 'skygraft'")

    with pytest.raises(CampaignError, match=r"no worker could run a task.*ModuleNotFoundError.*same software"):
        drive(threads, jobs(200), "", images_per_task=1, work=work)


def test_a_disk_that_is_full_stops_the_campaign(threads: Client) -> None:
    """A million images need not fail for one reason; what flies is counted, what waits is left."""

    def work(rows: Sequence[int], output: str) -> list[ImageSummary]:
        if rows[0] < 50:
            return done(rows)
        return [ImageSummary(name_of(row), "failed", error="OutputError", message="No space left") for row in rows]

    result = drive(threads, jobs(2000), "", images_per_task=1, work=work)
    assert result.n_done == 50
    assert 20 <= len(result.failed) < 300
    assert "No space left" in result.stopped
    assert not result.interrupted


def test_few_images_are_read_and_written_at_a_time(threads: Client, tmp_path: Path) -> None:
    def work(rows: Sequence[int], output: str, io: Any) -> list[ImageSummary]:
        with io:
            mine = Path(output) / f"{rows[0]}"
            mine.touch()
            n = len(list(Path(output).iterdir()))
            time.sleep(0.02)
            mine.unlink()
        return [ImageSummary(name_of(row), "done", n_sources=n) for row in rows]

    def most_at_once(limit: int) -> int:
        most = 0

        def listen(rows: Sequence[int], summaries: list[ImageSummary]) -> None:
            nonlocal most
            most = max(most, *(summary.n_sources for summary in summaries))

        settings: dict[str, Any] = {"images_per_task": 1, "work": work, "listener": listen}
        assert drive(threads, jobs(24), str(tmp_path), io_limit=limit, **settings).n_done == 24
        return most

    assert most_at_once(1) == 1
    assert most_at_once(4) > 1


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
    assert said[0].startswith("Dask dashboard: http://127.0.0.1:")
    assert said[1:] == [said[0].replace("Dask dashboard", "Campaign page").replace("/status", "/campaign")]


@pytest.mark.slow
def test_a_running_scheduler_by_its_address(make_campaign: MakeCampaign) -> None:
    with open_cluster(LocalConfig(n_workers=1, tls=False)) as opened:
        assert make_campaign(cluster=opened.client.scheduler.address).run().ok


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
    def work(rows: Sequence[int], output: str) -> list[ImageSummary]:
        return [
            ImageSummary(name_of(r), "failed" if r in (3, 11) else "done", wall_seconds=0.1, n_sources=2) for r in rows
        ]

    assert drive(threads, jobs(30), "", work=work) == drive_serial(jobs(30), partial(work, output=""), Reports())
