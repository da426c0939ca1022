"""Campaigns on a real HTCondor pool of one machine, built in a Debian chroot: on demand, for it takes minutes.

    SKYGRAFT_TEST_HTCONDOR=1 pytest tests/clusters/test_htcondor.py

needs root, debootstrap and Debian's packages. The chroot is kept in ``SKYGRAFT_TEST_HTCONDOR_DIR``, by default
/var/tmp/skygraft-htcondor, for the next time.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from kits.tiny_campaign import checksums, write_tiny_campaign

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = Path(__file__).with_name("htcondor_pool.sh")
SITE = """\
kind: htcondor
n_workers: 2
cores: 1
memory: 1GiB
disk: 100MiB
walltime: 1h
interface: lo
"""

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.slow,
    pytest.mark.skipif(
        os.environ.get("SKYGRAFT_TEST_HTCONDOR") != "1", reason="set SKYGRAFT_TEST_HTCONDOR=1 to build a pool (minutes)"
    ),
]


@pytest.fixture(scope="module")
def pool() -> Iterator[SimpleNamespace]:
    """A running pool, and functions to use it."""
    if os.geteuid() != 0:
        pytest.skip("building a pool needs root")
    chroot = Path(os.environ.get("SKYGRAFT_TEST_HTCONDOR_DIR", "/var/tmp/skygraft-htcondor"))

    def script(verb: str, *arguments: str, timeout: float = 900, check: bool = True) -> str:
        command = [str(SCRIPT), verb, str(chroot), *arguments]
        result = subprocess.run(command, check=False, capture_output=True, text=True, timeout=timeout)
        assert result.returncode == 0 or not check, result.stdout + result.stderr
        return result.stdout + ("" if check else result.stderr)

    script("build")
    # The Python and the packages of these tests, where they are.
    script("up", *sorted({str(ROOT), sys.prefix, sys.base_prefix}))
    try:
        yield SimpleNamespace(
            chroot=chroot, run=lambda *words, **options: script("run", *words, **options), bin=Path(sys.prefix) / "bin"
        )
    finally:
        script("down")


@pytest.fixture
def place(pool: SimpleNamespace) -> Iterator[SimpleNamespace]:
    """A folder in the pool that the pool's user owns: as it is called here, and there."""
    there = Path("/home/tester") / f"work-{os.getpid()}-{time.monotonic_ns()}"
    here = Path(f"{pool.chroot}{there}")
    here.mkdir()

    def hand_over() -> None:
        owner = (pool.chroot / "home/tester").stat()
        for path in [here, *here.rglob("*")]:
            os.chown(path, owner.st_uid, owner.st_gid)

    (here / "site.yaml").write_text(SITE)
    yield SimpleNamespace(here=here, there=there, hand_over=hand_over)
    shutil.rmtree(here)


def jobs(pool: SimpleNamespace) -> list[str]:
    """The jobs that are in the queue, with their state."""
    return str(pool.run("condor_q", "-autoformat", "ClusterId", "JobStatus", "Cmd")).splitlines()


def until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not after {seconds} s"
        time.sleep(0.5)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], dict[str, str]]:
    """Checksums of a campaign of so many images, made one after the other in one process."""

    def make(n_images: int) -> dict[str, str]:
        folder = tmp_path_factory.mktemp("serial")
        command = [f"{sys.prefix}/bin/skygraft", "run", str(write_tiny_campaign(folder, n_images)), "--workers", "0"]
        subprocess.run(command, check=True, capture_output=True)
        return checksums(folder)

    return make


def test_a_campaign_on_jobs_of_the_pool(
    pool: SimpleNamespace, place: SimpleNamespace, expected: Callable[[int], dict[str, str]]
) -> None:
    write_tiny_campaign(place.here, 12, images_per_task=2)
    place.hand_over()
    pool.run(
        str(pool.bin / "skygraft"), "run", f"{place.there}/campaign.yaml", "--cluster", f"{place.there}/site.yaml",
        timeout=600,
    )  # fmt: skip
    assert checksums(place.here) == expected(12)
    assert jobs(pool) == []
    logs = list((place.here / "out" / "logs").glob("worker-*"))
    assert logs  # it was jobs that made them
    # Keys do not stay behind.
    assert not list((place.here / "out").rglob("*.pem"))


def test_the_driver_as_a_job_is_stopped_cleanly_and_resumes(
    pool: SimpleNamespace, place: SimpleNamespace, expected: Callable[[int], dict[str, str]]
) -> None:
    write_tiny_campaign(place.here, 150, images_per_task=1)
    shutil.copy(ROOT / "deploy/htcondor/driver.sub", place.here)
    place.hand_over()
    settings = f"venv={sys.prefix} campaign=campaign.yaml profile=site.yaml"
    submit = f"cd {place.there} && condor_submit driver.sub {settings}"

    pool.run("bash", "-c", submit)
    until(lambda: len(checksums(place.here)) > 2, 300, "first images")
    assert any("skygraft" in job for job in jobs(pool))
    pool.run("condor_rm", "-all")
    until(lambda: jobs(pool) == [], 120, "all jobs gone")
    (output,) = place.here.glob("skygraft-driver.*.err")
    some = checksums(place.here)
    assert 0 < len(some) < 300, output.read_text()
    # It was asked to stop and did, rather than being killed.
    assert "run the campaign again to make those that remain" in output.with_suffix(".out").read_text()

    pool.run("bash", "-c", submit)
    until(lambda: jobs(pool) == [], 400, "resumed campaign")
    assert checksums(place.here) == expected(150)
