"""How images stand: by the ledger at a glance, by their records in doubt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from skygraft.campaign import Campaign, ImageSummary, Plan, read_plan
from skygraft.errors import CampaignError
from skygraft.records.events import ImageEvent
from skygraft.records.image_states import DONE, QUARANTINED, WAITING, ImageRows, ImageStates
from skygraft.records.ledger import Ledger, read_events
from skygraft.records.status import resume_states

type MakeCampaign = Callable[..., Campaign]


@pytest.fixture
def done(finished: Campaign) -> Campaign:
    """A campaign of four images, all of them made."""
    return finished


def images_of(ledger: Path) -> list[ImageEvent]:
    events = [event for _, event in read_events(ledger) if isinstance(event, ImageEvent)]
    return sorted((replace(event, time="") for event in events), key=lambda event: event.image_id)


def edit(ledger: Path, **changes: Any) -> None:
    events = [event for _, event in read_events(ledger)]
    ledger.unlink()
    with Ledger(ledger) as writer:
        writer.append(replace(event, **changes) if isinstance(event, ImageEvent) else event for event in events)


def test_records_are_not_opened_where_the_ledger_agrees(done: Campaign, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        raise AssertionError(f"{path} was opened")

    monkeypatch.setattr("skygraft.records.status.read_record", refuse)
    states = resume_states(Plan(done.layout.plan), done.config)
    assert states.state.tolist() == [DONE] * 4


@pytest.mark.parametrize("damage", ["record", "truth", "image", "cut image"])
def test_what_is_not_there_any_more_is_made_again(done: Campaign, damage: str) -> None:
    image = read_plan(done.layout.plan)[2]
    victim = {
        "record": done.layout.record(image.tract, image.patch, image.stem),
        "truth": done.layout.truth_part(image.tract, image.patch, image.stem),
    }.get(damage, done.layout.images / image.output)
    if damage == "cut image":
        victim.write_bytes(victim.read_bytes()[:-2880])
    else:
        victim.unlink()
    states = resume_states(Plan(done.layout.plan), done.config)
    assert states.state.tolist() == [DONE, DONE, WAITING, DONE]
    assert states.rows(WAITING).tolist() == [2]


@pytest.mark.parametrize("change", [{"settings": "x"}, {"catalog": "x"}, {"code": -1}, {"inputs": {"gone": [1, 2]}}])
def test_the_record_decides_where_the_ledger_differs(done: Campaign, change: dict[str, Any]) -> None:
    """A driver may have died between a record and its line, with an older line before it."""
    edit(done.layout.ledger, **change)
    assert resume_states(Plan(done.layout.plan), done.config).count(DONE) == 4


def test_a_lost_ledger_is_made_anew(done: Campaign) -> None:
    before = images_of(done.layout.ledger)
    assert len(before) == 4
    done.layout.ledger.unlink()
    assert resume_states(Plan(done.layout.plan), done.config).count(DONE) == 4
    status = done.rescan()
    assert (status.n_done, status.n_remaining) == (4, 0)
    assert images_of(done.layout.ledger) == before


def test_a_new_ledger_keeps_runs_and_failures(done: Campaign) -> None:
    image = read_plan(done.layout.plan)[1]
    done.layout.record(image.tract, image.patch, image.stem).unlink()
    bad = ImageSummary(image.image_id, "failed", error="OSError", message="no such thing")
    with Ledger(done.layout.ledger) as ledger:
        ledger.images([bad, bad])
    done.rescan()
    status = done.status()
    assert (status.n_done, status.n_failed, status.runs) == (3, 1, 1)
    assert (status.failures[0].message, status.failures[0].tries) == ("no such thing", 2)


def test_a_running_campaign_is_not_rescanned(done: Campaign) -> None:
    with done.layout.locked(), pytest.raises(CampaignError, match="another process"):
        done.rescan()


def test_quarantine_is_left_only_when_asked(done: Campaign, expected: dict[str, str], kit: Any) -> None:
    image, other = read_plan(done.layout.plan)[:2]
    for each in (image, other):
        done.layout.record(each.tract, each.patch, each.stem).unlink()
    with Ledger(done.layout.ledger) as ledger:
        ledger.images([ImageSummary(image.image_id, "failed", error="KilledWorker", quarantined=True)])
    summary = done.run(n_workers=0)
    # The other one is made; this one is named, once, with the way out.
    assert (summary.n_done, summary.n_failed, summary.n_quarantined, summary.n_remaining) == (1, 1, 1, 0)
    assert not summary.ok
    assert "--retry-failed" in str(summary)
    assert [row["quarantined"] for row in pq.read_table(done.layout.failures).to_pylist()] == [True]
    assert done.status().n_quarantined == 1
    done.layout.record(other.tract, other.patch, other.stem).unlink()
    again = done.run(n_workers=0, retry_failed=True)
    assert (again.n_done, again.n_quarantined, again.n_remaining) == (1, 0, 1)
    assert done.run(n_workers=0).ok
    assert kit.checksums(done.layout.root) == expected


def test_rows_are_found_by_name(done: Campaign) -> None:
    plan = Plan(done.layout.plan)
    states = ImageStates(len(plan))
    names = [image.image_id for image in plan.images()]
    assert ImageRows(plan).find([*reversed(names), "stranger"]).tolist() == [3, 2, 1, 0, -1]
    states.enter_summaries(
        [1, 2], [ImageSummary(names[1], "done"), ImageSummary("", "failed", quarantined=True)], [0, 9]
    )
    assert states.state.tolist() == [WAITING, DONE, QUARANTINED, WAITING]
    assert states.places.tolist() == [-1, 0, 9, -1]
