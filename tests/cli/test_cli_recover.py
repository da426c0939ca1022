"""The command ``recover``: what it prints, its exit codes, and what it refuses."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from kits.tiny_campaign import write_tiny_campaign
from skygraft.campaign import Campaign, read_plan
from skygraft.cli import app


@pytest.fixture
def runner() -> CliRunner:
    return CliRunner(env={"COLUMNS": "200"})


@pytest.fixture
def done(tmp_path: Path) -> Path:
    path = write_tiny_campaign(tmp_path, n_images=2)
    assert Campaign.from_yaml(path).run(n_workers=0).ok
    return path


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another for all tests that change nothing of it."""
    path = write_tiny_campaign(tmp_path_factory.mktemp("kept"), n_images=2)
    assert Campaign.from_yaml(path).run(n_workers=0).ok
    return path


def test_it_says_what_was_found_and_what_to_do_next(runner: CliRunner, done: Path) -> None:
    result = runner.invoke(app, ["recover", str(done), "--workers", "0"])
    assert result.exit_code == 0, result.output
    assert "2 images: 2 measured, 0 measured before, 0 failed" in result.output
    assert re.search(r"^  - +Star +24 ", result.output, re.M) or re.search(r"^  r +Star +24 ", result.output, re.M)
    assert f"table in {done.parent / 'out' / 'recovery'}" in result.output
    assert f"next: skygraft report {done}" in result.output
    again = runner.invoke(app, ["recover", str(done), "--workers", "0", "--json"])
    content = json.loads(again.output)
    assert again.exit_code == 0 and content["sweep"]["n_skipped"] == 2 and content["n"] == 24
    assert runner.invoke(app, ["recover", str(done), "--workers", "0", "--redo"]).output.startswith(
        "2 images: 2 measured, 0"
    )


def test_options_take_the_place_of_settings(runner: CliRunner, done: Path) -> None:
    result = runner.invoke(
        app,
        ["recover", str(done), "--workers=0", "--threshold=4", "--min-area=3", "--match-radius=0.4", "--sample=1"],
    )
    assert result.exit_code == 0, result.output
    settings = json.loads((done.parent / "out/recovery/_settings.json").read_text())["settings"]
    assert (settings["threshold"], settings["min_area"], settings["match_radius"]) == (4.0, 3, 0.4)
    assert "1 image: 1 measured" in result.output


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--threshold=0"], "recovery.threshold"),
        (["--threshold=nan"], "not finite"),
        (["--match-radius=-1"], "recovery.match_radius"),
        (["--min-area=0"], "recovery.min_area"),
        (["--sample=0"], "--sample"),
        (["--cluster=nowhere"], "nowhere"),
        (["--scheduler=nowhere"], "tcp://host:8786"),
        (["--cluster=local", "--scheduler=tcp://localhost:1"], "both say where"),
    ],
)
def test_what_is_refused(runner: CliRunner, kept: Path, options: list[str], said: str) -> None:
    result = runner.invoke(app, ["recover", str(kept), *options])
    assert result.exit_code in (1, 2) and said in result.output.replace("\n", " "), result.output
    assert not (kept.parent / "out/recovery").exists()


def test_what_is_wrong_with_the_campaign(runner: CliRunner, done: Path, tmp_path: Path) -> None:
    image = read_plan(done.parent / "out/plan.parquet")[0]
    (done.parent / "out/images" / image.output).unlink()
    result = runner.invoke(app, ["recover", str(done), "--workers=0"])
    assert result.exit_code == 1 and image.image_id in result.output and "1 failed" in result.output
    content = yaml.safe_load(done.read_text())
    other = done.with_name("other.yaml")
    other.write_text(yaml.safe_dump(content | {"name": "other"}))
    result = runner.invoke(app, ["recover", str(other), "--workers=0"])
    assert result.exit_code == 1 and "a campaign whose name is 'tiny', not 'other'" in result.output
    other.write_text(yaml.safe_dump(content | {"output": "none"}))
    result = runner.invoke(app, ["recover", str(other), "--workers=0"])
    assert result.exit_code == 1 and "skygraft plan" in result.output
    other.write_text(yaml.safe_dump(content | {"recovery": {"treshold": 2}}))
    result = runner.invoke(app, ["recover", str(other), "--workers=0"])
    assert result.exit_code == 1 and "recovery.treshold" in result.output and "threshold" in result.output


def test_of_a_copy_without_its_times_it_is_said(runner: CliRunner, done: Path) -> None:
    source = next(path for path in done.parent.rglob("*.fits") if "out" not in path.relative_to(done.parent).parts)
    os.utime(source, ns=(1, 1))
    result = runner.invoke(app, ["recover", str(done), "--workers=0"])
    assert result.exit_code == 1 and "copied without its time of last change" in result.output, result.output
    source.write_bytes(source.read_bytes() + b" " * 2880)
    assert "bytes, and has" in runner.invoke(app, ["recover", str(done), "--workers=0"]).output


@pytest.mark.parametrize("command", ["verify", "recover", "aperture"])
def test_one_spelling_for_one_thing(runner: CliRunner, done: Path, command: str) -> None:
    text = runner.invoke(app, [command, str(done), "--sample=1", "--workers=0", "--redo"]).output
    folder = {"verify": "verification", "recover": "recovery", "aperture": "apertures"}[command]
    assert f"table in {done.parent / 'out' / folder}" in text, text
    for options in (["--sample=0"], ["--workers=-1"], ["--cluster=local", "--scheduler=tcp://localhost:1"]):
        refused = runner.invoke(app, [command, str(done), *options])
        assert refused.exit_code in (1, 2) and options[0].split("=")[0] in refused.output, refused.output


def test_a_sample_is_of_a_campaign(runner: CliRunner, kept: Path) -> None:
    image = next(path for path in kept.parent.rglob("*.fits"))
    for option in ("--sample=1", "--scheduler=tcp://localhost:1"):
        result = runner.invoke(app, ["aperture", str(image), option])
        assert result.exit_code == 1 and f"{option.split('=')[0]} is of a campaign only" in result.output


@pytest.mark.dask
def test_on_a_cluster(runner: CliRunner, done: Path) -> None:
    result = runner.invoke(app, ["recover", str(done), "--cluster=local", "--workers=1"])
    assert result.exit_code == 0 and "2 images: 2 measured" in result.output, result.output
