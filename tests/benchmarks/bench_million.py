"""A campaign of a million images that exist on paper only, through the real planner, runner, ledger and consolidation.

    uv run python tests/benchmarks/bench_million.py FOLDER --images 1000000

Planner, scheduler, two workers and driver are processes of their own, so that each one's time and memory are its own.
A worker makes a file, a truth table and a record for each image without reading or drawing anything; the tables and
packs are then made as always. How long does its status take? Then a hundredth of the records is removed, and the
campaign is run again: how long until it knows what is left?

Fewer images and sources lie on less of the sky, as densely, so that what they take a million take in proportion; each
part prints that too. Everything lies in FOLDER, which must be new: outputs of 20 kB an image, in four files until they
are packed.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import platform
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
from simulated import share_of_area, write_campaign

_SCHEDULER = "tcp://127.0.0.1:{port}"


def rehearse(rows: Sequence[int], output: str, stamp: tuple[int, int]) -> list[Any]:
    """What a worker does instead of drawing: the same files, the same order, no pixels."""
    with _no_syncs():  # of a million tiny files nothing would be left but these
        return _rehearse(rows, output, stamp)


@contextlib.contextmanager
def _no_syncs() -> Iterator[None]:
    sync, os.fsync = os.fsync, lambda _: None
    try:
        yield
    finally:
        os.fsync = sync


def _rehearse(rows: Sequence[int], output: str, stamp: tuple[int, int]) -> list[Any]:
    import pyarrow as pa

    from skygraft.config.campaign import load_config
    from skygraft.execution.task import _plan
    from skygraft.records.files import Layout, sha256_file
    from skygraft.records.image_record import PIXEL_VERSION, RECORD_VERSION, content_key, summarise, write_record
    from skygraft.tables.truth_parts import write_truth_part

    layout = Layout(Path(output))
    config = _once(load_config, layout.config)
    settings = _once(config.pixel_settings)
    summaries = []
    for image in _plan(output, stamp).images(rows):
        source = image.source(config.survey.root)
        target = layout.images / image.output
        part = layout.truth_part(image.tract, image.patch, image.stem)
        for path in (source, target, part):
            path.parent.mkdir(parents=True, exist_ok=True)
        source.touch()
        target.write_bytes(b"image")
        dice = random.Random(image.image_id)
        n = 3
        truth = _once(_blank_truth, n)
        changed: dict[str, list[Any]] = {
            "injection_id": [image.visit * 1000 + i for i in range(n)],
            "object_id": [image.visit * 1000 + i for i in range(n)],
            "image_id": [image.image_id] * n,
            "ra": [image.ra] * n,
            "dec": [image.dec] * n,
            "x": [dice.uniform(0, 2000) for _ in range(n)],
            "y": [dice.uniform(0, 4000) for _ in range(n)],
            "band": [image.band] * n,
            "mag": [dice.uniform(18, 25) for _ in range(n)],
        }
        for name, values in changed.items():
            place = truth.schema.get_field_index(name)
            truth = truth.set_column(place, truth.schema.field(place), pa.array(values, truth.schema.field(place).type))
        write_truth_part(part, truth)
        stat = source.stat()
        inputs = {image.path: [stat.st_size, stat.st_mtime_ns]}
        record = {
            "version": RECORD_VERSION,
            "image": image.image_id,
            "key": content_key(image.image_id, inputs, image.catalog_key, settings, PIXEL_VERSION),
            "inputs": inputs,
            "catalog": image.catalog_key,
            "settings": settings,
            "code": PIXEL_VERSION,
            "outputs": {
                path.relative_to(layout.root).as_posix(): {"n_bytes": path.stat().st_size, "sha256": sha256_file(path)}
                for path in (target, part)
            },
            "band": image.band,
            "n_sources": n,
            "n_drawn": n,
            "calibration": {
                "kind": "aperture",
                "radius_pixels": 12.0,
                "radius_arcsec": 2.016,
                "origin": f"slot_CalibFlux -> base_CircularApertureFlux_12_0 in SRC-{image.visit}.fits",
            },
            "closure": {"median_mag": dice.gauss(0, 1e-4), "n_stars": 3, "max_abs_mag": 0.001},
            "flags": {},
            "injection": {},
            "timings": {"read": {"wall": 0.4, "cpu": 0.4}, "inject": {"wall": 0.5, "cpu": 0.5}},
            "host": platform.node(),
            "software": {"skygraft": "0"},
            "written": "2026-01-01T00:00:00+00:00",
        }
        path = layout.record(image.tract, image.patch, image.stem)
        write_record(path, record)
        summaries.append(summarise(record, image, layout, status="done"))
    return summaries


def _blank_truth(n: int) -> Any:
    """A truth table of `n` stars as tasks write it, some of whose columns are to be filled in."""
    import numpy as np

    from skygraft.catalog.io import to_arrow
    from skygraft.catalog.truth_columns import TRUTH_COLUMNS, new_truth

    kinds: dict[str, Any] = {"int": np.zeros(n, np.int64), "float": np.ones(n), "text": np.full(n, "Star")}
    values = {column.name: kinds[column.kind] for column in TRUTH_COLUMNS} | {"group_id": np.full(n, -1)}
    truth = new_truth(n, values)
    truth.replace_column("aperture_fraction", np.full(n, 0.97))
    truth.replace_column("stamp_size", np.full(n, 101))  # without one they were not drawn
    return to_arrow(truth)


_SEEN: dict[Any, Any] = {}


def _once(function: Any, *arguments: Any) -> Any:
    key = (function.__name__, *arguments)
    if key not in _SEEN:
        _SEEN[key] = function(*arguments)
    return _SEEN[key]


def _drive(path: Path, address: str, *, tables: bool) -> None:
    """The driver, in a process of its own; prints what it took."""
    from distributed import Client

    from skygraft.campaign import Campaign, NoReporter
    from skygraft.campaign.run import CampaignRun

    began = time.perf_counter()
    marks: dict[str, float] = {}
    process, most = psutil.Process(), 0

    class Watch(NoReporter):
        n = wanted = 0

        def start(self, overview: Any) -> None:
            self.wanted = overview.n_images - overview.n_done
            marks["checked"] = time.perf_counter() - began

        def images(self, summaries: Any) -> None:
            nonlocal most
            marks.setdefault("first", time.perf_counter() - began)
            marks["last"] = time.perf_counter() - began
            marks["last_cpu"] = sum(process.cpu_times()[:2])
            most = max(most, process.memory_info().rss)
            self.n += len(list(summaries))
            if not tables and self.n >= self.wanted:
                # A run that is interrupted leaves the tables to the next one.
                os.kill(os.getpid(), signal.SIGINT)

    campaign = Campaign.from_yaml(path)
    status = campaign.layout.plan.stat()
    import functools

    tables_took: dict[str, float] = {}
    make_tables = CampaignRun._make_tables

    def timed(self: CampaignRun, client: Any, watch: Any) -> list[str]:
        before = time.perf_counter(), sum(process.cpu_times()[:2]), sum(client.run(_cpu_seconds).values())
        lines = make_tables(self, client, watch)
        after = time.perf_counter(), sum(process.cpu_times()[:2]), sum(client.run(_cpu_seconds).values())
        names = ("seconds", "driver_cpu_seconds", "worker_cpu_seconds")
        tables_took.update(zip(names, (b - a for a, b in zip(before, after, strict=True)), strict=True))
        return lines

    CampaignRun._make_tables = timed  # type: ignore[method-assign]
    work = functools.partial(rehearse, output=str(campaign.layout.root), stamp=(status.st_size, status.st_mtime_ns))
    watch = Watch()
    with Client(address, set_as_default=False) as client:
        client.upload_file(__file__)
        CampaignRun.work = lambda self: work  # type: ignore[method-assign]
        summary = campaign.run(client, reporter=watch)
    cpu = sum(process.cpu_times()[:2])
    print(
        json.dumps(
            {
                "n_done": summary.n_done,
                "n_skipped": summary.n_skipped,
                "ok": summary.ok,
                "seconds": marks | {"all": time.perf_counter() - began},
                "cpu_seconds": cpu,
                "rss_driving_mib": most / 2**20,
                "rss_peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
                "n_images": watch.n,
                "tables": tables_took,
            }
        )
    )


def _cpu_seconds() -> float:
    return sum(psutil.Process().cpu_times()[:2])


@contextlib.contextmanager
def _cluster(port: int, n_workers: int) -> Iterator[psutil.Process]:
    """Scheduler and workers, each a process; gives the scheduler's."""
    address = _SCHEDULER.format(port=port)
    here = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": here}
    scratch = tempfile.mkdtemp()
    dask = [sys.executable, "-m", "distributed.cli.dask_scheduler"]
    scheduler = subprocess.Popen([*dask, "--host", address, "--dashboard-address", "127.0.0.1:0"], **quiet)
    worker = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--nworkers", "1", "--nthreads", "1"]
    worker += ["--local-directory", scratch, "--dashboard-address", "127.0.0.1:0"]
    workers = [subprocess.Popen(worker, **quiet) for _ in range(n_workers)]
    try:
        yield psutil.Process(scheduler.pid)
    finally:
        for process in (*workers, scheduler):
            process.send_signal(signal.SIGTERM)
        for process in (*workers, scheduler):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
            process.kill()
        shutil.rmtree(scratch, ignore_errors=True)


def _run(path: Path, port: int, n_workers: int, *, tables: bool) -> dict[str, Any]:
    with _cluster(port, n_workers) as scheduler:
        command = [sys.executable, __file__, "--drive", str(path), "--address", _SCHEDULER.format(port=port)]
        command += [] if tables else ["--no-tables"]
        driver = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        most = 0
        while driver.poll() is None:
            most = max(most, scheduler.memory_info().rss)
            time.sleep(0.5)
        times = scheduler.cpu_times()
        assert driver.stdout is not None
        said: dict[str, Any] = json.loads(driver.stdout.read().splitlines()[-1])
    said["scheduler"] = {"cpu_seconds": times.user + times.system, "rss_peak_mib": most / 2**20}
    n = max(said["n_images"], 1)
    said["overhead_ms_per_image"] = 1e3 * (said["seconds"].get("last_cpu", 0.0) + times.user + times.system) / n
    return said


def _plan(path: Path) -> dict[str, Any]:
    code = f"from skygraft.campaign import Campaign; Campaign.from_yaml({str(path)!r}).plan(checks='none')"
    began = time.perf_counter()
    process = psutil.Popen([sys.executable, "-c", code])
    most = 0
    while process.poll() is None:
        with contextlib.suppress(psutil.Error):
            most = max(most, sum(p.memory_info().rss for p in (process, *process.children(recursive=True))))
        time.sleep(0.2)
    assert process.returncode in (0, 1)
    return {"seconds": time.perf_counter() - began, "rss_peak_mib": most / 2**20}


def _status(path: Path) -> dict[str, Any]:
    """How long `Campaign.status` takes, in a process of its own that has imported it."""
    code = (
        "import json, resource, sys, time; from skygraft.campaign import Campaign; import skygraft.campaign.checksums;"
        f"campaign = Campaign.from_yaml({str(path)!r}); wall, cpu = time.perf_counter(), time.process_time();"
        "status = campaign.status(); print(json.dumps({'n_done': status.n_done, 'seconds': time.perf_counter() - wall,"
        "'cpu_seconds': time.process_time() - cpu,"
        "'rss_peak_mib': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main() -> None:
    """Rehearse a campaign and print what each part took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--sources", type=int, help="by default ten for each image")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--port", type=int, default=18786)
    parser.add_argument("--no-tables", action="store_true", help="leave out consolidation, which takes longest")
    parser.add_argument("--keep", action="store_true", help="only resume what is in the folder")
    parser.add_argument("--drive", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--address", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.drive:
        _drive(arguments.drive, arguments.address, tables=not arguments.no_tables)
        return
    if arguments.folder is None:
        parser.error("name a folder")
    survey = arguments.folder / "survey"  # the outputs go into ``out`` beside it
    path = survey / "campaign.yaml"
    if not arguments.keep:
        if arguments.folder.exists() and any(arguments.folder.iterdir()):
            parser.error(f"{arguments.folder} is not empty: remove it, or resume with --keep")
        share = arguments.images / 1_000_000
        n_sources = arguments.sources or 10 * arguments.images
        path = write_campaign(survey, arguments.images, n_sources, area=share_of_area(share))
        show("plan", _plan(path))
        ran = _run(path, arguments.port, arguments.workers, tables=not arguments.no_tables)
        show("run", ran)
        if ran["tables"]:
            show("tables", _per_image(ran["tables"], arguments.images))
    from skygraft.campaign import Campaign
    from skygraft.records.packs import file_names, remove_record

    campaign = Campaign.from_yaml(path)
    n_images = campaign.status().n_images
    show("status", _for_a_million(_status(path), n_images))
    folders = campaign.layout.records.glob("tract=*/patch=*")
    records = (folder / name for folder in folders for name in file_names(folder) if name.endswith(".json"))
    for record in itertools.islice(records, 0, None, 100):
        remove_record(record)
    resumed = _run(path, arguments.port + 1, arguments.workers, tables=not arguments.no_tables)
    show("resume", resumed)
    show("knows what is left", _for_a_million({"seconds": resumed["seconds"]["checked"]}, n_images))


def _per_image(took: dict[str, float], n_images: int) -> dict[str, float]:
    """What the tables took of an image, and of a million."""
    cpu = took["driver_cpu_seconds"] + took["worker_cpu_seconds"]
    return took | {
        "cpu_ms_per_image": 1e3 * cpu / n_images,
        "wall_ms_per_image": 1e3 * took["seconds"] / n_images,
        "minutes_for_a_million": took["seconds"] / n_images * 1e6 / 60,
    }


def _for_a_million(took: dict[str, Any], n_images: int) -> dict[str, Any]:
    """What it took, and what it would take of a million images, were all of it in proportion."""
    return took | {"seconds_for_a_million": took["seconds"] / n_images * 1e6}


def show(name: str, content: dict[str, Any]) -> None:
    """Print one part's numbers."""
    print(name, json.dumps(content, indent=1), flush=True)


if __name__ == "__main__":
    main()
