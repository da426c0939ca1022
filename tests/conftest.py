"""Fixtures shared by every room's tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real reference data; the test is skipped where it is absent."""
    root = os.environ.get("SKYGRAFT_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data"
    root = Path(root)
    if not root.is_dir():
        pytest.skip(f"reference data not found at {root}; set SKYGRAFT_DATA to its folder")
    return root
