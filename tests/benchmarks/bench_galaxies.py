"""Galaxies: processor time of one, as a ratio to GalSim drawing the same ones, with what accuracy is reached for it.

Run it: ``uv run python tests/benchmarks/bench_galaxies.py``. They are drawn as an injection draws them: PSF at each
position, flux inside the calibration aperture, width for the truth table, transform, wings, addition. GalSim draws the
same ones in the same process: a Sersic of the galaxy's own index, convolved with an InterpolatedImage of the kernel at
its position, drawn without a pixel onto a stamp of the same size, with GalSim's default parameters. Errors are largest
pixels over the peak, against transforms in double precision on a large grid.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Iterator
from typing import cast

import galsim
import numpy as np
from bench_stars import BOX, SHAPE, ApertureScale, Row, median_time, psfex, report
from numpy.typing import NDArray

from skygraft.psf import Box, FixedKernelPSF
from skygraft.render import Canvas, Sources, render
from skygraft.render.engine import GalaxyEngine
from skygraft.render.prepared import PreparedPsf

SCALE = 0.2
TOLERANCE = 1e-3
JACOBIAN = np.array([[-SCALE, 0.0], [0.0, SCALE]])
_TIGHT = galsim.GSParams(kvalue_accuracy=1e-7, maximum_fft_size=1 << 15, integration_relerr=1e-8)


def galaxies(kind: str, n: int, seed: int = 1) -> Sources:
    """Random galaxies: ``survey`` (median 0.35 arcsec, 80 % disks), ``disks`` and ``bulges`` of it, or ``any``."""
    rng = np.random.default_rng(seed)
    radius = 0.35 * np.exp(rng.normal(0, 0.4, n))
    disk, bulge = rng.uniform(0.6, 1.6, n), rng.uniform(2.5, 4.5, n)
    index = {"survey": np.where(rng.random(n) < 0.8, disk, bulge), "disks": disk, "bulges": bulge}.get(kind, disk)
    q = rng.uniform(0.2, 1.0, n)
    if kind == "any":
        radius, index, q = rng.uniform(0.1, 2.0, n), rng.uniform(0.5, 4.5, n), rng.uniform(0.1, 1.0, n)
    return Sources(
        injection_id=np.arange(n),
        source_type=np.full(n, "Sersic"),
        x=rng.uniform(100, SHAPE[1] - 100, n),
        y=rng.uniform(100, SHAPE[0] - 100, n),
        flux=np.full(n, 1000.0),
        jacobian=np.repeat(JACOBIAN[None], n, axis=0),
        shape={"n": index, "half_light_radius": radius, "q": q, "pa": rng.uniform(0, 180, n)},
    )


def galsim_profile(sources: Sources, i: int, params: galsim.GSParams | None = None) -> galsim.GSObject:
    """The profile of one galaxy, flux 1, in pixels."""
    value = {name: float(column[i]) for name, column in sources.shape.items()}
    profile = galsim.Sersic(value["n"], half_light_radius=value["half_light_radius"], gsparams=params)
    profile = profile.shear(q=value["q"], beta=(90 - value["pa"]) * galsim.degrees)
    return galsim.JacobianWCS(*JACOBIAN.ravel()).profileToImage(profile)


def galsim_galaxy(
    canvas: Canvas, sources: Sources, i: int, kernel: NDArray[np.float64], flux: float, stamp_size: int
) -> None:
    """The usual way to draw a galaxy."""
    x, y = float(sources.x[i]), float(sources.y[i])
    ix, iy, half = round(x), round(y), stamp_size // 2
    psf = galsim.InterpolatedImage(galsim.Image(kernel, scale=1.0), normalization="flux", flux=kernel.sum())
    stamp = galsim.Image(stamp_size, stamp_size, dtype=np.float32)
    galaxy = galsim.Convolve(galsim_profile(sources, i) * flux, psf).shift(x - ix, y - iy)
    galaxy.drawImage(stamp, method="no_pixel", scale=1.0)
    canvas.add(stamp.array.astype(np.float64), ix - half, iy - half)


def direct(sources: Sources, i: int, kernel: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """One galaxy times kernel in Fourier space on a grid of `size` pixels, in the middle of it, in float64."""
    k = 2 * np.pi * np.fft.fftfreq(size)
    kx, ky = np.meshgrid(k[: size // 2 + 1], k)
    kx[:, -1] = np.pi
    box = np.zeros((size, size))
    box[: kernel.shape[0], : kernel.shape[1]] = kernel
    pixels = galsim_profile(sources, i, _TIGHT)
    image = pixels.drawKImage(nx=size, ny=size, scale=2 * np.pi / size).array
    transform = np.fft.ifftshift(image)[:, : size // 2 + 1]
    shift = size // 2 - kernel.shape[0] // 2
    dx, dy = (float(v[i]) - round(float(v[i])) + shift for v in (sources.x, sources.y))
    whole = np.fft.rfft2(box) * transform * np.exp(-1j * (kx * dx + ky * dy)) * float(sources.flux[i])
    return np.asarray(np.fft.irfft2(whole, (size, size)))


def errors(
    sources: Sources, kernel: NDArray[np.float64], engine: GalaxyEngine, size: int = 1024
) -> Iterator[tuple[float, float]]:
    """Largest error over the peak, and the part of the flux that is missing, of each galaxy."""
    middle = size // 2
    box = Box(-0.5, size - 0.5, -0.5, size - 0.5)
    for i in range(len(sources)):
        rows = {name: column[i : i + 1] for name, column in sources.shape.items()}
        one = Sources(
            sources.injection_id[i : i + 1],
            sources.source_type[i : i + 1],
            np.array([middle + sources.x[i] - round(sources.x[i])]),
            np.array([middle + sources.y[i] - round(sources.y[i])]),
            sources.flux[i : i + 1],
            sources.jacobian[i : i + 1],
            rows,
        )
        canvas = Canvas.empty((size, size), (0, 0))
        psf = FixedKernelPSF(kernel)
        made = render(one, psf, canvas, box, ApertureScale(psf), flux_tolerance=TOLERANCE, galaxies=engine)
        scale = float(made.kernel_scale[0])
        exact = scale * direct(one, 0, kernel, size)
        drawn = canvas.model != 0
        whole = float(one.flux[0]) * scale * kernel.sum()
        yield float(np.abs(canvas.model - exact)[drawn].max() / exact.max()), 1 - float(made.flux_deposited[0]) / whole


def bench_galaxies(
    kinds: tuple[str, ...] = ("survey", "disks", "bulges", "any", "survey, precise", "any, precise"),
    n: int = 1000,
    repeats: int = 9,
    n_peer: int = 40,
    n_exact: int = 30,
) -> list[Row]:
    """Galaxies of some kinds, with a PSFEx model of 45 x 45 pixels and ten images."""
    psf = psfex(3.5)
    tie = ApertureScale(psf)
    rows = []
    for name in kinds:
        kind, _, engine = name.partition(", ")
        draw = functools.partial(render, flux_tolerance=TOLERANCE, galaxies=cast(GalaxyEngine, engine or "fast"))
        sources = galaxies(kind, n)
        canvas = Canvas.empty(SHAPE, (0, 0))
        sizes = draw(sources, psf, canvas, BOX, tie).stamp_size
        took = median_time(functools.partial(draw, sources, psf, canvas, BOX, tie), n, repeats)

        start = time.process_time()
        for i in range(n_peer):
            x, y = sources.x[i : i + 1], sources.y[i : i + 1]
            kernel = psf.kernels(x, y)
            scale, _ = tie(kernel, x, y)
            galsim_galaxy(canvas, sources, i, kernel[0], float(sources.flux[i] * scale[0]), int(sizes[i]))
        slow = (time.process_time() - start) / n_peer * 1e6

        some = galaxies(kind, n_exact, seed=2)
        kernel = psf.kernels([SHAPE[1] / 2], [SHAPE[0] / 2])[0]
        found = np.array(list(errors(some, kernel, cast(GalaxyEngine, engine or "fast"))))
        reached = {"median": float(np.median(found[:, 0])), "largest": float(found[:, 0].max())}
        rows.append(Row(f"galaxies, {name}", took, slow / took, reached | {"flux left out": float(found[:, 1].max())}))
    return rows


def bench_preparation(repeats: int = 3) -> list[Row]:
    """What is done once an image."""
    psf = psfex(3.5)
    took = median_time(lambda: PreparedPsf(psf, BOX), 1, repeats)
    return [Row("preparing an image, galaxies", took, float("nan"), {})]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--galaxies", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--peers", type=int, default=40, help="galaxies that GalSim draws")
    args = parser.parse_args()
    rows = bench_galaxies(n=args.galaxies, repeats=args.repeats, n_peer=args.peers)
    report("One galaxy (kernel of 45 x 45 pixels, ten basis images, FWHM 3.5)", rows + bench_preparation(args.repeats))


if __name__ == "__main__":
    main()
