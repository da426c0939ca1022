"""What a plan's images say of their calibration: which are looked at, what is found, and that nothing stops it."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st

from kits.plan_kit import write_plan
from skygraft.campaign import Campaign
from skygraft.errors import ConfigError
from skygraft.planning import check as plan_check
from skygraft.planning.check import FEW_IMAGES, TROUBLES, Checks, check_plan, choose_images
from skygraft.planning.plan import plan_images
from skygraft.records.plan_file import Plan, PlannedImage

type MakeCampaign = Callable[..., Campaign]


def image(number: int, **changes: Any) -> PlannedImage:
    content: dict[str, Any] = {
        "image_id": f"image-{number:07d}", "stem": f"image-{number}", "path": f"{number}.fits", "hdu": "",
        "format": "fits", "instrument": "cam", "visit": number // 4, "detector": str(number % 4), "band": "r",
        "mjd": 6e4, "exposure_time": 30.0, "nx": 100, "ny": 100, "ra": 1.0, "dec": 2.0, "polygon": ((0.0, 0.0),),
        "pixel_scale": 0.2, "n_bytes": 1000, "options": "{}", "tract": 1, "patch": 2, "reads": ((1, 2),),
        "n_sources": 3, "cost_seconds": 1.0, "output": f"{number}.fits", "catalog_key": "",
    }  # fmt: skip
    return PlannedImage(**content | changes)


def make_plan(path: Path, images: Iterable[PlannedImage]) -> Plan:
    write_plan(path, images, {"unusable": [], "problems": []})
    return Plan(path)


def check(campaign: Campaign, checks: Checks = "all", **options: Any) -> tuple[plan_check.PlanChecks, dict[str, Any]]:
    """What is found, and the rows of the table by path."""
    plan = plan_images(campaign.config)
    path = campaign.layout.plan_checks
    found = check_plan(campaign.config, plan, choose_images(plan, checks), path=path, **options)
    return found, {row["path"]: row for row in pq.read_table(path).to_pylist()}


def test_sample_has_every_kind_and_spreads_over_visits(tmp_path: Path) -> None:
    kinds = [("fits", "cam", "r")] * 3000 + [("fits", "cam", "i")] * 1000 + [("afw", None, None)] * 3
    random.Random(3).shuffle(kinds)
    images = [
        image(i, format=f, instrument=c, band=b, visit=None if c is None else i // 40)
        for i, (f, c, b) in enumerate(kinds)
    ]
    plan = make_plan(tmp_path / "plan.parquet", images)
    rows = choose_images(plan, 80)
    assert list(rows) == sorted(set(rows.tolist()))
    chosen = [images[row] for row in rows]
    assert Counter((i.format, i.band) for i in chosen) == {("fits", "r"): 59, ("fits", "i"): 20, ("afw", None): 1}
    # A hundred visits: no two images of one band are of one visit.
    for band in "ri":
        visits = [i.visit for i in chosen if i.band == band]
        assert len(set(visits)) == len(visits)
    np.testing.assert_array_equal(choose_images(Plan(tmp_path / "plan.parquet"), 80), rows)
    # Not the first image of each visit, whose detector is always the same.
    assert len({i.detector for i in chosen}) == 4


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), min_size=1, max_size=60), st.integers(1, 70))
def test_sample_of_any_plan(tmp_path_factory: pytest.TempPathFactory, kinds: list[tuple[int, int]], size: int) -> None:
    images = [image(i, instrument=f"cam{c}", visit=v or None) for i, (c, v) in enumerate(kinds)]
    plan = make_plan(tmp_path_factory.mktemp("plan") / "plan.parquet", images)
    rows = choose_images(plan, size).tolist()
    cameras = {c for c, _ in kinds}
    assert {images[row].instrument for row in rows} == {f"cam{c}" for c in cameras}
    assert rows == sorted(set(rows))
    assert len(rows) == len(images) if size >= len(images) else size <= len(rows) <= size + len(cameras)


def test_how_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = make_plan(tmp_path / "plan.parquet", [image(i) for i in range(30)])
    for checks, n in (("auto", 30), ("all", 30), ("none", 0), (7, 7), (30, 30), (1000, 30)):
        assert len(choose_images(plan, checks)) == n  # type: ignore[arg-type]
    assert FEW_IMAGES == 2000
    monkeypatch.setattr(plan_check, "FEW_IMAGES", 29)
    monkeypatch.setattr(plan_check, "_SAMPLE", 11)
    assert len(choose_images(plan, "auto")) == 11
    for bad in (0, -3, True, "some"):
        with pytest.raises(ConfigError, match="how many images"):
            choose_images(plan, bad)  # type: ignore[arg-type]


def test_what_images_say(make_campaign: MakeCampaign, survey: Path, kit: Any) -> None:
    """One image of each kind of trouble among good ones; each is a row, and none stops the others."""
    centre = kit.CENTRES[0]
    kit.write_image(survey / "raw/radius.fits", *centre, 600, 0, CALAPRAD=8.0)
    kit.write_image(survey / "raw/bare.fits", *centre, 601, 0, MAGZERO=None)
    kit.write_image(survey / "raw/unknown.fits", *centre, 602, 0, CALAPRAD=None)
    kit.write_image(survey / "raw/magzpt.fits", *centre, 603, 0, MAGZPT=25.0)
    kit.write_image(survey / "raw/gain.fits", *centre, 604, 0, GAIN=None)
    kit.write_image(survey / "raw/conflict.fits", *centre, 605, 0, CALAPRAD=12.0)
    with fits.open(survey / "raw/conflict.fits", mode="update") as hdus:
        hdus[0].header["CALAPREF"] = "psf_model"
    found, rows = check(make_campaign())
    assert (found.n_images, found.n_checked) == (10, 10)
    assert {path: row["troubles"] for path, row in rows.items() if row["troubles"]} == {
        "raw/bare.fits": ["uncalibrated"],
        "raw/unknown.fits": ["aperture unknown"],
        "raw/magzpt.fits": ["zeropoint conflict"],
        "raw/gain.fits": ["no gain"],
        "raw/conflict.fits": ["aperture conflict"],
    }
    assert [trouble.kind for trouble in found.troubles] == [
        "uncalibrated", "zeropoint conflict", "aperture conflict", "aperture unknown", "no gain",
    ]  # fmt: skip
    assert {trouble.first for trouble in found.troubles} == {(f"testcam-60{i}-0",) for i in (1, 2, 3, 4, 5)}
    good = rows["raw/v0/image-0.fits"]
    assert (good["kind"], good["radius_pixels"], good["zeropoint"]) == ("aperture", 12.0, pytest.approx(27.0))
    assert good["radius_arcsec"] == pytest.approx(2.4, rel=1e-4)
    assert "CALAPRAD" in good["origin"]
    assert (good["gain"], good["problem"]) == (2.0, "")
    assert "offat" in good["psf"]
    assert rows["raw/bare.fits"]["zeropoint"] is None
    assert "12 pix" in rows["raw/conflict.fits"]["problem"]
    # Four good ones, one without a gain, and the other radius.
    assert {(use.radius, use.n_images) for use in found.uses} == {(12.0, 5), (8.0, 1)}
    # A mask of the fakes comes beside each image.
    assert found.files == {"fits": 2.0}


def test_what_the_configuration_says_counts(make_campaign: MakeCampaign, survey: Path, kit: Any) -> None:
    kit.write_image(survey / "raw/bare.fits", *kit.CENTRES[0], 601, 0, MAGZERO=None, CALAPRAD=None, GAIN=None)
    given = {"zeropoint": 26.0, "gain": 3.0, "aperture": "12 pix"}
    found, rows = check(make_campaign(survey={"calibration": given}))
    assert found.troubles == ()
    row = rows["raw/bare.fits"]
    assert (row["zeropoint"], row["gain"], row["radius_pixels"]) == (pytest.approx(26.0), 3.0, 12.0)
    found, _ = check(make_campaign(injection={"noise": False}, survey={"calibration": {"zeropoint": 26.0}}))
    assert [trouble.kind for trouble in found.troubles] == ["aperture unknown"]
    found, _ = check(make_campaign(injection={"noise": False, "flux_mode": "total"}))
    assert [trouble.kind for trouble in found.troubles] == ["uncalibrated"]


def test_no_psf(make_campaign: MakeCampaign) -> None:
    found, rows = check(make_campaign(survey={"calibration": {"psf": None}}))
    assert [(trouble.kind, trouble.n_images, trouble.where) for trouble in found.troubles] == [
        ("no PSF", 4, {"testcam r": 4})
    ]
    assert {row["psf"] for row in rows.values()} == {""}
    assert "survey.calibration.psf" in str(found.troubles[0])


def test_a_psf_that_is_missing_is_named(make_campaign: MakeCampaign) -> None:
    found, rows = check(make_campaign(survey={"calibration": {"psf": "models/none.psf"}}))
    assert [(trouble.kind, trouble.n_images) for trouble in found.troubles] == [("unreadable", 4)]
    assert all("models/none.psf: " in row["problem"] for row in rows.values())
    assert "models/none.psf" in str(found.troubles[0])


def test_images_that_are_gone_or_damaged(make_campaign: MakeCampaign, survey: Path, monkeypatch: Any) -> None:
    campaign = make_campaign()
    plan = plan_images(campaign.config)
    (survey / "raw/v0/image-0.fits").unlink()
    (survey / "raw/v0/image-1.fits").write_bytes(b"")
    path = campaign.layout.plan_checks

    def look() -> tuple[plan_check.PlanChecks, dict[str, str]]:
        found = check_plan(campaign.config, plan, choose_images(plan), path=path)
        return found, {row["path"]: row["problem"] for row in pq.read_table(path).to_pylist()}

    found, problems = look()
    assert (found.count("unreadable"), found.count("uncalibrated"), found.n_checked) == (2, 0, 4)
    assert "CorruptFileError" in problems["raw/v0/image-0.fits"]
    assert problems["raw/v1/image-2.fits"] == ""

    # An error that nobody thought of is a row, too.
    def fail(*args: Any, **options: Any) -> Any:
        raise ZeroDivisionError("the moon is full")

    monkeypatch.setattr("skygraft.planning.reading.read_calibration", fail)
    found, problems = look()
    assert found.count("unreadable") == 4
    assert set(problems.values()) == {"ZeroDivisionError: the moon is full"}


@pytest.mark.usefixtures("forked_processes")
def test_the_table_does_not_depend_on_who_looks(
    make_campaign: MakeCampaign, monkeypatch: pytest.MonkeyPatch, survey: Path, kit: Any
) -> None:
    kit.write_image(survey / "raw/bare.fits", *kit.CENTRES[0], 601, 0, MAGZERO=None)
    campaign = make_campaign()
    found, rows = check(campaign)
    calls: list[int] = []

    def mapper(function: Callable[[Any], Any], items: Iterable[Any]) -> Iterable[Any]:
        for item in items:
            calls.append(len(item))
            yield function(item)

    monkeypatch.setattr(plan_check, "_AT_ONCE", 2)
    assert check(campaign, mapper=mapper) == (found, rows)
    assert calls == [2, 2, 1]
    monkeypatch.setattr(plan_check, "_WORTH_A_PROCESS", 2)

    def unused(*args: Any) -> Any:
        raise AssertionError("the processes were to be used")

    assert check(campaign, mapper=unused, processes=2) == (found, rows)


def test_order_of_the_plan(make_campaign: MakeCampaign) -> None:
    campaign = make_campaign()
    check(campaign)
    names = pq.read_table(campaign.layout.plan_checks)["image_id"].to_pylist()
    assert names == Plan(campaign.layout.plan).table(["image_id"])["image_id"].to_pylist()


def test_none_leaves_an_empty_table(make_campaign: MakeCampaign) -> None:
    found, rows = check(make_campaign(), "none")
    assert (found.n_checked, found.uses, found.troubles, rows) == (0, (), (), {})


def test_every_trouble_has_words() -> None:
    for kind in TROUBLES:
        one = plan_check.Trouble(kind, 1, ("a",), "why", {"cam r": 1})
        many = plan_check.Trouble(kind, 1234, ("a", "b"), "why", {"cam r": 1000, "cam i": 234})
        assert ": 1 image (a); why" in str(one)
        assert ": 1,234 images (" in str(many)
        assert "a, b, ..." in str(many)
        assert "cam i: 234, cam r: 1,000" in str(many)
        assert "why" in str(many)
