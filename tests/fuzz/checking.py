"""A run of the fuzzer as a test: the same cases every time, few sound files, some targets in one process."""

from __future__ import annotations

import importlib
from collections import Counter
from pathlib import Path

from fuzz.__main__ import fuzz
from fuzz.report import groups

_LOADED = (
    "astropy.table", "numba", "numpy.random", "pandas", "pyarrow.dataset", "skygraft.cli.plan", "skygraft.cli.run",
    "skygraft.cli.status", "skygraft.cli.verify", "skygraft.config.cluster", "skygraft.formats", "skygraft.generation",
    "skygraft.injection.core", "skygraft.jit.numba_side", "skygraft.planning.plan", "skygraft.qa.verify",
    "skygraft.render.engine", "skygraft.tables.consolidate", "xarray",
)  # fmt: skip
"""Loaded once, by the process of the test, from which those of the cases are forked: not by each of them anew."""


def check_targets(folder: Path, *targets: str, cases: int) -> None:
    """Fail with the faults, by mechanism, of so many cases of some targets."""
    for name in _LOADED:
        importlib.import_module(name)
    outcomes = fuzz(folder, [*targets], cases=cases, seconds=1e9, processes=1, few=True)
    assert len(outcomes) == cases
    kinds = Counter((o.target, o.kind) for o in outcomes)
    assert all(kinds[target, "ok"] and kinds[target, "refused"] for target in targets), kinds
    found = groups(outcomes)
    assert not found, "\n".join(group.lines() for group in found)
