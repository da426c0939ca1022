"""What disks and copies do to outputs after they were written: found, named, and made again."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from skygraft.campaign import Campaign, read_plan
from skygraft.cli import app
from skygraft.errors import CampaignError

type MakeCampaign = Callable[..., Campaign]


@pytest.fixture
def done(finished: Campaign) -> Campaign:
    return finished


def flip(path: Path, at: float = 0.5, mask: int = 1) -> None:
    """Turn a bit of each of two bytes, as a disk would: neither size nor times change."""
    status, content = path.stat(), bytearray(path.read_bytes())
    start = min(int(at * len(content)), len(content) - 2)
    for place in (start, start + 1):
        content[place] ^= mask
    with path.open("rb+") as handle:
        handle.write(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def victims(campaign: Campaign) -> dict[str, Path]:
    image, layout = read_plan(campaign.layout.plan)[2], campaign.layout
    return {
        "image": layout.images / image.output,
        "truth part": layout.truth_part(image.tract, image.patch, image.stem),
        "record": layout.record(image.tract, image.patch, image.stem),
        "truth table": layout.truth_table(image.tract, image.patch),
        "source table": layout.source_table(*image.reads[0]),
        "sources": layout.campaign_sources,
        "catalogue part": layout.catalog_part(*image.reads[0]),
        "plan": layout.plan,
        "configuration": layout.config,
    }


def test_all_is_well(done: Campaign) -> None:
    report = done.check_checksums(processes=1)
    assert report.ok and (report.n_images, report.damaged) == (4, ())
    written = [path for folder in ("images", "records") for path in (done.layout.root / folder).rglob("*.*")]
    tables = [path for folder in ("truth", "sources") for path in (done.layout.root / folder).rglob("*.parquet")]
    catalog = [path for path in done.layout.catalog.rglob("*.*") if path.is_file()]
    # With the sources of all patches, plan, configuration, provenance, failures and the ledger's checkpoint.
    assert report.n_tables == len(tables) + len(catalog) + 6
    assert report.n_files == len([path for path in written if path.is_file()]) + report.n_tables
    assert "are as they were written" in str(report)


@pytest.mark.parametrize("processes", [1, 2])
def test_every_file_with_two_flipped_bytes_is_named(done: Campaign, processes: int) -> None:
    for what, path in victims(done).items():
        content = path.read_bytes()
        for at in (0.0, 0.3, 0.999) if processes == 1 else (0.5,):
            flip(path, at)
            report = done.check_checksums(processes=processes)
            named = {bad.path for bad in report.damaged}
            assert path.relative_to(done.layout.root).as_posix() in named, (what, at)
            assert not report.ok
            status = path.stat()
            path.write_bytes(content)
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert done.check_checksums(processes=1).ok


def test_what_is_gone_or_cut_is_named(done: Campaign) -> None:
    found = victims(done)
    found["image"].write_bytes(found["image"].read_bytes()[:-2880])
    found["truth table"].unlink()
    found["sources"].unlink()
    problems = {bad.path: bad.problem for bad in done.check_checksums(processes=1).damaged}
    root = done.layout.root
    assert "bytes, and was written with" in problems[found["image"].relative_to(root).as_posix()]
    assert problems[found["truth table"].relative_to(root).as_posix()] == "it is gone"
    assert problems["sources.parquet"] == "it is gone"


def test_what_is_damaged_is_made_again(done: Campaign, expected: dict[str, str], kit: Any) -> None:
    runner, config = CliRunner(), str(done.config.survey.root / "campaign.yaml")
    result = runner.invoke(app, ["verify", config, "--checksums"])
    assert result.exit_code == 0 and "are as they were written" in result.output, result.output
    found = victims(done)
    for what in ("image", "truth part", "truth table", "source table", "sources"):
        flip(found[what])
    result = runner.invoke(app, ["verify", config, "--checksums", "--json"])
    assert result.exit_code == 1
    damaged = json.loads(result.output)["damaged"]
    assert [bad["image_id"] for bad in damaged if bad["image_id"]] == [read_plan(done.layout.plan)[2].image_id] * 2
    result = runner.invoke(app, ["verify", config, "--checksums", "--discard"])
    assert result.exit_code == 1
    for what in ("image", "truth part", "truth table", "source table", "sources"):
        assert found[what].relative_to(done.layout.root).as_posix() in result.output.replace("\n", "")
    summary = done.run(n_workers=0)
    assert summary.ok and (summary.n_done, summary.n_skipped) == (1, 3)
    assert kit.checksums(done.layout.root) == expected
    assert done.check_checksums(processes=1).ok


@pytest.mark.parametrize("what", ["record", "truth part"])
def test_a_run_finds_what_has_rotted_and_makes_it_again(
    done: Campaign, what: str, expected: dict[str, str], kit: Any
) -> None:
    """Truth parts and records are read for the tables: of one that is damaged, the image is made again."""
    path = victims(done)[what]
    flip(path)
    # Only what changed is read again: here another record of the patch that appeared, as after a resume.
    done.layout.patch_memory(*(int(part.partition("=")[2]) for part in path.parts[-3:-1])).unlink()
    # In a table that is there, the rows still are.
    done.layout.truth_table(*(int(part.partition("=")[2]) for part in path.parts[-3:-1])).unlink()
    summary = done.run(n_workers=0)
    assert (summary.n_done, summary.n_skipped, summary.n_remaining, summary.ok) == (0, 3, 1, False)
    assert "the next run makes them again" in str(summary) and str(path) in str(summary)
    summary = done.run(n_workers=0)
    assert (summary.n_done, summary.n_skipped, summary.ok) == (1, 3, True)
    assert kit.checksums(done.layout.root) == expected


def test_a_cut_truth_part_is_no_truth(done: Campaign) -> None:
    path = victims(done)["truth part"]
    path.write_bytes(path.read_bytes()[:-8])
    assert done.run(n_workers=0).n_done == 1
    assert done.check_checksums(processes=1).ok


def test_what_was_written_anew_since_is_no_damage(make_campaign: MakeCampaign, done: Campaign) -> None:
    # Another number of images in a task: a new configuration, from a run that was over before it had begun.
    again = make_campaign(images_per_task=3)
    again.plan()
    with again.layout.config.open("a") as handle:
        handle.write("# mine\n")
    assert again.check_checksums(processes=1).ok


def test_tables_whose_checksums_were_deleted_are_written_again(
    done: Campaign, expected: dict[str, str], kit: Any
) -> None:

    shutil.rmtree(done.layout.consolidated)
    assert "has no checksum" in str(done.check_checksums(processes=1))
    assert done.run(n_workers=0).ok
    assert done.check_checksums(processes=1).ok
    assert kit.checksums(done.layout.root) == expected


def test_before_there_is_anything(make_campaign: MakeCampaign) -> None:
    campaign = make_campaign()
    campaign.plan()
    with pytest.raises(CampaignError, match="no image of the campaign is done"):
        campaign.check_checksums()


def test_options_that_contradict_each_other(done: Campaign) -> None:
    config = str(done.config.survey.root / "campaign.yaml")
    for options in (["--discard"], ["--checksums", "--aperture", "3 pix"]):
        result = CliRunner().invoke(app, ["verify", config, *options])
        assert result.exit_code == 1 and "--checksums" in result.output


@pytest.mark.dask
def test_on_a_cluster(done: Campaign) -> None:
    flip(victims(done)["image"])
    config = str(done.config.survey.root / "campaign.yaml")
    result = CliRunner().invoke(
        app, ["verify", config, "--checksums", "--cluster", "local", "--workers", "1", "--json"]
    )
    assert result.exit_code == 1
    assert [bad["path"] for bad in json.loads(result.stdout)["damaged"]] == [
        victims(done)["image"].relative_to(done.layout.root).as_posix()
    ]


@pytest.mark.parametrize("what", ["image", "truth part", "record"])
@pytest.mark.parametrize("gone", [True, False])
def test_the_status_names_what_is_gone_or_cut(done: Campaign, what: str, gone: bool) -> None:
    path, image = victims(done)[what], read_plan(done.layout.plan)[2]
    if gone:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-20])
    status = done.status()
    assert (status.n_done, status.n_remaining, status.n_damaged) == (3, 1, 1)
    assert status.damaged == (image.image_id,) and f"a run repairs them: {image.image_id}" in str(status)
    result = CliRunner().invoke(app, ["status", str(done.config.survey.root / "campaign.yaml")])
    assert result.exit_code == 1 and image.image_id in result.output
    assert done.run(n_workers=0).n_done == 1
    assert done.status().n_damaged == 0


def test_changed_inputs_are_no_damage(done: Campaign, survey: Path) -> None:
    os.utime(survey / "raw/v0/image-0.fits")
    assert (done.status().n_done, done.status().n_damaged) == (4, 0)
