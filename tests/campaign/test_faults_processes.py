"""Processes that die: workers, drivers and schedulers of real clusters, killed while they work, and run again."""

from __future__ import annotations

import random
import re
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from kits.faults_kit import (
    N_IMAGES,
    Cluster,
    Command,
    Scene,
    Undisturbed,
    differences,
    held,
    scene,
    soak,
    undisturbed,
    wait_for,
    workers_of,
)

pytestmark = [pytest.mark.dask, pytest.mark.slow]


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A folder on disk, whatever those of other tests are: what goes to memory is done before it can be caught."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return undisturbed(tmp_path_factory.getbasetemp())[0]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    return undisturbed(tmp_path_factory.getbasetemp())[1]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("cluster")) as made:
        yield made


@pytest.fixture
def campaign(pristine: Path, tmp_path: Path) -> Iterator[Scene]:
    with scene(pristine, tmp_path) as made:
        yield made


def harass(driver: Command, victims: Callable[[], list[psutil.Process]], made: Scene, kills: int, seed: int) -> int:
    """Kill workers at random until there were enough kills, or the driver ended; every second one while it writes."""
    rng = random.Random(seed)
    killed = 0
    while killed < kills:
        enough = made.n_records() + rng.randrange(1, 4)

        def happened() -> bool:
            return made.n_records() >= enough and (killed % 2 == 0 or bool(made.leftovers("images")))  # noqa: B023

        with held(driver, victims, 2, happened) as alive:
            if not alive:
                break
            writing = {int(path.name.split(".")[-3]) for path in made.leftovers("images")}
            guilty = [process for process in alive if process.pid in writing] if killed % 2 else alive
            if guilty:
                rng.choice(guilty).kill()
                killed += 1
    return killed


@pytest.mark.parametrize(("seed", "kills"), [(1, 3), *[pytest.param(seed, 8, marks=soak) for seed in range(2, 5)]])
def test_workers_killed_at_random_all_through_a_run(
    seed: int, kills: int, campaign: Scene, cluster: Cluster, expected: Undisturbed
) -> None:
    driver = campaign.start("run", "--scheduler", cluster.address, "--json")
    assert harass(driver, cluster.worker_processes, campaign, kills, seed) >= 3
    ended = driver.wait()
    assert ended.code == 0, ended.err
    assert ended.summary["n_failed"] == 0
    # Also what the killed ones were writing is gone.
    assert differences(campaign.out, expected) == []


@soak
def test_workers_of_the_driver_itself_killed_at_random(campaign: Scene, expected: Undisturbed) -> None:
    driver = campaign.start("run", "--workers", "2", "--json")
    assert harass(driver, lambda: workers_of(driver), campaign, 6, seed=9) >= 3
    ended = driver.wait()
    assert ended.code == 0, ended.err
    assert differences(campaign.out, expected) == []


@pytest.mark.parametrize(("seed", "kills"), [(1, 1), *[pytest.param(seed, 6, marks=soak) for seed in range(2, 4)]])
def test_a_driver_killed_again_and_again_is_resumed_by_the_same_command(
    seed: int, kills: int, campaign: Scene, cluster: Cluster, expected: Undisturbed
) -> None:
    out, rng = campaign.out, random.Random(seed)
    half_way = sorted(rng.sample(range(2, N_IMAGES - 4), kills))
    moments: list[Callable[[], object]] = [
        lambda: (out / "catalog").exists() and not (out / "plan.parquet").exists(),
        *[lambda n=n: campaign.n_records() >= n and campaign.leftovers("images") for n in half_way],
        lambda: (out / "truth").exists() and not (out / "provenance.json").exists(),
    ]
    for moment in moments:
        driver = campaign.start("run", "--scheduler", cluster.address)
        # It is held, too: what it does alone takes milliseconds.
        everybody = [*cluster.worker_processes(), psutil.Process(driver.pid)]
        with held(driver, lambda: everybody, 0, moment) as caught:  # noqa: B023
            assert caught, f"the driver ended before: {driver.wait()}"
            driver.send(signal.SIGKILL)
        assert driver.wait().code == -signal.SIGKILL, f"it ended before it could be killed: {driver.wait()}"
        if moment is moments[1]:
            for process in cluster.worker_processes():
                process.kill()
            # It died while it wrote a line, too.
            with (out / "ledger.jsonl").open("a") as handle:
                handle.write('{"time": "2026-')
    assert campaign.n_records() == N_IMAGES
    summary = campaign.finish(cluster.address)
    assert (summary.ok, summary.n_done, summary.n_skipped) == (True, 0, N_IMAGES)
    assert differences(out, expected) == []


@soak
def test_a_killed_driver_takes_its_own_workers_with_it(campaign: Scene, expected: Undisturbed) -> None:
    driver = campaign.start("run", "--workers", "2")
    wait_for(lambda: not driver.running or campaign.n_records() >= 3)
    workers = [process.pid for process in psutil.Process(driver.pid).children(recursive=True)]
    assert len(workers) >= 2
    driver.send(signal.SIGKILL)
    driver.wait()
    wait_for(lambda: not any(_lives(pid) for pid in workers), 20)
    assert campaign.n_records() < N_IMAGES
    # Nothing of it stands in the way of the next one, not even its lock.
    assert campaign.finish().ok
    assert differences(campaign.out, expected) == []


def _lives(pid: int) -> bool:
    # Whoever adopts a dead process may never ask for its exit code: then it stays as a zombie.
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_killed_scheduler_ends_the_run_with_a_message_and_a_new_one_resumes_it(
    campaign: Scene, cluster: Cluster, expected: Undisturbed, tmp_path: Path
) -> None:
    with Cluster(tmp_path / "doomed", 1) as doomed:
        driver = campaign.start("run", "--scheduler", doomed.address)
        with doomed.held(driver, lambda: campaign.n_records() >= 4):
            doomed.scheduler.send(signal.SIGKILL)
        ended = driver.wait(90)
    assert ended.code == 1, ended.err
    message = ended.err.partition("error: ")[2]
    assert re.search(r"scheduler.*run the campaign again", message, re.DOTALL), ended.err
    assert "Traceback" not in ended.err
    n_before = campaign.n_records()
    assert 4 <= n_before < N_IMAGES
    assert campaign.ledger()[-1]["event"] in ("image", "run_ended")
    summary = campaign.finish(cluster.address)
    assert summary.ok
    assert summary.n_skipped >= n_before
    assert differences(campaign.out, expected) == []


def _quiet(campaign: Scene) -> bool:
    """Whether nothing is being made."""
    before = campaign.n_records()
    time.sleep(0.5)
    return before == campaign.n_records() and not campaign.leftovers()


def test_signals_end_a_run_in_order_and_a_second_driver_is_refused(
    campaign: Scene, cluster: Cluster, expected: Undisturbed
) -> None:
    n_before = 0
    for number, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)):
        # One of them as a shell starts it.
        driver = campaign.start("run", "--scheduler", cluster.address, forked=number != signal.SIGTERM)
        with cluster.held(driver, lambda: campaign.n_records() >= n_before + 3):  # noqa: B023
            driver.send(number)
        ended = driver.wait(60)
        assert ended.code == code, ended.err
        said = ended.out + ended.err
        assert "again" in said, f"it does not say how to resume: {said}"
        assert "Traceback" not in said
        # What was flying was finished and noted, and nothing was begun after.
        wait_for(lambda: _quiet(campaign))
        n_before = campaign.n_records()
        assert n_before < N_IMAGES
        events = campaign.ledger()
        done = {event["image_id"] for event in events if event["event"] == "image" and event["status"] == "done"}
        assert len(done) == n_before
        assert events[-1]["event"] == "run_ended"

    driver = campaign.start("run", "--scheduler", cluster.address, "--json")
    with cluster.held(driver, lambda: campaign.n_records() > n_before):
        driver.send(signal.SIGSTOP)
    second = campaign.run("--workers", "0")
    driver.send(signal.SIGCONT)
    assert second.code == 1
    assert f"another process runs this campaign (process {driver.pid} " in second.err
    ended = driver.wait()
    assert ended.code == 0, ended.err
    assert (ended.summary["n_done"], ended.summary["n_skipped"]) == (N_IMAGES - n_before, n_before)
    assert differences(campaign.out, expected) == []
