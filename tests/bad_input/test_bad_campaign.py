"""Configurations that cannot be meant, and campaigns in which something goes wrong."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from astropy.table import Table

from skygraft.campaign import Campaign
from skygraft.errors import CampaignError, ConfigError, OutputError, OutputExistsError

WIDE = 160  # pixels a side: 103680 bytes and more on disk; the others have 60480


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- a\n- b\n", ("is a list; a mapping is needed", "Start with name:")),
        ("", ("is empty", "Start with name:")),
        ("# nothing yet\n", ("is empty", "Start with name:")),
        ("hello", ("is a str", "mapping")),
        ("a: [1,\nb: }", ("not valid YAML at line 2", "Correct the file")),
        ("name: x\n\tsurvey: 1", ("not valid YAML at line 2", "'\\t'")),
        ("name: a\nname: b\n", ("line 2", "'name' occurs twice")),
    ],
)
def test_what_is_no_configuration(night: Any, expect: Any, text: str, words: tuple[str, ...]) -> None:
    path = night.folder / "campaign.yaml"
    path.write_text(text)
    for command in ("plan", "run", "status", "verify") if not text else ("run",):
        expect.failed(night.run(command, path), "campaign.yaml", *words)
    with pytest.raises(ConfigError):
        Campaign.from_yaml(path)


def test_a_configuration_that_is_no_text_or_no_file(night: Any, expect: Any) -> None:
    path = night.folder / "campaign.yaml"
    path.write_bytes(b"\xff\xfe\x00\x01")
    expect.failed(night.run("run", path), "campaign.yaml", "cannot be read", "Check")
    expect.failed(night.run("run", night.folder), "cannot be read", "Is a directory")
    expect.failed(night.run("run", night.folder / "no.yaml"), "no.yaml", "No such file")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"margn_arcsec": 3}, ("key margn_arcsec", "did you mean 'margin_arcsec'?")),
        ({"injection": {"sed": 3}}, ("key injection.sed", "did you mean 'seed'?")),
        ({"survey": {"calibration": {"apperture": "12 pix"}}}, ("survey.calibration.apperture", "'aperture'?")),
        ({"catalog": {"pth": "x"}}, ("key catalog.pth", "did you mean 'path'?")),
        ({"zzz": 1}, ("key zzz", "known: name, survey, catalog, output")),
        ({"catalog": None}, ("key catalog", "is missing")),
        ({"injection": {"seed": -1}}, ("injection.seed", "greater than or equal to 0", "-1")),
        ({"injection": {"seed": 1.5}}, ("injection.seed", "integer", "1.5")),
        ({"injection": {"seed": True}}, ("injection.seed", "integer", "true")),
        ({"injection": {"flux_mode": "calibratd"}}, ("injection.flux_mode", "'calibrated'", "calibratd")),
        ({"injection": {"gain": 0}}, ("injection.gain", "greater than 0")),
        ({"skymap": "hsc_ring_v1"}, ("skymap", "Did you mean 'hsc_rings_v1'?")),
        ({"skymap": {"kind": "healpx"}}, ("skymap", "Did you mean 'healpix'?")),
        ({"survey": {"calibration": {"psf": {"kind": "airy"}}}}, ("survey.calibration", "'airy'", "moffat")),
        ({"survey": {"ccds": "x.fits"}}, ("key survey", "exactly one of images", "ccds")),
        ({"cluster": "locl"}, ("cluster", "did you mean 'local'?")),
        ({"name": "a/b"}, ("key name", "a/b")),
        ({"output": "."}, ("a folder that the survey lies in", "Name a folder of its own")),
    ],
)
def test_keys_and_values_that_are_wrong(night: Any, expect: Any, changes: dict[str, Any], words: Any) -> None:
    night.write_image("ccd_1.fits")
    path = night.write_campaign(**changes)
    expect.failed(night.run("run", path), "campaign.yaml", *words)
    assert not (night.folder / "out").exists()


def test_all_problems_are_told_at_once(night: Any, expect: Any) -> None:
    path = night.write_campaign(margn_arcsec=3, injection={"sed": 3}, retries=-1)
    expect.failed(night.run("run", path), "3 problems", "margin_arcsec", "'seed'", "retries")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"catalog": {"path": "nope.parquet"}}, ("nope.parquet", "there is no such file", "Check the path")),
        ({"catalog": {"dialect": "nativ"}}, ("fakes.ecsv", "'nativ'", "Did you mean 'native'?")),
        ({"survey": {"images": "zz*.fits"}}, ("key survey", "no images found for 'zz*.fits'", "Check the pattern")),
        ({"survey": {"images": ["nope.fits"]}}, ("nope.fits", "none of 1 images", "No such file")),
        ({"survey": {"options": {"wieght": "x"}}}, ("'wieght' is not an option", "Did you mean 'weight'?")),
    ],
)
def test_a_campaign_that_has_nothing_to_work_on(night: Any, expect: Any, changes: dict[str, Any], words: Any) -> None:
    night.write_image("ccd_1.fits")
    path = night.write_campaign(**changes)
    expect.failed(night.run("run", path, "--workers", "0"), *words)
    assert night.outputs() == []


def spoil(night: Any) -> None:
    """Everything that a glob pattern may find beside two good images."""
    night.write_image("ccd_1.fits")
    night.write_image("ccd_2.fits", detector=2)
    content = night.write_image("ccd_3.fits", detector=3).read_bytes()
    (night.folder / "ccd_3.fits").write_bytes(content[: len(content) // 2])
    (night.folder / "ccd_4.fits").touch()
    (night.folder / "ccd_5.fits").write_text("hello")
    night.write_image("ccd_6.fits", detector=6, **night.WITHOUT_WCS)
    night.write_image("ccd_7.fits", detector=1)  # again the first
    night.write_image("ccd_8.fits", detector=8, CD1_1=0.0)
    (night.folder / "ccd_9.fits").mkdir()
    Table({"a": [1]}).write(night.folder / "ccd_a.fits")


REASONS = {
    "ccd_3.fits": ("CorruptFileError", "truncated"),
    "ccd_4.fits": ("CorruptFileError", "empty (0 bytes)"),
    "ccd_5.fits": ("UnknownFormatError", "no format recognises"),
    "ccd_6.fits": ("MissingWcsError", "celestial WCS"),
    "ccd_7.fits": ("FormatError", "its image id testcam-77-1 is that of ccd_1.fits too"),
    "ccd_8.fits": ("WcsError", "singular"),
    "ccd_a.fits": ("UnknownFormatError", "no image"),
}


def test_bad_images_are_reported_everywhere_and_stop_nobody(night: Any) -> None:
    spoil(night)
    path = night.write_campaign()

    plan = night.run("plan", path)
    assert plan.exit_code == 1
    run = night.run("run", path, "--workers", "0")
    assert run.exit_code == 1
    status = night.run("status", path)
    assert status.exit_code == 1
    for result in (plan, run, status):
        said = " ".join(result.output.split())
        assert "Traceback" not in said
        for name in list(REASONS)[: 7 if result is plan else 5]:
            assert name in said, said
    assert "2 images made" in run.output and "7 more images cannot be used" in run.output
    assert "2 of 2 images done" in status.output and "failures.parquet" in status.output

    rows = {row["path"]: row for row in pq.read_table(night.folder / "out" / "failures.parquet").to_pylist()}
    assert set(rows) == set(REASONS)
    for name, (error, words) in REASONS.items():
        assert rows[name]["error"] == error
        assert words in rows[name]["message"]
    content = json.loads(night.run("status", path, "--json").stdout)
    assert {bad["path"]: bad["error"] for bad in content["unusable"]} == {k: v[0] for k, v in REASONS.items()}
    assert night.outputs() == ["ccd_1.fits", "ccd_2.fits"]


def test_images_that_were_mended_join_without_a_new_plan(night: Any) -> None:
    night.write_image("ccd_1.fits")
    mended = night.write_image("spare.fits", detector=2)
    (night.folder / "ccd_2.fits").write_bytes(mended.read_bytes()[:5000])
    assert not night.campaign().run(n_workers=0).ok
    # A copy that keeps the old time of last change, as rsync makes it.
    os.utime(mended, ns=(1, 1))
    shutil.copy2(mended, night.folder / "ccd_2.fits")
    summary = night.campaign().run(n_workers=0)
    assert (summary.n_done, summary.n_skipped, summary.n_unusable, summary.ok) == (1, 1, 0, True)
    (night.folder / "ccd_3.fits").touch()
    assert night.campaign().plan().n_unusable == 1
    (night.folder / "ccd_3.fits").unlink()
    assert night.campaign().run(n_workers=0).ok
    assert pq.read_table(night.folder / "out" / "failures.parquet").num_rows == 0


def test_an_image_truncated_after_the_plan(night: Any) -> None:
    night.write_image("ccd_1.fits")
    bad = night.write_image("ccd_2.fits", detector=2)
    campaign = night.campaign()
    campaign.plan()
    bad.write_bytes(bad.read_bytes()[:20000])
    summary = campaign.run(n_workers=0)
    assert (summary.n_done, summary.n_failed, summary.ok) == (1, 1, False)
    assert summary.failures[0].error == "CorruptFileError" and str(bad) in summary.failures[0].message
    said = night.run("status", night.folder / "campaign.yaml")
    assert said.exit_code == 1 and "testcam-77-2: CorruptFileError" in said.stdout
    assert night.outputs() == ["ccd_1.fits"]


def test_a_disk_that_fills_up_half_way(night: Any, expect: Any) -> None:
    for detector in (1, 2, 3):
        night.write_image(f"ccd_{detector}.fits", detector=detector, size=WIDE if detector == 2 else 120)
    assert night.inject().exit_code == 0  # compiles what is compiled
    campaign = night.campaign(retries=0)
    with expect.full_disk(90_000):
        summary = campaign.run(n_workers=0)
    assert (summary.n_done, summary.n_failed, summary.ok) == (2, 1, False)
    failure = summary.failures[0]
    assert failure.error == "OutputError"
    assert "ccd_2.fits: the output cannot be written" in failure.message and "has room" in failure.message
    assert night.outputs() == ["ccd_1.fits", "ccd_3.fits"]
    assert not list((night.folder / "out" / "images").rglob("ccd_2*"))
    result = night.run("status", night.folder / "campaign.yaml")
    assert result.exit_code == 1 and "OutputError" in result.stdout
    # With room again, only that one is made.
    again = campaign.run(n_workers=0)
    assert (again.n_done, again.n_skipped, again.ok) == (1, 2, True)


def test_a_disk_too_full_for_the_plan(night: Any, expect: Any) -> None:
    night.write_image("ccd_1.fits")
    path = night.write_campaign()
    with expect.full_disk(1000):
        result = night.run("run", path, "--workers", "0")
    expect.failed(result, str(night.folder / "out"), "File too large")
    assert night.outputs() == []
    assert night.run("run", path, "--workers", "0").exit_code == 0


def test_a_full_disk_before_anything(night: Any, expect: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    night.write_image("ccd_1.fits")
    written = Path.write_text

    def refuse(self: Path, *args: Any, **kwargs: Any) -> int:
        if self.is_relative_to(night.folder / "out"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return written(self, *args, **kwargs)

    path = night.write_campaign()
    monkeypatch.setattr(Path, "write_text", refuse)
    expect.failed(night.run("run", path, "--workers", "0"), "campaign.yaml", "No space left", "free space")
    assert night.outputs() == []


def test_an_output_folder_that_is_a_file_or_somebody_elses(night: Any, expect: Any) -> None:
    night.write_image("ccd_1.fits")
    path = night.write_campaign(output="taken")
    (night.folder / "taken").write_text("precious")
    expect.failed(night.run("run", path), "taken", "cannot be used", "Check the path")
    with pytest.raises(OutputError):
        Campaign.from_yaml(path).run(n_workers=0)
    path = night.write_campaign(output="taken/deeper")
    expect.failed(night.run("plan", path), "taken/deeper", "cannot be used", "Not a directory")
    (night.folder / "mine").mkdir()
    (night.folder / "mine" / "thesis.tex").write_text("precious")
    path = night.write_campaign(output="mine")
    expect.failed(night.run("run", path), "mine", "holds something else (thesis.tex)", "Name a new folder")
    with pytest.raises(OutputExistsError):
        Campaign.from_yaml(path).run(n_workers=0)
    assert (night.folder / "taken").read_text() == "precious"
    assert [p.name for p in (night.folder / "mine").iterdir()] == ["thesis.tex"]


def test_looking_at_a_campaign_that_was_never_run(night: Any, expect: Any) -> None:
    path = night.write_campaign()
    expect.failed(night.run("status", path), "no plan yet", "skygraft plan")
    expect.failed(night.run("verify", path), "skygraft")
    assert not (night.folder / "out").exists()
    with pytest.raises(CampaignError):
        Campaign.from_yaml(path).status()


def test_paths_are_relative_to_the_file_not_to_the_shell(night: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = night.folder / "Kampagne é [1]"
    folder.mkdir()
    for name in ("fakes.ecsv", "image.fits"):
        shutil.copy(night.folder / name, folder / name.replace("image", "ccd_☆"))
    shutil.copy(night.write_campaign(), folder / "campaign.yaml")
    (night.folder / "elsewhere").mkdir()
    monkeypatch.chdir(night.folder / "elsewhere")
    result = night.run("run", "../Kampagne é [1]/campaign.yaml", "--workers", "0")
    assert result.exit_code == 0, result.output
    assert [p.name for p in (folder / "out" / "images").glob("ccd*[!k].fits")] == ["ccd_☆.fits"]
    assert not list((night.folder / "elsewhere").iterdir())
