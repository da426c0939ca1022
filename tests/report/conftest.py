"""Finished campaigns of small images with recovery tables, and a real browser."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kits.campaign_fixtures import expected, kit, make_campaign, pristine, survey
from kits.finished_campaign import copied, copy_finished, finished_yaml
from kits.made_once import made_once
from report.recovery_tables import write_recovery
from skygraft.campaign import Campaign
from skygraft.report import make_report

__all__ = ["copied", "expected", "finished_yaml", "kit", "make_campaign", "pristine", "survey"]

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)


@pytest.fixture(scope="session")
def reported(finished_yaml: Path, tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    """A copy of it with recovery tables and its report; not to be changed."""

    def make(folder: Path) -> None:
        copy_finished(finished_yaml, folder)
        campaign = Campaign.from_yaml(folder / "campaign.yaml")
        write_recovery(campaign, m50=21.0)
        assert make_report(campaign) == campaign.layout.root / "report" / "report.html"

    return Campaign.from_yaml(made_once(tmp_path_factory, "reported", make) / "campaign.yaml")


@pytest.fixture
def no_figure_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports of tests that read the page alone: its figures are in it; the files beside it are empty."""

    def touch(_: object, folder: Path, name: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for suffix in ("png", "pdf"):
            (folder / f"{name}.{suffix}").touch()

    monkeypatch.setattr("skygraft.report.studio.save", touch)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium here")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            yield opened
        finally:
            opened.close()
