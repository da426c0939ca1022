"""Fixtures shared by every room's tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# Machines that run tests are shared: how long an example takes says nothing.
settings.register_profile("skygraft", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("skygraft")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs the reference data, so that ``-m "not data"`` leaves it out, and what one process must run.

    Tests of a file share fixtures, and those of batch systems share one that this machine can hold once.
    """
    for item in items:
        item.add_marker(pytest.mark.xdist_group("cluster" if item.get_closest_marker("cluster") else item.path.stem))
        if "data_dir" in getattr(item, "fixturenames", ()):
            item.add_marker("data")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real reference data; the test is skipped where it is absent."""
    root = os.environ.get("SKYGRAFT_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data"
    root = Path(root)
    if not root.is_dir():
        pytest.skip(f"reference data not found at {root}; set SKYGRAFT_DATA to its folder")
    return root
