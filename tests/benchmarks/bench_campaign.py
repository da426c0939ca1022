"""A campaign on real images, with one worker process and with two: how much faster, and what workers do all the time.

Run it: ``uv run python tests/benchmarks/bench_campaign.py``. It replicates ``video_H`` of the reference data
(SKYGRAFT_DATA, else ``../shared/data``) under new names, runs ``examples/video_H`` on that with 1 and 2 workers in
turn, and prints the median of each figure. Times are those of the machine: it should have nothing else to do.

Of a worker's time, from the first task of a run to the last, is told how much of it went into the images' own stages
(their records say), how much into the rest of a task, and how much a worker stood idle. The start of a cluster and the
first import on its workers are told apart. What the machine itself allows is measured too: the same images in as many
plain processes, without scheduler or driver.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import yaml
from distributed import Client

from skygraft.campaign import Campaign
from skygraft.clusters.cluster import open_cluster
from skygraft.config.cluster_kinds import LocalConfig
from skygraft.disk import FileIdentity
from skygraft.execution.task import run_task
from skygraft.records.packs import file_names, read_file
from skygraft.records.plan_file import Plan

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "video_H"
_STAGES = ("read", "select", "inject", "closure", "write", "checksum")
_IO_AND_INJECT = ("read", "inject", "write")


def replicate(data: Path, target: Path, n_images: int) -> None:
    """Copies of the four images under exposure numbers of their own, with links to all that belongs to them."""
    target.mkdir(parents=True)
    sources = sorted(data.glob("image_?.fits"))
    if not sources:
        raise SystemExit(f"no images in {data}; set SKYGRAFT_DATA to the folder of the reference data")
    for number in range(n_images):
        source = sources[number % len(sources)]
        for path in data.glob(f"{source.stem}.*"):
            copy = target / path.name.replace(source.stem, f"image_{number:04}", 1)
            if path == source:
                copy.write_bytes(_renumbered(path.read_bytes(), 100_000 + number))
            else:
                copy.symlink_to(path)


def _renumbered(content: bytes, exposure: int) -> bytes:
    """A VIRCAM image with another exposure number, which is what tells images apart; not a pixel is touched."""
    card = b"HIERARCH ESO DET EXP NO "
    start = content.index(card)
    new = f"{card.decode()}= {exposure}".ljust(80).encode()
    return content[:start] + new + content[start + 80 :]


def configure(survey: Path, output: Path) -> Campaign:
    """The example's campaign on a replicated survey."""
    content = yaml.safe_load((EXAMPLE / "campaign.yaml").read_text())
    content["survey"] |= {"root": str(survey), "images": "image_????.fits"}
    content["catalog"]["path"] = str(EXAMPLE / "fakes.ecsv")
    content["output"] = str(output)
    path = survey.parent / f"{output.name}.yaml"
    path.write_text(yaml.safe_dump(content))
    return Campaign.from_yaml(path)


def _tasks(client: Client) -> list[dict[str, Any]]:
    """Every task that ran: begin and end of its computing, and its kind."""
    found = []
    for task in client.get_task_stream(count=100_000):
        for piece in task["startstops"]:
            if piece["action"] == "compute":
                found.append({"kind": str(task["key"]).split("-")[0], "start": piece["start"], "stop": piece["stop"]})
    return found


def _warm(number: int) -> int:
    """Import what draws, as the first task of a worker would."""
    import skygraft.execution.task  # noqa: F401

    time.sleep(0.5)  # so that every worker gets one
    return number


def once(survey: Path, output: Path, n_workers: int) -> dict[str, float]:
    """One run on a cluster of its own; figures by name."""
    campaign = configure(survey, output)
    campaign.plan()
    begin = time.perf_counter()
    with open_cluster(LocalConfig(n_workers=n_workers)) as cluster:
        client = cluster.client
        client.wait_for_workers(n_workers)
        client.get_task_stream(count=1)  # from now on it is kept
        client.gather(client.map(_warm, range(n_workers), pure=False, key="warm"))
        ready = time.perf_counter()
        me = psutil.Process()
        cpu = sum(me.cpu_times()[:2])
        summary = campaign.run(client)
        run = time.perf_counter() - ready
        cpu = sum(me.cpu_times()[:2]) - cpu
        tasks = [task for task in _tasks(client) if task["kind"] != "_warm"]
    if not summary.ok:
        raise SystemExit(str(summary))
    stages: Counter[str] = Counter()
    for folder in campaign.layout.records.glob("tract=*/patch=*"):
        for record in (folder / name for name in file_names(folder) if name.endswith(".json")):
            for name, times in json.loads(read_file(record))["timings"].items():
                stages[name] += times["wall"]
    making = [task for task in tasks if task["kind"] == "inject"]
    busy = sum(task["stop"] - task["start"] for task in making)
    span = max(task["stop"] for task in making) - min(task["start"] for task in making)
    available = span * n_workers
    useful = sum(stages[name] for name in _IO_AND_INJECT)
    n_images = summary.n_images
    return {
        "run_seconds": run,
        "images_seconds": span,
        "images_per_second": n_images / span,
        "start_seconds": ready - begin,
        "inject_and_io_share": useful / available,
        "inject_and_io_share_of_tasks": useful / busy,
        "stages_share": sum(stages.values()) / available,
        "idle_share": 1 - busy / available,
        "tables_seconds": sum(task["stop"] - task["start"] for task in tasks if task["kind"] != "inject"),
        "driver_cpu_ms_per_image": 1000 * cpu / n_images,
        "tasks": float(len(making)),
        **{f"{name}_ms_per_image": 1000 * stages[name] / n_images for name in _STAGES},
    }


def without_dask(survey: Path, output: Path, n_processes: int) -> float:
    """Seconds for the images in plain processes, each with its share of them."""
    campaign = configure(survey, output)
    campaign.plan()
    stamp = FileIdentity.of(campaign.layout.plan).size_and_time
    n_images = len(Plan(campaign.layout.plan))
    context = multiprocessing.get_context("spawn")
    ready = context.Barrier(n_processes + 1)
    shares = [range(i * n_images // n_processes, (i + 1) * n_images // n_processes) for i in range(n_processes)]
    processes = [
        context.Process(target=_make_share, args=(ready, list(rows), str(campaign.layout.root), stamp))
        for rows in shares
    ]
    for process in processes:
        process.start()
    ready.wait()
    begin = time.perf_counter()
    for process in processes:
        process.join()
    took = time.perf_counter() - begin
    if any(process.exitcode for process in processes):
        raise SystemExit("a process failed")
    return took


def _make_share(ready: Any, rows: list[int], output: str, stamp: tuple[int, int]) -> None:
    import skygraft.execution.task  # noqa: F401

    ready.wait()
    if any(summary.status != "done" for summary in run_task(rows, output, stamp)):
        sys.exit(1)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--workers", type=int, nargs=2, default=(1, 2), metavar="N")
    parser.add_argument("--folder", type=Path, help="where to work; a temporary folder by default")
    parser.add_argument("--require-speed-up", type=float, default=0.0, help="exit code 1 below this")
    given = parser.parse_args()
    data = Path(os.environ.get("SKYGRAFT_DATA") or ROOT.parent / "shared" / "data") / "video_H"
    found: dict[int, list[dict[str, float]]] = {n: [] for n in given.workers}
    print(f"load before {os.getloadavg()[0]:.2f}, cores {len(os.sched_getaffinity(0))}")
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        survey = Path(folder) / "survey"
        replicate(data, survey, given.images)
        for repeat in range(given.repeats):
            for n_workers in given.workers:
                output = Path(folder) / f"out-{n_workers}-{repeat}"
                found[n_workers].append(once(survey, output, n_workers))
                print(f"  {n_workers} workers: {found[n_workers][-1]['run_seconds']:.1f} s", flush=True)
                shutil.rmtree(output)
                found[n_workers][-1]["without_dask_seconds"] = without_dask(survey, output, n_workers)
                shutil.rmtree(output)
    print(f"load after {os.getloadavg()[0]:.2f}")
    median = {n: {name: statistics.median(r[name] for r in runs) for name in runs[0]} for n, runs in found.items()}
    few, many = given.workers
    print(f"{'':32}{few:>10}{many:>10}")
    for name in median[few]:
        print(f"{name:32}{median[few][name]:10.3f}{median[many][name]:10.3f}")
    speed_up = median[few]["run_seconds"] / median[many]["run_seconds"]
    print(f"speed_up {speed_up:.3f}")
    print(f"speed_up_without_dask {median[few]['without_dask_seconds'] / median[many]['without_dask_seconds']:.3f}")
    print(f"speed_up_of_images {median[few]['images_seconds'] / median[many]['images_seconds']:.3f}")
    return int(speed_up < given.require_speed_up)


if __name__ == "__main__":
    sys.exit(main())
