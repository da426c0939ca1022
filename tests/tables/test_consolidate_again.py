"""Consolidation called again: what is left alone, what is rebuilt, what damage and full disks do to it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from kits.consolidation_kit import (
    EVERYWHERE,
    SKYMAP,
    backwards,
    contents,
    files,
    here,
    make_catalog,
    make_coadds,
    rows_of,
    run,
    sources,
    survey,
    truth,
)
from kits.finished_images import Outputs, planned
from skygraft.errors import CampaignError, OutputError
from skygraft.tables import arrow as tables
from skygraft.tables import truth as truth_tables
from skygraft.tables.joining import join_sources, piece_fingerprint


@pytest.fixture
def coadds(tmp_path: Path) -> Outputs:
    """A coadd of every patch in two bands, all of them done."""
    return make_coadds(tmp_path)


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Records that were written just now count as old."""
    monkeypatch.setattr(truth_tables, "_SETTLED_NS", -(10**12))


def test_the_order_of_work_does_not_show(tmp_path: Path) -> None:
    results = []
    for name, call in (("a", here), ("b", backwards)):
        outputs, _ = survey(tmp_path / name)
        results.append((run(outputs, call), contents(outputs)))
    assert results[0] == results[1]


def test_what_has_not_changed_is_left_alone(coadds: Outputs, settled: None) -> None:
    first = run(coadds)
    assert (first.n_looked, first.n_written) == (4, 4 + 5 + 1)
    before = files(coadds)
    again = run(coadds)
    assert (again.n_looked, again.n_written) == (0, 0)
    assert files(coadds) == before
    assert {**again.to_dict(), "n_looked": 0, "n_written": 0} == {**first.to_dict(), "n_looked": 0, "n_written": 0}


def test_records_that_were_only_just_written_are_read_again(coadds: Outputs) -> None:
    """They could change again within the same tick of the file system's clock."""
    run(coadds)
    again = run(coadds)
    assert (again.n_looked, again.n_written) == (4, 0)


def test_one_changed_image_changes_its_patches_only(coadds: Outputs, settled: None) -> None:
    run(coadds)
    before = files(coadds)
    # Source 2, which patch (0, 0) owns, gets fainter on the coadd of patch (0, 1).
    coadds.finish("g-0-1", rows_of([0, 1, 2]), flux_mode="psf_sum")
    found = run(coadds)
    after = files(coadds)
    changed = {name for name in after if after[name] != before[name]}
    assert found.n_looked == 1
    # Every source patch may be read by every image here, so all those tables were worked out anew.
    assert {name for name in changed if name.startswith("truth")} == {"truth/tract=0/patch=1/part-0.parquet"}
    fractions = [sources(coadds)[2][f"flux_fraction_{band}"] for band in "gr"]
    assert fractions[1] > 1.02
    assert fractions[0] == pytest.approx((1 + fractions[1]) / 2, rel=5e-4)


def test_patches_that_no_changed_image_reads_are_left_alone(tmp_path: Path, settled: None) -> None:
    images = [planned("a", (0, 1), [(0, 0), (0, 1)]), planned("b", (1, 0), [(1, 0)])]
    outputs = Outputs(tmp_path, make_catalog(), SKYMAP, images)
    outputs.finish("a", rows_of([0, 1, 2]))
    outputs.finish("b", rows_of([7]))
    run(outputs)
    before = files(outputs)
    outputs.finish("a", rows_of([0, 1]))
    found = run(outputs)
    after = files(outputs)
    assert {name for name in after if after[name] != before[name]} == {
        "truth/tract=0/patch=1/part-0.parquet",
        "sources/tract=0/patch=0/part-0.parquet",
        "sources/tract=0/patch=1/part-0.parquet",
        "sources.parquet",
    }
    assert (found.n_looked, found.n_written) == (1, 4)
    assert (sources(outputs)[2]["n_images"], sources(outputs)[1]["n_images"]) == (0, 1)


def test_the_same_content_is_the_same_table(coadds: Outputs, settled: None) -> None:
    """An image that was made again with the same result, at another time and place, changes no table."""
    run(coadds)
    before = files(coadds)
    coadds.finish("g-0-1", rows_of([0, 1, 2]), host="elsewhere", key="f" * 64)
    found = run(coadds)
    assert files(coadds) == before
    assert found.n_looked == 1
    assert dict(found.hosts) == {"node-1": 7, "elsewhere": 1}


def test_a_lost_or_damaged_table_is_made_again(coadds: Outputs, settled: None) -> None:
    run(coadds)
    before = contents(coadds)
    table = coadds.root / "truth/tract=0/patch=1/part-0.parquet"
    table.write_bytes(table.read_bytes()[:100])
    (coadds.root / "truth/tract=0/patch=0/part-0.parquet").unlink()
    (coadds.root / "sources/tract=0/patch=0/part-0.parquet").unlink()
    (coadds.root / "sources.parquet").unlink()
    assert run(coadds).n_written == 4
    assert contents(coadds) == before


def test_a_damaged_memory_is_not_believed(coadds: Outputs, settled: None) -> None:
    first = run(coadds)
    for path in (coadds.root / ".consolidated").rglob("*.json"):
        path.write_text("{")
    again = run(coadds)
    assert (again.n_looked, again.n_written) == (4, 0)
    assert again.calibrations == first.calibrations


def test_images_that_are_not_done_are_left_out(tmp_path: Path) -> None:
    images = [planned("a", (0, 0), EVERYWHERE), planned("b", (0, 0), EVERYWHERE), planned("c", (1, 0), EVERYWHERE)]
    outputs = Outputs(tmp_path, make_catalog(), SKYMAP, images)
    outputs.finish("b", rows_of([3]))
    found = run(outputs)
    assert {row["image_id"] for row in truth(outputs)} == {"b"}
    assert (found.n_images, found.n_done, found.complete, found.problems) == (3, 1, False, ())
    assert not (outputs.root / "truth/tract=1").exists()
    assert "1 of 3 images" in "\n".join(found.lines())
    # When the others are made, they come in; and a record that goes away takes its rows with it.
    outputs.finish("a", rows_of([2]))
    outputs.finish("c", rows_of([7]))
    assert run(outputs).complete
    outputs.record_path("c").unlink()
    assert run(outputs).n_done == 2
    assert {row["image_id"] for row in truth(outputs)} == {"a", "b"}
    assert not (outputs.root / "truth/tract=1").exists()


@pytest.mark.parametrize("damage", ["none", "gone", "cut", "others"])
def test_the_one_file_of_sources_is_the_same_however_it_is_joined(coadds: Outputs, damage: str) -> None:
    """From pieces with the rows of several patches, or from the patches' tables where a piece is not what it was."""
    pieces: list[Path] = []

    def call(function: Callable[..., Any], items: Iterable[Any], **arguments: Any) -> Iterator[Any]:
        if function is join_sources:
            pieces.extend((coadds.root / ".consolidated/joining").iterdir())
            for piece in pieces:
                content = piece.read_bytes()
                if damage == "gone":
                    piece.unlink()
                elif damage == "cut":
                    piece.write_bytes(content[: len(content) // 2])
                elif damage == "others":  # of tables that were made from something else
                    piece.write_bytes(content.replace(fingerprint, b"0" * 64))
        yield from here(function, items, **arguments)

    keys = []

    def remember(patches: Any) -> str:
        keys.append(piece_fingerprint(patches))
        return keys[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("skygraft.tables.joining.piece_fingerprint", remember)
        first = run(coadds)
    fingerprint = keys[0].encode()
    expected = (coadds.root / "sources.parquet").read_bytes()
    for table in (coadds.root / "sources").rglob("*.parquet"):
        table.unlink()
    (coadds.root / "sources.parquet").unlink()
    again = run(coadds, call)
    assert again.sources == first.sources
    assert (coadds.root / "sources.parquet").read_bytes() == expected
    assert len(pieces) == 1 and not (coadds.root / ".consolidated/joining").exists()
    (coadds.root / "sources.parquet").unlink()
    run(coadds)  # all tables of patches are up to date: there are no pieces
    assert (coadds.root / "sources.parquet").read_bytes() == expected


def test_nothing_is_done(tmp_path: Path) -> None:
    outputs = Outputs(tmp_path, make_catalog(), SKYMAP, [planned("a", (0, 0), EVERYWHERE)])
    found = run(outputs)
    assert (found.n_done, found.n_rows, found.n_sources, found.n_on_images) == (0, 0, 9, 0)
    assert all(row["n_images"] == 0 for row in sources(outputs).values())
    assert found.lines()


def test_an_image_without_sources(tmp_path: Path) -> None:
    outputs = Outputs(tmp_path, make_catalog(), SKYMAP, [planned("a", (0, 0), EVERYWHERE)])
    outputs.finish("a", rows_of([]))
    found = run(outputs)
    assert (found.n_done, found.n_rows) == (1, 0)
    assert pq.read_table(outputs.root / "truth/tract=0/patch=0/part-0.parquet", partitioning=None).num_rows == 0


def test_what_the_plan_no_longer_has_goes(coadds: Outputs) -> None:
    run(coadds)
    stranger = coadds.root / "truth/tract=1/notes.txt"
    stranger.write_text("mine")
    coadds.set_plan(image for image in coadds.images.values() if image.tract == 0)
    found = run(coadds)
    assert found.n_images == 4
    assert {row["home"] for row in truth(coadds)} == {(0, 0), (0, 1)}
    assert sources(coadds)[7]["n_images"] == 0
    assert stranger.exists()


@pytest.mark.parametrize("damage", ["half", "gone", "other"])
def test_a_damaged_truth_part_is_named_and_the_rest_is_kept(coadds: Outputs, damage: str) -> None:
    part = coadds.part_path("g-0-1")
    content = part.read_bytes()
    if damage == "gone":
        part.unlink()
    else:
        part.write_bytes(content[: len(content) // 2] if damage == "half" else content[:50] + b"!" + content[51:])
    found = run(coadds)
    ((image_id, problem),) = found.problems
    assert image_id == "g-0-1" and image_id in problem
    assert str(part) in problem
    assert "the next run makes them again" in found.lines()[0]
    assert (found.n_done, found.complete) == (7, False)
    assert len({row["image_id"] for row in truth(coadds)}) == 7
    assert found.lines()[0].startswith("WARNING: 1 images are left out")
    # Made again, it comes back, also where the tables were written without it.
    coadds.finish("g-0-1", rows_of([0, 1, 2]))
    healed = run(coadds)
    assert (healed.problems, healed.n_done) == ((), 8)
    assert len({row["image_id"] for row in truth(coadds)}) == 8


def test_a_damaged_record_is_named(coadds: Outputs) -> None:
    path = coadds.record_path("r-1-0")
    path.write_text(path.read_text()[:40])
    found = run(coadds)
    ((image_id, problem),) = found.problems
    assert image_id == "r-1-0" and problem == f"r-1-0: its record {path} is damaged"
    assert "r-1-0" not in {row["image_id"] for row in truth(coadds)}


def test_a_record_of_another_version_stops_it(coadds: Outputs) -> None:
    path = coadds.record_path("r-1-0")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 99}))
    with pytest.raises(CampaignError, match="version") as caught:
        run(coadds)
    assert caught.value.path == str(path)


def test_a_lost_part_of_the_catalogue_is_named(coadds: Outputs) -> None:
    part = coadds.root / "catalog/tract=0/patch=0/part-0.parquet"
    part.unlink()
    with pytest.raises(CampaignError, match="Plan again") as caught:
        run(coadds)
    assert caught.value.path == str(part)


@pytest.mark.parametrize("small", [True, False])
@pytest.mark.parametrize("what", ["truth/tract=0/patch=1/part-0", "sources/tract=0/patch=0/part-0", "out/sources"])
def test_a_full_disk_leaves_the_former_tables_whole(
    coadds: Outputs, monkeypatch: pytest.MonkeyPatch, what: str, small: bool
) -> None:
    run(coadds)
    before = contents(coadds)
    coadds.finish("g-0-1", rows_of([0, 1]))
    write, write_table = os.write, pq.ParquetWriter.write_table

    def fail(path: object) -> None:
        if str(path).replace("/.", "/").rpartition(".parquet.")[0].endswith(what):
            raise OSError(28, "No space left on device")

    def full(descriptor: int, content: Any) -> int:
        written = write(descriptor, content[: len(content) // 2 + 1])
        fail(Path(f"/proc/self/fd/{descriptor}").readlink())
        return written

    def full_table(writer: Any, *arguments: Any, **options: Any) -> None:
        write_table(writer, *arguments, **options)
        fail(writer.where)

    if small:
        monkeypatch.setattr(os, "write", full)
    else:
        monkeypatch.setattr(tables, "_SMALL_ROWS", -1)
        monkeypatch.setattr(pq.ParquetWriter, "write_table", full_table)
    with pytest.raises(OutputError, match="No space left") as caught:
        run(coadds)
    path = Path(str(caught.value.path))
    assert str(path) == f"{coadds.root.parent}/{what if what.startswith('out') else 'out/' + what}.parquet"
    name = path.relative_to(coadds.root).as_posix()
    assert contents(coadds)[name] == before[name]
    assert not list(coadds.root.rglob("*.tmp"))
    monkeypatch.undo()
    run(coadds)
    assert {row["injection_id"] for row in truth(coadds) if row["image_id"] == "g-0-1"} == {0, 1}


def test_large_tables_are_written_in_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs, _ = survey(tmp_path / "a")
    run(outputs)
    expected = truth(outputs), sources(outputs)
    for module in (tables, truth_tables):
        monkeypatch.setattr(module, "ROWS", 100)
    small, _ = survey(tmp_path / "b")
    run(small)
    biggest = max((small.root / "truth").rglob("*.parquet"), key=lambda path: path.stat().st_size)
    assert pq.ParquetFile(biggest).num_row_groups > 2
    assert pq.ParquetFile(small.root / "sources.parquet").num_row_groups > 1

    assert repr(truth(small)) == repr(expected[0])  # as text, in which NaN is equal to itself
    assert _close(sources(small), expected[1])


def _close(one: dict[int, dict[str, Any]], two: dict[int, dict[str, Any]]) -> bool:
    """Sums over row groups of another size may differ in their last bit."""
    return all(
        row[name] == pytest.approx(value, rel=1e-13, nan_ok=True) if isinstance(value, float) else row[name] == value
        for key, row in two.items()
        for name, value in one[key].items()
    )


def test_unreadable_records_folder(coadds: Outputs) -> None:
    if os.geteuid() == 0:
        pytest.skip("root reads everything")
    path = coadds.record_path("r-1-0")
    path.chmod(0)
    with pytest.raises(CampaignError, match="cannot be read"):
        run(coadds)
