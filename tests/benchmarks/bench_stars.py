"""Stars and PSFs: processor time of one star and of one PSF evaluation, with what accuracy is reached for it.

Run it: ``uv run python tests/benchmarks/bench_stars.py``. Stars are drawn as an injection draws them (PSF at each
position, flux inside the calibration aperture, width for the truth table, shift, addition), in each mode, and as GalSim
draws the same stars in the same process: a point convolved with an InterpolatedImage of the kernel at its position, as
injectors do, drawn without a pixel onto a stamp that is added. GalSim's quicker way, the InterpolatedImage itself, is
a line of its own. Times are medians of processor time, on one core.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import galsim
import numpy as np
from numpy.typing import NDArray

from skygraft.photometry import BasisScale, CalibrationAperture, enclosed_flux, kernel_scale
from skygraft.psf import (
    PSF,
    Box,
    DoubleGaussianPSF,
    FixedKernelPSF,
    FwhmMeter,
    GaussianPSF,
    KernelBasisPSF,
    LinearPSF,
    MoffatPSF,
    PsfexPSF,
    SinglePrecisionBasis,
    kernel_fwhm,
)
from skygraft.render.canvas import Canvas
from skygraft.render.shift import FAST, PRECISE
from skygraft.render.stars import StarPainter

SHAPE = (4176, 2048)
BOX = Box(-0.5, SHAPE[1] - 0.5, -0.5, SHAPE[0] - 0.5)
RADIUS = 12.0
MARGIN = {"precise": PRECISE.margin, "fast": FAST.margin}


@dataclass(frozen=True)
class Row:
    """One line of the result.

    Parameters
    ----------
    name : str
        What was timed.
    microseconds : float
        Processor time of one star, or of one kernel.
    ratio : float
        How many times longer the comparison takes: GalSim for stars, the model's own call for kernels.
    errors : dict of str to float
        What is reached.
    """

    name: str
    microseconds: float
    ratio: float
    errors: dict[str, float]


class ApertureScale:
    """Ties kernels to an aperture, as an injection does."""

    def __init__(self, psf: PSF) -> None:
        self._reference = CalibrationAperture(RADIUS)
        self._of_basis = BasisScale("calibrated", self._reference, psf.basis) if isinstance(psf, LinearPSF) else None

    def __call__(
        self, kernels: NDArray[np.float64], x: NDArray[np.float64], y: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        made = kernel_scale("calibrated", self._reference, kernels)
        return made.scale, made.aperture_fraction

    def of_coefficients(
        self, coefficients: NDArray[np.float64], x: NDArray[np.float64], y: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        assert self._of_basis is not None
        made = self._of_basis(coefficients)
        return made.scale, made.aperture_fraction


def varying_basis(fwhm: float, n: int = 45) -> NDArray[np.float64]:
    """Ten images: a Moffat, and nine that change its size, shape and place."""
    moffat = MoffatPSF(fwhm, 3.0, shape=(n, n)).kernels(0, 0)[0]
    y, x = np.mgrid[-(n // 2) : n // 2 + 1, -(n // 2) : n // 2 + 1] / fwhm
    window = np.exp(-0.1 * (x**2 + y**2))
    powers = [(1, 0), (0, 1), (2, 0), (1, 1), (0, 2), (3, 0), (2, 1), (1, 2), (0, 3)]
    return np.array([moffat, *(0.02 * moffat * window * x**i * y**j for i, j in powers)])


def psfex(fwhm: float, convention: str = "psfex") -> PsfexPSF:
    """A PSFEx model of degree 3 with native sampling: 45 x 45 pixels, ten images."""
    zero, scale = (SHAPE[1] / 2, SHAPE[0] / 2), (float(SHAPE[1]), float(SHAPE[0]))
    return PsfexPSF(varying_basis(fwhm), 3, zero, scale, convention=convention)  # type: ignore[arg-type]


def psf_kinds() -> dict[str, PSF]:
    """One PSF of every kind, of 45 x 45 pixels."""
    rng = np.random.default_rng(5)
    table = rng.normal(scale=0.2, size=(10, 10))
    table[0], table[0, 0] = 0.0, 1.0
    return {
        "Gaussian": GaussianPSF(fwhm=3.5, shape=(45, 45)),
        "DoubleGaussian": DoubleGaussianPSF(1.5, 3.0, 0.1, shape=(45, 45)),
        "Moffat": MoffatPSF(3.5, 3.0, shape=(45, 45)),
        "FixedKernel": FixedKernelPSF(varying_basis(3.5)[0]),
        "KernelBasis": KernelBasisPSF(varying_basis(3.5), table, chebyshev_box=BOX),
        "Psfex": psfex(3.5),
        "Psfex, lsst": psfex(3.5, "lsst"),
    }


def median_time(call: Callable[[], object], n: int, repeats: int) -> float:
    """Processor microseconds of one of the n things that `call` does."""
    call()  # compiled loops and caches
    times = []
    for _ in range(repeats):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return statistics.median(times) / n * 1e6


def places(n: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Random positions on the image, all of whose light lies on it."""
    rng = np.random.default_rng(7)
    return rng.uniform(40, SHAPE[1] - 40, n), rng.uniform(40, SHAPE[0] - 40, n)


def galsim_star(
    canvas: Canvas, kernel: NDArray[np.float64], x: float, y: float, flux: float, *, convolve: bool = True
) -> None:
    """The usual way to draw a star from a kernel at its position."""
    ny, nx = kernel.shape
    ix, iy = round(x), round(y)
    star = galsim.InterpolatedImage(galsim.Image(kernel, scale=1.0), flux=flux, normalization="flux")
    if convolve:
        star = galsim.Convolve(galsim.DeltaFunction(), star)
    stamp = galsim.Image(nx + 10, ny + 10, dtype=np.float32)
    star.shift(x - ix, y - iy).drawImage(stamp, method="no_pixel", scale=1.0)
    canvas.add(stamp.array.astype(np.float64), ix - (nx + 10) // 2, iy - (ny + 10) // 2)


def star_errors(engine: str, fwhm: float) -> dict[str, float]:
    """Largest errors of shifted stars against phases on a transform in double precision.

    ``pixel`` in units of the peak, ``flux`` inside 12 pixels of that of the kernel where it is, both measured on the
    stamp; ``centroid`` in pixels, weighted by a Gaussian of the PSF's width.
    """
    kernel = MoffatPSF(fwhm, 3.0, shape=(45, 45)).kernels(0, 0)[0]
    psf = FixedKernelPSF(kernel)
    margin = MARGIN.get(engine, 5)
    frame = np.pad(kernel, margin)
    n = frame.shape[0]
    k = 2 * np.pi * np.fft.fftfreq(n)
    axis = np.arange(n) - n // 2
    whole = enclosed_flux(kernel, RADIUS)[0]
    worst = {"pixel": 0.0, "centroid": 0.0, "flux": 0.0}
    for fx, fy in np.random.default_rng(1).uniform(-0.499, 0.499, (40, 2)):
        canvas = Canvas.empty((n, n), (0, 0))
        x, y = n // 2 + fx, n // 2 + fy
        if engine.startswith("galsim"):
            galsim_star(canvas, kernel, x, y, kernel.sum(), convolve=engine == "galsim")
        else:
            painter = StarPainter(psf, BOX, engine)  # type: ignore[arg-type]
            painter.add(canvas, np.array([x]), np.array([y]), np.array([whole]), ApertureScale(psf))
        exact = np.fft.ifft2(np.fft.fft2(frame) * np.exp(-1j * (fy * k[:, None] + fx * k))).real
        weights = [np.exp(-0.5 * ((axis - f) * 2.355 / fwhm) ** 2) for f in (fx, fy)]
        means = []
        for image in (canvas.model, exact):
            weighted = image * weights[1][:, None] * weights[0]
            means.append((weighted.sum(axis=0) @ axis) / weighted.sum())
        back = np.exp(1j * (fy * k[:, None] + fx * k))
        there = [
            enclosed_flux(np.fft.ifft2(np.fft.fft2(image) * back).real, RADIUS)[0]
            for image in (canvas.model.astype(float), exact)
        ]
        worst["pixel"] = max(worst["pixel"], float(np.abs(canvas.model - exact).max() / kernel.max()))
        worst["centroid"] = max(worst["centroid"], 2 * abs(means[0] - means[1]))
        worst["flux"] = max(worst["flux"], abs(there[0] / there[1] - 1))
    return worst


def bench_stars(n: int = 2048, repeats: int = 5, n_peer: int = 100, fwhm: float = 3.5) -> list[Row]:
    """Stars of a PSFEx model (45 x 45 pixels, ten images) in each mode, and through GalSim."""
    psf = psfex(fwhm)
    x, y = places(n)
    flux = np.full(n, 1000.0)
    canvas = Canvas.empty(SHAPE, (0, 0))
    tie = ApertureScale(psf)

    def peer(convolve: bool = True) -> None:
        for i in range(n_peer):
            kernel = psf.kernels(x[i : i + 1], y[i : i + 1])
            scale, _ = tie(kernel, x[i : i + 1], y[i : i + 1])
            kernel_fwhm(kernel)
            galsim_star(canvas, kernel[0], x[i], y[i], float(flux[i] * scale[0] * kernel.sum()), convolve=convolve)

    slow = median_time(peer, n_peer, max(1, repeats // 2))
    rows = []
    for engine in ("precise", "fast"):
        painter = StarPainter(psf, BOX, engine)  # type: ignore[arg-type]

        def draw(painter: StarPainter = painter) -> None:
            for start in range(0, n, painter.batch):
                part = slice(start, start + painter.batch)
                painter.add(canvas, x[part], y[part], flux[part], tie)

        took = median_time(draw, n, repeats)
        rows.append(Row(f"stars, {engine}", took, slow / took, star_errors(engine, fwhm)))
        prepare = median_time(lambda engine=engine: StarPainter(psf, BOX, engine), 1, repeats)  # type: ignore[misc]
        rows.append(Row(f"preparing an image, {engine}", prepare, float("nan"), {}))
    alone = median_time(lambda: peer(convolve=False), n_peer, max(1, repeats // 2))
    rows.append(Row("stars, GalSim, not convolved", alone, slow / alone, star_errors("galsim alone", fwhm)))
    rows.append(Row("stars, GalSim", slow, 1.0, star_errors("galsim", fwhm)))
    return rows


def bench_parts(n: int = 2048, repeats: int = 5) -> list[Row]:
    """What a star needs of its PSF besides pixels: normalisation and width, against measuring each kernel."""
    psf = psfex(3.5)
    x, y = places(n)
    coefficients, kernels = psf.coefficients(x, y), psf.kernels(x, y)
    tie, meter = ApertureScale(psf), FwhmMeter(psf, x[:9], y[:9])
    rows = []
    for name, fast, slow in (
        ("aperture flux", lambda: tie.of_coefficients(coefficients, x, y)[1], lambda: tie(kernels, x, y)[1]),
        ("FWHM", lambda: meter(coefficients), lambda: kernel_fwhm(kernels)),
    ):
        took = median_time(fast, n, repeats)
        error = float(np.abs(fast() / slow() - 1).max())
        rows.append(Row(name, took, median_time(slow, n, repeats) / took, {"relative": error}))
    return rows


def bench_psfs(n: int = 2048, repeats: int = 5) -> list[Row]:
    """Every kind of PSF in chunks of 256 positions: its own call, and single precision from its coefficients."""
    x, y = places(n)
    chunks = [slice(start, start + 256) for start in range(0, n, 256)]
    rows = []
    for name, psf in psf_kinds().items():

        def one_by_one(psf: PSF = psf) -> None:
            for chunk in chunks:
                psf.kernels(x[chunk], y[chunk])

        own = median_time(one_by_one, n, repeats)
        rows.append(Row(name, own, 1.0, {}))
        if not isinstance(psf, LinearPSF):
            continue
        basis = SinglePrecisionBasis(psf.basis)

        def from_coefficients(psf: LinearPSF = psf, basis: SinglePrecisionBasis = basis) -> None:
            coefficients = psf.coefficients(x, y)
            for chunk in chunks:
                basis.kernels(coefficients[chunk])

        single = median_time(from_coefficients, n, repeats)
        kernels = psf.kernels(x[:256], y[:256])
        error = np.abs(basis.kernels(psf.coefficients(x[:256], y[:256])) - kernels).max() / kernels.max()
        rows.append(Row(f"{name}, single precision", single, own / single, {"pixel": float(error)}))

        room = np.empty((256, *psf.shape), dtype=np.float32)

        def into_room(psf: LinearPSF = psf, basis: SinglePrecisionBasis = basis, room: NDArray[Any] = room) -> None:
            coefficients = psf.coefficients(x, y)
            for chunk in chunks:
                basis.kernels(coefficients[chunk], room)

        given = median_time(into_room, n, repeats)
        rows.append(Row(f"{name}, into a given array", given, own / given, {"pixel": float(error)}))
    return rows


def report(title: str, rows: list[Row]) -> None:
    """Print rows as a table."""
    print(f"\n{title}")
    for row in rows:
        errors = "  ".join(f"{name} {value:.1e}" for name, value in row.errors.items())
        ratio = "" if np.isnan(row.ratio) else f"{row.ratio:8.1f} x"
        print(f"  {row.name:32s} {row.microseconds:10.2f} us {ratio:10s}  {errors}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--stars", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    report("One star (45 x 45 pixels, ten basis images, FWHM 3.5)", bench_stars(args.stars, args.repeats))
    report("Of which, against measuring each kernel", bench_parts(args.stars, args.repeats))
    report("One PSF kernel of 45 x 45 pixels", bench_psfs(args.stars, args.repeats))
    print(
        "\nErrors of shifted stars (Moffat, beta 3): largest pixel over the peak, centroid in pixels, flux in 12 pixels"
    )
    for fwhm in (2.5, 3.0, 4.0, 5.0):
        for engine in ("precise", "fast", "galsim"):
            errors = "  ".join(f"{name} {value:.1e}" for name, value in star_errors(engine, fwhm).items())
            print(f"  FWHM {fwhm}  {engine:8s} {errors}")


if __name__ == "__main__":
    main()
