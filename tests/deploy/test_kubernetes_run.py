"""The commands of the Kubernetes manifests, run on this machine with the settings and the keys that the pods get."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from distributed import Client

from kits.forked_commands import ForkedCommand
from kits.tiny_campaign import checksums, write_tiny_campaign

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"

pytestmark = [pytest.mark.dask, pytest.mark.slow]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture
def pods(tmp_path: Path) -> Iterator[SimpleNamespace]:
    """Run the commands of the pods; addresses and folders are those of this machine."""
    port, dashboard, worker, metrics = free_port(), free_port(), free_port(), free_port()
    subprocess.run([str(DEPLOY / "tls.sh"), str(tmp_path / "tls")], check=True, capture_output=True)
    (tmp_path / "etc-dask").mkdir()
    (tmp_path / "etc-skygraft").mkdir()

    def here(text: str) -> str:
        for there, instead in {
            "campaign-scheduler:8786": f"127.0.0.1:{port}",
            "--host=0.0.0.0": "--host=127.0.0.1",
            "--port=8786": f"--port={port}",
            "--dashboard-address=:8787": f"--dashboard-address=127.0.0.1:{dashboard}",
            "--dashboard-address=:8788": f"--dashboard-address=127.0.0.1:{worker}",
            "--local-directory=/tmp": f"--local-directory={tmp_path}",
            "http://127.0.0.1:8787": f"http://127.0.0.1:{dashboard}",
            '("", 8789)': f'("127.0.0.1", {metrics})',
            "/etc/dask": str(tmp_path / "etc-dask"),
            "/etc/skygraft-tls": str(tmp_path / "tls"),
            "/etc/skygraft": str(tmp_path / "etc-skygraft"),
            "/campaign/campaign.yaml": str(tmp_path / "work/campaign.yaml"),
            "$(DASK_WORKER_NAME)": "campaign-default-worker-1",
        }.items():
            text = text.replace(there, instead)
        return text

    for document in yaml.safe_load_all((DEPLOY / "kubernetes/dask-config.yaml").read_text()):
        folder = tmp_path / ("etc-dask" if document["metadata"]["name"] == "dask-config" else "etc-skygraft")
        for name, content in document["data"].items():
            (folder / name).write_text(here(content))
    job = yaml.safe_load((DEPLOY / "kubernetes/job.yaml").read_text())["spec"]
    specs: dict[str, Any] = {role: job["cluster"]["spec"][role]["spec"] for role in ("scheduler", "worker")}
    specs["driver"] = job["job"]["spec"]
    specs["metrics"] = {"containers": specs["scheduler"]["containers"][1:]}
    running: list[ForkedCommand | subprocess.Popen[bytes]] = []

    def start(role: str) -> ForkedCommand | subprocess.Popen[bytes]:
        command = [*map(here, specs[role]["containers"][0]["args"])]
        environ, log = {"DASK_CONFIG": str(tmp_path / "etc-dask")}, tmp_path / f"{role}.log"
        if command[0] in ("dask", "skygraft"):
            running.append(ForkedCommand(command, log, log, Path.cwd(), environ))
        else:
            command[0] = f"{sys.prefix}/bin/{command[0]}"
            with log.open("wb") as out:
                running.append(subprocess.Popen(command, env=os.environ | environ, stdout=out, stderr=out))
        return running[-1]

    yield SimpleNamespace(
        start=start,
        folder=tmp_path,
        address=f"127.0.0.1:{port}",
        http=f"http://127.0.0.1:{dashboard}",
        worker_http=f"http://127.0.0.1:{worker}",
        metrics_http=f"http://127.0.0.1:{metrics}",
    )
    for process in reversed(running):
        process.send_signal(signal.SIGTERM)
    for process in running:
        process.wait(timeout=300)


def get(url: str, seconds: float = 600) -> str:
    """What is at an address, once something is."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(url, timeout=60) as answer:
                return str(answer.read().decode())
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def test_a_campaign_runs_as_in_the_pods_and_nobody_is_let_in_without_the_key(pods: SimpleNamespace) -> None:
    write_tiny_campaign(pods.folder / "work", 3)
    scheduler, worker = pods.start("scheduler"), pods.start("worker")
    # What the probes ask.
    assert get(f"{pods.http}/health") == "ok"
    assert get(f"{pods.worker_http}/health") == "ok"
    # What the operator asks, which has no key.
    assert json.loads(get(f"{pods.http}/api/v1/adaptive_target"))["workers"] >= 0
    assert "dask_scheduler" in get(f"{pods.http}/metrics")
    # Nobody is let in without the key.
    with pytest.raises(OSError):
        Client(f"tcp://{pods.address}", timeout=3, set_as_default=False)

    # What Prometheus reaches: it cannot retire workers.
    pods.start("metrics")
    assert "dask_scheduler" in get(f"{pods.metrics_http}/metrics")
    for path in ("/api/v1/get_workers", "/status", "/json/counts.json", "/metrics/../api/v1/get_workers"):
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"{pods.metrics_http}{path}", timeout=300)
    with pytest.raises(urllib.error.HTTPError, match="501"):
        urllib.request.urlopen(f"{pods.metrics_http}/api/v1/retire_workers", data=b'{"n": 1}', timeout=300)

    driver = pods.start("driver")
    assert driver.wait(timeout=1800) == 0, (pods.folder / "driver.log").read_text()
    assert len(checksums(pods.folder / "work")) == 6  # three images and their masks
    assert 'skygraft_campaign_images_made_total{campaign="tiny"} 3' in get(f"{pods.metrics_http}/metrics")
    # The cluster belongs to others: the driver leaves it as it is.
    assert scheduler.poll() is None
    assert worker.poll() is None
    names = [w["name"] for w in json.loads(get(f"{pods.http}/api/v1/get_workers"))["workers"]]
    assert names == ["campaign-default-worker-1"]  # the name of its pod, by which it is retired
