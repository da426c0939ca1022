"""Processor time of a campaign from S3 to S3, killed at random and resumed, against the same on files.

    uv run python tests/benchmarks/bench_places.py --images 200 --size 2048 --kills 2

The server (moto) is a process of this machine; its own time is not counted. Each run is a process of its own, whose
processor time, children included, is that of `resource.getrusage`. Images, masks and truth must have the same bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import yaml
from astropy.table import QTable

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from kits.plain_images import write_plain_image
from kits.s3_kit import KEY, SECRET, Bucket, s3_server
from kits.tiny_campaign import DEC, RA, write_tiny_campaign
from skygraft.catalog import write_catalog

_RUN = "import sys; from skygraft.campaign import Campaign; print(Campaign.from_yaml(sys.argv[1]).run(n_workers=0))"


def run(path: Path, kill_after: float | None = None) -> float:
    """Run a campaign in a process; returns its processor time, seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    process = subprocess.Popen([sys.executable, "-c", _RUN, str(path)], stdout=subprocess.PIPE, text=True)
    if kill_after is not None:
        time.sleep(kill_after)
        process.kill()
    said = process.communicate()[0]
    if kill_after is None:
        assert process.returncode == 0, said
        print(said.splitlines()[0])
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def write_stars(path: Path, n: int, size: int) -> None:
    """A catalogue of stars all over the images, of 0.2 arcsec a pixel."""
    rng = np.random.default_rng(1)
    offsets = rng.uniform(-0.1 * size, 0.1 * size, (2, n)) / 3600
    columns = {"injection_id": np.arange(n), "ra": RA + offsets[0], "dec": DEC + offsets[1]}
    write_catalog(QTable(columns | {"source_type": np.full(n, "Star"), "mag_r": rng.uniform(19, 25, n)}), path)


def sums(contents: dict[str, bytes]) -> dict[str, str]:
    return {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--size", type=int, default=2048)
    parser.add_argument("--stars", type=int, default=1000)
    parser.add_argument("--kills", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    os.environ |= {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}
    folder = Path(tempfile.mkdtemp(prefix="bench-places-"))
    try:
        path = write_tiny_campaign(folder, 1)
        (folder / "fakes.parquet").unlink()
        write_stars(folder / "fakes.parquet", arguments.stars, arguments.size)
        first = write_plain_image(folder / "raw/image-000.fits", RA, DEC, arguments.size, EXPNUM=500)
        for i in range(1, arguments.images):
            from astropy.io import fits

            shutil.copy(first, folder / f"raw/image-{i:03}.fits")
            fits.setval(folder / f"raw/image-{i:03}.fits", "EXPNUM", value=500 + i)
        began = time.perf_counter()
        local = run(path)
        seconds = time.perf_counter() - began
        print(f"files: {local:.1f} s of processor time, {seconds:.0f} s")
        with s3_server() as endpoint:
            bucket = Bucket(endpoint, "bench")
            bucket.put(folder / "raw", "raw/")
            bucket.fs.put_file(str(folder / "fakes.parquet"), "bench/fakes.parquet")
            content = yaml.safe_load(path.read_text())
            content["survey"]["root"] = "s3://bench"
            content["catalog"]["path"] = "s3://bench/fakes.parquet"
            content |= {
                "output": "s3://bench/out",
                "storage": {"endpoint_url": endpoint},
                "scratch": {"folder": str(folder / "scratch"), "max_bytes": "2 GB"},
            }
            there = folder / "there.yaml"
            there.write_text(yaml.safe_dump(content))
            spent = [run(there, kill_after=rng.uniform(0.3, 0.7) * seconds) for _ in range(arguments.kills)]
            if arguments.kills:
                shutil.rmtree(folder / "scratch")  # another machine
            spent.append(run(there))
            total = sum(spent)
            print(f"S3, killed {arguments.kills} times: {total:.1f} s ({', '.join(f'{s:.1f}' for s in spent)})")
            print(f"ratio {total / local:.2f}")
            out = folder / "out"
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
