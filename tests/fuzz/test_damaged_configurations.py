"""Damaged configurations, descriptions and names of files, some dozens of them: each is taken rightly or refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from fuzz.checking import check_targets


@pytest.mark.slow
@pytest.mark.usefixtures("real_children")
def test_damaged_configurations_are_refused_in_words(tmp_path: Path) -> None:
    check_targets(tmp_path, "config", "generation", "urls", "templates", cases=400)
