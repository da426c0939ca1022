"""A campaign under a real mpirun: on demand, for it needs an MPI.

apt-get install -y --no-install-recommends openmpi-bin libopenmpi-dev && pip install dask-mpi mpi4py
SKYGRAFT_TEST_MPI=1 pytest tests/clusters/test_mpi.py
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kits.tiny_campaign import checksums, write_tiny_campaign

LAUNCH = Path(__file__).resolve().parents[2] / "deploy" / "mpi" / "launch.sh"

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.slow,
    pytest.mark.skipif(
        os.environ.get("SKYGRAFT_TEST_MPI") != "1", reason="set SKYGRAFT_TEST_MPI=1 where there is an mpirun"
    ),
]


@pytest.fixture(autouse=True)
def mpi() -> None:
    if shutil.which("mpirun") is None:
        pytest.skip("mpirun is not installed")
    pytest.importorskip("dask_mpi")
    pytest.importorskip("mpi4py")
    if not (Path(sys.prefix) / "bin" / "activate").exists():
        pytest.skip("these tests do not run in a virtual environment, which the script activates")


def launch(campaign: Path) -> subprocess.Popen[str]:
    """Start the campaign with the script of `deploy/`, on four ranks."""
    (campaign.parent / "mpi.yaml").write_text("kind: mpi\ninterface: lo\n")
    environ = os.environ | {
        "SKYGRAFT_CLUSTER": str(campaign.parent / "mpi.yaml"),
        "SKYGRAFT_VENV": sys.prefix,
        "SKYGRAFT_RANKS": "4",
        "SKYGRAFT_LAUNCH": "mpirun --oversubscribe --bind-to none",
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    }
    return subprocess.Popen(
        [str(LAUNCH), str(campaign)], env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def expected(folder: Path, n_images: int) -> dict[str, str]:
    """Checksums of the same campaign, made in one process."""
    path = write_tiny_campaign(folder, n_images)
    subprocess.run([f"{sys.prefix}/bin/skygraft", "run", str(path), "--workers", "0"], check=True, capture_output=True)
    return checksums(folder)


def test_a_campaign_on_ranks(tmp_path: Path) -> None:
    campaign = write_tiny_campaign(tmp_path / "mpi", 10, images_per_task=1)
    run = launch(campaign)
    output, _ = run.communicate(timeout=600)
    # It ends by itself: ranks that wait for each other at the end would not.
    assert run.returncode == 0, output
    assert "10 images made" in output
    assert "Campaign page: http://127.0.0.1:" in output
    assert checksums(tmp_path / "mpi") == expected(tmp_path / "serial", 10)
    # Two ranks are workers.
    assert output.count("images made") == 1


def test_a_launch_that_is_killed_resumes(tmp_path: Path) -> None:
    folder = tmp_path / "mpi"
    campaign = write_tiny_campaign(folder, 100, images_per_task=1)
    run = launch(campaign)
    deadline = time.monotonic() + 600
    while len(checksums(folder)) < 4:
        assert run.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    run.send_signal(signal.SIGTERM)
    run.communicate(timeout=120)
    assert run.returncode != 0
    again = launch(campaign)
    output, _ = again.communicate(timeout=600)
    assert again.returncode == 0, output
    assert checksums(folder) == expected(tmp_path / "serial", 100)


def processes(parent: int) -> list[int]:
    """The processes that a process has started and that are still there."""
    listed = Path(f"/proc/{parent}/task/{parent}/children").read_text()
    return [int(number) for number in listed.split()]


def rank_of(process: int) -> int:
    environ = dict(
        entry.split("=", 1) for entry in Path(f"/proc/{process}/environ").read_text().split("\0") if "=" in entry
    )
    return int(environ.get("OMPI_COMM_WORLD_RANK", -1))


def test_a_worker_that_dies_is_replaced_and_a_rank_that_dies_ends_the_launch(tmp_path: Path) -> None:
    """As the page says, with what it advises: run it again."""
    folder = tmp_path / "mpi"
    campaign = write_tiny_campaign(folder, 100, images_per_task=1)
    run = launch(campaign)

    def wait_for(n_files: int) -> None:
        deadline = time.monotonic() + 600
        while len(checksums(folder)) < n_files:
            assert run.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)

    wait_for(4)
    (rank,) = [process for process in processes(run.pid) if rank_of(process) == 3]
    # Its worker, and what that has brought along.
    for process in processes(rank):
        os.kill(process, signal.SIGKILL)
    wait_for(len(checksums(folder)) + 20)
    os.kill(rank, signal.SIGKILL)
    output, _ = run.communicate(timeout=120)
    assert run.returncode != 0, output
    assert "mpirun noticed that process rank 3" in output
    assert len(checksums(folder)) < 200
    output, _ = launch(campaign).communicate(timeout=600)
    assert checksums(folder) == expected(tmp_path / "serial", 100), output


def test_one_process_is_no_launch(tmp_path: Path) -> None:
    campaign = write_tiny_campaign(tmp_path, 1)
    command = [f"{sys.prefix}/bin/skygraft", "run", str(campaign), "--cluster", "mpi"]
    run = subprocess.run(command, check=False, capture_output=True, text=True)
    assert run.returncode == 1
    assert "mpirun -n 64 skygraft run" in run.stderr
