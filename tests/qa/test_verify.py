"""Measuring a campaign on what it wrote: which images, by how many processes, and what of those that cannot be read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from skygraft.campaign import Campaign, Plan, read_plan
from skygraft.cli import app
from skygraft.errors import CampaignError, ConfigError
from skygraft.planning.check import choose_images
from skygraft.qa.verify import chosen_images, verify_campaign

type MakeCampaign = Callable[..., Campaign]


@pytest.fixture
def many(make_campaign: MakeCampaign, survey: Path, kit: Any) -> Campaign:
    """Fourteen images in two bands, of eight visits, all of them done."""
    for i in range(10):
        kit.write_image(
            survey / f"raw/more/{i}.fits", *kit.CENTRES[i % 4], 600 + i // 2, i % 2, FILTER="i" if i < 3 else "r"
        )
    campaign = make_campaign()
    assert campaign.run(n_workers=0).ok
    return campaign


def test_a_sample_is_always_the_same_and_of_all_bands(many: Campaign) -> None:
    plan = Plan(many.layout.plan)
    everything, n_done = chosen_images(many, None)
    assert everything.tolist() == list(range(14)) and n_done == 14
    some, _ = chosen_images(many, 5)
    assert len(some) == 5 and some.tolist() == chosen_images(many, 5)[0].tolist() == sorted(some.tolist())
    assert {image.band for image in plan.images(some)} == {"r", "i"}
    # Only what is done is chosen from, whatever else is planned.
    gone = [image for image in read_plan(many.layout.plan) if image.band == "i"]
    for image in gone:
        many.layout.record(image.tract, image.patch, image.stem).unlink()
    rows, n_done = chosen_images(many, 5)
    assert n_done == 11 and {image.band for image in plan.images(rows)} == {"r"}
    with pytest.raises(ConfigError, match="sample is 0"):
        chosen_images(many, 0)


def test_choosing_among_all_is_choosing(many: Campaign) -> None:
    plan = Plan(many.layout.plan)
    for n in (1, 3, 6, 20):
        assert choose_images(plan, n, np.arange(14)).tolist() == choose_images(plan, n).tolist()


def test_processes_do_not_matter(many: Campaign) -> None:
    seen: list[str] = []
    here = verify_campaign(many, sample=None, contamination=1e9, processes=1, progress=seen.append)
    assert seen == [image.image_id for image in read_plan(many.layout.plan)]
    others = verify_campaign(many, sample=None, contamination=1e9, processes=2)
    assert here.colnames == others.colnames and len(here) == len(others) > 20
    for name in here.colnames:
        assert np.array_equal(here[name], others[name])
    assert here.meta == others.meta and (here.meta["n_done"], here.meta["problems"]) == (14, [])


def test_one_that_cannot_be_read_costs_no_other(many: Campaign) -> None:
    image, other = read_plan(many.layout.plan)[3:5]
    path = many.layout.images / image.output
    path.write_bytes(path.read_bytes()[:4000])
    many.layout.truth_part(other.tract, other.patch, other.stem).write_bytes(b"rotten")
    table = verify_campaign(many, sample=None, processes=1)
    problems = {row["image_id"]: row["problem"] for row in table.meta["problems"]}
    assert set(problems) == {image.image_id, other.image_id}
    assert str(path) in problems[image.image_id]
    assert len(table.meta["images"]) == 12


def test_the_command_says_what_was_measured(many: Campaign) -> None:
    config, runner = str(many.config.survey.root / "campaign.yaml"), CliRunner()
    result = runner.invoke(app, ["verify", config, "--sample", "6", "--workers", "1"])
    text = " ".join(result.stdout.split())
    assert "measured on a sample of 6 of the 14 images that are done" in text
    result = runner.invoke(app, ["verify", config, "--all", "--workers", "1"])
    assert "measured on all 14 images that are done" in " ".join(result.stdout.split())
    content = json.loads(runner.invoke(app, ["verify", config, "--json", "--sample", "6", "--workers", "1"]).stdout)
    assert (content["n_done"], content["sample"], len(content["images"])) == (14, True, 6)
    # Whether it succeeds is what it says.
    assert all(band["ok"] == (band["verdict"] == "closes") for band in content["bands"].values())
    for image in read_plan(many.layout.plan):
        (many.layout.images / image.output).unlink()
    result = runner.invoke(app, ["verify", config, "--workers", "1"])
    assert result.exit_code == 1 and "error:" in result.stderr


def test_nothing_is_done(make_campaign: MakeCampaign) -> None:
    campaign = make_campaign()
    campaign.plan()
    with pytest.raises(CampaignError, match="no image of the campaign is done"):
        verify_campaign(campaign)
