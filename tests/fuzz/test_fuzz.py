"""Damaged catalogues and configurations, some dozens of them: each is read rightly or refused in words."""

from __future__ import annotations

from pathlib import Path

import pytest

from fuzz.__main__ import fuzz
from fuzz.watch import FAULTS


@pytest.mark.slow
def test_damaged_files_are_refused_in_words(tmp_path: Path) -> None:
    outcomes = fuzz(tmp_path, ["catalogue", "config"], cases=80, seconds=1e9, processes=1)
    assert len(outcomes) == 80
    assert {o.kind for o in outcomes} >= {"ok", "refused"}
    faults = [f"{o.target}:{o.number} {o.kind}: {o.what} {o.detail[-300:]}" for o in outcomes if o.kind in FAULTS]
    assert not faults, "\n".join(faults)
