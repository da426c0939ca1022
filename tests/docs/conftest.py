"""What the tests of the documentation share: its pages, and the demo that they are written for."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from kits.made_once import made_once

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that `skygraft demo` makes: that of $SKYGRAFT_DEMO, or a new one."""
    if made := os.environ.get("SKYGRAFT_DEMO"):
        assert (Path(made) / "demo.png").is_file(), f"$SKYGRAFT_DEMO is {made}, which no demo has made"
        return Path(made)
    from skygraft.demo import run_demo

    def make(folder: Path) -> None:
        assert run_demo(folder, workers=0).ok

    # Commands write into its campaign: each process has a copy.
    made_here = tmp_path_factory.mktemp("demo") / "skygraft-demo"
    return Path(shutil.copytree(made_once(tmp_path_factory, "skygraft-demo", make), made_here))


@pytest.fixture
def beside_demo(demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory with the demo in it, as the reader of a page has."""
    (tmp_path / "skygraft-demo").symlink_to(demo)
    monkeypatch.chdir(tmp_path)
    return tmp_path
