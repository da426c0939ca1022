"""What drawing costs, in one table: stars, galaxies, stamps, PSFs, noise, whole images, as ratios to the usual way.

Run it: ``uv run python tests/benchmarks/bench_drawing.py [--rounds N] [--markdown FILE] [--plot FILE]``. A round takes
some minutes, on one core; of several rounds it gives medians, where a machine is slower at times. Ratios are to the
same work done in the same process: by GalSim (stars, galaxies, images), by the model's own call (PSFs), by numpy
(noise).
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import bench_calexp
import bench_galaxies
import bench_noise
import bench_stamps
import bench_stars
import numpy as np

from skygraft.noise import Gain, add_flux

_UNITS = ((1e-6, "ns", 1e9), (1e-3, "µs", 1e6), (1.0, "ms", 1e3))


@dataclass(frozen=True)
class Line:
    """One line of the table.

    Parameters
    ----------
    what : str
        What was measured.
    seconds : float
        Processor time of one of them.
    ratio : float
        How many times longer the usual way takes.
    errors : dict of str to float
        What is reached.
    over_floor : float, optional
        The time of an image as a multiple of that of reading and writing it.
    """

    what: str
    seconds: float
    ratio: float
    errors: dict[str, float]
    over_floor: float | None = None

    def cells(self) -> tuple[str, str, str, str]:
        """What stands in the table."""
        unit, factor = next(((unit, factor) for most, unit, factor in _UNITS if self.seconds < most), ("s", 1.0))
        reached = ", ".join(f"{name} {value:.0e}" for name, value in self.errors.items())
        if self.over_floor is not None:
            reached = f"{self.over_floor:.2g} × reading and writing it"
        return self.what, f"{self.seconds * factor:.3g} {unit}", f"{self.ratio:.3g} ×", reached


def lines(repeats: int) -> list[Line]:
    """Measure everything."""
    rows = [row for row in bench_stars.bench_stars(n=1024, repeats=3 * repeats, n_peer=50) if not np.isnan(row.ratio)]
    rows += bench_galaxies.bench_galaxies(repeats=3 * repeats)
    rows += [row for row in bench_stamps.bench_stamps(repeats=3 * repeats) if not np.isnan(row.ratio)]
    for row in bench_stars.bench_psfs(n=1024, repeats=3 * repeats):
        kind, given, _ = row.name.partition(", into a given array")
        if given:
            rows.append(replace(row, name=f"PSF at a position, {kind}"))
    found = [Line(row.name, row.microseconds * 1e-6, row.ratio, row.errors) for row in rows]
    model = bench_noise.survey_like()
    image, variance = np.zeros_like(model), np.zeros_like(model)
    gain = Gain(1.0, "given")
    means = model[model > 0].astype(np.float64)
    rng = np.random.default_rng(1)
    ours, numpys = bench_noise.median_times(
        3 * repeats, lambda: add_flux(image, variance, model, gain=gain), lambda: rng.poisson(means)
    )
    found.append(Line("photon noise, a touched pixel", ours / means.size, numpys / ours, {}))
    for name in ("none", "GZIP_2", "RICE_1"):
        with tempfile.TemporaryDirectory() as folder:
            took = bench_calexp.measure(500, 500, repeats, Path(folder), None if name == "none" else name)
        what = f"a calexp, 500 stars and 500 galaxies, {'uncompressed' if name == 'none' else name}"
        found.append(Line(what, took["seconds"], took["galsim_over_all"], {}, took["all_over_read_write"]))
    return found


def medians(rounds: list[list[Line]]) -> list[Line]:
    """The medians of several rounds."""
    found = []
    for same in zip(*rounds, strict=True):
        seconds, ratio = (
            statistics.median(values) for values in zip(*((x.seconds, x.ratio) for x in same), strict=True)
        )
        floors = [line.over_floor for line in same if line.over_floor is not None]
        over_floor = statistics.median(floors) if floors else None
        found.append(replace(same[0], seconds=seconds, ratio=ratio, over_floor=over_floor))
    return found


def markdown(found: list[Line]) -> str:
    """The table."""
    head = "| what | processor time | the usual way takes | reached |\n|---|---|---|---|\n"
    return head + "".join(f"| {' | '.join(line.cells())} |\n" for line in found)


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
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--markdown", type=Path, help="write the table there too")
    parser.add_argument("--plot", type=Path, help="write a plot of the ratios there")
    options = parser.parse_args()
    rounds = []
    for _ in range(options.rounds):
        rounds.append(lines(options.repeats))
        print(markdown(rounds[-1]), flush=True)
    found = medians(rounds)
    print(markdown(found))
    if options.markdown is not None:
        options.markdown.write_text(markdown(found), encoding="utf-8")
    if options.plot is not None:
        plot(found, options.plot)


if __name__ == "__main__":
    main()
