"""Crowded fields: ten million stars in one image, truth included, and how that compares with a stamp for each.

Run it: ``uv run python tests/benchmarks/bench_crowded.py``. The image has 4096 x 4096 pixels, a PSFEx model of degree
three (45 x 45 pixels, ten images); the stars span ten magnitudes, most of them faint. Printed are
processor time and peak memory of the whole process (catalogue, image, libraries included) for `inject`, with noise,
variance, mask and truth, and for writing the truth as a campaign does; what stamps of some of the stars take in the
same process; and how far the grid is from them, and both from the kernel moved in Fourier space without a frame. Judge
by processor time: on a shared machine wall time is that of others.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from astropy.table import Table
from bench_stars import varying_basis
from numpy.typing import NDArray

from skygraft.exposure import DataId, Exposure, VisitInfo, make_planes
from skygraft.injection import inject
from skygraft.photometry import CalibrationAperture, PhotoCalib
from skygraft.psf import PSF, Box, CellPSF, FixedKernelPSF, GriddedPSF, MoffatPSF, OversampledPSF, PsfexPSF
from skygraft.render import Canvas, Sources, render
from skygraft.tables.truth_parts import write_truth_part
from skygraft.wcs import FitsWcs

ZEROPOINT = 27.0
FWHM = 3.5


def psfs(side: int) -> dict[str, PSF]:
    """The PSFs that are timed: one image, and ten."""
    moffat = MoffatPSF(FWHM, 3.0, shape=(45, 45)).kernels(0, 0)[0]
    model = PsfexPSF(varying_basis(FWHM), 3, (side / 2, side / 2), (float(side), float(side)))
    return {"PSFEx, degree 3": model, "one kernel": FixedKernelPSF(moffat)}


def make_exposure(side: int, psf: PSF) -> Exposure:
    """An image of sky, at the Large Magellanic Cloud."""
    shape, scale = (side, side), 0.2 / 3600
    return Exposure(
        planes=make_planes(np.full(shape, 50, np.float32), np.full(shape, 100.0, np.float32), mask_planes={"BAD": 0}),
        wcs=FitsWcs.tan(80.0, -69.0, crpix=(side / 2, side / 2), cd=[[-scale, 0.0], [0.0, scale]]),
        psf=psf,
        photo_calib=PhotoCalib.from_zeropoint(ZEROPOINT, reference=CalibrationAperture(10.0, 2.0, "benchmark")),
        data_id=DataId("Camera", 12, 3, band="r"),
        visit_info=VisitInfo(60000.0, 30.0),
        gain=2.0,
        gain_origin="benchmark",
    )


def make_catalog(exposure: Exposure, n: int, seed: int = 1) -> Table:
    """Stars all over the image and a little beyond, with a luminosity function of slope 0.3 a magnitude."""
    rng, side = np.random.default_rng(seed), exposure.shape[0]
    x, y = rng.uniform(-30, side + 30, n), rng.uniform(-30, side + 30, n)
    ra, dec = exposure.wcs.pixel_to_world_values(x, y)
    mag = np.maximum(28.0 + np.log10(rng.uniform(1e-9, 1.0, n)) / 0.3, 18.0)
    columns = {"injection_id": np.arange(n), "ra": ra, "dec": dec, "source_type": np.full(n, "Star"), "mag_r": mag}
    return Table(columns, copy=False)


def peak_gigabytes(*, reset: bool = False) -> float:
    """Largest memory of this process since it was last reset."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024 / 1e9


def ideal_image(exposure: Exposure, truth: Table) -> NDArray[np.float64]:
    """Light of stars, each its kernel moved in Fourier space on a frame as large as the image, in double precision."""
    (ny, nx), image = exposure.shape, np.zeros(exposure.shape)
    assert exposure.psf is not None
    n_y, n_x = 2 * ny + 1, 2 * nx + 1
    ky, kx = 2 * np.pi * np.fft.fftfreq(n_y), 2 * np.pi * np.fft.rfftfreq(n_x)
    for row in truth:
        kernel = exposure.psf.kernels([row["x"]], [row["y"]])[0] * row["inst_flux"] * row["kernel_scale"]
        frame = np.zeros((n_y, n_x))
        frame[: kernel.shape[0], : kernel.shape[1]] = kernel
        x, y = row["x"] - kernel.shape[1] // 2, row["y"] - kernel.shape[0] // 2
        moved = np.fft.rfft2(frame) * np.exp(-1j * (ky[:, None] * y + kx * x))
        image += np.fft.irfft2(moved, (n_y, n_x))[:ny, :nx]
    return image


def agreement(n_ideal: int = 200, side: int = 512, density: float = 0.6) -> list[tuple[str, str]]:
    """How far the grid is from stamps in a crowded image, and both from the kernel without a frame in a sparse one."""
    exposure = make_exposure(side, psfs(side)["PSFEx, degree 3"])
    crowd = make_catalog(exposure, int(density * side**2))
    settings = {"noise": False, "mark_injected": False}
    by = {how: inject(exposure, crowd, stars=how, **settings) for how in ("grid", "stamps")}
    light = {how: found.exposure.image.astype(float) - exposure.image for how, found in by.items()}
    noise = np.sqrt(100.0 + light["stamps"] / 2.0)
    apart = np.abs(light["grid"] - light["stamps"])
    flux, other = (np.asarray(by[how].truth["flux_deposited"]) for how in ("grid", "stamps"))
    miss = np.abs(flux - other) / np.asarray(by["grid"].truth["inst_flux"])
    rows = [
        (
            "grid from stamps, of a pixel's noise",
            f"median {np.median(apart / noise):.0e}, most {(apart / noise).max():.0e}",
        ),
        ("grid from stamps, of a pixel's light", f"median {np.median(apart / light['stamps']):.0e}"),
        ("grid from stamps, light of a star on the image", f"most {miss.max():.0e} of its flux"),
    ]
    small = make_exposure(256, psfs(256)["PSFEx, degree 3"])
    few = make_catalog(small, n_ideal)
    few["mag_r"] = 20.0
    for how in ("grid", "stamps"):
        found = inject(small, few, stars=how, **settings)
        if how == "grid":
            ideal = ideal_image(small, found.truth[found.truth["stamp_size"] > 0])
        missed = np.abs(found.exposure.image.astype(float) - small.image - ideal) / ideal.max()
        rows.append((f"{how} from the kernel without a frame, of the peak", f"{missed.max():.0e}"))
    return rows


def other_psfs(n: int = 200_000, side: int = 1024, n_stamps: int = 4000) -> list[tuple[str, str]]:
    """Time PSFs that are evaluated between pixels, and one in cells: on the grid, and star by star."""
    y, x = np.mgrid[-100:101, -100:101] / 4.0
    images = [(1 + (x**2 + y**2) / width**2) ** -2.5 for width in np.linspace(1.0, 1.15, 16)]
    lines, cells = np.linspace(0, side - 1, 4), -(-side // 150)
    kernels = [MoffatPSF(4 + 0.01 * k, 3.0, shape=(31, 31)).kernels(0, 0)[0] for k in range(cells**2)]
    tried: dict[str, PSF] = {
        "4 samples a pixel": OversampledPSF(images[0], 4, normalize=True),
        "16 of them on a grid": GriddedPSF(images, [(a, b) for b in lines for a in lines], 4, normalize=True),
        "Moffat of 1.6 pixels": MoffatPSF(1.6, 3.0, shape=(31, 31)),
        "Moffat of 1.6 pixels, larger": MoffatPSF(1.6, 3.0, shape=(61, 61)),
        "cells": CellPSF(np.reshape(kernels, (cells, cells, 31, 31)), (0, 0), (150, 150)),
    }
    rows, box = [], Box(-0.5, side - 0.5, -0.5, side - 0.5)
    rng = np.random.default_rng(1)
    place, flux = rng.uniform(30, side - 30, (2, n)), rng.uniform(1, 100, n)
    shapes = np.broadcast_to(np.nan, (n, 2, 2))

    def took(psf: PSF, some: int, how: str) -> float:
        stars = Sources(np.arange(some), np.full(some, "Star"), *place[:, :some], flux[:some], shapes[:some], {})
        start = time.process_time()
        render(stars, psf, Canvas.empty((side, side), (0, 0)), box, Unscaled(), stars=how)  # type: ignore[arg-type]
        return time.process_time() - start

    for name, psf in tried.items():
        took(psf, 10, "grid")
        fixed = min(took(psf, 10, "stamps") for _ in range(3))
        stamp = min(took(psf, n_stamps, "stamps") - fixed for _ in range(3)) / (n_stamps - 10)
        grid = min(took(psf, n, "precise") for _ in range(3)) / n
        rows.append((f"{name}, {psf.shape[1]} x {psf.shape[0]}: a stamp; on the grid",
                     f"{1e6 * stamp:.1f} µs; {1e6 * grid:.1f} µs: {stamp / grid:.1f} times"))  # fmt: skip
    return rows


class Unscaled:
    """Kernels as they are."""

    def __call__(
        self, kernels: NDArray[np.float64], x: NDArray[np.float64], y: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Factors of one."""
        return np.ones(len(x)), np.ones(len(x))

    of_coefficients = __call__


def main() -> None:
    """Print a table of what was measured."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--stars", type=float, default=1e7, help="number of stars")
    options.add_argument("--side", type=int, default=4096, help="pixels of a side of the image")
    options.add_argument("--sample", type=int, default=200_000, help="stars that are drawn as stamps to compare")
    options.add_argument("--psf", choices=["PSFEx, degree 3", "one kernel"], default="PSFEx, degree 3")
    given = options.parse_args()
    n = int(given.stars)
    exposure = make_exposure(given.side, psfs(given.side)[given.psf])
    inject(exposure, make_catalog(exposure, 100), stars="grid")  # compiled loops
    sample = make_catalog(exposure, given.sample, seed=2)
    inject(exposure, sample[:100], stars="stamps")
    start = time.process_time()
    inject(exposure, sample[:100], stars="stamps")
    fixed = time.process_time() - start
    start = time.process_time()
    inject(exposure, sample, stars="stamps")
    of_stamp = (time.process_time() - start - fixed) / (given.sample - 100)
    catalog = make_catalog(exposure, n)
    peak_gigabytes(reset=True)
    before, start = peak_gigabytes(), time.process_time()
    found = inject(exposure, catalog)
    took, peak = time.process_time() - start, peak_gigabytes()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "truth.arrow"
        start = time.process_time()
        write_truth_part(path, found.truth)
        writing, size = time.process_time() - start, path.stat().st_size
    after = peak_gigabytes()
    rows = [
        ("image, PSF", f"{given.side} x {given.side}, {given.psf}, {exposure.psf.shape}"),  # type: ignore[union-attr]
        ("stars; on the image", f"{n:,}; {found.summary['n_drawn']:,}"),
        ("inject", f"{took:.1f} s, {took / n * 1e6:.2f} µs a star"),
        ("peak memory of the process; before, with the catalogue", f"{peak:.2f} GB; {before:.2f} GB"),
        ("writing the truth; its size; peak memory", f"{writing:.1f} s; {size / 1e9:.2f} GB; {after:.2f} GB"),
        ("together", f"{took + writing:.1f} s"),
        ("a star as a stamp, all else included", f"{of_stamp * 1e6:.2f} µs: {of_stamp * n / took:.1f} times as long"),
    ]
    del found, catalog
    for name, value in rows + agreement() + other_psfs():
        print(f"{name:<58} {value}")


if __name__ == "__main__":
    main()
