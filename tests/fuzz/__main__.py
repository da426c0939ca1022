"""Feed damaged files of every kind to skygraft, and print what became of them.

Usage: ``uv run python tests/fuzz --minutes 30`` (or ``--cases 50000``); ``--case fits:123`` runs one again, and keeps
its files.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import tempfile
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from fuzz.targets import TARGETS, Fuzz
from fuzz.watch import FAULTS, Outcome, run_cases


def table(counts: dict[str, Counter[str]]) -> str:
    """The table of outcomes by target."""
    columns = ("ok", "refused", *FAULTS)
    rows = [("target", "cases", *columns)]
    rows += [(t, str(sum(c.values())), *(str(c[k]) for k in columns)) for t, c in counts.items()]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(cell.rjust(w) for cell, w in zip(row, widths, strict=True)) for row in rows)


def fuzz(
    folder: Path,
    targets: list[str],
    *,
    seed: int = 0,
    cases: int | None = None,
    seconds: float = 60,
    processes: int = 2,
) -> list[Outcome]:
    """Run cases of the targets in turn; all outcomes, also kept in ``folder/outcomes.jsonl``."""
    work = Fuzz(folder / "seeds", seed)
    work.make_seeds(targets)
    numbers = itertools.count() if cases is None else range(-(-cases // len(targets)))
    todo = ((target, number) for number in numbers for target in targets)
    outcomes = []
    with (folder / "outcomes.jsonl").open("w") as log:
        for outcome in run_cases(todo, work.run, folder, processes, seconds):
            outcomes.append(outcome)
            log.write(json.dumps(vars(outcome)) + "\n")
    return outcomes


def main() -> int:
    """Run and print; 1 if anything is at fault."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=None)
    parser.add_argument("--cases", type=int, default=None)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--target", choices=list(TARGETS), action="append")
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--folder", type=Path, help="where to keep what is made")
    parser.add_argument("--case", help="run one case again, such as fits:123")
    given = parser.parse_args()
    folder = given.folder or Path(tempfile.mkdtemp(prefix="skygraft-fuzz-"))
    folder.mkdir(parents=True, exist_ok=True)
    if given.case:
        target, _, number = given.case.partition(":")
        work = Fuzz(folder / "seeds", given.seed)
        work.make_seeds([target])
        os.chdir(folder)
        outcome = work.run(target, int(number))
        print(outcome.kind, outcome.what, outcome.detail, f"in {folder / 'case'}", sep="\n")
        return int(outcome.kind in FAULTS)
    seconds = 60.0 * given.minutes if given.minutes else (60.0 if given.cases is None else 1e9)
    outcomes = fuzz(
        folder,
        given.target or list(TARGETS),
        seed=given.seed,
        cases=given.cases,
        seconds=seconds,
        processes=given.processes,
    )
    counts: dict[str, Counter[str]] = {}
    for outcome in outcomes:
        counts.setdefault(outcome.target, Counter())[outcome.kind] += 1
    faults = [o for o in outcomes if o.kind in FAULTS]
    for fault in faults[:60]:
        print(f"{fault.target}:{fault.number} {fault.kind}: {fault.what}\n    {fault.detail.strip().splitlines()[-1:]}")
    print(table(counts))
    print(f"seed {given.seed}; everything in {folder}")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
