"""What one tract costs: the core-hours of a campaign on real calexps, with its start, plan and tables.

Run it: ``uv run python tests/benchmarks/bench_tract.py``. Visits are copies of the MegaCam calexp of the reference data
(SKYGRAFT_DATA, else ``../shared/data``) with sky noise and visit numbers of their own, compressed as the LSST pipelines
did for years: GZIP_2, one tile a row. Stars of an HSC tract's density are injected with noise by ``skygraft run``, once
for a few images and once for more of them. The processor time of everything that the command starts gives the fixed
costs of a run and the cost of one more image, and so that of a tract (an HSC tract in 25 visits: some 2500 images) and
of a survey of DES's size.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import yaml
from astropy.io import fits
from astropy.table import Table

import skygraft
from skygraft.catalog import write_catalog

ROOT = Path(__file__).resolve().parents[2]
APERTURE = "12 pix"
TRACT_IMAGES = 2500
SURVEY_IMAGES = 76_217 * 60
"""Exposures of the Dark Energy Survey's six years (Abbott et al. 2021, ApJS 255, 20), times its working detectors."""


def noisy_calexp(source: Path, path: Path) -> None:
    """The calexp with sky noise of 40 counts, as other writers store it: the reference data have zeros for pixels."""
    rng = np.random.default_rng(1)
    with fits.open(source) as hdus:
        shape = hdus["IMAGE"].data.shape
        sky = rng.normal(0, 40, shape).astype(np.float32)
        flags = (rng.random(shape) < 1e-3).astype(np.int32)
        planes = {"IMAGE": sky, "VARIANCE": 1600 + sky / 2, "MASK": flags}
        new = [
            fits.CompImageHDU(
                planes[hdu.name],
                hdu.header,
                name=hdu.name,
                compression_type="GZIP_2",
                tile_shape=(1, shape[1]),
                quantize_level=0.0,
            )
            if hdu.name in planes
            else hdu
            for hdu in hdus
        ]
        fits.HDUList(new).writeto(path)


def write_visits(calexp: Path, folder: Path, n_images: int) -> None:
    """Copies under visit numbers of their own."""
    folder.mkdir()
    content = calexp.read_bytes()
    card = b"IDNUM   ="
    start = content.index(card)
    for number in range(n_images):
        new = f"{card.decode()} {600_000 + number:20d}".ljust(80).encode()
        (folder / f"calexp-{number:04}.fits.fz").write_bytes(content[:start] + new + content[start + 80 :])


def write_stars(calexp: Path, path: Path, n_stars: int) -> None:
    """Stars all over the image, each to be injected into every visit."""
    exposure = skygraft.read_exposure(calexp, aperture=APERTURE)
    rng = np.random.default_rng(2)
    ny, nx = exposure.planes["image"].shape
    ra, dec = exposure.wcs.pixel_to_world_values(rng.uniform(0, nx, n_stars), rng.uniform(0, ny, n_stars))
    stars = Table({"injection_id": np.arange(n_stars), "ra": ra, "dec": dec, "mag_r": rng.uniform(18, 25, n_stars)})
    stars["source_type"] = "Star"
    write_catalog(skygraft.normalize_catalog(stars), path)


def seconds_of_run(folder: Path, visits: Path, name: str, workers: int) -> float:
    """Processor time of ``skygraft run``, with all processes that it starts and waits for."""
    config = {
        "name": name,
        "survey": {"root": str(visits), "images": "calexp-*.fits.fz", "calibration": {"aperture": APERTURE}},
        "catalog": {"path": str(folder / "stars.parquet")},
        "output": str(folder / f"out-{name}"),
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(config))
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [str(Path(sys.executable).with_name("skygraft")), "run", str(path), "--workers", str(workers)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, nargs=2, default=(6, 46), metavar="N", help="images of the two runs")
    parser.add_argument("--stars", type=int, default=1000, help="on each image")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where to work; a temporary folder by default")
    given = parser.parse_args()
    data = Path(os.environ.get("SKYGRAFT_DATA") or ROOT.parent / "shared" / "data")
    source = data / "cfht_849375" / "calexp-849375-12.fits.fz"
    few, many = given.images
    took: dict[int, list[float]] = {few: [], many: []}
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        folder = Path(name)
        calexp = folder / "calexp.fits.fz"
        noisy_calexp(source, calexp)
        write_stars(calexp, folder / "stars.parquet", given.stars)
        for n_images in (few, many):
            write_visits(calexp, folder / f"visits-{n_images}", n_images)
        seconds_of_run(folder, folder / f"visits-{few}", "compile", given.workers)
        for repeat in range(given.repeats):
            for n_images in (few, many):
                visits = folder / f"visits-{n_images}"
                took[n_images].append(seconds_of_run(folder, visits, f"{n_images}-{repeat}", given.workers))
                print(f"  {n_images} images: {took[n_images][-1]:.1f} s of processor time", flush=True)
    median = {n: statistics.median(times) for n, times in took.items()}
    image = (median[many] - median[few]) / (many - few)
    fixed = max(median[few] - few * image, 0.0)
    print(f"load {os.getloadavg()[0]:.2f}")
    print(f"one image with {given.stars} stars {image:.3f} s; fixed costs of a run {fixed:.1f} s")
    print(f"a tract of {TRACT_IMAGES} images {(fixed + TRACT_IMAGES * image) / 3600:.2f} core-hours")
    print(f"a survey of {SURVEY_IMAGES / 1e6:.1f} million images {SURVEY_IMAGES * image / 3600:.0f} core-hours")
    return 0


if __name__ == "__main__":
    sys.exit(main())
