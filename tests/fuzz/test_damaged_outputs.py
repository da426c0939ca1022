"""Damaged outputs, some dozens of them: each is made again, or named."""

from __future__ import annotations

from pathlib import Path

import pytest

from fuzz.checking import check_targets


@pytest.mark.slow
@pytest.mark.usefixtures("real_children")
def test_damaged_outputs_are_mended_or_named(tmp_path: Path) -> None:
    check_targets(tmp_path, "outputs", cases=30)
