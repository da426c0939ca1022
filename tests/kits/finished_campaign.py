"""A campaign of four small images that has been run, once for all processes of a session, and copies of it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from kits.campaign_fixtures import SETTINGS, merged
from kits.made_once import made_once
from skygraft.campaign import Campaign


@pytest.fixture(scope="session")
def finished_yaml(pristine: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Configuration of a campaign that has been run and nothing else; not to be changed."""

    def make(folder: Path) -> None:
        survey = shutil.copytree(pristine, folder / "survey")
        settings: dict[str, Any] = {
            "survey": {"root": str(survey)},
            "catalog": {"path": str(survey / "fakes.parquet")},
            "output": "out",
        }
        path = folder / "campaign.yaml"
        path.write_text(yaml.safe_dump(merged(SETTINGS, settings)))
        assert Campaign.from_yaml(path).run(n_workers=0).ok

    return made_once(tmp_path_factory, "finished-campaign", make) / "campaign.yaml"


def copy_finished(finished_yaml: Path, folder: Path) -> Path:
    """Copy what a campaign has made; its survey stays where it is."""
    return (
        Path(shutil.copytree(finished_yaml.parent, folder, ignore=shutil.ignore_patterns("survey")))
        / finished_yaml.name
    )


@pytest.fixture
def copied(finished_yaml: Path, tmp_path: Path) -> Callable[..., Campaign]:
    """Make a copy of it that a test may change, with other settings that no pixel depends on."""

    def copy(name: str = "copy", **changes: Any) -> Campaign:
        path = copy_finished(finished_yaml, tmp_path / name)
        content = merged(yaml.safe_load(path.read_text()), changes)
        path.write_text(yaml.safe_dump(content))
        return Campaign.from_yaml(path)

    return copy
