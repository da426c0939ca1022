"""Extended wings: processor time of a star's wings, over that of its kernel.

Run it: ``uv run python tests/benchmarks/bench_wings.py``. Stars of a PSF of 81 x 81 pixels with six basis images, as
calexps have them, are drawn with and without wings that end at some radius. Times are the shortest of some rounds of
processor time, on one core.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from skygraft.psf import PSF, Box, KernelBasisPSF, MoffatPSF
from skygraft.psf.tapered import Joined
from skygraft.psf.wings import PowerLawWing, Wings
from skygraft.render.canvas import Canvas
from skygraft.render.stars import StarPainter
from skygraft.render.wing_painter import WingPainter

N, SIDE, ROUNDS = 2000, 1000, 4


class Unscaled:
    """Leaves kernels as they are."""

    def __call__(self, kernels: NDArray[np.float64], x: NDArray[np.float64], y: NDArray[np.float64]):
        """Ones."""
        return np.ones(len(x)), np.ones(len(x))

    def of_coefficients(self, coefficients: NDArray[np.float64], x: NDArray[np.float64], y: NDArray[np.float64]):
        """Ones."""
        return np.ones(len(x)), np.ones(len(x))


def shortest(work: Callable[[Canvas], object]) -> float:
    """Microseconds of processor time for each of N stars."""
    best = np.inf
    for _ in range(ROUNDS):
        canvas = Canvas.empty((SIDE, SIDE), (0, 0))
        start = time.process_time()
        work(canvas)
        best = min(best, time.process_time() - start)
    return 1e6 * best / N


def main() -> None:
    """Print the times."""
    rng = np.random.default_rng(1)
    x, y = rng.uniform(0.45 * SIDE, 0.55 * SIDE, (2, N))
    box = Box(-0.5, SIDE - 0.5, -0.5, SIDE - 0.5)
    basis = rng.normal(size=(6, 81, 81)) * 1e-4
    basis[0] += MoffatPSF(4.5, shape=(81, 81)).basis[0]
    psf = KernelBasisPSF(basis, np.array([[1.0] + [0.0] * 5] + [[1e-6] * 6] * 5))

    def stars(of: PSF) -> float:
        painter = StarPainter(of, box)
        return shortest(lambda canvas: painter.add(canvas, x, y, np.ones(N), Unscaled()))

    whole = stars(psf)
    print(f"kernel of 81 pixels                    {whole:6.1f} us")
    wings = Wings(PowerLawWing(3.0), 20.0, 7.0, 1000.0)
    tapered = stars(Joined(psf, wings).core)
    print(f"the same, tapered                      {tapered:6.1f} us")
    for reach in (100.0, 200.0, 400.0):

        def add(canvas: Canvas, reach: float = reach) -> None:
            WingPainter(canvas, wings).add(x, y, np.ones(N), np.full(N, reach), np.zeros(N, np.int64))

        cost = shortest(add)
        ratio = (cost + tapered) / whole
        print(f"wings to {reach:4.0f} pixels                   {cost:6.1f} us; star {ratio:.2f} x the kernel alone")


if __name__ == "__main__":
    main()
