"""Damage files of every kind that skygraft reads or writes, and report what became of them.

Each case damages one file (a card, an HDU, a row, an AST line, bytes, a YAML key), does with it what a user would, and
is judged: ``ok`` (what was accepted still means what it did), ``refused`` (one of skygraft's errors), or a fault:
``hang`` (more than 10 s of processor time), ``signal`` (the process died), ``foreign`` (an exception that is not
skygraft's own), ``memory`` (more than 200 MB), ``silent`` (a wrong number was accepted and nothing was said). The
targets are

* ``fits``: images of every format, ASDF among them; ``psf``: files of every kind of PSF; ``stamps``: FITS, HDF5, Zarr
* ``catalogue``; ``folders``: HATS collections and folders of Parquet files; ``detections``: those of pipelines
* ``tables``: light curves, ephemerides, profiles of wings
* ``config``: campaign.yaml; ``generation``: population.yaml, and the tables and maps that it names
* ``urls``, ``templates``: names of files in stores, and names with fields in braces
* ``outputs``: what a campaign wrote

    uv run python tests/fuzz --minutes 30                 # all targets, in the proportions of `SHARES`
    uv run python tests/fuzz --cases 50000 --seed 7       # so many cases; other seeds make other damage
    uv run python tests/fuzz --target fits --cases 500 --verbose
    uv run python tests/fuzz --case fits:123 --seed 7 --folder DIR   # one case again: its files stay in DIR/case
    uv run python tests/fuzz --again DIR/outcomes.jsonl   # only the faults of an earlier run

Faults are printed by mechanism (exception and innermost line, or message), each with its smallest case, then a table
by target (``--verbose``: by sound file). The exit code is 1 if there was any fault. A case is the same for the same
seed, target and number as long as the sound files and the kinds of damage are.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from fuzz import catalogue_target, detections_target, fits_target, generation_target, psf_files, time_tables
from fuzz.campaign_targets import Config, Outputs
from fuzz.folder_targets import Folders, Stamps
from fuzz.kit import Fuzz
from fuzz.names_target import Templates, Urls
from fuzz.report import groups, table
from fuzz.watch import FAULTS, Case, Outcome, measured, run_cases

TARGETS = {
    "fits": fits_target, "catalogue": catalogue_target, "config": Config, "outputs": Outputs, "psf": psf_files,
    "tables": time_tables, "folders": Folders, "stamps": Stamps, "generation": generation_target,
    "detections": detections_target, "urls": Urls, "templates": Templates,
}  # fmt: skip
SHARES = {"fits": 12.0, "catalogue": 5.5, "config": 1.5, "outputs": 1.8, "psf": 6.0, "tables": 8.0,
          "folders": 5.0, "stamps": 5.0, "generation": 5.0, "detections": 5.0,
          "urls": 4.0, "templates": 2.0}  # fmt: skip
"""Of the cases of a run, by target."""


def in_turn(targets: list[str], cases: int | None) -> Iterator[Case]:
    """Cases of the targets by their shares, each target's numbered from 0."""
    done = dict.fromkeys(targets, 0)
    for _ in itertools.count() if cases is None else range(cases):
        target = min(targets, key=lambda t: ((done[t] + 1) / SHARES[t], t))
        yield target, done[target]
        done[target] += 1


def fuzz(
    folder: Path,
    targets: list[str],
    *,
    seed: int = 0,
    cases: int | None = None,
    seconds: float = 60,
    processes: int = 2,
    only: list[Case] | None = None,
    few: bool = False,
) -> list[Outcome]:
    """Run cases; their outcomes, kept in ``folder/outcomes.jsonl`` too."""
    work = Fuzz(folder / "seeds", seed, TARGETS, few=few)  # type: ignore[arg-type]
    if processes > 1:
        work.make_seeds(targets)
    todo = in_turn(targets, cases) if only is None else only
    memory = Path("/dev/shm")
    scratch = Path(tempfile.mkdtemp(prefix="skygraft-fuzz-", dir=memory if os.access(memory, os.W_OK) else None))
    outcomes = []
    try:
        with (folder / "outcomes.jsonl").open("w", buffering=1) as log:
            for outcome in run_cases(todo, work.run, work.prepare, scratch, processes, seconds):
                outcomes.append(outcome)
                log.write(json.dumps(vars(outcome) | {"seed": seed}) + "\n")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return outcomes


def faults_of(path: Path) -> tuple[int, list[Case]]:
    """Seed and faulty cases of an outcomes file."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return rows[0]["seed"] if rows else 0, [(r["target"], r["number"]) for r in rows if r["kind"] in FAULTS]


def main() -> int:
    """Run and print; 1 if anything is at fault."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, help="for how long (1, where --cases is not given)")
    parser.add_argument("--cases", type=int, help="how many")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--target", choices=list(TARGETS), action="append", help="may be repeated; all by default")
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--folder", type=Path, help="where to keep the sound files and the outcomes")
    parser.add_argument("--case", help="run one case again, such as fits:123")
    parser.add_argument("--again", type=Path, metavar="OUTCOMES", help="run the faults of an outcomes.jsonl again")
    parser.add_argument("--verbose", action="store_true", help="a line a sound file, with time and memory")
    given = parser.parse_args()
    # Ended by a signal, it still removes what is in memory.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    folder: Path = given.folder or Path(tempfile.mkdtemp(prefix="skygraft-fuzz-"))
    folder.mkdir(parents=True, exist_ok=True)
    if given.case:
        target, _, number = given.case.partition(":")
        work = Fuzz(folder / "seeds", given.seed, TARGETS)  # type: ignore[arg-type]
        work.make_seeds([target])
        os.chdir(folder)
        work.prepare(target, int(number))
        outcome = measured(work.run, target, int(number))
        print(f"{outcome.kind}: {outcome.name}: {outcome.what}", outcome.detail, f"in {folder / 'case'}", sep="\n")
        return int(outcome.kind in FAULTS)
    seed, only = faults_of(given.again) if given.again else (given.seed, None)
    targets = given.target or list(TARGETS)
    if only is not None:
        only = [case for case in only if case[0] in targets]
        targets = [t for t in targets if any(case[0] == t for case in only)]
    endless = given.cases is None and only is None
    seconds = 60 * given.minutes if given.minutes else (60.0 if endless else 1e9)
    outcomes = fuzz(
        folder, targets, seed=seed, cases=given.cases, seconds=seconds, processes=given.processes, only=only
    )
    found = groups(outcomes)
    for group in found:
        print(group.lines())
    print(f"\n{sum(len(g.cases) for g in found)} faults of {len(found)} mechanisms in {len(outcomes)} cases\n")
    if outcomes:
        print(table(outcomes), *([table(outcomes, verbose=True)] if given.verbose else []), sep="\n\n")
    print(f"\nseed {seed}; outcomes in {folder / 'outcomes.jsonl'}")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
