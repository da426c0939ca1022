"""The ledger from end to end: events as the writer writes them, and what its readers make of them."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from skygraft.campaign import Campaign, ImageSummary, NoReporter
from skygraft.errors import CampaignError, OutputError
from skygraft.monitoring.follower import Follower
from skygraft.records.events import (
    Event,
    ImageEvent,
    ImageReopened,
    RunEnded,
    RunStarted,
    TablesStarted,
    event_line,
    parse_event,
)
from skygraft.records.ledger import Ledger, read_events, read_runs

type MakeCampaign = Callable[..., Campaign]

TIME = "2026-03-01T02:00:05.000+00:00"


class Interrupting(NoReporter):
    """Presses Ctrl-C when the first image is in."""

    def images(self, summaries: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)


class Watching(NoReporter):
    """Looks at the campaign, as another process would, when it begins and with every image."""

    def __init__(self, campaign: Campaign) -> None:
        self.campaign, self.seen = campaign, list[str]()

    def start(self, overview: Any) -> None:
        self.seen.append(str(self.campaign.status()))

    def images(self, summaries: Any) -> None:
        self.seen.append(str(self.campaign.status()))


NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
COUNTS = st.integers(-(2**63), 2**63 - 1)
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
NUMBERED = {"wall_seconds": NUMBERS, **dict.fromkeys(("n_done", "n_failed", "interrupted"), COUNTS)}
EVENTS = st.one_of(
    st.builds(RunStarted, images=COUNTS, waiting=COUNTS, redo=st.booleans(), time=TEXT),
    st.builds(TablesStarted, time=TEXT),
    st.builds(RunEnded, stopped=TEXT, ok=st.booleans(), time=TEXT, **NUMBERED),
    st.builds(ImageReopened, image_id=TEXT, time=TEXT),
    st.builds(
        ImageEvent,
        image_id=TEXT,
        status=st.sampled_from(["done", "skipped", "failed"]),
        tract=st.integers(-1, 2),
        patch=st.integers(-1, 2),
        code=st.integers(-1, 2),
        wall_seconds=NUMBERS,
        stages=st.dictionaries(TEXT, NUMBERS),
        closure_mag=st.none() | NUMBERS,
        inputs=st.dictionaries(TEXT, st.lists(COUNTS)),
        outputs=st.dictionaries(TEXT, COUNTS),
        message=TEXT,
        quarantined=st.booleans(),
    ),
)


@given(EVENTS)
def test_what_is_written_is_what_is_read(event: Event) -> None:
    line = event_line(event, TIME)
    assert line.count(b"\n") == 1
    assert parse_event(line, Path("ledger"), 0) == dataclasses.replace(event, time=event.time or TIME)


def test_what_is_not_understood_is_named(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    with Ledger(path) as ledger:
        (place,) = ledger.append([RunEnded(interrupted=2)])
    whole = path.read_bytes()
    for old, new, problem in (
        (b'"interrupted":2', b'"interrupted":true', "interrupted.*valid integer.*found 'True'"),
        (b'"run_ended"', b'"run_endet"', "run_endet"),
        (b'"n_done":0', b'"n_done":"0"', "n_done"),
    ):
        assert old in whole
        path.write_bytes(whole.replace(old, new))
        with pytest.raises(CampaignError, match=rf"byte {place}.*{problem}.*--rescan"):
            list(read_events(path))
        assert list(read_events(path, damaged=True)) == []
    path.write_bytes(whole[:-10])
    assert list(read_events(path)) == []


def test_an_interrupted_run_is_in_the_provenance(make_campaign: MakeCampaign) -> None:
    campaign = make_campaign()
    assert campaign.run(n_workers=0, reporter=Interrupting()).interrupted == signal.SIGINT
    assert campaign.run(n_workers=0).ok
    activities = json.loads(campaign.layout.provenance.read_text())["activity"]
    first, second = activities["sg:run-1"], activities["sg:run-2"]
    assert first["sg:interrupted"] is True
    assert (first["sg:signal"]["$"], first["sg:n_done"]["$"]) == ("2", "1")
    assert "prov:endTime" in first and "prov:endTime" in second
    # The run that writes it has not ended yet.
    assert "sg:interrupted" not in second
    campaign.layout.provenance.unlink()
    assert campaign.run(n_workers=0).ok
    activities = json.loads(campaign.layout.provenance.read_text())["activity"]
    assert activities["sg:run-2"]["sg:interrupted"] is False
    assert "sg:signal" not in activities["sg:run-2"]


def lose_events(campaign: Campaign, n_images: int) -> None:
    """Leave the ledger as a driver leaves it that is killed after `n_images` of its events; all records are there."""
    places = [place for place, event in read_events(campaign.layout.ledger) if isinstance(event, ImageEvent)]
    content = campaign.layout.ledger.read_bytes()
    campaign.layout.ledger.write_bytes(content[: places[n_images]])


def test_records_whose_events_were_lost_are_counted_once_resumed(finished: Campaign) -> None:
    lose_events(finished, 2)
    follower = Follower(finished.config)
    assert follower.snapshot()["state"] == "dead" and follower.snapshot()["images"]["done"] == 2
    summary = finished.run(n_workers=0)
    assert (summary.n_done, summary.n_skipped) == (0, 4)
    for view in (follower, Follower(finished.config)):
        view.update()
        shot = view.snapshot()
        assert (shot["state"], shot["images"]["done"], shot["images"]["left"]) == ("finished", 4, 0)
    events = [event for _, event in read_events(finished.layout.ledger) if isinstance(event, ImageEvent)]
    assert len({event.image_id for event in events}) == 4
    assert [event.status for event in events] == ["done", "done", "skipped", "skipped"]
    # Now the ledger knows: nothing is appended a second time.
    assert finished.run(n_workers=0).ok
    assert len([1 for _, event in read_events(finished.layout.ledger) if isinstance(event, ImageEvent)]) == 4


def test_a_failure_that_a_record_contradicts_is_taken_back(finished: Campaign) -> None:
    """A worker that was given up for dead may have made its image after all."""
    victim = next(event for _, event in read_events(finished.layout.ledger) if isinstance(event, ImageEvent))
    with Ledger(finished.layout.ledger) as ledger:
        ledger.images([ImageSummary(victim.image_id, "failed", error="KilledWorker", quarantined=True)])
    assert Follower(finished.config).snapshot()["images"]["failed"] == 1
    assert finished.run(n_workers=0).ok
    images = Follower(finished.config).snapshot()["images"]
    assert (images["done"], images["failed"]) == (4, 0)


def test_an_image_that_was_lost_is_not_counted_as_done(finished: Campaign) -> None:
    for path in finished.layout.images.rglob("image-[12].fits"):
        path.unlink()
    assert finished.run(n_workers=0, reporter=Interrupting()).n_remaining == 1
    shot = Follower(finished.config).snapshot()
    assert (shot["state"], shot["images"]["done"], shot["images"]["left"]) == ("stopped", 3, 1)
    reopened = [event for _, event in read_events(finished.layout.ledger) if isinstance(event, ImageReopened)]
    assert len(reopened) == 2
    assert finished.run(n_workers=0).ok
    assert Follower(finished.config).snapshot()["images"]["done"] == 4
    assert finished.rescan().n_done == 4


def test_what_a_run_is_at(make_campaign: MakeCampaign, monkeypatch: pytest.MonkeyPatch) -> None:
    campaign = make_campaign()
    watching = Watching(campaign)
    seen: list[tuple[str, str, str]] = []

    def tables(*args: Any, **kwargs: Any) -> Any:
        shot = Follower(campaign.config).snapshot()
        seen.append((str(campaign.status()), shot["state"], shot["phase"]))
        return consolidate(*args, **kwargs)

    from skygraft.tables import consolidate as room

    consolidate = room.consolidate
    monkeypatch.setattr(room, "consolidate", tables)
    assert campaign.run(n_workers=0, reporter=watching).ok
    assert "0 of 4 images done, 0 failed, 4 remaining (running)" in watching.seen[0]
    assert "(running)" in watching.seen[-1] and "0 remaining" in watching.seen[-1]
    [(status, state, phase)] = seen
    assert "0 remaining (running: making the tables)" in status
    assert (state, phase) == ("running", "tables")
    assert campaign.status().phase == ""
    assert [type(event) for event in read_runs(campaign.layout.ledger)] == [RunStarted, TablesStarted, RunEnded]
    # Whoever only wants to know that does not wait for libraries that take longer to import than it takes to find out.
    settings = yaml.safe_load(campaign.layout.config.read_text())
    settings["survey"]["calibration"] = {"aperture": "12 pix"}  # a PSF is checked by the formats
    campaign.layout.config.write_text(yaml.safe_dump(settings))
    code = (
        "import sys; from skygraft.campaign import Campaign; status = Campaign.from_yaml(sys.argv[1]).status();"
        "heavy = {'astropy', 'dask', 'numba', 'pandas', 'scipy', 'xarray'} & set(sys.modules);"
        "assert status.n_done == 4 and status.runs == 1 and not heavy, (status, heavy)"
    )
    subprocess.run([sys.executable, "-c", code, str(campaign.layout.config)], check=True)
    # Another run, before it has looked at what there is: what is said of the last one does not hold any more.
    with campaign.layout.locked():
        shot = Follower(campaign.config).snapshot()
        assert (shot["state"], shot["phase"]) == ("running", "starting")
        assert "(running: starting)" in str(campaign.status())


def test_a_run_that_leaves_images_has_not_finished(make_campaign: MakeCampaign) -> None:
    campaign = make_campaign()
    campaign.plan()
    assert campaign.run(n_workers=0, retry_failed=True).n_remaining == 4  # there is no failure to be tried again
    shot = Follower(campaign.config).snapshot()
    assert shot["state"] == "stopped" and "4 images are left" in shot["advice"]


class Removing(NoReporter):
    """Removes the output when the first image is in, and looks at the campaign."""

    def __init__(self, campaign: Campaign, *, everything: bool) -> None:
        self.campaign, self.everything, self.said = campaign, everything, ""

    def images(self, summaries: Any) -> None:
        if self.said:
            return
        root = self.campaign.layout.root
        if self.everything:
            shutil.rmtree(root)
        else:  # as `rm -rf out/*` does, which leaves what begins with a dot
            for path in [path for path in root.iterdir() if not path.name.startswith(".")]:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        with pytest.raises(CampaignError) as caught:
            self.campaign.status()
        self.said = str(caught.value)


@pytest.mark.parametrize("everything", [False, True])
def test_an_output_that_is_removed_while_it_is_made(make_campaign: MakeCampaign, everything: bool) -> None:
    campaign = make_campaign()
    campaign.plan()
    reporter = Removing(campaign, everything=everything)
    with pytest.raises((CampaignError, OutputError), match="removed"):
        campaign.run(n_workers=0, reporter=reporter)
    if everything:
        assert "no output folder, or it was removed" in reporter.said
    else:
        assert f"the output was removed while process {os.getpid()}" in reporter.said
    assert campaign.run(n_workers=0).ok


def test_while_it_is_planned(make_campaign: MakeCampaign) -> None:
    campaign = make_campaign()
    campaign.plan()
    campaign.layout.plan.unlink()
    with campaign.layout.locked(), pytest.raises(CampaignError, match="is being planned"):
        campaign.status()
