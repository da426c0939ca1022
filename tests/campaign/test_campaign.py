"""A whole campaign in this process: what it writes, what it refuses, how it resumes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from astropy.table import QTable

from skygraft.campaign import Campaign, NoReporter, read_plan
from skygraft.catalog import write_catalog
from skygraft.errors import CampaignError, OutputError, OutputExistsError

type MakeCampaign = Callable[..., Campaign]


def records(campaign: Campaign) -> dict[str, dict[str, Any]]:
    found = (json.loads(p.read_text()) for p in campaign.layout.records.rglob("*.json"))
    return {record["image"]: record for record in found}


def test_what_a_campaign_writes(make_campaign: MakeCampaign, survey: Path, expected: dict[str, str], kit: Any) -> None:
    campaign = make_campaign()
    summary = campaign.run(n_workers=0)
    assert summary.ok
    assert (summary.n_images, summary.n_done, summary.n_failed) == (4, 4, 0)
    assert kit.checksums(campaign.layout.root) == expected
    # The input's layout, and an image that is the input where nothing was injected.
    images = sorted(p.relative_to(campaign.layout.images).as_posix() for p in campaign.layout.images.rglob("*"))
    assert {f"raw/v{i // 2}/image-{i}.fits" for i in range(4)} <= set(images)
    before = fits.getdata(survey / "raw/v0/image-0.fits")
    after = fits.getdata(campaign.layout.images / "raw/v0/image-0.fits")
    assert 0 < np.count_nonzero(before != after) < before.size / 2
    # The truth: every source that lies on an image is in it, once.
    truth = pq.read_table(campaign.layout.truth)
    pairs = list(zip(truth["image_id"].to_pylist(), truth["injection_id"].to_pylist(), strict=True))
    assert len(set(pairs)) == len(pairs)
    per_image = {name: {i for image, i in pairs if image == name} for name in {image for image, _ in pairs}}
    assert len(per_image) == 4
    ids = np.asarray(kit.make_catalog()["injection_id"])
    third = per_image[next(p.image_id for p in read_plan(campaign.layout.plan) if "image-2" in p.path)]
    assert third == set(ids[80:120].tolist())
    assert pq.read_table(campaign.layout.failures).num_rows == 0


def test_truth_is_in_order(finished: Campaign) -> None:
    for path in finished.layout.truth.rglob("*.parquet"):
        table = pq.read_table(path, partitioning=None)
        rows = list(zip(table["image_id"].to_pylist(), table["injection_id"].to_pylist(), strict=True))
        assert rows == sorted(rows)
        unit = table.schema.field("psf_fwhm").metadata[b"unit"]
        assert unit == b"arcsec"


def test_the_record_says_what_was_done(make_campaign: MakeCampaign, survey: Path, kit: Any) -> None:
    write_catalog(kit.make_catalog(3), survey / "fakes.parquet", overwrite=True)  # few, so that some stand alone
    campaign = make_campaign(injection={"noise": False})
    campaign.run(n_workers=0)
    found = records(campaign)
    assert len(found) == 4
    for record in found.values():
        calibration = record["calibration"]
        assert (calibration["kind"], calibration["radius_pixels"]) == ("aperture", 12.0)
        assert calibration["radius_arcsec"] == pytest.approx(12 * 0.2, rel=1e-4)
        assert "CALAPRAD" in calibration["origin"]
        assert set(record["timings"]) == {"read", "select", "inject", "closure", "write", "checksum"}
        assert record["settings"]["injection.seed"] == 42
        for name, output in record["outputs"].items():
            path = campaign.layout.root / name
            assert path.stat().st_size == output["n_bytes"]
    # Stars that stand alone measure what was asked for; see qa for all of them.
    closures = [record["closure"] for record in found.values() if record["closure"]]
    assert closures
    assert max(closure["max_abs_mag"] for closure in closures) < 0.003


def test_provenance_is_prov_json(finished: Campaign) -> None:
    document = json.loads(finished.layout.provenance.read_text())
    known = {*document["entity"], *document["activity"], *document["agent"]}
    for relation in ("used", "wasGeneratedBy", "wasAssociatedWith", "wasDerivedFrom"):
        for content in document[relation].values():
            assert {value for key, value in content.items() if key.startswith("prov:")} <= known
    prefixes = set(document["prefix"])
    assert {name.split(":")[0] for name in known} <= prefixes
    assert document["activity"]
    text = finished.layout.provenance.read_text()
    assert "CALAPRAD" in text[:1000]  # what the images are calibrated to comes first


def test_a_second_run_does_nothing(finished: Campaign) -> None:
    times = {p: p.stat().st_mtime_ns for p in finished.layout.root.rglob("*.fits")}
    again = finished.run(n_workers=0)
    assert (again.n_done, again.n_skipped, again.ok) == (0, 4, True)
    assert times == {p: p.stat().st_mtime_ns for p in finished.layout.root.rglob("*.fits")}


def test_an_output_folder_knows_its_campaign(finished: Campaign, expected: dict[str, str], kit: Any) -> None:
    """The configuration written beside the outputs resumes the campaign, from any folder."""
    again = Campaign.from_yaml(finished.layout.config)
    assert again.config == finished.config
    next(finished.layout.records.rglob("*.json")).unlink()
    assert again.run(n_workers=0).n_done == 1
    assert kit.checksums(finished.layout.root) == expected


def test_killed_half_way_and_resumed(
    make_campaign: MakeCampaign, survey: Path, expected: dict[str, str], kit: Any
) -> None:
    campaign = make_campaign()
    path = str(survey / "campaign.yaml")
    code = f"from skygraft.campaign import Campaign; Campaign.from_yaml({path!r}).run(n_workers=0)"
    process = subprocess.Popen([sys.executable, "-c", code], env=dict(os.environ))
    deadline = time.monotonic() + 900  # of a machine that others use too
    while not any(campaign.layout.records.rglob("*.json")):
        assert process.poll() is None, "the run ended before its first record"
        assert time.monotonic() < deadline
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    # What a kill in the middle of writing leaves, and an image without its record.
    (campaign.layout.images / ".image-3.fits.1.aa.tmp").write_bytes(b"half")
    with campaign.layout.ledger.open("a") as ledger:
        ledger.write('{"event": "ima')
    next(campaign.layout.records.rglob("*.json")).unlink()
    status = campaign.status()
    assert 0 < status.n_remaining <= 4
    assert not status.running
    summary = campaign.run(n_workers=0)
    assert summary.ok
    assert summary.n_done >= 1
    assert kit.checksums(campaign.layout.root) == expected
    assert not list(campaign.layout.root.rglob("*.tmp"))
    assert campaign.status().n_done == 4


def test_ctrl_c_keeps_what_is_done(make_campaign: MakeCampaign) -> None:
    class Impatient(NoReporter):
        def images(self, summaries: Any) -> None:
            os.kill(os.getpid(), signal.SIGINT)

    campaign = make_campaign()
    summary = campaign.run(n_workers=0, reporter=Impatient())
    assert summary.interrupted
    assert (summary.n_done, summary.n_remaining) == (1, 3)
    assert "run the campaign again" in str(summary)
    assert campaign.run(n_workers=0).ok


def test_ctrl_c_with_the_last_image_leaves_the_tables_to_the_next_run(
    make_campaign: MakeCampaign, expected: dict[str, str], kit: Any
) -> None:
    class Interrupts(NoReporter):
        n = 0

        def images(self, summaries: Any) -> None:
            self.n += len(list(summaries))
            if self.n == 4:
                os.kill(os.getpid(), signal.SIGINT)

    campaign = make_campaign()
    summary = campaign.run(n_workers=0, reporter=Interrupts())
    assert (summary.n_done, summary.interrupted) == (4, signal.SIGINT)
    assert "run the campaign again to make the tables" in str(summary)
    assert not (campaign.layout.root / "provenance.json").exists()
    assert campaign.run(n_workers=0).n_skipped == 4
    assert (campaign.layout.root / "provenance.json").exists()
    assert kit.checksums(campaign.layout.root) == expected


def test_one_bad_image_among_good_ones(make_campaign: MakeCampaign, survey: Path) -> None:
    campaign = make_campaign(retries=2)
    campaign.plan()
    bad = survey / "raw/v0/image-1.fits"
    content = bad.read_bytes()
    bad.write_bytes(content[: len(content) // 2])
    summary = campaign.run(n_workers=0)
    assert (summary.n_done, summary.n_failed, summary.ok) == (3, 1, False)
    row = pq.read_table(campaign.layout.failures).to_pylist()[0]
    assert row["error"] == "CorruptFileError"
    assert str(bad) in row["message"]
    assert row["tries"] == 3
    assert row["path"] == "raw/v0/image-1.fits"
    status = campaign.status()
    assert (status.n_done, status.n_failed, status.errors) == (3, 1, {"CorruptFileError": 1})
    bad.write_bytes(content)
    assert campaign.run(n_workers=0).ok
    assert pq.read_table(campaign.layout.failures).num_rows == 0


def test_an_image_without_aperture_fails_with_the_fix(make_campaign: MakeCampaign, survey: Path, kit: Any) -> None:
    ra, dec = kit.CENTRES[3]
    path = survey / "raw/v1/image-3.fits"
    path.unlink()
    kit.write_image(path, ra, dec, 501, 1, CALAPRAD=None, INSTRUME="othercam")
    campaign = make_campaign()
    plan = campaign.plan()
    assert any("survey.calibration.aperture" in problem for problem in plan.problems)
    summary = campaign.run(n_workers=0)
    assert (summary.n_done, summary.n_failed) == (3, 1)
    assert summary.failures[0].error == "UnknownApertureError"


def test_an_aperture_that_disagrees_fails(make_campaign: MakeCampaign) -> None:
    campaign = make_campaign(survey={"calibration": {"aperture": "9 pix"}})
    plan = campaign.plan()
    assert any("ApertureConflictError" in problem for problem in plan.problems)
    summary = campaign.run(n_workers=0)
    assert summary.n_failed == 4
    assert {failure.error for failure in summary.failures} == {"ApertureConflictError"}


def test_changed_settings_are_named(
    make_campaign: MakeCampaign, finished: Campaign, expected: dict[str, str], kit: Any
) -> None:
    changed = make_campaign(injection={"seed": 43})
    assert any("injection.seed" in problem for problem in changed.plan().problems)
    with pytest.raises(CampaignError, match=r"injection\.seed: 42 -> 43 \(4 images\).*redo") as caught:
        changed.run(n_workers=0)
    assert "4 images" in str(caught.value)
    # Nothing was touched, and putting it back is enough.
    assert kit.checksums(changed.layout.root) == expected
    assert make_campaign().run(n_workers=0).n_skipped == 4
    redone = make_campaign(injection={"seed": 43}).run(n_workers=0, redo=True)
    assert redone.n_done == 4
    assert kit.checksums(changed.layout.root) != expected


def test_settings_that_do_not_matter_may_change(make_campaign: MakeCampaign, finished: Campaign) -> None:
    again = make_campaign(task_seconds=1.0, retries=0, images_per_task=2).run(n_workers=0)
    assert again.n_skipped == 4


def test_a_changed_image_is_named_and_made_again_alone(finished: Campaign, survey: Path) -> None:
    path = survey / "raw/v0/image-0.fits"
    os.utime(path, ns=(1, 1))
    with pytest.raises(CampaignError, match=r"input raw/v0/image-0\.fits was changed"):
        finished.run(n_workers=0)
    redone = finished.run(n_workers=0, redo=True)
    assert (redone.n_done, redone.n_skipped) == (1, 3)


def test_a_changed_source_touches_its_images_only(finished: Campaign, survey: Path, kit: Any) -> None:
    catalog = kit.make_catalog()
    catalog["mag_r"][100] += 0.5  # of the third image
    catalog["mag_i"] += 1.0  # of no image
    write_catalog(catalog, survey / "fakes.parquet", overwrite=True)
    with pytest.raises(CampaignError, match=r"^\S+: 1 images .*catalogue's sources"):
        finished.run(n_workers=0)
    redone = finished.run(n_workers=0, redo=True)
    assert (redone.n_done, redone.n_skipped) == (1, 3)


def test_an_image_replaced_after_the_plan(make_campaign: MakeCampaign, survey: Path, kit: Any) -> None:
    """Its sources were chosen by its old place: better no output than one that lacks sources."""
    campaign = make_campaign()
    campaign.plan()
    path = survey / "raw/v1/image-3.fits"
    path.unlink()
    ra, dec = kit.CENTRES[3]
    kit.write_image(path, ra + 0.01, dec, 501, 1)
    summary = campaign.run(n_workers=0)
    assert (summary.n_done, summary.n_failed) == (3, 1)
    assert "Plan again" in summary.failures[0].message
    campaign.plan()
    assert campaign.run(n_workers=0).ok


def test_a_lost_output_is_made_again(finished: Campaign, expected: dict[str, str], kit: Any) -> None:
    (finished.layout.images / "raw/v0/image-0.fits").unlink()
    summary = finished.run(n_workers=0)
    assert (summary.n_done, summary.n_skipped) == (1, 3)
    assert kit.checksums(finished.layout.root) == expected


@pytest.mark.parametrize("damage", ["", "{", '{"version": 1}', "[]"])
def test_a_damaged_record_is_made_again(finished: Campaign, expected: dict[str, str], kit: Any, damage: str) -> None:
    record = next(finished.layout.root.joinpath("records").rglob("*.json"))
    record.write_text(damage)
    summary = finished.run(n_workers=0)
    assert (summary.n_done, summary.n_failed) == (1, 0)
    assert kit.checksums(finished.layout.root) == expected


def test_a_record_whose_times_no_ledger_can_hold_is_made_again(
    finished: Campaign, expected: dict[str, str], kit: Any
) -> None:
    """Times are not in the record's checksum; the ledger's integers have 64 bits."""
    path = next(finished.layout.root.joinpath("records").rglob("*.json"))
    record = json.loads(path.read_text())
    record["timings"]["read"]["wall"] = 10**25
    path.write_text(json.dumps(record))
    finished.layout.ledger.unlink()
    summary = finished.run(n_workers=0)
    assert (summary.n_done, summary.n_failed) == (1, 0)
    assert kit.checksums(finished.layout.root) == expected


def test_a_new_image_joins(finished: Campaign, survey: Path, kit: Any) -> None:
    kit.write_image(survey / "raw/v9/late.fits", *kit.CENTRES[2], 509, 0)
    assert finished.plan().n_images == 5
    summary = finished.run(n_workers=0)
    assert (summary.n_done, summary.n_skipped) == (1, 4)


def test_output_folder_of_somebody_else(make_campaign: MakeCampaign) -> None:
    campaign = make_campaign()
    campaign.layout.root.mkdir(parents=True)
    (campaign.layout.root / "thesis.tex").write_text("precious")
    with pytest.raises(OutputExistsError, match=r"thesis\.tex"):
        campaign.plan()
    assert [p.name for p in campaign.layout.root.iterdir()] == ["thesis.tex"]


def test_output_folder_of_another_campaign(make_campaign: MakeCampaign) -> None:
    make_campaign().plan()
    with pytest.raises(CampaignError, match="'test', not 'other'"):
        make_campaign(name="other").plan()
    with pytest.raises(CampaignError, match="skymap"):
        make_campaign(skymap={"kind": "healpix", "nside": 64, "patch_nside": 512}).plan()


def test_output_that_cannot_be_written(make_campaign: MakeCampaign) -> None:
    campaign = make_campaign()
    campaign.layout.root.parent.mkdir(parents=True, exist_ok=True)
    campaign.layout.root.write_text("a file where the folder should be")
    with pytest.raises(OutputError, match="out"):
        campaign.run(n_workers=0)


def test_one_output_that_cannot_be_written(make_campaign: MakeCampaign) -> None:
    campaign = make_campaign()
    campaign.plan()
    blocked = campaign.layout.images / "raw/v0/image-0.fits"
    blocked.mkdir(parents=True)
    (blocked / "x").write_text("")
    summary = campaign.run(n_workers=0)
    assert (summary.n_done, summary.n_failed) == (3, 1)
    assert issubclass(OutputError, OSError)
    assert summary.failures[0].error in {"OutputError", "OutputExistsError"}


def test_two_processes_do_not_run_the_same_campaign(make_campaign: MakeCampaign) -> None:
    campaign = make_campaign()
    campaign.plan()
    with campaign.layout.locked():
        assert campaign.status().running
        with pytest.raises(CampaignError, match=rf"another process.*{os.getpid()}"):
            campaign.run(n_workers=0)


def test_catalogue_elsewhere(make_campaign: MakeCampaign, survey: Path, kit: Any) -> None:
    catalog = kit.make_catalog()
    catalog["dec"] = np.asarray(catalog["dec"]) - 30
    write_catalog(catalog, survey / "fakes.parquet", overwrite=True)
    with pytest.raises(CampaignError, match=r"none of the 160 sources .* is on any of the 4 images"):
        make_campaign().run(n_workers=0)


def test_no_images(make_campaign: MakeCampaign) -> None:
    with pytest.raises(CampaignError, match=r"no images found.*nothing\*"):
        make_campaign(survey={"images": "nothing*"}).plan()


def test_status_before_the_plan(make_campaign: MakeCampaign) -> None:
    with pytest.raises(CampaignError, match="no plan yet"):
        make_campaign().status()


def test_moving_sources_are_found_where_they_are(make_campaign: MakeCampaign, survey: Path, kit: Any) -> None:
    """A mover's patch is that of its epoch; an image taken a day later sees it 24 arcmin further."""
    ra, dec = kit.CENTRES[3]
    mover = QTable(
        {
            "injection_id": [1000],
            "ra": [ra],
            "dec": [dec - 0.4],
            "source_type": ["Star"],
            "mag_r": [19.0],
            "rate_ra_cosdec": [0.0],
            "rate_dec": [60.0],
            "epoch_mjd": [kit.MJD - 1.0],
        }
    )
    write_catalog(mover, survey / "mover.parquet")
    campaign = make_campaign(catalog={"path": "mover.parquet"})
    plan = campaign.plan()
    assert plan.n_sources == 1
    assert campaign.run(n_workers=0).n_drawn == 1
    truth = pq.read_table(campaign.layout.truth).to_pylist()
    assert [row["injection_id"] for row in truth] == [1000]
    assert truth[0]["dec"] == pytest.approx(dec, abs=1e-6)


def test_a_campaign_shows_itself(make_campaign: MakeCampaign) -> None:
    campaign = make_campaign()
    text = repr(campaign)
    assert len(text.splitlines()) < 15
    assert str(campaign.layout.root) in text and "has no plan yet" in text and "calibrated" in text
    campaign.plan()
    assert "4 images" in repr(campaign)
    assert "<table>" in campaign._repr_html_()


def test_what_a_killed_planner_left_of_the_catalogue_is_removed(make_campaign: MakeCampaign, survey: Path) -> None:
    campaign = make_campaign()
    code = (
        "import os; from skygraft.catalog import partition; partition.write_part = lambda *a, **k: os._exit(9);"
        "from skygraft.campaign import Campaign;"
        f"Campaign.from_yaml({str(survey / 'campaign.yaml')!r}).plan(processes=1)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    assert list(campaign.layout.catalog.glob(".spool-*"))
    campaign.plan()
    assert not list(campaign.layout.catalog.glob(".spool-*"))
