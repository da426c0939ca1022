"""What drawing costs, in one table: stars, galaxies, PSFs, noise and whole images, each as a ratio to its usual way.

Run it: ``uv run python tests/benchmarks/bench_drawing.py [--markdown FILE] [--plot FILE]``. It takes some minutes, on
one core. Ratios are to the same work done in the same process: by GalSim (stars, galaxies, images), by the model's own
call (PSFs), by numpy (noise).
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path

import bench_calexp
import bench_galaxies
import bench_noise
import bench_stars
import numpy as np

from skygraft.noise import Gain, add_flux


@dataclass(frozen=True)
class Line:
    """One line of the table: what, how long it takes, how many times longer the usual way takes, what is reached."""

    what: str
    time: str
    ratio: float
    reached: str


def _errors(errors: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.0e}" for name, value in errors.items())


def lines(repeats: int) -> list[Line]:
    """Measure everything."""
    found = []
    for row in bench_stars.bench_stars(n=1024, repeats=3 * repeats, n_peer=50):
        if not np.isnan(row.ratio):
            found.append(Line(row.name, f"{row.microseconds:.3g} µs", row.ratio, _errors(row.errors)))
    found += [
        Line(row.name, f"{row.microseconds:.0f} µs", row.ratio, _errors(row.errors))
        for row in bench_galaxies.bench_galaxies(repeats=3 * repeats)
    ]
    found += [
        Line(f"PSF at a position, {row.name}", f"{row.microseconds:.1f} µs", row.ratio, _errors(row.errors))
        for row in bench_stars.bench_psfs(n=1024, repeats=repeats)
        if row.errors
    ]
    model = bench_noise.survey_like()
    image, variance = np.zeros_like(model), np.zeros_like(model)
    gain = Gain(1.0, "given")
    means = model[model > 0].astype(np.float64)
    rng = np.random.default_rng(1)
    ours, numpys = bench_noise.least_times(
        repeats, lambda: add_flux(image, variance, model, gain=gain), lambda: rng.poisson(means)
    )
    found.append(Line("photon noise, a touched pixel", f"{ours / means.size * 1e9:.0f} ns", numpys / ours, ""))
    for name in ("none", "GZIP_2", "RICE_1"):
        with tempfile.TemporaryDirectory() as folder:
            took = bench_calexp.measure(500, 500, repeats, Path(folder), None if name == "none" else name)
        what = f"a calexp, 500 stars and 500 galaxies, {'uncompressed' if name == 'none' else name}"
        reached = f"{took['all_over_read_write']:.1f} × reading and writing it"
        found.append(Line(what, f"{took['seconds']:.2f} s", took["galsim_over_all"], reached))
    return found


def markdown(found: list[Line]) -> str:
    """The table."""
    head = "| what | processor time | the usual way takes | reached |\n|---|---|---|---|\n"
    return head + "".join(f"| {line.what} | {line.time} | {line.ratio:.3g} × | {line.reached} |\n" for line in found)


def plot(found: list[Line], path: Path) -> None:
    """How many times longer the usual way takes, as bars."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 0.35 * len(found) + 1), layout="constrained")
    axes.barh([line.what for line in found][::-1], [line.ratio for line in found][::-1], color="#4477aa")
    axes.set_xscale("log")
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xlabel("the usual way takes so many times longer")
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--markdown", type=Path, help="write the table there too")
    parser.add_argument("--plot", type=Path, help="write a plot of the ratios there")
    options = parser.parse_args()
    found = lines(options.repeats)
    print(markdown(found))
    if options.markdown is not None:
        options.markdown.write_text(markdown(found), encoding="utf-8")
    if options.plot is not None:
        plot(found, options.plot)


if __name__ == "__main__":
    main()
