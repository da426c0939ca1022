"""Damaged outputs, some dozens of them: each is made again, or named."""

from __future__ import annotations

from pathlib import Path

import pytest

from fuzz.checking import check_target


@pytest.mark.slow
def test_damaged_outputs_are_mended_or_named(tmp_path: Path) -> None:
    check_target(tmp_path, "outputs", 40)
