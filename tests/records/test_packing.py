"""Records and truth tables packed into one file a patch: nothing is lost, whatever happens on the way."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from kits.consolidation_kit import contents, make_coadds, rows_of, run, survey, truth
from kits.finished_images import Outputs
from skygraft.campaign import Campaign
from skygraft.errors import CampaignError, OutputError
from skygraft.records import comparison, known_packs, packs
from skygraft.records.checkpoint import open_checkpoint
from skygraft.records.files import Layout, sweep_leftovers
from skygraft.records.image_record import read_record
from skygraft.records.packs import PatchFiles, file_names, packed_files, read_file, remove_record, stat_file
from skygraft.records.plan_file import Plan
from skygraft.records.status import DONE, WAITING, output_states, resume_states
from skygraft.tables import truth as truth_tables
from skygraft.tables.truth_rows import Primaries


@pytest.fixture(autouse=True)
def packing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Campaigns of any size are packed and count as large, and records that were written just now count as old."""
    monkeypatch.setattr("skygraft.tables.consolidate._PACKED_FROM", 1)
    for module in (truth_tables, known_packs):
        monkeypatch.setattr(module, "_SETTLED_NS", -(10**12))
    monkeypatch.setattr(comparison, "_MANY", 0)


@pytest.fixture
def coadds(tmp_path: Path) -> Outputs:
    """A coadd of every patch in two bands, all of them done: two images a patch."""
    return make_coadds(tmp_path)


def paths_of(outputs: Outputs) -> list[Path]:
    return [path for i in outputs.images for path in (outputs.record_path(i), outputs.part_path(i))]


def single_files(outputs: Outputs) -> list[Path]:
    return sorted(path for path in (outputs.root / "records").rglob("*") if path.is_file())


def n_files(outputs: Outputs) -> int:
    """Of all that lies in the output folder but the images."""
    return sum(len(files) for _, _, files in os.walk(outputs.root))


def pack_of(outputs: Outputs, image_id: str) -> Path:
    return packs.pack_of(outputs.record_path(image_id))


def test_a_finished_campaign_has_few_files_a_patch_however_many_images(tmp_path: Path) -> None:
    left = {}
    for n_images in (8, 40):
        outputs, _ = survey(tmp_path / str(n_images), n_images=n_images)
        assert len(single_files(outputs)) == 2 * n_images
        run(outputs)
        assert {path.name for path in single_files(outputs)} == {packs.PACK_NAME}
        left[n_images] = n_files(outputs)
    n_patches = len({image.patch + 10 * image.tract for image in outputs.images.values()})
    assert left[8] == left[40]
    # A pack, the table of truth and of sources, and the part of the catalogue; what is remembered, and checksums.
    assert len(single_files(outputs)) == n_patches
    assert left[40] <= 8 * (n_patches + 1) + 6


def test_the_tables_are_the_same_with_and_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed, _ = survey(tmp_path / "packed")
    first = run(packed)
    (packed.root / "truth/tract=0/patch=1/part-0.parquet").unlink()  # made again, of what is packed
    again = run(packed)
    monkeypatch.setattr("skygraft.tables.consolidate._PACKED_FROM", 10**9)
    loose, _ = survey(tmp_path / "loose")
    expected = run(loose)
    assert contents(packed) == contents(loose)
    assert first == expected
    assert (again.n_looked, again.n_written, again.records) == (1, 1, expected.records)


def test_every_byte_and_time_is_kept(coadds: Outputs) -> None:
    before = {path: (path.read_bytes(), stat_file(path)) for path in paths_of(coadds)}
    assert run(coadds).problems == ()
    assert not any(path.exists() for path in before)
    assert {path: (read_file(path), stat_file(path)) for path in before} == before
    for image_id in coadds.images:
        assert read_record(coadds.record_path(image_id), image_id) is not None
    states = packs.stat_packed([*map(str, before), str(coadds.root / "records/nothing")])
    assert states == [*((state.n_bytes, state.mtime_ns) for _, state in before.values()), (-1, -1)]
    folder = coadds.record_path("g-0-1").parent
    names = {path.name for path in before if path.parent == folder}
    assert packed_files(folder).keys() == names
    assert file_names(folder) == names | {packs.PACK_NAME}


def test_a_pack_is_a_table_that_anybody_reads(coadds: Outputs) -> None:
    run(coadds)
    table = pq.read_table(pack_of(coadds, "g-0-1"), partitioning=None, filters=[("image_id", "==", "g-0-1")])
    (row,) = table.to_pylist()
    assert json.loads(row["record"])["image"] == row["stem"] == "g-0-1"


def test_what_is_packed_is_left_alone(coadds: Outputs) -> None:
    run(coadds)
    inodes = [path.stat().st_ino for path in single_files(coadds)]
    again = run(coadds)
    assert (again.n_looked, again.n_written, again.n_done) == (0, 0, 8)
    assert [path.stat().st_ino for path in single_files(coadds)] == inodes


def test_an_image_that_is_made_again_counts_and_is_packed_again(coadds: Outputs) -> None:
    run(coadds)
    coadds.finish("g-0-1", rows_of([0, 1]), host="elsewhere")
    path = coadds.record_path("g-0-1")
    new = path.read_bytes()
    assert read_file(path) == new and stat_file(path).inode == path.stat().st_ino
    found = run(coadds)
    assert dict(found.hosts) == {"node-1": 7, "elsewhere": 1}
    assert {row["injection_id"] for row in truth(coadds) if row["image_id"] == "g-0-1"} == {0, 1}
    assert {path.name for path in single_files(coadds)} == {packs.PACK_NAME}
    assert read_file(path) == new


def test_a_reopened_image_is_not_done_until_it_is_made_again(coadds: Outputs) -> None:
    run(coadds)
    path = coadds.record_path("g-0-1")
    other = read_file(coadds.record_path("r-0-1"))
    remove_record(path)
    for _ in range(2):  # before and after it is packed again without
        assert read_record(path, "g-0-1") is None
        assert path.name not in file_names(path.parent)
        with pytest.raises(FileNotFoundError):
            read_file(path)
        assert read_file(coadds.record_path("r-0-1")) == other
        assert run(coadds).n_done == 7
    assert {path.name for path in single_files(coadds)} == {packs.PACK_NAME}
    remove_record(path)  # which is no longer there
    coadds.finish("g-0-1", rows_of([0, 1, 2]))
    assert run(coadds).n_done == 8
    assert read_record(path, "g-0-1") is not None


def test_a_record_made_after_reopening_counts_at_once(coadds: Outputs) -> None:
    run(coadds)
    remove_record(coadds.record_path("g-0-1"))
    coadds.finish("g-0-1", rows_of([0, 1, 2]), host="elsewhere")
    record = read_record(coadds.record_path("g-0-1"), "g-0-1")
    assert record is not None and record["host"] == "elsewhere"
    remove_record(coadds.record_path("g-0-1"))  # the packed one does not come back
    assert read_record(coadds.record_path("g-0-1"), "g-0-1") is None


def test_images_that_the_plan_no_longer_has_stay_packed(coadds: Outputs) -> None:
    run(coadds)
    old = read_file(coadds.record_path("r-0-1"))
    path = coadds.record_path("r-0-1")
    coadds.set_plan(image for image in coadds.images.values() if image.image_id != "r-0-1")
    coadds.finish("g-0-1", rows_of([0, 1]))
    assert run(coadds).n_done == 7
    assert read_file(path) == old


def test_each_file_is_read_once_and_few_are_synced(coadds: Outputs, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    synced: list[int] = []
    read, sync = packs._read_single, os.fsync
    monkeypatch.setattr(packs, "_read_single", lambda path: opened.append(path) or read(path))
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(descriptor) or sync(descriptor))
    run(coadds)
    assert sorted(opened) == sorted(map(str, paths_of(coadds)))
    # Of each of four patches the table of truth, the pack and its folder; five tables of sources, and all of them.
    assert len(synced) == 4 * 3 + 5 + 1


def test_what_is_too_large_to_keep_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = make_coadds(tmp_path / "a")
    run(first)
    monkeypatch.setattr(truth_tables, "_KEPT_BYTES", 6000)  # of two images one
    second = make_coadds(tmp_path / "b")
    before = {path: path.read_bytes() for path in paths_of(second)}
    run(second)
    assert {path: read_file(path) for path in before} == before
    assert contents(first) == contents(second)


def test_a_file_that_is_packed_after_its_folder_was_listed_is_found(coadds: Outputs) -> None:
    path = coadds.record_path("g-0-1")
    content, state, files = path.read_bytes(), stat_file(path), PatchFiles(str(path.parent))
    run(coadds)
    assert not path.exists()
    assert (files.stat(path.name), files.read(path.name)) == (state, (content, state))
    listed = PatchFiles(str(path.parent))
    assert (listed.stat(path.name), listed.read(path.name)) == (state, (content, state))
    assert listed.stat("nothing.json") is None
    with pytest.raises(FileNotFoundError):
        listed.read("nothing.json")


def test_the_first_image_of_a_group_has_the_primary_rows() -> None:
    """Against a walk from row to row, in pieces of any size."""
    rng = np.random.default_rng(8)
    n = 600
    image = np.sort(rng.integers(0, 60, n))
    group, ids, wanted = rng.integers(0, 4, 60)[image], rng.integers(0, 40, n), rng.random(n) < 0.6
    owner: dict[tuple[int, int], int] = {}
    expected = [
        bool(w) and owner.setdefault((g, i), k) == k for g, i, k, w in zip(group, ids, image, wanted, strict=True)
    ]
    primaries, found = Primaries(), []
    for some in np.array_split(np.arange(60), 7):
        mine = np.isin(image, some)
        found += primaries.take(group[mine], ids[mine], image[mine] - some[0], wanted[mine]).tolist()
    assert found == expected and 0 < sum(found) < wanted.sum()


class KilledError(BaseException):
    pass


def test_it_may_be_killed_at_every_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between any two changes of the file system: all records are there, and the next time finishes it."""
    outputs = make_coadds(tmp_path)
    run(outputs)
    expected = contents(outputs)
    steps = 0
    while True:
        for image_id in ("g-0-1", "g-1-1"):
            remove_record(outputs.record_path(image_id))
            outputs.finish(image_id, rows_of([0, 1, 2] if image_id == "g-0-1" else [4, 5, 6]))
        before = {path: read_file(path) for path in paths_of(outputs)}
        with monkeypatch.context() as patch:
            killed = kill_at(steps, patch, lambda: run(outputs))
        assert {path: read_file(path) for path in before} == before
        sweep_leftovers(outputs.root)  # as a run begins
        assert run(outputs).n_done == 8
        assert {path: read_file(path) for path in before} == before
        assert {path.name for path in single_files(outputs)} == {packs.PACK_NAME}
        assert contents(outputs) == expected
        if not killed:
            break
        steps += 1
    assert steps == 10  # of two patches: packs and checksums, two marks, four files


def kill_at(step: int, patch: pytest.MonkeyPatch, work: Callable[[], object]) -> bool:
    """Do something that is killed before its change number `step` of the records' files; whether it came to that."""
    changes = iter(range(step))

    def killing(change: Callable[..., Any]) -> Callable[..., Any]:
        def changed(path: str | Path, *arguments: Any, **options: Any) -> Any:
            if "records" in Path(path).parts and next(changes, None) is None:
                raise KilledError
            return change(path, *arguments, **options)

        return changed

    for name in ("unlink", "replace"):
        patch.setattr(os, name, killing(getattr(os, name)))
    try:
        work()
    except KilledError:
        return True
    return False


def test_a_full_disk_leaves_the_single_files(coadds: Outputs, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path: path.read_bytes() for path in single_files(coadds)}
    write = pq.ParquetWriter.write_table

    def full(writer: Any, *arguments: Any, **options: Any) -> None:
        write(writer, *arguments, **options)
        if "stem" in writer.schema.names:
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(pq.ParquetWriter, "write_table", full)
        with pytest.raises(OutputError, match="No space left"):
            run(coadds)
    assert {path: path.read_bytes() for path in single_files(coadds)} == before
    assert run(coadds).n_done == 8
    assert {path.name for path in single_files(coadds)} == {packs.PACK_NAME}


def test_flipped_bits_give_no_wrong_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever they are: what is read is what was written, or is found damaged, and most of the rest stays."""
    monkeypatch.setattr(packs, "_IMAGES_A_GROUP", 2)
    outputs, _ = survey(tmp_path)
    records = {i: json.loads(outputs.record_path(i).read_text()) for i in outputs.images}
    run(outputs)
    home = (0, 1)
    mine = [i for i, image in outputs.images.items() if (image.tract, image.patch) == home]
    pack = pack_of(outputs, mine[0])
    content = pack.read_bytes()
    status = pack.stat()
    survivors = []
    for at in range(0, len(content), max(1, len(content) // 97)):
        damaged = bytearray(content)
        damaged[at] ^= 0x10
        pack.unlink()
        pack.write_bytes(damaged)
        os.utime(pack, ns=(status.st_atime_ns, status.st_mtime_ns))
        n_read = 0
        for image_id in mine:
            record = read_record(outputs.record_path(image_id), image_id)
            assert record is None or record == {k: v for k, v in records[image_id].items() if k != "checksum"}
            part = outputs.part_path(image_id)
            wanted = records[image_id]["outputs"][part.relative_to(outputs.root).as_posix()]["sha256"]
            with contextlib.suppress(OSError):
                n_read += record is not None and hashlib.sha256(read_file(part)).hexdigest() == wanted
        survivors.append(n_read)
    assert len(mine) >= 5
    assert sum(n >= len(mine) - 2 for n in survivors) > 0.7 * len(survivors)


def test_damage_found_while_packing_again_is_named_and_not_packed(tmp_path: Path) -> None:
    outputs, _ = survey(tmp_path)
    run(outputs)
    layout = Layout(outputs.root)
    image = next(i for i in outputs.images.values() if (i.tract, i.patch) == (0, 1))
    pack = pack_of(outputs, image.image_id)
    found = read_file(outputs.part_path(image.image_id))
    content, status = bytearray(pack.read_bytes()), pack.stat()
    content[content.index(found) + len(found) // 2] ^= 1
    pack.write_bytes(content)
    os.utime(pack, ns=(status.st_atime_ns, status.st_mtime_ns))
    packs._read_group.cache_clear()
    assert run(outputs).problems == ()  # nothing tells
    layout.checksum(pack).unlink()  # as `verify --checksums --discard` does
    problems = dict(run(outputs).problems)
    assert problems and all(str(outputs.part_path(i)) in text for i, text in problems.items())
    mine = [i for i in outputs.images if pack_of(outputs, i) == pack]
    there = [i for i in mine if read_record(outputs.record_path(i), i) is not None]
    assert sorted([*there, *problems]) == sorted(mine) and len(there) >= len(mine) - 16
    assert run(outputs).n_done == len(outputs.images) - len(problems)


def test_a_pack_that_cannot_be_opened_is_an_error_that_names_it(coadds: Outputs) -> None:
    run(coadds)
    pack = pack_of(coadds, "g-0-1")
    pack.unlink()
    pack.symlink_to(pack.name)
    with pytest.raises(CampaignError, match="packed records cannot be read") as caught:
        read_record(coadds.record_path("g-0-1"), "g-0-1")
    assert caught.value.path == str(pack)


type MakeCampaign = Callable[..., Campaign]


@pytest.fixture
def done(finished: Campaign) -> Campaign:
    """A campaign of four images, all of them made and packed."""
    assert finished.run(n_workers=0).ok
    assert {path.name for path in finished.layout.records.rglob("*.*")} == {packs.PACK_NAME}
    return finished


def test_a_packed_campaign_is_done(done: Campaign, expected: dict[str, str], kit: Any) -> None:
    assert kit.checksums(done.layout.root) == expected
    report = done.check_checksums(processes=1)
    assert report.ok and report.n_images == 4
    status = done.status()
    assert (status.n_done, status.n_damaged, status.files) == (4, 0, ())
    summary = done.run(n_workers=0)
    assert (summary.n_done, summary.n_skipped, summary.ok) == (0, 4, True)
    assert done.rescan().n_done == 4
    done.layout.checkpoint.unlink()
    assert done.run(n_workers=0).n_skipped == 4
    with open_checkpoint(Plan(done.layout.plan), done.layout) as checkpoint:
        assert checkpoint is not None and checkpoint.header.packs


def test_nothing_but_footers_is_read_where_the_ledger_agrees(done: Campaign, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any) -> None:
        raise AssertionError(f"{arguments} was read")

    monkeypatch.setattr(packs, "_read_group", refuse)
    assert resume_states(Plan(done.layout.plan), done.config).count(DONE) == 4


def test_a_packed_image_is_made_again_alone(done: Campaign, expected: dict[str, str], kit: Any) -> None:
    image = next(Plan(done.layout.plan).images([2]))
    (done.layout.images / image.output).unlink()
    assert resume_states(Plan(done.layout.plan), done.config).rows(WAITING).tolist() == [2]
    summary = done.run(n_workers=0)
    assert (summary.n_done, summary.n_skipped, summary.ok) == (1, 3, True)
    assert kit.checksums(done.layout.root) == expected
    assert done.check_checksums(processes=1).ok and done.status().n_damaged == 0
    assert {path.name for path in done.layout.records.rglob("*.*")} == {packs.PACK_NAME}


def test_no_pack_is_opened_where_nothing_changed(done: Campaign, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any) -> None:
        raise AssertionError(f"{arguments} was opened")

    monkeypatch.setattr(packs, "_read_index", refuse)
    plan, layout = Plan(done.layout.plan), done.layout
    assert resume_states(plan, done.config).count(DONE) == len(output_states(plan, done.layout)[0]) == 4
    # Nor where images were reopened: the two of a patch are told apart by what lies beside their pack.
    image = next(plan.images([1]))
    layout.record(image.tract, image.patch, image.stem + packs.REOPENED_SUFFIX).with_suffix("").touch()
    assert resume_states(plan, done.config).rows(WAITING).tolist() == [1]
    states, damaged_rows = output_states(plan, layout)
    assert states.rows(WAITING).tolist() == damaged_rows.tolist() == [1]
    known = done.layout.consolidated / "packs.arrow"
    damaged = bytearray(known.read_bytes())
    table = known_packs.known_table(done.layout)
    assert table is not None and len(table.keys) == 8
    damaged[damaged.index(table.keys[:1].tobytes())] ^= 1
    known.write_bytes(damaged)
    assert known_packs.known_table(done.layout) is None
    with pytest.raises(AssertionError, match="was opened"):
        output_states(plan, done.layout)


def _truncate(campaign: Campaign, path: Path) -> None:
    image = next(Plan(campaign.layout.plan).images([1]))
    os.truncate(campaign.layout.images / image.output, 100)


def _touch_pack(campaign: Campaign, path: Path) -> None:
    os.utime(packs.pack_of(path))


def _lose_pack(campaign: Campaign, path: Path) -> None:
    packs.pack_of(path).unlink()


def _other_record(campaign: Campaign, path: Path) -> None:
    path.write_bytes(read_file(path) + b" ")


def _other_input(campaign: Campaign, path: Path) -> None:
    os.utime(next(Plan(campaign.layout.plan).images([1])).source(campaign.config.survey.root))


@pytest.mark.parametrize(
    "change",
    [_truncate, _touch_pack, _lose_pack, _other_record, _other_input, lambda campaign, path: remove_record(path)],
)
def test_what_is_known_of_packs_hides_no_change(
    done: Campaign, change: Callable[[Campaign, Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compiled loops and what is known of packs give what a look at every file gives."""
    plan, layout = Plan(done.layout.plan), done.layout
    image = next(plan.images([1]))
    change(done, layout.record(image.tract, image.patch, image.stem))
    found = []
    for many in (0, 10**9):
        monkeypatch.setattr(comparison, "_MANY", many)
        states, damaged = output_states(plan, layout)
        found.append((states.state.tolist(), damaged.tolist()))
        with contextlib.suppress(CampaignError):
            found[-1] += (resume_states(plan, done.config).state.tolist(),)
    assert found[0] == found[1]
    if change is _other_input:
        assert found[0] == ([DONE] * 4, [])  # and resuming is refused
    elif change is not _touch_pack:
        assert found[0][0][1] == WAITING or found[0][2][1] == WAITING


def test_settings_that_changed_are_noticed_in_packs(make_campaign: MakeCampaign, done: Campaign) -> None:
    again = make_campaign(injection={"seed": 7, "noise": True})
    with pytest.raises(CampaignError, match="seed"):
        again.run(n_workers=0)
    assert again.run(n_workers=0, redo=True).n_done == 4
    assert {path.name for path in again.layout.records.rglob("*.*")} == {packs.PACK_NAME}


def test_another_pack_under_the_inode_of_an_old_one_is_read(coadds: Outputs) -> None:
    """File systems give the number of a file that was removed to the next one."""
    run(coadds)
    path, pack = coadds.record_path("g-0-1"), pack_of(coadds, "g-0-1")
    older, content = read_file(path), pack.read_bytes()
    coadds.finish("g-0-1", rows_of([0, 1, 2]), host="elsewhere")
    newer = path.read_bytes()
    run(coadds)
    assert read_file(path) == newer
    inode = pack.stat().st_ino
    with pack.open("rb+") as file:
        file.write(content)
        file.truncate()
    assert pack.stat().st_ino == inode
    assert read_file(path) == older
