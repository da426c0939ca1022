"""How long skygraft takes to start: the first injection on a new machine, the demo, and `skygraft inspect`.

Each is measured in a fresh process, the first ones with an empty cache of compiled functions, and the medians are
printed: the processor time of the process and of those that it starts, and the time that passes. On a machine that is
busy with other things the first is the one to compare.

    uv run python tests/benchmarks/bench_start.py --repeats 3
    uv run python tests/benchmarks/bench_start.py --functions galaxies     # what each compiled function costs
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

_THIS = Path(__file__).resolve()


@dataclass(frozen=True)
class Start:
    """What was measured once.

    Parameters
    ----------
    processor, wall : float
        Seconds.
    """

    processor: float
    wall: float


def first_injection(kind: str) -> None:
    """Inject ten sources into an exposure of 512 x 512 pixels."""
    import skygraft
    from skygraft.testing import make_exposure

    rng = np.random.default_rng(1)
    n = 10
    catalog = {
        "injection_id": np.arange(n),
        "ra": 150.0 + rng.uniform(-0.01, 0.01, n),
        "dec": 2.0 + rng.uniform(-0.01, 0.01, n),
        "mag": rng.uniform(18.0, 22.0, n),
        "source_type": np.full(n, "Star" if kind == "stars" else "Sersic"),
    }
    if kind == "galaxies":
        catalog |= {
            "n": rng.uniform(0.8, 4.0, n),
            "half_light_radius": rng.uniform(0.5, 2.0, n),
            "q": rng.uniform(0.5, 1.0, n),
            "pa": rng.uniform(0.0, 180.0, n),
        }
    injection = skygraft.inject(make_exposure((512, 512)), catalog, band="r", seed=1)
    assert injection.summary["n_drawn"] == n


def print_functions(kind: str) -> None:
    """Print the processor time that each function takes to compile, without and with those that it calls."""
    from numba.core import event

    running: list[list[float]] = []
    rows: list[tuple[float, float, str]] = []

    class Timer(event.Listener):  # type: ignore[misc]
        def on_start(self, _: object) -> None:
            running.append([time.process_time(), 0.0])

        def on_end(self, compilation: event.Event) -> None:
            began, inner = running.pop()
            spent = time.process_time() - began
            if running:
                running[-1][1] += spent
            function = compilation.data["dispatcher"].py_func
            rows.append((spent - inner, spent, f"{function.__module__}.{function.__qualname__}"))

    event.register("numba:compile", Timer())
    first_injection(kind)
    for own, total, name in sorted(rows, reverse=True):
        print(f"{own:7.2f} {total:7.2f}  {name}")
    print(f"{sum(own for own, _, _ in rows):7.2f} s in {len(rows)} functions")


def run(command: list[str], cache: Path) -> Start:
    """Run a command with a cache of its own; its output is shown only if it fails."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(cache)}
    done = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout}")
    return Start(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall)


def show(name: str, runs: list[Start]) -> None:
    processor = statistics.median(one.processor for one in runs)
    wall = statistics.median(one.wall for one in runs)
    print(f"{name:40s} {processor:8.2f} s of processors {wall:8.2f} s passed", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--no-demo", action="store_true", help="leave out the demo")
    parser.add_argument("--functions", choices=("stars", "galaxies"), help="print what each compiled function costs")
    parser.add_argument("--once", choices=("stars", "galaxies"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.once:
        first_injection(options.once)
        return
    python = sys.executable
    skygraft = [python, "-c", "from skygraft.cli import main; main()"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.functions:
            os.environ["NUMBA_CACHE_DIR"] = str(folder)
            print_functions(options.functions)
            return
        for kind in ("stars", "galaxies"):
            once = [python, str(_THIS), "--once", kind]
            caches = [folder / f"{kind}-{i}" for i in range(options.repeats)]
            show(f"first inject of ten {kind}", [run(once, cache) for cache in caches])
            show("  in the next process", [run(once, caches[0]) for _ in caches])
        inspected = folder / "image.fits"
        subprocess.run([python, "-c", _WRITE, str(inspected)], cwd=_THIS.parent.parent, check=True)
        inspect = [*skygraft, "inspect", str(inspected), "--psf", "moffat:0.9 arcsec"]
        run(inspect, folder / "stars-0")
        show("skygraft inspect FILE", [run(inspect, folder / "stars-0") for _ in range(options.repeats)])
        calexp = Path(os.environ.get("SKYGRAFT_DATA", _THIS.parents[3] / "shared/data"), _CALEXP)
        if calexp.exists():
            inspect = [*skygraft, "inspect", str(calexp)]
            run(inspect, folder / "stars-0")
            show("skygraft inspect CALEXP", [run(inspect, folder / "stars-0") for _ in range(options.repeats)])
        if not options.no_demo:
            runs = []
            for i in range(options.repeats):
                output = folder / f"demo-{i}"
                runs.append(run([*skygraft, "demo", "--output", str(output)], folder / f"cache-{i}"))
            show("skygraft demo, new machine", runs)


_CALEXP = "cfht_849375/calexp-849375-12.fits.fz"
"""A real one of 2048 x 4612 pixels."""
_WRITE = (
    "import sys; from pathlib import Path; from kits.plain_images import write_plain_image; "
    "write_plain_image(Path(sys.argv[1]), 150.0, 2.0, 512)"
)

if __name__ == "__main__":
    main()
