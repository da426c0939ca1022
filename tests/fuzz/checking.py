"""A run of the fuzzer as a test: the same cases every time, each target in a test of its own."""

from __future__ import annotations

from pathlib import Path

from fuzz.__main__ import fuzz
from fuzz.report import groups


def check_target(folder: Path, target: str, cases: int) -> None:
    """Fail with the faults, by mechanism, of so many cases of a target."""
    outcomes = fuzz(folder, [target], cases=cases, seconds=1e9, processes=1)
    assert len(outcomes) == cases
    assert {o.kind for o in outcomes} >= {"ok", "refused"}
    found = groups(outcomes)
    assert not found, "\n".join(group.lines() for group in found)
