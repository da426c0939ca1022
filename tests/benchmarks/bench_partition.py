"""Partition a simulated catalogue by the patches of a sky map, and print what that and reading one patch took.

uv run python tests/benchmarks/bench_partition.py --sources 10000000
uv run python tests/benchmarks/bench_partition.py --catalog fakes.parquet --skymap hsc_rings_v1 --processes 2

The unit is what the same file takes to be read and written again with pyarrow alone, in the same minute on the same
machine. Every part runs in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))


def generate(arguments: dict[str, Any]) -> dict[str, Any]:
    from simulated import write_catalogue

    write_catalogue(Path(arguments["catalog"]), arguments["sources"])
    return {}


def copy(arguments: dict[str, Any]) -> dict[str, Any]:
    """Read the catalogue and write it again, with pyarrow alone."""
    import pyarrow.parquet as pq

    out = Path(arguments["folder"]) / "copy.parquet"
    with (
        pq.ParquetFile(arguments["catalog"], pre_buffer=False) as file,
        pq.ParquetWriter(out, file.schema_arrow, compression="snappy") as writer,
    ):
        for batch in file.iter_batches(batch_size=500_000):
            writer.write_batch(batch)
    out.unlink()
    return {}


def partition(arguments: dict[str, Any]) -> dict[str, Any]:
    from skygraft.catalog import partition_catalog
    from skygraft.processes import process_mapper
    from skygraft.skymap import get_skymap

    skymap, out = get_skymap(arguments["skymap"]), Path(arguments["folder"]) / "parts"
    shutil.rmtree(out, ignore_errors=True)
    if arguments["processes"] > 1:
        with process_mapper(arguments["processes"]) as mapper:
            done = partition_catalog(arguments["catalog"], skymap, out, mapper=mapper)
    else:
        done = partition_catalog(arguments["catalog"], skymap, out)
    return {"rows": done.n_rows, "patches": done.n_partitions}


def read(arguments: dict[str, Any]) -> dict[str, Any]:
    """Read one patch, the first in this process."""
    from skygraft.catalog import read_partitions

    out = Path(arguments["folder"]) / "parts"
    middle = sorted(out.glob("tract=*"))
    patches = sorted(middle[len(middle) // 2].glob("patch=*"))
    patch = patches[len(patches) // 2]
    key = int(patch.parent.name.partition("=")[2]), int(patch.name.partition("=")[2])
    times = []
    for _ in range(2):
        began, cpu = time.perf_counter(), time.process_time()
        rows = len(read_partitions(out, [key]))
        times.append((time.perf_counter() - began, time.process_time() - cpu))
    (wall, cpu), (warm, _) = times
    return {
        "rows": rows,
        "ms_cold": round(1e3 * wall, 1),
        "ms_cold_cpu": round(1e3 * cpu, 1),
        "ms_warm": round(1e3 * warm, 1),
    }


PARTS = {function.__name__: function for function in (generate, copy, partition, read)}


def measured(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Run a part in a process, and return what it says and took; its children's memory is not added to its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--part", name, "--arguments", json.dumps(arguments)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def run_part(name: str, arguments: dict[str, Any]) -> None:
    began = time.perf_counter()
    said = PARTS[name](arguments)
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    said |= {
        "wall_seconds": round(time.perf_counter() - began, 2),
        "cpu_seconds": round(sum(u.ru_utime + u.ru_stime for u in usage), 2),
        "peak_mb": round(usage[0].ru_maxrss / 1024),
    }
    print(json.dumps(said))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sources", type=int, default=1_000_000)
    parser.add_argument("--catalog", type=Path, help="A catalogue in Parquet; by default it is simulated.")
    parser.add_argument("--skymap", default="hsc_rings_v1")
    parser.add_argument("--processes", type=int, default=1, help="1: threads of one process.")
    parser.add_argument(
        "--folder", type=Path, help="Where to work, and to leave everything; by default nothing is left."
    )
    parser.add_argument("--part", choices=sorted(PARTS), help=argparse.SUPPRESS)
    parser.add_argument("--arguments", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.part:
        run_part(given.part, json.loads(given.arguments))
        return
    folder = given.folder or Path(tempfile.mkdtemp(prefix="bench-partition-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        arguments = {
            "folder": str(folder),
            "catalog": str(given.catalog or folder / "fakes.parquet"),
            "sources": given.sources,
            "skymap": given.skymap,
            "processes": given.processes,
        }
        told: dict[str, Any] = {}
        if given.catalog is None and not (folder / "fakes.parquet").exists():
            told["generate"] = measured("generate", arguments)
        for name in ("copy", "partition", "read"):
            told[name] = measured(name, arguments)
        took = told["partition"]
        took["rows_per_cpu_second"] = round(took["rows"] / took["cpu_seconds"])
        took["cpu_over_copy"] = round(took["cpu_seconds"] / told["copy"]["cpu_seconds"], 2)
        took["wall_over_copy"] = round(took["wall_seconds"] / told["copy"]["wall_seconds"], 2)
        print(json.dumps(told, indent=1))
    finally:
        if given.folder is None:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
