"""What a plan says in all: sums, estimates, findings, problems, and the tables that they are written to."""

from __future__ import annotations

import csv
import json
from collections import namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from kits.plan_kit import write_plan
from skygraft.campaign import Campaign, read_plan
from skygraft.cli import app
from skygraft.planning import cost as plan_cost
from skygraft.planning.cost import Cost, FreeSpace, estimate_cost, free_space
from skygraft.records.plan_file import Plan, PlannedImage
from skygraft.render import stars
from skygraft.skymap import get_skymap

type MakeCampaign = Callable[..., Campaign]


@pytest.fixture
def odd_survey(survey: Path, kit: Any) -> Iterator[Path]:
    """Four good images, and one each: other radius, no zeropoint, no sources, another band, empty file."""
    centre = kit.CENTRES[0]
    kit.write_image(survey / "raw/radius.fits", *centre, 600, 0, CALAPRAD=8.0)
    kit.write_image(survey / "raw/bare.fits", *centre, 601, 0, MAGZERO=None)
    kit.write_image(survey / "raw/empty.fits", 150.10, 2.50, 602, 0)
    kit.write_image(survey / "raw/z.fits", *centre, 603, 0, FILTER="z")
    (survey / "raw/broken.fits").write_bytes(b"")
    yield survey


def image(number: int, **changes: Any) -> PlannedImage:
    content: dict[str, Any] = {
        "image_id": f"image-{number}", "stem": f"image-{number}", "path": f"{number}.fits", "hdu": "",
        "format": "lsst_afw", "instrument": "cam", "visit": 1, "detector": None, "band": "r", "mjd": 6e4,
        "exposure_time": 30.0, "nx": 1000, "ny": 2000, "ra": 1.0, "dec": 2.0, "polygon": ((0.0, 0.0),),
        "pixel_scale": 0.2, "n_bytes": 24_000_000, "options": "{}", "tract": 1, "patch": number % 2, "reads": ((1, 2),),
        "n_sources": 10, "cost_seconds": 2.0, "output": f"{number}.fits", "catalog_key": "",
    }  # fmt: skip
    return PlannedImage(**content | changes)


def make_plan(path: Path, *images: PlannedImage) -> Plan:
    write_plan(path, images, {})
    return Plan(path)


def test_costs_by_hand(tmp_path: Path) -> None:
    plan = make_plan(
        tmp_path / "plan",
        image(0),  # as large as its planes are: does not grow
        image(1, n_bytes=4_000_000, n_sources=100, cost_seconds=9.0),  # compressed: 4 kB a source
        image(2, n_bytes=23_900_000, n_sources=1000),  # grows to the size of its planes, and no more
        image(3, format="fits", n_sources=0, nx=10, ny=10, n_bytes=1200),
    )
    cost = estimate_cost(plan, files={"fits": 2.0})
    assert (cost.n_images, cost.n_sources, cost.n_patches) == (4, 1110, 2)
    assert cost.read_bytes == 24_000_000 + 4_000_000 + 23_900_000 + 1200
    assert cost.image_bytes == 24_000_000 + 4_400_000 + 24_000_000 + 1200
    assert cost.n_files == 1 + 1 + 1 + 2 + 4 * 2 + 2
    assert (cost.cpu_seconds, cost.longest_seconds) == (15.0, 9.0)
    assert cost.memory_bytes == 350e6 + 4 * 12 * 2e6
    assert [cost.wall_seconds(n) for n in (1, 2, 3)] == [15.0, 9.0, 9.0]
    # While they are written, the two largest lie there twice.
    assert cost.disk_bytes(2) == cost.image_bytes + cost.table_bytes + 2 * 24_000_000
    assert cost.disk_bytes(100) == cost.disk_bytes(4)
    some = estimate_cost(plan, np.array([False, True, False, False]))
    assert (some.n_images, some.image_bytes, some.cpu_seconds, some.n_patches) == (1, 4_400_000, 9.0, 1)
    assert estimate_cost(plan, np.zeros(4, dtype=bool)) == Cost()


def test_estimates_hold_for_what_is_written(make_campaign: MakeCampaign) -> None:
    campaign = make_campaign()
    cost = campaign.plan().cost
    assert campaign.run(n_workers=0).ok
    root = campaign.layout.root
    images = sum(path.stat().st_size for path in campaign.layout.images.rglob("*") if path.is_file())
    assert cost.image_bytes == pytest.approx(images, rel=0.15)
    made = [p for name in ("images", "records", "truth") for p in (root / name).rglob("*") if p.is_file()]
    assert cost.n_files == len(made)
    tables = sum(path.stat().st_size for path in made) - images
    assert 0.5 * tables < cost.table_bytes < 2 * tables


def test_free_space(tmp_path: Path) -> None:
    found = free_space(tmp_path / "not" / "there")
    assert found is not None
    assert found.n_bytes > 0


def test_a_disk_that_is_too_small(make_campaign: MakeCampaign, monkeypatch: pytest.MonkeyPatch) -> None:
    from skygraft.planning import summary as plan_summary

    campaign = make_campaign()
    monkeypatch.setattr(plan_summary, "free_space", lambda folder: FreeSpace(300_000, 7))
    first, second = campaign.plan().problems
    assert "300.0 kB are free" in first
    assert "7 more files" in second
    monkeypatch.setattr(plan_summary, "free_space", lambda folder: None)
    summary = campaign.plan()
    assert summary.problems == ()
    assert "cannot be told" in str(summary)


def test_file_systems_without_inodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    status = namedtuple("status", "f_files f_favail f_bavail f_frsize")
    monkeypatch.setattr(plan_cost.os, "statvfs", lambda path: status(0, 0, 100, 4096))
    assert free_space(tmp_path) == FreeSpace(409_600, None)
    monkeypatch.setattr(plan_cost.os, "statvfs", lambda path: status(10, 5, 1, 512))
    assert free_space(tmp_path / "new") == FreeSpace(512, 5)


def test_everything_is_found(make_campaign: MakeCampaign, odd_survey: Path, kit: Any) -> None:
    (odd_survey / "raw/v1/image-3.fits").unlink()
    campaign = make_campaign()
    summary = campaign.plan(n_workers=3)
    assert (summary.n_images, summary.n_unusable, summary.n_done, summary.n_failed) == (7, 1, 0, 0)
    assert summary.bands == {"r": 6, "z": 1}
    assert summary.formats == {"fits": 7}
    assert {name: few.first for name, few in summary.findings.items() if "patches" not in name} == {
        "unusable images": ("raw/broken.fits",),
        "images in bands without magnitudes": ("testcam-603-0",),
        "images without sources": ("testcam-602-0",),
    }
    home = get_skymap("hsc_rings_v1").locate(*kit.CENTRES[3])
    assert f"{int(home[0])},{int(home[1])}" in summary.findings["patches without images"].first
    assert [trouble.kind for trouble in summary.checks.troubles] == ["uncalibrated"]
    assert summary.mixed
    label, text = summary.rows()[0]
    assert label == "attention"
    assert "12 pix = 2.4 arcsec in 5 images" in text
    assert "8 pix = 1.6 arcsec in 1 image" in text
    for words in ("broken.fits", "band z", "no zeropoint: 1 image (testcam-601-0)"):
        assert sum(words in problem for problem in summary.problems) == 1, words
    assert len(summary.problems) == 3
    planned = read_plan(campaign.layout.plan)
    assert summary.n_sources == sum(i.n_sources for i in planned)
    assert summary.cost.cpu_seconds == pytest.approx(sum(i.cost_seconds for i in planned))
    assert summary.n_workers == 3
    assert list(summary.wall_seconds()) == [1, 3, 8, 64, 512]


def test_tables_on_disk(make_campaign: MakeCampaign, odd_survey: Path) -> None:
    campaign = make_campaign()
    summary = campaign.plan()
    findings = pq.read_table(campaign.layout.plan_findings).to_pylist()
    for name, few in summary.findings.items():
        assert sum(row["finding"] == name for row in findings) == few.n
    by_path = {row["path"]: row for row in findings}
    assert "CorruptFileError" in by_path["raw/broken.fits"]["note"]
    assert by_path["raw/empty.fits"]["image_id"] == "testcam-602-0"
    with campaign.layout.plan_summary.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert set(rows[0]) == {"quantity", "value", "unit", "note"}
    values = {row["quantity"]: row["value"] for row in rows}
    assert values["images"] == "8"
    assert values["images in z"] == "1"
    assert int(values["to read"]) == summary.cost.read_bytes
    assert values["images: uncalibrated"] == "1"
    assert values["calibrated to aperture of radius 8 pix = 1.6 arcsec"] == "1"
    assert float(values["processor time"]) == pytest.approx(summary.cost.cpu_seconds / 3600, abs=1e-4)
    assert sum(row["quantity"] == "problem" for row in rows) == len(summary.problems)
    assert len(pq.read_table(campaign.layout.plan_checks)) == 8


def test_a_sample_says_of_how_many(make_campaign: MakeCampaign) -> None:
    campaign = make_campaign(survey={"calibration": {"psf": None}})
    summary = campaign.plan(checks=2)
    assert (summary.checks.n_checked, summary.checks.count("no PSF")) == (2, 2)
    assert "2 of 4 images" in str(summary)
    assert "about 4 of all 4" in summary.problems[0]
    none = campaign.plan(checks="none")
    assert none.problems == ()
    assert "no image's calibration" in str(none)


def test_a_run_takes_its_time_to_start(make_campaign: MakeCampaign, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four small images are a second of work, and many more until the first of them is drawn."""
    compiled = make_campaign().plan()
    assert compiled.cost.start_seconds >= 5
    work = max(compiled.cost.cpu_seconds / compiled.n_workers, compiled.cost.longest_seconds)
    extra = compiled.cost.start_seconds + compiled.cost.compile_seconds
    assert compiled.wall_seconds()[compiled.n_workers] == pytest.approx(work + extra)
    assert "to start" in str(compiled) and "no wait in a queue" in str(compiled)
    # Nothing of this code was ever compiled: that is what numba's folder for it, which is empty, says.
    for name, value in list(vars(stars).items()):
        file = getattr(getattr(value, "_cache", None), "_cache_file", None)
        if file is not None:
            monkeypatch.setattr(file, "_index_path", f"/nowhere/{name}")
    cold = make_campaign().plan()
    assert cold.cost.compile_seconds >= 20 and "to compile loops" in str(cold)
    assert cold.wall_seconds()[1] - cold.cost.compile_seconds == pytest.approx(
        cold.cost.cpu_seconds + cold.cost.start_seconds
    )


def test_what_is_done_costs_nothing(finished: Campaign) -> None:
    summary = finished.plan()
    assert (summary.n_done, summary.n_failed, summary.cost) == (4, 0, Cost())
    assert "0; 4 are done" in str(summary)


def test_command(make_campaign: MakeCampaign, odd_survey: Path) -> None:
    campaign = make_campaign()
    path, runner = str(odd_survey / "campaign.yaml"), CliRunner()
    shown = runner.invoke(app, ["plan", path, "--workers", "16", "--check", "all"])
    assert shown.exit_code == 1, shown.output
    text = " ".join(shown.stdout.split())
    for words in ("3 problems", "NOT all calibrated to the same thing", "with 16 workers", "testcam-601-0"):
        assert words in text
    content = json.loads(runner.invoke(app, ["plan", path, "--json", "--check", "3", "--processes", "1"]).stdout)
    assert (content["n_images"], content["checks"]["n_checked"]) == (8, 3)
    assert set(content["wall_seconds"]) >= {"1", "512"}
    for bad in ("some", "0", "-1", "1.5"):
        result = runner.invoke(app, ["plan", path, f"--check={bad}"])
        assert result.exit_code == 1
        assert "--check" in result.stderr
    for name in ("bare", "broken", "z"):
        (odd_survey / f"raw/{name}.fits").unlink()
    good = runner.invoke(app, ["plan", path])
    assert good.exit_code == 0, good.output
    assert "nothing stands in its way" in good.stdout
    assert campaign.layout.plan_summary.exists()
