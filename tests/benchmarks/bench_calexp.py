"""One full-size image, end to end: processor time and memory of reading, injecting and writing.

Run it: ``uv run python tests/benchmarks/bench_calexp.py``. For each compression it prints medians over a few repeats:
the time of reading and writing, that of everything as a ratio to it, and how many times longer it takes to draw the
galaxies and stars by GalSim and to write the whole file anew; and the peak memory as a multiple of the image's planes.
What is compared is done in turn, so that a machine that is slower at times is so for all of it.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import galsim
import numpy as np
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS

import skygraft

SHAPE = (4176, 2048)
TILE = (256, 256)


def write_image(path: Path, shape: tuple[int, int] = SHAPE, compression: str | None = None) -> Path:
    """An ordinary FITS image with variance and mask, sky noise of 10 counts, zeropoint and calibration radius."""
    rng = np.random.default_rng(1)
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval, wcs.wcs.crpix = [150.0, 2.0], [shape[1] / 2, shape[0] / 2]
    wcs.wcs.cd = np.diag([-0.2, 0.2]) / 3600
    header = wcs.to_header()
    header.update({"MAGZERO": 27.0, "CALAPRAD": 12.0, "GAIN": 2.0, "FILTER": "r", "BUNIT": "adu"})
    sky = rng.normal(0, 10, shape).astype(np.float32)
    # As real planes are: variance that follows the image, a mask with a few flags.
    planes = {"IMAGE": sky, "VARIANCE": (100 + sky / 2).astype(np.float32), "MASK": np.zeros(shape, np.int32)}
    planes["MASK"][rng.random(shape) < 1e-3] = 1
    hdus: list[fits.PrimaryHDU | fits.ImageHDU | fits.CompImageHDU] = [fits.PrimaryHDU(header=header)]
    for name, plane in planes.items():
        own = header if name == "IMAGE" else None
        if compression is None:
            hdus.append(fits.ImageHDU(plane, own, name=name))
        else:
            how = {"compression_type": compression, "quantize_level": 0.0, "tile_shape": TILE}
            if compression == "RICE_1":
                how["quantize_level"] = 16.0
            hdus.append(fits.CompImageHDU(plane, own, name=name, **how))
    fits.HDUList(hdus).writeto(path, overwrite=True)
    return path


def make_catalog(n_stars: int, n_galaxies: int = 0, shape: tuple[int, int] = SHAPE) -> Table:
    """Sources all over the image, as read from a file: campaigns read their catalogues once for all images."""
    rng = np.random.default_rng(2)
    n = n_stars + n_galaxies
    half_y, half_x = shape[0] * 0.1 / 3600, shape[1] * 0.1 / 3600
    galaxy = np.arange(n) >= n_stars
    index = np.where(rng.random(n) < 0.8, rng.uniform(0.6, 1.6, n), rng.uniform(2.5, 4.5, n))
    shapes = {"n": index, "half_light_radius": 0.35 * np.exp(rng.normal(0, 0.4, n)), "q": rng.uniform(0.2, 1, n)}
    return skygraft.normalize_catalog(
        Table(
            {
                "injection_id": np.arange(n),
                "ra": 150.0 + rng.uniform(-half_x, half_x, n),
                "dec": 2.0 + rng.uniform(-half_y, half_y, n),
                "source_type": np.where(galaxy, "Sersic", "Star"),
                "mag_r": rng.uniform(18, 24, n),
                "pa": np.where(galaxy, rng.uniform(0, 180, n), np.nan),
            }
            | {name: np.where(galaxy, values, np.nan) for name, values in shapes.items()}
        )
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


def floor(source: Path, target: Path, injected: skygraft.Exposure) -> float:
    """Processor seconds of reading an exposure, and of writing it with the pixels changed that injection changed."""
    start = time.process_time()
    exposure = skygraft.read_exposure(source, psf={"kind": "moffat", "fwhm": "0.8 arcsec", "beta": 3.0})
    read = time.process_time() - start
    del exposure
    start = time.process_time()
    skygraft.write_exposure(injected, target, overwrite=True)
    return read + time.process_time() - start


def by_galsim(source: Path, target: Path, catalog: Table, turn: int) -> float:
    """Processor seconds of drawing every source through GalSim, and reading and writing all planes with astropy.

    As injectors do, for each source the kernel at its place is interpolated and convolved with. A tenth of the sources
    is drawn, and their time counted ten times; the noise is numpy's. Each turn has Sersic indices of its own, as
    another image would: GalSim keeps what it made for the last hundred.
    """
    start = time.process_time()
    with fits.open(source, memmap=False) as hdus:
        planes = [hdu.data for hdu in hdus[1:]]
        wcs = WCS(hdus[1].header)
    opened = time.process_time() - start
    kernel = galsim.Convolve(galsim.Moffat(beta=3.0, fwhm=4.0), galsim.Pixel(1.0)).drawImage(
        nx=45, ny=45, scale=1.0, method="no_pixel"
    )
    columns = {name: np.asarray(catalog[name]) for name in ("ra", "dec", "mag_r", "n", "half_light_radius", "q", "pa")}
    stars = np.asarray(catalog["source_type"]) == "Star"
    x, y = wcs.world_to_pixel_values(columns["ra"], columns["dec"])
    model = galsim.ImageF(planes[0].shape[1], planes[0].shape[0], xmin=0, ymin=0)
    start = time.process_time()
    for i in range(0, len(catalog), 10):
        row = {name: float(column[i]) for name, column in columns.items()}
        flux = 10 ** (0.4 * (27.0 - row["mag_r"]))
        if stars[i]:
            source_profile, half = galsim.DeltaFunction(flux), 27
        else:
            source_profile = galsim.Sersic(
                row["n"] + 1e-6 * turn, half_light_radius=row["half_light_radius"] / 0.2, flux=flux
            )
            source_profile, half = source_profile.shear(q=row["q"], beta=row["pa"] * galsim.degrees), 0
        drawn = galsim.Convolve(source_profile, galsim.InterpolatedImage(kernel))
        half = half or drawn.getGoodImageSize(1.0) // 2
        ix, iy = round(float(x[i])), round(float(y[i]))
        bounds = galsim.BoundsI(ix - half, ix + half, iy - half, iy + half)
        stamp = galsim.ImageF(bounds)
        drawn.drawImage(stamp, method="no_pixel", scale=1.0, center=galsim.PositionD(float(x[i]), float(y[i])))
        common = bounds & model.bounds
        if common.isDefined():
            model[common] += stamp[common]
    drawing = 10 * (time.process_time() - start)
    start = time.process_time()
    touched = model.array > 0
    planes[0][touched] += np.random.default_rng(1).poisson(2.0 * model.array[touched]) / 2.0
    planes[1][touched] += model.array[touched] / 2.0
    with fits.open(source, memmap=False) as hdus:
        for hdu, plane in zip(hdus[1:], planes, strict=True):
            hdu.data = plane
        hdus.writeto(target, overwrite=True)
    return opened + drawing + time.process_time() - start


def measure(
    n_stars: int,
    n_galaxies: int,
    repeats: int,
    folder: Path,
    compression: str | None = None,
    shape: tuple[int, int] = SHAPE,
) -> dict[str, float]:
    """Medians over `repeats`, after one small run that compiles what is compiled."""
    small = (600, 600)
    small_catalog = make_catalog(20, 20 if n_galaxies else 0, small)
    once(write_image(folder / "small.fits", small, compression), folder / "s.fits", small_catalog, True)
    source = write_image(folder / "image.fits", shape, compression)
    catalog = make_catalog(n_stars, n_galaxies, shape)
    target = folder / "out.fits"
    before = resident_bytes("VmRSS")
    reset_peak()
    for noise in (False, True):
        once(source, target, catalog, noise)
    peak = resident_bytes("VmHWM") - before
    exposure = skygraft.read_exposure(source, psf={"kind": "moffat", "fwhm": "0.8 arcsec", "beta": 3.0})
    injected = skygraft.inject(exposure, catalog, noise=True).exposure
    clean, noisy, floors, others = [], [], [], []
    for turn in range(repeats):
        clean.append(once(source, target, catalog, False))
        floors.append(floor(source, target, injected))
        noisy.append(once(source, target, catalog, True))
        others.append(by_galsim(source, target, catalog, turn))
    whole = [sum(times) for times in noisy]
    return {
        "read_write_seconds": statistics.median(floors),
        "seconds": statistics.median(whole),
        "inject_seconds": statistics.median(t[1] for t in clean),
        "inject_with_noise_seconds": statistics.median(t[1] for t in noisy),
        "all_over_read_write": statistics.median(a / b for a, b in zip(whole, floors, strict=True)),
        "galsim_over_all": statistics.median(a / b for a, b in zip(others, whole, strict=True)),
        "peak_over_planes": peak / (12 * shape[0] * shape[1]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--stars", type=int, default=500)
    parser.add_argument("--galaxies", type=int, default=500)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--compressions", nargs="*", default=["none", "GZIP_2", "RICE_1"])
    options = parser.parse_args()
    for name in options.compressions:
        with tempfile.TemporaryDirectory() as folder:
            compression = None if name == "none" else name
            found = measure(options.stars, options.galaxies, options.repeats, Path(folder), compression)
        for key, value in found.items():
            print(f"{name:8s} {key:28s} {value:8.3f}")


if __name__ == "__main__":
    main()
