"""Campaigns on a real Slurm: submitted, encrypted, cancelled, timed out; always the same bytes, never a job left."""

from __future__ import annotations

import datetime
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from skygraft.campaign import Campaign, NoReporter
from skygraft.clusters.cluster import open_cluster
from skygraft.config.cluster import load_profile
from skygraft.errors import CampaignError

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

type MakeCampaign = Callable[..., Campaign]
type Profile = Callable[..., Path]

SKYGRAFT = str(Path(sys.executable).with_name("skygraft"))


@pytest.fixture(autouse=True)
def tidy(slurm: Any) -> Iterator[None]:
    """No test leaves a job behind."""
    yield
    left = within(600, lambda: not slurm.jobs())
    jobs = slurm.jobs()
    for job in jobs:
        slurm.run("scancel", job.split()[0], check=False)
    assert left, f"jobs left behind: {jobs}"


def within(seconds: float, condition: Callable[[], Any]) -> Any:
    """What a condition gives once it holds; a Slurm too busy to answer has not said that it does."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            value = condition()
        except subprocess.TimeoutExpired:
            value = None
        if value or time.monotonic() >= deadline:
            return value
        time.sleep(0.1)


def cluster_of(path: Path) -> dict[str, Any]:
    return load_profile(path).model_dump(mode="json")


def events(campaign: Campaign, name: str) -> list[dict[str, Any]]:
    lines = campaign.layout.ledger.read_text().splitlines() if campaign.layout.ledger.exists() else []
    return [event for event in map(json.loads, lines) if event["event"] == name]


def test_a_campaign_by_its_profile(
    slurm: Any, make_campaign: MakeCampaign, survey: Path, profile: Profile, expected: dict[str, str], kit: Any
) -> None:
    campaign = make_campaign(images_per_task=1)
    # As on the nodes of a cluster: workers come by another address than that of the dashboard.
    site = profile(scheduler_options={"host": "127.0.0.2"})
    command = [SKYGRAFT, "run", str(survey / "campaign.yaml"), "--cluster", str(site), "--json"]
    said: list[str] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None and run.stderr is not None
        for line in run.stderr:
            said.append(line)
            if address := re.search(r"Dask dashboard: (http://127\.0\.0\.1:\d+/status) on (\S+);", line):
                # Told while there is a worker, so it is listened on.
                with urllib.request.urlopen(address[1], timeout=100) as answer:
                    assert answer.status == 200
                assert address[2] == socket.gethostname()
                break
        assert address, said
        summary, rest = run.communicate(timeout=1800)
    assert run.returncode == 0, (said, rest)
    assert json.loads(summary)["n_done"] == 4
    assert kit.checksums(campaign.layout.root) == expected
    # What a worker printed: it spoke to the scheduler in private; keys are gone with the run.
    logs = campaign.layout.root / "logs"
    printed = "".join(path.read_text() for path in logs.glob("skygraft-*.err"))
    assert "tls://127.0.0.2" in printed
    assert "tcp://" not in printed
    assert not list(logs.glob(".tls-*"))


@pytest.fixture
def watched_closely(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs of this process are looked at, missed and replaced at once, not after tens of seconds."""
    for name, value in {"_LIST_SECONDS": 0.5, "_GRACE_SECONDS": 0.5, "_FIRST_PAUSE": 0.1}.items():
        monkeypatch.setattr(f"skygraft.clusters.jobs.{name}", value)


def test_a_cancelled_job_is_replaced(
    slurm: Any,
    make_campaign: MakeCampaign,
    profile: Profile,
    expected: dict[str, str],
    kit: Any,
    watched_closely: None,
) -> None:
    """The only worker's job is cancelled in the middle; only one that takes its place can finish."""
    killed: list[str] = []

    class Cancels(NoReporter):
        def images(self, summaries: Any) -> None:
            if not killed:
                killed.extend(slurm.numbers())
                slurm.run("scancel", *killed)

    # One image after the other: the next is not asked for while the first is told of.
    campaign = make_campaign(images_per_task=1, cluster=cluster_of(profile(n_workers=1)))
    summary = campaign.run(reporter=Cancels())
    assert summary.ok, summary
    assert len(killed) == 1
    # One that was finished when its worker was killed is found finished.
    assert summary.n_done + summary.n_skipped == 4
    assert kit.checksums(campaign.layout.root) == expected
    logs = {path.name for path in (campaign.layout.root / "logs").glob("skygraft-*.err")}
    assert len(logs) == 2


def test_the_driver_as_a_job_whose_walltime_ends(
    slurm: Any, make_campaign: MakeCampaign, survey: Path, tmp_path: Path, profile: Profile, kit: Any
) -> None:
    """Slurm ends the driver in the middle; the same command, given again, does the rest."""
    for visit in range(600, 606):
        for i, (ra, dec) in enumerate(kit.CENTRES):
            kit.write_image(survey / f"raw/v{visit}/image-{visit}-{i}.fits", ra, dec, visit, i)
    alone = make_campaign(output="../alone")
    assert alone.run(n_workers=0).ok
    wanted = kit.checksums(alone.layout.root)
    campaign = make_campaign(images_per_task=1)
    script = tmp_path / "driver.sh"
    script.write_text(
        "#!/bin/bash\n"
        f"exec {SKYGRAFT} run {survey / 'campaign.yaml'} --cluster {profile(n_workers=1)}\n"
    )  # fmt: skip
    submit = ["sbatch", "--parsable", "--cpus-per-task=1", "--mem=900", "--time=10"]
    job = slurm.run(*submit, f"--output={tmp_path}/first.log", str(script)).strip()
    assert within(1920, lambda: events(campaign, "image")), (tmp_path / "first.log").read_text()
    # Slurm looks at walltimes twice a minute: until then the worker must not finish everything.
    [worker] = [number for number in slurm.numbers() if number != job]
    slurm.run("scontrol", "suspend", worker)
    try:
        end = datetime.datetime.now() + datetime.timedelta(seconds=1)
        slurm.run("scontrol", "update", f"JobId={job}", f"EndTime={end:%Y-%m-%dT%H:%M:%S}")
        assert within(720, lambda: "JobState=RUNNING" not in slurm.run("scontrol", "show", "job", job))
    finally:
        slurm.run("scontrol", "resume", worker)
    # Its worker's job ends with it.
    assert within(960, lambda: not slurm.jobs()), slurm.jobs()
    assert "TIMEOUT" in slurm.run("scontrol", "show", "job", job)
    first = len(events(campaign, "image"))
    assert 0 < first < 28
    # `sbatch --wait` looks rarely, and ever more so.
    again = slurm.run(*submit, f"--output={tmp_path}/second.log", str(script)).strip()
    assert within(1800, lambda: not slurm.jobs()), slurm.jobs()
    assert "COMPLETED" in slurm.run("scontrol", "show", "job", again), (tmp_path / "second.log").read_text()
    assert kit.checksums(campaign.layout.root) == wanted
    runs = events(campaign, "run_ended")
    assert runs[-1]["n_done"] <= 28 - first


def test_a_partition_that_does_not_exist(slurm: Any, tmp_path: Path, profile: Profile) -> None:
    started = time.monotonic()
    with (
        pytest.raises(CampaignError, match=r"Slurm refuses the jobs: .*invalid partition") as caught,
        open_cluster(load_profile(profile(queue="nowhere")), logs=tmp_path),
    ):
        pass
    assert time.monotonic() - started < 600
    script = next(tmp_path.glob("job-*.sh"))
    assert str(script) in str(caught.value)
    assert "#SBATCH -p nowhere" in script.read_text()


def test_a_job_that_cannot_start_its_worker(
    slurm: Any, tmp_path: Path, profile: Profile, watched_closely: None
) -> None:
    """What it printed is shown; nobody waits for ever."""
    config = load_profile(profile(n_workers=1, prologue=["echo the module is gone >&2", "exit 3"]))
    with (
        pytest.raises(CampaignError, match=r"(?s)3 jobs ended before their worker came.*the module is gone"),
        open_cluster(config, logs=tmp_path),
    ):
        pass


def test_no_worker_in_time(slurm: Any, tmp_path: Path, profile: Profile) -> None:
    """The job asks for what no node has free now; Slurm's own words say why it waits."""
    blocker = slurm.run("sbatch", "--parsable", "--exclusive", "--output=/dev/null", "--wrap=sleep 3600").strip()
    try:
        assert within(600, lambda: blocker in slurm.numbers())
        monkey = load_profile(profile(start_timeout="6 s"))
        with (
            pytest.raises(CampaignError, match=r"no worker came within 6 s \(start_timeout\): .*"),
            open_cluster(monkey, logs=tmp_path),
        ):
            pass
    finally:
        slurm.run("scancel", blocker)


def test_no_server(slurm: Any, tmp_path: Path, profile: Profile, monkeypatch: pytest.MonkeyPatch) -> None:
    text = Path(os.environ["SLURM_CONF"]).read_text()
    lines = ["SlurmctldPort=9" if line.startswith("SlurmctldPort=") else line for line in text.splitlines()]
    (tmp_path / "slurm.conf").write_text("\n".join(lines) + "\n")
    started = time.monotonic()
    with monkeypatch.context() as patch:
        patch.setenv("SLURM_CONF", str(tmp_path / "slurm.conf"))
        with (
            pytest.raises(CampaignError, match=r"Slurm does not answer: .*Unable to contact slurm controller"),
            open_cluster(load_profile(profile()), logs=tmp_path / "logs"),
        ):
            pass
    assert time.monotonic() - started < 600


def test_inside_one_allocation(
    slurm: Any, make_campaign: MakeCampaign, survey: Path, expected: dict[str, str], kit: Any
) -> None:
    """Scheduler, driver and worker are the processes of one ``srun``."""
    campaign = make_campaign()
    command = ["srun", "--ntasks=3", "--overcommit", "--cpu-bind=none", "--mem=2500", "--kill-on-bad-exit=0"]
    command += [SKYGRAFT, "run", str(survey / "campaign.yaml"), "--cluster", "slurm-runner", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["n_done"] == 4
    assert "tls://" in done.stderr
    assert "tcp://" not in done.stderr
    assert kit.checksums(campaign.layout.root) == expected
    assert not list(campaign.layout.root.parent.glob(".*"))


def test_a_task_fits_into_the_walltime(profile: Profile) -> None:
    config = load_profile(profile())
    lifetime = config.lifetime(60.0)
    assert lifetime is not None
    assert lifetime + config.stagger() + 60.0 < 600
