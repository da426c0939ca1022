"""The checkpoint of a ledger: never needed, never wrong, and read instead of the ledger."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from kits.plan_kit import make_images, write_plan
from skygraft.campaign import ImageSummary
from skygraft.errors import OutputError
from skygraft.records import image_states as states_module
from skygraft.records.checkpoint import open_checkpoint
from skygraft.records.checkpoint_writer import CheckpointWriter
from skygraft.records.comparison import Comparison
from skygraft.records.events import ImageReopened, RunEnded, RunStarted
from skygraft.records.files import Layout
from skygraft.records.image_states import DONE, ImageStates, read_ledger, save_checkpoint
from skygraft.records.ledger import Ledger, read_runs
from skygraft.records.ledger_scan import fingerprint_key
from skygraft.records.plan_file import Plan

N = 60


@pytest.fixture
def world(tmp_path: Path) -> SimpleNamespace:
    """A plan of `N` images, an input and an output for each, and a way to append made-up events."""
    images = make_images(N)
    layout = Layout(tmp_path)
    write_plan(layout.plan, images, {})
    for image in images:
        (tmp_path / f"{image.stem}.in").write_bytes(b"in")
        (tmp_path / f"{image.stem}.out").write_bytes(b"out")

    def event(dice: random.Random) -> ImageSummary | ImageReopened:
        image = dice.choice(images)
        kind = dice.randrange(8)
        if kind == 0:
            return ImageReopened(image.image_id)
        if kind < 3:
            return ImageSummary(image.image_id, "failed", error="OSError", quarantined=kind == 1)
        if kind == 3:
            return ImageSummary("not in the plan", "done")
        inputs = {f"{image.stem}.in": [2, (tmp_path / f"{image.stem}.in").stat().st_mtime_ns]}
        outputs = {f"{image.stem}.out": 3 if kind < 7 else 4}
        made_from = {"catalog": image.catalog_key, "settings": "5", "code": 5}
        return ImageSummary(image.image_id, "done", inputs=inputs, outputs=outputs, **made_from)

    def append(seed: int, n: int) -> None:
        dice = random.Random(seed)
        with Ledger(layout.ledger) as ledger:
            ledger.append([RunStarted()])
            for _ in range(n):
                one = event(dice)
                ledger.append([one]) if isinstance(one, ImageReopened) else ledger.images([one])
            ledger.append([RunEnded()])

    return SimpleNamespace(layout=layout, plan=Plan(layout.plan), append=append, images=images)


def states_of(world: SimpleNamespace, until: int | None = None) -> dict[str, list[int]]:
    with Comparison(
        str(world.layout.root), str(world.layout.root), settings=fingerprint_key("5"), code=5
    ) as comparison:
        found = read_ledger(world.plan, world.layout, comparison, until=until)
    states = found.states
    arrays = {name: getattr(states, name).tolist() for name in ("state", "tries", "places", "before_run")}
    runs = [hash(event) for event in states.runs]
    return arrays | {"run_start": [states.run_start], "unconfirmed": found.unconfirmed.tolist(), "runs": runs}


def save(world: SimpleNamespace) -> None:
    states = read_ledger(world.plan, world.layout).states
    save_checkpoint(world.plan, world.layout, states, world.layout.ledger.stat().st_size)


def without_checkpoint(world: SimpleNamespace, until: int | None = None) -> dict[str, list[int]]:
    kept = world.layout.checkpoint.rename(world.layout.root / "kept")
    try:
        return states_of(world, until)
    finally:
        kept.rename(world.layout.checkpoint)


def is_used(world: SimpleNamespace) -> bool:
    with open_checkpoint(world.plan, world.layout) as checkpoint:
        return checkpoint is not None


@pytest.mark.parametrize("seed", range(5))
def test_checkpoint_and_tail_give_what_the_ledger_gives(world: SimpleNamespace, seed: int) -> None:
    for step in range(4):
        world.append(10 * seed + step, 40)
        save(world)  # each from the one before
        assert is_used(world)
        wanted = without_checkpoint(world)
        assert states_of(world) == wanted
        assert wanted["runs"] == [hash(event) for event in read_runs(world.layout.ledger)]
        assert len(wanted["runs"]) == 4 * step + 2
        assert 0 < sum(wanted["unconfirmed"]) < wanted["state"].count(DONE)
        world.append(100 + 10 * seed + step, 15)
        assert states_of(world) == without_checkpoint(world)


def test_files_are_compared_by_the_checkpoint(world: SimpleNamespace) -> None:
    world.append(1, 100)
    save(world)
    before = states_of(world)
    confirmed = [i for i in range(N) if before["state"][i] == DONE and not before["unconfirmed"][i]]
    os.utime(world.layout.root / f"{world.images[confirmed[0]].stem}.in", ns=(1, 1))
    (world.layout.root / f"{world.images[confirmed[1]].stem}.out").unlink()
    after = states_of(world)
    changed = np.flatnonzero(np.array(after["unconfirmed"]) != np.array(before["unconfirmed"])).tolist()
    assert changed == confirmed[:2]


def test_the_ledger_before_the_checkpoint_is_not_read(world: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    world.append(1, 50)
    save(world)
    size = world.layout.ledger.stat().st_size
    world.append(2, 5)
    starts = []

    def spied(read):
        def spy(ledger, start=0, stop=None, **options):
            starts.append(start)
            return read(ledger, start, stop, **options)

        return spy

    for name in ("scan_ledger", "read_runs"):
        monkeypatch.setattr(states_module, name, spied(getattr(states_module, name)))
    states_of(world)
    save(world)
    assert set(starts) == {size}


def test_before_the_last_run(world: SimpleNamespace) -> None:
    """Who follows a run needs the states that it began with; the checkpoint is of its middle, or of its end."""
    world.append(1, 50)
    start = world.layout.ledger.stat().st_size
    wanted = states_of(world, start)["state"]
    save(world)
    assert states_of(world, start)["state"] == wanted
    world.append(2, 50)
    save(world)
    assert states_of(world, start)["state"] == wanted != states_of(world)["state"]
    # Of an older run than the last it knows nothing: the ledger does.
    world.append(3, 5)
    save(world)
    assert states_of(world, start)["state"] == wanted


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "removed": Path.unlink,
    "emptied": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "flipped": flip,
    "other file": lambda path: path.write_bytes(b"ARROW1 not at all"),
    "folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("what", ["checkpoint", "checksum"])
def test_a_damaged_checkpoint_is_ignored(world: SimpleNamespace, what: str, damage: str) -> None:
    world.append(1, 50)
    save(world)
    wanted = states_of(world)
    path = world.layout.checkpoint
    DAMAGE[damage](path if what == "checkpoint" else world.layout.checksum(path))
    assert not is_used(world)
    assert states_of(world) == wanted


def test_another_ledger_is_noticed(world: SimpleNamespace) -> None:
    ledger = world.layout.ledger
    world.append(1, 50)
    save(world)
    content = ledger.read_bytes()
    for other in (
        content[:-200],  # cut
        b"\n" + content,  # moved
        content.replace(b"run_ended", b"run_endet"),  # edited at its end
        b"",
    ):
        ledger.write_bytes(other)
        assert not is_used(world)
    ledger.unlink()
    assert not is_used(world)
    assert set(states_of(world)["places"]) == {-1}


def test_another_plan_is_noticed(world: SimpleNamespace) -> None:
    world.append(1, 50)
    save(world)
    write_plan(world.layout.plan, world.images[1:], {})
    world.plan = Plan(world.layout.plan)
    assert not is_used(world)
    assert states_of(world) == without_checkpoint(world)
    # The order alone matters as well: rows are places in the plan.
    write_plan(world.layout.plan, [*world.images[1:], world.images[0]], {})
    world.plan = Plan(world.layout.plan)
    assert not is_used(world)


def test_it_is_written_in_intervals_and_at_the_end(world: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skygraft.records.checkpoint_writer._EVENTS", 20)
    states, written = ImageStates(N), []
    with Ledger(world.layout.ledger) as ledger:
        writer = CheckpointWriter(world.plan, world.layout, states, ledger)
        for row, image in enumerate(world.images):
            states.enter_summaries([row], [summary := ImageSummary(image.image_id, "done")], ledger.images([summary]))
            writer.check()
            writer.wait()
            written.append(json.loads(_header(world))["offset"] if world.layout.checkpoint.exists() else 0)
        assert len(set(written)) == 1 + N // 20 and written[18] == 0 < written[19]
        writer.save()  # everything is in it
        states.enter_summaries([N - 1], [summary], ledger.images([summary]))
        writer.save()
        assert json.loads(_header(world))["offset"] == ledger.size
    assert is_used(world) and states_of(world) == without_checkpoint(world)


def test_a_checkpoint_that_cannot_be_written_ends_no_run(
    world: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.append(1, 50)
    world.layout.checkpoint.mkdir()
    states = read_ledger(world.plan, world.layout).states
    with pytest.raises(OutputError):
        save_checkpoint(world.plan, world.layout, states, world.layout.ledger.stat().st_size)
    with Ledger(world.layout.ledger) as ledger:
        CheckpointWriter(world.plan, world.layout, states, ledger).save()
    assert not is_used(world) and states_of(world)["state"] == states.state.tolist()


def _header(world: SimpleNamespace) -> bytes:
    import pyarrow as pa

    with pa.ipc.open_file(pa.OSFile(str(world.layout.checkpoint))) as file:
        return file.schema.metadata[b"skygraft"]
