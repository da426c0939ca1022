"""What the tests of the documentation share: its pages, and the demo that they are written for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that `skygraft demo` makes: that of $SKYGRAFT_DEMO, or a new one."""
    if made := os.environ.get("SKYGRAFT_DEMO"):
        assert (Path(made) / "demo.png").is_file(), f"$SKYGRAFT_DEMO is {made}, which no demo has made"
        return Path(made)
    from skygraft.demo import run_demo

    folder = tmp_path_factory.mktemp("demo") / "skygraft-demo"
    assert run_demo(folder, workers=0).ok
    return folder


@pytest.fixture
def beside_demo(demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory with the demo in it, as the reader of a page has."""
    (tmp_path / "skygraft-demo").symlink_to(demo)
    monkeypatch.chdir(tmp_path)
    return tmp_path
