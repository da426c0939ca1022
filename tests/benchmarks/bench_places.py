"""Processor time of a campaign from S3 to S3, killed at random and resumed, against the same on files, killed and not.

    uv run python tests/benchmarks/bench_places.py --images 200 --size 1024 --stars 500 --kills 3
    uv run python tests/benchmarks/bench_places.py --images 60 --layout calexp --kills 3

Images are small ones of one plane (``--layout plain``), for which requests and starts count most, or as a survey has
them (``--layout calexp``): image, mask and variance of 2048 x 4096 pixels in compressed tiles, with their PSF and
photometric calibration. The server (moto) is a process of this machine; its own time is not counted. Each run is a
process of its own, which draws the images itself, and whose processor time is that of `resource.getrusage`. Runs are
killed when random numbers of images are done, on files and in the store when the same ones are; each loses the image at
hand and pays its start again. The first run of all only compiles. In the store the scratch folder is removed before the
last run, as on another machine. Images, masks and truth must have the same bytes. Each pair of numbers is repeated in
turn, because the processor time of a busy machine varies.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import yaml
from astropy.io import fits
from astropy.table import QTable

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from kits.plain_images import plain_header, write_plain_image
from kits.s3_kit import KEY, SECRET, Bucket, s3_server
from kits.tiny_campaign import DEC, RA, write_tiny_campaign
from skygraft.catalog import write_catalog
from skygraft.demo.calexp import ChebyshevCalib, PsfexModel, write_calexp

_RUN = """
import sys
from skygraft.campaign import Campaign
summary = Campaign.from_yaml(sys.argv[1]).run(n_workers=0)
print(summary)
sys.exit(1 if summary.n_failed or summary.n_remaining else 0)
"""


def run(path: Path, kill_at: int | None = None, n_done: Callable[[], int] | None = None) -> float:
    """Run a campaign in a process; returns its processor time, seconds.

    Parameters
    ----------
    path : Path
        Its YAML file.
    kill_at : int, optional
        Number of records at which the process is killed.
    n_done : callable, optional
        Counts them.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    process = subprocess.Popen([sys.executable, "-c", _RUN, str(path)], stdout=subprocess.PIPE, text=True)
    if kill_at is not None:
        assert n_done is not None
        while n_done() < kill_at:
            assert process.poll() is None, "the run ended before it was killed"
            time.sleep(random.uniform(0.02, 0.2))
        process.kill()
    said = process.communicate()[0]
    assert kill_at is not None or process.returncode == 0, said
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def run_killed(path: Path, places: list[int], n_done: Callable[[], int], *, scratch: Path | None = None) -> list[float]:
    """Run a campaign to its end, killed when so many images are done; returns the processor time of each run."""
    spent = [run(path, kill_at=at, n_done=n_done) for at in places]
    if places and scratch is not None:
        shutil.rmtree(scratch)  # another machine
    return [*spent, run(path)]


def records_of(names: Iterable[str]) -> int:
    return sum(name.endswith(".json") for name in names)


def write_stars(path: Path, n: int, shape: tuple[int, int]) -> None:
    """A catalogue of stars all over the images, of 0.2 arcsec a pixel."""
    rng = np.random.default_rng(1)
    offsets = rng.uniform(-0.1, 0.1, (2, n)) * [[shape[1]], [shape[0]]] / 3600
    columns = {"injection_id": np.arange(n), "ra": RA + offsets[0], "dec": DEC + offsets[1]}
    write_catalog(QTable(columns | {"source_type": np.full(n, "Star"), "mag_r": rng.uniform(19, 25, n)}), path)


def write_calexp_in_tiles(path: Path, shape: tuple[int, int]) -> None:
    """A calexp of noise, whose planes are in compressed tiles, as those of a survey are."""
    ny, nx = shape
    centre = ((nx - 1) / 2, (ny - 1) / 2)
    plain = plain_header(RA, DEC, 1)
    wcs = fits.Header({"CUNIT1": "deg", "CUNIT2": "deg", "CRPIX1": centre[0] + 1, "CRPIX2": centre[1] + 1})
    for key in ("CTYPE1", "CTYPE2", "CRVAL1", "CRVAL2", "RADESYS", "CD1_1", "CD1_2", "CD2_1", "CD2_2"):
        wcs[key] = plain[key]
    components = np.zeros((6, 25, 25), np.float32)
    components[0] = np.exp(-(np.hypot(*np.mgrid[-12:13, -12:13]) ** 2) / (2 * 1.7**2)) / (2 * np.pi * 1.7**2)
    rng = np.random.default_rng(1)
    light = np.where(rng.uniform(size=shape) < 0.02, rng.exponential(3000, shape), 0)  # from which the gain is known
    variance = 400 + light / 1.5
    write_calexp(
        path,
        image=(light + rng.normal(0, np.sqrt(variance))).astype(np.float32),
        variance=variance.astype(np.float32),
        mask=np.where(rng.uniform(size=shape) < 0.01, 32, 0).astype(np.int32),
        wcs_header=wcs,
        psf=PsfexModel(components, 1.0, centre, centre, centre),
        calib=ChebyshevCalib(np.array([[1.0]]), 0.0),
        band="r",
        physical_filter="bench-r",
        visit_cards={"EXPTIME": 30.0, "DATE-AVG": "2025-01-01T00:00:00", "TIMESYS": "TAI", "INSTRUMENT": "bench",
                     "IDNUM": 500, "CALAPRAD": 12.0},
    )  # fmt: skip
    with fits.open(path, mode="update") as file:
        for i, name in enumerate(("IMAGE", "MASK", "VARIANCE"), start=1):
            how = {"compression_type": "GZIP_2"} if name == "MASK" else {"quantize_level": 10, "quantize_method": 2}
            file[i] = fits.CompImageHDU(file[i].data, file[i].header, name=name, tile_shape=(1, nx), **how)


def write_images(folder: Path, n: int, layout: str, shape: tuple[int, int]) -> None:
    """Write images of the same pixels, which are different exposures."""
    folder.mkdir(parents=True, exist_ok=True)
    first, key = folder / "image-000.fits", {"calexp": "IDNUM", "plain": "EXPNUM"}[layout]
    if layout == "calexp":
        write_calexp_in_tiles(first, shape)
    else:
        write_plain_image(first, RA, DEC, shape[0], EXPNUM=500)
    for i in range(1, n):
        shutil.copy(first, folder / f"image-{i:03}.fits")
        fits.setval(folder / f"image-{i:03}.fits", key, value=500 + i)


def sums(contents: dict[str, bytes]) -> dict[str, str]:
    return {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--layout", choices=("plain", "calexp"), default="plain")
    parser.add_argument("--size", type=int, default=2048, help="rows of an image; calexps have twice as many columns")
    parser.add_argument("--stars", type=int, default=1000)
    parser.add_argument("--kills", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    shape = arguments.size, arguments.size * (2 if arguments.layout == "calexp" else 1)
    rng = random.Random(arguments.seed)
    # As in workers; threads of BLAS that wait for each other take processor time, the more the busier the machine is.
    one_thread = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL")}
    os.environ |= {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, **one_thread}
    folder = Path(tempfile.mkdtemp(prefix="bench-places-"))
    try:
        path = write_tiny_campaign(folder, 1)
        (folder / "fakes.parquet").unlink()
        write_stars(folder / "fakes.parquet", arguments.stars, shape)
        write_images(folder / "raw", arguments.images, arguments.layout, shape)
        content = yaml.safe_load(path.read_text())
        if arguments.layout == "calexp":
            del content["survey"]["calibration"]
            path.write_text(yaml.safe_dump(content))
        compiling = write_tiny_campaign(folder / "compile", 1)
        write_images(compiling.parent / "raw", 1, arguments.layout, (256, 256))
        compiling.write_text(yaml.safe_dump(content))
        run(compiling)
        out = folder / "out"
        places = sorted(rng.sample(range(1, arguments.images), arguments.kills))
        print(f"killed when {places} of {arguments.images} images are done")
        with s3_server(keep_alive=True) as endpoint:
            bucket = Bucket(endpoint, "bench")
            bucket.put(folder / "raw", "raw/")
            bucket.fs.put_file(str(folder / "fakes.parquet"), "bench/fakes.parquet")
            content["survey"]["root"] = "s3://bench"
            content["catalog"]["path"] = "s3://bench/fakes.parquet"
            content |= {
                "output": "s3://bench/out",
                "storage": {"endpoint_url": endpoint},
                "scratch": {"folder": str(folder / "scratch"), "max_bytes": "2 GB"},
            }
            there = folder / "there.yaml"
            there.write_text(yaml.safe_dump(content))
            times: dict[str, list[float]] = {}

            def note(what: str, spent: list[float]) -> None:
                times.setdefault(what, []).append(sum(spent))
                print(f"{what}: {sum(spent):.1f} s ({', '.join(f'{s:.1f}' for s in spent)})", flush=True)

            def done_here() -> int:
                return records_of(path.name for path in (out / "records").rglob("*"))

            def done_there() -> int:
                return records_of(bucket.keys("out/records/"))

            def clear() -> None:
                shutil.rmtree(out, ignore_errors=True)
                shutil.rmtree(folder / "scratch", ignore_errors=True)
                for key in bucket.keys("out/"):
                    bucket.fs.rm_file(f"bench/{key}")

            for _ in range(arguments.repeat):
                clear()
                note("S3", [run(there)])
                note("S3, nothing to do", [run(there)])
                note("files", [run(path)])
                note("files, nothing to do", [run(path)])
                clear()
                note("S3, killed", run_killed(there, places, done_there, scratch=folder / "scratch"))
                note("files, killed", run_killed(path, places, done_here))
            best = {what: statistics.median(spent) for what, spent in times.items()}
            kills = f"killed {arguments.kills} times"
            for one, other, meaning in (
                ("S3", "files", "from S3 to S3, against the same campaign on files; neither is killed"),
                ("S3, nothing to do", "files, nothing to do", "a run that finds all done, against the same on files"),
                ("S3, killed", "files, killed", f"from S3 to S3, {kills}, against the same on files, killed as often"),
                ("S3, killed", "files", f"from S3 to S3, {kills}, against the same on files that is never killed"),
                ("files, killed", "files", f"on files, {kills}, against the same never killed: what kills cost"),
            ):
                print(f"{best[one] / best[other]:.2f} = ({one}) / ({other}): {meaning}")
            for what in ("S3", "files"):
                an_image = (best[what] - best[f"{what}, nothing to do"]) / arguments.images
                print(f"{what}: {an_image:.3f} s an image, without the start")
            wanted = {
                p.relative_to(out).as_posix(): p.read_bytes()
                for base in ("images", "records")
                for p in (out / base).rglob("*")
                if p.suffix in (".fits", ".arrow")
            }
            found = {
                key.removeprefix("out/"): bucket.get(key)
                for key in bucket.keys("out/")
                if key.endswith((".fits", ".arrow")) and key.startswith(("out/images", "out/records"))
            }
            assert sums(found) == sums(wanted)
            print(f"{len(found)} images, masks and truth tables are the same")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
