"""What the tests of faults share: a survey, campaigns on it as processes of their own, and what must come of them.

Everything goes through the command line, so that what is killed is what a person would run. Nothing here asks the
package what is right: an undisturbed run without Dask says it, and files are compared byte by byte.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import yaml
from astropy.table import QTable

from kits import forked_workers
from kits.forked_commands import ForkedCommand
from kits.plain_images import write_plain_image

if TYPE_CHECKING:
    from skygraft.campaign import RunSummary

soak = pytest.mark.skipif(not os.environ.get("SKYGRAFT_SOAK"), reason="takes minutes; set SKYGRAFT_SOAK=1 to run it")

SIZE = 200
N_IMAGES = 24
PER_PATCH = 6
_VOLATILE = ("timings", "host", "written", "stages", "wall_seconds", "cpu_seconds")
_PATIENCE = 240.0


def image_name(number: int) -> str:
    """Where an image of the survey lies, relative to its folder."""
    return f"raw/v{number // PER_PATCH}/image-{number:02}.fits"


def image_id(number: int) -> str:
    """What the campaign calls it."""
    return f"testcam-{500 + number // PER_PATCH}-{number % PER_PATCH}"


def centre(number: int) -> tuple[float, float]:
    """Where it looks, degrees: each patch of the sky map has a row of six images that overlap their neighbours."""
    patch, k = divmod(number, PER_PATCH)
    return 150.1 + 0.2 * (patch % 2) + 0.005 * k, 2.2 + 0.2 * (patch // 2) + 0.002 * k


def write_image(root: Path, number: int, **cards: Any) -> Path:
    """Write one image of the survey."""
    cards = {"EXPNUM": 500 + number // PER_PATCH, "CCDNUM": number % PER_PATCH, **cards}
    return write_plain_image(root / image_name(number), *centre(number), SIZE, seed=number, sky=100.0, **cards)


def make_survey(root: Path, n_images: int = N_IMAGES, per_image: int = 40) -> Path:
    """A survey of small images over some patches, and a catalogue of stars and galaxies on them."""
    from skygraft.catalog import write_catalog

    for number in range(n_images):
        write_image(root, number)
    rng = np.random.default_rng(3)
    ra, dec = (np.repeat(c, per_image) for c in zip(*(centre(i) for i in range(n_images)), strict=True))
    total = len(ra)
    star = np.arange(total) % 4 != 0
    content = {
        "injection_id": np.arange(total),
        "ra": ra + rng.uniform(-18, 18, total) / 3600,
        "dec": dec + rng.uniform(-18, 18, total) / 3600,
        "source_type": np.where(star, "Star", "Sersic"),
        "mag_r": rng.uniform(19, 22, total),
        "n": np.where(star, np.nan, 1.0),
        "half_light_radius": np.where(star, np.nan, 0.6),
        "q": np.where(star, np.nan, 0.7),
        "pa": np.where(star, np.nan, 30.0),
    }
    write_catalog(QTable(content), root / "fakes.parquet")
    return root


SETTINGS: dict[str, Any] = {
    "name": "faults",
    "survey": {"images": "raw/**/*.fits", "calibration": {"psf": {"kind": "moffat", "fwhm": "0.8 arcsec"}}},
    "catalog": {"path": "fakes.parquet"},
    "injection": {"seed": 42, "noise": True},
    "margin_arcsec": 5.0,
    "images_per_task": 2,
}


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def summary(self) -> dict[str, Any]:
        """What it printed as JSON."""
        content: dict[str, Any] = json.loads(self.out)
        return content


class Command:
    """A command line that runs as the leader of its own session, so that signals reach it as a test wishes.

    Parameters
    ----------
    arguments : sequence of str
        The program and its arguments.
    log : Path
        Where standard output and error go: ``<log>.out`` and ``<log>.err``.
    env : mapping, optional
        Added to the environment.
    forked : bool
        Whether it is forked from a process that has imported everything, or started as a shell does it.
    """

    def __init__(
        self, arguments: Sequence[str], log: Path, env: Mapping[str, str] | None = None, *, forked: bool = True
    ) -> None:
        self.out, self.err = log.with_name(log.name + ".out"), log.with_name(log.name + ".err")
        self.process: ForkedCommand | subprocess.Popen[bytes]
        if forked:
            self.process = ForkedCommand(arguments, self.out, self.err, log.parent, env)
            return
        program = [str(Path(sys.executable).with_name(arguments[0])), *arguments[1:]]
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self.process = subprocess.Popen(
                program,
                stdout=out,
                stderr=err,
                stdin=subprocess.DEVNULL,
                cwd=log.parent,
                env={**os.environ, **(env or {})},
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Of the command itself."""
        return self.process.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self.process.poll() is None

    def wait(self, timeout: float = _PATIENCE) -> Ended:
        """Wait for its end."""
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.end()
            raise AssertionError(f"no end after {timeout} s; it said {self.err.read_text()[-3000:]}") from None
        return Ended(self.process.returncode, self.out.read_text(), self.err.read_text())

    def send(self, number: int) -> None:
        """Send a signal to the command alone."""
        self.process.send_signal(number)

    def end(self) -> None:
        """Kill it and all that it started."""
        family: list[psutil.Process] = []
        with contextlib.suppress(psutil.NoSuchProcess):
            family = psutil.Process(self.pid).children(recursive=True)
        self.send(signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait(30)


def _beneath(pid: int) -> list[psutil.Process]:
    """Its children and theirs, as the kernel lists them; psutil looks at every process of the machine for that."""
    try:
        found = [
            int(child)
            for task in Path(f"/proc/{pid}/task").iterdir()
            for child in (task / "children").read_text().split()
        ]
    except (FileNotFoundError, ProcessLookupError):  # it ended, or the kernel has no such lists
        return psutil.Process(pid).children(recursive=True)
    every = []
    for child in found:
        with contextlib.suppress(psutil.NoSuchProcess):
            every += [psutil.Process(child), *_beneath(child)]
    return every


def workers_of(command: Command) -> list[psutil.Process]:
    """Dask's worker processes beneath a command: what its nannies spawned, or what their server forked."""
    found = []
    with contextlib.suppress(psutil.NoSuchProcess):
        for process in _beneath(command.pid):
            with contextlib.suppress(psutil.NoSuchProcess):
                parent = process.parent()
                # What a server forked is of its program; so is the server of a command that was forked, beneath that.
                forked = parent is not None and parent.pid != command.pid and process.cmdline() == parent.cmdline()
                if forked or any("spawn_main" in word for word in process.cmdline()):
                    found.append(process)
    return found


@contextlib.contextmanager
def _still(processes: Sequence[psutil.Process]) -> Iterator[None]:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.suspend()
    try:
        yield
    finally:
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()


@contextlib.contextmanager
def held(
    driver: Command, find_workers: Callable[[], list[psutil.Process]], n_workers: int, happened: Callable[[], Any]
) -> Iterator[list[psutil.Process]]:
    """Let a driver's run go on until something is true, and yield its workers, held still; none if the driver ended.

    They run for a hundredth of a second between two looks: however fast they are and however slow the test is, it
    does not come too late to a moment half-way.
    """
    workers: list[psutil.Process] = []
    while driver.running:
        # To look for them takes longer than an image.
        if not workers or len([process for process in workers if process.is_running()]) < n_workers:
            workers = find_workers()
        with _still(workers):
            if workers and happened():
                yield workers
                return
        time.sleep(0.005)
    yield []


@dataclass
class Scene:
    """A survey, a campaign on it, its output folder, and the commands that were started on them.

    Parameters
    ----------
    root : Path
        Holds ``survey`` and, later, the output.
    output : str
        The output folder, relative to `root`.
    """

    root: Path
    output: str = "out"
    commands: list[Command] = field(default_factory=list)

    @property
    def survey(self) -> Path:
        """The survey's folder, with ``campaign.yaml`` in it."""
        return self.root / "survey"

    @property
    def out(self) -> Path:
        """The campaign's output folder."""
        return self.root / self.output

    def configure(self, **changes: Any) -> None:
        """Write ``campaign.yaml``, with some settings changed."""
        settings = SETTINGS | {"output": f"../{self.output}"} | changes
        (self.survey / "campaign.yaml").write_text(yaml.safe_dump(settings))

    def start(self, verb: str, *options: str, env: Mapping[str, str] | None = None, forked: bool = True) -> Command:
        """Start ``skygraft VERB campaign.yaml OPTIONS``; it is ended with the scene."""
        arguments = ["skygraft", verb, str(self.survey / "campaign.yaml"), *options]
        command = Command(arguments, self.root / f"command-{len(self.commands)}", env, forked=forked and not env)
        self.commands.append(command)
        return command

    def run(self, *options: str, env: Mapping[str, str] | None = None, timeout: float = _PATIENCE) -> Ended:
        """``skygraft run campaign.yaml --json OPTIONS``, to its end."""
        return self.start("run", "--json", *options, env=env).wait(timeout)

    def finish(self, address: str | None = None) -> RunSummary:
        """Run the campaign in this process, which is quicker: on a cluster, or without Dask."""
        from skygraft.campaign import Campaign

        campaign = Campaign.from_yaml(self.survey / "campaign.yaml")
        if address is None:
            return campaign.run(n_workers=0)
        from distributed import Client

        with Client(address, set_as_default=False) as client:
            return campaign.run(client)

    def close(self) -> None:
        """End all that still runs."""
        for command in self.commands:
            command.end()

    def n_records(self) -> int:
        """Images that are done."""
        return sum(1 for path in (self.out / "records").rglob("*.json") if not path.name.startswith("."))

    def leftovers(self, where: str = ".") -> list[Path]:
        """Files under temporary names."""
        return [path for path in (self.out / where).rglob(".*.tmp") if path.is_file()]

    def ledger(self) -> list[dict[str, Any]]:
        """The events of the ledger, but for lines that were cut short."""
        events = []
        for line in (self.out / "ledger.jsonl").read_text().splitlines():
            with contextlib.suppress(ValueError):
                events.append(json.loads(line))
        return events


@contextlib.contextmanager
def scene(pristine: Path, root: Path, output: str = "out", **changes: Any) -> Iterator[Scene]:
    """A copy of a survey that may be changed; inputs keep their time of last change."""
    shutil.copytree(pristine, root / "survey")
    made = Scene(root, output)
    made.configure(**changes)
    try:
        yield made
    finally:
        made.close()


class Cluster:
    """A Dask scheduler and nannies with worker processes on this machine's loopback.

    Parameters
    ----------
    root : Path
        For logs and the workers' own files.
    n_workers : int
        Worker processes, of one thread each.
    memory : str
        Limit of each, as ``dask worker`` takes it.
    env, worker_env : mapping, optional
        Added to the environment of all, and of the workers.
    """

    def __init__(
        self,
        root: Path,
        n_workers: int = 2,
        *,
        memory: str = "0",
        env: Mapping[str, str] | None = None,
        worker_env: Mapping[str, str] | None = None,
    ) -> None:
        root.mkdir(parents=True, exist_ok=True)
        self.n_workers = n_workers
        where = root / "scheduler.json"
        here = ["--scheduler-file", str(where), "--host", "127.0.0.1", "--no-dashboard"]
        self.scheduler = Command(["dask", "scheduler", *here, "--port", "0"], root / "scheduler", env)
        size = ["--nworkers", str(n_workers), "--nthreads", "1", "--memory-limit", memory]
        scratch = ["--local-directory", str(root / "scratch"), "--preload-nanny", forked_workers.__file__]
        everything = {**(env or {}), **(worker_env or {})}
        nannies = ["dask", "worker", *here, *size, *scratch]
        self.nannies = Command(nannies, root / "workers", everything, forked=not worker_env)
        wait_for(lambda: where.exists() and where.stat().st_size > 0)
        self.address = str(json.loads(where.read_text())["address"])

    def worker_processes(self) -> list[psutil.Process]:
        """The worker processes that there are now."""
        return workers_of(self.nannies)

    def wait_for_workers(self) -> None:
        """Wait until all of them have joined."""
        wait_for(lambda: self.nannies.err.read_text().count("Registered to:") >= self.n_workers)

    @contextlib.contextmanager
    def held(self, driver: Command, happened: Callable[[], Any]) -> Iterator[None]:
        """Let a driver's run go on until something is true, and hold the workers still meanwhile; see `held`."""
        with held(driver, self.worker_processes, self.n_workers, happened) as workers:
            if workers:
                yield
                return
        raise AssertionError(f"the driver ended before: {driver.wait()}")

    def close(self) -> None:
        """End it."""
        self.nannies.end()
        self.scheduler.end()

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def wait_for(happened: Callable[[], Any], timeout: float = _PATIENCE, pause: float = 0.01) -> None:
    """Wait until something is true."""
    end = time.monotonic() + timeout
    while not happened():
        if time.monotonic() > end:
            raise AssertionError(f"it did not happen in {timeout} s")
        time.sleep(pause)


@dataclass(frozen=True)
class Undisturbed:
    """What a campaign leaves that nothing happened to.

    Parameters
    ----------
    names : frozenset of str
        Every file beneath the output folder.
    sums : dict of str to str
        SHA-256 of each injected image.
    tables : dict of str to pyarrow.Table
        The truth tables.
    records : dict of str to dict
        Each image's record without what may differ: times and hosts.
    files : dict of str to frozenset of str
        What belongs to each image alone.
    """

    names: frozenset[str]
    sums: dict[str, str]
    tables: dict[str, pa.Table]
    records: dict[str, dict[str, Any]]
    files: dict[str, frozenset[str]]


def _names(out: Path) -> frozenset[str]:
    names = (path.relative_to(out).as_posix() for path in out.rglob("*") if not path.is_dir())
    # Tables of a dry run are there or not, as it was asked for, and so are their checksums.
    return frozenset(name for name in names if not name.startswith(("plan_", ".consolidated/checksums/plan_")))


def look(out: Path) -> Undisturbed:
    """Everything that a campaign left."""
    names = _names(out)
    records, files = {}, {}
    for name in sorted(n for n in names if n.startswith("records/") and n.endswith(".json")):
        content = json.loads((out / name).read_text())
        record = {key: value for key, value in content.items() if key not in _VOLATILE}
        records[record["image"]] = record
        files[record["image"]] = frozenset({name, *record["outputs"]})
    sums = {n: hashlib.sha256((out / n).read_bytes()).hexdigest() for n in names if n.startswith("images/")}
    tables = {n: pq.ParquetFile(out / n).read() for n in names if n.startswith("truth/") and n.endswith(".parquet")}
    return Undisturbed(names, sums, tables, records, files)


@functools.cache
def undisturbed(base: Path, n_images: int = N_IMAGES, per_image: int = 40) -> tuple[Path, Undisturbed]:
    """A survey not to be changed, and what a campaign without Dask makes of it."""
    root = base / f"undisturbed-{n_images}-{per_image}"
    pristine = make_survey(root / "pristine", n_images, per_image)
    with scene(pristine, root) as made:
        assert made.finish().ok
        seen = look(made.out)
    assert len(seen.records) == n_images, "the survey is not what the tests think"
    assert len({name.rpartition("/")[0] for name in seen.names if name.startswith("records/")}) == n_images // PER_PATCH
    return pristine, seen


def differences(out: Path, expected: Undisturbed, lost: Sequence[str] = ()) -> list[str]:
    """How an output folder differs from the undisturbed one, in words; empty where it does not.

    Parameters
    ----------
    out : Path
        The output folder.
    expected : Undisturbed
        What it should hold.
    lost : sequence of str
        Images that cannot be made: nothing of theirs may be there, and each is to be listed once among the failures.
    """
    found = look(out)
    gone = {name for image in lost for name in expected.files[image]}
    said = [f"stray: {name}" for name in sorted(found.names - (expected.names - gone))]
    said += [f"missing: {name}" for name in sorted(expected.names - gone - found.names)]
    said += [f"other bytes: {n}" for n, s in sorted(found.sums.items()) if expected.sums.get(n) != s]
    for image, record in found.records.items():
        before = expected.records.get(image, {})
        keys = sorted(k for k in {*record, *before} if record.get(k) != before.get(k))
        said += [f"record of {image}: {key} differs" for key in keys]
        said += [f"{name} is not what the record of {image} says" for name in _unlike(out, record)]
    for name in found.tables.keys() & expected.tables.keys():
        table, whole = found.tables[name], expected.tables[name]
        if lost:
            whole = whole.filter(pc.invert(pc.is_in(whole["image_id"], pa.array(list(lost), pa.string()))))
            # Which row of a source is the primary one depends on which of its images there are.
            table, whole = (t.drop_columns(["is_primary"]) for t in (table, whole))
        if not table.equals(whole):
            said.append(f"other rows: {name}")
    return said + _unlisted(failures(out), lost)


def damage(out: Path, expected: Undisturbed) -> list[str]:
    """What is wrong with an output folder that is not complete: half files, or other ones, under final names."""
    found = differences(out, expected, [image for image in expected.records if image not in look(out).records])
    # Images whose record was still to come are no damage: they are made again, over what is there.
    orphans = {f"stray: {name}" for files in expected.files.values() for name in files}
    kinds = ("missing: ", "testcam-")
    return [text for text in found if text not in orphans and not text.startswith(kinds)]


def _unlike(out: Path, record: Mapping[str, Any]) -> list[str]:
    return [
        name
        for name, output in record["outputs"].items()
        if not (out / name).is_file() or hashlib.sha256((out / name).read_bytes()).hexdigest() != output["sha256"]
    ]


def failures(out: Path) -> list[dict[str, Any]]:
    """The rows of ``failures.parquet``; none where it is not there yet."""
    if not (out / "failures.parquet").exists():
        return []
    rows: list[dict[str, Any]] = pq.ParquetFile(out / "failures.parquet").read().to_pylist()
    return rows


def _unlisted(rows: Sequence[Mapping[str, Any]], lost: Sequence[str]) -> list[str]:
    count = Counter(row["image_id"] for row in rows if row["tract"] is not None)
    said = [f"{image} is listed {count[image]} times" for image in lost if count[image] != 1]
    said += [f"{image} is listed as failed" for image in count if image not in lost]
    return said + [f"{row['image_id']} has no reason" for row in rows if not (row["error"] and row["message"])]


class Tmpfs:
    """A small file system in memory, mounted on a folder; the test is skipped where that is not permitted."""

    def __init__(self, path: Path, size: str) -> None:
        path.mkdir(parents=True)
        self.path = path
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")

    def remount(self, options: str) -> None:
        """Change its size (``size=2m``), or whether it can be written (``ro``, ``rw``)."""
        subprocess.run(["mount", "-o", f"remount,{options}", str(self.path)], check=True, capture_output=True)

    def fill(self) -> None:
        """Leave no room on it."""
        with (self.path / "filler").open("ab", buffering=0) as handle, contextlib.suppress(OSError):
            while True:
                handle.write(bytes(4096))

    def __enter__(self) -> Tmpfs:
        return self

    def __exit__(self, *error: object) -> None:
        subprocess.run(["umount", "-l", str(self.path)], check=True, capture_output=True)
