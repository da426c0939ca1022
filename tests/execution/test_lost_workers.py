"""Workers that die, are held at their memory limit, or do not come: a run goes on, or it ends and says why."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dask
import pytest
from distributed import Client, LocalCluster

from kits.drive_kit import drive, jobs
from skygraft.campaign import Campaign
from skygraft.campaign.run import CampaignRun
from skygraft.clusters.cluster import open_cluster
from skygraft.clusters.cluster_watch import ClusterWatch
from skygraft.clusters.watchdog import Patience
from skygraft.config.cluster_kinds import LocalConfig
from skygraft.disk import FileIdentity
from skygraft.errors import CampaignError
from skygraft.execution.jobs import DriveResult
from skygraft.execution.mapping import map_items
from skygraft.records.image_summary import ImageSummary

pytestmark = [pytest.mark.dask, pytest.mark.slow]

SLOW_START = 6.0
"""Longer than any time-out that is in use: 5 s was one."""


def test_an_image_that_kills_workers_is_quarantined_however_long_they_take_to_start(tmp_path: Path) -> None:
    marker, output = tmp_path / "slow", tmp_path / "out"
    output.mkdir()
    (tmp_path / "slow_start.py").write_text(
        "import pathlib, time\n"
        "begun = time.monotonic()\n"
        f"while pathlib.Path({str(marker)!r}).exists() and time.monotonic() < begun + {SLOW_START}:\n"
        "    time.sleep(0.05)\n"
    )

    def work(rows: Sequence[int], output: str) -> list[Any]:
        for row in rows:
            if row == 2:
                os._exit(1)
            (Path(output) / str(row)).touch()
        return [SimpleNamespace(status="done", wall_seconds=0.01, n_sources=1) for _ in rows]

    told: dict[int, ImageSummary] = {}
    settings = {
        "distributed.scheduler.allowed-failures": 0,
        "distributed.worker.preload": [str(tmp_path / "slow_start.py")],
    }
    with dask.config.set(settings), open_cluster(LocalConfig(n_workers=1)) as opened:
        marker.touch()
        result = drive(
            opened.client, jobs(5), str(output), images_per_task=1, work=work,
            listener=lambda rows, summaries: told.update(zip(rows, summaries, strict=True)),
        )  # fmt: skip
        marker.unlink()
    assert (result.n_done, result.failed, result.stopped) == (4, {2: False}, "")
    assert told[2].quarantined
    assert sorted(int(path.name) for path in output.iterdir()) == [0, 1, 3, 4]


def test_a_campaign_on_a_cluster_of_ones_own_quarantines_it_too(
    make_campaign: Callable[..., Campaign], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dask would close the nanny after a second here, while it starts the worker again."""
    (tmp_path / "slow_start.py").write_text("import time\ntime.sleep(3)\n")
    campaign = make_campaign(images_per_task=1)
    campaign.plan()
    stamp = FileIdentity.of(campaign.layout.plan).size_and_time

    output = str(campaign.layout.root)

    def work(rows: Sequence[int]) -> list[Any]:
        from skygraft.execution.task import run_task

        if 2 in rows:
            os._exit(1)
        return run_task(rows, output, stamp)

    settings = {
        "distributed.scheduler.allowed-failures": 0,
        "distributed.deploy.lost-worker-timeout": "1s",
        "distributed.worker.preload": [str(tmp_path / "slow_start.py")],
    }
    with (
        dask.config.set(settings),
        LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        monkeypatch.setattr(CampaignRun, "work", lambda self: work)
        summary = campaign.run(client)
    # A result that was lost with its worker is found to be done when it is asked for again.
    assert (summary.n_done + summary.n_skipped, summary.n_quarantined, summary.stopped) == (3, 1, "")
    status = campaign.status()
    assert (status.n_quarantined, status.n_remaining) == (1, 0)
    assert [failure.quarantined for failure in status.failures] == [True]


def drive_until(event: threading.Event, client: Client, output: Path, watch: ClusterWatch) -> DriveResult:
    """Run tasks that last; the first to begin sets the event."""

    def work(rows: Sequence[int], output: str) -> list[Any]:
        (Path(output) / str(rows[0])).touch()
        time.sleep(600)
        return []

    def look() -> None:
        if any(output.iterdir()):
            event.set()

    return drive(client, jobs(3), str(output), images_per_task=1, work=work, look=look, watch=watch)


def test_a_run_whose_workers_are_gone_for_good_ends_and_says_why(tmp_path: Path) -> None:
    begun, said = threading.Event(), []
    with open_cluster(LocalConfig(n_workers=1)) as opened:
        cluster = opened.client.cluster

        def end_nannies() -> None:
            begun.wait()
            for nanny in list(cluster.workers.values()):
                cluster.sync(nanny.close, timeout=1.0)

        ending = threading.Thread(target=end_nannies)
        ending.start()
        watch = ClusterWatch(opened.client, outlook=opened.outlook, say=said.append)
        result = drive_until(begun, opened.client, tmp_path, watch)
        ending.join()
        assert result.stopped.startswith("no worker is left, and none can come: the processes that start workers")
        assert result.n_done == 0

        def double(item: int) -> int:
            return 2 * item

        # So does what comes after the images.
        with pytest.raises(CampaignError, match=r"no worker is left, and none can come.*run the campaign again"):
            list(map_items(opened.client, double, [1, 2], watch=watch))


def test_where_nobody_knows_whether_workers_come_the_wait_is_bounded(tmp_path: Path) -> None:
    begun, said = threading.Event(), []
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster.scheduler_address, set_as_default=False) as client,
    ):

        def leave() -> None:
            begun.wait()
            cluster.sync(next(iter(cluster.workers.values())).close, timeout=1.0)

        leaving = threading.Thread(target=leave)
        leaving.start()
        watch = ClusterWatch(client, patience=Patience(report=0.5, stuck=3.0), say=said.append)
        result = drive_until(begun, client, tmp_path, watch)
        leaving.join()
    assert result.stopped.startswith("there has been no worker for ")
    assert any(text.startswith("there is no worker: ") for text in said)


IN_BYTES = {
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.terminate": False,
    "distributed.worker.memory.pause": 0.6,
    "distributed.worker.memory.monitor-interval": "50ms",
}


def test_a_worker_held_at_its_memory_limit_is_started_anew_and_the_run_goes_on(tmp_path: Path) -> None:
    """Its first image leaves 900 MB behind; the others would wait for ever."""

    def work(rows: Sequence[int], output: str) -> list[Any]:
        if rows[0] == 0:
            import builtins

            builtins.ballast = bytearray(b"x") * 900_000_000  # type: ignore[attr-defined]
            time.sleep(0.5)
        (Path(output) / str(rows[0])).touch()
        return [SimpleNamespace(status="done", wall_seconds=0.01, n_sources=1) for _ in rows]

    said: list[str] = []
    with (
        dask.config.set(IN_BYTES),
        LocalCluster(
            n_workers=1, threads_per_worker=1, memory_limit="1.2GB", dashboard_address="127.0.0.1:0"
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        watch = ClusterWatch(client, patience=Patience(report=2.0, paused=1.0), say=said.append)
        result = drive(
            client, jobs(4), str(tmp_path), images_per_task=1, work=work, watch=watch
        )  # fmt: skip
    assert (result.n_done, result.failed, result.stopped) == (4, {}, "")
    assert any("paused at the memory limit" in text and "restarting" in text for text in said)


def test_a_scheduler_that_hangs_is_said_and_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its connections stay, so that nothing else tells."""
    monkeypatch.setattr("skygraft.clusters.cluster_watch._ANSWER_SECONDS", 0.3)

    async def hang(*args: Any, **kwargs: Any) -> None:
        await asyncio.sleep(3600)

    said: list[str] = []
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        watch = ClusterWatch(client, patience=Patience(stuck=1.0), say=said.append)
        cluster.scheduler.handlers["ncores"] = hang
        with pytest.raises(CampaignError, match=r"scheduler has not answered for 1 s\. .*run the campaign again"):
            for _ in range(1000):
                assert watch.check(3) == ""
    assert said[0].startswith("the Dask scheduler has not answered for ")
