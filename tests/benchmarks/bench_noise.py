"""Photon noise, processor time per pixel, as a ratio to `numpy.random.Generator.poisson` on the same means.

Run it: ``uv run python tests/benchmarks/bench_noise.py``. Planes are float32, the gain is 1; both are timed in turn in
one process, and the medians of a few repeats count.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np

from skygraft.noise import Gain, add_flux

MEANS = (0.01, 0.1, 1.0, 5.0, 12.0, 40.0, 300.0, 1e4, 1e6)
SHAPE = (4176, 2048)


def survey_like(shape: tuple[int, int] = SHAPE, n: int = 1000) -> np.ndarray:
    """Stars and galaxies on an empty model: stamps of 21 to 81 pixels whose means reach from 1e-4 to 1e4."""
    rng = np.random.default_rng(4)
    model = np.zeros(shape, np.float32)
    for is_star in rng.random(n) < 0.5:
        half = int(rng.integers(10, 41))
        x, y = (int(rng.integers(half, size - half)) for size in shape[::-1])
        r = np.hypot(*np.mgrid[-half : half + 1, -half : half + 1])
        profile = (1 + (r / 3) ** 2) ** -3 if is_star else np.exp(-r / (half / 8))
        stamp = np.maximum(10 ** rng.uniform(0, 4) * profile, 1e-4)
        model[y - half : y + half + 1, x - half : x + half + 1] += stamp.astype(np.float32)
    return model


def median_times(repeats: int, *works: Callable[[], object]) -> list[float]:
    """Median processor seconds of each, done in turn, after once that does not count."""
    times: list[list[float]] = [[] for _ in works]
    for _ in range(repeats + 1):
        for took, work in zip(times, works, strict=True):
            start = time.process_time()
            work()
            took.append(time.process_time() - start)
    return [statistics.median(took[1:]) for took in times]


def compare(name: str, model: np.ndarray, repeats: int) -> None:
    """Print nanoseconds per pixel that has flux, and numpy's."""
    image, variance = np.zeros_like(model), np.zeros_like(model)
    add_flux(image, variance, model, gain=Gain(1.0, "given"))
    means = model[model > 0].astype(np.float64)
    rng = np.random.default_rng(1)
    ours, numpys = median_times(
        repeats,
        lambda: add_flux(image, variance, model, gain=Gain(1.0, "given")),
        lambda: rng.poisson(means),
    )
    per_pixel = 1e9 / means.size
    print(f"{name:>12} {means.size:>9} {ours * per_pixel:>9.2f} {numpys * per_pixel:>9.2f} {ours / numpys:>7.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    print(f"{'mean':>12} {'pixels':>9} {'ns':>9} {'numpy ns':>9} {'ratio':>7}")
    for mean in MEANS:
        compare(f"{mean:g}", np.full((512, 2048), mean, np.float32), args.repeats)
    compare("survey-like", survey_like(), args.repeats)
    image, empty = np.zeros(SHAPE, np.float32), np.empty(SHAPE, np.float32)
    empty.fill(0)  # memory of its own, where np.zeros need not have any
    idle, counted = median_times(
        args.repeats,
        lambda: add_flux(image, None, empty, gain=Gain(1.0, "given")),
        lambda: np.count_nonzero(empty),
    )
    print(f"an empty model: {idle * 1e9 / empty.size:.3f} ns per pixel, {idle / counted:.2f} of numpy.count_nonzero")


if __name__ == "__main__":
    main()
