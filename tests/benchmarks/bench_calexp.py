"""One full-size image, end to end: processor time and memory of reading, injecting and writing.

Run it: ``uv run python tests/benchmarks/bench_calexp.py``. It prints medians over a few repeats, each as a ratio to
reading and writing the same file in the same process, and the peak memory as a multiple of the image's planes.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS

import skygraft

SHAPE = (4176, 2048)


def write_image(path: Path, shape: tuple[int, int] = SHAPE) -> Path:
    """An ordinary FITS image with variance and mask, sky noise of 10 counts, zeropoint and calibration radius."""
    rng = np.random.default_rng(1)
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval, wcs.wcs.crpix = [150.0, 2.0], [shape[1] / 2, shape[0] / 2]
    wcs.wcs.cd = np.diag([-0.2, 0.2]) / 3600
    header = wcs.to_header()
    header.update({"MAGZERO": 27.0, "CALAPRAD": 12.0, "GAIN": 2.0, "FILTER": "r", "BUNIT": "adu"})
    image = rng.normal(0, 10, shape).astype(np.float32)
    hdus = [
        fits.PrimaryHDU(header=header),
        fits.ImageHDU(image, header, name="IMAGE"),
        fits.ImageHDU(np.full(shape, 100, np.float32), name="VARIANCE"),
        fits.ImageHDU(np.zeros(shape, np.int32), name="MASK"),
    ]
    fits.HDUList(hdus).writeto(path, overwrite=True)
    return path


def make_catalog(n: int, shape: tuple[int, int] = SHAPE) -> Table:
    rng = np.random.default_rng(2)
    half_y, half_x = shape[0] * 0.1 / 3600, shape[1] * 0.1 / 3600
    return Table(
        {
            "injection_id": np.arange(n),
            "ra": 150.0 + rng.uniform(-half_x, half_x, n),
            "dec": 2.0 + rng.uniform(-half_y, half_y, n),
            "source_type": ["Star"] * n,
            "mag_r": rng.uniform(18, 24, n),
        }
    )


def resident_bytes(field: str) -> int:
    """A memory field of this process: VmRSS (now) or VmHWM (the peak since the last reset). Linux."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no {field} in /proc/self/status")


def reset_peak() -> None:
    """Start the peak again from what is resident now (ru_maxrss would remember the parent process)."""
    Path("/proc/self/clear_refs").write_text("5")


def once(source: Path, target: Path, catalog: Table, noise: bool) -> tuple[float, float]:
    """Processor seconds of reading and writing, and of injecting."""
    start = time.process_time()
    exposure = skygraft.read_exposure(source, psf={"kind": "moffat", "fwhm": "0.8 arcsec", "beta": 3.0})
    read = time.process_time()
    injection = skygraft.inject(exposure, catalog, noise=noise)
    injected = time.process_time()
    skygraft.write_exposure(injection.exposure, target, overwrite=True)
    return (read - start) + (time.process_time() - injected), injected - read


def measure(n_stars: int, repeats: int, folder: Path, shape: tuple[int, int] = SHAPE) -> dict[str, float]:
    """Medians over `repeats`, after one small run that compiles what is compiled."""
    small = (300, 300)
    once(write_image(folder / "small.fits", small), folder / "s.fits", make_catalog(20, small), True)
    source = write_image(folder / "image.fits", shape)
    catalog = make_catalog(n_stars, shape)
    before = resident_bytes("VmRSS")
    reset_peak()
    clean = [once(source, folder / "out.fits", catalog, False) for _ in range(repeats)]
    noisy = [once(source, folder / "out.fits", catalog, True) for _ in range(repeats)]
    io = statistics.median(t[0] for t in clean + noisy)
    planes = 12 * shape[0] * shape[1]
    return {
        "io_seconds": io,
        "inject_over_io": statistics.median(t[1] for t in clean) / io,
        "inject_with_noise_over_io": statistics.median(t[1] for t in noisy) / io,
        "peak_over_planes": (resident_bytes("VmHWM") - before) / planes,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stars", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for name, value in measure(options.stars, options.repeats, Path(folder)).items():
            print(f"{name:28s} {value:8.3f}")


if __name__ == "__main__":
    main()
