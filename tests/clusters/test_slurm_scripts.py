"""The scripts of `deploy/slurm` on a real Slurm: a driver in a job, its end before its walltime, and one allocation."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from kits.tiny_campaign import checksums, write_tiny_campaign
from skygraft.campaign import Campaign

SCRIPTS = Path(__file__).resolve().parents[2] / "deploy" / "slurm"
N_IMAGES = 80
"""As many as are not made before a driver has heard that it shall stop."""

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


@pytest.fixture(autouse=True)
def tidy(slurm: SimpleNamespace) -> Iterator[None]:
    """No test leaves a job behind."""
    if not (Path(sys.prefix) / "bin" / "activate").exists():
        pytest.skip("these tests do not run in a virtual environment, which the scripts activate")
    yield
    for job in slurm.jobs():
        slurm.run("scancel", job.split()[0], check=False)
    until(lambda: not slurm.jobs(), "no job left")


def until(condition: Callable[[], object], what: str, seconds: float = 1800) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not after {seconds} s: {what}"
        time.sleep(0.2)


def submit(slurm: SimpleNamespace, script: str, campaign: Path, *options: str, **settings: str) -> str:
    """Submit a script as a person would; returns the job's number."""
    # A node's disk outlives a job, and with it the compiled code on it.
    scratch = slurm.folder / "scratch"
    scratch.mkdir(exist_ok=True)
    exported = {"SKYGRAFT_VENV": sys.prefix, "SKYGRAFT_SCRATCH": str(scratch), **settings}
    pairs = [f"{name}={value}" for name, value in exported.items()]
    command = ["sbatch", "--parsable", f"--chdir={campaign.parent}", *options]
    return str(
        slurm.run(*command, f"--export={','.join(['ALL', *pairs])}", str(SCRIPTS / script), str(campaign))
    ).strip()


def state(slurm: SimpleNamespace, job: str) -> str:
    """The job's state; one that has ended is remembered for some minutes."""
    found = re.search(r"JobState=(\w+)", slurm.run("scontrol", "show", "job", job))
    assert found
    return found[1]


def start_again(slurm: SimpleNamespace, job: str) -> None:
    """Do not wait for the two minutes that Slurm lets a requeued job rest."""
    until(lambda: state(slurm, job) == "PENDING", "the job is back in the queue")
    # The node remembers to the second when it took the job down, and starts it for no older permission.
    time.sleep(3)
    slurm.run("scontrol", "update", f"JobId={job}", "StartTime=now")


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Checksums of the campaign, made in this process."""
    folder = tmp_path_factory.mktemp("serial")
    assert Campaign.from_yaml(write_tiny_campaign(folder, N_IMAGES)).run(n_workers=0).ok
    return checksums(folder)


def test_the_driver_in_a_job_stops_before_its_walltime_and_goes_on_by_itself(
    slurm: SimpleNamespace, tmp_path: Path, profile: Callable[..., Path], expected: dict[str, str]
) -> None:
    campaign = write_tiny_campaign(tmp_path / "work", N_IMAGES, images_per_task=1)
    site = profile(n_workers=1, cores=1)
    job = submit(slurm, "driver.sbatch", campaign, "--cpus-per-task=1", "--mem=900M", SKYGRAFT_CLUSTER=str(site))
    log = campaign.parent / f"skygraft-driver-{job}.log"
    until(lambda: len(checksums(campaign.parent)) > 2, "some images are made")
    # What Slurm does by itself as long before the end as --signal says.
    slurm.run("scancel", "--batch", "--signal=USR1", job)
    start_again(slurm, job)
    until(lambda: "start 1 on" in log.read_text(), "the job starts for the second time")
    until(lambda: state(slurm, job) == "COMPLETED", "the campaign is finished")
    first, second = log.read_text().split("start 1 on")
    assert "the driver ended with 143" in first
    made, before = (
        int(re.findall(pattern, text)[0])
        for pattern, text in ((r"(\d+) images made", first), (r"(\d+) done before", second))
    )
    assert 0 < made <= before < N_IMAGES
    assert checksums(campaign.parent) == expected
    assert slurm.jobs() == []


def test_a_driver_that_is_cancelled_stays_away_and_takes_its_workers_along(
    slurm: SimpleNamespace, tmp_path: Path, profile: Callable[..., Path]
) -> None:
    campaign = write_tiny_campaign(tmp_path / "work", N_IMAGES, images_per_task=1)
    job = submit(
        slurm, "driver.sbatch", campaign, "--cpus-per-task=1", "--mem=900M", SKYGRAFT_CLUSTER=str(profile(n_workers=1))
    )
    until(lambda: checksums(campaign.parent), "an image is made")
    assert len(slurm.jobs()) == 2
    slurm.run("scancel", job)
    until(lambda: slurm.jobs() == [], "driver and worker are gone")
    assert state(slurm, job) == "CANCELLED"


def test_a_campaign_in_one_allocation(slurm: SimpleNamespace, tmp_path: Path, expected: dict[str, str]) -> None:
    campaign = write_tiny_campaign(tmp_path / "work", N_IMAGES, images_per_task=1)
    (campaign.parent / "runner.yaml").write_text("kind: slurm-runner\ninterface: lo\nmemory_limit: 900MiB\n")
    job = submit(slurm, "runner.sbatch", campaign, "--ntasks=3", "--mem-per-cpu=900M", SKYGRAFT_CLUSTER="runner.yaml")
    log = campaign.parent / f"skygraft-{job}.log"
    until(lambda: len(checksums(campaign.parent)) > 2, "some images are made")
    slurm.run("scancel", "--batch", "--signal=USR1", job)
    start_again(slurm, job)
    until(lambda: "start 1," in log.read_text(), "the job starts for the second time")
    assert len(checksums(campaign.parent)) < len(expected)
    until(lambda: state(slurm, job) == "COMPLETED", "the campaign is finished")
    assert checksums(campaign.parent) == expected
