"""Stamps: processor time of one, as a ratio to GalSim drawing the same ones, with what accuracy is reached for it.

Run it: ``uv run python tests/benchmarks/bench_stamps.py``. They are drawn as an injection draws them, PSF at each place
and addition to the image included, from files that were read before. GalSim draws the same ones in the same process: an
InterpolatedImage of the stamp (Lanczos 15), mapped by both WCSs, convolved with an InterpolatedImage of the kernel
at its position. Errors are largest pixels over the peak, against the formula of the stamp: Gaussians on the sky.
"""

from __future__ import annotations

import argparse
import functools
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from bench_stars import SHAPE, Row, median_time, psfex, report

sys.path.insert(0, str(Path(__file__).parents[1]))
from kits.stamp_kit import Blobs, OneScale, gaussian_psf, sources_of, turned
from skygraft.psf import PSF, Box
from skygraft.render import Canvas, Sources, render
from skygraft.render.stamp_grids import _fine_pixels, _fine_spectrum

IMAGE = turned(0.2, 12.0)
BOX = Box(-0.5, SHAPE[1] - 0.5, -0.5, SHAPE[0] - 0.5)
KINDS = {
    "rotated, not convolved": {"stamp_psf": "none"},
    "on the image's axes, not convolved": {"stamp_psf": "none", "stamp_alignment": "pixel"},
    "rotated": {},
    "on the image's axes": {"stamp_alignment": "pixel"},
}


def error(path: str, blobs: Blobs, columns: dict[str, str]) -> float:
    """Largest error over the peak, with a Gaussian PSF."""
    sigma, shape, at = 1.6, (170, 170), (84.3, 83.8)
    canvas = Canvas.empty(shape, (0, 0))
    psf = gaussian_psf(sigma)
    one = sources_of(IMAGE, [at[0]], [at[1]], 1.0, stamp=path, **columns)
    render(one, psf, canvas, Box(-0.5, 169.5, -0.5, 169.5), OneScale())
    own = np.diag([0.2, 0.2]) if "stamp_alignment" in columns else IMAGE
    exact = blobs.on(own, shape, at, psf_variance=0.0 if "stamp_psf" in columns else sigma**2) / blobs.total
    return float(np.abs(canvas.model - exact).max() / exact.max())


def draw(sources: Sources, psf: PSF, canvas: Canvas, engine: str) -> None:
    render(sources, psf, canvas, BOX, OneScale(), galaxies=engine)  # type: ignore[arg-type]


def bench_stamps(n: int = 1000, repeats: int = 5, n_peer: int = 10) -> list[Row]:
    """Stamps of 64 x 64 pixels, with a PSFEx model of 45 x 45 pixels and ten images."""
    psf, blobs, rows = psfex(3.5), Blobs(), []
    canvas = Canvas.empty(SHAPE, (0, 0))
    rng = np.random.default_rng(1)
    x, y = rng.uniform(100, SHAPE[1] - 100, n), rng.uniform(100, SHAPE[0] - 100, n)
    with tempfile.TemporaryDirectory() as folder:
        files = {
            "pixel": blobs.write(Path(folder, "pixel.fits"), None, (64, 64)),
            "": blobs.write(Path(folder, "wcs.fits"), turned(0.17, 70.0), (64, 64)),
        }
        for name, columns in KINDS.items():
            path = files[columns.get("stamp_alignment", "")]
            stamps = sources_of(IMAGE, x, y, 1000.0, stamp=path, **columns)
            took = median_time(functools.partial(draw, stamps, psf, canvas, "fast"), n, repeats)
            some = sources_of(IMAGE, x[:n_peer], y[:n_peer], 1000.0, stamp=path, **columns)
            start = time.process_time()
            draw(some, psf, canvas, "galsim")
            slow = (time.process_time() - start) / n_peer * 1e6
            rows.append(Row(f"stamps, {name}", took, slow / took, {"pixel": error(path, blobs, columns)}))
        pixels = blobs.stamp(IMAGE, (64, 64)).astype(np.float32)
        for name, make in (("its pixels", _fine_pixels), ("its transform", _fine_spectrum)):
            took = median_time(functools.partial(make, pixels), 1, repeats)
            rows.append(Row(f"a stamp's first time, {name}", took, float("nan"), {}))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--stamps", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--peers", type=int, default=10, help="stamps that GalSim draws")
    args = parser.parse_args()
    report("One stamp of 64 x 64 pixels", bench_stamps(args.stamps, args.repeats, args.peers))


if __name__ == "__main__":
    main()
