"""A campaign of a million images that exist on paper only, through the real planner, runner, ledger and consolidation.

    uv run python tests/benchmarks/bench_million.py FOLDER --images 1000000

Planner, scheduler, two workers and driver are processes of their own, so that each one's time and memory are its own.
A worker makes a file, a truth table and a record for each image without reading or drawing anything; the tables and
packs are then made as always. How long does its status take? Then a hundredth of the records is removed, and the
campaign is run again: how long until it knows what is left?

Fewer images and sources lie on less of the sky, as densely, so that what they take a million take in proportion; each
part prints that too. Everything lies in FOLDER, which must be new: outputs of 20 kB an image, in four files until they
are packed.

With --bare, ten million images fit on a small disk: a worker leaves what a finished and packed campaign has of an image
(its record in the pack of its patch, and names for the files before and after injection), and no truth, so that no
tables are made; and the driver is killed half-way, and resumed. What a campaign has more of while it runs, a record and
a truth table of each image as files, is left out.

With --paper, FOLDER has a planned campaign, whose images are multiplied to --images: what does a driver take of them?
There is nothing of the images but names, in folders that are links to one, and no record; what is known of them after
the driver was killed is what the ledger says, compared with four files an image.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import itertools
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
from rehearsals import (
    at_once,
    know_packs,
    multiply_plan,
    no_syncs,
    no_tables,
    record_of,
    rehearse_bare,
    rehearse_on_paper,
    share_folders,
)
from simulated import share_of_area, write_campaign

_SCHEDULER = "tcp://127.0.0.1:{port}"


def rehearse(rows: Sequence[int], output: str, stamp: tuple[int, int]) -> list[Any]:
    """What a worker does instead of drawing: the same files, the same order, no pixels."""
    with no_syncs():  # of a million tiny files nothing would be left but these
        return _rehearse(rows, output, stamp)


def _rehearse(rows: Sequence[int], output: str, stamp: tuple[int, int]) -> list[Any]:
    import pyarrow as pa

    from skygraft.config.campaign import load_config
    from skygraft.execution.task import _plan
    from skygraft.records.files import Layout, sha256_file
    from skygraft.records.image_record import summarise, write_record
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
        outputs = {
            path.relative_to(layout.root).as_posix(): {"n_bytes": path.stat().st_size, "sha256": sha256_file(path)}
            for path in (target, part)
        }
        record = record_of(image, inputs, outputs, settings, n_sources=n, closure_mag=dice.gauss(0, 1e-4))
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


def _drive(path: Path, address: str, *, tables: bool, bare: str = "", die_at: int = 0) -> None:
    """The driver, in a process of its own; prints what it took. With `die_at`, it is killed after so many images."""
    from distributed import Client

    from skygraft.campaign import Campaign, NoReporter
    from skygraft.campaign.run import CampaignRun
    from skygraft.execution import driver
    from skygraft.records.checkpoint_writer import CheckpointWriter

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
            if die_at and self.n >= die_at:
                say(n_done=self.n, n_skipped=0, ok=False)
                os.kill(os.getpid(), signal.SIGKILL)
            if not tables and not bare and self.n >= self.wanted:
                # A run that is interrupted leaves the tables to the next one.
                os.kill(os.getpid(), signal.SIGINT)

    checkpoints: list[dict[str, float]] = []
    write_checkpoint = CheckpointWriter._write

    def write(self: CheckpointWriter, *arguments: Any) -> None:
        before = time.perf_counter(), time.thread_time()
        write_checkpoint(self, *arguments)
        size = campaign.layout.checkpoint.stat().st_size if campaign.layout.checkpoint.exists() else 0
        took = {"seconds": time.perf_counter() - before[0], "cpu_seconds": time.thread_time() - before[1]}
        checkpoints.append({"images": watch.n, "mb": size / 1e6} | took)

    CheckpointWriter._write = write  # type: ignore[method-assign]

    def say(**counts: Any) -> None:
        told = {
            **counts,
            "seconds": marks | {"all": time.perf_counter() - began},
            "cpu_seconds": sum(process.cpu_times()[:2]),
            "rss_driving_mib": most / 2**20,
            "rss_peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "n_images": watch.n,
            "ledger_mb": campaign.layout.ledger.stat().st_size / 1e6,
            "checkpoints": checkpoints,
            "tables": tables_took,
        }
        print(json.dumps(told), flush=True)

    if bare:
        driver.unless_halted = at_once
    campaign = Campaign.from_yaml(path)
    status = campaign.layout.plan.stat()
    tables_took: dict[str, float] = {}
    make_tables = {"bare": know_packs, "paper": no_tables}.get(bare, CampaignRun._make_tables)

    def timed(self: CampaignRun, client: Any, watch: Any) -> list[str]:
        before = time.perf_counter(), sum(process.cpu_times()[:2]), sum(client.run(_cpu_seconds).values())
        lines = make_tables(self, client, watch)
        after = time.perf_counter(), sum(process.cpu_times()[:2]), sum(client.run(_cpu_seconds).values())
        names = ("seconds", "driver_cpu_seconds", "worker_cpu_seconds")
        tables_took.update(zip(names, (b - a for a, b in zip(before, after, strict=True)), strict=True))
        return lines

    CampaignRun._make_tables = timed  # type: ignore[method-assign]
    worker = {"bare": rehearse_bare, "paper": rehearse_on_paper}.get(bare, rehearse)
    work = functools.partial(worker, output=str(campaign.layout.root), stamp=(status.st_size, status.st_mtime_ns))
    watch = Watch()
    with Client(address, set_as_default=False) as client:
        client.upload_file(__file__)
        CampaignRun.work = lambda self: work  # type: ignore[method-assign]
        summary = campaign.run(client, reporter=watch)
    say(n_done=summary.n_done, n_skipped=summary.n_skipped, ok=summary.ok)


def _cpu_seconds() -> float:
    return sum(psutil.Process().cpu_times()[:2])


@contextlib.contextmanager
def _cluster(port: int, n_workers: int) -> Iterator[psutil.Process]:
    """Scheduler and workers, each a process; gives the scheduler's."""
    address = _SCHEDULER.format(port=port)
    paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    here = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
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


def _run(path: Path, port: int, n_workers: int, *, tables: bool, bare: str = "", die_at: int = 0) -> dict[str, Any]:
    with _cluster(port, n_workers) as scheduler:
        command = [sys.executable, __file__, "--drive", str(path), "--address", _SCHEDULER.format(port=port)]
        command += [] if tables else ["--no-tables"]
        command += [f"--{bare}", "--die-at", str(die_at)] if bare else []
        driver = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        most = together = 0
        while driver.poll() is None:
            most = max(most, scheduler.memory_info().rss)
            together = max(together, _memory_together())
            time.sleep(0.5)
        times = scheduler.cpu_times()
        assert driver.stdout is not None
        said: dict[str, Any] = json.loads(driver.stdout.read().splitlines()[-1])
    said["rss_together_mib"] = together / 2**20
    said["scheduler"] = {"cpu_seconds": times.user + times.system, "rss_peak_mib": most / 2**20}
    n = max(said["n_images"], 1)
    said["overhead_ms_per_image"] = 1e3 * (said["seconds"].get("last_cpu", 0.0) + times.user + times.system) / n
    return said


def _memory_together() -> int:
    """Memory of all processes of this one, where pages that they share count once for each."""
    found = 0
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            found += process.memory_info().rss
    return found


def _plan(path: Path) -> dict[str, Any]:
    code = f"from skygraft.campaign import Campaign; Campaign.from_yaml({str(path)!r}).plan(checks='none')"
    began = time.perf_counter()
    process = psutil.Popen([sys.executable, "-c", code])
    most = 0
    while process.poll() is None:
        most = max(most, _memory_together())
        time.sleep(0.2)
    assert process.returncode in (0, 1)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "seconds": time.perf_counter() - began,
        "cpu_seconds": used.ru_utime + used.ru_stime,
        "rss_peak_mib": most / 2**20,
    }


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
    parser.add_argument("--bare", action="store_true", help="leave less of each image, and kill the driver half-way")
    parser.add_argument("--paper", action="store_true", help="multiply the images of FOLDER, and write no files")
    parser.add_argument(
        "--die-at", type=int, default=0, help="images after which the driver is killed; by default half"
    )
    parser.add_argument("--planned", action="store_true", help="begin with the plan that is in the folder")
    parser.add_argument("--keep", action="store_true", help="only resume what is in the folder")
    parser.add_argument("--drive", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--address", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    bare = "bare" if arguments.bare else "paper" if arguments.paper else ""
    if arguments.drive:
        tables = not arguments.no_tables
        _drive(arguments.drive, arguments.address, tables=tables, bare=bare, die_at=arguments.die_at)
        return
    if arguments.folder is None:
        parser.error("name a folder")
    survey = arguments.folder / "survey"  # the outputs go into ``out`` beside it
    path = survey / "campaign.yaml"
    if not (arguments.keep or arguments.planned or arguments.paper):
        if arguments.folder.exists() and any(arguments.folder.iterdir()):
            parser.error(f"{arguments.folder} is not empty: remove it, or resume with --keep")
        share = arguments.images / 1_000_000
        n_sources = arguments.sources or 10 * arguments.images
        path = write_campaign(survey, arguments.images, n_sources, area=share_of_area(share))
        show("plan", _plan(path))
    given: dict[str, Any] = {"n_workers": arguments.workers, "tables": not arguments.no_tables, "bare": bare}
    if arguments.paper:
        _on_paper(path, arguments.images, arguments.die_at, functools.partial(_run, port=arguments.port, **given))
        return
    run = functools.partial(_run, path, **given)
    if not arguments.keep:
        if arguments.bare:
            show(
                "run until it was killed",
                run(port=arguments.port + 2, die_at=arguments.die_at or arguments.images // 2),
            )
        ran = run(port=arguments.port)
        show("run", ran)
        if ran["tables"] and not arguments.bare:
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
    resumed = run(port=arguments.port + 1)
    show("resume", resumed)
    show("knows what is left", _for_a_million({"seconds": resumed["seconds"]["checked"]}, n_images))
    show("left", _left(campaign.layout.root, n_images))


def _on_paper(path: Path, n_images: int, die_at: int, run: Callable[..., dict[str, Any]]) -> None:
    """Multiply the images of a campaign, and show what the driver takes of them, killed in the middle and resumed."""
    from skygraft.config.campaign import load_config
    from skygraft.records.plan_file import Plan, plan_key

    config = load_config(path)
    plan, settings = Plan(config.output / "plan.parquet"), path.with_name("paper.yaml")
    settings.write_text(path.read_text().replace("../out", "../paper"))
    config = load_config(settings)
    began = time.perf_counter(), time.process_time()
    if not (config.output / "plan.parquet").exists():
        config.output.mkdir()
        (config.output / "catalog").symlink_to("../out/catalog")
        (config.output / "campaign.yaml").write_text(config.to_yaml())
        key = plan_key(config)
        multiply_plan(plan, config.output / "plan.parquet", n_images // len(plan), plan.metadata | {"plan_key": key})
    plan = Plan(config.output / "plan.parquet")
    detectors = sorted({text for b in plan.batches(["detector"]) for text in b.column(0).to_pylist()})
    roots = (f"{config.survey.root}/paper", f"{config.output}/images", f"{config.output}/records")
    share_folders(plan, *roots, detectors=detectors)
    took = {"seconds": time.perf_counter() - began[0], "cpu_seconds": time.process_time() - began[1]}
    show("multiplied", took | {"images": len(plan), "plan_mb": (config.output / "plan.parquet").stat().st_size / 1e6})
    show("run until it was killed", run(settings, die_at=die_at or len(plan) // 2))
    show("run", run(settings))
    show("run of nothing", run(settings))
    show("status", _status(settings))


def _left(root: Path, n_images: int) -> dict[str, float]:
    """How many files and folders an output has."""
    n_files = n_folders = 0
    for _, folders, files in os.walk(root):
        n_files, n_folders = n_files + len(files), n_folders + len(folders)
    return {"files": n_files, "folders": n_folders, "files_per_image": n_files / n_images}


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
