"""A glance at folders finds what is missing, and hides no file that came, went or was replaced."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from skygraft.campaign import Campaign, Plan
from skygraft.records import comparison, known_folders, known_packs
from skygraft.records.checkpoint import CHECKPOINT_SCHEMA, CheckpointHeader
from skygraft.records.files import Layout
from skygraft.records.ledger_scan import DONE, FAILED, WAITING
from skygraft.records.status import output_states, resume_states
from skygraft.tables import truth as truth_tables

type MakeCampaign = Callable[..., Campaign]


@pytest.fixture(autouse=True)
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Campaigns of any size are packed and count as large, and what was written just now counts as old."""
    monkeypatch.setattr("skygraft.tables.consolidate._PACKED_FROM", 1)
    for module in (truth_tables, known_packs, known_folders):
        monkeypatch.setattr(module, "_SETTLED_NS", -(10**12))
    monkeypatch.setattr(known_folders, "_MANY", 0)


def seen(campaign: Campaign) -> tuple[list[int], list[int]]:
    """What a glance says of the images: their states, and the rows of the damaged ones."""
    states, damaged = output_states(Plan(campaign.layout.plan), campaign.layout)
    return states.state.tolist(), damaged.tolist()


def test_a_glance_at_folders(make_campaign: MakeCampaign, monkeypatch: pytest.MonkeyPatch) -> None:
    campaign = make_campaign()
    assert campaign.run(n_workers=0).ok
    plan, known = Plan(campaign.layout.plan), campaign.layout.consolidated / "folders.arrow"
    image = campaign.layout.images / next(plan.images([1])).output
    content = image.read_bytes()

    def refuse(*arguments: Any) -> None:
        raise AssertionError(f"files were looked at: {arguments}")

    with monkeypatch.context() as patch:
        patch.setattr(comparison.Comparison, "agrees", refuse)
        assert seen(campaign) == ([DONE] * 4, [])
        os.truncate(image, 100)
        assert seen(campaign) == ([DONE] * 4, [])  # a folder does not tell
        assert campaign.status().n_done == 4
    assert resume_states(plan, campaign.config).rows(WAITING).tolist() == [1]  # a run looks at each file
    image.unlink()
    assert seen(campaign)[1] == [1] and seen(campaign)[0][1] == WAITING
    status = campaign.status()
    assert (status.n_done, status.n_damaged) == (3, 1)
    # Replaced by another, as by a copy that was cut short.
    beside = image.with_name("other")
    beside.write_bytes(content[:-2880])
    beside.replace(image)
    assert seen(campaign)[1] == [1]
    # A run makes it again, and knows the folder again.
    assert campaign.run(n_workers=0).n_done == 1
    with monkeypatch.context() as patch:
        patch.setattr(comparison.Comparison, "agrees", refuse)
        assert seen(campaign) == ([DONE] * 4, [])
        # A file of somebody else: all of the folder are looked at, until the next run.
        (image.parent / "notes.txt").touch()
        with pytest.raises(AssertionError, match="were looked at"):
            seen(campaign)
    assert seen(campaign) == ([DONE] * 4, [])
    assert campaign.run(n_workers=0).n_skipped == 4
    with monkeypatch.context() as patch:
        patch.setattr(comparison.Comparison, "agrees", refuse)
        assert seen(campaign) == ([DONE] * 4, [])
        damaged = bytearray(known.read_bytes())
        damaged[damaged.index(image.parent.name.encode())] ^= 1
        known.write_bytes(damaged)
        with pytest.raises(AssertionError, match="were looked at"):
            seen(campaign)
        # Of another checkpoint.
        known.unlink()
        with pytest.raises(AssertionError, match="were looked at"):
            seen(campaign)
    assert seen(campaign) == ([DONE] * 4, [])
    # What changed a moment ago could change again within the same tick of the clock.
    monkeypatch.setattr(known_folders, "_SETTLED_NS", 10**15)
    assert campaign.run(n_workers=0).n_skipped == 4
    with monkeypatch.context() as patch, pytest.raises(AssertionError, match="were looked at"):
        patch.setattr(comparison.Comparison, "agrees", refuse)
        seen(campaign)


def test_only_images_with_all_else_in_one_folder_are_known_by_it(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    for name in (
        "images/a/0.fits",
        "images/a/1.fits",
        "masks/1.fits",
        "images/a/2.fits",
        "images/b/3.fits",
        "images/c/5.fits",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    packed = ["records/p/{}.truth.arrow", "records/p/{}.json"]
    outputs = [
        ["images/a/0.fits"],
        ["images/a/1.fits", "masks/1.fits"],  # in two folders
        ["images/a/2.fits"],  # its record is a file of its own
        ["images/b/3.fits"],
        ["images/b/4.fits"],  # is missing
        ["images/c/5.fits"],  # failed later on
    ]
    names = [["raw.fits", *some, *(text.format(i) for text in packed)] for i, some in enumerate(outputs)]
    rows = len(names)
    columns: dict[str, Any] = {name: np.zeros(rows) for name in CHECKPOINT_SCHEMA.names} | {
        "row": [5, 4, 3, 2, 1, 0],
        "state": [DONE] * 5 + [FAILED],
        "packed": [3, 3, 1, 3, 3, 3],
        "n_inputs": [1] * rows,
        "names": names,
        "sizes": [[0] * len(some) for some in names],
        "times": [[0] * len(some) for some in names],
    }
    arrays = [pa.array(columns[field.name], field.type) for field in CHECKPOINT_SCHEMA]
    batch = pa.RecordBatch.from_arrays(arrays, schema=CHECKPOINT_SCHEMA)
    header = CheckpointHeader(1, "", rows, "", -1, [])
    census = known_folders.FolderCensus(rows)
    census.add(batch.slice(0, 2))
    census.add(batch.slice(2))
    census.write(layout, header)
    found = known_folders.rows_in_folders(layout, header)
    assert found is not None and found.tolist() == [False] * 5 + [True]
    assert known_folders.rows_in_folders(layout, CheckpointHeader(2, "", rows, "", -1, [])) is None
    assert known_folders.are_current(layout, header)
    (tmp_path / "images/b/4.fits").touch()  # does not make an incomplete folder worth another look
    assert known_folders.are_current(layout, header)
    (tmp_path / "images/a/0.fits").unlink()
    assert not known_folders.are_current(layout, header)
    found = known_folders.rows_in_folders(layout, header)
    assert found is not None and not found.any()
