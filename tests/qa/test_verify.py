"""Measuring a campaign on what it wrote: which images, by how many processes, and what of those that cannot be read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from kits.campaign_fixtures import SETTINGS
from skygraft.campaign import Campaign, Plan, read_plan
from skygraft.campaign.finished import sample_rows
from skygraft.campaign.sweep import product_dataset
from skygraft.cli import app
from skygraft.errors import CampaignError, ConfigError
from skygraft.planning.check import choose_images
from skygraft.qa.campaign_closure import campaign_closure
from skygraft.qa.primary_rows import check_tables
from skygraft.qa.verdicts import CHECKS
from skygraft.qa.verify import verify_campaign
from skygraft.qa.verify_checks import CONTAMINATION

type MakeCampaign = Callable[..., Campaign]


@pytest.fixture(scope="module")
def finished(pristine: Path, kit: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a survey of fourteen images and what a campaign made of it, in ``kept``; it was made in ``here``."""
    root = tmp_path_factory.mktemp("many")
    survey = Path(shutil.copytree(pristine, root / "here/survey"))
    for i in range(10):
        kit.write_image(
            survey / f"raw/more/{i}.fits", *kit.CENTRES[i % 4], 600 + i // 2, i % 2, FILTER="i" if i < 3 else "r"
        )
    (survey / "campaign.yaml").write_text(yaml.safe_dump(SETTINGS))
    assert Campaign.from_yaml(survey / "campaign.yaml").run(n_workers=0).ok
    (root / "here").rename(root / "kept")
    return root


@pytest.fixture
def many(finished: Path) -> Campaign:
    """Fourteen images in two bands, of eight visits, all of them done; put back where they were made."""
    shutil.rmtree(finished / "here", ignore_errors=True)
    shutil.copytree(finished / "kept", finished / "here")
    return Campaign.from_yaml(finished / "here/survey/campaign.yaml")


def test_a_sample_is_always_the_same_and_of_all_bands(many: Campaign) -> None:
    plan = Plan(many.layout.plan)
    everything, n_done = sample_rows(many, None)
    assert everything.tolist() == list(range(14)) and n_done == 14
    some, _ = sample_rows(many, 5)
    assert len(some) == 5 and some.tolist() == sample_rows(many, 5)[0].tolist() == sorted(some.tolist())
    assert {image.band for image in plan.images(some)} == {"r", "i"}
    # Only what is done is chosen from, whatever else is planned.
    gone = [image for image in read_plan(many.layout.plan) if image.band == "i"]
    for image in gone:
        many.layout.record(image.tract, image.patch, image.stem).unlink()
    rows, n_done = sample_rows(many, 5)
    assert n_done == 11 and {image.band for image in plan.images(rows)} == {"r"}
    with pytest.raises(ConfigError, match="sample is 0"):
        sample_rows(many, 0)


def test_choosing_among_all_is_choosing(many: Campaign) -> None:
    plan = Plan(many.layout.plan)
    for n in (1, 3, 6, 20):
        assert choose_images(plan, n, np.arange(14)).tolist() == choose_images(plan, n).tolist()


@pytest.mark.usefixtures("forked_processes")
def test_processes_do_not_matter(many: Campaign) -> None:
    seen: list[str] = []
    here = campaign_closure(many, sample=None, contamination=1e9, processes=1, progress=seen.append)
    assert seen == [image.image_id for image in read_plan(many.layout.plan)]
    others = campaign_closure(many, sample=None, contamination=1e9, processes=2)
    assert here.colnames == others.colnames and len(here) == len(others) > 20
    for name in here.colnames:
        assert np.array_equal(here[name], others[name])
    assert here.meta == others.meta and (here.meta["n_done"], here.meta["problems"]) == (14, [])


def test_one_that_cannot_be_read_costs_no_other(many: Campaign) -> None:
    image, other = read_plan(many.layout.plan)[3:5]
    path = many.layout.images / image.output
    path.write_bytes(path.read_bytes()[:4000])
    many.layout.truth_part(other.tract, other.patch, other.stem).write_bytes(b"rotten")
    table = campaign_closure(many, sample=None, processes=1)
    problems = {row["image_id"]: row["problem"] for row in table.meta["problems"]}
    assert set(problems) == {image.image_id, other.image_id}
    assert str(path) in problems[image.image_id]
    assert len(table.meta["images"]) == 12


def test_the_command_says_what_was_checked(many: Campaign) -> None:
    config, runner = str(many.config.survey.root / "campaign.yaml"), CliRunner()
    result = runner.invoke(app, ["verify", config, "--sample", "6", "--workers", "1"])
    text = " ".join(result.stdout.replace("│", " ").split())
    assert "checked a sample of 6 of the 14 images that are done" in text and "residual passes 6" in text
    result = runner.invoke(app, ["verify", config, "--all", "--workers", "1"])
    assert "checked all 14 images that are done" in " ".join(result.stdout.split())
    content = json.loads(runner.invoke(app, ["verify", config, "--json", "--sample", "6", "--workers", "1"]).stdout)
    assert (content["n_done"], content["sample"], content["n_images"]) == (14, True, 6)
    assert content["checks"]["truth"] | {"note": ""} == {
        "verdict": "passes",
        "n_passes": 6,
        "n_fails": 0,
        "n_too_few": 0,
        "n_not_applicable": 0,
        "value": None,
        "error": None,
        "note": "",
    }
    # Whether it succeeds is what it says.
    assert all(band["ok"] == (band["verdict"] == "closes") for band in content["bands"].values())
    assert content["ok"] == (
        all(one["verdict"] != "fails" for one in content["checks"].values())
        and content["checks"]["closure"]["verdict"] == "passes"
    )
    for image in read_plan(many.layout.plan):
        (many.layout.images / image.output).unlink()
    result = runner.invoke(app, ["verify", config, "--workers", "1"])
    text = " ".join(result.stdout.replace("│", " ").split())
    assert result.exit_code == 1 and "outputs fails" in text and "it is gone" in text


@pytest.mark.usefixtures("forked_processes")
def test_the_tables_have_every_image_and_check(many: Campaign) -> None:
    found = verify_campaign(many, sample=None, processes=1)
    table = product_dataset(many, "verification").to_table()
    images = {image.image_id for image in read_plan(many.layout.plan)}
    assert {*zip(table["image_id"].to_pylist(), table["check"].to_pylist(), strict=True)} == {
        (image, check) for image in images for check in CHECKS if check not in ("outputs", "primary", "tables")
    }
    # The stars of closure are those that are measured without tasks.
    alone = campaign_closure(many, sample=None, processes=1, contamination=CONTAMINATION)
    assert sorted(found.stars["mag_in"]) == pytest.approx(sorted(alone["mag_in"]), abs=1e-5)
    assert sorted(found.stars["residual"]) == pytest.approx(sorted(alone["residual"]), abs=1e-4)
    others = verify_campaign(many, sample=None, processes=2)
    assert others.to_dict()["checks"] == found.to_dict()["checks"]


def test_an_interrupted_verification_goes_on_and_one_that_ended_begins_again(
    many: Campaign, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = verify_campaign(many, sample=6, processes=1)
    assert first.swept is not None and (first.swept.n_measured, first.swept.n_skipped) == (6, 0)
    again = verify_campaign(many, sample=6, processes=1)
    assert again.swept is not None and again.swept.n_measured == 6

    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("skygraft.qa.verify.check_tables", stop)
        with pytest.raises(KeyboardInterrupt):
            verify_campaign(many, sample=6, processes=1)
    resumed = verify_campaign(many, sample=6, processes=1)
    assert resumed.swept is not None and (resumed.swept.n_measured, resumed.swept.n_skipped) == (0, 6)
    assert resumed.to_dict()["checks"] == first.to_dict()["checks"]
    with monkeypatch.context() as patch:
        patch.setattr("skygraft.qa.verify.check_tables", stop)
        with pytest.raises(KeyboardInterrupt):
            verify_campaign(many, sample=6, processes=1)
    redone = verify_campaign(many, sample=6, processes=1, redo=True)
    assert redone.swept is not None and redone.swept.n_measured == 6


def test_without_tables_the_run_has_not_ended(many: Campaign) -> None:
    many.layout.campaign_sources.unlink()
    found = verify_campaign(many, sample=1, processes=1)
    notes = {row["check"]: row["note"] for row in found.failures}
    assert set(notes) == {"primary", "tables"} and "there is no sources.parquet" in notes["tables"]


@pytest.mark.parametrize("rows_at_once", [1, 7, 50, 10_000])
def test_passes_do_not_matter(many: Campaign, rows_at_once: int) -> None:
    rows = check_tables(many.layout, rows_at_once=rows_at_once)
    assert [(row.check, row.verdict, row.value) for row in rows] == [("primary", "passes", 0), ("tables", "passes", 0)]
    at_once = check_tables(many.layout)
    assert rows == at_once or repr(rows) == repr(at_once)


def test_nothing_is_done(make_campaign: MakeCampaign) -> None:
    campaign = make_campaign()
    campaign.plan()
    with pytest.raises(CampaignError, match="no image of the campaign is done"):
        campaign_closure(campaign)
    with pytest.raises(CampaignError, match="no image of the campaign is done"):
        verify_campaign(campaign)
