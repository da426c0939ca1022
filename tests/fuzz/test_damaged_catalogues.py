"""Damaged tables of every kind, PSFs and stamps, some hundreds of them: each is read rightly or refused in words."""

from __future__ import annotations

from pathlib import Path

import pytest

from fuzz.checking import check_targets


@pytest.mark.slow
@pytest.mark.usefixtures("real_children")
def test_damaged_tables_are_refused_in_words(tmp_path: Path) -> None:
    check_targets(tmp_path, "catalogue", "folders", "detections", "tables", cases=400)


@pytest.mark.slow
@pytest.mark.usefixtures("real_children")
def test_damaged_psfs_and_stamps_are_refused_in_words(tmp_path: Path) -> None:
    check_targets(tmp_path, "psf", "stamps", cases=200)
