"""Damaged images, a hundred of them: each is read rightly or refused in words."""

from __future__ import annotations

from pathlib import Path

import pytest

from fuzz.checking import check_targets


@pytest.mark.slow
@pytest.mark.usefixtures("real_children")
def test_damaged_images_are_refused_in_words(tmp_path: Path) -> None:
    check_targets(tmp_path, "fits", cases=100)
