"""A whole cell coadd of Rubin, 3400 x 3400 pixels: reading, injecting 1000 stars and writing, against its library.

Run it: ``uv run python tests/benchmarks/bench_cell_coadd.py``. It makes a coadd with the identity (sky projection, mask
schema, provenance) of the small one in the reference data, and prints medians of processor time over a few repeats,
done in turn: our reading and writing alone, everything with the stars, and the library reading and writing the same.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import QTable

import skygraft

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
SIDE, CELL, KERNEL = 3400, 170, 35


def write_coadd(path: Path) -> Path:
    """A cell coadd with noise, variance, mask and a noise realisation, whose PSF widens from cell to cell."""
    images, cells = (importlib.import_module(name) for name in ("lsst.images", "lsst.images.cells"))
    archive = importlib.import_module("lsst.images.serialization")
    small = archive.read_archive(str(DATA / "rubin" / "dp1_cell_coadd.fits"))
    box = images.Box.factory[0:SIDE, 0:SIDE]
    shape = {"y": CELL, "x": CELL}
    grid = type(small.psf.grid)(bbox=box, cell_shape=shape)
    n = SIDE // CELL
    yy, xx = np.mgrid[-(KERNEL // 2) : KERNEL // 2 + 1, -(KERNEL // 2) : KERNEL // 2 + 1]
    sigma = np.linspace(1.6, 2.0, n * n).reshape(n, n, 1, 1)
    kernels = np.exp(-(xx**2 + yy**2) / (2 * sigma**2))
    kernels /= kernels.sum(axis=(2, 3), keepdims=True)
    rng = np.random.default_rng(1)

    def plane(values: Any) -> Any:
        return images.Image(np.asarray(values, np.float32), bbox=box, unit=small.image.unit)

    sky = rng.normal(0, 10, (SIDE, SIDE))
    mask = images.Mask(0, schema=small.mask.schema, bbox=box)
    mask.set("DETECTED", rng.random((SIDE, SIDE)) < 0.02)
    variance = images.Image((100 + 0.5 * sky).astype(np.float32), bbox=box, unit=small.variance.unit)
    coadd = cells.CellCoadd(
        plane(sky),
        mask=mask,
        variance=variance,
        noise_realizations=[plane(rng.normal(0, 10, (SIDE, SIDE)))],
        sky_projection=small.sky_projection,
        band="r",
        psf=cells.CellPointSpreadFunction(kernels, type(small.psf.bounds)(grid=grid, bbox=box)),
        patch=small.patch.model_copy(update={"cells": grid, "inner_bbox": box}),
        provenance=small.provenance,
    )
    archive.write_archive(coadd, str(path))
    return path


def make_catalog(exposure: skygraft.Exposure, n: int) -> Any:
    """Stars all over the coadd."""
    rng = np.random.default_rng(2)
    ra, dec = exposure.wcs.pixel_to_world_values(*rng.uniform(30, SIDE - 30, (2, n)))
    columns = {"injection_id": np.arange(n), "ra": ra, "dec": dec, "source_type": ["Star"] * n}
    return skygraft.normalize_catalog(QTable(columns | {"mag_r": rng.uniform(19, 25, n)}))


def seconds(work: Any) -> float:
    """Processor time of a call."""
    start = time.process_time()
    work()
    return time.process_time() - start


def measure(n_stars: int, repeats: int, folder: Path) -> dict[str, float]:
    """Medians over `repeats`, after one turn that compiles and imports."""
    archive = importlib.import_module("lsst.images.serialization")
    source, target = write_coadd(folder / "coadd.fits"), folder / "out.fits"
    exposure = skygraft.read_exposure(source)
    catalog = make_catalog(exposure, n_stars)
    options = {"flux_mode": "psf_sum", "gain": 2.0}
    injected = skygraft.inject(exposure, catalog, **options).exposure
    again = folder / "library.fits"

    def floor() -> None:
        skygraft.read_exposure(source)
        skygraft.write_exposure(injected, target, overwrite=True)

    def whole() -> None:
        made = skygraft.inject(skygraft.read_exposure(source), catalog, **options)
        skygraft.write_exposure(made.exposure, target, overwrite=True)

    def library() -> None:
        again.unlink(missing_ok=True)
        archive.write_archive(archive.read_archive(str(source)), str(again))

    floor(), library()
    turns = [(seconds(floor), seconds(whole), seconds(library)) for _ in range(repeats)]
    return {
        "read_write_seconds": statistics.median(t[0] for t in turns),
        "seconds": statistics.median(t[1] for t in turns),
        "library_read_write_seconds": statistics.median(t[2] for t in turns),
        "all_over_read_write": statistics.median(t[1] / t[0] for t in turns),
        "all_over_library": statistics.median(t[1] / t[2] for t in turns),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stars", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for name, value in measure(given.stars, given.repeats, Path(folder)).items():
            print(f"{name:32s} {value:8.3f}")


if __name__ == "__main__":
    main()
