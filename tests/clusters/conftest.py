"""A Slurm of one node, for as long as the tests of this folder take; and the small campaigns."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from kits.campaign_fixtures import expected, kit, make_campaign, pristine, survey

HERE = Path(__file__).parent
NEEDED = ("sbatch", "squeue", "scancel", "slurmctld", "slurmd", "munged")

__all__ = ["expected", "kit", "make_campaign", "pristine", "survey"]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def run(*command: str, check: bool = True, timeout: float = 300) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    assert done.returncode == 0 or not check, f"{' '.join(command)}: {done.stderr}"
    return done.stdout


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """A Slurm of one node that can be told from any other by its ``SLURM_CONF``, which is set."""
    missing = [command for command in NEEDED if shutil.which(command) is None]
    if missing:
        pytest.skip(f"Slurm is not installed ({', '.join(missing)} not found); see {HERE / 'one_node_slurm.sh'}")
    if os.geteuid() != 0:
        pytest.skip("slurmd needs root")
    folder = tmp_path_factory.mktemp("slurm")
    ports = {"SLURMCTLD_PORT": str(free_port()), "SLURMD_PORT": str(free_port())}
    script = str(HERE / "one_node_slurm.sh")
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("SLURM_", "SBATCH_"))]:
            patch.delenv(name)
        patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
        try:
            subprocess.run([script, "start", str(folder)], env=os.environ | ports, check=True, timeout=300)
            yield SimpleNamespace(
                folder=folder,
                run=run,
                jobs=lambda: run("squeue", "--noheader", "--format=%i %T").split("\n")[:-1],
                numbers=lambda state="RUNNING": run("squeue", "--noheader", f"--states={state}", "--format=%i").split(),
            )
        finally:
            subprocess.run([script, "stop", str(folder)], check=True, timeout=300)


@pytest.fixture
def profile(tmp_path: Path) -> Callable[..., Path]:
    """Write the profile of a cluster of small jobs on this machine; keywords change it."""

    def write(**changes: object) -> Path:
        import yaml

        path = tmp_path / "profile.yaml"
        settings = {
            "kind": "slurm", "n_workers": 2, "cores": 1, "memory": "900MiB", "walltime": "00:10:00", "interface": "lo",
            "scheduler_options": {"host": "127.0.0.1"},
        }  # fmt: skip
        path.write_text(yaml.safe_dump(settings | changes))
        return path

    return write
