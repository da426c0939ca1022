"""Plan a simulated survey through the real planner, and print what that took.

uv run python tests/benchmarks/bench_plan.py --images 1000000 --sources 10000000 --processes 2
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))


class Memory:
    """The most memory that this process and its children held together, looked at ten times a second."""

    def __init__(self) -> None:
        self.peak = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.1):
            pids = [os.getpid()]
            for task in Path("/proc/self/task").iterdir():
                pids += [int(pid) for pid in (task / "children").read_text().split()]
            total = 0
            for pid in pids:
                try:
                    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
                except OSError:
                    continue
                # Shared and mapped pages count once: by each one's proportional share.
                total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
            self.peak = max(self.peak, total)


def cpu_seconds() -> float:
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(u.ru_utime + u.ru_stime for u in map(resource.getrusage, kinds))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--sources", type=int, default=1_000_000)
    parser.add_argument("--movers", type=float, default=0.0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument(
        "--folder", type=Path, help="Where to work, and to leave everything; by default nothing is left."
    )
    given = parser.parse_args()
    folder = given.folder or Path(tempfile.mkdtemp(prefix="bench-plan-"))
    try:
        from simulated import write_campaign

        from skygraft.config.campaign import load_config
        from skygraft.planning.plan import plan_images

        campaign = folder / "survey" / "campaign.yaml"
        if not campaign.exists():
            write_campaign(folder / "survey", given.images, given.sources, movers=given.movers)
        config = load_config(campaign)
        wall, cpu = time.perf_counter(), cpu_seconds()
        with Memory() as memory:
            plan = plan_images(config, processes=given.processes)
        told: dict[str, Any] = {
            "images": len(plan),
            "sources": plan.metadata["n_catalog"],
            "processes": given.processes,
            "wall_seconds": round(time.perf_counter() - wall, 1),
            "cpu_seconds": round(cpu_seconds() - cpu, 1),
            "peak_gb": round(memory.peak / 1e6, 2),
            "plan_mb": round(plan.path.stat().st_size / 1e6, 1),
            "injections": sum(sum(b.column(0).to_pylist()) for b in plan.batches(["n_sources"])),
        }
        print(json.dumps(told, indent=1))
    finally:
        if given.folder is None:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
